//! JIDs as they stand in frames: borrowed parts, preparation (RFC 6122) and the two hashes.
//!
//! Two JIDs are the same user, name or session when their keys are equal: always look up by
//! [`bare_key`], [`domain_key`] or [`full_key`], never by what a peer wrote. Nearly all JIDs are
//! plain lower-case ASCII already; for these a key is a borrowed slice and costs one pass.
//!
//! Code points that Unicode 3.2 did not know are kept as they are, as libidn does for jabberd2 ("query
//! strings" of RFC 3454 section 7): people do put an emoji into a resource.

use std::borrow::Cow;
use std::hash::{BuildHasher, Hasher};
use std::sync::OnceLock;

use sha1::{Digest, Sha1};
use siphasher::sip::SipHasher24;

/// Longest node, domain or resource, bytes of UTF-8, before and after preparation (RFC 6122 2.1).
pub const PART_BYTES_MAX: usize = 1023;

/// The parts of a JID, borrowed from the bytes it stands in. Not prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JidRef<'a> {
    /// The part before `@`.
    pub node: Option<&'a str>,
    /// The domain; never empty.
    pub domain: &'a str,
    /// The part after `/`.
    pub resource: Option<&'a str>,
}

impl<'a> JidRef<'a> {
    /// Cuts `raw` into its parts (RFC 6122 2.1). `None` if a part that is announced by its `@` or `/` is empty,
    /// if a part is longer than [`PART_BYTES_MAX`], or if the domain holds an `@`.
    pub fn parse(raw: &'a str) -> Option<JidRef<'a>> {
        let (bare, resource) = match raw.split_once('/') {
            Some((bare, resource)) => (bare, Some(resource)),
            None => (raw, None),
        };
        let (node, domain) = match bare.split_once('@') {
            Some((node, domain)) => (Some(node), domain),
            None => (None, bare),
        };
        let fits = |part: &str| !part.is_empty() && part.len() <= PART_BYTES_MAX;
        let legal = fits(domain) && !domain.contains('@') && node.is_none_or(fits) && resource.is_none_or(fits);
        legal.then_some(JidRef { node, domain, resource })
    }
}

/// The key of a user or a name: `node@domain` or `domain`, prepared; a resource is left out.
/// `None` if `raw` is no JID.
pub fn bare_key(raw: &str) -> Option<Cow<'_, str>> {
    let jid = JidRef::parse(raw)?;
    let Some(node) = jid.node else {
        return prepared_domain(jid.domain);
    };
    if is_plain(node, NODE) && is_plain(jid.domain, DOMAIN) {
        return Some(Cow::Borrowed(&raw[..node.len() + 1 + jid.domain.len()]));
    }
    Some(Cow::Owned(format!(
        "{}@{}",
        prepared_node(node)?,
        prepared_domain(jid.domain)?
    )))
}

/// The key of the domain part of a JID, or of a component's name. `None` if `raw` is no JID.
pub fn domain_key(raw: &str) -> Option<Cow<'_, str>> {
    prepared_domain(JidRef::parse(raw)?.domain)
}

/// The key of a session: the whole JID, prepared. `None` if `raw` is no JID.
pub fn full_key(raw: &str) -> Option<Cow<'_, str>> {
    let Some(resource) = JidRef::parse(raw)?.resource else {
        return bare_key(raw);
    };
    match (bare_key(raw)?, prepared_resource(resource)?) {
        (Cow::Borrowed(_), Cow::Borrowed(_)) => Some(Cow::Borrowed(raw)),
        (bare, resource) => Some(Cow::Owned(format!("{bare}/{resource}"))),
    }
}

/// Nodeprep (RFC 6122 appendix A): letter case does not matter.
pub fn prepared_node(raw: &str) -> Option<Cow<'_, str>> {
    prepared(raw, NODE, stringprep::nodeprep)
}

/// Nameprep (RFC 3491): letter case does not matter. ASCII space and control characters, which nameprep lets pass,
/// are refused: no domain has them.
pub fn prepared_domain(raw: &str) -> Option<Cow<'_, str>> {
    let legal = |c: char| c > ' ' && c != '\u{7f}' && c != '@' && c != '/';
    prepared(raw, DOMAIN, stringprep::nameprep).filter(|domain| domain.chars().all(legal))
}

/// Resourceprep (RFC 6122 appendix B): letter case matters.
pub fn prepared_resource(raw: &str) -> Option<Cow<'_, str>> {
    prepared(raw, RESOURCE, stringprep::resourceprep)
}

type Profile = fn(&str) -> Result<Cow<'_, str>, stringprep::Error>;

fn prepared(raw: &str, class: u8, profile: Profile) -> Option<Cow<'_, str>> {
    let fits = |part: &str| !part.is_empty() && part.len() <= PART_BYTES_MAX;
    if is_plain(raw, class) {
        return fits(raw).then_some(Cow::Borrowed(raw));
    }
    if !fits(raw) {
        return None;
    }
    // The profiles know Unicode 3.2 and refuse what came later; that is kept, and what stands between is prepared.
    let mut done = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = rest.find(stringprep::tables::unassigned_code_point) {
        done.push_str(&profile(&rest[..at]).ok()?);
        let kept = rest[at..].chars().next()?;
        done.push(kept);
        rest = &rest[at + kept.len_utf8()..];
    }
    done.push_str(&profile(rest).ok()?);
    fits(&done).then_some(Cow::Owned(done))
}

const NODE: u8 = 1;
const DOMAIN: u8 = 2;
const RESOURCE: u8 = 4;

/// Which bytes each profile leaves as they are, whatever stands beside them.
const PLAIN: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = b' ';
    while byte <= b'~' {
        table[byte as usize] |= RESOURCE;
        let upper = byte.is_ascii_uppercase();
        if !upper && !matches!(byte, b' ' | b'"' | b'&' | b'\'' | b'/' | b':' | b'<' | b'>' | b'@') {
            table[byte as usize] |= NODE;
        }
        if !upper && !matches!(byte, b' ' | b'/' | b'@') {
            table[byte as usize] |= DOMAIN;
        }
        byte += 1;
    }
    table
};

fn is_plain(part: &str, class: u8) -> bool {
    part.bytes().fold(class, |all, byte| all & PLAIN[byte as usize]) != 0
}

/// Hashes the keys of every table inside the process (ahash). All of them share one random state, drawn when the
/// first is made or given by [`TableHasher::fix`]. Never on the wire: not stable across builds and CPUs.
#[derive(Clone, Debug)]
pub struct TableHasher(ahash::RandomState);

static TABLE_STATE: OnceLock<ahash::RandomState> = OnceLock::new();

/// The state that simulations and unit tests run with.
#[cfg(test)]
pub(crate) const SIM_SEED: [u64; 4] = [0x6a69, 0x646d, 0x6573, 0x68];

fn table_state() -> ahash::RandomState {
    // In a unit test another one may draw the state before a simulation fixes it.
    #[cfg(test)]
    let state = ahash::RandomState::with_seeds(SIM_SEED[0], SIM_SEED[1], SIM_SEED[2], SIM_SEED[3]);
    #[cfg(not(test))]
    let state = ahash::RandomState::new();
    state
}

impl TableHasher {
    /// Fixes the process's state, so that a simulation iterates its tables in the same order each time. `false` if a
    /// state was in use already.
    pub fn fix(seed: [u64; 4]) -> bool {
        TABLE_STATE
            .set(ahash::RandomState::with_seeds(seed[0], seed[1], seed[2], seed[3]))
            .is_ok()
    }
}

impl Default for TableHasher {
    fn default() -> TableHasher {
        TableHasher(TABLE_STATE.get_or_init(table_state).clone())
    }
}

impl BuildHasher for TableHasher {
    type Hasher = ahash::AHasher;

    fn build_hasher(&self) -> ahash::AHasher {
        self.0.build_hasher()
    }
}

/// A table inside the process.
pub type TableMap<K, V> = std::collections::HashMap<K, V, TableHasher>;

/// The tables' hash of one key: the same on all shards of this process, and nowhere else.
pub fn table_hash(key: &str) -> u64 {
    table_hash_of(key)
}

/// The same of anything.
pub fn table_hash_of(key: impl std::hash::Hash) -> u64 {
    TableHasher::default().hash_one(key)
}

/// A hash that the process which takes over computes as well, if it was built for the same machine: a difference must do
/// no harm.
pub fn lasting_hash_of(key: impl std::hash::Hash) -> u64 {
    let mut hasher = SipHasher24::new();
    key.hash(&mut hasher);
    hasher.finish()
}

/// The same of one key, as fast as the tables' hash.
pub fn lasting_hash(key: &str) -> u64 {
    static STATE: OnceLock<ahash::RandomState> = OnceLock::new();
    let [one, two, three, four] = *b"way.";
    let state = STATE.get_or_init(|| ahash::RandomState::with_seeds(one.into(), two.into(), three.into(), four.into()));
    state.hash_one(key)
}

/// The hash key of a cluster: the same on all its nodes, fixed for the cluster's life.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct ClusterKey(pub [u8; 16]);

impl std::fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClusterKey(..)")
    }
}

/// The hash on which nodes agree: SipHash-2-4 of the bytes of `key`, the same on every machine and build.
pub fn cluster_hash(cluster: &ClusterKey, key: &str) -> u64 {
    SipHasher24::new_with_key(&cluster.0).hash(key.as_bytes())
}

/// The index of the candidate that wins `key` (highest random weight): independent of the candidates' order, and a
/// candidate that goes away moves only the keys it had. `None` without candidates; of equal names the first wins.
pub fn rendezvous<'a>(cluster: &ClusterKey, key: &str, candidates: impl Iterator<Item = &'a str>) -> Option<usize> {
    let mut best: Option<(u64, &str, usize)> = None;
    for (index, candidate) in candidates.enumerate() {
        let weight = rendezvous_weight(cluster, key, candidate);
        if best.is_none_or(|(top, name, _)| (weight, candidate) > (top, name)) {
            best = Some((weight, candidate, index));
        }
    }
    best.map(|(_, _, index)| index)
}

/// The weight of one candidate for `key`: the heaviest wins.
pub fn rendezvous_weight(cluster: &ClusterKey, key: &str, candidate: &str) -> u64 {
    let mut hasher = SipHasher24::new_with_key(&cluster.0);
    hasher.write(key.as_bytes());
    hasher.write(&[0xff]); // stands in no UTF-8: ("ab", "c") and ("a", "bc") differ
    hasher.write(candidate.as_bytes());
    hasher.finish()
}

/// Which of `n` holders of a shared name serves a bare JID, in the order of their binds: the choice of jabberd2's
/// router, so that a user stays where it was when jidmesh takes the router's place. 0 if there is nothing to choose.
pub fn bare_sha1_choice(bare: &str, n: usize) -> usize {
    if n < 2 {
        return 0;
    }
    let digest = Sha1::digest(bare.as_bytes());
    let word = |i: usize| u32::from_le_bytes([digest[4 * i], digest[4 * i + 1], digest[4 * i + 2], digest[4 * i + 3]]);
    ((word(1) ^ word(2) ^ word(3)) >> 2) as usize % n
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn parts(raw: &str) -> Option<(Option<&str>, &str, Option<&str>)> {
        JidRef::parse(raw).map(|jid| (jid.node, jid.domain, jid.resource))
    }

    #[test]
    fn cut_into_parts() {
        assert_eq!(parts("a.test"), Some((None, "a.test", None)));
        assert_eq!(parts("u@a.test/x@y/z"), Some((Some("u"), "a.test", Some("x@y/z"))));
        assert_eq!(parts("a.test/u@b"), Some((None, "a.test", Some("u@b"))));
        for raw in ["", "@a", "a@", "a/", "/a", "u@/r", "a@b@c", "@"] {
            assert_eq!(parts(raw), None, "{raw}");
        }
        let (fits, long) = ("a".repeat(PART_BYTES_MAX), "a".repeat(PART_BYTES_MAX + 1));
        assert!(parts(&format!("{fits}@{fits}/{fits}")).is_some());
        for raw in [format!("{long}@a"), long.clone(), format!("a/{long}")] {
            assert_eq!(parts(&raw), None);
        }
    }

    #[test]
    fn plain_keys_are_borrowed() {
        for raw in ["u@a.test", "u@a.test/R", "c2s_1.a-b", "u.v+w@[::1]", "example.net"] {
            assert!(matches!(bare_key(raw), Some(Cow::Borrowed(_))), "{raw}");
            assert!(matches!(domain_key(raw), Some(Cow::Borrowed(_))), "{raw}");
            assert!(matches!(full_key(raw), Some(Cow::Borrowed(key)) if key == raw), "{raw}");
        }
        assert_eq!(bare_key("u@a.test/R").unwrap(), "u@a.test");
    }

    #[test]
    fn keys_are_prepared() {
        assert_eq!(bare_key("U@A.Test/R").unwrap(), "u@a.test");
        assert_eq!(domain_key("v@C.Test/S").unwrap(), "c.test");
        assert_eq!(full_key("U@A.Test/Réƒ").unwrap(), "u@a.test/Réƒ");
        assert_eq!(bare_key("Straße@BÜCHER.example").unwrap(), "strasse@bücher.example");
        assert_eq!(full_key("u@a/e\u{301}").unwrap(), "u@a/\u{e9}");
        assert_eq!(full_key("u@a/\u{1f4f1}e\u{301}").unwrap(), "u@a/\u{1f4f1}\u{e9}");
        for raw in [
            "a b@c",
            "a\"@c",
            "u@a b",
            "u@\u{ad}",
            "u@a\u{7f}",
            "u\u{a0}v@a",
            "u@a\u{2ff0}",
        ] {
            assert_eq!(bare_key(raw), None, "{raw}");
        }
        assert_eq!(full_key("u@a/\u{7}"), None);
    }

    #[test]
    fn siphash_2_4_known_answer() {
        let key = ClusterKey([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
        let input: String = (0..15u8).map(char::from).collect();
        assert_eq!(cluster_hash(&key, &input), 0xa129_ca61_49be_45e5);
        assert_eq!(cluster_hash(&key, ""), 0x726f_db47_dd0e_0e31);
    }

    #[test]
    fn rendezvous_ignores_order_and_moves_only_what_it_must() {
        let key = ClusterKey([7; 16]);
        let nodes = ["a.test", "b.test", "c.test", "d.test"];
        let mut wins = [0; 4];
        for user in (0..4000).map(|n| format!("user{n}@example.net")) {
            let first = rendezvous(&key, &user, nodes.into_iter()).unwrap();
            wins[first] += 1;
            let mut turned = nodes;
            turned.reverse();
            assert_eq!(
                turned[rendezvous(&key, &user, turned.into_iter()).unwrap()],
                nodes[first]
            );
            let left: Vec<&str> = nodes.into_iter().filter(|node| *node != "b.test").collect();
            let second = left[rendezvous(&key, &user, left.iter().copied()).unwrap()];
            assert!(second == nodes[first] || nodes[first] == "b.test");
        }
        assert!(wins.iter().all(|&n| (850..1150).contains(&n)), "{wins:?}");
        assert_eq!(rendezvous(&key, "x", std::iter::empty()), None);
    }

    #[test]
    fn choice_among_holders_as_in_jabberd2() {
        let seen: Vec<usize> = ["alice", "bob", "carol", "dave", "erin", "frank"]
            .iter()
            .map(|node| bare_sha1_choice(&format!("{node}@example.net"), 3))
            .collect();
        // Seen from jabberd2-router 2.7.0 with three holders.
        assert_eq!(seen, [2, 0, 2, 0, 1, 1]);
        assert_eq!((bare_sha1_choice("x@y", 1), bare_sha1_choice("x@y", 0)), (0, 0));
    }

    proptest! {
        #[test]
        fn keys_are_stable_and_never_panic(raw in "[ -~]{0,12}|\\PC{0,12}|[aA@/.ß]{0,12}") {
            for key in [bare_key, domain_key, full_key] {
                if let Some(once) = key(&raw) {
                    let again = key(&once);
                    prop_assert_eq!(again.as_deref(), Some(&*once));
                }
            }
        }

        #[test]
        fn the_fast_path_agrees_with_the_profiles(raw in "[ -~]{1,12}") {
            for (class, profile) in [(NODE, stringprep::nodeprep as Profile), (DOMAIN, stringprep::nameprep), (RESOURCE, stringprep::resourceprep)] {
                if is_plain(&raw, class) {
                    let prepared = profile(&raw).ok();
                    prop_assert_eq!(prepared.as_deref(), Some(raw.as_str()));
                }
            }
        }
    }
}
