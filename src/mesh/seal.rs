//! The seal: Noise `NNpsk0` with X25519, AES-256-GCM and SHA-256. Proves the cluster's secret both ways and encrypts
//! what follows.
//!
//! AES-256-GCM is the faster of Noise's two ciphers wherever the CPU has AES instructions, as every x86-64 and ARM
//! server has: `benches/mesh.rs` shows by how much.

use super::error::MeshError;
use crate::config::Secret;
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};
use snow::params::{CipherChoice, DHChoice, HashChoice, NoiseParams};
use snow::resolvers::{CryptoResolver, DefaultResolver, RingResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, HandshakeState, TransportState};
use std::num::NonZeroU32;

/// Longest record on the wire, bytes without its length.
pub const RECORD_BYTES_MAX: usize = u16::MAX as usize;
/// What the seal adds to a record, bytes.
pub const TAG_BYTES: usize = 16;
/// Most plaintext in a record, bytes.
pub const PLAINTEXT_BYTES_MAX: usize = RECORD_BYTES_MAX - TAG_BYTES;
/// A direction takes a new key after so many records, long before AES-GCM wants it.
const REKEY_RECORDS: u64 = if cfg!(test) { 64 } else { 1 << 20 };
/// What one guess at a secret costs, in rounds of PBKDF2: who records a handshake can guess at leisure.
const PBKDF2_ROUNDS: NonZeroU32 = NonZeroU32::MIN.saturating_add(100_000 - 1);
const PBKDF2_SALT: &[u8] = b"jidmesh mesh";
const NOISE: &str = "Noise_NNpsk0_25519_AESGCM_SHA256";

/// The key that stands for a secret of the configuration.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Psk([u8; 32]);

impl Psk {
    /// Takes some 20 ms of a CPU, on purpose.
    pub(super) fn of(secret: &Secret) -> Psk {
        let mut key = [0; 32];
        let algorithm = ring::pbkdf2::PBKDF2_HMAC_SHA256;
        ring::pbkdf2::derive(algorithm, PBKDF2_ROUNDS, PBKDF2_SALT, secret.0.as_bytes(), &mut key);
        Psk(key)
    }
}

/// A handshake under way.
pub(super) struct Handshake(HandshakeState);

impl Handshake {
    pub(super) fn dial(psk: &Psk, prologue: &[u8], seed: [u8; 32]) -> Option<Handshake> {
        builder(psk, prologue, seed)?.build_initiator().ok().map(Handshake)
    }

    /// The handshake of the first of `psks` that opens `message`, and what it said.
    pub(super) fn accept(
        psks: &[Psk],
        prologue: &[u8],
        seed: [u8; 32],
        message: &[u8],
    ) -> Result<(Handshake, Vec<u8>), MeshError> {
        for psk in psks {
            let responder = builder(psk, prologue, seed).and_then(|builder| builder.build_responder().ok());
            let mut handshake = Handshake(responder.ok_or(MeshError::WrongSecret)?);
            if let Ok(payload) = handshake.read(message) {
                return Ok((handshake, payload));
            }
        }
        Err(MeshError::WrongSecret)
    }

    /// Appends the next message, with its length before it.
    pub(super) fn write(&mut self, payload: &[u8], out: &mut Vec<u8>) -> Result<(), MeshError> {
        let mut message = vec![0; payload.len() + 32 + TAG_BYTES];
        let len = self.0.write_message(payload, &mut message);
        let len = len.map_err(|_| MeshError::Malformed("handshake"))?;
        put_length(len, out);
        out.extend_from_slice(&message[..len]);
        Ok(())
    }

    /// What the other side's message says.
    pub(super) fn read(&mut self, message: &[u8]) -> Result<Vec<u8>, MeshError> {
        let mut payload = vec![0; message.len()];
        let len = self
            .0
            .read_message(message, &mut payload)
            .map_err(|_| MeshError::WrongSecret)?;
        payload.truncate(len);
        Ok(payload)
    }

    /// The keys of the two directions; both messages of the handshake are through.
    pub(super) fn finish(self, plain: bool) -> Result<Sealer, MeshError> {
        let noise = self
            .0
            .into_transport_mode()
            .map_err(|_| MeshError::Malformed("handshake"))?;
        Ok(Sealer {
            noise,
            plain,
            sealed: 0,
            opened: 0,
        })
    }
}

/// Seals and opens records.
pub(super) struct Sealer {
    noise: TransportState,
    /// Both sides allow that only the first record of each direction is sealed.
    plain: bool,
    sealed: u64,
    opened: u64,
}

impl Sealer {
    /// Appends a record with its length; `plaintext` is at most [`PLAINTEXT_BYTES_MAX`].
    pub(super) fn seal(&mut self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<(), MeshError> {
        assert!(plaintext.len() <= PLAINTEXT_BYTES_MAX, "a record beyond its limit");
        if self.plain && self.sealed > 0 {
            put_length(plaintext.len(), out);
            out.extend_from_slice(plaintext);
            return Ok(());
        }
        let len = plaintext.len() + TAG_BYTES;
        put_length(len, out);
        let start = out.len();
        out.resize(start + len, 0);
        // Fails only when 2^64 records were sealed.
        let sealed = self.noise.write_message(plaintext, &mut out[start..]);
        assert_eq!(sealed.ok(), Some(len), "sealing");
        self.sealed += 1;
        if self.sealed.is_multiple_of(REKEY_RECORDS) {
            self.noise.rekey_outgoing();
        }
        Ok(())
    }

    /// Opens a record into `into`, which is at least as long; the length of the plaintext.
    pub(super) fn open(&mut self, record: &[u8], into: &mut [u8]) -> Result<usize, MeshError> {
        if self.plain && self.opened > 0 {
            into[..record.len()].copy_from_slice(record);
            return Ok(record.len());
        }
        let len = self.noise.read_message(record, into).map_err(|_| MeshError::Altered)?;
        self.opened += 1;
        if self.opened.is_multiple_of(REKEY_RECORDS) {
            self.noise.rekey_incoming();
        }
        Ok(len)
    }

    /// Records go unsealed after the first.
    pub(super) fn is_plain(&self) -> bool {
        self.plain
    }
}

fn put_length(len: usize, out: &mut Vec<u8>) {
    let len = u16::try_from(len).unwrap_or_else(|_| panic!("a record of {len} bytes"));
    out.extend_from_slice(&len.to_be_bytes());
}

fn builder<'a>(psk: &'a Psk, prologue: &'a [u8], seed: [u8; 32]) -> Option<Builder<'a>> {
    let params: NoiseParams = NOISE.parse().ok()?;
    let builder = Builder::with_resolver(params, Box::new(Resolver { seed }));
    builder.psk(0, &psk.0).ok()?.prologue(prologue).ok()
}

/// ring's primitives, X25519 from curve25519-dalek, and randomness from a seed that the caller drew.
struct Resolver {
    seed: [u8; 32],
}

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Seeded(ChaCha20Rng::from_seed(self.seed))))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        DefaultResolver.resolve_dh(choice)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        RingResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        RingResolver.resolve_cipher(choice)
    }
}

struct Seeded(ChaCha20Rng);

impl Random for Seeded {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), snow::Error> {
        self.0.fill_bytes(dest);
        Ok(())
    }
}
