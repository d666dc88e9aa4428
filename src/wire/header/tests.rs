#![allow(clippy::unwrap_used)]

use super::*;

const COMP: &str = "xmlns='http://jabberd.jabberstudio.org/ns/component/1.0'";
const SESS: &str = "http://jabberd.jabberstudio.org/ns/session/1.0";

/// Reads with and without the short cut: they must agree.
fn both(frame: &str) -> Result<Frame<'_>, HeaderError> {
    let (fast, any) = (read(frame.as_bytes()), read_any(frame.as_bytes()));
    assert_eq!(format!("{fast:?}"), format!("{any:?}"), "{frame}");
    any
}

fn route_of(frame: &str) -> Route<'_> {
    match both(frame).unwrap() {
        Frame::Route(route) => route,
        other => panic!("{frame}: {other:?}"),
    }
}

fn text<'a>(value: Option<Value<'a>>) -> &'a str {
    value.map_or("-", |value| value.as_str().unwrap())
}

#[test]
fn session_control() {
    let frame = format!(
        "<route {COMP} from='sm' to='c2s'><sc:session xmlns:sc='{SESS}' sc:sm='2fcc' id='b4' target='alice@example.net/one' action='started' sc:c2s='9'></sc:session></route>"
    );
    let route = route_of(&frame);
    assert_eq!((text(route.from), text(route.to), text(route.kind)), ("sm", "c2s", "-"));
    assert_eq!(&frame[..route.insert_at], "<route");
    let payload = route.payload.unwrap();
    assert_eq!(payload.kind, PayloadKind::Session);
    assert_eq!(
        (text(payload.sm), text(payload.c2s), text(payload.id)),
        ("2fcc", "9", "b4")
    );
    assert_eq!(
        (text(payload.target), text(payload.action)),
        ("alice@example.net/one", "started")
    );
    assert!(frame[payload.span.clone()].starts_with("<sc:session") && frame[payload.span].ends_with("</sc:session>"));
    assert_eq!(&frame[payload.insert_at - 10..payload.insert_at], "sc:session");
    assert!(!payload.failed);
}

#[test]
fn attributes_of_the_session_namespace_by_any_prefix_in_any_order() {
    let frame = format!(
        "<route {COMP} to='c2s' from='example.net'><message sm:c2s=\"11\" sm:sm = 'ab' xmlns='jabber:client' failed='1' xmlns:sm='{SESS}' x:sm='no' xmlns:x='u:x' sm='no' type='chat'><body/></message></route>"
    );
    let payload = route_of(&frame).payload.unwrap();
    assert_eq!(payload.kind, PayloadKind::Message);
    assert_eq!(
        (text(payload.sm), text(payload.c2s), text(payload.kind_attr)),
        ("ab", "11", "chat")
    );
    assert!(payload.failed && !payload.failed_prefixed);
    // Declared by the route only.
    let frame = format!(
        "<c:route xmlns:c='http://jabberd.jabberstudio.org/ns/component/1.0' xmlns:s='{SESS}' to='a'><s:session s:failed='1' s:sm='7'/></c:route>"
    );
    let payload = route_of(&frame).payload.unwrap();
    assert_eq!((payload.kind, text(payload.sm)), (PayloadKind::Session, "7"));
    assert!(payload.failed && payload.failed_prefixed);
}

#[test]
fn namespaces_decide() {
    let stanza = |frame: &str| match both(frame).unwrap() {
        Frame::Stanza(payload) => payload.kind,
        other => panic!("{frame}: {other:?}"),
    };
    assert_eq!(stanza("<route to='a' from='b'><x/></route>"), PayloadKind::Other);
    assert_eq!(stanza("<route xmlns='u:other' to='a'/>"), PayloadKind::Other);
    assert_eq!(
        stanza("<c:route xmlns='http://jabberd.jabberstudio.org/ns/component/1.0'/>"),
        PayloadKind::Other
    );
    assert_eq!(stanza("<message to='a'/>"), PayloadKind::Message);
    assert_eq!(stanza("<iq xmlns='jabber:component:accept'/>"), PayloadKind::Iq);
    assert_eq!(stanza("<iq xmlns='u:other'/>"), PayloadKind::Other);
    assert_eq!(stanza("<session/>"), PayloadKind::Other);
    let inherits = format!("<route {COMP} to='a'><message/></route>");
    assert_eq!(route_of(&inherits).payload.unwrap().kind, PayloadKind::Other);
    assert!(matches!(
        both("<route xmlns='http&#58;//jabberd.jabberstudio.org/ns/component/1.0'/>"),
        Ok(Frame::Route(_))
    ));
    assert!(matches!(
        both("<stream:error xmlns:stream='http://etherx.jabber.org/streams'/>"),
        Ok(Frame::StreamError)
    ));
    assert!(matches!(
        both("<stream:error><x/></stream:error>"),
        Ok(Frame::StreamError)
    ));
    assert!(matches!(
        both("<stream:error xmlns:stream='u:x'/>"),
        Ok(Frame::Stanza(_))
    ));
}

#[test]
fn control_frames() {
    let frame =
        format!("<bind {COMP} name='s2s' multi='to'><!--<log/>--><default></default><x><log/></x><redirect/></bind>");
    let Frame::Bind(bind) = both(&frame).unwrap() else {
        panic!()
    };
    assert_eq!(
        (text(bind.name), text(bind.multi), text(bind.error)),
        ("s2s", "to", "-")
    );
    assert_eq!((bind.default, bind.log, bind.redirect), (true, false, true));
    assert!(frame[bind.inner.clone()].starts_with("<!--") && frame[bind.inner].ends_with("<redirect/>"));
    let frame = format!("<bind {COMP}/>");
    let Frame::Bind(bind) = both(&frame).unwrap() else {
        panic!()
    };
    assert!(bind.name.is_none() && bind.inner.is_empty());
    let frame = format!("<presence {COMP} type='unavailable' from='k.test'></presence>");
    assert!(matches!(
        both(&frame),
        Ok(Frame::Advert {
            from: Some(Value(b"k.test")),
            unavailable: true
        })
    ));
    assert!(matches!(
        both(&format!("<unbind {COMP} name='a.test'/>")),
        Ok(Frame::Unbind {
            name: Some(Value(b"a.test"))
        })
    ));
    assert!(matches!(both(&format!("<throttle {COMP}/>")), Ok(Frame::Throttle)));
}

#[test]
fn routes_of_other_shapes() {
    for (frame, payload) in [
        (format!("<route {COMP} to='a' from='b'/>"), None),
        (format!("<route {COMP} to='a' from='b'></route>"), None),
        (
            format!("<route {COMP} to='a' from='b'>text <!-- <x/> --><?p <x/>?><![CDATA[<x/>]]><y z='>'/> </route >"),
            Some("<y z='>'/> "),
        ),
        (
            format!("<route {COMP} to='a' from='b'><y/><z/></route>"),
            Some("<y/><z/>"),
        ),
        (
            format!("<route\n{COMP}\tto = 'a' from='b'  ><y/></route>"),
            Some("<y/>"),
        ),
    ] {
        let route = route_of(&frame);
        assert_eq!((text(route.to), text(route.from)), ("a", "b"));
        assert_eq!(route.payload.map(|p| &frame[p.span]), payload, "{frame}");
    }
}

#[test]
fn doubtful_tags_are_refused() {
    for frame in [
        format!("<route {COMP} to='a' to='b'/>"),
        format!("<route {COMP} {COMP}/>"),
        format!("<route {COMP} other='a' from='x' other='b'/>"),
        format!("<route {COMP}><x a='1' b='2' a='3'/></route>"),
        format!("<route {COMP}><x xmlns:s='{SESS}' xmlns:t='{SESS}' s:sm='1' t:sm='2'/></route>"),
        format!("<route {COMP}><x xmlns:s='{SESS}' xmlns:t='{SESS}' s:failed='1' t:failed='2'/></route>"),
    ] {
        assert_eq!(both(&frame).unwrap_err(), HeaderError::DuplicateAttribute, "{frame}");
    }
    let many: String = (0..tag::ATTRIBUTES_MAX).map(|i| format!(" a{i}='x'")).collect();
    assert_eq!(
        both(&format!("<route {COMP}{many}/>")).unwrap_err(),
        HeaderError::TooManyAttributes
    );
    for frame in [
        "", "<", "x", "<a", "<a b", "<a b=", "<a b='", "<a b='c'", "<>", "</a>", "<a/",
    ] {
        assert!(both(frame).is_err(), "{frame}");
    }
    let cut = format!("<route {COMP} from='sm' to='c2s'><message to='x'><body/></message></route>");
    for n in 0..cut.len() {
        let _ = both(&cut[..n]);
    }
}

#[test]
fn first_children() {
    let child = |frame: &'static str| {
        let Frame::Stanza(payload) = read(frame.as_bytes()).unwrap() else {
            panic!()
        };
        payload
            .first_child(frame.as_bytes())
            .map(|(name, ns)| (std::str::from_utf8(name).unwrap(), text(ns)))
    };
    assert_eq!(
        child("<iq xmlns='jabber:client'> <query xmlns='u:q'/></iq>"),
        Some(("query", "u:q"))
    );
    assert_eq!(
        child("<iq xmlns='jabber:client' xmlns:p='u:p'><p:ping/></iq>"),
        Some(("ping", "u:p"))
    );
    assert_eq!(
        child("<iq xmlns='jabber:client'><x/></iq>"),
        Some(("x", "jabber:client"))
    );
    assert_eq!(child("<iq><x/></iq>"), Some(("x", "-")));
    assert_eq!(child("<iq/>"), None);
    assert_eq!(child("<iq>text</iq>"), None);
    let frame = format!(
        "<route {COMP} to='a'><iq xmlns='jabber:client'><query xmlns='http://jabber.org/protocol/disco#info'/></iq></route>"
    );
    let payload = route_of(&frame).payload.unwrap();
    let (name, ns) = payload.first_child(frame.as_bytes()).unwrap();
    assert_eq!(
        (name, text(ns)),
        (&b"query"[..], "http://jabber.org/protocol/disco#info")
    );
}

/// The usual forms take the short cut, and what only looks like one gets what it deserves.
#[test]
fn usual_heads() {
    let usual = |frame: &str| {
        let _ = both(frame);
        usual::route(frame.as_bytes()).is_some()
    };
    let client = "xmlns='jabber:client'";
    for stanza in [
        format!(
            "<message {client} from='alice@example.net/one' id='753b2b5e' to='bob@example.net' type='chat'><body>it's</body></message>"
        ),
        format!("<presence {client} to='a'/>"),
        format!(
            "<presence {client} xml:lang='en' id='a-value-longer-than-one-block-of-sixty-four-bytes-is-read-all-the-same' to='a'></presence>"
        ),
        format!("<iq xmlns:sc='{SESS}' {client} sc:sm='2fcc' sc:c2s='9' type='get' id='1'><query xmlns='u'/></iq>"),
        format!("<iq {client} xmlns:sm='{SESS}' sm:c2s='9' sm:sm='2fcc'/>"),
    ] {
        for head in ["from='sm' to='c2s'", "to='c2s' from='sm' type='log' error='404'"] {
            assert!(usual(&format!("<route {COMP} {head}>{stanza}</route>")), "{stanza}");
        }
    }
    for stanza in [
        format!("<presencx {client}/>"),
        format!("<presenc' {client} a='b'/>"),
        format!("<messages {client}/>"),
        format!("<message {client} to='a' to='b'/>"),
        format!("<message {client} {client}/>"),
        format!("<message {client} to=\"a\"/>"),
        format!("<message {client} to = 'a'/>"),
        format!("<message {client} sc:sm='1' xmlns:sc='{SESS}'/>"),
        format!("<message {client} \0\0\0sm='1'/>"),
        format!("<message {client} sc:failed='1' xmlns:sc='{SESS}'/>"),
        format!("<message {client} to='a"),
        "<message to='a'/>".to_string(),
        String::new(),
        "text".to_string(),
    ] {
        assert!(
            !usual(&format!("<route {COMP} from='sm' to='c2s'>{stanza}</route>")),
            "{stanza}"
        );
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(3000))]

    /// Whatever follows the usual head, the short cut changes nothing.
    #[test]
    fn the_short_cut_changes_nothing(picks in proptest::collection::vec(0..PARTS.len(), 0..14)) {
        let tail: String = picks.iter().map(|&i| PARTS[i]).collect();
        let _ = both(&format!("<route {COMP}{tail}"));
        let _ = both(&format!("<route {COMP} to='a' from='b'><message xmlns='jabber:client'{tail}</route>"));
    }
}

const PARTS: &[&str] = &[
    " to='a'",
    " from=\"b\"",
    " type='log'",
    " error='404'",
    " x='&amp;'",
    " xmlns:c='u'",
    " xmlns='u'",
    ">",
    "/>",
    "</route>",
    "<message",
    " xmlns='jabber:client'",
    "<sc:session xmlns:sc='http://jabberd.jabberstudio.org/ns/session/1.0'",
    " sc:sm='1'",
    " sc:failed='1'",
    " id='i'",
    "<!-- < -->",
    "text",
    " ",
    "=",
    "'",
    "\n",
    " c:route='1'",
    "<presence xmlns='jabber:client'",
    "<iq xmlns='jabber:client'",
    " xmlns:sm='http://jabberd.jabberstudio.org/ns/session/1.0'",
    " sm:c2s='2'",
    " xml:lang='en'",
    "</message></route>",
];
