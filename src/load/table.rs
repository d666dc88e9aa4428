//! Medians and ratios of several runs, and the table of them.

use super::figures::{Figures, Latency};
use serde::Serialize;
use std::fmt::Write;

/// One workload, all routers.
#[derive(Debug, Serialize)]
pub(super) struct Comparison {
    pub(super) workload: String,
    pub(super) sides: Vec<Side>,
}

/// One router's runs, and their medians.
#[derive(Debug, Serialize)]
pub(super) struct Side {
    pub(super) router: String,
    pub(super) frames_per_s: Spread,
    pub(super) mb_per_s: Spread,
    pub(super) cpu_s_per_million: Spread,
    pub(super) mb_max: Spread,
    /// Of the workload's first group of links.
    pub(super) latency: Vec<Point>,
    /// In how many runs this generator was the limit.
    pub(super) generator_was_the_limit: usize,
    pub(super) runs: Vec<Figures>,
}

/// One percentile.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Point {
    pub(super) percentile: &'static str,
    pub(super) us: Spread,
}

type Pick = fn(&Latency) -> f64;

const PERCENTILES: [(&str, Pick); 5] = [
    ("p50", |l| l.p50_us),
    ("p90", |l| l.p90_us),
    ("p99", |l| l.p99_us),
    ("p99.9", |l| l.p99_9_us),
    ("p99.99", |l| l.p99_99_us),
];

impl Side {
    pub(super) fn of(router: &str, runs: Vec<Figures>) -> Side {
        let spread = |value: &dyn Fn(&Figures) -> f64| Spread::of(runs.iter().map(value));
        let point = |(percentile, pick): (&'static str, Pick)| Point {
            percentile,
            us: spread(&|f| f.latency.first().map_or(0.0, pick)),
        };
        Side {
            router: router.to_owned(),
            frames_per_s: spread(&|f| f.frames_per_s),
            mb_per_s: spread(&|f| f.mb_per_s),
            cpu_s_per_million: spread(&|f| f.server_cpu_s_per_million.unwrap_or(0.0)),
            mb_max: spread(&|f| f.server_mb_max.unwrap_or(0.0)),
            latency: PERCENTILES.into_iter().map(point).collect(),
            generator_was_the_limit: runs.iter().filter(|f| f.generator_is_the_limit).count(),
            runs,
        }
    }

    fn at(&self, percentile: &str) -> Spread {
        let point = self.latency.iter().find(|point| point.percentile == percentile);
        point.map(|point| point.us).unwrap_or_default()
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
    pub(super) fn of(values: impl Iterator<Item = f64>) -> Spread {
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

    pub(super) fn text(self) -> String {
        if self.max == 0.0 {
            return "-".into();
        }
        format!("{} ({}..{})", number(self.median), number(self.min), number(self.max))
    }
}

/// As many digits as matter.
pub(super) fn number(value: f64) -> String {
    match value {
        _ if value >= 1e6 => format!("{:.2} M", value / 1e6),
        _ if value >= 1e4 => format!("{:.0} k", value / 1e3),
        _ if value >= 100.0 => format!("{value:.0}"),
        _ if value >= 10.0 => format!("{value:.1}"),
        _ if value >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// A Markdown table, as README.md has it. Ratios are against the first router of each row.
pub(super) fn markdown(results: &[Comparison]) -> String {
    let mut out = String::from(
        "| workload | router | frames/s | router CPU s per million frames | frames/s, CPU against the first | \
         latency p50 us | p99 us | memory MB |\n|---|---|---|---|---|---|---|---|\n",
    );
    for comparison in results {
        for side in &comparison.sides {
            let limit = if side.generator_was_the_limit > 0 { " *" } else { "" };
            let ratios = match comparison.sides.first() {
                Some(first) if first.router != side.router => ratios(first, side),
                _ => String::new(),
            };
            let _ = writeln!(
                out,
                "| {} | {} | {}{limit} | {} | {ratios} | {} | {} | {:.0} |",
                comparison.workload,
                side.router,
                side.frames_per_s.text(),
                side.cpu_s_per_million.text(),
                side.at("p50").text(),
                side.at("p99").text(),
                side.mb_max.max,
            );
        }
    }
    out.push_str("\nMedian (lowest..highest). *: the generator was the limit, the router could have done more.\n");
    out
}

fn ratios(first: &Side, side: &Side) -> String {
    let speed = side.frames_per_s.median / first.frames_per_s.median;
    let cpu = side.cpu_s_per_million.median / first.cpu_s_per_million.median;
    if cpu < 1.0 {
        format!("{speed:.2}x, 1/{:.1}", 1.0 / cpu)
    } else {
        format!("{speed:.2}x, {cpu:.2}x")
    }
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
        let text = markdown(&results);
        assert!(text.contains("| w | s | 200 (100..300) |"), "{text}");
        assert!(text.contains("5.00x, 1/5.0 |"), "{text}");
        assert_eq!(Spread::of([4.0, 2.0].into_iter()).median, 3.0);
        assert_eq!(Spread::of(std::iter::empty()), Spread::default());
    }
}
