//! The head that jabberd2 itself writes, read a word at a time.
//!
//! It knows one form: `<route xmlns='...component/1.0'` with `to`, `from`, `type`, `error`, each at most once, one space
//! before each, and right behind it a stanza with the attributes that sm, c2s and s2s write. Everything else is
//! `None`, and the reading that knows all of XML decides; where this one answers, both answer the same.

use super::{Frame, NS_SESSION, Payload, PayloadKind, Route, kind_of};
use crate::wire::value::Value;

/// What jabberd2 begins nearly every frame with.
const HEAD: &[u8; 64] = b"<route xmlns='http://jabberd.jabberstudio.org/ns/component/1.0' ";
const ROUTE_END: &[u8; 8] = b"</route>";

/// A route in the usual form with a stanza in it.
#[inline(always)]
pub(super) fn route(frame: &[u8]) -> Option<Frame<'_>> {
    if frame.first_chunk::<64>()? != HEAD || frame.last_chunk::<8>()? != ROUTE_END {
        return None;
    }
    let mut quotes = Quotes::from(frame, HEAD.len());
    let mut route = Tag::default();
    let start = route.attributes::<false>(&mut quotes, HEAD.len() - 1)? + 1;
    // In one expression: moving a payload about costs as much as reading it.
    Some(Frame::Route(Route {
        insert_at: b"<route".len(),
        to: route.to,
        from: route.from,
        kind: route.kind,
        error: route.error,
        payload: Some(payload(quotes, start)?),
    }))
}

/// The stanza at `start` of a route.
#[inline]
pub(super) fn stanza_at(frame: &[u8], start: usize) -> Option<Payload<'_>> {
    if frame.last_chunk::<8>()? != ROUTE_END {
        return None;
    }
    payload(Quotes::from(frame, start), start)
}

#[inline(always)]
fn payload<'a>(mut quotes: Quotes<'a>, start: usize) -> Option<Payload<'a>> {
    let frame = quotes.frame;
    let (kind, length) = stanza(word(frame, start)?)?;
    let behind_name = start + length;
    let mut tag = Tag::default();
    tag.attributes::<true>(&mut quotes, behind_name)?;
    let namespace = tag.namespace?;
    let name = frame.get(start + 1..behind_name)?;
    if kind == PayloadKind::Presence && name != b"presence" {
        return None;
    }
    Some(Payload {
        kind: if namespace.0 == b"jabber:client" {
            kind
        } else {
            kind_of(name, Some(namespace), false)
        },
        name,
        namespace: Some(namespace),
        span: start..frame.len() - ROUTE_END.len(),
        insert_at: behind_name,
        to: tag.to,
        from: tag.from,
        kind_attr: tag.kind,
        id: tag.id,
        action: None,
        target: None,
        sm: tag.sm,
        c2s: tag.c2s,
        failed: false,
        failed_prefixed: false,
    })
}

/// The kind of a stanza of clients whose start tag begins with these bytes, and where its name ends.
#[inline(always)]
fn stanza(word: u64) -> Option<(PayloadKind, usize)> {
    if word == key(b"<message") {
        Some((PayloadKind::Message, b"<message".len()))
    } else if word == key(b"<presenc") {
        // A word is too short for the last letter.
        Some((PayloadKind::Presence, b"<presence".len()))
    } else if word & 0xffff_ffff == key(b"<iq ") {
        Some((PayloadKind::Iq, b"<iq".len()))
    } else {
        None
    }
}

/// The attributes of a route or a stanza.
#[derive(Default)]
struct Tag<'a> {
    to: Option<Value<'a>>,
    from: Option<Value<'a>>,
    kind: Option<Value<'a>>,
    error: Option<Value<'a>>,
    id: Option<Value<'a>>,
    namespace: Option<Value<'a>>,
    sm: Option<Value<'a>>,
    c2s: Option<Value<'a>>,
    /// The prefix of the session namespace and its colon, in the low three bytes; zero: not declared.
    session: u64,
    lang: bool,
}

/// The length of the prefixes that jabberd2 declares for the session namespace, with the colon.
const PREFIX: usize = b"sc:".len();
const PREFIX_MASK: u64 = 0xff_ffff;

impl<'a> Tag<'a> {
    /// Reads the attributes from `at` on: where the tag's `>` stands, or the `/` of an empty stanza.
    #[inline(always)]
    fn attributes<const STANZA: bool>(&mut self, quotes: &mut Quotes<'a>, mut at: usize) -> Option<usize> {
        let frame = quotes.frame;
        loop {
            match *frame.get(at)? {
                b' ' => at += 1,
                b'>' => return Some(at),
                b'/' if STANZA && frame.get(at + 1) == Some(&b'>') => return Some(at),
                _ => return None,
            }
            let (open, close) = (quotes.next()?, quotes.next()?);
            let value = Value(frame.get(open + 1..close)?);
            let (word, length) = (word(frame, at)?, open.wrapping_sub(at));
            let name = if length.wrapping_sub(1) < 8 {
                word & (u64::MAX >> (64 - 8 * length))
            } else {
                0
            };
            let start = std::mem::replace(&mut at, close + 1);
            let slot = match name {
                TO => &mut self.to,
                FROM => &mut self.from,
                TYPE => &mut self.kind,
                ERROR if !STANZA => &mut self.error,
                ID if STANZA => &mut self.id,
                XMLNS if STANZA => &mut self.namespace,
                _ if !STANZA => return None,
                _ if self.session != 0 && name & PREFIX_MASK == self.session => match name >> (8 * PREFIX) {
                    SM => &mut self.sm,
                    C2S => &mut self.c2s,
                    _ => return None,
                },
                _ => {
                    self.longer(frame.get(start..open)?, value)?;
                    continue;
                }
            };
            if slot.replace(value).is_some() {
                return None;
            }
        }
    }

    /// `xml:lang='...'`, or `xmlns:sc='...'`: the session namespace under a prefix of two letters.
    #[inline]
    fn longer(&mut self, name: &[u8], value: Value<'a>) -> Option<()> {
        match *name {
            [b'x', b'm', b'l', b':', b'l', b'a', b'n', b'g', b'='] if !self.lang => self.lang = true,
            [b'x', b'm', b'l', b'n', b's', b':', first, second, b'='] => {
                let letters = first.is_ascii_lowercase() && second.is_ascii_lowercase();
                if !letters || self.session != 0 || value.0 != NS_SESSION.as_bytes() {
                    return None;
                }
                self.session = key(&[first, second, b':']);
            }
            _ => return None,
        }
        Some(())
    }
}

const TO: u64 = key(b"to=");
const FROM: u64 = key(b"from=");
const TYPE: u64 = key(b"type=");
const ERROR: u64 = key(b"error=");
const ID: u64 = key(b"id=");
const XMLNS: u64 = key(b"xmlns=");
const SM: u64 = key(b"sm=");
const C2S: u64 = key(b"c2s=");

/// Up to eight bytes as a word reads them.
const fn key(bytes: &[u8]) -> u64 {
    let (mut word, mut i) = (0, 0);
    while i < bytes.len() {
        word |= (bytes[i] as u64) << (8 * i);
        i += 1;
    }
    word
}

/// Eight bytes.
#[inline(always)]
fn word(frame: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*frame.get(at..)?.first_chunk()?))
}

/// The places of a frame's `'` one after the other. They come from masks of 64 bytes, so finding one waits for none
/// before it to be looked at: reading attribute after attribute by searching each value's end takes twice as long.
struct Quotes<'a> {
    frame: &'a [u8],
    base: usize,
    mask: u64,
}

impl<'a> Quotes<'a> {
    /// Those from `base` on.
    #[inline(always)]
    fn from(frame: &'a [u8], base: usize) -> Quotes<'a> {
        Quotes {
            frame,
            base,
            mask: quotes(frame, base),
        }
    }

    #[inline(always)]
    fn next(&mut self) -> Option<usize> {
        while self.mask == 0 {
            self.base += 64;
            if self.base >= self.frame.len() {
                return None;
            }
            self.mask = quotes(self.frame, self.base);
        }
        let at = self.base + self.mask.trailing_zeros() as usize;
        self.mask &= self.mask - 1;
        Some(at)
    }
}

/// Which of up to 64 bytes from `at` on are `'`, a bit each.
#[inline(always)]
fn quotes(frame: &[u8], at: usize) -> u64 {
    match frame.get(at..).and_then(<[u8]>::first_chunk) {
        Some(block) => quotes_of(block),
        // Fewer are left: those before them are looked at as well, and shifted out.
        None => match frame.last_chunk() {
            Some(block) if at < frame.len() => quotes_of(block) >> (at + 64 - frame.len()),
            _ => 0,
        },
    }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn quotes_of(block: &[u8; 64]) -> u64 {
    use std::arch::x86_64::*;
    let mut mask = 0;
    for i in 0..4 {
        // SAFETY: SSE2 is part of x86-64; the load is an unaligned one of 16 of the 64 bytes.
        let part = unsafe {
            let part = _mm_loadu_si128(block.as_ptr().cast::<__m128i>().add(i));
            _mm_movemask_epi8(_mm_cmpeq_epi8(part, _mm_set1_epi8(b'\''.cast_signed()))).cast_unsigned()
        };
        mask |= u64::from(part) << (16 * i);
    }
    mask
}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn quotes_of(block: &[u8; 64]) -> u64 {
    let bits = block.iter().enumerate().map(|(i, &b)| u64::from(b == b'\'') << i);
    bits.fold(0, |mask, bit| mask | bit)
}
