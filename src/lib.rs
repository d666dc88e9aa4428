//! jidmesh: a routing proxy that turns machines running jabberd2 into one XMPP cluster.
//!
//! # The house
//!
//! Dependencies point downwards only (`tests/house.rs` checks it). Nothing above `shell` names the
//! runtime, a socket, the clock or a random source: time and randomness come in as arguments, so a
//! whole cluster runs inside one deterministic test.
//!
//! ```text
//! main       the command line, and nothing else
//! demo       a cluster of two machines on this one, played and told
//! load       load generator: simulated components on real sockets
//! shell      the only room that knows glommio: executors, listeners, links, lanes, timers, signals
//! sim        a whole cluster in one thread and virtual time (tests, feature `sim`)
//! operate    metrics, admin socket, status, log writer
//! node       one shard's whole brain, sans-IO; composes the rooms below
//! mesh       between two nodes: sealed connections, reliable lanes, membership; knows messages, not frames
//! route      verdicts for a frame header: no I/O, no clock, no allocation
//! table      who is where: names, sessions, placement
//! config     router.xml, users, filter, mesh section, tuning; every error with file and line
//! wire       the component protocol as pure bytes: scan, header, edit, stream, sasl, handshake
//! jid        JIDs, preparation, the two hashes
//! ```
//!
//! # Words
//!
//! *node*: one jidmesh process on one machine. *component*: c2s, sm, s2s, a XEP-0114 service.
//! *link*: one TCP connection. *seat*: a component's place at the router; it outlives its link for
//! the grace period. *frame*: one child of the stream root. *name*: what a component binds.
//! *session*: one full JID, at a c2s and an sm. *placement*: which sm serves a bare JID. *duty sm*:
//! the sm that works for a user who has no session. *shard*: one executor pinned to one CPU.

// The documentation is for those who work on the house, and shows its inside.
#![allow(rustdoc::private_intra_doc_links)]

pub mod config;
pub mod demo;
pub mod jid;
pub mod load;
pub mod mesh;
pub mod node;
pub mod operate;
pub mod route;
pub mod shell;
#[cfg(all(test, feature = "sim"))]
pub mod sim;
pub mod table;
pub mod wire;
