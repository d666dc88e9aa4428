//! Samples of all frames, while an operator looks: how long they are on their way through this node, and whose they are.
//!
//! Of so many frames one is followed, from the read that brought it to the write that gave it to its component, or to the
//! connection to another node. It stands for those since the former one: the weights of all samples are the number of
//! frames. How many pass between two is drawn by chance about [`Sampling::every`], or traffic with a period would show one
//! of its phases only; and that is adapted to the traffic, so that samples stay few.
//!
//! Frames side by side on the short way go together: the first stands for all of them, and is there when all are.

use super::sketch::Sketch;
use super::{LEASE_US, QueuedAt, Step, WATCHED_MAX, WATCHED_US};
use crate::jid;
use crate::node::Shard;
use crate::node::api::{DataBatch, LinkId, Micros};
use crate::node::observe::session_of;
use crate::table::{PeerId, SeatId, ShardId};
use crate::wire::header::{self, Frame, Route};
use crate::wire::value::Value;
use hdrhistogram::Histogram;

/// What is told covers the present window and the one before, microseconds each.
pub(super) const WINDOW_US: Micros = 10_000_000;
/// Samples of a tick (200 ms) after which fewer frames are sampled, and below a quarter of which more are.
const SAMPLES_PER_TICK: u32 = 200;
/// Frames for one sample, at first and at most.
const EVERY_FIRST: u64 = 64;
const EVERY_MAX: u64 = 1 << 20;
/// Longer times count as this, microseconds.
const TIME_US_MAX: u64 = 60_000_000;
/// Digits of a time that are kept.
const DIGITS: u8 = 2;

/// Which way a frame took through this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SamplePath {
    /// From a component of this node to one of this node.
    Here,
    /// The same, addressed to the user's sm by a component that was told it.
    Redirect,
    /// To another node.
    ToNode,
    /// From another node to a component of this one.
    FromNode,
    /// From or to a component of the stock router.
    Uplink,
}

impl SamplePath {
    /// In the order of [`Window::times_us`].
    pub const ALL: [SamplePath; 5] = [
        SamplePath::Here,
        SamplePath::Redirect,
        SamplePath::ToNode,
        SamplePath::FromNode,
        SamplePath::Uplink,
    ];
}

/// What one shard's samples came to.
#[derive(Clone, Debug)]
pub struct Sampled {
    /// So long do the windows cover, microseconds.
    pub covered_us: Micros,
    /// At most two.
    pub windows: Vec<Window>,
}

/// The samples of a time. Weights are frames.
#[derive(Clone, Debug)]
pub struct Window {
    began: Micros,
    /// Frames that came.
    pub frames: u64,
    /// Of these, followed.
    pub samples: u64,
    /// Times from read to write of those that were handed over, microseconds; by [`SamplePath`].
    pub times_us: [Histogram<u64>; SamplePath::ALL.len()],
    /// Bare JIDs from which stanzas came, and to which they go.
    pub jids: [Sketch; 2],
    /// Names that routes came from, and go to.
    pub names: [Sketch; 2],
}

impl Window {
    fn new(began: Micros) -> Window {
        let times = |_| Histogram::new_with_bounds(1, TIME_US_MAX, DIGITS).expect("these bounds are good");
        Window {
            began,
            frames: 0,
            samples: 0,
            times_us: std::array::from_fn(times),
            jids: Default::default(),
            names: Default::default(),
        }
    }
}

/// The samples among the frames of a lane's batch, by their place.
#[derive(Debug, Default)]
pub(in crate::node) struct Carried(Vec<(usize, Sample)>);

/// A frame that is followed.
#[derive(Clone, Copy, Debug)]
struct Sample {
    since: Micros,
    path: SamplePath,
    source: SeatId,
    /// Frames for which it stands.
    weight: u64,
}

/// Where a sample is until it is written.
#[derive(Clone, Copy, Debug)]
enum Until {
    /// So many bytes of this link are.
    Link(LinkId, usize),
    /// The stream to this peer has come so far.
    Peer(PeerId, u64),
}

/// The samples of one shard.
#[derive(Debug)]
pub(super) struct Sampling {
    until: Micros,
    /// The sample that is being handled.
    hand: Option<Sample>,
    waiting: Vec<(Sample, Until)>,
    /// Frames for one sample, and whether that is still right: samples of the present tick.
    every: u64,
    lately: u32,
    /// Frames since the last sample, and at how many the next is due.
    passed: u64,
    due: u64,
    chance: u64,
    present: Window,
    former: Option<Window>,
}

impl Sampling {
    fn new(now: Micros) -> Sampling {
        Sampling {
            until: now,
            hand: None,
            waiting: Vec::new(),
            every: EVERY_FIRST,
            lately: 0,
            passed: 0,
            due: 1,
            chance: now,
            present: Window::new(now),
            former: None,
        }
    }

    /// What is handled next is no sample that was in hand before.
    pub(super) fn let_go(&mut self) {
        self.hand = None;
    }

    /// Frames pass; how many of them and of former ones the sample stands for that is due.
    fn pass(&mut self, frames: u64) -> Option<u64> {
        self.passed += frames;
        if self.passed < self.due {
            return None;
        }
        self.lately += 1;
        if self.lately >= SAMPLES_PER_TICK {
            (self.every, self.lately) = ((self.every * 2).min(EVERY_MAX), 0);
        }
        // Knuth's generator; nobody gains by foreseeing it.
        self.chance = self.chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        self.due = 1 + (self.chance >> 33) % (2 * self.every - 1);
        let weight = std::mem::take(&mut self.passed);
        self.present.frames += weight;
        self.present.samples += 1;
        Some(weight)
    }

    /// The sample in hand, if the frame of this sender is it: not what jidmesh itself sends meanwhile.
    fn take_hand(&mut self, source: SeatId) -> Option<Sample> {
        self.hand.take_if(|sample| sample.source == source)
    }

    fn wait(&mut self, sample: Sample, until: Until) {
        if self.waiting.len() < WATCHED_MAX {
            self.waiting.push((sample, until));
        }
    }

    fn tick(&mut self, now: Micros) {
        if self.lately < SAMPLES_PER_TICK / 4 {
            self.every = (self.every / 2).max(1);
            self.due = self.due.min(2 * self.every);
        }
        self.lately = 0;
        self.waiting.retain(|(sample, _)| now < sample.since + WATCHED_US);
        if now >= self.present.began + WINDOW_US {
            self.former = Some(std::mem::replace(&mut self.present, Window::new(now)));
        }
    }
}

impl Shard {
    /// Samples are asked for, for the first time or again: what they came to of late.
    pub(in crate::node) fn sample_asked(&mut self, now: Micros) -> Box<Sampled> {
        let tracing = self.tracing.get_or_insert_default();
        let sampling = tracing.sampling.get_or_insert_with(|| Box::new(Sampling::new(now)));
        sampling.until = now + LEASE_US;
        let windows: Vec<Window> = sampling.former.iter().chain([&sampling.present]).cloned().collect();
        self.wake_by(now + crate::node::TICK_US);
        Box::new(Sampled {
            covered_us: now.saturating_sub(windows[0].began),
            windows,
        })
    }

    /// Ends samples that nobody asks for any more.
    pub(super) fn tick_sampling(&mut self, now: Micros) {
        let Some(tracing) = &mut self.tracing else { return };
        if tracing.sampling.take_if(|sampling| sampling.until <= now).is_some() {
            self.close_tracing_if_unused();
        } else if let Some(sampling) = &mut tracing.sampling {
            sampling.tick(now);
        }
    }

    fn sampling(&mut self) -> Option<&mut Sampling> {
        self.tracing.as_mut()?.sampling.as_deref_mut()
    }

    /// A frame makes a step.
    pub(super) fn sample_step(
        &mut self,
        now: Micros,
        step: Step<'_>,
        source: SeatId,
        frame: &[u8],
        header: Option<&Route<'_>>,
    ) {
        match step {
            Step::Came if self.is_behind(source) => {
                self.begin_sample(now, 1, SamplePath::Uplink, source, frame, header)
            }
            Step::Came => self.begin_sample(now, 1, SamplePath::Here, source, frame, header),
            Step::FromNode(_) => self.begin_sample(now, 1, SamplePath::FromNode, source, frame, header),
            Step::Arrived => self.sampling().into_iter().for_each(|sampling| sampling.hand = None),
            Step::ToShard(shard, _) => self.sample_to_shard(source, shard),
            Step::ToNode(peer) => self.sample_to_node(source, peer, frame.len()),
            Step::Queued(seat, &QueuedAt { before, bytes }) => {
                let state = self.seats.get(seat).filter(|state| !state.waits());
                if let Some(link) = state.and_then(|state| state.link) {
                    let before = usize::try_from(before).unwrap_or(usize::MAX);
                    self.sample_queued(source, seat, link, before.saturating_add(bytes));
                }
            }
        }
    }

    /// Bytes are about to be handled that were read at this time.
    #[inline]
    pub(in crate::node) fn trace_reading(&mut self, now: Micros) {
        if let Some(tracing) = &mut self.tracing {
            tracing.now = now;
        }
    }

    /// So many frames take the short way together, and are about to be handed on to `target`, whose home is that shard.
    #[cold]
    pub(in crate::node) fn sample_run(
        &mut self,
        source: SeatId,
        (target, home): (SeatId, ShardId),
        frames: u64,
        redirected: bool,
        run: &[u8],
    ) {
        let path = match redirected {
            true => SamplePath::Redirect,
            false => SamplePath::Here,
        };
        let now = self.tracing.as_ref().map_or(0, |tracing| tracing.now);
        self.begin_sample(now, frames, path, source, run, None);
        if home != self.id {
            return self.sample_to_shard(source, home);
        }
        let link = self.seats.get(target).and_then(|state| state.link);
        if let Some((id, link)) = link.and_then(|id| Some((id, self.link(id)?))) {
            let waiting = link.out.len() + link.in_flight + run.len();
            self.sample_queued(source, target, id, waiting);
        }
    }

    /// Frames have come, of which `frame` is the first. One of them may be a sample.
    #[cold]
    fn begin_sample(
        &mut self,
        now: Micros,
        frames: u64,
        path: SamplePath,
        source: SeatId,
        frame: &[u8],
        header: Option<&Route<'_>>,
    ) {
        let Some(sampling) = self.sampling() else { return };
        sampling.hand = None;
        let Some(weight) = sampling.pass(frames) else { return };
        sampling.hand = Some(Sample {
            since: now,
            path,
            source,
            weight,
        });
        let read;
        match header {
            Some(route) => self.note_whose(source, route, weight),
            None => {
                read = header::read(frame);
                if let Ok(Frame::Route(route)) = &read {
                    self.note_whose(source, route, weight);
                }
            }
        }
    }

    fn note_whose(&mut self, source: SeatId, route: &Route<'_>, weight: u64) {
        let payload = route.payload.as_ref();
        let bare = |value: Value<'_>| Some(Box::<str>::from(&*jid::bare_key(&value.unescape()?)?));
        let client = || {
            let (number, token) = session_of(payload?)?;
            Some(self.seats.get(source)?.clients.get(number, &token)?.bare.clone())
        };
        let from = payload.and_then(|payload| payload.from).and_then(bare).or_else(client);
        let to = payload.and_then(|payload| payload.to.or(payload.target)).and_then(bare);
        let name = |value: Option<Value<'_>>| {
            let value = value?.unescape()?;
            Some(Box::<str>::from(&*jid::domain_key(&value)?))
        };
        let (name_from, name_to) = (name(route.from), name(route.to));
        let Some(sampling) = self.sampling() else { return };
        let Window { jids, names, .. } = &mut sampling.present;
        let [jids_from, jids_to] = jids;
        let [names_from, names_to] = names;
        for (sketch, key) in [
            (jids_from, from),
            (jids_to, to),
            (names_from, name_from),
            (names_to, name_to),
        ] {
            key.iter().for_each(|key| sketch.add(key, weight));
        }
    }

    /// The frame in hand was addressed to the user's sm by a redirect.
    pub(in crate::node) fn sample_is_redirected(&mut self) {
        if let Some(sample) = self.sampling().and_then(|sampling| sampling.hand.as_mut())
            && sample.path == SamplePath::Here
        {
            sample.path = SamplePath::Redirect;
        }
    }

    /// The next frame in the lane to this shard is that of this sender in hand.
    #[inline]
    pub(in crate::node) fn sample_to_shard(&mut self, source: SeatId, shard: ShardId) {
        if self.tracing.is_some() {
            self.carry_sample(source, shard);
        }
    }

    #[cold]
    fn carry_sample(&mut self, source: SeatId, shard: ShardId) {
        if let Some(sample) = self.sampling().and_then(|sampling| sampling.take_hand(source)) {
            let batch = &mut self.data[usize::from(shard)];
            let at = batch.len();
            batch.samples.get_or_insert_default().0.push((at, sample));
        }
    }

    /// The frame at this place of a batch is being handled.
    #[cold]
    pub(in crate::node) fn sample_from_shard(&mut self, batch: &DataBatch, at: usize) {
        if let Some(Carried(samples)) = batch.samples.as_deref()
            && let Ok(found) = samples.binary_search_by_key(&at, |(at, _)| *at)
            && let Some(sampling) = self.sampling()
        {
            sampling.hand = Some(samples[found].1);
        }
    }

    /// It is in the output of this component, at the end of so many bytes that are not written yet.
    fn sample_queued(&mut self, source: SeatId, target: SeatId, link: LinkId, waiting: usize) {
        let behind = self.is_behind(target);
        let Some(sampling) = self.sampling() else { return };
        let Some(mut sample) = sampling.take_hand(source) else {
            return;
        };
        if behind {
            sample.path = SamplePath::Uplink;
        }
        sampling.wait(sample, Until::Link(link, waiting));
    }

    fn sample_to_node(&mut self, source: SeatId, peer: PeerId, bytes: usize) {
        let stream = self.peer_stream(peer);
        let Some(sampling) = self.sampling() else { return };
        if let (Some(sample), Some((_, end))) = (sampling.take_hand(source), stream) {
            let sample = Sample {
                path: SamplePath::ToNode,
                ..sample
            };
            sampling.wait(sample, Until::Peer(peer, end + bytes as u64));
        }
    }

    /// Bytes of a link were written.
    pub(super) fn sample_written(&mut self, now: Micros, link: LinkId, bytes: usize) {
        let Some(sampling) = self.sampling().filter(|sampling| !sampling.waiting.is_empty()) else {
            return;
        };
        let mut waiting = std::mem::take(&mut sampling.waiting);
        let written = waiting.extract_if(.., |(_, until)| match until {
            Until::Link(of, left) if *of == link => {
                *left = left.saturating_sub(bytes);
                *left == 0
            }
            Until::Link(..) => false,
            Until::Peer(peer, end) => self.peer_stream(*peer).is_some_and(|(sent, _)| sent >= *end),
        });
        let written: Vec<Sample> = written.map(|(sample, _)| sample).collect();
        let Some(sampling) = self.sampling() else { return };
        sampling.waiting = waiting;
        for sample in written {
            let times = &mut sampling.present.times_us[sample.path as usize];
            times.saturating_record_n(now.saturating_sub(sample.since), sample.weight);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traffic_with_a_period_is_sampled_in_every_phase_and_samples_stay_few() {
        for (per_tick, period) in [(2, 2), (600, 2), (40_000, 4), (600_000, 3)] {
            let mut sampling = Sampling::new(7);
            let (mut phases, mut samples) = (vec![0_u64; period], 0);
            for tick in 0..200 {
                let mut of_tick = 0;
                for frame in 0..per_tick {
                    if let Some(weight) = sampling.pass(1) {
                        phases[frame % period] += weight;
                        of_tick += 1;
                    }
                }
                // At first it is not known how many come.
                let most = if tick < 3 {
                    20 * SAMPLES_PER_TICK
                } else {
                    2 * SAMPLES_PER_TICK
                };
                assert!(of_tick <= most, "{of_tick} samples of {per_tick} frames");
                samples += of_tick;
                sampling.tick(tick * 200_000);
            }
            assert!(samples >= 50, "{samples} of {per_tick} a tick");
            let all: u64 = phases.iter().sum();
            let share = all / period as u64;
            assert!(
                phases.iter().all(|phase| phase.abs_diff(share) <= share / 4),
                "{per_tick} a tick: {phases:?}"
            );
        }
    }
}
