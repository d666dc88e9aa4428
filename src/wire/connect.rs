//! The client side of a stream: uplink to a stock router, load generator, tests.

use super::scan::{Limits, Scanner};
use rand_core::RngCore;

/// As whom to log in.
#[derive(Clone, Debug)]
pub enum Connecting {
    /// As one of jabberd2's own components: SASL DIGEST-MD5.
    Native {
        /// SASL user name.
        user: String,
        /// Its secret.
        pass: String,
        /// Use STARTTLS where the router offers it.
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

/// What [`Connect::feed`] came to.
#[derive(Debug)]
pub enum ConnectStep {
    /// More input is needed.
    Need,
    /// Send what is in `out`, negotiate TLS as the client, then call [`Connect::tls_started`].
    StartTls,
    /// Authenticated. The router's features may still follow as a frame: ignore them.
    Done(Scanner),
    /// Refused, in words for the operator.
    Failed(String),
}

/// One login.
#[derive(Debug)]
pub struct Connect {}

#[allow(unused_variables)]
impl Connect {
    /// A login with the default limits.
    pub fn new(what: Connecting) -> Connect {
        Connect {}
    }
    /// A login whose authenticated stream has these limits.
    pub fn with_limits(what: Connecting, limits: Limits) -> Connect {
        Connect {}
    }
    /// Opens the stream.
    pub fn start(&mut self, out: &mut Vec<u8>) {}
    /// After [`ConnectStep::StartTls`]: opens the stream again, now encrypted.
    pub fn tls_started(&mut self, out: &mut Vec<u8>) {}
    /// Consumes from the front of `input`; appends what must be sent to `out`.
    pub fn feed(&mut self, input: &mut Vec<u8>, out: &mut Vec<u8>, rng: &mut dyn RngCore) -> ConnectStep {
        ConnectStep::Need
    }
}
