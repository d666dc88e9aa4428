//! One thing that bytes are appended to, which may fail and come back.

use super::{MAX_BACKLOG_BYTES, RETRY_MS};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Where the bytes go.
#[derive(Debug)]
pub(super) enum Place {
    Stdout,
    File(PathBuf),
}

/// A place, what is kept for it while it cannot be written, and what was lost.
#[derive(Debug)]
pub(super) struct Sink {
    place: Place,
    file: Option<File>,
    /// Whole entries, but for the first one, whose beginning may be written already.
    backlog: Vec<u8>,
    retry_at: Option<Instant>,
    /// Entries lost and not reported yet.
    pub(super) lost: u64,
}

impl Sink {
    pub(super) fn new(place: Place) -> Sink {
        Sink {
            place,
            file: None,
            backlog: Vec::new(),
            retry_at: None,
            lost: 0,
        }
    }

    /// Takes an entry; [`Sink::flush`] writes it. `false`: the backlog is full, the entry is lost.
    pub(super) fn push(&mut self, fill: impl FnOnce(&mut Vec<u8>)) -> bool {
        let before = self.backlog.len();
        fill(&mut self.backlog);
        let fits = self.backlog.len() <= MAX_BACKLOG_BYTES || before == 0;
        if !fits {
            self.backlog.truncate(before);
            self.lost += 1;
        }
        fits
    }

    pub(super) fn queued(&self) -> usize {
        self.backlog.len()
    }

    /// Whether the last attempt failed.
    pub(super) fn failing(&self) -> bool {
        self.retry_at.is_some()
    }

    /// When a failed attempt is due again.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Opens the place anew at the next write.
    pub(super) fn reopen(&mut self) {
        self.file = None;
        self.retry_at = None;
    }

    /// Writes what is queued, unless a failed attempt is too recent. Says once on standard error that it fails.
    pub(super) fn flush(&mut self) {
        if self.backlog.is_empty() || self.retry_at.is_some_and(|at| Instant::now() < at) {
            return;
        }
        match self.write_out() {
            Ok(()) => self.retry_at = None,
            Err(e) => {
                if self.retry_at.is_none() {
                    eprintln!(
                        "jidmesh: cannot write to {}: {e}; trying again every second",
                        self.name()
                    );
                }
                // A file that failed is looked for by its name again: its folder may have been made meanwhile.
                self.file = None;
                self.retry_at = Some(Instant::now() + Duration::from_millis(RETRY_MS));
            }
        }
    }

    fn write_out(&mut self) -> io::Result<()> {
        let mut done = 0;
        let result = loop {
            if done == self.backlog.len() {
                break Ok(());
            }
            match self.write_some(done) {
                Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => break Err(e),
            }
        };
        // What is written stays written: the rest goes on exactly there, so no line is torn or doubled.
        self.backlog.drain(..done);
        result
    }

    fn write_some(&mut self, from: usize) -> io::Result<usize> {
        let bytes = &self.backlog[from..];
        match &self.place {
            Place::Stdout => {
                let mut out = io::stdout().lock();
                // All or nothing: the standard library buffers lines and does not tell how far it came.
                out.write_all(bytes)?;
                out.flush()?;
                Ok(bytes.len())
            }
            Place::File(path) => {
                let file = match &mut self.file {
                    Some(file) => file,
                    none => none.insert(OpenOptions::new().append(true).create(true).mode(0o640).open(path)?),
                };
                file.write(bytes)
            }
        }
    }

    fn name(&self) -> String {
        match &self.place {
            Place::Stdout => "standard output".into(),
            Place::File(path) => path.display().to_string(),
        }
    }
}
