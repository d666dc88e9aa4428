//! The listening sockets of a shard.

use super::{Entrance, Events, TURN_ACCEPTS};
use crate::shell::sys;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd};

/// Listeners a shard may have.
pub(super) const LISTENERS_MAX: usize = 64;

/// The listeners; the driver watches their descriptors and tells when one has something.
#[derive(Default)]
pub(super) struct Listeners {
    all: Vec<Listener>,
    /// Nobody is let in for now.
    held: bool,
}

struct Listener {
    listener: TcpListener,
    entrance: Entrance,
    waiting: bool,
}

impl Listeners {
    /// Takes one more; its number.
    pub(super) fn add(&mut self, listener: TcpListener, entrance: Entrance) -> io::Result<usize> {
        if self.all.len() >= LISTENERS_MAX {
            return Err(io::Error::other("too many addresses to listen on"));
        }
        listener.set_nonblocking(true)?;
        self.all.push(Listener {
            listener,
            entrance,
            waiting: true,
        });
        Ok(self.all.len() - 1)
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn clear(&mut self) {
        self.all.clear();
    }

    pub(super) fn fd(&self, number: usize) -> Option<BorrowedFd<'_>> {
        self.all.get(number).map(|listener| listener.listener.as_fd())
    }

    /// Somebody may have connected.
    pub(super) fn note(&mut self, number: usize) {
        if let Some(listener) = self.all.get_mut(number) {
            listener.waiting = true;
        }
    }

    /// Tries all of them again.
    pub(super) fn note_all(&mut self) {
        for listener in &mut self.all {
            listener.waiting = true;
        }
    }

    /// Whether to accept.
    pub(super) fn set_accepting(&mut self, accepting: bool) {
        self.held = !accepting;
        self.note_all();
    }

    /// Whether somebody may be let in.
    pub(super) fn waiting(&self) -> bool {
        !self.held && self.all.iter().any(|listener| listener.waiting)
    }

    /// Takes who waits, at most [`TURN_ACCEPTS`] from each.
    pub(super) fn accept(&mut self, events: &mut impl Events) {
        if self.held {
            return;
        }
        for listener in &mut self.all {
            for _ in 0..TURN_ACCEPTS {
                if !listener.waiting {
                    break;
                }
                match sys::accept(listener.listener.as_fd()) {
                    Ok((fd, remote)) => events.accepted(fd, remote, listener.entrance),
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
