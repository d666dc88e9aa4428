//! A link's life: negotiation, its frames, its output, its end.

use super::api::{Action, CloseCause, Level, LinkId, Micros};
use super::counters::Counter;
use super::{Shard, cause_text};
use crate::table::SeatId;
use crate::wire::accept::{Accept, EARLY_BYTES_MAX, Failure, FailureKind, Peer, PeerKind, Step};
use crate::wire::scan::{Item, ScanError, Scanner};
use crate::wire::validate::Prefixes;
use crate::wire::{foreign, header, stream, validate};
use std::net::SocketAddr;

/// Most bytes kept of a link that waits for something (an answer to its bind): the shell stops reading it meanwhile.
const CARRY_SPARE_BYTES: usize = 256 * 1024;

/// Where a link stands.
#[derive(Debug)]
pub(super) enum Stage {
    /// The slot is free.
    Free,
    /// Not authenticated yet.
    Negotiating(Box<Accept>),
    /// Authenticated, without a name: on shard 0.
    Unseated,
    /// Its first bind waits until the seat's former link is proved dead or alive: on shard 0.
    Contending {
        /// The seat.
        seat: SeatId,
        /// The bind, empty for a XEP-0114 component.
        bind: Box<[u8]>,
    },
    /// Adopted, but the message about its seat has not come yet.
    Arriving,
    /// Serves a seat.
    Seated {
        /// The seat.
        seat: SeatId,
        /// A bind or unbind of it is being judged: its further frames wait.
        asking: bool,
    },
    /// Handed to another shard as soon as the frames in hand are done.
    Leaving,
    /// Asked the shell to close it; nothing more is read. What it does not take any more is its seat's again.
    Closing {
        /// The seat that it served.
        seat: Option<SeatId>,
    },
}

/// One TCP connection of a component.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) generation: u32,
    pub(super) remote: SocketAddr,
    pub(super) stage: Stage,
    pub(super) peer: Option<Who>,
    pub(super) tls: bool,
    pub(super) out: Vec<u8>,
    pub(super) in_flight: usize,
    /// Routes that came before the component was authenticated: handled behind its first bind.
    early: Vec<u8>,
    scanner: Option<Scanner>,
    carry: Vec<u8>,
    opened_at: Micros,
    progress_at: Micros,
    paused: bool,
}

/// Who authenticated over a link.
#[derive(Clone, Debug)]
pub(super) struct Who {
    pub(super) kind: PeerKind,
    pub(super) prefixes: Prefixes,
    /// Its frames may lean on what its stream header declares, beyond what jabberd2's own components declare there.
    leans: bool,
}

impl Who {
    pub(super) fn new(kind: PeerKind, prefixes: Prefixes) -> Who {
        let leans = matches!(kind, PeerKind::Native { .. })
            && prefixes
                .iter()
                .any(|(prefix, _)| !matches!(prefix, "stream" | "ack" | "xml" | ""));
        Who { kind, prefixes, leans }
    }
}

impl Link {
    /// When the last bytes were written.
    pub(super) fn idle_since(&self) -> Micros {
        self.progress_at
    }

    /// Its frames are not in hand at present.
    pub(super) fn has_scanner(&self) -> bool {
        self.scanner.is_some()
    }
}

impl Who {
    pub(super) fn user(&self) -> &str {
        match &self.kind {
            PeerKind::Native { user } => user,
            PeerKind::Foreign { .. } => "",
        }
    }
}

/// A link's state on its way to another shard.
#[derive(Debug)]
pub struct Cargo {
    pub(super) seat: SeatId,
    pub(super) back: bool,
    pub(super) bind: Box<[u8]>,
    remote: SocketAddr,
    who: Who,
    tls: bool,
    out: Vec<u8>,
    early: Vec<u8>,
    scanner: Option<Scanner>,
    carry: Vec<u8>,
}

/// Whether a link's further frames may be handled now.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    Go,
    Stop,
}

impl Shard {
    /// A connection was accepted.
    pub fn opened(&mut self, now: Micros, remote: SocketAddr) -> LinkId {
        self.count(Counter::LinksOpened);
        let config = if self.refuses_default_secret(remote) {
            self.accept_remote.clone()
        } else {
            self.accept.clone()
        };
        let accept = Accept::new(config, &mut self.rng);
        self.wake_by(now + super::TICK_US);
        self.insert_link(now, remote, Stage::Negotiating(Box::new(accept)))
    }

    /// Bytes were read; all of them are taken.
    pub fn received(&mut self, now: Micros, id: LinkId, bytes: &[u8]) {
        self.counters.add(Counter::BytesIn, bytes.len() as u64);
        let Some(link) = self.link_mut(id) else { return };
        match link.stage {
            Stage::Negotiating(_) => {
                link.carry.extend_from_slice(bytes);
                self.negotiate(now, id);
            }
            Stage::Unseated | Stage::Seated { asking: false, .. } if link.carry.is_empty() => {
                let used = self.frames(now, id, bytes);
                self.keep_rest(now, id, &bytes[used..]);
            }
            Stage::Unseated | Stage::Seated { asking: false, .. } => self.join(now, id, bytes),
            Stage::Closing { .. } | Stage::Free => {}
            _ => {
                link.carry.extend_from_slice(bytes);
                self.go_on(now, id);
            }
        }
    }

    /// Completes the frame whose beginning is carried by a copy of its end, and goes on without copying the rest.
    fn join(&mut self, now: Micros, id: LinkId, bytes: &[u8]) {
        let Some(link) = self.link_mut(id) else { return };
        let carried = link.carry.len();
        let end = bytes.len().min(JOIN_BYTES);
        link.carry.extend_from_slice(&bytes[..end]);
        let mut buffer = std::mem::take(&mut link.carry);
        let used = self.frames(now, id, &buffer);
        if used < carried || self.flow(id) == Flow::Stop {
            // Longer than that: gathered until it is whole. Or the link has to wait.
            buffer.drain(..used);
            buffer.extend_from_slice(&bytes[end..]);
            let go_on = end < bytes.len() && self.flow(id) == Flow::Go;
            let used = if go_on { self.frames(now, id, &buffer) } else { 0 };
            return self.keep_rest_of(now, id, buffer, used);
        }
        let rest = &bytes[used - carried..];
        let used = self.frames(now, id, rest);
        buffer.clear();
        buffer.extend_from_slice(&rest[used..]);
        self.keep_rest_of(now, id, buffer, 0);
    }

    /// The TLS handshake that [`Action::StartTls`] asked for is done.
    pub fn tls_started(&mut self, _now: Micros, id: LinkId) {
        if let Some(link) = self.link_mut(id) {
            link.tls = true;
            if let Stage::Negotiating(accept) = &mut link.stage {
                accept.tls_started();
            }
        }
    }

    /// The link's socket is gone. `unsent` is the chunk whose write was in flight (empty if none) and `written` how
    /// many of its bytes the kernel took.
    pub fn closed(&mut self, now: Micros, id: LinkId, cause: CloseCause, unsent: Vec<u8>, written: usize) {
        let Some(link) = self.link_mut(id) else { return };
        let remote = link.remote;
        let stage = std::mem::replace(&mut link.stage, Stage::Free);
        let pending = std::mem::take(&mut link.out);
        link.generation += 1;
        link.scanner = None;
        link.carry = Vec::new();
        self.free_links.push(id.slot);
        self.count(Counter::LinksClosed);
        match stage {
            Stage::Seated { seat, .. } => self.link_lost(now, seat, id, &cause, (unsent, written), pending),
            Stage::Closing { seat } => {
                self.log(Level::Info, Some(remote), "closed".into());
                if let Some(seat) = seat {
                    self.left_over(now, seat, (unsent, written), &pending);
                }
            }
            _ => self.log(Level::Info, Some(remote), format!("disconnect: {}", cause_text(&cause))),
        }
    }

    /// A link handed over by another shard ([`Action::Move`]).
    pub fn adopt(&mut self, now: Micros, mut cargo: Box<Cargo>) -> LinkId {
        let id = self.insert_link(now, cargo.remote, Stage::Arriving);
        if let Some(link) = self.link_mut(id) {
            link.peer = Some(cargo.who.clone());
            link.tls = cargo.tls;
            link.out = std::mem::take(&mut cargo.out);
            link.early = std::mem::take(&mut cargo.early);
            link.scanner = cargo.scanner.take();
            link.carry = std::mem::take(&mut cargo.carry);
        }
        if self.names.seat(cargo.seat).is_some() {
            self.take_seat(now, id, &cargo);
        } else {
            self.early.push((id, cargo));
        }
        id
    }

    /// The bytes to write next: `into` must be empty, its capacity is kept for later output. Called only when the
    /// chunk taken before was written to its end.
    pub fn take_output(&mut self, id: LinkId, into: &mut Vec<u8>) {
        debug_assert!(into.is_empty());
        let Some(link) = self.link_mut(id) else { return };
        std::mem::swap(&mut link.out, into);
        link.in_flight = into.len();
        if link.out.capacity() > OUT_KEEP_BYTES {
            link.out = Vec::new();
        }
    }

    /// The kernel took `bytes` more of the chunk in flight.
    pub fn written(&mut self, now: Micros, id: LinkId, bytes: usize) {
        self.counters.add(Counter::BytesOut, bytes as u64);
        if let Some(link) = self.link_mut(id) {
            link.in_flight = link.in_flight.saturating_sub(bytes);
            link.progress_at = now;
        }
    }

    /// The process ends (SIGTERM): every link is closed with `</stream:stream>`.
    pub fn shutdown(&mut self, now: Micros) {
        self.stopping = true;
        for slot in 0..self.links.len() {
            let id = LinkId {
                slot: u32::try_from(slot).unwrap_or(0),
                generation: self.links[slot].generation,
            };
            if !matches!(self.links[slot].stage, Stage::Free | Stage::Closing { .. }) {
                stream::close(&mut self.links[slot].out);
                self.close_link(now, id);
            }
        }
    }

    pub(super) fn link_mut(&mut self, id: LinkId) -> Option<&mut Link> {
        self.links
            .get_mut(id.slot as usize)
            .filter(|link| link.generation == id.generation && !matches!(link.stage, Stage::Free))
    }

    pub(super) fn link(&self, id: LinkId) -> Option<&Link> {
        self.links
            .get(id.slot as usize)
            .filter(|link| link.generation == id.generation && !matches!(link.stage, Stage::Free))
    }

    /// Appends to a link's output and tells the shell when it had none.
    pub(super) fn send(&mut self, id: LinkId, write: impl FnOnce(&mut Vec<u8>)) {
        let Some(link) = self.link_mut(id) else { return };
        let was_empty = link.out.is_empty();
        write(&mut link.out);
        if was_empty && !link.out.is_empty() {
            self.actions.push(Action::Output(id));
        }
    }

    /// A route before the first bind: a c2s that comes back writes what its clients sent without waiting for anything.
    fn keep_early(&mut self, id: LinkId, frame: &[u8], header: &header::Frame<'_>) {
        let Some(link) = self.link_mut(id) else { return };
        if matches!(header, header::Frame::Route(_)) && link.early.len() + frame.len() <= EARLY_BYTES_MAX {
            link.early.extend_from_slice(frame);
        } else {
            self.count(Counter::DropUnknownElement);
        }
    }

    /// Handles what came before the component was authenticated.
    pub(super) fn handle_early(&mut self, now: Micros, id: LinkId) {
        let Some(link) = self.link_mut(id) else { return };
        let early = std::mem::take(&mut link.early);
        for (_, frame) in super::grace::frames_of(self.limits, &early) {
            let _ = self.frame(now, id, frame);
        }
    }

    /// Handles what waits in the carry buffer, now that the link may go on.
    pub(super) fn go_on(&mut self, now: Micros, id: LinkId) {
        let Some(link) = self.link_mut(id) else { return };
        if matches!(link.stage, Stage::Negotiating(_)) {
            return self.negotiate(now, id);
        }
        if !matches!(link.stage, Stage::Unseated | Stage::Seated { asking: false, .. }) {
            return;
        }
        let buffer = std::mem::take(&mut link.carry);
        let used = self.frames(now, id, &buffer);
        self.keep_rest_of(now, id, buffer, used);
    }

    /// Closes a link for the reason given, with a stream error.
    pub(super) fn refuse(&mut self, now: Micros, id: LinkId, condition: &str, text: &str) {
        let Some(link) = self.link(id) else { return };
        let remote = link.remote;
        // Before any header was exchanged, the error needs one around it (RFC 6120 4.9.1.1).
        let unopened = matches!(&link.stage, Stage::Negotiating(accept) if !accept.is_open());
        self.log(
            Level::Warning,
            Some(remote),
            format!("closed with stream error {condition}: {text}"),
        );
        self.send(id, |out| match unopened {
            true => stream::error_unopened(out, condition, Some(text)),
            false => stream::error(out, condition, Some(text)),
        });
        self.close_link(now, id);
    }

    /// Asks the shell to close a link once its output is written. The seat, if any, has lost its link from now on.
    pub(super) fn close_link(&mut self, now: Micros, id: LinkId) {
        self.end_link(now, id, Vec::new());
    }

    /// Closes a link that takes nothing any more: what waits for it is its seat's at once.
    pub(super) fn give_up_link(&mut self, now: Micros, id: LinkId) {
        let pending = self.link_mut(id).map(|link| std::mem::take(&mut link.out));
        self.end_link(now, id, pending.unwrap_or_default());
    }

    fn end_link(&mut self, now: Micros, id: LinkId, pending: Vec<u8>) {
        let Some(link) = self.link_mut(id) else { return };
        let seat = match link.stage {
            Stage::Seated { seat, .. } => Some(seat),
            Stage::Closing { seat } => seat,
            _ => None,
        };
        let stage = std::mem::replace(&mut link.stage, Stage::Closing { seat });
        link.scanner = None;
        link.carry = Vec::new();
        self.actions.push(Action::Close(id));
        if let Stage::Seated { seat, .. } = stage {
            self.link_lost(now, seat, id, &CloseCause::Local, (Vec::new(), 0), pending);
        }
    }

    pub(super) fn pause(&mut self, id: LinkId, on: bool) {
        let Some(link) = self.link_mut(id) else { return };
        if link.paused != on {
            link.paused = on;
            self.actions
                .push(if on { Action::Pause(id) } else { Action::Resume(id) });
        }
    }

    /// Gives the link to the home of its seat.
    pub(super) fn send_home(&mut self, now: Micros, id: LinkId, seat: SeatId, back: bool, bind: Box<[u8]>) {
        let here = self.id;
        let home = self.names.seat(seat).map_or(here, |view| view.home);
        let Some(link) = self.link_mut(id) else { return };
        let Some(who) = link.peer.clone() else { return };
        let remote = link.remote;
        let mut cargo = Box::new(Cargo {
            seat,
            back,
            bind,
            remote,
            who,
            tls: link.tls,
            out: Vec::new(),
            early: Vec::new(),
            scanner: None,
            carry: Vec::new(),
        });
        if home == here {
            return self.take_seat(now, id, &cargo);
        }
        link.stage = Stage::Leaving;
        // While frames are being handled, scanner and rest of the input are in the hands of `frames`'s caller.
        if let Some(scanner) = link.scanner.take() {
            cargo.scanner = Some(scanner);
            self.depart(id, cargo, home);
        } else {
            self.leaving = Some((id, cargo, home));
        }
    }

    fn depart(&mut self, id: LinkId, mut cargo: Box<Cargo>, home: super::ShardId) {
        let Some(link) = self.link_mut(id) else { return };
        cargo.out = std::mem::take(&mut link.out);
        cargo.early = std::mem::take(&mut link.early);
        cargo.carry = std::mem::take(&mut link.carry);
        link.stage = Stage::Free;
        link.generation += 1;
        self.free_links.push(id.slot);
        self.actions.push(Action::Move {
            link: id,
            to: home,
            cargo,
        });
    }

    pub(super) fn links_negotiating(&self) -> u64 {
        self.links
            .iter()
            .filter(|link| matches!(link.stage, Stage::Negotiating(_) | Stage::Unseated))
            .count() as u64
    }

    /// Closes links that take too long to authenticate or to take what is sent. True when some are left to watch.
    pub(super) fn tick_links(&mut self, now: Micros) -> bool {
        let (auth_us, stall_us) = (self.config.auth_ms * 1_000, STALL_US);
        let mut watch = false;
        let mut late = Vec::new();
        let mut stalled = Vec::new();
        let mut contested = Vec::new();
        for (slot, link) in self.links.iter().enumerate() {
            let id = LinkId {
                slot: u32::try_from(slot).unwrap_or(0),
                generation: link.generation,
            };
            match link.stage {
                Stage::Negotiating(_) | Stage::Unseated => {
                    watch = true;
                    if now >= link.opened_at + auth_us {
                        late.push(id);
                    }
                }
                Stage::Seated { .. } if link.in_flight > 0 => {
                    watch = true;
                    if now >= link.progress_at + stall_us {
                        stalled.push(id);
                    }
                }
                Stage::Contending { seat, .. } => {
                    watch = true;
                    if now >= link.opened_at + auth_us {
                        late.push(id);
                    } else if !contested.contains(&seat) {
                        contested.push(seat);
                    }
                }
                Stage::Arriving => watch = true,
                _ => {}
            }
        }
        for id in late {
            self.count(Counter::AuthFailed);
            self.refuse(now, id, "connection-timeout", "no authentication, or no bind, in time");
        }
        for seat in contested {
            // Asked again: the first time its link may not have arrived at its home yet.
            let home = self.names.seat(seat).map(|view| view.home);
            match home {
                Some(home) => self.tell(now, home, super::lane::Message::Contest { seat }),
                None => self.contest_answered(now, seat, false),
            }
        }
        for id in stalled {
            let Some(link) = self.link(id) else { continue };
            let (remote, bytes) = (link.remote, link.out.len() + link.in_flight);
            let text = format!(
                "closed: took nothing of {bytes} waiting bytes for {} s",
                stall_us / 1_000_000
            );
            self.log(Level::Error, Some(remote), text);
            self.give_up_link(now, id);
        }
        watch
    }

    fn insert_link(&mut self, now: Micros, remote: SocketAddr, stage: Stage) -> LinkId {
        let slot = match self.free_links.pop() {
            Some(slot) => slot,
            None => {
                self.links.push(Link {
                    generation: 0,
                    remote,
                    stage: Stage::Free,
                    peer: None,
                    tls: false,
                    out: Vec::new(),
                    in_flight: 0,
                    early: Vec::new(),
                    scanner: None,
                    carry: Vec::new(),
                    opened_at: now,
                    progress_at: now,
                    paused: false,
                });
                u32::try_from(self.links.len() - 1).unwrap_or(u32::MAX)
            }
        };
        let link = &mut self.links[slot as usize];
        link.remote = remote;
        link.stage = stage;
        link.peer = None;
        link.tls = false;
        link.out.clear();
        link.early.clear();
        link.in_flight = 0;
        link.opened_at = now;
        link.progress_at = now;
        link.paused = false;
        LinkId {
            slot,
            generation: link.generation,
        }
    }

    /// An authenticated native link, for tests of what comes after.
    #[cfg(test)]
    pub(super) fn opened_as(&mut self, now: Micros, user: &str) -> LinkId {
        let id = self.insert_link(now, SocketAddr::from(([127, 0, 0, 1], 1)), Stage::Unseated);
        let mut scanner = Scanner::new(self.limits);
        let header = b"<stream:stream xmlns:stream='http://etherx.jabber.org/streams'>";
        assert!(matches!(scanner.next(header), Ok(Some(Item::Open { .. }))));
        scanner.consume(header.len());
        let link = &mut self.links[id.slot as usize];
        link.peer = Some(Who::new(PeerKind::Native { user: user.into() }, Prefixes::default()));
        link.scanner = Some(scanner);
        id
    }

    /// An authenticated XEP-0114 link, for tests of what comes after.
    #[cfg(test)]
    pub(super) fn opened_foreign_as(&mut self, now: Micros, name: &str) -> LinkId {
        let id = self.opened_as(now, "");
        let kind = PeerKind::Foreign {
            name: name.into(),
            prefixes: Prefixes::default(),
        };
        self.links[id.slot as usize].peer = Some(Who::new(kind, Prefixes::default()));
        self.judge_first_bind(now, id, &[], false);
        id
    }

    fn negotiate(&mut self, now: Micros, id: LinkId) {
        let Some(link) = self.link_mut(id) else { return };
        let (remote, mut input, mut out) = (link.remote, std::mem::take(&mut link.carry), Vec::new());
        let Stage::Negotiating(mut accept) = std::mem::replace(&mut link.stage, Stage::Unseated) else {
            return;
        };
        let config = self.config.clone();
        let (refuses, withheld) = (self.refuses_default_secret(remote), std::cell::Cell::new(false));
        let secret_of = |user: &str| {
            let withhold = refuses && config.is_default_secret(Some(user));
            withheld.set(withheld.get() || withhold);
            config.users.get(user).filter(|_| !withhold).cloned()
        };
        let tries = accept.failures();
        let step = accept.feed(&mut input, &mut out, &secret_of, &mut self.rng);
        for _ in tries..accept.failures() {
            self.count(Counter::AuthFailed);
            let hint = if withheld.get() { DEFAULT_SECRET_HINT } else { "" };
            self.log(Level::Warning, Some(remote), format!("authentication failed{hint}"));
        }
        self.send(id, |pending| pending.extend_from_slice(&out));
        let Some(link) = self.link_mut(id) else { return };
        link.carry = input;
        match step {
            Step::Need => link.stage = Stage::Negotiating(accept),
            Step::StartTls => {
                link.stage = Stage::Negotiating(accept);
                self.actions.push(Action::StartTls(id));
            }
            Step::Done(peer) => self.authenticated(now, id, peer),
            Step::Failed(failure) => self.negotiation_failed(now, id, &failure),
        }
    }

    fn authenticated(&mut self, now: Micros, id: LinkId, peer: Peer) {
        let Some(link) = self.link_mut(id) else { return };
        let remote = link.remote;
        let foreign = matches!(peer.kind, PeerKind::Foreign { .. });
        let text = match &peer.kind {
            PeerKind::Native { user } => format!("authenticated as {user}"),
            PeerKind::Foreign { name, .. } => format!("authenticated as external component {name}"),
        };
        link.peer = Some(Who::new(peer.kind, peer.prefixes));
        link.scanner = Some(peer.scanner);
        link.early = peer.early;
        self.log(Level::Info, Some(remote), text);
        if foreign {
            self.judge_first_bind(now, id, &[], false);
        }
        self.go_on(now, id);
    }

    fn negotiation_failed(&mut self, now: Micros, id: LinkId, failure: &Failure) {
        let Some(remote) = self.link(id).map(|link| link.remote) else {
            return;
        };
        match failure.kind {
            FailureKind::Auth => self.count(Counter::AuthFailed),
            FailureKind::Closed => {}
            _ => self.count(Counter::BadInput),
        }
        let level = if failure.kind == FailureKind::Closed {
            Level::Info
        } else {
            Level::Warning
        };
        // Away from loopback there are no XEP-0114 components at all while their secret is the well-known one.
        let withheld = failure.kind == FailureKind::Unsupported
            && failure.reason.contains("legacy components")
            && self.config.is_default_secret(None)
            && self.refuses_default_secret(remote);
        let hint = if withheld { DEFAULT_XEP0114_SECRET_HINT } else { "" };
        self.log(level, Some(remote), format!("{}{hint}", failure.reason));
        self.close_link(now, id);
    }

    /// Debian's well-known secret opens the router on loopback only, unless the configuration insists.
    fn refuses_default_secret(&self, remote: SocketAddr) -> bool {
        !self.config.default_secret_allowed && !remote.ip().to_canonical().is_loopback()
    }

    /// Handles all whole frames of `buffer`; how many of its bytes are done with.
    fn frames(&mut self, now: Micros, id: LinkId, buffer: &[u8]) -> usize {
        let Some(link) = self.link_mut(id) else {
            return buffer.len();
        };
        let Some(mut scanner) = link.scanner.take() else {
            return 0;
        };
        scanner.trust(self.trusts(id));
        let result = loop {
            match scanner.next(buffer) {
                Ok(Some(Item::Frame { start, end })) => {
                    if self.frame(now, id, &buffer[start..end]) == Flow::Stop {
                        break Ok(());
                    }
                }
                Ok(Some(Item::Close { .. })) => {
                    self.stream_closed(now, id);
                    break Ok(());
                }
                Ok(Some(Item::Open { .. })) => {
                    break Err(ScanError::NotWellFormed("a second stream header"));
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        if let Err(error) = result {
            self.count(Counter::BadInput);
            self.refuse(now, id, error.condition(), error.text());
            return buffer.len();
        }
        let used = scanner.unfinished_start();
        scanner.consume(used);
        if let Some((leaving, mut cargo, home)) = self.leaving.take() {
            debug_assert_eq!(leaving, id);
            cargo.scanner = Some(scanner);
            self.departing = Some((cargo, home));
        } else if let Some(link) = self.link_mut(id)
            && !matches!(link.stage, Stage::Closing { .. })
        {
            link.scanner = Some(scanner);
        }
        used
    }

    /// Are the link's frames written by one of jabberd2's components, which serialise what they parsed?
    fn trusts(&self, id: LinkId) -> bool {
        self.link(id)
            .and_then(|link| match link.stage {
                Stage::Seated { seat, .. } => self.seats.get(seat),
                _ => None,
            })
            .is_some_and(|seat| seat.kind.is_jabberd2())
    }

    fn keep_rest(&mut self, now: Micros, id: LinkId, rest: &[u8]) {
        if let Some(link) = self.link_mut(id)
            && !matches!(link.stage, Stage::Closing { .. })
        {
            link.carry.extend_from_slice(rest);
        }
        self.after_frames(now, id);
    }

    fn keep_rest_of(&mut self, now: Micros, id: LinkId, mut buffer: Vec<u8>, used: usize) {
        buffer.drain(..used);
        if buffer.is_empty() && buffer.capacity() > CARRY_SPARE_BYTES {
            buffer = Vec::new();
        }
        if let Some(link) = self.link_mut(id)
            && !matches!(link.stage, Stage::Closing { .. })
        {
            // Nothing was received meanwhile: this call holds the shard.
            debug_assert!(link.carry.is_empty());
            link.carry = buffer;
        }
        self.after_frames(now, id);
    }

    fn after_frames(&mut self, _now: Micros, id: LinkId) {
        if let Some((cargo, home)) = self.departing.take() {
            self.depart(id, cargo, home);
        }
    }

    fn stream_closed(&mut self, now: Micros, id: LinkId) {
        let Some(link) = self.link_mut(id) else { return };
        if let Stage::Seated { seat, .. } = link.stage {
            self.seat_leaves(now, seat);
        }
        self.send(id, stream::close);
        self.close_link(now, id);
    }

    /// One frame of an authenticated link.
    fn frame(&mut self, now: Micros, id: LinkId, frame: &[u8]) -> Flow {
        self.count(Counter::FramesIn);
        let Some(link) = self.link(id) else { return Flow::Stop };
        let (seat, Some(who)) = (
            match link.stage {
                Stage::Seated { seat, .. } => Some(seat),
                _ => None,
            },
            &link.peer,
        ) else {
            return Flow::Stop;
        };
        if !self.trusts(id)
            && let Err(invalid) = validate::check(frame, &who.prefixes)
        {
            self.count(Counter::BadInput);
            self.refuse(now, id, "xml-not-well-formed", invalid.0);
            return Flow::Stop;
        }
        let mut own = Vec::new();
        let frame = match who.leans {
            true => {
                foreign::self_contained(frame, &who.prefixes, &mut own);
                &own
            }
            false => frame,
        };
        let header = match header::read(frame) {
            Ok(header) => header,
            Err(error) => {
                self.count(Counter::BadInput);
                self.refuse(now, id, "xml-not-well-formed", header_error_text(error));
                return Flow::Stop;
            }
        };
        if matches!(who.kind, PeerKind::Foreign { .. })
            && !matches!(header, header::Frame::Stanza(_) | header::Frame::StreamError)
        {
            // An external component speaks stanzas; the component protocol is not its own.
            self.count(Counter::DropUnknownElement);
            return Flow::Go;
        }
        match &header {
            header::Frame::Bind(bind) => self.bind(now, id, seat, frame, bind),
            header::Frame::StreamError => {
                let remote = self.link(id).map(|link| link.remote);
                self.log(Level::Warning, remote, "the component sent a stream error".into());
                self.stream_closed(now, id);
                Flow::Stop
            }
            header::Frame::Unbind { .. } => self.unbind(now, id, seat, frame),
            other => match seat {
                Some(seat) => self.forward(now, id, seat, frame, other),
                None => {
                    self.keep_early(id, frame, other);
                    Flow::Go
                }
            },
        }
    }
}

/// How much of a read is copied to complete the frame that the former one began: most frames are shorter.
const JOIN_BYTES: usize = 2 * 1024;

/// A buffer that grew beyond this is not kept for the next turn.
const OUT_KEEP_BYTES: usize = 1 << 20;

/// A component that takes nothing for so long, though bytes wait, is given up.
const STALL_US: Micros = 60_000_000;

const DEFAULT_SECRET_HINT: &str = " (the well-known default secret is good from loopback addresses only: set another \
    <secret> in the users file and <pass> in the component's configuration, or let it connect to 127.0.0.1)";

const DEFAULT_XEP0114_SECRET_HINT: &str = " (from this address, as <local><secret> is the well-known default secret, \
    which is good from loopback addresses only: set another one there and in the component's configuration)";

fn header_error_text(error: header::HeaderError) -> &'static str {
    match error {
        header::HeaderError::NotAnElement => "not an element",
        header::HeaderError::DuplicateAttribute => "duplicate attribute",
        header::HeaderError::TooManyAttributes => "too many attributes in one tag",
    }
}
