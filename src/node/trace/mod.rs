//! What an operator follows: steps of real stanzas on this shard, and of probes that nobody gets; and samples of all
//! frames ([`sample`]).
//!
//! While nobody looks a shard has no [`Tracing`], and each step costs the look whether it has one. With a trace, the short
//! way ([`express`](super::express)) is closed, so that every frame passes the steps of the long one; samples are taken
//! on both.
//!
//! A trace is a lease: it ends [`LEASE_US`] after it was last asked for. The node that is asked asks the others, as long
//! as it is asked itself. Each shard keeps what happened until it is fetched; of too much it keeps the number.
//!
//! Must never be added: anything that changes what becomes of a frame.

mod event;
mod filter;
mod others;
mod sample;
mod sketch;
mod way;

pub use event::{PAYLOAD_BYTES_MAX, TraceAsk, TraceEvent, TraceNode, TraceShare};
pub(super) use others::TraceTold;
pub(super) use sample::Carried;
pub use sample::{SamplePath, Sampled, Window};
pub use sketch::Sketch;
pub(super) use way::WayAsk;

use super::api::{LinkId, Micros};
use super::counters::Counter;
use super::observe::session_of;
use super::{SELF, Shard};
use crate::jid;
use crate::table::{PeerId, SeatId, ShardId};
use crate::wire::header::{self, Frame, Payload, Route};
use crate::wire::value::Value;
use filter::Filter;
use others::Other;
use sample::Sampling;
use std::borrow::Cow;

/// What nobody asks for any more ends after so long, a trace as well as samples, microseconds.
pub const LEASE_US: Micros = 5_000_000;
/// Traces of one shard, those of other nodes' operators included; further ones are refused.
pub const TRACES_MAX: usize = 8;
/// Events that one trace notes on one shard in a second; what is more is left out and counted.
pub const EVENTS_PER_S_MAX: u32 = 500;
/// Events kept until they are fetched.
const EVENTS_MAX: usize = 2_000;
/// Frames of which it is watched when they are written.
const WATCHED_MAX: usize = 512;
/// For so long at most, microseconds.
const WATCHED_US: Micros = 60_000_000;
/// Longest value of an attribute that is shown, bytes.
const VALUE_BYTES_MAX: usize = 256;

/// The traces of one shard, and its samples; there is a trace, or samples are taken.
#[derive(Debug, Default)]
pub(super) struct Tracing {
    traces: Vec<Trace>,
    /// The frame that is being handled, if it is followed.
    hand: Option<Hand>,
    watched: Vec<Watched>,
    /// When the bytes in hand were read, or what is going on began.
    now: Micros,
    sampling: Option<Box<Sampling>>,
}

#[derive(Debug)]
struct Trace {
    /// The node whose operator asks; `None`: this one's.
    by: Option<PeerId>,
    ask: TraceAsk,
    filter: Filter,
    since: Micros,
    until: Micros,
    share: TraceShare,
    /// Since when the present second runs, and how much was noted in it.
    second: (Micros, u32),
    /// On shard 0 of the node that was asked: the others, and when they were asked.
    others: Vec<Other>,
    asked_at: Option<Micros>,
    way_begun: bool,
}

/// A frame that is followed.
#[derive(Clone, Debug)]
struct Hand {
    /// By these traces: a bit for each, by its place.
    by: u8,
    event: TraceEvent,
    /// Its stanza, if a trace wants it.
    payload: Option<String>,
}

/// A frame in the output of a link.
#[derive(Debug)]
struct Watched {
    link: LinkId,
    /// Bytes up to its end that are still to be written.
    left: usize,
    since: Micros,
    hand: Hand,
}

/// A step of a frame.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step<'a> {
    /// It came from the link of its source.
    Came,
    /// It comes from another shard, which said so.
    Arrived,
    /// It comes from this node.
    FromNode(PeerId),
    /// It goes to another shard: for a component, or to be placed.
    ToShard(ShardId, Option<SeatId>),
    /// It goes to this node.
    ToNode(PeerId),
    /// It is in the output of this component.
    Queued(SeatId, &'a QueuedAt),
}

/// Where in the output of a component a frame stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueuedAt {
    /// Bytes before it.
    pub(super) before: u64,
    /// Its own, as they are written.
    pub(super) bytes: usize,
}

impl Shard {
    /// A frame makes a step. `source`: the component that it is from.
    #[inline]
    pub(super) fn trace(
        &mut self,
        now: Micros,
        step: Step<'_>,
        source: SeatId,
        frame: &[u8],
        header: Option<&Route<'_>>,
    ) {
        if self.tracing.is_some() {
            self.trace_step(now, step, source, frame, header);
        }
    }

    /// What is handled next is no frame that was followed before.
    #[inline]
    pub(super) fn trace_nothing(&mut self) {
        if let Some(tracing) = &mut self.tracing {
            tracing.hand = None;
            tracing.sampling.iter_mut().for_each(|sampling| sampling.let_go());
        }
    }

    /// Bytes of a link were written.
    #[inline]
    pub(super) fn trace_written(&mut self, now: Micros, link: LinkId, bytes: usize) {
        if self.tracing.is_some() {
            self.look_what_was_written(now, link, bytes);
            self.sample_written(now, link, bytes);
        }
    }

    /// What the counters say of the frame in hand.
    #[inline]
    pub(super) fn trace_count(&mut self, counter: Counter) {
        if counter.is_told_of_a_frame()
            && let Some(tracing) = &mut self.tracing
        {
            tracing.tell_count(counter, self.id);
        }
    }

    /// A trace is asked for, for the first time or again: what happened since. `by`: the node whose operator asks.
    pub(super) fn trace_asked(
        &mut self,
        now: Micros,
        by: Option<PeerId>,
        ask: &TraceAsk,
    ) -> Result<TraceShare, String> {
        if ask.over {
            self.end_trace(now, by, ask.id);
            return Ok(TraceShare::default());
        }
        let tracing = self.tracing.get_or_insert_default();
        let known = tracing
            .traces
            .iter()
            .position(|trace| (trace.by, trace.ask.id) == (by, ask.id));
        let at = match known {
            Some(at) => at,
            None => {
                let filter = Filter::of(ask).filter(|_| tracing.traces.len() < TRACES_MAX);
                let Some(filter) = filter else {
                    self.close_tracing_if_unused();
                    return Err(format!("no JID, or already {TRACES_MAX} traces"));
                };
                tracing.traces.push(Trace::new(now, by, ask, filter));
                // The short way is closed from now on.
                self.epoch += 1;
                self.log_trace(by, ask, "begins");
                self.tracing.as_ref().map_or(0, |tracing| tracing.traces.len() - 1)
            }
        };
        self.wake_by(now + super::TICK_US);
        self.renew_trace(now, at, ask);
        Ok(self.fetch_trace(now, at))
    }

    fn renew_trace(&mut self, now: Micros, at: usize, ask: &TraceAsk) {
        let Some(tracing) = &mut self.tracing else { return };
        let trace = &mut tracing.traces[at];
        trace.until = now + LEASE_US;
        trace.filter.know(&ask.tokens);
        trace.ask.tokens.clone_from(&ask.tokens);
        if self.id == 0 && trace.by.is_none() {
            self.ask_others(now, at);
            self.begin_way(now, at);
        }
    }

    fn fetch_trace(&mut self, now: Micros, at: usize) -> TraceShare {
        let tokens = self.tokens_of_trace(at);
        let nodes = self.other_nodes(now, at);
        let Some(tracing) = &mut self.tracing else {
            return TraceShare::default();
        };
        let mut share = std::mem::take(&mut tracing.traces[at].share);
        share.tokens.extend(tokens);
        share.tokens.truncate(filter::TOKENS_MAX);
        share.nodes = nodes;
        share
    }

    /// The sm-side ids of the user's sessions, as far as he belongs to this shard's slice.
    fn tokens_of_trace(&self, at: usize) -> Vec<String> {
        let Some(trace) = self.tracing.as_ref().and_then(|tracing| tracing.traces.get(at)) else {
            return Vec::new();
        };
        let jid = trace.filter.jid();
        let sessions = self.users.get(&jid.bare).into_iter().flat_map(|user| &user.sessions);
        sessions
            .filter(|session| {
                jid.resource
                    .as_deref()
                    .is_none_or(|resource| *resource == *session.resource)
            })
            .map(|session| session.token.as_str().to_owned())
            .take(filter::TOKENS_MAX)
            .collect()
    }

    fn end_trace(&mut self, now: Micros, by: Option<PeerId>, id: u64) {
        let Some(tracing) = &mut self.tracing else { return };
        tracing.hand = None;
        let at = tracing
            .traces
            .iter()
            .position(|trace| (trace.by, trace.ask.id) == (by, id));
        let Some(at) = at else { return };
        tracing.watched.clear();
        let trace = tracing.traces.remove(at);
        self.log_trace(by, &trace.ask, "ends");
        self.end_at_others(now, &trace);
        self.close_tracing_if_unused();
    }

    fn close_tracing_if_unused(&mut self) {
        let Some(tracing) = self.tracing.as_ref().filter(|tracing| tracing.traces.is_empty()) else {
            return;
        };
        // The short way is open again.
        self.epoch += 1;
        if tracing.sampling.is_none() {
            self.tracing = None;
        }
    }

    /// A stanza is followed: every frame takes the long way.
    pub(super) fn is_tracing(&self) -> bool {
        self.tracing.as_ref().is_some_and(|tracing| !tracing.traces.is_empty())
    }

    fn log_trace(&mut self, by: Option<PeerId>, ask: &TraceAsk, what: &str) {
        if self.id != 0 {
            return;
        }
        let by = by.map_or_else(String::new, |peer| format!(" at {}", self.peer_name(peer)));
        let what_of = match (ask.probe, ask.payload) {
            (true, _) => "probe of",
            (false, true) => "trace, with bodies, of",
            (false, false) => "trace of",
        };
        self.log(
            super::api::Level::Notice,
            None,
            format!("an operator's{by} {what_of} {:?} {what}", ask.jid),
        );
    }

    /// Ends traces that nobody asks for any more, and tells other nodes what happened. True while one is left.
    pub(super) fn tick_tracing(&mut self, now: Micros) -> bool {
        let Some(tracing) = &mut self.tracing else { return false };
        tracing.hand = None;
        tracing.watched.retain(|watched| now < watched.since + WATCHED_US);
        let ended = tracing.traces.iter().filter(|trace| trace.until <= now);
        let ended: Vec<_> = ended.map(|trace| (trace.by, trace.ask.id)).collect();
        for (by, id) in ended {
            self.end_trace(now, by, id);
        }
        self.tell_askers(now);
        self.tick_sampling(now);
        self.tracing.is_some()
    }

    /// Traces on this shard.
    pub(super) fn traces(&self) -> u64 {
        self.tracing.as_ref().map_or(0, |tracing| tracing.traces.len() as u64)
    }

    #[cold]
    fn trace_step(&mut self, now: Micros, step: Step<'_>, source: SeatId, frame: &[u8], header: Option<&Route<'_>>) {
        self.sample_step(now, step, source, frame, header);
        if !self.is_tracing() {
            return;
        }
        let read;
        let route = match header {
            Some(route) => Some(route),
            None => match header::read(frame) {
                Ok(Frame::Route(route)) => {
                    read = route;
                    Some(&read)
                }
                _ => None,
            },
        };
        let hand = route
            .and_then(|route| route.payload.as_ref())
            .and_then(|payload| self.trace_hand(source, frame, payload));
        let text = self.trace_text(step, source);
        let Some(tracing) = &mut self.tracing else { return };
        tracing.now = now;
        tracing.hand = hand;
        let Some((hop, what, queue_bytes)) = text else { return };
        tracing.tell(self.id, hop, what, queue_bytes);
        if let Step::Queued(seat, at) = step {
            self.watch(now, seat, at);
        }
    }

    /// The frame, if a trace follows it.
    fn trace_hand(&self, source: SeatId, frame: &[u8], payload: &Payload<'_>) -> Option<Hand> {
        let tracing = self.tracing.as_ref()?;
        let client = session_of(payload).and_then(|(number, token)| {
            let c2s = self.seats.get(source)?;
            Some(&*c2s.clients.get(number, &token)?.bare)
        });
        let (mut by, mut wanted) = (0, false);
        for (at, trace) in tracing.traces.iter().enumerate() {
            if !trace.ask.probe && trace.filter.matches(payload, client) {
                by |= 1 << at;
                wanted |= trace.ask.payload;
            }
        }
        if by == 0 {
            return None;
        }
        let stanza = frame.get(payload.span.clone()).unwrap_or_default();
        let shown = stanza.len().min(PAYLOAD_BYTES_MAX);
        Some(Hand {
            by,
            event: TraceEvent {
                node: self.own_name(),
                key: format!("{:016x}", jid::lasting_hash_of(stanza)),
                stanza: describe(payload, client),
                frame_bytes: frame.len() as u64,
                ..TraceEvent::default()
            },
            payload: wanted.then(|| String::from_utf8_lossy(&stanza[..shown]).into_owned()),
        })
    }

    /// Hop, whom it concerns, and bytes before it.
    fn trace_text(&self, step: Step<'_>, source: SeatId) -> Option<(&'static str, String, Option<u64>)> {
        Some(match step {
            Step::Arrived => return None,
            Step::Came => ("from", self.seat_id(source), None),
            Step::FromNode(peer) => ("from-node", self.peer_name(peer).to_owned(), None),
            Step::ToShard(shard, Some(seat)) => ("shard", format!("{shard}, for {}", self.seat_id(seat)), None),
            Step::ToShard(shard, None) => ("shard", format!("{shard}, which knows the user"), None),
            Step::ToNode(peer) => ("node", self.peer_name(peer).to_owned(), self.peer_queue_bytes(peer)),
            Step::Queued(seat, at) => {
                let away = self.seats.get(seat).is_some_and(|state| state.waits());
                let away = if away { ", which is away" } else { "" };
                ("queued", format!("{}{away}", self.seat_id(seat)), Some(at.before))
            }
        })
    }

    fn seat_id(&self, seat: SeatId) -> String {
        match self.names.seat(seat) {
            _ if seat == SELF => "jidmesh".to_owned(),
            Some(view) => view.id.to_string(),
            None => "a component that is gone".to_owned(),
        }
    }

    fn own_name(&self) -> String {
        match &self.cluster {
            Some(cluster) => cluster.own.to_string(),
            None => self.config.id.clone(),
        }
    }

    /// Waits for the frame in hand to be written.
    fn watch(&mut self, now: Micros, seat: SeatId, at: &QueuedAt) {
        let link = self
            .seats
            .get(seat)
            .filter(|state| !state.waits())
            .and_then(|state| state.link);
        let (Some(link), Some(tracing)) = (link, &mut self.tracing) else {
            return;
        };
        let Some(hand) = tracing.hand.clone().filter(|_| tracing.watched.len() < WATCHED_MAX) else {
            return;
        };
        let mut hand = hand;
        hand.event.what = self
            .names
            .seat(seat)
            .map_or_else(String::new, |view| view.id.to_string());
        hand.payload = None;
        tracing.watched.push(Watched {
            link,
            left: usize::try_from(at.before)
                .unwrap_or(usize::MAX)
                .saturating_add(at.bytes),
            since: now,
            hand,
        });
    }

    fn look_what_was_written(&mut self, now: Micros, link: LinkId, bytes: usize) {
        let Some(tracing) = &mut self.tracing else { return };
        if tracing.watched.is_empty() {
            return;
        }
        tracing.now = now;
        let in_hand = tracing.hand.take();
        for watched in tracing.watched.iter_mut().filter(|watched| watched.link == link) {
            watched.left = watched.left.saturating_sub(bytes);
        }
        let written: Vec<Watched> = tracing.watched.extract_if(.., |watched| watched.left == 0).collect();
        for Watched { hand, .. } in written {
            let what = hand.event.what.clone();
            tracing.hand = Some(hand);
            tracing.tell(self.id, "written", what, None);
        }
        tracing.hand = in_hand;
    }
}

impl Tracing {
    /// An event of the frame in hand, if one is.
    fn tell(&mut self, shard: ShardId, hop: &str, what: String, queue_bytes: Option<u64>) {
        let Some(Hand { by, event, payload }) = &self.hand else {
            return;
        };
        let event = TraceEvent {
            at_us: self.now,
            shard,
            hop: hop.to_owned(),
            what,
            queue_bytes,
            ..event.clone()
        };
        for (at, trace) in self.traces.iter_mut().enumerate() {
            if by & 1 << at != 0 {
                // Once: where it came in.
                let payload = payload
                    .as_ref()
                    .filter(|_| trace.ask.payload && hop.starts_with("from"));
                trace.note(
                    self.now,
                    TraceEvent {
                        payload: payload.cloned(),
                        ..event.clone()
                    },
                );
            }
        }
    }

    fn tell_count(&mut self, counter: Counter, shard: ShardId) {
        if self.hand.is_none() {
            return;
        }
        let (name, labels, help) = counter.describe();
        let value = labels.split('"').nth(1).unwrap_or_default();
        let (hop, what) = match name {
            "jidmesh_dropped_total" => ("dropped", value),
            "jidmesh_bounced_total" => ("bounced", value),
            "jidmesh_held_frames_total" => ("held", "until it is decided where it goes"),
            _ => ("noted", help),
        };
        self.tell(shard, hop, what.to_owned(), None);
    }
}

impl Trace {
    fn new(now: Micros, by: Option<PeerId>, ask: &TraceAsk, filter: Filter) -> Trace {
        Trace {
            by,
            ask: ask.clone(),
            filter,
            since: now,
            until: now + LEASE_US,
            share: TraceShare::default(),
            second: (now, 0),
            others: Vec::new(),
            asked_at: None,
            way_begun: false,
        }
    }

    /// Keeps an event, within the limits.
    fn note(&mut self, now: Micros, event: TraceEvent) {
        if now >= self.second.0 + 1_000_000 {
            self.second = (now, 0);
        }
        self.second.1 += 1;
        if self.second.1 > EVENTS_PER_S_MAX || self.share.events.len() >= EVENTS_MAX {
            self.share.left_out += 1;
        } else {
            self.share.events.push(event);
        }
    }
}

/// One line that tells a stanza from others, without what it says.
fn describe(payload: &Payload<'_>, client: Option<&str>) -> String {
    let text = |value: Value<'_>| -> String {
        let text = value.unescape().unwrap_or(Cow::Borrowed("?"));
        text[..text.floor_char_boundary(VALUE_BYTES_MAX)].to_owned()
    };
    let mut line = String::from_utf8_lossy(payload.name).into_owned();
    for value in [payload.action, payload.kind_attr].into_iter().flatten() {
        line.push(' ');
        line.push_str(&text(value));
    }
    if let Some(id) = payload.id {
        line += &format!(" id={}", text(id));
    }
    let from = payload
        .from
        .map(text)
        .or_else(|| client.map(|bare| format!("a client of {bare}")));
    let to = payload.to.or(payload.target).map(text);
    for (word, value) in [(" from ", from), (" to ", to)] {
        if let Some(value) = value {
            line = line + word + &value;
        }
    }
    line
}
