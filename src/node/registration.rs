//! What the owner of a user learns: sessions that came to be and ended, and sm and c2s that came and went.

use super::Shard;
use super::api::Micros;
use super::farewell::full_hash;
use super::lane::{Message, Over, SessionKey};
use crate::table::users::{Session, Stage, Wait};
use crate::table::{SeatId, Token};

impl Shard {
    /// `started` passed on its way to a c2s. The control lane may bring this before data that was sent earlier; that
    /// data then goes to the sm that holds the session already.
    pub(super) fn register(&mut self, now: Micros, bare: &str, sm: SeatId, request: Option<Token>, session: Session) {
        if self.names.seat(sm).is_none() {
            // The news that the sm is gone overtook its last words: nobody else will end this session.
            let key = SessionKey::of(&session);
            if let Some(home) = self.names.seat(session.c2s).map(|view| view.home) {
                self.tell(now, home, Message::EndClient { key });
            }
            return;
        }
        if !self.is_registered_here(now, bare, sm, request, &session) {
            return;
        }
        self.users.change(bare, |user| {
            if let Some(flux) = &mut user.flux {
                flux.starts
                    .retain(|start| !(start.c2s == session.c2s && Some(start.id) == request));
            }
            user.sessions
                .retain(|old| !(old.c2s == session.c2s && old.number == session.number && old.token == session.token));
            user.sm = Some(sm);
            user.sessions.push(session);
        });
        self.drop_superseded(now, bare);
        self.announce(now, bare);
        self.settle(now, bare);
    }

    /// `ended` or `replaced` passed, its sm does not know the session, or its c2s is lost.
    pub(super) fn unregister(&mut self, now: Micros, bare: &str, key: SessionKey, why: Over) {
        let Some(sm) = self.users.get(bare).and_then(|user| user.sm) else {
            return;
        };
        let session = self.users.change(bare, |user| {
            let at = user.sessions.iter().position(|s| SessionKey::of(s) == key);
            let session = at.map(|at| user.sessions.remove(at));
            if user.sessions.is_empty()
                && let Some(flux) = &mut user.flux
                && flux.wait.is_some_and(|(wait, _)| wait == Wait::Ended)
            {
                flux.wait = None;
            }
            session
        });
        match (why, session.filter(|session| session.shown)) {
            (Over::Orphaned, Some(session)) => self.orphaned(now, bare, sm, session),
            // To be told twice does no harm.
            (Over::Unknown, Some(session)) => {
                self.users
                    .change(bare, |user| user.flux().untold.push(session.resource));
            }
            _ => {}
        }
        if self.users.get(bare).is_none_or(|user| !user.is_tied()) {
            // Frames that passed before this sm handled the end are worked on without a session.
            self.touch(bare, sm);
        }
        self.announce(now, bare);
        self.settle(now, bare);
    }

    /// `end` passed on its way to the sm.
    pub(super) fn session_ending(&mut self, now: Micros, bare: &str, key: SessionKey) {
        if self.users.get(bare).is_none() {
            return;
        }
        let leaving = self.users.change(bare, |user| {
            if let Some(session) = user.session_mut(key.c2s, key.number, &key.token) {
                session.ending = true;
                session.available = false;
            }
            user.is_leaving() && user.wait().is_none()
        });
        self.drop_superseded(now, bare);
        self.announce(now, bare);
        if leaving && self.holders(bare).len() > 1 {
            self.make_wait(now, bare, Wait::Ended);
        }
    }

    /// Started twice within a second, a full JID has one sm-side id twice, and the `end` of the former session names a
    /// number that is not the session's any more: sm does not answer it.
    fn drop_superseded(&mut self, now: Micros, bare: &str) {
        let Some(user) = self.users.get(bare).filter(|user| user.sessions.len() > 1) else {
            return;
        };
        let superseded = |(at, session): &(usize, &Session)| {
            let mut later = user.sessions[at + 1..].iter();
            session.ending && later.any(|later| later.token == session.token)
        };
        let over = user.sessions.iter().enumerate().filter(superseded);
        let over: Vec<SessionKey> = over.map(|(_, session)| SessionKey::of(session)).collect();
        for key in over {
            self.users.change(bare, |user| {
                user.sessions.retain(|session| SessionKey::of(session) != key)
            });
            if let Some(home) = self.names.seat(key.c2s).map(|view| view.home) {
                self.tell(now, home, Message::EndClient { key });
            }
        }
    }

    /// Presence without `to` passed on its way from a client to his sm.
    pub(super) fn presence(&mut self, now: Micros, bare: &str, key: SessionKey, priority: Option<i8>) {
        if self.users.get(bare).is_none() {
            return;
        }
        self.users.change(bare, |user| {
            if let Some(session) = user.session_mut(key.c2s, key.number, &key.token) {
                session.available = priority.is_some();
                session.shown |= session.available;
                session.priority = priority.unwrap_or(0);
            }
        });
        self.announce(now, bare);
    }

    /// A `start` or `create` was answered otherwise than by `started`.
    pub(super) fn start_done(&mut self, now: Micros, bare: &str, c2s: SeatId, request: Token) {
        let Some(sm) = self.users.get(bare).map(|user| user.sm) else {
            return;
        };
        self.users.change(bare, |user| {
            user.flux()
                .starts
                .retain(|start| !(start.c2s == c2s && start.id == request));
        });
        if let Some(sm) = sm
            && self.users.get(bare).is_none_or(|user| !user.is_tied())
        {
            self.touch(bare, sm);
        }
        self.settle(now, bare);
    }

    /// An sm of this name came to be or came back: what could not be placed can be now.
    pub(super) fn sm_available(&mut self, now: Micros, sm: SeatId) {
        self.settle_stuck(now);
        // It answers fences only now.
        for bare in self.fenced.get(&sm).cloned().unwrap_or_default() {
            if let Some(wait @ Wait::Fence { sm: at, .. }) = self.users.get(&bare).and_then(|user| user.wait())
                && at == sm
            {
                self.make_wait(now, &bare, wait);
            }
        }
    }

    /// Users with something for which there was no sm, here or elsewhere: there may be one now.
    pub(super) fn settle_stuck(&mut self, now: Micros) {
        let stuck = self.users.keys_where(|user| {
            user.flux.as_ref().is_some_and(|flux| {
                flux.wait.is_none()
                    && (!flux.untold.is_empty() || flux.starts.iter().any(|start| start.stage == Stage::Waiting))
            })
        });
        for bare in stuck {
            self.settle(now, &bare);
        }
    }

    /// An sm is gone or was restarted: its sessions are over, what it was asked is asked again elsewhere. `given_up`: its
    /// id, when it may live all the same.
    pub(super) fn sm_lost(&mut self, now: Micros, sm: SeatId, given_up: Option<Box<str>>) {
        if let Some(fences) = self.fences.get_mut(&sm) {
            fences.clear();
        }
        self.expect_return(now, sm);
        self.surrogates_lost(now, sm);
        let mut taken = Vec::new();
        let orphans = self.orphans_lost(sm);
        self.held_at_loss.remove(&sm);
        for bare in self.users.keys_where(|user| user.sm == Some(sm)) {
            let ended = self.users.change(&bare, |user| {
                let sessions = std::mem::take(&mut user.sessions);
                user.sm = None;
                let flux = user.flux();
                flux.starts.iter_mut().for_each(|start| start.stage = Stage::Waiting);
                flux.untold
                    .extend(sessions.iter().filter(|s| s.shown).map(|s| s.resource.clone()));
                if flux.wait.is_some_and(|(wait, _)| wait == Wait::Ended) {
                    flux.wait = None;
                }
                sessions
            });
            let shown = ended.iter().filter(|session| session.shown);
            taken.extend(shown.map(|session| full_hash(&bare, &session.resource)));
            for session in ended {
                let Some(home) = self.names.seat(session.c2s).map(|view| view.home) else {
                    continue;
                };
                let key = SessionKey::of(&session);
                self.tell(now, home, Message::EndClient { key });
            }
            self.settle(now, &bare);
        }
        for (bare, full) in orphans {
            taken.push(full);
            self.settle(now, &bare);
        }
        if let Some(sm) = given_up.filter(|_| !taken.is_empty()) {
            let sessions = taken.into();
            self.tell_all(now, &Message::SessionsTaken { sm, sessions });
        }
        self.unfence(now, sm, |wait| matches!(wait, Wait::Fence { .. }));
    }

    /// A c2s is gone: nobody waits for the answers to its starts. Its sessions are unregistered by its home, behind what
    /// waited for it.
    pub(super) fn c2s_lost(&mut self, now: Micros, c2s: SeatId, abroad: bool) {
        if !abroad {
            self.expect_return(now, c2s);
        }
        let waiting = self.users.keys_where(|user| {
            user.flux
                .as_ref()
                .is_some_and(|flux| flux.starts.iter().any(|start| start.c2s == c2s))
        });
        for bare in waiting {
            let sm = self.users.change(&bare, |user| {
                let sm = user.sm;
                user.flux().starts.retain(|start| start.c2s != c2s);
                sm
            });
            if let Some(sm) = sm {
                self.touch(&bare, sm);
            }
            self.settle(now, &bare);
        }
    }
}
