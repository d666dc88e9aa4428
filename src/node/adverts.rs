//! Names as every shard learns them from the registrar, and what the components here are told of it.

use super::Shard;
use super::api::Micros;
use super::lane::Message;
use crate::table::names::{Multi, SeatView};
use crate::table::registrar::new_seat;
use crate::table::{SeatId, SeatKind};
use crate::wire::edit;

/// Most ids of c2s that were given up and are remembered. Sessions of older ones stay with an sm that was away so long.
const PARTED_MAX: usize = 64;

impl Shard {
    /// The newcomer hears of every name that is not its own. What a new seat's component may still hold of a former
    /// life (it outlived a router, or its grace period) is nobody's any more: `unavailable` goes before, on which sm
    /// ends the sessions of a c2s, and c2s the clients of a domain. A new process holds nothing, and nothing happens.
    pub(super) fn greet(&mut self, seat: SeatId, fresh: bool) {
        let Some(state) = self.seats.get_mut(seat) else { return };
        state.greeted = true;
        state.outlived = fresh;
        // Of a c2s it is over when it has said what it still holds.
        let crashed = state.recovered.is_some();
        state.recovered = state.recovered.filter(|_| state.kind == SeatKind::C2s);
        if state.is_foreign() {
            return;
        }
        let (Some(link), own, kind) = (state.link, state.names.clone(), state.kind) else {
            return;
        };
        let names: Vec<(Box<str>, bool)> = self
            .names
            .iter()
            .map(|(key, name)| (key, !self.is_id_abroad(key, name.holders[0])))
            .filter(|(name, _)| !own.iter().any(|own| **own == **name) && !self.is_withdrawn(name, kind))
            .map(|(name, told)| (name.into(), told))
            .collect();
        let parted = self
            .parted
            .iter()
            .filter(|name| fresh && self.names.get(name).is_none());
        // Those of surrogates, and of c2s that were given up meanwhile: nobody else ever ends them.
        let mut over: Vec<Box<str>> = parted.cloned().collect();
        over.extend((fresh || crashed).then(|| self.names.own().into()));
        self.send(link, |out| {
            for name in &over {
                edit::advert(out, name, true);
            }
            for (name, told) in &names {
                if fresh {
                    edit::advert(out, name, true);
                }
                if *told {
                    edit::advert(out, name, false);
                }
            }
        });
    }

    /// A c2s is given up: an sm that is away may still hold sessions of its clients.
    fn note_parted(&mut self, name: &str) {
        self.parted.retain(|known| **known != *name);
        if self.parted.len() >= PARTED_MAX {
            self.parted.pop_front();
        }
        self.parted.push_back(name.into());
    }

    /// Every shard: what the registrar decided.
    pub(super) fn learn_names(&mut self, now: Micros, message: Message) {
        match message {
            Message::SeatNew {
                seat,
                home,
                kind,
                id,
                abroad,
            } => {
                let peer = abroad.map(|(peer, _)| peer);
                let view = SeatView {
                    peer,
                    ..new_seat(home, kind, &id)
                };
                self.names.put_seat(seat, view);
                self.number_seat(seat, abroad);
                if let Some(at) = self.early.iter().position(|(_, cargo)| cargo.seat == seat) {
                    let (link, cargo) = self.early.swap_remove(at);
                    self.take_seat(now, link, &cargo);
                }
            }
            Message::SeatLive { seat, live } => {
                if !live {
                    self.forget_redirects(seat);
                }
                self.names.change_seat(seat, |view| view.live = live);
                match self.names.seat(seat).map(|view| view.kind) {
                    _ if live => self.sm_available(now, seat),
                    Some(SeatKind::Sm) => self.note_held(seat),
                    _ => {}
                }
            }
            Message::Kind { seat, kind } => {
                self.names.change_seat(seat, |view| view.kind = kind);
                if let Some(seat) = self.seats.get_mut(seat) {
                    seat.kind = kind;
                }
            }
            Message::Bound {
                seat,
                name,
                multi,
                default,
                log,
                bound_at,
            } => {
                let new = self.names.bind(&name, seat, multi, bound_at);
                self.names.mark(&name, seat, (default, log));
                if let Some(state) = self.seats.get_mut(seat)
                    && !state.names.contains(&name)
                {
                    state.names.push(name.clone());
                }
                match new.then(|| self.is_id_abroad(&name, seat)) {
                    Some(false) => self.advertise(&name, seat, false, Listeners::All),
                    // The end of what its former holder had, and no more.
                    Some(true) if self.may_be_news_of_c2s(seat, &name) => {
                        self.advertise(&name, seat, true, Listeners::OutlivedSm);
                    }
                    Some(true) | None => {}
                }
                if multi == Multi::To {
                    self.sm_available(now, seat);
                }
            }
            Message::Unbound { seat, name } => {
                let id_abroad = self.is_id_abroad(&name, seat);
                let of_users = self.names.get(&name).is_some_and(|(_, name)| name.multi == Multi::To);
                let gone = self.names.unbind(&name, seat);
                if let Some(state) = self.seats.get_mut(seat) {
                    state.names.retain(|own| *own != name);
                }
                if gone && self.names.seat(seat).is_some_and(|view| view.kind == SeatKind::C2s) {
                    self.note_parted(&name);
                }
                if gone {
                    let to = if id_abroad { Listeners::Sm } else { Listeners::All };
                    self.advertise(&name, seat, true, to);
                }
                // c2s closes the clients of a domain that is withdrawn, and tells nobody. Of a lost sm all sessions end.
                if gone && of_users && self.names.seat(seat).is_some_and(|view| view.live) {
                    self.doubt_clients_of(now, &name);
                }
            }
            Message::SeatGone { seat } => self.seat_gone(now, seat),
            _ => unreachable!("the caller gives only what is learnt here"),
        }
    }

    /// It is another node's c2s, for all that is known, and nothing was told of it before.
    fn may_be_news_of_c2s(&self, seat: SeatId, name: &str) -> bool {
        let kind = self.names.seat(seat).map(|view| view.kind);
        matches!(kind, Some(SeatKind::C2s | SeatKind::Native)) && !self.parted.iter().any(|known| **known == *name)
    }

    /// Tells this shard's native components, all but the one it comes from.
    fn advertise(&mut self, name: &str, from: SeatId, unavailable: bool, to: Listeners) {
        let listeners: Vec<SeatId> = self
            .seats
            .iter()
            .filter(|(id, seat)| *id != from && seat.greeted && !seat.is_foreign())
            .filter(|(_, seat)| to == Listeners::All || seat.kind == SeatKind::Sm)
            .filter(|(_, seat)| to != Listeners::OutlivedSm || seat.outlived)
            .filter(|(_, seat)| unavailable || !self.is_withdrawn(name, seat.kind))
            .map(|(id, _)| id)
            .collect();
        for listener in listeners {
            // News of a name is also the end of what its former holder had: see `greet`.
            self.tell_gone(listener, name, !unavailable);
        }
    }

    /// Tells a component that a name was lost; `back`: and that there is a new one of that name.
    pub(super) fn tell_gone(&mut self, listener: SeatId, name: &str, back: bool) {
        let mut adverts = Vec::new();
        edit::advert(&mut adverts, name, true);
        if back {
            edit::advert(&mut adverts, name, false);
        }
        if let Some(seat) = self.seats.get_mut(listener) {
            seat.keep_loss(name, &adverts);
        }
        self.put(listener, |out| out.extend_from_slice(&adverts));
    }
}

/// Who hears an advert.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Listeners {
    All,
    /// The end of a c2s of another node is sm's affair alone.
    Sm,
    /// Of these those that may have been here before this node's process.
    OutlivedSm,
}
