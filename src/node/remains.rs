//! What is left of a component that is given up or came back as another process: the frames that waited for it, and its
//! clients' sessions.
//!
//! That may be tens of MiB and many thousands, so it is wound up a slice a turn, and the shard's other links are served
//! in between. What waited is older than whatever comes meanwhile, so the owner of a user for whom some of it may be
//! holds what is newer until word comes, behind all of it, that nothing is left ([`Verb::Returned`]). A c2s's sessions
//! stay registered so long: by them the owner knows the users.

use super::api::Micros;
use super::counters::Counter;
use super::grace::frames_of;
use super::lane::{Over, SessionKey, Verb};
use super::{SELF, Shard};
use crate::table::clients::Client;
use crate::table::names::Multi;
use crate::table::users::{User, Wait};
use crate::table::{SeatId, SeatKind};
use crate::wire::header::{self, Frame, PayloadKind, Route};

/// Bytes of frames given back in one turn: about a millisecond's worth. A frame that is larger goes whole.
const SLICE_BYTES: usize = 64 * 1024;

/// Sessions dropped in one turn.
const SLICE_SESSIONS: usize = 256;

/// The longest that an owner expects what waited for a component, microseconds: whatever went wrong, its users go on.
const RETURN_US: Micros = 5_000_000;

/// What is left of one component.
#[derive(Debug)]
pub(super) struct Remains {
    seat: SeatId,
    kind: SeatKind,
    queue: Vec<u8>,
    /// So much of the queue is given back.
    given: usize,
    clients: Vec<(u32, Client)>,
    /// The owners of users wait for the end of it.
    awaited: bool,
}

impl Remains {
    pub(super) fn new(seat: SeatId, kind: SeatKind, queue: Vec<u8>, clients: Vec<(u32, Client)>) -> Remains {
        Remains {
            seat,
            kind,
            queue,
            given: 0,
            clients,
            awaited: false,
        }
    }

    /// Of a c2s or sm of this node the owners of users know, and expect the end.
    pub(super) fn awaited(self, here: bool) -> Remains {
        let awaited = here && matches!(self.kind, SeatKind::C2s | SeatKind::Sm);
        Remains { awaited, ..self }
    }
}

impl Shard {
    /// The seat's home: gives back what is left, as much as one turn allows at once, and the rest in later turns.
    pub(super) fn wind_up(&mut self, now: Micros, remains: Remains) {
        self.remains.push_back(remains);
        if self.remains.len() == 1 {
            self.tick_remains(now);
        }
    }

    pub(super) fn is_winding_up(&self, seat: SeatId) -> bool {
        self.remains
            .iter()
            .any(|remains| remains.seat == seat && remains.awaited)
    }

    /// One slice of what is left of the component that has waited longest.
    pub(super) fn tick_remains(&mut self, now: Micros) {
        let Some(mut remains) = self.remains.pop_front() else {
            return;
        };
        self.give_slice_back(now, &mut remains);
        if remains.given == remains.queue.len() {
            self.drop_clients(now, &mut remains);
        }
        if remains.given < remains.queue.len() || !remains.clients.is_empty() {
            self.remains.push_front(remains);
        } else if remains.awaited {
            self.all_given_back(now, remains.seat);
        }
        if !self.remains.is_empty() {
            self.wake_by(now);
        }
    }

    fn give_slice_back(&mut self, now: Micros, remains: &mut Remains) {
        let left = &remains.queue[remains.given..];
        let mut given = 0;
        for (start, frame) in frames_of(self.limits, &left[..left.len().min(SLICE_BYTES)]) {
            self.give_back(now, remains.kind, frame);
            given = start + frame.len();
        }
        if given == 0 && !left.is_empty() {
            // Larger than a slice. What is no frame would never end: nobody could read it either.
            let first = frames_of(self.limits, left).next();
            if let Some((_, frame)) = first {
                self.give_back(now, remains.kind, frame);
            }
            given = first.map_or(left.len(), |(start, frame)| start + frame.len());
        }
        remains.given += given;
    }

    /// A frame that waited for a component that is lost: routed again where that makes sense, else sent back.
    fn give_back(&mut self, now: Micros, kind: SeatKind, frame: &[u8]) {
        let Ok(Frame::Route(route)) = header::read(frame) else {
            return self.count(Counter::DropGone);
        };
        let sender = self.sender_of(&route);
        match &route.payload {
            // Starts are kept by the users' owners and placed again by them; the clients of other frames that carry a
            // session are ended.
            Some(payload) if kind == SeatKind::Sm && (payload.kind == PayloadKind::Session || payload.sm.is_some()) => {
                self.count(Counter::DropGone);
            }
            Some(_) if kind == SeatKind::Sm => self.route_again(now, sender, frame, &route),
            _ => self.bounce(now, sender, frame, "404"),
        }
    }

    pub(super) fn sender_of(&self, route: &Route<'_>) -> SeatId {
        let Some((_, name)) = route.from.and_then(|from| self.names.find(from)) else {
            return SELF;
        };
        if name.multi != Multi::To || name.holders.len() == 1 {
            return name.holders[0];
        }
        // A delivery of one of several sm: the one that holds the session knows what to do with it.
        let to = route
            .to
            .and_then(|to| self.names.find(to))
            .map(|(_, name)| name.holders[0]);
        let session = route.payload.as_ref().and_then(super::observe::session_of);
        to.and_then(|c2s| self.seats.get(c2s))
            .zip(session)
            .and_then(|(state, (number, token))| state.clients.get(number, &token))
            .map_or(name.holders[0], |client| client.sm)
    }

    fn drop_clients(&mut self, now: Micros, remains: &mut Remains) {
        let keep = remains.clients.len().saturating_sub(SLICE_SESSIONS);
        for (number, client) in remains.clients.drain(keep..) {
            let key = SessionKey {
                c2s: remains.seat,
                number,
                token: client.token,
            };
            self.client_forgotten(now, client.bare, key, Over::Orphaned);
        }
    }

    /// Behind all that was left of a component: who holds newer frames back for its sake can let them go.
    fn all_given_back(&mut self, now: Micros, seat: SeatId) {
        for to in (0..self.shards).filter(|to| *to != self.id) {
            self.data[usize::from(to)].push(Verb::Returned(seat), SELF, &[]);
        }
        self.queue_returned(now, seat);
    }

    /// The owner of users: what waited for this component comes before anything newer.
    pub(super) fn expect_return(&mut self, now: Micros, of: SeatId) {
        self.returning.retain(|(until, _)| now < *until);
        self.returning.push((now + RETURN_US, of));
    }

    /// The lost component, if any, for which something may have waited that is for this user.
    #[inline]
    pub(super) fn expected_return(&self, now: Micros, user: Option<&User>) -> Option<SeatId> {
        let tied = user.filter(|user| user.is_tied());
        let concerns = |of: SeatId| tied.is_none_or(|user| user.sessions.iter().any(|session| session.c2s == of));
        let mut expected = self.returning.iter().filter(|(until, _)| now < *until);
        expected.find(|(_, of)| concerns(*of)).map(|(_, of)| *of)
    }

    pub(super) fn wait_for_return(&mut self, now: Micros, bare: &str, of: SeatId) {
        self.fenced.entry(of).or_default().push(bare.into());
        self.make_wait(now, bare, Wait::Return { of });
    }

    /// Makes the user wait for what waited for a lost component and may be for him. False when there is none.
    pub(super) fn awaits_return(&mut self, now: Micros, bare: &str) -> bool {
        let expected = self.expected_return(now, self.users.get(bare));
        if let Some(of) = expected {
            self.wait_for_return(now, bare, of);
        }
        expected.is_some()
    }

    /// All that waited for a lost component has come back here: it goes on, and the newer behind it.
    pub(super) fn queue_returned(&mut self, now: Micros, of: SeatId) {
        self.returning.retain(|(_, other)| *other != of);
        self.unfence(now, of, |wait| wait == Wait::Return { of });
    }
}
