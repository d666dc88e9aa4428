//! What a shard tells of the other nodes when asked.

use super::peers::PeerView;
use crate::mesh::Lane;
use crate::mesh::peer::{LaneStatus, Peer, PeerStatus};
use crate::node::Shard;
use crate::node::lane::PeerState;
use crate::node::report::{LaneReport, MemberReport, MeshReport, PeerLinkReport, UnreachedReport};
use crate::table::PeerId;

impl PeerView {
    fn state_word(&self) -> &'static str {
        match self.state {
            PeerState::Gone | PeerState::Leaving => "gone",
            PeerState::Joining => "joining",
            PeerState::Ready => "ready",
            PeerState::Stalled => "stalled",
        }
    }
}

impl Shard {
    /// The other nodes, as this shard knows them.
    pub(in crate::node) fn report_mesh(&self) -> Option<MeshReport> {
        let (cluster, mesh) = (self.cluster.as_ref()?, self.config.mesh.as_ref()?);
        let hello = cluster.links.as_ref().map(|links| &links.local.hello);
        let members = (0..).map(PeerId).zip(&cluster.peers);
        Some(MeshReport {
            cluster: mesh.cluster.clone(),
            incarnation: hello.map_or_else(String::new, |hello| hex(hello.incarnation)),
            alone: cluster.alone.is_alone(),
            members: members.map(|(peer, view)| self.report_member(peer, view)).collect(),
            unreached: self.report_unreached(),
        })
    }

    /// Configured peers where no node was found yet.
    pub(super) fn report_unreached(&self) -> Vec<UnreachedReport> {
        let Some(cluster) = &self.cluster else {
            return Vec::new();
        };
        let links = cluster.links.iter();
        // A node that has come by itself is missing no more, though nobody has dialled its address with success yet.
        let is_here = |host: &str| {
            cluster
                .peers
                .iter()
                .any(|peer| *peer.name == *host && peer.is_reached())
        };
        links
            .flat_map(|links| links.probes.iter().filter_map(|probe| probe.unreached()))
            .filter(|(address, _)| !is_here(&address.host))
            .map(|(address, why)| UnreachedReport {
                address: address.to_string(),
                why: why.to_owned(),
            })
            .collect()
    }

    fn report_member(&self, peer: PeerId, view: &PeerView) -> MemberReport {
        let cluster = self.cluster.as_ref();
        let transport = cluster.and_then(|cluster| cluster.links.as_ref()?.transports.get(&peer));
        MemberReport {
            name: view.name.to_string(),
            state: view.state_word(),
            rows: cluster.map_or(0, |cluster| cluster.rows.len_of(peer) as u64),
            seats: self.seats_of(peer).len() as u64,
            link: transport.map(|transport| self.report_transport(peer, view, transport)),
        }
    }

    fn report_transport(&self, peer: PeerId, view: &PeerView, transport: &Peer) -> PeerLinkReport {
        let PeerStatus {
            incarnation,
            version,
            up,
            round_trip_us,
            lanes,
            counters,
            ..
        } = transport.status();
        let home = self.cluster.as_ref().and_then(|cluster| cluster.homes.get(&peer));
        PeerLinkReport {
            shard: self.id,
            incarnation: incarnation.map(hex),
            version,
            up,
            round_trip_us,
            has_told: view.is_ready(),
            was_told: home.is_some_and(|home| home.rows_missing == 0),
            lanes: Lane::ALL
                .iter()
                .zip(&lanes)
                .map(|(lane, status)| self.report_lane(*lane, status))
                .collect(),
            messages_sent: counters.messages_sent,
            messages_received: counters.messages_received,
            messages_refused: counters.messages_refused,
            bytes_repeated: counters.bytes_repeated,
            connections: counters.connections,
            dials: counters.dials,
            errors: counters.errors,
        }
    }

    fn report_lane(&self, lane: Lane, status: &LaneStatus) -> LaneReport {
        LaneReport {
            lane: lane.word(),
            served: status.served_by.is_some() && !status.stuck,
            relay: status.relayed.and_then(|link| self.relay_of(link)),
            queue_bytes: status.queued_bytes,
            in_flight_bytes: status.in_flight_bytes,
            credit_bytes: status.credit_bytes,
            out_of_credit: status.out_of_credit,
            waiting_bytes: status.waiting_bytes,
        }
    }
}

/// Incarnations are random: as numbers they would not survive every reader of JSON.
fn hex(incarnation: u64) -> String {
    format!("{incarnation:016x}")
}
