//! The tables of `jidmesh status`.

use super::{Drain, Name, Seat, View};
use std::fmt::Write;

/// The whole picture as text.
pub(super) fn tables(view: &View) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "node     {}  jidmesh {}  pid {}",
        clean(&view.node),
        clean(&view.version),
        view.pid
    );
    let _ = writeln!(out, "health   {}", clean(&view.health));
    let _ = writeln!(out, "uptime   {}", span(view.uptime_s));
    let _ = writeln!(out, "config   {}", clean(&view.config_digest));
    let _ = writeln!(out, "shards   {} ({} answered)", view.shards, view.shards_answered);
    let _ = writeln!(
        out,
        "users    {} with {} sessions, {} available; {} starts pending",
        view.users, view.sessions, view.sessions_available, view.starts_pending
    );
    let _ = writeln!(
        out,
        "waiting  {} for components, {} held; {} links negotiating",
        bytes(view.queue_bytes),
        bytes(view.held_bytes),
        view.links_negotiating
    );
    if view.traces > 0 {
        let _ = writeln!(
            out,
            "traces   {} under way, by operators of this or other nodes",
            view.traces
        );
    }
    if let Some(drain) = &view.drain {
        show_drain(drain, view.uptime_us, &mut out);
    }
    out.push('\n');
    if let Some(uplink) = &view.uplink {
        let (lines, router) = (
            format!("{} of {}", uplink.lines_up, uplink.lines),
            clean(&uplink.router),
        );
        let (names, waiting) = (uplink.names, uplink.queue_bytes);
        let _ = writeln!(
            out,
            "uplink   attached to the stock router at {router}: {lines} connections, {names} names, {waiting} bytes wait"
        );
    }
    if let Some(mesh) = &view.mesh {
        super::mesh::show(mesh, view, &mut out);
    }
    links(view, &mut out);
    names(&view.names, &mut out);
    counters(view, &mut out);
    out
}

fn show_drain(drain: &Drain, uptime_us: u64, out: &mut String) {
    let since = span(uptime_us.saturating_sub(drain.began_us) / 1_000_000);
    let ended = drain.ended;
    let _ = match drain.done {
        true => writeln!(out, "drain    done, begun {since} ago: {ended} sessions ended"),
        false => writeln!(
            out,
            "drain    for {since}: {ended} sessions ended, {} left in this round at {} a second, {} rounds more{}",
            drain.left,
            drain.rate_per_s,
            drain.rounds_left,
            if drain.to.is_empty() {
                String::new()
            } else {
                format!("; to {}", clean(&drain.to))
            }
        ),
    };
}

fn links(view: &View, out: &mut String) {
    const HEAD: [&str; 13] = [
        "LINK", "KIND", "STATE", "FOR", "REMOTE", "USER", "TLS", "SHARD", "QUEUE", "IN", "OUT", "SESSIONS", "RETURNS",
    ];
    let row = |s: &Seat| {
        let age = span(view.uptime_us.saturating_sub(s.since_us) / 1_000_000);
        let tls = if s.tls { "yes" } else { "no" };
        [
            clean(&s.id),
            clean(&s.kind),
            clean(&s.state),
            age,
            clean(&s.remote),
            clean(&s.user),
            tls.into(),
            s.shard.to_string(),
            bytes(s.queue_bytes),
            s.frames_in.to_string(),
            s.frames_out.to_string(),
            s.sessions.to_string(),
            s.returns.to_string(),
        ]
    };
    table(
        HEAD,
        "no component is connected",
        &view.seats.iter().map(row).collect::<Vec<_>>(),
        out,
    );
}

fn names(names: &[Name], out: &mut String) {
    let row = |n: &Name| {
        let mut notes: Vec<String> = Vec::new();
        for (set, note) in [
            (n.clustered, "users placed"),
            (n.default_route, "default route"),
            (n.log_sink, "log sink"),
        ] {
            if set {
                notes.push(note.into());
            }
        }
        notes.extend(n.alias_of.iter().map(|of| format!("alias of {}", clean(of))));
        let holders: Vec<String> = n.holders.iter().map(|h| clean(h)).collect();
        [clean(&n.name), holders.join(", "), notes.join(", ")]
    };
    table(
        ["NAME", "HOLDERS", ""],
        "no name is bound",
        &names.iter().map(row).collect::<Vec<_>>(),
        out,
    );
}

fn counters(view: &View, out: &mut String) {
    let shown = view.counters.iter().filter(|c| c.value > 0);
    let row = |c: &super::Counter| {
        let labels = if c.labels.is_empty() {
            String::new()
        } else {
            format!("{{{}}}", c.labels)
        };
        [clean(&format!("{}{labels}", c.name)), c.value.to_string()]
    };
    table(
        ["COUNTER", "VALUE"],
        "nothing was counted yet",
        &shown.map(row).collect::<Vec<_>>(),
        out,
    );
}

/// Columns as wide as their widest cell, or `none` when there are no rows.
pub(in crate::operate) fn table<const N: usize>(head: [&str; N], none: &str, rows: &[[String; N]], out: &mut String) {
    if rows.is_empty() {
        let _ = writeln!(out, "{none}\n");
        return;
    }
    let head = head.map(String::from);
    let mut widths = [0; N];
    for row in std::iter::once(&head).chain(rows) {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    for row in std::iter::once(&head).chain(rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out.push('\n');
}

/// Names come from other machines: nothing in them may reach the terminal as a command.
pub(in crate::operate) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Seconds as the two greatest units: `3d 4h`.
pub(in crate::operate) fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h {}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

pub(in crate::operate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn tables_show_links_names_and_counters_that_moved() {
        let json = r#"{"node":"a.example.net","version":"9","pid":7,"uptime_s":90061,"uptime_us":90061000000,
            "config_digest":"ab12","shards":2,"shards_answered":2,"health":"ok","users":3,"sessions":4,
            "seats":[{"id":"sm","kind":"sm","state":"connected","remote":"127.0.0.1:9","user":"jabberd","since_us":90001000000,
                      "queue_bytes":2048,"frames_in":11,"frames_out":12,"sessions":4,"returns":1}],
            "names":[{"name":"example.net","holders":["sm"],"clustered":true}],
            "counters":[{"name":"a_total","labels":"","value":0},{"name":"b_total","labels":"k=\"v\"","value":5}],
            "of_a_later_version":[1]}"#;
        let text = tables(&serde_json::from_str(json).unwrap());
        assert!(text.contains("uptime   1d 1h"), "{text}");
        let link = text.lines().find(|l| l.starts_with("sm ")).unwrap();
        let cells: Vec<&str> = link.split_whitespace().collect();
        assert_eq!(
            cells,
            [
                "sm",
                "sm",
                "connected",
                "1m",
                "0s",
                "127.0.0.1:9",
                "jabberd",
                "no",
                "0",
                "2.0",
                "KiB",
                "11",
                "12",
                "4",
                "1"
            ]
        );
        assert!(
            text.contains("users placed") && text.contains("b_total{k=\"v\"}") && !text.contains("a_total"),
            "{text}"
        );
    }

    #[test]
    fn names_cannot_command_the_terminal() {
        let view = View {
            node: "a\u{1b}[2J\nhealth ok".into(),
            ..View::default()
        };
        let text = tables(&view);
        assert!(
            !text.contains('\u{1b}') && text.lines().next().unwrap().contains("a?[2J?health ok"),
            "{text}"
        );
    }

    #[test]
    fn an_empty_node_says_so() {
        let text = tables(&View::default());
        for said in [
            "no component is connected",
            "no name is bound",
            "nothing was counted yet",
        ] {
            assert!(text.contains(said), "{text}");
        }
    }

    #[test]
    fn units_are_the_readable_ones() {
        assert_eq!(
            [bytes(0), bytes(1023), bytes(1024), bytes(5 << 30), bytes(3 << 50)],
            ["0 B", "1023 B", "1.0 KiB", "5.0 GiB", "3072.0 TiB"]
        );
        assert_eq!(
            [span(59), span(61), span(7_200), span(90_000)],
            ["59s", "1m 1s", "2h 0m", "1d 1h"]
        );
    }
}
