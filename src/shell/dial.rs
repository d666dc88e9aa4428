//! Connections to peers: each dial on a thread of its own, since the resolver and a silent machine both take their time.
//!
//! A shard has at most [`DIALS_MAX`] under way; the answer comes by its command queue. A dial that is closed before its
//! answer is forgotten, and the late socket dropped; its thread counts until then.

use super::brain::Brain;
use super::control::{Command, Port};
use super::hub::{Hub, Op};
use super::link::Link;
use super::{driver::Token, sys};
use crate::node::api::{CloseCause, DIAL_MS, LinkId};
use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// Dials that a shard has under way; more are answered with an error at once.
const DIALS_MAX: usize = 256;
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;
/// A dialling thread's stack, bytes: the resolver wants some.
const STACK_BYTES: usize = 256 * 1024;

/// How a dial went.
pub(crate) type Outcome = Result<(OwnedFd, SocketAddr), CloseCause>;

/// The dials of a shard.
pub(super) struct Dials {
    /// Those whose answer the brain waits for.
    awaited: Vec<LinkId>,
    /// Threads at work.
    running: usize,
    port: Port,
    cpus: Arc<[usize]>,
}

impl Dials {
    pub(super) fn new(port: Port, cpus: Arc<[usize]>) -> Dials {
        Dials {
            awaited: Vec::new(),
            running: 0,
            port,
            cpus,
        }
    }

    pub(super) fn none_awaited(&self) -> bool {
        self.awaited.is_empty()
    }

    /// Takes the link from those awaited; false if it is not one of them.
    fn forget(&mut self, link: LinkId) -> bool {
        let place = self.awaited.iter().position(|&awaited| awaited == link);
        place.map(|place| self.awaited.swap_remove(place)).is_some()
    }

    fn start(&mut self, link: LinkId, host: Box<str>, port: u16) -> Result<(), String> {
        if self.running >= DIALS_MAX {
            return Err("too many dials at once".to_owned());
        }
        let (answers, cpus) = (self.port.clone(), Arc::clone(&self.cpus));
        std::thread::Builder::new()
            .name("jidmesh-dial".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                sys::run_on(&cpus);
                let outcome = dial(&host, port);
                answers.send_waiting(Command::Dialed(link, outcome));
            })
            .map_err(|error| format!("no thread to dial with: {error}"))?;
        self.running += 1;
        self.awaited.push(link);
        Ok(())
    }
}

impl<B: Brain> Hub<B> {
    /// Begins a dial.
    pub(super) fn dial(&mut self, link: LinkId, host: Box<str>, port: u16) {
        let started = match self.stop_at {
            Some(_) => Err(CloseCause::Local),
            None => self.dials.start(link, host, port).map_err(CloseCause::Error),
        };
        if let Err(cause) = started {
            self.ops.push_back(Op::Undialed(link, cause));
        }
    }

    /// Gives up a dial; false if the link is none.
    pub(super) fn hang_up_dial(&mut self, link: LinkId) -> bool {
        let awaited = self.dials.forget(link);
        if awaited {
            self.ops.push_back(Op::Undialed(link, CloseCause::Local));
        }
        awaited
    }

    /// Gives up all dials.
    pub(super) fn hang_up_dials(&mut self) {
        for link in self.dials.awaited.clone() {
            self.hang_up_dial(link);
        }
    }

    /// A dial's answer: the link is one like any other from here on, or has come to its end.
    pub(super) fn dialed(&mut self, id: LinkId, outcome: Outcome) {
        self.dials.running -= 1;
        if !self.dials.forget(id) {
            return;
        }
        match outcome {
            Ok((fd, remote)) => {
                self.links.insert(id, Link::new(Token::NONE, remote, None, None));
                self.ops.push_back(Op::Add(id, fd));
                self.brain.dialed(self.now, id, remote);
                self.mark_dirty(id);
                self.act();
            }
            Err(cause) => self.undialed(id, cause),
        }
    }

    /// A link that never was has come to its end.
    pub(super) fn undialed(&mut self, id: LinkId, cause: CloseCause) {
        self.brain.closed(self.now, id, cause, Vec::new(), 0);
        self.act();
    }
}

/// Tries the addresses of `host` in turn. One that refuses outweighs any that are silent: the machine is there.
fn dial(host: &str, port: u16) -> Outcome {
    let addresses = (host, port)
        .to_socket_addrs()
        .map_err(|error| CloseCause::Error(format!("{host} is not known: {error}")))?;
    let mut cause = CloseCause::Error(format!("{host} has no address"));
    for address in addresses.take(ADDRESSES_MAX) {
        match connect(&address) {
            Ok(socket) => return Ok((socket, address)),
            Err(error) if refused(&error) => cause = CloseCause::Refused,
            Err(error) if cause != CloseCause::Refused => cause = CloseCause::Error(format!("{address}: {error}")),
            Err(_) => {}
        }
    }
    Err(cause)
}

fn refused(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset
    )
}

fn connect(address: &SocketAddr) -> io::Result<OwnedFd> {
    let stream = TcpStream::connect_timeout(address, Duration::from_millis(DIAL_MS))?;
    // With nobody listening, the kernel may have given this socket the very port that it dials.
    if stream.local_addr()? == stream.peer_addr()? {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    stream.set_nonblocking(true)?;
    sys::set_nodelay(stream.as_fd());
    Ok(OwnedFd::from(stream))
}
