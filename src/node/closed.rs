//! The links that ended lately, and why: what an operator asks for the morning after.

use super::api::{CloseCause, LinkId, Micros};
use super::link::Stage;
use super::report::ClosedReport;
use super::{Shard, cause_text};
use std::collections::VecDeque;
use std::sync::Arc;

/// Most links that one shard remembers so; the oldest goes first.
pub const CLOSED_MAX: usize = 10_000;

/// Ended links, oldest first.
#[derive(Debug, Default)]
pub(super) struct ClosedLinks(VecDeque<Arc<ClosedReport>>);

impl ClosedLinks {
    fn push(&mut self, report: ClosedReport) {
        if self.0.len() >= CLOSED_MAX {
            self.0.pop_front();
        }
        self.0.push_back(Arc::new(report));
    }

    /// For another process of this node.
    pub(super) fn share(&self) -> Vec<ClosedReport> {
        self.0.iter().map(|report| (**report).clone()).collect()
    }

    /// Those of all shards of a former process.
    pub(super) fn restore(&mut self, mut former: Vec<ClosedReport>) {
        former.sort_by_key(|report| report.closed_us);
        former.into_iter().for_each(|report| self.push(report));
    }

    /// All of them; shared, as a shard has no time to copy ten thousand.
    pub(super) fn all(&self) -> Vec<Arc<ClosedReport>> {
        self.0.iter().cloned().collect()
    }
}

/// Why jidmesh ends a link, and whose it was; noted when it is decided, as the seat may be gone before the socket is.
#[derive(Debug)]
pub(super) struct Ending {
    who: Box<str>,
    why: Box<str>,
}

impl Shard {
    /// jidmesh ends this link. The first reason counts.
    pub(super) fn note_ending(&mut self, id: LinkId, why: &str) {
        let Some(link) = self.link(id).filter(|link| link.ending.is_none()) else {
            return;
        };
        let who = self.label_of(&link.stage);
        if let Some(link) = self.link_mut(id) {
            link.ending = Some(Ending { who, why: why.into() });
        }
    }

    /// A link's socket is gone. A dial that came to nothing never was a link.
    pub(super) fn note_closed(
        &mut self,
        now: Micros,
        ending: Option<Ending>,
        stage: &Stage,
        cause: &CloseCause,
        (remote, opened_at): (std::net::SocketAddr, Micros),
    ) {
        if matches!(stage, Stage::Dialling(_)) {
            return;
        }
        let by = match stage {
            Stage::Peer(_) | Stage::Stranger(..) => "other node",
            Stage::Uplink(..) => "stock router",
            _ => "component",
        };
        let ending = ending.unwrap_or_else(|| Ending {
            who: self.label_of(stage),
            why: cause_text(cause, by).into(),
        });
        self.closed_links.push(ClosedReport {
            closed_us: now,
            lived_us: now.saturating_sub(opened_at),
            link: ending.who,
            remote,
            shard: self.id,
            reason: ending.why,
        });
    }

    /// Whose link it is; empty while nobody knows.
    fn label_of(&self, stage: &Stage) -> Box<str> {
        match stage {
            Stage::Seated { seat, .. } | Stage::Closing { seat: Some(seat) } | Stage::Contending { seat, .. } => {
                self.names.seat(*seat).map_or_else(Box::default, |view| view.id.clone())
            }
            Stage::Peer(peer) => self.peer_name(*peer).into(),
            Stage::Uplink(..) => "uplink".into(),
            _ => Box::default(),
        }
    }
}
