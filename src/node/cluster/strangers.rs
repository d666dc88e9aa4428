//! Links whose other side has not proved yet who it is: accepted, or dialled as a probe, on shard 0. When it has, the link
//! moves to the peer's home.

use super::probes::{PROBE_LASTING_US, PROBE_US};
use crate::mesh::conn::Conn;
use crate::mesh::error::{MeshError, Reason};
use crate::mesh::peer::Reach;
use crate::node::Shard;
use crate::node::api::{Action, Level, LinkId, Micros, ShardId};
use crate::node::counters::Counter;
use crate::node::link::{Cargo, PeerCargo, Stage};
use std::net::SocketAddr;

impl Shard {
    /// A peer connected to the mesh's port.
    pub fn opened_peer(&mut self, now: Micros, remote: SocketAddr) -> LinkId {
        self.note_time(now);
        self.count(Counter::PeerLinksOpened);
        let mut rng = self.child_rng();
        let conn = self.links().map(|links| Conn::accept(now, &links.local, &mut rng));
        let Some(conn) = conn else {
            let id = self.insert_link(now, remote, Stage::Closing { seat: None });
            self.actions.push(Action::Close(id));
            return id;
        };
        self.wake_by(now + crate::node::TICK_US);
        self.insert_link(now, remote, Stage::Stranger(Box::new(conn), None))
    }

    /// Bytes of a link whose other side is not known yet.
    pub(in crate::node) fn stranger_bytes(&mut self, now: Micros, id: LinkId, bytes: &[u8]) {
        let Some(mut scratch) = self.links().map(|links| std::mem::take(&mut links.scratch)) else {
            return;
        };
        let Some(link) = self.link_mut(id) else { return };
        let remote = link.remote;
        let Stage::Stranger(conn, _) = &mut link.stage else {
            return;
        };
        let result = conn.received_early(bytes, &mut scratch);
        let established = conn.is_established();
        let name = conn.hello().map(|hello| hello.node.clone()).unwrap_or_default();
        if let Some(links) = self.links() {
            links.scratch = scratch;
        }
        match result {
            Ok(()) if established => self.met(now, id, &name),
            Ok(()) => self.actions.push(Action::Output(id)),
            Err(error) => {
                if !self.is_oneself(id, &error) {
                    self.stranger_refused(now, remote, &error.to_string());
                }
                let delay_us = if error.is_lasting() { PROBE_LASTING_US } else { PROBE_US };
                self.drop_stranger(now, id, &error.to_string(), delay_us);
            }
        }
    }

    /// One file for all nodes has this node's own address in it. It answers itself once, and never dials it again.
    fn is_oneself(&mut self, id: LinkId, error: &MeshError) -> bool {
        let probe = match self.link(id).map(|link| &link.stage) {
            Some(Stage::Stranger(_, probe)) => *probe,
            _ => None,
        };
        let Some(links) = self.links() else { return false };
        match (error, probe) {
            (MeshError::Oneself, None) => {
                links.met_oneself = true;
                true
            }
            (MeshError::Refused(Reason::SameName), Some(at)) if std::mem::take(&mut links.met_oneself) => {
                if let Some(probe) = links.probes.get_mut(at) {
                    probe.own = true;
                }
                true
            }
            _ => false,
        }
    }

    fn stranger_refused(&mut self, now: Micros, remote: SocketAddr, why: &str) {
        if self.refusal_is_news(now, &remote.ip().to_string(), why) {
            self.log(Level::Warning, Some(remote), format!("mesh: refused: {why}"));
        }
    }

    /// Counts a refusal. True when the log is to hear of it.
    pub(super) fn refusal_is_news(&mut self, now: Micros, from: &str, why: &str) -> bool {
        self.count(Counter::PeerRefused);
        self.links().is_some_and(|links| links.refusals.is_news(now, from, why))
    }

    /// Closes a link whose other side is not who it should be. An address that was dialled is tried again after
    /// `delay_us`, microseconds.
    fn drop_stranger(&mut self, now: Micros, id: LinkId, why: &str, delay_us: Micros) {
        let Some(link) = self.link_mut(id) else { return };
        if let Stage::Stranger(conn, probe) = &mut link.stage {
            let probe = *probe;
            conn.take_output(&mut link.out);
            self.probe_over(now, probe, why, delay_us);
        }
        self.close_link(now, id, why);
    }

    /// The other side of a link is proved to be this node: the link goes to its home.
    fn met(&mut self, now: Micros, id: LinkId, name: &str) {
        let Some(peer) = self.peer_known(now, name) else { return };
        let home = self.home_of(peer);
        let Some(link) = self.link_mut(id) else { return };
        let stage = std::mem::replace(&mut link.stage, Stage::Peer(peer));
        let Stage::Stranger(conn, probe) = stage else { return };
        let mut address = None;
        if let Some(probe) = probe.and_then(|at| self.links()?.probes.get_mut(at)) {
            probe.rests = true;
            probe.found = true;
            address = Some(probe.address.clone());
        }
        if home == self.id {
            return self.attach_peer(now, id, peer, Reach::Direct, *conn, address);
        }
        self.hand_peer_over(id, home, PeerCargo { peer, conn, address });
    }

    fn hand_peer_over(&mut self, id: LinkId, to: ShardId, cargo: PeerCargo) {
        let Some(link) = self.link_mut(id) else { return };
        let cargo = Cargo::of_peer(link.remote, cargo);
        self.free_link(id);
        self.actions.push(Action::Move {
            link: id,
            to,
            cargo: Box::new(cargo),
        });
    }

    /// Strangers that take too long to say who they are.
    pub(super) fn tick_strangers(&mut self, now: Micros) {
        let late: Vec<LinkId> = (0..self.links.len())
            .filter(|slot| {
                matches!(&self.links[*slot].stage, Stage::Stranger(conn, _)
                    if conn.deadline().is_some_and(|at| at <= now))
            })
            .filter_map(|slot| {
                Some(LinkId {
                    slot: u32::try_from(slot).ok()?,
                    generation: self.links[slot].generation,
                })
            })
            .collect();
        for id in late {
            let why = "the handshake took too long";
            if let Some(remote) = self.link(id).map(|link| link.remote) {
                self.stranger_refused(now, remote, why);
            }
            self.drop_stranger(now, id, why, PROBE_US);
        }
    }
}
