//! What the driver reports, on its way to the brain.

use super::accept::Meter;
use super::brain::Brain;
use super::driver::{Entrance, Events, Released, Token};
use super::hub::{ACCEPT_RETRY_MS, Alarm, Hub, Op};
use super::journal::line;
use super::link::{Fate, Link};
use super::sys;
use crate::node::api::{CloseCause, Level, LinkId};
use std::cmp::Reverse;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

impl<B: Brain> Events for Hub<B> {
    fn received(&mut self, link: LinkId, bytes: &[u8]) {
        self.look_at_clock();
        self.note_bytes(bytes.len());
        // These bytes may follow from what another shard has said meanwhile, such as the answer to a bind.
        if self.lanes.has_control() {
            self.take_lanes();
        }
        self.take_bytes(link, bytes);
    }

    fn written(&mut self, link: LinkId, bytes: usize) {
        self.took(link, bytes);
    }

    fn write_done(&mut self, link: LinkId, chunk: Vec<u8>) {
        self.chunk_done(link, chunk);
    }

    fn broken(&mut self, id: LinkId, cause: CloseCause) {
        let Some(link) = self.links.get_mut(&id) else { return };
        match &mut link.fate {
            Fate::Serving => link.fate = Fate::Gone(cause),
            Fate::Closing { cause, .. } => {
                let cause = std::mem::replace(cause, CloseCause::Local);
                link.fate = Fate::Gone(cause);
            }
            Fate::Moving { broken, .. } => *broken = Some(cause),
            Fate::Gone(_) => return,
        }
        self.ops.push_back(Op::Release(id));
    }

    fn released(&mut self, link: LinkId, released: Released) {
        self.end(link, released);
    }

    fn accepted(&mut self, fd: OwnedFd, remote: SocketAddr, entrance: Entrance) {
        self.look_at_clock();
        if self.stop_at.is_some() {
            return;
        }
        let admitted = match entrance {
            Entrance::Components => self.door.admit(remote.ip(), self.now),
            Entrance::Peers => self.door.admit_peer(),
        };
        let permit = match admitted {
            Ok(permit) => Some(permit),
            Err(why) => return self.log(Level::Notice, remote, format!("connection refused: {why}")),
        };
        sys::set_nodelay(fd.as_fd());
        let (id, meter) = match entrance {
            Entrance::Components => (self.brain.opened(self.now, remote), Some(Meter::default())),
            Entrance::Peers => (self.brain.opened_peer(self.now, remote), None),
        };
        self.links.insert(id, Link::new(Token::NONE, remote, permit, meter));
        self.ops.push_back(Op::Add(id, fd));
        self.act();
    }

    fn accept_failed(&mut self, error: io::Error) {
        let text = format!("cannot accept connections: {error}; trying again");
        self.context.journal.log(line(Level::Error, text));
        self.look_at_clock();
        self.timers
            .push(Reverse((self.now + ACCEPT_RETRY_MS * 1_000, Alarm::AcceptAgain)));
    }
}

impl<B: Brain> Hub<B> {
    /// Bytes of a link, sealed or plain.
    pub(super) fn take_bytes(&mut self, id: LinkId, bytes: &[u8]) {
        let Some(link) = self.links.get_mut(&id) else { return };
        match link.fate {
            Fate::Serving => {}
            Fate::Moving { .. } => return link.unread.extend_from_slice(bytes),
            Fate::Closing { .. } | Fate::Gone(_) => return,
        }
        if let Some(rate) = &self.door.bytes
            && let Some(meter) = &mut link.meter
            && let Some(until) = meter.count(rate, self.now, bytes.len() as u64)
            && !link.throttled
        {
            link.throttled = true;
            self.timers
                .push(Reverse((until, Alarm::Unthrottle(id.slot, id.generation))));
            self.ops.push_back(Op::Reading(id));
        }
        if link.tls.is_some() {
            self.take_sealed(id, bytes);
        } else {
            self.brain.received(self.now, id, bytes);
            self.act();
        }
    }

    fn take_sealed(&mut self, id: LinkId, bytes: &[u8]) {
        let mut plain = std::mem::take(&mut self.plain);
        plain.clear();
        let Some(link) = self.links.get_mut(&id) else { return };
        let Some(tls) = &mut link.tls else { return };
        let opened = tls.open(bytes, &mut plain);
        let started = !tls.announced && !tls.handshaking();
        tls.announced |= started;
        // The handshake's answers, key updates and alerts.
        self.mark_dirty(id);
        if started {
            self.brain.tls_started(self.now, id);
            self.act();
        }
        if !plain.is_empty() {
            self.brain.received(self.now, id, &plain);
            self.act();
        }
        match opened {
            Ok(true) => {}
            Ok(false) => self.broken(id, CloseCause::Eof),
            Err(why) => self.tls_failed(id, why),
        }
        self.plain = plain;
    }
}
