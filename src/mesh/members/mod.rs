//! Membership: who belongs to the cluster, and who of them is alive. Lives on shard 0.
//!
//! SWIM with suspicion, as the `foca` crate implements it. Its packets travel as datagrams over the control lanes; what
//! the peers' connections show is merged: a process that is gone while its machine answers is waited for, silence is a
//! suspicion.
//!
//! # Settings, and why
//!
//! A silent node must be known dead within 5 s (P4), among 3 nodes as among 64. Each node probes one member each
//! [`PROBE_PERIOD_MS`]; a member is probed by somebody in nearly every period, however many there are (each of n nodes
//! chooses it with 1/n), and among 3 nodes at the latest in the third. The probe fails at the end of its period, and
//! suspicion lasts [`SUSPICION_MS`]: 3 x 0.4 + 0.4 + 2 = 3.6 s among 3. Among 64 the chance that nobody probes it for k
//! periods is e^-k: 3.6 s in 95 of 100 cases, 4.8 s in 99.8 of 100. A connection that falls silent is a suspicion too,
//! which bounds the rest: heartbeats notice within 2.5 s. A node that is paused for longer than the suspicion lasts is
//! declared dead, and comes back by itself. One whose connections break before they carry a packet, on a machine under
//! load, is not: whatever came from it within [`HEARD_US`] proves that it lives. Cost at 64 nodes: 2.5 probes and their answers a second and node.
//!
//! Healing (P5): when a connection to a member comes up, the member is greeted at once; one that was declared down hears
//! so, takes a new generation of its identity and is alive again, one round trip later. After a partition each side brings
//! along that the other is dead; a member that a connection reaches is not dead for that, but has time to hear of it.

mod identity;
mod image;

pub use self::image::MembersImage;

use self::identity::{Bytes, Id};
use super::hello::Address;
use super::peer::{DATAGRAM_BYTES_MAX, Loss};
use super::{Level, Micros};
use foca::{Codec, Config, Foca, Member, NoCustomBroadcast, Notification, PeriodicParams, Runtime, State, Timer};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use std::collections::{BTreeMap, VecDeque};
use std::num::{NonZeroU8, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

/// How often a node probes a member, milliseconds.
pub const PROBE_PERIOD_MS: u64 = 400;
/// How long a direct answer may take before others are asked to probe, milliseconds: any round trip on this planet.
const PROBE_ROUND_TRIP_MS: u64 = 180;
/// How long a suspected member has to object, milliseconds.
pub const SUSPICION_MS: u64 = 2_000;
/// So long after a member last proved to this node that it lives, it is not dead, whatever others say, microseconds.
/// (Connections that are lost again and again carry few of SWIM's packets; less than what SWIM takes for a silent member.)
pub const HEARD_US: Micros = 3_000_000;
/// How long a dead member is remembered, and dialled, seconds.
pub const FORGET_S: u64 = 3_600;
/// Most members, dead ones included.
pub const MEMBERS_MAX: usize = 1_024;

/// How a member stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberState {
    /// It answers.
    Alive,
    /// Somebody gets no answer from it; it may still object.
    Suspect,
    /// Its process is gone, and may come back until then.
    ProcessLost {
        /// When the grace period ends.
        until: Micros,
    },
    /// It is dead, or cut off, or it left.
    Dead,
}

/// What membership tells the node. Taken with [`Members::poll`] after every call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberEvent {
    /// Send this to a member with [`Peer::send_datagram`](super::peer::Peer::send_datagram). It may get lost.
    Send {
        /// The member.
        to: Arc<str>,
        /// The packet.
        bytes: Vec<u8>,
    },
    /// A member was heard of, or where it can be dialled: there should be a peer for it.
    Known {
        /// Its name.
        node: Arc<str>,
        /// Where it can be dialled.
        addresses: Arc<[Address]>,
    },
    /// A member's state changed.
    Changed {
        /// Its name.
        node: Arc<str>,
        /// Its present life.
        incarnation: u64,
        /// Its state.
        state: MemberState,
    },
    /// A dead member is forgotten: its peer may go.
    Forgotten {
        /// Its name.
        node: Arc<str>,
    },
    /// A line for the log.
    Log(Level, String),
}

/// A member as it is known here.
#[derive(Clone, Debug)]
pub struct MemberStatus {
    /// Its name.
    pub node: Arc<str>,
    /// Its life.
    pub incarnation: u64,
    /// Its state.
    pub state: MemberState,
    /// Where it can be dialled.
    pub addresses: Arc<[Address]>,
}

/// The cluster's members without this node.
pub struct Members {
    foca: Foca<Id, Bytes, SmallRng, NoCustomBroadcast>,
    world: World,
    known: BTreeMap<Arc<str>, Known>,
    /// Members that a connection reaches, and in which life.
    reached: BTreeMap<Box<str>, u64>,
    grace_us: Micros,
}

#[derive(Debug)]
struct Known {
    incarnation: u64,
    generation: u64,
    addresses: Arc<[Address]>,
    swim: State,
    /// A connection reaches it.
    reached: bool,
    /// Its process is lost, and waited for until then.
    lost_until: Option<Micros>,
    /// It proved not long ago that it lives: that counts until then.
    heard_until: Option<Micros>,
    /// It said that it leaves.
    left: bool,
    /// What the node was told.
    told: Option<(u64, MemberState)>,
}

/// What foca asks for.
struct World {
    now: Micros,
    timers: BTreeMap<(Micros, u64), Timer<Id>>,
    timers_made: u64,
    events: VecDeque<MemberEvent>,
    /// foca took a new identity.
    rejoined: bool,
}

/// Kinds of datagrams.
const PACKET: u8 = 0;
/// "An identity of yours of this generation is known here."
const GENERATION: u8 = 1;

impl std::fmt::Debug for Members {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Members")
            .field("known", &self.known)
            .finish_non_exhaustive()
    }
}

impl Members {
    /// A node that knows nobody. `addresses`: where others can dial it. `grace_us`: how long a lost process is waited
    /// for.
    pub fn new(node: &str, incarnation: u64, addresses: &[Address], grace_us: Micros, seed: u64) -> Members {
        let id = Id {
            node: node.into(),
            incarnation,
            generation: 0,
            addresses: addresses.into(),
        };
        Members {
            foca: foca_of(id, seed),
            world: World {
                now: 0,
                timers: BTreeMap::new(),
                timers_made: 0,
                events: VecDeque::new(),
                rejoined: false,
            },
            known: BTreeMap::new(),
            reached: BTreeMap::new(),
            grace_us,
        }
    }

    /// A datagram of a member came.
    pub fn received(&mut self, now: Micros, from: &str, datagram: &[u8]) {
        self.world.now = now;
        match datagram.split_first() {
            Some((&PACKET, packet)) => self.packet(from, packet),
            Some((&GENERATION, generation)) => self.outdo(generation),
            _ => {}
        }
        self.settle();
    }

    /// A connection to a member is up.
    pub fn peer_up(&mut self, now: Micros, node: &str, incarnation: u64, addresses: &[Address]) {
        self.world.now = now;
        self.reached.insert(node.into(), incarnation);
        let known = self.known.get_mut(node);
        let generation = known.as_ref().map_or(0, |known| known.generation);
        if let Some(known) = known
            && known.incarnation == incarnation
        {
            known.lost_until = None;
            known.left = false;
        }
        let id = Id {
            node: node.into(),
            incarnation,
            generation,
            addresses: addresses.into(),
        };
        self.attempt(|foca, world| foca.announce(id, world));
        self.settle();
    }

    /// No connection reaches a member any more.
    pub fn peer_lost(&mut self, now: Micros, node: &str, loss: Loss) {
        self.world.now = now;
        self.reached.remove(node);
        let Some(known) = self.known.get_mut(node) else { return };
        match loss {
            Loss::Process | Loss::Restarting => known.lost_until = Some(now + self.grace_us),
            Loss::Left => known.left = true,
            Loss::Silent => self.suspect(node),
        }
        self.settle();
    }

    /// A member that no connection reaches proved at `at` that it lives.
    pub fn peer_heard(&mut self, now: Micros, node: &str, incarnation: u64, at: Micros) {
        self.world.now = now;
        let Some(known) = self.known.get_mut(node) else { return };
        if known.incarnation == incarnation {
            known.heard_until = Some(at + HEARD_US);
        }
        self.settle();
    }

    /// This node leaves: tells some members, which tell the others.
    pub fn leave(&mut self, now: Micros) {
        self.world.now = now;
        self.attempt(|foca, world| foca.leave_cluster(world));
        self.settle();
    }

    /// Time has passed: to be called when [`Members::deadline`] is reached.
    pub fn tick(&mut self, now: Micros) {
        self.world.now = now;
        // Each timer may set others, all of them later.
        let later = self.world.timers.split_off(&(now + 1, 0));
        for timer in std::mem::replace(&mut self.world.timers, later).into_values() {
            let forgotten = match &timer {
                Timer::RemoveDown(id) => Some(Arc::clone(&id.node)),
                _ => None,
            };
            if self.is_over(&timer) {
                continue;
            }
            self.attempt(|foca, world| foca.handle_timer(timer, world));
            if let Some(node) = forgotten {
                self.forget(node);
            }
        }
        self.settle();
    }

    /// A suspicion that was refuted in time. foca changes nothing then, but tells the member that it was declared dead.
    fn is_over(&self, timer: &Timer<Id>) -> bool {
        let Timer::ChangeSuspectToDown {
            member_id, incarnation, ..
        } = timer
        else {
            return false;
        };
        let is_it = |member: &&Member<Id>| member.id() == member_id && member.incarnation() == *incarnation;
        let mut members = self.foca.iter_membership_state();
        !members.any(|member| is_it(&member) && member.state() == State::Suspect)
    }

    /// When [`Members::tick`] wants to be called.
    pub fn deadline(&self) -> Option<Micros> {
        let timer = self.world.timers.keys().next().map(|(at, _)| *at);
        let graces = self.known.values().filter_map(Known::waits_until);
        timer.into_iter().chain(graces).min()
    }

    /// The next event.
    pub fn poll(&mut self) -> Option<MemberEvent> {
        self.world.events.pop_front()
    }

    /// All members known, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = MemberStatus> {
        self.known.iter().map(|(node, known)| MemberStatus {
            node: Arc::clone(node),
            incarnation: known.incarnation,
            state: known.state(),
            addresses: Arc::clone(&known.addresses),
        })
    }

    fn attempt(
        &mut self,
        step: impl FnOnce(&mut Foca<Id, Bytes, SmallRng, NoCustomBroadcast>, &mut World) -> Result<(), foca::Error>,
    ) {
        if let Err(error) = step(&mut self.foca, &mut self.world) {
            let text = format!("membership: {error}");
            self.world.events.push_back(MemberEvent::Log(Level::Info, text));
        }
    }

    fn packet(&mut self, from: &str, packet: &[u8]) {
        let mut rest = packet;
        let Ok(header) = Bytes::default().decode_header(&mut rest) else {
            return;
        };
        if *header.src.node != *from {
            return;
        }
        // A new life begins at generation 0 and cannot know what its former one came to: it is told.
        if let Some(known) = self.known.get(from)
            && known.incarnation != header.src.incarnation
            && known.generation >= header.src.generation
        {
            let mut bytes = vec![GENERATION];
            bytes.extend_from_slice(&known.generation.to_be_bytes());
            let to = header.src.node;
            self.world.events.push_back(MemberEvent::Send { to, bytes });
            return;
        }
        if self.known.len() < MEMBERS_MAX || self.known.contains_key(from) {
            self.attempt(|foca, world| foca.handle_data(packet, world));
        }
    }

    /// foca may have forgotten a dead member.
    fn forget(&mut self, node: Arc<str>) {
        let remembered = self.foca.iter_membership_state().any(|member| member.id().node == node);
        if !remembered && self.known.remove(&node).is_some() {
            self.world.events.push_back(MemberEvent::Forgotten { node });
        }
    }

    /// Takes a generation above one that a member remembers of a former life.
    fn outdo(&mut self, generation: &[u8]) {
        let Ok(generation) = generation.try_into().map(u64::from_be_bytes) else {
            return;
        };
        let own = self.foca.identity();
        if own.generation > generation || generation == u64::MAX {
            return;
        }
        let id = Id {
            generation: generation + 1,
            ..own.clone()
        };
        self.attempt(|foca, world| foca.change_identity(id, world));
        self.greet_all();
    }

    /// A new identity is shown to all: those who believe the old one dead get nothing else from this node.
    fn greet_all(&mut self) {
        let members: Vec<Id> = self.known.iter().map(|(node, known)| known.id(node)).collect();
        for id in members {
            self.attempt(|foca, world| foca.announce(id, world));
        }
    }

    /// A connection fell silent: the member has to object if it is alive.
    fn suspect(&mut self, node: &str) {
        let states = self.foca.iter_membership_state();
        let member = states.into_iter().find(|member| *member.id().node == *node).cloned();
        if let Some(member) = member.filter(|member| member.state() == State::Alive) {
            let suspected = Member::new(member.id().clone(), member.incarnation(), State::Suspect);
            self.attempt(|foca, world| foca.apply_many([suspected].into_iter(), true, world));
        }
    }

    /// Compares what foca believes with what the node was told.
    fn settle(&mut self) {
        if std::mem::take(&mut self.world.rejoined) {
            self.greet_all();
        }
        let now = self.world.now;
        for member in self.foca.iter_membership_state() {
            let id = member.id();
            let known = self.known.entry(Arc::clone(&id.node)).or_insert_with(|| Known::new(id));
            if known.generation != id.generation || known.incarnation != id.incarnation {
                *known = Known {
                    told: known.told,
                    lost_until: known.lost_until.filter(|_| known.incarnation == id.incarnation),
                    heard_until: known.heard_until.filter(|_| known.incarnation == id.incarnation),
                    ..Known::new(id)
                };
            }
            known.swim = member.state();
        }
        for (node, known) in &mut self.known {
            known.reached = self.reached.get(&**node) == Some(&known.incarnation);
            if known.lost_until.is_some_and(|until| now >= until) {
                known.lost_until = None;
                known.left = true;
            }
            known.heard_until = known.heard_until.filter(|until| now < *until);
            let (incarnation, state) = (known.incarnation, known.state());
            if known.told == Some((incarnation, state)) {
                continue;
            }
            if known.told.is_none_or(|told| told.0 != incarnation) {
                let (node, addresses) = (Arc::clone(node), Arc::clone(&known.addresses));
                self.world.events.push_back(MemberEvent::Known { node, addresses });
            }
            known.told = Some((incarnation, state));
            let node = Arc::clone(node);
            self.world.events.push_back(MemberEvent::Changed {
                node,
                incarnation,
                state,
            });
        }
    }
}

impl Known {
    fn new(id: &Id) -> Known {
        Known {
            incarnation: id.incarnation,
            generation: id.generation,
            addresses: Arc::clone(&id.addresses),
            swim: State::Alive,
            reached: false,
            lost_until: None,
            heard_until: None,
            left: false,
            told: None,
        }
    }

    fn id(&self, node: &Arc<str>) -> Id {
        Id {
            node: Arc::clone(node),
            incarnation: self.incarnation,
            generation: self.generation,
            addresses: Arc::clone(&self.addresses),
        }
    }

    fn waits_until(&self) -> Option<Micros> {
        [self.lost_until, self.heard_until].into_iter().flatten().min()
    }

    fn state(&self) -> MemberState {
        match (self.left, self.lost_until, self.swim) {
            (true, ..) => MemberState::Dead,
            (_, Some(until), _) => MemberState::ProcessLost { until },
            (_, _, State::Alive) => MemberState::Alive,
            (_, _, State::Suspect) => MemberState::Suspect,
            (_, _, State::Down) if self.reached || self.heard_until.is_some() => MemberState::Suspect,
            (_, _, State::Down) => MemberState::Dead,
        }
    }
}

impl Runtime<Id> for &mut World {
    fn notify(&mut self, notification: Notification<'_, Id>) {
        if let Notification::Rejoin(id) = notification {
            let text = format!(
                "membership: others believed this node dead; it is back as generation {}",
                id.generation
            );
            self.events.push_back(MemberEvent::Log(Level::Notice, text));
            self.rejoined = true;
        }
    }

    fn send_to(&mut self, to: Id, data: &[u8]) {
        let mut bytes = Vec::with_capacity(1 + data.len());
        bytes.push(PACKET);
        bytes.extend_from_slice(data);
        self.events.push_back(MemberEvent::Send { to: to.node, bytes });
    }

    fn submit_after(&mut self, event: Timer<Id>, after: Duration) {
        let after = u64::try_from(after.as_micros()).unwrap_or(u64::MAX).max(1);
        self.timers_made += 1;
        self.timers
            .insert((self.now.saturating_add(after), self.timers_made), event);
    }
}

fn foca_of(id: Id, seed: u64) -> Foca<Id, Bytes, SmallRng, NoCustomBroadcast> {
    Foca::new(id, settings(), SmallRng::seed_from_u64(seed), Bytes::default())
}

fn settings() -> Config {
    let periodic = |ms, members: usize| {
        Some(PeriodicParams {
            frequency: Duration::from_millis(ms),
            num_members: NonZeroUsize::MIN.saturating_add(members - 1),
        })
    };
    Config {
        probe_period: Duration::from_millis(PROBE_PERIOD_MS),
        probe_rtt: Duration::from_millis(PROBE_ROUND_TRIP_MS),
        num_indirect_probes: NonZeroUsize::MIN.saturating_add(2),
        // Enough for an epidemic among 64 nodes and more, and bytes are few.
        max_transmissions: NonZeroU8::MIN.saturating_add(9),
        suspect_to_down_after: Duration::from_millis(SUSPICION_MS),
        remove_down_after: Some(Duration::from_secs(FORGET_S)),
        max_packet_size: NonZeroUsize::MIN.saturating_add(DATAGRAM_BYTES_MAX - 2),
        notify_down_members: true,
        periodic_announce: periodic(10_000, 1),
        // A backstop: whoever comes up is greeted at once.
        periodic_announce_to_down_members: periodic(2_000, 2),
        periodic_gossip: periodic(200, 3),
    }
}
