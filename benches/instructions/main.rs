//! Instructions per frame, which do not depend on the machine's mood, and times, which do.
//!
//! `cargo run --release --example instructions` counts every scenario under valgrind's callgrind and compares with
//! `benches/instructions.txt`; a count that differs by more than [`TOLERANCE_PERCENT`] (`-- --tolerance=PERCENT`) is a
//! failure, in either direction: a gain is to be written down (`-- --write`), or the next loss hides in it. `-- --times`
//! only takes times, without valgrind. A name or a part of one takes only those scenarios.

mod node;
mod scenarios;
mod traffic;

use scenarios::{ALL, Make, Scenario};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

/// How far a count may be from what is written down.
const TOLERANCE_PERCENT: f64 = 3.0;
/// Frames that are counted at least.
const COUNTED_FRAMES: usize = 4_000;
/// Rounds of which the fastest gives the time, and frames of one.
const ROUNDS: usize = 300;
const ROUND_FRAMES: usize = 1_000;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    // Tables iterate and hash the same way each time.
    jidmesh::jid::TableHasher::fix([1, 2, 3, 4]);
    if let [first, name] = args.as_slice()
        && first == "--count"
    {
        return count_here(name);
    }
    let has = |flag: &str| args.iter().any(|arg| arg == flag);
    let wanted = |name: &str| {
        let mut patterns = args.iter().filter(|arg| !arg.starts_with("--")).peekable();
        patterns.peek().is_none() || patterns.any(|pattern| name.contains(pattern.as_str()))
    };
    let chosen: Vec<(&str, Make)> = ALL.into_iter().filter(|(name, _)| wanted(name)).collect();
    if has("--times") {
        for (name, make) in chosen {
            println!("{name:<20} {:>8.1} ns/frame", time(make()));
        }
        return ExitCode::SUCCESS;
    }
    let tolerance = args.iter().find_map(|arg| arg.strip_prefix("--tolerance="));
    let tolerance = match tolerance.map_or(Ok(TOLERANCE_PERCENT), str::parse) {
        Ok(percent) => percent,
        Err(error) => {
            eprintln!("instructions: --tolerance wants a number: {error}");
            return ExitCode::FAILURE;
        }
    };
    match compare(&chosen, tolerance, has("--write")) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("instructions: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Counts and prints; true if all are as written down. With `write` they are written down.
fn compare(chosen: &[(&str, Make)], tolerance: f64, write: bool) -> Result<bool, String> {
    let mut known = read_known()?;
    let mut right = true;
    println!(
        "{:<20} {:>10} {:>10} {:>8}",
        "instructions/frame", "known", "now", "change"
    );
    for (name, _) in chosen {
        let now = count(name)?;
        let change = known.get(*name).map(|before| (now / before - 1.0) * 100.0);
        let verdict = match change {
            Some(percent) if percent.abs() <= tolerance => "",
            _ if write => "written",
            Some(percent) if percent < 0.0 => "better than known: write it down with --write",
            _ => "WORSE",
        };
        right &= write || verdict.is_empty();
        println!(
            "{name:<20} {:>10} {now:>10.1} {:>8} {verdict}",
            known.get(*name).map_or("-".into(), |known| format!("{known:.1}")),
            change.map_or("-".into(), |percent| format!("{percent:+.1} %")),
        );
        if write {
            known.insert((*name).to_owned(), now);
        }
    }
    if write {
        known.retain(|name, _| ALL.iter().any(|(other, _)| other == name));
        let lines: String = known
            .iter()
            .map(|(name, count)| format!("{name} {count:.1}\n"))
            .collect();
        fs::write(known_path(), lines).map_err(|error| format!("{}: {error}", known_path().display()))?;
    }
    Ok(right)
}

fn known_path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("benches/instructions.txt")
}

fn read_known() -> Result<BTreeMap<String, f64>, String> {
    let text = fs::read_to_string(known_path()).unwrap_or_default();
    text.lines()
        .map(|line| {
            let (name, count) = line.split_once(' ').ok_or_else(|| format!("what is {line:?}?"))?;
            Ok((
                name.to_owned(),
                count.parse().map_err(|_| format!("what is {line:?}?"))?,
            ))
        })
        .collect()
}

/// Instructions per frame of one scenario, counted in a process of its own under callgrind.
fn count(name: &str) -> Result<f64, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new("valgrind")
        .args([
            "--tool=callgrind",
            "--callgrind-out-file=/dev/null",
            "--collect-atstart=no",
        ])
        .arg(format!("--toggle-collect={MEASURED}"))
        .arg(own)
        .args(["--count", name])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("valgrind: {error}"))?;
    let (said, counted) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    let number =
        |text: &str, mark: &str| -> Option<f64> { text.split_once(mark)?.1.split_whitespace().next()?.parse().ok() };
    match (number(&counted, "Collected :"), number(&said, "frames")) {
        (Some(instructions), Some(frames)) if output.status.success() => Ok(instructions / frames),
        _ => Err(format!("{name}: {}\n{said}{counted}", output.status)),
    }
}

/// What callgrind is told to count, as the symbol is written.
const MEASURED: &str = "*measured*";

#[inline(never)]
fn measured(scenario: &mut Scenario, runs: usize) {
    for _ in 0..runs {
        (scenario.run)();
    }
}

fn count_here(name: &str) -> ExitCode {
    let Some((_, make)) = ALL.into_iter().find(|(other, _)| *other == name) else {
        eprintln!("there is no scenario {name:?}");
        return ExitCode::FAILURE;
    };
    let mut scenario = make();
    // Memory grows to its size.
    (scenario.run)();
    let runs = COUNTED_FRAMES.div_ceil(scenario.frames);
    measured(&mut scenario, runs);
    println!("frames {}", runs * scenario.frames);
    ExitCode::SUCCESS
}

/// The fastest of some rounds, ns per frame.
fn time(mut scenario: Scenario) -> f64 {
    let runs = ROUND_FRAMES.div_ceil(scenario.frames);
    (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            measured(&mut scenario, runs);
            start.elapsed().as_nanos() as f64 / (runs * scenario.frames) as f64
        })
        .fold(f64::MAX, f64::min)
}
