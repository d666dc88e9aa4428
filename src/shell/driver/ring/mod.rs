//! The ring driver: a completion ring of the shard's own, owned by the executor's thread.
//!
//! For: many links at the price of about one system call a turn. Every link keeps one multishot receive armed, which
//! fills buffers from [`buffers`]; writes and cancellations are submitted, and completions collected, by one and the
//! same call.
//!
//! Invariants:
//! * Completions are first sorted into the links' in-boxes, then the links are served in turn, [`Budget::read_bytes`] each.
//! * A link has at most one receive and one send in flight; its slot is free for another link when nothing of it is in
//!   flight any more. So no completion ever meets a stranger; the generation in `user_data` is checked all the same.
//! * A link that floods is read by plain calls ([`serve`]), so that it takes neither the buffers nor the time of others.
//! * A link that is not to be read holds no buffer: what came too late is copied and kept.
//! * The memory of a send belongs to the link until its completion; that of the buffers to the ring's owner. If the
//!   kernel does not let go of everything in time, both are leaked rather than freed.
//!
//! Must never be added: a descriptor polled by two rings, a second eventfd behind the doorbell (the kernel suppresses
//! nested signals).

mod buffers;
mod line;
mod serve;
mod setup;
mod socket;

use super::done::{Done, report};
use super::listeners::Listeners;
use super::sleeper::Sleeper;
use super::{Budget, Driver, Entrance, Events, Released, Token, cause_of};
use crate::node::api::{CloseCause, LinkId};
use crate::shell::sys::{self, Doorbell};
use buffers::Buffers;
use io_uring::cqueue;
use line::{Kind, Line};
use socket::{Receive, Socket};
use std::collections::VecDeque;
use std::io;
use std::mem::ManuallyDrop;
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the end of the driver waits for the kernel to let go of everything.
const DRAIN: Duration = Duration::from_millis(500);
/// A link that finds no buffer with no more than so many waiting for its turn is starved by others; with more it has
/// used them up itself.
const STARVED_INBOX: usize = 2;
/// A step of [`DRAIN`].
const DRAIN_STEP: Duration = Duration::from_millis(10);

/// The ring driver.
pub(crate) struct Ring {
    line: Line,
    buffers: ManuallyDrop<Buffers>,
    sockets: Vec<Entry>,
    free: Vec<u32>,
    /// Links with something to hand out, in turn; each at most once.
    ready: VecDeque<Token>,
    /// Links whose receive found no buffer; each at most once.
    starved: VecDeque<Token>,
    /// Links that were read and may be owed an acknowledgement; each at most once.
    owed: Vec<Token>,
    /// Links whose write is to begin; each at most once.
    outgoing: Vec<Token>,
    done: VecDeque<Done>,
    listeners: Listeners,
    completions: Vec<cqueue::Entry>,
    /// Where bulk links are read to.
    scratch: Vec<u8>,
    budget: Budget,
    /// Socket options go through the ring.
    sets_options: bool,
    bell: Arc<Doorbell>,
    sleeper: Sleeper,
}

struct Entry {
    generation: u32,
    socket: Option<Socket>,
}

fn at(sockets: &mut [Entry], token: Token) -> Option<&mut Socket> {
    let entry = sockets.get_mut(token.slot as usize)?;
    if entry.generation == token.generation {
        entry.socket.as_mut()
    } else {
        None
    }
}

/// Whether there is a ring to be had.
pub(super) fn available() -> io::Result<()> {
    setup::ring().map(drop)
}

impl Ring {
    /// Makes the ring, in the thread that will use it. An error says what the kernel lacks or refuses.
    pub(crate) fn new(bell: Arc<Doorbell>, budget: Budget, buffers: u16) -> io::Result<Ring> {
        let ring = setup::ring()?;
        let buffers = ManuallyDrop::new(Buffers::new(&ring, buffers)?);
        ring.submitter().register_eventfd(bell.outer().as_raw_fd())?;
        let mut line = Line::new(ring);
        line.set_signalling(false);
        line.watch(bell.inner().as_raw_fd(), Kind::Bell, 0);
        Ok(Ring {
            line,
            buffers,
            sockets: Vec::new(),
            free: Vec::new(),
            ready: VecDeque::new(),
            starved: VecDeque::new(),
            owed: Vec::new(),
            outgoing: Vec::new(),
            done: VecDeque::new(),
            listeners: Listeners::default(),
            completions: Vec::new(),
            scratch: vec![0; budget.read_bytes],
            budget,
            sets_options: setup::sets_options(),
            bell,
            sleeper: Sleeper::default(),
        })
    }

    fn watch_listener(&mut self, number: usize) {
        if let Some(fd) = self.listeners.fd(number) {
            self.line.watch(fd.as_raw_fd(), Kind::Listener, number as u32);
        }
    }

    /// Sorts what has completed.
    fn collect(&mut self) -> bool {
        let mut completions = std::mem::take(&mut self.completions);
        self.line.take_completions(&mut completions);
        for completion in &completions {
            let (kind, token) = line::decode(completion.user_data());
            let ended = !cqueue::more(completion.flags());
            match kind {
                Kind::Receive => self.received(token, completion, ended),
                Kind::Send => self.sent(token, completion.result()),
                Kind::Cancel => self.cancelled(token, completion.result()),
                Kind::Bell if ended => self.line.watch(self.bell.inner().as_raw_fd(), Kind::Bell, 0),
                Kind::Listener => {
                    self.listeners.note(token.slot as usize);
                    if ended {
                        self.watch_listener(token.slot as usize);
                    }
                }
                Kind::Bell | Kind::Ignored => {}
            }
        }
        let any = !completions.is_empty();
        completions.clear();
        self.completions = completions;
        any
    }

    fn received(&mut self, token: Token, completion: &cqueue::Entry, ended: bool) {
        let result = completion.result();
        let piece = cqueue::buffer_select(completion.flags())
            .and_then(|buffer| self.buffers.take(buffer, usize::try_from(result).unwrap_or(0)));
        let Some(socket) = at(&mut self.sockets, token) else {
            if let Some(piece) = piece {
                self.buffers.give_back(piece);
            }
            return;
        };
        if ended {
            socket.receive = Receive::Off;
            socket.swept = false;
        }
        match (piece, -result) {
            (Some(piece), _) => socket.keep(piece, &mut self.buffers),
            (None, 0) => socket.end = Some(CloseCause::Eof),
            (None, libc::ENOBUFS) if socket.inbox.len() > STARVED_INBOX => socket.bulk = true,
            (None, libc::ENOBUFS) => {
                socket.starved = true;
                self.starved.push_back(token);
                self.buffers.grow();
            }
            (None, libc::ECANCELED | libc::EINTR | libc::EAGAIN) => {}
            (None, error) => socket.end = Some(cause_of(&io::Error::from_raw_os_error(error))),
        }
        self.proceed(token);
    }

    fn sent(&mut self, token: Token, result: i32) {
        let Some(socket) = at(&mut self.sockets, token) else {
            return;
        };
        socket.sending = false;
        socket.swept = false;
        match usize::try_from(result) {
            Ok(bytes) => {
                socket.written += bytes;
                socket.owed = false;
                self.done.push_back(Done::Took(socket.link, bytes));
                if let Some(chunk) = socket.chunk.take_if(|chunk| socket.written >= chunk.len()) {
                    socket.written = 0;
                    self.done.push_back(Done::Complete(socket.link, chunk));
                }
            }
            Err(_) if matches!(-result, libc::EINTR | libc::EAGAIN | libc::ECANCELED) => {}
            Err(_) => {
                let cause = cause_of(&io::Error::from_raw_os_error(-result));
                if !socket.reading && !socket.releasing && !socket.broken {
                    socket.broken = true;
                    self.done.push_back(Done::Broken(socket.link, cause.clone()));
                }
                // What the peer sent before it went is still worth reading: the receive finds the end.
                socket.failure = Some(cause);
            }
        }
        self.proceed(token);
    }

    fn cancelled(&mut self, token: Token, result: i32) {
        let Some(socket) = at(&mut self.sockets, token) else {
            return;
        };
        socket.cancels -= 1;
        if result < 0 {
            // It found nothing. What it was for has ended, or was just at work and must be cancelled again.
            socket.swept = false;
            if socket.receive == Receive::Cancelled {
                socket.receive = Receive::Armed;
            }
        }
        self.proceed(token);
    }

    /// Starts the writes of this turn. A single one is tried with a call of its own: it completes there and then,
    /// which saves the turn that its completion would cause.
    fn start_writes(&mut self) {
        let single = self.outgoing.len() == 1;
        while let Some(token) = self.outgoing.pop() {
            let Some(socket) = at(&mut self.sockets, token) else {
                continue;
            };
            socket.outgoing = false;
            match socket.chunk.as_deref() {
                Some(chunk) if single && !socket.releasing => {
                    let result = sys::send(socket.fd.as_fd(), &chunk[socket.written..]);
                    let result = result.map_or_else(
                        |error| error.raw_os_error().map_or(-libc::EIO, i32::wrapping_neg),
                        |bytes| i32::try_from(bytes).unwrap_or(i32::MAX),
                    );
                    self.sent(token, result);
                }
                _ => self.proceed(token),
            }
        }
    }

    /// Does whatever the state of a link asks for.
    fn proceed(&mut self, token: Token) {
        let Some(socket) = at(&mut self.sockets, token) else {
            return;
        };
        if socket.releasing {
            if !socket.in_flight() {
                self.let_go(token);
            } else if socket.cancels == 0 && !socket.swept {
                socket.swept = true;
                socket.cancels += 1;
                self.line.cancel_link(socket.place(token));
            }
            return;
        }
        if !socket.sending
            && !socket.outgoing
            && socket.failure.is_none()
            && let Some(chunk) = &socket.chunk
        {
            socket.sending = true;
            // SAFETY: the chunk's memory stays with the socket, untouched, until `sending` is false again.
            unsafe { self.line.send(socket.place(token), &chunk[socket.written..]) };
        }
        if socket.servable() && !socket.queued {
            socket.queued = true;
            self.ready.push_back(token);
        }
        socket.bulk |= socket.overfull();
        if socket.wants_receive() {
            socket.receive = Receive::Armed;
            self.line.receive(socket.place(token));
        } else if socket.receive == Receive::Armed && (socket.bulk || !socket.reading) {
            socket.receive = Receive::Cancelled;
            socket.cancels += 1;
            self.line.cancel_receive(socket.place(token));
        }
    }

    /// Nothing of a released link is in flight any more.
    fn let_go(&mut self, token: Token) {
        let Some(entry) = self.sockets.get_mut(token.slot as usize) else {
            return;
        };
        let Some(mut socket) = entry.socket.take() else { return };
        socket.hold_all(&mut self.buffers);
        entry.generation = line::next_generation(entry.generation);
        self.free.push(token.slot);
        // The end of the stream is found again by whoever reads next; an error is told only once.
        let error = socket.end.filter(|end| *end != CloseCause::Eof);
        if let Some(cause) = socket.failure.or(error)
            && !socket.broken
        {
            self.done.push_back(Done::Broken(socket.link, cause));
        }
        let written = if socket.chunk.is_some() { socket.written } else { 0 };
        let released = Released {
            fd: socket.fd,
            chunk: socket.chunk.unwrap_or_default(),
            written,
            unread: socket.held,
        };
        self.done.push_back(Done::Released(socket.link, released));
    }
}

impl Driver for Ring {
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
        entry.socket = Some(Socket::new(link, fd));
        self.proceed(token);
        Ok(token)
    }

    fn listen(&mut self, listener: TcpListener, entrance: Entrance) -> io::Result<()> {
        let number = self.listeners.add(listener, entrance)?;
        self.watch_listener(number);
        Ok(())
    }

    fn set_accepting(&mut self, accepting: bool) {
        self.listeners.set_accepting(accepting);
    }

    fn unlisten(&mut self) {
        for number in 0..self.listeners.len() {
            self.line.unwatch_listener(number as u32);
        }
        self.listeners.clear();
    }

    fn accept_again(&mut self) {
        self.listeners.note_all();
    }

    fn set_reading(&mut self, token: Token, reading: bool) {
        let Some(socket) = at(&mut self.sockets, token) else {
            return;
        };
        socket.reading = reading;
        if !reading && !socket.releasing {
            socket.hold_all(&mut self.buffers);
            if let Some(cause) = socket.failure.clone()
                && !socket.broken
            {
                socket.broken = true;
                self.done.push_back(Done::Broken(socket.link, cause));
            }
        }
        self.proceed(token);
    }

    fn write(&mut self, token: Token, chunk: Vec<u8>, from: usize) {
        let Some(socket) = at(&mut self.sockets, token) else {
            return;
        };
        debug_assert!(socket.chunk.is_none(), "one write at a time");
        socket.chunk = Some(chunk);
        socket.written = from;
        socket.outgoing = true;
        self.outgoing.push(token);
    }

    fn release(&mut self, token: Token) {
        if let Some(socket) = at(&mut self.sockets, token)
            && !socket.releasing
        {
            socket.releasing = true;
            socket.hold_all(&mut self.buffers);
            self.proceed(token);
        }
    }

    fn socket(&self, token: Token) -> Option<BorrowedFd<'_>> {
        let entry = self.sockets.get(token.slot as usize)?;
        if entry.generation != token.generation {
            return None;
        }
        entry.socket.as_ref().map(|socket| socket.fd.as_fd())
    }

    fn busy(&self, reads: bool) -> bool {
        !self.done.is_empty() || (reads && !self.ready.is_empty()) || self.listeners.waiting()
    }

    fn reap(&mut self, events: &mut impl Events) {
        self.start_writes();
        report(&mut self.done, events);
    }

    fn turn(&mut self, wait: Duration, reads: bool, events: &mut impl Events) -> bool {
        self.start_writes();
        self.feed();
        self.acknowledge();
        let wait = if self.busy(reads) { Duration::ZERO } else { wait };
        self.line.enter(wait);
        let mut any = self.collect() || !self.done.is_empty();
        report(&mut self.done, events);
        self.listeners.accept(events);
        let (mut links, mut bytes) = (if reads { self.ready.len() } else { 0 }, 0);
        while links > 0 && bytes < self.budget.turn_bytes {
            let Some(token) = self.ready.pop_front() else { break };
            bytes += self.serve(token, events);
            links -= 1;
            any = true;
        }
        any
    }

    async fn park(&mut self, wait: Duration) {
        self.buffers.shrink();
        self.acknowledge();
        self.line.set_signalling(true);
        // Whatever completes from here on rings the bell; what completed before is found by this look.
        self.line.enter(Duration::ZERO);
        if !self.line.pending() && self.sleeper.sleep(self.bell.outer(), wait).await {
            self.bell.hush();
        }
        self.line.set_signalling(false);
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.listeners.clear();
        self.line.cancel_all();
        let until = Instant::now() + DRAIN;
        while self.line.in_flight() > 0 && Instant::now() < until {
            self.line.enter(DRAIN_STEP);
            self.line.take_completions(&mut self.completions);
            self.completions.clear();
        }
        if self.line.in_flight() == 0 {
            self.line.forget_buffers();
            // SAFETY: nothing is in flight, the kernel has given the buffers back, and this is their only end.
            unsafe { ManuallyDrop::drop(&mut self.buffers) };
        } else {
            for socket in self.sockets.iter_mut().filter_map(|entry| entry.socket.as_mut()) {
                std::mem::forget(socket.chunk.take());
            }
        }
    }
}
