//! The c2s: clients' connections, their logins, and their stanzas on the way to and from their sm.

use super::{Plan, TURN, connect, frames};
use crate::demo::stream::{Piece, Stream};
use crate::demo::{DOMAIN, PASSWORD, USERS};
use crate::load::component::Names;
use crate::wire::header::{self, Frame, Payload, PayloadKind, Route};
use crate::wire::value::Value;
use crate::wire::{NS_CLIENT, NS_SASL, NS_SESSION, NS_STREAM, edit};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener};

const ID: &str = "c2s";
const NS_BIND: &str = "urn:ietf:params:xml:ns:xmpp-bind";

struct Client {
    number: u32,
    stream: Stream,
    /// Once the password was right.
    user: Option<String>,
    /// Once it asked for a resource: the ids of its request, and its full JID.
    asked: Option<(String, String)>,
    /// Once it has a session: the sm's name and the session's id there.
    session: Option<(String, String)>,
    over: bool,
}

struct C2s {
    link: Stream,
    clients: Vec<Client>,
    last: u32,
    /// An sm serves the domain.
    served: bool,
}

pub(super) fn run(plan: &Plan) -> Result<(), String> {
    let names = Names::C2s { id: ID.into() };
    let mut c2s = C2s {
        link: connect(plan, &names)?,
        clients: Vec::new(),
        last: 0,
        served: false,
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, plan.clients)).map_err(|e| format!("clients' port: {e}"))?;
    listener.set_nonblocking(true).map_err(|e| e.to_string())?;
    loop {
        c2s.accept(&listener)?;
        for frame in frames(&mut c2s.link)? {
            c2s.router_sent(&frame);
        }
        for at in 0..c2s.clients.len() {
            c2s.read_client(at);
        }
        c2s.bury();
        std::thread::sleep(TURN);
    }
}

impl C2s {
    fn accept(&mut self, listener: &TcpListener) -> Result<(), String> {
        match listener.accept() {
            Ok((socket, _)) => {
                self.last += 1;
                self.clients.push(Client {
                    number: self.last,
                    stream: Stream::new(socket).map_err(|e| e.to_string())?,
                    user: None,
                    asked: None,
                    session: None,
                    over: false,
                });
                Ok(())
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionAborted) => Ok(()),
            Err(e) => Err(format!("clients' port: {e}")),
        }
    }

    fn read_client(&mut self, at: usize) {
        self.clients[at].stream.fill();
        while !self.clients[at].over {
            match self.clients[at].stream.next() {
                Ok(Some(Piece::Open)) => self.clients[at].greet(),
                Ok(Some(Piece::Frame(frame))) => self.client_sent(at, &frame),
                Ok(None) => return,
                Err(_) => self.clients[at].over = true,
            }
        }
    }

    fn client_sent(&mut self, at: usize, frame: &[u8]) {
        let client = &mut self.clients[at];
        if client.user.is_none() {
            return client.authenticate(frame);
        }
        let Ok(Frame::Stanza(stanza)) = header::read(frame) else {
            return;
        };
        let number = client.number.to_string();
        match (&client.session, &client.asked) {
            (Some((sm, token)), _) => {
                let namespace = match stanza.namespace {
                    None => format!(" xmlns='{NS_CLIENT}'"),
                    Some(_) => String::new(),
                };
                let own = format!("{namespace} xmlns:sc='{NS_SESSION}' sc:sm='{token}' sc:c2s='{number}'");
                let insert = 1 + stanza.name.len();
                let addressed = [&frame[..insert], own.as_bytes(), &frame[insert..]].concat();
                let sm = sm.clone();
                self.send(&sm, &addressed);
            }
            (None, None) if self.served => self.ask_session(at, frame, &stanza),
            // Too early, or too much.
            _ => client.over = true,
        }
    }

    /// The resource is bound when the sm says so.
    fn ask_session(&mut self, at: usize, frame: &[u8], stanza: &Payload<'_>) {
        let client = &mut self.clients[at];
        let text = String::from_utf8_lossy(frame);
        let resource = between(&text, "<resource>", "</resource>").unwrap_or("demo");
        let full = format!("{}@{DOMAIN}/{resource}", client.user.as_deref().unwrap_or_default());
        let (number, id) = (client.number.to_string(), text_of(stanza.id));
        client.asked = Some((id, full.clone()));
        self.control("start", DOMAIN, &number, "", Some(&full));
    }

    fn router_sent(&mut self, frame: &[u8]) {
        match header::read(frame) {
            Ok(Frame::Advert { from, unavailable }) if from.is_some_and(|from| from.is(DOMAIN)) => {
                self.served = !unavailable;
                if unavailable {
                    self.clients.iter_mut().for_each(Client::lose);
                }
            }
            Ok(Frame::Route(route)) => {
                if let Some(payload) = &route.payload {
                    self.routed(frame, &route, payload);
                }
            }
            _ => {}
        }
    }

    fn routed(&mut self, frame: &[u8], route: &Route<'_>, payload: &Payload<'_>) {
        let [number, token, action, from] = [payload.c2s, payload.sm, payload.action, route.from].map(text_of);
        let found = self
            .clients
            .iter_mut()
            .find(|client| client.number.to_string() == number);
        let failed = route.error.is_some() || payload.failed;
        match (payload.kind, action.as_str(), found) {
            (_, _, Some(client)) if failed => client.lose(),
            (_, _, None) if failed => {}
            (PayloadKind::Session, "started", Some(client)) if client.session.is_none() => {
                client.session = Some((from, token));
                client.bound();
            }
            // A session that nobody wants: its sm is told, or asked who else it is for.
            (PayloadKind::Session, "started", client) => {
                let sm = client.and_then(|client| Some(client.session.as_ref()?.0.clone()));
                self.control("end", sm.as_deref().unwrap_or(DOMAIN), &number, &token, None);
            }
            (PayloadKind::Session, "ended" | "replaced", Some(client)) if client.is_session(&token) => client.lose(),
            (PayloadKind::Message | PayloadKind::Presence | PayloadKind::Iq, _, Some(client))
                if client.is_session(&token) =>
            {
                let mut stanza = Vec::new();
                if edit::without_session(frame, payload, &mut stanza) {
                    client.stream.send(&stanza);
                }
            }
            _ => {}
        }
    }

    /// Those whose connection is over go; their sm is told.
    fn bury(&mut self) {
        for client in self.clients.extract_if(.., |client| client.over).collect::<Vec<_>>() {
            let Client {
                number,
                mut stream,
                session,
                ..
            } = client;
            stream.send(b"</stream:stream>");
            if let Some((sm, token)) = session {
                self.control("end", &sm, &number.to_string(), &token, None);
            }
        }
    }

    fn control(&mut self, action: &str, to: &str, number: &str, token: &str, target: Option<&str>) {
        let mut out = Vec::new();
        let id = format!("{:08x}{number:0>32}", std::process::id());
        let extra = edit::SessionExtra {
            id: target.is_some().then_some(id.as_str()),
            target,
            failed: false,
        };
        edit::session(&mut out, to, ID, action, number, token, extra);
        self.link.send(&out);
    }

    fn send(&mut self, to: &str, payload: &[u8]) {
        let mut out = Vec::new();
        edit::route(&mut out, to, ID, payload);
        self.link.send(&out);
    }
}

impl Client {
    /// Answers a stream header.
    fn greet(&mut self) {
        let features = match self.user {
            None => format!("<mechanisms xmlns='{NS_SASL}'><mechanism>PLAIN</mechanism></mechanisms>"),
            Some(_) => format!("<bind xmlns='{NS_BIND}'/>"),
        };
        self.send(&format!(
            "<?xml version='1.0'?><stream:stream xmlns='{NS_CLIENT}' xmlns:stream='{NS_STREAM}' from='{DOMAIN}' \
             id='{}' version='1.0'><stream:features>{features}</stream:features>",
            self.number
        ));
    }

    fn authenticate(&mut self, frame: &[u8]) {
        let text = String::from_utf8_lossy(frame);
        let token = between(&text, ">", "<").and_then(|token| STANDARD.decode(token.trim()).ok());
        let token = String::from_utf8(token.unwrap_or_default()).unwrap_or_default();
        let parts: Vec<&str> = token.split('\0').collect();
        match parts.as_slice() {
            [_, user, PASSWORD] if text.starts_with("<auth") && USERS.contains(user) => {
                self.user = Some((*user).to_owned());
                self.stream.restart();
                self.send(&format!("<success xmlns='{NS_SASL}'/>"));
            }
            _ => {
                self.send(&format!("<failure xmlns='{NS_SASL}'><not-authorized/></failure>"));
                self.over = true;
            }
        }
    }

    fn bound(&mut self) {
        let Some((id, full)) = &self.asked else { return };
        let answer = format!("<iq type='result' id='{id}'><bind xmlns='{NS_BIND}'><jid>{full}</jid></bind></iq>");
        self.send(&answer);
    }

    fn is_session(&self, token: &str) -> bool {
        self.session.as_ref().is_some_and(|(_, own)| own == token)
    }

    /// Its session is gone: it is not ended once more.
    fn lose(&mut self) {
        self.session = None;
        self.over = true;
    }

    fn send(&mut self, text: &str) {
        self.stream.send(text.as_bytes());
    }
}

fn between<'a>(text: &'a str, before: &str, behind: &str) -> Option<&'a str> {
    Some(text.split_once(before)?.1.split_once(behind)?.0)
}

fn text_of(value: Option<Value<'_>>) -> String {
    value
        .and_then(|value| value.unescape())
        .unwrap_or_default()
        .into_owned()
}
