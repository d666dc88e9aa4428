//! The owner of a user: which sm serves him, and what must wait while that is in flight.
//!
//! One rule keeps an offline queue whole: before the work of a user goes to another sm than the one that last worked
//! for him, that sm has answered a fence behind it. One rule keeps a roster whole: while anything ties a user to an sm
//! (a session, ghosts included, or a start on its way), everything of his goes there.

use super::api::{Level, Micros};
use super::cluster::Place;
use super::counters::Counter;
use super::farewell::full_hash;
use super::forward::{FENCE_PREFIX, is_request, token};
use super::lane::{Message, SessionKey};
use super::{SELF, Shard, TICK_US};
use crate::jid;
use crate::table::fence::Need;
use crate::table::names::Multi;
use crate::table::rows::Clock;
use crate::table::users::{Held, Session, Stage, Start, Wait, Waiting};
use crate::table::ways::Path;
use crate::table::{SeatId, SeatKind, Token};
use crate::wire::edit;
use crate::wire::header::{self, Frame, Payload, PayloadKind, Route};
use smallvec::SmallVec;

/// The longest that a user's frames wait for a fence, an `ended`, or his contacts being told. Then they go on: late is
/// worse than out of order. Microseconds.
const WAIT_US: Micros = 5_000_000;

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
        if self.cluster.is_some() {
            let place = self.place(bare);
            if let Place::At(peer) = place {
                return self.for_user_abroad(now, bare, peer, source, frame, path);
            }
            if self.waits_for_turn(now, bare, place, source, path, frame) {
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
        match user {
            Some(user) if user.holds() => self.hold(now, bare, source, frame, path),
            Some(user) if user.is_tied() => match user.sm {
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
        if path.stamp != Clock::default() {
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
        let placed = path.stamp != Clock::default();
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
        if self.wait_for_fences(now, bare, Some(duty)) {
            return self.hold(now, bare, source, frame, path);
        }
        self.touch(bare, duty);
        self.hand(now, duty, source, frame);
    }

    /// Sends on what can be sent on: starts first, then what was held, all in order.
    pub(super) fn settle(&mut self, now: Micros, bare: &str) {
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
        if tied_to.is_none() && self.wait_for_fences(now, bare, Some(target)) {
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
        self.release(now, held, target);
    }

    fn release(&mut self, now: Micros, held: impl IntoIterator<Item = Held>, target: SeatId) {
        for Held { source, what, .. } in held {
            self.held_bytes -= what.byte_len();
            match what {
                Waiting::Frame(frame) => self.hand(now, target, source, &frame),
                Waiting::Marker(marker) => self.marker_arrived(now, marker),
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
                Waiting::Marker(marker) => self.marker_arrived(now, marker),
            }
        }
    }

    pub(super) fn may_hold(&self, bytes: usize) -> bool {
        (self.held_bytes + bytes) as u64 <= self.config.queues.held_bytes / u64::from(self.shards)
    }

    pub(super) fn hold(&mut self, now: Micros, bare: &str, source: SeatId, frame: &[u8], path: Path) {
        if !self.may_hold(frame.len()) {
            return self.bounce(now, source, frame, "503");
        }
        self.held_bytes += frame.len();
        self.count(Counter::HeldFrames);
        self.users.change(bare, |user| {
            let flux = user.flux();
            let held = Held {
                source,
                path,
                what: Waiting::Frame(frame.into()),
            };
            // What waited for a lost component goes before anything newer.
            let at = match path.again {
                true => flux.held.partition_point(|held| held.path.again),
                false => flux.held.len(),
            };
            flux.held.insert(at, held);
        });
    }

    /// Makes the user wait until every other sm of his domain than `target` is done with him, as far as this node gave it
    /// anything to do. False when none has.
    pub(super) fn wait_for_fences(&mut self, now: Micros, bare: &str, target: Option<SeatId>) -> bool {
        if let Some(sm) = self.returning.first().copied() {
            self.fenced.entry(sm).or_default().push(bare.into());
            self.make_wait(now, bare, Wait::Return { sm });
            return true;
        }
        let holders = self.holders(bare);
        if holders.len() < 2 && self.fences.is_empty() {
            return false;
        }
        let hash = jid::table_hash(bare);
        for sm in holders.into_iter().filter(|sm| Some(*sm) != target) {
            let Some(fences) = self.fences.get_mut(&sm) else {
                continue;
            };
            let number = match fences.need(hash) {
                Need::Nothing => continue,
                Need::Flying(number) | Need::After(number) => number,
                Need::Send(number) => {
                    self.send_fence(now, sm, number, domain_of(bare));
                    number
                }
            };
            self.fenced.entry(sm).or_default().push(bare.into());
            self.make_wait(now, bare, Wait::Fence { sm, number });
            return true;
        }
        false
    }

    pub(super) fn make_wait(&mut self, now: Micros, bare: &str, wait: Wait) {
        self.users
            .change(bare, |user| user.flux().wait = Some((wait, now + WAIT_US)));
        self.waiting.push_back((now + WAIT_US, bare.into()));
        self.wake_by(now + TICK_US);
    }

    pub(super) fn send_fence(&mut self, now: Micros, sm: SeatId, number: u64, domain: &str) {
        self.count(Counter::Fences);
        let Some(id) = self.names.seat(sm).map(|view| view.id.clone()) else {
            return;
        };
        let mut frame = Vec::new();
        let question = format!("{FENCE_PREFIX}{}.{number}", self.id);
        edit::iq_ping(&mut frame, &id, self.names.own(), domain, self.names.own(), &question);
        self.hand(now, sm, SELF, &frame);
    }

    /// An sm answered a fence: those who waited for it may go on.
    pub(super) fn fence_done(&mut self, now: Micros, sm: SeatId, number: u64) {
        let Some(fences) = self.fences.get_mut(&sm) else { return };
        if fences.done(number) {
            self.unfence(now, sm, |wait| wait == Wait::Fence { sm, number });
        }
    }

    /// All that waited for a lost sm has come back here: it goes on, and the newer behind it.
    pub(super) fn queue_returned(&mut self, now: Micros, sm: SeatId) {
        self.returning.retain(|other| *other != sm);
        self.unfence(now, sm, |wait| wait == Wait::Return { sm });
    }

    fn unfence(&mut self, now: Micros, sm: SeatId, which: impl Fn(Wait) -> bool) {
        let Some(waiting) = self.fenced.remove(&sm) else { return };
        let mut others = Vec::new();
        for bare in waiting {
            match self.users.get(&bare).and_then(|user| user.wait()) {
                Some(wait) if which(wait) => {
                    self.users.change(&bare, |user| user.flux().wait = None);
                    self.settle(now, &bare);
                }
                Some(Wait::Fence { sm: at, .. } | Wait::Return { sm: at }) if at == sm => others.push(bare),
                _ => {}
            }
        }
        if !others.is_empty() {
            self.fenced.entry(sm).or_default().append(&mut others);
        }
    }

    pub(super) fn touch(&mut self, bare: &str, sm: SeatId) {
        if self.holders(bare).len() < 2 && !self.has_peers() {
            return;
        }
        let fences = self.fences.entry(sm).or_default();
        fences.touch(jid::table_hash(bare));
        if fences.is_untidy() {
            let number = fences.send();
            self.send_fence(0, sm, number, domain_of(bare));
        }
    }

    fn holders(&self, bare: &str) -> SmallVec<[SeatId; 2]> {
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

    /// `started` passed on its way to a c2s. The control lane may bring this before data that was sent earlier; that
    /// data then goes to the sm that holds the session already.
    pub(super) fn register(&mut self, now: Micros, bare: &str, sm: SeatId, request: Option<Token>, session: Session) {
        if self.names.seat(sm).is_none() {
            // The news that the sm is gone overtook its last words: nobody else will end this session.
            let key = SessionKey {
                c2s: session.c2s,
                number: session.number,
                token: session.token,
            };
            if let Some(home) = self.names.seat(session.c2s).map(|view| view.home) {
                self.tell(now, home, Message::EndClient { key, restarted: false });
            }
            return;
        }
        if !self.is_registered_here(now, bare, sm, request, &session) {
            return;
        }
        self.users.change(bare, |user| {
            if let Some(flux) = &mut user.flux {
                flux.starts
                    .retain(|start| !(start.c2s == session.c2s && Some(start.id) == request));
            }
            user.sessions
                .retain(|old| !(old.c2s == session.c2s && old.number == session.number && old.token == session.token));
            user.sm = Some(sm);
            user.sessions.push(session);
        });
        self.announce(now, bare);
        self.settle(now, bare);
    }

    /// `ended` or `replaced` passed, or the session is lost.
    pub(super) fn unregister(&mut self, now: Micros, bare: &str, key: SessionKey) {
        let Some(sm) = self.users.get(bare).and_then(|user| user.sm) else {
            return;
        };
        self.users.change(bare, |user| {
            user.sessions
                .retain(|s| !(s.c2s == key.c2s && s.number == key.number && s.token == key.token));
            if user.sessions.is_empty()
                && let Some(flux) = &mut user.flux
                && flux.wait.is_some_and(|(wait, _)| wait == Wait::Ended)
            {
                flux.wait = None;
            }
        });
        if self.users.get(bare).is_none_or(|user| !user.is_tied()) {
            // Frames that passed before this sm handled the end are worked on without a session.
            self.touch(bare, sm);
        }
        self.announce(now, bare);
        self.settle(now, bare);
    }

    /// `end` passed on its way to the sm.
    pub(super) fn session_ending(&mut self, now: Micros, bare: &str, key: SessionKey) {
        if self.users.get(bare).is_none() {
            return;
        }
        let leaving = self.users.change(bare, |user| {
            if let Some(session) = user.session_mut(key.c2s, key.number, &key.token) {
                session.ending = true;
                session.available = false;
            }
            user.is_leaving() && user.wait().is_none()
        });
        self.announce(now, bare);
        if leaving && self.holders(bare).len() > 1 {
            self.make_wait(now, bare, Wait::Ended);
        }
    }

    /// Presence without `to` passed on its way from a client to his sm.
    pub(super) fn presence(&mut self, now: Micros, bare: &str, key: SessionKey, priority: Option<i8>) {
        if self.users.get(bare).is_none() {
            return;
        }
        self.users.change(bare, |user| {
            if let Some(session) = user.session_mut(key.c2s, key.number, &key.token) {
                session.available = priority.is_some();
                session.shown |= session.available;
                session.priority = priority.unwrap_or(0);
            }
        });
        self.announce(now, bare);
    }

    /// A `start` or `create` was answered otherwise than by `started`.
    pub(super) fn start_done(&mut self, now: Micros, bare: &str, c2s: SeatId, request: Token) {
        let Some(sm) = self.users.get(bare).map(|user| user.sm) else {
            return;
        };
        self.users.change(bare, |user| {
            user.flux()
                .starts
                .retain(|start| !(start.c2s == c2s && start.id == request));
        });
        if let Some(sm) = sm
            && self.users.get(bare).is_none_or(|user| !user.is_tied())
        {
            self.touch(bare, sm);
        }
        self.settle(now, bare);
    }

    /// An sm of this name came to be or came back: what could not be placed can be now.
    pub(super) fn sm_available(&mut self, now: Micros, sm: SeatId) {
        let stuck = self.users.keys_where(|user| {
            user.flux.as_ref().is_some_and(|flux| {
                flux.wait.is_none()
                    && (!flux.untold.is_empty() || flux.starts.iter().any(|start| start.stage == Stage::Waiting))
            })
        });
        for bare in stuck {
            self.settle(now, &bare);
        }
        // It answers fences only now.
        for bare in self.fenced.get(&sm).cloned().unwrap_or_default() {
            if let Some(wait @ Wait::Fence { sm: at, .. }) = self.users.get(&bare).and_then(|user| user.wait())
                && at == sm
            {
                self.make_wait(now, &bare, wait);
            }
        }
    }

    /// An sm is gone or was restarted: its sessions are over, what it was asked is asked again elsewhere. `given_up`: its
    /// id, when it may live all the same.
    pub(super) fn sm_lost(&mut self, now: Micros, sm: SeatId, given_up: Option<Box<str>>) {
        if let Some(fences) = self.fences.get_mut(&sm) {
            fences.clear();
        }
        self.returning.push(sm);
        self.surrogates_lost(now, sm);
        let mut taken = Vec::new();
        for bare in self.users.keys_where(|user| user.sm == Some(sm)) {
            let ended = self.users.change(&bare, |user| {
                let sessions = std::mem::take(&mut user.sessions);
                user.sm = None;
                let flux = user.flux();
                flux.starts.iter_mut().for_each(|start| start.stage = Stage::Waiting);
                flux.untold
                    .extend(sessions.iter().filter(|s| s.shown).map(|s| s.resource.clone()));
                if flux.wait.is_some_and(|(wait, _)| wait == Wait::Ended) {
                    flux.wait = None;
                }
                sessions
            });
            let shown = ended.iter().filter(|session| session.shown);
            taken.extend(shown.map(|session| full_hash(&bare, &session.resource)));
            for session in ended {
                let Some(home) = self.names.seat(session.c2s).map(|view| view.home) else {
                    continue;
                };
                let key = SessionKey {
                    c2s: session.c2s,
                    number: session.number,
                    token: session.token,
                };
                let restarted = given_up.is_none();
                self.tell(now, home, Message::EndClient { key, restarted });
            }
            self.settle(now, &bare);
        }
        if let Some(sm) = given_up.filter(|_| !taken.is_empty()) {
            let sessions = taken.into();
            self.tell_all(now, &Message::SessionsTaken { sm, sessions });
        }
        self.unfence(now, sm, |wait| matches!(wait, Wait::Fence { .. }));
    }

    /// A c2s is gone: nobody waits for the answers to its starts. Its sessions are unregistered by its home.
    pub(super) fn c2s_lost(&mut self, now: Micros, c2s: SeatId) {
        let waiting = self.users.keys_where(|user| {
            user.flux
                .as_ref()
                .is_some_and(|flux| flux.starts.iter().any(|start| start.c2s == c2s))
        });
        for bare in waiting {
            let sm = self.users.change(&bare, |user| {
                let sm = user.sm;
                user.flux().starts.retain(|start| start.c2s != c2s);
                sm
            });
            if let Some(sm) = sm {
                self.touch(&bare, sm);
            }
            self.settle(now, &bare);
        }
    }

    /// Lets go what waited too long. True when somebody still waits.
    pub(super) fn tick_waiting(&mut self, now: Micros) -> bool {
        while let Some((until, _)) = self.waiting.front()
            && *until <= now
        {
            let Some((_, bare)) = self.waiting.pop_front() else {
                break;
            };
            let late = self
                .users
                .get(&bare)
                .and_then(|user| user.flux.as_ref()?.wait)
                .filter(|(_, until)| *until <= now);
            let Some((wait, _)) = late else { continue };
            if let Wait::Fence { sm, .. } = wait
                && self.names.seat(sm).is_some_and(|view| !view.live)
            {
                // It comes back or is given up; either way what waits for it goes first.
                self.make_wait(now, &bare, wait);
                continue;
            }
            self.log(
                Level::Warning,
                None,
                format!(
                    "{bare}: {} for {} s, going on without",
                    wait_text(wait),
                    WAIT_US / 1_000_000
                ),
            );
            if let Wait::Fence { sm, number } = wait
                && let Some(fences) = self.fences.get_mut(&sm)
            {
                fences.done(number);
            }
            self.users.change(&bare, |user| user.flux().wait = None);
            self.settle(now, &bare);
        }
        !self.waiting.is_empty()
    }
}

fn wait_text(wait: Wait) -> &'static str {
    match wait {
        Wait::Fence { .. } => "no answer from the sm that worked for this user before",
        Wait::Return { .. } => "frames that waited for a lost sm are not back",
        Wait::Ended => "no `ended` for this user's last session",
        Wait::Telling => "contacts not told of a lost session",
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
