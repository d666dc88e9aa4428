//! `jidmesh status`: asks the admin socket and prints what an operator wants to know.

mod mesh;
mod render;

use serde::Deserialize;
use serde_json::Value;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// How long the node may take to answer, milliseconds.
const ANSWER_MS: u64 = 5_000;
/// A longer answer is no answer, bytes.
const MAX_ANSWER_BYTES: u64 = 256 << 20;

/// Asks the node behind the admin socket for its state and prints it: as tables, or with `json` complete.
/// Fails with a line on standard error that says what to do.
pub fn main(admin: &Path, json: bool) -> ExitCode {
    let written = show(admin, json).and_then(|text| {
        let mut out = io::stdout().lock();
        writeln!(out, "{}", text.trim_end())
            .or_else(closed_pipe_is_fine)
            .map_err(|e| e.to_string())
    });
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("jidmesh status: {why}");
            ExitCode::FAILURE
        }
    }
}

/// What [`main`] prints. The error is for an operator: what is wrong, what to do.
pub fn show(admin: &Path, json: bool) -> Result<String, String> {
    let status = ask(admin)?;
    if json {
        return serde_json::to_string_pretty(&status).map_err(|e| e.to_string());
    }
    let view = View::deserialize(&status)
        .map_err(|e| format!("the node answers, but not as this version expects ({e}): try --json"))?;
    Ok(render::tables(&view))
}

/// The state of the node behind `admin`, as it sends it. The error is for an operator: what is wrong, what to do.
pub fn ask(admin: &Path) -> Result<Value, String> {
    let line = exchange(admin).map_err(|e| explain(admin, &e))?;
    let mut answer: Value = serde_json::from_str(&line).map_err(|e| {
        format!(
            "{} is not answered by jidmesh ({e}): is it the right socket?",
            admin.display()
        )
    })?;
    if answer["ok"] != Value::Bool(true) {
        return Err(format!(
            "the node refuses: {}",
            answer["error"].as_str().unwrap_or("it does not say why")
        ));
    }
    Ok(answer["status"].take())
}

fn exchange(admin: &Path) -> io::Result<String> {
    let mut stream = UnixStream::connect(admin)?;
    let wait = Some(Duration::from_millis(ANSWER_MS));
    stream.set_read_timeout(wait)?;
    stream.set_write_timeout(wait)?;
    stream.write_all(b"{\"cmd\":\"status\"}\n")?;
    let mut line = String::new();
    BufReader::new(stream.take(MAX_ANSWER_BYTES)).read_line(&mut line)?;
    if line.ends_with('\n') {
        Ok(line)
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
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

fn closed_pipe_is_fine(e: io::Error) -> io::Result<()> {
    if e.kind() == io::ErrorKind::BrokenPipe {
        Ok(())
    } else {
        Err(e)
    }
}

/// What of [`NodeStatus`](super::NodeStatus) is shown. Absent fields are nothing and unknown ones are skipped, so that
/// the versions of client and node may differ.
#[derive(Deserialize, Default)]
#[serde(default)]
struct View {
    node: String,
    version: String,
    pid: u32,
    uptime_s: u64,
    uptime_us: u64,
    config_digest: String,
    shards: u16,
    shards_answered: u16,
    health: String,
    seats: Vec<Seat>,
    names: Vec<Name>,
    links_negotiating: u64,
    users: u64,
    sessions: u64,
    sessions_available: u64,
    starts_pending: u64,
    queue_bytes: u64,
    held_bytes: u64,
    mesh: Option<mesh::Mesh>,
    counters: Vec<Counter>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Seat {
    id: String,
    kind: String,
    state: String,
    remote: String,
    user: String,
    shard: u16,
    tls: bool,
    queue_bytes: u64,
    frames_in: u64,
    frames_out: u64,
    sessions: u64,
    returns: u64,
    since_us: u64,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Name {
    name: String,
    holders: Vec<String>,
    clustered: bool,
    default_route: bool,
    log_sink: bool,
    alias_of: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Counter {
    name: String,
    labels: String,
    value: u64,
}
