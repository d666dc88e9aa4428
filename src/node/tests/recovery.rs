//! The process dies, and another one begins with what it had written down.

use super::world::{End, World, control, from_client, message, route, start, started};
use crate::node::counters::Counter;
use crate::node::image::Image;
use crate::node::recovery::head;
use crate::table::image::records;

const TOKEN: &str = "2fcc5f2b10f3c41120a3db9ee7620e93931e073c";
const OTHER: &str = "ab2180dc2779c96e97c08cbfc21f4da49e2eedb7";
const JULIET: &str = "juliet@example.net/balcony";
const ROMEO: &str = "romeo@example.net/orchard";

fn log_in(world: &mut World, (c2s, sm): (End, End), number: u32, full: &str, token: &str) {
    let id = format!("id{number}");
    world.send(c2s, &route("c2s", "example.net", &start(number, full, &id)));
    world.send(sm, &route("sm", "c2s", &started(number, full, &id, token)));
    world.send(c2s, &route("c2s", "sm", &from_client(number, token, "<presence/>")));
}

/// Juliet and Romeo are online, and that is written down.
fn site(shards: u16) -> (World, End, End) {
    let mut world = World::new(shards);
    world.write_down(true);
    let sm = world.component(&["sm", "*example.net"]);
    let c2s = world.component(&["c2s"]);
    log_in(&mut world, (c2s, sm), 9, JULIET, TOKEN);
    log_in(&mut world, (c2s, sm), 10, ROMEO, OTHER);
    world.write_down(false);
    (world, sm, c2s)
}

/// The components are back; what they read, sm first.
fn back(world: &mut World) -> (End, End, String, String) {
    let sm = world.component(&["sm", "*example.net"]);
    let c2s = world.component(&["c2s"]);
    let (to_sm, to_c2s) = (world.take(sm), world.take(c2s));
    (sm, c2s, to_sm, to_c2s)
}

fn questions(read: &str) -> Vec<String> {
    let ids = read.split("jidmesh-ask-").skip(1);
    ids.map(|rest| format!("jidmesh-ask-{}", rest.split('\'').next().unwrap()))
        .collect()
}

/// The same sm answers.
fn sm_answers(world: &mut World, sm: End, read: &str) {
    let id = &questions(read)[0];
    let answer = format!("<iq xmlns='jabber:client' type='result' id='{id}'/>");
    world.send(sm, &route("example.net", "c2s", &answer));
}

/// c2s knows these numbers: it answers to sm, else to the domain, as long as it is asked.
fn c2s_answers(world: &mut World, c2s: End, mut read: String, known: &[u32]) {
    for _ in 0..10 {
        let asked: Vec<(u32, String)> = read
            .split("<route ")
            .filter(|frame| frame.contains("jidmesh-ask-"))
            .map(|frame| {
                let number = frame.split("sc:c2s='").nth(1).unwrap().split('\'').next().unwrap();
                (number.parse().unwrap(), questions(frame)[0].clone())
            })
            .collect();
        for (number, id) in asked {
            let to = if known.contains(&number) { "sm" } else { "example.net" };
            world.send(c2s, &route("c2s", to, &control("end", number, &id)));
        }
        read = world.take(c2s);
    }
}

#[test]
fn sessions_of_components_that_outlived_the_crash_go_on() {
    for (before, after) in [(1, 1), (1, 3), (3, 2)] {
        let (mut world, ..) = site(before);
        world.crash(after);
        assert_eq!(world.sessions(), 2);
        let (sm, c2s, to_sm, to_c2s) = back(&mut world);
        let gone = |read: &str, name: &str| read.contains(&format!("type='unavailable' from='{name}'"));
        assert!(
            !gone(&to_sm, "c2s") && !gone(&to_c2s, "example.net"),
            "{to_sm} {to_c2s}"
        );
        assert!(gone(&to_sm, "jidmesh.router"), "nobody else ends surrogates: {to_sm}");
        sm_answers(&mut world, sm, &to_sm);
        c2s_answers(&mut world, c2s, to_c2s, &[9, 10]);
        assert_eq!(world.count(Counter::RecoveredKept), 2);
        assert_eq!(world.count(Counter::RecoveredCut), 0);
        let hello = message(ROMEO, JULIET, "hello");
        world.send(sm, &route("sm", "example.net", &hello));
        assert!(world.take(sm).contains(">hello<"));
        assert_eq!(world.count(Counter::ZombiesCleared), 0);
        world.send(c2s, &route("c2s", "sm", &control("end", 9, TOKEN)));
        world.send(sm, &route("sm", "c2s", &control("ended", 9, TOKEN)));
        assert_eq!(world.sessions(), 1);
    }
}

#[test]
fn a_session_that_its_c2s_lost_in_the_crash_is_ended_at_its_sm() {
    for shards in [1, 2] {
        let (mut world, ..) = site(shards);
        world.crash(shards);
        let (sm, c2s, to_sm, to_c2s) = back(&mut world);
        sm_answers(&mut world, sm, &to_sm);
        world.take(sm);
        c2s_answers(&mut world, c2s, to_c2s, &[10]);
        let read = world.take(sm);
        assert!(read.contains("action='end'") && read.contains(TOKEN), "{read}");
        assert!(!read.contains(OTHER), "{read}");
        assert_eq!(world.count(Counter::RecoveredKept), 1);
        assert_eq!(world.count(Counter::RecoveredCut), 1);
        assert!(world.log.iter().any(|line| line.text.contains("1 go on, 1 are over")));
    }
}

#[test]
fn an_sm_that_is_another_process_loses_its_sessions_and_c2s_is_told() {
    for shards in [1, 2] {
        let (mut world, ..) = site(shards);
        world.crash(shards);
        let (sm, c2s, to_sm, to_c2s) = back(&mut world);
        c2s_answers(&mut world, c2s, to_c2s, &[9, 10]);
        for (number, token) in [(9, TOKEN), (10, OTHER)] {
            let id = &questions(&to_sm)[0];
            let failed = format!(
                "<iq xmlns='jabber:client' xmlns:sc='http://jabberd.jabberstudio.org/ns/session/1.0' failed='1' type='get' \
                 id='{id}' sc:c2s='{number}' sc:sm='{token}'/>"
            );
            world.send(sm, &route("sm", "c2s", &failed));
        }
        let read = world.take(c2s);
        assert_eq!(read.matches("action='ended'").count(), 2, "{read}");
        assert_eq!(world.sessions(), 0);
        assert!(world.log.iter().any(|line| line.text.contains("was restarted")));
    }
}

#[test]
fn who_does_not_come_back_after_the_crash_is_given_up() {
    let (mut world, ..) = site(2);
    world.crash(2);
    world.pass(20_000_000);
    assert_eq!(world.sessions(), 0);
    assert_eq!(world.count(Counter::RecoveredCut), 2);
    // What comes now is a newcomer, to whom nothing of before is said to go on.
    let sm = world.component(&["sm", "*example.net"]);
    assert!(questions(&world.take(sm)).is_empty());
}

#[test]
fn a_start_that_was_not_answered_is_said_again() {
    for shards in [1, 2] {
        let (mut world, _, c2s) = site(shards);
        world.send(
            c2s,
            &route("c2s", "example.net", &start(11, "nurse@example.net/house", "id11")),
        );
        world.write_down(false);
        world.crash(shards);
        let (sm, _, to_sm, _) = back(&mut world);
        sm_answers(&mut world, sm, &to_sm);
        let read = world.take(sm);
        assert_eq!(read.matches("nurse@example.net/house").count(), 1, "{read}");
    }
}

#[test]
fn who_is_gone_before_the_crash_is_not_written_down() {
    let (mut world, sm, c2s) = site(1);
    world.send(c2s, &route("c2s", "sm", &control("end", 9, TOKEN)));
    world.send(sm, &route("sm", "c2s", &control("ended", 9, TOKEN)));
    world.write_down(false);
    world.crash(1);
    assert_eq!(world.sessions(), 1);
}

#[test]
fn a_record_that_is_cut_off_at_the_end_is_left_out_and_nonsense_is_refused() {
    let (world, ..) = site(1);
    let all = records(&world.file).count();
    assert!(all > 2);
    for cut in 1..8 {
        assert_eq!(records(&world.file[..world.file.len() - cut]).count(), all - 1);
    }
    for cut in 0..world.file.len() {
        let _ = Image::recovered(&world.file[..cut], 1, 1);
    }
    assert!(Image::recovered(b"", 1, 1).is_err());
    assert!(Image::recovered(&[0xff; 64], 1, 1).is_err());
    assert_ne!(head("router", "one"), head("router", "two"));
}
