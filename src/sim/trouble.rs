//! Faults of nodes, and between them.

use super::plan::NodeFault;
use super::world::{Mood, World};

impl World {
    /// A fault strikes a node, or something between two.
    pub(super) fn node_fault(&mut self) {
        if self.mood != Mood::Busy {
            return;
        }
        let fault = self.plan.mesh.faults[self.rng.index(self.plan.mesh.faults.len())];
        let one = self.rng.index(self.plan.nodes);
        let other = (one + 1 + self.rng.index(self.plan.nodes - 1)) % self.plan.nodes;
        self.note(|| format!("FAULT {fault:?} node {one}, other {other}"));
        self.summary.faults += 1;
        let long = match self.rng.below(3) {
            0 => self.rng.between(100_000, 2_000_000),
            1 => self.rng.between(2_000_000, 10_000_000),
            _ => self.rng.between(10_000_000, 60_000_000),
        };
        match fault {
            NodeFault::Partition => {
                let side: Vec<bool> = (0..self.plan.nodes)
                    .map(|node| node == one || self.rng.chance(40))
                    .collect();
                for from in 0..self.plan.nodes {
                    for to in (0..self.plan.nodes).filter(|to| side[*to] != side[from]) {
                        self.block(from, to, long);
                    }
                }
            }
            NodeFault::Deaf => self.block(one, other, long),
            NodeFault::Mute => {
                for to in (0..self.plan.nodes).filter(|to| *to != one) {
                    self.block(one, to, long);
                }
            }
            NodeFault::Clog => self.clog(long),
            NodeFault::Reset => self.reset_between(one, other),
            NodeFault::Silence | NodeFault::Crash => self.kill_machine(one, fault == NodeFault::Silence, long),
            NodeFault::RouterRestart => {
                let away = self.rng.between(10_000, 3_000_000);
                self.kill_router(one, away);
            }
            NodeFault::LateRouterRestart => {
                let away = self.rng.between(9_000_000, 40_000_000);
                self.kill_router(one, away);
            }
            NodeFault::Pause => {
                let until = self.now + self.rng.between(10_000, 15_000_000);
                self.machines[one].frozen_until.fill(until);
                self.disturb_all(one, until);
            }
        }
    }

    /// Nothing crosses one connection in one direction for a while.
    fn clog(&mut self, long: u64) {
        let wires = self.wires();
        if wires.is_empty() {
            return;
        }
        let conn = wires[self.rng.index(wires.len())];
        let until = self.now + long;
        self.conns[conn].clogged_until = until;
        let node = self.conns[conn].node;
        self.disturb_all(node, until);
    }
}
