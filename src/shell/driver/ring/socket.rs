//! What the ring knows of one link.

use super::buffers::{Buffers, Piece};
use super::line::Place;
use crate::node::api::{CloseCause, LinkId};
use crate::shell::driver::Token;
use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd};

/// Buffers that may wait for a link's turn; with more, its receive is cancelled and the link is bulk.
const INBOX_MAX: usize = 4;

/// The link's receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receive {
    /// None is in flight.
    Off,
    /// It fills buffers as bytes come.
    Armed,
    /// It was cancelled, and its last completion has not come.
    Cancelled,
}

pub(super) struct Socket {
    pub(super) link: LinkId,
    pub(super) fd: OwnedFd,
    /// It is to be read.
    pub(super) reading: bool,
    pub(super) receive: Receive,
    /// More came than one turn hands out: it is read by calls, until they find less.
    pub(super) bulk: bool,
    /// Its receive waits for buffers.
    pub(super) starved: bool,
    /// It stands in the queue of links to serve.
    pub(super) queued: bool,
    /// It was read until nothing was left, and nothing was written since that carries the acknowledgement.
    pub(super) owed: bool,
    /// It stands in the list of links that may be owed one.
    pub(super) listed: bool,
    /// The acknowledgement was put off for a turn.
    pub(super) put_off: bool,
    /// It was reported as broken.
    pub(super) broken: bool,
    /// It is let go when nothing is in flight.
    pub(super) releasing: bool,
    /// Everything in flight was cancelled, and nothing has completed since.
    pub(super) swept: bool,
    /// A write failed so; the receive finds the end, and would tell an orderly one.
    pub(super) failure: Option<CloseCause>,
    /// What comes behind the bytes that are here.
    pub(super) end: Option<CloseCause>,
    /// Bytes that were read while the link was not to be read. Older than the in-box.
    pub(super) held: Vec<u8>,
    pub(super) inbox: VecDeque<Piece>,
    pub(super) chunk: Option<Vec<u8>>,
    pub(super) written: usize,
    /// Its write is to begin at the end of this turn.
    pub(super) outgoing: bool,
    /// A send is in flight.
    pub(super) sending: bool,
    /// Cancellations in flight.
    pub(super) cancels: u32,
}

impl Socket {
    pub(super) fn new(link: LinkId, fd: OwnedFd) -> Socket {
        Socket {
            link,
            fd,
            reading: true,
            receive: Receive::Off,
            bulk: false,
            starved: false,
            queued: false,
            owed: false,
            listed: false,
            put_off: false,
            broken: false,
            releasing: false,
            swept: false,
            failure: None,
            end: None,
            held: Vec::new(),
            inbox: VecDeque::new(),
            chunk: None,
            written: 0,
            outgoing: false,
            sending: false,
            cancels: 0,
        }
    }

    pub(super) fn place(&self, token: Token) -> Place {
        Place {
            fd: self.fd.as_raw_fd(),
            token,
        }
    }

    /// Whether the kernel may still touch what belongs to this link.
    pub(super) fn in_flight(&self) -> bool {
        self.receive != Receive::Off || self.sending || self.cancels > 0
    }

    /// Whether there is something to hand out.
    pub(super) fn servable(&self) -> bool {
        let bulk = self.bulk && self.receive == Receive::Off;
        let something = bulk || !self.held.is_empty() || !self.inbox.is_empty() || self.end.is_some();
        something && self.reading && !self.broken && !self.releasing
    }

    /// Whether a receive is to be armed.
    pub(super) fn wants_receive(&self) -> bool {
        self.receive == Receive::Off
            && self.reading
            && !self.broken
            && !self.releasing
            && !self.starved
            && self.end.is_none()
            && !self.bulk
    }

    /// Whether more is here than one turn hands out.
    pub(super) fn overfull(&self) -> bool {
        self.inbox.len() >= INBOX_MAX
    }

    /// Keeps what was read: in its buffer for the next turn, or copied where nobody knows when that will be.
    pub(super) fn keep(&mut self, piece: Piece, buffers: &mut Buffers) {
        if self.reading && !self.releasing {
            self.inbox.push_back(piece);
        } else {
            self.hold(piece, buffers);
        }
    }

    /// Copies what waits, so that no buffer does.
    pub(super) fn hold_all(&mut self, buffers: &mut Buffers) {
        while let Some(piece) = self.inbox.pop_front() {
            self.hold(piece, buffers);
        }
    }

    fn hold(&mut self, piece: Piece, buffers: &mut Buffers) {
        self.held.extend_from_slice(buffers.bytes(&piece));
        buffers.give_back(piece);
    }

    /// The next bytes in their buffers, as many as lie together.
    pub(super) fn next_piece(&mut self, at_most: usize) -> Option<Piece> {
        let mut piece = self.inbox.pop_front()?;
        while piece.len() < at_most
            && let Some(next) = self.inbox.pop_front()
        {
            if let Err(next) = piece.join(next) {
                self.inbox.push_front(next);
                break;
            }
        }
        Some(piece)
    }
}
