//! What a hostile or unlucky peer may try: imitated ids, stolen names, races at the worst moment.

use super::world::{COMP, End, SESS, World, bind, control, from_client, message, route, start, started};
use crate::node::counters::Counter;
use crate::node::lane::Message;
use crate::table::users::Session;
use crate::table::{SeatId, Token};

const TOKEN: &str = "2fcc5f2b10f3c41120a3db9ee7620e93931e073c";
const JULIET: &str = "juliet@example.net/balcony";

fn site(shards: u16) -> (World, End, End, End) {
    let mut world = World::new(shards);
    let sm = world.component(&["sm", "*example.net"]);
    let c2s = world.component(&["c2s"]);
    let peer = world.component(&["peer"]);
    login(&mut world, sm, c2s, 9, JULIET, TOKEN);
    [sm, c2s, peer].into_iter().for_each(|end| drop(world.take(end)));
    (world, sm, c2s, peer)
}

fn login(world: &mut World, sm: End, c2s: End, number: u32, jid: &str, token: &str) {
    world.send(c2s, &route("c2s", "example.net", &start(number, jid, "id1")));
    world.send(sm, &route("sm", "c2s", &started(number, jid, "id1", token)));
    world.send(c2s, &route("c2s", "sm", &from_client(number, token, "<presence/>")));
}

fn iq(id: &str, kind: &str, from: &str, to: &str) -> String {
    format!(
        "<iq xmlns='jabber:client' type='{kind}' id='{id}' from='{from}' to='{to}'><ping xmlns='urn:xmpp:ping'/></iq>"
    )
}

fn question(read: &str) -> String {
    let at = read.find("jidmesh-ask-").expect("a question");
    read[at..].split('\'').next().unwrap().to_owned()
}

#[test]
fn a_user_may_choose_any_id_for_his_iq() {
    for shards in [1, 2] {
        let (mut world, sm, _, peer) = site(shards);
        for kind in ["get", "result"] {
            let frame = route("sm", "peer", &iq("jidmesh-ask-2-1", kind, JULIET, "x@peer"));
            world.send(sm, &frame);
            assert_eq!(world.take(peer), frame, "it is his, and goes on");
        }
    }
}

#[test]
fn a_user_cannot_answer_the_routers_question() {
    let (mut world, sm, _, peer) = site(1);
    world.cut(sm);
    let waits = route("peer", "example.net", &message("x@peer", "juliet@example.net", "waits"));
    world.send(peer, &waits);
    let sm = world.component(&["sm", "*example.net"]);
    let id = question(&world.take(sm));
    for guess in 0..32 {
        let forged = iq(
            &format!("jidmesh-ask-1-{guess}"),
            "result",
            "mallory@example.net/x",
            "x@peer",
        );
        world.send(sm, &route("sm", "peer", &forged));
    }
    assert!(!world.take(sm).contains("waits"), "the queue waits for the true answer");
    let answer = format!("<iq xmlns='jabber:client' type='result' id='{id}'/>");
    world.send(sm, &route("example.net", "c2s", &answer));
    assert!(world.take(sm).contains("waits"));
}

#[test]
fn a_user_cannot_answer_a_fence() {
    let mut world = World::new(1);
    let sms = [
        world.component(&["sm1", "*example.net"]),
        world.component(&["sm2", "*example.net"]),
    ];
    let c2s = world.component(&["c2s"]);
    let peer = world.component(&["peer"]);
    let user = (0..64)
        .map(|n| format!("u{n}@example.net"))
        .find(|user| {
            world.send(peer, &route("peer", "example.net", &message("x@peer", user, "backlog")));
            world.take(sms[1]).contains("backlog")
        })
        .unwrap();
    world.take(sms[0]);
    world.send(
        c2s,
        &route("c2s", "example.net", &start(9, &format!("{user}/r"), "id1")),
    );
    assert!(world.take(sms[1]).contains("jidmesh-fence-"));
    for kind in ["get", "result"] {
        for number in 0..8 {
            let forged = iq(
                &format!("jidmesh-fence-0.{number}"),
                kind,
                "mallory@example.net/x",
                "jidmesh.router",
            );
            world.send(sms[1], &route("sm2", "jidmesh.router", &forged));
        }
    }
    assert_eq!(world.take(sms[0]), "", "the start waits for the true answer");
    assert!(
        world.take(sms[1]).contains("error='404'"),
        "nobody of that name takes the iq, and its sender hears so"
    );
}

#[test]
fn session_control_never_leaves_by_the_default_route() {
    let (mut world, sm, c2s, _) = site(2);
    let s2s = world.connect("jabberd");
    world.send(s2s, &format!("<bind xmlns='{COMP}' name='s2s'><default/></bind>"));
    [sm, c2s, s2s].into_iter().for_each(|end| drop(world.take(end)));
    world.send(c2s, &route("c2s", "not.served", &start(10, "a@not.served/r", "id2")));
    assert!(
        world.take(c2s).contains("error='404'"),
        "the client must not wait for ever"
    );
    world.cut(c2s);
    world.pass(10_000_000);
    world.take(sm);
    let body = format!("<message from='x@peer' to='{JULIET}' id='m'><body>late</body></message>");
    world.send(sm, &route("example.net", "c2s", &from_client(9, TOKEN, &body)));
    assert!(
        world.take(sm).contains("late"),
        "a delivery to a lost c2s goes to its user once more"
    );
    assert_eq!(world.take(s2s).matches("<route").count(), 0);
}

#[test]
fn an_end_that_sm_knows_nothing_of_ends_the_session_here_too() {
    let (mut world, sm, c2s, _) = site(2);
    world.send(c2s, &route("c2s", "sm", &control("end", 9, TOKEN)));
    let failed = format!("<sc:session xmlns:sc='{SESS}' sc:failed='1' sc:c2s='9' sc:sm='{TOKEN}' action='end'/>");
    world.send(sm, &route("sm", "c2s", &failed));
    assert_eq!(world.sessions(), 0);
}

#[test]
fn an_external_component_cannot_join_a_native_name() {
    let mut world = World::new(2);
    let sm = world.component(&["sm", "*example.net"]);
    world.take(sm);
    for name in ["sm", "example.net"] {
        let thief = world.foreign(name);
        world.pass(3_000_000);
        assert!(!world.is_open(thief), "{name}");
    }
    let first = world.foreign("rooms");
    let second = world.foreign("rooms");
    world.pass(3_000_000);
    assert!(
        world.is_open(first) && world.is_open(second),
        "its own kind may share a name"
    );
    let native = world.connect("jabberd");
    world.send(native, &bind("*sm"));
    assert!(world.take(native).contains("error='409'"));
}

#[test]
fn one_ended_client_is_no_proof_that_its_component_was_restarted() {
    for shards in [1, 2] {
        let (mut world, sm, c2s, _) = site(shards);
        let token = "33".repeat(20);
        login(&mut world, sm, c2s, 10, "romeo@example.net/orchard", &token);
        // Both `ended` are lost with the link: sm knows nothing of these sessions any more.
        world.send(c2s, &route("c2s", "sm", &control("end", 10, &token)));
        world.cut(sm);
        let sm = world.component(&["sm", "*example.net"]);
        let read = world.take(sm);
        assert!(
            read.contains(TOKEN) && !read.contains(&token),
            "the session that is not ending is asked about: {read}"
        );
        // The same for clients that left while their c2s was away.
        let answer = format!("<iq xmlns='jabber:client' type='result' id='{}'/>", question(&read));
        world.send(sm, &route("example.net", "c2s", &answer));
        world.cut(c2s);
        let c2s = world.connect("jabberd");
        let early = route("c2s", "sm", &control("end", 9, TOKEN));
        login_late(&mut world, c2s, &early);
        let read = world.take(c2s);
        assert!(
            !read.contains("sc:c2s='9'") && !read.contains("sc:c2s='10'"),
            "nobody is left to ask about: {read}"
        );
    }
}

fn login_late(world: &mut World, c2s: End, early: &str) {
    world.send(c2s, &(early.to_owned() + &bind("c2s")));
}

#[test]
fn a_user_cannot_end_another_by_an_attribute_of_his_message() {
    for attribute in ["failed='1'".to_owned(), format!("xmlns:f='{SESS}' f:failed='1'")] {
        let (mut world, sm, c2s, _) = site(2);
        let body = format!("<message from='mallory@example.org/x' {attribute} to='{JULIET}'><body>x</body></message>");
        let delivery = route("example.net", "c2s", &from_client(9, TOKEN, &body));
        world.send(sm, &delivery);
        let read = world.take(c2s);
        assert!(!read.contains("error="), "{read}");
        assert_eq!(world.sessions(), 1);
        assert_eq!(
            read == delivery,
            !attribute.contains("f:failed"),
            "c2s would close its link for the latter"
        );
    }
}

#[test]
fn a_second_link_is_answered_though_the_first_is_on_its_way() {
    let mut world = World::new(2);
    let _first = world.component(&["a"]);
    let one = world.connect("jabberd");
    let two = world.connect("jabberd");
    world.hold_moves = true;
    world.send(one, &bind("b"));
    world.send(two, &bind("b"));
    world.pass(500_000);
    world.let_move();
    world.pass(5_000_000);
    let read = world.take(two);
    assert!(read.contains("<bind"), "answered one way or the other: {read}");
}

#[test]
fn a_contender_is_answered_when_the_holder_ends_unasked() {
    for shards in [1, 2] {
        let (mut world, _, c2s, _) = site(shards);
        let new = world.connect("jabberd");
        world.send(new, &bind("c2s"));
        // Decided, but the probe finds no link any more.
        world.probes_lost = true;
        world.pass(1_500_000);
        world.cut(c2s);
        assert!(world.take(new).starts_with("<bind"), "{shards}");
    }
}

#[test]
fn a_frame_cut_by_the_end_of_a_link_is_written_again() {
    let (mut world, _, c2s, _) = site(1);
    let [one, two, three] = ["one", "two", "three"].map(|body| {
        let stanza = format!("<message from='x@peer' to='{JULIET}'><body>{body}</body></message>");
        route("peer", "c2s", &stanza)
    });
    let chunk = one.clone() + &two + &three;
    world.cut_writing(c2s, chunk.as_bytes(), one.len() + 20);
    let c2s = world.component(&["c2s"]);
    let id = question(&world.take(c2s));
    world.send(c2s, &route("c2s", "sm", &control("end", 9, &id)));
    assert_eq!(world.take(c2s), two + &three);
}

#[test]
fn what_a_closed_link_did_not_take_waits_for_the_component() {
    for shards in [1, 2] {
        let (mut world, _, c2s, peer) = site(shards);
        world.stuck = Some(peer);
        let [one, two] = ["u:one", "u:two"].map(|uri| route("c2s", "peer", &format!("<x xmlns='{uri}'/>")));
        world.send(c2s, &one);
        world.send(peer, "<a></b>");
        assert!(!world.is_open(peer));
        world.stuck = None;
        world.send(c2s, &two);
        let peer = world.component(&["peer"]);
        assert!(world.take(peer).contains(&(one + &two)));
    }
}

#[test]
fn throttle_does_not_release_what_waits_for_an_answer() {
    let (mut world, sm, _, peer) = site(1);
    world.cut(sm);
    world.send(
        peer,
        &route("peer", "example.net", &message("x@peer", "juliet@example.net", "waits")),
    );
    let sm = world.component(&["sm", "*example.net"]);
    world.send(sm, &format!("<throttle xmlns='{COMP}'/><throttle xmlns='{COMP}'/>"));
    assert!(!world.take(sm).contains("waits"));
}

#[test]
fn what_waits_for_an_external_component_that_stays_away_comes_back_to_its_sender() {
    for shards in [1, 2] {
        let mut world = World::new(shards);
        let rooms = world.foreign("rooms");
        let peer = world.component(&["peer"]);
        world.cut(rooms);
        world.take(peer);
        world.send(peer, &route("peer", "rooms", &message("x@peer", "r@rooms", "hello")));
        world.pass(10_000_000);
        let read = world.take(peer);
        assert!(read.contains("hello") && read.contains("error='404'"), "{read}");
        assert_eq!(world.count(Counter::DropGone), 0);
    }
}

#[test]
fn a_surrogate_that_starts_too_late_is_ended() {
    for shards in [1, 2] {
        let (mut world, sm, _, _) = site(shards);
        world.cut(sm);
        let sm = world.component(&["sm", "*example.net"]);
        let id = question(&world.take(sm));
        let answer = format!("<iq xmlns='jabber:client' failed='1' type='get' id='{id}'/>");
        world.send(sm, &route("sm", "c2s", &answer));
        let read = world.take(sm);
        let at = read.find("jidmesh-tell-").expect("a surrogate") + "jidmesh-tell-".len();
        let number: u32 = read[at..].split('\'').next().unwrap().parse().unwrap();
        world.pass(6_000_000);
        world.take(sm);
        let token = "44".repeat(20);
        world.send(
            sm,
            &route("sm", "jidmesh.router", &started(number, JULIET, "x", &token)),
        );
        let read = world.take(sm);
        assert!(read.contains("action='end'") && read.contains(&token), "{read}");
    }
}

#[test]
fn a_session_at_an_sm_that_is_gone_is_not_registered() {
    let (mut world, _, _, _) = site(1);
    // The c2s's home learnt of the session before it learnt of the end of its sm, the user's owner after it.
    let session = Session {
        resource: "orchard".into(),
        c2s: SeatId::new(2, 0),
        number: 10,
        token: Token::new(&[b'5'; 40]).unwrap(),
        available: false,
        shown: false,
        priority: 0,
        ending: false,
        recall: Default::default(),
    };
    let register = Message::Register {
        bare: "romeo@example.net".into(),
        sm: SeatId::new(77, 0),
        request: None,
        session: Box::new(session),
    };
    world.shards[0].handle(1, 0, register);
    assert_eq!(world.sessions(), 1, "juliet's alone");
}

#[test]
fn a_start_under_way_while_its_sm_turns_out_to_be_restarted_arrives_once() {
    for n in 0..8 {
        let (mut world, sm, c2s, _) = site(2);
        world.cut(sm);
        let sm = world.component(&["sm", "*example.net"]);
        let id = question(&world.take(sm));
        let user = format!("u{n}@example.net/r");
        world.send_unsettled(c2s, &route("c2s", "example.net", &start(10, &user, "id2")));
        let answer = format!("<iq xmlns='jabber:client' failed='1' type='get' id='{id}'/>");
        world.send(sm, &route("sm", "c2s", &answer));
        let read = world.take(sm);
        assert_eq!(read.matches(&user).count(), 1, "{read}");
    }
}

#[test]
fn strangers_cannot_fill_the_memory() {
    let mut world = World::new(1);
    let route = route("a", "b", &format!("<x xmlns='u:t'>{}</x>", "x".repeat(900_000)));
    let open = 40;
    let ends: Vec<End> = (0..open)
        .map(|n| world.accept(&format!("192.0.2.1:{}", n + 1)))
        .collect();
    for end in &ends {
        world.send(
            *end,
            "<stream:stream xmlns:stream='http://etherx.jabber.org/streams' version='1.0'>",
        );
        (0..4).for_each(|_| world.send(*end, &route));
    }
    let left = ends.iter().filter(|end| world.is_open(**end)).count();
    assert!(
        left > 0 && left * 4 * route.len() <= 64 << 20,
        "{left} of {open} keep their routes"
    );
}
