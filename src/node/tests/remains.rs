//! A component that left a lot behind is given up.

use super::world::{End, World, from_client, message, route, start, started};

const OLD: usize = 1_500;

/// Steps until `done`, at most so many turns; what `end` read in each.
fn turns(world: &mut World, end: End, done: impl Fn(&World, &str) -> bool) -> Vec<String> {
    let until = world.now + 20_000_000;
    let mut read = Vec::new();
    for _ in 0..1_000 {
        assert!(world.step(until), "nothing more happens");
        let text = world.take(end);
        let is_done = done(world, &text);
        read.push(text);
        if is_done {
            return read;
        }
    }
    panic!("it never ends");
}

fn newer(world: &mut World, peer: End) {
    let text = message("x@peer", "juliet@example.net", "newer");
    world.send(peer, &route("peer", "example.net", &text));
}

/// Nothing in one turn is much more than a slice, every old one comes once and in order, and the newer one last.
fn check(read: &[String]) {
    let longest = read.iter().map(String::len).max().unwrap();
    assert!(longest < 160 * 1024, "{longest} bytes in one turn");
    let all = read.concat();
    let mut at = 0;
    for n in 0..OLD {
        let body = format!(">old {n}<");
        at += all[at..]
            .find(&body)
            .unwrap_or_else(|| panic!("{body} is missing or late"));
    }
    assert_eq!(all.matches(">old ").count(), OLD);
    assert!(all[at..].contains(">newer<"), "the newer one has overtaken");
    assert_eq!(all.matches(">newer<").count(), 1);
}

#[test]
fn what_waited_for_a_given_up_c2s_goes_back_in_slices_and_before_anything_newer() {
    for shards in [1, 2, 3] {
        let mut world = World::new(shards);
        let sm = world.component(&["sm", "*example.net"]);
        let (lost, other) = (world.component(&["c2s"]), world.component(&["c2s2"]));
        let peer = world.component(&["peer"]);
        for (end, name, resource) in [(lost, "c2s", "balcony"), (other, "c2s2", "garden")] {
            let (jid, token) = (format!("juliet@example.net/{resource}"), name.repeat(10));
            world.send(end, &route(name, "example.net", &start(9, &jid, "id")));
            world.send(sm, &route("sm", name, &started(9, &jid, "id", &token)));
        }
        world.cut(lost);
        for n in 0..OLD {
            let stanza =
                format!("<message from='x@peer' to='juliet@example.net/balcony'><body>old {n}</body></message>");
            let stanza = from_client(9, &"c2s".repeat(10), &stanza);
            world.send(sm, &route("example.net", "c2s", &stanza));
        }
        world.take(sm);
        let mut read = turns(&mut world, sm, |_, text| text.contains("type='unavailable'"));
        assert!(
            !read.concat().contains(&format!(">old {}<", OLD - 1)),
            "all in one turn"
        );
        newer(&mut world, peer);
        read.push(world.take(sm));
        read.extend(turns(&mut world, sm, |_, text| text.contains(">newer<")));
        check(&read);
        world.pass(1_000_000);
        assert_eq!(world.sessions(), 1);
        newer(&mut world, peer);
        assert!(world.take(sm).contains(">newer<"), "nobody waits any more");
    }
}

#[test]
fn what_waited_for_a_given_up_sm_goes_to_another_in_slices_and_before_anything_newer() {
    for shards in [1, 2, 3] {
        let mut world = World::new(shards);
        let sms = [
            world.component(&["sm1", "*example.net"]),
            world.component(&["sm2", "*example.net"]),
        ];
        let peer = world.component(&["peer"]);
        sms.iter().for_each(|sm| drop(world.take(*sm)));
        newer(&mut world, peer);
        let duty = usize::from(world.take(sms[0]).is_empty());
        world.take(sms[1]);
        world.cut(sms[duty]);
        for n in 0..OLD {
            let text = message("x@peer", "juliet@example.net", &format!("old {n}"));
            world.send(peer, &route("peer", "example.net", &text));
        }
        let living = sms[1 - duty];
        let mut read = turns(&mut world, living, |_, text| text.contains(">old "));
        assert!(
            !read.concat().contains(&format!(">old {}<", OLD - 1)),
            "all in one turn"
        );
        newer(&mut world, peer);
        read.push(world.take(living));
        read.extend(turns(&mut world, living, |_, text| text.contains(">newer<")));
        check(&read);
    }
}

#[test]
fn the_sessions_of_a_given_up_c2s_go_in_slices() {
    let mut world = World::new(2);
    let sm = world.component(&["sm", "*example.net"]);
    let c2s = world.component(&["c2s"]);
    for number in 0..2_000 {
        let (jid, token) = (format!("u{number}@example.net/r"), format!("{number:040}"));
        world.send(c2s, &route("c2s", "example.net", &start(number, &jid, "id")));
        world.send(sm, &route("sm", "c2s", &started(number, &jid, "id", &token)));
    }
    world.cut(c2s);
    let until = world.now + 9_900_000;
    while world.sessions() == 2_000 {
        assert!(world.step(until), "they are never dropped");
    }
    let mut before = 2_000;
    while world.sessions() > 0 {
        let now = world.sessions();
        assert!(before - now <= 256, "{} in one turn", before - now);
        before = now;
        assert!(world.step(until), "some are left: {before}");
    }
}

#[test]
fn many_who_log_in_again_are_recalled_together_and_each_gets_his_own_first() {
    const USERS: u32 = 200;
    for shards in [1, 2, 3] {
        let mut world = World::new(shards);
        let sm = world.component(&["sm", "*example.net"]);
        let (lost, other) = (world.component(&["c2s"]), world.component(&["c2s2"]));
        for number in 0..USERS {
            let (jid, token) = (format!("u{number}@example.net/r"), format!("{number:040}"));
            world.send(lost, &route("c2s", "example.net", &start(number, &jid, "id")));
            world.send(sm, &route("sm", "c2s", &started(number, &jid, "id", &token)));
        }
        world.take(sm);
        world.cut(lost);
        let filling = "x".repeat(1_000);
        for number in 0..USERS {
            let body = format!("<body>old {number} {filling}</body>");
            let stanza = format!("<message from='x@peer' to='u{number}@example.net/r'>{body}</message>");
            let stanza = from_client(number, &format!("{number:040}"), &stanza);
            world.send(sm, &route("example.net", "c2s", &stanza));
        }
        for number in 0..USERS {
            let request = start(number, &format!("u{number}@example.net/r"), "id2");
            world.send(other, &route("c2s2", "example.net", &request));
            let text = message("x@peer", &format!("u{number}@example.net"), &format!("new {number}"));
            world.send(other, &route("c2s2", "example.net", &text));
        }
        let mut read = String::new();
        for _ in 0..20 {
            let text = world.take(sm);
            for id in text.split("jidmesh-fence-").skip(1) {
                let id = id.split('\'').next().unwrap();
                let answer = format!(
                    "<iq xmlns='jabber:client' type='result' from='example.net' to='jidmesh.router' id='jidmesh-fence-{id}'/>"
                );
                world.send(sm, &route("sm", "jidmesh.router", &answer));
            }
            read.push_str(&text);
            world.pass(20_000);
        }
        assert!(
            read.matches("jidmesh-fence-").count() <= 2 * usize::from(shards),
            "a fence is for many"
        );
        for number in 0..USERS {
            let found = [
                format!("target='u{number}@"),
                format!(">old {number} "),
                format!(">new {number}<"),
            ];
            let found = found.map(|text| read.find(&text));
            assert!(found.is_sorted() && found[0].is_some(), "{number}: {found:?}");
        }
    }
}
