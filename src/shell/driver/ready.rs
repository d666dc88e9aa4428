//! The readiness driver: one edge-triggered epoll set a shard, non-blocking calls, a queue of readable links.
//!
//! The runtime's own sockets poll each descriptor through its ring, one submission per read, and a read whose data is
//! always there never yields; one epoll set costs less and leaves the order of reading to us. The executor sleeps on
//! the set's descriptor.

use super::done::{Done, report};
use super::listeners::{LISTENERS_MAX, Listeners};
use super::sleeper::Sleeper;
use super::{Budget, Driver, Entrance, Events, Released, Token, cause_of};
use crate::node::api::{CloseCause, LinkId};
use crate::shell::sys::{self, Doorbell, Epoll};
use std::collections::VecDeque;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// Events taken from the kernel at once.
const EVENTS: usize = 256;
/// Token of the doorbell; link tokens have a slot below `u32::MAX - LISTENERS_MAX`.
const BELL: u64 = u64::MAX;
/// Tokens from here on are listeners.
const LISTENERS: u64 = u64::MAX - LISTENERS_MAX as u64;

/// The readiness driver.
pub(crate) struct Ready {
    epoll: Epoll,
    sockets: Vec<Entry>,
    free: Vec<u32>,
    /// Readable links that are to be read, in turn; each at most once.
    queue: VecDeque<Token>,
    done: VecDeque<Done>,
    listeners: Listeners,
    buffer: Vec<u8>,
    budget: Budget,
    events: Vec<libc::epoll_event>,
    sleeper: Sleeper,
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
    /// A write failed so; the kernel tells it once, and the read that ends the link would see an orderly end.
    failure: Option<CloseCause>,
    chunk: Option<Vec<u8>>,
    written: usize,
}

impl Ready {
    pub(crate) fn new(bell: Arc<Doorbell>, budget: Budget) -> io::Result<Ready> {
        let epoll = Epoll::new()?;
        epoll.add(bell.inner(), BELL, libc::EPOLLIN)?;
        epoll.add(bell.outer(), BELL, libc::EPOLLIN)?;
        Ok(Ready {
            epoll,
            sockets: Vec::new(),
            free: Vec::new(),
            queue: VecDeque::new(),
            done: VecDeque::new(),
            listeners: Listeners::default(),
            buffer: vec![0; budget.read_bytes],
            budget,
            events: vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS],
            sleeper: Sleeper::default(),
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
            return self.listeners.note((number - LISTENERS) as usize);
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
                    self.done.push_back(Done::Took(socket.link, bytes));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => failure = Some(error),
            }
        }
        let Some(error) = failure else {
            socket.written = 0;
            self.done.push_back(Done::Complete(socket.link, chunk));
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
            socket.failure = Some(cause_of(&error));
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
                        events.broken(link, socket.failure.take().unwrap_or(CloseCause::Eof));
                    }
                    Ok(bytes) => {
                        // A short read has emptied the socket, and the next byte makes a new edge.
                        socket.readable = bytes == buffer.len() || socket.ending;
                        if bytes < buffer.len() {
                            sys::set_quickack(socket.fd.as_fd());
                        }
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
            failure: None,
            chunk: None,
            written: 0,
        });
        Ok(token)
    }

    fn listen(&mut self, listener: TcpListener, entrance: Entrance) -> io::Result<()> {
        let number = self.listeners.add(listener, entrance)?;
        match self.listeners.fd(number) {
            Some(fd) => self.epoll.add(fd, LISTENERS + number as u64, libc::EPOLLIN),
            None => Ok(()),
        }
    }

    fn set_accepting(&mut self, accepting: bool) {
        self.listeners.set_accepting(accepting);
    }

    fn unlisten(&mut self) {
        self.listeners.clear();
    }

    fn accept_again(&mut self) {
        self.listeners.note_all();
    }

    fn set_reading(&mut self, token: Token, reading: bool) {
        if let Some(socket) = self.socket_mut(token) {
            socket.reading = reading;
            self.enqueue(token);
        }
    }

    fn write(&mut self, token: Token, chunk: Vec<u8>, from: usize) {
        let Some(socket) = self.socket_mut(token) else { return };
        debug_assert!(socket.chunk.is_none(), "one write at a time");
        socket.chunk = Some(chunk);
        socket.written = from;
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
        !self.done.is_empty() || (reads && !self.queue.is_empty()) || self.listeners.waiting()
    }

    fn reap(&mut self, events: &mut impl Events) {
        report(&mut self.done, events);
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
        self.listeners.accept(events);
        let (mut links, mut bytes) = (if reads { self.queue.len() } else { 0 }, 0);
        while links > 0 && bytes < self.budget.turn_bytes {
            let Some(token) = self.queue.pop_front() else { break };
            bytes += self.pull(token, events);
            links -= 1;
            any = true;
        }
        any
    }

    async fn park(&mut self, wait: Duration) {
        self.sleeper.sleep(self.epoll.as_fd(), wait).await;
    }
}
