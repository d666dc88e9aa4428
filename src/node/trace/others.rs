//! A trace on other nodes: they are asked as long as this one is, and tell what happened there.

use super::event::{TraceAsk, TraceNode, TraceShare};
use super::{EVENTS_MAX, Trace};
use crate::node::Shard;
use crate::node::api::Micros;
use crate::table::PeerId;
use serde::{Deserialize, Serialize};

/// How often other nodes are asked again, microseconds.
const RENEW_US: Micros = 1_000_000;
/// A node that has not answered for so long takes no part, microseconds.
const SILENT_US: Micros = 3_000_000;

/// What is known of a node that was asked.
#[derive(Debug)]
pub(super) struct Other {
    peer: PeerId,
    heard_at: Micros,
    /// Its clock less this one's, by the answer with the shortest round trip; and that round trip.
    ahead_us: i64,
    round_trip_us: Micros,
}

/// What one node tells another of a trace.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::node) struct TraceTold {
    id: u64,
    /// The clock of the node that tells.
    now_us: u64,
    /// When it was asked, by the asker's clock; not in what it tells of itself.
    #[serde(default)]
    sent_us: Option<u64>,
    share: TraceShare,
}

impl Shard {
    /// Asks the other nodes for their part, if that is due.
    pub(super) fn ask_others(&mut self, now: Micros, at: usize) {
        let Some(trace) = self.tracing.as_mut().and_then(|tracing| tracing.traces.get_mut(at)) else {
            return;
        };
        if trace.asked_at.is_some_and(|asked| now < asked + RENEW_US) {
            return;
        }
        trace.asked_at = Some(now);
        let ask = trace.ask.clone();
        self.ask_all_nodes(now, &ask);
    }

    pub(super) fn end_at_others(&mut self, now: Micros, trace: &Trace) {
        if trace.by.is_none() && self.id == 0 {
            let over = TraceAsk {
                over: true,
                ..trace.ask.clone()
            };
            self.ask_all_nodes(now, &over);
        }
    }

    fn ask_all_nodes(&mut self, now: Micros, ask: &TraceAsk) {
        for peer in self.peers_reached() {
            self.send_trace_ask(now, peer, ask);
        }
    }

    /// Another node's operator asks.
    pub(in crate::node) fn trace_asked_abroad(
        &mut self,
        now: Micros,
        by: PeerId,
        ask: &TraceAsk,
        sent_us: u64,
    ) -> Option<TraceTold> {
        // Without room it is silent: the asker says that this node takes no part.
        let share = self.trace_asked(now, Some(by), ask).ok()?;
        Some(TraceTold {
            id: ask.id,
            now_us: now,
            sent_us: Some(sent_us),
            share,
        })
    }

    /// Tells the nodes that ask what happened since.
    pub(super) fn tell_askers(&mut self, now: Micros) {
        let Some(tracing) = &mut self.tracing else { return };
        let mut told = Vec::new();
        for trace in &mut tracing.traces {
            if let Some(by) = trace.by
                && (!trace.share.events.is_empty() || trace.share.left_out > 0)
            {
                let share = std::mem::take(&mut trace.share);
                told.push((
                    by,
                    TraceTold {
                        id: trace.ask.id,
                        now_us: now,
                        sent_us: None,
                        share,
                    },
                ));
            }
        }
        for (by, told) in told {
            self.send_trace_told(now, by, told);
        }
    }

    /// Another node tells its part.
    pub(in crate::node) fn trace_told(&mut self, now: Micros, from: PeerId, told: TraceTold) {
        let Some(tracing) = &mut self.tracing else { return };
        let mut traces = tracing.traces.iter_mut();
        let Some(trace) = traces.find(|trace| trace.by.is_none() && trace.ask.id == told.id) else {
            return;
        };
        let at = match trace.others.iter().position(|other| other.peer == from) {
            Some(at) => at,
            None => {
                trace.others.push(Other {
                    peer: from,
                    heard_at: now,
                    ahead_us: 0,
                    round_trip_us: Micros::MAX,
                });
                trace.others.len() - 1
            }
        };
        let other = &mut trace.others[at];
        other.heard_at = now;
        if let Some(round_trip) = told.sent_us.and_then(|sent| now.checked_sub(sent))
            && round_trip < other.round_trip_us
        {
            other.round_trip_us = round_trip;
            let here = now - round_trip / 2;
            other.ahead_us = told.now_us.cast_signed().wrapping_sub(here.cast_signed());
        }
        let ahead = other.ahead_us;
        trace.share.left_out = trace.share.left_out.saturating_add(told.share.left_out);
        for mut event in told.share.events {
            if trace.share.events.len() >= EVENTS_MAX {
                trace.share.left_out += 1;
                continue;
            }
            event.at_us = event.at_us.saturating_sub_signed(ahead);
            trace.share.events.push(event);
        }
        trace.share.tokens.extend(told.share.tokens);
        trace.share.tokens.truncate(super::filter::TOKENS_MAX);
    }

    /// The other nodes' part in a trace.
    pub(super) fn other_nodes(&self, now: Micros, at: usize) -> Vec<TraceNode> {
        let trace = self.tracing.as_ref().and_then(|tracing| tracing.traces.get(at));
        let Some(trace) = trace.filter(|trace| trace.by.is_none() && self.id == 0) else {
            return Vec::new();
        };
        let reached = self.peers_reached().into_iter();
        reached
            .map(|peer| {
                let other = trace.others.iter().find(|other| other.peer == peer);
                let heard = other.filter(|other| now < other.heard_at + SILENT_US);
                TraceNode {
                    node: self.peer_name(peer).to_owned(),
                    answers: heard.is_some(),
                    error_us: heard.map_or(0, |other| other.round_trip_us / 2),
                }
            })
            .collect()
    }

    /// All other nodes that are there take part in the trace.
    pub(super) fn all_take_part(&self, now: Micros, at: usize) -> bool {
        self.other_nodes(now, at).iter().all(|node| node.answers)
    }
}
