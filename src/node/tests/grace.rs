//! Lost links: who comes back, who does not, and who comes back as another process.

use super::world::{COMP, End, World, control, from_client, message, route, start, started};
use crate::node::counters::Counter;

const TOKEN: &str = "2fcc5f2b10f3c41120a3db9ee7620e93931e073c";
const JULIET: &str = "juliet@example.net/balcony";

fn site(shards: u16) -> (World, End, End, End) {
    let mut world = World::new(shards);
    let sm = world.component(&["sm", "*example.net"]);
    let c2s = world.component(&["c2s"]);
    let peer = world.component(&["peer"]);
    world.send(c2s, &route("c2s", "example.net", &start(9, JULIET, "id1")));
    world.send(sm, &route("sm", "c2s", &started(9, JULIET, "id1", TOKEN)));
    world.send(c2s, &route("c2s", "sm", &from_client(9, TOKEN, "<presence/>")));
    [sm, c2s, peer].into_iter().for_each(|end| drop(world.take(end)));
    (world, sm, c2s, peer)
}

fn question(read: &str) -> String {
    let at = read.find("jidmesh-ask-").expect("a question");
    read[at..].split('\'').next().unwrap().to_owned()
}

fn say(world: &mut World, peer: End, body: &str) {
    world.send(
        peer,
        &route("peer", "example.net", &message("x@peer", "juliet@example.net", body)),
    );
}

#[test]
fn an_sm_that_comes_back_gets_what_waited_in_order() {
    for shards in [1, 2, 3] {
        let (mut world, sm, c2s, peer) = site(shards);
        world.cut(sm);
        say(&mut world, peer, "one");
        world.pass(2_000_000);
        assert_eq!(world.take(c2s), "", "nobody is told");
        let sm = world.component(&["sm", "*example.net"]);
        say(&mut world, peer, "two");
        let read = world.take(sm);
        assert!(read.starts_with("<bind"), "{read}");
        assert!(!read.contains(">one<"), "the queue waits for the answer: {read}");
        let id = question(&read);
        let answer = format!("<iq xmlns='jabber:client' type='result' id='{id}'/>");
        world.send(sm, &route("example.net", "c2s", &answer));
        let read = world.take(sm);
        assert!(read.find(">one<").unwrap() < read.find(">two<").unwrap(), "{read}");
        assert_eq!(world.take(c2s), "", "the answer is nobody's but the router's");
        assert_eq!(world.sessions(), 1);
        assert_eq!(world.count(Counter::LinksReturned), 1);
    }
}

#[test]
fn an_sm_that_was_restarted_loses_its_sessions_and_contacts_are_told() {
    for shards in [1, 2] {
        let (mut world, sm, c2s, peer) = site(shards);
        world.cut(sm);
        say(&mut world, peer, "for the queue");
        let sm = world.component(&["sm", "*example.net"]);
        let id = question(&world.take(sm));
        let answer = format!("<iq xmlns='jabber:client' failed='1' type='get' id='{id}'/>");
        world.send(sm, &route("sm", "c2s", &answer));
        assert!(world.take(c2s).contains("action='ended'"), "the client is ended");
        let read = world.take(sm);
        // A surrogate of the lost session tells the contacts.
        let number = read
            .split("sc:c2s='")
            .nth(1)
            .unwrap()
            .split('\'')
            .next()
            .unwrap()
            .to_owned();
        assert!(
            read.contains("action='start'") && read.contains(JULIET) && read.contains("from='jidmesh.router'"),
            "{read}"
        );
        let surrogate: u32 = number.parse().unwrap();
        let token = "11".repeat(20);
        world.send(
            sm,
            &route("sm", "jidmesh.router", &started(surrogate, JULIET, "x", &token)),
        );
        let read = world.take(sm);
        let (gone, end) = (
            read.find("type='unavailable'").unwrap(),
            read.find("action='end'").unwrap(),
        );
        assert!(gone < end, "{read}");
        world.send(sm, &route("sm", "jidmesh.router", &control("ended", surrogate, &token)));
        assert_eq!(world.sessions(), 0);
        say(&mut world, peer, "later");
        let all = read + &world.take(sm);
        assert_eq!(
            all.matches("for the queue").count() + usize::from(all.contains("later")),
            2,
            "{all}"
        );
    }
}

#[test]
fn who_logs_in_again_while_his_c2s_is_lost_gets_first_what_waits_there() {
    for shards in [1, 2, 3] {
        let (mut world, sm, c2s, peer) = site(shards);
        let other = world.component(&["c2s2"]);
        world.cut(c2s);
        let deliver = |world: &mut World, body: &str| {
            let stanza = format!("<message from='x@peer' to='{JULIET}'><body>{body}</body></message>");
            let stanza = from_client(9, TOKEN, &stanza);
            world.send(sm, &route("example.net", "c2s", &stanza));
        };
        deliver(&mut world, "one");
        let request = start(3, JULIET, "id2");
        world.send(other, &route("c2s2", "example.net", &request));
        say(&mut world, peer, "three");
        let read = world.take(sm);
        assert!(!read.contains("action='start'") && !read.contains("three"), "{read}");
        // What it had in hand.
        deliver(&mut world, "two");
        let id = read.split("jidmesh-fence-").nth(1).expect("a fence");
        let id = id.split('\'').next().unwrap();
        let answer = format!(
            "<iq xmlns='jabber:client' type='result' from='example.net' to='jidmesh.router' id='jidmesh-fence-{id}'/>"
        );
        world.send(sm, &route("sm", "jidmesh.router", &answer));
        let read = world.take(sm);
        let found: Vec<Option<usize>> = ["action='start'", ">one<", ">two<", ">three<"]
            .iter()
            .map(|text| read.find(text))
            .collect();
        assert!(found.is_sorted() && found[0].is_some(), "{found:?}: {read}");
        let again = "33".repeat(20);
        world.send(sm, &route("sm", "c2s", &control("replaced", 9, TOKEN)));
        world.send(sm, &route("sm", "c2s2", &started(3, JULIET, "id2", &again)));
        world.pass(12_000_000);
        assert_eq!(world.count(Counter::Returned), 2, "once");
        assert_eq!(world.sessions(), 1);
    }
}

#[test]
fn a_c2s_that_comes_back_keeps_its_clients() {
    for shards in [1, 2] {
        let (mut world, sm, c2s, _) = site(shards);
        world.cut(c2s);
        let delivery = route("example.net", "c2s", &from_client(9, TOKEN, "<message/>"));
        world.send(sm, &delivery);
        let c2s = world.component(&["c2s"]);
        let read = world.take(c2s);
        assert!(read.starts_with("<bind"), "{read}");
        let id = question(&read);
        world.send(c2s, &route("c2s", "sm", &control("end", 9, &id)));
        assert_eq!(world.take(c2s), delivery);
        assert_eq!(world.take(sm), "", "the answer is nobody's but the router's");
        assert_eq!(world.sessions(), 1);
    }
}

#[test]
fn a_c2s_that_was_restarted_loses_its_sessions() {
    for shards in [1, 2] {
        let (mut world, sm, c2s, _) = site(shards);
        world.cut(c2s);
        let c2s = world.component(&["c2s"]);
        let id = question(&world.take(c2s));
        world.send(c2s, &route("c2s", "example.net", &control("end", 9, &id)));
        let read = world.take(sm);
        let gone = read.find("type='unavailable'").unwrap();
        let back = read.rfind("<presence").unwrap();
        assert!(
            read.contains(&format!("<presence xmlns='{COMP}'")) && gone < back,
            "{read}"
        );
        assert_eq!(world.sessions(), 0);
    }
}

#[test]
fn a_component_that_stays_away_is_given_up() {
    for shards in [1, 2] {
        let (mut world, sm, c2s, peer) = site(shards);
        world.cut(c2s);
        let body = format!("<message from='x@peer' to='{JULIET}' id='m'><body>lost?</body></message>");
        let delivery = route("example.net", "c2s", &from_client(9, TOKEN, &body));
        world.send(sm, &delivery);
        world.pass(8_000_000);
        assert_eq!(world.take(sm), "");
        world.pass(2_000_000);
        let read = world.take(sm);
        assert!(
            read.contains("from='c2s'") && read.contains("type='unavailable'"),
            "{read}"
        );
        let gone = read.find("type='unavailable'").unwrap();
        let again = read.find("lost?").expect("what waited goes to its user once more");
        assert!(gone < again && !read.contains("sc:sm"), "{read}");
        assert_eq!(world.sessions(), 0);
        world.cut(sm);
        world.pass(10_000_000);
        assert!(world.take(peer).contains("unavailable"));
        say(&mut world, peer, "nobody serves the domain");
        assert!(world.take(peer).contains("error='404'"));
    }
}

#[test]
fn an_orderly_close_is_not_waited_for() {
    let (mut world, sm, _, peer) = site(2);
    world.send(sm, "</stream:stream>");
    assert!(world.take(sm).ends_with("</stream:stream>"));
    assert!(world.take(peer).contains("unavailable"));
}

#[test]
fn a_component_may_come_back_before_its_old_link_is_read_to_its_end() {
    for shards in [1, 2] {
        let (mut world, old, _, peer) = site(shards);
        let new = world.connect("jabberd");
        world.send(new, &super::world::bind("sm"));
        assert_eq!(world.take(new), "", "the bind waits for the old link");
        // What was still under way on the old link counts.
        world.send(old, &route("sm", "peer", "<x xmlns='u:t'/>"));
        assert!(world.take(peer).contains("u:t"));
        world.cut(old);
        assert!(world.take(new).starts_with("<bind"));
    }
}

#[test]
fn a_link_without_a_sign_of_life_gives_way() {
    let (mut world, old, _, _) = site(1);
    world.alive = false;
    let new = world.connect("jabberd");
    world.send(new, &super::world::bind("sm"));
    world.pass(2_000_000);
    assert!(!world.is_open(old));
    assert!(world.take(new).starts_with("<bind"));
}

#[test]
fn a_ghost_is_asked_about_and_ended() {
    let (mut world, sm, c2s, _) = site(2);
    world.send(
        c2s,
        &route("c2s", "example.net", &start(10, "romeo@example.net/orchard", "id2")),
    );
    let token = "22".repeat(20);
    world.send(
        sm,
        &route("sm", "c2s", &started(10, "romeo@example.net/orchard", "id2", &token)),
    );
    [sm, c2s].into_iter().for_each(|end| drop(world.take(end)));
    world.pass(61_000_000);
    let read = world.take(c2s);
    let id = question(&read);
    assert!(
        read.contains("sc:c2s='10'"),
        "only the silent session is asked about: {read}"
    );
    world.send(c2s, &route("c2s", "example.net", &control("end", 10, &id)));
    let read = world.take(sm);
    assert!(read.contains("action='end'") && read.contains(&token), "{read}");
    world.send(sm, &route("sm", "c2s", &control("ended", 10, &token)));
    assert_eq!(world.sessions(), 1);
    assert_eq!(world.count(Counter::GhostsCleared), 1);
}

#[test]
fn a_component_that_comes_back_without_a_name_gives_it_up() {
    let (mut world, sm, _, peer) = site(2);
    world.cut(sm);
    let sm = world.component(&["sm"]);
    let id = question(&world.take(sm));
    world.send(
        sm,
        &route(
            "example.net",
            "c2s",
            &format!("<iq xmlns='jabber:client' type='result' id='{id}'/>"),
        ),
    );
    assert_eq!(world.take(peer), "");
    world.pass(6_000_000);
    let read = world.take(peer);
    assert!(
        read.contains("from='example.net'") && read.contains("unavailable"),
        "{read}"
    );
    assert!(!read.contains("from='sm'"), "{read}");
}

#[test]
fn what_was_returned_and_is_lost_once_more_is_returned_once_more() {
    for shards in [1, 2, 3] {
        let mut world = World::new(shards);
        let sm = world.component(&["sm", "*example.net"]);
        let c2s = ["c2s1", "c2s2"].map(|name| world.component(&[name]));
        for (n, name) in ["c2s1", "c2s2"].into_iter().enumerate() {
            let (jid, token) = (format!("juliet@example.net/r{n}"), format!("{n}").repeat(40));
            world.send(c2s[n], &route(name, "example.net", &start(9, &jid, "id")));
            world.send(sm, &route("sm", name, &started(9, &jid, "id", &token)));
            world.take(c2s[n]);
        }
        world.take(sm);
        let copy = |n: usize| {
            let body = format!("<message from='x@peer' to='juliet@example.net/r{n}' id='m'><body>hi</body></message>");
            route(
                "example.net",
                &format!("c2s{}", n + 1),
                &from_client(9, &format!("{n}").repeat(40), &body),
            )
        };
        // Both of its resources get it, and both c2s are lost: her sm gets it once.
        world.cut(c2s[0]);
        world.send(sm, &copy(0));
        world.send(sm, &copy(1));
        world.take(c2s[1]);
        world.pass(8_000_000);
        world.cut(c2s[1]);
        assert_eq!(world.take(sm).matches(">hi<").count(), 0);
        world.pass(2_000_000);
        assert_eq!(world.take(sm).matches(">hi<").count(), 1);
        // It hands it to the other, which is given up within ten seconds as well.
        world.send(sm, &copy(1));
        world.pass(8_000_000);
        assert_eq!(world.take(sm).matches(">hi<").count(), 1);
    }
}
