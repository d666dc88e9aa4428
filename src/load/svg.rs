//! The comparison as one picture for a page that takes no HTML: what a frame costs each router, on one scale for all.

use super::html::{COLOURS, escape};
use super::table::{Comparison, number};
use std::fmt::Write;

const WIDTH: f64 = 860.0;
const LABEL: f64 = 340.0;
const VALUE: f64 = 80.0;
const BAR: f64 = 15.0;
const GAP: f64 = 12.0;
const HEAD: f64 = 46.0;
const TEXT: &str = "font-family='system-ui,sans-serif' font-size='12'";

/// A picture with a white ground, legible in dark surroundings too. The scale is logarithmic: each line is ten times the
/// one before.
pub(super) fn figure(results: &[Comparison]) -> String {
    let (low, high) = powers(results);
    let x = |us: f64| {
        LABEL + (us.max(10_f64.powi(low)).log10() - f64::from(low)) / f64::from(high - low) * (WIDTH - LABEL - VALUE)
    };
    let bars: usize = results.iter().map(|result| result.sides.len()).sum();
    let height = HEAD + bars as f64 * BAR + results.len() as f64 * GAP + 8.0;
    let mut out = format!(
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height}' width='{WIDTH}' role='img' {TEXT}>\
         <rect width='{WIDTH}' height='{height}' fill='#fff'/>\n\
         <text x='8' y='18' font-weight='600'>Router CPU per frame, microseconds, logarithmic; less is better</text>\n"
    );
    for power in low..=high {
        let (at, us) = (x(10_f64.powi(power)), 10_f64.powi(power));
        let _ = writeln!(
            out,
            "<line x1='{at:.1}' x2='{at:.1}' y1='{HEAD}' y2='{height}' stroke='#ddd'/><text x='{at:.1}' y='{}' text-anchor='middle' fill='#555'>{us}</text>",
            HEAD - 6.0
        );
    }
    let mut top = HEAD + GAP / 2.0;
    for result in results {
        let middle = top + BAR * result.sides.len() as f64 / 2.0;
        let _ = writeln!(
            out,
            "<text x='8' y='{:.1}'>{}</text>",
            middle + 4.0,
            escape(&result.workload)
        );
        for (side, colour) in result.sides.iter().zip(COLOURS.iter().cycle()) {
            let us = side.cpu_s_per_million.median;
            let _ = writeln!(
                out,
                "<rect x='{LABEL}' y='{top:.1}' width='{:.1}' height='{}' fill='{colour}'/><text x='{:.1}' y='{:.1}'>{} {}</text>",
                x(us) - LABEL,
                BAR - 2.0,
                x(us) + 5.0,
                top + BAR - 4.0,
                number(us),
                escape(&side.router)
            );
            top += BAR;
        }
        top += GAP;
    }
    out.push_str("</svg>\n");
    out
}

/// The powers of ten, in microseconds, between which all bars end.
fn powers(results: &[Comparison]) -> (i32, i32) {
    let all = results.iter().flat_map(|result| &result.sides);
    let costs: Vec<f64> = all
        .map(|side| side.cpu_s_per_million.median)
        .filter(|us| *us > 0.0)
        .collect();
    let low = costs.iter().copied().fold(1.0, f64::min).log10().floor() as i32;
    let high = costs.iter().copied().fold(1.0, f64::max).log10().ceil() as i32;
    (low, high.max(low + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::figures::Figures;
    use crate::load::table::Side;

    #[test]
    fn a_picture_is_well_formed_and_its_bars_are_in_proportion() {
        let figures = |cpu: f64| Figures {
            server_cpu_s_per_million: Some(cpu),
            ..Figures::default()
        };
        let results = [Comparison {
            workload: "a <b>".into(),
            sides: vec![
                Side::of("stock", vec![figures(100.0)]),
                Side::of("new", vec![figures(1.0)]),
            ],
        }];
        assert_eq!(powers(&results), (0, 2));
        let picture = figure(&results);
        let mut widths = Vec::new();
        let mut reader = quick_xml::Reader::from_str(&picture);
        loop {
            match reader.read_event() {
                Ok(quick_xml::events::Event::Eof) => break,
                Ok(quick_xml::events::Event::Empty(tag)) if tag.name().as_ref() == b"rect" => {
                    let width = tag.try_get_attribute("width").ok().flatten();
                    widths.extend(width.and_then(|width| String::from_utf8_lossy(&width.value).parse::<f64>().ok()));
                }
                Ok(_) => {}
                Err(e) => panic!("{e} at {}", reader.buffer_position()),
            }
        }
        assert_eq!(widths, [WIDTH, WIDTH - LABEL - VALUE, 0.0]);
        assert!(picture.contains("a &lt;b&gt;"));
    }
}
