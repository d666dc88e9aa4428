//! A node's image: what another process needs to go on where this one stops.
//!
//! # When it is taken
//!
//! When the node is at *rest*: its shards read no link and do nothing by the clock, and nothing is between them. So no
//! frame is half-way: it was read and stands in a queue, or it is in a link's unread bytes. Each shard's *share* is taken
//! without changing the shard, which goes on as if nothing had been when the take-over fails.
//!
//! # What is carried
//!
//! | what | how |
//! |---|---|
//! | names, seats, the registrar | as they are; a seat keeps its number, which is how all else speaks of it |
//! | a component's link | its socket, and of both directions what is on the way: bytes read and not handled (the end of the last whole frame is a border, so the scanner begins anew there), bytes taken for writing with how much of them the kernel has, bytes that wait |
//! | a link under TLS, or one in the middle of a comment between frames | not at all: its seat is lost, as after a cut, and comes back in its grace; what was not written waits |
//! | with `<uplink>`: lines to the stock router that stand, and what was asked over them | as they are; under TLS such a node does not hand over. A line that is on its way is dialled anew |
//! | a link without a seat (being authenticated) | not at all: the component tries again |
//! | what is left of a lost component, on its way back | not at all: it is waited for, and while it is not done there is no image |
//! | seats' queues, clients, open questions, what an sm has not answered | as they are |
//! | users: sessions, starts that are not answered, held frames | as they are |
//! | what a user waits for | `ended` as it is. A fence is not carried: everybody counts as touched, so whoever moves is fenced anew. A surrogate that has not been told to tell is one to start anew; when its sm answers, the old one is ended without a word |
//! | sessions that their sm may not have ended | as they are; behind each goes another fence |
//! | untrue farewells, messages given back lately | as they are: their hashes are lasting ones |
//! | counters, links that ended lately | as they are, at shard 0 |
//! | with `<mesh>`: this life of the node, its clock, other nodes' rows, exits, what a healing will need | as they are |
//! | peers, the seats that stand for their components | as they are, and their numbers; both directions of their lanes with all that is not acknowledged or not handled ([`cluster::image`](super::cluster)). A way that is turning is turned on |
//! | connections to other nodes | not at all: both sides dial, and go on where they were |
//! | courses, what operators asked | not at all |
//!
//! The clock goes on: the new process counts its microseconds from where the old one's began. Shards may be more or fewer
//! than before: seats are dealt out anew, users belong where their hash says.
//!
//! # Its form
//!
//! MessagePack ([`table::image`](crate::table::image)), since a version must read what another one wrote: a field may be
//! added (with a default) or left out, and an unknown one is skipped. Whatever else changes counts [`VERSION`] up, and
//! processes of different versions do not hand over.
//!
//! Users and clients are most of it, and nothing moves meanwhile: each shard packs its own, and in the new process each shard
//! reads its own, so that no thread has to do with all of them but the two that pass the bytes on. **Whatever changes in a
//! [`User`] or a [`Client`](crate::table::clients::Client) counts [`VERSION`] up.**
//!
//! Must never be added: what can be learnt again within the grace period at no price.

mod recovered;
mod restore;
mod take;

pub(in crate::node) use recovered::House;

use super::cluster::image::ClusterShare;
use super::counters::Counter;
use super::lane::SessionKey;
use super::orphans::Orphan;
use super::report::ClosedReport;
use super::seat::Seat;
use crate::table::clients::Clients;
use crate::table::image::{self, bytes};
use crate::table::link::{LinkId, Micros};
use crate::table::names::Names;
use crate::table::registrar::Registrar;
use crate::table::users::User;
use crate::table::{PeerId, SeatId, ShardId};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

/// Of the form and of the meaning of its fields.
pub const VERSION: u32 = 4;

/// A link as the process that is handing over knew it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Former {
    /// Its shard.
    pub shard: ShardId,
    /// Its slot there.
    pub slot: u32,
    /// The slot's generation.
    pub generation: u32,
}

impl Former {
    /// A link of a shard.
    pub fn new(shard: ShardId, link: LinkId) -> Former {
        Former {
            shard,
            slot: link.slot,
            generation: link.generation,
        }
    }
}

/// One shard's share.
#[derive(Debug, Serialize, Deserialize)]
pub struct Share {
    shard: ShardId,
    /// Of shard 0.
    names: Option<Names>,
    registrar: Option<Registrar>,
    seats: Vec<(SeatId, Seat)>,
    links: Vec<LinkRow>,
    /// Of the c2s among them, which have none themselves.
    clients: Vec<PackedClients>,
    /// Records of users by their bare JIDs, packed.
    #[serde(with = "bytes")]
    users: Vec<u8>,
    /// Theirs.
    sessions: usize,
    /// Numbers used so far: of fences, questions, surrogates.
    fences: u64,
    questions: u64,
    surrogates: u32,
    /// The same on all shards.
    farewells: Option<super::farewell::Farewells>,
    returned: Option<super::returned::Returned>,
    /// Sessions whose c2s is lost and whose sm may not have ended them, with that sm.
    #[serde(default)]
    orphans: Vec<(SeatId, Orphan)>,
    /// Ids of c2s that were given up: the same on all shards.
    #[serde(default)]
    parted: VecDeque<Box<str>>,
    /// What an sm held when it lost its link.
    #[serde(default)]
    held_at_loss: Vec<(SeatId, Vec<SessionKey>)>,
    /// By metric name and labels.
    counters: Vec<(String, u64)>,
    /// Links that ended lately.
    #[serde(default)]
    closed: Vec<ClosedReport>,
    /// With `<mesh>`.
    #[serde(default)]
    cluster: Option<ClusterShare>,
    /// Of shard 0, with `<uplink>`.
    #[serde(default)]
    uplink: Option<super::uplink::Uplink>,
}

impl Share {
    /// Whose it is.
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// Whether the link goes along.
    pub fn has(&self, link: Former) -> bool {
        self.links.iter().any(|row| row.former == link)
    }
}

/// The clients of a c2s.
#[derive(Debug, Serialize, Deserialize)]
struct PackedClients {
    c2s: SeatId,
    #[serde(with = "bytes")]
    packed: Vec<u8>,
}

impl PackedClients {
    fn of(c2s: SeatId, clients: &Clients) -> Result<PackedClients, String> {
        let mut packed = Vec::new();
        image::pack_to(&mut packed, clients)?;
        Ok(PackedClients { c2s, packed })
    }
}

/// Packs a user.
fn pack_user(into: &mut Vec<u8>, bare: &str, user: &User) -> Result<(), String> {
    image::record(into, bare, |into| image::pack_to(into, user))
}

/// A component's link.
#[derive(Debug, Serialize, Deserialize)]
struct LinkRow {
    former: Former,
    /// With a line to the stock router: none.
    seat: SeatId,
    /// The line to the stock router that it is.
    #[serde(default)]
    line: Option<usize>,
    remote: SocketAddr,
    /// The name of its stream's root.
    #[serde(with = "bytes")]
    root: Vec<u8>,
    /// What was read and is not a whole frame yet.
    #[serde(with = "bytes")]
    carry: Vec<u8>,
    #[serde(with = "bytes")]
    early: Vec<u8>,
    /// What waits behind the bytes that were taken for writing.
    #[serde(with = "bytes")]
    out: Vec<u8>,
    /// Of these, what the kernel does not have.
    in_flight: usize,
    opened_at: Micros,
    progress_at: Micros,
}

/// A link that goes on in another process.
#[derive(Clone, Copy, Debug)]
pub struct Restored {
    /// What it was.
    pub former: Former,
    /// What it is.
    pub link: LinkId,
    /// This node opened it, so it is not counted or slowed as those that came in are.
    pub dialled: bool,
}

/// A whole node, to be dealt out to the shards of another process.
#[derive(Debug)]
pub struct Image {
    shares: Vec<Share>,
    shards: ShardId,
    homes: HashMap<SeatId, ShardId>,
}

impl Image {
    /// All shares of a node, for so many shards.
    ///
    /// # Errors
    /// They are not of one node; nothing was changed.
    pub fn new(shares: Vec<Share>, shards: ShardId) -> Result<Image, &'static str> {
        let shards = shards.max(1);
        let all = shares.iter().flat_map(|share| &share.seats);
        let mut seats: Vec<(SeatId, Option<PeerId>)> = all
            .map(|(seat, state)| (*seat, state.abroad.map(|(peer, _)| peer)))
            .collect();
        seats.sort_unstable();
        let distinct = seats.windows(2).all(|pair| pair[0].0 != pair[1].0);
        let first = shares
            .iter()
            .filter(|share| share.names.is_some() && share.registrar.is_some());
        let meshed = shares.iter().filter(|share| share.cluster.is_some()).count();
        if !distinct || first.count() != 1 || !(meshed == 0 || meshed == shares.len()) {
            return Err("its shares do not belong together");
        }
        // What stands for another node's component is at that node's home.
        let (own, abroad): (Vec<_>, Vec<_>) = seats.into_iter().partition(|(_, peer)| peer.is_none());
        let own = own.into_iter().zip((0..shards).cycle());
        let homes = own.map(|((seat, _), home)| (seat, home));
        let abroad = abroad
            .into_iter()
            .filter_map(|(seat, peer)| Some((seat, peer?.0 % shards)));
        let mut homes: HashMap<SeatId, ShardId> = homes.chain(abroad).collect();
        // The stock router's components are where its lines are.
        let seats = shares.iter().flat_map(|share| &share.seats);
        homes.extend(seats.filter(|(_, state)| state.behind).map(|(seat, _)| (*seat, 0)));
        Ok(Image { homes, shares, shards })
    }

    /// The shard that a seat is dealt to.
    fn home(&self, seat: SeatId) -> ShardId {
        self.homes.get(&seat).copied().unwrap_or(0)
    }

    fn names(&self) -> Option<(&Names, &Registrar)> {
        let share = self.shares.iter().find(|share| share.names.is_some())?;
        share.names.as_ref().zip(share.registrar.as_ref())
    }

    pub(in crate::node) fn clusters(&self) -> impl Iterator<Item = &ClusterShare> {
        self.shares.iter().filter_map(|share| share.cluster.as_ref())
    }

    /// The life of the node, with `<mesh>`: who goes on with it is the same node to its peers.
    pub fn incarnation(&self) -> Option<u64> {
        self.clusters().find_map(ClusterShare::incarnation)
    }

    /// Sessions in it.
    pub fn sessions(&self) -> usize {
        self.shares.iter().map(|share| share.sessions).sum()
    }
}

/// How a counter is called in an image.
fn counter_key(counter: Counter) -> String {
    let (name, labels, _) = counter.describe();
    format!("{name}{{{labels}}}")
}
