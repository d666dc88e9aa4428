//! The transport between two nodes, sans-IO: sealed connections, lanes that lose and double nothing, one peer.
//!
//! It moves opaque *messages* between nodes. What is in them, and when a node is dead, is the brain's business. Every
//! peer lives at one shard, its home; [`conn::Conn`] can be made anywhere and handed to the peer's home once it is known
//! who calls. Must never be added: sockets, clocks, random sources; frames of components, users, seats.
//!
//! * [`hello`]: who a node is. [`seal`]: the Noise handshake and the records. [`conn`]: one connection.
//! * [`frame`]: what stands in a record. [`lane`]: the two reliable streams of a lane.
//! * [`peer`]: which connection serves each lane, when to dial, and what an end means.
//! * [`members`]: who belongs to the cluster and is alive.
//!
//! # The protocol, version 1
//!
//! All integers are big-endian. A *varint* is LEB128: seven bits a byte, the lowest first, the top bit set on all bytes
//! but the last, at most 64 bits. A *text* is its length in bytes (varint) and UTF-8.
//!
//! ## Connections
//!
//! Each lane of a peer is a TCP connection of its own, to the port 5348 unless told otherwise. Lane 0 is control, lane 1
//! data; further lanes would be further data lanes. Either node may dial.
//!
//! ## Handshake
//!
//! ```text
//! dialler  -> acceptor   "jidmesh" 0x01   u16 length   message 1 of the handshake
//! acceptor -> dialler    "jidmesh" 0x01   u16 length   message 2 of the handshake
//! dialler  -> acceptor   sealed records ...
//! acceptor -> dialler    sealed records ...
//! ```
//!
//! The messages are those of `Noise_NNpsk0_25519_AESGCM_SHA256` (Noise Protocol Framework, revision 34), the prologue is
//! the eight bytes that both sides send first, and the pre-shared key is PBKDF2-HMAC-SHA256 of the cluster's secret with
//! the salt "jidmesh mesh" and 100 000 rounds, 32 bytes. The payload of each message is the sender's hello. A node with
//! several secrets dials with the first; as the acceptor it tries each on message 1. (To change a secret: add the new
//! one behind the old on all nodes, then swap them on all nodes, then remove the old.)
//!
//! The acceptor treats the connection as established only when the dialler's first record opened; so the dialler sends
//! one at once. A replayed message 1 gets an answer that nobody can read. Limits: a message of the handshake has at most
//! 16 KiB, and the whole of it may take 3 s. A message 2 of one byte is a refusal in the clear, with a reason (below);
//! being unauthenticated, it serves the log only.
//!
//! Hello:
//!
//! ```text
//! u8 lowest version   u8 highest version   u8 lane   u8 flags (1: plain allowed)
//! u64 incarnation     16 bytes cluster check         u64 policies
//! text node name      varint number of addresses (at most 8), each: text host, u16 port
//! ```
//!
//! What follows is skipped. Both speak the highest common version. The *incarnation* is random, drawn at the start of the
//! process, never 0. The *cluster check* is the first half of SHA-256 of `"jidmesh cluster check" 0x00 NAME`, and the key
//! of the hash on which the nodes agree the same of `"jidmesh hash key" 0x00 NAME`, where NAME is the cluster's name: a
//! node of another cluster is refused, and changing a secret changes no owner. *policies* is any digest of the settings
//! that should be equal; a difference is an alarm, no refusal. The acceptor's hello repeats the lane.
//!
//! ## Records
//!
//! `u16 length`, then so many bytes: a Noise transport message, that is AES-256-GCM of the frames with its 16-byte tag,
//! at most 65535 bytes. After each 2^20 records of a direction its key is replaced as Noise's `Rekey` says. If both
//! hellos allow plain, only the first record of each direction is sealed, and the rest is `u16 length` and the frames.
//!
//! ## Frames
//!
//! A record holds whole frames: `u8 kind`, `varint length`, body. Unknown kinds are skipped, and so is what a body has
//! beyond the fields below. Numbers are varints unless said otherwise.
//!
//! | kind | name | body |
//! |---|---|---|
//! | 1 | Join | epoch, knows, received, limit, former epoch, received then in lane 0, in lane 1 |
//! | 2 | Take | epoch, decision, received, limit |
//! | 3 | Ack | received, limit, arrived |
//! | 4 | Data | offset, then bytes of the lane's stream to the end of the body |
//! | 5 | Ping | u64 token |
//! | 6 | Pong | u64 token |
//! | 7 | Datagram | bytes of the membership protocol; lane 0 only |
//! | 8 | Bye | u8 reason, text for the log (at most 256 bytes) |
//!
//! ## Which connection serves a lane
//!
//! The first frame of both sides on a connection is Join. Of the two nodes the one with the smaller name (bytewise)
//! *decides*. Having read the other's Join, it takes the connection for the lane, if none serves it or if the dialler
//! dialled in knowledge of the last decision about this lane: it counts its decisions per lane from 1, `knows` in a Join
//! is the last one its sender knew when it dialled (0: it did not dial, or knew none of this incarnation). Otherwise the
//! connection is a duplicate, and closed with Bye. Taking a connection, it sends Take with the number of the decision. The
//! other node obeys the Take with the highest number, and answers with an Ack. Each side closes the connection that
//! served before. (A decision that stays unanswered for 1 s may also be replaced.) Only on a connection that serves may
//! Ack, Data and Datagram be sent.
//!
//! ## Streams
//!
//! Each direction of a lane is one stream of bytes, and a message in it is `varint length`, `varint after`, bytes (at
//! most 64 MiB). `arrived` is the offset up to which the sender of the frame has the other side's stream without a gap;
//! `received` the same, up to the first message that waits for the control lane; `limit` the offset up to which it will take bytes; neither falls. On a new connection each side goes on
//! sending at the `received` that the other side's Join or Take told; what comes twice is skipped by its offset. A gap,
//! or bytes beyond the limit, are errors. A sender may assume a limit of 256 KiB for a fresh stream. A receiver
//! acknowledges what came with its next write, and writes before it acts on what came; unread messages cost the sender
//! its credit, so a slow receiver stops it.
//!
//! `after` orders data behind control: the receiver gives a message of lane 1 out only when so many messages of lane 0
//! were given out as the sum of `after` up to and including this message. In lane 0 it is 0.
//!
//! The streams belong to a pair of incarnations and an *epoch*. A node that meets a new incarnation of its peer starts
//! all lanes anew, at epoch 0, and refuses connections of former incarnations. A node that declared its peer dead counts
//! its epoch up, starts all lanes anew and closes all connections; both Join and Take carry the epoch, the higher one
//! counts, and a node that hears of a higher one starts its lanes anew too. An offset in a Join of a lower epoch counts
//! as 0. The last three numbers of a Join say how far its sender had received when it gave the peer up: the peer, if it is
//! still in that former epoch, knows from them what came to its end.
//!
//! ## What a death does to messages
//!
//! Between two living nodes every message arrives once. When one dies, or is given up, each message that it did not
//! acknowledge is one of two kinds. *It was never seen*: never sent in full, or the peer lives and says in a Join that it
//! did not come. (Nothing is sent to a peer that owes an acknowledgement and has said nothing for 100 ms and two round
//! trips: it may be dead, or hear and not be heard.) These are routed again. *It may have been seen*: all others. These are sent to nobody again, and their
//! senders are told. So nothing is done twice, and what nobody can know is the part of a broken connection that its peer
//! died with. A node that was stopped for longer than its peers wait before they give it up reads nothing of what came
//! meanwhile: it drops its connections, and what was not given up comes again over new ones.
//!
//! ## Signs of life
//!
//! A line on which nothing came for 2 s is asked with a Ping, to be answered at once with the same token. When bytes or a
//! Ping are unanswered for 1 s, a replacement is dialled beside it. Dials: at once (the node that does not decide: 50 ms
//! later), then with pauses of a quarter of the time that the lane has been in need, at least 0.1 s and at most 2 s, less up
//! to a quarter by chance; each is given up after 1 s. A connection that does not come to serve within 0.2 s and three
//! round trips may have lost its other end: another is dialled beside it.
//!
//! ## Through another node
//!
//! Two nodes that cannot dial each other may use a third, the *relay*, to which both have connections. The bytes of a
//! connection between them, from the handshake on, then travel as messages of the lanes to and from the relay: of one for
//! lane 0 in lane 0, of one for lane 1 in lane 1. Such a message is
//!
//! ```text
//! u8 kind (96: to the relay, 97: from it)   text node   varint tunnel   u8 flags (1: from the side that opened it)
//! u8 step (0: the first, 1: a further one, 2: it is closed)   varint length, so many bytes (at most 64 KiB)
//! ```
//!
//! *node* is the other end: on the way to the relay the target, on the way from it the source. *tunnel* is a random number
//! that the opening end draws. The relay makes kind 97 of kind 96 and does nothing else; kind 97 is never passed on, and a
//! relay passes on only to a node whose lanes it serves over connections of its own. Whoever gets what it can neither pass
//! on nor take (there is no such way, queue or tunnel) answers with step 2. A node uses a relay when all addresses of a
//! living peer failed, goes on dialling, and drops the relayed connection when a direct one takes its lane: the relayed
//! one counts as a connection like any other, dialled in knowledge of the last decision.
//!
//! ## Reasons
//!
//! 1 another connection serves the lane, 2 the node stops, 3 it restarts, 4 it had declared the peer dead; 16 another
//! secret, 17 no common version, 18 another cluster, 19 the same name, 20 not the node that was dialled, 21 a former
//! incarnation, 22 too slow, 23 a breach of this protocol.

pub mod conn;
pub mod error;
pub mod frame;
pub mod hello;
pub mod lane;
pub mod members;
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
