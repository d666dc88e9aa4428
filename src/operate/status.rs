//! `jidmesh status`: asks the admin socket and prints what an operator wants to know.
use std::path::Path;
use std::process::ExitCode;

/// Asks the node behind the admin socket for its state and prints it: as tables, or with `json` complete.
/// Fails with a line on standard error that says what to do.
pub fn main(admin: &Path, json: bool) -> ExitCode {
    let _ = (admin, json);
    ExitCode::FAILURE
}
