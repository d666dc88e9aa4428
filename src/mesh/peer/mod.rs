//! One peer, at its home shard: which connection serves each lane, when to dial, and what its end means.
//!
//! The shell's part: it connects where [`PeerEvent::Dial`] says, reports bytes and closings, writes what
//! [`Peer::take_output`] gives, and calls [`Peer::tick`] at [`Peer::deadline`]. After every call it takes the messages
//! with [`Peer::next_message`] and the events with [`Peer::poll`], both until there is nothing.

mod core;
mod dial;
mod event;
mod line;

pub use self::core::image::PeerImage;
pub use dial::{DIAL_US_MAX, DialFailure, DialId, PAUSE_US_MAX};
pub use event::{AnewCause, LaneStatus, Loss, PeerCounters, PeerEvent, PeerStatus};
pub use line::{HEARTBEAT_US, Reach, STALL_US};

pub use super::lane::send::{Full, Seen, Unacknowledged};

use self::core::{COMING_MAX, Core};
use super::conn::{Conn, Local, Scratch};
use super::error::{MeshError, Reason};
use super::frame::{Frame, put_frame};
use super::hello::Address;
use super::seal::PLAINTEXT_BYTES_MAX;
use super::{CloseCause, Lane, Level, LinkId, Micros};
use line::{Line, LineState, Phase};
use rand_chacha::ChaCha20Rng;
use std::sync::Arc;

/// What one call of [`Peer::take_output`] gives at most, bytes, about.
pub const OUTPUT_BYTES_MAX: usize = 256 * 1024;
/// Most connections of a peer at a time: two a lane, as many that are on their way out, and those that this node dials.
const LINES_MAX: usize = (4 + COMING_MAX) * Lane::ALL.len();
/// A process that runs so much later than it wanted was stopped: the peer may have given it up meanwhile, microseconds.
const STOPPED_US: Micros = 1_000_000;
/// Longest membership message, bytes: the identities of some 64 members.
pub const DATAGRAM_BYTES_MAX: usize = 8 * 1024;
/// Most membership messages that wait for a connection's next write, or for a connection; then the oldest are dropped.
const DATAGRAMS_MAX: usize = 64;

/// One peer.
pub struct Peer {
    core: Core,
    lines: Vec<Line>,
    /// When it wanted to be called again.
    due: Option<Micros>,
    scratch: Scratch,
    plaintext: Vec<u8>,
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peer")
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

impl Peer {
    /// A peer of this name. It is dialled at `addresses` until it is reached, unless they are empty; its hello adds to
    /// them. `bytes_max`: most bytes kept for it, a quarter of them for the control lane. `rng`: seeded by the caller.
    pub fn new(
        now: Micros,
        local: &Arc<Local>,
        name: &str,
        addresses: Vec<Address>,
        bytes_max: u64,
        rng: ChaCha20Rng,
    ) -> Peer {
        assert!(name != local.hello.node, "a node is no peer of itself");
        let mut peer = Peer {
            core: Core::new(now, local, name, addresses, bytes_max, rng),
            lines: Vec::new(),
            due: None,
            scratch: Scratch::default(),
            plaintext: Vec::with_capacity(PLAINTEXT_BYTES_MAX),
        };
        peer.settle(now);
        peer
    }

    /// What another process of this node needs to go on with it ([`Peer::restored`]). Nothing may be left to be taken with
    /// [`Peer::poll`].
    pub fn image(&self) -> PeerImage {
        debug_assert!(self.core.events.is_empty(), "what it has to tell would be lost");
        self.core.image()
    }

    /// A peer of a former process of this node, which had the same incarnation. It does nothing before the first
    /// [`Peer::tick`].
    pub fn restored(now: Micros, local: &Arc<Local>, image: PeerImage, bytes_max: u64, rng: ChaCha20Rng) -> Peer {
        Peer {
            core: Core::restored(now, local, image, bytes_max, rng),
            lines: Vec::new(),
            due: None,
            scratch: Scratch::default(),
            plaintext: Vec::with_capacity(PLAINTEXT_BYTES_MAX),
        }
    }

    /// The peer's name.
    pub fn name(&self) -> &str {
        &self.core.name
    }

    /// Its life, once it was reached.
    pub fn incarnation(&self) -> Option<u64> {
        self.core.incarnation
    }

    /// Where it can be dialled, as far as is known.
    pub fn addresses(&self) -> &[Address] {
        &self.core.addresses
    }

    /// Further addresses, learnt from other members.
    pub fn learn_addresses(&mut self, now: Micros, addresses: &[Address]) {
        self.core.learn_addresses(addresses);
        self.settle(now);
    }

    /// A connection whose other side is this peer, established by whoever accepted or dialled it.
    pub fn attached(&mut self, now: Micros, link: LinkId, reach: Reach, conn: Conn) {
        let state = LineState::new(now, link, conn.lane(), reach);
        self.lines.push(Line { conn, state });
        let index = self.lines.len() - 1;
        if self.lines.len() > LINES_MAX {
            self.doom(index, Reason::Superseded, "too many connections at a time");
        } else {
            self.greeted(now, index);
        }
        self.settle(now);
    }

    /// A dial that [`PeerEvent::Dial`] asked for is connected.
    pub fn dialled(&mut self, now: Micros, dial: DialId, link: LinkId) {
        match self.core.dial_done(dial) {
            Some((lane, address)) => self.greet(now, link, lane, address, Reach::Direct),
            None => self.core.push(PeerEvent::CloseLink(link)),
        }
        self.settle(now);
    }

    /// A dial failed, and since [`Peer::wants_relay`] said so, this link goes there through another node.
    pub fn dialled_instead(&mut self, now: Micros, dial: DialId, failure: &DialFailure, link: LinkId) {
        match self.core.dial_done(dial) {
            Some((lane, address)) => {
                self.core.failed_at(now, &address, failure);
                self.greet(now, link, lane, address, Reach::Relayed);
            }
            None => self.core.push(PeerEvent::CloseLink(link)),
        }
        self.settle(now);
    }

    /// The lane of a dial that failed, if nothing serves it: another node that reaches the peer would be welcome, unless
    /// one was asked and has yet to answer.
    pub fn wants_relay(&self, dial: DialId) -> Option<Lane> {
        self.core.wants_relay(dial, &self.lines)
    }

    /// Secrets and policies of this node were changed: connections to come are made with them.
    pub fn renew_local(&mut self, local: &Arc<Local>) {
        self.core.local = Arc::clone(local);
    }

    /// A dial failed.
    pub fn dial_failed(&mut self, now: Micros, dial: DialId, failure: &DialFailure) {
        self.core.dial_failed(now, dial, failure);
        self.settle(now);
    }

    /// Bytes came over a link.
    pub fn received(&mut self, now: Micros, link: LinkId, bytes: &[u8]) {
        self.wake(now);
        let Some(index) = self.index_of(link) else { return };
        let Line { conn, state } = &mut self.lines[index];
        if state.phase == Phase::Closing {
            return;
        }
        let core = &mut self.core;
        let was_established = conn.is_established();
        let result = conn.received(bytes, &mut self.scratch, &mut |plaintext| {
            core.record(now, state, plaintext)
        });
        match result {
            Err(error) => self.failed(now, index, &error),
            Ok(()) if !was_established && conn.is_established() => self.greeted(now, index),
            Ok(()) => {}
        }
        self.settle(now);
    }

    /// A link is closed, whoever did it.
    pub fn closed(&mut self, now: Micros, link: LinkId, cause: &CloseCause) {
        let Some(index) = self.index_of(link) else { return };
        let line = self.lines.swap_remove(index);
        self.core.line_closed(now, &line.state, cause);
        self.settle(now);
    }

    /// Queues one message: its bytes are `parts`, one after another. It goes out with everything else of this turn.
    pub fn send(&mut self, lane: Lane, parts: &[&[u8]]) -> Result<(), Full> {
        self.core.send(lane, parts)?;
        if let Some(serving) = self.core.lanes[lane.index()].serving
            && let Some(index) = self.index_of(serving)
        {
            self.core.want(&mut self.lines[index].state);
        }
        Ok(())
    }

    /// Sends a message that may get lost, of at most [`DATAGRAM_BYTES_MAX`] bytes. While no connection serves it is kept:
    /// where connections do not last, what a member says in its defence must not be lost between two of them.
    pub fn send_datagram(&mut self, bytes: &[u8]) {
        let datagrams = &mut self.core.datagrams;
        if bytes.len() > DATAGRAM_BYTES_MAX {
            self.core.counters.datagrams_dropped += 1;
            return;
        }
        if datagrams.len() == DATAGRAMS_MAX {
            datagrams.pop_front();
            self.core.counters.datagrams_dropped += 1;
        }
        datagrams.push_back(bytes.to_vec());
        let serving = self.core.lanes[Lane::Control.index()].serving;
        if let Some(index) = serving.and_then(|link| self.index_of(link)) {
            self.core.want(&mut self.lines[index].state);
        }
    }

    /// The next message that may be given out.
    pub fn next_message(&mut self, now: Micros) -> Option<(Lane, &[u8])> {
        let found = Lane::ALL
            .into_iter()
            .find_map(|lane| Some((lane, self.core.next_message(now, lane)?)));
        let Some((lane, range)) = found else {
            self.settle(now);
            return None;
        };
        Some((lane, self.core.lanes[lane.index()].receiver.bytes(range)))
    }

    /// The next event.
    pub fn poll(&mut self) -> Option<PeerEvent> {
        self.core.events.pop_front()
    }

    /// Appends what this link should write now; asks for more with another [`PeerEvent::WantsOutput`].
    pub fn take_output(&mut self, now: Micros, link: LinkId, into: &mut Vec<u8>) {
        let Some(index) = self.index_of(link) else { return };
        let Line { conn, state } = &mut self.lines[index];
        state.wanted = false;
        let start = into.len();
        conn.take_output(into);
        let mut result = Ok(());
        while result.is_ok() && into.len() - start < OUTPUT_BYTES_MAX && conn.is_established() {
            self.plaintext.clear();
            self.core.put_frames(now, state, &mut self.plaintext);
            if self.plaintext.is_empty() {
                break;
            }
            result = conn.seal(&self.plaintext, into);
        }
        if into.len() - start >= OUTPUT_BYTES_MAX && self.core.has_frames(now, state) {
            self.core.want(state);
        }
        debug_assert!(result.is_ok(), "only established connections seal");
    }

    /// Time has passed: to be called when [`Peer::deadline`] is reached.
    pub fn tick(&mut self, now: Micros) {
        self.wake(now);
        for index in 0..self.lines.len() {
            let Line { conn, state } = &mut self.lines[index];
            if state.beat(now) {
                self.core.want(state);
            }
            let late = match state.phase {
                Phase::Greeting => conn.deadline().is_some_and(|at| now >= at),
                Phase::Joining { since } => now >= since + line::JOIN_US_MAX,
                _ => false,
            };
            if late {
                self.failed(now, index, &MeshError::TimedOut);
            }
        }
        self.settle(now);
    }

    /// When [`Peer::tick`] wants to be called.
    pub fn deadline(&self) -> Option<Micros> {
        let lines = self.lines.iter().filter_map(|line| self.core.line_deadline(line));
        lines.chain(self.core.deadline(&self.lines)).min()
    }

    /// Membership says that the peer is dead: its lanes start anew, and what it did not acknowledge, by lane number, is
    /// the caller's. It is dialled on, and told that it was declared dead when it answers.
    pub fn declare_dead(&mut self, now: Micros) -> [Unacknowledged; Lane::ALL.len()] {
        let left = self.core.declare_dead(now);
        for line in &mut self.lines {
            line.state.phase = Phase::Closing;
            line.state.urgent.clear();
            self.core.push(PeerEvent::AbortLink(line.state.link));
        }
        self.settle(now);
        left
    }

    /// This node goes: tells the peer why ([`Reason::Leaving`] or [`Reason::Restarting`]), closes all its links, and
    /// dials no more.
    pub fn leave(&mut self, now: Micros, reason: Reason) {
        self.core.stopped = true;
        for index in 0..self.lines.len() {
            self.doom(index, reason, "");
        }
        self.settle(now);
    }

    /// Bytes kept for the peer in this lane.
    pub fn queued_bytes(&self, lane: Lane) -> usize {
        self.core.lanes[lane.index()].sender.queued_bytes()
    }

    /// How far this lane's stream was given to its connection, and how far it goes, bytes. The first falls back when the
    /// connection is replaced.
    pub fn stream(&self, lane: Lane) -> (u64, u64) {
        self.core.lanes[lane.index()].sender.stream()
    }

    /// A connection reaches the peer.
    pub fn is_up(&self) -> bool {
        self.core.is_up()
    }

    /// A connection serves this lane, and its other end answers.
    pub fn is_served(&self, lane: Lane) -> bool {
        self.core.lanes[lane.index()].is_served()
    }

    /// What this lane carries goes through another node.
    pub fn is_relayed(&self, lane: Lane) -> bool {
        self.core.lanes[lane.index()].is_relayed()
    }

    /// What an operator wants to see.
    pub fn status(&self) -> PeerStatus {
        let side = |link: LinkId| self.index_of(link).map(|index| self.lines[index].conn.side());
        self.core.status(side)
    }

    /// What waits in the connections may be somebody else's by now, if this process was stopped: nothing of it is read.
    /// Over new connections the peer says whether it gave this node up; if not, all of it comes again.
    fn wake(&mut self, now: Micros) {
        let Some(due) = self.due.filter(|due| now > due + STOPPED_US) else {
            return;
        };
        let text = format!(
            "this process did not run for {} ms: connecting anew",
            (now - due) / 1_000
        );
        self.core.log(Level::Notice, text);
        for index in 0..self.lines.len() {
            self.doom(index, Reason::Superseded, "this process did not run");
        }
    }

    fn index_of(&self, link: LinkId) -> Option<usize> {
        self.lines.iter().position(|line| line.state.link == link)
    }

    /// A link that this node opened: its handshake begins.
    fn greet(&mut self, now: Micros, link: LinkId, lane: Lane, address: Address, reach: Reach) {
        let conn = Conn::dial(now, &self.core.local, lane, &mut self.core.rng);
        let mut state = LineState::new(now, link, lane, reach);
        state.dialled = Some(address);
        state.knows = self.core.lanes[lane.index()].decision;
        state.incarnation = self.core.incarnation;
        self.core.want(&mut state);
        self.lines.push(Line { conn, state });
    }

    /// The handshake of a line is done.
    fn greeted(&mut self, now: Micros, index: usize) {
        let Line { conn, state } = &mut self.lines[index];
        let Some(hello) = conn.hello().cloned() else {
            return self.failed(now, index, &MeshError::Malformed("no hello"));
        };
        let side = conn.side();
        if let Err(error) = self.core.meet(now, state, side, &hello, conn.is_plain()) {
            return self.failed(now, index, &error);
        }
        let core = &mut self.core;
        let early = conn.take_early(|plaintext| core.record(now, state, plaintext));
        if let Err(error) = early {
            self.failed(now, index, &error);
        }
    }

    fn failed(&mut self, now: Micros, index: usize, error: &MeshError) {
        let Line { conn, state } = &self.lines[index];
        self.core.line_failed(now, state, conn.side(), error);
        self.doom(index, error.reason(), "");
    }

    /// Says goodbye and closes.
    fn doom(&mut self, index: usize, reason: Reason, text: &str) {
        let Line { conn, state } = &mut self.lines[index];
        if state.phase == Phase::Closing {
            return;
        }
        self.core.forget(state);
        state.phase = Phase::Closing;
        state.urgent.clear();
        if conn.is_established() {
            put_frame(&mut state.urgent, &Frame::Bye { reason, text });
        }
        self.core.push(PeerEvent::CloseLink(state.link));
    }

    /// Draws the consequences of what happened: closes what no longer serves, dials, asks for output.
    fn settle(&mut self, now: Micros) {
        for index in 0..self.lines.len() {
            let state = &self.lines[index].state;
            if let Some(reason) = self.core.verdict(state) {
                self.doom(index, reason, "");
            }
        }
        for line in &mut self.lines {
            if line.conn.has_output() || self.core.is_pressing(now, &line.state) {
                self.core.want(&mut line.state);
            }
        }
        self.core.watch(now, &self.lines);
        self.core.dial(now, &self.lines);
        self.due = self.deadline().map(|at| at.max(now));
    }
}
