//! A probe: the way that a stanza would go, asked of each shard and node on it by the lanes that it would take.
//!
//! It is a question, not a stanza: nothing is delivered, held, placed or counted.

use super::event::TraceEvent;
use super::filter::Address;
use crate::node::Shard;
use crate::node::api::Micros;
use crate::node::cluster::Place;
use crate::node::placement::domain_of;
use crate::table::names::Multi;
use crate::table::ways::HOPS_MAX;
use crate::table::{PeerId, SeatId};
use serde::{Deserialize, Serialize};

/// A probe begins when all other nodes watch for it, or after so long, microseconds.
const READY_US: Micros = 1_500_000;

/// A probe on its way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::node) struct WayAsk {
    id: u64,
    /// The node whose operator asks.
    origin: String,
    pub(in crate::node) jid: String,
    /// Nodes that it may still cross.
    hops: u8,
    /// It has come to this component of the present node.
    #[serde(default)]
    pub(in crate::node) seat: Option<u32>,
    /// It leaves for a foreign domain.
    #[serde(default)]
    pub(in crate::node) outside: bool,
}

impl Shard {
    /// Sends a trace's probe, once.
    pub(super) fn begin_way(&mut self, now: Micros, at: usize) {
        let ready = self.all_take_part(now, at);
        let own = self.own_name();
        let Some(trace) = self.tracing.as_mut().and_then(|tracing| tracing.traces.get_mut(at)) else {
            return;
        };
        if !trace.ask.probe || trace.way_begun || !(ready || now >= trace.since + READY_US) {
            return;
        }
        trace.way_begun = true;
        let way = WayAsk {
            id: trace.ask.id,
            origin: own,
            jid: trace.ask.jid.clone(),
            hops: HOPS_MAX,
            seat: None,
            outside: false,
        };
        self.tell_way(now, &way, "way", "a stanza from a component here".to_owned(), None);
        self.send_way_here(now, &way);
    }

    /// The next step of a probe, on the shard that knows it.
    pub(in crate::node) fn way(&mut self, now: Micros, way: WayAsk) {
        let Some(address) = Address::of(&way.jid) else { return };
        if way.outside {
            return self.way_outside(now, way, domain_of(&address.bare));
        }
        if let Some(seat) = way.seat {
            return self.way_ends_at(now, &way, SeatId::from_number(seat));
        }
        let domain = domain_of(&address.bare);
        // Others add this node's name to the ids of its components.
        let found = self
            .names
            .get(domain)
            .or_else(|| self.names.get(self.id_at_home(domain)?));
        match found.map(|(_, name)| (name.multi, name.holders[0])) {
            None => {
                let outside = WayAsk { outside: true, ..way };
                self.send_way_here(now, &outside);
            }
            Some((Multi::To, _)) if address.bare.contains('@') => self.way_to_user(now, way, &address),
            Some((_, holder)) => self.way_to_seat(now, way, holder),
        }
    }

    fn way_to_user(&mut self, now: Micros, way: WayAsk, address: &Address) {
        let bare = &*address.bare;
        if let Place::At(peer) = self.place(bare) {
            return self.way_to_node(now, way, peer);
        }
        let user = self.users.get(bare);
        if user.is_some_and(|user| user.holds()) {
            let text = "until it is decided which sm serves the user";
            self.tell_way(now, &way, "held", text.to_owned(), Some(self.held_bytes as u64));
        }
        let user = self.users.get(bare);
        let sessions: Vec<String> = user
            .into_iter()
            .flat_map(|user| &user.sessions)
            .map(|session| match session.available {
                true => format!("{} (priority {})", session.resource, session.priority),
                false => format!("{} (not available)", session.resource),
            })
            .collect();
        let tied = user.filter(|user| user.is_tied()).and_then(|user| user.sm);
        let text = match sessions.is_empty() {
            true => "the user has no session: its sm on duty stores it".to_owned(),
            false => format!("the user's sessions: {}", sessions.join(", ")),
        };
        self.tell_way(now, &way, "way", text, None);
        match tied.or_else(|| self.duty(bare)) {
            Some(sm) => self.way_to_seat(now, way, sm),
            None => self.tell_way(
                now,
                &way,
                "end",
                "sent back (404): no sm here serves the domain".into(),
                None,
            ),
        }
    }

    fn way_to_seat(&mut self, now: Micros, way: WayAsk, seat: SeatId) {
        match self.names.seat(seat).map(|view| (view.peer, view.home)) {
            None => self.tell_way(now, &way, "end", "sent back (404): the component is gone".into(), None),
            Some((Some(peer), _)) => self.way_to_node(now, way, peer),
            Some((None, home)) => {
                let way = WayAsk {
                    seat: Some(seat.number()),
                    ..way
                };
                if home != self.id {
                    let text = format!("{home}, for {}", self.seat_id(seat));
                    self.tell_way(now, &way, "shard", text, None);
                }
                self.send_way_here(now, &way);
            }
        }
    }

    fn way_to_node(&mut self, now: Micros, way: WayAsk, peer: PeerId) {
        let (name, queue) = (self.peer_name(peer).to_owned(), self.peer_queue_bytes(peer));
        let Some(hops) = way.hops.checked_sub(1) else {
            return self.tell_way(now, &way, "end", "sent back: it crossed too many nodes".into(), None);
        };
        self.tell_way(now, &way, "node", name, queue);
        let way = WayAsk {
            hops,
            seat: None,
            outside: false,
            ..way
        };
        self.send_way(now, peer, &way);
    }

    /// The shard that knows the exit of a foreign domain.
    fn way_outside(&mut self, now: Micros, way: WayAsk, domain: &str) {
        if way.hops < HOPS_MAX && self.names.default_route().is_none() {
            return self.tell_way(now, &way, "end", "sent back (404): no s2s here".into(), None);
        }
        match self.exit_as_known(domain) {
            Some(Some(peer)) if way.hops == HOPS_MAX => {
                self.tell_way(
                    now,
                    &way,
                    "way",
                    format!("{domain} is foreign; its exit is elsewhere"),
                    None,
                );
                self.way_to_node(now, way, peer);
            }
            known => {
                let text = match known {
                    Some(_) => format!("{domain} is foreign, and this node is its exit"),
                    None => format!("{domain} is foreign, and has no exit yet: this node asks for it"),
                };
                self.tell_way(now, &way, "way", text, None);
                match self.names.default_route() {
                    Some(s2s) => self.way_to_seat(now, WayAsk { outside: false, ..way }, s2s),
                    None => self.tell_way(now, &way, "end", "sent back (404): no s2s here".into(), None),
                }
            }
        }
    }

    /// The home of the component that would get it.
    fn way_ends_at(&mut self, now: Micros, way: &WayAsk, seat: SeatId) {
        let Some(state) = self.seats.get(seat) else {
            return self.tell_way(now, way, "end", "sent back (404): the component is gone".into(), None);
        };
        let (away, id) = (state.waits(), state.id.clone());
        let waiting = self.queued_bytes(seat);
        let text = match away {
            true => format!("{id}, which is away: it would wait until that one is back, or given up"),
            false => format!("{id}: it would be written there"),
        };
        self.tell_way(now, way, "end", text, Some(waiting));
    }

    fn tell_way(&mut self, now: Micros, way: &WayAsk, hop: &str, what: String, queue_bytes: Option<u64>) {
        let own = self.own_name();
        let by = match way.origin == own {
            true => None,
            false => match self.peer_of_name(&way.origin) {
                Some(peer) => Some(peer),
                None => return,
            },
        };
        let shard = self.id;
        let Some(tracing) = &mut self.tracing else { return };
        let mut traces = tracing.traces.iter_mut();
        if let Some(trace) = traces.find(|trace| (trace.by, trace.ask.id) == (by, way.id)) {
            let event = TraceEvent {
                at_us: now,
                node: own,
                shard,
                hop: hop.to_owned(),
                what,
                queue_bytes,
                stanza: format!("probe to {}", trace.ask.jid),
                ..TraceEvent::default()
            };
            trace.note(now, event);
        }
    }
}
