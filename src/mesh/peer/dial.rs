//! When to dial a peer, and where: at once, then with growing pauses, each address in turn.

use super::super::Micros;
use super::super::hello::Address;
use rand_core::RngCore;

/// A dial of a peer. Never used twice by the same peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DialId(pub u64);

/// How a dial failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DialFailure {
    /// The host answered that nobody listens there.
    Refused,
    /// Nothing came back in time, or no way leads there.
    Silent,
    /// The name has no address now, or the socket could not be made; the system's words.
    Other(String),
}

/// How long a dial may take, microseconds: the shell gives up then and reports [`DialFailure::Silent`].
pub const DIAL_US_MAX: Micros = 1_000_000;
/// Longest pause between two dials, microseconds.
pub const PAUSE_US_MAX: Micros = 2_000_000;
/// The shortest pause after a failed round of dials, microseconds. It grows with the time for which a lane has been in
/// need: a peer that was there a moment ago is probably there again in a moment.
const PAUSE_US_FIRST: Micros = 100_000;
/// A pause is this part of the time in need.
const PAUSE_PART: u64 = 4;
/// No two dials within so long, however well they went, microseconds.
const PAUSE_US_MIN: Micros = 50_000;
/// A dial without an answer for so long has lost a packet, and the kernel sends the next one after a second.
const DIAL_US_VAIN: Micros = 300_000;
/// A dial of which the shell says nothing for so long is forgotten, microseconds.
const DIAL_US_FORGOTTEN: Micros = 2 * DIAL_US_MAX;

/// The dials of one lane.
#[derive(Debug, Default)]
pub(crate) struct Dialler {
    under_way: Option<(DialId, Address, Micros)>,
    /// A whole round of addresses has failed.
    round_failed: bool,
    /// Since when the lane is in need.
    needed_at: Micros,
    next_at: Micros,
    dialled_at: Option<Micros>,
    address: usize,
}

impl Dialler {
    /// The next dial may go at `at`.
    pub(crate) fn starting(at: Micros) -> Dialler {
        Dialler {
            needed_at: at,
            next_at: at,
            ..Dialler::default()
        }
    }

    /// Where to dial now, if it is time.
    pub(crate) fn start(&mut self, now: Micros, dial: DialId, addresses: &[Address]) -> Option<Address> {
        if self.ready_at().is_none_or(|at| now < at) || addresses.is_empty() {
            return None;
        }
        let address = addresses[self.address % addresses.len()].clone();
        self.under_way = Some((dial, address.clone(), now));
        self.dialled_at = Some(now);
        Some(address)
    }

    /// When the next dial may go; `None` while one is under way.
    pub(crate) fn ready_at(&self) -> Option<Micros> {
        self.under_way.is_none().then_some(self.next_at)
    }

    /// When a dial under way is forgotten.
    pub(crate) fn forgets_at(&self) -> Option<Micros> {
        self.under_way.as_ref().map(|(.., at)| at + DIAL_US_FORGOTTEN)
    }

    /// The dial is over, one way or the other; where it went, if it was the one under way.
    pub(crate) fn finished(&mut self, dial: DialId) -> Option<Address> {
        let (_, address, _) = self.under_way.take_if(|(under_way, ..)| *under_way == dial)?;
        Some(address)
    }

    /// Whether this dial is under way.
    pub(crate) fn is(&self, dial: DialId) -> bool {
        self.under_way
            .as_ref()
            .is_some_and(|(under_way, ..)| *under_way == dial)
    }

    /// The address now dialled is the last of a round, or a whole round has failed before.
    pub(crate) fn ends_round(&self, addresses: usize) -> bool {
        self.round_failed || (self.address + 1).is_multiple_of(addresses.max(1))
    }

    /// No connection came of it: the next goes to the next address, after a pause.
    pub(crate) fn failed(&mut self, now: Micros, addresses: usize, rng: &mut impl RngCore) {
        self.address += 1;
        self.round_failed |= self.address.is_multiple_of(addresses.max(1));
        let pause = if self.round_failed {
            let in_need = now.saturating_sub(self.needed_at);
            (in_need / PAUSE_PART).clamp(PAUSE_US_FIRST, PAUSE_US_MAX)
        } else {
            PAUSE_US_MIN
        };
        // Between three quarters and all of it, so that many nodes do not dial in step.
        let jitter = (u64::from(rng.next_u32()) * (pause / 4)) >> 32;
        self.next_at = now + pause - jitter;
    }

    /// The shell said nothing for too long.
    pub(crate) fn forget(&mut self, now: Micros) -> bool {
        let late = self.forgets_at().is_some_and(|at| now >= at);
        if late {
            self.under_way = None;
        }
        late
    }

    /// The peer answers elsewhere: a dial that has been under way for long met the cut, and the next one goes `delay` later.
    pub(crate) fn abandon(&mut self, now: Micros, delay: Micros) {
        self.under_way.take_if(|(.., at)| now >= *at + DIAL_US_VAIN);
        self.needed(now, delay);
    }

    /// A connection that served is lost or stuck: the next dial goes `delay` later.
    pub(crate) fn needed(&mut self, now: Micros, delay: Micros) {
        (self.round_failed, self.needed_at) = (false, now);
        let earliest = self.dialled_at.map_or(0, |at| at + PAUSE_US_MIN);
        self.next_at = (now + delay).max(earliest);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    fn address(host: &str) -> Address {
        Address {
            host: host.into(),
            port: 1,
        }
    }

    #[test]
    fn at_once_then_with_growing_pauses() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let addresses = [address("a"), address("b")];
        let mut dialler = Dialler::starting(0);
        let (mut now, mut starts, mut hosts) = (0, Vec::new(), String::new());
        for n in 0..24 {
            now = dialler.ready_at().unwrap();
            let dial = DialId(n);
            hosts.push_str(&dialler.start(now, dial, &addresses).unwrap().host);
            assert_eq!(dialler.start(now, DialId(99), &addresses), None, "one at a time");
            starts.push(now);
            assert!(dialler.finished(dial).is_some() && dialler.finished(dial).is_none());
            dialler.failed(now, addresses.len(), &mut rng);
        }
        assert_eq!(hosts, "ab".repeat(12));
        assert_eq!(starts[0], 0);
        assert!(
            starts[8] < 1_500_000,
            "a second later it is still dialled often: {starts:?}"
        );
        let last = starts[23] - starts[22];
        assert!((3 * PAUSE_US_MAX / 4..=PAUSE_US_MAX).contains(&last), "{last}");
        assert!(starts.windows(2).all(|pair| pair[1] - pair[0] >= 3 * PAUSE_US_MIN / 4));
        dialler.needed(now + 5, 0);
        assert_eq!(dialler.ready_at(), Some(now + PAUSE_US_MIN));
    }

    #[test]
    fn a_dial_without_an_answer_is_forgotten() {
        let mut dialler = Dialler::starting(7);
        assert_eq!(dialler.start(6, DialId(1), &[address("a")]), None);
        assert!(dialler.start(7, DialId(1), &[address("a")]).is_some());
        assert!(!dialler.forget(8) && dialler.forget(7 + DIAL_US_FORGOTTEN));
        assert_eq!(dialler.finished(DialId(1)), None);
    }
}
