//! The stanza id that every frame carries: which frame it is, which of its flow, and when it was due.

/// Hexadecimal digits of a stamp.
pub(super) const DIGITS: usize = 32;
/// Bits of the time: 78 hours in nanoseconds.
const TIME_BITS: u32 = 48;

/// What a frame says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Index of its recipe.
    pub(super) recipe: u32,
    /// Counts the frames of a flow, from 0; wraps.
    pub(super) number: u32,
    /// When it was due, nanoseconds since the clock's start.
    pub(super) due_ns: u64,
}

impl Stamp {
    pub(super) fn encode(self) -> [u8; DIGITS] {
        let what = (u64::from(self.recipe) << 32) | u64::from(self.number);
        let time = self.due_ns & ((1 << TIME_BITS) - 1);
        let when = (check(what, time) << TIME_BITS) | time;
        let mut digits = [0; DIGITS];
        for (piece, word) in digits.chunks_exact_mut(8).zip([what >> 32, what, when >> 32, when]) {
            piece.copy_from_slice(&hex(word as u32));
        }
        digits
    }

    /// `None`: no stamp of ours, or one that was altered.
    pub(super) fn decode(digits: &[u8; DIGITS]) -> Option<Stamp> {
        let word = |at: usize| {
            let piece: [u8; 8] = digits[at..at + 8].try_into().unwrap_or_default();
            u64::from(unhex(piece))
        };
        let (recipe, number) = (word(0), word(8));
        let stamp = Stamp {
            recipe: recipe as u32,
            number: number as u32,
            due_ns: ((word(16) << 32) | word(24)) & ((1 << TIME_BITS) - 1),
        };
        // What was altered does not come out the same again.
        (stamp.encode() == *digits).then_some(stamp)
    }
}

/// 16 bits that change when anything else does.
fn check(what: u64, time: u64) -> u64 {
    (what ^ time.rotate_left(24))
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .rotate_left(29)
        .wrapping_mul(0xbf58_476d_1ce4_e5b9)
        >> TIME_BITS
}

/// Eight digits, all at once.
fn hex(word: u32) -> [u8; 8] {
    let mut v = u64::from(word);
    v = (v | (v << 16)) & 0x0000_ffff_0000_ffff;
    v = (v | (v << 8)) & 0x00ff_00ff_00ff_00ff;
    v = (v | (v << 4)) & 0x0f0f_0f0f_0f0f_0f0f;
    let letters = ((v + 0x0606_0606_0606_0606) >> 4) & 0x0101_0101_0101_0101;
    (v + 0x3030_3030_3030_3030 + letters * 0x27).to_be_bytes()
}

/// The value of eight digits; anything, if they are none.
fn unhex(digits: [u8; 8]) -> u32 {
    let x = u64::from_be_bytes(digits);
    let letters = (x >> 6) & 0x0101_0101_0101_0101;
    let mut v = (x & 0x0f0f_0f0f_0f0f_0f0f) + letters * 9;
    v = (v | (v >> 4)) & 0x00ff_00ff_00ff_00ff;
    v = (v | (v >> 8)) & 0x0000_ffff_0000_ffff;
    (v | (v >> 16)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_hexadecimal_and_comes_back() {
        let stamp = Stamp {
            recipe: 0xdead_beef,
            number: 0x0123_4567,
            due_ns: 0x89ab_cdef_0246,
        };
        let digits = stamp.encode();
        assert!(digits.starts_with(b"deadbeef01234567") && digits.ends_with(b"89abcdef0246"));
        assert_eq!(Stamp::decode(&digits), Some(stamp));
    }

    #[test]
    fn an_altered_digit_is_no_stamp() {
        let digits = Stamp {
            recipe: 10,
            number: 77,
            due_ns: 123_456_789,
        }
        .encode();
        for at in 0..DIGITS {
            for other in *b"0123456789abcdefA@ '" {
                let mut altered = digits;
                altered[at] = other;
                assert_eq!(Stamp::decode(&altered).is_some(), altered == digits, "digit {at}");
            }
        }
    }
}
