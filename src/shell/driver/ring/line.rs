//! The way to the kernel and back: submissions out, completions in, one call for both.

use super::Token;
use super::buffers::GROUP;
use io_uring::{IoUring, cqueue, opcode, squeue, types};
use std::os::fd::RawFd;
use std::time::Duration;

/// Completions taken in one turn.
const TURN_COMPLETIONS: usize = 1024;
/// Bits of a generation that travel with an operation.
const GENERATION_BITS: u32 = 28;
/// Set for every option that is only switched on.
static ON: libc::c_int = 1;

/// What an operation is, told by its completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A link's multishot receive.
    Receive,
    /// A link's send.
    Send,
    /// A cancellation on behalf of a link.
    Cancel,
    /// The poll of the doorbell.
    Bell,
    /// The poll of the listener whose number stands in the slot.
    Listener,
    /// Nobody waits for it.
    Ignored,
}

/// The generation that follows; as many bits as travel with an operation.
pub(super) fn next_generation(generation: u32) -> u32 {
    (generation + 1) & ((1 << GENERATION_BITS) - 1)
}

fn encode(kind: Kind, token: Token) -> u64 {
    let high = (kind as u32) << GENERATION_BITS | token.generation;
    u64::from(high) << 32 | u64::from(token.slot)
}

/// What a completion is about.
pub(super) fn decode(user_data: u64) -> (Kind, Token) {
    let high = (user_data >> 32) as u32;
    let kind = match high >> GENERATION_BITS {
        0 => Kind::Receive,
        1 => Kind::Send,
        2 => Kind::Cancel,
        3 => Kind::Bell,
        4 => Kind::Listener,
        _ => Kind::Ignored,
    };
    let token = Token {
        slot: user_data as u32,
        generation: high & ((1 << GENERATION_BITS) - 1),
    };
    (kind, token)
}

/// A link's descriptor and name, for the operations on it.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) fd: RawFd,
    pub(super) token: Token,
}

/// The ring itself.
pub(super) struct Line {
    ring: IoUring,
    /// Operations whose last completion has not come.
    in_flight: usize,
}

impl Line {
    pub(super) fn new(ring: IoUring) -> Line {
        Line { ring, in_flight: 0 }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Reads from now on, a buffer at a time, until cancelled, at the end, or out of buffers.
    pub(super) fn receive(&mut self, place: Place) {
        let receive = opcode::RecvMulti::new(types::Fd(place.fd), GROUP).build();
        // SAFETY: the kernel writes to lent buffers only.
        unsafe { self.push(receive.user_data(encode(Kind::Receive, place.token))) };
        self.in_flight += 1;
    }

    /// Sends some or all of the bytes.
    ///
    /// # Safety
    /// They must stay where they are until the completion has come.
    pub(super) unsafe fn send(&mut self, place: Place, bytes: &[u8]) {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let send = opcode::Send::new(types::Fd(place.fd), bytes.as_ptr(), length).flags(libc::MSG_NOSIGNAL);
        // SAFETY: as the caller promises.
        unsafe { self.push(send.build().user_data(encode(Kind::Send, place.token))) };
        self.in_flight += 1;
    }

    /// Ends the link's receive.
    pub(super) fn cancel_receive(&mut self, place: Place) {
        let target = types::CancelBuilder::user_data(encode(Kind::Receive, place.token));
        self.cancel(target, Kind::Cancel, place.token);
    }

    /// Ends every operation on the link.
    pub(super) fn cancel_link(&mut self, place: Place) {
        let target = types::CancelBuilder::fd(types::Fd(place.fd)).all();
        self.cancel(target, Kind::Cancel, place.token);
    }

    /// Ends every operation.
    pub(super) fn cancel_all(&mut self) {
        self.cancel(types::CancelBuilder::any(), Kind::Ignored, Token::NONE);
    }

    /// Ends the poll of a listener.
    pub(super) fn unwatch_listener(&mut self, number: u32) {
        let target = types::CancelBuilder::user_data(encode(Kind::Listener, numbered(number)));
        self.cancel(target, Kind::Ignored, Token::NONE);
    }

    fn cancel(&mut self, target: types::CancelBuilder, kind: Kind, token: Token) {
        let cancel = opcode::AsyncCancel2::new(target).build();
        // SAFETY: no memory is involved.
        unsafe { self.push(cancel.user_data(encode(kind, token))) };
        self.in_flight += usize::from(kind != Kind::Ignored);
    }

    /// Tells every time that the descriptor has something to read (edges).
    pub(super) fn watch(&mut self, fd: RawFd, kind: Kind, number: u32) {
        let poll = opcode::PollAdd::new(types::Fd(fd), libc::POLLIN as u32)
            .multi(true)
            .build();
        // SAFETY: no memory is involved.
        unsafe { self.push(poll.user_data(encode(kind, numbered(number)))) };
        self.in_flight += 1;
    }

    /// Acknowledges what was read, now.
    pub(super) fn quickack(&mut self, place: Place) {
        let (level, name) = (libc::IPPROTO_TCP as u32, libc::TCP_QUICKACK as u32);
        let option = opcode::SetSockOpt::new(
            types::Fd(place.fd),
            level,
            name,
            (&raw const ON).cast(),
            size_of_val(&ON) as u32,
        );
        let flags = squeue::Flags::SKIP_SUCCESS;
        // SAFETY: the value is a static.
        unsafe {
            self.push(
                option
                    .build()
                    .flags(flags)
                    .user_data(encode(Kind::Ignored, place.token)),
            )
        };
    }

    /// # Safety
    /// What the entry points at must be valid until its completion.
    unsafe fn push(&mut self, entry: squeue::Entry) {
        loop {
            // SAFETY: as the caller promises.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return;
            }
            // Full: a submission makes room. It fails only where memory is short, and then for a moment.
            let _ = self.ring.submit();
        }
    }

    /// Submits, and waits at most `wait` for a completion if there is none.
    pub(super) fn enter(&mut self, wait: Duration) {
        let waiting = !wait.is_zero() && self.ring.completion().is_empty();
        // What goes wrong here (a signal, the end of the wait, completions that must be taken first) is put right by
        // the next turn.
        if waiting {
            let time = types::Timespec::from(wait);
            let _ = self
                .ring
                .submitter()
                .submit_with_args(1, &types::SubmitArgs::new().timespec(&time));
            return;
        }
        let submission = self.ring.submission();
        let needed = !submission.is_empty() || submission.taskrun() || submission.cq_overflow();
        drop(submission);
        if needed {
            let _ = self.ring.submit();
        }
    }

    /// Whether the kernel has something for us, or we have something for it.
    pub(super) fn pending(&mut self) -> bool {
        !self.ring.completion().is_empty() || !self.ring.submission().is_empty() || self.ring.submission().taskrun()
    }

    /// Moves what has completed to `into`.
    pub(super) fn take_completions(&mut self, into: &mut Vec<cqueue::Entry>) {
        into.extend(self.ring.completion().take(TURN_COMPLETIONS));
        for completion in into.iter() {
            if !cqueue::more(completion.flags()) && decode(completion.user_data()).0 != Kind::Ignored {
                self.in_flight -= 1;
            }
        }
    }

    /// Whether completions ring the registered eventfd.
    pub(super) fn set_signalling(&mut self, signals: bool) {
        if signals {
            self.ring.completion().enable_eventfd();
        } else {
            self.ring.completion().disable_eventfd();
        }
    }

    /// Takes the buffers back from the kernel.
    pub(super) fn forget_buffers(&mut self) {
        let _ = self.ring.submitter().unregister_buf_ring(GROUP);
    }
}

fn numbered(number: u32) -> Token {
    Token {
        slot: number,
        generation: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_is_known_by_its_completion() {
        let last = (1 << GENERATION_BITS) - 1;
        for kind in [
            Kind::Receive,
            Kind::Send,
            Kind::Cancel,
            Kind::Bell,
            Kind::Listener,
            Kind::Ignored,
        ] {
            for (slot, generation) in [(0, 0), (u32::MAX, last), (7, 0xabc)] {
                let token = Token { slot, generation };
                assert_eq!(decode(encode(kind, token)), (kind, token));
            }
        }
        assert_eq!(next_generation(last), 0);
    }
}
