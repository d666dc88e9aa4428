//! A table keyed by seat: one array access, as every frame looks up several.

use super::SeatId;
use serde::{Deserialize, Serialize};

/// Values by seat. A seat's slot is reused after it is gone; its generation is not, so a former seat finds nothing.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(from = "Vec<(SeatId, T)>", into = "Vec<(SeatId, T)>")]
#[serde(bound(serialize = "T: Clone + Serialize", deserialize = "T: Deserialize<'de>"))]
pub struct SeatMap<T> {
    /// This node's own.
    own: Slots<T>,
    /// Other nodes', from [`SeatId::REMOTE_SLOTS`] on: apart, so that there is nothing between the two to be gone through.
    remote: Slots<T>,
}

type Slots<T> = Vec<Option<(SeatId, T)>>;

/// Where a seat's slot is: whether it is another node's, and its index among these.
#[inline]
fn place(seat: SeatId) -> (bool, usize) {
    let first = usize::from(SeatId::REMOTE_SLOTS);
    match seat.slot() {
        slot if slot < first => (false, slot),
        slot => (true, slot - first),
    }
}

impl<T> From<Vec<(SeatId, T)>> for SeatMap<T> {
    fn from(values: Vec<(SeatId, T)>) -> SeatMap<T> {
        let mut map = SeatMap::default();
        values.into_iter().for_each(|(seat, value)| map.insert(seat, value));
        map
    }
}

impl<T> From<SeatMap<T>> for Vec<(SeatId, T)> {
    fn from(map: SeatMap<T>) -> Vec<(SeatId, T)> {
        map.own.into_iter().chain(map.remote).flatten().collect()
    }
}

impl<T> Default for SeatMap<T> {
    fn default() -> Self {
        SeatMap {
            own: Vec::new(),
            remote: Vec::new(),
        }
    }
}

impl<T> SeatMap<T> {
    /// The seat's value.
    #[inline]
    pub fn get(&self, seat: SeatId) -> Option<&T> {
        let (remote, at) = place(seat);
        match if remote { &self.remote } else { &self.own }.get(at) {
            Some(Some((id, value))) if *id == seat => Some(value),
            _ => None,
        }
    }

    /// The seat's value, to be changed.
    #[inline]
    pub fn get_mut(&mut self, seat: SeatId) -> Option<&mut T> {
        match self.slot(seat) {
            Some(Some((id, value))) if *id == seat => Some(value),
            _ => None,
        }
    }

    #[inline]
    fn slot(&mut self, seat: SeatId) -> Option<&mut Option<(SeatId, T)>> {
        let (remote, at) = place(seat);
        if remote { &mut self.remote } else { &mut self.own }.get_mut(at)
    }

    /// Has this seat.
    pub fn contains(&self, seat: SeatId) -> bool {
        self.get(seat).is_some()
    }

    /// Puts a value, in the place of the seat's or of a former seat's.
    pub fn insert(&mut self, seat: SeatId, value: T) {
        let (remote, at) = place(seat);
        let slots = if remote { &mut self.remote } else { &mut self.own };
        if slots.len() <= at {
            slots.resize_with(at + 1, || None);
        }
        slots[at] = Some((seat, value));
    }

    /// The seat's value, made when there is none.
    pub fn get_or_insert_with(&mut self, seat: SeatId, make: impl FnOnce() -> T) -> &mut T {
        if !self.contains(seat) {
            self.insert(seat, make());
        }
        match self.get_mut(seat) {
            Some(value) => value,
            None => unreachable!("inserted above"),
        }
    }

    /// Takes the seat's value out.
    pub fn remove(&mut self, seat: SeatId) -> Option<T> {
        let slot = self.slot(seat)?;
        slot.take_if(|(id, _)| *id == seat).map(|(_, value)| value)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (SeatId, &T)> {
        self.own
            .iter()
            .chain(&self.remote)
            .flatten()
            .map(|(id, value)| (*id, value))
    }

    /// All of them, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (SeatId, &mut T)> {
        let slots = self.own.iter_mut().chain(&mut self.remote);
        slots.flatten().map(|(id, value)| (*id, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_former_seat_finds_nothing() {
        let (old, new) = (SeatId::new(3, 0), SeatId::new(3, 1));
        let mut map = SeatMap::default();
        map.insert(old, "old");
        assert_eq!(map.get(old), Some(&"old"));
        assert_eq!(map.get(new), None);
        map.insert(new, "new");
        assert_eq!(map.get(old), None);
        assert_eq!(map.remove(old), None);
        assert_eq!(map.remove(new), Some("new"));
        assert_eq!(map.iter().count(), 0);
    }
    #[test]
    fn a_few_components_of_other_nodes_make_no_large_table() {
        let mut map = SeatMap::default();
        let (own, remote) = (SeatId::new(1, 0), SeatId::new(SeatId::REMOTE_SLOTS + 3, 0));
        map.insert(own, "own");
        map.insert(remote, "remote");
        assert_eq!((map.get(own), map.get(remote)), (Some(&"own"), Some(&"remote")));
        assert!(map.own.len() + map.remote.len() <= 8);
    }
}
