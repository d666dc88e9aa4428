#![allow(clippy::unwrap_used)]

use super::*;

fn good(frame: &str) {
    assert_eq!(check(frame.as_bytes(), &Prefixes::default()), Ok(()), "{frame}");
}

fn bad(frame: &str) -> &'static str {
    check(frame.as_bytes(), &Prefixes::default()).expect_err(frame).0
}

#[test]
fn what_passes() {
    for frame in [
        "<a/>",
        "<a b='1' c=\"2\"> text &amp; &#x41; <b/><!-- & <c> --><![CDATA[&x; <d>]]><?p &x; ?></a >",
        "<p:a xmlns:p='u:p' p:b='1' b='2'><p:c/><x xmlns='' /></p:a>",
        "<a xml:lang='en' xmlns:xml='http://www.w3.org/XML/1998/namespace'/>",
        "<a xmlns:p='u:1' xmlns:q='u:2' p:b='' q:b=''/>",
        "<\u{e9}t\u{e9} \u{3b1}\u{b7}='x'/>",
    ] {
        good(frame);
    }
}

#[test]
fn what_does_not() {
    for (frame, why) in [
        ("<a></b>", "mismatched tag"),
        ("<a><b></a></b>", "mismatched tag"),
        ("<a>", "mismatched tag"),
        ("<1a/>", "illegal name"),
        ("<a:b:c xmlns:a='u'/>", "illegal name"),
        ("<a :b='1'/>", "illegal name"),
        ("<a&b/>", "illegal name"),
        ("<a \u{10000}='1'/>", "illegal name"),
        ("<a><?p:q?></a>", "illegal name"),
        ("<p:a/>", "unbound prefix"),
        ("<xmlns:a/>", "unbound prefix"),
        ("<a p:b='1'/>", "unbound prefix"),
        ("<a><b xmlns:p='u'/><p:c/></a>", "unbound prefix"),
        ("<a b='1' b='2'/>", "duplicate attribute"),
        ("<a xmlns='1' xmlns='2'/>", "duplicate attribute"),
        ("<a xmlns:p='u' xmlns:q='&#x75;' p:b='' q:b=''/>", "duplicate attribute"),
        ("<a>&nbsp;</a>", "unknown entity"),
        ("<a b='&#0;'/>", "unknown entity"),
        ("<a>&amp</a>", "unfinished reference"),
        ("<a xmlns:p=''/>", "a prefix must not be undeclared"),
        ("<a xmlns:xmlns='u'/>", "prefix xmlns must not be declared"),
        ("<a xmlns:xml='u'/>", "reserved prefix or namespace"),
        (
            "<a xmlns='http://www.w3.org/2000/xmlns/'/>",
            "reserved prefix or namespace",
        ),
        ("<a xmlns:p='u|v'/>", "illegal character in a namespace"),
        ("<a xmlns='u&#124;v'/>", "illegal character in a namespace"),
        ("<a/><b/>", "not well-formed"),
    ] {
        assert_eq!(bad(frame), why, "{frame}");
    }
    let many: String = (0..=BINDINGS_MAX).map(|i| format!(" xmlns:p{i}='u'")).collect();
    assert_eq!(bad(&format!("<a{many}/>")), "too many namespace declarations");
    let twice: String = (0..40).map(|i| format!(" a{i}='u'")).collect();
    good(&format!("<a{twice}/>"));
    assert_eq!(bad(&format!("<a{twice} a7=''/>")), "duplicate attribute");
}

#[test]
fn bindings_of_the_stream() {
    let open = b"<?xml version='1.0'?><!-- <x> --><stream:stream xmlns='u:d' xmlns:stream='u&#58;s' xmlns:p='u:p'>";
    let prefixes = Prefixes::of_open_tag(open).unwrap();
    assert_eq!(prefixes.default_namespace(), Some("u:d"));
    assert_eq!(prefixes.iter().collect::<Vec<_>>(), [("stream", "u:s"), ("p", "u:p")]);
    assert_eq!(check(b"<p:a p:b='1'/>", &prefixes), Ok(()));
    assert_eq!(
        check(b"<a xmlns:q='u:p' p:b='1' q:b='1'/>", &prefixes),
        Err(Invalid("duplicate attribute"))
    );
    assert_eq!(check(b"<q:a/>", &prefixes), Err(UNBOUND));
    assert!(Prefixes::of_open_tag(b"<s:a>").is_err());
    assert_eq!(
        Prefixes::of_open_tag(b"<a xmlns=''>").unwrap().default_namespace(),
        None
    );
}

#[test]
fn any_cut_is_refused_in_peace() {
    let frame = "<a b='&amp;' xmlns:p='u'><p:b c=\"d\"/>&lt;<!-- x --><![CDATA[y]]><?z w?></a>";
    for n in 0..frame.len() {
        assert!(check(&frame.as_bytes()[..n], &Prefixes::default()).is_err(), "{n}");
    }
}
