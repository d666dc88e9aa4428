//! What a cluster of a given size needs, by the formulas of `tuning/MODEL.md`.

use super::table::number;
use serde::Serialize;
use std::fmt::Write;

/// Bytes of a mean stanza's frame, as the load generator's mix has it.
const FRAME_BYTES: f64 = 559.0;
/// Frames on component links for one message: c2s to sm, sm to domain, sm to c2s (wire protocol).
const FRAMES_PER_MESSAGE: f64 = 3.0;
/// News of a row for one login and its logout: claimed, available, gone.
const NEWS_PER_LOGIN: f64 = 3.0;

/// `jidmesh model`
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Numbers of nodes.
    #[arg(long, value_delimiter = ',', default_value = "1,2,3,4,8,16,32,64")]
    nodes: Vec<u32>,
    /// Sessions in the whole cluster.
    #[arg(long, default_value_t = 1e6)]
    sessions: f64,
    /// Logins a second in the whole cluster, and as many logouts.
    #[arg(long, default_value_t = 100.0)]
    logins: f64,
    /// Messages a second in the whole cluster, client to client.
    #[arg(long, default_value_t = 10_000.0)]
    messages: f64,
    /// Contacts of a user who are online.
    #[arg(long, default_value_t = 20.0)]
    contacts: f64,
    /// Replaces a coefficient: NAME=VALUE. Measure yours, as MODEL.md says.
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = setting)]
    settings: Vec<(String, f64)>,
    /// For programs.
    #[arg(long)]
    json: bool,
}

fn setting(text: &str) -> Result<(String, f64), String> {
    let (name, value) = text.split_once('=').ok_or("NAME=VALUE")?;
    if !COEFFICIENTS.iter().any(|known| known.name == name) {
        let names: Vec<&str> = COEFFICIENTS.iter().map(|known| known.name).collect();
        return Err(format!("there are {}", names.join(", ")));
    }
    let value = value.parse().map_err(|e| format!("{value}: {e}"))?;
    Ok((name.to_owned(), value))
}

/// A number that the formulas need.
#[derive(Clone, Copy, Debug, Serialize)]
struct Coefficient {
    name: &'static str,
    value: f64,
    unit: &'static str,
    measured: bool,
    why: &'static str,
}

const fn measured(name: &'static str, value: f64, unit: &'static str, why: &'static str) -> Coefficient {
    Coefficient {
        name,
        value,
        unit,
        measured: true,
        why,
    }
}

const fn reasoned(name: &'static str, value: f64, unit: &'static str, why: &'static str) -> Coefficient {
    Coefficient {
        measured: false,
        ..measured(name, value, unit, why)
    }
}

const COEFFICIENTS: [Coefficient; 9] = [
    measured("base", 6.0, "MB", "a router without links"),
    measured("session", 450.0, "bytes", "a session at its own node: `users`, memory"),
    measured("frame", 1.0, "us", "CPU for a frame on component links: `users`"),
    measured(
        "login",
        15.0,
        "us",
        "CPU for a login and its logout, frames included: `logins`",
    ),
    reasoned(
        "row",
        150.0,
        "bytes",
        "a session of another node: size of its entry and its two texts; the goal is 48",
    ),
    reasoned("news", 80.0, "bytes", "news of a row between nodes, sealed"),
    reasoned("apply", 1.0, "us", "CPU for one news of a row: opened, found, changed"),
    reasoned(
        "cross",
        3.0,
        "times",
        "CPU of a frame that crosses, both nodes, against one that does not: the goal",
    ),
    reasoned(
        "swim",
        2000.0,
        "bytes/s",
        "membership: a probe and its answer a second, with news",
    ),
];

/// What one node needs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Need {
    nodes: u32,
    memory_mb: f64,
    /// To the other nodes together, and the same from them, MB/s.
    mesh_mb_per_s: f64,
    frames_per_s: f64,
    crossing_per_s: f64,
    cpus: f64,
    /// What a node that comes back is sent, MB.
    sync_mb: f64,
}

#[derive(Serialize)]
struct Report {
    coefficients: Vec<Coefficient>,
    needs: Vec<Need>,
}

/// Evaluates the model.
pub fn main(args: &Args) -> std::process::ExitCode {
    let coefficients = with(&args.settings);
    let needs: Vec<Need> = args
        .nodes
        .iter()
        .map(|nodes| need(args, *nodes, &coefficients))
        .collect();
    if args.json {
        match serde_json::to_string_pretty(&Report { coefficients, needs }) {
            Ok(text) => println!("{text}"),
            Err(e) => eprintln!("jidmesh model: {e}"),
        }
    } else {
        print!("{}", text(args, &coefficients, &needs));
    }
    std::process::ExitCode::SUCCESS
}

fn with(settings: &[(String, f64)]) -> Vec<Coefficient> {
    let mut coefficients = COEFFICIENTS.to_vec();
    for (name, value) in settings {
        for known in coefficients.iter_mut().filter(|known| known.name == name) {
            (known.value, known.measured, known.why) = (*value, true, "given");
        }
    }
    coefficients
}

/// The formulas, in the order of MODEL.md.
fn need(args: &Args, nodes: u32, coefficients: &[Coefficient]) -> Need {
    let of = |name: &str| {
        let known = coefficients.iter().find(|known| known.name == name);
        known.map(|known| known.value).unwrap_or_default()
    };
    let n = f64::from(nodes.max(1));
    let others = n - 1.0;
    let elsewhere = others / n;
    let (own, remote) = (args.sessions / n, args.sessions * elsewhere);
    // A login: n probes, n presences and n answers between users, and two deliveries for each contact.
    let between_users = args.messages + 3.0 * args.contacts * args.logins;
    let frames = (FRAMES_PER_MESSAGE * args.messages + 5.0 * args.contacts * args.logins) / n;
    let crossing = between_users * elsewhere / n;
    let news = NEWS_PER_LOGIN * args.logins / n * others;
    let cpu_us = frames * of("frame")
        + crossing * (of("cross") - 1.0) * of("frame")
        + args.logins / n * of("login")
        // What it tells and what it is told.
        + 2.0 * news * of("apply");
    let mesh = crossing * (FRAME_BYTES + 16.0) + news * of("news") + if nodes > 1 { of("swim") } else { 0.0 };
    Need {
        nodes,
        memory_mb: of("base") + (own * of("session") + remote * of("row")) / 1e6,
        mesh_mb_per_s: mesh / 1e6,
        frames_per_s: frames,
        crossing_per_s: crossing,
        cpus: cpu_us / 1e6,
        sync_mb: remote * of("news") / 1e6,
    }
}

fn text(args: &Args, coefficients: &[Coefficient], needs: &[Need]) -> String {
    let mut out = format!(
        "{} sessions, {} logins/s, {} messages/s, {} contacts online; for each node:\n\n\
         {:>6} {:>12} {:>12} {:>14} {:>12} {:>12} {:>12}\n",
        number(args.sessions),
        number(args.logins),
        number(args.messages),
        number(args.contacts),
        "nodes",
        "memory MB",
        "frames/s",
        "crossing/s",
        "mesh MB/s",
        "CPUs",
        "sync MB"
    );
    for need in needs {
        let _ = writeln!(
            out,
            "{:>6} {:>12.0} {:>12} {:>14} {:>12.3} {:>12.3} {:>12.0}",
            need.nodes,
            need.memory_mb,
            number(need.frames_per_s),
            number(need.crossing_per_s),
            need.mesh_mb_per_s,
            need.cpus,
            need.sync_mb
        );
    }
    out.push_str("\ncoefficients (--set NAME=VALUE replaces one)\n");
    for known in coefficients {
        let how = if known.measured { "measured" } else { "reasoned" };
        let _ = writeln!(
            out,
            "{:>10} {:>8} {:<8} {how}: {}",
            known.name, known.value, known.unit, known.why
        );
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn args(settings: &[(String, f64)]) -> Args {
        Args {
            nodes: Vec::new(),
            sessions: 1e6,
            logins: 100.0,
            messages: 10_000.0,
            contacts: 20.0,
            settings: settings.to_vec(),
            json: false,
        }
    }

    #[test]
    fn a_node_alone_pays_nothing_for_the_mesh() {
        let need = need(&args(&[]), 1, &with(&[]));
        assert!(need.mesh_mb_per_s == 0.0 && need.crossing_per_s == 0.0 && need.sync_mb == 0.0);
        // 30 000 frames of messages, 10 000 of logins.
        assert_eq!(need.frames_per_s, 40_000.0);
    }

    #[test]
    fn the_cluster_as_a_whole_handles_every_frame_and_keeps_every_session() {
        for nodes in [2, 3, 64] {
            let n = f64::from(nodes);
            let need = need(&args(&[]), nodes, &with(&[]));
            assert!((need.frames_per_s * n - 40_000.0).abs() < 1e-6);
            // 16 000 between users, all but 1/n of which cross.
            assert!((need.crossing_per_s * n - 16_000.0 * (n - 1.0) / n).abs() < 1e-6);
            let rows = with(&[("row".into(), 450.0)]);
            let same = super::need(&args(&[]), nodes, &rows);
            assert!((same.memory_mb - 456.0).abs() < 1e-6, "{}", same.memory_mb);
        }
    }

    #[test]
    fn a_coefficient_can_be_given_and_an_unknown_one_is_refused() {
        assert_eq!(setting("row=48").unwrap(), ("row".to_owned(), 48.0));
        assert!(setting("rows=48").is_err() && setting("row").is_err() && setting("row=x").is_err());
        let known = with(&[("row".into(), 48.0)]);
        assert!(
            known
                .iter()
                .any(|known| known.name == "row" && known.value == 48.0 && known.measured)
        );
    }
}
