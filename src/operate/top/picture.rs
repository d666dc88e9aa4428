//! What one picture shows: the present state, and rates since the former one.

use crate::operate::sample::{Busy, Samples};
use crate::operate::status::mesh::{Link, Member, sync};
use crate::operate::status::{Counter, Seat, View, bytes, clean, millis, span};

/// Lines and tables, ready to be drawn.
#[derive(Debug, Default)]
pub(super) struct Picture {
    /// Nothing to look at.
    pub(super) healthy: bool,
    pub(super) head: Vec<String>,
    /// Empty without a mesh.
    pub(super) members: Vec<[String; 8]>,
    /// The busiest first.
    pub(super) links: Vec<[String; 9]>,
    /// One line a shard: its links and their frames.
    pub(super) shards: Vec<[String; 4]>,
    /// What was dropped, sent back, or else went wrong, the most frequent first.
    pub(super) losses: Vec<[String; 3]>,
    /// How long frames were in this node.
    pub(super) paths: Vec<[String; 5]>,
    /// Who they were from, and to, the busiest first.
    pub(super) jids: Vec<[String; 4]>,
    pub(super) names: Vec<[String; 4]>,
}

pub(super) const MEMBERS: [&str; 8] = ["NODE", "STATE", "RTT", "USERS", "SYNC", "SENT/s", "GOT/s", "QUEUE"];
pub(super) const LINKS: [&str; 9] = [
    "LINK", "KIND", "STATE", "SHARD", "IN/s", "OUT/s", "QUEUE", "SESSIONS", "NAMES",
];
pub(super) const SHARDS: [&str; 4] = ["SHARD", "LINKS", "IN/s", "OUT/s"];
pub(super) const LOSSES: [&str; 3] = ["WHAT WENT WRONG", "/s", "IN ALL"];
pub(super) const PATHS: [&str; 5] = ["PATH", "FRAMES/s", "P50 us", "P99 us", "MAX us"];
pub(super) const JIDS: [&str; 4] = ["FROM/s", "BUSIEST JIDS", "TO/s", "BUSIEST JIDS"];
pub(super) const NAMES: [&str; 4] = ["FROM/s", "BUSIEST NAMES", "TO/s", "BUSIEST NAMES"];

/// Most rows of the busiest.
const BUSIEST_MAX: usize = 4;

/// Counters beside those of frames dropped and sent back that tell of trouble.
const TROUBLE: [&str; 9] = [
    "jidmesh_auth_failed_total",
    "jidmesh_bad_input_total",
    "jidmesh_conflicts_total",
    "jidmesh_in_doubt_total",
    "jidmesh_links_lost_total",
    "jidmesh_links_stalled_total",
    "jidmesh_peer_links_refused_total",
    "jidmesh_starts_refused_total",
    "jidmesh_zombies_cleared_total",
];

impl Picture {
    /// `former`: an earlier state, from which rates are made.
    pub(super) fn of(former: Option<&View>, now: &View, samples: &Samples) -> Picture {
        // Another process has begun anew.
        let former = former.filter(|former| former.pid == now.pid && former.uptime_us < now.uptime_us);
        let rates = Rates { former, now };
        Picture {
            healthy: now.health == "ok",
            head: rates.head(),
            members: rates.members(),
            links: rates.links(),
            shards: rates.shards(),
            losses: rates.losses(),
            paths: paths(samples),
            jids: side_by_side(&samples.jids_from, &samples.jids_to),
            names: side_by_side(&samples.names_from, &samples.names_to),
        }
    }
}

fn paths(samples: &Samples) -> Vec<[String; 5]> {
    let paths = samples.paths.iter().map(|path| {
        [
            clean(&path.path),
            path.frames_per_s.to_string(),
            path.p50_us.to_string(),
            path.p99_us.to_string(),
            path.max_us.to_string(),
        ]
    });
    let mut rows: Vec<_> = paths.collect();
    let handed = samples.paths.iter().map(|path| path.frames_per_s).sum();
    let others = samples.frames_per_s.saturating_sub(handed);
    if others > samples.frames_per_s / 100 {
        let none = || "-".to_owned();
        rows.push(["not handed on".into(), others.to_string(), none(), none(), none()]);
    }
    rows
}

fn side_by_side(from: &[Busy], to: &[Busy]) -> Vec<[String; 4]> {
    let cells = |busy: Option<&Busy>| {
        busy.map_or(Default::default(), |busy| {
            [busy.frames_per_s.to_string(), clean(&busy.who)]
        })
    };
    let row = |at: usize| {
        let ([rate_from, from], [rate_to, to]) = (cells(from.get(at)), cells(to.get(at)));
        [rate_from, from, rate_to, to]
    };
    (0..from.len().max(to.len()).min(BUSIEST_MAX)).map(row).collect()
}

/// Frames a second of a component: those that came from it, and those that went to it.
type InOut = (Option<u64>, Option<u64>);

struct Rates<'a> {
    former: Option<&'a View>,
    now: &'a View,
}

impl Rates<'_> {
    /// A second; `None` before there is anything to compare with.
    fn per_s(&self, now: u64, then: impl FnOnce(&View) -> u64) -> Option<u64> {
        let former = self.former?;
        let since_us = u128::from(self.now.uptime_us - former.uptime_us);
        let more = u128::from(now.saturating_sub(then(former)));
        u64::try_from((more * 1_000_000 + since_us / 2) / since_us).ok()
    }

    fn counter(&self, name: &str) -> Option<u64> {
        let value = |view: &View| view.counters.iter().filter(|c| c.name == name).map(|c| c.value).sum();
        self.per_s(value(self.now), value)
    }

    fn head(&self) -> Vec<String> {
        let view = self.now;
        let rate = |name| figure(self.counter(name));
        let volume = |name| self.counter(name).map_or("-".into(), bytes);
        vec![
            format!(
                "{}  jidmesh {}  pid {}  up {}",
                clean(&view.node),
                clean(&view.version),
                view.pid,
                span(view.uptime_s)
            ),
            format!("health   {}", clean(&view.health)),
            format!(
                "frames   {}/s in, {}/s out, {}/s between shards; {}/s in, {}/s out",
                rate("jidmesh_frames_received_total"),
                rate("jidmesh_frames_sent_total"),
                rate("jidmesh_lane_frames_total"),
                volume("jidmesh_bytes_received_total"),
                volume("jidmesh_bytes_sent_total"),
            ),
            format!(
                "users    {} with {} sessions, {} available; {}/s started, {}/s ended, {} pending",
                view.users,
                view.sessions,
                view.sessions_available,
                rate("jidmesh_sessions_started_total"),
                rate("jidmesh_sessions_ended_total"),
                view.starts_pending
            ),
            format!(
                "waiting  {} for components, {} held; {} links negotiating; {} traces",
                bytes(view.queue_bytes),
                bytes(view.held_bytes),
                view.links_negotiating,
                view.traces
            ),
        ]
    }

    fn members(&self) -> Vec<[String; 8]> {
        let Some(mesh) = &self.now.mesh else { return Vec::new() };
        let row = |member: &Member| {
            let link = member.link.as_ref();
            let then = |of: fn(&Link) -> u64| {
                move |former: &View| {
                    let members = former.mesh.iter().flat_map(|mesh| &mesh.members);
                    let mut links = members
                        .filter(|then| then.name == member.name)
                        .filter_map(|m| m.link.as_ref());
                    links.next().map_or(0, of)
                }
            };
            let rate = |of: fn(&Link) -> u64| figure(link.and_then(|link| self.per_s(of(link), then(of))));
            let queue = link.map_or(0, |link| link.lanes.iter().map(|lane| lane.queue_bytes).sum());
            [
                clean(&member.name),
                clean(&member.state),
                link.and_then(|link| link.round_trip_us).map_or("-".into(), millis),
                member.rows.to_string(),
                link.map_or("-".into(), |link| sync(member, link)),
                rate(|link| link.messages_sent),
                rate(|link| link.messages_received),
                bytes(queue),
            ]
        };
        mesh.members.iter().map(row).collect()
    }

    /// Frames a second of each component, in and out.
    fn seats(&self) -> Vec<InOut> {
        let rate = |seat: &Seat, of: fn(&Seat) -> u64| {
            self.per_s(of(seat), |former| {
                let mut same = former
                    .seats
                    .iter()
                    .filter(|then| then.id == seat.id && of(then) <= of(seat));
                same.next().map_or(0, of)
            })
        };
        let seats = self.now.seats.iter();
        seats
            .map(|seat| (rate(seat, |seat| seat.frames_in), rate(seat, |seat| seat.frames_out)))
            .collect()
    }

    fn links(&self) -> Vec<[String; 9]> {
        let view = self.now;
        let names = |id: &str| {
            let held = view
                .names
                .iter()
                .filter(|name| name.name != id && name.holders.iter().any(|holder| holder == id));
            held.map(|name| clean(&name.name)).collect::<Vec<_>>().join(" ")
        };
        let mut links: Vec<_> = view.seats.iter().zip(self.seats()).collect();
        // Stable: idle ones stay in the order of their ids.
        links.sort_by_key(|(_, (coming, going))| std::cmp::Reverse(coming.unwrap_or(0) + going.unwrap_or(0)));
        let row = |(seat, (coming, going)): (&Seat, InOut)| {
            [
                clean(&seat.id),
                clean(&seat.kind),
                clean(&seat.state),
                seat.shard.to_string(),
                figure(coming),
                figure(going),
                bytes(seat.queue_bytes),
                seat.sessions.to_string(),
                names(&seat.id),
            ]
        };
        links.into_iter().map(row).collect()
    }

    fn shards(&self) -> Vec<[String; 4]> {
        let seats = self.seats();
        let row = |shard: u16| {
            let own = || {
                self.now
                    .seats
                    .iter()
                    .zip(&seats)
                    .filter(|(seat, _)| seat.shard == shard)
            };
            let sum =
                |of: fn(&InOut) -> Option<u64>| self.former.map(|_| own().filter_map(|(_, rates)| of(rates)).sum());
            [
                shard.to_string(),
                own().count().to_string(),
                figure(sum(|rates| rates.0)),
                figure(sum(|rates| rates.1)),
            ]
        };
        (0..self.now.shards).map(row).collect()
    }

    fn losses(&self) -> Vec<[String; 3]> {
        let same = |a: &Counter, b: &Counter| a.name == b.name && a.labels == b.labels;
        let bad = |name: &str| {
            name.starts_with("jidmesh_dropped_") || name.starts_with("jidmesh_bounced_") || TROUBLE.contains(&name)
        };
        let counters = self.now.counters.iter().filter(|c| c.value > 0 && bad(&c.name));
        let mut rows: Vec<(Option<u64>, &Counter)> = counters
            .map(|counter| {
                let rate = self.per_s(counter.value, |former| {
                    former
                        .counters
                        .iter()
                        .find(|then| same(then, counter))
                        .map_or(0, |then| then.value)
                });
                (rate, counter)
            })
            .collect();
        rows.sort_by_key(|(rate, counter)| std::cmp::Reverse((*rate, counter.value)));
        let row = |(rate, counter): (Option<u64>, &Counter)| {
            let name = counter
                .name
                .trim_start_matches("jidmesh_")
                .trim_end_matches("_total")
                .replace('_', " ");
            let reason = counter.labels.split('"').nth(1).unwrap_or_default();
            [
                clean(format!("{name} {reason}").trim()),
                figure(rate),
                counter.value.to_string(),
            ]
        };
        rows.into_iter().map(row).collect()
    }
}

fn figure(rate: Option<u64>) -> String {
    rate.map_or("-".into(), |rate| rate.to_string())
}
