//! `jidmesh status --closed`: the links that ended lately, and why.

use super::admin::Request;
use super::client;
use super::gather::Reports;
use super::inquire::{finish, shown};
use super::log::rfc3339;
use super::status::{clean, span, table};
use crate::node::CLOSED_MAX;
use crate::node::cluster::{Answer, Question};
use crate::node::report::ClosedReport;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// A link that is no more.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ClosedLink {
    /// When it ended (RFC 3339, UTC).
    pub at: String,
    /// How long it had lived, seconds.
    pub lived_s: u64,
    /// Id of its component, or name of the other node; empty for one that never said who it is.
    pub link: String,
    /// Its other end.
    pub remote: String,
    /// The shard that served it.
    pub shard: u16,
    /// Why it ended.
    pub reason: String,
}

/// The last [`CLOSED_MAX`] of all shards, oldest first.
pub(super) fn closed(reports: &Reports) -> Vec<ClosedLink> {
    let answers = reports.ask(&Question::Closed);
    let (up, now) = (reports.uptime(), SystemTime::now());
    let mut links: Vec<Arc<ClosedReport>> = answers
        .into_iter()
        .flat_map(|answer| match answer {
            Answer::Closed(links) => links,
            _ => Vec::new(),
        })
        .collect();
    links.sort_by_key(|link| link.closed_us);
    let surplus = links.len().saturating_sub(CLOSED_MAX);
    let told = links[surplus..].iter().map(|link| {
        let ago = up.saturating_sub(Duration::from_micros(link.closed_us));
        ClosedLink {
            at: rfc3339(now.checked_sub(ago).unwrap_or(now)),
            lived_s: link.lived_us / 1_000_000,
            link: link.link.to_string(),
            remote: link.remote.to_string(),
            shard: link.shard,
            reason: link.reason.to_string(),
        }
    });
    told.collect()
}

/// `jidmesh status --closed`.
pub fn main(admin: &Path, json: bool) -> ExitCode {
    finish("status", show(admin, json).map(|text| (text, true)))
}

/// What [`main`] prints. The error is for an operator: what is wrong, what to do.
pub fn show(admin: &Path, json: bool) -> Result<String, String> {
    client::ask(admin, &Request::Closed, "closed")
        .and_then(|answer| shown(&answer, json, |links: &Vec<ClosedLink>| text(links)))
}

fn text(links: &[ClosedLink]) -> String {
    let mut out = String::new();
    let row = |link: &ClosedLink| {
        let who = if link.link.is_empty() { "-" } else { &link.link };
        [
            clean(&link.at),
            clean(who),
            clean(&link.remote),
            span(link.lived_s),
            clean(&link.reason),
        ]
    };
    let rows: Vec<_> = links.iter().map(row).collect();
    table(
        ["CLOSED", "LINK", "REMOTE", "LIVED", "REASON"],
        "no link was closed yet",
        &rows,
        &mut out,
    );
    out
}
