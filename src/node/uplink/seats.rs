//! Components of the stock router: each has a seat here, as long as its name is advertised and for the grace period
//! behind that; and one more stands for whatever takes what is for foreign domains.

use crate::node::Shard;
use crate::node::api::{Level, LinkId, Micros};
use crate::node::lane::Message;
use crate::node::link::Who;
use crate::node::seat::{Life, Seat};
use crate::table::names::Multi;
use crate::table::registrar::NAMES_PER_SEAT_MAX;
use crate::table::{SeatId, SeatKind};
use crate::wire::accept::PeerKind;
use crate::wire::header::{self, Frame};
use crate::wire::validate::Prefixes;

/// The id of the seat that stands for the stock router's default route, its s2s.
const EXIT: &str = "uplink";

impl Shard {
    /// A component of the stock router has its seat there. At shard 0, where those seats are at home.
    pub(in crate::node) fn is_behind(&self, seat: SeatId) -> bool {
        self.seats.get(seat).is_some_and(|state| state.behind)
    }

    /// The seats of the stock router's components, and what they are called.
    fn seats_behind(&self) -> Vec<(SeatId, Box<str>)> {
        let behind = self.seats.iter().filter(|(_, state)| state.behind);
        behind.map(|(seat, state)| (seat, state.id.clone())).collect()
    }

    /// The seat of the stock router's component of this name.
    pub(super) fn seat_behind(&self, key: &str) -> Option<SeatId> {
        let (_, name) = self.names.get(key)?;
        name.holders.iter().copied().find(|seat| self.is_behind(*seat))
    }

    /// The stock router advertises a name over a line.
    pub(super) fn advertised(&mut self, now: Micros, at: usize, key: &str, unavailable: bool) {
        let Some(uplink) = &mut self.uplink else { return };
        if uplink.is_ours(key) {
            return;
        }
        let speaks = uplink.speaker == Some(at);
        let heard = &mut uplink.lines[at].heard;
        if unavailable {
            heard.remove(key);
            // It may be wanted here.
            self.align_name(key);
        } else if heard.len() >= NAMES_PER_SEAT_MAX || !heard.insert(key.into()) {
            return;
        }
        match (speaks, unavailable) {
            (true, true) => self.component_left(now, key),
            (true, false) => {
                self.component_here(now, key);
                // It may be what was missing.
                self.exit_here(now);
            }
            (false, _) => {}
        }
    }

    /// A line speaks now, and knows who is there.
    pub(super) fn meet_components(&mut self, now: Micros, at: usize) {
        let Some(uplink) = &self.uplink else { return };
        let line = &uplink.lines[at];
        let (heard, link) = (line.heard.clone(), line.link);
        for (seat, name) in self.seats_behind() {
            let here = *name == *EXIT || heard.contains(&name);
            if let Some(state) = self
                .seats
                .get_mut(seat)
                .filter(|state| !matches!(state.life, Life::Lost { .. }))
            {
                state.link = link;
                if !here {
                    self.component_left(now, &name);
                }
            }
        }
        for name in heard {
            self.component_here(now, &name);
        }
        self.exit_here(now);
    }

    /// A component of this name is at the stock router.
    pub(super) fn component_here(&mut self, now: Micros, key: &str) {
        if let Some(seat) = self.seat_behind(key) {
            return self.component_back(now, seat);
        }
        let of_users = |(name, _): &(String, _)| *name == *key;
        let clustered = self
            .config
            .mesh
            .as_ref()
            .is_some_and(|mesh| mesh.domains.iter().any(of_users));
        if clustered || key == EXIT || self.names.is_reserved(key) {
            return;
        }
        if let Some((_, name)) = self.names.get(key) {
            let connected = |seat: &SeatId| self.names.seat(*seat).is_some_and(|view| view.peer.is_none());
            if name.holders.iter().any(connected) {
                let text = format!(
                    "uplink: '{key}' is bound at the stock router and here: two components of one name on this machine"
                );
                return self.log(Level::Error, None, text);
            }
            if name.multi == Multi::To {
                return;
            }
        }
        self.new_behind(now, key, SeatKind::Native, false);
    }

    /// The stock router is believed to have a default route until it says otherwise.
    fn exit_here(&mut self, now: Micros) {
        match self.seat_behind(EXIT) {
            Some(seat) => self.component_back(now, seat),
            None if self.names.default_route().is_none() => self.new_behind(now, EXIT, SeatKind::S2s, true),
            // An s2s of this node's own.
            None => {}
        }
    }

    /// The stock router has no default route: what was to go there finds another way. It is asked again when another
    /// component shows up there.
    pub(super) fn no_exit(&mut self, now: Micros) {
        if let Some(seat) = self.seat_behind(EXIT) {
            self.log(Level::Notice, None, "uplink: the stock router has no s2s".into());
            self.give_up_behind(now, seat);
        }
    }

    fn new_behind(&mut self, now: Micros, key: &str, kind: SeatKind, default: bool) {
        let Some(seat) = self.registrar.as_mut().and_then(|registrar| registrar.behind(key)) else {
            return;
        };
        let (link, home) = (self.speaking_link(), self.id);
        let Some(addr) = self.config.uplink.as_ref().map(|uplink| uplink.addr) else {
            return;
        };
        let id: Box<str> = key.into();
        self.tell_all(
            now,
            &Message::SeatNew {
                seat,
                home,
                kind,
                id: id.clone(),
                abroad: None,
            },
        );
        let user = String::new();
        let who = Who::new(PeerKind::Native { user }, Prefixes::default());
        let state = Seat {
            behind: true,
            link,
            ..Seat::new(kind, key, who, addr, now)
        };
        self.seats.insert(seat, state);
        let bound_at = self.stamp_bind(now);
        self.log(Level::Notice, None, format!("[{key}] online: at the stock router"));
        self.tell_all(
            now,
            &Message::Bound {
                seat,
                name: id,
                multi: Multi::No,
                default,
                log: false,
                bound_at,
            },
        );
        self.align_aliases(now);
    }

    pub(super) fn speaking_link(&self) -> Option<LinkId> {
        let uplink = self.uplink.as_ref()?;
        uplink.lines[uplink.speaker?].link
    }

    /// A component of the stock router that was lost is there again.
    fn component_back(&mut self, now: Micros, seat: SeatId) {
        let link = self.speaking_link();
        let Some(state) = self.seats.get_mut(seat) else { return };
        if !matches!(state.life, Life::Lost { .. }) {
            return;
        }
        state.life = Life::Live;
        state.link = link;
        state.since = now;
        self.tell_all(now, &Message::SeatLive { seat, live: true });
        self.came_back(now, seat);
    }

    /// The stock router no longer has a component of this name: it is waited for, as one of this node's own would be.
    fn component_left(&mut self, now: Micros, key: &str) {
        let grace_us = self.config.grace_ms * 1_000;
        if let Some(seat) = self.seat_behind(key) {
            self.behind_lost(now, seat, now + grace_us);
        }
    }

    /// Nothing goes down to this component; it is given up then.
    pub(in crate::node) fn behind_lost(&mut self, now: Micros, seat: SeatId, until: Micros) {
        let Some(state) = self.seats.get_mut(seat) else { return };
        if matches!(state.life, Life::Lost { .. }) {
            return;
        }
        (state.life, state.link) = (Life::Lost { until }, None);
        let name = state.id.clone();
        let wait_s = until.saturating_sub(now) / 1_000_000;
        let text = format!("[{name}] is no longer at the stock router; waiting {wait_s} s for it");
        self.log(Level::Notice, None, text);
        self.tell(now, 0, Message::Lost { seat });
        self.wake_by(now + crate::node::TICK_US);
    }

    /// Both lines are lost: all components of the stock router are waited for, and what was to go down waits with them.
    pub(super) fn router_lost(&mut self, now: Micros, left: &[u8]) {
        let until = now + self.config.grace_ms * 1_000;
        for (seat, _) in self.seats_behind() {
            self.behind_lost(now, seat, until);
        }
        let exit = self.seat_behind(EXIT);
        for (_, frame) in crate::node::grace::frames_of(self.limits, left) {
            let Ok(Frame::Route(route)) = header::read(frame) else {
                continue;
            };
            let named = route
                .to
                .and_then(|to| self.names.find(to))
                .and_then(|(_, name)| name.holders.first().copied());
            let seat = named.filter(|seat| self.is_behind(*seat)).or(exit);
            if let Some(state) = seat.and_then(|seat| self.seats.get_mut(seat)) {
                state.queue.extend_from_slice(frame);
            }
        }
    }

    /// A name is to be bound here, or is a domain whose users are placed: the stock router's component of that name,
    /// if it is lost or no longer counts, gives way.
    pub(in crate::node) fn make_way(&mut self, now: Micros, key: &str) {
        let lost = |state: &Seat| matches!(state.life, Life::Lost { .. });
        if let Some(seat) = self
            .seat_behind(key)
            .filter(|seat| self.seats.get(*seat).is_some_and(lost))
        {
            self.give_up_behind(now, seat);
        }
    }

    /// The same, when other nodes turn out to share the name as a domain of users.
    pub(super) fn make_way_for_domain(&mut self, now: Micros, key: &str) {
        let shared = |seat: &SeatId| self.names.multi_of(key, *seat) == Some(Multi::To);
        let is_domain = self
            .names
            .get(key)
            .is_some_and(|(_, name)| name.holders.iter().any(shared));
        if let Some(seat) = self.seat_behind(key).filter(|_| is_domain) {
            self.log(
                Level::Warning,
                None,
                format!("uplink: the domain '{key}' has an sm at the stock router, and it is clustered: connect that sm here"),
            );
            self.give_up_behind(now, seat);
        }
    }

    fn give_up_behind(&mut self, now: Micros, seat: SeatId) {
        self.tell_all(now, &Message::SeatLive { seat, live: false });
        self.seat_expired(now, 0, seat);
    }
}
