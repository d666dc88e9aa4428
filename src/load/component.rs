//! A component, as far as measuring needs one: a real socket, a real login, its names bound.

use crate::wire::connect::{Connect, ConnectStep, Connecting, LIMITS};
use crate::wire::header::{self, Frame};
use crate::wire::scan::{Item, Scanner};
use crate::wire::{NS_COMPONENT, NS_STREAM};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A login or a bind may take so long, seconds.
const LOGIN_S: u64 = 10;
/// Bytes that one read may take during login.
const READ_BYTES: usize = 16 << 10;
/// Most bytes between login and the last bind's answer: adverts, one for each name, as often as there are names.
const BIND_BYTES_MAX: usize = 16 << 20;

/// Where to log in, and as whom.
#[derive(Clone, Debug)]
pub(crate) struct Router {
    pub(crate) addr: SocketAddr,
    pub(crate) user: String,
    pub(crate) pass: String,
    /// The secret of XEP-0114 components.
    pub(crate) secret: String,
    /// Native components ask for redirects.
    pub(crate) redirects: bool,
}

/// What a component binds.
#[derive(Clone, Debug)]
pub(crate) enum Names {
    /// Its id, and a domain that it shares: an sm.
    Sm { id: String, domain: String },
    /// Its id alone: a c2s.
    C2s { id: String },
    /// An XEP-0114 component.
    Foreign { name: String },
}

impl Names {
    /// The name that frames for it are addressed to.
    pub(super) fn id(&self) -> &str {
        match self {
            Names::Sm { id, .. } | Names::C2s { id } => id,
            Names::Foreign { name } => name,
        }
    }
}

/// A component that is logged in.
#[derive(Debug)]
pub(crate) struct Component {
    pub(super) names: Names,
    pub(crate) stream: TcpStream,
    /// What was read and not understood yet: whole frames, or the beginning of one.
    pub(crate) unread: Vec<u8>,
}

impl Component {
    /// Logs in and binds.
    pub(crate) fn connect(router: &Router, names: Names) -> Result<Component, String> {
        let why = |e: std::io::Error| format!("{}: {e}: is a router listening there?", router.addr);
        let wait = Duration::from_secs(LOGIN_S);
        let stream = TcpStream::connect_timeout(&router.addr, wait).map_err(why)?;
        stream.set_nodelay(true).map_err(why)?;
        stream.set_read_timeout(Some(wait)).map_err(why)?;
        let mut component = Component {
            names,
            stream,
            unread: Vec::new(),
        };
        let mut scanner = component.login(router)?;
        for bind in component.binds(router.redirects) {
            component.send(bind.as_bytes())?;
            component.bound(&mut scanner, &bind)?;
        }
        let done = scanner.unfinished_start();
        component.unread.drain(..done);
        component.stream.set_nonblocking(true).map_err(why)?;
        Ok(component)
    }

    fn login(&mut self, router: &Router) -> Result<Scanner, String> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|e| format!("no randomness: {e}"))?;
        let mut rng = ChaCha20Rng::from_seed(seed);
        let mut connect = Connect::new(match &self.names {
            Names::Foreign { name } => Connecting::Foreign {
                name: name.clone(),
                secret: router.secret.clone(),
            },
            _ => Connecting::Native {
                user: router.user.clone(),
                pass: router.pass.clone(),
                starttls: false,
                hostname: "localhost".into(),
            },
        });
        let mut out = Vec::new();
        connect.start(&mut out);
        loop {
            self.send(&std::mem::take(&mut out))?;
            self.more("an answer to the login")?;
            match connect.feed(&mut self.unread, &mut out, &mut rng) {
                ConnectStep::Need => {}
                ConnectStep::Done(scanner) => return Ok(scanner),
                ConnectStep::Failed(why) => return Err(format!("the router refuses {}: {why}", self.names.id())),
                ConnectStep::StartTls => return Err("the router insists on TLS".into()),
            }
        }
    }

    fn binds(&self, redirects: bool) -> Vec<String> {
        let option = if redirects { "<redirect/>" } else { "" };
        let bind = |what: &str| format!("<bind xmlns='{NS_COMPONENT}' {what}>{option}</bind>");
        match &self.names {
            Names::Sm { id, domain } => vec![
                bind(&format!("name='{id}'")),
                bind(&format!("name='{domain}' multi='to'")),
            ],
            Names::C2s { id } => vec![bind(&format!("name='{id}'"))],
            Names::Foreign { .. } => Vec::new(),
        }
    }

    /// Awaits the answer to a bind; adverts that come before it are skipped.
    fn bound(&mut self, scanner: &mut Scanner, bind: &str) -> Result<(), String> {
        loop {
            match scanner.next(&self.unread).map_err(|e| e.text().to_owned())? {
                Some(Item::Frame { start, end }) => {
                    if let Ok(Frame::Bind(answer)) = header::read(&self.unread[start..end]) {
                        return match answer.error {
                            Some(_) => Err(format!("{bind} was refused: {}", excerpt(&self.unread[start..end]))),
                            None => Ok(()),
                        };
                    }
                }
                Some(_) => {}
                None if self.unread.len() > BIND_BYTES_MAX => return Err(format!("no answer to {bind}")),
                None => self.more("the answer to a bind")?,
            }
        }
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        let sent = self.stream.write_all(bytes);
        sent.map_err(|e| format!("writing to the router: {e}"))
    }

    fn more(&mut self, awaited: &str) -> Result<(), String> {
        let mut piece = [0; READ_BYTES];
        match self.stream.read(&mut piece) {
            Ok(0) => Err(format!("the router closed the connection while {awaited} was awaited")),
            Ok(n) => {
                self.unread.extend_from_slice(&piece[..n]);
                Ok(())
            }
            // A ring of this process that is being closed may do it.
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(e) => Err(format!("while {awaited} was awaited: {e}")),
        }
    }
}

/// A scanner that stands behind a stream's open tag.
pub(crate) fn scanner_in_stream() -> Scanner {
    let open = format!("<stream:stream xmlns:stream='{NS_STREAM}'>");
    let mut scanner = Scanner::new(LIMITS);
    if let Ok(Some(Item::Open { end, .. })) = scanner.next(open.as_bytes()) {
        scanner.consume(end);
    }
    scanner
}

/// The beginning of what came, for an error.
pub(super) fn excerpt(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(400)]).into_owned()
}
