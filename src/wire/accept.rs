//! The server side of a stream, from its first byte until the peer is authenticated (RFC 6120 4 and 6, XEP-0114 3).

use super::foreign::Prefixes;
use super::handshake::{self, HANDSHAKE_CHARS};
use super::sasl::{self, Refused};
use super::scan::{Item, Limits, Scanner};
use super::stream::{self, Header, Open, put};
use super::tag::{self, Tag};
use super::{NS_ACCEPT, NS_SASL, NS_TLS};
use rand_core::RngCore;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// What all links of one listener are negotiated with.
#[derive(Clone)]
pub struct AcceptConfig {
    /// SASL realm and service of the digest-uri: `jabberd-router`.
    pub realm: String,
    /// Secret of XEP-0114 components; without one they are refused.
    pub secret: Option<String>,
    /// Offer STARTTLS.
    pub starttls: bool,
    /// Limits of the authenticated stream; before that, [`UNAUTHENTICATED_BYTES_MAX`] holds as well.
    pub limits: Limits,
    /// Failed authentications after which the stream is closed.
    pub tries_max: u8,
}

impl fmt::Debug for AcceptConfig {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut config = f.debug_struct("AcceptConfig");
        config
            .field("realm", &self.realm)
            .field("starttls", &self.starttls)
            .field("limits", &self.limits);
        config.field("tries_max", &self.tries_max).finish_non_exhaustive()
    }
}

/// Most bytes a peer may send before it is authenticated, routes aside.
pub const UNAUTHENTICATED_BYTES_MAX: usize = 64 * 1024;

/// Most bytes of routes kept for a peer that is not authenticated yet; further ones are lost.
///
/// A c2s that comes back writes what its clients sent meanwhile right behind its stream header, before SASL. They count
/// only once it has proved who it is.
pub const EARLY_BYTES_MAX: usize = 4 << 20;

/// Longest route before authentication: client stanzas are limited by c2s to less.
const EARLY_FRAME_BYTES_MAX: usize = 1 << 20;

/// What [`Accept::feed`] came to.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "made once a link and taken apart at once")]
pub enum Step {
    /// More input is needed.
    Need,
    /// Send what is in `out`, negotiate TLS, call [`Accept::tls_started`], go on with what TLS yields.
    StartTls,
    /// Authenticated; what is left of the input belongs to the authenticated stream.
    Done(Peer),
    /// Send what is in `out`, then close.
    Failed(Failure),
}

/// An authenticated peer.
#[derive(Debug)]
pub struct Peer {
    /// Who it is.
    pub kind: PeerKind,
    /// Positioned inside the authenticated stream.
    pub scanner: Scanner,
    /// Namespace declarations of the authenticated stream's header.
    pub prefixes: Prefixes,
    /// Routes that came before it was authenticated, one behind the other.
    pub early: Vec<u8>,
}

/// Who authenticated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeerKind {
    /// A component that speaks jabberd2's own protocol.
    Native {
        /// Its SASL user name.
        user: String,
    },
    /// An XEP-0114 component.
    Foreign {
        /// The name it serves: `to` of its stream header.
        name: String,
        /// Namespace declarations of its stream header.
        prefixes: Prefixes,
    },
}

/// Why a link was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// For the operator's log: one line.
    pub reason: String,
    /// What sort of failure.
    pub kind: FailureKind,
}

/// Sorts of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// Not XML, not a stream, or something that has no place before authentication.
    BadInput,
    /// Wrong password, unknown user, wrong hash.
    Auth,
    /// The peer closed its stream before it was authenticated.
    Closed,
    /// A version or service this side does not have.
    Unsupported,
}

/// One link's negotiation. After [`Step::Done`] and [`Step::Failed`] it must not be fed again.
#[derive(Debug)]
pub struct Accept {
    config: Arc<AcceptConfig>,
    scanner: Scanner,
    phase: Phase,
    /// The peer's header of the document at hand, once it is read (and answered).
    header: Option<Header>,
    /// The id of the next header.
    id: String,
    encrypted: bool,
    /// The nonce of the challenge that waits for its response.
    nonce: Option<String>,
    failures: u8,
    /// Bytes taken so far, routes aside.
    taken: usize,
    /// Routes that came too early.
    early: Vec<u8>,
    /// Authenticated, but routes of the former document may still stand before the new header.
    restarting: bool,
}

#[derive(Debug)]
enum Phase {
    /// Until the SASL exchange is over, or the header turns out to be an XEP-0114 component's.
    Sasl,
    /// The name and the stream id the handshake is to prove.
    Handshake { name: String, id: String },
    /// Authenticated; the second header comes.
    Restarted { user: String },
    /// Over.
    Over,
}

impl Accept {
    /// A link that was just accepted. `rng` gives the stream's id.
    pub fn new(config: Arc<AcceptConfig>, rng: &mut dyn RngCore) -> Accept {
        Accept {
            scanner: Scanner::new(config.limits),
            config,
            phase: Phase::Sasl,
            header: None,
            id: stream::new_id(rng),
            encrypted: false,
            nonce: None,
            failures: 0,
            taken: 0,
            early: Vec::new(),
            restarting: false,
        }
    }

    /// Our stream header was sent.
    pub fn is_open(&self) -> bool {
        self.header.is_some()
    }

    /// Bytes of routes kept until it is known whose they are.
    pub fn kept_bytes(&self) -> usize {
        self.early.len()
    }

    /// Failed authentications so far.
    pub fn failures(&self) -> u8 {
        self.failures
    }

    /// After [`Step::StartTls`]: the link is encrypted, and the peer opens a fresh stream.
    pub fn tls_started(&mut self) {
        self.encrypted = true;
        self.nonce = None;
        self.restart();
    }

    /// Consumes from the front of `input`; appends what must be sent to `out`. `secret_of(user)` is the user's secret.
    pub fn feed(
        &mut self,
        input: &mut Vec<u8>,
        out: &mut Vec<u8>,
        secret_of: &dyn Fn(&str) -> Option<String>,
        rng: &mut dyn RngCore,
    ) -> Step {
        loop {
            if self.restarting && !self.restart_behind_routes(input) {
                return Step::Need;
            }
            let step = match self.scanner.next(input) {
                Ok(None) if self.taken + input.len() <= self.unfinished_bytes_max(input) => return Step::Need,
                Ok(None) => self.too_much(out),
                Ok(Some(item)) => self.item(item, input, out, secret_of, rng),
                Err(fault) => self.refuse(out, fault.condition(), Some(fault.text()), FailureKind::BadInput),
            };
            if !matches!(step, Step::Need) {
                return step;
            }
        }
    }

    fn item(
        &mut self,
        item: Item,
        input: &mut Vec<u8>,
        out: &mut Vec<u8>,
        secret_of: &dyn Fn(&str) -> Option<String>,
        rng: &mut dyn RngCore,
    ) -> Step {
        let (Item::Open { end, .. } | Item::Frame { end, .. } | Item::Close { end }) = item;
        if matches!(item, Item::Frame { start, .. } if is_route(&input[start..])) {
            return self.too_early(item, input, out);
        }
        self.taken += end;
        if self.taken > UNAUTHENTICATED_BYTES_MAX {
            return self.too_much(out);
        }
        self.scanner.consume(end);
        let rest = input.split_off(end);
        let taken = std::mem::replace(input, rest);
        match item {
            Item::Open { empty, .. } => match self.opened(&taken, out, rng) {
                Step::Failed(failure) => Step::Failed(failure),
                _ if empty => self.closed(out),
                step => step,
            },
            Item::Close { .. } => self.closed(out),
            Item::Frame { start, .. } => self.frame(&taken[start..], input, out, secret_of, rng),
        }
    }

    /// A route before authentication: kept until it is known whose it is.
    fn too_early(&mut self, item: Item, input: &mut Vec<u8>, out: &mut Vec<u8>) -> Step {
        let Item::Frame { start, end } = item else {
            return Step::Need;
        };
        if matches!(self.phase, Phase::Handshake { .. }) {
            return self.refuse(out, "not-authorized", Some("authenticate first"), FailureKind::Auth);
        }
        if self.early.len() + (end - start) <= EARLY_BYTES_MAX {
            self.early.extend_from_slice(&input[start..end]);
        }
        self.scanner.consume(end);
        input.drain(..end);
        Step::Need
    }

    fn unfinished_bytes_max(&self, input: &[u8]) -> usize {
        let unfinished = input.get(self.scanner.unfinished_start()..).unwrap_or_default();
        match is_route(unfinished) && matches!(self.phase, Phase::Sasl | Phase::Restarted { .. }) {
            true => self.taken + EARLY_FRAME_BYTES_MAX,
            false => UNAUTHENTICATED_BYTES_MAX,
        }
    }

    /// The peer may have written routes before it read our success; the new document begins where one does. False when
    /// more input is needed to tell.
    fn restart_behind_routes(&mut self, input: &mut Vec<u8>) -> bool {
        let space = input.iter().take_while(|byte| tag::is_space(**byte)).count();
        let rest = &input[space..];
        if ROUTE_START.starts_with(&rest[..rest.len().min(ROUTE_START.len())]) && rest.len() <= ROUTE_START.len() {
            return false;
        }
        if !is_route(rest) {
            input.drain(..space);
            self.restarting = false;
            self.restart();
        }
        true
    }

    /// A stream header: answered with ours, and features.
    fn opened(&mut self, open: &[u8], out: &mut Vec<u8>, rng: &mut dyn RngCore) -> Step {
        let header = match Header::read(open) {
            Ok(header) => header,
            Err(fault) => {
                let (condition, text) = fault.condition();
                return self.refuse(out, condition, text, FailureKind::BadInput);
            }
        };
        if header.version.as_deref().is_some_and(|version| version != "1.0") {
            return self.refuse(out, "unsupported-version", None, FailureKind::Unsupported);
        }
        let id = std::mem::replace(&mut self.id, stream::new_id(rng));
        let versioned = header.version.is_some();
        let reply = Open {
            default_namespace: header.default_namespace.as_deref(),
            to: header.from.as_deref(),
            from: header.to.as_deref(),
            version: versioned,
            id: Some(&id),
        };
        stream::open(out, &reply);
        let (foreign, name, prefixes) = (header.is_foreign(), header.to.clone(), header.prefixes.clone());
        self.header = Some(header);
        match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Restarted { user } => {
                if versioned {
                    stream::features_none(out);
                }
                self.done(PeerKind::Native { user }, prefixes)
            }
            Phase::Sasl if foreign => self.opened_foreign(name, id, out),
            phase => {
                // A peer without a version gets no features (RFC 6120 4.7.5), as from the stock router.
                if versioned {
                    stream::features(out, self.config.starttls && !self.encrypted);
                }
                self.phase = phase;
                Step::Need
            }
        }
    }

    fn opened_foreign(&mut self, name: Option<String>, id: String, out: &mut Vec<u8>) -> Step {
        if self.config.secret.is_none() {
            let text = "support for legacy components not available";
            return self.refuse(out, "invalid-namespace", Some(text), FailureKind::Unsupported);
        }
        let Some(name) = name else {
            let text = "no 'to' attribute on stream header";
            return self.refuse(out, "host-unknown", Some(text), FailureKind::BadInput);
        };
        if name.is_empty() || name.contains(['@', '/']) {
            let text = "'to' of the stream header is not a domain";
            return self.refuse(out, "host-unknown", Some(text), FailureKind::BadInput);
        }
        self.phase = Phase::Handshake { name, id };
        Step::Need
    }

    fn frame(
        &mut self,
        frame: &[u8],
        input: &[u8],
        out: &mut Vec<u8>,
        secret_of: &dyn Fn(&str) -> Option<String>,
        rng: &mut dyn RngCore,
    ) -> Step {
        let Some(tag) = tag::read(frame, 0) else {
            return self.refuse(out, "xml-not-well-formed", Some("bad start tag"), FailureKind::BadInput);
        };
        let namespace = self.header.as_ref().and_then(|header| header.namespace_of(&tag));
        match (&self.phase, namespace.as_deref(), tag.local()) {
            (Phase::Handshake { .. }, Some(NS_ACCEPT), b"handshake") => self.handshake(frame, &tag, out),
            (Phase::Sasl, Some(NS_SASL), b"auth") => self.auth(&tag, out, rng),
            (Phase::Sasl, Some(NS_SASL), b"response") => self.response(frame, &tag, out, secret_of),
            (Phase::Sasl, Some(NS_SASL), b"abort") => {
                self.nonce = None;
                self.sasl_failure(out, "<aborted></aborted>", None, "SASL exchange aborted")
            }
            (Phase::Sasl, Some(NS_TLS), b"starttls") if self.config.starttls && !self.encrypted => {
                self.starttls(input, out)
            }
            _ => {
                let text = "authenticate first";
                self.refuse(out, "not-authorized", Some(text), FailureKind::Auth)
            }
        }
    }

    /// What stands behind the request in the clear would be taken for encrypted input: refused (RFC 6120 5.4.3.3).
    fn starttls(&mut self, behind: &[u8], out: &mut Vec<u8>) -> Step {
        if behind.iter().any(|byte| !tag::is_space(*byte)) {
            let text = "data behind starttls";
            return self.refuse(out, "policy-violation", Some(text), FailureKind::BadInput);
        }
        put(out, &["<proceed xmlns='", NS_TLS, "'/>"]);
        Step::StartTls
    }

    fn auth(&mut self, tag: &Tag<'_>, out: &mut Vec<u8>, rng: &mut dyn RngCore) -> Step {
        self.nonce = None;
        if tag
            .attribute("mechanism")
            .is_none_or(|mechanism| mechanism.0 != sasl::MECHANISM.as_bytes())
        {
            let reason = "SASL mechanism is not DIGEST-MD5";
            return self.sasl_failure(out, "<invalid-mechanism></invalid-mechanism>", None, reason);
        }
        let nonce = sasl::new_nonce(rng);
        let challenge = sasl::challenge(&self.config.realm, &nonce);
        put(out, &["<challenge xmlns='", NS_SASL, "'>", &challenge, "</challenge>"]);
        self.nonce = Some(nonce);
        Step::Need
    }

    fn response(
        &mut self,
        frame: &[u8],
        tag: &Tag<'_>,
        out: &mut Vec<u8>,
        secret_of: &dyn Fn(&str) -> Option<String>,
    ) -> Step {
        // Taken, so that no nonce serves twice.
        let Some(nonce) = self.nonce.take() else {
            let text = "response send before auth request enabling mechanism";
            return self.sasl_failure(
                out,
                "<mechanism-too-weak/>",
                Some(text),
                "SASL response without a challenge",
            );
        };
        let text = tag::text(frame, tag).ok_or(Refused::Encoding);
        match text.and_then(|text| sasl::verify(text, &self.config.realm, &nonce, secret_of)) {
            Ok(accepted) => {
                put(
                    out,
                    &["<success xmlns='", NS_SASL, "'>", &accepted.success, "</success>"],
                );
                self.phase = Phase::Restarted { user: accepted.user };
                self.restarting = true;
                Step::Need
            }
            Err(Refused::NotAuthorized) => {
                let text = "Error authenticating user";
                self.sasl_failure(out, "<not-authorized/>", Some(text), "wrong user or password")
            }
            Err(Refused::Encoding) => {
                let text = "Base 64 coding error in SASL library";
                self.sasl_failure(out, "<incorrect-encoding/>", Some(text), "SASL response is not base64")
            }
            Err(Refused::Malformed) => {
                let text = "SASL mechanism could not parse input";
                self.sasl_failure(out, "<invalid-mechanism/>", Some(text), "bad SASL response")
            }
        }
    }

    fn handshake(&mut self, frame: &[u8], tag: &Tag<'_>, out: &mut Vec<u8>) -> Step {
        let Phase::Handshake { name, id } = std::mem::replace(&mut self.phase, Phase::Over) else {
            return self.refuse(out, "not-authorized", None, FailureKind::Auth);
        };
        let theirs = tag::text(frame, tag).unwrap_or_default();
        let ours = self
            .config
            .secret
            .as_deref()
            .map(|secret| handshake::digest(&id, secret));
        if ours.is_some_and(|ours| handshake::same(ours.as_bytes(), theirs)) {
            put(out, &["<handshake xmlns='", NS_ACCEPT, "'></handshake>"]);
            let prefixes = self
                .header
                .as_ref()
                .map(|header| header.prefixes.clone())
                .unwrap_or_default();
            return self.done(
                PeerKind::Foreign {
                    name,
                    prefixes: prefixes.clone(),
                },
                prefixes,
            );
        }
        let text = match theirs.len() {
            HANDSHAKE_CHARS => "hash didn't match, auth failed",
            _ => "handshake isn't long enough to be a sha1 hash",
        };
        self.refuse(out, "not-authorized", Some(text), FailureKind::Auth)
    }

    fn done(&mut self, kind: PeerKind, prefixes: Prefixes) -> Step {
        self.phase = Phase::Over;
        let scanner = std::mem::replace(&mut self.scanner, Scanner::new(self.config.limits));
        Step::Done(Peer {
            kind,
            scanner,
            prefixes,
            early: std::mem::take(&mut self.early),
        })
    }

    /// A new XML document follows.
    fn restart(&mut self) {
        self.scanner = Scanner::new(self.config.limits);
        self.header = None;
    }

    /// A SASL failure: the stream stays open for another try, until there were too many.
    fn sasl_failure(&mut self, out: &mut Vec<u8>, condition: &str, text: Option<&str>, reason: &str) -> Step {
        put(out, &["<failure xmlns='", NS_SASL, "'>", condition]);
        if let Some(text) = text {
            put(out, &["<text>", text, "</text>"]);
        }
        put(out, &["</failure>"]);
        self.failures = self.failures.saturating_add(1);
        if self.failures < self.config.tries_max {
            return Step::Need;
        }
        stream::close(out);
        self.fail(FailureKind::Auth, format!("{reason} ({} failed tries)", self.failures))
    }

    fn too_much(&mut self, out: &mut Vec<u8>) -> Step {
        let text = "too much data before authentication";
        self.refuse(out, "policy-violation", Some(text), FailureKind::BadInput)
    }

    /// A stream error, in a stream of ours.
    fn refuse(&mut self, out: &mut Vec<u8>, condition: &str, text: Option<&str>, kind: FailureKind) -> Step {
        match self.header {
            Some(_) => stream::error(out, condition, text),
            None => stream::error_unopened(out, condition, text),
        }
        self.fail(
            kind,
            text.map_or(condition.to_owned(), |text| format!("{condition}: {text}")),
        )
    }

    fn closed(&mut self, out: &mut Vec<u8>) -> Step {
        stream::close(out);
        self.fail(FailureKind::Closed, "stream closed before authentication".to_owned())
    }

    fn fail(&mut self, kind: FailureKind, reason: String) -> Step {
        self.phase = Phase::Over;
        Step::Failed(Failure { reason, kind })
    }
}

const ROUTE_START: &[u8] = b"<route";

/// Looks like a route as jabberd2's components write it. Whether it is one is told once it counts.
fn is_route(bytes: &[u8]) -> bool {
    bytes.starts_with(ROUTE_START) && bytes.get(ROUTE_START.len()).is_some_and(|byte| tag::is_space(*byte))
}
