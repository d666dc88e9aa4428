//! The receiving half of a lane: pieces of the stream become messages again, and credit is given for what was taken.

use super::super::codec::peek_varint;
use super::super::error::MeshError;
use super::super::frame::Credit;
use super::{MESSAGE_BYTES_MAX, WINDOW_BYTES};
use crate::table::image;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// A buffer that a large message blew up is given back beyond so many bytes.
const BUFFER_BYTES_KEPT: usize = 256 * 1024;

/// One direction of a lane, at its end.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Receiver {
    /// The bytes of the stream from offset `received - (buffer.len() - head)` to `received`.
    #[serde(with = "image::bytes")]
    buffer: Vec<u8>,
    head: usize,
    received: u64,
    /// Where the first message stands that is not whole, or waits for control messages; and the sum of `after` before it.
    clear: u64,
    clear_after: u64,
    /// What came before this offset waits for nothing but its rest: it will be given out, whatever becomes of the peer.
    taken: u64,
    /// Messages given out.
    messages: u64,
    /// How many control messages the next message waits for.
    after: u64,
    /// The message at `head`, when its head was read.
    next: Option<Next>,
    /// What the peer was last told.
    told: Credit,
    /// There is something that it was not told.
    news: bool,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Next {
    head_bytes: usize,
    body_bytes: usize,
}

impl Receiver {
    /// A piece of the stream came. What is known already is skipped; the number of bytes skipped.
    pub(crate) fn received(&mut self, offset: u64, bytes: &[u8]) -> Result<usize, MeshError> {
        let end = offset.checked_add(bytes.len() as u64);
        let end = end.ok_or(MeshError::Malformed("an offset beyond 64 bits"))?;
        if offset > self.received {
            return Err(MeshError::Malformed("a gap in the stream"));
        }
        if end > self.credit().limit.max(self.told.limit) {
            return Err(MeshError::Malformed("more than the credit given"));
        }
        let old = bytes.len().min((self.received - offset) as usize);
        self.append(&bytes[old..]);
        self.received = self.received.max(end);
        // Before anything is done with it, so that nothing is done that the sender might ask of somebody else. Also what
        // was sent twice is answered: the sender may not know that it arrived.
        self.news = true;
        Ok(old)
    }

    /// The next message, if it is whole and `control_given` messages of the control lane are enough for it.
    pub(crate) fn next(&mut self, control_given: u64) -> Result<Option<Range<usize>>, MeshError> {
        let Some(next) = self.peek()? else {
            self.look_ahead(control_given);
            return Ok(None);
        };
        let start = self.head + next.head_bytes;
        let end = start + next.body_bytes;
        if end > self.buffer.len() || self.after > control_given {
            self.look_ahead(control_given);
            return Ok(None);
        }
        self.head = end;
        self.next = None;
        let given = self.received - self.waiting_bytes() as u64;
        if given > self.clear {
            (self.clear, self.clear_after) = (given, self.after);
        }
        self.taken = self.taken.max(given);
        self.messages += 1;
        self.news |= self.credit().limit - self.told.limit >= WINDOW_BYTES as u64 / 4;
        Ok(Some(start..end))
    }

    /// How far nothing waits for the control lane, of which so many messages were given out. What waits for it is not
    /// acknowledged: should the peer be given up, nobody would ever give it out.
    pub(crate) fn look_ahead(&mut self, control_given: u64) {
        let taken = loop {
            let rest = &self.buffer[self.buffer.len() - (self.received - self.clear) as usize..];
            let Some((len, after, head)) = peek_head(rest) else {
                break self.received;
            };
            let (sum, end) = (self.clear_after.saturating_add(after), self.clear + head as u64 + len);
            if sum > control_given {
                break self.clear;
            }
            if end > self.received {
                break self.received;
            }
            (self.clear, self.clear_after) = (end, sum);
        };
        self.taken = self.taken.max(taken);
        self.news |= self.taken > self.told.received;
    }

    /// How far the stream has come.
    pub(crate) fn arrived(&self) -> u64 {
        self.received
    }

    /// The bytes of a message that [`Receiver::next`] found; good until the next piece comes.
    pub(crate) fn bytes(&self, message: Range<usize>) -> &[u8] {
        &self.buffer[message]
    }

    /// Messages given out so far on this stream.
    pub(crate) fn messages(&self) -> u64 {
        self.messages
    }

    /// Bytes that came and were not given out.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.buffer.len() - self.head
    }

    /// What the peer should know. A message longer than the window gets the credit it needs.
    pub(crate) fn credit(&self) -> Credit {
        let given = self.received - self.waiting_bytes() as u64;
        let message = self.next.map_or(0, |next| next.head_bytes + next.body_bytes);
        Credit {
            received: self.taken,
            limit: (given + message.max(WINDOW_BYTES) as u64).max(self.told.limit),
        }
    }

    /// The same, and the peer is told with it.
    pub(crate) fn tell(&mut self) -> Credit {
        self.told = self.credit();
        self.news = false;
        self.told
    }

    /// Whether there is something that the peer must be told at once.
    pub(crate) fn has_news(&self) -> bool {
        self.news
    }

    fn peek(&mut self) -> Result<Option<Next>, MeshError> {
        if self.next.is_some() {
            return Ok(self.next);
        }
        let waiting = &self.buffer[self.head..];
        let Some((len, first)) = peek_varint(waiting)? else {
            return Ok(None);
        };
        if len > MESSAGE_BYTES_MAX as u64 {
            return Err(MeshError::Oversized(len as usize, MESSAGE_BYTES_MAX));
        }
        let Some((after, second)) = peek_varint(&waiting[first..])? else {
            return Ok(None);
        };
        let sum = self.after.checked_add(after);
        self.after = sum.ok_or(MeshError::Malformed("a message that waits for ever"))?;
        self.next = Some(Next {
            head_bytes: first + second,
            body_bytes: len as usize,
        });
        Ok(self.next)
    }

    fn append(&mut self, bytes: &[u8]) {
        if self.head == self.buffer.len() {
            self.buffer.clear();
            self.head = 0;
            if self.buffer.capacity() > BUFFER_BYTES_KEPT {
                self.buffer = Vec::new();
            }
        } else if self.head > self.buffer.len() / 2 {
            self.buffer.copy_within(self.head.., 0);
            self.buffer.truncate(self.buffer.len() - self.head);
            self.head = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }
}

/// A message's length, its `after`, and the length of both; `None` when they have not come, or are nonsense.
fn peek_head(bytes: &[u8]) -> Option<(u64, u64, usize)> {
    let (len, first) = peek_varint(bytes).ok()??;
    let (after, second) = peek_varint(&bytes[first..]).ok()??;
    (len <= MESSAGE_BYTES_MAX as u64).then_some((len, after, first + second))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::send::Sender;
    use super::*;
    use crate::mesh::frame::{Frame, Frames};
    use proptest::prelude::*;

    fn stream(messages: &[(u64, Vec<u8>)]) -> Vec<u8> {
        let mut sender = Sender::new(64 << 20);
        for (after, message) in messages {
            sender.send(*after, &[message]).unwrap();
        }
        let credit = Credit {
            received: 0,
            limit: 64 << 20,
        };
        sender.acknowledged(0, credit).unwrap();
        let mut out = Vec::new();
        while sender.ready_bytes() > 0 {
            let mut record = Vec::new();
            sender.put_data(0, 60_000, &mut record);
            for frame in Frames::new(&record) {
                if let Frame::Data { bytes, .. } = frame.unwrap() {
                    out.extend_from_slice(bytes);
                }
            }
        }
        out
    }

    fn take(receiver: &mut Receiver, control_given: u64) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        while let Some(message) = receiver.next(control_given).unwrap() {
            all.push(receiver.bytes(message).to_vec());
        }
        all
    }

    #[test]
    fn data_waits_for_the_control_messages_before_it() {
        let stream = stream(&[
            (0, b"a".to_vec()),
            (2, b"b".to_vec()),
            (2, b"c".to_vec()),
            (3, b"d".to_vec()),
        ]);
        let mut receiver = Receiver::default();
        receiver.received(0, &stream).unwrap();
        assert_eq!(take(&mut receiver, 1), [b"a"]);
        assert_eq!(take(&mut receiver, 2), [b"b", b"c"]);
        assert_eq!(take(&mut receiver, 3), [b"d"]);
    }

    #[test]
    fn what_waits_for_control_messages_is_not_acknowledged() {
        let stream = stream(&[(0, vec![1; 10]), (2, vec![2; 10]), (2, vec![3; 10])]);
        let mut receiver = Receiver::default();
        receiver.received(0, &stream[..30]).unwrap();
        receiver.look_ahead(1);
        assert_eq!((receiver.tell().received, receiver.arrived()), (12, 30));
        assert_eq!(take(&mut receiver, 1).len(), 1);
        // After a new connection what was not acknowledged comes again.
        receiver.received(12, &stream[12..]).unwrap();
        receiver.look_ahead(1);
        assert_eq!((receiver.tell().received, receiver.arrived()), (12, 36));
        receiver.look_ahead(2);
        assert!(receiver.has_news());
        assert_eq!(receiver.tell().received, 36);
        assert_eq!(take(&mut receiver, 2).len(), 2);
    }

    #[test]
    fn credit_follows_what_is_taken() {
        let stream = stream(&[(1, vec![1; 100_000]), (1, vec![2; 100_000])]);
        let mut receiver = Receiver::default();
        assert_eq!(receiver.tell().limit, WINDOW_BYTES as u64);
        receiver.received(0, &stream[..50_000]).unwrap();
        assert!(receiver.has_news(), "what came is told before it is given out");
        receiver.tell();
        receiver.received(50_000, &stream[50_000..]).unwrap();
        assert!(take(&mut receiver, 0).is_empty());
        assert_eq!(receiver.credit().limit, WINDOW_BYTES as u64);
        assert_eq!(take(&mut receiver, 1).len(), 2);
        assert_eq!(receiver.credit().limit, (WINDOW_BYTES + stream.len()) as u64);
    }

    #[test]
    fn a_message_beyond_the_window_gets_through() {
        let stream = stream(&[(0, vec![9; 3 * WINDOW_BYTES])]);
        let mut receiver = Receiver::default();
        let mut at = 0;
        let mut got = Vec::new();
        while at < stream.len() {
            let limit = receiver.tell().limit as usize;
            assert!(limit > at, "stuck at {at}");
            receiver
                .received(at as u64, &stream[at..limit.min(stream.len())])
                .unwrap();
            at = limit.min(stream.len());
            got.extend(take(&mut receiver, 0));
        }
        assert_eq!(got.len(), 1);
        receiver.received(at as u64, &[1, 0, 5]).unwrap();
        assert!(receiver.buffer.capacity() <= BUFFER_BYTES_KEPT);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let mut receiver = Receiver::default();
        assert!(receiver.received(1, b"x").is_err(), "a gap");
        assert!(receiver.received(u64::MAX, b"xx").is_err());
        let too_much = vec![0; WINDOW_BYTES + 1];
        assert!(receiver.received(0, &too_much).is_err(), "beyond the credit");
        receiver.received(0, &[0xff, 0xff, 0xff, 0xff, 0x7f, 0]).unwrap();
        assert!(receiver.next(0).is_err(), "a message beyond the limit");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn cut_anywhere_and_sent_again(
            sizes in proptest::collection::vec(0usize..3_000, 1..60),
            cuts in proptest::collection::vec((0usize..5_000, 0usize..3_000), 1..200),
        ) {
            let messages: Vec<(u64, Vec<u8>)> =
                sizes.iter().enumerate().map(|(n, len)| (0, vec![n as u8; *len])).collect();
            let stream = stream(&messages);
            let mut receiver = Receiver::default();
            let (mut at, mut got) = (0usize, Vec::new());
            for (ahead, back) in cuts.iter().copied().chain([(usize::MAX, 0)]) {
                let start = at - back.min(at);
                let end = at.saturating_add(ahead).min(stream.len());
                receiver.received(start as u64, &stream[start..end]).unwrap();
                at = end;
                got.extend(take(&mut receiver, 0));
            }
            let sent: Vec<Vec<u8>> = messages.into_iter().map(|(_, message)| message).collect();
            prop_assert!(got == sent);
            prop_assert_eq!(receiver.credit().received, stream.len() as u64);
        }
    }
}
