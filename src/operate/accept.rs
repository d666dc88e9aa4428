//! The accept loop under metrics page and admin socket: a thread that accepts, a bounded number of short-lived
//! threads that serve, and a stop that works at once.

use super::log::LogSender;
use super::warn;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Connections served at once by one listener; a further one is told so and closed.
pub(super) const MAX_CONNECTIONS: usize = 16;
/// Stack of a serving thread, bytes: it formats text and nothing more.
const STACK_BYTES: usize = 256 * 1024;
/// How far these threads, and those that they start, step back behind the shards' (nice values).
const NICE: libc::c_int = 10;
/// Pause after a failed accept (no descriptor left, most often), milliseconds.
const ACCEPT_RETRY_MS: u64 = 100;

/// A stream that a serving thread can bound in time.
pub(super) trait Stream: Read + Write + Send + 'static {
    fn limit_read(&self, wait: Duration) -> io::Result<()>;
    fn limit_write(&self, wait: Duration) -> io::Result<()>;
    fn end_of_output(&self);
}

/// A listener of such streams.
pub(super) trait Listener: AsRawFd + Send + 'static {
    type Stream: Stream;
    fn accept_one(&self) -> io::Result<Self::Stream>;
    fn never_block(&self) -> io::Result<()>;
}

macro_rules! stream_and_listener {
    ($stream:ty, $listener:ty) => {
        impl Stream for $stream {
            fn limit_read(&self, wait: Duration) -> io::Result<()> {
                self.set_read_timeout(Some(wait.max(Duration::from_millis(1))))
            }
            fn limit_write(&self, wait: Duration) -> io::Result<()> {
                self.set_write_timeout(Some(wait.max(Duration::from_millis(1))))
            }
            fn end_of_output(&self) {
                let _ = self.shutdown(std::net::Shutdown::Write);
            }
        }
        impl Listener for $listener {
            type Stream = $stream;
            fn accept_one(&self) -> io::Result<$stream> {
                let (stream, _) = self.accept()?;
                stream.set_nonblocking(false)?;
                Ok(stream)
            }
            fn never_block(&self) -> io::Result<()> {
                self.set_nonblocking(true)
            }
        }
    };
}
stream_and_listener!(TcpStream, TcpListener);
stream_and_listener!(UnixStream, UnixListener);

/// A running accept loop; dropping it ends it.
#[derive(Debug)]
pub(super) struct Acceptor {
    /// Its other end is watched by the loop: closing this one wakes and ends it.
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Serves `listener` until the result is dropped: `serve` runs on a thread of its own for each connection, `refuse`
/// (which must be quick) for one too many.
pub(super) fn start<L: Listener>(
    name: &'static str,
    listener: L,
    log: LogSender,
    serve: impl Fn(L::Stream) + Send + Sync + 'static,
    refuse: impl Fn(L::Stream) + Send + 'static,
) -> io::Result<Acceptor> {
    listener.never_block()?;
    let (stop, watched) = UnixStream::pair()?;
    let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
        step_back();
        let pool = Pool {
            name,
            serve: Arc::new(serve),
            busy: Arc::new(AtomicUsize::new(0)),
        };
        let mut warned = false;
        while wait(listener.as_raw_fd(), watched.as_raw_fd()) {
            match listener.accept_one() {
                Ok(stream) => pool.run(stream, &refuse),
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(e) => {
                    if !std::mem::replace(&mut warned, true) {
                        warn(&log, format!("{name}: accepting a connection failed: {e}"));
                    }
                    std::thread::sleep(Duration::from_millis(ACCEPT_RETRY_MS));
                }
            }
        }
    })?;
    Ok(Acceptor {
        stop: Some(stop),
        thread: Some(thread),
    })
}

/// Gives way to the shards from now on: however many ask, and however often.
pub(super) fn step_back() {
    // SAFETY: takes and keeps no pointer. On Linux it concerns the calling thread and those that it starts; it cannot
    // fail, as nobody is forbidden to be nicer.
    unsafe { libc::nice(NICE) };
}

struct Pool<F> {
    name: &'static str,
    serve: Arc<F>,
    busy: Arc<AtomicUsize>,
}

/// Gives the slot back, however serving ended.
struct Slot(Arc<AtomicUsize>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl<F> Pool<F> {
    fn run<S: Stream>(&self, stream: S, refuse: &impl Fn(S))
    where
        F: Fn(S) + Send + Sync + 'static,
    {
        // Only this thread adds, so the number cannot grow between the look and the addition.
        if self.busy.load(Ordering::Acquire) >= MAX_CONNECTIONS {
            return refuse(stream);
        }
        self.busy.fetch_add(1, Ordering::AcqRel);
        let slot = Slot(self.busy.clone());
        let serve = self.serve.clone();
        // A thread that cannot be started drops the closure: stream closed, slot free.
        let _ = std::thread::Builder::new()
            .name(self.name.into())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                let _slot = slot;
                serve(stream);
            });
    }
}

/// Waits for a connection; `false`: the loop is to end.
fn wait(listener: RawFd, stop: RawFd) -> bool {
    let poll = |fd| libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    let mut fds = [poll(listener), poll(stop)];
    // SAFETY: the pointer is to an array of two initialised pollfd, alive for the call, and the length is its own.
    unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, -1) };
    fds[1].revents == 0
}

/// A whole request has this long, whatever its single bytes take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline(Instant);

impl Deadline {
    pub(super) fn after(wait_ms: u64) -> Deadline {
        Deadline(Instant::now() + Duration::from_millis(wait_ms))
    }

    /// Reads some bytes; `TimedOut` when the time is over.
    pub(super) fn read<S: Stream>(self, stream: &mut S, into: &mut [u8]) -> io::Result<usize> {
        loop {
            stream.limit_read(self.left()?)?;
            match stream.read(into) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Err(io::ErrorKind::TimedOut.into()),
                other => return other,
            }
        }
    }

    /// Writes all bytes; `TimedOut` when the time is over.
    pub(super) fn write_all<S: Stream>(self, stream: &mut S, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            stream.limit_write(self.left()?)?;
            match stream.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => bytes = &bytes[n..],
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Err(io::ErrorKind::TimedOut.into()),
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn left(self) -> io::Result<Duration> {
        match self.0.checked_duration_since(Instant::now()) {
            Some(left) if !left.is_zero() => Ok(left),
            _ => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}
