//! Waiting for an sm to be done with a user before another sm works for him.
//!
//! One rule keeps an offline queue whole: before the work of a user goes to another sm than the one that last worked
//! for him, that sm has answered a fence behind it.

use super::api::{Level, Micros};
use super::counters::Counter;
use super::forward::FENCE_PREFIX;
use super::placement::domain_of;
use super::{SELF, Shard, TICK_US};
use crate::jid;
use crate::table::SeatId;
use crate::table::fence::Need;
use crate::table::users::Wait;
use crate::wire::edit;

/// The longest that a user's frames wait for a fence, an `ended`, or his contacts being told. Then they go on: late is
/// worse than out of order. Microseconds.
const WAIT_US: Micros = 5_000_000;

impl Shard {
    /// Makes the user wait until every other sm of his domain than `target` is done with him, as far as this node gave it
    /// anything to do. False when none has.
    pub(super) fn wait_for_fences(&mut self, now: Micros, bare: &str, target: Option<SeatId>) -> bool {
        self.awaits_return(now, bare) || self.wait_for_other_sm(now, bare, target)
    }

    /// The same, without what waited for lost components: of a frame that is some of it.
    pub(super) fn wait_for_other_sm(&mut self, now: Micros, bare: &str, target: Option<SeatId>) -> bool {
        let holders = self.holders(bare);
        if holders.len() < 2 && self.fences.is_empty() {
            return false;
        }
        let hash = jid::table_hash(bare);
        for sm in holders.into_iter().filter(|sm| Some(*sm) != target) {
            let Some(fences) = self.fences.get_mut(&sm) else {
                continue;
            };
            let number = match fences.need(hash) {
                Need::Nothing => match fences.ticket(hash).filter(|_| target.is_none()) {
                    Some(ticket) => {
                        self.wait_for_flush(now, bare, ticket);
                        return true;
                    }
                    None => continue,
                },
                Need::Flying(number) | Need::After(number) => number,
                Need::Send(number) => {
                    self.send_fence(now, sm, number, domain_of(bare));
                    number
                }
            };
            self.fenced.entry(sm).or_default().push(bare.into());
            self.make_wait(now, bare, Wait::Fence { sm, number });
            return true;
        }
        false
    }

    pub(super) fn make_wait(&mut self, now: Micros, bare: &str, wait: Wait) {
        self.users
            .change(bare, |user| user.flux().wait = Some((wait, now + WAIT_US)));
        self.waiting.push_back((now + WAIT_US, bare.into()));
        self.wake_by(now + TICK_US);
    }

    pub(super) fn send_fence(&mut self, now: Micros, sm: SeatId, number: u64, domain: &str) {
        self.count(Counter::Fences);
        let Some(id) = self.names.seat(sm).map(|view| view.id.clone()) else {
            return;
        };
        let mut frame = Vec::new();
        let question = format!("{FENCE_PREFIX}{}.{number}", self.id);
        edit::iq_ping(&mut frame, &id, self.names.own(), domain, self.names.own(), &question);
        self.hand(now, sm, SELF, &frame);
    }

    /// An sm answered a fence: those who waited for it may go on.
    pub(super) fn fence_done(&mut self, now: Micros, sm: SeatId, number: u64) {
        if !self.fences.get(&sm).is_some_and(|fences| fences.awaits(number)) {
            return;
        }
        let ticket = self.flush_ticket(now);
        if let Some(fences) = self.fences.get_mut(&sm) {
            fences.done(ticket);
        }
        self.orphans_ended(now, sm, number);
        self.unfence(now, sm, |wait| wait == Wait::Fence { sm, number });
    }

    pub(super) fn unfence(&mut self, now: Micros, sm: SeatId, which: impl Fn(Wait) -> bool) {
        let Some(waiting) = self.fenced.remove(&sm) else { return };
        let mut others = Vec::new();
        for bare in waiting {
            match self.users.get(&bare).and_then(|user| user.wait()) {
                Some(wait) if which(wait) => {
                    self.users.change(&bare, |user| user.flux().wait = None);
                    self.settle(now, &bare);
                }
                Some(Wait::Fence { sm: at, .. } | Wait::Return { of: at }) if at == sm => others.push(bare),
                _ => {}
            }
        }
        if !others.is_empty() {
            self.fenced.entry(sm).or_default().append(&mut others);
        }
    }

    /// Something for a user without a session goes to an sm. Of an only one it is enough to know that there was any, for
    /// when another joins.
    pub(super) fn touch(&mut self, bare: &str, sm: SeatId) {
        let alone = self.holders(bare).len() < 2 && !self.has_peers();
        let fences = self.fences.entry(sm).or_default();
        if alone {
            return fences.touch_all();
        }
        // That fence may go before the frame, so it proves nothing of this one.
        let tidying = fences.is_untidy().then(|| fences.send());
        fences.touch(jid::table_hash(bare));
        if let Some(number) = tidying {
            self.send_fence(0, sm, number, domain_of(bare));
        }
    }

    /// Lets go what waited too long. True when somebody still waits.
    pub(super) fn tick_waiting(&mut self, now: Micros) -> bool {
        while let Some((until, _)) = self.waiting.front()
            && *until <= now
        {
            let Some((_, bare)) = self.waiting.pop_front() else {
                break;
            };
            let late = self
                .users
                .get(&bare)
                .and_then(|user| user.flux.as_ref()?.wait)
                .filter(|(_, until)| *until <= now);
            let Some((wait, _)) = late else { continue };
            if let Wait::Fence { sm, .. } = wait
                && self.names.seat(sm).is_some_and(|view| !view.live)
            {
                // It comes back or is given up; either way what waits for it goes first.
                self.make_wait(now, &bare, wait);
                continue;
            }
            self.log(
                Level::Warning,
                None,
                format!(
                    "{bare}: {} for {} s, going on without",
                    wait_text(wait),
                    WAIT_US / 1_000_000
                ),
            );
            if let Wait::Fence { sm, number } = wait
                && let Some(fences) = self.fences.get_mut(&sm)
                && fences.awaits(number)
            {
                fences.done(None);
            }
            if wait == Wait::Flush {
                let hash = jid::table_hash(&bare);
                for fences in self.fences.values_mut() {
                    let ticket = fences.ticket(hash).unwrap_or_default();
                    fences.is_told(ticket);
                }
            }
            self.users.change(&bare, |user| user.flux().wait = None);
            self.settle(now, &bare);
        }
        !self.waiting.is_empty()
    }
}

fn wait_text(wait: Wait) -> &'static str {
    match wait {
        Wait::Fence { .. } => "no answer from the sm that worked for this user before",
        Wait::Return { .. } => "frames that waited for a lost component are not back",
        Wait::Flush => "what an sm said has not come to another node",
        Wait::Ended => "no `ended` for this user's last session",
        Wait::Telling => "contacts not told of a lost session",
    }
}
