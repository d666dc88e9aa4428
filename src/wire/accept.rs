//! The server side of a stream, from its first byte until the peer is authenticated (RFC 6120 4 and 6, XEP-0114 3).

use super::foreign::Prefixes;
use super::scan::{Limits, Scanner};
use rand_core::RngCore;
use std::sync::Arc;

/// What all links of one listener are negotiated with.
#[derive(Clone, Debug)]
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

/// Most bytes a peer may send before it is authenticated.
pub const UNAUTHENTICATED_BYTES_MAX: usize = 64 * 1024;

/// What [`Accept::feed`] came to.
#[derive(Debug)]
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
}

/// Who authenticated.
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// One link's negotiation.
#[derive(Debug)]
pub struct Accept {}

#[allow(unused_variables)]
impl Accept {
    /// A link that was just accepted. `rng` gives the stream's id.
    pub fn new(config: Arc<AcceptConfig>, rng: &mut dyn RngCore) -> Accept {
        Accept {}
    }
    /// After [`Step::StartTls`]: the link is encrypted, and the peer opens a fresh stream.
    pub fn tls_started(&mut self) {}
    /// Consumes from the front of `input`; appends what must be sent to `out`. `secret_of(user)` is the user's secret.
    pub fn feed(
        &mut self,
        input: &mut Vec<u8>,
        out: &mut Vec<u8>,
        secret_of: &dyn Fn(&str) -> Option<String>,
        rng: &mut dyn RngCore,
    ) -> Step {
        Step::Need
    }
}
