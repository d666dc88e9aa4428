//! The short way of frames does what the long way does.

use super::world::{COMP, End, SESS, World, bind, control, from_client, message, route, start, started};
use crate::node::counters::Counter;

const TOKENS: [&str; 3] = [
    "2fcc5f2b10f3c41120a3db9ee7620e93931e073c",
    "ab2180dc2779c96e97c08cbfc21f4da49e2eedb7",
    "3bd4375b8f22fe47a465fc1236cc34b1a4aeb527",
];

struct Site {
    world: World,
    ends: Vec<End>,
}

/// Senders: an sm, a c2s, an s2s, a component without a kind.
const SENDERS: [&str; 4] = ["sm", "c2s", "s2s", "plain"];

impl Site {
    /// With a message log every frame goes the long way.
    fn new(shards: u16, message_log: Option<&str>) -> Site {
        let mut world = World::with(shards, |config| {
            config.queues.link_bytes = 40_000;
            config.message_log = message_log.map(Into::into);
        });
        let sm = world.component(&["sm", "*example.net"]);
        let c2s = world.component(&["c2s"]);
        let s2s = world.component(&["s2s"]);
        world.send(s2s, &format!("<bind xmlns='{COMP}' name='s2s'><default/></bind>"));
        let plain = world.component(&["plain"]);
        for (number, token) in (1..).zip(&TOKENS[..2]) {
            let jid = format!("user{number}@example.net/r");
            world.send(c2s, &route("c2s", "example.net", &start(number, &jid, "id1")));
            world.send(sm, &route("sm", "c2s", &started(number, &jid, "id1", token)));
        }
        Site {
            world,
            ends: vec![sm, c2s, s2s, plain],
        }
    }

    fn read(&mut self) -> Vec<String> {
        self.ends.iter().map(|end| self.world.take(*end)).collect()
    }

    fn counts(&self) -> Vec<u64> {
        let counters = self.world.counters();
        [
            Counter::FramesIn,
            Counter::FramesOut,
            Counter::BytesOut,
            Counter::LaneFrames,
            Counter::ZombiesCleared,
            Counter::DropDisco,
            Counter::Bounce401,
            Counter::Bounce404,
            Counter::BounceQueue,
            Counter::DropErrorRoute,
        ]
        .map(|counter| counters.get(counter))
        .to_vec()
    }
}

struct Draw(u64);

impl Draw {
    fn of<T: Copy>(&mut self, of: &[T]) -> T {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        of[(self.0 >> 33) as usize % of.len()]
    }

    fn payload(&mut self) -> String {
        let (number, token) = (
            self.of(&[1, 1, 2, 3]),
            self.of(&[TOKENS[0], TOKENS[0], TOKENS[1], TOKENS[2]]),
        );
        let chat = message("a@example.net/r", "user1@example.net", "hello");
        match self.of(&[0, 0, 0, 1, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]) {
            0 => chat,
            1 => from_client(number, token, &chat.replace(" xmlns='jabber:client'", "")),
            2 => from_client(
                number,
                token,
                self.of(&["<presence/>", "<presence to='b@x'/>", "<presence type='unavailable'/>"]),
            ),
            3 => from_client(number, token, "<iq type='result' id='x'><q/></iq>"),
            4 => "<iq xmlns='jabber:client' type='result' id='jidmesh-ask-1' from='example.net' to='jidmesh.router'/>"
                .into(),
            5 => format!(
                "<iq xmlns='jabber:client' id='d' from='sm' to='{}' type='get'><query xmlns='http://jabber.org/protocol/disco#info'></query></iq>",
                self.of(&["c2s", "s2s"])
            ),
            6 => control("ended", 3, TOKENS[2]),
            7 => format!(
                "<message xmlns='jabber:client' xmlns:sc='{SESS}' failed='1' to='b@example.net' sc:c2s='3' sc:sm='{}'><body>x</body></message>",
                TOKENS[2]
            ),
            8 => "<other xmlns='u:x'/>".into(),
            9 => " ".into(),
            10 => format!("{chat}{chat}"),
            _ => format!(
                "<message xmlns=\"jabber:client\" to='b@x'><!-- c --><body>{}</body></message>",
                "y".repeat(5_000)
            ),
        }
    }

    fn frame(&mut self, sender: &str) -> String {
        if self.of(&[true, false, false, false, false, false, false, false]) {
            return self
                .of(&["\n", "<!-- between -->", "<presence xmlns='u:p'/>"])
                .to_owned();
        }
        let from = self.of(&[sender, sender, sender, sender, sender, sender, "example.net", "stolen"]);
        let to = self.of(&["sm", "c2s", "c2s", "c2s", "s2s", "plain", "example.net", "nobody"]);
        let frame = route(from, to, &self.payload());
        match self.of(&[0, 0, 0, 0, 0, 0, 1, 2]) {
            1 => frame.replace(" to='", " error='404' to='"),
            2 => frame.replace(" to='", " type='log' to='"),
            _ => frame,
        }
    }
}

#[test]
fn both_ways_give_the_same() {
    for seed in 0..200 {
        let shards = [1, 2, 3][seed as usize % 3];
        let (mut short, mut long) = (Site::new(shards, None), Site::new(shards, Some("log")));
        short.read();
        long.read();
        let mut draw = Draw(seed);
        for turn in 0..12 {
            let sender = draw.of(&[0, 0, 1, 1, 2, 3]);
            let one = draw.frame(SENDERS[sender]);
            let same = draw.of(&[true, false]);
            let frames: Vec<String> = (0..draw.of(&[1, 3, 20]))
                .map(|_| if same { one.clone() } else { draw.frame(SENDERS[sender]) })
                .collect();
            for site in [&mut short, &mut long] {
                site.world.send(site.ends[sender], &frames.concat());
            }
            assert_eq!(
                short.read(),
                long.read(),
                "seed {seed}, turn {turn}, from {}: {frames:#?}",
                SENDERS[sender]
            );
            assert_eq!(short.counts(), long.counts(), "seed {seed}, turn {turn}: {frames:#?}");
        }
    }
}

#[test]
fn a_course_ends_with_the_name_that_it_led_to() {
    let mut world = World::new(1);
    let sm = world.component(&["sm", "*example.net"]);
    let (first, second) = (world.component(&["room"]), world.component(&["other"]));
    let frame = route("sm", "room", &message("a@example.net", "b@room", "x"));
    world.send(sm, &frame.repeat(3));
    assert_eq!(world.take(first).matches("<body>").count(), 3);
    world.send(first, &format!("<unbind xmlns='{COMP}' name='room'/>"));
    world.send(sm, &frame);
    assert!(world.take(sm).contains("error='404'"));
    world.send(second, &bind("room"));
    world.take(second);
    world.send(sm, &frame.repeat(2));
    assert_eq!(world.take(second).matches("<body>").count(), 2);
    assert!(!world.take(first).contains("<body>"));
}

#[test]
fn what_waits_is_not_overtaken() {
    let mut world = World::new(1);
    let sm = world.component(&["sm", "*example.net"]);
    let peer = world.component(&["peer"]);
    let frame = |n: u32| route("sm", "peer", &message("a@example.net", "b@peer", &format!("no {n}.")));
    let three = |first: u32| (first..first + 3).map(frame).collect::<String>();
    world.send(sm, &three(0));
    world.send(peer, &format!("<throttle xmlns='{COMP}'/>"));
    world.send(sm, &three(3));
    let before = world.take(peer);
    assert!(before.contains("no 2.") && !before.contains("no 3."));
    world.send(peer, &format!("<throttle xmlns='{COMP}'/>"));
    world.send(sm, &three(6));
    let read = world.take(peer);
    let places: Vec<usize> = (3..9).map(|n| read.find(&format!("no {n}.")).unwrap()).collect();
    assert!(places.is_sorted(), "{read}");
}

#[test]
fn a_full_queue_bounces() {
    let mut world = World::with(1, |config| config.queues.link_bytes = 10_000);
    let sm = world.component(&["sm", "*example.net"]);
    let peer = world.component(&["peer"]);
    let frame = route("sm", "peer", &message("a@example.net", "b@peer", &"x".repeat(900)));
    world.send(sm, &frame);
    world.take(peer);
    world.stuck = Some(peer);
    world.send(sm, &frame.repeat(30));
    let bounced = world.take(sm).matches("error='503'").count();
    assert!((20..30).contains(&bounced), "{bounced}");
    assert_eq!(world.count(Counter::BounceQueue), bounced as u64);
}
