//! Verdicts: what becomes of a route, told from its header and the names alone.
//!
//! Invariants: no I/O, no clock, no allocation on the way of an ordinary frame; a verdict never names a seat that the
//! given [`Names`] do not hold. Must never be added: state of links, queues, sessions.

pub mod filter;

use crate::jid;
use crate::table::SeatId;
use crate::table::names::{Multi, Name, Names};
use crate::wire::header::{Payload, PayloadKind, Route};
use crate::wire::value::Value;
use smallvec::SmallVec;
use std::borrow::Cow;

/// What becomes of a route.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// Nothing, for this reason.
    Drop(Drop),
    /// Back to its sender, with this error code.
    Bounce(&'static str),
    /// To every other component.
    Broadcast,
    /// To this component.
    Seat(SeatId),
    /// To the sm that serves a user; his JID as the payload has it, not prepared.
    User(Cow<'a, str>),
    /// To all of these: announcements reach only the users whom an sm has loaded.
    Each(SmallVec<[SeatId; 2]>),
    /// To jidmesh itself.
    Own,
}

/// Why a route is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drop {
    /// It carries `error`: a bounce is never answered.
    ErrorRoute,
    /// Its `type` is none that the protocol knows.
    UnknownType,
}

/// What an `error` route may be, seen from its sender and payload: an sm that could not deliver a stanza answers the
/// stanza's sender with the `error` attribute still on the route. That answer, and nothing else, is routed on.
pub fn is_error_reply(route: &Route<'_>) -> bool {
    route.payload.as_ref().is_some_and(|payload| {
        matches!(
            payload.kind,
            PayloadKind::Message | PayloadKind::Presence | PayloadKind::Iq
        ) && payload.kind_attr.is_some_and(|kind| kind.0 == b"error")
            && payload.c2s.is_none()
            && payload.sm.is_none()
    })
}

/// Checks that come before the lookup of the destination (and before the filter): `None` when the route may go on.
pub fn admit(route: &Route<'_>, owns: impl FnOnce(Value<'_>) -> bool, error_reply: bool) -> Option<Verdict<'static>> {
    if route.error.is_some() && !error_reply {
        return Some(Verdict::Drop(Drop::ErrorRoute));
    }
    let broadcast = match route.kind {
        None => false,
        Some(kind) if kind.0 == b"broadcast" => true,
        Some(_) => return Some(Verdict::Drop(Drop::UnknownType)),
    };
    let Some(from) = route.from else {
        return Some(Verdict::Bounce("400"));
    };
    if route.to.is_none() && !broadcast {
        return Some(Verdict::Bounce("400"));
    }
    if !owns(from) {
        return Some(Verdict::Bounce("401"));
    }
    broadcast.then_some(Verdict::Broadcast)
}

/// Where an admitted unicast route goes.
pub fn decide<'a>(route: &Route<'a>, to: Value<'a>, sender: SeatId, names: &Names) -> Verdict<'a> {
    if let Some((_, name)) = names.find(to) {
        return match name.multi {
            Multi::No => Verdict::Seat(name.holders[0]),
            Multi::From => Verdict::Seat(shared(name, route.payload.as_ref(), names)),
            Multi::To => to_domain(name, route.payload.as_ref(), sender, names),
        };
    }
    if to.0 == names.own().as_bytes() {
        return Verdict::Own;
    }
    // Between c2s and sm: out there nobody could do anything with it, and the client would wait for ever.
    let inside = route
        .payload
        .as_ref()
        .is_some_and(|payload| payload.kind == PayloadKind::Session || payload.c2s.is_some());
    match names.default_route() {
        Some(seat) if seat != sender && !inside => Verdict::Seat(seat),
        _ => Verdict::Bounce("404"),
    }
}

fn to_domain<'a>(name: &Name, payload: Option<&Payload<'a>>, sender: SeatId, names: &Names) -> Verdict<'a> {
    let address = payload.and_then(|payload| match payload.kind {
        PayloadKind::Session => payload.target.or(payload.to),
        _ => payload.to,
    });
    let jid = address.and_then(|value| value.unescape());
    match jid {
        Some(jid) if has_node(&jid) => Verdict::User(jid),
        Some(jid)
            if jid
                .split_once('/')
                .is_some_and(|(_, resource)| resource.starts_with("announce")) =>
        {
            Verdict::Each(name.holders.clone())
        }
        _ if name.holders.contains(&sender) => Verdict::Seat(sender),
        _ => Verdict::Seat(shared(name, payload, names)),
    }
}

/// The node part ends at the first `@` that comes before any `/` (RFC 6122 2.1).
fn has_node(jid: &str) -> bool {
    matches!(jid.find(['@', '/']), Some(at) if at > 0 && jid.as_bytes()[at] == b'@')
}

/// The holder of a shared name, as the stock router chooses it: by hash of the sender, among those that are on the
/// node of the first.
fn shared(name: &Name, payload: Option<&Payload<'_>>, names: &Names) -> SeatId {
    let node = |seat: SeatId| names.seat(seat).and_then(|view| view.peer);
    let first = node(name.holders[0]);
    let count = name.holders.iter().take_while(|seat| node(**seat) == first).count();
    if count < 2 {
        return name.holders[0];
    }
    let index = payload
        .and_then(|payload| payload.from?.unescape())
        .and_then(|jid| Some(jid::bare_sha1_choice(&jid::bare_key(&jid)?, count)))
        .unwrap_or(0);
    name.holders[index.min(count - 1)]
}
