//! The sm: sessions, presence, delivery, and messages kept for those who are away.

use super::{Plan, TURN, connect, frames, route};
use crate::demo::stream::Stream;
use crate::demo::{DOMAIN, USERS};
use crate::load::component::Names;
use crate::wire::header::{Payload, PayloadKind, Route};
use crate::wire::value::Value;
use crate::wire::{NS_CLIENT, NS_SESSION, edit};
use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;

const ID: &str = "sm";

struct Session {
    user: String,
    /// Full JID.
    full: String,
    /// What its client's c2s and number there are, and its own id.
    c2s: String,
    number: String,
    token: String,
    available: bool,
}

struct Sm {
    link: Stream,
    shared: PathBuf,
    sessions: Vec<Session>,
    started: u64,
}

pub(super) fn run(plan: &Plan) -> Result<(), String> {
    let names = Names::Sm {
        id: ID.into(),
        domain: DOMAIN.into(),
    };
    let mut sm = Sm {
        link: connect(plan, &names)?,
        shared: plan.shared.clone(),
        sessions: Vec::new(),
        started: 0,
    };
    loop {
        for frame in frames(&mut sm.link)? {
            if let Some(route) = route(&frame).filter(|route| route.error.is_none()) {
                sm.routed(&frame, &route);
            }
        }
        std::thread::sleep(TURN);
    }
}

impl Sm {
    fn routed(&mut self, frame: &[u8], route: &Route<'_>) {
        let (Some(payload), Some(from)) = (&route.payload, text(route.from)) else {
            return;
        };
        match (payload.kind, payload.sm) {
            (PayloadKind::Session, _) => self.control(&from, payload),
            (_, Some(_)) => self.client_sent(frame, &from, route, payload),
            _ => self.user_sent(frame, &from, payload),
        }
    }

    fn control(&mut self, c2s: &str, payload: &Payload<'_>) {
        let [action, number, token, target, id] =
            [payload.action, payload.c2s, payload.sm, payload.target, payload.id].map(text_or_nothing);
        match action.as_str() {
            "start" => self.start(c2s, &number, &target, &id),
            "end" => match self.find(&token) {
                Some(at) => self.end(at, "ended"),
                None => self.answer(
                    c2s,
                    "end",
                    &number,
                    &token,
                    edit::SessionExtra {
                        failed: true,
                        ..Default::default()
                    },
                ),
            },
            _ => {}
        }
    }

    fn start(&mut self, c2s: &str, number: &str, full: &str, id: &str) {
        if let Some(former) = self.sessions.iter().position(|session| session.full == full) {
            self.end(former, "replaced");
        }
        self.started += 1;
        // As long as jabberd2's, and different in every life of this process.
        let token = format!("{:08x}{:032x}", std::process::id(), self.started);
        self.answer(
            c2s,
            "started",
            number,
            &token,
            edit::SessionExtra {
                id: Some(id),
                target: Some(full),
                failed: false,
            },
        );
        println!("session started: {full}");
        self.sessions.push(Session {
            user: user_of(full).to_owned(),
            full: full.to_owned(),
            c2s: c2s.to_owned(),
            number: number.to_owned(),
            token,
            available: false,
        });
    }

    fn end(&mut self, at: usize, action: &str) {
        let session = self.sessions.remove(at);
        println!("session {action}: {}", session.full);
        if session.available {
            self.tell_contacts(&session.user, &session.full, "type='unavailable'");
        }
        self.answer(
            &session.c2s,
            action,
            &session.number,
            &session.token,
            Default::default(),
        );
    }

    /// A stanza of a client.
    fn client_sent(&mut self, frame: &[u8], c2s: &str, route: &Route<'_>, payload: &Payload<'_>) {
        let Some(at) = self.find(&text_or_nothing(payload.sm)) else {
            // Its session is unknown: it goes back as it is, marked.
            let (span, insert) = (payload.span.clone(), payload.insert_at);
            let marked = [&frame[span.start..insert], b" failed='1'", &frame[insert..span.end]].concat();
            return self.send(c2s, &text_or_nothing(route.to), &marked);
        };
        let mut stanza = Vec::new();
        if !edit::without_session(frame, payload, &mut stanza) {
            return;
        }
        let (kind, to) = (text_or_nothing(payload.kind_attr), text(payload.to));
        match (payload.kind, to) {
            (PayloadKind::Presence, None) if kind.is_empty() => self.available(at),
            (PayloadKind::Presence, None) if kind == "unavailable" => self.unavailable(at),
            (PayloadKind::Iq, None) => self.ask_server(at, &text_or_nothing(payload.id), &stanza),
            (_, Some(to)) => {
                let from = format!(" from='{}'", self.sessions[at].full);
                stanza.splice(1 + payload.name.len()..1 + payload.name.len(), from.into_bytes());
                self.send(domain_of(&to), ID, &stanza);
            }
            _ => {}
        }
    }

    /// Presence goes to all contacts, theirs is asked for, and what was kept is delivered.
    fn available(&mut self, at: usize) {
        let session = &mut self.sessions[at];
        session.available = true;
        let (user, full) = (session.user.clone(), session.full.clone());
        self.tell_contacts(&user, &full, "");
        self.tell_contacts(&user, &format!("{user}@{DOMAIN}"), "type='probe'");
        let kept = self.kept_for(&user);
        let stanzas = fs::read_to_string(&kept).unwrap_or_default();
        // Gone before it is delivered: better lost than twice.
        let _ = fs::remove_file(&kept);
        for stanza in stanzas.lines() {
            self.deliver(at, stanza.as_bytes());
        }
    }

    fn unavailable(&mut self, at: usize) {
        let session = &mut self.sessions[at];
        session.available = false;
        // Also when it never was available, as jabberd2's sm does: so contacts are told of a session that died elsewhere.
        let (user, full) = (session.user.clone(), session.full.clone());
        self.tell_contacts(&user, &full, "type='unavailable'");
    }

    /// Contact list, and a ping; all else is not known here.
    fn ask_server(&mut self, at: usize, id: &str, stanza: &[u8]) {
        let has = |what: &str| memchr::memmem::find(stanza, what.as_bytes()).is_some();
        let (kind, content) = if has("jabber:iq:roster") {
            let items: String = contacts_of(&self.sessions[at].user)
                .map(|user| format!("<item jid='{user}@{DOMAIN}' name='{user}' subscription='both'/>"))
                .collect();
            ("result", format!("<query xmlns='jabber:iq:roster'>{items}</query>"))
        } else if has("urn:xmpp:ping") {
            ("result", String::new())
        } else {
            let stanzas = "urn:ietf:params:xml:ns:xmpp-stanzas";
            (
                "error",
                format!("<error type='cancel'><service-unavailable xmlns='{stanzas}'/></error>"),
            )
        };
        let answer = format!("<iq xmlns='{NS_CLIENT}' type='{kind}' id='{id}'>{content}</iq>");
        self.deliver(at, answer.as_bytes());
    }

    /// A stanza from another user, or a question of the router.
    fn user_sent(&mut self, frame: &[u8], from_route: &str, payload: &Payload<'_>) {
        let [to, from, kind, id] = [payload.to, payload.from, payload.kind_attr, payload.id].map(text_or_nothing);
        let stanza = &frame[payload.span.clone()];
        let here: Vec<usize> = (0..self.sessions.len())
            .filter(|at| self.sessions[*at].available && self.sessions[*at].user == user_of(&to))
            .collect();
        match (payload.kind, kind.as_str()) {
            (PayloadKind::Iq, "get") if !to.contains('@') => {
                let answer = format!("<iq xmlns='{NS_CLIENT}' type='result' id='{id}' to='{from}' from='{to}'/>");
                self.send(from_route, ID, answer.as_bytes());
            }
            (PayloadKind::Presence, "probe") => {
                for at in here {
                    let full = &self.sessions[at].full;
                    let presence = format!("<presence xmlns='{NS_CLIENT}' from='{full}' to='{from}'/>");
                    self.send(domain_of(&from), ID, presence.as_bytes());
                }
            }
            (PayloadKind::Presence, "" | "unavailable") => here.into_iter().for_each(|at| self.deliver(at, stanza)),
            (PayloadKind::Message, "error") => {}
            (PayloadKind::Message, _) if here.is_empty() => self.keep(user_of(&to), stanza),
            (PayloadKind::Message, _) => here.into_iter().for_each(|at| self.deliver(at, stanza)),
            _ => {}
        }
    }

    fn keep(&self, user: &str, stanza: &[u8]) {
        // The clients of the demo write no line ends.
        let line = [stanza, b"\n"].concat();
        let file = File::options().append(true).create(true).open(self.kept_for(user));
        let kept = file.and_then(|mut file| file.write_all(&line));
        if let Err(e) = kept {
            println!("[error] a message for {user} is lost: {e}");
        }
    }

    /// Users are known beforehand: no other name becomes a file's.
    fn kept_for(&self, user: &str) -> PathBuf {
        let known = USERS.iter().find(|known| **known == user);
        self.shared.join(known.unwrap_or(&"nobody"))
    }

    fn tell_contacts(&mut self, user: &str, from: &str, kind: &str) {
        for contact in contacts_of(user) {
            let presence = format!("<presence xmlns='{NS_CLIENT}' from='{from}' to='{contact}@{DOMAIN}' {kind}/>");
            self.send(DOMAIN, ID, presence.as_bytes());
        }
    }

    /// To the client of a session.
    fn deliver(&mut self, at: usize, stanza: &[u8]) {
        let Session { number, token, c2s, .. } = &self.sessions[at];
        // Another prefix than c2s uses, whose declaration may still be there.
        let own = format!(" xmlns:sm='{NS_SESSION}' sm:sm='{token}' sm:c2s='{number}'");
        let name_end = stanza
            .iter()
            .position(|byte| matches!(byte, b' ' | b'/' | b'>'))
            .unwrap_or(0);
        let addressed = [&stanza[..name_end], own.as_bytes(), &stanza[name_end..]].concat();
        let c2s = c2s.clone();
        self.send(&c2s, DOMAIN, &addressed);
    }

    fn answer(&mut self, c2s: &str, action: &str, number: &str, token: &str, extra: edit::SessionExtra<'_>) {
        let mut out = Vec::new();
        edit::session(&mut out, c2s, ID, action, number, token, extra);
        self.link.send(&out);
    }

    fn send(&mut self, to: &str, from: &str, payload: &[u8]) {
        let mut out = Vec::new();
        edit::route(&mut out, to, from, payload);
        self.link.send(&out);
    }

    fn find(&self, token: &str) -> Option<usize> {
        self.sessions.iter().position(|session| session.token == token)
    }
}

fn contacts_of(user: &str) -> impl Iterator<Item = &'static str> {
    USERS.into_iter().filter(move |contact| *contact != user)
}

fn user_of(jid: &str) -> &str {
    jid.split_once('@').map_or("", |(user, _)| user)
}

fn domain_of(jid: &str) -> &str {
    let behind = jid.split_once('@').map_or(jid, |(_, behind)| behind);
    behind.split('/').next().unwrap_or(behind)
}

fn text(value: Option<Value<'_>>) -> Option<String> {
    Some(value?.unescape()?.into_owned())
}

fn text_or_nothing(value: Option<Value<'_>>) -> String {
    text(value).unwrap_or_default()
}
