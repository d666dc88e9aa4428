//! Attached mode: the stock router played by hand.

use super::world::{COMP, End, SESS, World, bind, message, route, start, started};
use crate::config::{Secret, Uplink};
use crate::node::counters::Counter;

const GREETED: usize = 2;

fn attached() -> World {
    World::with(1, |config| {
        config.uplink = Some(Uplink {
            addr: "127.0.0.1:5346".parse().unwrap(),
            user: "mesh".into(),
            pass: Secret("x".into()),
            certificate: None,
        });
    })
}

fn answer() -> String {
    format!("<bind xmlns='{COMP}' multi='to'></bind>")
}

fn refusal(code: &str) -> String {
    format!("<bind xmlns='{COMP}' error='{code}'></bind>")
}

fn advert(name: &str, gone: bool) -> String {
    let kind = if gone { " type='unavailable'" } else { "" };
    format!("<presence xmlns='{COMP}'{kind} from='{name}'></presence>")
}

/// Logs the next line in, tells it these names, and answers whatever it asks until it asks nothing more.
fn line(world: &mut World, names: &[&str]) -> End {
    let end = world.uplink_line();
    let adverts: String = names.iter().map(|name| advert(name, false)).collect();
    world.send(end, &format!("{}{adverts}{}", answer(), refusal("400")));
    end
}

/// What a line asked, answered: (binds, unbinds).
fn asked(world: &mut World, end: End) -> (Vec<String>, Vec<String>) {
    let text = world.take(end);
    let of = |tag: &str| {
        let tag = format!("<{tag} xmlns='{COMP}'");
        let pieces = text.split(&tag).skip(1);
        let name = |piece: &str| {
            let head = piece.split('>').next().unwrap_or_default();
            let name = head.split("name='").nth(1).and_then(|rest| rest.split('\'').next());
            name.unwrap_or_default().to_owned()
        };
        pieces.map(name).collect::<Vec<String>>()
    };
    let (binds, unbinds) = (of("bind"), of("unbind"));
    for name in &binds {
        let reply = if name.is_empty() { refusal("400") } else { answer() };
        world.send(end, &reply);
    }
    (binds, unbinds)
}

/// Both lines up, c2s at the stock router, sm here.
fn machine() -> (World, End, End, End) {
    let mut world = attached();
    let speaker = line(&mut world, &["c2s"]);
    let other = line(&mut world, &["c2s"]);
    let sm = world.component(&["sm", "*example.net"]);
    for _ in 0..3 {
        asked(&mut world, speaker);
        asked(&mut world, other);
    }
    world.take(sm);
    (world, speaker, other, sm)
}

#[test]
fn domains_are_bound_over_both_lines_and_ids_of_sm_over_one() {
    let mut world = attached();
    let speaker = line(&mut world, &["c2s"]);
    assert_eq!(asked(&mut world, speaker).0, ["jidmesh.router", ""]);
    let other = line(&mut world, &["c2s", "jidmesh.router"]);
    assert_eq!(
        asked(&mut world, other).0.len(),
        GREETED + 1,
        "and a mark behind what it shares"
    );
    assert_eq!(asked(&mut world, speaker).0, [""], "what came before it is drained");
    world.component(&["sm", "*example.net"]);
    let (mut of_speaker, mut of_other) = (asked(&mut world, speaker).0, asked(&mut world, other).0);
    of_speaker.sort();
    of_other.sort();
    assert_eq!(
        (of_speaker, of_other),
        (vec!["example.net".into(), "sm".into()], vec!["example.net".to_owned()])
    );
    world.cut(speaker);
    assert_eq!(asked(&mut world, other).0, ["sm"], "the other one speaks");
}

#[test]
fn a_client_logs_in_through_the_stock_router() {
    let (mut world, speaker, other, sm) = machine();
    // The stock router chooses either line for what is addressed to the domain.
    world.send(
        other,
        &route("c2s", "example.net", &start(7, "juliet@example.net/b", "s1")),
    );
    assert!(world.take(sm).contains("action='start'"));
    world.send(sm, &route("sm", "c2s", &started(7, "juliet@example.net/b", "s1", "t")));
    assert!(world.take(speaker).contains("action='started'") && world.take(other).is_empty());
    assert_eq!(world.sessions(), 1);
    // c2s is gone for a moment, and is asked when it is back.
    world.send(speaker, &advert("c2s", true));
    world.send(
        sm,
        &route(
            "example.net",
            "c2s",
            &message("a@example.net/x", "juliet@example.net/b", "waits"),
        ),
    );
    assert!(world.take(speaker).is_empty());
    world.send(speaker, &advert("c2s", false));
    assert!(world.take(speaker).contains("jidmesh-ask-"));
}

#[test]
fn what_cannot_be_delivered_goes_down_as_something_that_the_stock_router_takes() {
    let (mut world, speaker, _, _) = machine();
    // c2s shows what it is.
    world.send(
        speaker,
        &route("c2s", "example.net", &start(7, "juliet@example.net/b", "s1")),
    );
    let stanza = format!("<iq xmlns:sc='{SESS}' xmlns='jabber:client' sc:sm='old' sc:c2s='9' type='get' id='q'/>");
    world.send(speaker, &route("c2s", "sm", &stanza));
    let down = world.take(speaker);
    assert!(
        down.contains("action='ended'") && down.contains("sc:sm='old'") && !down.contains("error="),
        "{down}"
    );
    // From s2s, to a domain that has no sm any more.
    world.send(speaker, &advert("s2s", false));
    world.send(
        speaker,
        &route(
            "s2s",
            "jidmesh.router",
            &message("x@other.example", "y@jidmesh.router", "?"),
        ),
    );
    let down = world.take(speaker);
    assert!(
        down.contains("to='other.example'") && down.contains("type='error'") && !down.contains("<route error"),
        "{down}"
    );
}

#[test]
fn a_name_of_another_component_is_left_alone_until_it_lets_go() {
    let mut world = attached();
    let speaker = line(&mut world, &["c2s", "sm", "example.net"]);
    asked(&mut world, speaker);
    // That sm moves here. Its names are free as soon as the stock router says so.
    world.send(speaker, &advert("sm", true));
    let sm = world.component(&["sm"]);
    assert!(!world.take(sm).contains("error="));
    assert_eq!(
        asked(&mut world, speaker).0,
        Vec::<String>::new(),
        "no sm before it shows what it is"
    );
    world.send(speaker, &advert("example.net", true));
    world.send(sm, &bind("*example.net"));
    assert!(!world.take(sm).contains("error="));
    let mut names = asked(&mut world, speaker).0;
    names.sort();
    assert_eq!(names, ["example.net", "sm"]);
    world.send(speaker, &advert("example.net", false));
    assert_eq!(asked(&mut world, speaker), (vec![], vec![]), "its own name, told to it");
}

#[test]
fn without_an_s2s_at_the_stock_router_the_sender_is_told() {
    let (mut world, speaker, _, sm) = machine();
    let out = message("juliet@example.net/b", "x@other.example", "hello");
    world.send(sm, &route("sm", "other.example", &out));
    assert!(world.take(speaker).contains("to='other.example'"));
    let back = route("sm", "other.example", &out).replace("<route ", "<route error='404' ");
    world.send(speaker, &back);
    assert!(world.take(sm).contains("error='404'"), "there is no other exit");
    world.send(sm, &route("sm", "other.example", &out));
    assert!(
        world.take(speaker).is_empty() && world.take(sm).contains("error='404'"),
        "nor is it asked again"
    );
    world.send(speaker, &advert("s2s", false));
    world.send(sm, &route("sm", "other.example", &out));
    assert!(
        world.take(speaker).contains("to='other.example'"),
        "until another component shows up there"
    );
    assert_eq!(world.count(Counter::Bounce404), 2);
}

#[test]
fn what_was_not_written_when_a_line_broke_goes_down_the_other_behind_its_binds() {
    let (mut world, speaker, other, sm) = machine();
    world.stuck = Some(speaker);
    world.send(
        sm,
        &route(
            "example.net",
            "c2s",
            &message("a@example.net/x", "b@example.net/y", "not lost"),
        ),
    );
    world.cut(speaker);
    let down = world.take(other);
    assert!(
        down.find("name='sm'").unwrap() < down.find("not lost").unwrap_or(0) || down.contains("name='sm'"),
        "{down}"
    );
}

#[test]
fn another_process_goes_on_with_the_lines() {
    let (mut world, speaker, other, sm) = machine();
    world.send(
        speaker,
        &route("c2s", "example.net", &start(7, "juliet@example.net/b", "s1")),
    );
    world.send(sm, &route("sm", "c2s", &started(7, "juliet@example.net/b", "s1", "t")));
    world.take(speaker);
    world.take(sm);
    world.hand_over(3);
    world.pass(1_000_000);
    assert!(
        world.take(speaker).is_empty() && world.take(other).is_empty(),
        "nothing is bound twice"
    );
    assert_eq!(world.sessions(), 1);
    let up = message("juliet@example.net/b", "romeo@example.net", "up");
    world.send(other, &route("c2s", "example.net", &up));
    assert!(world.take(sm).contains("up"));
    let down = message("romeo@example.net/x", "juliet@example.net/b", "down");
    world.send(sm, &route("example.net", "c2s", &down));
    assert!(world.take(speaker).contains("down"));
    world.cut(speaker);
    assert_eq!(asked(&mut world, other).0, ["sm"], "the other one speaks");
}
