//! What was said to an sm and is not answered yet, where it matters that it arrives: starts and ends of sessions,
//! questions of jidmesh's own, news of a lost c2s. When the sm returns over a new link, whatever of it was inside the
//! broken one is said again; saying it twice does no harm. (What a c2s is told of ended sessions it does not answer at
//! all; that is said again as long as [`Seat::dismissed`] remembers it.)
//!
//! sm is strictly serial: an answer proves that all before it was handled, too. But not `ended`, which may be no answer.

use super::grace::session_payload;
use super::seat::Seat;
use super::{SELF, Shard};
use crate::table::image::bytes;
use crate::table::{SeatId, SeatKind, Token};
use crate::wire::edit;
use crate::wire::header::{self, Frame, Payload, PayloadKind, Route};
use crate::wire::scan::Limits;
use crate::wire::value::Value;
use serde::{Deserialize, Serialize};
use std::collections::{HashSet, VecDeque};

/// Most frames kept for one sm; beyond it the oldest is forgotten. (A frame is kept no longer than sm takes to answer.)
const KEPT_MAX: usize = 65_536;

/// How far into a frame an attribute `action` may begin: the payload's head is at the front.
const HEAD_BYTES: usize = 1_024;

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum Key {
    /// `start` or `create`: its number and `id`.
    Request(u32, Token),
    /// `end`: the session's number and sm-side id.
    End(u32, Token),
    /// An iq of jidmesh's own, by its id.
    Question(Token),
    /// A name's loss.
    Gone(Box<str>),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Kept {
    key: Key,
    #[serde(with = "bytes")]
    frame: Box<[u8]>,
}

/// Kept frames of one sm, in the order in which they were said.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Unanswered {
    kept: VecDeque<Kept>,
}

impl Unanswered {
    fn keep(&mut self, key: Key, frame: &[u8]) {
        if self.kept.len() >= KEPT_MAX {
            self.kept.pop_front();
        }
        let frame = frame.into();
        self.kept.push_back(Kept { key, frame });
    }

    /// Keeps what is known to be said and not answered.
    pub(super) fn keep_frame(&mut self, frame: &[u8]) {
        if let Ok(Frame::Route(route)) = header::read(frame)
            && let Some(key) = route.payload.as_ref().and_then(asked)
        {
            self.keep(key, frame);
        }
    }

    fn answered(&mut self, key: &Key) {
        // Answers come in the order of the questions: it is one of the first.
        let Some(at) = self.kept.iter().position(|kept| kept.key == *key) else {
            return;
        };
        if matches!(key, Key::End(..)) {
            // sm may say that of itself, when it stops: it proves nothing.
            self.kept.remove(at);
        } else {
            self.kept.drain(..=at);
        }
    }

    /// What was inside the broken link: all that does not wait in `queue`.
    fn lost(&self, limits: Limits, queue: &[u8]) -> Vec<u8> {
        let waiting: HashSet<Key> = super::grace::frames_of(limits, queue)
            .filter_map(|(_, frame)| match header::read(frame) {
                Ok(Frame::Route(route)) => route.payload.as_ref().and_then(asked),
                Ok(Frame::Advert { from, .. }) => Some(Key::Gone(from?.unescape()?.into())),
                _ => None,
            })
            .collect();
        let lost = self.kept.iter().filter(|kept| !waiting.contains(&kept.key));
        lost.flat_map(|kept| kept.frame.iter().copied()).collect()
    }
}

impl Shard {
    /// A frame goes to an sm, or into its queue.
    pub(super) fn keep_unanswered(&mut self, sm: SeatId, source: SeatId, frame: &[u8], header: Option<&Route<'_>>) {
        let head = &frame[..frame.len().min(HEAD_BYTES)];
        if header.is_none() && source != SELF && memchr::memmem::find(head, b"action").is_none() {
            return;
        }
        let key = match header {
            Some(route) => route.payload.as_ref().and_then(asked),
            None => match header::read(frame) {
                Ok(Frame::Route(route)) => route.payload.as_ref().and_then(asked),
                _ => None,
            },
        };
        let key = key.filter(|key| source == SELF || !matches!(key, Key::Question(_)));
        if let (Some(key), Some(state)) = (key, self.seats.get_mut(sm)) {
            state.unanswered.keep(key, frame);
        }
    }

    /// A frame comes from an sm.
    pub(super) fn answered(&mut self, sm: SeatId, payload: &Payload<'_>) {
        if let (Some(key), Some(state)) = (answers(payload), self.seats.get_mut(sm)) {
            state.unanswered.answered(&key);
        }
    }
}

impl Seat {
    /// An sm is told that a name is gone: on that it ends the sessions of a c2s.
    pub(super) fn keep_loss(&mut self, name: &str, adverts: &[u8]) {
        if self.kind == SeatKind::Sm && self.abroad.is_none() {
            self.unanswered.keep(Key::Gone(name.into()), adverts);
        }
    }

    /// The component is the same process: what was inside the broken link goes before what waited. Of a c2s these are
    /// the ends of sessions: a client who says nothing would believe in his for ever.
    pub(super) fn say_again(&mut self, limits: Limits, own: &str) {
        let mut queue = self.unanswered.lost(limits, &self.queue);
        // Within a second a session may have been started anew by the same number and sm-side id.
        let over = |number, token| self.clients.get(number, token).is_none();
        for (_, number, token) in self.dismissed.iter().filter(|(_, number, token)| over(*number, token)) {
            let payload = session_payload("ended", *number, token.as_str(), None, None);
            edit::route(&mut queue, &self.id, own, &payload);
        }
        queue.append(&mut self.queue);
        self.queue = queue;
    }
}

fn asked(payload: &Payload<'_>) -> Option<Key> {
    let number = || payload.c2s.and_then(super::observe::number);
    let token = |value: Option<Value<'_>>| value.and_then(super::observe::token);
    match payload.kind {
        PayloadKind::Session if super::observe::is_request(payload) => {
            Some(Key::Request(number()?, token(payload.id)?))
        }
        PayloadKind::Session if payload.action?.0 == b"end" => Some(Key::End(number()?, token(payload.sm)?)),
        PayloadKind::Iq => Some(Key::Question(token(payload.id)?)),
        _ => None,
    }
}

/// What a frame of sm answers.
fn answers(payload: &Payload<'_>) -> Option<Key> {
    if payload.kind != PayloadKind::Session {
        return asked(payload);
    }
    let number = super::observe::number(payload.c2s?)?;
    match payload.action?.0 {
        b"start" | b"started" | b"create" | b"created" => {
            Some(Key::Request(number, super::observe::token(payload.id?)?))
        }
        b"end" | b"ended" => Some(Key::End(number, super::observe::token(payload.sm?)?)),
        _ => None,
    }
}
