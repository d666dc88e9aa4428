//! `jidmesh tune`: compares settings on this machine, and writes a profile with the measurements in it.

mod check;
mod machine;
mod profile;
mod search;

use super::How;
use crate::config::{Config, Tuning};
use machine::Machine;
use search::Search;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// `jidmesh tune ...`
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Where to write the profile; `<tuning>FILE</tuning>` in router.xml uses it.
    #[arg(short, long, value_name = "FILE", default_value = "tuned.xml")]
    output: PathBuf,
    /// What counts.
    #[arg(long = "for", value_enum, default_value_t = Goal::Cpu)]
    goal: Goal,
    /// Runs of each measurement, candidates taking turns.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(3..=100))]
    runs: u16,
    /// Seconds of each run.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Measures nothing: compares a configuration and the node that runs with it with what this machine is.
    #[arg(long)]
    check: bool,
    /// With --check: the configuration (Debian's: /etc/jabberd2/router.xml); without it, the embedded one.
    #[arg(short, long, value_name = "FILE", requires = "check")]
    config: Option<PathBuf>,
    /// With --check: the node's admin socket; without this, what the configuration says.
    #[arg(long, value_name = "PATH", requires = "check")]
    admin: Option<PathBuf>,
}

/// What a setting must make better to be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Goal {
    /// CPU per frame.
    Cpu,
    /// Frames per second.
    Frames,
    /// The 99th percentile of the latency.
    Latency,
}

impl Goal {
    fn words(self) -> &'static str {
        match self {
            Goal::Cpu => "CPU seconds per million frames",
            Goal::Frames => "frames per second",
            Goal::Latency => "p99 of the latency, microseconds",
        }
    }
}

/// Runs the command.
pub fn main(args: &Args) -> ExitCode {
    let done = match args.check {
        true => checked(args),
        false => tuned(args),
    };
    match done {
        Ok((text, good)) => {
            print!("{text}");
            if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(why) => {
            eprintln!("jidmesh tune: {why}");
            ExitCode::FAILURE
        }
    }
}

fn tuned(args: &Args) -> Result<(String, bool), String> {
    let machine = Machine::look()?;
    print!("{}", machine.shown());
    let how = How {
        seconds: args.seconds,
        warm_up: 0.3,
        cpu: Vec::new(),
        json: false,
        html: None,
        quiet: false,
    };
    let search = Search::new(&machine, args.goal, usize::from(args.runs), &how)?;
    let found = search.run(Tuning::default())?;
    let text = profile::text(&found, &machine, args.goal);
    std::fs::write(&args.output, &text).map_err(|e| format!("{}: {e}", args.output.display()))?;
    let path = std::fs::canonicalize(&args.output).unwrap_or_else(|_| args.output.clone());
    let said = format!(
        "\n{}\nWritten to {path}. To use it: <tuning>{path}</tuning> in <router>, then restart jidmesh.\n",
        profile::choice(&found),
        path = path.display(),
    );
    Ok((said, true))
}

fn checked(args: &Args) -> Result<(String, bool), String> {
    let machine = Machine::look()?;
    let config = match &args.config {
        None => Config::embedded(),
        Some(path) => read(path)?,
    };
    let admin = args.admin.clone().or_else(|| config.admin.clone());
    let admin = admin.unwrap_or_else(|| PathBuf::from(crate::config::ADMIN_DEFAULT));
    Ok(check::compare(&config, &machine, &admin))
}

fn read(path: &Path) -> Result<Config, String> {
    let loaded = Config::load(path).map_err(|problems| {
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        lines.join("\n")
    })?;
    Ok(loaded.config)
}
