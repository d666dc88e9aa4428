//! Temporary.
fn main() -> std::process::ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let at = args.iter().position(|a| a == "-c").unwrap();
    let path = std::path::PathBuf::from(&args[at + 1]);
    match jidmesh::config::Config::load(&path) {
        Ok(loaded) => jidmesh::shell::run(loaded.config, Some(path)),
        Err(problems) => {
            for problem in problems {
                eprintln!("{problem}");
            }
            std::process::ExitCode::FAILURE
        }
    }
}
