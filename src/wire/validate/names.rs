//! Which names expat accepts: XML 1.0 (fourth edition) with namespaces.

use super::Invalid;
use super::letters::{NAME_REST, NAME_START};

/// Bit 0: may stand in a name; bit 1: may begin one. ASCII without the colon.
const ASCII: [u8; 128] = {
    let mut table = [0; 128];
    let mut b = 0;
    while b < 128 {
        table[b] = match b as u8 {
            b'A'..=b'Z' | b'a'..=b'z' | b'_' => 3,
            b'0'..=b'9' | b'-' | b'.' => 1,
            _ => 0,
        };
        b += 1;
    }
    table
};

const BAD_NAME: Invalid = Invalid("illegal name");

/// Prefix (empty: none) and local name of a qualified name (Namespaces in XML 1.0, 4).
#[inline]
pub(super) fn qualified(name: &[u8]) -> Result<(&[u8], &[u8]), Invalid> {
    let mut colon = None;
    let mut begins = true;
    for (i, &b) in name.iter().enumerate() {
        if b >= 0x80 {
            return with_letters(name);
        }
        let class = ASCII[usize::from(b)];
        if class > 2 * u8::from(begins) {
            begins = false;
        } else if b == b':' && colon.is_none() && !begins {
            (colon, begins) = (Some(i), true);
        } else {
            return Err(BAD_NAME);
        }
    }
    if begins {
        return Err(BAD_NAME);
    }
    Ok(match colon {
        Some(i) => (&name[..i], &name[i + 1..]),
        None => (&[], name),
    })
}

/// The same for names beyond ASCII.
#[cold]
fn with_letters(name: &[u8]) -> Result<(&[u8], &[u8]), Invalid> {
    let text = std::str::from_utf8(name).map_err(|_| BAD_NAME)?;
    let (prefix, local) = text
        .split_once(':')
        .map_or((None, text), |(prefix, local)| (Some(prefix), local));
    if prefix.is_some_and(|prefix| !is_simple(prefix)) || !is_simple(local) {
        return Err(BAD_NAME);
    }
    Ok((prefix.unwrap_or("").as_bytes(), local.as_bytes()))
}

/// Is this a name without a colon?
fn is_simple(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(begins_name) && chars.all(|c| begins_name(c) || continues_name(c))
}

fn begins_name(c: char) -> bool {
    if c.is_ascii() {
        ASCII[c as usize] == 3
    } else {
        within(NAME_START, c)
    }
}

fn continues_name(c: char) -> bool {
    if c.is_ascii() {
        ASCII[c as usize] != 0
    } else {
        within(NAME_REST, c)
    }
}

fn within(ranges: &[(u16, u16)], c: char) -> bool {
    let Ok(number) = u16::try_from(u32::from(c)) else {
        return false;
    };
    let behind = ranges.partition_point(|&(first, _)| first <= number);
    behind > 0 && number <= ranges[behind - 1].1
}
