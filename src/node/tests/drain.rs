//! A node that goes out of service: who takes over what, and what its clients and components see.

use super::cluster::{Site, at_s2s, default_route, find, inquire, node};
use super::world::{End, control, message, route};
use crate::node::cluster::{Answer, DrainAsk, DrainOrder, Question};
use crate::node::counters::Counter;
use crate::node::report::DrainReport;

const DOMAIN: &str = "example.net";
const GONE: &str = "type='unavailable' from='example.net'";

fn ask(site: &mut Site, n: usize, ask: DrainAsk) -> Result<(), String> {
    let answers = inquire(site, n, &Question::Drain(ask));
    let verdict = answers.into_iter().find_map(|answer| match answer {
        Answer::Drain(verdict) => Some(verdict),
        _ => None,
    });
    verdict.unwrap()
}

fn order(rate_per_s: u32, to: Option<&str>) -> DrainOrder {
    DrainOrder {
        rate_per_s,
        to: to.map(Into::into),
    }
}

fn begin(site: &mut Site, n: usize, order: DrainOrder) -> Result<(), String> {
    ask(site, n, DrainAsk::Begin(order))
}

/// How far a node is, its shards together.
fn progress(site: &Site, n: usize) -> DrainReport {
    let parts = site.nodes[n].shards.iter().map(|shard| shard.report().drain.unwrap());
    parts
        .reduce(|sum, part| DrainReport {
            ended: sum.ended + part.ended,
            left: sum.left + part.left,
            done: sum.done && part.done,
            ..part
        })
        .unwrap()
}

/// An sm answers each `end` that it got; to whom, and of which numbers.
fn answer_ends(site: &mut Site, sm: usize) -> Vec<(String, u32)> {
    let heard = site.took_sm(sm);
    let mut answered = Vec::new();
    for frame in heard
        .split_inclusive("</route>")
        .filter(|frame| frame.contains("action='end'"))
    {
        let value = |name: &str| {
            frame
                .split(&format!("{name}='"))
                .nth(1)
                .unwrap()
                .split('\'')
                .next()
                .unwrap()
        };
        let (c2s, number, id) = (
            value("from").to_owned(),
            value("sc:c2s").parse().unwrap(),
            value("sc:sm"),
        );
        site.send_sm(sm, &c2s, &control("ended", number, id));
        answered.push((c2s, number));
    }
    answered.sort();
    answered
}

#[test]
fn sessions_end_at_the_rate_and_come_to_be_elsewhere() {
    for shards in [1, 2] {
        let mut site = Site::new(3, shards);
        for n in 0..10 {
            assert_eq!(site.login(0, n, &format!("u{n}@{DOMAIN}/r"), n), 0);
        }
        // The first session of this one is at the node that will be drained, so the second is as well.
        assert_eq!(site.login(0, 20, &format!("w@{DOMAIN}/one"), 20), 0);
        assert_eq!(site.login(1, 21, &format!("w@{DOMAIN}/two"), 21), 0);
        // And that one's c2s is there, but not his sm.
        assert_eq!(site.login(1, 30, &format!("v@{DOMAIN}/one"), 30), 1);
        assert_eq!(site.login(0, 31, &format!("v@{DOMAIN}/two"), 31), 1);
        begin(&mut site, 0, order(4, None)).unwrap();
        site.pass(1_500_000);
        let early = progress(&site, 0);
        assert!((3..=8).contains(&early.ended) && !early.done, "{early:?}");
        site.pass(3_000_000);
        let (here, there) = (answer_ends(&mut site, 0), answer_ends(&mut site, 1));
        assert_eq!(here.len(), 12, "{here:?}");
        assert!(here.contains(&("c2s.b.test".into(), 21)), "{here:?}");
        assert_eq!(there, [("c2s.a.test".to_owned(), 31)], "v/one is not concerned");
        let heard = site.took_c2s(0);
        assert_eq!(
            heard.matches("action='ended'").count(),
            12,
            "c2s closes its clients: {heard}"
        );
        assert!(!heard.contains(GONE), "it goes on with the others");
        assert!(site.took_c2s(1).contains("action='ended'"));
        assert_eq!(site.nodes[0].sessions(), 0);
        assert_eq!(site.count(Counter::SessionsDrained), 13);
        site.answer_fences();
        // Who comes back here all the same is served by another node.
        assert_ne!(site.login(0, 40, &format!("u1@{DOMAIN}/r"), 40), 0);
        assert_eq!(site.login(1, 41, &format!("u2@{DOMAIN}/r"), 41), 1);
    }
}

#[test]
fn at_the_end_c2s_takes_nobody_any_more_until_the_drain_is_given_up() {
    let mut site = Site::new(2, 2);
    assert_eq!(site.login(0, 1, &format!("u@{DOMAIN}/r"), 1), 0);
    begin(&mut site, 0, order(100, None)).unwrap();
    site.pass(1_000_000);
    answer_ends(&mut site, 0);
    site.answer_fences();
    // He is back again and again.
    for id in 2..4 {
        assert_eq!(site.login(0, id, &format!("u@{DOMAIN}/r"), id), 1);
    }
    assert!(!progress(&site, 0).done);
    site.drain();
    site.pass(30_000_000);
    let done = progress(&site, 0);
    assert!(done.done && done.left == 0 && done.ended == 3, "{done:?}");
    let at_c2s = site.took_c2s(0);
    assert!(at_c2s.contains(GONE), "{at_c2s}");
    assert!(!site.took_c2s(1).contains(GONE), "the other goes on");
    answer_ends(&mut site, 1);
    // A c2s that comes now is told of no domain.
    let late = site.nodes[0].component(&["late"]);
    let greeting = site.nodes[0].take(late);
    assert!(
        greeting.contains("from='sm'") && !greeting.contains("from='example.net'"),
        "{greeting}"
    );
    ask(&mut site, 0, DrainAsk::Abort).unwrap();
    for at_c2s in [site.took_c2s(0), site.nodes[0].take(late)] {
        assert!(
            at_c2s.contains("from='example.net'") && !at_c2s.contains(GONE),
            "{at_c2s}"
        );
    }
    site.answer_fences();
    assert_eq!(site.login(0, 9, &format!("other@{DOMAIN}/r"), 9), 0, "it serves again");
    let again = ask(&mut site, 0, DrainAsk::Abort);
    assert!(again.unwrap_err().contains("does not drain"));
}

#[test]
fn absent_users_and_foreign_domains_are_handed_over() {
    let mut site = Site::new(3, 2);
    let s2s: Vec<End> = (0..3).map(|n| default_route(&mut site, n)).collect();
    let abroad = |site: &mut Site, n: usize, body: &str| {
        let from = format!("peer{n}");
        let payload = message(&format!("x@{from}"), "u@foreign.example", body);
        site.nodes[n].send(site.peer[n], &route(&from, "foreign.example", &payload));
        site.carry();
        site.pass(3_000_000);
        at_s2s(site, &s2s, body)
    };
    assert_eq!(abroad(&mut site, 0, "before"), [0], "the first that needs it");
    let users: Vec<String> = (0..40).map(|n| format!("absent{n}@{DOMAIN}")).collect();
    let owned = users
        .iter()
        .filter(|user| find(&mut site, 1, user).node == "a.test")
        .count();
    assert!(owned > 4, "{owned}");
    for user in &users {
        site.say(1, user, "left before");
    }
    begin(&mut site, 0, order(100, None)).unwrap();
    for (n, body) in [(0, "after"), (1, "later"), (2, "last")] {
        let exit = abroad(&mut site, n, body);
        assert!(exit.len() == 1 && exit != [0], "{body}: {exit:?}");
    }
    for n in 0..3 {
        for user in &users {
            assert_ne!(find(&mut site, n, user).node, "a.test");
        }
    }
    site.drain();
    for user in &users {
        site.say(2, user, "offline");
    }
    assert!(!site.took_sm(0).contains("offline"), "its sm is nobody's duty");
}

#[test]
fn a_user_whom_the_drained_sm_may_still_work_for_is_fenced_there_before_he_logs_in_elsewhere() {
    let mut site = Site::new(2, 2);
    let user = (0..40)
        .map(|n| format!("absent{n}@{DOMAIN}"))
        .find(|user| find(&mut site, 1, user).node == "a.test")
        .unwrap();
    site.pass(11_000_000);
    site.say(1, &user, "to be stored");
    assert_eq!(site.who_got("to be stored"), [0]);
    begin(&mut site, 0, order(100, None)).unwrap();
    let start = super::world::start(5, &format!("{user}/r"), "i5");
    site.send_c2s(1, DOMAIN, &start);
    assert_eq!(site.took_sm(1), "", "it waits for the other's fence");
    let seen = site.answer_fences();
    assert!(
        seen[0].contains("id='jidmesh-fence-") && !seen[0].contains("action='start'"),
        "{seen:?}"
    );
    assert!(seen[1].contains("action='start'"), "{seen:?}");
}

#[test]
fn users_go_where_the_operator_wants_them() {
    let mut site = Site::new(3, 2);
    begin(&mut site, 0, order(100, Some("c.test"))).unwrap();
    for n in 0..8 {
        assert_eq!(site.login(0, n, &format!("u{n}@{DOMAIN}/r"), n), 2);
        assert_eq!(
            site.login(1, n, &format!("v{n}@{DOMAIN}/r"), 100 + n),
            1,
            "others are near"
        );
    }
}

#[test]
fn a_drain_is_refused_when_nobody_could_take_the_users() {
    let why = |verdict: Result<(), String>| verdict.unwrap_err();
    let mut site = Site::new(1, 1);
    assert!(why(begin(&mut site, 0, order(9, None))).contains("last node in service"));
    let mut site = Site::new(2, 2);
    assert!(why(begin(&mut site, 0, order(9, Some("z.test")))).contains("z.test is no other node"));
    assert!(why(begin(&mut site, 0, order(9, Some("a.test")))).contains("a.test is no other node"));
    begin(&mut site, 1, order(9, None)).unwrap();
    assert!(why(begin(&mut site, 0, order(9, None))).contains("last node in service"));
    assert_eq!(site.login(1, 1, &format!("u@{DOMAIN}/r"), 1), 0);
    ask(&mut site, 1, DrainAsk::Abort).unwrap();
    site.nodes[1].cut(site.sm[1]);
    site.pass(20_000_000);
    let said = why(begin(&mut site, 0, order(9, None)));
    assert!(
        said.contains("no other node in service has an sm for example.net"),
        "{said}"
    );
}

#[test]
fn who_joins_later_hears_of_the_drain_and_a_resumed_one_asks_nobody() {
    let mut site = Site::new(2, 2);
    begin(&mut site, 0, order(100, None)).unwrap();
    site.restart(1, 2);
    site.pass(11_000_000);
    for n in 0..20 {
        assert_eq!(find(&mut site, 1, &format!("absent{n}@{DOMAIN}")).node, "b.test");
    }
    // A process that goes on draining knows nobody yet, and must not give itself users either.
    let mut alone = node(0, 2);
    for shard in &mut alone.shards {
        shard.inquire(alone.now, 1, Question::Drain(DrainAsk::Resume(order(5, None))));
    }
    alone.rest();
    assert!(
        alone
            .answers
            .iter()
            .any(|(_, answer)| matches!(answer, Answer::Drain(Ok(()))))
    );
    assert!(alone.shards.iter().all(|shard| shard.report().drain.is_some()));
}
