//! One connection of a peer: where it stands between its handshake and its end, and whether it is alive.

use super::super::conn::Conn;
use super::super::error::Reason;
use super::super::frame::{Frame, put_frame};
use super::super::hello::Address;
use super::super::{Lane, LinkId, Micros};

/// A line on which nothing came for so long is asked for a sign of life, microseconds. At 64 nodes with two lanes each
/// this costs a node some 65 small writes a second.
pub const HEARTBEAT_US: Micros = 2_000_000;
/// The round trip is measured at least so often, microseconds.
const ROUND_TRIP_US: Micros = 10_000_000;
/// Bytes or a question unanswered for so long: the line is stuck, and a replacement is dialled, microseconds.
pub const STALL_US: Micros = 1_000_000;
/// How long a line may stand between its handshake and the decision about it, microseconds.
pub(super) const JOIN_US_MAX: Micros = 2_000_000;

/// How a connection's bytes travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Over a socket between the two nodes.
    Direct,
    /// Through another node, for want of better: the peer is dialled on.
    Relayed,
}

/// A connection of a peer.
pub(super) struct Line {
    pub(super) conn: Conn,
    pub(super) state: LineState,
}

/// All of a line but its connection.
#[derive(Debug)]
pub(super) struct LineState {
    pub(super) link: LinkId,
    pub(super) lane: Lane,
    pub(super) reach: Reach,
    pub(super) phase: Phase,
    /// Where this node dialled it.
    pub(super) dialled: Option<Address>,
    pub(super) began_at: Micros,
    /// The last decision about the lane that this node knew when it dialled.
    pub(super) knows: u64,
    /// The peer's life; before the handshake, the one that this node knew when it dialled.
    pub(super) incarnation: Option<u64>,
    /// It must be closed, for this reason.
    pub(super) doomed: Option<Reason>,
    /// The epoch in which it joined.
    pub(super) epoch: u64,
    /// Frames to go before all others.
    pub(super) urgent: Vec<u8>,
    /// [`PeerEvent::WantsOutput`](super::PeerEvent) was said, and nothing was taken since.
    pub(super) wanted: bool,
    pub(super) heard_at: Micros,
    pub(super) measured_at: Micros,
    /// The question under way: when it was asked.
    pub(super) asked_at: Option<Micros>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The handshake is under way.
    Greeting,
    /// Our `Join` is out since then; the decision is open.
    Joining { since: Micros },
    /// It serves the lane.
    Serving,
    /// It is to be closed; what comes is ignored.
    Closing,
}

impl LineState {
    pub(super) fn new(now: Micros, link: LinkId, lane: Lane, reach: Reach) -> LineState {
        LineState {
            link,
            lane,
            reach,
            phase: Phase::Greeting,
            dialled: None,
            began_at: now,
            knows: 0,
            incarnation: None,
            doomed: None,
            epoch: 0,
            urgent: Vec::new(),
            wanted: false,
            heard_at: now,
            measured_at: 0,
            asked_at: None,
        }
    }

    /// Nothing is decided about it yet.
    pub(super) fn is_coming(&self) -> bool {
        matches!(self.phase, Phase::Greeting | Phase::Joining { .. })
    }

    pub(super) fn is_serving(&self) -> bool {
        self.phase == Phase::Serving
    }

    pub(super) fn push(&mut self, frame: &Frame<'_>) {
        put_frame(&mut self.urgent, frame);
    }

    /// Asks for a sign of life if it is time; `true`: there is something to write.
    pub(super) fn beat(&mut self, now: Micros) -> bool {
        if !self.is_serving() || self.beats_at().is_none_or(|at| now < at) {
            return false;
        }
        self.asked_at = Some(now);
        self.push(&Frame::Ping { token: now });
        true
    }

    fn beats_at(&self) -> Option<Micros> {
        let at = (self.heard_at + HEARTBEAT_US).min(self.measured_at + ROUND_TRIP_US);
        self.asked_at.is_none().then_some(at)
    }

    /// The answer came: the round trip, if it was asked for.
    pub(super) fn answered(&mut self, now: Micros, token: Micros) -> Option<Micros> {
        self.asked_at.take_if(|asked_at| *asked_at == token)?;
        self.measured_at = now;
        Some(now.saturating_sub(token))
    }

    /// A question waits for its answer since then.
    pub(super) fn waits_since(&self) -> Option<Micros> {
        self.asked_at
    }

    /// When something is to be done about it, traffic aside.
    pub(super) fn deadline(&self, conn: &Conn) -> Option<Micros> {
        match self.phase {
            Phase::Greeting => conn.deadline(),
            Phase::Joining { since } => Some(since + JOIN_US_MAX),
            Phase::Serving => self.beats_at(),
            Phase::Closing => None,
        }
    }
}
