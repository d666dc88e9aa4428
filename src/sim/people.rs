//! People and their clients: they log in, talk, change presence, leave with or without a word, and come back elsewhere.

use super::outside::outsider;
use super::part::Body;
use super::peer::peer_jid;
use super::plan::Plan;
use super::sm::user_jid;
use super::text::{DOMAIN, Routed, in_session, message, on_occasion, ping, presence, resource, route, start};
use super::world::{Event, Mood, World};
use crate::node::api::Micros;
use crate::wire::header::PayloadKind;
use std::collections::BTreeSet;

/// One resource of one user.
#[derive(Debug)]
pub(super) struct Person {
    user: usize,
    resource: usize,
    /// The client he uses at present.
    pub(super) client: Option<usize>,
    due: Micros,
}

impl Person {
    pub(super) fn new(user: usize, resource: usize) -> Person {
        Person {
            user,
            resource,
            client: None,
            due: 0,
        }
    }
}

/// Where a client's session stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// `start` was sent.
    Waits {
        id: String,
    },
    On {
        token: String,
        sm: String,
    },
    Out,
}

/// One connection of a client to a c2s.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) jid: String,
    pub(super) c2s: usize,
    pub(super) number: u32,
    pub(super) state: State,
    pub(super) since: Micros,
    pub(super) available: bool,
    pub(super) available_since: Micros,
    /// How often it became available: presence that sm sent on an earlier occasion says nothing about now.
    pub(super) occasion: u32,
    /// Who is online, as it was told.
    pub(super) picture: BTreeSet<String>,
    /// When it asked, and was not answered yet.
    pub(super) asked: Option<Micros>,
}

/// Why a client is out that was not thrown out.
const LEAVES: &str = "it leaves";

/// A client gives up a login that takes longer.
const PATIENCE_US: Micros = 40_000_000;

impl World {
    pub(super) fn person_acts(&mut self, person: usize) {
        if self.people[person].due > self.now {
            return;
        }
        let (pause, mood) = (self.plan.pause_us, self.mood);
        let next = match mood {
            Mood::Busy => self.rng.between(1, 2 * pause),
            Mood::Dawn | Mood::Quiet | Mood::Still => self.rng.between(10_000_000, 30_000_000),
            Mood::Dusk => 5_000_000,
        };
        self.people[person].due = self.now + next;
        self.after(next, Event::Person(person));
        let client = self.people[person].client;
        let Some(client) = client.filter(|client| self.clients[*client].state != State::Out) else {
            if mood == Mood::Busy && self.rng.chance(50) {
                self.logs_in(person);
            }
            return;
        };
        if self.part_is_busy(self.clients[client].c2s).is_some() {
            return;
        }
        let late = self.clients[client].since + PATIENCE_US < self.now;
        match (&self.clients[client].state, mood) {
            (State::Waits { .. }, _) if late => self.gives_up(client),
            (State::Waits { .. }, Mood::Busy) if self.rng.chance(2) => self.leaves(client),
            (State::Waits { .. } | State::Out, _) => {}
            (State::On { .. }, Mood::Busy) => self.does_something(person, client),
            (State::On { .. }, Mood::Quiet | Mood::Dawn) => self.all_ask(client),
            (State::On { .. }, Mood::Still) => {}
            (State::On { .. }, Mood::Dusk) => self.leaves(client),
        }
    }

    fn logs_in(&mut self, person: usize) {
        let doors: Vec<usize> = (0..self.parts.len())
            .filter(|part| {
                let it = &self.parts[*part];
                matches!(&it.body, Body::C2s(c2s) if c2s.serves)
                    && it.running
                    && it.conn.is_some()
                    && self.part_is_busy(*part).is_none()
            })
            .collect();
        if doors.is_empty() {
            return;
        }
        let c2s = doors[self.rng.index(doors.len())];
        let who = &self.people[person];
        let jid = format!("{}/r{}", user_jid(who.user), who.resource);
        let client = self.clients.len();
        let id = format!("{:040x}", 0xc25_0000 + client);
        let number = self.c2s_lets_in(c2s, client);
        self.note(|| format!("person {person} logs in as client {client}: {jid}"));
        self.clients.push(Client {
            jid: jid.clone(),
            c2s,
            number,
            state: State::Waits { id: id.clone() },
            since: self.now,
            available: false,
            available_since: 0,
            occasion: 0,
            picture: BTreeSet::new(),
            asked: None,
        });
        self.people[person].client = Some(client);
        let name = self.parts[c2s].name.clone();
        self.part_writes(c2s, route(&name, DOMAIN, &start(number, &jid, &id)));
    }

    pub(super) fn client_in(&mut self, client: usize, token: String, sm: String) {
        self.summary.logins += 1;
        self.clients[client].state = State::On { token, sm };
        if self.rng.chance(85) {
            self.becomes(client, true);
        }
    }

    pub(super) fn client_out(&mut self, client: usize, why: &str) {
        self.note(|| format!("client {client} is out: {why}"));
        self.clients[client].state = State::Out;
        if why != LEAVES {
            // Thrown out, it knows that what it said last may not have arrived.
            self.book.speechless(client);
        }
    }

    fn does_something(&mut self, person: usize, client: usize) {
        match self.rng.below(100) {
            0..60 => self.says_something(client),
            60..75 => {
                let available = self.rng.chance(80);
                self.becomes(client, available);
            }
            75..80 => self.asks(client),
            80..94 => self.leaves(client),
            // From another place, without leaving the first.
            94..97 => self.logs_in(person),
            _ => {}
        }
    }

    /// Any user.
    pub(super) fn someone(&mut self) -> usize {
        self.rng.index(self.plan.users)
    }

    /// Any node.
    fn some_node(&mut self) -> usize {
        match self.plan.nodes {
            1 => 0,
            nodes => self.rng.index(nodes),
        }
    }

    fn says_something(&mut self, client: usize) {
        let user = self.someone();
        let to = match self.rng.below(20) {
            0 => peer_jid(self.plan.nodes, self.some_node()),
            1 if self.plan.nodes > 1 => outsider(user),
            1 => "nobody@nowhere.test".to_owned(),
            2..9 => format!("{}/r{}", user_jid(user), self.rng.index(self.plan.resources)),
            _ => user_jid(user),
        };
        let from = self.clients[client].jid.clone();
        let number = self.book.message(&from, &to);
        self.summary.messages += 1;
        if let State::On { token, .. } = &self.clients[client].state {
            let session = (token.clone(), self.clients[client].number);
            self.book.said_by(number, client, session);
        }
        self.client_writes(client, &message(None, &to, number, "chat"));
    }

    fn becomes(&mut self, client: usize, available: bool) {
        let priority = priority_of(&self.plan, resource(&self.clients[client].jid));
        let it = &mut self.clients[client];
        if available && !it.available {
            it.available_since = self.now;
            it.occasion += 1;
            it.picture.clear();
        }
        let occasion = it.occasion;
        it.available = available;
        let stanza = match available {
            true => presence(None, None, "", Some(priority)),
            false => presence(None, None, "unavailable", None),
        };
        self.client_writes(client, &on_occasion(occasion, &stanza));
    }

    fn asks(&mut self, client: usize) {
        self.clients[client].asked.get_or_insert(self.now);
        self.client_writes(client, &ping(&format!("p{client}")));
    }

    /// Every client of this name asks, also one that was left behind.
    fn all_ask(&mut self, client: usize) {
        let jid = self.clients[client].jid.clone();
        for other in 0..self.clients.len() {
            let it = &self.clients[other];
            if it.jid == jid && matches!(it.state, State::On { .. }) && self.part_is_busy(it.c2s).is_none() {
                self.asks(other);
            }
        }
    }

    /// With a word or without: c2s ends the session either way.
    fn leaves(&mut self, client: usize) {
        if matches!(self.clients[client].state, State::On { .. }) && self.rng.chance(50) {
            self.becomes(client, false);
        }
        let it = &self.clients[client];
        self.c2s_closes(it.c2s, it.number, LEAVES);
    }

    fn gives_up(&mut self, client: usize) {
        let it = &self.clients[client];
        if let State::Waits { id } = &it.state
            && !self.book.is_excused_start(id)
        {
            let what = format!("client {client} ({}) waits for its session since {}", it.jid, it.since);
            return self.fail(what);
        }
        self.leaves(client);
    }

    fn client_writes(&mut self, client: usize, stanza: &str) {
        let it = &self.clients[client];
        let State::On { token, sm } = &it.state else { return };
        let frame = route(
            &self.parts[it.c2s].name,
            sm,
            &in_session("sc", it.number, token, stanza),
        );
        self.part_writes(it.c2s, frame);
    }

    /// A stanza reaches a client.
    pub(super) fn client_reads(&mut self, client: usize, routed: &Routed) {
        let Some(from) = routed.stanza_from.clone() else {
            if routed.payload == PayloadKind::Iq {
                self.clients[client].asked = None;
            }
            return;
        };
        match routed.payload {
            PayloadKind::Presence if routed.occasion != Some(self.clients[client].occasion) => {}
            PayloadKind::Presence => {
                let picture = &mut self.clients[client].picture;
                match routed.kind() {
                    "" => {
                        picture.insert(from);
                    }
                    "unavailable" if resource(&from).is_empty() => {
                        picture.retain(|jid| !jid.starts_with(&format!("{from}/")));
                    }
                    "unavailable" => {
                        picture.remove(&from);
                    }
                    _ => {}
                }
            }
            PayloadKind::Message if routed.kind() == "error" => {
                if let Some(number) = routed.message() {
                    self.book.bounced(number);
                }
            }
            PayloadKind::Message => {
                let Some(number) = routed.message() else { return };
                let who = format!("{} #{client}", self.clients[client].jid);
                self.summary.delivered += 1;
                if let Err(wrong) = self.book.delivered(number, &who, self.plan.equal) {
                    self.fail(wrong);
                }
            }
            _ => {}
        }
    }
}

fn priority_of(plan: &Plan, resource: &str) -> i8 {
    match plan.equal {
        true => 0,
        false => resource.trim_start_matches('r').parse().unwrap_or(0),
    }
}
