//! What a trace asks for, and what it tells: JSON for programs and for other nodes. A reader skips what it does not know.

use serde::{Deserialize, Serialize};

/// What an operator wants to follow. To be asked again and again: each time renews the lease and takes what happened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TraceAsk {
    /// Tells one trace of a node from another.
    pub id: u64,
    /// Stanzas from or to this user, session or service.
    pub jid: String,
    /// Only those that [`jid`](TraceAsk::jid) sends to this one.
    pub to: Option<String>,
    /// The whole stanzas, too.
    pub payload: bool,
    /// Follows no stanza, but shows the way that one to `jid` would go. Nothing is delivered.
    pub probe: bool,
    /// The sm-side ids of the user's sessions, as the former answer told them: between c2s and sm frames name no JID.
    pub tokens: Vec<String>,
    /// It ends.
    pub over: bool,
}

/// What happened since the former answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TraceShare {
    /// In no order.
    pub events: Vec<TraceEvent>,
    /// Events that were too many.
    pub left_out: u64,
    /// The sm-side ids of the user's sessions, as far as known.
    pub tokens: Vec<String>,
    /// The other nodes. Shard 0 of the node that was asked knows.
    pub nodes: Vec<TraceNode>,
}

/// Another node's part in a trace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TraceNode {
    /// Its name.
    pub node: String,
    /// It takes part.
    pub answers: bool,
    /// How far its times, as shown, may be off, microseconds: half the shortest round trip.
    pub error_us: u64,
}

/// One step of one stanza.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TraceEvent {
    /// When: on the way between nodes the clock of the node that says so, then that of the node that was asked
    /// (microseconds since it started).
    pub at_us: u64,
    /// Where.
    pub node: String,
    /// Where in it.
    pub shard: u16,
    /// Which stanza: equal for all steps of one, and for its equals; empty for a probe.
    pub key: String,
    /// What happened: `from` a component, to another `shard`, `queued` for a component, `written` to it, to another
    /// `node`, `from-node`, `held`, `dropped`, `bounced`, `noted`; of a probe also `way` and, at last, `end`.
    pub hop: String,
    /// Whom or what that concerns.
    pub what: String,
    /// Bytes that wait before it there.
    pub queue_bytes: Option<u64>,
    /// Element, type, id, from, to.
    pub stanza: String,
    /// Bytes of the whole frame.
    pub frame_bytes: u64,
    /// The stanza, as far as [`PAYLOAD_BYTES_MAX`] goes; only if asked for.
    pub payload: Option<String>,
}

/// Longest stanza that is shown whole, bytes.
pub const PAYLOAD_BYTES_MAX: usize = 4_096;
