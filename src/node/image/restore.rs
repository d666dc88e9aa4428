//! An image becomes shards.

use super::{Image, LinkRow, Restored, counter_key};
use crate::node::Shard;
use crate::node::api::Action;
use crate::node::counters::Counter;
use crate::node::express::Courses;
use crate::node::link::Stage;
use crate::node::seat::Life;
use crate::table::fence::Fences;
use crate::table::image;
use crate::table::link::{LinkId, Micros};
use crate::table::users::{Recall, User, Wait};
use crate::table::{SeatId, SeatKind};
use crate::wire::scan::Scanner;
use std::collections::HashMap;

impl Shard {
    /// Takes this shard's part of an image, when it is new and has done nothing. Gives for each of its links what it was
    /// before. It stands still until [`Shard::resume`].
    ///
    /// # Errors
    /// The image can't be read, in an operator's words: the shard is of no use then.
    pub fn restore(&mut self, now: Micros, image: &Image) -> Result<Vec<Restored>, String> {
        debug_assert_eq!(image.shards, self.shards);
        let max = |of: fn(&super::Share) -> u64| image.shares.iter().map(of).max().unwrap_or(0);
        self.note_time(now);
        self.restore_names(image);
        self.restore_cluster(now, image);
        self.questions = max(|share| share.questions);
        self.surrogates_go_on_from(image.shares.iter().map(|share| share.surrogates).max().unwrap_or(0));
        for share in &image.shares {
            self.parted.clone_from(&share.parted);
            if let Some(farewells) = &share.farewells {
                self.farewells = farewells.clone();
            }
            if let Some(returned) = &share.returned {
                self.returned = returned.clone();
            }
            for (id, seat) in share.seats.iter().filter(|(id, _)| image.home(*id) == self.id) {
                self.seats.insert(*id, seat.clone());
            }
            for (sm, held) in share.held_at_loss.iter().filter(|(sm, _)| image.home(*sm) == self.id) {
                self.held_at_loss.entry(*sm).or_default().extend(held);
            }
        }
        self.restore_clients(image)?;
        self.restore_users(now, image)?;
        if self.id == 0 {
            self.restore_counters(image);
            self.uplink = image.shares.iter().find_map(|share| share.uplink.clone()).map(Box::new);
            let closed = image.shares.iter().flat_map(|share| &share.closed).cloned();
            self.closed_links.restore(closed.collect());
        }
        let mut waiting: Vec<_> = self.waiting.drain(..).collect();
        waiting.sort();
        self.waiting = waiting.into();
        self.restore_fences(max(|share| share.fences));
        let orphans = image.shares.iter().flat_map(|share| &share.orphans);
        let own = orphans.filter(|(_, orphan)| self.owner(orphan.bare()) == self.id);
        self.resuming_orphans = own.cloned().collect();
        let rows = image.shares.iter().flat_map(|share| &share.links);
        let own: Vec<&LinkRow> = rows
            .filter(|row| row.line.map_or_else(|| image.home(row.seat), |_| 0) == self.id)
            .collect();
        let links = own.into_iter().map(|row| Restored {
            former: row.former,
            link: self.restore_link(now, row),
            dialled: row.line.is_some(),
        });
        let links = links.collect();
        self.components_restored();
        Ok(links)
    }

    fn restore_clients(&mut self, image: &Image) -> Result<(), String> {
        for of in image.shares.iter().flat_map(|share| &share.clients) {
            if let Some(seat) = self.seats.get_mut(of.c2s).filter(|_| image.home(of.c2s) == self.id) {
                seat.clients = image::read(&of.packed)?;
            }
        }
        Ok(())
    }

    fn restore_users(&mut self, now: Micros, image: &Image) -> Result<(), String> {
        self.users.reserve(image.sessions() / usize::from(self.shards));
        for (_, bare, packed) in image.shares.iter().flat_map(|share| image::records(&share.users)) {
            if self.owner(bare) == self.id {
                self.restore_user(now, bare, image::read(packed)?);
            }
        }
        Ok(())
    }

    /// The node's sums go on at shard 0.
    fn restore_counters(&mut self, image: &Image) {
        let by_key: HashMap<String, Counter> = Counter::ALL.iter().map(|c| (counter_key(*c), *c)).collect();
        for (key, value) in image.shares.iter().flat_map(|share| &share.counters) {
            if let Some(counter) = by_key.get(key) {
                self.counters.add(*counter, *value);
            }
        }
    }

    fn restore_names(&mut self, image: &Image) {
        let Some((names, registrar)) = image.names() else {
            return;
        };
        let live = |seat: SeatId| {
            let seats = image.shares.iter().flat_map(|share| &share.seats);
            let state = seats.filter(|(id, _)| *id == seat).map(|(_, state)| state).next();
            state.is_some_and(|state| !matches!(state.life, Life::Lost { .. }))
        };
        self.names = names.clone();
        self.names.set_aliases(&self.config.aliases);
        let seats: Vec<SeatId> = self.names.seats().map(|(seat, _)| seat).collect();
        for seat in seats {
            let (home, live) = (image.home(seat), live(seat));
            self.names.change_seat(seat, |view| {
                view.home = home;
                if view.peer.is_none() {
                    // Of another node's component that node says it.
                    (view.live, view.redirects) = (live, live && view.redirects);
                }
            });
        }
        if self.registrar.is_some() {
            self.registrar = Some(registrar.at_homes(self.shards, |seat| image.home(seat)));
        }
    }

    fn restore_user(&mut self, now: Micros, bare: &str, mut user: User) {
        for session in user
            .sessions
            .iter_mut()
            .filter(|session| session.recall != Recall::Done)
        {
            session.recall = Recall::No;
        }
        if let Some(flux) = &mut user.flux {
            flux.wait = flux.wait.filter(|(wait, _)| *wait == Wait::Ended);
            self.held_bytes += flux.held.iter().map(|held| held.what.byte_len()).sum::<usize>();
            match flux.wait {
                Some((_, until)) => self.waiting.push_back((until, bare.into())),
                None => self.resuming.push(bare.into()),
            }
        }
        self.restore_user_abroad(now, bare, &user);
        self.users.change(bare, |place| *place = user);
    }

    /// Which users the sm were given work for is not known any more: all of them, where it matters.
    fn restore_fences(&mut self, last: u64) {
        let sms = self
            .names
            .seats()
            .filter(|(_, view)| view.kind == SeatKind::Sm && view.peer.is_none());
        let sms: Vec<SeatId> = sms.map(|(seat, _)| seat).collect();
        if sms.len() > 1 || self.cluster.is_some() {
            self.fences = sms.into_iter().map(|sm| (sm, Fences::of_former(last))).collect();
        }
    }

    fn restore_link(&mut self, now: Micros, row: &LinkRow) -> LinkId {
        let (seat, asking) = (row.seat, false);
        let stage = match row.line {
            Some(at) => Stage::Uplink(at, None),
            None => Stage::Seated { seat, asking },
        };
        let id = self.insert_link(now, row.remote, stage);
        if let Some(at) = row.line {
            self.line_restored(at, id);
        }
        let limits = self.limits;
        let who = self.seats.get_mut(seat).map(|state| {
            state.link = Some(id);
            state.who.clone()
        });
        let link = &mut self.links[id.slot as usize];
        link.peer = who;
        link.out.clone_from(&row.out);
        link.in_flight = row.in_flight;
        link.early.clone_from(&row.early);
        link.carry.clone_from(&row.carry);
        link.scanner = Some(Scanner::inside(limits, &row.root));
        link.courses = Courses::default();
        link.opened_at = row.opened_at;
        link.progress_at = row.progress_at;
        id
    }

    /// What was restored goes on: this process is the node now.
    pub fn resume(&mut self, now: Micros) {
        self.resume_cluster(now);
        for slot in 0..self.links.len() {
            let id = LinkId {
                slot: u32::try_from(slot).unwrap_or(u32::MAX),
                generation: self.links[slot].generation,
            };
            if !self.links[slot].out.is_empty() {
                self.actions.push(Action::Output(id));
            }
            self.handle_early(now, id);
            self.go_on(now, id);
        }
        self.take_back_redirects();
        for (sm, orphan) in std::mem::take(&mut self.resuming_orphans) {
            self.watch_orphan(now, sm, orphan);
        }
        for bare in std::mem::take(&mut self.resuming) {
            self.settle(now, &bare);
        }
        self.align_aliases(now);
        self.wake_by(now);
    }
}
