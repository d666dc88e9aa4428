//! `jidmesh trace`: follows stanzas through shards and nodes, as long as somebody looks.
//!
//! The command line asks several times a second, over one connection. Each time renews the lease that every shard of
//! every node has; the end of the connection ends it at once.

mod show;

use super::admin::Request;
use super::client::{self, Session};
use super::gather::Reports;
use crate::node::cluster::{Answer, Question};
use crate::node::trace::{TraceAsk, TraceShare};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Deserialize;
use serde_json::Value;
use show::{Shown, Story};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How often the node is asked, milliseconds.
const POLL_MS: u64 = 200;
/// The longest trace, seconds.
pub const SECONDS_MAX: u64 = 3_600;
/// A probe that has not come to its end by then is lost, milliseconds.
const PROBE_MS: u64 = 5_000;

/// What the command line says.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Stanzas from and to this user, session (with a resource) or service.
    jid: String,
    /// Only those that go to this one.
    #[arg(long, value_name = "JID", conflicts_with = "probe")]
    to: Option<String>,
    /// Print the stanzas, too: what users say to one another, that is. The log says that it was done.
    #[arg(long, conflicts_with = "probe")]
    payload: bool,
    /// Follow no stanza, but show the way that one to JID would go now. Nothing is delivered.
    #[arg(long)]
    probe: bool,
    /// End after so long.
    #[arg(long = "for", value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=SECONDS_MAX))]
    seconds: u64,
}

/// The trace of one connection to the admin socket: it ends with it.
pub(super) struct Lease<'a> {
    reports: &'a Reports,
    ask: Option<TraceAsk>,
}

impl<'a> Lease<'a> {
    pub(super) fn new(reports: &'a Reports) -> Lease<'a> {
        Lease { reports, ask: None }
    }

    /// Asks all shards: what happened since, in no order, at times of the wall clock (microseconds since 1970).
    pub(super) fn renew(&mut self, mut ask: TraceAsk) -> Result<TraceShare, String> {
        ask.id = match &self.ask {
            Some(known) => known.id,
            None => number(),
        };
        let known = self.ask.replace(ask.clone());
        let same = |known: TraceAsk| {
            let TraceAsk {
                jid,
                to,
                payload,
                probe,
                ..
            } = &ask;
            (&known.jid, &known.to, &known.payload, &known.probe) == (jid, to, payload, probe)
        };
        if known.is_some_and(|known| !same(known)) {
            return Err("a connection follows one thing".into());
        }
        let mut whole = TraceShare::default();
        let mut refused = None;
        for answer in self.reports.ask(&Question::Trace(Box::new(ask))) {
            match answer {
                Answer::Trace(Ok(share)) => {
                    whole.events.extend(share.events);
                    whole.left_out += share.left_out;
                    whole.tokens.extend(share.tokens);
                    whole.nodes.extend(share.nodes);
                }
                Answer::Trace(Err(why)) => refused = Some(why),
                _ => {}
            }
        }
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let start = since_1970.saturating_sub(self.reports.uptime()).as_micros();
        for event in &mut whole.events {
            event.at_us = event.at_us.saturating_add(start.try_into().unwrap_or(u64::MAX));
        }
        whole.tokens.sort_unstable();
        whole.tokens.dedup();
        refused.map_or(Ok(whole), Err)
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if let Some(ask) = self.ask.take() {
            let over = TraceAsk { over: true, ..ask };
            self.reports.ask(&Question::Trace(Box::new(over)));
        }
    }
}

/// A number that no other trace of this node has, or had before a restart: others may not know of its end yet.
fn number() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now_us = since_1970.as_micros().try_into().unwrap_or(0);
    let next = |last: u64| Some(now_us.max(last + 1));
    LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next)
        .map_or(now_us, |last| now_us.max(last + 1))
}

/// `jidmesh trace`. Fails when the node cannot be asked, and when a probe does not come to its end.
pub fn main(admin: &Path, args: &Args, json: bool) -> ExitCode {
    match follow(admin, args, json) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("jidmesh trace: {why}");
            ExitCode::FAILURE
        }
    }
}

fn follow(admin: &Path, args: &Args, json: bool) -> Result<bool, String> {
    let mut session = Session::open(admin)?;
    let mut ask = TraceAsk {
        jid: args.jid.clone(),
        to: args.to.clone(),
        payload: args.payload,
        probe: args.probe,
        ..TraceAsk::default()
    };
    let began = Instant::now();
    let mut story = Story::new(json);
    loop {
        let answer: Value = session.ask(&Request::Trace(ask.clone()), "trace")?;
        let share = TraceShare::deserialize(&answer).map_err(|e| client::not_as_expected(&e))?;
        ask.tokens.clone_from(&share.tokens);
        let lost = args.probe && began.elapsed() > Duration::from_millis(PROBE_MS);
        let over = lost || began.elapsed() > Duration::from_secs(args.seconds);
        let shown = story.hear(share, SystemTime::now(), began.elapsed(), over);
        if !shown.text.is_empty() {
            client::print(&shown.text)?;
        }
        match shown {
            Shown { probe_ended: true, .. } => return Ok(true),
            _ if lost => return Err("the probe was lost behind its last step".into()),
            _ if over || nobody_looks() => return Ok(true),
            _ => std::thread::sleep(Duration::from_millis(POLL_MS)),
        }
    }
}

/// The terminal, or the reader of the pipe, is gone.
fn nobody_looks() -> bool {
    let out = std::io::stdout();
    let mut fds = [PollFd::new(&out, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok_and(|n| n > 0)
}
