//! ns per frame of the scanner's paths (checked / trusted), of header reading and of full validation. `cargo bench --bench scan`.

use jidmesh::wire::header;
use jidmesh::wire::scan::{Item, Limits, Path, Scanner};
use jidmesh::wire::validate::{Prefixes, check};
use std::hint::black_box;
use std::time::Instant;

const OPEN: &[u8] = b"<stream:stream xmlns:stream='http://etherx.jabber.org/streams' version='1.0'>";
const LIMITS: Limits = Limits {
    frame_bytes_max: 10 << 20,
    open_bytes_max: 4096,
    depth_max: 100,
};
/// What one read of a busy link brings.
const BUFFER: usize = 64 << 10;
/// Short rounds, many of them: the best one was not interrupted.
const ROUNDS: usize = 400;
const FRAMES_A_ROUND: usize = 1_000;

fn frame(bytes: usize) -> String {
    let head = "<route xmlns='http://jabberd.jabberstudio.org/ns/component/1.0' from='sm1' to='example.net'><message xmlns='jabber:client' from='alice@example.net/one' id='753b2b5e' to='bob@example.net' type='chat'><body>";
    let tail = "</body></message></route>";
    let text = bytes.saturating_sub(head.len() + tail.len());
    format!(
        "{head}{}{tail}",
        "some words in a body ".repeat(text / 21 + 1).split_at(text).0
    )
}

/// Frames of many lengths and shapes in an order that repeats late: 559 bytes in the mean.
fn mixed() -> Vec<String> {
    let session = "<route xmlns='http://jabberd.jabberstudio.org/ns/component/1.0' from='c2s' to='sm'><iq xmlns:sc='http://jabberd.jabberstudio.org/ns/session/1.0' xmlns='jabber:client' sc:sm='2fcc5f2b10f3c41120a3db9ee7620e93931e073c' sc:c2s='9' type='get' id='cc2f32a8533f40e5b78c36956d867192'><query xmlns='jabber:iq:roster' ver=''></query></iq></route>";
    let mut x = 7u64;
    let mut list = Vec::new();
    let mut total = 0;
    while total < BUFFER {
        x = x
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let text = match x >> 61 {
            0 => session.to_string(),
            1..4 => frame(230 + (x >> 40) as usize % 150),
            4..7 => frame(300 + (x >> 40) as usize % 500),
            _ => frame(900 + (x >> 40) as usize % 1400),
        };
        total += text.len();
        list.push(text);
    }
    list
}

/// The fastest of some rounds, ns per frame.
fn time(frames: usize, mut work: impl FnMut()) -> f64 {
    let mut best = f64::MAX;
    let repeat = (FRAMES_A_ROUND / frames).max(1);
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for _ in 0..repeat {
            work();
        }
        best = best.min(start.elapsed().as_nanos() as f64 / (repeat * frames) as f64);
    }
    best
}

fn scan(path: Path, trusted: bool, buffer: &[u8], frames: usize) -> f64 {
    let mut opened = Scanner::with_path(LIMITS, path);
    opened.trust(trusted);
    assert!(matches!(opened.next(OPEN), Ok(Some(Item::Open { .. }))));
    opened.consume(OPEN.len());
    time(frames, || {
        let mut found = 0;
        while let Ok(Some(Item::Frame { end, .. })) = opened.next(black_box(buffer)) {
            black_box(end);
            found += 1;
        }
        assert_eq!(found, frames);
        opened.consume(buffer.len());
    })
}

/// Borders by quick-xml's reader, for comparison.
fn quick_xml(buffer: &[u8]) -> usize {
    use quick_xml::events::Event;
    let mut reader = quick_xml::Reader::from_reader(buffer);
    reader.config_mut().check_end_names = false;
    let (mut found, mut depth) = (0, 0);
    loop {
        match reader.read_event() {
            Ok(Event::Start(_)) => depth += 1,
            Ok(Event::End(_)) => {
                depth -= 1;
                found += usize::from(depth == 0);
            }
            Ok(Event::Eof) | Err(_) => return found,
            Ok(_) => {}
        }
    }
}

fn main() {
    let many = |text: String| vec![text.clone(); (BUFFER / text.len()).max(1)];
    let loads = [
        ("213 B", many(frame(213))),
        ("265 B", many(frame(265))),
        ("1 KiB", many(frame(1024))),
        ("mixed", mixed()),
        ("16 KiB", many(frame(16384))),
    ];
    for (name, frames) in &loads {
        let buffer = frames.concat().into_bytes();
        print!("{name:>7} (mean {:>5} B):", buffer.len() / frames.len());
        for path in Path::available() {
            let [checked, trusted] = [false, true].map(|trusted| scan(path, trusted, &buffer, frames.len()));
            print!("  {} {checked:.0}/{trusted:.0}", path.name());
        }
        print!(
            "  quick-xml {:.0}",
            time(frames.len(), || assert_eq!(quick_xml(&buffer), frames.len()))
        );
        let heads = time(frames.len(), || {
            for frame in frames {
                assert!(black_box(header::read(black_box(frame.as_bytes()))).is_ok());
            }
        });
        let prefixes = Prefixes::default();
        let checks = time(frames.len(), || {
            for frame in frames {
                assert_eq!(check(black_box(frame.as_bytes()), &prefixes), Ok(()));
            }
        });
        println!("  | header {heads:.0}  validate {checks:.0}  ns/frame");
    }
}
