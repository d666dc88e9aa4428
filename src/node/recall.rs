//! A user logs in again with the same resource while the c2s of his former session is lost.
//!
//! sm replaces the one session by the other. What it wanted delivered to the former waits for the c2s, which may come
//! back for a client that is gone, or never; and what is younger would be delivered before it. So before the `start`
//! goes to sm, that one is fenced (whatever it has in hand for the former session then waits for the c2s as well), and
//! what waits is taken back: it goes behind the `start`, before everything younger.

use super::Shard;
use super::api::Micros;
use super::counters::Counter;
use super::grace::frames_of;
use super::lane::{Message, SessionKey, Verb};
use super::observe::session_of;
use super::seat::{Life, Seat};
use crate::jid;
use crate::table::fence::Need;
use crate::table::users::{Recall, Session, Stage, User, Wait};
use crate::table::{SeatId, ShardId, Token};
use crate::wire::header::{self, Frame, PayloadKind};
use std::collections::HashSet;

/// A queue up to this size is gone through at once, bytes.
const SMALL_BYTES: usize = 64 * 1024;

/// A larger one is gone through once in a microsecond for so many of its bytes, which is at least ten times as long as
/// that takes: whoever asks meanwhile is part of it.
const BYTES_PER_US: usize = 64;

/// Users for whom something is to be taken back from one lost c2s.
#[derive(Clone, Debug, Default)]
pub(super) struct Recalls {
    list: Vec<(ShardId, Box<str>, SessionKey)>,
    pub(super) due: Option<Micros>,
}

impl Recalls {
    /// None.
    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}

impl Shard {
    /// A user's starts are about to go to his sm. True when he now waits for something to be taken back.
    pub(super) fn recalls(&mut self, now: Micros, bare: &str) -> bool {
        let Some(user) = self.users.get(bare) else { return false };
        let (Some(sm), Some(session)) = (user.sm, self.stranded(user)) else {
            return false;
        };
        let key = SessionKey {
            c2s: session.c2s,
            number: session.number,
            token: session.token,
        };
        let (hash, state) = (jid::table_hash(bare), session.recall);
        let fences = self.fences.entry(sm).or_default();
        if state == Recall::No {
            fences.touch(hash);
        }
        let need = match state {
            Recall::Fenced => Need::Nothing,
            _ => fences.need(hash),
        };
        let (number, state) = match need {
            Need::Nothing => {
                self.set_recall(bare, key, Recall::Done);
                self.wait_for_return(now, bare, key.c2s);
                if let Some(home) = self.names.seat(key.c2s).map(|view| view.home) {
                    self.tell(now, home, Message::Recall { bare: bare.into(), key });
                }
                return true;
            }
            Need::Send(number) => {
                self.send_fence(now, sm, number, super::placement::domain_of(bare));
                (number, Recall::Fenced)
            }
            Need::Flying(number) => (number, Recall::Fenced),
            // One that went before the last deliveries proves nothing: another goes behind it, for all who ask meanwhile.
            Need::After(number) => (number, Recall::Asked),
        };
        self.set_recall(bare, key, state);
        self.fenced.entry(sm).or_default().push(bare.into());
        self.make_wait(now, bare, Wait::Fence { sm, number });
        true
    }

    /// A session that a waiting start will replace, at a lost c2s of this node from which nothing was taken back yet.
    fn stranded<'u>(&self, user: &'u User) -> Option<&'u Session> {
        let starts = &user.flux.as_ref()?.starts;
        user.sessions.iter().find(|session| {
            let replaced = |start: &crate::table::users::Start| {
                start.stage == Stage::Waiting && start.resource == session.resource
            };
            let lost = |seat: SeatId| {
                self.names
                    .seat(seat)
                    .is_some_and(|view| !view.live && view.peer.is_none())
            };
            session.recall != Recall::Done && lost(session.c2s) && starts.iter().any(replaced)
        })
    }

    fn set_recall(&mut self, bare: &str, key: SessionKey, recall: Recall) {
        self.users.change(bare, |user| {
            if let Some(session) = user.session_mut(key.c2s, key.number, &key.token) {
                session.recall = recall;
            }
        });
    }

    /// A c2s's home: the messages that wait for it in this session go to their user once more, and word that this is
    /// done behind them. To find them the queue is gone through; where that takes long, it is done for many at a time.
    pub(super) fn recall(&mut self, now: Micros, owner: ShardId, bare: Box<str>, key: SessionKey) {
        let waits = |state: &&mut Seat| matches!(state.life, Life::Lost { .. } | Life::Asking(_));
        if self.is_winding_up(key.c2s) {
            // What waits is on its way back already, with word behind it.
            return;
        }
        let Some(state) = self.seats.get_mut(key.c2s).filter(waits) else {
            return self.tell_recalled(now, owner, &bare, key.c2s);
        };
        let wait_us = match state.queue.len() {
            ..=SMALL_BYTES => 0,
            bytes => (bytes / BYTES_PER_US) as Micros,
        };
        state.recalls.list.push((owner, bare, key));
        let due = *state.recalls.due.get_or_insert(now + wait_us);
        if due <= now {
            return self.recall_all(now, key.c2s);
        }
        self.wake_by(due);
    }

    /// All that is to be taken back from a lost c2s.
    pub(super) fn recall_all(&mut self, now: Micros, c2s: SeatId) {
        let limits = self.limits;
        let Some(state) = self.seats.get_mut(c2s) else { return };
        let Recalls { list, .. } = std::mem::take(&mut state.recalls);
        if list.is_empty() {
            return;
        }
        let wanted: HashSet<(u32, Token)> = list.iter().map(|(.., key)| (key.number, key.token)).collect();
        let queue = std::mem::take(&mut state.queue);
        let mut back = Vec::new();
        for (_, frame) in frames_of(limits, &queue) {
            match message_in(frame).is_some_and(|session| wanted.contains(&session)) {
                true => back.push(frame),
                false => state.queue.extend_from_slice(frame),
            }
        }
        for frame in back {
            match header::read(frame) {
                Ok(Frame::Route(route)) if route.payload.is_some() => self.once_more(now, frame, &route),
                _ => self.count(Counter::DropGone),
            }
        }
        for (owner, bare, _) in list {
            self.tell_recalled(now, owner, &bare, c2s);
        }
    }

    fn tell_recalled(&mut self, now: Micros, owner: ShardId, bare: &str, c2s: SeatId) {
        if owner == self.id {
            return self.recalled(now, c2s, bare.as_bytes());
        }
        self.data[usize::from(owner)].push(Verb::Recalled(c2s), super::SELF, bare.as_bytes());
    }

    /// What waited at a lost c2s for this user has come back: he goes on.
    pub(super) fn recalled(&mut self, now: Micros, c2s: SeatId, bare: &[u8]) {
        let Ok(bare) = std::str::from_utf8(bare) else { return };
        if self.users.get(bare).and_then(|user| user.wait()) == Some(Wait::Return { of: c2s }) {
            self.users.change(bare, |user| user.flux().wait = None);
            self.settle(now, bare);
        }
    }
}

/// The session in which this message waits.
fn message_in(frame: &[u8]) -> Option<(u32, Token)> {
    let Ok(Frame::Route(route)) = header::read(frame) else {
        return None;
    };
    let payload = route.payload.filter(|payload| payload.kind == PayloadKind::Message)?;
    session_of(&payload)
}
