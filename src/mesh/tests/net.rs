//! A network in memory with virtual time: nodes with their peers, links with delay and room, cuts and resets.

use super::super::conn::{Conn, Local, Scratch};
use super::super::hello::Address;
use super::super::peer::{DIAL_US_MAX, DialFailure, DialId, Peer, PeerEvent, PeerImage, Reach};
use super::super::{CloseCause, Lane, LinkId, Micros};
use super::{local, rng};
use crate::table::image;
use rand_chacha::ChaCha20Rng;
use rand_core::RngCore;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// The clock's step.
pub(crate) const STEP_US: Micros = 500;
/// What the kernels of both sides hold of one direction, bytes.
const ROOM_BYTES: usize = 256 * 1024;
pub(crate) const PEER_BYTES_MAX: u64 = 8 << 20;

#[derive(Default)]
struct Wire {
    /// In flight: when each piece arrives.
    pieces: VecDeque<(Micros, Vec<u8>)>,
    bytes: usize,
}

struct Cable {
    /// (node, link) of both sides; the dialler first.
    ends: [(usize, LinkId); 2],
    /// From each side.
    wires: [Wire; 2],
    /// Writes wait.
    wants: [bool; 2],
    /// Another node passes its bytes on: a cut between the two does not matter.
    reach: Reach,
    /// The side closed when it has written its last; the other hears of it then.
    closing: [bool; 2],
    closed: [bool; 2],
    /// The side was reset by the other's kernel, unknown to the other: what that one sends meets a reset in its turn.
    half: [bool; 2],
}

pub(crate) struct Node {
    pub(crate) local: Arc<Local>,
    pub(crate) peers: BTreeMap<String, Peer>,
    /// Accepted links whose handshake is under way.
    accepting: BTreeMap<u32, (Conn, Reach)>,
    pub(crate) alive: bool,
    /// It takes no messages.
    pub(crate) lazy: bool,
    /// Its process does not run; its kernel takes what comes, and keeps what came when a connection ends.
    pub(crate) stopped: bool,
    /// (from, lane, message).
    pub(crate) got: Vec<(String, Lane, Vec<u8>)>,
    /// (from, text).
    pub(crate) events: Vec<(String, PeerEvent)>,
    rng: ChaCha20Rng,
}

pub(crate) struct Net {
    pub(crate) now: Micros,
    pub(crate) delay_us: Micros,
    pub(crate) nodes: Vec<Node>,
    cables: Vec<Cable>,
    /// (when, dialler, peer's name, dial, outcome)
    dials: Vec<(Micros, usize, String, DialId, Option<usize>)>,
    /// Directions that are dead: (from, to).
    pub(crate) cut: Vec<(usize, usize)>,
    /// Whatever comes to these nodes is answered with a reset, and they hear nothing of it.
    pub(crate) rejecting: Vec<usize>,
    /// There is a node that passes on what a cut stops.
    pub(crate) relay: bool,
    links: u32,
    pub(crate) dials_seen: usize,
}

impl Node {
    fn runs(&self) -> bool {
        self.alive && !self.stopped
    }
}

fn name(node: usize) -> String {
    format!("n{node}.test")
}

impl Net {
    /// Nodes that do not know each other.
    pub(crate) fn new(count: usize, seed: u64) -> Net {
        let node = |index: usize| Node {
            local: local(&name(index), 1 + index as u64),
            peers: BTreeMap::new(),
            accepting: BTreeMap::new(),
            alive: true,
            lazy: false,
            stopped: false,
            got: Vec::new(),
            events: Vec::new(),
            rng: rng(seed * 1000 + index as u64),
        };
        Net {
            now: 0,
            delay_us: 1_000,
            nodes: (0..count).map(node).collect(),
            cables: Vec::new(),
            dials: Vec::new(),
            cut: Vec::new(),
            rejecting: Vec::new(),
            relay: false,
            links: 0,
            dials_seen: 0,
        }
    }

    /// `from` knows where `to` is.
    pub(crate) fn introduce(&mut self, from: usize, to: usize) {
        let address = Address {
            host: name(to),
            port: 5348,
        };
        let now = self.now;
        self.peer_mut(from, &name(to)).learn_addresses(now, &[address]);
    }

    fn peer_mut(&mut self, node: usize, name: &str) -> &mut Peer {
        let now = self.now;
        let node = &mut self.nodes[node];
        let seed = node.rng.next_u64();
        let local = &node.local;
        let fresh = || Peer::new(now, local, name, Vec::new(), PEER_BYTES_MAX, rng(seed));
        node.peers.entry(name.to_owned()).or_insert_with(fresh)
    }

    pub(crate) fn peer(&mut self, node: usize, of: usize) -> &mut Peer {
        self.peer_mut(node, &name(of))
    }

    /// A new process in the place of the old one.
    pub(crate) fn restart(&mut self, node: usize, incarnation: u64) {
        self.kill(node);
        let old = &mut self.nodes[node];
        old.local = local(&name(node), incarnation);
        old.peers.clear();
        old.alive = true;
    }

    /// Another process goes on in the place of the old one.
    pub(crate) fn take_over(&mut self, node: usize) {
        self.settle(node);
        let peers = self.nodes[node].peers.values();
        let images: Vec<Vec<u8>> = peers.map(|peer| image::write(&peer.image()).unwrap()).collect();
        self.kill(node);
        let now = self.now;
        let node = &mut self.nodes[node];
        for written in images {
            let image: PeerImage = image::read(&written).unwrap();
            let (name, seed) = (image.name().to_owned(), node.rng.next_u64());
            let mut peer = Peer::restored(now, &node.local, image, PEER_BYTES_MAX, rng(seed));
            peer.tick(now);
            node.peers.insert(name, peer);
        }
        node.alive = true;
    }

    /// The process ends; its machine answers.
    pub(crate) fn kill(&mut self, node: usize) {
        self.nodes[node].alive = false;
        self.nodes[node].accepting.clear();
        for index in 0..self.cables.len() {
            let ends = self.cables[index].ends;
            if let Some(side) = ends.iter().position(|end| end.0 == node) {
                self.cables[index].closed[side] = true;
                self.break_side(index, 1 - side, CloseCause::Reset);
            }
        }
    }

    pub(crate) fn reset_all(&mut self) {
        for index in 0..self.cables.len() {
            self.break_side(index, 0, CloseCause::Reset);
            self.break_side(index, 1, CloseCause::Reset);
        }
    }

    pub(crate) fn cut_both(&mut self, a: usize, b: usize) {
        self.cut.extend([(a, b), (b, a)]);
    }

    pub(crate) fn open_cables(&self) -> usize {
        self.cables.iter().filter(|cable| cable.closed == [false; 2]).count()
    }

    pub(crate) fn run(&mut self, duration_us: Micros) {
        let end = self.now + duration_us;
        while self.now < end {
            self.step();
        }
    }

    pub(crate) fn step(&mut self) {
        self.now += STEP_US;
        self.finish_dials();
        for index in 0..self.cables.len() {
            for side in 0..2 {
                self.deliver(index, side);
            }
        }
        let now = self.now;
        for node in 0..self.nodes.len() {
            if self.nodes[node].runs() {
                for peer in self.nodes[node].peers.values_mut() {
                    if peer.deadline().is_some_and(|at| at <= now) {
                        peer.tick(now);
                    }
                    let after = peer.deadline();
                    assert!(
                        after.is_none_or(|at| at > now),
                        "a deadline that does not pass: {after:?} at {now}"
                    );
                }
            }
            self.settle(node);
        }
        for index in 0..self.cables.len() {
            for side in 0..2 {
                self.write(index, side);
            }
        }
        for node in 0..self.nodes.len() {
            self.settle(node);
        }
        self.cables.retain(|cable| cable.closed != [true; 2]);
    }

    fn finish_dials(&mut self) {
        let now = self.now;
        let (due, later) = std::mem::take(&mut self.dials)
            .into_iter()
            .partition(|dial| dial.0 <= now && !self.nodes[dial.1].stopped);
        self.dials = later;
        let due: Vec<(Micros, usize, String, DialId, Option<usize>)> = due;
        for (_, from, peer, dial, to) in due {
            let relay = self.relay && to.is_none() && self.peer_mut(from, &peer).wants_relay(dial).is_some();
            let reach = if relay { Reach::Relayed } else { Reach::Direct };
            let to = to.or_else(|| (0..self.nodes.len()).find(|index| relay && name(*index) == peer));
            let Some(to) = to else {
                self.fail_dial(from, &peer, dial, &DialFailure::Silent);
                continue;
            };
            if !self.nodes[to].alive || self.rejecting.contains(&to) {
                self.fail_dial(from, &peer, dial, &DialFailure::Refused);
                continue;
            }
            let links = [self.link(), self.link()];
            let node = &mut self.nodes[to];
            node.accepting
                .insert(links[1].slot, (Conn::accept(now, &node.local, &mut node.rng), reach));
            self.cables.push(Cable {
                ends: [(from, links[0]), (to, links[1])],
                wires: Default::default(),
                wants: [false, false],
                reach,
                closing: [false; 2],
                closed: [false; 2],
                half: [false; 2],
            });
            if self.nodes[from].alive && self.nodes[from].peers.contains_key(&peer) {
                let peer = self.peer_mut(from, &peer);
                match reach {
                    Reach::Direct => peer.dialled(now, dial, links[0]),
                    Reach::Relayed => peer.dialled_instead(now, dial, &DialFailure::Silent, links[0]),
                }
            }
        }
    }

    fn fail_dial(&mut self, from: usize, peer: &str, dial: DialId, failure: &DialFailure) {
        let now = self.now;
        if self.nodes[from].alive && self.nodes[from].peers.contains_key(peer) {
            self.peer_mut(from, peer).dial_failed(now, dial, failure);
        }
    }

    fn link(&mut self) -> LinkId {
        self.links += 1;
        LinkId {
            slot: self.links,
            generation: 1,
        }
    }

    /// What `side` sent arrives.
    fn deliver(&mut self, index: usize, side: usize) {
        let now = self.now;
        loop {
            let cut = self.stops(index, side);
            let cable = &mut self.cables[index];
            let to = cable.ends[1 - side];
            let due = cable.wires[side].pieces.front().is_some_and(|piece| piece.0 <= now);
            if cut || !due || self.nodes[to.0].stopped {
                break;
            }
            let Some((_, bytes)) = cable.wires[side].pieces.pop_front() else {
                break;
            };
            cable.wires[side].bytes -= bytes.len();
            if self.rejecting.contains(&to.0) || cable.half[1 - side] {
                self.cables[index].half[side] = !self.cables[index].half[1 - side];
                self.break_side(index, side, CloseCause::Reset);
            } else if !cable.closed[1 - side] {
                self.receive(to.0, to.1, &bytes);
                self.settle(to.0);
            }
        }
        let cable = &self.cables[index];
        let ended =
            cable.closed[side] && cable.wires[side].pieces.is_empty() && !self.nodes[cable.ends[1 - side].0].stopped;
        if ended && !cable.half[side] && !cable.closed[1 - side] && !self.stops(index, side) {
            self.break_side(index, 1 - side, CloseCause::Eof);
        }
    }

    /// Nothing gets from this side of a cable to the other.
    fn stops(&self, index: usize, side: usize) -> bool {
        let Cable { ends, reach, .. } = &self.cables[index];
        *reach == Reach::Direct && self.cut.contains(&(ends[side].0, ends[1 - side].0))
    }

    fn receive(&mut self, node: usize, link: LinkId, bytes: &[u8]) {
        let now = self.now;
        if let Some((mut conn, reach)) = self.nodes[node].accepting.remove(&link.slot) {
            let result = conn.received_early(bytes, &mut Scratch::default());
            if result.is_ok() && conn.is_established() {
                let peer = conn.hello().unwrap().node.clone();
                self.peer_mut(node, &peer).attached(now, link, reach, conn);
            } else {
                self.nodes[node].accepting.insert(link.slot, (conn, reach));
                self.mark(node, link, true, result.is_err());
            }
            return;
        }
        for peer in self.nodes[node].peers.values_mut() {
            peer.received(now, link, bytes);
        }
    }

    fn mark(&mut self, node: usize, link: LinkId, wants: bool, closing: bool) {
        for cable in &mut self.cables {
            if let Some(side) = cable.ends.iter().position(|end| *end == (node, link)) {
                cable.wants[side] |= wants;
                cable.closing[side] |= closing;
            }
        }
    }

    fn write(&mut self, index: usize, side: usize) {
        let now = self.now;
        let cable = &mut self.cables[index];
        let (node, link) = cable.ends[side];
        if cable.closed[side] || cable.wires[side].bytes > ROOM_BYTES || self.nodes[node].stopped {
            return;
        }
        if std::mem::take(&mut cable.wants[side]) {
            let mut bytes = Vec::new();
            if let Some((conn, _)) = self.nodes[node].accepting.get_mut(&link.slot) {
                conn.take_output(&mut bytes);
            } else {
                for peer in self.nodes[node].peers.values_mut() {
                    peer.take_output(now, link, &mut bytes);
                }
            }
            if !bytes.is_empty() {
                let cable = &mut self.cables[index];
                cable.wires[side].bytes += bytes.len();
                cable.wires[side].pieces.push_back((now + self.delay_us, bytes));
            }
            self.settle(node);
        }
        if self.cables[index].closing[side] && !self.cables[index].closed[side] {
            self.break_side(index, side, CloseCause::Local);
        }
    }

    /// This side's socket is gone.
    fn break_side(&mut self, index: usize, side: usize, cause: CloseCause) {
        let now = self.now;
        let cable = &mut self.cables[index];
        if std::mem::replace(&mut cable.closed[side], true) {
            return;
        }
        if cause == CloseCause::Reset {
            cable.wires = Default::default();
        }
        let (node, link) = cable.ends[side];
        self.nodes[node].accepting.remove(&link.slot);
        for peer in self.nodes[node].peers.values_mut() {
            peer.closed(now, link, &cause);
        }
        self.settle(node);
    }

    /// Takes what a node's peers have to say.
    fn settle(&mut self, node: usize) {
        let now = self.now;
        let names: Vec<String> = self.nodes[node].peers.keys().cloned().collect();
        for peer_name in names {
            let this = &mut self.nodes[node];
            if !this.runs() {
                return;
            }
            let peer = this.peers.get_mut(&peer_name).unwrap();
            while !this.lazy
                && let Some((lane, message)) = peer.next_message(now)
            {
                this.got.push((peer_name.clone(), lane, message.to_vec()));
            }
            while let Some(event) = self.nodes[node].peers.get_mut(&peer_name).unwrap().poll() {
                self.handle(node, &peer_name, event);
            }
        }
    }

    fn handle(&mut self, node: usize, peer: &str, event: PeerEvent) {
        match event {
            PeerEvent::WantsOutput(link) => self.mark(node, link, true, false),
            PeerEvent::CloseLink(link) => self.mark(node, link, true, true),
            PeerEvent::AbortLink(link) => {
                let index = self
                    .cables
                    .iter()
                    .position(|cable| cable.ends.contains(&(node, link)))
                    .unwrap();
                let side = usize::from(self.cables[index].ends[1] == (node, link));
                let other = self.cables[index].ends[1 - side].0;
                let arrived = self.nodes[other].stopped && !self.cut.contains(&(node, other));
                let now = self.now;
                self.cables[index].wires[side]
                    .pieces
                    .retain(|piece| arrived && piece.0 <= now);
                self.break_side(index, side, CloseCause::Local);
            }
            PeerEvent::Dial { dial, address } => {
                self.dials_seen += 1;
                let to = (0..self.nodes.len()).find(|index| name(*index) == address.host);
                let to = to.filter(|to| !self.cut.contains(&(node, *to)) && !self.cut.contains(&(*to, node)));
                let at = self.now + to.map_or(DIAL_US_MAX, |_| 2 * self.delay_us);
                self.dials.push((at, node, peer.to_owned(), dial, to));
            }
            other => self.nodes[node].events.push((peer.to_owned(), other)),
        }
    }
}
