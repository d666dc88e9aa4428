//! The machines and the network between them: what is up, and what passes.

use super::lanes::Machine;
use super::link::{Far, Fate};
use super::people::State;
use super::text::node_name;
use super::world::{Event, World};
use crate::node::api::Micros;
use crate::table::ShardId;

/// After a disturbance two nodes may need so long until both know the same: the promise is 5 s and a connect.
pub(super) const SETTLE_US: Micros = 10_000_000;

/// So long after a healing all nodes are ready with each other: 5 s, and a dial that was on its way times out.
const HEALED_US: Micros = 6_500_000;

/// A node that is silent for less is believed out of reach by nobody. For longer, and the others go on without asking it.
const LOST_US: Micros = 1_000_000;

/// The network.
#[derive(Debug, Default)]
pub(super) struct Net {
    nodes: usize,
    /// Nothing passes from one node to another before this time.
    blocked_until: Vec<Micros>,
    /// Nothing was right between two nodes until this time.
    disturbed_until: Vec<Micros>,
    /// The machine is off.
    off: Vec<bool>,
}

impl Net {
    pub(super) fn new(nodes: usize) -> Net {
        Net {
            nodes,
            blocked_until: vec![0; nodes * nodes],
            disturbed_until: vec![0; nodes * nodes],
            off: vec![false; nodes],
        }
    }
}

impl World {
    /// Whether a packet gets from one node to another.
    pub(super) fn passes(&self, from: usize, to: usize) -> bool {
        let net = &self.net;
        net.blocked_until[from * net.nodes + to] <= self.now && !net.off[from] && !net.off[to]
    }

    /// Whether one node has been able to talk to the other for long enough that both know the same.
    pub(super) fn reaches(&self, one: usize, other: usize) -> bool {
        self.is_calm_between(one, other, SETTLE_US)
    }

    fn is_calm_between(&self, one: usize, other: usize, long: Micros) -> bool {
        let calm = |from: usize, to: usize| self.net.disturbed_until[from * self.net.nodes + to] + long < self.now;
        one == other || (calm(one, other) && calm(other, one))
    }

    /// P5: a while after a disturbance, if there was no other, each node has told each other what it has.
    pub(super) fn check_healed(&mut self) {
        let nodes = self.plan.nodes;
        let pairs = || (0..nodes).flat_map(|one| (0..nodes).map(move |other| (one, other)));
        let all_up = self.machines.iter().all(|machine| machine.running);
        if !all_up || !pairs().all(|(one, other)| self.is_calm_between(one, other, HEALED_US)) {
            return;
        }
        let torn = pairs().filter(|(one, other)| one != other).find_map(|(one, other)| {
            let name = node_name(other);
            let reports = self.machines[one].shards.iter().map(|shard| shard.report());
            let members = reports.filter_map(|report| report.mesh).flat_map(|mesh| mesh.members);
            let state = members.filter(|member| member.name == name).map(|member| member.state);
            let not_ready: Vec<&str> = state.filter(|state| *state != "ready").collect();
            (!not_ready.is_empty()).then_some((one, other, not_ready))
        });
        if let Some((one, other, states)) = torn {
            let late_ms = HEALED_US / 1_000;
            self.fail(format!(
                "P5: {late_ms} ms after all was right again, node {other} is {states:?} to node {one}"
            ));
        }
    }

    /// Whether all nodes have been able to talk to each other for long enough.
    pub(super) fn is_calm(&self) -> bool {
        let nodes = 0..self.plan.nodes;
        nodes
            .clone()
            .all(|one| nodes.clone().all(|other| self.reaches(one, other)))
    }

    /// Something is wrong with what this node says to that one until then.
    pub(super) fn disturb(&mut self, from: usize, to: usize, until: Micros) {
        let it = &mut self.net.disturbed_until[from * self.net.nodes + to];
        *it = (*it).max(until);
        self.at(until + HEALED_US + 1, Event::Healthy);
        if until > self.now + LOST_US {
            self.book.doubt(until + SETTLE_US);
        }
    }

    pub(super) fn disturb_all(&mut self, node: usize, until: Micros) {
        for other in 0..self.plan.nodes {
            self.disturb(node, other, until);
        }
    }

    /// Nothing passes from one node to another for a while.
    pub(super) fn block(&mut self, from: usize, to: usize, long: Micros) {
        let until = self.now + long;
        let at = from * self.net.nodes + to;
        self.net.blocked_until[at] = self.net.blocked_until[at].max(until);
        self.disturb(from, to, until);
        self.at(until, Event::Healed);
    }

    /// What waited for the network crosses it.
    pub(super) fn healed(&mut self) {
        for conn in self.wires() {
            let it = &self.conns[conn];
            let Far::Node(other) = it.far else { continue };
            let (one, two) = (it.node, self.conns[other].node);
            // A machine that has been away knows nothing of connections from before.
            let forgotten = matches!(self.conns[other].fate, Fate::Gone) && self.conns[other].lost_its_router;
            if forgotten && self.passes(one, two) && self.passes(two, one) {
                self.cut(conn);
            } else {
                self.hear_soon(conn);
            }
        }
    }

    /// The router of a node ends without a word, and starts again after `away`.
    pub(super) fn kill_router(&mut self, node: usize, away: Micros) {
        if !self.machines[node].running {
            return;
        }
        self.note(|| format!("node {node}: its router is dead"));
        let silent = self.net.off[node];
        self.machines[node].running = false;
        self.machines[node].life += 1;
        self.book.uncertain();
        self.routers_died = true;
        for conn in 0..self.conns.len() {
            let it = &self.conns[conn];
            if it.node != node || matches!(it.fate, Fate::Gone) {
                continue;
            }
            match it.far {
                Far::Part(_) => self.cut(conn),
                Far::Node(_) if !silent => self.cut(conn),
                _ => {}
            }
            let it = &mut self.conns[conn];
            it.fate = Fate::Gone;
            it.lost_its_router = true;
            it.place = None;
            it.up.clear();
            it.down.clear();
        }
        self.machines[node].links.clear();
        self.disturb_all(node, self.now + away);
        self.book.detour(self.now + SETTLE_US);
        for it in &self.clients {
            // Nobody can know of a start that only the dead router had.
            if let State::Waits { id } = &it.state
                && self.parts[it.c2s].node == node
            {
                self.book.excuse_start(id);
            }
        }
        let life = self.machines[node].life;
        self.after(away, Event::Boot(node, life));
    }

    /// A router starts, with a new incarnation.
    pub(super) fn boot(&mut self, node: usize, life: u32) {
        if self.machines[node].life != life || self.machines[node].running {
            return;
        }
        self.note(|| format!("node {node}: its router starts"));
        self.net.off[node] = false;
        let mut machine = Machine::new(&self.plan, node, self.now, &mut self.rng);
        machine.life = life;
        self.machines[node] = machine;
        for shard in 0..self.machines[node].shards.len() {
            self.act(node, shard as ShardId);
        }
        self.disturb_all(node, self.now);
        self.healed();
    }

    /// A whole machine dies: with a reset for everybody who was connected, or silently.
    pub(super) fn kill_machine(&mut self, node: usize, silently: bool, away: Micros) {
        if !self.machines[node].running {
            return;
        }
        self.net.off[node] = silently;
        let parts: Vec<usize> = (0..self.parts.len())
            .filter(|part| self.parts[*part].node == node && !self.parts[*part].gone)
            .collect();
        for part in parts {
            let later = self.rng.between(100_000, 3_000_000);
            self.kill(part, false, Some(away + later));
        }
        self.kill_router(node, away);
    }

    /// Every connection that one node dialled, or was dialled on, with another is reset.
    pub(super) fn reset_between(&mut self, one: usize, other: usize) {
        for conn in self.wires() {
            let it = &self.conns[conn];
            let Far::Node(far) = it.far else { continue };
            let pair = (it.node, self.conns[far].node);
            if pair == (one, other) {
                self.cut(conn);
            }
        }
    }
}
