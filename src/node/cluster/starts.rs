//! Starts in a cluster: asked of the directory owner, placed by it, kept by the node of the c2s until answered.

use super::Place;
use crate::config::Placement;
use crate::jid;
use crate::node::Shard;
use crate::node::api::Micros;
use crate::node::lane::PeerState;
use crate::node::placement::domain_of;
use crate::table::rows::{Clock, Row};
use crate::table::users::{Held, Stage, Start, Waiting};
use crate::table::ways::{HOPS_MAX, Path};
use crate::table::{PeerId, SeatId};
use smallvec::SmallVec;

/// A node with an sm for a domain; `None`: this one.
pub(in crate::node) type Site = Option<PeerId>;

/// A start with so few hops left has been to a user's former owner, or comes from his present one.
const ASKED_HOPS: u8 = HOPS_MAX - 2;

/// How long another node may take with a start before somebody else is asked, microseconds.
const ASK_US: Micros = 3_000_000;

impl Shard {
    /// The owner's part: which node serves a user from now on. `None`: this one.
    fn choose_site(&self, bare: &str, start: &Start) -> Site {
        let domain = domain_of(bare);
        let sites = self.sites(domain);
        let wished = start.wish.and_then(|sm| self.names.seat(sm)).map(|view| view.peer);
        if let Some(wished) = wished.filter(|wished| sites.iter().any(|(site, _)| site == wished)) {
            return wished;
        }
        let near = self.names.seat(start.c2s).map(|view| view.peer);
        let spread = self.placement_of(domain) == Placement::Spread;
        if !spread
            && let Some(near) = near
            && sites.iter().any(|(site, _)| *site == near)
        {
            return near;
        }
        // Who logs in again at the c2s of a node that drains goes where that node wants him to.
        let wanted = near.and_then(|near| self.cluster.as_ref()?.drains_to(near));
        if let Some((site, _)) = sites.iter().find(|(_, node)| Some(&**node) == wanted) {
            return *site;
        }
        let key = self.cluster.as_ref().map(|cluster| cluster.key).unwrap_or_default();
        let chosen = jid::rendezvous(&key, bare, sites.iter().map(|(_, node)| &**node));
        chosen.and_then(|index| sites.get(index)).and_then(|(site, _)| *site)
    }

    fn placement_of(&self, domain: &str) -> Placement {
        let mesh = self.config.mesh.as_ref();
        let stated = mesh.and_then(|mesh| mesh.domains.iter().find(|(name, _)| name == domain));
        stated.map_or(Placement::default(), |(_, placement)| *placement)
    }

    /// The owner's decision about a user whom nobody serves. True when it is this node that takes him on.
    pub(in crate::node) fn take_on(&mut self, now: Micros, bare: &str) -> bool {
        if self.asks_former_owner(now, bare) {
            return false;
        }
        let first = self.users.get(bare).and_then(|user| {
            let mut starts = user.flux.as_ref()?.starts.iter();
            starts.find(|start| start.stage == Stage::Waiting)
        });
        let Some(peer) = first.and_then(|start| self.choose_site(bare, start)) else {
            self.claim_user(now, bare, Clock::default());
            return true;
        };
        if !self.wait_for_fences(now, bare, None) {
            let stamp = self
                .cluster
                .as_mut()
                .map_or(Clock::default(), |cluster| cluster.stamp(now));
            self.send_starts(now, bare, peer, stamp);
            self.held_abroad(now, bare);
        }
        false
    }

    /// A new owner lets a start go by way of the one before it, once: that one has its sm finish what it has in hand for
    /// the user, and knows where it placed him lately.
    fn asks_former_owner(&mut self, now: Micros, bare: &str) -> bool {
        let fresh = self
            .users
            .get(bare)
            .and_then(|user| user.flux.as_ref())
            .is_some_and(|flux| {
                let mut waiting = flux.starts.iter().filter(|start| start.stage == Stage::Waiting);
                waiting.all(|start| start.path.hops > ASKED_HOPS)
            });
        let Some(former) = self
            .former_owner(now, bare)
            .filter(|former| fresh && !self.is_stalled(*former))
        else {
            return false;
        };
        self.send_starts(now, bare, former, Clock::default());
        true
    }

    /// A user whom another node serves, or decides about: his starts go there, and then what waits for him.
    pub(in crate::node) fn settle_abroad(&mut self, now: Micros, bare: &str, peer: PeerId) {
        let Some(user) = self.users.get(bare) else { return };
        if !user.holds() && !user.wants_place() {
            return;
        }
        if self.wait_for_fences(now, bare, None) {
            return;
        }
        if self.starts_abroad(now, bare, peer) {
            return self.settle(now, bare);
        }
        self.held_abroad(now, bare);
    }

    /// A frame for such a user.
    pub(in crate::node) fn for_user_abroad(
        &mut self,
        now: Micros,
        bare: &str,
        peer: PeerId,
        source: SeatId,
        frame: &[u8],
        path: Path,
    ) {
        if self.users.get(bare).is_some_and(|user| user.holds()) || self.wait_for_fences(now, bare, None) {
            return self.hold(now, bare, source, frame, path);
        }
        if let Some(sender) = path.from {
            return self.send_astray_back(now, sender, bare, source, path.hops, frame);
        }
        if self.waits_for_turn(now, bare, Place::At(peer), source, path, frame) {
            return;
        }
        if let Some(cluster) = &mut self.cluster {
            let user = jid::lasting_hash(bare);
            cluster.ways.note(now, user, peer);
            if path.again {
                cluster.sent_on.note(now, user, peer);
            }
        }
        self.cross_to_user(now, peer, bare, source, path, frame);
    }

    /// The starts of a user whom another node serves, or places. True when he turns out to be this node's after all.
    pub(super) fn starts_abroad(&mut self, now: Micros, bare: &str, peer: PeerId) -> bool {
        if !self.users.get(bare).is_some_and(|user| user.wants_place()) {
            return false;
        }
        let asked = self
            .users
            .get(bare)
            .and_then(|user| user.flux.as_ref())
            .is_some_and(|flux| {
                let mut waiting = flux.starts.iter().filter(|start| start.stage == Stage::Waiting);
                waiting.any(|start| start.path.hops <= ASKED_HOPS)
            });
        let served = self
            .cluster
            .as_ref()
            .is_some_and(|cluster| cluster.rows.get(bare).is_some());
        let (to, stamp) = match self.directory_owner(bare) {
            // This node was the owner before, and knows what its successor may not.
            _ if asked && served && !self.is_stalled(peer) => {
                (peer, self.cluster.as_mut().map_or(Clock::default(), |c| c.stamp(now)))
            }
            // It knows better than a row that may be late.
            Place::At(owner) if !(asked && served || self.is_stalled(owner)) => (owner, Clock::default()),
            // A node that can't be reached never blocks a login: neither the owner nor who served the user before, who gives
            // way when he hears of the newer claim.
            _ if self.is_stalled(peer) => {
                if self.sites(domain_of(bare)).iter().any(|(site, _)| site.is_none()) {
                    self.claim_user(now, bare, Clock::default());
                    return true;
                }
                return false;
            }
            // Whom a node serves it goes on serving. It may just have given him back: then it does not keep the start, and
            // that comes back behind everything else that came too late.
            _ => (peer, Clock::default()),
        };
        self.send_starts(now, bare, to, stamp);
        false
    }

    /// Sends the starts that wait to another node: to be placed, or (with a stamp) to be served. Those of this node's own
    /// c2s are kept until they are answered.
    pub(super) fn send_starts(&mut self, now: Micros, bare: &str, to: PeerId, stamp: Clock) {
        let starts: SmallVec<[Start; 2]> = self.users.change(bare, |user| {
            let flux = user.flux();
            let mut sent = SmallVec::new();
            for start in flux.starts.iter_mut().filter(|start| start.stage == Stage::Waiting) {
                start.stage = Stage::Asked(to);
                sent.push(start.clone());
            }
            flux.starts
                .retain(|start| start.path.is_local() || !matches!(start.stage, Stage::Asked(_)));
            sent
        });
        if let Some(cluster) = self.cluster.as_mut().filter(|_| stamp != Clock::default()) {
            // So that whatever follows goes there, before that node has said a word.
            let sessions = cluster
                .rows
                .get(bare)
                .filter(|row| row.peer == to)
                .map(|row| row.sessions.clone())
                .unwrap_or_default();
            let row = Row {
                peer: to,
                clock: stamp,
                sessions,
            };
            cluster.rows.set(bare, row);
        }
        self.watch_asked(now, bare);
        for start in starts {
            let path = Path { stamp, ..start.path };
            self.cross_to_user(now, to, bare, start.c2s, path, &start.frame);
        }
    }

    /// If another node does not answer in time, somebody else is asked.
    pub(super) fn watch_asked(&mut self, now: Micros, bare: &str) {
        if let Some(cluster) = &mut self.cluster {
            cluster.asked.push_back((now + ASK_US, bare.into()));
        }
        self.wake_by(now + crate::node::TICK_US);
    }

    /// What waits for a user whom another node serves, apart from his starts.
    pub(super) fn held_abroad(&mut self, now: Micros, bare: &str) {
        let held = self.users.change(bare, |user| std::mem::take(&mut user.flux().held));
        for Held { source, path, what } in held {
            self.held_bytes -= what.byte_len();
            match what {
                Waiting::Frame(frame) => self.for_user(now, source, &frame, path),
                Waiting::Marker(marker) => self.marker_for(now, bare, marker),
            }
        }
    }

    fn is_stalled(&self, peer: PeerId) -> bool {
        let view = self.cluster.as_ref().and_then(|cluster| cluster.peer(peer));
        view.is_none_or(|view| view.state != PeerState::Ready)
    }

    /// Starts that `peer` was asked about (`None`: anybody who is not ready any more) are to be placed anew.
    pub(super) fn ask_elsewhere(&mut self, now: Micros, peer: Option<PeerId>) {
        let concerns = |stage: Stage| matches!(stage, Stage::Asked(asked) if peer.is_none_or(|peer| peer == asked));
        let waiting = self.users.keys_where(|user| {
            user.flux
                .as_ref()
                .is_some_and(|flux| flux.starts.iter().any(|start| concerns(start.stage)))
        });
        for bare in waiting {
            self.ask_again(now, &bare, concerns);
        }
    }

    fn ask_again(&mut self, now: Micros, bare: &str, concerns: impl Fn(Stage) -> bool) {
        self.users.change(bare, |user| {
            for start in user.flux().starts.iter_mut().filter(|start| concerns(start.stage)) {
                start.stage = Stage::Waiting;
            }
        });
        self.settle(now, bare);
    }

    /// Starts that nobody has answered: if the node that was to serve the user does not know of him, ask again. True when
    /// some are still out.
    pub(in crate::node) fn tick_asked(&mut self, now: Micros) -> bool {
        let mut late = Vec::new();
        let Some(cluster) = &mut self.cluster else { return false };
        while let Some((at, _)) = cluster.asked.front()
            && *at <= now
        {
            late.extend(cluster.asked.pop_front());
        }
        for (_, bare) in late {
            let out = |shard: &Shard| {
                shard.users.get(&bare).is_some_and(|user| {
                    user.flux
                        .as_ref()
                        .is_some_and(|flux| flux.starts.iter().any(|start| matches!(start.stage, Stage::Asked(_))))
                })
            };
            if !out(self) {
                continue;
            }
            let served = self
                .cluster
                .as_ref()
                .is_some_and(|cluster| cluster.rows.get(&bare).is_some());
            if !served {
                self.ask_again(now, &bare, |stage| matches!(stage, Stage::Asked(_)));
            }
            if out(self)
                && let Some(cluster) = &mut self.cluster
                && cluster.asked.back().is_none_or(|(_, last)| *last != bare)
            {
                cluster.asked.push_back((now + ASK_US, bare));
            }
        }
        self.cluster.as_ref().is_some_and(|cluster| !cluster.asked.is_empty())
    }
}
