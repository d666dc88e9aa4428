//! The load generator must not believe a router: one that loses, doubles, reorders or alters frames has no figures.

mod liar;

use liar::{Liar, Lie};
use std::process::Command;

/// Runs `jidmesh load pipe` against a router that lies so; gives whether it was content, and what it said.
fn pipe(lie: Lie, more: &[&str]) -> (bool, String) {
    let liar = Liar::start(lie);
    let output = Command::new(env!("CARGO_BIN_EXE_jidmesh"))
        .args([
            "load",
            "pipe",
            "--bytes",
            "265",
            "--seconds",
            "0.5",
            "--warm-up",
            "0.1",
            "--router",
        ])
        .arg(liar.addr.to_string())
        .args(more)
        .output()
        .expect("the program runs");
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    (output.status.success(), text)
}

fn caught(lie: Lie, words: &str) {
    let (content, text) = pipe(lie, &[]);
    assert!(!content && text.contains(words), "{lie:?}: {text}");
}

#[test]
fn an_honest_relay_has_figures() {
    for more in [&[][..], &["--single"], &["--rate", "5000"]] {
        let (content, text) = pipe(Lie::None, more);
        assert!(
            content && text.contains("frames/s") && text.contains("p99.99"),
            "{more:?}: {text}"
        );
    }
}

#[test]
fn figures_are_json_and_a_page_if_asked_for() {
    let page = tempfile::NamedTempFile::new().expect("a file");
    let path = page.path().to_str().expect("a name");
    let (content, text) = pipe(Lie::None, &["--json", "--html", path]);
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert!(
        content && json[0]["sides"][0]["runs"][0]["frames"].as_u64() > Some(100),
        "{text}"
    );
    let page = std::fs::read_to_string(path).expect("a page");
    assert!(page.starts_with("<!DOCTYPE html>") && page.contains("<svg"));
}

#[test]
fn a_lost_frame_is_caught() {
    caught(Lie::Drop, "1 frame(s) before frame 1001 were lost or overtaken");
}

#[test]
fn a_lost_end_is_caught() {
    caught(Lie::Swallow, "were lost: nothing has come for 10 s");
}

#[test]
fn a_doubled_frame_is_caught() {
    caught(Lie::Double, "frame 1000 came twice or too late");
}

#[test]
fn reordered_frames_are_caught() {
    caught(Lie::Swap, "lost or overtaken");
}

#[test]
fn altered_frames_are_caught() {
    caught(Lie::AlterBody, "a stanza was altered");
    caught(Lie::AlterRoute, "a route was altered");
    caught(Lie::AlterId, "lost or overtaken");
    caught(Lie::Malform, "at b1: ");
}

#[test]
fn a_bounce_and_a_closed_stream_are_caught() {
    caught(Lie::Bounce, "came back as an error");
    // Noticed while reading or while writing, whichever comes first.
    caught(Lie::Close, "the router");
}
