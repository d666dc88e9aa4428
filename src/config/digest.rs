//! A short hash of the meaning of a configuration, to compare machines.

use std::fmt::Write;

use sha1::{Digest, Sha1};

use super::Config;

impl Config {
    /// A stable short hash, 16 hexadecimal digits, of all settings on which the machines of a cluster should agree:
    /// not of addresses, files, names of the machine, log, tuning. The order of users and rights does not count.
    ///
    /// Each secret contributes one byte of its hash: a difference is seen 255 times of 256, and who reads the digest
    /// learns too little to guess a secret.
    pub fn digest(&self) -> String {
        let hash = Sha1::digest(self.meaning().as_bytes());
        hash.iter().take(8).fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    fn meaning(&self) -> String {
        let mut text = String::new();
        let mut add = |key: &str, value: &dyn std::fmt::Debug| {
            let _ = writeln!(text, "{key}={value:?}");
        };
        let mut users: Vec<(&String, u8)> = self.users.iter().map(|(name, secret)| (name, trace(secret))).collect();
        users.sort_unstable();
        add("users", &users);
        add("secret", &self.secret.as_deref().map(trace));
        add("tls", &self.pemfile.is_some());
        add("check", &self.check);
        add("bytes", &self.io.bytes);
        add("connects", &self.io.connects);
        let mut aliases = self.aliases.clone();
        aliases.sort_unstable();
        add("aliases", &aliases);
        for (key, users) in [
            ("all", &self.acl.all),
            ("bind", &self.acl.bind),
            ("default-route", &self.acl.default_route),
            ("log", &self.acl.log),
        ] {
            let mut users: Vec<&String> = users.iter().collect();
            users.sort_unstable();
            users.dedup();
            add(key, &users);
        }
        for rule in &self.filter.rules {
            let (from, to) = (
                rule.from.as_ref().map(|g| g.as_str()),
                rule.to.as_ref().map(|g| g.as_str()),
            );
            let what = rule.what.as_ref().map(|what| what.source.as_str());
            add("rule", &(from, to, what, &rule.redirect, rule.error_code));
        }
        add("grace", &self.grace_ms);
        add("queues", &self.queues);
        add("frame", &self.frame_bytes_max);
        add("auth", &self.auth_ms);
        add("default-secret", &self.default_secret_allowed);
        add("attached", &self.uplink.is_some());
        if let Some(mesh) = &self.mesh {
            let mut secrets: Vec<u8> = mesh.secrets.iter().map(|secret| trace(&secret.0)).collect();
            secrets.sort_unstable();
            let (mut domains, mut pins, mut names) = (mesh.domains.clone(), mesh.exit_pins.clone(), mesh.names.clone());
            domains.sort_by(|a, b| a.0.cmp(&b.0));
            pins.sort_unstable();
            names.sort_by(|a, b| a.0.cmp(&b.0));
            add(
                "mesh",
                &(
                    &mesh.cluster,
                    secrets,
                    mesh.plain_allowed,
                    domains,
                    pins,
                    mesh.exits,
                    names,
                ),
            );
        }
        text
    }
}

/// One byte of a secret's hash.
fn trace(secret: &str) -> u8 {
    Sha1::digest(secret.as_bytes())[19]
}
