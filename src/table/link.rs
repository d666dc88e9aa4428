//! The words for time, links and log lines that the mesh and the brain share.

/// A point in time: microseconds of a monotonic clock whose origin is the process's start.
pub type Micros = u64;

/// A link of one shard. Slots are reused, generations are not: a late event of a former link finds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LinkId {
    /// Index of the slot.
    pub slot: u32,
    /// How often the slot was used before.
    pub generation: u32,
}

/// How a link came to its end, seen from the socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloseCause {
    /// The other side closed in order (end of stream).
    Eof,
    /// The other side reset the connection.
    Reset,
    /// A dial was refused: the machine answers, but nobody listens there.
    Refused,
    /// Another error of the socket; its text.
    Error(String),
    /// This side closed it, as it was asked to.
    Local,
}

/// How grave a log line is, with syslog's meanings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Something is lost or refused that should not be.
    Error,
    /// The operator should look at it.
    Warning,
    /// What happens in a healthy life: links, names, start and stop.
    Notice,
    /// Details: off by default.
    Info,
}
