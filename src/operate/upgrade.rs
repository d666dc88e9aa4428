//! `jidmesh upgrade`: the program that is installed now takes the place of the process that runs.
//!
//! It starts `jidmesh run --takeover` as a process of its own and waits until that one answers at the admin socket, or
//! has ended with the reason. The service manager learns from the new process that it is the main one (`MAINPID=`), so
//! this command is what a unit's `ExecReload=` calls.

use rustix::process::Uid;
use std::io::{self, ErrorKind};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// How long the new process may take, milliseconds: to build itself up, and to see the old one end.
const UPGRADE_MS: u64 = 30_000;
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Upgrades the process behind `admin`, which was started with the configuration `config`.
pub fn main(admin: &Path, config: Option<&Path>) -> ExitCode {
    match upgrade(admin, config) {
        Ok((from, to)) => {
            println!("process {to} has taken over from process {from}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("jidmesh upgrade: {why}");
            ExitCode::FAILURE
        }
    }
}

/// The old process and the new one.
fn upgrade(admin: &Path, config: Option<&Path>) -> Result<(u32, u32), String> {
    let at = admin.display();
    let (former, user) = listener(admin).map_err(|error| format!("{at}: {error}; is a jidmesh running there?"))?;
    if user != rustix::process::geteuid() {
        let user = user.as_raw();
        return Err(format!(
            "process {former} runs as user {user}, and the new one would not: 'systemctl reload jidmesh' does this as the \
             service's user"
        ));
    }
    let mut child = start(admin, config).map_err(|error| format!("the new process can't be started: {error}"))?;
    let until = Instant::now() + Duration::from_millis(UPGRADE_MS);
    while Instant::now() < until {
        if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
            return Err(format!("the new process has ended ({status}); the former one goes on"));
        }
        if listener(admin).is_ok_and(|(pid, _)| pid == child.id()) {
            return Ok((former, child.id()));
        }
        std::thread::sleep(LOOK);
    }
    Err(format!(
        "process {} does not answer at {at} after {} s: see its log",
        child.id(),
        UPGRADE_MS / 1_000
    ))
}

/// What is installed where this command is.
fn start(admin: &Path, config: Option<&Path>) -> io::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["run", "--takeover", "--admin"]).arg(admin);
    if let Some(config) = config {
        command.arg("-c").arg(config);
    }
    // What ends this command, a signal to its group among them, does not end the node.
    command.stdin(Stdio::null()).process_group(0).spawn()
}

/// The process that listens there, and its user.
fn listener(admin: &Path) -> io::Result<(u32, Uid)> {
    let peer = rustix::net::sockopt::socket_peercred(UnixStream::connect(admin)?)?;
    let pid = u32::try_from(peer.pid.as_raw_nonzero().get());
    let pid = pid.map_err(|_| io::Error::from(ErrorKind::InvalidData))?;
    Ok((pid, peer.uid))
}
