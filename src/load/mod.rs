//! The load generator: simulated components on real sockets, against jidmesh or any jabberd2-router.
//!
//! For: figures that others can repeat. Invariants: every frame is checked for order and content while it is counted,
//! so a router that loses or alters frames has no figures; both routers are driven by the same code, on the same
//! machine, in turn. Must never be added: knowledge of the router's inside, or a shortcut that real components lack.

mod compare;
mod component;
mod cpu;
mod frame;
mod pipe;
mod report;

use clap::{Args as ClapArgs, Subcommand};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

/// `jidmesh load ...`
#[derive(ClapArgs, Debug)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Frames between two native components through a router that is running.
    Pipe(PipeArgs),
    /// Starts jabberd2-router and jidmesh on private ports and measures both, in turn.
    Compare(CompareArgs),
}

/// What is sent, however the router was started.
#[derive(ClapArgs, Clone, Debug)]
struct Shape {
    /// Bytes per frame; repeat it or separate by commas for several measurements.
    #[arg(long, value_delimiter = ',', default_value = "265,1024,16384")]
    bytes: Vec<usize>,
    /// Seconds per measurement.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Bytes on their way at most.
    #[arg(long, default_value_t = 4 << 20)]
    window: usize,
    /// Bytes per write, in whole frames.
    #[arg(long, default_value_t = 64 << 10)]
    write: usize,
    /// 0: pipelined, as many frames as the window holds. 1: one frame on its way, for latencies.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=1))]
    outstanding: u8,
    /// Pins the generator to this CPU.
    #[arg(long)]
    cpu: Option<usize>,
    /// Prints JSON instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(ClapArgs, Debug)]
struct PipeArgs {
    /// The router's component port.
    #[arg(long, default_value = "127.0.0.1:5347")]
    router: SocketAddr,
    /// User name of the components.
    #[arg(long, default_value = "jabberd")]
    user: String,
    /// Their secret.
    #[arg(long, default_value = "secret")]
    pass: String,
    /// The router's process, whose CPU time is counted.
    #[arg(long)]
    pid: Option<u32>,
    #[command(flatten)]
    shape: Shape,
}

#[derive(ClapArgs, Debug)]
struct CompareArgs {
    /// The stock router.
    #[arg(long, default_value = "/usr/sbin/jabberd2-router")]
    stock: PathBuf,
    /// jidmesh; this very program if left out.
    #[arg(long)]
    jidmesh: Option<PathBuf>,
    /// Measures the stock router alone.
    #[arg(long)]
    only_stock: bool,
    /// Runs of each measurement, routers taking turns.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Pins the routers to this CPU.
    #[arg(long, default_value_t = 0)]
    server_cpu: usize,
    #[command(flatten)]
    shape: Shape,
}

/// Runs a load command.
pub fn main(args: Args) -> ExitCode {
    let result = match args.command {
        Command::Pipe(args) => run_pipe(&args),
        Command::Compare(args) => compare::run(&args),
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

fn run_pipe(args: &PipeArgs) -> Result<String, String> {
    cpu::pin(args.shape.cpu)?;
    let target = pipe::Target {
        router: args.router,
        user: &args.user,
        pass: &args.pass,
        pid: args.pid,
    };
    let mut figures = Vec::new();
    for &bytes in &args.shape.bytes {
        figures.push(pipe::measure(&target, &args.shape, bytes)?);
    }
    if args.shape.json {
        report::json(&figures)
    } else {
        Ok(report::table(&figures))
    }
}
