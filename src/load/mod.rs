//! The load generator: simulated components on real sockets, against jidmesh or any jabberd2-router.
//!
//! For: figures that others can repeat. Invariants: every frame is checked while it is counted (it came once, in the
//! order of its flow, unaltered, at the right component), so a router that loses or alters frames has no figures; all
//! routers are driven by the same code, on the same machine, in turn. Must never be added: knowledge of the router's
//! inside, or a shortcut that real components lack.
//!
//! A [workload] connects [components](component) and makes a [plan]: a [book] of frames, lanes that
//! send them, links that read. The [engine] runs it on one or more [threads](worker); a frame carries a
//! [stamp] by which its receiver knows what it must be and when it was due.
//!
//! [`tune`] compares settings of jidmesh in the same way, and writes a profile.

mod answer;
mod arrive;
mod book;
mod compare;
pub(crate) mod component;
mod cpu;
mod doze;
mod engine;
mod figures;
mod html;
mod link;
mod mix;
pub mod model;
mod people;
mod plan;
mod poll;
mod redirects;
mod relay;
mod report;
mod rng;
mod rows;
mod server;
mod stamp;
mod svg;
mod table;
pub mod tune;
mod worker;
mod workload;

use clap::{Args as ClapArgs, Subcommand};
use compare::CompareArgs;
use component::Router;
use engine::{Engine, Timing};
use figures::Figures;
use relay::RelayArgs;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use workload::fair::{self, FairArgs};
use workload::logins::{LoginsArgs, Storm};
use workload::pairs::{self, PingArgs, PipeArgs};
use workload::users::{self, UsersArgs};

/// `jidmesh load ...`
#[derive(ClapArgs, Debug)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Frames from one native component of each pair to the other.
    Pipe(Against<PipeArgs>),
    /// Round trips between two native components, one frame on its way.
    Ping(Against<PingArgs>),
    /// Traffic between users who are logged in.
    Users(Against<UsersArgs>),
    /// Logins and logouts, as fast as it goes or at a rate.
    Logins(Against<LoginsArgs>),
    /// Polite links beside one that floods, or that does not read.
    Fair(Against<FairArgs>),
    /// Starts jabberd2-router, jidmesh and a dumb relay on private ports and measures them in turn.
    Compare(CompareArgs),
    /// A dumb relay for `pipe` and `ping`: what no router can beat.
    Relay(RelayArgs),
}

/// A workload against a router that runs.
#[derive(ClapArgs, Clone, Debug)]
struct Against<W: ClapArgs> {
    #[command(flatten)]
    workload: W,
    /// The router's component port; several: nodes of one mesh, to which the components are dealt in turn.
    #[arg(long, default_value = "127.0.0.1:5347", value_delimiter = ',')]
    router: Vec<SocketAddr>,
    /// User name of the components.
    #[arg(long, default_value = "jabberd")]
    user: String,
    /// Their secret.
    #[arg(long, default_value = "secret")]
    pass: String,
    /// The secret of XEP-0114 components.
    #[arg(long, default_value = "secret")]
    secret: String,
    /// The router's process, whose CPU time is counted; several: all nodes of a mesh.
    #[arg(long, value_delimiter = ',')]
    pid: Vec<u32>,
    #[command(flatten)]
    how: How,
}

/// How to measure, and what to print.
#[derive(ClapArgs, Clone, Debug)]
struct How {
    /// Seconds per measurement.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Seconds of traffic before it.
    #[arg(long, default_value_t = 0.5)]
    warm_up: f64,
    /// Pins the generator to these CPUs, a thread to each.
    #[arg(long, value_delimiter = ',')]
    cpu: Vec<usize>,
    /// Prints JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Writes a page with plots to this file.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Prints nothing while it runs.
    #[arg(long)]
    quiet: bool,
}

impl How {
    fn timing(&self) -> Timing {
        Timing {
            warm_up_s: self.warm_up,
            seconds: self.seconds,
            progress: self.progress(),
        }
    }

    fn progress(&self) -> bool {
        !self.quiet && std::io::stderr().is_terminal()
    }
}

impl<W: ClapArgs> Against<W> {
    fn routers(&self) -> Vec<Router> {
        let router = |&addr| Router {
            addr,
            user: self.user.clone(),
            pass: self.pass.clone(),
            secret: self.secret.clone(),
            redirects: false,
        };
        self.router.iter().map(router).collect()
    }

    fn measure(&self, plan: plan::Plan, links: Vec<link::Link>) -> Result<Figures, String> {
        Engine::new(plan, links, &self.how.cpu)?.measure(&self.pid, &self.how.timing())
    }

    fn report(&self, figures: Vec<Figures>) -> Result<String, String> {
        report::figures(figures, &self.how)
    }
}

/// Runs a load command.
pub fn main(args: Args) -> ExitCode {
    let result = match args.command {
        Command::Pipe(args) => pipe(&args),
        Command::Ping(args) => ping(&args),
        Command::Users(args) => users(&args),
        Command::Logins(args) => logins(&args),
        Command::Fair(args) => fair(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Relay(args) => relay::run(&args).map(|()| String::new()),
    };
    match result {
        Ok(text) => {
            println!("{}", text.trim_end());
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("jidmesh load: {why}");
            ExitCode::FAILURE
        }
    }
}

fn pipe(args: &Against<PipeArgs>) -> Result<String, String> {
    let one = |bytes: &usize| {
        let (plan, links) = pairs::pipe(&args.workload, *bytes, &args.routers())?;
        args.measure(plan, links)
    };
    let figures: Vec<Figures> = args.workload.bytes.iter().map(one).collect::<Result<_, String>>()?;
    args.report(figures)
}

fn ping(args: &Against<PingArgs>) -> Result<String, String> {
    let one = |bytes: &usize| {
        let (plan, links) = pairs::ping(&args.workload, *bytes, &args.routers())?;
        args.measure(plan, links)
    };
    let figures: Vec<Figures> = args.workload.bytes.iter().map(one).collect::<Result<_, String>>()?;
    args.report(figures)
}

fn users(args: &Against<UsersArgs>) -> Result<String, String> {
    let (plan, links) = users::users(&args.workload, &args.routers(), args.how.progress())?;
    args.report(vec![args.measure(plan, links)?])
}

fn logins(args: &Against<LoginsArgs>) -> Result<String, String> {
    let mut storm = Storm::new(&args.workload, &args.routers(), args.how.cpu.first().copied())?;
    args.report(vec![storm.measure(&args.pid, &args.how.timing())?])
}

fn fair(args: &Against<FairArgs>) -> Result<String, String> {
    let (plan, links) = fair::fair(&args.workload, &args.routers())?;
    args.report(vec![args.measure(plan, links)?])
}
