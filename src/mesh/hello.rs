//! Who a node is: what both sides say of themselves in the handshake, and how the one judges the other.

use super::Lane;
use super::codec::{Reader, put_text, put_varint};
use super::error::MeshError;
use crate::config::{Mesh, Peer};
use crate::jid::ClusterKey;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::RangeInclusive;

/// The versions of the protocol that this node speaks.
pub const VERSIONS: RangeInclusive<u8> = 1..=1;
/// Longest name of a node or host, bytes: the longest domain of a JID.
pub const NAME_BYTES_MAX: usize = crate::jid::PART_BYTES_MAX;
/// Most addresses in a hello.
pub const ADDRESSES_MAX: usize = 8;

/// Where a node can be dialled.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Address {
    /// DNS name or IP address.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl From<&Peer> for Address {
    fn from(peer: &Peer) -> Address {
        Address {
            host: peer.host.clone(),
            port: peer.port,
        }
    }
}

/// What a node says of itself. Carried sealed; see the room's documentation for the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The versions it speaks.
    pub versions: RangeInclusive<u8>,
    /// Its name.
    pub node: String,
    /// One life of the process: drawn at its start.
    pub incarnation: u64,
    /// The lane that the dialler opens; the answering side repeats it.
    pub lane: Lane,
    /// It allows records to go unsealed after the first.
    pub plain: bool,
    /// Equal on all nodes of a cluster; tells nothing of the cluster's hash key.
    pub cluster_check: [u8; 16],
    /// A digest of the settings on which the nodes should agree. A difference is an alarm, no refusal.
    pub policies: u64,
    /// Where it can be dialled, the best first.
    pub addresses: Vec<Address>,
}

const PLAIN: u8 = 1;

impl Hello {
    /// What this node says. `policies`: [`policies_digest`] of all that the nodes should agree on.
    pub fn of(mesh: &Mesh, incarnation: u64, policies: u64) -> Hello {
        let port = mesh
            .local
            .first()
            .map_or(crate::config::MESH_PORT_DEFAULT, |local| local.port());
        let mut addresses = vec![Address {
            host: mesh.node.clone(),
            port,
        }];
        let specific = mesh.local.iter().filter(|local| !local.ip().is_unspecified());
        for local in specific.take(ADDRESSES_MAX - 1) {
            addresses.push(Address {
                host: local.ip().to_string(),
                port: local.port(),
            });
        }
        Hello {
            versions: VERSIONS,
            node: mesh.node.clone(),
            incarnation,
            lane: Lane::Control,
            plain: mesh.plain_allowed,
            cluster_check: cluster_check(&mesh.cluster),
            policies,
            addresses,
        }
    }

    /// The best version that both speak; `None` if there is none.
    pub fn common_version(&self, theirs: &Hello) -> Option<u8> {
        let best = *self.versions.end().min(theirs.versions.end());
        (best >= *self.versions.start() && best >= *theirs.versions.start()).then_some(best)
    }

    /// Whether `theirs` may join this node.
    pub(super) fn judge(&self, theirs: &Hello) -> Result<(), MeshError> {
        if self.common_version(theirs).is_none() {
            return Err(MeshError::Version(theirs.versions.clone()));
        }
        if theirs.cluster_check != self.cluster_check {
            return Err(MeshError::OtherCluster);
        }
        if theirs.node == self.node {
            let oneself = theirs.incarnation == self.incarnation;
            return Err(if oneself {
                MeshError::Oneself
            } else {
                MeshError::SameName
            });
        }
        Ok(())
    }

    pub(super) fn encode(&self, lane: Lane, out: &mut Vec<u8>) {
        out.extend_from_slice(&[*self.versions.start(), *self.versions.end(), lane.number()]);
        out.push(if self.plain { PLAIN } else { 0 });
        out.extend_from_slice(&self.incarnation.to_be_bytes());
        out.extend_from_slice(&self.cluster_check);
        out.extend_from_slice(&self.policies.to_be_bytes());
        put_text(out, &self.node);
        put_varint(out, self.addresses.len() as u64);
        for address in &self.addresses {
            put_text(out, &address.host);
            out.extend_from_slice(&address.port.to_be_bytes());
        }
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Hello, MeshError> {
        let mut from = Reader::new(bytes, "hello");
        let versions = from.byte()?..=from.byte()?;
        // Of a later version only the head is sure: what follows may be different.
        if *versions.start() > *VERSIONS.end() {
            return Err(MeshError::Version(versions));
        }
        let lane =
            Lane::from_number(from.byte()?).ok_or(MeshError::Malformed("a lane that this node does not have"))?;
        let flags = from.byte()?;
        let incarnation = u64::from_be_bytes(from.array()?);
        let cluster_check = from.array()?;
        let policies = u64::from_be_bytes(from.array()?);
        let node = from.text(NAME_BYTES_MAX)?.to_owned();
        let count = from.varint()?;
        if node.is_empty() || incarnation == 0 || count > ADDRESSES_MAX as u64 {
            return Err(MeshError::Malformed("hello"));
        }
        let mut addresses = Vec::new();
        for _ in 0..count {
            let host = from.text(NAME_BYTES_MAX)?.to_owned();
            let port = u16::from_be_bytes(from.array()?);
            addresses.push(Address { host, port });
        }
        Ok(Hello {
            versions,
            node,
            incarnation,
            lane,
            plain: flags & PLAIN != 0,
            cluster_check,
            policies,
            addresses,
        })
    }
}

/// The key of the hash on which the nodes of a cluster agree. It comes from the cluster's *name*, which never changes,
/// and not from a secret, which may: two nodes with different keys would disagree on the owner of every user. It
/// protects nothing but the evenness of that hash: who knows the name can make users that all have one owner.
pub fn cluster_key(cluster: &str) -> ClusterKey {
    ClusterKey(derive("jidmesh hash key", cluster))
}

fn cluster_check(cluster: &str) -> [u8; 16] {
    derive("jidmesh cluster check", cluster)
}

/// A short digest of a text that describes settings.
pub fn policies_digest(meaning: &str) -> u64 {
    let mut head = [0; 8];
    head.copy_from_slice(&digest(&SHA256, meaning.as_bytes()).as_ref()[..8]);
    u64::from_be_bytes(head)
}

fn derive(purpose: &str, cluster: &str) -> [u8; 16] {
    let mut input = purpose.as_bytes().to_vec();
    input.push(0);
    input.extend_from_slice(cluster.as_bytes());
    let mut key = [0; 16];
    key.copy_from_slice(&digest(&SHA256, &input).as_ref()[..16]);
    key
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn hello(node: &str, incarnation: u64) -> Hello {
        Hello {
            versions: VERSIONS,
            node: node.into(),
            incarnation,
            lane: Lane::Control,
            plain: false,
            cluster_check: cluster_check("test"),
            policies: 7,
            addresses: vec![Address {
                host: node.into(),
                port: 5348,
            }],
        }
    }

    #[test]
    fn returns_and_skips_what_a_later_version_adds() {
        let said = hello("a.test", 42);
        let mut bytes = Vec::new();
        said.encode(Lane::Data, &mut bytes);
        bytes.extend_from_slice(b"what version 2 adds");
        let read = Hello::decode(&bytes).unwrap();
        let lane = Lane::Data;
        assert_eq!(read, Hello { lane, ..said });
    }

    #[test]
    fn judged_in_words() {
        let own = hello("a.test", 1);
        assert_eq!(own.judge(&hello("b.test", 2)), Ok(()));
        assert_eq!(own.judge(&hello("a.test", 1)), Err(MeshError::Oneself));
        assert_eq!(own.judge(&hello("a.test", 2)), Err(MeshError::SameName));
        let mut other = hello("b.test", 2);
        other.cluster_check = cluster_check("production");
        assert_eq!(own.judge(&other), Err(MeshError::OtherCluster));
        other.versions = 9..=12;
        assert_eq!(own.judge(&other), Err(MeshError::Version(9..=12)));
    }

    #[test]
    fn the_best_common_version() {
        let of = |versions| Hello {
            versions,
            ..hello("a.test", 1)
        };
        assert_eq!(of(1..=3).common_version(&of(2..=5)), Some(3));
        assert_eq!(of(2..=5).common_version(&of(1..=3)), Some(3));
        assert_eq!(of(1..=2).common_version(&of(3..=4)), None);
    }

    #[test]
    fn a_later_hello_is_told_by_its_head_alone() {
        assert_eq!(Hello::decode(&[7, 9]), Err(MeshError::Version(7..=9)));
    }

    #[test]
    fn keys_differ_by_cluster_and_purpose() {
        assert_ne!(cluster_key("a"), cluster_key("b"));
        assert_ne!(cluster_key("a").0, cluster_check("a"));
        assert_ne!(policies_digest("near"), policies_digest("spread"));
    }

    proptest! {
        #[test]
        fn no_bytes_crash_it(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(read) = Hello::decode(&bytes) {
                prop_assert!(read.addresses.len() <= ADDRESSES_MAX);
            }
        }
    }
}
