//! What an operator who follows a stanza is told, and what that may cost.

use super::cluster::{Site, inquire, token};
use super::world::{SESS, World, from_client, message, route, start, started};
use crate::node::cluster::{Answer, Question};
use crate::node::trace::{EVENTS_PER_S_MAX, LEASE_US, TRACES_MAX, TraceAsk, TraceShare};

pub(super) const USER: &str = "user@example.net";
pub(super) const TOKEN: &str = "2fcc5f2b10f3c41120a3db9ee7620e93931e073c";

fn ask(jid: &str) -> TraceAsk {
    TraceAsk {
        id: 1,
        jid: jid.into(),
        ..TraceAsk::default()
    }
}

fn whole(answers: Vec<Answer>) -> Result<TraceShare, String> {
    let mut whole = TraceShare::default();
    for answer in answers {
        let Answer::Trace(share) = answer else {
            panic!("{answer:?}")
        };
        let share = share?;
        whole.events.extend(share.events);
        whole.left_out += share.left_out;
        whole.tokens.extend(share.tokens);
        whole.nodes.extend(share.nodes);
    }
    whole.events.sort_by_key(|event| event.at_us);
    Ok(whole)
}

fn poll(world: &mut World, ask: &TraceAsk) -> Result<TraceShare, String> {
    for (ticket, shard) in world.shards.iter_mut().enumerate() {
        shard.inquire(world.now, ticket as u64, Question::Trace(Box::new(ask.clone())));
    }
    world.rest();
    whole(
        std::mem::take(&mut world.answers)
            .into_iter()
            .map(|(_, answer)| answer)
            .collect(),
    )
}

/// `hop what`, in the order of time.
fn steps(share: &TraceShare) -> Vec<String> {
    share
        .events
        .iter()
        .map(|event| format!("{} {}", event.hop, event.what))
        .collect()
}

/// A node whose user has a session, and a component `peer.test`.
pub(super) fn place(shards: u16) -> (World, [super::world::End; 3]) {
    let mut world = World::new(shards);
    let sm = world.component(&["sm", "*example.net"]);
    let c2s = world.component(&["c2s"]);
    let peer = world.component(&["peer.test"]);
    world.send(
        c2s,
        &route("c2s", "example.net", &start(1, &format!("{USER}/r"), "id1")),
    );
    world.send(sm, &route("sm", "c2s", &started(1, &format!("{USER}/r"), "id1", TOKEN)));
    world.pass(10);
    (world, [sm, c2s, peer])
}

fn delivery() -> String {
    format!(
        "<message xmlns='jabber:client' xmlns:sm='{SESS}' sm:sm='{TOKEN}' sm:c2s='1' from='x@peer.test' to='{USER}/r'/>"
    )
}

#[test]
fn every_step_of_a_stanza_is_told() {
    for shards in [1, 3] {
        let (mut world, [sm, c2s, peer]) = place(shards);
        let mut ask = ask(USER);
        let first = poll(&mut world, &ask).unwrap();
        assert_eq!((first.events.len(), &first.tokens[..]), (0, &[TOKEN.to_owned()][..]));
        ask.tokens = first.tokens;
        poll(&mut world, &ask).unwrap();
        world.send(
            peer,
            &route(
                "peer.test",
                "example.net",
                &message("x@peer.test", "User@Example.net", "secret"),
            ),
        );
        world.pass(10);
        world.send(sm, &route("example.net", "c2s", &delivery()));
        world.pass(10);
        world.send(
            c2s,
            &route("c2s", "sm", &from_client(1, TOKEN, "<message to='x@peer.test'/>")),
        );
        world.pass(10);
        // What does not concern the user.
        world.send(
            peer,
            &route(
                "peer.test",
                "example.net",
                &message("x@peer.test", "other@example.net", "b"),
            ),
        );
        let told = poll(&mut world, &ask).unwrap();
        let mut said: Vec<String> = steps(&told)
            .into_iter()
            .filter(|step| !step.starts_with("shard"))
            .collect();
        // The shards of this world are all at one time.
        said.sort();
        assert_eq!(
            said,
            [
                "from c2s",
                "from peer.test",
                "from sm",
                "queued c2s",
                "queued sm",
                "queued sm",
                "written c2s",
                "written sm",
                "written sm",
            ],
            "{shards} shards"
        );
        let text = format!("{told:?}");
        assert!(
            !text.contains("secret") && text.contains("message from x@peer.test to User@Example.net"),
            "{text}"
        );
        let lanes = steps(&told).len() - said.len();
        assert!((shards > 1) == (lanes > 0), "{:?}", steps(&told));
        let keys: Vec<&str> = told.events.iter().map(|event| &*event.key).collect();
        assert_eq!(
            keys.iter().collect::<std::collections::HashSet<_>>().len(),
            3,
            "one key a stanza: {keys:?}"
        );
    }
}

#[test]
fn verdicts_and_waiting_are_told() {
    let (mut world, [_, c2s, peer]) = place(1);
    let ask = ask("gone@example.net");
    poll(&mut world, &ask).unwrap();
    let away = "<presence xmlns='jabber:client' from='gone@example.net' to='v@example.net'/>";
    world.send(peer, &route("peer.test", "example.net", away));
    world.send(
        peer,
        &route(
            "peer.test",
            "example.net",
            &away.replace("gone@example.net", "x@peer.test"),
        ),
    );
    world.send(
        peer,
        &route(
            "peer.test",
            "no.such.name",
            &message("x@peer.test", "gone@example.net", "b"),
        ),
    );
    world.send(
        peer,
        &route(
            "wrong.name",
            "example.net",
            &message("x@peer.test", "gone@example.net", "b"),
        ),
    );
    let said = steps(&poll(&mut world, &ask).unwrap());
    let expected = [
        "from peer.test",
        "dropped presence-for-offline",
        "from peer.test",
        "bounced 404",
        "from peer.test",
        "bounced 401",
    ];
    assert_eq!(said, expected);
    world.cut(c2s);
    let ask = TraceAsk {
        id: 2,
        jid: USER.into(),
        ..ask
    };
    poll(&mut world, &ask).unwrap();
    let sm = world.component(&["other"]);
    world.send(sm, &route("other", "c2s", &message("x@other", USER, "b")));
    let share = poll(&mut world, &ask).unwrap();
    assert_eq!(steps(&share), ["from other", "queued c2s, which is away"]);
    assert!(share.events[1].queue_bytes.is_some());
}

#[test]
fn only_what_was_asked_for_is_told() {
    let (mut world, [_, _, peer]) = place(1);
    let to = |id, jid: &str, to: Option<&str>, payload| TraceAsk {
        id,
        to: to.map(Into::into),
        payload,
        ..ask(jid)
    };
    let asks = [
        to(1, "x@peer.test", Some(USER), false),
        to(2, "x@peer.test/a", None, true),
        to(3, USER, Some("x@peer.test"), false),
    ];
    for ask in &asks {
        poll(&mut world, ask).unwrap();
    }
    world.send(
        peer,
        &route(
            "peer.test",
            "example.net",
            &message("x@peer.test/a", &format!("{USER}/r"), "secret"),
        ),
    );
    world.send(
        peer,
        &route(
            "peer.test",
            "example.net",
            &message("x@peer.test/b", "v@example.net", "secret"),
        ),
    );
    let told: Vec<TraceShare> = asks.iter().map(|ask| poll(&mut world, ask).unwrap()).collect();
    assert_eq!(
        told.iter().map(|share| share.events.len()).collect::<Vec<_>>(),
        [3, 3, 0]
    );
    assert!(!format!("{:?}", told[0]).contains("secret"));
    let shown: Vec<_> = told[1]
        .events
        .iter()
        .filter_map(|event| event.payload.as_ref())
        .collect();
    assert!(
        shown.len() == 1 && shown[0].contains("<body>secret</body>"),
        "{shown:?}"
    );
}

#[test]
fn a_trace_left_on_ends_and_leaves_nothing() {
    let (mut world, [_, _, peer]) = place(2);
    poll(&mut world, &ask(USER)).unwrap();
    assert!(world.shards.iter().all(|shard| shard.report().traces == 1));
    world.pass(LEASE_US - 200_000);
    poll(&mut world, &ask(USER)).unwrap();
    world.pass(LEASE_US - 200_000);
    assert!(
        world.shards.iter().all(|shard| shard.report().traces == 1),
        "it was asked for again"
    );
    world.pass(600_000);
    assert!(world.shards.iter().all(|shard| shard.report().traces == 0));
    let words: Vec<&str> = world
        .log
        .iter()
        .map(|line| &*line.text)
        .filter(|text| text.contains("trace of"))
        .collect();
    assert_eq!(words.len(), 2, "{words:?}");
    // Nobody looks any more: a shard without a trace sleeps.
    assert!(
        world
            .shards
            .iter()
            .all(|shard| shard.deadline().is_none_or(|at| at > world.now + LEASE_US))
    );
    world.send(
        peer,
        &route("peer.test", "example.net", &message("x@peer.test", USER, "b")),
    );
    let over = TraceAsk {
        over: true,
        ..ask(USER)
    };
    poll(&mut world, &ask(USER)).unwrap();
    assert!(poll(&mut world, &over).unwrap().events.is_empty());
    assert!(
        world.shards.iter().all(|shard| shard.report().traces == 0),
        "its end is an end at once"
    );
}

#[test]
fn a_flood_is_counted_and_traces_are_few() {
    let (mut world, [_, _, peer]) = place(1);
    poll(&mut world, &ask(USER)).unwrap();
    let flood = route("peer.test", "example.net", &message("x@peer.test", USER, "b")).repeat(1_000);
    world.send(peer, &flood);
    let share = poll(&mut world, &ask(USER)).unwrap();
    assert_eq!(share.events.len(), EVENTS_PER_S_MAX as usize);
    assert!(share.left_out >= 1_000, "{}", share.left_out);
    for id in 2..=TRACES_MAX as u64 {
        poll(&mut world, &TraceAsk { id, ..ask(USER) }).unwrap();
    }
    assert!(poll(&mut world, &TraceAsk { id: 99, ..ask(USER) }).is_err());
    assert!(poll(&mut world, &TraceAsk { id: 99, ..ask("@") }).is_err());
}

#[test]
fn other_nodes_tell_their_part() {
    for shards in [1, 2] {
        let mut site = Site::new(3, shards);
        assert_eq!(site.login(1, 7, &format!("{USER}/r"), 10), 1);
        let ask = |tokens| TraceAsk { tokens, ..ask(USER) };
        let mut tokens = Vec::new();
        for _ in 0..3 {
            let share = whole(inquire(&mut site, 0, &Question::Trace(Box::new(ask(tokens))))).unwrap();
            tokens = share.tokens;
            site.pass(1_000_000);
        }
        assert!(tokens.contains(&token(10)), "{tokens:?}");
        site.say(0, USER, "hello");
        site.send_c2s(1, "sm", &from_client(7, &token(10), "<message to='v@peer0'/>"));
        site.pass(400_000);
        let share = whole(inquire(&mut site, 0, &Question::Trace(Box::new(ask(tokens))))).unwrap();
        let nodes: Vec<_> = share.nodes.iter().map(|node| (&*node.node, node.answers)).collect();
        assert_eq!(nodes, [("b.test", true), ("c.test", true)]);
        let at = |node: &str| -> Vec<String> {
            let events = share
                .events
                .iter()
                .filter(|event| event.node == node && event.hop != "shard");
            let mut said: Vec<_> = events.map(|event| format!("{} {}", event.hop, event.what)).collect();
            // All at one time.
            said.sort();
            said
        };
        assert_eq!(
            at("a.test"),
            ["from peer0", "node b.test"],
            "{shards} shards: {share:?}"
        );
        assert_eq!(
            at("b.test"),
            [
                "from c2s",
                "from-node a.test",
                "queued sm",
                "queued sm",
                "written sm",
                "written sm"
            ],
            "{shards} shards: {share:?}"
        );
        // The asker dies: its lease does, too.
        site.nodes[1].pass(LEASE_US + 400_000);
        assert!(site.nodes[1].shards.iter().all(|shard| shard.report().traces == 0));
    }
}

#[test]
fn a_probe_shows_the_way_and_delivers_nothing() {
    for shards in [1, 2] {
        let mut site = Site::new(3, shards);
        assert_eq!(site.login(1, 7, &format!("{USER}/desk"), 10), 1);
        site.drain();
        let mut way = |jid: &str, id| {
            let ask = TraceAsk {
                id,
                probe: true,
                ..ask(jid)
            };
            let mut events = Vec::new();
            for _ in 0..10 {
                events.extend(
                    whole(inquire(&mut site, 0, &Question::Trace(Box::new(ask.clone()))))
                        .unwrap()
                        .events,
                );
                site.pass(300_000);
            }
            let over = TraceAsk { over: true, ..ask };
            inquire(&mut site, 0, &Question::Trace(Box::new(over)));
            let said: Vec<_> = events
                .iter()
                .map(|event| format!("{} {} {}", event.node, event.hop, event.what))
                .collect();
            assert!(
                (0..3).all(|n| site.took_sm(n).is_empty() && site.took_c2s(n).is_empty()),
                "{said:?}"
            );
            said.join("\n")
        };
        let said = way(USER, 1);
        for step in [
            "a.test node b.test",
            "b.test way the user's sessions: desk",
            "b.test end sm: it would",
        ] {
            assert!(said.contains(step), "{step}: {said}");
        }
        let said = way("peer2.c.test", 2);
        assert!(
            said.contains("a.test node c.test") && said.contains("c.test end peer2: it would"),
            "{said}"
        );
        let said = way("x@foreign.test", 3);
        assert!(said.contains("end sent back (404): no s2s"), "{said}");
        let said = way("nobody@example.net", 4);
        assert!(
            said.contains("the user has no session") && said.contains(" end sm: it would"),
            "{said}"
        );
    }
}
