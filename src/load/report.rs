//! Figures as text.

use super::pipe::Figures;
use serde::Serialize;
use std::fmt::Write;

pub(super) fn json(what: &impl Serialize) -> Result<String, String> {
    serde_json::to_string_pretty(what).map_err(|e| e.to_string())
}

/// A line for each measurement.
pub(super) fn table(figures: &[Figures]) -> String {
    let mut out = String::new();
    for f in figures {
        let server = f.server_cpu_s_per_million.map_or("-".into(), |s| format!("{s:.3}"));
        let _ = write!(
            out,
            "{:>6} B  {:>10.0} frames/s  {:>8.1} MB/s  router {server:>8} CPU s/million  generator {:>7.3}",
            f.frame_bytes, f.frames_per_s, f.mb_per_s, f.generator_cpu_s_per_million
        );
        if let Some(t) = &f.round_trip {
            let _ = write!(
                out,
                "  round trip us: p50 {:.1} p90 {:.1} p99 {:.1} p99.9 {:.1} p99.99 {:.1} max {:.1}",
                t.p50_us, t.p90_us, t.p99_us, t.p99_9_us, t.p99_99_us, t.max_us
            );
        }
        out.push('\n');
    }
    out
}
