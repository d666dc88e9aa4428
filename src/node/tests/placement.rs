//! Sessions, placement, fences: one machine with one or two sm.

use super::world::{End, SESS, World, control, from_client, message, route, start, started};
use crate::config::filter::{Filter, Rule, What};
use crate::node::counters::Counter;

const TOKEN: &str = "2fcc5f2b10f3c41120a3db9ee7620e93931e073c";
const TOKEN2: &str = "ab2180dc2779c96e97c08cbfc21f4da49e2eedb7";

struct Site {
    world: World,
    sms: Vec<End>,
    c2s: End,
    peer: End,
}

impl Site {
    fn new(shards: u16, sms: usize) -> Site {
        Site::in_world(World::new(shards), sms)
    }

    fn in_world(mut world: World, sms: usize) -> Site {
        let sms = (1..=sms)
            .map(|n| world.component(&[&format!("sm{n}"), "*example.net"]))
            .collect();
        let c2s = world.component(&["c2s"]);
        let peer = world.component(&["peer"]);
        let mut site = Site { world, sms, c2s, peer };
        site.drain();
        site
    }

    fn drain(&mut self) {
        for end in self.sms.clone().into_iter().chain([self.c2s, self.peer]) {
            self.world.take(end);
        }
    }

    /// c2s asks for a session; which sm got the start.
    fn start(&mut self, number: u32, jid: &str, id: &str) -> Option<usize> {
        self.world
            .send(self.c2s, &route("c2s", "example.net", &start(number, jid, id)));
        self.got("action='start'")
    }

    fn started(&mut self, sm: usize, number: u32, jid: &str, id: &str, token: &str) {
        let from = format!("sm{}", sm + 1);
        self.world
            .send(self.sms[sm], &route(&from, "c2s", &started(number, jid, id, token)));
    }

    fn login(&mut self, number: u32, jid: &str, token: &str) -> usize {
        let sm = self.start(number, jid, "id1").unwrap();
        self.started(sm, number, jid, "id1", token);
        assert!(self.world.take(self.c2s).contains("action='started'"));
        let presence = from_client(number, token, "<presence/>");
        self.world
            .send(self.c2s, &route("c2s", &format!("sm{}", sm + 1), &presence));
        self.drain();
        sm
    }

    /// The sm that has something with this text to read; everything read is gone.
    fn got(&mut self, text: &str) -> Option<usize> {
        (0..self.sms.len())
            .filter(|sm| self.world.take(self.sms[*sm]).contains(text))
            .last()
    }

    fn say(&mut self, to: &str, body: &str) {
        self.world
            .send(self.peer, &route("peer", "example.net", &message("x@peer", to, body)));
    }

    fn answer_fence(&mut self, sm: usize, read: &str) {
        let at = read.find("id='jidmesh-fence-").expect("a fence") + 4;
        let id = read[at..].split('\'').next().unwrap().to_owned();
        let answer =
            format!("<iq xmlns='jabber:client' type='result' id='{id}' from='example.net' to='jidmesh.router'/>");
        self.world.send(
            self.sms[sm],
            &route(&format!("sm{}", sm + 1), "jidmesh.router", &answer),
        );
    }
}

#[test]
fn all_sessions_of_a_user_go_to_one_sm() {
    for shards in [1, 2, 3] {
        let mut site = Site::new(shards, 2);
        let first = site.login(9, "juliet@example.net/balcony", TOKEN);
        let second = site.start(10, "juliet@example.net/chamber", "id2").unwrap();
        assert_eq!(first, second);
        site.say("juliet@example.net", "to the bare JID");
        assert_eq!(site.got("to the bare JID"), Some(first));
        site.say("Juliet@EXAMPLE.net/unknown", "prepared");
        assert_eq!(site.got("prepared"), Some(first));
        assert_eq!(site.world.sessions(), 1);
    }
}

#[test]
fn new_users_go_to_the_least_loaded_sm() {
    let mut site = Site::new(1, 2);
    let mut load = [0; 2];
    for n in 0..10 {
        let token = format!("{n:040}");
        load[site.login(n, &format!("user{n}@example.net/r"), &token)] += 1;
    }
    assert_eq!(load, [5, 5]);
}

#[test]
fn a_fence_that_only_tidies_up_proves_nothing_of_what_goes_behind_it() {
    for shards in [1, 2, 3] {
        let mut site = Site::new(shards, 2);
        let user = (0..64).map(|n| format!("u{n}@example.net")).find(|user| {
            site.say(user, "first");
            site.got("first") == Some(1)
        });
        let user = user.unwrap();
        // Now every user may have something at either sm.
        site.world.hand_over(shards);
        site.drain();
        site.say(&user, "backlog");
        let read = site.world.take(site.sms[0]);
        site.answer_fence(0, &read);
        let read = site.world.take(site.sms[1]);
        assert!(read.contains("backlog"), "{read}");
        if read.contains("jidmesh-fence-") {
            site.answer_fence(1, &read);
        }
        assert_eq!(
            site.start(9, &format!("{user}/r"), "id1"),
            None,
            "it may still be stored"
        );
    }
}

#[test]
fn a_backlog_is_fenced_before_its_user_moves_to_another_sm() {
    for shards in [1, 2] {
        let mut site = Site::new(shards, 2);
        // Find a user whose duty sm is not the one that a login would choose (the first, when both are idle).
        let (user, duty) = (0..64)
            .find_map(|n| {
                let user = format!("u{n}@example.net");
                site.say(&user, "probe");
                let duty = site.got("probe").unwrap();
                (duty == 1).then_some((user, duty))
            })
            .unwrap();
        site.say(&user, "backlog");
        site.drain();
        site.world.send(
            site.c2s,
            &route("c2s", "example.net", &start(9, &format!("{user}/r"), "id1")),
        );
        assert_eq!(site.world.take(site.sms[0]), "", "the start waits");
        let read = site.world.take(site.sms[duty]);
        site.say(&user, "held");
        assert_eq!(
            site.world.take(site.sms[0]),
            "",
            "and so does what comes for the user meanwhile"
        );
        site.answer_fence(duty, &read);
        let read = site.world.take(site.sms[0]);
        let (start, held) = (read.find("action='start'").unwrap(), read.find("held").unwrap());
        assert!(start < held);
        assert!(site.world.count(Counter::Fences) >= 1);
    }
}

#[test]
fn a_fence_that_is_never_answered_delays_a_login_only_so_long() {
    let mut site = Site::new(1, 2);
    let user = (0..64)
        .map(|n| format!("u{n}@example.net"))
        .find(|user| {
            site.say(user, "probe");
            site.got("probe") == Some(1)
        })
        .unwrap();
    site.drain();
    assert_eq!(site.start(9, &format!("{user}/r"), "id1"), None);
    site.world.pass(6_000_000);
    assert_eq!(site.got("action='start'"), Some(0));
}

#[test]
fn frames_wait_from_the_last_end_until_ended() {
    let mut site = Site::new(2, 2);
    let sm = site.login(9, "juliet@example.net/balcony", TOKEN);
    let name = format!("sm{}", sm + 1);
    site.world
        .send(site.c2s, &route("c2s", &name, &control("end", 9, TOKEN)));
    assert!(site.world.take(site.sms[sm]).contains("action='end'"));
    site.say("juliet@example.net", "after the end");
    assert_eq!(site.got("after the end"), None);
    site.world
        .send(site.sms[sm], &route(&name, "c2s", &control("ended", 9, TOKEN)));
    assert_eq!(site.world.sessions(), 0);
    let mut all = String::new();
    for other in 0..2 {
        let read = site.world.take(site.sms[other]);
        if read.contains("jidmesh-fence") {
            site.answer_fence(other, &read);
        }
        all += &read;
    }
    all += &(site.world.take(site.sms[0]) + &site.world.take(site.sms[1]));
    assert_eq!(
        all.matches("after the end").count(),
        1,
        "by the same sm or, after a fence, by the duty sm: {all}"
    );
    assert!(site.world.count(Counter::HeldFrames) >= 1);
}

#[test]
fn presence_for_users_who_are_not_available_never_reaches_sm() {
    for shards in [1, 2] {
        let mut site = Site::new(shards, 1);
        let presence =
            |kind: &str, to: &str| format!("<presence xmlns='jabber:client' from='x@peer' to='{to}'{kind}/>");
        for (kind, passes) in [
            ("", false),
            (" type='unavailable'", false),
            (" type='probe'", true),
            (" type='subscribe'", true),
            (" type='odd'", true),
        ] {
            site.world.send(
                site.peer,
                &route("peer", "example.net", &presence(kind, "juliet@example.net")),
            );
            assert_eq!(site.got("<presence").is_some(), passes, "{kind}");
        }
        assert_eq!(site.world.count(Counter::DropPresence), 2);
        site.login(9, "juliet@example.net/balcony", TOKEN);
        site.world.send(
            site.peer,
            &route("peer", "example.net", &presence("", "juliet@example.net")),
        );
        assert!(site.got("<presence").is_some());
        let gone = from_client(9, TOKEN, "<presence type='unavailable'/>");
        site.world.send(site.c2s, &route("c2s", "sm1", &gone));
        site.drain();
        site.world.send(
            site.peer,
            &route("peer", "example.net", &presence("", "juliet@example.net")),
        );
        assert!(site.got("<presence").is_none());
        site.world.send(
            site.peer,
            &route("peer", "example.net", &presence("", "juliet@example.net/balcony")),
        );
        assert!(
            site.got("<presence").is_some(),
            "a session that is there, though not available, is sm's business"
        );
    }
}

#[test]
fn a_client_that_no_sm_knows_is_told_so() {
    let mut site = Site::new(2, 1);
    site.login(9, "juliet@example.net/balcony", TOKEN);
    let stanza = from_client(11, TOKEN2, "<message to='romeo@example.net'/>");
    site.world.send(site.c2s, &route("c2s", "sm1", &stanza));
    assert!(site.world.take(site.c2s).contains("error='404'"));
    assert_eq!(site.got("<message"), None);
    // sm gives a stanza back: the session is gone there.
    let back = format!("<message xmlns='jabber:client' xmlns:sc='{SESS}' failed='1' sc:c2s='9' sc:sm='{TOKEN}'/>");
    site.world.send(site.sms[0], &route("sm1", "c2s", &back));
    let read = site.world.take(site.c2s);
    assert!(read.contains("error='404'") && !read.contains("sc:failed"), "{read}");
    assert_eq!(site.world.sessions(), 0);
    assert_eq!(site.world.count(Counter::ZombiesCleared), 2);
}

#[test]
fn an_error_reply_of_sm_reaches_the_sender() {
    let mut site = Site::new(2, 1);
    let error = "<message xmlns='jabber:client' type='error' to='x@peer' from='juliet@example.net/balcony'/>";
    let frame = route("sm1", "peer", error).replacen("<route", "<route error='404'", 1);
    site.world.send(site.sms[0], &frame);
    assert_eq!(site.world.take(site.peer), route("sm1", "peer", error));
    let control = route("sm1", "peer", &control("ended", 9, TOKEN)).replacen("<route", "<route error='404'", 1);
    site.world.send(site.sms[0], &control);
    assert_eq!(
        site.world.take(site.peer),
        "",
        "a bounce of session control goes nowhere"
    );
}

#[test]
fn what_sm_asks_every_component_stays_here() {
    let mut site = Site::new(2, 2);
    let disco = |to: &str| {
        format!(
            "<iq xmlns='jabber:client' id='a' from='sm1' to='{to}' type='get'><query xmlns='http://jabber.org/protocol/disco#info'></query></iq>"
        )
    };
    site.start(9, "juliet@example.net/balcony", "id1");
    site.drain();
    for (to, passes) in [("c2s", false), ("sm2", false), ("peer", true)] {
        site.world.send(site.sms[0], &route("sm1", to, &disco(to)));
        let read = site.world.take(site.c2s) + &site.world.take(site.peer) + &site.world.take(site.sms[1]);
        assert_eq!(read.contains("disco#info"), passes, "{to}");
    }
}

#[test]
fn a_start_is_placed_again_when_its_sm_dies() {
    for shards in [1, 2] {
        let mut site = Site::new(shards, 2);
        let sm = site.start(9, "juliet@example.net/balcony", "id1").unwrap();
        site.world.cut(site.sms[sm]);
        assert_eq!(site.got("action='start'"), None);
        site.world.pass(10_000_000);
        assert_eq!(site.got("action='start'"), Some(1 - sm));
    }
}

#[test]
fn a_start_without_any_sm_is_answered() {
    let mut site = Site::new(2, 1);
    site.start(9, "juliet@example.net/balcony", "id1");
    site.world.cut(site.sms[0]);
    site.world.take(site.c2s);
    site.world.pass(10_000_000);
    let read = site.world.take(site.c2s);
    assert!(
        read.contains("action='start'") && read.contains("error='404'"),
        "{read}"
    );
}

#[test]
fn what_another_sm_says_of_a_session_ends_nothing() {
    let mut site = Site::new(2, 2);
    let sm = site.login(9, "juliet@example.net/balcony", TOKEN);
    let other = 1 - sm;
    let failed = control("end", 9, TOKEN).replacen("action", "sc:failed='1' action", 1);
    site.world
        .send(site.sms[other], &route(&format!("sm{}", other + 1), "c2s", &failed));
    assert_eq!(site.world.sessions(), 1);
    site.world
        .send(site.sms[sm], &route(&format!("sm{}", sm + 1), "c2s", &failed));
    assert_eq!(site.world.sessions(), 0);
}

#[test]
fn what_waited_for_a_lost_sm_goes_before_anything_newer() {
    for shards in [1, 2, 3] {
        let mut site = Site::new(shards, 2);
        let duty = (0..64)
            .map(|n| format!("u{n}@example.net"))
            .find(|user| {
                site.say(user, "first");
                site.got("first") == Some(1)
            })
            .unwrap();
        site.world.cut(site.sms[1]);
        site.say(&duty, "waits");
        // He logs in: the start waits for the sm that may have something for him, however long that takes.
        assert_eq!(site.start(9, &format!("{duty}/r"), "id1"), None);
        site.say(&duty, "newer");
        site.world.pass(7_000_000);
        assert_eq!(site.got("action='start'"), None);
        site.world.pass(3_000_000);
        let read = site.world.take(site.sms[0]);
        let at = |text: &str| read.find(text).unwrap_or_else(|| panic!("no {text} in {read}"));
        assert!(
            at("action='start'") < at("waits") && at("waits") < at("newer"),
            "{read}"
        );
    }
}

#[test]
fn contacts_are_told_of_a_session_that_was_ending_when_its_sm_was_lost() {
    let mut site = Site::new(2, 2);
    let sm = site.login(9, "juliet@example.net/balcony", TOKEN);
    let end = route("c2s", &format!("sm{}", sm + 1), &control("end", 9, TOKEN));
    site.world.send(site.c2s, &end);
    site.world.cut(site.sms[sm]);
    site.world.pass(10_000_000);
    assert_eq!(site.got("jidmesh-tell-"), Some(1 - sm));
}

#[test]
fn what_an_only_sm_has_in_hand_is_fenced_when_another_joins() {
    for shards in [1, 2, 3] {
        let mut site = Site::new(shards, 1);
        let users: Vec<String> = (0..8).map(|user| format!("u{user}@example.net")).collect();
        let say = |site: &mut Site, body: &str| {
            for user in &users {
                let stanza = message("x@peer", user, body);
                site.world.send(site.peer, &route("peer", "example.net", &stanza));
            }
        };
        say(&mut site, "one");
        let first = site.world.take(site.sms[0]);
        assert_eq!(first.matches(">one<").count(), users.len());
        let second = site.world.component(&["sm2", "*example.net"]);
        say(&mut site, "two");
        assert!(
            !site.world.take(second).contains(">two<"),
            "sm1 may still work on what came before"
        );
        assert!(site.world.take(site.sms[0]).contains("jidmesh-fence-"));
    }
}

/// `<rule what="session?action=start" redirect="TO"/>`
pub(super) fn redirects_starts(to: &str) -> Filter {
    Filter {
        rules: vec![Rule {
            from: None,
            to: None,
            what: What::parse("session?action=start"),
            redirect: Some(to.into()),
            error: None,
            error_code: None,
            log: false,
            dump: None,
            line: 1,
        }],
    }
}

#[test]
fn a_start_redirected_to_an_sm_goes_there_unless_its_user_has_another() {
    for shards in [1, 2, 3] {
        let mut site = Site::new(shards, 2);
        let home = site.login(9, "juliet@example.net/balcony", TOKEN);
        for wished in [0, 1] {
            site.world
                .reload(|config| config.filter = redirects_starts(&format!("sm{}", wished + 1)));
            for user in 0..5 {
                let jid = format!("u{wished}{user}@example.net/r");
                assert_eq!(site.start(20, &jid, "id"), Some(wished), "{jid}");
            }
            let again = site.start(
                10 + u32::try_from(wished).unwrap(),
                "juliet@example.net/chamber",
                &format!("again{wished}"),
            );
            assert_eq!(again, Some(home), "never on two sm");
        }
        // Whoever says it: a component that addresses the sm itself is no other case.
        site.world.reload(|_| {});
        let other = &format!("sm{}", 2 - home);
        site.world.send(
            site.c2s,
            &route("c2s", other, &start(12, "juliet@example.net/hall", "id3")),
        );
        assert_eq!(site.got("action='start'"), Some(home));
        site.world.send(
            site.c2s,
            &route("c2s", other, &start(13, "romeo@example.net/hall", "id4")),
        );
        assert_eq!(site.got("action='start'"), Some(1 - home));
    }
}

#[test]
fn a_start_redirected_to_an_sm_that_is_lost_is_placed_elsewhere() {
    for shards in [1, 2] {
        let mut site = Site::new(shards, 2);
        site.world.reload(|config| config.filter = redirects_starts("sm1"));
        assert_eq!(site.start(9, "juliet@example.net/balcony", "id1"), Some(0));
        site.world.cut(site.sms[0]);
        site.world.pass(20_000_000);
        assert_eq!(site.got("target='juliet@example.net/balcony'"), Some(1));
    }
}

#[test]
fn c2s_hears_nothing_of_a_second_sm_that_started_a_session_under_the_same_id() {
    for shards in [1, 2] {
        let mut world = World::new(shards);
        let sms = [
            world.component(&["sm1", "*example.net"]),
            world.component(&["sm2", "*example.net"]),
        ];
        let c2s = world.component(&["c2s"]);
        sms.into_iter().for_each(|sm| drop(world.take(sm)));
        world.send(
            c2s,
            &route("c2s", "example.net", &start(9, "juliet@example.net/balcony", "id9")),
        );
        let first = usize::from(!world.take(sms[0]).contains("action='start'"));
        let (name, other) = (format!("sm{}", 1 + first), format!("sm{}", 2 - first));
        world.send(
            sms[first],
            &route(&name, "c2s", &started(9, "juliet@example.net/balcony", "id9", TOKEN)),
        );
        assert!(world.take(c2s).contains("action='started'"));
        // Asked once more, by another node perhaps, the other sm is the one that answers.
        world.send(
            c2s,
            &route("c2s", "example.net", &start(9, "juliet@example.net/balcony", "again")),
        );
        let second = sms[1 - first];
        world.send(
            second,
            &route(&other, "c2s", &started(9, "juliet@example.net/balcony", "again", TOKEN)),
        );
        assert!(world.take(second).contains("action='end'"));
        world.send(second, &route(&other, "c2s", &control("ended", 9, TOKEN)));
        assert_eq!(world.take(c2s), "");
        assert_eq!(world.sessions(), 1);
        world.send(sms[first], &route(&name, "c2s", &control("ended", 9, TOKEN)));
        assert!(world.take(c2s).contains("action='ended'"));
        assert_eq!(world.sessions(), 0);
        let users: u64 = world.shards.iter().map(|shard| shard.report().users).sum();
        assert_eq!(users, 0, "nothing is waited for");
    }
}
