//! What a peer tells the node.

use super::super::conn::Side;
use super::super::hello::Address;
use super::super::lane::send::Unacknowledged;
use super::super::{Lane, Level, LinkId, Micros};
use super::DialId;
use serde::{Deserialize, Serialize};

/// What a [`Peer`](super::Peer) asks for and reports. Taken with [`Peer::poll`](super::Peer::poll) after every call.
#[derive(Debug)]
pub enum PeerEvent {
    /// Call [`Peer::take_output`](super::Peer::take_output) when no write of this link is in flight, until it gives
    /// nothing.
    WantsOutput(LinkId),
    /// Write what [`Peer::take_output`](super::Peer::take_output) still gives, then close the socket and report it.
    CloseLink(LinkId),
    /// Throw away what is unsent and reset the connection (`SO_LINGER` of 0), then report it closed: the peer was
    /// declared dead, its messages go elsewhere, and the kernel must not deliver them after all.
    AbortLink(LinkId),
    /// Connect to this address, resolved now, within [`DIAL_US_MAX`](super::DIAL_US_MAX), then say
    /// [`Peer::dialled`](super::Peer::dialled) or [`Peer::dial_failed`](super::Peer::dial_failed).
    Dial {
        /// To be given back.
        dial: DialId,
        /// Where.
        address: Address,
    },
    /// The peer is reached: for the first time, or after it was lost.
    Up {
        /// Its life.
        incarnation: u64,
        /// The version of the protocol that both speak.
        version: u8,
    },
    /// No connection reaches the peer. Nothing is lost yet: messages are kept, and [`PeerEvent::Up`] follows if it
    /// returns.
    Lost(Loss),
    /// The peer proved that it lives, though it is lost: over a connection that did not come to serve, or serves another
    /// lane than control. Also said before [`PeerEvent::Lost`].
    Heard {
        /// When.
        at: Micros,
    },
    /// Both directions of all lanes started anew; the peer gets none of what stood in the old ones.
    Anew {
        /// Why.
        cause: AnewCause,
        /// The peer's life from now on.
        incarnation: u64,
        /// What it did not acknowledge, by lane number. It may have handled some of it.
        unacknowledged: [Unacknowledged; Lane::ALL.len()],
    },
    /// A message of the membership protocol came.
    Datagram(Vec<u8>),
    /// A line for the log.
    Log(Level, String),
    /// Something that an operator must look at.
    Alarm(String),
}

/// How a peer was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Loss {
    /// Its machine answers, and the process is not there: it may be restarting.
    Process,
    /// Nothing comes from it: its machine or the way to it may be dead. Membership decides.
    Silent,
    /// It said that it stops.
    Left,
    /// It said that it restarts.
    Restarting,
}

/// Why lanes start anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnewCause {
    /// The peer's process is a new one.
    NewIncarnation,
    /// The peer had declared this node dead.
    DeclaredDead,
    /// What the peer sent cannot be read.
    Broken,
}

/// A peer as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Its name.
    pub name: String,
    /// Its life, once known.
    pub incarnation: Option<u64>,
    /// Version of the protocol, once known.
    pub version: Option<u8>,
    /// It is reached.
    pub up: bool,
    /// Smoothed round trip, once measured.
    pub round_trip_us: Option<Micros>,
    /// By lane number.
    pub lanes: [LaneStatus; Lane::ALL.len()],
    /// What happened so far.
    pub counters: PeerCounters,
}

/// A lane as an operator sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LaneStatus {
    /// The side that opened the connection that serves it.
    pub served_by: Option<Side>,
    /// The link that serves it, if that is [`Reach::Relayed`](super::Reach::Relayed).
    pub relayed: Option<LinkId>,
    /// Bytes or a question are unanswered for too long.
    pub stuck: bool,
    /// Bytes kept for the peer.
    pub queued_bytes: u64,
    /// Of these, sent and not acknowledged.
    pub in_flight_bytes: u64,
    /// What the peer takes beyond the bytes sent so far.
    pub credit_bytes: u64,
    /// Bytes wait, and the peer takes nothing more at present.
    pub out_of_credit: bool,
    /// Bytes that came and wait to be taken.
    pub waiting_bytes: u64,
}

/// What a peer counted; all of it only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerCounters {
    /// Messages queued.
    pub messages_sent: u64,
    /// Messages given out.
    pub messages_received: u64,
    /// Messages refused because the queue was full.
    pub messages_refused: u64,
    /// Bytes of the streams that came twice and were skipped.
    pub bytes_repeated: u64,
    /// Connections that took a lane over.
    pub connections: u64,
    /// Dials begun.
    pub dials: u64,
    /// Connections that ended with an error.
    pub errors: u64,
    /// Membership messages dropped for want of a connection or room.
    pub datagrams_dropped: u64,
}
