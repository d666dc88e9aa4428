//! What routing needs to know of a frame, read from its first tags only.

use super::value::Value;
use std::ops::Range;

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
}

/// Reads the start tags of one whole frame, as the scanner delimited it, and of its first child.
#[allow(unused_variables)]
pub fn read(frame: &[u8]) -> Result<Frame<'_>, HeaderError> {
    Err(HeaderError::NotAnElement)
}

impl Payload<'_> {
    /// The payload's first child element: local name, and its namespace as far as the frame declares it.
    #[allow(unused_variables)]
    pub fn first_child<'f>(&self, frame: &'f [u8]) -> Option<(&'f [u8], Option<Value<'f>>)> {
        None
    }
}
