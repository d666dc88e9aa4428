//! The world outside: external domains, and the s2s of each node that carries stanzas to and from them.

use super::sm::user_jid;
use super::text::{DOMAIN, Seen, message, route};
use super::world::{Event, Mood, World};
use crate::node::api::Micros;
use crate::wire::header::PayloadKind;
use std::collections::BTreeMap;

/// What one s2s keeps.
#[derive(Debug, Default)]
pub(super) struct S2s;

/// External domains.
const DOMAINS: usize = 2;

/// A claim to an external domain lives at least so long after it was last used.
const CLAIM_US: Micros = 5_000_000;

/// What the outside has seen.
#[derive(Debug, Default)]
pub(super) struct Outside {
    /// Which node's s2s last carried a stanza to a domain, and when.
    carried: BTreeMap<String, (usize, Micros)>,
}

/// Somebody outside.
pub(super) fn outsider(number: usize) -> String {
    format!("y@ext{}.test", number % DOMAINS)
}

impl World {
    /// Somebody outside writes to a user. Who they are decides through which node.
    pub(super) fn s2s_acts(&mut self, part: usize) {
        if self.mood != Mood::Busy {
            return;
        }
        let pause = self.rng.between(1, 4 * self.plan.pause_us);
        self.after(pause, Event::Outside(part));
        let it = &self.parts[part];
        if it.node >= DOMAINS || !it.running || !it.online || self.part_is_busy(part).is_some() {
            return;
        }
        let node = it.node;
        let (from, to) = (outsider(node), user_jid(self.someone()));
        let number = self.book.message(&from, &to);
        self.summary.messages += 1;
        self.part_writes(part, route("s2s", DOMAIN, &message(Some(&from), &to, number, "chat")));
    }

    /// Something for the outside.
    pub(super) fn s2s_gets(&mut self, part: usize, seen: Seen) {
        let Seen::Route(routed) = seen else { return };
        let Some(number) = routed.message().filter(|_| routed.payload == PayloadKind::Message) else {
            return;
        };
        if routed.error || routed.kind() == "error" {
            return self.book.bounced(number);
        }
        let to = routed.stanza_to.clone().unwrap_or_default();
        if !to.contains("@ext") {
            // No such domain: sm is told.
            let from = routed.stanza_from.clone().unwrap_or_default();
            let error = message(Some(&to), &from, number, "error");
            return self.part_writes(part, route("s2s", &routed.from, &error));
        }
        self.check_one_dialler(part, &to);
        if let Err(wrong) = self.book.delivered(number, &to, false) {
            self.fail(wrong);
        }
    }

    /// P9: while all nodes reach each other, one of them carries to a domain.
    fn check_one_dialler(&mut self, part: usize, to: &str) {
        let node = self.parts[part].node;
        let before = self.outside.carried.insert(to.to_owned(), (node, self.now));
        let Some((other, at)) = before.filter(|(other, _)| *other != node) else {
            return;
        };
        let there = |part: &&super::part::Part| part.node == other && part.name == "s2s" && part.online;
        let still_there = self.parts.iter().any(|part| there(&part));
        if at + CLAIM_US > self.now && still_there && self.is_calm() && self.plan.faults.is_empty() {
            self.fail(format!(
                "P9: node {node} carries to {to}, and node {other} did so just before"
            ));
        }
    }
}
