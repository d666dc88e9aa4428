//! Sleeping in the executor until a descriptor has something to read.

use crate::shell::sys;
use futures_lite::io::AsyncRead;
use std::future::{Future, poll_fn};
use std::os::fd::{BorrowedFd, FromRawFd};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

/// What the executor sleeps on; made when it first sleeps and again after each event.
#[derive(Default)]
pub(super) struct Sleeper {
    watched: Option<glommio::net::TcpStream>,
}

impl Sleeper {
    /// Returns when `fd` (always the same) is readable, or after `wait`. True if it is readable, or may be.
    pub(super) async fn sleep(&mut self, fd: BorrowedFd<'_>, wait: Duration) -> bool {
        let mut watched = match self.watched.take() {
            Some(watched) => watched,
            None => match sys::duplicate(fd) {
                // SAFETY: the descriptor was duplicated for this and belongs to nobody else.
                Ok(fd) => unsafe { glommio::net::TcpStream::from_raw_fd(fd) },
                Err(_) => return true,
            },
        };
        let mut timer = glommio::timer::Timer::new(wait);
        let fired = poll_fn(|context| {
            // The runtime polls any descriptor that it takes for a stream; the read that follows the event
            // fails, as this is no socket, and that failure is the wake-up.
            if Pin::new(&mut watched).poll_read(context, &mut [0]).is_ready() {
                return Poll::Ready(true);
            }
            Pin::new(&mut timer).poll(context).map(|_| false)
        })
        .await;
        if !fired {
            self.watched = Some(watched);
        }
        fired
    }
}
