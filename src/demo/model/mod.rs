//! Models of jabberd2's sm and c2s, for computers on which it is not installed: processes of their own, which speak the
//! component protocol to jidmesh and XMPP to clients, as far as the story needs it.
//!
//! Must never be added: anything that jabberd2's own do not do. What they lack is lacking in the open: one sm, users
//! known beforehand, everybody in everybody's contact list, no TLS.

mod c2s;
mod sm;

use super::stream::{Piece, Stream};
use crate::load::component::{Component, Names, Router, scanner_in_stream};
use crate::wire::header::{self, Frame, Route};
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// The file in which a machine's models find their [`Plan`].
pub(super) const PLAN: &str = "models.json";
/// The router must be there after so long.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How often a model looks at its connections.
const TURN: Duration = Duration::from_millis(1);

/// Which component to play.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(super) enum Part {
    Sm,
    C2s,
}

/// What the models of a machine must know.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Plan {
    /// The router's component port.
    pub(super) router: u16,
    pub(super) user: String,
    pub(super) pass: String,
    /// The port for clients.
    pub(super) clients: u16,
    /// A folder that both machines share, for messages that are kept.
    pub(super) shared: PathBuf,
}

/// Plays a component in the working folder, until its router goes.
pub(super) fn play(part: Part) -> ExitCode {
    let result = std::fs::read(PLAN)
        .map_err(|e| format!("{PLAN}: {e}"))
        .and_then(|bytes| serde_json::from_slice(&bytes).map_err(|e| format!("{PLAN}: {e}")))
        .and_then(|plan| match part {
            Part::Sm => sm::run(&plan),
            Part::C2s => c2s::run(&plan),
        });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

/// Writes the plan for both.
pub(super) fn write_plan(folder: &Path, plan: &Plan) -> Result<(), String> {
    let file = folder.join(PLAN);
    let text = serde_json::to_vec(plan).map_err(|e| e.to_string())?;
    std::fs::write(&file, text).map_err(|e| format!("{}: {e}", file.display()))
}

/// Logs in at the router and binds.
fn connect(plan: &Plan, names: &Names) -> Result<Stream, String> {
    let router = Router {
        addr: SocketAddr::from((Ipv4Addr::LOCALHOST, plan.router)),
        user: plan.user.clone(),
        pass: plan.pass.clone(),
        secret: String::new(),
        redirects: false,
    };
    let end = Instant::now() + CONNECT_LIMIT;
    let component = loop {
        match Component::connect(&router, names.clone()) {
            Err(_) if Instant::now() < end => std::thread::sleep(Duration::from_millis(50)),
            result => break result?,
        }
    };
    println!("connected to the router");
    Stream::resumed(component.stream, scanner_in_stream(), component.unread).map_err(|e| e.to_string())
}

/// Everything that the router has sent.
fn frames(link: &mut Stream) -> Result<Vec<Vec<u8>>, String> {
    link.fill();
    let mut all = Vec::new();
    while let Some(piece) = link.next().map_err(|why| format!("the router is gone: {why}"))? {
        if let Piece::Frame(frame) = piece {
            all.push(frame);
        }
    }
    Ok(all)
}

/// The route in a frame, if it is one.
fn route(frame: &[u8]) -> Option<Route<'_>> {
    match header::read(frame) {
        Ok(Frame::Route(route)) => Some(route),
        _ => None,
    }
}
