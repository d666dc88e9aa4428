//! What a frame of c2s or sm teaches, before it goes on: sessions that end, presence, answers to jidmesh's questions.
//!
//! Must never be added: where a frame goes, but for its end here.

use super::Shard;
use super::api::Micros;
use super::counters::Counter;
use super::lane::{Message, SessionKey};
use super::question::QUESTION_PREFIX;
use crate::table::names::{Multi, Name};
use crate::table::{SeatId, SeatKind, Token};
use crate::wire::header::{Payload, PayloadKind, Route};
use crate::wire::value::Value;

impl Shard {
    /// What a frame of c2s or sm teaches. False when it ends here.
    pub(super) fn observe(&mut self, now: Micros, seat: SeatId, frame: &[u8], header: &Route<'_>) -> bool {
        let Some(payload) = &header.payload else { return true };
        let Some(kind) = self.seats.get(seat).map(|state| state.kind) else {
            return false;
        };
        match (kind, payload.kind) {
            (SeatKind::Sm, _) => self.observe_sm(now, seat, frame, header, payload),
            (SeatKind::C2s, _) => self.observe_client(now, seat, frame, header, payload),
            (SeatKind::Native, PayloadKind::Session) if is_request(payload) => {
                self.tell_all(
                    now,
                    &Message::Kind {
                        seat,
                        kind: SeatKind::C2s,
                    },
                );
                self.observe_client(now, seat, frame, header, payload)
            }
            _ => true,
        }
    }

    /// From sm: answers to jidmesh's own questions stay here, and so does what sm asks every other component.
    fn observe_sm(
        &mut self,
        now: Micros,
        seat: SeatId,
        frame: &[u8],
        header: &Route<'_>,
        payload: &Payload<'_>,
    ) -> bool {
        if payload.kind == PayloadKind::Session {
            self.answered(seat, payload);
            self.farewells_may_follow(seat, payload);
        }
        if self.is_untrue_farewell(seat, header, payload) {
            self.note_moved(now, payload);
            self.count(Counter::DropFarewell);
            return false;
        }
        self.note_told(now, payload);
        if !concerns_jidmesh(payload) {
            return true;
        }
        if payload.id.is_some_and(|id| is_question(id.0)) && self.sm_answered(now, seat, frame, payload) {
            return false;
        }
        if is_component_disco(frame, header, payload) && header.to.is_some_and(|to| self.is_jabberd2(to)) {
            self.count(Counter::DropDisco);
            return false;
        }
        true
    }

    fn is_jabberd2(&self, name: Value<'_>) -> bool {
        self.names.find(name).is_some_and(|(name_key, name)| {
            name.holders.iter().all(|s| {
                let view = self.names.seat(*s);
                // What a component of another node is may not have shown itself yet; its id is nobody's to ask.
                view.is_some_and(|view| view.kind.is_jabberd2() || self.is_id_abroad(name_key, *s))
            })
        })
    }

    /// From c2s: sessions end, presence changes, and stanzas of clients whom no sm knows.
    pub(super) fn observe_client(
        &mut self,
        now: Micros,
        seat: SeatId,
        frame: &[u8],
        header: &Route<'_>,
        payload: &Payload<'_>,
    ) -> bool {
        let Some((number, token)) = session_of(payload) else {
            return true;
        };
        let to_sm = header
            .to
            .is_some_and(|to| self.names.find(to).is_some_and(|(_, name)| is_sm_id(name)));
        if is_question(token.as_bytes()) {
            self.c2s_answered(now, seat, &token, to_sm);
            return false;
        }
        let Some(state) = self.seats.get_mut(seat) else {
            return false;
        };
        let key = SessionKey {
            c2s: seat,
            number,
            token,
        };
        let Some(client) = state.hear(number, &token) else {
            if payload.kind != PayloadKind::Session && state.is_dismissed(now, number, &token) {
                // Said before its c2s heard that its session is over. An error would close whoever has the number now.
                self.count(Counter::DropGone);
                return false;
            }
            return self.unknown_client(now, seat, frame, payload);
        };
        let ends = payload.kind == PayloadKind::Session && payload.action.is_some_and(|action| action.0 == b"end");
        client.ending |= ends;
        let (sm, bare) = (client.sm, client.bare.clone());
        let owner = self.owner(&bare);
        if ends {
            self.tell(now, owner, Message::Ending { bare, key });
        } else if changes_presence(payload)
            && let Some(priority) = presence_change(frame, payload)
        {
            self.tell(now, owner, Message::Presence { bare, key, priority });
        }
        // c2s sends it to the domain when it does not know the number any more, and to the sm of another client when that
        // one has the number now.
        if payload.kind == PayloadKind::Session && !is_request(payload) {
            self.hand_with(now, sm, seat, frame, Some(header));
            return false;
        }
        true
    }

    /// A session nobody told of. An `end` does no harm and may clear a ghost; a stanza means that the client believes in
    /// a session that is gone: c2s is told so, and ends it.
    fn unknown_client(&mut self, now: Micros, seat: SeatId, frame: &[u8], payload: &Payload<'_>) -> bool {
        if payload.kind == PayloadKind::Session {
            return true;
        }
        self.count(Counter::ZombiesCleared);
        self.send_back(now, seat, frame, "404");
        false
    }
}

/// A name that one sm answers to, not the domain that several share.
fn is_sm_id(name: &Name) -> bool {
    name.multi == Multi::No
}

/// `Some(Some(priority))`: available; `Some(None)`: unavailable; `None`: no change of availability.
fn presence_change(frame: &[u8], payload: &Payload<'_>) -> Option<Option<i8>> {
    match payload.kind_attr.map(|kind| kind.0) {
        None => Some(Some(priority(frame.get(payload.span.clone())?))),
        Some(b"unavailable") => Some(None),
        _ => None,
    }
}

/// The text of `<priority/>`, 0 without one (RFC 6121 4.7.2.3). Only for what `status` shows: sm decides by it.
fn priority(presence: &[u8]) -> i8 {
    let open = b"<priority>";
    memchr::memmem::find(presence, open)
        .and_then(|at| presence.get(at + open.len()..))
        .and_then(|rest| rest.split(|byte| *byte == b'<').next())
        .and_then(|text| std::str::from_utf8(text).ok()?.trim().parse().ok())
        .unwrap_or(0)
}

/// The disco question that sm puts to every advertised name: from its own id, about the name itself.
fn is_component_disco(frame: &[u8], header: &Route<'_>, payload: &Payload<'_>) -> bool {
    payload.kind_attr.is_some_and(|kind| kind.0 == b"get")
        && payload.from.is_some()
        && payload.from == header.from
        && payload.to == header.to
        && payload.first_child(frame).is_some_and(|(name, namespace)| {
            name == b"query" && namespace.is_some_and(|uri| uri.0 == b"http://jabber.org/protocol/disco#info")
        })
}

/// The session that a frame between c2s and sm names: the client's number and the sm-side id.
#[inline]
pub(super) fn session_of(payload: &Payload<'_>) -> Option<(u32, Token)> {
    Some((number(payload.c2s?)?, token(payload.sm?)?))
}

/// An id, or an sm-side id, of a question of jidmesh's own.
#[inline]
pub(super) fn is_question(id: &[u8]) -> bool {
    id.starts_with(QUESTION_PREFIX)
}

/// What sm says may answer a question of jidmesh's own, or be what it asks every component.
#[inline]
pub(super) fn concerns_jidmesh(payload: &Payload<'_>) -> bool {
    payload.kind == PayloadKind::Iq
        && (payload.kind_attr.is_none_or(|kind| kind.0 != b"result") || payload.id.is_some_and(|id| is_question(id.0)))
}

/// A client's presence for all who see him (RFC 6121 4.2).
#[inline]
pub(super) fn changes_presence(payload: &Payload<'_>) -> bool {
    payload.kind == PayloadKind::Presence && payload.to.is_none()
}

pub(super) fn token(value: Value<'_>) -> Option<Token> {
    Token::new(value.0)
}

pub(super) fn number(value: Value<'_>) -> Option<u32> {
    value.as_str()?.parse().ok()
}

/// `start` and `create`: what c2s waits to have answered.
pub(super) fn is_request(payload: &Payload<'_>) -> bool {
    payload
        .action
        .is_some_and(|action| matches!(action.0, b"start" | b"create"))
}
