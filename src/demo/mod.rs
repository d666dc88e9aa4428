//! `jidmesh demo`: a cluster of two machines on this computer, at work, told in plain lines.
//!
//! For: somebody who has never heard of jabberd2. Invariants: no rights and no configuration are needed; all is on
//! loopback and in one folder that goes away; only processes that were started here are ended, and none outlives this
//! one; every wait has a limit and says what it waited for. Must never be added: anything that a client or component of
//! others could not do, and a figure that was not seen in this very run.

mod client;
mod jabberd;
mod machine;
mod model;
mod place;
mod process;
mod story;
mod stream;
mod talk;
mod world;

use crate::shell::Signals;
use jabberd::Jabberd;
use machine::Parts;
use place::Folder;
use std::process::ExitCode;
use std::time::Instant;
use world::{Stop, World};

/// The domain that both machines serve. Clients find it without being told where it is.
const DOMAIN: &str = "localhost";
const USERS: [&str; 4] = ["alice", "bob", "carol", "dave"];
const PASSWORD: &str = "demo";
const MACHINES: [&str; 2] = ["east", "west"];

/// `jidmesh demo ...`
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Leaves the two machines running at the end, until Ctrl-C, and says how to log in with any XMPP client.
    #[arg(long)]
    keep: bool,
    /// Plays with simulated components even where jabberd2 is installed.
    #[arg(long)]
    simulated: bool,
    /// Plays one simulated component; the demo starts itself so.
    #[arg(long, hide = true)]
    play: Option<model::Part>,
}

/// Plays it. Success means that everything came out as promised.
pub fn main(args: &Args) -> ExitCode {
    if let Some(part) = args.play {
        return model::play(part);
    }
    let begun = Instant::now();
    // Before anything that must be cleaned up is there.
    let signals = Signals::block();
    match play(args, begun, signals) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(Stop::Interrupted) => {
            println!("\nInterrupted. Everything is ended and removed.");
            ExitCode::FAILURE
        }
        Err(Stop::Failed(why)) => {
            eprintln!("\njidmesh demo: {why}");
            ExitCode::FAILURE
        }
    }
}

fn play(args: &Args, begun: Instant, signals: Signals) -> Result<bool, Stop> {
    let (parts, served_by) = match (args.simulated, Jabberd::find()) {
        (false, Ok(jabberd)) => (
            Parts::Real(jabberd),
            "jabberd2, the chat server that is installed here".to_owned(),
        ),
        (true, _) => (Parts::Simulated, "simulated, as asked for".to_owned()),
        (false, Err(missing)) => (
            Parts::Simulated,
            format!("simulated, because {missing}; with Debian's packages jabberd2 and sqlite3 they are real"),
        ),
    };
    // Made before the processes, so that it goes after them.
    let folder = Folder::new()?;
    introduce(&served_by, &folder);
    let machines = machine::prepare(&parts, folder.path(), MACHINES)?;
    let mut world = World::new(begun, signals, machines);
    let good = story::tell(&mut world)?;
    if args.keep {
        keep(&mut world)?;
    }
    println!(
        "\nEverything is ended and removed, {:.0} s in all.",
        begun.elapsed().as_secs_f64()
    );
    Ok(good)
}

fn introduce(served_by: &str, folder: &Folder) {
    println!(
        "jidmesh demo: two machines serve one chat domain, and one of them dies.\n\n\
         All of it is on this computer: on 127.0.0.1, and in {}.\n\
         A machine is what a server would run, three processes: c2s (clients connect to it), sm (sessions, contact\n\
         lists, stored messages) and jidmesh, which makes one cluster of the machines. Both share one database of users.\n\
         Here, c2s and sm are {served_by}.",
        folder.path().display()
    );
}

/// Runs on until somebody ends it.
fn keep(world: &mut World) -> Result<(), Stop> {
    println!("\nThe two machines go on running until Ctrl-C. Log in with any XMPP client, on either of them:");
    for machine in &world.machines {
        println!(
            "  {}: server {}, port {}, no encryption    (its state: jidmesh status --admin {})",
            machine.name,
            machine.clients.ip(),
            machine.clients.port(),
            machine.admin().display()
        );
    }
    println!(
        "  users: {}; password: {PASSWORD}",
        USERS.map(|user| format!("{user}@{DOMAIN}")).join(", ")
    );
    world.switch_off();
    match world.run() {
        Stop::Interrupted => Ok(()),
        failed => Err(failed),
    }
}
