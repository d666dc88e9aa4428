//! One connection between two nodes: the handshake, then sealed records. Knows nothing of lanes' contents.
//!
//! A connection that was accepted counts as established only when the dialler's first sealed record opened: a replayed
//! first message gets an answer that its sender cannot read, and nothing else.

use super::error::{MeshError, Reason};
use super::hello::Hello;
use super::seal::{Handshake, Psk, RECORD_BYTES_MAX, Sealer};
use super::{Lane, Micros};
use crate::config::Mesh;
use rand_core::RngCore;
use std::sync::Arc;

/// What both sides send first, in the clear: name and version of the handshake.
pub const PREAMBLE: &[u8; 8] = b"jidmesh\x01";
/// Longest message of the handshake, bytes. A hello has names and addresses of hosts, no more.
pub const HANDSHAKE_BYTES_MAX: usize = 16 * 1024;
/// How long a handshake may take, microseconds: two round trips, on a machine that may be busy.
pub const HANDSHAKE_US_MAX: Micros = 3_000_000;
/// Most plaintext that an accepted connection may send before its peer's home takes it, bytes.
const EARLY_BYTES_MAX: usize = 256 * 1024;

/// What every connection of this node needs to know of the node; shared by all shards.
pub struct Local {
    /// What it says of itself.
    pub hello: Hello,
    psks: Vec<Psk>,
}

impl Local {
    /// Takes some 20 ms of a CPU for each secret. `incarnation`: random, not 0, drawn at the start of the process.
    /// `policies`: [`policies_digest`](super::hello::policies_digest) of what the nodes should agree on.
    pub fn new(mesh: &Mesh, incarnation: u64, policies: u64) -> Local {
        assert!(incarnation != 0 && !mesh.secrets.is_empty(), "a node needs both");
        Local {
            hello: Hello::of(mesh, incarnation, policies),
            psks: mesh.secrets.iter().map(Psk::of).collect(),
        }
    }

    /// The same secrets under another hello.
    #[cfg(any(test, feature = "sim"))]
    pub fn with_hello(&self, hello: Hello) -> Local {
        Local {
            hello,
            psks: self.psks.clone(),
        }
    }
}

impl std::fmt::Debug for Local {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Local")
            .field("hello", &self.hello)
            .finish_non_exhaustive()
    }
}

/// Which side opened the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// This node.
    Dialled,
    /// The other one.
    Accepted,
}

/// One connection. `Send`: shard 0 accepts it, and hands it to the home of its peer once the peer is known.
pub struct Conn {
    local: Arc<Local>,
    side: Side,
    lane: Lane,
    stage: Stage,
    deadline: Micros,
    /// The other side's preamble has come.
    greeted: bool,
    hello: Option<Hello>,
    /// What came and is no whole record yet.
    input: Vec<u8>,
    /// What is to be written.
    output: Vec<u8>,
    /// Plaintexts that came before somebody took the connection over, each with its length.
    early: Vec<u8>,
    seed: [u8; 32],
}

enum Stage {
    /// Dialled: our hello is out, theirs is awaited.
    Dialling(Box<Handshake>),
    /// Accepted: their hello is awaited.
    Accepting,
    /// Accepted: our hello is out, the first sealed record is awaited.
    Proving(Box<Sealer>),
    Open(Box<Sealer>),
    Failed(MeshError),
}

impl std::fmt::Debug for Conn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (side, lane) = (self.side, self.lane);
        let hello = self.hello.as_ref().map(|hello| &hello.node);
        f.debug_struct("Conn")
            .field("side", &side)
            .field("lane", &lane)
            .field("node", &hello)
            .finish_non_exhaustive()
    }
}

impl Conn {
    /// Opens a connection for `lane`; its first bytes wait in [`Conn::take_output`].
    pub fn dial(now: Micros, local: &Arc<Local>, lane: Lane, rng: &mut impl RngCore) -> Conn {
        let mut conn = Conn::new(now, local, Side::Dialled, rng);
        conn.lane = lane;
        let mut hello = Vec::new();
        local.hello.encode(lane, &mut hello);
        let handshake = Handshake::dial(&local.psks[0], PREAMBLE, conn.seed);
        let begun = handshake
            .ok_or(MeshError::Malformed("handshake"))
            .and_then(|mut handshake| {
                handshake.write(&hello, &mut conn.output)?;
                Ok(handshake)
            });
        conn.stage = match begun {
            Ok(handshake) => Stage::Dialling(Box::new(handshake)),
            Err(error) => Stage::Failed(error),
        };
        conn
    }

    /// Answers a connection that somebody opened.
    pub fn accept(now: Micros, local: &Arc<Local>, rng: &mut impl RngCore) -> Conn {
        Conn::new(now, local, Side::Accepted, rng)
    }

    fn new(now: Micros, local: &Arc<Local>, side: Side, rng: &mut impl RngCore) -> Conn {
        let mut seed = [0; 32];
        rng.fill_bytes(&mut seed);
        Conn {
            local: Arc::clone(local),
            side,
            lane: Lane::Control,
            stage: Stage::Accepting,
            deadline: now + HANDSHAKE_US_MAX,
            greeted: false,
            hello: None,
            input: Vec::new(),
            // An accepting side says nothing to somebody who does not know how to begin.
            output: if side == Side::Dialled {
                PREAMBLE.to_vec()
            } else {
                Vec::new()
            },
            early: Vec::new(),
            seed,
        }
    }

    /// Who opened it.
    pub fn side(&self) -> Side {
        self.side
    }

    /// The lane it is for; of an accepted one, known with the hello.
    pub fn lane(&self) -> Lane {
        self.lane
    }

    /// What the other side said of itself, proved or not: see [`Conn::is_established`].
    pub fn hello(&self) -> Option<&Hello> {
        self.hello.as_ref()
    }

    /// The other side is proved to know the secret now, and not only once.
    pub fn is_established(&self) -> bool {
        matches!(self.stage, Stage::Open(_))
    }

    /// Both sides agreed to leave what follows unencrypted.
    pub fn is_plain(&self) -> bool {
        matches!(&self.stage, Stage::Open(sealer) | Stage::Proving(sealer) if sealer.is_plain())
    }

    /// When an unfinished handshake is given up: [`Conn::received`] or a close by then, else it is a
    /// [`MeshError::TimedOut`]. `None` once established.
    pub fn deadline(&self) -> Option<Micros> {
        (!self.is_established()).then_some(self.deadline)
    }

    /// Bytes came. `sink` gets the plaintext of each record. After an error the connection is of no use; what waits in
    /// [`Conn::take_output`] tells the other side why, and may be written before the socket is closed.
    pub fn received(
        &mut self,
        mut bytes: &[u8],
        scratch: &mut Scratch,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), MeshError>,
    ) -> Result<(), MeshError> {
        let result = self.take_in(&mut bytes, scratch, sink);
        if let Err(error) = &result
            && !matches!(self.stage, Stage::Failed(_))
        {
            // Whoever is not yet known gets the reason in the clear, which he must not believe.
            if matches!(self.stage, Stage::Accepting) && self.greeted {
                self.output.extend_from_slice(PREAMBLE);
                self.output.extend_from_slice(&[0, 1, error.reason().number()]);
            }
            self.input = Vec::new();
            self.stage = Stage::Failed(error.clone());
        }
        result
    }

    /// The same for a connection that nobody took over yet: keeps what comes, within a limit.
    pub fn received_early(&mut self, bytes: &[u8], scratch: &mut Scratch) -> Result<(), MeshError> {
        let mut early = std::mem::take(&mut self.early);
        let result = self.received(bytes, scratch, &mut |plaintext| {
            if early.len() + plaintext.len() > EARLY_BYTES_MAX {
                return Err(MeshError::Oversized(early.len() + plaintext.len(), EARLY_BYTES_MAX));
            }
            early.extend_from_slice(&(plaintext.len() as u32).to_be_bytes());
            early.extend_from_slice(plaintext);
            Ok(())
        });
        self.early = early;
        result
    }

    /// What [`Conn::received_early`] kept, record by record.
    pub fn take_early(&mut self, mut sink: impl FnMut(&[u8]) -> Result<(), MeshError>) -> Result<(), MeshError> {
        let early = std::mem::take(&mut self.early);
        let mut rest = &early[..];
        while let Some((len, more)) = rest.split_first_chunk::<4>() {
            let (plaintext, more) = more.split_at(u32::from_be_bytes(*len) as usize);
            rest = more;
            sink(plaintext)?;
        }
        Ok(())
    }

    /// Seals one record of at most [`PLAINTEXT_BYTES_MAX`](super::seal::PLAINTEXT_BYTES_MAX) bytes straight into
    /// `out`. What waits in [`Conn::take_output`] must go before it. The connection must be established, or dialled
    /// and answered.
    pub fn seal(&mut self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<(), MeshError> {
        match &mut self.stage {
            Stage::Open(sealer) => sealer.seal(plaintext, out),
            _ => Err(MeshError::Malformed("a record before the handshake")),
        }
    }

    /// The handshake's bytes to be written.
    pub fn take_output(&mut self, into: &mut Vec<u8>) {
        into.append(&mut self.output);
    }

    /// Whether [`Conn::take_output`] has something.
    pub fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    fn take_in(
        &mut self,
        bytes: &mut &[u8],
        scratch: &mut Scratch,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), MeshError>,
    ) -> Result<(), MeshError> {
        if let Stage::Failed(error) = &self.stage {
            return Err(error.clone());
        }
        if !self.greeted && !self.read_preamble(bytes)? {
            return Ok(());
        }
        loop {
            // Whole records are opened where they stand; only what is cut by the end of a read is copied.
            if self.input.is_empty() {
                let Some((record, rest)) = split_record(bytes, self.length_max())? else {
                    self.input.extend_from_slice(bytes);
                    return Ok(());
                };
                *bytes = rest;
                self.record(record, scratch, sink)?;
                continue;
            }
            let missing = missing(&self.input, self.length_max())?;
            let (head, rest) = bytes.split_at(missing.min(bytes.len()));
            self.input.extend_from_slice(head);
            *bytes = rest;
            if head.len() < missing {
                return Ok(());
            }
            let mut input = std::mem::take(&mut self.input);
            if let Some((record, _)) = split_record(&input, self.length_max())? {
                self.record(record, scratch, sink)?;
                input.clear();
            }
            self.input = input;
        }
    }

    /// `false`: more bytes are needed.
    fn read_preamble(&mut self, bytes: &mut &[u8]) -> Result<bool, MeshError> {
        let (head, rest) = bytes.split_at(bytes.len().min(PREAMBLE.len() - self.input.len()));
        self.input.extend_from_slice(head);
        *bytes = rest;
        if !PREAMBLE.starts_with(&self.input) {
            return Err(MeshError::NotAPeer(self.input.clone()));
        }
        self.greeted = self.input.len() == PREAMBLE.len();
        if self.greeted {
            self.input.clear();
        }
        Ok(self.greeted)
    }

    fn length_max(&self) -> usize {
        match self.stage {
            Stage::Open(_) | Stage::Proving(_) => RECORD_BYTES_MAX,
            _ => HANDSHAKE_BYTES_MAX,
        }
    }

    fn record(
        &mut self,
        record: &[u8],
        scratch: &mut Scratch,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), MeshError>,
    ) -> Result<(), MeshError> {
        match &mut self.stage {
            Stage::Open(sealer) => {
                let len = sealer.open(record, &mut scratch.0)?;
                sink(&scratch.0[..len])
            }
            Stage::Proving(sealer) => {
                let len = sealer.open(record, &mut scratch.0)?;
                self.advance(|stage| match stage {
                    Stage::Proving(sealer) => Ok(Stage::Open(sealer)),
                    other => Ok(other),
                })?;
                sink(&scratch.0[..len])
            }
            Stage::Accepting => self.answer(record),
            Stage::Dialling(_) => self.answered(record),
            Stage::Failed(error) => Err(error.clone()),
        }
    }

    /// The dialler's first message: its hello.
    fn answer(&mut self, message: &[u8]) -> Result<(), MeshError> {
        let (mut handshake, hello) = Handshake::accept(&self.local.psks, PREAMBLE, self.seed, message)?;
        let hello = Hello::decode(&hello)?;
        self.lane = hello.lane;
        self.local.hello.judge(&hello)?;
        let plain = hello.plain && self.local.hello.plain;
        let mut own = Vec::new();
        self.local.hello.encode(self.lane, &mut own);
        self.hello = Some(hello);
        self.output.extend_from_slice(PREAMBLE);
        handshake.write(&own, &mut self.output)?;
        self.stage = Stage::Proving(Box::new(handshake.finish(plain)?));
        Ok(())
    }

    /// The answer to our first message.
    fn answered(&mut self, message: &[u8]) -> Result<(), MeshError> {
        // A single byte is a refusal: no answer of the handshake is as short.
        if let [reason] = message {
            return Err(MeshError::Refused(Reason::from_number(*reason)));
        }
        let lane = self.lane;
        let local = Arc::clone(&self.local);
        let mut found = None;
        self.advance(|stage| {
            let Stage::Dialling(mut handshake) = stage else {
                return Err(MeshError::Malformed("handshake"));
            };
            let hello = Hello::decode(&handshake.read(message)?)?;
            local.hello.judge(&hello)?;
            if hello.lane != lane {
                return Err(MeshError::Malformed("the answer is for another lane"));
            }
            let plain = hello.plain && local.hello.plain;
            found = Some(hello);
            Ok(Stage::Open(Box::new(handshake.finish(plain)?)))
        })?;
        self.hello = found;
        Ok(())
    }

    fn advance(&mut self, step: impl FnOnce(Stage) -> Result<Stage, MeshError>) -> Result<(), MeshError> {
        let stage = std::mem::replace(&mut self.stage, Stage::Accepting);
        self.stage = step(stage)?;
        Ok(())
    }
}

/// Room for one opened record; one is enough for all connections of a shard.
pub struct Scratch(Box<[u8]>);

impl Default for Scratch {
    fn default() -> Scratch {
        Scratch(vec![0; RECORD_BYTES_MAX].into_boxed_slice())
    }
}

impl std::fmt::Debug for Scratch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scratch(..)")
    }
}

/// The length that stands before a record.
fn record_length(bytes: &[u8], length_max: usize) -> Result<Option<usize>, MeshError> {
    let Some((length, _)) = bytes.split_first_chunk::<2>() else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes(*length));
    if length > length_max {
        return Err(MeshError::Oversized(length, length_max));
    }
    Ok(Some(length))
}

#[allow(clippy::type_complexity)] // A record, if it is whole, and what is behind it.
fn split_record(bytes: &[u8], length_max: usize) -> Result<Option<(&[u8], &[u8])>, MeshError> {
    let Some(length) = record_length(bytes, length_max)? else {
        return Ok(None);
    };
    Ok(bytes[2..].split_at_checked(length))
}

/// How many bytes a cut record still needs, as far as it can be told.
fn missing(input: &[u8], length_max: usize) -> Result<usize, MeshError> {
    Ok(match record_length(input, length_max)? {
        None => 2 - input.len(),
        Some(length) => 2 + length - input.len(),
    })
}
