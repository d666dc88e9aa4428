//! Connections between nodes: dialled, accepted, crossed by bytes as the network lets them.
//!
//! Each end is a [`Conn`] of its own router; what one writes crosses into what the other reads. TCP loses nothing that
//! it does not report: a network that lets nothing through only delays, a machine that is gone without a word is
//! silent, and a dial to either times out.

use super::link::{Conn, Far, Fate};
use super::text::node_named;
use super::world::{Event, World};
use crate::node::api::{CloseCause, DIAL_MS, LinkId};
use crate::table::ShardId;
use std::net::SocketAddr;

/// What still crosses in one direction while nothing does in the other: a first window, unacknowledged.
pub(super) const UNHEARD_OF_MAX: usize = 14_000;

/// Where peers connect.
pub(super) const MESH_PORT: u16 = 5_348;

impl World {
    /// A brain dials a peer.
    pub(super) fn dial(&mut self, node: usize, shard: ShardId, link: LinkId, host: &str, port: u16) {
        let conn = self.conns.len();
        let mut it = Conn::new(node, Far::Nobody, Some((shard, link)));
        it.fate = Fate::Dialing;
        self.conns.push(it);
        self.machines[node]
            .links
            .insert((shard, link.slot, link.generation), conn);
        self.note(|| format!("node {node} dials {host} as conn {conn}"));
        let target = node_named(host).filter(|target| *target < self.plan.nodes && port == MESH_PORT);
        let Some(target) = target else {
            let cause = CloseCause::Error(format!("{host} is not known"));
            return self.after(1_000, Event::RouterEnd(conn, cause));
        };
        let delay = self
            .rng
            .delay(self.plan.mesh.usual_us * 2, self.plan.mesh.usual_us * 40);
        let silent = !self.passes(node, target) || !self.passes(target, node);
        if silent || delay > DIAL_MS * 1_000 {
            let cause = CloseCause::Error("timed out".into());
            return self.after(DIAL_MS * 1_000, Event::RouterEnd(conn, cause));
        }
        self.after(delay, Event::Dialed(conn, target));
    }

    /// A dial has its answer.
    pub(super) fn dialed(&mut self, conn: usize, target: usize) {
        let it = &self.conns[conn];
        let (Fate::Dialing, Some((shard, link))) = (&it.fate, it.place) else {
            return;
        };
        let node = it.node;
        let frozen = self.machines[node].frozen_until[usize::from(shard)];
        if frozen > self.now {
            return self.at(frozen, Event::Dialed(conn, target));
        }
        if !self.machines[target].running {
            return self.router_gone(conn, CloseCause::Refused);
        }
        let other = self.conns.len();
        self.conns.push(Conn::new(target, Far::Node(conn), None));
        let it = &mut self.conns[conn];
        it.far = Far::Node(other);
        it.fate = Fate::Serving;
        let (brain, now) = self.brain(node, shard);
        brain.dialed(now, link, address(target, MESH_PORT));
        self.act(node, shard);
        self.read_soon(conn);
        self.write_soon(conn);
        let (delay, life) = (self.rng.delay(200, 20_000), self.machines[target].life);
        self.after(delay, Event::Accept(other, life));
    }

    /// A router takes a connection from its backlog.
    pub(super) fn accept(&mut self, conn: usize, life: u32) {
        let (node, Far::Node(other)) = (self.conns[conn].node, self.conns[conn].far) else {
            return;
        };
        if self.machines[node].life != life || !self.machines[node].running {
            return;
        }
        let frozen = self.machines[node].frozen_until[0];
        if frozen > self.now {
            return self.at(frozen, Event::Accept(conn, life));
        }
        let remote = address(self.conns[other].node, 1_024 + (other % 60_000) as u16);
        let (brain, now) = self.brain(node, 0);
        let link = brain.opened_peer(now, remote);
        self.conns[conn].place = Some((0, link));
        self.machines[node].links.insert((0, link.slot, link.generation), conn);
        self.act(node, 0);
        self.read_soon(conn);
        self.write_soon(conn);
        if self.conns[conn].cut {
            self.after(1, Event::RouterEnd(conn, CloseCause::Reset));
        }
    }

    /// Bytes cross from this end to the other.
    pub(super) fn crosses(&mut self, conn: usize) {
        let it = &self.conns[conn];
        let Far::Node(other) = it.far else { return };
        if it.cut {
            return;
        }
        if it.clogged_until > self.now {
            let later = it.clogged_until;
            self.conns[conn].hearing_soon = true;
            return self.at(later, Event::Hear(conn));
        }
        let (from, to) = (it.node, self.conns[other].node);
        if !self.passes(from, to) {
            // Tried again when the network has healed.
            return;
        }
        let answered = self.passes(to, from);
        let room = self.plan.mesh.window.saturating_sub(self.conns[other].up.len());
        let it = &mut self.conns[conn];
        if answered {
            it.unheard_of = UNHEARD_OF_MAX;
        }
        let most = it.down.len().min(room).min(it.unheard_of);
        if most == 0 {
            if it.down.is_empty() && matches!(it.fate, Fate::Gone) && answered {
                self.conns[other].open = false;
                self.read_soon(other);
            }
            return;
        }
        if matches!(self.conns[other].fate, Fate::Gone) {
            // Nobody reads there any more: the kernel answers with a reset.
            return self.cut(conn);
        }
        let count = if self.rng.chance(60) {
            most
        } else {
            1 + self.rng.index(most)
        };
        let it = &mut self.conns[conn];
        if !answered {
            it.unheard_of -= count;
        }
        let bytes: Vec<u8> = it.down.drain(..count).collect();
        let waits = it.writing;
        self.conns[other].up.extend(bytes);
        self.read_soon(other);
        self.hear_soon(conn);
        if waits {
            self.write_soon(conn);
        }
    }

    /// A connection between two nodes is reset; each learns of it in its own time.
    pub(super) fn cut_between(&mut self, one: usize, other: usize) {
        for conn in [one, other] {
            let it = &mut self.conns[conn];
            it.cut = true;
            it.up.clear();
            it.down.clear();
            let delay = self.rng.delay(5_000, 100_000);
            self.after(delay, Event::RouterEnd(conn, CloseCause::Reset));
            self.write_soon(conn);
        }
    }

    /// Whether the other kernel has acknowledged all that was written.
    pub(super) fn is_acknowledged(&self, conn: usize) -> bool {
        let it = &self.conns[conn];
        match it.far {
            Far::Node(_) => !it.cut && it.down.is_empty() && it.unheard_of == UNHEARD_OF_MAX,
            _ => !it.cut,
        }
    }

    /// The connections between nodes that have both ends.
    pub(super) fn wires(&self) -> Vec<usize> {
        let is_wire = |conn: &usize| {
            let it = &self.conns[*conn];
            matches!(it.far, Far::Node(_)) && !it.cut && !(matches!(it.fate, Fate::Gone) && it.down.is_empty())
        };
        (0..self.conns.len()).filter(is_wire).collect()
    }
}

fn address(node: usize, port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1 + node as u8], port))
}
