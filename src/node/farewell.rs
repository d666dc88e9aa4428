//! Farewells that are not true: what an sm says of the end of sessions that were taken from it without its knowledge.
//!
//! An sm that was given up may live all the same. When it is back it ends what it still holds, and tells the contacts.
//! They have heard it from a surrogate, or the user is online again at another sm by then. The same holds for a session
//! that lost against a newer claim of another node. sm is strictly serial: what it says of a full JID before it has
//! started that one anew is of the session that was taken from it, and is dropped; what it says later is true again.

use super::Shard;
use super::counters::Counter;
use crate::jid::{self, TableHasher, TableMap};
use crate::table::SeatId;
use crate::table::names::Multi;
use crate::wire::header::{Payload, PayloadKind, Route};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// Most sessions that one shard remembers so (8 bytes each). Of more the farewells pass.
const TAKEN_MAX: usize = 262_144;

/// Stands for all sm of this node: they may hold sessions of a former life of it.
pub(super) const ANY_SM: &str = "";

/// Sessions that were taken from their sm: the hashes of their full JIDs, by the sm's id.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Farewells {
    taken: TableMap<Box<str>, HashSet<u64, TableHasher>>,
    count: usize,
}

impl Farewells {
    /// No sm has any to say.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// False when there is no room.
    fn take(&mut self, sm: &str, full: u64) -> bool {
        if self.count >= TAKEN_MAX {
            return false;
        }
        self.count += usize::from(self.taken.entry(sm.into()).or_default().insert(full));
        true
    }

    fn forget(&mut self, sm: &str, full: u64) {
        for sm in [sm, ANY_SM] {
            let Some(taken) = self.taken.get_mut(sm) else { continue };
            self.count -= usize::from(taken.remove(&full));
            if taken.is_empty() {
                self.taken.remove(sm);
            }
        }
    }

    fn was_taken(&self, sm: &str, full: u64) -> bool {
        let from = |sm| self.taken.get(sm).is_some_and(|taken| taken.contains(&full));
        from(sm) || from(ANY_SM)
    }
}

/// A session, by its prepared full JID. The same in the process that takes over.
pub(super) fn full_hash(bare: &str, resource: &str) -> u64 {
    hash(&format!("{bare}/{resource}"))
}

pub(super) fn hash(full: &str) -> u64 {
    jid::cluster_hash(&jid::ClusterKey::default(), full)
}

impl Shard {
    /// These sessions (hashes of full JIDs) were taken from the sm of this id.
    pub(super) fn sessions_taken(&mut self, sm: &str, sessions: &[u64]) {
        for full in sessions {
            if !self.farewells.take(sm, *full) {
                self.count(Counter::FarewellsUnknown);
            }
        }
    }

    /// Session control from an sm: with `started` a full JID is its own again.
    pub(super) fn farewells_may_follow(&mut self, sm: SeatId, payload: &Payload<'_>) {
        if self.farewells.is_empty() || payload.action.is_none_or(|action| action.0 != b"started") {
            return;
        }
        let target = payload.target.and_then(|target| target.unescape());
        if let (Some(view), Some(full)) = (self.names.seat(sm), target.as_deref().and_then(jid::full_key)) {
            self.farewells.forget(&view.id, hash(&full));
        }
    }

    /// sm says to a user, here or elsewhere, that somebody went offline whose session was taken from it. Local services
    /// are let hear it: no surrogate tells them (a room's occupant is not in its roster).
    pub(super) fn is_untrue_farewell(&self, sm: SeatId, route: &Route<'_>, payload: &Payload<'_>) -> bool {
        if self.farewells.is_empty() || payload.kind != PayloadKind::Presence || payload.c2s.is_some() {
            return false;
        }
        let service = |to| self.names.find(to).is_some_and(|(_, name)| name.multi != Multi::To);
        let (Some(sm), Some(from)) = (self.names.seat(sm), payload.from.and_then(|from| from.unescape())) else {
            return false;
        };
        payload.kind_attr.is_some_and(|kind| kind.0 == b"unavailable")
            && !route.to.is_some_and(service)
            && jid::full_key(&from).is_some_and(|full| self.farewells.was_taken(&sm.id, hash(&full)))
    }
}
