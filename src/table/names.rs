//! A shard's copy of the names and seats: read on every frame, changed only by the registrar's messages.

use super::seat_map::SeatMap;
use super::{PeerId, SeatId, SeatKind, ShardId};
use crate::jid::{self, TableMap};
use crate::wire::value::Value;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

/// What every shard knows of a seat.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SeatView {
    /// The shard that serves its link; of another node's component: the shard that serves that node.
    pub home: ShardId,
    /// What it is.
    pub kind: SeatKind,
    /// Its link is there (not in its grace period).
    pub live: bool,
    /// How often its component turned out to be another process than before.
    pub restarts: u16,
    /// The node it is connected to; `None`: this one.
    pub peer: Option<PeerId>,
    /// It asked for redirects, and its link is there.
    #[serde(default)]
    pub redirects: bool,
    /// Its first name: the id under which others address it.
    pub id: Box<str>,
}

/// How a name may be shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Multi {
    /// One holder.
    No,
    /// `multi='to'` by native components: the domain of a set of sm; users are placed.
    To,
    /// Shared by hash of the sender (`multi='from'`, XEP-0114 components of one name).
    From,
}

/// A bound name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Name {
    /// The first is the one to ask: this node's own in order of binding, then those of other nodes; of a service that
    /// several nodes have, the node that bound it first comes first. Never empty.
    pub holders: SmallVec<[SeatId; 2]>,
    /// How it is shared.
    pub multi: Multi,
    /// When each holder bound it, and how it shares it.
    bound_at: SmallVec<[(SeatId, u64, Multi); 2]>,
}

impl Name {
    fn new(multi: Multi) -> Name {
        Name {
            holders: SmallVec::new(),
            multi,
            bound_at: SmallVec::new(),
        }
    }
}

/// All names and seats.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Names {
    own: Box<str>,
    names: TableMap<Box<str>, Name>,
    aliases: TableMap<Box<str>, Box<str>>,
    seats: SeatMap<SeatView>,
    /// The default route, and the name that it was bound with.
    default_route: Option<(SeatId, Box<str>)>,
    sinks: SmallVec<[SeatId; 2]>,
    /// The names that log sinks were bound with.
    sink_names: Vec<(SeatId, Box<str>)>,
}

impl Names {
    /// No names but jidmesh's own, and the aliases of the configuration (name, target).
    pub fn new(own: &str, aliases: &[(String, String)]) -> Names {
        let mut names = Names {
            own: own.into(),
            ..Names::default()
        };
        names.set_aliases(aliases);
        names
    }

    /// Replaces the aliases.
    pub fn set_aliases(&mut self, aliases: &[(String, String)]) {
        self.aliases = aliases
            .iter()
            .filter_map(|(name, target)| Some((jid::domain_key(name)?.into(), jid::domain_key(target)?.into())))
            .collect();
    }

    /// Finds a name as it stands in a frame. Node and resource are ignored, and so is case (nameprep); an alias
    /// leads to its target. Gives the name's key too.
    pub fn find(&self, raw: Value<'_>) -> Option<(&str, &Name)> {
        if let Some(found) = std::str::from_utf8(raw.0).ok().and_then(|text| self.get(text)) {
            return Some(found);
        }
        let text = raw.unescape()?;
        let key = jid::domain_key(&text)?;
        self.get(&key).or_else(|| self.get(self.aliases.get(&*key)?))
    }

    /// Finds a name by its key.
    pub fn get(&self, key: &str) -> Option<(&str, &Name)> {
        self.names.get_key_value(key).map(|(key, name)| (&**key, name))
    }

    /// An alias, or jidmesh's own name: nobody can bind it.
    pub fn is_reserved(&self, key: &str) -> bool {
        *self.own == *key || self.aliases.contains_key(key)
    }

    /// jidmesh's own name, which its questions and surrogates come from.
    pub fn own(&self) -> &str {
        &self.own
    }

    /// A seat.
    pub fn seat(&self, seat: SeatId) -> Option<&SeatView> {
        self.seats.get(seat)
    }

    /// All seats, in no order.
    pub fn seats(&self) -> impl Iterator<Item = (SeatId, &SeatView)> {
        self.seats.iter()
    }

    /// All names, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Name)> {
        self.names.iter().map(|(key, name)| (&**key, name))
    }

    /// All aliases (name, target), in no order.
    pub fn aliases(&self) -> impl Iterator<Item = (&str, &str)> {
        self.aliases.iter().map(|(name, target)| (&**name, &**target))
    }

    /// What an alias stands for.
    pub fn alias_target(&self, key: &str) -> Option<&str> {
        self.aliases.get(key).map(|target| &**target)
    }

    /// Who gets frames for names that nobody bound.
    pub fn default_route(&self) -> Option<SeatId> {
        self.default_route.as_ref().map(|(seat, _)| *seat)
    }

    /// Whether `seat` holds `key` as the default route, and as a log sink.
    pub fn marks(&self, key: &str, seat: SeatId) -> (bool, bool) {
        let is = |(of, name): &(SeatId, Box<str>)| *of == seat && **name == *key;
        (
            self.default_route.as_ref().is_some_and(is),
            self.sink_names.iter().any(is),
        )
    }

    /// Who gets a copy of every delivered frame.
    pub fn sinks(&self) -> &[SeatId] {
        &self.sinks
    }

    /// A seat came to be, or changed.
    pub fn put_seat(&mut self, seat: SeatId, view: SeatView) {
        self.seats.insert(seat, view);
    }

    /// Changes a seat, if it still is there.
    pub fn change_seat(&mut self, seat: SeatId, change: impl FnOnce(&mut SeatView)) {
        if let Some(view) = self.seats.get_mut(seat) {
            change(view);
        }
    }

    /// A seat is gone; its names were unbound before.
    pub fn drop_seat(&mut self, seat: SeatId) {
        debug_assert!(!self.names.values().any(|name| name.holders.contains(&seat)));
        self.seats.remove(seat);
    }

    /// `seat` holds `key` now. True when nobody held it before. `bound_at` orders the holders of a service among nodes.
    pub fn bind(&mut self, key: &str, seat: SeatId, multi: Multi, bound_at: u64) -> bool {
        let (new, mut name) = match self.names.remove(key) {
            Some(name) => (false, name),
            None => (true, Name::new(multi)),
        };
        match name.bound_at.iter_mut().find(|(holder, ..)| *holder == seat) {
            Some((.., shares)) => *shares = multi,
            None => name.bound_at.push((seat, bound_at, multi)),
        }
        self.order(&mut name);
        self.names.insert(key.into(), name);
        new
    }

    /// This node's own holders decide how a name is shared; without any, one that shares it as a domain of users does.
    fn order(&self, name: &mut Name) {
        let node = |seat: &SeatId| self.seats.get(*seat).and_then(|view| view.peer);
        let own = name.bound_at.iter().rev().find(|(seat, ..)| node(seat).is_none());
        let domain = name.bound_at.iter().find(|(.., multi)| *multi == Multi::To);
        if let Some((.., multi)) = own.or(domain).or(name.bound_at.first()) {
            name.multi = *multi;
        }
        let first_of = |node_of: Option<PeerId>| {
            let times = name.bound_at.iter().filter(|(seat, ..)| node(seat) == node_of);
            times.map(|(_, at, _)| *at).min().unwrap_or(u64::MAX)
        };
        let shared = name.multi == Multi::To;
        let mut keyed: SmallVec<[(u64, bool, u64, SeatId); 2]> = name
            .bound_at
            .iter()
            .map(|(seat, at, _)| {
                let peer = node(seat);
                let rank = if shared { 0 } else { first_of(peer) };
                (rank, peer.is_some(), *at, *seat)
            })
            .collect();
        keyed.sort_by_key(|(rank, remote, at, _)| (*rank, *remote, *at));
        name.holders = keyed.into_iter().map(|(.., seat)| seat).collect();
    }

    /// When `seat` bound `key`; 0 when it does not hold it.
    pub fn bound_at(&self, key: &str, seat: SeatId) -> u64 {
        let name = self.names.get(key);
        name.and_then(|name| name.bound_at.iter().find(|(holder, ..)| *holder == seat))
            .map_or(0, |(_, at, _)| *at)
    }

    /// How `seat` shares `key`; `None` when it does not hold it.
    pub fn multi_of(&self, key: &str, seat: SeatId) -> Option<Multi> {
        let name = self.names.get(key)?;
        let held = name.bound_at.iter().find(|(holder, ..)| *holder == seat);
        held.map(|(.., multi)| *multi)
    }

    /// `seat` no longer holds `key`. True when nobody holds it any more.
    pub fn unbind(&mut self, key: &str, seat: SeatId) -> bool {
        let Some(mut name) = self.names.remove(key) else {
            return false;
        };
        name.bound_at.retain(|(holder, ..)| *holder != seat);
        self.order(&mut name);
        let gone = name.holders.is_empty();
        if !gone {
            self.names.insert(key.into(), name);
        }
        self.mark(key, seat, (false, false));
        gone
    }

    /// `seat` holds `key` as (the default route, a log sink) or not; the marks go with the name.
    pub fn mark(&mut self, key: &str, seat: SeatId, (default, log): (bool, bool)) {
        let (was_default, was_sink) = self.marks(key, seat);
        if default {
            self.default_route = Some((seat, key.into()));
        } else if was_default {
            self.default_route = None;
        }
        if log == was_sink {
            return;
        }
        self.sink_names.retain(|(of, name)| !(*of == seat && **name == *key));
        if log {
            self.sink_names.push((seat, key.into()));
        }
        self.sinks.clear();
        for (seat, _) in &self.sink_names {
            if !self.sinks.contains(seat) {
                self.sinks.push(*seat);
            }
        }
    }
}
