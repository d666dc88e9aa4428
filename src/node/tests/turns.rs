//! What is on its way to a user while the node that serves him changes.

use super::cluster::{Site, token};
use super::world::{route, start};

#[test]
fn what_comes_too_late_where_he_was_served_stays_before_what_is_newer() {
    for user in 0..12 {
        let mut site = Site::new(2, 2);
        let jid = format!("u{user}@example.net");
        assert_eq!(site.login(0, 7, &format!("{jid}/r"), 1), 0);
        // Node 0 gives him back; node 1 does not know it yet, sends him something, and somebody logs in as him there.
        site.cut.push((0, 1));
        site.logout(0, 0, 7, 1);
        site.say(1, &jid, "one");
        site.nodes[1].send(
            site.c2s[1],
            &route("c2s", "example.net", &start(5, &format!("{jid}/r"), &token(2))),
        );
        site.carry();
        site.heal(0, 1);
        site.say(1, &jid, "two");
        let heard = site.answer_fences();
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
