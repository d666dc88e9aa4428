//! A lane: messages in order, each once, over connections that come and go.
//!
//! A lane's two directions are independent streams of bytes. The [`send::Sender`] keeps what its peer has not
//! acknowledged; the [`receive::Receiver`] knows how far it came. A new connection goes on at that very byte.
//!
//! **When the peer dies** nobody knows how far it came. What it handled it had acknowledged before, but the last
//! acknowledgements may have died with it. So the sender tells two kinds of unacknowledged messages apart: those that a
//! living peer may have got, which must not be sent to anybody again, and those that were never sent: a peer that owes
//! an answer for longer than [`DOUBT_US`] is sent nothing until it is heard. (It may hear all the same, and not be heard.)

pub(super) mod queue;
pub(super) mod receive;
pub(super) mod send;

use super::Micros;

/// Longest message, bytes: the longest frame that a component may send, with room for a head. A configuration that
/// allows longer frames cannot send these across the mesh.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// What a receiver takes before its messages are taken from it, bytes: a fast network's bandwidth times a long way's
/// delay (2.5 Gbit/s at 12 ms), and little memory even for 64 peers. A single longer message gets the room it needs.
pub const WINDOW_BYTES: usize = 4 << 20;
/// What a sender may send on a new stream before the first credit comes, bytes.
pub const INITIAL_CREDIT_BYTES: u64 = 256 * 1024;
/// A living peer acknowledges what reaches it within so long, the round trip aside: so long a busy machine may keep a
/// process from running, microseconds.
pub const DOUBT_US: Micros = 100_000;
