//! A component of its own name, which talks to users and hears from them.

use super::sm::user_jid;
use super::text::{DOMAIN, Seen, message, route};
use super::world::{Event, Mood, World};
use crate::wire::header::PayloadKind;

/// What it keeps.
#[derive(Debug, Default)]
pub(super) struct Peer;

/// The address it talks from, and people talk to.
pub(super) const PEER_JID: &str = "x@peer";

impl World {
    pub(super) fn peer_acts(&mut self, part: usize) {
        if self.mood != Mood::Busy {
            return;
        }
        let pause = self.rng.between(1, self.plan.pause_us);
        self.after(pause, Event::Peer(part));
        let it = &self.parts[part];
        if !it.running || !it.online || self.part_is_busy(part).is_some() {
            return;
        }
        let user = self.rng.index(self.plan.users);
        let to = match self.rng.chance(70) {
            true => user_jid(user),
            false => format!("{}/r{}", user_jid(user), self.rng.index(self.plan.resources)),
        };
        let number = self.book.message(PEER_JID, &to);
        self.summary.messages += 1;
        self.part_writes(
            part,
            route("peer", DOMAIN, &message(Some(PEER_JID), &to, number, "chat")),
        );
    }

    pub(super) fn peer_gets(&mut self, _part: usize, seen: Seen) {
        let Seen::Route(routed) = seen else { return };
        let Some(number) = routed.message().filter(|_| routed.payload == PayloadKind::Message) else {
            return;
        };
        if routed.error || routed.kind() == "error" {
            return self.book.bounced(number);
        }
        if let Err(wrong) = self.book.delivered(number, PEER_JID, false) {
            self.fail(wrong);
        }
    }
}
