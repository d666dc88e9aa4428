//! One start tag and the attributes that routing knows. The scanner has checked the structure; whatever surprises here
//! all the same is an error, never a panic.

use super::HeaderError;
use crate::wire::NS_SESSION;
use crate::wire::value::Value;

/// Most attributes of a tag that is read here.
pub const ATTRIBUTES_MAX: usize = 128;

/// A start tag.
#[derive(Clone, Debug, Default)]
pub(super) struct Tag<'a> {
    /// Offset of its `<`.
    pub(super) start: usize,
    /// First byte behind the element's name.
    pub(super) insert_at: usize,
    /// First byte behind the tag.
    pub(super) end: usize,
    /// `<a/>`.
    pub(super) empty: bool,
    /// The qualified name.
    pub(super) name: &'a [u8],
    pub(super) attrs: Attributes<'a>,
}

/// The attributes that routing knows.
#[derive(Clone, Debug, Default)]
pub(super) struct Attributes<'a> {
    pub(super) to: Option<Value<'a>>,
    pub(super) from: Option<Value<'a>>,
    pub(super) kind: Option<Value<'a>>,
    pub(super) error: Option<Value<'a>>,
    pub(super) name: Option<Value<'a>>,
    pub(super) multi: Option<Value<'a>>,
    pub(super) id: Option<Value<'a>>,
    pub(super) action: Option<Value<'a>>,
    pub(super) target: Option<Value<'a>>,
    /// In the session namespace.
    pub(super) sm: Option<Value<'a>>,
    /// In the session namespace.
    pub(super) c2s: Option<Value<'a>>,
    /// Without a prefix.
    pub(super) failed: bool,
    /// In the session namespace.
    pub(super) failed_prefixed: bool,
    /// `sm`, `c2s` or `failed` has a prefix that the tag does not declare.
    pub(super) foreign_prefix: bool,
    /// The namespace declared for the element's own prefix, or as default if it has none.
    namespace: Option<Value<'a>>,
    /// The prefix last declared for the session namespace.
    session: Option<&'a [u8]>,
    /// One bit for each name seen, by a hash: a bit seen twice makes the names be compared.
    seen: u64,
    count: usize,
}

impl<'a> Tag<'a> {
    /// The start tag at `start`.
    pub(super) fn read(frame: &'a [u8], start: usize) -> Result<Tag<'a>, HeaderError> {
        let mut tag = Tag::default();
        tag.fill(frame, start)?;
        Ok(tag)
    }

    /// Reads the start tag at `start` into an empty tag: moving a whole tag costs as much as reading it.
    #[inline]
    pub(super) fn fill(&mut self, frame: &'a [u8], start: usize) -> Result<(), HeaderError> {
        let behind = frame.get(start + 1..).ok_or(HeaderError::NotAnElement)?;
        if frame[start] != b'<' {
            return Err(HeaderError::NotAnElement);
        }
        let length = behind
            .iter()
            .position(|&b| ends_name(b))
            .ok_or(HeaderError::NotAnElement)?;
        if length == 0 {
            return Err(HeaderError::NotAnElement);
        }
        let insert_at = start + 1 + length;
        let name = &behind[..length];
        (self.start, self.insert_at, self.name) = (start, insert_at, name);
        self.attributes(frame, insert_at)
    }

    /// Prefix (empty if there is none) and local name.
    #[inline]
    pub(super) fn split_name(&self) -> (&'a [u8], &'a [u8]) {
        split(self.name)
    }

    /// The element's namespace, if the tag itself declares it.
    pub(super) fn namespace(&self) -> Option<Value<'a>> {
        self.attrs.namespace
    }

    /// Reads the attributes from `at` up to the tag's end.
    #[inline]
    fn attributes(&mut self, frame: &'a [u8], mut at: usize) -> Result<(), HeaderError> {
        let own_prefix = self.split_name().0;
        loop {
            match next_attribute(frame, at)? {
                Next::Attribute { name, value, end } => {
                    self.take(frame, at, own_prefix, name, value)?;
                    at = end;
                }
                Next::End { end, empty } => {
                    (self.end, self.empty) = (end, empty);
                    return Ok(());
                }
            }
        }
    }

    #[inline]
    fn take(
        &mut self,
        frame: &'a [u8],
        at: usize,
        own_prefix: &[u8],
        name: &'a [u8],
        value: Value<'a>,
    ) -> Result<(), HeaderError> {
        let bit = name_bit(name);
        let attrs = &mut self.attrs;
        if attrs.seen & bit != 0 && stands_before(frame, self.insert_at, at, name) {
            return Err(HeaderError::DuplicateAttribute);
        }
        attrs.seen |= bit;
        attrs.count += 1;
        if attrs.count > ATTRIBUTES_MAX {
            return Err(HeaderError::TooManyAttributes);
        }
        match name {
            b"to" => attrs.to = Some(value),
            b"from" => attrs.from = Some(value),
            b"type" => attrs.kind = Some(value),
            b"id" => attrs.id = Some(value),
            b"action" => attrs.action = Some(value),
            b"target" => attrs.target = Some(value),
            b"error" => attrs.error = Some(value),
            b"name" => attrs.name = Some(value),
            b"multi" => attrs.multi = Some(value),
            b"failed" => attrs.failed = true,
            b"xmlns" if own_prefix.is_empty() => attrs.namespace = Some(value),
            _ => return self.take_prefixed(frame, own_prefix, name, value),
        }
        Ok(())
    }

    fn take_prefixed(
        &mut self,
        frame: &'a [u8],
        own_prefix: &[u8],
        name: &'a [u8],
        value: Value<'a>,
    ) -> Result<(), HeaderError> {
        let (prefix, local) = split(name);
        let attrs = &mut self.attrs;
        if prefix == b"xmlns" {
            if local == own_prefix {
                attrs.namespace = Some(value);
            }
            if value.is(NS_SESSION) {
                attrs.session = Some(local);
            }
            return Ok(());
        }
        if prefix.is_empty() || !matches!(local, b"sm" | b"c2s" | b"failed") {
            return Ok(());
        }
        if attrs.session != Some(prefix) {
            match declared(frame, self, prefix) {
                Some(ns) if ns.is(NS_SESSION) => {}
                found => {
                    self.attrs.foreign_prefix |= found.is_none();
                    return Ok(());
                }
            }
        }
        let attrs = &mut self.attrs;
        let slot = match local {
            b"sm" => &mut attrs.sm,
            b"c2s" => &mut attrs.c2s,
            _ if attrs.failed_prefixed => return Err(HeaderError::DuplicateAttribute),
            _ => {
                attrs.failed_prefixed = true;
                return Ok(());
            }
        };
        // Two prefixes for one namespace.
        if slot.replace(value).is_some() {
            Err(HeaderError::DuplicateAttribute)
        } else {
            Ok(())
        }
    }
}

/// The namespace that the tag declares for a prefix (empty: the default namespace).
#[cold]
pub(super) fn declared<'a>(frame: &'a [u8], tag: &Tag<'a>, prefix: &[u8]) -> Option<Value<'a>> {
    let mut found = None;
    each_attribute(frame, tag, |of, local, value| {
        let declares = if prefix.is_empty() {
            of.is_empty() && local == b"xmlns"
        } else {
            of == b"xmlns" && local == prefix
        };
        if declares {
            found = Some(value);
        }
    });
    found
}

/// Calls with prefix, local name and value of each attribute.
pub(super) fn each_attribute<'a>(frame: &'a [u8], tag: &Tag<'a>, mut visit: impl FnMut(&'a [u8], &'a [u8], Value<'a>)) {
    let mut at = tag.insert_at;
    // The tag's own reading has the limit; this runs over attributes behind it too when a tag is refused half-way.
    for _ in 0..=ATTRIBUTES_MAX {
        let Ok(Next::Attribute { name, value, end }) = next_attribute(frame, at) else {
            return;
        };
        let (prefix, local) = split(name);
        visit(prefix, local, value);
        at = end;
    }
}

/// The first element among the tag's content.
pub(super) fn first_element(frame: &[u8], tag: &Tag<'_>) -> Option<usize> {
    if tag.empty {
        return None;
    }
    next_tag(frame, tag.end).filter(|&at| frame[at + 1] != b'/')
}

/// The next start tag or end tag from `at` on, behind text, comments, CDATA sections and instructions. At least one
/// byte stands behind its `<`.
pub(super) fn next_tag(frame: &[u8], mut at: usize) -> Option<usize> {
    loop {
        if frame.get(at) != Some(&b'<') {
            at += memchr::memchr(b'<', frame.get(at..)?)?;
        }
        let rest = &frame[at..];
        let (skip, until): (usize, &[u8]) = match rest {
            [b'<', b'!', b'-', ..] => (4, b"-->"),
            [b'<', b'!', ..] => (9, b"]]>"),
            [b'<', b'?', ..] => (2, b"?>"),
            [b'<', _, ..] => return Some(at),
            _ => return None,
        };
        at += skip + memchr::memmem::find(rest.get(skip..)?, until)? + until.len();
    }
}

/// Where the content of the frame's element ends.
pub(super) fn content_end(frame: &[u8], tag: &Tag<'_>) -> usize {
    const ROUTE_END: &[u8] = b"</route>";
    if tag.empty {
        return tag.end;
    }
    if frame.ends_with(ROUTE_END) {
        return frame.len() - ROUTE_END.len();
    }
    // The end tag is the last thing in a frame.
    memchr::memrchr(b'<', frame).unwrap_or(frame.len()).max(tag.end)
}

enum Next<'a> {
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

/// What stands at `at` inside a start tag: an attribute or the tag's end.
#[inline(always)]
fn next_attribute(frame: &[u8], mut at: usize) -> Result<Next<'_>, HeaderError> {
    const BAD: HeaderError = HeaderError::NotAnElement;
    let byte = |at: usize| frame.get(at).copied().ok_or(BAD);
    while is_space(byte(at)?) {
        at += 1;
    }
    match byte(at)? {
        b'>' => {
            return Ok(Next::End {
                end: at + 1,
                empty: false,
            });
        }
        b'/' => {
            return if byte(at + 1)? == b'>' {
                Ok(Next::End {
                    end: at + 2,
                    empty: true,
                })
            } else {
                Err(BAD)
            };
        }
        _ => {}
    }
    let start = at;
    while !ends_name(byte(at)?) {
        at += 1;
    }
    let name = &frame[start..at];
    while is_space(byte(at)?) {
        at += 1;
    }
    if name.is_empty() || byte(at)? != b'=' {
        return Err(BAD);
    }
    at += 1;
    while is_space(byte(at)?) {
        at += 1;
    }
    let quote = byte(at)?;
    if !matches!(quote, b'\'' | b'"') {
        return Err(BAD);
    }
    let length = find(&frame[at + 1..], quote).ok_or(BAD)?;
    Ok(Next::Attribute {
        name,
        value: Value(&frame[at + 1..at + 1 + length]),
        end: at + 2 + length,
    })
}

/// The first place of a byte that is expected to be near.
#[inline(always)]
fn find(bytes: &[u8], byte: u8) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let with = ONES * u64::from(byte);
    let mut at = 0;
    while let Some((word, _)) = bytes[at..].split_first_chunk::<8>() {
        let x = u64::from_le_bytes(*word) ^ with;
        // The lowest top bit set is exact: a borrow comes only from bytes below it, which would be set themselves.
        let zero = x.wrapping_sub(ONES) & !x & (ONES << 7);
        if zero != 0 {
            return Some(at + (zero.trailing_zeros() / 8) as usize);
        }
        at += 8;
    }
    bytes[at..].iter().position(|&b| b == byte).map(|i| at + i)
}

/// Does an attribute of this name stand in the tag before `end`?
#[cold]
fn stands_before(frame: &[u8], mut at: usize, end: usize, name: &[u8]) -> bool {
    while at < end {
        let Ok(Next::Attribute {
            name: other, end: next, ..
        }) = next_attribute(frame, at)
        else {
            return false;
        };
        if other == name {
            return true;
        }
        at = next;
    }
    false
}

#[inline(always)]
fn name_bit(name: &[u8]) -> u64 {
    let (first, last) = (name.first().copied().unwrap_or(0), name.last().copied().unwrap_or(0));
    // With these factors the names that jabberd2 writes have a bit each.
    let mix = u32::from(first) ^ u32::from(last).wrapping_mul(2) ^ (name.len() as u32).wrapping_mul(18);
    1 << (mix & 63)
}

#[inline(always)]
fn split(name: &[u8]) -> (&[u8], &[u8]) {
    match name.iter().position(|&b| b == b':') {
        Some(colon) => (&name[..colon], &name[colon + 1..]),
        None => (&[], name),
    }
}

#[inline(always)]
fn is_space(b: u8) -> bool {
    matches!(b, b' ' | b'\t' | b'\n' | b'\r')
}

#[inline(always)]
fn ends_name(b: u8) -> bool {
    b <= b' ' || matches!(b, b'=' | b'/' | b'>')
}
