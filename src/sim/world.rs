//! The world of one run: what exists, and the one queue of what happens next.

use super::book::Book;
use super::lanes::Machine;
use super::link::Conn;
use super::net::Net;
use super::outside::Outside;
use super::part::{Body, Part};
use super::people::{Client, Person};
use super::plan::Plan;
use super::rng::Rng;
use super::sm::Database;
use super::{Failure, Summary};
use crate::node::api::{CloseCause, Micros};
use crate::table::ShardId;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Lines of a trace that are kept.
const TRACE_MAX: usize = 200_000;

/// Events of one run: more of them is a loop.
const EVENTS_MAX: u64 = 20_000_000;

/// Something that happens at its time.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// A shard of a node looks at its lanes and its clock.
    Turn(usize, usize),
    /// The router reads a link.
    Read(usize),
    /// The router writes a link.
    Write(usize),
    /// The router's socket tells that the link is over.
    RouterEnd(usize, CloseCause),
    /// A closing link had its time.
    Flushed(usize),
    /// The component reads a link.
    Hear(usize),
    /// The component's socket tells that the link is over.
    PartEnd(usize),
    /// A component connects (its life).
    Connect(usize, u32),
    /// A killed component starts again.
    Launch(usize, u32),
    /// An sm serves its next frame.
    Work(usize, u32),
    /// A person does something.
    Person(usize),
    /// The peer component does something.
    Peer(usize),
    /// A fault strikes.
    Fault,
    /// A fault strikes a node, or something between two.
    NodeFault,
    /// A dial reaches this node, or would.
    Dialed(usize, usize),
    /// A router takes a connection of a peer (its life).
    Accept(usize, u32),
    /// The network may let more through than before.
    Healed,
    /// Some time ago the last disturbance was over, perhaps.
    Healthy,
    /// A router starts (its life).
    Boot(usize, u32),
    /// A router gives way to another process, when its links allow it until then.
    TakeOver(usize, Micros),
    /// Somebody outside does something.
    Outside(usize),
}

struct Entry {
    at: Micros,
    order: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Entry) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// What people and faults do at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mood {
    /// Components come up.
    Dawn,
    /// Everybody acts, faults strike.
    Busy,
    /// Nothing but a ping now and then.
    Quiet,
    /// Nothing at all, so that nothing is under way.
    Still,
    /// All go home.
    Dusk,
}

/// Everything.
pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) rng: Rng,
    pub(super) now: Micros,
    pub(super) mood: Mood,
    pub(super) machines: Vec<Machine>,
    pub(super) net: Net,
    /// A router died: what it had counted is gone.
    pub(super) routers_died: bool,
    pub(super) conns: Vec<Conn>,
    pub(super) outside: Outside,
    pub(super) parts: Vec<Part>,
    pub(super) people: Vec<Person>,
    pub(super) clients: Vec<Client>,
    pub(super) database: Database,
    pub(super) book: Book,
    /// Nothing is read or written by the network before this time: for links that stay broken.
    pub(super) wrong: Vec<String>,
    pub(super) trace: Option<Vec<String>>,
    pub(super) summary: Summary,
    queue: BinaryHeap<Reverse<Entry>>,
    order: u64,
}

impl World {
    pub(super) fn new(plan: Plan, trace: bool) -> World {
        let mut rng = Rng::new(plan.seed.wrapping_mul(3) + 1);
        let mut world = World {
            machines: (0..plan.nodes)
                .map(|node| Machine::new(&plan, node, 1, &mut rng))
                .collect(),
            rng,
            now: 1,
            mood: Mood::Dawn,
            net: Net::new(plan.nodes),
            routers_died: false,
            conns: Vec::new(),
            outside: Outside::default(),
            parts: Vec::new(),
            people: Vec::new(),
            clients: Vec::new(),
            database: Database::default(),
            book: Book::default(),
            wrong: Vec::new(),
            trace: trace.then(Vec::new),
            summary: Summary::default(),
            queue: BinaryHeap::new(),
            order: 0,
            plan,
        };
        world.populate();
        if world.plan.nodes > 1 {
            for (node, shard) in world.all_shards() {
                world.act(node, shard);
            }
        }
        world
    }

    /// Plays to the end.
    pub(super) fn play(mut self) -> Result<Summary, Box<Failure>> {
        let rounds = self.plan.rounds;
        let outcome = self.dawn().and_then(|()| {
            for _ in 0..rounds {
                self.round()?;
            }
            self.dusk()
        });
        match outcome {
            Ok(()) => {
                self.summary.micros = self.now;
                Ok(self.summary)
            }
            Err(Broken) => Err(Box::new(Failure {
                seed: self.plan.seed,
                micros: self.now,
                what: self.wrong,
                plan: format!("{:?}", self.plan),
                trace: self.trace.unwrap_or_default(),
            })),
        }
    }

    pub(super) fn at(&mut self, at: Micros, event: Event) {
        self.order += 1;
        let order = self.order;
        let at = at.max(self.now);
        self.queue.push(Reverse(Entry { at, order, event }));
    }

    pub(super) fn after(&mut self, micros: Micros, event: Event) {
        self.at(self.now + micros, event);
    }

    /// Lets `micros` pass.
    pub(super) fn pass(&mut self, micros: Micros) -> Result<(), Broken> {
        let until = self.now + micros;
        while let Some(Reverse(entry)) = self.queue.peek()
            && entry.at <= until
        {
            let Some(Reverse(Entry { at, event, .. })) = self.queue.pop() else {
                break;
            };
            self.now = at;
            self.book.now = at;
            self.summary.events += 1;
            if self.summary.events > EVENTS_MAX {
                self.wrong.push("it never comes to rest".into());
            }
            self.happen(event);
            if !self.wrong.is_empty() {
                return Err(Broken);
            }
        }
        self.now = until;
        Ok(())
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Turn(node, shard) => self.turn(node, shard),
            Event::Read(conn) => self.router_reads(conn),
            Event::Write(conn) => self.router_writes(conn),
            Event::RouterEnd(conn, cause) => self.router_end(conn, cause),
            Event::Flushed(conn) => self.flushed(conn),
            Event::Hear(conn) => self.part_hears(conn),
            Event::PartEnd(conn) => self.part_end(conn),
            Event::Connect(part, life) => self.part_connects(part, life),
            Event::Launch(part, life) => self.launch(part, life),
            Event::Work(part, life) => self.sm_works(part, life),
            Event::Person(person) => self.person_acts(person),
            Event::Peer(part) => self.peer_acts(part),
            Event::Fault => self.fault(),
            Event::NodeFault => self.node_fault(),
            Event::Dialed(conn, target) => self.dialed(conn, target),
            Event::Accept(conn, life) => self.accept(conn, life),
            Event::Healed => self.healed(),
            Event::Healthy => self.check_healed(),
            Event::Boot(node, life) => self.boot(node, life),
            Event::TakeOver(node, until) => self.take_over(node, until),
            Event::Outside(part) => self.s2s_acts(part),
        }
    }

    /// Something is wrong: the run ends behind this event.
    pub(super) fn fail(&mut self, what: String) {
        self.note(|| format!("WRONG {what}"));
        self.wrong.push(what);
    }

    pub(super) fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace
            && trace.len() < TRACE_MAX
        {
            trace.push(format!("{:>12} {}", self.now, line()));
        }
    }

    fn all_shards(&self) -> Vec<(usize, ShardId)> {
        let nodes = 0..self.plan.nodes;
        nodes
            .flat_map(|node| (0..self.plan.shards).map(move |shard| (node, shard)))
            .collect()
    }

    fn populate(&mut self) {
        for node in 0..self.plan.nodes {
            for n in 1..=self.plan.sms {
                self.parts.push(Part::sm(node, &format!("sm{n}")));
            }
            for n in 1..=self.plan.c2ss {
                self.parts.push(Part::c2s(node, &format!("c2s{n}")));
            }
            self.parts.push(Part::peer(self.plan.nodes, node));
            if self.plan.nodes > 1 {
                self.parts.push(Part::s2s(node));
            }
        }
        for user in 0..self.plan.users {
            for n in 0..self.plan.resources {
                self.people.push(Person::new(user, n));
            }
        }
        for part in 0..self.parts.len() {
            let delay = self.rng.below(3_000_000);
            self.after(delay, Event::Connect(part, 0));
        }
    }

    /// All components come up.
    fn dawn(&mut self) -> Result<(), Broken> {
        self.pass(5_000_000)
    }

    fn round(&mut self) -> Result<(), Broken> {
        self.mood = Mood::Busy;
        for person in 0..self.people.len() {
            let delay = self.rng.below(2_000_000);
            self.after(delay, Event::Person(person));
        }
        for part in 0..self.parts.len() {
            match self.parts[part].body {
                Body::Peer(_) => self.after(100_000, Event::Peer(part)),
                Body::S2s(_) => self.after(100_000, Event::Outside(part)),
                _ => {}
            }
        }
        if !self.plan.faults.is_empty() {
            for _ in 0..self.plan.faults_per_round {
                let delay = self.rng.below(self.plan.busy_us);
                self.after(delay, Event::Fault);
            }
        }
        if !self.plan.mesh.faults.is_empty() {
            for _ in 0..self.plan.mesh.faults_per_round {
                let delay = self.rng.below(self.plan.busy_us);
                self.after(delay, Event::NodeFault);
            }
        }
        for _ in 0..self.plan.take_overs_per_round {
            let (delay, node) = (self.rng.below(self.plan.busy_us), self.rng.index(self.plan.nodes));
            let until = self.now + delay + super::takeover::PATIENCE_US;
            self.after(delay, Event::TakeOver(node, until));
        }
        self.pass(self.plan.busy_us)?;
        self.mood = Mood::Quiet;
        self.pass(QUIET_US)?;
        self.mood = Mood::Still;
        self.pass(STILL_US)?;
        self.check()
    }

    /// All go home.
    fn dusk(&mut self) -> Result<(), Broken> {
        self.mood = Mood::Dusk;
        for person in 0..self.people.len() {
            let delay = self.rng.below(2_000_000);
            self.after(delay, Event::Person(person));
        }
        self.pass(QUIET_US)?;
        self.check()?;
        self.check_empty()
    }
}

/// From the last action to a quiet point: longer than grace, questions, ghosts and every timeout together.
const QUIET_US: Micros = 240_000_000;

/// From the last ping to a quiet point: longer than its answer takes.
const STILL_US: Micros = 2_000_000;

/// A promise did not hold; the world knows which.
#[derive(Debug)]
pub(super) struct Broken;
