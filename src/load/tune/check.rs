//! Whether machine, running node and settings fit together.

use super::machine::{Machine, field};
use crate::config::{Basis, Config, DriverKind, Shards, cpu_list};
use crate::operate::status;
use crate::shell;
use std::fmt::Write;
use std::fs;
use std::path::Path;

/// Bytes that a connection to a peer may have on its way: what the kernel must be allowed to buffer for it.
const PEER_WINDOW_BYTES: u64 = 4 << 20;
/// One thing that was looked at.
struct Line {
    what: &'static str,
    found: String,
    /// What to do, where something is to be done.
    advice: Option<String>,
}

fn line(what: &'static str, found: impl Into<String>, advice: Option<String>) -> Line {
    Line {
        what,
        found: found.into(),
        advice,
    }
}

/// The report, and whether nothing is to be done.
pub(super) fn compare(config: &Config, machine: &Machine, admin: &Path) -> (String, bool) {
    let mut lines = settings(config, machine);
    lines.extend(system(config, machine));
    match status::ask(admin) {
        Ok(status) => lines.extend(running(config, &status)),
        Err(why) => lines.push(line("running node", format!("none asked: {why}"), None)),
    }
    let mut text = machine.shown();
    for Line { what, found, advice } in &lines {
        let mark = if advice.is_some() { "!" } else { " " };
        let _ = writeln!(text, "{mark}{what:<16}{found}");
        if let Some(advice) = advice {
            let _ = writeln!(text, "{:17}{advice}", "");
        }
    }
    let good = lines.iter().all(|line| line.advice.is_none());
    (text, good)
}

fn settings(config: &Config, machine: &Machine) -> Vec<Line> {
    let tuning = &config.tuning;
    let basis = match tuning.basis {
        _ if tuning.profile == "auto" => "the usual settings",
        Basis::Measured => "measured on a machine like the one it names",
        Basis::Reasoned => "reasoned, not measured: `jidmesh tune` measures",
    };
    let mut lines = vec![line("profile", format!("{}: {basis}", tuning.profile), None)];
    let (cpus, advice) = match shell::chosen_cpus(&tuning.cpus) {
        Ok(chosen) => (chosen.len(), None),
        Err(why) => (0, Some(format!("{why}: jidmesh would not start"))),
    };
    lines.push(line("cpus", format!("{cpus} to choose from"), advice));
    if let Shards::Count(count) = tuning.shards {
        let shards = usize::from(count);
        let advice = match () {
            () if shards > cpus => Some(format!(
                "more shards than CPUs: they disturb one another; {cpus} at most"
            )),
            () if shards == machine.cpus.len() && shards > 1 => {
                Some("a shard on every CPU leaves none for sm, c2s and the database, if they run here".to_owned())
            }
            () => None,
        };
        lines.push(line("shards", count.to_string(), advice));
    }
    let (found, advice) = match (tuning.driver, &machine.ring) {
        (DriverKind::Ring, Err(why)) => (
            "ring",
            Some(format!(
                "this kernel has none ({why}): jidmesh would not start; use auto"
            )),
        ),
        (DriverKind::Ring, Ok(())) => ("ring", None),
        (DriverKind::Auto, Ok(())) => ("auto: the ring", None),
        (DriverKind::Auto, Err(_)) => ("auto: readiness", None),
        (DriverKind::Readiness, _) => ("readiness", None),
    };
    lines.push(line("driver", found, advice));
    let queues = config.queues.held_bytes + config.queues.link_bytes;
    let (most, memory) = (queues >> 20, machine.memory_mb);
    let advice = (most * 4 > memory)
        .then(|| "one stopped component may fill a quarter of the memory: make <queues> smaller".to_owned());
    lines.push(line(
        "queues",
        format!("{most} MiB for one stopped component and held frames, of {memory} MB"),
        advice,
    ));
    lines
}

fn system(config: &Config, machine: &Machine) -> Vec<Line> {
    let mut lines = Vec::new();
    if config.mesh.is_some() {
        for (what, path) in [
            ("tcp_rmem", "/proc/sys/net/ipv4/tcp_rmem"),
            ("tcp_wmem", "/proc/sys/net/ipv4/tcp_wmem"),
        ] {
            let most = fs::read_to_string(path)
                .ok()
                .and_then(|text| text.split_whitespace().last()?.parse::<u64>().ok());
            if let Some(most) = most {
                let small = most < PEER_WINDOW_BYTES;
                let advice = small.then(|| {
                    format!("a peer far away is held up: sysctl net.ipv4.{what}='4096 131072 {PEER_WINDOW_BYTES}'")
                });
                lines.push(line(what, format!("{most} bytes at most"), advice));
            }
        }
    }
    let governor = |cpu: &usize| {
        let path = format!("/sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor");
        fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
    };
    let mut governors: Vec<String> = machine.cpus.iter().filter_map(governor).collect();
    governors.sort();
    governors.dedup();
    if !governors.is_empty() {
        let slow = governors.iter().any(|name| name == "powersave");
        let advice =
            slow.then(|| "latency suffers while a CPU wakes up: cpupower frequency-set -g performance".to_owned());
        lines.push(line("CPU governor", governors.join(", "), advice));
    }
    lines
}

/// What the kernel says of the running process.
fn running(config: &Config, status: &serde_json::Value) -> Vec<Line> {
    let (pid, shards) = (
        status["pid"].as_u64().unwrap_or(0),
        status["shards"].as_u64().unwrap_or(0),
    );
    let mut lines = vec![line("running node", format!("process {pid}, {shards} shard(s)"), None)];
    if let Shards::Count(count) = config.tuning.shards
        && u64::from(count) != shards
    {
        let advice = "it runs with other settings than this configuration's: restart it".to_owned();
        lines.push(line(
            "shards",
            format!("{shards} run, {count} are configured"),
            Some(advice),
        ));
    }
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap_or_default();
    let limit = |name| {
        let text = field(&limits, name)?.split_whitespace().next()?.to_owned();
        Some(text.parse::<u64>().unwrap_or(u64::MAX))
    };
    let needed = shell::needed(config, u16::try_from(shards).unwrap_or(u16::MAX));
    for (what, name, wanted, set) in [
        (
            "locked memory",
            "Max locked memory",
            needed.memlock_bytes,
            "LimitMEMLOCK",
        ),
        ("open files", "Max open files", needed.files, "LimitNOFILE"),
    ] {
        let Some(limit) = limit(name) else { continue };
        let found = if limit == u64::MAX {
            "unlimited".to_owned()
        } else {
            limit.to_string()
        };
        let advice = (limit < wanted).then(|| format!("{wanted} are needed: {set}={wanted} in the unit"));
        lines.push(line(what, found, advice));
    }
    if let Some(pinned) = pinned(pid) {
        let twice = pinned.windows(2).any(|pair| pair[0] == pair[1]);
        let advice = twice.then(|| "two shards share a CPU: fewer shards, or more <cpus>".to_owned());
        lines.push(line("pinned to", format!("CPUs {pinned:?}"), advice));
    }
    let swapped = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    if let Some(kb) = field(&swapped, "VmSwap:").and_then(|text| text.split(' ').next()?.parse::<u64>().ok()) {
        let advice = (kb > 0).then(|| {
            "the machine is short of memory; MemorySwapMax=0 in the unit keeps jidmesh out of swap".to_owned()
        });
        lines.push(line("swapped out", format!("{kb} kB"), advice));
    }
    lines
}

/// The CPUs of the threads that are pinned to one, in order.
fn pinned(pid: u64) -> Option<Vec<usize>> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let cpu = |thread: fs::DirEntry| {
        let status = fs::read_to_string(thread.path().join("status")).ok()?;
        let list = field(&status, "Cpus_allowed_list:").and_then(cpu_list)?;
        let is_shard = field(&status, "Name:")? == "jidmesh" && list.len() == 1;
        is_shard.then(|| list[0])
    };
    let mut cpus: Vec<usize> = threads.flatten().filter_map(cpu).collect();
    cpus.sort_unstable();
    Some(cpus)
}
