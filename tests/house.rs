//! The arrow of the house: each room leans only on rooms below it.

use std::fs;
use std::path::{Path, PathBuf};

/// From the roof to the ground, as `src/lib.rs` draws it.
const ROOMS: [&str; 12] = [
    "demo", "load", "shell", "sim", "operate", "node", "mesh", "route", "table", "config", "wire", "jid",
];

/// Names that only the shell, and what stands above the brain, may know.
const OUTSIDE_WORLD: [&str; 8] = [
    "glommio",
    "std::net::Tcp",
    "std::os::fd",
    "std::thread",
    "Instant::now",
    "SystemTime::now",
    "getrandom",
    "libc::",
];
const SANS_IO: [&str; 8] = ["sim", "node", "mesh", "route", "table", "config", "wire", "jid"];

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("readable") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            found.push(path);
        }
    }
    found
}

/// The code of a room, without comments and tests: (file, line number, line).
fn lines_of(room: &str) -> Vec<(PathBuf, usize, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    if src.join(room).is_dir() {
        files.extend(sources(&src.join(room)));
    }
    files.extend(Some(src.join(format!("{room}.rs"))).filter(|file| file.exists()));
    assert!(!files.is_empty(), "no room {room}");
    let mut lines = Vec::new();
    for file in files
        .into_iter()
        .filter(|file| !file.components().any(|part| part.as_os_str() == "tests"))
    {
        let text = fs::read_to_string(&file).expect("readable");
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        for (number, line) in code.lines().enumerate() {
            let line = line.split("//").next().unwrap_or_default();
            lines.push((file.clone(), number + 1, line.to_owned()));
        }
    }
    lines
}

#[test]
fn arrows_point_down() {
    let mut wrong = Vec::new();
    let mut arrows = 0;
    for (height, room) in ROOMS.iter().enumerate() {
        for (file, number, line) in lines_of(room) {
            for above in &ROOMS[..height] {
                if line.contains(&format!("crate::{above}::")) || line.contains(&format!("crate::{above};")) {
                    wrong.push(format!(
                        "{}:{number}: {room} leans on {above}: {}",
                        file.display(),
                        line.trim()
                    ));
                }
            }
            arrows += usize::from(line.contains("crate::"));
        }
    }
    assert!(arrows > 50, "the check reads the code: {arrows} arrows seen");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn nothing_above_the_shell_is_named_below_it() {
    let mut wrong = Vec::new();
    for room in SANS_IO {
        for (file, number, line) in lines_of(room) {
            for name in OUTSIDE_WORLD.iter().filter(|name| line.contains(**name)) {
                wrong.push(format!("{}:{number}: {name}: {}", file.display(), line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_room_says_what_it_is_for() {
    for room in ROOMS.iter().filter(|room| **room != "jid") {
        let file = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("src")
            .join(room)
            .join("mod.rs");
        let text = fs::read_to_string(&file).expect("readable");
        let head: String = text.lines().take_while(|line| line.starts_with("//!")).collect();
        assert!(
            head.contains("Must never be added"),
            "{} does not say what must never be added",
            file.display()
        );
    }
}
