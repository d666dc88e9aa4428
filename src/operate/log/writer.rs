//! The writer's thread: takes what is queued, writes once per target, waits.

use super::format;
use super::sink::{Place, Sink};
use super::{Entry, LogTarget, Shared};
use crate::node::api::LogLine;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use std::collections::HashMap;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

/// Bytes gathered before they are written, though more entries wait.
const BATCH_BYTES: usize = 256 * 1024;
/// Files of the operator's that stay open; one more closes all of them, those that fail first lose what they kept.
const MAX_FILES: usize = 16;
/// The socket of the system's log daemon.
const DEV_LOG: &str = "/dev/log";
/// A syslog daemon that takes nothing for so long is left alone until the next line, milliseconds.
const SYSLOG_WAIT_MS: u64 = 200;

pub(super) struct Writer {
    lines: Lines,
    files: HashMap<PathBuf, Sink>,
    shared: Arc<Shared>,
    /// Losses that were reported in the log.
    reported: u64,
}

enum Lines {
    Sink(Sink),
    Syslog(Syslog),
}

impl Writer {
    pub(super) fn new(target: LogTarget, ident: &str, shared: Arc<Shared>) -> Writer {
        let lines = match target {
            LogTarget::Stdout => Lines::Sink(Sink::new(Place::Stdout)),
            LogTarget::File(path) => Lines::Sink(Sink::new(Place::File(path))),
            LogTarget::Syslog { ident: own, facility } => {
                let tag = if own.is_empty() { ident.to_owned() } else { own };
                Lines::Syslog(Syslog::new(Path::new(DEV_LOG), tag, facility))
            }
        };
        Writer {
            lines,
            files: HashMap::new(),
            shared,
            reported: 0,
        }
    }

    /// Writes until all senders are gone.
    pub(super) fn run(mut self, queue: &Receiver<Entry>) {
        loop {
            let first = match self.next_retry() {
                None => queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(at) => queue.recv_deadline(at),
            };
            let mut waiting = Vec::new();
            match first {
                Ok(entry) => self.take(entry, queue, &mut waiting),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.write(),
            }
            if self.shared.reopen.swap(false, Ordering::AcqRel) {
                self.reopen();
            }
            self.report_lost(SystemTime::now());
            self.write();
            if !waiting.is_empty() && !self.failing() {
                for done in waiting {
                    let _ = done.send(());
                }
            }
        }
    }

    fn take(&mut self, first: Entry, queue: &Receiver<Entry>, waiting: &mut Vec<Sender<()>>) {
        let mut gathered = 0;
        let mut next = Some(first);
        while let Some(entry) = next {
            let cost = entry.cost();
            self.shared.queued_bytes.fetch_sub(cost, Ordering::AcqRel);
            gathered += cost;
            match entry {
                Entry::Line(at, line) => self.line(at, &line),
                Entry::Append(path, bytes) => self.append(path, &bytes),
                Entry::Wake => {}
                Entry::Flush(done) => waiting.push(done),
            }
            next = if gathered < BATCH_BYTES {
                queue.try_recv().ok()
            } else {
                None
            };
        }
    }

    fn line(&mut self, at: SystemTime, line: &LogLine) {
        self.report_lost(at);
        self.put(at, line);
    }

    /// "N entries were lost", before the first line that is written after them.
    fn report_lost(&mut self, at: SystemTime) {
        let lost = self.shared.lost.load(Ordering::Relaxed);
        if lost > self.reported && !self.lines_failing() {
            self.put(at, &format::lost(lost - self.reported));
            self.reported = lost;
        }
    }

    fn put(&mut self, at: SystemTime, line: &LogLine) {
        let kept = match &mut self.lines {
            Lines::Sink(sink) => sink.push(|into| format::file_line(at, line, into)),
            Lines::Syslog(syslog) => syslog.put(at, line),
        };
        if !kept {
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn append(&mut self, path: PathBuf, bytes: &[u8]) {
        if !self.files.contains_key(&path) && self.files.len() >= MAX_FILES {
            self.write();
            self.shared.lost.fetch_add(
                self.files.values().filter(|s| s.queued() > 0).count() as u64,
                Ordering::Relaxed,
            );
            self.files.clear();
        }
        let sink = self
            .files
            .entry(path)
            .or_insert_with_key(|path| Sink::new(Place::File(path.clone())));
        if !sink.push(|into| into.extend_from_slice(bytes)) {
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn write(&mut self) {
        if let Lines::Sink(sink) = &mut self.lines {
            let failed = sink.failing();
            sink.flush();
            if failed && !sink.failing() {
                self.report_lost(SystemTime::now());
                if let Lines::Sink(sink) = &mut self.lines {
                    sink.flush();
                }
            }
        }
        self.files.values_mut().for_each(Sink::flush);
    }

    fn reopen(&mut self) {
        match &mut self.lines {
            Lines::Sink(sink) => sink.reopen(),
            Lines::Syslog(syslog) => syslog.socket = None,
        }
        self.files.values_mut().for_each(Sink::reopen);
    }

    fn lines_failing(&self) -> bool {
        matches!(&self.lines, Lines::Sink(sink) if sink.failing())
    }

    fn failing(&self) -> bool {
        self.lines_failing() || self.files.values().any(Sink::failing)
    }

    fn next_retry(&self) -> Option<Instant> {
        let lines = match &self.lines {
            Lines::Sink(sink) => sink.retry_at(),
            Lines::Syslog(_) => None,
        };
        lines
            .into_iter()
            .chain(self.files.values().filter_map(Sink::retry_at))
            .min()
    }
}

/// The system's log daemon. It may restart at any time: the socket is connected anew when a datagram fails.
pub(super) struct Syslog {
    path: PathBuf,
    tag: String,
    facility: u8,
    socket: Option<UnixDatagram>,
    failed: bool,
}

impl Syslog {
    pub(super) fn new(path: &Path, tag: String, facility: u8) -> Syslog {
        Syslog {
            path: path.to_owned(),
            tag,
            facility,
            socket: None,
            failed: false,
        }
    }

    /// `false`: nobody takes it.
    pub(super) fn put(&mut self, at: SystemTime, line: &LogLine) -> bool {
        let datagram = format::syslog_line(at, line, self.facility, &self.tag);
        let sent = self.send(&datagram).or_else(|_| {
            self.socket = None;
            self.send(&datagram)
        });
        match sent {
            Ok(()) => self.failed = false,
            Err(e) => {
                if !std::mem::replace(&mut self.failed, true) {
                    eprintln!(
                        "jidmesh: cannot write to syslog ({}): {e}; trying again with each line",
                        self.path.display()
                    );
                }
            }
        }
        !self.failed
    }

    fn send(&mut self, datagram: &[u8]) -> std::io::Result<()> {
        let socket = match &mut self.socket {
            Some(socket) => socket,
            none => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(&self.path)?;
                socket.set_write_timeout(Some(Duration::from_millis(SYSLOG_WAIT_MS)))?;
                none.insert(socket)
            }
        };
        socket.send(datagram).map(drop)
    }
}
