//! The load generator: simulated components on real sockets.
use std::process::ExitCode;

/// `jidmesh load ...`
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {}

/// Runs a load command.
pub fn main(args: Args) -> ExitCode {
    match args.command {}
}
