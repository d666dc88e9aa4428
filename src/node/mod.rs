//! One shard's whole brain, sans-IO: bytes, closings, lane batches and time come in; bytes, actions
//! and lane batches go out.
//!
//! For: composing wire, table, route and config into the behaviour of a router. Must never be
//! added: sockets, clocks, random sources, threads, the runtime.

pub mod api;
pub mod counters;
pub mod lane;
pub mod report;

use api::{Action, CloseCause, DataBatch, LinkId, Micros, ShardId};
use lane::Control;
use report::ShardReport;
use std::net::SocketAddr;
use std::sync::Arc;

/// A link's state on its way to another shard.
#[derive(Debug)]
pub struct Cargo {}

/// One shard's brain.
pub struct Shard {}

#[allow(unused_variables, missing_docs)]
impl Shard {
    /// The brain of shard `id` of `shards`. Only shard 0 is given new links ([`Shard::opened`]): it negotiates with
    /// them and hands each to its home shard when the component binds its first name.
    pub fn new(id: ShardId, shards: u16, config: Arc<crate::config::Config>, seed: [u8; 32]) -> Shard {
        Shard {}
    }
    /// A connection was accepted.
    pub fn opened(&mut self, now: Micros, remote: SocketAddr) -> LinkId {
        LinkId { slot: 0, generation: 0 }
    }
    /// Bytes were read; all of them are taken.
    pub fn received(&mut self, now: Micros, link: LinkId, bytes: &[u8]) {}
    /// The TLS handshake that [`Action::StartTls`] asked for is done.
    pub fn tls_started(&mut self, now: Micros, link: LinkId) {}
    /// The link's socket is gone. `unsent` is the chunk whose write was in flight (empty if none) and
    /// `written` how many of its bytes the kernel took.
    pub fn closed(&mut self, now: Micros, link: LinkId, cause: CloseCause, unsent: Vec<u8>, written: usize) {}
    /// A link handed over by another shard ([`Action::Move`]).
    pub fn adopt(&mut self, now: Micros, cargo: Box<Cargo>) -> LinkId {
        LinkId { slot: 0, generation: 0 }
    }
    /// Answer to [`Action::Probe`].
    pub fn probed(&mut self, now: Micros, link: LinkId, alive: bool) {}
    /// The bytes to write next: `into` must be empty, its capacity is kept for later output. Called only when the
    /// chunk taken before was written to its end.
    pub fn take_output(&mut self, link: LinkId, into: &mut Vec<u8>) {}
    /// The kernel took `bytes` more of the chunk in flight.
    pub fn written(&mut self, now: Micros, link: LinkId, bytes: usize) {}
    /// What the brain asks for; to be called after every other call, until nothing more comes.
    pub fn take_actions(&mut self, into: &mut Vec<Action>) {}
    /// Control messages for shard `to`: to be sent (to all shards) before any data of the same turn; never dropped, never blocked.
    pub fn take_control(&mut self, to: ShardId) -> Vec<Control> {
        Vec::new()
    }
    /// Frames for shard `to`. When its lane is full, the shell keeps the batch, stops reading links until it fits, and
    /// asks for no further batch for that shard meanwhile.
    pub fn take_data(&mut self, to: ShardId) -> Option<DataBatch> {
        None
    }
    /// Batches from other shards. The shell takes the data lanes *first*, then the control lanes, and gives both here:
    /// so every control message that was sent before a data batch is handled before it.
    pub fn lanes(
        &mut self,
        now: Micros,
        control: &mut Vec<(ShardId, Vec<Control>)>,
        data: &mut Vec<(ShardId, DataBatch)>,
    ) {
    }
    /// Time has passed: to be called when [`Shard::deadline`] is reached.
    pub fn tick(&mut self, now: Micros) {}
    /// When `tick` wants to be called; `None`: not before something else happens.
    pub fn deadline(&self) -> Option<Micros> {
        None
    }
    /// New users, filter rules, ACLs, limits (SIGHUP).
    pub fn reload(&mut self, now: Micros, config: Arc<crate::config::Config>) {}
    /// The process ends (SIGTERM): every link is closed with `</stream:stream>`.
    pub fn shutdown(&mut self, now: Micros) {}
    /// What this shard knows and counted.
    pub fn report(&self) -> ShardReport {
        ShardReport::default()
    }
}
