//! The process: from a configuration to an exit code.

use super::control::Control;
use super::driver::Entrance;
use super::journal::{Journal, line};
use super::recovery::{self, Recorder};
use super::start::{Running, Setup, start};
use super::sys::Signals;
use super::takeover::{self, Giver, Taken};
use super::{checks, cpus, notify, tls};
use crate::config::{ADMIN_DEFAULT, Config, LogLevel, LogTarget, Mesh, Problem, Severity};
use crate::mesh::conn::Local;
use crate::node::Shard;
use crate::node::api::{Level, LogLine, ShardId};
use crate::node::cluster::{Answer, DrainAsk, Question, policies};
use crate::node::image::Image;
use crate::node::report::ShardReport;
use crate::operate::admin::TakeOver;
use crate::operate::log::{self, LogSender};
use crate::operate::{self, ServeParams, Serving, Source};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long the last lines may take on their way to the log.
const LOG_FLUSH: Duration = Duration::from_millis(300);
/// How long the shards may take to hear that their node drains.
const DRAIN_ANSWER: Duration = Duration::from_secs(1);
/// How long the shards may take to say whether they are ready.
const READY_ANSWER: Duration = Duration::from_millis(200);
/// How often the main thread looks whether all shards still run, seconds.
const WATCH_S: i64 = 1;

impl Journal for LogSender {
    fn log(&self, line: LogLine) {
        self.send(line);
    }
    fn append(&self, file: PathBuf, bytes: Vec<u8>, stamped: bool) {
        match stamped {
            true => LogSender::append_stamped(self, file, &bytes),
            false => LogSender::append(self, file, bytes),
        }
    }
    fn reopen(&self) {
        LogSender::reopen(self);
    }
}

impl operate::Shards for Giver {
    fn reports(&self, timeout: Duration) -> Vec<ShardReport> {
        self.control.reports(timeout)
    }
    fn ask(&self, question: &Question, timeout: Duration) -> Vec<Answer> {
        self.control.ask(question, timeout)
    }
    fn hand_over(&self, stream: UnixStream, ask: &TakeOver) {
        self.asked(stream, ask);
    }
}

/// What the command line has to say beside the configuration.
#[derive(Debug, Default)]
pub struct Given {
    /// The configuration file, which SIGHUP reads again.
    pub path: Option<PathBuf>,
    /// Where to make the admin socket, whatever the configuration says.
    pub admin: Option<PathBuf>,
    /// Take over from the process that runs, instead of starting anew.
    pub takeover: bool,
    /// Problems of the configuration that the operator has seen: the log shall have them too.
    pub warnings: Vec<Problem>,
}

/// Runs a node until SIGTERM or SIGINT; SIGHUP reads the configuration again. Everything that prevents the start is
/// said on standard error and in the log.
pub fn run(config: Config, given: Given) -> ExitCode {
    let started = Instant::now();
    // Before any thread: they inherit that the signals are for this one.
    let signals = Signals::block();
    let log = log::start(log_target(&config), "jidmesh");
    log.set_level(log_level(&config));
    if config.log != LogTarget::Stdout {
        given.warnings.iter().for_each(|warning| log.send(problem("", warning)));
    }
    let outcome = Process::start(config, given, log.clone(), started).map(|process| process.serve(&signals));
    let code = match outcome {
        Ok(code) => code,
        Err(why) => {
            eprintln!("jidmesh: {why}");
            log.send(line(Level::Error, why));
            ExitCode::FAILURE
        }
    };
    log.flush(LOG_FLUSH);
    code
}

/// A problem of the configuration as a line of the log, whose level says how grave it is.
fn problem(what: &str, problem: &Problem) -> LogLine {
    let level = match problem.severity {
        Severity::Warning => Level::Warning,
        Severity::Error => Level::Error,
    };
    line(level, format!("{what}{}", problem.plain()))
}

fn log_level(config: &Config) -> Level {
    match config.log_level {
        LogLevel::Error => Level::Error,
        LogLevel::Warning => Level::Warning,
        LogLevel::Notice => Level::Notice,
        LogLevel::Info => Level::Info,
    }
}

fn log_target(config: &Config) -> log::LogTarget {
    match &config.log {
        LogTarget::Syslog { ident, facility } => {
            // The configuration counts as syslog does, where local0 is 16.
            log::LogTarget::Syslog {
                ident: ident.clone(),
                facility: facility.saturating_sub(16).min(7),
            }
        }
        LogTarget::File(path) => log::LogTarget::File(path.clone()),
        LogTarget::Stdout => log::LogTarget::Stdout,
    }
}

/// A running node.
struct Process {
    /// What the process was started with: some settings stay in force until the next start.
    initial: Arc<Config>,
    /// What is in force.
    config: Arc<Config>,
    /// This life of the node, with `<mesh>`.
    incarnation: Option<u64>,
    shards: u16,
    path: Option<PathBuf>,
    log: LogSender,
    running: Running,
    serving: Serving,
    giver: Arc<Giver>,
    recorder: Option<Recorder>,
    _pidfile: Option<PidFile>,
}

impl Process {
    fn start(config: Config, given: Given, log: LogSender, started: Instant) -> Result<Process, String> {
        checks::kernel()?;
        let cpus = cpus::chosen(&config.tuning.cpus)?;
        let shards = cpus::shards(&config.tuning, &cpus);
        for warning in checks::limits(shards, checks::needed(&config, shards))? {
            log.send(line(Level::Warning, warning));
        }
        let tls = tls::server(&config)?;
        let tls_client = tls::client(&config)?;
        let admin = given.admin.or_else(|| config.admin.clone());
        let admin = admin.unwrap_or_else(|| PathBuf::from(ADMIN_DEFAULT));
        let mut taken = match given.takeover {
            true => Some(takeover::take(&admin, &config, shards)?),
            false => None,
        };
        let record = recovery_file(&config, &admin);
        let recovered = match &record {
            Some(path) if taken.is_none() => recover(path, &config, shards, &log),
            _ => None,
        };
        let started = taken.as_ref().map_or(started, |taken| taken.started);
        let listeners = listen(taken.as_mut(), &config.local, Entrance::Components)?;
        let peer_listeners = match &config.mesh {
            Some(mesh) => listen(taken.as_mut(), &mesh.local, Entrance::Peers)?,
            None => Vec::new(),
        };
        let doors = doors(&listeners, &peer_listeners)?;
        let mut seed = [0u8; 32];
        getrandom::fill(&mut seed).map_err(|error| format!("no random numbers: {error}"))?;
        let life = taken.as_ref().and_then(Taken::incarnation);
        let mesh = config.mesh.as_ref().map(|mesh| identity(mesh, life)).transpose()?;
        let incarnation = mesh.as_ref().map(|(local, _)| local.hello.incarnation);
        let config = Arc::new(config);
        let setup = Setup {
            shards,
            cpus,
            listeners,
            peer_listeners,
            tuning: config.tuning.clone(),
            io: config.io.clone(),
            tls,
            tls_client,
            journal: Arc::new(log.clone()),
            started,
            still: taken.is_some() || recovered.is_some(),
        };
        let shared = Arc::clone(&config);
        let running = start(setup, move |shard: ShardId| {
            let brain = Shard::new(shard, shards, Arc::clone(&shared), own(seed, shard));
            match &mesh {
                Some((local, origin_ms)) => brain.meshed(local, *origin_ms),
                None => brain,
            }
        })
        .map_err(|error| error.to_string())?;
        let giver = Arc::new(Giver {
            control: running.control(),
            journal: Arc::new(log.clone()),
            own: config.id.clone(),
            mesh: config.mesh.as_ref().map(takeover::who),
            uplink: config.uplink.as_ref().map(takeover::attached_to),
            hindered: hindered(&config),
            listeners: doors,
            started,
            busy: AtomicBool::new(false),
            given: AtomicBool::new(false),
        });
        let running = match taken {
            Some(taken) => succeed(taken, running, &log)?,
            None => running,
        };
        if let Some(image) = recovered {
            takeover::revive(image, &running.control())?;
        }
        let recorder = record.map(|path| Recorder::start(path, &giver));
        let pidfile = config.pidfile.clone().and_then(|path| PidFile::write(path, &log));
        go_on_draining(&admin, &running.control(), &log);
        let source: Source = Arc::clone(&giver) as Source;
        let patience = if given.takeover { LEAVING } else { Duration::ZERO };
        let serving = serve_operator(&config, admin, patience, (shards, started), source, &log);
        let (local, max_fds) = (listed(&config.local), config.io.max_fds);
        let text = format!("listening on {local}, {shards} shard(s), {max_fds} links at most");
        log.send(line(Level::Notice, text));
        if let Some(mesh) = &config.mesh {
            let (node, local) = (&mesh.node, listed(&mesh.local));
            log.send(line(
                Level::Notice,
                format!("node {node}, listening for peers on {local}"),
            ));
        }
        Ok(Process {
            initial: Arc::clone(&config),
            config,
            incarnation,
            shards,
            path: given.path,
            log,
            running,
            serving,
            giver,
            recorder,
            _pidfile: pidfile,
        })
    }

    /// Until a signal ends it.
    fn serve(mut self, signals: &Signals) -> ExitCode {
        let mut ready = false;
        loop {
            if !ready && self.lets_components_in() {
                ready = true;
                notify::ready();
            }
            let signal = signals.wait(WATCH_S);
            let ends = matches!(signal, Some(libc::SIGTERM | libc::SIGINT));
            if self.giver.is_given_at_last(ends) {
                self.recorder.iter_mut().for_each(Recorder::end);
                self.running.vanish();
                return ExitCode::SUCCESS;
            }
            match signal {
                Some(libc::SIGTERM | libc::SIGINT) => break,
                Some(libc::SIGHUP) => self.reload(),
                _ => {
                    if let Some(shard) = self.running.lost() {
                        self.log
                            .send(line(Level::Error, format!("shard {shard} has ended; stopping")));
                        self.stop();
                        return ExitCode::FAILURE;
                    }
                }
            }
        }
        notify::stopping();
        self.log.send(line(Level::Notice, "shutting down"));
        if let Some(recorder) = self.recorder.take() {
            recorder.end_in_order();
        }
        self.stop()
    }

    /// Every shard runs, and the other nodes have told what they have.
    fn lets_components_in(&self) -> bool {
        let reports = self.running.control().reports(READY_ANSWER);
        reports.len() == usize::from(self.shards) && !reports.iter().any(|report| report.syncing)
    }

    fn stop(self) -> ExitCode {
        match self.running.stop() {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => {
                self.log.send(line(Level::Error, why));
                ExitCode::FAILURE
            }
        }
    }

    /// Reads the configuration again. With an error nothing changes, except that the log is opened anew.
    fn reload(&mut self) {
        self.log.reopen();
        let Some(path) = self.path.clone() else {
            return self.log.send(line(
                Level::Notice,
                "reload: there is no configuration file; log reopened",
            ));
        };
        match read_again(&path) {
            Ok((config, warnings, tls)) => {
                for warning in warnings {
                    self.log.send(problem("", &warning));
                }
                self.apply(config, tls.as_ref());
                self.log
                    .send(line(Level::Notice, format!("reloaded {}", path.display())));
            }
            Err(problems) => {
                for found in problems {
                    self.log.send(problem("reload: ", &found));
                }
                self.log.send(line(Level::Error, "reload: nothing was changed"));
            }
        }
    }

    /// Puts a good configuration in force, and says what that changes and what has to wait.
    fn apply(&mut self, mut config: Config, tls: Option<&Arc<rustls::ServerConfig>>) {
        self.serving.set_config_digest(config.digest());
        let later = self.initial.fixed_differences(&config);
        config.keep_fixed(&self.initial);
        self.log.set_level(log_level(&config));
        for change in self.config.differences(&config) {
            self.log.send(line(Level::Notice, format!("reload: {change}")));
        }
        if !later.is_empty() {
            let text = format!(
                "reload: what changed in {} takes effect at the next start",
                later.join(", ")
            );
            self.log.send(line(Level::Warning, text));
        }
        // Refused only at the start: the rings that lock memory exist by now.
        for warning in checks::limits(self.shards, checks::needed(&config, self.shards)).unwrap_or_default() {
            self.log.send(line(Level::Warning, warning));
        }
        // Takes some milliseconds, and nobody waits for this thread.
        let local = config.mesh.as_ref().zip(self.incarnation);
        let local = local.map(|(mesh, incarnation)| Arc::new(Local::new(mesh, incarnation, policies(mesh))));
        self.config = Arc::new(config);
        self.running.control().reload(&self.config, tls, local.as_ref());
    }
}

type Reread = (Config, Vec<Problem>, Option<Arc<rustls::ServerConfig>>);

fn read_again(path: &Path) -> Result<Reread, Vec<Problem>> {
    let loaded = Config::load(path)?;
    let tls = tls::server(&loaded.config);
    let tls = tls.map_err(|why| vec![Problem::error(path, 0, why)])?;
    Ok((loaded.config, loaded.warnings, tls))
}

/// A drain that the former process had begun goes on.
fn go_on_draining(admin: &Path, control: &Control, log: &LogSender) {
    match operate::drain::left_behind(admin) {
        Ok(None) => {}
        Ok(Some(order)) => drop(control.ask(&Question::Drain(DrainAsk::Resume(order)), DRAIN_ANSWER)),
        Err(why) => log.send(line(Level::Warning, why)),
    }
}

/// So long the process that was taken over may still listen where its operator asks.
const LEAVING: Duration = Duration::from_secs(10);

fn serve_operator(
    config: &Config,
    admin: PathBuf,
    patience: Duration,
    (shards, started): (u16, Instant),
    source: Source,
    log: &LogSender,
) -> Serving {
    let params = ServeParams {
        node: config
            .mesh
            .as_ref()
            .map_or_else(|| config.id.clone(), |mesh| mesh.node.clone()),
        config_digest: config.digest(),
        shards,
        started,
        admin: Some(admin),
        metrics: config.metrics,
        page: config.page,
        patience,
    };
    operate::serve(params, source, log.clone())
}

/// Becomes the node in the place of the process that was; or vanishes, having touched nothing.
fn succeed(taken: Taken, running: Running, log: &LogSender) -> Result<Running, String> {
    match taken.confirm(&running.control()) {
        Ok((links, sessions)) => {
            let text = format!("took over {links} links and {sessions} sessions from the former process");
            log.send(line(Level::Notice, text));
            Ok(running)
        }
        Err(why) => {
            running.vanish();
            Err(why)
        }
    }
}

/// Where this node writes its sessions down. What other nodes or the stock router know of them no start could ask.
fn recovery_file(config: &Config, admin: &Path) -> Option<PathBuf> {
    let alone = config.mesh.is_none() && config.uplink.is_none();
    config.recovery.file(admin).filter(|_| alone)
}

/// What a former process of this node left behind when it died.
fn recover(path: &Path, config: &Config, shards: u16, log: &LogSender) -> Option<Arc<Image>> {
    match recovery::left_behind(path, &config.id, shards, config.grace_ms * 1_000) {
        Ok(None) => None,
        Ok(Some(image)) => {
            let (sessions, path) = (image.sessions(), path.display());
            let text =
                format!("the former process died: {sessions} sessions from {path}; their c2s and sm will be asked");
            log.send(line(Level::Notice, text));
            Some(Arc::new(image))
        }
        Err(why) => {
            log.send(line(Level::Warning, why));
            None
        }
    }
}

/// Why this node can't be taken over at all.
fn hindered(config: &Config) -> Option<&'static str> {
    let sealed = config.uplink.as_ref()?.certificate.as_ref();
    sealed.map(|_| "connections to the stock router that are under TLS can't be handed over: restart it instead")
}

/// Listens at these addresses: with the sockets that were taken over, and new ones for those that are missing.
fn listen(taken: Option<&mut Taken>, addresses: &[SocketAddr], at: Entrance) -> Result<Vec<TcpListener>, String> {
    let section = match at {
        Entrance::Components => "<local>",
        Entrance::Peers => "<mesh><local>",
    };
    let Some(taken) = taken else {
        return checks::bind(addresses, section);
    };
    let (mut listeners, missing) = taken.listeners(addresses, at);
    if !missing.is_empty() {
        listeners.extend(checks::bind(&missing, section)?);
    }
    Ok(listeners)
}

/// The listening sockets once more, for the process that takes over one day.
fn doors(components: &[TcpListener], peers: &[TcpListener]) -> Result<Vec<(TcpListener, Entrance)>, String> {
    let components = components.iter().map(|listener| (listener, Entrance::Components));
    let all = components.chain(peers.iter().map(|listener| (listener, Entrance::Peers)));
    let doors = all.map(|(listener, entrance)| Ok((listener.try_clone()?, entrance)));
    doors.collect::<std::io::Result<_>>().map_err(|error| error.to_string())
}

fn listed(addresses: &[SocketAddr]) -> String {
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    addresses.join(", ")
}

/// Who this node is in its mesh, and the wall clock at the process's start, milliseconds since 1970. `life`: the
/// incarnation of the process that was taken over.
fn identity(mesh: &Mesh, life: Option<u64>) -> Result<(Arc<Local>, u64), String> {
    let mut drawn = [0u8; 8];
    getrandom::fill(&mut drawn).map_err(|error| format!("no random numbers: {error}"))?;
    let incarnation = life.unwrap_or(u64::from_le_bytes(drawn)).max(1);
    let local = Local::new(mesh, incarnation, policies(mesh));
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let now_ms = since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0));
    Ok((Arc::new(local), now_ms))
}

/// Each shard's own seed.
fn own(mut seed: [u8; 32], shard: ShardId) -> [u8; 32] {
    for (byte, number) in seed.iter_mut().zip(shard.to_le_bytes()) {
        *byte ^= number;
    }
    seed
}

/// The pid file, while the process lives.
struct PidFile(PathBuf);

impl PidFile {
    /// Without one the router still works: a failure is a line in the log.
    fn write(path: PathBuf, log: &LogSender) -> Option<PidFile> {
        match std::fs::write(&path, format!("{}\n", std::process::id())) {
            Ok(()) => Some(PidFile(path)),
            Err(error) => {
                log.send(line(
                    Level::Error,
                    format!("cannot write the pid file {}: {error}", path.display()),
                ));
                None
            }
        }
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Somebody else may have removed it.
        let _ = std::fs::remove_file(&self.0);
    }
}
