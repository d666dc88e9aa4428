//! The frames that are sent, and the check of those that come.

use std::io::Read;

const HEAD: &str = "<route xmlns='http://jabberd.jabberstudio.org/ns/component/1.0'";
/// Bytes that one read may take.
const READ_BYTES: usize = 256 << 10;
/// Hexadecimal digits of the sequence number, which travels as the stanza's id.
const DIGITS: usize = 16;
/// A router's own frames (adverts, bounces) are small; more bytes without a frame's end are an error.
const MAX_OTHER_BYTES: usize = 64 << 10;

/// A frame of a given size, from one component to another.
pub(super) struct Template {
    bytes: Vec<u8>,
    digits_at: usize,
}

impl Template {
    /// `from` and `to` are ids of components.
    pub(super) fn new(from: &str, to: &str, bytes: usize) -> Result<Template, String> {
        let open = format!(
            "{HEAD} from='{from}' to='{to}'><message xmlns='jabber:client' from='u@{from}.test' to='v@{to}.test' id='"
        );
        let (after, end) = ("'><body>", "</body></message></route>");
        let digits_at = open.len();
        let overhead = open.len() + DIGITS + after.len() + end.len();
        let body = bytes
            .checked_sub(overhead)
            .ok_or(format!("a frame has at least {overhead} bytes"))?;
        let text = format!("{open}{}{after}{}{end}", "0".repeat(DIGITS), "x".repeat(body));
        Ok(Template {
            bytes: text.into_bytes(),
            digits_at,
        })
    }

    /// As many frames as fit into `bytes`, at least one.
    pub(super) fn repeated(&self, bytes: usize) -> Vec<u8> {
        self.bytes.repeat((bytes / self.bytes.len()).max(1))
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Numbers the frames of [`Template::repeated`] from `first` on; gives the number after the last.
    pub(super) fn number(&self, frames: &mut [u8], first: u64) -> u64 {
        let mut number = first;
        for frame in frames.chunks_exact_mut(self.bytes.len()) {
            frame[self.digits_at..][..DIGITS].copy_from_slice(&hex(number));
            number += 1;
        }
        number
    }

    /// Whether `frame` is frame `number`, however its attributes are ordered.
    fn is(&self, frame: &[u8], number: u64) -> bool {
        let has = |piece: &[u8]| memchr::memmem::find(frame, piece).is_some();
        let mut id = *b"id='0000000000000000'";
        id[4..][..DIGITS].copy_from_slice(&hex(number));
        let payload = &self.bytes[self.digits_at + DIGITS + "'".len()..];
        frame.len() == self.bytes.len() && has(&id) && has(payload.strip_prefix(b">").unwrap_or(payload))
    }
}

fn hex(number: u64) -> [u8; DIGITS] {
    let mut digits = [0; DIGITS];
    for (i, digit) in digits.iter_mut().enumerate() {
        *digit = b"0123456789abcdef"[(number >> (60 - 4 * i)) as usize & 15];
    }
    digits
}

/// Why reading and checking failed.
#[derive(Debug)]
pub(super) enum ReadError {
    Io(std::io::Error),
    /// Not the frames that were sent.
    Wrong(String),
}

/// Checks a stream of frames: each must be the next one, whole and unchanged.
pub(super) struct Checker<'a> {
    expected: &'a Template,
    /// A frame as this router writes it, learnt from the first: most frames need one comparison.
    learnt: Option<Template>,
    /// Its first `filled` bytes are the beginning of a frame, the others room to read into.
    waiting: Vec<u8>,
    filled: usize,
    /// The number of the frame that must come next.
    pub(super) next: u64,
}

impl<'a> Checker<'a> {
    pub(super) fn new(expected: &'a Template) -> Checker<'a> {
        Checker {
            expected,
            learnt: None,
            waiting: Vec::new(),
            filled: 0,
            next: 0,
        }
    }

    /// Reads once and checks what came; gives the number of bytes, 0 at the end of the stream.
    pub(super) fn read(&mut self, from: &mut impl Read) -> Result<usize, ReadError> {
        let mut buffer = std::mem::take(&mut self.waiting);
        if buffer.len() - self.filled < READ_BYTES / 2 {
            buffer.resize(self.filled + READ_BYTES, 0);
        }
        let read = from.read(&mut buffer[self.filled..]);
        let all = self.filled + *read.as_ref().unwrap_or(&0);
        let done = self.check(&buffer[..all]);
        self.waiting = buffer;
        let done = done.map_err(ReadError::Wrong)?;
        self.waiting.copy_within(done..all, 0);
        self.filled = all - done;
        read.map_err(ReadError::Io)
    }

    /// Starts with bytes that were read before.
    pub(super) fn after(mut self, unread: &[u8]) -> Checker<'a> {
        self.waiting = unread.to_vec();
        self.filled = unread.len();
        self
    }

    /// How many bytes were whole frames.
    fn check(&mut self, bytes: &[u8]) -> Result<usize, String> {
        let mut at = 0;
        loop {
            at += self.known(&bytes[at..]);
            match self.other(&bytes[at..])? {
                0 => return Ok(at),
                n => at += n,
            }
        }
    }

    /// Frames that look as the first one did.
    fn known(&mut self, bytes: &[u8]) -> usize {
        let Some(learnt) = &mut self.learnt else { return 0 };
        let mut at = 0;
        for frame in bytes.chunks_exact(learnt.bytes.len()) {
            learnt.bytes[learnt.digits_at..][..DIGITS].copy_from_slice(&hex(self.next));
            if frame != learnt.bytes {
                break;
            }
            self.next += 1;
            at += frame.len();
        }
        at
    }

    /// The length of one frame that is not as the others: the first one, an advert; 0 when it is not all there.
    fn other(&mut self, bytes: &[u8]) -> Result<usize, String> {
        if self.learnt.as_ref().is_some_and(|l| bytes.len() < l.len()) && bytes.starts_with(b"<route") {
            return Ok(0);
        }
        let Some(len) = frame_len(bytes)? else { return Ok(0) };
        let frame = &bytes[..len];
        if !frame.starts_with(b"<route") {
            return Ok(len);
        }
        if !self.expected.is(frame, self.next) {
            return Err(format!(
                "frame {} should come, but this did: {}",
                self.next,
                excerpt(frame)
            ));
        }
        let digits = memchr::memmem::find(frame, &hex(self.next));
        self.learnt = digits.map(|digits_at| Template {
            bytes: frame.to_vec(),
            digits_at,
        });
        self.next += 1;
        Ok(len)
    }
}

/// The length of the frame (or white space) at the front; `None`: not all of it is there. Enough for what routers write
/// of their own and for the frames above, not for XML.
pub(super) fn frame_len(bytes: &[u8]) -> Result<Option<usize>, String> {
    let blank = bytes.iter().take_while(|b| b.is_ascii_whitespace()).count();
    if blank > 0 {
        return Ok(Some(blank));
    }
    if bytes.starts_with(b"</") || bytes.starts_with(b"<stream:error") {
        return Err(format!("the router closes the stream: {}", excerpt(bytes)));
    }
    let name_end = bytes
        .iter()
        .position(|b| matches!(b, b' ' | b'>' | b'/'))
        .unwrap_or(bytes.len());
    let Some(open_end) = memchr::memchr(b'>', bytes) else {
        return too_long(bytes);
    };
    if bytes[open_end - 1] == b'/' {
        return Ok(Some(open_end + 1));
    }
    let end = [b"</", &bytes[1..name_end], b">"].concat();
    match memchr::memmem::find(bytes, &end) {
        Some(at) => Ok(Some(at + end.len())),
        // A route holds the frames that were sent: its size is known to the caller, not here.
        None if bytes.starts_with(b"<route") => Ok(None),
        None => too_long(bytes),
    }
}

fn too_long(bytes: &[u8]) -> Result<Option<usize>, String> {
    if bytes.len() > MAX_OTHER_BYTES {
        Err(format!("no end of this frame: {}", excerpt(bytes)))
    } else {
        Ok(None)
    }
}

/// The beginning of what came, for an error.
pub(super) fn excerpt(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(300)]).into_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn frames(template: &Template, n: usize) -> Vec<u8> {
        let mut bytes = template.repeated(n * template.len());
        template.number(&mut bytes, 0);
        bytes
    }

    fn feed(checker: &mut Checker<'_>, mut bytes: &[u8]) -> Result<(), String> {
        while !bytes.is_empty() {
            checker.read(&mut bytes).map_err(|e| format!("{e:?}"))?;
        }
        Ok(())
    }

    #[test]
    fn frames_have_the_size_asked_for() {
        for bytes in [265, 1024, 16384] {
            assert_eq!(Template::new("a", "b", bytes).unwrap().len(), bytes);
        }
        assert!(Template::new("a", "b", 100).is_err());
    }

    #[test]
    fn any_cut_of_the_stream_counts_the_same() {
        let template = Template::new("a", "b", 265).unwrap();
        let mut stream = b"<presence from='c'/> <presence from='d'></presence>".to_vec();
        stream.extend(frames(&template, 3));
        stream.extend(b"<presence from='e'/>");
        for cut in 1..stream.len() {
            let mut checker = Checker::new(&template);
            feed(&mut checker, &stream[..cut]).unwrap();
            feed(&mut checker, &stream[cut..]).unwrap();
            assert_eq!(checker.next, 3, "cut at {cut}");
        }
    }

    #[test]
    fn another_order_of_attributes_is_the_same_frame() {
        let template = Template::new("a", "b", 265).unwrap();
        let text = String::from_utf8(frames(&template, 2))
            .unwrap()
            .replace("from='a' to='b'", "to='b' from='a'");
        let mut checker = Checker::new(&template);
        feed(&mut checker, text.as_bytes()).unwrap();
        assert_eq!(checker.next, 2);
    }

    #[test]
    fn lost_doubled_and_altered_frames_are_found() {
        let template = Template::new("a", "b", 265).unwrap();
        let good = frames(&template, 4);
        let mut lost = good.clone();
        lost.drain(265..530);
        let mut doubled = good.clone();
        doubled.splice(265..265, good[..265].to_vec());
        let mut altered = good.clone();
        altered[265 * 3 - 30] = b'y';
        for bad in [lost, doubled, altered] {
            assert!(feed(&mut Checker::new(&template), &bad).is_err());
        }
        assert!(feed(&mut Checker::new(&template), &good).is_ok());
    }

    #[test]
    fn bounces_and_stream_errors_are_errors() {
        let template = Template::new("a", "b", 265).unwrap();
        let bounce = String::from_utf8(frames(&template, 1))
            .unwrap()
            .replace("to='b'>", "to='b' error='404'>");
        assert!(
            feed(&mut Checker::new(&template), bounce.as_bytes())
                .unwrap_err()
                .contains("error='404'")
        );
        assert!(
            feed(&mut Checker::new(&template), b"</stream:stream>")
                .unwrap_err()
                .contains("closes")
        );
    }
}
