//! `jidmesh status`: asks the admin socket and prints what an operator wants to know.

mod mesh;
mod render;

pub(super) use mesh::millis;
pub(super) use render::{bytes, clean, span, table};

use super::admin::Request;
use super::client;
use serde::Deserialize;
use serde_json::Value;
use std::path::Path;
use std::process::ExitCode;

/// Asks the node behind the admin socket for its state and prints it: as tables, or with `json` complete.
/// Fails with a line on standard error that says what to do.
pub fn main(admin: &Path, json: bool) -> ExitCode {
    match show(admin, json).and_then(|text| client::print(&text)) {
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
    client::ask(admin, &Request::Status, "status")
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
    drain: Option<Drain>,
    uplink: Option<Uplink>,
    traces: u64,
    counters: Vec<Counter>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Drain {
    rate_per_s: u32,
    to: String,
    began_us: u64,
    ended: u64,
    left: u64,
    rounds_left: u32,
    done: bool,
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
struct Uplink {
    router: String,
    lines: u64,
    lines_up: u64,
    queue_bytes: u64,
    names: u64,
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
