//! A peer in a node's image: another process goes on with its lanes.
//!
//! The life of this node and both directions of the lanes stay what they are, so that what the peer has not acknowledged
//! is sent again, and what it sends again is recognised. Connections are not handed over: both sides dial new ones.

use super::{Core, LaneState, Told};
use crate::mesh::conn::Local;
use crate::mesh::frame::Former;
use crate::mesh::hello::Address;
use crate::mesh::lane::receive::Receiver;
use crate::mesh::lane::send::Sender;
use crate::mesh::peer::event::PeerCounters;
use crate::mesh::{Lane, Micros};
use rand_chacha::ChaCha20Rng;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::Arc;

/// All of a peer that outlives its connections. Membership messages may get lost, and do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PeerImage {
    name: String,
    addresses: Vec<Address>,
    /// By lane number.
    lanes: [LaneImage; Lane::ALL.len()],
    incarnation: Option<u64>,
    version: u8,
    epoch: u64,
    served_epoch: Option<u64>,
    former: Former,
    former_lives: VecDeque<u64>,
    round_trip_us: Option<Micros>,
    told: Told,
    heard_at: Micros,
    reached_at: Option<Address>,
    policies: Option<u64>,
    counters: PeerCounters,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct LaneImage {
    sender: Sender,
    receiver: Receiver,
    decision: u64,
}

impl PeerImage {
    /// The peer's name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Core {
    pub(in crate::mesh::peer) fn image(&self) -> PeerImage {
        let lane = |lane: &LaneState| LaneImage {
            sender: lane.sender.clone(),
            receiver: lane.receiver.clone(),
            decision: lane.decision,
        };
        PeerImage {
            name: self.name.clone(),
            addresses: self.addresses.clone(),
            lanes: self.lanes.each_ref().map(lane),
            incarnation: self.incarnation,
            version: self.version,
            epoch: self.epoch,
            served_epoch: self.served_epoch,
            former: self.former,
            former_lives: self.former_lives.clone(),
            round_trip_us: self.round_trip_us,
            told: self.told,
            heard_at: self.heard_at,
            reached_at: self.reached_at.clone(),
            policies: self.policies,
            counters: self.counters,
        }
    }

    /// No connection serves it; as after a reset, it is dialled at once, and lost if that takes too long.
    pub(in crate::mesh::peer) fn restored(
        now: Micros,
        local: &Arc<Local>,
        image: PeerImage,
        bytes_max: u64,
        rng: ChaCha20Rng,
    ) -> Core {
        let mut core = Core::new(now, local, &image.name, image.addresses, bytes_max, rng);
        for (lane, former) in core.lanes.iter_mut().zip(image.lanes) {
            lane.sender = former.sender.restored(now, lane.sender.bytes_max());
            lane.receiver = former.receiver;
            lane.decision = former.decision;
        }
        Core {
            incarnation: image.incarnation,
            version: image.version,
            epoch: image.epoch,
            served_epoch: image.served_epoch,
            former: image.former,
            former_lives: image.former_lives,
            round_trip_us: image.round_trip_us,
            told: image.told,
            heard_at: image.heard_at,
            reached_at: image.reached_at,
            policies: image.policies,
            counters: image.counters,
            ..core
        }
    }
}
