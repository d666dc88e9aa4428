//! The steps of stanzas in the order of time, as lines.

use crate::node::trace::{TraceEvent, TraceShare};
use crate::operate::log::rfc3339;
use crate::operate::status::{bytes, clean, millis};
use std::collections::{HashMap, HashSet};
use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A step is shown so late that those of other nodes that came before it are there, microseconds.
const LATE_US: u64 = 700_000;
/// Another node that says nothing for so long after the beginning takes no part.
const SILENT: Duration = Duration::from_secs(4);
/// Stanzas remembered, so that their further steps stand with them.
const STANZAS_MAX: usize = 10_000;

/// What is to be printed.
pub(super) struct Shown {
    pub(super) text: String,
    pub(super) probe_ended: bool,
}

/// All that was heard so far.
pub(super) struct Story {
    json: bool,
    /// Not shown yet.
    waiting: Vec<TraceEvent>,
    /// By key: its number, and when and where its last step was.
    stanzas: HashMap<String, (u64, u64, String)>,
    numbers: u64,
    /// Nodes of which something was said.
    nodes: HashSet<String>,
}

impl Story {
    pub(super) fn new(json: bool) -> Story {
        Story {
            json,
            waiting: Vec::new(),
            stanzas: HashMap::new(),
            numbers: 0,
            nodes: HashSet::new(),
        }
    }

    /// `since`: how long the trace lasts; `over`: nothing follows.
    pub(super) fn hear(&mut self, share: TraceShare, now: SystemTime, since: Duration, over: bool) -> Shown {
        let mut out = String::new();
        self.waiting.extend(share.events);
        // Stable: the steps of one shard within a microsecond stay in their order.
        self.waiting.sort_by_key(|event| event.at_us);
        let now_us = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        let due_us = u64::try_from(now_us).unwrap_or(u64::MAX).saturating_sub(LATE_US);
        let due = match over {
            true => self.waiting.len(),
            false => self.waiting.partition_point(|event| event.at_us <= due_us),
        };
        let probe_ended = self.waiting[..due].iter().any(|event| event.hop == "end");
        for event in self.waiting.drain(..due).collect::<Vec<_>>() {
            self.tell(&event, &mut out);
        }
        if share.left_out > 0 {
            match self.json {
                true => writeln!(out, "{}", serde_json::json!({ "left_out": share.left_out })),
                false => writeln!(out, "({} steps were left out: too many at a time)", share.left_out),
            }
            .unwrap_or_default();
        }
        for node in share.nodes {
            let silent = !node.answers && since >= SILENT;
            if !(node.answers && node.error_us > 0 || silent) || !self.nodes.insert(node.node.clone()) {
                continue;
            }
            let name = clean(&node.node);
            match (self.json, silent) {
                (true, _) => writeln!(out, "{}", serde_json::json!({ "node": node })),
                (false, true) => writeln!(out, "({name} takes no part: it cannot, or has too many traces already)"),
                (false, false) => writeln!(
                    out,
                    "({name} takes part; its times may be off by {})",
                    millis(node.error_us)
                ),
            }
            .unwrap_or_default();
        }
        if over && !self.json && self.numbers == 0 {
            let _ = writeln!(out, "(nothing came in {} s)", since.as_secs());
        }
        Shown { text: out, probe_ended }
    }

    fn tell(&mut self, event: &TraceEvent, out: &mut String) {
        if self.json {
            let _ = writeln!(out, "{}", serde_json::to_string(event).unwrap_or_default());
            return;
        }
        let time = clock(event.at_us);
        let known = self.stanzas.get(&event.key).filter(|_| event.hop != "from").cloned();
        let (number, last_us, last_node) = known.unwrap_or_else(|| {
            self.numbers += 1;
            let size = match event.frame_bytes {
                0 => String::new(),
                size => format!(" ({})", bytes(size)),
            };
            let _ = writeln!(out, "{time} #{} {}{size}", self.numbers, clean(&event.stanza));
            (self.numbers, event.at_us, event.node.clone())
        });
        let since_us = event.at_us.saturating_sub(last_us);
        // Two clocks, compared.
        let sign = if last_node == event.node { '+' } else { '~' };
        let (node, shard) = (clean(&event.node), event.shard);
        let after = format!("{sign}{}.{:03} ms", since_us / 1_000, since_us % 1_000);
        let _ = writeln!(out, "{time} #{number} {after:>12}  {node}/{shard}  {}", step(event));
        if let Some(payload) = &event.payload {
            let _ = writeln!(out, "{time} #{number} | {}", clean(payload));
        }
        if self.stanzas.len() >= STANZAS_MAX {
            self.stanzas.clear();
        }
        self.stanzas
            .insert(event.key.clone(), (number, event.at_us, event.node.clone()));
    }
}

/// One step in an operator's words.
fn step(event: &TraceEvent) -> String {
    let what = clean(&event.what);
    let behind = event
        .queue_bytes
        .map_or_else(String::new, |n| format!(", behind {}", bytes(n)));
    match event.hop.as_str() {
        "from" => format!("from {what}"),
        "from-node" => format!("from node {what}"),
        "shard" => format!("to shard {what}"),
        "node" => format!("to node {what}{behind}"),
        "queued" => format!("queued for {what}{behind}"),
        "written" => format!("written to {what}"),
        "held" => format!("held, {what}"),
        "dropped" => format!("dropped: {what}"),
        "bounced" => format!("sent back: {what}"),
        "end" => format!("ends at {what}{behind}"),
        _ => what,
    }
}

/// Time of day, UTC, microseconds.
fn clock(at_us: u64) -> String {
    let text = rfc3339(UNIX_EPOCH + Duration::from_micros(at_us));
    let (from, to) = ("YYYY-MM-DDT".len(), "YYYY-MM-DDThh:mm:ss.mmm".len());
    format!("{}{:03}", text.get(from..to).unwrap_or(&text), at_us % 1_000)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::node::trace::TraceNode;

    /// 2023-11-14T22:13:20Z.
    const T: u64 = 1_700_000_000_000_000;

    fn event(at_us: u64, node: &str, key: &str, hop: &str, what: &str) -> TraceEvent {
        TraceEvent {
            at_us: T + at_us,
            node: node.into(),
            key: key.into(),
            hop: hop.into(),
            what: what.into(),
            stanza: "message chat id=x\u{1b}[2J to v@b.test".into(),
            frame_bytes: 312,
            ..TraceEvent::default()
        }
    }

    fn hear(story: &mut Story, events: Vec<TraceEvent>, at_us: u64) -> String {
        let share = TraceShare {
            events,
            ..TraceShare::default()
        };
        let now = UNIX_EPOCH + Duration::from_micros(T + at_us);
        story.hear(share, now, Duration::from_secs(1), false).text
    }

    #[test]
    fn steps_of_several_nodes_come_in_the_order_of_time() {
        let mut story = Story::new(false);
        let near = vec![event(500, "a", "k", "node", "b"), event(100, "a", "k", "from", "c2s")];
        assert_eq!(
            hear(&mut story, near, 1_000),
            "",
            "what another node says may come before it"
        );
        let far = vec![
            event(1_700, "b", "k", "from-node", "a"),
            event(90, "a", "other", "from", "sm"),
        ];
        let text = hear(&mut story, far, 800_000);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "22:13:20.000090 #1 message chat id=x?[2J to v@b.test (312 B)",
                "22:13:20.000090 #1    +0.000 ms  a/0  from sm",
                "22:13:20.000100 #2 message chat id=x?[2J to v@b.test (312 B)",
                "22:13:20.000100 #2    +0.000 ms  a/0  from c2s",
                "22:13:20.000500 #2    +0.400 ms  a/0  to node b",
                "22:13:20.001700 #2    ~1.200 ms  b/0  from node a",
            ]
        );
        let again = hear(&mut story, vec![event(900_000, "a", "k", "from", "c2s")], 2_000_000);
        assert!(
            again.starts_with("22:13:20.900000 #3 message"),
            "the same bytes once more: {again}"
        );
    }

    #[test]
    fn what_is_missing_is_said_once() {
        let mut story = Story::new(false);
        let share = |answers| TraceShare {
            left_out: 7,
            nodes: vec![TraceNode {
                node: "b".into(),
                answers,
                error_us: u64::from(answers) * 150,
            }],
            ..TraceShare::default()
        };
        let mut say = |answers, secs| {
            story
                .hear(share(answers), SystemTime::now(), Duration::from_secs(secs), false)
                .text
        };
        assert_eq!(say(false, 1), "(7 steps were left out: too many at a time)\n");
        assert!(say(false, 5).contains("(b takes no part"));
        assert!(!say(false, 6).contains("takes no part"));
        let over = story.hear(TraceShare::default(), SystemTime::now(), Duration::from_secs(7), true);
        assert_eq!(over.text, "(nothing came in 7 s)\n");
        let mut story = Story::new(true);
        let text = story.hear(share(true), SystemTime::now(), Duration::ZERO, false).text;
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(
            (&lines[0]["left_out"], &lines[1]["node"]["node"]),
            (&7.into(), &"b".into())
        );
    }
}
