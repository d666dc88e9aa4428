//! What was understood, in plain lines for the operator; no secret in clear.

use std::fmt::Write;

use super::*;

impl Config {
    /// The settings in plain lines, `what: how`; the last one is the digest.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        let mut line = |what: &str, how: String| {
            let _ = writeln!(text, "  {what}: {how}");
        };
        line("router", self.id.clone());
        line("listens on", list(&self.local));
        line(
            "users",
            format!(
                "{}{}",
                self.users.len(),
                self.default_note(self.users.values().any(|s| s == DEFAULT_SECRET))
            ),
        );
        line("rights", self.rights());
        line(
            "XEP-0114 components",
            match &self.secret {
                Some(_) => format!("accepted{}", self.default_note(self.is_default_secret(None))),
                None => "refused (no <local><secret>)".to_owned(),
            },
        );
        line(
            "TLS",
            match &self.pemfile {
                Some(path) => format!("offered, with {}", path.display()),
                None => "not offered (no <local><pemfile>)".to_owned(),
            },
        );
        line(
            "log",
            match &self.log {
                LogTarget::Syslog { ident, facility } => {
                    format!("syslog, as {ident}, facility local{}", facility.saturating_sub(16))
                }
                LogTarget::File(path) => path.display().to_string(),
                LogTarget::Stdout => "standard output".to_owned(),
            },
        );
        line(
            "process id",
            self.pidfile
                .as_ref()
                .map_or("not written".to_owned(), |path| path.display().to_string()),
        );
        line(
            "keepalive",
            match self.check {
                Check { interval_s: 0, .. } | Check { keepalive_s: 0, .. } => "none".to_owned(),
                Check {
                    interval_s,
                    keepalive_s,
                } => format!("after {keepalive_s} s without traffic, looked at every {interval_s} s"),
            },
        );
        line("limits", self.limits());
        line("access", self.access());
        line("aliases", self.aliases.len().to_string());
        line("filter rules", self.filter.rules.len().to_string());
        line(
            "message log",
            self.message_log
                .as_ref()
                .map_or("none".to_owned(), |path| path.display().to_string()),
        );
        line("grace for a lost component link", format!("{} s", self.grace_ms / 1000));
        let Queues {
            link_bytes,
            held_bytes,
            peer_bytes,
        } = self.queues;
        let queues = [link_bytes >> 20, held_bytes >> 20, peer_bytes >> 20];
        line(
            "queues",
            format!(
                "{} MiB a link, {} MiB held frames, {} MiB a peer",
                queues[0], queues[1], queues[2]
            ),
        );
        describe_tuning(&self.tuning)
            .into_iter()
            .for_each(|(what, how)| line(what, how));
        match &self.mesh {
            None => line("mesh", "none: a router for this machine alone".to_owned()),
            Some(mesh) => describe_mesh(mesh).into_iter().for_each(|(what, how)| line(what, how)),
        }
        line(
            "uplink",
            match &self.uplink {
                Some(uplink) => format!("attached to the router at {}, as {}", uplink.addr, uplink.user),
                None => "none: takes the router's place".to_owned(),
            },
        );
        line(
            "admin socket",
            match &self.admin {
                Some(path) => path.display().to_string(),
                None => format!("{ADMIN_DEFAULT}, if it can be made"),
            },
        );
        line(
            "metrics",
            self.metrics
                .map_or("not served".to_owned(), |addr| format!("http://{addr}/metrics")),
        );
        line("digest, to compare machines", self.digest());
        text
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
fn describe_tuning(tuning: &Tuning) -> Vec<(&'static str, String)> {
    let basis = match (tuning.profile.as_str(), tuning.basis) {
        ("auto", _) => "",
        (_, Basis::Measured) => " (measured)",
        (_, Basis::Reasoned) => " (reasoned, not measured)",
    };
    let shards = match tuning.shards {
        Shards::Auto => "auto".to_owned(),
        Shards::Count(count) => count.to_string(),
    };
    let cpus = match &tuning.cpus {
        Cpus::All => "any CPU".to_owned(),
        Cpus::List(list) => format!(
            "CPUs {}",
            list.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
        ),
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
        ("shards", format!("{shards}, pinned to {cpus}, served by {driver}")),
        (
            "reading",
            format!("{read} KiB a link, {turn} KiB a turn, pauses of {} us", tuning.pause_us),
        ),
    ]
}

/// What a node says of its mesh: (what, how).
fn describe_mesh(mesh: &Mesh) -> Vec<(&'static str, String)> {
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
