//! What a shard tells of itself when asked; merged over the shards by `operate`.

use super::counters::Counters;
use serde::Serialize;

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
