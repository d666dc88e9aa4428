//! Frames written by the router itself, and heads of frames spliced.
//!
//! Everything appends to `out`; the bytes of a payload are copied once and never changed. A [`Route`] must have been
//! read from the very `frame` it comes with.

use super::header::{Bind, Route};
use super::stream::{attribute, put};
use super::value::Value;
use super::{NS_COMPONENT, NS_SESSION};
use std::ops::Range;

/// The frame with `error='CODE'` added (replaced, if there is one): a bounce.
pub fn with_error(frame: &[u8], route: &Route<'_>, code: &str, out: &mut Vec<u8>) {
    with_attribute(frame, route, ("error", route.error, code), out);
}

/// The frame with `type='log'` added (replaced, if there is one): a copy for a log sink.
pub fn with_type_log(frame: &[u8], route: &Route<'_>, out: &mut Vec<u8>) {
    with_attribute(frame, route, ("type", route.kind, "log"), out);
}

/// The frame without its `error` attribute.
pub fn without_error(frame: &[u8], route: &Route<'_>, out: &mut Vec<u8>) {
    match route.error.and_then(|value| whole_attribute(frame, route, value)) {
        Some(cut) => {
            out.reserve(frame.len());
            out.extend_from_slice(&frame[..cut.start]);
            out.extend_from_slice(&frame[cut.end..]);
        }
        None => out.extend_from_slice(frame),
    }
}

/// The frame with the values of `to` and `from` replaced, each if given (added, if the frame has none).
pub fn with_addresses(frame: &[u8], route: &Route<'_>, to: Option<&str>, from: Option<&str>, out: &mut Vec<u8>) {
    let wanted = [("to", route.to, to), ("from", route.from, from)];
    out.reserve(frame.len() + to.map_or(0, str::len) + from.map_or(0, str::len) + 16);
    out.extend_from_slice(&frame[..route.insert_at]);
    let mut cuts: [Option<(Range<usize>, &str)>; 2] = [None, None];
    for (cut, (name, old, new)) in cuts.iter_mut().zip(wanted) {
        match (old.and_then(|value| place(frame, value)), new) {
            (Some(range), Some(new)) => *cut = Some((range, new)),
            (None, Some(new)) => attribute(out, name, new),
            (_, None) => {}
        }
    }
    cuts.sort_unstable_by_key(|cut| cut.as_ref().map(|(range, _)| range.start));
    let mut done = route.insert_at;
    for (range, new) in cuts.into_iter().flatten() {
        out.extend_from_slice(&frame[done..range.start]);
        escape(new, out);
        done = range.end;
    }
    out.extend_from_slice(&frame[done..]);
}

/// Text or attribute value, escaped as jabberd2 does it.
pub fn escape(text: &str, out: &mut Vec<u8>) {
    let bytes = text.as_bytes();
    let mut done = 0;
    for (at, byte) in bytes.iter().enumerate() {
        let entity: &[u8] = match byte {
            b'&' => b"&amp;",
            b'<' => b"&lt;",
            b'>' => b"&gt;",
            b'\'' => b"&apos;",
            b'"' => b"&quot;",
            _ => continue,
        };
        out.extend_from_slice(&bytes[done..at]);
        out.extend_from_slice(entity);
        done = at + 1;
    }
    out.extend_from_slice(&bytes[done..]);
}

/// `<route xmlns='COMP' to='..' from='..'>payload</route>`.
pub fn route(out: &mut Vec<u8>, to: &str, from: &str, payload: &[u8]) {
    route_open(out, to, from);
    out.extend_from_slice(payload);
    put(out, &[ROUTE_END]);
}

pub(super) const ROUTE_END: &str = "</route>";

pub(super) fn route_open(out: &mut Vec<u8>, to: &str, from: &str) {
    start(out, "route");
    attribute(out, "to", to);
    attribute(out, "from", from);
    out.push(b'>');
}

/// An advert: the name is bound, or (`unavailable`) is no longer.
pub fn advert(out: &mut Vec<u8>, name: &str, unavailable: bool) {
    start(out, "presence");
    if unavailable {
        attribute(out, "type", "unavailable");
    }
    attribute(out, "from", name);
    put(out, &["></presence>"]);
}

/// The answer to a bind: the request's `multi` and options without its name, refused if there is an `error` code.
///
/// The known options are written afresh, because the request's own may lean on a prefix declared on its start tag; what
/// else stood in the request is not echoed (no component looks).
pub fn bind_answer(out: &mut Vec<u8>, frame: &[u8], bind: &Bind<'_>, error: Option<&str>) {
    debug_assert!(bind.inner.end <= frame.len());
    start(out, "bind");
    if let Some(code) = error {
        attribute(out, "error", code);
    }
    if let Some(multi) = bind.multi.and_then(|value| value.unescape()) {
        attribute(out, "multi", &multi);
    }
    out.push(b'>');
    for (asked, option) in [
        (bind.default, "<default></default>"),
        (bind.log, "<log></log>"),
        (bind.redirect, "<redirect></redirect>"),
    ] {
        if asked {
            put(out, &[option]);
        }
    }
    put(out, &["</bind>"]);
}

/// The answer to an unbind.
pub fn unbind_answer(out: &mut Vec<u8>, error: Option<&str>) {
    start(out, "unbind");
    if let Some(code) = error {
        attribute(out, "error", code);
    }
    put(out, &["></unbind>"]);
}

/// The answer to a throttle.
pub fn throttle(out: &mut Vec<u8>) {
    start(out, "throttle");
    put(out, &["></throttle>"]);
}

/// What else a session-control frame may carry.
#[derive(Clone, Copy, Debug, Default)]
pub struct SessionExtra<'a> {
    /// `id` of the request and its answer (`start`, `started`).
    pub id: Option<&'a str>,
    /// `target`: the JID concerned.
    pub target: Option<&'a str>,
    /// `sc:failed='1'`: the action failed. Only here; a stanza with it makes c2s close its link.
    pub failed: bool,
}

/// A session-control frame: `to`/`from` of the route, `action`, the client's number at its c2s, the sm-side id
/// (empty: none, as in `start`).
pub fn session(out: &mut Vec<u8>, to: &str, from: &str, action: &str, c2s: &str, sm: &str, extra: SessionExtra<'_>) {
    route_open(out, to, from);
    put(out, &["<sc:session xmlns:sc='", NS_SESSION, "'"]);
    for (name, value) in [
        ("sc:failed", extra.failed.then_some("1")),
        ("sc:sm", (!sm.is_empty()).then_some(sm)),
        ("id", extra.id),
        ("target", extra.target),
        ("action", Some(action)),
        ("sc:c2s", Some(c2s)),
    ] {
        if let Some(value) = value {
            attribute(out, name, value);
        }
    }
    put(out, &["></sc:session>", ROUTE_END]);
}

/// An iq ping (XEP-0199) in a route. An sm answers it after everything that went before it.
pub fn iq_ping(out: &mut Vec<u8>, to_route: &str, from_route: &str, stanza_to: &str, stanza_from: &str, id: &str) {
    route_open(out, to_route, from_route);
    put(out, &["<iq xmlns='jabber:client' type='get'"]);
    attribute(out, "to", stanza_to);
    attribute(out, "from", stanza_from);
    attribute(out, "id", id);
    put(out, &["><ping xmlns='urn:xmpp:ping'/></iq>", ROUTE_END]);
}

/// `<name xmlns='COMP'`, without the `>`.
fn start(out: &mut Vec<u8>, name: &str) {
    put(out, &["<", name, " xmlns='", NS_COMPONENT, "'"]);
}

fn with_attribute(frame: &[u8], route: &Route<'_>, new: (&str, Option<Value<'_>>, &str), out: &mut Vec<u8>) {
    let (name, old, value) = new;
    out.reserve(frame.len() + name.len() + value.len() + 4);
    match old.and_then(|old| place(frame, old)) {
        Some(range) => {
            out.extend_from_slice(&frame[..range.start]);
            escape(value, out);
            out.extend_from_slice(&frame[range.end..]);
        }
        None => {
            out.extend_from_slice(&frame[..route.insert_at]);
            attribute(out, name, value);
            out.extend_from_slice(&frame[route.insert_at..]);
        }
    }
}

/// Where a value read from `frame` stands in it.
fn place(frame: &[u8], value: Value<'_>) -> Option<Range<usize>> {
    let start = (value.0.as_ptr() as usize).checked_sub(frame.as_ptr() as usize)?;
    let end = start.checked_add(value.0.len())?;
    (end <= frame.len()).then_some(start..end)
}

/// The attribute around a value, with the space before it: from behind the attribute before to behind the closing quote.
fn whole_attribute(frame: &[u8], route: &Route<'_>, value: Value<'_>) -> Option<Range<usize>> {
    let value = place(frame, value)?;
    let before = frame.get(route.insert_at..value.start.checked_sub(1)?)?;
    let equals = before.iter().rposition(|byte| *byte == b'=')?;
    let name = before[..equals].trim_ascii_end();
    let name_start = name.iter().rposition(|byte| byte.is_ascii_whitespace())?;
    let space_start = name[..name_start].trim_ascii_end().len();
    Some(route.insert_at + space_start..value.end + 1)
}
