//! One XML stream over a socket that never waits.

use crate::wire::scan::{Item, Limits, Scanner};
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;

const LIMITS: Limits = Limits {
    frame_bytes_max: 1 << 20,
    open_bytes_max: 16 << 10,
    depth_max: 100,
};

/// What a stream consists of.
#[derive(Debug)]
pub(super) enum Piece {
    /// The other side's header.
    Open,
    /// A child of the root.
    Frame(Vec<u8>),
}

#[derive(Debug)]
pub(super) struct Stream {
    socket: TcpStream,
    scanner: Scanner,
    unread: Vec<u8>,
    unsent: Vec<u8>,
    /// The other side sends no more.
    ended: Option<String>,
}

impl Stream {
    /// A stream that has not begun.
    pub(super) fn new(socket: TcpStream) -> io::Result<Stream> {
        Stream::resumed(socket, Scanner::new(LIMITS), Vec::new())
    }

    /// A stream that others began: where it stands, and what of it was read already.
    pub(super) fn resumed(socket: TcpStream, scanner: Scanner, unread: Vec<u8>) -> io::Result<Stream> {
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        Ok(Stream {
            socket,
            scanner,
            unread,
            unsent: Vec::new(),
            ended: None,
        })
    }

    /// The other side begins a new document.
    pub(super) fn restart(&mut self) {
        self.scanner = Scanner::new(LIMITS);
    }

    /// Sends as much as the socket takes now; the rest follows with [`Stream::fill`].
    pub(super) fn send(&mut self, bytes: &[u8]) {
        self.unsent.extend_from_slice(bytes);
        self.flush();
    }

    /// Reads what is there, and sends what waits.
    pub(super) fn fill(&mut self) {
        self.flush();
        let mut piece = [0; 16 << 10];
        while self.ended.is_none() {
            match self.socket.read(&mut piece) {
                Ok(0) => self.ended = Some("the connection was closed".into()),
                Ok(n) => self.unread.extend_from_slice(&piece[..n]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(e) => self.ended = Some(e.to_string()),
            }
        }
    }

    /// The next piece of what was read; an error says why nothing more comes.
    pub(super) fn next(&mut self) -> Result<Option<Piece>, String> {
        let (piece, end) = match self.scanner.next(&self.unread) {
            Ok(Some(Item::Open { end, .. })) => (Piece::Open, end),
            Ok(Some(Item::Frame { start, end })) => (Piece::Frame(self.unread[start..end].to_vec()), end),
            Ok(Some(Item::Close { .. })) => return Err("the stream was ended".into()),
            Ok(None) => return self.ended.clone().map_or(Ok(None), Err),
            Err(fault) => return Err(format!("bad XML: {}", fault.text())),
        };
        self.scanner.consume(end);
        self.unread.drain(..end);
        Ok(Some(piece))
    }

    fn flush(&mut self) {
        while !self.unsent.is_empty() {
            match self.socket.write(&self.unsent) {
                Ok(n) if n > 0 => drop(self.unsent.drain(..n)),
                // What is wrong shows when reading.
                _ => return,
            }
        }
    }
}
