//! Several nodes whose messages are carried by hand.

use super::world::{End, SESS, World, control, from_client, message, route, start, started};
use crate::config::Mesh;
use crate::mesh::peer::Seen;
use crate::node::cluster::{ANSWER_US, Answer, Question};
use crate::node::counters::Counter;
use crate::node::report::WhereReport;
use crate::table::PeerId;

const NODES: [&str; 3] = ["a.test", "b.test", "c.test"];
const DOMAIN: &str = "example.net";

pub(super) fn token(n: u32) -> String {
    format!("{n:040x}")
}

pub(super) fn node(n: usize, shards: u16) -> World {
    World::with(shards, |config| config.mesh = Some(mesh(NODES[n])))
}

pub(super) fn mesh(node: &str) -> Mesh {
    Mesh {
        node: node.into(),
        local: Vec::new(),
        secrets: Vec::new(),
        peers: Vec::new(),
        domains: Vec::new(),
        exit_pins: Vec::new(),
        exits: Default::default(),
        names: Vec::new(),
        cluster: String::new(),
        plain_allowed: false,
    }
}

pub(super) fn components(world: &mut World, n: usize) -> [End; 3] {
    let names: [&[&str]; 3] = [&["sm", "*example.net"], &["c2s"], &[&format!("peer{n}")]];
    names.map(|names| world.component(names))
}

/// Each node with one sm and one c2s, both with the stock ids, and one component to send from.
pub(super) struct Site {
    pub(super) nodes: Vec<World>,
    pub(super) sm: Vec<End>,
    pub(super) c2s: Vec<End>,
    pub(super) peer: Vec<End>,
    /// Messages between nodes stay under way.
    pub(super) cut: Vec<(usize, usize)>,
    kept: Vec<(usize, usize, crate::node::cluster::Lane, Vec<u8>)>,
}

impl Site {
    pub(super) fn new(count: usize, shards: u16) -> Site {
        let nodes = (0..count).map(|n| node(n, shards)).collect();
        let mut site = Site {
            nodes,
            sm: Vec::new(),
            c2s: Vec::new(),
            peer: Vec::new(),
            cut: Vec::new(),
            kept: Vec::new(),
        };
        for n in 0..count {
            let [sm, c2s, peer] = components(&mut site.nodes[n], n);
            site.sm.push(sm);
            site.c2s.push(c2s);
            site.peer.push(peer);
        }
        for a in 0..count {
            for b in 0..a {
                site.connect(a, b);
            }
        }
        // Each c2s shows what it is.
        for n in 0..count {
            let user = format!("warm{n}@{DOMAIN}/r");
            site.send_c2s(n, DOMAIN, &start(90, &user, "warm"));
            let sm = site.who_got("action='start'");
            assert_eq!(sm, [n]);
            site.drain();
            site.send_sm(n, "c2s", &started(90, &user, "warm", &token(9_000)));
            let end = control("end", 90, &token(9_000));
            site.send_c2s(n, "sm", &end);
            site.send_sm(n, "c2s", &control("ended", 90, &token(9_000)));
            site.answer_fences();
        }
        site.drain();
        site
    }

    pub(super) fn connect(&mut self, a: usize, b: usize) {
        for (here, there) in [(a, b), (b, a)] {
            let world = &mut self.nodes[here];
            let peer = world.shards[0].peer_known(world.now, NODES[there]).unwrap();
            world.rest();
            let home = usize::from(world.shards[0].home_of(peer));
            world.shards[home].peer_joined(world.now, peer);
        }
        self.carry();
    }

    /// Node `n` is another process; its components are the same as before. Node 0 has given the former one up.
    pub(super) fn restart(&mut self, n: usize, shards: u16) {
        self.nodes[n] = node(n, shards);
        let (number, home) = self.peer(0, n);
        self.nodes[0].shards[home].peer_reborn(number);
        self.connect(0, n);
        [self.sm[n], self.c2s[n], self.peer[n]] = components(&mut self.nodes[n], n);
        self.carry();
    }

    /// Nodes 0 and 1 hold one another for dead, and then reach one another again; they have not spoken yet.
    fn parts_and_heals(&mut self) {
        self.cut.extend([(0, 1), (1, 0)]);
        for (here, there) in [(0, 1), (1, 0)] {
            self.dies(here, there);
        }
        self.kept.clear();
        self.cut.clear();
    }

    /// Node `there` is dead, as node `here` sees it, and cannot have seen what is still under way.
    pub(super) fn dies(&mut self, here: usize, there: usize) {
        self.dies_having(Seen::Never, here, there);
    }

    fn dies_having(&mut self, seen: Seen, here: usize, there: usize) {
        let (number, home) = self.peer(here, there);
        let lost: Vec<(Seen, Vec<u8>)> = self
            .kept
            .extract_if(.., |(from, to, ..)| (*from, *to) == (here, there))
            .filter(|(_, _, lane, _)| *lane == crate::node::cluster::Lane::Data)
            .map(|(.., bytes)| (seen, bytes))
            .collect();
        let world = &mut self.nodes[here];
        world.shards[home].peer_gone(world.now, number, &lost);
        self.carry();
    }

    /// Nothing gets through to node `there`, as node `here` sees it.
    pub(super) fn stalls(&mut self, here: usize, there: usize) {
        self.cut.extend([(here, there), (there, here)]);
        self.seems_stalled(here, there, true);
    }

    /// Node `here` believes that nothing gets through to node `there`, or that it does again.
    pub(super) fn seems_stalled(&mut self, here: usize, there: usize, stalled: bool) {
        let (number, home) = self.peer(here, there);
        let world = &mut self.nodes[here];
        world.shards[home].peer_stalled(world.now, number, stalled);
        self.carry();
    }

    /// All that was kept between these two gets through after all.
    pub(super) fn gets_through(&mut self, here: usize, there: usize) {
        self.heal(there, here);
        self.heal(here, there);
        self.seems_stalled(here, there, false);
    }

    pub(super) fn peer(&mut self, here: usize, there: usize) -> (PeerId, usize) {
        let world = &mut self.nodes[here];
        let peer = world.shards[0].peer_known(world.now, NODES[there]).unwrap();
        (peer, usize::from(world.shards[0].home_of(peer)))
    }

    /// Carries everything everywhere.
    pub(super) fn carry(&mut self) {
        for _ in 0..1_000 {
            let mut quiet = true;
            for from in 0..self.nodes.len() {
                self.nodes[from].rest();
                for shard in 0..self.nodes[from].shards.len() {
                    while let Some((peer, lane, bytes)) = self.nodes[from].shards[shard].take_posted() {
                        quiet = false;
                        let name = self.nodes[from].shards[shard].peer_name(peer).to_owned();
                        let to = NODES.iter().position(|node| *node == name).unwrap();
                        if self.cut.contains(&(from, to)) {
                            self.kept.push((from, to, lane, bytes));
                            continue;
                        }
                        let (number, home) = self.peer(to, from);
                        let world = &mut self.nodes[to];
                        world.shards[home].peer_message(world.now, number, lane, &bytes);
                        world.rest();
                    }
                }
            }
            if quiet {
                return;
            }
        }
        panic!("the nodes never come to rest");
    }

    pub(super) fn heal(&mut self, from: usize, to: usize) {
        self.cut.retain(|pair| *pair != (from, to));
        for (f, t, lane, bytes) in std::mem::take(&mut self.kept) {
            if (f, t) != (from, to) {
                self.kept.push((f, t, lane, bytes));
                continue;
            }
            let (number, home) = self.peer(to, from);
            let world = &mut self.nodes[to];
            world.shards[home].peer_message(world.now, number, lane, &bytes);
            world.rest();
        }
        self.carry();
    }

    pub(super) fn send_c2s(&mut self, n: usize, to: &str, payload: &str) {
        self.nodes[n].send(self.c2s[n], &route("c2s", to, payload));
        self.carry();
    }

    pub(super) fn send_sm(&mut self, n: usize, to: &str, payload: &str) {
        self.nodes[n].send(self.sm[n], &route("sm", to, payload));
        self.carry();
    }

    /// Component `peer` of node `n` sends a user a message.
    pub(super) fn say(&mut self, n: usize, user: &str, body: &str) {
        let from = format!("peer{n}");
        let payload = message(&format!("x@{from}"), user, body);
        self.nodes[n].send(self.peer[n], &route(&from, DOMAIN, &payload));
        self.carry();
    }

    pub(super) fn drain(&mut self) {
        for n in 0..self.nodes.len() {
            for end in [self.sm[n], self.c2s[n], self.peer[n]] {
                self.nodes[n].take(end);
            }
        }
    }

    pub(super) fn took_sm(&mut self, n: usize) -> String {
        self.nodes[n].take(self.sm[n])
    }

    pub(super) fn took_c2s(&mut self, n: usize) -> String {
        self.nodes[n].take(self.c2s[n])
    }

    /// The nodes whose sm has something with this text to read; what it read is gone.
    pub(super) fn who_got(&mut self, text: &str) -> Vec<usize> {
        (0..self.nodes.len())
            .filter(|n| self.took_sm(*n).contains(text))
            .collect()
    }

    /// Each sm answers the fences that it was sent, and all nodes get what it said. What else it was sent is given back.
    pub(super) fn answer_fences(&mut self) -> Vec<String> {
        let mut seen = vec![String::new(); self.nodes.len()];
        for _ in 0..10 {
            let mut quiet = true;
            self.pass(crate::node::cluster::FLUSH_EVERY_US);
            for (n, all) in seen.iter_mut().enumerate() {
                let read = self.took_sm(n);
                for frame in read.split_inclusive("</route>") {
                    let Some(id) = frame
                        .split("id='jidmesh-fence-")
                        .nth(1)
                        .and_then(|rest| rest.split('\'').next())
                    else {
                        continue;
                    };
                    quiet = false;
                    let answer = format!(
                        "<iq xmlns='jabber:client' type='result' from='{DOMAIN}' to='jidmesh.router' id='jidmesh-fence-{id}'/>"
                    );
                    self.send_sm(n, "jidmesh.router", &answer);
                }
                all.push_str(&read);
            }
            if quiet {
                return seen;
            }
        }
        panic!("fences without end");
    }

    /// The same now and when so much time has passed.
    pub(super) fn answers_for(&mut self, micros: crate::node::api::Micros) -> Vec<String> {
        let mut seen = self.answer_fences();
        self.pass(micros);
        for (all, later) in seen.iter_mut().zip(self.answer_fences()) {
            all.push_str(&later);
        }
        seen
    }

    /// A login at node `n`; the node whose sm serves it.
    pub(super) fn login(&mut self, n: usize, number: u32, jid: &str, id: u32) -> usize {
        let request = format!("request{id}");
        self.send_c2s(n, DOMAIN, &start(number, jid, &request));
        let seen = self.answer_fences();
        let at: Vec<usize> = (0..seen.len())
            .filter(|n| seen[*n].contains("action='start'"))
            .collect();
        let [sm] = at[..] else {
            panic!("the start of {jid} came to {at:?}: {seen:?}")
        };
        let c2s = if sm == n {
            "c2s".to_owned()
        } else {
            format!("c2s.{}", NODES[n])
        };
        assert!(seen[sm].contains(&format!("from='{c2s}'")), "{}", seen[sm]);
        self.send_sm(sm, &c2s, &started(number, jid, &request, &token(id)));
        let heard = self.took_c2s(n);
        let from = if sm == n {
            "sm".to_owned()
        } else {
            format!("sm.{}", NODES[sm])
        };
        assert!(
            heard.contains("action='started'") && heard.contains(&format!("from='{from}'")),
            "{heard}"
        );
        self.send_c2s(n, &from, &from_client(number, &token(id), "<presence/>"));
        assert_eq!(self.who_got("<presence"), [sm]);
        self.drain();
        sm
    }

    pub(super) fn logout(&mut self, n: usize, sm: usize, number: u32, id: u32) {
        let from = if sm == n {
            "sm".to_owned()
        } else {
            format!("sm.{}", NODES[sm])
        };
        let c2s = if sm == n {
            "c2s".to_owned()
        } else {
            format!("c2s.{}", NODES[n])
        };
        self.send_c2s(n, &from, &control("end", number, &token(id)));
        assert_eq!(self.who_got("action='end'"), [sm]);
        self.send_sm(sm, &c2s, &control("ended", number, &token(id)));
        self.answer_fences();
        self.drain();
    }

    pub(super) fn count(&self, counter: Counter) -> u64 {
        self.nodes.iter().map(|node| node.count(counter)).sum()
    }

    pub(super) fn pass(&mut self, micros: u64) {
        for node in &mut self.nodes {
            node.pass(micros);
        }
        self.carry();
    }
}

#[test]
fn users_are_served_near_and_reached_from_everywhere() {
    for shards in [1, 2, 3] {
        let mut site = Site::new(3, shards);
        for n in 0..3 {
            assert_eq!(site.login(n, 7, &format!("u{n}@{DOMAIN}/r"), 10 + n as u32), n);
        }
        for from in 0..3 {
            for to in 0..3 {
                site.say(from, &format!("u{to}@{DOMAIN}"), "hello");
                assert_eq!(site.who_got("hello"), [to], "from {from} with {shards} shards");
            }
        }
        assert_eq!(site.count(Counter::Conflicts), 0);
    }
}

#[test]
fn all_sessions_of_a_user_are_at_one_sm() {
    let mut site = Site::new(3, 2);
    assert_eq!(site.login(0, 7, "u@example.net/one", 1), 0);
    for n in [1, 2] {
        let id = 10 + n as u32;
        assert_eq!(site.login(n, 7, &format!("u@example.net/{n}"), id), 0);
        let delivery = format!(
            "<message xmlns='jabber:client' xmlns:sm='{SESS}' sm:sm='{}' sm:c2s='7' from='x@y' to='u@example.net/{n}'/>",
            token(id)
        );
        let c2s = format!("c2s.{}", NODES[n]);
        site.nodes[0].send(site.sm[0], &route(DOMAIN, &c2s, &delivery));
        site.carry();
        let heard = site.took_c2s(n);
        assert!(
            heard.contains("<message") && heard.contains("to='c2s'") && heard.contains("from='example.net'"),
            "{heard}"
        );
        site.send_c2s(
            n,
            "sm.a.test",
            &from_client(7, &token(id), "<message to='v@example.net'/>"),
        );
        let heard = site.took_sm(0);
        assert!(
            heard.contains("v@example.net") && heard.contains(&format!("from='{c2s}'")) && heard.contains("to='sm'"),
            "{heard}"
        );
    }
    let sessions: u64 = site.nodes.iter().map(World::sessions).sum();
    assert_eq!(sessions, 3);
    site.logout(1, 0, 7, 11);
    site.logout(0, 0, 7, 1);
    assert_eq!(site.login(1, 8, "u@example.net/1", 21), 0, "one session is still there");
    site.logout(2, 0, 7, 12);
    site.logout(1, 0, 8, 21);
    assert_eq!(site.login(2, 9, "u@example.net/2", 22), 2, "nothing ties him any more");
    assert_eq!(site.count(Counter::Conflicts), 0);
}

#[test]
fn what_comes_for_an_absent_user_goes_to_one_sm_and_is_done_before_he_comes_back_elsewhere() {
    for user in 0..12 {
        let mut site = Site::new(3, 2);
        let jid = format!("u{user}@{DOMAIN}");
        site.say(0, &jid, "first");
        let duty = site.who_got("first");
        assert_eq!(duty.len(), 1);
        for n in 1..3 {
            site.say(n, &jid, "further");
            assert_eq!(site.who_got("further"), duty);
        }
        let elsewhere = (duty[0] + 1) % 3;
        site.send_c2s(elsewhere, DOMAIN, &start(5, &format!("{jid}/r"), "id"));
        let duty_heard = site.took_sm(duty[0]);
        assert!(duty_heard.contains("jidmesh-fence-"), "{duty_heard}");
        for n in 0..3 {
            site.say(n, &jid, &format!("held{n}"));
        }
        assert_eq!(site.who_got("held"), [0usize; 0]);
        assert_eq!(site.who_got("action='start'"), [0usize; 0]);
        let id = duty_heard.split("id='").nth(1).unwrap().split('\'').next().unwrap();
        let answer = format!("<iq xmlns='jabber:client' type='result' from='{DOMAIN}' to='jidmesh.router' id='{id}'/>");
        site.send_sm(duty[0], "jidmesh.router", &answer);
        site.pass(crate::node::cluster::FLUSH_EVERY_US);
        let heard = site.took_sm(elsewhere);
        let at: Vec<usize> = ["action='start'", "held0", "held1", "held2"]
            .iter()
            .filter_map(|text| heard.find(text))
            .collect();
        assert!(at.len() == 4 && at.iter().all(|place| *place >= at[0]), "{heard}");
    }
}

#[test]
fn two_logins_at_once_end_at_one_sm() {
    for user in 0..12 {
        let mut site = Site::new(3, 1);
        let jid = format!("u{user}@{DOMAIN}");
        for n in 0..3 {
            site.nodes[n].send(
                site.c2s[n],
                &route("c2s", DOMAIN, &start(5, &format!("{jid}/{n}"), "id")),
            );
        }
        site.carry();
        let seen = site.answer_fences();
        let at: Vec<usize> = (0..3).filter(|n| seen[*n].contains("action='start'")).collect();
        assert_eq!(at.len(), 1, "{seen:?}");
        assert_eq!(seen[at[0]].matches("action='start'").count(), 3);
    }
}

#[test]
fn order_is_kept_when_the_way_changes() {
    for user in 0..12 {
        let mut site = Site::new(3, 2);
        let jid = format!("u{user}@{DOMAIN}");
        let sm = site.login(0, 7, &format!("{jid}/r"), 1);
        assert_eq!(sm, 0);
        site.say(1, &jid, "one");
        assert_eq!(site.who_got("one"), [0]);
        // What node 1 says next is under way to node 0 while he moves to node 2.
        site.cut.push((1, 0));
        site.seems_stalled(0, 1, true);
        site.say(1, &jid, "two");
        site.logout(0, 0, 7, 1);
        let moved = site.login(2, 7, &format!("{jid}/r"), 2);
        site.say(1, &jid, "three");
        assert!(!site.took_sm(moved).contains("three"));
        site.gets_through(0, 1);
        let heard = site.took_sm(moved);
        let (two, three) = (heard.find("two"), heard.find("three"));
        assert!(two.is_some() && two < three, "user {user} at {moved}: {heard}");
    }
}

#[test]
fn a_dead_node_takes_only_its_own_with_it() {
    let mut site = Site::new(3, 2);
    assert_eq!(site.login(2, 7, "dead@example.net/r", 1), 2);
    assert_eq!(site.login(0, 7, "far@example.net/one", 2), 0);
    assert_eq!(site.login(2, 8, "far@example.net/two", 3), 0);
    assert_eq!(site.login(2, 9, "near@example.net/one", 4), 2);
    assert_eq!(site.login(1, 7, "near@example.net/two", 5), 2);
    for n in [0, 1] {
        site.cut.push((n, 2));
        site.cut.push((2, n));
    }
    site.say(0, "dead@example.net", "late");
    for n in [0, 1] {
        site.dies(n, 2);
    }
    // His client at node 1 is ended, as his sm was at node 2.
    let heard = site.took_c2s(1);
    assert!(
        heard.contains("action='ended'") && heard.contains("sc:c2s='7'"),
        "{heard}"
    );
    // sm of node 0 hears that the c2s of node 2 is gone, and ends the session that it held.
    let (zero, one) = (site.took_sm(0), site.took_sm(1));
    assert!(zero.contains("type='unavailable' from='c2s.c.test'"), "{zero}");
    // The contacts of both sessions that died with the sm of node 2 are told, once each.
    for jid in ["dead@example.net/r", "near@example.net/one", "near@example.net/two"] {
        let told = [&zero, &one]
            .iter()
            .filter(|heard| heard.contains(&format!("target='{jid}'")))
            .count();
        assert!(told <= 1, "{jid}: {zero} {one}");
    }
    assert!(zero.contains("target='dead@example.net/r'") || one.contains("target='dead@example.net/r'"));
    assert!(!zero.contains("target='far@example.net/two'") && !one.contains("target='far@example.net/two'"));
}

/// Two nodes that have not spoken serve u: node 1 by the newer start, and it serves w.
fn claimed_twice() -> Site {
    let mut site = Site::new(2, 2);
    site.parts_and_heals();
    assert_eq!(site.login(0, 7, "u@example.net/r", 1), 0);
    site.pass(5_000);
    assert_eq!(site.login(1, 8, "u@example.net/r", 2), 1);
    assert_eq!(site.login(1, 9, "w@example.net/r", 3), 1);
    site
}

#[test]
fn of_two_claims_the_newer_wins_and_nobody_is_told_away_who_is_there() {
    let mut site = claimed_twice();
    site.connect(0, 1);
    let (c2s, sm) = (site.took_c2s(0), site.took_sm(0));
    assert!(c2s.contains("action='ended'"), "{c2s}");
    assert!(sm.contains("action='end'"), "{sm}");
    assert!(!site.took_c2s(1).contains("action='ended'"));
    let farewell = "<presence xmlns='jabber:client' type='unavailable' from='u@example.net/r' to='w@example.net'/>";
    site.send_sm(0, DOMAIN, farewell);
    assert!(!site.took_sm(1).contains("from='u@example.net/r'"));
    site.send_sm(0, "c2s", &control("ended", 7, &token(1)));
    site.say(0, "u@example.net", "hello");
    let seen = site.answer_fences();
    assert!(seen[1].contains("hello") && !seen[0].contains("hello"), "{seen:?}");
}

#[test]
fn who_lost_sessions_before_he_gave_way_is_told_of_where_he_is_now() {
    for shards in [1, 2] {
        let mut site = Site::new(2, shards);
        site.parts_and_heals();
        for (number, resource) in [(7, "there"), (8, "one"), (9, "two")] {
            assert_eq!(site.login(0, number, &format!("u@{DOMAIN}/{resource}"), number), 0);
        }
        site.nodes[0].cut(site.sm[0]);
        site.pass(15_000_000);
        // Another process; it is told to tell the contacts of one of them, and is slow.
        site.sm[0] = site.nodes[0].component(&["sm", "*example.net"]);
        let mut told = site.took_sm(0);
        assert_eq!(site.login(1, 5, &format!("u@{DOMAIN}/there"), 2), 1);
        site.connect(0, 1);
        site.pass(6_000_000);
        told += &site.answer_fences().concat();
        for (resource, times) in [("one", 1), ("two", 1), ("there", 0)] {
            let asked = format!("target='u@{DOMAIN}/{resource}' id='jidmesh-tell-");
            assert_eq!(told.matches(&asked).count(), times, "{resource}: {told}");
        }
    }
}

#[test]
fn who_gave_way_to_a_session_that_is_not_available_is_told_away() {
    let mut site = claimed_twice();
    let away = from_client(8, &token(2), "<presence type='unavailable'/>");
    site.send_c2s(1, "sm", &away);
    site.connect(0, 1);
    site.drain();
    let farewell = "<presence xmlns='jabber:client' type='unavailable' from='u@example.net/r' to='w@example.net'/>";
    site.send_sm(0, DOMAIN, farewell);
    assert!(site.took_sm(1).contains("from='u@example.net/r'"));
}

#[test]
fn who_saw_the_sessions_that_gave_way_is_shown_the_others() {
    let mut site = Site::new(2, 2);
    site.parts_and_heals();
    for (number, jid) in [
        (5, "w@example.net/r"),
        (6, "u@example.net/same"),
        (7, "u@example.net/one"),
    ] {
        assert_eq!(site.login(0, number, jid, number), 0);
    }
    site.pass(5_000);
    for (number, jid) in [(8, "u@example.net/same"), (9, "u@example.net/two")] {
        assert_eq!(site.login(1, number, jid, number), 1);
    }
    site.connect(0, 1);
    site.drain();
    // The one is told away, the other is not; who was told may know as little of the third.
    for resource in ["one", "same"] {
        for to in ["w@example.net", "u@example.net", "x@example.com"] {
            let farewell = format!(
                "<presence xmlns='jabber:client' type='unavailable' from='u@example.net/{resource}' to='{to}'/>"
            );
            site.send_sm(0, DOMAIN, &farewell);
        }
    }
    site.answer_fences();
    assert_eq!(
        site.count(Counter::HealingProbes),
        0,
        "the others may not have heard yet"
    );
    site.pass(2_000_000);
    let heard = site.took_sm(1);
    let probe = "type='probe' from='w@example.net' to='u@example.net'";
    // At most once for what passed, and once for what was muted.
    let probes = heard.matches(probe).count();
    assert!((1..=2).contains(&probes), "{heard}");
    assert_eq!(site.count(Counter::HealingProbes), probes as u64);
}

#[test]
fn a_node_without_others_says_so_again_and_again_and_takes_it_back() {
    let mut site = Site::new(2, 2);
    let said = |site: &Site, text: &str| site.nodes[0].log.iter().filter(|line| line.text.contains(text)).count();
    let alone = |site: &Site| site.nodes[0].shards[0].report().mesh.unwrap().alone;
    site.pass(20_000_000);
    assert!(!alone(&site) && said(&site, "no other node is reached") == 0);
    site.dies(0, 1);
    assert!(alone(&site));
    site.pass(4_000_000);
    assert_eq!(said(&site, "no other node is reached"), 0, "not at once");
    site.pass(2_000_000);
    assert_eq!(said(&site, "no other node is reached"), 1);
    site.pass(120_000_000);
    assert_eq!(said(&site, "no other node is reached"), 3, "once a minute");
    site.connect(0, 1);
    assert!(!alone(&site));
    assert_eq!(said(&site, "no longer alone"), 1);
}

/// Asks every shard of a node, and gives what they answer at once or in time.
pub(super) fn inquire(site: &mut Site, n: usize, question: &Question) -> Vec<Answer> {
    let world = &mut site.nodes[n];
    world.answers.clear();
    for shard in &mut world.shards {
        shard.inquire(world.now, 7, question.clone());
    }
    site.carry();
    let shards = site.nodes[n].shards.len();
    for _ in 0..=ANSWER_US / 100_000 {
        if site.nodes[n].answers.len() < shards {
            site.pass(100_000);
        }
    }
    let answers: Vec<Answer> = site.nodes[n].answers.drain(..).map(|(_, answer)| answer).collect();
    assert_eq!(answers.len(), shards, "every question is answered once");
    answers
}

pub(super) fn find(site: &mut Site, n: usize, bare: &str) -> WhereReport {
    let answers = inquire(site, n, &Question::Where(bare.into()));
    let mut found = answers.into_iter().filter_map(|answer| match answer {
        Answer::Where(report) => Some(*report),
        _ => None,
    });
    let report = found.next().unwrap();
    assert!(found.next().is_none(), "one shard knows");
    report
}

#[test]
fn every_node_says_the_same_of_where_a_user_is() {
    for shards in [1, 3] {
        let mut site = Site::new(3, shards);
        assert_eq!(site.login(1, 7, "u@example.net/one", 1), 1);
        assert_eq!(site.login(2, 8, "u@example.net/two", 2), 1);
        for n in 0..3 {
            let found = find(&mut site, n, "u@example.net");
            assert_eq!(
                (&*found.node, found.sm.as_deref(), found.is_duty),
                ("b.test", Some("sm.b.test"), false)
            );
            assert!(found.complete && found.starts_pending == 0);
            let mut c2s: Vec<_> = found
                .sessions
                .iter()
                .map(|s| (&*s.resource, s.available, s.c2s.as_deref()))
                .collect();
            c2s.sort_unstable();
            assert_eq!(
                c2s,
                [("one", true, Some("c2s.b.test")), ("two", true, Some("c2s.c.test"))]
            );
        }
        let duty: Vec<WhereReport> = (0..3).map(|n| find(&mut site, n, "nobody@example.net")).collect();
        assert!(
            duty[0].is_duty && duty[0].complete && duty[0].sessions.is_empty(),
            "{duty:?}"
        );
        assert_eq!(duty[0].sm.as_deref().unwrap(), format!("sm.{}", duty[0].node));
        assert!(duty[1] == duty[0] && duty[2] == duty[0], "{duty:?}");
        assert_eq!(find(&mut site, 0, "x@peer2.c.test").holders, ["peer2.c.test"]);
    }
}

#[test]
fn a_node_that_does_not_answer_is_spoken_for_by_its_rows() {
    let mut site = Site::new(2, 2);
    assert_eq!(site.login(1, 7, "u@example.net/one", 1), 1);
    site.cut.push((0, 1));
    let found = find(&mut site, 0, "u@example.net");
    assert_eq!((&*found.node, found.complete, found.sm), ("b.test", false, None));
    assert_eq!(
        (&*found.sessions[0].resource, found.sessions[0].available),
        ("one", true)
    );
}

/// From, its shard, to, its shard, came back.
type Probed = (String, Option<u16>, String, Option<u16>, bool);

fn probes(site: &mut Site, n: usize) -> Vec<Probed> {
    let answers = inquire(site, n, &Question::Probe);
    let mut probes: Vec<_> = answers
        .into_iter()
        .flat_map(|answer| match answer {
            Answer::Probes(probes) => probes,
            other => panic!("{other:?}"),
        })
        .map(|p| (p.from, p.from_shard, p.to, p.to_shard, p.round_trip_us.is_some()))
        .collect();
    probes.sort();
    probes
}

#[test]
fn probes_go_between_all_shards_of_all_members_and_miss_who_is_cut_off() {
    for shards in [1, 2] {
        let mut site = Site::new(3, shards);
        let mut expected = Vec::new();
        for from in NODES {
            for to in NODES {
                for a in 0..shards {
                    for b in 0..shards {
                        expected.push((from.to_owned(), Some(a), to.to_owned(), Some(b), true));
                    }
                }
            }
        }
        expected.sort();
        for n in 0..3 {
            assert_eq!(probes(&mut site, n), expected);
        }
        // Between the first node and the second nothing passes; the third hears both.
        site.cut.extend([(0, 1), (1, 0)]);
        let seen = probes(&mut site, 2);
        for (from, to) in [(0, 1), (1, 0)] {
            let pair: Vec<_> = seen.iter().filter(|p| p.0 == NODES[from] && p.2 == NODES[to]).collect();
            assert!(
                pair.len() == usize::from(shards) && pair.iter().all(|p| !p.4 && p.3.is_none()),
                "{pair:?}"
            );
        }
        let others = seen.iter().filter(|p| p.4).count();
        assert_eq!(others, expected.len() - 2 * usize::from(shards * shards), "{seen:?}");
        // The first node does not hear what the second sees.
        let seen = probes(&mut site, 0);
        assert!(
            seen.contains(&("b.test".into(), None, "a.test".into(), None, false)),
            "{seen:?}"
        );
    }
}

#[test]
fn a_shard_asked_too_much_at_a_time_says_so() {
    let mut site = Site::new(2, 1);
    site.cut.push((0, 1));
    let world = &mut site.nodes[0];
    for ticket in 0..100 {
        world.shards[0].inquire(world.now, ticket, Question::Probe);
    }
    site.carry();
    let refused = |site: &Site| {
        site.nodes[0]
            .answers
            .iter()
            .filter(|(_, a)| matches!(a, Answer::Nothing))
            .count()
    };
    assert_eq!((site.nodes[0].answers.len(), refused(&site)), (36, 36));
    site.pass(ANSWER_US + 200_000);
    assert_eq!((site.nodes[0].answers.len(), refused(&site)), (100, 36));
}

#[test]
fn a_report_counts_what_is_known_of_each_member() {
    let mut site = Site::new(3, 2);
    for (n, id) in [(1, 1), (1, 2), (2, 3)] {
        assert_eq!(site.login(n, 10 + id, &format!("u{id}@{DOMAIN}/r"), id), n);
    }
    let members = |site: &Site| {
        let reports = site.nodes[0].shards.iter().map(|shard| shard.report().mesh.unwrap());
        let mut sums = [(0, 0); 2];
        for report in reports {
            assert_eq!(report.members.len(), 2);
            for (sum, member) in sums.iter_mut().zip(["b.test", "c.test"]) {
                let member = report.members.iter().find(|found| found.name == member).unwrap();
                *sum = (sum.0 + member.rows, member.seats);
            }
        }
        sums
    };
    assert_eq!(members(&site), [(2, 3), (1, 3)]);
    site.dies(0, 1);
    assert_eq!(members(&site), [(0, 0), (1, 3)]);
    let report = site.nodes[0].shards[1].report().mesh.unwrap();
    let states: Vec<_> = report
        .members
        .iter()
        .map(|member| (&*member.name, member.state))
        .collect();
    assert!(
        states.contains(&("b.test", "gone")) && states.contains(&("c.test", "ready")),
        "{states:?}"
    );
}

/// One s2s on each node; the nodes whose s2s got something with this text.
pub(super) fn at_s2s(site: &mut Site, s2s: &[End], text: &str) -> Vec<usize> {
    (0..s2s.len())
        .filter(|n| site.nodes[*n].take(s2s[*n]).contains(text))
        .collect()
}

pub(super) fn default_route(site: &mut Site, n: usize) -> End {
    let end = site.nodes[n].connect("jabberd");
    let bind = format!("<bind xmlns='{}' name='s2s'><default/></bind>", super::world::COMP);
    site.nodes[n].send(end, &bind);
    site.carry();
    end
}

#[test]
fn one_node_at_a_time_is_the_exit_to_a_foreign_domain() {
    for foreign in ["one.example", "two.example", "three.example", "four.example"] {
        let mut site = Site::new(3, 2);
        let s2s: Vec<End> = (0..3).map(|n| default_route(&mut site, n)).collect();
        let say = |site: &mut Site, n: usize, body: &str| {
            let from = format!("peer{n}");
            let payload = message(&format!("x@{from}"), &format!("u@{foreign}"), body);
            site.nodes[n].send(site.peer[n], &route(&from, foreign, &payload));
            site.carry();
        };
        say(&mut site, 1, "first");
        assert_eq!(
            at_s2s(&mut site, &s2s, "first"),
            [1],
            "{foreign}: the first that needs it"
        );
        for n in 0..3 {
            say(&mut site, n, "further");
            assert_eq!(at_s2s(&mut site, &s2s, "further"), [1], "{foreign} from {n}");
        }
        // What s2s says of it comes back to the sm that asked, under the id that it has there.
        site.nodes[0].send(
            site.sm[0],
            &route("sm", foreign, &message("v@example.net/r", &format!("u@{foreign}"), "x")),
        );
        site.carry();
        let heard = site.nodes[1].take(s2s[1]);
        assert!(heard.contains("from='sm.a.test'"), "{heard}");
        let error = "<message xmlns='jabber:client' type='error' to='v@example.net/r' from='u@x'/>";
        site.nodes[1].send(s2s[1], &route("s2s", "sm.a.test", error));
        site.carry();
        assert!(site.took_sm(0).contains("type='error'"));
        for n in [0, 2] {
            site.cut.push((n, 1));
            site.cut.push((1, n));
            say(&mut site, n, "under way");
            assert_eq!(at_s2s(&mut site, &s2s, "under way"), [0usize; 0]);
        }
        for n in [0, 2] {
            site.dies(n, 1);
        }
        let after = at_s2s(&mut site, &s2s, "under way");
        assert_eq!(
            after.len(),
            1,
            "{foreign}: what was under way to it leaves by one other"
        );
        for n in [0, 2] {
            say(&mut site, n, "later");
            assert_eq!(at_s2s(&mut site, &s2s, "later"), after);
        }
    }
}

#[test]
fn nothing_is_lost_when_the_way_led_to_a_node_that_died() {
    for (user, shards) in (0..12).flat_map(|user| [(user, 1), (user, 2)]) {
        let mut site = Site::new(3, shards);
        let jid = format!("u{user}@{DOMAIN}");
        assert_eq!(site.login(2, 7, &format!("{jid}/r"), 1), 2);
        site.say(0, &jid, "before");
        assert_eq!(site.who_got("before"), [2]);
        for n in [0, 1] {
            site.cut.extend([(n, 2), (2, n)]);
        }
        site.say(0, &jid, "under way");
        for n in [0, 1] {
            site.dies(n, 2);
        }
        let mut all = String::new();
        for step in 0..4 {
            if step == 2 {
                site.say(0, &jid, "after");
            }
            site.pass(6_000_000);
            all.extend(site.answer_fences());
        }
        let [way, after] =
            ["under way", "after"].map(|text| all.match_indices(text).map(|(at, _)| at).collect::<Vec<_>>());
        assert_eq!((way.len(), after.len()), (1, 1), "{jid} with {shards} shards: {all}");
        assert!(way < after, "{all}");
    }
}

#[test]
fn devices_that_died_with_their_node_are_told_though_another_logged_in_before_that_was_known() {
    let mut claimed = 0;
    for (user, shards) in (0..8).flat_map(|user| [(user, 1), (user, 2)]) {
        let mut site = Site::new(2, shards);
        let jid = format!("u{user}@{DOMAIN}");
        assert_eq!(site.login(1, 7, &format!("{jid}/dead"), 1), 1);
        assert_eq!(site.login(1, 8, &format!("{jid}/back"), 2), 1);
        site.stalls(0, 1);
        site.send_c2s(0, DOMAIN, &start(9, &format!("{jid}/back"), "early"));
        let early = site.took_sm(0).contains("id='early'");
        claimed += u32::from(early);
        if early {
            site.send_sm(0, "c2s", &started(9, &format!("{jid}/back"), "early", &token(3)));
        }
        site.dies(0, 1);
        let mut heard = String::new();
        for _ in 0..3 {
            heard.extend(site.answer_fences());
            site.pass(6_000_000);
        }
        let told = |resource| heard.contains(&format!("target='{jid}/{resource}' id='jidmesh-tell-"));
        assert!(told("dead"), "early: {early}: {heard}");
        assert_eq!(told("back"), !early, "who is back is not told away: {heard}");
    }
    assert!(claimed > 0, "some have no owner that can be reached");
}

#[test]
fn an_sm_that_outlived_its_router_does_not_say_again_what_others_said_for_it() {
    for shards in [1, 2] {
        let mut site = Site::new(2, shards);
        let users = ["one@example.net/r", "two@example.net/r"];
        for (number, user) in (7..).zip(users) {
            assert_eq!(site.login(1, number, user, number), 1);
        }
        site.dies(0, 1);
        site.restart(1, shards);
        let farewell = |from: &str, to: &str| {
            format!("<presence xmlns='jabber:client' type='unavailable' from='{from}' to='{to}'/>")
        };
        for user in users {
            site.send_sm(1, DOMAIN, &farewell(user, "contact@example.net"));
        }
        assert_eq!(site.count(Counter::DropFarewell), 2);
        // A room is not in the roster of whom the others started.
        site.send_sm(1, "peer1", &farewell(users[0], "room@peer1/nick"));
        assert!(site.nodes[1].take(site.peer[1]).contains("room@peer1/nick"));
        // Who is there again is believed.
        site.pass(12_000_000);
        site.drain();
        site.login(1, 17, users[1], 17);
        site.send_sm(1, DOMAIN, &farewell(users[1], "contact@example.net"));
        assert_eq!(site.count(Counter::DropFarewell), 2);
    }
}

#[test]
fn what_a_dead_node_may_have_handled_goes_back_to_its_sender() {
    for shards in [1, 2] {
        let mut site = Site::new(3, shards);
        let jid = format!("u@{DOMAIN}");
        assert_eq!(site.login(2, 7, &format!("{jid}/r"), 1), 2);
        assert_eq!(site.login(0, 8, &format!("{jid}/far"), 2), 2);
        site.cut.extend([(0, 2), (2, 0)]);
        site.say(0, &jid, "perhaps");
        let presence = format!("<presence xmlns='jabber:client' from='x@peer0' to='{jid}'/>");
        site.nodes[0].send(site.peer[0], &route("peer0", DOMAIN, &presence));
        site.carry();
        site.dies_having(Seen::Perhaps, 0, 2);
        site.dies(1, 2);
        site.pass(12_000_000);
        let all: String = site.answer_fences().concat();
        assert!(!all.contains("perhaps") && !all.contains("from='x@peer0'"), "{all}");
        let back = site.nodes[0].take(site.peer[0]);
        assert!(back.contains("perhaps") && back.contains("error='503'"), "{back}");
        assert_eq!(site.count(Counter::InDoubt), 2);
    }
}

#[test]
fn contacts_hear_again_of_whom_they_were_told_away() {
    let mut site = Site::new(2, 2);
    assert_eq!(site.login(1, 7, "far@example.net/r", 1), 1);
    assert_eq!(site.login(0, 7, "near@example.net/r", 2), 0);
    site.cut.extend([(0, 1), (1, 0)]);
    for (here, there) in [(0, 1), (1, 0)] {
        site.dies(here, there);
    }
    site.kept.clear();
    // sm of node 0 tells a contact, through the session that stands for the one which is out of reach.
    let heard = site.took_sm(0);
    assert!(heard.contains("target='far@example.net/r'"), "{heard}");
    let farewell =
        "<presence xmlns='jabber:client' type='unavailable' from='far@example.net/r' to='near@example.net'/>";
    site.send_sm(0, DOMAIN, farewell);
    site.drain();
    // Somebody logs in whose presence does not get through, and who learns nothing of the other.
    assert_eq!(site.login(0, 8, "new@example.net/r", 3), 0);
    let hello = "<presence xmlns='jabber:client' from='new@example.net/r' to='far@example.net'/>";
    let probe = "<presence xmlns='jabber:client' type='probe' from='new@example.net' to='far@example.net'/>";
    for stanza in [hello, probe] {
        site.send_sm(0, DOMAIN, stanza);
    }
    site.answer_fences();
    site.pass(12_000_000);
    site.drain();
    site.cut.clear();
    site.connect(0, 1);
    site.pass(2_000_000);
    // What each sm has in hand of its time alone comes first.
    let heard = site.answer_fences();
    for (from, to, heard) in [
        ("near", "far", &heard[1]),
        ("new", "far", &heard[1]),
        ("far", "new", &heard[0]),
    ] {
        let probe = format!("type='probe' from='{from}@example.net' to='{to}@example.net'");
        assert_eq!(heard.matches(&probe).count(), 1, "{probe}: {heard}");
    }
    assert_eq!(site.count(Counter::HealingProbes), 3);
}

#[test]
fn who_asked_an_sm_that_then_gave_way_asks_again() {
    let mut site = Site::new(2, 2);
    site.parts_and_heals();
    assert_eq!(site.login(0, 5, "w@example.net/r", 1), 0);
    assert_eq!(site.login(0, 7, "u@example.net/here", 2), 0);
    site.pass(5_000);
    assert_eq!(site.login(1, 8, "u@example.net/there", 3), 1);
    site.connect(0, 1);
    site.drain();
    let answer = "<presence xmlns='jabber:client' type='unavailable' from='u@example.net' to='w@example.net'/>";
    site.send_sm(0, DOMAIN, answer);
    site.send_sm(0, "c2s", &control("ended", 7, &token(2)));
    site.pass(2_000_000);
    let probe = "type='probe' from='w@example.net' to='u@example.net'";
    let heard = site.answer_fences();
    assert_eq!(heard[1].matches(probe).count(), 1, "{heard:?}");
    // He leaves; who is asked then says so again and again, and it is true.
    site.logout(1, 1, 8, 3);
    site.pass(20_000_000);
    let probes = site.count(Counter::HealingProbes);
    site.send_sm(0, DOMAIN, answer);
    site.pass(2_000_000);
    assert_eq!(site.count(Counter::HealingProbes), probes);
}

/// A login that comes to nothing hides nobody.
#[test]
fn who_asked_for_a_user_whose_login_came_to_nothing_asks_again() {
    let mut site = Site::new(2, 2);
    site.cut.extend([(0, 1), (1, 0)]);
    for (here, there) in [(0, 1), (1, 0)] {
        site.dies(here, there);
    }
    assert_eq!(site.login(0, 5, "w@example.net/r", 1), 0);
    let probe = "<presence xmlns='jabber:client' type='probe' from='w@example.net' to='u@example.net'/>";
    site.send_sm(0, DOMAIN, probe);
    site.send_c2s(0, DOMAIN, &start(7, "u@example.net/here", "never"));
    site.send_sm(0, DOMAIN, probe);
    site.drain();
    site.pass(5_000);
    assert_eq!(site.login(1, 8, "u@example.net/there", 2), 1);
    site.kept.clear();
    site.cut.clear();
    site.connect(0, 1);
    // And its start, though it was never answered, is older than the session there.
    assert_eq!(site.count(Counter::Conflicts), 1);
    let seen = site.answer_fences();
    assert!(
        seen[1].contains("id='never'") && !seen[1].contains("action='end'"),
        "{seen:?}"
    );
    site.pass(2_000_000);
    let probe = "type='probe' from='w@example.net' to='u@example.net'";
    let heard = [site.took_sm(0), site.took_sm(1)];
    assert_eq!(heard[1].matches(probe).count(), 1, "{heard:?}");
}

#[test]
fn who_saw_one_session_while_others_were_out_of_reach_is_shown_them() {
    let mut site = Site::new(2, 2);
    site.cut.extend([(0, 1), (1, 0)]);
    for (here, there) in [(0, 1), (1, 0)] {
        site.dies(here, there);
    }
    assert_eq!(site.login(1, 6, "u@example.net/there", 1), 1);
    assert_eq!(site.login(0, 7, "u@example.net/here", 2), 0);
    assert_eq!(site.login(0, 8, "w@example.net/r", 3), 0);
    for to in ["w@example.net", "x@example.net/told-by-himself", "u@example.net"] {
        let farewell =
            format!("<presence xmlns='jabber:client' type='unavailable' from='u@example.net/here' to='{to}'/>");
        site.send_sm(0, DOMAIN, &farewell);
    }
    site.logout(0, 0, 7, 2);
    site.kept.clear();
    site.cut.clear();
    site.connect(0, 1);
    site.pass(2_000_000);
    let probe = "type='probe' from='w@example.net' to='u@example.net'";
    let seen = site.answer_fences();
    assert_eq!(seen[1].matches(probe).count(), 1, "{seen:?}");
    assert_eq!(site.count(Counter::HealingProbes), 1);
}

#[test]
fn who_is_back_while_his_contacts_are_told_away_is_told_away_no_further() {
    for started in [false, true] {
        let mut site = Site::new(2, 2);
        let jid = "u@example.net/r";
        assert_eq!(site.login(1, 8, jid, 2), 1);
        site.cut.extend([(0, 1), (1, 0)]);
        site.dies(0, 1);
        site.pass(5_000);
        let read = site.took_sm(0);
        let number = read.split("sc:c2s='").nth(1).unwrap().split('\'').next().unwrap();
        let number: u32 = number.parse().unwrap();
        assert!(
            read.contains("action='start'") && read.contains(jid),
            "a surrogate: {read}"
        );
        let answer = super::world::started(number, jid, &format!("jidmesh-tell-{number}"), &token(7));
        if started {
            site.send_sm(0, "jidmesh.router", &answer);
            assert!(site.took_sm(0).contains("type='unavailable'"));
        }
        site.dies(1, 0);
        site.kept.clear();
        site.cut.clear();
        site.connect(0, 1);
        if !started {
            site.took_sm(0);
            site.send_sm(0, "jidmesh.router", &answer);
            let read = site.took_sm(0);
            assert!(
                read.contains("action='end'") && !read.contains("type='unavailable'"),
                "{read}"
            );
        }
        let dropped = site.nodes[0].count(Counter::DropFarewell);
        let farewell = format!("<presence xmlns='jabber:client' type='unavailable' from='{jid}' to='w@example.net'/>");
        site.send_sm(0, DOMAIN, &farewell);
        let dropped = site.nodes[0].count(Counter::DropFarewell) - dropped;
        assert_eq!(dropped, u64::from(started));
    }
}

#[test]
fn a_user_of_a_node_that_cannot_be_reached_logs_in_elsewhere() {
    for user in 0..12 {
        let mut site = Site::new(2, 2);
        let jid = format!("u{user}@{DOMAIN}");
        assert_eq!(site.login(1, 7, &format!("{jid}/there"), 1), 1);
        site.stalls(0, 1);
        assert_eq!(site.login(0, 7, &format!("{jid}/here"), 2), 0, "{jid}");
    }
}
