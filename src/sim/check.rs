//! What must hold: at every step, and at quiet points.

use super::book::NOBODY;
use super::lanes::Machine;
use super::part::Body;
use super::people::State;
use super::plan::Fault;
use super::sm::Session;
use super::text::{ROUTER, bare, name_everywhere, node_name};
use super::world::{Broken, World};
use crate::node::counters::{Counter, Counters};
use crate::node::report::{MemberReport, ShardReport};
use std::collections::{BTreeMap, BTreeSet};

/// A session as its c2s or its sm sees it: JID, c2s, number, sm-side id, sm.
type Seen = (String, String, u32, String, String);

impl World {
    /// At each `start`: no other sm that the router can reach holds a session of this user.
    pub(super) fn check_single_sm(&mut self, part: usize, user: &str) {
        let node = self.parts[part].node;
        let other = self.parts.iter().enumerate().find_map(|(at, it)| match &it.body {
            Body::Sm(sm) if at != part && self.is_linked(it) && self.reaches(node, it.node) => sm
                .sessions
                .values()
                .find(|session| bare(&session.jid) == user && session.c2s != ROUTER)
                .map(|session| format!("{session:?} at {}", it.name)),
            _ => None,
        });
        if let Some(other) = other {
            let name = self.parts[part].name.clone();
            self.fail(format!("two sm for {user}: a start at {name}, and {other}"));
        }
    }

    /// A quiet point.
    pub(super) fn check(&mut self) -> Result<(), Broken> {
        let report = |machine: &Machine| machine.shards.iter().map(|shard| shard.report()).collect();
        let reports: Vec<Vec<ShardReport>> = self.machines.iter().map(report).collect();
        for (node, reports) in reports.iter().enumerate() {
            self.check_rest(node, reports);
        }
        self.check_tables(&reports);
        self.check_clients();
        self.check_sessions(&reports);
        self.check_messages(&reports);
        self.check_pictures();
        if self.wrong.is_empty() { Ok(()) } else { Err(Broken) }
    }

    /// At a node nothing waits, and everybody is there.
    fn check_rest(&mut self, node: usize, reports: &[ShardReport]) {
        let sum = |of: fn(&ShardReport) -> u64| reports.iter().map(of).sum::<u64>();
        for (what, amount) in [
            ("bytes held", sum(|report| report.held_bytes)),
            ("users waiting", sum(|report| report.starts_pending)),
            ("links negotiating", sum(|report| report.links_negotiating)),
            (
                "bytes queued",
                sum(|report| report.seats.iter().map(|seat| seat.queue_bytes).sum()),
            ),
        ] {
            if amount != 0 {
                self.fail(format!("at rest: {amount} {what}"));
            }
        }
        let seats: usize = reports.iter().map(|report| report.seats.len()).sum();
        let of_node = || self.parts.iter().filter(|part| part.node == node);
        let alive = of_node().filter(|part| part.running).count();
        let online = of_node().filter(|part| part.online).count();
        if (seats, online) != (alive, alive) {
            self.fail(format!("{alive} components, {online} of them online, {seats} seats"));
        }
        for report in reports {
            let names: BTreeSet<&str> = report.names.iter().map(|name| &*name.name).collect();
            let first: BTreeSet<&str> = reports[0].names.iter().map(|name| &*name.name).collect();
            if names != first {
                self.fail(format!("shards know different names: {names:?} and {first:?}"));
            }
        }
    }

    /// P5: each node knows of each other all its components and all users that it serves.
    fn check_tables(&mut self, reports: &[Vec<ShardReport>]) {
        let mut wrong = Vec::new();
        for (node, reports) in reports.iter().enumerate() {
            for other in (0..self.plan.nodes).filter(|other| *other != node) {
                let name = node_name(other);
                let members = reports
                    .iter()
                    .flat_map(|report| &report.mesh)
                    .flat_map(|mesh| &mesh.members);
                let views: Vec<&MemberReport> = members.filter(|member| member.name == name).collect();
                let parts = || self.parts.iter().filter(|part| part.node == other);
                let seats = parts().filter(|part| part.online).count() as u64;
                let users: BTreeSet<&str> = parts()
                    .filter_map(|part| match &part.body {
                        Body::Sm(sm) => Some(sm),
                        _ => None,
                    })
                    .flat_map(|sm| sm.sessions.values())
                    .map(|session| bare(&session.jid))
                    .collect();
                let rows: u64 = views.iter().map(|view| view.rows).sum();
                let whole = views.iter().all(|view| (view.state, view.seats) == ("ready", seats));
                if !whole || rows != users.len() as u64 {
                    wrong.push(format!(
                        "P5: node {node} of node {other}: {views:?}, which has {seats} components and {users:?}"
                    ));
                }
            }
        }
        self.wrong.append(&mut wrong);
    }

    /// Nobody waits for a session, and each is answered.
    fn check_clients(&mut self) {
        let late: Vec<String> = (0..self.clients.len())
            .filter_map(|client| {
                let it = &self.clients[client];
                match &it.state {
                    State::Waits { id } if !self.book.is_excused_start(id) => {
                        Some(format!("client {client} ({}) waits for its session", it.jid))
                    }
                    State::On { .. } if it.asked.is_some_and(|at| at + 15_000_000 < self.now) => {
                        Some(format!("client {client} ({}) gets no answers", it.jid))
                    }
                    _ => None,
                }
            })
            .collect();
        late.into_iter().for_each(|what| self.fail(what));
    }

    fn check_sessions(&mut self, reports: &[Vec<ShardReport>]) {
        let mut at_c2s: BTreeSet<Seen> = BTreeSet::new();
        for it in &self.clients {
            if let State::On { token, sm } = &it.state {
                let c2s = &self.parts[it.c2s];
                let (c2s, sm) = (name_everywhere(c2s.node, &c2s.name), name_everywhere(c2s.node, sm));
                at_c2s.insert((it.jid.clone(), c2s, it.number, token.clone(), sm));
            }
        }
        let mut at_sm: BTreeSet<Seen> = BTreeSet::new();
        for part in &self.parts {
            if let Body::Sm(sm) = &part.body {
                at_sm.extend(sm.sessions.iter().map(|(token, s)| {
                    let (c2s, sm) = (
                        name_everywhere(part.node, &s.c2s),
                        name_everywhere(part.node, &part.name),
                    );
                    (s.jid.clone(), c2s, s.number, token.clone(), sm)
                }));
            }
        }
        for zombie in at_c2s.difference(&at_sm) {
            let what = format!("zombie, unknown to its sm: {zombie:?}");
            self.wrong.push(what);
        }
        for ghost in at_sm.difference(&at_c2s) {
            let what = format!("ghost, unknown to its c2s: {ghost:?}");
            self.wrong.push(what);
        }
        let known: u64 = reports.iter().flatten().map(|report| report.sessions).sum();
        if known != at_c2s.len() as u64 {
            self.fail(format!("jidmesh knows {known} sessions, c2s {}", at_c2s.len()));
        }
        let mut per_c2s: BTreeMap<&str, u64> = BTreeMap::new();
        at_c2s.iter().for_each(|seen| *per_c2s.entry(&seen.1).or_default() += 1);
        let mut wrong = Vec::new();
        for (node, reports) in reports.iter().enumerate() {
            let seats = reports.iter().flat_map(|report| &report.seats);
            for seat in seats.filter(|seat| seat.kind == "c2s") {
                let name = name_everywhere(node, &seat.id);
                let clients = per_c2s.get(&*name).copied().unwrap_or(0);
                if seat.sessions != clients {
                    wrong.push(format!("{name} has {clients} clients, its seat {}", seat.sessions));
                }
            }
        }
        self.wrong.append(&mut wrong);
        let available: u64 = reports.iter().flatten().map(|report| report.sessions_available).sum();
        let online = self.sm_sessions().filter(|session| session.available).count() as u64;
        if available != online && !self.book.lost_change {
            self.fail(format!("jidmesh counts {available} available sessions, sm {online}"));
        }
    }

    fn sm_sessions(&self) -> impl Iterator<Item = &Session> {
        self.parts
            .iter()
            .filter_map(|part| match &part.body {
                Body::Sm(sm) => Some(sm),
                _ => None,
            })
            .flat_map(|sm| sm.sessions.values())
    }

    /// Every message is delivered, or stored, or its sender knows; or it was inside something that broke. One that a node
    /// gave to another that it then held for dead is counted at least: word of it may not reach its sender either.
    fn check_messages(&mut self, reports: &[Vec<ShardReport>]) {
        let counted = |report: &ShardReport| report.counters.get(Counter::InDoubt);
        let mut in_doubt: u64 = reports.iter().flatten().map(counted).sum();
        let mut stored: BTreeMap<usize, usize> = BTreeMap::new();
        let mut wrong = Vec::new();
        for (owner, queue) in &self.database.queues {
            let reachable = self.sm_sessions().any(|s| s.available && bare(&s.jid) == owner);
            for it in queue {
                *stored.entry(it.number).or_default() += 1;
                if reachable && !self.book.impatient.contains(owner) && !self.book.messages[it.number].doubtful {
                    wrong.push(format!("P2: message {} is stored though {owner} is online", it.number));
                }
            }
        }
        for (number, message) in self.book.messages.iter().enumerate() {
            let copies = stored.get(&number).copied().unwrap_or(0);
            let twice = copies > 1 || (copies == 1 && !message.delivered.is_empty() && !self.plan.equal);
            if twice && !message.doubtful {
                wrong.push(format!(
                    "P2: message {number} is stored {copies} times and delivered: {message:?}"
                ));
            }
            let excused = message.lost || message.bounced || message.missed || self.book.is_nobodys(message);
            if copies == 0 && message.delivered.is_empty() && !excused {
                if message.doubtful && in_doubt > 0 {
                    in_doubt -= 1;
                    continue;
                }
                wrong.push(format!("P2: message {number} is lost: {message:?}"));
            }
            let calm = self.plan.faults.is_empty() && self.plan.mesh.faults.is_empty();
            let reason = calm && message.to != NOBODY;
            if message.bounced && reason {
                wrong.push(format!("message {number} came back without a fault: {message:?}"));
            }
        }
        wrong.truncate(5);
        self.wrong.append(&mut wrong);
    }

    /// What clients were told of their contacts is what is true.
    fn check_pictures(&mut self) {
        let truth: BTreeSet<String> = self
            .sm_sessions()
            .filter(|s| s.available)
            .map(|s| s.jid.clone())
            .collect();
        let mut wrong = Vec::new();
        for (at, it) in self.clients.iter().enumerate() {
            // Its sm knows of its last becoming available: what it says on that was not lost.
            let heard = |s: &Session| s.available && (&s.jid, s.occasion) == (&it.jid, it.occasion);
            if !matches!(it.state, State::On { .. }) || !it.available || !self.sm_sessions().any(heard) {
                continue;
            }
            let contact = |jid: &&String| **jid != it.jid;
            let expected: BTreeSet<String> = truth.iter().filter(contact).cloned().collect();
            let seen: BTreeSet<String> = it.picture.iter().filter(|jid| **jid != it.jid).cloned().collect();
            for jid in expected.symmetric_difference(&seen) {
                if !self.book.is_blind(bare(&it.jid), bare(jid), it.available_since) {
                    let online = truth.contains(jid);
                    wrong.push(format!(
                        "client {at} ({}) is wrong about {jid}, who is online: {online}",
                        it.jid
                    ));
                }
            }
        }
        wrong.truncate(5);
        self.wrong.append(&mut wrong);
    }

    /// Everybody has gone home.
    pub(super) fn check_empty(&mut self) -> Result<(), Broken> {
        let mut sum = Counters::default();
        let (mut users, mut sessions) = (0, 0);
        for shard in self.machines.iter().flat_map(|machine| &machine.shards) {
            let report = shard.report();
            sum.merge(&report.counters);
            users += report.users;
            sessions += report.sessions;
        }
        if users + sessions != 0 {
            self.fail(format!(
                "all have gone, but {users} users and {sessions} sessions are left"
            ));
        }
        let (began, ended) = (sum.get(Counter::SessionsStarted), sum.get(Counter::SessionsEnded));
        if began != ended && !self.routers_died {
            self.fail(format!("{began} sessions began, {ended} ended"));
        }
        if self.plan.faults.iter().all(|fault| *fault == Fault::FreezeShard) && self.plan.mesh.faults.is_empty() {
            for counter in [Counter::LinksLost, Counter::ZombiesCleared, Counter::BadInput] {
                if sum.get(counter) != 0 {
                    self.fail(format!("without a fault: {counter:?} is {}", sum.get(counter)));
                }
            }
            let (cleared, left) = (sum.get(Counter::GhostsCleared), self.book.ghosts);
            if cleared > left {
                self.fail(format!("without a fault: {cleared} ghosts cleared, {left} left behind"));
            }
        }
        if self.wrong.is_empty() { Ok(()) } else { Err(Broken) }
    }
}
