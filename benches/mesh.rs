//! The mesh's transport, both ends in one thread: ciphers, records, and whole messages through a peer's lane.
//! `cargo bench --bench mesh`.

use jidmesh::config::{ExitPolicy, Mesh, Secret};
use jidmesh::mesh::conn::{Conn, Local, Scratch};
use jidmesh::mesh::peer::{Peer, PeerEvent, Reach};
use jidmesh::mesh::{Lane, LinkId};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

/// Short rounds, many of them: the best one was not interrupted.
const ROUNDS: usize = 60;

fn best(mut round: impl FnMut()) -> f64 {
    let mut best = f64::MAX;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        round();
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}

fn local(node: &str) -> Arc<Local> {
    let mesh = Mesh {
        node: node.to_owned(),
        local: Vec::new(),
        cluster: "bench".to_owned(),
        secrets: vec![Secret("a secret for the benchmark".to_owned())],
        plain_allowed: false,
        peers: Vec::new(),
        domains: Vec::new(),
        exit_pins: Vec::new(),
        exits: ExitPolicy::First,
        names: Vec::new(),
    };
    Arc::new(Local::new(&mesh, 1 + node.len() as u64, 0))
}

fn feed(conn: &mut Conn, bytes: &[u8], scratch: &mut Scratch) {
    let opened = conn.received(bytes, scratch, &mut |plaintext| {
        black_box(plaintext);
        Ok(())
    });
    opened.expect("an honest peer");
}

/// The two ciphers of Noise as snow has them, and AES-GCM in place, ns to seal and to open.
fn ciphers(bytes: usize) {
    let plaintext = vec![7; bytes];
    let count = (4 << 20) / bytes;
    print!("{bytes:>6} B:");
    for cipher in ["AESGCM", "ChaChaPoly"] {
        let params: snow::params::NoiseParams = format!("Noise_NNpsk0_25519_{cipher}_SHA256").parse().expect("known");
        let side = || snow::Builder::new(params.clone()).psk(0, &[1; 32]).expect("a key");
        let (mut a, mut b) = (
            side().build_initiator().expect("built"),
            side().build_responder().expect("built"),
        );
        let (mut message, mut out) = (vec![0; 65_535], vec![0; 65_535]);
        for turn in 0..2 {
            let (from, to) = if turn == 0 { (&mut a, &mut b) } else { (&mut b, &mut a) };
            let len = from.write_message(&[], &mut message).expect("written");
            to.read_message(&message[..len], &mut out).expect("read");
        }
        let (mut a, mut b) = (
            a.into_transport_mode().expect("done"),
            b.into_transport_mode().expect("done"),
        );
        let both = best(|| {
            for _ in 0..count {
                let len = a.write_message(black_box(&plaintext), &mut message).expect("sealed");
                b.read_message(&message[..len], &mut out).expect("opened");
            }
        });
        print!("  {cipher} {:.0}", both * 1e9 / count as f64);
    }
    let key = ring::aead::UnboundKey::new(&ring::aead::AES_256_GCM, &[3; 32]).expect("a key");
    let key = ring::aead::LessSafeKey::new(key);
    let nonce = || ring::aead::Nonce::assume_unique_for_key([0; 12]);
    let mut buffer = plaintext.clone();
    let both = best(|| {
        for _ in 0..count {
            buffer.truncate(bytes);
            key.seal_in_place_append_tag(nonce(), ring::aead::Aad::empty(), &mut buffer)
                .expect("sealed");
            key.open_in_place(nonce(), ring::aead::Aad::empty(), &mut buffer)
                .expect("opened");
        }
    });
    println!(
        "  AES-GCM in place {:.0}  ns to seal and open",
        both * 1e9 / count as f64
    );
}

/// Two connected peers.
struct Pair {
    peers: [Peer; 2],
    out: Vec<u8>,
    now: u64,
}

const LINKS: [LinkId; 2] = [LinkId { slot: 0, generation: 0 }, LinkId { slot: 1, generation: 0 }];

impl Pair {
    fn new() -> Pair {
        let locals = [local("a.test"), local("bb.test")];
        let rng = |seed| ChaCha20Rng::seed_from_u64(seed);
        let peer = |own: usize| {
            let name = &locals[1 - own].hello.node;
            Peer::new(0, &locals[own], name, Vec::new(), 256 << 20, rng(own as u64))
        };
        let mut pair = Pair {
            peers: [peer(0), peer(1)],
            out: Vec::new(),
            now: 1,
        };
        let mut scratch = Scratch::default();
        for lane in Lane::ALL {
            let mut dialler = Conn::dial(0, &locals[0], lane, &mut rng(5));
            let mut acceptor = Conn::accept(0, &locals[1], &mut rng(6));
            let mut bytes = Vec::new();
            dialler.take_output(&mut bytes);
            feed(&mut acceptor, &bytes, &mut scratch);
            bytes.clear();
            acceptor.take_output(&mut bytes);
            feed(&mut dialler, &bytes, &mut scratch);
            let link = LINKS[lane.number() as usize];
            pair.peers[0].attached(1, link, Reach::Direct, dialler);
            bytes.clear();
            pair.peers[0].take_output(1, link, &mut bytes);
            acceptor.received_early(&bytes, &mut scratch).expect("established");
            pair.peers[1].attached(1, link, Reach::Direct, acceptor);
            for _ in 0..4 {
                pair.carry();
            }
        }
        assert!(pair.peers[0].is_up() && pair.peers[1].is_up());
        pair
    }

    /// All that waits crosses, both ways; the messages that came out.
    fn carry(&mut self) -> usize {
        self.now += 25_000;
        let mut came = 0;
        for from in 0..2 {
            self.peers[from].tick(self.now);
            for link in LINKS {
                self.out.clear();
                self.peers[from].take_output(self.now, link, &mut self.out);
                if !self.out.is_empty() {
                    self.peers[1 - from].received(self.now, link, &self.out);
                }
            }
            while let Some((_, message)) = self.peers[1 - from].next_message(self.now) {
                black_box(message);
                came += 1;
            }
            for peer in &mut self.peers {
                while let Some(event) = peer.poll() {
                    assert!(!matches!(event, PeerEvent::Lost(_)), "{event:?}");
                }
            }
        }
        came
    }
}

/// Whole messages, queued, sealed, opened, given out and acknowledged, by how many share a turn.
fn messages(bytes: usize, turn: usize) {
    let mut pair = Pair::new();
    let message = vec![7; bytes];
    let total = (20_000 / turn).max(1) * turn;
    let time = best(|| {
        let mut came = 0;
        for _ in 0..total / turn {
            for _ in 0..turn {
                pair.peers[0].send(Lane::Data, &[black_box(&message)]).expect("room");
            }
            came += pair.carry();
        }
        for _ in 0..100 {
            if came == total {
                break;
            }
            came += pair.carry();
        }
        assert_eq!(came, total);
    });
    let each = time * 1e9 / total as f64;
    println!(
        "{bytes:>6} B, {turn:>4} a turn: {each:>7.0} ns a message, {:.2} GB/s",
        bytes as f64 / each
    );
}

fn main() {
    println!("ciphers, one record:");
    for bytes in [265, 1_400, 16_384, 65_519] {
        ciphers(bytes);
    }
    println!("a lane, both ends:");
    for (bytes, turn) in [(265, 1), (265, 16), (265, 256), (1_024, 64), (16_384, 4), (16_384, 16)] {
        messages(bytes, turn);
    }
}
