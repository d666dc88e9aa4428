//! What was understood, in plain lines for the operator; no secret in clear.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use super::*;

/// What, and how.
type Line = (&'static str, String);

impl Config {
    /// The settings in plain lines, `what: how`; the last one is the digest.
    pub fn describe(&self) -> String {
        let mut lines = self.who_may_come();
        lines.extend(self.where_lines_go());
        lines.extend(self.what_is_limited());
        lines.extend(describe_tuning(&self.tuning));
        lines.extend(self.beyond_this_machine());
        lines.extend(self.for_the_operator());
        let mut text = String::new();
        for (what, how) in lines {
            let _ = writeln!(text, "  {what}: {how}");
        }
        text
    }

    fn who_may_come(&self) -> Vec<Line> {
        let well_known = self.users.values().any(|secret| secret == DEFAULT_SECRET);
        let external = match &self.secret {
            Some(_) => format!("accepted{}", self.default_note(self.is_default_secret(None))),
            None => "refused (no <local><secret>)".to_owned(),
        };
        let tls = match &self.pemfile {
            Some(path) => format!("offered, with {}", path.display()),
            None => "not offered (no <local><pemfile>)".to_owned(),
        };
        vec![
            ("router", self.id.clone()),
            ("listens on", list(&self.local)),
            (
                "users",
                format!("{}{}", self.users.len(), self.default_note(well_known)),
            ),
            ("rights", self.rights()),
            ("XEP-0114 components", external),
            ("TLS", tls),
        ]
    }

    fn where_lines_go(&self) -> Vec<Line> {
        let log = match &self.log {
            LogTarget::Syslog { ident, facility } => {
                format!("syslog, as {ident}, facility local{}", facility.saturating_sub(16))
            }
            LogTarget::File(path) => path.display().to_string(),
            LogTarget::Stdout => "standard output".to_owned(),
        };
        vec![("log", log), ("process id", path_or(&self.pidfile, "not written"))]
    }

    fn what_is_limited(&self) -> Vec<Line> {
        let keepalive = match self.check {
            Check { interval_s: 0, .. } | Check { keepalive_s: 0, .. } => "none".to_owned(),
            Check {
                interval_s,
                keepalive_s,
            } => format!("after {keepalive_s} s without traffic, looked at every {interval_s} s"),
        };
        let Queues {
            link_bytes,
            held_bytes,
            peer_bytes,
        } = self.queues;
        let [link, held, peer] = [link_bytes, held_bytes, peer_bytes].map(|bytes| bytes >> 20);
        vec![
            ("keepalive", keepalive),
            ("limits", self.limits()),
            ("access", self.access()),
            ("aliases", self.aliases.len().to_string()),
            ("filter rules", self.filter.rules.len().to_string()),
            ("message log", path_or(&self.message_log, "none")),
            ("grace for a lost component link", format!("{} s", self.grace_ms / 1000)),
            (
                "queues",
                format!("{link} MiB a link, {held} MiB held frames, {peer} MiB a peer"),
            ),
        ]
    }

    fn beyond_this_machine(&self) -> Vec<Line> {
        let mut lines = match &self.mesh {
            None => vec![("mesh", "none: a router for this machine alone".to_owned())],
            Some(mesh) => describe_mesh(mesh),
        };
        let uplink = match &self.uplink {
            Some(uplink) => {
                let tls = uplink.certificate.as_ref().map_or("", |_| ", with TLS");
                format!("attached to the router at {}, as {}{tls}", uplink.addr, uplink.user)
            }
            None => "none: takes the router's place".to_owned(),
        };
        lines.push(("uplink", uplink));
        lines
    }

    fn for_the_operator(&self) -> Vec<Line> {
        let page = if self.page {
            "; the page for browsers there, too"
        } else {
            ""
        };
        let metrics = self.metrics.map(|addr| format!("http://{addr}/metrics{page}"));
        let admin = format!("{ADMIN_DEFAULT}, if it can be made");
        vec![
            ("admin socket", path_or(&self.admin, &admin)),
            ("sessions for a start after a crash", self.recovery_note()),
            ("metrics", metrics.unwrap_or_else(|| "not served".to_owned())),
            ("digest, to compare machines", self.digest()),
        ]
    }

    fn recovery_note(&self) -> String {
        let admin = self.admin.as_deref().unwrap_or(Path::new(ADMIN_DEFAULT));
        match self.recovery.file(admin) {
            _ if self.mesh.is_some() => "not written with <mesh>".into(),
            _ if self.uplink.is_some() => "not written in attached mode".into(),
            Some(file) => file.display().to_string(),
            None => "not written".into(),
        }
    }

    fn default_note(&self, default: bool) -> &'static str {
        match (default, self.default_secret_allowed) {
            (false, _) => "",
            (true, false) => " (Debian's well-known secret: from loopback addresses only)",
            (true, true) => " (Debian's well-known secret, allowed from everywhere)",
        }
    }

    fn rights(&self) -> String {
        let acl = &self.acl;
        let rights = [
            ("all", &acl.all),
            ("bind", &acl.bind),
            ("default-route", &acl.default_route),
            ("log", &acl.log),
        ];
        let some = rights.iter().filter(|(_, users)| !users.is_empty());
        let text: Vec<String> = some
            .map(|(right, users)| format!("{right} for {}", list(users)))
            .collect();
        if text.is_empty() {
            "every user binds its own name only".to_owned()
        } else {
            text.join("; ")
        }
    }

    fn limits(&self) -> String {
        let rate = |rate: Option<Rate>, what: &str| match rate {
            Some(Rate {
                amount,
                per_s,
                throttle_s,
            }) => format!(", {amount} {what} in {per_s} s (then {throttle_s} s pause)"),
            None => String::new(),
        };
        let (bytes, connects) = (
            rate(self.io.bytes, "bytes a component"),
            rate(self.io.connects, "connects an address"),
        );
        let (fds, frame, auth) = (self.io.max_fds, self.frame_bytes_max, self.auth_ms / 1000);
        format!("{fds} file descriptors, frames of {frame} bytes, {auth} s for a handshake{bytes}{connects}")
    }

    fn access(&self) -> String {
        let Access { order, allow, deny } = &self.io.access;
        let others = match order {
            Order::AllowDeny => "others may connect",
            Order::DenyAllow => "others may not connect",
        };
        format!("{} allowed, {} denied, {others}", allow.len(), deny.len())
    }
}

/// `<tuning>`, one line for each thing.
fn describe_tuning(tuning: &Tuning) -> Vec<Line> {
    let basis = match (tuning.profile.as_str(), tuning.basis) {
        ("auto", _) => "",
        (_, Basis::Measured) => " (measured)",
        (_, Basis::Reasoned) => " (reasoned, not measured)",
    };
    let cpus = match &tuning.cpus {
        Cpus::All => "any CPU".to_owned(),
        Cpus::List(list) => format!("CPUs {}", cpu_text(list)),
        Cpus::Numa(node) => format!("the CPUs of NUMA node {node}"),
    };
    let driver = match tuning.driver {
        DriverKind::Readiness => "readiness",
        DriverKind::Ring => "the completion ring",
        DriverKind::Auto => "the completion ring where the kernel has it",
    };
    let (read, turn) = (tuning.read_bytes >> 10, tuning.turn_bytes >> 10);
    vec![
        ("tuning", format!("{}{basis}", tuning.profile)),
        (
            "shards",
            format!("{}, pinned to {cpus}, served by {driver}", tuning.shards),
        ),
        (
            "reading",
            format!("{read} KiB a link, {turn} KiB a turn, pauses of {} us", tuning.pause_us),
        ),
    ]
}

/// What a node says of its mesh: (what, how).
fn describe_mesh(mesh: &Mesh) -> Vec<Line> {
    let peers = mesh.peers.iter().map(|peer| format!("{}:{}", peer.host, peer.port));
    let peers: Vec<String> = peers.collect();
    let peers = if peers.is_empty() {
        "none configured: a mesh of one, until another node dials this one".to_owned()
    } else {
        format!("dials {}", list(&peers))
    };
    let named = |all: Vec<String>, none: &str| if all.is_empty() { none.to_owned() } else { list(&all) };
    let placement = mesh.domains.iter().map(|(name, placement)| match placement {
        Placement::Near => format!("{name} near"),
        Placement::Spread => format!("{name} spread"),
    });
    let pins = mesh
        .exit_pins
        .iter()
        .map(|(domain, node)| format!("{domain} by {node}"));
    let plain = if mesh.plain_allowed {
        ", and PLAIN to peers that allow it too"
    } else {
        ""
    };
    let exits = match mesh.exits {
        ExitPolicy::First => "the first node that needs one",
        ExitPolicy::Nearest => "the nearest node",
    };
    vec![
        ("mesh node", mesh.node.clone()),
        ("mesh cluster", mesh.cluster.clone()),
        ("mesh port", format!("listens on {}", list(&mesh.local))),
        ("mesh peers", peers),
        (
            "mesh secrets",
            format!("{}, the first seals and all are accepted{plain}", mesh.secrets.len()),
        ),
        (
            "mesh placement",
            named(placement.collect(), "near, for every domain that sm share"),
        ),
        (
            "mesh exits",
            format!("{exits}; pinned: {}", named(pins.collect(), "none")),
        ),
    ]
}

fn list<T: ToString>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

fn path_or(path: &Option<PathBuf>, none: &str) -> String {
    path.as_ref()
        .map_or_else(|| none.to_owned(), |path| path.display().to_string())
}
