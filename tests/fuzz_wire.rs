//! A bounded, seeded fuzzer: mutants of the corpus through every scanner path, expat, quick-xml, header and validation.
//!
//! `JIDMESH_FUZZ_SECONDS` sets how long it runs, `JIDMESH_FUZZ_SEED` where it begins. A failure prints the seed and the
//! input; put such an input into `tests/corpus`.

#![allow(clippy::unwrap_used)]

mod peers;

use jidmesh::wire::header;
use jidmesh::wire::scan::{Item, Limits, Path, ScanError, Scanner};
use jidmesh::wire::validate::{Prefixes, check};
use peers::{Expat, Seen, quick_xml};
use std::time::{Duration, Instant};

const OPEN: &[u8] = b"<stream:stream xmlns:stream='http://etherx.jabber.org/streams' version='1.0'>";
const LIMITS: Limits = Limits {
    frame_bytes_max: 1 << 20,
    open_bytes_max: 4096,
    depth_max: 1000,
};

/// A small generator of pseudo-random numbers (splitmix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.roll() % n.max(1) as u64) as usize
    }
}

const WORDS: &[&[u8]] = &[
    b"<",
    b">",
    b"/",
    b"'",
    b"\"",
    b"=",
    b" ",
    b"&",
    b";",
    b"<a>",
    b"</a>",
    b"<a/>",
    b"<!--",
    b"-->",
    b"<![CDATA[",
    b"]]>",
    b"<?p ",
    b"?>",
    b"<?xml version='1.0'?>",
    b"xmlns='u'",
    b" xmlns:p='u'",
    b"p:",
    b" p:b='1'",
    b" b='1'",
    b"xml:",
    b"xmlns",
    b":",
    b"&amp;",
    b"&#x41;",
    b"&#0;",
    b"<!DOCTYPE a>",
    b"-",
    b"--",
    b"]",
    b"]]",
    b"!",
    b"?",
    b"\0",
    b"\n",
    b"\t",
    b"\xc3\xa9",
    b"\xe2\x82\xac",
    b"\xf0\x9f\x98\x80",
    b"\xef\xbf\xbe",
    b"\xef\xbf\xbd",
    b"\xed\xa0\x80",
    b"\x80",
    b"\xff",
    b"|",
    b"</stream:stream>",
    b"<route to='a'>",
    b"<route to='a'/>",
    b"<route to='>'>",
    b"</route>",
    b"</route >",
    b" \r\n ",
    b"\x7f",
    b"a run of text that is longer than a whole block of sixty-four bytes, with nothing in it at all",
    b" attribute='with a value that is longer than a whole block of sixty-four bytes, or nearly so long'",
];

fn mutate(dice: &mut Dice, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut body = corpus[dice.below(corpus.len())].clone();
    if dice.below(3) == 0 {
        let other = &corpus[dice.below(corpus.len())];
        let at = dice.below(body.len() + 1);
        body.splice(at..at, other.iter().copied());
    }
    body.truncate(4000);
    for _ in 0..dice.below(5) {
        let at = dice.below(body.len() + 1);
        let end = (at + dice.below(20)).min(body.len());
        match dice.below(6) {
            0 => drop(body.splice(at..end, [])),
            1 => {
                let copy = body[at..end].to_vec();
                let to = dice.below(body.len() + 1);
                drop(body.splice(to..to, copy));
            }
            2 if at < body.len() => body[at] = dice.roll() as u8,
            3 if at < body.len() => body[at] ^= 1 << dice.below(8),
            _ => drop(body.splice(at..at, WORDS[dice.below(WORDS.len())].iter().copied())),
        }
    }
    body
}

/// Items and error; shown in `pieces` random pieces, consumed on the way.
fn scan(path: Path, input: &[u8], pieces: usize, dice: &mut Dice) -> (Vec<Item>, Option<ScanError>) {
    scan_with(Scanner::with_path(LIMITS, path), input, pieces, dice)
}

fn scan_with(mut scanner: Scanner, input: &[u8], pieces: usize, dice: &mut Dice) -> (Vec<Item>, Option<ScanError>) {
    let mut cuts: Vec<usize> = (0..pieces).map(|_| dice.below(input.len())).collect();
    cuts.push(input.len());
    cuts.sort_unstable();
    let (mut items, mut base) = (Vec::new(), 0);
    for cut in cuts {
        loop {
            match scanner.next(&input[base..cut]) {
                Ok(None) => break,
                Ok(Some(Item::Open { end, empty })) => items.push(Item::Open { end: end + base, empty }),
                Ok(Some(Item::Frame { start, end })) => items.push(Item::Frame {
                    start: start + base,
                    end: end + base,
                }),
                Ok(Some(Item::Close { end })) => items.push(Item::Close { end: end + base }),
                Err(error) => return (items, Some(error)),
            }
        }
        let n = dice.below(scanner.unfinished_start() + 1);
        scanner.consume(n);
        base += n;
    }
    (items, None)
}

fn frames_of(items: &[Item]) -> Vec<(usize, usize)> {
    let frame = |item: &Item| {
        if let Item::Frame { start, end } = *item {
            Some((start, end))
        } else {
            None
        }
    };
    items.iter().filter_map(frame).collect()
}

fn same_so_far(a: &[(usize, usize)], b: &[(usize, usize)]) -> bool {
    a.iter().zip(b).all(|(a, b)| a == b)
}

/// What must hold when the sender is trusted: the frames that expat accepts are found, whatever follows them, and all
/// that is not UTF-8 is refused.
fn examine_trusted(input: &[u8], expat: Option<&Expat>, dice: &mut Dice) {
    let theirs = expat.map(|expat| expat.read(input, false));
    let mut first: Option<(Vec<Item>, Option<ScanError>)> = None;
    for path in Path::available().into_iter().filter(|path| *path != Path::Bytes) {
        for pieces in [0, dice.below(6)] {
            let mut scanner = Scanner::with_path(LIMITS, path);
            scanner.trust(true);
            let seen = scan_with(scanner, input, pieces, dice);
            let frames = frames_of(&seen.0);
            for &(start, end) in &frames {
                let _ = header::read(&input[start..end]);
                assert!(
                    std::str::from_utf8(&input[start..end]).is_ok(),
                    "{} lets bad bytes through",
                    path.name()
                );
            }
            if let Some(theirs) = &theirs {
                let missing = theirs.frames.len() > frames.len() && seen.1.is_none();
                assert!(
                    same_so_far(&theirs.frames, &frames) && !missing,
                    "{} in {pieces}: expat sees {:?}, trust sees {frames:?}",
                    path.name(),
                    theirs.frames
                );
            }
            if pieces == 0 {
                assert_eq!(
                    first.get_or_insert_with(|| seen.clone()),
                    &seen,
                    "{} differs",
                    path.name()
                );
            }
        }
    }
}

/// Everything that must hold of one input.
fn examine(body: &[u8], expat: Option<&Expat>, dice: &mut Dice) {
    let input = [OPEN, body].concat();
    let expected = scan(Path::Bytes, &input, 0, dice);
    for path in Path::available() {
        let pieces = dice.below(6);
        assert_eq!(scan(path, &input, pieces, dice), expected, "{} differs", path.name());
        assert_eq!(
            scan(path, &input, 0, dice),
            expected,
            "{} differs on the whole",
            path.name()
        );
    }
    examine_trusted(&input, expat, dice);
    let (items, error) = &expected;
    let frames = frames_of(items);
    let prefixes = Prefixes::of_open_tag(OPEN).unwrap();
    let quick = quick_xml(&input);
    if !quick.refused {
        assert!(
            same_so_far(&quick.frames, &frames),
            "quick-xml sees {:?}, we {frames:?}",
            quick.frames
        );
    }
    for &(start, end) in &frames {
        let frame = &input[start..end];
        let _ = header::read(frame);
        let checked = check(frame, &prefixes);
        if let Some(expat) = expat {
            let alone = [OPEN, frame, b"</stream:stream>"].concat();
            let refused = expat.read(&alone, true).refused;
            assert_eq!(
                checked.is_err(),
                refused,
                "validation says {checked:?} of {:?}",
                String::from_utf8_lossy(frame)
            );
        }
    }
    if let Some(expat) = expat {
        let Seen {
            frames: theirs,
            refused,
        } = expat.read(&input, false);
        assert!(same_so_far(&theirs, &frames), "expat sees {theirs:?}, we {frames:?}");
        let ours_alone = matches!(
            error,
            Some(ScanError::Restricted(_) | ScanError::NotWellFormed("text between frames"))
        );
        if !refused && !ours_alone {
            assert_eq!(theirs.len(), frames.len(), "expat sees {theirs:?}, we {frames:?}");
            // expat may keep an unfinished token for the next bytes before it complains.
            let closed = [&input[..], b" "].concat();
            if error.is_some() && !expat.read(&closed, true).refused {
                panic!("we refuse what expat takes: {error:?}");
            }
        }
    }
}

fn corpus() -> Vec<Vec<u8>> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

#[test]
fn the_corpus_itself() {
    let expat = Expat::load();
    let corpus = corpus();
    assert!(corpus.len() >= 10);
    for body in &corpus {
        examine(body, expat.as_ref(), &mut Dice(1));
    }
}

#[test]
fn mutants_of_the_corpus() {
    let (seconds, mut seed) = (number("JIDMESH_FUZZ_SECONDS", 10), number("JIDMESH_FUZZ_SEED", 1));
    let expat = Expat::load();
    let corpus = corpus();
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut done = 0u64;
    while Instant::now() < until {
        let mut dice = Dice(seed);
        let body = mutate(&mut dice, &corpus);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            examine(&body, expat.as_ref(), &mut dice)
        }));
        assert!(
            result.is_ok(),
            "JIDMESH_FUZZ_SEED={seed} input {:?}",
            String::from_utf8_lossy(&body)
        );
        (seed, done) = (seed + 1, done + 1);
    }
    eprintln!("{done} inputs");
    assert!(done > 0);
}

#[test]
fn letters_of_names_are_those_of_expat() {
    let Some(expat) = Expat::load() else { return };
    let none = Prefixes::default();
    for c in (0x21..0x1_0010)
        .filter_map(char::from_u32)
        .filter(|c| !"/>?!".contains(*c))
    {
        for text in [format!("<{c}/>"), format!("<a{c}/>")] {
            let (ours, theirs) = (
                check(text.as_bytes(), &none).is_err(),
                expat.read(text.as_bytes(), true).refused,
            );
            assert_eq!(ours, theirs, "{text:?}");
        }
    }
}
