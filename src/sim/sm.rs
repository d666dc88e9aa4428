//! The session manager: serial, with sessions, rosters, an offline queue in the shared database.

use super::book::Said;
use super::part::Body;
use super::text::{
    self, DOMAIN, ROUTER, Routed, Seen, bare, control, in_session, message, name_everywhere, on_occasion, presence,
    resource, route,
};
use super::world::{Event, World};
use crate::node::api::Micros;
use crate::wire::header::PayloadKind;
use std::collections::{BTreeMap, VecDeque};
use std::hash::{Hash, Hasher};

/// A stored message.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) number: usize,
    from: String,
    to: String,
}

/// What all sm share.
#[derive(Debug, Default)]
pub(super) struct Database {
    pub(super) queues: BTreeMap<String, Vec<Stored>>,
}

/// A session, by its sm-side id.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) jid: String,
    pub(super) c2s: String,
    pub(super) number: u32,
    pub(super) available: bool,
    pub(super) priority: i8,
    /// The occasion on which it became available, as its client counts.
    pub(super) occasion: u32,
}

/// One sm process.
#[derive(Debug, Default)]
pub(super) struct Sm {
    pub(super) sessions: BTreeMap<String, Session>,
    inbox: VecDeque<Seen>,
    working: bool,
    /// The queue of this session's user is read and not yet deleted; then this presence is announced.
    reading: Option<(String, i8, Vec<usize>)>,
}

impl World {
    fn sm(&mut self, part: usize) -> &mut Sm {
        match &mut self.parts[part].body {
            Body::Sm(sm) => sm,
            _ => unreachable!("only called for an sm"),
        }
    }

    pub(super) fn sm_gets(&mut self, part: usize, seen: Seen) {
        let sm = self.sm(part);
        sm.inbox.push_back(seen);
        if !sm.working {
            sm.working = true;
            self.sm_goes_on(part);
        }
    }

    pub(super) fn sm_has_work(&self, part: usize) -> bool {
        matches!(&self.parts[part].body, Body::Sm(sm) if sm.working)
    }

    fn sm_goes_on(&mut self, part: usize) {
        let reading = self.sm(part).reading.is_some();
        let most = if reading {
            self.plan.gap_us
        } else {
            self.plan.service_us
        };
        let delay = self.rng.between(1, most);
        let life = self.parts[part].life;
        self.after(delay, Event::Work(part, life));
    }

    pub(super) fn sm_works(&mut self, part: usize, life: u32) {
        if self.parts[part].life != life {
            return;
        }
        if let Some(later) = self.part_is_busy(part) {
            return self.at(later, Event::Work(part, life));
        }
        if let Some((token, priority, read)) = self.sm(part).reading.take() {
            self.sm_deletes_queue(part, &token, priority, &read);
        } else if let Some(seen) = self.sm(part).inbox.pop_front() {
            self.sm_serves(part, seen);
        }
        let sm = self.sm(part);
        if sm.inbox.is_empty() && sm.reading.is_none() {
            sm.working = false;
            if let Some(conn) = self.parts[part].conn {
                self.hear_soon(conn);
            }
        } else {
            self.sm_goes_on(part);
        }
    }

    fn sm_serves(&mut self, part: usize, seen: Seen) {
        let name = self.parts[part].name.clone();
        match seen {
            Seen::Advert {
                name: other,
                unavailable: true,
            } => self.sm_c2s_gone(part, &other),
            Seen::Advert { name: other, .. } => {
                let query = format!(
                    "<iq xmlns='jabber:client' id='disco' from='{name}' to='{other}' type='get'><query xmlns='http://jabber.org/protocol/disco#info'></query></iq>"
                );
                self.part_writes(part, route(&name, &other, &query));
            }
            Seen::Route(routed) if routed.error => self.sm_bounced(part, &routed),
            Seen::Route(routed) if routed.payload == PayloadKind::Session => self.sm_control(part, &routed),
            Seen::Route(routed) if routed.c2s.is_some() => self.sm_from_client(part, &routed),
            Seen::Route(routed) => self.sm_from_user(part, &routed),
            Seen::BindAnswer { .. } | Seen::Redirect { .. } | Seen::Other => {}
        }
    }

    fn sm_control(&mut self, part: usize, routed: &Routed) {
        let name = self.parts[part].name.clone();
        if routed.failed {
            return;
        }
        if routed.action() == "start" {
            return self.sm_starts(part, routed);
        }
        let (Some(token), number) = (routed.sm.clone(), routed.c2s.unwrap_or_default()) else {
            return;
        };
        let Some(session) = self.sm(part).sessions.get(&token).cloned() else {
            return self.part_writes(
                part,
                route(&name, &routed.from, &control(routed.action(), number, &token, true)),
            );
        };
        if session.number == number && routed.action() == "end" {
            self.part_writes(
                part,
                route(&name, &session.c2s, &control("ended", number, &token, false)),
            );
            self.sm_ends(part, &token);
        }
    }

    fn sm_starts(&mut self, part: usize, routed: &Routed) {
        let (Some(jid), Some(id), Some(number)) = (routed.target.clone(), routed.id.clone(), routed.c2s) else {
            return;
        };
        let name = self.parts[part].name.clone();
        if routed.from != ROUTER {
            self.check_single_sm(part, bare(&jid));
        }
        let old = self
            .sm(part)
            .sessions
            .iter()
            .find(|(_, s)| s.jid == jid)
            .map(|(token, s)| (token.clone(), s.clone()));
        if let Some((token, old)) = old {
            let replaced = control("replaced", old.number, &token, false);
            self.part_writes(part, route(&name, &old.c2s, &replaced));
            self.sm_ends(part, &token);
        }
        let token = token_of(&jid, self.now);
        let session = Session {
            jid: jid.clone(),
            c2s: routed.from.clone(),
            number,
            available: false,
            priority: 0,
            occasion: 0,
        };
        let begins = self.said_in(part, &session, &token);
        self.book.session_begins(&begins);
        self.sm(part).sessions.insert(token.clone(), session);
        self.part_writes(
            part,
            route(&name, &routed.from, &text::started(number, &jid, &id, &token)),
        );
    }

    /// A session is over: contacts hear of it if they had heard of it.
    fn sm_ends(&mut self, part: usize, token: &str) {
        let Some(session) = self.sm(part).sessions.get(token).cloned() else {
            return;
        };
        if session.available {
            self.sm_announces(part, &session.jid, "unavailable", None);
        }
        self.sm(part).sessions.remove(token);
        let over = self.said_in(part, &session, token);
        self.book.session_ends(over);
    }

    /// How its client's words name this session.
    fn said_in(&self, part: usize, session: &Session, token: &str) -> Said {
        let c2s = name_everywhere(self.parts[part].node, &session.c2s);
        (c2s, session.number, token.to_owned())
    }

    fn sm_c2s_gone(&mut self, part: usize, c2s: &str) {
        let lost: Vec<String> = self
            .sm(part)
            .sessions
            .iter()
            .filter(|(_, session)| session.c2s == c2s)
            .map(|(token, _)| token.clone())
            .collect();
        for token in lost {
            self.sm_ends(part, &token);
        }
    }

    /// To all contacts, and to the user's other available sessions.
    fn sm_announces(&mut self, part: usize, jid: &str, kind: &str, priority: Option<i8>) {
        let name = self.parts[part].name.clone();
        for contact in self.contacts_of(bare(jid)) {
            let stanza = presence(Some(jid), Some(&contact), kind, priority);
            self.part_writes(part, route(&name, DOMAIN, &stanza));
        }
        let own: Vec<String> = self
            .sm(part)
            .sessions
            .values()
            .filter(|other| other.available && other.jid != jid && bare(&other.jid) == bare(jid))
            .map(|other| other.jid.clone())
            .collect();
        for other in own {
            let stanza = presence(Some(jid), Some(&other), kind, priority);
            self.part_writes(part, route(&name, DOMAIN, &stanza));
        }
    }

    fn sm_from_client(&mut self, part: usize, routed: &Routed) {
        let name = self.parts[part].name.clone();
        let (Some(token), Some(number)) = (routed.sm.clone(), routed.c2s) else {
            return;
        };
        let Some(session) = self.sm(part).sessions.get(&token).cloned() else {
            let session = (name_everywhere(self.parts[part].node, &routed.from), number, token);
            if self.book.is_over(&session)
                && let Some(message) = routed.message()
            {
                self.book.missed(message);
            }
            let stanza = routed
                .raw
                .split_once('>')
                .map_or("", |(_, rest)| rest)
                .trim_end_matches("</route>");
            let at = stanza.find(' ').unwrap_or(0);
            let failed = format!("{} failed='1'{}", &stanza[..at], &stanza[at..]);
            return self.part_writes(part, route(&routed.to, &routed.from, &failed));
        };
        if session.number != number {
            return self.lost_by(part, &routed.raw);
        }
        match (routed.payload, &routed.stanza_to) {
            (PayloadKind::Presence, None) if routed.kind() == "unavailable" => {
                // Also of a session that never was available.
                self.sm_announces(part, &session.jid, "unavailable", None);
                if let Some(session) = self.sm(part).sessions.get_mut(&token) {
                    session.available = false;
                }
            }
            (PayloadKind::Presence, None) => {
                self.sm_client_occasion(part, &token, routed.occasion);
                self.sm_client_available(part, &token, priority_of(&routed.raw));
            }
            (PayloadKind::Message, Some(to)) => {
                let Some(number) = routed.message() else { return };
                self.book.heard(number);
                let stanza = message(Some(&session.jid), to, number, "chat");
                let domain = bare(to).split('@').nth(1).unwrap_or(to);
                self.part_writes(part, route(&name, domain, &stanza));
            }
            (PayloadKind::Iq, _) => {
                let id = routed.id.as_deref().unwrap_or_default();
                let answer = format!("<iq xmlns='jabber:client' type='result' id='{id}'></iq>");
                let answer = in_session("sc", number, &token, &answer);
                self.part_writes(part, route(DOMAIN, &session.c2s, &answer));
            }
            _ => {}
        }
    }

    fn sm_client_occasion(&mut self, part: usize, token: &str, occasion: Option<u32>) {
        if let Some(session) = self.sm(part).sessions.get_mut(token)
            && !session.available
        {
            session.occasion = occasion.unwrap_or_default();
        }
    }

    /// First the offline queue, if nobody was there to take messages; it is read now and deleted a little later.
    fn sm_client_available(&mut self, part: usize, token: &str, priority: i8) {
        let Some(session) = self.sm(part).sessions.get(token).cloned() else {
            return;
        };
        let owner = bare(&session.jid).to_owned();
        let reachable = self
            .sm(part)
            .sessions
            .values()
            .any(|other| other.available && bare(&other.jid) == owner);
        if !reachable {
            let mut read = Vec::new();
            for stored in self.database.queues.get(&owner).cloned().unwrap_or_default() {
                let stanza = message(Some(&stored.from), &stored.to, stored.number, "chat");
                self.sm_delivers(part, token, &stanza);
                read.push(stored.number);
            }
            self.sm(part).reading = Some((token.to_owned(), priority, read));
            return;
        }
        self.sm_client_announced(part, token, priority);
    }

    fn sm_deletes_queue(&mut self, part: usize, token: &str, priority: i8, read: &[usize]) {
        if let Some(session) = self.sm(part).sessions.get(token) {
            let owner = bare(&session.jid).to_owned();
            for stored in self.database.queues.remove(&owner).unwrap_or_default() {
                self.book.taken_out(stored.number, read.contains(&stored.number));
            }
        }
        self.sm_client_announced(part, token, priority);
    }

    fn sm_client_announced(&mut self, part: usize, token: &str, priority: i8) {
        let name = self.parts[part].name.clone();
        let Some(session) = self.sm(part).sessions.get(token).cloned() else {
            return;
        };
        let own = bare(&session.jid).to_owned();
        if !session.available {
            for contact in self.contacts_of(&own).into_iter().chain([own.clone()]) {
                let stanza = presence(Some(&own), Some(&contact), "probe", None);
                self.part_writes(part, route(&name, DOMAIN, &stanza));
            }
        }
        self.sm_announces(part, &session.jid, "", Some(priority));
        if let Some(session) = self.sm(part).sessions.get_mut(token) {
            session.available = true;
            session.priority = priority;
        }
    }

    /// A stanza for one of its users, or for the domain.
    fn sm_from_user(&mut self, part: usize, routed: &Routed) {
        let Some(to) = routed.stanza_to.clone() else { return };
        match routed.payload {
            PayloadKind::Iq if routed.kind() == "get" => {
                let (name, from) = (
                    self.parts[part].name.clone(),
                    routed.stanza_from.clone().unwrap_or_default(),
                );
                let id = routed.id.as_deref().unwrap_or_default();
                let answer = format!("<iq xmlns='jabber:client' type='result' id='{id}' from='{to}' to='{from}'></iq>");
                self.part_writes(part, route(&name, &routed.from, &answer));
            }
            PayloadKind::Presence => self.sm_presence_in(part, routed, &to),
            PayloadKind::Message => self.sm_message_in(part, routed, &to),
            _ => {}
        }
    }

    fn sm_presence_in(&mut self, part: usize, routed: &Routed, to: &str) {
        let Some(from) = routed.stanza_from.clone() else { return };
        let name = self.parts[part].name.clone();
        let sessions: Vec<(String, Session)> = self
            .sm(part)
            .sessions
            .iter()
            .filter(|(_, s)| bare(&s.jid) == bare(to))
            .map(|(token, s)| (token.clone(), s.clone()))
            .collect();
        let full = !resource(to).is_empty();
        if routed.kind() == "probe" {
            let online: Vec<&Session> = sessions.iter().map(|(_, s)| s).filter(|s| s.available).collect();
            if online.is_empty() {
                if self.book.is_late() {
                    // It was silent for longer than a fence is waited for: others may know better.
                    self.book.blinded(bare(&from), bare(to));
                }
                let stanza = presence(Some(bare(to)), Some(&from), "unavailable", None);
                return self.part_writes(part, route(&name, DOMAIN, &stanza));
            }
            let answers: Vec<String> = online
                .iter()
                .map(|s| presence(Some(&s.jid), Some(&from), "", Some(s.priority)))
                .collect();
            for stanza in answers {
                self.part_writes(part, route(&name, DOMAIN, &stanza));
            }
            return;
        }
        let is_old = routed.kind().is_empty() && !sessions.iter().any(|(_, s)| s.available && s.jid == from);
        if bare(&from) == bare(to) && is_old {
            // From another session of his, older than the sessions that read it; whoever sends it has left since, and his
            // farewell named the sessions of then.
            self.book.blinded(bare(to), bare(to));
        }
        for (token, session) in sessions {
            let wanted = if full {
                session.jid == to
            } else {
                session.available && session.jid != from
            };
            if wanted {
                let stanza = presence(Some(&from), Some(&session.jid), routed.kind(), None);
                self.sm_delivers(part, &token, &stanza);
            }
        }
    }

    fn sm_message_in(&mut self, part: usize, routed: &Routed, to: &str) {
        let (Some(number), Some(from)) = (routed.message(), routed.stanza_from.clone()) else {
            return;
        };
        if routed.kind() == "error" {
            self.book.bounced(number);
        }
        if routed.kind() != "error" {
            self.book.worked_on(number);
        }
        let of_user: Vec<(String, Session)> = self
            .sm(part)
            .sessions
            .iter()
            .filter(|(_, s)| bare(&s.jid) == bare(to))
            .map(|(token, s)| (token.clone(), s.clone()))
            .collect();
        if let Some((token, session)) = of_user.iter().find(|(_, s)| s.jid == to) {
            let stanza = message(Some(&from), &session.jid, number, routed.kind());
            return self.sm_delivers(part, token, &stanza);
        }
        if routed.kind() == "error" {
            return;
        }
        let top = of_user
            .iter()
            .filter(|(_, s)| s.available)
            .map(|(_, s)| s.priority)
            .max();
        let Some(top) = top else {
            let queue = self.database.queues.entry(bare(to).to_owned()).or_default();
            queue.push(Stored {
                number,
                from,
                to: bare(to).to_owned(),
            });
            return self.book.stored(number);
        };
        for (token, session) in of_user.iter().filter(|(_, s)| s.available && s.priority == top) {
            let stanza = message(Some(&from), &session.jid, number, routed.kind());
            self.sm_delivers(part, token, &stanza);
        }
    }

    fn sm_delivers(&mut self, part: usize, token: &str, stanza: &str) {
        let Some(session) = self.sm(part).sessions.get(token) else {
            return;
        };
        let stanza = on_occasion(session.occasion, stanza);
        let frame = route(DOMAIN, &session.c2s, &in_session("sm", session.number, token, &stanza));
        self.part_writes(part, frame);
    }

    /// One of its frames came back.
    fn sm_bounced(&mut self, part: usize, routed: &Routed) {
        let name = self.parts[part].name.clone();
        if routed.payload != PayloadKind::Message {
            return;
        }
        let (Some(number), Some(from), Some(to)) = (routed.message(), &routed.stanza_from, &routed.stanza_to) else {
            return;
        };
        self.book.bounced(number);
        let error = message(Some(to), from, number, "error");
        if routed.c2s.is_some() {
            let reply = route(&name, DOMAIN, &error);
            return self.part_writes(part, reply.replacen("<route ", "<route error='404' ", 1));
        }
        let own = self
            .sm(part)
            .sessions
            .iter()
            .find(|(_, s)| s.jid == *from)
            .map(|(token, _)| token.clone());
        if let Some(token) = own {
            self.sm_delivers(part, &token, &error);
        }
    }

    /// The process ends: what it had read and not served is lost with it.
    pub(super) fn sm_dies(&mut self, part: usize) {
        let sm = std::mem::take(self.sm(part));
        for (token, session) in &sm.sessions {
            let over = self.said_in(part, session, token);
            self.book.session_ends(over);
        }
        // Delivered, and not taken out of the store: sm itself delivers them once more.
        for number in sm.reading.into_iter().flat_map(|(_, _, read)| read) {
            self.book.messages[number].doubtful = true;
        }
        for seen in sm.inbox {
            if let Seen::Route(routed) = seen {
                self.lost_by(part, &routed.raw);
            }
        }
    }

    /// SIGTERM: sessions are ended and contacts told, before the link is closed.
    pub(super) fn sm_stops(&mut self, part: usize) {
        let name = self.parts[part].name.clone();
        for (token, session) in self.sm(part).sessions.clone() {
            let ended = control("ended", session.number, &token, false);
            self.part_writes(part, route(&name, &session.c2s, &ended));
            self.sm_ends(part, &token);
        }
    }

    fn contacts_of(&self, own: &str) -> Vec<String> {
        (0..self.plan.users).map(user_jid).filter(|jid| jid != own).collect()
    }
}

/// The bare JID of a user.
pub(super) fn user_jid(user: usize) -> String {
    format!("u{user}@{DOMAIN}")
}

/// The sm-side id of a session: two of one JID in one second have the same, also on two sm.
fn token_of(jid: &str, now: Micros) -> String {
    let mut hasher = siphasher::sip::SipHasher24::new();
    (jid, now / 1_000_000).hash(&mut hasher);
    format!("{:040x}", hasher.finish())
}

fn priority_of(raw: &str) -> i8 {
    raw.split("<priority>")
        .nth(1)
        .and_then(|rest| rest.split('<').next()?.parse().ok())
        .unwrap_or(0)
}
