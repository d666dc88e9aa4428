//! When the way to a user changes, or what was sent to him comes back.
//!
//! A marker goes down the old way, behind everything that was sent by it. The node at its end answers when all of that
//! has gone on there, or stands before the answer: given back, since that node does not serve the user. Until then this
//! shard keeps what its node's own components send him; then what came back goes first.
//!
//! Where nothing has changed since (word of who serves him now is still on its way), it waits a little longer.

use super::message::Packet;
use super::{Cluster, Place};
use crate::jid;
use crate::node::api::{Level, Micros};
use crate::node::counters::Counter;
use crate::node::lane::PeerState;
use crate::node::{Shard, TICK_US};
use crate::table::users::{Held, Marker, Turn, Waiting};
use crate::table::ways::Path;
use crate::table::{PeerId, SeatId, ShardId};
use crate::wire::header::{self, Frame, Route};
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
    /// A frame for a user goes by `way`. True when it has to wait for what went by another way. What other nodes send they
    /// keep in order themselves.
    pub(in crate::node) fn waits_for_turn(
        &mut self,
        now: Micros,
        bare: &str,
        way: Place,
        source: SeatId,
        path: Path,
        frame: &[u8],
    ) -> bool {
        if path.again || !path.is_local() {
            return false;
        }
        let Some(cluster) = &self.cluster else { return false };
        let old = match (self.turn(bare), cluster.ways.last(jid::lasting_hash(bare))) {
            (Some(turn), _) => turn.old,
            (None, Some(old)) if way != Place::At(old) => old,
            _ => return false,
        };
        let held = self.make_held(now, source, path, frame);
        self.keep(now, bare, old, held, |turn| &mut turn.frames);
        true
    }

    fn turn(&self, bare: &str) -> Option<&Turn> {
        self.users.get(bare)?.flux.as_ref()?.turn.as_ref()
    }

    /// The serial of its marker.
    fn begin_turn(&mut self, now: Micros, bare: &str, old: PeerId) -> u64 {
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
                done: false,
                back: VecDeque::new(),
                frames: VecDeque::new(),
            });
        });
        self.count(Counter::Turns);
        self.wake_by(now + TICK_US);
        serial
    }

    /// Keeps this for a user whose way turns, or begins to: `old` is where what he was sent went.
    fn keep(
        &mut self,
        now: Micros,
        bare: &str,
        old: PeerId,
        held: Option<Held>,
        among: impl FnOnce(&mut Turn) -> &mut VecDeque<Held>,
    ) {
        let begun = self.turn(bare).is_none().then(|| self.begin_turn(now, bare, old));
        // Before the marker goes: it may be back at once, and let go what waits.
        self.users.change(bare, |user| {
            let turn = user.flux().turn.as_mut();
            among(turn.expect("it turns")).extend(held);
        });
        if let Some(serial) = begun {
            let shard = self.id;
            self.post_by_home(now, old, &Packet::Marker { bare, shard, serial });
        }
    }

    /// What comes from this node for a user goes back to it until its marker comes: something did before.
    pub(in crate::node) fn is_astray(&self, sender: PeerId, bare: &str) -> bool {
        let cluster = self.cluster.as_ref();
        cluster.is_some_and(|cluster| !cluster.astray.is_empty() && cluster.astray.has(sender, jid::lasting_hash(bare)))
    }

    /// A frame that was sent to `peer` comes back.
    pub(super) fn came_astray(
        &mut self,
        now: Micros,
        peer: PeerId,
        bare: &str,
        source: SeatId,
        hops: u8,
        frame: &[u8],
    ) {
        if self.cluster.is_none() {
            return;
        }
        let path = Path { hops, ..Path::LOCAL };
        let held = self.make_held(now, source, path, frame);
        self.keep(now, bare, peer, held, |turn| &mut turn.back);
    }

    /// A marker has come to the shard that owns its user, at the end of its way; or nothing gets there any more.
    pub(super) fn marker_for(&mut self, now: Micros, bare: &str, marker: Marker) {
        let waits = |shard: &mut Shard| {
            let holds = shard.users.get(bare).is_some_and(|user| user.holds());
            // What went to an sm here is to be done before anything goes elsewhere.
            holds || (matches!(shard.place(bare), Place::At(_)) && shard.wait_for_fences(now, bare, None))
        };
        let sent_on = self
            .cluster
            .as_ref()
            .and_then(|cluster| cluster.sent_on.last(jid::lasting_hash(bare)));
        let held = Held {
            source: crate::node::SELF,
            path: Path::LOCAL,
            what: Waiting::Marker(marker),
        };
        if marker.origin.is_none() {
            self.marker_lost(now, marker.serial);
        } else if waits(self) {
            self.held_bytes += held.what.byte_len();
            self.users.change(bare, |user| user.flux().held.push_back(held));
        } else if let Some(to) = sent_on {
            self.held_bytes += held.what.byte_len();
            self.keep(now, bare, to, Some(held), |turn| &mut turn.frames);
        } else {
            self.marker_arrived(now, bare, marker);
        }
    }

    /// Of whose turn this marker is.
    fn take_turning(&mut self, serial: u64) -> Option<Box<str>> {
        let turning = &mut self.cluster.as_mut()?.turning;
        let at = turning.iter().position(|(.., other)| *other == serial)?;
        let (_, bare, _) = turning.remove(at)?;
        self.turn(&bare)
            .is_some_and(|turn| turn.serial == serial)
            .then_some(bare)
    }

    /// The node of the old way is gone. What came back from it may be under way from there to the user as well: it did
    /// not hear that this node has it.
    fn marker_lost(&mut self, now: Micros, serial: u64) {
        let Some(bare) = self.take_turning(serial) else { return };
        let back = self.users.change(&bare, |user| {
            let turn = user.flux().turn.as_mut();
            turn.map(|turn| std::mem::take(&mut turn.back)).unwrap_or_default()
        });
        for Held { source, what, .. } in back {
            self.held_bytes -= what.byte_len();
            if let Waiting::Frame(frame) = what
                && let Ok(Frame::Route(Route {
                    payload: Some(payload), ..
                })) = header::read(&frame)
            {
                self.frame_in_doubt(now, source, &frame, &payload, Some(&bare));
            }
        }
        self.end_turn(now, &bare);
    }

    /// All that went by the old way has arrived or come back.
    pub(in crate::node) fn marker_done(&mut self, now: Micros, serial: u64) {
        let Some(bare) = self.take_turning(serial) else { return };
        self.users.change(&bare, |user| {
            if let Some(turn) = &mut user.flux().turn {
                turn.done = true;
            }
        });
        if let Some(cluster) = &mut self.cluster {
            cluster.sent_back.push_back((now + TICK_US, bare.clone(), serial));
            self.wake_by(now + TICK_US);
        }
        self.turn_may_end(now, &bare);
    }

    /// Ends a turn whose marker is back, unless what came back would go where it was.
    pub(in crate::node) fn turn_may_end(&mut self, now: Micros, bare: &str) {
        let Some(turn) = self.turn(bare).filter(|turn| turn.done) else {
            return;
        };
        if turn.back.is_empty() || self.place(bare) != Place::At(turn.old) {
            self.end_turn(now, bare);
        }
    }

    fn end_turn(&mut self, now: Micros, bare: &str) {
        let turn = self.users.change(bare, |user| user.flux().turn.take());
        let Some(Turn { old, back, frames, .. }) = turn else {
            return;
        };
        if let Some(cluster) = &mut self.cluster {
            let user = jid::lasting_hash(bare);
            cluster.ways.forget(user);
            if cluster.sent_on.last(user) == Some(old) {
                cluster.sent_on.forget(user);
            }
        }
        if self.users.get(bare).is_some_and(|user| user.holds()) {
            // Older than what waits here meanwhile.
            return self.users.change(bare, |user| {
                let flux = user.flux();
                for held in back.into_iter().chain(frames).rev() {
                    flux.held.push_front(held);
                }
            });
        }
        for Held { source, path, what } in back.into_iter().chain(frames) {
            self.held_bytes -= what.byte_len();
            match what {
                Waiting::Frame(frame) => self.for_user(now, source, &frame, path),
                Waiting::Marker(marker) => self.marker_for(now, bare, marker),
            }
        }
    }

    /// Nothing gets through to the node of the old way. It comes back or is given up, and either way what went there goes
    /// first; but nobody waits for it longer than for a lost process.
    fn may_still_arrive(&self, now: Micros, bare: &str) -> bool {
        let Some((turn, cluster)) = self.turn(bare).zip(self.cluster.as_ref()) else {
            return false;
        };
        let stalled = cluster
            .peer(turn.old)
            .is_some_and(|view| view.state == PeerState::Stalled);
        stalled && now < turn.until + self.config.grace_ms * 1_000
    }

    /// Lets go what waited too long for a marker, and what came back a while ago. True when somebody still waits.
    pub(in crate::node) fn tick_turns(&mut self, now: Micros) -> bool {
        let Some(cluster) = &mut self.cluster else { return false };
        let late = take_due(now, &mut cluster.turning);
        let back = take_due(now, &mut cluster.sent_back);
        for (bare, serial) in back {
            if self.turn(&bare).is_some_and(|turn| turn.serial == serial) {
                self.end_turn(now, &bare);
            }
        }
        for (bare, serial) in late {
            if self.turn(&bare).is_none_or(|turn| turn.serial != serial) {
                continue;
            }
            if self.may_still_arrive(now, &bare)
                && let Some(cluster) = &mut self.cluster
            {
                cluster.turning.push_back((now + TURN_US, bare, serial));
                continue;
            }
            self.log(
                Level::Warning,
                None,
                format!("{bare}: what was sent by another way has not arrived, going on without"),
            );
            self.end_turn(now, &bare);
        }
        let cluster = self.cluster.as_ref();
        cluster.is_some_and(|cluster| !cluster.turning.is_empty() || !cluster.sent_back.is_empty())
    }
}

/// Those whose time has come.
fn take_due(now: Micros, list: &mut VecDeque<(Micros, Box<str>, u64)>) -> Vec<(Box<str>, u64)> {
    let count = list.iter().take_while(|(until, ..)| *until <= now).count();
    list.drain(..count).map(|(_, bare, serial)| (bare, serial)).collect()
}
