//! Whether the peer is reached, and when to dial it.

use super::{Core, SECOND_DIAL_US, Told};
use crate::mesh::hello::Address;
use crate::mesh::peer::dial::{DialFailure, DialId};
use crate::mesh::peer::event::{Loss, PeerEvent};
use crate::mesh::peer::line::{Line, LineState, Phase, STALL_US};
use crate::mesh::{Lane, Level, Micros};

/// Without a served control lane for so long, the peer counts as lost, microseconds.
const LOST_US: Micros = 1_000_000;

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
        self.push(PeerEvent::Lost(loss));
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
        if control.serving.is_some() && !control.stuck {
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
            if state.serving.is_none() || state.stuck || state.is_relayed() {
                state.dialler.abandon(now, delay);
            }
        }
    }

    pub(in crate::mesh::peer) fn lane_of(&self, dial: DialId) -> Option<Lane> {
        Lane::ALL
            .into_iter()
            .find(|lane| self.lanes[lane.index()].dialler.is(dial))
    }

    /// A relay is for when all addresses failed.
    pub(in crate::mesh::peer) fn wants_relay(&self, dial: DialId) -> Option<Lane> {
        self.lane_of(dial).filter(|lane| {
            let state = &self.lanes[lane.index()];
            let served = state.serving.is_some() && !state.stuck;
            !self.stopped && !served && state.dialler.ends_round(self.addresses.len())
        })
    }

    pub(in crate::mesh::peer) fn dial_failed(&mut self, now: Micros, dial: DialId, failure: &DialFailure) {
        let Some(lane) = self.lane_of(dial) else { return };
        let addresses = self.addresses.len();
        let dialler = &mut self.lanes[lane.index()].dialler;
        let Some(address) = dialler.finished(dial) else { return };
        dialler.failed(now, addresses, &mut self.rng);
        match failure {
            DialFailure::Refused => self.answered_without_process(now, Some(&address)),
            DialFailure::Silent => {}
            DialFailure::Other(text) => self.complain(now, format!("dialling {address}: {text}"), false),
        }
    }

    /// A connection came to nothing: if it was dialled here, the next dial waits longer.
    pub(super) fn dial_failed_later(&mut self, now: Micros, state: &LineState) {
        let dialler = &mut self.lanes[state.lane.index()].dialler;
        let greeting = state.dial.and_then(|dial| dialler.finished(dial)).is_some();
        if greeting || state.was_dialled {
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
            if !self.needs_dial(lane, lines) {
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

    /// Nothing serves the lane well, and no connection for it is on its way.
    fn needs_dial(&self, lane: Lane, lines: &[Line]) -> bool {
        let state = &self.lanes[lane.index()];
        let served = state.serving.is_some() && !state.stuck && !state.is_relayed();
        let coming = |line: &Line| {
            line.state.lane == lane && matches!(line.state.phase, Phase::Greeting | Phase::Joining { .. })
        };
        !self.stopped && !served && !lines.iter().any(coming)
    }

    pub(in crate::mesh::peer) fn deadline(&self, lines: &[Line]) -> Option<Micros> {
        let lost = self
            .unserved_since
            .filter(|_| self.told == Told::Up)
            .map(|since| since + LOST_US);
        let lanes = Lane::ALL.into_iter().filter_map(|lane| {
            let state = &self.lanes[lane.index()];
            (self.needs_dial(lane, lines) && !self.addresses.is_empty())
                .then(|| state.dialler.ready_at().or_else(|| state.dialler.forgets_at()))
                .flatten()
        });
        lanes.chain(lost).min()
    }
}
