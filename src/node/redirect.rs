//! Redirects (`docs/redirects.md`): a component that asked for them in its bind is told which sm serves the full JIDs
//! that it writes to, and may address what is for these to that sm instead of to the domain.
//!
//! # Why a stale one loses, doubles and overtakes nothing
//!
//! A redirect decides nothing. What comes by one is recognised by what it is (a stanza between users, from a component
//! that has redirects, addressed to an sm's id) and goes to the owner of the user in its `to`, by the same lanes as what
//! is addressed to his domain ([`Shard::by_redirect`]). So there is one way, and not two between which the order would
//! have to be kept at each change; frames that were under way when a session ended or moved wait, cross and are placed as
//! all others are. What is saved is the reading of frames: where the user's owner is the component's own shard and would
//! hand the frame to that very sm at once, it takes the short way ([`is_plainly_at`](Shard::is_plainly_at)), which puts it
//! into the same queue.
//!
//! # Who remembers what
//!
//! The owner of a user remembers to whom his full JIDs were told, and takes them back when they are no longer true. The
//! home of the component remembers how many it was told, in order of age. Both forget when the component's link is
//! lost: whoever comes back asks anew.
//!
//! Must never be added: a decision that rests on what a component was told.

use super::Shard;
use super::api::Micros;
use super::counters::Counter;
use super::lane::Message;
use super::placement::{domain_of, resource_of};
use crate::jid::{self, TableMap};
use crate::table::names::Multi;
use crate::table::rows::Clock;
use crate::table::{SeatId, SeatKind};
use crate::wire::edit;
use crate::wire::header::{Payload, PayloadKind, Route};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use std::collections::BTreeMap;

/// Most redirects of one component: the oldest is taken back for a further one. Tests have few users.
pub(super) const REDIRECTS_MAX: usize = if cfg!(test) { 6 } else { 16_384 };

/// What the users of a slice were told about: by bare JID.
pub(super) type ToldOf = TableMap<Box<str>, SmallVec<[Told; 1]>>;

/// A full JID that a component was told the sm of.
#[derive(Clone, Debug)]
pub(super) struct Told {
    component: SeatId,
    resource: Box<str>,
    sm: SeatId,
}

/// The full JIDs that a component was told about, by age.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct ToldTo {
    ages: TableMap<Box<str>, u64>,
    by_age: BTreeMap<u64, Box<str>>,
    next: u64,
}

impl ToldTo {
    /// One more; what has to be taken back for it.
    fn add(&mut self, full: &str) -> Option<Box<str>> {
        self.remove(full);
        self.ages.insert(full.into(), self.next);
        self.by_age.insert(self.next, full.into());
        self.next += 1;
        let (_, oldest) = (self.ages.len() > REDIRECTS_MAX).then(|| self.by_age.pop_first())??;
        self.ages.remove(&oldest);
        Some(oldest)
    }

    fn remove(&mut self, full: &str) {
        if let Some(age) = self.ages.remove(full) {
            self.by_age.remove(&age);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.ages.len()
    }
}

impl Shard {
    /// The user whom a frame is for that comes by a redirect, valid or not: it is addressed to an sm, or to one that is gone
    /// and has no name any more.
    pub(super) fn by_redirect(&self, sender: SeatId, route: &Route<'_>) -> Option<Box<str>> {
        let asked = self.names.seat(sender).is_some_and(|view| view.redirects);
        let to = route.to.filter(|_| asked)?;
        let to_sm = match self.names.find(to) {
            Some((_, name)) => name.multi == Multi::No && self.names.seat(name.holders[0])?.kind == SeatKind::Sm,
            None => to.0 != self.names.own().as_bytes(),
        };
        to_sm.then(|| self.addressed_user(route))?
    }

    /// The user of a clustered domain to whom a stanza between users is addressed.
    pub(super) fn addressed_user(&self, route: &Route<'_>) -> Option<Box<str>> {
        let payload = route.payload.as_ref().filter(|payload| is_between_users(payload))?;
        let jid = payload.to?.unescape()?;
        let bare = jid::bare_key(&jid).filter(|bare| bare.contains('@'))?;
        let (_, domain) = self.names.get(domain_of(&bare))?;
        (domain.multi == Multi::To).then(|| (*bare).into())
    }

    /// The owner of a user: a frame for him comes from a component that may want to be told his sm.
    #[inline]
    pub(super) fn note_redirect(&mut self, now: Micros, source: SeatId, route: &Route<'_>, bare: &str) {
        let to_session = || {
            route
                .payload
                .as_ref()
                .is_some_and(|p| p.to.is_some_and(|to| to.0.contains(&b'/')))
        };
        if self.names.seat(source).is_some_and(|view| view.redirects) && to_session() {
            self.redirect(now, source, route, bare);
        }
    }

    fn redirect(&mut self, now: Micros, component: SeatId, route: &Route<'_>, bare: &str) {
        let jid = route.payload.as_ref().filter(|payload| is_between_users(payload));
        let jid = jid.and_then(|payload| payload.to?.unescape());
        let resource = jid.as_deref().map(resource_of).unwrap_or_default();
        let sm = self.sm_of_session(bare, resource);
        let named = route.to.and_then(|to| self.names.find(to));
        let by_domain = named.is_some_and(|(_, name)| name.multi == Multi::To);
        let by = named.map(|(_, name)| name.holders[0]);
        if !by_domain {
            self.count(Counter::RedirectFrames);
        }
        let list = self.redirected.get(bare).map(SmallVec::as_slice).unwrap_or_default();
        let told = list
            .iter()
            .any(|told| told.component == component && *told.resource == *resource);
        match sm {
            Some(sm) if by_domain && !told => self.tell_redirect(now, component, bare, resource, sm),
            sm if !by_domain && (sm.is_none() || sm != by) => {
                self.count(Counter::RedirectsStale);
                // Taken back already, or never given: it may not know.
                if !told {
                    self.post_redirect(now, component, bare, resource, None);
                }
            }
            _ => {}
        }
    }

    /// The sm that serves a session, if a component here can address it by a name of its own.
    fn sm_of_session(&self, bare: &str, resource: &str) -> Option<SeatId> {
        let sm = match self.node_of_session(bare, resource)? {
            Some(sm) => sm,
            // A row does not say which: of several sm there, none.
            None => {
                let peer = self.cluster.as_ref()?.rows.get(bare)?.peer;
                let holders = self.holders(bare);
                let mut there = holders
                    .into_iter()
                    .filter(|sm| self.names.seat(*sm).is_some_and(|v| v.peer == Some(peer)));
                there.next().filter(|_| there.next().is_none())?
            }
        };
        let (_, name) = self.names.get(&self.names.seat(sm)?.id)?;
        (name.multi == Multi::No && name.holders[0] == sm).then_some(sm)
    }

    /// A session that is not ending: `Some(sm)` here, `None` on another node.
    fn node_of_session(&self, bare: &str, resource: &str) -> Option<Option<SeatId>> {
        if let Some(user) = self.users.get(bare).filter(|user| !user.sessions.is_empty()) {
            let mut sessions = user.sessions.iter();
            let here = sessions.any(|session| !session.ending && *session.resource == *resource);
            return here.then_some(Some(user.sm?));
        }
        let row = self.cluster.as_ref()?.rows.get(bare)?;
        let there = row.sessions.iter().any(|session| *session.resource == *resource);
        there.then_some(None)
    }

    fn tell_redirect(&mut self, now: Micros, component: SeatId, bare: &str, resource: &str, sm: SeatId) {
        let told = Told {
            component,
            resource: resource.into(),
            sm,
        };
        self.redirected.entry(bare.into()).or_default().push(told);
        let to = self.names.seat(sm).map(|view| view.id.clone());
        self.post_redirect(now, component, bare, resource, to);
    }

    fn post_redirect(&mut self, now: Micros, component: SeatId, bare: &str, resource: &str, to: Option<Box<str>>) {
        let Some(home) = self.names.seat(component).map(|view| view.home) else {
            return;
        };
        let full = format!("{bare}/{resource}").into();
        self.tell(now, home, Message::Redirect { component, full, to });
    }

    /// The owner of a user: something about him changed, and what was told of him may not be true any more.
    #[inline]
    pub(super) fn review_redirects(&mut self, now: Micros, bare: &str) {
        if !self.redirected.is_empty() {
            self.take_back_stale(now, bare);
        }
    }

    fn take_back_stale(&mut self, now: Micros, bare: &str) {
        let Some(list) = self.redirected.remove(bare) else {
            return;
        };
        let holds = |told: &Told| self.sm_of_session(bare, &told.resource) == Some(told.sm);
        let (kept, stale): (Vec<Told>, Vec<Told>) = list.into_iter().partition(holds);
        if !kept.is_empty() {
            self.redirected.insert(bare.into(), kept.into());
        }
        for told in stale {
            self.post_redirect(now, told.component, bare, &told.resource, None);
        }
    }

    /// The component's home: it is told, within its limit.
    pub(super) fn learn_redirect(&mut self, now: Micros, component: SeatId, full: &str, to: Option<&str>) {
        let asks = self.names.seat(component).is_some_and(|view| view.redirects);
        // Who does not read what he is told is told no more.
        let room = self.queued_bytes(component) <= self.config.queues.link_bytes / 2;
        let Some(state) = self.seats.get_mut(component).filter(|_| asks) else {
            return;
        };
        let mut over = None;
        match to {
            Some(_) if room => over = state.redirects.add(full),
            Some(_) => return self.redirect_given_up(now, component, full),
            None => state.redirects.remove(full),
        }
        self.count(match to {
            Some(_) => Counter::RedirectsIssued,
            None => Counter::RedirectsWithdrawn,
        });
        self.put(component, |out| edit::redirect(out, full, to));
        if let Some(oldest) = over {
            self.count(Counter::RedirectsEvicted);
            self.put(component, |out| edit::redirect(out, &oldest, None));
            self.redirect_given_up(now, component, &oldest);
        }
    }

    /// The component does not have this one: its user's owner is told.
    fn redirect_given_up(&mut self, now: Micros, component: SeatId, full: &str) {
        let Some(bare) = jid::bare_key(full) else { return };
        let owner = self.owner(&bare);
        let full = full.into();
        self.tell(now, owner, Message::RedirectOver { component, full });
    }

    /// The owner of a user: this component has that redirect no longer.
    pub(super) fn redirect_over(&mut self, component: SeatId, full: &str) {
        let Some(bare) = jid::bare_key(full) else { return };
        let resource = resource_of(full);
        self.retain_told(&bare, |told| told.component != component || *told.resource != *resource);
    }

    fn retain_told(&mut self, bare: &str, keep: impl Fn(&Told) -> bool) {
        if let Some(list) = self.redirected.get_mut(bare) {
            list.retain(|told| keep(told));
            if list.is_empty() {
                self.redirected.remove(bare);
            }
        }
    }

    /// Every shard: the component's link is lost, and what it was told with it.
    pub(super) fn forget_redirects(&mut self, component: SeatId) {
        if !self.names.seat(component).is_some_and(|view| view.redirects) {
            return;
        }
        self.names.change_seat(component, |view| view.redirects = false);
        if let Some(state) = self.seats.get_mut(component) {
            state.redirects = ToldTo::default();
        }
        self.redirected.retain(|_, list| {
            list.retain(|told| told.component != component);
            !list.is_empty()
        });
    }

    /// A new process took over, and does not know who was told what of its users: all is taken back, and told anew when
    /// it is of use.
    pub(super) fn take_back_redirects(&mut self) {
        let told: Vec<(SeatId, ToldTo)> = self
            .seats
            .iter_mut()
            .map(|(seat, state)| (seat, std::mem::take(&mut state.redirects)))
            .filter(|(seat, told)| told.len() > 0 && self.names.seat(*seat).is_some_and(|view| view.redirects))
            .collect();
        for (component, told) in told {
            self.counters.add(Counter::RedirectsWithdrawn, told.len() as u64);
            self.put(component, |out| {
                told.by_age.values().for_each(|full| edit::redirect(out, full, None));
            });
        }
    }

    /// Whether a stanza between users is for a session at this sm, and the user's owner (this shard) would hand it over
    /// at once: nothing of his waits, turns, or is expected back. Only what is written exactly as it is stored; anything
    /// else takes the long way.
    pub(super) fn is_plainly_at(&self, sm: SeatId, payload: &Payload<'_>) -> bool {
        let Some(jid) = payload.to.and_then(|to| std::str::from_utf8(to.0).ok()) else {
            return false;
        };
        let Some((bare, resource)) = jid.split_once('/') else {
            return false;
        };
        if !is_between_users(payload) || payload.kind == PayloadKind::Presence || self.owner(bare) != self.id {
            return false;
        }
        let Some(user) = self.users.get(bare) else { return false };
        let settled = match &self.cluster {
            Some(cluster) => user.claim != Clock::default() && cluster.is_settled(bare),
            None => true,
        };
        let served = user.sm == Some(sm) && user.flux.is_none() && self.returning.is_empty() && settled;
        served && user.sessions.iter().any(|session| *session.resource == *resource)
    }
}

/// A stanza that goes from one entity to another, and not between a client and his sm.
fn is_between_users(payload: &Payload<'_>) -> bool {
    let stanza = matches!(
        payload.kind,
        PayloadKind::Message | PayloadKind::Presence | PayloadKind::Iq
    );
    stanza && payload.c2s.is_none() && payload.sm.is_none()
}
