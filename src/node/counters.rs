//! Every counter of a shard, with its metric name: the only file that knows metric names.

macro_rules! counters {
    ($( $variant:ident $name:literal $labels:literal $help:literal; )*) => {
        /// A counter of one shard; it only grows.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Counter { $( #[doc = $help] $variant ),* }

        impl Counter {
            /// All of them, in the order of the metrics page.
            pub const ALL: &'static [Counter] = &[ $( Counter::$variant ),* ];

            /// It is counted for one frame, at the moment when that meets its fate: a trace tells it.
            #[inline]
            pub(super) const fn is_told_of_a_frame(self) -> bool {
                matches!(
                    self,
                    Counter::DropPeerQueue
                        | Counter::Bounce400
                        | Counter::Bounce401
                        | Counter::Bounce404
                        | Counter::BounceFilter
                        | Counter::BounceQueue
                        | Counter::DropErrorRoute
                        | Counter::DropUnknownType
                        | Counter::DropUnknownElement
                        | Counter::DropPresence
                        | Counter::DropDisco
                        | Counter::DropQueue
                        | Counter::DropGone
                        | Counter::DropStanza
                        | Counter::DropHops
                        | Counter::DropFarewell
                        | Counter::ErrorRepliesRouted
                        | Counter::FilterMatches
                        | Counter::HeldFrames
                        | Counter::InDoubt
                        | Counter::Returned
                        | Counter::StartsRefused
                        | Counter::ZombiesCleared
                )
            }

            /// Metric name, labels (`key="value"` or empty), help text.
            pub fn describe(self) -> (&'static str, &'static str, &'static str) {
                match self { $( Counter::$variant => ($name, $labels, $help) ),* }
            }
        }
    };
}

counters! {
    FramesIn "jidmesh_frames_received_total" "" "Frames read from component links.";
    BytesIn "jidmesh_bytes_received_total" "" "Bytes read from component links.";
    FramesOut "jidmesh_frames_sent_total" "" "Frames queued for component links.";
    BytesOut "jidmesh_bytes_sent_total" "" "Bytes written to component links.";
    LaneFrames "jidmesh_lane_frames_total" "" "Frames handed to another shard.";
    StallsData "jidmesh_lane_stalls_total" "lane=\"data\"" "Turns that ended with another shard's lane full; the next reads no link.";
    StallsControl "jidmesh_lane_stalls_total" "lane=\"control\"" "Turns that ended with another shard's lane full; the next reads no link.";
    LinksOpened "jidmesh_links_opened_total" "" "Component connections accepted.";
    LinksClosed "jidmesh_links_closed_total" "" "Component connections closed.";
    LinksReturned "jidmesh_links_returned_total" "" "Components that came back within their grace period.";
    LinksLost "jidmesh_links_lost_total" "" "Components that did not come back in time, or came back without their sessions.";
    LinksStalled "jidmesh_links_stalled_total" "" "Component connections closed because they took nothing for too long.";
    PeerLinksOpened "jidmesh_peer_links_opened_total" "" "Connections accepted on the mesh's port.";
    PeerRefused "jidmesh_peer_links_refused_total" "" "Connections on the mesh's port that were refused.";
    TunnelsAccepted "jidmesh_relay_connections_total" "" "Connections accepted from nodes that another node relays, as they cannot be reached.";
    RelayedBytes "jidmesh_relayed_bytes_total" "" "Bytes passed on between two other nodes that cannot reach each other.";
    RelayRefused "jidmesh_relay_refused_total" "" "Pieces of relayed connections that found no way on: the connections broke.";
    DropPeerQueue "jidmesh_dropped_total" "reason=\"peer-queue-full\"" "Frames dropped, by reason.";
    AuthFailed "jidmesh_auth_failed_total" "" "Refused authentications.";
    BadInput "jidmesh_bad_input_total" "" "Links closed for input that no XML parser would take, or over a limit.";
    Bounce400 "jidmesh_bounced_total" "code=\"400\"" "Frames sent back to their sender with an error.";
    Bounce401 "jidmesh_bounced_total" "code=\"401\"" "Frames sent back to their sender with an error.";
    Bounce404 "jidmesh_bounced_total" "code=\"404\"" "Frames sent back to their sender with an error.";
    BounceFilter "jidmesh_bounced_total" "code=\"filter\"" "Frames sent back to their sender with an error.";
    BounceQueue "jidmesh_bounced_total" "code=\"queue\"" "Frames sent back to their sender with an error.";
    DropErrorRoute "jidmesh_dropped_total" "reason=\"error-route\"" "Frames dropped, by reason.";
    DropUnknownType "jidmesh_dropped_total" "reason=\"unknown-type\"" "Frames dropped, by reason.";
    DropUnknownElement "jidmesh_dropped_total" "reason=\"unknown-element\"" "Frames dropped, by reason.";
    DropPresence "jidmesh_dropped_total" "reason=\"presence-for-offline\"" "Frames dropped, by reason.";
    DropDisco "jidmesh_dropped_total" "reason=\"disco-among-components\"" "Frames dropped, by reason.";
    DropQueue "jidmesh_dropped_total" "reason=\"queue-full\"" "Frames dropped, by reason.";
    DropGone "jidmesh_dropped_total" "reason=\"link-gone\"" "Frames dropped, by reason.";
    DropStanza "jidmesh_dropped_total" "reason=\"unaddressed-stanza\"" "Frames dropped, by reason.";
    DropHops "jidmesh_bounced_total" "code=\"hops\"" "Frames sent back to their sender with an error.";
    DropFarewell "jidmesh_dropped_total" "reason=\"untrue-farewell\"" "Frames dropped, by reason.";
    FarewellsUnknown "jidmesh_untrue_farewells_unknown_total" "" "Sessions of a lost sm whose farewells could not be remembered.";
    OrphansUnknown "jidmesh_orphans_unknown_total" "" "Sessions of a lost c2s that could not be remembered until their sm had ended them.";
    InDoubt "jidmesh_in_doubt_total" "" "Stanzas that a lost node may have handled: not repeated, and sent back unless presence.";
    Turns "jidmesh_turns_total" "" "Users whose way changed while something may have been under way to them.";
    Astray "jidmesh_astray_total" "" "Frames sent back to the node that they came from, which did not know yet who serves their user.";
    HealingProbes "jidmesh_healing_probes_total" "" "Probes sent for users who were out of reach and are back.";
    HealingNotesLost "jidmesh_healing_notes_lost_total" "" "Pictures of absent users that could not be noted.";
    Conflicts "jidmesh_conflicts_total" "" "Users whom two nodes served, and who were given up here.";
    ErrorRepliesRouted "jidmesh_error_replies_routed_total" "" "Error replies of an sm that reached the stanza's sender.";
    Returned "jidmesh_returned_total" "" "Messages for a client of a lost c2s, given to the user's sm once more.";
    SessionsStarted "jidmesh_sessions_started_total" "" "Sessions that came to be.";
    SessionsEnded "jidmesh_sessions_ended_total" "" "Sessions that ended.";
    SessionsDrained "jidmesh_sessions_drained_total" "" "Sessions ended since this node was being drained.";
    StartsRefused "jidmesh_starts_refused_total" "" "Session starts answered with an error.";
    ZombiesCleared "jidmesh_zombies_cleared_total" "" "Clients whose sm did not know them, ended.";
    RecoveredKept "jidmesh_recovered_sessions_total" "outcome=\"kept\"" "Sessions from before a crash, by whether they went on.";
    RecoveredCut "jidmesh_recovered_sessions_total" "outcome=\"cut\"" "Sessions from before a crash, by whether they went on.";
    GhostsCleared "jidmesh_ghosts_cleared_total" "" "Sessions whose c2s did not know them, ended.";
    Fences "jidmesh_fences_total" "" "Fences sent to an sm before a user moved to another.";
    HeldFrames "jidmesh_held_frames_total" "" "Frames held while a user's placement was in flight.";
    RedirectsIssued "jidmesh_redirects_total" "what=\"issued\"" "Redirects told to components that asked for them.";
    RedirectsWithdrawn "jidmesh_redirects_total" "what=\"withdrawn\"" "Redirects told to components that asked for them.";
    RedirectsEvicted "jidmesh_redirects_total" "what=\"evicted\"" "Redirects told to components that asked for them.";
    RedirectFrames "jidmesh_redirected_frames_total" "" "Frames that came by a redirect.";
    RedirectsStale "jidmesh_redirected_frames_stale_total" "" "Frames that came by a redirect which does not hold, routed as without it.";
    FilterMatches "jidmesh_filter_matches_total" "" "Frames that matched a filter rule.";
}

/// The counters of one shard.
#[derive(Clone, Debug)]
pub struct Counters([u64; Counter::ALL.len()]);

impl Default for Counters {
    fn default() -> Self {
        Counters([0; Counter::ALL.len()])
    }
}

impl Counters {
    /// Adds `n`.
    pub fn add(&mut self, counter: Counter, n: u64) {
        self.0[counter as usize] += n;
    }

    /// The value.
    pub fn get(&self, counter: Counter) -> u64 {
        self.0[counter as usize]
    }

    /// Adds another shard's counters.
    pub fn merge(&mut self, other: &Counters) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }
}

/// What `operate` computes from the shards' reports: metric name and help text of each gauge.
pub mod gauge {
    /// Name and help text.
    pub type Gauge = (&'static str, &'static str);

    /// Always 1; version and node in the labels.
    pub const BUILD_INFO: Gauge = ("jidmesh_build_info", "Version and node name; the value is always 1.");
    /// Seconds.
    pub const UPTIME: Gauge = ("jidmesh_uptime_seconds", "Seconds since the process started.");
    /// Shards the node runs.
    pub const SHARDS: Gauge = ("jidmesh_shards", "Shards this node runs.");
    /// Shards that answered.
    pub const SHARDS_ANSWERED: Gauge = (
        "jidmesh_shards_answered",
        "Shards that answered when this page was made.",
    );
    /// By kind and state.
    pub const LINKS: Gauge = ("jidmesh_links", "Component seats, by kind and state.");
    /// Links before the end of their authentication.
    pub const LINKS_NEGOTIATING: Gauge = (
        "jidmesh_links_negotiating",
        "Connections that have not authenticated yet.",
    );
    /// Bound names.
    pub const NAMES: Gauge = ("jidmesh_names", "Bound names.");
    /// Users with a session.
    pub const USERS: Gauge = ("jidmesh_users", "Users with at least one session.");
    /// Sessions.
    pub const SESSIONS: Gauge = ("jidmesh_sessions", "Sessions.");
    /// Available sessions.
    pub const SESSIONS_AVAILABLE: Gauge = ("jidmesh_sessions_available", "Sessions with available presence.");
    /// Starts in flight.
    pub const STARTS_PENDING: Gauge = ("jidmesh_starts_pending", "Session starts not answered yet.");
    /// Bytes for components.
    pub const QUEUE_BYTES: Gauge = ("jidmesh_queue_bytes", "Bytes that wait for a component to read them.");
    /// Bytes of held frames.
    pub const HELD_BYTES: Gauge = (
        "jidmesh_held_bytes",
        "Bytes of frames held while a placement is in flight.",
    );
    /// By state.
    pub const MESH_MEMBERS: Gauge = (
        "jidmesh_mesh_members",
        "Other nodes of the mesh that are known, by state.",
    );
    /// 0 or 1.
    pub const DRAINING: Gauge = ("jidmesh_draining", "1 while this node is being drained, or is drained.");
    /// Sessions.
    pub const DRAIN_LEFT: Gauge = (
        "jidmesh_drain_left",
        "Sessions that are still to be ended in this round of a drain.",
    );
    /// Addresses.
    pub const MESH_UNREACHED: Gauge = (
        "jidmesh_mesh_peers_unreached",
        "Configured peers where no node was found since the start.",
    );
    /// 0 or 1.
    pub const MESH_ALONE: Gauge = ("jidmesh_mesh_alone", "1 when no other node of the mesh is reached.");
    /// By peer.
    pub const PEER_ROWS: Gauge = ("jidmesh_peer_rows", "Users of this peer that are known here.");
    /// By peer.
    pub const PEER_SEATS: Gauge = ("jidmesh_peer_seats", "Components of this peer that are known here.");
    /// By peer, microseconds.
    pub const PEER_ROUND_TRIP: Gauge = (
        "jidmesh_peer_round_trip_microseconds",
        "Smoothed round trip to this peer.",
    );
    /// By peer and lane, bytes.
    pub const PEER_QUEUE_BYTES: Gauge = ("jidmesh_peer_queue_bytes", "Bytes kept for this peer.");
    /// By peer and lane, bytes.
    pub const PEER_IN_FLIGHT_BYTES: Gauge = (
        "jidmesh_peer_in_flight_bytes",
        "Bytes sent to this peer and not acknowledged.",
    );
    /// By peer and lane, bytes.
    pub const PEER_CREDIT_BYTES: Gauge = (
        "jidmesh_peer_credit_bytes",
        "Bytes that this peer takes beyond those sent so far.",
    );
    /// By peer and lane, 0 or 1.
    pub const PEER_LANE_SERVED: Gauge = (
        "jidmesh_peer_lane_served",
        "1 when a connection that is not stuck serves this lane.",
    );
    /// By peer and lane, 0 or 1.
    pub const PEER_LANE_RELAYED: Gauge = (
        "jidmesh_peer_lane_relayed",
        "1 when the connection that serves this lane goes through another node.",
    );
    /// By peer; a counter, though not a shard's, as are those below.
    pub const PEER_MESSAGES_SENT: Gauge = ("jidmesh_peer_messages_sent_total", "Messages queued for this peer.");
    /// By peer.
    pub const PEER_MESSAGES_RECEIVED: Gauge = (
        "jidmesh_peer_messages_received_total",
        "Messages that came from this peer.",
    );
    /// By peer.
    pub const PEER_MESSAGES_REFUSED: Gauge = (
        "jidmesh_peer_messages_refused_total",
        "Messages that this peer's queue had no room for.",
    );
    /// By peer, bytes.
    pub const PEER_BYTES_REPEATED: Gauge = (
        "jidmesh_peer_bytes_repeated_total",
        "Bytes that came twice from this peer and were skipped.",
    );
    /// By peer.
    pub const PEER_CONNECTIONS: Gauge = (
        "jidmesh_peer_connections_total",
        "Connections that took over a lane of this peer.",
    );
    /// By peer.
    pub const PEER_DIALS: Gauge = ("jidmesh_peer_dials_total", "Dials of this peer.");
    /// By peer.
    pub const PEER_ERRORS: Gauge = (
        "jidmesh_peer_errors_total",
        "Connections of this peer that ended with an error.",
    );
    /// By state.
    pub const UPLINK_LINES: Gauge = (
        "jidmesh_uplink_connections",
        "Connections to the stock router in attached mode, by whether they serve.",
    );
    /// Traces.
    pub const TRACES: Gauge = (
        "jidmesh_traces",
        "Traces under way, by operators of this and other nodes.",
    );
    /// A counter, though not a shard's.
    pub const LOG_LOST: Gauge = (
        "jidmesh_log_lost_total",
        "Log lines and message log entries that were lost.",
    );
}
