//! What routing needs to know of a frame, read from its first tags only.

pub mod tag;
#[cfg(test)]
mod tests;
mod usual;

use super::value::Value;
use super::{NS_ACCEPT, NS_CLIENT, NS_COMPONENT, NS_SESSION, NS_STREAM};
use std::ops::Range;
use tag::{Attributes, Tag};

/// A frame of the stream root, by what the router does with it.
#[derive(Clone, Debug)]
pub enum Frame<'a> {
    /// `<route/>` of the component namespace.
    Route(Route<'a>),
    /// `<bind/>`: names a component wants.
    Bind(Bind<'a>),
    /// `<unbind/>`.
    Unbind {
        /// The name to give up.
        name: Option<Value<'a>>,
    },
    /// `<presence/>` of the component namespace: an advert (router to component).
    Advert {
        /// The advertised name.
        from: Option<Value<'a>>,
        /// `type='unavailable'`.
        unavailable: bool,
    },
    /// `<redirect/>`: what is for a full JID may be addressed to this sm (router to component).
    Redirect {
        /// The full JID.
        jid: Option<Value<'a>>,
        /// The sm's id; without it the redirect is withdrawn.
        to: Option<Value<'a>>,
    },
    /// `<throttle/>`: start or stop holding this component's frames back.
    Throttle,
    /// `<stream:error/>`: the component gives up; the stream ends.
    StreamError,
    /// A stanza outside a route (what XEP-0114 components send), or any other element; by its payload.
    Stanza(Payload<'a>),
}

/// A `<route/>`.
#[derive(Clone, Debug)]
pub struct Route<'a> {
    /// Offset just behind the element's name in the start tag: attributes may be inserted here.
    pub insert_at: usize,
    /// Where the destination stands (the bytes between the quotes).
    pub to: Option<Value<'a>>,
    /// Where the source stands.
    pub from: Option<Value<'a>>,
    /// `type`, if any: `broadcast`, `log`, or unknown.
    pub kind: Option<Value<'a>>,
    /// `error`, if any.
    pub error: Option<Value<'a>>,
    /// The first child element, if any.
    pub payload: Option<Payload<'a>>,
}

/// What kind of element a payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadKind {
    /// `<message/>`.
    Message,
    /// `<presence/>`.
    Presence,
    /// `<iq/>`.
    Iq,
    /// `<session/>` of the session namespace: session control between c2s and sm.
    Session,
    /// Anything else.
    Other,
}

/// The start tag of a route's child.
#[derive(Clone, Debug)]
pub struct Payload<'a> {
    /// Kind, by local name and namespace.
    pub kind: PayloadKind,
    /// Local name, without prefix.
    pub name: &'a [u8],
    /// The element's namespace, as far as the frame itself declares it.
    pub namespace: Option<Value<'a>>,
    /// Range of the whole payload element inside the frame. Only the start is exact when the route
    /// has several children; the end is the last byte before the route's end tag.
    pub span: Range<usize>,
    /// Offset just behind the element's name in the start tag.
    pub insert_at: usize,
    /// `to` of the stanza.
    pub to: Option<Value<'a>>,
    /// `from` of the stanza.
    pub from: Option<Value<'a>>,
    /// `type` of the stanza.
    pub kind_attr: Option<Value<'a>>,
    /// `id`.
    pub id: Option<Value<'a>>,
    /// `action` of session control.
    pub action: Option<Value<'a>>,
    /// `target` of session control.
    pub target: Option<Value<'a>>,
    /// `sm` attribute in the session namespace: the sm-side id.
    pub sm: Option<Value<'a>>,
    /// `c2s` attribute in the session namespace: the client's number at its c2s.
    pub c2s: Option<Value<'a>>,
    /// A `failed` attribute, with or without the session namespace.
    pub failed: bool,
    /// The `failed` attribute stands in the session namespace (the form that must never reach a c2s on a stanza).
    pub failed_prefixed: bool,
}

/// A `<bind/>`.
#[derive(Clone, Debug)]
pub struct Bind<'a> {
    /// The name asked for; without one the answer is error 400.
    pub name: Option<Value<'a>>,
    /// `multi`: the name may be shared.
    pub multi: Option<Value<'a>>,
    /// `error`, in an answer.
    pub error: Option<Value<'a>>,
    /// `<default/>`: wants to be the default route.
    pub default: bool,
    /// `<log/>`: wants a copy of everything.
    pub log: bool,
    /// `<redirect/>`: understands redirects.
    pub redirect: bool,
    /// The element's content, to be echoed in the answer.
    pub inner: Range<usize>,
}

/// Why a frame's head can't be read. The frame is dropped and counted; the scanner has seen to its borders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderError {
    /// The bytes are no element.
    NotAnElement,
    /// One attribute stands twice in a tag.
    DuplicateAttribute,
    /// More attributes in a tag than [`ATTRIBUTES_MAX`](tag::ATTRIBUTES_MAX).
    TooManyAttributes,
}

/// Reads the start tags of one whole frame, as the scanner delimited it, and of its first child.
///
/// An element is one of the component protocol only if the frame itself declares its namespace.
///
/// # Errors
/// The frame can't be routed; see [`HeaderError`].
#[inline]
pub fn read(frame: &[u8]) -> Result<Frame<'_>, HeaderError> {
    match usual::route(frame) {
        Some(route) => Ok(route),
        None => read_any(frame),
    }
}

/// The stanza that begins at `start`, right behind the route's start tag, if it and its frame are in the form that
/// jabberd2 writes; what it says is then what [`read`] says. `None` for everything else: ask [`read`].
#[inline]
pub fn stanza(frame: &[u8], start: usize) -> Option<Payload<'_>> {
    usual::stanza_at(frame, start)
}

/// [`read`] without the short cut.
#[inline(never)]
fn read_any(frame: &[u8]) -> Result<Frame<'_>, HeaderError> {
    let mut tag = Tag::default();
    tag.fill(frame, 0)?;
    let namespace = tag.namespace();
    let (prefix, local) = tag.split_name();
    if namespace.is_some_and(|ns| ns.is(NS_COMPONENT)) {
        match local {
            b"route" => return route(frame, &tag),
            b"bind" => return Ok(Frame::Bind(bind(frame, &tag)?)),
            b"unbind" => return Ok(Frame::Unbind { name: tag.attrs.name }),
            b"presence" => {
                let unavailable = tag.attrs.kind.is_some_and(|kind| kind.is("unavailable"));
                return Ok(Frame::Advert {
                    from: tag.attrs.from,
                    unavailable,
                });
            }
            b"throttle" => return Ok(Frame::Throttle),
            b"redirect" => return Ok(redirect(frame, &tag)),
            _ => {}
        }
    }
    let of_stream = namespace.map_or(prefix == b"stream", |ns| ns.is(NS_STREAM));
    if local == b"error" && of_stream {
        return Ok(Frame::StreamError);
    }
    Ok(Frame::Stanza(payload(frame, 0, frame.len(), &tag, None)))
}

fn route<'a>(frame: &'a [u8], tag: &Tag<'a>) -> Result<Frame<'a>, HeaderError> {
    let payload = match tag::first_element(frame, tag) {
        Some(at) => {
            let mut child = Tag::default();
            child.fill(frame, at)?;
            Some(payload(frame, at, tag::content_end(frame, tag), &child, Some(tag)))
        }
        None => None,
    };
    let Attributes {
        to, from, kind, error, ..
    } = tag.attrs;
    Ok(Frame::Route(Route {
        insert_at: tag.insert_at,
        to,
        from,
        kind,
        error,
        payload,
    }))
}

/// The payload at `start`, inside `outer` if it stands in a route.
fn payload<'a>(frame: &'a [u8], start: usize, end: usize, tag: &Tag<'a>, outer: Option<&Tag<'a>>) -> Payload<'a> {
    let (prefix, name) = tag.split_name();
    let namespace = tag
        .namespace()
        .or_else(|| outer.and_then(|outer| tag::declared(frame, outer, prefix)));
    let attrs = &tag.attrs;
    let mut payload = Payload {
        kind: kind_of(name, namespace, outer.is_none()),
        name,
        namespace,
        span: start..end,
        insert_at: tag.insert_at,
        to: attrs.to,
        from: attrs.from,
        kind_attr: attrs.kind,
        id: attrs.id,
        action: attrs.action,
        target: attrs.target,
        sm: attrs.sm,
        c2s: attrs.c2s,
        failed: attrs.failed || attrs.failed_prefixed,
        failed_prefixed: attrs.failed_prefixed,
    };
    if let (true, Some(outer)) = (attrs.foreign_prefix, outer) {
        from_outer(frame, tag, outer, &mut payload);
    }
    payload
}

/// Fills in the attributes of the session namespace whose prefix the route declares: nobody writes this, but it is legal.
#[cold]
fn from_outer<'a>(frame: &'a [u8], tag: &Tag<'a>, outer: &Tag<'a>, payload: &mut Payload<'a>) {
    tag::each_attribute(frame, tag, |prefix, local, value| {
        let in_session = || {
            tag::declared(frame, tag, prefix)
                .or_else(|| tag::declared(frame, outer, prefix))
                .is_some_and(|ns| ns.is(NS_SESSION))
        };
        if !prefix.is_empty() && matches!(local, b"sm" | b"c2s" | b"failed") && in_session() {
            match local {
                b"sm" => payload.sm = payload.sm.or(Some(value)),
                b"c2s" => payload.c2s = payload.c2s.or(Some(value)),
                _ => (payload.failed, payload.failed_prefixed) = (true, true),
            }
        }
    });
}

/// Namespaces in which `message`, `presence` and `iq` are stanzas.
const NS_STANZAS: [&str; 4] = [NS_CLIENT, "jabber:server", NS_ACCEPT, "jabber:component:connect"];

/// `bare`: the element stands outside a route, so an undeclared namespace is the stream's default one.
fn kind_of(name: &[u8], namespace: Option<Value<'_>>, bare: bool) -> PayloadKind {
    let kind = match name {
        b"message" => PayloadKind::Message,
        b"presence" => PayloadKind::Presence,
        b"iq" => PayloadKind::Iq,
        b"session" => {
            let is = namespace.is_some_and(|ns| ns.is(NS_SESSION));
            return if is { PayloadKind::Session } else { PayloadKind::Other };
        }
        _ => return PayloadKind::Other,
    };
    match namespace {
        None if bare => kind,
        Some(ns) if NS_STANZAS.iter().any(|stanzas| ns.is(stanzas)) => kind,
        _ => PayloadKind::Other,
    }
}

fn redirect<'a>(frame: &'a [u8], tag: &Tag<'a>) -> Frame<'a> {
    let mut jid = None;
    tag::each_attribute(frame, tag, |prefix, local, value| {
        if prefix.is_empty() && local == b"jid" {
            jid = Some(value);
        }
    });
    Frame::Redirect { jid, to: tag.attrs.to }
}

fn bind<'a>(frame: &'a [u8], tag: &Tag<'a>) -> Result<Bind<'a>, HeaderError> {
    let inner = tag.end..tag::content_end(frame, tag);
    let mut bind = Bind {
        name: tag.attrs.name,
        multi: tag.attrs.multi,
        error: tag.attrs.error,
        default: false,
        log: false,
        redirect: false,
        inner: inner.clone(),
    };
    let content = &frame[..inner.end];
    let (mut at, mut depth) = (inner.start, 0usize);
    while let Some(start) = tag::next_tag(content, at) {
        if content[start + 1] == b'/' {
            depth = depth.saturating_sub(1);
            at = start + 2;
            continue;
        }
        let child = Tag::read(content, start)?;
        if depth == 0 {
            match child.split_name().1 {
                b"default" => bind.default = true,
                b"log" => bind.log = true,
                b"redirect" => bind.redirect = true,
                _ => {}
            }
        }
        depth += usize::from(!child.empty);
        at = child.end;
    }
    Ok(bind)
}

impl Payload<'_> {
    /// The payload's first child element: local name, and its namespace as far as the frame declares it. `frame` is
    /// the frame the payload was read from.
    pub fn first_child<'f>(&self, frame: &'f [u8]) -> Option<(&'f [u8], Option<Value<'f>>)> {
        let frame = frame.get(..self.span.end)?;
        let tag = Tag::read(frame, self.span.start).ok()?;
        let child = Tag::read(frame, tag::first_element(frame, &tag)?).ok()?;
        let (prefix, local) = child.split_name();
        let outer = || {
            if self.span.start == 0 {
                None
            } else {
                Tag::read(frame, 0).ok()
            }
        };
        let namespace = child
            .namespace()
            .or_else(|| tag::declared(frame, &tag, prefix))
            .or_else(|| outer().and_then(|outer| tag::declared(frame, &outer, prefix)));
        Some((local, namespace))
    }
}
