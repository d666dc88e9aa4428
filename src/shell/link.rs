//! What the shell knows of one link.

use super::accept::{Meter, Permit};
use super::driver::Token;
use super::tls::Tls;
use crate::node::api::{CloseCause, Micros, ShardId};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

/// A link as its shard holds it.
pub(crate) struct Link<C> {
    pub(crate) token: Token,
    pub(crate) remote: SocketAddr,
    /// None for a link that this node dialled.
    pub(crate) permit: Option<Permit>,
    pub(crate) fate: Fate<C>,
    /// A write is in flight.
    pub(crate) writing: bool,
    /// Length of the plain chunk whose records are in flight, with its bytes.
    pub(crate) plain: Vec<u8>,
    pub(crate) tls: Option<Tls>,
    /// What waited when TLS was asked for goes out first, unsealed.
    pub(crate) plain_first: bool,
    pub(crate) paused: bool,
    pub(crate) throttled: bool,
    /// What it sends is measured; nothing is for a peer.
    pub(crate) meter: Option<Meter>,
    /// It stands in the list of links to write.
    pub(crate) dirty: bool,
    /// Memory for the next chunk.
    pub(crate) spare: Vec<u8>,
    /// Bytes that came while the link was on its way out.
    pub(crate) unread: Vec<u8>,
    /// Plain bytes that were written since the brain gave the link away.
    pub(crate) moved_written: usize,
}

/// What becomes of a link.
pub(crate) enum Fate<C> {
    /// It is served.
    Serving,
    /// Its last bytes are written, then it is closed.
    Closing {
        /// What the brain is told.
        cause: CloseCause,
        /// Nothing more comes from the brain; what TLS has to say is the end.
        last: bool,
    },
    /// It goes to another shard when its write is done.
    Moving {
        to: ShardId,
        cargo: Box<C>,
        /// It has come to its end meanwhile.
        broken: Option<CloseCause>,
    },
    /// It is gone; the driver was told to let it go.
    Gone(CloseCause),
}

impl<C> Link<C> {
    pub(crate) fn new(token: Token, remote: SocketAddr, permit: Option<Permit>, meter: Option<Meter>) -> Link<C> {
        Link {
            token,
            remote,
            permit,
            fate: Fate::Serving,
            writing: false,
            plain: Vec::new(),
            tls: None,
            plain_first: false,
            paused: false,
            throttled: false,
            meter,
            dirty: false,
            spare: Vec::new(),
            unread: Vec::new(),
            moved_written: 0,
        }
    }

    pub(crate) fn serving(&self) -> bool {
        matches!(self.fate, Fate::Serving)
    }

    pub(crate) fn wants_reading(&self) -> bool {
        self.serving() && !self.paused && !self.throttled
    }
}

/// A link between two shards.
pub(crate) struct Handover<C> {
    pub(crate) fd: OwnedFd,
    pub(crate) remote: SocketAddr,
    pub(crate) permit: Option<Permit>,
    pub(crate) cargo: Box<C>,
    pub(crate) tls: Option<Tls>,
    pub(crate) meter: Option<Meter>,
    pub(crate) throttled_until: Micros,
    /// Bytes read and not given to a brain yet.
    pub(crate) unread: Vec<u8>,
    /// Bytes of the chunk in flight that were written since the brain gave the link away.
    pub(crate) written: usize,
    /// How it ended on the way, with the rest of its chunk.
    pub(crate) broken: Option<(CloseCause, Vec<u8>, usize)>,
}
