//! A frame for a component of this shard: what it teaches, and into the queue.

use super::api::{Action, Micros};
use super::counters::Counter;
use super::forward::client;
use super::grace::session_end;
use super::lane::{Message, Over, SessionKey};
use super::observe::{is_request, session_of, token};
use super::trace::{QueuedAt, Step};
use super::{SELF, Shard};
use crate::jid;
use crate::table::names::Multi;
use crate::table::users::{Recall, Session};
use crate::table::{SeatId, SeatKind, Token};
use crate::wire::copy::append;
use crate::wire::header::{self, Frame, Payload, PayloadKind, Route};
use crate::wire::{edit, foreign};

impl Shard {
    /// Delivers a frame to a seat whose home is here. `header` when it was read already.
    pub(super) fn deliver(
        &mut self,
        now: Micros,
        seat: SeatId,
        source: SeatId,
        frame: &[u8],
        header: Option<&Route<'_>>,
    ) {
        let Some(state) = self.seats.get(seat) else {
            // The seat is gone, or its link has not come yet: nobody knew its name then.
            return self.bounce(now, source, frame, "404");
        };
        let (foreign, waits) = (state.is_foreign(), state.waits());
        if state.kind == SeatKind::Sm && state.abroad.is_none() {
            self.keep_unanswered(seat, source, frame, header);
        }
        if !foreign && !self.may_teach(seat, source) {
            return self.enqueue(now, seat, source, frame, |out| append(out, frame));
        }
        let read;
        let route = match header {
            Some(route) => route,
            None => match header::read(frame) {
                Ok(Frame::Route(route)) => {
                    read = route;
                    &read
                }
                _ => return self.enqueue(now, seat, source, frame, |out| append(out, frame)),
            },
        };
        if foreign {
            if route.error.is_none() {
                // What waits is unwrapped when it goes: until then it may have to go back to its sender.
                self.enqueue(now, seat, source, frame, |out| match waits {
                    true => append(out, frame),
                    false => foreign::unwrap(frame, route, out),
                });
            }
        } else if self.learn(now, seat, source, frame, route) {
            self.enqueue(now, seat, source, frame, |out| append(out, frame));
        }
    }

    /// Delivers a stanza from which nothing can be learnt.
    pub(super) fn deliver_stanza(&mut self, now: Micros, seat: SeatId, source: SeatId, frame: &[u8]) {
        match self.seats.get(seat) {
            Some(state) if !state.is_foreign() => self.enqueue(now, seat, source, frame, |out| append(out, frame)),
            _ => self.deliver(now, seat, source, frame, None),
        }
    }

    /// A `start` that went to a former life of its sm, before its sender heard of that one's end: the sender keeps it
    /// until it is answered, and places it again.
    pub(super) fn is_kept_elsewhere(&mut self, seat: SeatId, restarts: u16, frame: &[u8]) -> bool {
        if self.names.seat(seat).is_some_and(|view| view.restarts == restarts) {
            return false;
        }
        let kept = matches!(header::read(frame), Ok(Frame::Route(Route { payload: Some(payload), .. }))
            if payload.kind == PayloadKind::Session && is_request(&payload));
        if kept {
            self.count(Counter::DropGone);
        }
        kept
    }

    /// Session control reaches a c2s only from an sm.
    fn may_teach(&self, seat: SeatId, source: SeatId) -> bool {
        let kind = |seat| self.names.seat(seat).map(|view| view.kind);
        matches!(kind(seat), Some(SeatKind::C2s | SeatKind::Native)) && kind(source) == Some(SeatKind::Sm)
    }

    /// What a frame from sm to c2s teaches. False when it must not be delivered.
    fn learn(&mut self, now: Micros, c2s: SeatId, sm: SeatId, frame: &[u8], route: &Route<'_>) -> bool {
        let Some(payload) = &route.payload else { return true };
        if payload.kind == PayloadKind::Session {
            return self.session_control(now, c2s, sm, payload);
        }
        if !payload.failed {
            self.is_delivered_again(now, frame, payload);
            return true;
        }
        if !self.is_given_back(route, payload) {
            // The attribute is its sender's, who may write what he likes; only in that form c2s would take it amiss.
            if payload.failed_prefixed {
                self.count(Counter::DropUnknownElement);
            }
            return !payload.failed_prefixed;
        }
        // A stanza that sm gives back: it does not know this session. c2s would hand it to the client as if it were
        // incoming; an error on the route ends the client instead.
        let key = session_of(payload).map(|(number, token)| SessionKey { c2s, number, token });
        if let Some(key) = key {
            let known = self.forget_client(now, key, Over::Unknown);
            let Some(state) = self.seats.get_mut(c2s) else {
                return false;
            };
            if !known && state.is_dismissed(now, key.number, &key.token) {
                // `ended` or `replaced` passed before. c2s looks at the number alone, which may be another client's now.
                self.count(Counter::DropGone);
                return false;
            }
            state.dismiss(now, key.number, key.token);
        }
        self.count(Counter::ZombiesCleared);
        if !payload.failed_prefixed && route.error.is_none() {
            match self.is_behind(c2s) {
                true => self.end_behind(c2s, route, payload),
                false => self.put(c2s, |out| edit::with_error(frame, route, "404", out)),
            }
        }
        false
    }

    /// A client's stanza that sm could not take comes from the sm's own id; what sm delivers comes from the domain, and
    /// says who sent it.
    fn is_given_back(&self, route: &Route<'_>, payload: &Payload<'_>) -> bool {
        let of_domain = route
            .from
            .and_then(|from| self.names.find(from))
            .is_some_and(|(_, name)| name.multi == Multi::To);
        !of_domain && payload.from.is_none()
    }

    /// True when it is for the c2s. One JID started twice within a second at two sm, which cannot reach one another, gets
    /// one sm-side id at both: c2s follows the first that answers, and must not hear of the other.
    fn session_control(&mut self, now: Micros, c2s: SeatId, sm: SeatId, payload: &Payload<'_>) -> bool {
        let action = payload.action.map(|action| action.0).unwrap_or_default();
        let target = payload.target.and_then(|target| target.unescape());
        let bare = target.as_deref().and_then(jid::bare_key);
        let request = payload.id.and_then(token);
        let key = session_of(payload).map(|(number, token)| SessionKey { c2s, number, token });
        match (action, payload.failed) {
            (b"started", false) => {
                let (Some(key), Some(bare), Some(target)) = (key, bare, target.as_deref()) else {
                    return true;
                };
                if !self.serves(sm, &key) {
                    self.end_at(now, sm, key);
                    self.start_answered(now, &bare, c2s, request);
                    return false;
                }
                self.session_started(now, sm, key, &bare, target, request);
            }
            // An `end` that failed: sm knows nothing of the session.
            (b"ended" | b"replaced", _) | (b"end", true) => {
                if key.is_some_and(|key| !self.serves(sm, &key)) {
                    self.count(Counter::DropGone);
                    return false;
                }
                if let Some(key) = key {
                    let why = if action == b"end" { Over::Unknown } else { Over::Ended };
                    self.forget_client(now, key, why);
                    if let Some(state) = self.seats.get_mut(c2s) {
                        state.dismiss(now, key.number, key.token);
                    }
                }
            }
            (b"start" | b"create" | b"started" | b"created", _) => {
                let Some(bare) = bare else { return true };
                if payload.failed {
                    self.count(Counter::StartsRefused);
                }
                self.start_answered(now, &bare, c2s, request);
            }
            _ => {}
        }
        true
    }

    /// The owner of a user need not keep this `start` or `create` any longer.
    fn start_answered(&mut self, now: Micros, bare: &str, c2s: SeatId, request: Option<Token>) {
        let Some(request) = request else { return };
        let message = Message::StartDone {
            bare: bare.into(),
            c2s,
            request,
        };
        self.tell(now, self.owner(bare), message);
    }

    /// A session that c2s does not follow is over, as c2s itself would say of one it does not know.
    fn end_at(&mut self, now: Micros, sm: SeatId, key: SessionKey) {
        let id = |seat| self.names.seat(seat).map(|view| view.id.clone());
        let (Some(to), Some(from)) = (id(sm), id(key.c2s)) else {
            return;
        };
        self.hand(now, sm, key.c2s, &session_end(&to, &from, key.number, &key.token));
    }

    /// The session is not known to be another sm's.
    fn serves(&self, sm: SeatId, key: &SessionKey) -> bool {
        let client = self
            .seats
            .get(key.c2s)
            .and_then(|state| state.clients.get(key.number, &key.token));
        client.is_none_or(|client| client.sm == sm)
    }

    fn session_started(
        &mut self,
        now: Micros,
        sm: SeatId,
        key: SessionKey,
        bare: &str,
        target: &str,
        request: Option<Token>,
    ) {
        let resource = super::placement::resource_of(target);
        self.count(Counter::SessionsStarted);
        if let Some(state) = self.seats.get_mut(key.c2s) {
            let former = state.clients.insert(key.number, client(key.token, sm, bare));
            self.counters.add(Counter::SessionsEnded, u64::from(former.is_some()));
            if state.unproven.len() < UNPROVEN_MAX && state.abroad.is_none() {
                state.unproven.push_back((now, key.number, key.token));
            }
            self.wake_by(now + super::question::GHOST_US);
        }
        let session = Box::new(Session {
            resource: resource.into(),
            c2s: key.c2s,
            number: key.number,
            token: key.token,
            available: false,
            shown: false,
            priority: 0,
            ending: false,
            recall: Recall::default(),
        });
        self.tell(
            now,
            self.owner(bare),
            Message::Register {
                bare: bare.into(),
                sm,
                request,
                session,
            },
        );
    }

    /// A session ended: here and at its owner. False when it is not known.
    pub(super) fn forget_client(&mut self, now: Micros, key: SessionKey, why: Over) -> bool {
        let client = self
            .seats
            .get_mut(key.c2s)
            .and_then(|state| state.clients.remove(key.number, &key.token));
        let Some(client) = client else { return false };
        self.client_forgotten(now, client.bare, key, why);
        true
    }

    /// The owner of a session that was forgotten here is told.
    pub(super) fn client_forgotten(&mut self, now: Micros, bare: Box<str>, key: SessionKey, why: Over) {
        self.count(Counter::SessionsEnded);
        self.tell(now, self.owner(&bare), Message::Unregister { bare, key, why });
    }

    /// Appends to a seat's output, within its limit; beyond it, messages and iqs go back to their sender.
    fn enqueue(&mut self, now: Micros, seat: SeatId, source: SeatId, frame: &[u8], write: impl FnOnce(&mut Vec<u8>)) {
        if let Some((peer, _)) = self.seats.get(seat).and_then(|state| state.abroad) {
            self.trace(now, Step::ToNode(peer), source, frame, None);
            if !self.cross_to_seat(seat, source, frame) {
                self.overflow(now, seat, source, frame);
            }
            return;
        }
        if self.queued_bytes(seat) + frame.len() as u64 > self.config.queues.link_bytes
            && !self.fits_anyway(seat, frame)
        {
            return self.overflow(now, seat, source, frame);
        }
        if self.tracing.is_none() {
            return self.put(seat, write);
        }
        let before = self.queued_bytes(seat);
        self.put(seat, write);
        let at = QueuedAt {
            before,
            bytes: usize::try_from(self.queued_bytes(seat) - before).unwrap_or_default(),
        };
        self.trace(now, Step::Queued(seat, &at), source, frame, None);
    }

    /// Appends to a seat's output: to its link, or to its queue while that waits.
    pub(super) fn put(&mut self, seat: SeatId, write: impl FnOnce(&mut Vec<u8>)) {
        self.counters.add(Counter::FramesOut, 1);
        let Some(state) = self.seats.get_mut(seat) else { return };
        state.frames_out += 1;
        if state.abroad.is_some() {
            let mut frames = Vec::new();
            write(&mut frames);
            for (_, frame) in super::grace::frames_of(self.limits, &frames) {
                self.cross_to_seat(seat, SELF, frame);
            }
            return;
        }
        match state.link {
            Some(link) if !state.waits() => {
                let Some(link) = self
                    .links
                    .get_mut(link.slot as usize)
                    .filter(|l| l.generation == link.generation)
                else {
                    return;
                };
                let was_empty = link.out.is_empty();
                write(&mut link.out);
                if was_empty && let Some(id) = state.link {
                    self.actions.push(Action::Output(id));
                }
            }
            _ => write(&mut state.queue),
        }
    }

    pub(super) fn queued_bytes(&self, seat: SeatId) -> u64 {
        let Some(state) = self.seats.get(seat) else { return 0 };
        let link = state
            .link
            .and_then(|id| self.link(id))
            .map_or(0, |link| link.out.len() + link.in_flight);
        (state.queue.len() + link) as u64
    }

    /// Session control is small, and losing it would leave a ghost or hang a client: it may use twice the limit.
    fn fits_anyway(&self, seat: SeatId, frame: &[u8]) -> bool {
        self.queued_bytes(seat) + frame.len() as u64 <= 2 * self.config.queues.link_bytes
            && matches!(header::read(frame), Ok(Frame::Route(Route { payload: Some(payload), .. }))
                if payload.kind == PayloadKind::Session)
    }

    pub(super) fn overflow(&mut self, now: Micros, seat: SeatId, source: SeatId, frame: &[u8]) {
        self.warn_overflow(now, seat);
        let is_presence = matches!(header::read(frame), Ok(Frame::Route(Route { payload: Some(payload), .. }))
            if payload.kind == PayloadKind::Presence);
        if is_presence || source == SELF {
            self.count(Counter::DropQueue);
        } else {
            self.bounce(now, source, frame, "503");
        }
    }
}

/// Sessions remembered as not proven yet, per c2s.
const UNPROVEN_MAX: usize = 100_000;
