#![allow(clippy::unwrap_used)]
use super::writer::Syslog;
use super::*;
use crate::node::api::Level;
use std::os::unix::net::UnixDatagram;
use std::time::Instant;

const WAIT: Duration = Duration::from_secs(10);

fn line(text: &str) -> LogLine {
    LogLine {
        level: Level::Notice,
        remote: None,
        text: text.into(),
    }
}

fn formatted(at: SystemTime, line: &LogLine) -> String {
    let mut bytes = Vec::new();
    format::file_line(at, line, &mut bytes);
    String::from_utf8(bytes).unwrap()
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < WAIT, "{what}: not within {WAIT:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_line_has_time_level_address_and_text() {
    let remote = Some("[::ffff:127.0.0.1]:40712".parse().unwrap());
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_709_164_799_007);
    let text = formatted(
        at,
        &LogLine {
            level: Level::Warning,
            remote,
            text: "connect".into(),
        },
    );
    assert_eq!(
        text,
        "2024-02-28T23:59:59.007Z [warning] [127.0.0.1, port=40712] connect\n"
    );
}

/// Compared with `date -u -d @N`.
#[test]
fn dates_know_leap_years() {
    for (seconds, date) in [
        (0, "1970-01-01T00:00:00"),
        (951_782_400, "2000-02-29T00:00:00"),
        (1_709_251_199, "2024-02-29T23:59:59"),
        (1_735_689_599, "2024-12-31T23:59:59"),
        (4_107_542_400, "2100-03-01T00:00:00"),
    ] {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert!(formatted(at, &line("")).starts_with(date), "{seconds} is {date}");
    }
}

#[test]
fn a_name_cannot_forge_a_line_and_long_ones_are_cut() {
    let at = SystemTime::now();
    let text = formatted(at, &line("a\nb\u{1b}[2J\u{2028}c"));
    assert_eq!(text.lines().count(), 1);
    assert!(text.contains("a\\u{a}b\\u{1b}[2J\\u{2028}c"), "{text}");
    assert!(formatted(at, &line(&"é".repeat(MAX_LINE_BYTES))).len() < MAX_LINE_BYTES + 100);
}

#[test]
fn lines_and_appends_reach_their_files_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let (path, other) = (folder.path().join("log"), folder.path().join("messages"));
    let log = start(LogTarget::File(path.clone()), "test");
    for i in 0..1000 {
        log.send(line(&format!("line {i}")));
        log.append(other.clone(), format!("entry {i}\n").into_bytes());
    }
    assert!(log.flush(WAIT));
    assert_eq!(log.lost(), 0);
    let text = std::fs::read_to_string(path).unwrap();
    assert!(
        text.lines()
            .enumerate()
            .all(|(i, l)| l.ends_with(&format!("[notice] line {i}")))
    );
    let expected: String = (0..1000).map(|i| format!("entry {i}\n")).collect();
    assert_eq!(std::fs::read_to_string(other).unwrap(), expected);
}

#[test]
fn logrotate_gets_a_new_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let log = start(LogTarget::File(path.clone()), "test");
    log.send(line("old"));
    assert!(log.flush(WAIT));
    std::fs::rename(&path, folder.path().join("log.1")).unwrap();
    log.reopen();
    log.send(line("new"));
    assert!(log.flush(WAIT));
    assert!(std::fs::read_to_string(&path).unwrap().ends_with("new\n"));
    assert!(
        std::fs::read_to_string(folder.path().join("log.1"))
            .unwrap()
            .ends_with("old\n")
    );
}

#[test]
fn a_missing_folder_loses_nothing_once_it_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("later/log");
    let log = start(LogTarget::File(path.clone()), "test");
    log.send(line("before"));
    assert!(!log.flush(WAIT), "nothing can have been written");
    std::fs::create_dir(folder.path().join("later")).unwrap();
    until("the line is written", || {
        std::fs::read_to_string(&path).is_ok_and(|t| t.ends_with("before\n"))
    });
    assert_eq!(log.lost(), 0);
}

#[test]
fn a_full_disk_stops_nobody_and_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    // Writing there fails with "no space left on device"; unlinking the name makes room.
    std::os::unix::fs::symlink("/dev/full", &path).unwrap();
    let log = start(LogTarget::File(path.clone()), "test");
    let start_at = Instant::now();
    let text = "x".repeat(1_000);
    for _ in 0..5_000 {
        log.send(line(&text));
    }
    assert!(start_at.elapsed() < WAIT, "sending waited for the disk");
    assert!(!log.flush(WAIT));
    let lost = log.lost();
    assert!(
        lost > 0 && lost < 5_000,
        "{lost}: more than the backlog came, and the backlog was kept"
    );
    std::fs::remove_file(&path).unwrap();
    until("the loss is reported", || {
        std::fs::read_to_string(&path).is_ok_and(|t| t.contains(&format!("{lost} log entries were lost")))
    });
    assert_eq!(
        std::fs::read_to_string(&path).unwrap().lines().count() as u64,
        5_000 - lost + 1
    );
}

#[test]
fn a_queue_that_nobody_reads_is_bounded() {
    let (sender, queue) = crossbeam_channel::bounded(MAX_QUEUED);
    let log = LogSender {
        sender,
        shared: Arc::default(),
    };
    let big = vec![0; MAX_QUEUED_BYTES / 4 + 1];
    for _ in 0..5 {
        log.append("x".into(), big.clone());
    }
    assert_eq!((queue.len(), log.lost()), (3, 2));
    for _ in 0..2 * MAX_QUEUED {
        log.send(line(""));
    }
    assert_eq!(queue.len(), MAX_QUEUED);
    assert_eq!(log.lost() as usize, 5 + 2 * MAX_QUEUED - MAX_QUEUED);
    assert!(!log.flush(Duration::from_millis(10)));
}

#[test]
fn more_files_than_stay_open_are_written_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let log = start(LogTarget::File(folder.path().join("log")), "test");
    for i in 1..100 {
        log.append(folder.path().join(i.to_string()), vec![b'x'; i]);
    }
    assert!(log.flush(WAIT));
    for i in 1..100 {
        assert_eq!(std::fs::read(folder.path().join(i.to_string())).unwrap().len(), i);
    }
}

#[test]
fn syslog_gets_datagrams_again_after_its_daemon_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let mut syslog = Syslog::new(&path, "jabberd/router".into(), 3);
    assert!(!syslog.put(SystemTime::now(), &line("nobody")), "no daemon yet");
    for text in ["first", "after a restart"] {
        let _ = std::fs::remove_file(&path);
        let daemon = UnixDatagram::bind(&path).unwrap();
        assert!(syslog.put(SystemTime::now(), &line(text)));
        let mut datagram = [0; 256];
        let n = daemon.recv(&mut datagram).unwrap();
        let got = std::str::from_utf8(&datagram[..n]).unwrap();
        // local3 is 19: 19 * 8 + 5 (notice).
        let tag = format!(" jabberd/router[{}]: {text}", std::process::id());
        assert!(got.starts_with("<157>") && got.ends_with(&tag), "{got}");
        // "Nov 22 21:34:03" between them.
        assert_eq!(got.len(), "<157>".len() + 15 + tag.len(), "{got}");
    }
}

#[test]
fn facilities_are_local0_to_local7() {
    assert_eq!([parse_facility("local0"), parse_facility("local7")], [Some(0), Some(7)]);
    for bad in ["local8", "local", "local10", "daemon", ""] {
        assert_eq!(parse_facility(bad), None, "{bad}");
    }
}
