//! A shard's slice of the session table: users who have a session, a pending start, or frames that wait.

use super::image::bytes;
use super::rows::Clock;
use super::ways::Path;
use super::{PeerId, SeatId, Token};
use crate::jid::TableMap;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use std::collections::{HashSet, VecDeque};

/// One full JID, at a c2s and an sm.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Session {
    /// Resource, prepared; with the user's key it makes the full JID.
    pub resource: Box<str>,
    /// The c2s that holds the client.
    pub c2s: SeatId,
    /// The client's number there.
    pub number: u32,
    /// The sm-side id.
    pub token: Token,
    /// Sent available presence.
    pub available: bool,
    /// Was ever available: contacts may believe it is, until its sm has handled its end.
    pub shown: bool,
    /// Of the last available presence.
    pub priority: i8,
    /// Its `end` passed.
    pub ending: bool,
    /// How far what waits for its lost c2s was taken back.
    pub recall: Recall,
}

/// What waits for a lost c2s in a session that is about to be replaced is taken back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Recall {
    /// Not begun.
    #[default]
    No,
    /// Its sm is to be fenced behind what it has in hand.
    Asked,
    /// Its sm is fenced.
    Fenced,
    /// It is on its way, or done.
    Done,
}

/// A `start` or `create` that is not answered yet; kept so that it can be placed again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Start {
    /// Who asked.
    pub c2s: SeatId,
    /// The request's `id`.
    pub id: Token,
    /// The resource asked for.
    pub resource: Box<str>,
    /// The whole frame.
    #[serde(with = "bytes")]
    pub frame: Box<[u8]>,
    /// How far it is.
    pub stage: Stage,
    /// How it came.
    pub path: Path,
    /// The sm that it was addressed to by its id, or redirected to.
    pub wish: Option<SeatId>,
}

/// How far a start is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// To be placed.
    Waiting,
    /// Sent to this node: to place it, or to its sm.
    Asked(PeerId),
    /// Handed to the user's sm, which is connected here.
    Sent,
}

/// A frame that waits for the user's placement.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Held {
    /// Its sender.
    pub source: SeatId,
    /// How it came.
    pub path: Path,
    /// The frame.
    pub what: Waiting,
}

/// What waits.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Waiting {
    /// A frame.
    Frame(#[serde(with = "bytes")] Box<[u8]>),
    /// A node wants to know when all before it has gone on.
    Marker(Marker),
}

impl Waiting {
    /// Bytes that count.
    pub fn byte_len(&self) -> usize {
        match self {
            Waiting::Frame(frame) => frame.len(),
            Waiting::Marker(_) => std::mem::size_of::<Marker>(),
        }
    }
}

/// Follows what a shard of a node sent for a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// That node; `None`: this one.
    pub origin: Option<PeerId>,
    /// Its shard.
    pub shard: u16,
    /// Which of its markers.
    pub serial: u64,
}

/// The way to a user changed: frames wait until what went by the old way has arrived or come back.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Turn {
    /// The marker that follows it.
    pub serial: u64,
    /// The node to which it went.
    pub old: PeerId,
    /// Until when at the most, microseconds.
    pub until: u64,
    /// The marker is back.
    pub done: bool,
    /// What came back, in order.
    pub back: VecDeque<Held>,
    /// What waits, in order of arrival.
    pub frames: VecDeque<Held>,
}

/// What a user's frames wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wait {
    /// The answer to a fence at an sm.
    Fence {
        /// The sm that may still be working for the user.
        sm: SeatId,
        /// The fence's number.
        number: u64,
    },
    /// What waited for this component, which is lost, is on its way back: it comes first.
    Return {
        /// The lost c2s or sm.
        of: SeatId,
    },
    /// What an sm said of him is on its way to other nodes.
    Flush,
    /// `ended` of the last session.
    Ended,
    /// The contacts of a lost session are being told.
    Telling,
}

/// The rare part of a user: something is in flight.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Flux {
    /// Unanswered starts, in order of arrival.
    pub starts: Vec<Start>,
    /// Held frames, in the order in which they go on.
    pub held: VecDeque<Held>,
    /// What they wait for, and until when at the most (microseconds).
    pub wait: Option<(Wait, u64)>,
    /// Resources of lost sessions whose contacts are still to be told.
    pub untold: Vec<Box<str>>,
    /// The way to him changed.
    pub turn: Option<Turn>,
}

impl Flux {
    fn is_empty(&self) -> bool {
        self.starts.is_empty()
            && self.held.is_empty()
            && self.wait.is_none()
            && self.untold.is_empty()
            && self.turn.is_none()
    }
}

/// A user of this slice.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct User {
    /// Who serves him, once that is decided.
    pub sm: Option<SeatId>,
    /// His sessions, ghosts included.
    pub sessions: SmallVec<[Session; 1]>,
    /// When this node last took him on; 0 when it has not, or stands alone.
    pub claim: Clock,
    /// What is in flight.
    pub flux: Option<Box<Flux>>,
}

impl User {
    /// The flux, made when there is none.
    pub fn flux(&mut self) -> &mut Flux {
        self.flux.get_or_insert_default()
    }

    /// What his frames wait for.
    pub fn wait(&self) -> Option<Wait> {
        Some(self.flux.as_ref()?.wait?.0)
    }

    /// At least one session is available.
    pub fn is_available(&self) -> bool {
        self.sessions.iter().any(|session| session.available)
    }

    /// Something ties him to his sm: a session, or a start on its way to it.
    pub fn is_tied(&self) -> bool {
        !self.sessions.is_empty()
            || self
                .flux
                .as_ref()
                .is_some_and(|flux| flux.starts.iter().any(|start| start.stage == Stage::Sent))
    }

    /// Starts that are to be placed.
    pub fn wants_place(&self) -> bool {
        self.flux
            .as_ref()
            .is_some_and(|flux| flux.starts.iter().any(|start| start.stage == Stage::Waiting))
    }

    /// Frames wait: for something in flight, or behind others that wait.
    pub fn holds(&self) -> bool {
        self.flux
            .as_ref()
            .is_some_and(|flux| flux.wait.is_some() || !flux.held.is_empty())
    }

    /// Newer frames wait for what waited for a lost component, which itself need not wait: nothing of it is held, and no
    /// start is to go before it.
    pub fn awaits_older(&self) -> bool {
        let returns = |flux: &Flux| matches!(flux.wait, Some((Wait::Return { .. }, _)));
        let goes_on = |flux: &Flux| flux.starts.is_empty() && flux.held.front().is_none_or(|held| !held.path.again);
        self.flux.as_ref().is_some_and(|flux| returns(flux) && goes_on(flux))
    }

    /// All his sessions are ending, and no start follows.
    pub fn is_leaving(&self) -> bool {
        !self.sessions.is_empty()
            && self.sessions.iter().all(|session| session.ending)
            && self.flux.as_ref().is_none_or(|flux| flux.starts.is_empty())
    }

    /// A later session or start has the full JID of this session.
    fn may_be_replaced(&self, at: usize) -> bool {
        let resource = &self.sessions[at].resource;
        self.sessions[at + 1..].iter().any(|later| later.resource == *resource)
            || self
                .flux
                .as_ref()
                .is_some_and(|flux| flux.starts.iter().any(|start| start.resource == *resource))
    }

    /// Something of his outlives a crash of the router: he has a session, or waits for one, or contacts wait for word.
    pub fn is_worth_recovering(&self) -> bool {
        let flux = self.flux.as_ref();
        !self.sessions.is_empty() || flux.is_some_and(|flux| !flux.starts.is_empty() || !flux.untold.is_empty())
    }

    /// The same without frames that wait, and what they wait for.
    pub fn to_recover(&self) -> User {
        let flux = self.flux.as_ref().map(|flux| Flux {
            starts: flux.starts.clone(),
            untold: flux.untold.clone(),
            ..Flux::default()
        });
        User {
            sm: self.sm,
            sessions: self.sessions.clone(),
            claim: self.claim,
            flux: flux.filter(|flux| !flux.is_empty()).map(Box::new),
        }
    }

    /// Finds a session by what session control names.
    pub fn session_mut(&mut self, c2s: SeatId, number: u32, token: &Token) -> Option<&mut Session> {
        self.sessions
            .iter_mut()
            .find(|s| s.c2s == c2s && s.number == number && s.token == *token)
    }
}

/// The slice. Keys are prepared bare JIDs.
#[derive(Debug, Default)]
pub struct Users {
    users: TableMap<Box<str>, User>,
    /// Users tied to each sm: the load that placement balances.
    load: TableMap<SeatId, usize>,
    sessions: usize,
    available: usize,
    /// Users that changed since they were last asked for, while somebody writes them down.
    changed: Option<HashSet<Box<str>>>,
}

/// Most users who are gone and whose end nobody has asked for: whoever writes that slowly begins anew.
const GONE_MAX: usize = 65_536;

impl Users {
    /// So many more are about to come.
    pub fn reserve(&mut self, users: usize) {
        self.users.reserve(users);
    }

    /// From now on it is noted who changes; all of them count as changed.
    pub fn note_changes(&mut self) {
        self.changed = Some(self.users.keys().cloned().collect());
    }

    /// Users that changed since [`Users::note_changes`], each told once: so many at most. `None`: they are not noted, or
    /// not any more, since they were too many.
    pub fn take_changed(&mut self, most: usize) -> Option<Vec<Box<str>>> {
        let changed = self.changed.as_mut()?;
        let keys: Vec<Box<str>> = changed.iter().take(most).cloned().collect();
        for key in &keys {
            changed.remove(key);
        }
        Some(keys)
    }

    /// Somebody changed.
    pub fn has_changed(&self) -> bool {
        self.changed.as_ref().is_some_and(|changed| !changed.is_empty())
    }

    fn note_change(&mut self, bare: &str) {
        let Some(changed) = &mut self.changed else { return };
        if !changed.contains(bare) {
            changed.insert(bare.into());
        }
        if changed.len() > self.users.len() + GONE_MAX {
            self.changed = None;
        }
    }

    /// Finds a user.
    pub fn get(&self, bare: &str) -> Option<&User> {
        self.users.get(bare)
    }

    /// Changes a user (made when unknown) and keeps the sums right. A user with nothing left is forgotten.
    pub fn change<R>(&mut self, bare: &str, change: impl FnOnce(&mut User) -> R) -> R {
        if !self.users.contains_key(bare) {
            self.users.insert(bare.into(), User::default());
        }
        let Some(user) = self.users.get_mut(bare) else {
            unreachable!("inserted above")
        };
        let before = (
            user.sm,
            user.sessions.len(),
            user.sessions.iter().filter(|s| s.available).count(),
        );
        let result = change(user);
        if user.flux.as_ref().is_some_and(|flux| flux.is_empty()) {
            user.flux = None;
        }
        if user.sessions.is_empty() && user.flux.is_none() {
            user.sm = None;
        }
        let claimed = user.claim != Clock::default();
        let after = (
            user.sm,
            user.sessions.len(),
            user.sessions.iter().filter(|s| s.available).count(),
        );
        let forgotten = user.sessions.is_empty() && user.flux.is_none() && !claimed;
        self.sessions = self.sessions + after.1 - before.1;
        self.available = self.available + after.2 - before.2;
        if before.0 != after.0 {
            self.unload(before.0);
            if let Some(sm) = after.0 {
                *self.load.entry(sm).or_default() += 1;
            }
        }
        if forgotten {
            self.users.remove(bare);
        }
        self.note_change(bare);
        result
    }

    fn unload(&mut self, sm: Option<SeatId>) {
        let Some(sm) = sm else { return };
        if let Some(load) = self.load.get_mut(&sm) {
            *load -= 1;
            if *load == 0 {
                self.load.remove(&sm);
            }
        }
    }

    /// Users tied to this sm.
    pub fn load(&self, sm: SeatId) -> usize {
        self.load.get(&sm).copied().unwrap_or(0)
    }

    /// Keys of all users for whom `which` holds. Walks the whole slice: for losses, not for frames.
    pub fn keys_where(&self, mut which: impl FnMut(&User) -> bool) -> Vec<Box<str>> {
        self.users
            .iter()
            .filter(|(_, user)| which(user))
            .map(|(key, _)| key.clone())
            .collect()
    }

    /// Sessions at this sm that are not ending: which of them it surely holds, and which it may have replaced by another
    /// of the same full JID. So many of each at most.
    pub fn sessions_at(&self, sm: SeatId, sure_max: usize, doubtful_max: usize) -> (Vec<&Session>, Vec<&Session>) {
        let (mut sure, mut doubtful) = (Vec::new(), Vec::new());
        if self.load(sm) == 0 {
            return (sure, doubtful);
        }
        for user in self.users.values().filter(|user| user.sm == Some(sm)) {
            for (at, session) in user.sessions.iter().enumerate().filter(|(_, s)| !s.ending) {
                if user.may_be_replaced(at) {
                    doubtful.extend((doubtful.len() < doubtful_max).then_some(session));
                } else {
                    sure.extend((sure.len() < sure_max).then_some(session));
                }
            }
        }
        (sure, doubtful)
    }

    /// All users, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &User)> {
        self.users.iter().map(|(key, user)| (&**key, user))
    }

    /// Users in the slice.
    pub fn len(&self) -> usize {
        self.users.len()
    }

    /// Nobody.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// Sessions in the slice.
    pub fn sessions(&self) -> usize {
        self.sessions
    }

    /// Available sessions in the slice.
    pub fn available(&self) -> usize {
        self.available
    }
}
