//! Why a peer's connection ends, in words an operator can act on.

use super::hello::VERSIONS;
use std::fmt;
use std::ops::RangeInclusive;

/// What ended a connection between two nodes. The connection is of no use after it; the lanes are unharmed and go on
/// over the next one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MeshError {
    /// The other side did not begin as a jidmesh does: these were its first bytes.
    NotAPeer(Vec<u8>),
    /// No secret of ours opens the other side's first message.
    WrongSecret,
    /// A sealed record does not open: altered on the way, or sent twice.
    Altered,
    /// A length beyond the limit: the length and the limit, bytes.
    Oversized(usize, usize),
    /// The handshake was not finished in time.
    TimedOut,
    /// No version of the protocol that both speak; theirs.
    Version(RangeInclusive<u8>),
    /// The other side belongs to another cluster.
    OtherCluster,
    /// The other side is this very process.
    Oneself,
    /// The other side calls itself by this node's name.
    SameName,
    /// The node that answered is not the one that was dialled: its name.
    OtherNode(String),
    /// The other side is a former life of its node.
    FormerLife,
    /// The other side said why it closes.
    Refused(Reason),
    /// The other side broke the protocol; where.
    Malformed(&'static str),
}

impl fmt::Display for MeshError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MeshError::NotAPeer(began) => {
                let began = began.escape_ascii();
                write!(f, "no jidmesh speaks there: it began with '{began}'")
            }
            MeshError::WrongSecret => f.write_str("it has another secret: compare <mesh><secret> on both machines"),
            MeshError::Altered => f.write_str("a record was altered on the way"),
            MeshError::Oversized(found, most) => write!(f, "{found} bytes announced where {most} are the most"),
            MeshError::TimedOut => f.write_str("it did not finish the handshake in time"),
            MeshError::Version(theirs) => write!(
                f,
                "it speaks versions {} to {} of the mesh protocol, this node {} to {}: upgrade the older one",
                theirs.start(),
                theirs.end(),
                VERSIONS.start(),
                VERSIONS.end()
            ),
            MeshError::OtherCluster => {
                f.write_str("it belongs to another cluster: compare <mesh><cluster> on both machines")
            }
            MeshError::Oneself => f.write_str("that is this node itself"),
            MeshError::SameName => f.write_str("two machines have the same name: give each its own <mesh><node>"),
            MeshError::OtherNode(name) => write!(f, "the node there is '{name}'"),
            MeshError::FormerLife => f.write_str("a former life of this node: do two processes run under its name?"),
            MeshError::Refused(reason) => write!(f, "it said: {}", reason.text()),
            MeshError::Malformed(place) => write!(f, "it broke the protocol: {place}"),
        }
    }
}

impl std::error::Error for MeshError {}

impl MeshError {
    /// Whether an operator must act: nothing heals it.
    pub fn is_lasting(&self) -> bool {
        matches!(
            self,
            MeshError::WrongSecret
                | MeshError::Version(_)
                | MeshError::OtherCluster
                | MeshError::SameName
                | MeshError::Refused(Reason::WrongSecret | Reason::Version | Reason::OtherCluster | Reason::SameName)
        )
    }

    /// What the other side is told, where it is told anything.
    pub(super) fn reason(&self) -> Reason {
        match self {
            MeshError::WrongSecret => Reason::WrongSecret,
            MeshError::Version(_) => Reason::Version,
            MeshError::OtherCluster => Reason::OtherCluster,
            MeshError::Oneself | MeshError::SameName => Reason::SameName,
            MeshError::OtherNode(_) => Reason::OtherNode,
            MeshError::FormerLife => Reason::FormerLife,
            MeshError::TimedOut => Reason::TimedOut,
            _ => Reason::Protocol,
        }
    }
}

/// Why one side closes, as a number on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Another connection serves the lane.
    Superseded,
    /// The node stops, and does not come back soon.
    Leaving,
    /// The node restarts, and will be back within the grace period.
    Restarting,
    /// The node believed its peer dead and starts anew with it.
    Anew,
    /// The first message opened with none of its secrets.
    WrongSecret,
    /// No common version.
    Version,
    /// Another cluster.
    OtherCluster,
    /// The peer has the node's own name.
    SameName,
    /// The node is not the one that was dialled.
    OtherNode,
    /// The peer's life is a former one.
    FormerLife,
    /// The handshake took too long.
    TimedOut,
    /// What came broke the protocol.
    Protocol,
    /// A number this version does not know.
    Unknown(u8),
}

/// The numbers on the wire. Never used for another meaning.
const REASONS: [(u8, Reason); 12] = [
    (1, Reason::Superseded),
    (2, Reason::Leaving),
    (3, Reason::Restarting),
    (4, Reason::Anew),
    (16, Reason::WrongSecret),
    (17, Reason::Version),
    (18, Reason::OtherCluster),
    (19, Reason::SameName),
    (20, Reason::OtherNode),
    (21, Reason::FormerLife),
    (22, Reason::TimedOut),
    (23, Reason::Protocol),
];

impl Reason {
    pub(super) fn number(self) -> u8 {
        match self {
            Reason::Unknown(number) => number,
            _ => REASONS
                .iter()
                .find(|(_, reason)| *reason == self)
                .map_or(0, |(number, _)| *number),
        }
    }

    pub(super) fn from_number(number: u8) -> Reason {
        let known = REASONS.iter().find(|(known, _)| *known == number);
        known.map_or(Reason::Unknown(number), |(_, reason)| *reason)
    }

    /// The words of the log.
    pub fn text(self) -> String {
        let text = match self {
            Reason::Superseded => "another connection serves this lane",
            Reason::Leaving => "it stops",
            Reason::Restarting => "it restarts",
            Reason::Anew => "it believed this node dead, and starts anew",
            Reason::WrongSecret => "this node has another secret: compare <mesh><secret> on both machines",
            Reason::Version => "no version of the protocol that both speak: upgrade the older one",
            Reason::OtherCluster => "another cluster: compare <mesh><cluster> on both machines",
            Reason::SameName => "it has this node's name",
            Reason::OtherNode => "it is not the node that was dialled",
            Reason::FormerLife => "this process is a former life of its node: do two run under one name?",
            Reason::TimedOut => "the handshake took too long",
            Reason::Protocol => "this node broke the protocol",
            Reason::Unknown(number) => return format!("reason {number}"),
        };
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_keep_their_numbers() {
        for number in 0..=255 {
            assert_eq!(Reason::from_number(number).number(), number);
        }
        assert_eq!(Reason::from_number(3), Reason::Restarting);
    }
}
