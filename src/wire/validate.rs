//! Full validation of one frame, for the links of foreign components.
//!
//! What passes here, passes expat with namespaces, the parser of jabberd2's components: one frame that it refuses
//! costs a component its router link with everybody on it. The scanner has seen to structure, characters and borders
//! before; this sees to names, namespaces, attributes, entities and matching tags.

mod letters;
mod names;
mod tag;
#[cfg(test)]
mod tests;

use super::value::{Value, character};
use names::qualified;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use tag::{Markup, markup};

/// Most namespace declarations in force at one place of a frame; each prefix is looked for among them.
pub const BINDINGS_MAX: usize = 256;

const NS_XML: &str = "http://www.w3.org/XML/1998/namespace";
const NS_XMLNS: &str = "http://www.w3.org/2000/xmlns/";

/// What a parser would refuse in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invalid(
    /// What is wrong, in words for the peer's log.
    pub &'static str,
);

const MISMATCH: Invalid = Invalid("mismatched tag");
const BROKEN: Invalid = Invalid("not well-formed");
const UNBOUND: Invalid = Invalid("unbound prefix");

/// The namespace bindings of a stream's open tag.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prefixes {
    default: Option<String>,
    bindings: Vec<(String, String)>,
}

impl Prefixes {
    /// The bindings of an open tag (with or without the declaration before it), as the scanner delimited it.
    ///
    /// # Errors
    /// The tag is not what XML with namespaces allows.
    pub fn of_open_tag(open: &[u8]) -> Result<Prefixes, Invalid> {
        let mut at = 0;
        loop {
            match markup(open, at)? {
                Some(Markup::Start { name, attributes, .. }) => {
                    let none = Prefixes::default();
                    let mut scope = Scope {
                        inherited: &none,
                        bindings: SmallVec::new(),
                    };
                    scope.start_tag(open, name, attributes, 1)?;
                    return Ok(scope.into_prefixes());
                }
                Some(Markup::Other { end }) => at = end,
                Some(Markup::End { .. }) | None => return Err(BROKEN),
            }
        }
    }

    /// The default namespace; `None`: none, or undeclared.
    pub fn default_namespace(&self) -> Option<&str> {
        self.default.as_deref().filter(|uri| !uri.is_empty())
    }

    /// The URI bound to a prefix.
    pub fn uri(&self, prefix: &str) -> Option<&str> {
        self.bindings
            .iter()
            .find(|(bound, _)| bound == prefix)
            .map(|(_, uri)| uri.as_str())
    }

    /// All bindings (prefix, URI) but the default one, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.bindings
            .iter()
            .map(|(prefix, uri)| (prefix.as_str(), uri.as_str()))
    }
}

/// Refuses what a namespace-aware parser would refuse in this frame, standing in a stream with these bindings. The
/// frame must be one that the scanner delimited.
///
/// # Errors
/// The frame must not be forwarded; the link it came from is answered with `xml-not-well-formed` (RFC 6120 4.9.3.13).
pub fn check(frame: &[u8], inherited: &Prefixes) -> Result<(), Invalid> {
    let mut scope = Scope {
        inherited,
        bindings: SmallVec::new(),
    };
    let mut open: SmallVec<[&[u8]; 16]> = SmallVec::new();
    let mut at = 0;
    while let Some(found) = markup(frame, at)? {
        at = match found {
            Markup::Start { name, attributes, .. } => {
                let depth = open.len() as u32 + 1;
                let (end, empty) = scope.start_tag(frame, name, attributes, depth)?;
                if empty {
                    scope.leave(depth);
                } else {
                    open.push(name);
                }
                end
            }
            Markup::End { name, end } => {
                let depth = open.len() as u32;
                if open.pop() != Some(name) {
                    return Err(MISMATCH);
                }
                scope.leave(depth);
                end
            }
            Markup::Other { end } => end,
        };
        if open.is_empty() {
            return if at == frame.len() { Ok(()) } else { Err(BROKEN) };
        }
    }
    Err(MISMATCH)
}

/// The declarations in force at one place.
struct Scope<'a> {
    inherited: &'a Prefixes,
    bindings: SmallVec<[Binding<'a>; 8]>,
}

struct Binding<'a> {
    /// How deep the element is that declares it.
    depth: u32,
    /// Empty: the default namespace.
    prefix: &'a [u8],
    uri: Value<'a>,
}

/// An attribute as far as uniqueness goes.
struct Named<'a> {
    prefix: &'a [u8],
    local: &'a [u8],
}

type Names<'a> = SmallVec<[Named<'a>; 12]>;

/// Up to so many attributes are compared each with each.
const FEW: usize = 16;

impl<'a> Scope<'a> {
    /// Checks a start tag from its attributes on and enters its declarations: where it ends, and whether it is an
    /// empty element.
    fn start_tag(
        &mut self,
        frame: &'a [u8],
        name: &'a [u8],
        attributes: usize,
        depth: u32,
    ) -> Result<(usize, bool), Invalid> {
        let (prefix, _) = qualified(name)?;
        let mut names: Names<'a> = SmallVec::new();
        let mut prefixed = 0;
        let mut at = attributes;
        let (end, empty) = loop {
            match tag::attribute(frame, at)? {
                tag::Next::End { end, empty } => break (end, empty),
                tag::Next::Attribute { name, value, end } => {
                    at = end;
                    references(value.0)?;
                    let (prefix, local) = qualified(name)?;
                    let declared: Option<&[u8]> = match (prefix, local) {
                        (b"", b"xmlns") => Some(b""),
                        (b"xmlns", local) => Some(local),
                        _ => None,
                    };
                    match declared {
                        Some(prefix) => self.declare(depth, prefix, value)?,
                        None => prefixed += usize::from(!prefix.is_empty()),
                    }
                    names.push(Named { prefix, local });
                }
            }
        };
        if !prefix.is_empty() {
            self.lookup(prefix)?;
        }
        unique(&mut names)?;
        if prefixed > 0 {
            self.unique_by_namespace(&names)?;
        }
        Ok((end, empty))
    }

    /// Enters a declaration (Namespaces in XML 1.0, 3).
    fn declare(&mut self, depth: u32, prefix: &'a [u8], uri: Value<'a>) -> Result<(), Invalid> {
        if self.bindings.len() >= BINDINGS_MAX {
            return Err(Invalid("too many namespace declarations"));
        }
        if prefix == b"xmlns" {
            return Err(Invalid("prefix xmlns must not be declared"));
        }
        // expat puts this between a URI and a name, and so refuses it inside a URI.
        const SEPARATOR: u8 = b'|';
        let (xml, reserved, separator) = match memchr::memchr2(b'&', SEPARATOR, uri.0) {
            None => (uri.0 == NS_XML.as_bytes(), uri.0 == NS_XMLNS.as_bytes(), false),
            Some(_) => {
                let uri = uri.unescape().ok_or(BROKEN)?;
                (uri == NS_XML, uri == NS_XMLNS, uri.as_bytes().contains(&SEPARATOR))
            }
        };
        if (prefix == b"xml") != xml || reserved {
            return Err(Invalid("reserved prefix or namespace"));
        }
        if !prefix.is_empty() && uri.0.is_empty() {
            return Err(Invalid("a prefix must not be undeclared"));
        }
        if separator {
            return Err(Invalid("illegal character in a namespace"));
        }
        self.bindings.push(Binding { depth, prefix, uri });
        Ok(())
    }

    /// The element at `depth` ends.
    #[inline]
    fn leave(&mut self, depth: u32) {
        while self.bindings.last().is_some_and(|binding| binding.depth >= depth) {
            self.bindings.pop();
        }
    }

    /// The URI of a prefix that is in use.
    fn lookup(&self, prefix: &[u8]) -> Result<Value<'a>, Invalid> {
        if let Some(binding) = self.bindings.iter().rev().find(|binding| binding.prefix == prefix) {
            return Ok(binding.uri);
        }
        if prefix == b"xml" {
            return Ok(Value(NS_XML.as_bytes()));
        }
        let mut inherited = self.inherited.bindings.iter();
        inherited
            .find(|(bound, _)| bound.as_bytes() == prefix)
            .map(|(_, uri)| Value(uri.as_bytes()))
            .ok_or(UNBOUND)
    }

    /// Two prefixes may stand for one namespace: then equal local names are one attribute twice.
    fn unique_by_namespace(&self, names: &Names<'a>) -> Result<(), Invalid> {
        let mut expanded: SmallVec<[(&[u8], std::borrow::Cow<'_, str>); 4]> = SmallVec::new();
        for name in names
            .iter()
            .filter(|name| !name.prefix.is_empty() && name.prefix != b"xmlns")
        {
            let uri = self.resolved(name.prefix)?;
            expanded.push((name.local, uri));
        }
        if expanded.len() > 1 {
            expanded.sort_unstable();
            if expanded.windows(2).any(|pair| pair[0] == pair[1]) {
                return Err(Invalid("duplicate attribute"));
            }
        }
        Ok(())
    }

    /// The URI of a prefix as text. What the stream header declared stands there resolved already.
    fn resolved(&self, prefix: &[u8]) -> Result<std::borrow::Cow<'a, str>, Invalid> {
        let own = self.bindings.iter().rev().find(|binding| binding.prefix == prefix);
        match own {
            Some(binding) => binding.uri.unescape().ok_or(BROKEN),
            None => {
                let uri = self.lookup(prefix)?;
                std::str::from_utf8(uri.0)
                    .map(std::borrow::Cow::Borrowed)
                    .map_err(|_| BROKEN)
            }
        }
    }

    fn into_prefixes(self) -> Prefixes {
        let mut prefixes = Prefixes::default();
        for binding in self.bindings {
            let uri = binding.uri.unescape().unwrap_or_default().into_owned();
            if binding.prefix.is_empty() {
                prefixes.default = Some(uri);
            } else {
                prefixes
                    .bindings
                    .push((String::from_utf8_lossy(binding.prefix).into_owned(), uri));
            }
        }
        prefixes
    }
}

/// No attribute may stand twice.
fn unique(names: &mut Names<'_>) -> Result<(), Invalid> {
    let equal = |a: &Named<'_>, b: &Named<'_>| a.local == b.local && a.prefix == b.prefix;
    let twice = if names.len() <= FEW {
        (1..names.len()).any(|i| names[..i].iter().any(|other| equal(other, &names[i])))
    } else {
        names.sort_unstable_by_key(|name| (name.local, name.prefix));
        names.windows(2).any(|pair| equal(&pair[0], &pair[1]))
    };
    if twice {
        Err(Invalid("duplicate attribute"))
    } else {
        Ok(())
    }
}

/// Checks the references in text or a value: `&` must begin one that is known.
#[inline]
fn references(text: &[u8]) -> Result<(), Invalid> {
    match memchr::memchr(b'&', text) {
        None => Ok(()),
        Some(at) => references_from(&text[at..]),
    }
}

fn references_from(mut text: &[u8]) -> Result<(), Invalid> {
    loop {
        // No reference to a character that exists is longer, but for zeros in front.
        let end = memchr::memchr(b';', text).ok_or(Invalid("unfinished reference"))?;
        character(&text[1..end]).ok_or(Invalid("unknown entity"))?;
        text = &text[end + 1..];
        match memchr::memchr(b'&', text) {
            None => return Ok(()),
            Some(at) => text = &text[at..],
        }
    }
}
