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
mod tests;
