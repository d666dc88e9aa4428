//! The owner of a user: which sm serves him, and what must wait while that is in flight.
//!
//! One rule keeps a roster whole: while anything ties a user to an sm (a session, ghosts included, or a start on its
//! way), everything of his goes there. The one that keeps an offline queue whole is [`fencing`](super::fencing)'s.

use super::Shard;
use super::api::Micros;
use super::cluster::Place;
use super::counters::Counter;
use super::lane::Said;
use super::observe::{is_request, token};
use crate::jid;
use crate::table::names::Multi;
use crate::table::rows::Clock;
use crate::table::users::{Held, Stage, Start, Wait, Waiting};
use crate::table::ways::{HOPS_MAX, Path};
use crate::table::{SeatId, SeatKind};
use crate::wire::header::{self, Frame, Payload, PayloadKind, Route};
use smallvec::SmallVec;

/// Most starts of one user in flight: resources of one person.
const STARTS_PER_USER_MAX: usize = 256;

impl Shard {
    /// A frame for a user of this slice, from another shard.
    pub(super) fn for_user(&mut self, now: Micros, source: SeatId, frame: &[u8], path: Path) {
        let Ok(Frame::Route(route)) = header::read(frame) else {
            return;
        };
        let address = route.payload.as_ref().and_then(|payload| match payload.kind {
            PayloadKind::Session => payload.target.or(payload.to),
            _ => payload.to,
        });
        let Some(jid) = address.and_then(|value| value.unescape()) else {
            return;
        };
        if let Some(bare) = jid::bare_key(&jid) {
            self.for_user_with(now, source, frame, &route, &bare, path);
        }
    }

    /// A stanza for a user of this slice, read by another shard: where nothing but his sm matters it is not read again.
    pub(super) fn for_user_said(&mut self, now: Micros, source: SeatId, frame: &[u8], said: Said) {
        let user = said.bare(frame).and_then(|bare| self.users.get(bare));
        let sm = user
            .filter(|user| user.is_tied() && !user.holds() && (user.is_available() || !said.presence))
            .filter(|user| self.expected_return(now, Some(user)).is_none())
            .and_then(|user| user.sm);
        let redirects = self.names.seat(source).is_none_or(|view| view.redirects);
        match sm.filter(|_| !redirects && self.cluster.is_none()) {
            Some(sm) => self.hand_stanza(now, sm, source, frame),
            None => self.for_user(now, source, frame, Path::LOCAL),
        }
    }

    /// A frame for a user of this slice.
    pub(super) fn for_user_with(
        &mut self,
        now: Micros,
        source: SeatId,
        frame: &[u8],
        route: &Route<'_>,
        bare: &str,
        path: Path,
    ) {
        let Some(payload) = &route.payload else { return };
        if payload.kind == PayloadKind::Session && is_request(payload) {
            return self.request(now, source, frame, route, bare, path);
        }
        self.note_redirect(now, source, route, bare);
        if self.cluster.is_some() {
            if let Some(sender) = path.from.filter(|sender| self.is_astray(*sender, bare)) {
                return self.send_astray_back(now, sender, bare, source, path.hops, frame);
            }
            let place = self.place(bare);
            if let Place::At(peer) = place {
                return self.for_user_abroad(now, bare, peer, source, frame, path);
            }
            let holds = self.users.get(bare).is_some_and(|user| user.holds());
            if !holds && self.waits_for_turn(now, bare, place, source, path, frame) {
                return;
            }
            self.note_presence(payload, bare);
            self.note_moved(now, payload);
        }
        let user = self.users.get(bare);
        if sm_would_drop(
            payload,
            user.is_some_and(|user| user.is_available()),
            user.is_some_and(|u| u.is_tied()),
        ) {
            return self.count(Counter::DropPresence);
        }
        let older = self.expected_return(now, user).filter(|_| !path.again);
        match (user, older) {
            // What newer ones wait for goes on.
            (Some(user), _) if user.holds() && !(path.again && user.awaits_older()) => {
                self.hold(now, bare, source, frame, path);
            }
            (_, Some(of)) => {
                self.wait_for_return(now, bare, of);
                self.hold(now, bare, source, frame, path);
            }
            (Some(user), _) if user.is_tied() => match user.sm {
                Some(sm) => self.hand_with(now, sm, source, frame, Some(route)),
                None => self.bounce(now, source, frame, "404"),
            },
            _ => self.for_offline_user(now, source, frame, bare, path),
        }
    }

    /// `start` and `create`: kept until answered, so that it can be placed again.
    fn request(&mut self, now: Micros, c2s: SeatId, frame: &[u8], route: &Route<'_>, bare: &str, path: Path) {
        let Some(payload) = &route.payload else { return };
        let pending = self
            .users
            .get(bare)
            .and_then(|user| user.flux.as_ref())
            .map_or(0, |flux| flux.starts.len());
        let Some(id) = payload.id.and_then(token).filter(|_| pending < STARTS_PER_USER_MAX) else {
            self.count(Counter::StartsRefused);
            return self.bounce(now, c2s, frame, "503");
        };
        let target = payload.target.and_then(|target| target.unescape());
        let placed = path.stamp != Clock::default();
        let path = Path {
            hops: path.hops.min(HOPS_MAX),
            ..path
        };
        // Of two claims to a user that with the newest start is to win.
        if placed || self.users.get(bare).is_some_and(|user| user.claim != Clock::default()) {
            self.claim_user(now, bare, path.stamp);
        }
        let start = Start {
            c2s,
            id,
            resource: resource_of(target.as_deref().unwrap_or_default()).into(),
            frame: frame.into(),
            stage: Stage::Waiting,
            path,
            wish: self.wished_sm(route, path),
        };
        self.users.change(bare, |user| {
            let flux = user.flux();
            match flux.starts.iter_mut().find(|known| known.c2s == c2s && known.id == id) {
                // This node asked the owner, who says: serve him yourself. Or it is asked once more.
                Some(known) if (placed || !path.is_local()) && matches!(known.stage, Stage::Asked(_)) => {
                    known.stage = Stage::Waiting;
                    known.path = path;
                }
                Some(_) => {}
                None => flux.starts.push(start),
            }
            // He stays: what waited for his end has nothing to wait for.
            if flux.wait.is_some_and(|(wait, _)| wait == Wait::Ended) {
                flux.wait = None;
            }
        });
        self.settle(now, bare);
    }

    fn for_offline_user(&mut self, now: Micros, source: SeatId, frame: &[u8], bare: &str, path: Path) {
        let Some(duty) = self.duty(bare) else {
            return self.bounce(now, source, frame, "404");
        };
        if self.wait_for_other_sm(now, bare, Some(duty)) {
            return self.hold(now, bare, source, frame, path);
        }
        self.touch(bare, duty);
        self.hand(now, duty, source, frame);
    }

    /// Sends on what can be sent on: starts first, then what was held, all in order.
    pub(super) fn settle(&mut self, now: Micros, bare: &str) {
        self.review_redirects(now, bare);
        self.turn_may_end(now, bare);
        let Some(user) = self.users.get(bare) else { return };
        if user.wait().is_some() {
            return;
        }
        let untold = user.flux.as_ref().is_some_and(|flux| !flux.untold.is_empty());
        if untold && self.tell_of_lost(now, bare) {
            return;
        }
        match self.place(bare) {
            Place::Here => self.settle_here(now, bare),
            Place::At(peer) => self.settle_abroad(now, bare, peer),
        }
        self.release_claim(now, bare);
    }

    fn settle_here(&mut self, now: Micros, bare: &str) {
        let Some(user) = self.users.get(bare) else { return };
        let has_start = user.wants_place();
        if user.flux.as_ref().is_none_or(|flux| flux.held.is_empty()) && !has_start {
            return;
        }
        if has_start && self.cluster.is_some() && user.claim == Clock::default() && !self.take_on(now, bare) {
            return;
        }
        let Some(user) = self.users.get(bare) else { return };
        let tied_to = user.sm.filter(|sm| user.is_tied() && self.names.seat(*sm).is_some());
        let target = match tied_to {
            Some(sm) => Some(sm),
            None if has_start => self.wish(bare).or_else(|| self.least_loaded(bare)),
            None => self.duty(bare),
        };
        let Some(target) = target else {
            return self.give_up(now, bare);
        };
        if self.awaits_return(now, bare) || (tied_to.is_none() && self.wait_for_other_sm(now, bare, Some(target))) {
            return;
        }
        if has_start && self.recalls(now, bare) {
            return;
        }
        let (starts, held) = self.users.change(bare, |user| {
            let flux = user.flux();
            let mut starts = Vec::new();
            for start in flux.starts.iter_mut().filter(|start| start.stage == Stage::Waiting) {
                start.stage = Stage::Sent;
                starts.push((start.c2s, start.frame.clone()));
            }
            let held = std::mem::take(&mut flux.held);
            if !starts.is_empty() {
                user.sm = Some(target);
            }
            (starts, held)
        });
        let online = tied_to.is_some() || !starts.is_empty();
        for (c2s, frame) in starts {
            self.hand(now, target, c2s, &frame);
        }
        if !online && !held.is_empty() {
            self.touch(bare, target);
        }
        self.release(now, bare, held, target);
    }

    fn release(&mut self, now: Micros, bare: &str, held: impl IntoIterator<Item = Held>, target: SeatId) {
        for Held { source, path, what } in held {
            self.held_bytes -= what.byte_len();
            match what {
                Waiting::Frame(frame) if self.waits_for_turn(now, bare, Place::Here, source, path, &frame) => {}
                Waiting::Frame(frame) => self.hand(now, target, source, &frame),
                Waiting::Marker(marker) => self.marker_arrived(now, bare, marker),
            }
        }
    }

    /// No sm serves the domain: nothing of this user can go on.
    fn give_up(&mut self, now: Micros, bare: &str) {
        if self.pass_on(now, bare) {
            return self.settle(now, bare);
        }
        let (starts, held) = self.users.change(bare, |user| {
            user.sm = None;
            let flux = user.flux();
            (std::mem::take(&mut flux.starts), std::mem::take(&mut flux.held))
        });
        for start in starts {
            self.count(Counter::StartsRefused);
            self.bounce(now, start.c2s, &start.frame, "404");
        }
        for Held { source, what, .. } in held {
            self.held_bytes -= what.byte_len();
            match what {
                Waiting::Frame(frame) => self.bounce(now, source, &frame, "404"),
                Waiting::Marker(marker) => self.marker_arrived(now, bare, marker),
            }
        }
    }

    pub(super) fn may_hold(&self, bytes: usize) -> bool {
        (self.held_bytes + bytes) as u64 <= self.config.queues.held_bytes / u64::from(self.shards)
    }

    /// A frame that is to wait, counted; `None` when there is no room: it went back.
    pub(super) fn make_held(&mut self, now: Micros, source: SeatId, path: Path, frame: &[u8]) -> Option<Held> {
        if !self.may_hold(frame.len()) {
            self.bounce(now, source, frame, "503");
            return None;
        }
        self.held_bytes += frame.len();
        self.count(Counter::HeldFrames);
        Some(Held {
            source,
            path,
            what: Waiting::Frame(frame.into()),
        })
    }

    pub(super) fn hold(&mut self, now: Micros, bare: &str, source: SeatId, frame: &[u8], path: Path) {
        let Some(held) = self.make_held(now, source, path, frame) else {
            return;
        };
        self.users.change(bare, |user| {
            let flux = user.flux();
            // What waited for a lost component goes before anything newer.
            let at = match path.again {
                true => flux.held.partition_point(|held| held.path.again),
                false => flux.held.len(),
            };
            flux.held.insert(at, held);
        });
    }

    pub(super) fn holders(&self, bare: &str) -> SmallVec<[SeatId; 2]> {
        self.names
            .get(domain_of(bare))
            .map(|(_, name)| name.holders.clone())
            .unwrap_or_default()
    }

    /// The sm of the user's domain that are connected here.
    pub(super) fn own_holders(&self, bare: &str) -> SmallVec<[SeatId; 2]> {
        let own = |seat: &SeatId| self.names.seat(*seat).is_some_and(|view| view.peer.is_none());
        self.holders(bare).into_iter().filter(own).collect()
    }

    /// The sm that works for a user without a session: a fixed function of his bare JID and the sm of his domain.
    pub(super) fn duty(&self, bare: &str) -> Option<SeatId> {
        let own = self.own_holders(bare);
        if let [only] = own[..] {
            return Some(only);
        }
        let ids = own.iter().filter_map(|sm| self.names.seat(*sm)).map(|view| &*view.id);
        own.get(jid::rendezvous(&jid::ClusterKey::default(), bare, ids)?)
            .copied()
    }

    /// The sm whose id stands in the `to` of a start: a filter's redirect, as a rule. It is obeyed as far as one sm for
    /// all sessions of a user allows.
    fn wished_sm(&self, route: &Route<'_>, path: Path) -> Option<SeatId> {
        let to = route.to?.unescape()?;
        let key = jid::domain_key(&to)?;
        let at_home = self.id_at_home(&key);
        let (_, name) = self.names.get(at_home.unwrap_or(&key))?;
        let (sm, view) = (name.holders[0], self.names.seat(name.holders[0])?);
        // Each node has its own `sm`: from elsewhere only the long form tells which is meant.
        let sure = path.is_local() || at_home.is_some() || view.peer.is_some();
        (sure && name.multi == Multi::No && view.kind == SeatKind::Sm).then_some(sm)
    }

    /// The sm that a start of this user is to go to, if it is connected here.
    fn wish(&self, bare: &str) -> Option<SeatId> {
        let starts = &self.users.get(bare)?.flux.as_ref()?.starts;
        let mut waiting = starts.iter().filter(|start| start.stage == Stage::Waiting);
        let wish = waiting.find_map(|start| start.wish)?;
        self.names.seat(wish)?.peer.is_none().then_some(wish)
    }

    pub(super) fn least_loaded(&self, bare: &str) -> Option<SeatId> {
        self.live_first(&self.own_holders(bare))
            .into_iter()
            .min_by_key(|sm| self.users.load(*sm))
    }

    /// The holders whose link is there; all of them when none has one (they may come back in time).
    fn live_first(&self, holders: &[SeatId]) -> SmallVec<[SeatId; 4]> {
        let live: SmallVec<[SeatId; 4]> = holders
            .iter()
            .copied()
            .filter(|sm| self.names.seat(*sm).is_some_and(|view| view.live))
            .collect();
        if live.is_empty() {
            holders.iter().copied().collect()
        } else {
            live
        }
    }
}

/// The resource of a full JID, prepared.
pub(super) fn resource_of(jid: &str) -> &str {
    jid::JidRef::parse(jid).and_then(|jid| jid.resource).unwrap_or_default()
}

/// The domain of a bare JID's key.
pub(super) fn domain_of(bare: &str) -> &str {
    bare.split_once('@').map_or(bare, |(_, domain)| domain)
}

/// sm throws away presence broadcasts to a user who has no available session, but at the price of a whole message.
/// Probes, subscriptions, errors and types it does not know it answers or stores.
fn sm_would_drop(payload: &Payload<'_>, available: bool, tied: bool) -> bool {
    if payload.kind != PayloadKind::Presence || available {
        return false;
    }
    let broadcast = matches!(payload.kind_attr.map(|kind| kind.0), None | Some(b"unavailable"));
    let to_bare = payload.to.is_some_and(|to| !to.0.contains(&b'/'));
    broadcast && (to_bare || !tied)
}
