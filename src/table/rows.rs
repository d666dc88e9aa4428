//! What other nodes say of their users: one row for each user whom a node serves, written by that node alone.
//!
//! A row is a claim ("his sessions are here") with the sessions it has so far. For one user the newest claim counts:
//! claims carry the hybrid logical clock of the `start` that made them, and of two nodes that claim one user the older
//! gives way.

use super::PeerId;
use crate::jid::TableMap;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

/// A hybrid logical clock: milliseconds since 1970, shifted by [`Clock::COUNTER_BITS`], and a counter. 0: never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Clock(pub u64);

impl Clock {
    /// The counter's bits.
    pub const COUNTER_BITS: u32 = 16;

    /// Later than both `last` and the wall clock.
    #[must_use]
    pub fn next(last: Clock, wall_ms: u64) -> Clock {
        Clock((last.0 + 1).max(wall_ms << Clock::COUNTER_BITS))
    }
}

/// A session as other nodes need to know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowSession {
    /// Resource, prepared.
    pub resource: Box<str>,
    /// It is available.
    pub available: bool,
}

/// A user whom another node serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// That node.
    pub peer: PeerId,
    /// When its newest session was asked for.
    pub clock: Clock,
    /// The sessions.
    pub sessions: SmallVec<[RowSession; 1]>,
}

/// A shard's slice of the rows of all other nodes. Keys are prepared bare JIDs.
#[derive(Debug, Default)]
pub struct Rows {
    rows: TableMap<Box<str>, Row>,
    /// How many are of each node.
    of_peer: TableMap<PeerId, usize>,
}

impl Rows {
    /// Finds a user.
    #[inline]
    pub fn get(&self, bare: &str) -> Option<&Row> {
        self.rows.get(bare)
    }

    /// A node says so. False when a newer claim of another node is known: the teller will give way.
    pub fn set(&mut self, bare: &str, row: Row) -> bool {
        match self.rows.get_mut(bare) {
            Some(old) if old.peer != row.peer && old.clock >= row.clock => false,
            Some(old) => {
                let (before, now) = (old.peer, row.peer);
                *old = row;
                if before != now {
                    self.uncount(before);
                    *self.of_peer.entry(now).or_default() += 1;
                }
                true
            }
            None => {
                *self.of_peer.entry(row.peer).or_default() += 1;
                self.rows.insert(bare.into(), row);
                true
            }
        }
    }

    fn uncount(&mut self, peer: PeerId) {
        if let Some(count) = self.of_peer.get_mut(&peer) {
            *count -= 1;
        }
    }

    /// A node no longer serves a user, as of its claim of `clock`. True when that was what is known.
    pub fn remove(&mut self, bare: &str, peer: PeerId, clock: Clock) -> bool {
        let known = self
            .rows
            .get(bare)
            .is_some_and(|row| row.peer == peer && row.clock <= clock);
        if known {
            self.rows.remove(bare);
            self.uncount(peer);
        }
        known
    }

    /// A node is gone: its rows.
    pub fn drain_peer(&mut self, peer: PeerId) -> Vec<(Box<str>, Row)> {
        self.of_peer.remove(&peer);
        self.rows.extract_if(|_, row| row.peer == peer).collect()
    }

    /// All rows, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Row)> {
        self.rows.iter().map(|(bare, row)| (&**bare, row))
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// How many are of this node.
    pub fn len_of(&self, peer: PeerId) -> usize {
        self.of_peer.get(&peer).copied().unwrap_or(0)
    }

    /// None.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(peer: u16, clock: u64) -> Row {
        Row {
            peer: PeerId(peer),
            clock: Clock(clock),
            sessions: SmallVec::new(),
        }
    }

    #[test]
    fn the_newest_claim_counts_and_only_its_owner_takes_it_back() {
        let mut rows = Rows::default();
        assert!(rows.set("u@a", row(1, 5)));
        assert!(!rows.set("u@a", row(2, 5)), "an older or equal claim of another");
        assert!(rows.set("u@a", row(2, 6)));
        assert!(rows.set("w@a", row(1, 1)) && rows.set("w@a", row(1, 2)));
        assert_eq!((rows.len_of(PeerId(1)), rows.len_of(PeerId(2))), (1, 1));
        assert!(!rows.remove("u@a", PeerId(1), Clock(9)), "not its row");
        assert!(!rows.remove("u@a", PeerId(2), Clock(5)), "a newer claim was made since");
        assert!(rows.remove("u@a", PeerId(2), Clock(6)));
        assert_eq!(rows.drain_peer(PeerId(1)).len(), 1);
        assert_eq!((rows.len_of(PeerId(1)), rows.len_of(PeerId(2))), (0, 0));
        assert!(rows.is_empty());
    }

    #[test]
    fn the_clock_never_goes_back() {
        let first = Clock::next(Clock::default(), 1_000);
        let second = Clock::next(first, 900);
        assert!(second > first);
        assert_eq!(Clock::next(second, 2_000), Clock(2_000 << Clock::COUNTER_BITS));
    }
}
