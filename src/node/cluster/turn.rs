//! When the way to a user changes.
//!
//! A marker goes down the old way, behind everything that was sent by it, travels as frames for that user do, and comes
//! to an end where he is served. Until word of that comes back, this shard keeps what its node's own components send him.
//!
//! What comes to a node that has just given a user back goes on from there to his directory owner. If this node serves him
//! again before that has come back (`again`), the way has changed in the same sense, and what comes from other nodes
//! meanwhile is kept too.

use super::{Cluster, Place};
use crate::jid;
use crate::node::Shard;
use crate::node::api::{Level, Micros};
use crate::node::counters::Counter;
use crate::node::lane::{Message, PeerState};
use crate::table::users::{Held, Marker, Turn, Waiting};
use crate::table::ways::{HOPS_MAX, Path};
use crate::table::{PeerId, SeatId, ShardId};
use std::collections::VecDeque;

/// The longest that frames wait for a marker, microseconds. Then they go on: late is worse than out of order.
const TURN_US: Micros = 5_000_000;

impl Cluster {
    /// Nothing that this node sent for a user lately went to another one.
    pub(in crate::node) fn is_settled(&self, bare: &str) -> bool {
        self.ways.last(jid::lasting_hash(bare)).is_none()
    }
}

impl Shard {
    /// A frame for a user goes by `way`. True when it has to wait for what went by another way.
    pub(in crate::node) fn waits_for_turn(
        &mut self,
        now: Micros,
        bare: &str,
        way: Place,
        source: SeatId,
        path: Path,
        frame: &[u8],
    ) -> bool {
        if path.again || (!path.is_local() && !self.may_overtake(way, source)) {
            return false;
        }
        let Some(cluster) = &self.cluster else { return false };
        if self.is_turning(bare) {
            self.keep_for_turn(now, bare, source, path, frame);
            return true;
        }
        match cluster.ways.last(jid::lasting_hash(bare)) {
            Some(old) if way != Place::At(old) => {
                let marker = self.begin_turn(now, bare, old);
                // Before the marker goes: it may be back at once, and let go what waits.
                self.keep_for_turn(now, bare, source, path, frame);
                self.cross_marker(now, old, bare, HOPS_MAX, marker);
                true
            }
            _ => false,
        }
    }

    /// Whether a frame that has crossed from another node may overtake others on their way back: it stays here, and is
    /// not itself one of this node's own.
    fn may_overtake(&self, way: Place, source: SeatId) -> bool {
        let own = self.names.seat(source).is_some_and(|view| view.peer.is_none());
        way == Place::Here && !own
    }

    fn is_turning(&self, bare: &str) -> bool {
        let flux = self.users.get(bare).and_then(|user| user.flux.as_ref());
        flux.is_some_and(|flux| flux.turn.is_some())
    }

    fn begin_turn(&mut self, now: Micros, bare: &str, old: PeerId) -> Marker {
        let (shard, until) = (self.id, now + TURN_US);
        let serial = self.cluster.as_mut().map_or(0, |cluster| {
            cluster.serial += 1;
            // Another process of this node may have its users at other shards.
            let serial = cluster.serial << ShardId::BITS | u64::from(shard);
            cluster.turning.push_back((until, bare.into(), serial));
            serial
        });
        self.users.change(bare, |user| {
            user.flux().turn = Some(Turn {
                serial,
                old,
                until,
                frames: VecDeque::new(),
            });
        });
        self.count(Counter::Turns);
        self.wake_by(now + crate::node::TICK_US);
        Marker {
            origin: None,
            shard,
            serial,
        }
    }

    fn keep_for_turn(&mut self, now: Micros, bare: &str, source: SeatId, path: Path, frame: &[u8]) {
        if !self.may_hold(frame.len()) {
            return self.bounce(now, source, frame, "503");
        }
        self.held_bytes += frame.len();
        self.count(Counter::HeldFrames);
        let held = Held {
            source,
            path,
            what: Waiting::Frame(frame.into()),
        };
        self.keep_behind(bare, held);
    }

    fn keep_behind(&mut self, bare: &str, held: Held) {
        self.users.change(bare, |user| {
            let turn = user.flux().turn.as_mut();
            turn.expect("only a user whose way turns has frames kept")
                .frames
                .push_back(held);
        });
    }

    /// A marker has come to the shard that owns its user: it goes where a frame for him would go.
    pub(super) fn marker_for(&mut self, now: Micros, bare: &str, hops: u8, marker: Marker) {
        if marker.origin.is_none() {
            return self.marker_arrived(now, marker);
        }
        let held = Held {
            source: crate::node::SELF,
            path: Path { hops, ..Path::LOCAL },
            what: Waiting::Marker(marker),
        };
        let leaves = matches!(self.place(bare), Place::At(_));
        if !leaves && self.is_turning(bare) {
            self.held_bytes += held.what.byte_len();
            return self.keep_behind(bare, held);
        }
        if self.users.get(bare).is_some_and(|user| user.holds()) || (leaves && self.wait_for_fences(now, bare, None)) {
            self.held_bytes += held.what.byte_len();
            self.users.change(bare, |user| user.flux().held.push_back(held));
            return;
        }
        match self.place(bare) {
            Place::At(peer) => self.cross_marker(now, peer, bare, hops, marker),
            Place::Here => self.marker_arrived(now, marker),
        }
    }

    /// All that went by the old way has arrived: to the shard whose user waits for it.
    pub(super) fn tell_marker_done(&mut self, now: Micros, shard: ShardId, serial: u64) {
        if self.cluster.as_ref().is_some_and(|cluster| cluster.redealt) {
            self.tell_all(now, &Message::MarkerDone { serial });
        } else if shard < self.shards {
            self.tell(now, shard, Message::MarkerDone { serial });
        }
    }

    /// All that went by the old way has arrived.
    pub(in crate::node) fn marker_done(&mut self, now: Micros, serial: u64) {
        let Some(cluster) = &mut self.cluster else { return };
        let Some(at) = cluster.turning.iter().position(|(.., other)| *other == serial) else {
            return;
        };
        if let Some((_, bare, _)) = cluster.turning.remove(at) {
            self.end_turn(now, &bare, serial);
        }
    }

    fn end_turn(&mut self, now: Micros, bare: &str, serial: u64) {
        let turn = self.users.get(bare).and_then(|user| user.flux.as_ref()?.turn.as_ref());
        if turn.is_none_or(|turn| turn.serial != serial) {
            return;
        }
        if let Some(cluster) = &mut self.cluster {
            cluster.ways.forget(jid::lasting_hash(bare));
        }
        let frames = self
            .users
            .change(bare, |user| user.flux().turn.take())
            .map(|turn| turn.frames)
            .unwrap_or_default();
        for Held { source, path, what } in frames {
            self.held_bytes -= what.byte_len();
            match what {
                Waiting::Frame(frame) => self.for_user(now, source, &frame, path),
                Waiting::Marker(marker) => self.marker_for(now, bare, path.hops, marker),
            }
        }
    }

    /// Nothing gets through to the node of the old way. It comes back or is given up, and either way what went there goes
    /// first; but nobody waits for it longer than for a lost process.
    fn may_still_arrive(&self, now: Micros, bare: &str) -> bool {
        let turn = self.users.get(bare).and_then(|user| user.flux.as_ref()?.turn.as_ref());
        let Some((turn, cluster)) = turn.zip(self.cluster.as_ref()) else {
            return false;
        };
        let stalled = cluster
            .peer(turn.old)
            .is_some_and(|view| view.state == PeerState::Stalled);
        stalled && now < turn.until + self.config.grace_ms * 1_000
    }

    /// Lets go what waited too long for a marker. True when somebody still waits.
    pub(in crate::node) fn tick_turns(&mut self, now: Micros) -> bool {
        let Some(cluster) = &mut self.cluster else { return false };
        let mut late = Vec::new();
        while let Some((until, ..)) = cluster.turning.front()
            && *until <= now
        {
            late.extend(cluster.turning.pop_front());
        }
        let mut waits = !cluster.turning.is_empty();
        for (_, bare, serial) in late {
            if self.may_still_arrive(now, &bare)
                && let Some(cluster) = &mut self.cluster
            {
                cluster.turning.push_back((now + TURN_US, bare, serial));
                waits = true;
                continue;
            }
            self.log(
                Level::Warning,
                None,
                format!("{bare}: what was sent by another way has not arrived, going on without"),
            );
            self.end_turn(now, &bare, serial);
        }
        waits
    }
}
