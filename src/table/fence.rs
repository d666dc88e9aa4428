//! Which users an sm without their session may still be working for.
//!
//! sm is strictly serial: an answered question behind a burst proves that the burst is done. So each shard remembers,
//! per sm, the users for whom it sent something since its last answered question (a *fence*), and asks before the work
//! of such a user goes to another sm.

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

/// Most users remembered per sm and generation; beyond it everybody counts as touched.
pub const TOUCHED_MAX: usize = 65_536;

/// Above this many remembered users, a fence is worth sending only to forget them.
pub const TOUCHED_TIDY: usize = 4_096;

/// Users are remembered by their hash: a collision costs one needless fence.
#[derive(Debug, Default)]
struct Generation {
    users: HashSet<u64, BuildHasherDefault<Identity>>,
    everybody: bool,
}

impl Generation {
    fn contains(&self, user: u64) -> bool {
        self.everybody || self.users.contains(&user)
    }
}

/// The fences of one sm, as one shard sees them.
#[derive(Debug, Default)]
pub struct Fences {
    /// Touched since the last fence was sent.
    open: Generation,
    /// Touched before the fence in flight.
    closed: Generation,
    /// The fence in flight.
    flying: Option<u64>,
    last: u64,
    /// Fenced, but what the sm said of them may not have come to other nodes: by the ticket for that, in order.
    untold: VecDeque<(u64, Generation)>,
}

/// Most tickets at a time; users of older ones wait for the newest.
const TICKETS_MAX: usize = 64;

/// What a user must wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Nothing: the sm is done with this user.
    Nothing,
    /// The fence in flight, by its number.
    Flying(u64),
    /// A fence that must be sent first, with this number ([`Fences::send`] was called).
    Send(u64),
    /// A fence is in flight and another one is needed behind it: ask again when it is done.
    After(u64),
}

impl Fences {
    /// Of a former process: whom it gave its sm work for is not known, and an answer to one of its fences, whose numbers
    /// go up to `last`, is none to this one's.
    pub fn of_former(last: u64) -> Fences {
        let open = Generation {
            everybody: true,
            ..Generation::default()
        };
        Fences {
            open,
            last,
            ..Fences::default()
        }
    }

    /// The number of the last fence.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Something for this user went to the sm.
    pub fn touch(&mut self, user: u64) {
        if self.open.users.len() >= TOUCHED_MAX {
            self.touch_all();
        }
        if !self.open.everybody {
            self.open.users.insert(user);
        }
    }

    /// Something for anybody may have gone to the sm.
    pub fn touch_all(&mut self) {
        self.open.everybody = true;
        self.open.users.clear();
    }

    /// What must be waited for before another sm works for this user.
    pub fn need(&mut self, user: u64) -> Need {
        match (self.open.contains(user), self.flying) {
            (true, Some(flying)) => Need::After(flying),
            (true, None) => Need::Send(self.send()),
            (false, Some(flying)) if self.closed.contains(user) => Need::Flying(flying),
            _ => Need::Nothing,
        }
    }

    /// The number of a fence behind all that went to the sm so far, and whether it is to be sent now: otherwise it is the
    /// next after the one in flight.
    pub fn behind_all(&mut self) -> (u64, bool) {
        match self.flying {
            Some(_) => (self.last + 1, false),
            None => (self.send(), true),
        }
    }

    /// So many users are remembered, and no fence is in flight, that one should be sent to forget them.
    pub fn is_untidy(&self) -> bool {
        self.flying.is_none() && (self.open.everybody || self.open.users.len() >= TOUCHED_TIDY)
    }

    /// A fence is in flight.
    pub fn is_flying(&self) -> bool {
        self.flying.is_some()
    }

    /// Starts a fence; its number. None may be in flight.
    pub fn send(&mut self) -> u64 {
        debug_assert!(self.flying.is_none());
        self.last += 1;
        self.flying = Some(self.last);
        self.closed = std::mem::take(&mut self.open);
        self.last
    }

    /// This fence is in flight.
    pub fn awaits(&self, number: u64) -> bool {
        self.flying == Some(number)
    }

    /// The answer to the fence in flight came, or nothing more can be expected of it. `ticket`: with this one what the sm
    /// said of its users is on its way to other nodes.
    pub fn done(&mut self, ticket: Option<u64>) {
        self.flying = None;
        let mut users = std::mem::take(&mut self.closed);
        let Some(ticket) = ticket else { return };
        if self.untold.len() >= TICKETS_MAX
            && let Some((_, last)) = self.untold.pop_back()
        {
            users.everybody |= last.everybody;
            users.users.extend(last.users);
        }
        self.untold.push_back((ticket, users));
    }

    /// The ticket with which word of this user is under way.
    pub fn ticket(&self, user: u64) -> Option<u64> {
        let mut of_user = self.untold.iter().rev().filter(|(_, users)| users.contains(user));
        of_user.next().map(|(ticket, _)| *ticket)
    }

    /// What was under way with tickets up to this one has arrived.
    pub fn is_told(&mut self, ticket: u64) {
        while self.untold.front().is_some_and(|(of, _)| *of <= ticket) {
            self.untold.pop_front();
        }
    }

    /// The sm is gone: it works for nobody.
    pub fn clear(&mut self) {
        let last = self.last;
        *self = Fences {
            last,
            ..Fences::default()
        };
    }
}

/// The keys are hashes already.
#[derive(Debug, Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are u64")
    }
    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_touched_user_needs_an_answered_fence() {
        let mut fences = Fences::default();
        assert_eq!(fences.need(7), Need::Nothing);
        fences.touch(7);
        assert_eq!(fences.need(7), Need::Send(1));
        assert_eq!(fences.need(7), Need::Flying(1));
        fences.touch(7);
        assert_eq!(fences.need(7), Need::After(1));
        fences.done(None);
        assert_eq!(fences.need(7), Need::Send(2));
        assert!(!fences.awaits(1), "a late answer of an earlier fence proves nothing");
        fences.done(Some(1));
        assert_eq!(fences.need(7), Need::Nothing);
        assert_eq!((fences.ticket(7), fences.ticket(8)), (Some(1), None));
        fences.is_told(1);
        assert_eq!(fences.ticket(7), None);
    }

    #[test]
    fn users_of_too_many_tickets_wait_for_the_newest() {
        let mut fences = Fences::default();
        for ticket in 1..=100 {
            fences.touch(ticket);
            fences.send();
            fences.done(Some(ticket));
        }
        assert_eq!((fences.ticket(1), fences.ticket(99)), (Some(1), Some(100)));
        fences.is_told(99);
        assert_eq!((fences.ticket(1), fences.ticket(99)), (None, Some(100)));
    }

    #[test]
    fn too_many_users_count_as_everybody() {
        let mut fences = Fences::default();
        for user in 0..=TOUCHED_MAX as u64 {
            fences.touch(user);
        }
        assert!(fences.is_untidy());
        assert_eq!(fences.need(u64::MAX), Need::Send(1));
    }
}
