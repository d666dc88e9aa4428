//! Configuration files, from text to settings: every setting, every error with its line.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use jidmesh::config::*;
use proptest::prelude::*;

/// Debian's settings, in a folder `/etc/jabberd2`.
const DEBIAN: &str = include_str!("config/router.xml");
const USERS: &str = "<users>\n <user>\n  <name>jabberd</name>\n  <secret>secret</secret>\n </user>\n</users>\n";
const MAIN: &str = "/etc/jabberd2/router.xml";

fn parse(files: &[(&str, &str)]) -> Result<Loaded, Vec<Problem>> {
    let files: HashMap<&str, &str> = files.iter().copied().collect();
    let read = |path: &Path| match files.get(path.to_str().unwrap()) {
        Some(text) => Ok(text.as_bytes().to_vec()),
        None => Err("no such file".to_owned()),
    };
    Config::parse(Path::new(MAIN), "box.example.net", &read)
}

/// One router.xml around `inner`, beside a users file without weak secrets.
fn with(inner: &str) -> Result<Loaded, Vec<Problem>> {
    let users = "<users><user><name>jabberd</name><secret>s3</secret></user></users>";
    parse(&[
        (MAIN, &format!("<router>\n{inner}\n</router>")),
        ("/etc/jabberd2/router-users.xml", users),
    ])
}

fn good(inner: &str) -> Config {
    let loaded = with(inner).unwrap();
    assert_eq!(lines(&loaded.warnings), Vec::<String>::new(), "{inner}");
    loaded.config
}

fn lines(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(Problem::to_string).collect()
}

/// The one problem of `inner`, as (line, severity, text).
fn problem(inner: &str) -> (u32, Severity, String) {
    let problems = match with(inner) {
        Ok(loaded) => loaded.warnings,
        Err(problems) => problems,
    };
    assert_eq!(problems.len(), 1, "{inner}: {:?}", lines(&problems));
    assert_eq!(problems[0].path, Path::new(MAIN));
    (problems[0].line, problems[0].severity, problems[0].text.clone())
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn debians_files_as_shipped() {
    let filter = "<!-- rules -->\n<filter>\n <!-- <rule/> -->\n</filter>\n";
    let loaded = parse(&[
        (MAIN, DEBIAN),
        ("/etc/jabberd2/router-users.xml", USERS),
        ("/etc/jabberd2/router-filter.xml", filter),
    ])
    .unwrap();
    let config = &loaded.config;
    assert_eq!(config.id, "router");
    assert_eq!(
        config.pidfile.as_deref(),
        Some(Path::new("/var/run/jabberd2/router.pid"))
    );
    assert_eq!(config.log, LogTarget::File("/var/log/jabberd2/router.log".into()));
    assert_eq!(config.local, [addr("0.0.0.0:5347")]);
    assert_eq!(
        config.users,
        HashMap::from([("jabberd".to_owned(), "secret".to_owned())])
    );
    assert_eq!(config.secret.as_deref(), Some("secret"));
    assert_eq!(config.pemfile, None);
    assert_eq!(
        config.check,
        Check {
            interval_s: 60,
            keepalive_s: 0
        }
    );
    assert_eq!(
        (config.io.max_fds, config.io.bytes, config.io.connects),
        (1024, None, None)
    );
    assert!(config.io.access.permits("192.0.2.1".parse().unwrap()));
    assert!(config.acl.may_bind("jabberd", "sm") && config.acl.may_default("jabberd") && config.acl.may_log("jabberd"));
    assert!(config.filter.is_empty() && config.aliases.is_empty() && config.mesh.is_none());
    assert!(config.is_default_secret(Some("jabberd")) && config.is_default_secret(None));
    assert!(!config.is_default_secret(Some("other")) && !config.default_secret_allowed);
    // Both places to change are named, with the line of <ip> as the other way out.
    let secret_line = 1 + DEBIAN.lines().position(|line| line.contains("<secret>")).unwrap();
    let ip_line = 1 + DEBIAN.lines().position(|line| line.contains("<ip>")).unwrap();
    let warnings = lines(&loaded.warnings);
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(
        warnings[0].starts_with("/etc/jabberd2/router-users.xml:4: warning: "),
        "{warnings:?}"
    );
    assert!(
        warnings[1].starts_with(&format!("{MAIN}:{secret_line}: warning: <local><secret>")),
        "{warnings:?}"
    );
    assert!(
        warnings.iter().all(|text| text.contains(&format!("{MAIN}:{ip_line}"))),
        "{warnings:?}"
    );
}

#[test]
fn loopback_only_does_not_warn_of_the_known_secret() {
    let text = DEBIAN
        .replace("0.0.0.0", "127.0.0.1")
        .replace("<filter>/etc/jabberd2/router-filter.xml</filter>", "");
    let loaded = parse(&[(MAIN, &text), ("/etc/jabberd2/router-users.xml", USERS)]).unwrap();
    assert_eq!(lines(&loaded.warnings), Vec::<String>::new());
}

#[test]
fn every_setting_of_jabberd2() {
    let config = good(
        "<id>R1</id><pidfile>/run/${id}.pid</pidfile>
        <log type='syslog'><ident>jr</ident><facility>local5</facility></log>
        <local><ip>::1</ip><ip>192.0.2.1</ip><port>15347</port><secret>x114</secret></local>
        <check><interval>10</interval><keepalive>30</keepalive></check>
        <io><max_fds>4096</max_fds>
          <limits><bytes seconds='2' throttle='3'>65536</bytes><connects throttle='9'>7</connects><frame>65536</frame></limits>
          <access><order>deny, allow</order><allow ip='10.0.0.0' mask='255.0.0.0'/><allow ip='2001:db8::' mask='32'/><deny ip='10.9.9.9'/></access></io>
        <aliases><alias name='Conference.Example.net' target='MUC'/></aliases>
        <aci><acl type='bind'><user>jabberd</user></acl><acl type='default-route'><user>jabberd</user></acl></aci>
        <message_logging><enabled/><file>messages.log</file></message_logging>",
    );
    assert_eq!(config.id, "r1");
    assert_eq!(config.pidfile, Some(PathBuf::from("/run/r1.pid")));
    assert_eq!(
        config.log,
        LogTarget::Syslog {
            ident: "jr".to_owned(),
            facility: 21
        }
    );
    assert_eq!(config.local, [addr("[::1]:15347"), addr("192.0.2.1:15347")]);
    assert_eq!(config.secret.as_deref(), Some("x114"));
    assert_eq!(
        config.check,
        Check {
            interval_s: 10,
            keepalive_s: 30
        }
    );
    assert_eq!(config.io.max_fds, 4096);
    assert_eq!(
        config.io.bytes,
        Some(Rate {
            amount: 65536,
            per_s: 2,
            throttle_s: 3
        })
    );
    assert_eq!(
        config.io.connects,
        Some(Rate {
            amount: 7,
            per_s: 5,
            throttle_s: 9
        })
    );
    assert_eq!(config.frame_bytes_max, 65536);
    let permits = |ip: &str| config.io.access.permits(ip.parse().unwrap());
    assert!(permits("10.1.2.3") && permits("2001:db8::5") && !permits("10.9.9.9") && !permits("192.0.2.7"));
    assert_eq!(
        config.aliases,
        [("conference.example.net".to_owned(), "muc".to_owned())]
    );
    assert!(
        config.acl.may_bind("jabberd", "any") && config.acl.may_default("jabberd") && !config.acl.may_log("jabberd")
    );
    assert!(config.acl.may_bind("Other", "other") && !config.acl.may_bind("other", "any"));
    assert_eq!(config.message_log, Some(PathBuf::from("/etc/jabberd2/messages.log")));
}

#[test]
fn defaults() {
    let config = good("");
    let expected = Config {
        log: LogTarget::Syslog {
            ident: "jabberd/router".to_owned(),
            facility: 19,
        },
        users: HashMap::from([("jabberd".to_owned(), "s3".to_owned())]),
        ..Config::default()
    };
    assert!(config == expected, "{}", config.describe());
    assert_eq!(
        (config.local.as_slice(), config.frame_bytes_max),
        ([addr("0.0.0.0:5347")].as_slice(), 10 << 20)
    );
    assert_eq!((config.grace_ms, config.auth_ms), (9_000, 10_000));
    let config = good("<message_logging><file>x</file></message_logging>");
    assert_eq!(config.message_log, None, "not enabled");
}

#[test]
fn own_sections() {
    let config = good(
        "<mesh><node>A.example.net</node><local><ip>::</ip></local>
          <secret>0123456789abcdef0123456789abcdef</secret><secret>another-secret-of-old</secret>
          <peer>B.example.net</peer><peer port='99'>2001:db8::1</peer>
          <domain placement='spread'>example.net</domain><domain>example.org</domain>
          <exit domain='example.com' node='c.example.net'/><exits policy='nearest'/>
          <name policy='from'>conference.example.net</name></mesh>
        <grace>0</grace><queues><link>16</link><held>32</held><peer>128</peer></queues>
        <uplink><ip>::1</ip><user>jabberd</user><pass>pw</pass></uplink>
        <tuning shards='3'>two-cores</tuning><admin>/run/x.sock</admin><recovery>off</recovery><metrics><port>9</port></metrics>
        <auth-time>4</auth-time><default-secret allow='yes'/>",
    );
    let mesh = config.mesh.clone().unwrap();
    assert_eq!(
        (mesh.node.as_str(), mesh.local.as_slice()),
        ("a.example.net", [addr("[::]:5348")].as_slice())
    );
    assert_eq!(
        (mesh.secrets.len(), mesh.secrets[1].0.as_str()),
        (2, "another-secret-of-old")
    );
    let peer = |host: &str, port| Peer {
        host: host.to_owned(),
        port,
    };
    assert_eq!(mesh.peers, [peer("b.example.net", 5348), peer("2001:db8::1", 99)]);
    let domain = |name: &str, placement| (name.to_owned(), placement);
    assert_eq!(
        mesh.domains,
        [
            domain("example.net", Placement::Spread),
            domain("example.org", Placement::Near)
        ]
    );
    assert_eq!(mesh.exit_pins, [("example.com".to_owned(), "c.example.net".to_owned())]);
    assert_eq!(mesh.exits, ExitPolicy::Nearest);
    assert_eq!(mesh.names, [("conference.example.net".to_owned(), NamePolicy::From)]);
    assert_eq!(config.grace_ms, 0);
    assert_eq!(
        config.queues,
        Queues {
            link_bytes: 16 << 20,
            held_bytes: 32 << 20,
            peer_bytes: 128 << 20
        }
    );
    let uplink = Uplink {
        addr: addr("[::1]:5347"),
        user: "jabberd".to_owned(),
        pass: Secret("pw".to_owned()),
        certificate: None,
    };
    assert_eq!(config.uplink, Some(uplink));
    assert_eq!(config.tuning.shards, Shards::Count(3));
    assert_eq!(config.tuning.profile, "two-cores");
    assert_eq!(config.admin, Some(PathBuf::from("/run/x.sock")));
    assert_eq!(config.recovery.file(Path::new("/run/x.sock")), None);
    assert_eq!((config.metrics, config.page), (Some(addr("127.0.0.1:9")), false));
    assert!(good("<metrics><ip>::1</ip><page/></metrics>").page);
    assert!(good("<metrics><ip>10.0.0.1</ip><page anywhere='yes'/></metrics>").page);
    assert_eq!((config.auth_ms, config.default_secret_allowed), (4_000, true));
    assert_eq!(
        good("<tuning><shards>2</shards></tuning>").tuning.shards,
        Shards::Count(2)
    );
    assert_eq!(good("<tuning>auto</tuning>").tuning, Tuning::default());
    let mesh = good("<mesh><secret>0123456789abcdef0123456789abcdef</secret></mesh>")
        .mesh
        .unwrap();
    assert_eq!(mesh.node, "box.example.net", "the machine's host name");
}

#[test]
fn a_mesh_is_described_line_by_line() {
    let config = good(
        "<mesh><node>a.example.net</node><cluster>blue</cluster><secret>0123456789abcdef0123456789abcdef</secret>
          <peer>b.example.net</peer><peer port='99'>c.example.net</peer>
          <domain placement='spread'>example.net</domain><exit domain='example.com' node='b.example.net'/></mesh>",
    );
    let text = config.describe();
    for line in [
        "mesh node: a.example.net",
        "mesh cluster: blue",
        "mesh port: listens on 0.0.0.0:5348",
        "mesh peers: dials b.example.net:5348, c.example.net:99",
        "mesh secrets: 1, the first seals and all are accepted",
        "mesh placement: example.net spread",
        "mesh exits: the first node that needs one; pinned: example.com by b.example.net",
        &format!("digest, to compare machines: {}", config.digest()),
    ] {
        assert!(text.lines().any(|found| found.trim() == line), "{line}\n{text}");
    }
    assert!(!text.contains("0123456789abcdef0"), "{text}");
}

#[test]
fn mesh_secret_from_a_file() {
    let main = "<router><local><ip>127.0.0.1</ip></local><mesh><secret file='mesh.secret'/></mesh></router>";
    let files = [
        (MAIN, main),
        ("/etc/jabberd2/router-users.xml", USERS),
        ("/etc/jabberd2/mesh.secret", "0123456789abcdef\n"),
    ];
    let config = parse(&files).unwrap().config;
    assert_eq!(config.mesh.unwrap().secrets, [Secret("0123456789abcdef".to_owned())]);
    let error = parse(&files[..2]).unwrap_err();
    assert_eq!(
        lines(&error),
        [format!(
            "{MAIN}:1: error: <secret>: /etc/jabberd2/mesh.secret: no such file"
        )]
    );
}

#[test]
fn every_error_has_its_line_and_says_what_is_right() {
    for (inner, line, words) in [
        ("<id>a@b</id>", 2, "example.net"),
        ("\n<log type='tape'/>", 3, "syslog, file, stdout"),
        ("<log\n type='file'/>", 2, "<file>/var/log"),
        ("<log type='syslog'>\n<facility>local9</facility></log>", 3, "local7"),
        (
            "<local>\n\n<ip>localhost</ip></local>",
            4,
            "found 'localhost'; right is an IP address",
        ),
        ("<local>\n<port>99999</port></local>", 3, "1 to 65535"),
        ("<local><port>0</port></local>", 2, "found '0'"),
        (
            "<local>\n<pemfile>x.pem</pemfile></local>",
            3,
            "/etc/jabberd2/x.pem: no such file",
        ),
        (
            "<local>\n<users>u.xml</users></local>",
            3,
            "/etc/jabberd2/u.xml: no such file",
        ),
        (
            "<aci>\n<filter>f.xml</filter></aci>",
            3,
            "/etc/jabberd2/f.xml: no such file",
        ),
        ("<check><interval>-1</interval></check>", 2, "found '-1'"),
        ("<check><keepalive>soon</keepalive></check>", 2, "whole seconds"),
        ("<io><max_fds>3</max_fds></io>", 2, "16 to"),
        ("<io><limits>\n<bytes>1k</bytes></limits></io>", 3, "found '1k'"),
        (
            "<io><limits>\n<connects seconds='0'>1</connects></limits></io>",
            3,
            "seconds='...'",
        ),
        ("<io><limits>\n<frame>1</frame></limits></io>", 3, "65536 to"),
        (
            "<io><access>\n<order>allow</order></access></io>",
            3,
            "allow,deny, deny,allow",
        ),
        (
            "<io><access>\n<allow ip='1.2.3'/></access></io>",
            3,
            "mask='255.255.0.0'",
        ),
        (
            "<io><access>\n<deny ip='1.2.3.4' mask='255.0.255.0'/></access></io>",
            3,
            "found ip='1.2.3.4' mask='255.0.255.0'",
        ),
        ("<io><access>\n<deny/></access></io>", 3, "<deny ip='127.0.0.1'/>"),
        ("<aliases>\n<alias name='a'/></aliases>", 3, "target='muc'"),
        (
            "<aliases>\n<alias name='a' target='A'/></aliases>",
            3,
            "alias of itself",
        ),
        (
            "<aliases><alias name='a' target='b'/>\n<alias name='A' target='c'/></aliases>",
            3,
            "above already",
        ),
        ("<aci>\n<acl type='every'/></aci>", 3, "all, bind, default-route, log"),
        ("<message_logging><enabled/></message_logging>", 2, "without <file>"),
        ("<grace>9s</grace>", 2, "whole seconds, 0 to 3600"),
        ("<auth-time>0</auth-time>", 2, "1 to 600"),
        ("<queues>\n<held>0</held></queues>", 3, "whole MiB"),
        ("<queues><link>5</link></queues>", 2, "longest frame"),
        ("<uplink><user>x</user></uplink>", 2, "<pass>"),
        (
            "<uplink>\n<user>x</user><pass>y</pass></uplink>",
            2,
            "there jidmesh itself listens",
        ),
        ("<metrics><ip>x</ip></metrics>", 2, "IP address"),
        ("<metrics><ip>10.0.0.1</ip><page/></metrics>", 2, "loopback"),
        ("<metrics><ip>::</ip><page anywhere='no'/></metrics>", 2, "loopback"),
        ("<tuning shards='0'/>", 2, "auto, or a number"),
        ("<default-secret allow='maybe'/>", 2, "yes, no"),
        ("<mesh/>", 2, "without <secret>"),
        ("<mesh>\n<secret>secret</secret></mesh>", 3, "everybody knows"),
        (
            "<mesh><secret>0123456789abcdef</secret>\n<peer>b:1</peer></mesh>",
            3,
            "<peer port='5348'>",
        ),
        (
            "<mesh><secret>0123456789abcdef</secret>\n<domain placement='far'>a</domain></mesh>",
            3,
            "near, spread",
        ),
        (
            "<mesh><secret>0123456789abcdef</secret>\n<exits policy='x'/></mesh>",
            3,
            "first, nearest",
        ),
        (
            "<mesh><secret>0123456789abcdef</secret>\n<exit domain='a'/></mesh>",
            3,
            "node='c.example.net'",
        ),
        (
            "<mesh><secret>0123456789abcdef</secret>\n<name policy='x'>a</name></mesh>",
            3,
            "active, from, to",
        ),
        (
            "<mesh><secret>0123456789abcdef</secret><node>localhost</node></mesh>",
            2,
            "<node>a.example.net</node>",
        ),
    ] {
        let (at, severity, text) = problem(inner);
        assert_eq!((at, severity), (line, Severity::Error), "{inner}: {text}");
        assert!(text.contains(words), "{inner}: {text}");
    }
}

#[test]
fn warnings_have_their_line() {
    for (inner, line, words) in [
        ("\n<colour>red</colour>", 3, "unknown setting <colour> in <router>"),
        (
            "<check><interval unit='m'>5</interval></check>",
            2,
            "unknown attribute unit",
        ),
        ("<local>\n<ip port='1'>::1</ip></local>", 3, "unknown attribute port"),
        ("<id>a</id>\n<id>b</id>", 3, "the one of line 2 counts"),
        ("<local><ip>::1</ip>\n<ip>::1</ip></local>", 3, "twice"),
        ("<pidfile>/run/${name}.pid</pidfile>", 2, "only ${id}"),
        (
            "<io><access><order>deny,allow</order></access></io>",
            2,
            "nobody can connect",
        ),
        ("<local><ciphers>3DES</ciphers></local>", 2, "TLS 1.3 only"),
        ("<local>words</local>", 2, "text 'words'"),
        ("<mesh>\n<secret>short</secret></mesh>", 3, "shorter than 16"),
        (
            "<aci><acl type='all'><user>nobody</user></acl></aci>",
            0,
            "'nobody' is not in the users file",
        ),
    ] {
        let (at, severity, text) = problem(inner);
        assert_eq!((at, severity), (line, Severity::Warning), "{inner}: {text}");
        assert!(text.contains(words), "{inner}: {text}");
    }
}

#[test]
fn all_errors_at_once_of_all_files() {
    let main = "<router>\n<local><ip>x</ip></local>\n<grace>y</grace><odd/></router>";
    let users = "<users>\n<user><name>a</name></user></users>";
    let problems = parse(&[
        (MAIN, main),
        ("/etc/jabberd2/router-users.xml", users),
        (
            "/etc/jabberd2/router-filter.xml",
            "<filter>\n<rule redirect='@'/>\n</filer>",
        ),
    ])
    .unwrap_err();
    let places: Vec<(u32, Severity)> = problems
        .iter()
        .map(|problem| (problem.line, problem.severity))
        .collect();
    let expected = [
        (3, Severity::Warning),
        (2, Severity::Error),
        (3, Severity::Error),
        (2, Severity::Error),
        (3, Severity::Error),
    ];
    assert_eq!(places, expected, "{:?}", lines(&problems));
    assert!(
        problems[4]
            .to_string()
            .starts_with("/etc/jabberd2/router-filter.xml:3: error: not well-formed XML")
    );
}

#[test]
fn what_the_components_files_say_must_fit() {
    let uplink = "<router><local><port>5346</port></local><aci><acl type='all'><user>jabberd</user></acl></aci>
        <mesh><secret>0123456789abcdef</secret></mesh>\n<uplink>\n<user>mesh</user>\n<pass>x</pass></uplink></router>";
    let stock = "<router>\n<aci><acl type='all'><user>jabberd</user></acl><acl type='log'><user>mesh</user></acl></aci></router>";
    let warnings = |uplink: &str, stock: &str, sm: &str, c2s: &str, s2s: &str| {
        let users = "<users><user><name>jabberd</name><secret>s3</secret></user></users>";
        let stock_users = "<users><user><name>mesh</name><secret>x</secret></user></users>";
        let files = [
            ("/srv/stock-users.xml", stock_users),
            ("/srv/other-users.xml", &stock_users.replace(">x<", ">y<")),
            ("/etc/jabberd2/jidmesh.xml", uplink),
            ("/etc/jabberd2/router-users.xml", users),
            (MAIN, stock),
            ("/etc/jabberd2/sm.xml", sm),
            ("/etc/jabberd2/c2s.xml", c2s),
            ("/etc/jabberd2/s2s.xml", s2s),
        ];
        let read = |path: &Path| {
            let found = files.iter().find(|(name, _)| Path::new(name) == path);
            found
                .map(|(_, text)| text.as_bytes().to_vec())
                .ok_or_else(|| "no such file".to_owned())
        };
        let loaded = Config::parse(Path::new("/etc/jabberd2/jidmesh.xml"), "box.example.net", &read).unwrap();
        lines(&loaded.warnings)
    };
    let sm = "<sm><router><port>5346</port><pass>s3</pass></router></sm>";
    let c2s = "<c2s><router/></c2s>";
    let s2s = "<s2s><router><port>5347</port></router><local><secret>x</secret></local></s2s>";
    let right = stock
        .replace("'log'", "'bind'")
        .replace("</aci>", "</aci><local><users>/srv/stock-users.xml</users></local>");
    assert_eq!(warnings(uplink, &right, sm, c2s, s2s), Vec::<String>::new());
    for (uplink, stock, place, text) in [
        (
            uplink,
            right.replace("<local>", "<local><port>5000</port>"),
            ":3",
            "listens on port 5000, not 5347",
        ),
        (
            uplink,
            right.replace("/srv/stock-users", "/srv/other-users"),
            ":5",
            "the password of 'mesh' is another",
        ),
        (
            &uplink.replace("</pass>", "</pass><certificate>/c.pem</certificate>"),
            right.clone(),
            ":5",
            "no <local><pemfile>",
        ),
    ] {
        let told = warnings(uplink, &stock, sm, c2s, s2s).concat();
        assert!(
            told.contains(&format!("jidmesh.xml{place}")) && told.contains(text),
            "{told}"
        );
    }
    let all = warnings(
        uplink,
        stock,
        "<sm>\n<router/></sm>",
        "<c2s><router>\n<port>5346</port></router></c2s>",
        "<s2s>\n<id>c2s</id><router><user>s2s</user></router><local/></s2s>",
    );
    assert_eq!(all.len(), 8, "{all:?}");
    let says = |place: &str, text: &str| {
        let found = all.iter().any(|line| line.contains(place) && line.contains(text));
        assert!(found, "{place} {text}: {all:?}");
    };
    says("s2s.xml:2", "'c2s' is a name of c2s too");
    says("s2s.xml:2", "may not bind 'c2s'");
    says("s2s.xml:2", "<acl type='default-route'><user>s2s</user></acl>");
    says("s2s.xml:2", "all s2s of a mesh must have the same");
    says("router.xml:2", "<acl type='bind'><user>mesh</user></acl>");
    says("sm.xml:2", "right is 5346");
    says("c2s.xml:2", "right is 5347");
    says("jidmesh.xml:4", "'mesh' is not in /etc/jabberd2/router-users.xml");
}

#[test]
fn wrong_files() {
    assert_eq!(
        lines(&parse(&[]).unwrap_err()),
        [format!("{MAIN}: error: no such file")]
    );
    let error = lines(&parse(&[(MAIN, "<sm>\n</sm>")]).unwrap_err());
    assert_eq!(
        error,
        [format!(
            "{MAIN}:1: error: found <sm>, but the root element of this file is <router>"
        )]
    );
    let missing = Config::load(Path::new("/nonexistent/router.xml")).unwrap_err();
    assert!(
        missing[0]
            .to_string()
            .starts_with("/nonexistent/router.xml: error: can't be read: No such file")
    );
}

#[test]
fn a_crowd_of_warnings_does_not_hide_an_error() {
    let problems = with(&("<odd/>".repeat(1000) + "<grace>x</grace>")).unwrap_err();
    assert_eq!(problems.len(), 101);
    assert!(problems.iter().any(|problem| problem.severity == Severity::Error));
}

#[test]
fn users_as_jabberd2_reads_them() {
    let users = "<users>\n<user><name>a</name><secret> s1 </secret></user>\n<user><name>a</name><secret>s&amp;2</secret></user></users>";
    let loaded = parse(&[(MAIN, "<router/>"), ("/etc/jabberd2/router-users.xml", users)]).unwrap();
    assert_eq!(loaded.config.users["a"], "s&2");
    assert_eq!(loaded.warnings.len(), 1);
    assert_eq!(loaded.warnings[0].line, 3);
}

#[test]
fn filter_rules() {
    let filter = "<filter>
        <rule/>
        <rule from='*' to='*@evil.gov' what='message' error='not-allowed' log='yes'/>
        <rule from='a@b' to='' redirect='Admin@example.org' dump='evil.xml' log='no'/>
        <rule error='' what='*'/>
        <rule error='oops'/>
        <rule what='/message'/>
        <rule log='perhaps'/>
        <rule form='x'/>
    </filter>";
    let loaded = parse(&[
        (MAIN, "<router><local><ip>127.0.0.1</ip></local></router>"),
        ("/etc/jabberd2/router-users.xml", USERS),
        ("/etc/jabberd2/router-filter.xml", filter),
    ])
    .unwrap();
    let rules = &loaded.config.filter.rules;
    assert_eq!(
        rules.iter().map(|rule| rule.line).collect::<Vec<_>>(),
        [2, 3, 4, 5, 6, 7, 8, 9]
    );
    assert_eq!((rules[1].error_code, rules[1].log), (Some("405"), true));
    assert_eq!(rules[1].to.as_ref().unwrap().as_str(), "*@evil.gov");
    assert_eq!(rules[2].to, None, "empty counts as absent");
    assert_eq!(rules[2].redirect.as_deref(), Some("Admin@example.org"));
    assert_eq!(rules[2].dump, Some(PathBuf::from("/etc/jabberd2/evil.xml")));
    assert_eq!((rules[2].error_code, rules[2].log), (None, false));
    assert_eq!((rules[3].error_code, &rules[3].what), (Some("400"), &None));
    assert_eq!(rules[4].error_code, Some("405"));
    let warnings: Vec<u32> = loaded.warnings.iter().map(|problem| problem.line).collect();
    assert_eq!(warnings, [6, 7, 8, 9], "{:?}", lines(&loaded.warnings));
    let met = loaded
        .config
        .filter
        .matches(b"<message/>", Some("x@y/z"), Some("z@evil.gov/r"));
    assert_eq!(met.map(|rule| rule.line), Some(3));
}

#[test]
fn without_any_file() {
    let config = Config::embedded();
    assert!(
        config
            .local
            .iter()
            .all(|addr| addr.ip().is_loopback() && addr.port() == 5347)
    );
    assert_eq!(config.local.len(), 2);
    assert!(config.acl.may_bind("jabberd", "any") && config.is_default_secret(Some("jabberd")));
    assert_eq!((config.log, config.pidfile), (LogTarget::Stdout, None));
}

#[test]
fn digest_tells_meaning_and_no_more() {
    let one = good(
        "<grace>5</grace><local><ip>::1</ip></local><aliases><alias name='a' target='b'/><alias name='c' target='d'/></aliases>",
    );
    let same = good(
        "<aliases><alias name='c' target='d'/><alias name='A' target='b'/></aliases>\n<grace>5</grace><pidfile>/x</pidfile>",
    );
    assert_eq!(one.digest(), same.digest());
    assert_eq!(one.digest().len(), 16);
    for other in [
        "<grace>6</grace>",
        "<grace>5</grace><aliases><alias name='a' target='b'/></aliases>",
        "<local><secret>k</secret></local>",
        "<aci><acl type='bind'><user>jabberd</user></acl></aci>",
    ] {
        assert_ne!(good(other).digest(), one.digest(), "{other}");
    }
    assert_eq!(good("").digest(), "62c29e08a4fe3b78", "stable over builds and machines");
}

#[test]
fn differences_are_told_without_secrets_and_what_only_a_start_reads_is_kept() {
    let file = |inner: &str, users: &str| {
        let users: String = users
            .split(' ')
            .map(|user| format!("<user><name>{user}</name><secret>s-{user}</secret></user>"))
            .collect();
        let text = format!("<router>{inner}</router>");
        let files = [
            (MAIN, &*text),
            ("/etc/jabberd2/router-users.xml", &*format!("<users>{users}</users>")),
        ];
        parse(&files).unwrap().config
    };
    let mesh = |peer: &str, secrets: &str| format!("<mesh><node>a.test</node>{secrets}<peer>{peer}</peer></mesh>");
    let secret = |text: &str| format!("<secret>{text}{}</secret>", "x".repeat(32));
    let was = file(&(mesh("b.test", &secret("one")) + "<grace>9</grace>"), "jabberd old");
    assert!(was.differences(&was).is_empty() && was.fixed_differences(&was).is_empty());
    let users = (0..12).map(|n| format!("u{n:02}")).collect::<Vec<_>>().join(" ");
    let inner = mesh("c.test", &(secret("two") + &secret("one")))
        + "<grace>5</grace><log type='stdout'><level>warning</level></log><id>other</id>\
           <local><secret>s3cret</secret></local><metrics><ip>127.0.0.1</ip><port>1</port></metrics>";
    let mut is = file(&inner, &format!("jabberd {users}"));
    assert_eq!(was.fixed_differences(&is), ["<id>", "<log>", "<metrics>"]);
    is.keep_fixed(&was);
    assert!(was.fixed_differences(&is).is_empty());
    assert_eq!(is.id, was.id);
    let told = was.differences(&is);
    let expected = [
        "users: +u00 +u01 +u02 +u03 +u04 +u05 +u06 +u07 +u08 +u09 and 3 more",
        "<local><secret>: added",
        "<log><level>: Warning, was Info",
        "<grace> (ms): 5000, was 9000",
        "<mesh><secret>: 1 added, 0 removed; another one seals",
        "<mesh><peer>: +c.test:5348 -b.test:5348",
    ];
    assert_eq!(told, expected);
    // A mesh comes and goes with a start only.
    let mut alone = file("", "jabberd");
    assert!(was.fixed_differences(&alone).contains(&"<mesh>"));
    alone.keep_fixed(&was);
    assert_eq!(alone.mesh, was.mesh);
}

#[test]
fn no_secret_is_shown() {
    let config = good(
        "<local><secret>top-hidden</secret></local><mesh><secret>top-hidden-mesh-word</secret></mesh><uplink><port>5346</port><user>u</user><pass>top-hidden</pass></uplink>",
    );
    for text in [
        config.describe(),
        format!("{config:?}"),
        format!("{:?} {:?}", config.mesh, config.uplink),
    ] {
        assert!(!text.contains("top-hidden") && !text.contains("s3\""), "{text}");
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>, markup in "[<>/a='x!?\\[\\]&;#\n-]{0,80}") {
        for text in [bytes.as_slice(), markup.as_bytes()] {
            let read = |_: &Path| Ok(text.to_vec());
            prop_assert!(Config::parse(Path::new(MAIN), "h", &read).is_err());
        }
    }

    #[test]
    fn arbitrary_values_never_panic(at in 0usize..4000, value in "[ -~]{0,20}|\\PC{0,6}") {
        // One text or attribute value of the shipped file replaced by something else.
        let at = (0..=at.min(DEBIAN.len())).rev().find(|at| DEBIAN.is_char_boundary(*at)).unwrap();
        let text = format!("{}{value}{}", &DEBIAN[..at], &DEBIAN[at..]);
        let read = |path: &Path| match path.to_str() {
            Some(MAIN) => Ok(text.clone().into_bytes()),
            _ => Ok(format!("<users><user><name>{value}</name><secret>{value}</secret></user></users>").into_bytes()),
        };
        if let Ok(loaded) = Config::parse(Path::new(MAIN), "h", &read) {
            prop_assert_eq!(loaded.config.digest().len(), 16);
            loaded.config.describe();
        }
    }
}

/// In router mode all three log in here.
#[test]
fn components_must_be_able_to_log_in_and_bind() {
    let users = "<users><user><name>jabberd</name><secret>s3</secret></user><user><name>sm</name><secret>x</secret></user></users>";
    let sm = "<sm>\n<router><user>sm</user><pass>x</pass></router>\n<local><id>example.net</id></local></sm>";
    let c2s = "<c2s>\n<router>\n<pass>wrong</pass></router></c2s>";
    let s2s = "<s2s>\n<router>\n<user>nobody</user></router></s2s>";
    let router = "<router><aci><acl type='all'><user>jabberd</user></acl></aci></router>";
    let files = [
        (MAIN, router),
        ("/etc/jabberd2/router-users.xml", users),
        ("/etc/jabberd2/sm.xml", sm),
        ("/etc/jabberd2/c2s.xml", c2s),
        ("/etc/jabberd2/s2s.xml", s2s),
    ];
    let told = lines(&parse(&files).unwrap().warnings);
    let right = [
        ("sm.xml:3", "may not bind 'example.net'"),
        ("c2s.xml:3", "password of 'jabberd' is another"),
        ("s2s.xml:3", "logs in as 'nobody', who is not in the users file"),
        ("s2s.xml:1", "may not bind 's2s'"),
        ("s2s.xml:1", "may not be the default route"),
    ];
    assert_eq!(told.len(), right.len(), "{told:?}");
    for (place, text) in right {
        let found = told.iter().any(|line| line.contains(place) && line.contains(text));
        assert!(found, "{place} {text}: {told:?}");
    }
}

#[test]
fn machines_side_by_side() {
    let folder = tempfile::tempdir().unwrap();
    let machine = |name: &str, mesh: &str, s2s: &str| {
        let place = folder.path().join(name);
        std::fs::create_dir(&place).unwrap();
        let write = |file: &str, text: &str| std::fs::write(place.join(file), text).unwrap();
        let router = format!(
            "<router><local><users>users.xml</users></local><aci><acl type='all'><user>jabberd</user></acl></aci>\
             <mesh>{mesh}</mesh></router>"
        );
        write("router.xml", &router);
        write(
            "users.xml",
            "<users><user><name>jabberd</name><secret>secret</secret></user></users>",
        );
        write("s2s.xml", s2s);
        Machine::load(&place).unwrap()
    };
    let s2s = |id: &str, secret: &str| format!("<s2s>\n<id>{id}</id>\n<local><secret>{secret}</secret></local></s2s>");
    let (first, second) = ("0123456789abcdef-1", "0123456789abcdef-2");
    let secret = |text: &str| format!("<secret>{text}</secret>");
    let a = machine("a.example.net", &secret(first), &s2s("s2s", "dialback"));
    let b = machine(
        "b.example.net",
        &(secret(first) + &secret(second)),
        &s2s("s2s", "dialback"),
    );
    assert_eq!(a.loaded.config.mesh.as_ref().unwrap().node, "a.example.net");
    assert!(Machine::compare(&[a, b]).is_empty(), "stock ids may repeat");
    let told = |machines: &[Machine]| lines(&Machine::compare(machines));
    let c = machine(
        "c",
        &format!("<node>d.example.net</node>{}<cluster>other</cluster>", secret(second)),
        &s2s("s2s.example.net", "dialback"),
    );
    let d = machine(
        "d",
        &format!(
            "<node>d.example.net</node><domain placement='spread'>example.net</domain>{}",
            secret(first)
        ),
        &s2s("s2s.example.net", "another"),
    );
    let all = told(&[c, d]);
    let right = [
        ("error", "node 'd.example.net' as in"),
        ("error", "they will not talk to each other"),
        ("error", "<mesh><secret> does not open"),
        ("warning", "<mesh><domain> or <exits> differ"),
        ("s2s.xml:3: warning", "<local><secret> differs from"),
        ("s2s.xml:2: warning", "ids may repeat only without a dot"),
    ];
    assert_eq!(all.len(), right.len(), "{all:?}");
    for (place, text) in right {
        assert!(
            all.iter().any(|line| line.contains(place) && line.contains(text)),
            "{text}: {all:?}"
        );
    }
}
