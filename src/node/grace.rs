//! Lost links: waiting for a component, letting go what waited for it, giving it up.

use super::api::{Action, CloseCause, Level, LinkId, Micros};
use super::counters::Counter;
use super::lane::{Message, SessionKey};
use super::remains::Remains;
use super::seat::Life;
use super::{Shard, TICK_US, cause_text};
use crate::table::{SeatId, SeatKind, ShardId, Token};
use crate::wire::header::{self, Frame};
use crate::wire::scan::{Item, Limits, Scanner};
use crate::wire::{NS_SESSION, edit, foreign};

/// Shortest time between two log lines about one component's full queue, microseconds.
const OVERFLOW_LOG_US: Micros = 10_000_000;

impl Shard {
    /// A seat lost its link. What was not handed to the connection waits for the component.
    pub(super) fn link_lost(
        &mut self,
        now: Micros,
        seat: SeatId,
        id: LinkId,
        cause: &CloseCause,
        (unsent, written): (Vec<u8>, usize),
        pending: Vec<u8>,
    ) {
        let limits = self.limits;
        let grace_us = self.config.grace_ms * 1_000;
        let Some(state) = self.seats.get_mut(seat).filter(|state| state.link == Some(id)) else {
            return;
        };
        let mut queue = unwritten(limits, &unsent, written, &pending);
        queue.append(&mut state.queue);
        state.queue = queue;
        state.link = None;
        let (name, remote, leaves) = (state.id.clone(), state.remote, state.leaves);
        state.life = Life::Lost {
            until: if leaves { now } else { now + grace_us },
        };
        let contested = state.contested.take().is_some();
        if self.stopping {
            return;
        }
        let waited = if leaves {
            String::new()
        } else {
            format!("; waiting {} s for it", grace_us / 1_000_000)
        };
        self.log(
            Level::Notice,
            Some(remote),
            format!("[{name}] disconnect: {}{waited}", cause_text(cause, "component")),
        );
        self.tell(now, 0, Message::Lost { seat });
        if contested {
            self.tell(now, 0, Message::ContestAnswer { seat, alive: false });
        }
        if leaves {
            self.tell(now, 0, Message::Expired { seat });
        } else {
            self.wake_by(now + TICK_US);
        }
    }

    /// The component closed its stream in order: nobody waits for it.
    pub(super) fn seat_leaves(&mut self, seat: SeatId) {
        if let Some(state) = self.seats.get_mut(seat) {
            state.leaves = true;
        }
    }

    /// A link that jidmesh closed did not take these any more. They go before what waits for the component meanwhile; if
    /// nothing waits any more, they come too late to keep their order, and go back.
    pub(super) fn left_over(&mut self, now: Micros, seat: SeatId, (unsent, written): (Vec<u8>, usize), pending: &[u8]) {
        let mut queue = unwritten(self.limits, &unsent, written, pending);
        if queue.is_empty() {
            return;
        }
        match self.seats.get_mut(seat).filter(|state| state.life != Life::Live) {
            Some(state) => {
                queue.append(&mut state.queue);
                state.queue = queue;
            }
            None if self.stopping => {}
            None => {
                let kind = self.names.seat(seat).map_or(SeatKind::Native, |view| view.kind);
                self.wind_up(now, Remains::new(seat, kind, queue, Vec::new()));
            }
        }
    }

    /// Shard 0: a seat has no link for now.
    pub(super) fn seat_lost(&mut self, now: Micros, seat: SeatId) {
        self.tell_all(now, &Message::SeatLive { seat, live: false });
        // However it came to its end: who contends for it need not wait for the proof.
        self.contest_answered(now, seat, false);
    }

    /// Shard 0: a seat is given up. Its names go first, so that whatever is routed again finds other ways.
    pub(super) fn seat_expired(&mut self, now: Micros, home: ShardId, seat: SeatId) {
        if self.names.seat(seat).is_none_or(|view| view.live) {
            return;
        }
        let names = self
            .registrar
            .as_mut()
            .map(|registrar| registrar.drop_seat(seat, home))
            .unwrap_or_default();
        for name in names {
            self.log(Level::Notice, None, format!("[{name}] offline"));
            self.tell_all(now, &Message::Unbound { seat, name });
        }
        self.tell_all(now, &Message::SeatGone { seat });
        self.align_aliases(now);
    }

    /// Every shard: a seat is no more.
    pub(super) fn seat_gone(&mut self, now: Micros, seat: SeatId) {
        let (kind, home) = self.names.seat(seat).map(|view| (view.kind, view.home)).unzip();
        let id = self.names.seat(seat).map(|view| view.id.clone());
        let s2s_of = self
            .names
            .seat(seat)
            .filter(|view| view.kind == SeatKind::S2s)
            .map(|view| view.peer);
        let abroad = self.names.seat(seat).is_some_and(|view| view.peer.is_some());
        self.names.drop_seat(seat);
        self.unnumber_seat(seat);
        if let Some(state) = self.seats.get_mut(seat) {
            state
                .clients
                .iter_mut()
                .for_each(|(_, client)| client.recovered = false);
        }
        self.recovery_is_over(seat);
        let state = self.seats.remove(seat);
        match kind {
            _ if abroad && kind != Some(SeatKind::C2s) => self.end_clients_at(now, seat),
            Some(SeatKind::Sm) => {
                self.sm_lost(now, seat, id);
                self.fences.remove(&seat);
            }
            Some(SeatKind::C2s) => self.c2s_lost(now, seat, abroad),
            _ => {}
        }
        if let Some(site) = s2s_of {
            self.exits_lost(now, site);
        }
        if let Some(kind) = kind.filter(|_| home == Some(self.id)) {
            let (queue, clients) = state
                .map(|mut state| (state.queue, state.clients.drain()))
                .unwrap_or_default();
            self.wind_up(now, Remains::new(seat, kind, queue, clients).awaited(!abroad));
        }
    }

    /// Every shard: the component at this seat is another process than before.
    pub(super) fn component_restarted(&mut self, now: Micros, seat: SeatId) {
        let Some(view) = self.names.seat(seat) else { return };
        let (kind, name, home) = (view.kind, view.id.clone(), view.home);
        self.names
            .change_seat(seat, |view| view.restarts = view.restarts.wrapping_add(1));
        // At its home: what waited is taken out before anything new is sent to it.
        let (mut queue, mut clients) = Default::default();
        if let Some(state) = self.seats.get_mut(seat) {
            queue = std::mem::take(&mut state.queue);
            clients = state.clients.drain();
            state.life = Life::Live;
            state.unanswered = Default::default();
            state.unproven.clear();
            state.doubts.clear();
            state.asked.clear();
            state.recalls = Default::default();
        }
        let abroad = self.names.seat(seat).is_some_and(|view| view.peer.is_some());
        match kind {
            SeatKind::Sm if abroad => self.end_clients_at(now, seat),
            SeatKind::Sm => self.sm_lost(now, seat, None),
            SeatKind::C2s => {
                self.end_sessions_of(&name);
                if !abroad {
                    self.expect_return(now, seat);
                }
            }
            _ => {}
        }
        self.recovery_is_over(seat);
        // Behind the news: what is returned must not find a session that its sm still believes in.
        if home == self.id {
            self.wind_up(now, Remains::new(seat, kind, queue, clients).awaited(!abroad));
        }
    }

    /// sm ends all sessions of a c2s that becomes unavailable, and tells their contacts.
    fn end_sessions_of(&mut self, c2s: &str) {
        let sms: Vec<SeatId> = self
            .seats
            .iter()
            .filter(|(_, state)| state.kind == SeatKind::Sm && state.abroad.is_none())
            .map(|(id, _)| id)
            .collect();
        for sm in sms {
            self.tell_gone(sm, c2s, true);
        }
    }

    /// A c2s's home: the sm of this session is lost, or has forgotten it.
    pub(super) fn end_client(&mut self, now: Micros, key: SessionKey) {
        let Some(state) = self.seats.get_mut(key.c2s) else {
            return;
        };
        let Some(client) = state.clients.remove(key.number, &key.token) else {
            return;
        };
        state.dismiss(now, key.number, key.token);
        let (name, state_abroad) = (state.id.clone(), state.abroad.is_some());
        self.count(Counter::SessionsEnded);
        let domain = super::placement::domain_of(&client.bare);
        let payload = session_payload("ended", key.number, key.token.as_str(), None, None);
        if state_abroad {
            let mut frame = Vec::new();
            edit::route(&mut frame, &name, domain, &payload);
            self.cross_to_seat(key.c2s, client.sm, &frame);
            return;
        }
        self.put(key.c2s, |out| edit::route(out, &name, domain, &payload));
    }

    pub(super) fn warn_overflow(&mut self, now: Micros, seat: SeatId) {
        let limit = self.config.queues.link_bytes;
        let Some(state) = self.seats.get_mut(seat) else { return };
        if state.warned_at.is_some_and(|at| now < at + OVERFLOW_LOG_US) {
            return;
        }
        state.warned_at = Some(now);
        let (name, remote) = (state.id.clone(), state.remote);
        let text =
            format!("[{name}] takes its frames too slowly: {limit} bytes wait; further ones go back to their senders");
        self.log(Level::Warning, Some(remote), text);
    }

    /// Looks after lost, asked and contested seats, ghosts and keepalives. True when some need a look again soon.
    pub(super) fn tick_seats(&mut self, now: Micros) -> bool {
        let mut soon = false;
        let (mut wake, mut recalls): (Option<Micros>, Option<Micros>) = (None, None);
        let mut due: Vec<(SeatId, Due)> = Vec::new();
        // Without an interval there are no checks (jabberd2's router.xml).
        let check = &self.config.check;
        let keepalive_us = u64::from(check.keepalive_s * u32::from(check.interval_s > 0)) * 1_000_000;
        for (seat, state) in self.seats.iter() {
            match &state.life {
                Life::Lost { until } if now >= *until => due.push((seat, Due::Expired)),
                Life::Asking(inquiry) if now >= inquiry.until => due.push((seat, Due::Unanswered)),
                Life::Lost { .. } | Life::Asking(_) => soon = true,
                Life::Live => {}
            }
            match state.recalls.due {
                Some(at) if now >= at => due.push((seat, Due::Recalls)),
                Some(at) => recalls = Some(recalls.map_or(at, |other| other.min(at))),
                None => {}
            }
            match &state.unclaimed {
                Some((until, _)) if now >= *until => due.push((seat, Due::Unclaimed)),
                Some(_) => soon = true,
                None => {}
            }
            match state.contested {
                Some(at) if now >= at => due.push((seat, Due::Contest)),
                Some(_) => soon = true,
                None => {}
            }
            if let Some(at) = state.questions_due() {
                if now >= at {
                    due.push((seat, Due::Questions));
                } else {
                    wake = Some(wake.map_or(at, |wake| wake.min(at)));
                }
            }
            if keepalive_us > 0
                && !state.behind
                && let Some(idle_since) = state.link.and_then(|id| self.link(id)).map(|l| l.idle_since())
            {
                if now >= idle_since + keepalive_us {
                    due.push((seat, Due::Keepalive));
                }
                let interval_us = u64::from(check.interval_s) * 1_000_000;
                wake = Some(wake.map_or(now + interval_us, |wake| wake.min(now + interval_us)));
            }
        }
        for (seat, what) in due {
            self.seat_due(now, seat, what);
        }
        if let Some(at) = wake {
            self.wake_by(at.max(now + TICK_US));
        }
        if let Some(at) = recalls {
            self.wake_by(at);
        }
        soon
    }

    fn seat_due(&mut self, now: Micros, seat: SeatId, what: Due) {
        let Some(state) = self.seats.get_mut(seat) else { return };
        let (name, remote, link) = (state.id.clone(), state.remote, state.link);
        match what {
            Due::Expired => {
                // Asked once: the registrar's answer takes the seat away.
                state.life = Life::Lost { until: Micros::MAX };
                self.count(Counter::LinksLost);
                self.log(
                    Level::Warning,
                    Some(remote),
                    format!("[{name}] did not come back in time: given up"),
                );
                self.tell(now, 0, Message::Expired { seat });
            }
            Due::Unanswered if state.behind => {
                let text = format!("[{name}] is back at the stock router but does not answer: given up");
                self.log(Level::Warning, Some(remote), text);
                self.behind_lost(now, seat, now);
            }
            Due::Unanswered => {
                self.log(
                    Level::Warning,
                    Some(remote),
                    format!("[{name}] came back but does not answer: closed"),
                );
                if let Some(link) = link {
                    self.close_link(now, link, "it came back but did not answer");
                }
            }
            Due::Contest => {
                state.contested = None;
                if let Some(link) = link {
                    self.actions.push(Action::Probe(link));
                }
            }
            Due::Unclaimed => {
                let names = state.unclaimed.take().map(|(_, names)| names).unwrap_or_default();
                for name in names {
                    self.tell(now, 0, Message::Unclaimed { seat, name });
                }
            }
            Due::Questions => self.ask_what_is_due(now, seat),
            Due::Recalls => self.recall_all(now, seat),
            Due::Keepalive => {
                if let Some(link) = link {
                    self.send(link, |out| out.push(b' '));
                }
            }
        }
    }

    pub(super) fn release_queue(&mut self, seat: SeatId) {
        let (limits, own) = (self.limits, self.names.own());
        let Some(state) = self.seats.get_mut(seat) else { return };
        state.life = Life::Live;
        state.say_again(limits, own);
        if state.throttled {
            return;
        }
        let (foreign, queue, link) = (state.is_foreign(), std::mem::take(&mut state.queue), state.link);
        let Some(link) = link else { return };
        if !foreign {
            return self.send(link, |out| out.extend_from_slice(&queue));
        }
        self.send(link, |out| {
            for (_, frame) in frames_of(limits, &queue) {
                match header::read(frame) {
                    Ok(Frame::Route(route)) => foreign::unwrap(frame, &route, out),
                    _ => out.extend_from_slice(frame),
                }
            }
        });
    }
}

/// What is due at a seat.
enum Due {
    Expired,
    Unanswered,
    Contest,
    Unclaimed,
    Questions,
    Recalls,
    Keepalive,
}

/// The `end` of a session as its c2s would send it to its sm, both by their ids.
pub(super) fn session_end(sm: &str, c2s: &str, number: u32, token: &Token) -> Vec<u8> {
    let payload = session_payload("end", number, token.as_str(), None, None);
    let mut frame = Vec::new();
    edit::route(&mut frame, sm, c2s, &payload);
    frame
}

/// A session-control element of jidmesh's own.
pub(super) fn session_payload(
    action: &str,
    number: u32,
    token: &str,
    target: Option<&str>,
    id: Option<&str>,
) -> Vec<u8> {
    let mut out = format!("<sc:session xmlns:sc='{NS_SESSION}' sc:c2s='{number}'").into_bytes();
    let mut attribute = |name: &str, value: &str| {
        out.extend_from_slice(name.as_bytes());
        edit::escape(value, &mut out);
        out.push(b'\'');
    };
    if !token.is_empty() {
        attribute(" sc:sm='", token);
    }
    if let Some(target) = target {
        attribute(" target='", target);
    }
    if let Some(id) = id {
        attribute(" id='", id);
    }
    attribute(" action='", action);
    out.extend_from_slice(b"/>");
    out
}

/// The frames of a piece of output that starts at a frame's border, with their offsets. Ends where it is not such a piece.
pub(super) fn frames_of(limits: Limits, bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    const ROOT: &[u8] = b"<s>";
    // They passed the limits when they came; what was added on the way, and limits changed since, must not cut them off.
    let limits = Limits {
        frame_bytes_max: usize::MAX / 2,
        depth_max: limits.depth_max.saturating_add(2),
        ..limits
    };
    let mut scanner = Scanner::new(limits);
    let mut whole = Vec::with_capacity(ROOT.len() + bytes.len());
    if !bytes.is_empty() {
        whole.extend_from_slice(ROOT);
        whole.extend_from_slice(bytes);
    }
    std::iter::from_fn(move || {
        loop {
            match scanner.next(&whole) {
                Ok(Some(Item::Frame { start, end })) => {
                    return Some((start - ROOT.len(), &bytes[start - ROOT.len()..end - ROOT.len()]));
                }
                Ok(Some(Item::Open { .. })) => {}
                _ => return None,
            }
        }
    })
}

/// What of a chunk in flight and of the output behind it has not reached the component. A frame that was cut has not: a
/// component acts on a frame's end.
pub(super) fn unwritten(limits: Limits, unsent: &[u8], written: usize, pending: &[u8]) -> Vec<u8> {
    let mut queue = Vec::new();
    for (_, frame) in frames_of(limits, unsent).filter(|(start, frame)| start + frame.len() > written) {
        keep_route(&mut queue, frame);
    }
    for (_, frame) in frames_of(limits, pending) {
        keep_route(&mut queue, frame);
    }
    queue
}

/// Keeps what is addressed to somebody; answers to binds and adverts are made anew for a new link.
fn keep_route(queue: &mut Vec<u8>, frame: &[u8]) {
    if matches!(header::read(frame), Ok(Frame::Route(_) | Frame::Stanza(_))) {
        queue.extend_from_slice(frame);
    }
}
