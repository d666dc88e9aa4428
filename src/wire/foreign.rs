//! Frames of foreign components: XEP-0114 links, and links whose stream header declares prefixes.
//!
//! The slow path: start tags are read in full here. What comes from a foreign link must have passed
//! [`validate::check`](super::validate::check) before.

pub use super::validate::Prefixes;

use super::edit::{ROUTE_END, escape, route_open};
use super::header::{Payload, Route};
use super::stream::{attribute, put};
use super::tag::{self, Attribute, Tag};
use super::value::Value;
use super::{NS_ACCEPT, NS_CLIENT, NS_STANZA_ERROR};
use memchr::memmem;

/// What [`wrap`] made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrapped {
    /// The route's `to`: the domain of the stanza's `to`, as the component wrote it.
    pub to: String,
    /// The route's `from`: the domain of the stanza's `from`, as the component wrote it.
    pub from: String,
    /// `from` is the component's own name (but for ASCII case). If not, and the name is not otherwise the component's,
    /// the route is to be refused (401): else one component could speak for another.
    pub from_is_component: bool,
}

/// A route's first child as a stanza for an XEP-0114 component, in `jabber:client` if it declares nothing else.
/// Nothing is written if there is no child.
pub fn unwrap(frame: &[u8], route: &Route<'_>, out: &mut Vec<u8>) {
    let Some(element) = route.payload.as_ref().and_then(|payload| Element::of(frame, payload)) else {
        return;
    };
    out.reserve(element.bytes.len() + 32);
    element.put_head(out, |_| true);
    out.extend_from_slice(&element.bytes[element.tag.end..]);
}

/// A component's stanza as a route, made self-contained and moved to `jabber:client`; `None` (and nothing written) when
/// it lacks `to` or `from`, or their domains.
pub fn wrap(
    frame: &[u8],
    payload: &Payload<'_>,
    prefixes: &Prefixes,
    component: &str,
    out: &mut Vec<u8>,
) -> Option<Wrapped> {
    let (to, from) = (payload.to?.unescape()?, payload.from?.unescape()?);
    let (to, from) = (domain(&to)?.to_owned(), domain(&from)?.to_owned());
    let tag = tag::read(frame, 0)?;
    let element = Element {
        bytes: frame,
        tag,
        inherited: Inherited::Header(prefixes),
    };
    out.reserve(frame.len() + 160);
    route_open(out, &to, &from);
    element.put_head(out, |_| true);
    out.extend_from_slice(&frame[element.tag.end..]);
    put(out, &[ROUTE_END]);
    let from_is_component = from.eq_ignore_ascii_case(component);
    Some(Wrapped {
        to,
        from,
        from_is_component,
    })
}

/// The stanza as an error for the component that sent it, `to` and `from` swapped. `frame` is the route (or the stanza
/// alone). Nothing is written for what must not be answered (errors, iq results; RFC 6120 8.3.1): then it is `false`.
///
/// `code` is the route's `error`, or the name of a condition of RFC 6120 8.3.3.
pub fn stanza_error(frame: &[u8], payload: &Payload<'_>, code: &str, out: &mut Vec<u8>) -> bool {
    let Some(element) = Element::of(frame, payload) else {
        return false;
    };
    if payload
        .kind_attr
        .is_some_and(|kind| matches!(kind.0, b"error" | b"result"))
    {
        return false;
    }
    let tag = &element.tag;
    element.put_head_open(out, |attribute| !matches!(attribute.name, b"to" | b"from" | b"type"));
    put(out, &[" type='error'"]);
    for (name, other) in [("to", "from"), ("from", "to")] {
        if let Some(address) = tag
            .attributes
            .iter()
            .find(|attribute| attribute.name == other.as_bytes())
        {
            put(out, &[" ", name, "="]);
            let quote = address.span.end - 1;
            put_quoted(out, element.bytes[quote], address.value);
        }
    }
    out.push(b'>');
    let (code, kind, condition) = condition(code);
    let namespace = if tag.prefix().is_some() {
        " xmlns='jabber:client'"
    } else {
        ""
    };
    put(out, &["<error", namespace, " type='", kind, "' code='", code, "'>"]);
    put(out, &["<", condition, " xmlns='", NS_STANZA_ERROR, "'/></error>"]);
    if tag.empty {
        out.extend_from_slice(b"</");
        out.extend_from_slice(tag.name);
        out.push(b'>');
    } else {
        out.extend_from_slice(&element.bytes[tag.end..]);
    }
    true
}

/// The frame with the declarations of the stream header that it leans on.
pub fn self_contained(frame: &[u8], prefixes: &Prefixes, out: &mut Vec<u8>) {
    let Some(tag) = tag::read(frame, 0) else {
        out.extend_from_slice(frame);
        return;
    };
    let name_end = tag.name_end;
    let element = Element {
        bytes: frame,
        tag,
        inherited: Inherited::Header(prefixes),
    };
    out.reserve(frame.len() + 64);
    out.extend_from_slice(&frame[..name_end]);
    if let (Some(namespace), None) = (prefixes.default_namespace(), element.tag.declared(None)) {
        attribute(out, "xmlns", namespace);
    }
    element.put_inherited(out, |uri| uri);
    out.extend_from_slice(&frame[name_end..]);
}

/// The domain of a JID (RFC 7622 3.1), as written; `None` if it is empty.
fn domain(jid: &str) -> Option<&str> {
    let bare = jid.split_once('/').map_or(jid, |(bare, _)| bare);
    let domain = bare.split_once('@').map_or(bare, |(_, domain)| domain);
    (!domain.is_empty()).then_some(domain)
}

/// A stanza, and the declarations around it.
struct Element<'a> {
    bytes: &'a [u8],
    tag: Tag<'a>,
    inherited: Inherited<'a>,
}

enum Inherited<'a> {
    /// Of the stream header.
    Header(&'a Prefixes),
    /// Of the route around it.
    Route(Tag<'a>),
    Nothing,
}

impl<'a> Element<'a> {
    /// The payload of a route, with its exact end.
    fn of(frame: &'a [u8], payload: &Payload<'_>) -> Option<Element<'a>> {
        let start = payload.span.start;
        let bytes = frame.get(start..tag::element_end(frame, start)?)?;
        let inherited = match start {
            0 => Inherited::Nothing,
            _ => tag::read(frame, 0).map_or(Inherited::Nothing, Inherited::Route),
        };
        Some(Element {
            bytes,
            tag: tag::read(bytes, 0)?,
            inherited,
        })
    }

    /// The start tag in `jabber:client`, with the declarations it leans on, and those attributes that are `kept`.
    fn put_head(&self, out: &mut Vec<u8>, kept: impl Fn(&Attribute<'_>) -> bool) {
        self.put_head_open(out, kept);
        put(out, &[if self.tag.empty { "/>" } else { ">" }]);
    }

    /// The same without its `>`.
    fn put_head_open(&self, out: &mut Vec<u8>, kept: impl Fn(&Attribute<'_>) -> bool) {
        out.extend_from_slice(&self.bytes[..self.tag.name_end]);
        if self.tag.declared(None).is_none() {
            attribute(out, "xmlns", &self.default_namespace());
        }
        self.put_inherited(out, to_client);
        for attribute in self.tag.attributes.iter().filter(|attribute| kept(attribute)) {
            out.push(b' ');
            if attribute.declares().is_some() && attribute.value.0 == NS_ACCEPT.as_bytes() {
                out.extend_from_slice(attribute.name);
                put(out, &["='", NS_CLIENT, "'"]);
            } else {
                out.extend_from_slice(&self.bytes[attribute.span.clone()]);
            }
        }
    }

    /// The default namespace for an element that declares none: `jabber:client`, unless the route says something else.
    fn default_namespace(&self) -> String {
        let of_route = match &self.inherited {
            Inherited::Route(route) if route.prefix().is_some() => route.declared(None),
            _ => None,
        };
        of_route
            .and_then(|value| value.unescape())
            .map_or(NS_CLIENT.to_owned(), |uri| to_client(&uri).to_owned())
    }

    /// Declarations of prefixes from outside that the element seems to use and does not declare itself. "Seems": the
    /// prefix stands somewhere before a colon, so there may be one too many, never one too few.
    fn put_inherited(&self, out: &mut Vec<u8>, renamed: impl Fn(&str) -> &str) {
        let mut declare = |prefix: &[u8], uri: &str| {
            let needle = [prefix, b":"].concat();
            let uses = memmem::find(self.bytes, &needle).is_some();
            if uses && prefix != b"xml" && self.tag.declared(Some(prefix)).is_none() {
                put(out, &[" xmlns:"]);
                out.extend_from_slice(prefix);
                put(out, &["='"]);
                escape(renamed(uri), out);
                out.push(b'\'');
            }
        };
        match &self.inherited {
            Inherited::Header(prefixes) => prefixes
                .iter()
                .for_each(|(prefix, uri)| declare(prefix.as_bytes(), uri)),
            Inherited::Route(route) => {
                for attribute in &route.attributes {
                    if let (Some(Some(prefix)), Some(uri)) = (attribute.declares(), attribute.value.unescape()) {
                        declare(prefix, &uri);
                    }
                }
            }
            Inherited::Nothing => {}
        }
    }
}

fn to_client(namespace: &str) -> &str {
    if namespace == NS_ACCEPT { NS_CLIENT } else { namespace }
}

fn put_quoted(out: &mut Vec<u8>, quote: u8, raw: Value<'_>) {
    out.push(quote);
    out.extend_from_slice(raw.0);
    out.push(quote);
}

/// Code, type and condition of a stanza error (RFC 6120 8.3.3, codes by XEP-0086), by a route's error code or a
/// condition's name.
fn condition(code: &str) -> (&'static str, &'static str, &'static str) {
    // Where one code stands for several conditions, the one a router means stands first.
    const CONDITIONS: [(&str, &str, &str); 21] = [
        ("400", "modify", "bad-request"),
        ("401", "auth", "not-authorized"),
        ("402", "auth", "payment-required"),
        ("403", "auth", "forbidden"),
        ("404", "cancel", "remote-server-not-found"),
        ("404", "cancel", "item-not-found"),
        ("405", "cancel", "not-allowed"),
        ("406", "modify", "not-acceptable"),
        ("407", "auth", "registration-required"),
        ("409", "cancel", "conflict"),
        ("302", "modify", "gone"),
        ("302", "modify", "redirect"),
        ("400", "modify", "jid-malformed"),
        ("400", "wait", "unexpected-request"),
        ("404", "wait", "recipient-unavailable"),
        ("407", "auth", "subscription-required"),
        ("500", "wait", "internal-server-error"),
        ("500", "wait", "resource-constraint"),
        ("500", "cancel", "undefined-condition"),
        ("501", "cancel", "feature-not-implemented"),
        ("504", "wait", "remote-server-timeout"),
    ];
    CONDITIONS
        .into_iter()
        .find(|(number, _, name)| *number == code || *name == code)
        .unwrap_or(("503", "cancel", "service-unavailable"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::edit::tests::{route_of, text};
    use super::super::header::{self, Frame};
    use super::*;
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
            let back = unwrapped(&route);
            let expected = infoset(&format!("<r xmlns='jabber:client' xmlns:q='u:q'>{stanza}</r>"));
            prop_assert_eq!(&infoset(&back)[..], &expected[1..expected.len() - 1]);
            let error = text(|out| {
                stanza_error(route.as_bytes(), route_of(route.as_bytes()).payload.as_ref().unwrap(), "404", out);
            });
            prop_assert_eq!(infoset(&error).len(), infoset(&back).len() + 4);
        }
    }
}
