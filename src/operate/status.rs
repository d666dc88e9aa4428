//! `jidmesh status`: asks the admin socket and prints what an operator wants to know.

pub(super) mod mesh;
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
    let view = View::deserialize(&status).map_err(|e| client::not_as_expected(&e))?;
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
pub(super) struct View {
    pub(super) node: String,
    pub(super) version: String,
    pub(super) pid: u32,
    pub(super) uptime_s: u64,
    pub(super) uptime_us: u64,
    pub(super) config_digest: String,
    pub(super) shards: u16,
    pub(super) shards_answered: u16,
    pub(super) health: String,
    pub(super) seats: Vec<Seat>,
    pub(super) names: Vec<Name>,
    pub(super) links_negotiating: u64,
    pub(super) users: u64,
    pub(super) sessions: u64,
    pub(super) sessions_available: u64,
    pub(super) starts_pending: u64,
    pub(super) queue_bytes: u64,
    pub(super) held_bytes: u64,
    pub(super) mesh: Option<mesh::Mesh>,
    pub(super) drain: Option<Drain>,
    pub(super) uplink: Option<Uplink>,
    pub(super) traces: u64,
    pub(super) counters: Vec<Counter>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Drain {
    pub(super) rate_per_s: u32,
    pub(super) to: String,
    pub(super) began_us: u64,
    pub(super) ended: u64,
    pub(super) left: u64,
    pub(super) rounds_left: u32,
    pub(super) done: bool,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Seat {
    pub(super) id: String,
    pub(super) kind: String,
    pub(super) state: String,
    pub(super) remote: String,
    pub(super) user: String,
    pub(super) shard: u16,
    pub(super) tls: bool,
    pub(super) queue_bytes: u64,
    pub(super) frames_in: u64,
    pub(super) frames_out: u64,
    pub(super) sessions: u64,
    pub(super) returns: u64,
    pub(super) since_us: u64,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Uplink {
    pub(super) router: String,
    pub(super) lines: u64,
    pub(super) lines_up: u64,
    pub(super) queue_bytes: u64,
    pub(super) names: u64,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Name {
    pub(super) name: String,
    pub(super) holders: Vec<String>,
    pub(super) clustered: bool,
    pub(super) default_route: bool,
    pub(super) log_sink: bool,
    pub(super) alias_of: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Counter {
    pub(super) name: String,
    pub(super) labels: String,
    pub(super) value: u64,
}
