//! The admin socket: a Unix socket for the machine's operators, one JSON object a line each way.
//!
//! `{"cmd":"status"}` is answered `{"ok":true,"status":{...}}`; so are `{"cmd":"where","jid":"..."}`,
//! `{"cmd":"selftest"}`, `{"cmd":"closed"}`, `{"cmd":"sample"}`, `{"cmd":"trace","jid":"..."}` and
//! `{"cmd":"drain","order":{"rate_per_s":20}}`, in a field of their own name; anything else `{"ok":false,"error":"..."}`.
//! Whoever may open the socket (mode 0660: owner and group) may ask.

use super::accept::{self, Acceptor, Deadline};
use super::closed::{self, ClosedLink};
use super::drain;
use super::gather::{NodeStatus, Reports};
use super::inquire::{self, Selftest};
use super::log::LogSender;
use super::sample::{self, Samples};
use super::trace::Lease;
use crate::node::cluster::DrainOrder;
use crate::node::report::WhereReport;
use crate::node::trace::{TraceAsk, TraceShare};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A longer request line is refused, bytes.
pub const MAX_REQUEST_BYTES: usize = 4_096;
/// A connection that completes no request for so long is closed, milliseconds.
pub const REQUEST_MS: u64 = 10_000;
/// An answer must be taken after so long, milliseconds.
const ANSWER_MS: u64 = 5_000;
/// Owner and group may ask.
const MODE: u32 = 0o660;
/// Mode of the socket's folder, when it has to be made.
const FOLDER_MODE: u32 = 0o755;

/// What a client may ask.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "cmd", rename_all = "lowercase")]
pub enum Request {
    /// The whole state of the node.
    Status,
    /// Where is this user?
    Where {
        /// Bare or full.
        jid: String,
    },
    /// Does every pair of members reach each other?
    Selftest,
    /// Which links ended lately, and why?
    Closed,
    /// Go out of service so; without an order, come back.
    Drain {
        /// How.
        #[serde(default)]
        order: Option<DrainOrder>,
    },
    /// Follow these stanzas as long as this connection stands, and tell what happened since the last question.
    Trace(TraceAsk),
    /// Take samples of all frames for the next seconds, and tell what they came to of late.
    Sample,
    /// Give everything to this process, and end.
    Takeover(TakeOver),
}

/// Who wants to take over.
#[derive(Debug, Serialize, Deserialize)]
pub struct TakeOver {
    /// The form of the images that it reads.
    pub version: u32,
    /// What it will call itself: its questions to components come from this name.
    pub own: String,
    /// Its node and cluster, with `<mesh>`.
    #[serde(default)]
    pub mesh: Option<String>,
    /// The stock router that it is attached to, with `<uplink>`.
    #[serde(default)]
    pub uplink: Option<String>,
    /// Its process, for the log.
    pub pid: u32,
}

#[derive(Serialize, Default)]
struct Answer<'a> {
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'a NodeStatus>,
    #[serde(rename = "where", skip_serializing_if = "Option::is_none")]
    place: Option<WhereReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    selftest: Option<Selftest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    closed: Option<Vec<ClosedLink>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    drain: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace: Option<TraceShare>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sample: Option<Samples>,
}

pub(super) fn start(path: &Path, reports: Arc<Reports>, log: LogSender) -> io::Result<(Acceptor, SocketFile)> {
    let (listener, file) = SocketFile::bind(path)?;
    let refuse = |mut stream: UnixStream| {
        let _ = Deadline::after(1).write_all(&mut stream, &refusal("too many connections".into()));
    };
    let acceptor = accept::start(
        "jidmesh-admin",
        listener,
        log,
        move |stream| serve(stream, &reports),
        refuse,
    )?;
    Ok((acceptor, file))
}

/// What an operator can do about a socket that cannot be made, as the end of a line.
pub(super) fn advice(why: &io::Error) -> &'static str {
    match why.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound | io::ErrorKind::ReadOnlyFilesystem => {
            "; `jidmesh status` cannot work: make the folder for this user (RuntimeDirectory= in a systemd unit), or \
             name another place in <admin> or with --admin"
        }
        _ => "",
    }
}

/// The socket's name in the file system, which goes away with this.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode: a successor may have put its own socket there.
    identity: (u64, u64),
}

impl SocketFile {
    /// Listens at `path`. A socket that nobody listens on any more is replaced; anything else there is left alone.
    fn bind(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
        make_folder(path)?;
        must_be_free(path)?;
        // Bound beside, made accessible, then moved: nobody ever sees it with other rights, and a stale one is replaced at once.
        let beside = PathBuf::from(format!("{}.new", path.display()));
        let _ = fs::remove_file(&beside);
        let listener = UnixListener::bind(&beside)?;
        let moved =
            fs::set_permissions(&beside, fs::Permissions::from_mode(MODE)).and_then(|()| fs::rename(&beside, path));
        if let Err(e) = moved {
            let _ = fs::remove_file(&beside);
            return Err(e);
        }
        let identity = identity(path)?;
        Ok((
            listener,
            SocketFile {
                path: path.to_owned(),
                identity,
            },
        ))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|found| found == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|m| (m.dev(), m.ino()))
}

/// Makes the socket's own folder (`/run/jidmesh` after a boot), but not the folders above it.
fn make_folder(path: &Path) -> io::Result<()> {
    let Some(folder) = path.parent().filter(|f| !f.as_os_str().is_empty()) else {
        return Ok(());
    };
    match fs::DirBuilder::new().mode(FOLDER_MODE).create(folder) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(io::Error::new(
            e.kind(),
            format!("cannot make its folder {}: {e}", folder.display()),
        )),
        _ => Ok(()),
    }
}

fn must_be_free(path: &Path) -> io::Result<()> {
    let taken = |why: &str| Err(io::Error::new(io::ErrorKind::AddrInUse, why.to_owned()));
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
        Ok(found) if !found.file_type().is_socket() => taken("something that is no socket is in its place"),
        Ok(_) => match UnixStream::connect(path) {
            Err(e) if matches!(e.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => Ok(()),
            Err(e) => Err(e),
            Ok(_) => taken("another process listens on it"),
        },
    }
}

/// Answers one connection's requests until it ends, or misbehaves.
fn serve(mut stream: UnixStream, reports: &Reports) {
    let mut waiting: Vec<u8> = Vec::new();
    let mut piece = [0; 1024];
    let mut deadline = Deadline::after(REQUEST_MS);
    let mut lease = Lease::new(reports);
    loop {
        while let Some(end) = memchr::memchr(b'\n', &waiting) {
            if let Ok(Request::Takeover(ask)) = serde_json::from_slice(&waiting[..end]) {
                return reports.hand_over(stream, &ask);
            }
            let answer = answer(&waiting[..end], reports, &mut lease);
            waiting.drain(..=end);
            if Deadline::after(ANSWER_MS).write_all(&mut stream, &answer).is_err() {
                return;
            }
            deadline = Deadline::after(REQUEST_MS);
        }
        if waiting.len() > MAX_REQUEST_BYTES {
            let text = format!("a request is one line of at most {MAX_REQUEST_BYTES} bytes");
            let _ = Deadline::after(ANSWER_MS).write_all(&mut stream, &refusal(text));
            return;
        }
        match deadline.read(&mut stream, &mut piece) {
            Ok(n) if n > 0 => waiting.extend_from_slice(&piece[..n]),
            _ => return,
        }
    }
}

fn answer(line: &[u8], reports: &Reports, lease: &mut Lease<'_>) -> Vec<u8> {
    match serde_json::from_slice(line) {
        Ok(Request::Status) => encode(&Answer {
            ok: true,
            status: Some(&reports.get().status),
            ..Answer::default()
        }),
        Ok(Request::Where { jid }) => match inquire::place(reports, &jid) {
            Ok(place) => encode(&Answer {
                ok: true,
                place: Some(place),
                ..Answer::default()
            }),
            Err(why) => refusal(why),
        },
        Ok(Request::Selftest) => encode(&Answer {
            ok: true,
            selftest: Some(inquire::selftest(reports)),
            ..Answer::default()
        }),
        Ok(Request::Takeover(_)) => refusal("a take-over is the first line of its connection".into()),
        Ok(Request::Drain { order }) => match drain::order(reports, order) {
            Ok(said) => encode(&Answer {
                ok: true,
                drain: Some(said),
                ..Answer::default()
            }),
            Err(why) => refusal(why),
        },
        Ok(Request::Trace(ask)) => match lease.renew(ask) {
            Ok(share) => encode(&Answer {
                ok: true,
                trace: Some(share),
                ..Answer::default()
            }),
            Err(why) => refusal(why),
        },
        Ok(Request::Sample) => encode(&Answer {
            ok: true,
            sample: Some(sample::samples(reports)),
            ..Answer::default()
        }),
        Ok(Request::Closed) => encode(&Answer {
            ok: true,
            closed: Some(closed::closed(reports)),
            ..Answer::default()
        }),
        Err(e) => refusal(format!("not understood: {e}; what works: {{\"cmd\":\"status\"}}")),
    }
}

fn refusal(text: String) -> Vec<u8> {
    encode(&Answer {
        ok: false,
        error: Some(text),
        ..Answer::default()
    })
}

fn encode(answer: &Answer<'_>) -> Vec<u8> {
    // Serialising plain structs into memory cannot fail; if it ever did, the client would be told by an empty line.
    let mut bytes = serde_json::to_vec(answer).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}
