//! What a shard does with its links: the brain's actions, writing, closing, moving.

use super::brain::Brain;
use super::driver::{Driver, Released};
use super::hub::{Alarm, Hub, Op, SPARE_BYTES_MAX};
use super::lanes::Message;
use super::link::{Fate, Handover};
use super::sys;
use super::tls::Tls;
use crate::node::api::{Action, CLOSE_FLUSH_MS, CloseCause, Level, LinkId, ShardId};
use std::cmp::Reverse;
use std::os::fd::AsFd;

/// Bytes that are read and thrown away when a socket is closed: unread bytes would make the kernel reset the
/// connection and take our last words from the peer.
const CLOSE_DRAIN_BYTES: usize = 1024 * 1024;
/// And with one call, bytes.
const DRAIN_READ_BYTES: usize = 64 * 1024;

impl<B: Brain> Hub<B> {
    /// Takes what the brain asks and notes it; the driver's part is done in `settle`.
    pub(super) fn act(&mut self) {
        let mut actions = std::mem::take(&mut self.actions);
        self.brain.take_actions(&mut actions);
        for action in actions.drain(..) {
            match action {
                Action::Output(id) => self.mark_dirty(id),
                Action::Close(id) => self.begin_close(id, CloseCause::Local),
                Action::Abort(id) => {
                    self.ops.push_back(Op::DiscardUnsent(id));
                    self.begin_close(id, CloseCause::Local);
                }
                Action::StartTls(id) => {
                    let none = || "no certificate is configured (<pemfile>)".to_owned();
                    let made = self.context.tls.as_ref().ok_or_else(none).and_then(Tls::new);
                    self.start_tls(id, made);
                }
                Action::StartTlsAsClient(id) => {
                    let none = || "no <uplink><certificate> was read at the start".to_owned();
                    let made = self
                        .context
                        .tls_client
                        .as_ref()
                        .ok_or_else(none)
                        .and_then(Tls::new_client);
                    self.start_tls(id, made);
                }
                Action::Pause(id) => self.set_paused(id, true),
                Action::Resume(id) => self.set_paused(id, false),
                Action::Move { link, to, cargo } => self.begin_move(link, to, cargo),
                Action::Dial { link, host, port } => self.dial(link, host, port),
                Action::Probe(id) => self.ops.push_back(Op::Probe(id)),
                Action::Answer { ticket, answer } => {
                    // An asker that has gone away does not matter.
                    self.asked.remove(&ticket).map(|to| to.try_send(answer));
                }
                Action::Log(line) => self.context.journal.log(line),
                Action::Append { file, bytes, stamped } => self.context.journal.append(file, bytes, stamped),
            }
        }
        self.actions = actions;
    }

    fn set_paused(&mut self, id: LinkId, paused: bool) {
        if let Some(link) = self.links.get_mut(&id) {
            link.paused = paused;
            self.ops.push_back(Op::Reading(id));
        }
    }

    /// Writes what waits, then closes.
    pub(super) fn begin_close(&mut self, id: LinkId, cause: CloseCause) {
        if self.hang_up_dial(id) {
            return;
        }
        let Some(link) = self.links.get_mut(&id) else { return };
        if !link.serving() {
            return;
        }
        let last = cause != CloseCause::Local;
        link.fate = Fate::Closing { cause, last };
        self.ops.push_back(Op::Reading(id));
        let until = self.now + CLOSE_FLUSH_MS * 1_000;
        self.timers
            .push(Reverse((until, Alarm::Flushed(id.slot, id.generation))));
        self.mark_dirty(id);
    }

    fn begin_move(&mut self, id: LinkId, to: ShardId, cargo: Box<B::Cargo>) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let broken = match &link.fate {
            Fate::Gone(cause) => Some(cause.clone()),
            _ => None,
        };
        link.fate = Fate::Moving { to, cargo, broken };
        // The brain's share of the chunk in flight counts from here.
        link.moved_written = 0;
        self.ops.push_back(Op::Reading(id));
        self.mark_dirty(id);
    }

    fn start_tls(&mut self, id: LinkId, made: Result<Tls, String>) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let remote = link.remote;
        match made {
            Ok(tls) => {
                link.tls = Some(tls);
                link.plain_first = true;
                self.mark_dirty(id);
            }
            Err(why) => {
                self.log(Level::Error, remote, format!("TLS cannot start: {why}"));
                self.begin_close(id, CloseCause::Error(format!("TLS: {why}")));
            }
        }
    }

    /// Writes what waits for one link, if none of its writes is in flight, and goes on with its fate when nothing does.
    pub(super) fn flush(&mut self, id: LinkId, driver: &mut impl Driver) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.dirty = false;
        // While the shard stands still, other shards may go on already; what they cause is written when it goes on.
        let is_still = self.still.as_ref().is_some_and(|still| still.holds(id));
        if is_still || link.writing || matches!(link.fate, Fate::Gone(_)) {
            return;
        }
        if matches!(link.fate, Fate::Moving { .. }) {
            driver.release(link.token);
            return;
        }
        match self.next_chunk(id) {
            Ok(chunk) if chunk.is_empty() => self.written_all(id, chunk, driver),
            Ok(chunk) => {
                if let Some(link) = self.links.get_mut(&id) {
                    link.writing = true;
                    driver.write(link.token, chunk, 0);
                }
            }
            Err(why) => {
                self.tls_failed(id, why);
                self.let_go(id);
            }
        }
    }

    /// What goes to the socket next, sealed if the link is under TLS.
    fn next_chunk(&mut self, id: LinkId) -> Result<Vec<u8>, String> {
        let Some(link) = self.links.get_mut(&id) else {
            return Ok(Vec::new());
        };
        let last = matches!(link.fate, Fate::Closing { last: true, .. });
        let mut chunk = std::mem::take(&mut link.spare);
        chunk.clear();
        let Some(tls) = &mut link.tls else {
            if !last {
                self.brain.take_output(self.now, id, &mut chunk);
            }
            return Ok(chunk);
        };
        if link.plain_first {
            self.brain.take_output(self.now, id, &mut chunk);
            if !chunk.is_empty() {
                return Ok(chunk);
            }
            link.plain_first = false;
        }
        link.plain.clear();
        if !last && !tls.handshaking() {
            self.brain.take_output(self.now, id, &mut link.plain);
        }
        tls.seal(&link.plain, &mut chunk)?;
        if chunk.is_empty() && matches!(link.fate, Fate::Closing { last: false, .. }) {
            link.fate = Fate::Closing {
                cause: CloseCause::Local,
                last: true,
            };
            tls.say_goodbye();
            tls.seal(&[], &mut chunk)?;
        }
        Ok(chunk)
    }

    fn written_all(&mut self, id: LinkId, empty: Vec<u8>, driver: &mut impl Driver) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.spare = empty;
        if let Fate::Closing { cause, .. } = &mut link.fate {
            let cause = std::mem::replace(cause, CloseCause::Local);
            link.fate = Fate::Gone(cause);
            driver.release(link.token);
        }
    }

    pub(super) fn tls_failed(&mut self, id: LinkId, why: String) {
        if let Some(link) = self.links.get(&id) {
            self.log(Level::Warning, link.remote, format!("TLS failed: {why}"));
        }
        self.begin_close(id, CloseCause::Error(format!("TLS: {why}")));
    }

    /// The kernel took bytes; what the brain is told are the plain ones.
    pub(super) fn took(&mut self, id: LinkId, bytes: usize) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let plain = match &mut link.tls {
            Some(tls) if !link.plain_first => tls.sealed_written(bytes),
            _ => bytes,
        };
        if matches!(link.fate, Fate::Moving { .. }) {
            link.moved_written += plain;
        } else if plain > 0 {
            self.brain.written(self.now, id, plain);
            self.act();
        }
    }

    /// A chunk is out: its memory is kept for the next.
    pub(super) fn chunk_done(&mut self, id: LinkId, chunk: Vec<u8>) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.writing = false;
        if chunk.capacity() <= SPARE_BYTES_MAX {
            link.spare = chunk;
        }
        if link.plain.capacity() > SPARE_BYTES_MAX {
            link.plain = Vec::new();
        }
        self.mark_dirty(id);
    }

    /// The driver let a link go: close it, or send it to its new home.
    pub(super) fn end(&mut self, id: LinkId, released: Released) {
        let Some(released) = self.keep_still(id, released) else {
            return;
        };
        let Some(mut link) = self.links.remove(&id) else { return };
        let Released {
            fd,
            chunk,
            written,
            unread,
        } = released;
        let (unsent, written) = match &link.tls {
            Some(tls) if !link.plain_first && !chunk.is_empty() => {
                (std::mem::take(&mut link.plain), tls.plain_written())
            }
            Some(_) if !link.plain_first => (Vec::new(), 0),
            _ => (chunk, written),
        };
        match link.fate {
            Fate::Moving { to, cargo, broken } => {
                link.unread.extend_from_slice(&unread);
                let meter = link.meter.filter(|_| link.throttled);
                let throttled_until = meter.map_or(0, |meter| meter.barred_until());
                let handover = Box::new(Handover {
                    fd,
                    remote: link.remote,
                    permit: link.permit,
                    cargo,
                    tls: link.tls,
                    meter: link.meter,
                    throttled_until,
                    unread: link.unread,
                    written: link.moved_written,
                    broken: broken.map(|cause| (cause, unsent, written)),
                });
                self.send_link(to, handover);
            }
            Fate::Gone(cause) | Fate::Closing { cause, .. } => {
                self.hang_up(&fd, &cause);
                drop(fd);
                self.brain.closed(self.now, id, cause, unsent, written);
                self.act();
            }
            Fate::Serving => {
                self.brain.closed(self.now, id, CloseCause::Local, unsent, written);
                self.act();
            }
        }
    }

    /// Sends a link to its new home.
    pub(super) fn send_link(&mut self, to: ShardId, handover: Box<Handover<B::Cargo>>) {
        // What the brain said in the same turn goes first, as it was decided first.
        self.give_control();
        if let Err(Message::Link(handover)) = self.lanes.send(to, Message::Link(handover)) {
            // Nobody is there to take it: this shard itself was meant, or that one has ended.
            self.adopt(*handover);
        }
    }

    /// Ends a connection so that the peer gets all that was written.
    fn hang_up(&mut self, fd: &impl AsFd, cause: &CloseCause) {
        if *cause == CloseCause::Reset {
            return;
        }
        sys::shutdown_write(fd.as_fd());
        let mut scratch = std::mem::take(&mut self.plain);
        scratch.resize(DRAIN_READ_BYTES.max(scratch.len()), 0);
        let mut drained = 0;
        while drained < CLOSE_DRAIN_BYTES {
            match sys::receive(fd.as_fd(), &mut scratch) {
                Ok(bytes) if bytes > 0 => drained += bytes,
                _ => break,
            }
        }
        scratch.clear();
        self.plain = scratch;
    }
}
