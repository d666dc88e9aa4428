//! Frames of foreign components: XEP-0114 links, and links whose stream header declares prefixes.
#![allow(unused_variables)]

use super::header::{Payload, Route};

/// The namespace declarations of a stream header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prefixes {}

/// What [`wrap`] made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrapped {
    /// The route's `to`: the domain of the stanza's `to`.
    pub to: String,
    /// The route's `from`: the domain of the stanza's `from`.
    pub from: String,
    /// `from` is the component's own name.
    pub from_is_component: bool,
}

/// A route's payload as a stanza for an XEP-0114 component.
pub fn unwrap(frame: &[u8], route: &Route<'_>, out: &mut Vec<u8>) {}

/// A component's stanza as a route; `None` (and nothing written) when it lacks `to` or `from`.
pub fn wrap(
    frame: &[u8],
    payload: &Payload<'_>,
    prefixes: &Prefixes,
    component: &str,
    out: &mut Vec<u8>,
) -> Option<Wrapped> {
    None
}

/// The stanza as an error for the component that sent it, `to` and `from` swapped. Nothing is written for what must
/// not be answered (errors, iq results; RFC 6120 8.3.1): then the result is `false`.
pub fn stanza_error(frame: &[u8], payload: &Payload<'_>, code: &str, out: &mut Vec<u8>) -> bool {
    false
}

/// The frame with the declarations of the stream header that it leans on.
pub fn self_contained(frame: &[u8], prefixes: &Prefixes, out: &mut Vec<u8>) {}
