//! Start tags read in full, for the slow paths: stream headers, frames before authentication, foreign components.
//!
//! Strict where the scanner is lenient (a tag with too many or doubled attributes is refused); the hot path never
//! comes here.

use super::value::Value;
use memchr::{memchr, memmem};
use std::ops::Range;

/// Most attributes of one tag.
pub(super) const ATTRIBUTES_MAX: usize = 64;

/// A start tag.
#[derive(Debug)]
pub(super) struct Tag<'a> {
    /// Name as written, with its prefix.
    pub(super) name: &'a [u8],
    /// Offset just behind the name.
    pub(super) name_end: usize,
    /// Attributes and declarations, in order.
    pub(super) attributes: Vec<Attribute<'a>>,
    /// Offset just behind the `>`.
    pub(super) end: usize,
    /// The tag closes itself.
    pub(super) empty: bool,
}

/// An attribute or a namespace declaration.
#[derive(Debug)]
pub(super) struct Attribute<'a> {
    /// Name as written, with its prefix.
    pub(super) name: &'a [u8],
    /// The bytes between the quotes.
    pub(super) value: Value<'a>,
    /// From the name to behind the closing quote.
    pub(super) span: Range<usize>,
}

/// Reads the start tag whose `<` stands at `at`.
pub(super) fn read(bytes: &[u8], at: usize) -> Option<Tag<'_>> {
    if bytes.get(at) != Some(&b'<') {
        return None;
    }
    let name_end = name_end(bytes, at + 1)?;
    let mut attributes: Vec<Attribute<'_>> = Vec::new();
    let mut pos = name_end;
    loop {
        let spaced = skip_space(bytes, pos);
        match *bytes.get(spaced)? {
            b'>' => {
                return Some(Tag {
                    name: &bytes[at + 1..name_end],
                    name_end,
                    attributes,
                    end: spaced + 1,
                    empty: false,
                });
            }
            b'/' if bytes.get(spaced + 1) == Some(&b'>') => {
                return Some(Tag {
                    name: &bytes[at + 1..name_end],
                    name_end,
                    attributes,
                    end: spaced + 2,
                    empty: true,
                });
            }
            _ if spaced == pos || attributes.len() == ATTRIBUTES_MAX => return None,
            _ => {}
        }
        let attribute = read_attribute(bytes, spaced)?;
        if attributes.iter().any(|other| other.name == attribute.name) {
            return None;
        }
        pos = attribute.span.end;
        attributes.push(attribute);
    }
}

fn read_attribute(bytes: &[u8], start: usize) -> Option<Attribute<'_>> {
    let end = name_end(bytes, start)?;
    let equals = skip_space(bytes, end);
    if bytes.get(equals) != Some(&b'=') {
        return None;
    }
    let open = skip_space(bytes, equals + 1);
    let quote = *bytes.get(open)?;
    if quote != b'\'' && quote != b'"' {
        return None;
    }
    let value = &bytes[open + 1..open + 1 + memchr(quote, &bytes[open + 1..])?];
    if value.contains(&b'<') {
        return None;
    }
    let close = open + 1 + value.len();
    Some(Attribute {
        name: &bytes[start..end],
        value: Value(value),
        span: start..close + 1,
    })
}

/// Behind the name that starts at `start`; a name has at least one byte.
fn name_end(bytes: &[u8], start: usize) -> Option<usize> {
    let rest = bytes.get(start..)?;
    let len = rest
        .iter()
        .position(|b| is_space(*b) || matches!(b, b'>' | b'/' | b'=' | b'<' | b'\'' | b'"'))?;
    (len > 0 && !matches!(rest[0], b'!' | b'?')).then_some(start + len)
}

fn skip_space(bytes: &[u8], at: usize) -> usize {
    at + bytes[at..].iter().take_while(|b| is_space(**b)).count()
}

/// The text of an element that has nothing but text; raw, not trimmed. `None` if it holds markup.
pub(super) fn text<'a>(frame: &'a [u8], tag: &Tag<'_>) -> Option<&'a [u8]> {
    if tag.empty {
        return Some(b"");
    }
    let rest = frame.get(tag.end..)?;
    let text = &rest[..memchr(b'<', rest)?];
    rest[text.len()..].starts_with(b"</").then_some(text)
}

/// XML's white space (XML 1.0, 2.3).
pub(super) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// Behind the element whose start tag begins at `at`, in well-formed input.
pub(super) fn element_end(bytes: &[u8], at: usize) -> Option<usize> {
    let mut depth = 0usize;
    let mut pos = at;
    loop {
        let open = pos + memchr(b'<', bytes.get(pos..)?)?;
        let rest = &bytes[open..];
        let behind = |end: &[u8]| memmem::find(rest, end).map(|n| open + n + end.len());
        if rest.starts_with(b"<!--") {
            pos = behind(b"-->")?;
        } else if rest.starts_with(b"<![CDATA[") {
            pos = behind(b"]]>")?;
        } else if rest.starts_with(b"<?") {
            pos = behind(b"?>")?;
        } else if rest.starts_with(b"</") {
            pos = behind(b">")?;
            depth = depth.checked_sub(1)?;
        } else {
            let end = tag_end(bytes, open)?;
            depth += usize::from(bytes[end - 2] != b'/');
            pos = end;
        }
        if depth == 0 {
            return Some(pos);
        }
    }
}

/// Behind the `>` of the start tag at `open`, minding quotes.
fn tag_end(bytes: &[u8], open: usize) -> Option<usize> {
    let mut pos = open + 1;
    loop {
        match *bytes.get(pos)? {
            b'>' => return Some(pos + 1),
            quote @ (b'\'' | b'"') => pos += 2 + memchr(quote, &bytes[pos + 1..])?,
            _ => pos += 1,
        }
    }
}

impl<'a> Tag<'a> {
    /// The name without its prefix.
    pub(super) fn local(&self) -> &'a [u8] {
        memchr(b':', self.name).map_or(self.name, |colon| &self.name[colon + 1..])
    }

    /// The name's prefix.
    pub(super) fn prefix(&self) -> Option<&'a [u8]> {
        memchr(b':', self.name).map(|colon| &self.name[..colon])
    }

    /// The attribute of this name.
    pub(super) fn attribute(&self, name: &str) -> Option<Value<'a>> {
        self.attributes
            .iter()
            .find(|a| a.name == name.as_bytes())
            .map(|a| a.value)
    }

    /// What this tag itself binds a prefix to (`None`: the default namespace).
    pub(super) fn declared(&self, prefix: Option<&[u8]>) -> Option<Value<'a>> {
        self.attributes
            .iter()
            .find(|a| a.declares() == Some(prefix))
            .map(|a| a.value)
    }
}

impl<'a> Attribute<'a> {
    /// The prefix this declares (`Some(None)`: the default namespace); `None`: it is no declaration.
    pub(super) fn declares(&self) -> Option<Option<&'a [u8]>> {
        match self.name.strip_prefix(b"xmlns")? {
            [] => Some(None),
            [b':', prefix @ ..] => Some(Some(prefix)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_names_values_and_offsets() {
        let bytes = b"..<a:b  x = '1>2'\n xmlns:a=\"u:a\"/>rest";
        let tag = read(bytes, 2).unwrap();
        assert_eq!(
            (tag.name, tag.local(), tag.prefix()),
            (&b"a:b"[..], &b"b"[..], Some(&b"a"[..]))
        );
        assert_eq!(tag.attribute("x").unwrap().0, b"1>2");
        assert_eq!(tag.declared(Some(b"a")).unwrap().0, b"u:a");
        assert!(tag.declared(None).is_none() && tag.empty);
        assert_eq!(&bytes[tag.end..], b"rest");
        assert_eq!(&bytes[tag.attributes[0].span.clone()], b"x = '1>2'");
    }

    #[test]
    fn refuses_what_is_no_start_tag() {
        for bad in [
            "",
            "a",
            "<>",
            "</a>",
            "<!-- -->",
            "<?x?>",
            "<a b>",
            "<a b='1'c='2'>",
            "<a b='1' b='2'>",
            "<a b=1>",
            "<a b='<'>",
            "<a",
            "<a b='",
        ] {
            assert!(read(bad.as_bytes(), 0).is_none(), "{bad}");
        }
    }

    #[test]
    fn refuses_more_attributes_than_the_limit() {
        let tag = |n: usize| format!("<a{}>", (0..n).map(|i| format!(" a{i}=''")).collect::<String>());
        assert!(read(tag(ATTRIBUTES_MAX).as_bytes(), 0).is_some());
        assert!(read(tag(ATTRIBUTES_MAX + 1).as_bytes(), 0).is_none());
    }

    #[test]
    fn finds_the_end_of_an_element() {
        for (element, rest) in [
            ("<a/>", "</r>"),
            ("<a></a>", "<b/>"),
            ("<a x='/>'><a/><!-- </a> --><![CDATA[</a>]]><?p </a>?></a>", " </r>"),
            ("<a><b c=\"'>\"></b >\n</a >", ""),
        ] {
            let bytes = format!("{element}{rest}");
            assert_eq!(element_end(bytes.as_bytes(), 0), Some(element.len()), "{bytes}");
        }
        assert_eq!(element_end(b"<a><b></a>", 0), None);
        assert_eq!(element_end(b"</a>", 0), None);
    }
}
