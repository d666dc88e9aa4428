//! The client connections of one c2s process: numbers, session control, and what it does with what it does not know.

use super::part::Body;
use super::people::State;
use super::text::{DOMAIN, Routed, Seen, control, route};
use super::world::World;
use crate::wire::header::PayloadKind;
use std::collections::BTreeMap;

/// One c2s process.
#[derive(Debug, Default)]
pub(super) struct C2s {
    /// Clients by number (a file descriptor: the lowest free one is used at once).
    pub(super) clients: BTreeMap<u32, usize>,
    /// The domain was advertised: clients are let in.
    pub(super) serves: bool,
}

/// The first number of a client: lower descriptors are the process's own.
const FIRST_NUMBER: u32 = 9;

impl World {
    pub(super) fn c2s(&mut self, part: usize) -> &mut C2s {
        match &mut self.parts[part].body {
            Body::C2s(c2s) => c2s,
            _ => unreachable!("only called for a c2s"),
        }
    }

    pub(super) fn c2s_lets_in(&mut self, part: usize, client: usize) -> u32 {
        let clients = &mut self.c2s(part).clients;
        let number = (FIRST_NUMBER..)
            .find(|number| !clients.contains_key(number))
            .unwrap_or(u32::MAX);
        clients.insert(number, client);
        number
    }

    pub(super) fn c2s_gets(&mut self, part: usize, seen: Seen) {
        match seen {
            Seen::Advert { name, unavailable } if name == DOMAIN => {
                self.c2s(part).serves = !unavailable;
                if unavailable {
                    for (_, client) in std::mem::take(&mut self.c2s(part).clients) {
                        self.client_out(client, "the domain is unavailable");
                    }
                }
            }
            Seen::Route(routed) => {
                if let Some(number) = routed.c2s {
                    self.c2s_routed(part, number, &routed);
                }
            }
            _ => {}
        }
    }

    fn c2s_routed(&mut self, part: usize, number: u32, routed: &Routed) {
        let name = self.parts[part].name.clone();
        let token = routed.sm.clone();
        if routed.failed && routed.payload != PayloadKind::Session && (!routed.error || routed.failed_prefixed) {
            return self.fail(format!("{name} is given a stanza that an sm refused: {}", routed.raw));
        }
        let Some(client) = self.c2s(part).clients.get(&number).copied() else {
            if let (Some(token), "started") = (token, routed.action()) {
                self.part_writes(part, route(&name, DOMAIN, &control("end", number, &token, false)));
            } else {
                self.missed(routed);
            }
            return;
        };
        if routed.error {
            if let Some(number) = routed.message() {
                self.book.bounced(number);
            }
            return self.c2s_closes(part, number, "a bounce");
        }
        let Some(token) = token else { return };
        let (own, address, pending) = match &self.clients[client].state {
            State::Waits { id } => (None, String::new(), Some(id.clone())),
            State::On { token, sm } => (Some(token.clone()), sm.clone(), None),
            State::Out => return,
        };
        if own.as_ref().is_some_and(|own| *own != token) {
            if !routed.failed {
                self.part_writes(part, route(&name, &address, &control("end", number, &token, false)));
            }
            return self.missed(routed);
        }
        if routed.payload != PayloadKind::Session {
            return match pending {
                None => self.client_reads(client, routed),
                Some(_) => self.missed(routed),
            };
        }
        match (routed.action(), pending) {
            ("ended" | "replaced", None) => {
                self.c2s(part).clients.remove(&number);
                self.client_out(client, routed.action());
            }
            ("started", Some(id)) if routed.id.as_deref() == Some(&id) => {
                self.client_in(client, token, routed.from.clone());
            }
            ("start", Some(id)) if routed.failed && routed.id.as_deref() == Some(&id) => {
                self.c2s(part).clients.remove(&number);
                self.client_out(client, "its start failed");
            }
            // Of a client who did not wait for it, and whose number this one has: nobody will ever end that session.
            ("started", Some(_)) => self.book.ghosts += 1,
            _ => {}
        }
    }

    /// A message that c2s throws away: its session is not there any more.
    fn missed(&mut self, routed: &Routed) {
        if let Some(number) = routed.message() {
            self.book.missed(number);
        }
    }

    /// The client's connection is over; sm is told if it knew of it.
    pub(super) fn c2s_closes(&mut self, part: usize, number: u32, why: &str) {
        let Some(client) = self.c2s(part).clients.remove(&number) else {
            return;
        };
        let name = self.parts[part].name.clone();
        if let State::On { token, sm } = self.clients[client].state.clone() {
            self.part_writes(part, route(&name, &sm, &control("end", number, &token, false)));
        }
        self.client_out(client, why);
    }

    pub(super) fn c2s_dies(&mut self, part: usize) {
        for (_, client) in std::mem::take(self.c2s(part)).clients {
            self.client_out(client, "its c2s died");
        }
    }

    /// SIGTERM: clients are closed, and their sessions ended.
    pub(super) fn c2s_stops(&mut self, part: usize) {
        let numbers: Vec<u32> = self.c2s(part).clients.keys().copied().collect();
        for number in numbers {
            self.c2s_closes(part, number, "its c2s stops");
        }
    }
}
