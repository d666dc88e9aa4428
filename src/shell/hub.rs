//! One shard between its driver, its brain and its lanes: what happens in one turn, and in which order.

use super::accept::Door;
use super::brain::Brain;
use super::control::{Command, Commands};
use super::dial::Dials;
use super::driver::{Driver, Released, Token};
use super::journal::{Journal, line};
use super::lanes::{Arrived, Lanes, Message};
use super::link::{Fate, Handover, Link};
use super::takeover::Still;
use crate::node::api::{Action, CloseCause, Level, LinkId, Micros, ShardId};
use crate::node::cluster::Answer;
use crate::node::counters::Counter;
use crate::node::report::ShardReport;
use crossbeam_channel::Sender;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// After a stop was asked for, links have so long to take their last bytes, milliseconds.
const STOP_FLUSH_MS: u64 = 1_200;
/// After a failed accept (no descriptors, no memory) the next one waits so long, milliseconds.
pub(super) const ACCEPT_RETRY_MS: u64 = 200;
/// How often one turn goes round between writing and what the writing causes, before reading again.
const ROUNDS_MAX: usize = 8;
/// A link's memory for chunks is given back when it grew beyond this, bytes.
pub(super) const SPARE_BYTES_MAX: usize = 256 * 1024;

/// One shard.
pub(crate) struct Hub<B: Brain> {
    pub(super) brain: B,
    pub(super) links: HashMap<LinkId, Link<B::Cargo>, ahash::RandomState>,
    pub(super) actions: Vec<Action<B::Cargo>>,
    /// Links with something to write, each once.
    pub(super) dirty: VecDeque<LinkId>,
    /// What the driver is to do.
    pub(super) ops: VecDeque<Op>,
    pub(super) timers: BinaryHeap<Reverse<(Micros, Alarm)>>,
    pub(super) lanes: Lanes<B>,
    arrived: Arrived<B>,
    pub(super) door: Door,
    pub(super) context: Context,
    commands: Commands,
    /// It was said that there is something to be written down.
    noted: bool,
    /// Questions to the brain so far, and those that it has not answered: it answers each.
    tickets: u64,
    pub(super) asked: HashMap<u64, Sender<Answer>, ahash::RandomState>,
    pub(super) dials: Dials,
    pub(super) now: Micros,
    /// When the turn began, when its first bytes came, and how many came.
    turn: (Micros, Micros, u64),
    /// Plain text of the link just read; kept for its memory.
    pub(super) plain: Vec<u8>,
    /// While it stands still, for a take-over.
    pub(super) still: Option<Still>,
    /// When a stopping shard closes what is left.
    pub(super) stop_at: Option<Micros>,
    /// Another shard has no room for what this one has for it: nothing is read meanwhile.
    stalled: bool,
    /// How often that was so when a turn ended: for data, for control messages.
    stalls: (u64, u64),
}

/// What a shard shares with the process.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) tls: Option<Arc<rustls::ServerConfig>>,
    pub(crate) tls_client: Option<Arc<rustls::ClientConfig>>,
    /// The CPUs of the process.
    pub(crate) cpus: Arc<[usize]>,
    pub(crate) started: Instant,
}

/// An order for the driver, given when the driver is not at work.
pub(super) enum Op {
    Add(LinkId, OwnedFd),
    Reading(LinkId),
    Release(LinkId),
    Probe(LinkId),
    DiscardUnsent(LinkId),
    /// A dial came to nothing.
    Undialed(LinkId, CloseCause),
    AcceptAgain,
    Accepting(bool),
    /// Served again after a stand-still.
    Again(LinkId, Released),
    Unlisten,
}

/// What a timer is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Alarm {
    AcceptAgain,
    Stop,
    /// The last bytes of a closing link had their time (slot, generation).
    Flushed(u32, u32),
    /// A throttled link may be read again.
    Unthrottle(u32, u32),
}

impl<B: Brain> Hub<B> {
    pub(crate) fn new(brain: B, lanes: Lanes<B>, door: Door, context: Context, commands: Commands) -> Self {
        let mut hub = Hub {
            brain,
            links: HashMap::default(),
            actions: Vec::new(),
            dirty: VecDeque::new(),
            ops: VecDeque::new(),
            timers: BinaryHeap::new(),
            lanes,
            arrived: Arrived::new(),
            door,
            dials: Dials::new(commands.port.clone(), Arc::clone(&context.cpus)),
            context,
            commands,
            noted: false,
            tickets: 0,
            asked: HashMap::default(),
            now: 0,
            turn: (0, 0, 0),
            plain: Vec::new(),
            still: None,
            stop_at: None,
            stalled: false,
            stalls: (0, 0),
        };
        hub.look_at_clock();
        hub.act();
        hub
    }

    pub(crate) fn look_at_clock(&mut self) {
        self.now = Micros::try_from(self.context.started.elapsed().as_micros()).unwrap_or(Micros::MAX);
    }

    pub(crate) fn begin_turn(&mut self) {
        self.look_at_clock();
        self.turn = (self.now, self.now, 0);
    }

    /// How long the turn waited for its first bytes, and how many came.
    pub(crate) fn turn_brought(&self) -> (Duration, u64) {
        let (began, first, bytes) = self.turn;
        (Duration::from_micros(first - began), bytes)
    }

    pub(super) fn note_bytes(&mut self, bytes: usize) {
        if self.turn.2 == 0 {
            self.turn.1 = self.now;
        }
        self.turn.2 += bytes as u64;
    }

    /// Whether links may be read: not while another shard has no room.
    pub(crate) fn reads(&self) -> bool {
        !self.stalled && self.still.is_none()
    }

    /// Whether the shard is stopping and has closed everything.
    pub(crate) fn ended(&self) -> bool {
        self.stop_at.is_some() && self.links.is_empty() && self.dials.none_awaited()
    }

    /// How long the shard may sleep, as far as its clock is concerned.
    pub(crate) fn patience(&mut self, at_most: Duration) -> Duration {
        self.look_at_clock();
        if !self.dirty.is_empty() || !self.ops.is_empty() {
            return Duration::ZERO;
        }
        let timer = self.timers.peek().map(|Reverse((when, _))| *when);
        let deadline = self.brain.deadline().filter(|_| self.still.is_none());
        let next = [deadline, timer].into_iter().flatten().min();
        next.map_or(at_most, |when| {
            at_most.min(Duration::from_micros(when.saturating_sub(self.now)))
        })
    }

    /// Whether other threads have left nothing in the queues; to be asked after the sleep was announced.
    pub(crate) fn quiet(&self) -> bool {
        self.lanes.quiet() && self.commands.queue.is_empty()
    }

    /// The half of a turn after the driver's: commands, lanes and timers, then everything that follows from the turn.
    pub(crate) fn after(&mut self, driver: &mut impl Driver) {
        self.look_at_clock();
        self.obey();
        self.take_lanes();
        self.ring_alarms();
        if self.still.is_none() && self.brain.deadline().is_some_and(|when| when <= self.now) {
            self.brain.tick(self.now);
            self.act();
        }
        self.settle(driver);
        self.give_lanes();
        self.act();
        self.lanes.ring();
        self.answer_when_all_is_let_go();
        if !self.noted && self.brain.has_notes() {
            // Full: somebody else has said so.
            self.noted = true;
            let _ = self.commands.noted.try_send(());
        }
    }

    fn obey(&mut self) {
        while let Ok(command) = self.commands.queue.try_recv() {
            match command {
                // An asker that has gone away does not matter.
                Command::Report(to) => drop(to.try_send(self.report())),
                Command::Ask(question, to) => {
                    self.tickets += 1;
                    self.asked.insert(self.tickets, to);
                    self.brain.inquire(self.now, self.tickets, question);
                    self.act();
                }
                Command::Reload(config, tls, local) => {
                    self.context.tls = tls;
                    self.door.reload(&config.io);
                    if let Some(local) = local {
                        self.brain.renew_local(&local);
                    }
                    self.brain.reload(self.now, config);
                    self.act();
                }
                Command::Dialed(link, outcome) => self.dialed(link, outcome),
                Command::Shutdown => self.stop(),
                Command::Notes(anew, to) => {
                    drop(to.try_send(self.brain.take_notes(anew)));
                    self.noted = false;
                }
                Command::TakeOver(step) => self.take_over(step),
            }
        }
    }

    fn stop(&mut self) {
        if self.stop_at.is_some() {
            return;
        }
        let at = self.now + STOP_FLUSH_MS * 1_000;
        self.stop_at = Some(at);
        self.timers.push(Reverse((at, Alarm::Stop)));
        self.ops.push_back(Op::Unlisten);
        self.brain.shutdown(self.now);
        self.act();
        let links: Vec<LinkId> = self.links.keys().copied().collect();
        for link in links {
            self.begin_close(link, CloseCause::Local);
        }
        self.hang_up_dials();
    }

    pub(super) fn take_lanes(&mut self) {
        let mut arrived = std::mem::replace(&mut self.arrived, Arrived::new());
        self.lanes.drain(&mut arrived);
        let mut control = Vec::new();
        for (source, message) in arrived.messages.drain(..) {
            match message {
                Message::Control(messages) => control.push((source, messages)),
                Message::Link(handover) => {
                    // What was sent before the link is handled before it.
                    self.give_brain(&mut control, &mut Vec::new());
                    self.adopt(*handover);
                }
            }
        }
        self.give_brain(&mut control, &mut arrived.data);
        arrived.data.clear();
        self.arrived = arrived;
        self.lanes.handled();
    }

    fn give_brain(&mut self, control: &mut Vec<(ShardId, Vec<B::Control>)>, data: &mut Vec<(ShardId, B::Data)>) {
        if !control.is_empty() || !data.is_empty() {
            self.brain.lanes(self.now, control, data);
            control.clear();
            self.act();
        }
    }

    /// Sends what else the turn produced for other shards: control to all of them, then data.
    fn give_lanes(&mut self) {
        self.give_control();
        self.lanes.push_stuck();
        for target in self.lanes.targets() {
            if self.lanes.free(target)
                && let Some(batch) = self.brain.take_data(target)
            {
                self.lanes.send_data(target, batch);
            }
        }
        let (data, control) = self.lanes.waits();
        self.stalled = data || control;
        self.stalls.0 += u64::from(data);
        self.stalls.1 += u64::from(control);
    }

    fn report(&self) -> ShardReport {
        let mut report = self.brain.report();
        report.counters.add(Counter::StallsData, self.stalls.0);
        report.counters.add(Counter::StallsControl, self.stalls.1);
        report
    }

    pub(super) fn give_control(&mut self) {
        for target in self.lanes.targets() {
            let control = self.brain.take_control(target);
            if !control.is_empty() {
                // A shard that has ended has no use for it.
                let _ = self.lanes.send(target, Message::Control(control));
            }
        }
    }

    fn ring_alarms(&mut self) {
        while let Some(Reverse((when, alarm))) = self.timers.peek().copied() {
            if when > self.now {
                return;
            }
            self.timers.pop();
            match alarm {
                Alarm::AcceptAgain => self.ops.push_back(Op::AcceptAgain),
                Alarm::Flushed(slot, generation) => self.let_go(LinkId { slot, generation }),
                Alarm::Unthrottle(slot, generation) => {
                    let id = LinkId { slot, generation };
                    if let Some(link) = self.links.get_mut(&id) {
                        link.throttled = false;
                        self.ops.push_back(Op::Reading(id));
                    }
                }
                Alarm::Stop => {
                    let links: Vec<LinkId> = self.links.keys().copied().collect();
                    for link in links {
                        self.let_go(link);
                    }
                }
            }
        }
    }

    /// Carries out orders and writes, until nothing more follows or the turn is long enough.
    pub(crate) fn settle(&mut self, driver: &mut impl Driver) {
        for _ in 0..ROUNDS_MAX {
            self.order(driver);
            // An answer may be acted upon as soon as it is written: what led to it goes to the other shards before.
            self.give_control();
            for _ in 0..self.dirty.len() {
                let Some(link) = self.dirty.pop_front() else { break };
                self.flush(link, driver);
            }
            driver.reap(self);
            // Taking output may have made room that the brain has an opinion about.
            self.act();
            if self.dirty.is_empty() && self.ops.is_empty() {
                return;
            }
        }
    }

    fn order(&mut self, driver: &mut impl Driver) {
        while let Some(op) = self.ops.pop_front() {
            match op {
                Op::Add(id, fd) => self.add(id, fd, driver),
                Op::Reading(id) => {
                    if let Some(link) = self.links.get(&id) {
                        driver.set_reading(link.token, link.wants_reading());
                    }
                }
                Op::Release(id) => {
                    if let Some(link) = self.links.get(&id) {
                        driver.release(link.token);
                    }
                }
                Op::Probe(id) => {
                    let Some(link) = self.links.get(&id) else { continue };
                    let alive = driver.socket(link.token).is_some_and(super::sys::peer_acknowledges);
                    self.brain.probed(self.now, id, alive);
                    self.act();
                }
                Op::DiscardUnsent(id) => {
                    let link = self.links.get(&id);
                    if let Some(fd) = link.and_then(|link| driver.socket(link.token)) {
                        super::sys::discard_unsent_at_close(fd);
                    }
                }
                Op::Undialed(id, cause) => self.undialed(id, cause),
                Op::AcceptAgain => driver.accept_again(),
                Op::Accepting(accepting) => driver.set_accepting(accepting),
                Op::Again(id, released) => self.serve_again(id, released, driver),
                Op::Unlisten => driver.unlisten(),
            }
        }
    }

    pub(super) fn add(&mut self, id: LinkId, fd: OwnedFd, driver: &mut impl Driver) {
        let Some(link) = self.links.get_mut(&id) else { return };
        match driver.add(id, fd) {
            Ok(token) => {
                link.token = token;
                let reading = link.wants_reading();
                if !reading {
                    driver.set_reading(token, false);
                }
            }
            Err((_fd, error)) => {
                self.links.remove(&id);
                self.brain
                    .closed(self.now, id, CloseCause::Error(error.to_string()), Vec::new(), 0);
                self.act();
            }
        }
    }

    /// Takes over a link of another shard.
    pub(super) fn adopt(&mut self, handover: Handover<B::Cargo>) {
        let Handover {
            fd,
            remote,
            permit,
            cargo,
            tls,
            meter,
            throttled_until,
            unread,
            written,
            broken,
        } = handover;
        let id = self.brain.adopt(self.now, cargo);
        if written > 0 {
            self.brain.written(self.now, id, written);
        }
        let mut link = Link::new(Token::NONE, remote, permit, meter);
        link.tls = tls;
        if throttled_until > self.now {
            link.throttled = true;
            self.timers
                .push(Reverse((throttled_until, Alarm::Unthrottle(id.slot, id.generation))));
        }
        self.links.insert(id, link);
        let ended = match broken {
            None => {
                self.ops.push_back(Op::Add(id, fd));
                None
            }
            Some(end) => Some((fd, end)),
        };
        self.act();
        // What it had read before it ended is handled before its end.
        if !unread.is_empty() {
            self.take_bytes(id, &unread);
        }
        if let Some((fd, end)) = ended {
            return self.end_adopted(id, fd, end);
        }
        self.mark_dirty(id);
        if self.stop_at.is_some() {
            self.begin_close(id, CloseCause::Local);
        }
    }

    /// Ends a link that came to its end on its way here, unless it is on its way to yet another shard.
    fn end_adopted(&mut self, id: LinkId, fd: OwnedFd, (cause, unsent, written): (CloseCause, Vec<u8>, usize)) {
        let Some(mut link) = self.links.remove(&id) else { return };
        let Fate::Moving { to, cargo, .. } = link.fate else {
            self.brain.closed(self.now, id, cause, unsent, written);
            return self.act();
        };
        let handover = Box::new(Handover {
            fd,
            remote: link.remote,
            permit: link.permit,
            cargo,
            tls: link.tls.take(),
            meter: link.meter,
            throttled_until: 0,
            unread: link.unread,
            written: 0,
            broken: Some((cause, unsent, written)),
        });
        self.send_link(to, handover);
    }

    pub(super) fn log(&self, level: Level, remote: std::net::SocketAddr, text: String) {
        let mut line = line(level, text);
        line.remote = Some(remote);
        self.context.journal.log(line);
    }

    pub(super) fn mark_dirty(&mut self, id: LinkId) {
        if let Some(link) = self.links.get_mut(&id)
            && !link.dirty
        {
            link.dirty = true;
            self.dirty.push_back(id);
        }
    }

    /// Ends a link now, written or not.
    pub(super) fn let_go(&mut self, id: LinkId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        match &mut link.fate {
            Fate::Gone(_) => return,
            Fate::Closing { cause, .. } => {
                let cause = std::mem::replace(cause, CloseCause::Local);
                link.fate = Fate::Gone(cause);
            }
            Fate::Serving => link.fate = Fate::Gone(CloseCause::Local),
            Fate::Moving { broken, .. } => *broken = Some(CloseCause::Local),
        }
        self.ops.push_back(Op::Release(id));
    }
}
