//! A component of its own name at each node, which talks to users and hears from them.

use super::sm::user_jid;
use super::text::{DOMAIN, Seen, message, route};
use super::world::{Event, Mood, World};
use crate::wire::header::PayloadKind;

/// What it keeps.
#[derive(Debug, Default)]
pub(super) struct Peer;

/// What the one at this node binds. Other nodes reach it only by a name with a dot: one without is an id.
pub(super) fn peer_name(nodes: usize, node: usize) -> String {
    match nodes {
        1 => "peer".to_owned(),
        _ => format!("peer{node}.test"),
    }
}

/// The address it talks from, and people talk to.
pub(super) fn peer_jid(nodes: usize, node: usize) -> String {
    format!("x@{}", peer_name(nodes, node))
}

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
        let node = it.node;
        let user = self.someone();
        let to = match self.rng.chance(70) {
            true => user_jid(user),
            false => format!("{}/r{}", user_jid(user), self.rng.index(self.plan.resources)),
        };
        let (own, name) = (peer_jid(self.plan.nodes, node), peer_name(self.plan.nodes, node));
        let number = self.book.message(&own, &to);
        self.summary.messages += 1;
        self.part_writes(part, route(&name, DOMAIN, &message(Some(&own), &to, number, "chat")));
    }

    pub(super) fn peer_gets(&mut self, part: usize, seen: Seen) {
        let Seen::Route(routed) = seen else { return };
        let Some(number) = routed.message().filter(|_| routed.payload == PayloadKind::Message) else {
            return;
        };
        if routed.error || routed.kind() == "error" {
            return self.book.bounced(number);
        }
        if let Err(wrong) = self
            .book
            .delivered(number, &peer_jid(self.plan.nodes, self.parts[part].node), false)
        {
            self.fail(wrong);
        }
    }
}
