//! An attribute's value as it stands on the wire: raw, still escaped.

use std::borrow::Cow;

/// A raw attribute value, without its quotes; entities are not resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value<'a>(pub &'a [u8]);

impl<'a> Value<'a> {
    /// The bytes between the quotes.
    pub fn raw(&self) -> &'a [u8] {
        self.0
    }

    /// The value as text if it stands on the wire as it is meant: UTF-8 without references, tabs and line ends. That
    /// is what nearly all values are; for the others see [`Value::unescape`].
    pub fn as_str(&self) -> Option<&'a str> {
        if self.0.iter().copied().any(needs_work) {
            return None;
        }
        std::str::from_utf8(self.0).ok()
    }

    /// The value as XML 1.0 (3.3.3) defines it: references resolved, tabs and line ends turned into spaces. `None`:
    /// an unknown entity, a reference to no character, or bytes that are not UTF-8.
    pub fn unescape(&self) -> Option<Cow<'a, str>> {
        if let Some(plain) = self.as_str() {
            return Some(Cow::Borrowed(plain));
        }
        let mut rest = std::str::from_utf8(self.0).ok()?;
        let mut text = String::with_capacity(rest.len());
        while let Some(at) = rest.find(['&', '\t', '\n', '\r']) {
            text.push_str(&rest[..at]);
            let special = &rest[at..];
            rest = if let Some(reference) = special.strip_prefix('&') {
                let (reference, behind) = reference.split_once(';')?;
                text.push(character(reference.as_bytes())?);
                behind
            } else {
                text.push(' ');
                special.strip_prefix("\r\n").unwrap_or(&special[1..])
            };
        }
        text.push_str(rest);
        Some(Cow::Owned(text))
    }

    /// Does the value mean this text, which holds no `&` and no control character?
    #[inline]
    pub fn is(&self, text: &str) -> bool {
        debug_assert!(!text.bytes().any(needs_work));
        // No way of writing a text is shorter than the text.
        self.0 == text.as_bytes()
            || (self.0.len() > text.len()
                && self.0.iter().copied().any(needs_work)
                && self.unescape().is_some_and(|value| value == text))
    }
}

/// Does a byte make a value differ from what it means?
fn needs_work(b: u8) -> bool {
    b == b'&' || b < 0x20
}

/// What the reference `&name;` stands for: one of XML's five entities, or a character by number (XML 1.0 4.1, 4.6).
pub(super) fn character(name: &[u8]) -> Option<char> {
    match name {
        b"amp" => Some('&'),
        b"lt" => Some('<'),
        b"gt" => Some('>'),
        b"apos" => Some('\''),
        b"quot" => Some('"'),
        [b'#', b'x', digits @ ..] => numbered(digits, 16),
        [b'#', digits @ ..] => numbered(digits, 10),
        _ => None,
    }
}

fn numbered(digits: &[u8], radix: u32) -> Option<char> {
    if digits.is_empty() {
        return None;
    }
    let mut number = 0u32;
    for &digit in digits {
        number = number
            .checked_mul(radix)?
            .checked_add(char::from(digit).to_digit(radix)?)?;
    }
    let c = char::from_u32(number)?;
    let allowed = number >= 0x20 && !matches!(number, 0xfffe | 0xffff) || matches!(c, '\t' | '\n' | '\r');
    allowed.then_some(c)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn values() {
        let unescape = |text: &'static str| Value(text.as_bytes()).unescape().map(Cow::into_owned);
        assert!(matches!(Value(b"a@b/c").unescape(), Some(Cow::Borrowed("a@b/c"))));
        let all = "&amp;&lt;&gt;&apos;&quot;&#65;&#x1F600;&#x0000041;&#10;";
        assert_eq!(unescape(all).unwrap(), "&<>'\"A\u{1F600}A\n");
        assert_eq!(unescape("a\tb\r\nc\nd\r\u{e9}").unwrap(), "a b c d \u{e9}");
        for bad in [
            "&",
            "&;",
            "&x;",
            "&amp",
            "&#;",
            "&#x;",
            "&#0;",
            "&#xD800;",
            "&#x110000;",
            "&#65536000000000;",
            "&#xFFFE;",
            "&#8;",
            "&#+65;",
            "&#X41;",
            "& amp;",
        ] {
            assert_eq!(unescape(bad), None, "{bad}");
        }
        assert_eq!(Value(b"\xff").unescape(), None);
        assert_eq!(Value(b"\xff&amp;").unescape(), None);
        assert_eq!(Value(b"a&amp;").as_str(), None);
        assert!(Value(b"a&#98;").is("ab") && Value(b"a").is("a") && !Value(b"a&#98;").is("a"));
    }
}
