//! Where the shell puts log lines and appended files: nothing here may wait for a disk.

use crate::node::api::{Level, LogLine};
use std::path::PathBuf;

/// The way to the operator's log. Called from executors: an implementation queues and returns.
pub trait Journal: Send + Sync {
    /// A line for the log.
    fn log(&self, line: LogLine);
    /// Bytes for the end of a file; `stamped`: behind the time.
    fn append(&self, file: PathBuf, bytes: Vec<u8>, stamped: bool);
    /// The log file was moved away (SIGHUP): open it again.
    fn reopen(&self) {}
}

/// Lines to standard error: for start-up, before a log is open, and for tests.
#[derive(Debug, Default)]
pub struct Stderr;

impl Journal for Stderr {
    fn log(&self, line: LogLine) {
        match line.remote {
            Some(remote) => eprintln!("jidmesh: [{remote}] {}", line.text),
            None => eprintln!("jidmesh: {}", line.text),
        }
    }

    fn append(&self, file: PathBuf, _bytes: Vec<u8>, _stamped: bool) {
        eprintln!("jidmesh: no writer for {}", file.display());
    }
}

/// A line that concerns no link.
pub(crate) fn line(level: Level, text: impl Into<String>) -> LogLine {
    LogLine {
        level,
        remote: None,
        text: text.into(),
    }
}
