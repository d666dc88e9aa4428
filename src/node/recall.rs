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
use super::seat::Life;
use crate::jid;
use crate::table::fence::Need;
use crate::table::users::{Recall, Session, Stage, User, Wait};
use crate::table::{SeatId, ShardId};
use crate::wire::header::{self, Frame, PayloadKind};

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
        if session.recall == Recall::Fenced {
            self.set_recall(bare, key, Recall::Done);
            self.fenced.entry(key.c2s).or_default().push(bare.into());
            self.make_wait(now, bare, Wait::Return { of: key.c2s });
            if let Some(home) = self.names.seat(key.c2s).map(|view| view.home) {
                self.tell(now, home, Message::Recall { key });
            }
            return true;
        }
        let hash = jid::table_hash(bare);
        let fences = self.fences.entry(sm).or_default();
        fences.touch(hash);
        let wanted = match fences.need(hash) {
            Need::Send(wanted) => {
                self.set_recall(bare, key, Recall::Fenced);
                self.send_fence(now, sm, wanted, super::placement::domain_of(bare));
                wanted
            }
            // One that went before the last deliveries proves nothing: another goes behind it.
            Need::Flying(flying) | Need::After(flying) => flying,
            Need::Nothing => return false,
        };
        self.fenced.entry(sm).or_default().push(bare.into());
        self.make_wait(now, bare, Wait::Fence { sm, number: wanted });
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
    /// done behind them.
    pub(super) fn recall(&mut self, now: Micros, owner: ShardId, key: SessionKey) {
        let limits = self.limits;
        if let Some(state) = self.seats.get_mut(key.c2s).filter(|state| state.life != Life::Live) {
            let queue = std::mem::take(&mut state.queue);
            let mut back = Vec::new();
            for (_, frame) in frames_of(limits, &queue) {
                match is_message_in(frame, key) {
                    true => back.push(frame.to_vec()),
                    false => state.queue.extend_from_slice(frame),
                }
            }
            for frame in back {
                match header::read(&frame) {
                    Ok(Frame::Route(route)) if route.payload.is_some() => self.once_more(now, &frame, &route),
                    _ => self.count(Counter::DropGone),
                }
            }
        }
        if self.is_winding_up(key.c2s) {
            // It was given up meanwhile: what waits is on its way back already, with word behind it.
            return;
        }
        if owner == self.id {
            return self.queue_returned(now, key.c2s);
        }
        self.data[usize::from(owner)].push(Verb::Returned(key.c2s), super::SELF, &[]);
    }
}

fn is_message_in(frame: &[u8], key: SessionKey) -> bool {
    let Ok(Frame::Route(route)) = header::read(frame) else {
        return false;
    };
    route.payload.is_some_and(|payload| {
        payload.kind == PayloadKind::Message && session_of(&payload) == Some((key.number, key.token))
    })
}
