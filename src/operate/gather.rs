//! One picture of the node out of the shards' reports, made at most a few times a second.

use super::admin::TakeOver;
use super::log::LogSender;
use super::{ServeParams, Source, metrics};
use crate::node::cluster::{ANSWER_US, Answer, Question};
use crate::node::counters::{Counter, Counters};
use crate::node::report::{DrainReport, MeshReport, NameReport, SeatReport, ShardReport, UplinkReport};
use serde::Serialize;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// A picture is shown again for so long, milliseconds: however many ask, shards are asked five times a second.
const CACHE_MS: u64 = 200;
/// How long a shard may take to answer, milliseconds.
const ANSWER_MS: u64 = 1_000;

/// The reports of all shards, merged and cached.
pub struct Reports {
    params: Mutex<ServeParams>,
    source: Source,
    log: LogSender,
    cache: Mutex<Option<(Instant, Arc<Picture>)>>,
}

/// The node at one moment.
#[derive(Debug)]
pub(super) struct Picture {
    pub(super) status: NodeStatus,
    page: OnceLock<String>,
}

impl Picture {
    /// The metrics page, written once however many ask for it.
    pub(super) fn page(&self) -> &str {
        self.page.get_or_init(|| metrics::page(&self.status))
    }
}

impl std::fmt::Debug for Reports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reports")
            .field("params", &self.params)
            .finish_non_exhaustive()
    }
}

impl Reports {
    /// Nothing is asked before the first [`Reports::get`].
    pub fn new(params: ServeParams, source: Source, log: LogSender) -> Reports {
        Reports {
            params: Mutex::new(params),
            source,
            log,
            cache: Mutex::new(None),
        }
    }

    /// Another configuration is in force from now on.
    pub fn set_config_digest(&self, digest: String) {
        self.params().config_digest = digest;
    }

    fn params(&self) -> MutexGuard<'_, ServeParams> {
        self.params.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the shards' clock says.
    pub(super) fn uptime(&self) -> Duration {
        self.params().started.elapsed()
    }

    /// Where the admin socket is.
    pub(super) fn admin(&self) -> Option<std::path::PathBuf> {
        self.params().admin.clone()
    }

    /// Asks the shards something else than their reports.
    pub fn ask(&self, question: &Question) -> Vec<Answer> {
        self.source.ask(
            question,
            Duration::from_micros(ANSWER_US) + Duration::from_millis(ANSWER_MS),
        )
    }

    /// Another process asks for everything.
    pub(super) fn hand_over(&self, stream: UnixStream, ask: &TakeOver) {
        self.source.hand_over(stream, ask);
    }

    /// What was known is out of date: an order changed it.
    pub(super) fn forget(&self) {
        *self.cache.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The node as it is now, or was [`CACHE_MS`] ago. Whoever comes while the shards are asked waits for the same answer.
    pub(super) fn get(&self) -> Arc<Picture> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, picture)) = cache.as_ref()
            && at.elapsed() < Duration::from_millis(CACHE_MS)
        {
            return Arc::clone(picture);
        }
        let reports = self.source.reports(Duration::from_millis(ANSWER_MS));
        let picture = Arc::new(Picture {
            status: merge(&self.params(), reports, self.log.lost()),
            page: OnceLock::new(),
        });
        *cache = Some((Instant::now(), Arc::clone(&picture)));
        picture
    }
}

/// A node at one moment, all shards together: what the admin socket answers and the metrics page is made of.
#[derive(Clone, Debug, Serialize)]
pub struct NodeStatus {
    /// Name of the node.
    pub node: String,
    /// Version of jidmesh.
    pub version: &'static str,
    /// Process id.
    pub pid: u32,
    /// Seconds since the start.
    pub uptime_s: u64,
    /// The same in microseconds: the clock of [`SeatReport::since_us`].
    pub uptime_us: u64,
    /// Digest of the configuration.
    pub config_digest: String,
    /// Shards that the node runs.
    pub shards: u16,
    /// Shards that answered.
    pub shards_answered: u16,
    /// One line on what an operator should look at; `ok` if nothing.
    pub health: String,
    /// Why this node should be given nothing to do; nothing when it is ready.
    pub not_ready: Vec<String>,
    /// Component seats, by id.
    pub seats: Vec<SeatReport>,
    /// Bound names, by name.
    pub names: Vec<NameReport>,
    /// Links that have not authenticated yet.
    pub links_negotiating: u64,
    /// It has just started, and lets no component in before the other nodes have told what they have.
    pub syncing: bool,
    /// Users with a session.
    pub users: u64,
    /// Sessions.
    pub sessions: u64,
    /// Of these, available ones.
    pub sessions_available: u64,
    /// Session starts not answered yet.
    pub starts_pending: u64,
    /// Bytes that wait for components.
    pub queue_bytes: u64,
    /// Bytes of frames held while a placement is in flight.
    pub held_bytes: u64,
    /// The other nodes; `None` without `<mesh>`.
    pub mesh: Option<MeshReport>,
    /// While it drains, or is drained.
    pub drain: Option<DrainReport>,
    /// The stock router; `None` without `<uplink>`.
    pub uplink: Option<UplinkReport>,
    /// Traces under way, by operators of this and other nodes.
    pub traces: u64,
    /// Log lines and message log entries lost, because the log could not be written fast enough or at all.
    pub log_lost: u64,
    /// Every counter, in the order of [`Counter::ALL`].
    pub counters: Vec<CounterValue>,
}

/// A counter's value over all shards.
#[derive(Clone, Debug, Serialize)]
pub struct CounterValue {
    /// Metric name.
    pub name: &'static str,
    /// `key="value"`, or empty.
    pub labels: &'static str,
    /// What it counts.
    pub help: &'static str,
    /// The value.
    pub value: u64,
}

fn merge(params: &ServeParams, mut reports: Vec<ShardReport>, log_lost: u64) -> NodeStatus {
    reports.sort_by_key(|r| r.shard);
    reports.dedup_by_key(|r| r.shard);
    let mut counters = Counters::default();
    for report in &reports {
        counters.merge(&report.counters);
    }
    let sum = |of: fn(&ShardReport) -> u64| reports.iter().map(of).sum();
    let mut seats: Vec<SeatReport> = reports.iter().flat_map(|r| r.seats.iter().cloned()).collect();
    seats.sort_by(|a, b| a.id.cmp(&b.id).then(a.since_us.cmp(&b.since_us)));
    // Every shard holds all names: the first one's are the node's.
    let mut names = reports.first().map(|r| r.names.clone()).unwrap_or_default();
    names.sort_by(|a, b| a.name.cmp(&b.name));
    let mesh = merge_mesh(&reports);
    let uplink = reports.iter().find_map(|report| report.uplink.clone());
    let uptime = params.started.elapsed();
    let mut status = NodeStatus {
        node: params.node.clone(),
        version: env!("CARGO_PKG_VERSION"),
        pid: std::process::id(),
        uptime_s: uptime.as_secs(),
        uptime_us: uptime.as_micros().try_into().unwrap_or(u64::MAX),
        config_digest: params.config_digest.clone(),
        shards: params.shards,
        shards_answered: reports.len().try_into().unwrap_or(u16::MAX),
        health: String::new(),
        not_ready: Vec::new(),
        links_negotiating: sum(|r| r.links_negotiating),
        syncing: reports.iter().any(|r| r.syncing),
        users: sum(|r| r.users),
        sessions: sum(|r| r.sessions),
        sessions_available: sum(|r| r.sessions_available),
        starts_pending: sum(|r| r.starts_pending),
        queue_bytes: seats.iter().map(|s| s.queue_bytes).sum::<u64>()
            + uplink.as_ref().map_or(0, |uplink| uplink.queue_bytes),
        held_bytes: sum(|r| r.held_bytes),
        mesh,
        drain: merge_drain(&reports),
        uplink,
        traces: reports.iter().map(|r| r.traces).max().unwrap_or_default(),
        log_lost,
        counters: Counter::ALL.iter().map(|&c| value(c, &counters)).collect(),
        seats,
        names,
    };
    status.health = health(&status);
    status.not_ready = not_ready(&status);
    status
}

/// The other nodes: each shard has its slice of their rows, and the transports of those that it serves.
fn merge_mesh(reports: &[ShardReport]) -> Option<MeshReport> {
    let mut parts = reports.iter().filter_map(|report| report.mesh.as_ref());
    let mut mesh = parts.next()?.clone();
    for part in parts {
        for theirs in &part.members {
            // A shard may not have heard of the newest one yet.
            let Some(mine) = mesh.members.iter_mut().find(|mine| mine.name == theirs.name) else {
                continue;
            };
            mine.rows += theirs.rows;
            if theirs.link.is_some() {
                mine.link.clone_from(&theirs.link);
            }
        }
    }
    mesh.members.sort_by(|a, b| a.name.cmp(&b.name));
    Some(mesh)
}

/// Each shard ends the sessions whose clients it knows.
fn merge_drain(reports: &[ShardReport]) -> Option<DrainReport> {
    let mut parts = reports.iter().filter_map(|report| report.drain.as_ref());
    let mut drain = parts.next()?.clone();
    for part in parts {
        drain.ended += part.ended;
        drain.left += part.left;
        drain.rounds_left = drain.rounds_left.max(part.rounds_left);
        drain.done &= part.done;
    }
    Some(drain)
}

fn value(counter: Counter, counters: &Counters) -> CounterValue {
    let (name, labels, help) = counter.describe();
    CounterValue {
        name,
        labels,
        help,
        value: counters.get(counter),
    }
}

/// Said of a node that starts.
const SYNCING: &str = "components wait until the other nodes have told what they have";

/// What keeps a node from being ready: a load balancer's business, where `health` is an operator's.
fn not_ready(status: &NodeStatus) -> Vec<String> {
    let mut reasons = Vec::new();
    if status.shards_answered < status.shards {
        reasons.push(format!("{} of {} shards answer", status.shards_answered, status.shards));
    }
    if status.syncing {
        reasons.push(SYNCING.to_owned());
    }
    if let Some(drain) = &status.drain {
        reasons.push(if drain.done { "drained" } else { "draining" }.to_owned());
    }
    reasons
}

/// What should worry an operator, the worst first. Only what stands as it is now: a counter never goes back.
fn health(status: &NodeStatus) -> String {
    let mut worries = Vec::new();
    if status.shards_answered < status.shards {
        let silent = status.shards - status.shards_answered;
        worries.push(format!("{silent} of {} shards do not answer", status.shards));
    }
    if status.syncing {
        worries.push(SYNCING.to_owned());
    }
    if let Some(drain) = &status.drain {
        worries.push(match drain.done {
            true => "drained: out of service".to_owned(),
            false => format!("draining: {} sessions to end in this round", drain.left),
        });
    }
    if let Some(mesh) = &status.mesh {
        worries.extend(mesh_worries(mesh));
    }
    if let Some(uplink) = &status.uplink {
        worries.extend(uplink_worries(uplink));
    }
    let lost: Vec<&str> = status
        .seats
        .iter()
        .filter(|s| s.state == "lost")
        .map(|s| s.id.as_str())
        .collect();
    if !lost.is_empty() {
        worries.push(format!("waiting for {} to come back", lost.join(", ")));
    }
    if status.seats.is_empty() && status.shards_answered > 0 {
        worries.push("no component is connected".into());
    }
    if status.log_lost > 0 {
        worries.push(format!(
            "{} log lines lost: is the disk full, or syslog not there?",
            status.log_lost
        ));
    }
    if worries.is_empty() {
        "ok".into()
    } else {
        worries.join("; ")
    }
}

/// What the connections to the stock router lack.
fn uplink_worries(uplink: &UplinkReport) -> Vec<String> {
    let UplinkReport {
        router,
        lines,
        lines_up,
        ..
    } = uplink;
    let mut worries = Vec::new();
    if lines_up < lines {
        worries.push(format!(
            "{lines_up} of {lines} connections to the stock router at {router} serve"
        ));
    }
    if !uplink.refused.is_empty() {
        let names = uplink.refused.join(", ");
        worries.push(format!("the stock router has other holders of {names}"));
    }
    worries
}

/// What a mesh lacks.
fn mesh_worries(mesh: &MeshReport) -> Vec<String> {
    let mut worries = Vec::new();
    if mesh.alone {
        worries.push("ALONE: no other node is reached, this one serves its own users only".to_owned());
    }
    for (state, what) in [
        ("gone", "is gone"),
        ("stalled", "takes nothing"),
        ("joining", "is joining"),
    ] {
        let members = mesh.members.iter().filter(|member| member.state == state);
        worries.extend(members.map(|member| format!("{} {what}", member.name)));
    }
    for member in &mesh.members {
        let relay = member
            .link
            .iter()
            .flat_map(|link| &link.lanes)
            .find_map(|lane| lane.relay.as_ref());
        worries.extend(relay.map(|relay| format!("{} is reached through {relay} only", member.name)));
    }
    let unreached = mesh.unreached.iter();
    worries.extend(unreached.map(|peer| format!("{} was never reached ({})", peer.address, peer.why)));
    worries
}
