#![allow(clippy::unwrap_used)]

use super::*;
use proptest::prelude::*;

const LIMITS: Limits = Limits {
    frame_bytes_max: 4096,
    open_bytes_max: 400,
    depth_max: 6,
};
const OPEN: &str = "<?xml version='1.0'?><stream:stream xmlns:stream='http://etherx.jabber.org/streams' version='1.0'>";

type Outcome = (Vec<Item>, Option<ScanError>);

/// Shows the bytes in pieces, consumes after each piece as a reader would; offsets are of the whole input.
fn run(path: Path, input: &[u8], cuts: &[usize], limits: Limits) -> Outcome {
    run_with(Scanner::with_path(limits, path), input, cuts)
}

/// The same for a trusted sender.
fn run_trusted(path: Path, input: &[u8], cuts: &[usize], limits: Limits) -> Outcome {
    let mut scanner = Scanner::with_path(limits, path);
    scanner.trust(true);
    run_with(scanner, input, cuts)
}

fn run_with(mut scanner: Scanner, input: &[u8], cuts: &[usize]) -> Outcome {
    let (mut items, mut base, mut shown) = (Vec::new(), 0, 0);
    let ends = cuts.iter().copied().filter(|&c| c < input.len()).chain([input.len()]);
    for end in ends {
        shown = end.max(shown);
        loop {
            match scanner.next(&input[base..shown]) {
                Ok(Some(item)) => items.push(shifted(item, base)),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(scanner.next(&input[base..shown]), Err(error), "an error is for ever");
                    return (items, Some(error));
                }
            }
        }
        assert_eq!(scanner.seen(), shown - base, "everything shown is seen");
        let n = scanner.unfinished_start();
        scanner.consume(n);
        base += n;
    }
    (items, None)
}

fn shifted(item: Item, by: usize) -> Item {
    match item {
        Item::Open { end, empty } => Item::Open { end: end + by, empty },
        Item::Frame { start, end } => Item::Frame {
            start: start + by,
            end: end + by,
        },
        Item::Close { end } => Item::Close { end: end + by },
    }
}

/// Inputs up to so long are cut at every place.
const SHORT: usize = 300;

/// The outcome, equal for all paths and all ways of cutting.
fn outcome(body: &str) -> Outcome {
    let input = [OPEN.as_bytes(), body.as_bytes()].concat();
    let every_byte: Vec<usize> = (0..input.len()).collect();
    let expected = run(Path::Bytes, &input, &[], LIMITS);
    for path in Path::available() {
        assert_eq!(
            run(path, &input, &[], LIMITS),
            expected,
            "{} whole: {body}",
            path.name()
        );
        assert_eq!(
            run(path, &input, &every_byte, LIMITS),
            expected,
            "{} byte by byte: {body}",
            path.name()
        );
        for cut in OPEN.len()..input.len().min(SHORT) {
            let got = run(path, &input, &[cut], LIMITS);
            assert_eq!(got, expected, "{} cut at {cut}: {body}", path.name());
        }
    }
    expected
}

/// The frames of a body that must be let through.
fn frames(body: &str) -> Vec<&str> {
    let (items, error) = outcome(body);
    assert_eq!(error, None, "{body}");
    let frame = |item: &Item| match *item {
        Item::Frame { start, end } => Some(&body[start - OPEN.len()..end - OPEN.len()]),
        _ => None,
    };
    items.iter().filter_map(frame).collect()
}

fn refused(body: &str) -> ScanError {
    outcome(body).1.unwrap_or_else(|| panic!("let through: {body}"))
}

#[test]
fn borders_of_all_constructs() {
    let list = [
        "<a/>",
        "<a></a>",
        "<a ></a >",
        "<a b='c'/>",
        "<a b = \"c\" d\n=\n'e' />",
        "<a b='x > y \"' c=\"it's />\"><d/></a>",
        "<a>text > more, it's \"quoted\" = / text</a>",
        "<a><![CDATA[</a>]]]]><b/></a>",
        "<a><![CDATA[]]></a>",
        "<a><!-- </a> <b> - -></a> --></a>",
        "<a><!----></a>",
        "<a><?p </a> ? >?></a>",
        "<a><?p?><?p ??></a>",
        "<a>]] ></a>",
        "<a b=']]>'/>",
        "<\u{e9}l\u{e9}ment attribut\u{e9}='\u{20ac}'>\u{1F600}</\u{e9}l\u{e9}ment>",
        "<a>\u{fffd}\u{ffff0}\u{10ffff}\u{d7ff}\u{e000}\u{85}\u{7f}</a>",
        "<a-rather-long-name-that-spans-more-than-one-block-of-sixty-four-bytes with-an-attribute-whose-name-is-long-as-well-so-that-it-spans-blocks='x'/>",
        "<a><b><c><d/></c></b><e></e></a>",
    ];
    for frame in list {
        assert_eq!(frames(frame), [frame]);
        assert_eq!(
            frames(&format!(" {frame}\n<!-- x --><?p y?>{frame}{frame}")),
            [frame, frame, frame]
        );
    }
    assert_eq!(frames(&list.concat()), list);
}

#[test]
fn what_is_refused() {
    use ScanError::*;
    for body in [
        "x",
        "<a/>x",
        "<![CDATA[]]>",
        "<a>]]></a>",
        "< a/>",
        "<a b/>",
        "<a b></a>",
        "<a 'b'/>",
        "<a b'c'/>",
        "<a b=c/>",
        "<a b='c'd='e'/>",
        "<a b='<'/>",
        "<a / >",
        "<a/b>",
        "<a b='c'/ >",
        "<a <b/>",
        "</a>",
        "<a></ a>",
        "<a></a b>",
        "<a></a b='c'>",
        "<a></>",
        "<>",
        "<a></a/>",
        "<a><!-- -- --></a>",
        "<a><!- ></a>",
        "<a><? ?></a>",
        "<?xml version='1.0'?>",
        "<a><?xml?></a>",
        "<a><?XmL x?></a>",
        "<a =''/>",
        "<a b=='c'/>",
        "<a b='c'=''/>",
        "<a b='c' ='d'/>",
        "</stream:strea>",
        "</stream:streamx>",
        "</stream:stream/>",
        "</stream:stream><a/>",
        "</stream:stream>x",
    ] {
        assert!(matches!(refused(body), NotWellFormed(_)), "{body}");
    }
    for body in [
        "<!DOCTYPE a>",
        "<a><!ENTITY b 'c'></a>",
        "<a><!x></a>",
        "<a><![IGNORE[x]]></a>",
        "<!",
    ] {
        if body != "<!" {
            assert!(matches!(refused(body), Restricted(_)), "{body}");
        }
    }
    for body in [
        "\0",
        "<a>\u{0}</a>",
        "<a\u{1}/>",
        "<a b='\u{1f}'/>",
        "<a>\u{ffff}</a>",
        "<a>\u{fffe}</a>",
        "<!--\u{b}-->",
    ] {
        assert_eq!(refused(body), BadCharacter, "{body:?}");
    }
}

#[test]
fn bytes_that_are_not_utf8() {
    let list: [&[u8]; 14] = [
        b"\x80",
        b"\xc0\x80",
        b"\xc1\xbf",
        b"\xc3",
        b"\xc3\xc3\xa9",
        b"\xe0\x9f\xbf",
        b"\xed\xa0\x80",
        b"\xe2\x82",
        b"\xf0\x8f\xbf\xbf",
        b"\xf4\x90\x80\x80",
        b"\xf5\x80\x80\x80",
        b"\xff",
        b"\xf0\x9f\x98",
        b"\xef\xbf\xbf",
    ];
    for bad in list {
        for pad in [0, 1, 40, 57, 58, 59, 60, 61, 62, 63, 64, 200] {
            let input = [OPEN.as_bytes(), b"<a>", "y".repeat(pad).as_bytes(), bad, b"</a>"].concat();
            for path in Path::available() {
                let got = run(path, &input, &[], LIMITS).1;
                assert_eq!(got, Some(ScanError::BadCharacter), "{} {bad:x?} {pad}", path.name());
            }
        }
    }
}

#[test]
fn limits_hold_while_incomplete() {
    let max = LIMITS.frame_bytes_max;
    let just = format!("<a>{}</a>", "x".repeat(max - 7));
    assert_eq!(frames(&just).len(), 1);
    assert_eq!(refused(&format!("<a>{}</a>", "x".repeat(max - 6))), ScanError::TooLarge);
    assert_eq!(refused(&format!("<a>{}", "x".repeat(max))), ScanError::TooLarge);
    assert_eq!(refused(&format!("<a b='{}", "x".repeat(max))), ScanError::TooLarge);
    assert_eq!(
        refused(&format!("</stream:stream{}", " ".repeat(max))),
        ScanError::TooLarge
    );
    assert_eq!(
        frames(&format!("<!--{}--><a/>", "x".repeat(3 * max))),
        ["<a/>"],
        "nothing is kept of these"
    );
    let deep = |n: usize| format!("{}{}", "<a>".repeat(n), "</a>".repeat(n));
    assert_eq!(frames(&deep(6)).len(), 1);
    assert_eq!(refused(&deep(7)), ScanError::TooDeep);
    assert_eq!(refused("<a><a><a><a><a><a><a/>"), ScanError::TooDeep);
    for path in Path::available() {
        let long = format!("<stream:stream a='{}", "x".repeat(LIMITS.open_bytes_max));
        assert_eq!(run(path, long.as_bytes(), &[], LIMITS).1, Some(ScanError::TooLarge));
    }
}

#[test]
fn open_tags() {
    let open = |text: &str| run(Path::Bytes, text.as_bytes(), &[], LIMITS);
    for good in [
        OPEN,
        "<a>",
        "\u{feff}<?xml version='1.0'?><a>",
        "<?xml version = \"1.0\" encoding='utf-8' standalone='yes' ?>\n<!-- x --><?p?><a b='>'>",
    ] {
        assert_eq!(
            open(good),
            (
                vec![Item::Open {
                    end: good.len(),
                    empty: false
                }],
                None
            ),
            "{good}"
        );
    }
    assert_eq!(open("<a />").0, [Item::Open { end: 5, empty: true }]);
    for bad in [
        " <?xml version='1.0'?><a>",
        "<?xml version='1.1'?><a>",
        "<?xml encoding='UTF-8'?><a>",
        "<?xml?><a>",
        "x<a>",
        "</a>",
        "<?xml version='1.0' encoding='ISO-8859-1'?><a>",
        "<?xml version='1.0'encoding='UTF-8'?><a>",
        "<?XML version='1.0'?><a>",
        "<![CDATA[x]]><a>",
        "<a b='1' b='2'>",
        "<s:a>",
        "<a&b>",
    ] {
        assert!(matches!(open(bad).1, Some(ScanError::NotWellFormed(_))), "{bad}");
    }
    assert!(matches!(open("<!DOCTYPE a><a>").1, Some(ScanError::Restricted(_))));
}

#[test]
fn close_and_restart() {
    let (items, error) = outcome("<a/></stream:stream > <!-- x -->\n");
    assert_eq!(error, None);
    assert!(
        matches!(items[..], [Item::Open { .. }, Item::Frame { .. }, Item::Close { end }] if end == OPEN.len() + 21)
    );
    for path in Path::available() {
        let input = format!("{OPEN}<ok/>{OPEN}<b/>");
        let mut scanner = Scanner::with_path(LIMITS, path);
        let input = input.as_bytes();
        assert_eq!(
            scanner.next(input),
            Ok(Some(Item::Open {
                end: OPEN.len(),
                empty: false
            }))
        );
        let end = OPEN.len() + 5;
        assert_eq!(scanner.next(input), Ok(Some(Item::Frame { start: OPEN.len(), end })));
        scanner.consume(end);
        scanner.restart();
        let input = &input[end..];
        assert_eq!(
            scanner.next(input),
            Ok(Some(Item::Open {
                end: OPEN.len(),
                empty: false
            }))
        );
        assert_eq!(
            scanner.next(input),
            Ok(Some(Item::Frame {
                start: OPEN.len(),
                end: input.len()
            }))
        );
        assert_eq!(scanner.next(input), Ok(None));
        assert_eq!(scanner.unfinished_start(), input.len());
    }
}

/// Children of a route, well-formed, with all that might be taken for the route's end.
const CONTENTS: &[&str] = &[
    "",
    "text",
    "<message xmlns='jabber:client' to='a' from=\"b\"><body>some words, it's \"so\" &lt;</body></message>",
    "<a/>",
    "<a b='/>' c='>' d='x > y'/>",
    "<resource>r</resource>",
    "<routes></routes>",
    "<routex/>",
    "<r></r>",
    "<ro/>",
    "<route/>",
    "<route a='b'></route>",
    "<route><route></route ></route>",
    "<x:route xmlns:x='u'></x:route>",
    "<![CDATA[</route>]]>",
    "<!-- </route> -->",
    "<?p </route>?>",
    "\u{e9}\u{20ac}\u{1F600}",
    "\n\t",
    "a run of text that is longer than a whole block of sixty-four bytes, with nothing in it at all",
    "<x>\u{20ac}\u{20ac}\u{20ac}\u{20ac}\u{20ac}\u{20ac}\u{20ac}\u{20ac}\u{20ac}\u{20ac}\u{20ac}\u{20ac}\u{20ac}\u{20ac}\u{20ac}\u{20ac}\u{20ac}\u{20ac}\u{20ac}\u{20ac}\u{20ac}\u{20ac}\u{20ac}</x>",
];

/// Start tags of frames; those of one kind of route close by the same end tag.
const STARTS: &[(&str, &str)] = &[
    (
        "<route xmlns='http://jabberd.jabberstudio.org/ns/component/1.0' from='a' to='b'>",
        "</route>",
    ),
    ("<route a='b'>", "</route>"),
    ("<route a='/' >", "</route>"),
    ("<route a='b>' c=\"it's/\">", "</route>"),
    ("<route a='>'>", "</route >"),
    ("<route \u{e9}='\u{20ac}'>", "</route>"),
    ("<route a='/>'>", "</route>"),
    ("<route>", "</route>"),
    ("<routes >", "</routes>"),
    ("<presence to='route'>", "</presence>"),
];

#[test]
fn trusted_routes() {
    let empty = "<route a='b'/><route a='b' /><presence></presence><route a='/'/>";
    for (start, end) in STARTS {
        for content in CONTENTS {
            let body = format!("{empty}{start}{content}{end}{start}{end} <a/>{start}<y/>{content}<z></z>{end}{empty}");
            let input = [OPEN.as_bytes(), body.as_bytes()].concat();
            let expected = run(Path::Bytes, &input, &[], LIMITS);
            assert_eq!((expected.0.len(), expected.1), (13, None), "{body}");
            for path in Path::available() {
                assert_eq!(
                    run_trusted(path, &input, &[], LIMITS),
                    expected,
                    "{}: {body}",
                    path.name()
                );
            }
        }
    }
}

#[test]
fn no_trust_in_characters_and_sizes() {
    let head = "<route a='b'><x>";
    for path in Path::available() {
        let trusted = |body: &[u8]| run_trusted(path, &[OPEN.as_bytes(), body].concat(), &[], LIMITS);
        for pad in 0..200 {
            for bad in [
                &b"\xc3"[..],
                b"\xe2\x82",
                b"\xff",
                b"\x01",
                b"\0",
                b"\xef\xbf\xbf",
                b"\xed\xa0\x80",
            ] {
                let text = "y".repeat(pad);
                let inside = [head.as_bytes(), text.as_bytes(), bad, b"</x></route>"].concat();
                assert_eq!(
                    trusted(&inside).1,
                    Some(ScanError::BadCharacter),
                    "{} {bad:x?} {pad}",
                    path.name()
                );
                let in_tag = [b"<route a='", text.as_bytes(), bad, b"'><x/></route>"].concat();
                assert_eq!(
                    trusted(&in_tag).1,
                    Some(ScanError::BadCharacter),
                    "{} {bad:x?} {pad}",
                    path.name()
                );
            }
        }
        let sized = |n: usize| format!("{head}{}</x></route>", "x".repeat(n - head.len() - 12));
        let max = LIMITS.frame_bytes_max;
        assert_eq!(trusted(sized(max).as_bytes()).1, None);
        assert_eq!(trusted(sized(max + 1).as_bytes()).1, Some(ScanError::TooLarge));
        // What breaks the borders is refused all the same.
        for body in [
            "<route a='b'></route>x",
            "<route a='b'></route></a>",
            "<route a='b'/><!DOCTYPE a>",
        ] {
            assert!(trusted(body.as_bytes()).1.is_some(), "{body}");
        }
        // A parser stops here at the mismatch; no frame behind it may be swallowed.
        let mismatch = trusted(b"<route a='b'><x></route><route a='b'></route>").0;
        assert!(path == Path::Bytes || mismatch.len() == 3, "{}", path.name());
    }
}

/// Pieces from which both plausible and broken input is made.
const PIECES: &[&str] = &[
    "<route xmlns='http://jabberd.jabberstudio.org/ns/component/1.0' from='a' to='b'>",
    "</route>",
    "<message to='x' from=\"y\">",
    "</message>",
    "<body>",
    "</body>",
    "<a/>",
    "<a b='c' d='e'/>",
    "<a b=\"c\"/>",
    "<a>",
    "</a>",
    "</a >",
    "<a ",
    "b='",
    "'",
    "\"",
    "=",
    " ",
    "/",
    ">",
    "/>",
    "<",
    "</",
    "x",
    "text it's \"so\" ",
    "\u{e9}\u{20ac}\u{1F600}",
    "<!--",
    "-->",
    "-",
    "<![CDATA[",
    "]]>",
    "]",
    "<?p ",
    "?>",
    "?",
    "!",
    "\n",
    "&amp;",
    "some longer text that fills a block of sixty-four bytes without any markup in it",
    "<stream:features xmlns:stream='s'>",
    "</stream:stream>",
    "\u{1}",
    "\u{ffff}",
];

fn pieces() -> impl Strategy<Value = Vec<u8>> {
    // The well-formed pieces come first, and more often.
    let piece = prop_oneof![6 => 0..13usize, 2 => 13..PIECES.len()].prop_map(|i| PIECES[i]);
    prop::collection::vec(piece, 0..40).prop_map(|list| list.concat().into_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn paths_agree_wherever_cut(body in pieces(), spoil in prop::option::weighted(0.2, (any::<prop::sample::Index>(), any::<u8>())),
        cuts in prop::collection::vec(0..1500usize, 0..6))
    {
        let mut input = [OPEN.as_bytes(), &body].concat();
        if let Some((at, byte)) = spoil {
            let at = at.index(input.len());
            input[at] = byte;
        }
        let mut cuts = cuts;
        cuts.sort_unstable();
        let expected = run(Path::Bytes, &input, &[], LIMITS);
        for path in Path::available() {
            prop_assert_eq!(&run(path, &input, &cuts, LIMITS), &expected, "{}", path.name());
        }
    }

    /// Of what is well-formed a trusted sender's frames have the same borders, wherever cut.
    #[test]
    fn trust_changes_no_border(frames in prop::collection::vec((0..STARTS.len(), prop::collection::vec(0..CONTENTS.len(), 0..4)), 0..12),
        cuts in prop::collection::vec(0..3000usize, 0..6))
    {
        let mut body = String::new();
        for (kind, contents) in &frames {
            let (start, end) = STARTS[*kind];
            body += start;
            body.extend(contents.iter().map(|&i| CONTENTS[i]));
            body += end;
        }
        let input = [OPEN.as_bytes(), body.as_bytes()].concat();
        let mut cuts = cuts;
        cuts.sort_unstable();
        let expected = run(Path::Bytes, &input, &[], LIMITS);
        prop_assert_eq!(expected.1, None);
        for path in Path::available() {
            prop_assert_eq!(&run_trusted(path, &input, &cuts, LIMITS), &expected, "{}", path.name());
            prop_assert_eq!(&run_trusted(path, &input, &[], LIMITS), &expected, "{}", path.name());
        }
    }

    /// A process that takes over has the bytes of the unfinished item, and nothing else of the scanner.
    #[test]
    fn another_scanner_goes_on_behind_the_last_finished_item(body in pieces(), cut in 0..1500usize) {
        let input = [OPEN.as_bytes(), &body].concat();
        let cut = OPEN.len() + cut % (body.len() + 1);
        let expected = run(Path::Bytes, &input, &[], LIMITS);
        let mut first = Scanner::new(LIMITS);
        let (mut items, mut rest) = (Vec::new(), None);
        while rest.is_none() {
            match first.next(&input[..cut]) {
                Ok(Some(Item::Close { .. })) | Err(_) => return Ok(()),
                Ok(Some(item)) => items.push(item),
                Ok(None) => rest = Some(first.unfinished_start()),
            }
        }
        let base = rest.unwrap();
        prop_assume!(first.can_be_left());
        let (more, error) = run_with(Scanner::inside(LIMITS, first.root()), &input[base..], &[]);
        items.extend(more.into_iter().map(|item| shifted(item, base)));
        prop_assert_eq!((items, error), expected);
    }

    #[test]
    fn paths_agree_on_any_text(text in "[<>/'\"= a\u{e9}!?-]{0,200}") {
        let input = [OPEN.as_bytes(), b"<a>", text.as_bytes(), b"</a>"].concat();
        let expected = run(Path::Bytes, &input, &[], LIMITS);
        for path in Path::available() {
            prop_assert_eq!(&run(path, &input, &[], LIMITS), &expected, "{}", path.name());
        }
    }

    #[test]
    fn paths_agree_on_any_bytes_of_characters(parts in prop::collection::vec(0..12usize, 0..120), cut in 0..400usize) {
        const PARTS: [&[u8]; 12] = [b"x", b"<b/>", b"\xc3\xa9", b"\xe2\x82\xac", b"\xf0\x9f\x98\x80", b"\xef\xbf\xbd",
            b"yyyyyyy", b"zzzzzzzzzzzzzzzzzzzzzz", b"\xed\x9f\xbf", b"\xf4\x8f\xbf\xbf", b"\xe0\xa0\x80", b"\xc3"];
        let text = parts.iter().map(|&i| PARTS[i]).collect::<Vec<_>>().concat();
        let input = [OPEN.as_bytes(), b"<a>", &text, b"</a>"].concat();
        let expected = run(Path::Bytes, &input, &[], LIMITS);
        prop_assert_eq!(expected.1.is_some(), std::str::from_utf8(&input).is_err());
        for path in Path::available() {
            prop_assert_eq!(&run(path, &input, &[cut], LIMITS), &expected, "{}", path.name());
        }
    }
}
