//! The log writer: a thread behind a bounded queue, so that no disk, pipe or syslog daemon ever holds up a shard.
//!
//! A target that cannot be written is said once on standard error and tried again every [`RETRY_MS`]; meanwhile a
//! bounded rest is kept, and what does not fit is counted and reported in the log when it works again.

mod format;
mod sink;
mod writer;

use crate::node::api::{Level, LogLine};
use crossbeam_channel::{Sender, TrySendError};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

/// Entries that wait for the writer.
pub const MAX_QUEUED: usize = 8_192;
/// Bytes that wait for the writer.
pub const MAX_QUEUED_BYTES: usize = 16 << 20;
/// Bytes kept per target while it cannot be written.
pub const MAX_BACKLOG_BYTES: usize = 1 << 20;
/// Time between two attempts to write to a target that failed, milliseconds.
pub const RETRY_MS: u64 = 1_000;
/// A longer line is cut, bytes.
pub const MAX_LINE_BYTES: usize = 8_192;

/// Where log lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// Standard output.
    Stdout,
    /// A file, created with mode 0640 and appended to.
    File(PathBuf),
    /// The system's log daemon, by datagrams to `/dev/log` (RFC 3164).
    Syslog {
        /// The tag of each line.
        ident: String,
        /// 0 to 7: local0 to local7.
        facility: u8,
    },
}

/// `local0` to `local7` as its number; `None` for anything else.
pub fn parse_facility(name: &str) -> Option<u8> {
    match name.strip_prefix("local")?.as_bytes() {
        [digit @ b'0'..=b'7'] => Some(digit - b'0'),
        _ => None,
    }
}

/// A time as log lines have it: RFC 3339, UTC, milliseconds.
pub(super) fn rfc3339(at: SystemTime) -> String {
    let mut text = String::new();
    format::rfc3339(at, &mut text);
    text
}

/// Starts the writer. `ident` names the program where the target has no name of its own. It ends with the last sender.
pub fn start(target: LogTarget, ident: &str) -> LogSender {
    let (sender, queue) = crossbeam_channel::bounded(MAX_QUEUED);
    let shared = Arc::new(Shared::default());
    let log = LogSender {
        sender,
        shared: shared.clone(),
    };
    let ident = ident.to_owned();
    let thread = std::thread::Builder::new().name("jidmesh-log".into());
    if let Err(e) = thread.spawn(move || writer::Writer::new(target, &ident, shared).run(&queue)) {
        // The queue has no reader then: every line is counted as lost, and nothing waits.
        eprintln!("jidmesh: no log: cannot start its writer: {e}");
    }
    log
}

/// What senders and writer share.
#[derive(Debug)]
struct Shared {
    /// Entries that were dropped, ever: by a full queue or a full backlog.
    lost: AtomicU64,
    queued_bytes: AtomicUsize,
    reopen: AtomicBool,
    /// The least grave level that is logged: a [`Level`] as a number.
    level: AtomicU8,
}

impl Default for Shared {
    fn default() -> Shared {
        Shared {
            lost: AtomicU64::default(),
            queued_bytes: AtomicUsize::default(),
            reopen: AtomicBool::default(),
            level: AtomicU8::new(Level::Info as u8),
        }
    }
}

/// An entry for the writer.
#[derive(Debug)]
enum Entry {
    Line(SystemTime, LogLine),
    Append(PathBuf, Vec<u8>),
    /// Look at the flags.
    Wake,
    /// Write everything before this, then say so.
    Flush(Sender<()>),
}

impl Entry {
    /// What it holds of [`MAX_QUEUED_BYTES`].
    fn cost(&self) -> usize {
        match self {
            Entry::Line(_, line) => line.text.len(),
            Entry::Append(_, bytes) => bytes.len(),
            Entry::Wake | Entry::Flush(_) => 0,
        }
    }
}

/// A way to the log; clones share one writer.
#[derive(Clone, Debug)]
pub struct LogSender {
    sender: Sender<Entry>,
    shared: Arc<Shared>,
}

impl LogSender {
    /// Logs a line. Never blocks: when the queue is full, the line is counted as lost.
    pub fn send(&self, line: LogLine) {
        if line.level as u8 <= self.shared.level.load(Ordering::Relaxed) {
            self.push(Entry::Line(SystemTime::now(), line));
        }
    }

    /// From now on, what is less grave than `level` is not logged.
    pub fn set_level(&self, level: Level) {
        self.shared.level.store(level as u8, Ordering::Relaxed);
    }

    /// Appends `bytes` to a file of the operator's (message log, filter dump). Never blocks, like [`LogSender::send`].
    pub fn append(&self, file: PathBuf, bytes: Vec<u8>) {
        self.push(Entry::Append(file, bytes));
    }

    /// The same, behind the time and a space: an entry of the message log.
    pub fn append_stamped(&self, file: PathBuf, bytes: &[u8]) {
        let mut entry = format::seconds(SystemTime::now()).into_bytes();
        entry.push(b' ');
        entry.extend_from_slice(bytes);
        self.append(file, entry);
    }

    /// Opens the log and all appended files anew, by name, before the next line (SIGHUP, logrotate).
    pub fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Release);
        // A full queue wakes the writer anyway.
        let _ = self.sender.try_send(Entry::Wake);
    }

    /// Waits until what was sent before is written; `false` when that took longer than `wait` or cannot be done.
    pub fn flush(&self, wait: Duration) -> bool {
        let (done, written) = crossbeam_channel::bounded(1);
        let start = std::time::Instant::now();
        self.sender.send_timeout(Entry::Flush(done), wait).is_ok()
            && written.recv_timeout(wait.saturating_sub(start.elapsed())).is_ok()
    }

    /// How many entries were lost since the start.
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }

    fn push(&self, entry: Entry) {
        let cost = entry.cost();
        if self.shared.queued_bytes.fetch_add(cost, Ordering::AcqRel) + cost > MAX_QUEUED_BYTES {
            self.shared.queued_bytes.fetch_sub(cost, Ordering::AcqRel);
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = self.sender.try_send(entry) {
            self.shared.queued_bytes.fetch_sub(cost, Ordering::AcqRel);
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests;
