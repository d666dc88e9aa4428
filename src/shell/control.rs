//! The handle by which other threads speak to the shards: reports, reload, stop.

use super::dial::Outcome;
use super::sys::Doorbell;
use super::takeover::Step;
use crate::config::Config;
use crate::mesh::conn::Local;
use crate::node::api::LinkId;
use crate::node::cluster::{Answer, Question};
use crate::node::recovery::Notes;
use crate::node::report::ShardReport;
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Commands that may wait for one shard: more are refused, as then the shard does not run.
const COMMANDS_MAX: usize = 256;

/// What another thread asks of a shard.
pub(crate) enum Command {
    /// Tell what you know; the answer's way back.
    Report(Sender<ShardReport>),
    /// An operator's question; the answer's way back.
    Ask(Question, Sender<Answer>),
    /// Use this configuration from now on.
    Reload(Arc<Config>, Option<Arc<rustls::ServerConfig>>, Option<Arc<Local>>),
    /// What became of the dial for this link.
    Dialed(LinkId, Outcome),
    /// Tell what is to be written down; `true`: everything.
    Notes(bool, Sender<Notes>),
    /// A step of a take-over.
    TakeOver(Step),
    /// Close every link and end.
    Shutdown,
}

/// A shard's side of the handle.
pub(crate) struct Commands {
    /// Takes a word when the shard has something to be written down.
    pub(crate) noted: Sender<()>,
    pub(crate) queue: Receiver<Command>,
    /// Where helpers of this shard answer.
    pub(crate) port: Port,
}

/// One shard's letter box.
#[derive(Clone)]
pub(crate) struct Port {
    queue: Sender<Command>,
    bell: Arc<Doorbell>,
}

/// The running shards, usable from any thread.
#[derive(Clone)]
pub struct Control {
    ports: Arc<Vec<Port>>,
    noted: Receiver<()>,
}

impl Control {
    /// A handle for the shards behind `bells`, and each shard's side of it.
    pub(crate) fn new(bells: &[Arc<Doorbell>]) -> (Control, Vec<Commands>) {
        let (mut ports, mut commands) = (Vec::new(), Vec::new());
        // One word is enough for all of them.
        let (tell, noted) = bounded(1);
        for bell in bells {
            let (queue, receiver) = bounded(COMMANDS_MAX);
            let port = Port {
                queue,
                bell: Arc::clone(bell),
            };
            ports.push(port.clone());
            commands.push(Commands {
                noted: tell.clone(),
                queue: receiver,
                port,
            });
        }
        let ports = Arc::new(ports);
        (Control { ports, noted }, commands)
    }

    /// How many shards there are.
    pub fn shards(&self) -> usize {
        self.ports.len()
    }

    /// Asks every shard for its report and waits at most `timeout` for all of them together; sorted by shard. A shard
    /// that does not answer in time is missing.
    pub fn reports(&self, timeout: Duration) -> Vec<ShardReport> {
        let mut reports = self.answers(timeout, Command::Report);
        reports.sort_by_key(|report: &ShardReport| report.shard);
        reports
    }

    /// Asks every shard and waits at most `timeout` for all of them together; one that does not answer is missing.
    pub fn ask(&self, question: &Question, timeout: Duration) -> Vec<Answer> {
        self.answers(timeout, |to| Command::Ask(question.clone(), to))
    }

    /// Asks every shard to take a step of a take-over, and waits for all of them; one that does not answer is missing.
    pub(crate) fn step<T>(&self, timeout: Duration, step: impl Fn(Sender<T>) -> Step) -> Vec<T> {
        self.answers(timeout, |to| Command::TakeOver(step(to)))
    }

    /// The same, without an answer.
    pub(crate) fn order(&self, step: impl Fn() -> Step) {
        for port in self.ports.iter() {
            port.send(Command::TakeOver(step()));
        }
    }

    /// Takes from every shard what is to be written down, and whether all of them answered; `anew`: everything.
    pub(crate) fn notes(&self, timeout: Duration, anew: bool) -> (Vec<Notes>, bool) {
        let notes = self.answers(timeout, |to| Command::Notes(anew, to));
        let all = notes.len() == self.ports.len();
        (notes, all)
    }

    /// Gives a word when a shard has something to be written down.
    pub(crate) fn noted(&self) -> &Receiver<()> {
        &self.noted
    }

    fn answers<T>(&self, timeout: Duration, command: impl Fn(Sender<T>) -> Command) -> Vec<T> {
        let until = Instant::now() + timeout;
        let (sender, receiver) = unbounded();
        for port in self.ports.iter() {
            port.send(command(sender.clone()));
        }
        drop(sender);
        let mut answers = Vec::with_capacity(self.ports.len());
        while answers.len() < self.ports.len() {
            match receiver.recv_deadline(until) {
                Ok(answer) => answers.push(answer),
                Err(_) => break,
            }
        }
        answers
    }

    /// Gives every shard a new configuration, and certificate and identity in the mesh for links to come.
    pub fn reload(&self, config: &Arc<Config>, tls: Option<&Arc<rustls::ServerConfig>>, local: Option<&Arc<Local>>) {
        for port in self.ports.iter() {
            port.send(Command::Reload(Arc::clone(config), tls.cloned(), local.cloned()));
        }
    }

    /// Asks every shard to close its links and end; returns at once.
    pub fn shutdown(&self) {
        for port in self.ports.iter() {
            port.send(Command::Shutdown);
        }
    }
}

impl Port {
    fn send(&self, command: Command) {
        // A full queue belongs to a shard that stands still, a closed one to a shard that has ended.
        if self.queue.try_send(command).is_ok() {
            self.bell.ring();
        }
    }

    /// Waits for room: for what must not be lost, on a thread that may wait.
    pub(crate) fn send_waiting(&self, command: Command) {
        if self.queue.send(command).is_ok() {
            self.bell.ring();
        }
    }
}
