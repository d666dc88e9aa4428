//! The handshake, and what ends it.

use super::super::conn::{Conn, HANDSHAKE_BYTES_MAX, HANDSHAKE_US_MAX, Local, PREAMBLE, Scratch};
use super::super::error::{MeshError, Reason};
use super::super::hello::Hello;
use super::super::{Lane, Micros};
use super::{local, local_with, mesh_config, rng};
use proptest::prelude::*;
use std::sync::Arc;

const NOW: Micros = 1_000;

struct Pair {
    dialler: Conn,
    acceptor: Conn,
    scratch: Scratch,
}

impl Pair {
    fn of(dialler: &Arc<Local>, acceptor: &Arc<Local>) -> Pair {
        Pair {
            dialler: Conn::dial(NOW, dialler, Lane::Data, &mut rng(1)),
            acceptor: Conn::accept(NOW, acceptor, &mut rng(2)),
            scratch: Scratch::default(),
        }
    }

    /// The dialler's waiting bytes go to the acceptor; what it makes of them.
    fn forth(&mut self) -> Result<Vec<u8>, MeshError> {
        let mut bytes = Vec::new();
        self.dialler.take_output(&mut bytes);
        self.forth_bytes(&bytes)
    }

    fn forth_bytes(&mut self, bytes: &[u8]) -> Result<Vec<u8>, MeshError> {
        feed(&mut self.acceptor, bytes, &mut self.scratch)
    }

    fn back(&mut self) -> Result<Vec<u8>, MeshError> {
        let mut bytes = Vec::new();
        self.acceptor.take_output(&mut bytes);
        feed(&mut self.dialler, &bytes, &mut self.scratch)
    }

    /// One sealed record from the dialler.
    fn record(&mut self, plaintext: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        self.dialler.seal(plaintext, &mut out).unwrap();
        out
    }

    fn established(dialler: &Arc<Local>, acceptor: &Arc<Local>) -> Pair {
        let mut pair = Pair::of(dialler, acceptor);
        pair.forth().unwrap();
        pair.back().unwrap();
        let first = pair.record(b"first");
        assert_eq!(pair.forth_bytes(&first).unwrap(), b"first");
        assert!(pair.dialler.is_established() && pair.acceptor.is_established());
        pair
    }
}

fn feed(conn: &mut Conn, bytes: &[u8], scratch: &mut Scratch) -> Result<Vec<u8>, MeshError> {
    let mut got = Vec::new();
    conn.received(bytes, scratch, &mut |plaintext| {
        got.extend_from_slice(plaintext);
        Ok(())
    })?;
    Ok(got)
}

#[test]
fn both_learn_who_the_other_is() {
    let (a, b) = (local("a.test", 11), local("b.test", 22));
    let pair = Pair::established(&a, &b);
    let (of_b, of_a) = (pair.dialler.hello().unwrap(), pair.acceptor.hello().unwrap());
    assert_eq!((&*of_b.node, of_b.incarnation), ("b.test", 22));
    assert_eq!((&*of_a.node, of_a.incarnation), ("a.test", 11));
    assert_eq!((pair.acceptor.lane(), of_b.lane), (Lane::Data, Lane::Data));
    assert_eq!(of_a.addresses[0].to_string(), "a.test:5348");
    assert_eq!(pair.acceptor.deadline(), None);
}

#[test]
fn bytes_may_come_one_by_one() {
    let mut pair = Pair::of(&local("a.test", 1), &local("b.test", 2));
    for direction in 0..2 {
        let (mut bytes, conn) = (
            Vec::new(),
            [&mut pair.acceptor, &mut pair.dialler]
                .into_iter()
                .nth(direction)
                .unwrap(),
        );
        let _ = conn;
        if direction == 0 {
            pair.dialler.take_output(&mut bytes);
        } else {
            pair.acceptor.take_output(&mut bytes);
        }
        for byte in bytes {
            let conn = if direction == 0 {
                &mut pair.acceptor
            } else {
                &mut pair.dialler
            };
            feed(conn, &[byte], &mut pair.scratch).unwrap();
        }
    }
    let mut records = Vec::new();
    for n in 0..300u16 {
        records.extend(pair.record(&n.to_be_bytes()));
    }
    let mut got = Vec::new();
    for piece in records.chunks(7) {
        got.extend(pair.forth_bytes(piece).unwrap());
    }
    let sent: Vec<u8> = (0..300u16).flat_map(u16::to_be_bytes).collect();
    assert_eq!(got, sent, "in order, over several new keys");
}

#[test]
fn nothing_readable_crosses_the_wire() {
    let mut pair = Pair::of(&local("a.test", 1), &local("b.test", 2));
    let mut wire = Vec::new();
    pair.dialler.take_output(&mut wire);
    pair.forth_bytes(&wire.clone()).unwrap();
    pair.acceptor.take_output(&mut wire);
    assert!(!wire.windows(6).any(|window| window == b"a.test" || window == b"b.test"));
}

#[test]
fn the_secret_is_needed_and_may_be_rotated() {
    let of = |node: &str, secrets: &[&str]| local_with(&mesh_config(node, secrets), 1);
    let mut pair = Pair::of(&of("a.test", &["new", "old"]), &of("b.test", &["old"]));
    assert_eq!(pair.forth(), Err(MeshError::WrongSecret));
    assert_eq!(pair.back(), Err(MeshError::Refused(Reason::WrongSecret)));
    assert!(MeshError::WrongSecret.to_string().contains("<secret>"));
    // Accepted first, sealing later: that is how a secret is changed.
    Pair::established(&of("a.test", &["old", "new"]), &of("b.test", &["new", "old"]));
    Pair::established(&of("b.test", &["new", "old"]), &of("a.test", &["old", "new"]));
}

#[test]
fn neighbouring_versions_meet_and_distant_ones_say_so() {
    let of = |node: &str, versions| {
        let local = local(node, 1);
        let hello = local.hello.clone();
        Arc::new(local.with_hello(Hello { versions, ..hello }))
    };
    for (one, other) in [(1..=3, 1..=1), (1..=1, 1..=9)] {
        Pair::established(&of("a.test", one), &of("b.test", other));
    }
    let mut pair = Pair::of(&of("a.test", 7..=9), &of("b.test", 1..=1));
    assert_eq!(pair.forth(), Err(MeshError::Version(7..=9)));
    assert_eq!(pair.back(), Err(MeshError::Refused(Reason::Version)));
}

#[test]
fn a_replayed_first_message_gets_nowhere() {
    let (a, b) = (local("a.test", 1), local("b.test", 2));
    let mut pair = Pair::of(&a, &b);
    let mut first = Vec::new();
    pair.dialler.take_output(&mut first);
    pair.forth_bytes(&first).unwrap();
    pair.back().unwrap();
    let record = pair.record(b"join");
    // All that the dialler sent, sent again to the same node.
    let mut again = Conn::accept(NOW, &b, &mut rng(3));
    feed(&mut again, &first, &mut pair.scratch).unwrap();
    assert!(!again.is_established(), "a hello proves nothing");
    assert_eq!(again.deadline(), Some(NOW + HANDSHAKE_US_MAX));
    assert_eq!(feed(&mut again, &record, &mut pair.scratch), Err(MeshError::Altered));
    assert!(!again.is_established());
    // A record sent twice does not open twice either.
    pair.forth_bytes(&record).unwrap();
    assert_eq!(pair.forth_bytes(&record), Err(MeshError::Altered));
}

#[test]
fn an_altered_byte_anywhere_is_seen() {
    let (a, b) = (local("a.test", 1), local("b.test", 2));
    let mut first = Vec::new();
    Pair::of(&a, &b).dialler.take_output(&mut first);
    for at in 0..first.len() {
        let mut pair = Pair::of(&a, &b);
        let mut altered = first.clone();
        altered[at] ^= 0x20;
        let _ = pair.forth_bytes(&altered);
        assert!(pair.acceptor.hello().is_none(), "byte {at}");
    }
    let mut pair = Pair::established(&a, &b);
    let mut record = pair.record(b"a stanza");
    record[5] ^= 1;
    assert_eq!(pair.forth_bytes(&record), Err(MeshError::Altered));
    let good = pair.record(b"more");
    assert_eq!(pair.forth_bytes(&good), Err(MeshError::Altered), "it is over");
}

#[test]
fn what_is_no_peer_is_told_from_it() {
    let b = local("b.test", 2);
    let mut scratch = Scratch::default();
    let mut conn = Conn::accept(NOW, &b, &mut rng(1));
    let error = feed(&mut conn, b"GET / HTTP/1.1\r\n\r\n", &mut scratch).unwrap_err();
    assert_eq!(error, MeshError::NotAPeer(b"GET / HT".to_vec()));
    let mut out = Vec::new();
    conn.take_output(&mut out);
    assert!(out.is_empty(), "it learns nothing");
    assert_eq!(error.to_string(), "no jidmesh speaks there: it began with 'GET / HT'");
    let mut conn = Conn::accept(NOW, &b, &mut rng(1));
    let oversized = [&PREAMBLE[..], &[0xff, 0xff]].concat();
    let error = feed(&mut conn, &oversized, &mut scratch).unwrap_err();
    assert_eq!(error, MeshError::Oversized(65_535, HANDSHAKE_BYTES_MAX));
}

#[test]
fn refusals_reach_the_dialler_in_words() {
    let b = local("b.test", 2);
    let of = |change: &dyn Fn(&mut Hello)| {
        let own = local("a.test", 1);
        let mut hello = own.hello.clone();
        change(&mut hello);
        Arc::new(own.with_hello(hello))
    };
    #[allow(clippy::type_complexity)]
    let cases: [(&dyn Fn(&mut Hello), MeshError, Reason); 4] = [
        (
            &|hello| hello.versions = 9..=9,
            MeshError::Version(9..=9),
            Reason::Version,
        ),
        (
            &|hello| hello.cluster_check = [0; 16],
            MeshError::OtherCluster,
            Reason::OtherCluster,
        ),
        (
            &|hello| hello.node = "b.test".into(),
            MeshError::SameName,
            Reason::SameName,
        ),
        (
            &|hello| hello.node = String::new(),
            MeshError::Malformed("hello"),
            Reason::Protocol,
        ),
    ];
    for (change, error, reason) in cases {
        let mut pair = Pair::of(&of(change), &b);
        assert_eq!(pair.forth(), Err(error));
        assert_eq!(pair.back(), Err(MeshError::Refused(reason)));
    }
    let mut pair = Pair::of(&b, &b);
    assert_eq!(pair.forth(), Err(MeshError::Oneself));
}

#[test]
fn plain_only_if_both_allow_it() {
    let of = |node: &str, plain_allowed| {
        let mut mesh = mesh_config(node, &["a secret of the tests"]);
        mesh.plain_allowed = plain_allowed;
        local_with(&mesh, 1)
    };
    for (ours, theirs) in [(false, true), (true, false), (true, true)] {
        let mut pair = Pair::established(&of("a.test", ours), &of("b.test", theirs));
        let record = pair.record(b"a stanza");
        let readable = record.windows(8).any(|window| window == b"a stanza");
        assert_eq!(readable, ours && theirs);
        assert_eq!(pair.dialler.is_plain(), readable);
        assert_eq!(pair.forth_bytes(&record).unwrap(), b"a stanza");
    }
}

#[test]
fn what_comes_before_somebody_takes_over_is_kept_within_a_limit() {
    let (a, b) = (local("a.test", 1), local("b.test", 2));
    let mut pair = Pair::of(&a, &b);
    pair.forth().unwrap();
    pair.back().unwrap();
    let two = [pair.record(b"join"), pair.record(b"more")].concat();
    pair.acceptor.received_early(&two, &mut pair.scratch).unwrap();
    assert!(pair.acceptor.is_established());
    let mut kept = Vec::new();
    pair.acceptor
        .take_early(|plaintext| {
            kept.push(plaintext.to_vec());
            Ok(())
        })
        .unwrap();
    assert_eq!(kept, [b"join", b"more"]);
    let flood: Vec<u8> = (0..5).flat_map(|_| pair.record(&[0; 60_000])).collect();
    let error = pair.acceptor.received_early(&flood, &mut pair.scratch);
    assert!(matches!(error, Err(MeshError::Oversized(..))), "{error:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn no_bytes_crash_a_connection(
        greeted in any::<bool>(),
        pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..400), 0..8),
    ) {
        let mut scratch = Scratch::default();
        for accepting in [true, false] {
            let own = local("a.test", 1);
            let mut conn = if accepting {
                Conn::accept(NOW, &own, &mut rng(1))
            } else {
                Conn::dial(NOW, &own, Lane::Control, &mut rng(1))
            };
            if greeted {
                feed(&mut conn, PREAMBLE, &mut scratch).unwrap();
            }
            for piece in &pieces {
                let _ = feed(&mut conn, piece, &mut scratch);
            }
            prop_assert!(!conn.is_established() && conn.hello().is_none());
        }
    }

    #[test]
    fn no_plaintext_crashes_a_peer(plaintext in proptest::collection::vec(any::<u8>(), 0..200), lane in 0..2u8) {
        let (a, b) = (local("a.test", 1), local("b.test", 2));
        let lane = Lane::from_number(lane).unwrap();
        let mut conn = Conn::dial(NOW, &a, lane, &mut rng(1));
        let mut acceptor = Conn::accept(NOW, &b, &mut rng(2));
        let mut scratch = Scratch::default();
        let mut bytes = Vec::new();
        conn.take_output(&mut bytes);
        acceptor.received_early(&bytes, &mut scratch).unwrap();
        bytes.clear();
        acceptor.take_output(&mut bytes);
        feed(&mut conn, &bytes, &mut scratch).unwrap();
        bytes.clear();
        let mut join = Vec::new();
        super::super::frame::put_frame(&mut join, &super::super::frame::Frame::Join { epoch: 0, knows: 0, credit: Default::default(), former: Default::default() });
        conn.seal(&join, &mut bytes).unwrap();
        conn.seal(&plaintext, &mut bytes).unwrap();
        acceptor.received_early(&bytes, &mut scratch).unwrap();
        let mut peer = super::super::peer::Peer::new(NOW, &b, "a.test", Vec::new(), 1 << 20, rng(3));
        let link = super::super::LinkId { slot: 1, generation: 1 };
        peer.attached(NOW, link, super::super::peer::Reach::Direct, acceptor);
        while peer.next_message(NOW).is_some() {}
        peer.tick(NOW + 1);
        peer.take_output(NOW + 1, link, &mut Vec::new());
    }
}
