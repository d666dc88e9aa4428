//! Handing out what came: each link in its turn, a quota at a time.
//!
//! A link whose in-box is full is *bulk*: its receive is cancelled, and from then on it is read by plain calls into one
//! buffer that stays in the cache, a quota a turn, until a call finds less than that. A multishot receive would go on
//! copying as long as bytes come, at the expense of every other link.

use super::socket::Receive;
use super::{Ring, at};
use crate::node::api::{CloseCause, LinkId};
use crate::shell::driver::{Events, Token, cause_of};
use crate::shell::sys;
use std::io;
use std::os::fd::AsFd;

impl Ring {
    /// Hands out what came for one link, as far as its turn reaches.
    pub(super) fn serve(&mut self, token: Token, events: &mut impl Events) -> usize {
        let Some(socket) = at(&mut self.sockets, token) else {
            return 0;
        };
        socket.queued = false;
        if !socket.servable() {
            return 0;
        }
        let link = socket.link;
        let at_most = self.budget.read_bytes;
        let mut bytes = socket.held.len();
        if bytes > 0 {
            events.received(link, &std::mem::take(&mut socket.held));
        }
        while bytes < at_most
            && let Some(piece) = socket.next_piece(at_most - bytes)
        {
            bytes += piece.len();
            events.received(link, self.buffers.bytes(&piece));
            self.buffers.give_back(piece);
        }
        if bytes < at_most && socket.inbox.is_empty() {
            bytes += self.pull(token, link, at_most - bytes, events);
        }
        let Some(socket) = at(&mut self.sockets, token) else {
            return bytes;
        };
        if bytes > 0 && !socket.bulk && socket.inbox.is_empty() {
            socket.owed = true;
            if !std::mem::replace(&mut socket.listed, true) {
                self.owed.push(token);
            }
        }
        if socket.inbox.is_empty()
            && let Some(end) = socket.end.take()
        {
            socket.broken = true;
            events.broken(link, socket.failure.take().unwrap_or(end));
        }
        self.proceed(token);
        bytes
    }

    /// Reads a bulk link with one call.
    fn pull(&mut self, token: Token, link: LinkId, at_most: usize, events: &mut impl Events) -> usize {
        let Some(socket) = at(&mut self.sockets, token) else {
            return 0;
        };
        if !socket.bulk || socket.receive != Receive::Off || socket.end.is_some() {
            return 0;
        }
        match sys::receive(socket.fd.as_fd(), &mut self.scratch[..at_most]) {
            Ok(0) => socket.end = Some(CloseCause::Eof),
            Ok(bytes) => {
                socket.bulk = bytes == at_most;
                events.received(link, &self.scratch[..bytes]);
                return bytes;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => socket.bulk = false,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => socket.end = Some(cause_of(&error)),
        }
        0
    }

    /// Arms the receives that found no buffer, as there are some now.
    pub(super) fn feed(&mut self) {
        for _ in 0..self.starved.len() {
            if !self.buffers.available() {
                return;
            }
            let Some(token) = self.starved.pop_front() else { return };
            if let Some(socket) = at(&mut self.sockets, token) {
                socket.starved = false;
                self.proceed(token);
            }
        }
    }

    /// Acknowledges what was read from links that nothing was written to since: a write carries the acknowledgement.
    /// While it is not known whether a write did, this is put off for a turn.
    pub(super) fn acknowledge(&mut self) {
        let (sockets, line, through_ring) = (&mut self.sockets, &mut self.line, self.sets_options);
        self.owed.retain(|&token| {
            let Some(socket) = at(sockets, token) else { return false };
            if socket.owed && socket.sending && !socket.put_off {
                socket.put_off = true;
                return true;
            }
            if std::mem::take(&mut socket.owed) && !socket.broken && !socket.releasing {
                if through_ring {
                    line.quickack(socket.place(token));
                } else {
                    sys::set_quickack(socket.fd.as_fd());
                }
            }
            (socket.listed, socket.put_off) = (false, false);
            false
        });
    }
}
