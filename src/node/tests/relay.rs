//! Nodes with real transports over a network in memory, of which some pairs do not reach each other.

use crate::config::{Config, Mesh, Peer, Secret};
use crate::mesh::conn::Local;
use crate::node::Shard;
use crate::node::api::{Action, CloseCause, LinkId, Micros};
use crate::node::cluster::{Answer, Question};
use crate::node::counters::Counter;
use crate::node::report::{MeshReport, ProbeReport};
use crate::table::ShardId;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

pub(super) const NODES: [&str; 4] = ["a.test", "b.test", "c.test", "d.test"];
const STEP_US: Micros = 1_000;
const DELAY_US: Micros = 1_000;
const DIAL_US: Micros = 1_000_000;

/// One side of a socket: whose it is, and what is on its way to the other.
struct Side {
    end: Option<(usize, ShardId, LinkId)>,
    node: usize,
    sent: VecDeque<(Micros, Vec<u8>)>,
}

pub(super) struct Net {
    now: Micros,
    nodes: Vec<Vec<Shard>>,
    configs: Vec<Config>,
    sockets: Vec<[Side; 2]>,
    /// Dials that nobody answers: (when they fail, node, shard, link).
    silent: Vec<(Micros, usize, ShardId, LinkId)>,
    /// Pairs between which nothing passes, the smaller first.
    pub(super) cut: Vec<(usize, usize)>,
    /// Nodes whose process is dead, and whose machine says so to whoever dials.
    dead: Vec<usize>,
    answers: Vec<Answer>,
}

impl Net {
    pub(super) fn new(count: usize, shards: ShardId, cut: &[(usize, usize)]) -> Net {
        Net::knowing(count, shards, cut, |_, _| true)
    }

    /// Nodes whose configurations name each other only where `knows` says so.
    pub(super) fn knowing(
        count: usize,
        shards: ShardId,
        cut: &[(usize, usize)],
        knows: fn(usize, usize) -> bool,
    ) -> Net {
        let config = |n: usize| Config {
            mesh: Some(Mesh {
                node: NODES[n].into(),
                local: Vec::new(),
                secrets: vec![Secret("a secret of the tests".into())],
                peers: (0..count).filter(|of| *of != n && knows(n, *of)).map(peer).collect(),
                domains: Vec::new(),
                exit_pins: Vec::new(),
                exits: Default::default(),
                names: Vec::new(),
                cluster: "test".into(),
                plain_allowed: false,
            }),
            ..Config::embedded()
        };
        let configs: Vec<Config> = (0..count).map(config).collect();
        let mut net = Net {
            now: 1,
            nodes: Vec::new(),
            configs,
            sockets: Vec::new(),
            silent: Vec::new(),
            cut: cut.to_vec(),
            dead: Vec::new(),
            answers: Vec::new(),
        };
        net.nodes = (0..count).map(|node| net.process(node, shards, 0)).collect();
        net
    }

    /// A process of a node, in its first or a later life.
    fn process(&self, node: usize, shards: ShardId, life: u8) -> Vec<Shard> {
        let config = Arc::new(self.configs[node].clone());
        let incarnation = 1 + node as u64 + 100 * u64::from(life);
        let local = Arc::new(Local::new(config.mesh.as_ref().unwrap(), incarnation, 0));
        let shard = |id: ShardId| {
            let seed = [node as u8 * 16 + id as u8, life].repeat(16).try_into().unwrap();
            Shard::new(id, shards, config.clone(), seed).meshed(&local, 1_000_000)
        };
        (0..shards).map(shard).collect()
    }

    /// `kill -9`: its kernel closes all its sockets, and refuses others.
    fn kill(&mut self, node: usize) {
        self.dead.push(node);
        for side in self.sockets.iter_mut().flatten().filter(|side| side.node == node) {
            side.end = None;
        }
        for shard in &mut self.nodes[node] {
            *shard = Shard::new(0, 1, Arc::new(Config::embedded()), [0; 32]);
        }
    }

    /// A new process of a node that was killed.
    fn restart(&mut self, node: usize) {
        self.dead.retain(|dead| *dead != node);
        self.nodes[node] = self.process(node, self.nodes[node].len() as ShardId, 1);
    }

    /// SIGHUP at a node whose configuration was changed.
    pub(super) fn reload(&mut self, node: usize, change: impl FnOnce(&mut Mesh)) {
        let mesh = self.configs[node].mesh.as_mut().unwrap();
        change(mesh);
        let local = Arc::new(Local::new(mesh, 1 + node as u64, 0));
        let config = Arc::new(self.configs[node].clone());
        for shard in &mut self.nodes[node] {
            shard.renew_local(&local);
            shard.reload(self.now, config.clone());
        }
        self.settle(node);
    }

    fn is_cut(&self, a: usize, b: usize) -> bool {
        self.cut.contains(&(a.min(b), a.max(b)))
    }

    pub(super) fn run(&mut self, seconds: f64) {
        let until = self.now + (seconds * 1e6) as Micros;
        while self.now < until {
            self.now += STEP_US;
            self.step();
        }
    }

    fn step(&mut self) {
        let now = self.now;
        for (_, node, shard, link) in self.silent.extract_if(.., |dial| dial.0 <= now).collect::<Vec<_>>() {
            let cause = CloseCause::Error("connection timed out".into());
            self.nodes[node][usize::from(shard)].closed(now, link, cause, Vec::new(), 0);
        }
        for at in 0..self.sockets.len() {
            for side in 0..2 {
                self.deliver(at, side);
            }
        }
        self.sockets.retain(|sides| sides.iter().any(|side| side.end.is_some()));
        for node in 0..self.nodes.len() {
            for shard in &mut self.nodes[node] {
                if shard.deadline().is_some_and(|at| at <= now) {
                    shard.tick(now);
                }
            }
            self.settle(node);
        }
    }

    /// What one side of a socket sent arrives; behind the last of it, its end.
    fn deliver(&mut self, at: usize, side: usize) {
        let [one, other] = &self.sockets[at];
        if self.is_cut(one.node, other.node) {
            return;
        }
        loop {
            let now = self.now;
            let Some((node, shard, link)) = self.sockets[at][1 - side].end else {
                return;
            };
            let from = &mut self.sockets[at][side];
            let shard = &mut self.nodes[node][usize::from(shard)];
            match from.sent.front() {
                Some((when, _)) if *when > now => return,
                Some(_) => {
                    let (_, bytes) = from.sent.pop_front().unwrap();
                    shard.received(now, link, &bytes);
                }
                None if from.end.is_some() => return,
                None => {
                    self.sockets[at][1 - side].end = None;
                    shard.closed(now, link, CloseCause::Eof, Vec::new(), 0);
                }
            }
            self.settle(node);
        }
    }

    fn settle(&mut self, node: usize) {
        loop {
            let mut quiet = true;
            for id in 0..self.nodes[node].len() {
                let mut actions = Vec::new();
                self.nodes[node][id].take_actions(&mut actions);
                for action in actions {
                    quiet = false;
                    self.act(node, id as ShardId, action);
                }
            }
            for to in 0..self.nodes[node].len() {
                let (mut control, mut data) = (Vec::new(), Vec::new());
                for from in 0..self.nodes[node].len() {
                    data.extend(
                        self.nodes[node][from]
                            .take_data(to as ShardId)
                            .map(|batch| (from as ShardId, batch)),
                    );
                }
                for from in 0..self.nodes[node].len() {
                    control.push((from as ShardId, self.nodes[node][from].take_control(to as ShardId)));
                }
                control.retain(|(_, messages)| !messages.is_empty());
                if !control.is_empty() || !data.is_empty() {
                    quiet = false;
                    self.nodes[node][to].lanes(self.now, &mut control, &mut data);
                }
            }
            if quiet {
                return;
            }
        }
    }

    fn socket(&mut self, end: (usize, ShardId, LinkId)) -> Option<(usize, usize)> {
        let mut places = (0..self.sockets.len()).flat_map(|at| [(at, 0), (at, 1)]);
        places.find(|(at, side)| self.sockets[*at][*side].end == Some(end))
    }

    fn act(&mut self, node: usize, id: ShardId, action: Action) {
        let now = self.now;
        let shard = &mut self.nodes[node][usize::from(id)];
        match action {
            Action::Output(link) => {
                let mut bytes = Vec::new();
                shard.take_output(now, link, &mut bytes);
                shard.written(now, link, bytes.len());
                if let Some((at, side)) = self.socket((node, id, link)).filter(|_| !bytes.is_empty()) {
                    self.sockets[at][side].sent.push_back((now + DELAY_US, bytes));
                }
            }
            Action::Close(link) | Action::Abort(link) => {
                self.act(node, id, Action::Output(link));
                if let Some((at, side)) = self.socket((node, id, link)) {
                    self.sockets[at][side].end = None;
                    self.nodes[node][usize::from(id)].closed(now, link, CloseCause::Local, Vec::new(), 0);
                }
            }
            Action::Dial { link, host, .. } => {
                let to = NODES.iter().position(|name| **name == *host).unwrap();
                if self.is_cut(node, to) {
                    return self.silent.push((now + DIAL_US, node, id, link));
                }
                if self.dead.contains(&to) {
                    return self.nodes[node][usize::from(id)].closed(now, link, CloseCause::Refused, Vec::new(), 0);
                }
                let remote = SocketAddr::from(([10, 0, 0, to as u8], 5348));
                let there = self.nodes[to][0].opened_peer(now, remote);
                let side = |node, id, link| Side {
                    end: Some((node, id, link)),
                    node,
                    sent: VecDeque::new(),
                };
                self.sockets.push([side(node, id, link), side(to, 0, there)]);
                self.nodes[node][usize::from(id)].dialed(now, link, remote);
            }
            Action::Move { link, to, cargo } => {
                let (at, side) = self.socket((node, id, link)).unwrap();
                // What was said before the link went is heard before it comes.
                let mut said = vec![(id, self.nodes[node][usize::from(id)].take_control(to))];
                self.nodes[node][usize::from(to)].lanes(now, &mut said, &mut Vec::new());
                let new = self.nodes[node][usize::from(to)].adopt(now, cargo);
                self.sockets[at][side].end = Some((node, to, new));
                self.act(node, to, Action::Output(new));
            }
            Action::Answer { answer, .. } => self.answers.push(answer),
            Action::Log(line) => println!("{now:>9} {} {}", NODES[node], line.text),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn mesh(&self, node: usize, shard: usize) -> MeshReport {
        self.nodes[node][shard].report().mesh.unwrap()
    }

    /// State of a member, and by which nodes its two lanes go (empty: directly).
    pub(super) fn member(&self, node: usize, of: usize) -> (&'static str, Vec<String>) {
        let mut state = "unknown";
        let mut relays = Vec::new();
        for shard in 0..self.nodes[node].len() {
            let found = self
                .mesh(node, shard)
                .members
                .into_iter()
                .find(|member| member.name == NODES[of]);
            let Some(member) = found else { continue };
            state = member.state;
            let lanes = member.link.into_iter().flat_map(|link| link.lanes);
            relays.extend(lanes.map(|lane| lane.relay.unwrap_or_default()));
        }
        (state, relays)
    }

    pub(super) fn assert_members(&self, node: usize, of: usize, state: &str, relay: &str) {
        assert_eq!(
            self.member(node, of),
            (self.member(node, of).0, vec![relay.to_owned(); 2]),
            "{node} of {of}"
        );
        assert_eq!(self.member(node, of).0, state, "{node} of {of}");
    }

    /// The probes of all shards of a node.
    fn probes(&mut self, node: usize) -> Vec<ProbeReport> {
        self.answers.clear();
        for shard in 0..self.nodes[node].len() {
            self.nodes[node][shard].inquire(self.now, 1, Question::Probe);
            self.settle(node);
        }
        self.run(3.0);
        let answers = std::mem::take(&mut self.answers).into_iter();
        let probes = answers.flat_map(|answer| match answer {
            Answer::Probes(probes) => probes,
            other => panic!("{other:?}"),
        });
        probes.collect()
    }

    fn count(&self, node: usize, counter: Counter) -> u64 {
        self.nodes[node]
            .iter()
            .map(|shard| shard.report().counters.get(counter))
            .sum()
    }

    fn tunnels(&self) -> usize {
        self.nodes.iter().flatten().map(Shard::tunnels_open).sum()
    }
}

pub(super) fn peer(node: usize) -> Peer {
    Peer {
        host: NODES[node].to_owned(),
        port: 5348,
    }
}

#[test]
fn a_pair_that_is_cut_goes_on_through_the_third_until_it_is_healed() {
    for shards in [1, 2] {
        let mut net = Net::new(3, shards, &[]);
        net.run(3.0);
        for (node, of) in [(0, 1), (1, 0), (0, 2), (2, 1)] {
            net.assert_members(node, of, "ready", "");
        }
        net.cut = vec![(0, 1)];
        net.run(6.0);
        net.assert_members(0, 1, "ready", NODES[2]);
        net.assert_members(1, 0, "ready", NODES[2]);
        net.assert_members(0, 2, "ready", "");
        assert!(net.count(2, Counter::RelayedBytes) > 0);
        let probes = net.probes(0);
        assert!(probes.iter().all(|probe| probe.round_trip_us.is_some()), "{probes:?}");
        let home = |probe: &&ProbeReport| probe.from == NODES[1] && probe.to == NODES[0];
        let relays: Vec<_> = probes
            .iter()
            .filter(home)
            .filter_map(|probe| probe.relay.as_deref())
            .collect();
        assert_eq!(relays, vec![NODES[2]; usize::from(shards)], "{probes:?}");
        net.cut.clear();
        net.run(4.0);
        net.assert_members(0, 1, "ready", "");
        net.assert_members(1, 0, "ready", "");
        assert_eq!(net.tunnels(), 0);
    }
}

#[test]
fn one_address_is_enough_to_find_all() {
    let mut net = Net::knowing(4, 2, &[], |node, of| of + 1 == node);
    net.run(4.0);
    for node in 0..4 {
        for of in (0..4).filter(|of| *of != node) {
            net.assert_members(node, of, "ready", "");
        }
    }
}

#[test]
fn who_never_reached_each_other_do_so_through_the_third() {
    let mut net = Net::new(3, 2, &[(0, 1)]);
    net.run(5.0);
    net.assert_members(0, 1, "ready", NODES[2]);
    net.assert_members(1, 0, "ready", NODES[2]);
}

#[test]
fn a_relay_that_dies_is_replaced_by_another() {
    let mut net = Net::new(4, 2, &[(0, 1)]);
    net.run(5.0);
    let (_, relays) = net.member(0, 1);
    let lost = NODES.iter().position(|node| *node == relays[1]).unwrap();
    let other = 5 - lost;
    assert!(lost > 1, "{relays:?}");
    for node in [0, 1, other] {
        net.cut.push((node.min(lost), node.max(lost)));
    }
    net.run(15.0);
    net.assert_members(0, 1, "ready", NODES[other]);
    net.assert_members(1, 0, "ready", NODES[other]);
    assert_eq!(net.member(0, lost).0, "gone");
    assert_eq!(
        net.count(0, Counter::LinksClosed),
        0,
        "a node is no component, a dial in vain no link"
    );
    // And back: nothing is left of what went through it.
    net.cut.clear();
    net.run(8.0);
    for of in 1..4 {
        net.assert_members(0, of, "ready", "");
    }
    assert_eq!(net.tunnels(), 0);
}

/// The others' attempts to reach it through one another do not stand in the way of the new process.
#[test]
fn a_process_that_is_started_again_is_reached_at_once() {
    for (killed, dead_s) in [(0, 0.3), (1, 0.9), (2, 1.6), (1, 2.8)] {
        let mut net = Net::new(3, 1, &[]);
        net.run(2.0);
        net.kill(killed);
        net.run(dead_s);
        net.restart(killed);
        net.run(0.7);
        for of in (0..3).filter(|of| *of != killed) {
            net.assert_members(killed, of, "ready", "");
            net.assert_members(of, killed, "ready", "");
        }
    }
}

/// a - c - d - b: one node between is the most.
#[test]
fn what_was_passed_on_is_not_passed_on_again() {
    let mut net = Net::new(4, 1, &[(0, 1), (0, 3), (1, 2)]);
    net.run(20.0);
    net.assert_members(0, 3, "ready", NODES[2]);
    net.assert_members(1, 2, "ready", NODES[3]);
    assert_ne!(net.member(0, 1).0, "ready");
    let refused = (0..4).map(|node| net.count(node, Counter::RelayRefused)).sum::<u64>();
    assert!((1..200).contains(&refused), "{refused} in 20 s");
    assert!(net.tunnels() <= 16, "{} tunnels", net.tunnels());
}
