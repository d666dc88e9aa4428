//! The old process's side.

use super::channel::{send_descriptors, write_body};
use super::shard::{Given, Rest, Step};
use super::{BUILD_MS, Baggage, DOOR_MS, LinkBaggage, MINE, REST_MS, SHARE_MS, WORD_MS};
use crate::node::api::Level;
use crate::node::image::VERSION;
use crate::operate::admin::TakeOver;
use crate::shell::control::Control;
use crate::shell::driver::Entrance;
use crate::shell::journal::{Journal, line};
use crate::table::image;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often it is looked whether the shards are at rest.
const LOOK: Duration = Duration::from_millis(1);

/// Gives the node to another process, when one asks.
pub(crate) struct Giver {
    pub(crate) control: Control,
    pub(crate) journal: Arc<dyn Journal>,
    /// The name of jidmesh itself, which its questions come from.
    pub(crate) own: String,
    /// Its node and cluster, with `<mesh>`.
    pub(crate) mesh: Option<String>,
    /// The stock router that it is attached to, with `<uplink>`.
    pub(crate) uplink: Option<String>,
    /// Why it can't be taken over at all.
    pub(crate) hindered: Option<&'static str>,
    pub(crate) listeners: Vec<(TcpListener, Entrance)>,
    /// Origin of the shards' clock.
    pub(crate) started: Instant,
    pub(crate) busy: AtomicBool,
    pub(crate) given: AtomicBool,
}

impl Giver {
    /// Whether another process is the node now. `ends`: this one is about to end, so what is under way must be waited for.
    pub(crate) fn is_given_at_last(&self, ends: bool) -> bool {
        while ends && self.busy.load(Ordering::Acquire) && !self.given.load(Ordering::Acquire) {
            std::thread::sleep(LOOK);
        }
        self.given.load(Ordering::Acquire)
    }

    /// A process asks at the admin socket.
    pub(crate) fn asked(&self, mut stream: UnixStream, ask: &TakeOver) {
        let first = !self.busy.swap(true, Ordering::AcqRel);
        let outcome = match self.objection(&stream, ask) {
            _ if !first => Err("another take-over is under way".to_owned()),
            Some(why) => Err(why),
            None => self.give(&stream),
        };
        match outcome {
            Ok(still) => {
                let text = format!(
                    "process {} has taken over; nothing moved for {} ms",
                    ask.pid,
                    still.as_millis()
                );
                self.log(Level::Notice, text);
                // Wakes the thread that ends this process.
                let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::USR2);
                // Its end, with this process, tells the other one that all addresses are free.
                return std::mem::forget(stream);
            }
            Err(why) => {
                let text = format!("process {} could not take over: {why}", ask.pid);
                self.log(Level::Warning, text);
                let answer = serde_json::json!({"ok": false, "error": why});
                let _ = writeln!(stream, "{answer}");
            }
        }
        if first {
            self.busy.store(false, Ordering::Release);
        }
    }

    fn log(&self, level: Level, text: String) {
        self.journal.log(line(level, text));
    }

    /// Why this process will not do it, before anything is touched.
    fn objection(&self, stream: &UnixStream, ask: &TakeOver) -> Option<String> {
        let peer = rustix::net::sockopt::socket_peercred(stream);
        let (own, root) = (rustix::process::geteuid(), rustix::process::Uid::ROOT);
        if !peer.is_ok_and(|peer| peer.uid == own || peer.uid == root) {
            return Some("only the user that jidmesh runs as, and root, may take it over".into());
        }
        if ask.version != VERSION {
            let (theirs, ours) = (ask.version, VERSION);
            return Some(format!(
                "its version can't: it reads images of form {theirs}, and this process ({}) writes form {ours}; restart \
                 instead",
                env!("CARGO_PKG_VERSION")
            ));
        }
        if ask.own != self.own {
            return Some(format!(
                "it calls itself {}, and this process is {}: is <id> another one?",
                ask.own, self.own
            ));
        }
        if ask.mesh != self.mesh {
            let name = |mesh: &Option<String>| mesh.clone().unwrap_or_else(|| "a machine without <mesh>".into());
            let (theirs, ours) = (name(&ask.mesh), name(&self.mesh));
            return Some(format!(
                "it would be {theirs}, and this process is {ours}: restart instead"
            ));
        }
        if ask.uplink != self.uplink {
            let mode = |router: &Option<String>| match router {
                Some(router) => format!("attached to {router}"),
                None => "in router mode".into(),
            };
            let (theirs, ours) = (mode(&ask.uplink), mode(&self.uplink));
            return Some(format!(
                "it would be {theirs}, and this process is {ours}: restart instead"
            ));
        }
        self.hindered.map(str::to_owned)
    }

    /// How long nothing moved.
    fn give(&self, stream: &UnixStream) -> Result<Duration, String> {
        self.hold_door();
        let begun = Instant::now();
        let outcome = self.stand_still().and_then(|()| self.baggage());
        let outcome = outcome.and_then(|(baggage, fds)| {
            let passed = self.pass_on(stream, &baggage, &fds);
            // Whatever it has by now, it can't say any more that all of it is its own.
            passed.inspect_err(|_| drop(stream.shutdown(Shutdown::Both)))
        });
        match outcome {
            Ok(()) => {
                await_word(stream);
                self.given.store(true, Ordering::Release);
                self.control.order(|| Step::Vanish);
            }
            Err(_) => self.control.order(|| Step::GoOn),
        }
        outcome.map(|()| begun.elapsed())
    }

    /// Lets nobody in, and those who are in tell who they are.
    fn hold_door(&self) {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(DOOR_MS) {
            let unseated = self.control.step(Duration::from_millis(DOOR_MS), Step::HoldDoor);
            if unseated.iter().all(|count| *count == 0) {
                break;
            }
            std::thread::sleep(LOOK * 10);
        }
    }

    fn stand_still(&self) -> Result<(), String> {
        let (begun, mut before) = (Instant::now(), None);
        while begun.elapsed() < Duration::from_millis(REST_MS) {
            let now: Vec<Rest> = self.control.step(Duration::from_millis(REST_MS), Step::Rest);
            let sum = |of: fn(&Rest) -> u64| now.iter().map(of).sum::<u64>();
            let (sent, taken) = (sum(|rest| rest.moved.0), sum(|rest| rest.moved.1));
            let all = now.len() == self.control.shards() && now.iter().all(|rest| rest.idle);
            if all && sent == taken && before == Some(sent) {
                return Ok(());
            }
            before = Some(sent).filter(|_| all && sent == taken);
            std::thread::sleep(LOOK);
        }
        Err(format!("its shards did not come to rest within {REST_MS} ms"))
    }

    fn baggage(&self) -> Result<(Baggage, Vec<OwnedFd>), String> {
        let given: Vec<Result<Given, String>> = self.control.step(Duration::from_millis(SHARE_MS), Step::Share);
        if given.len() < self.control.shards() {
            return Err(format!("a shard did not let its links go within {SHARE_MS} ms"));
        }
        let (mut shares, mut links, mut fds) = (Vec::new(), Vec::new(), Vec::new());
        for given in given {
            let given = given?;
            shares.push(given.share);
            for (former, link) in given.links {
                fds.push(link.fd);
                links.push(LinkBaggage {
                    former,
                    remote: link.remote,
                    chunk: link.chunk,
                    written: link.written,
                    unread: link.unread,
                });
            }
        }
        let baggage = Baggage {
            elapsed_us: u64::try_from(self.started.elapsed().as_micros()).unwrap_or(0),
            listeners: self.listeners.iter().map(|(_, entrance)| *entrance).collect(),
            links,
            shares,
        };
        Ok((baggage, fds))
    }

    /// Sends everything and waits for the word that it is the other's.
    fn pass_on(&self, stream: &UnixStream, baggage: &Baggage, fds: &[OwnedFd]) -> Result<(), String> {
        let body = image::write(baggage)?;
        let all: Vec<BorrowedFd<'_>> = self.listeners.iter().map(|(listener, _)| listener.as_fd()).collect();
        let all: Vec<BorrowedFd<'_>> = all.into_iter().chain(fds.iter().map(AsFd::as_fd)).collect();
        self.send(stream, &body, &all)
            .map_err(|error| format!("it did not take its baggage: {error}"))?;
        match is_taken(stream) {
            true => Ok(()),
            false => Err(format!("it did not confirm within {BUILD_MS} ms, or ended")),
        }
    }

    fn send(&self, mut stream: &UnixStream, body: &[u8], fds: &[BorrowedFd<'_>]) -> std::io::Result<()> {
        stream.set_write_timeout(Some(Duration::from_millis(BUILD_MS)))?;
        stream.write_all(b"{\"ok\":true}\n")?;
        write_body(stream, body)?;
        send_descriptors(stream, fds)
    }
}

/// Until the other process has told whoever started both of them, this one must not end.
fn await_word(mut stream: &UnixStream) {
    let _ = stream.set_read_timeout(Some(Duration::from_millis(WORD_MS)));
    let _ = stream.read(&mut [0]);
}

/// Whether the other process has written [`MINE`]; if not it never will.
fn is_taken(mut stream: &UnixStream) -> bool {
    let until = Instant::now() + Duration::from_millis(BUILD_MS);
    let mut byte = [0];
    while let Some(left) = until
        .checked_duration_since(Instant::now())
        .filter(|left| !left.is_zero())
    {
        let _ = stream.set_read_timeout(Some(left));
        match stream.read(&mut byte) {
            Ok(1) => return byte[0] == MINE,
            Ok(_) => return false,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    // From here on the other one can't write. What it wrote before is still there.
    let _ = stream.shutdown(Shutdown::Both);
    matches!(stream.read(&mut byte), Ok(1)) && byte[0] == MINE
}
