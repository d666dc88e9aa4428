//! Attached mode: the stock router played by hand.

use super::cluster::mesh;
use super::world::{COMP, End, SESS, World, bind, control, message, route, start, started};
use crate::config::{Mesh, Placement, Secret, Uplink};
use crate::node::api::Micros;
use crate::node::counters::Counter;

/// Where c2s answers questions.
const ANSWERS: &str = "answers.jidmesh.router";

fn attached() -> World {
    World::with(1, |config| config.uplink = Some(uplink()))
}

fn uplink() -> Uplink {
    Uplink {
        addr: "127.0.0.1:5346".parse().unwrap(),
        user: "mesh".into(),
        pass: Secret("x".into()),
        certificate: None,
    }
}

/// The same on a machine of this name, in a mesh that clusters these domains.
fn attached_in_mesh(node: &str, domains: &[&str]) -> World {
    World::with(1, |config| {
        config.uplink = Some(uplink());
        let domains = domains.iter().map(|domain| (domain.to_string(), Placement::Near));
        config.mesh = Some(Mesh {
            domains: domains.collect(),
            ..mesh(node)
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

/// Logs the next line in, and answers its first bind and the mark behind it, with these names between the two.
fn line(world: &mut World, names: &[&str]) -> End {
    let end = world.uplink_line();
    assert_eq!(world.take(end).matches("<bind").count(), 2);
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
    machine_of(attached())
}

fn machine_of(mut world: World) -> (World, End, End, End) {
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
    let other = line(&mut world, &["c2s", "jidmesh.router"]);
    assert_eq!(asked(&mut world, other).0, [""], "a mark behind what it shares");
    assert_eq!(
        asked(&mut world, speaker).0,
        [ANSWERS, ""],
        "what came before it is drained"
    );
    world.component(&["sm", "*example.net"]);
    let (mut of_speaker, mut of_other) = (asked(&mut world, speaker).0, asked(&mut world, other).0);
    of_speaker.sort();
    of_other.sort();
    assert_eq!(
        (of_speaker, of_other),
        (vec!["example.net".into(), "sm".into()], vec!["example.net".to_owned()])
    );
    world.cut(speaker);
    assert_eq!(asked(&mut world, other).0, ["sm", ANSWERS], "the other one speaks");
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

/// The answers of a c2s must not overtake one another, as they may on their way to a name that both lines have.
#[test]
fn a_c2s_is_asked_to_answer_over_one_line() {
    let (mut world, speaker, other, sm) = machine();
    for (number, user) in [(7, "juliet"), (8, "nurse")] {
        let (full, token) = (format!("{user}@example.net/b"), format!("t{number}"));
        world.send(speaker, &route("c2s", "example.net", &start(number, &full, "s")));
        world.send(sm, &route("sm", "c2s", &started(number, &full, "s", &token)));
    }
    for gone in [true, false] {
        world.send(speaker, &advert("c2s", gone));
        world.take(other);
        if gone {
            world.take(speaker);
        }
    }
    let down = world.take(speaker);
    let questions: Vec<&str> = down
        .split("<route")
        .filter(|frame| frame.contains("jidmesh-ask-"))
        .collect();
    assert_eq!(questions.len(), 3, "two clients, and the end of it: {down}");
    let of = |frame: &str, name: &str| {
        let value = frame
            .split(&format!("{name}='"))
            .nth(1)
            .and_then(|rest| rest.split('\'').next());
        value.unwrap().to_owned()
    };
    for question in questions {
        assert_eq!(of(question, "target"), format!("jidmesh@{ANSWERS}"));
        let number = of(question, "sc:c2s").parse().unwrap();
        world.send(
            speaker,
            &route("c2s", ANSWERS, &control("end", number, &of(question, "sc:sm"))),
        );
    }
    assert!(world.log.iter().any(|line| line.text.contains("[c2s] was restarted")));
    let told = world.take(sm);
    assert!(
        told.contains("type='unavailable'") && told.contains("from='c2s'"),
        "its sessions are over: {told}"
    );
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

/// The stock router drops a frame that comes from a name which is not bound, and c2s would wait for ever.
#[test]
fn an_answer_from_a_domain_that_is_no_longer_bound_bears_a_name_that_is() {
    let (mut world, speaker, _, sm) = machine();
    world.cut(sm);
    world.send(
        speaker,
        &route("c2s", "example.net", &start(7, "juliet@example.net/b", "s1")),
    );
    assert_eq!(world.take(speaker), "", "it waits for the sm");
    world.pass(20_000_000);
    let down = world.take(speaker);
    let unbound = down.find("<unbind xmlns='http://jabberd.jabberstudio.org/ns/component/1.0' name='example.net'");
    let refused = down.find("action='started'").unwrap();
    assert!(unbound.unwrap() < refused, "{down}");
    let answers = down.matches("from='jidmesh.router'").count();
    assert!(answers == 2 && !down.contains("from='example.net'"), "{down}");
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
    let to_bob = |body| {
        route(
            "example.net",
            "c2s",
            &message("a@example.net/x", "b@example.net/y", body),
        )
    };
    for body in ["in flight", "not written"] {
        world.send(sm, &to_bob(body));
    }
    world.cut_writing(speaker, to_bob("in flight").as_bytes(), 0);
    let down = world.take(other);
    let places = ["name='sm'", "in flight", "not written"].map(|part| down.find(part).unwrap());
    assert!(places.is_sorted(), "{down}");
}

#[test]
fn a_stock_router_that_is_away_is_dialled_ever_less_often_and_one_that_was_there_at_once() {
    let mut world = attached();
    world.pass(0);
    assert_eq!(world.dials.len(), 2);
    let mut pauses = || world.refuse_dials(60_000_000).unwrap() / 1_000;
    let pauses: Vec<Micros> = (0..8).map(|_| pauses()).collect();
    assert_eq!(pauses, [100, 200, 400, 800, 1600, 2000, 2000, 2000]);
    let told = world.log.iter().filter(|line| line.text.contains("is down"));
    assert_eq!(told.count(), 2, "once for each line");
    let speaker = line(&mut world, &["c2s"]);
    world.dials.clear();
    world.cut(speaker);
    assert_eq!(world.until_dialled(60_000_000), Some(100_000));
}

/// Until it is back, the loss of the other one closes every client.
#[test]
fn a_line_that_served_is_dialled_at_once_while_the_other_one_serves() {
    let (mut world, speaker, other, _) = machine();
    world.pass(2_000_000);
    world.dials.clear();
    world.cut(speaker);
    assert_eq!(world.until_dialled(60_000_000), Some(0));
    world.dials.clear();
    world.cut(other);
    let again = line(&mut world, &["c2s"]);
    world.dials.clear();
    world.cut(again);
    assert_ne!(world.until_dialled(60_000_000), Some(0), "it did not last");
}

/// The stock router names what the lost lines held to a line that it greets before it notices their end.
#[test]
fn a_line_that_is_greeted_while_the_last_one_is_lost_begins_anew() {
    let (mut world, speaker, other, _) = machine();
    world.pass(2_000_000);
    world.cut(speaker);
    let early = world.uplink_line();
    world.cut(other);
    assert!(!world.is_open(early));
    world.pass(100_000);
    let end = line(&mut world, &["c2s"]);
    let bound = asked(&mut world, end).0;
    for name in ["sm", "example.net", ANSWERS] {
        assert!(bound.iter().any(|one| one == name), "{name} {bound:?}");
    }
}

#[test]
fn what_only_an_operator_can_mend_is_tried_every_ten_seconds_and_then_works() {
    let mut world = attached();
    let refused = world.uplink_line();
    world.dials.clear();
    world.send(refused, &refusal("403"));
    assert!(!world.is_open(refused));
    let needed = "<acl type='bind'><user>mesh</user></acl>";
    assert!(world.log.iter().any(|line| line.text.contains(needed)));
    assert_eq!(world.until_dialled(60_000_000), Some(10_000_000));
    let (mut world, speaker, _, sm) = machine_of(world);
    world.send(
        speaker,
        &route("c2s", "example.net", &start(7, "juliet@example.net/b", "s1")),
    );
    assert!(world.take(sm).contains("action='start'"));
}

#[test]
fn the_machine_is_reached_by_its_dns_name_through_its_router() {
    let mut world = attached_in_mesh("a.test", &[]);
    let speaker = line(&mut world, &["c2s", "s2s"]);
    let other = line(&mut world, &["c2s", "s2s"]);
    for end in [speaker, other] {
        assert!(
            asked(&mut world, end).0.contains(&"a.test".to_owned()),
            "over both lines"
        );
    }
    // Nobody lives there: an answer, and nothing that comes up again.
    world.send(
        speaker,
        &route("c2s", "a.test", &message("x@other.example", "a.test", "?")),
    );
    let down = world.take(speaker) + &world.take(other);
    assert!(
        down.contains("from='a.test'") && down.contains("type='error'"),
        "{down}"
    );
    // Where it is a domain of users, their sm binds it.
    let mut world = attached_in_mesh("a.test", &["a.test"]);
    let speaker = line(&mut world, &["c2s"]);
    assert_eq!(asked(&mut world, speaker).0, [ANSWERS]);
}

#[test]
fn a_domain_that_is_not_clustered_goes_on_beside_the_one_that_is() {
    let world = attached_in_mesh("a.test", &["example.net"]);
    let (mut world, speaker, other, sm) = machine_of(world);
    // Its sm is at the stock router; jidmesh leaves its names alone, and carries what is for them and comes from them.
    for end in [speaker, other] {
        world.send(
            end,
            &format!("{}{}", advert("sm-old", false), advert("old.test", false)),
        );
        assert_eq!(asked(&mut world, end), (vec![], vec![]));
    }
    world.take(sm);
    let out = message("juliet@example.net/b", "ann@old.test", "out");
    world.send(sm, &route("example.net", "old.test", &out));
    assert!(world.take(speaker).contains(&out));
    let back = message("ann@old.test/x", "juliet@example.net", "back");
    world.send(speaker, &route("old.test", "example.net", &back));
    assert!(world.take(sm).contains(&back));
    // That sm is gone for good: its names are free, and nobody here takes them.
    for end in [speaker, other] {
        world.send(end, &format!("{}{}", advert("old.test", true), advert("sm-old", true)));
    }
    world.pass(20_000_000);
    for end in [speaker, other] {
        assert_eq!(asked(&mut world, end), (vec![], vec![]));
    }
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
    assert_eq!(asked(&mut world, other).0, ["sm", ANSWERS], "the other one speaks");
}
