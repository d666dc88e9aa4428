//! The figures as one page that needs nothing else: plots are SVG in the text.

use super::table::{Comparison, Side, Spread, number};
use std::fmt::Write;

/// A colour for each router, in turn; readable by the colour-blind.
pub(super) const COLOURS: [&str; 4] = ["#0072b2", "#d55e00", "#009e73", "#777777"];
/// Size of a plot, and of the room for its words.
const WIDTH: f64 = 620.0;
const LABEL: f64 = 150.0;
const VALUE: f64 = 130.0;
const BAR: f64 = 22.0;
const LATENCY_HEIGHT: f64 = 200.0;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:1340px;margin:2em auto;padding:0 1em;color:#222}\
section{margin:2.5em 0}h2{font-size:1.15em}h3{font-size:.95em;margin:.6em 0 .2em;font-weight:600}\
.plots{display:flex;flex-wrap:wrap;gap:1.5em}svg{max-width:100%;height:auto}text{font:12px system-ui,sans-serif;fill:#222}\
table{border-collapse:collapse;margin:.5em 0}td,th{padding:.15em .8em;text-align:right;border-bottom:1px solid #ddd}\
td:first-child,th:first-child{text-align:left}";

/// The whole page. `command`: how the figures were made.
pub(super) fn page(results: &[Comparison], command: &str) -> String {
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'><title>jidmesh load</title>\
         <style>{STYLE}</style></head><body>\n<h1>jidmesh load</h1>\n\
         <p><code>{}</code></p>\n<p>Median of the runs; the thin line goes from the lowest to the highest. \
         Every frame was checked: it came once, in order, unaltered.</p>\n",
        escape(command)
    );
    for comparison in results {
        let _ = writeln!(
            out,
            "<section><h2>{}</h2>\n<div class='plots'>",
            escape(&comparison.workload)
        );
        let speed = bars(&comparison.sides, |side| side.frames_per_s);
        let cpu = bars(&comparison.sides, |side| side.cpu_s_per_million);
        for (title, plot) in [
            ("Frames per second", speed),
            ("Router CPU seconds per million frames", cpu),
        ] {
            let _ = writeln!(out, "<div><h3>{title}</h3>{plot}</div>");
        }
        let _ = writeln!(
            out,
            "<div><h3>Latency, microseconds</h3>{}</div></div>",
            latencies(&comparison.sides)
        );
        out.push_str(&details(&comparison.sides));
        out.push_str("</section>\n");
    }
    out.push_str("</body></html>\n");
    out
}

fn colour(at: usize) -> &'static str {
    COLOURS[at % COLOURS.len()]
}

/// A bar for each router.
fn bars(sides: &[Side], value: fn(&Side) -> Spread) -> String {
    let most = sides
        .iter()
        .map(|side| value(side).max)
        .fold(f64::MIN_POSITIVE, f64::max);
    let x = |value: f64| LABEL + value / most * (WIDTH - LABEL - VALUE);
    let height = BAR * 1.5 * sides.len() as f64;
    let mut out = format!("<svg viewBox='0 0 {WIDTH} {height}' width='{WIDTH}' role='img'>");
    for (at, side) in sides.iter().enumerate() {
        let spread = value(side);
        let top = at as f64 * BAR * 1.5;
        let middle = top + BAR / 2.0;
        let _ = write!(
            out,
            "<text x='{}' y='{}' text-anchor='end'>{}</text>\
             <rect x='{LABEL}' y='{top}' width='{:.1}' height='{BAR}' fill='{}'/>\
             <line x1='{:.1}' x2='{:.1}' y1='{middle}' y2='{middle}' stroke='#222'/>\
             <text x='{:.1}' y='{}'>{}</text>",
            LABEL - 8.0,
            middle + 4.0,
            escape(&side.router),
            x(spread.median) - LABEL,
            colour(at),
            x(spread.min),
            x(spread.max),
            x(spread.max) + 8.0,
            middle + 4.0,
            number(spread.median),
        );
    }
    out.push_str("</svg>");
    out
}

/// A line for each router over the percentiles; the scale is logarithmic.
fn latencies(sides: &[Side]) -> String {
    let all = || sides.iter().flat_map(|side| &side.latency).map(|point| point.us.median);
    let positive = || all().filter(|us| *us > 0.0);
    if positive().next().is_none() {
        return "<p>none</p>".into();
    }
    let low = positive().fold(f64::MAX, f64::min).log10().floor();
    let high = positive().fold(f64::MIN, f64::max).log10().ceil().max(low + 1.0);
    let y = |us: f64| LATENCY_HEIGHT * (high - us.max(10_f64.powf(low)).log10()) / (high - low) + 10.0;
    let x = |at: usize| 70.0 + at as f64 * 95.0;
    let full = LATENCY_HEIGHT + 40.0;
    let mut out = format!("<svg viewBox='0 0 {WIDTH} {full}' width='{WIDTH}' role='img'>");
    for power in low as i32..=high as i32 {
        let (line, us) = (y(10_f64.powi(power)), 10_f64.powi(power));
        let _ = write!(
            out,
            "<line x1='60' x2='480' y1='{line:.1}' y2='{line:.1}' stroke='#ddd'/>\
             <text x='54' y='{:.1}' text-anchor='end'>{us}</text>",
            line + 4.0
        );
    }
    for (at, side) in sides.iter().enumerate() {
        let points: Vec<String> = side
            .latency
            .iter()
            .enumerate()
            .map(|(at, point)| format!("{:.1},{:.1}", x(at), y(point.us.median)))
            .collect();
        let _ = write!(
            out,
            "<polyline points='{}' fill='none' stroke='{}' stroke-width='2'/>\
             <text x='490' y='{}' style='fill:{}'>{}</text>",
            points.join(" "),
            colour(at),
            20.0 + at as f64 * 18.0,
            colour(at),
            escape(&side.router)
        );
    }
    for (at, point) in sides.iter().flat_map(|side| side.latency.iter().enumerate()).take(5) {
        let _ = write!(
            out,
            "<text x='{:.1}' y='{}' text-anchor='middle'>{}</text>",
            x(at),
            LATENCY_HEIGHT + 30.0,
            point.percentile
        );
    }
    out.push_str("</svg>");
    out
}

/// The numbers behind the plots.
fn details(sides: &[Side]) -> String {
    let mut out = String::from(
        "<table><tr><th>router</th><th>frames/s</th><th>MB/s</th><th>CPU s/million</th><th>memory MB</th>\
         <th>p50 us</th><th>p90</th><th>p99</th><th>p99.9</th><th>p99.99</th><th>runs</th></tr>\n",
    );
    for side in sides {
        let limit = if side.generator_was_the_limit > 0 {
            " (the generator was the limit)"
        } else {
            ""
        };
        let _ = write!(
            out,
            "<tr><td>{}{limit}</td><td>{}</td><td>{}</td><td>{}</td><td>{:.0}</td>",
            escape(&side.router),
            number(side.frames_per_s.median),
            number(side.mb_per_s.median),
            number(side.cpu_s_per_million.median),
            side.mb_max.max
        );
        for point in &side.latency {
            let _ = write!(out, "<td>{}</td>", number(point.us.median));
        }
        let _ = writeln!(out, "<td>{}</td></tr>", side.runs.len());
    }
    out.push_str("</table>\n");
    out
}

pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::figures::{Figures, Latency};

    #[test]
    fn a_page_needs_nothing_from_outside_and_is_well_formed() {
        let figures = |speed: f64| Figures {
            frames_per_s: speed,
            server_cpu_s_per_million: Some(1e6 / speed),
            latency: vec![Latency {
                p50_us: 80.0,
                p99_us: 1200.0,
                ..Latency::default()
            }],
            ..Figures::default()
        };
        let results = [Comparison {
            workload: "a <b> & c".into(),
            sides: vec![
                Side::of("s", vec![figures(1e5)]),
                Side::of("j", vec![figures(2e6), figures(3e6)]),
            ],
        }];
        let page = page(&results, "jidmesh load compare");
        for outside in ["http", "src=", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(page.contains("a &lt;b&gt; &amp; c") && page.contains("2.50 M"));
        let body = &page[page.find("<body>").unwrap_or(0)..page.find("</html>").unwrap_or(0)];
        let mut reader = quick_xml::Reader::from_str(body);
        loop {
            match reader.read_event() {
                Ok(quick_xml::events::Event::Eof) => break,
                Ok(_) => {}
                Err(e) => panic!("{e} at {}", reader.buffer_position()),
            }
        }
    }
}
