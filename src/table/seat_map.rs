//! A table keyed by seat: one array access, as every frame looks up several.

use super::SeatId;
use serde::{Deserialize, Serialize};

/// Values by seat. A seat's slot is reused after it is gone; its generation is not, so a former seat finds nothing.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(from = "Vec<(SeatId, T)>", into = "Vec<(SeatId, T)>")]
#[serde(bound(serialize = "T: Clone + Serialize", deserialize = "T: Deserialize<'de>"))]
pub struct SeatMap<T> {
    slots: Vec<Option<(SeatId, T)>>,
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
        map.slots.into_iter().flatten().collect()
    }
}

impl<T> Default for SeatMap<T> {
    fn default() -> Self {
        SeatMap { slots: Vec::new() }
    }
}

impl<T> SeatMap<T> {
    /// The seat's value.
    #[inline]
    pub fn get(&self, seat: SeatId) -> Option<&T> {
        match self.slots.get(seat.slot()) {
            Some(Some((id, value))) if *id == seat => Some(value),
            _ => None,
        }
    }

    /// The seat's value, to be changed.
    #[inline]
    pub fn get_mut(&mut self, seat: SeatId) -> Option<&mut T> {
        match self.slots.get_mut(seat.slot()) {
            Some(Some((id, value))) if *id == seat => Some(value),
            _ => None,
        }
    }

    /// Has this seat.
    pub fn contains(&self, seat: SeatId) -> bool {
        self.get(seat).is_some()
    }

    /// Puts a value, in the place of the seat's or of a former seat's.
    pub fn insert(&mut self, seat: SeatId, value: T) {
        if self.slots.len() <= seat.slot() {
            self.slots.resize_with(seat.slot() + 1, || None);
        }
        self.slots[seat.slot()] = Some((seat, value));
    }

    /// The seat's value, made when there is none.
    pub fn get_or_insert_with(&mut self, seat: SeatId, make: impl FnOnce() -> T) -> &mut T {
        if !self.contains(seat) {
            self.insert(seat, make());
        }
        match &mut self.slots[seat.slot()] {
            Some((_, value)) => value,
            None => unreachable!("inserted above"),
        }
    }

    /// Takes the seat's value out.
    pub fn remove(&mut self, seat: SeatId) -> Option<T> {
        self.contains(seat)
            .then(|| self.slots[seat.slot()].take())?
            .map(|(_, value)| value)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (SeatId, &T)> {
        self.slots.iter().flatten().map(|(id, value)| (*id, value))
    }

    /// All of them, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (SeatId, &mut T)> {
        self.slots.iter_mut().flatten().map(|(id, value)| (*id, value))
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
}
