//! Packets: frames that cross to a peer, and frames that came from one.

use super::message::Packet;
use super::{Lane, Place};
use crate::jid;
use crate::node::api::{DataBatch, Micros};
use crate::node::counters::Counter;
use crate::node::lane::{Message, Verb};
use crate::node::trace::Step;
use crate::node::{SELF, Shard};
use crate::table::users::Marker;
use crate::table::ways::{Path, TRIES_MAX};
use crate::table::{PeerId, SeatId, SeatKind, ShardId};
use crate::wire::edit;
use crate::wire::header::{self, Frame, Payload, PayloadKind, Route};
use crate::wire::value::Value;
use smallvec::SmallVec;
use std::borrow::Cow;

impl Shard {
    /// The home of another node's component: a frame for it. False when its node's queue is full.
    pub(in crate::node) fn cross_to_seat(&mut self, seat: SeatId, source: SeatId, frame: &[u8]) -> bool {
        let Some((peer, number)) = self.seats.get(seat).and_then(|state| state.abroad) else {
            return true;
        };
        // A component of a third node is not known there by a number of ours.
        let own = self.names.seat(source).is_some_and(|view| view.peer.is_none());
        let packet = Packet::ToSeat {
            seat: number,
            source: if own { source } else { SELF },
            frame,
        };
        self.post_packet(peer, &packet)
    }

    /// Sends a frame for a user to another node.
    pub(super) fn cross_to_user(
        &mut self,
        now: Micros,
        peer: PeerId,
        bare: &str,
        source: SeatId,
        path: Path,
        frame: &[u8],
    ) {
        let Some(path) = path.further() else {
            self.count(Counter::DropHops);
            return self.bounce(now, source, frame, "503");
        };
        self.note_moved_abroad(now, frame);
        let home = self.home_of(peer);
        if home != self.id {
            self.sample_to_shard(source, home);
            return self.data[usize::from(home)].push_for(Verb::Abroad(peer, path), source, bare, frame);
        }
        self.cross_here(now, peer, bare, source, path, frame);
    }

    /// The peer's home: the same.
    fn cross_here(&mut self, now: Micros, peer: PeerId, bare: &str, source: SeatId, path: Path, frame: &[u8]) {
        let Some(cluster) = &self.cluster else { return };
        if !cluster.homes.contains_key(&peer) {
            return self.user_again(now, bare, source, path, frame);
        }
        let (origin, number): (Box<str>, SeatId) = match self.seats_number(source) {
            Some((of, number)) => (cluster.name_of(of).into(), number),
            None => ("".into(), source),
        };
        let packet = Packet::ToUser {
            bare,
            path,
            origin: &origin,
            source: number,
            frame,
        };
        self.trace(now, Step::ToNode(peer), source, frame, None);
        if !self.post_packet(peer, &packet) {
            self.overflow(now, source, source, frame);
        }
    }

    fn seats_number(&self, seat: SeatId) -> Option<(PeerId, SeatId)> {
        let peer = self.names.seat(seat)?.peer?;
        let numbers = &self.cluster.as_ref()?.numbers;
        let found = numbers.iter().find(|((of, _), here)| *of == peer && **here == seat);
        found.map(|((of, number), _)| (*of, *number))
    }

    /// Back to a component of another node.
    pub(in crate::node) fn cross_back(&mut self, seat: SeatId, frame: &[u8], code: &'static str) {
        let Some((peer, number)) = self.seats.get(seat).and_then(|state| state.abroad) else {
            return;
        };
        let packet = Packet::Bounce {
            seat: number,
            code,
            frame,
        };
        self.post_packet(peer, &packet);
    }

    /// Gives a frame for a user back to the node that it came from, and all that follow it until that node's marker comes.
    pub(in crate::node) fn send_astray_back(
        &mut self,
        now: Micros,
        peer: PeerId,
        bare: &str,
        source: SeatId,
        hops: u8,
        frame: &[u8],
    ) {
        let number = self.seats_number(source).filter(|(of, _)| *of == peer);
        let seat = number.map_or(SELF, |(_, number)| number);
        if let Some(cluster) = &mut self.cluster {
            cluster.astray.insert(peer, jid::lasting_hash(bare));
        }
        self.count(Counter::Astray);
        let packet = Packet::Astray {
            bare,
            hops,
            seat,
            frame,
        };
        self.post_by_home(now, peer, &packet);
    }

    /// The peer's home: a packet to it, or back if it is gone: then whatever was under way to it went back before.
    fn post_or_keep(&mut self, now: Micros, peer: PeerId, packet: &Packet<'_>) {
        let homes = self.cluster.as_ref().map(|cluster| &cluster.homes);
        match homes.is_some_and(|homes| homes.contains_key(&peer)) {
            true => drop(self.post_packet(peer, packet)),
            false => self.packet_again(now, peer, packet.clone()),
        }
    }

    /// A packet of any shard to a peer, in the order of this shard's frames.
    pub(super) fn post_by_home(&mut self, now: Micros, peer: PeerId, packet: &Packet<'_>) {
        let home = self.home_of(peer);
        if home == self.id {
            return self.post_or_keep(now, peer, packet);
        }
        let mut bytes = Vec::new();
        packet.write(&mut bytes);
        self.data[usize::from(home)].push(Verb::Post(peer), SELF, &bytes);
    }

    /// A frame or marker from a lane between shards that has to do with other nodes.
    pub(in crate::node) fn lane_abroad(&mut self, now: Micros, verb: Verb, source: SeatId, bytes: &[u8]) {
        match verb {
            Verb::Abroad(peer, path) => {
                if let Some((bare, frame)) = DataBatch::cut_for(bytes) {
                    self.cross_here(now, peer, bare, source, path, frame);
                }
            }
            Verb::Post(peer) => {
                if let Some(packet) = Packet::read(bytes) {
                    self.post_or_keep(now, peer, &packet);
                }
            }
            Verb::Astray(peer, hops) => {
                if let Some((bare, frame)) = DataBatch::cut_for(bytes) {
                    self.came_astray(now, peer, bare, source, hops, frame);
                }
            }
            Verb::Inquiry(from) => self.inquiry(now, from, bytes),
            Verb::Outside => {
                if let Some((domain, frame)) = DataBatch::cut_for(bytes) {
                    self.outside(now, domain, source, frame);
                }
            }
            Verb::Marker(marker) => {
                if let Ok(bare) = std::str::from_utf8(bytes) {
                    self.marker_for(now, bare, marker);
                }
            }
            _ => unreachable!("the caller gives only these"),
        }
    }

    /// False when the peer's queue is full.
    pub(super) fn post_packet(&mut self, peer: PeerId, packet: &Packet<'_>) -> bool {
        let mut bytes = Vec::new();
        packet.write(&mut bytes);
        let posted = self.post(peer, Lane::Data, bytes);
        if !posted {
            self.count(Counter::DropPeerQueue);
        }
        posted
    }

    /// The peer's home: a packet from it.
    pub(super) fn packet(&mut self, now: Micros, peer: PeerId, packet: Packet<'_>) {
        match packet {
            Packet::ToSeat { seat, source, frame } => self.packet_to_seat(now, peer, seat, source, frame),
            Packet::ToUser {
                bare,
                path,
                origin,
                source,
                frame,
            } => {
                let (source, id) = self.source_of(peer, origin, source);
                let Ok(Frame::Route(route)) = header::read(frame) else {
                    return;
                };
                let frame = self.here(frame, &route, None, id.as_deref());
                self.trace(now, Step::FromNode(peer), source, &frame, None);
                let path = Path {
                    from: Some(peer),
                    ..path
                };
                self.user_frame(now, bare, source, path, &frame);
            }
            Packet::Ask { .. } | Packet::Answer { .. } => self.inquiry_packet(now, Some(peer), &packet),
            Packet::Bounce { seat, code, frame } => self.packet_back(now, peer, seat, code, frame),
            Packet::Astray {
                bare,
                hops,
                seat,
                frame,
            } => self.packet_astray(now, peer, bare, hops, seat, frame),
            Packet::Marker { bare, shard, serial } => {
                let origin = Some(peer);
                self.marker_in(now, bare, Marker { origin, shard, serial });
            }
            Packet::MarkerDone { shard, serial } => self.pass_marker_done(now, shard, serial),
            Packet::Flush { round } => self.flush_for_peer(now, peer, round),
            Packet::Flushed { round } => self.peer_flushed(now, peer, Some(round)),
            Packet::ExitAsk { domain } => {
                let (shard, domain) = (self.exit_shard(domain), domain.into());
                self.tell(now, shard, Message::ExitAsked { peer, domain });
            }
            Packet::ExitIs { domain, node } => {
                let Some(cluster) = &self.cluster else { return };
                let site = match node {
                    "" => None,
                    own if *own == *cluster.own => None,
                    other => match cluster.peer_named(other) {
                        Some(peer) => Some(peer),
                        None => return,
                    },
                };
                let (shard, domain) = (self.exit_shard(domain), domain.into());
                self.tell(now, shard, Message::ExitTold { domain, site });
            }
            Packet::Untold { bare, hops, resource } => self.tell_owner_untold(now, bare, resource, hops),
        }
    }

    fn packet_to_seat(&mut self, now: Micros, peer: PeerId, seat: SeatId, source: SeatId, frame: &[u8]) {
        let Ok(Frame::Route(route)) = header::read(frame) else {
            return;
        };
        let (source, id) = self.source_of(peer, "", source);
        let id_here = self.names.seat(seat).map(|view| view.id.clone());
        let frame = self.here(frame, &route, id_here.as_deref(), id.as_deref());
        let Ok(Frame::Route(route)) = header::read(&frame) else {
            return;
        };
        self.trace(now, Step::FromNode(peer), source, &frame, Some(&route));
        if self.names.seat(seat).is_some_and(|view| view.peer.is_some()) {
            return self.count(Counter::DropGone);
        }
        if source == SELF || self.observe(now, source, &frame, &route) {
            self.hand_with(now, seat, source, &frame, Some(&route));
        }
    }

    fn packet_back(&mut self, now: Micros, peer: PeerId, seat: SeatId, code: &'static str, frame: &[u8]) {
        let Ok(Frame::Route(route)) = header::read(frame) else {
            return;
        };
        if self.names.seat(seat).is_none_or(|view| view.peer.is_some()) {
            return self.count(Counter::DropGone);
        }
        let to = route.to.and_then(|to| to.unescape());
        let node = self.cluster.as_ref().map_or("", |cluster| cluster.name_of(peer));
        // What went to a user bears the address that its sender wrote, a redirect's too.
        let to = to
            .filter(|_| self.by_redirect(seat, &route).is_none())
            .map(|to| format!("{to}.{node}"))
            .filter(|name| self.names.get(name).is_some());
        let mended = self.as_sent(frame, &route, to.as_deref());
        self.bounce(now, seat, &mended, code);
    }

    /// The peer's home: a frame for a user comes back.
    fn packet_astray(&mut self, now: Micros, peer: PeerId, bare: &str, hops: u8, seat: SeatId, frame: &[u8]) {
        let Ok(Frame::Route(route)) = header::read(frame) else {
            return;
        };
        let frame = self.as_sent(frame, &route, None);
        let owner = self.owner(bare);
        if owner == self.id {
            return self.came_astray(now, peer, bare, seat, hops, &frame);
        }
        self.data[usize::from(owner)].push_for(Verb::Astray(peer, hops), seat, bare, &frame);
    }

    /// A frame of a component of this node, as it was before another node had it. `to`: whom it is for.
    fn as_sent(&self, frame: &[u8], route: &Route<'_>, to: Option<&str>) -> Vec<u8> {
        let from = route.from.and_then(|from| from.unescape());
        let from = from.as_deref().and_then(|from| self.id_at_home(from));
        let mut mended = Vec::with_capacity(frame.len() + 64);
        edit::with_addresses(frame, route, to, from, &mut mended);
        mended
    }

    /// The seat of a packet's sender, and the id under which it is known here, where that is not what it calls itself.
    fn source_of(&self, peer: PeerId, origin: &str, number: SeatId) -> (SeatId, Option<Box<str>>) {
        let Some(cluster) = self.cluster.as_ref().filter(|_| number != SELF) else {
            return (SELF, None);
        };
        let seat = match origin {
            "" => self.seat_of(peer, number),
            own if *own == *cluster.own => Some(number),
            other => cluster
                .peer_named(other)
                .and_then(|origin| self.seat_of(origin, number)),
        };
        let id = seat.and_then(|seat| self.names.seat(seat)).map(|view| view.id.clone());
        (seat.unwrap_or(SELF), id)
    }

    /// A frame as this node's components may have it: ids of components are good on their own node only, so that of its
    /// destination becomes what it calls itself, and that of its source what it is called here.
    fn here<'f>(&self, frame: &'f [u8], route: &Route<'_>, to: Option<&str>, from: Option<&str>) -> Cow<'f, [u8]> {
        let is = |value: Option<crate::wire::value::Value<'_>>, name: &str| value.is_some_and(|value| value.is(name));
        let to = to.filter(|id| is(route.to, &self.name_abroad(id)));
        let from = from.filter(|id| {
            let abroad = self
                .names
                .get(id)
                .and_then(|(_, name)| self.names.seat(name.holders[0])?.peer)
                .and_then(|peer| super::seats::strip_node(id, self.cluster.as_ref()?.name_of(peer)));
            match abroad {
                // A service has one name everywhere.
                Some(id_there) => {
                    is(route.from, id_there)
                        && self.names.get(id_there).is_none_or(|(_, name)| {
                            !name
                                .holders
                                .iter()
                                .any(|seat| self.names.seat(*seat).is_some_and(|view| *view.id == **id))
                        })
                }
                None => is(route.from, &self.name_abroad(id)),
            }
        });
        if to.is_none() && from.is_none() {
            return Cow::Borrowed(frame);
        }
        // Where sm speaks for itself (it asks services what they are), the stanza has its id too.
        let mut values: SmallVec<[(Value<'_>, &str); 4]> = SmallVec::new();
        let payload = route.payload.as_ref();
        for (old, new, inner) in [
            (route.to, to, payload.and_then(|payload| payload.to)),
            (route.from, from, payload.and_then(|payload| payload.from)),
        ] {
            if let (Some(old), Some(new)) = (old, new) {
                values.push((old, new));
                values.extend(inner.filter(|inner| *inner == old).map(|inner| (inner, new)));
            }
        }
        let mut mended = Vec::with_capacity(frame.len() + 64);
        edit::with_values(frame, &values, &mut mended);
        Cow::Owned(mended)
    }

    /// A frame for a user, to the shard that owns him.
    fn user_frame(&mut self, now: Micros, bare: &str, source: SeatId, path: Path, frame: &[u8]) {
        let owner = self.owner(bare);
        if owner == self.id {
            self.for_user(now, source, frame, path);
        } else {
            self.sample_to_shard(source, owner);
            self.data[usize::from(owner)].push(Verb::User(path), source, frame);
        }
    }

    /// What was under way to a node that is gone looks for another way, before anything that was sent since.
    fn user_again(&mut self, now: Micros, bare: &str, source: SeatId, path: Path, frame: &[u8]) {
        let is_start = matches!(header::read(frame), Ok(Frame::Route(Route { payload: Some(payload), .. }))
            if payload.kind == PayloadKind::Session);
        if is_start {
            // Kept by the node it came from, and asked for again.
            return self.count(Counter::DropGone);
        }
        let path = Path {
            hops: path.hops.saturating_add(1).min(TRIES_MAX),
            again: true,
            ..path
        };
        self.user_frame(now, bare, source, path, frame);
    }

    /// A marker for a user, to the shard that owns him: by the lane of the frames before it.
    fn marker_in(&mut self, now: Micros, bare: &str, marker: Marker) {
        let owner = self.owner(bare);
        if owner == self.id {
            return self.marker_for(now, bare, marker);
        }
        self.data[usize::from(owner)].push(Verb::Marker(marker), SELF, bare.as_bytes());
    }

    /// The home of a peer that is gone: a packet that it may have handled. What somebody may have read is given to nobody
    /// else; its sender is told that it may be lost.
    pub(super) fn packet_in_doubt(&mut self, now: Micros, peer: PeerId, packet: Packet<'_>) {
        let (source, frame) = match packet {
            Packet::ToUser {
                origin, source, frame, ..
            } if !origin.is_empty() => (self.source_of(peer, origin, source).0, frame),
            Packet::ToUser { source, frame, .. } | Packet::ToSeat { source, frame, .. } => (source, frame),
            // Twice does no harm; or its sender is as much in doubt about it, and gives it to nobody.
            _ => return self.packet_again(now, peer, packet),
        };
        let Ok(Frame::Route(Route {
            payload: Some(payload), ..
        })) = header::read(frame)
        else {
            return self.count(Counter::DropGone);
        };
        match packet {
            _ if payload.kind == PayloadKind::Session => self.packet_again(now, peer, packet),
            Packet::ToUser { bare, .. } => self.frame_in_doubt(now, source, frame, &payload, Some(bare)),
            _ => self.frame_in_doubt(now, source, frame, &payload, None),
        }
    }

    /// A frame, for this user if he is known, may have been handled by a node that is gone.
    pub(super) fn frame_in_doubt(
        &mut self,
        now: Micros,
        source: SeatId,
        frame: &[u8],
        payload: &Payload<'_>,
        bare: Option<&str>,
    ) {
        if let Some(bare) = bare {
            self.note_doubtful(now, payload, bare);
        }
        if matches!(payload.kind, PayloadKind::Message | PayloadKind::Iq) {
            self.bounce(now, source, frame, "503");
        }
        self.count(Counter::InDoubt);
    }

    /// The home of a peer that is gone: a packet that it cannot have handled.
    pub(super) fn packet_again(&mut self, now: Micros, peer: PeerId, packet: Packet<'_>) {
        match packet {
            Packet::ToUser {
                bare,
                path,
                origin,
                source,
                frame,
            } => {
                let source = match origin {
                    "" => source,
                    _ => self.source_of(peer, origin, source).0,
                };
                self.user_again(now, bare, source, path, frame);
            }
            Packet::Marker { bare, shard, serial } => {
                let origin = None;
                self.marker_in(now, bare, Marker { origin, shard, serial });
            }
            Packet::ToSeat { source, frame, .. } if self.was_leaving(frame) => self.leaves_again(now, source, frame),
            // The clients of a c2s here are ended with their sm, and a session that lost its c2s is its sm's affair.
            Packet::ToSeat { source, .. } if self.names.seat(source).is_none_or(|view| view.kind == SeatKind::C2s) => {
                self.count(Counter::DropGone);
            }
            Packet::ToSeat { source, frame, .. } => self.bounce(now, source, frame, "404"),
            Packet::Untold { bare, hops, resource } => self.tell_owner_untold(now, bare, resource, hops),
            // Who waits for its exit is told so when the peer's state is.
            Packet::ExitAsk { .. } | Packet::ExitIs { .. } => {}
            // Its sender is gone: it is this node's to send.
            Packet::Astray { bare, hops, frame, .. } => {
                let path = Path { hops, ..Path::LOCAL };
                self.user_again(now, bare, SELF, path, frame);
            }
            Packet::Bounce { .. }
            | Packet::Flush { .. }
            | Packet::Flushed { .. }
            | Packet::MarkerDone { .. }
            | Packet::Ask { .. }
            | Packet::Answer { .. } => self.count(Counter::DropGone),
        }
    }

    /// Sends word to a marker's origin that all before it has arrived here, or has come back.
    pub(in crate::node) fn marker_arrived(&mut self, now: Micros, bare: &str, marker: Marker) {
        let (shard, serial) = (marker.shard, marker.serial);
        let Some(peer) = marker.origin else { return };
        if let Some(cluster) = &mut self.cluster {
            cluster.astray.remove(peer, jid::lasting_hash(bare));
        }
        self.post_by_home(now, peer, &Packet::MarkerDone { shard, serial });
    }

    /// To the shard whose user waits for it: behind what came back.
    fn pass_marker_done(&mut self, now: Micros, shard: ShardId, serial: u64) {
        // Another process of this node may have its users at other shards.
        let redealt = self.cluster.as_ref().is_some_and(|cluster| cluster.redealt);
        for to in (0..self.shards).filter(|to| redealt || *to == shard) {
            match to == self.id {
                true => self.marker_done(now, serial),
                false => self.data[usize::from(to)].push(Verb::MarkerDone(serial), SELF, &[]),
            }
        }
    }

    /// To the shard that owns the user.
    fn tell_owner_untold(&mut self, now: Micros, bare: &str, resource: &str, hops: u8) {
        let message = Message::Untold {
            bare: bare.into(),
            resource: resource.into(),
            hops,
        };
        self.tell(now, self.owner(bare), message);
    }

    /// The home of a peer: it shall tell the contacts of a session that died.
    pub(in crate::node) fn post_untold(&mut self, peer: PeerId, bare: &str, resource: &str, hops: u8) {
        self.post_packet(peer, &Packet::Untold { bare, hops, resource });
    }

    /// The home of a domain's owner: who is its exit?
    pub(in crate::node) fn post_exit_ask(&mut self, peer: PeerId, domain: &str) {
        self.post_packet(peer, &Packet::ExitAsk { domain });
    }

    /// The home of a node that asked for an exit: this one. `None`: this node.
    pub(in crate::node) fn post_exit_is(&mut self, peer: PeerId, domain: &str, site: Option<PeerId>) {
        let Some(cluster) = &self.cluster else { return };
        let node: Box<str> = match site {
            None => cluster.own.clone(),
            Some(exit) if exit == peer => "".into(),
            Some(exit) => cluster.name_of(exit).into(),
        };
        self.post_packet(peer, &Packet::ExitIs { domain, node: &node });
    }

    /// Sends what is known of a lost session to the node that can tell the contacts.
    pub(super) fn untold_abroad(&mut self, now: Micros, bare: &str, resource: Box<str>, hops: u8) {
        let (Place::At(peer), Some(hops)) = (self.place(bare), hops.checked_sub(1)) else {
            return;
        };
        let home = self.home_of(peer);
        self.tell(
            now,
            home,
            Message::UntoldAbroad {
                peer,
                bare: bare.into(),
                resource,
                hops,
            },
        );
    }
}
