//! A frame from a component of this shard: checks, filter, verdict, and on its way.

use super::api::{Action, Level, LinkId, Micros};
use super::counters::Counter;
use super::input::Flow;
use super::lane::{Message, Said, Verb};
use super::observe::is_request;
use super::trace::Step;
use super::{SELF, Shard, message_log};
use crate::route::{self, Drop, Verdict};
use crate::table::clients::Client;
use crate::table::ways::Path;
use crate::table::{SeatId, SeatKind, ShardId, Token};
use crate::wire::header::{self, Frame, Payload, PayloadKind, Route};
use crate::wire::{edit, foreign};
use std::borrow::Cow;

impl Shard {
    /// Anything but binds.
    pub(super) fn forward(&mut self, now: Micros, id: LinkId, seat: SeatId, frame: &[u8], header: &Frame<'_>) -> Flow {
        if let Some(seat) = self.seats.get_mut(seat) {
            seat.frames_in += 1;
        }
        self.trace_nothing();
        match header {
            Frame::Route(route) => self.route(now, seat, frame, route),
            Frame::Throttle => self.throttle(id, seat),
            Frame::Stanza(payload) => self.stanza(now, seat, frame, payload),
            _ => self.count(Counter::DropUnknownElement),
        }
        match self.link(id).map(|link| &link.stage) {
            Some(super::link::Stage::Seated { asking: false, .. }) => Flow::Go,
            _ => Flow::Stop,
        }
    }

    /// A stanza outside a route: what XEP-0114 components send.
    fn stanza(&mut self, now: Micros, seat: SeatId, frame: &[u8], payload: &Payload<'_>) {
        let Some(state) = self.seats.get(seat) else { return };
        if !state.is_foreign() {
            return self.count(Counter::DropUnknownElement);
        }
        let mut wrapped = Vec::with_capacity(frame.len() + 256);
        if foreign::wrap(frame, payload, &state.who.prefixes, &state.id, &mut wrapped).is_none() {
            return self.count(Counter::DropStanza);
        }
        match header::read(&wrapped) {
            Ok(Frame::Route(route)) => self.route(now, seat, &wrapped, &route),
            _ => self.count(Counter::DropStanza),
        }
    }

    fn throttle(&mut self, id: LinkId, seat: SeatId) {
        let Some(state) = self.seats.get_mut(seat) else { return };
        state.throttled = !state.throttled;
        let release = if state.waits() {
            Vec::new()
        } else {
            std::mem::take(&mut state.queue)
        };
        self.send(id, |out| {
            edit::throttle(out);
            out.extend_from_slice(&release);
        });
    }

    pub(super) fn route(&mut self, now: Micros, seat: SeatId, frame: &[u8], header: &Route<'_>) {
        self.trace(now, Step::Came, seat, frame, Some(header));
        let error_reply = header.error.is_some()
            && self.seats.get(seat).is_some_and(|state| state.kind == SeatKind::Sm)
            && route::is_error_reply(header);
        let Some(state) = self.seats.get(seat) else { return };
        match route::admit(header, |from| state.owns(from), error_reply) {
            None => {}
            Some(Verdict::Broadcast) => return self.broadcast(now, seat, frame),
            Some(Verdict::Bounce(code)) => return self.bounce(now, seat, frame, code),
            Some(Verdict::Drop(reason)) => {
                return self.count(match reason {
                    Drop::ErrorRoute => Counter::DropErrorRoute,
                    Drop::UnknownType => Counter::DropUnknownType,
                });
            }
            Some(_) => unreachable!("admit gives no destination"),
        }
        if error_reply {
            self.count(Counter::ErrorRepliesRouted);
            let mut stripped = Vec::with_capacity(frame.len());
            edit::without_error(frame, header, &mut stripped);
            if let Ok(Frame::Route(header)) = header::read(&stripped) {
                self.admitted(now, seat, &stripped, &header);
            }
            return;
        }
        self.admitted(now, seat, frame, header);
    }

    fn admitted(&mut self, now: Micros, seat: SeatId, frame: &[u8], header: &Route<'_>) {
        if !self.config.filter.is_empty()
            && let Some(payload) = &header.payload
        {
            match self.filtered(frame, header, payload) {
                Filtered::Pass => {}
                Filtered::Deny(code) => {
                    self.count(Counter::BounceFilter);
                    return self.send_back(now, seat, frame, code);
                }
                Filtered::Redirect(to) => {
                    let mut redirected = Vec::with_capacity(frame.len() + to.len());
                    edit::with_addresses(frame, header, Some(&to), None, &mut redirected);
                    if let Ok(Frame::Route(header)) = header::read(&redirected) {
                        self.dispatch(now, seat, &redirected, &header);
                    }
                    return;
                }
            }
        }
        self.dispatch(now, seat, frame, header);
    }

    /// A frame whose destination is lost finds another way, or goes back to its sender.
    pub(super) fn route_again(&mut self, now: Micros, sender: SeatId, frame: &[u8], header: &Route<'_>) {
        let again = Path {
            again: true,
            ..Path::LOCAL
        };
        match self.addressed_user(header) {
            // Also what was addressed to an sm's id: the user may have another by now.
            Some(bare) => self.send_to_owner(now, sender, frame, header, &bare, again),
            None => self.send_on(now, sender, frame, header, again),
        }
    }

    fn dispatch(&mut self, now: Micros, seat: SeatId, frame: &[u8], header: &Route<'_>) {
        if let Some(file) = &self.config.message_log
            && let Some(bytes) = message_log::entry(frame, header)
        {
            self.actions.push(Action::Append {
                file: file.clone(),
                bytes,
                stamped: true,
            });
        }
        if !self.observe(now, seat, frame, header) {
            return;
        }
        self.send_on(now, seat, frame, header, Path::LOCAL);
    }

    fn send_on(&mut self, now: Micros, seat: SeatId, frame: &[u8], header: &Route<'_>, path: Path) {
        let Some(to) = header.to else { return };
        let redirected = self.by_redirect(seat, header);
        let verdict = match &redirected {
            Some(bare) => {
                self.sample_is_redirected();
                Verdict::User(Cow::Borrowed(&**bare))
            }
            None => route::decide(header, to, seat, &self.names),
        };
        if !self.names.sinks().is_empty() && !matches!(verdict, Verdict::Bounce(_)) {
            self.copy_to_sinks(now, seat, frame, header);
        }
        let came_up = self.is_behind(seat);
        match verdict {
            // The stock router has it from that component, and would have delivered it itself.
            Verdict::Seat(target) if came_up && self.is_behind(target) => self.bounce(now, seat, frame, "404"),
            // Only what no name answers to comes to the default route's exits.
            Verdict::Seat(target)
                if self.names.default_route() == Some(target) && self.leaves_by_exit(now, seat, frame, header) => {}
            Verdict::Bounce("404") if !came_up && self.leaves_by_exit(now, seat, frame, header) => {}
            Verdict::Seat(target) => match self.asks_for_session(target, header) {
                Some(bare) => self.send_to_owner(now, seat, frame, header, &bare, path),
                None => self.hand_with(now, target, seat, frame, Some(header)),
            },
            Verdict::User(jid) => match crate::jid::bare_key(&jid) {
                Some(bare) => self.send_to_owner(now, seat, frame, header, &bare, path),
                // No valid JID: sm answers it as it answers anything it can't parse.
                None => match self.names.find(to).map(|(_, name)| name.holders[0]) {
                    Some(target) => self.hand(now, target, seat, frame),
                    None => self.bounce(now, seat, frame, "404"),
                },
            },
            Verdict::Each(targets) => targets.iter().for_each(|target| self.hand(now, *target, seat, frame)),
            Verdict::Own => self.for_self(now, seat, frame, header),
            Verdict::Bounce(code) => self.bounce(now, seat, frame, code),
            Verdict::Broadcast | Verdict::Drop(_) => unreachable!("decide gives a destination or a bounce"),
        }
    }

    fn send_to_owner(&mut self, now: Micros, seat: SeatId, frame: &[u8], header: &Route<'_>, bare: &str, path: Path) {
        let owner = self.owner(bare);
        if owner == self.id {
            return self.for_user_with(now, seat, frame, header, bare, path);
        }
        self.trace(now, Step::ToShard(owner, None), seat, frame, Some(header));
        self.count(Counter::LaneFrames);
        let payload = header.payload.as_ref().filter(|_| path == Path::LOCAL);
        let said = payload.and_then(|payload| Said::of(frame, payload, bare));
        let verb = said.map_or(Verb::User(path), Verb::Said);
        self.data[usize::from(owner)].push(verb, seat, frame);
    }

    /// The user for whom a `start` or `create` asks, when it is addressed to an sm itself: by a filter's redirect, as a
    /// rule. It is the owner's to place like any other, or a user would be on two sm.
    fn asks_for_session(&self, target: SeatId, header: &Route<'_>) -> Option<Box<str>> {
        let payload = header.payload.as_ref()?;
        if payload.kind != PayloadKind::Session || !is_request(payload) || self.names.seat(target)?.kind != SeatKind::Sm
        {
            return None;
        }
        let jid = payload.target.or(payload.to)?.unescape()?;
        crate::jid::bare_key(&jid).map(|bare| (*bare).into())
    }

    /// To jidmesh itself: answers of sm to fences and surrogates. For anything else there is nobody of that name.
    fn for_self(&mut self, now: Micros, seat: SeatId, frame: &[u8], header: &Route<'_>) {
        let of_sm = self.names.seat(seat).is_some_and(|view| view.kind == SeatKind::Sm);
        match header.payload.as_ref().filter(|_| of_sm) {
            Some(payload) if payload.kind == PayloadKind::Session => self.surrogate_answer(now, seat, payload),
            Some(payload) if payload.c2s.is_some() => {
                // For a full JID that a surrogate has at present.
                self.is_delivered_again(now, frame, payload);
                self.bounce(now, seat, frame, "404");
            }
            Some(payload) => match fence_answered(payload) {
                Some((shard, number)) if shard < self.shards => {
                    self.answered(seat, payload);
                    self.tell(now, shard, Message::FenceDone { sm: seat, number });
                }
                _ => self.bounce(now, seat, frame, "404"),
            },
            None => self.bounce(now, seat, frame, "404"),
        }
    }

    /// Hands a frame to a seat, here or on its home shard.
    pub(super) fn hand(&mut self, now: Micros, target: SeatId, source: SeatId, frame: &[u8]) {
        self.hand_with(now, target, source, frame, None);
    }

    /// The same, with the frame's header when it was read already.
    pub(super) fn hand_with(
        &mut self,
        now: Micros,
        target: SeatId,
        source: SeatId,
        frame: &[u8],
        header: Option<&Route<'_>>,
    ) {
        let Some(view) = self.names.seat(target) else {
            return self.bounce(now, source, frame, "404");
        };
        let (home, restarts) = (view.home, view.restarts);
        if home == self.id {
            return self.deliver(now, target, source, frame, header);
        }
        // All that sm's shard keeps, or looks for, is session control and jidmesh's own.
        let payload = header.and_then(|route| route.payload.as_ref());
        let read = payload.is_some_and(|payload| payload.kind != PayloadKind::Session)
            && view.kind == SeatKind::Sm
            && source != SELF;
        self.hand_over(now, (target, home, restarts), source, frame, read);
    }

    /// Hands a frame to a seat of another shard. `read`: as it is, nothing can be learnt from it there.
    fn hand_over(
        &mut self,
        now: Micros,
        (target, home, restarts): (SeatId, ShardId, u16),
        source: SeatId,
        frame: &[u8],
        read: bool,
    ) {
        self.trace(now, Step::ToShard(home, Some(target)), source, frame, None);
        self.count(Counter::LaneFrames);
        let verb = match read {
            true => Verb::Stanza(target),
            false => Verb::Seat(target, restarts),
        };
        self.data[usize::from(home)].push(verb, source, frame);
    }

    /// Hands a stanza, which need not be read, to an sm.
    pub(super) fn hand_stanza(&mut self, now: Micros, sm: SeatId, source: SeatId, frame: &[u8]) {
        match self.names.seat(sm).map(|view| (view.home, view.restarts)) {
            Some((home, _)) if home == self.id => self.deliver_stanza(now, sm, source, frame),
            Some((home, restarts)) => self.hand_over(now, (sm, home, restarts), source, frame, true),
            None => self.bounce(now, source, frame, "404"),
        }
    }

    /// Routes a stanza to the domain it is addressed to, from jidmesh itself.
    pub(super) fn send_own(&mut self, now: Micros, stanza: &[u8]) {
        self.send_own_by(now, stanza, Path::LOCAL);
    }

    pub(super) fn send_own_by(&mut self, now: Micros, stanza: &[u8], path: Path) {
        let Ok(Frame::Stanza(payload)) = header::read(stanza) else {
            return;
        };
        let to = payload.to.and_then(|to| to.unescape());
        let Some(domain) = to.as_deref().and_then(crate::jid::domain_key) else {
            return;
        };
        let mut frame = Vec::with_capacity(stanza.len() + 256);
        edit::route(&mut frame, &domain, self.names.own(), stanza);
        if let Ok(Frame::Route(route)) = header::read(&frame) {
            self.send_on(now, SELF, &frame, &route, path);
        }
    }

    /// Back to its sender with an error, unless it is itself an error or jidmesh's own.
    pub(super) fn bounce(&mut self, now: Micros, sender: SeatId, frame: &[u8], code: &'static str) {
        if self
            .names
            .seat(sender)
            .is_some_and(|view| view.kind == SeatKind::Sm && view.peer.is_none())
            && let Ok(Frame::Route(route)) = header::read(frame)
            && route
                .payload
                .as_ref()
                .is_some_and(|payload| payload.kind != PayloadKind::Session && payload.c2s.is_some())
            && matches!(code, "404" | "503")
        {
            return self.undelivered(now, sender, frame, &route, code == "404");
        }
        if code == "401" {
            self.warn_foreign_name(now, sender, frame);
        }
        self.count(match code {
            "400" => Counter::Bounce400,
            "401" => Counter::Bounce401,
            "404" => Counter::Bounce404,
            _ => Counter::BounceQueue,
        });
        self.send_back(now, sender, frame, code);
    }

    pub(super) fn send_back(&mut self, now: Micros, sender: SeatId, frame: &[u8], code: &'static str) {
        if sender == SELF {
            return;
        }
        let Some(home) = self.names.seat(sender).map(|view| view.home) else {
            return self.count(Counter::DropGone);
        };
        if home != self.id {
            self.data[usize::from(home)].push(Verb::Bounce(sender, code), sender, frame);
            return;
        }
        if self.seats.get(sender).is_some_and(|state| state.abroad.is_some()) {
            return self.cross_back(sender, frame, code);
        }
        if self.is_behind(sender) {
            return self.answer_down(sender, frame, code);
        }
        let Ok(Frame::Route(route)) = header::read(frame) else {
            return;
        };
        if route.error.is_some() {
            return self.count(Counter::DropErrorRoute);
        }
        let _ = now;
        let foreign = self.seats.get(sender).is_some_and(|state| state.is_foreign());
        self.put(sender, |out| match &route.payload {
            Some(payload) if foreign => {
                foreign::stanza_error(frame, payload, code, out);
            }
            _ if foreign => {}
            _ => edit::with_error(frame, &route, code, out),
        });
    }

    fn warn_foreign_name(&mut self, now: Micros, sender: SeatId, frame: &[u8]) {
        let Ok(Frame::Route(route)) = header::read(frame) else {
            return;
        };
        let from = route.from.and_then(|from| from.unescape()).unwrap_or_default();
        let Some(state) = self.seats.get_mut(sender) else {
            return;
        };
        if state.complained_at.is_some_and(|at| now < at + COMPLAINT_US) {
            return;
        }
        state.complained_at = Some(now);
        let (remote, id) = (state.remote, state.id.clone());
        let text = format!("[{id}] tried to send a packet from '{from}', but that name is not bound to it (401)");
        self.log(Level::Warning, Some(remote), text);
    }

    fn broadcast(&mut self, now: Micros, seat: SeatId, frame: &[u8]) {
        for to in 0..self.shards {
            if to != self.id {
                self.data[usize::from(to)].push(Verb::Broadcast, seat, frame);
            }
        }
        self.broadcast_here(now, seat, frame);
    }

    pub(super) fn broadcast_here(&mut self, now: Micros, sender: SeatId, frame: &[u8]) {
        let others: Vec<SeatId> = self
            .seats
            .iter()
            .filter(|(seat, state)| *seat != sender && state.abroad.is_none() && !state.behind)
            .map(|(seat, _)| seat)
            .collect();
        for seat in others {
            self.deliver(now, seat, SELF, frame, None);
        }
    }

    fn copy_to_sinks(&mut self, now: Micros, seat: SeatId, frame: &[u8], header: &Route<'_>) {
        let mut copy = Vec::with_capacity(frame.len() + 16);
        edit::with_type_log(frame, header, &mut copy);
        for sink in self.names.sinks().to_vec() {
            // A copy that can't be delivered is nobody's loss.
            let _ = seat;
            self.hand(now, sink, SELF, &copy);
        }
    }

    fn filtered(&mut self, frame: &[u8], header: &Route<'_>, payload: &Payload<'_>) -> Filtered {
        let from = payload.from.and_then(|value| value.unescape());
        let to = payload.to.and_then(|value| value.unescape());
        let Some(bytes) = frame.get(payload.span.clone()) else {
            return Filtered::Pass;
        };
        let config = self.config.clone();
        let Some(rule) = config.filter.matches(bytes, from.as_deref(), to.as_deref()) else {
            return Filtered::Pass;
        };
        self.count(Counter::FilterMatches);
        let _ = header;
        if rule.log {
            let (from, to) = (from.as_deref().unwrap_or("-"), to.as_deref().unwrap_or("-"));
            self.log(
                Level::Notice,
                None,
                format!("filter rule in line {}: packet from {from} to {to}", rule.line),
            );
        }
        if let Some(file) = &rule.dump {
            let mut line = bytes.to_vec();
            line.push(b'\n');
            self.actions.push(Action::Append {
                file: file.clone(),
                bytes: line,
                stamped: false,
            });
        }
        match (rule.error_code, &rule.redirect) {
            (Some(code), _) => Filtered::Deny(code),
            (None, Some(to)) => Filtered::Redirect(to.clone()),
            (None, None) => Filtered::Pass,
        }
    }
}

/// Shortest time between two log lines about one component's wrong `from`, microseconds.
const COMPLAINT_US: Micros = 1_000_000;

enum Filtered {
    Pass,
    Deny(&'static str),
    Redirect(String),
}

/// Ids of fences: this, the asking shard, a dot, the fence's number.
pub(super) const FENCE_PREFIX: &str = "jidmesh-fence-";

/// Shard and number of the fence that sm answers. It answers for the domain; the address of a user's own iq, whose id he
/// chooses, has a node part.
fn fence_answered(payload: &Payload<'_>) -> Option<(u16, u64)> {
    let of_user = payload
        .from
        .is_some_and(|from| from.0.contains(&b'@') || from.0.contains(&b'&'));
    let answers = matches!(payload.kind_attr.map(|kind| kind.0), Some(b"result" | b"error"));
    if payload.kind != PayloadKind::Iq || of_user || !answers {
        return None;
    }
    let (shard, number) = payload.id?.as_str()?.strip_prefix(FENCE_PREFIX)?.split_once('.')?;
    Some((shard.parse().ok()?, number.parse().ok()?))
}

/// A client of this c2s, as `started` names it.
pub(super) fn client(token: Token, sm: SeatId, bare: &str) -> Client {
    Client {
        token,
        sm,
        bare: bare.into(),
        active: false,
        doubted: false,
        recovered: false,
        ending: false,
    }
}
