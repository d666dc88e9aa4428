//! A picture on the terminal. It is read in black and white as well: colour only repeats what the words say.

use super::picture::{JIDS, LINKS, LOSSES, MEMBERS, NAMES, PATHS, Picture, SHARDS};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Paragraph, Row, Table};

/// Most rows of the tables that are not the links', lines.
const ROWS_MAX: usize = 8;

/// Draws the whole picture; what has no room is left out, links last.
pub(super) fn draw(frame: &mut Frame<'_>, picture: &Picture) {
    let height = |rows: usize| match rows {
        0 => 0,
        rows => u16::try_from(rows.min(ROWS_MAX)).unwrap_or(0) + 2,
    };
    let [head, members, losses, paths, jids, names, shards, links] = Layout::vertical([
        Constraint::Length(u16::try_from(picture.head.len()).unwrap_or(0) + 1),
        Constraint::Length(height(picture.members.len())),
        Constraint::Length(height(picture.losses.len())),
        Constraint::Length(height(picture.paths.len())),
        Constraint::Length(height(picture.jids.len())),
        Constraint::Length(height(picture.names.len())),
        // One shard says no more than the head.
        Constraint::Length(if picture.shards.len() > 1 {
            height(picture.shards.len())
        } else {
            0
        }),
        Constraint::Min(3),
    ])
    .areas(frame.area());
    let alarm = match picture.healthy {
        true => Style::new(),
        false => Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
    };
    let lines = picture.head.iter().enumerate().map(|(at, text)| match at {
        0 => Line::styled(&**text, Modifier::BOLD),
        1 => Line::styled(&**text, alarm),
        _ => Line::raw(&**text),
    });
    frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()), head);
    table(frame, members, MEMBERS, &picture.members);
    table(frame, losses, LOSSES, &picture.losses);
    table(frame, paths, PATHS, &picture.paths);
    table(frame, jids, JIDS, &picture.jids);
    table(frame, names, NAMES, &picture.names);
    if picture.shards.len() > 1 {
        table(frame, shards, SHARDS, &picture.shards);
    }
    table(frame, links, LINKS, &picture.links);
}

fn table<const N: usize>(frame: &mut Frame<'_>, area: Rect, head: [&str; N], rows: &[[String; N]]) {
    let room = usize::from(area.height.saturating_sub(1));
    if rows.is_empty() || room == 0 {
        return;
    }
    let widths: [Constraint; N] = std::array::from_fn(|column| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        let width = cells.max().unwrap_or(0).max(head[column].len());
        Constraint::Length(u16::try_from(width).unwrap_or(u16::MAX))
    });
    let shown = rows
        .iter()
        .take(room)
        .map(|row| Row::new(row.iter().map(String::as_str)));
    let head = Row::new(head).style(Modifier::REVERSED);
    frame.render_widget(Table::new(shown, widths).header(head).column_spacing(2), area);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::operate::sample::Samples;
    use crate::operate::status::View;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn view(uptime_s: u64, frames: u64, dropped: u64) -> View {
        serde_json::from_value(serde_json::json!({
            "node": "a.test", "version": "0.1.0", "pid": 7, "uptime_s": uptime_s, "uptime_us": uptime_s * 1_000_000,
            "health": "c.test is gone", "shards": 2, "users": 3, "sessions": 4,
            "seats": [
                {"id": "c2s", "kind": "c2s", "state": "connected", "shard": 0, "frames_in": 5, "frames_out": 9},
                {"id": "sm\u{1b}[2J", "kind": "sm", "state": "lost", "shard": 1, "queue_bytes": 2048, "frames_in": frames,
                 "frames_out": 2 * frames},
            ],
            "names": [{"name": "example.test", "holders": ["sm\u{1b}[2J"]}],
            "mesh": {"members": [
                {"name": "b.test", "state": "ready", "rows": 70, "link": {"round_trip_us": 1234, "has_told": true,
                 "was_told": true, "messages_sent": frames, "lanes": [{}, {"queue_bytes": 1024}]}},
                {"name": "c.test", "state": "gone"},
            ]},
            "counters": [
                {"name": "jidmesh_frames_received_total", "labels": "", "value": frames},
                {"name": "jidmesh_dropped_total", "labels": "reason=\"queue-full\"", "value": dropped},
                {"name": "jidmesh_conflicts_total", "labels": "", "value": 4},
                {"name": "jidmesh_turns_total", "labels": "", "value": 4},
            ],
        }))
        .unwrap()
    }

    fn samples() -> Samples {
        serde_json::from_value(serde_json::json!({
            "covered_us": 10_000_000, "frames_per_s": 2_000, "samples": 9_000,
            "paths": [{"path": "here", "frames_per_s": 1_900, "p50_us": 90, "p99_us": 1_500, "max_us": 25_000}],
            "jids_from": [{"who": "bot@example.test", "frames_per_s": 1_700}, {"who": "a@example.test\u{1b}[2J", "frames_per_s": 40}],
            "names_to": [{"who": "example.test", "frames_per_s": 1_800}],
        }))
        .unwrap()
    }

    fn screen(terminal: &mut Terminal<TestBackend>, picture: &Picture) -> Vec<String> {
        terminal.draw(|frame| draw(frame, picture)).unwrap();
        let buffer = terminal.backend().buffer();
        let rows = buffer.content().chunks(usize::from(buffer.area.width));
        rows.map(|row| {
            row.iter()
                .map(|cell| cell.symbol())
                .collect::<String>()
                .trim_end()
                .to_owned()
        })
        .collect()
    }

    #[test]
    fn a_picture_shows_state_and_rates() {
        let (then, now) = (view(100, 1_000, 0), view(102, 5_000, 60));
        let mut terminal = Terminal::new(TestBackend::new(80, 30)).unwrap();
        let first = screen(&mut terminal, &Picture::of(None, &then, &Samples::default())).join("\n");
        assert!(
            first.contains("frames   -/s in") && !first.contains("dropped"),
            "{first}"
        );
        let lines = screen(&mut terminal, &Picture::of(Some(&then), &now, &samples()));
        let row = |start: &str| -> Vec<&str> {
            let found = lines.iter().find(|line| line.starts_with(start));
            found
                .unwrap_or_else(|| panic!("no {start}: {lines:#?}"))
                .split_whitespace()
                .collect()
        };
        assert_eq!(lines[0], "a.test  jidmesh 0.1.0  pid 7  up 1m 42s");
        assert_eq!(lines[1], "health   c.test is gone");
        assert!(lines[2].starts_with("frames   2000/s in"), "{lines:#?}");
        assert_eq!(
            row("b.test"),
            [
                "b.test", "ready", "1.23", "ms", "70", "equal", "2000", "0", "1.0", "KiB"
            ]
        );
        assert_eq!(row("dropped queue-full"), ["dropped", "queue-full", "30", "60"]);
        assert_eq!(row("conflicts"), ["conflicts", "0", "4"]);
        assert!(
            !lines.iter().any(|line| line.starts_with("turns")),
            "no trouble: {lines:#?}"
        );
        assert_eq!(row("1 "), ["1", "1", "2000", "4000"]);
        assert_eq!(row("here"), ["here", "1900", "90", "1500", "25000"]);
        assert_eq!(row("not handed on"), ["not", "handed", "on", "100", "-", "-", "-"]);
        assert_eq!(row("1700"), ["1700", "bot@example.test"]);
        assert_eq!(row("40"), ["40", "a@example.test?[2J"]);
        assert!(
            lines.iter().any(|line| line.trim() == "1800  example.test"),
            "{lines:#?}"
        );
        // What a component calls itself cannot steer the terminal, and the busiest link comes first.
        assert_eq!(
            row("sm"),
            [
                "sm?[2J",
                "sm",
                "lost",
                "1",
                "2000",
                "4000",
                "2.0",
                "KiB",
                "0",
                "example.test"
            ]
        );
        let place = |start: &str| lines.iter().position(|line| line.starts_with(start)).unwrap();
        assert!(place("sm?") < place("c2s"), "{lines:#?}");
        // The same process again, but it began anew: nothing can be compared.
        let anew = screen(&mut terminal, &Picture::of(Some(&now), &then, &Samples::default())).join("\n");
        assert!(anew.contains("frames   -/s in"), "{anew}");
    }

    #[test]
    fn only_what_changed_is_drawn_and_no_screen_is_too_small() {
        let (then, now) = (view(100, 1_000, 0), view(102, 5_000, 60));
        let picture = Picture::of(Some(&then), &now, &samples());
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
        screen(&mut terminal, &picture);
        let before = terminal.backend().buffer().clone();
        let later = Picture::of(Some(&now), &view(104, 9_000, 60), &samples());
        screen(&mut terminal, &later);
        let changed = before.diff(terminal.backend().buffer()).len();
        assert!(changed > 0 && changed < 100, "{changed} cells of 1920");
        for (width, height) in [(1, 1), (10, 3), (40, 8), (300, 100)] {
            screen(&mut Terminal::new(TestBackend::new(width, height)).unwrap(), &picture);
        }
    }
}
