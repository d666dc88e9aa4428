//! The shell: the only room that knows the runtime, sockets, the clock and signals.
//!
//! For: driving one [`node::Shard`](crate::node::Shard) a CPU. One glommio executor is pinned to each CPU used and
//! runs one task, the *pump* ([`pump`]): collect what the sockets did, give it to the brain, carry out what the
//! brain asks, write once for each destination, send the lanes, sleep.
//!
//! Invariants:
//! * No link is read more than one budget at a time ([`driver::Budget`]); links take turns.
//! * One write at a time for each link; what comes meanwhile waits in the brain.
//! * Everything the shell holds is bounded: links by `max_fds`, those that peers opened by [`accept::PEER_LINKS_MAX`],
//!   dials by [`dial`]'s limit, lanes by `<lane-batches>` and [`CONTROL_MESSAGES`], timers by links.
//! * A socket is closed by its shard, explicitly, before the shard's executor ends.
//! * An idle shard sleeps in the kernel; only the heartbeat wakes it.
//!
//! Must never be added: anything that reads a frame's contents, a lock or a shared counter touched per frame, a
//! call that may wait for a disk or for another machine inside an executor.

mod accept;
#[cfg(test)]
mod adopted;
mod brain;
mod checks;
mod control;
mod cpus;
mod dial;
mod driver;
mod hub;
mod input;
mod journal;
mod lanes;
mod link;
mod notify;
mod output;
mod pace;
mod pump;
mod recovery;
mod run;
mod start;
mod sys;
mod takeover;
mod tls;

pub use brain::Brain;
pub use checks::{Needed, needed};
pub use control::Control;
pub use cpus::chosen as chosen_cpus;
pub use journal::{Journal, Stderr};
pub use lanes::CONTROL_MESSAGES;
pub use run::{Given, run};
pub use start::{Running, Setup, StartError, start};
pub(crate) use sys::Signals;
pub use sys::end_with_reader;
pub use tls::server as tls_server;

/// Whether a shard can have a completion ring of its own here; else why not.
pub fn completion_ring() -> Result<(), String> {
    driver::has_ring().map_err(|error| error.to_string())
}
