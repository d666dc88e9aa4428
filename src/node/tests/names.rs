//! Aliases, the default route and log sinks: what a name is beside being held.

use super::world::{COMP, End, World, bind, control, from_client, message, route, start, started};

const TOKEN: &str = "2fcc5f2b10f3c41120a3db9ee7620e93931e073c";

fn advert(name: &str) -> String {
    format!("<presence xmlns='{COMP}' from='{name}'/>")
}

fn withdrawal(name: &str) -> String {
    format!("<presence xmlns='{COMP}' type='unavailable' from='{name}'/>")
}

/// What the component has read, every empty element in its short form.
fn read(world: &mut World, end: End) -> String {
    world.take(end).replace("></presence>", "/>").replace("></bind>", "/>")
}

fn aliases(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect()
}

fn bind_with(name: &str, options: &str) -> String {
    format!("<bind xmlns='{COMP}' name='{name}'>{options}</bind>")
}

fn unbind(name: &str) -> String {
    format!("<unbind xmlns='{COMP}' name='{name}'/>")
}

#[test]
fn users_of_an_aliased_domain_log_in_and_are_reached() {
    for shards in [1, 2, 3] {
        for sms in [1, 2] {
            let mut world = World::with(shards, |config| {
                config.aliases = aliases(&[("alias.net", "example.net")])
            });
            let c2s = world.component(&["c2s"]);
            let peer = world.component(&["peer"]);
            let sms: Vec<End> = (1..=sms)
                .map(|n| world.component(&[&format!("sm{n}"), "*example.net", "*alias.net"]))
                .collect();
            for sm in &sms {
                assert!(
                    !read(&mut world, *sm).contains("error="),
                    "its own alias is its to bind"
                );
            }
            let read_c2s = read(&mut world, c2s);
            assert!(read_c2s.contains(&advert("alias.net")), "{read_c2s}");
            let jid = "dave@alias.net/r";
            world.send(c2s, &route("c2s", "alias.net", &start(9, jid, "i1")));
            let place = sms.iter().position(|sm| world.take(*sm).contains("action='start'"));
            let place = place.unwrap_or_else(|| panic!("no sm got it: {}", world.take(c2s)));
            let id = format!("sm{}", place + 1);
            world.send(sms[place], &route(&id, "c2s", &started(9, jid, "i1", TOKEN)));
            assert!(world.take(c2s).contains("action='started'"));
            let roster = from_client(9, TOKEN, "<iq type='get' id='q'/>");
            world.send(c2s, &route("c2s", &id, &roster));
            world.take(sms[place]);
            world.send(
                sms[place],
                &route("alias.net", "c2s", &from_client(9, TOKEN, "<iq type='result' id='q'/>")),
            );
            assert!(
                world.take(c2s).contains("id='q'"),
                "sm answers as the alias: {}",
                world.take(sms[place])
            );
            for to in ["dave@alias.net", "Dave@ALIAS.net/r"] {
                world.send(peer, &route("peer", "alias.net", &message("x@peer", to, "for dave")));
                assert!(world.take(sms[place]).contains("for dave"), "{}", world.take(peer));
            }
            world.send(c2s, &route("c2s", &id, &control("end", 9, TOKEN)));
            world.send(sms[place], &route(&id, "c2s", &control("ended", 9, TOKEN)));
            assert_eq!(world.sessions(), 0);
        }
    }
}

#[test]
fn an_alias_comes_and_goes_with_its_target_and_is_no_other_component_s() {
    for shards in [1, 2] {
        let mut world = World::with(shards, |config| {
            config.aliases = aliases(&[("alias.test", "target.test")])
        });
        let a = world.component(&["a.test", "alias.test"]);
        let early = read(&mut world, a);
        assert!(
            early.contains("error='409'") && !early.contains("'alias.test'"),
            "{early}"
        );
        let target = world.component(&["target.test"]);
        assert!(read(&mut world, a).contains(&advert("alias.test")));
        let own = read(&mut world, target);
        assert!(
            !own.contains("from='alias.test'"),
            "it is the component's own name: {own}"
        );
        world.send(a, &route("a.test", "alias.test", "<x xmlns='u:t'/>"));
        assert!(world.take(target).contains("to='alias.test'"));
        world.send(target, &route("alias.test", "a.test", "<x xmlns='u:t'/>"));
        assert!(
            read(&mut world, a).contains("from='alias.test'"),
            "{}",
            world.take(target)
        );
        world.send(target, &unbind("alias.test"));
        assert!(world.take(target).contains("error='404'"), "it is the configuration's");
        world.send(target, &unbind("target.test"));
        let told = read(&mut world, a);
        assert!(told.contains(&withdrawal("alias.test")), "{told}");
        world.send(a, &route("a.test", "alias.test", "<x xmlns='u:t'/>"));
        assert!(world.take(a).contains("error='404'"));
    }
}

#[test]
fn changed_aliases_are_told_to_the_components_that_are_there() {
    for shards in [1, 2] {
        let mut world = World::with(shards, |config| {
            config.aliases = aliases(&[("old.test", "target.test")])
        });
        let a = world.component(&["a.test"]);
        let target = world.component(&["target.test"]);
        read(&mut world, a);
        world.reload(|config| config.aliases = aliases(&[("new.test", "target.test"), ("idle.test", "nobody.test")]));
        let told = read(&mut world, a);
        assert!(told.contains(&advert("new.test")), "{told}");
        assert!(
            told.ends_with(&advert("new.test")) && told.contains(&withdrawal("old.test")),
            "{told}"
        );
        assert!(!told.contains("idle.test"), "{told}");
        world.send(a, &route("a.test", "old.test", "<x xmlns='u:t'/>"));
        assert!(world.take(a).contains("error='404'"));
        read(&mut world, target);
        world.send(a, &route("a.test", "new.test", "<x xmlns='u:t'/>"));
        assert!(world.take(target).contains("to='new.test'"));
        // Another target: the one loses it, the other has it.
        world.reload(|config| config.aliases = aliases(&[("new.test", "a.test")]));
        world.take(a);
        world.send(target, &route("target.test", "new.test", "<x xmlns='u:t'/>"));
        assert!(world.take(a).contains("to='new.test'"));
        // A name that is bound already becomes an alias when its holder lets go.
        world.reload(|config| config.aliases = aliases(&[("target.test", "a.test")]));
        world.take(a);
        world.send(a, &route("a.test", "target.test", "<x xmlns='u:t'/>"));
        assert!(world.take(target).contains("to='target.test'"));
        world.send(target, &unbind("target.test"));
        world.take(a);
        world.send(a, &route("a.test", "target.test", "<x xmlns='u:t'/>"));
        assert!(world.take(a).contains("to='target.test'"));
    }
}

#[test]
fn an_alias_outlasts_the_return_of_its_component() {
    let mut world = World::with(2, |config| config.aliases = aliases(&[("alias.test", "target.test")]));
    let a = world.component(&["a.test"]);
    let first = world.component(&["id.test", "target.test"]);
    world.cut(first);
    let again = world.component(&["id.test", "target.test"]);
    world.take(a);
    world.pass(20_000_000);
    assert_eq!(world.take(a), "", "nothing was lost");
    world.take(again);
    world.send(a, &route("a.test", "alias.test", "<x xmlns='u:t'/>"));
    assert!(world.take(again).contains("to='alias.test'"));
    world.cut(again);
    let without = world.component(&["id.test"]);
    world.pass(20_000_000);
    let told = read(&mut world, a);
    assert!(told.contains(&withdrawal("alias.test")), "{told}");
    assert!(world.is_open(without));
}

#[test]
fn the_default_route_ends_with_its_name() {
    for shards in [1, 2] {
        let mut world = World::new(shards);
        let a = world.component(&["a.test"]);
        let s2s = world.connect("jabberd");
        world.send(s2s, &(bind("id.test") + &bind_with("s2s.test", "<default/>")));
        world.send(s2s, &unbind("s2s.test"));
        world.take(a);
        world.send(a, &route("a.test", "far.example", "<x xmlns='u:t'/>"));
        assert!(world.take(a).contains("error='404'"));
        // Asked for once more, with a name that it holds already.
        world.send(s2s, &bind_with("id.test", "<default/>"));
        world.take(s2s);
        world.send(a, &route("a.test", "far.example", "<x xmlns='u:t'/>"));
        assert!(world.take(s2s).contains("to='far.example'"));
    }
}

#[test]
fn a_log_sink_ends_with_its_name() {
    for shards in [1, 2] {
        let mut world = World::new(shards);
        let (a, b) = (world.component(&["a.test"]), world.component(&["b.test"]));
        let sink = world.connect("jabberd");
        world.send(sink, &(bind("id.test") + &bind_with("log.test", "<log/>")));
        world.take(sink);
        world.send(a, &route("a.test", "b.test", "<x xmlns='u:t'/>"));
        assert!(world.take(sink).contains("type='log'"));
        world.send(sink, &unbind("log.test"));
        world.take(sink);
        world.send(a, &route("a.test", "b.test", "<x xmlns='u:t'/>"));
        assert_eq!(world.take(sink), "");
        assert!(world.take(b).contains("u:t"));
    }
}

#[test]
fn who_comes_back_is_what_it_now_asks_to_be() {
    for shards in [1, 2] {
        let mut world = World::new(shards);
        let a = world.component(&["a.test"]);
        let back = |world: &mut World, options: &str| {
            let end = world.connect("jabberd");
            world.send(end, &bind_with("s2s.test", options));
            world.take(end);
            end
        };
        let reaches = |world: &mut World, end: End| {
            world.take(end);
            world.send(a, &route("a.test", "far.example", "<x xmlns='u:t'/>"));
            world.take(end).contains("to='far.example'")
        };
        let s2s = back(&mut world, "<default/>");
        assert!(reaches(&mut world, s2s));
        world.cut(s2s);
        let plain = back(&mut world, "");
        assert!(!reaches(&mut world, plain));
        world.cut(plain);
        let s2s = back(&mut world, "<default/>");
        assert!(reaches(&mut world, s2s));
        // One under another name takes over from one that is lost, not from one that is there.
        let other = world.connect("jabberd");
        world.send(other, &bind_with("other.test", "<default/>"));
        assert!(world.take(other).contains("error='409'"));
        world.cut(s2s);
        world.send(other, &bind_with("other.test", "<default/>"));
        assert!(!world.take(other).contains("error="));
        assert!(reaches(&mut world, other));
        world.pass(20_000_000);
        assert!(reaches(&mut world, other), "the lost one took its mark along");
    }
}
