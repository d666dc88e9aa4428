//! Rules of `router-filter.xml`, as data. Matching is `route::filter`'s.

use std::path::PathBuf;

use super::glob::Glob;
use super::read::{Cx, excerpt};
use super::tree::Node;

/// Most rules of one file; each costs time on every packet.
const RULES_MAX: usize = 10_000;

/// The rules, in their order: the first match decides.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Filter {
    /// The rules.
    pub rules: Vec<Rule>,
}

impl Filter {
    /// Whether there is nothing to match.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    pub(super) fn parse(cx: &mut Cx<'_>, root: &Node) -> Filter {
        cx.known(root, &["rule"], &[]);
        let mut rules: Vec<Rule> = root.all("rule").map(|node| rule(cx, node)).collect();
        if rules.len() > RULES_MAX {
            cx.error(rules[RULES_MAX].line, format!("more than {RULES_MAX} rules"));
            rules.truncate(RULES_MAX);
        }
        Filter { rules }
    }
}

/// One `<rule/>`. An empty attribute counts as absent, except in `error` and `log`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Pattern for the payload's bare `from`; `None` matches only its absence.
    pub from: Option<Glob>,
    /// Pattern for the payload's bare `to`; `None` matches only its absence.
    pub to: Option<Glob>,
    /// What the route must hold; `None`: anything.
    pub what: Option<What>,
    /// The route's `to` becomes this JID (before an `error` is answered, too).
    pub redirect: Option<String>,
    /// The packet is refused with this stanza error condition.
    pub error: Option<String>,
    /// What is put into the route's `error` attribute then.
    pub error_code: Option<&'static str>,
    /// The match is logged.
    pub log: bool,
    /// The payload is appended to this file, with a line end.
    pub dump: Option<PathBuf>,
    /// The rule's line in its file.
    pub line: u32,
}

/// A query for an element: `name/name?attr=value`.
///
/// The path starts at the children of the route. Of several elements of the same name the path goes through the
/// first; at its end each of them is tried. Prefixes do not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct What {
    /// The query as it was written.
    pub source: String,
    /// Local names; never empty.
    pub path: Vec<String>,
    /// What the last element must have.
    pub test: Test,
}

/// The last part of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Test {
    /// Nothing.
    Exists,
    /// `?attr` or `?attr=value` (`is`), `!attr` or `!attr=value` (not `is`): an attribute of that local name, with
    /// that value if there is one.
    Attribute {
        /// The attribute's local name.
        name: String,
        /// Its value; `None`: any.
        value: Option<String>,
        /// Whether it must be there, or must not.
        is: bool,
    },
    /// `?xmlns=URI` (`is`), `!xmlns=URI` (not `is`): a namespace in scope, whatever its prefix.
    Namespace {
        /// The namespace.
        uri: String,
        /// Whether it must be in scope, or must not.
        is: bool,
    },
}

impl What {
    /// `None` for the queries that any packet meets, `*` and the empty one.
    pub fn parse(source: &str) -> Option<What> {
        if source.is_empty() || source == "*" {
            return None;
        }
        let mut path = Vec::new();
        let mut rest = source;
        let test = loop {
            let end = rest.find(['/', '?', '!']).unwrap_or(rest.len());
            path.push(rest[..end].to_owned());
            let (sign, tail) = rest[end..].split_at(usize::from(end < rest.len()));
            match sign {
                "/" if !tail.is_empty() => rest = tail,
                "?" => break test(tail, true),
                "!" => break test(tail, false),
                _ => break Test::Exists,
            }
        };
        Some(What {
            source: source.to_owned(),
            path,
            test,
        })
    }

    /// A part of the path that no element can be called.
    fn impossible(&self) -> Option<&str> {
        let odd = |name: &&String| name.is_empty() || name.contains([':', '*', '[', ']', '@', '=', ' ']);
        self.path.iter().find(odd).map(String::as_str)
    }
}

fn test(text: &str, is: bool) -> Test {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value).filter(|value| !value.is_empty())),
        None => (text, None),
    };
    match (name, value) {
        ("xmlns", Some(uri)) => Test::Namespace {
            uri: uri.to_owned(),
            is,
        },
        _ => Test::Attribute {
            name: name.to_owned(),
            value: value.map(str::to_owned),
            is,
        },
    }
}

fn rule(cx: &mut Cx<'_>, node: &Node) -> Rule {
    cx.known(node, &[], &["from", "to", "what", "redirect", "error", "log", "dump"]);
    let given = |key| node.attr(key).filter(|value: &&str| !value.is_empty());
    let what = given("what").and_then(What::parse);
    if let Some(part) = what.as_ref().and_then(What::impossible) {
        let text = "right is, for example, what='iq/query?xmlns=jabber:iq:register'";
        cx.warning(
            node.line,
            format!(
                "<rule> never matches: no element is called '{}' (in what); {text}",
                excerpt(part)
            ),
        );
    }
    let redirect = given("redirect").map(str::to_owned);
    if let Some(jid) = &redirect
        && crate::jid::full_key(jid).is_none()
    {
        let jid = excerpt(jid);
        cx.error(
            node.line,
            format!("<rule>: found redirect='{jid}'; right is a JID, for example admin@example.net"),
        );
    }
    let error_code = node.attr("error").map(|condition| {
        code(condition).unwrap_or_else(|| {
            let known: Vec<&str> = CODES.iter().map(|(name, _)| *name).collect();
            let text = format!(
                "<rule>: unknown error='{}' counts as not-allowed; right is one of: {}",
                excerpt(condition),
                known.join(", ")
            );
            cx.warning(node.line, text);
            "405"
        })
    });
    Rule {
        from: given("from").map(Glob::new),
        to: given("to").map(Glob::new),
        what,
        redirect,
        error: node.attr("error").map(str::to_owned),
        error_code,
        log: switch(cx, node),
        dump: given("dump").map(|file| cx.absolute(file)),
        line: node.line,
    }
}

/// `log`: on when it is there, unless it says no.
fn switch(cx: &mut Cx<'_>, node: &Node) -> bool {
    let Some(word) = node.attr("log") else { return false };
    match word.to_ascii_lowercase().as_str() {
        "" | "yes" | "on" | "true" | "1" | "y" => true,
        "no" | "off" | "false" | "0" | "n" => false,
        _ => {
            cx.warning(
                node.line,
                format!(
                    "<rule>: found log='{}', taken as yes; right is yes or no",
                    excerpt(word)
                ),
            );
            true
        }
    }
}

/// The code by which jabberd2's router refuses a packet with this condition.
fn code(condition: &str) -> Option<&'static str> {
    CODES
        .iter()
        .find(|(name, _)| *name == condition)
        .map(|(_, code)| *code)
        .or(match condition {
            "" => Some("400"),
            _ => None,
        })
}

const CODES: [(&str, &str); 24] = [
    ("bad-request", "400"),
    ("conflict", "409"),
    ("feature-not-implemented", "501"),
    ("forbidden", "403"),
    ("gone", "302"),
    ("internal-server-error", "500"),
    ("item-not-found", "404"),
    ("jid-malformed", "400"),
    ("not-acceptable", "406"),
    ("not-allowed", "405"),
    ("not-authorized", "405"),
    ("payment-required", "402"),
    ("policy-violation", "405"),
    ("recipient-unavailable", "404"),
    ("redirect", "404"),
    ("registration-required", "407"),
    ("remote-server-not-found", "404"),
    ("remote-server-timeout", "502"),
    ("resource-constraint", "500"),
    ("service-unavailable", "503"),
    ("subscription-required", "407"),
    ("undefined-condition", "500"),
    ("unexpected-request", "400"),
    ("unknown-sender", "400"),
];
