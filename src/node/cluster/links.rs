//! Links to other nodes, from their dial to their end, and what a shard has for them.
//!
//! Shard 0 accepts ([`strangers`](super::strangers)), and dials the addresses of the configuration as long as it does not
//! know who is there ([`probes`](super::probes)); when the other side has proved that it knows the secret, its link moves
//! to its home. From then on the peer's own transport ([`transports`](super::transports)) dials what it needs.

use super::Cluster;
use super::probes::{PROBE_US, Probe};
use super::refusals::Refusals;
use super::relay::Tunnels;
use crate::config::Mesh;
use crate::mesh;
use crate::mesh::conn::{Conn, Local, Scratch};
use crate::mesh::error::Reason;
use crate::mesh::hello::policies_digest;
use crate::mesh::members::Members;
use crate::mesh::peer::{DialFailure, DialId, Peer};
use crate::node::Shard;
use crate::node::api::{Action, CloseCause, LinkId, Micros};
use crate::node::link::Stage;
use crate::table::PeerId;
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};
use std::net::SocketAddr;
use std::sync::Arc;

/// What a link that is being dialled is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::node) enum Dialling {
    /// A peer's transport wants it.
    Peer(PeerId, DialId),
    /// The configured address of this index, to learn who is there.
    Probe(usize),
    /// The stock router, for the uplink's line of this index.
    Uplink(usize),
}

/// The links' part of a shard's cluster.
#[derive(Debug)]
pub(super) struct Links {
    pub(super) local: Arc<Local>,
    /// On shard 0.
    pub(super) members: Option<Box<Members>>,
    /// Of the peers whose home is this shard.
    pub(super) transports: crate::jid::TableMap<PeerId, Peer>,
    /// Transports that have something to tell.
    pub(super) stirred: Vec<PeerId>,
    /// Peers that are lost, and when they are given up.
    pub(super) dying: Vec<(PeerId, Micros)>,
    pub(super) tunnels: Tunnels,
    pub(super) probes: Vec<Probe>,
    pub(super) refusals: Refusals,
    pub(super) scratch: Scratch,
    pub(super) message: Vec<u8>,
    /// A connection of this node to itself was just refused.
    pub(super) met_oneself: bool,
    pub(super) now: Micros,
}

/// What the nodes of a cluster should agree on, as text.
pub fn policies(mesh: &Mesh) -> u64 {
    policies_digest(&format!("{:?} {:?} {:?}", mesh.domains, mesh.exits, mesh.names))
}

impl Shard {
    /// Gives a shard of a node with `<mesh>` its identity. `origin_ms`: the wall clock at the origin of [`Micros`],
    /// milliseconds since 1970.
    #[must_use]
    pub fn meshed(mut self, local: &Arc<Local>, origin_ms: u64) -> Shard {
        let probes = self
            .config
            .mesh
            .as_ref()
            .filter(|_| self.id == 0)
            .map(|mesh| mesh.peers.iter().map(Probe::of).collect());
        if let Some(cluster) = &mut self.cluster {
            cluster.origin_ms = origin_ms;
            cluster.key = self
                .config
                .mesh
                .as_ref()
                .map(|mesh| crate::mesh::hello::cluster_key(&mesh.cluster))
                .unwrap_or_default();
            cluster.links = Some(Links {
                local: Arc::clone(local),
                members: None,
                transports: Default::default(),
                stirred: Vec::new(),
                dying: Vec::new(),
                tunnels: Tunnels::default(),
                probes: probes.unwrap_or_default(),
                refusals: Refusals::default(),
                scratch: Scratch::default(),
                message: Vec::new(),
                met_oneself: false,
                now: 0,
            });
            cluster.dawn = (self.id == 0).then(Default::default);
            self.next_tick = Some(0);
        }
        if self.id == 0 {
            self.begin_membership();
        }
        self
    }

    /// Secrets and policies of this node were changed: connections to come are made with them, those that stand stay.
    pub fn renew_local(&mut self, local: &Arc<Local>) {
        let Some(links) = self.links() else { return };
        links.local = Arc::clone(local);
        for transport in links.transports.values_mut() {
            transport.renew_local(local);
        }
    }

    pub(super) fn links(&mut self) -> Option<&mut Links> {
        self.cluster.as_mut()?.links.as_mut()
    }

    /// The clock as of the call that is being handled.
    pub(in crate::node) fn note_time(&mut self, now: Micros) {
        if let Some(links) = self.links() {
            links.now = now;
        }
    }

    /// The connection that [`Action::Dial`] asked for stands.
    pub fn dialed(&mut self, now: Micros, id: LinkId, remote: SocketAddr) {
        self.note_time(now);
        let mut rng = self.child_rng();
        let Some(link) = self.link_mut(id) else { return };
        link.remote = remote;
        let Stage::Dialling(what) = link.stage else { return };
        match what {
            Dialling::Peer(peer, dial) => {
                link.stage = Stage::Peer(peer);
                if let Some(transport) = self.transport(peer) {
                    transport.dialled(now, dial, id);
                }
                self.stir(peer);
            }
            Dialling::Uplink(at) => self.uplink_dialed(now, at, id),
            Dialling::Probe(at) => {
                let Some(links) = self.links() else { return };
                let conn = Conn::dial(now, &links.local, mesh::Lane::Control, &mut rng);
                if let Some(link) = self.link_mut(id) {
                    link.stage = Stage::Stranger(Box::new(conn), Some(at));
                }
                self.actions.push(Action::Output(id));
                self.wake_by(now + crate::node::TICK_US);
            }
        }
    }

    pub(super) fn child_rng(&mut self) -> ChaCha20Rng {
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        ChaCha20Rng::from_seed(seed)
    }

    /// A link to another node, or one that was to be, is gone.
    pub(in crate::node) fn peer_link_closed(&mut self, now: Micros, stage: Stage, id: LinkId, cause: &CloseCause) {
        self.note_time(now);
        match stage {
            Stage::Peer(peer) => {
                if let Some(transport) = self.transport(peer) {
                    transport.closed(now, id, cause);
                }
                self.stir(peer);
            }
            Stage::Dialling(Dialling::Peer(peer, dial)) => {
                let failure = match cause {
                    CloseCause::Refused | CloseCause::Reset => DialFailure::Refused,
                    CloseCause::Error(text) => DialFailure::Other(text.clone()),
                    CloseCause::Eof | CloseCause::Local => DialFailure::Silent,
                };
                if self.tunnel_instead(now, peer, dial, &failure) {
                    return;
                }
                if let Some(transport) = self.transport(peer) {
                    transport.dial_failed(now, dial, &failure);
                }
                self.stir(peer);
            }
            Stage::Dialling(Dialling::Probe(at)) => {
                let why = match cause {
                    CloseCause::Refused | CloseCause::Reset => "nobody listens there",
                    CloseCause::Error(text) => text,
                    CloseCause::Eof | CloseCause::Local => "no answer",
                };
                self.probe_over(now, Some(at), why, PROBE_US);
            }
            Stage::Stranger(_, Some(at)) => self.probe_over(now, Some(at), "it closed the connection", PROBE_US),
            _ => {}
        }
    }

    /// Time has passed for links and peers. True when something is to be looked at again soon.
    pub(in crate::node) fn tick_peers(&mut self, now: Micros) -> bool {
        self.note_time(now);
        self.look_whether_alone(now);
        self.look_at_dawn(now);
        let Some(links) = self.links() else { return false };
        let due: Vec<PeerId> = links
            .transports
            .iter()
            .filter(|(_, transport)| transport.deadline().is_some_and(|at| at <= now))
            .map(|(peer, _)| *peer)
            .collect();
        for peer in due {
            if let Some(transport) = self.transport(peer) {
                transport.tick(now);
            }
            self.stir(peer);
        }
        self.tick_members(now);
        self.tick_dying(now);
        self.tick_probes(now);
        self.tick_strangers(now);
        self.tick_tunnels(now);
        self.hear_peers();
        let soon = self.links.iter().any(|link| matches!(link.stage, Stage::Stranger(..)));
        soon || self
            .links()
            .is_some_and(|links| !links.dying.is_empty() || links.tunnels.has_strangers())
    }

    /// The process ends: peers are told.
    pub(in crate::node) fn leave_peers(&mut self, now: Micros) {
        self.note_time(now);
        let Some(links) = self.links() else { return };
        let peers: Vec<PeerId> = links.transports.keys().copied().collect();
        self.leave_members(now);
        for peer in peers {
            if let Some(transport) = self.transport(peer) {
                transport.leave(now, Reason::Leaving);
            }
            self.stir(peer);
        }
        self.hear_peers();
    }
}

impl Cluster {
    /// No transports: messages wait in [`Cluster::posted`] until a test takes them.
    pub(super) fn is_played_by_hand(&self) -> bool {
        self.links.is_none()
    }
}
