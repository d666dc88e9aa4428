//! One component's socket: what waits to be written, and what came, cut into frames.

use super::book::{Book, Front, Known};
use super::component::{Component, excerpt, scanner_in_stream};
use super::stamp::Stamp;
use crate::wire::scan::{Item, Scanner};
use crate::wire::stream;
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

/// Bytes that one read may take.
const READ_BYTES: usize = 256 << 10;
/// The longest that the last bytes of streams that were ended are waited for, and how long in silence.
const PART_TIME: Duration = Duration::from_secs(4);
const PART_QUIET: Duration = Duration::from_millis(300);
/// Written bytes are taken out of the buffer when they are so many.
const COMPACT_BYTES: usize = 1 << 20;

/// Who is told what came.
pub(super) trait Sink {
    /// A frame of the book, unaltered.
    fn known(&mut self, known: Known, bytes: usize, out: &mut Out) -> Result<(), String>;
    /// Anything else: adverts, questions, session control.
    fn other(&mut self, frame: &[u8], out: &mut Out) -> Result<(), String>;
}

/// Bytes that wait to be written.
#[derive(Debug, Default)]
pub(super) struct Out {
    pub(super) bytes: Vec<u8>,
    at: usize,
    /// One frame a write: where each frame ends.
    ends: Option<VecDeque<usize>>,
}

impl Out {
    /// To be called behind each frame that was appended to `bytes`.
    pub(super) fn framed(&mut self) {
        if let Some(ends) = &mut self.ends {
            ends.push_back(self.bytes.len());
        }
    }

    /// Bytes that are not written yet.
    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Writes as much as the socket takes; gives how much that was.
    fn flush(&mut self, stream: &mut TcpStream) -> io::Result<usize> {
        let mut written = 0;
        while self.at < self.bytes.len() {
            let end = self.ends.as_ref().and_then(|ends| ends.front().copied());
            let end = end.unwrap_or(self.bytes.len());
            match stream.write(&self.bytes[self.at..end]) {
                Ok(n) => {
                    self.at += n;
                    written += n;
                    if self.at == end
                        && let Some(ends) = &mut self.ends
                    {
                        ends.pop_front();
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => return Err(e),
            }
        }
        self.compact();
        Ok(written)
    }

    fn compact(&mut self) {
        if self.at == self.bytes.len() {
            self.bytes.clear();
            self.at = 0;
        } else if self.at > COMPACT_BYTES {
            self.bytes.drain(..self.at);
            for end in self.ends.iter_mut().flatten() {
                *end -= self.at;
            }
            self.at = 0;
        }
    }
}

/// A component's connection.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) id: String,
    stream: TcpStream,
    /// Its first `filled` bytes are the beginning of a frame, the others room to read into.
    waiting: Vec<u8>,
    filled: usize,
    /// Where the last frame had its id.
    guess: usize,
    pub(super) out: Out,
    /// In front of any frame.
    pristine: Scanner,
    /// Its end was sent.
    ended: bool,
}

impl Link {
    pub(super) fn new(component: Component) -> Link {
        Link {
            id: component.names.id().to_owned(),
            stream: component.stream,
            filled: component.unread.len(),
            waiting: component.unread,
            guess: 0,
            out: Out::default(),
            pristine: scanner_in_stream(),
            ended: false,
        }
    }

    pub(super) fn fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }

    fn end(&mut self) {
        if !std::mem::replace(&mut self.ended, true) {
            let mut end = Vec::new();
            stream::close(&mut end);
            // What the socket does not take now need not arrive.
            let _ = self.stream.write(&end);
        }
    }

    /// One write for each frame, as jabberd2's components do it, or as many frames as there are.
    pub(super) fn one_frame_a_write(&mut self, yes: bool) {
        assert_eq!(self.out.len(), 0, "only between measurements");
        self.out.ends = yes.then(VecDeque::new);
    }

    /// Writes what waits; gives the bytes written.
    pub(super) fn flush(&mut self) -> Result<usize, String> {
        let flushed = self.out.flush(&mut self.stream);
        flushed.map_err(|e| format!("{}: writing to the router: {e}", self.id))
    }

    /// Reads once, `most` bytes at most, and tells what came; gives the number of bytes, 0 when there was nothing.
    /// Without a book all frames are other frames.
    pub(super) fn read(&mut self, most: usize, book: Option<&Book>, sink: &mut impl Sink) -> Result<usize, String> {
        let mut buffer = std::mem::take(&mut self.waiting);
        let room = most.min(READ_BYTES);
        if buffer.len() < self.filled + room {
            buffer.resize(self.filled + READ_BYTES, 0);
        }
        let read = match self.stream.read(&mut buffer[self.filled..self.filled + room]) {
            Ok(0) => return Err(format!("the router closed the connection of {}", self.id)),
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => 0,
            Err(e) => return Err(format!("{}: reading from the router: {e}", self.id)),
        };
        let all = self.filled + read;
        let done = self.cut(&buffer[..all], book, sink)?;
        buffer.copy_within(done..all, 0);
        self.waiting = buffer;
        self.filled = all - done;
        Ok(read)
    }

    /// Tells all whole frames; gives how many bytes they were.
    fn cut(&mut self, bytes: &[u8], book: Option<&Book>, sink: &mut impl Sink) -> Result<usize, String> {
        let Some(book) = book else {
            return self.scan(bytes, None, sink);
        };
        let mut at = 0;
        while at < bytes.len() {
            match book.front(&bytes[at..], &mut self.guess) {
                Front::Same(stamp, len) => {
                    sink.known(Known { stamp, bounced: false }, len, &mut self.out)?;
                    at += len;
                }
                Front::Short => return Ok(at),
                Front::Other => return Ok(at + self.scan(&bytes[at..], Some(book), sink)?),
            }
        }
        Ok(at)
    }

    /// The same for frames that are not as they were sent: each is taken apart.
    fn scan(&mut self, bytes: &[u8], book: Option<&Book>, sink: &mut impl Sink) -> Result<usize, String> {
        let mut scanner = self.pristine.clone();
        loop {
            match scanner.next(bytes) {
                Ok(Some(Item::Frame { start, end })) => {
                    let frame = &bytes[start..end];
                    let known = book.map_or(Ok(None), |book| book.same(frame));
                    match known.map_err(|why| format!("at {}: {why}", self.id))? {
                        Some(known) => sink.known(known, end - start, &mut self.out)?,
                        None => sink.other(frame, &mut self.out)?,
                    }
                }
                Ok(None) => return Ok(scanner.unfinished_start()),
                Ok(Some(_)) => return Err(format!("the router closes the stream: {}", excerpt(bytes))),
                Err(e) => return Err(format!("at {}: {}: {}", self.id, e.text(), excerpt(bytes))),
            }
        }
    }
}

impl Drop for Link {
    /// Ends the stream in order: a component that only closes its connection is waited for.
    fn drop(&mut self) {
        self.end();
    }
}

/// Ends all streams, and reads what still comes until the router has closed them: what a receiver never took would
/// come back to senders of the same names, which may be those of the next measurement.
pub(super) fn part<'a>(links: impl Iterator<Item = &'a mut Link>) {
    let mut open: Vec<&mut Link> = links.collect();
    open.iter_mut().for_each(|link| link.end());
    let begun = Instant::now();
    let mut moved = begun;
    let mut rest = vec![0; READ_BYTES];
    while !open.is_empty() && begun.elapsed() < PART_TIME && moved.elapsed() < PART_QUIET {
        let before = Instant::now();
        let (mut ended, mut read) = (false, false);
        open.retain_mut(|link| match link.stream.read(&mut rest) {
            Ok(n) => {
                read |= n > 0;
                ended |= n == 0;
                n > 0
            }
            Err(e) => matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
        });
        match read || ended {
            true => moved = before,
            false => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// The next frame of a flow: what is wrong with this one, if anything.
pub(super) fn in_order(stamp: Stamp, expected: u32) -> Result<(), String> {
    match stamp.number.wrapping_sub(expected) as i32 {
        0 => Ok(()),
        ahead if ahead > 0 => Err(format!(
            "{ahead} frame(s) before frame {} were lost or overtaken",
            stamp.number
        )),
        _ => Err(format!("frame {} came twice or too late", stamp.number)),
    }
}
