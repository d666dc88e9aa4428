//! The simulation: a whole cluster in one thread, in virtual time, from one seed.
//!
//! The brains are the real ones ([`crate::node::Shard`]). Around them stand models: lanes that deliver late and in any
//! order that the shell's contract allows, links that cut bytes anywhere, stall, break and lose what was inside them,
//! and components (sm, c2s, a peer) that do what jabberd2's do, as far as a router can tell: numbers that are used
//! again at once, a serial sm, an offline queue in a shared database that is read and then deleted, a c2s that writes
//! before it is authenticated. People log in and out, talk, break off. Faults strike. At quiet points the truth is
//! compared with what everybody believes ([`check`]).
//!
//! Every decision comes from the seed, so a failure is replayed by its seed (on CPUs that hash alike).
//!
//! Invariants: the models know which frames were inside a broken connection or a dead process, and nothing else may be
//! lost. Must never be added: real time, real randomness, I/O, and knowledge of the brain's tables: what is checked is
//! what components and the report see.

mod book;
mod c2s;
mod check;
mod lanes;
mod link;
mod net;
mod outside;
mod part;
mod peer;
mod people;
mod plan;
mod redirects;
mod rng;
mod sm;
mod takeover;
#[cfg(test)]
mod tests;
mod text;
mod trouble;
mod wire;
mod world;

pub use plan::Plan;

use crate::jid::TableHasher;

/// What one run came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Virtual time at the end, microseconds.
    pub micros: u64,
    /// Events played.
    pub events: u64,
    /// Messages sent by clients and peer.
    pub messages: u64,
    /// Of these, delivered to a client.
    pub delivered: u64,
    /// Of these, inside a broken connection or a dead process.
    pub excused: u64,
    /// Sessions that were started.
    pub logins: u64,
    /// Faults that struck.
    pub faults: u64,
    /// Routers that gave way to another process.
    pub take_overs: u64,
    /// Frames that components sent by a redirect.
    pub redirected: u64,
}

/// A promise that did not hold.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Replays it.
    pub seed: u64,
    /// Virtual time, microseconds.
    pub micros: u64,
    /// What is wrong.
    pub what: Vec<String>,
    /// What was played, in one line.
    pub plan: String,
    /// The last events before it; empty unless asked for.
    pub trace: Vec<String>,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for line in &self.trace {
            writeln!(f, "{line}")?;
        }
        writeln!(f, "seed {} at {} us: {}", self.seed, self.micros, self.plan)?;
        for line in &self.what {
            writeln!(f, "  {line}")?;
        }
        Ok(())
    }
}

/// Plays the run of this seed with so many nodes. `trace`: a failure comes with everything that was played.
///
/// # Errors
/// A promise did not hold.
pub fn run(seed: u64, nodes: usize, trace: bool) -> Result<Summary, Box<Failure>> {
    play(Plan::of(seed, nodes), trace)
}

/// The same, and now and then a router is replaced by another process.
///
/// # Errors
/// A promise did not hold.
pub fn run_with_take_overs(seed: u64, nodes: usize, trace: bool) -> Result<Summary, Box<Failure>> {
    play(Plan::of(seed, nodes).with_take_overs(), trace)
}

/// The same as [`run`], with components that ask for redirects.
///
/// # Errors
/// A promise did not hold.
pub fn run_with_redirects(seed: u64, nodes: usize, trace: bool) -> Result<Summary, Box<Failure>> {
    play(Plan::of(seed, nodes).with_redirects(), trace)
}

fn play(plan: Plan, trace: bool) -> Result<Summary, Box<Failure>> {
    TableHasher::fix(crate::jid::SIM_SEED);
    world::World::new(plan, trace).play()
}
