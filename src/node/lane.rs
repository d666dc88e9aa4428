//! What travels between the shards of one node.

use super::api::DataBatch;
use crate::table::names::Multi;
use crate::table::users::Session;
use crate::table::{SeatId, SeatKind, ShardId, Token};
use crate::wire::copy::append;

/// What the receiving shard does with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    /// Deliver it to this component, in the life of it that the sender knew.
    Seat(SeatId, u16),
    /// Decide for the user it is addressed to.
    User,
    /// Send it back to its sender, this component, with this error code.
    Bounce(SeatId, &'static str),
    /// Deliver it to every component of this shard but its sender.
    Broadcast,
}

/// A frame on its way to another shard; its bytes stand in the batch.
#[derive(Debug)]
pub(super) struct LaneFrame {
    pub(super) verb: Verb,
    pub(super) source: SeatId,
    pub(super) end: usize,
}

impl DataBatch {
    pub(super) fn push(&mut self, verb: Verb, source: SeatId, frame: &[u8]) {
        append(&mut self.bytes, frame);
        self.frames.push(LaneFrame {
            verb,
            source,
            end: self.bytes.len(),
        });
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&LaneFrame, &[u8])> {
        let mut start = 0;
        self.frames.iter().map(move |frame| {
            let bytes = &self.bytes[start..frame.end];
            start = frame.end;
            (frame, bytes)
        })
    }

    /// Frames in the batch.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Bytes in the batch.
    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    /// Nothing in it.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }
}

/// A session, named as session control names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct SessionKey {
    pub(super) c2s: SeatId,
    pub(super) number: u32,
    pub(super) token: Token,
}

/// A message of the control lane. Handled before any data of the same turn.
#[derive(Debug)]
pub struct Control(pub(super) Message);

#[derive(Clone, Debug)]
pub(super) enum Message {
    // From the registrar to all shards.
    SeatNew {
        seat: SeatId,
        home: ShardId,
        kind: SeatKind,
        id: Box<str>,
    },
    SeatLive {
        seat: SeatId,
        live: bool,
    },
    SeatGone {
        seat: SeatId,
    },
    Bound {
        seat: SeatId,
        name: Box<str>,
        multi: Multi,
        default: bool,
        log: bool,
    },
    Unbound {
        seat: SeatId,
        name: Box<str>,
    },
    // From a seat's home to the registrar.
    AskBind {
        seat: SeatId,
        frame: Box<[u8]>,
    },
    AskUnbind {
        seat: SeatId,
        frame: Box<[u8]>,
    },
    Lost {
        seat: SeatId,
    },
    Unclaimed {
        seat: SeatId,
        name: Box<str>,
    },
    Expired {
        seat: SeatId,
    },
    ContestAnswer {
        seat: SeatId,
        alive: bool,
    },
    // From the registrar to a seat's home.
    BindAnswer {
        seat: SeatId,
        answer: Box<[u8]>,
        refused: Option<Box<str>>,
    },
    Contest {
        seat: SeatId,
    },
    // From a seat's home to all.
    Kind {
        seat: SeatId,
        kind: SeatKind,
    },
    /// The component at this seat is another process than before: what the former held is lost.
    Restarted {
        seat: SeatId,
    },
    // From a c2s's home to the owner of the user.
    Register {
        bare: Box<str>,
        sm: SeatId,
        request: Option<Token>,
        session: Box<Session>,
    },
    Unregister {
        bare: Box<str>,
        key: SessionKey,
    },
    Ending {
        bare: Box<str>,
        key: SessionKey,
    },
    Presence {
        bare: Box<str>,
        key: SessionKey,
        priority: Option<i8>,
    },
    StartDone {
        bare: Box<str>,
        c2s: SeatId,
        request: Token,
    },
    // From the owner to a c2s's home.
    EndClient {
        key: SessionKey,
        restarted: bool,
    },
    // Questions among shards.
    FenceDone {
        sm: SeatId,
        number: u64,
    },
    Sample {
        sm: SeatId,
        home: ShardId,
    },
    SampleAnswer {
        sm: SeatId,
        sample: Option<Sampled>,
    },
    SurrogateStarted {
        sm: SeatId,
        bare: Box<str>,
        number: u32,
        token: Token,
    },
    SurrogateEnded {
        number: u32,
    },
}

/// A session that an sm is asked about when it comes back.
#[derive(Clone, Debug)]
pub(super) struct Sampled {
    pub(super) key: SessionKey,
    pub(super) bare: Box<str>,
}
