//! An sm that was given up lives: what it says of its former sessions is not true any more.

use super::world::{End, World, control, from_client, route, start, started};
use crate::node::counters::Counter;

const JULIET: &str = "juliet@example.net/balcony";
const TOKEN: [&str; 3] = [
    "2fcc5f2b10f3c41120a3db9ee7620e93931e073c",
    "ab2180dc2779c96e97c08cbfc21f4da49e2eedb7",
    "3bd4375b8f22fe47a465fc1236cc34b1a4aeb527",
];

/// A login of an available client at this sm, whose name is `sm`.
fn login(world: &mut World, (sm, name): (End, &str), c2s: End, number: u32, jid: &str, token: &str) {
    let id = format!("id{number}");
    world.send(c2s, &route("c2s", "example.net", &start(number, jid, &id)));
    assert!(
        world.take(sm).contains(&format!("id='{id}'")),
        "{jid} is placed at {name}"
    );
    world.send(sm, &route(name, "c2s", &started(number, jid, &id, token)));
    world.send(c2s, &route("c2s", name, &from_client(number, token, "<presence/>")));
    world.take(sm);
}

fn farewell(to: &str) -> String {
    format!("<presence xmlns='jabber:client' type='unavailable' from='{JULIET}' to='{to}'/>")
}

#[test]
fn an_sm_that_was_given_up_does_not_tell_away_who_is_there() {
    for shards in [1, 2, 3] {
        let mut world = World::new(shards);
        let one = world.component(&["sm1", "*example.net"]);
        let c2s = world.component(&["c2s"]);
        let room = world.component(&["room.test"]);
        login(&mut world, (one, "sm1"), c2s, 9, JULIET, TOKEN[0]);
        let two = world.component(&["sm2", "*example.net"]);
        world.cut(one);
        world.pass(10_000_000);
        assert!(world.take(c2s).contains("action='ended'"));
        let read = world.take(two);
        assert!(
            read.contains("from='jidmesh.router'") && read.contains(JULIET),
            "a surrogate: {read}"
        );
        let number = read
            .rsplit("sc:c2s='")
            .next()
            .unwrap()
            .split('\'')
            .next()
            .unwrap()
            .to_owned();
        world.send(
            two,
            &route(
                "sm2",
                "jidmesh.router",
                &control("ended", number.parse().unwrap(), TOKEN[0]),
            ),
        );
        login(&mut world, (two, "sm2"), c2s, 10, "romeo@example.net/orchard", TOKEN[1]);
        login(&mut world, (two, "sm2"), c2s, 11, JULIET, TOKEN[2]);

        // It hears that the c2s was gone, and ends what it holds.
        let one = world.component(&["sm1", "*example.net"]);
        assert!(world.take(one).contains("from='c2s'"));
        [two, room].into_iter().for_each(|end| drop(world.take(end)));
        world.send(one, &route("sm1", "example.net", &farewell("romeo@example.net")));
        assert_eq!(world.take(two), "", "she is online at the other sm");
        assert_eq!(world.count(Counter::DropFarewell), 1);
        world.send(one, &route("sm1", "room.test", &farewell("hall@room.test")));
        assert!(world.take(room).contains("unavailable"), "no surrogate tells a room");
        // What the other one says of her is true.
        world.send(two, &route("sm2", "example.net", &farewell("romeo@example.net")));
        assert!(world.take(two).contains("unavailable"));
        // She comes back to the first: its next farewell is true.
        world.send(one, &route("sm1", "c2s", &started(12, JULIET, "id12", TOKEN[2])));
        world.send(one, &route("sm1", "example.net", &farewell("romeo@example.net")));
        assert!(world.take(two).contains("unavailable"));
        assert_eq!(world.count(Counter::DropFarewell), 1);
    }
}
