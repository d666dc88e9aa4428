//! Names: binds, adverts, errors (what a stock router does, and where it is better not to).

use super::world::{COMP, World, bind, message, route};
use crate::node::counters::Counter;
use crate::wire::connect::{Connect, ConnectStep, Connecting};
use rand_core::SeedableRng;

fn advert(name: &str) -> String {
    format!("<presence xmlns='{COMP}' from='{name}'/>")
}

fn normal(text: &str) -> String {
    text.replace("></presence>", "/>").replace("></bind>", "/>")
}

#[test]
fn the_first_bind_is_answered_before_any_advert() {
    for shards in [1, 2, 3] {
        let mut world = World::new(shards);
        let sm = world.component(&["sm", "*example.net"]);
        world.take(sm);
        let c2s = world.component(&["c2s"]);
        let read = normal(&world.take(c2s));
        assert!(read.starts_with(&format!("<bind xmlns='{COMP}'")), "{read}");
        for name in ["sm", "example.net"] {
            assert_eq!(read.matches(&advert(name)).count(), 1, "{read}");
        }
        assert!(!read.contains(&advert("c2s")));
        assert!(normal(&world.take(sm)).ends_with(&advert("c2s")));
    }
}

#[test]
fn what_a_new_seat_may_hold_of_a_former_life_is_ended() {
    for shards in [1, 2] {
        let mut world = World::new(shards);
        let sm = world.component(&["sm", "*example.net"]);
        let c2s = world.component(&["c2s"]);
        let gone = |name: &str| format!("<presence xmlns='{COMP}' type='unavailable' from='{name}'/>");
        let read = normal(&world.take(c2s));
        assert!(read.contains(&(gone("example.net") + &advert("example.net"))), "{read}");
        let read = normal(&world.take(sm));
        assert!(read.contains(&(gone("c2s") + &advert("c2s"))), "{read}");
    }
}

#[test]
fn binds_are_refused_with_the_codes_of_the_protocol() {
    let mut world = World::new(2);
    let first = world.component(&["a"]);
    world.take(first);
    world.alive = true;
    let second = world.connect("jabberd");
    world.send(second, &bind("a"));
    assert_eq!(world.take(second), "", "the present holder is asked first");
    world.pass(2_000_000);
    assert!(world.take(second).contains("error='409'"));
    world.send(second, &format!("<bind xmlns='{COMP}'/>"));
    assert!(world.take(second).contains("error='400'"));
    let stranger = world.connect("stranger");
    world.send(stranger, &bind("b"));
    assert!(world.take(stranger).contains("error='403'"));
    world.send(first, &format!("<unbind xmlns='{COMP}' name='nothing'/>"));
    assert!(world.take(first).contains("error='404'"));
}

#[test]
fn a_name_bound_twice_over_one_link_is_held_once() {
    let mut world = World::new(2);
    let sm = world.component(&["sm", "*example.net", "*example.net"]);
    let other = world.component(&["other"]);
    world.take(other);
    world.send(sm, &format!("<unbind xmlns='{COMP}' name='example.net'/>"));
    let read = world.take(other);
    assert_eq!(read.matches("unavailable").count(), 1, "{read}");
    world.send(other, &route("other", "example.net", "<x xmlns='u:t'/>"));
    assert!(world.take(other).contains("error='404'"));
}

#[test]
fn routes_find_their_names_whatever_their_case() {
    for shards in [1, 2] {
        let mut world = World::new(shards);
        let (a, c) = (world.component(&["a.test"]), world.component(&["c.test"]));
        world.take(c);
        let frame = route("u@a.test/r", "v@C.Test/s", "<x xmlns='u:t'/>");
        world.send(a, &frame);
        assert_eq!(world.take(c), frame, "bytes unchanged");
    }
}

#[test]
fn what_cannot_go_on_comes_back_with_its_code() {
    let mut world = World::new(2);
    let a = world.component(&["a"]);
    let b = world.component(&["b"]);
    world.take(a);
    for (frame, code) in [
        (route("a", "nowhere", "<x xmlns='u:t'/>"), "404"),
        (route("b", "b", "<x xmlns='u:t'/>"), "401"),
        (
            format!("<route xmlns='{COMP}' from='a'><x xmlns='u:t'/></route>"),
            "400",
        ),
    ] {
        world.send(a, &frame);
        let read = world.take(a);
        assert!(read.contains(&format!("error='{code}'")), "{frame} gave {read}");
    }
    world.send(
        a,
        &format!("<route xmlns='{COMP}' from='a' to='nowhere' error='404'><x xmlns='u:t'/></route>"),
    );
    assert_eq!(world.take(a), "", "a bounce is never bounced");
    assert_eq!(world.count(Counter::DropErrorRoute), 1);
    world.take(b);
    world.send(
        a,
        &format!("<route xmlns='{COMP}' from='a' type='broadcast'><x xmlns='u:t'/></route>"),
    );
    assert!(world.take(b).contains("type='broadcast'"));
    assert_eq!(world.take(a), "");
}

#[test]
fn the_default_route_gets_what_nobody_bound() {
    let mut world = World::new(2);
    let s2s = world.connect("jabberd");
    world.send(s2s, &format!("<bind xmlns='{COMP}' name='s2s'><default/></bind>"));
    let a = world.component(&["a"]);
    world.take(s2s);
    let frame = route("a", "example.com", &message("u@a", "v@example.com", "hi"));
    world.send(a, &frame);
    assert_eq!(world.take(s2s), frame);
    world.send(s2s, &route("s2s", "example.org", "<x xmlns='u:t'/>"));
    assert!(world.take(s2s).contains("error='404'"));
    let second = world.connect("jabberd");
    world.send(second, &format!("<bind xmlns='{COMP}' name='s2s2'><default/></bind>"));
    assert!(world.take(second).contains("error='409'"));
}

#[test]
fn a_log_sink_gets_a_copy_of_what_is_delivered() {
    let mut world = World::new(2);
    let sink = world.connect("jabberd");
    world.send(sink, &format!("<bind xmlns='{COMP}' name='log'><log/></bind>"));
    let a = world.component(&["a"]);
    let b = world.component(&["b"]);
    world.take(sink);
    world.take(b);
    let frame = route("a", "b", "<x xmlns='u:t'/>");
    world.send(a, &frame);
    assert_eq!(world.take(b), frame);
    let copy = world.take(sink);
    assert!(copy.contains("type='log'") && copy.contains("to='b'"), "{copy}");
    world.send(a, &route("a", "nowhere", "<x xmlns='u:t'/>"));
    assert_eq!(world.take(sink), "");
}

#[test]
fn throttle_holds_frames_back_until_its_second() {
    let mut world = World::new(1);
    let (a, b) = (world.component(&["a"]), world.component(&["b"]));
    world.take(b);
    world.send(b, &format!("<throttle xmlns='{COMP}'/>"));
    assert!(world.take(b).contains("<throttle"));
    let frame = route("a", "b", "<x xmlns='u:t'/>");
    world.send(a, &frame);
    assert_eq!(world.take(b), "");
    world.send(b, &format!("<throttle xmlns='{COMP}'/>"));
    let read = world.take(b);
    assert!(read.starts_with("<throttle") && read.ends_with(&frame), "{read}");
}

#[test]
fn malformed_input_closes_its_own_link_only() {
    let mut world = World::new(2);
    let (a, b) = (world.component(&["a"]), world.component(&["b"]));
    world.take(a);
    world.take(b);
    world.send(a, "<route></a>");
    let read = world.take(a);
    assert!(
        read.contains("<stream:error") && read.ends_with("</stream:stream>"),
        "{read}"
    );
    assert!(!world.is_open(a));
    assert!(world.is_open(b));
    assert_eq!(world.count(Counter::BadInput), 1);
}

/// Logs in as Debian's user; what became of it.
fn log_in(world: &mut World, remote: &str) -> Result<(), String> {
    let end = world.accept(remote);
    let mut client = Connect::new(Connecting::Native {
        user: "jabberd".into(),
        pass: "secret".into(),
        starttls: false,
        hostname: "test".into(),
    });
    let mut rng = rand_chacha::ChaCha20Rng::from_seed([1; 32]);
    let mut out = Vec::new();
    client.start(&mut out);
    let mut input = Vec::new();
    for _ in 0..10 {
        world.send(end, std::str::from_utf8(&std::mem::take(&mut out)).unwrap());
        input.extend_from_slice(world.take(end).as_bytes());
        match client.feed(&mut input, &mut out, &mut rng) {
            ConnectStep::Done(_) => return Ok(()),
            ConnectStep::Failed(reason) => return Err(reason),
            _ => {}
        }
    }
    panic!("neither in nor out")
}

#[test]
fn the_well_known_secret_is_taken_from_loopback_only() {
    let mut world = World::new(2);
    assert_eq!(log_in(&mut world, "127.0.0.1:1"), Ok(()));
    assert_eq!(log_in(&mut world, "[::1]:1"), Ok(()));
    assert_eq!(log_in(&mut world, "[::ffff:127.0.0.1]:1"), Ok(()));
    assert!(log_in(&mut world, "192.0.2.1:1").is_err());
    assert!(
        world
            .log
            .iter()
            .any(|line| line.text.contains("default secret") && line.remote.is_some())
    );
    let mut insists = World::with(1, |config| config.default_secret_allowed = true);
    assert_eq!(log_in(&mut insists, "192.0.2.1:1"), Ok(()));
    let mut changed = World::with(1, |config| {
        config.users.insert("jabberd".into(), "another".into());
    });
    assert!(
        log_in(&mut changed, "192.0.2.1:1").is_err(),
        "a wrong password is one anywhere"
    );
    assert!(
        !changed.log.iter().any(|line| line.text.contains("default secret")),
        "and has nothing to do with the default one"
    );
}

#[test]
fn a_xep0114_component_away_from_loopback_is_told_why_in_the_log() {
    let mut world = World::new(1);
    let end = world.accept("192.0.2.1:1");
    world.send(
        end,
        "<stream:stream xmlns='jabber:component:accept' xmlns:stream='http://etherx.jabber.org/streams' to='x.test'>",
    );
    assert!(!world.is_open(end));
    let told = |line: &crate::node::api::LogLine| line.text.contains("<local><secret>") && line.remote.is_some();
    assert!(world.log.iter().any(told), "{:?}", world.log);
}

#[test]
fn an_unfinished_handshake_is_ended_in_time() {
    let mut world = World::new(1);
    let end = world.accept("127.0.0.1:1");
    world.pass(60_000_000);
    assert!(!world.is_open(end));
    let read = world.take(end);
    assert!(
        read.starts_with("<stream:stream") && read.contains("connection-timeout"),
        "{read}"
    );
}

#[test]
fn frames_may_be_split_anywhere() {
    let frames: Vec<String> = [10, 3_000, 1, 70_000, 500]
        .iter()
        .map(|n| route("a", "b", &format!("<x xmlns='u:t'>{}</x>", "y".repeat(*n))))
        .collect();
    let sent = frames.concat();
    for step in [1, 7, 100, 2_047, 2_048, 2_049, 5_000, 65_536] {
        let mut world = World::new(2);
        let (a, b) = (world.component(&["a"]), world.component(&["b"]));
        world.take(b);
        for part in sent.as_bytes().chunks(step) {
            world.send(a, std::str::from_utf8(part).unwrap());
        }
        assert!(world.take(b) == sent, "in steps of {step}");
    }
}

#[test]
fn frames_behind_a_bind_wait_for_its_answer_and_none_is_lost() {
    for shards in [1, 2, 3] {
        for step in [1, 50, 300, 10_000] {
            let mut world = World::new(shards);
            let b = world.component(&["b"]);
            let a = world.connect("jabberd");
            world.take(b);
            let frame = |n: u32, from: &str| route(from, "b", &format!("<x xmlns='u:t'>{n}</x>"));
            // The component is an sm from its second bind on: its link is scanned with trust.
            let sent = bind("a") + &bind("*d") + &frame(1, "a") + &bind("c") + &frame(2, "c") + &frame(3, "a");
            for part in sent.as_bytes().chunks(step) {
                world.send(a, std::str::from_utf8(part).unwrap());
            }
            let read = world.take(b);
            assert!(
                read.contains(&frame(1, "a")) && read.ends_with(&(frame(2, "c") + &frame(3, "a"))),
                "{shards} {step}: {read}"
            );
        }
    }
}
