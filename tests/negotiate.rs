//! Both sides of the negotiation: against each other, against arbitrary bytes, and the client side against a real
//! jabberd2-router.
#![allow(clippy::unwrap_used)]

use jidmesh::wire::accept::{Accept, AcceptConfig, Failure, FailureKind, PeerKind, Step, UNAUTHENTICATED_BYTES_MAX};
use jidmesh::wire::connect::{Connect, ConnectStep, Connecting, LIMITS};
use jidmesh::wire::handshake;
use jidmesh::wire::sasl;
use jidmesh::wire::scan::{Item, Scanner};
use proptest::prelude::*;
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const OPEN: &str = "<?xml version='1.0'?><stream:stream xmlns:stream='http://etherx.jabber.org/streams' version='1.0'>";
const ACCEPT_OPEN: &str =
    "<stream:stream xmlns='jabber:component:accept' xmlns:stream='http://etherx.jabber.org/streams' to='conf.test'>";
const SASL: &str = "xmlns='urn:ietf:params:xml:ns:xmpp-sasl'";
const STREAM_END: &str = "</stream:error></stream:stream>";

fn rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

fn config() -> AcceptConfig {
    AcceptConfig {
        realm: "jabberd-router".into(),
        secret: Some("shared".into()),
        starttls: false,
        limits: LIMITS,
        tries_max: 3,
    }
}

fn secret_of(user: &str) -> Option<String> {
    (user == "jabberd").then(|| "secret".to_owned())
}

fn native(pass: &str) -> Connecting {
    Connecting::Native {
        user: "jabberd".into(),
        pass: pass.into(),
        starttls: false,
        hostname: "vm".into(),
    }
}

fn foreign(secret: &str) -> Connecting {
    Connecting::Foreign {
        name: "conf.test".into(),
        secret: secret.into(),
    }
}

/// A router under test, spoken to in text.
struct Server {
    accept: Accept,
    rng: ChaCha8Rng,
    input: Vec<u8>,
}

impl Server {
    fn new(config: AcceptConfig) -> Server {
        Server::seeded(config, 7)
    }

    fn seeded(config: AcceptConfig, seed: u64) -> Server {
        let mut rng = rng(seed);
        Server {
            accept: Accept::new(Arc::new(config), &mut rng),
            rng,
            input: Vec::new(),
        }
    }

    fn say(&mut self, text: impl AsRef<[u8]>) -> (String, Step) {
        self.input.extend_from_slice(text.as_ref());
        let mut out = Vec::new();
        let step = self.accept.feed(&mut self.input, &mut out, &secret_of, &mut self.rng);
        (String::from_utf8(out).unwrap(), step)
    }

    fn ask(&mut self, text: impl AsRef<[u8]>) -> String {
        let (answer, step) = self.say(text);
        assert!(matches!(step, Step::Need), "{step:?} after {answer}");
        answer
    }

    fn fails(&mut self, text: impl AsRef<[u8]>) -> (String, Failure) {
        match self.say(text) {
            (answer, Step::Failed(failure)) => (answer, failure),
            (answer, step) => panic!("{step:?} after {answer}"),
        }
    }

    /// Opens, asks for a challenge, and answers it with this password.
    fn response(&mut self, pass: &str) -> String {
        let challenge = self.ask(format!("<auth {SASL} mechanism='DIGEST-MD5'/>"));
        let answer = sasl::answer(inner(&challenge).as_bytes(), "jabberd", pass, "vm", "cnonce").unwrap();
        format!("<response {SASL}>{}</response>", answer.response)
    }
}

fn inner(element: &str) -> &str {
    element.split_once('>').unwrap().1.rsplit_once("</").unwrap().0
}

/// Plays both sides against each other; `cut` says how many bytes pass at a time.
fn play(what: Connecting, config: AcceptConfig, mut cut: impl FnMut() -> usize) -> (ConnectStep, Step) {
    let (mut server_rng, mut client_rng) = (rng(1), rng(2));
    let mut accept = Accept::new(Arc::new(config), &mut server_rng);
    let mut connect = Connect::new(what);
    let (mut up, mut down) = (Vec::new(), Vec::new());
    let (mut client_in, mut server_in) = (Vec::new(), Vec::new());
    let (mut client, mut server) = (ConnectStep::Need, Step::Need);
    connect.start(&mut up);
    for _ in 0..100_000 {
        if !up.is_empty() && matches!(server, Step::Need) {
            let n = cut().clamp(1, up.len());
            server_in.extend(up.drain(..n));
            server = accept.feed(&mut server_in, &mut down, &secret_of, &mut server_rng);
        } else if !down.is_empty() && matches!(client, ConnectStep::Need) {
            let n = cut().clamp(1, down.len());
            client_in.extend(down.drain(..n));
            client = connect.feed(&mut client_in, &mut up, &mut client_rng);
        } else if matches!((&client, &server), (ConnectStep::StartTls, Step::StartTls)) {
            assert!(up.is_empty() && down.is_empty() && client_in.is_empty() && server_in.is_empty());
            accept.tls_started();
            connect.tls_started(&mut up);
            (client, server) = (ConnectStep::Need, Step::Need);
        } else {
            return (client, server);
        }
    }
    panic!("no end");
}

fn user_of(step: &Step) -> Option<&str> {
    match step {
        Step::Done(peer) => match &peer.kind {
            PeerKind::Native { user } => Some(user),
            PeerKind::Foreign { name, .. } => Some(name),
        },
        _ => None,
    }
}

#[test]
fn features_come_before_authentication_and_are_empty_after() {
    let mut server = Server::new(config());
    let opened = server.ask(OPEN);
    let (header, features) = opened.split_at(opened.find("<stream:features").unwrap());
    let id = header.strip_suffix("'>").unwrap().rsplit_once("id='").unwrap().1;
    assert!(
        id.len() == 40 && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()),
        "{id}"
    );
    assert_eq!(header, OPEN.replace("'1.0'>", &format!("'1.0' id='{id}'>")));
    assert_eq!(
        features,
        "<stream:features xmlns:stream='http://etherx.jabber.org/streams'><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>DIGEST-MD5</mechanism></mechanisms></stream:features>"
    );
    let response = server.response("secret");
    let success = server.ask(response);
    assert!(
        success.starts_with("<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>cnNwYXV0aD"),
        "{success}"
    );
    let (second, step) = server.say(format!("{OPEN}<bind"));
    assert!(second.ends_with("<stream:features xmlns:stream='http://etherx.jabber.org/streams'></stream:features>"));
    assert!(!second.contains(id), "each document has an id of its own");
    assert_eq!(user_of(&step), Some("jabberd"));
    assert_eq!(
        server.input, b"<bind",
        "what follows is left to the authenticated stream"
    );
}

#[test]
fn the_scanner_stands_inside_the_authenticated_stream() {
    let mut server = Server::new(config());
    server.ask(OPEN);
    let response = server.response("secret");
    server.ask(response);
    let (_, step) = server.say(format!("{OPEN}<a/><b>"));
    let Step::Done(mut peer) = step else { panic!("{step:?}") };
    assert_eq!(
        peer.scanner.next(&server.input),
        Ok(Some(Item::Frame { start: 0, end: 4 }))
    );
    assert_eq!(peer.scanner.next(&server.input), Ok(None));
}

#[test]
fn bad_headers_are_answered_as_by_the_stock_router() {
    let error = |condition: &str| {
        format!(
            "<stream:stream xmlns:stream='http://etherx.jabber.org/streams' version='1.0'><stream:error xmlns:stream='http://etherx.jabber.org/streams'><{condition} xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>{STREAM_END}"
        )
    };
    for (open, condition, kind) in [
        (
            OPEN.replace("version='1.0'>", "version='2.0'>"),
            "unsupported-version",
            FailureKind::Unsupported,
        ),
        (
            OPEN.replace("version='1.0'>", "version=''>"),
            "unsupported-version",
            FailureKind::Unsupported,
        ),
        (
            ACCEPT_OPEN.replace("to=", "version='2.0' to="),
            "unsupported-version",
            FailureKind::Unsupported,
        ),
        ("<foo>".to_owned(), "bad-format", FailureKind::BadInput),
        (OPEN.replace("etherx", "other"), "bad-format", FailureKind::BadInput),
    ] {
        let (answer, failure) = Server::new(config()).fails(&open);
        assert_eq!((answer, failure.kind), (error(condition), kind), "{open}");
    }
    let (answer, failure) = Server::new(config()).fails("GET / HTTP/1.0\r\n\r\n");
    assert!(
        answer.contains("<xml-not-well-formed ") && answer.starts_with("<stream:stream "),
        "{answer}"
    );
    assert_eq!(failure.kind, FailureKind::BadInput);
}

#[test]
fn malformed_xml_later_on_is_answered_inside_the_stream() {
    let mut server = Server::new(config());
    server.ask(OPEN);
    let (answer, failure) = server.fails("<a b='<'/>");
    assert!(
        answer.starts_with("<stream:error ") && answer.contains("<xml-not-well-formed "),
        "{answer}"
    );
    assert!(answer.ends_with(STREAM_END));
    assert_eq!(failure.kind, FailureKind::BadInput);
}

#[test]
fn a_headers_namespace_and_addresses_are_echoed() {
    let open = OPEN.replace("version='1.0'>", "xmlns='u:d' to='a&amp;b' from='c.d' version='1.0'>");
    let opened = Server::new(config()).ask(open);
    assert!(
        opened.contains(" xmlns='u:d' to='c.d' from='a&amp;b' version='1.0' id='"),
        "{opened}"
    );
}

#[test]
fn without_a_version_there_are_no_features() {
    let opened = Server::new(config()).ask(OPEN.replace(" version='1.0'>", ">"));
    assert!(
        !opened.contains("features") && !opened[21..].contains("version"),
        "{opened}"
    );
}

#[test]
fn a_close_before_authentication_is_answered() {
    let mut server = Server::new(config());
    server.ask(OPEN);
    let (answer, failure) = server.fails("</stream:stream>");
    assert_eq!(
        (answer.as_str(), failure.kind),
        ("</stream:stream>", FailureKind::Closed)
    );
}

#[test]
fn frames_before_authentication_end_the_stream() {
    for frame in [
        "<bind xmlns='http://jabberd.jabberstudio.org/ns/component/1.0' name='a'/>",
        "<auth/>",
        "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>",
    ] {
        let mut server = Server::new(config());
        server.ask(OPEN);
        let (answer, failure) = server.fails(frame);
        assert!(
            answer.contains("<not-authorized xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>"),
            "{answer}"
        );
        assert_eq!(failure.kind, FailureKind::Auth);
    }
}

/// A c2s that comes back writes what its clients sent right behind its header.
#[test]
fn routes_before_authentication_are_kept_and_not_answered() {
    let route = "<route xmlns='http://jabberd.jabberstudio.org/ns/component/1.0' to='a' from='b'/>";
    let mut server = Server::new(config());
    server.ask(OPEN);
    assert_eq!(server.ask(route.repeat(3)), "");
    let (_, failure) = server.fails("<bind xmlns='http://jabberd.jabberstudio.org/ns/component/1.0' name='a'/>");
    assert_eq!(failure.kind, FailureKind::Auth);
}

#[test]
fn a_wrong_password_leaves_the_stream_open_until_the_last_try() {
    let failure = "<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><not-authorized/><text>Error authenticating user</text></failure>";
    let mut server = Server::new(config());
    server.ask(OPEN);
    for _ in 0..2 {
        let wrong = server.response("wrong");
        assert_eq!(server.ask(wrong), failure);
    }
    let right = server.response("secret");
    assert!(server.ask(right).starts_with("<success"));

    let mut server = Server::new(config());
    server.ask(OPEN);
    for _ in 0..2 {
        let wrong = server.response("wrong");
        server.ask(wrong);
    }
    let wrong = server.response("wrong");
    let (answer, failed) = server.fails(wrong);
    assert_eq!(answer, format!("{failure}</stream:stream>"));
    assert_eq!(failed.kind, FailureKind::Auth);
}

#[test]
fn a_response_serves_once_and_only_its_own_nonce() {
    let mut server = Server::new(config());
    server.ask(OPEN);
    let stale = server.response("secret");
    server.ask(format!("<auth {SASL} mechanism='DIGEST-MD5'/>"));
    assert!(
        server.ask(&stale).contains("<not-authorized/>"),
        "another challenge was sent since"
    );
    assert!(
        server.ask(&stale).contains("<mechanism-too-weak/>"),
        "no challenge waits"
    );
}

#[test]
fn other_sasl_input_is_answered_as_by_the_stock_router() {
    let mut patient = config();
    patient.tries_max = 9;
    let mut server = Server::new(patient);
    server.ask(OPEN);
    let failure = |inner: &str| format!("<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>{inner}</failure>");
    assert_eq!(
        server.ask(format!("<auth {SASL} mechanism='PLAIN'>AGEAYg==</auth>")),
        failure("<invalid-mechanism></invalid-mechanism>")
    );
    assert_eq!(
        server.ask(format!("<auth {SASL}/>")),
        failure("<invalid-mechanism></invalid-mechanism>")
    );
    let aborted = server.response("secret");
    assert_eq!(server.ask(format!("<abort {SASL}/>")), failure("<aborted></aborted>"));
    assert_eq!(
        server.ask(aborted),
        failure("<mechanism-too-weak/><text>response send before auth request enabling mechanism</text>")
    );
    server.response("secret");
    assert_eq!(
        server.ask(format!("<response {SASL}>!!!</response>")),
        failure("<incorrect-encoding/><text>Base 64 coding error in SASL library</text>")
    );
    server.response("secret");
    assert_eq!(
        server.ask(format!("<response {SASL}>AAAA</response>")),
        failure("<invalid-mechanism/><text>SASL mechanism could not parse input</text>")
    );
}

#[test]
fn starttls_is_offered_until_it_is_done() {
    let mut offering = config();
    offering.starttls = true;
    let mut server = Server::new(offering.clone());
    let starttls = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>";
    assert!(server.ask(OPEN).contains(&format!("{starttls}<mechanisms")));
    let (answer, step) = server.say(starttls);
    assert_eq!(answer, "<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>");
    assert!(matches!(step, Step::StartTls));
    server.accept.tls_started();
    let opened = server.ask(OPEN);
    assert!(
        opened.contains("<mechanisms") && !opened.contains("starttls"),
        "{opened}"
    );
    server.fails(starttls);

    let mut server = Server::new(offering);
    server.ask(OPEN);
    let (answer, failure) = server.fails(format!("{starttls}{OPEN}"));
    assert!(
        !answer.contains("proceed"),
        "clear text must not pass for encrypted: {answer}"
    );
    assert_eq!(failure.kind, FailureKind::BadInput);
}

#[test]
fn unauthenticated_input_is_bounded() {
    for filler in ["<a b='", " "] {
        let mut server = Server::new(config());
        server.ask(OPEN);
        server.ask(filler);
        let filling = vec![b' '; UNAUTHENTICATED_BYTES_MAX];
        let (answer, failure) = server.fails(filling);
        assert!(answer.contains("<policy-violation "), "{answer}");
        assert_eq!(failure.kind, FailureKind::BadInput);
    }
}

#[test]
fn foreign_components_prove_the_secret() {
    let id_of = |opened: &str| {
        opened
            .strip_suffix("'>")
            .unwrap()
            .rsplit_once("id='")
            .unwrap()
            .1
            .to_owned()
    };
    let mut server = Server::new(config());
    let opened = server.ask(ACCEPT_OPEN);
    let id = id_of(&opened);
    assert_eq!(
        opened,
        format!(
            "<?xml version='1.0'?><stream:stream xmlns:stream='http://etherx.jabber.org/streams' xmlns='jabber:component:accept' from='conf.test' id='{id}'>"
        )
    );
    let (answer, step) = server.say(format!("<handshake>{}</handshake><m", handshake::digest(&id, "shared")));
    assert_eq!(answer, "<handshake xmlns='jabber:component:accept'></handshake>");
    assert!(
        matches!(&step, Step::Done(peer) if matches!(&peer.kind, PeerKind::Foreign { name, .. } if name == "conf.test"))
    );

    for wrong in [handshake::digest(&id, "shared"), "0".repeat(40), String::new()] {
        let mut server = Server::seeded(config(), 8);
        server.ask(ACCEPT_OPEN);
        let (answer, failure) = server.fails(format!("<handshake>{wrong}</handshake>"));
        assert!(
            answer.contains("<not-authorized ") && answer.ends_with(STREAM_END),
            "{answer}"
        );
        assert_eq!(failure.kind, FailureKind::Auth);
    }
}

#[test]
fn foreign_components_that_cannot_be_served() {
    let mut closed = config();
    closed.secret = None;
    let (answer, failure) = Server::new(closed).fails(ACCEPT_OPEN);
    assert!(answer.contains("<invalid-namespace xmlns='urn:ietf:params:xml:ns:xmpp-streams'/><text xmlns='urn:ietf:params:xml:ns:xmpp-streams'>support for legacy components not available</text>"));
    assert_eq!(failure.kind, FailureKind::Unsupported);
    for to in ["", " to=''", " to='u@conf.test'", " to='conf.test/r'"] {
        let (answer, _) = Server::new(config()).fails(ACCEPT_OPEN.replace(" to='conf.test'", to));
        assert!(answer.contains("<host-unknown "), "{answer}");
    }
    let mut server = Server::new(config());
    server.ask(ACCEPT_OPEN);
    let (answer, _) = server.fails("<message from='a@conf.test' to='b'/>");
    assert!(answer.contains("<not-authorized "), "{answer}");
}

#[test]
fn wrong_secrets_do_not_pass() {
    let (client, server) = play(native("wrong"), config(), || 4096);
    assert!(
        matches!(&client, ConnectStep::Failed(why) if why.contains("not-authorized")),
        "{client:?}"
    );
    assert!(user_of(&server).is_none());
    let (client, server) = play(foreign("wrong"), config(), || 4096);
    assert!(
        matches!(&client, ConnectStep::Failed(why) if why.contains("not-authorized")),
        "{client:?}"
    );
    assert!(matches!(
        server,
        Step::Failed(Failure {
            kind: FailureKind::Auth,
            ..
        })
    ));
}

#[test]
fn a_client_that_wants_tls_does_without_no_login() {
    let mut wanting = native("secret");
    if let Connecting::Native { starttls, .. } = &mut wanting {
        *starttls = true;
    }
    let (client, _) = play(wanting.clone(), config(), || 4096);
    assert!(
        matches!(&client, ConnectStep::Failed(why) if why.contains("STARTTLS")),
        "{client:?}"
    );
    let mut offering = config();
    offering.starttls = true;
    let (client, server) = play(wanting, offering, || 4096);
    assert!(matches!(client, ConnectStep::Done(_)), "{client:?}");
    assert_eq!(user_of(&server), Some("jabberd"));
}

#[test]
fn a_router_that_does_not_know_the_secret_is_refused() {
    let mut connect = Connect::new(native("secret"));
    let mut out = Vec::new();
    let challenge = sasl::challenge("jabberd-router", "nonce");
    let mut input = format!("{OPEN}<stream:features xmlns:stream='http://etherx.jabber.org/streams'/><challenge {SASL}>{challenge}</challenge><success {SASL}>cnNwYXV0aD1jODZhMDVmNDIxMDljMzk1NzRkMzA0MzlmZDE5NjZkZQ==</success>").into_bytes();
    let step = connect.feed(&mut input, &mut out, &mut rng(1));
    assert!(
        matches!(&step, ConnectStep::Failed(why) if why.contains("secret")),
        "{step:?}"
    );
}

proptest! {
    #[test]
    fn both_sides_agree_however_the_bytes_are_cut(cuts in prop::collection::vec(1usize..80, 1..50), which in 0..3) {
        let mut cuts = cuts.into_iter().cycle();
        let mut config = config();
        config.starttls = which == 2;
        let mut what = if which == 1 { foreign("shared") } else { native("secret") };
        if let Connecting::Native { starttls, .. } = &mut what {
            *starttls = which == 2;
        }
        let (client, server) = play(what, config, || cuts.next().unwrap());
        prop_assert!(matches!(client, ConnectStep::Done(_)), "{:?}", client);
        prop_assert_eq!(user_of(&server), Some(if which == 1 { "conf.test" } else { "jabberd" }));
    }

    #[test]
    fn arbitrary_bytes_never_authenticate(bytes in prop::collection::vec(any::<u8>(), 0..400), opened: bool) {
        let mut server = Server::new(config());
        if opened {
            server.ask(OPEN);
        }
        let (_, step) = server.say(bytes);
        prop_assert!(user_of(&step).is_none());
    }

    #[test]
    fn pieces_of_the_protocol_in_any_order_never_authenticate(
        pieces in prop::collection::vec(prop::sample::select(vec![
            OPEN, ACCEPT_OPEN, "</stream:stream>", "<!-- ", " -->", "<![CDATA[", "]]>", "<?x ?>", "<handshake>", "</handshake>", "<handshake/>",
            "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='DIGEST-MD5'/>",
            "<response xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>", "</response>", "AAAA",
            "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>", "<a b='", "'>", "&amp;", "\u{e9}", "<stream:stream>", " ",
        ]), 0..20),
        cut in 1usize..50,
    ) {
        let mut offering = config();
        offering.starttls = true;
        let mut server = Server::new(offering);
        for chunk in pieces.concat().as_bytes().chunks(cut) {
            match server.say(chunk).1 {
                Step::Need => {}
                Step::StartTls => server.accept.tls_started(),
                Step::Failed(failure) => {
                    prop_assert!(!failure.reason.is_empty() && !failure.reason.contains('\n'));
                    break;
                }
                Step::Done(peer) => prop_assert!(false, "{:?}", peer.kind),
            }
        }
    }

    #[test]
    fn an_altered_response_never_authenticates(at in 0usize..230, to in any::<u8>()) {
        let mut server = Server::new(config());
        server.ask(OPEN);
        let response = server.response("secret");
        let plain = decode(inner(&response));
        prop_assume!(at < plain.len() && plain[at] != to && !is_spare(&plain, at));
        let mut altered = plain.clone();
        altered[at] = to;
        // Letter case of directive names and the form of spaces carry no meaning.
        let same_meaning = altered.eq_ignore_ascii_case(&plain) || (plain[at].is_ascii_whitespace() && (to.is_ascii_whitespace() || to == b','));
        prop_assume!(!same_meaning);
        let (answer, _) = server.say(format!("<response {SASL}>{}</response>", encode(&altered)));
        prop_assert!(!answer.contains("<success"), "{}", String::from_utf8_lossy(&altered));
    }

    #[test]
    fn the_client_survives_any_router(bytes in prop::collection::vec(any::<u8>(), 0..400), opened: bool) {
        let mut connect = Connect::new(native("secret"));
        let mut input = if opened { OPEN.as_bytes().to_vec() } else { Vec::new() };
        input.extend(bytes);
        let step = connect.feed(&mut input, &mut Vec::new(), &mut rng(1));
        prop_assert!(!matches!(step, ConnectStep::Done(_)));
    }
}

/// Bytes whose change need not matter: the `charset` directive, and `qop`, which may be left out.
fn is_spare(plain: &[u8], at: usize) -> bool {
    let text = std::str::from_utf8(plain).unwrap();
    let inside = |name: &str, len: usize| text.find(name).is_some_and(|start| (start..start + len).contains(&at));
    inside(", charset=utf-8", 15) || inside(", qop=auth", 10)
}

fn decode(base64: &str) -> Vec<u8> {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.decode(base64).unwrap()
}

fn encode(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// A real router, ended with the test.
struct Stock {
    child: Child,
    port: u16,
    _files: tempfile::TempDir,
}

impl Drop for Stock {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Stock {
    fn start() -> Stock {
        let binary = ["/usr/sbin/jabberd2-router", "/usr/bin/jabberd2-router"]
            .into_iter()
            .find(|path| std::path::Path::new(path).exists())
            .expect("this test needs jabberd2-router (Debian: jabberd2)");
        let files = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let path = |name: &str| files.path().join(name).display().to_string();
        let users = "<users><user><name>jabberd</name><secret>secret</secret></user></users>";
        std::fs::write(path("users.xml"), users).unwrap();
        std::fs::write(path("filter.xml"), "<filter/>").unwrap();
        let router = format!(
            "<router><id>router</id><log type='stdout'/><local><ip>127.0.0.1</ip><port>{port}</port><users>{}</users><secret>shared</secret></local><aci><acl type='all'><user>jabberd</user></acl><filter>{}</filter></aci></router>",
            path("users.xml"),
            path("filter.xml")
        );
        std::fs::write(path("router.xml"), router).unwrap();
        let child = Command::new(binary)
            .arg("-c")
            .arg(path("router.xml"))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Stock {
            child,
            port,
            _files: files,
        }
    }

    fn link(&self) -> TcpStream {
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            match TcpStream::connect(("127.0.0.1", self.port)) {
                Ok(link) => {
                    link.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                    return link;
                }
                Err(error) => assert!(Instant::now() < until, "no router on port {}: {error}", self.port),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn login(&self, what: Connecting) -> (TcpStream, ConnectStep, Vec<u8>) {
        let mut link = self.link();
        let mut connect = Connect::new(what);
        let (mut input, mut out, mut rng) = (Vec::new(), Vec::new(), rng(5));
        connect.start(&mut out);
        loop {
            link.write_all(&out).unwrap();
            out.clear();
            let mut chunk = [0; 4096];
            let n = link.read(&mut chunk).unwrap();
            assert!(n > 0, "the router closed the connection");
            input.extend_from_slice(&chunk[..n]);
            match connect.feed(&mut input, &mut out, &mut rng) {
                ConnectStep::Need => {}
                step => return (link, step, input),
            }
        }
    }
}

/// Reads frames until one starts like this.
fn await_frame(link: &mut TcpStream, scanner: &mut Scanner, input: &mut Vec<u8>, start: &str) -> String {
    loop {
        while let Some(item) = scanner.next(input).unwrap() {
            let Item::Frame { start: from, end } = item else {
                panic!("{item:?}")
            };
            let frame = String::from_utf8(input[from..end].to_vec()).unwrap();
            scanner.consume(end);
            input.drain(..end);
            if frame.starts_with(start) {
                return frame;
            }
        }
        let mut chunk = [0; 4096];
        let n = link.read(&mut chunk).unwrap();
        assert!(n > 0, "the router closed the connection");
        input.extend_from_slice(&chunk[..n]);
    }
}

#[test]
fn a_real_router_lets_both_kinds_in_and_carries_frames_between_them() {
    let stock = Stock::start();
    let (mut link, step, mut input) = stock.login(native("secret"));
    let ConnectStep::Done(mut scanner) = step else {
        panic!("{step:?}")
    };
    let component = "xmlns='http://jabberd.jabberstudio.org/ns/component/1.0'";
    link.write_all(format!("<bind {component} name='a.test'/>").as_bytes())
        .unwrap();
    assert_eq!(
        await_frame(&mut link, &mut scanner, &mut input, "<bind"),
        format!("<bind {component}></bind>")
    );

    let (mut conf, step, mut conf_input) = stock.login(foreign("shared"));
    let ConnectStep::Done(mut conf_scanner) = step else {
        panic!("{step:?}")
    };
    let advert = await_frame(&mut link, &mut scanner, &mut input, "<presence");
    assert!(advert.contains("from='conf.test'"), "{advert}");
    conf.write_all(b"<message from='room@conf.test' to='u@a.test'><body>up</body></message>")
        .unwrap();
    let up = await_frame(&mut link, &mut scanner, &mut input, "<route");
    assert!(up.contains("<body>up</body>"), "{up}");
    let down = format!(
        "<route {component} to='conf.test' from='a.test'><message xmlns='jabber:client' to='room@conf.test' from='u@a.test'><body>down</body></message></route>"
    );
    link.write_all(down.as_bytes()).unwrap();
    let down = await_frame(&mut conf, &mut conf_scanner, &mut conf_input, "<message");
    assert!(down.contains("<body>down</body>"), "{down}");
}

#[test]
fn a_real_router_refuses_wrong_secrets() {
    let stock = Stock::start();
    let (_, step, _) = stock.login(native("wrong"));
    assert!(
        matches!(&step, ConnectStep::Failed(why) if why.contains("not-authorized")),
        "{step:?}"
    );
    let (_, step, _) = stock.login(foreign("wrong"));
    assert!(
        matches!(&step, ConnectStep::Failed(why) if why.contains("not-authorized")),
        "{step:?}"
    );
}

/// jabberd2's own client side against ours: an s2s, the one component that needs no database.
#[test]
fn a_real_component_logs_in() {
    let binary = ["/usr/sbin/jabberd2-s2s", "/usr/bin/jabberd2-s2s"]
        .into_iter()
        .find(|path| std::path::Path::new(path).exists())
        .expect("this test needs jabberd2-s2s (Debian: jabberd2)");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let outside = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let files = tempfile::tempdir().unwrap();
    let path = files.path().join("s2s.xml");
    let s2s = format!(
        "<s2s><id>s2s1</id><router><ip>127.0.0.1</ip><port>{port}</port><user>jabberd</user><pass>secret</pass></router><log type='stdout'/><local><ip>127.0.0.1</ip><port>{outside}</port><secret>x</secret></local></s2s>"
    );
    std::fs::write(&path, s2s).unwrap();
    let child = Command::new(binary)
        .arg("-c")
        .arg(&path)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let _ended_with_the_test = Stock {
        child,
        port,
        _files: files,
    };
    let (mut link, _) = listener.accept().unwrap();
    link.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut server = Server::new(config());
    let mut peer = loop {
        let mut chunk = [0; 4096];
        let n = link.read(&mut chunk).unwrap();
        assert!(n > 0, "s2s closed the connection");
        let (answer, step) = server.say(&chunk[..n]);
        link.write_all(answer.as_bytes()).unwrap();
        match step {
            Step::Need => {}
            Step::Done(peer) => break peer,
            step => panic!("{step:?}"),
        }
    };
    assert!(matches!(&peer.kind, PeerKind::Native { user } if user == "jabberd"));
    let bind = await_frame(&mut link, &mut peer.scanner, &mut server.input, "<bind");
    assert!(bind.contains("name='s2s1'") && bind.contains("<default"), "{bind}");
}
