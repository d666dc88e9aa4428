//! Starts the shards: an executor, a driver and a brain each.

use super::accept::Door;
use super::brain::Brain;
use super::control::Control;
use super::driver::{Budget, Driver, Entrance, Ready, Ring};
use super::hub::{Context, Hub};
use super::journal::{Journal, line};
use super::pace::Pace;
use super::sys::Doorbell;
use super::takeover::Step;
use super::{lanes, pump, sys};
use crate::config::{DriverKind, Io, Tuning};
use crate::node::api::{Level, ShardId};
use crossbeam_channel::{Receiver, Sender, bounded};
use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement};
use std::fmt;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Memory that the runtime registers with the kernel for each executor, bytes. No file is read through it.
const IO_MEMORY_BYTES: usize = 64 * 1024;
/// Entries of the runtime's rings: few operations are ever in flight.
const RING_DEPTH: usize = 64;
/// How long an executor may take to start.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// What the shards need.
pub struct Setup {
    /// How many; at least one.
    pub shards: u16,
    /// The CPUs that they are pinned to, in turn; not empty.
    pub cpus: Vec<usize>,
    /// Where components connect.
    pub listeners: Vec<TcpListener>,
    /// Where other nodes connect.
    pub peer_listeners: Vec<TcpListener>,
    /// Driver, budgets, bounds.
    pub tuning: Tuning,
    /// Limits of links.
    pub io: Io,
    /// For [`Action::StartTls`](crate::node::api::Action::StartTls).
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// For [`Action::StartTlsAsClient`](crate::node::api::Action::StartTlsAsClient).
    pub tls_client: Option<Arc<rustls::ClientConfig>>,
    /// Where log lines go.
    pub journal: Arc<dyn Journal>,
    /// Origin of the shards' clock.
    pub started: Instant,
    /// The shards stand still, until another process has given up its links to them.
    pub still: bool,
}

/// Why the shards do not run. Nothing was left running.
#[derive(Debug)]
pub enum StartError {
    /// A call of the kernel failed; which, and how.
    Kernel(&'static str, io::Error),
    /// An executor could not be made.
    Executor(ShardId, String),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Kernel(what, error) => write!(f, "{what}: {error}"),
            StartError::Executor(shard, why) => write!(f, "executor of shard {shard}: {why}"),
        }
    }
}

impl std::error::Error for StartError {}

/// The running shards.
pub struct Running {
    control: Control,
    executors: Vec<ExecutorJoinHandle<()>>,
    ended: Receiver<ShardId>,
}

/// Starts `setup.shards` shards, each with the brain that `make` gives it on its own thread. Returns when all of them
/// run.
pub fn start<B: Brain>(
    setup: Setup,
    make: impl Fn(ShardId) -> B + Send + Clone + 'static,
) -> Result<Running, StartError> {
    let Setup {
        shards,
        cpus,
        listeners,
        peer_listeners,
        tuning,
        io,
        tls,
        tls_client,
        journal,
        started,
        still,
    } = setup;
    let shards = shards.max(1);
    let bells = (0..shards)
        .map(|_| Doorbell::new().map(Arc::new))
        .collect::<Result<Vec<_>, _>>();
    let bells = bells.map_err(|error| StartError::Kernel("eventfd", error))?;
    let (control, commands) = Control::new(&bells);
    let (ready, is_ready) = bounded(usize::from(shards));
    let (ending, ended) = bounded(usize::from(shards));
    let context = Context {
        journal,
        tls,
        tls_client,
        cpus: sys::allowed_cpus().into(),
        started,
    };
    if usize::from(shards) > cpus.len() {
        let text = format!("{shards} shards on {} CPUs: they share them", cpus.len());
        context.journal.log(line(Level::Warning, text));
    }
    let links = Arc::default();
    let mut running = Running {
        control,
        executors: Vec::new(),
        ended,
    };
    let peers = peer_listeners.into_iter().map(|listener| (listener, Entrance::Peers));
    let components = listeners.into_iter().map(|listener| (listener, Entrance::Components));
    let mut listeners: Option<Vec<_>> = Some(components.chain(peers).collect());
    for (shard, (lanes, commands)) in
        (0..shards).zip(lanes::mesh::<B>(&bells, tuning.lane_batches).into_iter().zip(commands))
    {
        let seed = Seed {
            shard,
            tuning: tuning.clone(),
            bell: Arc::clone(&bells[usize::from(shard)]),
            // Shard 0 negotiates with all new links.
            listeners: listeners.take().unwrap_or_default(),
            ready: ready.clone(),
            ending: ending.clone(),
        };
        let door = Door::new(&io, Arc::clone(&links));
        let (context, make) = (context.clone(), make.clone());
        let executor = LocalExecutorBuilder::new(Placement::Fixed(cpus[usize::from(shard) % cpus.len()]))
            .name("jidmesh")
            .io_memory(IO_MEMORY_BYTES)
            .ring_depth(RING_DEPTH)
            .spawn(move || async move {
                let mut hub = Hub::new(make(shard), lanes, door, context, commands);
                if still {
                    hub.stand_still();
                }
                seed.grow(&mut hub).await;
            });
        match executor {
            Ok(executor) => running.executors.push(executor),
            Err(error) => return Err(running.abandon(shard, error.to_string())),
        }
    }
    drop((ready, ending));
    running.await_start(&is_ready)
}

/// What a shard's thread begins with.
struct Seed {
    shard: ShardId,
    tuning: Tuning,
    bell: Arc<Doorbell>,
    listeners: Vec<(TcpListener, Entrance)>,
    ready: Sender<Result<ShardId, (ShardId, String)>>,
    ending: Sender<ShardId>,
}

/// Tells that a shard has ended, in whichever way.
struct Farewell(ShardId, Sender<ShardId>);

impl Drop for Farewell {
    fn drop(&mut self) {
        // There is room for one farewell of each shard.
        let _ = self.1.try_send(self.0);
    }
}

impl Seed {
    async fn grow<B: Brain>(self, hub: &mut Hub<B>) {
        let _farewell = Farewell(self.shard, self.ending.clone());
        let budget = Budget {
            read_bytes: self.tuning.read_bytes,
            turn_bytes: self.tuning.turn_bytes,
        };
        if self.tuning.driver != DriverKind::Readiness {
            match Ring::new(Arc::clone(&self.bell), budget, self.tuning.ring_buffers) {
                Ok(mut driver) => return self.run(hub, &mut driver).await,
                Err(error) if self.tuning.driver == DriverKind::Ring => {
                    return drop(self.ready.send(Err((self.shard, format!("completion ring: {error}")))));
                }
                Err(error) => {
                    let text = format!("no completion ring ({error}): links are served by readiness instead");
                    hub.context.journal.log(line(Level::Notice, text));
                }
            }
        }
        match Ready::new(Arc::clone(&self.bell), budget) {
            Ok(mut driver) => self.run(hub, &mut driver).await,
            Err(error) => drop(self.ready.send(Err((self.shard, error.to_string())))),
        }
    }

    async fn run<B: Brain>(self, hub: &mut Hub<B>, driver: &mut impl Driver) {
        let mut listening = Ok(());
        for (listener, entrance) in self.listeners {
            listening = listening.and_then(|()| driver.listen(listener, entrance));
        }
        let state = listening
            .map(|()| self.shard)
            .map_err(|error| (self.shard, error.to_string()));
        let failed = state.is_err();
        if self.ready.send(state).is_ok() && !failed {
            drop(self.ready);
            sys::sleep_exactly();
            let pace = Pace::new(Duration::from_micros(self.tuning.pause_us));
            pump::pump(hub, driver, &self.bell, pace).await;
        }
    }
}

impl Running {
    fn await_start(self, ready: &Receiver<Result<ShardId, (ShardId, String)>>) -> Result<Running, StartError> {
        let until = Instant::now() + START_TIMEOUT;
        for _ in 0..self.executors.len() {
            match ready.recv_deadline(until) {
                Ok(Ok(_)) => {}
                Ok(Err((shard, why))) => return Err(self.abandon(shard, why)),
                // An executor that could not be made has dropped its sender; its thread knows why.
                Err(_) => return Err(self.abandon(0, "did not start".to_owned())),
            }
        }
        Ok(self)
    }

    /// Ends what was started; the error of the executor that failed is better than `why` where there is one.
    fn abandon(self, shard: ShardId, why: String) -> StartError {
        self.control.shutdown();
        let mut failure = StartError::Executor(shard, why);
        for (shard, executor) in (0..).zip(self.executors) {
            if let Err(error) = executor.join() {
                failure = StartError::Executor(shard, error.to_string());
            }
        }
        failure
    }

    /// The handle to speak to the shards.
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// Whether a shard has ended though nobody asked it to.
    pub fn lost(&self) -> Option<ShardId> {
        self.ended.try_recv().ok()
    }

    /// Ends all executors and waits for their threads, without a word to anybody: the links are another process's.
    pub(crate) fn vanish(self) {
        self.control.order(|| Step::Vanish);
        for executor in self.executors {
            // How a shard ends that has nothing any more does not matter.
            let _ = executor.join();
        }
    }

    /// Closes all links, ends all executors and waits for their threads. The error names the shards that ended badly.
    pub fn stop(self) -> Result<(), String> {
        self.control.shutdown();
        let mut failures = Vec::new();
        for (shard, executor) in self.executors.into_iter().enumerate() {
            if let Err(error) = executor.join() {
                failures.push(format!("shard {shard}: {error}"));
            }
        }
        if failures.is_empty() {
            Ok(())
        } else {
            Err(failures.join("; "))
        }
    }
}
