//! Which connection serves a lane.
//!
//! Of two nodes the one with the smaller name decides. It numbers its decisions and tells each with a `Take` on the
//! connection it chose; the other one obeys the highest number. A dialler says which decision it knew when it dialled: a
//! connection dialled in ignorance of the present one is a duplicate and is closed; one dialled in its knowledge is wanted
//! as its replacement.

use super::Core;
use crate::mesh::error::{MeshError, Reason};
use crate::mesh::frame::{Credit, Frame};
use crate::mesh::lane::INITIAL_CREDIT_BYTES;
use crate::mesh::peer::event::AnewCause;
use crate::mesh::peer::line::{LineState, Phase, Reach};
use crate::mesh::{Lane, Level, Micros};

/// A served lane whose peer did not confirm the decision for so long may be served by another connection, microseconds.
const UNCONFIRMED_US: Micros = 1_000_000;

impl Core {
    /// This node decides which connection serves.
    pub(super) fn decides(&self) -> bool {
        self.local.hello.node < self.name
    }

    /// The peer's first frame on a line. The deciding node decides here.
    pub(super) fn join(
        &mut self,
        now: Micros,
        state: &mut LineState,
        epoch: u64,
        knows: u64,
        mut credit: Credit,
    ) -> Result<(), MeshError> {
        if !matches!(state.phase, Phase::Joining { .. }) {
            return Err(MeshError::Malformed("a second join"));
        }
        self.follow_epoch(now, state, epoch);
        if !self.decides() {
            return Ok(());
        }
        if epoch < self.epoch {
            // It does not know yet that it was given up: it will start anew when it hears so.
            credit = Credit {
                received: 0,
                limit: INITIAL_CREDIT_BYTES,
            };
        }
        let knows = knows.max(state.knows);
        if !self.wants_replacement(now, state.lane, knows) {
            state.doomed = Some(Reason::Superseded);
            return Ok(());
        }
        let lane = &mut self.lanes[state.lane.index()];
        lane.decision += 1;
        let decision = lane.decision;
        let own = lane.receiver.tell();
        self.serve(now, state, credit)?;
        state.push(&Frame::Take {
            epoch: self.epoch,
            decision,
            credit: own,
        });
        self.want(state);
        Ok(())
    }

    /// Whether a connection whose dialler knew decision `knows` shall serve the lane.
    fn wants_replacement(&self, now: Micros, lane: Lane, knows: u64) -> bool {
        let lane = &self.lanes[lane.index()];
        let unconfirmed = lane
            .unconfirmed_since
            .is_some_and(|since| now >= since + UNCONFIRMED_US);
        lane.serving.is_none() || knows >= lane.decision || unconfirmed
    }

    /// The deciding node's word that this line serves.
    pub(super) fn obey(
        &mut self,
        now: Micros,
        state: &mut LineState,
        epoch: u64,
        decision: u64,
        credit: Credit,
    ) -> Result<(), MeshError> {
        if self.decides() || !matches!(state.phase, Phase::Joining { .. }) || epoch < self.epoch {
            return Err(MeshError::Malformed("a decision that was not the peer's"));
        }
        self.follow_epoch(now, state, epoch);
        let lane = &mut self.lanes[state.lane.index()];
        if decision <= lane.decision {
            state.doomed = Some(Reason::Superseded);
            return Ok(());
        }
        lane.decision = decision;
        let own = lane.receiver.tell();
        self.serve(now, state, credit)?;
        self.confirm(state);
        let arrived = own.received;
        state.push(&Frame::Ack { credit: own, arrived });
        self.want(state);
        Ok(())
    }

    /// The peer's epoch is a higher one: it had given this node up.
    fn follow_epoch(&mut self, now: Micros, state: &mut LineState, epoch: u64) {
        if epoch > self.epoch {
            self.epoch = epoch;
            self.anew(now, AnewCause::DeclaredDead);
        }
        state.epoch = self.epoch;
    }

    /// From now on this line serves its lane.
    fn serve(&mut self, now: Micros, state: &mut LineState, credit: Credit) -> Result<(), MeshError> {
        let lane = &mut self.lanes[state.lane.index()];
        self.served_epoch = Some(self.epoch);
        lane.serving = Some(state.link);
        let reach = std::mem::replace(&mut lane.reach, state.reach);
        lane.unconfirmed_since = Some(now);
        lane.stuck = false;
        lane.sender.resume(now, credit)?;
        state.phase = Phase::Serving;
        state.asked_at = None;
        self.counters.connections += 1;
        if state.reach == Reach::Direct {
            self.dial_others(now, state.lane);
        }
        if state.lane == Lane::Control {
            match (reach, state.reach) {
                (Reach::Direct, Reach::Relayed) => self.log(Level::Warning, "reached through another node only".into()),
                (Reach::Relayed, Reach::Direct) => self.log(Level::Notice, "reached directly again".into()),
                _ => {}
            }
            self.reached();
        }
        Ok(())
    }

    pub(super) fn confirm(&mut self, state: &LineState) {
        self.lanes[state.lane.index()].unconfirmed_since = None;
    }
}
