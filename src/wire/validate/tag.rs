//! Markup one piece after the other, in a frame whose structure the scanner has checked. What does not fit is an
//! error all the same, never a panic.

use super::names::qualified;
use super::{BROKEN, Invalid, references};
use crate::wire::value::Value;

/// One piece of markup.
pub(super) enum Markup<'a> {
    /// A start tag up to its name.
    Start {
        /// The qualified name.
        name: &'a [u8],
        /// Where its attributes begin.
        attributes: usize,
    },
    /// An end tag.
    End { name: &'a [u8], end: usize },
    /// A comment, a CDATA section, an instruction.
    Other { end: usize },
}

/// What stands at one place of a start tag.
pub(super) enum Next<'a> {
    Attribute {
        name: &'a [u8],
        value: Value<'a>,
        end: usize,
    },
    End {
        end: usize,
        empty: bool,
    },
}

/// The next markup from `at` on. The text before it is checked.
#[inline]
pub(super) fn markup(frame: &[u8], at: usize) -> Result<Option<Markup<'_>>, Invalid> {
    let text = frame.get(at..).ok_or(BROKEN)?;
    let start = if text.first() == Some(&b'<') {
        at
    } else {
        let Some(length) = memchr::memchr(b'<', text) else {
            return references(text).map(|()| None);
        };
        references(&text[..length])?;
        at + length
    };
    match frame.get(start + 1).ok_or(BROKEN)? {
        b'/' => {
            let end = start + 1 + memchr::memchr(b'>', &frame[start + 1..]).ok_or(BROKEN)?;
            let name = frame[start + 2..end].trim_ascii_end();
            Ok(Some(Markup::End { name, end: end + 1 }))
        }
        b'!' | b'?' => other(frame, start).map(Some),
        _ => {
            let length = frame[start + 1..].iter().position(|&b| ends_name(b)).ok_or(BROKEN)?;
            let attributes = start + 1 + length;
            Ok(Some(Markup::Start {
                name: &frame[start + 1..attributes],
                attributes,
            }))
        }
    }
}

#[cold]
fn other(frame: &[u8], start: usize) -> Result<Markup<'_>, Invalid> {
    let rest = &frame[start..];
    let (skip, until): (usize, &[u8]) = match rest {
        [b'<', b'!', b'-', b'-', ..] => (4, b"-->"),
        _ if rest.starts_with(b"<![CDATA[") => (9, b"]]>"),
        [b'<', b'?', ..] => (2, b"?>"),
        _ => return Err(BROKEN),
    };
    let length = memchr::memmem::find(&rest[skip..], until).ok_or(BROKEN)?;
    if skip == 2 {
        let content = &rest[2..2 + length];
        let target = content.split(|&b| is_space(b)).next().unwrap_or(content);
        let (prefix, local) = qualified(target)?;
        if !prefix.is_empty() {
            return Err(Invalid("illegal name"));
        }
        if local.eq_ignore_ascii_case(b"xml") && start > 0 {
            return Err(BROKEN);
        }
    }
    Ok(Markup::Other {
        end: start + skip + length + until.len(),
    })
}

/// What stands at `at` in a start tag, behind space.
#[inline]
pub(super) fn attribute(frame: &[u8], at: usize) -> Result<Next<'_>, Invalid> {
    let start = space(frame, at);
    match frame.get(start).ok_or(BROKEN)? {
        b'>' => {
            return Ok(Next::End {
                end: start + 1,
                empty: false,
            });
        }
        b'/' if frame.get(start + 1) == Some(&b'>') => {
            return Ok(Next::End {
                end: start + 2,
                empty: true,
            });
        }
        _ if start == at => return Err(BROKEN),
        _ => {}
    }
    let length = frame[start..].iter().position(|&b| ends_name(b)).ok_or(BROKEN)?;
    let name = &frame[start..start + length];
    let eq = space(frame, start + length);
    if frame.get(eq) != Some(&b'=') {
        return Err(BROKEN);
    }
    let open = space(frame, eq + 1);
    let quote = *frame.get(open).ok_or(BROKEN)?;
    if !matches!(quote, b'\'' | b'"') {
        return Err(BROKEN);
    }
    let length = frame[open + 1..].iter().position(|&b| b == quote).ok_or(BROKEN)?;
    Ok(Next::Attribute {
        name,
        value: Value(&frame[open + 1..open + 1 + length]),
        end: open + 2 + length,
    })
}

/// The first place behind space.
#[inline]
fn space(frame: &[u8], at: usize) -> usize {
    at + frame[at.min(frame.len())..]
        .iter()
        .take_while(|&&b| is_space(b))
        .count()
}

#[inline]
fn is_space(b: u8) -> bool {
    matches!(b, b' ' | b'\t' | b'\n' | b'\r')
}

#[inline]
fn ends_name(b: u8) -> bool {
    b <= b' ' || matches!(b, b'=' | b'/' | b'>')
}
