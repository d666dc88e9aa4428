//! A native component, as far as measuring needs one: logs in with SASL DIGEST-MD5 (RFC 2831) and binds its names.

use super::frame;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest, Md5};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A login or a bind may take so long, seconds.
const LOGIN_S: u64 = 10;
const SASL: &str = "urn:ietf:params:xml:ns:xmpp-sasl";
const OPEN: &str = "<?xml version='1.0'?><stream:stream xmlns:stream='http://etherx.jabber.org/streams' version='1.0'>";

/// A component that is logged in.
pub(super) struct Component {
    pub(super) stream: TcpStream,
    /// What was read and not understood yet.
    pub(super) unread: Vec<u8>,
}

impl Component {
    /// Logs in and binds `id`, then `id.test` as a shared name, as an sm does.
    pub(super) fn connect(router: SocketAddr, user: &str, pass: &str, id: &str) -> Result<Component, String> {
        let wait = Duration::from_secs(LOGIN_S);
        let fail = |e: std::io::Error| format!("{router}: {e}: is a router listening there?");
        let stream = TcpStream::connect_timeout(&router, wait).map_err(fail)?;
        stream.set_nodelay(true).map_err(fail)?;
        stream.set_read_timeout(Some(wait)).map_err(fail)?;
        let mut component = Component {
            stream,
            unread: Vec::new(),
        };
        component.login(user, pass)?;
        component.send(OPEN)?;
        component.bind(&format!("name='{id}'"))?;
        component.bind(&format!("name='{id}.test' multi='to'"))?;
        Ok(component)
    }

    fn login(&mut self, user: &str, pass: &str) -> Result<(), String> {
        self.send(OPEN)?;
        self.until("stream:features>")?;
        self.send(&format!("<auth xmlns='{SASL}' mechanism='DIGEST-MD5'/>"))?;
        let challenge = self.until("</challenge>")?;
        let text = challenge
            .trim_end_matches("</challenge>")
            .rsplit('>')
            .next()
            .unwrap_or_default();
        let decoded = STANDARD.decode(text).map_err(|e| format!("challenge {text:?}: {e}"))?;
        let answer = respond(&String::from_utf8_lossy(&decoded), user, pass, &random()?)?;
        self.send(&format!(
            "<response xmlns='{SASL}'>{}</response>",
            STANDARD.encode(answer)
        ))?;
        self.until_frame("<success")?;
        self.unread.clear();
        Ok(())
    }

    fn bind(&mut self, what: &str) -> Result<(), String> {
        self.send(&format!(
            "<bind xmlns='http://jabberd.jabberstudio.org/ns/component/1.0' {what}/>"
        ))?;
        let answer = self.until_frame("<bind")?;
        if answer.contains("error=") {
            Err(format!("bind {what} was refused: {answer}"))
        } else {
            Ok(())
        }
    }

    fn send(&mut self, text: &str) -> Result<(), String> {
        self.stream
            .write_all(text.as_bytes())
            .map_err(|e| format!("writing to the router: {e}"))
    }

    /// Reads to the end of the first `mark`; gives all up to there.
    fn until(&mut self, mark: &str) -> Result<String, String> {
        loop {
            if let Some(at) = memchr::memmem::find(&self.unread, mark.as_bytes()) {
                return Ok(self.take(at + mark.len()));
            }
            self.more(mark)?;
        }
    }

    /// Reads to the end of the first frame that begins with `mark`, which it gives; what came before is dropped.
    fn until_frame(&mut self, mark: &str) -> Result<String, String> {
        loop {
            if let Some(at) = memchr::memmem::find(&self.unread, mark.as_bytes()) {
                self.take(at);
                if let Some(len) = frame::frame_len(&self.unread)? {
                    return Ok(self.take(len));
                }
            }
            self.more(mark)?;
        }
    }

    fn more(&mut self, awaited: &str) -> Result<(), String> {
        let refused = [&b"<failure"[..], b"<stream:error", b"</stream:stream"];
        if refused
            .iter()
            .any(|bad| memchr::memmem::find(&self.unread, bad).is_some())
        {
            return Err(format!("the router refuses: {}", frame::excerpt(&self.unread)));
        }
        let mut piece = [0; 4096];
        match self.stream.read(&mut piece) {
            Ok(0) => Err(format!("the router closed the connection while {awaited} was awaited")),
            Ok(n) => {
                self.unread.extend_from_slice(&piece[..n]);
                Ok(())
            }
            Err(e) => Err(format!("while {awaited} was awaited: {e}")),
        }
    }

    fn take(&mut self, len: usize) -> String {
        let rest = self.unread.split_off(len);
        String::from_utf8_lossy(&std::mem::replace(&mut self.unread, rest)).into_owned()
    }
}

fn random() -> Result<String, String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|e| format!("no randomness: {e}"))?;
    Ok(STANDARD.encode(bytes))
}

/// The answer to a DIGEST-MD5 challenge (RFC 2831, section 2.1.2).
fn respond(challenge: &str, user: &str, pass: &str, cnonce: &str) -> Result<String, String> {
    let (realm, nonce) = (
        quoted(challenge, "realm").unwrap_or_default(),
        quoted(challenge, "nonce"),
    );
    let nonce = nonce.ok_or(format!("challenge without nonce: {challenge}"))?;
    let uri = "jabberd-router/localhost";
    let mut secret = Md5::digest(format!("{user}:{realm}:{pass}")).to_vec();
    secret.extend(format!(":{nonce}:{cnonce}").bytes());
    let (a1, a2) = (
        hex(&Md5::digest(&secret)),
        hex(&Md5::digest(format!("AUTHENTICATE:{uri}"))),
    );
    let response = hex(&Md5::digest(format!("{a1}:{nonce}:00000001:{cnonce}:auth:{a2}")));
    Ok(format!(
        "username=\"{user}\", realm=\"{realm}\", nonce=\"{nonce}\", cnonce=\"{cnonce}\", nc=00000001, qop=auth, \
         digest-uri=\"{uri}\", response={response}, charset=utf-8"
    ))
}

fn quoted<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let (_, value) = text.split_once(&format!("{key}=\""))?;
    value.split_once('"').map(|(value, _)| value)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Computed independently, by a program that also reproduces a captured login of jabberd2's sm.
    #[test]
    fn the_digest_covers_nonce_realm_and_secret() {
        let challenge = "realm=\"jabberd-router\", nonce=\"5M6qw6s5IhXG6Q+GPw74mg==\", qop=\"auth\", charset=utf-8";
        let answer = respond(challenge, "jabberd", "secret", "nBMULcFUyOwwkv3v4x9eOg==").unwrap();
        assert!(
            answer.contains("response=f5fcbdbf48383fd3d7b0668d80c85bd7,"),
            "{answer}"
        );
        assert!(respond("realm=\"r\"", "u", "p", "c").is_err());
    }
}
