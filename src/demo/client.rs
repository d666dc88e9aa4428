//! A chat client: one connection to a c2s, plain text, SASL PLAIN (RFC 6120), no more of XMPP than the story needs.
//!
//! Nothing here waits: [`Client::poll`] takes what is there.

use super::DOMAIN;
use super::stream::{Piece, Stream};
use crate::wire::header::{self, Frame, Payload, PayloadKind};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A loopback connection takes no time; one to a frozen process would take forever.
const CONNECT_MS: u64 = 1_000;

/// How far the login is: what is awaited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Features,
    Success,
    FeaturesAgain,
    Bound,
    Online,
}

/// What came.
#[derive(Debug)]
pub(super) enum Event {
    /// Logged in, and visible to the contacts.
    Online,
    /// A chat message's text.
    Message(String),
    /// Somebody, by full JID, is there (true) or has gone.
    Presence(String, bool),
    /// The server closed the connection, or refused.
    Closed(String),
}

/// A device of a user.
#[derive(Debug)]
pub(super) struct Client {
    /// User name.
    pub(super) user: &'static str,
    resource: &'static str,
    stream: Stream,
    phase: Phase,
}

impl Client {
    /// Connects and begins to log in. The password is [`super::PASSWORD`].
    pub(super) fn connect(server: SocketAddr, user: &'static str, resource: &'static str) -> std::io::Result<Client> {
        let socket = TcpStream::connect_timeout(&server, Duration::from_millis(CONNECT_MS))?;
        let mut client = Client {
            user,
            resource,
            stream: Stream::new(socket)?,
            phase: Phase::Features,
        };
        client.open();
        Ok(client)
    }

    /// Logged in.
    pub(super) fn is_online(&self) -> bool {
        self.phase == Phase::Online
    }

    /// Sends a chat message; `text` needs no escaping.
    pub(super) fn say(&mut self, to: &str, text: &str) {
        self.send(&format!(
            "<message type='chat' to='{to}@{DOMAIN}'><body>{text}</body></message>"
        ));
    }

    /// Says goodbye in order: goes offline, and closes when all that came before is here. To be polled until
    /// [`Event::Closed`].
    pub(super) fn leave(&mut self) {
        self.send("<presence type='unavailable'/><iq type='get' id='last'><ping xmlns='urn:xmpp:ping'/></iq>");
    }

    /// Takes what has come, and sends what waits.
    pub(super) fn poll(&mut self, events: &mut Vec<Event>) {
        self.stream.fill();
        loop {
            let result = match self.stream.next() {
                Ok(Some(Piece::Frame(frame))) => self.frame(&frame, events),
                Ok(Some(Piece::Open)) => Ok(()),
                Ok(None) => return,
                Err(why) => Err(why),
            };
            if let Err(why) = result {
                return events.push(Event::Closed(why));
            }
        }
    }

    fn frame(&mut self, frame: &[u8], events: &mut Vec<Event>) -> Result<(), String> {
        let text = String::from_utf8_lossy(frame);
        let is = |name: &str| text.starts_with(&format!("<{name}"));
        if is("stream:error") || is("failure") {
            return Err(format!("the server says {text}"));
        }
        match self.phase {
            Phase::Features if is("stream:features") => {
                let token = STANDARD.encode(format!("\0{}\0{}", self.user, super::PASSWORD));
                self.send(&format!(
                    "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>{token}</auth>"
                ));
                self.phase = Phase::Success;
            }
            Phase::Success if is("success") => {
                self.stream.restart();
                self.open();
                self.phase = Phase::FeaturesAgain;
            }
            Phase::FeaturesAgain if is("stream:features") => {
                self.send(&format!(
                    "<iq type='set' id='bind'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'>\
                     <resource>{}</resource></bind></iq>",
                    self.resource
                ));
                self.phase = Phase::Bound;
            }
            Phase::Bound if is("iq") => {
                self.send("<iq type='get' id='roster'><query xmlns='jabber:iq:roster'/></iq><presence/>");
                self.phase = Phase::Online;
                events.push(Event::Online);
            }
            _ => match header::read(frame) {
                Ok(Frame::Stanza(stanza)) if stanza.id.is_some_and(|id| id.is("last")) => self.send("</stream:stream>"),
                Ok(Frame::Stanza(stanza)) => events.extend(stanza_event(&stanza, &text)),
                _ => {}
            },
        }
        Ok(())
    }

    fn open(&mut self) {
        self.send(&format!(
            "<?xml version='1.0'?><stream:stream xmlns='jabber:client' \
             xmlns:stream='http://etherx.jabber.org/streams' to='{DOMAIN}' version='1.0'>"
        ));
    }

    fn send(&mut self, text: &str) {
        self.stream.send(text.as_bytes());
    }
}

fn stanza_event(stanza: &Payload<'_>, text: &str) -> Option<Event> {
    let kind = stanza.kind_attr.and_then(|kind| kind.as_str());
    match (stanza.kind, kind) {
        (PayloadKind::Message, Some("chat")) => {
            let (_, body) = text.split_once("<body>")?;
            Some(Event::Message(body.split_once("</body>")?.0.to_owned()))
        }
        (PayloadKind::Presence, None | Some("unavailable")) => {
            Some(Event::Presence(stanza.from?.as_str()?.to_owned(), kind.is_none()))
        }
        _ => None,
    }
}
