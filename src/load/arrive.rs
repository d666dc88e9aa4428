//! What one thread sends and what arrives: numbered, checked, counted, timed, and sent on where its way goes on.

use super::answer;
use super::book::Known;
use super::figures;
use super::link::{Out, Sink, in_order};
use super::plan::{Plan, Shared};
use super::stamp::Stamp;
use hdrhistogram::Histogram;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

/// What one thread has sent and seen arrive.
#[derive(Debug)]
pub(super) struct Tally {
    /// For each flow: the number of the next frame to send.
    numbers: Vec<u32>,
    /// For each flow: the number that must come next.
    expected: Vec<u32>,
    /// For each group.
    pub(super) latency: Vec<Histogram<u64>>,
    /// Frames since the last report to the other threads.
    frames: u64,
    bytes: u64,
    bounced: u64,
    done: Vec<u64>,
    /// Frames that were due at the same moment, and are recorded at once: group, when, how many.
    run: (usize, u64, u64),
}

impl Tally {
    pub(super) fn new(plan: &Plan) -> Tally {
        Tally {
            numbers: vec![0; plan.book.flows()],
            expected: vec![0; plan.book.flows()],
            latency: plan.groups.iter().map(|_| figures::histogram()).collect(),
            frames: 0,
            bytes: 0,
            bounced: 0,
            done: vec![0; plan.lanes.len()],
            run: (0, 0, 0),
        }
    }

    /// Makes the next frame of its flow.
    pub(super) fn send(&mut self, plan: &Plan, recipe: u32, due_ns: u64, out: &mut Out) {
        let number = &mut self.numbers[plan.book.recipes[recipe as usize].flow as usize];
        let stamp = Stamp {
            recipe,
            number: *number,
            due_ns,
        };
        *number = number.wrapping_add(1);
        plan.book.write(stamp, &mut out.bytes);
        out.framed();
    }

    /// Ends a batch that arrived at one time.
    pub(super) fn settle(&mut self, now_ns: u64) {
        let (group, due_ns, count) = std::mem::take(&mut self.run);
        if count > 0 {
            let late = now_ns.saturating_sub(due_ns).max(1);
            self.latency[group].saturating_record(late);
            if count > 1 {
                // Cannot fail: what was just recorded is within the bounds.
                let _ = self.latency[group].record_n(late.min(figures::LATENCY_NS_MAX), count - 1);
            }
        }
    }

    /// Tells the other threads; whether there was anything.
    pub(super) fn report(&mut self, shared: &Shared) -> bool {
        let moved = self.frames > 0 || self.bounced > 0;
        if moved {
            shared.bytes.fetch_add(std::mem::take(&mut self.bytes), Relaxed);
            for (done, lane) in self.done.iter_mut().zip(&shared.lanes) {
                if *done > 0 {
                    lane.done.fetch_add(std::mem::take(done), Relaxed);
                }
            }
            shared.frames.fetch_add(std::mem::take(&mut self.frames), SeqCst);
            shared.bounced.fetch_add(std::mem::take(&mut self.bounced), SeqCst);
            shared.wake_all();
        }
        moved
    }
}

/// The arrivals at one link, at one time.
pub(super) struct Arrivals<'a> {
    pub(super) plan: &'a Plan,
    pub(super) tally: &'a mut Tally,
    pub(super) link: usize,
    pub(super) now_ns: u64,
}

impl Sink for Arrivals<'_> {
    fn known(&mut self, known: Known, bytes: usize, out: &mut Out) -> Result<(), String> {
        let Known { stamp, bounced } = known;
        let recipe = &self.plan.book.recipes[stamp.recipe as usize];
        let (number, lane) = (usize::from(recipe.lane), &self.plan.lanes[usize::from(recipe.lane)]);
        if bounced {
            if !lane.lossy {
                return Err(self.wrong(stamp, "came back as an error"));
            }
            self.tally.bounced += 1;
            self.tally.done[number] += u64::from(recipe.ends);
            return Ok(());
        }
        if usize::from(recipe.dest) != self.link {
            return Err(self.wrong(stamp, &format!("came to link {}, not to {}", self.link, recipe.dest)));
        }
        let expected = self.tally.expected[recipe.flow as usize];
        let missed = stamp.number.wrapping_sub(expected) as i32 > 0;
        if !(lane.lossy && missed) {
            in_order(stamp, expected).map_err(|why| format!("{}: {why}", self.text(stamp)))?;
        }
        self.tally.expected[recipe.flow as usize] = stamp.number.wrapping_add(1);
        self.tally.frames += 1;
        self.tally.bytes += bytes as u64;
        for then in recipe.then() {
            self.tally.send(self.plan, then, stamp.due_ns, out);
        }
        if recipe.then().is_empty() {
            self.tally.done[number] += 1;
            if (self.tally.run.0, self.tally.run.1) != (lane.group, stamp.due_ns) {
                self.tally.settle(self.now_ns);
                self.tally.run = (lane.group, stamp.due_ns, 0);
            }
            self.tally.run.2 += 1;
        }
        Ok(())
    }

    fn other(&mut self, frame: &[u8], out: &mut Out) -> Result<(), String> {
        answer::to_router(frame, out)
    }
}

impl Arrivals<'_> {
    fn wrong(&self, stamp: Stamp, why: &str) -> String {
        format!("{} {why}", self.text(stamp))
    }

    /// A frame, for an error.
    fn text(&self, stamp: Stamp) -> String {
        let mut frame = Vec::new();
        self.plan.book.write(stamp, &mut frame);
        format!(
            "frame {} of its flow, {}",
            stamp.number,
            super::component::excerpt(&frame)
        )
    }
}
