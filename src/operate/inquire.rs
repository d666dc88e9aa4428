//! `jidmesh where` and `jidmesh selftest`: what one node finds out by asking the others.

use super::admin::Request;
use super::client;
use super::gather::Reports;
use super::status::{clean, millis, table};
use crate::node::cluster::{Answer, Question, where_key};
use crate::node::report::{ProbeReport, WhereReport};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;

/// Most failed probes that are listed.
const FAILURES_SHOWN: usize = 20;

/// What became of all probes.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Selftest {
    /// Every probe came back, and no configured peer is missing.
    pub passed: bool,
    /// From each shard of each node to each shard of each node.
    pub probes: Vec<ProbeReport>,
    /// What else is wrong, in lines for an operator.
    pub problems: Vec<String>,
}

/// Where a user is, as the shards of this node know or learn.
pub(super) fn place(reports: &Reports, jid: &str) -> Result<WhereReport, String> {
    let (bare, resource) = where_key(jid).ok_or_else(|| format!("{jid:?} is no JID"))?;
    let answers = reports.ask(&Question::Where(bare));
    let found = answers.into_iter().find_map(|answer| match answer {
        Answer::Where(report) => Some(*report),
        _ => None,
    });
    let mut report = found.ok_or("the shard that knows does not answer")?;
    if let Some(resource) = resource {
        report.sessions.retain(|session| session.resource == resource);
    }
    Ok(report)
}

/// All probes, of all shards.
pub(super) fn selftest(reports: &Reports) -> Selftest {
    let picture = reports.get();
    let status = &picture.status;
    let answers = reports.ask(&Question::Probe);
    let mut problems = Vec::new();
    let mut probes = Vec::new();
    let mut answered = 0;
    for answer in answers {
        if let Answer::Probes(more) = answer {
            probes.extend(more);
            answered += 1;
        }
    }
    if answered < status.shards {
        problems.push(format!("{answered} of {} shards of this node answer", status.shards));
    }
    let unreached = status.mesh.iter().flat_map(|mesh| &mesh.unreached);
    problems.extend(unreached.map(|peer| format!("{} was never reached ({})", peer.address, peer.why)));
    probes.sort_by(|a, b| {
        let key = |probe: &ProbeReport| (probe.from.clone(), probe.from_shard, probe.to.clone(), probe.to_shard);
        key(a).cmp(&key(b))
    });
    Selftest {
        passed: problems.is_empty() && probes.iter().all(|probe| probe.round_trip_us.is_some()),
        probes,
        problems,
    }
}

/// `jidmesh where`.
pub fn main_where(admin: &Path, jid: &str, json: bool) -> ExitCode {
    let request = Request::Where { jid: jid.to_owned() };
    let shown = client::ask(admin, &request, "where").and_then(|answer| shown(&answer, json, place_text));
    finish("where", shown.map(|text| (text, true)))
}

/// `jidmesh selftest`: fails when a probe did.
pub fn main_selftest(admin: &Path, json: bool) -> ExitCode {
    let shown = client::ask(admin, &Request::Selftest, "selftest").and_then(|answer| {
        let passed = answer["passed"] == Value::Bool(true);
        Ok((shown(&answer, json, matrix)?, passed))
    });
    finish("selftest", shown)
}

pub(super) fn finish(command: &str, shown: Result<(String, bool), String>) -> ExitCode {
    match shown.and_then(|(text, good)| client::print(&text).map(|()| good)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("jidmesh {command}: {why}");
            ExitCode::FAILURE
        }
    }
}

pub(super) fn shown<T: for<'a> Deserialize<'a>>(
    answer: &Value,
    json: bool,
    text: impl Fn(&T) -> String,
) -> Result<String, String> {
    if json {
        return serde_json::to_string_pretty(answer).map_err(|e| e.to_string());
    }
    T::deserialize(answer)
        .map(|report| text(&report))
        .map_err(|e| client::not_as_expected(&e))
}

fn place_text(report: &WhereReport) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "user     {}", clean(&report.jid));
    let _ = writeln!(out, "node     {}", clean(&report.node));
    let sm = report.sm.as_deref().map(clean);
    let sm = match (sm, report.is_duty) {
        (Some(sm), false) => sm,
        (Some(sm), true) => format!("{sm}, on duty for users without a session"),
        (None, _) if !report.complete => "not known: that node does not answer".into(),
        (None, _) => match &report.holders[..] {
            [] => "none: nobody here serves this domain".into(),
            holders => format!("none: the domain is a service of {}", clean(&holders.join(", "))),
        },
    };
    let _ = writeln!(out, "sm       {sm}");
    if report.starts_pending > 0 {
        let _ = writeln!(out, "starts   {} pending", report.starts_pending);
    }
    out.push('\n');
    let rows: Vec<_> = report
        .sessions
        .iter()
        .map(|session| {
            let state = if session.available { "available" } else { "connected" };
            [
                clean(&session.resource),
                state.into(),
                session.priority.map_or("-".into(), |priority| priority.to_string()),
                session.c2s.as_deref().map_or("-".into(), clean),
            ]
        })
        .collect();
    table(["RESOURCE", "STATE", "PRIORITY", "C2S"], "no session", &rows, &mut out);
    out
}

/// Round trips from each node (a line) to each node (a column): the slowest of all pairs of their shards, and through
/// which node they go if the two do not reach each other themselves.
fn matrix(test: &Selftest) -> String {
    let nodes: BTreeSet<&str> = test
        .probes
        .iter()
        .flat_map(|probe| [&*probe.from, &*probe.to])
        .collect();
    let mut cells: BTreeMap<(&str, &str), Option<u64>> = BTreeMap::new();
    for probe in &test.probes {
        cells
            .entry((&probe.from, &probe.to))
            .and_modify(|slowest| *slowest = (*slowest).zip(probe.round_trip_us).map(|(a, b)| a.max(b)))
            .or_insert(probe.round_trip_us);
    }
    let relayed = test
        .probes
        .iter()
        .filter_map(|probe| Some(((&*probe.from, &*probe.to), probe.relay.as_deref()?)));
    let relays: BTreeMap<(&str, &str), &str> = relayed.collect();
    let cell = |from, to| match cells.get(&(from, to)) {
        Some(Some(us)) => match relays.get(&(from, to)) {
            Some(relay) => format!("{} through {}", millis(*us), clean(relay)),
            None => millis(*us),
        },
        Some(None) => "FAILED".into(),
        None => "unknown".into(),
    };
    let head = std::iter::once("FROM / TO".to_owned()).chain(nodes.iter().map(|node| clean(node)));
    let mut lines: Vec<Vec<String>> = vec![head.collect()];
    for from in &nodes {
        let row = std::iter::once(clean(from)).chain(nodes.iter().map(|to| cell(from, to)));
        lines.push(row.collect());
    }
    let mut out = String::new();
    let widths: Vec<usize> = (0..lines[0].len())
        .map(|at| lines.iter().map(|line| line[at].chars().count()).max().unwrap_or(0))
        .collect();
    for line in &lines {
        let padded: Vec<String> = line
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        let _ = writeln!(out, "{}", padded.join("  ").trim_end());
    }
    out.push('\n');
    let failed: Vec<&ProbeReport> = test
        .probes
        .iter()
        .filter(|probe| probe.round_trip_us.is_none())
        .collect();
    for probe in failed.iter().take(FAILURES_SHOWN) {
        let (from, to) = (clean(&probe.from), clean(&probe.to));
        let _ = match probe.from_shard {
            Some(shard) => writeln!(
                out,
                "FAILED   {from}, shard {shard}, to {to}: no answer from all of its shards"
            ),
            None => writeln!(out, "FAILED   {from} does not tell what it reaches"),
        };
    }
    for problem in &test.problems {
        let _ = writeln!(out, "FAILED   {}", clean(problem));
    }
    let verdict = if test.passed { "passed" } else { "FAILED" };
    let _ = writeln!(
        out,
        "{verdict}: {} probes, {} without an answer",
        test.probes.len(),
        failed.len()
    );
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn probe(from: &str, to: &str, shard: u16, round_trip_us: Option<u64>) -> ProbeReport {
        ProbeReport {
            from: from.into(),
            from_shard: Some(shard),
            to: to.into(),
            to_shard: round_trip_us.map(|_| 0),
            round_trip_us,
            relay: None,
        }
    }

    #[test]
    fn the_matrix_shows_the_slowest_pair_and_every_failure() {
        let through = ProbeReport {
            relay: Some("b".into()),
            ..probe("a", "d", 0, Some(3_000))
        };
        let test = Selftest {
            passed: false,
            probes: vec![
                probe("a", "a", 0, Some(20)),
                probe("a", "b", 0, Some(1_000)),
                probe("a", "b", 1, Some(2_500)),
                probe("b", "a", 0, Some(90)),
                probe("b", "a", 1, None),
                through,
            ],
            problems: vec!["c:5348 was never reached".into()],
        };
        let text = matrix(&test);
        let row = |name: &str| -> Vec<&str> {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            line.split("  ")
                .map(str::trim)
                .filter(|cell| !cell.is_empty())
                .collect()
        };
        assert_eq!(row("a "), ["a", "0.02 ms", "2.50 ms", "3.00 ms through b"]);
        assert_eq!(row("b "), ["b", "FAILED", "unknown", "unknown"]);
        for said in [
            "FAILED   b, shard 1, to a: no answer from all of its shards",
            "FAILED   c:5348 was never reached",
            "FAILED: 6 probes, 1 without an answer",
        ] {
            assert!(text.lines().any(|line| line == said), "{said}\n{text}");
        }
    }

    #[test]
    fn a_place_says_what_is_not_known() {
        let mut report = WhereReport {
            jid: "u@a".into(),
            node: "n\u{1b}".into(),
            ..WhereReport::default()
        };
        let text = place_text(&report);
        assert!(
            text.contains("node     n?") && text.contains("that node does not answer"),
            "{text}"
        );
        report.complete = true;
        assert!(place_text(&report).contains("nobody here serves this domain"));
        report.sm = Some("sm.n".into());
        report.is_duty = true;
        let text = place_text(&report);
        assert!(text.contains("sm.n, on duty") && text.contains("no session"), "{text}");
    }
}
