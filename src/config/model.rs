//! The settings, as types.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::{Access, Acl, Filter, Problem, Tuning};

/// Debian's well-known secret, of its users file and of `<local><secret>`.
pub const DEFAULT_SECRET: &str = "secret";
/// Port of the component protocol.
pub const PORT_DEFAULT: u16 = 5347;
/// Port of the mesh.
pub const MESH_PORT_DEFAULT: u16 = 5348;
/// The cluster's name when `<cluster>` does not say.
pub const CLUSTER_DEFAULT: &str = "jidmesh";
/// Where the admin socket is made when `<admin>` does not say (a failure to make it is a warning only).
pub const ADMIN_DEFAULT: &str = "/run/jidmesh/admin.sock";
/// Longest frame when `<io><limits><frame>` does not say, bytes.
pub const FRAME_BYTES_DEFAULT: usize = 10 * 1024 * 1024;
/// How long an unfinished handshake may take when `<auth-time>` does not say, milliseconds: a component needs a few
/// round trips, and a busy machine at boot may be slow.
pub const AUTH_MS_DEFAULT: u64 = 10_000;
/// How long a lost component link is waited for when `<grace>` does not say, milliseconds.
pub const GRACE_MS_DEFAULT: u64 = 9_000;

/// What [`Config::load`] read.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// What the operator should look at.
    pub warnings: Vec<Problem>,
}

/// Everything the configuration says.
#[derive(Clone, PartialEq)]
pub struct Config {
    /// `<id>`: the router's name (default `router`).
    pub id: String,
    /// `<pidfile>`.
    pub pidfile: Option<PathBuf>,
    /// `<log>`.
    pub log: LogTarget,
    /// `<log><level>`: what is less grave is not logged.
    pub log_level: LogLevel,
    /// `<local><ip>` (repeatable) and `<port>`: where components connect.
    pub local: Vec<SocketAddr>,
    /// The users file: SASL users and their secrets.
    pub users: HashMap<String, String>,
    /// `<local><secret>`: for the XEP-0114 handshake; without it XEP-0114 components are refused.
    pub secret: Option<String>,
    /// `<local><pemfile>`: certificate chain and key; without it STARTTLS is not offered.
    pub pemfile: Option<PathBuf>,
    /// `<local><private_key_password>`: of the key in `<pemfile>`, if it is encrypted.
    pub private_key_password: Option<Secret>,
    /// `<local><ciphers>`: of TLS 1.2, in OpenSSL's notation (see [`ciphers`](super::ciphers)).
    pub ciphers: Option<String>,
    /// `<check>`.
    pub check: Check,
    /// `<io>`.
    pub io: Io,
    /// `<aliases>`: (name, target), both prepared.
    pub aliases: Vec<(String, String)>,
    /// `<aci><acl>`.
    pub acl: Acl,
    /// The rules of `<aci><filter>`.
    pub filter: Filter,
    /// `<message_logging>`, when enabled: the file.
    pub message_log: Option<PathBuf>,
    /// `<mesh>`; without it jidmesh is a plain router.
    pub mesh: Option<Mesh>,
    /// `<grace>`: how long a lost component link is waited for, milliseconds.
    pub grace_ms: u64,
    /// `<queues>`.
    pub queues: Queues,
    /// `<uplink>`: attached mode.
    pub uplink: Option<Uplink>,
    /// `<tuning>`.
    pub tuning: Tuning,
    /// `<admin>`: the admin socket; `None`: [`ADMIN_DEFAULT`] is tried.
    pub admin: Option<PathBuf>,
    /// `<recovery>`: where sessions are written down for a start after a crash.
    pub recovery: Recovery,
    /// `<metrics>`: where metrics are served over HTTP.
    pub metrics: Option<SocketAddr>,
    /// `<metrics><page/>`: the page for browsers is served there, too.
    pub page: bool,
    /// `<io><limits><frame>`: longest frame, bytes.
    pub frame_bytes_max: usize,
    /// `<auth-time>`: how long a handshake may take, milliseconds.
    pub auth_ms: u64,
    /// `<default-secret allow='yes'/>`: Debian's well-known secret is good from other addresses than loopback too.
    pub default_secret_allowed: bool,
}

/// Where sessions are written down for a start after a crash.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Recovery {
    /// Beside the admin socket, and named after it: several routers may have their sockets in one folder.
    #[default]
    BesideAdmin,
    /// This file.
    At(PathBuf),
    /// Nowhere.
    Off,
}

impl Recovery {
    /// The file, when the admin socket is there.
    pub fn file(&self, admin: &Path) -> Option<PathBuf> {
        match self {
            Recovery::BesideAdmin => Some(admin.with_extension("recovery")),
            Recovery::At(path) => Some(path.clone()),
            Recovery::Off => None,
        }
    }
}

/// Secrets stay out of logs.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut it = f.debug_struct("Config");
        it.field("id", &self.id)
            .field("local", &self.local)
            .field("digest", &self.digest())
            .finish_non_exhaustive()
    }
}

impl Config {
    /// The settings without any file: loopback only, port 5347, user `jabberd` with secret `secret`, who may do
    /// everything, the same secret for XEP-0114, log to standard output, no pid file.
    pub fn embedded() -> Config {
        Config {
            local: vec![
                SocketAddr::from(([127, 0, 0, 1], PORT_DEFAULT)),
                SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, PORT_DEFAULT)),
            ],
            users: HashMap::from([("jabberd".to_owned(), DEFAULT_SECRET.to_owned())]),
            secret: Some(DEFAULT_SECRET.to_owned()),
            acl: Acl {
                all: vec!["jabberd".to_owned()],
                ..Acl::default()
            },
            ..Config::default()
        }
    }

    /// What somebody who runs the embedded settings wants to know next.
    pub fn how_to_connect(&self) -> String {
        let (Some(local), Some((user, secret))) = (self.local.first(), self.users.iter().next()) else {
            return String::new();
        };
        let (ip, port) = (local.ip(), local.port());
        format!(
            "No configuration file: listening on {ip} port {port}, for this machine only.\n\
             A component (c2s, sm, s2s) connects with\n    \
             <router><ip>{ip}</ip><port>{port}</port><user>{user}</user><pass>{secret}</pass></router>\n\
             in its own configuration, as in Debian's files; a XEP-0114 component with the secret '{secret}'.\n\
             With your own files: jidmesh run -c /etc/jabberd2/router.xml\n"
        )
    }

    /// Whether this user (`None`: the XEP-0114 handshake) has Debian's well-known secret. A component that uses it
    /// from another machine is to be refused, unless `default_secret_allowed`.
    pub fn is_default_secret(&self, user: Option<&str>) -> bool {
        let secret = match user {
            Some(user) => self.users.get(user),
            None => self.secret.as_ref(),
        };
        secret.is_some_and(|secret| secret == DEFAULT_SECRET)
    }
}

/// What holds when a file says nothing; nobody may enter.
impl Default for Config {
    fn default() -> Config {
        Config {
            id: "router".to_owned(),
            pidfile: None,
            log: LogTarget::Stdout,
            log_level: LogLevel::default(),
            local: vec![SocketAddr::from(([0, 0, 0, 0], PORT_DEFAULT))],
            users: HashMap::new(),
            secret: None,
            pemfile: None,
            private_key_password: None,
            ciphers: None,
            check: Check::default(),
            io: Io::default(),
            aliases: Vec::new(),
            acl: Acl::default(),
            filter: Filter::default(),
            message_log: None,
            mesh: None,
            grace_ms: GRACE_MS_DEFAULT,
            queues: Queues::default(),
            uplink: None,
            tuning: Tuning::default(),
            admin: None,
            recovery: Recovery::BesideAdmin,
            metrics: None,
            page: false,
            frame_bytes_max: FRAME_BYTES_DEFAULT,
            auth_ms: AUTH_MS_DEFAULT,
            default_secret_allowed: false,
        }
    }
}

/// A secret: not shown by `{:?}`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Where the log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// `<log type='syslog'>`.
    Syslog {
        /// `<ident>` (default `jabberd/router`).
        ident: String,
        /// `<facility>`: syslog's number, not shifted: local0 is 16, up to local7 (default local3).
        facility: u8,
    },
    /// `<log type='file'>`.
    File(PathBuf),
    /// `<log type='stdout'>`.
    Stdout,
}

/// How grave a line must be to be logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LogLevel {
    /// What is lost or refused that should not be.
    Error,
    /// And what the operator should look at.
    Warning,
    /// And what happens in a healthy life.
    Notice,
    /// Everything.
    #[default]
    Info,
}

/// `<check>`: keepalives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Check {
    /// Seconds between two checks; 0: none.
    pub interval_s: u32,
    /// A link idle for longer is sent a space, seconds; 0: none.
    pub keepalive_s: u32,
}

impl Default for Check {
    fn default() -> Check {
        Check {
            interval_s: 60,
            keepalive_s: 0,
        }
    }
}

/// `<io>`: limits of the component port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Io {
    /// File descriptors of the process.
    pub max_fds: u32,
    /// Bytes read from one component; `None`: no limit.
    pub bytes: Option<Rate>,
    /// Connects from one address; `None`: no limit.
    pub connects: Option<Rate>,
    /// Who may connect.
    pub access: Access,
}

impl Default for Io {
    fn default() -> Io {
        Io {
            max_fds: 1024,
            bytes: None,
            connects: None,
            access: Access::default(),
        }
    }
}

/// More than `amount` within `per_s` seconds: nothing more for `throttle_s` seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Bytes or connects; never 0.
    pub amount: u64,
    /// Seconds.
    pub per_s: u32,
    /// Seconds.
    pub throttle_s: u32,
}

/// `<queues>`: bounds, bytes (the file says MiB).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queues {
    /// Waiting for one component link.
    pub link_bytes: u64,
    /// Held frames, all together.
    pub held_bytes: u64,
    /// Waiting for one peer.
    pub peer_bytes: u64,
}

impl Default for Queues {
    fn default() -> Queues {
        Queues {
            link_bytes: 64 << 20,
            held_bytes: 64 << 20,
            peer_bytes: 256 << 20,
        }
    }
}

/// `<mesh>`: this node and its peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mesh {
    /// `<node>`: this machine's DNS name, prepared (default: its host name).
    pub node: String,
    /// `<local>`: where peers connect.
    pub local: Vec<SocketAddr>,
    /// `<cluster>`: the cluster's name, the same on all nodes for the cluster's life (default [`CLUSTER_DEFAULT`]).
    /// The hash on which the nodes agree is keyed with it.
    pub cluster: String,
    /// `<secret>`: the first one seals, all are accepted; never empty.
    pub secrets: Vec<Secret>,
    /// `<plain allow='yes'/>`: what goes to a peer that allows it too is authenticated when it connects, but not
    /// encrypted.
    pub plain_allowed: bool,
    /// `<peer>`: members to dial.
    pub peers: Vec<Peer>,
    /// `<domain>`: clustered domains and their placement; empty: every name bound with `multi='to'`, near.
    pub domains: Vec<(String, Placement)>,
    /// `<exit>`: external domains pinned to a node's s2s: (domain, node).
    pub exit_pins: Vec<(String, String)>,
    /// `<exits policy=''/>`.
    pub exits: ExitPolicy,
    /// `<name policy=''>`: how a name that is bound on several nodes is shared.
    pub names: Vec<(String, NamePolicy)>,
}

/// A member to dial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// DNS name or IP address.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// Which sm serves the first session of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Placement {
    /// One of the machine where the client connected.
    #[default]
    Near,
    /// One of all, by hash.
    Spread,
}

/// Which node's s2s dials an external domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ExitPolicy {
    /// The first that needs it.
    #[default]
    First,
    /// The sender's own.
    Nearest,
}

/// Who gets the frames of a name that several nodes hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum NamePolicy {
    /// One holder is active, the others stand by.
    #[default]
    Active,
    /// Chosen by hash of the sender.
    From,
    /// Chosen by hash of the addressee.
    To,
}

/// `<uplink>`: the jabberd2 router to attach to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// Its address.
    pub addr: SocketAddr,
    /// SASL user.
    pub user: String,
    /// Its secret.
    pub pass: Secret,
    /// The certificate that it must show: the connections are encrypted, or there are none.
    pub certificate: Option<PathBuf>,
}
