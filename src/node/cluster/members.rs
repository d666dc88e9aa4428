//! Membership, between the room of that name (on shard 0) and the peers' transports (each at its home).
//!
//! Shard 0 alone decides that a member is dead; its home then gives the peer up. Members that others tell of are dialled.

use crate::mesh::hello::Address;
use crate::mesh::members::{MemberEvent, MemberState, Members};
use crate::mesh::peer::Loss;
use crate::node::Shard;
use crate::node::api::{Level, Micros};
use crate::node::lane::Message;
use crate::table::PeerId;
use rand_core::RngCore;

/// What a peer's home and shard 0 say to each other about a member.
#[derive(Clone, Debug)]
pub(in crate::node) enum MemberNews {
    /// To shard 0: its datagram.
    Said(Vec<u8>),
    /// To shard 0: it is reached, in this life, and can be dialled there.
    Up(u64, Vec<Address>),
    /// To shard 0: it is not reached any more.
    Lost(Loss),
    /// To shard 0: it is not reached, and proved in this life and at this time that it lives.
    Heard(u64, Micros),
    /// To the home: a datagram for it.
    Send(Vec<u8>),
    /// To the home: it can be dialled there.
    Known(Vec<Address>),
    /// To the home: it lives, though perhaps out of reach.
    Lives,
    /// To the home: it is dead.
    Dead,
}

impl Shard {
    /// Shard 0 of a node in a mesh: nobody is known yet.
    pub(super) fn begin_membership(&mut self) {
        let grace_us = self.config.grace_ms * 1_000;
        let seed = self.rng.next_u64();
        if let Some(links) = self.links() {
            let hello = &links.local.hello;
            let members = Members::new(&hello.node, hello.incarnation, &hello.addresses, grace_us, seed);
            links.members = Some(Box::new(members));
        }
    }

    fn members(&mut self) -> Option<&mut Members> {
        self.links()?.members.as_deref_mut()
    }

    /// From a peer's home to shard 0.
    pub(super) fn tell_members(&mut self, now: Micros, peer: PeerId, news: MemberNews) {
        self.tell(now, 0, Message::Member { peer, news });
    }

    /// News about a member, for shard 0 or for the member's home.
    pub(in crate::node) fn member_news(&mut self, now: Micros, peer: PeerId, news: MemberNews) {
        self.note_time(now);
        let name = self.peer_name(peer).to_owned();
        match news {
            MemberNews::Said(bytes) => self.with_members(now, |members| members.received(now, &name, &bytes)),
            MemberNews::Up(incarnation, addresses) => {
                self.with_members(now, |members| members.peer_up(now, &name, incarnation, &addresses));
            }
            MemberNews::Heard(incarnation, at) => {
                self.with_members(now, |members| members.peer_heard(now, &name, incarnation, at));
            }
            MemberNews::Lost(loss) => self.with_members(now, |members| members.peer_lost(now, &name, loss)),
            MemberNews::Send(bytes) => {
                if let Some(transport) = self.transport(peer) {
                    transport.send_datagram(&bytes);
                }
                self.stir(peer);
            }
            MemberNews::Known(addresses) => self.dial_peer(now, peer, &addresses),
            MemberNews::Lives => self.note_life(peer, true),
            MemberNews::Dead => {
                self.note_life(peer, false);
                self.peer_is_dead(now, peer);
            }
        }
    }

    pub(super) fn with_members(&mut self, now: Micros, step: impl FnOnce(&mut Members)) {
        if let Some(members) = self.members() {
            step(members);
        }
        self.hear_members(now);
    }

    fn hear_members(&mut self, now: Micros) {
        while let Some(event) = self.members().and_then(Members::poll) {
            match event {
                MemberEvent::Send { to, bytes } => self.tell_home(now, &to, MemberNews::Send(bytes)),
                MemberEvent::Known { node, addresses } => {
                    self.tell_home(now, &node, MemberNews::Known(addresses.to_vec()));
                }
                MemberEvent::Changed { node, state, .. } => {
                    let dead = state == MemberState::Dead;
                    self.tell_home(now, &node, if dead { MemberNews::Dead } else { MemberNews::Lives });
                }
                MemberEvent::Forgotten { node } => {
                    self.log(Level::Info, None, format!("mesh: {node} is forgotten"));
                }
                MemberEvent::Log(level, text) => self.log(level, None, format!("mesh: {text}")),
            }
        }
    }

    fn tell_home(&mut self, now: Micros, node: &str, news: MemberNews) {
        let Some(peer) = self.peer_known(now, node) else { return };
        let home = self.home_of(peer);
        self.tell(now, home, Message::Member { peer, news });
    }

    /// Time has passed for membership.
    pub(super) fn tick_members(&mut self, now: Micros) {
        if self
            .members()
            .is_some_and(|members| members.deadline().is_some_and(|at| at <= now))
        {
            self.with_members(now, |members| members.tick(now));
        }
    }

    /// When membership wants to be looked at.
    pub(super) fn members_deadline(&self) -> Option<Micros> {
        self.cluster.as_ref()?.links.as_ref()?.members.as_ref()?.deadline()
    }

    /// This node leaves its cluster.
    pub(super) fn leave_members(&mut self, now: Micros) {
        self.with_members(now, |members| members.leave(now));
    }
}
