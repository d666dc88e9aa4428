//! `<mesh>` and `<uplink>`: this node among others.

use std::net::{IpAddr, SocketAddr};

use super::model::*;
use super::read::{Cx, excerpt};
use super::tree::Node;

/// Shorter secrets of the mesh are warned about, bytes.
const SECRET_BYTES_GOOD: usize = 16;

pub(super) fn mesh(cx: &mut Cx<'_>, root: &Node, host_name: &str) -> Option<Mesh> {
    let node = cx.one(root, "mesh")?;
    cx.known(
        node,
        &[
            "node", "local", "cluster", "secret", "plain", "peer", "domain", "exit", "exits", "name",
        ],
        &[],
    );
    let mut local = cx.addresses(&Node::default(), "0.0.0.0", MESH_PORT_DEFAULT);
    if let Some(section) = cx.one(node, "local") {
        cx.known(section, &["ip", "port"], &[]);
        local = cx.addresses(section, "0.0.0.0", MESH_PORT_DEFAULT);
    }
    let exits = cx.one(node, "exits").and_then(|exits| {
        cx.known(exits, &[], &["policy"]);
        let policy = exits.attr("policy").unwrap_or("");
        cx.choice(
            exits,
            policy,
            &[("first", ExitPolicy::First), ("nearest", ExitPolicy::Nearest)],
        )
    });
    let cluster = cx.text_of(node, "cluster");
    Some(Mesh {
        node: own_name(cx, node, host_name),
        local,
        cluster: cluster.unwrap_or_else(|| CLUSTER_DEFAULT.to_owned()),
        secrets: secrets(cx, node),
        plain_allowed: plain_allowed(cx, node),
        peers: peers(cx, node),
        domains: named(
            cx,
            node,
            "domain",
            "placement",
            &[("near", Placement::Near), ("spread", Placement::Spread)],
        ),
        exit_pins: exit_pins(cx, node),
        exits: exits.unwrap_or_default(),
        names: named(cx, node, "name", "policy", &NAME_POLICIES),
    })
}

const NAME_POLICIES: [(&str, NamePolicy); 3] = [
    ("active", NamePolicy::Active),
    ("from", NamePolicy::From),
    ("to", NamePolicy::To),
];

fn own_name(cx: &mut Cx<'_>, mesh: &Node, host_name: &str) -> String {
    let (node, text) = match cx.one(mesh, "node") {
        Some(node) => (node, cx.text(node)),
        None => (mesh, None),
    };
    let text = text.unwrap_or_else(|| host_name.to_owned());
    if text == "localhost" {
        let right = "<node>a.example.net</node>, the DNS name by which its peers reach this machine";
        cx.error(
            node.line,
            format!("<mesh>: this machine is called 'localhost'; add {right}"),
        );
        return text;
    }
    cx.domain(node, &text).unwrap_or_default()
}

fn plain_allowed(cx: &mut Cx<'_>, mesh: &Node) -> bool {
    let Some(node) = cx.one(mesh, "plain") else {
        return false;
    };
    cx.known(node, &[], &["allow"]);
    let word = node.attr("allow").unwrap_or("");
    let allowed = cx.choice(node, word, &[("yes", true), ("no", false)]) == Some(true);
    if allowed {
        cx.warning(
            node.line,
            "<plain>: stanzas cross the network unencrypted to every peer that allows it too",
        );
    }
    allowed
}

fn secrets(cx: &mut Cx<'_>, mesh: &Node) -> Vec<Secret> {
    let mut all = Vec::new();
    for node in mesh.all("secret") {
        let secret = match (node.attr("file"), cx.text_with(node, &["file"])) {
            (None, Some(text)) => text,
            (Some(file), None) => {
                let path = cx.absolute(file);
                match (cx.read)(&path).map(String::from_utf8) {
                    Ok(Ok(text)) if !text.trim().is_empty() => text.trim().to_owned(),
                    Ok(_) => {
                        cx.error(node.line, format!("<secret>: {} holds no text", path.display()));
                        continue;
                    }
                    Err(reason) => {
                        cx.error(node.line, format!("<secret>: {}: {reason}", path.display()));
                        continue;
                    }
                }
            }
            _ => {
                cx.error(
                    node.line,
                    "<secret>: right is either the secret itself or file='...', not both",
                );
                continue;
            }
        };
        if secret == DEFAULT_SECRET {
            cx.error(
                node.line,
                "<secret>: everybody knows this one; right is a random text of 32 characters",
            );
        } else if secret.len() < SECRET_BYTES_GOOD {
            cx.warning(
                node.line,
                format!("<secret>: shorter than {SECRET_BYTES_GOOD} bytes; better is a random text of 32"),
            );
        }
        all.push(Secret(secret));
    }
    if mesh.all("secret").next().is_none() {
        cx.error(
            mesh.line,
            "<mesh> without <secret>; add the secret that all nodes share, for example <secret file='mesh.secret'/>",
        );
    }
    all
}

fn peers(cx: &mut Cx<'_>, mesh: &Node) -> Vec<Peer> {
    let mut all: Vec<Peer> = Vec::new();
    for node in mesh.all("peer") {
        let Some(text) = cx.text_with(node, &["port"]) else {
            cx.error(
                node.line,
                "<peer> is empty; right is, for example, <peer>b.example.net</peer>",
            );
            continue;
        };
        let port = node
            .attr("port")
            .map(|port| cx.number(node, port, 1..=u16::MAX, "port='...' as a TCP port"));
        let port = port.flatten().unwrap_or(MESH_PORT_DEFAULT);
        let host = match text.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(ip) => Some(ip.to_string()),
            Err(_) if text.contains(':') => {
                let right = "<peer port='5348'>b.example.net</peer>";
                cx.error(
                    node.line,
                    format!("<peer>: found '{}'; right is, for example, {right}", excerpt(&text)),
                );
                None
            }
            Err(_) => cx.domain(node, &text),
        };
        let Some(host) = host else { continue };
        let peer = Peer { host, port };
        if all.contains(&peer) {
            cx.warning(node.line, format!("<peer>: '{}' is here twice", peer.host));
        } else {
            all.push(peer);
        }
    }
    all
}

/// Elements that give a choice to a name; without the attribute it is the first.
fn named<T: Copy>(cx: &mut Cx<'_>, mesh: &Node, tag: &str, key: &str, choices: &[(&str, T)]) -> Vec<(String, T)> {
    let mut all: Vec<(String, T)> = Vec::new();
    for node in mesh.all(tag) {
        let word = node.attr(key).unwrap_or(choices[0].0);
        let Some(choice) = cx.choice(node, word, choices) else {
            continue;
        };
        let text = cx.text_with(node, &[key]).unwrap_or_default();
        let Some(name) = cx.domain(node, &text) else { continue };
        if all.iter().any(|(other, _)| *other == name) {
            cx.error(
                node.line,
                format!("<{tag}>: '{name}' stands above already; remove one of them"),
            );
        } else {
            all.push((name, choice));
        }
    }
    all
}

fn exit_pins(cx: &mut Cx<'_>, mesh: &Node) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = Vec::new();
    for node in mesh.all("exit") {
        cx.known(node, &[], &["domain", "node"]);
        let (Some(domain), Some(exit)) = (node.attr("domain"), node.attr("node")) else {
            cx.error(
                node.line,
                "<exit> needs both: right is, for example, <exit domain='example.com' node='c.example.net'/>",
            );
            continue;
        };
        let (Some(domain), Some(exit)) = (cx.domain(node, domain), cx.domain(node, exit)) else {
            continue;
        };
        if all.iter().any(|(other, _)| *other == domain) {
            cx.error(
                node.line,
                format!("<exit>: '{domain}' has an exit above already; remove one of them"),
            );
        } else {
            all.push((domain, exit));
        }
    }
    all
}

pub(super) fn uplink(cx: &mut Cx<'_>, root: &Node, own: &[SocketAddr]) -> Option<Uplink> {
    let node = cx.one(root, "uplink")?;
    cx.known(node, &["ip", "port", "user", "pass", "certificate"], &[]);
    let addr = cx.addresses(node, "127.0.0.1", PORT_DEFAULT).first().copied();
    match (addr, cx.text_of(node, "user"), cx.text_of(node, "pass")) {
        (Some(addr), Some(user), Some(pass)) => {
            let here = |own: &SocketAddr| {
                let anywhere = own.ip().is_unspecified() && own.is_ipv4() == addr.is_ipv4() && addr.ip().is_loopback();
                own.port() == addr.port() && (own.ip() == addr.ip() || anywhere)
            };
            if own.iter().any(here) {
                let text = "<uplink>: there jidmesh itself listens (<local>); right is the stock router's address";
                cx.error(node.line, text);
            }
            let pass = Secret(pass);
            Some(Uplink {
                addr,
                user,
                pass,
                certificate: cx.path_of(node, "certificate"),
            })
        }
        _ => {
            let right = "<user>jabberd</user><pass>...</pass>";
            cx.error(
                node.line,
                format!("<uplink> needs a user and a password: right is, for example, {right}"),
            );
            None
        }
    }
}
