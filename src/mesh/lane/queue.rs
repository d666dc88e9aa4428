//! A queue of bytes in chunks: grows without copying what it holds, and gives its memory back.

use crate::table::image;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::VecDeque;

/// Bytes in a chunk.
const CHUNK_BYTES: usize = 64 * 1024;
/// Emptied chunks that are kept for the next bytes.
const SPARE_MAX: usize = 4;

/// Bytes between two offsets of a stream.
#[derive(Clone, Debug, Default)]
pub(super) struct ByteQueue {
    chunks: VecDeque<Vec<u8>>,
    spare: Vec<Vec<u8>>,
    /// Bytes of the first chunk that were released.
    skipped: usize,
    len: usize,
}

impl ByteQueue {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Appends.
    pub(super) fn push(&mut self, mut bytes: &[u8]) {
        self.len += bytes.len();
        while !bytes.is_empty() {
            let room = self.chunks.back().map_or(0, |chunk| CHUNK_BYTES - chunk.len());
            if room == 0 {
                let fresh = self.spare.pop().unwrap_or_else(|| Vec::with_capacity(CHUNK_BYTES));
                self.chunks.push_back(fresh);
                continue;
            }
            let (head, rest) = bytes.split_at(room.min(bytes.len()));
            if let Some(chunk) = self.chunks.back_mut() {
                chunk.extend_from_slice(head);
            }
            bytes = rest;
        }
    }

    /// Appends the `len` bytes from `start` to `out`; all of them must be there.
    pub(super) fn copy(&self, start: usize, len: usize, out: &mut Vec<u8>) {
        assert!(start + len <= self.len, "bytes beyond the end of the queue");
        let mut at = start + self.skipped;
        let mut left = len;
        while left > 0 {
            let piece = &self.chunks[at / CHUNK_BYTES][at % CHUNK_BYTES..];
            let piece = &piece[..piece.len().min(left)];
            out.extend_from_slice(piece);
            at += piece.len();
            left -= piece.len();
        }
    }

    /// One byte.
    pub(super) fn byte(&self, index: usize) -> Option<u8> {
        let at = index + self.skipped;
        (index < self.len).then(|| self.chunks[at / CHUNK_BYTES][at % CHUNK_BYTES])
    }

    /// Forgets the first `count` bytes.
    pub(super) fn release(&mut self, count: usize) {
        assert!(count <= self.len, "bytes released that are not there");
        self.len -= count;
        self.skipped += count;
        while self.skipped >= CHUNK_BYTES || (self.len == 0 && !self.chunks.is_empty()) {
            self.skipped = self.skipped.saturating_sub(CHUNK_BYTES);
            if let Some(mut chunk) = self.chunks.pop_front()
                && self.spare.len() < SPARE_MAX
            {
                chunk.clear();
                self.spare.push(chunk);
            }
            if self.chunks.is_empty() {
                self.skipped = 0;
            }
        }
    }
}

/// In an image: its bytes.
impl Serialize for ByteQueue {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut all = Vec::with_capacity(self.len);
        self.copy(0, self.len, &mut all);
        image::bytes::serialize(&all, to)
    }
}

impl<'de> Deserialize<'de> for ByteQueue {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<ByteQueue, D::Error> {
        let all: Vec<u8> = image::bytes::deserialize(from)?;
        let mut queue = ByteQueue::default();
        queue.push(&all);
        Ok(queue)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Push(usize),
        Release(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0..200_000usize).prop_map(Step::Push),
            (0..250_000usize).prop_map(Step::Release)
        ];
        proptest::collection::vec(step, 1..40)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn as_a_plain_vector(steps in steps()) {
            let (mut queue, mut model, mut next) = (ByteQueue::default(), Vec::new(), 0u32);
            for step in steps {
                match step {
                    Step::Push(count) => {
                        let bytes: Vec<u8> = (0..count).map(|_| { next = next.wrapping_mul(31).wrapping_add(7); (next >> 13) as u8 }).collect();
                        queue.push(&bytes);
                        model.extend_from_slice(&bytes);
                    }
                    Step::Release(count) => {
                        let count = count.min(model.len());
                        queue.release(count);
                        model.drain(..count);
                    }
                }
                prop_assert_eq!(queue.len(), model.len());
                let mut all = Vec::new();
                queue.copy(0, queue.len(), &mut all);
                prop_assert!(all == model);
                prop_assert_eq!(queue.byte(model.len() / 2), model.get(model.len() / 2).copied());
                prop_assert!(queue.chunks.len() <= model.len() / CHUNK_BYTES + 2);
            }
        }
    }
}
