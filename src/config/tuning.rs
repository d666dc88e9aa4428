//! `<tuning>`: how the engine is laid out on this machine, and the profiles that come with jidmesh (`tuning/`).

use super::model::Queues;

use super::read::{Cx, excerpt};
use super::tree::Node;
use std::fmt;
use std::path::{Path, PathBuf};

/// The profiles that come with jidmesh: name and file.
pub const PROFILES: [(&str, &str); 5] = [
    ("laptop", include_str!("../../tuning/laptop.xml")),
    ("two-cores", include_str!("../../tuning/two-cores.xml")),
    ("low-latency", include_str!("../../tuning/low-latency.xml")),
    ("many-links", include_str!("../../tuning/many-links.xml")),
    ("many-cores", include_str!("../../tuning/many-cores.xml")),
];
/// CPUs that a list may name, from 0.
const CPUS_MAX: usize = 1024;

/// `<tuning>`, all knobs of its profile. `tuning/README.md` explains each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// The profile's name or file; `auto` without one.
    pub profile: String,
    /// Where its numbers are from.
    pub basis: Basis,
    /// Executors, each pinned to one CPU.
    pub shards: Shards,
    /// The CPUs that shards are pinned to.
    pub cpus: Cpus,
    /// What moves the bytes.
    pub driver: DriverKind,
    /// What one link may read before the next link's turn comes, bytes.
    pub read_bytes: usize,
    /// What all links together may read before the writes that follow from it are done, bytes.
    pub turn_bytes: usize,
    /// How long a shard waits for more frames when each turn brings only one, microseconds; 0: never.
    pub pause_us: u64,
    /// Batches that wait for one shard from one other.
    pub lane_batches: usize,
    /// Receive buffers of a shard's completion ring, 16 KiB each; a power of two.
    pub ring_buffers: u16,
}

impl Default for Tuning {
    fn default() -> Tuning {
        Tuning {
            profile: "auto".into(),
            basis: Basis::Measured,
            shards: Shards::Auto,
            cpus: Cpus::All,
            driver: DriverKind::Readiness,
            read_bytes: 64 << 10,
            turn_bytes: 1 << 20,
            pause_us: 60,
            lane_batches: 64,
            ring_buffers: 1024,
        }
    }
}

/// Where a profile's numbers are from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// They were compared with others on a machine of this kind.
    Measured,
    /// They follow from how the engine works; nobody has compared them.
    Reasoned,
}

/// How many shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Shards {
    /// Half of the CPUs that the process may use, up to a bound.
    #[default]
    Auto,
    /// So many, at least 1.
    Count(u16),
}

impl fmt::Display for Shards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Shards::Auto => f.write_str("auto"),
            Shards::Count(count) => count.fmt(f),
        }
    }
}

/// Which CPUs shards are pinned to, in this order.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Cpus {
    /// All that the process may use.
    #[default]
    All,
    /// These.
    List(Vec<usize>),
    /// Those of this NUMA node.
    Numa(u32),
}

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cpus::All => f.write_str("all"),
            Cpus::List(list) => f.write_str(&cpu_text(list)),
            Cpus::Numa(node) => write!(f, "numa:{node}"),
        }
    }
}

/// What moves the bytes of the links.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum DriverKind {
    /// Readiness (epoll) with non-blocking calls; the executor sleeps on it. Any kernel that glommio runs on.
    #[default]
    Readiness,
    /// A completion ring of the shard's own, from Linux 6.1 on.
    Ring,
    /// The ring where the kernel has it, else readiness.
    Auto,
}

const DRIVERS: [(&str, DriverKind); 3] = [
    ("readiness", DriverKind::Readiness),
    ("ring", DriverKind::Ring),
    ("auto", DriverKind::Auto),
];

impl fmt::Display for DriverKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = DRIVERS.iter().find(|(_, kind)| kind == self).map(|(word, _)| *word);
        f.write_str(word.unwrap_or_default())
    }
}

/// What a profile says of settings that have an element of their own in `router.xml`, where they count more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct Elsewhere {
    /// `<grace>`, whole seconds.
    pub(super) grace_s: Option<u64>,
    /// `<queues>`.
    pub(super) queues: Queues,
}

/// `<tuning>` of `router.xml`: a profile, and what it says itself beside it.
pub(super) fn tuning(cx: &mut Cx<'_>, node: &Node) -> (Tuning, Elsewhere) {
    cx.known_mixed(node, &["shards"], &["shards", "cpus", "driver"]);
    let (mut tuning, elsewhere) = profile(cx, node);
    let child = cx.text_of(node, "shards");
    if let Some(text) = node.attr("shards").map(str::to_owned).or(child) {
        tuning.shards = shards(cx, node, &text);
    }
    if let Some(text) = node.attr("cpus") {
        tuning.cpus = cpus(cx, node, text);
    }
    if let Some(text) = node.attr("driver") {
        tuning.driver = driver(cx, node, text);
    }
    (tuning, elsewhere)
}

fn profile(cx: &mut Cx<'_>, node: &Node) -> (Tuning, Elsewhere) {
    let name = node.text.trim();
    if matches!(name, "" | "auto") {
        return Default::default();
    }
    let (path, bytes) = match PROFILES.iter().find(|(known, _)| *known == name) {
        Some((_, text)) => (PathBuf::from(format!("tuning/{name}.xml")), text.as_bytes().to_vec()),
        None if name.contains(['/', '.']) => {
            let path = cx.absolute(name);
            match (cx.read)(&path) {
                Ok(bytes) => (path, bytes),
                Err(reason) => {
                    cx.error(node.line, format!("<tuning>: {}: {reason}", path.display()));
                    return Default::default();
                }
            }
        }
        None => {
            let names: Vec<&str> = PROFILES.iter().map(|(known, _)| *known).collect();
            let (found, names) = (excerpt(name), names.join(", "));
            let text = format!("<tuning>: no profile '{found}'; right is auto, {names}, or a file (with a / or a dot)");
            cx.error(node.line, text);
            return Default::default();
        }
    };
    let mut file = Cx::new(&path, cx.read);
    let read = file.root(&bytes, "tuning").map(|root| knobs(&mut file, &root));
    cx.problems.append(&mut file.problems);
    let (mut tuning, elsewhere) = read.unwrap_or_default();
    tuning.profile = name.to_owned();
    (tuning, elsewhere)
}

/// Every problem of a profile's file, as its reader would tell them.
pub fn parse_profile(path: &Path, bytes: &[u8]) -> Result<Tuning, Vec<super::Problem>> {
    let read = |_: &Path| Err("a profile names no other file".to_owned());
    let mut file = Cx::new(path, &read);
    let read = file.root(bytes, "tuning").map(|root| knobs(&mut file, &root).0);
    match read {
        Some(tuning) if file.problems.is_empty() => Ok(tuning),
        _ => Err(file.problems),
    }
}

/// A profile's file.
fn knobs(cx: &mut Cx<'_>, root: &Node) -> (Tuning, Elsewhere) {
    let known = [
        "shards",
        "cpus",
        "driver",
        "read-bytes",
        "turn-bytes",
        "pause-us",
        "lane-batches",
        "ring-buffers",
        "queues",
        "grace",
    ];
    cx.known(root, &known, &["basis"]);
    let usual = Tuning::default();
    let basis = [("measured", Basis::Measured), ("reasoned", Basis::Reasoned)];
    let mut tuning = Tuning {
        basis: cx
            .choice(root, root.attr("basis").unwrap_or(""), &basis)
            .unwrap_or(Basis::Reasoned),
        read_bytes: cx.number_of(root, "read-bytes", 4 << 10..=1 << 20, "bytes", usual.read_bytes),
        turn_bytes: cx.number_of(root, "turn-bytes", 64 << 10..=64 << 20, "bytes", usual.turn_bytes),
        pause_us: cx.number_of(root, "pause-us", 0..=1_000, "microseconds", usual.pause_us),
        lane_batches: cx.number_of(root, "lane-batches", 2..=4_096, "batches", usual.lane_batches),
        ring_buffers: cx.number_of(root, "ring-buffers", 64..=16_384, "buffers", usual.ring_buffers),
        ..usual
    };
    if !tuning.ring_buffers.is_power_of_two() {
        let text = format!(
            "<ring-buffers>: found '{}'; right is a power of two",
            tuning.ring_buffers
        );
        cx.error(root.line, text);
    }
    if let Some(node) = cx.one(root, "shards")
        && let Some(text) = cx.text(node)
    {
        tuning.shards = shards(cx, node, &text);
    }
    if let Some(node) = cx.one(root, "cpus")
        && let Some(text) = cx.text(node)
    {
        tuning.cpus = cpus(cx, node, &text);
    }
    if let Some(node) = cx.one(root, "driver")
        && let Some(text) = cx.text(node)
    {
        tuning.driver = driver(cx, node, &text);
    }
    let grace_s = cx
        .text_of(root, "grace")
        .and_then(|text| cx.number(root, &text, 0..=3600, "whole seconds"));
    let queues = match cx.one(root, "queues") {
        Some(node) => queues(cx, node, Queues::default()),
        None => Queues::default(),
    };
    (tuning, Elsewhere { grace_s, queues })
}

/// `<queues>`, in a profile or in `router.xml`.
pub(super) fn queues(cx: &mut Cx<'_>, node: &Node, usual: Queues) -> Queues {
    cx.known(node, &["link", "held", "peer"], &[]);
    let mut bytes = |name, usual: u64| cx.number_of(node, name, 1..=65_536, "whole MiB", usual >> 20) << 20;
    Queues {
        link_bytes: bytes("link", usual.link_bytes),
        held_bytes: bytes("held", usual.held_bytes),
        peer_bytes: bytes("peer", usual.peer_bytes),
    }
}

fn shards(cx: &mut Cx<'_>, node: &Node, text: &str) -> Shards {
    match text.trim() {
        "auto" => Shards::Auto,
        text => cx
            .number(node, text, 1..=1024, "auto, or a number of shards")
            .map_or(Shards::Auto, Shards::Count),
    }
}

fn driver(cx: &mut Cx<'_>, node: &Node, text: &str) -> DriverKind {
    cx.choice(node, text, &DRIVERS).unwrap_or_default()
}

fn cpus(cx: &mut Cx<'_>, node: &Node, text: &str) -> Cpus {
    let text = text.trim();
    if text == "all" {
        return Cpus::All;
    }
    if let Some(number) = text.strip_prefix("numa:").and_then(|number| number.parse().ok()) {
        return Cpus::Numa(number);
    }
    if let Some(list) = cpu_list(text) {
        return Cpus::List(list);
    }
    let (name, found) = (&node.name, excerpt(text));
    let text = format!("<{name}>: found '{found}' as CPUs; right is all, 3, 2-7, 0,2,4-6, or numa:0");
    cx.error(node.line, text);
    Cpus::All
}

/// CPUs as the kernel lists them: `0-3,8`.
pub fn cpu_list(text: &str) -> Option<Vec<usize>> {
    let mut list = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last >= CPUS_MAX {
            return None;
        }
        list.extend(first..=last);
    }
    Some(list)
}

/// The same, written: [`cpu_list`] reads it.
pub fn cpu_text(cpus: &[usize]) -> String {
    let mut parts: Vec<(usize, usize)> = Vec::new();
    for &cpu in cpus {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == cpu => *last = cpu,
            _ => parts.push((cpu, cpu)),
        }
    }
    let part = |&(first, last): &(usize, usize)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    parts.iter().map(part).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_are_listed_as_the_kernel_does() {
        assert_eq!(cpu_list("3"), Some(vec![3]));
        assert_eq!(cpu_list("0-2,5\n"), Some(vec![0, 1, 2, 5]));
        assert_eq!(cpu_text(&[0, 1, 2, 5, 7, 8]), "0-2,5,7-8");
        for bad in ["", "a", "2-1", "0-99999", "1,", "-1"] {
            assert_eq!(cpu_list(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_profiles_that_come_along_are_good_and_say_everything() {
        for (name, text) in PROFILES {
            let tuning = parse_profile(Path::new(name), text.as_bytes());
            assert!(tuning.is_ok(), "{name}: {:?}", tuning.err());
            for knob in [
                "<shards>",
                "<cpus>",
                "<driver>",
                "<read-bytes>",
                "<turn-bytes>",
                "<pause-us>",
                "<lane-batches>",
                "<ring-buffers>",
                "<queues>",
                "<grace>",
            ] {
                assert!(text.contains(knob), "{name} lacks {knob}");
            }
        }
    }

    #[test]
    fn a_bad_profile_says_what_is_right() {
        for (inside, words) in [
            ("<shards>0</shards>", "auto, or a number of shards"),
            ("<cpus>x</cpus>", "numa:0"),
            ("<driver>fast</driver>", "readiness, ring, auto"),
            ("<read-bytes>1</read-bytes>", "4096 to 1048576"),
            ("<ring-buffers>100</ring-buffers>", "a power of two"),
            ("<speed>11</speed>", "unknown setting <speed>"),
        ] {
            let text = format!("<tuning basis='reasoned'>\n{inside}</tuning>");
            let problems = parse_profile(Path::new("p.xml"), text.as_bytes()).expect_err(inside);
            assert!(
                problems[0].plain().to_string().contains(words),
                "{inside}: {}",
                problems[0].plain()
            );
        }
        assert!(
            parse_profile(Path::new("p.xml"), b"<tuning/>").is_err(),
            "where its numbers are from must be said"
        );
    }
}
