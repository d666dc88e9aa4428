//! The transport between two nodes, sans-IO. Must never be added: sockets, clocks, random sources; frames, users, seats.

pub mod conn;
pub mod error;
pub mod frame;
pub mod hello;
pub mod lane;
pub mod peer;
pub mod seal;

mod codec;
#[cfg(test)]
mod tests;

pub use crate::table::link::{CloseCause, Level, LinkId, Micros};

/// Which of a peer's lanes. A number on the wire: further data lanes would be 2, 3, ...
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    /// Rows, names, membership: few bytes, never behind data.
    Control,
    /// Stanzas.
    Data,
}

impl Lane {
    /// All of them.
    pub const ALL: [Lane; 2] = [Lane::Control, Lane::Data];

    /// The number on the wire, and its place in tables.
    pub const fn number(self) -> u8 {
        match self {
            Lane::Control => 0,
            Lane::Data => 1,
        }
    }

    pub(crate) fn from_number(number: u8) -> Option<Lane> {
        Lane::ALL.into_iter().find(|lane| lane.number() == number)
    }

    pub(crate) const fn index(self) -> usize {
        self.number() as usize
    }

    /// The word of the log.
    pub const fn word(self) -> &'static str {
        match self {
            Lane::Control => "control",
            Lane::Data => "data",
        }
    }
}
