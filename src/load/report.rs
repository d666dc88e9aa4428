//! Figures as text.

use super::How;
use super::figures::Figures;
use super::html;
use super::table::{Comparison, Side};
use serde::Serialize;
use std::fmt::Write;

/// Figures of one router, as asked for.
pub(super) fn figures(figures: Vec<Figures>, how: &How) -> Result<String, String> {
    let text = lines(&figures);
    let one = |figures: Figures| Comparison {
        workload: figures.workload.clone(),
        sides: vec![Side::of("router", vec![figures])],
    };
    let results: Vec<Comparison> = figures.into_iter().map(one).collect();
    comparisons(&results, how, |_| text)
}

/// The same for several routers; `text` makes what people read.
pub(super) fn comparisons(
    results: &[Comparison],
    how: &How,
    text: impl FnOnce(&[Comparison]) -> String,
) -> Result<String, String> {
    if let Some(file) = &how.html {
        let command: Vec<String> = std::env::args().skip(1).collect();
        let page = html::page(results, &format!("jidmesh {}", command.join(" ")));
        std::fs::write(file, page).map_err(|e| format!("{}: {e}", file.display()))?;
    }
    if how.json { json(&results) } else { Ok(text(results)) }
}

fn json(what: &impl Serialize) -> Result<String, String> {
    serde_json::to_string_pretty(what).map_err(|e| e.to_string())
}

/// A few lines for each measurement.
fn lines(figures: &[Figures]) -> String {
    let mut out = String::new();
    for f in figures {
        let server = f.server_cpu_s_per_million.map_or("-".into(), |s| format!("{s:.3}"));
        let _ = writeln!(out, "{}", f.workload);
        let _ = writeln!(
            out,
            "  {:.0} frames/s  {:.1} MB/s  {:.0} B a frame  router {server} CPU s/million  generator {:.3}, {:.0} % busy{}",
            f.frames_per_s,
            f.mb_per_s,
            f.frame_bytes,
            f.generator_cpu_s_per_million,
            f.generator_busy * 100.0,
            if f.generator_is_the_limit { " and the limit" } else { "" },
        );
        if let Some(logins) = f.logins_per_s {
            let _ = writeln!(out, "  {logins:.0} logins/s");
        }
        if f.bounced + f.undelivered > 0 {
            let _ = writeln!(
                out,
                "  {} came back as errors, {} are still on their way",
                f.bounced, f.undelivered
            );
        }
        if let Some(mb) = f.server_mb_max {
            let _ = writeln!(out, "  router memory {mb:.0} MB at most");
        }
        for l in &f.latency {
            let _ = writeln!(
                out,
                "  latency us, {}: p50 {:.1} p90 {:.1} p99 {:.1} p99.9 {:.1} p99.99 {:.1} max {:.1} ({} frames)",
                l.group, l.p50_us, l.p90_us, l.p99_us, l.p99_9_us, l.p99_99_us, l.max_us, l.count
            );
        }
    }
    out
}
