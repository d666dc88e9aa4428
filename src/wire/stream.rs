//! Stream headers, features, stream errors and the close tag, in the byte forms of a stock router.

use super::edit::escape;
use super::tag::{self, Tag};
use super::validate::Prefixes;
use super::{NS_ACCEPT, NS_SASL, NS_STREAM, NS_STREAM_ERROR, NS_TLS};
use rand_core::RngCore;

/// Length of the stream ids this side hands out, characters.
pub const STREAM_ID_CHARS: usize = 40;

/// Appends the close tag.
pub fn close(out: &mut Vec<u8>) {
    out.extend_from_slice(b"</stream:stream>");
}

/// Appends a stream error (RFC 6120 4.9) and the close tag.
pub fn error(out: &mut Vec<u8>, condition: &str, text: Option<&str>) {
    put(
        out,
        &[
            "<stream:error xmlns:stream='",
            NS_STREAM,
            "'><",
            condition,
            " xmlns='",
            NS_STREAM_ERROR,
            "'/>",
        ],
    );
    if let Some(text) = text {
        put(out, &["<text xmlns='", NS_STREAM_ERROR, "'>"]);
        escape(text, out);
        put(out, &["</text>"]);
    }
    put(out, &["</stream:error>"]);
    close(out);
}

/// The same where no header was sent in this direction yet: an error needs a stream to stand in.
pub fn error_unopened(out: &mut Vec<u8>, condition: &str, text: Option<&str>) {
    put(out, &["<stream:stream xmlns:stream='", NS_STREAM, "' version='1.0'>"]);
    error(out, condition, text);
}

/// What a header is written with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Open<'a> {
    /// The default namespace to declare.
    pub default_namespace: Option<&'a str>,
    /// `to`.
    pub to: Option<&'a str>,
    /// `from`.
    pub from: Option<&'a str>,
    /// `version='1.0'`.
    pub version: bool,
    /// `id`.
    pub id: Option<&'a str>,
}

/// Appends the XML declaration and a stream header.
pub fn open(out: &mut Vec<u8>, open: &Open<'_>) {
    put(
        out,
        &["<?xml version='1.0'?><stream:stream xmlns:stream='", NS_STREAM, "'"],
    );
    let version = open.version.then_some("1.0");
    for (name, value) in [
        ("xmlns", open.default_namespace),
        ("to", open.to),
        ("from", open.from),
        ("version", version),
        ("id", open.id),
    ] {
        if let Some(value) = value {
            attribute(out, name, value);
        }
    }
    put(out, &[">"]);
}

/// Appends the features before authentication (RFC 6120 4.3.2).
pub fn features(out: &mut Vec<u8>, starttls: bool) {
    put(out, &["<stream:features xmlns:stream='", NS_STREAM, "'>"]);
    if starttls {
        put(out, &["<starttls xmlns='", NS_TLS, "'/>"]);
    }
    put(
        out,
        &[
            "<mechanisms xmlns='",
            NS_SASL,
            "'><mechanism>DIGEST-MD5</mechanism></mechanisms></stream:features>",
        ],
    );
}

/// Appends the features after authentication: none.
pub fn features_none(out: &mut Vec<u8>) {
    put(
        out,
        &["<stream:features xmlns:stream='", NS_STREAM, "'></stream:features>"],
    );
}

/// A fresh stream id: [`STREAM_ID_CHARS`] lower-case letters and digits.
pub fn new_id(rng: &mut dyn RngCore) -> String {
    const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    (0..STREAM_ID_CHARS)
        .map(|_| char::from(ALPHABET[(rng.next_u32() % 36) as usize]))
        .collect()
}

/// A peer's stream header.
#[derive(Debug)]
pub struct Header {
    /// Its namespace declarations.
    pub prefixes: Prefixes,
    /// Its default namespace.
    pub default_namespace: Option<String>,
    /// `to`.
    pub to: Option<String>,
    /// `from`.
    pub from: Option<String>,
    /// `version`.
    pub version: Option<String>,
    /// `id`.
    pub id: Option<String>,
}

/// What is wrong with a stream header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderFault {
    /// Not well-formed; how.
    NotWellFormed(&'static str),
    /// Not `<stream/>` in [`NS_STREAM`].
    NotAStream,
}

impl HeaderFault {
    /// Condition and text of the stream error that answers it.
    pub fn condition(self) -> (&'static str, Option<&'static str>) {
        match self {
            HeaderFault::NotWellFormed(text) => ("xml-not-well-formed", Some(text)),
            HeaderFault::NotAStream => ("bad-format", None),
        }
    }
}

impl Header {
    /// Reads an open tag (with what stood before it) as the scanner delimited it.
    pub fn read(open: &[u8]) -> Result<Header, HeaderFault> {
        let malformed = HeaderFault::NotWellFormed("syntax error");
        let tag = open_tag(open).ok_or(malformed)?;
        let prefixes = Prefixes::of_open_tag(open).map_err(|invalid| HeaderFault::NotWellFormed(invalid.0))?;
        let namespace = tag
            .declared(tag.prefix())
            .map(|value| value.unescape().ok_or(malformed))
            .transpose()?;
        if tag.local() != b"stream" || namespace.as_deref() != Some(NS_STREAM) {
            return Err(HeaderFault::NotAStream);
        }
        let text = |name| match tag.attribute(name) {
            None => Ok(None),
            Some(value) => value.unescape().map(|text| Some(text.into_owned())).ok_or(malformed),
        };
        Ok(Header {
            default_namespace: text("xmlns")?,
            to: text("to")?,
            from: text("from")?,
            version: text("version")?,
            id: text("id")?,
            prefixes,
        })
    }

    /// An XEP-0114 component speaks.
    pub fn is_foreign(&self) -> bool {
        self.default_namespace.as_deref() == Some(NS_ACCEPT)
    }

    /// The namespace of a frame's element, by its own declarations or this header's.
    pub(super) fn namespace_of(&self, tag: &Tag<'_>) -> Option<String> {
        if let Some(own) = tag.declared(tag.prefix()) {
            return own.unescape().map(|uri| uri.into_owned());
        }
        match tag.prefix() {
            None => self.default_namespace.clone(),
            Some(prefix) => self.prefixes.uri(std::str::from_utf8(prefix).ok()?).map(str::to_owned),
        }
    }
}

/// The tag behind declaration, space, comments and processing instructions.
fn open_tag(open: &[u8]) -> Option<Tag<'_>> {
    let mut pos = if open.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
    loop {
        pos += memchr::memchr(b'<', open.get(pos..)?)?;
        let end: &[u8] = match open.get(pos + 1)? {
            b'?' => b"?>",
            b'!' if open[pos..].starts_with(b"<!--") => b"-->",
            _ => return tag::read(open, pos),
        };
        pos += memchr::memmem::find(&open[pos..], end)? + end.len();
    }
}

/// Appends ` name='value'`, escaped.
pub(super) fn attribute(out: &mut Vec<u8>, name: &str, value: &str) {
    put(out, &[" ", name, "='"]);
    escape(value, out);
    out.push(b'\'');
}

/// Appends text that needs no escaping.
pub(super) fn put(out: &mut Vec<u8>, parts: &[&str]) {
    out.reserve(parts.iter().map(|part| part.len()).sum());
    for part in parts {
        out.extend_from_slice(part.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn writes_the_byte_forms_of_a_stock_router() {
        assert_eq!(
            text(|out| error_unopened(out, "unsupported-version", None)),
            "<stream:stream xmlns:stream='http://etherx.jabber.org/streams' version='1.0'><stream:error xmlns:stream='http://etherx.jabber.org/streams'><unsupported-version xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>"
        );
        assert_eq!(
            text(|out| error(out, "xml-not-well-formed", Some("mismatched tag"))),
            "<stream:error xmlns:stream='http://etherx.jabber.org/streams'><xml-not-well-formed xmlns='urn:ietf:params:xml:ns:xmpp-streams'/><text xmlns='urn:ietf:params:xml:ns:xmpp-streams'>mismatched tag</text></stream:error></stream:stream>"
        );
        let reply = Open {
            default_namespace: Some(NS_ACCEPT),
            to: None,
            from: Some("conf.test"),
            version: false,
            id: Some("abc"),
        };
        assert_eq!(
            text(|out| open(out, &reply)),
            "<?xml version='1.0'?><stream:stream xmlns:stream='http://etherx.jabber.org/streams' xmlns='jabber:component:accept' from='conf.test' id='abc'>"
        );
        assert_eq!(
            text(|out| features(out, true)),
            "<stream:features xmlns:stream='http://etherx.jabber.org/streams'><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>DIGEST-MD5</mechanism></mechanisms></stream:features>"
        );
    }

    #[test]
    fn reads_headers_with_any_prefix() {
        for open in [
            "<?xml version='1.0'?><stream:stream xmlns:stream='http://etherx.jabber.org/streams' version='1.0' to='a&amp;b'>",
            "\n<!-- <x> --><s:stream to=\"a&amp;b\" version='1.0'\n xmlns:s='http://etherx.jabber.org/streams' >",
            "<stream xmlns='http://etherx.jabber.org/streams' version='1.0' to='a&#38;b'>",
        ] {
            let header = Header::read(open.as_bytes()).unwrap();
            assert_eq!(header.to.as_deref(), Some("a&b"), "{open}");
            assert_eq!(header.version.as_deref(), Some("1.0"), "{open}");
        }
    }

    #[test]
    fn refuses_other_roots() {
        for open in [
            "<foo>",
            "<stream:stream xmlns:stream='u:x'>",
            "<s:streams xmlns:s='http://etherx.jabber.org/streams'>",
            "<stream>",
        ] {
            assert_eq!(
                Header::read(open.as_bytes()).unwrap_err(),
                HeaderFault::NotAStream,
                "{open}"
            );
        }
    }
}
