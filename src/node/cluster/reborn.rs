//! What a node is told that comes back as another process: of which sessions of its former life the contacts were told.
//!
//! Its sm may have outlived it. When that one finds its clients gone it tells the contacts once more; see
//! [`farewell`](crate::node::farewell). The node hears it before it lets its sm in (see [`dawn`](super::dawn)).

use super::Cluster;
use super::message::Note;
use crate::node::Shard;
use crate::node::api::Micros;
use crate::node::farewell::ANY_SM;
use crate::node::lane::Message;
use crate::table::PeerId;
use crate::table::rows::Row;

/// Most sessions of which one shard remembers this.
const TOLD_AWAY_MAX: usize = 65_536;

impl Cluster {
    /// A node is gone, and so are the sessions of this row: their contacts are told, or the users are online elsewhere.
    pub(super) fn note_told_away(&mut self, bare: &str, row: &Row) {
        let room = TOLD_AWAY_MAX.saturating_sub(self.told_away.values().map(Vec::len).sum());
        let shown = row.sessions.iter().filter(|session| session.available);
        let sessions = shown.map(|session| format!("{bare}/{}", session.resource).into());
        self.told_away.entry(row.peer).or_default().extend(sessions.take(room));
    }

    /// A node is back. Of the same process nothing was taken: its rows come back with it.
    pub(super) fn told_away(&mut self, peer: PeerId, reborn: bool) -> Vec<Box<str>> {
        let sessions = self.told_away.remove(&peer).unwrap_or_default();
        if reborn { sessions } else { Vec::new() }
    }
}

impl Shard {
    /// A peer's home: it is another process than before, and will join as such.
    pub fn peer_reborn(&mut self, peer: PeerId) {
        if let Some(cluster) = &mut self.cluster
            && !cluster.reborn.contains(&peer)
        {
            cluster.reborn.push(peer);
        }
    }

    /// A peer's home: whether the peer that joins is another process than before. It is asked once.
    pub(super) fn is_reborn(&mut self, peer: PeerId) -> bool {
        let Some(cluster) = &mut self.cluster else { return false };
        let before = cluster.reborn.len();
        cluster.reborn.retain(|other| *other != peer);
        cluster.reborn.len() < before
    }

    /// A peer's home: it is told.
    pub(super) fn post_told_away(&mut self, peer: PeerId, sessions: &[Box<str>]) {
        for full in sessions {
            self.post_note(peer, &Note::ToldAway { full });
        }
    }

    /// This node was told so of a session of its former life.
    pub(super) fn was_told_away(&mut self, now: Micros, full: &str) {
        let sessions = [crate::node::farewell::hash(full)].into();
        let sm = ANY_SM.into();
        self.tell_all(now, &Message::SessionsTaken { sm, sessions });
    }
}
