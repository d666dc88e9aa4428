//! What this node knows of the others, in its image: another process of the same life goes on with it.
//!
//! The node keeps its incarnation, so its peers see nothing but connections that end and begin anew; what they had not
//! acknowledged, and what this node had not, goes again over those. Peers keep their numbers here, and so do the seats
//! that stand for their components. Not carried: connections, tunnels and dials, which are made anew; what operators
//! asked.

use super::Cluster;
use super::drain::{Drain, Draining};
use super::exits::{Asked, Exit};
use super::healing::Pair;
use super::peers::{Home, PeerView};
use crate::mesh::members::MembersImage;
use crate::mesh::peer::{Peer, PeerImage};
use crate::node::Shard;
use crate::node::api::Micros;
use crate::node::image::Image;
use crate::table::rows::{Clock, Row};
use crate::table::users::{Stage, User};
use crate::table::{PeerId, SeatId};
use rand_core::RngCore;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// One shard's share.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::node) struct ClusterShare {
    /// Of shard 0: what all shards know.
    common: Option<Common>,
    last: Clock,
    serial: u64,
    rows: Vec<(Box<str>, Row)>,
    outdone: VecDeque<(Micros, Box<str>, Row)>,
    told_away: Vec<(PeerId, Vec<Box<str>>)>,
    ways: Vec<(u64, PeerId)>,
    sent_on: Vec<(u64, PeerId)>,
    astray: Vec<(PeerId, u64)>,
    exits: Vec<(Box<str>, Exit)>,
    exits_asked: Vec<(Box<str>, Asked)>,
    /// Probes that are due when an absent user is back, and those that are due.
    absent: Vec<(Box<str>, Vec<Pair>)>,
    due: VecDeque<(Micros, Pair)>,
    homes: Vec<PeerShare>,
    slots_free: VecDeque<SeatId>,
    drain: Option<Drain>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Common {
    incarnation: u64,
    origin_ms: u64,
    peers: Vec<PeerView>,
    numbers: Vec<((PeerId, SeatId), SeatId)>,
    telling: VecDeque<(Micros, Box<str>)>,
    moved: VecDeque<(Micros, Box<str>)>,
    own_draining: Draining,
    members: Option<MembersImage>,
}

/// A peer at its home.
#[derive(Debug, Serialize, Deserialize)]
struct PeerShare {
    peer: PeerId,
    /// It is told of changes; `None`: it has not joined.
    told: Option<bool>,
    reborn: bool,
    dying: Option<Micros>,
    transport: Option<PeerImage>,
}

impl ClusterShare {
    /// The life of its node. Of shard 0's share.
    pub(in crate::node) fn incarnation(&self) -> Option<u64> {
        Some(self.common.as_ref()?.incarnation)
    }
}

impl Shard {
    /// This shard's share, with `<mesh>`.
    ///
    /// # Errors
    /// Something is under way.
    pub(in crate::node) fn cluster_share(&self) -> Result<Option<ClusterShare>, &'static str> {
        let Some(cluster) = &self.cluster else { return Ok(None) };
        let stirred = cluster.links.as_ref().is_some_and(|links| !links.stirred.is_empty());
        let telling = cluster.homes.values().any(|home| home.rows_missing > 0);
        if stirred || telling || !cluster.leaving.is_empty() {
            return Err("another node is about to join or to leave: try again");
        }
        let healing = &cluster.healing;
        Ok(Some(ClusterShare {
            common: (self.id == 0).then(|| cluster.common_share()),
            last: cluster.last,
            serial: cluster.serial,
            rows: cluster
                .rows
                .iter()
                .map(|(bare, row)| (bare.into(), row.clone()))
                .collect(),
            outdone: cluster.outdone.clone(),
            told_away: pairs(&cluster.told_away),
            ways: cluster.ways.iter().collect(),
            sent_on: cluster.sent_on.iter().collect(),
            astray: cluster.astray.iter().collect(),
            exits: pairs(&cluster.exits.known),
            exits_asked: pairs(&cluster.exits.asked),
            absent: pairs(&healing.by_absent),
            due: healing.due.clone(),
            homes: cluster.peer_shares(),
            slots_free: cluster.slots_free.clone(),
            drain: cluster.drain.as_ref().map(Drain::share),
        }))
    }

    /// Takes this shard's part of what a former process of this node knew of the others.
    pub(in crate::node) fn restore_cluster(&mut self, now: Micros, image: &Image) {
        let shares: Vec<&ClusterShare> = image.clusters().collect();
        let common = shares.iter().find_map(|share| share.common.as_ref());
        let (Some(common), true) = (common, self.cluster.is_some()) else {
            return;
        };
        self.restore_common(common);
        let restored = shares.iter().map(|share| share.last).max();
        let serial = shares.iter().map(|share| share.serial).max();
        for share in &shares {
            self.restore_slice(share);
            self.restore_peers(now, share);
        }
        let drains: Vec<&Drain> = shares.iter().filter_map(|share| share.drain.as_ref()).collect();
        let (drain, slots) = (Drain::of_shares(&drains, self.id, self.shards), self.slots_of(&shares));
        let Some(cluster) = &mut self.cluster else { return };
        cluster.last = restored.unwrap_or_default();
        cluster.serial = serial.unwrap_or_default();
        cluster.drain = drain;
        (cluster.slots_used, cluster.slots_free) = slots;
        cluster.outdone.make_contiguous().sort_by_key(|(at, ..)| *at);
        cluster.healing.due.make_contiguous().sort_by_key(|(at, _)| *at);
    }

    fn restore_common(&mut self, common: &Common) {
        let first = self.id == 0;
        let Some(cluster) = &mut self.cluster else { return };
        cluster.origin_ms = common.origin_ms;
        cluster.peers.clone_from(&common.peers);
        cluster.ready = cluster.peers.iter().filter(|view| view.is_ready()).count();
        cluster.numbers = common.numbers.iter().copied().collect();
        cluster.healing.telling.clone_from(&common.telling);
        cluster.healing.moved.clone_from(&common.moved);
        cluster.own_draining = common.own_draining.clone();
        cluster.redealt = true;
        // Components are let in as before.
        cluster.dawn = None;
        cluster.resuming = common.members.clone().filter(|_| first);
    }

    /// Users and foreign domains belong where their hash says.
    fn restore_slice(&mut self, share: &ClusterShare) {
        let own = |key: &str| self.owner(key) == self.id;
        let rows: Vec<_> = share.rows.iter().filter(|(bare, _)| own(bare)).cloned().collect();
        let outdone = share.outdone.iter().filter(|(_, bare, _)| own(bare)).cloned();
        let outdone: Vec<_> = outdone.collect();
        let exits: Vec<_> = share.exits.iter().filter(|(domain, _)| own(domain)).cloned().collect();
        let asked = share.exits_asked.iter().filter(|(domain, _)| own(domain));
        let asked: Vec<_> = asked.cloned().collect();
        let absent: Vec<_> = share.absent.iter().filter(|(bare, _)| own(bare)).cloned().collect();
        let due: Vec<_> = share.due.iter().filter(|(_, (_, to))| own(to)).cloned().collect();
        let told_away = share.told_away.iter().map(|(peer, sessions)| {
            let own = sessions
                .iter()
                .filter(|full| own(full.split('/').next().unwrap_or_default()));
            (*peer, own.cloned().collect::<Vec<Box<str>>>())
        });
        let told_away: Vec<_> = told_away.collect();
        let Some(cluster) = &mut self.cluster else { return };
        for (bare, row) in rows {
            cluster.rows.set(&bare, row);
        }
        for (peer, sessions) in told_away.into_iter().filter(|(_, sessions)| !sessions.is_empty()) {
            cluster.told_away.entry(peer).or_default().extend(sessions);
        }
        cluster.outdone.extend(outdone);
        cluster.ways.restore(&share.ways);
        cluster.sent_on.restore(&share.sent_on);
        for (from, user) in &share.astray {
            cluster.astray.insert(*from, *user);
        }
        cluster.exits.known.extend(exits);
        self.held_bytes += asked.iter().map(|(_, asked)| asked.held_bytes()).sum::<usize>();
        cluster.exits.asked.extend(asked);
        cluster.healing.notes += absent.iter().map(|(_, pairs)| pairs.len()).sum::<usize>();
        cluster.healing.by_absent.extend(absent);
        cluster.healing.due.extend(due);
    }

    /// Peers belong where their number says.
    fn restore_peers(&mut self, now: Micros, share: &ClusterShare) {
        let bytes_max = self.config.queues.peer_bytes;
        for row in &share.homes {
            if self.home_of(row.peer) != self.id {
                continue;
            }
            let rng = self.child_rng();
            let Some(cluster) = &mut self.cluster else { return };
            if let Some(told) = row.told {
                let rows_missing = 0;
                cluster.homes.insert(row.peer, Home { rows_missing, told });
            }
            cluster.reborn.extend(row.reborn.then_some(row.peer));
            let Some(links) = &mut cluster.links else { continue };
            links.dying.extend(row.dying.map(|at| (row.peer, at)));
            if let Some(image) = &row.transport {
                let transport = Peer::restored(now, &links.local, image.clone(), bytes_max, rng);
                links.transports.insert(row.peer, transport);
            }
        }
    }

    /// How many of this shard's slots were ever used, and those of them that are free: wherever that was known.
    fn slots_of(&self, shares: &[&ClusterShare]) -> (u16, VecDeque<SeatId>) {
        let (first, shards) = (usize::from(SeatId::REMOTE_SLOTS), usize::from(self.shards));
        // As `seat_up` takes them.
        let number = |seat: &SeatId| seat.slot().checked_sub(first);
        let is_own = |seat: &SeatId| number(seat).is_some_and(|number| number % shards == usize::from(self.id));
        let free = shares.iter().flat_map(|share| &share.slots_free).copied();
        let free: VecDeque<SeatId> = free.filter(is_own).collect();
        let taken = self.names.seats().map(|(seat, _)| seat).filter(is_own);
        let last = taken.chain(free.iter().copied()).filter_map(|seat| number(&seat)).max();
        let used = last.map_or(0, |last| last / shards + 1);
        let span = (u16::MAX - SeatId::REMOTE_SLOTS) / self.shards;
        (u16::try_from(used).unwrap_or(span), free)
    }

    /// A user of the image who has to do with other nodes.
    pub(in crate::node) fn restore_user_abroad(&mut self, now: Micros, bare: &str, user: &User) {
        let Some(flux) = &user.flux else { return };
        if flux.starts.iter().any(|start| matches!(start.stage, Stage::Asked(_))) {
            self.watch_asked(now, bare);
        }
        let (Some(cluster), Some(turn)) = (&mut self.cluster, &flux.turn) else {
            return;
        };
        match turn.done {
            true => cluster.sent_back.push_back((now, bare.into(), turn.serial)),
            false => cluster.turning.push_back((turn.until, bare.into(), turn.serial)),
        }
        cluster.turning.make_contiguous().sort_by_key(|(until, ..)| *until);
        let waiting = turn.back.iter().chain(&turn.frames);
        self.held_bytes += waiting.map(|held| held.what.byte_len()).sum::<usize>();
    }

    /// What was restored goes on: peers are dialled, and greeted as soon as they are reached.
    pub(in crate::node) fn resume_cluster(&mut self, now: Micros) {
        self.note_time(now);
        let seed = self.rng.next_u64();
        if let Some(image) = self.cluster.as_mut().and_then(|cluster| cluster.resuming.take()) {
            self.with_members(now, |members| members.restore(now, &image, seed));
        }
        let Some(links) = self.links() else { return };
        let peers: Vec<PeerId> = links.transports.keys().copied().collect();
        for peer in peers {
            if let Some(transport) = self.transport(peer) {
                transport.tick(now);
            }
            self.stir(peer);
        }
    }
}

impl Cluster {
    fn common_share(&self) -> Common {
        let links = self.links.as_ref();
        Common {
            incarnation: links.map_or(0, |links| links.local.hello.incarnation),
            origin_ms: self.origin_ms,
            peers: self.peers.clone(),
            numbers: pairs(&self.numbers),
            telling: self.healing.telling.clone(),
            moved: self.healing.moved.clone(),
            own_draining: self.own_draining.clone(),
            members: links.and_then(|links| Some(links.members.as_ref()?.image())),
        }
    }

    fn peer_shares(&self) -> Vec<PeerShare> {
        let share = |peer: PeerId| {
            let links = self.links.as_ref();
            let dying = links.and_then(|links| links.dying.iter().find(|(dying, _)| *dying == peer));
            PeerShare {
                peer,
                told: self.homes.get(&peer).map(|home| home.told),
                reborn: self.reborn.contains(&peer),
                dying: dying.map(|(_, at)| *at),
                transport: links.and_then(|links| Some(links.transports.get(&peer)?.image())),
            }
        };
        let all = (0..self.peers.len()).filter_map(|at| u16::try_from(at).ok());
        let all = all.map(PeerId).map(share);
        all.filter(|row| row.told.is_some() || row.reborn || row.transport.is_some())
            .collect()
    }
}

fn pairs<K: Clone, V: Clone>(map: &crate::jid::TableMap<K, V>) -> Vec<(K, V)> {
    map.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}
