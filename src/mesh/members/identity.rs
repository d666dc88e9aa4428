//! A member's identity, and its bytes in the packets of the membership protocol.

use super::super::codec::{Reader, put_text, put_varint};
use super::super::error::MeshError;
use super::super::hello::{ADDRESSES_MAX, Address, NAME_BYTES_MAX};
use bytes::{Buf, BufMut};
use foca::{Codec, Header, Identity, Member, Message, State};
use std::sync::Arc;

/// Who a member is. Of two identities of one node the one with the higher generation counts.
#[derive(Clone, Debug)]
pub(super) struct Id {
    pub(super) node: Arc<str>,
    /// The life of its process.
    pub(super) incarnation: u64,
    /// Grows each time the node comes back after it was declared down, and from life to life.
    pub(super) generation: u64,
    /// Where it can be dialled; does not count for equality.
    pub(super) addresses: Arc<[Address]>,
}

impl Id {
    fn key(&self) -> (&str, u64, u64) {
        (&self.node, self.generation, self.incarnation)
    }
}

impl PartialEq for Id {
    fn eq(&self, other: &Id) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Id {}

impl Identity for Id {
    type Addr = Arc<str>;

    fn renew(&self) -> Option<Id> {
        Some(Id {
            generation: self.generation.checked_add(1)?,
            ..self.clone()
        })
    }

    fn addr(&self) -> Arc<str> {
        Arc::clone(&self.node)
    }

    fn win_addr_conflict(&self, adversary: &Id) -> bool {
        self.key() > adversary.key()
    }
}

/// The bytes of a packet: identities and numbers as in the rest of the protocol.
#[derive(Debug, Default)]
pub(super) struct Bytes {
    buffer: Vec<u8>,
}

const PING: u8 = 0;
const ACK: u8 = 1;
const PING_REQ: u8 = 2;
const INDIRECT_PING: u8 = 3;
const INDIRECT_ACK: u8 = 4;
const FORWARDED_ACK: u8 = 5;
const ANNOUNCE: u8 = 6;
const FEED: u8 = 7;
const GOSSIP: u8 = 8;
const BROADCAST: u8 = 9;
const TURN_UNDEAD: u8 = 10;

impl Codec<Id> for Bytes {
    type Error = MeshError;

    fn encode_header(&mut self, header: &Header<Id>, buf: impl BufMut) -> Result<(), MeshError> {
        self.buffer.clear();
        let out = &mut self.buffer;
        put_id(out, &header.src);
        put_varint(out, header.src_incarnation.into());
        put_id(out, &header.dst);
        let (kind, probe, other) = match &header.message {
            Message::Ping(number) => (PING, *number, None),
            Message::Ack(number) => (ACK, *number, None),
            Message::PingReq { target, probe_number } => (PING_REQ, *probe_number, Some(target)),
            Message::IndirectPing { origin, probe_number } => (INDIRECT_PING, *probe_number, Some(origin)),
            Message::IndirectAck { target, probe_number } => (INDIRECT_ACK, *probe_number, Some(target)),
            Message::ForwardedAck { origin, probe_number } => (FORWARDED_ACK, *probe_number, Some(origin)),
            Message::Announce => (ANNOUNCE, 0, None),
            Message::Feed => (FEED, 0, None),
            Message::Gossip => (GOSSIP, 0, None),
            Message::Broadcast => (BROADCAST, 0, None),
            Message::TurnUndead => (TURN_UNDEAD, 0, None),
        };
        out.extend_from_slice(&[kind, probe]);
        if let Some(id) = other {
            put_id(out, id);
        }
        self.flush(buf)
    }

    fn decode_header(&mut self, buf: impl Buf) -> Result<Header<Id>, MeshError> {
        read(buf, |from| {
            let (src, src_incarnation, dst) = (get_id(from)?, get_u16(from)?, get_id(from)?);
            let (kind, probe_number) = (from.byte()?, from.byte()?);
            let message = match kind {
                PING => Message::Ping(probe_number),
                ACK => Message::Ack(probe_number),
                PING_REQ => Message::PingReq {
                    target: get_id(from)?,
                    probe_number,
                },
                INDIRECT_PING => Message::IndirectPing {
                    origin: get_id(from)?,
                    probe_number,
                },
                INDIRECT_ACK => Message::IndirectAck {
                    target: get_id(from)?,
                    probe_number,
                },
                FORWARDED_ACK => Message::ForwardedAck {
                    origin: get_id(from)?,
                    probe_number,
                },
                ANNOUNCE => Message::Announce,
                FEED => Message::Feed,
                GOSSIP => Message::Gossip,
                BROADCAST => Message::Broadcast,
                TURN_UNDEAD => Message::TurnUndead,
                _ => return Err(MeshError::Malformed("membership")),
            };
            Ok(Header {
                src,
                src_incarnation,
                dst,
                message,
            })
        })
    }

    fn encode_member(&mut self, member: &Member<Id>, buf: impl BufMut) -> Result<(), MeshError> {
        self.buffer.clear();
        put_id(&mut self.buffer, member.id());
        put_varint(&mut self.buffer, member.incarnation().into());
        self.buffer.push(match member.state() {
            State::Alive => 0,
            State::Suspect => 1,
            State::Down => 2,
        });
        self.flush(buf)
    }

    fn decode_member(&mut self, buf: impl Buf) -> Result<Member<Id>, MeshError> {
        read(buf, |from| {
            let (id, incarnation) = (get_id(from)?, get_u16(from)?);
            let state = match from.byte()? {
                0 => State::Alive,
                1 => State::Suspect,
                2 => State::Down,
                _ => return Err(MeshError::Malformed("membership")),
            };
            Ok(Member::new(id, incarnation, state))
        })
    }
}

impl Bytes {
    fn flush(&self, mut buf: impl BufMut) -> Result<(), MeshError> {
        let room = buf.remaining_mut();
        if room < self.buffer.len() {
            return Err(MeshError::Oversized(self.buffer.len(), room));
        }
        buf.put_slice(&self.buffer);
        Ok(())
    }
}

fn read<T>(mut buf: impl Buf, read: impl FnOnce(&mut Reader<'_>) -> Result<T, MeshError>) -> Result<T, MeshError> {
    let all = buf.chunk();
    let mut from = Reader::new(all, "membership");
    let value = read(&mut from)?;
    let used = all.len() - from.rest().len();
    buf.advance(used);
    Ok(value)
}

fn put_id(out: &mut Vec<u8>, id: &Id) {
    put_text(out, &id.node);
    out.extend_from_slice(&id.incarnation.to_be_bytes());
    put_varint(out, id.generation);
    put_varint(out, id.addresses.len() as u64);
    for address in id.addresses.iter() {
        put_text(out, &address.host);
        out.extend_from_slice(&address.port.to_be_bytes());
    }
}

fn get_id(from: &mut Reader<'_>) -> Result<Id, MeshError> {
    let node = Arc::from(from.text(NAME_BYTES_MAX)?);
    let incarnation = u64::from_be_bytes(from.array()?);
    let (generation, count) = (from.varint()?, from.varint()?);
    if count > ADDRESSES_MAX as u64 {
        return Err(MeshError::Malformed("membership"));
    }
    let address = |_| {
        let host = from.text(NAME_BYTES_MAX)?.to_owned();
        let port = u16::from_be_bytes(from.array()?);
        Ok(Address { host, port })
    };
    let addresses: Result<Vec<Address>, MeshError> = (0..count).map(address).collect();
    Ok(Id {
        node,
        incarnation,
        generation,
        addresses: addresses?.into(),
    })
}

fn get_u16(from: &mut Reader<'_>) -> Result<u16, MeshError> {
    u16::try_from(from.varint()?).map_err(|_| MeshError::Malformed("membership"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn id(node: &str, generation: u64) -> Id {
        let address = Address {
            host: node.into(),
            port: 5348,
        };
        Id {
            node: node.into(),
            incarnation: 77,
            generation,
            addresses: vec![address].into(),
        }
    }

    #[test]
    fn packets_return() {
        let mut codec = Bytes::default();
        let probe_number = 9;
        let messages = [
            Message::Ping(1),
            Message::PingReq {
                target: id("c", 4),
                probe_number,
            },
            Message::ForwardedAck {
                origin: id("d", 0),
                probe_number,
            },
            Message::TurnUndead,
        ];
        for message in messages {
            let header = Header {
                src: id("a", 300),
                src_incarnation: 1000,
                dst: id("b", 0),
                message,
            };
            let mut out = Vec::new();
            codec.encode_header(&header, &mut out).unwrap();
            let member = Member::new(id("e", 2), 5, State::Suspect);
            codec.encode_member(&member, &mut out).unwrap();
            let mut rest = &out[..];
            let read = codec.decode_header(&mut rest).unwrap();
            assert_eq!(read, header);
            assert_eq!(read.src.addresses, header.src.addresses);
            assert_eq!(codec.decode_member(&mut rest).unwrap(), member);
            assert!(rest.is_empty());
            // No room: nothing is written.
            let mut short = [0u8; 10];
            assert!(codec.encode_header(&header, &mut short[..]).is_err());
            assert_eq!(short, [0; 10]);
        }
    }

    #[test]
    fn the_higher_generation_counts() {
        let renewed = id("a", 4).renew().unwrap();
        assert!(renewed.win_addr_conflict(&id("a", 4)) && !id("a", 4).win_addr_conflict(&renewed));
    }

    proptest! {
        #[test]
        fn no_bytes_crash_it(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = Bytes::default().decode_header(&bytes[..]);
            let _ = Bytes::default().decode_member(&bytes[..]);
        }
    }
}
