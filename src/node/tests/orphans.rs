//! Sessions whose c2s is lost while nobody knows whether their sm lives.

use super::question::{JIDS, TOKENS, login, questions, site, sm_says};
use super::world::{End, SESS, World, control, from_client, route, start};

/// An sm is back after the c2s of its two sessions was given up; `told`: after it had been told of that.
fn sm_is_back(shards: u16, told: bool) -> (World, End, Vec<(u32, String)>) {
    let (mut world, sm, c2s, _) = site(shards);
    world.cut(c2s);
    if told {
        world.pass(10_000_000);
        assert!(world.take(sm).contains(GONE));
        world.cut(sm);
    } else {
        world.pass(5_000_000);
        world.cut(sm);
        world.pass(5_000_000);
    }
    assert_eq!(world.sessions(), 0);
    let sm = world.component(&["sm", "*example.net"]);
    let asked = questions(&world.take(sm));
    assert_eq!(asked.len(), 2);
    (world, sm, asked)
}

const FENCE: &str = "jidmesh-fence-";
const GONE: &str = "type='unavailable' from='c2s'";

/// The sm denies all that it was asked about: the contacts of both sessions are told.
fn told_once_denied(world: &mut World, sm: End, asked: Vec<(u32, String)>) {
    for (number, id) in asked {
        sm_says(world, sm, &id, (number, TOKENS[number as usize - 9]), false);
    }
    let read = world.take(sm);
    for jid in JIDS {
        assert!(read.contains(&format!("target='{jid}' id='jidmesh-tell-")), "{read}");
    }
}

#[test]
fn contacts_are_told_when_the_sm_died_without_having_ended_them() {
    for (shards, told) in [(1, false), (2, false), (3, true), (1, true)] {
        let (mut world, sm, asked) = sm_is_back(shards, told);
        told_once_denied(&mut world, sm, asked);
    }
}

#[test]
fn contacts_hear_it_from_the_sm_when_it_lives() {
    for (shards, told) in [(1, false), (2, true)] {
        let (mut world, sm, asked) = sm_is_back(shards, told);
        sm_says(&mut world, sm, &asked[0].1, (9, TOKENS[0]), true);
        let mut read = world.take(sm);
        assert!(read.find(GONE).unwrap() < read.find(FENCE).expect("a fence"), "{read}");
        while let Some(at) = read.find(FENCE) {
            let id = read[at..].split('\'').next().unwrap();
            let answer = format!("<iq xmlns='jabber:client' type='result' id='{id}' from='example.net'/>");
            world.send(sm, &route("sm", "jidmesh.router", &answer));
            read = read.split_off(at + FENCE.len()) + &world.take(sm);
        }
        // It has ended them, which is proved: whatever it is when it is back again, there is nothing to ask.
        world.cut(sm);
        let sm = world.component(&["sm", "*example.net"]);
        let read = world.take(sm);
        assert!(
            !read.contains("jidmesh-ask-") && !read.contains("jidmesh-tell-"),
            "{read}"
        );
    }
}

#[test]
fn who_has_the_number_at_a_new_c2s_is_left_alone() {
    let (mut world, sm, c2s, _) = site(2);
    world.cut(c2s);
    world.pass(10_000_000);
    world.cut(sm);
    let sm = world.component(&["sm", "*example.net"]);
    let asked = world.take(sm);
    let id = questions(&asked).remove(0).1;
    sm_says(&mut world, sm, &id, (10, TOKENS[1]), true);
    let c2s = world.component(&["c2s"]);
    let token = "3".repeat(40);
    login(&mut world, sm, c2s, 9, "nurse@example.net/r", &token);
    world.take(c2s);
    // It was asked before. It had ended this one, and gives the question back to the one who asked.
    assert!(
        asked.contains("from='jidmesh.router'") && !asked.contains("from='c2s'"),
        "{asked}"
    );
    let back = format!(
        "<iq xmlns:sc='{SESS}' xmlns='jabber:client' sc:c2s='9' sc:sm='{}' id='{id}' type='get' failed='1'/>",
        TOKENS[0]
    );
    world.send(sm, &route("sm", "jidmesh.router", &back));
    assert_eq!(world.take(c2s), "");
    assert_eq!(world.sessions(), 1);
}

#[test]
fn contacts_are_told_of_a_session_that_was_ending_when_its_sm_died() {
    for shards in [1, 2] {
        let (mut world, sm, c2s, _) = site(shards);
        world.send(c2s, &route("c2s", "sm", &control("end", 9, TOKENS[0])));
        world.send(c2s, &route("c2s", "sm", &control("end", 10, TOKENS[1])));
        world.cut(sm);
        // Nothing is left that it could be asked about.
        let sm = world.component(&["sm", "*example.net"]);
        let read = world.take(sm);
        assert!(
            read.contains("action='end'") && !read.contains("jidmesh-ask-"),
            "{read}"
        );
        let failed = format!(
            "<sc:session xmlns:sc='{SESS}' sc:failed='1' action='end' sc:sm='{}' sc:c2s='9'/>",
            TOKENS[0]
        );
        world.send(sm, &route("sm", "c2s", &failed));
        let read = world.take(sm);
        assert!(
            read.contains(&format!("target='{}' id='jidmesh-tell-", JIDS[0])),
            "{read}"
        );
        world.send(sm, &route("sm", "c2s", &control("ended", 10, TOKENS[1])));
        assert!(!world.take(sm).contains("jidmesh-tell-"), "sm itself has told them");
    }
}

#[test]
fn an_sm_whose_clients_all_left_while_it_was_away_is_asked_all_the_same() {
    for shards in [1, 2] {
        let (mut world, sm, c2s, _) = site(shards);
        world.cut(sm);
        for (number, token) in (9..).zip(TOKENS) {
            world.send(c2s, &route("c2s", "sm", &control("end", number, token)));
        }
        // One is back, whom contacts do not see.
        world.send(c2s, &route("c2s", "example.net", &start(9, JIDS[0], "id2")));
        let sm = world.component(&["sm", "*example.net"]);
        let read = world.take(sm);
        assert!(!read.contains("from='c2s'><iq"), "{read}");
        for (number, id) in questions(&read) {
            let token = TOKENS[number as usize - 9];
            let back = format!(
                "<iq xmlns:sc='{SESS}' xmlns='jabber:client' sc:c2s='{number}' sc:sm='{token}' id='{id}' type='get' failed='1'/>"
            );
            world.send(sm, &route("sm", "jidmesh.router", &back));
        }
        let read = world.take(sm);
        assert!(
            read.contains("jidmesh-tell-") && !read.contains("id='id2'"),
            "told first: {read}"
        );
    }
}

#[test]
fn a_message_that_a_surrogate_got_goes_to_its_user_again() {
    let (mut world, sm, c2s, _) = site(1);
    world.cut(c2s);
    world.pass(10_000_000);
    world.take(sm);
    // Returned before, a moment ago.
    for (to, number) in [("c2s", 9), ("jidmesh.router", 1)] {
        let stanza = format!(
            "<message from='x@peer' to='{}' id='m1'><body>hi</body></message>",
            JIDS[0]
        );
        world.send(sm, &route("example.net", to, &from_client(number, TOKENS[0], &stanza)));
        assert_eq!(world.take(sm).matches(">hi<").count(), 1, "{to}");
    }
}

#[test]
fn another_process_that_takes_over_still_has_contacts_told() {
    for (before, after) in [(1, 2), (2, 1), (3, 2)] {
        for told in [false, true] {
            let (mut world, sm, c2s, _) = site(before);
            world.cut(c2s);
            world.pass(if told { 10_000_000 } else { 5_000_000 });
            world.cut(sm);
            world.hand_over(after);
            world.pass(5_000_000);
            assert_eq!(world.sessions(), 0);
            let sm = world.component(&["sm", "*example.net"]);
            let asked = questions(&world.take(sm));
            assert_eq!(asked.len(), 2, "{before} {after} {told}");
            told_once_denied(&mut world, sm, asked);
        }
    }
}

#[test]
fn an_sm_that_was_given_up_hears_of_a_c2s_that_was_given_up_since() {
    for shards in [1, 2] {
        let (mut world, sm, c2s, _) = site(shards);
        world.cut(sm);
        world.pass(10_000_000);
        world.cut(c2s);
        world.pass(10_000_000);
        world.hand_over(2);
        // It has been alive all the time, and holds what it held.
        let sm = world.component(&["sm", "*example.net"]);
        assert_eq!(world.take(sm).matches(GONE).count(), 1);
        // Who came after that has nothing of it.
        let c2s = world.component(&["c2s"]);
        let other = world.component(&["sm2", "*example.net"]);
        assert_eq!(world.take(other).matches(GONE).count(), 1);
        world.take(c2s);
    }
}
