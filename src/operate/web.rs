//! The page of a node for a browser: the mesh, links, queues, the last hour. Read-only, and there only if configured.
//!
//! It is one document without anything from elsewhere, and its policy allows nothing but itself. Whoever reaches the
//! address sees it, so that is a loopback address unless the configuration insists. It answers under an address or a
//! name of this machine only: a foreign page whose own name was pointed here reads nothing.

use super::gather::{NodeStatus, Reports};
use super::metrics::Answer;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ring::digest::{SHA256, digest};
use serde::Serialize;
use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Samples are taken so often, seconds; so many are kept, which makes an hour.
const SAMPLE_S: u64 = 10;
const SAMPLES_MAX: usize = 360;

/// One moment of the last hour. Counters have grown since the start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Sample {
    /// Seconds since the start.
    at_s: u64,
    frames_in: u64,
    frames_out: u64,
    sessions: u64,
    queue_bytes: u64,
    /// Frames dropped and sent back.
    losses: u64,
}

impl Sample {
    fn of(status: &NodeStatus) -> Sample {
        let sum = |wanted: &dyn Fn(&str) -> bool| {
            let counters = status.counters.iter().filter(|counter| wanted(counter.name));
            counters.map(|counter| counter.value).sum()
        };
        Sample {
            at_s: status.uptime_s,
            frames_in: sum(&|name| name == "jidmesh_frames_received_total"),
            frames_out: sum(&|name| name == "jidmesh_frames_sent_total"),
            sessions: status.sessions,
            queue_bytes: status.queue_bytes,
            losses: sum(&|name| name == "jidmesh_dropped_total" || name == "jidmesh_bounced_total"),
        }
    }
}

/// The page, and the last hour.
pub(super) struct Web {
    document: String,
    headers: String,
    history: Arc<Mutex<VecDeque<Sample>>>,
    /// Its end is the end of the thread that takes samples.
    _stop: Sender<()>,
}

impl Web {
    /// Begins to take samples.
    pub(super) fn start(reports: Arc<Reports>) -> io::Result<Web> {
        let history: Arc<Mutex<VecDeque<Sample>>> = Arc::default();
        let (stop, stopped) = channel();
        let samples = history.clone();
        std::thread::Builder::new()
            .name("jidmesh-history".into())
            .spawn(move || {
                super::accept::step_back();
                loop {
                    let sample = Sample::of(&reports.get().status);
                    keep(&mut samples.lock().unwrap_or_else(PoisonError::into_inner), sample);
                    match stopped.recv_timeout(Duration::from_secs(SAMPLE_S)) {
                        Err(RecvTimeoutError::Timeout) => {}
                        _ => return,
                    }
                }
            })?;
        let (style, script) = (include_str!("web/page.css"), include_str!("web/page.js"));
        let document = include_str!("web/page.html").replace("@STYLE@", style);
        Ok(Web {
            document: document.replace("@SCRIPT@", script),
            headers: headers(style, script),
            history,
            _stop: stop,
        })
    }

    /// The answer to a request for the page or for what it shows; `None`: it is for something else.
    pub(super) fn answer(&self, target: &str, head: &[u8], reports: &Reports) -> Option<Answer> {
        if !matches!(target, "/" | "/page/status" | "/page/history") {
            return None;
        }
        let status = &reports.get().status;
        match host(head) {
            Some(host) if is_own(host, &status.node) => {}
            Some(_) => return Some(Answer::error("421 Misdirected Request")),
            None => return Some(Answer::error("400 Bad Request")),
        }
        let json = "application/json";
        let (kind, body) = match target {
            "/" => ("text/html; charset=utf-8", self.document.clone()),
            "/page/status" => (json, serde_json::to_string(status).unwrap_or_default()),
            _ => {
                let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
                (json, serde_json::to_string(&*history).unwrap_or_default())
            }
        };
        Some(Answer {
            kind,
            headers: self.headers.clone(),
            ..Answer::text("200 OK", body)
        })
    }
}

fn keep(samples: &mut VecDeque<Sample>, sample: Sample) {
    if samples.len() >= SAMPLES_MAX {
        samples.pop_front();
    }
    samples.push_back(sample);
}

/// What the browser may do with the page: run this script and style, and ask this server.
fn headers(style: &str, script: &str) -> String {
    let hash = |text: &str| BASE64_STANDARD.encode(digest(&SHA256, text.as_bytes()));
    format!(
        "Content-Security-Policy: default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n\
         X-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\nCross-Origin-Resource-Policy: same-origin\r\n\
         Cross-Origin-Opener-Policy: same-origin\r\n",
        hash(script),
        hash(style)
    )
}

/// The one `Host` of a request's head, without its port (RFC 9112 3.2: none or two make a bad request).
fn host(head: &[u8]) -> Option<&str> {
    let mut found = head.split(|byte| *byte == b'\n').skip(1).filter_map(|line| {
        let (name, value) = std::str::from_utf8(line).ok()?.split_once(':')?;
        name.eq_ignore_ascii_case("host").then_some(value.trim())
    });
    let (Some(host), None) = (found.next(), found.next()) else {
        return None;
    };
    let bare = match host.rsplit_once(':') {
        Some((bare, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => bare,
        _ => host,
    };
    Some(bare)
}

/// An address is nobody's name, and these names are this machine's own.
fn is_own(host: &str, node: &str) -> bool {
    let address = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(host);
    address.parse::<IpAddr>().is_ok() || host.eq_ignore_ascii_case("localhost") || host.eq_ignore_ascii_case(node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read_as_they_stand() {
        let of = |lines: &str| host(format!("GET / HTTP/1.1\r\n{lines}").as_bytes()).map(str::to_owned);
        for (lines, wanted) in [
            ("Host: 127.0.0.1:9347\r\n", Some("127.0.0.1")),
            ("hOST:[::1]:9347\r\n", Some("[::1]")),
            ("Host: [::1]\r\n", Some("[::1]")),
            ("Host: evil.test\r\nX: y\r\n", Some("evil.test")),
            ("Host: a\r\nHost: b\r\n", None),
            ("X-Host: a\r\n", None),
        ] {
            assert_eq!(of(lines).as_deref(), wanted, "{lines}");
        }
        for (host, own) in [
            ("127.0.0.1", true),
            ("[::1]", true),
            ("LOCALHOST", true),
            ("a.test", true),
            ("evil.test", false),
            ("", false),
            ("localhost.evil.test", false),
            ("127.0.0.1.evil.test", false),
        ] {
            assert_eq!(is_own(host, "a.test"), own, "{host}");
        }
    }

    #[test]
    fn the_last_hour_is_kept_and_no_more() {
        let mut samples = VecDeque::new();
        for at_s in 0..1_000 {
            let sample = Sample {
                at_s,
                frames_in: 0,
                frames_out: 0,
                sessions: 0,
                queue_bytes: 0,
                losses: 0,
            };
            keep(&mut samples, sample);
        }
        assert_eq!((samples.len(), samples[0].at_s), (SAMPLES_MAX, 640));
    }
}
