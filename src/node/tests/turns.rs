//! What is on its way to a user while the node that serves him changes.

use super::cluster::{Site, components, node, token};
use super::world::{route, start};

#[test]
fn what_comes_too_late_where_he_was_served_stays_before_what_is_newer() {
    for user in 0..12 {
        let mut site = Site::new(2, 2);
        let jid = format!("u{user}@example.net");
        assert_eq!(site.login(0, 7, &format!("{jid}/r"), 1), 0);
        // Node 0 gives him back; node 1 does not know it yet, sends him something, and somebody logs in as him there.
        site.stalls(0, 1);
        site.logout(0, 0, 7, 1);
        site.say(1, &jid, "one");
        site.nodes[1].send(
            site.c2s[1],
            &route("c2s", "example.net", &start(5, &format!("{jid}/r"), &token(2))),
        );
        site.carry();
        site.gets_through(0, 1);
        site.say(1, &jid, "two");
        // What comes back waits for a moment, where no word has come of who serves him now.
        let heard = site.answers_for(2 * crate::node::TICK_US);
        let at: Vec<usize> = (0..2).filter(|n| heard[*n].contains("action='start'")).collect();
        let [at] = at[..] else {
            panic!("user {user}: the start came to {at:?}: {heard:?}")
        };
        let all = heard.concat();
        let (one, two) = (all.find("one"), all.find("two"));
        assert!(one.is_some() && one < two, "user {user} at {at}: {heard:?}");
        assert!(heard[at].contains("two"), "user {user} at {at}: {heard:?}");
    }
}

#[test]
fn what_comes_back_to_the_node_that_serves_him_again_stays_before_what_is_newer() {
    for user in 0..12 {
        let mut site = Site::new(2, 2);
        let jid = format!("u{user}@example.net");
        assert_eq!(site.login(1, 7, &format!("{jid}/r"), 1), 1);
        // What node 0 says is under way when node 1 gives him back, and when he logs in there again.
        site.stalls(1, 0);
        site.say(0, &jid, "one");
        site.logout(1, 1, 7, 1);
        site.send_c2s(1, "example.net", &start(5, &format!("{jid}/r"), &token(2)));
        site.say(0, &jid, "two");
        site.gets_through(1, 0);
        let all = site.answer_fences().concat();
        let (one, two) = (all.find("one"), all.find("two"));
        assert!(one.is_some() && one < two, "user {user}: {all}");
    }
}

#[test]
fn what_waited_for_an_sm_that_is_lost_stays_before_what_is_newer() {
    for user in 0..12 {
        let mut site = Site::new(3, 2);
        let jid = format!("u{user}@example.net");
        assert_eq!(site.login(0, 7, &format!("{jid}/r"), 1), 0);
        let sm = site.sm[0];
        site.nodes[0].cut(sm);
        site.say(1, &jid, "one");
        // When the sm is given up, node 0 sends on what waited for it, and that is long under way.
        site.cut.push((0, 2));
        site.pass(10_000_000);
        site.say(1, &jid, "two");
        site.pass(1_000_000);
        site.heal(0, 2);
        // No sm answers the surrogate that tells his contacts.
        let heard = site.answers_for(7_000_000);
        let all = heard.concat();
        let (one, two) = (all.find("one"), all.find("two"));
        assert!(one.is_some() && one < two, "user {user}: {heard:?}");
    }
}

#[test]
fn nobody_is_served_elsewhere_before_every_node_has_what_an_sm_said_of_him() {
    for heals in [true, false] {
        let mut site = Site::new(3, 2);
        let jid = "u@example.net";
        site.say(0, jid, "work");
        let duty = site.who_got("work")[0];
        let (elsewhere, third) = ((duty + 1) % 3, (duty + 2) % 3);
        site.cut.push((duty, third));
        let begin = start(5, &format!("{jid}/r"), "id");
        site.send_c2s(elsewhere, "example.net", &begin);
        let heard = site.answer_fences().concat();
        assert!(
            heard.contains("jidmesh-fence-") && !heard.contains("action='start'"),
            "{heard}"
        );
        match heals {
            true => site.heal(duty, third),
            // Nobody is waited for without end.
            false => site.pass(5_500_000),
        }
        assert_eq!(site.who_got("action='start'"), [elsewhere], "heals: {heals}");
    }
}

#[test]
fn an_sm_that_outlived_its_router_ends_the_sessions_of_a_c2s_elsewhere_that_is_heard_of_later() {
    let mut site = Site::new(2, 2);
    site.nodes[0] = node(0, 2);
    [site.sm[0], site.c2s[0], site.peer[0]] = components(&mut site.nodes[0], 0);
    let gone = "type='unavailable' from='c2s.b.test'";
    assert!(!site.took_sm(0).contains(gone));
    site.connect(0, 1);
    let heard = site.took_sm(0);
    assert!(heard.contains(gone), "{heard}");
    assert!(
        !heard.contains("from='c2s.b.test'/>"),
        "it is no name of this node: {heard}"
    );
}

#[test]
fn who_logs_in_while_nothing_gets_through_is_shown_to_those_who_asked_meanwhile() {
    let mut site = Site::new(2, 2);
    site.stalls(0, 1);
    site.stalls(1, 0);
    let users = ["one@example.net", "two@example.net"];
    for n in 0..2 {
        assert_eq!(site.login(n, 7, &format!("{}/r", users[n]), 1 + n as u32), n);
        // Each side asks for whoever logs in on the other.
        for shown in ["", " type='probe'"] {
            let (from, to) = (users[n], users[1 - n]);
            site.send_sm(
                n,
                "example.net",
                &format!("<presence xmlns='jabber:client'{shown} from='{from}' to='{to}'/>"),
            );
        }
    }
    site.answer_fences();
    for (here, there) in [(0, 1), (1, 0)] {
        site.seems_stalled(here, there, false);
    }
    site.heal(0, 1);
    site.heal(1, 0);
    site.pass(2_000_000);
    let heard = site.answer_fences();
    for n in 0..2 {
        let probe = format!("type='probe' from='{}' to='{}'", users[1 - n], users[n]);
        assert!(heard[n].contains(&probe), "{probe}: {heard:?}");
    }
}

#[test]
fn what_went_to_a_node_that_nothing_gets_through_to_stays_first_until_that_is_given_up() {
    for user in 0..12 {
        let mut site = Site::new(2, 2);
        let jid = format!("u{user}@example.net");
        assert_eq!(site.login(1, 7, &format!("{jid}/r"), 1), 1);
        site.stalls(0, 1);
        site.say(0, &jid, "one");
        site.send_c2s(0, "example.net", &start(8, &format!("{jid}/r"), &token(2)));
        site.say(0, &jid, "two");
        site.pass(8_000_000);
        assert!(!site.answer_fences()[0].contains("two"), "user {user}");
        site.dies(0, 1);
        let mut heard = site.answer_fences().concat();
        // No sm answers the surrogate that tells his contacts of the session that died.
        site.pass(6_000_000);
        heard += &site.answer_fences().concat();
        let (one, two) = (heard.find("one"), heard.find("two"));
        assert!(one.is_some() && one < two, "user {user}: {heard}");
    }
}
