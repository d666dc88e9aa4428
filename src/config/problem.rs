//! What is wrong with a configuration file, where.

use std::fmt;
use std::path::{Path, PathBuf};

/// Whether jidmesh can start with a [`Problem`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It starts, but the operator should look at it.
    Warning,
    /// It does not start.
    Error,
}

/// One problem of one file. Shown as `FILE:LINE: error: TEXT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file, as it was named.
    pub path: PathBuf,
    /// The line, counted from 1; 0 if the whole file is meant.
    pub line: u32,
    /// How grave.
    pub severity: Severity,
    /// What was found, and what would be right.
    pub text: String,
}

impl Problem {
    /// A problem that prevents the start.
    pub fn error(path: &Path, line: u32, text: impl Into<String>) -> Problem {
        Problem {
            path: path.to_owned(),
            line,
            severity: Severity::Error,
            text: text.into(),
        }
    }

    /// `FILE:LINE: TEXT`, for a log whose lines have a level already.
    pub fn plain(&self) -> impl fmt::Display + '_ {
        fmt::from_fn(|f| {
            self.place(f)?;
            write!(f, ": {}", self.text)
        })
    }

    fn place(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        Ok(())
    }

    /// A problem that does not.
    pub fn warning(path: &Path, line: u32, text: impl Into<String>) -> Problem {
        Problem {
            path: path.to_owned(),
            line,
            severity: Severity::Warning,
            text: text.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.place(f)?;
        let severity = match self.severity {
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        write!(f, ": {severity}: {}", self.text)
    }
}
