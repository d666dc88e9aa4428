//! The short way of frames that come behind one another to one destination.
//!
//! Most frames of a link have a start tag that an earlier frame of it had as well, byte for byte. A [`Course`] keeps such
//! a start tag and what it led to: the seat that holds the name in `to`. Frames on a course need neither their route's
//! attributes read nor names looked up, and those that stand side by side go to their destination in one piece.
//!
//! Invariants:
//! * A course is good for one [`Shard::epoch`]: any control message and any new configuration ends it. The state of the
//!   destination (there, not waiting, room in its queue) is looked at when a run begins, and nothing else happens to
//!   the shard until the run is delivered.
//! * Only frames of jabberd2's own components take it, and only stanzas of which the long way would change nothing but
//!   counters and [`Client::active`](crate::table::clients::Client): everything else goes the long way.
//!
//! Must never be added: an answer of its own. What is not plainly to be delivered goes the long way.

use super::Shard;
use super::api::{Action, LinkId};
use super::counters::Counter;
use super::lane::Verb;
use super::link::Stage;
use super::observe::{changes_presence, concerns_jidmesh, is_question, session_of};
use crate::table::names::Multi;
use crate::table::{SeatId, SeatKind, ShardId};
use crate::wire::copy::append;
use crate::wire::header::{self, Payload, Route};
use std::ops::Range;

/// Courses of one link.
const COURSES_MAX: usize = 16;

/// Longest start tag that is kept, bytes.
const HEAD_BYTES_MAX: usize = 512;

/// What must be known of a stanza, by what sender and destination are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reads {
    /// That it is one.
    Nothing,
    /// That it is no iq, which may answer one of jidmesh's own questions, and no farewell: from sm.
    NoIq,
    /// Its session and that it is delivered, not given back: from sm to c2s.
    Delivery,
    /// Its client, who must be known: from c2s.
    Client,
    /// That it is for a session at the destination, an sm: from whoever asked for redirects.
    Redirected,
    /// This start tag takes the long way.
    LongWay,
}

/// Where frames with one start tag go.
#[derive(Debug)]
struct Course {
    head: Vec<u8>,
    /// The last bytes of the head: heads differ there first.
    tail: u64,
    target: SeatId,
    home: ShardId,
    reads: Reads,
}

/// The courses of a link.
#[derive(Debug, Default)]
pub(super) struct Courses {
    epoch: u64,
    list: Vec<Course>,
    /// The one that was used last.
    last: usize,
    /// The one to be replaced next.
    oldest: usize,
}

impl Courses {
    /// The course of a frame.
    #[inline]
    fn find(&self, frame: &[u8], epoch: u64) -> Option<usize> {
        if self.epoch != epoch {
            return None;
        }
        match self.list.get(self.last) {
            Some(course) if course.is_of(frame) => Some(self.last),
            _ => self.list.iter().position(|course| course.is_of(frame)),
        }
    }

    fn add(&mut self, course: Course, epoch: u64) {
        if self.epoch != epoch {
            self.list.clear();
            (self.epoch, self.oldest) = (epoch, 0);
        }
        if self.list.len() < COURSES_MAX {
            self.last = self.list.len();
            return self.list.push(course);
        }
        self.last = self.oldest;
        self.list[self.oldest] = course;
        self.oldest = (self.oldest + 1) % COURSES_MAX;
    }
}

impl Course {
    #[inline]
    fn is_of(&self, frame: &[u8]) -> bool {
        tail(frame, self.head.len()) == Some(self.tail) && frame.starts_with(&self.head)
    }
}

/// The eight bytes before `end`.
#[inline]
fn tail(frame: &[u8], end: usize) -> Option<u64> {
    let bytes = frame.get(end.checked_sub(8)?..end)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

/// Frames side by side on one course, accepted and not yet delivered.
#[derive(Debug, Default)]
pub(super) struct Run {
    /// Where they stand in the buffer.
    bytes: Range<usize>,
    frames: u64,
    course: usize,
    /// Bytes that the destination's queue has room for.
    room: usize,
}

impl Shard {
    /// Takes the frame at `place` if it may go the short way. Before anything else happens to the shard,
    /// [`Shard::end_run`] must be called.
    #[inline]
    pub(super) fn join_run(&mut self, run: &mut Run, id: LinkId, buffer: &[u8], place: Range<usize>) -> bool {
        let Some((course, home)) = self.course_of(id, &buffer[place.clone()]) else {
            return false;
        };
        if run.frames == 0 || run.course != course || run.bytes.end != place.start {
            self.end_run(run, id, buffer);
            let Some(room) = self.room_on(id, course) else {
                return false;
            };
            *run = Run {
                bytes: place.start..place.start,
                frames: 0,
                course,
                room,
            };
        }
        if place.end - run.bytes.start > run.room {
            return false;
        }
        run.bytes.end = place.end;
        run.frames += 1;
        if home != self.id {
            // A lane carries frames one by one.
            self.end_run(run, id, buffer);
        }
        true
    }

    /// The course of a frame that has one and may take it, and the shard where it leads.
    #[inline]
    fn course_of(&mut self, id: LinkId, frame: &[u8]) -> Option<(usize, ShardId)> {
        let link = self.links.get_mut(id.slot as usize)?;
        let found = link.courses.find(frame, self.epoch)?;
        link.courses.last = found;
        let course = &link.courses.list[found];
        let (at, home) = (course.head.len(), course.home);
        let may = match course.reads {
            Reads::LongWay => false,
            Reads::Nothing => is_stanza(frame, at),
            Reads::NoIq => {
                // A presence of sm may be a farewell that is not true, or one that other nodes must be told of.
                frame[at..].starts_with(b"<message ")
                    || self.cluster.is_none() && self.farewells.is_empty() && frame[at..].starts_with(b"<presence ")
            }
            Reads::Delivery => {
                // One that was returned may be on its way anew.
                self.returned.is_empty() && !concerns_jidmesh(&header::stanza(frame, at)?)
            }
            Reads::Redirected => {
                let (target, stanza) = (course.target, header::stanza(frame, at)?);
                !concerns_jidmesh(&stanza) && self.is_plainly_at(target, &stanza)
            }
            Reads::Client => {
                let Stage::Seated { seat, .. } = link.stage else {
                    return None;
                };
                self.is_of_client(seat, &header::stanza(frame, at)?)
            }
        };
        may.then_some((found, home))
    }

    /// A stanza of a client whose session is known. What changes his presence goes the long way.
    fn is_of_client(&mut self, c2s: SeatId, payload: &Payload<'_>) -> bool {
        let Some((number, token)) = session_of(payload).filter(|(_, token)| !is_question(token.as_bytes())) else {
            return false;
        };
        !changes_presence(payload)
            && self
                .seats
                .get_mut(c2s)
                .is_some_and(|state| state.hear(number, &token).is_some())
    }

    /// Bytes that may go straight to the end of a course; `None` while its destination takes none.
    fn room_on(&self, id: LinkId, course: usize) -> Option<usize> {
        let link = self.link(id)?;
        let course = link.courses.list.get(course)?;
        let Stage::Seated { asking: false, .. } = link.stage else {
            return None;
        };
        if course.home != self.id {
            return Some(usize::MAX);
        }
        let state = self.seats.get(course.target)?;
        let out = self.link(state.link?)?;
        if state.waits() || state.is_foreign() {
            return None;
        }
        let queued = (state.queue.len() + out.out.len() + out.in_flight) as u64;
        usize::try_from(self.config.queues.link_bytes.checked_sub(queued)?).ok()
    }

    /// Delivers the frames of the run.
    pub(super) fn end_run(&mut self, run: &mut Run, id: LinkId, buffer: &[u8]) {
        let Run {
            bytes, frames, course, ..
        } = std::mem::take(run);
        if frames == 0 {
            return;
        }
        let Some(link) = self.link(id) else { return };
        let (Stage::Seated { seat, .. }, Some(course)) = (&link.stage, link.courses.list.get(course)) else {
            return;
        };
        let (seat, target, home) = (*seat, course.target, course.home);
        let redirected = course.reads == Reads::Redirected;
        self.counters.add(Counter::FramesIn, frames);
        self.counters
            .add(Counter::RedirectFrames, if redirected { frames } else { 0 });
        if let Some(state) = self.seats.get_mut(seat) {
            state.frames_in += frames;
        }
        if self.tracing.is_some() {
            self.sample_run(seat, (target, home), frames, redirected, &buffer[bytes.clone()]);
        }
        if home != self.id {
            self.counters.add(Counter::LaneFrames, frames);
            return self.data[usize::from(home)].push(Verb::Stanza(target), seat, &buffer[bytes]);
        }
        self.counters.add(Counter::FramesOut, frames);
        let Some(state) = self.seats.get_mut(target) else {
            return;
        };
        state.frames_out += frames;
        let Some(out) = state.link else { return };
        let Some(link) = self.link_mut(out) else { return };
        if link.out.is_empty() {
            self.actions.push(Action::Output(out));
        }
        append(&mut self.links[out.slot as usize].out, &buffer[bytes]);
    }

    /// Remembers where a frame's start tag leads, when the long way has been taken.
    pub(super) fn plot(&mut self, id: LinkId, seat: SeatId, frame: &[u8], route: &Route<'_>) {
        let Some(payload) = &route.payload else { return };
        let head = &frame[..payload.span.start];
        let Some(tail) = tail(head, head.len()).filter(|_| head.len() <= HEAD_BYTES_MAX && head.ends_with(b">")) else {
            return;
        };
        let epoch = self.epoch;
        let Some(link) = self.link_mut(id) else { return };
        if !matches!(link.stage, Stage::Seated { .. }) || link.courses.find(frame, epoch).is_some() {
            return;
        }
        let head = head.to_vec();
        let (target, home, reads) = self
            .destination(seat, route)
            .unwrap_or((super::SELF, self.id, Reads::LongWay));
        if let Some(link) = self.link_mut(id) {
            let course = Course {
                head,
                tail,
                target,
                home,
                reads,
            };
            link.courses.add(course, epoch);
        }
    }

    /// Where a route leads that goes straight to one seat, and what must be known of its stanza.
    fn destination(&self, sender: SeatId, route: &Route<'_>) -> Option<(SeatId, ShardId, Reads)> {
        let redirects = self.names.seat(sender)?.redirects;
        let (to, from, sender) = (route.to?, route.from?, self.seats.get(sender)?);
        let plain = route.kind.is_none() && route.error.is_none() && !sender.who.leans;
        let observed =
            !self.config.filter.is_empty() || self.config.message_log.is_some() || !self.names.sinks().is_empty();
        let observed = observed || self.is_tracing();
        if !plain || observed || !sender.owns(from) {
            return None;
        }
        let (_, name) = self.names.find(to).filter(|(_, name)| name.multi == Multi::No)?;
        let target = *name.holders.first()?;
        let view = self.names.seat(target)?;
        if view.peer.is_some() || self.names.default_route() == Some(target) {
            return None;
        }
        let reads = match (sender.kind, view.kind) {
            (SeatKind::Sm | SeatKind::S2s | SeatKind::Native, SeatKind::Sm) if redirects => Reads::Redirected,
            (SeatKind::Sm, SeatKind::C2s | SeatKind::Native) => Reads::Delivery,
            (SeatKind::Sm, _) => Reads::NoIq,
            (SeatKind::C2s, _) => Reads::Client,
            (SeatKind::S2s, _) => Reads::Nothing,
            _ => return None,
        };
        Some((target, view.home, reads))
    }
}

/// Does a stanza of clients begin here?
#[inline]
fn is_stanza(frame: &[u8], at: usize) -> bool {
    let rest = &frame[at..];
    rest.starts_with(b"<message ") || rest.starts_with(b"<presence ") || rest.starts_with(b"<iq ")
}
