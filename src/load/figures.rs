//! What a measurement came to.

use super::cpu;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::time::Instant;

/// Longest latency that is told apart, nanoseconds.
pub(super) const LATENCY_NS_MAX: u64 = 60_000_000_000;
/// A generator whose threads work for so much of the time is the limit.
const BUSY: f64 = 0.95;

/// One measurement.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Figures {
    /// What was measured, in the words of the table.
    pub(super) workload: String,
    pub(super) seconds: f64,
    /// Frames that arrived, each found to be whole, unaltered and in order.
    pub(super) frames: u64,
    pub(super) frames_per_s: f64,
    pub(super) mb_per_s: f64,
    /// Mean bytes of a frame.
    pub(super) frame_bytes: f64,
    /// CPU seconds of the router per million frames, all of its threads; `None`: no process was named.
    pub(super) server_cpu_s_per_million: Option<f64>,
    /// How many CPUs the router kept busy.
    pub(super) server_cpus: Option<f64>,
    /// Most memory that the router had, MB.
    pub(super) server_mb_max: Option<f64>,
    /// CPU seconds of this generator per million frames.
    pub(super) generator_cpu_s_per_million: f64,
    /// How much of its threads' time the generator worked.
    pub(super) generator_busy: f64,
    /// The router could have done more: this generator is what was measured.
    pub(super) generator_is_the_limit: bool,
    /// Where the workload is logins.
    pub(super) logins_per_s: Option<f64>,
    /// Frames that came back as errors, where the workload provokes that.
    pub(super) bounced: u64,
    /// Frames that neither arrived nor came back, where the workload provokes that.
    pub(super) undelivered: u64,
    /// Latencies, by group of links.
    pub(super) latency: Vec<Latency>,
}

/// From when a frame was due to when it had arrived, microseconds.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Latency {
    pub(super) group: String,
    pub(super) count: u64,
    pub(super) p50_us: f64,
    pub(super) p90_us: f64,
    pub(super) p99_us: f64,
    pub(super) p99_9_us: f64,
    pub(super) p99_99_us: f64,
    pub(super) max_us: f64,
}

impl Latency {
    pub(super) fn of(group: &str, histogram: &Histogram<u64>) -> Latency {
        let us = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        Latency {
            group: group.to_owned(),
            count: histogram.len(),
            p50_us: us(0.5),
            p90_us: us(0.9),
            p99_us: us(0.99),
            p99_9_us: us(0.999),
            p99_99_us: us(0.9999),
            max_us: histogram.max() as f64 / 1e3,
        }
    }
}

/// Three digits, up to a minute.
pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("these bounds are good")
}

/// Time and CPU from one moment on.
#[derive(Debug)]
pub(super) struct Meter {
    pids: Vec<u32>,
    at: Instant,
    server: f64,
}

impl Meter {
    /// `pids`: the router's processes.
    pub(super) fn start(pids: &[u32]) -> Result<Meter, String> {
        Ok(Meter {
            pids: pids.to_vec(),
            at: Instant::now(),
            server: cpu::seconds_of_all(pids)?,
        })
    }

    /// `own`: CPU seconds of the generator's `threads` threads.
    pub(super) fn stop(self, frames: u64, bytes: u64, own: f64, threads: usize) -> Result<Figures, String> {
        let seconds = self.at.elapsed().as_secs_f64();
        let server = cpu::seconds_of_all(&self.pids)? - self.server;
        let named = |value: f64| (!self.pids.is_empty()).then_some(value);
        let millions = frames.max(1) as f64 / 1e6;
        let generator_busy = own / seconds / threads as f64;
        Ok(Figures {
            seconds,
            frames,
            frames_per_s: frames as f64 / seconds,
            mb_per_s: bytes as f64 / seconds / 1e6,
            frame_bytes: bytes as f64 / frames.max(1) as f64,
            server_cpu_s_per_million: named(server / millions),
            server_cpus: named(server / seconds),
            server_mb_max: named(cpu::memory_mb(&self.pids)),
            generator_cpu_s_per_million: own / millions,
            generator_busy,
            // A router that has all of a CPU is at its own limit, whatever the generator does.
            generator_is_the_limit: generator_busy > BUSY && server / seconds < BUSY,
            ..Figures::default()
        })
    }
}
