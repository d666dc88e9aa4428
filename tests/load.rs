//! The load generator must not believe a router: one that loses, doubles, reorders or alters frames has no figures.

mod liar;

use liar::{Liar, Lie};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

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

/// A jidmesh on a port of its own, ended with this.
struct Router {
    child: Child,
    addr: std::net::SocketAddr,
    _folder: tempfile::TempDir,
}

impl Router {
    fn start() -> Router {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        let addr = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
        let addr = addr.expect("a free port");
        let users = "<users><user><name>jabberd</name><secret>secret</secret></user></users>";
        std::fs::write(path("users.xml"), users).expect("written");
        let (users, admin) = (path("users.xml"), path("admin.sock"));
        let config = format!(
            "<router><log type='stdout'/><local><ip>127.0.0.1</ip><port>{}</port><users>{}</users></local>\
             <aci><acl type='all'><user>jabberd</user></acl></aci><tuning shards='1'/><admin>{}</admin></router>",
            addr.port(),
            users.display(),
            admin.display()
        );
        std::fs::write(path("router.xml"), config).expect("written");
        let mut command = Command::new(env!("CARGO_BIN_EXE_jidmesh"));
        let command = command.args(["run", "-c"]).arg(path("router.xml"));
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let router = Router {
            child: child.expect("it starts"),
            addr,
            _folder: folder,
        };
        let end = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(addr).is_err() {
            assert!(Instant::now() < end, "it does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        router
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a receiver that reads slowly has not taken when its measurement ends is no part of the next one's figures.
#[test]
fn a_measurement_leaves_nothing_behind_for_the_next() {
    let router = Router::start();
    let fair = |bully: &str, pressure: &str| {
        let run = Command::new(env!("CARGO_BIN_EXE_jidmesh"))
            .args(["load", "fair", bully, "--bytes", "4096", "--pressure", pressure])
            .args([
                "--rate",
                "100",
                "--seconds",
                "3",
                "--warm-up",
                "0.1",
                "--json",
                "--router",
            ])
            .arg(router.addr.to_string())
            .output()
            .expect("the program runs");
        let json: serde_json::Value =
            serde_json::from_slice(&run.stdout).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&run.stderr)));
        let figures = &json[0]["sides"][0]["runs"][0];
        (figures["bounced"].as_u64(), figures["undelivered"].as_u64())
    };
    let (bounced, undelivered) = fair("slow", "5000");
    assert_eq!(bounced, Some(0));
    assert!(undelivered > Some(8_000), "more than the kernel keeps: {undelivered:?}");
    assert_eq!(fair("stopped", "10").0, Some(0));
}

/// Routers side by side, and one after another, take nothing from one another: no session of the first is the second's.
#[test]
fn routers_are_compared_row_by_row() {
    let run = Command::new(env!("CARGO_BIN_EXE_jidmesh"))
        .args([
            "load",
            "compare",
            "--rows",
            "users,whole,shards",
            "--shards",
            "1,2",
            "--sessions",
            "500",
        ])
        .args([
            "--without",
            "jabberd2-router",
            "--runs",
            "1",
            "--seconds",
            "0.2",
            "--warm-up",
            "0.1",
            "--json",
        ])
        .output()
        .expect("the program runs");
    let json: serde_json::Value =
        serde_json::from_slice(&run.stdout).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&run.stderr)));
    let wanted = ["jidmesh", "jidmesh", "jidmesh, 1 shard", "jidmesh, 2 shards"];
    let rows = json.as_array().expect("rows").iter();
    let sides: Vec<_> = rows.flat_map(|row| row["sides"].as_array().expect("sides")).collect();
    assert_eq!(sides.iter().map(|side| &side["router"]).collect::<Vec<_>>(), wanted);
    for side in sides {
        assert!(side["runs"][0]["frames"].as_u64() > Some(0), "{side}");
    }
}
