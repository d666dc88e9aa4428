//! The ways between shards: for each pair a bounded queue of data batches and a queue of control messages.
//!
//! Order: what a shard sends over the control queue stays in order, hand-overs of links included. Control messages of
//! a turn are sent to all shards before any data of that turn, and a receiver empties the data queues *before* the
//! control queues and gives both to the brain together: so a control message that was sent before a batch is handled
//! before it. They are also sent before the turn's output is written, and looked for before bytes of a link are handled:
//! what a component does after an answer meets shards that know what the answer was about.
//!
//! Full queues lose nothing. Data waits in the sender, which reads no link meanwhile. Control messages are always sent;
//! but a shard for which more than [`CONTROL_MESSAGES`] wait is *flooded*: who sends to it takes in no work, neither
//! from links nor from data lanes, until it has caught up. So a control queue holds at most that many, what one turn's
//! input makes, and what the handling of control messages makes, which is bounded by what they are about.
//!
//! Nobody waits for ever: every shard empties its control queues in every turn, whatever is full, so each flood ends;
//! and who floods nobody empties its data queues too.

use super::brain::Brain;
use super::link::Handover;
use super::sys::Doorbell;
use crate::node::api::ShardId;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, unbounded};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};

/// Control messages and links that may wait for one shard from one other before the sender takes in no more work.
pub const CONTROL_MESSAGES: usize = 16_384;

/// What travels beside the data.
pub(crate) enum Message<B: Brain> {
    /// Control messages of one turn.
    Control(Vec<B::Control>),
    /// A link that moves.
    Link(Box<Handover<B::Cargo>>),
}

impl<B: Brain> Message<B> {
    fn count(&self) -> usize {
        match self {
            Message::Control(messages) => messages.len(),
            Message::Link(_) => 1,
        }
    }
}

/// The sending end of a lane.
struct To<B: Brain> {
    data: Sender<B::Data>,
    control: Sender<Message<B>>,
    /// Control messages that were sent and are not handled.
    waiting: Arc<AtomicUsize>,
    /// It was too much when last looked at.
    flooded: bool,
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
    waiting: Arc<AtomicUsize>,
    /// Of these, those that are being handled.
    taken: usize,
    /// Set by the sender while it waits for room.
    starved: Arc<AtomicBool>,
    bell: Arc<Doorbell>,
}

/// One shard's ends of all lanes.
pub(crate) struct Lanes<B: Brain> {
    /// Batches and messages sent so far, and taken.
    moved: (u64, u64),
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

/// The lanes of all shards, each with its own bell; at most so many data batches wait in each.
pub(crate) fn mesh<B: Brain>(bells: &[Arc<Doorbell>], batches: usize) -> Vec<Lanes<B>> {
    let mut all: Vec<Lanes<B>> = bells
        .iter()
        .map(|_| Lanes {
            moved: (0, 0),
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
            let (data, data_out) = bounded(batches);
            let (control, control_out) = unbounded();
            let starved = Arc::new(AtomicBool::new(false));
            let waiting = Arc::new(AtomicUsize::new(0));
            all[source].to.push(Some(To {
                data,
                control,
                waiting: Arc::clone(&waiting),
                flooded: false,
                stuck: None,
                starved: Arc::clone(&starved),
                bell: Arc::clone(&bells[target]),
                rings: false,
            }));
            all[target].from.push(From {
                source: source as ShardId,
                data: data_out,
                control: control_out,
                waiting,
                taken: 0,
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
        self.moved.0 += 1;
        to.rings = true;
        to.waiting.fetch_add(message.count(), Ordering::Relaxed);
        to.control.send(message).map_err(|error| {
            to.waiting.fetch_sub(error.0.count(), Ordering::Relaxed);
            error.0
        })
    }

    /// Whether a batch may be taken for `target`.
    pub(crate) fn free(&self, target: ShardId) -> bool {
        matches!(self.to.get(target as usize), Some(Some(to)) if to.stuck.is_none())
    }

    /// Sends a batch, or keeps it until there is room.
    pub(crate) fn send_data(&mut self, target: ShardId, batch: B::Data) {
        if let Some(Some(to)) = self.to.get_mut(target as usize) {
            to.stuck = Some(batch);
            self.moved.0 += 1;
            to.push();
        }
    }

    /// Tries again with the batches that did not fit.
    pub(crate) fn push_stuck(&mut self) {
        self.to.iter_mut().flatten().for_each(To::push);
    }

    /// What there is no room for: (a batch of data, control messages). To be asked when all was sent.
    pub(crate) fn waits(&mut self) -> (bool, bool) {
        let mut waits = (false, false);
        for to in self.to.iter_mut().flatten() {
            to.look();
            waits.0 |= to.stuck.is_some();
            waits.1 |= to.flooded;
        }
        waits
    }

    /// A shard has too much to do with what this one told it.
    fn floods(&self) -> bool {
        self.to.iter().flatten().any(|to| to.flooded)
    }

    /// Wakes those that were sent something, once each.
    pub(crate) fn ring(&mut self) {
        for to in self.to.iter_mut().flatten() {
            if std::mem::take(&mut to.rings) {
                to.bell.ring();
            }
        }
    }

    /// Takes what has come: data first, unless that would make a flood worse, then the rest. To be followed by
    /// [`Lanes::handled`].
    pub(crate) fn drain(&mut self, into: &mut Arrived<B>) {
        let floods = self.floods();
        for from in self.from.iter().filter(|_| !floods) {
            for _ in 0..from.data.len() {
                let Ok(batch) = from.data.try_recv() else { break };
                self.moved.1 += 1;
                into.data.push((from.source, batch));
            }
            from.wake_starved();
        }
        for from in &mut self.from {
            for _ in 0..from.control.len() {
                let Ok(message) = from.control.try_recv() else { break };
                self.moved.1 += 1;
                from.taken += message.count();
                into.messages.push((from.source, message));
            }
        }
    }

    /// What was taken has been dealt with.
    pub(crate) fn handled(&mut self) {
        for from in self.from.iter_mut().filter(|from| from.taken > 0) {
            from.waiting
                .fetch_sub(std::mem::take(&mut from.taken), Ordering::Relaxed);
            from.wake_starved();
        }
    }

    /// Batches and messages that this shard has sent so far, and taken: when the sums of all shards are equal, and stay
    /// so, nothing is between them.
    pub(crate) fn moved(&self) -> (u64, u64) {
        self.moved
    }

    /// Whether another shard has sent something beside the data.
    pub(crate) fn has_control(&self) -> bool {
        self.from.iter().any(|from| !from.control.is_empty())
    }

    /// Whether nothing has come that may be taken, and nothing that waits can be sent.
    pub(crate) fn quiet(&self) -> bool {
        let floods = self.floods();
        let mut from = self.from.iter();
        let mut to = self.to.iter().flatten();
        from.all(|from| (floods || from.data.is_empty()) && from.control.is_empty())
            && to.all(|to| (to.stuck.is_none() || to.data.is_full()) && (!to.flooded || to.has_too_much()))
    }
}

impl<B: Brain> From<B> {
    /// To be called when there is more room than before.
    fn wake_starved(&self) {
        fence(Ordering::SeqCst);
        if self.starved.load(Ordering::Relaxed) && self.starved.swap(false, Ordering::Relaxed) {
            self.bell.ring();
        }
    }
}

impl<B: Brain> To<B> {
    fn has_too_much(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > CONTROL_MESSAGES
    }

    /// Looks whether the receiver has too much; if so, its next turn wakes this shard.
    fn look(&mut self) {
        self.flooded = self.has_too_much();
        if self.flooded {
            self.starved.store(true, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            self.flooded = self.has_too_much();
        }
    }

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
