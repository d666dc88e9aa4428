//! What passes between the two processes: bytes and descriptors over a Unix socket.

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// Descriptors in one message: the kernel takes 253.
const BATCH: usize = 128;

/// More than any image is, bytes: what claims to be longer is none.
const BODY_MAX: u64 = 64 << 30;

/// Of the longest image for which there is room at once, bytes.
const ROOM: u64 = 1 << 30;

/// Longest first line, bytes.
const LINE_MAX: usize = 4_096;

/// Writes bytes with their length before them.
pub(super) fn write_body(mut stream: &UnixStream, body: &[u8]) -> io::Result<()> {
    stream.write_all(&(body.len() as u64).to_le_bytes())?;
    stream.write_all(body)
}

/// Reads what [`write_body`] wrote.
pub(super) fn read_body(mut stream: &UnixStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 8];
    stream.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    if length > BODY_MAX {
        return Err(io::Error::other("it is no image"));
    }
    let mut body = Vec::with_capacity(usize::try_from(length.min(ROOM)).unwrap_or(0));
    stream.take(length).read_to_end(&mut body)?;
    if body.len() as u64 != length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(body)
}

/// Reads a line, and nothing behind it: descriptors may come with the next byte.
pub(super) fn read_line(mut stream: &UnixStream) -> io::Result<Vec<u8>> {
    let (mut line, mut byte) = (Vec::new(), [0]);
    while line.len() < LINE_MAX {
        stream.read_exact(&mut byte)?;
        if byte[0] == b'\n' {
            return Ok(line);
        }
        line.push(byte[0]);
    }
    Err(io::Error::other("its answer is too long"))
}

/// Sends descriptors, in order; the sender keeps its own.
pub(super) fn send_descriptors(stream: &UnixStream, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    for batch in descriptors.chunks(BATCH) {
        rustix::io::retry_on_intr(|| {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !control.push(SendAncillaryMessage::ScmRights(batch)) {
                return Err(rustix::io::Errno::NOBUFS);
            }
            rustix::net::sendmsg(stream, &[IoSlice::new(b"d")], &mut control, SendFlags::NOSIGNAL)
        })?;
    }
    Ok(())
}

/// Receives so many.
pub(super) fn receive_descriptors(stream: &UnixStream, count: usize) -> io::Result<Vec<OwnedFd>> {
    let mut received = Vec::new();
    while received.len() < count {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let mut into = [IoSliceMut::new(&mut byte)];
        let receive = || rustix::net::recvmsg(stream, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC);
        let message = rustix::io::retry_on_intr(receive)?;
        if message.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let before = received.len();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                received.extend(descriptors);
            }
        }
        if received.len() == before {
            return Err(io::Error::other("descriptors are missing: too many open files?"));
        }
    }
    Ok(received)
}
