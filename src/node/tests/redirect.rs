//! Redirects: told and taken back, and never needed for a frame to find its way.

use super::cluster;
use super::world::{COMP, End, World, bind, control, from_client, message, route, start, started};
use crate::node::counters::Counter;
use crate::node::redirect::REDIRECTS_MAX;

const TOKEN: &str = "2fcc5f2b10f3c41120a3db9ee7620e93931e073c";
const TOKEN2: &str = "ab2180dc2779c96e97c08cbfc21f4da49e2eedb7";
const JULIET: &str = "juliet@example.net/balcony";

fn asking(name: &str) -> String {
    format!("<bind xmlns='{COMP}' name='{name}'><redirect/></bind>")
}

fn redirect(jid: &str, to: Option<&str>) -> String {
    let to = to.map(|to| format!(" to='{to}'")).unwrap_or_default();
    format!("<redirect xmlns='{COMP}' jid='{jid}'{to}></redirect>")
}

/// Two sm, a c2s, a component that asked for redirects, and one that did not.
struct Site {
    world: World,
    sms: [End; 2],
    c2s: End,
    asker: End,
    other: End,
}

impl Site {
    fn new(shards: u16) -> Site {
        let mut world = World::new(shards);
        let sms = ["sm1", "sm2"].map(|id| world.component(&[id, "*example.net"]));
        let c2s = world.component(&["c2s"]);
        let asker = world.connect("jabberd");
        world.send(asker, &asking("asker"));
        assert!(world.take(asker).contains("<redirect></redirect></bind>"));
        let other = world.component(&["other"]);
        world.take(other);
        Site {
            world,
            sms,
            c2s,
            asker,
            other,
        }
    }

    /// Logs in; at which sm.
    fn login(&mut self, number: u32, jid: &str, token: &str) -> usize {
        let ask = route("c2s", "example.net", &start(number, jid, "id"));
        self.world.send(self.c2s, &ask);
        let at = (0..2)
            .filter(|sm| self.world.take(self.sms[*sm]).contains("action='start'"))
            .last()
            .unwrap();
        let from = format!("sm{}", at + 1);
        self.world
            .send(self.sms[at], &route(&from, "c2s", &started(number, jid, "id", token)));
        at
    }

    fn logout(&mut self, at: usize, number: u32, token: &str) {
        let sm = format!("sm{}", at + 1);
        let end = route("c2s", &sm, &control("end", number, token));
        self.world.send(self.c2s, &end);
        let ended = route(&sm, "c2s", &control("ended", number, token));
        self.world.send(self.sms[at], &ended);
    }

    fn say(&mut self, way: &str, jid: &str, body: &str) {
        let frame = route("asker", way, &message("x@asker", jid, body));
        self.world.send(self.asker, &frame);
    }

    fn told(&mut self) -> String {
        self.world.take(self.asker)
    }

    /// What each sm has read of these numbered messages.
    fn read(&mut self) -> [Vec<u32>; 2] {
        self.sms.map(|sm| numbers(&self.world.take(sm)))
    }
}

fn numbers(text: &str) -> Vec<u32> {
    let bodies = text.split("<body>").skip(1);
    bodies
        .map(|rest| rest.split('<').next().unwrap().parse().unwrap())
        .collect()
}

#[test]
fn told_once_to_who_asked_for_sessions_that_he_writes_to_and_taken_back_when_they_end() {
    for shards in [1, 2, 3] {
        let mut site = Site::new(shards);
        let at = site.login(7, JULIET, TOKEN);
        let sm = format!("sm{}", at + 1);
        site.told();
        let frame = route("other", "example.net", &message("x@other", JULIET, "1"));
        site.world.send(site.other, &frame);
        site.say("example.net", "juliet@example.net", "2");
        assert_eq!(site.told(), "", "no full JID was written to");
        site.say("example.net", JULIET, "3");
        site.say("example.net", JULIET, "4");
        assert_eq!(site.told(), redirect(JULIET, Some(&sm)));
        assert_eq!(site.world.take(site.other), "", "it did not ask");
        site.say(&sm, JULIET, "5");
        assert_eq!(site.read()[at], [1, 2, 3, 4, 5]);
        site.logout(at, 7, TOKEN);
        assert_eq!(site.told(), redirect(JULIET, None));
        let counts = [
            Counter::RedirectsIssued,
            Counter::RedirectsWithdrawn,
            Counter::RedirectFrames,
        ];
        assert_eq!(counts.map(|counter| site.world.count(counter)), [1, 1, 1]);
    }
}

/// The user leaves one sm and logs in at the other while messages by the redirect are under way.
#[test]
fn a_stale_one_goes_the_way_of_all_others_in_order() {
    for shards in [1, 2, 3] {
        let mut site = Site::new(shards);
        let at = site.login(7, JULIET, TOKEN);
        let sm = format!("sm{}", at + 1);
        site.say("example.net", JULIET, "0");
        site.logout(at, 7, TOKEN);
        // Its next sm is the one with fewer users.
        let busy = site.login(8, "romeo@example.net/r", TOKEN2);
        let busy = (busy == at).then_some(()).or_else(|| {
            site.login(9, "nurse@example.net/r", &TOKEN.replace('2', "3"));
            Some(())
        });
        assert!(busy.is_some());
        site.read();
        for number in 1..9 {
            let way = if number % 3 == 0 { "example.net" } else { &sm };
            site.say(way, JULIET, &number.to_string());
            if number == 4 {
                let ask = route("c2s", "example.net", &start(10, JULIET, "again"));
                site.world.send(site.c2s, &ask);
            }
        }
        // Whoever worked for him answers the fence, if it was asked.
        let mut all = [Vec::new(), Vec::new()];
        for _ in 0..3 {
            for (sm, end) in site.sms.into_iter().enumerate() {
                let text = site.world.take(end);
                all[sm].extend(numbers(&text));
                if let Some(at) = text.find("id='jidmesh-fence-") {
                    let id = text[at + 4..].split('\'').next().unwrap();
                    let answer = format!(
                        "<iq xmlns='jabber:client' type='result' id='{id}' from='example.net' to='jidmesh.router'/>"
                    );
                    let own = format!("sm{}", sm + 1);
                    site.world.send(end, &route(&own, "jidmesh.router", &answer));
                }
            }
        }
        let mut once: Vec<u32> = all.concat();
        assert!(all.iter().all(|read| read.is_sorted()), "{all:?}");
        once.sort_unstable();
        assert_eq!(once, (1..9).collect::<Vec<u32>>(), "{all:?}");
        assert!(site.world.count(Counter::RedirectsStale) > 0);
    }
}

#[test]
fn what_waits_for_a_lost_sm_and_came_by_a_redirect_goes_to_another() {
    for shards in [1, 2] {
        let mut site = Site::new(shards);
        let at = site.login(7, JULIET, TOKEN);
        let sm = format!("sm{}", at + 1);
        site.say("example.net", JULIET, "1");
        site.read();
        site.world.cut(site.sms[at]);
        site.say(&sm, JULIET, "2");
        site.say("example.net", JULIET, "3");
        site.told();
        site.world.pass(15_000_000);
        assert_eq!(site.read()[1 - at], [2, 3]);
        assert!(site.told().contains(&redirect(JULIET, None)));
    }
}

/// Whoever has not heard yet that an sm is gone writes to a name that nobody has.
#[test]
fn one_to_an_sm_that_is_gone_leads_to_the_user_and_not_out() {
    for shards in [1, 2] {
        let mut site = Site::new(shards);
        let exit = site.world.connect("jabberd");
        site.world
            .send(exit, &format!("<bind xmlns='{COMP}' name='s2s'><default/></bind>"));
        site.world.take(exit);
        let at = site.login(7, JULIET, TOKEN);
        site.say("example.net", JULIET, "1");
        site.read();
        site.world.cut(site.sms[at]);
        site.world.pass(15_000_000);
        site.told();
        site.world.take(exit);
        site.say(&format!("sm{}", at + 1), JULIET, "2");
        assert_eq!(site.read()[1 - at], [2]);
        assert_eq!(site.told(), redirect(JULIET, None), "once more, to be sure");
        assert_eq!(site.world.take(exit), "");
        assert_eq!(site.world.count(Counter::RedirectsStale), 1);
    }
}

#[test]
fn who_lost_its_link_has_none_and_asks_anew() {
    let mut site = Site::new(1);
    let at = site.login(7, JULIET, TOKEN);
    site.say("example.net", JULIET, "1");
    site.world.cut(site.asker);
    site.asker = site.world.connect("jabberd");
    site.world.send(site.asker, &bind("asker"));
    site.told();
    site.say("example.net", JULIET, "2");
    site.logout(at, 7, TOKEN);
    assert_eq!(site.told(), "", "it is another program, which does not ask");
}

#[test]
fn a_component_has_so_many_at_most_and_loses_the_oldest() {
    let mut site = Site::new(1);
    let user = |n: usize| format!("u{n}@example.net/r");
    let at = |site: &mut Site, n: usize| {
        let jid = user(n);
        let token = format!("{n:040}");
        site.login(u32::try_from(n).unwrap(), &jid, &token);
        site.say("example.net", &jid, "1");
        site.told()
    };
    for n in 0..REDIRECTS_MAX {
        assert!(at(&mut site, n).ends_with("'></redirect>"));
    }
    assert!(at(&mut site, REDIRECTS_MAX).ends_with(&redirect(&user(0), None)));
    assert_eq!(site.world.count(Counter::RedirectsEvicted), 1);
    // It is told anew when it writes again, at the price of the next oldest.
    site.say("example.net", &user(0), "2");
    assert!(site.told().ends_with(&redirect(&user(1), None)));
}

/// Whoever reads nothing gets no more of them than its queue may hold.
#[test]
fn who_does_not_read_is_told_no_more() {
    let mut site = Site::new(1);
    site.world.reload(|config| config.queues.link_bytes = 1_000);
    site.world.stuck = Some(site.asker);
    for n in 0..50 {
        let jid = format!("u{n}@example.net/r");
        site.login(n, &jid, &format!("{n:040}"));
        site.say("example.net", &jid, "1");
    }
    assert!(site.world.count(Counter::RedirectsIssued) < 10);
    assert_eq!(site.world.count(Counter::RedirectsWithdrawn), 0);
    site.read();
    site.say("example.net", "u49@example.net/r", "2");
    assert_eq!(site.read().concat(), [2], "its own frames go on");
}

#[test]
fn a_new_process_takes_back_what_the_former_one_told() {
    for shards in [1, 2] {
        let mut site = Site::new(shards);
        let at = site.login(7, JULIET, TOKEN);
        site.say("example.net", JULIET, "1");
        site.told();
        site.world.hand_over(3 - shards);
        assert_eq!(site.told(), redirect(JULIET, None));
        site.say(&format!("sm{}", at + 1), JULIET, "2");
        site.say("example.net", JULIET, "3");
        assert!(site.told().contains(&redirect(JULIET, Some(&format!("sm{}", at + 1)))));
        assert_eq!(site.read()[at], [1, 2, 3]);
    }
}

/// A client's stanza is for his sm, whatever its `to`.
#[test]
fn what_c2s_says_for_its_clients_is_not_touched() {
    let mut site = Site::new(1);
    let at = site.login(7, JULIET, TOKEN);
    let romeo = site.login(8, "romeo@example.net/r", TOKEN2);
    assert_ne!(at, romeo);
    site.world.cut(site.c2s);
    site.c2s = site.world.connect("jabberd");
    site.world.send(site.c2s, &asking("c2s"));
    site.read();
    let stanza = from_client(7, TOKEN, "<message to='romeo@example.net/r'><body>1</body></message>");
    let frame = route("c2s", &format!("sm{}", at + 1), &stanza);
    site.world.send(site.c2s, &frame);
    assert_eq!(site.read()[at], [1]);
}

#[test]
fn across_nodes() {
    for shards in [1, 2] {
        let mut site = cluster::Site::new(2, shards);
        let asker = site.nodes[0].connect("jabberd");
        site.nodes[0].send(asker, &asking("asker"));
        site.login(1, 7, JULIET, 1);
        site.nodes[0].take(asker);
        let say = |site: &mut cluster::Site, way: &str, body: &str| {
            site.nodes[0].send(asker, &route("asker", way, &message("x@asker", JULIET, body)));
            site.carry();
        };
        say(&mut site, "example.net", "1");
        let told = site.nodes[0].take(asker);
        assert_eq!(told, redirect(JULIET, Some("sm.b.test")));
        say(&mut site, "sm.b.test", "2");
        say(&mut site, "example.net", "3");
        let sm = site.sm[1];
        assert_eq!(numbers(&site.nodes[1].take(sm)), [1, 2, 3]);
        site.logout(1, 1, 7, 1);
        assert_eq!(site.nodes[0].take(asker), redirect(JULIET, None));
        site.login(0, 8, JULIET, 2);
        for n in 0..2 {
            let sm = site.sm[n];
            site.nodes[n].take(sm);
        }
        say(&mut site, "sm.b.test", "4");
        say(&mut site, "example.net", "5");
        let sm = site.sm[0];
        assert_eq!(numbers(&site.nodes[0].take(sm)), [4, 5]);
    }
}

/// Both nodes have an `sm`: one at home does not become the other's on the way back.
#[test]
fn a_bounce_from_another_node_bears_the_address_that_was_written() {
    let mut site = cluster::Site::new(2, 1);
    let asker = site.nodes[0].connect("jabberd");
    site.nodes[0].send(asker, &asking("asker"));
    site.login(1, 7, JULIET, 1);
    site.nodes[0].take(asker);
    site.nodes[1].reload(|config| config.queues.link_bytes = 10);
    site.nodes[0].send(asker, &route("asker", "sm", &message("x@asker", JULIET, "1")));
    site.carry();
    let read = site.nodes[0].take(asker);
    assert!(read.contains("error='503'") && read.contains(" to='sm'"), "{read}");
}
