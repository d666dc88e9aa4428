//! The load generator without the rest of the command line: `cargo bench --bench load -- compare --only-stock`.

use clap::Parser;

#[derive(Parser)]
struct Cli {
    /// What cargo gives every benchmark.
    #[arg(long, hide = true, global = true)]
    bench: bool,
    #[command(flatten)]
    load: jidmesh::load::Args,
}

fn main() -> std::process::ExitCode {
    jidmesh::load::main(Cli::parse().load)
}
