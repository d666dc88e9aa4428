//! A small brain for the shell's tests: echoes, relays by name, moves and closes links as their peers ask.
//!
//! A link's first line says what it wants: `echo`, `hop` (echo, moving to the next shard again and again), `tls`
//! (then echo), `ask` (a dot for each question mark), `close N` (N bytes, then close), `name X` (be addressed as X), `to X` (all bytes go to X), `probe`,
//! `flood` (a control message to the next shard, which answers with another, for each 64 bytes; a dot for each answer),
//! `dial N HOST PORT` (so many dials; hears what became of each), `drop HOST PORT` (dials and closes before the answer).
//! A dialled link says `hello` and is then a link like any other; so is one of a peer, which is greeted with `peer`.

use jidmesh::config::Config;
use jidmesh::node::api::{Action, CloseCause, LinkId, Micros, ShardId};
use jidmesh::node::report::ShardReport;
use jidmesh::shell::Brain;
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A hopping link moves after so many bytes.
const HOP_BYTES: usize = 100_000;
/// One control message for so many bytes of a flood.
const FLOOD_BYTES: usize = 64;
/// How long a shard works on each of a flood's messages.
const WORK: Duration = Duration::from_micros(2);
/// Bytes given out at once.
const CHUNK_BYTES: usize = 256 * 1024;

/// How a link ended: cause, bytes of the chunk in flight, how many of them were written.
pub type Ending = (CloseCause, usize, usize);

/// What the tests look at.
#[derive(Default)]
pub struct Witness {
    pub endings: Mutex<Vec<Ending>>,
    pub moves: Mutex<usize>,
    /// Messages of floods that are under way between shards, and the most there ever were.
    pub flying: AtomicUsize,
    pub flying_most: AtomicUsize,
}

impl Witness {
    fn fly(&self) {
        let flying = self.flying.fetch_add(1, Ordering::Relaxed) + 1;
        self.flying_most.fetch_max(flying, Ordering::Relaxed);
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Mode {
    Fresh,
    Echo,
    Hop,
    Ask,
    Flood,
    To(String),
    Sink,
}

#[derive(Debug)]
pub enum Control {
    Name(String, ShardId, LinkId),
    /// Of a flood: for this link of that shard.
    Ask(ShardId, LinkId),
    Answer(LinkId),
}

#[derive(Debug)]
pub struct Cargo {
    mode: Mode,
    line: Vec<u8>,
    out: VecDeque<u8>,
    in_flight: usize,
    since_hop: usize,
    tls: bool,
    /// Who asked for the dial.
    asker: Option<LinkId>,
}

impl Cargo {
    fn new(asker: Option<LinkId>) -> Cargo {
        Cargo {
            mode: Mode::Fresh,
            line: Vec::new(),
            out: VecDeque::new(),
            in_flight: 0,
            since_hop: 0,
            tls: false,
            asker,
        }
    }
}

pub struct Relay {
    me: ShardId,
    shards: u16,
    links: Vec<(u32, Option<Cargo>)>,
    actions: Vec<Action<Cargo>>,
    names: HashMap<String, (ShardId, LinkId)>,
    control: Vec<Vec<Control>>,
    data: Vec<Vec<(String, Vec<u8>)>>,
    witness: Arc<Witness>,
}

impl Relay {
    pub fn new(me: ShardId, shards: u16, witness: Arc<Witness>) -> Relay {
        Relay {
            me,
            shards,
            links: Vec::new(),
            actions: Vec::new(),
            names: HashMap::new(),
            control: (0..shards).map(|_| Vec::new()).collect(),
            data: (0..shards).map(|_| Vec::new()).collect(),
            witness,
        }
    }

    fn place(&mut self, cargo: Cargo) -> LinkId {
        // The lowest free slot: slots of links that are still moving are used again at once.
        let slot = self
            .links
            .iter()
            .position(|(_, link)| link.is_none())
            .unwrap_or_else(|| {
                self.links.push((0, None));
                self.links.len() - 1
            });
        let entry = &mut self.links[slot];
        entry.0 += 1;
        entry.1 = Some(cargo);
        LinkId {
            slot: slot as u32,
            generation: entry.0,
        }
    }

    fn link(&mut self, id: LinkId) -> Option<&mut Cargo> {
        let (generation, link) = self.links.get_mut(id.slot as usize)?;
        if *generation == id.generation {
            link.as_mut()
        } else {
            None
        }
    }

    fn output(&mut self, id: LinkId, bytes: &[u8]) {
        if let Some(link) = self.link(id) {
            link.out.extend(bytes);
            self.actions.push(Action::Output(id));
        }
    }

    fn hop(&mut self, id: LinkId, to: ShardId) {
        if let Some(cargo) = self.links[id.slot as usize].1.take() {
            *self.witness.moves.lock().unwrap() += 1;
            self.actions.push(Action::Move {
                link: id,
                to,
                cargo: Box::new(cargo),
            });
        }
    }

    fn command(&mut self, id: LinkId, line: &str) -> Mode {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        match verb {
            "echo" => Mode::Echo,
            "hop" => Mode::Hop,
            "ask" => Mode::Ask,
            "flood" => Mode::Flood,
            "to" => Mode::To(rest.to_owned()),
            "name" => {
                self.names.insert(rest.to_owned(), (self.me, id));
                for control in &mut self.control {
                    control.push(Control::Name(rest.to_owned(), self.me, id));
                }
                self.output(id, b"named\n");
                Mode::Sink
            }
            "tls" => {
                self.output(id, b"proceed\n");
                self.actions.push(Action::StartTls(id));
                Mode::Hop
            }
            "close" => {
                let bytes: usize = rest.parse().unwrap();
                self.output(id, &vec![b'z'; bytes]);
                self.actions.push(Action::Close(id));
                Mode::Sink
            }
            "dial" => {
                let (count, target) = rest.split_once(' ').unwrap();
                for _ in 0..count.parse().unwrap() {
                    self.dial(id, target);
                }
                Mode::Sink
            }
            "drop" => {
                let dialed = self.dial(id, rest);
                self.actions.push(Action::Close(dialed));
                Mode::Sink
            }
            "probe" => {
                self.actions.push(Action::Probe(id));
                Mode::Sink
            }
            _ => panic!("unknown command {line:?}"),
        }
    }

    fn dial(&mut self, asker: LinkId, target: &str) -> LinkId {
        let (host, port) = target.split_once(' ').unwrap();
        let link = self.place(Cargo::new(Some(asker)));
        self.actions.push(Action::Dial {
            link,
            host: host.into(),
            port: port.parse().unwrap(),
        });
        link
    }

    fn route(&mut self, name: &str, bytes: &[u8]) {
        let (shard, id) = *self.names.get(name).expect("control overtakes data");
        if shard == self.me {
            self.output(id, bytes);
        } else {
            self.data[usize::from(shard)].push((name.to_owned(), bytes.to_vec()));
        }
    }
}

impl Brain for Relay {
    type Cargo = Cargo;
    type Control = Control;
    type Data = Vec<(String, Vec<u8>)>;

    fn opened(&mut self, _: Micros, _: SocketAddr) -> LinkId {
        self.place(Cargo::new(None))
    }

    fn opened_peer(&mut self, _: Micros, _: SocketAddr) -> LinkId {
        let id = self.place(Cargo::new(None));
        self.output(id, b"peer\n");
        id
    }

    fn dialed(&mut self, _: Micros, id: LinkId, _: SocketAddr) {
        let asker = self.link(id).expect("a dial that was asked for").asker.take();
        self.output(asker.expect("dialled once"), b"Dialed\n");
        self.output(id, b"hello\n");
    }

    fn received(&mut self, _: Micros, id: LinkId, mut bytes: &[u8]) {
        assert!(!bytes.is_empty());
        let mode = {
            let link = self.link(id).expect("bytes of a link that is here");
            if link.mode == Mode::Fresh {
                let Some(end) = bytes.iter().position(|&byte| byte == b'\n') else {
                    return link.line.extend_from_slice(bytes);
                };
                link.line.extend_from_slice(&bytes[..end]);
                bytes = &bytes[end + 1..];
                let line = String::from_utf8(std::mem::take(&mut link.line)).unwrap();
                if let Some(to) = line.strip_prefix("home ") {
                    link.since_hop = 0;
                    let to = to.parse().unwrap();
                    assert!(bytes.is_empty(), "the peer waits after home");
                    link.out.extend(b"moved\n");
                    return self.hop(id, to);
                }
                let mode = self.command(id, &line);
                self.link(id).unwrap().mode = mode.clone();
                mode
            } else {
                link.mode.clone()
            }
        };
        if bytes.is_empty() {
            return;
        }
        match mode {
            Mode::Echo => self.output(id, bytes),
            Mode::Ask => {
                let questions = bytes.iter().filter(|&&byte| byte == b'?').count();
                if questions > 0 {
                    self.output(id, &vec![b'.'; questions]);
                }
            }
            Mode::Flood => {
                let next = usize::from((self.me + 1) % self.shards);
                let link = self.link(id).unwrap();
                link.since_hop += bytes.len();
                let messages = link.since_hop / FLOOD_BYTES;
                link.since_hop %= FLOOD_BYTES;
                for _ in 0..messages {
                    self.witness.fly();
                    self.control[next].push(Control::Ask(self.me, id));
                }
            }
            Mode::Hop => {
                self.output(id, bytes);
                let (next, alone) = ((self.me + 1) % self.shards, self.shards == 1);
                let link = self.link(id).unwrap();
                link.since_hop += bytes.len();
                if link.since_hop > HOP_BYTES && !alone {
                    link.since_hop = 0;
                    self.hop(id, next);
                }
            }
            Mode::To(name) => self.route(&name, bytes),
            Mode::Sink | Mode::Fresh => {}
        }
    }

    fn tls_started(&mut self, _: Micros, id: LinkId) {
        let link = self.link(id).expect("TLS of a link that is here");
        assert!(!link.tls);
        link.tls = true;
    }

    fn closed(&mut self, _: Micros, id: LinkId, cause: CloseCause, unsent: Vec<u8>, written: usize) {
        let link = self.links[id.slot as usize].1.take().expect("closed once");
        assert!(written <= unsent.len());
        if let Some(asker) = link.asker {
            return self.output(asker, format!("{cause:?}\n").as_bytes());
        }
        assert_eq!(
            link.in_flight,
            unsent.len() - written,
            "what is in flight is known on both sides"
        );
        self.witness
            .endings
            .lock()
            .unwrap()
            .push((cause, unsent.len(), written));
    }

    fn adopt(&mut self, _: Micros, cargo: Box<Cargo>) -> LinkId {
        let id = self.place(*cargo);
        self.actions.push(Action::Output(id));
        id
    }

    fn probed(&mut self, _: Micros, id: LinkId, alive: bool) {
        self.output(id, if alive { b"alive\n" } else { b"dead\n" });
    }

    fn take_output(&mut self, _: Micros, id: LinkId, into: &mut Vec<u8>) {
        assert!(into.is_empty());
        let Some(link) = self.link(id) else { return };
        assert_eq!(link.in_flight, 0, "one chunk at a time");
        into.extend(link.out.drain(..link.out.len().min(CHUNK_BYTES)));
        link.in_flight = into.len();
    }

    fn written(&mut self, _: Micros, id: LinkId, bytes: usize) {
        let link = self.link(id).expect("written by a link that is here");
        link.in_flight = link
            .in_flight
            .checked_sub(bytes)
            .expect("no more is written than was given");
    }

    fn take_actions(&mut self, into: &mut Vec<Action<Cargo>>) {
        into.append(&mut self.actions);
    }

    fn take_control(&mut self, to: ShardId) -> Vec<Self::Control> {
        std::mem::take(&mut self.control[usize::from(to)])
    }

    fn take_data(&mut self, to: ShardId) -> Option<Self::Data> {
        let data = std::mem::take(&mut self.data[usize::from(to)]);
        if data.is_empty() { None } else { Some(data) }
    }

    fn lanes(
        &mut self,
        _: Micros,
        control: &mut Vec<(ShardId, Vec<Self::Control>)>,
        data: &mut Vec<(ShardId, Self::Data)>,
    ) {
        for message in control.drain(..).flat_map(|(_, messages)| messages) {
            match message {
                Control::Name(name, shard, id) => drop(self.names.insert(name, (shard, id))),
                Control::Ask(shard, id) => {
                    let until = Instant::now() + WORK;
                    while Instant::now() < until {}
                    self.control[usize::from(shard)].push(Control::Answer(id));
                }
                Control::Answer(id) => {
                    self.witness.flying.fetch_sub(1, Ordering::Relaxed);
                    self.output(id, b".");
                }
            }
        }
        for (name, bytes) in data.drain(..).flat_map(|(_, batch)| batch) {
            self.route(&name, &bytes);
        }
    }

    fn tick(&mut self, _: Micros) {}

    fn deadline(&self) -> Option<Micros> {
        None
    }

    fn reload(&mut self, _: Micros, _: Arc<Config>) {}

    fn shutdown(&mut self, _: Micros) {
        for slot in 0..self.links.len() {
            let (generation, link) = &self.links[slot];
            if link.is_some() {
                let id = LinkId {
                    slot: slot as u32,
                    generation: *generation,
                };
                self.output(id, b"bye\n");
                self.actions.push(Action::Close(id));
            }
        }
    }

    fn report(&self) -> ShardReport {
        let links = self.links.iter().filter(|(_, link)| link.is_some()).count();
        ShardReport {
            shard: self.me,
            links_negotiating: links as u64,
            ..ShardReport::default()
        }
    }
}
