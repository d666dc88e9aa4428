//! Whole routes of a sender that is trusted to write well-formed XML.
//!
//! In well-formed XML the first `</route>` behind `<route ...>` ends it, unless a second route stands inside, or a
//! comment, CDATA section or instruction, which may hold anything. So neither depth nor quotes are followed: a block
//! is searched for `</r`, and for `<r`, `<!` and `<?`, before which everything here gives up. Characters are checked as
//! everywhere. A route that is not whole, or not of this form, is left to the machines that know all of XML.
//!
//! For every frame that an XML parser accepts, the border found here is the parser's. A frame that it would refuse may
//! pass: its grammar is not checked, nor how deep it is nested.

use super::blocks::{BLOCK, characters, ones};
use super::lanes::Lanes;
use super::{Phase, Scanner, State};

const START: &[u8; 7] = b"<route ";
const END: &[u8; 8] = b"</route>";

impl Scanner {
    /// Notes the whole routes from here on.
    ///
    /// # Safety
    /// The CPU must have what `L` needs.
    #[inline(always)]
    pub(super) unsafe fn routes<L: Lanes>(&mut self, buf: &[u8]) {
        if self.depth != 0 || self.state != State::Text || self.phase != Phase::Body {
            return;
        }
        let mut at = self.at;
        while !self.ahead.is_full() {
            // SAFETY: the caller grants the features.
            let Some(end) = (unsafe { route::<L>(buf, at) }).filter(|end| end - at <= self.limits.frame_bytes_max)
            else {
                break;
            };
            self.ahead.note(at, end);
            at = end;
        }
        self.at = at;
    }
}

/// Where the route at `start` ends.
///
/// # Safety
/// The CPU must have what `L` needs.
#[inline(always)]
unsafe fn route<L: Lanes>(buf: &[u8], start: usize) -> Option<usize> {
    if buf.get(start..)?.first_chunk() != Some(START) {
        return None;
    }
    // SAFETY: the caller grants the features, here and below.
    let mut at = unsafe { content::<L>(buf, start) }?;
    loop {
        // Behind the content's first byte there is always the end tag's.
        if at + END.len() > buf.len() {
            return None;
        }
        // SAFETY: as above.
        let v = unsafe { load::<L>(buf, at) };
        let mut n = BLOCK.min(buf.len() - at);
        // SAFETY: as above.
        if !unsafe { L::is_text(v) } {
            // SAFETY: as above.
            let odd = unsafe { L::odd(v) } & ones(n);
            // SAFETY: as above.
            let mut found = unsafe { marks::<L>(buf, at, v) } & ones(n);
            if odd != 0 {
                // SAFETY: as above.
                (n, _) = unsafe { characters::<L>(v, &buf[at..at + n]) }.filter(|(whole, _)| *whole > 0)?;
                found &= ones(n);
            }
            while found != 0 {
                let tag = buf.get(at + found.trailing_zeros() as usize..)?;
                if tag.starts_with(END) {
                    return Some(buf.len() - tag.len() + END.len());
                }
                if !is_other(tag) {
                    return None;
                }
                found &= found - 1;
            }
        }
        at += n;
    }
}

/// The `<` behind the start tag at `start`, which the tag's `>` must touch.
///
/// # Safety
/// The CPU must have what `L` needs.
#[inline(always)]
unsafe fn content<L: Lanes>(buf: &[u8], start: usize) -> Option<usize> {
    let mut at = start + START.len();
    loop {
        let n = BLOCK.min(buf.len().checked_sub(at).filter(|n| *n > 0)?);
        // SAFETY: the caller grants the features, here and below.
        let v = unsafe { load::<L>(buf, at) };
        // SAFETY: as above.
        let angles = unsafe { L::angles(v) };
        let end = at + (angles.trailing_zeros() as usize).min(n);
        // SAFETY: as above.
        let odd = unsafe { L::odd(v) } & ones(n);
        let mut n = n;
        if odd != 0 {
            // SAFETY: as above.
            (n, _) = unsafe { characters::<L>(v, &buf[at..at + n]) }.filter(|(whole, _)| *whole > 0)?;
        }
        if angles != 0 {
            return match buf.get(end - 1..end + 2)? {
                [b'/', ..] => None,
                [_, b'>', b'<'] => Some(end + 1),
                _ => None,
            };
        }
        at += n;
    }
}

/// The `<` of everything that must be looked at.
///
/// # Safety
/// The CPU must have what `L` needs.
#[inline(always)]
unsafe fn marks<L: Lanes>(buf: &[u8], at: usize, v: L::V) -> u64 {
    // SAFETY: the caller grants the features.
    unsafe { L::marks(v, load::<L>(buf, at + 1), load::<L>(buf, at + 2)) }
}

/// Is this neither a route's tag nor a comment or its like? Too few bytes to say: no.
#[cold]
fn is_other(tag: &[u8]) -> bool {
    let name = tag.strip_prefix(b"</").unwrap_or(&tag[1..]);
    name.first() == Some(&b'r') && name.len() >= 5 && !name.starts_with(b"route")
}

/// The bytes from `at` on, followed by zeros.
///
/// # Safety
/// The CPU must have what `L` needs.
#[inline(always)]
unsafe fn load<L: Lanes>(buf: &[u8], at: usize) -> L::V {
    // SAFETY: a whole block is loaded only where it stands in the buffer. The caller grants the features.
    unsafe {
        if at + BLOCK <= buf.len() {
            L::load(buf.as_ptr().add(at))
        } else {
            L::load_part(buf.get(at..).unwrap_or_default())
        }
    }
}
