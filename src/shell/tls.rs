//! TLS on the component port, as the server: plain text towards the brain, records towards the socket.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

/// Plain bytes that go into one record at most.
const RECORD_BYTES: usize = 16 * 1024;

/// Reads certificate chain and private key from one PEM file. The error says what is missing in which file.
pub fn load_pem(path: &Path) -> Result<Arc<ServerConfig>, String> {
    let name = path.display();
    let text = std::fs::read(path).map_err(|error| format!("cannot read {name}: {error}"))?;
    let mut chain = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        chain.push(certificate.map_err(|error| format!("bad certificate in {name}: {error}"))?);
    }
    if chain.is_empty() {
        return Err(format!(
            "no certificate in {name}: it must hold the chain and the private key"
        ));
    }
    let key = PrivateKeyDer::from_pem_slice(&text)
        .map_err(|error| format!("no usable private key in {name} (an encrypted one cannot be read): {error}"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| format!("certificate and key in {name} do not fit: {error}"))?;
    Ok(Arc::new(config))
}

/// One link's TLS.
pub(crate) struct Tls {
    connection: Box<ServerConnection>,
    /// Whether the brain knows that the handshake is done.
    pub(crate) announced: bool,
    /// Records in flight: (end in the sealed chunk, end in the plain one).
    records: VecDeque<(usize, usize)>,
    sealed: usize,
    plain: usize,
}

impl Tls {
    pub(crate) fn new(config: &Arc<ServerConfig>) -> Result<Tls, String> {
        let mut connection = ServerConnection::new(Arc::clone(config)).map_err(|error| error.to_string())?;
        connection.set_buffer_limit(None);
        let records = VecDeque::new();
        Ok(Tls {
            connection: Box::new(connection),
            announced: false,
            records,
            sealed: 0,
            plain: 0,
        })
    }

    pub(crate) fn handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// Opens what was read from the socket; plain text is appended to `into`. False when the peer has said that no
    /// more will come.
    pub(crate) fn open(&mut self, mut bytes: &[u8], into: &mut Vec<u8>) -> Result<bool, String> {
        let mut open = true;
        while !bytes.is_empty() && open {
            self.connection
                .read_tls(&mut bytes)
                .map_err(|error| error.to_string())?;
            let state = self
                .connection
                .process_new_packets()
                .map_err(|error| error.to_string())?;
            let from = into.len();
            into.resize(from + state.plaintext_bytes_to_read(), 0);
            self.connection
                .reader()
                .read_exact(&mut into[from..])
                .map_err(|error| error.to_string())?;
            open = !state.peer_has_closed();
        }
        Ok(open)
    }

    /// Seals `plain` behind what TLS itself has to say and appends it all to `into`.
    pub(crate) fn seal(&mut self, plain: &[u8], into: &mut Vec<u8>) -> Result<(), String> {
        self.records.clear();
        (self.sealed, self.plain) = (0, 0);
        self.drain(into)?;
        let mut end = 0;
        for piece in plain.chunks(RECORD_BYTES) {
            self.connection
                .writer()
                .write_all(piece)
                .map_err(|error| error.to_string())?;
            self.drain(into)?;
            end += piece.len();
            self.records.push_back((into.len(), end));
        }
        Ok(())
    }

    fn drain(&mut self, into: &mut Vec<u8>) -> Result<(), String> {
        while self.connection.wants_write() {
            self.connection.write_tls(into).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// The kernel took `bytes` more of the sealed chunk: how many plain bytes that completes.
    pub(crate) fn sealed_written(&mut self, bytes: usize) -> usize {
        self.sealed += bytes;
        let before = self.plain;
        while let Some(&(sealed, plain)) = self.records.front() {
            if sealed > self.sealed {
                break;
            }
            self.plain = plain;
            self.records.pop_front();
        }
        self.plain - before
    }

    /// Plain bytes of the chunk in flight that were written in full records.
    pub(crate) fn plain_written(&self) -> usize {
        self.plain
    }

    /// The last words: no more plain text follows.
    pub(crate) fn say_goodbye(&mut self) {
        self.connection.send_close_notify();
    }
}
