//! Routers side by side: each workload against all of them, taking turns, so that whatever the machine does happens to
//! every one.

use super::engine::Engine;
use super::figures::{Figures, Latency};
use super::server::{Folder, Kind, Server};
use super::workload::Sending;
use super::workload::pairs::{self, PingArgs, PipeArgs};
use super::workload::users::{self, UsersArgs};
use super::{CompareArgs, report};
use serde::Serialize;
use std::fmt::Write;

/// A row of the table: a workload.
struct Row {
    /// For `--rows`.
    key: &'static str,
    scene: Scene,
}

enum Scene {
    Pipe(PipeArgs, usize),
    Ping(PingArgs, usize),
    Users(UsersArgs),
}

/// The rows, in the order of the table.
fn rows(sessions: usize) -> Vec<Row> {
    let pipe = |pairs, bytes, single| {
        let args = PipeArgs {
            bytes: Vec::new(),
            pairs,
            foreign: false,
            sending: Sending {
                single,
                ..Sending::default()
            },
        };
        Scene::Pipe(args, bytes)
    };
    let ping = |bytes| {
        let args = PingArgs {
            bytes: Vec::new(),
            pairs: 1,
        };
        Scene::Ping(args, bytes)
    };
    let users = |whole| {
        Scene::Users(UsersArgs {
            sessions,
            active: sessions.min(10_000),
            skew: 1.0,
            sm: 12,
            c2s: 4,
            whole,
            sending: Sending::default(),
        })
    };
    let row = |key, scene| Row { key, scene };
    vec![
        row("pipe", pipe(1, 265, false)),
        row("pipe", pipe(1, 1024, false)),
        row("pipe", pipe(1, 16 << 10, false)),
        row("users", users(false)),
        row("whole", users(true)),
        row("single", pipe(32, 265, true)),
        row("ping", ping(265)),
        row("large", pipe(1, 1 << 20, false)),
        row("links", pipe(256, 265, false)),
    ]
}

/// Starts the routers, measures, ends them.
pub(super) fn run(args: &CompareArgs) -> Result<String, String> {
    if args.runs == 0 {
        return Err("--runs must be 1 or more".into());
    }
    let all = rows(args.sessions);
    if let Some(unknown) = args.rows.iter().find(|key| !all.iter().any(|row| row.key == **key)) {
        return Err(format!("--rows {unknown}: no such row"));
    }
    let wanted = |row: &&Row| args.rows.is_empty() || args.rows.iter().any(|key| key == row.key);
    let folder = Folder::new()?;
    let mut results = Vec::new();
    for row in all.iter().filter(wanted) {
        results.push(measure(row, args, &folder)?);
    }
    if args.how.json {
        report::json(&results)
    } else {
        Ok(table(&results))
    }
}

/// One row: fresh routers, one after the other in each run.
fn measure(row: &Row, args: &CompareArgs, folder: &Folder) -> Result<Comparison, String> {
    let own = std::env::current_exe().map_err(|e| format!("where is this program? {e}"))?;
    let jidmesh = args.jidmesh.clone().unwrap_or(own);
    let mut kinds = vec![Kind::Stock(args.stock.clone()), Kind::Jidmesh(jidmesh)];
    kinds.retain(|kind| args.only.is_empty() || args.only.iter().any(|name| name == kind.name()));
    let mut sides = Vec::new();
    for kind in kinds {
        let server = Server::start(&kind, folder, &args.server_cpu)?;
        let engine = engine(&row.scene, &server, args).map_err(|e| blame(&server, &e))?;
        sides.push((server, engine, Vec::new()));
    }
    for run in 0..args.runs {
        for (server, engine, figures) in &mut sides {
            if args.how.progress() {
                eprintln!("run {} of {}: {}", run + 1, args.runs, server.name);
            }
            let measured = engine.measure(&[server.pid()], &args.how.timing());
            figures.push(measured.map_err(|e| blame(server, &e))?);
        }
    }
    let workload = sides
        .first()
        .map_or(String::new(), |(_, engine, _)| engine.plan.name.clone());
    let sides = sides
        .into_iter()
        .map(|(server, _, figures)| Side::of(server.name, figures));
    Ok(Comparison {
        workload,
        sides: sides.collect(),
    })
}

fn engine(scene: &Scene, server: &Server, args: &CompareArgs) -> Result<Engine, String> {
    let routers = [server.router()];
    let (plan, links) = match scene {
        Scene::Pipe(pipe, bytes) => pairs::pipe(pipe, *bytes, &routers)?,
        Scene::Ping(ping, bytes) => pairs::ping(ping, *bytes, &routers)?,
        Scene::Users(who) => users::users(who, &routers, args.how.progress())?,
    };
    Engine::new(plan, links, &args.how.cpu)
}

fn blame(server: &Server, why: &str) -> String {
    format!("{}: {why}{}", server.name, server.log_tail())
}

/// One workload, all routers.
#[derive(Debug, Serialize)]
pub(super) struct Comparison {
    pub(super) workload: String,
    pub(super) sides: Vec<Side>,
}

/// One router's runs, and their medians.
#[derive(Debug, Serialize)]
pub(super) struct Side {
    pub(super) router: &'static str,
    pub(super) frames_per_s: Spread,
    pub(super) mb_per_s: Spread,
    pub(super) cpu_s_per_million: Spread,
    /// Of the first group of links.
    pub(super) p50_us: Spread,
    pub(super) p99_us: Spread,
    pub(super) p99_99_us: Spread,
    /// In how many runs this generator was the limit.
    pub(super) generator_was_the_limit: usize,
    pub(super) runs: Vec<Figures>,
}

impl Side {
    fn of(router: &'static str, runs: Vec<Figures>) -> Side {
        let spread = |value: &dyn Fn(&Figures) -> f64| Spread::of(runs.iter().map(value));
        let first = |value: fn(&Latency) -> f64| spread(&|f| f.latency.first().map_or(0.0, value));
        Side {
            router,
            frames_per_s: spread(&|f| f.frames_per_s),
            mb_per_s: spread(&|f| f.mb_per_s),
            cpu_s_per_million: spread(&|f| f.server_cpu_s_per_million.unwrap_or(0.0)),
            p50_us: first(|l| l.p50_us),
            p99_us: first(|l| l.p99_us),
            p99_99_us: first(|l| l.p99_99_us),
            generator_was_the_limit: runs.iter().filter(|f| f.generator_is_the_limit).count(),
            runs,
        }
    }
}

/// Of several runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Spread {
    /// All 0 without a value.
    fn of(values: impl Iterator<Item = f64>) -> Spread {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let (Some(&min), Some(&max)) = (values.first(), values.last()) else {
            return Spread::default();
        };
        let half = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[half]
        } else {
            (values[half - 1] + values[half]) / 2.0
        };
        Spread { median, min, max }
    }

    fn text(self) -> String {
        format!("{} ({}..{})", number(self.median), number(self.min), number(self.max))
    }
}

/// Three digits that matter, and no more than that.
pub(super) fn number(value: f64) -> String {
    if value >= 1e6 {
        format!("{:.2} M", value / 1e6)
    } else if value >= 1e4 {
        format!("{:.0} k", value / 1e3)
    } else if value >= 100.0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.3}")
    }
}

/// A Markdown table, as README.md has it. Ratios are against the first router.
fn table(results: &[Comparison]) -> String {
    let mut out = String::from(
        "| workload | router | frames/s | router CPU s per million frames | ratio: speed, CPU | p50 us | p99 us |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for comparison in results {
        let first = &comparison.sides[0];
        for side in &comparison.sides {
            let limit = if side.generator_was_the_limit > 0 { " *" } else { "" };
            let ratios = if side.router == first.router {
                String::new()
            } else {
                format!(
                    "{:.2}, 1/{:.1}",
                    side.frames_per_s.median / first.frames_per_s.median,
                    first.cpu_s_per_million.median / side.cpu_s_per_million.median
                )
            };
            let _ = writeln!(
                out,
                "| {} | {} | {}{limit} | {} | {ratios} | {} | {} |",
                comparison.workload,
                side.router,
                side.frames_per_s.text(),
                side.cpu_s_per_million.text(),
                side.p50_us.text(),
                side.p99_us.text()
            );
        }
    }
    out.push_str("\nMedian (lowest..highest). *: the generator was the limit, the router could have done more.\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(speed: f64) -> Figures {
        Figures {
            frames_per_s: speed,
            server_cpu_s_per_million: Some(1e6 / speed),
            ..Figures::default()
        }
    }

    #[test]
    fn medians_and_ratios() {
        let side = |router, speeds: &[f64]| Side::of(router, speeds.iter().map(|s| figures(*s)).collect());
        let results = [Comparison {
            workload: "w".into(),
            sides: vec![side("s", &[100.0, 300.0, 200.0]), side("j", &[900.0, 1000.0, 1100.0])],
        }];
        let text = table(&results);
        assert!(
            text.contains("| w | s | 200 (100..300) |") && text.contains("5.00, 1/5.0"),
            "{text}"
        );
        assert_eq!(Spread::of([4.0, 2.0].into_iter()).median, 3.0);
        assert_eq!(Spread::of(std::iter::empty()), Spread::default());
    }
}
