//! Components that came back: what they are asked, and what they are told again.

use super::world::{End, SESS, World, bind, control, from_client, message, route, start, started};

pub(super) const TOKENS: [&str; 2] = [
    "2fcc5f2b10f3c41120a3db9ee7620e93931e073c",
    "ab2180dc2779c96e97c08cbfc21f4da49e2eedb7",
];
pub(super) const JIDS: [&str; 2] = ["juliet@example.net/balcony", "romeo@example.net/orchard"];

/// One sm and one c2s with two clients, 9 and 10.
pub(super) fn site(shards: u16) -> (World, End, End, End) {
    let mut world = World::new(shards);
    let sm = world.component(&["sm", "*example.net"]);
    let c2s = world.component(&["c2s"]);
    let peer = world.component(&["peer"]);
    for (number, (jid, token)) in (9..).zip(JIDS.into_iter().zip(TOKENS)) {
        login(&mut world, sm, c2s, number, jid, token);
    }
    [sm, c2s, peer].into_iter().for_each(|end| drop(world.take(end)));
    (world, sm, c2s, peer)
}

pub(super) fn login(world: &mut World, sm: End, c2s: End, number: u32, jid: &str, token: &str) {
    world.send(c2s, &route("c2s", "example.net", &start(number, jid, "id1")));
    world.send(sm, &route("sm", "c2s", &started(number, jid, "id1", token)));
    world.send(c2s, &route("c2s", "sm", &from_client(number, token, "<presence/>")));
}

/// The questions in what a component read: (number, id).
pub(super) fn questions(read: &str) -> Vec<(u32, String)> {
    let frames = read.split("<route").filter(|frame| frame.contains("jidmesh-ask-"));
    // c2s sends its answer to the domain of the target.
    let to_c2s = frames.clone().filter(|frame| frame.contains("'started'"));
    to_c2s.for_each(|frame| assert!(frame.contains("@example.net' id='jidmesh'"), "{frame}"));
    let after = |frame: &str, what: &str| frame.split(what).nth(1).unwrap().split('\'').next().unwrap().to_owned();
    frames
        .map(|frame| {
            let number = after(frame, "sc:c2s='").parse().unwrap();
            (number, format!("jidmesh-ask-{}", after(frame, "jidmesh-ask-")))
        })
        .collect()
}

pub(super) fn sm_says(world: &mut World, sm: End, id: &str, (number, token): (u32, &str), holds: bool) {
    let head = format!("<iq xmlns:sc='{SESS}' xmlns='jabber:client' sc:c2s='{number}' sc:sm='{token}' id='{id}'");
    let (from, iq) = match holds {
        true => ("example.net", format!("{head} type='result'/>")),
        false => ("sm", format!("{head} type='get' failed='1'/>")),
    };
    world.send(sm, &route(from, "c2s", &iq));
}

#[test]
fn what_an_sm_did_not_answer_is_said_again_before_what_waited() {
    for shards in [1, 2, 3] {
        let (mut world, sm, c2s, peer) = site(shards);
        world.send(c2s, &route("c2s", "sm", &control("end", 10, TOKENS[1])));
        world.send(
            c2s,
            &route("c2s", "example.net", &start(11, "nurse@example.net/r", "id3")),
        );
        let said = world.take(sm);
        assert!(said.contains("action='end'") && said.contains("id3"), "{said}");
        // Inside the broken connection, for all that is known.
        world.cut(sm);
        let later = message("x@peer", "nurse@example.net", "later");
        world.send(peer, &route("peer", "example.net", &later));
        let sm = world.component(&["sm", "*example.net"]);
        let (number, id) = questions(&world.take(sm)).remove(0);
        assert_eq!(number, 9, "a session that ends proves nothing");
        sm_says(&mut world, sm, &id, (9, TOKENS[0]), true);
        let read = world.take(sm);
        assert!(read.starts_with(&said), "{read}");
        assert!(read.find("id3").unwrap() < read.find("later").unwrap(), "{read}");
        // Answered now: not a third time.
        world.send(sm, &route("sm", "c2s", &control("ended", 10, TOKENS[1])));
        world.send(
            sm,
            &route("sm", "c2s", &started(11, "nurse@example.net/r", "id3", &"3".repeat(40))),
        );
        world.cut(sm);
        let sm = world.component(&["sm", "*example.net"]);
        let (_, id) = questions(&world.take(sm)).remove(0);
        sm_says(&mut world, sm, &id, (9, TOKENS[0]), true);
        assert_eq!(world.take(sm).matches("<route").count(), 0);
        assert_eq!(world.sessions(), 2);
    }
}

#[test]
fn one_session_that_an_sm_does_not_hold_is_no_proof_that_it_was_restarted() {
    for shards in [1, 2] {
        let (mut world, sm, c2s, _) = site(shards);
        world.cut(sm);
        let sm = world.component(&["sm", "*example.net"]);
        let asked = questions(&world.take(sm));
        assert_eq!(asked.len(), 2);
        let id = &asked[0].1;
        sm_says(&mut world, sm, id, (9, TOKENS[0]), false);
        assert_eq!(world.sessions(), 2);
        sm_says(&mut world, sm, id, (10, TOKENS[1]), true);
        assert_eq!(world.sessions(), 1, "that one is cleared, the other stays");
        let read = world.take(c2s);
        assert!(read.contains("error='404'") && read.contains(TOKENS[0]), "{read}");
        assert!(!read.contains(TOKENS[1]), "{read}");
    }
}

#[test]
fn a_client_that_left_while_its_c2s_was_away_is_found() {
    for shards in [1, 2] {
        let (mut world, sm, c2s, _) = site(shards);
        world.cut(c2s);
        let c2s = world.component(&["c2s"]);
        for (number, id) in questions(&world.take(c2s)) {
            // 10 is unknown there by now.
            let to = if number == 9 { "sm" } else { "example.net" };
            world.send(c2s, &route("c2s", to, &control("end", number, &id)));
        }
        for (number, id) in questions(&world.take(c2s)) {
            assert_eq!(number, 10);
            world.send(c2s, &route("c2s", "example.net", &control("end", number, &id)));
        }
        let read = world.take(sm);
        assert!(read.contains("action='end'") && read.contains(TOKENS[1]), "{read}");
        assert!(!read.contains(TOKENS[0]), "{read}");
    }
}

#[test]
fn a_number_used_again_while_its_c2s_was_away_hides_no_ghost() {
    let (mut world, sm, c2s, _) = site(1);
    world.cut(c2s);
    let c2s = world.connect("jabberd");
    world.send(c2s, &bind("c2s"));
    let asked = questions(&world.take(c2s));
    // The `end` of 10 was lost; somebody else has the number, and his session is new.
    login(&mut world, sm, c2s, 10, "nurse@example.net/r", &"3".repeat(40));
    for (number, id) in asked {
        let to = if number < 11 { "sm" } else { "example.net" };
        world.send(c2s, &route("c2s", to, &control("end", number, &id)));
    }
    let read = world.take(c2s);
    assert!(
        read.contains("action='started'") && read.contains(TOKENS[1]),
        "asked with its own id: {read}"
    );
    world.take(sm);
    // c2s ends what is not its client's, at that client's sm.
    world.send(c2s, &route("c2s", "sm", &control("end", 10, TOKENS[1])));
    assert!(world.take(sm).contains(TOKENS[1]));
    world.send(sm, &route("sm", "c2s", &control("ended", 10, TOKENS[1])));
    assert_eq!(world.sessions(), 2);
}

#[test]
fn a_client_that_waits_for_its_start_is_no_sign_of_death() {
    let (mut world, _, c2s, _) = site(1);
    world.cut(c2s);
    let c2s = world.component(&["c2s"]);
    let asked = questions(&world.take(c2s));
    // 9 is unknown; 10 is somebody's who has no session yet, so c2s says nothing.
    for (number, id) in asked.iter().filter(|(number, _)| *number != 10) {
        world.send(c2s, &route("c2s", "example.net", &control("end", *number, id)));
    }
    assert_eq!(world.sessions(), 2, "it is the same process");
    world.pass(20_000_000);
    assert!(world.is_open(c2s));
}

#[test]
fn an_sm_that_lost_its_link_is_told_again_of_a_lost_c2s() {
    let (mut world, sm, c2s, _) = site(2);
    let other = world.component(&["c2s2"]);
    let (nurse, token) = ("nurse@example.net/r", "3".repeat(40));
    world.send(other, &route("c2s2", "example.net", &start(9, nurse, "id1")));
    world.send(sm, &route("sm", "c2s2", &started(9, nurse, "id1", &token)));
    world.cut(c2s);
    world.pass(10_000_000);
    let gone = "type='unavailable' from='c2s'";
    assert!(world.take(sm).contains(gone));
    world.cut(sm);
    let sm = world.component(&["sm", "*example.net"]);
    let id = questions(&world.take(sm)).remove(0).1;
    sm_says(&mut world, sm, &id, (9, &token), true);
    assert!(world.take(sm).contains(gone));
}

#[test]
fn a_client_whose_dismissal_was_inside_the_broken_link_is_dismissed_again() {
    for shards in [1, 2] {
        let (mut world, sm, c2s, _) = site(shards);
        world.send(sm, &route("sm", "c2s", &control("replaced", 10, TOKENS[1])));
        assert!(world.take(c2s).contains("'replaced'"));
        world.cut(c2s);
        let c2s = world.component(&["c2s"]);
        let asked = questions(&world.take(c2s));
        world.send(c2s, &route("c2s", "sm", &control("end", 9, &asked[0].1)));
        let read = world.take(c2s);
        assert!(read.contains("'ended'") && read.contains(TOKENS[1]), "{read}");
        assert!(!read.contains(TOKENS[0]), "{read}");
        // Said before it has read that.
        world.send(
            c2s,
            &route("c2s", "sm", &from_client(10, TOKENS[1], "<message to='x@peer'/>")),
        );
        assert!(
            !world.take(c2s).contains("error='404'"),
            "another may have the number by now"
        );
        assert_eq!(world.take(sm).matches("<message").count(), 0);
    }
}

#[test]
fn what_an_sm_says_of_itself_answers_nothing() {
    let (mut world, sm, c2s, _) = site(1);
    world.send(
        c2s,
        &route("c2s", "example.net", &start(11, "nurse@example.net/r", "id3")),
    );
    world.send(c2s, &route("c2s", "sm", &control("end", 9, TOKENS[0])));
    // It stops before it has read any of this.
    for (number, token) in (9..).zip(TOKENS) {
        world.send(sm, &route("sm", "c2s", &control("ended", number, token)));
    }
    world.cut(sm);
    let sm = world.component(&["sm", "*example.net"]);
    let read = world.take(sm);
    assert_eq!(
        (read.matches("id3").count(), read.matches("'end'").count()),
        (1, 0),
        "{read}"
    );
}

#[test]
fn a_session_is_over_when_its_sm_started_another_of_the_same_sm_side_id() {
    for shards in [1, 2, 3] {
        let (mut world, sm, c2s, _) = site(shards);
        let other = world.component(&["c2s2"]);
        // An advert had ended the former without a word, within the second.
        for (end, name, number) in [(c2s, "c2s", 11), (other, "c2s2", 9)] {
            world.send(end, &route(name, "example.net", &start(number, JIDS[0], "id2")));
            world.send(sm, &route("sm", name, &started(number, JIDS[0], "id2", TOKENS[0])));
        }
        assert_eq!(world.sessions(), 4);
        for number in [9, 11] {
            world.send(c2s, &route("c2s", "sm", &control("end", number, TOKENS[0])));
        }
        assert_eq!(world.sessions(), 2, "sm does not answer these");
        world.send(sm, &route("sm", "c2s2", &control("ended", 9, TOKENS[0])));
        assert_eq!(world.sessions(), 1);
    }
}

#[test]
fn a_client_who_is_there_again_is_not_dismissed_again() {
    let (mut world, sm, c2s, _) = site(1);
    world.send(sm, &route("sm", "c2s", &control("ended", 10, TOKENS[1])));
    // Within the second.
    login(&mut world, sm, c2s, 10, JIDS[1], TOKENS[1]);
    world.cut(c2s);
    let c2s = world.component(&["c2s"]);
    for (number, id) in questions(&world.take(c2s)) {
        world.send(c2s, &route("c2s", "sm", &control("end", number, &id)));
    }
    assert!(!world.take(c2s).contains("'ended'"));
    assert_eq!(world.sessions(), 2);
}
