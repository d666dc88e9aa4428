//! The one authority over names: who may bind what. Lives on shard 0; its verdicts become messages to all shards.

use super::names::{Multi, Names, SeatView};
use super::{SeatId, SeatKind, ShardId};
use crate::jid::{self, TableMap};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// What a component asks for in a `<bind/>`.
#[derive(Clone, Debug)]
pub struct Ask<'a> {
    /// The name as it came.
    pub name: &'a str,
    /// The value of `multi`, if given.
    pub multi: Option<&'a str>,
    /// `<default/>`.
    pub default: bool,
    /// `<log/>`.
    pub log: bool,
}

/// What a user may do, answered by the configuration's access list.
pub trait Rights {
    /// May bind this name.
    fn bind(&self, user: &str, name: &str) -> bool;
    /// May be the default route.
    fn default_route(&self, user: &str) -> bool;
    /// May be a log sink.
    fn log(&self, user: &str) -> bool;
}

/// Why a bind is refused: the component protocol's error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// 400: no name, or not a name.
    BadRequest,
    /// 403: not allowed to this user.
    Forbidden,
    /// 409: taken.
    Conflict,
}

impl Refusal {
    /// The code as it stands in `error='...'`.
    pub fn code(self) -> &'static str {
        match self {
            Refusal::BadRequest => "400",
            Refusal::Forbidden => "403",
            Refusal::Conflict => "409",
        }
    }
}

/// A bind that may be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// The name's key.
    pub key: String,
    /// How it is held from now on.
    pub multi: Multi,
}

/// The first bind of a link: what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum First {
    /// A new seat.
    New(SeatId, Granted),
    /// The component came back to its seat, which had lost its link.
    Back(SeatId),
    /// Its seat has a link that looks alive: to be proved.
    Contested(SeatId),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Entry {
    user: Box<str>,
    names: Vec<Box<str>>,
    /// Names it holds because they are aliases of one of `names`.
    aliases: Vec<Box<str>>,
}

impl Entry {
    fn holds(&self, key: &str) -> bool {
        self.names.iter().chain(&self.aliases).any(|name| **name == *key)
    }
}

/// What follows for an alias from a change of names or of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AliasChange {
    /// The holder of the target.
    pub seat: SeatId,
    /// The alias.
    pub key: Box<str>,
    /// How it is held from now on; `None`: no longer.
    pub multi: Option<Multi>,
}

/// Seats by user and name. The names themselves are read from shard 0's [`Names`].
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Registrar {
    seats: TableMap<SeatId, Entry>,
    /// Slots that were used before and are free, by their last seat; the longest free first.
    free: VecDeque<SeatId>,
    /// Slots used so far.
    used: u16,
    load: Vec<u32>,
}

/// Slots that rest before one is used again.
const SLOTS_RESTING: usize = 64;

/// Most names one component may bind: a bound on what a broken component can make every shard keep.
pub const NAMES_PER_SEAT_MAX: usize = 10_000;

impl Registrar {
    /// A registrar for `shards` shards.
    pub fn new(shards: ShardId) -> Registrar {
        Registrar {
            load: vec![0; usize::from(shards)],
            ..Registrar::default()
        }
    }

    /// The same seats on other shards: `homes` says which each is at.
    #[must_use]
    pub fn at_homes(&self, shards: ShardId, homes: impl Fn(SeatId) -> ShardId) -> Registrar {
        let mut registrar = Registrar {
            load: vec![0; usize::from(shards)],
            ..self.clone()
        };
        for seat in self.seats.keys() {
            registrar.load[usize::from(homes(*seat))] += 1;
        }
        registrar
    }

    /// Whose seat it is.
    pub fn user_of(&self, seat: SeatId) -> Option<&str> {
        self.seats.get(&seat).map(|entry| &*entry.user)
    }

    /// The first bind over a link of `user`. `proved_alive`: the seat that [`First::Contested`] named has a live link.
    pub fn first(
        &mut self,
        names: &Names,
        rights: &dyn Rights,
        user: &str,
        ask: &Ask<'_>,
        kind: SeatKind,
        proved_alive: bool,
    ) -> Result<First, Refusal> {
        let key = jid::domain_key(ask.name).ok_or(Refusal::BadRequest)?;
        if let Some((_, name)) = names.get(&key)
            && ask.multi.is_none()
        {
            let mut own = name
                .holders
                .iter()
                .copied()
                .filter(|seat| self.is_seat_of(*seat, user, &key));
            let lost = own
                .clone()
                .find(|seat| names.seat(*seat).is_some_and(|view| !view.live));
            match (lost, own.next()) {
                (Some(seat), _) => {
                    self.judge_marks(names, rights, user, ask, Some(seat))?;
                    return Ok(First::Back(seat));
                }
                (None, Some(seat)) if !proved_alive => return Ok(First::Contested(seat)),
                _ => {}
            }
        }
        let granted = self.judge(names, rights, user, ask, kind)?;
        let seat = self.next_seat().ok_or(Refusal::Conflict)?;
        self.seats.insert(
            seat,
            Entry {
                user: user.into(),
                names: vec![granted.key.as_str().into()],
                aliases: Vec::new(),
            },
        );
        Ok(First::New(seat, granted))
    }

    /// A component of the stock router, whose links are shard 0's. `None`: no seat is free.
    pub fn behind(&mut self, key: &str) -> Option<SeatId> {
        let seat = self.next_seat()?;
        self.load[0] += 1;
        self.seats.insert(
            seat,
            Entry {
                user: "".into(),
                names: vec![key.into()],
                aliases: Vec::new(),
            },
        );
        Some(seat)
    }

    /// A further bind over the link of `seat`. `Ok(None)`: it holds the name already, just so.
    pub fn further(
        &mut self,
        names: &Names,
        rights: &dyn Rights,
        seat: SeatId,
        ask: &Ask<'_>,
    ) -> Result<Option<Granted>, Refusal> {
        let entry = self.seats.get(&seat).ok_or(Refusal::BadRequest)?;
        let key = jid::domain_key(ask.name).ok_or(Refusal::BadRequest)?;
        if entry.holds(&key) {
            if names.marks(&key, seat) == (ask.default, ask.log) {
                return Ok(None);
            }
            self.judge_marks(names, rights, &entry.user, ask, Some(seat))?;
            let multi = names.get(&key).map_or(Multi::No, |(_, name)| name.multi);
            let key = key.into_owned();
            return Ok(Some(Granted { key, multi }));
        }
        if entry.names.len() >= NAMES_PER_SEAT_MAX {
            return Err(Refusal::Forbidden);
        }
        let user = entry.user.clone();
        let granted = self.judge(names, rights, &user, ask, SeatKind::Native)?;
        if let Some(entry) = self.seats.get_mut(&seat) {
            entry.names.push(granted.key.as_str().into());
        }
        Ok(Some(granted))
    }

    /// Gives up a name. False when the seat does not hold it.
    pub fn unbind(&mut self, seat: SeatId, key: &str) -> bool {
        let Some(entry) = self.seats.get_mut(&seat) else {
            return false;
        };
        let before = entry.names.len();
        entry.names.retain(|name| **name != *key);
        entry.names.len() < before
    }

    /// Aligns who holds aliases with who holds their targets, after a change of either. An alias that a component has
    /// bound as a name of its own, before it was one, stays with it until it lets go.
    pub fn align_aliases(&mut self, names: &Names) -> Vec<AliasChange> {
        let mut changes = Vec::new();
        for (seat, entry) in &mut self.seats {
            entry.aliases.retain(|alias| {
                let stays = names
                    .alias_target(alias)
                    .is_some_and(|target| entry.names.iter().any(|name| **name == *target));
                if !stays {
                    changes.push(AliasChange {
                        seat: *seat,
                        key: alias.clone(),
                        multi: None,
                    });
                }
                stays
            });
        }
        for (alias, target) in names.aliases() {
            let taken = self
                .seats
                .values()
                .any(|entry| entry.names.iter().any(|name| **name == *alias));
            let Some((_, target)) = names.get(target).filter(|_| !taken) else {
                continue;
            };
            for seat in &target.holders {
                if let Some(entry) = self.seats.get_mut(seat)
                    && !entry.holds(alias)
                {
                    entry.aliases.push(alias.into());
                    changes.push(AliasChange {
                        seat: *seat,
                        key: alias.into(),
                        multi: Some(target.multi),
                    });
                }
            }
        }
        changes
    }

    /// The seat is given up; its names, for the messages to all shards.
    pub fn drop_seat(&mut self, seat: SeatId, home: ShardId) -> Vec<Box<str>> {
        let Some(entry) = self.seats.remove(&seat) else {
            return Vec::new();
        };
        self.free.push_back(seat);
        let load = &mut self.load[usize::from(home)];
        *load = load.saturating_sub(1);
        entry.names.into_iter().chain(entry.aliases).collect()
    }

    /// The shard with the fewest seats takes one more.
    pub fn choose_home(&mut self) -> ShardId {
        let home = (0..self.load.len()).min_by_key(|shard| self.load[*shard]).unwrap_or(0);
        self.load[home] += 1;
        ShardId::try_from(home).unwrap_or(0)
    }

    /// A slot that was never used, as long as there are many; a late message about a former seat then finds nothing.
    fn next_seat(&mut self) -> Option<SeatId> {
        if self.free.len() >= SLOTS_RESTING || self.used == SeatId::REMOTE_SLOTS - 1 {
            let last = self.free.pop_front()?;
            return Some(SeatId::new(
                u16::try_from(last.slot()).ok()?,
                last.generation().wrapping_add(1),
            ));
        }
        self.used += 1;
        Some(SeatId::new(self.used, 0))
    }

    fn is_seat_of(&self, seat: SeatId, user: &str, first_name: &str) -> bool {
        self.seats
            .get(&seat)
            .is_some_and(|entry| *entry.user == *user && entry.names.first().is_some_and(|name| **name == *first_name))
    }

    /// May it be what it asks to be, beside holding the name? Only one can be the default route; one that has lost its
    /// link gives way.
    fn judge_marks(
        &self,
        names: &Names,
        rights: &dyn Rights,
        user: &str,
        ask: &Ask<'_>,
        seat: Option<SeatId>,
    ) -> Result<(), Refusal> {
        if ask.default && !rights.default_route(user) || ask.log && !rights.log(user) {
            return Err(Refusal::Forbidden);
        }
        let taken = |other| Some(other) != seat && names.seat(other).is_some_and(|view| view.live);
        if ask.default && names.default_route().is_some_and(taken) {
            return Err(Refusal::Conflict);
        }
        Ok(())
    }

    fn judge(
        &self,
        names: &Names,
        rights: &dyn Rights,
        user: &str,
        ask: &Ask<'_>,
        kind: SeatKind,
    ) -> Result<Granted, Refusal> {
        let key = jid::domain_key(ask.name)
            .filter(|key| !key.is_empty())
            .ok_or(Refusal::BadRequest)?;
        let foreign = kind == SeatKind::Xep0114;
        if !foreign {
            if !rights.bind(user, ask.name) {
                return Err(Refusal::Forbidden);
            }
            self.judge_marks(names, rights, user, ask, None)?;
        }
        let multi = match ask.multi {
            _ if foreign => Multi::From,
            Some("from") => Multi::From,
            Some(_) => Multi::To,
            None => Multi::No,
        };
        if names.is_reserved(&key) {
            return Err(Refusal::Conflict);
        }
        let own = |seat: &SeatId| names.seat(*seat).is_some_and(|view| view.peer.is_none());
        match names.get(&key).filter(|(_, name)| name.holders.iter().any(own)) {
            // Who shares a name shares it as its holders do: a domain of sm is no external component's to join.
            Some((_, name)) if multi == Multi::No || multi != name.multi => Err(Refusal::Conflict),
            _ => Ok(Granted {
                key: key.into_owned(),
                multi,
            }),
        }
    }
}

/// The view of a new seat.
pub fn new_seat(home: ShardId, kind: SeatKind, id: &str) -> SeatView {
    SeatView {
        home,
        kind,
        live: true,
        restarts: 0,
        peer: None,
        redirects: false,
        id: id.into(),
    }
}
