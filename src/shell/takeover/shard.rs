//! A shard's part: standing still, giving, being given, going on.

use super::{Former, Share};
use crate::node::api::LinkId;
use crate::node::image::{Image, Restored};
use crate::shell::accept::Meter;
use crate::shell::brain::Brain;
use crate::shell::driver::{Driver, Released, Token};
use crate::shell::hub::{Hub, Op};
use crate::shell::link::{Fate, Link};
use crossbeam_channel::Sender;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

/// What a shard is to do. Each is answered but the last two.
pub(crate) enum Step {
    /// Let nobody in; how many links have no seat yet?
    HoldDoor(Sender<usize>),
    /// Stand still; how far is that?
    Rest(Sender<Rest>),
    /// Let the links go, and give the share.
    Share(Sender<Result<Given, String>>),
    /// Be this part of the image, and have these links.
    Restore(
        Arc<Image>,
        Arc<Mutex<HashMap<Former, GivenLink>>>,
        Sender<Result<usize, String>>,
    ),
    /// Go on.
    GoOn,
    /// End, without a word to anybody: the links are another process's.
    Vanish,
}

/// How far a shard has come to rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rest {
    /// It has nothing to do, as far as it knows.
    pub(super) idle: bool,
    /// What it has sent to other shards so far, and taken from them.
    pub(super) moved: (u64, u64),
}

/// What a shard gives.
pub(crate) struct Given {
    pub(super) share: Share,
    pub(super) links: Vec<(Former, GivenLink)>,
}

/// A link on its way between two processes.
pub(crate) struct GivenLink {
    pub(super) fd: OwnedFd,
    pub(super) remote: SocketAddr,
    pub(super) chunk: Vec<u8>,
    pub(super) written: usize,
    pub(super) unread: Vec<u8>,
}

/// A shard stands still.
#[derive(Default)]
pub(crate) struct Still {
    /// Links that the driver has let go.
    links: HashMap<LinkId, Released>,
    /// Who waits for the share until all of them are.
    asked: Option<Sender<Result<Given, String>>>,
}

impl Still {
    /// Whether the driver does not serve the link now.
    pub(in crate::shell) fn holds(&self, id: LinkId) -> bool {
        self.links.contains_key(&id)
    }
}

impl<B: Brain> Hub<B> {
    pub(crate) fn take_over(&mut self, step: Step) {
        match step {
            Step::HoldDoor(to) => {
                self.ops.push_back(Op::Accepting(false));
                let _ = to.try_send(self.brain.unsettled());
            }
            Step::Rest(to) => {
                self.stand_still();
                let _ = to.try_send(self.rest());
            }
            Step::Share(to) => self.let_all_go(to),
            Step::Restore(image, links, to) => {
                let count = self.restore(&image, &links);
                let _ = to.try_send(count);
            }
            Step::GoOn => self.go_on(),
            Step::Vanish => self.vanish(),
        }
    }

    pub(crate) fn stand_still(&mut self) {
        self.ops.push_back(Op::Accepting(false));
        self.still.get_or_insert_default();
    }

    fn rest(&self) -> Rest {
        let moving = |link: &Link<B::Cargo>| matches!(link.fate, Fate::Moving { .. });
        Rest {
            idle: self.lanes.quiet() && !self.links.values().any(moving),
            moved: self.lanes.moved(),
        }
    }

    fn let_all_go(&mut self, to: Sender<Result<Given, String>>) {
        self.still.get_or_insert_default().asked = Some(to);
        let links: Vec<LinkId> = self.links.keys().copied().collect();
        for id in links {
            match self.links.get(&id).map(Link::serving) {
                Some(true) => self.ops.push_back(Op::Release(id)),
                // It was being closed, and has had its time.
                _ => self.let_go(id),
            }
        }
    }

    /// A link that was let go: kept while the shard stands still, unless it has come to its end.
    pub(in crate::shell) fn keep_still(&mut self, id: LinkId, released: Released) -> Option<Released> {
        let serving = self.links.get(&id).is_some_and(Link::serving);
        match &mut self.still {
            Some(still) if serving => {
                still.links.insert(id, released);
                None
            }
            _ => Some(released),
        }
    }

    pub(in crate::shell) fn answer_when_all_is_let_go(&mut self) {
        let Some(still) = &mut self.still else { return };
        if still.asked.is_none() || !self.links.keys().all(|id| still.links.contains_key(id)) {
            return;
        }
        if let Some(to) = still.asked.take() {
            let _ = to.try_send(self.give());
        }
    }

    fn give(&mut self) -> Result<Given, String> {
        let Some(still) = &self.still else {
            return Err("it does not stand still".into());
        };
        let taken = |id: LinkId| match (self.links.get(&id), still.links.get(&id)) {
            (Some(link), Some(released)) => link.in_hand(released),
            _ => (&[][..], 0),
        };
        let share = self.brain.share(self.now, &taken)?;
        let mut links = Vec::new();
        for (id, released) in &still.links {
            let former = Former::new(share.shard(), *id);
            if !share.has(former) {
                continue;
            }
            let fd = released.fd.as_fd().try_clone_to_owned();
            let link = GivenLink {
                fd: fd.map_err(|error| format!("a link can't be passed on: {error}"))?,
                remote: self.links[id].remote,
                chunk: released.chunk.clone(),
                written: released.written,
                unread: released.unread.clone(),
            };
            links.push((former, link));
        }
        Ok(Given { share, links })
    }

    fn restore(&mut self, image: &Image, given: &Mutex<HashMap<Former, GivenLink>>) -> Result<usize, String> {
        self.look_at_clock();
        // All shards do this at once.
        let restored = self.brain.restore(self.now, image)?;
        let mut given = given.lock().unwrap_or_else(PoisonError::into_inner);
        let mut kept = HashMap::new();
        for Restored {
            former,
            link: id,
            dialled,
        } in restored
        {
            let Some(link) = given.remove(&former) else { continue };
            let (seat, meter) = match dialled {
                true => (None, None),
                false => (self.door.admit_again(), Some(Meter::default())),
            };
            let mut own = Link::new(Token::NONE, link.remote, seat, meter);
            own.writing = !link.chunk.is_empty();
            self.links.insert(id, own);
            let released = Released {
                fd: link.fd,
                chunk: link.chunk,
                written: link.written,
                unread: link.unread,
            };
            kept.insert(id, released);
        }
        let count = kept.len();
        self.still.get_or_insert_default().links = kept;
        Ok(count)
    }

    fn go_on(&mut self) {
        let Some(still) = self.still.take() else {
            return self.ops.push_back(Op::Accepting(true));
        };
        self.look_at_clock();
        for (id, released) in still.links {
            self.ops.push_back(Op::Again(id, released));
        }
        self.ops.push_back(Op::Accepting(true));
        self.brain.resume(self.now);
        self.act();
        let links: Vec<LinkId> = self.links.keys().copied().collect();
        links.into_iter().for_each(|id| self.mark_dirty(id));
    }

    /// Serves a link again: what was being written goes on, what was read is handled.
    pub(in crate::shell) fn serve_again(&mut self, id: LinkId, released: Released, driver: &mut impl Driver) {
        let Released {
            fd,
            chunk,
            written,
            unread,
        } = released;
        self.add(id, fd, driver);
        let Some(link) = self.links.get(&id) else { return };
        if !chunk.is_empty() {
            driver.write(link.token, chunk, written);
        }
        if !unread.is_empty() {
            self.take_bytes(id, &unread);
        }
    }

    fn vanish(&mut self) {
        self.still = None;
        self.links.clear();
        self.dirty.clear();
        self.ops.clear();
        self.ops.push_back(Op::Unlisten);
        self.hang_up_dials();
        self.stop_at = Some(self.now);
    }
}

impl<C> Link<C> {
    /// The plain bytes that were taken for writing, and how many of them the kernel has.
    fn in_hand<'l>(&'l self, released: &'l Released) -> (&'l [u8], usize) {
        match &self.tls {
            Some(tls) if !self.plain_first && !released.chunk.is_empty() => (&self.plain, tls.plain_written()),
            Some(_) if !self.plain_first => (&[], 0),
            _ => (&released.chunk, released.written),
        }
    }
}
