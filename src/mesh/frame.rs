//! The frames inside a record: kind, length, body. A receiver skips kinds that it does not know, and what a later
//! version adds at the end of a body.

use super::Lane;
use super::codec::{Reader, put_text, put_varint, varint_bytes};
use super::error::{MeshError, Reason};
use serde::{Deserialize, Serialize};

/// Longest text of a [`Frame::Bye`], bytes.
const BYE_TEXT_BYTES_MAX: usize = 256;

/// One frame. All numbers are varints, except tokens and the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// The first frame of each side on a connection: "this is where my end of the lane stands".
    Join {
        /// How often one of the two gave the other up: the higher number counts for both.
        epoch: u64,
        /// The last decision about the lane that the sender knows, as of its dial.
        knows: u64,
        /// Its receiving half.
        credit: Credit,
        /// What became of the streams that it took from its peer before it last gave that one up.
        former: Former,
    },
    /// From the deciding node only: "this connection serves the lane from now on".
    Take {
        /// As in `Join`.
        epoch: u64,
        /// Grows with each decision about this lane.
        decision: u64,
        /// Its receiving half.
        credit: Credit,
    },
    /// How far the sender has received, and how far its peer may send.
    Ack {
        /// Its receiving half.
        credit: Credit,
        /// The offset before which all bytes have come, also those that wait for the control lane.
        arrived: u64,
    },
    /// A piece of the lane's stream.
    Data {
        /// Where in the stream it stands.
        offset: u64,
        /// The bytes; never empty.
        bytes: &'a [u8],
    },
    /// To be answered at once.
    Ping {
        /// Comes back.
        token: u64,
    },
    /// The answer.
    Pong {
        /// The question's.
        token: u64,
    },
    /// A message that may get lost, of the membership protocol.
    Datagram(&'a [u8]),
    /// The sender closes this connection.
    Bye {
        /// Why.
        reason: Reason,
        /// Details for the log; may be empty.
        text: &'a str,
    },
}

/// The state of one direction of a lane, told by its receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Credit {
    /// All bytes of the stream before this offset have arrived, and none of them waits for the control lane.
    pub received: u64,
    /// The sender may send the bytes before this offset.
    pub limit: u64,
}

/// Streams that were given up by their receiver. Without any: nothing of epoch 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Former {
    /// The last epoch in which something may have come.
    pub epoch: u64,
    /// By lane number: the bytes before this offset have arrived in it, and no other ever will.
    pub received: [u64; Lane::ALL.len()],
}

const JOIN: u8 = 1;
const TAKE: u8 = 2;
const ACK: u8 = 3;
const DATA: u8 = 4;
const PING: u8 = 5;
const PONG: u8 = 6;
const DATAGRAM: u8 = 7;
const BYE: u8 = 8;

/// Appends a frame.
pub fn put_frame(out: &mut Vec<u8>, frame: &Frame<'_>) {
    match *frame {
        Frame::Join {
            epoch,
            knows,
            credit,
            former,
        } => {
            let [control, data] = former.received;
            let Credit { received, limit } = credit;
            put_numbers(out, JOIN, &[epoch, knows, received, limit, former.epoch, control, data]);
        }
        Frame::Take {
            epoch,
            decision,
            credit,
        } => {
            put_numbers(out, TAKE, &[epoch, decision, credit.received, credit.limit]);
        }
        Frame::Ack { credit, arrived } => put_numbers(out, ACK, &[credit.received, credit.limit, arrived]),
        Frame::Data { offset, bytes } => {
            put_data_head(out, offset, bytes.len());
            out.extend_from_slice(bytes);
        }
        Frame::Ping { token } => put_token(out, PING, token),
        Frame::Pong { token } => put_token(out, PONG, token),
        Frame::Datagram(bytes) => {
            out.push(DATAGRAM);
            put_varint(out, bytes.len() as u64);
            out.extend_from_slice(bytes);
        }
        Frame::Bye { reason, text } => {
            let text = &text[..text.floor_char_boundary(BYE_TEXT_BYTES_MAX)];
            out.push(BYE);
            put_varint(out, (1 + varint_bytes(text.len() as u64) + text.len()) as u64);
            out.push(reason.number());
            put_text(out, text);
        }
    }
}

/// Appends all of a [`Frame::Data`] but its bytes: `len` of them must follow.
pub fn put_data_head(out: &mut Vec<u8>, offset: u64, len: usize) {
    out.push(DATA);
    put_varint(out, (varint_bytes(offset) + len) as u64);
    put_varint(out, offset);
}

/// The most that [`put_data_head`] appends, bytes.
pub const DATA_HEAD_BYTES_MAX: usize = 1 + 3 + super::codec::VARINT_BYTES_MAX;

fn put_numbers(out: &mut Vec<u8>, kind: u8, numbers: &[u64]) {
    out.push(kind);
    put_varint(out, numbers.iter().map(|&number| varint_bytes(number) as u64).sum());
    for &number in numbers {
        put_varint(out, number);
    }
}

fn put_token(out: &mut Vec<u8>, kind: u8, token: u64) {
    out.extend_from_slice(&[kind, 8]);
    out.extend_from_slice(&token.to_be_bytes());
}

/// The frames of one record.
pub struct Frames<'a> {
    from: Reader<'a>,
}

impl<'a> Frames<'a> {
    /// `plaintext`: one opened record.
    pub fn new(plaintext: &'a [u8]) -> Frames<'a> {
        Frames {
            from: Reader::new(plaintext, "frame"),
        }
    }

    fn read(&mut self) -> Result<Option<Frame<'a>>, MeshError> {
        while !self.from.rest().is_empty() {
            let kind = self.from.byte()?;
            let len = usize::try_from(self.from.varint()?).unwrap_or(usize::MAX);
            let body = Reader::new(self.from.bytes(len)?, "frame");
            if let Some(frame) = read_body(kind, body)? {
                return Ok(Some(frame));
            }
        }
        Ok(None)
    }
}

/// Ends after the first error.
impl<'a> Iterator for Frames<'a> {
    type Item = Result<Frame<'a>, MeshError>;

    fn next(&mut self) -> Option<Self::Item> {
        let frame = self.read();
        if frame.is_err() {
            self.from = Reader::new(&[], "frame");
        }
        frame.transpose()
    }
}

fn read_body<'a>(kind: u8, mut body: Reader<'a>) -> Result<Option<Frame<'a>>, MeshError> {
    Ok(Some(match kind {
        JOIN => Frame::Join {
            epoch: body.varint()?,
            knows: body.varint()?,
            credit: read_credit(&mut body)?,
            former: Former {
                epoch: body.varint()?,
                received: [body.varint()?, body.varint()?],
            },
        },
        TAKE => Frame::Take {
            epoch: body.varint()?,
            decision: body.varint()?,
            credit: read_credit(&mut body)?,
        },
        ACK => Frame::Ack {
            credit: read_credit(&mut body)?,
            arrived: body.varint()?,
        },
        DATA => Frame::Data {
            offset: body.varint()?,
            bytes: body.rest(),
        },
        PING => Frame::Ping {
            token: u64::from_be_bytes(body.array()?),
        },
        PONG => Frame::Pong {
            token: u64::from_be_bytes(body.array()?),
        },
        DATAGRAM => Frame::Datagram(body.rest()),
        BYE => Frame::Bye {
            reason: Reason::from_number(body.byte()?),
            text: body.text(BYE_TEXT_BYTES_MAX)?,
        },
        _ => return Ok(None),
    }))
}

fn read_credit(body: &mut Reader<'_>) -> Result<Credit, MeshError> {
    Ok(Credit {
        received: body.varint()?,
        limit: body.varint()?,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn read(bytes: &[u8]) -> Vec<Result<Frame<'_>, MeshError>> {
        Frames::new(bytes).collect()
    }

    #[test]
    fn frames_return() {
        let credit = Credit {
            received: 1 << 40,
            limit: (1 << 40) + 7,
        };
        let frames = [
            Frame::Join {
                epoch: 3,
                knows: 200,
                credit,
                former: Former {
                    epoch: 2,
                    received: [7, 1 << 50],
                },
            },
            Frame::Take {
                epoch: 3,
                decision: 201,
                credit,
            },
            Frame::Ack {
                credit,
                arrived: (1 << 40) + 3,
            },
            Frame::Ping { token: u64::MAX },
            Frame::Pong { token: 1 },
            Frame::Datagram(b"swim"),
            Frame::Bye {
                reason: Reason::Restarting,
                text: "back soon",
            },
            Frame::Data {
                offset: 1 << 40,
                bytes: b"stream",
            },
        ];
        let mut bytes = Vec::new();
        for frame in &frames {
            put_frame(&mut bytes, frame);
        }
        let back: Vec<Frame<'_>> = read(&bytes).into_iter().map(Result::unwrap).collect();
        assert_eq!(back, frames);
    }

    #[test]
    fn what_a_later_version_adds_is_skipped() {
        let mut bytes = vec![99, 3, b'n', b'e', b'w'];
        bytes.extend_from_slice(&[PING, 10, 0, 0, 0, 0, 0, 0, 0, 5, b'+', b'+']);
        assert_eq!(read(&bytes), [Ok(Frame::Ping { token: 5 })]);
    }

    #[test]
    fn cut_frames_are_errors_once() {
        for bytes in [
            &[PING][..],
            &[PING, 8, 0],
            &[ACK, 1, 0x80],
            &[DATA, 0xff, 0xff, 0xff, 0xff, 0x7f],
            &[BYE, 1, 2],
        ] {
            let got = read(bytes);
            assert!(got.len() == 1 && got[0].is_err(), "{bytes:?}: {got:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_crash_it(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            for frame in Frames::new(&bytes) {
                let _ = frame;
            }
        }

        #[test]
        fn the_head_of_data_is_within_its_bound(offset in any::<u64>(), len in 0usize..65_536) {
            let mut out = Vec::new();
            put_data_head(&mut out, offset, len);
            prop_assert!(out.len() <= DATA_HEAD_BYTES_MAX);
        }
    }
}
