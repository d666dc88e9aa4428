//! Links to other nodes: dialled or accepted, told apart, and given to the transport of their peer at its home.
//!
//! Shard 0 accepts, and dials the addresses of the configuration as long as it does not know who is there; when the
//! other side has proved that it knows the secret, its link moves to its home. From then on the peer's own transport
//! dials what it needs.

use super::refusals::Refusals;
use super::relay::{self, Tunnels};
use super::{Cluster, Lane, MemberNews};
use crate::config::Mesh;
use crate::mesh;
use crate::mesh::conn::{Conn, Local, Scratch};
use crate::mesh::error::{MeshError, Reason};
use crate::mesh::hello::{Address, policies_digest};
use crate::mesh::members::Members;
use crate::mesh::peer::{AnewCause, DialFailure, DialId, Loss, Peer, PeerEvent, Reach, Seen, Unacknowledged};
use crate::node::Shard;
use crate::node::api::{Action, CloseCause, Level, LinkId, Micros, ShardId};
use crate::node::counters::Counter;
use crate::node::link::{Cargo, PeerCargo, Stage};
use crate::table::PeerId;
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

/// Pause between two dials of a configured address whose node is not known, microseconds.
const PROBE_US: Micros = 1_000_000;
/// The same after a refusal that only an operator can mend.
const PROBE_LASTING_US: Micros = 10_000_000;

/// Messages of one peer handled before others have their turn.
const MESSAGES_MAX: usize = 4_096;

/// What a link that is being dialled is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::node) enum Dialling {
    /// A peer's transport wants it.
    Peer(PeerId, DialId),
    /// The configured address of this index, to learn who is there.
    Probe(usize),
}

/// A configured address whose node is looked for.
#[derive(Clone, Debug)]
pub(super) struct Probe {
    address: Address,
    next: Micros,
    /// A link is on its way, or the node is known.
    rests: bool,
    /// It is this node's own.
    own: bool,
    /// A node was found there.
    found: bool,
    /// A dial came to nothing.
    failed: bool,
    /// What the last dial came to.
    why: Box<str>,
}

impl Probe {
    /// Who is there is known, or that nobody answers.
    pub(super) fn was_tried(&self) -> bool {
        self.found || self.own || self.failed
    }

    /// The address and what the last dial came to, as long as no other node was found there.
    pub(super) fn unreached(&self) -> Option<(&Address, &str)> {
        (!self.found && !self.own).then_some((&self.address, &*self.why))
    }
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
    stirred: Vec<PeerId>,
    /// Peers that are lost, and when they are given up.
    dying: Vec<(PeerId, Micros)>,
    pub(super) tunnels: Tunnels,
    pub(super) probes: Vec<Probe>,
    refusals: Refusals,
    pub(super) scratch: Scratch,
    message: Vec<u8>,
    /// A connection of this node to itself was just refused.
    met_oneself: bool,
    now: Micros,
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
        let probes = self.config.mesh.as_ref().filter(|_| self.id == 0).map(|mesh| {
            let probe = |peer| Probe {
                address: Address::from(peer),
                next: 0,
                rests: false,
                own: false,
                found: false,
                failed: false,
                why: "not dialled yet".into(),
            };
            mesh.peers.iter().map(probe).collect()
        });
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

    pub(super) fn links(&mut self) -> Option<&mut Links> {
        self.cluster.as_mut()?.links.as_mut()
    }

    pub(super) fn transport(&mut self, peer: PeerId) -> Option<&mut Peer> {
        self.links()?.transports.get_mut(&peer)
    }

    /// The clock as of the call that is being handled.
    pub(in crate::node) fn note_time(&mut self, now: Micros) {
        if let Some(links) = self.links() {
            links.now = now;
        }
    }

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
                    transport.dialled(now, dial, id, Reach::Direct);
                }
                self.stir(peer);
            }
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
        self.count(Counter::PeerRefused);
        if self
            .links()
            .is_some_and(|links| links.refusals.is_news(now, remote.ip(), why))
        {
            self.log(Level::Warning, Some(remote), format!("mesh: refused: {why}"));
        }
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
        self.close_link(now, id);
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

    /// The peer's home: a link of it.
    pub(in crate::node) fn attach_peer(
        &mut self,
        now: Micros,
        id: LinkId,
        peer: PeerId,
        reach: Reach,
        conn: Conn,
        address: Option<Address>,
    ) {
        let addresses: Vec<Address> = address.into_iter().collect();
        self.dial_peer(now, peer, &addresses);
        if let Some(transport) = self.transport(peer) {
            transport.attached(now, id, reach, conn);
        }
        self.stir(peer);
    }

    /// The peer's home: it can be reached at these addresses, and shall be.
    pub(super) fn dial_peer(&mut self, now: Micros, peer: PeerId, addresses: &[Address]) {
        let rng = self.child_rng();
        let bytes_max = self.config.queues.peer_bytes;
        let Some(cluster) = &mut self.cluster else { return };
        let name = cluster.peers.get(usize::from(peer.0)).map(|view| view.name.clone());
        let (Some(name), Some(links)) = (name, &mut cluster.links) else {
            return;
        };
        let transport = links
            .transports
            .entry(peer)
            .or_insert_with(|| Peer::new(now, &links.local, &name, Vec::new(), bytes_max, rng));
        transport.learn_addresses(now, addresses);
        self.stir(peer);
    }

    /// Bytes of a peer's link.
    pub(in crate::node) fn peer_bytes(&mut self, now: Micros, peer: PeerId, id: LinkId, bytes: &[u8]) {
        self.note_time(now);
        if let Some(transport) = self.transport(peer) {
            transport.received(now, id, bytes);
        }
        self.stir(peer);
    }

    /// What a peer's link is to write.
    pub(in crate::node) fn peer_output(&mut self, peer: PeerId, id: LinkId, into: &mut Vec<u8>) {
        let Some(links) = self.links() else { return };
        let now = links.now;
        if let Some(transport) = links.transports.get_mut(&peer) {
            transport.take_output(now, id, into);
        }
        self.stir(peer);
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
                if self.tunnel_instead(now, peer, dial) {
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

    fn probe_over(&mut self, now: Micros, probe: Option<usize>, why: &str, delay_us: Micros) {
        if let Some(probe) = probe.and_then(|at| self.links()?.probes.get_mut(at)) {
            probe.why = why.into();
            probe.failed = true;
            probe.next = now + delay_us;
            probe.rests = probe.own;
            self.wake_by(now + delay_us);
        }
        self.look_at_dawn(now);
    }

    pub(super) fn stir(&mut self, peer: PeerId) {
        if let Some(links) = self.links()
            && !links.stirred.contains(&peer)
        {
            links.stirred.push(peer);
        }
    }

    /// Queues a message for a peer. False when its queue is full.
    pub(super) fn transmit(&mut self, peer: PeerId, lane: Lane, bytes: &[u8]) -> bool {
        let lane = match lane {
            Lane::Control => mesh::Lane::Control,
            Lane::Data => mesh::Lane::Data,
        };
        let Some(transport) = self.transport(peer) else {
            return false;
        };
        let sent = transport.send(lane, &[bytes]).is_ok();
        self.stir(peer);
        sent
    }

    /// What the transports have to tell; to be called at the end of every call of this shard.
    pub(in crate::node) fn hear_peers(&mut self) {
        for _ in 0..MESSAGES_MAX {
            let Some(links) = self.links() else { return };
            let (now, Some(peer)) = (links.now, links.stirred.pop()) else {
                return;
            };
            self.hear(now, peer);
        }
    }

    fn hear(&mut self, now: Micros, peer: PeerId) {
        loop {
            let Some(links) = self.links() else { return };
            let Some(transport) = links.transports.get_mut(&peer) else {
                return;
            };
            // Events first: who is up, or begins anew, says so before anything it has to tell.
            if let Some(event) = transport.poll() {
                self.peer_event(now, peer, event);
            } else if let Some((lane, bytes)) = transport.next_message(now) {
                let mut message = std::mem::take(&mut links.message);
                message.clear();
                message.extend_from_slice(bytes);
                let lane = match lane {
                    mesh::Lane::Control => Lane::Control,
                    mesh::Lane::Data => Lane::Data,
                };
                self.peer_message(now, peer, lane, &message);
                if let Some(links) = self.links() {
                    links.message = message;
                }
            } else {
                return;
            }
        }
    }

    fn peer_event(&mut self, now: Micros, peer: PeerId, event: PeerEvent) {
        match event {
            PeerEvent::WantsOutput(link) if relay::is_tunnel(link) => self.tunnel_output(now, link),
            PeerEvent::CloseLink(link) | PeerEvent::AbortLink(link) if relay::is_tunnel(link) => {
                self.close_tunnel(now, link);
            }
            PeerEvent::WantsOutput(link) => self.actions.push(Action::Output(link)),
            PeerEvent::CloseLink(link) => self.actions.push(Action::Close(link)),
            PeerEvent::AbortLink(link) => self.actions.push(Action::Abort(link)),
            PeerEvent::Dial { dial, address } => {
                let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port));
                let link = self.insert_link(now, nowhere, Stage::Dialling(Dialling::Peer(peer, dial)));
                self.actions.push(Action::Dial {
                    link,
                    host: address.host.into(),
                    port: address.port,
                });
            }
            PeerEvent::Up { incarnation, .. } => {
                let addresses = self
                    .transport(peer)
                    .map_or_else(Vec::new, |transport| transport.addresses().to_vec());
                self.tell_members(now, peer, MemberNews::Up(incarnation, addresses));
                if let Some(links) = self.links() {
                    links.dying.retain(|(dying, _)| *dying != peer);
                }
                if self
                    .cluster
                    .as_ref()
                    .is_some_and(|cluster| cluster.homes.contains_key(&peer))
                {
                    self.peer_stalled(now, peer, false);
                } else {
                    self.peer_joined(now, peer);
                }
            }
            PeerEvent::Lost(loss) => self.peer_lost(now, peer, loss),
            PeerEvent::Anew {
                cause, unacknowledged, ..
            } => {
                self.peer_gone(now, peer, &data_of(unacknowledged));
                if cause == AnewCause::NewIncarnation {
                    self.peer_reborn(peer);
                }
                if self.transport(peer).is_some_and(|transport| transport.is_up()) {
                    self.peer_joined(now, peer);
                } else {
                    self.tell_members(now, peer, MemberNews::Lost(Loss::Silent));
                }
            }
            PeerEvent::Datagram(bytes) => self.tell_members(now, peer, MemberNews::Said(bytes)),
            PeerEvent::Log(level, text) => self.log(level, None, format!("mesh: {text}")),
            PeerEvent::Alarm(text) => self.log(Level::Warning, None, format!("mesh: {text}")),
        }
    }

    fn peer_lost(&mut self, now: Micros, peer: PeerId, loss: Loss) {
        let what = match loss {
            Loss::Process => "its process is gone, its machine answers",
            Loss::Restarting => "it restarts",
            Loss::Silent => "nothing comes from it",
            Loss::Left => "it has left",
        };
        let name = self.peer_name(peer).to_owned();
        self.log(Level::Warning, None, format!("mesh: {name} is lost: {what}"));
        self.peer_stalled(now, peer, true);
        self.tell_members(now, peer, MemberNews::Lost(loss));
    }

    /// A peer to which this node can't tell its rows any more: it begins anew with all of them.
    pub(super) fn give_up_peer(&mut self, peer: PeerId) {
        let text = format!(
            "mesh: {} takes too little of what it is told: it begins anew",
            self.peer_name(peer)
        );
        let Some(links) = self.links() else { return };
        if links.dying.iter().any(|(dying, at)| *dying == peer && *at <= links.now) {
            return;
        }
        let now = links.now;
        links.dying.retain(|(dying, _)| *dying != peer);
        links.dying.push((peer, now));
        self.wake_by(now);
        self.log(Level::Error, None, text);
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

    /// When a transport wants to be looked at.
    pub(in crate::node) fn peers_deadline(&self) -> Option<Micros> {
        let links = self.cluster.as_ref()?.links.as_ref()?;
        let transports = links.transports.values().filter_map(Peer::deadline).min();
        [transports, self.members_deadline()].into_iter().flatten().min()
    }

    fn tick_dying(&mut self, now: Micros) {
        let Some(links) = self.links() else { return };
        let (late, waiting): (Vec<_>, Vec<_>) = links.dying.drain(..).partition(|(_, at)| *at <= now);
        links.dying = waiting;
        for (peer, _) in late {
            self.peer_is_dead(now, peer);
        }
    }

    /// The peer's home: its lanes begin anew, and what it did not acknowledge is this node's again.
    pub(super) fn peer_is_dead(&mut self, now: Micros, peer: PeerId) {
        let Some(left) = self.transport(peer).map(|transport| transport.declare_dead(now)) else {
            return;
        };
        self.stir(peer);
        self.peer_gone(now, peer, &data_of(left));
    }

    fn tick_probes(&mut self, now: Micros) {
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

    /// Strangers that take too long to say who they are.
    fn tick_strangers(&mut self, now: Micros) {
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

fn data_of(mut lanes: [Unacknowledged; 2]) -> Vec<(Seen, Vec<u8>)> {
    let mut all = Vec::new();
    let mut message = Vec::new();
    while let Some(seen) = lanes[usize::from(mesh::Lane::Data.number())].next_into(&mut message) {
        all.push((seen, message.clone()));
    }
    all
}

impl Cluster {
    /// No transports: messages wait in [`Cluster::posted`] until a test takes them.
    pub(super) fn is_played_by_hand(&self) -> bool {
        self.links.is_none()
    }
}
