//! A tunnel's bytes on their way, as a message of a lane; the room `mesh` describes it for others.

use crate::node::cluster::message::{Reader, bytes, number, text};

/// Kinds of messages, distinct from those of both lanes.
const TO_RELAY: u8 = 96;
const PASSED_ON: u8 = 97;

const FROM_OPENER: u8 = 1;

/// What a passage is to its tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The first, from the end that opens it.
    Open,
    /// One further.
    Bytes,
    /// The tunnel is no more.
    Close,
}

/// A piece of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Passage<'a> {
    /// It comes from the relay, and is for the receiver.
    pub(super) passed_on: bool,
    /// The tunnel's other end: on the way to the relay its target, from there its source.
    pub(super) node: &'a str,
    /// The tunnel among those that its opener opened to the other end.
    pub(super) number: u64,
    /// The source opened it.
    pub(super) from_opener: bool,
    pub(super) step: Step,
    pub(super) bytes: &'a [u8],
}

impl<'a> Passage<'a> {
    /// What its sender hears when it does not arrive; it travels the same way back.
    pub(super) fn refusal(&self) -> Passage<'a> {
        Passage {
            from_opener: !self.from_opener,
            step: Step::Close,
            bytes: &[],
            ..*self
        }
    }

    pub(super) fn to_bytes(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.bytes.len() + self.node.len() + 24);
        out.push(if self.passed_on { PASSED_ON } else { TO_RELAY });
        text(&mut out, self.node);
        number(&mut out, self.number);
        out.push(if self.from_opener { FROM_OPENER } else { 0 });
        out.push(match self.step {
            Step::Open => 0,
            Step::Bytes => 1,
            Step::Close => 2,
        });
        bytes(&mut out, self.bytes);
        out
    }

    /// `None`: another message, or one that this version does not know.
    pub(super) fn read(message: &'a [u8]) -> Option<Passage<'a>> {
        let mut from = Reader(message);
        let passed_on = match from.byte()? {
            TO_RELAY => false,
            PASSED_ON => true,
            _ => return None,
        };
        Some(Passage {
            passed_on,
            node: from.text()?,
            number: from.number()?,
            from_opener: from.byte()? & FROM_OPENER != 0,
            step: match from.byte()? {
                0 => Step::Open,
                1 => Step::Bytes,
                2 => Step::Close,
                _ => return None,
            },
            bytes: from.bytes()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn passages_return_and_later_fields_are_skipped() {
        for (passed_on, from_opener, step) in [
            (false, true, Step::Open),
            (true, false, Step::Bytes),
            (true, true, Step::Close),
        ] {
            let passage = Passage {
                passed_on,
                node: "a.example.net",
                number: u64::MAX,
                from_opener,
                step,
                bytes: b"sealed",
            };
            let mut bytes = passage.to_bytes();
            bytes.extend_from_slice(b"what a later version adds");
            assert_eq!(Passage::read(&bytes), Some(passage));
            assert_eq!(passage.refusal().refusal().from_opener, from_opener);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_crash_it(kind in 96u8..98, bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = Passage::read(&[&[kind], &bytes[..]].concat());
        }
    }
}
