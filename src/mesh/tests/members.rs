//! Membership of 3 to 64 nodes over a network that loses, cuts and heals: how fast, and by itself.

use super::super::Micros;
use super::super::hello::Address;
use super::super::members::{HEARD_US, MemberEvent, MemberState, Members};
use super::super::peer::{HEARTBEAT_US, Loss, STALL_US};
use std::collections::BTreeSet;

const STEP_US: Micros = 2_000;
const DELAY_US: Micros = 2_000;
const GRACE_US: Micros = 9_000_000;

struct Cluster {
    now: Micros,
    nodes: Vec<Option<Members>>,
    packets: Vec<(Micros, usize, usize, Vec<u8>)>,
    /// Who cannot hear whom: (from, to).
    cut: BTreeSet<(usize, usize)>,
    /// When a connection is known to be of no use: (when, whose, to whom).
    losses: Vec<(Micros, usize, usize)>,
    incarnations: Vec<u64>,
    seed: u64,
    sent: usize,
    /// Lines of nodes that heard that they are believed dead.
    back: usize,
}

fn name(node: usize) -> String {
    format!("n{node}.test")
}

fn addresses(node: usize) -> Vec<Address> {
    vec![Address {
        host: name(node),
        port: 5348,
    }]
}

impl Cluster {
    /// All are connected to all, as their peers' dials would do it.
    fn new(count: usize, seed: u64) -> Cluster {
        let mut cluster = Cluster {
            now: 0,
            nodes: (0..count).map(|_| None).collect(),
            packets: Vec::new(),
            cut: BTreeSet::new(),
            losses: Vec::new(),
            incarnations: vec![0; count],
            seed,
            sent: 0,
            back: 0,
        };
        for node in 0..count {
            cluster.start(node, 100 + node as u64);
        }
        cluster
    }

    fn start(&mut self, node: usize, incarnation: u64) {
        let seed = self.seed * 100 + node as u64 + incarnation;
        self.incarnations[node] = incarnation;
        self.nodes[node] = Some(Members::new(&name(node), incarnation, &addresses(node), GRACE_US, seed));
        for other in 0..self.nodes.len() {
            if other != node && self.nodes[other].is_some() {
                self.connect(node, other);
            }
        }
    }

    fn connect(&mut self, a: usize, b: usize) {
        for (this, that) in [(a, b), (b, a)] {
            let (now, incarnation) = (self.now, self.incarnations[that]);
            self.nodes[this]
                .as_mut()
                .unwrap()
                .peer_up(now, &name(that), incarnation, &addresses(that));
        }
    }

    fn run(&mut self, duration_us: Micros) {
        let end = self.now + duration_us;
        while self.now < end {
            self.step();
        }
    }

    /// Runs until `done`; how long it took.
    fn until(&mut self, limit_us: Micros, done: impl Fn(&Cluster) -> bool) -> Micros {
        let start = self.now;
        while !done(self) {
            self.step();
            assert!(self.now - start < limit_us, "not within {limit_us} us");
        }
        self.now - start
    }

    fn step(&mut self) {
        self.now += STEP_US;
        let now = self.now;
        for (_, node, of) in self.losses.extract_if(.., |loss| loss.0 <= now) {
            if let Some(members) = self.nodes[node].as_mut() {
                members.peer_lost(now, &name(of), Loss::Silent);
            }
        }
        let due: Vec<_> = self.packets.extract_if(.., |packet| packet.0 <= now).collect();
        for (_, from, to, bytes) in due {
            if let Some(members) = self.nodes[to].as_mut().filter(|_| !self.cut.contains(&(from, to))) {
                members.received(now, &name(from), &bytes);
            }
        }
        for node in 0..self.nodes.len() {
            let Some(members) = self.nodes[node].as_mut() else {
                continue;
            };
            if members.deadline().is_some_and(|at| at <= now) {
                members.tick(now);
                assert!(members.deadline().is_none_or(|at| at > now));
            }
            while let Some(event) = members.poll() {
                match event {
                    MemberEvent::Send { to, bytes } => {
                        let to = (0..self.incarnations.len()).find(|index| *name(*index) == *to).unwrap();
                        self.packets.push((now + DELAY_US, node, to, bytes));
                        self.sent += 1;
                    }
                    MemberEvent::Log(_, text) => self.back += usize::from(text.contains("believed this node dead")),
                    _ => {}
                }
            }
        }
    }

    fn state(&self, node: usize, of: usize) -> Option<MemberState> {
        let members = self.nodes[node].as_ref().unwrap();
        members
            .iter()
            .find(|member| *member.node == *name(of))
            .map(|member| member.state)
    }

    fn is_whole(&self) -> bool {
        let alive = |node: usize, of: usize| self.state(node, of) == Some(MemberState::Alive);
        let all = 0..self.nodes.len();
        all.clone().all(|node| {
            self.nodes[node].is_none()
                || all
                    .clone()
                    .all(|of| of == node || self.nodes[of].is_none() || alive(node, of))
        })
    }

    fn all_say(&self, of: usize, state: MemberState) -> bool {
        (0..self.nodes.len())
            .filter(|node| *node != of)
            .all(|node| self.state(node, of) == Some(state))
    }

    fn cut_off(&mut self, group: &[usize]) {
        for inside in group {
            for outside in (0..self.nodes.len()).filter(|node| !group.contains(node)) {
                for pair in [(*inside, outside), (outside, *inside)] {
                    self.cut.insert(pair);
                    self.losses.push((self.now + HEARTBEAT_US + STALL_US, pair.0, pair.1));
                }
            }
        }
    }

    /// The cut is over, and the peers connect again a while later.
    fn heal(&mut self) {
        self.run(500_000);
        let cut = std::mem::take(&mut self.cut);
        for (a, b) in cut.into_iter().filter(|(a, b)| a < b) {
            self.connect(a, b);
        }
    }
}

#[test]
fn a_silent_node_is_dead_within_five_seconds() {
    for (count, seeds) in [(3, 20), (64, 2)] {
        let mut longest = 0;
        for seed in 0..seeds {
            let mut cluster = Cluster::new(count, seed);
            cluster.run(2_000_000 + seed * 77_000);
            assert!(cluster.is_whole(), "{count} nodes, seed {seed}");
            cluster.cut_off(&[1]);
            let start = cluster.now;
            while !(0..count)
                .filter(|node| *node != 1)
                .all(|node| cluster.state(node, 1) == Some(MemberState::Dead))
            {
                cluster.step();
                assert!(
                    cluster.now - start <= 5_200_000,
                    "{count} nodes, seed {seed}: not within 5 s"
                );
            }
            longest = longest.max(cluster.now - start);
        }
        println!("{count} nodes: dead after {} ms at the latest", longest / 1000);
    }
}

#[test]
fn after_a_partition_all_are_back_by_themselves() {
    for count in [3, 16] {
        let mut cluster = Cluster::new(count, 5);
        cluster.run(2_000_000);
        let group: Vec<usize> = (0..count / 2).collect();
        cluster.cut_off(&group);
        cluster.run(60_000_000);
        assert_eq!(cluster.state(0, count - 1), Some(MemberState::Dead));
        cluster.heal();
        let took = cluster.until(3_000_000, Cluster::is_whole);
        println!("{count} nodes: whole again {} ms after the connections", took / 1000);
    }
}

/// After a healing each side brings its verdicts along, and they are no news to those who see each other.
#[test]
fn nobody_is_dead_for_whom_it_is_connected_to() {
    for seed in 0..10 {
        let mut cluster = Cluster::new(4, 40 + seed);
        cluster.run(2_000_000);
        cluster.cut_off(&[0]);
        cluster.run(10_000_000);
        assert_eq!(cluster.state(0, 1), Some(MemberState::Dead));
        let cut = std::mem::take(&mut cluster.cut);
        cluster.connect(0, 1);
        cluster.cut = cut
            .into_iter()
            .filter(|pair| *pair != (0, 1) && *pair != (1, 0))
            .collect();
        for _ in 0..2_000 {
            cluster.step();
            for (node, of) in [(1, 2), (2, 1), (1, 3), (3, 1), (2, 3), (3, 2)] {
                let state = cluster.state(node, of);
                assert_ne!(state, Some(MemberState::Dead), "seed {seed}: {of} for {node}");
            }
        }
        cluster.heal();
        cluster.until(3_000_000, Cluster::is_whole);
    }
}

#[test]
fn one_way_silence_is_refuted_through_others() {
    let mut cluster = Cluster::new(5, 6);
    cluster.run(2_000_000);
    cluster.cut.insert((1, 0));
    cluster.run(10_000_000);
    assert!(matches!(
        cluster.state(0, 1),
        Some(MemberState::Alive | MemberState::Suspect)
    ));
    assert_eq!(cluster.state(2, 1), Some(MemberState::Alive));
}

/// A suspicion that was refuted in time has no consequence, also when its time is over.
#[test]
fn a_refuted_suspicion_is_over() {
    let mut cluster = Cluster::new(2, 12);
    cluster.run(2_000_000);
    cluster.cut.insert((1, 0));
    cluster.until(2_000_000, |cluster| cluster.state(0, 1) == Some(MemberState::Suspect));
    cluster.cut.clear();
    cluster.until(1_000_000, Cluster::is_whole);
    cluster.run(10_000_000);
    assert_eq!(cluster.back, 0, "nobody was declared dead");
    cluster.cut_off(&[1]);
    cluster.run(10_000_000);
    cluster.heal();
    cluster.until(3_000_000, Cluster::is_whole);
    assert!(cluster.back > 0, "and this is how it would have shown");
}

/// No packet gets through, and something else does.
#[test]
fn who_is_heard_of_is_not_dead() {
    let mut cluster = Cluster::new(3, 11);
    cluster.run(2_000_000);
    cluster.cut_off(&[1]);
    for _ in 0..8 {
        let now = cluster.now;
        let members = cluster.nodes[0].as_mut().unwrap();
        members.peer_heard(now, &name(1), 101, now);
        members.peer_heard(now, &name(2), 7, now + 60_000_000);
        cluster.run(2_000_000);
        assert_ne!(cluster.state(0, 1), Some(MemberState::Dead));
    }
    assert_eq!(cluster.state(2, 1), Some(MemberState::Dead));
    cluster.run(HEARD_US - 2_000_000);
    assert_eq!(cluster.state(0, 1), Some(MemberState::Dead));
}

#[test]
fn a_lost_process_is_waited_for() {
    let mut cluster = Cluster::new(3, 7);
    cluster.run(2_000_000);
    cluster.nodes[1] = None;
    let until = cluster.now + GRACE_US;
    for node in [0, 2] {
        let now = cluster.now;
        cluster.nodes[node]
            .as_mut()
            .unwrap()
            .peer_lost(now, &name(1), Loss::Process);
    }
    cluster.run(GRACE_US - 100_000);
    assert!(
        cluster.all_say(1, MemberState::ProcessLost { until }),
        "{:?}",
        cluster.state(0, 1)
    );
    cluster.run(200_000);
    assert!(cluster.all_say(1, MemberState::Dead));
    // A new life of it, as often as it likes.
    for incarnation in 500..504 {
        cluster.start(1, incarnation);
        cluster.until(2_000_000, |cluster| cluster.is_whole());
        let members = cluster.nodes[0].as_ref().unwrap();
        assert!(members.iter().any(|member| member.incarnation == incarnation));
        cluster.nodes[1] = None;
        cluster.run(1_000_000 * (incarnation - 499));
    }
}

#[test]
fn members_are_learnt_from_members() {
    let mut cluster = Cluster::new(4, 8);
    cluster.nodes.push(None);
    cluster.incarnations.push(0);
    cluster.run(1_000_000);
    let now = cluster.now;
    let mut fresh = Members::new(&name(4), 900, &addresses(4), GRACE_US, 1);
    fresh.peer_up(now, &name(2), 102, &addresses(2));
    cluster.nodes[4] = Some(fresh);
    cluster.incarnations[4] = 900;
    cluster.until(2_000_000, |cluster| {
        (0..4).all(|node| cluster.state(node, 4) == Some(MemberState::Alive) && cluster.state(4, node).is_some())
    });
    let learnt: Vec<String> = cluster.nodes[4]
        .as_ref()
        .unwrap()
        .iter()
        .map(|member| member.addresses[0].to_string())
        .collect();
    assert_eq!(learnt, ["n0.test:5348", "n1.test:5348", "n2.test:5348", "n3.test:5348"]);
}

#[test]
fn quiet_members_say_little() {
    let mut cluster = Cluster::new(64, 9);
    cluster.run(10_000_000);
    assert!(cluster.is_whole());
    cluster.sent = 0;
    cluster.run(10_000_000);
    let rate = cluster.sent as f64 / 10.0 / 64.0;
    println!("64 nodes: {rate:.1} packets a second and node");
    assert!(rate < 12.0, "{rate} packets a second and node");
}

#[test]
fn strangers_and_garbage_change_nothing() {
    let mut cluster = Cluster::new(3, 10);
    cluster.run(1_000_000);
    let now = cluster.now;
    let members = cluster.nodes[0].as_mut().unwrap();
    for bytes in [&[][..], &[0], &[0, 1, 2, 3], &[1, 2], &[9; 40]] {
        members.received(now, &name(1), bytes);
    }
    cluster.run(2_000_000);
    assert!(cluster.is_whole());
}
