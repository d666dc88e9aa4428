//! The readiness driver: one edge-triggered epoll set a shard, non-blocking calls, a queue of readable links.
//!
//! The runtime's own sockets poll each descriptor through its ring, one submission per read, and a read whose data is
//! always there never yields; one epoll set costs less and leaves the order of reading to us. The executor sleeps on
//! the set's descriptor.

use super::{Driver, Events, READ_BYTES, Released, TURN_ACCEPTS, TURN_BYTES, Token};
use crate::node::api::{CloseCause, LinkId};
use crate::shell::sys::{self, Doorbell, Epoll};
use futures_lite::io::AsyncRead;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

/// Events taken from the kernel at once.
const EVENTS: usize = 256;
/// Token of the doorbell; link tokens have a slot below `u32::MAX - LISTENERS_MAX`.
const BELL: u64 = u64::MAX;
/// Tokens from here on are listeners.
const LISTENERS: u64 = u64::MAX - LISTENERS_MAX;
/// Listeners a shard may have.
const LISTENERS_MAX: u64 = 64;

/// The readiness driver.
pub(crate) struct Ready {
    epoll: Epoll,
    sockets: Vec<Entry>,
    free: Vec<u32>,
    /// Readable links that are to be read, in turn; each at most once.
    queue: VecDeque<Token>,
    done: VecDeque<Done>,
    listeners: Vec<Listener>,
    buffer: Vec<u8>,
    events: Vec<libc::epoll_event>,
    /// What the executor sleeps on; made when it first sleeps and again after each event.
    sleeper: Option<glommio::net::TcpStream>,
    _bell: Arc<Doorbell>,
}

struct Entry {
    generation: u32,
    socket: Option<Socket>,
}

struct Socket {
    link: LinkId,
    fd: OwnedFd,
    reading: bool,
    /// There may be something to read.
    readable: bool,
    /// It stands in the queue.
    queued: bool,
    /// The peer has closed: a short read is not the end.
    ending: bool,
    /// It was reported as broken.
    broken: bool,
    chunk: Option<Vec<u8>>,
    written: usize,
}

struct Listener {
    listener: TcpListener,
    waiting: bool,
}

/// What happened while no events could be reported.
enum Done {
    Written(LinkId, usize),
    WriteDone(LinkId, Vec<u8>),
    Broken(LinkId, CloseCause),
    Released(LinkId, Released),
}

impl Ready {
    pub(crate) fn new(bell: Arc<Doorbell>) -> io::Result<Ready> {
        let epoll = Epoll::new()?;
        epoll.add(bell.as_fd(), BELL, libc::EPOLLIN)?;
        Ok(Ready {
            epoll,
            sockets: Vec::new(),
            free: Vec::new(),
            queue: VecDeque::new(),
            done: VecDeque::new(),
            listeners: Vec::new(),
            buffer: vec![0; READ_BYTES],
            events: vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS],
            sleeper: None,
            _bell: bell,
        })
    }

    fn socket_mut(&mut self, token: Token) -> Option<&mut Socket> {
        let entry = self.sockets.get_mut(token.slot as usize)?;
        if entry.generation == token.generation {
            entry.socket.as_mut()
        } else {
            None
        }
    }

    /// Notes one edge that the kernel reported.
    fn note(&mut self, number: u64, flags: u32) {
        if number == BELL {
            return;
        }
        if number >= LISTENERS {
            if let Some(listener) = self.listeners.get_mut((number - LISTENERS) as usize) {
                listener.waiting = true;
            }
            return;
        }
        let token = Token {
            slot: number as u32,
            generation: (number >> 32) as u32,
        };
        let Some(socket) = self.socket_mut(token) else { return };
        let has = |flag: i32| flags & flag as u32 != 0;
        let ending = has(libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR);
        socket.ending |= ending;
        socket.readable |= ending || has(libc::EPOLLIN);
        let writes = socket.chunk.is_some() && (ending || has(libc::EPOLLOUT));
        self.enqueue(token);
        if writes {
            self.push(token);
        }
    }

    fn enqueue(&mut self, token: Token) {
        let Some(socket) = self.socket_mut(token) else { return };
        if socket.readable && socket.reading && !socket.queued && !socket.broken {
            socket.queued = true;
            self.queue.push_back(token);
        }
    }

    /// Writes on with the chunk in flight.
    fn push(&mut self, token: Token) {
        let Some(entry) = self.sockets.get_mut(token.slot as usize) else {
            return;
        };
        let Some(socket) = entry.socket.as_mut().filter(|socket| !socket.broken) else {
            return;
        };
        let Some(chunk) = socket.chunk.take() else { return };
        let mut failure = None;
        while socket.written < chunk.len() && failure.is_none() {
            match sys::send(socket.fd.as_fd(), &chunk[socket.written..]) {
                Ok(bytes) => {
                    socket.written += bytes;
                    self.done.push_back(Done::Written(socket.link, bytes));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => failure = Some(error),
            }
        }
        let Some(error) = failure else {
            socket.written = 0;
            self.done.push_back(Done::WriteDone(socket.link, chunk));
            return;
        };
        socket.chunk = Some(chunk);
        if error.kind() == io::ErrorKind::WouldBlock {
            return;
        }
        if socket.reading {
            // What the peer sent before it went is still worth reading: the read finds the end.
            socket.readable = true;
            socket.ending = true;
            self.enqueue(token);
        } else {
            socket.broken = true;
            self.done.push_back(Done::Broken(socket.link, cause_of(&error)));
        }
    }

    /// Reads one link once.
    fn pull(&mut self, token: Token, events: &mut impl Events) -> usize {
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut read = 0;
        if let Some(socket) = self.socket_mut(token) {
            socket.queued = false;
            if socket.reading && !socket.broken {
                let link = socket.link;
                match sys::receive(socket.fd.as_fd(), &mut buffer) {
                    Ok(0) => {
                        socket.broken = true;
                        events.broken(link, CloseCause::Eof);
                    }
                    Ok(bytes) => {
                        // A short read has emptied the socket, and the next byte makes a new edge.
                        socket.readable = bytes == buffer.len() || socket.ending;
                        sys::set_quickack(socket.fd.as_fd());
                        read = bytes;
                        events.received(link, &buffer[..bytes]);
                        self.enqueue(token);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => socket.readable = false,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => self.enqueue(token),
                    Err(error) => {
                        socket.broken = true;
                        events.broken(link, cause_of(&error));
                    }
                }
            }
        }
        self.buffer = buffer;
        read
    }

    fn accept(&mut self, events: &mut impl Events) {
        for listener in &mut self.listeners {
            for _ in 0..TURN_ACCEPTS {
                if !listener.waiting {
                    break;
                }
                match sys::accept(listener.listener.as_fd()) {
                    Ok((fd, remote)) => events.accepted(fd, remote),
                    Err(error) if gone_meanwhile(&error) => {}
                    Err(error) => {
                        listener.waiting = false;
                        if error.kind() != io::ErrorKind::WouldBlock {
                            events.accept_failed(error);
                        }
                    }
                }
            }
        }
    }
}

/// A connection that ended before it was accepted is no failure of the listener.
fn gone_meanwhile(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted
    )
}

/// What an error of a socket means for the link.
pub(super) fn cause_of(error: &io::Error) -> CloseCause {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => CloseCause::Reset,
        _ => CloseCause::Error(error.to_string()),
    }
}

impl Driver for Ready {
    fn add(&mut self, link: LinkId, fd: OwnedFd) -> Result<Token, (OwnedFd, io::Error)> {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.sockets.push(Entry {
                generation: 0,
                socket: None,
            });
            (self.sockets.len() - 1) as u32
        });
        let entry = &mut self.sockets[slot as usize];
        let token = Token {
            slot,
            generation: entry.generation,
        };
        let number = u64::from(token.generation) << 32 | u64::from(token.slot);
        let interest = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP;
        if let Err(error) = self.epoll.add(fd.as_fd(), number, interest) {
            self.free.push(slot);
            return Err((fd, error));
        }
        entry.socket = Some(Socket {
            link,
            fd,
            reading: true,
            readable: false,
            queued: false,
            ending: false,
            broken: false,
            chunk: None,
            written: 0,
        });
        Ok(token)
    }

    fn listen(&mut self, listener: TcpListener) -> io::Result<()> {
        let index = self.listeners.len() as u64;
        if index >= LISTENERS_MAX {
            return Err(io::Error::other("too many addresses to listen on"));
        }
        listener.set_nonblocking(true)?;
        self.epoll.add(listener.as_fd(), LISTENERS + index, libc::EPOLLIN)?;
        self.listeners.push(Listener {
            listener,
            waiting: true,
        });
        Ok(())
    }

    fn unlisten(&mut self) {
        self.listeners.clear();
    }

    fn accept_again(&mut self) {
        for listener in &mut self.listeners {
            listener.waiting = true;
        }
    }

    fn set_reading(&mut self, token: Token, reading: bool) {
        if let Some(socket) = self.socket_mut(token) {
            socket.reading = reading;
            self.enqueue(token);
        }
    }

    fn write(&mut self, token: Token, chunk: Vec<u8>) {
        let Some(socket) = self.socket_mut(token) else { return };
        debug_assert!(socket.chunk.is_none(), "one write at a time");
        socket.chunk = Some(chunk);
        socket.written = 0;
        self.push(token);
    }

    fn release(&mut self, token: Token) {
        let Some(entry) = self.sockets.get_mut(token.slot as usize) else {
            return;
        };
        if entry.generation != token.generation {
            return;
        }
        let Some(socket) = entry.socket.take() else { return };
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(token.slot);
        self.epoll.remove(socket.fd.as_fd());
        let written = if socket.chunk.is_some() { socket.written } else { 0 };
        let chunk = socket.chunk.unwrap_or_default();
        let released = Released {
            fd: socket.fd,
            chunk,
            written,
            unread: Vec::new(),
        };
        self.done.push_back(Done::Released(socket.link, released));
    }

    fn socket(&self, token: Token) -> Option<BorrowedFd<'_>> {
        let entry = self.sockets.get(token.slot as usize)?;
        if entry.generation != token.generation {
            return None;
        }
        entry.socket.as_ref().map(|socket| socket.fd.as_fd())
    }

    fn busy(&self, reads: bool) -> bool {
        !self.done.is_empty()
            || (reads && !self.queue.is_empty())
            || self.listeners.iter().any(|listener| listener.waiting)
    }

    fn reap(&mut self, events: &mut impl Events) {
        while let Some(done) = self.done.pop_front() {
            match done {
                Done::Written(link, bytes) => events.written(link, bytes),
                Done::WriteDone(link, chunk) => events.write_done(link, chunk),
                Done::Broken(link, cause) => events.broken(link, cause),
                Done::Released(link, released) => events.released(link, released),
            }
        }
    }

    fn turn(&mut self, wait: Duration, reads: bool, events: &mut impl Events) -> bool {
        let timeout_ms = if self.busy(reads) {
            0
        } else {
            i32::try_from(wait.as_micros().div_ceil(1000)).unwrap_or(i32::MAX)
        };
        let mut edges = std::mem::take(&mut self.events);
        let count = self.epoll.wait(&mut edges, timeout_ms);
        for edge in &edges[..count] {
            self.note(edge.u64, edge.events);
        }
        self.events = edges;
        let mut any = count > 0 || !self.done.is_empty();
        self.reap(events);
        self.accept(events);
        let (mut links, mut bytes) = (if reads { self.queue.len() } else { 0 }, 0);
        while links > 0 && bytes < TURN_BYTES {
            let Some(token) = self.queue.pop_front() else { break };
            bytes += self.pull(token, events);
            links -= 1;
            any = true;
        }
        any
    }

    async fn park(&mut self, wait: Duration) {
        let mut sleeper = match self.sleeper.take() {
            Some(sleeper) => sleeper,
            None => match sys::duplicate(self.epoll.as_fd()) {
                // SAFETY: the descriptor was duplicated for this and belongs to nobody else.
                Ok(fd) => unsafe { glommio::net::TcpStream::from_raw_fd(fd) },
                Err(_) => return,
            },
        };
        let mut timer = glommio::timer::Timer::new(wait);
        let fired = poll_fn(|context| {
            // The runtime polls any descriptor that it takes for a stream; the read that follows the event
            // fails, as an epoll set cannot be read, and that failure is the wake-up.
            if Pin::new(&mut sleeper).poll_read(context, &mut [0]).is_ready() {
                return Poll::Ready(true);
            }
            Pin::new(&mut timer).poll(context).map(|_| false)
        })
        .await;
        if !fired {
            self.sleeper = Some(sleeper);
        }
    }
}
