//! Who may connect, and how often: the limits of `<io>` for components, a number for peers.

use crate::config::{Access, Io, Rate};
use crate::node::api::Micros;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Addresses whose connects are counted; when there are more, the idle ones are forgotten, then all.
const ADDRESSES_MAX: usize = 4_096;

/// Links that other nodes have opened, at most. A node of 64 needs a few hundred; who gets in without being one of them
/// is soon sent away.
pub(crate) const PEER_LINKS_MAX: u32 = 1_024;

/// How often something happened of late: more than [`Rate::amount`] within [`Rate::per_s`] bars it for
/// [`Rate::throttle_s`].
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Meter {
    since: Micros,
    amount: u64,
    barred_until: Micros,
}

impl Meter {
    /// Counts `amount`; the time until which no more may come, if that was too much.
    pub(crate) fn count(&mut self, rate: &Rate, now: Micros, amount: u64) -> Option<Micros> {
        if now < self.barred_until {
            return Some(self.barred_until);
        }
        if now - self.since.min(now) >= seconds(rate.per_s) {
            self.since = now;
            self.amount = 0;
        }
        self.amount = self.amount.saturating_add(amount);
        if self.amount <= rate.amount {
            return None;
        }
        self.amount = 0;
        self.since = now + seconds(rate.throttle_s);
        self.barred_until = self.since;
        Some(self.barred_until)
    }

    /// Until when nothing more may come; in the past: it may.
    pub(crate) fn barred_until(&self) -> Micros {
        self.barred_until
    }

    fn idle(&self, rate: &Rate, now: Micros) -> bool {
        now >= self.barred_until && now.saturating_sub(self.since) >= seconds(rate.per_s)
    }
}

fn seconds(seconds: u32) -> Micros {
    Micros::from(seconds) * 1_000_000
}

/// A place among the links of the process; given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    taken: Arc<AtomicU32>,
}

impl Permit {
    /// A place among at most `max`.
    fn take(taken: &Arc<AtomicU32>, max: u32) -> Option<Permit> {
        let permit = Permit {
            taken: Arc::clone(taken),
        };
        // Dropping it gives the place back.
        (taken.fetch_add(1, Ordering::Relaxed) < max).then_some(permit)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The door: decides on each connection.
pub(crate) struct Door {
    access: Access,
    connects: Option<Rate>,
    /// How much one link may send.
    pub(crate) bytes: Option<Rate>,
    links_max: u32,
    taken: Arc<AtomicU32>,
    peers: Arc<AtomicU32>,
    meters: HashMap<IpAddr, Meter>,
}

impl Door {
    pub(crate) fn new(io: &Io, taken: Arc<AtomicU32>) -> Door {
        Door {
            access: io.access.clone(),
            connects: io.connects,
            bytes: io.bytes,
            links_max: io.max_fds,
            taken,
            peers: Arc::default(),
            meters: HashMap::new(),
        }
    }

    /// New rules; what was counted stays.
    pub(crate) fn reload(&mut self, io: &Io) {
        self.access = io.access.clone();
        self.connects = io.connects;
        self.bytes = io.bytes;
        self.links_max = io.max_fds;
    }

    /// Lets a connection from `ip` in, or says why not.
    pub(crate) fn admit(&mut self, ip: IpAddr, now: Micros) -> Result<Permit, &'static str> {
        if !self.access.permits(ip) {
            return Err("not allowed by <access>");
        }
        if let Some(rate) = self.connects {
            if self.meters.len() >= ADDRESSES_MAX && !self.meters.contains_key(&ip) {
                self.meters.retain(|_, meter| !meter.idle(&rate, now));
                if self.meters.len() >= ADDRESSES_MAX {
                    self.meters.clear();
                }
            }
            if self.meters.entry(ip).or_default().count(&rate, now, 1).is_some() {
                return Err("too many connects from this address (<rate><connects>)");
            }
        }
        Permit::take(&self.taken, self.links_max).ok_or("too many links (<max_fds>)")
    }

    /// Lets in a connection that another process had let in.
    pub(crate) fn admit_again(&mut self) -> Option<Permit> {
        Permit::take(&self.taken, u32::MAX)
    }

    /// Lets a connection to the mesh's port in, or says why not. `<io>` is for components: a cluster must not fall
    /// apart since its nodes reconnect in a hurry.
    pub(crate) fn admit_peer(&self) -> Result<Permit, &'static str> {
        Permit::take(&self.peers, PEER_LINKS_MAX).ok_or("too many links of peers")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn meter_bars_for_the_time_stated_and_then_forgets() {
        let rate = Rate {
            amount: 3,
            per_s: 1,
            throttle_s: 5,
        };
        let mut meter = Meter::default();
        let start = 10_000_000;
        for _ in 0..3 {
            assert_eq!(meter.count(&rate, start, 1), None);
        }
        assert_eq!(meter.count(&rate, start, 1), Some(start + 5_000_000));
        assert_eq!(meter.count(&rate, start + 4_999_999, 1), Some(start + 5_000_000));
        assert_eq!(meter.count(&rate, start + 5_000_000, 3), None);
        assert!(meter.count(&rate, start + 5_000_000, 1).is_some());
    }

    #[test]
    fn permits_are_bounded_and_come_back() {
        let io = Io {
            max_fds: 2,
            ..Io::default()
        };
        let mut door = Door::new(&io, Arc::default());
        let ip = IpAddr::from([127, 0, 0, 1]);
        let first = door.admit(ip, 0).unwrap();
        let _second = door.admit(ip, 0).unwrap();
        assert!(door.admit(ip, 0).is_err());
        drop(first);
        assert!(door.admit(ip, 0).is_ok());
    }

    #[test]
    fn peers_have_a_limit_of_their_own() {
        let io = Io {
            max_fds: 0,
            ..Io::default()
        };
        let mut door = Door::new(&io, Arc::default());
        assert!(door.admit(IpAddr::from([127, 0, 0, 1]), 0).is_err());
        let mut permits: Vec<Permit> = (0..PEER_LINKS_MAX).map(|_| door.admit_peer().unwrap()).collect();
        assert!(door.admit_peer().is_err());
        permits.pop();
        assert!(door.admit_peer().is_ok());
    }

    #[test]
    fn many_addresses_do_not_grow_the_table() {
        let io = Io {
            max_fds: u32::MAX,
            connects: Some(Rate {
                amount: 1,
                per_s: 60,
                throttle_s: 60,
            }),
            ..Io::default()
        };
        let mut door = Door::new(&io, Arc::default());
        for n in 0..3 * ADDRESSES_MAX as u32 {
            door.admit(IpAddr::from(n.to_be_bytes()), 1).unwrap();
        }
        assert!(door.meters.len() <= ADDRESSES_MAX);
    }
}
