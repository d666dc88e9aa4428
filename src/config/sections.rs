//! The sections of `router.xml` that jabberd2 knows, and the small ones of jidmesh.

use std::path::PathBuf;

use super::access::{Access, Network, Order};
use super::model::*;
use super::pem::decrypt_key;
use super::read::{Cx, excerpt};
use super::tree::Node;
use super::tuning::{self, Elsewhere};
use super::{ciphers, mesh};
use crate::jid;

/// Where a file that belongs to the configuration is named.
#[derive(Debug)]
pub(super) struct Named {
    pub(super) path: PathBuf,
    /// Line where it is named; 0: it is the default, and may be missing.
    pub(super) line: u32,
}

/// What `router.xml` says, and what else is to be read.
#[derive(Debug)]
pub(super) struct Router {
    pub(super) config: Config,
    pub(super) users: Named,
    pub(super) filter: Named,
    /// Lines of `<local><secret>` and of what makes the router listen beyond this machine; 0 if absent.
    pub(super) secret_line: u32,
    pub(super) ip_line: u32,
}

const SECTIONS: [&str; 18] = [
    "id",
    "pidfile",
    "log",
    "local",
    "check",
    "io",
    "aliases",
    "aci",
    "message_logging",
    "mesh",
    "grace",
    "queues",
    "uplink",
    "tuning",
    "admin",
    "recovery",
    "metrics",
    "auth-time",
];

pub(super) fn router(cx: &mut Cx<'_>, root: &Node, host_name: &str) -> Router {
    let known: Vec<&str> = SECTIONS.iter().copied().chain(["default-secret"]).collect();
    cx.known(root, &known, &[]);
    let mut config = Config::default();
    if let Some(id) = cx.one(root, "id")
        && let Some(text) = cx.text(id)
    {
        config.id = cx.domain(id, &text).unwrap_or(config.id);
    }
    cx.id.clone_from(&config.id);
    config.pidfile = cx.path_of(root, "pidfile");
    config.log = log(cx, root);
    config.log_level = log_level(cx, root);
    let mut router = local(cx, root, config);
    let config = &mut router.config;
    if let Some(check) = cx.one(root, "check") {
        cx.known(check, &["interval", "keepalive"], &[]);
        config.check.interval_s = cx.number_of(check, "interval", 0..=86_400, "whole seconds (0: no checks)", 60);
        config.check.keepalive_s = cx.number_of(check, "keepalive", 0..=86_400, "whole seconds (0: none)", 0);
    }
    io(cx, root, config);
    aliases(cx, root, config);
    if let Some(named) = aci(cx, root, config) {
        router.filter = named;
    }
    message_logging(cx, root, config);
    config.mesh = mesh::mesh(cx, root, host_name);
    config.uplink = mesh::uplink(cx, root, &config.local);
    own(cx, root, config);
    router
}

fn log_level(cx: &mut Cx<'_>, root: &Node) -> LogLevel {
    let level = cx.one(root, "log").and_then(|log| cx.one(log, "level"));
    let chosen = level.and_then(|node| {
        let text = cx.text(node)?;
        let levels = [
            ("error", LogLevel::Error),
            ("warning", LogLevel::Warning),
            ("notice", LogLevel::Notice),
            ("info", LogLevel::Info),
        ];
        cx.choice(node, &text, &levels)
    });
    chosen.unwrap_or_default()
}

fn log(cx: &mut Cx<'_>, root: &Node) -> LogTarget {
    let syslog = |ident: Option<String>, facility| LogTarget::Syslog {
        ident: ident.unwrap_or_else(|| "jabberd/router".to_owned()),
        facility,
    };
    let Some(log) = cx.one(root, "log") else {
        return syslog(None, FACILITY_DEFAULT);
    };
    cx.known(log, &["ident", "facility", "file", "debug", "level"], &["type"]);
    let facility = cx.one(log, "facility").and_then(|node| {
        let text = cx.text(node)?;
        cx.choice(node, &text, &FACILITIES)
    });
    let (ident, file) = (cx.text_of(log, "ident"), cx.path_of(log, "file"));
    if let Some(debug) = cx.one(log, "debug") {
        cx.warning(
            debug.line,
            "<debug> has no effect, as in a jabberd2-router that was built without debugging (Debian's)",
        );
    }
    match log.attr("type").unwrap_or("syslog") {
        "syslog" => syslog(ident, facility.unwrap_or(FACILITY_DEFAULT)),
        "stdout" => LogTarget::Stdout,
        "file" => {
            if file.is_none() {
                let example = "<file>/var/log/jabberd2/router.log</file>";
                cx.error(
                    log.line,
                    format!("<log type='file'> without <file>; add one, for example {example}"),
                );
            }
            file.map_or(LogTarget::Stdout, LogTarget::File)
        }
        other => {
            let other = excerpt(other);
            cx.error(
                log.line,
                format!("<log>: found type='{other}'; right is one of: syslog, file, stdout"),
            );
            LogTarget::Stdout
        }
    }
}

/// local3.
const FACILITY_DEFAULT: u8 = 19;

const FACILITIES: [(&str, u8); 8] = [
    ("local0", 16),
    ("local1", 17),
    ("local2", 18),
    ("local3", 19),
    ("local4", 20),
    ("local5", 21),
    ("local6", 22),
    ("local7", 23),
];

fn local(cx: &mut Cx<'_>, root: &Node, mut config: Config) -> Router {
    let beside = |cx: &Cx<'_>, name: &str| Named {
        path: cx.absolute(name),
        line: 0,
    };
    let (mut users, filter) = (beside(cx, "router-users.xml"), beside(cx, "router-filter.xml"));
    let (mut secret_line, mut ip_line) = (0, root.line);
    if let Some(local) = cx.one(root, "local") {
        let known = [
            "ip",
            "port",
            "users",
            "secret",
            "pemfile",
            "private_key_password",
            "ciphers",
        ];
        cx.known(local, &known, &[]);
        config.local = cx.addresses(local, "0.0.0.0", PORT_DEFAULT);
        ip_line = local.all("ip").next().map_or(local.line, |ip| ip.line);
        if let Some(path) = cx.path_of(local, "users") {
            users = Named {
                path,
                line: local.all("users").next().map_or(0, |node| node.line),
            };
        }
        secret_line = local.all("secret").next().map_or(0, |node| node.line);
        config.secret = cx.text_of(local, "secret");
        config.private_key_password = cx.text_of(local, "private_key_password").map(Secret);
        config.pemfile = pemfile(cx, local, config.private_key_password.as_ref());
        config.ciphers = cx.text_of(local, "ciphers");
        if let Some((list, node)) = config.ciphers.as_ref().zip(local.all("ciphers").next())
            && ciphers::suites(list).is_empty()
        {
            cx.warning(
                node.line,
                "<ciphers> leaves no cipher of TLS 1.2 that jidmesh has (ECDHE with AES-GCM or CHACHA20): TLS 1.3 only",
            );
        }
    }
    Router {
        config,
        users,
        filter,
        secret_line,
        ip_line,
    }
}

fn pemfile(cx: &mut Cx<'_>, local: &Node, password: Option<&Secret>) -> Option<PathBuf> {
    let path = cx.path_of(local, "pemfile")?;
    let line = local.all("pemfile").next().map_or(0, |node| node.line);
    let problem = match (cx.read)(&path) {
        Ok(bytes) if memchr::memmem::find(&bytes, b"-----BEGIN CERTIFICATE").is_none() => {
            Some("no certificate in PEM form".to_owned())
        }
        Ok(bytes) => decrypt_key(&bytes, password.map(|Secret(text)| &**text)).err(),
        Err(reason) => Some(reason),
    };
    if let Some(problem) = problem {
        cx.error(line, format!("<pemfile>: {}: {problem}", path.display()));
    }
    Some(path)
}

fn io(cx: &mut Cx<'_>, root: &Node, config: &mut Config) {
    let Some(io) = cx.one(root, "io") else { return };
    cx.known(io, &["max_fds", "limits", "access"], &[]);
    config.io.max_fds = cx.number_of(io, "max_fds", 16..=16_777_216, "a number of file descriptors", 1024);
    if let Some(limits) = cx.one(io, "limits") {
        cx.known(limits, &["bytes", "connects", "frame"], &[]);
        config.io.bytes = rate(cx, limits, "bytes", 1);
        config.io.connects = rate(cx, limits, "connects", 5);
        config.frame_bytes_max = cx.number_of(
            limits,
            "frame",
            FRAME_BYTES_MIN..=FRAME_BYTES_MOST,
            "a number of bytes",
            FRAME_BYTES_DEFAULT,
        );
    }
    let Some(access) = cx.one(io, "access") else { return };
    cx.known(access, &["order", "allow", "deny"], &[]);
    let order = cx.one(access, "order").and_then(|node| {
        let text = cx.text(node)?.replace(' ', "");
        cx.choice(
            node,
            &text,
            &[("allow,deny", Order::AllowDeny), ("deny,allow", Order::DenyAllow)],
        )
    });
    let order = order.unwrap_or_default();
    config.io.access = Access {
        order,
        allow: networks(cx, access, "allow"),
        deny: networks(cx, access, "deny"),
    };
    if order == Order::DenyAllow && config.io.access.allow.is_empty() {
        cx.warning(
            access.line,
            "<access>: order deny,allow without an <allow>: nobody can connect",
        );
    }
}

/// Smaller frames than this would refuse what c2s lets its clients send (`<stanzasize>`).
const FRAME_BYTES_MIN: usize = 64 * 1024;
const FRAME_BYTES_MOST: usize = 1 << 30;

fn rate(cx: &mut Cx<'_>, limits: &Node, name: &str, per_s: u32) -> Option<Rate> {
    let node = cx.one(limits, name)?;
    let text = cx.text_with(node, &["seconds", "throttle"])?;
    let amount = cx.number(node, &text, 0..=u64::MAX / 2, "a whole number (0: no limit)");
    let mut seconds = |key: &str, default: u32| match node.attr(key) {
        Some(text) => cx
            .number(node, text, 1..=86_400, &format!("{key}='...' in whole seconds"))
            .unwrap_or(default),
        None => default,
    };
    let (per_s, throttle_s) = (seconds("seconds", per_s), seconds("throttle", 5));
    amount.filter(|amount| *amount > 0).map(|amount| Rate {
        amount,
        per_s,
        throttle_s,
    })
}

fn networks(cx: &mut Cx<'_>, access: &Node, name: &str) -> Vec<Network> {
    let mut all = Vec::new();
    for node in access.all(name) {
        cx.known(node, &[], &["ip", "mask"]);
        match (node.attr("ip"), node.attr("mask")) {
            (Some(ip), mask) if Network::parse(ip, mask).is_some() => all.extend(Network::parse(ip, mask)),
            (Some(ip), mask) => {
                let mask = mask
                    .map(|mask| format!(" mask='{}'", excerpt(mask)))
                    .unwrap_or_default();
                let right =
                    format!("<{name} ip='10.1.0.0' mask='255.255.0.0'/> or <{name} ip='2001:db8::' mask='32'/>");
                cx.error(
                    node.line,
                    format!(
                        "<{name}>: found ip='{}'{mask}; right is, for example, {right}",
                        excerpt(ip)
                    ),
                );
            }
            (None, _) => cx.error(
                node.line,
                format!("<{name}> without ip='...'; right is, for example, <{name} ip='127.0.0.1'/>"),
            ),
        }
    }
    all
}

fn aliases(cx: &mut Cx<'_>, root: &Node, config: &mut Config) {
    let Some(aliases) = cx.one(root, "aliases") else { return };
    cx.known(aliases, &["alias"], &[]);
    for node in aliases.all("alias") {
        cx.known(node, &[], &["name", "target"]);
        let (Some(name), Some(target)) = (node.attr("name"), node.attr("target")) else {
            cx.error(
                node.line,
                "<alias> needs both: right is, for example, <alias name='conference.example.net' target='muc'/>",
            );
            continue;
        };
        let (Some(name), Some(target)) = (cx.domain(node, name), cx.domain(node, target)) else {
            continue;
        };
        if name == target {
            cx.error(
                node.line,
                format!("<alias>: '{name}' is an alias of itself; target='...' names the component"),
            );
        } else if config.aliases.iter().any(|(other, _)| *other == name) {
            cx.error(
                node.line,
                format!("<alias>: '{name}' has an alias above already; remove one of them"),
            );
        } else {
            config.aliases.push((name, target));
        }
    }
}

fn aci(cx: &mut Cx<'_>, root: &Node, config: &mut Config) -> Option<Named> {
    let aci = cx.one(root, "aci")?;
    cx.known(aci, &["acl", "filter"], &[]);
    for node in aci.all("acl") {
        cx.known(node, &["user"], &["type"]);
        let users: Vec<String> = node.all("user").filter_map(|user| cx.text(user)).collect();
        match node.attr("type") {
            Some("all") => config.acl.all.extend(users),
            Some("bind") => config.acl.bind.extend(users),
            Some("default-route") => config.acl.default_route.extend(users),
            Some("log") => config.acl.log.extend(users),
            found => {
                let found = excerpt(found.unwrap_or(""));
                let right = "all, bind, default-route, log";
                cx.error(
                    node.line,
                    format!("<acl>: found type='{found}'; right is one of: {right}"),
                );
            }
        }
    }
    let path = cx.path_of(aci, "filter")?;
    Some(Named {
        path,
        line: aci.all("filter").next().map_or(0, |node| node.line),
    })
}

fn message_logging(cx: &mut Cx<'_>, root: &Node, config: &mut Config) {
    let Some(node) = cx.one(root, "message_logging") else {
        return;
    };
    cx.known(node, &["enabled", "file"], &[]);
    let file = cx.path_of(node, "file");
    if cx.one(node, "enabled").is_none() {
        return;
    }
    if file.is_none() {
        let example = "<file>/var/log/jabberd2/messages.log</file>";
        cx.error(
            node.line,
            format!("<message_logging> is enabled without <file>; add one, for example {example}"),
        );
    }
    config.message_log = file;
}

/// The small sections of jidmesh.
fn own(cx: &mut Cx<'_>, root: &Node, config: &mut Config) {
    let elsewhere = match cx.one(root, "tuning") {
        Some(node) => {
            let (tuning, elsewhere) = tuning::tuning(cx, node);
            config.tuning = tuning;
            elsewhere
        }
        None => Elsewhere::default(),
    };
    let grace_s = elsewhere.grace_s.unwrap_or(GRACE_MS_DEFAULT / 1000);
    config.grace_ms = 1000 * cx.number_of(root, "grace", 0..=3600, "whole seconds", grace_s);
    config.auth_ms = 1000 * cx.number_of(root, "auth-time", 1..=600, "whole seconds", AUTH_MS_DEFAULT / 1000);
    config.admin = cx.path_of(root, "admin");
    config.recovery = match cx.text_of(root, "recovery") {
        None => Recovery::BesideAdmin,
        Some(text) if text == "off" => Recovery::Off,
        Some(text) => Recovery::At(cx.absolute(&text)),
    };
    config.queues = elsewhere.queues;
    if let Some(node) = cx.one(root, "queues") {
        config.queues = tuning::queues(cx, node, elsewhere.queues);
        if config.queues.link_bytes < config.frame_bytes_max as u64 {
            let text =
                "<queues>: <link> is smaller than the longest frame (<io><limits><frame>), which never fits then";
            cx.error(node.line, text);
        }
    }
    if let Some(node) = cx.one(root, "metrics") {
        cx.known(node, &["ip", "port", "page"], &[]);
        config.metrics = cx.addresses(node, "127.0.0.1", 9347).first().copied();
        if let Some(page) = cx.one(node, "page") {
            cx.known(page, &[], &["anywhere"]);
            let anywhere = page.attr("anywhere").unwrap_or("no");
            let anywhere = cx.choice(page, anywhere, &[("yes", true), ("no", false)]);
            config.page = true;
            if anywhere == Some(false) && config.metrics.is_some_and(|addr| !addr.ip().is_loopback()) {
                let text = "<page>: whoever reaches <metrics><ip> would see it, and it asks for no password: right is a loopback \
                            address, or <page anywhere='yes'/> where a firewall or proxy stands before it";
                cx.error(page.line, text);
            }
        }
    }
    if let Some(node) = cx.one(root, "default-secret") {
        cx.known(node, &[], &["allow"]);
        let allow = node.attr("allow").unwrap_or("");
        config.default_secret_allowed = cx.choice(node, allow, &[("yes", true), ("no", false)]).unwrap_or(false);
    }
}

/// The users file: name, secret and line of each user.
pub(super) fn users(cx: &mut Cx<'_>, root: &Node) -> Vec<(String, String, u32)> {
    cx.known(root, &["user"], &[]);
    let mut all: Vec<(String, String, u32)> = Vec::new();
    for node in root.all("user") {
        cx.known(node, &["name", "secret"], &[]);
        let (name, secret) = (cx.text_of(node, "name"), cx.text_of(node, "secret"));
        let (Some(name), Some(secret)) = (name, secret) else {
            let right = "<user><name>jabberd</name><secret>...</secret></user>";
            cx.error(
                node.line,
                format!("<user> needs a name and a secret: right is, for example, {right}"),
            );
            continue;
        };
        if jid::prepared_node(&name).is_none() {
            cx.error(
                node.line,
                format!(
                    "<user>: '{}' is no user name; right is, for example, jabberd",
                    excerpt(&name)
                ),
            );
            continue;
        }
        let line = node.all("secret").next().map_or(node.line, |secret| secret.line);
        all.push((name, secret, line));
    }
    // As in jabberd2, the last one counts; found in one pass also for a large file.
    let mut seen = std::collections::HashMap::new();
    for (name, _, line) in &all {
        if let Some(former) = seen.insert(name.as_str(), *line) {
            cx.warning(
                *line,
                format!(
                    "user '{}' is here twice: this one counts, not that of line {former}",
                    excerpt(name)
                ),
            );
        }
    }
    all
}
