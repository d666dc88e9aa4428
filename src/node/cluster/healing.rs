//! After a healing: who was told, or believes, that somebody is offline who was only out of reach.
//!
//! While a node is out of reach, each shard notes for the absent users of its slice what would have been different had
//! they been there: who was told that they, or one of their sessions, are gone, whose presence did not reach them, who
//! asked for theirs. When
//! the row of such a user comes back, each note becomes the probe that sm itself would have sent, and the answers put
//! every picture right. Only contacts whom an sm served by subscription are noted, so no probe is ever untrusted.

use super::Cluster;
use super::peers::PeerView;
use crate::jid::{self, TableMap};
use crate::node::Shard;
use crate::node::api::Micros;
use crate::node::counters::Counter;
use crate::node::lane::{Message, PeerState};
use crate::table::names::Multi;
use crate::table::users::Session;
use crate::wire::NS_CLIENT;
use crate::wire::edit;
use crate::wire::header::{self, Frame, Payload, PayloadKind, Route};
use std::borrow::Cow;
use std::collections::VecDeque;

/// Most notes of one shard: beyond it pictures of the longest absent stay wrong until they change.
const NOTES_MAX: usize = 262_144;

/// Probes sent a tick (200 ms): 2 500 a second and shard.
const PROBES_PER_TICK: usize = 500;

/// After a row came back other nodes have so long to hear of it too, microseconds.
const SETTLED_US: Micros = 1_000_000;

/// Sessions of which this node tells that they are gone, or that gave way, are remembered for so long, microseconds; and
/// so many.
const TELLING_US: Micros = 15_000_000;
const TELLING_MAX: usize = 4_096;

/// So many probes that are due are searched for the same one.
const SAME_MAX: usize = 256;

/// A probe to be sent: from whom, to whom (bare JIDs).
pub(super) type Pair = (Box<str>, Box<str>);

/// The notes of one shard's slice.
#[derive(Debug, Default)]
pub(super) struct Healing {
    pub(super) by_absent: TableMap<Box<str>, Vec<Pair>>,
    pub(super) notes: usize,
    /// Full JIDs whose contacts are being told.
    pub(super) telling: VecDeque<(Micros, Box<str>)>,
    /// Full JIDs that gave way to a newer claim, and their bare ones.
    pub(super) moved: VecDeque<(Micros, Box<str>)>,
    pub(super) due: VecDeque<(Micros, Pair)>,
}

impl Shard {
    /// A node that is known is out of reach (which it is before it counts as gone), or has not told all it has; or others
    /// are expected, and none was met since the start.
    fn is_torn(&self) -> bool {
        let (Some(cluster), Some(mesh)) = (&self.cluster, &self.config.mesh) else {
            return false;
        };
        let gone = |view: &PeerView| view.state != PeerState::Ready;
        cluster.peers.iter().any(gone) || (cluster.peers.is_empty() && !mesh.peers.is_empty())
    }

    /// Every shard: the contacts of this session are being told that it is gone.
    pub(in crate::node) fn telling(&mut self, now: Micros, full: Box<str>) {
        if let Some(cluster) = &mut self.cluster {
            remember(&mut cluster.healing.telling, now, full);
        }
    }

    /// Every shard: this session gave way to a newer claim.
    pub(in crate::node) fn moved(&mut self, now: Micros, full: Box<str>) {
        if let Some(cluster) = &mut self.cluster {
            remember(&mut cluster.healing.moved, now, full);
        }
    }

    /// A presence from sm: is it one that tells a contact what may turn out to be untrue? That somebody is gone who is only
    /// out of reach; or that one of his sessions is, which really is, while others out of reach were never seen here.
    pub(in crate::node) fn note_told(&mut self, now: Micros, payload: &Payload<'_>) {
        let Some((from, contact)) = farewell(payload).filter(|_| self.is_torn()) else {
            return;
        };
        let full = jid::full_key(&from);
        let telling = |cluster: &Cluster| {
            let mut telling = remembered(&cluster.healing.telling, now);
            telling.any(|session| Some(session) == full.as_deref())
        };
        // What he told himself goes to a resource, perhaps of somebody who has no subscription.
        if contact.contains('/') && !self.cluster.as_deref().is_some_and(telling) {
            return;
        }
        let (Some(absent), Some(contact)) = (jid::bare_key(&from), jid::bare_key(&contact)) else {
            return;
        };
        if full.is_none() || absent == contact {
            return;
        }
        let (absent, contact): (Box<str>, Box<str>) = (absent.into(), contact.into());
        let owner = self.owner(&absent);
        let pair = (contact, absent.clone());
        self.tell(now, owner, Message::Absent { absent, pair });
    }

    /// A contact is about to hear, or would have heard, that a session is gone which gave way to others: he has seen those
    /// of this side only, and asks for the rest. Not before this frame is on its way: it may be old.
    pub(in crate::node) fn note_moved(&mut self, now: Micros, payload: &Payload<'_>) {
        let cluster = self.cluster.as_ref();
        let Some((absent, contact)) = cluster.and_then(|cluster| farewell_of(&cluster.healing.moved, now, payload))
        else {
            return;
        };
        // A resource: not in the roster, but told by the client itself.
        let directed = payload.to.is_some_and(|to| to.0.contains(&b'/'));
        if directed || contact == absent || !self.is_served(&contact) {
            return;
        }
        let Some(cluster) = &mut self.cluster else { return };
        let (due, pair) = (&mut cluster.healing.due, (contact, absent));
        // One user's sessions end together.
        if due.iter().rev().take(SAME_MAX).any(|(_, known)| *known == pair) {
            return;
        }
        if due.len() >= NOTES_MAX {
            return self.count(Counter::HealingNotesLost);
        }
        due.push_back((now + SETTLED_US, pair));
        self.wake_by(now + crate::node::TICK_US);
    }

    /// Presence for a user who has no session, as far as this node can see. (One that begins here may come to nothing.)
    pub(in crate::node) fn note_presence(&mut self, payload: &Payload<'_>, absent: &str) {
        // One whose client is gone already does not count.
        let stays = |session: &Session| !session.ending && self.names.seat(session.c2s).is_some();
        let has_session = self
            .users
            .get(absent)
            .is_some_and(|user| user.sessions.iter().any(stays));
        if payload.kind != PayloadKind::Presence || has_session || !self.is_torn() {
            return;
        }
        if let Some(pair) = self.pair_of(payload, absent) {
            self.note_absent(absent, pair);
        }
    }

    /// A presence for a user of a node that is gone, which may have come there or not. If he comes back, he is asked.
    pub(super) fn note_doubtful(&mut self, now: Micros, payload: &Payload<'_>, absent: &str) {
        if payload.kind == PayloadKind::Presence
            && let Some(pair) = self.pair_of(payload, absent)
        {
            let owner = self.owner(absent);
            let absent = absent.into();
            self.tell(now, owner, Message::Absent { absent, pair });
        }
    }

    /// The probe that shows what this presence for an absent user would have shown or asked.
    fn pair_of(&self, payload: &Payload<'_>, absent: &str) -> Option<Pair> {
        let from = payload.from?.unescape()?;
        let contact = jid::bare_key(&from).filter(|contact| &**contact != absent && self.is_served(contact))?;
        match payload.kind_attr.map(|kind| kind.0) {
            None | Some(b"unavailable") => Some((absent.into(), (&*contact).into())),
            Some(b"probe") => Some(((&*contact).into(), absent.into())),
            _ => None,
        }
    }

    /// The same for a frame on its way to another node.
    pub(super) fn note_moved_abroad(&mut self, now: Micros, frame: &[u8]) {
        let cluster = self.cluster.as_ref();
        if cluster.is_some_and(|cluster| !cluster.healing.moved.is_empty())
            && let Ok(Frame::Route(Route {
                payload: Some(payload), ..
            })) = header::read(frame)
        {
            self.note_moved(now, &payload);
        }
    }

    /// He is one of this cluster's users.
    fn is_served(&self, bare: &str) -> bool {
        self.names
            .get(crate::node::placement::domain_of(bare))
            .is_some_and(|(_, name)| name.multi == Multi::To)
    }

    /// The slice of an absent user: this probe is due when his row comes back.
    pub(in crate::node) fn note_absent(&mut self, absent: &str, pair: Pair) {
        let Some(cluster) = &mut self.cluster else { return };
        let healing = &mut cluster.healing;
        let known = healing.by_absent.get(absent).is_some_and(|pairs| pairs.contains(&pair));
        if known {
            return;
        }
        if healing.notes >= NOTES_MAX {
            return self.count(Counter::HealingNotesLost);
        }
        healing.notes += 1;
        healing.by_absent.entry(absent.into()).or_default().push(pair);
    }

    /// A user is served here: who has just begun is announced by his sm himself. While a node is out of reach, the notes
    /// are kept: he may have a session there too.
    pub(super) fn is_here(&mut self, bare: &str) {
        if self.is_torn() {
            return;
        }
        if let Some(cluster) = &mut self.cluster
            && let Some(pairs) = cluster.healing.by_absent.remove(bare)
        {
            cluster.healing.notes -= pairs.len();
        }
    }

    /// A user's row came.
    pub(super) fn is_back(&mut self, now: Micros, bare: &str, online: bool) {
        let Some(cluster) = self.cluster.as_mut().filter(|cluster| cluster.healing.notes > 0) else {
            return;
        };
        let Some(pairs) = cluster.healing.by_absent.remove(bare) else {
            return;
        };
        cluster.healing.notes -= pairs.len();
        if online {
            let at = now + SETTLED_US;
            cluster.healing.due.extend(pairs.into_iter().map(|pair| (at, pair)));
            self.wake_by(now + crate::node::TICK_US);
        }
    }

    /// Sends the probes that are due. True when some are left.
    pub(in crate::node) fn tick_healing(&mut self, now: Micros) -> bool {
        let Some(cluster) = &mut self.cluster else { return false };
        let ripe = cluster.healing.due.iter().take_while(|(at, _)| *at <= now).count();
        let count = ripe.min(PROBES_PER_TICK);
        let due: Vec<(Micros, Pair)> = cluster.healing.due.drain(..count).collect();
        let left = !cluster.healing.due.is_empty();
        for (_, (from, to)) in due {
            self.count(Counter::HealingProbes);
            let mut probe = format!("<presence xmlns='{NS_CLIENT}' type='probe' from='").into_bytes();
            edit::escape(&from, &mut probe);
            probe.extend_from_slice(b"' to='");
            edit::escape(&to, &mut probe);
            probe.extend_from_slice(b"'/>");
            self.send_own(now, &probe);
        }
        left
    }
}

fn remember(list: &mut VecDeque<(Micros, Box<str>)>, now: Micros, full: Box<str>) {
    while list.front().is_some_and(|(at, _)| at + TELLING_US <= now) || list.len() >= TELLING_MAX {
        list.pop_front();
    }
    list.push_back((now, full));
}

/// What is not too old, though nothing newer has come.
fn remembered(list: &VecDeque<(Micros, Box<str>)>, now: Micros) -> impl Iterator<Item = &str> {
    let young = list.iter().filter(move |(at, _)| now < at + TELLING_US);
    young.map(|(_, full)| &**full)
}

/// Who says farewell, and to whom.
fn farewell<'f>(payload: &Payload<'f>) -> Option<(Cow<'f, str>, Cow<'f, str>)> {
    if payload.kind != PayloadKind::Presence || payload.kind_attr?.0 != b"unavailable" {
        return None;
    }
    payload.from?.unescape().zip(payload.to?.unescape())
}

/// Whose farewell it is and who is told (bare JIDs), if it is that of one of these sessions.
fn farewell_of(sessions: &VecDeque<(Micros, Box<str>)>, now: Micros, payload: &Payload<'_>) -> Option<Pair> {
    let (from, to) = farewell(payload).filter(|_| !sessions.is_empty())?;
    let full = jid::full_key(&from)?;
    remembered(sessions, now).find(|session| **session == *full)?;
    Some((jid::bare_key(&from)?.into(), jid::bare_key(&to)?.into()))
}
