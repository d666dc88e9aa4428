//! Frames in the form that nearly all writers use, 64 bytes a step.
//!
//! The step turns 64 bytes into masks and checks all the rules of the form at once: tags alternate with text, values
//! are quoted by one kind of quote, `=` stands between a name and a quote, an attribute follows space, an end tag is
//! a bare name. A block in which any rule is broken is left to the byte machine, which knows all of XML and says what
//! is wrong, if anything is. So a mask never has to be right about input outside the form: it is enough that the
//! first byte outside it breaks a rule here.

use super::lanes::Lanes;
use super::{Item, Phase, ScanError, Scanner, State};

/// Why the steps ended.
pub(super) enum Exit {
    /// A frame's end was found; the scanner stands behind it.
    Found(Item),
    /// All bytes are seen.
    More,
    /// The next so many bytes (at least one) are for the byte machine.
    Careful(usize),
}

/// What one block must know of the block before it. Tag and value stand apart: the next block waits for them first,
/// and they are known long before the rest.
#[derive(Clone, Copy)]
struct Carry {
    /// All ones inside a tag, else zero.
    tag: u64,
    /// All ones inside an attribute's value, else zero.
    value: u64,
    /// One bit each for the rest.
    rest: u64,
}

/// The bits of [`Carry::rest`].
mod carry {
    /// The value's quote is `"`.
    pub(super) const DOUBLE: u32 = 0;
    /// The last byte was `<`.
    pub(super) const LT: u32 = 1;
    /// The last bytes were `</`.
    pub(super) const END: u32 = 2;
    /// Inside a start tag's name.
    pub(super) const START_NAME: u32 = 3;
    /// Inside an end tag's name.
    pub(super) const END_NAME: u32 = 4;
    /// Inside any name: an attribute's, if neither of the two before.
    pub(super) const NAME: u32 = 5;
    /// Behind `=`.
    pub(super) const EQ: u32 = 6;
    /// The last byte closed a value.
    pub(super) const CLOSED: u32 = 7;
    /// The last byte was the `/` of an empty element.
    pub(super) const SLASH: u32 = 8;
}

impl Carry {
    #[inline(always)]
    fn bit(self, which: u32) -> u64 {
        (self.rest >> which) & 1
    }

    #[inline(always)]
    fn of(state: State) -> Carry {
        let rest = match state {
            State::Text => {
                return Carry {
                    tag: 0,
                    value: 0,
                    rest: 0,
                };
            }
            State::Lt => 1 << carry::LT,
            State::EndLt => 1 << carry::END,
            State::StartName => 1 << carry::NAME | 1 << carry::START_NAME,
            State::EndName => 1 << carry::NAME | 1 << carry::END_NAME,
            State::AttrName => 1 << carry::NAME,
            State::Eq => 1 << carry::EQ,
            State::Closed => 1 << carry::CLOSED,
            State::Slash => 1 << carry::SLASH,
            State::Quot => 1 << carry::DOUBLE,
            _ => 0,
        };
        let value = if matches!(state, State::Apos | State::Quot) {
            u64::MAX
        } else {
            0
        };
        Carry {
            tag: u64::MAX,
            value,
            rest,
        }
    }

    #[inline(always)]
    fn state(self) -> State {
        if self.tag == 0 {
            return State::Text;
        }
        if self.value != 0 {
            return if self.bit(carry::DOUBLE) == 0 {
                State::Apos
            } else {
                State::Quot
            };
        }
        let has = |which| self.bit(which) != 0;
        match () {
            () if has(carry::START_NAME) => State::StartName,
            () if has(carry::END_NAME) => State::EndName,
            () if has(carry::NAME) => State::AttrName,
            () if has(carry::LT) => State::Lt,
            () if has(carry::END) => State::EndLt,
            () if has(carry::EQ) => State::Eq,
            () if has(carry::CLOSED) => State::Closed,
            () if has(carry::SLASH) => State::Slash,
            () => State::InTag,
        }
    }
}

/// Where tags open and elements end in a block of the form.
struct Tags {
    /// First byte of a start tag's name.
    opens: u64,
    /// The `>` of an end tag or of an empty element.
    closes: u64,
}

impl Scanner {
    /// May the next byte be looked at in blocks? A frame's beginning must be a plain start tag.
    #[inline(always)]
    pub(super) fn fit_for_blocks(&self, buf: &[u8]) -> bool {
        if self.depth > 0 {
            return self.state.fit_for_blocks() && self.utf8.complete();
        }
        self.state == State::Text
            && self.phase == Phase::Body
            && buf[self.at] == b'<'
            && buf.get(self.at + 1).is_some_and(|b| !matches!(b, b'/' | b'!' | b'?'))
    }

    /// Steps through blocks for as long as they keep to the form.
    ///
    /// # Safety
    /// The CPU must have what `L` needs.
    #[inline(always)]
    pub(super) unsafe fn blocks<L: Lanes>(&mut self, buf: &[u8]) -> Result<Exit, ScanError> {
        let mut at = self.at;
        let mut depth = self.depth;
        if depth == 0 {
            self.begin(at);
        }
        let end = buf.len().min(self.stop);
        let mut carry = Carry::of(self.state);
        let exit = loop {
            let left = end - at;
            if left == 0 {
                break Exit::More;
            }
            // SAFETY: `at..end` is inside `buf`, and 64 bytes of it are where `load` is called. The caller grants the
            // features, here and below.
            let v = unsafe {
                if left >= 64 {
                    L::load(buf.as_ptr().add(at))
                } else {
                    L::load_part(&buf[at..end])
                }
            };
            let mut n = left.min(64);
            // SAFETY: as above.
            let high = unsafe { L::high(v) } & ones(n);
            if high != 0 {
                n -= unfinished_character(&buf[at..at + n]);
                // SAFETY: as above.
                if n == 0 || !unsafe { utf8_in_order::<L>(v, ones(n)) } {
                    break Exit::Careful(left.min(64));
                }
            }
            // SAFETY: as above.
            let stepped = unsafe {
                if n == 64 {
                    step::<L, true>(v, 64, carry)
                } else {
                    step::<L, false>(v, n, carry)
                }
            };
            let Some((tags, next)) = stepped else {
                break Exit::Careful(n);
            };
            let closed = tags.closes.count_ones();
            // The frame's own start tag opens before anything closes.
            if closed >= depth.max(1)
                && let Some(last) = frame_end(&tags, depth)
            {
                if depth + deepest(&tags, last) > u32::from(self.limits.depth_max) {
                    break Exit::Careful(n);
                }
                return Ok(Exit::Found(self.finish_frame(at + last + 1)));
            }
            let opened = depth + tags.opens.count_ones();
            if opened > u32::from(self.limits.depth_max) {
                break Exit::Careful(n);
            }
            (carry, depth, at) = (next, opened - closed, at + n);
        };
        (self.at, self.depth, self.state) = (at, depth, carry.state());
        if matches!(exit, Exit::More) && buf.len() > end {
            return Err(ScanError::TooLarge);
        }
        Ok(exit)
    }
}

/// The lowest `n` bits, `n` in 1..=64.
#[inline(always)]
fn ones(n: usize) -> u64 {
    u64::MAX >> (64 - n)
}

/// Where in the block the frame ends, if it does: the first `>` behind which nothing is open any more.
#[inline(always)]
fn frame_end(tags: &Tags, depth: u32) -> Option<usize> {
    let mut closes = tags.closes;
    let mut closed = 0;
    while closes != 0 {
        let bit = closes & closes.wrapping_neg();
        closed += 1;
        if depth + (tags.opens & (bit - 1)).count_ones() == closed {
            return Some(bit.trailing_zeros() as usize);
        }
        closes &= closes - 1;
    }
    None
}

/// How many start tags stand before the frame's end: no fewer than the nesting grows by.
#[inline(always)]
fn deepest(tags: &Tags, last: usize) -> u32 {
    (tags.opens & ones(last + 1)).count_ones()
}

/// One block of `n` bytes, 64 if it is `FULL`. `None`: not of the form.
///
/// The names below: a *run* is a run of name bytes; masks of `>` and `<` hold those outside values only, once the
/// checks have passed.
///
/// # Safety
/// The CPU must have what `L` needs.
#[inline(always)]
unsafe fn step<L: Lanes, const FULL: bool>(v: L::V, n: usize, c: Carry) -> Option<(Tags, Carry)> {
    let n = if FULL { 64 } else { n };
    let valid = ones(n);
    // SAFETY: the caller grants the features.
    let (lt, gt, control) = unsafe { (L::eq(v, b'<') & valid, L::eq(v, b'>') & valid, L::le(v, 0x1f) & valid) };
    let line = if control == 0 {
        0
    } else {
        // SAFETY: as above.
        unsafe { L::eq(v, b'\t') | L::eq(v, b'\n') | L::eq(v, b'\r') }
    };
    let mut bad = control & !line;
    if (lt | gt) == 0 && c.tag == 0 {
        return (bad == 0).then_some((Tags { opens: 0, closes: 0 }, c));
    }

    // Tags, as if no value held `<` or `>`: if one does, the model's tag ends inside a value, and that is checked.
    // SAFETY: as above.
    let tag = (unsafe { L::parity(lt | gt) } ^ c.tag) & valid;
    bad |= (lt & !tag) | (gt & tag);

    // Values, as if all quotes inside tags were of one kind.
    // SAFETY: as above.
    let (apos, quot) = unsafe { (L::eq(v, b'\'') & tag, L::eq(v, b'"') & tag) };
    let double = if c.value != 0 {
        c.bit(carry::DOUBLE) != 0
    } else {
        quot != 0
    };
    bad |= if double { apos } else { quot };
    let quotes = apos | quot;
    // SAFETY: as above.
    let value = unsafe { L::parity(quotes) } ^ c.value;
    bad |= gt & value;
    let open = quotes & value;
    let close = quotes & !value;

    // What stands in tags outside values.
    let outside = tag & !(value | quotes | lt);
    // SAFETY: as above.
    let (eq, slash, space) = unsafe { (L::eq(v, b'=') & outside, L::eq(v, b'/') & outside, L::eq(v, b' ')) };
    let space = (space | line) & outside;
    let name = outside & !(eq | slash | space);

    let after_lt = lt << 1 | c.bit(carry::LT);
    // SAFETY: as above.
    bad |= after_lt & (!(name | slash) | unsafe { L::eq(v, b'!') | L::eq(v, b'?') });
    let opens = after_lt & name;
    let end = after_lt & slash;
    let after_end = end << 1 | c.bit(carry::END);
    bad |= after_end & !name;
    let empty = slash & !end;
    let after_empty = empty << 1 | c.bit(carry::SLASH);
    bad |= after_empty & !gt;

    // A run to which its first bit is added clears itself and sets the bit behind it: the run's end.
    let start_sum = name.wrapping_add(opens | c.bit(carry::START_NAME));
    let end_sum = name.wrapping_add((after_end & name) | c.bit(carry::END_NAME));
    let start_ends = start_sum & !name;
    let end_ends = end_sum & !name;
    bad |= end_ends & !gt;
    // Every other run is an attribute's name: `=` stands behind those, and nowhere else.
    let run_ends = (name << 1 | c.bit(carry::NAME)) & !name;
    bad |= (run_ends & !(start_ends | end_ends)) ^ eq;
    bad |= (eq << 1 | c.bit(carry::EQ)) ^ open;
    bad |= (close << 1 | c.bit(carry::CLOSED)) & !(space | slash | gt);
    if bad & valid != 0 {
        return None;
    }

    // The last byte's bit of each mask.
    let lift = 64 - n as u32;
    let last = |mask: u64, which: u32| ((mask << lift) >> 63) << which;
    let all = |mask: u64| ((mask << lift).cast_signed() >> 63).cast_unsigned();
    let rest = (u64::from(double) << carry::DOUBLE | last(lt, carry::LT) | last(end, carry::END))
        | (last(eq, carry::EQ) | last(close, carry::CLOSED) | last(empty, carry::SLASH))
        | (last(name & !start_sum, carry::START_NAME) | last(name & !end_sum, carry::END_NAME))
        | last(name, carry::NAME);
    let tags = Tags {
        opens,
        closes: ((end_ends | after_empty) & gt) & valid,
    };
    Some((
        tags,
        Carry {
            tag: all(tag),
            value: all(value),
            rest,
        },
    ))
}

/// How many bytes at the end belong to a character whose end is not there yet.
#[inline(always)]
fn unfinished_character(bytes: &[u8]) -> usize {
    for (i, &b) in bytes.iter().rev().take(3).enumerate() {
        match b {
            0x00..=0x7f => return 0,
            0x80..=0xbf => {}
            0xc0..=0xdf => return if i < 1 { i + 1 } else { 0 },
            0xe0..=0xef => return if i < 2 { i + 1 } else { 0 },
            0xf0..=0xff => return i + 1,
        }
    }
    0
}

/// Is this UTF-8 without surrogates, overlong forms, U+FFFE and U+FFFF? The last character must be whole.
///
/// # Safety
/// The CPU must have what `L` needs.
#[inline(always)]
unsafe fn utf8_in_order<L: Lanes>(v: L::V, valid: u64) -> bool {
    // SAFETY: the caller grants the features.
    let (le, eq) = (
        |byte| unsafe { L::le(v, byte) } & valid,
        |byte| unsafe { L::eq(v, byte) } & valid,
    );
    let ascii = le(0x7f);
    let to_bf = le(0xbf);
    let follows = to_bf & !ascii;
    let two = le(0xdf) & !to_bf;
    let three = le(0xef) & !(two | to_bf);
    let four = le(0xf4) & !(three | two | to_bf);
    // Overlong two-byte forms, and leads behind U+10FFFF.
    let mut bad = valid & !(ascii | follows | two | three | four);
    bad |= eq(0xc0) | eq(0xc1);
    if three != 0 {
        bad |= eq(0xe0) << 1 & le(0x9f) | eq(0xed) << 1 & !le(0x9f);
        bad |= eq(0xef) << 2 & eq(0xbf) << 1 & !le(0xbd);
    }
    if four != 0 {
        bad |= eq(0xf0) << 1 & le(0x8f) | eq(0xf4) << 1 & !le(0x8f);
    }
    // Not masked: a lead whose sequence reaches beyond the last byte is bad as well.
    let expected = (two | three | four) << 1 | (three | four) << 2 | four << 3;
    bad & valid == 0 && follows == expected
}
