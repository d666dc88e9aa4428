//! The addresses of the configuration, dialled by shard 0 as long as it is not known who is there.

use super::links::Dialling;
use crate::config::Peer;
use crate::mesh::hello::Address;
use crate::node::Shard;
use crate::node::api::{Action, Micros};
use crate::node::link::Stage;
use std::net::{Ipv4Addr, SocketAddr};

/// Pause between two dials of a configured address whose node is not known, microseconds.
pub(super) const PROBE_US: Micros = 1_000_000;
/// The same after a refusal that only an operator can mend.
pub(super) const PROBE_LASTING_US: Micros = 10_000_000;

/// A configured address whose node is looked for.
#[derive(Clone, Debug)]
pub(super) struct Probe {
    pub(super) address: Address,
    next: Micros,
    /// A link is on its way, or the node is known.
    pub(super) rests: bool,
    /// It is this node's own.
    pub(super) own: bool,
    /// A node was found there.
    pub(super) found: bool,
    /// A dial came to nothing.
    failed: bool,
    /// What the last dial came to.
    why: Box<str>,
    /// The configuration names it no more.
    dropped: bool,
}

impl Probe {
    pub(super) fn of(peer: &Peer) -> Probe {
        Probe {
            address: Address::from(peer),
            next: 0,
            rests: false,
            own: false,
            found: false,
            failed: false,
            why: "not dialled yet".into(),
            dropped: false,
        }
    }

    /// Who is there is known, or that nobody answers.
    pub(super) fn was_tried(&self) -> bool {
        self.found || self.own || self.failed || self.dropped
    }

    /// The address and what the last dial came to, as long as no other node was found there.
    pub(super) fn unreached(&self) -> Option<(&Address, &str)> {
        (!self.found && !self.own && !self.dropped).then_some((&self.address, &*self.why))
    }
}

impl Shard {
    /// Shard 0: the configuration was read again. Links know their probe by its index, so none is taken away.
    pub(in crate::node) fn reload_probes(&mut self, now: Micros) {
        let Some(mesh) = self.config.mesh.clone().filter(|_| self.id == 0) else {
            return;
        };
        let Some(links) = self.links() else { return };
        let wanted: Vec<Probe> = mesh.peers.iter().map(Probe::of).collect();
        for probe in &mut links.probes {
            let is_wanted = wanted.iter().any(|wanted| wanted.address == probe.address);
            if is_wanted && probe.dropped {
                probe.rests = probe.found || probe.own;
                probe.next = now;
            }
            probe.dropped = !is_wanted;
            probe.rests |= probe.dropped;
        }
        for probe in wanted {
            if !links.probes.iter().any(|known| known.address == probe.address) {
                links.probes.push(probe);
            }
        }
        self.wake_by(now);
    }

    pub(super) fn probe_over(&mut self, now: Micros, probe: Option<usize>, why: &str, delay_us: Micros) {
        if let Some(probe) = probe.and_then(|at| self.links()?.probes.get_mut(at)) {
            probe.why = why.into();
            probe.failed = true;
            probe.next = now + delay_us;
            probe.rests = probe.own || probe.dropped;
            self.wake_by(now + delay_us);
        }
        self.look_at_dawn(now);
    }

    pub(super) fn tick_probes(&mut self, now: Micros) {
        let Some(links) = self.links() else { return };
        let mut dials = Vec::new();
        let mut next = None;
        for (at, probe) in links.probes.iter_mut().enumerate().filter(|(_, probe)| !probe.rests) {
            if probe.next <= now {
                probe.rests = true;
                dials.push((at, probe.address.clone()));
            } else {
                next = Some(next.map_or(probe.next, |next: Micros| next.min(probe.next)));
            }
        }
        for (at, address) in dials {
            let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port));
            let link = self.insert_link(now, nowhere, Stage::Dialling(Dialling::Probe(at)));
            self.actions.push(Action::Dial {
                link,
                host: address.host.into(),
                port: address.port,
            });
        }
        if let Some(next) = next {
            self.wake_by(next);
        }
    }
}
