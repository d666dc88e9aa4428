//! `jidmesh top`: the node as a picture that is renewed, for a terminal.
//!
//! It asks the admin socket as `jidmesh status` does, and has samples of the frames taken as long as it runs. Only cells
//! that changed are written, once a renewal, so that a slow terminal is enough.

mod draw;
mod picture;

use super::client::Session;
use super::sample::Samples;
use super::status::View;
use super::{admin::Request, client};
use picture::Picture;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyModifiers};
use serde::Deserialize;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// The first picture has rates after so long, milliseconds.
const FIRST_MS: u64 = 300;
/// The node is asked as often as this, milliseconds, also when nothing is to be drawn: or it ends the samples, and the
/// connection.
const ASK_MS: u64 = 2_000;

/// What the command line says.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Renew the picture so often.
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=60))]
    every: u64,
}

/// `jidmesh top`. Fails when the node cannot be asked, or is gone.
pub fn main(admin: &Path, args: &Args) -> ExitCode {
    match watch(admin, args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("jidmesh top: {why}");
            ExitCode::FAILURE
        }
    }
}

fn watch(admin: &Path, args: &Args) -> Result<(), String> {
    if !io::stdout().is_terminal() {
        return Err("it needs a terminal; `jidmesh status` prints the same once, and for programs with --json".into());
    }
    let mut session = Session::open(admin)?;
    let first = look(&mut session)?;
    let mut terminal = ratatui::try_init().map_err(|e| format!("the terminal cannot be used: {e}"))?;
    let end = renew(&mut session, &mut terminal, first, Duration::from_secs(args.every));
    let restored = ratatui::try_restore().map_err(|e| e.to_string());
    end.and(restored)
}

fn look(session: &mut Session<'_>) -> Result<View, String> {
    let status = session.ask(&Request::Status, "status")?;
    View::deserialize(&status).map_err(|e| client::not_as_expected(&e))
}

/// What samples came to; nothing of a node that takes none.
fn sample(session: &mut Session<'_>) -> Samples {
    let samples = session.ask(&Request::Sample, "sample");
    let read = samples.map(|samples| Samples::deserialize(&samples));
    read.ok().and_then(Result::ok).unwrap_or_default()
}

fn renew(
    session: &mut Session<'_>,
    terminal: &mut DefaultTerminal,
    mut former: View,
    every: Duration,
) -> Result<(), String> {
    let mut pause = Duration::from_millis(FIRST_MS);
    let mut picture = Picture::of(None, &former, &sample(session));
    loop {
        let mut draw = |picture: &Picture| {
            let drawn = terminal.draw(|frame| draw::draw(frame, picture));
            drawn.map(|_| ()).map_err(|e| e.to_string())
        };
        draw(&picture)?;
        let until = Instant::now() + pause;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            // A terminal that is gone is an error.
            if !event::poll(left.min(Duration::from_millis(ASK_MS))).map_err(|e| e.to_string())? {
                sample(session);
                continue;
            }
            match event::read().map_err(|e| e.to_string())? {
                Event::Key(key) if is_end(key.code, key.modifiers) => return Ok(()),
                Event::Resize(..) => draw(&picture)?,
                _ => {}
            }
        }
        pause = every;
        let view = look(session)?;
        picture = Picture::of(Some(&former), &view, &sample(session));
        former = view;
    }
}

fn is_end(key: KeyCode, with: KeyModifiers) -> bool {
    matches!(key, KeyCode::Char('q') | KeyCode::Esc)
        || key == KeyCode::Char('c') && with.contains(KeyModifiers::CONTROL)
}
