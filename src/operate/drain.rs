//! `jidmesh drain`: takes a node out of service while it runs, and back.
//!
//! A drain outlives the process: its order is kept in a small file beside the admin socket until it is given up.

use super::admin::Request;
use super::client;
use super::gather::Reports;
use crate::node::cluster::{Answer, DRAIN_RATE_MAX, DrainAsk, DrainOrder, Question};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Sessions ended a second, unless the operator says otherwise: what one sm bears when all of them log in again.
const RATE_DEFAULT: u32 = 20;
/// Mode of the file.
const MODE: u32 = 0o640;
/// A longer file is none of ours, bytes.
const FILE_BYTES_MAX: u64 = 4_096;

/// Arguments of `jidmesh drain`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Sessions that are ended a second, as 50 or 50/s (default 20).
    #[arg(long, value_name = "N", value_parser = rate)]
    pub rate: Option<u32>,
    /// The node that takes on whoever logs in again here meanwhile.
    #[arg(long, value_name = "NODE")]
    pub to: Option<String>,
    /// Come back into service.
    #[arg(long, conflicts_with_all = ["rate", "to"])]
    pub abort: bool,
}

fn rate(text: &str) -> Result<u32, String> {
    let number = text.strip_suffix("/s").unwrap_or(text);
    match number.parse() {
        Ok(rate) if (1..=DRAIN_RATE_MAX).contains(&rate) => Ok(rate),
        _ => Err(format!("right is a number of sessions a second, 1 to {DRAIN_RATE_MAX}")),
    }
}

/// `jidmesh drain`.
pub fn main(admin: &Path, args: &Args) -> ExitCode {
    let request = match args.abort {
        true => Request::Drain { order: None },
        false => Request::Drain {
            order: Some(DrainOrder {
                rate_per_s: args.rate.unwrap_or(RATE_DEFAULT),
                to: args.to.as_deref().map(Into::into),
            }),
        },
    };
    match client::ask(admin, &request, "drain").and_then(|said| client::print(said.as_str().unwrap_or_default())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("jidmesh drain: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Where the order is kept while the drain lasts: beside the admin socket, and named after it.
pub fn file(admin: &Path) -> PathBuf {
    admin.with_extension("drain")
}

/// The order of a drain that the former process left behind.
pub fn left_behind(admin: &Path) -> Result<Option<DrainOrder>, String> {
    let path = file(admin);
    let wrong = |why: String| format!("{}: {why}: this node serves", path.display());
    match fs::metadata(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(wrong(e.to_string())),
        Ok(found) if found.len() > FILE_BYTES_MAX => Err(wrong("that is no order to drain".into())),
        Ok(_) => {
            let text = fs::read(&path).map_err(|e| wrong(e.to_string()))?;
            serde_json::from_slice(&text)
                .map(Some)
                .map_err(|e| wrong(e.to_string()))
        }
    }
}

/// Obeys an order (`None`: gives the drain up); what to tell the operator, or why not.
pub(super) fn order(reports: &Reports, order: Option<DrainOrder>) -> Result<String, String> {
    if order
        .as_ref()
        .is_some_and(|order| !(1..=DRAIN_RATE_MAX).contains(&order.rate_per_s))
    {
        return Err(format!("a rate is 1 to {DRAIN_RATE_MAX} sessions a second"));
    }
    let ask = order.clone().map_or(DrainAsk::Abort, DrainAsk::Begin);
    let verdict = reports
        .ask(&Question::Drain(ask))
        .into_iter()
        .find_map(|answer| match answer {
            Answer::Drain(verdict) => Some(verdict),
            _ => None,
        });
    verdict.ok_or("the shard that decides does not answer")??;
    reports.forget();
    let kept = reports
        .admin()
        .map_or(Ok(()), |admin| keep(&file(&admin), order.as_ref()));
    let said = match &order {
        Some(_) => "draining; jidmesh status shows how far it is, jidmesh drain --abort gives it up",
        None => "in service again",
    };
    Ok(match kept {
        Ok(()) => said.into(),
        Err(why) => format!("{said}; a restart will not know of it: {why}"),
    })
}

/// Writes the order beside its place and moves it there; without one, removes it.
fn keep(path: &Path, order: Option<&DrainOrder>) -> io::Result<()> {
    let Some(order) = order else {
        return match fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        };
    };
    let beside = path.with_extension("new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(MODE)
        .open(&beside)?;
    file.write_all(&serde_json::to_vec(order)?)?;
    fs::rename(&beside, path)
}
