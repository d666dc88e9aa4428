//! What sm wanted delivered to a client and can't be: messages go to their user once more, the rest back to its sender.

use super::api::Micros;
use super::counters::Counter;
use super::lane::Message;
use super::{Shard, TICK_US};
use crate::table::SeatId;
use crate::table::ways::Path;
use crate::wire::header::{self, Frame, Payload, PayloadKind, Route};
use crate::wire::{edit, foreign};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// How long a returned message is remembered, and how many of them: of the copies for several resources one is enough.
const RETURNED_US: Micros = 10_000_000;
const RETURNED_MAX: usize = 1_024;

/// Messages lately given to their user once more.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Returned {
    /// When, and what.
    lately: VecDeque<(Micros, u64)>,
}

impl Returned {
    /// None.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.lately.is_empty()
    }

    fn forget_before(&mut self, now: Micros) {
        while self.lately.front().is_some_and(|(at, _)| at + RETURNED_US <= now) {
            self.lately.pop_front();
        }
    }

    fn has(&self, key: u64) -> bool {
        self.lately.iter().any(|(_, other)| *other == key)
    }
}

impl Shard {
    /// What sm wanted delivered to a session, and can't be. sm itself would only answer the sender with an error, so a
    /// message goes to the user once more: to another resource, or to his offline store. `gone`: the c2s is no more;
    /// else it takes too much time, and the sender gets an error.
    pub(super) fn undelivered(&mut self, now: Micros, sm: SeatId, frame: &[u8], route: &Route<'_>, gone: bool) {
        let Some(payload) = route.payload.as_ref().filter(|payload| is_answerable(payload)) else {
            return self.count(Counter::DropGone);
        };
        if gone
            && let Some(to) = route
                .to
                .filter(|to| self.names.find(*to).is_none() && to.0 != self.names.own().as_bytes())
                .and_then(|to| to.unescape())
        {
            // sm still counts on a c2s that is not there: it must end those sessions first, or it delivers to them again.
            self.tell_gone(sm, &to, false);
        }
        if gone && payload.kind == PayloadKind::Message {
            return self.once_more(now, frame, route);
        }
        let (mut plain, mut stanza) = (Vec::with_capacity(frame.len()), Vec::new());
        if !edit::without_session(frame, payload, &mut plain) {
            return self.count(Counter::DropGone);
        }
        let Ok(Frame::Stanza(payload)) = header::read(&plain) else {
            return;
        };
        foreign::stanza_error(&plain, &payload, "503", &mut stanza);
        self.count(Counter::BounceQueue);
        self.send_own(now, &stanza);
    }

    /// A message that sm wanted delivered to a client goes to its user once more, before what is newer.
    pub(super) fn once_more(&mut self, now: Micros, frame: &[u8], route: &Route<'_>) {
        let mut stanza = Vec::with_capacity(frame.len());
        let answerable = route.payload.as_ref().filter(|payload| is_answerable(payload));
        let key = answerable.map(|payload| returned_key(frame, payload));
        self.returned.forget_before(now);
        let key = key.filter(|key| !self.returned.has(*key));
        let (Some(key), Some(payload)) = (key, answerable) else {
            return self.count(Counter::DropGone);
        };
        if !edit::without_session(frame, payload, &mut stanza) {
            return self.count(Counter::DropGone);
        }
        self.count(Counter::Returned);
        self.tell_all(now, &Message::Returned { key, anew: false });
        let again = Path {
            again: true,
            ..Path::LOCAL
        };
        self.send_own_by(now, &stanza, again);
    }

    /// sm delivers a message: one that was returned to its user is on its way anew, and may come back anew.
    pub(super) fn is_delivered_again(&mut self, now: Micros, frame: &[u8], payload: &Payload<'_>) {
        if payload.kind == PayloadKind::Message && !self.returned.is_empty() {
            let key = returned_key(frame, payload);
            if self.returned.has(key) {
                self.tell_all(now, &Message::Returned { key, anew: true });
            }
        }
    }

    /// Every shard: a message was returned; or it is on its way `anew`.
    pub(super) fn was_returned(&mut self, now: Micros, key: u64, anew: bool) {
        let lately = &mut self.returned.lately;
        if anew {
            return lately.retain(|(_, other)| *other != key);
        }
        if lately.len() >= RETURNED_MAX {
            lately.pop_front();
        }
        lately.push_back((now, key));
        self.wake_by(now + TICK_US);
    }

    /// Forgets what was returned long ago. True when something is left.
    pub(super) fn tick_returned(&mut self, now: Micros) -> bool {
        self.returned.forget_before(now);
        !self.returned.is_empty()
    }
}

/// What can be returned or answered: messages and questions of somebody else.
fn is_answerable(payload: &Payload<'_>) -> bool {
    let kind = payload.kind_attr.map(|kind| kind.0);
    let answerable = match payload.kind {
        PayloadKind::Message => kind != Some(b"error"),
        PayloadKind::Iq => matches!(kind, Some(b"get" | b"set")),
        _ => false,
    };
    answerable && payload.from.is_some() && payload.to.is_some()
}

/// What the copies of one message have in common.
fn returned_key(frame: &[u8], payload: &Payload<'_>) -> u64 {
    let bare = payload.to.and_then(|to| to.unescape());
    let bare = bare.as_deref().and_then(crate::jid::bare_key).unwrap_or_default();
    let content =
        memchr::memchr(b'>', &frame[payload.insert_at..]).map_or(&[][..], |at| &frame[payload.insert_at + at..]);
    crate::jid::lasting_hash_of((
        &*bare,
        payload.from.map(|from| from.0),
        payload.id.map(|id| id.0),
        content,
    ))
}
