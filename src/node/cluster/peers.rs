//! Peers: known, joining, ready, gone.

use super::drain::Draining;
use super::message::{Note, Packet};
use super::seats::strip_node;
use super::{Lane, Place};
use crate::mesh::peer::Seen;
use crate::node::Shard;
use crate::node::api::{Level, Micros};
use crate::node::lane::{Message, PeerState};
use crate::table::rows::{Clock, RowSession};
use crate::table::{PeerId, ShardId};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

/// A peer as every shard knows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct PeerView {
    pub(super) name: Box<str>,
    pub(super) state: PeerState,
    /// When it began to take part in ownership.
    pub(super) ready_since: Micros,
    pub(super) draining: Draining,
}

impl PeerView {
    /// It takes part in ownership.
    pub(super) fn is_ready(&self) -> bool {
        matches!(self.state, PeerState::Ready | PeerState::Stalled)
    }
}

/// A peer at its home.
#[derive(Debug, Default)]
pub(super) struct Home {
    /// Shards whose rows it has not been told yet.
    pub(super) rows_missing: ShardId,
    /// It is told of changes.
    pub(super) told: bool,
}

impl Shard {
    /// Shard 0: a node of this name; a new number when it was never heard of.
    pub fn peer_known(&mut self, now: Micros, name: &str) -> Option<PeerId> {
        let cluster = self.cluster.as_ref()?;
        if let Some(peer) = cluster.peer_named(name) {
            return Some(peer);
        }
        let peer = PeerId(u16::try_from(cluster.peers.len()).ok()?);
        self.tell_all(
            now,
            &Message::PeerKnown {
                peer,
                name: name.into(),
            },
        );
        Some(peer)
    }

    /// Every shard.
    pub(in crate::node) fn learn_peer(&mut self, peer: PeerId, name: Box<str>) {
        let Some(cluster) = &mut self.cluster else { return };
        debug_assert_eq!(usize::from(peer.0), cluster.peers.len());
        cluster.peers.push(PeerView {
            name,
            state: PeerState::Gone,
            ready_since: 0,
            draining: Draining::default(),
        });
    }

    /// Its home: both lanes to a peer begin, with nothing said in either direction. It is told what this node has.
    pub fn peer_joined(&mut self, now: Micros, peer: PeerId) {
        let shards = self.shards;
        let Some(cluster) = &mut self.cluster else { return };
        let home = Home {
            rows_missing: shards,
            told: true,
        };
        cluster.homes.insert(peer, home);
        let text = format!("mesh: {} is connected", cluster.name_of(peer));
        self.log(Level::Notice, None, text);
        self.tell_all(
            now,
            &Message::PeerState {
                peer,
                state: PeerState::Joining,
            },
        );
        self.tell_seats(peer);
        self.tell_of_drain(peer);
        let reborn = self.is_reborn(peer);
        self.tell_all(now, &Message::WantRows { peer, reborn });
    }

    /// Its home: nothing gets through to a ready peer, or it does again.
    pub fn peer_stalled(&mut self, now: Micros, peer: PeerId, stalled: bool) {
        let ready = self
            .cluster
            .as_ref()
            .and_then(|cluster| cluster.peer(peer))
            .is_some_and(PeerView::is_ready);
        if ready {
            let state = if stalled { PeerState::Stalled } else { PeerState::Ready };
            self.tell_all(now, &Message::PeerState { peer, state });
        }
    }

    /// Its home: a peer is gone for good: dead, or another process than before. `under_way` are the packets that it did
    /// not acknowledge, in order.
    pub fn peer_gone(&mut self, now: Micros, peer: PeerId, under_way: &[(Seen, Vec<u8>)]) {
        let Some(cluster) = &mut self.cluster else { return };
        if cluster.homes.remove(&peer).is_none() {
            return;
        }
        let text = format!("mesh: {} is gone", cluster.name_of(peer));
        self.log(Level::Warning, None, text);
        // Its names and seats first: what is routed again must not find them.
        for seat in self.seats_of(peer) {
            self.forget_seat(now, seat);
        }
        // Then its rows; then, with another way open, what was sent before; and what waits or comes later behind that.
        self.tell_all(
            now,
            &Message::PeerState {
                peer,
                state: PeerState::Leaving,
            },
        );
        for (seen, bytes) in under_way {
            match (Packet::read(bytes), seen) {
                (Some(packet), Seen::Never) => self.packet_again(now, peer, packet),
                (Some(packet), Seen::Perhaps) => self.packet_in_doubt(now, peer, packet),
                (None, _) => {}
            }
        }
        self.tell_all(
            now,
            &Message::PeerState {
                peer,
                state: PeerState::Gone,
            },
        );
    }

    /// Every shard: how far a peer is.
    pub(in crate::node) fn learn_peer_state(&mut self, now: Micros, peer: PeerId, state: PeerState) {
        let Some(cluster) = &mut self.cluster else { return };
        let Some(view) = cluster.peers.get_mut(usize::from(peer.0)) else {
            return;
        };
        let before = std::mem::replace(&mut view.state, state);
        if before == PeerState::Joining && state == PeerState::Ready {
            view.ready_since = now;
        }
        if state == PeerState::Gone {
            view.draining = Draining::default();
        }
        cluster.ready = cluster.peers.iter().filter(|view| view.is_ready()).count();
        match state {
            PeerState::Leaving => cluster.leaving.extend(cluster.rows.drain_peer(peer)),
            PeerState::Gone => {
                cluster.astray.forget(peer);
                self.relay_lost(now, peer);
                self.exits_lost(now, Some(peer));
                self.peer_rows_lost(now, peer);
            }
            PeerState::Stalled => self.ask_elsewhere(now, Some(peer)),
            PeerState::Ready if before == PeerState::Joining => self.ask_elsewhere(now, None),
            PeerState::Ready if before == PeerState::Stalled => self.has_given_way(peer),
            PeerState::Ready | PeerState::Joining => {}
        }
        if !matches!(state, PeerState::Ready | PeerState::Joining) {
            self.peer_flushed(now, peer, None);
        }
        if state == PeerState::Ready {
            self.settle_stuck(now);
        }
        self.look_whether_alone(now);
        self.look_at_dawn(now);
    }

    /// Its home: a message from a peer.
    pub fn peer_message(&mut self, now: Micros, peer: PeerId, lane: Lane, bytes: &[u8]) {
        if self.passage(now, peer, lane, bytes) {
            return;
        }
        match lane {
            Lane::Control => {
                if let Some(note) = Note::read(bytes) {
                    self.note(now, peer, note);
                }
            }
            Lane::Data => {
                if let Some(packet) = Packet::read(bytes) {
                    self.packet(now, peer, packet);
                }
            }
        }
    }

    fn note(&mut self, now: Micros, peer: PeerId, note: Note<'_>) {
        match note {
            Note::SeatUp { seat, kind, id } => self.seat_up(now, peer, seat, kind, id),
            Note::SeatKind { .. }
            | Note::SeatLive { .. }
            | Note::SeatRestarted { .. }
            | Note::SeatGone { .. }
            | Note::NameUp { .. }
            | Note::NameDown { .. } => self.seat_note(now, peer, note),
            Note::Row { bare, clock, sessions } => self.tell_row(now, peer, bare, clock, Some(sessions)),
            Note::RowGone { bare, clock } => self.tell_row(now, peer, bare, clock, None),
            Note::Exit { domain, clock } | Note::ExitGone { domain, clock } => {
                let taken = matches!(note, Note::Exit { .. });
                let message = Message::ExitIn {
                    peer,
                    domain: domain.into(),
                    clock,
                    taken,
                };
                self.tell(now, self.exit_shard(domain), message);
            }
            Note::Draining { on, to } => {
                let to = (!to.is_empty()).then(|| to.into());
                self.tell_all(now, &Message::PeerDrains { peer, on, to });
            }
            Note::ToldAway { full } => self.was_told_away(now, full),
            Note::Synced => {
                let name = self
                    .cluster
                    .as_ref()
                    .map_or_else(String::new, |c| c.name_of(peer).into());
                self.log(Level::Notice, None, format!("mesh: {name} is ready"));
                self.tell_all(
                    now,
                    &Message::PeerState {
                        peer,
                        state: PeerState::Ready,
                    },
                );
            }
        }
    }

    fn tell_row(
        &mut self,
        now: Micros,
        peer: PeerId,
        bare: &str,
        clock: Clock,
        sessions: Option<SmallVec<[RowSession; 1]>>,
    ) {
        self.tell(
            now,
            self.owner(bare),
            Message::RowIn {
                peer,
                bare: bare.into(),
                clock,
                sessions,
            },
        );
    }

    /// Its home: one shard's rows of this node, all at once and before any change to them.
    pub(in crate::node) fn rows_done(
        &mut self,
        peer: PeerId,
        rows: Vec<(Box<str>, Clock, SmallVec<[RowSession; 1]>)>,
        exits: Vec<(Box<str>, Clock)>,
        told_away: &[Box<str>],
    ) {
        self.post_told_away(peer, told_away);
        for (domain, clock) in exits {
            let domain = &*domain;
            self.post_note(peer, &Note::Exit { domain, clock });
        }
        for (bare, clock, sessions) in rows {
            self.post_note(
                peer,
                &Note::Row {
                    bare: &bare,
                    clock,
                    sessions,
                },
            );
        }
        let Some(home) = self.cluster.as_mut().and_then(|cluster| cluster.homes.get_mut(&peer)) else {
            return;
        };
        home.rows_missing -= 1;
        if home.rows_missing == 0 {
            self.post_note(peer, &Note::Synced);
        }
    }

    /// Tells a peer, if it is being told.
    pub(super) fn post_note(&mut self, peer: PeerId, note: &Note<'_>) {
        let mut bytes = Vec::new();
        note.write(&mut bytes);
        if !self.post(peer, Lane::Control, bytes) {
            self.give_up_peer(peer);
        }
    }

    /// Tells all peers whose home is here.
    pub(super) fn post_all(&mut self, note: &Note<'_>) {
        let Some(cluster) = &self.cluster else { return };
        let peers: SmallVec<[PeerId; 8]> = cluster
            .homes
            .iter()
            .filter(|(_, home)| home.told)
            .map(|(peer, _)| *peer)
            .collect();
        for peer in peers {
            self.post_note(peer, note);
        }
    }

    /// False when the peer's queue is full.
    pub(super) fn post(&mut self, peer: PeerId, lane: Lane, bytes: Vec<u8>) -> bool {
        let Some(cluster) = self
            .cluster
            .as_mut()
            .filter(|cluster| cluster.homes.contains_key(&peer))
        else {
            return true;
        };
        if cluster.is_played_by_hand() {
            cluster.posted.push_back((peer, lane, bytes));
            return true;
        }
        self.transmit(peer, lane, &bytes)
    }

    /// The name under which others address a component of this node: `id.node`.
    pub(super) fn name_abroad(&self, id: &str) -> String {
        let own = self.cluster.as_ref().map_or("", |cluster| &*cluster.own);
        format!("{id}.{own}")
    }

    /// The id that a component of this node has here, when the name is the one others use for it.
    pub(in crate::node) fn id_at_home<'a>(&self, name: &'a str) -> Option<&'a str> {
        strip_node(name, &self.cluster.as_ref()?.own)
    }

    /// Where a user belongs whom nobody serves, without regard to rows.
    pub(super) fn belongs_here(&self, bare: &str) -> bool {
        self.directory_owner(bare) == Place::Here
    }
}
