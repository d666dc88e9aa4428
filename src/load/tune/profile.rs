//! A profile's file, with what was measured.

use super::Goal;
use super::machine::Machine;
use super::search::{Finding, Found, Measured};
use crate::config::{Basis, Tuning};
use std::fmt::Write;

/// The settings alone.
pub(super) fn element(tuning: &Tuning) -> String {
    let basis = match tuning.basis {
        Basis::Measured => "measured",
        Basis::Reasoned => "reasoned",
    };
    format!("<tuning basis='{basis}'>\n{}</tuning>\n", settings(tuning))
}

/// The whole file: machine, measurements, settings.
pub(super) fn text(found: &Found, machine: &Machine, goal: Goal) -> String {
    let mut text =
        String::from("<!-- Written by `jidmesh tune`. The settings below were compared on this machine:\n\n");
    let _ = writeln!(text, "{}", machine.shown());
    for one in &found.findings {
        let _ = writeln!(text, "{}", finding(one, goal));
    }
    text.push_str(
        "turn-bytes, lane-batches and ring-buffers were not compared: they are the usual ones, as are <queues> and <grace>.\n-->\n",
    );
    // Two hyphens may not stand in a comment.
    let text = text
        .replace("--", "- -")
        .replace("<!- -", "<!--")
        .replace("- ->", "-->");
    text + &element(&found.tuning)
}

fn settings(tuning: &Tuning) -> String {
    let mut text = String::new();
    for (name, value) in [
        ("shards", tuning.shards.to_string()),
        ("cpus", tuning.cpus.to_string()),
        ("driver", tuning.driver.to_string()),
        ("read-bytes", tuning.read_bytes.to_string()),
        ("turn-bytes", tuning.turn_bytes.to_string()),
        ("pause-us", tuning.pause_us.to_string()),
        ("lane-batches", tuning.lane_batches.to_string()),
        ("ring-buffers", tuning.ring_buffers.to_string()),
    ] {
        let _ = writeln!(text, "  <{name}>{value}</{name}>");
    }
    text
}

/// One setting's comparison as a table, and why its value was chosen.
pub(super) fn finding(finding: &Finding, goal: Goal) -> String {
    let mut text = format!("{:<14}", finding.knob);
    for measured in &finding.candidates[0].1 {
        let _ = write!(text, " | {:>40}", measured.scene);
    }
    let scenes = finding.candidates[0].1.len();
    let _ = write!(
        text,
        "\n{:<14}{}",
        "",
        " |    CPU s/M   frames/s    p99 us         ".repeat(scenes).trim_end()
    );
    for (name, measured) in &finding.candidates {
        let _ = write!(text, "\n{name:<14}");
        measured.iter().for_each(|one| text.push_str(&cells(one)));
    }
    let (usual, chosen) = (&finding.candidates[0].0, &finding.candidates[finding.chosen].0);
    let why = match finding.chosen {
        0 => format!(
            "no other value beats {usual} by 5 % of {} in four runs of five",
            goal.words()
        ),
        _ => format!(
            "better than {usual} by 5 % or more of {} in four runs of five",
            goal.words()
        ),
    };
    let _ = writeln!(text, "\n-> {chosen}: {why}");
    text
}

fn cells(measured: &Measured) -> String {
    let frames = measured.frames_per_s.median / 1e3;
    format!(
        " | {:>10.3} {:>8.0} k {:>9.0}         ",
        measured.cpu_s_per_million.median, frames, measured.p99_us.median
    )
}

/// What was chosen, in a line.
pub(super) fn choice(found: &Found) -> String {
    let words = found.findings.iter().map(|finding| {
        let value = &finding.candidates[finding.chosen].0;
        format!("{} {value}", finding.knob)
    });
    format!("Chosen: {}.", words.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::super::search::Found;
    use super::*;
    use crate::config::{Cpus, DriverKind, Shards, parse_profile};
    use std::path::Path;

    #[test]
    fn what_is_written_is_read_again() {
        let tuning = Tuning {
            basis: Basis::Measured,
            shards: Shards::Count(3),
            cpus: Cpus::List(vec![2, 3, 5]),
            driver: DriverKind::Ring,
            pause_us: 7,
            ..Tuning::default()
        };
        let found = Found {
            tuning: tuning.clone(),
            findings: Vec::new(),
        };
        let machine = Machine::look().expect("Linux");
        let read = parse_profile(Path::new("tuned.xml"), text(&found, &machine, Goal::Cpu).as_bytes());
        assert_eq!(read.expect("good"), tuning);
    }
}
