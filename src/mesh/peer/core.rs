//! All of a peer but its connections: the lanes, the decision which connection serves, the dials, the peer's state.
//!
//! **Who decides.** Of two nodes the one with the smaller name decides which connection serves a lane. It numbers its
//! decisions and tells each with a `Take` on the connection it chose; the other one obeys the highest number. A dialler
//! says which decision it knew when it dialled: a connection dialled in ignorance of the present one is a duplicate and
//! is closed; one dialled in its knowledge is wanted as its replacement.

use super::super::conn::{Local, Side};
use super::super::error::{MeshError, Reason};
use super::super::frame::{Credit, Former, Frame, Frames};
use super::super::hello::{Address, Hello};
use super::super::lane::receive::Receiver;
use super::super::lane::send::{Full, Sender, Unacknowledged};
use super::super::lane::{DOUBT_US, INITIAL_CREDIT_BYTES};
use super::super::seal::PLAINTEXT_BYTES_MAX;
use super::super::{CloseCause, Lane, Level, LinkId, Micros};
use super::DATA_HEAD_BYTES_MAX;
use super::dial::{DialFailure, DialId, Dialler};
use super::event::{AnewCause, LaneStatus, Loss, PeerCounters, PeerEvent, PeerStatus};
use super::line::{Line, LineState, Phase, Reach, STALL_US};
use rand_chacha::ChaCha20Rng;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

/// The node that does not decide leaves the other one so much time to dial first, microseconds.
const SECOND_DIAL_US: Micros = 50_000;
/// Without a served control lane for so long, the peer counts as lost, microseconds.
const LOST_US: Micros = 1_000_000;
/// A served lane whose peer did not confirm the decision for so long may be served by another connection, microseconds.
const UNCONFIRMED_US: Micros = 1_000_000;
/// Former lives of the peer that are remembered.
const FORMER_MAX: usize = 8;
/// Most addresses of a peer.
const ADDRESSES_MAX: usize = 16;
/// Answers that wait for a line's next write, bytes.
const URGENT_BYTES_MAX: usize = 4 * 1024;
/// The same complaint is written at most so often, microseconds.
const COMPLAINT_US: Micros = 60_000_000;
/// So many different complaints are remembered.
const COMPLAINTS_MAX: usize = 16;

pub(super) struct Core {
    pub(super) local: Arc<Local>,
    pub(super) name: String,
    pub(super) rng: ChaCha20Rng,
    pub(super) addresses: Vec<Address>,
    pub(super) lanes: [LaneState; Lane::ALL.len()],
    pub(super) incarnation: Option<u64>,
    pub(super) events: VecDeque<PeerEvent>,
    pub(super) datagrams: VecDeque<Vec<u8>>,
    pub(super) counters: PeerCounters,
    /// No more dials.
    pub(super) stopped: bool,
    version: u8,
    epoch: u64,
    /// The last epoch in which a connection served a lane.
    served_epoch: Option<u64>,
    /// What came before this node last gave the peer up.
    former: Former,
    former_lives: VecDeque<u64>,
    dials: u64,
    round_trip_us: Option<Micros>,
    /// What the node was last told of the peer.
    told: Told,
    /// Since when no line serves the control lane well.
    unserved_since: Option<Micros>,
    /// The address that was last dialled with success.
    reached_at: Option<Address>,
    /// What was complained of lately, and when.
    complaints: VecDeque<(String, Micros)>,
    /// The last policies that were complained of.
    policies: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Nothing,
    Up,
    Lost(Loss),
}

pub(super) struct LaneState {
    pub(super) sender: Sender,
    pub(super) receiver: Receiver,
    pub(super) serving: Option<LinkId>,
    /// How the line that serves, or served last, reaches the peer.
    reach: Reach,
    /// Number of the last decision.
    pub(super) decision: u64,
    /// When it was decided, until the peer shows that it knows.
    unconfirmed_since: Option<Micros>,
    dialler: Dialler,
    stuck: bool,
}

impl LaneState {
    pub(super) fn is_relayed(&self) -> bool {
        self.serving.is_some() && self.reach == Reach::Relayed
    }
}

impl Core {
    pub(super) fn new(
        now: Micros,
        local: &Arc<Local>,
        name: &str,
        addresses: Vec<Address>,
        bytes_max: u64,
        rng: ChaCha20Rng,
    ) -> Core {
        let delay = if *local.hello.node < *name { 0 } else { SECOND_DIAL_US };
        let lane = |lane: Lane| {
            let share = match lane {
                Lane::Control => bytes_max / 4,
                Lane::Data => bytes_max - bytes_max / 4,
            };
            LaneState {
                sender: Sender::new(usize::try_from(share).unwrap_or(usize::MAX)),
                receiver: Receiver::default(),
                serving: None,
                reach: Reach::Direct,
                decision: 0,
                unconfirmed_since: None,
                dialler: Dialler::starting(now + delay),
                stuck: false,
            }
        };
        Core {
            local: Arc::clone(local),
            name: name.to_owned(),
            rng,
            addresses,
            lanes: Lane::ALL.map(lane),
            incarnation: None,
            events: VecDeque::new(),
            datagrams: VecDeque::new(),
            counters: PeerCounters::default(),
            stopped: false,
            version: 0,
            epoch: 0,
            served_epoch: None,
            former: Former::default(),
            former_lives: VecDeque::new(),
            dials: 0,
            round_trip_us: None,
            told: Told::Nothing,
            unserved_since: Some(now),
            reached_at: None,
            complaints: VecDeque::new(),
            policies: None,
        }
    }

    /// This node decides which connection serves.
    fn decides(&self) -> bool {
        self.local.hello.node < self.name
    }

    pub(super) fn push(&mut self, event: PeerEvent) {
        self.events.push_back(event);
    }

    pub(super) fn log(&mut self, level: Level, text: String) {
        let text = format!("peer {}: {text}", self.name);
        self.push(PeerEvent::Log(level, text));
    }

    pub(super) fn want(&mut self, state: &mut LineState) {
        if !state.wanted && state.phase != Phase::Closing {
            state.wanted = true;
            self.push(PeerEvent::WantsOutput(state.link));
        }
    }

    // --- Connections come and go.

    /// The other side of a line said who it is.
    pub(super) fn meet(
        &mut self,
        now: Micros,
        state: &mut LineState,
        side: Side,
        hello: &Hello,
        plain: bool,
    ) -> Result<(), MeshError> {
        if hello.node != self.name {
            return Err(MeshError::OtherNode(hello.node.clone()));
        }
        if self.former_lives.contains(&hello.incarnation) {
            return Err(MeshError::FormerLife);
        }
        let former = self.incarnation.replace(hello.incarnation);
        if let Some(former) = former.filter(|former| *former != hello.incarnation) {
            self.former_lives.push_back(former);
            while self.former_lives.len() > FORMER_MAX {
                self.former_lives.pop_front();
            }
            (self.epoch, self.served_epoch, self.former) = (0, None, Former::default());
            for lane in &mut self.lanes {
                lane.decision = 0;
            }
            self.anew(now, AnewCause::NewIncarnation);
        }
        self.version = self
            .local
            .hello
            .common_version(hello)
            .unwrap_or(*hello.versions.start());
        self.learn_addresses(&hello.addresses);
        self.compare_policies(hello);
        if let Some(address) = state
            .dial
            .take()
            .and_then(|dial| self.lanes[state.lane.index()].dialler.finished(dial))
        {
            state.was_dialled = true;
            match state.reach {
                Reach::Direct => self.reached_at = Some(address),
                Reach::Relayed => self.dial_again_later(now, state.lane),
            }
        }
        if plain && former.is_none() {
            self.log(
                Level::Warning,
                "what goes to it is not encrypted, as both sides' <plain> says".into(),
            );
        }
        // What the line's dialler knew of a former life counts for nothing.
        if side == Side::Accepted || state.incarnation != Some(hello.incarnation) {
            state.knows = 0;
            state.incarnation = Some(hello.incarnation);
        }
        state.phase = Phase::Joining { since: now };
        state.epoch = self.epoch;
        state.heard_at = now;
        let credit = self.lanes[state.lane.index()].receiver.tell();
        state.push(&Frame::Join {
            epoch: self.epoch,
            knows: state.knows,
            credit,
            former: self.former,
        });
        self.want(state);
        Ok(())
    }

    fn compare_policies(&mut self, hello: &Hello) {
        let differs = hello.policies != self.local.hello.policies;
        if differs && self.policies != Some(hello.policies) {
            let text = "its settings for placement, exits or names differ from this node's: compare the digest lines of \
                        'jidmesh check' on both machines";
            self.push(PeerEvent::Alarm(format!("peer {}: {text}", self.name)));
        }
        self.policies = Some(hello.policies);
    }

    pub(super) fn learn_addresses(&mut self, addresses: &[Address]) {
        for address in addresses {
            if self.addresses.len() < ADDRESSES_MAX && !self.addresses.contains(address) {
                self.addresses.push(address.clone());
            }
        }
    }

    /// A connection ended with an error on this side.
    pub(super) fn line_failed(&mut self, now: Micros, state: &LineState, side: Side, error: &MeshError) {
        self.counters.errors += 1;
        let place = match (side, state.phase) {
            (Side::Dialled, Phase::Greeting) => "dialling it",
            _ => "a connection from it",
        };
        self.complain(now, format!("{place}: {error}"), error.is_lasting());
        self.dial_failed_later(now, state);
    }

    fn complain(&mut self, now: Micros, text: String, lasting: bool) {
        self.complaints.retain(|(_, at)| now < at + COMPLAINT_US);
        if self.complaints.iter().any(|(said, _)| *said == text) {
            return;
        }
        if self.complaints.len() == COMPLAINTS_MAX {
            self.complaints.pop_front();
        }
        self.complaints.push_back((text.clone(), now));
        if lasting {
            self.push(PeerEvent::Alarm(format!("peer {}: {text}", self.name)));
        } else {
            self.log(Level::Warning, text);
        }
    }

    /// A link was closed.
    pub(super) fn line_closed(&mut self, now: Micros, state: &LineState, cause: &CloseCause) {
        if state.phase == Phase::Closing {
            return;
        }
        let text = match cause {
            CloseCause::Eof => "it closed the connection",
            CloseCause::Reset | CloseCause::Refused => "the connection was reset",
            CloseCause::Error(text) => text,
            CloseCause::Local => "the connection was closed here",
        };
        let lane = state.lane.word();
        self.log(Level::Info, format!("{lane} lane: {text}"));
        self.forget(state);
        if state.is_serving() {
            self.need_dial(now, state.lane);
            return;
        }
        self.dial_failed_later(now, state);
        if state.phase == Phase::Greeting && matches!(cause, CloseCause::Eof | CloseCause::Reset) {
            self.answered_without_process(now, None);
        }
    }

    /// The way of one lane is open: what the others dialled in vain so far need not be waited for.
    fn dial_others(&mut self, now: Micros, reached: Lane) {
        let delay = if self.decides() { 0 } else { SECOND_DIAL_US };
        for lane in Lane::ALL.into_iter().filter(|lane| *lane != reached) {
            let state = &mut self.lanes[lane.index()];
            if state.serving.is_none() || state.stuck || state.is_relayed() {
                state.dialler.abandon(now, delay);
            }
        }
    }

    /// A served lane is not served any more.
    fn need_dial(&mut self, now: Micros, lane: Lane) {
        let delay = if self.decides() { 0 } else { SECOND_DIAL_US };
        self.lanes[lane.index()].dialler.needed(now, delay);
    }

    /// The line serves no more, if it did.
    pub(super) fn forget(&mut self, state: &LineState) {
        let lane = &mut self.lanes[state.lane.index()];
        if lane.serving == Some(state.link) {
            lane.serving = None;
            lane.sender.interrupt();
            if state.lane == Lane::Control {
                self.datagrams.clear();
            }
        }
    }

    /// Why a line must be closed now, if it must.
    pub(super) fn verdict(&self, state: &LineState) -> Option<Reason> {
        let serving = self.lanes[state.lane.index()].serving;
        match state.phase {
            Phase::Closing | Phase::Greeting => None,
            _ if state.doomed.is_some() => state.doomed,
            _ if state.incarnation != self.incarnation => Some(Reason::FormerLife),
            Phase::Serving if serving != Some(state.link) => Some(Reason::Superseded),
            _ if state.epoch != self.epoch => Some(Reason::Anew),
            _ => None,
        }
    }

    // --- What the peer says.

    /// One record came over a line.
    pub(super) fn record(&mut self, now: Micros, state: &mut LineState, plaintext: &[u8]) -> Result<(), MeshError> {
        state.heard_at = now;
        self.lanes.iter_mut().for_each(|lane| lane.sender.heard(now));
        for frame in Frames::new(plaintext) {
            self.frame(now, state, frame?)?;
        }
        Ok(())
    }

    fn frame(&mut self, now: Micros, state: &mut LineState, frame: Frame<'_>) -> Result<(), MeshError> {
        if state.phase == Phase::Closing {
            return Ok(());
        }
        match frame {
            Frame::Data { offset, bytes } if state.is_serving() => {
                let control_given = self.lanes[Lane::Control.index()].receiver.messages();
                let lane = &mut self.lanes[state.lane.index()];
                self.counters.bytes_repeated += lane.receiver.received(offset, bytes)? as u64;
                lane.receiver.look_ahead(control_given);
                Ok(())
            }
            Frame::Ack { credit, arrived } if state.is_serving() => {
                self.confirm(state);
                let sender = &mut self.lanes[state.lane.index()].sender;
                sender.has_arrived(now, arrived);
                sender.acknowledged(now, credit)
            }
            Frame::Datagram(bytes) if state.is_serving() && state.lane == Lane::Control => {
                self.push(PeerEvent::Datagram(bytes.to_vec()));
                Ok(())
            }
            Frame::Join {
                epoch,
                knows,
                credit,
                former,
            } => {
                if former.epoch == self.epoch && epoch > self.epoch {
                    for (lane, received) in self.lanes.iter_mut().zip(former.received) {
                        lane.sender.was_given_up(now, received)?;
                    }
                }
                self.join(now, state, epoch, knows, credit)
            }
            Frame::Take {
                epoch,
                decision,
                credit,
            } => self.obey(now, state, epoch, decision, credit),
            // Whoever asks without reading the answers gets no more of them.
            Frame::Ping { .. } if state.urgent.len() > URGENT_BYTES_MAX => Ok(()),
            Frame::Ping { token } => {
                state.push(&Frame::Pong { token });
                self.want(state);
                Ok(())
            }
            Frame::Pong { token } => {
                if let Some(sample) = state.answered(now, token) {
                    let old = self.round_trip_us.unwrap_or(sample);
                    self.round_trip_us = Some((7 * old + sample) / 8);
                }
                Ok(())
            }
            Frame::Bye { reason, text } => {
                self.bye(now, state, reason, text);
                Ok(())
            }
            Frame::Data { .. } | Frame::Ack { .. } | Frame::Datagram(_) => {
                Err(MeshError::Malformed("a frame on a connection that serves no lane"))
            }
        }
    }

    /// The peer's first frame on a line. The deciding node decides here.
    fn join(
        &mut self,
        now: Micros,
        state: &mut LineState,
        epoch: u64,
        knows: u64,
        mut credit: Credit,
    ) -> Result<(), MeshError> {
        if !matches!(state.phase, Phase::Joining { .. }) {
            return Err(MeshError::Malformed("a second join"));
        }
        self.follow_epoch(now, state, epoch);
        if !self.decides() {
            return Ok(());
        }
        if epoch < self.epoch {
            // It does not know yet that it was given up: it will start anew when it hears so.
            credit = Credit {
                received: 0,
                limit: INITIAL_CREDIT_BYTES,
            };
        }
        let knows = knows.max(state.knows);
        if !self.wants_replacement(now, state.lane, knows) {
            state.doomed = Some(Reason::Superseded);
            return Ok(());
        }
        let lane = &mut self.lanes[state.lane.index()];
        lane.decision += 1;
        let decision = lane.decision;
        let own = lane.receiver.tell();
        self.serve(now, state, credit)?;
        state.push(&Frame::Take {
            epoch: self.epoch,
            decision,
            credit: own,
        });
        self.want(state);
        Ok(())
    }

    /// Whether a connection whose dialler knew decision `knows` shall serve the lane.
    fn wants_replacement(&self, now: Micros, lane: Lane, knows: u64) -> bool {
        let lane = &self.lanes[lane.index()];
        let unconfirmed = lane
            .unconfirmed_since
            .is_some_and(|since| now >= since + UNCONFIRMED_US);
        lane.serving.is_none() || knows >= lane.decision || unconfirmed
    }

    /// The deciding node's word that this line serves.
    fn obey(
        &mut self,
        now: Micros,
        state: &mut LineState,
        epoch: u64,
        decision: u64,
        credit: Credit,
    ) -> Result<(), MeshError> {
        if self.decides() || !matches!(state.phase, Phase::Joining { .. }) || epoch < self.epoch {
            return Err(MeshError::Malformed("a decision that was not the peer's"));
        }
        self.follow_epoch(now, state, epoch);
        let lane = &mut self.lanes[state.lane.index()];
        if decision <= lane.decision {
            state.doomed = Some(Reason::Superseded);
            return Ok(());
        }
        lane.decision = decision;
        let own = lane.receiver.tell();
        self.serve(now, state, credit)?;
        self.confirm(state);
        let arrived = own.received;
        state.push(&Frame::Ack { credit: own, arrived });
        self.want(state);
        Ok(())
    }

    /// The peer's epoch is a higher one: it had given this node up.
    fn follow_epoch(&mut self, now: Micros, state: &mut LineState, epoch: u64) {
        if epoch > self.epoch {
            self.epoch = epoch;
            self.anew(now, AnewCause::DeclaredDead);
        }
        state.epoch = self.epoch;
    }

    /// From now on this line serves its lane.
    fn serve(&mut self, now: Micros, state: &mut LineState, credit: Credit) -> Result<(), MeshError> {
        let lane = &mut self.lanes[state.lane.index()];
        self.served_epoch = Some(self.epoch);
        lane.serving = Some(state.link);
        let reach = std::mem::replace(&mut lane.reach, state.reach);
        lane.unconfirmed_since = Some(now);
        lane.stuck = false;
        lane.sender.resume(now, credit)?;
        state.phase = Phase::Serving;
        state.asked_at = None;
        self.counters.connections += 1;
        if state.reach == Reach::Direct {
            self.dial_others(now, state.lane);
        }
        if state.lane == Lane::Control {
            match (reach, state.reach) {
                (Reach::Direct, Reach::Relayed) => self.log(Level::Warning, "reached through another node only".into()),
                (Reach::Relayed, Reach::Direct) => self.log(Level::Notice, "reached directly again".into()),
                _ => {}
            }
            self.reached();
        }
        Ok(())
    }

    fn confirm(&mut self, state: &LineState) {
        self.lanes[state.lane.index()].unconfirmed_since = None;
    }

    fn reached(&mut self) {
        self.unserved_since = None;
        if self.told != Told::Up {
            self.told = Told::Up;
            let (incarnation, version) = (self.incarnation.unwrap_or_default(), self.version);
            self.push(PeerEvent::Up { incarnation, version });
            self.log(Level::Notice, format!("connected, version {version}"));
        }
    }

    fn bye(&mut self, now: Micros, state: &mut LineState, reason: Reason, text: &str) {
        let details = if text.is_empty() {
            String::new()
        } else {
            format!(" ({text})")
        };
        match reason {
            Reason::Superseded => {}
            Reason::Leaving => self.lose(Loss::Left),
            Reason::Restarting => self.lose(Loss::Restarting),
            Reason::Anew => self.log(Level::Notice, reason.text()),
            _ => self.complain(now, format!("it said: {}{details}", reason.text()), false),
        }
        if reason == Reason::Superseded {
            self.lanes[state.lane.index()].dialler.needed(now, 2 * SECOND_DIAL_US);
        } else {
            self.dial_failed_later(now, state);
        }
        state.doomed = Some(Reason::Superseded);
    }

    // --- Streams.

    /// The lanes of both directions start anew.
    fn anew(&mut self, now: Micros, cause: AnewCause) {
        let unacknowledged = self.restart(now);
        let incarnation = self.incarnation.unwrap_or_default();
        self.push(PeerEvent::Anew {
            cause,
            incarnation,
            unacknowledged,
        });
        if self.told == Told::Up {
            self.told = Told::Nothing;
        }
    }

    fn restart(&mut self, now: Micros) -> [Unacknowledged; Lane::ALL.len()] {
        self.datagrams.clear();
        Lane::ALL.iter().for_each(|lane| self.need_dial(now, *lane));
        for lane in &mut self.lanes {
            lane.receiver = Receiver::default();
            lane.serving = None;
            lane.stuck = false;
        }
        self.lanes.each_mut().map(|lane| lane.sender.restart())
    }

    pub(super) fn declare_dead(&mut self, now: Micros) -> [Unacknowledged; Lane::ALL.len()] {
        self.next_epoch();
        self.told = Told::Nothing;
        self.restart(now)
    }

    /// What was received so far is all that will have been.
    fn next_epoch(&mut self) {
        if self.served_epoch == Some(self.epoch) {
            self.former = Former {
                epoch: self.epoch,
                received: self.lanes.each_ref().map(|lane| lane.receiver.credit().received),
            };
        }
        self.epoch += 1;
    }

    pub(super) fn send(&mut self, lane: Lane, parts: &[&[u8]]) -> Result<(), Full> {
        let after = match lane {
            Lane::Control => 0,
            Lane::Data => self.lanes[Lane::Control.index()].sender.messages(),
        };
        let result = self.lanes[lane.index()].sender.send(after, parts);
        match result {
            Ok(()) => self.counters.messages_sent += 1,
            Err(Full) => self.counters.messages_refused += 1,
        }
        result
    }

    pub(super) fn next_message(&mut self, now: Micros, lane: Lane) -> Option<Range<usize>> {
        let control_given = self.lanes[Lane::Control.index()].receiver.messages();
        let state = &mut self.lanes[lane.index()];
        match state.receiver.next(control_given) {
            Ok(found) => {
                self.counters.messages_received += u64::from(found.is_some());
                found
            }
            Err(error) => {
                // The stream itself is broken, and no connection mends it. Only a faulty peer does this.
                self.push(PeerEvent::Alarm(format!("peer {}: {error}", self.name)));
                self.next_epoch();
                self.anew(now, AnewCause::Broken);
                None
            }
        }
    }

    /// The next record's frames for a line.
    pub(super) fn put_frames(&mut self, now: Micros, state: &mut LineState, out: &mut Vec<u8>) {
        out.append(&mut state.urgent);
        if !state.is_serving() {
            return;
        }
        let doubt_us = self.doubt_us();
        let lane = &mut self.lanes[state.lane.index()];
        if lane.receiver.has_news() {
            let (credit, arrived) = (lane.receiver.tell(), lane.receiver.arrived());
            super::put_frame(out, &Frame::Ack { credit, arrived });
        }
        while state.lane == Lane::Control
            && let Some(datagram) = self.datagrams.front()
            && out.len() + datagram.len() + 16 < PLAINTEXT_BYTES_MAX
        {
            super::put_frame(out, &Frame::Datagram(datagram));
            self.datagrams.pop_front();
        }
        let room = PLAINTEXT_BYTES_MAX - out.len();
        if lane.sender.may_send(now, doubt_us) && room > 2 * DATA_HEAD_BYTES_MAX {
            lane.sender.put_data(now, room, out);
        }
    }

    /// For so long a peer that lives may owe its answer.
    fn doubt_us(&self) -> Micros {
        DOUBT_US + 2 * self.round_trip_us.unwrap_or(0)
    }

    pub(super) fn has_frames(&self, now: Micros, state: &LineState) -> bool {
        let lane = &self.lanes[state.lane.index()];
        let serving = state.is_serving()
            && (lane.sender.may_send(now, self.doubt_us())
                || (state.lane == Lane::Control && !self.datagrams.is_empty()));
        serving || !state.urgent.is_empty()
    }

    /// Whether the line has something to say that should not wait.
    pub(super) fn is_pressing(&self, now: Micros, state: &LineState) -> bool {
        let news = state.is_serving() && self.lanes[state.lane.index()].receiver.has_news();
        news || (state.phase != Phase::Greeting && self.has_frames(now, state))
    }

    // --- Dials, and the peer's state.

    pub(super) fn lane_of(&self, dial: DialId) -> Option<Lane> {
        Lane::ALL
            .into_iter()
            .find(|lane| self.lanes[lane.index()].dialler.is(dial))
    }

    /// A relay is for when all addresses failed.
    pub(super) fn wants_relay(&self, dial: DialId) -> Option<Lane> {
        self.lane_of(dial).filter(|lane| {
            let state = &self.lanes[lane.index()];
            let served = state.serving.is_some() && !state.stuck;
            !self.stopped && !served && state.dialler.ends_round(self.addresses.len())
        })
    }

    pub(super) fn dial_failed(&mut self, now: Micros, dial: DialId, failure: &DialFailure) {
        let Some(lane) = self.lane_of(dial) else { return };
        let addresses = self.addresses.len();
        let dialler = &mut self.lanes[lane.index()].dialler;
        let Some(address) = dialler.finished(dial) else { return };
        dialler.failed(now, addresses, &mut self.rng);
        match failure {
            DialFailure::Refused => self.answered_without_process(now, Some(&address)),
            DialFailure::Silent => {}
            DialFailure::Other(text) => self.complain(now, format!("dialling {address}: {text}"), false),
        }
    }

    /// A connection came to nothing: if it was dialled here, the next dial waits longer.
    fn dial_failed_later(&mut self, now: Micros, state: &LineState) {
        let dialler = &mut self.lanes[state.lane.index()].dialler;
        let greeting = state.dial.and_then(|dial| dialler.finished(dial)).is_some();
        if greeting || state.was_dialled {
            self.dial_again_later(now, state.lane);
        }
    }

    fn dial_again_later(&mut self, now: Micros, lane: Lane) {
        let addresses = self.addresses.len();
        self.lanes[lane.index()].dialler.failed(now, addresses, &mut self.rng);
    }

    /// The peer's machine answered, and its process did not.
    fn answered_without_process(&mut self, now: Micros, address: Option<&Address>) {
        let known = match (address, &self.reached_at) {
            (Some(address), Some(reached_at)) => address == reached_at,
            _ => true,
        };
        let unserved = self.unserved_since.is_some_and(|since| now >= since);
        if known && unserved && matches!(self.told, Told::Up | Told::Lost(Loss::Silent)) {
            self.lose(Loss::Process);
        }
    }

    fn lose(&mut self, loss: Loss) {
        if self.told == Told::Lost(loss) || self.told == Told::Nothing {
            return;
        }
        self.told = Told::Lost(loss);
        let text = match loss {
            Loss::Process => "its process is gone, its machine answers",
            Loss::Silent => "silent",
            Loss::Left => "it stops",
            Loss::Restarting => "it restarts",
        };
        self.log(Level::Notice, format!("lost: {text}"));
        self.push(PeerEvent::Lost(loss));
    }

    /// Looks whether the serving lines are alive.
    pub(super) fn watch(&mut self, now: Micros, lines: &[Line]) {
        for lane in Lane::ALL {
            let serving = self.lanes[lane.index()].serving;
            let line = lines.iter().find(|line| Some(line.state.link) == serving);
            let stuck = line.is_some_and(|line| self.stalls_at(&line.state).is_some_and(|at| now >= at));
            let state = &mut self.lanes[lane.index()];
            if stuck && !state.stuck {
                state.dialler.needed(now, 0);
                self.log(
                    Level::Notice,
                    format!("{} lane: nothing comes back, dialling anew", lane.word()),
                );
            }
            self.lanes[lane.index()].stuck = stuck;
        }
        let control = &self.lanes[Lane::Control.index()];
        if control.serving.is_some() && !control.stuck {
            self.unserved_since = None;
            if matches!(self.told, Told::Lost(Loss::Silent | Loss::Process)) {
                self.reached();
            }
        } else {
            let waited = if control.stuck { STALL_US } else { 0 };
            let since = *self.unserved_since.get_or_insert(now.saturating_sub(waited));
            if now >= since + LOST_US && self.told == Told::Up {
                self.lose(Loss::Silent);
            }
        }
    }

    /// When a serving line counts as stuck, if nothing comes back over it.
    pub(super) fn stalls_at(&self, state: &LineState) -> Option<Micros> {
        if !state.is_serving() {
            return None;
        }
        let bytes = self.lanes[state.lane.index()].sender.waits_since();
        let waits_since = [bytes, state.waits_since()].into_iter().flatten().min()?;
        Some(waits_since + STALL_US)
    }

    /// When something is to be done about a line, dials aside.
    pub(super) fn line_deadline(&self, line: &Line) -> Option<Micros> {
        let state = &line.state;
        let lane = &self.lanes[state.lane.index()];
        let stalls = self.stalls_at(state).filter(|_| !lane.stuck);
        [state.deadline(&line.conn), stalls].into_iter().flatten().min()
    }

    /// Dials each lane that needs it.
    pub(super) fn dial(&mut self, now: Micros, lines: &[Line]) {
        for lane in Lane::ALL {
            if !self.needs_dial(lane, lines) {
                continue;
            }
            let addresses = self.addresses.len();
            let dialler = &mut self.lanes[lane.index()].dialler;
            if dialler.forget(now) {
                dialler.failed(now, addresses, &mut self.rng);
            }
            self.dials += 1;
            let dial = DialId(self.dials);
            if let Some(address) = dialler.start(now, dial, &self.addresses) {
                self.counters.dials += 1;
                self.push(PeerEvent::Dial { dial, address });
            }
        }
    }

    /// Nothing serves the lane well, and no connection for it is on its way.
    fn needs_dial(&self, lane: Lane, lines: &[Line]) -> bool {
        let state = &self.lanes[lane.index()];
        let served = state.serving.is_some() && !state.stuck && !state.is_relayed();
        let coming = |line: &Line| {
            line.state.lane == lane && matches!(line.state.phase, Phase::Greeting | Phase::Joining { .. })
        };
        !self.stopped && !served && !lines.iter().any(coming)
    }

    pub(super) fn deadline(&self, lines: &[Line]) -> Option<Micros> {
        let lost = self
            .unserved_since
            .filter(|_| self.told == Told::Up)
            .map(|since| since + LOST_US);
        let lanes = Lane::ALL.into_iter().filter_map(|lane| {
            let state = &self.lanes[lane.index()];
            (self.needs_dial(lane, lines) && !self.addresses.is_empty())
                .then(|| state.dialler.ready_at().or_else(|| state.dialler.forgets_at()))
                .flatten()
        });
        lanes.chain(lost).min()
    }

    pub(super) fn is_up(&self) -> bool {
        self.told == Told::Up
    }

    pub(super) fn status(&self, side: impl Fn(LinkId) -> Option<Side>) -> PeerStatus {
        let lanes = self.lanes.each_ref().map(|lane| LaneStatus {
            served_by: lane.serving.and_then(&side),
            relayed: lane.serving.filter(|_| lane.is_relayed()),
            stuck: lane.stuck,
            queued_bytes: lane.sender.queued_bytes() as u64,
            in_flight_bytes: lane.sender.in_flight_bytes(),
            credit_bytes: lane.sender.credit_bytes(),
            out_of_credit: lane.sender.is_out_of_credit(),
            waiting_bytes: lane.receiver.waiting_bytes() as u64,
        });
        PeerStatus {
            name: self.name.clone(),
            incarnation: self.incarnation,
            version: self.incarnation.map(|_| self.version),
            up: self.is_up(),
            round_trip_us: self.round_trip_us,
            lanes,
            counters: self.counters,
        }
    }
}
