//! Routers side by side: each workload against all of them, taking turns, so that whatever the machine does happens to
//! every one.

use super::rows::{self, KEYS, Row, Stage, Who};
use super::server::{Folder, Kind, Server};
use super::table::{self, Comparison, Side};
use super::{How, report, svg};
use std::path::PathBuf;

/// `jidmesh load compare`
#[derive(clap::Args, Debug)]
pub(super) struct CompareArgs {
    /// The stock router.
    #[arg(long, default_value = "/usr/sbin/jabberd2-router")]
    stock: PathBuf,
    /// jidmesh; this very program if left out.
    #[arg(long)]
    jidmesh: Option<PathBuf>,
    /// jidmesh's tuning profile: a name, or a file (with its whole path); one shard of the usual settings if left out.
    #[arg(long, value_name = "PROFILE")]
    tuning: Option<String>,
    /// Runs of each measurement, routers taking turns.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Pins the routers to these CPUs, as `taskset -c` has them; in the row `shards` each shard has a CPU, from 0 on.
    #[arg(long, default_value = "0", value_name = "CPUS")]
    server_cpu: String,
    /// Numbers of shards that the row `shards` compares.
    #[arg(long, value_delimiter = ',', default_value = "1,2", value_parser = clap::value_parser!(u16).range(1..=1024))]
    shards: Vec<u16>,
    /// Only these rows.
    #[arg(long, value_delimiter = ',', value_parser = clap::builder::PossibleValuesParser::new(KEYS))]
    rows: Vec<String>,
    /// Leaves these out: jabberd2-router, jidmesh, relay.
    #[arg(long, value_delimiter = ',', value_name = "ROUTER")]
    without: Vec<String>,
    /// Users who are logged in, in the rows that have users.
    #[arg(long, default_value_t = 1_000_000)]
    sessions: usize,
    /// Writes one picture of what a frame costs each router to this file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    #[command(flatten)]
    how: How,
}

/// Starts the routers, measures, ends them.
pub(super) fn run(args: &CompareArgs) -> Result<String, String> {
    if args.runs == 0 {
        return Err("--runs must be 1 or more".into());
    }
    let folder = Folder::new()?;
    let mut results = Vec::new();
    for row in rows::all(args.sessions) {
        if args.rows.is_empty() || args.rows.iter().any(|key| key == row.key) {
            results.push(measure(&row, args, &folder)?);
        }
    }
    if let Some(file) = &args.svg {
        std::fs::write(file, svg::figure(&results)).map_err(|e| format!("{}: {e}", file.display()))?;
    }
    report::comparisons(&results, &args.how, table::markdown)
}

/// One row: fresh routers, one after the other in each run.
fn measure(row: &Row, args: &CompareArgs, folder: &Folder) -> Result<Comparison, String> {
    let mut sides = Vec::new();
    for (kind, cpus) in kinds(row.who, args)? {
        let server = Server::start(&kind, folder, &cpus)?;
        let stage = Stage::set(&row.scene, server.router(), &args.how.cpu, args.how.progress());
        let stage = stage.map_err(|e| blame(&server, &e))?;
        sides.push((server, stage, Vec::new()));
    }
    let workload = sides.first().map_or(String::new(), |(_, stage, _)| stage.name());
    for run in 0..args.runs {
        for (server, stage, figures) in &mut sides {
            if args.how.progress() {
                eprintln!("{workload}: run {} of {}, {}", run + 1, args.runs, server.name);
            }
            let measured = stage.measure(&[server.pid()], &args.how.timing());
            figures.push(measured.map_err(|e| format!("{workload}: {}", blame(server, &e)))?);
        }
    }
    let sides = sides
        .into_iter()
        .map(|(server, _, figures)| Side::of(&server.name, figures));
    Ok(Comparison {
        workload,
        sides: sides.collect(),
    })
}

/// Which routers, and on which CPUs.
fn kinds(who: Who, args: &CompareArgs) -> Result<Vec<(Kind, String)>, String> {
    let own = std::env::current_exe().map_err(|e| format!("where is this program? {e}"))?;
    let program = args.jidmesh.clone().unwrap_or_else(|| own.clone());
    let jidmesh = |name: String, tuning: String| Kind::Jidmesh {
        program: program.clone(),
        name,
        tuning,
    };
    let profile = args.tuning.clone().unwrap_or_default();
    let there = |kind: Kind| (kind, args.server_cpu.clone());
    let usual = if profile.is_empty() { " shards='1'" } else { "" };
    let one = jidmesh("jidmesh".into(), format!("<tuning{usual}>{profile}</tuning>"));
    let both = [there(Kind::Stock(args.stock.clone())), there(one)];
    let mut kinds: Vec<_> = match who {
        Who::Routers => both.into(),
        Who::WithRelay { pairs } => both
            .into_iter()
            .chain([there(Kind::Relay { program: own, pairs })])
            .collect(),
        Who::Shards => {
            let of = |count: &u16| {
                let name = format!("jidmesh, {count} shard{}", if *count == 1 { "" } else { "s" });
                let tuning = format!("<tuning shards='{count}'>{profile}</tuning>");
                (jidmesh(name, tuning), format!("0-{}", count - 1))
            };
            args.shards.iter().map(of).collect()
        }
    };
    kinds.retain(|(kind, _)| !args.without.iter().any(|name| *name == kind.name()));
    Ok(kinds)
}

fn blame(server: &Server, why: &str) -> String {
    format!("{}: {why}{}", server.name, server.log_tail())
}
