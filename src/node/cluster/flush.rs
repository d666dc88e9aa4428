//! Whether the other nodes have what this one's components said.
//!
//! A user is not served elsewhere before all that his sm here said of him has come to every node: a contact there would
//! hear what is newer first. A *round* finds out, for whoever waits when it begins: shard 0 begins it, a token goes from
//! every shard to every shard and from there to the peers' homes, behind all frames; these ask their peers, which let a
//! token pass through all their shards before they answer. Rounds follow one another.

use super::message::Packet;
use crate::jid::TableMap;
use crate::node::api::Micros;
use crate::node::lane::{FlushAt, Message, Verb};
use crate::node::{SELF, Shard};
use crate::table::users::Wait;
use crate::table::{PeerId, ShardId};
use std::collections::VecDeque;

/// Rounds begin at most so often, microseconds.
pub(in crate::node) const EVERY_US: Micros = 5_000;

/// The longest that a round waits for a peer, microseconds.
const ROUND_US: Micros = 5_000_000;

/// What a shard knows of rounds.
#[derive(Debug, Default)]
pub(super) struct Flush {
    /// The last ticket that this shard took.
    ticket: u64,
    /// Users who wait, by their tickets.
    waiting: VecDeque<(u64, Box<str>)>,
    /// The present round, and how many tokens of it have come.
    round: u64,
    passed: ShardId,
    arrived: ShardId,
    /// Peers whose home is here that have not answered, and until when that is waited for.
    awaited: Vec<PeerId>,
    until: Micros,
    /// Of rounds of peers: which, and how many shards here have let its token pass.
    of_peers: TableMap<PeerId, (u64, ShardId)>,
    rounds: Rounds,
}

/// What shard 0 knows.
#[derive(Debug, Default)]
struct Rounds {
    /// The last ticket of each shard, and the one with which it is in the present round.
    tickets: Vec<(u64, u64)>,
    /// Homes that have not finished the present round; 0: there is none.
    missing: ShardId,
    /// No round begins before.
    next_at: Micros,
}

impl Shard {
    /// A ticket: whoever has it waits for a round that has yet to begin. `None`: there is no other node.
    pub(in crate::node) fn flush_ticket(&mut self, now: Micros) -> Option<u64> {
        if !self.has_peers() {
            return None;
        }
        let flush = &mut self.cluster.as_mut()?.flush;
        flush.ticket += 1;
        let (shard, ticket) = (self.id, flush.ticket);
        self.tell(now, 0, Message::FlushWanted { shard, ticket });
        Some(ticket)
    }

    /// This user goes on when the round of this ticket is over.
    pub(in crate::node) fn wait_for_flush(&mut self, now: Micros, bare: &str, ticket: u64) {
        if let Some(cluster) = &mut self.cluster {
            cluster.flush.waiting.push_back((ticket, bare.into()));
        }
        self.make_wait(now, bare, Wait::Flush);
    }

    /// Shard 0: somebody waits for a round.
    pub(in crate::node) fn flush_wanted(&mut self, now: Micros, shard: ShardId, ticket: u64) {
        let shards = usize::from(self.shards);
        let Some(cluster) = &mut self.cluster else { return };
        let tickets = &mut cluster.flush.rounds.tickets;
        tickets.resize(shards, (0, 0));
        tickets[usize::from(shard)].0 = ticket;
        self.begin_round(now);
    }

    fn begin_round(&mut self, now: Micros) {
        let shards = self.shards;
        let Some(cluster) = &mut self.cluster else { return };
        let (round, rounds) = ((cluster.flush.round + 1).max(now), &mut cluster.flush.rounds);
        if rounds.missing > 0 || rounds.tickets.iter().all(|(last, covered)| last == covered) {
            return;
        }
        if now < rounds.next_at {
            let at = rounds.next_at;
            return self.wake_by(at);
        }
        rounds.tickets.iter_mut().for_each(|(last, covered)| *covered = *last);
        rounds.missing = shards;
        rounds.next_at = now + EVERY_US;
        self.tell_all(now, &Message::FlushBegins { round });
    }

    /// Every shard: what it was given goes before this token.
    pub(in crate::node) fn flush_begins(&mut self, now: Micros, round: u64) {
        for to in 0..self.shards {
            self.pass_token(now, to, FlushAt::Slice(round));
        }
    }

    fn pass_token(&mut self, now: Micros, to: ShardId, at: FlushAt) {
        match to == self.id {
            true => self.flush_token(now, at),
            false => self.data[usize::from(to)].push(Verb::Flush(at), SELF, &[]),
        }
    }

    /// A token from a shard of this node.
    pub(in crate::node) fn flush_token(&mut self, now: Micros, at: FlushAt) {
        let shards = self.shards;
        let Some(cluster) = &mut self.cluster else { return };
        let flush = &mut cluster.flush;
        if let FlushAt::Slice(round) | FlushAt::Home(round) = at
            && round > flush.round
        {
            (flush.round, flush.passed, flush.arrived) = (round, 0, 0);
            flush.awaited.clear();
        }
        match at {
            FlushAt::Slice(round) => {
                flush.passed += 1;
                if flush.passed == shards {
                    for to in 0..shards {
                        self.pass_token(now, to, FlushAt::Home(round));
                    }
                }
            }
            FlushAt::Home(_) => {
                flush.arrived += 1;
                if flush.arrived == shards {
                    self.ask_peers(now);
                }
            }
            FlushAt::Peer(peer, round) => self.tell(now, self.home_of(peer), Message::FlushSeen { peer, round }),
        }
    }

    /// A peer's home: all that was said is on its way.
    fn ask_peers(&mut self, now: Micros) {
        let Some(cluster) = &mut self.cluster else { return };
        let homes = cluster.homes.keys().copied();
        let reached = homes.filter(|peer| cluster.peer(*peer).is_some_and(|view| view.is_reached()));
        let awaited: Vec<PeerId> = reached.collect();
        let round = cluster.flush.round;
        cluster.flush.awaited.clone_from(&awaited);
        cluster.flush.until = now + ROUND_US;
        for peer in awaited {
            self.post_packet(peer, &Packet::Flush { round });
        }
        self.wake_by(now + ROUND_US);
        self.home_may_be_done(now);
    }

    /// A peer's home: it wants to know when what it sent has come to everybody here.
    pub(super) fn flush_for_peer(&mut self, now: Micros, peer: PeerId, round: u64) {
        if let Some(cluster) = &mut self.cluster {
            cluster.flush.of_peers.insert(peer, (round, 0));
        }
        for to in 0..self.shards {
            self.pass_token(now, to, FlushAt::Peer(peer, round));
        }
    }

    /// A peer's home: it has come to one shard more.
    pub(in crate::node) fn flush_seen(&mut self, peer: PeerId, round: u64) {
        let shards = self.shards;
        let Some(cluster) = &mut self.cluster else { return };
        let Some((of, seen)) = cluster.flush.of_peers.get_mut(&peer) else {
            return;
        };
        *seen += ShardId::from(*of == round);
        if *of == round && *seen == shards {
            cluster.flush.of_peers.remove(&peer);
            self.post_packet(peer, &Packet::Flushed { round });
        }
    }

    /// A peer's home: it has all, or can't be waited for.
    pub(super) fn peer_flushed(&mut self, now: Micros, peer: PeerId, round: Option<u64>) {
        let Some(cluster) = &mut self.cluster else { return };
        let flush = &mut cluster.flush;
        let known = flush.awaited.len();
        flush
            .awaited
            .retain(|awaited| *awaited != peer || round.is_some_and(|round| round != flush.round));
        if flush.awaited.len() < known {
            self.home_may_be_done(now);
        }
    }

    fn home_may_be_done(&mut self, now: Micros) {
        if self
            .cluster
            .as_ref()
            .is_some_and(|cluster| cluster.flush.awaited.is_empty())
        {
            self.tell(now, 0, Message::FlushHome);
        }
    }

    /// Shard 0: the peers of one home have all.
    pub(in crate::node) fn flush_home(&mut self, now: Micros) {
        let Some(cluster) = &mut self.cluster else { return };
        let rounds = &mut cluster.flush.rounds;
        rounds.missing -= 1;
        if rounds.missing > 0 {
            return;
        }
        let covered: Vec<u64> = rounds.tickets.iter().map(|(_, covered)| *covered).collect();
        for (shard, ticket) in (0..).zip(covered) {
            self.tell(now, shard, Message::FlushDone { ticket });
        }
        self.begin_round(now);
    }

    /// Every shard: those who waited with tickets up to this one go on.
    pub(in crate::node) fn flush_done(&mut self, now: Micros, ticket: u64) {
        self.fences.values_mut().for_each(|fences| fences.is_told(ticket));
        let Some(cluster) = &mut self.cluster else { return };
        let (over, waiting) = std::mem::take(&mut cluster.flush.waiting)
            .into_iter()
            .partition::<VecDeque<_>, _>(|(of, _)| *of <= ticket);
        cluster.flush.waiting = waiting;
        for (_, bare) in over {
            if self.users.get(&bare).and_then(|user| user.wait()) == Some(Wait::Flush) {
                self.users.change(&bare, |user| user.flux().wait = None);
                self.settle(now, &bare);
            }
        }
    }

    /// True when something is to be looked at again.
    pub(in crate::node) fn tick_flush(&mut self, now: Micros) -> bool {
        if self.id == 0 {
            self.begin_round(now);
        }
        let Some(cluster) = &mut self.cluster else { return false };
        let flush = &mut cluster.flush;
        if flush.awaited.is_empty() {
            return false;
        }
        if now >= flush.until {
            flush.awaited.clear();
            self.home_may_be_done(now);
            return false;
        }
        true
    }
}
