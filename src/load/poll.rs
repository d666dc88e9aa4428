//! Waiting for sockets: epoll, as thinly as it goes.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Sockets told at once.
const EVENTS_MAX: usize = 256;

/// An epoll instance.
#[derive(Debug)]
pub(super) struct Poll {
    epoll: OwnedFd,
    events: Vec<u64>,
    buffer: Box<[libc::epoll_event; EVENTS_MAX]>,
    /// For each key: waits for bytes, waits for room.
    interest: Vec<(bool, bool)>,
}

impl Poll {
    pub(super) fn new() -> Result<Poll, String> {
        // SAFETY: takes no pointers; the descriptor it gives is nobody else's.
        let epoll = unsafe {
            let fd = libc::epoll_create1(libc::EPOLL_CLOEXEC);
            if fd < 0 {
                return Err(format!("epoll: {}", io::Error::last_os_error()));
            }
            OwnedFd::from_raw_fd(fd)
        };
        Ok(Poll {
            epoll,
            events: Vec::with_capacity(EVENTS_MAX),
            buffer: Box::new([libc::epoll_event { events: 0, u64: 0 }; EVENTS_MAX]),
            interest: Vec::new(),
        })
    }

    /// Adds a socket under the next key: 0, 1, 2, ...
    pub(super) fn add(&mut self, fd: RawFd, reads: bool) -> Result<(), String> {
        let key = self.interest.len();
        self.interest.push((reads, false));
        self.control(libc::EPOLL_CTL_ADD, fd, key)
    }

    /// What a socket is waited for.
    pub(super) fn want(&mut self, fd: RawFd, key: usize, reads: bool, writes: bool) -> Result<(), String> {
        if self.interest[key] == (reads, writes) {
            return Ok(());
        }
        self.interest[key] = (reads, writes);
        self.control(libc::EPOLL_CTL_MOD, fd, key)
    }

    fn control(&mut self, verb: libc::c_int, fd: RawFd, key: usize) -> Result<(), String> {
        let (reads, writes) = self.interest[key];
        let events = if reads { libc::EPOLLIN } else { 0 } | if writes { libc::EPOLLOUT } else { 0 };
        let mut event = libc::epoll_event {
            events: events as u32,
            u64: key as u64,
        };
        // SAFETY: the event lives for the call; bad descriptors are an error, not undefined.
        let done = unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), verb, fd, &raw mut event) };
        if done < 0 {
            return Err(format!("epoll: {}", io::Error::last_os_error()));
        }
        Ok(())
    }

    /// Waits so many milliseconds at most; gives how many sockets are ready.
    pub(super) fn wait(&mut self, wait_ms: u64) -> Result<usize, String> {
        let wait_ms = wait_ms.min(i32::MAX as u64) as libc::c_int;
        // SAFETY: the buffer has room for EVENTS_MAX events and lives for the call.
        let ready = unsafe {
            libc::epoll_wait(
                self.epoll.as_raw_fd(),
                self.buffer.as_mut_ptr(),
                EVENTS_MAX as libc::c_int,
                wait_ms,
            )
        };
        self.events.clear();
        match usize::try_from(ready) {
            Ok(ready) => self.events.extend(self.buffer[..ready].iter().map(|event| event.u64)),
            Err(_) => {
                let why = io::Error::last_os_error();
                if why.kind() != io::ErrorKind::Interrupted {
                    return Err(format!("epoll: {why}"));
                }
            }
        }
        Ok(self.events.len())
    }

    /// The key of a ready socket, by its place.
    pub(super) fn ready(&self, at: usize) -> usize {
        self.events[at] as usize
    }
}
