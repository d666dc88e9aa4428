//! A process of the demo: its log goes into a file, and it never outlives the demo.

use std::fs::File;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Lines of a log that are shown when something is wrong.
const LOG_LINES: usize = 12;

#[derive(Debug)]
pub(super) struct Process {
    /// What it is called in the story.
    pub(super) name: String,
    child: Child,
    log: PathBuf,
    /// Where the log of this life begins, bytes.
    log_start: usize,
}

impl Process {
    /// Starts it in `folder`, where its log is added to `name.log`.
    pub(super) fn start(name: &str, folder: &Path, command: &mut Command) -> Result<Process, String> {
        let log = folder.join(format!("{}.log", name.replace(' ', "-")));
        let output = || File::options().append(true).create(true).open(&log);
        let mut run = || -> io::Result<Child> {
            // A group of its own: Ctrl-C reaches the demo alone, which then ends all in order.
            command
                .current_dir(folder)
                .stdin(Stdio::null())
                .stdout(output()?)
                .stderr(output()?)
                .process_group(0);
            // SAFETY: prctl with these arguments is async-signal-safe and touches no memory. The kernel ends the
            // process with the thread that started it, even when that is killed: nothing else can see to this.
            unsafe {
                command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                    0 => Ok(()),
                    _ => Err(io::Error::last_os_error()),
                });
            }
            command.spawn()
        };
        let log_start = std::fs::read(&log).map_or(0, |bytes| bytes.len());
        let child = run().map_err(|e| format!("{name} does not start: {}: {e}", command.get_program().display()))?;
        Ok(Process {
            name: name.to_owned(),
            child,
            log,
            log_start,
        })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, without waiting.
    pub(super) fn kill(&mut self) {
        // It may have ended by itself; then it is not waited for yet, and its number is nobody else's.
        let _ = self.child.kill();
    }

    /// Why it has ended, with the end of its log; `None` while it runs.
    pub(super) fn ended(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok()??;
        let how = match (status.code(), status.signal()) {
            (Some(code), _) => format!("with status {code}"),
            (None, signal) => format!("by signal {}", signal.unwrap_or_default()),
        };
        Some(format!("{} ended {how}.\n{}", self.name, self.log_end()))
    }

    /// Its log so far.
    pub(super) fn log(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(bytes.get(self.log_start..).unwrap_or_default()).into_owned()
    }

    /// The last lines of its log, for people.
    pub(super) fn log_end(&self) -> String {
        let text = self.log();
        let lines: Vec<&str> = text.lines().collect();
        if lines.is_empty() {
            return format!("The log of {} is empty.\n", self.name);
        }
        let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
        format!("The last lines of its log:\n  {}\n", last.join("\n  "))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        let _ = self.child.wait();
    }
}
