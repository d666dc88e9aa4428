//! The receive buffers of one ring: a slab of equal pieces, lent to the kernel through a buffer ring and given back in
//! the order in which it used them.
//!
//! Only a *working set* of them is lent at first: the kernel takes buffers in turn, so a small set stays in the cache
//! while the whole slab would not. A burst that starves doubles the set; an idle shard makes it small again.

use io_uring::IoUring;
use io_uring::types::BufRingEntry;
use std::collections::VecDeque;
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

/// Bytes of one buffer: small ones are fairer and cheaper than 64 KiB.
pub(super) const BUFFER_BYTES: usize = 16 * 1024;
/// Below so many buffers the driver is not worth having.
const BUFFERS_MIN: u16 = 64;
/// Buffers that are lent when there is little to read.
const LENT_MIN: u16 = 8;
/// The one group of buffers in a ring.
pub(super) const GROUP: u16 = 0;

/// Bytes that lie in buffers which the kernel has filled and given to us.
///
/// Not `Clone`: a piece is the right to read these buffers, until [`Buffers::give_back`] takes it.
#[derive(Debug)]
pub(super) struct Piece {
    first: u16,
    bytes: usize,
}

impl Piece {
    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    fn count(&self) -> u16 {
        self.bytes.div_ceil(BUFFER_BYTES) as u16
    }

    /// Appends `next` where it begins in memory exactly where this ends; else gives it back.
    pub(super) fn join(&mut self, next: Piece) -> Result<(), Piece> {
        if self.bytes.is_multiple_of(BUFFER_BYTES) && self.first + self.count() == next.first {
            self.bytes += next.bytes;
            Ok(())
        } else {
            Err(next)
        }
    }
}

/// The buffers.
pub(super) struct Buffers {
    slab: Mapping,
    /// The entries that the kernel reads; its tail is the reserved field of the first.
    ring: Mapping,
    /// Entries of the ring: a power of two.
    entries: u16,
    tail: u16,
    /// How many are with the kernel.
    lent: u16,
    /// How many may be.
    target: u16,
    /// Those that are not lent.
    spare: VecDeque<u16>,
}

impl Buffers {
    /// Maps the memory of `count` buffers (a power of two), registers the ring and lends the working set. Takes less when
    /// memory is short; what is not used is not touched.
    pub(super) fn new(ring: &IoUring, count: u16) -> io::Result<Buffers> {
        let mut entries = count;
        loop {
            match Buffers::with(ring, entries) {
                Err(error) if error.raw_os_error() == Some(libc::ENOMEM) && entries > BUFFERS_MIN => entries /= 2,
                result => return result,
            }
        }
    }

    fn with(uring: &IoUring, entries: u16) -> io::Result<Buffers> {
        let slab = Mapping::new(usize::from(entries) * BUFFER_BYTES)?;
        let ring = Mapping::new(usize::from(entries) * size_of::<BufRingEntry>())?;
        // SAFETY: the mapping is page-aligned, has room for `entries`, and outlives the registration: whoever holds
        // the ring drops it before these buffers, or leaks them.
        unsafe {
            uring
                .submitter()
                .register_buf_ring_with_flags(ring.base.as_ptr() as u64, entries, GROUP, 0)?;
        }
        let mut buffers = Buffers {
            slab,
            ring,
            entries,
            tail: 0,
            lent: 0,
            target: LENT_MIN.min(entries),
            spare: (0..entries).collect(),
        };
        buffers.lend();
        Ok(buffers)
    }

    /// The piece that a completion speaks of: `bytes` from the beginning of buffer `first`. None if it holds nothing.
    pub(super) fn take(&mut self, first: u16, bytes: usize) -> Option<Piece> {
        assert!(
            bytes <= BUFFER_BYTES && first < self.entries && self.lent > 0,
            "the kernel fills one lent buffer for each completion"
        );
        self.lent -= 1;
        if bytes == 0 {
            self.spare.push_back(first);
            self.lend();
            return None;
        }
        Some(Piece { first, bytes })
    }

    /// The bytes of a piece.
    pub(super) fn bytes(&self, piece: &Piece) -> &[u8] {
        let offset = usize::from(piece.first) * BUFFER_BYTES;
        // SAFETY: the piece's buffers lie within the slab (checked when it was taken, kept by `join`), the kernel has
        // filled them and writes to them again only after `give_back`, which consumes the piece.
        unsafe { std::slice::from_raw_parts(self.slab.base.as_ptr().add(offset), piece.bytes) }
    }

    /// Lends the piece's buffers to the kernel again.
    pub(super) fn give_back(&mut self, piece: Piece) {
        self.spare.extend(piece.first..piece.first + piece.count());
        self.lend();
    }

    /// Whether the kernel has buffers to fill.
    pub(super) fn available(&self) -> bool {
        self.lent > 0
    }

    /// The kernel has run out of buffers: lend more.
    pub(super) fn grow(&mut self) {
        self.target = self.target.saturating_mul(2).min(self.entries);
        self.lend();
    }

    /// There is little to do: what comes back from now on stays here, until the working set is small.
    pub(super) fn shrink(&mut self) {
        self.target = LENT_MIN.min(self.entries);
    }

    fn lend(&mut self) {
        let before = self.tail;
        while self.lent < self.target {
            let Some(buffer) = self.spare.pop_front() else { break };
            self.put(buffer);
            self.lent += 1;
        }
        if self.tail != before {
            // SAFETY: the tail lies within the first entry, is aligned for u16, and the kernel only reads it.
            let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.ring.base.as_ptr().cast()).cast_mut()) };
            tail.store(self.tail, Ordering::Release);
        }
    }

    fn put(&mut self, buffer: u16) {
        let index = usize::from(self.tail & (self.entries - 1));
        // SAFETY: the index is below `entries`. The kernel reads entries between its head and the tail; this one is
        // beyond the tail, as no more than `entries` buffers exist.
        unsafe {
            let entry = self.ring.base.as_ptr().cast::<BufRingEntry>().add(index);
            let address = self.slab.base.as_ptr().add(usize::from(buffer) * BUFFER_BYTES);
            (*entry).set_addr(address as u64);
            (*entry).set_len(BUFFER_BYTES as u32);
            (*entry).set_bid(buffer);
        }
        self.tail = self.tail.wrapping_add(1);
    }
}

/// Anonymous memory, page-aligned, zeroed when it is first touched.
struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
}

impl Mapping {
    fn new(bytes: usize) -> io::Result<Mapping> {
        let (access, kind) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        );
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), bytes, access, kind, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("memory at address 0"))?;
        Ok(Mapping { base, bytes })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours alone, and no reference into it outlives its owner.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_neighbours_join() {
        let full = |first| Piece {
            first,
            bytes: BUFFER_BYTES,
        };
        let mut piece = full(3);
        assert!(piece.join(full(5)).is_err(), "a gap");
        assert!(piece.join(full(2)).is_err(), "before");
        piece.join(Piece { first: 4, bytes: 7 }).unwrap();
        assert_eq!((piece.len(), piece.count()), (BUFFER_BYTES + 7, 2));
        assert!(piece.join(full(5)).is_err(), "the last one was not full");
    }

    #[test]
    fn every_buffer_is_lent_once_however_the_set_grows_and_shrinks() {
        let uring = IoUring::new(4).unwrap();
        let mut buffers = Buffers::with(&uring, 64).unwrap();
        assert_eq!((buffers.lent, buffers.spare.len()), (LENT_MIN, 56));
        for _ in 0..4 {
            buffers.grow();
        }
        assert_eq!((buffers.lent, buffers.spare.len()), (64, 0));
        let pieces: Vec<Piece> = (0..64).map(|buffer| buffers.take(buffer, 1).unwrap()).collect();
        assert!(!buffers.available());
        buffers.shrink();
        for piece in pieces {
            buffers.give_back(piece);
        }
        assert_eq!((buffers.lent, buffers.spare.len()), (LENT_MIN, 56));
        let mut seen: Vec<u16> = buffers.spare.iter().copied().collect();
        for index in 0..LENT_MIN {
            let at = buffers.tail.wrapping_sub(1 + index) & 63;
            // SAFETY: below the 64 entries of the mapping.
            seen.push(unsafe { (*buffers.ring.base.as_ptr().cast::<BufRingEntry>().add(at.into())).bid() });
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..64).collect::<Vec<u16>>());
        drop(uring);
    }
}
