//! A relay between two components that is honest but for one frame.

use jidmesh::wire::accept::{Accept, AcceptConfig, Step};
use jidmesh::wire::connect::LIMITS;
use jidmesh::wire::edit;
use jidmesh::wire::header::{self, Frame};
use jidmesh::wire::scan::{Item, Scanner};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

/// The frame that is not delivered as it came; frames count from 0.
const VICTIM: u64 = 1000;

/// What happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lie {
    None,
    Drop,
    /// It and all after it are lost.
    Swallow,
    Double,
    /// The next one comes first.
    Swap,
    AlterBody,
    AlterId,
    AlterRoute,
    /// It holds a character that XML forbids.
    Malform,
    /// It goes back as an error, and nothing follows.
    Bounce,
    /// The connections are closed.
    Close,
}

/// A running relay; its threads end with their connections.
pub(crate) struct Liar {
    pub(crate) addr: SocketAddr,
}

impl Liar {
    pub(crate) fn start(lie: Lie) -> Liar {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let addr = listener.local_addr().expect("an address");
        thread::spawn(move || {
            let link = || let_in(listener.accept().expect("a component").0);
            let (a, b) = (link(), link());
            let back = (b.try_clone().expect("a socket"), a.try_clone().expect("a socket"));
            thread::spawn(move || relay(back.0, back.1, Lie::None));
            relay(a, b, lie);
        });
        Liar { addr }
    }
}

/// Logs a component in with any password, and lets it bind its two names.
fn let_in(mut stream: TcpStream) -> TcpStream {
    let config = Arc::new(AcceptConfig {
        realm: "jabberd-router".into(),
        secret: None,
        starttls: false,
        limits: LIMITS,
        tries_max: 1,
    });
    let mut rng = ChaCha20Rng::from_seed([7; 32]);
    let mut accept = Accept::new(config, &mut rng);
    let (mut input, mut out) = (Vec::new(), Vec::new());
    loop {
        more(&mut stream, &mut input);
        let step = accept.feed(&mut input, &mut out, &|_| Some("secret".into()), &mut rng);
        stream
            .write_all(&std::mem::take(&mut out))
            .expect("the component listens");
        match step {
            Step::Need => {}
            Step::Done(_) => break,
            other => panic!("{other:?}"),
        }
    }
    let (mut scanner, mut bound) = (in_stream(), 0);
    while bound < 2 {
        match scanner.next(&input).expect("XML") {
            Some(Item::Frame { start, end }) => {
                let Ok(Frame::Bind(bind)) = header::read(&input[start..end]) else {
                    panic!("not a bind");
                };
                edit::bind_answer(&mut out, &input[start..end], &bind, None);
                stream
                    .write_all(&std::mem::take(&mut out))
                    .expect("the component listens");
                bound += 1;
            }
            Some(_) => panic!("no bind"),
            None => more(&mut stream, &mut input),
        }
    }
    stream
}

fn more(stream: &mut TcpStream, input: &mut Vec<u8>) {
    let mut piece = [0; 4096];
    let n = stream.read(&mut piece).expect("the component speaks");
    assert!(n > 0, "the component left");
    input.extend_from_slice(&piece[..n]);
}

fn in_stream() -> Scanner {
    let mut scanner = Scanner::new(LIMITS);
    let open = b"<stream:stream xmlns:stream='http://etherx.jabber.org/streams'>";
    let Ok(Some(Item::Open { end, .. })) = scanner.next(open) else {
        panic!("an open tag");
    };
    scanner.consume(end);
    scanner
}

/// Frames from one component to the other, until one of them leaves.
fn relay(mut from: TcpStream, mut to: TcpStream, lie: Lie) {
    let (mut scanner, mut input, mut number, mut held) = (in_stream(), Vec::new(), 0, Vec::new());
    let mut piece = [0; 65536];
    while let Ok(n @ 1..) = from.read(&mut piece) {
        input.extend_from_slice(&piece[..n]);
        let mut out = Vec::new();
        while let Ok(Some(item)) = scanner.next(&input) {
            let Item::Frame { start, end } = item else { return };
            let frame = &input[start..end];
            match lie {
                Lie::Close if number == VICTIM => {
                    let _ = (
                        from.shutdown(std::net::Shutdown::Both),
                        to.shutdown(std::net::Shutdown::Both),
                    );
                    return;
                }
                Lie::Bounce if number == VICTIM => {
                    let text = String::from_utf8_lossy(frame).replacen("<route", "<route error='404'", 1);
                    let _ = from.write_all(text.as_bytes());
                    // What came behind it must not be seen first.
                    return;
                }
                _ if number == VICTIM => tell(lie, frame, &mut out, &mut held),
                Lie::Swallow if number > VICTIM => {}
                _ => {
                    out.extend_from_slice(frame);
                    out.append(&mut held);
                }
            }
            number += 1;
        }
        let done = scanner.unfinished_start();
        scanner.consume(done);
        input.drain(..done);
        if to.write_all(&out).is_err() {
            return;
        }
    }
}

/// The victim; what is put into `held` comes behind the next frame.
fn tell(lie: Lie, frame: &[u8], out: &mut Vec<u8>, held: &mut Vec<u8>) {
    let text = || String::from_utf8_lossy(frame).into_owned();
    match lie {
        Lie::None | Lie::Close | Lie::Bounce => out.extend_from_slice(frame),
        Lie::Drop | Lie::Swallow => {}
        Lie::Double => out.extend_from_slice(&frame.repeat(2)),
        Lie::Swap => held.extend_from_slice(frame),
        Lie::AlterBody => out.extend_from_slice(text().replacen("xx", "xy", 1).as_bytes()),
        // One digit of the frame's number.
        Lie::AlterId => out.extend_from_slice(text().replacen("3e8", "3e9", 1).as_bytes()),
        Lie::AlterRoute => out.extend_from_slice(text().replacen("to='b1'", "to='b2'", 1).as_bytes()),
        Lie::Malform => out.extend_from_slice(text().replacen("xx", "\u{1}x", 1).as_bytes()),
    }
}
