//! A node that reaches no other serves its own users, and says so.

use super::peers::PeerView;
use crate::node::Shard;
use crate::node::api::{Level, Micros};
use crate::node::lane::PeerState;

/// A node that is alone says so when it has been for so long, microseconds: a start or a short cut is no news.
const SAID_AFTER_US: Micros = 5_000_000;
/// And again each time that so much more has passed.
const SAID_AGAIN_US: Micros = 60_000_000;
/// Most addresses that one line names.
const NAMED_MAX: usize = 5;

/// What was said of it. On shard 0.
#[derive(Debug, Default)]
pub(super) struct Alone {
    /// When to say it next; `None`: other nodes are reached, or none are expected.
    says_at: Option<Micros>,
    /// It was said, and not taken back.
    said: bool,
}

impl Alone {
    pub(super) fn is_alone(&self) -> bool {
        self.says_at.is_some()
    }
}

impl PeerView {
    pub(super) fn is_reached(&self) -> bool {
        matches!(self.state, PeerState::Joining | PeerState::Ready)
    }
}

impl Shard {
    /// Shard 0: says so when no other node is reached for long, though there should be some.
    pub(super) fn look_whether_alone(&mut self, now: Micros) {
        let expected = self.config.mesh.as_ref().is_some_and(|mesh| !mesh.peers.is_empty());
        let Some(cluster) = self.cluster.as_mut().filter(|_| self.id == 0) else {
            return;
        };
        let expected = match &cluster.links {
            Some(links) => links.probes.iter().any(|probe| probe.unreached().is_some()),
            None => expected,
        };
        let alone = (expected || !cluster.peers.is_empty()) && !cluster.peers.iter().any(PeerView::is_reached);
        if !alone {
            cluster.alone.says_at = None;
            if std::mem::take(&mut cluster.alone.said) {
                self.log(Level::Notice, None, "mesh: this node is no longer alone".into());
            }
            return;
        }
        let says_at = *cluster.alone.says_at.get_or_insert(now + SAID_AFTER_US);
        if says_at <= now {
            cluster.alone.says_at = Some(now + SAID_AGAIN_US);
            cluster.alone.said = true;
            let text = self.alone_text();
            self.log(Level::Error, None, text);
            return self.wake_by(now + SAID_AGAIN_US);
        }
        self.wake_by(says_at);
    }

    fn alone_text(&self) -> String {
        let unreached = self.report_unreached();
        let mut text = "mesh: no other node is reached: this node serves its own users only".to_owned();
        for (at, peer) in unreached.iter().take(NAMED_MAX).enumerate() {
            let before = if at == 0 { "; " } else { ", " };
            text.push_str(&format!("{before}{}: {}", peer.address, peer.why));
        }
        text
    }
}
