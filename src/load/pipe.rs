//! Frames from one component to another through a router: as many as a window holds, or one at a time.

use super::Shape;
use super::component::Component;
use super::cpu;
use super::frame::{Checker, ReadError, Template};
use hdrhistogram::Histogram;
use serde::Serialize;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// Traffic before the figures are taken, so that buffers and clocks have settled, milliseconds.
const WARM_UP_MS: u64 = 300;
/// A router that moves nothing for so long has lost a frame, milliseconds.
const STALL_MS: u64 = 10_000;
/// Longest latency that is told apart, nanoseconds.
const MAX_LATENCY_NS: u64 = 60_000_000_000;

/// The router that is measured.
pub(super) struct Target<'a> {
    pub(super) router: SocketAddr,
    pub(super) user: &'a str,
    pub(super) pass: &'a str,
    pub(super) pid: Option<u32>,
}

/// One measurement.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Figures {
    pub(super) frame_bytes: usize,
    /// Frames that were sent, received, and found in order and unchanged.
    pub(super) frames: u64,
    pub(super) seconds: f64,
    pub(super) frames_per_s: f64,
    pub(super) mb_per_s: f64,
    /// CPU seconds of the router per million frames.
    pub(super) server_cpu_s_per_million: Option<f64>,
    /// CPU seconds of this generator per million frames: near `seconds`, the generator is the limit.
    pub(super) generator_cpu_s_per_million: f64,
    /// Round trips with one frame outstanding.
    pub(super) round_trip: Option<RoundTrip>,
}

/// Round trips: to the other component and back, twice through the router, microseconds.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct RoundTrip {
    pub(super) p50_us: f64,
    pub(super) p90_us: f64,
    pub(super) p99_us: f64,
    pub(super) p99_9_us: f64,
    pub(super) p99_99_us: f64,
    pub(super) max_us: f64,
}

/// Logs two components in and measures frames of `bytes` bytes between them.
pub(super) fn measure(target: &Target<'_>, shape: &Shape, bytes: usize) -> Result<Figures, String> {
    let a = Component::connect(target.router, target.user, target.pass, "a")?;
    let b = Component::connect(target.router, target.user, target.pass, "b")?;
    let there = Template::new("a", "b", bytes)?;
    let back = Template::new("b", "a", bytes)?;
    if shape.outstanding == 1 {
        return round_trips(target, shape, [&there, &back], [a, b]);
    }
    let frames = there.repeated(shape.write);
    let mut pipe = Pipe {
        offset: frames.len(),
        frames,
        sent: 0,
        window: (shape.window / bytes).max(1) as u64,
        to: a.stream,
        from: b.stream,
        template: &there,
        checker: Checker::new(&there).after(&b.unread),
        // Nothing but adverts may come back to the sender: a bounced frame is an error.
        returned: Checker::new(&back).after(&a.unread),
    };
    pipe.run(Duration::from_millis(WARM_UP_MS))?;
    let meter = Meter::start(target.pid, pipe.checker.next)?;
    pipe.run(Duration::from_secs_f64(shape.seconds))?;
    meter.stop(pipe.checker.next, bytes)
}

/// One thread drives both ends, so that the generator costs the same whatever the router does.
struct Pipe<'a> {
    /// What is being written: whole frames, the next `offset` bytes of which are gone.
    frames: Vec<u8>,
    offset: usize,
    /// Frames written, those in `frames` included.
    sent: u64,
    /// Frames on their way at most.
    window: u64,
    to: TcpStream,
    from: TcpStream,
    template: &'a Template,
    checker: Checker<'a>,
    returned: Checker<'a>,
}

impl Pipe<'_> {
    /// Sends for so long, then waits until everything sent has come.
    fn run(&mut self, time: Duration) -> Result<(), String> {
        for stream in [&self.to, &self.from] {
            stream.set_nonblocking(true).map_err(|e| e.to_string())?;
        }
        let end = Instant::now() + time;
        let mut moved_at = Instant::now();
        loop {
            let now = Instant::now();
            let (may_send, late) = (self.may_send(now < end), now >= end);
            let moved = self.read()? | (may_send && self.write()?);
            if late && self.offset == self.frames.len() && self.checker.next == self.sent {
                return Ok(());
            }
            if moved {
                moved_at = now;
                continue;
            }
            if now.duration_since(moved_at) > Duration::from_millis(STALL_MS) {
                return Err(format!(
                    "{} frames sent, {} came, then nothing more",
                    self.sent, self.checker.next
                ));
            }
            wait(&self.to, may_send && self.offset < self.frames.len(), &self.from);
        }
    }

    /// Whether there is something to write: what was begun is ended; more begins while there is time and room.
    fn may_send(&mut self, in_time: bool) -> bool {
        if self.offset < self.frames.len() {
            return true;
        }
        let per_write = (self.frames.len() / self.template.len()) as u64;
        let room = self.sent - self.checker.next + per_write <= self.window.max(per_write);
        if in_time && room {
            self.sent = self.template.number(&mut self.frames, self.sent);
            self.offset = 0;
        }
        in_time && room
    }

    fn write(&mut self) -> Result<bool, String> {
        match self.to.write(&self.frames[self.offset..]) {
            Ok(n) => {
                self.offset += n;
                Ok(n > 0)
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(e) => Err(format!("writing to the router: {e}")),
        }
    }

    fn read(&mut self) -> Result<bool, String> {
        let came = read(&mut self.checker, &mut self.from)?;
        let returned = read(&mut self.returned, &mut self.to)?;
        Ok(came | returned)
    }
}

fn read(checker: &mut Checker<'_>, stream: &mut TcpStream) -> Result<bool, String> {
    match checker.read(stream) {
        Ok(0) => Err("the router closed a connection".into()),
        Ok(_) => Ok(true),
        Err(ReadError::Io(e)) if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(ReadError::Io(e)) => Err(format!("reading from the router: {e}")),
        Err(ReadError::Wrong(why)) => Err(why),
    }
}

/// Waits until `from` or `to` has bytes, or `to` takes some if `write`.
fn wait(to: &TcpStream, write: bool, from: &TcpStream) {
    const WAIT_MS: i32 = 100;
    let poll = |stream: &TcpStream, events| libc::pollfd {
        fd: stream.as_raw_fd(),
        events,
        revents: 0,
    };
    let to_events = if write {
        libc::POLLIN | libc::POLLOUT
    } else {
        libc::POLLIN
    };
    let mut fds = [poll(from, libc::POLLIN), poll(to, to_events)];
    // SAFETY: the pointer is to an array of two initialised pollfd, alive for the call, and the length is its own.
    unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, WAIT_MS) };
}

/// One frame at a time: there, back, and only then the next.
fn round_trips(
    target: &Target<'_>,
    shape: &Shape,
    [there, back]: [&Template; 2],
    [mut a, mut b]: [Component; 2],
) -> Result<Figures, String> {
    let mut histogram = Histogram::<u64>::new_with_bounds(1, MAX_LATENCY_NS, 3).map_err(|e| e.to_string())?;
    let mut at_b = Checker::new(there).after(&b.unread);
    let mut at_a = Checker::new(back).after(&a.unread);
    let (mut to_b, mut to_a) = (there.repeated(1), back.repeated(1));
    for stream in [&a.stream, &b.stream] {
        stream
            .set_read_timeout(Some(Duration::from_millis(STALL_MS)))
            .map_err(|e| e.to_string())?;
    }
    let warm = Instant::now() + Duration::from_millis(WARM_UP_MS);
    let end = warm + Duration::from_secs_f64(shape.seconds);
    let mut meter = None;
    let mut number = 0;
    loop {
        let now = Instant::now();
        if now >= end {
            break;
        }
        if meter.is_none() && now >= warm {
            histogram.reset();
            meter = Some(Meter::start(target.pid, number)?);
        }
        there.number(&mut to_b, number);
        back.number(&mut to_a, number);
        pass(&to_b, &mut a.stream, &mut b.stream, &mut at_b)?;
        pass(&to_a, &mut b.stream, &mut a.stream, &mut at_a)?;
        histogram.saturating_record(now.elapsed().as_nanos().try_into().unwrap_or(u64::MAX));
        number += 1;
    }
    let meter = meter.ok_or("not one round trip within the time")?;
    let mut figures = meter.stop(number, there.len())?;
    let us = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
    figures.round_trip = Some(RoundTrip {
        p50_us: us(0.5),
        p90_us: us(0.9),
        p99_us: us(0.99),
        p99_9_us: us(0.999),
        p99_99_us: us(0.9999),
        max_us: histogram.max() as f64 / 1e3,
    });
    Ok(figures)
}

fn pass(frame: &[u8], from: &mut TcpStream, to: &mut TcpStream, checker: &mut Checker<'_>) -> Result<(), String> {
    from.write_all(frame)
        .map_err(|e| format!("writing to the router: {e}"))?;
    let wanted = checker.next + 1;
    while checker.next < wanted {
        if !read(checker, to)? {
            return Err(format!(
                "frame {} did not come within {} s",
                wanted - 1,
                STALL_MS / 1000
            ));
        }
    }
    Ok(())
}

/// Time, CPU and frames from one moment on.
struct Meter {
    pid: Option<u32>,
    at: Instant,
    server: f64,
    own: f64,
    frames: u64,
}

impl Meter {
    fn start(pid: Option<u32>, frames: u64) -> Result<Meter, String> {
        let server = pid.map(cpu::seconds).transpose()?.unwrap_or(0.0);
        Ok(Meter {
            pid,
            at: Instant::now(),
            server,
            own: cpu::seconds(std::process::id())?,
            frames,
        })
    }

    fn stop(self, frames: u64, frame_bytes: usize) -> Result<Figures, String> {
        let seconds = self.at.elapsed().as_secs_f64();
        let own = cpu::seconds(std::process::id())? - self.own;
        let server = self.pid.map(cpu::seconds).transpose()?.map(|now| now - self.server);
        let frames = frames - self.frames;
        let count = frames.max(1) as f64;
        Ok(Figures {
            frame_bytes,
            frames,
            seconds,
            frames_per_s: frames as f64 / seconds,
            mb_per_s: (frames * frame_bytes as u64) as f64 / seconds / 1e6,
            server_cpu_s_per_million: server.map(|s| s / count * 1e6),
            generator_cpu_s_per_million: own / count * 1e6,
            round_trip: None,
        })
    }
}
