//! The frame scanner: where does each child of the stream root end?
//!
//! It knows all of XML's structure (RFC 6120 11 forbids parts of it) but neither names, namespaces nor entities:
//! for those see [`super::validate`]. Whatever it lets through has the same frame borders for every XML parser that
//! does not refuse it. Two machines share one state: `bytes` knows everything, one byte a step; `blocks` knows the
//! form nearly all frames have, 64 bytes a step, and leaves the rest to `bytes`. Before both stands `routes`, for senders
//! that are [trusted](Scanner::trust).

mod blocks;
mod bytes;
mod lanes;
mod routes;
#[cfg(test)]
mod tests;

use blocks::Exit;
use bytes::{State, Utf8};
use lanes::Lanes;

/// Limits of one stream.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest frame (one child of the stream root), bytes.
    pub frame_bytes_max: usize,
    /// Longest stream header (prologue and open tag), bytes.
    pub open_bytes_max: usize,
    /// Deepest nesting below the stream root, elements.
    pub depth_max: u16,
}

/// What the scanner found; offsets count from the start of the buffer given to [`Scanner::next`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// The stream's open tag (with what came before it: declaration, space, comments) ends before `end`.
    Open {
        /// First byte after the open tag.
        end: usize,
        /// The open tag closed itself (`<stream:stream/>`): the stream is over at once.
        empty: bool,
    },
    /// One whole frame, `start..end`, without the space, comments and PIs between frames.
    Frame {
        /// The `<` of the frame's start tag.
        start: usize,
        /// First byte after the frame.
        end: usize,
    },
    /// The stream's close tag.
    Close {
        /// First byte after the close tag.
        end: usize,
    },
}

/// Why a stream can't go on. The link is answered with the stream error of [`ScanError::condition`] and closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScanError {
    /// Not well-formed; the text says how.
    NotWellFormed(&'static str),
    /// Bytes that are not UTF-8, or a character XML 1.0 forbids.
    BadCharacter,
    /// DOCTYPE, or anything else RFC 6120 11.1 forbids (restricted-xml).
    Restricted(&'static str),
    /// A frame or header over its limit (policy-violation).
    TooLarge,
    /// Nested deeper than the limit (policy-violation).
    TooDeep,
}

/// Which code finds the borders; all give the same answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// 64 bytes a step with AVX-512.
    Avx512,
    /// Two times 32 bytes a step with AVX2.
    Avx2,
    /// Four times 16 bytes a step with SSE2, which every x86-64 has.
    Sse2,
    /// Eight 64-bit words a step, any CPU.
    Words,
    /// One byte a step: the reference of the others.
    Bytes,
}

impl Path {
    /// The paths this CPU can take, fastest first.
    pub fn available() -> Vec<Path> {
        let all = [Path::Avx512, Path::Avx2, Path::Sse2, Path::Words, Path::Bytes];
        all.into_iter().filter(|path| path.runs_here()).collect()
    }

    /// The path's name in logs and reports.
    pub fn name(self) -> &'static str {
        match self {
            Path::Avx512 => "avx512",
            Path::Avx2 => "avx2",
            Path::Sse2 => "sse2",
            Path::Words => "words",
            Path::Bytes => "bytes",
        }
    }

    /// Has this CPU what the path needs?
    #[cfg(target_arch = "x86_64")]
    fn runs_here(self) -> bool {
        let common = || {
            is_x86_feature_detected!("pclmulqdq")
                && is_x86_feature_detected!("bmi1")
                && is_x86_feature_detected!("bmi2")
                && is_x86_feature_detected!("popcnt")
                && is_x86_feature_detected!("avx2")
        };
        match self {
            Path::Avx512 => common() && is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw"),
            Path::Avx2 => common(),
            Path::Sse2 | Path::Words | Path::Bytes => true,
        }
    }

    /// Has this CPU what the path needs?
    #[cfg(not(target_arch = "x86_64"))]
    fn runs_here(self) -> bool {
        matches!(self, Path::Words | Path::Bytes)
    }
}

/// `<a/>`: a limit below this means this.
const SMALLEST_FRAME: usize = 4;

/// Where in a stream the scanner stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Before the end of the open tag.
    Prolog,
    /// Between the open tag and the close tag.
    Body,
    /// Behind the close tag.
    Closed,
    /// Broken for good.
    Failed(ScanError),
}

/// Finds the borders of a stream's frames; resumable at any byte, each byte is looked at once.
#[derive(Clone, Debug)]
pub struct Scanner {
    limits: Limits,
    path: Path,
    trusted: bool,
    phase: Phase,
    state: State,
    utf8: Utf8,
    /// Bytes seen, from the start of the caller's buffer.
    at: usize,
    /// Start of the unfinished item; means something only while `stop` is not `usize::MAX`.
    start: usize,
    /// The unfinished item may not reach beyond this offset; `usize::MAX`: there is none.
    stop: usize,
    /// The `<` of the processing instruction at hand.
    mark: usize,
    /// How much of an expected word has been seen.
    matched: usize,
    /// Elements open below the root.
    depth: u32,
    /// The root's qualified name, for the close tag.
    root: Vec<u8>,
    /// Frames found and not yet told; all the fields above speak of what stands behind them.
    ahead: Ahead,
}

/// Frames that are found before they are asked for.
const AHEAD_MAX: usize = 16;

/// Frames, each right behind the one before it, in a run that was scanned at once: a block of bytes may hold the end
/// of one frame and the start of the next, and is looked at once for both.
#[derive(Clone, Debug, Default)]
struct Ahead {
    /// Where the first frame starts that is not yet told.
    start: usize,
    ends: [usize; AHEAD_MAX],
    /// Ends told.
    told: usize,
    /// Ends noted.
    noted: usize,
}

impl Ahead {
    #[inline(always)]
    fn note(&mut self, start: usize, end: usize) {
        if self.noted == 0 {
            self.start = start;
        }
        self.ends[self.noted] = end;
        self.noted += 1;
    }

    #[inline(always)]
    fn is_full(&self) -> bool {
        self.noted >= AHEAD_MAX
    }

    #[inline(always)]
    fn is_empty(&self) -> bool {
        self.told == self.noted
    }

    #[inline(always)]
    fn tell(&mut self) -> Option<Item> {
        if self.is_empty() {
            return None;
        }
        let end = self.ends[self.told];
        let start = std::mem::replace(&mut self.start, end);
        self.told += 1;
        if self.is_empty() {
            (self.told, self.noted) = (0, 0);
        }
        Some(Item::Frame { start, end })
    }

    fn consume(&mut self, n: usize) {
        self.start = self.start.saturating_sub(n);
        for end in &mut self.ends[self.told..self.noted] {
            *end -= n.min(*end);
        }
    }
}

impl Scanner {
    /// A scanner for the start of a stream, on the fastest path of this CPU.
    pub fn new(limits: Limits) -> Scanner {
        Scanner::with_path(limits, Path::available()[0])
    }

    /// The same on a given path; a path that this CPU can't take is replaced by the fastest one it can.
    pub fn with_path(limits: Limits, path: Path) -> Scanner {
        let path = if path.runs_here() { path } else { Path::available()[0] };
        let mut scanner = Scanner {
            limits: Limits {
                frame_bytes_max: limits.frame_bytes_max.max(SMALLEST_FRAME),
                ..limits
            },
            path,
            trusted: false,
            phase: Phase::Prolog,
            state: State::Text,
            utf8: Utf8::default(),
            at: 0,
            start: 0,
            stop: usize::MAX,
            mark: 0,
            matched: 0,
            depth: 0,
            root: Vec::new(),
            ahead: Ahead::default(),
        };
        scanner.restart();
        scanner
    }

    /// A scanner that stands between two frames of a stream whose root has this qualified name. With the bytes from
    /// [`Scanner::unfinished_start`] on it goes on where another one [can be left](Scanner::can_be_left).
    pub fn inside(limits: Limits, root: &[u8]) -> Scanner {
        let mut scanner = Scanner::new(limits);
        scanner.phase = Phase::Body;
        scanner.stop = usize::MAX;
        scanner.root = root.to_vec();
        scanner
    }

    /// Whether the bytes of the unfinished item are all that another scanner needs: not inside a comment between frames,
    /// or the root's end tag.
    pub fn can_be_left(&self) -> bool {
        self.phase == Phase::Body && (self.stop != usize::MAX || self.state == State::Text)
    }

    /// The qualified name of the stream's root.
    pub fn root(&self) -> &[u8] {
        &self.root
    }

    /// Is the sender trusted to write well-formed XML? Then the grammar inside its routes is not checked (characters and
    /// size are), which makes most frames three times as cheap; what a parser accepts has the same borders either way.
    /// [`Path::Bytes`] trusts nobody.
    pub fn trust(&mut self, trusted: bool) {
        self.trusted = trusted;
    }

    /// The path taken.
    pub fn path(&self) -> Path {
        self.path
    }

    /// Finds the next item. `buf` starts with the bytes that were shown before and not [consumed](Scanner::consume);
    /// more may stand behind them. `None`: all bytes are seen and more are needed.
    ///
    /// # Errors
    /// The stream can't go on; every later call answers the same.
    #[inline]
    pub fn next(&mut self, buf: &[u8]) -> Result<Option<Item>, ScanError> {
        debug_assert!(buf.len() >= self.at, "bytes were taken away without consume()");
        match self.ahead.tell() {
            Some(frame) => Ok(Some(frame)),
            None => self.search(buf),
        }
    }

    fn search(&mut self, buf: &[u8]) -> Result<Option<Item>, ScanError> {
        if let Phase::Failed(error) = self.phase {
            return Err(error);
        }
        let found = match self.path {
            // SAFETY: `with_path` has seen that this CPU has what the path needs.
            #[cfg(target_arch = "x86_64")]
            Path::Avx512 => unsafe { next_avx512(self, buf) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Path::Avx2 => unsafe { next_avx2(self, buf) },
            // SAFETY: SSE2 is part of x86-64.
            #[cfg(target_arch = "x86_64")]
            Path::Sse2 => unsafe { self.advance::<lanes::x86::Sse2>(buf) },
            Path::Bytes => self.bytes(buf, buf.len()),
            // SAFETY: needs no features.
            _ => unsafe { self.advance::<lanes::Words>(buf) },
        };
        if let Err(error) = found {
            self.phase = Phase::Failed(error);
        }
        found
    }

    /// The caller removed `n` bytes from the front of its buffer: at most [`Scanner::unfinished_start`].
    pub fn consume(&mut self, n: usize) {
        debug_assert!(n <= self.unfinished_start(), "an unfinished item was taken away");
        self.ahead.consume(n);
        self.at -= n.min(self.at);
        self.start = self.start.saturating_sub(n);
        self.mark = self.mark.saturating_sub(n);
        if self.stop != usize::MAX {
            self.stop = self.stop.saturating_sub(n);
        }
    }

    /// How many bytes of the buffer have been looked at; frames in them may still have to be asked for.
    pub fn seen(&self) -> usize {
        self.at
    }

    /// Bytes before this offset are not needed any more: finished items, and what stands between items.
    pub fn unfinished_start(&self) -> usize {
        match self.stop {
            _ if !self.ahead.is_empty() => self.ahead.start,
            usize::MAX => self.at,
            _ => self.start,
        }
    }

    /// A new XML document follows behind the last item (RFC 6120 4.3.3): declaration and open tag are expected again.
    pub fn restart(&mut self) {
        self.at = if self.ahead.is_empty() {
            self.at
        } else {
            self.ahead.start
        };
        self.ahead = Ahead::default();
        self.phase = Phase::Prolog;
        self.state = State::Text;
        self.utf8 = Utf8::default();
        self.depth = 0;
        self.root.clear();
        self.start = self.at;
        self.stop = self.at.saturating_add(self.limits.open_bytes_max);
    }

    /// Steps in blocks where the form allows, in bytes where it does not.
    ///
    /// # Safety
    /// The CPU must have what `L` needs.
    #[inline(always)]
    unsafe fn advance<L: Lanes>(&mut self, buf: &[u8]) -> Result<Option<Item>, ScanError> {
        while self.at < buf.len() {
            if self.trusted {
                // SAFETY: the caller grants the features.
                unsafe { self.routes::<L>(buf) };
                if let Some(frame) = self.ahead.tell() {
                    return Ok(Some(frame));
                }
            }
            let bytes = if self.fit_for_blocks(buf) {
                // SAFETY: the caller grants the features.
                let exit = unsafe { self.blocks::<L>(buf) };
                match (self.ahead.tell(), exit) {
                    (Some(frame), _) => return Ok(Some(frame)),
                    (None, Exit::Done) => continue,
                    (None, Exit::Careful(bytes)) => bytes,
                }
            } else {
                // In a comment or its like there is little hope that the next byte is different.
                if self.depth == 0 { 1 } else { 16 }
            };
            let found = self.bytes(buf, self.at + bytes)?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// A frame, or another item, starts here.
    #[inline(always)]
    fn begin(&mut self, at: usize) {
        self.start = at;
        self.stop = at.saturating_add(self.limits.frame_bytes_max);
    }
}

/// # Safety
/// The CPU must have the features below.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx2,pclmulqdq,bmi1,bmi2,popcnt")]
unsafe fn next_avx512(scanner: &mut Scanner, buf: &[u8]) -> Result<Option<Item>, ScanError> {
    // SAFETY: granted by the caller.
    unsafe { scanner.advance::<lanes::x86::Avx512>(buf) }
}

/// # Safety
/// The CPU must have the features below.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,pclmulqdq,bmi1,bmi2,popcnt")]
unsafe fn next_avx2(scanner: &mut Scanner, buf: &[u8]) -> Result<Option<Item>, ScanError> {
    // SAFETY: granted by the caller.
    unsafe { scanner.advance::<lanes::x86::Avx2>(buf) }
}

impl ScanError {
    /// The RFC 6120 4.9.3 condition.
    pub fn condition(&self) -> &'static str {
        match self {
            ScanError::NotWellFormed(_) | ScanError::BadCharacter => "xml-not-well-formed",
            ScanError::Restricted(_) => "restricted-xml",
            ScanError::TooLarge | ScanError::TooDeep => "policy-violation",
        }
    }

    /// What is wrong, in words for the peer's log.
    pub fn text(&self) -> &'static str {
        match self {
            ScanError::NotWellFormed(text) | ScanError::Restricted(text) => text,
            ScanError::BadCharacter => "invalid character or encoding",
            ScanError::TooLarge => "frame too large",
            ScanError::TooDeep => "nested too deeply",
        }
    }
}
