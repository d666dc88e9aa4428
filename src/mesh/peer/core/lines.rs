//! A peer's connections come and go.

use super::{Core, SECOND_DIAL_US};
use crate::mesh::conn::Side;
use crate::mesh::error::{MeshError, Reason};
use crate::mesh::frame::{Former, Frame};
use crate::mesh::hello::{Address, Hello};
use crate::mesh::peer::event::{AnewCause, Loss, PeerEvent};
use crate::mesh::peer::line::{LineState, Phase, Reach};
use crate::mesh::{CloseCause, Level, Micros};

/// Former lives of the peer that are remembered.
const FORMER_MAX: usize = 8;

/// Most addresses of a peer.
const ADDRESSES_MAX: usize = 16;

/// The same complaint is written at most so often, microseconds.
const COMPLAINT_US: Micros = 60_000_000;

/// So many different complaints are remembered.
const COMPLAINTS_MAX: usize = 16;

impl Core {
    /// The other side of a line said who it is.
    pub(in crate::mesh::peer) fn meet(
        &mut self,
        now: Micros,
        state: &mut LineState,
        side: Side,
        hello: &Hello,
        plain: bool,
    ) -> Result<(), MeshError> {
        if hello.node != self.name {
            return Err(MeshError::OtherNode(hello.node.clone()));
        }
        if self.former_lives.contains(&hello.incarnation) {
            return Err(MeshError::FormerLife);
        }
        let former = self.incarnation.replace(hello.incarnation);
        if let Some(former) = former.filter(|former| *former != hello.incarnation) {
            self.former_lives.push_back(former);
            while self.former_lives.len() > FORMER_MAX {
                self.former_lives.pop_front();
            }
            (self.epoch, self.served_epoch, self.former) = (0, None, Former::default());
            for lane in &mut self.lanes {
                lane.decision = 0;
            }
            self.anew(now, AnewCause::NewIncarnation);
        }
        self.version = self
            .local
            .hello
            .common_version(hello)
            .unwrap_or(*hello.versions.start());
        self.learn_addresses(&hello.addresses);
        self.compare_policies(hello);
        match (&state.dialled, state.reach) {
            (Some(address), Reach::Direct) => self.reached_at = Some(address.clone()),
            (Some(_), Reach::Relayed) => self.dial_again_later(now, state.lane),
            (None, _) => {}
        }
        if plain && former.is_none() {
            self.log(
                Level::Warning,
                "what goes to it is not encrypted, as both sides' <plain> says".into(),
            );
        }
        // What the line's dialler knew of a former life counts for nothing.
        if side == Side::Accepted || state.incarnation != Some(hello.incarnation) {
            state.knows = 0;
            state.incarnation = Some(hello.incarnation);
        }
        state.phase = Phase::Joining { since: now };
        state.epoch = self.epoch;
        state.heard_at = now;
        self.heard(now);
        let credit = self.lanes[state.lane.index()].receiver.tell();
        state.push(&Frame::Join {
            epoch: self.epoch,
            knows: state.knows,
            credit,
            former: self.former,
        });
        self.want(state);
        Ok(())
    }

    fn compare_policies(&mut self, hello: &Hello) {
        let differs = hello.policies != self.local.hello.policies;
        if differs && self.policies != Some(hello.policies) {
            let text = "its settings for placement, exits or names differ from this node's: compare the digest lines of \
                        'jidmesh check' on both machines";
            self.push(PeerEvent::Alarm(format!("peer {}: {text}", self.name)));
        }
        self.policies = Some(hello.policies);
    }

    pub(in crate::mesh::peer) fn learn_addresses(&mut self, addresses: &[Address]) {
        for address in addresses {
            if self.addresses.len() < ADDRESSES_MAX && !self.addresses.contains(address) {
                self.addresses.push(address.clone());
            }
        }
    }

    /// A connection ended with an error on this side.
    pub(in crate::mesh::peer) fn line_failed(&mut self, now: Micros, state: &LineState, side: Side, error: &MeshError) {
        self.counters.errors += 1;
        let place = match (side, state.phase) {
            (Side::Dialled, Phase::Greeting) => "dialling it",
            _ => "a connection from it",
        };
        self.complain(now, format!("{place}: {error}"), error.is_lasting());
        self.dial_failed_later(now, state);
    }

    pub(super) fn complain(&mut self, now: Micros, text: String, lasting: bool) {
        self.complaints.retain(|(_, at)| now < at + COMPLAINT_US);
        if self.complaints.iter().any(|(said, _)| *said == text) {
            return;
        }
        if self.complaints.len() == COMPLAINTS_MAX {
            self.complaints.pop_front();
        }
        self.complaints.push_back((text.clone(), now));
        if lasting {
            self.push(PeerEvent::Alarm(format!("peer {}: {text}", self.name)));
        } else {
            self.log(Level::Warning, text);
        }
    }

    /// A link was closed.
    pub(in crate::mesh::peer) fn line_closed(&mut self, now: Micros, state: &LineState, cause: &CloseCause) {
        if state.phase == Phase::Closing {
            return;
        }
        let text = match cause {
            CloseCause::Eof => "it closed the connection",
            CloseCause::Reset | CloseCause::Refused => "the connection was reset",
            CloseCause::Error(text) => text,
            CloseCause::Local => "the connection was closed here",
        };
        let lane = state.lane.word();
        self.log(Level::Info, format!("{lane} lane: {text}"));
        self.forget(state);
        if state.is_serving() {
            self.need_dial(now, state.lane);
            return;
        }
        self.dial_failed_later(now, state);
        if state.phase == Phase::Greeting && matches!(cause, CloseCause::Eof | CloseCause::Reset) {
            self.answered_without_process(now, None);
        }
    }

    /// The line serves no more, if it did.
    pub(in crate::mesh::peer) fn forget(&mut self, state: &LineState) {
        let lane = &mut self.lanes[state.lane.index()];
        if lane.serving == Some(state.link) {
            lane.serving = None;
            lane.sender.interrupt();
        }
    }

    /// Why a line must be closed now, if it must.
    pub(in crate::mesh::peer) fn verdict(&self, state: &LineState) -> Option<Reason> {
        let serving = self.lanes[state.lane.index()].serving;
        match state.phase {
            Phase::Closing | Phase::Greeting => None,
            _ if state.doomed.is_some() => state.doomed,
            _ if state.incarnation != self.incarnation => Some(Reason::FormerLife),
            Phase::Serving if serving != Some(state.link) => Some(Reason::Superseded),
            _ if state.epoch != self.epoch => Some(Reason::Anew),
            _ => None,
        }
    }

    pub(super) fn bye(&mut self, now: Micros, state: &mut LineState, reason: Reason, text: &str) {
        let details = if text.is_empty() {
            String::new()
        } else {
            format!(" ({text})")
        };
        match reason {
            Reason::Superseded => {}
            Reason::Leaving => self.lose(Loss::Left),
            Reason::Restarting => self.lose(Loss::Restarting),
            Reason::Anew => self.log(Level::Notice, reason.text()),
            _ => self.complain(now, format!("it said: {}{details}", reason.text()), false),
        }
        if reason == Reason::Superseded {
            self.lanes[state.lane.index()].dialler.needed(now, 2 * SECOND_DIAL_US);
        } else {
            self.dial_failed_later(now, state);
        }
        state.doomed = Some(Reason::Superseded);
    }
}
