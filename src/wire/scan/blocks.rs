//! Frames in the form that nearly all writers use, 64 bytes a step.
//!
//! The step turns 64 bytes into masks and checks all the rules of the form at once: tags alternate with text, values
//! are quoted by one kind of quote, `=` stands between a name and a quote, an attribute follows space, an end tag is
//! a bare name. A block in which any rule is broken is left to the byte machine, which knows all of XML and says what
//! is wrong, if anything is. So a mask never has to be right about input outside the form: it is enough that the
//! first byte outside it breaks a rule here.
//!
//! A run of steps goes on over frame ends and notes them, so that one block serves the frames on both sides of a
//! border; see [`Ahead`](super::Ahead).

use super::lanes::Lanes;
use super::{Phase, Scanner, State};

/// Why the steps ended.
pub(super) enum Exit {
    /// All bytes are seen, enough ends are noted, or what follows does not begin with a plain start tag.
    Done,
    /// The next so many bytes (at least one) are for the byte machine.
    Careful(usize),
}

/// What one block must know of the block before it.
#[derive(Clone, Copy)]
struct Carry {
    /// All ones inside a tag, else zero.
    tag: u64,
    /// All ones inside an attribute's value, else zero.
    value: u64,
    /// All ones inside a value in `"`, else zero.
    double: u64,
    /// From here on one bit each, of the last byte. It was `<`.
    lt: u64,
    /// The last bytes were `</`.
    end: u64,
    /// Inside an element's name, in a start tag or an end tag.
    element: u64,
    /// Inside an element's name in an end tag.
    end_name: u64,
    /// Inside any name.
    name: u64,
    /// `=`.
    eq: u64,
    /// It closed a value.
    closed: u64,
    /// The `/` of an empty element.
    slash: u64,
}

impl Carry {
    /// Between tags.
    const TEXT: Carry = Carry {
        tag: 0,
        value: 0,
        double: 0,
        lt: 0,
        end: 0,
        element: 0,
        end_name: 0,
        name: 0,
        eq: 0,
        closed: 0,
        slash: 0,
    };

    fn of(state: State) -> Carry {
        let mut carry = Carry::TEXT;
        if state == State::Text {
            return carry;
        }
        carry.tag = u64::MAX;
        match state {
            State::Lt => carry.lt = 1,
            State::EndLt => carry.end = 1,
            State::StartName => (carry.name, carry.element) = (1, 1),
            State::EndName => (carry.name, carry.element, carry.end_name) = (1, 1, 1),
            State::AttrName => carry.name = 1,
            State::Eq => carry.eq = 1,
            State::Apos => carry.value = u64::MAX,
            State::Quot => (carry.value, carry.double) = (u64::MAX, u64::MAX),
            State::Closed => carry.closed = 1,
            State::Slash => carry.slash = 1,
            _ => {}
        }
        carry
    }

    fn state(self) -> State {
        match () {
            () if self.tag == 0 => State::Text,
            () if self.double != 0 => State::Quot,
            () if self.value != 0 => State::Apos,
            () if self.end_name != 0 => State::EndName,
            () if self.element != 0 => State::StartName,
            () if self.name != 0 => State::AttrName,
            () if self.lt != 0 => State::Lt,
            () if self.end != 0 => State::EndLt,
            () if self.eq != 0 => State::Eq,
            () if self.closed != 0 => State::Closed,
            () if self.slash != 0 => State::Slash,
            () => State::InTag,
        }
    }
}

/// Where tags open and elements end in a block of the form.
#[derive(Clone, Copy)]
struct Tags {
    /// First byte of a start tag's name.
    opens: u64,
    /// The `>` of an end tag or of an empty element.
    closes: u64,
}

/// The frame at hand while blocks are stepped through.
struct Run {
    /// The next block's first byte.
    at: usize,
    /// Where the frame starts.
    start: usize,
    /// Elements open; zero only where a frame starts, or behind its first byte if a character broke off there.
    depth: u32,
    carry: Carry,
}

impl Scanner {
    /// May the next byte be looked at in blocks? A frame's beginning must be a plain start tag.
    #[inline(always)]
    pub(super) fn fit_for_blocks(&self, buf: &[u8]) -> bool {
        if self.limits.frame_bytes_max < BLOCK {
            return false;
        }
        if self.depth > 0 {
            return self.state.fit_for_blocks() && self.utf8.complete();
        }
        self.state == State::Text && self.phase == Phase::Body && starts_plainly(buf, self.at)
    }

    /// Steps through blocks for as long as they keep to the form, and notes where frames end.
    ///
    /// # Safety
    /// The CPU must have what `L` needs.
    #[inline(always)]
    pub(super) unsafe fn blocks<L: Lanes>(&mut self, buf: &[u8]) -> Exit {
        let mut run = Run {
            at: self.at,
            start: if self.depth == 0 { self.at } else { self.start },
            depth: self.depth,
            carry: Carry::of(self.state),
        };
        let exit = loop {
            let stop = run.start.saturating_add(self.limits.frame_bytes_max);
            if run.depth > 0 && run.carry.tag == 0 {
                // SAFETY: the caller grants the features, here and below.
                run.at = unsafe { text::<L>(&buf[..stop.min(buf.len())], run.at) };
            }
            let left = buf.len() - run.at;
            if left == 0 {
                break Exit::Done;
            }
            let mut n = left.min(BLOCK);
            if run.at + n > stop {
                break Exit::Careful(n);
            }
            // SAFETY: a block is loaded only where 64 bytes are left.
            let mut v = unsafe {
                if n == BLOCK {
                    L::load(buf.as_ptr().add(run.at))
                } else {
                    L::load_part(&buf[run.at..])
                }
            };
            // SAFETY: as above.
            let odd = unsafe { L::odd(v) } & ones(n);
            let mut line = 0;
            if odd != 0 {
                let block = &buf[run.at..run.at + n];
                // SAFETY: as above.
                match unsafe { characters::<L>(v, block) } {
                    Some((whole, lines)) if whole > 0 => {
                        if whole < n {
                            // SAFETY: as above.
                            (n, v) = (whole, unsafe { L::load_part(&block[..whole]) });
                        }
                        line = lines & ones(n);
                    }
                    _ => break Exit::Careful(n),
                }
            }
            // SAFETY: as above.
            let stepped = unsafe {
                if n == BLOCK {
                    step::<L, true>(v, BLOCK, line, &run.carry)
                } else {
                    step::<L, false>(v, n, line, &run.carry)
                }
            };
            let Some((tags, next)) = stepped else {
                break Exit::Careful(n);
            };
            let (opened, closed) = (tags.opens.count_ones(), tags.closes.count_ones());
            if run.depth + opened > u32::from(self.limits.depth_max) {
                break Exit::Careful(n);
            }
            // The frame's own start tag opens before anything closes.
            if closed < run.depth.max(1) {
                run.depth = run.depth + opened - closed;
                run.at += n;
                run.carry = next;
                continue;
            }
            // SAFETY: as above.
            if unsafe { self.ends::<L>(&mut run, tags, n) } {
                run.carry = next;
            } else {
                run.carry = Carry::TEXT;
                if self.ahead.is_full() || !starts_plainly(buf, run.at) {
                    break Exit::Done;
                }
            }
        };
        (self.at, self.depth, self.state) = (run.at, run.depth, run.carry.state());
        self.stop = usize::MAX;
        if run.depth > 0 || run.carry.tag != 0 {
            self.begin(run.start);
        }
        exit
    }

    /// Notes the frames that end in a block of `n` bytes. True: the block is done with. False: the run stands behind a
    /// frame, and what follows must be looked at anew.
    ///
    /// # Safety
    /// The CPU must have what `L` needs.
    #[inline(always)]
    unsafe fn ends<L: Lanes>(&mut self, run: &mut Run, tags: Tags, n: usize) -> bool {
        let Tags { mut opens, mut closes } = tags;
        loop {
            // SAFETY: the caller grants the features.
            let Some(last) = (unsafe { frame_end::<L>(opens, closes, run.depth) }) else {
                run.depth = run.depth + opens.count_ones() - closes.count_ones();
                run.at += n;
                return true;
            };
            let end = run.at + last + 1;
            self.ahead.note(run.start, end);
            (run.start, run.depth) = (end, 0);
            // A name's first byte two bytes on: a start tag stands right behind the frame.
            if self.ahead.is_full() || (opens >> 2 >> last) & 1 == 0 {
                run.at = end;
                return false;
            }
            let behind = (u64::MAX << 1) << last;
            (opens, closes) = (opens & behind, closes & behind);
        }
    }
}

/// Bytes a step.
pub(super) const BLOCK: usize = 64;

/// Stands a start tag at `at`, as far as two bytes say?
#[inline(always)]
fn starts_plainly(buf: &[u8], at: usize) -> bool {
    matches!(buf.get(at..), Some([b'<', second, ..]) if !matches!(second, b'/' | b'!' | b'?'))
}

/// Skips whole blocks in which nothing but text stands.
///
/// # Safety
/// The CPU must have what `L` needs.
#[inline(always)]
unsafe fn text<L: Lanes>(buf: &[u8], mut at: usize) -> usize {
    while buf.len() - at >= BLOCK {
        // SAFETY: 64 bytes are left. The caller grants the features.
        if unsafe { !L::is_text(L::load(buf.as_ptr().add(at))) } {
            break;
        }
        at += BLOCK;
    }
    at
}

/// Checks a block that holds bytes of 0x80 and above, or control characters: how many bytes make whole characters, and
/// where tabs and line ends are. `None`: something is forbidden.
///
/// # Safety
/// The CPU must have what `L` needs.
#[inline(always)]
pub(super) unsafe fn characters<L: Lanes>(v: L::V, block: &[u8]) -> Option<(usize, u64)> {
    let whole = block.len() - unfinished_character(block);
    if whole == 0 {
        return Some((0, 0));
    }
    let valid = ones(whole);
    // SAFETY: the caller grants the features, here and below.
    let control = unsafe { L::le(v, 0x1f) } & valid;
    let line = if control == 0 {
        0
    } else {
        // SAFETY: as above.
        unsafe { L::eq(v, b'\t') | L::eq(v, b'\n') | L::eq(v, b'\r') }
    };
    // SAFETY: as above.
    let high = unsafe { L::high(v) } & valid;
    // SAFETY: as above.
    let right = control & !line == 0 && (high == 0 || unsafe { utf8_in_order::<L>(v, valid) });
    right.then_some((whole, line))
}

/// The lowest `n` bits, `n` in 1..=64.
#[inline(always)]
pub(super) fn ones(n: usize) -> u64 {
    u64::MAX >> (64 - n)
}

/// Where in the block the frame ends, if it does: the first `>` behind which nothing is open any more.
///
/// Behind the k-th of them `depth + opens before it - k` elements are open. No k with fewer elements to close than
/// stand open before it can be the one, and that number never falls from one k to the next: so it is the next to try.
///
/// # Safety
/// The CPU must have what `L` needs.
#[inline(always)]
unsafe fn frame_end<L: Lanes>(opens: u64, closes: u64, depth: u32) -> Option<usize> {
    let mut k = depth.max(1);
    loop {
        // SAFETY: the caller grants the features.
        let bit = unsafe { L::nth(closes, k) };
        if bit == 0 {
            return None;
        }
        let open = depth + (opens & (bit - 1)).count_ones();
        if open == k {
            return Some(bit.trailing_zeros() as usize);
        }
        k = open;
    }
}

/// One block of `n` bytes, 64 if it is `FULL`, else followed by zeros. `line`: its tabs and line ends. `None`: not of
/// the form.
///
/// The names below: a *run* is a run of name bytes; masks of `>` and `<` hold those outside values only, once the
/// checks have passed.
///
/// # Safety
/// The CPU must have what `L` needs.
#[inline(always)]
unsafe fn step<L: Lanes, const FULL: bool>(v: L::V, n: usize, line: u64, c: &Carry) -> Option<(Tags, Carry)> {
    // SAFETY: the caller grants the features.
    let (lt, gt) = unsafe { (L::eq(v, b'<'), L::eq(v, b'>')) };
    if (lt | gt | c.tag) == 0 {
        return Some((Tags { opens: 0, closes: 0 }, Carry::TEXT));
    }

    // Tags, as if no value held `<` or `>`: if one does, the model's tag ends inside a value, and that is checked.
    // SAFETY: as above.
    let mut tag = unsafe { L::parity(lt | gt) } ^ c.tag;
    if !FULL {
        tag &= ones(n);
    }
    let mut bad = (tag ^ lt) & (lt | gt);

    // Values, as if all quotes inside tags were of one kind.
    // SAFETY: as above.
    let (apos, quot) = unsafe { (L::eq(v, b'\'') & tag, L::eq(v, b'"') & tag) };
    let quotes = apos | quot;
    let mut double = 0;
    if (quot | c.double) != 0 {
        if apos != 0 || c.value != c.double {
            return None;
        }
        double = u64::MAX;
    }
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

    let after_lt = lt << 1 | c.lt;
    let end = after_lt & slash;
    // SAFETY: as above.
    let opens = after_lt & name & unsafe { L::letters(v) };
    let after_end = end << 1 | c.end;
    let empty = slash ^ end;
    let after_empty = empty << 1 | c.slash;
    // A run to which its first bit is added clears itself and sets the bit behind it: the run's end.
    let end_starts = after_end & name;
    let element_sum = name.wrapping_add(opens | end_starts | c.element);
    let end_sum = name.wrapping_add(end_starts | c.end_name);
    let end_ends = end_sum & !name;
    // Every other run is an attribute's name: `=` stands behind those, and nowhere else.
    let run_ends = (name << 1 | c.name) & !name;
    let mut rules = after_lt ^ (end | opens);
    rules |= after_end ^ end_starts;
    rules |= (after_empty | end_ends) & !gt;
    rules |= (run_ends & !element_sum) ^ eq;
    rules |= (eq << 1 | c.eq) ^ open;
    rules |= (close << 1 | c.closed) & !(space | slash | gt);
    if !FULL {
        rules &= ones(n);
    }
    if (bad | rules) != 0 {
        return None;
    }

    // The last byte's bit of each mask.
    let lift = if FULL { 0 } else { 64 - n as u32 };
    let last = |mask: u64| (mask << lift) >> 63;
    let all = |mask: u64| ((mask << lift).cast_signed() >> 63).cast_unsigned();
    let (tag, value) = (all(tag), all(value));
    let carry = Carry {
        tag,
        value,
        double: double & value,
        lt: last(lt),
        end: last(end),
        element: last(name & !element_sum),
        end_name: last(name & !end_sum),
        name: last(name),
        eq: last(eq),
        closed: last(close),
        slash: last(empty),
    };
    let mut closes = (end_ends | after_empty) & gt;
    if !FULL {
        closes &= ones(n);
    }
    Some((Tags { opens, closes }, carry))
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
