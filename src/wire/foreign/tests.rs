#![allow(clippy::unwrap_used)]
use super::*;
use crate::wire::edit::tests::{route_of, text};
use crate::wire::header::{self, Frame};
use crate::wire::validate;
use proptest::prelude::*;
use quick_xml::NsReader;
use quick_xml::events::Event;
use quick_xml::name::ResolveResult;

const C: &str = "http://jabberd.jabberstudio.org/ns/component/1.0";
const ACCEPT_OPEN: &str =
    "<stream:stream xmlns='jabber:component:accept' xmlns:q='u:q' xmlns:stream='http://etherx.jabber.org/streams'>";

fn payload_of(frame: &[u8]) -> Payload<'_> {
    match header::read(frame) {
        Ok(Frame::Stanza(payload)) => payload,
        other => panic!("{other:?}"),
    }
}

fn unwrapped(frame: &str) -> String {
    text(|out| unwrap(frame.as_bytes(), &route_of(frame.as_bytes()), out))
}

fn wrapped(frame: &str, open: &str) -> (String, Option<Wrapped>) {
    let prefixes = Prefixes::of_open_tag(open.as_bytes()).unwrap();
    let payload = payload_of(frame.as_bytes());
    let mut wrapped = None;
    let written = text(|out| wrapped = wrap(frame.as_bytes(), &payload, &prefixes, "conf.test", out));
    (written, wrapped)
}

/// Names with their namespaces, and texts; panics unless it is well-formed and every prefix is bound.
fn infoset(xml: &str) -> Vec<String> {
    let mut reader = NsReader::from_str(xml);
    reader.config_mut().expand_empty_elements = true;
    let mut seen = Vec::new();
    loop {
        let (resolved, event) = reader.read_resolved_event().unwrap();
        let namespace = match resolved {
            ResolveResult::Bound(namespace) => String::from_utf8(namespace.0.to_vec()).unwrap(),
            ResolveResult::Unbound => String::new(),
            ResolveResult::Unknown(prefix) => panic!("unbound {prefix:?} in {xml}"),
        };
        match event {
            Event::Start(start) => {
                for attribute in start.attributes() {
                    let attribute = attribute.unwrap();
                    let (resolved, _) = reader.resolve_attribute(attribute.key);
                    assert!(
                        !matches!(resolved, ResolveResult::Unknown(_)),
                        "unbound attribute in {xml}"
                    );
                }
                seen.push(format!(
                    "{{{namespace}}}{}",
                    String::from_utf8_lossy(start.local_name().as_ref())
                ));
            }
            Event::End(_) => seen.push("/".to_owned()),
            Event::Eof => return seen,
            other => seen.push(format!("{other:?}")),
        }
    }
}

#[test]
fn unwraps_as_the_stock_router() {
    for (payload, stanza) in [
        (
            "<message xmlns='jabber:client' to='room@conf.test' from='u@a.test'><body>hi</body></message>",
            "<message xmlns='jabber:client' to='room@conf.test' from='u@a.test'><body>hi</body></message>",
        ),
        ("<message to='x'/>", "<message xmlns='jabber:client' to='x'/>"),
        ("<foo xmlns='u:f'/><!-- </ --><bar/>", "<foo xmlns='u:f'/>"),
        (
            "<x>--<![CDATA[</x>]]></x> ",
            "<x xmlns='jabber:client'>--<![CDATA[</x>]]></x>",
        ),
        ("", ""),
        ("text", ""),
    ] {
        assert_eq!(
            unwrapped(&format!(
                "<route xmlns='{C}' to='conf.test' from='a.test'>{payload}</route>"
            )),
            stanza
        );
    }
}

#[test]
fn an_unwrapped_stanza_takes_the_routes_prefixes_along() {
    let frame =
        format!("<c:route xmlns:c='{C}' xmlns:p='u:&quot;' xmlns='u:d'><message p:a='1'><y/></message></c:route>");
    let stanza = unwrapped(&frame);
    assert_eq!(stanza, "<message xmlns='u:d' xmlns:p='u:&quot;' p:a='1'><y/></message>");
    assert_eq!(infoset(&stanza), ["{u:d}message", "{u:d}y", "/", "/"]);
}

#[test]
fn wraps_as_the_stock_router() {
    let (route, addresses) = wrapped(
        "<message from='room@conf.test/n' to='u@a.test/r'><body>yo</body></message>",
        ACCEPT_OPEN,
    );
    assert_eq!(
        route,
        format!(
            "<route xmlns='{C}' to='a.test' from='conf.test'><message xmlns='jabber:client' from='room@conf.test/n' to='u@a.test/r'><body>yo</body></message></route>"
        )
    );
    assert_eq!(
        addresses.unwrap(),
        Wrapped {
            to: "a.test".into(),
            from: "conf.test".into(),
            from_is_component: true
        }
    );
}

#[test]
fn wraps_into_the_client_namespace() {
    for stanza in [
        "<message from='a@conf.test' to='b'><body/></message>",
        "<message xmlns='jabber:client' from='a@conf.test' to='b'><body/></message>",
        "<message xmlns=\"jabber:component:accept\" from='a@conf.test' to='b'><body/></message>",
        "<c:message xmlns:c='jabber:component:accept' from='a@conf.test' to='b'><c:body/></c:message>",
    ] {
        let (route, _) = wrapped(stanza, ACCEPT_OPEN);
        assert_eq!(
            infoset(&route)[1..3],
            ["{jabber:client}message", "{jabber:client}body"],
            "{route}"
        );
    }
}

#[test]
fn who_speaks_for_another_is_told_apart() {
    let from = |from: &str| wrapped(&format!("<iq from='{from}' to='b'/>"), ACCEPT_OPEN).1.unwrap();
    assert!(from("CONF.test/x").from_is_component);
    assert!(!from("conf.test@other.test").from_is_component);
    assert!(!from("a@sub.conf.test").from_is_component);
    assert_eq!(from("a/conf.test@b").from, "a");
    assert_eq!(from("a&#64;conf.test").from, "conf.test");
}

#[test]
fn without_addresses_nothing_is_wrapped() {
    for stanza in [
        "<iq from='a'/>",
        "<iq to='a'/>",
        "<iq from='a' to=''/>",
        "<iq from='a@/x' to='b'/>",
        "<iq from='a' to='&x;'/>",
    ] {
        assert_eq!(wrapped(stanza, ACCEPT_OPEN), (String::new(), None), "{stanza}");
    }
}

#[test]
fn stanzas_lean_on_the_stream_header_no_more() {
    let (route, _) = wrapped("<q:message from='a' to='b'><q:x q:y='1'/></q:message>", ACCEPT_OPEN);
    assert_eq!(infoset(&route)[1..3], ["{u:q}message", "{u:q}x"], "{route}");
    let prefixes = Prefixes::of_open_tag(b"<s xmlns='u:d' xmlns:p='u:p&apos;' xmlns:q='u:q'>").unwrap();
    let contained = |frame: &str| text(|out| self_contained(frame.as_bytes(), &prefixes, out));
    assert_eq!(
        contained("<a><p:b/></a>"),
        "<a xmlns='u:d' xmlns:p='u:p&apos;'><p:b/></a>"
    );
    assert_eq!(
        contained("<q:a xmlns='' xmlns:q='u:z'/>"),
        "<q:a xmlns='' xmlns:q='u:z'/>"
    );
}

#[test]
fn bounces_swapped() {
    let frame = format!(
        "<route xmlns='{C}' error='404' to='a.test' from='conf.test'><message xmlns='jabber:client' type='groupchat' to='u@a.test' id=\"1'\" from='r@conf.test'><body>x</body></message></route>"
    );
    let payload = route_of(frame.as_bytes()).payload.unwrap();
    let mut sent = false;
    let error = text(|out| sent = stanza_error(frame.as_bytes(), &payload, "404", out));
    assert!(sent);
    assert_eq!(
        error,
        "<message xmlns='jabber:client' id=\"1'\" type='error' to='r@conf.test' from='u@a.test'><error type='cancel' code='404'><remote-server-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error><body>x</body></message>"
    );
    infoset(&error);
}

#[test]
fn bounces_of_other_shapes_are_well_formed() {
    for (stanza, code, expected) in [
        ("<iq to='a' from='b' type='get'/>", "400", "bad-request"),
        ("<iq from='b' to='a'/>", "nonsense", "service-unavailable"),
        (
            "<c:iq xmlns:c='jabber:component:accept' from='b' to='a'></c:iq>",
            "forbidden",
            "forbidden",
        ),
    ] {
        let payload = payload_of(stanza.as_bytes());
        let error = text(|out| assert!(stanza_error(stanza.as_bytes(), &payload, code, out)));
        let expected = [
            "{jabber:client}iq".to_owned(),
            "{jabber:client}error".to_owned(),
            format!("{{urn:ietf:params:xml:ns:xmpp-stanzas}}{expected}"),
        ];
        assert_eq!(infoset(&error)[..3], expected, "{error}");
        assert!(error.contains(" to='b' from='a'"), "{error}");
    }
}

#[test]
fn errors_and_results_are_not_answered() {
    for kind in ["error", "result"] {
        let stanza = format!("<iq to='a' from='b' type='{kind}'/>");
        let payload = payload_of(stanza.as_bytes());
        assert_eq!(
            text(|out| assert!(!stanza_error(stanza.as_bytes(), &payload, "404", out))),
            ""
        );
    }
}

fn element() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("<q:x q:y='1'/>".to_owned()),
        Just("<body>a &amp; b</body>".to_owned()),
        Just("<!-- </message> --><p:z xmlns:p='u:p'></p:z>".to_owned()),
        Just("<![CDATA[</message>]]>".to_owned()),
        "[a-z ]{1,5}",
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        (prop::collection::vec(inner, 0..3), prop::bool::ANY).prop_map(|(children, other)| {
            let (open, close) = if other {
                ("q:m xmlns='u:o' a=\"'>\"", "q:m")
            } else {
                ("n", "n")
            };
            format!("<{open}>{}</{close}>", children.concat())
        })
    })
}

proptest! {
    #[test]
    fn wrapped_and_unwrapped_again_it_means_the_same(children in prop::collection::vec(element(), 0..4)) {
        let stanza = format!("<message from='a@conf.test' to='b@c'>{}</message>", children.concat());
        let (route, addresses) = wrapped(&stanza, ACCEPT_OPEN);
        prop_assert!(addresses.is_some());
        prop_assert_eq!(validate::check(route.as_bytes(), &Prefixes::default()), Ok(()), "it stands alone: {}", route);
        let back = unwrapped(&route);
        let expected = infoset(&format!("<r xmlns='jabber:client' xmlns:q='u:q'>{stanza}</r>"));
        prop_assert_eq!(&infoset(&back)[..], &expected[1..expected.len() - 1]);
        let error = text(|out| {
            stanza_error(route.as_bytes(), route_of(route.as_bytes()).payload.as_ref().unwrap(), "404", out);
        });
        prop_assert_eq!(infoset(&error).len(), infoset(&back).len() + 4);
    }
}
