//! Rows: what this node says of its users, what others say of theirs, and who gives way when two say it of one.

use super::Place;
use super::message::Note;
use crate::node::Shard;
use crate::node::api::{Level, Micros};
use crate::node::counters::Counter;
use crate::node::farewell::full_hash;
use crate::node::grace::session_end;
use crate::node::lane::{Message, SessionKey};
use crate::table::rows::{Clock, Row, RowSession};
use crate::table::users::{Session, Stage, User};
use crate::table::ways::HOPS_MAX;
use crate::table::{PeerId, SeatId, ShardId, Token};
use smallvec::SmallVec;
use std::collections::VecDeque;

/// Rows that gave way are remembered for so long beyond the grace period, microseconds; and so many of them.
const OUTDONE_US: Micros = 10_000_000;
const OUTDONE_MAX: usize = 65_536;

type RowSessions = SmallVec<[RowSession; 1]>;

fn row_sessions(user: &User) -> RowSessions {
    let told = |session: &Session| RowSession {
        resource: session.resource.clone(),
        available: session.available,
    };
    user.sessions.iter().map(told).collect()
}

impl Shard {
    /// This node takes a user on, as of `stamp` (0: as of now).
    pub(in crate::node) fn claim_user(&mut self, now: Micros, bare: &str, stamp: Clock) {
        let Some(cluster) = &mut self.cluster else { return };
        let stamp = if stamp == Clock::default() {
            cluster.stamp(now)
        } else {
            cluster.witness(stamp);
            stamp
        };
        if let Some(row) = cluster.rows.get(bare).cloned()
            && cluster.rows.remove(bare, row.peer, row.clock.min(stamp))
        {
            self.outdo(now, bare, row);
        }
        self.users.change(bare, |user| user.claim = user.claim.max(stamp));
        self.is_here(bare);
        self.announce(now, bare);
    }

    /// Another node serves this user until it hears of this one's claim, and tells his contacts then. If it dies before,
    /// this node has to.
    fn outdo(&mut self, now: Micros, bare: &str, row: Row) {
        let long = self.config.grace_ms * 1_000 + OUTDONE_US;
        let Some(cluster) = &mut self.cluster else { return };
        let outdone = &mut cluster.outdone;
        while outdone.front().is_some_and(|(at, ..)| at + long <= now) || outdone.len() >= OUTDONE_MAX {
            outdone.pop_front();
        }
        if row.sessions.iter().any(|session| session.available) {
            outdone.push_back((now, bare.into(), row));
        }
    }

    /// A node has heard all claims: what it gave up it has told itself.
    pub(super) fn has_given_way(&mut self, peer: PeerId) {
        if let Some(cluster) = &mut self.cluster {
            cluster.outdone.retain(|(_, _, row)| row.peer != peer);
        }
    }

    /// Tells all nodes what this one knows of a user that it serves.
    pub(in crate::node) fn announce(&mut self, now: Micros, bare: &str) {
        self.review_redirects(now, bare);
        let Some(user) = self.users.get(bare).filter(|user| user.claim != Clock::default()) else {
            return;
        };
        let (clock, sessions) = (user.claim, Some(row_sessions(user)));
        self.tell_homes(now, bare, clock, sessions);
    }

    /// A peer's home: what this node says of a user.
    pub(in crate::node) fn row_out(&mut self, bare: &str, clock: Clock, sessions: Option<RowSessions>) {
        match sessions {
            Some(sessions) => self.post_all(&Note::Row { bare, clock, sessions }),
            None => self.post_all(&Note::RowGone { bare, clock }),
        }
    }

    fn tell_homes(&mut self, now: Micros, bare: &str, clock: Clock, sessions: Option<RowSessions>) {
        let Some(cluster) = &self.cluster else { return };
        let peers = cluster.peers.len();
        for home in 0..ShardId::try_from(peers.min(usize::from(self.shards))).unwrap_or(self.shards) {
            self.tell(
                now,
                home,
                Message::RowOut {
                    bare: bare.into(),
                    clock,
                    sessions: sessions.clone(),
                },
            );
        }
    }

    /// Gives a user back of whom nothing is left here, when the sm of this node is done with him.
    pub(in crate::node) fn release_claim(&mut self, now: Micros, bare: &str) {
        let Some(user) = self.users.get(bare) else { return };
        let busy = user.flux.as_ref().is_some_and(|flux| {
            flux.wait.is_some()
                || !flux.held.is_empty()
                || !flux.untold.is_empty()
                || flux.starts.iter().any(|start| start.stage != Stage::Waiting)
        });
        if user.claim == Clock::default() || !user.sessions.is_empty() || busy || user.wants_place() {
            return;
        }
        let clock = user.claim;
        if !self.belongs_here(bare) && self.wait_for_fences(now, bare, None) {
            return;
        }
        self.users.change(bare, |user| user.claim = Clock::default());
        self.tell_homes(now, bare, clock, None);
    }

    /// No sm of this node can serve a user whom it took on, and another node has one: he is given back as he is.
    pub(in crate::node) fn pass_on(&mut self, now: Micros, bare: &str) -> bool {
        let claim = self.users.get(bare).map_or(Clock::default(), |user| user.claim);
        if claim == Clock::default() || !self.own_holders(bare).is_empty() || self.belongs_here(bare) {
            return false;
        }
        self.users.change(bare, |user| {
            user.claim = Clock::default();
            user.sm = None;
        });
        self.tell_homes(now, bare, claim, None);
        true
    }

    /// Contacts of lost sessions are told by this node or by the one that serves the user. True when he waits for it.
    pub(in crate::node) fn tell_of_lost(&mut self, now: Micros, bare: &str) -> bool {
        if self.place(bare) == Place::Here && !self.pass_on(now, bare) {
            return self.tell_contacts(now, bare);
        }
        let untold = self.users.change(bare, |user| std::mem::take(&mut user.flux().untold));
        for resource in untold {
            self.untold_abroad(now, bare, resource, HOPS_MAX);
        }
        false
    }

    /// A session that began at an sm: true when it is this node's to keep.
    pub(in crate::node) fn is_registered_here(
        &mut self,
        now: Micros,
        bare: &str,
        sm: SeatId,
        request: Option<Token>,
        session: &Session,
    ) -> bool {
        let Some(cluster) = &self.cluster else { return true };
        if self.names.seat(sm).is_some_and(|view| view.peer.is_some()) {
            // Its node keeps it. Here only its start was kept.
            if self.users.get(bare).is_some() {
                self.users.change(bare, |user| {
                    let starts = &mut user.flux().starts;
                    starts.retain(|start| !(start.c2s == session.c2s && Some(start.id) == request));
                });
                self.settle(now, bare);
            }
            return false;
        }
        if self.users.get(bare).is_some_and(|user| user.claim != Clock::default()) {
            return true;
        }
        if let Some(row) = cluster.rows.get(bare) {
            // Meanwhile a newer claim of another node was heard of.
            let moved = row.sessions.iter().any(|other| other.resource == session.resource);
            let moved = moved.then(|| full_hash(bare, &session.resource)).into_iter().collect();
            self.take_sessions(now, Some(sm), moved);
            let key = SessionKey::of(session);
            self.throw_out(now, Some(sm), key);
            return false;
        }
        self.claim_user(now, bare, Clock::default());
        true
    }

    /// Tells a new peer's home all rows of this shard.
    pub(in crate::node) fn tell_rows(&mut self, now: Micros, peer: PeerId, reborn: bool) {
        let told_away = self.cluster.as_mut().map(|cluster| cluster.told_away(peer, reborn));
        let claimed = self.users.iter().filter(|(_, user)| user.claim != Clock::default());
        let rows = claimed
            .map(|(bare, user)| (bare.into(), user.claim, row_sessions(user)))
            .collect();
        let (home, exits) = (self.home_of(peer), self.own_exits());
        let told_away = told_away.unwrap_or_default();
        self.tell(
            now,
            home,
            Message::RowsDone {
                peer,
                rows,
                exits,
                told_away,
            },
        );
    }

    /// Another node serves a user, or no longer does.
    pub(in crate::node) fn row_in(
        &mut self,
        now: Micros,
        peer: PeerId,
        bare: &str,
        clock: Clock,
        sessions: Option<RowSessions>,
    ) {
        let Some(cluster) = &mut self.cluster else { return };
        cluster.witness(clock);
        let Some(sessions) = sessions else {
            cluster.rows.remove(bare, peer, clock);
            return self.settle(now, bare);
        };
        let newer = cluster.name_of(peer) > &*cluster.own;
        let own = self
            .users
            .get(bare)
            .map(|user| user.claim)
            .filter(|own| *own != Clock::default());
        let row = Row { peer, clock, sessions };
        match own {
            Some(own) if (clock, newer) > (own, false) => self.give_way(now, bare, row),
            Some(_) => {}
            None => {
                let online = row.sessions.iter().any(|session| session.available);
                let is_back = |resource: &str| row.sessions.iter().any(|session| *session.resource == *resource);
                self.stop_telling(now, bare, is_back);
                if let Some(cluster) = &mut self.cluster {
                    cluster.rows.set(bare, row);
                }
                self.is_back(now, bare, online);
                self.settle(now, bare);
            }
        }
    }

    /// Two nodes serve one user: the newer claim wins. Whoever has a session here is ended, and logs in again there.
    fn give_way(&mut self, now: Micros, bare: &str, row: Row) {
        self.count(Counter::Conflicts);
        let node = self
            .cluster
            .as_ref()
            .map_or("", |cluster| cluster.name_of(row.peer))
            .to_owned();
        self.log(
            Level::Notice,
            None,
            format!("mesh: {bare} has a newer session on {node}: those on this node are ended"),
        );
        let sm = self.users.get(bare).and_then(|user| user.sm);
        let sessions = self.users.change(bare, |user| {
            user.claim = Clock::default();
            let starts = &mut user.flux().starts;
            starts.iter_mut().for_each(|start| start.stage = Stage::Waiting);
            std::mem::take(&mut user.sessions)
        });
        // Who has a session there and is not available in it is gone for those who saw him here.
        let online = row.sessions.iter().filter(|session| session.available);
        let online: SmallVec<[Box<str>; 2]> = online.map(|session| session.resource.clone()).collect();
        let is_online = !online.is_empty();
        if let Some(cluster) = &mut self.cluster {
            cluster.rows.set(bare, row);
        }
        self.is_back(now, bare, is_online);
        let moved = sessions.iter().filter(|session| online.contains(&session.resource));
        let moved = moved.map(|session| full_hash(bare, &session.resource)).collect();
        self.take_sessions(now, sm, moved);
        // Who asks the sm here in this moment hears that nobody is there.
        self.tell_all(now, &Message::Moved { full: bare.into() });
        for session in sessions {
            let full = format!("{bare}/{}", session.resource).into();
            self.tell_all(now, &Message::Moved { full });
            let key = SessionKey::of(&session);
            self.throw_out(now, sm, key);
        }
        if let Some(sm) = sm {
            self.touch(bare, sm);
        }
        self.settle(now, bare);
    }

    /// Ends a session at its c2s and at its sm, of this node.
    pub(super) fn throw_out(&mut self, now: Micros, sm: Option<SeatId>, key: SessionKey) {
        let (Some(c2s), Some((sm, sm_id))) = (
            self.names.seat(key.c2s).map(|view| (view.home, view.id.clone())),
            sm.and_then(|sm| Some((sm, self.names.seat(sm)?.id.clone()))),
        ) else {
            return;
        };
        let frame = session_end(&sm_id, &c2s.1, key.number, &key.token);
        self.tell(now, c2s.0, Message::EndClient { key });
        self.hand(now, sm, crate::node::SELF, &frame);
    }

    /// What the sm of these sessions says of their end is not true. Known to its home before it hears of their end.
    pub(in crate::node) fn take_sessions(&mut self, now: Micros, sm: Option<SeatId>, sessions: Vec<u64>) {
        let view = sm.and_then(|sm| self.names.seat(sm)).filter(|_| !sessions.is_empty());
        let Some((home, sm)) = view.map(|view| (view.home, view.id.clone())) else {
            return;
        };
        let sessions = sessions.into();
        self.tell(now, home, Message::SessionsTaken { sm, sessions });
    }

    /// Every slice: a peer is gone, and the sessions of its sm with it. The directory owner of each user tells his
    /// contacts; whoever waits for an answer from there asks anew.
    pub(super) fn peer_rows_lost(&mut self, now: Micros, peer: PeerId) {
        let Some(cluster) = &mut self.cluster else { return };
        let (outdone, kept) = std::mem::take(&mut cluster.outdone)
            .into_iter()
            .partition::<VecDeque<_>, _>(|(_, _, row)| row.peer == peer);
        cluster.outdone = kept;
        let outdone = outdone.into_iter().map(|(_, bare, row)| (bare, row, true));
        let leaving = std::mem::take(&mut cluster.leaving).into_iter();
        for (bare, row, outdone) in leaving.map(|(bare, row)| (bare, row, false)).chain(outdone) {
            if outdone || self.belongs_here(&bare) {
                if let Some(cluster) = &mut self.cluster {
                    cluster.note_told_away(&bare, &row);
                }
                let lost = row.sessions.into_iter().filter(|session| session.available);
                self.users.change(&bare, |user| {
                    user.flux().untold.extend(lost.map(|session| session.resource));
                });
            }
            self.settle(now, &bare);
        }
        self.ask_elsewhere(now, Some(peer));
    }

    /// Sessions of a user died elsewhere, and this node may be the one to tell.
    pub(in crate::node) fn learn_untold(&mut self, now: Micros, bare: &str, resource: Box<str>, hops: u8) {
        match self.place(bare) {
            Place::Here => {
                self.users.change(bare, |user| user.flux().untold.push(resource));
                self.settle(now, bare);
            }
            Place::At(_) => self.untold_abroad(now, bare, resource, hops),
        }
    }
}
