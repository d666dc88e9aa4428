//! Whether the peer is reached, and when to dial it.

use super::{Core, SECOND_DIAL_US, Told};
use crate::mesh::hello::Address;
use crate::mesh::peer::dial::{DialFailure, DialId};
use crate::mesh::peer::event::{Loss, PeerEvent};
use crate::mesh::peer::line::{Line, LineState, Reach, STALL_US};
use crate::mesh::{Lane, Level, Micros};

/// Without a served control lane for so long, the peer counts as lost, microseconds.
const LOST_US: Micros = 1_000_000;
/// Of a peer that is lost and lives the node is told so often, microseconds.
const HEARD_US: Micros = 200_000;
/// So long, and three round trips, a connection on its way is waited for before another is dialled beside it, microseconds.
const COMING_US: Micros = 200_000;
/// Most connections on their way for one lane.
pub(in crate::mesh::peer) const COMING_MAX: usize = 4;

impl Core {
    pub(super) fn reached(&mut self) {
        self.unserved_since = None;
        if self.told != Told::Up {
            self.told = Told::Up;
            let (incarnation, version) = (self.incarnation.unwrap_or_default(), self.version);
            self.push(PeerEvent::Up { incarnation, version });
            self.log(Level::Notice, format!("connected, version {version}"));
        }
    }

    pub(super) fn lose(&mut self, loss: Loss) {
        if self.told == Told::Lost(loss) || self.told == Told::Nothing {
            return;
        }
        self.told = Told::Lost(loss);
        let text = match loss {
            Loss::Process => "its process is gone, its machine answers",
            Loss::Silent => "silent",
            Loss::Left => "it stops",
            Loss::Restarting => "it restarts",
        };
        self.log(Level::Notice, format!("lost: {text}"));
        self.push(PeerEvent::Heard { at: self.heard_at });
        self.push(PeerEvent::Lost(loss));
    }

    /// The peer proved that it lives, over whatever connection.
    pub(super) fn heard(&mut self, now: Micros) {
        self.lanes.iter_mut().for_each(|lane| lane.sender.heard(now));
        if self.told != Told::Up && now >= self.heard_at + HEARD_US {
            self.push(PeerEvent::Heard { at: now });
        }
        self.heard_at = now;
    }

    /// The peer's machine answered, and its process did not.
    pub(super) fn answered_without_process(&mut self, now: Micros, address: Option<&Address>) {
        let known = match (address, &self.reached_at) {
            (Some(address), Some(reached_at)) => address == reached_at,
            _ => true,
        };
        let unserved = self.unserved_since.is_some_and(|since| now >= since);
        if known && unserved && matches!(self.told, Told::Up | Told::Lost(Loss::Silent)) {
            self.lose(Loss::Process);
        }
    }

    /// Looks whether the serving lines are alive.
    pub(in crate::mesh::peer) fn watch(&mut self, now: Micros, lines: &[Line]) {
        for lane in Lane::ALL {
            let serving = self.lanes[lane.index()].serving;
            let line = lines.iter().find(|line| Some(line.state.link) == serving);
            let stuck = line.is_some_and(|line| self.stalls_at(&line.state).is_some_and(|at| now >= at));
            let state = &mut self.lanes[lane.index()];
            if stuck && !state.stuck {
                state.dialler.needed(now, 0);
                self.log(
                    Level::Notice,
                    format!("{} lane: nothing comes back, dialling anew", lane.word()),
                );
            }
            self.lanes[lane.index()].stuck = stuck;
        }
        let control = &self.lanes[Lane::Control.index()];
        if control.is_served() {
            self.unserved_since = None;
            if matches!(self.told, Told::Lost(Loss::Silent | Loss::Process)) {
                self.reached();
            }
        } else {
            let waited = if control.stuck { STALL_US } else { 0 };
            let since = *self.unserved_since.get_or_insert(now.saturating_sub(waited));
            if now >= since + LOST_US && self.told == Told::Up {
                self.lose(Loss::Silent);
            }
        }
    }

    /// When a serving line counts as stuck, if nothing comes back over it.
    pub(in crate::mesh::peer) fn stalls_at(&self, state: &LineState) -> Option<Micros> {
        if !state.is_serving() {
            return None;
        }
        let bytes = self.lanes[state.lane.index()].sender.waits_since();
        let waits_since = [bytes, state.waits_since()].into_iter().flatten().min()?;
        Some(waits_since + STALL_US)
    }

    /// When something is to be done about a line, dials aside.
    pub(in crate::mesh::peer) fn line_deadline(&self, line: &Line) -> Option<Micros> {
        let state = &line.state;
        let lane = &self.lanes[state.lane.index()];
        let stalls = self.stalls_at(state).filter(|_| !lane.stuck);
        [state.deadline(&line.conn), stalls].into_iter().flatten().min()
    }

    /// A served lane is not served any more.
    pub(super) fn need_dial(&mut self, now: Micros, lane: Lane) {
        let delay = if self.decides() { 0 } else { SECOND_DIAL_US };
        self.lanes[lane.index()].dialler.needed(now, delay);
    }

    /// The way of one lane is open: what the others dialled in vain so far need not be waited for.
    pub(super) fn dial_others(&mut self, now: Micros, reached: Lane) {
        let delay = if self.decides() { 0 } else { SECOND_DIAL_US };
        for lane in Lane::ALL.into_iter().filter(|lane| *lane != reached) {
            let state = &mut self.lanes[lane.index()];
            if !state.is_served() || state.is_relayed() {
                state.dialler.abandon(now, delay);
            }
        }
    }

    fn lane_of(&self, dial: DialId) -> Option<Lane> {
        Lane::ALL
            .into_iter()
            .find(|lane| self.lanes[lane.index()].dialler.is(dial))
    }

    /// A dial is over: of which lane it was, and where it went.
    pub(in crate::mesh::peer) fn dial_done(&mut self, dial: DialId) -> Option<(Lane, Address)> {
        let lane = self.lane_of(dial)?;
        let address = self.lanes[lane.index()].dialler.finished(dial)?;
        Some((lane, address))
    }

    /// A relay is for when all addresses failed, and one at a time.
    pub(in crate::mesh::peer) fn wants_relay(&self, dial: DialId, lines: &[Line]) -> Option<Lane> {
        self.lane_of(dial).filter(|lane| {
            let state = &self.lanes[lane.index()];
            let asked = lines.iter().any(|line| {
                let state = &line.state;
                state.lane == *lane && state.reach == Reach::Relayed && state.dialled.is_some() && state.is_coming()
            });
            !self.stopped && !state.is_served() && !asked && state.dialler.ends_round(self.addresses.len())
        })
    }

    pub(in crate::mesh::peer) fn dial_failed(&mut self, now: Micros, dial: DialId, failure: &DialFailure) {
        let Some((lane, address)) = self.dial_done(dial) else {
            return;
        };
        self.dial_again_later(now, lane);
        self.failed_at(now, &address, failure);
    }

    /// What the failure of a dial says of the peer.
    pub(in crate::mesh::peer) fn failed_at(&mut self, now: Micros, address: &Address, failure: &DialFailure) {
        match failure {
            DialFailure::Refused => self.answered_without_process(now, Some(address)),
            DialFailure::Silent => {}
            DialFailure::Other(text) => self.complain(now, format!("dialling {address}: {text}"), false),
        }
    }

    /// A connection came to nothing: if it was dialled here, the next dial waits longer.
    pub(super) fn dial_failed_later(&mut self, now: Micros, state: &LineState) {
        if state.dialled.is_some() {
            self.dial_again_later(now, state.lane);
        }
    }

    pub(super) fn dial_again_later(&mut self, now: Micros, lane: Lane) {
        let addresses = self.addresses.len();
        self.lanes[lane.index()].dialler.failed(now, addresses, &mut self.rng);
    }

    /// Dials each lane that needs it.
    pub(in crate::mesh::peer) fn dial(&mut self, now: Micros, lines: &[Line]) {
        for lane in Lane::ALL {
            if self.dial_at(lane, lines).is_none_or(|at| now < at) {
                continue;
            }
            let addresses = self.addresses.len();
            let dialler = &mut self.lanes[lane.index()].dialler;
            if dialler.forget(now) {
                dialler.failed(now, addresses, &mut self.rng);
            }
            self.dials += 1;
            let dial = DialId(self.dials);
            if let Some(address) = dialler.start(now, dial, &self.addresses) {
                self.counters.dials += 1;
                self.push(PeerEvent::Dial { dial, address });
            }
        }
    }

    /// When the lane is to be dialled, or a dial under way forgotten. A connection that has been on its way for long may
    /// have lost its other end: it is not waited for.
    fn dial_at(&self, lane: Lane, lines: &[Line]) -> Option<Micros> {
        let state = &self.lanes[lane.index()];
        let served = state.is_served() && !state.is_relayed();
        if self.stopped || served || self.addresses.is_empty() {
            return None;
        }
        let coming = lines
            .iter()
            .filter(|line| line.state.lane == lane && line.state.is_coming());
        if coming.clone().count() >= COMING_MAX {
            return None;
        }
        let at = state.dialler.ready_at().or_else(|| state.dialler.forgets_at())?;
        let patience_us = COMING_US + 3 * self.round_trip_us.unwrap_or(0);
        let waits = coming.map(|line| line.state.began_at + patience_us).max();
        waits.map_or(Some(at), |waits| Some(at.max(waits)))
    }

    pub(in crate::mesh::peer) fn deadline(&self, lines: &[Line]) -> Option<Micros> {
        let lost = self
            .unserved_since
            .filter(|_| self.told == Told::Up)
            .map(|since| since + LOST_US);
        let dials = Lane::ALL.into_iter().filter_map(|lane| self.dial_at(lane, lines));
        dials.chain(lost).min()
    }
}
