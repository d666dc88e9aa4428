//! What the shell (or a simulation) and a shard's brain say to each other.

use std::net::SocketAddr;

pub use crate::table::ShardId;
pub use crate::table::link::{CloseCause, Level, LinkId, Micros};

/// What the brain asks of the shell. Taken with [`Shard::take_actions`](super::Shard::take_actions) after every call.
#[derive(Debug)]
pub enum Action<C = super::Cargo> {
    /// Bytes wait for this link: when no write of it is in flight, call
    /// [`Shard::take_output`](super::Shard::take_output) and write what comes.
    Output(LinkId),
    /// Write what was taken and what still waits (for at most [`CLOSE_FLUSH_MS`]), then close the socket and
    /// report [`CloseCause::Local`]. Nothing more is read.
    Close(LinkId),
    /// Negotiate TLS as the server, from the next byte read; what the brain sees stays plain text. The bytes still
    /// waiting for output go out unencrypted first.
    StartTls(LinkId),
    /// Stop reading this link until [`Action::Resume`].
    Pause(LinkId),
    /// Read this link again.
    Resume(LinkId),
    /// Hand the link's socket to another shard: stop reading, wait for the write in flight, give the socket to shard
    /// `to`, which calls [`Shard::adopt`](super::Shard::adopt) with the cargo. The link ends here without `closed`.
    Move {
        /// The link to hand over.
        link: LinkId,
        /// Its new home.
        to: ShardId,
        /// The brain's state of it.
        cargo: Box<C>,
    },
    /// Is the peer's kernel still acknowledging what we send? Answer with
    /// [`Shard::probed`](super::Shard::probed) (unacknowledged bytes in TCP_INFO: no).
    Probe(LinkId),
    /// A line for the operator's log.
    Log(LogLine),
    /// Append to a file of the operator's: message log, or a filter rule's dump. Never waits for the disk.
    Append {
        /// The file.
        file: std::path::PathBuf,
        /// What to append.
        bytes: Vec<u8>,
        /// The time and a space go before it.
        stamped: bool,
    },
}

/// How long a closing link may take to write its last bytes, milliseconds.
pub const CLOSE_FLUSH_MS: u64 = 2_000;

/// One line of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// How grave.
    pub level: Level,
    /// The address of the link concerned, if one is.
    pub remote: Option<SocketAddr>,
    /// What happened, one line, in words an operator knows.
    pub text: String,
}

/// Frames from one shard to another, gathered over one turn.
#[derive(Debug, Default)]
pub struct DataBatch {
    pub(super) frames: Vec<super::lane::LaneFrame>,
    pub(super) bytes: Vec<u8>,
}
