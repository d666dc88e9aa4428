//! Frames written by the router itself, and heads of frames spliced. Everything appends to `out`; payload bytes are
//! copied once and never changed.
#![allow(unused_variables)]

use super::header::{Bind, Route};

/// The frame with `error='CODE'` added (replaced, if there is one): a bounce.
pub fn with_error(frame: &[u8], route: &Route<'_>, code: &str, out: &mut Vec<u8>) {}

/// The frame without its `error` attribute.
pub fn without_error(frame: &[u8], route: &Route<'_>, out: &mut Vec<u8>) {}

/// The frame with `type='log'` added: a copy for a log sink.
pub fn with_type_log(frame: &[u8], route: &Route<'_>, out: &mut Vec<u8>) {}

/// The frame with the values of `to` and `from` replaced, each if given.
pub fn with_addresses(frame: &[u8], route: &Route<'_>, to: Option<&str>, from: Option<&str>, out: &mut Vec<u8>) {}

/// Text or attribute value, escaped as jabberd2 does it.
pub fn escape(text: &str, out: &mut Vec<u8>) {}

/// `<route xmlns='COMP' to='..' from='..'>payload</route>`.
pub fn route(out: &mut Vec<u8>, to: &str, from: &str, payload: &[u8]) {}

/// An advert: the name is bound, or (`unavailable`) is no longer.
pub fn advert(out: &mut Vec<u8>, name: &str, unavailable: bool) {}

/// The answer to a bind: the request without its name, refused if there is an `error` code.
pub fn bind_answer(out: &mut Vec<u8>, frame: &[u8], bind: &Bind<'_>, error: Option<&str>) {}

/// The answer to an unbind.
pub fn unbind_answer(out: &mut Vec<u8>, error: Option<&str>) {}

/// The answer to a throttle.
pub fn throttle(out: &mut Vec<u8>) {}

/// What else a session-control frame may carry.
#[derive(Clone, Copy, Debug, Default)]
pub struct SessionExtra<'a> {
    /// `id` of the request and its answer (`start`, `started`).
    pub id: Option<&'a str>,
    /// `target`: the JID concerned.
    pub target: Option<&'a str>,
    /// `sc:failed='1'`: the action failed.
    pub failed: bool,
}

/// A session-control frame: `to`/`from` of the route, `action`, the client's number at its c2s, the sm-side id
/// (empty: none, as in `start`).
pub fn session(out: &mut Vec<u8>, to: &str, from: &str, action: &str, c2s: &str, sm: &str, extra: SessionExtra<'_>) {}

/// An iq ping (XEP-0199) in a route: the fence of an sm.
pub fn iq_ping(out: &mut Vec<u8>, to_route: &str, from_route: &str, stanza_to: &str, stanza_from: &str, id: &str) {}
