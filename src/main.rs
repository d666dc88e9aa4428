//! The command line, and nothing else.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use jidmesh::config::{ADMIN_DEFAULT, Config, Loaded, Machine, Problem, Severity};
use jidmesh::shell::Given;

/// Routes the packets of jabberd2's components, in the place of jabberd2-router.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// Without a command: run.
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// A cluster of two machines on this computer, shown at work; needs nothing and leaves nothing behind.
    Demo(jidmesh::demo::Args),
    /// Run a node until SIGTERM; SIGHUP reads the configuration again.
    Run(RunArgs),
    /// Read everything, say what was understood, print a digest to compare machines; or compare several machines.
    Check(CheckArgs),
    /// Show what a running node does, or which links it lost.
    Status(StatusArgs),
    /// Start the program that is installed now in the place of the jidmesh that runs; no component notices.
    Upgrade(UpgradeArgs),
    /// Take a node out of service: its sessions end one after the other, and its users log in elsewhere.
    Drain(DrainArgs),
    /// Say where a user is: node, sm, c2s, resources. Any node of the mesh knows.
    Where(WhereArgs),
    /// Send a probe between every two nodes of the mesh, and print the round trips; fails if one does not come back.
    Selftest(NodeArgs),
    /// Watch a node: rates, links, queues, the other nodes, and what is dropped why. `q` ends it.
    Top(TopArgs),
    /// Follow the stanzas of a user through shards and nodes: each step, and the time between them.
    Trace(TraceArgs),
    /// Measure a router: this one, or a stock jabberd2-router.
    Load(jidmesh::load::Args),
    /// Compare settings on this machine and write a tuning profile; or check a configuration against the machine.
    Tune(jidmesh::load::tune::Args),
    /// Write man pages and shell completions below a folder, for packagers.
    #[command(hide = true)]
    Generate {
        /// As /usr/share.
        folder: PathBuf,
    },
    /// Say what a cluster needs: memory, CPU and traffic of each node.
    Model(jidmesh::load::model::Args),
}

#[derive(Args, Debug)]
struct FileArgs {
    /// The configuration file (Debian's: /etc/jabberd2/router.xml); without it, settings for loopback only.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct CheckArgs {
    #[command(flatten)]
    file: FileArgs,
    /// The machines of one mesh: the configuration file of each, or a folder of its name that holds the files of
    /// `/etc/jabberd2`.
    #[arg(conflicts_with = "config")]
    machines: Vec<PathBuf>,
}

#[derive(Args, Debug)]
struct RunArgs {
    #[command(flatten)]
    file: FileArgs,
    /// Where to make the admin socket; without this, what the configuration says.
    #[arg(long, value_name = "PATH")]
    admin: Option<PathBuf>,
    /// Take over from the jidmesh that runs: its links, sessions and frames; no component notices. Without one, or when
    /// it refuses, nothing is started.
    #[arg(long)]
    takeover: bool,
    /// Accepted, as jabberd2-router has it: everything worth a line is logged anyway.
    #[arg(short = 'D', long)]
    debug: bool,
}

#[derive(Args, Debug)]
struct NodeArgs {
    #[command(flatten)]
    file: FileArgs,
    /// The node's admin socket; without this, what the configuration says.
    #[arg(long, value_name = "PATH")]
    admin: Option<PathBuf>,
    /// For programs.
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
struct StatusArgs {
    /// The last 10 000 links that ended, and why; the newest at the end.
    #[arg(long)]
    closed: bool,
    #[command(flatten)]
    node: NodeArgs,
}

#[derive(Args, Debug)]
struct UpgradeArgs {
    #[command(flatten)]
    file: FileArgs,
    /// The node's admin socket; without this, what the configuration says.
    #[arg(long, value_name = "PATH")]
    admin: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct DrainArgs {
    #[command(flatten)]
    drain: jidmesh::operate::drain::Args,
    #[command(flatten)]
    node: NodeArgs,
}

#[derive(Args, Debug)]
struct TopArgs {
    #[command(flatten)]
    top: jidmesh::operate::top::Args,
    #[command(flatten)]
    node: NodeArgs,
}

#[derive(Args, Debug)]
struct TraceArgs {
    #[command(flatten)]
    trace: jidmesh::operate::trace::Args,
    #[command(flatten)]
    node: NodeArgs,
}

#[derive(Args, Debug)]
struct WhereArgs {
    /// The user; with a resource, that session alone.
    jid: String,
    #[command(flatten)]
    node: NodeArgs,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if matches!(
        cli.command,
        Some(Command::Check(_) | Command::Status(_) | Command::Where(_) | Command::Selftest(_) | Command::Model(_))
    ) {
        jidmesh::shell::end_with_reader();
    }
    match cli.command {
        Some(Command::Demo(args)) => jidmesh::demo::main(&args),
        Some(Command::Check(args)) => check(&args),
        Some(Command::Status(args)) if args.closed => ask(args.node, jidmesh::operate::closed::main),
        Some(Command::Status(args)) => ask(args.node, jidmesh::operate::status::main),
        Some(Command::Upgrade(args)) => upgrade(args),
        Some(Command::Drain(args)) => ask(args.node, |admin, _| jidmesh::operate::drain::main(admin, &args.drain)),
        Some(Command::Top(args)) => ask(args.node, |admin, _| jidmesh::operate::top::main(admin, &args.top)),
        Some(Command::Trace(args)) => ask(args.node, |admin, json| {
            jidmesh::operate::trace::main(admin, &args.trace, json)
        }),
        Some(Command::Where(args)) => ask(args.node, |admin, json| {
            jidmesh::operate::inquire::main_where(admin, &args.jid, json)
        }),
        Some(Command::Selftest(args)) => ask(args, jidmesh::operate::inquire::main_selftest),
        Some(Command::Load(args)) => jidmesh::load::main(args),
        Some(Command::Tune(args)) => jidmesh::load::tune::main(&args),
        Some(Command::Generate { folder }) => match generate(&folder) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("jidmesh generate: {}: {error}", folder.display());
                ExitCode::FAILURE
            }
        },
        Some(Command::Model(args)) => jidmesh::load::model::main(&args),
        Some(Command::Run(args)) => run(&args),
        None => run(&cli.run),
    }
}

fn run(args: &RunArgs) -> ExitCode {
    let path = args.file.config.clone();
    match load(path.as_deref()) {
        Ok(loaded) => {
            complain(&loaded.warnings);
            if path.is_none() {
                print!("{}", loaded.config.how_to_connect());
            }
            let given = Given {
                path,
                admin: args.admin.clone(),
                takeover: args.takeover,
                warnings: loaded.warnings,
            };
            jidmesh::shell::run(loaded.config, given)
        }
        Err(problems) => refuse(&problems),
    }
}

fn check(args: &CheckArgs) -> ExitCode {
    if !args.machines.is_empty() {
        return compare(&args.machines);
    }
    let path = args.file.config.clone();
    match load(path.as_deref()) {
        Ok(loaded) => {
            complain(&loaded.warnings);
            match &path {
                Some(path) => println!("{}: good, {}", path.display(), count(loaded.warnings.len(), "warning")),
                None => println!("no configuration file: settings for loopback only"),
            }
            print!("{}", loaded.config.describe());
            ExitCode::SUCCESS
        }
        Err(problems) => refuse(&problems),
    }
}

/// Looks at each machine, and at all of them side by side.
fn compare(paths: &[PathBuf]) -> ExitCode {
    let mut machines = Vec::new();
    for path in paths {
        match Machine::load(path) {
            Ok(machine) => {
                let (config, warnings) = (&machine.loaded.config, &machine.loaded.warnings);
                complain(warnings);
                let mode = if config.uplink.is_some() { "attached" } else { "router" };
                let node = config.mesh.as_ref().map_or("no mesh", |mesh| &mesh.node);
                let (file, warnings) = (machine.path.display(), count(warnings.len(), "warning"));
                println!("{file}: {node}, {mode} mode, digest {}, {warnings}", config.digest());
                machines.push(machine);
            }
            Err(problems) => return refuse(&problems),
        }
    }
    let problems = Machine::compare(&machines);
    complain(&problems);
    let (errors, rest): (Vec<_>, Vec<_>) = problems.iter().partition(|problem| problem.severity == Severity::Error);
    let (errors, rest) = (count(errors.len(), "error"), count(rest.len(), "warning"));
    println!("side by side: {errors}, {rest}");
    match problems.iter().any(|problem| problem.severity == Severity::Error) {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    }
}

/// Asks a running node, at its admin socket.
fn ask(args: NodeArgs, command: impl FnOnce(&Path, bool) -> ExitCode) -> ExitCode {
    let configured = || {
        // A file that is named must be good; the usual one only helps.
        match (load(args.file.config.as_deref()), &args.file.config) {
            (Ok(loaded), _) => Ok(loaded.config.admin),
            (Err(problems), Some(_)) => Err(problems),
            (Err(_), None) => Ok(None),
        }
    };
    let admin = match args.admin {
        Some(admin) => Some(admin),
        None => match configured() {
            Ok(admin) => admin,
            Err(problems) => return refuse(&problems),
        },
    };
    command(&admin.unwrap_or_else(|| PathBuf::from(ADMIN_DEFAULT)), args.json)
}

fn upgrade(UpgradeArgs { file, admin }: UpgradeArgs) -> ExitCode {
    let config = file.config.clone();
    let (json, node) = (false, file);
    ask(
        NodeArgs {
            file: node,
            admin,
            json,
        },
        |admin, _| jidmesh::operate::upgrade::main(admin, config.as_deref()),
    )
}

/// Man pages and completions below `folder`, where distributions have them below /usr/share.
fn generate(folder: &Path) -> std::io::Result<()> {
    let place = |below: &str| {
        let place = folder.join(below);
        std::fs::create_dir_all(&place).map(|()| place)
    };
    clap_mangen::generate_to(Cli::command(), place("man/man1")?)?;
    for (shell, below) in [
        (Shell::Bash, "bash-completion/completions"),
        (Shell::Zsh, "zsh/vendor-completions"),
        (Shell::Fish, "fish/vendor_completions.d"),
    ] {
        clap_complete::generate_to(shell, &mut Cli::command(), "jidmesh", place(below)?)?;
    }
    Ok(())
}

fn load(path: Option<&Path>) -> Result<Loaded, Vec<Problem>> {
    match path {
        Some(path) => Config::load(path),
        None => Ok(Loaded {
            config: Config::embedded(),
            warnings: Vec::new(),
        }),
    }
}

fn complain(problems: &[Problem]) {
    for problem in problems {
        eprintln!("{problem}");
    }
}

fn refuse(problems: &[Problem]) -> ExitCode {
    complain(problems);
    eprintln!("jidmesh: the configuration can't be used");
    ExitCode::FAILURE
}

fn count(n: usize, what: &str) -> String {
    match n {
        0 => format!("no {what}s"),
        1 => format!("1 {what}"),
        n => format!("{n} {what}s"),
    }
}
