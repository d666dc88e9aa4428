//! The process: from a configuration to an exit code.
use crate::config::Config;
use std::path::PathBuf;
use std::process::ExitCode;

/// Runs until SIGTERM.
pub fn run(config: Config, path: Option<PathBuf>) -> ExitCode {
    let _ = (config, path);
    ExitCode::FAILURE
}
