//! What a configuration read again changes, in an operator's words, and what of it has to wait for the next start.

use super::model::{Config, Mesh};
use std::collections::BTreeSet;
use std::fmt::{Debug, Display};

/// Most entries of a list that one line names.
const NAMED_MAX: usize = 10;

impl Config {
    /// The sections that differ and that only a start reads: `self` is what the process was started with.
    pub fn fixed_differences(&self, now: &Config) -> Vec<&'static str> {
        let mesh = |of: fn(&Mesh) -> String| {
            let of = |config: &Config| config.mesh.as_ref().map(of);
            of(self) != of(now)
        };
        [
            ("<id>", self.id != now.id),
            ("<local><ip> and <port>", self.local != now.local),
            ("<mesh>", self.mesh.is_some() != now.mesh.is_some()),
            (
                "<mesh><node> and <local>",
                mesh(|mesh| format!("{} {:?}", mesh.node, mesh.local)),
            ),
            ("<mesh><cluster>", mesh(|mesh| mesh.cluster.clone())),
            ("<queues><peer>", self.queues.peer_bytes != now.queues.peer_bytes),
            ("<pidfile>", self.pidfile != now.pidfile),
            ("<log>", self.log != now.log),
            ("<admin>", self.admin != now.admin),
            ("<recovery>", self.recovery != now.recovery),
            ("<metrics>", (self.metrics, self.page) != (now.metrics, now.page)),
            ("<uplink>", self.uplink != now.uplink),
            ("<tuning>", self.tuning != now.tuning),
        ]
        .into_iter()
        .filter_map(|(section, differs)| differs.then_some(section))
        .collect()
    }

    /// Takes from `started` what only a start reads, so that no part of the process acts upon it before.
    pub fn keep_fixed(&mut self, started: &Config) {
        self.id.clone_from(&started.id);
        self.local.clone_from(&started.local);
        self.queues.peer_bytes = started.queues.peer_bytes;
        self.pidfile.clone_from(&started.pidfile);
        self.log.clone_from(&started.log);
        self.admin.clone_from(&started.admin);
        self.recovery.clone_from(&started.recovery);
        self.metrics = started.metrics;
        self.page = started.page;
        self.uplink.clone_from(&started.uplink);
        self.tuning.clone_from(&started.tuning);
        match (&mut self.mesh, &started.mesh) {
            (Some(mesh), Some(started)) => {
                mesh.node.clone_from(&started.node);
                mesh.local.clone_from(&started.local);
                mesh.cluster.clone_from(&started.cluster);
            }
            (mesh, started) => mesh.clone_from(started),
        }
    }

    /// One line for each thing that is different in `now` and takes effect at once. No line holds a secret.
    pub fn differences(&self, now: &Config) -> Vec<String> {
        let mut told = Told::default();
        told.users(self, now);
        told.secret("<local><secret>", self.secret.as_ref(), now.secret.as_ref());
        told.value("<local><pemfile>", &self.pemfile, &now.pemfile);
        told.value("<local><ciphers>", &self.ciphers, &now.ciphers);
        told.secret(
            "<local><private_key_password>",
            self.private_key_password.as_ref(),
            now.private_key_password.as_ref(),
        );
        told.value("<check>", &self.check, &now.check);
        told.value("<io><max_fds>", &self.io.max_fds, &now.io.max_fds);
        told.value("<io><limits><bytes>", &self.io.bytes, &now.io.bytes);
        told.value("<io><limits><connects>", &self.io.connects, &now.io.connects);
        told.value("<io><access>", &self.io.access, &now.io.access);
        told.value("<io><limits><frame>", &self.frame_bytes_max, &now.frame_bytes_max);
        told.pairs("<aliases>", &self.aliases, &now.aliases);
        for (right, of) in [
            ("all", (&self.acl.all, &now.acl.all)),
            ("bind", (&self.acl.bind, &now.acl.bind)),
            ("default-route", (&self.acl.default_route, &now.acl.default_route)),
            ("log", (&self.acl.log, &now.acl.log)),
        ] {
            told.set(&format!("<acl type='{right}'>"), of.0.iter(), of.1.iter());
        }
        if self.filter != now.filter {
            let (was, is) = (self.filter.rules.len(), now.filter.rules.len());
            told.0.push(format!("filter: {is} rules, were {was}"));
        }
        told.value("<message_logging>", &self.message_log, &now.message_log);
        told.value("<log><level>", &self.log_level, &now.log_level);
        told.value("<grace> (ms)", &self.grace_ms, &now.grace_ms);
        told.value("<auth-time> (ms)", &self.auth_ms, &now.auth_ms);
        told.value(
            "<queues><link> (bytes)",
            &self.queues.link_bytes,
            &now.queues.link_bytes,
        );
        told.value(
            "<queues><held> (bytes)",
            &self.queues.held_bytes,
            &now.queues.held_bytes,
        );
        told.value(
            "<default-secret>",
            &self.default_secret_allowed,
            &now.default_secret_allowed,
        );
        if let (Some(was), Some(is)) = (&self.mesh, &now.mesh) {
            told.mesh(was, is);
        }
        told.0
    }
}

#[derive(Default)]
struct Told(Vec<String>);

impl Told {
    fn value<T: PartialEq + Debug>(&mut self, section: &str, was: &T, is: &T) {
        if was != is {
            self.0.push(format!("{section}: {is:?}, was {was:?}"));
        }
    }

    fn secret<T: PartialEq>(&mut self, section: &str, was: Option<&T>, is: Option<&T>) {
        let what = match (was, is) {
            (None, Some(_)) => "added",
            (Some(_), None) => "removed",
            (was, is) if was != is => "changed",
            _ => return,
        };
        self.0.push(format!("{section}: {what}"));
    }

    /// What came, with `+`, and what went, with `-`.
    fn set<T: Ord + Display>(
        &mut self,
        section: &str,
        was: impl IntoIterator<Item = T>,
        is: impl IntoIterator<Item = T>,
    ) {
        let (was, is): (BTreeSet<T>, BTreeSet<T>) = (was.into_iter().collect(), is.into_iter().collect());
        let came = is.difference(&was).map(|entry| format!("+{entry}"));
        let went = was.difference(&is).map(|entry| format!("-{entry}"));
        self.list(section, came.chain(went).collect());
    }

    fn list(&mut self, section: &str, entries: Vec<String>) {
        if entries.is_empty() {
            return;
        }
        let more = entries.len().saturating_sub(NAMED_MAX);
        let named = entries[..entries.len() - more].join(" ");
        let more = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        self.0.push(format!("{section}: {named}{more}"));
    }

    fn pairs(&mut self, section: &str, was: &[(String, String)], is: &[(String, String)]) {
        let shown = |(name, target): &(String, String)| format!("{name}={target}");
        self.set(section, was.iter().map(shown), is.iter().map(shown));
    }

    fn users(&mut self, was: &Config, is: &Config) {
        self.set("users", was.users.keys(), is.users.keys());
        let changed = |(name, secret): &(&String, &String)| was.users.get(*name).is_some_and(|old| old != *secret);
        let mut changed: Vec<String> = is.users.iter().filter(changed).map(|(name, _)| name.clone()).collect();
        changed.sort_unstable();
        self.list("users with another secret", changed);
    }

    fn mesh(&mut self, was: &Mesh, is: &Mesh) {
        let missing = |from: &Mesh, of: &Mesh| {
            of.secrets
                .iter()
                .filter(|secret| !from.secrets.contains(secret))
                .count()
        };
        let (came, went) = (missing(was, is), missing(is, was));
        if was.secrets != is.secrets {
            let seals = if was.secrets.first() == is.secrets.first() {
                ""
            } else {
                "; another one seals"
            };
            self.0
                .push(format!("<mesh><secret>: {came} added, {went} removed{seals}"));
        }
        let peer = |peer: &super::Peer| format!("{}:{}", peer.host, peer.port);
        self.value("<mesh><plain>", &was.plain_allowed, &is.plain_allowed);
        self.set("<mesh><peer>", was.peers.iter().map(peer), is.peers.iter().map(peer));
        self.value("<mesh><domain>", &was.domains, &is.domains);
        self.pairs("<mesh><exit>", &was.exit_pins, &is.exit_pins);
        self.value("<mesh><exits>", &was.exits, &is.exits);
        self.value("<mesh><name>", &was.names, &is.names);
    }
}
