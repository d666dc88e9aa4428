//! All of a peer but its connections: its lanes, and what is known of it.
//!
//! * [`lines`]: its connections come and go. [`decide`]: which of them serves a lane.
//! * [`streams`]: what goes over it. [`reach`]: whether the peer is reached, and when to dial it.
//! * [`image`]: another process goes on with it.

mod decide;
pub(super) mod image;
mod lines;
mod reach;
mod streams;

pub(super) use reach::COMING_MAX;

use crate::mesh::conn::{Local, Side};
use crate::mesh::error::MeshError;
use crate::mesh::frame::{Former, Frame, Frames};
use crate::mesh::hello::Address;
use crate::mesh::lane::receive::Receiver;
use crate::mesh::lane::send::Sender;
use crate::mesh::peer::dial::Dialler;
use crate::mesh::peer::event::{LaneStatus, Loss, PeerCounters, PeerEvent, PeerStatus};
use crate::mesh::peer::line::{LineState, Phase, Reach};
use crate::mesh::{Lane, Level, LinkId, Micros};
use rand_chacha::ChaCha20Rng;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::Arc;

/// The node that does not decide leaves the other one so much time to dial first, microseconds.
const SECOND_DIAL_US: Micros = 50_000;
/// Answers that wait for a line's next write, bytes.
const URGENT_BYTES_MAX: usize = 4 * 1024;

pub(super) struct Core {
    pub(super) local: Arc<Local>,
    pub(super) name: String,
    pub(super) rng: ChaCha20Rng,
    pub(super) addresses: Vec<Address>,
    pub(super) lanes: [LaneState; Lane::ALL.len()],
    pub(super) incarnation: Option<u64>,
    pub(super) events: VecDeque<PeerEvent>,
    pub(super) datagrams: VecDeque<Vec<u8>>,
    pub(super) counters: PeerCounters,
    /// No more dials.
    pub(super) stopped: bool,
    version: u8,
    epoch: u64,
    /// The last epoch in which a connection served a lane.
    served_epoch: Option<u64>,
    /// What came before this node last gave the peer up.
    former: Former,
    former_lives: VecDeque<u64>,
    dials: u64,
    round_trip_us: Option<Micros>,
    /// What the node was last told of the peer.
    told: Told,
    /// When the peer last proved that it lives.
    heard_at: Micros,
    /// Since when no line serves the control lane well.
    unserved_since: Option<Micros>,
    /// The address that was last dialled with success.
    reached_at: Option<Address>,
    /// What was complained of lately, and when.
    complaints: VecDeque<(String, Micros)>,
    /// The last policies that were complained of.
    policies: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Told {
    Nothing,
    Up,
    Lost(Loss),
}

pub(super) struct LaneState {
    pub(super) sender: Sender,
    pub(super) receiver: Receiver,
    pub(super) serving: Option<LinkId>,
    /// How the line that serves, or served last, reaches the peer.
    reach: Reach,
    /// Number of the last decision.
    pub(super) decision: u64,
    /// When it was decided, until the peer shows that it knows.
    unconfirmed_since: Option<Micros>,
    dialler: Dialler,
    stuck: bool,
}

impl LaneState {
    /// A connection serves it, and its other end answers.
    pub(super) fn is_served(&self) -> bool {
        self.serving.is_some() && !self.stuck
    }

    pub(super) fn is_relayed(&self) -> bool {
        self.serving.is_some() && self.reach == Reach::Relayed
    }
}

impl Core {
    pub(super) fn new(
        now: Micros,
        local: &Arc<Local>,
        name: &str,
        addresses: Vec<Address>,
        bytes_max: u64,
        rng: ChaCha20Rng,
    ) -> Core {
        let delay = if *local.hello.node < *name { 0 } else { SECOND_DIAL_US };
        let lane = |lane: Lane| {
            let share = match lane {
                Lane::Control => bytes_max / 4,
                Lane::Data => bytes_max - bytes_max / 4,
            };
            LaneState {
                sender: Sender::new(usize::try_from(share).unwrap_or(usize::MAX)),
                receiver: Receiver::default(),
                serving: None,
                reach: Reach::Direct,
                decision: 0,
                unconfirmed_since: None,
                dialler: Dialler::starting(now + delay),
                stuck: false,
            }
        };
        Core {
            local: Arc::clone(local),
            name: name.to_owned(),
            rng,
            addresses,
            lanes: Lane::ALL.map(lane),
            incarnation: None,
            events: VecDeque::new(),
            datagrams: VecDeque::new(),
            counters: PeerCounters::default(),
            stopped: false,
            version: 0,
            epoch: 0,
            served_epoch: None,
            former: Former::default(),
            former_lives: VecDeque::new(),
            dials: 0,
            round_trip_us: None,
            told: Told::Nothing,
            heard_at: 0,
            unserved_since: Some(now),
            reached_at: None,
            complaints: VecDeque::new(),
            policies: None,
        }
    }

    pub(super) fn push(&mut self, event: PeerEvent) {
        self.events.push_back(event);
    }

    pub(super) fn log(&mut self, level: Level, text: String) {
        let text = format!("peer {}: {text}", self.name);
        self.push(PeerEvent::Log(level, text));
    }

    pub(super) fn want(&mut self, state: &mut LineState) {
        if !state.wanted && state.phase != Phase::Closing {
            state.wanted = true;
            self.push(PeerEvent::WantsOutput(state.link));
        }
    }

    /// One record came over a line.
    pub(super) fn record(&mut self, now: Micros, state: &mut LineState, plaintext: &[u8]) -> Result<(), MeshError> {
        state.heard_at = now;
        self.heard(now);
        for frame in Frames::new(plaintext) {
            self.frame(now, state, frame?)?;
        }
        Ok(())
    }

    fn frame(&mut self, now: Micros, state: &mut LineState, frame: Frame<'_>) -> Result<(), MeshError> {
        // Whoever took the line for the lane's may have sent on before he hears that it is not.
        if state.phase == Phase::Closing || state.doomed.is_some() {
            return Ok(());
        }
        match frame {
            Frame::Data { offset, bytes } if state.is_serving() => {
                let control_given = self.lanes[Lane::Control.index()].receiver.messages();
                let lane = &mut self.lanes[state.lane.index()];
                self.counters.bytes_repeated += lane.receiver.received(offset, bytes)? as u64;
                lane.receiver.look_ahead(control_given);
                Ok(())
            }
            Frame::Ack { credit, arrived } if state.is_serving() => {
                self.confirm(state);
                let sender = &mut self.lanes[state.lane.index()].sender;
                sender.has_arrived(now, arrived);
                sender.acknowledged(now, credit)
            }
            Frame::Datagram(bytes) if state.is_serving() && state.lane == Lane::Control => {
                self.push(PeerEvent::Datagram(bytes.to_vec()));
                Ok(())
            }
            Frame::Join {
                epoch,
                knows,
                credit,
                former,
            } => {
                if former.epoch == self.epoch && epoch > self.epoch {
                    for (lane, received) in self.lanes.iter_mut().zip(former.received) {
                        lane.sender.was_given_up(now, received)?;
                    }
                }
                self.join(now, state, epoch, knows, credit)
            }
            Frame::Take {
                epoch,
                decision,
                credit,
            } => self.obey(now, state, epoch, decision, credit),
            // Whoever asks without reading the answers gets no more of them.
            Frame::Ping { .. } if state.urgent.len() > URGENT_BYTES_MAX => Ok(()),
            Frame::Ping { token } => {
                state.push(&Frame::Pong { token });
                self.want(state);
                Ok(())
            }
            Frame::Pong { token } => {
                if let Some(sample) = state.answered(now, token) {
                    let old = self.round_trip_us.unwrap_or(sample);
                    self.round_trip_us = Some((7 * old + sample) / 8);
                }
                Ok(())
            }
            Frame::Bye { reason, text } => {
                self.bye(now, state, reason, text);
                Ok(())
            }
            Frame::Data { .. } | Frame::Ack { .. } | Frame::Datagram(_) => {
                Err(MeshError::Malformed("a frame on a connection that serves no lane"))
            }
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.told == Told::Up
    }

    pub(super) fn status(&self, side: impl Fn(LinkId) -> Option<Side>) -> PeerStatus {
        let lanes = self.lanes.each_ref().map(|lane| LaneStatus {
            served_by: lane.serving.and_then(&side),
            relayed: lane.serving.filter(|_| lane.is_relayed()),
            stuck: lane.stuck,
            queued_bytes: lane.sender.queued_bytes() as u64,
            in_flight_bytes: lane.sender.in_flight_bytes(),
            credit_bytes: lane.sender.credit_bytes(),
            out_of_credit: lane.sender.is_out_of_credit(),
            waiting_bytes: lane.receiver.waiting_bytes() as u64,
        });
        PeerStatus {
            name: self.name.clone(),
            incarnation: self.incarnation,
            version: self.incarnation.map(|_| self.version),
            up: self.is_up(),
            round_trip_us: self.round_trip_us,
            lanes,
            counters: self.counters,
        }
    }
}
