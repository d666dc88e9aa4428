//! All frames of a workload, made before it runs: sending one is three copies, checking one is three comparisons.

use super::component::excerpt;
use super::stamp::{DIGITS, Stamp};
use crate::wire::header::{self, Frame, Payload};
use crate::wire::value::Value;
use crate::wire::{NS_CLIENT, NS_COMPONENT, NS_SESSION};
use ahash::AHashMap;
use std::fmt::Write;
use std::ops::Range;

/// How far into a frame its id must begin.
const HEAD_BYTES_MAX: usize = 512;
const ID: &[u8] = b" id='";

/// A piece of the book's text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    at: u32,
    len: u32,
}

/// One frame without its stamp, and what becomes of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Recipe {
    head: Piece,
    tail: Piece,
    /// The lane that it belongs to.
    pub(super) lane: u16,
    /// The link where it must arrive.
    pub(super) dest: u16,
    /// The flow whose order it keeps.
    pub(super) flow: u32,
    /// The frames that its receiver sends then: the next leg of its way, or several, as for a presence.
    then: u32,
    fan: u16,
    /// How many frames arrive at the end of its way.
    pub(super) ends: u16,
}

/// A frame to be made.
#[derive(Clone, Debug)]
pub(super) struct Spec<'a> {
    /// `from` and `to` of the route; `None`: from an XEP-0114 component, which sends bare stanzas.
    pub(super) route: Option<(&'a str, &'a str)>,
    /// `message`, `presence` or `iq`, with its `type` if it has one.
    pub(super) element: &'a str,
    pub(super) kind: Option<&'a str>,
    /// `from` and `to` of the stanza, as far as it has them.
    pub(super) from: Option<&'a str>,
    pub(super) to: Option<&'a str>,
    /// sm-side id, and the client's number: between a c2s and an sm.
    pub(super) session: Option<(&'a str, &'a str)>,
    pub(super) tail: Piece,
    pub(super) lane: usize,
    /// The links where it starts and where it must arrive.
    pub(super) source: usize,
    pub(super) dest: usize,
    /// The frames that its receiver sends then.
    pub(super) then: Range<u32>,
}

/// What stands at the front of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Front {
    /// A frame exactly as it was sent, of so many bytes.
    Same(Stamp, usize),
    /// The beginning of one.
    Short,
    /// Something else, a frame that was written anew, or too little to say.
    Other,
}

/// A frame of ours that came back.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) stamp: Stamp,
    /// The router sent it back as an error.
    pub(super) bounced: bool,
}

/// The frames, by index.
#[derive(Debug, Default)]
pub(super) struct Book {
    text: Vec<u8>,
    pub(super) recipes: Vec<Recipe>,
    /// By source, destination, and who is addressed.
    flows: AHashMap<(u16, u16, Box<str>), u32>,
}

impl Book {
    /// The end of a stanza: `inner` must be written as jabberd2 writes it (one attribute at most beside `xmlns`), so that no router has a reason to write it in another way.
    pub(super) fn tail(&mut self, element: &str, inner: &str, routed: bool) -> Piece {
        let end = if routed { "</route>" } else { "" };
        self.note(&format!("'>{inner}</{element}>{end}"))
    }

    /// Adds a frame; gives its index.
    pub(super) fn add(&mut self, spec: &Spec<'_>) -> u32 {
        let mut head = String::new();
        if let Some((from, to)) = spec.route {
            let _ = write!(head, "<route xmlns='{NS_COMPONENT}' from='{from}' to='{to}'>");
        }
        let _ = write!(head, "<{}", spec.element);
        if let Some((sm, c2s)) = spec.session {
            let _ = write!(
                head,
                " xmlns:sc='{NS_SESSION}' xmlns='{NS_CLIENT}' sc:sm='{sm}' sc:c2s='{c2s}'"
            );
        } else if spec.route.is_some() {
            let _ = write!(head, " xmlns='{NS_CLIENT}'");
        }
        for (name, value) in [("type", spec.kind), ("from", spec.from), ("to", spec.to)] {
            if let Some(value) = value {
                let _ = write!(head, " {name}='{value}'");
            }
        }
        head.push_str(" id='");
        assert!(head.len() <= HEAD_BYTES_MAX, "a head of {} bytes", head.len());
        let head = self.note(&head);
        let [lane, source, dest] = [spec.lane, spec.source, spec.dest].map(small);
        let to = spec.to.unwrap_or_default();
        let bare = to.split_once('/').map_or(to, |(bare, _)| bare);
        let flows = self.flows.len() as u32;
        let flow = *self.flows.entry((source, dest, bare.into())).or_insert(flows);
        let ends = spec
            .then
            .clone()
            .map(|then| self.recipes[then as usize].ends)
            .sum::<u16>()
            .max(1);
        self.recipes.push(Recipe {
            head,
            tail: spec.tail,
            lane,
            dest,
            flow,
            then: spec.then.start,
            fan: small(spec.then.len()),
            ends,
        });
        (self.recipes.len() - 1) as u32
    }

    fn note(&mut self, text: &str) -> Piece {
        let at = u32::try_from(self.text.len()).expect("a workload's frames have less than 4 GiB");
        self.text.extend_from_slice(text.as_bytes());
        Piece {
            at,
            len: text.len() as u32,
        }
    }

    fn piece(&self, piece: Piece) -> &[u8] {
        &self.text[piece.at as usize..][..piece.len as usize]
    }

    /// How many flows there are.
    pub(super) fn flows(&self) -> usize {
        self.flows.len()
    }

    /// Bytes of a frame.
    pub(super) fn len(&self, recipe: u32) -> usize {
        let recipe = &self.recipes[recipe as usize];
        recipe.head.len as usize + DIGITS + recipe.tail.len as usize
    }

    /// Appends a frame.
    pub(super) fn write(&self, stamp: Stamp, out: &mut Vec<u8>) {
        let recipe = &self.recipes[stamp.recipe as usize];
        out.extend_from_slice(self.piece(recipe.head));
        out.extend_from_slice(&stamp.encode());
        out.extend_from_slice(self.piece(recipe.tail));
    }

    /// Looks for a frame as it was sent. `guess`: where the last one had its id; changed to where this one has it.
    pub(super) fn front(&self, bytes: &[u8], guess: &mut usize) -> Front {
        let within = &bytes[..bytes.len().min(HEAD_BYTES_MAX + ID.len() + DIGITS)];
        let found = match within.get(guess.wrapping_sub(ID.len())..*guess) {
            Some(ID) => Some(*guess),
            _ => memchr::memmem::find(within, ID).map(|at| at + ID.len()),
        };
        // One whose id is not all there is left to the scanner: it knows whether more of it must come.
        let Some(stamp_at) = found.filter(|at| at + DIGITS <= bytes.len()) else {
            return Front::Other;
        };
        *guess = stamp_at;
        let digits: &[u8; DIGITS] = bytes[stamp_at..][..DIGITS].try_into().expect("so many were taken");
        let Some(stamp) = Stamp::decode(digits) else {
            return Front::Other;
        };
        let Some(recipe) = self.recipes.get(stamp.recipe as usize) else {
            return Front::Other;
        };
        let (tail, behind) = (self.piece(recipe.tail), &bytes[stamp_at + DIGITS..]);
        let cut = tail.len().min(behind.len());
        if bytes[..stamp_at] != *self.piece(recipe.head) || behind[..cut] != tail[..cut] {
            Front::Other
        } else if cut < tail.len() {
            Front::Short
        } else {
            Front::Same(stamp, stamp_at + DIGITS + tail.len())
        }
    }

    /// A frame that is not byte for byte as it was sent: is it one of ours all the same, with its attributes in another
    /// order, or in or out of its route? `None`: not ours.
    ///
    /// # Errors
    /// It is one of ours, and was altered.
    pub(super) fn same(&self, frame: &[u8]) -> Result<Option<Known>, String> {
        let (route, payload) = match header::read(frame) {
            Ok(Frame::Route(route)) => (route.payload.clone().map(|_| route.clone()), route.payload),
            Ok(Frame::Stanza(payload)) => (None, Some(payload)),
            _ => (None, None),
        };
        let Some(payload) = payload else { return Ok(None) };
        let id = payload.id.and_then(|id| <&[u8; DIGITS]>::try_from(id.0).ok());
        let Some(stamp) = id.and_then(Stamp::decode) else {
            return Ok(None);
        };
        let altered = |what: &str| Err(format!("{what} was altered: {}", excerpt(frame)));
        if stamp.recipe as usize >= self.recipes.len() {
            return altered("an id");
        }
        let mut sent = Vec::with_capacity(self.len(stamp.recipe));
        self.write(stamp, &mut sent);
        let (sent_route, sent_payload) = match header::read(&sent) {
            Ok(Frame::Route(route)) => (Some(route.clone()), route.payload),
            Ok(Frame::Stanza(payload)) => (None, Some(payload)),
            _ => (None, None),
        };
        let Some(sent_payload) = sent_payload else {
            return altered("a frame");
        };
        let bounced = route.as_ref().is_some_and(|route| route.error.is_some());
        if let (Some(sent), Some(came)) = (&sent_route, &route)
            && (!equal(sent.to, came.to) || !same_sender(sent.from, came.from) || came.kind.is_some())
        {
            return altered("a route");
        }
        if !same_stanza(&sent_payload, &payload) || !same_content(inner(&sent, &sent_payload), inner(frame, &payload)) {
            return altered("a stanza");
        }
        Ok(Some(Known { stamp, bounced }))
    }
}

impl Recipe {
    /// The frames that its receiver sends then.
    pub(super) fn then(&self) -> Range<u32> {
        self.then..self.then + u32::from(self.fan)
    }
}

/// Links, lanes and frames of a fan-out are few.
fn small(count: usize) -> u16 {
    u16::try_from(count).expect("at most 65535 links, lanes, and frames of a fan-out")
}

fn equal(a: Option<Value<'_>>, b: Option<Value<'_>>) -> bool {
    a.map(|value| value.0) == b.map(|value| value.0)
}

/// The same id, or the one under which another node of a mesh knows it: `id.node`.
fn same_sender(sent: Option<Value<'_>>, came: Option<Value<'_>>) -> bool {
    let abroad =
        |sent: Value<'_>, came: Value<'_>| came.0.strip_prefix(sent.0).is_some_and(|rest| rest.starts_with(b"."));
    equal(sent, came) || sent.zip(came).is_some_and(|(sent, came)| abroad(sent, came))
}

fn same_stanza(a: &Payload<'_>, b: &Payload<'_>) -> bool {
    a.kind == b.kind
        && a.name == b.name
        && equal(a.to, b.to)
        && equal(a.from, b.from)
        && equal(a.kind_attr, b.kind_attr)
        && equal(a.sm, b.sm)
        && equal(a.c2s, b.c2s)
        && !b.failed
}

/// The same, however empty elements are written: the stock router changes that as it likes.
fn same_content(a: Option<&[u8]>, b: Option<&[u8]>) -> bool {
    a == b || a.map(collapsed) == b.map(collapsed)
}

/// With every `<a></a>` written `<a/>`.
fn collapsed(content: &[u8]) -> Vec<u8> {
    let (mut out, mut at, mut opened) = (Vec::with_capacity(content.len()), 0, false);
    while let Some(byte) = content.get(at) {
        let piece = match byte {
            b'<' => memchr::memchr(b'>', &content[at..]).map_or(content.len(), |end| at + end + 1),
            _ => memchr::memchr(b'<', &content[at..]).map_or(content.len(), |end| at + end),
        };
        let piece = &content[at..piece];
        if opened && piece.starts_with(b"</") {
            out.pop();
            out.extend_from_slice(b"/>");
        } else {
            out.extend_from_slice(piece);
        }
        opened = *byte == b'<' && !piece.starts_with(b"</") && !piece.ends_with(b"/>");
        at += piece.len();
    }
    out
}

/// What stands between a stanza's start tag (whose values hold no `>`) and its end tag.
fn inner<'a>(frame: &'a [u8], payload: &Payload<'_>) -> Option<&'a [u8]> {
    let Range { start, end } = payload.span.clone();
    let start = payload.insert_at.max(start);
    let open = start + memchr::memchr(b'>', frame.get(start..end)?)? + 1;
    let close = memchr::memmem::rfind(frame.get(open..end)?, b"</")?;
    Some(&frame[open..open + close])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn book() -> Book {
        let mut book = Book::default();
        let tail = book.tail("message", "<body>hi &amp; bye</body>", true);
        book.add(&Spec {
            route: Some(("a", "b")),
            element: "message",
            kind: Some("chat"),
            from: Some("u@a.test"),
            to: Some("v@b.test"),
            session: None,
            tail,
            lane: 0,
            source: 0,
            dest: 1,
            then: 0..0,
        });
        book
    }

    fn frame(book: &Book, number: u32) -> (Stamp, String) {
        let stamp = Stamp {
            recipe: 0,
            number,
            due_ns: 5,
        };
        let mut out = Vec::new();
        book.write(stamp, &mut out);
        assert_eq!(out.len(), book.len(0));
        (stamp, String::from_utf8(out).unwrap())
    }

    #[test]
    fn a_frame_as_sent_is_found_at_the_front_and_any_part_of_it_is_short() {
        let book = book();
        let (stamp, text) = frame(&book, 3);
        let twice = text.repeat(2);
        for mut guess in [0, 3, 172] {
            let front = book.front(twice.as_bytes(), &mut guess);
            assert_eq!(front, Front::Same(stamp, text.len()));
        }
        let stamped = text.find("id='").unwrap() + 4 + DIGITS;
        for cut in 0..text.len() {
            let front = book.front(&text.as_bytes()[..cut], &mut 0);
            assert_eq!(front, if cut < stamped { Front::Other } else { Front::Short }, "{cut}");
        }
        assert_eq!(book.front(b"<presence from='x'/>", &mut 0), Front::Other);
    }

    #[test]
    fn every_altered_byte_is_found() {
        let book = book();
        let text = frame(&book, 3).1.into_bytes();
        for at in 0..text.len() {
            let mut altered = text.clone();
            altered[at] = if altered[at] == b'q' { b'r' } else { b'q' };
            assert!(
                !matches!(book.front(&altered, &mut 0), Front::Same(..)),
                "byte {at} by comparison"
            );
            let known = book.same(&altered);
            assert!(
                !matches!(known, Ok(Some(_))) || at < 64 || in_end(&text, at),
                "byte {at}"
            );
        }
    }

    /// A reader of heads does not look at the end tags: the scanner before it has.
    fn in_end(text: &[u8], at: usize) -> bool {
        at > text.len() - "message></route>".len() - 1
    }

    #[test]
    fn another_order_of_attributes_is_the_same_frame_and_other_values_are_not() {
        let book = book();
        let (stamp, text) = frame(&book, 3);
        let swapped = text
            .replace("from='a' to='b'", "to='b' from='a'")
            .replace("type='chat' from='u@a.test'", "from='u@a.test' type='chat'");
        assert_ne!(swapped, text);
        assert_eq!(book.front(swapped.as_bytes(), &mut 0), Front::Other);
        assert_eq!(book.same(swapped.as_bytes()).unwrap().unwrap().stamp, stamp);
        let abroad = text.replace("from='a'", "from='a.n1.test'");
        assert_eq!(book.same(abroad.as_bytes()).unwrap().unwrap().stamp, stamp);
        let unwrapped = text.split_once('>').unwrap().1.replace("</route>", "");
        assert_eq!(book.same(unwrapped.as_bytes()).unwrap().unwrap().stamp, stamp);
        for (old, new) in [
            ("'chat'", "'headline'"),
            ("u@a", "w@a"),
            ("v@b", "w@b"),
            ("to='b'", "to='c'"),
            ("from='a'", "from='ab'"),
            ("bye", "by"),
        ] {
            assert!(book.same(text.replace(old, new).as_bytes()).is_err(), "{new}");
        }
        assert!(book.same(b"<presence xmlns='x' from='y'/>").unwrap().is_none());
    }

    #[test]
    fn empty_elements_are_the_same_in_both_forms() {
        let collapsed = |text: &str| String::from_utf8(collapsed(text.as_bytes())).unwrap();
        assert_eq!(
            collapsed("<a x='1'></a>t<b><c></c></b><d/>"),
            "<a x='1'/>t<b><c/></b><d/>"
        );
        assert_eq!(collapsed("<b>x</b>"), "<b>x</b>");
        assert_eq!(collapsed("x<unended"), "x<unended");
    }

    #[test]
    fn a_bounce_is_known_as_one() {
        let book = book();
        let text = frame(&book, 3).1.replace("to='b'>", "to='b' error='404'>");
        assert!(book.same(text.as_bytes()).unwrap().unwrap().bounced);
    }
}
