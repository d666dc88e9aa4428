//! Two nodes that cannot reach each other do so through a member that reaches both.
//!
//! When a peer lives but cannot be dialled, the connection that its transport asked for becomes a *tunnel*: the bytes that
//! a socket would carry travel as [`Passage`]s to another node, the *relay*, and from there to the peer. Handshake, seal,
//! lanes and sequences are those of any connection between the two, so the relay reads nothing and a broken tunnel costs
//! nothing. The transport goes on dialling, and gives the tunnel up when it is through.
//!
//! * A tunnel lives at both its ends, each time at the home of the other end. The relay knows of none: it passes on what
//!   comes for a node whose lanes it serves itself, once (what was passed on is never passed on again), and says so when
//!   it does not. An end that gets something for a tunnel that it does not have says so, too.
//! * What is for a peer's control lane travels in the control lanes, the rest in the data lanes. So much of it is under way
//!   as the two ends give each other credit; where a queue on the way is full, the tunnel breaks.

use super::{Cluster, Lane};
use crate::mesh;
use crate::mesh::conn::Conn;
use crate::mesh::peer::{DialFailure, DialId, Reach};
use crate::node::api::{CloseCause, Level, LinkId, Micros};
use crate::node::counters::Counter;
use crate::node::lane::Verb;
use crate::node::{SELF, Shard};
use crate::table::PeerId;
use passage::{Passage, Step};
use rand_core::RngCore;

mod passage;

/// Most tunnels that end at one shard.
const TUNNELS_MAX: usize = 1_024;
/// Of these, to one peer: two a lane, and as many that are on their way out.
const TUNNELS_PER_PEER_MAX: usize = 8;
/// Most bytes in one passage: others have their turn in between.
const PASSAGE_BYTES_MAX: usize = 64 * 1024;
/// The links of tunnels have this slot, which no socket's link reaches.
const TUNNEL_SLOT: u32 = u32::MAX;

/// The tunnels that end at a shard, and what it takes to make one.
#[derive(Debug, Default)]
pub(super) struct Tunnels {
    open: Vec<Tunnel>,
    made: u32,
    /// Counts the relays that were of no use, so that each has its turn.
    turn: usize,
    /// Peers that membership does not hold for dead.
    living: Vec<PeerId>,
}

/// One end of a tunnel.
#[derive(Debug)]
struct Tunnel {
    link: LinkId,
    far: PeerId,
    relay: PeerId,
    lane: Lane,
    /// Drawn by the end that opened it.
    number: u64,
    opened_here: bool,
    /// Something was sent.
    begun: bool,
    /// Something came.
    answered: bool,
    /// Opened by the other end, which has not yet proved who it is.
    stranger: Option<Box<Conn>>,
}

impl Tunnels {
    fn at(&self, link: LinkId) -> Option<usize> {
        self.open.iter().position(|tunnel| tunnel.link == link)
    }

    fn add(&mut self, far: PeerId, relay: PeerId, lane: Lane, number: u64, stranger: Option<Box<Conn>>) -> LinkId {
        self.made = self.made.wrapping_add(1);
        let link = LinkId {
            slot: TUNNEL_SLOT,
            generation: self.made,
        };
        self.open.push(Tunnel {
            link,
            far,
            relay,
            lane,
            number,
            opened_here: stranger.is_none(),
            begun: false,
            answered: false,
            stranger,
        });
        link
    }

    fn has_room(&self, far: PeerId) -> bool {
        let to_it = self.open.iter().filter(|tunnel| tunnel.far == far).count();
        self.open.len() < TUNNELS_MAX && to_it < TUNNELS_PER_PEER_MAX
    }

    /// A tunnel's other end has yet to prove who it is.
    pub(super) fn has_strangers(&self) -> bool {
        self.open.iter().any(|tunnel| tunnel.stranger.is_some())
    }
}

/// Whether a link is a tunnel.
pub(super) fn is_tunnel(link: LinkId) -> bool {
    link.slot == TUNNEL_SLOT
}

impl Shard {
    /// The peer's home: membership says that it lives, or that it does not.
    pub(super) fn note_life(&mut self, peer: PeerId, lives: bool) {
        let Some(links) = self.links() else { return };
        links.tunnels.living.retain(|living| *living != peer);
        if lives {
            links.tunnels.living.push(peer);
        }
    }

    /// The peer's home: this dial of it failed. True when a tunnel takes its place.
    pub(super) fn tunnel_instead(&mut self, now: Micros, far: PeerId, dial: DialId, failure: &DialFailure) -> bool {
        let number = self.rng.next_u64();
        let Some(relay) = self.next_relay(far) else {
            return false;
        };
        let Some(links) = self.links() else { return false };
        let Some(transport) = links.transports.get_mut(&far) else {
            return false;
        };
        let Some(lane) = transport.wants_relay(dial).filter(|_| links.tunnels.has_room(far)) else {
            return false;
        };
        let lane = match lane {
            mesh::Lane::Control => Lane::Control,
            mesh::Lane::Data => Lane::Data,
        };
        let link = links.tunnels.add(far, relay, lane, number, None);
        transport.dialled_instead(now, dial, failure, link);
        self.stir(far);
        true
    }

    /// The name of the node through which a link goes.
    pub(super) fn relay_of(&self, link: LinkId) -> Option<String> {
        let tunnels = &self.cluster.as_ref()?.links.as_ref()?.tunnels;
        let relay = tunnels.open[tunnels.at(link)?].relay;
        Some(self.peer_name(relay).to_owned())
    }

    /// The peer's home: the name of the node through which its stanzas go.
    pub(super) fn relay_to(&self, far: PeerId) -> Option<String> {
        let transport = self.cluster.as_ref()?.links.as_ref()?.transports.get(&far)?;
        self.relay_of(transport.status().lanes[mesh::Lane::Data.index()].relayed?)
    }

    /// The member to ask next for the way to a peer that lives.
    fn next_relay(&self, far: PeerId) -> Option<PeerId> {
        let tunnels = &self.cluster.as_ref()?.links.as_ref()?.tunnels;
        let mut members = self.peers_reached();
        members.retain(|peer| *peer != far);
        let lives = tunnels.living.contains(&far);
        (lives && !members.is_empty()).then(|| members[tunnels.turn % members.len()])
    }

    /// What a tunnel has to say goes to its relay.
    pub(super) fn tunnel_output(&mut self, now: Micros, link: LinkId) {
        let Some(links) = self.links() else { return };
        let Some(at) = links.tunnels.at(link) else { return };
        let tunnel = &mut links.tunnels.open[at];
        let mut bytes = Vec::new();
        match &mut tunnel.stranger {
            Some(conn) => conn.take_output(&mut bytes),
            None => {
                if let Some(transport) = links.transports.get_mut(&tunnel.far) {
                    transport.take_output(now, link, &mut bytes);
                }
            }
        }
        for part in bytes.chunks(PASSAGE_BYTES_MAX) {
            self.say(now, link, Step::Bytes, part);
        }
    }

    /// One passage of a tunnel to its relay.
    fn say(&mut self, now: Micros, link: LinkId, step: Step, bytes: &[u8]) {
        let Some(cluster) = self.cluster.as_mut() else { return };
        let Some(links) = &mut cluster.links else { return };
        let Some(at) = links.tunnels.at(link) else { return };
        let tunnel = &mut links.tunnels.open[at];
        let opens = tunnel.opened_here && !std::mem::replace(&mut tunnel.begun, true);
        let (relay, lane) = (tunnel.relay, tunnel.lane);
        let passage = Passage {
            passed_on: false,
            node: cluster
                .peers
                .get(usize::from(tunnel.far.0))
                .map_or("", |view| &view.name),
            number: tunnel.number,
            from_opener: tunnel.opened_here,
            step: if opens { Step::Open } else { step },
            bytes,
        };
        let message = passage.to_bytes();
        self.send_passage(now, relay, lane, &message);
    }

    /// The transport is done with a tunnel.
    pub(super) fn close_tunnel(&mut self, now: Micros, link: LinkId) {
        self.tunnel_output(now, link);
        self.say(now, link, Step::Close, &[]);
        self.tunnel_over(now, link, &CloseCause::Local);
    }

    /// A tunnel is no more.
    fn tunnel_over(&mut self, now: Micros, link: LinkId, cause: &CloseCause) {
        let Some(links) = self.links() else { return };
        let Some(at) = links.tunnels.at(link) else { return };
        let tunnel = links.tunnels.open.swap_remove(at);
        links.tunnels.turn += usize::from(tunnel.opened_here && !tunnel.answered);
        if let Some(transport) = links.transports.get_mut(&tunnel.far) {
            transport.closed(now, link, cause);
        }
        self.stir(tunnel.far);
    }

    /// Every shard: the tunnels through a node that is gone are broken.
    pub(super) fn relay_lost(&mut self, now: Micros, relay: PeerId) {
        let Some(links) = self.links() else { return };
        let tunnels = links.tunnels.open.iter();
        let broken: Vec<LinkId> = tunnels
            .filter(|tunnel| tunnel.relay == relay)
            .map(|tunnel| tunnel.link)
            .collect();
        for link in broken {
            self.tunnel_over(now, link, &CloseCause::Error("the node between is gone".into()));
        }
    }

    /// Gives up the tunnels whose other end takes too long to say who it is.
    pub(super) fn tick_tunnels(&mut self, now: Micros) {
        let Some(links) = self.links() else { return };
        let is_late = |tunnel: &&Tunnel| {
            let until = tunnel.stranger.as_ref().and_then(|conn| conn.deadline());
            until.is_some_and(|until| until <= now)
        };
        let late: Vec<LinkId> = links
            .tunnels
            .open
            .iter()
            .filter(is_late)
            .map(|tunnel| tunnel.link)
            .collect();
        for link in late {
            self.close_tunnel(now, link);
        }
    }

    /// Sends a passage to a node, by its home.
    fn send_passage(&mut self, now: Micros, to: PeerId, lane: Lane, message: &[u8]) {
        let home = self.home_of(to);
        if home == self.id {
            self.post_passage(now, to, lane, message);
        } else {
            self.data[usize::from(home)].push(Verb::Passage(to, lane), SELF, message);
        }
    }

    /// The node's home: the same. Where it cannot go on, the end that it came from hears so.
    pub(in crate::node) fn post_passage(&mut self, now: Micros, to: PeerId, lane: Lane, message: &[u8]) {
        let Some(passage) = Passage::read(message) else { return };
        let reached = self
            .cluster
            .as_ref()
            .is_some_and(|cluster| cluster.reaches_itself(to, passage.step));
        if reached && self.post(to, lane, message.to_vec()) {
            if passage.passed_on {
                self.counters.add(Counter::RelayedBytes, passage.bytes.len() as u64);
            }
            return;
        }
        if passage.step != Step::Close {
            self.count(Counter::RelayRefused);
            self.refuse_passage(now, to, lane, &passage);
        }
    }

    /// A passage on its way to `to` ends here: the tunnel's end from which it came hears so.
    fn refuse_passage(&mut self, now: Micros, to: PeerId, lane: Lane, passage: &Passage<'_>) {
        let Some(cluster) = &self.cluster else { return };
        let refusal = Passage {
            passed_on: true,
            ..passage.refusal()
        };
        if !passage.passed_on {
            // It is this node's own.
            return self.passage_here(now, to, lane, &refusal.to_bytes());
        }
        let answer = Passage {
            node: cluster.name_of(to),
            ..refusal
        };
        if let Some(source) = cluster.peer_named(passage.node) {
            self.send_passage(now, source, lane, &answer.to_bytes());
        }
    }

    /// A peer's home: a message of it, if it is a passage. It is passed on, or goes to the tunnel whose end is here.
    pub(super) fn passage(&mut self, now: Micros, peer: PeerId, lane: Lane, message: &[u8]) -> bool {
        let Some(passage) = Passage::read(message) else {
            return false;
        };
        if passage.passed_on {
            self.passage_here(now, peer, lane, message);
            return true;
        }
        let Some(cluster) = &self.cluster else { return true };
        let to = cluster.peer_named(passage.node);
        let onwards = Passage {
            passed_on: true,
            node: cluster.name_of(peer),
            ..passage
        };
        match to.filter(|to| *to != peer) {
            Some(to) => self.send_passage(now, to, lane, &onwards.to_bytes()),
            None => {
                self.count(Counter::RelayRefused);
                let refusal = Passage {
                    passed_on: true,
                    ..passage.refusal()
                };
                self.send_passage(now, peer, lane, &refusal.to_bytes());
            }
        }
        true
    }

    /// A passage has come to the node where its tunnel ends: it goes to the home of the other end.
    pub(in crate::node) fn passage_here(&mut self, now: Micros, relay: PeerId, lane: Lane, message: &[u8]) {
        let far = Passage::read(message).and_then(|passage| self.cluster.as_ref()?.peer_named(passage.node));
        // Who was never heard of is heard of soon, and tries again.
        let Some(far) = far else { return };
        let home = self.home_of(far);
        if home == self.id {
            self.tunnel_input(now, far, relay, lane, message);
        } else {
            self.data[usize::from(home)].push(Verb::Tunnel(relay, lane), SELF, message);
        }
    }

    fn tunnel_input(&mut self, now: Micros, far: PeerId, relay: PeerId, lane: Lane, message: &[u8]) {
        let Some(passage) = Passage::read(message) else { return };
        let Some(links) = self.links() else { return };
        let found = links.tunnels.open.iter().position(|tunnel| {
            (tunnel.far, tunnel.number, tunnel.opened_here) == (far, passage.number, !passage.from_opener)
        });
        let link = match (found, passage.step) {
            (Some(at), Step::Close) => {
                let link = links.tunnels.open[at].link;
                let name = self.peer_name(relay).to_owned();
                return self.tunnel_over(now, link, &CloseCause::Error(format!("{name} has no way on")));
            }
            (Some(at), _) => links.tunnels.open[at].link,
            (None, Step::Close) => return,
            (None, Step::Open) if passage.from_opener && links.tunnels.has_room(far) => {
                let mut rng = self.child_rng();
                let Some(links) = self.links() else { return };
                let conn = Box::new(Conn::accept(now, &links.local, &mut rng));
                self.wake_by(now + crate::node::TICK_US);
                let Some(links) = self.links() else { return };
                links.tunnels.add(far, relay, lane, passage.number, Some(conn))
            }
            (None, _) => {
                let node = self.peer_name(far).to_owned();
                let refusal = Passage {
                    passed_on: false,
                    node: &node,
                    ..passage.refusal()
                };
                return self.send_passage(now, relay, lane, &refusal.to_bytes());
            }
        };
        self.tunnel_bytes(now, far, link, passage.bytes);
    }

    fn tunnel_bytes(&mut self, now: Micros, far: PeerId, link: LinkId, bytes: &[u8]) {
        let Some(links) = self.links() else { return };
        let Some(at) = links.tunnels.at(link) else { return };
        let tunnel = &mut links.tunnels.open[at];
        tunnel.answered = true;
        let Some(conn) = &mut tunnel.stranger else {
            if let Some(transport) = links.transports.get_mut(&far) {
                transport.received(now, link, bytes);
            }
            return self.stir(far);
        };
        if let Err(error) = conn.received_early(bytes, &mut links.scratch) {
            let (name, why) = (self.peer_name(far).to_owned(), error.to_string());
            if self.refusal_is_news(now, &name, &why) {
                let text = format!("mesh: refused {name} by way of another node: {why}");
                self.log(Level::Warning, None, text);
            }
            return self.close_tunnel(now, link);
        }
        if !conn.is_established() {
            return self.tunnel_output(now, link);
        }
        if let Some(conn) = tunnel.stranger.take() {
            self.count(Counter::TunnelsAccepted);
            self.attach_peer(now, link, far, Reach::Relayed, *conn, None);
        }
    }
}

impl Cluster {
    /// This node serves the lanes of a node itself, and, for something new, has connections to it now.
    fn reaches_itself(&self, peer: PeerId, step: Step) -> bool {
        let transport = self.links.as_ref().and_then(|links| links.transports.get(&peer));
        let direct = transport.is_some_and(|transport| {
            let served = step != Step::Open || mesh::Lane::ALL.into_iter().all(|lane| transport.is_served(lane));
            served && !mesh::Lane::ALL.into_iter().any(|lane| transport.is_relayed(lane))
        });
        direct && self.homes.contains_key(&peer)
    }
}

#[cfg(test)]
impl Shard {
    /// Tunnels that end here.
    pub(in crate::node) fn tunnels_open(&self) -> usize {
        let links = self.cluster.as_ref().and_then(|cluster| cluster.links.as_ref());
        links.map_or(0, |links| links.tunnels.open.len())
    }
}
