//! What an operator touches: logs, metrics, the admin socket, status.
//!
//! For: showing what the shards know, and carrying their log lines to a disk or to syslog.
//! Invariants: nothing here can stop, slow or grow a shard. A full disk, a missing folder, a port in use and a
//! hostile client are warnings; every queue, request, wait and number of connections has a named limit.
//! Must never be added: anything that changes what is routed.

mod accept;
pub mod admin;
mod client;
pub mod closed;
pub mod drain;
mod gather;
pub mod inquire;
pub mod log;
pub mod metrics;
mod sample;
pub mod status;
pub mod top;
pub mod trace;
pub mod upgrade;
mod web;

pub use gather::{NodeStatus, Reports};

use crate::node::api::{Level, LogLine};
use crate::node::cluster::{Answer, Question};
use crate::node::report::ShardReport;
use accept::Acceptor;
use log::LogSender;
use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The running shards. Both calls wait at most so long; shards that did not answer in time are left out.
pub trait Shards: Send + Sync {
    /// Every shard's report.
    fn reports(&self, timeout: Duration) -> Vec<ShardReport>;
    /// Every shard's answer.
    fn ask(&self, question: &Question, timeout: Duration) -> Vec<Answer>;
    /// Gives everything to the process at the other end, or refuses. Without shards of this process there is nothing.
    fn hand_over(&self, _stream: UnixStream, _ask: &admin::TakeOver) {}
}

/// Whom the servers ask.
pub type Source = Arc<dyn Shards>;

/// What [`serve`] has to know of the process.
#[derive(Clone, Debug)]
pub struct ServeParams {
    /// Name of the node.
    pub node: String,
    /// Digest of the configuration in force.
    pub config_digest: String,
    /// Number of shards: reports missing from the source are noticed by it.
    pub shards: u16,
    /// Origin of the shards' clock ([`Micros`](crate::node::api::Micros)): the process's start.
    pub started: Instant,
    /// Path of the admin socket; `None`: no admin socket.
    pub admin: Option<PathBuf>,
    /// Address of the metrics page; `None`: no metrics.
    pub metrics: Option<SocketAddr>,
    /// The page for browsers is served there, too.
    pub page: bool,
    /// So long another process may still listen at these places.
    pub patience: Duration,
}

/// The running servers. Dropping it stops them, removes the admin socket, and waits for neither client.
#[derive(Debug)]
pub struct Serving {
    reports: Arc<Reports>,
    acceptors: Vec<Acceptor>,
    socket: Option<admin::SocketFile>,
    metrics: Option<SocketAddr>,
}

impl Serving {
    /// Another configuration is in force from now on: its digest, for status.
    pub fn set_config_digest(&self, digest: String) {
        self.reports.set_config_digest(digest);
    }

    /// Where the metrics page is really served (the port, when the configuration said 0).
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.metrics
    }
}

/// Starts it as soon as nobody else listens there, if that is so in time.
fn patiently<T>(patience: Duration, start: impl Fn() -> io::Result<T>) -> io::Result<T> {
    let until = Instant::now() + patience;
    loop {
        match start() {
            Err(why) if why.kind() == io::ErrorKind::AddrInUse && Instant::now() < until => {
                std::thread::sleep(RETRY);
            }
            other => return other,
        }
    }
}

/// Between two attempts to listen where another process still does.
const RETRY: Duration = Duration::from_millis(20);

/// Starts admin socket and metrics page, as far as they are configured. What cannot be started is a warning in
/// the log and left out: routing goes on without it.
pub fn serve(params: ServeParams, source: Source, log: LogSender) -> Serving {
    let (admin, metrics, page, patience) = (params.admin.clone(), params.metrics, params.page, params.patience);
    let reports = Arc::new(Reports::new(params, source, log.clone()));
    let mut serving = Serving {
        reports: reports.clone(),
        acceptors: Vec::new(),
        socket: None,
        metrics: None,
    };
    if let Some(path) = admin {
        match patiently(patience, || admin::start(&path, reports.clone(), log.clone())) {
            Ok((acceptor, socket)) => {
                serving.acceptors.push(acceptor);
                serving.socket = Some(socket);
            }
            Err(why) => {
                let (at, advice) = (path.display(), admin::advice(&why));
                warn(&log, format!("no admin socket {at}: {why}{advice}"));
            }
        }
    }
    if let Some(addr) = metrics {
        match patiently(patience, || metrics::start(addr, page, reports.clone(), log.clone())) {
            Ok((acceptor, bound)) => {
                serving.acceptors.push(acceptor);
                serving.metrics = Some(bound);
            }
            Err(why) => warn(&log, format!("no metrics page on {addr}: {why}")),
        }
    }
    serving
}

fn warn(log: &LogSender, text: String) {
    log.send(LogLine {
        level: Level::Warning,
        remote: None,
        text,
    });
}
