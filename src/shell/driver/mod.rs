//! What moves the bytes: one interface, completion-shaped, which the rest of the shell sees.
//!
//! For: reading and writing sockets. Invariants: a link is read at most [`Budget::read_bytes`] a turn and links take turns;
//! one write in flight for each link; after [`Driver::release`] a link causes exactly one more event,
//! [`Events::released`]. Must never be added: anything that knows what the bytes mean.

mod done;
mod listeners;
mod ready;
mod ring;
mod sleeper;

pub(crate) use ready::Ready;
pub(crate) use ring::Ring;

use crate::node::api::{CloseCause, LinkId};
use serde::{Deserialize, Serialize};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

/// Connections taken from one listener in one turn.
pub(crate) const TURN_ACCEPTS: usize = 16;

/// How much a driver reads before it lets others have their turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    /// One link, before the next link's turn comes, bytes.
    pub(crate) read_bytes: usize,
    /// All links together, before the writes that follow from it are done, bytes.
    pub(crate) turn_bytes: usize,
}

/// Whether the kernel gives this process the ring that [`Ring`] wants.
pub(crate) fn has_ring() -> io::Result<()> {
    ring::available()
}

/// What an error of a socket means for the link.
fn cause_of(error: &io::Error) -> CloseCause {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => CloseCause::Reset,
        _ => CloseCause::Error(error.to_string()),
    }
}

/// The driver's own name for a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(super) slot: u32,
    pub(super) generation: u32,
}

impl Token {
    /// Of a link that the driver does not serve yet.
    pub(crate) const NONE: Token = Token {
        slot: u32::MAX,
        generation: u32::MAX,
    };
}

/// A link that the driver has let go.
pub(crate) struct Released {
    pub(crate) fd: OwnedFd,
    /// The chunk whose write was in flight, empty if none was.
    pub(crate) chunk: Vec<u8>,
    /// How many bytes of it the kernel took.
    pub(crate) written: usize,
    /// Bytes that were read but not reported.
    pub(crate) unread: Vec<u8>,
}

/// Who connects to a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Entrance {
    /// Components of this machine.
    Components,
    /// Other nodes.
    Peers,
}

/// What a driver reports.
pub(crate) trait Events {
    /// Bytes were read.
    fn received(&mut self, link: LinkId, bytes: &[u8]);
    /// The kernel took `bytes` more of the chunk in flight.
    fn written(&mut self, link: LinkId, bytes: usize);
    /// The kernel has taken all of the chunk; here is its memory.
    fn write_done(&mut self, link: LinkId, chunk: Vec<u8>);
    /// The link has come to its end: nothing more is read or written. The answer is [`Driver::release`].
    fn broken(&mut self, link: LinkId, cause: CloseCause);
    /// The answer to [`Driver::release`], in this turn or a later one.
    fn released(&mut self, link: LinkId, released: Released);
    /// A connection was accepted.
    fn accepted(&mut self, fd: OwnedFd, remote: SocketAddr, entrance: Entrance);
    /// A connection could not be accepted; the driver tries again when [`Driver::accept_again`] is called.
    fn accept_failed(&mut self, error: io::Error);
}

/// What a driver does. All of it without waiting, but for `turn` and `park`.
pub(crate) trait Driver {
    /// Serves this socket from now on, reading it.
    fn add(&mut self, link: LinkId, fd: OwnedFd) -> Result<Token, (OwnedFd, io::Error)>;
    /// Accepts connections of this listener from now on.
    fn listen(&mut self, listener: TcpListener, entrance: Entrance) -> io::Result<()>;
    /// Whether to accept connections; without, they wait in the kernel.
    fn set_accepting(&mut self, accepting: bool);
    /// Closes all listeners.
    fn unlisten(&mut self);
    /// Accepts again after a failure.
    fn accept_again(&mut self);
    /// Whether to read the link.
    fn set_reading(&mut self, token: Token, reading: bool);
    /// Writes the chunk, `from` this byte on; the former must be done.
    fn write(&mut self, token: Token, chunk: Vec<u8>, from: usize);
    /// Lets the link go, with what is unwritten of its chunk. To be told so twice is no harm.
    fn release(&mut self, token: Token);
    /// The link's socket.
    fn socket(&self, token: Token) -> Option<BorrowedFd<'_>>;
    /// Whether a turn would find something to do without the kernel.
    fn busy(&self, reads: bool) -> bool;
    /// Reports what is complete without asking the kernel again.
    fn reap(&mut self, events: &mut impl Events);
    /// Waits at most `wait` (blocking the thread) for something to happen and reports it; true if anything did.
    /// Links are read only if `reads`.
    fn turn(&mut self, wait: Duration, reads: bool, events: &mut impl Events) -> bool;
    /// Sleeps in the executor until something happens or `wait` is over.
    async fn park(&mut self, wait: Duration);
}
