//! Exits: which node's s2s talks to a foreign domain.
//!
//! The first node that needs a domain asks the domain's owner (as users have one), which gives it the exit, or says who
//! has it. Whoever has it tells all, so that everybody else sends straight there. Of two that have one the older keeps
//! it. A pin or the policy `nearest` goes before.

use super::message::Note;
use super::peers::PeerView;
use super::starts::Site;
use crate::config::ExitPolicy;
use crate::jid::{self, TableMap};
use crate::node::api::{Level, Micros};
use crate::node::counters::Counter;
use crate::node::lane::{Message, Verb};
use crate::node::{SELF, Shard};
use crate::table::image::bytes;
use crate::table::rows::Clock;
use crate::table::{PeerId, SeatId, SeatKind, ShardId};
use crate::wire::header::{self, Frame, PayloadKind, Route};
use serde::{Deserialize, Serialize};

/// How long the owner of a domain may take to answer, microseconds; and how often it (or its successor) is asked before
/// this node's own s2s takes what waits.
const ASK_US: Micros = 1_000_000;
const TRIES_MAX: u8 = 6;

/// An exit that nobody used for so long is given back, microseconds.
const LAPSE_US: Micros = 600_000_000;

/// Most foreign domains that one shard knows an exit of.
const EXITS_MAX: usize = 65_536;

/// The exits of one shard's slice of the foreign domains.
#[derive(Debug, Default)]
pub(super) struct Exits {
    pub(super) known: TableMap<Box<str>, Exit>,
    pub(super) asked: TableMap<Box<str>, Asked>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Exit {
    site: Site,
    clock: Clock,
    used: Micros,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Asked {
    until: Micros,
    tries: u8,
    held: Vec<HeldFrame>,
}

/// What waits, and its sender.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct HeldFrame(SeatId, #[serde(with = "bytes")] Box<[u8]>);

impl Asked {
    /// Bytes that wait.
    pub(super) fn held_bytes(&self) -> usize {
        self.held.iter().map(|HeldFrame(_, frame)| frame.len()).sum()
    }
}

impl Shard {
    /// A frame that no name here answers to, and that is no matter between c2s and sm: it leaves by an exit. False when
    /// this node stands alone.
    pub(in crate::node) fn leaves_by_exit(
        &mut self,
        now: Micros,
        source: SeatId,
        frame: &[u8],
        route: &Route<'_>,
    ) -> bool {
        let inside = route
            .payload
            .as_ref()
            .is_some_and(|payload| payload.kind == PayloadKind::Session || payload.c2s.is_some());
        if !self.has_peers() || inside || self.names.default_route() == Some(source) {
            return false;
        }
        let Some(domain) = route.to.and_then(|to| to.unescape()) else {
            return false;
        };
        let Some(domain) = jid::domain_key(&domain) else {
            return false;
        };
        if self.names.get(&domain).is_some() {
            return false;
        }
        let owner = self.owner(&domain);
        if owner == self.id {
            self.outside(now, &domain, source, frame);
        } else {
            self.sample_to_shard(source, owner);
            self.data[usize::from(owner)].push_for(Verb::Outside, source, &domain, frame);
        }
        true
    }

    /// The shard that owns a foreign domain: a frame for it.
    pub(in crate::node) fn outside(&mut self, now: Micros, domain: &str, source: SeatId, frame: &[u8]) {
        if let Some(site) = self.exit_of(now, domain) {
            return self.send_out(now, site, source, frame);
        }
        let asked = self
            .cluster
            .as_ref()
            .is_some_and(|cluster| cluster.exits.asked.contains_key(domain));
        if asked {
            return self.hold_for_exit(now, domain, source, frame);
        }
        match self.exit_owner(domain) {
            None => self.bounce(now, source, frame, "404"),
            Some(None) => {
                self.take_exit(now, domain, Clock::default());
                self.send_out(now, None, source, frame);
            }
            Some(Some(peer)) => {
                let until = now + ASK_US;
                if let Some(cluster) = &mut self.cluster {
                    let held = Vec::new();
                    cluster
                        .exits
                        .asked
                        .insert(domain.into(), Asked { until, tries: 1, held });
                }
                self.hold_for_exit(now, domain, source, frame);
                let home = self.home_of(peer);
                let domain = domain.into();
                self.tell(now, home, Message::ExitAskAbroad { peer, domain });
                self.wake_by(now + crate::node::TICK_US);
            }
        }
    }

    fn hold_for_exit(&mut self, now: Micros, domain: &str, source: SeatId, frame: &[u8]) {
        if !self.may_hold(frame.len()) {
            return self.bounce(now, source, frame, "503");
        }
        self.held_bytes += frame.len();
        self.count(Counter::HeldFrames);
        let asked = self
            .cluster
            .as_mut()
            .and_then(|cluster| cluster.exits.asked.get_mut(domain));
        if let Some(asked) = asked {
            asked.held.push(HeldFrame(source, frame.into()));
        }
    }

    fn release_for_exit(&mut self, now: Micros, domain: &str) {
        let asked = self
            .cluster
            .as_mut()
            .and_then(|cluster| cluster.exits.asked.remove(domain));
        for HeldFrame(source, frame) in asked.into_iter().flat_map(|asked| asked.held) {
            self.held_bytes -= frame.len();
            self.outside(now, domain, source, &frame);
        }
    }

    fn send_out(&mut self, now: Micros, site: Site, source: SeatId, frame: &[u8]) {
        match self.s2s_of(site) {
            Some(seat) if seat != source => self.hand(now, seat, source, frame),
            _ => self.bounce(now, source, frame, "404"),
        }
    }

    /// The s2s of a node.
    fn s2s_of(&self, site: Site) -> Option<SeatId> {
        match site {
            None => self.names.default_route(),
            Some(peer) => self
                .names
                .seats()
                .filter(|(_, view)| view.peer == Some(peer) && view.kind == SeatKind::S2s)
                .map(|(seat, _)| seat)
                .next(),
        }
    }

    /// Where a foreign domain's frames go, as far as is known.
    fn exit_of(&mut self, now: Micros, domain: &str) -> Option<Site> {
        let mesh = self.config.mesh.as_ref()?;
        let (own, pin) = (&mesh.node, mesh.exit_pins.iter().find(|(name, _)| name == domain));
        if let Some((_, node)) = pin {
            let site = match self.cluster.as_ref()?.peer_named(node) {
                _ if node == own => None,
                Some(peer) => Some(peer),
                None => return self.known_exit(now, domain),
            };
            if self.s2s_of(site).is_some() && !self.exit_drains(site) {
                return Some(site);
            }
        }
        if mesh.exits == ExitPolicy::Nearest && self.names.default_route().is_some() && !self.exit_drains(None) {
            return Some(None);
        }
        self.known_exit(now, domain)
    }

    fn known_exit(&mut self, now: Micros, domain: &str) -> Option<Site> {
        let site = self.cluster.as_ref()?.exits.known.get(domain)?.site;
        // Its s2s is gone: so is the exit, though its node may not have said so yet.
        self.s2s_of(site)?;
        self.cluster.as_mut()?.exits.known.get_mut(domain)?.used = now;
        Some(site)
    }

    /// The exit of a domain as far as it is known; asks nobody, and is no use of it.
    pub(in crate::node) fn exit_as_known(&self, domain: &str) -> Option<Site> {
        let site = self.cluster.as_ref()?.exits.known.get(domain)?.site;
        self.s2s_of(site).map(|_| site)
    }

    fn exit_drains(&self, site: Site) -> bool {
        self.cluster.as_ref().is_some_and(|cluster| cluster.drains(site))
    }

    /// The node that gives a domain's exit out: of those that have an s2s, and are in service if any is. `None`: nobody
    /// has one.
    fn exit_owner(&self, domain: &str) -> Option<Site> {
        let cluster = self.cluster.as_ref()?;
        let own = self.names.default_route().map(|_| (None, &*cluster.own));
        let others = self.names.seats().filter_map(|(_, view)| {
            let peer = view.peer.filter(|_| view.kind == SeatKind::S2s)?;
            let reached = cluster.peer(peer).is_some_and(PeerView::is_ready);
            reached.then(|| (Some(peer), cluster.name_of(peer)))
        });
        own.into_iter()
            .chain(others)
            .max_by_key(|(site, node)| {
                let weight = jid::rendezvous_weight(&cluster.key, domain, node);
                (!cluster.drains(*site), weight, *node)
            })
            .map(|(site, _)| site)
    }

    /// This node is the exit of a domain from now on, and says so to all.
    fn take_exit(&mut self, now: Micros, domain: &str, clock: Clock) {
        let Some(cluster) = &mut self.cluster else { return };
        let clock = if clock == Clock::default() {
            cluster.stamp(now)
        } else {
            clock
        };
        if cluster.exits.known.len() >= EXITS_MAX {
            return;
        }
        let exit = Exit {
            site: None,
            clock,
            used: now,
        };
        cluster.exits.known.insert(domain.into(), exit);
        self.log(Level::Info, None, format!("mesh: this node is the exit to {domain}"));
        self.tell_exit(now, domain, clock, true);
    }

    fn tell_exit(&mut self, now: Micros, domain: &str, clock: Clock, taken: bool) {
        for home in 0..self.shards {
            let message = Message::ExitOut {
                domain: domain.into(),
                clock,
                taken,
            };
            self.tell(now, home, message);
        }
    }

    /// A peer's home: what this node says of an exit.
    pub(in crate::node) fn exit_out(&mut self, domain: &str, clock: Clock, taken: bool) {
        self.post_all(&match taken {
            true => Note::Exit { domain, clock },
            false => Note::ExitGone { domain, clock },
        });
    }

    /// The owner of a domain is asked by another node.
    pub(in crate::node) fn exit_asked(&mut self, now: Micros, peer: PeerId, domain: &str) {
        let site = match self.known_exit(now, domain) {
            Some(site) => site,
            None if self.s2s_of(Some(peer)).is_some() && !self.exit_drains(Some(peer)) => {
                let Some(cluster) = &mut self.cluster else { return };
                let clock = cluster.stamp(now);
                let exit = Exit {
                    site: Some(peer),
                    clock,
                    used: now,
                };
                cluster.exits.known.insert(domain.into(), exit);
                Some(peer)
            }
            None => {
                self.take_exit(now, domain, Clock::default());
                None
            }
        };
        let (home, domain) = (self.home_of(peer), domain.into());
        self.tell(now, home, Message::ExitIsAbroad { peer, domain, site });
    }

    /// The answer of a domain's owner. `site`: `None` is this node.
    pub(in crate::node) fn exit_told(&mut self, now: Micros, domain: &str, site: Site) {
        let outdated = match site {
            Some(_) => self.s2s_of(site).is_none(),
            None => self.exit_drains(None) && self.exit_owner(domain).is_some_and(|owner| owner.is_some()),
        };
        if outdated {
            // The owner does not know yet that this one is gone, or drains: it is asked again in a while.
            return;
        }
        let known = self.known_exit(now, domain).is_some();
        let Some(cluster) = &mut self.cluster else { return };
        if !known {
            match site {
                None => self.take_exit(now, domain, Clock::default()),
                Some(_) => {
                    let exit = Exit {
                        site,
                        clock: Clock::default(),
                        used: now,
                    };
                    cluster.exits.known.insert(domain.into(), exit);
                }
            }
        }
        self.release_for_exit(now, domain);
    }

    /// Another node says that it is the exit of a domain, or no longer.
    pub(in crate::node) fn exit_in(&mut self, now: Micros, peer: PeerId, domain: &str, clock: Clock, taken: bool) {
        let Some(cluster) = &mut self.cluster else { return };
        cluster.witness(clock);
        let known = cluster.exits.known.get(domain).copied();
        if !taken {
            if known.is_some_and(|exit| exit.site == Some(peer)) {
                cluster.exits.known.remove(domain);
            }
            return;
        }
        let older = known.is_none_or(|exit| match exit.site {
            None => (clock, cluster.name_of(peer)) < (exit.clock, &*cluster.own),
            Some(other) => other == peer || exit.clock == Clock::default() || clock < exit.clock,
        });
        if older && cluster.exits.known.len() < EXITS_MAX {
            let exit = Exit {
                site: Some(peer),
                clock,
                used: now,
            };
            cluster.exits.known.insert(domain.into(), exit);
            if known.is_some_and(|exit| exit.site.is_none()) {
                self.tell_exit(now, domain, clock, false);
            }
        }
        self.release_for_exit(now, domain);
    }

    /// The exits that this node has, for a new peer.
    pub(super) fn own_exits(&self) -> Vec<(Box<str>, Clock)> {
        let Some(cluster) = &self.cluster else {
            return Vec::new();
        };
        let own = cluster.exits.known.iter().filter(|(_, exit)| exit.site.is_none());
        own.map(|(domain, exit)| (domain.clone(), exit.clock)).collect()
    }

    /// A node's s2s is gone, or the node itself (`site`): its exits are free.
    pub(in crate::node) fn exits_lost(&mut self, now: Micros, site: Site) {
        let Some(cluster) = &mut self.cluster else { return };
        let lost: Vec<(Box<str>, Exit)> = cluster.exits.known.extract_if(|_, exit| exit.site == site).collect();
        for (domain, exit) in lost.into_iter().filter(|_| site.is_none()) {
            self.tell_exit(now, &domain, exit.clock, false);
        }
        let waiting: Vec<Box<str>> = self
            .cluster
            .iter()
            .flat_map(|cluster| cluster.exits.asked.keys().cloned())
            .collect();
        for domain in waiting {
            self.release_for_exit(now, &domain);
        }
    }

    /// What waits too long for its exit goes by this node's own; exits that nobody uses are given back. True when
    /// something waits.
    pub(in crate::node) fn tick_exits(&mut self, now: Micros) -> bool {
        let Some(cluster) = &mut self.cluster else { return false };
        let late: Vec<Box<str>> = cluster
            .exits
            .asked
            .iter()
            .filter(|(_, asked)| asked.until <= now)
            .map(|(domain, _)| domain.clone())
            .collect();
        let idle: Vec<(Box<str>, Exit)> = cluster
            .exits
            .known
            .extract_if(|_, exit| exit.used + LAPSE_US <= now)
            .collect();
        for (domain, exit) in idle.into_iter().filter(|(_, exit)| exit.site.is_none()) {
            self.tell_exit(now, &domain, exit.clock, false);
        }
        for domain in late {
            if self.asks_again(now, &domain) {
                continue;
            }
            if self.names.default_route().is_some() {
                self.take_exit(now, &domain, Clock::default());
                self.release_for_exit(now, &domain);
            } else if let Some(asked) = self.cluster.as_mut().and_then(|c| c.exits.asked.remove(&domain)) {
                for HeldFrame(source, frame) in asked.held {
                    self.held_bytes -= frame.len();
                    self.bounce(now, source, &frame, "404");
                }
            }
        }
        self.cluster
            .as_ref()
            .is_some_and(|cluster| !cluster.exits.asked.is_empty())
    }

    fn asks_again(&mut self, now: Micros, domain: &str) -> bool {
        let asked = self
            .cluster
            .as_mut()
            .and_then(|cluster| cluster.exits.asked.get_mut(domain));
        let Some(asked) = asked.filter(|asked| asked.tries < TRIES_MAX) else {
            return false;
        };
        asked.tries += 1;
        asked.until = now + ASK_US;
        if self.exit_of(now, domain).is_some() {
            self.release_for_exit(now, domain);
            return true;
        }
        let Some(Some(peer)) = self.exit_owner(domain) else {
            return false;
        };
        let (home, domain) = (self.home_of(peer), domain.into());
        self.tell(now, home, Message::ExitAskAbroad { peer, domain });
        true
    }

    /// A frame that was under way to a node that died: it was to leave there.
    pub(super) fn was_leaving(&self, frame: &[u8]) -> bool {
        let Ok(Frame::Route(route)) = header::read(frame) else {
            return false;
        };
        let inside = route
            .payload
            .as_ref()
            .is_some_and(|payload| payload.kind == PayloadKind::Session || payload.c2s.is_some());
        let known = route.to.is_some_and(|to| self.names.find(to).is_some());
        !inside && !known
    }

    /// The shard that owns a foreign domain.
    pub(super) fn exit_shard(&self, domain: &str) -> ShardId {
        self.owner(domain)
    }

    /// Routes again what was to leave by a node that died.
    pub(super) fn leaves_again(&mut self, now: Micros, source: SeatId, frame: &[u8]) {
        if let Ok(Frame::Route(route)) = header::read(frame)
            && source != SELF
        {
            self.route_again(now, source, frame, &route);
        }
    }
}
