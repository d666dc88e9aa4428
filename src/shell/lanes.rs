//! The ways between shards: for each pair a bounded queue of data batches and a queue of control messages.
//!
//! Order: what a shard sends over the control queue stays in order, hand-overs of links included. Control messages of
//! a turn are sent to all shards before any data of that turn, and a receiver empties the data queues *before* the
//! control queues and gives both to the brain together: so a control message that was sent before a batch is handled
//! before it. They are also sent before the turn's output is written, and looked for before bytes of a link are handled:
//! what a component does after an answer meets shards that know what the answer was about. Control messages are few by their nature (names, registrations, placements, moves), must never be
//! dropped nor block a shard, so that queue alone has no bound; data waits in the sender when its queue is full.

use super::brain::Brain;
use super::link::Handover;
use super::sys::Doorbell;
use crate::node::api::ShardId;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, unbounded};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

/// Batches that wait for one shard from one other.
pub(crate) const LANE_BATCHES: usize = 64;

/// What travels beside the data.
pub(crate) enum Message<B: Brain> {
    /// Control messages of one turn.
    Control(Vec<B::Control>),
    /// A link that moves.
    Link(Box<Handover<B::Cargo>>),
}

/// The sending end of a lane.
struct To<B: Brain> {
    data: Sender<B::Data>,
    control: Sender<Message<B>>,
    /// A batch that did not fit.
    stuck: Option<B::Data>,
    starved: Arc<AtomicBool>,
    bell: Arc<Doorbell>,
    rings: bool,
}

/// The receiving end of a lane.
struct From<B: Brain> {
    source: ShardId,
    data: Receiver<B::Data>,
    control: Receiver<Message<B>>,
    /// Set by the sender while a batch of its waits for room.
    starved: Arc<AtomicBool>,
    bell: Arc<Doorbell>,
}

/// One shard's ends of all lanes.
pub(crate) struct Lanes<B: Brain> {
    to: Vec<Option<To<B>>>,
    from: Vec<From<B>>,
}

/// What one drain brought.
pub(crate) struct Arrived<B: Brain> {
    pub(crate) data: Vec<(ShardId, B::Data)>,
    pub(crate) messages: Vec<(ShardId, Message<B>)>,
}

impl<B: Brain> Arrived<B> {
    pub(crate) fn new() -> Self {
        Arrived {
            data: Vec::new(),
            messages: Vec::new(),
        }
    }
}

/// The lanes of all shards, each with its own bell.
pub(crate) fn mesh<B: Brain>(bells: &[Arc<Doorbell>]) -> Vec<Lanes<B>> {
    let mut all: Vec<Lanes<B>> = bells
        .iter()
        .map(|_| Lanes {
            to: Vec::new(),
            from: Vec::new(),
        })
        .collect();
    for source in 0..bells.len() {
        for target in 0..bells.len() {
            if source == target {
                all[source].to.push(None);
                continue;
            }
            let (data, data_out) = bounded(LANE_BATCHES);
            let (control, control_out) = unbounded();
            let starved = Arc::new(AtomicBool::new(false));
            all[source].to.push(Some(To {
                data,
                control,
                stuck: None,
                starved: Arc::clone(&starved),
                bell: Arc::clone(&bells[target]),
                rings: false,
            }));
            all[target].from.push(From {
                source: source as ShardId,
                data: data_out,
                control: control_out,
                starved,
                bell: Arc::clone(&bells[source]),
            });
        }
    }
    all
}

impl<B: Brain> Lanes<B> {
    /// The other shards.
    pub(crate) fn targets(&self) -> impl Iterator<Item = ShardId> + use<B> {
        let here = self.to.iter().position(Option::is_none).unwrap_or(0);
        (0..self.to.len())
            .filter(move |&target| target != here)
            .map(|target| target as ShardId)
    }

    /// Sends beside the data; gives the message back when there is no such other shard (any more).
    pub(crate) fn send(&mut self, target: ShardId, message: Message<B>) -> Result<(), Message<B>> {
        let Some(Some(to)) = self.to.get_mut(target as usize) else {
            return Err(message);
        };
        to.rings = true;
        to.control.send(message).map_err(|error| error.0)
    }

    /// Whether a batch may be taken for `target`.
    pub(crate) fn free(&self, target: ShardId) -> bool {
        matches!(self.to.get(target as usize), Some(Some(to)) if to.stuck.is_none())
    }

    /// Sends a batch, or keeps it until there is room.
    pub(crate) fn send_data(&mut self, target: ShardId, batch: B::Data) {
        if let Some(Some(to)) = self.to.get_mut(target as usize) {
            to.stuck = Some(batch);
            to.push();
        }
    }

    /// Tries again with the batches that did not fit; true if one still waits.
    pub(crate) fn push_stuck(&mut self) -> bool {
        let mut waits = false;
        for to in self.to.iter_mut().flatten() {
            to.push();
            waits |= to.stuck.is_some();
        }
        waits
    }

    /// Wakes those that were sent something, once each.
    pub(crate) fn ring(&mut self) {
        for to in self.to.iter_mut().flatten() {
            if std::mem::take(&mut to.rings) {
                to.bell.ring();
            }
        }
    }

    /// Takes what has come: data first, then the rest.
    pub(crate) fn drain(&mut self, into: &mut Arrived<B>) {
        for from in &self.from {
            for _ in 0..from.data.len() {
                let Ok(batch) = from.data.try_recv() else { break };
                into.data.push((from.source, batch));
            }
            fence(Ordering::SeqCst);
            if from.starved.load(Ordering::Relaxed) && from.starved.swap(false, Ordering::Relaxed) {
                from.bell.ring();
            }
        }
        for from in &self.from {
            for _ in 0..from.control.len() {
                let Ok(message) = from.control.try_recv() else { break };
                into.messages.push((from.source, message));
            }
        }
    }

    /// Whether another shard has sent something beside the data.
    pub(crate) fn has_control(&self) -> bool {
        self.from.iter().any(|from| !from.control.is_empty())
    }

    /// Whether nothing has come and nothing that waits can be sent.
    pub(crate) fn quiet(&self) -> bool {
        self.from
            .iter()
            .all(|from| from.data.is_empty() && from.control.is_empty())
            && self
                .to
                .iter()
                .flatten()
                .all(|to| to.stuck.is_none() || to.data.is_full())
    }
}

impl<B: Brain> To<B> {
    fn push(&mut self) {
        let Some(batch) = self.stuck.take() else { return };
        if self.data.is_full() {
            self.starved.store(true, Ordering::Relaxed);
            fence(Ordering::SeqCst);
        }
        match self.data.try_send(batch) {
            Ok(()) => self.rings = true,
            Err(TrySendError::Full(batch)) => self.stuck = Some(batch),
            // The shard has ended, so the process is about to.
            Err(TrySendError::Disconnected(_)) => {}
        }
    }
}
