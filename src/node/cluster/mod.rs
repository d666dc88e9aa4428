//! This node among others: whose user is whose, what crosses to another node, and what of theirs is known here.
//!
//! # Who writes what
//!
//! * A peer (another node) is served by one shard, its *home*: its links, its lanes, the seats that stand here for its
//!   components. Everything from one peer comes through its home, so what a note taught is known to every shard before
//!   a packet that was sent after it (the lanes between shards keep that order).
//! * A user is served by the node that holds the *claim*: the node of his sm. It alone writes his row, which every other
//!   node keeps. Without a claim he belongs to his *directory owner*, which every node computes from his JID.
//! * Only the directory owner places a `start`: it stamps it with its clock, and the node that the stamped start reaches
//!   takes the claim. A node gives a claim back when nothing of the user is left and its sm is done with him.
//!
//! # Why nothing overtakes
//!
//! What a shard sends for a user goes by one way: his node, if he has a row, else his owner's. A node gives back what it
//! gets for a user whom it does not serve (a `start` it sends on), and all that follows until the sender's marker. So at
//! any time the frames of one shard for one user are on one way. When that changes, or something came back, [`turn`]
//! sends a marker down the old way and keeps the user's frames until it is back: then what went before has arrived or
//! come back. What an sm of this node may still have in hand for a user is fenced before anything of his goes to another
//! node, and what it said has come to every node by then ([`flush`]).
//!
//! Must never be added: sockets, sealing, sequences (they are the room `mesh`'s), and knowledge of another node's table
//! beyond its rows, seats and names.

mod alone;
mod dawn;
mod drain;
mod exits;
mod flush;
mod healing;
pub(super) mod image;
mod inquiry;
mod links;
mod members;
mod message;
mod packets;
mod peers;
mod probes;
mod reborn;
mod refusals;
mod relay;
mod report;
mod rows;
mod seats;
mod starts;
mod strangers;
mod transports;
mod turn;

pub use drain::{DRAIN_RATE_MAX, DrainAsk, DrainOrder};
#[cfg(test)]
pub(super) use flush::EVERY_US as FLUSH_EVERY_US;
pub(super) use inquiry::Inquiries;
pub use inquiry::{ANSWER_US, Answer, Question, where_key};
pub(super) use links::Dialling;
pub use links::policies;
pub(super) use members::MemberNews;
use starts::Site;

use super::Shard;
use super::api::Micros;
use super::placement;
use crate::config::Mesh;
use crate::jid::{self, ClusterKey, TableMap};
use crate::mesh::members::MembersImage;
use crate::table::rows::{Clock, Row, Rows};
use crate::table::ways::{Astray, Ways};
use crate::table::{PeerId, SeatId, ShardId};
use peers::{Home, PeerView};
use std::collections::VecDeque;

/// For so long after an owner took a user over from another one, that one is asked before he is placed, microseconds.
const SUCCESSION_US: Micros = 10_000_000;

/// A lane between two nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Notes.
    Control,
    /// Packets.
    Data,
}

/// What one shard knows of the other nodes.
#[derive(Debug)]
pub(super) struct Cluster {
    /// This node's name.
    pub(super) own: Box<str>,
    key: ClusterKey,
    /// Wall clock at the origin of [`Micros`], milliseconds since 1970.
    origin_ms: u64,
    last: Clock,
    /// By number.
    peers: Vec<PeerView>,
    /// Peers that take part in ownership.
    ready: usize,
    pub(super) rows: Rows,
    /// Rows of a peer that is just leaving.
    leaving: Vec<(Box<str>, Row)>,
    /// Rows that gave way to a claim of this node, oldest first.
    outdone: VecDeque<(Micros, Box<str>, Row)>,
    /// Full JIDs of sessions that ended with their node.
    told_away: TableMap<PeerId, Vec<Box<str>>>,
    /// Peers that are about to join as other processes than before.
    reborn: Vec<PeerId>,
    ways: Ways,
    /// Where this node sent on what it had taken for a user and lost the one who was to have it.
    sent_on: Ways,
    astray: Astray,
    /// Markers sent so far.
    serial: u64,
    /// Users whose way changed, by when they go on at the latest.
    turning: VecDeque<(Micros, Box<str>, u64)>,
    /// Users of whom something came back, by when it is sent again at the latest.
    sent_back: VecDeque<(Micros, Box<str>, u64)>,
    /// Users with starts that another node was asked about, by when to look again.
    asked: VecDeque<(Micros, Box<str>)>,
    /// Other nodes' components: node and its number for it, and the seat that stands here.
    numbers: TableMap<(PeerId, SeatId), SeatId>,
    /// Peers whose home is this shard.
    homes: TableMap<PeerId, Home>,
    /// Slots for other nodes' components that this shard has used, and those that are free again.
    slots_used: u16,
    slots_free: VecDeque<SeatId>,
    /// Messages for peers, until they are taken.
    pub(super) posted: VecDeque<(PeerId, Lane, Vec<u8>)>,
    exits: exits::Exits,
    flush: flush::Flush,
    healing: healing::Healing,
    links: Option<links::Links>,
    dawn: Option<dawn::Dawn>,
    own_draining: drain::Draining,
    drain: Option<drain::Drain>,
    alone: alone::Alone,
    /// Another process of this node began what goes on here: users may be at other shards than then.
    redealt: bool,
    /// What membership goes on with.
    resuming: Option<MembersImage>,
}

/// Where a user is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Here.
    Here,
    /// By this node, or it knows by whom.
    At(PeerId),
}

impl Cluster {
    /// A node of this configuration that knows no other yet.
    pub(super) fn new(mesh: &Mesh, origin_ms: u64) -> Cluster {
        Cluster {
            own: mesh.node.as_str().into(),
            key: ClusterKey::default(),
            origin_ms,
            last: Clock::default(),
            peers: Vec::new(),
            ready: 0,
            rows: Rows::default(),
            leaving: Vec::new(),
            outdone: VecDeque::new(),
            told_away: TableMap::default(),
            reborn: Vec::new(),
            ways: Ways::default(),
            sent_on: Ways::default(),
            astray: Astray::default(),
            serial: 0,
            turning: VecDeque::new(),
            sent_back: VecDeque::new(),
            asked: VecDeque::new(),
            numbers: TableMap::default(),
            homes: TableMap::default(),
            slots_used: 0,
            slots_free: VecDeque::new(),
            posted: VecDeque::new(),
            exits: exits::Exits::default(),
            flush: flush::Flush::default(),
            healing: healing::Healing::default(),
            links: None,
            dawn: None,
            own_draining: drain::Draining::default(),
            drain: None,
            alone: alone::Alone::default(),
            redealt: false,
            resuming: None,
        }
    }

    fn peer(&self, peer: PeerId) -> Option<&PeerView> {
        self.peers.get(usize::from(peer.0))
    }

    fn name_of(&self, peer: PeerId) -> &str {
        self.peer(peer).map_or("", |view| &view.name)
    }

    fn peer_named(&self, name: &str) -> Option<PeerId> {
        let at = self.peers.iter().position(|view| *view.name == *name)?;
        Some(PeerId(u16::try_from(at).ok()?))
    }

    /// No other node takes part in ownership, and none has told of a user yet: one that is still telling what it has
    /// serves them already.
    fn is_by_itself(&self) -> bool {
        self.ready == 0 && self.rows.is_empty()
    }

    /// The next tick of the hybrid clock.
    pub(super) fn stamp(&mut self, now: Micros) -> Clock {
        self.last = Clock::next(self.last, self.origin_ms + now / 1_000);
        self.last
    }

    /// Another node's clock was seen: this one's goes on from there.
    fn witness(&mut self, clock: Clock) {
        self.last = self.last.max(clock);
    }
}

impl Shard {
    /// The next message for a peer whose home this shard is, in order.
    pub fn take_posted(&mut self) -> Option<(PeerId, Lane, Vec<u8>)> {
        self.cluster.as_mut()?.posted.pop_front()
    }

    /// The name of a peer.
    pub fn peer_name(&self, peer: PeerId) -> &str {
        self.cluster.as_ref().map_or("", |cluster| cluster.name_of(peer))
    }

    /// The other nodes that are there.
    pub(super) fn peers_reached(&self) -> Vec<PeerId> {
        let peers = self
            .cluster
            .iter()
            .flat_map(|cluster| (0..).map(PeerId).zip(&cluster.peers));
        peers
            .filter(|(_, view)| view.is_reached())
            .map(|(peer, _)| peer)
            .collect()
    }

    pub(super) fn peer_of_name(&self, name: &str) -> Option<PeerId> {
        self.cluster.as_ref()?.peer_named(name)
    }

    /// Bytes that wait for a peer on its data lane. Its home knows.
    pub(super) fn peer_queue_bytes(&self, peer: PeerId) -> Option<u64> {
        let transport = self.cluster.as_ref()?.links.as_ref()?.transports.get(&peer)?;
        Some(transport.status().lanes[crate::mesh::Lane::Data.index()].queued_bytes)
    }

    /// How far the stream of stanzas to a peer was given to connections, and how far it goes, bytes. Its home knows.
    pub(super) fn peer_stream(&self, peer: PeerId) -> Option<(u64, u64)> {
        let transport = self.cluster.as_ref()?.links.as_ref()?.transports.get(&peer)?;
        Some(transport.stream(crate::mesh::Lane::Data))
    }

    /// The shard that serves a peer.
    pub(super) fn home_of(&self, peer: PeerId) -> ShardId {
        peer.0 % self.shards
    }

    /// Other nodes take part in ownership, or serve users at least.
    pub(super) fn has_peers(&self) -> bool {
        self.cluster.as_ref().is_some_and(|cluster| !cluster.is_by_itself())
    }

    /// Who serves a user, or knows who does.
    pub(super) fn place(&self, bare: &str) -> Place {
        let Some(cluster) = self.cluster.as_ref().filter(|cluster| !cluster.is_by_itself()) else {
            return Place::Here;
        };
        if self.users.get(bare).is_some_and(|user| user.claim != Clock::default()) {
            return Place::Here;
        }
        match cluster.rows.get(bare) {
            Some(row) => Place::At(row.peer),
            None if cluster.ready == 0 => Place::Here,
            None => self.directory_owner(bare),
        }
    }

    /// The node that decides about a user whom nobody serves: of those that have an sm for his domain, the one that the
    /// cluster's hash prefers. Without any it is this one, which then says so to the sender.
    pub(super) fn directory_owner(&self, bare: &str) -> Place {
        let cluster = self.cluster.as_ref();
        let serves = |site| !cluster.is_some_and(|cluster| cluster.drains(site));
        self.owner_among(bare, |_, _| true, serves).unwrap_or(Place::Here)
    }

    /// Who owned a user a while ago, if that was another node than now: what it gave its sm for him may not be done.
    fn former_owner(&self, now: Micros, bare: &str) -> Option<PeerId> {
        let cluster = self.cluster.as_ref()?;
        let then_ms = (cluster.origin_ms + now / 1_000).saturating_sub(SUCCESSION_US / 1_000);
        let served = |site| !cluster.drained(site, now);
        let counts = |peer: Option<PeerId>, holder| {
            let bound_at = self.names.bound_at(placement::domain_of(bare), holder);
            let ready_since = peer.map_or(0, |peer| cluster.peer(peer).map_or(now, |view| view.ready_since));
            let known = peer.is_none() || ready_since + SUCCESSION_US <= now;
            known && bound_at >> Clock::COUNTER_BITS <= then_ms
        };
        match self.owner_among(bare, counts, served) {
            Some(Place::At(peer)) => Some(peer),
            _ => None,
        }
    }

    /// Of the holders that count, the node that the hash prefers: of those in service, if there are any.
    fn owner_among(
        &self,
        bare: &str,
        counts: impl Fn(Option<PeerId>, SeatId) -> bool,
        serves: impl Fn(Site) -> bool,
    ) -> Option<Place> {
        let cluster = self.cluster.as_ref()?;
        let (_, name) = self.names.get(placement::domain_of(bare))?;
        let mut best: Option<((bool, u64), Place)> = None;
        let mut last = None;
        for holder in &name.holders {
            let Some(peer) = self.names.seat(*holder).map(|view| view.peer) else {
                continue;
            };
            if last == Some(peer) || peer.is_some_and(|peer| !cluster.peer(peer).is_some_and(PeerView::is_ready)) {
                continue;
            }
            last = Some(peer);
            if !counts(peer, *holder) {
                continue;
            }
            let node = peer.map_or(&*cluster.own, |peer| cluster.name_of(peer));
            let weight = (serves(peer), jid::rendezvous_weight(&cluster.key, bare, node));
            if best.is_none_or(|(top, _)| weight > top) {
                best = Some((weight, peer.map_or(Place::Here, Place::At)));
            }
        }
        best.map(|(_, place)| place)
    }

    /// The nodes that have a living sm for a domain, this one first: (node, name). Those that drain only if all do.
    pub(super) fn sites(&self, domain: &str) -> Vec<(Site, Box<str>)> {
        let (Some(cluster), Some((_, name))) = (&self.cluster, self.names.get(domain)) else {
            return Vec::new();
        };
        let mut sites: Vec<(Site, Box<str>)> = Vec::new();
        for holder in &name.holders {
            let Some(view) = self.names.seat(*holder).filter(|view| view.live) else {
                continue;
            };
            let (site, node): (Site, &str) = match view.peer {
                None => (None, &cluster.own),
                Some(peer) if cluster.peer(peer).is_some_and(PeerView::is_ready) => (Some(peer), cluster.name_of(peer)),
                Some(_) => continue,
            };
            if !sites.iter().any(|(other, _)| *other == site) {
                sites.push((site, node.into()));
            }
        }
        if sites.iter().any(|(site, _)| !cluster.drains(*site)) {
            sites.retain(|(site, _)| !cluster.drains(*site));
        }
        sites
    }
}
