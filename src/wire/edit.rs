//! Frames written by the router itself, and heads of frames spliced.
//!
//! Everything appends to `out`; the bytes of a payload are copied once and never changed. A [`Route`] must have been
//! read from the very `frame` it comes with.

use super::header::{Bind, Payload, Route};
use super::stream::{attribute, put};
use super::tag;
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

/// A redirect: what is for this full JID may be addressed to that sm; without `to` no longer.
pub fn redirect(out: &mut Vec<u8>, jid: &str, to: Option<&str>) {
    start(out, "redirect");
    attribute(out, "jid", jid);
    if let Some(to) = to {
        attribute(out, "to", to);
    }
    put(out, &["></redirect>"]);
}

/// A bind of a name that may be shared, as sm binds its domains. Without a name it is refused (400) and does nothing: its
/// answer says that everything before it is done.
pub fn bind(out: &mut Vec<u8>, name: Option<&str>) {
    start(out, "bind");
    if let Some(name) = name {
        attribute(out, "multi", "to");
        attribute(out, "name", name);
    }
    put(out, &["></bind>"]);
}

/// Gives a name up.
pub fn unbind(out: &mut Vec<u8>, name: &str) {
    start(out, "unbind");
    attribute(out, "name", name);
    put(out, &["></unbind>"]);
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

/// The frame with some of its values replaced; each must have been read from `frame`.
pub fn with_values(frame: &[u8], values: &[(Value<'_>, &str)], out: &mut Vec<u8>) {
    let mut cuts: Vec<(Range<usize>, &str)> = values
        .iter()
        .filter_map(|(value, new)| Some((place(frame, *value)?, *new)))
        .collect();
    cuts.sort_unstable_by_key(|(range, _)| range.start);
    let mut done = 0;
    for (range, new) in cuts {
        out.extend_from_slice(&frame[done..range.start]);
        escape(new, out);
        done = range.end;
    }
    out.extend_from_slice(&frame[done..]);
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

/// A stanza as it stood before it was addressed to one session: without `sm`, `c2s` and `failed`. False, and nothing
/// written, when its start tag can't be read.
pub fn without_session(frame: &[u8], payload: &Payload<'_>, out: &mut Vec<u8>) -> bool {
    let start = payload.span.start;
    let Some(tag) = tag::read(frame, start) else {
        return false;
    };
    let close = if tag.empty { 2 } else { 1 };
    out.extend_from_slice(&frame[start..tag.name_end]);
    for attribute in &tag.attributes {
        let of_session = match memchr::memchr(b':', attribute.name) {
            Some(colon) => matches!(&attribute.name[colon + 1..], b"sm" | b"c2s" | b"failed"),
            None => attribute.name == b"failed",
        };
        if !of_session {
            out.push(b' ');
            out.extend_from_slice(&frame[attribute.span.clone()]);
        }
    }
    out.extend_from_slice(&frame[tag.end - close..payload.span.end]);
    true
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::header;
    use super::*;
    use proptest::prelude::*;

    /// A route as the hot path reads it. The tests write it without its namespace; what they compare is without it too.
    pub(in super::super) fn route_of(frame: &[u8]) -> Route<'_> {
        match header::read(frame) {
            Ok(header::Frame::Route(route)) => route,
            other => panic!("{other:?}"),
        }
    }

    /// Declares the namespace at the end of the route's start tag.
    fn comp(frame: &str) -> String {
        frame.replacen("<route", &format!("<route xmlns='{C}'"), 1).replacen(
            "<c:route",
            &format!("<c:route xmlns:c='{C}'"),
            1,
        )
    }

    pub(in super::super) fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = b"before".to_vec();
        write(&mut out);
        String::from_utf8(out)
            .unwrap()
            .strip_prefix("before")
            .unwrap()
            .to_owned()
    }

    const C: &str = "http://jabberd.jabberstudio.org/ns/component/1.0";

    #[test]
    fn adds_and_replaces_an_error() {
        let frame = comp("<route to='a' from='b'><x error='1'/></route>");
        let bounced = text(|out| with_error(frame.as_bytes(), &route_of(frame.as_bytes()), "404", out));
        assert_eq!(
            bounced,
            format!("<route error='404' xmlns='{C}' to='a' from='b'><x error='1'/></route>")
        );
        let again = text(|out| with_error(bounced.as_bytes(), &route_of(bounced.as_bytes()), "4'1", out));
        assert_eq!(
            again,
            format!("<route error='4&apos;1' xmlns='{C}' to='a' from='b'><x error='1'/></route>")
        );
        let log = text(|out| with_type_log(frame.as_bytes(), &route_of(frame.as_bytes()), out));
        assert_eq!(
            log,
            format!("<route type='log' xmlns='{C}' to='a' from='b'><x error='1'/></route>")
        );
    }

    #[test]
    fn cuts_an_error_wherever_it_stands() {
        for (frame, cut) in [
            (
                "<route error='404' to='a=b'><x error='1'/></route>",
                "<route to='a=b'><x error='1'/></route>",
            ),
            (
                "<route to='a=b'  error = \"4=4\" ><x/></route>",
                "<route to='a=b' ><x/></route>",
            ),
            (
                "<route to='error='\n\terror=''\tfrom='c'/>",
                "<route to='error='\tfrom='c'/>",
            ),
            ("<c:route error='1'/>", "<c:route/>"),
            ("<route to='a'/>", "<route to='a'/>"),
        ] {
            let frame = comp(frame);
            assert_eq!(
                text(|out| without_error(frame.as_bytes(), &route_of(frame.as_bytes()), out)),
                comp(cut)
            );
        }
    }

    #[test]
    fn replaces_addresses_in_any_order() {
        let edit = |frame: &str, to, from| {
            let frame = comp(frame);
            text(|out| with_addresses(frame.as_bytes(), &route_of(frame.as_bytes()), to, from, out))
        };
        let straight = "<route to='a' x='1' from=\"b\"><y to='z'/></route>";
        let turned = "<route from='b' to=\"a\"/>";
        let both = "<route to='c&amp;d' x='1' from=\"e&quot;\"><y to='z'/></route>";
        assert_eq!(edit(straight, Some("c&d"), Some("e\"")), comp(both));
        assert_eq!(
            edit(straight, None, Some("")),
            comp("<route to='a' x='1' from=\"\"><y to='z'/></route>")
        );
        assert_eq!(
            edit(turned, Some("cc"), Some("dd")),
            comp("<route from='dd' to=\"cc\"/>")
        );
        assert_eq!(edit(turned, None, None), comp(turned));
        let added = format!("<route to='a' xmlns='{C}' from='b'>t</route>");
        assert_eq!(edit("<route from=''>t</route>", Some("a"), Some("b")), added);
    }

    #[test]
    fn writes_the_stock_routers_frames() {
        assert_eq!(
            text(|out| advert(out, "c2s", false)),
            format!("<presence xmlns='{C}' from='c2s'></presence>")
        );
        assert_eq!(
            text(|out| advert(out, "k.test", true)),
            format!("<presence xmlns='{C}' type='unavailable' from='k.test'></presence>")
        );
        assert_eq!(
            text(|out| unbind_answer(out, None)),
            format!("<unbind xmlns='{C}'></unbind>")
        );
        assert_eq!(
            text(|out| unbind_answer(out, Some("404"))),
            format!("<unbind xmlns='{C}' error='404'></unbind>")
        );
        assert_eq!(text(throttle), format!("<throttle xmlns='{C}'></throttle>"));
        assert_eq!(
            text(|out| route(out, "a&b", "c", b"<x/>")),
            format!("<route xmlns='{C}' to='a&amp;b' from='c'><x/></route>")
        );
    }

    #[test]
    fn answers_binds_as_captured() {
        let frame = b"<bind name='s2s' multi='to'><default/><log/></bind>";
        let mut bind = Bind {
            name: None,
            multi: None,
            error: None,
            default: true,
            log: false,
            redirect: false,
            inner: 28..44,
        };
        let answer = |bind: &Bind<'_>, error| text(|out| bind_answer(out, frame, bind, error));
        assert_eq!(
            answer(&bind, None),
            format!("<bind xmlns='{C}'><default></default></bind>")
        );
        bind.multi = Some(Value(b"to"));
        assert_eq!(
            answer(&bind, Some("409")),
            format!("<bind xmlns='{C}' error='409' multi='to'><default></default></bind>")
        );
        (bind.default, bind.log) = (false, true);
        assert_eq!(
            answer(&bind, None),
            format!("<bind xmlns='{C}' multi='to'><log></log></bind>")
        );
    }

    #[test]
    fn writes_session_control() {
        let sc = "xmlns:sc='http://jabberd.jabberstudio.org/ns/session/1.0'";
        assert_eq!(
            text(|out| session(out, "c2s1", "sm1", "ended", "9", "14ab", SessionExtra::default())),
            format!(
                "<route xmlns='{C}' to='c2s1' from='sm1'><sc:session {sc} sc:sm='14ab' action='ended' sc:c2s='9'></sc:session></route>"
            )
        );
        let extra = SessionExtra {
            id: Some("i"),
            target: Some("bob@a/d'"),
            failed: true,
        };
        assert_eq!(
            text(|out| session(out, "s", "c", "start", "9", "", extra)),
            format!(
                "<route xmlns='{C}' to='s' from='c'><sc:session {sc} sc:failed='1' id='i' target='bob@a/d&apos;' action='start' sc:c2s='9'></sc:session></route>"
            )
        );
    }

    proptest! {
        #[test]
        fn escaped_text_reads_back(text in "\\PC*") {
            let mut out = Vec::new();
            escape(&text, &mut out);
            let escaped = String::from_utf8(out).unwrap();
            prop_assert_eq!(quick_xml::escape::unescape(&escaped).unwrap(), text);
            prop_assert!(!escaped.contains(['<', '>', '\'', '"']));
        }

        #[test]
        fn an_added_error_is_cut_again(to in "[a-z=.]{0,9}", from in "[a-z=.]{0,9}", swap: bool, code in "[0-9]{3}") {
            let frame = match swap {
                true => comp(&format!("<route from='{from}'  to=\"{to}\"><x/></route>")),
                false => comp(&format!("<route to='{to}' from='{from}'/>")),
            };
            let bounced = text(|out| with_error(frame.as_bytes(), &route_of(frame.as_bytes()), &code, out));
            prop_assert_ne!(&bounced, &frame);
            prop_assert_eq!(text(|out| without_error(bounced.as_bytes(), &route_of(bounced.as_bytes()), out)), frame);
        }
    }
}
