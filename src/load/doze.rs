//! A thread whose lanes are at their windows' ends sleeps until another thread has received something.

use super::plan::Shared;
use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

/// One thread's bed.
#[derive(Debug)]
pub(super) struct Doze {
    asleep: AtomicBool,
    bell: OwnedFd,
}

impl Doze {
    pub(super) fn new() -> Result<Doze, String> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        Ok(Doze {
            asleep: AtomicBool::new(false),
            bell: bell.map_err(|e| format!("eventfd: {e}"))?,
        })
    }

    /// Readable once somebody woke the thread.
    pub(super) fn bell(&self) -> RawFd {
        self.bell.as_raw_fd()
    }

    /// The thread will wait for its bell, unless something was received since the count was `seen`: then not.
    pub(super) fn lie_down(&self, shared: &Shared, seen: u64) -> bool {
        self.asleep.store(true, SeqCst);
        // Whoever counts later finds it asleep; whoever counted before is seen here.
        let may_sleep = shared.received() == seen;
        if !may_sleep {
            self.asleep.store(false, Relaxed);
        }
        may_sleep
    }

    /// The thread is up again, for whatever reason.
    pub(super) fn rise(&self) {
        self.asleep.store(false, Relaxed);
        // Empty, if nobody rang.
        let _ = rustix::io::read(&self.bell, &mut [0_u8; 8]);
    }

    /// Wakes the thread if it sleeps; after something was counted.
    pub(super) fn wake(&self) {
        // Read first: nearly always it is awake, and a swap would take the line from the other threads.
        if self.asleep.load(SeqCst) && self.asleep.swap(false, SeqCst) {
            // Cannot fail: the counter is far from its end.
            let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::load::poll::Poll;
    use std::time::Instant;

    #[test]
    fn what_is_received_wakes_a_sleeper_or_keeps_it_awake() {
        let shared = Shared::new(0, 1).unwrap();
        let doze = &shared.dozes[0];
        let mut poll = Poll::new().unwrap();
        poll.add(doze.bell(), true).unwrap();
        let receive = || {
            shared.frames.fetch_add(1, SeqCst);
            shared.wake_all();
        };
        let seen = shared.received();
        receive();
        assert!(!doze.lie_down(&shared, seen));
        assert_eq!(poll.wait(0).unwrap(), 0, "nobody rings for who is awake");
        let start = Instant::now();
        assert!(doze.lie_down(&shared, shared.received()));
        std::thread::scope(|scope| {
            scope.spawn(receive);
            assert_eq!(poll.wait(60_000).unwrap(), 1);
        });
        assert!(start.elapsed().as_secs() < 60);
        doze.rise();
        assert_eq!(poll.wait(0).unwrap(), 0, "the bell is silent again");
    }
}
