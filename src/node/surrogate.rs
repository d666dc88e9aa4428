//! Telling the contacts of a session that died with its sm.
//!
//! A surrogate is a session of the same full JID at a living sm, with jidmesh as its c2s: its `unavailable` reaches every
//! contact in the roster, external ones too, and never an `available` comes before it.

use super::api::Micros;
use super::farewell::full_hash;
use super::grace::session_payload;
use super::lane::Message;
use super::{SELF, Shard, TICK_US};
use crate::jid::TableMap;
use crate::table::users::Wait;
use crate::table::{SeatId, Token};
use crate::wire::header::Payload;
use crate::wire::{NS_CLIENT, NS_SESSION, edit};
use std::collections::VecDeque;

/// Most surrogates of one shard at a time; others wait their turn.
const SURROGATES_MAX: usize = 256;

/// How long an sm may take to answer a surrogate's start, microseconds.
const ANSWER_US: Micros = 5_000_000;

/// The numbers of one shard's surrogates: its index stands above these bits.
const NUMBER_BITS: u32 = 20;

/// The surrogates in flight.
#[derive(Debug, Default)]
pub(super) struct Surrogates {
    flying: TableMap<u32, Surrogate>,
    backlog: VecDeque<Box<str>>,
    last: u32,
}

#[derive(Debug)]
struct Surrogate {
    bare: Box<str>,
    resource: Box<str>,
    sm: SeatId,
    /// Its sm was told to tell.
    started: bool,
    until: Micros,
}

impl Shard {
    /// Numbers used so far, and sessions whose surrogates have not been told to tell yet: (user, resource).
    pub(super) fn surrogates_to_hand_over(&self) -> (u32, Vec<(&str, &str)>) {
        let untold = self.surrogates.flying.values().filter(|it| !it.started);
        let untold = untold.map(|it| (&*it.bare, &*it.resource)).collect();
        (self.surrogates.last, untold)
    }

    /// Numbers up to this one were used before.
    pub(super) fn surrogates_go_on_from(&mut self, last: u32) {
        self.surrogates.last = last;
    }

    /// Starts the next surrogate of a user with untold contacts. True when he now waits for it.
    pub(super) fn tell_contacts(&mut self, now: Micros, bare: &str) -> bool {
        let resource = self.users.change(bare, |user| {
            let online: Vec<Box<str>> = user.sessions.iter().map(|session| session.resource.clone()).collect();
            let flux = user.flux();
            // Somebody who is back with the same resource must not be told away.
            flux.untold.retain(|resource| !online.contains(resource));
            flux.untold.last().cloned()
        });
        let Some(resource) = resource else { return false };
        let Some(sm) = self.surrogate_sm(bare) else {
            return false;
        };
        if self.surrogates.flying.len() >= SURROGATES_MAX {
            self.surrogates.backlog.push_back(bare.into());
            return false;
        }
        self.surrogates.last = (self.surrogates.last + 1) & ((1 << NUMBER_BITS) - 1);
        let number = (u32::from(self.id) << NUMBER_BITS) | self.surrogates.last;
        let surrogate = Surrogate {
            bare: bare.into(),
            resource: resource.clone(),
            sm,
            started: false,
            until: now + ANSWER_US,
        };
        self.surrogates.flying.insert(number, surrogate);
        self.users
            .change(bare, |user| user.flux().untold.retain(|other| *other != resource));
        self.make_wait(now, bare, Wait::Telling);
        let full = format!("{bare}/{resource}").into();
        self.tell_all(now, &Message::Telling { full });
        let id = format!("jidmesh-tell-{number}");
        let payload = session_payload("start", number, "", Some(&format!("{bare}/{resource}")), Some(&id));
        self.hand_sm(now, sm, bare, &payload);
        true
    }

    /// An sm answered a surrogate's session control; the shard it belongs to is told.
    pub(super) fn surrogate_answer(&mut self, now: Micros, sm: SeatId, payload: &Payload<'_>) {
        let Some(number) = payload.c2s.and_then(super::observe::number) else {
            return;
        };
        let Ok(shard) = u16::try_from(number >> NUMBER_BITS) else {
            return;
        };
        if shard >= self.shards {
            return;
        }
        let action = payload.action.map(|action| action.0).unwrap_or_default();
        let message = match (action, payload.sm.and_then(super::observe::token)) {
            (b"started", Some(token)) if !payload.failed => {
                let target = payload.target.and_then(|target| target.unescape());
                let bare = target.as_deref().and_then(crate::jid::bare_key).unwrap_or_default();
                Message::SurrogateStarted {
                    sm,
                    bare: bare.into(),
                    number,
                    token,
                }
            }
            _ => Message::SurrogateEnded { number },
        };
        self.tell(now, shard, message);
    }

    pub(super) fn surrogate_started(&mut self, now: Micros, sm: SeatId, bare: &str, number: u32, token: Token) {
        let end = session_payload("end", number, token.as_str(), None, None);
        let known = self.surrogates.flying.get_mut(&number);
        let Some(surrogate) = known.filter(|known| known.sm == sm && *known.bare == *bare) else {
            // It came too late: nobody else would ever end it.
            return self.hand_sm(now, sm, bare, &end);
        };
        surrogate.started = true;
        let mut presence = format!(
            "<presence xmlns='{NS_CLIENT}' xmlns:sc='{NS_SESSION}' type='unavailable' sc:c2s='{number}' sc:sm='"
        )
        .into_bytes();
        edit::escape(token.as_str(), &mut presence);
        presence.extend_from_slice(b"'/>");
        self.hand_sm(now, sm, bare, &presence);
        self.hand_sm(now, sm, bare, &end);
    }

    pub(super) fn surrogate_ended(&mut self, now: Micros, number: u32) {
        let Some(surrogate) = self.surrogates.flying.remove(&number) else {
            return;
        };
        self.touch(&surrogate.bare, surrogate.sm);
        self.surrogate_over(now, &surrogate.bare);
    }

    /// A user is back elsewhere with sessions whose contacts are being told away: those who have not heard it yet shall
    /// not. To be followed by [`Shard::settle`].
    pub(super) fn stop_telling(&mut self, now: Micros, bare: &str, is_back: impl Fn(&str) -> bool) {
        let of_him = |it: &Surrogate| *it.bare == *bare && is_back(&it.resource);
        let flying = self.surrogates.flying.iter().filter(|(_, it)| of_him(it));
        let flying: Vec<(u32, SeatId, bool)> = flying.map(|(number, it)| (*number, it.sm, it.started)).collect();
        let mut stopped = false;
        for (number, sm, started) in flying {
            if started {
                let told = self.surrogates.flying.get(&number);
                let told = told.map(|it| full_hash(bare, &it.resource)).into_iter().collect();
                self.take_sessions(now, Some(sm), told);
            } else {
                // When it starts it is ended without a word.
                self.surrogates.flying.remove(&number);
                self.touch(bare, sm);
                stopped = true;
            }
        }
        if stopped {
            self.users.change(bare, |user| {
                if user.wait() == Some(Wait::Telling) {
                    user.flux().wait = None;
                }
            });
        }
    }

    /// The sm of some surrogates is lost: their contacts are untold again.
    pub(super) fn surrogates_lost(&mut self, now: Micros, sm: SeatId) {
        let lost: Vec<u32> = self
            .surrogates
            .flying
            .iter()
            .filter(|(_, surrogate)| surrogate.sm == sm)
            .map(|(number, _)| *number)
            .collect();
        for number in lost {
            let Some(surrogate) = self.surrogates.flying.remove(&number) else {
                continue;
            };
            self.users
                .change(&surrogate.bare, |user| user.flux().untold.push(surrogate.resource));
            self.surrogate_over(now, &surrogate.bare);
        }
    }

    /// Gives up surrogates that are not answered. True when some are in flight.
    pub(super) fn tick_surrogates(&mut self, now: Micros) -> bool {
        let late: Vec<u32> = self
            .surrogates
            .flying
            .iter()
            .filter(|(_, surrogate)| now >= surrogate.until)
            .map(|(number, _)| *number)
            .collect();
        for number in late {
            self.surrogate_ended(now, number);
        }
        !self.surrogates.flying.is_empty()
    }

    /// The user's sm, else the least loaded one whose link is there.
    fn surrogate_sm(&self, bare: &str) -> Option<SeatId> {
        let sm = match self
            .users
            .get(bare)
            .filter(|user| user.is_tied())
            .and_then(|user| user.sm)
        {
            Some(sm) => Some(sm),
            None => self.least_loaded(bare),
        };
        sm.filter(|sm| self.names.seat(*sm).is_some_and(|view| view.live))
    }

    fn surrogate_over(&mut self, now: Micros, bare: &str) {
        self.users.change(bare, |user| {
            if user.wait() == Some(Wait::Telling) {
                user.flux().wait = None;
            }
        });
        self.settle(now, bare);
        if let Some(next) = self.surrogates.backlog.pop_front() {
            self.settle(now, &next);
        }
        self.wake_by(now + TICK_US);
    }

    fn hand_sm(&mut self, now: Micros, sm: SeatId, bare: &str, payload: &[u8]) {
        let mut frame = Vec::with_capacity(payload.len() + 256);
        edit::route(&mut frame, super::placement::domain_of(bare), self.names.own(), payload);
        self.hand(now, sm, SELF, &frame);
    }
}
