//! The metrics page in Prometheus' text format 0.0.4, and the smallest HTTP/1.1 server that can show it.
//!
//! `GET /metrics`; `GET /healthz`: the process lives; `GET /readyz`: every shard answers, and the other nodes have told
//! what they have; `GET /`: the page for browsers, if there shall be one (`web.rs`). The metrics page is written once for all who ask within a fifth of a second, by threads that give way to the
//! shards.

use super::accept::{self, Acceptor, Deadline, Stream};
use super::gather::{NodeStatus, Reports};
use super::log::LogSender;
use super::web::Web;
use crate::node::counters::gauge;
use crate::node::report::{LaneReport, MemberReport, MeshReport, PeerLinkReport};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

/// A longer request head is refused, bytes.
pub const MAX_REQUEST_BYTES: usize = 8_192;
/// A request must be complete after so long, milliseconds.
pub const REQUEST_MS: u64 = 2_000;
/// An answer must be taken after so long, milliseconds.
pub const ANSWER_MS: u64 = 5_000;
/// What a client still sends after its answer is read and thrown away for so long, milliseconds: closing before that
/// could destroy the answer on its way.
const LINGER_MS: u64 = 200;

pub(super) fn start(
    addr: SocketAddr,
    page: bool,
    reports: Arc<Reports>,
    log: LogSender,
) -> io::Result<(Acceptor, SocketAddr)> {
    let listener = TcpListener::bind(addr)?;
    let web = match page {
        true => Some(Web::start(reports.clone())?),
        false => None,
    };
    let bound = listener.local_addr()?;
    let serve = move |mut stream| {
        let answer = match read_head(&mut stream, Deadline::after(REQUEST_MS)) {
            Ok(head) => answer(&head, &reports, web.as_ref()),
            Err(Refused::Close) => return,
            Err(Refused::With(status)) => Answer::error(status),
        };
        reply(&mut stream, &answer);
    };
    let refuse = |mut stream| {
        // The acceptor itself says this: it must not wait, and a fresh socket's buffer takes it at once.
        let _ = Deadline::after(1).write_all(&mut stream, &Answer::error("503 Service Unavailable").to_bytes());
    };
    Ok((accept::start("jidmesh-http", listener, log, serve, refuse)?, bound))
}

enum Refused {
    /// The client went away.
    Close,
    With(&'static str),
}

/// Reads to the end of the request's head.
fn read_head<S: Stream>(stream: &mut S, deadline: Deadline) -> Result<Vec<u8>, Refused> {
    let mut head = Vec::with_capacity(1024);
    let mut piece = [0; 1024];
    loop {
        let n = match deadline.read(stream, &mut piece) {
            Ok(0) => return Err(Refused::Close),
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::TimedOut => return Err(Refused::With("408 Request Timeout")),
            Err(_) => return Err(Refused::Close),
        };
        let seen = head.len().saturating_sub(3);
        head.extend_from_slice(&piece[..n]);
        if let Some(end) = memchr::memmem::find(&head[seen..], b"\r\n\r\n") {
            head.truncate(seen + end);
            return Ok(head);
        }
        if head.len() > MAX_REQUEST_BYTES {
            return Err(Refused::With("431 Request Header Fields Too Large"));
        }
    }
}

/// What is sent back.
pub(super) struct Answer {
    pub(super) status: &'static str,
    pub(super) kind: &'static str,
    pub(super) body: String,
    /// Further lines of the head, each with its end.
    pub(super) headers: String,
    /// A HEAD request: the head alone.
    pub(super) head_only: bool,
}

impl Answer {
    pub(super) fn text(status: &'static str, body: String) -> Answer {
        Answer {
            status,
            kind: "text/plain; charset=utf-8",
            body,
            headers: String::new(),
            head_only: false,
        }
    }

    pub(super) fn error(status: &'static str) -> Answer {
        Answer::text(status, format!("{status}\n"))
    }

    fn to_bytes(&self) -> Vec<u8> {
        let allow = if self.status.starts_with("405") {
            "Allow: GET, HEAD\r\n"
        } else {
            ""
        };
        let mut out = format!(
            "HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nCache-Control: no-store\r\n{allow}{}Connection: close\r\n\r\n",
            self.status,
            self.kind,
            self.body.len(),
            self.headers
        );
        if !self.head_only {
            out.push_str(&self.body);
        }
        out.into_bytes()
    }
}

/// The answer to a request's head (RFC 9112, section 3: method, target, version).
fn answer(head: &[u8], reports: &Reports, web: Option<&Web>) -> Answer {
    let line = head.split(|&b| b == b'\r').next().unwrap_or_default();
    let Ok(line) = std::str::from_utf8(line) else {
        return Answer::error("400 Bad Request");
    };
    let mut words = line.split(' ');
    let (Some(method), Some(target), Some(version), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return Answer::error("400 Bad Request");
    };
    if !version.starts_with("HTTP/") || !target.starts_with('/') {
        return Answer::error("400 Bad Request");
    }
    if !version.starts_with("HTTP/1.") {
        return Answer::error("505 HTTP Version Not Supported");
    }
    if !matches!(method, "GET" | "HEAD") {
        return Answer::error("405 Method Not Allowed");
    }
    let target = target.split('?').next().unwrap_or_default();
    let mut answer = match target {
        "/metrics" => Answer {
            kind: "text/plain; version=0.0.4; charset=utf-8",
            ..Answer::text("200 OK", reports.get().page().to_owned())
        },
        "/healthz" => Answer::text("200 OK", "ok\n".into()),
        "/readyz" => ready(&reports.get().status),
        _ => web
            .and_then(|web| web.answer(target, head, reports))
            .unwrap_or_else(|| Answer::error("404 Not Found")),
    };
    answer.head_only = method == "HEAD";
    answer
}

fn ready(status: &NodeStatus) -> Answer {
    match &status.not_ready[..] {
        [] => Answer::text("200 OK", "ready\n".into()),
        reasons => Answer::text("503 Service Unavailable", reasons.join("\n") + "\n"),
    }
}

fn reply<S: Stream>(stream: &mut S, answer: &Answer) {
    if Deadline::after(ANSWER_MS)
        .write_all(stream, &answer.to_bytes())
        .is_err()
    {
        return;
    }
    stream.end_of_output();
    let linger = Deadline::after(LINGER_MS);
    let mut rest = [0; 1024];
    while matches!(linger.read(stream, &mut rest), Ok(n) if n > 0) {}
}

/// The metrics page. HELP and TYPE come once per name, and samples of one name stand together, as the format demands.
pub fn page(status: &NodeStatus) -> String {
    let mut page = Page(String::with_capacity(8 * 1024));
    let node = escape(&status.node);
    page.one(
        gauge::BUILD_INFO,
        "gauge",
        &format!("version=\"{}\",node=\"{node}\"", status.version),
        1,
    );
    page.one(gauge::UPTIME, "gauge", "", status.uptime_s);
    page.one(gauge::SHARDS, "gauge", "", status.shards.into());
    page.one(gauge::SHARDS_ANSWERED, "gauge", "", status.shards_answered.into());
    page.links(status);
    page.one(gauge::LINKS_NEGOTIATING, "gauge", "", status.links_negotiating);
    page.one(gauge::NAMES, "gauge", "", status.names.len() as u64);
    page.one(gauge::USERS, "gauge", "", status.users);
    page.one(gauge::SESSIONS, "gauge", "", status.sessions);
    page.one(gauge::SESSIONS_AVAILABLE, "gauge", "", status.sessions_available);
    page.one(gauge::STARTS_PENDING, "gauge", "", status.starts_pending);
    page.one(gauge::QUEUE_BYTES, "gauge", "", status.queue_bytes);
    page.one(gauge::HELD_BYTES, "gauge", "", status.held_bytes);
    if let Some(mesh) = &status.mesh {
        page.mesh(mesh);
    }
    page.one(gauge::TRACES, "gauge", "", status.traces);
    page.one(gauge::DRAINING, "gauge", "", status.drain.is_some().into());
    let left = status.drain.as_ref().map_or(0, |drain| drain.left);
    page.one(gauge::DRAIN_LEFT, "gauge", "", left);
    if let Some(uplink) = &status.uplink {
        let (name, help) = gauge::UPLINK_LINES;
        page.head(name, help, "gauge");
        page.sample(name, "state=\"up\"", uplink.lines_up);
        page.sample(name, "state=\"down\"", uplink.lines - uplink.lines_up);
    }
    page.one(gauge::LOG_LOST, "counter", "", status.log_lost);
    page.counters(status);
    page.0
}

/// A counter of a peer's transport.
type OfLink = fn(&PeerLinkReport) -> u64;

struct Page(String);

impl Page {
    fn head(&mut self, name: &str, help: &str, kind: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &str, value: u64) {
        let _ = if labels.is_empty() {
            writeln!(self.0, "{name} {value}")
        } else {
            writeln!(self.0, "{name}{{{labels}}} {value}")
        };
    }

    fn one(&mut self, (name, help): gauge::Gauge, kind: &str, labels: &str, value: u64) {
        self.head(name, help, kind);
        self.sample(name, labels, value);
    }

    fn links(&mut self, status: &NodeStatus) {
        let mut by = BTreeMap::<_, u64>::new();
        for seat in &status.seats {
            *by.entry((seat.kind, seat.state)).or_default() += 1;
        }
        let (name, help) = gauge::LINKS;
        self.head(name, help, "gauge");
        for ((kind, state), n) in by {
            self.sample(name, &format!("kind=\"{kind}\",state=\"{state}\""), n);
        }
    }

    fn mesh(&mut self, mesh: &MeshReport) {
        let mut by = BTreeMap::from(["gone", "joining", "ready", "stalled"].map(|state| (state, 0)));
        for member in &mesh.members {
            *by.entry(member.state).or_default() += 1;
        }
        let (name, help) = gauge::MESH_MEMBERS;
        self.head(name, help, "gauge");
        for (state, n) in by {
            self.sample(name, &format!("state=\"{state}\""), n);
        }
        self.one(gauge::MESH_UNREACHED, "gauge", "", mesh.unreached.len() as u64);
        self.one(gauge::MESH_ALONE, "gauge", "", mesh.alone.into());
        self.peers(mesh, gauge::PEER_ROWS, "gauge", |member| Some(member.rows));
        self.peers(mesh, gauge::PEER_SEATS, "gauge", |member| Some(member.seats));
        self.peers(mesh, gauge::PEER_ROUND_TRIP, "gauge", |member| {
            member.link.as_ref()?.round_trip_us
        });
        self.peer_lanes(mesh, gauge::PEER_QUEUE_BYTES, |lane| lane.queue_bytes);
        self.peer_lanes(mesh, gauge::PEER_IN_FLIGHT_BYTES, |lane| lane.in_flight_bytes);
        self.peer_lanes(mesh, gauge::PEER_CREDIT_BYTES, |lane| lane.credit_bytes);
        self.peer_lanes(mesh, gauge::PEER_LANE_SERVED, |lane| lane.served.into());
        self.peer_lanes(mesh, gauge::PEER_LANE_RELAYED, |lane| lane.relay.is_some().into());
        let counters: [(gauge::Gauge, OfLink); 7] = [
            (gauge::PEER_MESSAGES_SENT, |link| link.messages_sent),
            (gauge::PEER_MESSAGES_RECEIVED, |link| link.messages_received),
            (gauge::PEER_MESSAGES_REFUSED, |link| link.messages_refused),
            (gauge::PEER_BYTES_REPEATED, |link| link.bytes_repeated),
            (gauge::PEER_CONNECTIONS, |link| link.connections),
            (gauge::PEER_DIALS, |link| link.dials),
            (gauge::PEER_ERRORS, |link| link.errors),
        ];
        for (counter, value) in counters {
            self.peers(mesh, counter, "counter", |member| member.link.as_ref().map(value));
        }
    }

    fn peers(
        &mut self,
        mesh: &MeshReport,
        (name, help): gauge::Gauge,
        kind: &str,
        value: impl Fn(&MemberReport) -> Option<u64>,
    ) {
        self.head(name, help, kind);
        for member in &mesh.members {
            if let Some(value) = value(member) {
                self.sample(name, &format!("peer=\"{}\"", escape(&member.name)), value);
            }
        }
    }

    fn peer_lanes(&mut self, mesh: &MeshReport, (name, help): gauge::Gauge, value: fn(&LaneReport) -> u64) {
        self.head(name, help, "gauge");
        for member in &mesh.members {
            for lane in member.link.iter().flat_map(|link| &link.lanes) {
                let labels = format!("peer=\"{}\",lane=\"{}\"", escape(&member.name), lane.lane);
                self.sample(name, &labels, value(lane));
            }
        }
    }

    fn counters(&mut self, status: &NodeStatus) {
        let mut said: Vec<&str> = Vec::new();
        for first in &status.counters {
            if said.contains(&first.name) {
                continue;
            }
            said.push(first.name);
            self.head(first.name, first.help, "counter");
            for counter in status.counters.iter().filter(|c| c.name == first.name) {
                self.sample(counter.name, counter.labels, counter.value);
            }
        }
    }
}

/// A label's value, quoted as the text format wants.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
