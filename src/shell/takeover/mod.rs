//! A take-over: another process of this node goes on where this one stops, and no component notices.
//!
//! # One owner at each moment
//!
//! The new process asks at the admin socket (one line, [`TakeOver`](crate::operate::admin::TakeOver)). The old one refuses with a reason before it touches
//! anything, or answers with all it has: a line that says yes, the [`Baggage`] with its length before it, then the
//! descriptors of listening sockets and links. From then on the old process stands still, and the new one builds itself
//! up, touching no socket. When it is done it writes one byte, [`MINE`]. **That the kernel took this byte decides**: the new
//! process, whose write succeeded, is the node; the old one, which reads it, is not. Whatever goes wrong before, on
//! either side, ends the connection without the byte: the new process ends, the old one goes on as if nothing had
//! been. An old one that has waited too long closes its end for good and then looks once more, so it can't be that both
//! or neither believe in themselves.
//!
//! # Standing still
//!
//! 1. The door is held: who connects waits in the kernel, who is being authenticated may finish, at most [`DOOR_MS`].
//! 2. The shards read nothing and do nothing by the clock, until nothing is between them: each tells how much it has sent
//!    and taken; the sums are equal twice in a row.
//! 3. The drivers let all links go, each with what it has read and what is half written ([`Released`](super::driver::Released)).
//! 4. Each shard gives its share of the [image](crate::node::image), and keeps its links for the case that it has to go on.
//!
//! Must never be added: a change of the brain's state on the way, but for links that were being closed anyway.

mod channel;
mod give;
mod shard;
mod take;

pub(crate) use give::Giver;
pub(crate) use shard::{Step, Still};
pub(crate) use take::{Taken, attached_to, revive, take, who};

use super::driver::Entrance;
use crate::node::image::{Former, Share};
use crate::table::image::bytes;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// The new process is the node from here on.
const MINE: u8 = b'M';

/// How long links that are being authenticated may take, milliseconds.
const DOOR_MS: u64 = 1_000;
/// How long the shards may take to come to rest, milliseconds.
const REST_MS: u64 = 2_000;
/// How long all of them may take to let their links go, milliseconds.
const SHARE_MS: u64 = 5_000;
/// How long the new process may take from the first byte of the baggage to [`MINE`], milliseconds.
const BUILD_MS: u64 = 10_000;
/// How long the old process waits for its word to end, when it is not the node any more, milliseconds.
const WORD_MS: u64 = 1_000;
/// How long the old process may take to answer, milliseconds.
const ANSWER_MS: u64 = DOOR_MS + REST_MS + SHARE_MS + 2_000;

/// A link's socket, and what the driver had in hand of it.
#[derive(Debug, Serialize, Deserialize)]
struct LinkBaggage {
    former: Former,
    remote: SocketAddr,
    /// The chunk that was being written, and how much of it the kernel has.
    #[serde(with = "bytes")]
    chunk: Vec<u8>,
    written: usize,
    /// Read, and not handled.
    #[serde(with = "bytes")]
    unread: Vec<u8>,
}

/// Everything but the descriptors, which follow in this order: listeners, links.
#[derive(Debug, Serialize, Deserialize)]
struct Baggage {
    /// Where the clock stands: microseconds.
    elapsed_us: u64,
    listeners: Vec<Entrance>,
    links: Vec<LinkBaggage>,
    shares: Vec<Share>,
}
