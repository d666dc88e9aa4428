//! The transports of peers, each at its peer's home: what goes in and out of them, and what they tell.

use super::links::Dialling;
use super::relay;
use super::{Lane, MemberNews};
use crate::mesh;
use crate::mesh::conn::Conn;
use crate::mesh::hello::Address;
use crate::mesh::peer::{AnewCause, Loss, Peer, PeerEvent, Reach, Seen, Unacknowledged};
use crate::node::Shard;
use crate::node::api::{Action, Level, LinkId, Micros};
use crate::node::link::Stage;
use crate::table::PeerId;
use std::net::{Ipv4Addr, SocketAddr};

/// Messages of one peer handled before others have their turn.
const MESSAGES_MAX: usize = 4_096;

impl Shard {
    pub(super) fn transport(&mut self, peer: PeerId) -> Option<&mut Peer> {
        self.links()?.transports.get_mut(&peer)
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
                // Taking the last message may have made it acknowledge, dial or close.
                let Some(event) = transport.poll() else { return };
                self.peer_event(now, peer, event);
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
            PeerEvent::Heard { at } => {
                let incarnation = self.transport(peer).and_then(|transport| transport.incarnation());
                self.tell_members(now, peer, MemberNews::Heard(incarnation.unwrap_or_default(), at));
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

    /// When a transport wants to be looked at.
    pub(in crate::node) fn peers_deadline(&self) -> Option<Micros> {
        let links = self.cluster.as_ref()?.links.as_ref()?;
        let transports = links.transports.values().filter_map(Peer::deadline).min();
        [transports, self.members_deadline()].into_iter().flatten().min()
    }

    pub(super) fn tick_dying(&mut self, now: Micros) {
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
}

fn data_of(mut lanes: [Unacknowledged; 2]) -> Vec<(Seen, Vec<u8>)> {
    let mut all = Vec::new();
    let mut message = Vec::new();
    while let Some(seen) = lanes[usize::from(mesh::Lane::Data.number())].next_into(&mut message) {
        all.push((seen, message.clone()));
    }
    all
}
