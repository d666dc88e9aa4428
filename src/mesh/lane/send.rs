//! The sending half of a lane: messages become a stream of bytes, which is kept until the peer has it.

use super::super::Micros;
use super::super::codec::VARINT_BYTES_MAX;
use super::super::error::MeshError;
use super::super::frame::{Credit, put_data_head};
use super::queue::ByteQueue;
use super::{INITIAL_CREDIT_BYTES, MESSAGE_BYTES_MAX};
use serde::{Deserialize, Serialize};

/// The lane's queue is full, or the message beyond [`MESSAGE_BYTES_MAX`]: nothing was queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// One direction of a lane, at its source.
///
/// `base <= acked <= sent <= reached <= base + queue.len()`, and `base` is always the start of a message.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Sender {
    queue: ByteQueue,
    bytes_max: usize,
    base: u64,
    acked: u64,
    /// What has come to the peer; more than it acknowledged when something waits there.
    arrived: u64,
    sent: u64,
    /// How far the stream was ever sent, over whatever connection.
    reached: u64,
    /// What lies beyond the peer cannot have got.
    doubtful: u64,
    /// When something was last heard from the peer, or when bytes were put under way and it owed nothing before.
    alive_at: Micros,
    limit: u64,
    /// Messages sent so far.
    messages: u64,
    /// The `after` of the last message.
    after: u64,
    /// When bytes were last under way and acknowledged, or put under way.
    progress_at: Micros,
}

impl Sender {
    /// `bytes_max`: the most it keeps.
    pub(crate) fn new(bytes_max: usize) -> Sender {
        Sender {
            queue: ByteQueue::default(),
            bytes_max,
            base: 0,
            acked: 0,
            arrived: 0,
            sent: 0,
            reached: 0,
            doubtful: 0,
            alive_at: 0,
            limit: INITIAL_CREDIT_BYTES,
            messages: 0,
            after: 0,
            progress_at: 0,
        }
    }

    /// The same in another process, over connections to come. `bytes_max`: as that one is configured.
    pub(crate) fn restored(mut self, now: Micros, bytes_max: usize) -> Sender {
        self.bytes_max = bytes_max;
        (self.alive_at, self.progress_at) = (now, now);
        self.interrupt();
        self
    }

    /// Queues one message, whose bytes are `parts` one after another. It is not given out before the peer has given out
    /// `after` messages of the control lane; `after` never falls.
    pub(crate) fn send(&mut self, after: u64, parts: &[&[u8]]) -> Result<(), Full> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        if len > MESSAGE_BYTES_MAX || self.queue.len() + len + 2 * VARINT_BYTES_MAX > self.bytes_max {
            return Err(Full);
        }
        let mut head = HeadBuffer::default();
        head.put(len as u64);
        head.put(after - self.after);
        self.queue.push(head.bytes());
        for part in parts {
            self.queue.push(part);
        }
        self.after = after;
        self.messages += 1;
        Ok(())
    }

    /// The most it keeps, bytes.
    pub(crate) fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Messages sent so far on this stream.
    pub(crate) fn messages(&self) -> u64 {
        self.messages
    }

    /// Bytes kept.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.queue.len()
    }

    /// Bytes sent over the present connection and not acknowledged.
    pub(crate) fn in_flight_bytes(&self) -> u64 {
        self.sent - self.acked
    }

    /// How far the stream was sent over the present connection, and how far it goes.
    pub(crate) fn stream(&self) -> (u64, u64) {
        (self.sent, self.base + self.queue.len() as u64)
    }

    /// Bytes that may be sent now.
    pub(crate) fn ready_bytes(&self) -> usize {
        let end = (self.base + self.queue.len() as u64).min(self.limit);
        end.saturating_sub(self.sent) as usize
    }

    /// Bytes that the peer takes beyond those sent so far.
    pub(crate) fn credit_bytes(&self) -> u64 {
        self.limit.saturating_sub(self.sent)
    }

    /// There are bytes to send, and the peer gives no credit.
    pub(crate) fn is_out_of_credit(&self) -> bool {
        self.limit <= self.sent && self.sent < self.base + self.queue.len() as u64
    }

    /// When something under way last came to the peer; `None` if nothing is under way.
    pub(crate) fn waits_since(&self) -> Option<Micros> {
        self.is_owed().then_some(self.progress_at)
    }

    /// The peer has not answered all that is under way.
    fn is_owed(&self) -> bool {
        self.sent > self.acked.max(self.arrived)
    }

    /// Nothing is sent to a peer that owes an answer for longer than `doubt_us`: it may be dead, or hear and not be heard.
    pub(crate) fn may_send(&self, now: Micros, doubt_us: Micros) -> bool {
        self.ready_bytes() > 0 && (!self.is_owed() || now <= self.alive_at + doubt_us)
    }

    /// Appends one data frame of at most `room` bytes, head included; there must be [`Sender::ready_bytes`].
    pub(crate) fn put_data(&mut self, now: Micros, room: usize, out: &mut Vec<u8>) {
        let len = self.ready_bytes().min(room - super::super::frame::DATA_HEAD_BYTES_MAX);
        assert!(len > 0, "nothing to send");
        if !self.is_owed() {
            self.progress_at = now;
            self.alive_at = now;
        }
        put_data_head(out, self.sent, len);
        self.queue.copy((self.sent - self.base) as usize, len, out);
        self.sent += len as u64;
        self.reached = self.reached.max(self.sent);
        self.doubtful = self.reached;
    }

    /// Something came from the peer, over whatever connection.
    pub(crate) fn heard(&mut self, now: Micros) {
        self.alive_at = now;
    }

    /// What the peer has received and allows. `Err`: what it says cannot be.
    pub(crate) fn acknowledged(&mut self, now: Micros, credit: Credit) -> Result<(), MeshError> {
        if credit.received > self.base + self.queue.len() as u64 {
            return Err(MeshError::Malformed("an acknowledgement of what was never sent"));
        }
        // An older acknowledgement may come over an older connection: it tells nothing new.
        self.limit = self.limit.max(credit.limit);
        if credit.received > self.acked {
            self.acked = credit.received;
            self.sent = self.sent.max(self.acked);
            self.reached = self.reached.max(self.acked);
            self.progress_at = now;
            self.forget();
        }
        Ok(())
    }

    /// So much has come to the peer, who may not acknowledge it yet.
    pub(crate) fn has_arrived(&mut self, now: Micros, arrived: u64) {
        if arrived > self.arrived {
            self.arrived = arrived.min(self.reached);
            self.progress_at = now;
        }
    }

    /// The peer gave the stream up when it had received so much of it, and says so: nothing is in doubt.
    pub(crate) fn was_given_up(&mut self, now: Micros, received: u64) -> Result<(), MeshError> {
        let limit = self.limit;
        self.acknowledged(now, Credit { received, limit })?;
        self.doubtful = self.acked;
        Ok(())
    }

    /// A new connection serves the lane: what is unacknowledged goes again.
    pub(crate) fn resume(&mut self, now: Micros, credit: Credit) -> Result<(), MeshError> {
        self.acknowledged(now, credit)?;
        self.interrupt();
        Ok(())
    }

    /// No connection serves the lane.
    pub(crate) fn interrupt(&mut self) {
        (self.sent, self.arrived) = (self.acked, self.acked);
    }

    /// The lane starts anew: gives what is unacknowledged, message by message.
    pub(crate) fn restart(&mut self) -> Unacknowledged {
        let fresh = Sender::new(self.bytes_max);
        let old = std::mem::replace(self, fresh);
        Unacknowledged {
            queue: old.queue,
            doubtful: old.doubtful.saturating_sub(old.base) as usize,
        }
    }

    /// Releases whole messages up to what is acknowledged.
    fn forget(&mut self) {
        let mut count = 0;
        while let Some(len) = message_bytes(&self.queue, count) {
            if self.base + (count + len) as u64 > self.acked {
                break;
            }
            count += len;
        }
        self.queue.release(count);
        self.base += count as u64;
    }
}

/// Length of the message that starts at `start`, head included; `None` at the end of the queue.
fn message_bytes(queue: &ByteQueue, start: usize) -> Option<usize> {
    let (head, len) = message_head(queue, start)?;
    Some(head + len)
}

/// Lengths of the head and of the body of the message at `start`.
fn message_head(queue: &ByteQueue, start: usize) -> Option<(usize, usize)> {
    let (len, first) = varint(queue, start)?;
    let (_, second) = varint(queue, start + first)?;
    Some((first + second, len as usize))
}

/// The varint at `start` and its length.
fn varint(queue: &ByteQueue, start: usize) -> Option<(u64, usize)> {
    let mut value = 0;
    for index in 0..VARINT_BYTES_MAX {
        let byte = queue.byte(start + index)?;
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, index + 1));
        }
    }
    None
}

/// Whether a peer has seen a message that it did not acknowledge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Nobody knows: it must not be sent to anybody again.
    Perhaps,
    /// No.
    Never,
}

/// Messages that a peer did not acknowledge, in their order.
#[derive(Debug, Default)]
pub struct Unacknowledged {
    queue: ByteQueue,
    /// Of the first so many bytes the peer may have seen all.
    doubtful: usize,
}

impl Unacknowledged {
    /// The next message into `out`, which is cleared; `None` when there is none. Those that the peer may have seen come
    /// first.
    pub fn next_into(&mut self, out: &mut Vec<u8>) -> Option<Seen> {
        out.clear();
        let (head, len) = message_head(&self.queue, 0)?;
        self.queue.copy(head, len, out);
        self.queue.release(head + len);
        // Of a message that was cut off it can have made nothing.
        let seen = if head + len <= self.doubtful {
            Seen::Perhaps
        } else {
            Seen::Never
        };
        self.doubtful = self.doubtful.saturating_sub(head + len);
        Some(seen)
    }

    /// Bytes of all of them.
    pub fn bytes(&self) -> usize {
        self.queue.len()
    }
}

/// A message's head before it goes into the queue.
#[derive(Default)]
struct HeadBuffer {
    bytes: [u8; 2 * VARINT_BYTES_MAX],
    len: usize,
}

impl HeadBuffer {
    fn put(&mut self, mut value: u64) {
        loop {
            let more = value >= 0x80;
            self.bytes[self.len] = value as u8 & 0x7f | u8::from(more) << 7;
            self.len += 1;
            value >>= 7;
            if !more {
                return;
            }
        }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::super::codec::put_varint;
    use super::*;

    #[test]
    fn a_head_is_two_varints() {
        for (len, after) in [(0, 0), (127, 1), (128, 300), (MESSAGE_BYTES_MAX as u64, u64::MAX)] {
            let mut head = HeadBuffer::default();
            head.put(len);
            head.put(after);
            let mut same = Vec::new();
            put_varint(&mut same, len);
            put_varint(&mut same, after);
            assert_eq!(head.bytes(), same);
        }
    }

    #[test]
    fn refuses_beyond_its_bound_and_goes_on_when_acknowledged() {
        let mut sender = Sender::new(1000);
        sender.send(0, &[&[1; 500], &[2; 400]]).unwrap();
        assert_eq!(sender.send(0, &[&[3; 100]]), Err(Full));
        let end = sender.queued_bytes() as u64;
        let mut out = Vec::new();
        sender.put_data(5, 100, &mut out);
        sender.put_data(6, 10_000, &mut out);
        assert_eq!((sender.ready_bytes(), sender.in_flight_bytes()), (0, end));
        assert_eq!(sender.waits_since(), Some(5));
        let credit = |received| Credit {
            received,
            limit: 10_000,
        };
        sender.acknowledged(9, credit(end - 1)).unwrap();
        assert_eq!((sender.queued_bytes() as u64, sender.waits_since()), (end, Some(9)));
        sender.acknowledged(10, credit(end)).unwrap();
        assert_eq!((sender.queued_bytes(), sender.waits_since()), (0, None));
        sender.send(0, &[&[3; 100]]).unwrap();
        assert!(sender.acknowledged(11, credit(end + 1000)).is_err());
    }

    #[test]
    fn what_is_unacknowledged_comes_out_as_messages() {
        let mut sender = Sender::new(1 << 20);
        for n in 0..100u8 {
            sender
                .send(u64::from(n), &[&[n], &vec![n; usize::from(n) * 100]])
                .unwrap();
        }
        let mut out = Vec::new();
        sender.put_data(0, 60_000, &mut out);
        // Acknowledged within a message: that one is still unacknowledged.
        let credit = Credit {
            received: 50_000,
            limit: 1 << 30,
        };
        sender.acknowledged(0, credit).unwrap();
        let mut left = sender.restart();
        let (mut got, mut message) = (Vec::new(), Vec::new());
        while left.next_into(&mut message).is_some() {
            assert!(message.iter().all(|byte| *byte == message[0]));
            assert_eq!(message.len(), 1 + usize::from(message[0]) * 100);
            got.push(message[0]);
        }
        assert_eq!(got, (got[0]..100).collect::<Vec<u8>>());
        assert!(got[0] > 20 && left.bytes() == 0);
        assert_eq!((sender.messages(), sender.queued_bytes()), (0, 0));
    }

    #[test]
    fn a_new_connection_sends_again_from_what_the_peer_has() {
        let mut sender = Sender::new(1 << 20);
        sender.send(0, &[&[7; 1000]]).unwrap();
        let mut out = Vec::new();
        sender.put_data(0, 600, &mut out);
        let credit = Credit {
            received: 200,
            limit: 5000,
        };
        sender.resume(1, credit).unwrap();
        assert_eq!(sender.ready_bytes(), sender.queued_bytes() - 200);
        assert_eq!(sender.in_flight_bytes(), 0);
    }

    #[test]
    fn what_a_silent_peer_cannot_have_seen_is_told_from_the_rest() {
        const DOUBT_US: Micros = 100;
        let mut sender = Sender::new(1 << 20);
        let send = |sender: &mut Sender, now, message: u8| {
            sender.send(0, &[&[message; 9]]).unwrap();
            if sender.may_send(now, DOUBT_US) {
                sender.put_data(now, 1_000, &mut Vec::new());
            }
        };
        send(&mut sender, 1_000, 1);
        let credit = Credit {
            received: 11,
            limit: 10_000,
        };
        sender.acknowledged(1_001, credit).unwrap();
        // It owes nothing for a long time; then an answer to this, and whatever it says tells that it still lives.
        send(&mut sender, 9_000, 2);
        send(&mut sender, 9_100, 3);
        sender.heard(9_101);
        send(&mut sender, 9_150, 4);
        send(&mut sender, 9_202, 5);
        sender.interrupt();
        sender.send(0, &[&[6; 9]]).unwrap();
        let mut left = sender.restart();
        let mut message = Vec::new();
        let mut seen = Vec::new();
        while let Some(whether) = left.next_into(&mut message) {
            seen.push((message[0], whether));
        }
        assert_eq!(
            seen,
            [
                (2, Seen::Perhaps),
                (3, Seen::Perhaps),
                (4, Seen::Perhaps),
                (5, Seen::Never),
                (6, Seen::Never)
            ]
        );
    }

    #[test]
    fn nothing_was_seen_of_a_message_whose_end_was_never_sent() {
        let mut sender = Sender::new(1 << 20);
        sender.send(0, &[&[1; 9]]).unwrap();
        sender.send(0, &[&[2; 900]]).unwrap();
        sender.put_data(0, 60, &mut Vec::new());
        let mut left = sender.restart();
        let mut message = Vec::new();
        assert_eq!(left.next_into(&mut message), Some(Seen::Perhaps));
        assert_eq!(left.next_into(&mut message), Some(Seen::Never));
        assert_eq!(left.next_into(&mut message), None);
    }
}
