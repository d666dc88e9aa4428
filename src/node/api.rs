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
    /// The same, but at once: what is unsent, also what the kernel holds, must not reach the other side any more. It
    /// sees a reset.
    Abort(LinkId),
    /// Negotiate TLS as the server, from the next byte read; what the brain sees stays plain text. The bytes still
    /// waiting for output go out unencrypted first.
    StartTls(LinkId),
    /// The same as the client, on a link to the stock router.
    StartTlsAsClient(LinkId),
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
    /// Open a connection to a peer: resolve `host` (a DNS name, asked anew each time, or an IP address) and try its
    /// addresses in turn, each for at most [`DIAL_MS`]. The answer is [`Shard::dialed`](super::Shard::dialed), from
    /// where on it is a link like any other, or [`Shard::closed`](super::Shard::closed). The brain may close it before.
    Dial {
        /// The link to be, made by the brain.
        link: LinkId,
        /// Whom to call.
        host: Box<str>,
        /// At which port.
        port: u16,
    },
    /// Is the peer's kernel still acknowledging what we send? Answer with
    /// [`Shard::probed`](super::Shard::probed) (unacknowledged bytes in TCP_INFO: no).
    Probe(LinkId),
    /// To a question of [`Shard::inquire`](super::Shard::inquire).
    Answer {
        /// The question's ticket.
        ticket: u64,
        /// The answer.
        answer: super::cluster::Answer,
    },
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

/// How long one address may take to accept a dial, milliseconds.
pub const DIAL_MS: u64 = 1_000;

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
    /// Frames and bytes of the batch before: this one is expected to be like it.
    pub(super) like: (usize, usize),
    /// Those of its frames that are samples, by their place.
    pub(super) samples: Option<Box<super::trace::Carried>>,
}
