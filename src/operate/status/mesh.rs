//! The mesh's part of `jidmesh status`: members, and what is missing.

use super::View;
use super::render::{bytes, clean, table};
use serde::Deserialize;
use std::fmt::Write;

/// What of [`MeshReport`](crate::node::report::MeshReport) is shown.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(in crate::operate) struct Mesh {
    pub(in crate::operate) cluster: String,
    pub(in crate::operate) incarnation: String,
    pub(in crate::operate) alone: bool,
    pub(in crate::operate) members: Vec<Member>,
    pub(in crate::operate) unreached: Vec<Unreached>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(in crate::operate) struct Member {
    pub(in crate::operate) name: String,
    pub(in crate::operate) state: String,
    pub(in crate::operate) rows: u64,
    pub(in crate::operate) seats: u64,
    pub(in crate::operate) link: Option<Link>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(in crate::operate) struct Link {
    pub(in crate::operate) shard: u16,
    pub(in crate::operate) incarnation: Option<String>,
    pub(in crate::operate) round_trip_us: Option<u64>,
    pub(in crate::operate) has_told: bool,
    pub(in crate::operate) was_told: bool,
    pub(in crate::operate) lanes: Vec<Lane>,
    pub(in crate::operate) messages_sent: u64,
    pub(in crate::operate) messages_received: u64,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(in crate::operate) struct Lane {
    pub(in crate::operate) served: bool,
    pub(in crate::operate) relay: Option<String>,
    pub(in crate::operate) queue_bytes: u64,
    pub(in crate::operate) in_flight_bytes: u64,
    pub(in crate::operate) credit_bytes: u64,
    pub(in crate::operate) out_of_credit: bool,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(in crate::operate) struct Unreached {
    pub(in crate::operate) address: String,
    pub(in crate::operate) why: String,
}

/// Appends the mesh's lines and its table.
pub(super) fn show(mesh: &Mesh, view: &View, out: &mut String) {
    let counter = |name: &str| view.counters.iter().find(|c| c.name == name).map_or(0, |c| c.value);
    let ready = mesh.members.iter().filter(|member| member.state == "ready").count();
    let _ = writeln!(
        out,
        "mesh     {}, incarnation {}: {} of {} other nodes ready; {} conflicts resolved, {} turns",
        clean(&mesh.cluster),
        clean(&mesh.incarnation),
        ready,
        mesh.members.len(),
        counter("jidmesh_conflicts_total"),
        counter("jidmesh_turns_total"),
    );
    if mesh.alone {
        let _ = writeln!(
            out,
            "         ALONE: no other node is reached, this one serves its own users only"
        );
    }
    for peer in &mesh.unreached {
        let _ = writeln!(out, "missing  {}: {}", clean(&peer.address), clean(&peer.why));
    }
    out.push('\n');
    members(&mesh.members, out);
}

fn members(members: &[Member], out: &mut String) {
    const HEAD: [&str; 10] = [
        "MEMBER",
        "STATE",
        "INCARNATION",
        "RTT",
        "USERS",
        "SEATS",
        "SYNC",
        "CONTROL LANE",
        "DATA LANE",
        "SHARD",
    ];
    let none = Link::default();
    let row = |member: &Member| {
        let link = member.link.as_ref().unwrap_or(&none);
        [
            clean(&member.name),
            clean(&member.state),
            link.incarnation.as_deref().map_or("-".into(), clean),
            link.round_trip_us.map_or("-".into(), millis),
            member.rows.to_string(),
            member.seats.to_string(),
            sync(member, link),
            lane(link.lanes.first()),
            lane(link.lanes.get(1)),
            link.shard.to_string(),
        ]
    };
    table(
        HEAD,
        "no other node was heard of",
        &members.iter().map(row).collect::<Vec<_>>(),
        out,
    );
}

/// How far the two nodes know each other's rows: changes on their way count, what waits to be sent does.
pub(in crate::operate) fn sync(member: &Member, link: &Link) -> String {
    let behind = link.lanes.first().map_or(0, |control| control.queue_bytes);
    match (link.has_told, link.was_told) {
        _ if member.state == "gone" => "-".into(),
        (false, false) => "both to tell".into(),
        (false, true) => "it has to tell".into(),
        (true, false) => "to be told".into(),
        (true, true) if behind > 0 => format!("{} behind", bytes(behind)),
        (true, true) => "equal".into(),
    }
}

/// Bytes kept, of these in flight, and credit; that nothing serves the lane, or through which node.
fn lane(lane: Option<&Lane>) -> String {
    let Some(lane) = lane else { return "-".into() };
    let state = match lane {
        Lane { served: false, .. } => ", down",
        Lane {
            out_of_credit: true, ..
        } => ", blocked",
        _ => "",
    };
    let relay = lane.relay.as_ref().map(|relay| format!(", through {}", clean(relay)));
    format!(
        "{} ({} in flight, credit {}){state}{}",
        bytes(lane.queue_bytes),
        bytes(lane.in_flight_bytes),
        bytes(lane.credit_bytes),
        relay.unwrap_or_default()
    )
}

/// Microseconds, as people compare networks.
pub(in crate::operate) fn millis(us: u64) -> String {
    format!("{}.{:02} ms", us / 1_000, us % 1_000 / 10)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::render::tables;

    #[test]
    fn members_and_what_is_missing_are_shown() {
        let json = r#"{"node":"a","mesh":{"cluster":"c","incarnation":"0f","alone":false,
            "members":[{"name":"b","state":"ready","rows":7,"seats":3,"link":{"shard":1,"incarnation":"1e","round_trip_us":1234,
                        "has_told":true,"was_told":true,"lanes":[{"lane":"control","served":true,"credit_bytes":1024},
                        {"lane":"data","served":true,"relay":"f","queue_bytes":2048,"in_flight_bytes":1,"out_of_credit":true}]}},
                       {"name":"d","state":"gone"}],
            "unreached":[{"address":"e:5348","why":"nobody listens there"}]},
            "counters":[{"name":"jidmesh_conflicts_total","value":4},{"name":"jidmesh_turns_total","value":5}]}"#;
        let text = tables(&serde_json::from_str(json).unwrap());
        for said in [
            "mesh     c, incarnation 0f: 1 of 2 other nodes ready; 4 conflicts resolved, 5 turns",
            "missing  e:5348: nobody listens there",
        ] {
            assert!(text.lines().any(|line| line == said), "{said}\n{text}");
        }
        let row = text.lines().find(|line| line.starts_with("b ")).unwrap();
        for cell in [
            "ready",
            "1e",
            "1.23 ms",
            "  7  ",
            "equal",
            "2.0 KiB (1 B in flight, credit 0 B), blocked, through f",
        ] {
            assert!(row.contains(cell), "{cell}\n{row}");
        }
        assert!(!text.contains("ALONE"), "{text}");
        let alone = tables(&serde_json::from_str(r#"{"mesh":{"alone":true}}"#).unwrap());
        assert!(
            alone.contains("ALONE") && alone.contains("no other node was heard of"),
            "{alone}"
        );
        assert!(!tables(&serde_json::from_str("{}").unwrap()).contains("\nmesh "));
    }
}
