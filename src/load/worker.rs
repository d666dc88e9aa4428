//! One thread of the generator: some of the links, and the lanes that send on them.

use super::arrive::{Arrivals, Tally};
use super::link::Link;
use super::plan::{Pace, Plan, Reading, Shared};
use super::poll::Poll;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

/// A router that moves nothing for so long has lost a frame, nanoseconds.
const STALL_NS: u64 = 10_000_000_000;
/// The longest wait for something to happen, nanoseconds.
const WAIT_NS: u64 = 50_000_000;
/// What is due so soon is awaited without sleeping, nanoseconds.
const SPIN_NS: u64 = 1_000_000;
/// Bytes that an open-loop lane may write at once to catch up.
const CATCH_UP_BYTES: usize = 64 << 10;
/// How long a link that is read slowly waits between two reads, nanoseconds.
const SLOW_READ_NS: u64 = 1_000_000;

/// One thread's part.
#[derive(Debug)]
pub(super) struct Worker {
    /// Which thread of all.
    at: usize,
    pub(super) cpu: Option<usize>,
    /// Index in the plan, and the link.
    pub(super) links: Vec<(usize, Link)>,
    lanes: Vec<Sending>,
    pub(super) tally: Tally,
    poll: Poll,
    /// Bytes that slow links have taken in this run.
    taken: Vec<f64>,
}

/// Where a lane is.
#[derive(Debug)]
struct Sending {
    lane: usize,
    /// Index into the worker's links.
    link: usize,
    /// Index into the lane's order.
    at: usize,
    sent: u64,
    /// Frames sent before this run.
    before: u64,
}

/// From when to when, on the engine's clock, nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) clock: Instant,
    pub(super) from_ns: u64,
    pub(super) until_ns: u64,
}

impl Span {
    fn now_ns(&self) -> u64 {
        self.clock.elapsed().as_nanos() as u64
    }
}

impl Worker {
    pub(super) fn new(
        plan: &Plan,
        shared: &Shared,
        at: usize,
        links: Vec<(usize, Link)>,
        cpu: Option<usize>,
    ) -> Result<Worker, String> {
        let mut poll = Poll::new()?;
        for (index, link) in &links {
            poll.add(link.fd(), plan.reading[*index] == Reading::Always)?;
        }
        // Behind the links.
        poll.add(shared.dozes[at].bell(), true)?;
        let local = |link: usize| links.iter().position(|(index, _)| *index == link);
        let lanes = plan.lanes.iter().enumerate().filter_map(|(lane, what)| {
            Some(Sending {
                lane,
                link: local(what.link)?,
                at: 0,
                sent: 0,
                before: 0,
            })
        });
        Ok(Worker {
            at,
            cpu,
            lanes: lanes.collect(),
            tally: Tally::new(plan),
            poll,
            taken: vec![0.0; links.len()],
            links,
        })
    }

    /// Sends from now to the end of the span, then waits until everything sent has come, at all threads.
    pub(super) fn run(&mut self, plan: &Plan, shared: &Shared, span: Span) -> Result<(), String> {
        self.lanes.iter_mut().for_each(|lane| lane.before = lane.sent);
        self.taken.fill(0.0);
        let slow = |(index, _): &(usize, Link)| matches!(plan.reading[*index], Reading::Slowly { .. });
        let has_slow = self.links.iter().any(slow);
        let (mut moved, mut moved_ns, mut seen, mut idle) = (true, span.from_ns, 0, false);
        while !shared.stopped() {
            let now = span.now_ns();
            let received = shared.received();
            let next_due = self.fill(plan, shared, span, now)?;
            let written = self.write()?;
            let wait = if moved || written || plan.spin {
                0
            } else {
                next_due.saturating_sub(now)
            };
            let most = if has_slow { SLOW_READ_NS } else { WAIT_NS };
            let sleeps = wait >= SPIN_NS && (self.lanes.is_empty() || shared.dozes[self.at].lie_down(shared, received));
            let read = self.read(plan, span, if sleeps { wait.min(most) } else { 0 })?;
            if sleeps {
                shared.dozes[self.at].rise();
            }
            moved = self.tally.report(shared) || written || read;
            if moved || received != seen {
                (moved_ns, seen) = (now, received);
            }
            if now < span.until_ns {
                continue;
            }
            let quiet = self.links.iter().all(|(_, link)| link.out.len() == 0);
            if quiet != idle {
                idle = quiet;
                shared.idle.fetch_add(if quiet { 1 } else { u64::MAX }, Relaxed);
            }
            if idle && finished(plan, shared) {
                return Ok(());
            }
            if now.saturating_sub(moved_ns) > STALL_NS {
                return Err(stalled(plan, shared));
            }
        }
        Ok(())
    }

    /// Makes the frames that are to be sent now; gives when the next one is due.
    fn fill(&mut self, plan: &Plan, shared: &Shared, span: Span, now: u64) -> Result<u64, String> {
        let mut next_due = u64::MAX;
        if now >= span.until_ns {
            return Ok(next_due);
        }
        let single = plan.write_bytes.is_none();
        for sending in &mut self.lanes {
            let lane = &plan.lanes[sending.lane];
            let count = &shared.lanes[sending.lane];
            let out = &mut self.links[sending.link].1.out;
            let sent = sending.sent;
            loop {
                let due_ns = match lane.pace {
                    Pace::Flat { window } => {
                        let room = window.saturating_sub(sending.sent.saturating_sub(count.done.load(Relaxed)));
                        // Small pieces only when nothing else is on its way: a window that opens in small pieces would
                        // be filled in small pieces ever after.
                        let piece = sending.sent == sent && !single && room < window.div_ceil(4);
                        if room == 0 || piece || out.len() >= plan.write_bytes.unwrap_or(1) {
                            break;
                        }
                        now
                    }
                    Pace::Rate { per_s } => {
                        let lanes = plan.lanes.len() as f64;
                        let turn = (sending.sent - sending.before) as f64 + sending.lane as f64 / lanes;
                        let due_ns = span.from_ns + (turn / per_s * 1e9) as u64;
                        if due_ns > now || out.len() >= CATCH_UP_BYTES {
                            next_due = next_due.min(due_ns);
                            break;
                        }
                        due_ns
                    }
                };
                let recipe = lane.order[sending.at];
                sending.at = (sending.at + 1) % lane.order.len();
                self.tally.send(plan, recipe, due_ns, out);
                sending.sent += u64::from(plan.book.recipes[recipe as usize].ends);
            }
            if sending.sent != sent {
                count.sent.store(sending.sent, Relaxed);
            }
        }
        Ok(next_due)
    }

    fn write(&mut self) -> Result<bool, String> {
        let mut written = 0;
        for (_, link) in &mut self.links {
            if link.out.len() > 0 {
                written += link.flush()?;
            }
        }
        Ok(written > 0)
    }

    /// Reads what is there; waits for something, so long, if nothing is.
    fn read(&mut self, plan: &Plan, span: Span, wait_ns: u64) -> Result<bool, String> {
        let mut read = false;
        if wait_ns > 0 {
            for (local, (index, link)) in self.links.iter().enumerate() {
                let reads = plan.reading[*index] == Reading::Always;
                self.poll.want(link.fd(), local, reads, link.out.len() > 0)?;
            }
        }
        let ready = self.poll.wait(wait_ns / 1_000_000)?;
        let now_ns = span.now_ns();
        for at in 0..ready {
            let local = self.poll.ready(at);
            if local == self.links.len() {
                continue;
            }
            read |= self.read_link(plan, local, now_ns, usize::MAX)? > 0;
        }
        for local in 0..self.links.len() {
            if let Reading::Slowly { bytes_per_s } = plan.reading[self.links[local].0] {
                let allowed = now_ns.saturating_sub(span.from_ns) as f64 / 1e9 * bytes_per_s - self.taken[local];
                if allowed * 1e9 >= bytes_per_s * SLOW_READ_NS as f64 {
                    self.taken[local] += self.read_link(plan, local, now_ns, allowed as usize)? as f64;
                }
            }
        }
        Ok(read)
    }

    fn read_link(&mut self, plan: &Plan, local: usize, now_ns: u64, most: usize) -> Result<usize, String> {
        let (index, link) = &mut self.links[local];
        if plan.reading[*index] == Reading::Never {
            return Ok(0);
        }
        let mut arrivals = Arrivals {
            plan,
            tally: &mut self.tally,
            link: *index,
            now_ns,
        };
        let read = link.read(most, Some(&plan.book), &mut arrivals)?;
        self.tally.settle(now_ns);
        Ok(read)
    }
}

/// All threads have written all, and everything has come that must.
fn finished(plan: &Plan, shared: &Shared) -> bool {
    shared.all_idle() && awaited(plan, shared) == 0
}

fn stalled(plan: &Plan, shared: &Shared) -> String {
    let (missing, seconds) = (awaited(plan, shared), STALL_NS / 1_000_000_000);
    format!("{missing} of the frames sent were lost: nothing has come for {seconds} s")
}

/// Frames on their way that must arrive.
fn awaited(plan: &Plan, shared: &Shared) -> u64 {
    let lanes = plan.lanes.iter().zip(&shared.lanes);
    lanes
        .filter(|(lane, _)| !lane.lossy)
        .map(|(_, count)| count.outstanding())
        .sum()
}
