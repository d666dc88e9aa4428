//! What nodes say to each other, as bytes: notes on the control lane, packets on the data lane.
//!
//! Each message is a kind byte and its fields: numbers as LEB128, texts and frames with their length before them.
//! A reader skips kinds that it does not know and fields behind those that it does, so neighbouring versions mix.

use crate::table::names::Multi;
use crate::table::rows::{Clock, RowSession};
use crate::table::ways::{HOPS_MAX, Path, TRIES_MAX};
use crate::table::{SeatId, SeatKind};
use smallvec::SmallVec;

/// What a node tells of itself; handled before any packet that was sent after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Note<'a> {
    /// A component has its place at the sender.
    SeatUp { seat: SeatId, kind: SeatKind, id: &'a str },
    /// What a component is has shown itself.
    SeatKind { seat: SeatId, kind: SeatKind },
    /// Its link is lost, or back.
    SeatLive { seat: SeatId, live: bool },
    /// It is another process than before.
    SeatRestarted { seat: SeatId },
    /// It is gone.
    SeatGone { seat: SeatId },
    /// It holds this name, since then (hybrid clock, to tell who came first).
    NameUp {
        seat: SeatId,
        name: &'a str,
        multi: Multi,
        bound_at: u64,
    },
    /// No longer.
    NameDown { seat: SeatId, name: &'a str },
    /// The sender serves this user.
    Row {
        bare: &'a str,
        clock: Clock,
        sessions: SmallVec<[RowSession; 1]>,
    },
    /// No longer.
    RowGone { bare: &'a str, clock: Clock },
    /// The sender's s2s talks to this foreign domain.
    Exit { domain: &'a str, clock: Clock },
    /// No longer.
    ExitGone { domain: &'a str, clock: Clock },
    /// The contacts of this session of the receiver's former life were told that it is gone.
    ToldAway { full: &'a str },
    /// The sender goes out of service, or is back: it is given nothing new. `to`: the node that shall take its users;
    /// empty: any.
    Draining { on: bool, to: &'a str },
    /// Everything that the sender had to tell at first has been told.
    Synced,
}

/// What travels for others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Packet<'a> {
    /// For a component of the receiver, from a component of the sender ([`crate::node::SELF`]: from the sender itself).
    ToSeat {
        seat: SeatId,
        source: SeatId,
        frame: &'a [u8],
    },
    /// For a user, wherever he is served.
    ToUser {
        bare: &'a str,
        path: Path,
        /// The node whose component sent it; empty: the sender.
        origin: &'a str,
        source: SeatId,
        frame: &'a [u8],
    },
    /// What an operator asks, on behalf of a shard of the sender (`node/cluster/inquiry.rs`).
    Ask {
        shard: u16,
        serial: u64,
        question: &'a [u8],
    },
    /// To that shard.
    Answer { shard: u16, serial: u64, answer: &'a [u8] },
    /// Back to a component of the receiver.
    Bounce {
        seat: SeatId,
        code: &'static str,
        frame: &'a [u8],
    },
    /// A frame for a user comes back: its receiver does not serve him. It may still be sent `hops` times.
    Astray {
        bare: &'a str,
        hops: u8,
        seat: SeatId,
        frame: &'a [u8],
    },
    /// Follows all that the sender sent for a user.
    Marker { bare: &'a str, shard: u16, serial: u64 },
    /// Tell when all that went before this has come to every shard.
    Flush { round: u64 },
    /// It has.
    Flushed { round: u64 },
    /// All that went before that marker has arrived, or came back before this.
    MarkerDone { shard: u16, serial: u64 },
    /// A session of this user died with its sm, and his contacts do not know.
    Untold { bare: &'a str, hops: u8, resource: &'a str },
    /// Who is the exit to this foreign domain? The receiver owns it.
    ExitAsk { domain: &'a str },
    /// This node is; empty: the receiver.
    ExitIs { domain: &'a str, node: &'a str },
}

const SEAT_UP: u8 = 1;
const SEAT_KIND: u8 = 2;
const SEAT_LIVE: u8 = 3;
const SEAT_RESTARTED: u8 = 4;
const SEAT_GONE: u8 = 5;
const NAME_UP: u8 = 6;
const NAME_DOWN: u8 = 7;
const ROW: u8 = 8;
const ROW_GONE: u8 = 9;
const SYNCED: u8 = 10;
const EXIT: u8 = 11;
const EXIT_GONE: u8 = 12;
const TOLD_AWAY: u8 = 13;
const DRAINING: u8 = 14;
const TO_SEAT: u8 = 64;
const TO_USER: u8 = 65;
const BOUNCE: u8 = 66;
const MARKER: u8 = 67;
const MARKER_DONE: u8 = 68;
const UNTOLD: u8 = 69;
const ASK: u8 = 80;
const ANSWER: u8 = 81;
const EXIT_ASK: u8 = 70;
const EXIT_IS: u8 = 71;
const ASTRAY: u8 = 72;
const FLUSH: u8 = 73;
const FLUSHED: u8 = 74;

/// Most sessions that a row tells of: resources of one person.
const ROW_SESSIONS_MAX: u64 = 1_024;

impl<'a> Note<'a> {
    /// Appends the note's bytes.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Note::SeatUp { seat, kind, id } => {
                head(out, SEAT_UP, *seat);
                out.push(kind_code(*kind));
                text(out, id);
            }
            Note::SeatKind { seat, kind } => {
                head(out, SEAT_KIND, *seat);
                out.push(kind_code(*kind));
            }
            Note::SeatLive { seat, live } => {
                head(out, SEAT_LIVE, *seat);
                out.push(u8::from(*live));
            }
            Note::SeatRestarted { seat } => head(out, SEAT_RESTARTED, *seat),
            Note::SeatGone { seat } => head(out, SEAT_GONE, *seat),
            Note::NameUp {
                seat,
                name,
                multi,
                bound_at,
            } => {
                head(out, NAME_UP, *seat);
                text(out, name);
                out.push(multi_code(*multi));
                number(out, *bound_at);
            }
            Note::NameDown { seat, name } => {
                head(out, NAME_DOWN, *seat);
                text(out, name);
            }
            Note::Row { bare, clock, sessions } => {
                out.push(ROW);
                text(out, bare);
                number(out, clock.0);
                number(out, sessions.len() as u64);
                for session in sessions {
                    text(out, &session.resource);
                    out.push(u8::from(session.available));
                }
            }
            Note::RowGone { bare, clock } => {
                out.push(ROW_GONE);
                text(out, bare);
                number(out, clock.0);
            }
            Note::Exit { domain, clock } => {
                out.push(EXIT);
                text(out, domain);
                number(out, clock.0);
            }
            Note::ExitGone { domain, clock } => {
                out.push(EXIT_GONE);
                text(out, domain);
                number(out, clock.0);
            }
            Note::ToldAway { full } => {
                out.push(TOLD_AWAY);
                text(out, full);
            }
            Note::Draining { on, to } => {
                out.extend_from_slice(&[DRAINING, u8::from(*on)]);
                text(out, to);
            }
            Note::Synced => out.push(SYNCED),
        }
    }

    /// Reads a note; `None` when it is none that this version knows.
    pub(super) fn read(bytes: &'a [u8]) -> Option<Note<'a>> {
        let mut from = Reader(bytes);
        Some(match from.byte()? {
            SEAT_UP => Note::SeatUp {
                seat: from.seat()?,
                kind: kind_of(from.byte()?)?,
                id: from.text()?,
            },
            SEAT_KIND => Note::SeatKind {
                seat: from.seat()?,
                kind: kind_of(from.byte()?)?,
            },
            SEAT_LIVE => Note::SeatLive {
                seat: from.seat()?,
                live: from.byte()? != 0,
            },
            SEAT_RESTARTED => Note::SeatRestarted { seat: from.seat()? },
            SEAT_GONE => Note::SeatGone { seat: from.seat()? },
            NAME_UP => Note::NameUp {
                seat: from.seat()?,
                name: from.text()?,
                multi: multi_of(from.byte()?)?,
                bound_at: from.number()?,
            },
            NAME_DOWN => Note::NameDown {
                seat: from.seat()?,
                name: from.text()?,
            },
            ROW => {
                let (bare, clock, count) = (from.text()?, Clock(from.number()?), from.number()?);
                let mut sessions = SmallVec::new();
                for _ in 0..Some(count).filter(|count| *count <= ROW_SESSIONS_MAX)? {
                    sessions.push(RowSession {
                        resource: from.text()?.into(),
                        available: from.byte()? != 0,
                    });
                }
                Note::Row { bare, clock, sessions }
            }
            ROW_GONE => Note::RowGone {
                bare: from.text()?,
                clock: Clock(from.number()?),
            },
            EXIT => Note::Exit {
                domain: from.text()?,
                clock: Clock(from.number()?),
            },
            EXIT_GONE => Note::ExitGone {
                domain: from.text()?,
                clock: Clock(from.number()?),
            },
            TOLD_AWAY => Note::ToldAway { full: from.text()? },
            DRAINING => Note::Draining {
                on: from.byte()? != 0,
                to: from.text()?,
            },
            SYNCED => Note::Synced,
            _ => return None,
        })
    }
}

impl<'a> Packet<'a> {
    /// Appends the packet's bytes.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Packet::ToSeat { seat, source, frame } => {
                head(out, TO_SEAT, *seat);
                number(out, u64::from(source.number()));
                bytes(out, frame);
            }
            Packet::ToUser {
                bare,
                path,
                origin,
                source,
                frame,
            } => {
                out.push(TO_USER);
                text(out, bare);
                out.push(path.hops);
                number(out, path.stamp.0);
                text(out, origin);
                number(out, u64::from(source.number()));
                bytes(out, frame);
            }
            Packet::Ask {
                shard,
                serial,
                question,
            } => inquiry(out, ASK, *shard, *serial, question),
            Packet::Answer { shard, serial, answer } => inquiry(out, ANSWER, *shard, *serial, answer),
            Packet::Bounce { seat, code, frame } => {
                head(out, BOUNCE, *seat);
                text(out, code);
                bytes(out, frame);
            }
            Packet::Astray {
                bare,
                hops,
                seat,
                frame,
            } => {
                head(out, ASTRAY, *seat);
                text(out, bare);
                out.push(*hops);
                bytes(out, frame);
            }
            Packet::Marker { bare, shard, serial } => {
                out.push(MARKER);
                text(out, bare);
                number(out, u64::from(*shard));
                number(out, *serial);
            }
            Packet::Flush { round } => {
                out.push(FLUSH);
                number(out, *round);
            }
            Packet::Flushed { round } => {
                out.push(FLUSHED);
                number(out, *round);
            }
            Packet::MarkerDone { shard, serial } => {
                out.push(MARKER_DONE);
                number(out, u64::from(*shard));
                number(out, *serial);
            }
            Packet::ExitAsk { domain } => {
                out.push(EXIT_ASK);
                text(out, domain);
            }
            Packet::ExitIs { domain, node } => {
                out.push(EXIT_IS);
                text(out, domain);
                text(out, node);
            }
            Packet::Untold { bare, hops, resource } => {
                out.push(UNTOLD);
                text(out, bare);
                out.push(*hops);
                text(out, resource);
            }
        }
    }

    /// Reads a packet; `None` when it is none that this version knows.
    pub(super) fn read(bytes: &'a [u8]) -> Option<Packet<'a>> {
        let mut from = Reader(bytes);
        Some(match from.byte()? {
            TO_SEAT => Packet::ToSeat {
                seat: from.seat()?,
                source: from.seat()?,
                frame: from.bytes()?,
            },
            TO_USER => Packet::ToUser {
                bare: from.text()?,
                path: Path {
                    hops: from.byte()?.min(TRIES_MAX - 1),
                    stamp: Clock(from.number()?),
                    ..Path::LOCAL
                },
                origin: from.text()?,
                source: from.seat()?,
                frame: from.bytes()?,
            },
            ASK => Packet::Ask {
                shard: u16::try_from(from.number()?).ok()?,
                serial: from.number()?,
                question: from.bytes()?,
            },
            ANSWER => Packet::Answer {
                shard: u16::try_from(from.number()?).ok()?,
                serial: from.number()?,
                answer: from.bytes()?,
            },
            BOUNCE => Packet::Bounce {
                seat: from.seat()?,
                code: code_of(from.text()?),
                frame: from.bytes()?,
            },
            ASTRAY => Packet::Astray {
                seat: from.seat()?,
                bare: from.text()?,
                hops: from.byte()?.min(TRIES_MAX - 1),
                frame: from.bytes()?,
            },
            MARKER => Packet::Marker {
                bare: from.text()?,
                shard: u16::try_from(from.number()?).ok()?,
                serial: from.number()?,
            },
            FLUSH => Packet::Flush { round: from.number()? },
            FLUSHED => Packet::Flushed { round: from.number()? },
            MARKER_DONE => Packet::MarkerDone {
                shard: u16::try_from(from.number()?).ok()?,
                serial: from.number()?,
            },
            EXIT_ASK => Packet::ExitAsk { domain: from.text()? },
            EXIT_IS => Packet::ExitIs {
                domain: from.text()?,
                node: from.text()?,
            },
            UNTOLD => Packet::Untold {
                bare: from.text()?,
                hops: from.byte()?.min(HOPS_MAX - 1),
                resource: from.text()?,
            },
            _ => return None,
        })
    }
}

fn head(out: &mut Vec<u8>, kind: u8, seat: SeatId) {
    out.push(kind);
    number(out, u64::from(seat.number()));
}

fn inquiry(out: &mut Vec<u8>, kind: u8, shard: u16, serial: u64, text: &[u8]) {
    out.push(kind);
    number(out, u64::from(shard));
    number(out, serial);
    bytes(out, text);
}

pub(super) fn number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(super) fn bytes(out: &mut Vec<u8>, value: &[u8]) {
    number(out, value.len() as u64);
    out.extend_from_slice(value);
}

pub(super) fn text(out: &mut Vec<u8>, value: &str) {
    bytes(out, value.as_bytes());
}

pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    pub(super) fn number(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        let count = usize::try_from(self.number()?).ok()?;
        let (value, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(value)
    }

    pub(super) fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    fn seat(&mut self) -> Option<SeatId> {
        Some(SeatId::from_number(u32::try_from(self.number()?).ok()?))
    }
}

fn kind_code(kind: SeatKind) -> u8 {
    match kind {
        SeatKind::Native => 0,
        SeatKind::Sm => 1,
        SeatKind::C2s => 2,
        SeatKind::S2s => 3,
        SeatKind::Xep0114 => 4,
    }
}

fn kind_of(code: u8) -> Option<SeatKind> {
    use SeatKind::{C2s, Native, S2s, Sm, Xep0114};
    [Native, Sm, C2s, S2s, Xep0114].get(usize::from(code)).copied()
}

fn multi_code(multi: Multi) -> u8 {
    match multi {
        Multi::No => 0,
        Multi::To => 1,
        Multi::From => 2,
    }
}

fn multi_of(code: u8) -> Option<Multi> {
    [Multi::No, Multi::To, Multi::From].get(usize::from(code)).copied()
}

/// Error codes are a closed set inside a node.
fn code_of(text: &str) -> &'static str {
    match text {
        "400" => "400",
        "401" => "401",
        "404" => "404",
        _ => "503",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_message_comes_back_as_it_was_and_later_fields_are_skipped() {
        let seat = SeatId::new(300, 7);
        let notes = [
            Note::SeatUp {
                seat,
                kind: SeatKind::C2s,
                id: "c2s",
            },
            Note::SeatKind {
                seat,
                kind: SeatKind::Sm,
            },
            Note::SeatLive { seat, live: true },
            Note::SeatRestarted { seat },
            Note::SeatGone { seat },
            Note::NameUp {
                seat,
                name: "example.net",
                multi: Multi::To,
                bound_at: u64::MAX,
            },
            Note::NameDown {
                seat,
                name: "example.net",
            },
            Note::Row {
                bare: "u@example.net",
                clock: Clock(1 << 60),
                sessions: smallvec::smallvec![RowSession {
                    resource: "r".into(),
                    available: true,
                }],
            },
            Note::RowGone {
                bare: "u@example.net",
                clock: Clock(3),
            },
            Note::Exit {
                domain: "example.org",
                clock: Clock(3),
            },
            Note::ExitGone {
                domain: "example.org",
                clock: Clock(3),
            },
            Note::Synced,
        ];
        for note in notes {
            let mut out = Vec::new();
            note.write(&mut out);
            out.extend_from_slice(b"later");
            assert_eq!(Note::read(&out), Some(note));
        }
        let path = Path {
            hops: 2,
            stamp: Clock(9),
            ..Path::LOCAL
        };
        let packets = [
            Packet::ToSeat {
                seat,
                source: seat,
                frame: b"<x/>",
            },
            Packet::ToUser {
                bare: "u@a",
                path,
                origin: "",
                source: seat,
                frame: b"<x/>",
            },
            Packet::Bounce {
                seat,
                code: "404",
                frame: b"<x/>",
            },
            Packet::Astray {
                bare: "u@a",
                hops: 1,
                seat,
                frame: b"<x/>",
            },
            Packet::Marker {
                bare: "u@a",
                shard: 2,
                serial: 3,
            },
            Packet::MarkerDone { shard: 2, serial: 3 },
            Packet::Flush { round: 300 },
            Packet::Flushed { round: 300 },
            Packet::Ask {
                shard: 2,
                serial: 300,
                question: b"q",
            },
            Packet::Answer {
                shard: 2,
                serial: 300,
                answer: b"a",
            },
            Packet::Untold {
                bare: "u@a",
                hops: 1,
                resource: "r",
            },
            Packet::ExitAsk { domain: "example.org" },
            Packet::ExitIs {
                domain: "example.org",
                node: "n",
            },
        ];
        for packet in packets {
            let mut out = Vec::new();
            packet.write(&mut out);
            out.extend_from_slice(b"later");
            assert_eq!(Packet::read(&out), Some(packet));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(raw in proptest::collection::vec(any::<u8>(), 0..64), kind in 0u8..90) {
            let mut bytes = vec![kind];
            bytes.extend(raw);
            let _ = (Note::read(&bytes), Packet::read(&bytes));
        }
    }
}
