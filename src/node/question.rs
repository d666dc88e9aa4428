//! Asking components what they still hold: whether one that came back is the same process, and which of its sessions
//! are left; and about sessions whose clients never sent anything.
//!
//! * sm: an iq in a session is answered with a result if sm holds the session, and given back as failed if not.
//! * c2s: `started` with a bogus sm-side id is answered with `end`: to the domain if the number is unknown, to the sm of
//!   the client who has the number otherwise; and not at all if that client waits for his own `started`.

use super::api::{Level, Micros};
use super::counters::Counter;
use super::grace::{session_end, session_payload};
use super::lane::{Message, Sampled, SessionKey};
use super::placement::domain_of;
use super::seat::{Life, Seat};
use super::{Shard, TICK_US};
use crate::table::image::frames;
use crate::table::users::Session;
use crate::table::{SeatId, SeatKind, ShardId, Token};
use crate::wire::header::{self, Frame, Payload};
use crate::wire::{NS_CLIENT, NS_SESSION, edit};
use rand_core::RngCore;
use serde::{Deserialize, Serialize};

/// Ids of questions. No component makes such ids.
pub(super) const QUESTION_PREFIX: &[u8] = b"jidmesh-ask-";

/// How long a component that came back may take to answer, microseconds.
const ASK_US: Micros = 10_000_000;

/// A session whose client has sent nothing for so long may be a ghost: its c2s is asked. Microseconds.
pub(super) const GHOST_US: Micros = 60_000_000;

/// A component that came back binds the names it had within this time, or gives them up. Microseconds.
const CLAIM_US: Micros = 5_000_000;

/// Sessions that a component which came back is asked about: one that is left proves it the same process.
const SURE_MAX: usize = 8;

/// Sessions of one shard that an sm which came back is asked about because it may have replaced them.
const DOUBTFUL_MAX: usize = 1_024;

/// Most sessions that one c2s is asked about at a time.
const ASKED_MAX: usize = 256;

/// A client's number that no c2s has: the answer to a question about it says that those before it are dealt with.
const NO_NUMBER: u32 = u32::MAX;

/// A component that came back is being asked whether it is the process that it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Inquiry {
    /// When the lack of an answer is an answer.
    pub(super) until: Micros,
    /// Shards whose samples are still missing before an sm can be asked.
    samples_missing: u16,
    samples: Vec<Sampled>,
    /// Sessions that the same process holds, by sm-side id (sm) or question (c2s), until they are denied.
    left: Vec<Token>,
    /// The question behind them all (c2s).
    last: Option<Token>,
    /// Questions that sm was asked.
    asked: usize,
    /// What sm gave back of its sessions.
    #[serde(with = "frames")]
    given_back: Vec<Box<[u8]>>,
}

/// A question to a c2s about one session.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Question {
    id: Token,
    at: Micros,
    /// Its number and sm-side id; `None`: of no client, to learn that the questions before are dealt with.
    session: Option<(u32, Token)>,
}

impl Seat {
    /// When something is to be asked, or to be asked again.
    pub(super) fn questions_due(&self) -> Option<Micros> {
        let unproven = self.unproven.front().map(|(at, ..)| at + GHOST_US);
        let asked = self.asked.front().map(|question| question.at + ASK_US);
        unproven.into_iter().chain(asked).min()
    }
}

impl Shard {
    /// A lost seat has a link again. Its first bind is answered; before its queue is released it is asked whether it is
    /// the process that it was.
    pub(super) fn came_back(&mut self, now: Micros, seat: SeatId) {
        self.count(Counter::LinksReturned);
        let Some(state) = self.seats.get_mut(seat) else { return };
        state.returns += 1;
        let own = state.names.iter().skip(1);
        // An alias goes with its target.
        let unclaimed = own.filter(|name| self.names.alias_target(name).is_none());
        state.unclaimed = Some((now + CLAIM_US, unclaimed.cloned().collect()));
        state.asked.clear();
        let (name, remote, kind, held) = (state.id.clone(), state.remote, state.kind, state.clients.some(SURE_MAX));
        let inquiry = Box::new(Inquiry {
            until: now + ASK_US,
            samples_missing: self.shards,
            samples: Vec::new(),
            left: Vec::new(),
            last: None,
            asked: 0,
            given_back: Vec::new(),
        });
        match kind {
            SeatKind::Sm => {
                state.life = Life::Asking(inquiry);
                let home = self.id;
                self.tell_all(now, &Message::Sample { sm: seat, home });
            }
            SeatKind::C2s if !held.is_empty() => {
                state.life = Life::Asking(inquiry);
                let left = held
                    .into_iter()
                    .filter_map(|session| self.ask_c2s(now, seat, Some(session)))
                    .collect();
                let last = self.ask_c2s(now, seat, None);
                if let Some(Life::Asking(inquiry)) = self.seats.get_mut(seat).map(|state| &mut state.life) {
                    (inquiry.left, inquiry.last) = (left, last);
                }
            }
            _ => self.proved_alive(now, seat),
        }
        self.log(Level::Notice, Some(remote), format!("[{name}] is back"));
        self.wake_by(now + TICK_US);
    }

    /// The component is the process that it was, or holds nothing that could tell.
    fn proved_alive(&mut self, now: Micros, seat: SeatId) {
        let Some(state) = self.seats.get_mut(seat) else { return };
        let given_back = match std::mem::replace(&mut state.life, Life::Live) {
            Life::Asking(inquiry) => inquiry.given_back,
            _ => Vec::new(),
        };
        // Any `end` of its clients may have been inside the broken link.
        let held = state.clients.iter_mut().filter(|(_, client)| !client.ending);
        let held = held.map(|(number, client)| {
            client.doubted = true;
            (number, client.token)
        });
        let asked = |session: &(u32, Token)| state.asked.iter().any(|question| question.session == Some(*session));
        state.doubts = held.filter(|session| !asked(session)).collect();
        self.recall_all(now, seat);
        self.release_queue(seat);
        for frame in given_back {
            if let Ok(Frame::Route(route)) = header::read(&frame) {
                self.route_again(now, seat, &frame, &route);
            }
        }
    }

    fn is_restarted(&mut self, now: Micros, seat: SeatId) {
        let Some(state) = self.seats.get(seat) else { return };
        let (name, remote) = (state.id.clone(), state.remote);
        self.count(Counter::LinksLost);
        let text = format!("[{name}] was restarted: its sessions are ended");
        self.log(Level::Warning, Some(remote), text);
        self.tell_all(now, &Message::Restarted { seat });
    }

    /// Every shard: an sm lost its link. Whatever comes for it from now on waits, so the same process will still hold
    /// what it holds now.
    pub(super) fn note_held(&mut self, sm: SeatId) {
        let (sure, _) = self.users.sessions_at(sm, SURE_MAX, 0);
        let held = sure.into_iter().filter(|session| !self.is_deserted(session));
        let held: Vec<SessionKey> = held.map(SessionKey::of).collect();
        self.held_at_loss.insert(sm, held);
    }

    /// Every shard: does an sm that came back still hold what it held?
    pub(super) fn sample(&mut self, now: Micros, sm: SeatId, home: ShardId) {
        let (sure, doubtful) = self.users.sessions_at(sm, SURE_MAX, DOUBTFUL_MAX);
        let sampled = |key, sure, left| Sampled { key, sure, left };
        let of = |session, sure| {
            let left = self.is_deserted(session);
            sampled(SessionKey::of(session), sure && !left, left)
        };
        let sure = sure.into_iter().map(|session| of(session, true));
        let doubtful = doubtful.into_iter().map(|session| of(session, false));
        let mut samples: Vec<Sampled> = sure.chain(doubtful).collect();
        samples.extend(self.sample_orphans(sm, DOUBTFUL_MAX));
        for key in self.held_at_loss.remove(&sm).unwrap_or_default() {
            match samples.iter_mut().find(|sample| sample.key == key) {
                Some(sample) => sample.sure = true,
                None => samples.push(sampled(key, true, true)),
            }
        }
        self.tell(now, home, Message::SampleAnswer { sm, samples });
    }

    /// Its c2s is lost, which its sm may know already; what is left of that one is being wound up.
    fn is_deserted(&self, session: &Session) -> bool {
        self.names.seat(session.c2s).is_none() || self.returning.iter().any(|(_, of)| *of == session.c2s)
    }

    /// The sm's home: one shard's samples. With those of all shards, sm is asked.
    pub(super) fn sampled(&mut self, now: Micros, sm: SeatId, samples: Vec<Sampled>) {
        let Some(state) = self.seats.get_mut(sm) else { return };
        let Life::Asking(inquiry) = &mut state.life else { return };
        if inquiry.samples_missing == 0 {
            return;
        }
        inquiry.samples_missing -= 1;
        for sample in samples {
            // What one shard holds another one may remember.
            match inquiry.samples.iter_mut().find(|known| known.key == sample.key) {
                Some(known) => known.sure |= sample.sure,
                None => inquiry.samples.push(sample),
            }
        }
        if inquiry.samples_missing > 0 {
            return;
        }
        let asked = std::mem::take(&mut inquiry.samples);
        inquiry.asked = asked.len();
        inquiry.left = asked
            .iter()
            .filter(|sample| sample.sure)
            .map(|sample| sample.key.token)
            .collect();
        // Users choose the ids of their own iqs, and sm hands those on: they must not guess this one.
        let question = Token::new(format!("jidmesh-ask-{:016x}", self.rng.next_u64()).as_bytes());
        state.question = question;
        let (Some(question), false) = (question, asked.is_empty()) else {
            return self.proved_alive(now, sm);
        };
        let (name, count) = (state.id.clone(), asked.len());
        for Sampled { key, left, .. } in asked {
            // sm gives back to whoever asks.
            let c2s = self.names.seat(key.c2s).filter(|_| !left);
            let from = c2s.map_or_else(|| self.names.own().into(), |view| view.id.clone());
            self.ask_link(sm, &name, &from, &ping_in_session(&key, &question));
        }
        self.log(
            Level::Info,
            None,
            format!("[{name}] is asked about {count} of its sessions"),
        );
    }

    /// An sm answers an iq with an id of jidmesh's. True when it ends here.
    pub(super) fn sm_answered(&mut self, now: Micros, sm: SeatId, frame: &[u8], payload: &Payload<'_>) -> bool {
        let Some(state) = self.seats.get_mut(sm) else {
            return false;
        };
        if state
            .question
            .is_none_or(|question| payload.id.is_none_or(|id| id.0 != question.as_bytes()))
        {
            return false;
        }
        let Life::Asking(inquiry) = &mut state.life else {
            // A session that is gone is given back to its c2s.
            return !payload.failed;
        };
        if !payload.failed {
            self.proved_alive(now, sm);
            return true;
        }
        let denied = payload.sm.and_then(super::observe::token);
        let before = inquiry.left.len();
        inquiry
            .left
            .retain(|token| denied.is_some_and(|denied| denied != *token));
        inquiry.given_back.push(frame.into());
        if inquiry.left.is_empty() && before > 0 {
            self.is_restarted(now, sm);
        } else if inquiry.given_back.len() == inquiry.asked {
            // All may have been replaced or ended: that proves nothing.
            self.tell_all(now, &Message::OrphansUnknown { sm });
            self.proved_alive(now, sm);
        }
        true
    }

    /// Asks a c2s about a session; past the queue while that waits for the answer.
    fn ask_c2s(&mut self, now: Micros, seat: SeatId, session: Option<(u32, Token)>) -> Option<Token> {
        self.questions += 1;
        let id = Token::new(format!("jidmesh-ask-{}-{}", self.id, self.questions).as_bytes())?;
        let state = self.seats.get_mut(seat)?;
        state.asked.push_back(Question { id, at: now, session });
        let (of, token) = session.or_else(|| state.clients.some(1).pop())?;
        let client = state.clients.get(of, &token)?;
        let (sm, bare) = (client.sm, client.bare.clone());
        self.say_started(seat, session.map_or(NO_NUMBER, |(number, _)| number), &id, sm, &bare);
        Some(id)
    }

    /// `bare`: a c2s that does not know the number answers to that user's domain.
    fn say_started(&mut self, seat: SeatId, number: u32, token: &Token, sm: SeatId, bare: &str) {
        let Some(name) = self.seats.get(seat).map(|state| state.id.clone()) else {
            return;
        };
        let sm = self.names.seat(sm).map(|view| view.id.clone());
        let sm = sm.unwrap_or_else(|| self.names.own().into());
        let target = self.answers_to(seat, bare);
        let payload = session_payload("started", number, token.as_str(), Some(&target), Some("jidmesh"));
        self.ask_link(seat, &name, &sm, &payload);
    }

    /// A c2s answers a question. `known`: somebody has that number there.
    pub(super) fn c2s_answered(&mut self, now: Micros, seat: SeatId, id: &Token, known: bool) {
        let Some(state) = self.seats.get_mut(seat) else { return };
        let Some(at) = state.asked.iter().position(|question| question.id == *id) else {
            return;
        };
        // c2s is serial: whoever had the number of an earlier question waits for his own `started`. Asked again later.
        let silent: Vec<Question> = state.asked.drain(..at).collect();
        let Some(question) = state.asked.pop_front() else {
            return;
        };
        let silent = silent.into_iter().filter_map(|question| question.session);
        state
            .unproven
            .extend(silent.map(|(number, token)| (now, number, token)));
        if let Life::Asking(inquiry) = &mut state.life {
            inquiry.left.retain(|left| left != id);
            if !known && inquiry.left.is_empty() && inquiry.last != Some(*id) {
                return self.is_restarted(now, seat);
            }
            if !known && inquiry.last != Some(*id) {
                return;
            }
            // Somebody is known there, or one of those who were asked about has the number without a session.
            self.proved_alive(now, seat);
        }
        if let Some((number, token)) = question.session {
            self.client_is_known(now, seat, number, token, known);
        }
        self.ask_doubts(now, seat);
    }

    /// Whether a c2s has a client of this number; the session asked about may be another one's.
    fn client_is_known(&mut self, now: Micros, seat: SeatId, number: u32, token: Token, known: bool) {
        let Some(state) = self.seats.get_mut(seat) else { return };
        let (others, used) = (state.clients.under(number) > 1, state.clients.has_other(number, &token));
        let Some(client) = state.clients.get_mut(number, &token) else {
            return;
        };
        let doubted = std::mem::take(&mut client.doubted);
        let (recovered, sm, bare) = (client.recovered, client.sm, client.bare.clone());
        if !known || (used && !client.active) {
            return self.end_ghost(now, seat, number, token);
        }
        // Before a crash the number may have become another's, and nobody wrote it down.
        if doubted && (others || recovered) {
            // Said with its own id: c2s answers with its `end` unless it is that client's.
            self.say_started(seat, number, &token, sm, &bare);
        }
    }

    fn end_ghost(&mut self, now: Micros, seat: SeatId, number: u32, token: Token) {
        let Some(state) = self.seats.get_mut(seat) else { return };
        let name = state.id.clone();
        let Some(client) = state.clients.get_mut(number, &token).filter(|client| !client.ending) else {
            return;
        };
        client.ending = true;
        let (sm, bare) = (client.sm, client.bare.clone());
        self.count(Counter::GhostsCleared);
        let text = format!("[{name}] does not know the session of {bare} any more: ended");
        self.log(Level::Notice, None, text);
        let key = SessionKey {
            c2s: seat,
            number,
            token,
        };
        self.tell(now, self.owner(&bare), Message::Ending { bare, key });
        let Some(sm_name) = self.names.seat(sm).map(|view| view.id.clone()) else {
            return;
        };
        self.hand(now, sm, seat, &session_end(&sm_name, &name, number, &token));
    }

    /// Asks every c2s of this shard which of its clients of a domain it still has.
    pub(super) fn doubt_clients_of(&mut self, now: Micros, domain: &str) {
        let mut asked = Vec::new();
        for (seat, state) in self.seats.iter_mut().filter(|(_, state)| state.abroad.is_none()) {
            let clients = state.clients.iter_mut();
            let doubted = clients
                .filter(|(_, client)| domain_of(&client.bare) == domain)
                .map(|(number, client)| {
                    client.doubted = true;
                    (number, client.token)
                });
            state.doubts.extend(doubted);
            if !state.doubts.is_empty() {
                asked.push(seat);
            }
        }
        for seat in asked {
            self.ask_doubts(now, seat);
        }
    }

    /// Asks about doubtful sessions, as many as may be asked about at a time.
    fn ask_doubts(&mut self, now: Micros, seat: SeatId) {
        while let Some(state) = self.seats.get_mut(seat).filter(|state| state.life == Life::Live)
            && state.asked.len() < ASKED_MAX
            && let Some((number, token)) = state.doubts.pop_front()
        {
            let doubtful =
                |client: &mut crate::table::clients::Client| !client.ending && (client.doubted || !client.active);
            if state.clients.get_mut(number, &token).is_some_and(doubtful) {
                self.ask_c2s(now, seat, Some((number, token)));
            }
        }
        if self
            .seats
            .get(seat)
            .is_some_and(|state| state.life == Life::Live && state.asked.is_empty())
        {
            self.recovery_is_over(seat);
        }
        self.wake_by(now + TICK_US);
    }

    /// Sessions whose clients have sent nothing for long: does their c2s know them at all? (A client that registers
    /// in-band and logs in on the same stream leaves such a session behind, and no `end` ever comes.) And those that
    /// were asked about in vain.
    pub(super) fn ask_what_is_due(&mut self, now: Micros, seat: SeatId) {
        let Some(state) = self.seats.get_mut(seat) else { return };
        while let Some(question) = state.asked.front()
            && now >= question.at + ASK_US
        {
            let silent = question.session.map(|(number, token)| (now, number, token));
            state.unproven.extend(silent);
            state.asked.pop_front();
        }
        while let Some((at, number, token)) = state.unproven.front().copied()
            && now >= at + GHOST_US
        {
            state.unproven.pop_front();
            state.doubts.push_back((number, token));
        }
        self.ask_doubts(now, seat);
    }

    /// Writes a question behind the bind answer, past the queue that waits for its answer.
    fn ask_link(&mut self, seat: SeatId, to: &str, from: &str, payload: &[u8]) {
        if let Some(link) = self.seats.get(seat).and_then(|state| state.link) {
            self.send(link, |out| edit::route(out, to, from, payload));
        }
    }
}

fn ping_in_session(key: &SessionKey, id: &Token) -> Vec<u8> {
    let mut payload = format!(
        "<iq xmlns='{NS_CLIENT}' xmlns:sc='{NS_SESSION}' sc:c2s='{}' sc:sm='",
        key.number
    )
    .into_bytes();
    edit::escape(key.token.as_str(), &mut payload);
    payload.extend_from_slice(b"' type='get' id='");
    payload.extend_from_slice(id.as_bytes());
    payload.extend_from_slice(b"'><ping xmlns='urn:xmpp:ping'/></iq>");
    payload
}
