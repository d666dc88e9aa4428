//! Drain: a node goes out of service while it runs, and its users go elsewhere.
//!
//! All nodes know who drains, and give such a node nothing new: it owns no user and no foreign domain, its sm is nobody's
//! duty, no session is placed there, as long as another node can do it. What it still has in hand is finished by the
//! same rules as when an owner changes (fences, former owners). Its sessions end one after the other: what c2s would
//! send when a client leaves goes to the session's sm, whose `ended` closes the client at its c2s behind all that was
//! delivered before. Those who come back meanwhile are ended in further rounds; then the domains are withdrawn from the
//! c2s of this node, which refuse clients from there on.

use super::message::Note;
use super::starts::Site;
use super::{Cluster, SUCCESSION_US};
use crate::node::Shard;
use crate::node::api::{Level, Micros};
use crate::node::counters::Counter;
use crate::node::grace::session_end;
use crate::node::lane::Message;
use crate::node::report::DrainReport;
use crate::table::names::Multi;
use crate::table::{PeerId, SeatId, SeatKind, ShardId, Token};
use crate::wire::edit;
use crate::wire::header::{self, Frame};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Between two looks for sessions that are here all the same, microseconds.
const ROUND_US: Micros = 5_000_000;
/// So often sessions are ended at the stated rate; what comes then is ended at once.
const ROUNDS: u32 = 3;
/// Most sessions that are ended a second.
pub const DRAIN_RATE_MAX: u32 = 10_000;

/// What an operator orders.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainOrder {
    /// Sessions that are ended a second, by all shards together; 1 to [`DRAIN_RATE_MAX`].
    pub rate_per_s: u32,
    /// The node that takes on whoever logs in again at this one's c2s.
    pub to: Option<Box<str>>,
}

/// What is asked of a node.
#[derive(Clone, Debug)]
pub enum DrainAsk {
    /// Begin, or go on with another rate. Refused when nobody could take the users.
    Begin(DrainOrder),
    /// Go on after a restart: nobody can be known yet.
    Resume(DrainOrder),
    /// Give it up.
    Abort,
}

/// Whether a node drains, as the others know it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Draining {
    on: bool,
    /// When that changed last.
    since: Option<Micros>,
    to: Option<Box<str>>,
}

impl Draining {
    fn set(&mut self, now: Micros, on: bool, to: Option<Box<str>>) {
        if self.on != on {
            self.since = Some(now);
        }
        self.on = on;
        self.to = to;
    }

    /// What was so before the owners of its users had time to hand them over.
    fn was_on(&self, now: Micros) -> bool {
        match self.since {
            Some(since) if since + SUCCESSION_US > now => !self.on,
            _ => self.on,
        }
    }
}

/// This shard's part of the drain of its node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Drain {
    order: DrainOrder,
    began: Micros,
    /// What is to be ended in this round.
    #[serde(skip)]
    left: VecDeque<(SeatId, u32, Token)>,
    /// How many those were in the beginning, by shard: so they share the rate, and are done at the same time.
    #[serde(skip)]
    shares: Vec<u64>,
    round: u32,
    next_round: Micros,
    /// Up to when the rate was used.
    used: Micros,
    ended: u64,
    /// The c2s here were told that nobody serves the domains.
    withdrawn: bool,
}

impl Drain {
    fn new(now: Micros, order: DrainOrder, shards: ShardId) -> Drain {
        Drain {
            order,
            began: now,
            left: VecDeque::new(),
            shares: vec![0; usize::from(shards)],
            round: 0,
            next_round: now,
            used: now,
            ended: 0,
            withdrawn: false,
        }
    }

    /// For another process of this node: a round that is not done begins once more there, at once.
    pub(super) fn share(&self) -> Drain {
        let repeats = u32::from(!self.left.is_empty());
        Drain {
            left: VecDeque::new(),
            round: self.round.saturating_sub(repeats),
            next_round: 0,
            ..self.clone()
        }
    }

    /// One shard's part of what others of a former process had.
    pub(super) fn of_shares(former: &[&Drain], shard: ShardId, shards: ShardId) -> Option<Drain> {
        let first = (*former.first()?).clone();
        let ended = former.iter().map(|drain| drain.ended).sum();
        Some(Drain {
            shares: vec![0; usize::from(shards)],
            round: former.iter().map(|drain| drain.round).min().unwrap_or(0),
            ended: if shard == 0 { ended } else { 0 },
            ..first
        })
    }

    /// How many sessions may be ended now. One second is not saved up for the next.
    fn due(&mut self, now: Micros, shard: ShardId) -> usize {
        let (own, all): (u64, u64) = (self.shares[usize::from(shard)], self.shares.iter().sum());
        let each_us = 1_000_000 * all / (u64::from(self.order.rate_per_s.clamp(1, DRAIN_RATE_MAX)) * own.max(1));
        self.used = self.used.max(now.saturating_sub(1_000_000.max(each_us)));
        let count = (now - self.used) / each_us.max(1);
        self.used += count * each_us;
        usize::try_from(count).unwrap_or(usize::MAX)
    }
}

impl Cluster {
    pub(super) fn drains(&self, site: Site) -> bool {
        self.draining(site).is_some_and(|draining| draining.on)
    }

    pub(super) fn drained(&self, site: Site, now: Micros) -> bool {
        self.draining(site).is_some_and(|draining| draining.was_on(now))
    }

    /// Whom a node that drains wants to have its users, if it said so.
    pub(super) fn drains_to(&self, site: Site) -> Option<&str> {
        self.draining(site).filter(|draining| draining.on)?.to.as_deref()
    }

    fn draining(&self, site: Site) -> Option<&Draining> {
        match site {
            None => Some(&self.own_draining),
            Some(peer) => self.peer(peer).map(|view| &view.draining),
        }
    }
}

impl Shard {
    /// Shard 0: whether the order is obeyed; if so, all shards do.
    pub(super) fn judge_drain(&mut self, now: Micros, ask: DrainAsk) -> Result<(), String> {
        let order = match ask {
            DrainAsk::Begin(order) => {
                self.may_drain(&order)?;
                Some(order)
            }
            DrainAsk::Resume(order) => Some(order),
            DrainAsk::Abort if self.cluster.as_ref().is_none_or(|cluster| cluster.drain.is_none()) => {
                return Err("this node does not drain".into());
            }
            DrainAsk::Abort => None,
        };
        let text = match &order {
            Some(order) => format!("draining: {} sessions a second are ended here", order.rate_per_s),
            None => "the drain is given up: this node serves again".to_owned(),
        };
        self.log(Level::Notice, None, text);
        self.tell_all(now, &Message::Drain { order });
        Ok(())
    }

    /// Somebody else must be able to take every user of this node.
    fn may_drain(&self, order: &DrainOrder) -> Result<(), String> {
        let Some(cluster) = &self.cluster else {
            return Err("this node is alone (no <mesh>): nobody could take its users".into());
        };
        if self.config.uplink.is_some() {
            return Err("this node is attached to a stock router (<uplink>), whose c2s is not its own to close".into());
        }
        let takes = |site: Site| site.is_some() && !cluster.drains(site);
        let peers = (0..).map(PeerId).zip(&cluster.peers);
        let ready = peers.filter(|(peer, view)| view.is_ready() && takes(Some(*peer)));
        let ready: Vec<PeerId> = ready.map(|(peer, _)| peer).collect();
        if ready.is_empty() {
            return Err("this is the last node in service: no other is ready to take its users".into());
        }
        let to = match &order.to {
            None => None,
            Some(name) => match cluster.peer_named(name).filter(|peer| ready.contains(peer)) {
                None => return Err(format!("{name} is no other node that is ready and in service")),
                peer => peer,
            },
        };
        for domain in self.clustered_domains() {
            let sites = self.sites(&domain);
            if !sites.iter().any(|(site, _)| takes(*site)) {
                return Err(format!("no other node in service has an sm for {domain}"));
            }
            if to.is_some() && !sites.iter().any(|(site, _)| *site == to) {
                let name = order.to.as_deref().unwrap_or_default();
                return Err(format!("{name} has no sm for {domain}"));
            }
        }
        Ok(())
    }

    fn clustered_domains(&self) -> Vec<Box<str>> {
        let clustered = self.names.iter().filter(|(_, name)| name.multi == Multi::To);
        clustered.map(|(key, _)| key.into()).collect()
    }

    /// Every shard: this node drains so, or no longer.
    pub(in crate::node) fn learn_drain(&mut self, now: Micros, order: Option<DrainOrder>) {
        let Some(cluster) = &mut self.cluster else { return };
        let to = order.as_ref().and_then(|order| order.to.clone());
        cluster.own_draining.set(now, order.is_some(), to.clone());
        let mut was_withdrawn = false;
        cluster.drain = match (cluster.drain.take(), order) {
            (Some(drain), Some(order)) => Some(Drain { order, ..drain }),
            (None, Some(order)) => Some(Drain::new(now, order, self.shards)),
            (former, None) => {
                was_withdrawn = former.is_some_and(|drain| drain.withdrawn);
                None
            }
        };
        let on = cluster.drain.is_some();
        self.post_all(&Note::Draining {
            on,
            to: to.as_deref().unwrap_or_default(),
        });
        if on {
            // Frames that come from now on find another exit; what this node's s2s has in hand it finishes.
            self.exits_lost(now, None);
        } else if was_withdrawn {
            self.advertise_domains(true);
        }
        self.wake_by(now);
    }

    /// Every shard: so many sessions are one shard's to end in its round.
    pub(in crate::node) fn drain_shared(&mut self, shard: ShardId, left: u64) {
        if let Some(drain) = self.cluster.as_mut().and_then(|cluster| cluster.drain.as_mut()) {
            drain.shares[usize::from(shard)] = left;
        }
    }

    /// A new peer of whom this node is told.
    pub(super) fn tell_of_drain(&mut self, peer: PeerId) {
        let own = self.cluster.as_ref().map(|cluster| &cluster.own_draining);
        if let Some(to) = own.filter(|own| own.on).map(|own| own.to.clone().unwrap_or_default()) {
            self.post_note(peer, &Note::Draining { on: true, to: &to });
        }
    }

    /// Every shard: another node drains, or no longer.
    pub(in crate::node) fn peer_drains(&mut self, now: Micros, peer: PeerId, on: bool, to: Option<Box<str>>) {
        let Some(cluster) = &mut self.cluster else { return };
        if let Some(view) = cluster.peers.get_mut(usize::from(peer.0)) {
            view.draining.set(now, on, to);
        }
    }

    /// Ends what is due. True while this node drains.
    pub(in crate::node) fn tick_drain(&mut self, now: Micros) -> bool {
        let shard = self.id;
        let Some(drain) = self.cluster.as_mut().and_then(|cluster| cluster.drain.as_mut()) else {
            return false;
        };
        let due = drain.due(now, shard).min(drain.left.len());
        let batch: Vec<_> = drain.left.drain(..due).collect();
        self.end_clients(now, batch);
        let Some(drain) = self.cluster.as_mut().and_then(|cluster| cluster.drain.as_mut()) else {
            return false;
        };
        if drain.left.is_empty() && now >= drain.next_round {
            drain.round = drain.round.saturating_add(1);
            drain.next_round = now + ROUND_US;
            let (last, withdrawn) = (drain.round > ROUNDS, drain.withdrawn);
            let here = self.clients_here();
            if last {
                self.end_clients(now, here);
            } else if let Some(drain) = self.cluster.as_mut().and_then(|cluster| cluster.drain.as_mut()) {
                let left = here.len() as u64;
                drain.left = here.into();
                drain.used = now;
                self.tell_all(now, &Message::DrainShare { left });
            }
            if last && !withdrawn {
                self.withdraw(now);
            }
        } else if !drain.left.is_empty() {
            drain.next_round = now + ROUND_US;
        }
        true
    }

    /// Every session of a c2s or an sm of this node that this shard knows the client of, and that is not ending.
    fn clients_here(&mut self) -> Vec<(SeatId, u32, Token)> {
        let mut here = Vec::new();
        let names = &self.names;
        let own_sm = |sm: SeatId| names.seat(sm).is_some_and(|view| view.peer.is_none());
        for (seat, state) in self.seats.iter_mut() {
            let abroad = state.abroad.is_some();
            let clients = state.clients.iter_mut();
            let concerned = clients.filter(|(_, client)| !client.ending && (!abroad || own_sm(client.sm)));
            here.extend(concerned.map(|(number, client)| (seat, number, client.token)));
        }
        here
    }

    fn end_clients(&mut self, now: Micros, clients: impl IntoIterator<Item = (SeatId, u32, Token)>) {
        let mut ended = 0;
        for (c2s, number, token) in clients {
            ended += u64::from(self.end_as_its_client(now, c2s, number, token));
        }
        self.counters.add(Counter::SessionsDrained, ended);
        if let Some(drain) = self.cluster.as_mut().and_then(|cluster| cluster.drain.as_mut()) {
            drain.ended += ended;
        }
    }

    /// What c2s sends when a client leaves. False when the session is over already.
    fn end_as_its_client(&mut self, now: Micros, c2s: SeatId, number: u32, token: Token) -> bool {
        let Some(state) = self.seats.get(c2s) else { return false };
        let client = state.clients.get(number, &token).filter(|client| !client.ending);
        let Some(sm) = client.and_then(|client| self.names.seat(client.sm)) else {
            return false;
        };
        let frame = session_end(&sm.id, &state.id, number, &token);
        let Ok(Frame::Route(route)) = header::read(&frame) else {
            return false;
        };
        let Some(payload) = &route.payload else { return false };
        self.observe_client(now, c2s, &frame, &route, payload);
        true
    }

    /// The end: c2s takes no more clients, and closes those that are still there.
    fn withdraw(&mut self, now: Micros) {
        if let Some(drain) = self.cluster.as_mut().and_then(|cluster| cluster.drain.as_mut()) {
            drain.withdrawn = true;
            let took_s = (now - drain.began) / 1_000_000;
            let text = format!("drained after {took_s} s, {} sessions ended by this shard", drain.ended);
            self.log(Level::Notice, None, text);
        }
        self.advertise_domains(false);
    }

    /// Tells the c2s of this shard that the domains are served, or not. What has not shown itself may be a c2s.
    fn advertise_domains(&mut self, served: bool) {
        let domains = self.clustered_domains();
        let listeners = self.seats.iter().filter(|(_, seat)| {
            let concerned = !matches!(seat.kind, SeatKind::Sm | SeatKind::S2s);
            concerned && seat.greeted && seat.abroad.is_none() && !seat.is_foreign()
        });
        let listeners: Vec<SeatId> = listeners.map(|(seat, _)| seat).collect();
        for seat in listeners {
            self.put(seat, |out| {
                for domain in &domains {
                    edit::advert(out, domain, !served);
                }
            });
        }
    }

    /// Whether a component here must not hear that a domain is served.
    pub(in crate::node) fn is_withdrawn(&self, name: &str, from: SeatKind) -> bool {
        let drain = self.cluster.as_ref().and_then(|cluster| cluster.drain.as_ref());
        drain.is_some_and(|drain| drain.withdrawn)
            && from != SeatKind::Sm
            && self.names.get(name).is_some_and(|(_, name)| name.multi == Multi::To)
    }

    /// How far this shard is.
    pub(in crate::node) fn report_drain(&self) -> Option<DrainReport> {
        let drain = self.cluster.as_ref()?.drain.as_ref()?;
        Some(DrainReport {
            rate_per_s: drain.order.rate_per_s,
            to: drain.order.to.as_deref().unwrap_or_default().to_owned(),
            began_us: drain.began,
            ended: drain.ended,
            left: drain.left.len() as u64,
            rounds_left: ROUNDS.saturating_sub(drain.round),
            done: drain.withdrawn,
        })
    }
}
