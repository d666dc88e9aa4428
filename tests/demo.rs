//! `jidmesh demo` with simulated components: it plays to its end, keeps its promises, and leaves nothing behind.
//! With the real jabberd2: `tests/e2e/test_demo.py`.

#![allow(clippy::unwrap_used)]

use std::process::Command;

/// The rows of the table: title, and its four numbers.
fn rows(text: &str) -> Vec<(String, [u32; 4])> {
    let table = text.lines().skip_while(|line| !line.starts_with("messages ")).skip(1);
    table
        .take_while(|line| !line.is_empty())
        .map(|line| {
            let mut words: Vec<&str> = line.split_whitespace().collect();
            let numbers = words.split_off(words.len() - 4);
            let numbers: Vec<u32> = numbers.iter().map(|word| word.parse().unwrap()).collect();
            (words.join(" "), numbers.try_into().unwrap())
        })
        .collect()
}

#[test]
fn the_demo_keeps_its_promises_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_jidmesh"))
        .args(["demo", "--simulated"])
        .env("TMPDIR", folder.path())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{text}\n{errors}");
    let rows = rows(&text);
    assert_eq!(rows.len(), 8, "{text}");
    for (title, [sent, received, duplicates, disordered]) in rows {
        // What was on its way into the machine that dies may be lost or come twice: half a second's messages.
        let at_risk = if title.contains("dies") && !title.contains("dave") || title.contains("stays away") {
            27
        } else {
            0
        };
        assert!(sent > 20, "{title}: {text}");
        assert!(sent - received <= at_risk && duplicates <= at_risk, "{title}: {text}");
        assert_eq!(disordered, 0, "{title}: {text}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "{text}");
}
