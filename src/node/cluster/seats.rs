//! Components of other nodes: each has a seat here, at the home of its node, which stands for it.
//!
//! The seat has no link. What is put into it crosses to its node; what comes from there comes as from it. So sessions
//! whose c2s or sm is elsewhere are learnt, ended and found wanting as all others are. Its id here is `<id>.<node>`,
//! since stock ids repeat on every machine; its further names, and the names of services, are the same everywhere.

use super::message::Note;
use crate::node::Shard;
use crate::node::api::Micros;
use crate::node::lane::Message;
use crate::node::link::Who;
use crate::node::seat::Seat;
use crate::table::names::Multi;
use crate::table::{PeerId, SeatId, SeatKind};
use crate::wire::accept::PeerKind;
use crate::wire::validate::Prefixes;
use std::net::{Ipv4Addr, SocketAddr};

/// Most components of one node.
const SEATS_PER_PEER_MAX: usize = 4_096;

/// Slots of gone components rest until so many of them are free.
const SLOTS_RESTING: usize = 64;

/// `id` of `id.node`.
pub(super) fn strip_node<'a>(name: &'a str, node: &str) -> Option<&'a str> {
    name.strip_suffix(node)?.strip_suffix('.')
}

impl Shard {
    /// Tells a new peer what components and names this node has.
    pub(super) fn tell_seats(&mut self, peer: PeerId) {
        let mut notes = Vec::new();
        let mut add = |note: &Note<'_>| {
            let mut bytes = Vec::new();
            note.write(&mut bytes);
            notes.push(bytes);
        };
        for (seat, view) in self.names.seats().filter(|(_, view)| view.peer.is_none()) {
            let (kind, id) = (view.kind, &*view.id);
            add(&Note::SeatUp { seat, kind, id });
            if !view.live {
                add(&Note::SeatLive { seat, live: false });
            }
        }
        for (key, name) in self.names.iter() {
            let own = |seat: &&SeatId| self.names.seat(**seat).is_some_and(|view| view.peer.is_none());
            for seat in name.holders.iter().filter(own) {
                add(&Note::NameUp {
                    seat: *seat,
                    name: key,
                    multi: name.multi,
                    bound_at: self.names.bound_at(key, *seat),
                });
            }
        }
        for bytes in notes {
            if !self.post(peer, super::Lane::Control, bytes) {
                return self.give_up_peer(peer);
            }
        }
    }

    /// What all shards learn of this node's own components, its peers shall know too.
    pub(in crate::node) fn tell_peers(&mut self, message: &Message) {
        if self.cluster.as_ref().is_none_or(|cluster| cluster.homes.is_empty()) {
            return;
        }
        let own = |shard: &Shard, seat: SeatId| shard.names.seat(seat).is_some_and(|view| view.peer.is_none());
        match message {
            Message::SeatNew {
                seat,
                kind,
                id,
                abroad: None,
                ..
            } => self.post_all(&Note::SeatUp {
                seat: *seat,
                kind: *kind,
                id,
            }),
            Message::SeatLive { seat, live } if own(self, *seat) => self.post_all(&Note::SeatLive {
                seat: *seat,
                live: *live,
            }),
            Message::Kind { seat, kind } if own(self, *seat) => self.post_all(&Note::SeatKind {
                seat: *seat,
                kind: *kind,
            }),
            Message::Restarted { seat } if own(self, *seat) => self.post_all(&Note::SeatRestarted { seat: *seat }),
            Message::SeatGone { seat } if own(self, *seat) => self.post_all(&Note::SeatGone { seat: *seat }),
            Message::Bound {
                seat,
                name,
                multi,
                bound_at,
                ..
            } if own(self, *seat) => self.post_all(&Note::NameUp {
                seat: *seat,
                name,
                multi: *multi,
                bound_at: *bound_at,
            }),
            Message::Unbound { seat, name } if own(self, *seat) => self.post_all(&Note::NameDown { seat: *seat, name }),
            _ => {}
        }
    }

    /// A peer's component has come.
    pub(super) fn seat_up(&mut self, now: Micros, peer: PeerId, number: SeatId, kind: SeatKind, id: &str) {
        let Some(cluster) = &mut self.cluster else { return };
        let taken = cluster.numbers.keys().filter(|(of, _)| *of == peer).count();
        if taken >= SEATS_PER_PEER_MAX || cluster.numbers.contains_key(&(peer, number)) {
            return;
        }
        let span = (u16::MAX - SeatId::REMOTE_SLOTS) / self.shards;
        let seat = if cluster.slots_free.len() >= SLOTS_RESTING || cluster.slots_used == span {
            cluster.slots_free.pop_front().map(|last| {
                // The slot was this shard's before, so it fits.
                let slot = last.slot() as u16;
                SeatId::new(slot, last.generation().wrapping_add(1))
            })
        } else {
            // Those of all shards together without a gap: tables by seat have room for each up to the last.
            let slot = SeatId::REMOTE_SLOTS + cluster.slots_used * self.shards + self.id;
            cluster.slots_used += 1;
            Some(SeatId::new(slot, 0))
        };
        let Some(seat) = seat else { return };
        let id: Box<str> = format!("{id}.{}", cluster.name_of(peer)).into();
        self.tell_all(
            now,
            &Message::SeatNew {
                seat,
                home: self.id,
                kind,
                id: id.clone(),
                abroad: Some((peer, number)),
            },
        );
        let who = Who::new(PeerKind::Native { user: String::new() }, Prefixes::default());
        let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        self.seats
            .insert(seat, Seat::abroad(kind, &id, who, nowhere, now, (peer, number)));
        self.tell_all(
            now,
            &Message::Bound {
                seat,
                name: id,
                multi: Multi::No,
                default: false,
                log: false,
                bound_at: 0,
            },
        );
    }

    /// A peer tells of one of its components.
    pub(super) fn seat_note(&mut self, now: Micros, peer: PeerId, note: Note<'_>) {
        let number = match &note {
            Note::SeatKind { seat, .. }
            | Note::SeatLive { seat, .. }
            | Note::SeatRestarted { seat }
            | Note::SeatGone { seat }
            | Note::NameUp { seat, .. }
            | Note::NameDown { seat, .. } => *seat,
            _ => return,
        };
        let Some(seat) = self.seat_of(peer, number) else { return };
        match note {
            Note::SeatKind { kind, .. } => self.tell_all(now, &Message::Kind { seat, kind }),
            Note::SeatLive { live, .. } => self.tell_all(now, &Message::SeatLive { seat, live }),
            Note::SeatRestarted { .. } => self.tell_all(now, &Message::Restarted { seat }),
            Note::SeatGone { .. } => self.forget_seat(now, seat),
            Note::NameUp {
                name, multi, bound_at, ..
            } => {
                let first = self
                    .names
                    .seat(seat)
                    .is_some_and(|view| self.is_id_of(peer, &view.id, name));
                // An id is good on its own node only; what has a dot may be a service.
                if !first || name.contains('.') {
                    self.tell_all(
                        now,
                        &Message::Bound {
                            seat,
                            name: name.into(),
                            multi,
                            default: false,
                            log: false,
                            bound_at,
                        },
                    );
                }
            }
            Note::NameDown { name, .. } => self.tell_all(
                now,
                &Message::Unbound {
                    seat,
                    name: name.into(),
                },
            ),
            _ => {}
        }
    }

    fn is_id_of(&self, peer: PeerId, id_here: &str, name: &str) -> bool {
        let node = self.cluster.as_ref().map_or("", |cluster| cluster.name_of(peer));
        strip_node(id_here, node) == Some(name)
    }

    /// Every shard: a seat of another node's component came to be.
    pub(in crate::node) fn number_seat(&mut self, seat: SeatId, abroad: Option<(PeerId, SeatId)>) {
        if let (Some(cluster), Some(number)) = (&mut self.cluster, abroad) {
            cluster.numbers.insert(number, seat);
        }
    }

    /// Every shard: it is gone.
    pub(in crate::node) fn unnumber_seat(&mut self, seat: SeatId) {
        if let Some(cluster) = &mut self.cluster {
            cluster.numbers.retain(|_, here| *here != seat);
        }
    }

    /// The seat that stands here for a peer's component.
    pub(super) fn seat_of(&self, peer: PeerId, number: SeatId) -> Option<SeatId> {
        self.cluster.as_ref()?.numbers.get(&(peer, number)).copied()
    }

    /// All seats that stand here for a peer's components.
    pub(super) fn seats_of(&self, peer: PeerId) -> Vec<SeatId> {
        let of_peer = |(_, view): &(SeatId, &crate::table::names::SeatView)| view.peer == Some(peer);
        self.names.seats().filter(of_peer).map(|(seat, _)| seat).collect()
    }

    /// A component of another node is gone.
    pub(super) fn forget_seat(&mut self, now: Micros, seat: SeatId) {
        let names = self
            .seats
            .get(seat)
            .map(|state| state.names.clone())
            .unwrap_or_default();
        for name in names {
            self.tell_all(now, &Message::Unbound { seat, name });
        }
        self.tell_all(now, &Message::SeatGone { seat });
        if let Some(cluster) = &mut self.cluster {
            cluster.slots_free.push_back(seat);
        }
    }

    /// A component whose id is good on its own node only: nobody hears of it.
    pub(in crate::node) fn is_id_abroad(&self, name: &str, seat: SeatId) -> bool {
        self.names
            .seat(seat)
            .is_some_and(|view| view.peer.is_some() && *view.id == *name)
    }

    /// Every c2s of this shard: a session's sm is gone or another process, and it is not of this node. Whoever had a
    /// session there is ended, and logs in again.
    pub(in crate::node) fn end_clients_at(&mut self, now: Micros, sm: SeatId) {
        let lost: Vec<_> = self
            .seats
            .iter()
            .filter(|(_, state)| state.abroad.is_none())
            .flat_map(|(c2s, state)| {
                let at_sm = state.clients.iter().filter(|(_, client)| client.sm == sm);
                at_sm
                    .map(|(number, client)| crate::node::lane::SessionKey {
                        c2s,
                        number,
                        token: client.token,
                    })
                    .collect::<Vec<_>>()
            })
            .collect();
        for key in lost {
            self.end_client(now, key);
        }
    }
}
