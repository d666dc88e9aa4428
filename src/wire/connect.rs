//! The client side of a stream: uplink to a stock router, load generator, tests.

use super::scan::{Item, Limits, Scanner};
use super::stream::{self, Header, Open, put};
use super::tag::{self, Tag};
use super::{NS_ACCEPT, NS_SASL, NS_STREAM, NS_TLS, handshake, sasl};
use memchr::memmem;
use rand_core::RngCore;

/// Most bytes a router may send before the login is done.
pub const LOGIN_BYTES_MAX: usize = 64 * 1024;

/// How much of a condition's name goes into the log, characters.
const CONDITION_CHARS_MAX: usize = 64;

/// Limits of a stream opened with [`Connect::new`].
pub const LIMITS: Limits = Limits {
    frame_bytes_max: 64 << 20,
    open_bytes_max: 16 << 10,
    depth_max: 1000,
};

/// As whom to log in.
#[derive(Clone)]
pub enum Connecting {
    /// As one of jabberd2's own components: SASL DIGEST-MD5.
    Native {
        /// SASL user name.
        user: String,
        /// Its secret.
        pass: String,
        /// Insist on STARTTLS: a router that does not offer it is refused.
        starttls: bool,
        /// This machine's host name, for the digest-uri.
        hostname: String,
    },
    /// As an XEP-0114 component.
    Foreign {
        /// The name to serve.
        name: String,
        /// The shared secret.
        secret: String,
    },
}

impl std::fmt::Debug for Connecting {
    /// Without the secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Connecting::Native { user, .. } => f.debug_struct("Native").field("user", user).finish_non_exhaustive(),
            Connecting::Foreign { name, .. } => f.debug_struct("Foreign").field("name", name).finish_non_exhaustive(),
        }
    }
}

/// What [`Connect::feed`] came to.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // given once a connection, and taken apart at once
pub enum ConnectStep {
    /// More input is needed.
    Need,
    /// Send what is in `out`, negotiate TLS as the client, then call [`Connect::tls_started`].
    StartTls,
    /// Authenticated; what is left of the input belongs to the authenticated stream. The router's (empty) features may
    /// still follow as a frame: ignore them.
    Done(Scanner),
    /// Refused, in words for the operator.
    Failed(String),
}

/// One login. After [`ConnectStep::Done`] and [`ConnectStep::Failed`] it must not be fed again.
#[derive(Debug)]
pub struct Connect {
    what: Connecting,
    limits: Limits,
    scanner: Scanner,
    phase: Phase,
    /// The router's header of the document at hand.
    header: Option<Header>,
    encrypted: bool,
    /// Bytes taken so far.
    taken: usize,
}

#[derive(Debug, PartialEq, Eq)]
enum Phase {
    /// The router's features come.
    Features,
    /// `<proceed/>` comes.
    Proceed,
    /// The challenge comes.
    Challenge,
    /// `<success/>` comes, and should prove that the router knows the secret.
    Success { rspauth: String, proven: bool },
    /// Authenticated; the router's second header comes.
    Restarted,
    /// The answer to the XEP-0114 handshake comes.
    Handshake,
}

impl Connect {
    /// A login with [`LIMITS`].
    pub fn new(what: Connecting) -> Connect {
        Connect::with_limits(what, LIMITS)
    }

    /// A login whose stream has these limits.
    pub fn with_limits(what: Connecting, limits: Limits) -> Connect {
        let phase = match what {
            Connecting::Native { .. } => Phase::Features,
            Connecting::Foreign { .. } => Phase::Handshake,
        };
        Connect {
            what,
            limits,
            scanner: Scanner::new(limits),
            phase,
            header: None,
            encrypted: false,
            taken: 0,
        }
    }

    /// Opens the stream.
    pub fn start(&mut self, out: &mut Vec<u8>) {
        let header = match &self.what {
            Connecting::Native { .. } => Open {
                version: true,
                ..Open::default()
            },
            Connecting::Foreign { name, .. } => Open {
                default_namespace: Some(NS_ACCEPT),
                to: Some(name),
                ..Open::default()
            },
        };
        stream::open(out, &header);
    }

    /// After [`ConnectStep::StartTls`]: opens the stream again, now encrypted.
    pub fn tls_started(&mut self, out: &mut Vec<u8>) {
        self.encrypted = true;
        self.phase = Phase::Features;
        self.restart(out);
    }

    /// Consumes from the front of `input`; appends what must be sent to `out`.
    pub fn feed(&mut self, input: &mut Vec<u8>, out: &mut Vec<u8>, rng: &mut dyn RngCore) -> ConnectStep {
        loop {
            let item = match self.scanner.next(input) {
                Ok(None) if self.taken + input.len() <= LOGIN_BYTES_MAX => return ConnectStep::Need,
                Ok(None) => return failed("too much data before the login is done"),
                Ok(Some(item)) => item,
                Err(fault) => return ConnectStep::Failed(format!("bad XML from the router: {}", fault.text())),
            };
            let (Item::Open { end, .. } | Item::Frame { end, .. } | Item::Close { end }) = item;
            self.taken += end;
            self.scanner.consume(end);
            let rest = input.split_off(end);
            let taken = std::mem::replace(input, rest);
            let step = match item {
                Item::Open { empty: false, .. } => self.opened(&taken, out),
                Item::Open { .. } | Item::Close { .. } => failed("the router closed the stream"),
                Item::Frame { start, .. } => self.frame(&taken[start..], input, out, rng),
            };
            if !matches!(step, ConnectStep::Need) {
                return step;
            }
        }
    }

    fn opened(&mut self, open: &[u8], out: &mut Vec<u8>) -> ConnectStep {
        let Ok(header) = Header::read(open) else {
            return failed("the router sent no stream header");
        };
        let id = header.id.clone();
        self.header = Some(header);
        if self.phase == Phase::Restarted {
            return self.done();
        }
        if let Connecting::Foreign { secret, .. } = &self.what {
            let Some(id) = id else {
                return failed("no id in the router's stream header");
            };
            put(out, &["<handshake>", &handshake::digest(&id, secret), "</handshake>"]);
        }
        ConnectStep::Need
    }

    fn frame(&mut self, frame: &[u8], behind: &[u8], out: &mut Vec<u8>, rng: &mut dyn RngCore) -> ConnectStep {
        let Some(tag) = tag::read(frame, 0) else {
            return failed("the router sent a bad start tag");
        };
        let namespace = self.header.as_ref().and_then(|header| header.namespace_of(&tag));
        match (&self.phase, namespace.as_deref(), tag.local()) {
            (_, Some(NS_STREAM), b"error") => refused("stream error", frame, &tag),
            (_, Some(NS_SASL | NS_TLS), b"failure") => refused("authentication failed", frame, &tag),
            (Phase::Features, Some(NS_STREAM), b"features") => self.features(frame, out),
            (Phase::Proceed, Some(NS_TLS), b"proceed") if behind.is_empty() => ConnectStep::StartTls,
            (Phase::Proceed, Some(NS_TLS), b"proceed") => failed("data behind proceed"),
            (Phase::Challenge, Some(NS_SASL), b"challenge") => self.challenge(frame, &tag, out, rng),
            (Phase::Success { .. }, Some(NS_SASL), b"challenge" | b"success") => self.success(frame, &tag, out),
            (Phase::Handshake, Some(NS_ACCEPT), b"handshake") => self.done(),
            // Anything else has no place here, and does no harm.
            _ => ConnectStep::Need,
        }
    }

    fn features(&mut self, frame: &[u8], out: &mut Vec<u8>) -> ConnectStep {
        if let (Connecting::Native { starttls: true, .. }, false) = (&self.what, self.encrypted) {
            if memmem::find(frame, NS_TLS.as_bytes()).is_none() {
                return failed("the router offers no STARTTLS");
            }
            put(out, &["<starttls xmlns='", NS_TLS, "'/>"]);
            self.phase = Phase::Proceed;
        } else {
            put(
                out,
                &["<auth xmlns='", NS_SASL, "' mechanism='", sasl::MECHANISM, "'></auth>"],
            );
            self.phase = Phase::Challenge;
        }
        ConnectStep::Need
    }

    fn challenge(&mut self, frame: &[u8], tag: &Tag<'_>, out: &mut Vec<u8>, rng: &mut dyn RngCore) -> ConnectStep {
        let Connecting::Native {
            user, pass, hostname, ..
        } = &self.what
        else {
            return ConnectStep::Need;
        };
        let text = tag::text(frame, tag).unwrap_or_default();
        match sasl::answer(text, user, pass, hostname, &sasl::new_nonce(rng)) {
            Ok(answer) => {
                put(
                    out,
                    &["<response xmlns='", NS_SASL, "'>", &answer.response, "</response>"],
                );
                self.phase = Phase::Success {
                    rspauth: answer.rspauth,
                    proven: false,
                };
                ConnectStep::Need
            }
            Err(_) => failed("the router's challenge is not DIGEST-MD5"),
        }
    }

    /// `<success/>`, or the challenge with the router's proof that other servers send before it (RFC 2831 2.1.3).
    fn success(&mut self, frame: &[u8], tag: &Tag<'_>, out: &mut Vec<u8>) -> ConnectStep {
        let Phase::Success { rspauth, proven } = &mut self.phase else {
            return ConnectStep::Need;
        };
        let theirs = match sasl::rspauth(tag::text(frame, tag).unwrap_or_default()) {
            Ok(theirs) => theirs,
            Err(_) => return failed("the router's answer is not DIGEST-MD5"),
        };
        if let Some(theirs) = theirs {
            if !sasl::rspauth_matches(rspauth, &theirs) {
                return failed("the router does not know the secret");
            }
            *proven = true;
        }
        if tag.local() == b"challenge" {
            put(out, &["<response xmlns='", NS_SASL, "'></response>"]);
            return ConnectStep::Need;
        }
        if !*proven {
            return failed("the router did not prove that it knows the secret");
        }
        self.phase = Phase::Restarted;
        self.restart(out);
        ConnectStep::Need
    }

    /// A new document, both ways.
    fn restart(&mut self, out: &mut Vec<u8>) {
        self.scanner = Scanner::new(self.limits);
        self.header = None;
        self.start(out);
    }

    fn done(&mut self) -> ConnectStep {
        ConnectStep::Done(std::mem::replace(&mut self.scanner, Scanner::new(self.limits)))
    }
}

fn failed(reason: &str) -> ConnectStep {
    ConnectStep::Failed(reason.to_owned())
}

/// A refusal, with the condition the router gave: the first child's name.
fn refused(what: &str, frame: &[u8], tag: &Tag<'_>) -> ConnectStep {
    let child = tag::read(frame, tag.end).map(|child| {
        let name = String::from_utf8_lossy(child.local());
        name.chars().take(CONDITION_CHARS_MAX).collect::<String>()
    });
    ConnectStep::Failed(child.map_or(what.to_owned(), |condition| format!("{what}: {condition}")))
}
