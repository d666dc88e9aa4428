//! The component protocol of jabberd2 as pure bytes.
//!
//! For: finding frame borders, reading the few attributes routing needs, editing frame heads,
//! negotiating a stream from both sides. Invariants: bytes in, bytes out; no input makes a
//! function here panic, loop without progress, or keep more than its named limit; whatever is
//! let through has the same frame borders for every XML parser.
//! Must never be added: routing decisions, tables, I/O, clocks, random sources.

pub mod accept;
pub mod connect;
pub mod copy;
pub mod edit;
pub mod foreign;
pub mod handshake;
pub mod header;
pub mod sasl;
pub mod scan;
pub mod stream;
mod tag;
pub mod validate;
pub mod value;

/// Namespace of the component protocol.
pub const NS_COMPONENT: &str = "http://jabberd.jabberstudio.org/ns/component/1.0";
/// Namespace of session control.
pub const NS_SESSION: &str = "http://jabberd.jabberstudio.org/ns/session/1.0";
/// Namespace of the stream root (RFC 6120).
pub const NS_STREAM: &str = "http://etherx.jabber.org/streams";
/// Namespace of stream error conditions (RFC 6120 4.9).
pub const NS_STREAM_ERROR: &str = "urn:ietf:params:xml:ns:xmpp-streams";
/// Namespace of stanza error conditions (RFC 6120 8.3).
pub const NS_STANZA_ERROR: &str = "urn:ietf:params:xml:ns:xmpp-stanzas";
/// Namespace of SASL (RFC 6120 6).
pub const NS_SASL: &str = "urn:ietf:params:xml:ns:xmpp-sasl";
/// Namespace of STARTTLS (RFC 6120 5).
pub const NS_TLS: &str = "urn:ietf:params:xml:ns:xmpp-tls";
/// Namespace of XEP-0114 external components.
pub const NS_ACCEPT: &str = "jabber:component:accept";
/// Namespace of client stanzas.
pub const NS_CLIENT: &str = "jabber:client";
