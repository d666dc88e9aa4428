//! A node: its shards, and the lanes between them.
//!
//! A turn is what the shell makes of it: data lanes are looked at first, control lanes after them, so a shard sees
//! control up to a later moment than data. How far it sees is chosen anew at each turn and for each lane.

use super::link::Fate;
use super::plan::Plan;
use super::rng::Rng;
use super::text::{DOMAIN, node_name};
use super::world::{Event, World};
use crate::config::{Config, Mesh};
use crate::mesh::conn::Local;
use crate::mesh::hello::Hello;
use crate::node::api::{Action, CloseCause, DataBatch, Level, LinkId, Micros};
use crate::node::cluster::policies;
use crate::node::lane::Control;
use crate::node::{Cargo, Shard};
use crate::table::ShardId;
use rand_core::RngCore;
use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// A link on its way to another shard.
#[derive(Debug)]
pub(super) struct Handover {
    pub(super) conn: usize,
    pub(super) cargo: Box<Cargo>,
    pub(super) written: usize,
    pub(super) broken: Option<(CloseCause, Vec<u8>, usize)>,
}

enum Side {
    Control(Vec<Control>),
    Link(Box<Handover>),
}

/// One direction of one pair of shards; each entry with the moment it was sent.
#[derive(Default)]
struct Lane {
    data: VecDeque<(u64, DataBatch)>,
    side: VecDeque<(u64, Side)>,
}

/// One node.
pub(super) struct Machine {
    pub(super) shards: Vec<Shard>,
    /// Which connection a shard's link is.
    pub(super) links: BTreeMap<(ShardId, u32, u32), usize>,
    /// When its router was started: where its clock begins.
    pub(super) origin: Micros,
    /// Its incarnation, in a mesh.
    incarnation: u64,
    /// How often its router was started before.
    pub(super) life: u32,
    /// Its router runs.
    pub(super) running: bool,
    pub(super) frozen_until: Vec<Micros>,
    turn_at: Vec<Option<Micros>>,
    stalled: Vec<bool>,
    lanes: Vec<Vec<Lane>>,
    moment: u64,
}

/// What the clocks say when the world begins, milliseconds since 1970.
const DAWN_MS: u64 = 1_790_000_000_000;

/// How wrong a clock may be.
const SKEW_MS: u64 = 50;

/// Who a node is. Its secret is made only once: it costs as much as a thousand events.
fn identity(mesh: &Mesh, incarnation: u64) -> Arc<Local> {
    static SECRET: OnceLock<Local> = OnceLock::new();
    let local = SECRET.get_or_init(|| Local::new(mesh, 1, 0));
    let hello = Hello::of(mesh, incarnation, policies(mesh));
    Arc::new(local.with_hello(hello))
}

impl Machine {
    /// The router of a node, started now.
    pub(super) fn new(plan: &Plan, node: usize, now: Micros, rng: &mut Rng) -> Machine {
        Machine::of_life(plan, node, now, rng, None)
    }

    /// Another process that shall go on in this one's place.
    pub(super) fn successor(&self, plan: &Plan, node: usize, now: Micros, rng: &mut Rng) -> Machine {
        Machine {
            origin: self.origin,
            life: self.life,
            ..Machine::of_life(plan, node, now, rng, Some(self.incarnation))
        }
    }

    fn of_life(plan: &Plan, node: usize, now: Micros, rng: &mut Rng, life: Option<u64>) -> Machine {
        let config = Arc::new(config(plan, node));
        let mut seed = [0; 32];
        rng.fill_bytes(&mut seed);
        let count = usize::from(plan.shards);
        let mesh = config.mesh.as_ref();
        let incarnation = mesh.map_or(0, |_| life.unwrap_or_else(|| rng.next_u64().max(1)));
        let identity = mesh.map(|mesh| identity(mesh, incarnation));
        // Clocks are a little wrong.
        let skew_ms = identity.as_ref().map_or(0, |_| rng.below(SKEW_MS));
        let shards = (0..plan.shards)
            .map(|id| {
                let brain = Shard::new(id, plan.shards, config.clone(), seed);
                match &identity {
                    Some(local) => brain.meshed(local, DAWN_MS + skew_ms + now / 1_000),
                    None => brain,
                }
            })
            .collect();
        Machine {
            shards,
            links: BTreeMap::new(),
            origin: if now > 1 { now } else { 0 },
            incarnation,
            life: 0,
            running: true,
            frozen_until: vec![0; count],
            turn_at: vec![None; count],
            stalled: vec![false; count],
            lanes: (0..count)
                .map(|_| (0..count).map(|_| Lane::default()).collect())
                .collect(),
            moment: 0,
        }
    }

    /// The shard reads no link: it is frozen, or a batch of its waits for room.
    pub(super) fn reads_from(&self, shard: ShardId, now: Micros) -> Option<Micros> {
        let shard = usize::from(shard);
        if self.frozen_until[shard] > now {
            return Some(self.frozen_until[shard]);
        }
        self.stalled[shard].then_some(now + 200)
    }

    fn moment(&mut self) -> u64 {
        self.moment += 1;
        self.moment
    }
}

/// The configuration of a node.
fn config(plan: &Plan, node: usize) -> Config {
    let mut config = Config::embedded();
    if plan.nodes == 1 {
        return config;
    }
    let others = (1..if plan.mesh.full { plan.nodes } else { 2 }).map(|step| (node + step) % plan.nodes);
    let peers: String = others
        .map(|other| format!("<peer>{}</peer>", node_name(other)))
        .collect();
    let placement = if plan.mesh.spread { "spread" } else { "near" };
    let text = format!(
        "<router><mesh><node>{}</node><secret>a secret of the whole cluster</secret>{peers}\
         <domain placement='{placement}'>{DOMAIN}</domain></mesh></router>",
        node_name(node)
    );
    let file = |path: &Path| match path.ends_with("router.xml") {
        true => Ok(text.clone().into_bytes()),
        false => Err("not here".to_owned()),
    };
    let loaded = Config::parse(Path::new("/router.xml"), "host", &file);
    config.mesh = loaded.expect("the simulation's own configuration").config.mesh;
    config
}

impl World {
    /// To be called after every call of a brain.
    pub(super) fn act(&mut self, node: usize, shard: ShardId) {
        let mut actions = Vec::new();
        loop {
            self.machines[node].shards[usize::from(shard)].take_actions(&mut actions);
            if actions.is_empty() {
                break;
            }
            for action in actions.drain(..) {
                self.action(node, shard, action);
            }
        }
        let delay = self.rng.delay(150, 2_000);
        self.turn_by(node, usize::from(shard), self.now + delay);
    }

    /// A node's time of day, so to say: microseconds since its router was started.
    pub(super) fn clock(&self, node: usize) -> Micros {
        self.now - self.machines[node].origin
    }

    /// A shard, and its time.
    pub(super) fn brain(&mut self, node: usize, shard: ShardId) -> (&mut Shard, Micros) {
        let now = self.clock(node);
        (&mut self.machines[node].shards[usize::from(shard)], now)
    }

    fn conn_of(&self, node: usize, shard: ShardId, link: LinkId) -> Option<usize> {
        self.machines[node]
            .links
            .get(&(shard, link.slot, link.generation))
            .copied()
    }

    fn action(&mut self, node: usize, shard: ShardId, action: Action) {
        match action {
            Action::Output(link) => {
                if let Some(conn) = self.conn_of(node, shard, link) {
                    self.write_soon(conn);
                }
            }
            Action::Close(link) | Action::Abort(link) => {
                if let Some(conn) = self.conn_of(node, shard, link) {
                    self.begin_close(conn);
                }
            }
            Action::Pause(link) => {
                if let Some(conn) = self.conn_of(node, shard, link) {
                    self.conns[conn].paused = true;
                }
            }
            Action::Resume(link) => {
                if let Some(conn) = self.conn_of(node, shard, link) {
                    self.conns[conn].paused = false;
                    self.read_soon(conn);
                }
            }
            Action::Move { link, to, cargo } => {
                if let Some(conn) = self.conn_of(node, shard, link) {
                    self.begin_move(conn, to, cargo);
                }
            }
            Action::Probe(link) => {
                if let Some(conn) = self.conn_of(node, shard, link) {
                    let alive = self.is_acknowledged(conn);
                    let (brain, now) = self.brain(node, shard);
                    brain.probed(now, link, alive);
                }
            }
            Action::Log(line) => {
                // It says so when it goes on without an answer: late is worse than out of order. What an sm that did not
                // answer still has for this user may be stored then though he is online elsewhere.
                if let Some((bare, what)) = line.text.split_once(": ")
                    && what.ends_with("going on without")
                {
                    self.book.goes_on(bare);
                    if what.starts_with("no answer from the sm") {
                        self.book.impatient.insert(bare.to_owned());
                    }
                }
                if line.level == Level::Error || self.trace.is_some() {
                    self.note(|| match node {
                        0 => format!("shard {shard}: {}", line.text),
                        _ => format!("node {node} shard {shard}: {}", line.text),
                    });
                }
            }
            Action::Dial { link, host, port } => self.dial(node, shard, link, &host, port),
            Action::StartTls(_) | Action::StartTlsAsClient(_) | Action::Answer { .. } | Action::Append { .. } => {}
        }
    }

    pub(super) fn turn_by(&mut self, node: usize, shard: usize, at: Micros) {
        if self.machines[node].turn_at[shard].is_none_or(|already| at < already) {
            self.machines[node].turn_at[shard] = Some(at);
            self.at(at, Event::Turn(node, shard));
        }
    }

    pub(super) fn turn(&mut self, node: usize, shard: usize) {
        let turn_at = self.machines[node].turn_at.get(shard).copied().flatten();
        if !self.machines[node].running || turn_at.is_none_or(|at| at > self.now) {
            return;
        }
        self.machines[node].turn_at[shard] = None;
        if self.machines[node].frozen_until[shard] > self.now {
            return self.turn_by(node, shard, self.machines[node].frozen_until[shard]);
        }
        let (id, now) = (shard as ShardId, self.clock(node));
        let more = self.take_lanes(node, id);
        if self.machines[node].shards[shard].deadline().is_some_and(|at| at <= now) {
            self.machines[node].shards[shard].tick(now);
            self.act(node, id);
        }
        self.give_lanes(node, id);
        if let Some(at) = self.machines[node].shards[shard].deadline() {
            self.turn_by(node, shard, at + self.machines[node].origin);
        }
        if more || self.machines[node].stalled[shard] {
            let delay = self.rng.between(20, 300);
            self.turn_by(node, shard, self.now + delay);
        }
    }

    /// True when something was left in the lanes.
    fn take_lanes(&mut self, node: usize, to: ShardId) -> bool {
        let last = self.machines[node].moment;
        let (whole, mut left) = (self.rng.chance(70), false);
        let mut sources: Vec<usize> = (0..self.machines[node].shards.len()).collect();
        for at in (1..sources.len()).rev() {
            sources.swap(at, self.rng.index(at + 1));
        }
        // Data up to some moment of each lane; control up to a moment that is not earlier than any of them.
        let mut data = Vec::new();
        let mut seen = 0;
        for from in &sources {
            let until = if whole {
                last
            } else {
                self.rng.between(last.saturating_sub(12), last)
            };
            seen = seen.max(until);
            let lane = &mut self.machines[node].lanes[*from][usize::from(to)].data;
            while lane.front().is_some_and(|(moment, _)| *moment <= until) {
                let Some((_, batch)) = lane.pop_front() else { break };
                data.push((*from as ShardId, batch));
            }
            left |= !lane.is_empty();
        }
        let until = self.rng.between(seen, last);
        let mut control = Vec::new();
        for from in &sources {
            loop {
                let lane = &mut self.machines[node].lanes[*from][usize::from(to)].side;
                if lane.front().is_none_or(|(moment, _)| *moment > until) {
                    left |= !lane.is_empty();
                    break;
                }
                match lane.pop_front() {
                    Some((_, Side::Control(messages))) => control.push((*from as ShardId, messages)),
                    Some((_, Side::Link(handover))) => {
                        self.give_brain(node, to, &mut control, &mut Vec::new());
                        self.adopt(node, to, *handover);
                    }
                    None => break,
                }
            }
        }
        self.give_brain(node, to, &mut control, &mut data);
        left
    }

    fn give_brain(
        &mut self,
        node: usize,
        to: ShardId,
        control: &mut Vec<(ShardId, Vec<Control>)>,
        data: &mut Vec<(ShardId, DataBatch)>,
    ) {
        if !control.is_empty() || !data.is_empty() {
            let (brain, now) = self.brain(node, to);
            brain.lanes(now, control, data);
            control.clear();
            data.clear();
            self.act(node, to);
        }
    }

    /// Nothing is read, and what is between the shards of a node is handled until nothing is left.
    pub(super) fn bring_to_rest(&mut self, node: usize) {
        let shards = self.machines[node].shards.len();
        let full = |world: &World| {
            let mut lanes = world.machines[node].lanes.iter().flatten();
            lanes.any(|lane| !lane.data.is_empty() || !lane.side.is_empty())
        };
        loop {
            for shard in 0..shards {
                self.take_lanes(node, shard as ShardId);
                self.give_lanes(node, shard as ShardId);
            }
            let batches = |shard: &mut Shard| (0..shards).any(|to| shard.has_batch(to as ShardId));
            if !full(self) && !self.machines[node].shards.iter_mut().any(batches) {
                return;
            }
        }
    }

    fn give_control(&mut self, node: usize, from: ShardId) {
        for to in 0..self.machines[node].shards.len() {
            if to == usize::from(from) {
                continue;
            }
            let messages = self.machines[node].shards[usize::from(from)].take_control(to as ShardId);
            if !messages.is_empty() {
                let moment = self.machines[node].moment();
                let lane = &mut self.machines[node].lanes[usize::from(from)][to];
                lane.side.push_back((moment, Side::Control(messages)));
                self.wake(node, to);
            }
        }
    }

    fn wake(&mut self, node: usize, shard: usize) {
        let delay = self.rng.delay(self.plan.delay_us.min(500), self.plan.delay_us * 10);
        self.turn_by(node, shard, self.now + delay);
    }

    fn give_lanes(&mut self, node: usize, from: ShardId) {
        self.give_control(node, from);
        let mut stalled = false;
        for to in 0..self.machines[node].shards.len() {
            if to == usize::from(from) {
                continue;
            }
            let room =
                |world: &World| world.machines[node].lanes[usize::from(from)][to].data.len() < world.plan.lane_batches;
            if room(self)
                && let Some(batch) = self.machines[node].shards[usize::from(from)].take_data(to as ShardId)
            {
                let moment = self.machines[node].moment();
                self.machines[node].lanes[usize::from(from)][to]
                    .data
                    .push_back((moment, batch));
                self.wake(node, to);
            }
            stalled |= !room(self);
        }
        self.machines[node].stalled[usize::from(from)] = stalled;
    }

    fn begin_move(&mut self, conn: usize, to: ShardId, cargo: Box<Cargo>) {
        let it = &mut self.conns[conn];
        it.fate = Fate::Moving {
            to,
            cargo,
            broken: None,
        };
        it.moved_written = 0;
        if !it.writing {
            self.hand_over(conn);
        } else {
            self.write_soon(conn);
        }
    }

    /// A moving link whose write is done, or broken, leaves its shard.
    pub(super) fn hand_over(&mut self, conn: usize) {
        let it = &mut self.conns[conn];
        let Fate::Moving { to, cargo, broken } = std::mem::replace(&mut it.fate, Fate::Flying) else {
            return;
        };
        let Some((from, link)) = it.place.take() else { return };
        let node = it.node;
        let (chunk, written) = (std::mem::take(&mut it.chunk), it.written);
        it.writing = false;
        let handover = Box::new(Handover {
            conn,
            cargo,
            written: it.moved_written,
            broken: broken.map(|cause| (cause, chunk, written)),
        });
        self.machines[node].links.remove(&(from, link.slot, link.generation));
        self.give_control(node, from);
        let moment = self.machines[node].moment();
        let lane = &mut self.machines[node].lanes[usize::from(from)][usize::from(to)];
        lane.side.push_back((moment, Side::Link(handover)));
        self.wake(node, usize::from(to));
    }

    fn adopt(&mut self, node: usize, shard: ShardId, handover: Handover) {
        let Handover {
            conn,
            cargo,
            written,
            broken,
        } = handover;
        let (brain, now) = self.brain(node, shard);
        let link = brain.adopt(now, cargo);
        if written > 0 {
            brain.written(now, link, written);
        }
        let it = &mut self.conns[conn];
        it.place = Some((shard, link));
        it.fate = Fate::Serving;
        it.paused = false;
        self.machines[node]
            .links
            .insert((shard, link.slot, link.generation), conn);
        if let Some((cause, chunk, written)) = broken {
            let it = &mut self.conns[conn];
            it.writing = !chunk.is_empty();
            it.chunk = chunk;
            it.written = written;
            return self.router_gone(conn, cause);
        }
        self.act(node, shard);
        self.read_soon(conn);
        self.write_soon(conn);
    }
}
