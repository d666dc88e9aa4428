//! The command line's side of the admin socket: asks, and says in an operator's words what goes wrong.

use super::admin::Request;
use serde_json::Value;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long the node may take to answer, milliseconds.
const ANSWER_MS: u64 = 5_000;
/// A longer answer is no answer, bytes.
const MAX_ANSWER_BYTES: u64 = 256 << 20;

/// What the node behind `admin` answers, in the answer's field `part`. The error is for an operator: what is wrong, what
/// to do.
pub(super) fn ask(admin: &Path, request: &Request, part: &str) -> Result<Value, String> {
    Session::open(admin)?.ask(request, part)
}

/// A connection to a node, for several questions.
pub(super) struct Session<'a> {
    admin: &'a Path,
    stream: BufReader<UnixStream>,
}

impl Session<'_> {
    pub(super) fn open(admin: &Path) -> Result<Session<'_>, String> {
        let wait = Some(Duration::from_millis(ANSWER_MS));
        let connect = || {
            let stream = UnixStream::connect(admin)?;
            stream.set_read_timeout(wait)?;
            stream.set_write_timeout(wait)?;
            Ok(BufReader::new(stream))
        };
        match connect() {
            Ok(stream) => Ok(Session { admin, stream }),
            Err(e) => Err(explain(admin, &e)),
        }
    }

    /// What the node answers, in the answer's field `part`. Errors as of [`ask`].
    pub(super) fn ask(&mut self, request: &Request, part: &str) -> Result<Value, String> {
        let line = self.exchange(request).map_err(|e| explain(self.admin, &e))?;
        let mut answer: Value = serde_json::from_str(&line).map_err(|e| {
            format!(
                "{} is not answered by jidmesh ({e}): is it the right socket?",
                self.admin.display()
            )
        })?;
        if answer["ok"] != Value::Bool(true) {
            return Err(format!(
                "the node refuses: {}",
                answer["error"].as_str().unwrap_or("it does not say why")
            ));
        }
        Ok(answer[part].take())
    }

    fn exchange(&mut self, request: &Request) -> io::Result<String> {
        let mut line = serde_json::to_string(request)?;
        line.push('\n');
        self.stream.get_mut().write_all(line.as_bytes())?;
        line.clear();
        self.stream.by_ref().take(MAX_ANSWER_BYTES).read_line(&mut line)?;
        if line.ends_with('\n') {
            Ok(line)
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }
}

/// Said of an answer that cannot be read.
pub(super) fn not_as_expected(e: &serde_json::Error) -> String {
    format!("the node answers, but not as this version expects ({e}): try --json")
}

/// Prints a text; whoever stops reading it half-way has seen enough.
pub(super) fn print(text: &str) -> Result<(), String> {
    match writeln!(io::stdout().lock(), "{}", text.trim_end()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(e.to_string()),
        _ => Ok(()),
    }
}

fn explain(admin: &Path, e: &io::Error) -> String {
    let at = admin.display();
    match e.kind() {
        io::ErrorKind::NotFound => format!(
            "there is no admin socket {at}: is jidmesh running? Perhaps its configuration names another one in \
             <admin>: give that file with -c, as to `jidmesh run`. Perhaps it was not allowed to make it: its log says so"
        ),
        io::ErrorKind::PermissionDenied => {
            format!(
                "you may not open {at}: run this as root, or as a user of the group that owns it (see `ls -l {at}`)"
            )
        }
        io::ErrorKind::ConnectionRefused => {
            format!("nobody listens on {at}: jidmesh ended without removing it; start it again, and look at its log")
        }
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            format!(
                "{at} does not answer within {} s: the process is stuck or stopped; look at its log",
                ANSWER_MS / 1000
            )
        }
        io::ErrorKind::UnexpectedEof => format!("{at} was closed without an answer: jidmesh is ending"),
        _ => format!("cannot ask {at}: {e}"),
    }
}
