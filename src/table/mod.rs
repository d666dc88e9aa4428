//! Who is where: seats and names, sessions, clients, fences.
//!
//! Every table here belongs to one shard. [`names::Names`] is a copy that all shards hold and shard 0's
//! [`registrar::Registrar`] alone changes; [`users::Users`] is a shard's slice of the session table, cut by hash of the
//! bare JID; [`clients::Clients`] hangs on the seat of a c2s; [`link`] has
//! the words that every room above shares. Must never be added: I/O, time sources, frames' bytes.

pub mod clients;
pub mod fence;
pub mod image;
pub mod link;
pub mod names;
pub mod registrar;
pub mod rows;
pub mod seat_map;
pub mod users;
pub mod ways;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Index of a shard, `0..shards`.
pub type ShardId = u16;

/// Another node of the mesh, as this node numbers it; a number is never given to another name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PeerId(pub u16);

/// A component's place at the router. It outlives the component's link for the grace period; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SeatId(u32);

impl SeatId {
    /// Most seats at a time.
    pub const SEATS_MAX: usize = 1 << 16;

    /// Slots from here on stand for components of other nodes; below are this node's own.
    pub const REMOTE_SLOTS: u16 = 1 << 15;

    /// The seat in a slot, in this generation of the slot. Slot 0 is jidmesh's own.
    pub const fn new(slot: u16, generation: u16) -> SeatId {
        SeatId((generation as u32) << 16 | slot as u32)
    }

    /// Index of its slot.
    pub const fn slot(self) -> usize {
        (self.0 & 0xffff) as usize
    }

    /// How often its slot was used before.
    pub const fn generation(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// A number that no other seat had lately.
    pub const fn number(self) -> u32 {
        self.0
    }

    /// The seat that [`SeatId::number`] came from.
    pub const fn from_number(number: u32) -> SeatId {
        SeatId(number)
    }
}

/// What a component is, shown by what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SeatKind {
    /// A native component that has shown nothing yet.
    Native,
    /// Bound a name with `multi`.
    Sm,
    /// Sent a session `start` or `create`.
    C2s,
    /// Bound as the default route.
    S2s,
    /// Said `jabber:component:accept` in its stream header (XEP-0114).
    Xep0114,
}

impl SeatKind {
    /// The word that `status` and the metrics use.
    pub fn word(self) -> &'static str {
        match self {
            SeatKind::Native => "native",
            SeatKind::Sm => "sm",
            SeatKind::C2s => "c2s",
            SeatKind::S2s => "s2s",
            SeatKind::Xep0114 => "xep-0114",
        }
    }

    /// One of jabberd2's own, which re-serialise what they parsed: their frames need no full validation.
    pub fn is_jabberd2(self) -> bool {
        matches!(self, SeatKind::Sm | SeatKind::C2s | SeatKind::S2s)
    }
}

/// An identifier that a component chose, as it stands on the wire: at most [`Token::BYTES_MAX`] bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token {
    len: u8,
    bytes: [u8; Token::BYTES_MAX],
}

impl Token {
    /// jabberd2's sm-side ids are 40 hexadecimal digits.
    pub const BYTES_MAX: usize = 40;

    /// `None` when it is longer than any component makes it.
    pub fn new(raw: &[u8]) -> Option<Token> {
        let mut bytes = [0; Token::BYTES_MAX];
        bytes.get_mut(..raw.len())?.copy_from_slice(raw);
        Some(Token {
            len: u8::try_from(raw.len()).ok()?,
            bytes,
        })
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// The text; empty when it was not UTF-8.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

/// As text.
impl Serialize for Token {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Token {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Token, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Token;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an identifier")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Token, E> {
                Token::new(text.as_bytes()).ok_or_else(|| E::custom("an identifier that is too long"))
            }
        }
        from.deserialize_str(Text)
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Token({})", self.as_str())
    }
}
