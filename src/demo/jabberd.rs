//! jabberd2 as it is installed: where it is, its configuration files, its database.
//!
//! Debian's own files in /etc are not readable by everybody, so these are written from nothing; they hold what the
//! demo and an ordinary client need.

use super::{DOMAIN, PASSWORD, USERS};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A component asks its router again after so long, seconds.
const RETRY: &str = "<retry><init>-1</init><lost>-1</lost><sleep>1</sleep></retry>";
/// Two machines write to one file: each waits so long for the other.
const BUSY_MS: u32 = 4_000;

/// The programs.
#[derive(Clone, Debug)]
pub(super) struct Jabberd {
    sm: PathBuf,
    c2s: PathBuf,
    sqlite3: PathBuf,
    /// The folder of its modules.
    modules: PathBuf,
}

/// Who a component is, and where its router listens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link<'a> {
    pub(super) port: u16,
    pub(super) user: &'a str,
    pub(super) pass: &'a str,
}

impl Jabberd {
    /// jabberd2 on this computer; else what is missing.
    pub(super) fn find() -> Result<Jabberd, String> {
        let modules = fs::read_dir("/usr/lib")
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path().join("jabberd2"))
            .find(|path| path.join("storage_sqlite.so").exists())
            .ok_or("jabberd2 is not installed")?;
        Ok(Jabberd {
            sm: program("jabberd2-sm")?,
            c2s: program("jabberd2-c2s")?,
            sqlite3: program("sqlite3")?,
            modules,
        })
    }

    /// The program of a component, `sm` or `c2s`.
    pub(super) fn program(&self, what: &str) -> &Path {
        match what {
            "sm" => &self.sm,
            _ => &self.c2s,
        }
    }

    /// Makes the database that both machines share, with the users of the demo, each in the other's contact list.
    pub(super) fn make_database(&self, file: &Path) -> Result<(), String> {
        let mut sql = String::from("pragma journal_mode = wal;\n");
        for (table, columns) in TABLES {
            sql.push_str(&format!("create table \"{table}\" ({columns});\n"));
        }
        for user in USERS {
            sql.push_str(&format!(
                "insert into authreg values ('{user}', '{DOMAIN}', '{PASSWORD}');\n\
                 insert into active (\"collection-owner\", time) values ('{user}@{DOMAIN}', 1);\n"
            ));
            for other in USERS.iter().filter(|other| **other != user) {
                sql.push_str(&format!(
                    "insert into \"roster-items\" (\"collection-owner\", jid, name, \"to\", \"from\", ask) \
                     values ('{user}@{DOMAIN}', '{other}@{DOMAIN}', '{other}', 1, 1, 0);\n"
                ));
            }
        }
        let fail = |e: std::io::Error| format!("{}: {e}", self.sqlite3.display());
        let mut child = Command::new(&self.sqlite3)
            .args(["-batch", "-bail"])
            .arg(file)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(fail)?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(sql.as_bytes()).map_err(fail)?;
        }
        let done = child.wait_with_output().map_err(fail)?;
        match done.status.success() {
            true => Ok(()),
            false => Err(format!(
                "the database could not be made: {}",
                String::from_utf8_lossy(&done.stderr)
            )),
        }
    }

    /// sm.xml.
    pub(super) fn sm_config(&self, link: Link<'_>, database: &Path) -> String {
        let chain = |(id, modules): &(&str, &[&str])| {
            let modules: String = modules.iter().map(|name| format!("<module>{name}</module>")).collect();
            format!("<chain id='{id}'>{modules}</chain>\n")
        };
        format!(
            "<sm><id>sm</id>{}<log type='stdout'/><local><id>{DOMAIN}</id></local>\n\
             <storage><path>{path}</path><driver>sqlite</driver>{}</storage>\n\
             <modules><path>{path}</path>\n{}</modules>\n\
             <discovery><identity><category>server</category><type>im</type><name>jidmesh demo</name></identity>\
             </discovery>\n<user/><offline/><roster/><status/></sm>\n",
            router(link),
            sqlite(database, ""),
            CHAINS.iter().map(chain).collect::<String>(),
            path = self.modules.display(),
        )
    }

    /// c2s.xml.
    pub(super) fn c2s_config(&self, link: Link<'_>, database: &Path, port: u16) -> String {
        format!(
            "<c2s><id>c2s</id>{}<log type='stdout'/>\n\
             <local><id register-enable='mu'>{DOMAIN}</id><ip>127.0.0.1</ip><port>{port}</port></local>\n\
             <io><max_fds>256</max_fds><limits><bytes>0</bytes><stanzas>0</stanzas><connects>0</connects>\
             <stanzasize>65535</stanzasize></limits></io>\n\
             <authreg><path>{}</path><module>sqlite</module>\n\
             <mechanisms><traditional><plain/></traditional><sasl><plain/><digest-md5/></sasl></mechanisms>\n\
             {}</authreg></c2s>\n",
            router(link),
            self.modules.display(),
            sqlite(database, "<password_type><plaintext/></password_type>"),
        )
    }
}

fn router(link: Link<'_>) -> String {
    let Link { port, user, pass } = link;
    format!("<router><ip>127.0.0.1</ip><port>{port}</port><user>{user}</user><pass>{pass}</pass>{RETRY}</router>")
}

fn sqlite(database: &Path, more: &str) -> String {
    let file = database.display();
    format!("<sqlite><dbname>{file}</dbname><busy-timeout>{BUSY_MS}</busy-timeout>{more}</sqlite>")
}

/// Daemons' folders are not in everybody's PATH.
fn program(name: &str) -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/local/sbin", "/usr/bin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
        .ok_or(format!("{name} is not installed"))
}

/// What sm does with what comes from where: its modules, in order.
const CHAINS: [(&str, &[&str]); 10] = [
    ("sess-start", &["status"]),
    ("sess-end", &["status", "iq-last"]),
    (
        "in-sess",
        &[
            "validate",
            "status",
            "privacy",
            "roster",
            "iq-ping",
            "iq-private",
            "disco",
            "amp",
            "offline",
            "presence",
            "deliver",
        ],
    ),
    ("in-router", &["session", "validate", "presence", "privacy"]),
    ("out-router", &["privacy"]),
    (
        "pkt-sm",
        &[
            "iq-last",
            "iq-ping",
            "iq-time",
            "iq-version",
            "amp",
            "disco",
            "status",
            "presence",
        ],
    ),
    (
        "pkt-user",
        &["roster", "presence", "disco", "amp", "deliver", "offline", "iq-last"],
    ),
    ("pkt-router", &["session", "disco"]),
    ("user-load", &["active", "roster", "privacy"]),
    ("user-create", &["active"]),
];

/// The tables of these modules: what jabberd2 2.7 reads and writes.
const TABLES: [(&str, &str); 10] = [
    ("authreg", "username text not null, realm text not null, password text"),
    (
        "active",
        "\"collection-owner\" text not null, \"object-sequence\" integer primary key, time integer not null default 0",
    ),
    (
        "logout",
        "\"collection-owner\" text not null, \"object-sequence\" integer primary key, time integer not null default 0",
    ),
    (
        "roster-items",
        "\"collection-owner\" text not null, \"object-sequence\" integer primary key, jid text not null, name text, \
         \"to\" boolean not null, \"from\" boolean not null, ask integer not null",
    ),
    (
        "roster-groups",
        "\"collection-owner\" text not null, \"object-sequence\" integer primary key, jid text not null, \
         \"group\" text not null",
    ),
    (
        "queue",
        "\"collection-owner\" text not null, \"object-sequence\" integer primary key, xml text not null",
    ),
    (
        "private",
        "\"collection-owner\" text not null, \"object-sequence\" integer primary key, ns text, xml text",
    ),
    (
        "privacy-default",
        "\"collection-owner\" text not null, \"object-sequence\" integer primary key, \"default\" text",
    ),
    (
        "privacy-items",
        "\"collection-owner\" text not null, \"object-sequence\" integer primary key, list text not null, type text, \
         value text, deny bool, \"order\" integer, block integer",
    ),
    (
        "status",
        "\"collection-owner\" text not null, \"object-sequence\" integer primary key, status text not null, \
         show text, \"last-login\" integer default 0, \"last-logout\" integer default 0, xml text",
    ),
];
