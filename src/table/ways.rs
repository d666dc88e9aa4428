//! By which way a shard last sent something for a user to another node, and whose frames for whom it gives back.
//!
//! (By a hash that outlives the process, if the next one hashes alike; else its first moments know no ways.)
//! When a way changes, what was sent by the old one must be settled first (`node/cluster/turn.rs`). So the last way of
//! each user is remembered for longer than anything can be under way.

use super::PeerId;
use super::rows::Clock;
use crate::jid::TableMap;
use serde::{Deserialize, Serialize};

/// How a frame for a user travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Path {
    /// The node that it comes from; `None`: a component of this one.
    pub from: Option<PeerId>,
    /// How often it may still cross to another node.
    pub hops: u8,
    /// Of a session's `start`: the directory owner's word that the receiver serves the user. 0: not placed yet.
    pub stamp: Clock,
    /// It was under way to what is lost: it goes before what was sent since.
    pub again: bool,
}

/// Most nodes that a start crosses: to the owner, to where the user was, and to where he moved meanwhile.
pub const HOPS_MAX: u8 = 4;

/// How often a frame is sent, before its user counts as not to be reached.
pub const TRIES_MAX: u8 = 32;

impl Path {
    /// Of a frame from a component of this node.
    pub const LOCAL: Path = Path {
        from: None,
        hops: TRIES_MAX,
        stamp: Clock(0),
        again: false,
    };

    /// It comes from a component of this node.
    pub fn is_local(self) -> bool {
        self.from.is_none()
    }

    /// The path behind one more node; `None` when it has crossed enough.
    pub fn further(self) -> Option<Path> {
        let hops = self.hops.checked_sub(1)?;
        Some(Path { hops, ..self })
    }
}

/// Users are remembered for at least so long, microseconds: more than the time after which a silent node is dead.
pub const REMEMBERED_US: u64 = 15_000_000;

/// Most users remembered of one half; beyond it the older half is forgotten early.
pub const USERS_MAX: usize = 131_072;

/// The ways of one slice, by the user's hash. A collision costs one needless wait.
#[derive(Debug, Default)]
pub struct Ways {
    new: TableMap<u64, PeerId>,
    old: TableMap<u64, PeerId>,
    since_us: u64,
}

impl Ways {
    /// The last way of a user, if it was used lately.
    #[inline]
    pub fn last(&self, user: u64) -> Option<PeerId> {
        self.new.get(&user).or_else(|| self.old.get(&user)).copied()
    }

    /// Something for this user goes to `peer`.
    #[inline]
    pub fn note(&mut self, now: u64, user: u64, peer: PeerId) {
        if now >= self.since_us + REMEMBERED_US || self.new.len() >= USERS_MAX {
            self.old = std::mem::take(&mut self.new);
            self.since_us = now;
        }
        self.new.insert(user, peer);
    }

    /// All that are remembered.
    pub fn iter(&self) -> impl Iterator<Item = (u64, PeerId)> {
        self.old.iter().chain(&self.new).map(|(user, peer)| (*user, *peer))
    }

    /// Those that one shard of a former process remembered, whose slices were other ones.
    pub fn restore(&mut self, ways: &[(u64, PeerId)]) {
        let room = USERS_MAX.saturating_sub(self.new.len());
        self.new.extend(ways.iter().rev().take(room).rev().copied());
    }

    /// Everything that went by the old way has arrived.
    pub fn forget(&mut self, user: u64) {
        self.new.remove(&user);
        self.old.remove(&user);
    }
}

/// Most users whose frames from one node or another are given back at a time; beyond it one more is given back out of
/// order.
pub const ASTRAY_MAX: usize = 65_536;

/// Nodes and users (by hash): what comes from that node for that user is given back, until its marker comes.
#[derive(Debug, Default)]
pub struct Astray {
    pairs: TableMap<(PeerId, u64), ()>,
}

impl Astray {
    /// Nothing is given back at present, as nearly always.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// It is so.
    pub fn has(&self, from: PeerId, user: u64) -> bool {
        self.pairs.contains_key(&(from, user))
    }

    /// From now on.
    pub fn insert(&mut self, from: PeerId, user: u64) {
        if self.pairs.len() < ASTRAY_MAX {
            self.pairs.insert((from, user), ());
        }
    }

    /// No longer.
    pub fn remove(&mut self, from: PeerId, user: u64) {
        self.pairs.remove(&(from, user));
    }

    /// That node is gone.
    pub fn forget(&mut self, from: PeerId) {
        self.pairs.retain(|(of, _), ()| *of != from);
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (PeerId, u64)> {
        self.pairs.keys().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembered_for_the_time_stated_and_not_for_ever() {
        let mut ways = Ways::default();
        ways.note(1, 7, PeerId(3));
        ways.note(REMEMBERED_US, 8, PeerId(4));
        assert_eq!(ways.last(7), Some(PeerId(3)));
        ways.note(REMEMBERED_US + 1, 9, PeerId(4));
        assert_eq!(ways.last(7), Some(PeerId(3)), "the older half");
        ways.note(2 * REMEMBERED_US + 1, 9, PeerId(4));
        assert_eq!(ways.last(7), None);
        ways.forget(9);
        assert_eq!(ways.last(9), None);
    }
}
