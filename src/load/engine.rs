//! Runs a plan: threads, time, progress, figures.

use super::cpu;
use super::figures::{self, Figures, Latency, Meter};
use super::link::{self, Link};
use super::plan::{Plan, Shared};
use super::worker::{Span, Worker};
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

/// How often memory is looked at, milliseconds.
const WATCH_MS: u64 = 100;

/// How long, and who is told.
#[derive(Clone, Debug)]
pub(super) struct Timing {
    /// Traffic before the figures are taken, so that buffers, clocks and caches have settled.
    pub(super) warm_up_s: f64,
    pub(super) seconds: f64,
    /// A line a second on standard error.
    pub(super) progress: bool,
}

/// A plan with its links, ready to run as often as one likes.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) plan: Plan,
    workers: Vec<Worker>,
    shared: Shared,
    clock: Instant,
    /// Frames that lossy lanes had lost before this run.
    lost: u64,
}

impl Engine {
    /// `cpus`: a thread for each, pinned to it; none: one thread, wherever the system puts it. The links are dealt to
    /// them in turn.
    pub(super) fn new(plan: Plan, links: Vec<Link>, cpus: &[usize]) -> Result<Engine, String> {
        assert_eq!(links.len(), plan.reading.len(), "the plan speaks of these links");
        let threads = cpus.len().max(1);
        let mut parts: Vec<Vec<(usize, Link)>> = (0..threads).map(|_| Vec::new()).collect();
        for (index, mut link) in links.into_iter().enumerate() {
            link.one_frame_a_write(plan.write_bytes.is_none());
            parts[index % threads].push((index, link));
        }
        let shared = Shared::new(plan.lanes.len(), threads)?;
        let worker = |(at, links)| Worker::new(&plan, &shared, at, links, cpus.get(at).copied());
        let workers = parts
            .into_iter()
            .enumerate()
            .map(worker)
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Engine {
            plan,
            workers,
            shared,
            clock: Instant::now(),
            lost: 0,
        })
    }

    /// Warms up, then measures. `pids`: the router's processes.
    pub(super) fn measure(&mut self, pids: &[u32], timing: &Timing) -> Result<Figures, String> {
        self.run(timing.warm_up_s, pids, None)?;
        for worker in &mut self.workers {
            worker.tally.latency.iter_mut().for_each(hdrhistogram::Histogram::reset);
        }
        let counted =
            |shared: &Shared| [&shared.frames, &shared.bytes, &shared.bounced, &shared.cpu_ns].map(|n| n.load(Relaxed));
        let before = counted(&self.shared);
        self.lost = self.outstanding();
        let meter = Meter::start(pids)?;
        let mb_max = self.run(timing.seconds, pids, timing.progress.then_some(before[0]))?;
        let after = counted(&self.shared);
        let [frames, bytes, bounced, cpu_ns] = std::array::from_fn(|at| after[at] - before[at]);
        let mut figures = meter.stop(frames, bytes, cpu_ns as f64 / 1e9, self.workers.len())?;
        figures.workload.clone_from(&self.plan.name);
        figures.bounced = bounced;
        figures.undelivered = self.outstanding() - self.lost;
        figures.server_mb_max = figures.server_mb_max.map(|mb| mb.max(mb_max));
        figures.latency = self.latency();
        Ok(figures)
    }

    fn outstanding(&self) -> u64 {
        self.shared.lanes.iter().map(super::plan::LaneCount::outstanding).sum()
    }

    fn latency(&self) -> Vec<Latency> {
        let of = |(group, name): (usize, &String)| {
            let mut all = figures::histogram();
            for worker in &self.workers {
                // Cannot fail: all have the same bounds.
                let _ = all.add(&worker.tally.latency[group]);
            }
            Latency::of(name, &all)
        };
        self.plan.groups.iter().enumerate().map(of).collect()
    }

    /// Runs all threads for so long; gives the most memory that was seen, MB.
    fn run(&mut self, seconds: f64, pids: &[u32], progress: Option<u64>) -> Result<f64, String> {
        let from_ns = self.clock.elapsed().as_nanos() as u64;
        let span = Span {
            clock: self.clock,
            from_ns,
            until_ns: from_ns + (seconds * 1e9) as u64,
        };
        let (plan, shared) = (&self.plan, &self.shared);
        shared.idle.store(0, Relaxed);
        let mut mb_max = 0.0_f64;
        thread::scope(|scope| {
            let running: Vec<_> = self
                .workers
                .iter_mut()
                .map(|worker| {
                    scope.spawn(move || {
                        let done = cpu::pin(worker.cpu).and_then(|()| worker.run(plan, shared, span));
                        done.unwrap_or_else(|why| shared.fail(why));
                        shared.cpu_ns.fetch_add(cpu::own_thread_ns(), Relaxed);
                    })
                })
                .collect();
            let mut told = Instant::now();
            while !running.iter().all(thread::ScopedJoinHandle::is_finished) {
                thread::sleep(Duration::from_millis(if seconds < 1.0 { 5 } else { WATCH_MS }));
                mb_max = mb_max.max(cpu::memory_mb(pids));
                if let Some(before) = progress
                    && told.elapsed() >= Duration::from_secs(1)
                {
                    told = Instant::now();
                    tell(&plan.name, span, shared.frames.load(Relaxed) - before);
                }
            }
        });
        match shared.failure() {
            Some(why) => Err(why),
            None => Ok(mb_max),
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        link::part(
            self.workers
                .iter_mut()
                .flat_map(|worker| &mut worker.links)
                .map(|(_, link)| link),
        );
    }
}

fn tell(name: &str, span: Span, frames: u64) {
    let seconds = (span.clock.elapsed().as_nanos() as u64 - span.from_ns) as f64 / 1e9;
    eprintln!("{name}: {seconds:.0} s, {:.0} frames/s", frames as f64 / seconds);
}
