//! What a workload is, once its components are connected: who sends what, how fast, and who reads how.

use super::book::Book;
use super::doze::Doze;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Mutex, PoisonError};

/// A sender: one link, its frames in turn, over and over.
#[derive(Clone, Debug)]
pub(super) struct Lane {
    /// Index of its link.
    pub(super) link: usize,
    /// Indices of recipes.
    pub(super) order: Vec<u32>,
    pub(super) pace: Pace,
    /// Whose latencies it belongs to; index into the plan's groups.
    pub(super) group: usize,
    /// Its frames may be lost or come back: their receiver is slow on purpose.
    pub(super) lossy: bool,
}

/// How fast a lane sends.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pace {
    /// As fast as it goes, with so many frames on their way at most.
    Flat { window: u64 },
    /// So many frames a second, whatever comes back: what is late counts as late from when it was due.
    Rate { per_s: f64 },
}

/// How a link is read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Reading {
    Always,
    /// So many bytes a second.
    Slowly {
        bytes_per_s: f64,
    },
    Never,
}

/// A workload.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) name: String,
    pub(super) book: Book,
    pub(super) lanes: Vec<Lane>,
    pub(super) groups: Vec<String>,
    /// For each link.
    pub(super) reading: Vec<Reading>,
    /// Bytes per write, in whole frames; `None`: one frame a write.
    pub(super) write_bytes: Option<usize>,
    /// Look for arrivals without a pause, so that this program's own wake-up is in no latency.
    pub(super) spin: bool,
}

/// What the generator's threads tell one another.
#[derive(Debug)]
pub(super) struct Shared {
    /// For each lane.
    pub(super) lanes: Vec<LaneCount>,
    /// Frames and bytes that arrived.
    pub(super) frames: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) bounced: AtomicU64,
    /// CPU time that the threads have used, nanoseconds.
    pub(super) cpu_ns: AtomicU64,
    /// Where each thread sleeps.
    pub(super) dozes: Vec<Doze>,
    /// Threads that have written all they will.
    pub(super) idle: AtomicU64,
    stop: AtomicBool,
    failure: Mutex<Option<String>>,
}

/// Frames of one lane, on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct LaneCount {
    pub(super) sent: AtomicU64,
    /// Arrived at the end of their way, or came back.
    pub(super) done: AtomicU64,
}

impl LaneCount {
    pub(super) fn outstanding(&self) -> u64 {
        // `done` first: a frame that is sent meanwhile must not count as done before it is sent.
        let done = self.done.load(Relaxed);
        self.sent.load(Relaxed).saturating_sub(done)
    }
}

impl Shared {
    pub(super) fn new(lanes: usize, threads: usize) -> Result<Shared, String> {
        Ok(Shared {
            lanes: (0..lanes).map(|_| LaneCount::default()).collect(),
            frames: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            bounced: AtomicU64::new(0),
            cpu_ns: AtomicU64::new(0),
            dozes: (0..threads).map(|_| Doze::new()).collect::<Result<_, _>>()?,
            idle: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            failure: Mutex::new(None),
        })
    }

    /// Frames that arrived, or came back.
    pub(super) fn received(&self) -> u64 {
        self.frames.load(SeqCst) + self.bounced.load(SeqCst)
    }

    /// Something was counted: threads whose windows it may open wake up.
    pub(super) fn wake_all(&self) {
        self.dozes.iter().for_each(Doze::wake);
    }

    /// Whether all threads have written all they will.
    pub(super) fn all_idle(&self) -> bool {
        self.idle.load(Relaxed) == self.dozes.len() as u64
    }

    /// The first failure counts.
    pub(super) fn fail(&self, why: String) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(why);
        self.stop.store(true, Relaxed);
    }

    pub(super) fn stopped(&self) -> bool {
        self.stop.load(Relaxed)
    }

    pub(super) fn failure(&self) -> Option<String> {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.clone()
    }
}
