//! What a shard tells of itself when asked; merged over the shards by `operate`.

use super::counters::Counters;
use serde::{Deserialize, Serialize};

/// A shard's state at one moment.
#[derive(Clone, Debug, Default)]
pub struct ShardReport {
    /// Which shard.
    pub shard: u16,
    /// Its counters.
    pub counters: Counters,
    /// The component seats whose home is this shard.
    pub seats: Vec<SeatReport>,
    /// Names as this shard knows them (every shard holds all of them).
    pub names: Vec<NameReport>,
    /// Links that have not authenticated yet.
    pub links_negotiating: u64,
    /// It lets no component in yet, as it has not heard from the other nodes. Shard 0 knows.
    pub syncing: bool,
    /// Users in this shard's slice of the table.
    pub users: u64,
    /// Sessions in this shard's slice.
    pub sessions: u64,
    /// Of these, available ones.
    pub sessions_available: u64,
    /// Session starts not answered yet.
    pub starts_pending: u64,
    /// Bytes of frames held while a placement is in flight.
    pub held_bytes: u64,
    /// The other nodes; `None` without `<mesh>`.
    pub mesh: Option<MeshReport>,
    /// While this node drains.
    pub drain: Option<DrainReport>,
    /// The stock router; `None` without `<uplink>`, and of shards other than 0.
    pub uplink: Option<UplinkReport>,
    /// Traces that operators of this and other nodes have under way.
    pub traces: u64,
}

/// How far a drain is.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DrainReport {
    /// Sessions that are ended a second, by all shards together.
    pub rate_per_s: u32,
    /// The node that takes the users; empty: any.
    pub to: String,
    /// When it began, microseconds of the monotonic clock.
    pub began_us: u64,
    /// Sessions ended so far.
    pub ended: u64,
    /// Sessions still to be ended in this round.
    pub left: u64,
    /// Rounds after this one.
    pub rounds_left: u32,
    /// c2s takes no more clients.
    pub done: bool,
}

/// The connections to the stock router that this node is attached to.
#[derive(Clone, Debug, Default, Serialize)]
pub struct UplinkReport {
    /// Its address.
    pub router: String,
    /// Connections that there should be.
    pub lines: u64,
    /// Connections that serve.
    pub lines_up: u64,
    /// Bytes that wait for it.
    pub queue_bytes: u64,
    /// Names that were bound there.
    pub names: u64,
    /// Names that it refused, or that another of its components has.
    pub refused: Vec<String>,
}

/// The other nodes, as one shard knows them.
#[derive(Clone, Debug, Default, Serialize)]
pub struct MeshReport {
    /// The cluster's name.
    pub cluster: String,
    /// This node's life, in hexadecimal.
    pub incarnation: String,
    /// No other node is reached, though there should be some. Shard 0 knows.
    pub alone: bool,
    /// Every node that was heard of since the start.
    pub members: Vec<MemberReport>,
    /// Configured peers where no node was found yet. Shard 0 knows.
    pub unreached: Vec<UnreachedReport>,
}

/// Another node.
#[derive(Clone, Debug, Default, Serialize)]
pub struct MemberReport {
    /// Its name.
    pub name: String,
    /// `joining`: it tells what it has; `ready`: it has told everything, and takes part in ownership; `stalled`: the
    /// same, but nothing gets through at present; `gone`.
    pub state: &'static str,
    /// Users of it that are known; of one shard: in its slice.
    pub rows: u64,
    /// Components of it that are known.
    pub seats: u64,
    /// The transport to it. The shard that serves it knows.
    pub link: Option<PeerLinkReport>,
}

/// The transport to another node.
#[derive(Clone, Debug, Default, Serialize)]
pub struct PeerLinkReport {
    /// The shard that serves it.
    pub shard: u16,
    /// The node's life, in hexadecimal, once known.
    pub incarnation: Option<String>,
    /// The version of the protocol that both speak, once known.
    pub version: Option<u8>,
    /// A connection reaches it.
    pub up: bool,
    /// Smoothed round trip, once measured.
    pub round_trip_us: Option<u64>,
    /// It has told all that it had to tell at first.
    pub has_told: bool,
    /// It was told all that this node had to tell at first.
    pub was_told: bool,
    /// Control and data.
    pub lanes: Vec<LaneReport>,
    /// Messages queued for it.
    pub messages_sent: u64,
    /// Messages that came from it.
    pub messages_received: u64,
    /// Messages that its queue had no room for.
    pub messages_refused: u64,
    /// Bytes that came twice and were skipped.
    pub bytes_repeated: u64,
    /// Connections that took a lane over.
    pub connections: u64,
    /// Dials begun.
    pub dials: u64,
    /// Connections that ended with an error.
    pub errors: u64,
}

/// A lane to another node.
#[derive(Clone, Debug, Default, Serialize)]
pub struct LaneReport {
    /// `control` or `data`.
    pub lane: &'static str,
    /// A connection serves it, and is not stuck.
    pub served: bool,
    /// The node through which that connection goes, when the two do not reach each other themselves.
    pub relay: Option<String>,
    /// Bytes kept for the node.
    pub queue_bytes: u64,
    /// Of these, sent and not acknowledged.
    pub in_flight_bytes: u64,
    /// What the node takes beyond the bytes sent so far.
    pub credit_bytes: u64,
    /// Bytes wait, and the node takes nothing more at present.
    pub out_of_credit: bool,
    /// Bytes that came and wait to be handled.
    pub waiting_bytes: u64,
}

/// A configured peer where no node was found yet.
#[derive(Clone, Debug, Serialize)]
pub struct UnreachedReport {
    /// Its address.
    pub address: String,
    /// What the last dial came to.
    pub why: String,
}

/// A component at the router.
#[derive(Clone, Debug, Serialize)]
pub struct SeatReport {
    /// Its first bound name.
    pub id: String,
    /// `sm`, `c2s`, `s2s`, `xep-0114`, `foreign`.
    pub kind: &'static str,
    /// `connected`, or `lost` while its grace period runs.
    pub state: &'static str,
    /// Peer address of its link.
    pub remote: String,
    /// The user it authenticated as.
    pub user: String,
    /// The shard that serves it.
    pub shard: u16,
    /// Whether its link is under TLS.
    pub tls: bool,
    /// Bytes that wait for it.
    pub queue_bytes: u64,
    /// Frames read from it, and queued for it, over all its links.
    pub frames_in: u64,
    /// Frames queued for it.
    pub frames_out: u64,
    /// Clients (of a c2s) or sessions (of an sm).
    pub sessions: u64,
    /// How often it came back within its grace period.
    pub returns: u64,
    /// Microseconds of the monotonic clock when its present link came.
    pub since_us: u64,
}

/// A bound name.
#[derive(Clone, Debug, Serialize)]
pub struct NameReport {
    /// The name.
    pub name: String,
    /// Ids of its holders, in order of binding.
    pub holders: Vec<String>,
    /// A domain whose users are placed (bound with `multi` by sm).
    pub clustered: bool,
    /// The default route.
    pub default_route: bool,
    /// A log sink.
    pub log_sink: bool,
    /// What it stands for, when it is an alias from the configuration.
    pub alias_of: Option<String>,
}

/// A link that is no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClosedReport {
    /// When its socket was gone, microseconds of the monotonic clock.
    pub closed_us: u64,
    /// How long it lived on the shard that closed it, microseconds.
    pub lived_us: u64,
    /// Id of its component, or name of the other node; empty for one that never said who it is.
    pub link: Box<str>,
    /// Its other end.
    pub remote: std::net::SocketAddr,
    /// The shard that served it.
    pub shard: u16,
    /// Why it ended, in an operator's words.
    pub reason: Box<str>,
}

/// Where a user is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WhereReport {
    /// Bare JID, prepared.
    pub jid: String,
    /// The node that serves him, or that decides who does.
    pub node: String,
    /// That node itself said so. Otherwise this is what its row here says: neither sm nor c2s stand in it.
    pub complete: bool,
    /// The sm that serves him; without a session the one that takes his messages.
    pub sm: Option<String>,
    /// It is the sm on duty: nothing ties him to it.
    pub is_duty: bool,
    /// His sessions.
    pub sessions: Vec<WhereSession>,
    /// Starts that are not answered yet.
    pub starts_pending: u64,
    /// Components that hold his domain as their name.
    pub holders: Vec<String>,
}

/// A session of a user.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WhereSession {
    /// Resource, prepared.
    pub resource: String,
    /// It sent available presence.
    pub available: bool,
    /// Of its last available presence; only the node that serves him knows.
    pub priority: Option<i8>,
    /// The c2s that holds its client; only the node that serves him knows.
    pub c2s: Option<String>,
}

/// What became of a probe from one shard of a node to a shard of a node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProbeReport {
    /// The node that asked.
    pub from: String,
    /// Its shard; `None`: nothing is known, as it did not answer.
    pub from_shard: Option<u16>,
    /// The node that was asked.
    pub to: String,
    /// Its shard; `None`: some of its shards did not answer.
    pub to_shard: Option<u16>,
    /// Microseconds there and back; `None`: no answer.
    pub round_trip_us: Option<u64>,
    /// The node through which it went, when the two do not reach each other themselves; the shard that serves the
    /// other node knows.
    pub relay: Option<String>,
}
