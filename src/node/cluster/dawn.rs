//! The first moments of a node that is configured with others: it lets no component in before it knows what they have.
//!
//! Else its sm would take for absent whoever has his session elsewhere: it would store what is for him, and contacts
//! would be told what is not true.

use super::Cluster;
use super::peers::PeerView;
use crate::node::Shard;
use crate::node::api::{LinkId, Micros};

/// The longest that components wait, microseconds. A dial is given up after half of it, and a sync takes less.
const DAWN_US: Micros = 2_000_000;

/// On shard 0, until it is over.
#[derive(Debug, Default)]
pub(super) struct Dawn {
    /// When it is over at the latest, once the clock was seen.
    until: Option<Micros>,
    /// Links of components, nothing of which is read yet.
    waiting: Vec<LinkId>,
}

impl Cluster {
    /// Each configured address was tried, and all nodes that are known have told what they have.
    fn knows_the_others(&self) -> bool {
        let tried = |links: &super::links::Links| links.probes.iter().all(super::probes::Probe::was_tried);
        self.links.as_ref().is_none_or(tried) && self.peers.iter().all(PeerView::is_ready)
    }
}

impl Shard {
    /// Shard 0: components are not let in yet.
    pub(in crate::node) fn waits_for_others(&self) -> bool {
        self.cluster.as_ref().is_some_and(|cluster| cluster.dawn.is_some())
    }

    /// Shard 0: a component connected.
    pub(in crate::node) fn wait_for_dawn(&mut self, id: LinkId) {
        let dawn = self.cluster.as_mut().and_then(|cluster| cluster.dawn.as_mut());
        if let Some(dawn) = dawn {
            dawn.waiting.push(id);
            self.pause(id, true);
        }
    }

    /// Lets the components in when it is time.
    pub(super) fn look_at_dawn(&mut self, now: Micros) {
        let Some(cluster) = &mut self.cluster else { return };
        let Some(dawn) = &mut cluster.dawn else { return };
        let until = *dawn.until.get_or_insert(now + DAWN_US);
        if now < until && !cluster.knows_the_others() {
            return self.wake_by(until);
        }
        let dawn = self.cluster.as_mut().and_then(|cluster| cluster.dawn.take());
        for id in dawn.into_iter().flat_map(|dawn| dawn.waiting) {
            self.pause(id, false);
        }
    }
}
