//! Reads the files: only [`Config::load`] touches the disk.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::model::{Config, DEFAULT_SECRET, Loaded};
use super::read::{Cx, ReadFile};
use super::sections::{self, Named, Router};
use super::tree::FILE_BYTES_MAX;
use super::{Filter, Problem, Severity, neighbours};

impl Config {
    /// Reads `path` and the users and filter files it names (relative paths: from its folder). All problems are
    /// reported, the warnings among the errors.
    pub fn load(path: &Path) -> Result<Loaded, Vec<Problem>> {
        let host_name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Config::parse(path, host_name.trim(), &read_file)
    }

    /// The same with the machine's name and a way to read files as arguments (its error is the reason in words).
    pub fn parse(
        path: &Path,
        host_name: &str,
        read: &dyn Fn(&Path) -> Result<Vec<u8>, String>,
    ) -> Result<Loaded, Vec<Problem>> {
        let mut cx = Cx::new(path, read);
        let root = match read(path) {
            Ok(bytes) => cx.root(&bytes, "router"),
            Err(reason) => {
                cx.error(0, reason);
                None
            }
        };
        let Some(root) = root else { return Err(cx.problems) };
        let mut router = sections::router(&mut cx, &root, host_name);
        let users = users(&mut cx, &mut router);
        filter(&mut cx, &mut router);
        exposed(&mut cx, &router, &users);
        strangers(&mut cx, &router.config);
        neighbours::check(&mut cx, &root, &router.config);
        if cx.failed() {
            return Err(cx.problems);
        }
        debug_assert!(cx.problems.iter().all(|problem| problem.severity == Severity::Warning));
        Ok(Loaded {
            config: router.config,
            warnings: cx.problems,
        })
    }
}

pub(super) fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes));
    read.map(|_| bytes).map_err(|error| format!("can't be read: {error}"))
}

/// The bytes of a file that the configuration names; a default one may be missing.
fn named(cx: &mut Cx<'_>, read: ReadFile<'_>, named: &Named, what: &str) -> Option<Vec<u8>> {
    match read(&named.path) {
        Ok(bytes) => Some(bytes),
        Err(_) if named.line == 0 => None,
        Err(reason) => {
            cx.error(named.line, format!("<{what}>: {}: {reason}", named.path.display()));
            None
        }
    }
}

/// Fills in the users; gives back where Debian's well-known secret stands in their file.
fn users(cx: &mut Cx<'_>, router: &mut Router) -> Vec<u32> {
    let Some(bytes) = named(cx, cx.read, &router.users, "users") else {
        if router.users.line == 0 {
            let text = "no users: <local><users> names no file, so only XEP-0114 components can connect";
            cx.warning(0, text);
        }
        return Vec::new();
    };
    let mut file = Cx::new(&router.users.path, cx.read);
    let mut weak = Vec::new();
    if let Some(root) = file.root(&bytes, "users") {
        for (name, secret, line) in sections::users(&mut file, &root) {
            if secret == DEFAULT_SECRET {
                weak.push(line);
            }
            router.config.users.insert(name, secret);
        }
        if router.config.users.is_empty() && !file.failed() {
            file.warning(root.line, "no users: only XEP-0114 components can connect");
        }
    }
    cx.problems.append(&mut file.problems);
    weak
}

fn filter(cx: &mut Cx<'_>, router: &mut Router) {
    let Some(bytes) = named(cx, cx.read, &router.filter, "filter") else {
        return;
    };
    let mut file = Cx::new(&router.filter.path, cx.read);
    if let Some(root) = file.root(&bytes, "filter") {
        router.config.filter = Filter::parse(&mut file, &root);
    }
    cx.problems.append(&mut file.problems);
}

/// Debian's well-known secret on a port that other machines reach: say exactly what to change.
fn exposed(cx: &mut Cx<'_>, router: &Router, users: &[u32]) {
    let config = &router.config;
    if config.local.iter().all(|addr| addr.ip().is_loopback()) {
        return;
    }
    let fate = match config.default_secret_allowed {
        true => "can be used by anybody who reaches the port",
        false => "is accepted from loopback addresses only",
    };
    let listen = format!("or listen on 127.0.0.1 only ({}:{})", cx.path.display(), router.ip_line);
    for line in users {
        let text = format!("'{DEFAULT_SECRET}' is Debian's well-known secret and {fate}; change this line, {listen}");
        cx.problems.push(Problem::warning(&router.users.path, *line, text));
    }
    if config.is_default_secret(None) {
        let text = format!(
            "<local><secret>: '{DEFAULT_SECRET}' is Debian's well-known secret and {fate} (XEP-0114 components); \
             change this line, {listen}"
        );
        cx.warning(router.secret_line, text);
    }
}

/// Rights of users who do not exist are most likely slips of the pen.
fn strangers(cx: &mut Cx<'_>, config: &Config) {
    let acl = &config.acl;
    let mut names: Vec<&String> = [&acl.all, &acl.bind, &acl.default_route, &acl.log]
        .into_iter()
        .flatten()
        .collect();
    names.sort();
    names.dedup();
    for name in names.into_iter().filter(|name| !config.users.contains_key(*name)) {
        cx.warning(0, format!("<acl>: user '{name}' is not in the users file"));
    }
}
