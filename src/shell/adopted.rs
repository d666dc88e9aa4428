//! What becomes of a link on its way between two shards or two processes. The sockets of the other tests cannot time that.
#![allow(clippy::unwrap_used)]

use super::accept::Door;
use super::brain::Brain;
use super::control::Control;
use super::driver::{Driver, Entrance, Events, Released, Token};
use super::hub::{Context, Hub};
use super::journal::Stderr;
use super::lanes;
use super::link::{Handover, Link};
use super::sys::{self, Doorbell};
use super::takeover::Step;
use crate::config::{Config, Io};
use crate::node::api::{Action, CloseCause, LinkId, Micros, ShardId};
use crate::node::report::ShardReport;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Writes down what it is told.
#[derive(Default)]
struct Recorder {
    told: Vec<String>,
    move_on: bool,
    output: Vec<u8>,
    actions: Vec<Action<()>>,
}

impl Brain for Recorder {
    type Cargo = ();
    type Control = ();
    type Data = ();

    fn opened(&mut self, _: Micros, _: SocketAddr) -> LinkId {
        unreachable!("nobody connects")
    }
    fn opened_peer(&mut self, _: Micros, _: SocketAddr) -> LinkId {
        unreachable!("nobody connects")
    }
    fn dialed(&mut self, _: Micros, _: LinkId, _: SocketAddr) {}
    fn received(&mut self, _: Micros, link: LinkId, bytes: &[u8]) {
        self.told.push(format!("received {}", String::from_utf8_lossy(bytes)));
        if self.move_on {
            let (to, cargo) = (1, Box::new(()));
            self.actions.push(Action::Move { link, to, cargo });
        }
    }
    fn tls_started(&mut self, _: Micros, _: LinkId) {}
    fn closed(&mut self, _: Micros, _: LinkId, cause: CloseCause, unsent: Vec<u8>, written: usize) {
        self.told
            .push(format!("closed {cause:?} {written} of {}", unsent.len()));
    }
    fn adopt(&mut self, _: Micros, _: Box<()>) -> LinkId {
        self.told.push("adopted".to_owned());
        LinkId { slot: 0, generation: 1 }
    }
    fn probed(&mut self, _: Micros, _: LinkId, _: bool) {}
    fn take_output(&mut self, _: Micros, _: LinkId, into: &mut Vec<u8>) {
        into.append(&mut self.output);
    }
    fn written(&mut self, _: Micros, _: LinkId, _: usize) {}
    fn take_actions(&mut self, into: &mut Vec<Action<()>>) {
        into.append(&mut self.actions);
    }
    fn take_control(&mut self, _: ShardId) -> Vec<()> {
        Vec::new()
    }
    fn take_data(&mut self, _: ShardId) -> Option<()> {
        None
    }
    fn lanes(&mut self, _: Micros, _: &mut Vec<(ShardId, Vec<()>)>, _: &mut Vec<(ShardId, ())>) {}
    fn tick(&mut self, _: Micros) {}
    fn deadline(&self) -> Option<Micros> {
        None
    }
    fn reload(&mut self, _: Micros, _: Arc<Config>) {}
    fn shutdown(&mut self, _: Micros) {}
    fn report(&self) -> ShardReport {
        ShardReport::default()
    }
}

/// Two shards; a link comes to the first.
fn hubs(move_on: bool) -> (Hub<Recorder>, lanes::Lanes<Recorder>) {
    let bells: Vec<_> = (0..2).map(|_| Arc::new(Doorbell::new().unwrap())).collect();
    let (_, mut commands) = Control::new(&bells);
    let mut ways = lanes::mesh::<Recorder>(&bells, 8);
    let second = ways.pop().unwrap();
    let context = Context {
        journal: Arc::new(Stderr),
        tls: None,
        tls_client: None,
        cpus: sys::allowed_cpus().into(),
        started: Instant::now(),
    };
    let brain = Recorder {
        move_on,
        ..Recorder::default()
    };
    let door = Door::new(&Io::default(), Arc::default());
    let hub = Hub::new(brain, ways.pop().unwrap(), door, context, commands.remove(0));
    (hub, second)
}

fn handover(hub: &mut Hub<Recorder>) -> Handover<()> {
    let (here, _there) = std::os::unix::net::UnixStream::pair().unwrap();
    Handover {
        fd: OwnedFd::from(here),
        remote: SocketAddr::from(([127, 0, 0, 1], 1)),
        permit: Some(hub.door.admit([127, 0, 0, 1].into(), 0).unwrap()),
        cargo: Box::new(()),
        tls: None,
        meter: Default::default(),
        throttled_until: 0,
        unread: b"last words".to_vec(),
        written: 0,
        broken: Some((CloseCause::Reset, b"abc".to_vec(), 1)),
    }
}

#[test]
fn what_was_read_before_the_end_is_handled_before_it() {
    let (mut hub, _second) = hubs(false);
    let handover = handover(&mut hub);
    hub.adopt(handover);
    assert_eq!(
        hub.brain.told,
        ["adopted", "received last words", "closed Reset 1 of 3"]
    );
    assert!(hub.links.is_empty() && hub.ops.is_empty());
}

#[test]
fn a_link_that_goes_on_takes_its_end_along() {
    let (mut hub, mut second) = hubs(true);
    let handover = handover(&mut hub);
    hub.adopt(handover);
    assert_eq!(hub.brain.told, ["adopted", "received last words"]);
    assert!(hub.links.is_empty());
    let mut arrived = lanes::Arrived::new();
    second.drain(&mut arrived);
    let Some((0, lanes::Message::Link(link))) = arrived.messages.pop() else {
        panic!("the link did not come")
    };
    assert_eq!(link.broken, Some((CloseCause::Reset, b"abc".to_vec(), 1)));
    assert!(link.unread.is_empty(), "it was handled");
}

/// Takes what it is given, and does nothing.
#[derive(Default)]
struct Sink {
    written: Vec<(Token, Vec<u8>)>,
}

/// Of the only link.
const TOKEN: Token = Token { slot: 0, generation: 1 };

impl Driver for Sink {
    fn add(&mut self, _: LinkId, _: OwnedFd) -> Result<Token, (OwnedFd, io::Error)> {
        Ok(TOKEN)
    }
    fn listen(&mut self, _: TcpListener, _: Entrance) -> io::Result<()> {
        Ok(())
    }
    fn set_accepting(&mut self, _: bool) {}
    fn unlisten(&mut self) {}
    fn accept_again(&mut self) {}
    fn set_reading(&mut self, _: Token, _: bool) {}
    fn write(&mut self, token: Token, chunk: Vec<u8>, _: usize) {
        self.written.push((token, chunk));
    }
    fn release(&mut self, _: Token) {}
    fn socket(&self, _: Token) -> Option<BorrowedFd<'_>> {
        None
    }
    fn busy(&self, _: bool) -> bool {
        false
    }
    fn reap(&mut self, _: &mut impl Events) {}
    fn turn(&mut self, _: Duration, _: bool, _: &mut impl Events) -> bool {
        false
    }
    async fn park(&mut self, _: Duration) {}
}

/// Shards are told one after another to go on after a take-over: the first speaks to those that still stand.
#[test]
fn what_another_shard_causes_is_written_when_this_one_goes_on() {
    let (mut hub, _second) = hubs(false);
    let mut sink = Sink::default();
    let id = LinkId { slot: 0, generation: 1 };
    let (here, _there) = std::os::unix::net::UnixStream::pair().unwrap();
    let remote = SocketAddr::from(([127, 0, 0, 1], 1));
    hub.links.insert(id, Link::new(Token::NONE, remote, None, None));
    hub.stand_still();
    let released = Released {
        fd: OwnedFd::from(here),
        chunk: Vec::new(),
        written: 0,
        unread: Vec::new(),
    };
    assert!(hub.keep_still(id, released).is_none());
    hub.brain.output = b"first".to_vec();
    hub.brain.actions.push(Action::Output(id));
    hub.act();
    hub.settle(&mut sink);
    assert!(sink.written.is_empty());
    hub.take_over(Step::GoOn);
    hub.settle(&mut sink);
    assert_eq!(sink.written, [(TOKEN, b"first".to_vec())]);
}
