//! A dumb relay: what comes from one component goes to the other, unread. No router can be faster than this on the same
//! sockets, so it marks the limit.
//!
//! One thread, one ring, two buffers a direction: one is sent while the other is filled.

use super::component::scanner_in_stream;
use crate::wire::accept::{Accept, AcceptConfig, Step};
use crate::wire::connect::LIMITS;
use crate::wire::edit;
use crate::wire::header::{self, Frame};
use crate::wire::scan::Item;
use io_uring::{IoUring, opcode, types};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

/// Bytes of one buffer; a direction has two.
const BUFFER_BYTES: usize = 64 << 10;
/// Entries of the ring's queues.
const ENTRIES: u32 = 1024;
/// What each component of a pair binds: its id and its domain.
const BINDS: usize = 2;

/// `jidmesh load relay`
#[derive(clap::Args, Debug)]
pub(super) struct RelayArgs {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:5347")]
    listen: SocketAddr,
    /// Pairs of components to wait for; in the order in which they connect, two make a pair.
    #[arg(long, default_value_t = 1)]
    pairs: usize,
    /// The components' secret.
    #[arg(long, default_value = "secret")]
    pass: String,
}

/// Serves so many pairs, until one component leaves.
pub(super) fn run(args: &RelayArgs) -> Result<(), String> {
    let why = |e: io::Error| format!("{}: {e}", args.listen);
    let listener = TcpListener::bind(args.listen).map_err(why)?;
    let mut links = Vec::new();
    while links.len() < 2 * args.pairs {
        let (stream, _) = listener.accept().map_err(why)?;
        // Who only looks whether somebody listens is no component.
        if let Ok(link) = let_in(stream, &args.pass) {
            links.push(link);
        }
    }
    let pairs = links
        .chunks_exact(2)
        .map(|pair| (pair[0].as_raw_fd(), pair[1].as_raw_fd()));
    let directions = pairs.flat_map(|(a, b)| [Direction::new(a, b), Direction::new(b, a)]);
    pump(directions.collect()).map_err(|e| format!("ring: {e}"))
}

/// Logs a component in and answers its binds.
fn let_in(mut stream: TcpStream, pass: &str) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    let config = Arc::new(AcceptConfig {
        realm: "jabberd-router".into(),
        secret: None,
        starttls: false,
        limits: LIMITS,
        tries_max: 1,
    });
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(io::Error::other)?;
    let mut rng = ChaCha20Rng::from_seed(seed);
    let mut accept = Accept::new(config, &mut rng);
    let (mut input, mut out) = (Vec::new(), Vec::new());
    loop {
        more(&mut stream, &mut input)?;
        let step = accept.feed(&mut input, &mut out, &|_| Some(pass.to_owned()), &mut rng);
        stream.write_all(&std::mem::take(&mut out))?;
        match step {
            Step::Need => {}
            Step::Done(_) => break,
            _ => return Err(io::Error::other("no component")),
        }
    }
    let mut scanner = scanner_in_stream();
    let mut bound = 0;
    while bound < BINDS {
        match scanner.next(&input).map_err(|e| io::Error::other(e.text()))? {
            Some(Item::Frame { start, end }) => {
                if let Ok(Frame::Bind(bind)) = header::read(&input[start..end]) {
                    edit::bind_answer(&mut out, &input[start..end], &bind, None);
                    stream.write_all(&std::mem::take(&mut out))?;
                    bound += 1;
                }
            }
            Some(_) => return Err(io::Error::other("the component left")),
            None => more(&mut stream, &mut input)?,
        }
    }
    Ok(stream)
}

fn more(stream: &mut TcpStream, input: &mut Vec<u8>) -> io::Result<()> {
    let mut piece = [0; 4096];
    match stream.read(&mut piece)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        n => {
            input.extend_from_slice(&piece[..n]);
            Ok(())
        }
    }
}

/// One way from one socket to another.
struct Direction {
    from: RawFd,
    to: RawFd,
    buffers: [Box<[u8]>; 2],
    /// Bytes of each buffer that are to be sent; 0: it may be filled.
    full: [usize; 2],
    /// The buffers' turns, and whether the kernel has them.
    fills: usize,
    filling: bool,
    sends: usize,
    sending: bool,
}

impl Direction {
    fn new(from: RawFd, to: RawFd) -> Direction {
        let buffer = || vec![0; BUFFER_BYTES].into_boxed_slice();
        Direction {
            from,
            to,
            buffers: [buffer(), buffer()],
            full: [0; 2],
            fills: 0,
            filling: false,
            sends: 0,
            sending: false,
        }
    }

    /// What can be asked of the kernel now; `id` comes back with the completion.
    fn next(&mut self, id: u64) -> [Option<io_uring::squeue::Entry>; 2] {
        let fill = (!self.filling && self.full[self.fills] == 0).then(|| {
            self.filling = true;
            let buffer = &mut self.buffers[self.fills];
            let receive = opcode::Recv::new(types::Fd(self.from), buffer.as_mut_ptr(), BUFFER_BYTES as u32);
            receive.build().user_data(id << 1)
        });
        let send = (!self.sending && self.full[self.sends] > 0).then(|| {
            self.sending = true;
            let bytes = self.full[self.sends] as u32;
            let send = opcode::Send::new(types::Fd(self.to), self.buffers[self.sends].as_ptr(), bytes);
            send.flags(libc::MSG_WAITALL).build().user_data((id << 1) | 1)
        });
        [fill, send]
    }

    /// An operation has ended; false: so has the connection.
    fn ended(&mut self, was_send: bool, result: i32) -> bool {
        let Ok(bytes) = usize::try_from(result) else {
            return false;
        };
        if was_send {
            self.sending = false;
            let all = bytes == self.full[self.sends];
            self.full[self.sends] = 0;
            self.sends ^= 1;
            all
        } else {
            self.filling = false;
            self.full[self.fills] = bytes;
            self.fills ^= 1;
            bytes > 0
        }
    }
}

fn pump(mut directions: Vec<Direction>) -> io::Result<()> {
    let mut ring: IoUring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .build(ENTRIES)?;
    let mut touched: Vec<usize> = (0..directions.len()).collect();
    let done = loop {
        for at in touched.drain(..) {
            for entry in directions[at].next(at as u64).into_iter().flatten() {
                // SAFETY: the buffer lives until its operation has ended: it is boxed, `next` gives none that the kernel
                // has, and on the way out all are leaked.
                while unsafe { ring.submission().push(&entry) }.is_err() {
                    ring.submit()?;
                }
            }
        }
        ring.submit_and_wait(1)?;
        let mut over = false;
        for completion in ring.completion() {
            let (at, was_send) = ((completion.user_data() >> 1) as usize, completion.user_data() & 1 == 1);
            over |= !directions[at].ended(was_send, completion.result());
            touched.push(at);
        }
        if over {
            break Ok(());
        }
    };
    // The kernel may still have some of the buffers: they end with the process.
    std::mem::forget(directions);
    done
}
