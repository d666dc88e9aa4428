//! The shell against real sockets on loopback, with a small relay in the place of the brain.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "shell/relay.rs"]
#[allow(unreachable_pub)]
mod relay;

use jidmesh::config::{Access, Config, DriverKind, Io, Network, Rate, Tuning};
use jidmesh::node::api::CloseCause;
use jidmesh::shell::{CONTROL_MESSAGES, Running, Setup, Stderr, start, tls_server};
use relay::{Relay, Witness};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

const TIMEOUT: Duration = Duration::from_secs(20);

thread_local! {
    /// What the servers of this test run on.
    static DRIVER: Cell<DriverKind> = const { Cell::new(DriverKind::Readiness) };
}

/// Each test, once for each driver.
macro_rules! on_both_drivers {
    ($($name:ident),* $(,)?) => {
        mod glommio {
            $(#[test]
            fn $name() {
                super::$name();
            })*
        }
        mod ring {
            $(#[test]
            fn $name() {
                if super::has_ring() {
                    super::DRIVER.set(super::DriverKind::Ring);
                    super::$name();
                }
            })*
        }
    };
}

on_both_drivers! {
    many_links_get_their_own_bytes_back_however_they_are_split,
    a_reader_that_stopped_blocks_nobody,
    endings_are_told_apart,
    a_reset_tells_what_was_in_flight,
    a_close_writes_what_waits_first,
    last_words_reach_a_peer_that_has_sent_more,
    a_close_does_not_wait_for_ever,
    a_link_that_moves_under_traffic_keeps_every_byte_in_order,
    tls_carries_the_bytes_and_moves_with_its_link,
    rubbish_instead_of_tls_ends_the_link_and_says_why,
    lanes_keep_order_and_lose_nothing_when_they_are_full,
    control_lanes_are_bounded_and_two_flooded_shards_get_on,
    a_stop_flushes_closes_and_ends_the_threads,
    a_stop_without_trouble_is_quick,
    a_flood_does_not_starve_a_polite_link,
    every_shard_reports_from_any_thread,
    a_peer_that_is_answered_does_not_wait_for_delayed_acknowledgements,
    a_peer_that_is_never_answered_does_not_wait_for_delayed_acknowledgements,
    a_peer_that_acknowledges_is_alive,
    too_many_links_are_refused_until_one_leaves,
    who_may_not_connect_does_not,
    connects_in_a_hurry_are_refused,
    a_link_is_throttled_to_its_rate,
    a_dialled_link_is_a_link_like_any_other,
    a_dial_that_fails_says_why,
    a_silent_machine_is_given_up_and_holds_nobody_up,
    a_dial_that_is_dropped_before_its_answer_ends_once,
    many_dials_at_once_are_all_answered,
    a_stop_does_not_wait_for_dials,
    peers_come_in_by_a_door_of_their_own,
}

/// Whether this kernel has what the ring driver needs.
fn has_ring() -> bool {
    let text = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = text
        .split(|c: char| !c.is_ascii_digit())
        .map(|number| number.parse::<u32>().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap()) >= (6, 1)
}

struct Server {
    running: Option<Running>,
    address: SocketAddr,
    peers: SocketAddr,
    witness: Arc<Witness>,
}

impl Server {
    fn new(shards: u16) -> Server {
        Server::with(shards, Io::default())
    }

    fn with(shards: u16, io: Io) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let peer_listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peers = peer_listener.local_addr().unwrap();
        let witness = Arc::new(Witness::default());
        let pem = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/shell/server.pem");
        let secured = Config {
            pemfile: Some(pem.into()),
            ..Config::embedded()
        };
        let setup = Setup {
            shards,
            cpus: (0..std::thread::available_parallelism().map_or(1, usize::from)).collect(),
            listeners: vec![listener],
            peer_listeners: vec![peer_listener],
            tuning: Tuning {
                driver: DRIVER.get(),
                ..Tuning::default()
            },
            io,
            tls: tls_server(&secured).unwrap(),
            tls_client: None,
            journal: Arc::new(Stderr),
            still: false,
            started: Instant::now(),
        };
        let shared = Arc::clone(&witness);
        let running = start(setup, move |shard| Relay::new(shard, shards, Arc::clone(&shared))).unwrap();
        Server {
            running: Some(running),
            address,
            peers,
            witness,
        }
    }

    fn connect(&self, command: &str) -> TcpStream {
        let mut stream = patient(TcpStream::connect(self.address).unwrap());
        stream.write_all(command.as_bytes()).unwrap();
        stream
    }

    /// A link whose home is shard `shard`.
    fn connect_at(&self, shard: u16, command: &str) -> TcpStream {
        let mut stream = self.connect(&format!("home {shard}\n"));
        expect(&mut stream, b"moved\n");
        stream.write_all(command.as_bytes()).unwrap();
        stream
    }

    fn ending(&self) -> relay::Ending {
        let until = Instant::now() + TIMEOUT;
        loop {
            if let Some(ending) = self.witness.endings.lock().unwrap().pop() {
                return ending;
            }
            assert!(Instant::now() < until, "no link ended");
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn stop(&mut self) -> Duration {
        let start = Instant::now();
        self.running.take().unwrap().stop().unwrap();
        start.elapsed()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(running) = self.running.take()
            && !thread::panicking()
        {
            running.stop().unwrap();
        }
    }
}

fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream.set_write_timeout(Some(TIMEOUT)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

fn expect(stream: &mut impl Read, what: &[u8]) {
    let mut got = vec![0; what.len()];
    stream.read_exact(&mut got).unwrap();
    assert_eq!(got, what);
}

/// Bytes that show any loss, doubling or swap.
fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// Reads the echo of `bytes` while they are written in pieces of changing size.
fn echo(stream: &TcpStream, bytes: &[u8], pieces: &[usize]) {
    let mut writer = stream.try_clone().unwrap();
    let mut reader = stream.try_clone().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut rest = bytes;
            for &piece in pieces.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (now, later) = rest.split_at(piece.min(rest.len()));
                writer.write_all(now).unwrap();
                rest = later;
            }
        });
        let mut got = vec![0; bytes.len()];
        reader.read_exact(&mut got).unwrap();
        assert!(got == bytes, "the echo differs");
    });
}

fn linger_zero(stream: &TcpStream) {
    let value = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    let length = std::mem::size_of::<libc::linger>() as libc::socklen_t;
    // SAFETY: the value is readable for `length` bytes.
    let result = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const value).cast(),
            length,
        )
    };
    assert_eq!(result, 0);
}

fn many_links_get_their_own_bytes_back_however_they_are_split() {
    let server = Server::new(1);
    let links: Vec<TcpStream> = (0..200).map(|_| server.connect("ec")).collect();
    for mut link in &links {
        link.write_all(b"ho\n").unwrap();
    }
    for (seed, link) in links.iter().enumerate().step_by(10) {
        echo(link, &pattern(seed as u64, 5_000), &[1, 7, 64, 3]);
    }
    for (seed, link) in links.iter().enumerate() {
        echo(link, &pattern(seed as u64, 100_000), &[65_536, 1, 1500]);
    }
}

fn a_reader_that_stopped_blocks_nobody() {
    let server = Server::new(1);
    let mut named = server.connect("name a\n");
    expect(&mut named, b"named\n");
    let mut sender = server.connect("to a\n");
    let bytes = pattern(1, 24 << 20);
    sender.write_all(&bytes).unwrap();
    let mut polite = server.connect("echo\n");
    for n in 0..100u8 {
        let start = Instant::now();
        polite.write_all(&[n]).unwrap();
        expect(&mut polite, &[n]);
        assert!(start.elapsed() < Duration::from_secs(1));
    }
    let mut got = vec![0; bytes.len()];
    named.read_exact(&mut got).unwrap();
    assert!(got == bytes, "all of it comes when the reader goes on");
}

fn endings_are_told_apart() {
    let server = Server::new(1);
    let mut link = server.connect("echo\nx");
    expect(&mut link, b"x");
    drop(link);
    assert_eq!(server.ending(), (CloseCause::Eof, 0, 0));
    let mut link = server.connect("echo\nx");
    expect(&mut link, b"x");
    linger_zero(&link);
    drop(link);
    assert_eq!(server.ending(), (CloseCause::Reset, 0, 0));
}

fn a_reset_tells_what_was_in_flight() {
    let server = Server::new(1);
    let mut named = server.connect("name a\n");
    expect(&mut named, b"named\n");
    let mut sender = server.connect("to a\n");
    sender.write_all(&pattern(1, 24 << 20)).unwrap();
    let mut probe = server.connect("echo\nx");
    expect(&mut probe, b"x");
    linger_zero(&named);
    drop(named);
    let (cause, unsent, written) = server.ending();
    assert_eq!(cause, CloseCause::Reset);
    assert!(unsent > 0 && written < unsent, "{written} of {unsent}");
}

fn a_close_writes_what_waits_first() {
    let server = Server::new(1);
    let mut link = server.connect("close 9000000\n");
    thread::sleep(Duration::from_millis(300));
    let mut got = Vec::new();
    link.read_to_end(&mut got).unwrap();
    assert_eq!(got.len(), 9_000_000);
    assert_eq!(server.ending(), (CloseCause::Local, 0, 0));
}

fn last_words_reach_a_peer_that_has_sent_more() {
    let server = Server::new(1);
    let mut command = b"close 1000\n".to_vec();
    command.extend_from_slice(&pattern(1, 200_000));
    let mut link = server.connect("");
    link.write_all(&command).unwrap();
    let mut got = Vec::new();
    link.read_to_end(&mut got).unwrap();
    assert_eq!(got.len(), 1000);
}

fn a_close_does_not_wait_for_ever() {
    let server = Server::new(1);
    let _link = server.connect("close 60000000\n");
    let start = Instant::now();
    let (cause, unsent, written) = server.ending();
    assert_eq!(cause, CloseCause::Local);
    assert!(
        unsent > 0 && written < unsent,
        "{written} of {unsent} after {:?}",
        start.elapsed()
    );
    assert!(start.elapsed() > Duration::from_millis(1_500) && start.elapsed() < Duration::from_secs(5));
}

fn a_link_that_moves_under_traffic_keeps_every_byte_in_order() {
    let server = Server::new(2);
    thread::scope(|scope| {
        for seed in 0..4 {
            let server = &server;
            scope.spawn(move || {
                let link = server.connect("hop\n");
                echo(&link, &pattern(seed, 8 << 20), &[70_000, 3, 1448]);
            });
        }
    });
    let moves = *server.witness.moves.lock().unwrap();
    assert!(moves > 40, "only {moves} moves");
}

fn client() -> rustls::ClientConnection {
    use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(include_bytes!("shell/ca.pem")).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    rustls::ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap()
}

fn tls_carries_the_bytes_and_moves_with_its_link() {
    let server = Server::new(2);
    let mut socket = server.connect("tls\n");
    expect(&mut socket, b"proceed\n");
    let mut connection = client();
    let mut tls = rustls::Stream::new(&mut connection, &mut socket);
    for seed in 0..40 {
        let bytes = pattern(seed, 50_000);
        tls.write_all(&bytes).unwrap();
        let mut got = vec![0; bytes.len()];
        tls.read_exact(&mut got).unwrap();
        assert!(got == bytes);
    }
    assert!(*server.witness.moves.lock().unwrap() > 10);
    tls.conn.send_close_notify();
    tls.flush().unwrap();
    assert_eq!(server.ending().0, CloseCause::Eof);
}

fn rubbish_instead_of_tls_ends_the_link_and_says_why() {
    let server = Server::new(1);
    let mut socket = server.connect("tls\n");
    expect(&mut socket, b"proceed\n");
    socket.write_all(b"<stream:stream>").unwrap();
    let (cause, ..) = server.ending();
    assert!(
        matches!(&cause, CloseCause::Error(text) if text.starts_with("TLS: ")),
        "{cause:?}"
    );
    let mut rest = Vec::new();
    socket.read_to_end(&mut rest).unwrap();
    assert!(!rest.is_empty(), "the peer is told with an alert");
}

fn lanes_keep_order_and_lose_nothing_when_they_are_full() {
    let server = Server::new(3);
    thread::scope(|scope| {
        for (source, target) in [(0, 1), (1, 2), (2, 0), (0, 2)] {
            let server = &server;
            scope.spawn(move || {
                let name = format!("n{source}{target}");
                let mut named = server.connect_at(target, &format!("name {name}\n"));
                expect(&mut named, b"named\n");
                // Every shard knows the name when another one has heard of it in the same turn; give them time.
                thread::sleep(Duration::from_millis(100));
                let mut sender = server.connect_at(source, &format!("to {name}\n"));
                let bytes = pattern(u64::from(target), 6 << 20);
                let copy = bytes.clone();
                let writer = thread::spawn(move || {
                    for piece in copy.chunks(1_111) {
                        sender.write_all(piece).unwrap();
                    }
                    sender
                });
                let mut got = vec![0; bytes.len()];
                named.read_exact(&mut got).unwrap();
                assert!(got == bytes);
                drop(writer.join().unwrap());
            });
        }
    });
}

/// Each shard floods the next one, which is slower than the links are, while data fills the lanes too.
fn control_lanes_are_bounded_and_two_flooded_shards_get_on() {
    const MESSAGES: usize = 100_000;
    let server = Server::new(2);
    thread::scope(|scope| {
        for source in [0, 1] {
            let server = &server;
            let flood = move || {
                let mut link = server.connect_at(source, "flood\n");
                let mut writer = link.try_clone().unwrap();
                let writes = thread::spawn(move || writer.write_all(&vec![b'x'; MESSAGES * 64]).unwrap());
                let mut answers = vec![0; MESSAGES];
                link.read_exact(&mut answers).unwrap();
                assert!(answers.iter().all(|&byte| byte == b'.'));
                writes.join().unwrap();
            };
            scope.spawn(flood);
            scope.spawn(flood);
            scope.spawn(move || {
                let name = format!("n{source}");
                let mut named = server.connect_at(1 - source, &format!("name {name}\n"));
                expect(&mut named, b"named\n");
                thread::sleep(Duration::from_millis(100));
                let mut sender = server.connect_at(source, &format!("to {name}\n"));
                let bytes = pattern(u64::from(source), 6 << 20);
                let copy = bytes.clone();
                let writes = thread::spawn(move || {
                    copy.chunks(1_111).for_each(|piece| sender.write_all(piece).unwrap());
                    sender
                });
                let mut got = vec![0; bytes.len()];
                named.read_exact(&mut got).unwrap();
                assert!(got == bytes);
                drop(writes.join().unwrap());
            });
        }
    });
    assert_eq!(server.witness.flying.load(Ordering::Relaxed), 0);
    // Asked and answered, both ways, and what a turn reads beyond the limit.
    let most = server.witness.flying_most.load(Ordering::Relaxed);
    assert!(most < 6 * CONTROL_MESSAGES, "{most} were under way at once");
    assert!(most > CONTROL_MESSAGES, "{most}: no flood at all");
}

fn a_stop_flushes_closes_and_ends_the_threads() {
    let mut server = Server::new(2);
    let mut links: Vec<TcpStream> = (0..50).map(|n| server.connect_at(n % 2, "echo\nx")).collect();
    for link in &mut links {
        expect(link, b"x");
    }
    let mut named = server.connect("name a\n");
    expect(&mut named, b"named\n");
    let mut sender = server.connect("to a\n");
    sender.write_all(&pattern(1, 24 << 20)).unwrap();
    let took = server.stop();
    assert!(took < Duration::from_secs(2), "{took:?}");
    for link in &mut links {
        let mut rest = Vec::new();
        link.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"bye\n");
    }
    assert!(TcpStream::connect(server.address).is_err(), "nobody listens any more");
}

fn a_stop_without_trouble_is_quick() {
    let mut server = Server::new(2);
    let mut link = server.connect_at(1, "echo\nx");
    expect(&mut link, b"x");
    let took = server.stop();
    assert!(took < Duration::from_millis(500), "{took:?}");
}

fn a_flood_does_not_starve_a_polite_link() {
    let server = Server::new(1);
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut named = server.connect("name sink\n");
    expect(&mut named, b"named\n");
    let mut sender = server.connect("to sink\n");
    let flag = Arc::clone(&stop);
    let writer = thread::spawn(move || {
        let bytes = vec![b'f'; 1 << 20];
        while !flag.load(std::sync::atomic::Ordering::Relaxed) {
            sender.write_all(&bytes).unwrap();
        }
    });
    let reader = thread::spawn(move || {
        let mut bytes = vec![0; 1 << 20];
        while named.read(&mut bytes).unwrap() > 0 {}
    });
    let mut polite = server.connect("echo\n");
    let mut times: Vec<Duration> = (0..300u32)
        .map(|n| {
            let start = Instant::now();
            polite.write_all(&n.to_be_bytes()).unwrap();
            expect(&mut polite, &n.to_be_bytes());
            start.elapsed()
        })
        .collect();
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    writer.join().unwrap();
    times.sort();
    let p99 = times[times.len() * 99 / 100];
    eprintln!("beside a flood: p50 {:?}, p99 {p99:?}", times[times.len() / 2]);
    assert!(p99 < Duration::from_millis(250), "{p99:?}");
    drop(server);
    reader.join().unwrap();
}

fn every_shard_reports_from_any_thread() {
    let server = Server::new(3);
    let mut link = server.connect_at(2, "echo\nx");
    expect(&mut link, b"x");
    let control = server.running.as_ref().unwrap().control();
    let reports = thread::spawn(move || control.reports(TIMEOUT)).join().unwrap();
    assert_eq!(
        reports
            .iter()
            .map(|report| (report.shard, report.links_negotiating))
            .collect::<Vec<_>>(),
        [(0, 0), (1, 0), (2, 1)]
    );
}

/// Of these, a few in a hundred wait where acknowledgements are not hurried at all.
const BURSTS: usize = 600;

/// Sends small pieces over `link`, which leaves Nagle on: its kernel keeps all but the first until that is acknowledged.
fn bursts_are_prompt(link: &mut TcpStream, last: u8, mut arrived: impl FnMut(usize)) {
    link.set_nodelay(false).unwrap();
    for (pieces, bytes) in [(3, 300), (3, 100), (3, 600), (1, 300), (2, 300)] {
        let mut times: Vec<Duration> = (0..BURSTS)
            .map(|_| {
                let start = Instant::now();
                for piece in 1..=pieces {
                    let mut bytes = vec![b'-'; bytes];
                    if piece == pieces {
                        bytes.pop();
                        bytes.push(last);
                    }
                    link.write_all(&bytes).unwrap();
                }
                arrived(pieces * bytes);
                start.elapsed()
            })
            .collect();
        times.sort();
        let limit = Duration::from_millis(30);
        let late = times.iter().filter(|time| **time > limit).count();
        assert!(
            late < 6,
            "{late} of {BURSTS} bursts of {pieces} x {bytes} bytes waited: {:?}",
            &times[BURSTS - late..]
        );
    }
}

fn a_peer_that_is_answered_does_not_wait_for_delayed_acknowledgements() {
    let server = Server::new(1);
    let mut link = server.connect("ask\n");
    let mut answers = link.try_clone().unwrap();
    // An answer is what makes the other kernel delay the acknowledgements that follow.
    bursts_are_prompt(&mut link, b'?', |_| expect(&mut answers, b"."));
}

fn a_peer_that_is_never_answered_does_not_wait_for_delayed_acknowledgements() {
    let server = Server::new(1);
    let mut named = server.connect("name a\n");
    expect(&mut named, b"named\n");
    let mut link = server.connect("to a\n");
    bursts_are_prompt(&mut link, b'-', |bytes| expect(&mut named, &vec![b'-'; bytes]));
}

fn a_peer_that_acknowledges_is_alive() {
    let server = Server::new(1);
    let mut link = server.connect("probe\n");
    expect(&mut link, b"alive\n");
}

fn refused(server: &Server) -> bool {
    let mut link = server.connect("");
    let _ = link.write_all(b"echo\nx");
    let mut byte = [0];
    !matches!(link.read(&mut byte), Ok(1))
}

fn too_many_links_are_refused_until_one_leaves() {
    let server = Server::with(
        1,
        Io {
            max_fds: 2,
            ..Io::default()
        },
    );
    let mut first = server.connect("echo\nx");
    let mut second = server.connect("echo\nx");
    expect(&mut first, b"x");
    expect(&mut second, b"x");
    assert!(refused(&server));
    drop(first);
    assert_eq!(server.ending().0, CloseCause::Eof);
    assert!(!refused(&server));
}

fn who_may_not_connect_does_not() {
    let loopback = Network::new(IpAddr::from([127, 0, 0, 0]), 8).unwrap();
    let access = Access {
        deny: vec![loopback],
        ..Access::default()
    };
    assert!(refused(&Server::with(
        1,
        Io {
            access,
            ..Io::default()
        }
    )));
}

fn connects_in_a_hurry_are_refused() {
    let server = Server::with(
        1,
        Io {
            connects: Some(Rate {
                amount: 3,
                per_s: 60,
                throttle_s: 60,
            }),
            ..Io::default()
        },
    );
    assert!((0..3).all(|_| !refused(&server)));
    assert!(refused(&server));
}

fn a_link_is_throttled_to_its_rate() {
    let rate = Rate {
        amount: 100_000,
        per_s: 1,
        throttle_s: 1,
    };
    let server = Server::with(
        1,
        Io {
            bytes: Some(rate),
            ..Io::default()
        },
    );
    let link = server.connect("echo\n");
    let start = Instant::now();
    echo(&link, &pattern(1, 250_000), &[10_000]);
    assert!(start.elapsed() > Duration::from_millis(900), "{:?}", start.elapsed());
}

/// The next line that a link is told.
fn line(stream: &mut impl Read) -> String {
    let (mut line, mut byte) = (Vec::new(), [0]);
    loop {
        stream.read_exact(&mut byte).unwrap();
        if byte == *b"\n" {
            return String::from_utf8(line).unwrap();
        }
        line.push(byte[0]);
    }
}

/// Somebody to dial, and the words for it.
fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, format!("127.0.0.1 {port}"))
}

fn a_dialled_link_is_a_link_like_any_other() {
    let server = Server::new(2);
    let (listener, target) = listen();
    // Any shard may dial, and by name.
    for (shard, target) in [(0, target.clone()), (1, target.replace("127.0.0.1", "localhost"))] {
        let mut asker = server.connect_at(shard, &format!("dial 1 {target}\n"));
        let mut dialed = patient(listener.accept().unwrap().0);
        assert_eq!(line(&mut asker), "Dialed");
        expect(&mut dialed, b"hello\n");
        dialed.write_all(b"hop\n").unwrap();
        echo(&dialed, &pattern(1, 4 << 20), &[70_000, 3, 1448]);
        drop(dialed);
        assert_eq!(server.ending(), (CloseCause::Eof, 0, 0));
    }
    assert!(*server.witness.moves.lock().unwrap() > 20);
}

fn a_dial_that_fails_says_why() {
    let server = Server::new(1);
    let (listener, target) = listen();
    drop(listener);
    let mut asker = server.connect(&format!("dial 1 {target}\n"));
    assert_eq!(line(&mut asker), "Refused");
    // The resolver refuses it without asking anybody.
    let mut asker = server.connect("dial 1 nobody..invalid 5348\n");
    let why = line(&mut asker);
    assert!(
        why.starts_with("Error") && why.contains("nobody..invalid is not known"),
        "{why}"
    );
}

fn set_backlog(listener: &TcpListener, connections: i32) {
    // SAFETY: no pointers.
    assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), connections) }, 0);
}

/// A listener whose backlog is full: the kernel does not answer, as a dead machine does not.
fn silent() -> (TcpListener, Vec<TcpStream>, String) {
    let (listener, target) = listen();
    set_backlog(&listener, 0);
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
        waiting.push(stream);
        assert!(waiting.len() < 10, "the backlog never fills");
    }
    (listener, waiting, target)
}

fn a_silent_machine_is_given_up_and_holds_nobody_up() {
    let server = Server::new(1);
    let (_listener, _waiting, target) = silent();
    let mut polite = server.connect("echo\n");
    let start = Instant::now();
    let mut asker = server.connect(&format!("dial 1 {target}\n"));
    for n in 0..100u8 {
        let start = Instant::now();
        polite.write_all(&[n]).unwrap();
        expect(&mut polite, &[n]);
        assert!(start.elapsed() < Duration::from_millis(500));
    }
    let why = line(&mut asker);
    assert!(why.starts_with("Error") && why.contains("timed out"), "{why}");
    assert!(
        start.elapsed() > Duration::from_millis(900) && start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
}

fn a_dial_that_is_dropped_before_its_answer_ends_once() {
    let server = Server::new(1);
    let (listener, target) = listen();
    let mut asker = server.connect(&format!("drop {target}\n"));
    assert_eq!(line(&mut asker), "Local");
    let mut dialed = patient(listener.accept().unwrap().0);
    let mut rest = Vec::new();
    dialed.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty(), "the late socket is dropped");
    // The relay would not survive a second end of the same link.
    let mut link = server.connect("echo\nx");
    expect(&mut link, b"x");
}

fn many_dials_at_once_are_all_answered() {
    let server = Server::new(1);
    let (listener, target) = listen();
    set_backlog(&listener, 1024);
    let mut asker = server.connect(&format!("dial 300 {target}\n"));
    let accepting = thread::spawn(move || {
        let mut taken = Vec::new();
        while let Ok((stream, _)) = listener.accept() {
            let mut stream = patient(stream);
            let mut first = [0];
            // An empty link is the test's own sign that no more come.
            if stream.read(&mut first).unwrap() == 0 {
                break;
            }
            taken.push(stream);
        }
        taken.len()
    });
    let answers: Vec<String> = (0..300).map(|_| line(&mut asker)).collect();
    let dialed = answers.iter().filter(|answer| *answer == "Dialed").count();
    let refused = answers
        .iter()
        .filter(|answer| answer.contains("too many dials"))
        .count();
    assert_eq!(dialed + refused, 300);
    assert!(dialed >= 256 && refused > 0, "{dialed} dialled");
    let port = target.rsplit(' ').next().unwrap().parse().unwrap();
    drop(TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).unwrap());
    assert_eq!(accepting.join().unwrap(), dialed);
}

fn a_stop_does_not_wait_for_dials() {
    let mut server = Server::new(1);
    let (_listener, _waiting, target) = silent();
    let mut asker = server.connect(&format!("dial 1 {target}\n"));
    let mut polite = server.connect("echo\nx");
    expect(&mut polite, b"x");
    let took = server.stop();
    assert!(took < Duration::from_millis(500), "{took:?}");
    let mut rest = String::new();
    asker.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("Local"), "{rest}");
}

fn peers_come_in_by_a_door_of_their_own() {
    let everybody = Network::new(IpAddr::from([0, 0, 0, 0]), 0).unwrap();
    let rate = Rate {
        amount: 1,
        per_s: 60,
        throttle_s: 60,
    };
    let server = Server::with(
        2,
        Io {
            max_fds: 0,
            access: Access {
                deny: vec![everybody],
                ..Access::default()
            },
            connects: Some(rate),
            bytes: Some(rate),
        },
    );
    assert!(refused(&server), "a component stays out");
    for _ in 0..3 {
        let mut peer = patient(TcpStream::connect(server.peers).unwrap());
        expect(&mut peer, b"peer\n");
        peer.write_all(b"hop\n").unwrap();
        echo(&peer, &pattern(1, 1 << 20), &[70_000, 3, 1448]);
    }
    assert!(*server.witness.moves.lock().unwrap() > 10);
}
