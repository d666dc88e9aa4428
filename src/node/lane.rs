//! What travels between the shards of one node.

use super::api::DataBatch;
use super::cluster::{DrainOrder, Lane, MemberNews};
use crate::table::names::Multi;
use crate::table::rows::{Clock, RowSession};
use crate::table::users::{Marker, Session};
use crate::table::ways::Path;
use crate::table::{PeerId, SeatId, SeatKind, ShardId, Token};
use crate::wire::copy::append;
use crate::wire::header::{Payload, PayloadKind};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use std::sync::Arc;

/// What the receiving shard does with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    /// Deliver it to this component, in the life of it that the sender knew.
    Seat(SeatId, u16),
    /// The same, of a stanza that its sender's shard has read: nothing more is learnt from it.
    Stanza(SeatId),
    /// Decide for the user it is addressed to.
    User(Path),
    /// The same, of a stanza that its sender's shard has read.
    Said(Said),
    /// No frame: all that waited for this lost component is on its way, before this.
    Returned(SeatId),
    /// No frame, but the user for whom all that waited for this c2s is on its way, before this.
    Recalled(SeatId),
    /// Send it to this node, for the user whose key stands before it (see [`DataBatch::push_for`]).
    Abroad(PeerId, Path),
    /// It leaves for the foreign domain that stands before it.
    Outside,
    /// It has come back from that node, for the user whose key stands before it; and how often it may still be sent.
    Astray(PeerId, u8),
    /// Follows what went to the user whose key is its text.
    Marker(Marker),
    /// No frame, but this marker of the receiver has done its work: what came back stands before this.
    MarkerDone(u64),
    /// Send this packet to that node.
    Post(PeerId),
    /// No frame: all before it has come here.
    Flush(FlushAt),
    /// A piece of a relayed connection, as a message of this lane: to that node, or, come from it, to the tunnel here.
    Passage(PeerId, Lane),
    Tunnel(PeerId, Lane),
    /// An operator's question or answer, as a packet that came from that node, or from this one.
    Inquiry(Option<PeerId>),
    /// Send it back to its sender, this component, with this error code.
    Bounce(SeatId, &'static str),
    /// Deliver it to every component of this shard but its sender.
    Broadcast,
}

/// What the owner of a user need not read once more in a local component's stanza.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Said {
    /// Where the user's key stands in the frame, and how long it is.
    at: u32,
    length: u16,
    /// It is a presence: sm may have no use for it.
    pub(super) presence: bool,
}

impl Said {
    /// Of a stanza for `bare`; `None` where the owner has to read it, or the key does not stand there as it is.
    pub(super) fn of(frame: &[u8], payload: &Payload<'_>, bare: &str) -> Option<Said> {
        let to = payload.to.filter(|_| payload.kind != PayloadKind::Session)?.0;
        to.starts_with(bare.as_bytes()).then_some(())?;
        let at = (to.as_ptr() as usize).checked_sub(frame.as_ptr() as usize)?;
        let said = Said {
            at: at.try_into().ok()?,
            length: bare.len().try_into().ok()?,
            presence: payload.kind == PayloadKind::Presence,
        };
        (said.bare(frame)? == bare).then_some(said)
    }

    /// The user's key.
    pub(super) fn bare<'f>(&self, frame: &'f [u8]) -> Option<&'f str> {
        let key = frame.get(self.at as usize..)?.get(..usize::from(self.length))?;
        std::str::from_utf8(key).ok()
    }
}

/// Where a token of a round of `node/cluster/flush.rs` comes to, and of which round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FlushAt {
    /// A slice of users.
    Slice(u64),
    /// A home of peers.
    Home(u64),
    /// A slice, and the round is this peer's.
    Peer(PeerId, u64),
}

/// A frame on its way to another shard; its bytes stand in the batch.
#[derive(Debug)]
pub(super) struct LaneFrame {
    pub(super) verb: Verb,
    pub(super) source: SeatId,
    pub(super) end: usize,
}

impl DataBatch {
    /// Takes the frames, and leaves an empty batch that grows at once to their size.
    pub(super) fn take(&mut self) -> DataBatch {
        let like = (self.frames.len(), self.bytes.len());
        let next = DataBatch {
            like,
            ..DataBatch::default()
        };
        std::mem::replace(self, next)
    }

    pub(super) fn push(&mut self, verb: Verb, source: SeatId, frame: &[u8]) {
        if self.frames.is_empty() {
            self.frames.reserve(self.like.0);
            self.bytes.reserve(self.like.1);
        }
        append(&mut self.bytes, frame);
        self.frames.push(LaneFrame {
            verb,
            source,
            end: self.bytes.len(),
        });
    }

    /// A frame with the user's key before it.
    pub(super) fn push_for(&mut self, verb: Verb, source: SeatId, bare: &str, frame: &[u8]) {
        // A key has at most two parts and an `@`.
        self.bytes.extend_from_slice(&(bare.len() as u16).to_le_bytes());
        self.bytes.extend_from_slice(bare.as_bytes());
        self.push(verb, source, frame);
    }

    /// Takes apart what [`DataBatch::push_for`] put together.
    pub(super) fn cut_for(bytes: &[u8]) -> Option<(&str, &[u8])> {
        let (length, rest) = bytes.split_first_chunk::<2>()?;
        let (bare, frame) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
        Some((std::str::from_utf8(bare).ok()?, frame))
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct SessionKey {
    pub(super) c2s: SeatId,
    pub(super) number: u32,
    pub(super) token: Token,
}

impl SessionKey {
    pub(super) fn of(session: &Session) -> SessionKey {
        SessionKey {
            c2s: session.c2s,
            number: session.number,
            token: session.token,
        }
    }
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
        /// A component of this other node, which numbers it so.
        abroad: Option<(PeerId, SeatId)>,
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
        /// Orders the holders of one service on several nodes.
        bound_at: u64,
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
        why: Over,
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
    },
    /// What waits for the lost c2s in this session goes to its user once more.
    Recall {
        bare: Box<str>,
        key: SessionKey,
    },
    // From the registrar to all: this component asked for redirects.
    Redirects {
        component: SeatId,
    },
    // From the owner of a user to that component's home: his full JID is served by this sm, or (`None`) no longer.
    Redirect {
        component: SeatId,
        full: Box<str>,
        to: Option<Box<str>>,
    },
    // And back: it does not have that redirect.
    RedirectOver {
        component: SeatId,
        full: Box<str>,
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
        samples: Vec<Sampled>,
    },
    /// From an sm's home to all: it knows none of the sessions whose c2s was lost.
    OrphansUnknown {
        sm: SeatId,
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
    // About other nodes: from shard 0, or a peer's home, to all.
    PeerKnown {
        peer: PeerId,
        name: Box<str>,
    },
    PeerState {
        peer: PeerId,
        state: PeerState,
    },
    // From a slice to the homes of peers, and from a home to the slice. Without sessions: no longer.
    RowOut {
        bare: Box<str>,
        clock: Clock,
        sessions: Option<SmallVec<[RowSession; 1]>>,
    },
    RowIn {
        peer: PeerId,
        bare: Box<str>,
        clock: Clock,
        sessions: Option<SmallVec<[RowSession; 1]>>,
    },
    /// A peer's home wants all rows of this node, to tell that peer; and one shard has told its own.
    WantRows {
        peer: PeerId,
        /// It is another process than before.
        reborn: bool,
    },
    RowsDone {
        peer: PeerId,
        rows: Vec<(Box<str>, Clock, SmallVec<[RowSession; 1]>)>,
        /// Foreign domains whose exit this node is.
        exits: Vec<(Box<str>, Clock)>,
        /// Sessions of its former life whose contacts were told that they are gone.
        told_away: Vec<Box<str>>,
    },
    /// This node drains so, or no longer; and another one does.
    Drain {
        order: Option<DrainOrder>,
    },
    DrainShare {
        left: u64,
    },
    PeerDrains {
        peer: PeerId,
        on: bool,
        to: Option<Box<str>>,
    },
    // Rounds: from a slice to shard 0, from there to all, from peers' homes to shard 0, and from there to the slices.
    FlushWanted {
        shard: ShardId,
        ticket: u64,
    },
    FlushBegins {
        round: u64,
    },
    FlushHome,
    FlushDone {
        ticket: u64,
    },
    /// To a peer's home: what it sent before the token of this round has come to a slice.
    FlushSeen {
        peer: PeerId,
        round: u64,
    },
    /// Sessions of a user died with their sm, elsewhere.
    Untold {
        bare: Box<str>,
        resource: Box<str>,
        hops: u8,
    },
    /// The same, to be told to that node by its home.
    UntoldAbroad {
        peer: PeerId,
        bare: Box<str>,
        resource: Box<str>,
        hops: u8,
    },
    // Exits: from the shard that owns a domain to the homes of peers, and back.
    ExitOut {
        domain: Box<str>,
        clock: Clock,
        taken: bool,
    },
    ExitIn {
        peer: PeerId,
        domain: Box<str>,
        clock: Clock,
        taken: bool,
    },
    ExitAskAbroad {
        peer: PeerId,
        domain: Box<str>,
    },
    ExitAsked {
        peer: PeerId,
        domain: Box<str>,
    },
    ExitIsAbroad {
        peer: PeerId,
        domain: Box<str>,
        site: Option<PeerId>,
    },
    ExitTold {
        domain: Box<str>,
        site: Option<PeerId>,
    },
    /// The contacts of this session are being told that it is gone.
    Telling {
        full: Box<str>,
    },
    /// This session gave way to a newer claim of another node.
    Moved {
        full: Box<str>,
    },
    /// The probe (from, to) that is due when an absent user is back.
    Absent {
        absent: Box<str>,
        pair: (Box<str>, Box<str>),
    },
    /// Membership: between shard 0 and a peer's home.
    Member {
        peer: PeerId,
        news: MemberNews,
    },
    /// A message (by hash) was given to its user once more; or is on its way to a client `anew`.
    Returned {
        key: u64,
        anew: bool,
    },
    /// These sessions (hashes of full JIDs) were taken from the sm of this id: it was given up, or lost them to a newer
    /// claim of another node.
    SessionsTaken {
        sm: Box<str>,
        sessions: Arc<[u64]>,
    },
}

/// Why a session is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// Its sm says so.
    Ended,
    /// Its sm does not know it: how its contacts heard of its end, if they did, is lost.
    Unknown,
    /// Its c2s is lost, and its sm hears of that.
    Orphaned,
}

/// How far a peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum PeerState {
    /// It is not there.
    Gone,
    /// It has gone: its rows are void, and what was under way to it is about to find another way.
    Leaving,
    /// It tells what it has.
    Joining,
    /// It has told everything, and takes part in ownership.
    Ready,
    /// The same, but nothing gets through to it at present.
    Stalled,
}

/// A session that an sm is asked about when it comes back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sampled {
    pub(super) key: SessionKey,
    /// The same process holds it. Otherwise it may have been replaced or ended, and whether it was is lost.
    pub(super) sure: bool,
    /// Its c2s holds the client no more, and must not be given it back: another may have the number by now.
    pub(super) left: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::header::{self, Frame};

    fn said(to: &str, payload: &str, bare: &str) -> Option<(String, bool)> {
        let frame = format!(
            "<route xmlns='http://jabberd.jabberstudio.org/ns/component/1.0' to='example.net' from='sm'>\
             <{payload} xmlns='jabber:client' to='{to}'/></route>"
        );
        let Ok(Frame::Route(route)) = header::read(frame.as_bytes()) else {
            panic!("{frame}")
        };
        let said = Said::of(frame.as_bytes(), &route.payload.expect("it has one"), bare)?;
        Some((said.bare(frame.as_bytes())?.to_owned(), said.presence))
    }

    #[test]
    fn a_key_that_stands_in_its_frame_is_found_there() {
        let key = "romeo@example.net";
        assert_eq!(said("romeo@example.net", "message", key), Some((key.into(), false)));
        assert_eq!(said("romeo@example.net/x", "iq", key), Some((key.into(), false)));
        assert_eq!(said("romeo@example.net/x", "presence", key), Some((key.into(), true)));
    }

    #[test]
    fn what_has_to_be_read_again_is_not_said() {
        let key = "romeo@example.net";
        assert_eq!(said("Romeo@example.net/x", "message", key), None);
        assert_eq!(said("rome&#111;@example.net", "message", key), None);
        let session = "session xmlns='http://jabberd.jabberstudio.org/ns/session/1.0'";
        let frame = format!(
            "<route xmlns='http://jabberd.jabberstudio.org/ns/component/1.0' to='a' from='b'><{session} to='{key}'/></route>"
        );
        let Ok(Frame::Route(route)) = header::read(frame.as_bytes()) else {
            panic!("{frame}")
        };
        let payload = route.payload.expect("it has one");
        assert_eq!(payload.kind, PayloadKind::Session);
        assert_eq!(Said::of(frame.as_bytes(), &payload, key), None);
    }
}
