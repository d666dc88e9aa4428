//! Sessions whose c2s is lost, until their sm is known to have ended them.
//!
//! sm is told of the loss by an advert, on which it ends those sessions and tells their contacts; it answers nothing.
//! Until it has answered a fence behind the advert it may die with what it was told: then a surrogate tells the
//! contacts. To be told twice does no harm.

use super::Shard;
use super::api::Micros;
use super::counters::Counter;
use super::farewell::full_hash;
use super::lane::{Sampled, SessionKey};
use super::placement::domain_of;
use crate::jid::TableMap;
use crate::table::SeatId;
use crate::table::users::Session;
use serde::{Deserialize, Serialize};

/// Most orphans of one sm that a shard remembers. Of more the contacts are not told if the sm dies as well.
const ORPHANS_MAX: usize = 65_536;

/// A session that its sm may not have ended yet, and that contacts have seen.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Orphan {
    bare: Box<str>,
    resource: Box<str>,
    key: SessionKey,
    /// With the answer to this fence its sm has ended it.
    #[serde(skip)]
    fence: u64,
}

/// The orphans among one shard's users, by their sm.
pub(super) type Orphans = TableMap<SeatId, Vec<Orphan>>;

impl Orphan {
    pub(super) fn bare(&self) -> &str {
        &self.bare
    }
}

impl Shard {
    /// The c2s of this session is lost; its sm has been told, or will be as soon as it has a link.
    pub(super) fn orphaned(&mut self, now: Micros, bare: &str, sm: SeatId, session: Session) {
        let orphan = Orphan {
            bare: bare.into(),
            key: SessionKey::of(&session),
            resource: session.resource,
            fence: 0,
        };
        self.watch_orphan(now, sm, orphan);
    }

    /// Remembers one until its sm has answered a fence behind all that went there so far.
    pub(super) fn watch_orphan(&mut self, now: Micros, sm: SeatId, orphan: Orphan) {
        let orphans = self.orphans.entry(sm).or_default();
        if orphans.len() >= ORPHANS_MAX {
            return self.count(Counter::OrphansUnknown);
        }
        let (fence, now_due) = self.fences.entry(sm).or_default().behind_all();
        let domain = domain_of(&orphan.bare).to_owned();
        orphans.push(Orphan { fence, ..orphan });
        if now_due {
            self.send_fence(now, sm, fence, &domain);
        }
    }

    /// All of them, with their sm.
    pub(super) fn all_orphans(&self) -> Vec<(SeatId, Orphan)> {
        let of_sm = self.orphans.iter();
        of_sm
            .flat_map(|(sm, orphans)| orphans.iter().map(|orphan| (*sm, orphan.clone())))
            .collect()
    }

    /// An sm answered a fence: it has ended those that were orphans before. Behind the others goes another fence.
    pub(super) fn orphans_ended(&mut self, now: Micros, sm: SeatId, fence: u64) {
        let (Some(orphans), Some(fences)) = (self.orphans.get_mut(&sm), self.fences.get_mut(&sm)) else {
            return;
        };
        orphans.retain(|orphan| orphan.fence > fence);
        match orphans.first().map(|orphan| orphan.bare.clone()) {
            Some(bare) if !fences.is_flying() => {
                let next = fences.send();
                self.send_fence(now, sm, next, domain_of(&bare));
            }
            Some(_) => {}
            None => drop(self.orphans.remove(&sm)),
        }
    }

    /// What an sm that came back is to be asked of its orphans: so many at most.
    pub(super) fn sample_orphans(&self, sm: SeatId, most: usize) -> Vec<Sampled> {
        let orphans = self.orphans.get(&sm).into_iter().flatten().take(most);
        let sampled = |orphan: &Orphan| Sampled {
            key: orphan.key,
            sure: false,
            left: true,
        };
        orphans.map(sampled).collect()
    }

    /// An sm died before it had ended these, for all that is known: their users, who are to be settled next, and the
    /// hashes of their full JIDs.
    pub(super) fn orphans_lost(&mut self, sm: SeatId) -> Vec<(Box<str>, u64)> {
        let orphans = self.orphans.remove(&sm).unwrap_or_default();
        let untold = orphans.into_iter().map(|orphan| {
            let full = full_hash(&orphan.bare, &orphan.resource);
            self.users
                .change(&orphan.bare, |user| user.flux().untold.push(orphan.resource));
            (orphan.bare, full)
        });
        untold.collect()
    }

    /// The same of an sm that is there, and does not know them.
    pub(super) fn orphans_unknown(&mut self, now: Micros, sm: SeatId) {
        for (bare, _) in self.orphans_lost(sm) {
            self.settle(now, &bare);
        }
    }
}
