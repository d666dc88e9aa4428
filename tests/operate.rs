//! Metrics page, admin socket and `status` as an operator, a scraper and a vandal meet them.
#![allow(clippy::unwrap_used)]

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use jidmesh::node::cluster::{Answer, DrainAsk, Question};
use jidmesh::node::counters::Counter;
use jidmesh::node::report::{
    ClosedReport, LaneReport, MemberReport, MeshReport, NameReport, PeerLinkReport, ProbeReport, SeatReport,
    ShardReport, UnreachedReport, WhereReport, WhereSession,
};
use jidmesh::operate::log::{self, LogSender, LogTarget};
use jidmesh::operate::{ServeParams, Serving, Shards, closed, drain, serve, status};
use ring::digest::{SHA256, digest};
use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const WAIT: Duration = Duration::from_secs(10);

/// A node of two shards that is not there.
struct Bed {
    folder: tempfile::TempDir,
    log: LogSender,
    asked: Arc<AtomicUsize>,
    answering: Arc<AtomicUsize>,
    syncing: Arc<AtomicBool>,
    page: bool,
    serving: Option<Serving>,
}

/// Its shards.
struct Played {
    asked: Arc<AtomicUsize>,
    answering: Arc<AtomicUsize>,
    syncing: Arc<AtomicBool>,
}

impl Shards for Played {
    fn reports(&self, _: Duration) -> Vec<ShardReport> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let mut reports: Vec<_> = (0..self.answering.load(Ordering::SeqCst) as u16).map(report).collect();
        // Shard 0 knows.
        reports[0].syncing = self.syncing.load(Ordering::SeqCst);
        reports
    }

    fn ask(&self, question: &Question, _: Duration) -> Vec<Answer> {
        let answer = |shard: u16| match question {
            Question::Where(bare) if shard == 1 => Answer::Where(Box::new(WhereReport {
                jid: bare.to_string(),
                node: "b.test".into(),
                complete: true,
                sm: Some("sm.b.test".into()),
                sessions: ["one", "two"].map(session).into(),
                ..WhereReport::default()
            })),
            Question::Where(_) => Answer::Nothing,
            // Not in the order of time: that is made of all shards' answers.
            Question::Closed => Answer::Closed((1..=6_000).map(|n| ended(shard, n)).collect()),
            Question::Drain(_) if shard > 0 => Answer::Nothing,
            Question::Drain(DrainAsk::Begin(order)) if order.to.is_some() => Answer::Drain(Err("nobody could".into())),
            Question::Drain(_) => Answer::Drain(Ok(())),
            Question::Trace(_) | Question::Sample => Answer::Nothing,
            Question::Probe => Answer::Probes(vec![ProbeReport {
                from: "a.test".into(),
                from_shard: Some(shard),
                to: "b.test".into(),
                to_shard: Some(0),
                round_trip_us: Some(300),
                relay: None,
            }]),
        };
        (0..self.answering.load(Ordering::SeqCst) as u16).map(answer).collect()
    }
}

/// The `n`th link that a shard closed.
fn ended(shard: u16, n: u64) -> Arc<ClosedReport> {
    Arc::new(ClosedReport {
        closed_us: n * 10 + u64::from(shard),
        lived_us: 65_000_000,
        link: (if shard == 0 { "" } else { "c2s\u{1b}" }).into(),
        remote: "127.0.0.1:9".parse().unwrap(),
        shard,
        reason: format!("reason {n}").into(),
    })
}

fn session(resource: &str) -> WhereSession {
    WhereSession {
        resource: resource.into(),
        available: true,
        priority: Some(5),
        c2s: Some("c2s.a.test".into()),
    }
}

impl Bed {
    fn new() -> Bed {
        Bed::with(false)
    }

    /// `page`: with the page for browsers, which looks at the shards by itself.
    fn with(page: bool) -> Bed {
        let folder = tempfile::tempdir().unwrap();
        let log = log::start(LogTarget::File(folder.path().join("log")), "test");
        let mut bed = Bed {
            folder,
            log,
            asked: Arc::default(),
            answering: Arc::new(2.into()),
            syncing: Arc::default(),
            page,
            serving: None,
        };
        bed.serving = Some(bed.serve());
        bed
    }

    fn serve(&self) -> Serving {
        let source = Arc::new(Played {
            asked: self.asked.clone(),
            answering: self.answering.clone(),
            syncing: self.syncing.clone(),
        });
        let params = ServeParams {
            node: "a.\"test\"".into(),
            config_digest: "d1".into(),
            shards: 2,
            started: Instant::now(),
            admin: Some(self.socket()),
            metrics: Some("127.0.0.1:0".parse().unwrap()),
            page: self.page,
            patience: Duration::ZERO,
        };
        serve(params, source, self.log.clone())
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("run/admin.sock")
    }

    fn metrics(&self) -> SocketAddr {
        self.serving.as_ref().unwrap().metrics_addr().unwrap()
    }

    fn logged(&self) -> String {
        assert!(self.log.flush(WAIT));
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn http(&self, request: &str) -> String {
        self.try_http(request).unwrap()
    }

    fn try_http(&self, request: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(self.metrics())?;
        stream.set_read_timeout(Some(WAIT))?;
        // A refused request may be answered before it was read to its end.
        let _ = stream.write_all(request.as_bytes());
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }
}

fn report(shard: u16) -> ShardReport {
    let mut report = ShardReport {
        shard,
        users: 3,
        sessions: 5,
        sessions_available: 4,
        ..ShardReport::default()
    };
    report.counters.add(Counter::FramesIn, 10);
    report.counters.add(Counter::Bounce404, 1);
    report.names.push(NameReport {
        name: "example.net".into(),
        holders: vec!["sm".into()],
        clustered: true,
        default_route: false,
        log_sink: false,
        alias_of: None,
    });
    report.seats.push(SeatReport {
        id: format!("sm{shard}"),
        kind: "sm",
        state: if shard == 1 { "lost" } else { "connected" },
        remote: "127.0.0.1:1".into(),
        user: "jabberd".into(),
        shard,
        tls: false,
        queue_bytes: 100,
        frames_in: 1,
        frames_out: 2,
        sessions: 5,
        returns: 0,
        since_us: 1,
    });
    report.mesh = Some(mesh(shard));
    report
}

/// Shard 0 knows which configured peers are missing, shard 1 serves the one that was found.
fn mesh(shard: u16) -> MeshReport {
    let lane = |lane, queue_bytes| LaneReport {
        lane,
        queue_bytes,
        served: true,
        ..LaneReport::default()
    };
    let link = PeerLinkReport {
        shard: 1,
        round_trip_us: Some(250),
        lanes: vec![lane("control", 0), lane("data", 77)],
        messages_sent: 9,
        ..PeerLinkReport::default()
    };
    MeshReport {
        cluster: "blue".into(),
        members: vec![MemberReport {
            name: "b.test".into(),
            state: "stalled",
            rows: 20 + u64::from(shard),
            seats: 3,
            link: (shard == 1).then_some(link),
        }],
        unreached: (shard == 0)
            .then(|| UnreachedReport {
                address: "c.test:5348".into(),
                why: "nobody listens there".into(),
            })
            .into_iter()
            .collect(),
        alone: shard == 0,
        ..MeshReport::default()
    }
}

#[test]
fn the_page_merges_shards_and_is_well_formed() {
    let bed = Bed::new();
    let answer = bed.http("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    let (head, page) = answer.split_once("\r\n\r\n").unwrap();
    assert!(
        head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("version=0.0.4"),
        "{head}"
    );
    assert!(head.contains(&format!("Content-Length: {}", page.len())), "{head}");
    for sample in [
        "jidmesh_frames_received_total 20",
        "jidmesh_bounced_total{code=\"404\"} 2",
        "jidmesh_bounced_total{code=\"401\"} 0",
        "jidmesh_sessions 10",
        "jidmesh_queue_bytes 200",
        "jidmesh_links{kind=\"sm\",state=\"lost\"} 1",
        "jidmesh_names 1",
        "jidmesh_mesh_members{state=\"stalled\"} 1",
        "jidmesh_mesh_members{state=\"ready\"} 0",
        "jidmesh_mesh_alone 1",
        "jidmesh_mesh_peers_unreached 1",
        "jidmesh_peer_rows{peer=\"b.test\"} 41",
        "jidmesh_peer_seats{peer=\"b.test\"} 3",
        "jidmesh_peer_round_trip_microseconds{peer=\"b.test\"} 250",
        "jidmesh_peer_queue_bytes{peer=\"b.test\",lane=\"data\"} 77",
        "jidmesh_peer_messages_sent_total{peer=\"b.test\"} 9",
    ] {
        assert!(page.lines().any(|l| l == sample), "{sample} is missing in\n{page}");
    }
    assert!(page.contains("node=\"a.\\\"test\\\"\"} 1"), "labels are quoted\n{page}");
    let (mut described, mut last, mut seen) = (HashSet::new(), "", HashSet::new());
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            last = rest.split(' ').next().unwrap();
            assert!(described.insert(last), "{last} is described twice");
        } else if !line.starts_with('#') {
            assert_eq!(
                line.split(['{', ' ']).next().unwrap(),
                last,
                "a sample stands under its own TYPE"
            );
            assert!(seen.insert(line.rsplit_once(' ').unwrap().0), "{line}: twice");
        }
    }
}

#[test]
fn probes_and_bad_requests_have_their_answers() {
    let bed = Bed::new();
    let status = |request: &str| bed.http(request).split("\r\n").next().unwrap_or_default().to_owned();
    for (request, expected) in [
        ("GET /healthz HTTP/1.0\r\n\r\n", "HTTP/1.1 200 OK"),
        ("GET /readyz HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK"),
        ("GET /metrics?x=y HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK"),
        ("GET /nothing HTTP/1.1\r\n\r\n", "HTTP/1.1 404 Not Found"),
        (
            "POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
            "HTTP/1.1 405 Method Not Allowed",
        ),
        (
            "GET /metrics HTTP/2.0\r\n\r\n",
            "HTTP/1.1 505 HTTP Version Not Supported",
        ),
        ("GET /metrics\r\n\r\n", "HTTP/1.1 400 Bad Request"),
        ("\u{0}\u{1}\u{2}\r\n\r\n", "HTTP/1.1 400 Bad Request"),
        ("GET http://x/metrics HTTP/1.1\r\n\r\n", "HTTP/1.1 400 Bad Request"),
        (
            &format!("GET / HTTP/1.1\r\nX: {}", "y".repeat(20_000)),
            "HTTP/1.1 431 Request Header Fields Too Large",
        ),
    ] {
        assert_eq!(status(request), expected, "{}", &request[..request.len().min(60)]);
    }
    let head = bed.http("HEAD /metrics HTTP/1.1\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"), "{head}");
}

#[test]
fn the_page_stands_alone_and_answers_nobody_elses_name() {
    assert!(
        Bed::new()
            .http("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            .starts_with("HTTP/1.1 404")
    );
    let bed = Bed::with(true);
    let get = |target: &str, host: &str| bed.http(&format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    let answer = get("/", "127.0.0.1:9347");
    let (head, page) = answer.split_once("\r\n\r\n").unwrap();
    assert!(
        head.starts_with("HTTP/1.1 200 OK") && head.contains("text/html"),
        "{head}"
    );
    // The policy allows this script and this style, and nothing else; nothing in the page is from elsewhere.
    for (tag, directive) in [("script", "script-src"), ("style", "style-src")] {
        let text = page.split_once(&format!("<{tag}>")).unwrap().1;
        let text = text.split_once(&format!("</{tag}>")).unwrap().0;
        let hash = BASE64_STANDARD.encode(digest(&SHA256, text.as_bytes()));
        assert!(head.contains(&format!("{directive} 'sha256-{hash}'; ")), "{head}");
    }
    assert!(head.contains("Content-Security-Policy: default-src 'none'; ") && head.contains("frame-ancestors 'none'"));
    let elsewhere = page.replace("http://www.w3.org/2000/svg", "");
    assert!(!elsewhere.contains("//www") && !elsewhere.contains("http:") && !elsewhere.contains("https:"));
    for word in [" src=", " onclick", " style=", "innerHTML", "eval(", "<link", "@import"] {
        assert!(!page.contains(word), "{word}");
    }
    let body = |answer: String| answer.split_once("\r\n\r\n").unwrap().1.to_owned();
    let status: serde_json::Value = serde_json::from_str(&body(get("/page/status", "localhost"))).unwrap();
    assert_eq!(
        (&status["node"], &status["sessions"]),
        (&"a.\"test\"".into(), &10.into())
    );
    let history: serde_json::Value = serde_json::from_str(&body(get("/page/history", "[::1]:9347"))).unwrap();
    assert!(
        history.as_array().unwrap().len() <= 1 || history[0]["sessions"] == 10,
        "{history}"
    );
    for (request, expected) in [
        (
            "GET / HTTP/1.1\r\nHost: rebound.evil.test\r\n\r\n",
            "421 Misdirected Request",
        ),
        (
            "GET /page/status HTTP/1.1\r\nHost: rebound.evil.test:9347\r\n\r\n",
            "421 Misdirected Request",
        ),
        ("GET / HTTP/1.1\r\n\r\n", "400 Bad Request"),
        (
            "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.test\r\n\r\n",
            "400 Bad Request",
        ),
        (
            "POST /page/status HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
            "405 Method Not Allowed",
        ),
        (
            "GET /page/../admin HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
            "404 Not Found",
        ),
        (
            "GET /page/status\u{0} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
            "404 Not Found",
        ),
    ] {
        let answer = bed.http(request);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {expected}")),
            "{request}: {answer}"
        );
        assert!(!answer.contains("<script"), "{request}");
    }
}

#[test]
fn a_silent_shard_is_not_ready() {
    let bed = Bed::new();
    bed.answering.store(1, Ordering::SeqCst);
    let answer = bed.http("GET /readyz HTTP/1.1\r\n\r\n");
    assert!(
        answer.starts_with("HTTP/1.1 503") && answer.contains("1 of 2 shards answer"),
        "{answer}"
    );
    assert!(bed.http("GET /healthz HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 200"));
}

#[test]
fn a_node_that_has_not_heard_from_the_others_is_not_ready() {
    let bed = Bed::new();
    bed.syncing.store(true, Ordering::SeqCst);
    let answer = bed.http("GET /readyz HTTP/1.1\r\n\r\n");
    assert!(
        answer.starts_with("HTTP/1.1 503") && answer.contains("components wait until the other nodes"),
        "{answer}"
    );
    bed.syncing.store(false, Ordering::SeqCst);
    let start = Instant::now();
    while !bed.http("GET /readyz HTTP/1.1\r\n\r\n").ends_with("\r\n\r\nready\n") {
        assert!(start.elapsed() < WAIT, "it is ready when they have told");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn closed_links_are_told_in_order_and_no_more_than_asked_for() {
    let bed = Bed::new();
    let answer: serde_json::Value = serde_json::from_str(&talk(&bed.socket(), b"{\"cmd\":\"closed\"}\n")).unwrap();
    let links = answer["closed"].as_array().unwrap();
    assert_eq!(links.len(), 10_000, "of two shards with 6000 each");
    let last = [&links[9_998], &links[9_999]].map(|link| (&link["reason"], &link["shard"]));
    let (six, zero, one) = ("reason 6000".into(), 0.into(), 1.into());
    assert_eq!(last, [(&six, &zero), (&six, &one)]);
    assert_eq!(links[0]["reason"], "reason 1001", "the oldest are left out");
    let at = links[9_999]["at"].as_str().unwrap();
    assert!(
        at.len() == "2026-11-22T21:34:03.123Z".len() && at.ends_with('Z'),
        "{at}"
    );
    let text = closed::show(&bed.socket(), false).unwrap();
    let line = text.lines().find(|line| line.ends_with("reason 6000")).unwrap();
    assert!(line.contains("  -  ") && line.contains("  1m 5s  "), "{line}");
    assert!(
        text.contains("c2s?") && !text.contains('\u{1b}'),
        "names cannot command the terminal"
    );
}

#[test]
fn shards_are_asked_a_few_times_a_second_at_most() {
    let bed = Bed::new();
    let start = Instant::now();
    let mut requests = 0;
    while start.elapsed() < Duration::from_millis(700) || requests < 20 {
        bed.http("GET /metrics HTTP/1.1\r\n\r\n");
        requests += 1;
    }
    let asked = bed.asked.load(Ordering::SeqCst);
    let most = start.elapsed().as_millis() as usize / 200 + 1;
    assert!(
        (1..=most).contains(&asked),
        "{requests} requests, asked {asked} times, allowed {most}"
    );
}

#[test]
fn a_slow_client_is_cut_off_and_holds_up_nobody() {
    let bed = Bed::new();
    let start = Instant::now();
    let mut slow = TcpStream::connect(bed.metrics()).unwrap();
    slow.set_read_timeout(Some(WAIT)).unwrap();
    // A byte now and then must not win more time.
    let mut drip = slow.try_clone().unwrap();
    let dripping = std::thread::spawn(move || {
        for byte in b"GET /metrics HTTP/1.1\r\nX: and so on and on and on".iter().cycle() {
            if drip.write_all(&[*byte]).is_err() || start.elapsed() > WAIT {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    assert!(bed.http("GET /healthz HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 200"));
    let mut answer = Vec::new();
    let _ = slow.read_to_end(&mut answer);
    assert!(
        answer.starts_with(b"HTTP/1.1 408"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
    drop(slow);
    dripping.join().unwrap();
}

#[test]
fn too_many_connections_are_refused_and_later_ones_served() {
    let bed = Bed::new();
    let mut idle: Vec<TcpStream> = (0..16).map(|_| TcpStream::connect(bed.metrics()).unwrap()).collect();
    let mut refused = String::new();
    let mut one_more = TcpStream::connect(bed.metrics()).unwrap();
    one_more.read_to_string(&mut refused).unwrap();
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
    idle.clear();
    let start = Instant::now();
    // Until then a connection too many may be reset, its request unread.
    while !bed
        .try_http("GET /healthz HTTP/1.1\r\n\r\n")
        .is_ok_and(|a| a.starts_with("HTTP/1.1 200"))
    {
        assert!(start.elapsed() < WAIT, "slots do not come back");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn status_is_complete_and_the_socket_is_for_owner_and_group() {
    let bed = Bed::new();
    let answer = status::ask(&bed.socket()).unwrap();
    assert_eq!(answer["node"], "a.\"test\"");
    assert_eq!(
        (&answer["sessions"], &answer["shards_answered"]),
        (&10.into(), &2.into())
    );
    assert_eq!(answer["seats"].as_array().unwrap().len(), 2);
    assert_eq!(
        answer["names"].as_array().unwrap().len(),
        1,
        "every shard holds all names: they are shown once"
    );
    assert_eq!(answer["counters"].as_array().unwrap().len(), Counter::ALL.len());
    assert!(
        answer["health"].as_str().unwrap().contains("waiting for sm1"),
        "{answer}"
    );
    for worry in [
        "ALONE: no other node is reached",
        "b.test takes nothing",
        "c.test:5348 was never reached (nobody listens there)",
    ] {
        assert!(answer["health"].as_str().unwrap().contains(worry), "{answer}");
    }
    let member = &answer["mesh"]["members"][0];
    assert_eq!((&member["rows"], &member["link"]["shard"]), (&41.into(), &1.into()));
    let mode = std::fs::metadata(bed.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
}

#[test]
fn the_tables_show_what_the_node_said() {
    let bed = Bed::new();
    let text = status::show(&bed.socket(), false).unwrap();
    let line = |start: &str| {
        text.lines()
            .find(|l| l.starts_with(start))
            .unwrap_or_else(|| panic!("no {start}\n{text}"))
    };
    assert!(line("users").contains("6 with 10 sessions, 8 available"), "{text}");
    assert!(
        line("sm1 ").contains("lost") && line("sm0 ").contains("connected"),
        "{text}"
    );
    assert!(line("example.net").contains("users placed"), "{text}");
    assert!(line("jidmesh_frames_received_total").ends_with(" 20"), "{text}");
    let json: serde_json::Value = serde_json::from_str(&status::show(&bed.socket(), true).unwrap()).unwrap();
    assert_eq!(json["seats"][0]["queue_bytes"], 100);
}

fn talk(socket: &Path, request: &[u8]) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(WAIT)).unwrap();
    let _ = stream.write_all(request);
    let mut line = String::new();
    let _ = BufReader::new(stream).read_line(&mut line);
    line
}

#[test]
fn garbage_on_the_admin_socket_is_answered_and_harms_nothing() {
    let bed = Bed::new();
    for garbage in [
        &b"hello\n"[..],
        b"{\"cmd\":\"destroy\"}\n",
        b"\xff\xfe\x00\n",
        b"\n",
        b"[[[[[[[[[[\n",
        &[b'x'; 50_000],
    ] {
        let line = talk(&bed.socket(), garbage);
        assert!(line.starts_with("{\"ok\":false,\"error\":"), "{line}");
    }
    let mut two = UnixStream::connect(bed.socket()).unwrap();
    two.write_all(b"nonsense\n{\"cmd\":\"status\"}\n").unwrap();
    let lines: Vec<String> = BufReader::new(two).lines().take(2).map(Result::unwrap).collect();
    assert!(
        lines[0].contains("\"ok\":false") && lines[1].contains("\"ok\":true"),
        "{lines:?}"
    );
}

#[test]
fn users_are_found_and_probes_shown() {
    let bed = Bed::new();
    let ask = |request: &str| -> serde_json::Value {
        serde_json::from_str(&talk(&bed.socket(), format!("{request}\n").as_bytes())).unwrap()
    };
    let found = ask(r#"{"cmd":"where","jid":"U@Example.net"}"#);
    assert_eq!(found["where"]["jid"], "u@example.net", "prepared: {found}");
    assert_eq!(found["where"]["sessions"].as_array().unwrap().len(), 2);
    let one = ask(r#"{"cmd":"where","jid":"u@example.net/two"}"#);
    assert_eq!(one["where"]["sessions"][0]["resource"], "two");
    assert_eq!(one["where"]["sessions"].as_array().unwrap().len(), 1);
    assert!(
        ask(r#"{"cmd":"where","jid":"@"}"#)["error"]
            .as_str()
            .unwrap()
            .contains("no JID")
    );
    let test = ask(r#"{"cmd":"selftest"}"#);
    assert_eq!(test["selftest"]["probes"].as_array().unwrap().len(), 2);
    assert_eq!(
        test["selftest"]["passed"], false,
        "a configured peer is missing: {test}"
    );
    bed.answering.store(1, Ordering::SeqCst);
    let error = ask(r#"{"cmd":"where","jid":"u@example.net"}"#);
    assert!(error["error"].as_str().unwrap().contains("does not answer"), "{error}");
}

#[test]
fn the_order_to_drain_is_kept_until_it_is_given_up_and_only_if_it_is_obeyed() {
    let bed = Bed::new();
    let kept = || drain::left_behind(&bed.socket());
    let ask = |request: &str| talk(&bed.socket(), format!("{request}\n").as_bytes());
    assert_eq!(kept(), Ok(None));
    for (order, why) in [
        (r#"{"rate_per_s":20,"to":"z"}"#, "nobody could"),
        (r#"{"rate_per_s":0}"#, "a rate is 1 to 10000"),
    ] {
        let said = ask(&format!(r#"{{"cmd":"drain","order":{order}}}"#));
        assert!(said.contains("\"ok\":false") && said.contains(why), "{said}");
        assert_eq!(kept(), Ok(None));
    }
    let said = ask(r#"{"cmd":"drain","order":{"rate_per_s":7}}"#);
    assert!(said.contains("\"ok\":true") && said.contains("--abort"), "{said}");
    assert_eq!(kept().unwrap().unwrap().rate_per_s, 7);
    // What cannot be understood takes no node out of service.
    let file = drain::file(&bed.socket());
    let order = std::fs::read(&file).unwrap();
    for wrong in [b"{".to_vec(), b"nonsense".repeat(1_000)] {
        std::fs::write(&file, wrong).unwrap();
        assert!(kept().unwrap_err().contains(".drain: "));
    }
    std::fs::write(&file, order).unwrap();
    assert!(ask(r#"{"cmd":"drain"}"#).contains("in service again"));
    assert_eq!(kept(), Ok(None));
    // A folder that is not there any more: it drains, and says what a restart would do.
    std::fs::create_dir(file.with_extension("new")).unwrap();
    let said = ask(r#"{"cmd":"drain","order":{"rate_per_s":7}}"#);
    assert!(said.contains("a restart will not know of it"), "{said}");
}

#[test]
fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let bed = Bed::new();
    let second = bed.serve();
    assert!(
        bed.logged().contains("another process listens on it"),
        "{}",
        bed.logged()
    );
    drop(second);
    assert!(status::ask(&bed.socket()).is_ok(), "the first one still answers");

    let mut bed = bed;
    bed.serving = None;
    assert!(!bed.socket().exists(), "an orderly end removes it");
    drop(UnixListener::bind(bed.socket()).unwrap());
    assert!(bed.socket().exists(), "a crash leaves it");
    let _again = bed.serve();
    assert!(status::ask(&bed.socket()).is_ok());

    std::fs::remove_file(bed.socket()).unwrap();
    std::fs::write(bed.socket(), "precious").unwrap();
    let _third = bed.serve();
    assert_eq!(std::fs::read_to_string(bed.socket()).unwrap(), "precious");
    assert!(bed.logged().contains("no socket is in its place"), "{}", bed.logged());
}

#[test]
fn a_port_in_use_is_a_warning() {
    let bed = Bed::new();
    let params = ServeParams {
        node: "b".into(),
        config_digest: String::new(),
        shards: 1,
        started: Instant::now(),
        admin: None,
        metrics: Some(bed.metrics()),
        page: false,
        patience: Duration::ZERO,
    };
    let nobody = Played {
        asked: Arc::default(),
        answering: Arc::default(),
        syncing: Arc::default(),
    };
    let second = serve(params, Arc::new(nobody), bed.log.clone());
    assert_eq!(second.metrics_addr(), None);
    assert!(bed.logged().contains("no metrics page on"), "{}", bed.logged());
}

#[test]
fn errors_of_status_say_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    assert!(status::ask(&path).unwrap_err().contains("is jidmesh running?"));
    drop(UnixListener::bind(&path).unwrap());
    assert!(status::ask(&path).unwrap_err().contains("nobody listens"));
    std::fs::remove_file(&path).unwrap();
    let other = UnixListener::bind(&path).unwrap();
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = other.accept().unwrap();
        let mut request = [0; 64];
        let _ = stream.read(&mut request);
        let _ = stream.write_all(b"220 mail.example.net ESMTP\n");
    });
    assert!(status::ask(&path).unwrap_err().contains("is it the right socket?"));
    answering.join().unwrap();
}

#[test]
fn stopping_waits_for_no_client() {
    let mut bed = Bed::new();
    let _idle = TcpStream::connect(bed.metrics()).unwrap();
    let _waiting = UnixStream::connect(bed.socket()).unwrap();
    let start = Instant::now();
    bed.serving = None;
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
}

#[test]
fn a_command_whose_reader_has_gone_ends_without_a_word() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_jidmesh"))
        .arg("check")
        .stdout(writer)
        .stderr(std::process::Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    assert!(!output.status.success());
}
