//! What a link's bytes hold: frames, found and handled one by one, and what waits until it can be.

use super::Shard;
use super::api::{Level, LinkId, Micros};
use super::counters::Counter;
use super::express::Run;
use super::link::Stage;
use crate::wire::accept::{EARLY_BYTES_MAX, PeerKind};
use crate::wire::scan::{Item, ScanError};
use crate::wire::{foreign, header, stream, validate};

impl Shard {
    /// Bytes were read; all of them are taken.
    pub fn received(&mut self, now: Micros, id: LinkId, bytes: &[u8]) {
        self.counters.add(Counter::BytesIn, bytes.len() as u64);
        let Some(link) = self.link_mut(id) else { return };
        match link.stage {
            Stage::Negotiating(_) => {
                link.carry.extend_from_slice(bytes);
                self.negotiate(now, id);
            }
            Stage::Uplink(_, Some(_)) => {
                link.carry.extend_from_slice(bytes);
                self.uplink_login(now, id);
            }
            Stage::Unseated | Stage::Seated { asking: false, .. } | Stage::Uplink(_, None) if link.carry.is_empty() => {
                let used = self.frames(now, id, bytes);
                self.keep_rest(id, &bytes[used..]);
            }
            Stage::Unseated | Stage::Seated { asking: false, .. } | Stage::Uplink(_, None) => self.join(now, id, bytes),
            Stage::Closing { .. } | Stage::Free | Stage::Dialling(_) => {}
            Stage::Peer(peer) => self.peer_bytes(now, peer, id, bytes),
            Stage::Stranger(..) => {
                self.note_time(now);
                self.stranger_bytes(now, id, bytes);
            }
            _ => {
                link.carry.extend_from_slice(bytes);
                self.go_on(now, id);
            }
        }
    }

    /// Completes the frame whose beginning is carried by a copy of its end, and goes on without copying the rest.
    pub(super) fn join(&mut self, now: Micros, id: LinkId, bytes: &[u8]) {
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
            return self.keep_rest_of(id, buffer, used);
        }
        let rest = &bytes[used - carried..];
        let used = self.frames(now, id, rest);
        buffer.clear();
        buffer.extend_from_slice(&rest[used..]);
        self.keep_rest_of(id, buffer, 0);
    }

    /// Handles what waits in the carry buffer, now that the link may go on.
    pub(super) fn go_on(&mut self, now: Micros, id: LinkId) {
        let Some(link) = self.link_mut(id) else { return };
        if matches!(link.stage, Stage::Negotiating(_)) {
            return self.negotiate(now, id);
        }
        if !matches!(
            link.stage,
            Stage::Unseated | Stage::Seated { asking: false, .. } | Stage::Uplink(_, None)
        ) {
            return;
        }
        let buffer = std::mem::take(&mut link.carry);
        let used = self.frames(now, id, &buffer);
        self.keep_rest_of(id, buffer, used);
    }

    /// A route before the first bind: a c2s that comes back writes what its clients sent without waiting for anything.
    pub(super) fn keep_early(&mut self, id: LinkId, frame: &[u8], header: &header::Frame<'_>) {
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

    /// Handles all whole frames of `buffer`; how many of its bytes are done with.
    pub(super) fn frames(&mut self, now: Micros, id: LinkId, buffer: &[u8]) -> usize {
        let Some(link) = self.link_mut(id) else {
            return buffer.len();
        };
        let Some(mut scanner) = link.scanner.take() else {
            return 0;
        };
        scanner.trust(self.trusts(id));
        self.trace_reading(now);
        let mut run = Run::default();
        let result = loop {
            match scanner.next(buffer) {
                Ok(Some(Item::Frame { start, end })) => {
                    if self.join_run(&mut run, id, buffer, start..end) {
                        continue;
                    }
                    self.end_run(&mut run, id, buffer);
                    if self.frame(now, id, &buffer[start..end]) == Flow::Stop {
                        break Ok(());
                    }
                }
                Ok(Some(Item::Close { .. })) => {
                    self.end_run(&mut run, id, buffer);
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
        self.end_run(&mut run, id, buffer);
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
    pub(super) fn trusts(&self, id: LinkId) -> bool {
        match self.link(id).map(|link| &link.stage) {
            Some(Stage::Seated { seat, .. }) => self.seats.get(*seat).is_some_and(|seat| seat.kind.is_jabberd2()),
            Some(Stage::Uplink(..)) => true,
            _ => false,
        }
    }

    pub(super) fn keep_rest(&mut self, id: LinkId, rest: &[u8]) {
        if let Some(link) = self.link_mut(id)
            && !matches!(link.stage, Stage::Closing { .. })
        {
            link.carry.extend_from_slice(rest);
        }
        self.after_frames(id);
    }

    pub(super) fn keep_rest_of(&mut self, id: LinkId, mut buffer: Vec<u8>, used: usize) {
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
        self.after_frames(id);
    }

    pub(super) fn after_frames(&mut self, id: LinkId) {
        if let Some((cargo, home)) = self.departing.take() {
            self.depart(id, cargo, home);
        }
    }

    pub(super) fn stream_closed(&mut self, now: Micros, id: LinkId) {
        let Some(link) = self.link_mut(id) else { return };
        if let Stage::Seated { seat, .. } = link.stage {
            self.seat_leaves(seat);
        }
        self.send(id, stream::close);
        self.close_link(now, id, "the component closed its stream");
    }

    /// One frame of an authenticated link.
    pub(super) fn frame(&mut self, now: Micros, id: LinkId, frame: &[u8]) -> Flow {
        self.count(Counter::FramesIn);
        let Some(link) = self.link(id) else { return Flow::Stop };
        if let Stage::Uplink(at, _) = link.stage {
            return self.uplink_frame(now, id, at, frame);
        }
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
                Some(seat) => {
                    let flow = self.forward(now, id, seat, frame, other);
                    if let header::Frame::Route(route) = other {
                        self.plot(id, seat, frame, route);
                    }
                    flow
                }
                None => {
                    self.keep_early(id, frame, other);
                    Flow::Go
                }
            },
        }
    }
}

/// Most bytes kept of a link that waits for something (an answer to its bind): the shell stops reading it meanwhile.
const CARRY_SPARE_BYTES: usize = 256 * 1024;

/// How much of a read is copied to complete the frame that the former one began: most frames are shorter.
const JOIN_BYTES: usize = 2 * 1024;

fn header_error_text(error: header::HeaderError) -> &'static str {
    match error {
        header::HeaderError::NotAnElement => "not an element",
        header::HeaderError::DuplicateAttribute => "duplicate attribute",
        header::HeaderError::TooManyAttributes => "too many attributes in one tag",
    }
}

/// Whether a link's further frames may be handled now.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    Go,
    Stop,
}
