//! TLS on the component port, as the server, and to the stock router, as the client: plain text towards the brain, records
//! towards the socket.

use crate::config::ciphers::{self, Suite};
use crate::config::{Config, Secret, decrypt_key};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::cipher_suite as suite;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::pki_types::{ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, ClientConnection, Connection, DigitallySignedStruct, SignatureScheme};
use rustls::{ServerConfig, ServerConnection, SupportedCipherSuite};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Plain bytes that go into one record at most.
const RECORD_BYTES: usize = 16 * 1024;

/// The server's side of TLS as the configuration wants it; `None`: it wants none. The error says what is missing in
/// which file.
pub fn server(config: &Config) -> Result<Option<Arc<ServerConfig>>, String> {
    let password = config.private_key_password.as_ref().map(|Secret(text)| &**text);
    let load = |path: &PathBuf| load_pem(path, password, config.ciphers.as_deref());
    config.pemfile.as_ref().map(load).transpose()
}

fn load_pem(path: &Path, password: Option<&str>, ciphers: Option<&str>) -> Result<Arc<ServerConfig>, String> {
    let name = path.display();
    let text = std::fs::read(path).map_err(|error| format!("cannot read {name}: {error}"))?;
    let chain = certificates(path, &text)?;
    if chain.is_empty() {
        return Err(format!(
            "no certificate in {name}: it must hold the chain and the private key"
        ));
    }
    let key = match decrypt_key(&text, password).map_err(|error| format!("{name}: {error}"))? {
        Some(key) => PrivatePkcs8KeyDer::from(key.as_bytes().to_vec()).into(),
        None => {
            PrivateKeyDer::from_pem_slice(&text).map_err(|error| format!("no usable private key in {name}: {error}"))?
        }
    };
    let config = ServerConfig::builder_with_provider(Arc::new(provider(ciphers)))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| format!("certificate and key in {name} do not fit: {error}"))?;
    Ok(Arc::new(config))
}

fn certificates(path: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let good = |certificate: Result<_, _>| {
        certificate.map_err(|error| format!("bad certificate in {}: {error}", path.display()))
    };
    CertificateDer::pem_slice_iter(text).map(good).collect()
}

/// The client's side, towards the stock router; `None`: the configuration wants none.
///
/// # Errors
/// What is missing in which file.
pub(super) fn client(config: &Config) -> Result<Option<Arc<ClientConfig>>, String> {
    let path = config.uplink.as_ref().and_then(|uplink| uplink.certificate.as_ref());
    let Some(path) = path else { return Ok(None) };
    let name = path.display();
    let text = std::fs::read(path).map_err(|error| format!("cannot read {name}: {error}"))?;
    let certificates = certificates(path, &text)?;
    if certificates.is_empty() {
        return Err(format!("no certificate in {name}"));
    }
    let provider = Arc::new(provider(None));
    let verifier = Pinned {
        certificates,
        provider: Arc::clone(&provider),
    };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(Some(Arc::new(config)))
}

/// The stock router shows the very certificate that the operator named. Routers have certificates that nobody signed, for
/// names that nobody looks up: whose key it is is all that counts, and that it has the key.
#[derive(Debug)]
struct Pinned {
    certificates: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.certificates.iter().any(|certificate| certificate == shown) {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The suites of TLS 1.3, and of those of TLS 1.2 what the list leaves.
fn provider(ciphers: Option<&str>) -> CryptoProvider {
    let mut provider = rustls::crypto::ring::default_provider();
    if let Some(list) = ciphers {
        let chosen = ciphers::suites(list);
        provider.cipher_suites.retain(|suite| suite.tls13().is_some());
        let suite = |name: Suite| TLS12.iter().find(|(known, _)| *known == name).map(|(_, suite)| *suite);
        provider.cipher_suites.extend(chosen.into_iter().filter_map(suite));
    }
    provider
}

/// The suites of TLS 1.2, by their OpenSSL names.
const TLS12: [(Suite, SupportedCipherSuite); 6] = [
    (
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "ECDHE-RSA-AES256-GCM-SHA384",
        suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    (
        "ECDHE-RSA-CHACHA20-POLY1305",
        suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    (
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "ECDHE-RSA-AES128-GCM-SHA256",
        suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    ),
];

/// One link's TLS.
pub(crate) struct Tls {
    connection: Box<Connection>,
    /// Whether the brain knows that the handshake is done.
    pub(crate) announced: bool,
    /// Records in flight: (end in the sealed chunk, end in the plain one).
    records: VecDeque<(usize, usize)>,
    sealed: usize,
    plain: usize,
}

impl Tls {
    pub(crate) fn new(config: &Arc<ServerConfig>) -> Result<Tls, String> {
        let connection = ServerConnection::new(Arc::clone(config)).map_err(|error| error.to_string())?;
        Ok(Tls::with(connection.into()))
    }

    pub(crate) fn new_client(config: &Arc<ClientConfig>) -> Result<Tls, String> {
        let name = ServerName::try_from("jabberd-router").map_err(|error| error.to_string())?;
        let connection = ClientConnection::new(Arc::clone(config), name).map_err(|error| error.to_string())?;
        Ok(Tls::with(connection.into()))
    }

    fn with(mut connection: Connection) -> Tls {
        connection.set_buffer_limit(None);
        Tls {
            connection: Box::new(connection),
            announced: false,
            records: VecDeque::new(),
            sealed: 0,
            plain: 0,
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suite_of_tls_1_2_has_its_openssl_name() {
        assert_eq!(ciphers::suites("ALL").len(), TLS12.len(),);
        let all = rustls::crypto::ring::default_provider().cipher_suites;
        assert_eq!(provider(Some("ALL")).cipher_suites.len(), all.len());
        assert_eq!(provider(Some("ECDSA")).cipher_suites.len(), all.len() - 3);
        assert_eq!(provider(None).cipher_suites, all);
    }
}
