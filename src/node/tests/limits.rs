//! Every limit: what happens beyond it, to whom, and which counter says so.

use super::world::{COMP, End, World, bind, message, route, start};
use crate::node::counters::Counter;
use crate::table::registrar::NAMES_PER_SEAT_MAX;

/// sm, c2s, and a component that nobody knows.
fn site(world: &mut World) -> (End, End, End) {
    let sm = world.component(&["sm", "*example.net"]);
    let c2s = world.component(&["c2s"]);
    let peer = world.component(&["peer"]);
    for end in [sm, c2s, peer] {
        world.take(end);
    }
    (sm, c2s, peer)
}

fn say(to: &str, body: &str) -> String {
    route("peer", "example.net", &message("x@peer", to, body))
}

#[test]
fn what_is_held_beyond_its_limit_goes_back_to_its_sender() {
    for shards in [1, 2] {
        let mut world = World::with(shards, |config| config.queues.held_bytes = 20_000);
        let (sm, c2s, peer) = site(&mut world);
        let second = world.component(&["sm2", "*example.net"]);
        world.take(peer);
        // His first session is being started on the sm that has not worked for him: a fence first, and it is not answered.
        world.send(peer, &say("juliet@example.net", "before"));
        let duty = [sm, second].into_iter().find(|sm| world.take(*sm).contains("before"));
        let duty = duty.expect("somebody has it");
        let other = if duty == sm { "sm2" } else { "sm" };
        world.reload(|config| {
            config.queues.held_bytes = 20_000;
            config.filter = super::placement::redirects_starts(other);
        });
        world.send(
            c2s,
            &route("c2s", "example.net", &start(9, "juliet@example.net/r", "i1")),
        );
        world.send(peer, &say("juliet@example.net", &"x".repeat(1_000)).repeat(40));
        let bounced = world.take(peer).matches("error='503'").count();
        assert!((20..40).contains(&bounced), "{bounced}");
        assert_eq!(world.count(Counter::BounceQueue), bounced as u64);
        assert_eq!(world.count(Counter::HeldFrames), 40 - bounced as u64);
        // One user's frames do not hold up another's.
        world.send(peer, &say("romeo@example.net", "to romeo"));
        assert!([sm, second].into_iter().any(|sm| world.take(sm).contains("to romeo")));
        // In the end all that was held arrives.
        world.pass(10_000_000);
        let (one, two) = (world.take(sm), world.take(second));
        assert_eq!((one + &two).matches("xxx</body>").count(), 40 - bounced);
    }
}

#[test]
fn presence_for_a_component_with_a_full_queue_is_dropped_and_counted() {
    let mut world = World::with(1, |config| config.queues.link_bytes = 10_000);
    let (sm, _, peer) = site(&mut world);
    world.stuck = Some(peer);
    let filler = "x".repeat(900);
    let frame = |name: &str| {
        let payload =
            format!("<{name} xmlns='jabber:client' from='a@example.net' to='b@peer'><x>{filler}</x></{name}>");
        route("sm", "peer", &payload)
    };
    world.send(sm, &frame("message").repeat(20));
    let bounced = world.take(sm).matches("error='503'").count();
    assert!(bounced > 5);
    world.send(sm, &frame("presence").repeat(7));
    assert_eq!(world.take(sm), "");
    assert_eq!(world.count(Counter::DropQueue), 7);
}

#[test]
fn a_component_that_takes_nothing_for_a_minute_is_disconnected() {
    let mut world = World::new(2);
    let (sm, _, peer) = site(&mut world);
    // However long it had nothing to take before.
    world.pass(200_000_000);
    world.stuck = Some(peer);
    world.send(sm, &route("sm", "peer", "<x xmlns='u:t'/>"));
    world.accept("127.0.0.1:1");
    world.pass(58_000_000);
    assert!(world.is_open(peer));
    world.pass(4_000_000);
    assert!(!world.is_open(peer));
    assert_eq!(world.count(Counter::LinksStalled), 1);
    let told = |line: &crate::node::api::LogLine| line.text.contains("took nothing") && line.remote.is_some();
    assert!(world.log.iter().any(told), "{:?}", world.log);
}

#[test]
fn a_component_binds_so_many_names_and_no_more() {
    let mut world = World::new(2);
    let greedy = world.component(&["greedy"]);
    for name in 1..NAMES_PER_SEAT_MAX {
        world.send_unsettled(greedy, &bind(&format!("n{name}")));
        if name % 100 == 0 {
            world.rest();
        }
    }
    world.rest();
    assert!(!world.take(greedy).contains("error="));
    world.send(greedy, &bind("one.more"));
    assert!(world.take(greedy).contains("error='403'"));
    let other = world.component(&["one.more"]);
    assert!(!world.take(other).contains("error="), "for anybody else it is free");
}

#[test]
fn starts_of_one_user_beyond_the_limit_are_answered() {
    let mut world = World::new(2);
    let (sm, c2s, _) = site(&mut world);
    for number in 0..300 {
        let jid = format!("juliet@example.net/r{number}");
        world.send(
            c2s,
            &route("c2s", "example.net", &start(number, &jid, &format!("i{number}"))),
        );
    }
    assert_eq!(world.take(sm).matches("action='start'").count(), 256);
    assert_eq!(world.take(c2s).matches("error='503'").count(), 44);
    assert_eq!(world.count(Counter::StartsRefused), 44);
}

#[test]
fn keepalives_are_off_without_an_interval_of_checks_and_begin_with_a_new_configuration() {
    let mut world = World::with(1, |config| (config.check.interval_s, config.check.keepalive_s) = (0, 1));
    let a = world.component(&["a.test"]);
    world.take(a);
    world.pass(30_000_000);
    assert_eq!(world.take(a), "", "<interval>0</interval> disables all checks");
    world.reload(|config| (config.check.interval_s, config.check.keepalive_s) = (2, 3));
    world.pass(30_000_000);
    let spaces = world.take(a);
    assert!(
        (5..=10).contains(&spaces.len()) && spaces.trim().is_empty(),
        "{spaces:?}"
    );
    let frame = format!("<throttle xmlns='{COMP}'/>");
    world.send(a, &frame);
    assert!(world.take(a).starts_with("<throttle"), "and nothing else has happened");
}
