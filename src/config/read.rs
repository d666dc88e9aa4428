//! Reading one file's tree into types: every value is checked here, once.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::tree::{self, Node};
use super::{Problem, Severity};

/// Most problems reported for one file; a file with more is not what its reader took it for.
const PROBLEMS_MAX: usize = 100;

/// How a file is read; the error is the reason in words.
pub(super) type ReadFile<'a> = &'a dyn Fn(&Path) -> Result<Vec<u8>, String>;

/// One file and what is wrong with it.
pub(super) struct Cx<'a> {
    pub(super) path: &'a Path,
    pub(super) read: ReadFile<'a>,
    /// What `${id}` stands for.
    pub(super) id: String,
    pub(super) problems: Vec<Problem>,
}

impl<'a> Cx<'a> {
    pub(super) fn new(path: &'a Path, read: ReadFile<'a>) -> Cx<'a> {
        Cx {
            path,
            read,
            id: String::new(),
            problems: Vec::new(),
        }
    }

    pub(super) fn error(&mut self, line: u32, text: impl Into<String>) {
        self.push(Problem::error(self.path, line, text));
    }

    pub(super) fn warning(&mut self, line: u32, text: impl Into<String>) {
        self.push(Problem::warning(self.path, line, text));
    }

    fn push(&mut self, problem: Problem) {
        // An error must not be crowded out by warnings.
        let alike = self
            .problems
            .iter()
            .filter(|other| other.severity == problem.severity)
            .count();
        if alike < PROBLEMS_MAX {
            self.problems.push(problem);
        }
    }

    pub(super) fn failed(&self) -> bool {
        self.problems.iter().any(|problem| problem.severity == Severity::Error)
    }

    /// The file's root, if it is called `name`.
    pub(super) fn root(&mut self, bytes: &[u8], name: &str) -> Option<Node> {
        match tree::parse(bytes) {
            Ok(root) if root.name == name => return Some(root),
            Ok(root) => self.error(
                root.line,
                format!("found <{}>, but the root element of this file is <{name}>", root.name),
            ),
            Err(bad) => self.error(bad.line, format!("not well-formed XML: {}", bad.reason)),
        }
        None
    }

    /// Warns about everything in `node` that nobody reads.
    pub(super) fn known(&mut self, node: &Node, children: &[&str], attrs: &[&str]) {
        self.known_mixed(node, children, attrs);
        if !children.is_empty() && !node.text.trim().is_empty() {
            let text = excerpt(node.text.trim());
            self.warning(
                node.line,
                format!("text '{text}' directly in <{}>: it has no effect", node.name),
            );
        }
    }

    /// The same where text may stand beside children.
    pub(super) fn known_mixed(&mut self, node: &Node, children: &[&str], attrs: &[&str]) {
        for child in node
            .children
            .iter()
            .filter(|child| !children.contains(&child.name.as_str()))
        {
            self.warning(
                child.line,
                format!("unknown setting <{}> in <{}>: it has no effect", child.name, node.name),
            );
        }
        for (key, _) in node
            .attrs
            .iter()
            .filter(|(key, _)| !attrs.contains(&key.as_str()) && !key.starts_with("xml"))
        {
            self.warning(
                node.line,
                format!("unknown attribute {key}='...' of <{}>: it has no effect", node.name),
            );
        }
    }

    /// The first child of that name; others have no effect.
    pub(super) fn one<'n>(&mut self, node: &'n Node, name: &'n str) -> Option<&'n Node> {
        let mut all = node.all(name);
        let first = all.next()?;
        for other in all {
            let text = format!(
                "a second <{name}> in <{}> has no effect: the one of line {} counts",
                node.name, first.line
            );
            self.warning(other.line, text);
        }
        Some(first)
    }

    /// A leaf's text, trimmed, with `${id}` replaced; `None` if it is empty: then the default holds.
    pub(super) fn text(&mut self, node: &Node) -> Option<String> {
        self.text_with(node, &[])
    }

    /// The same of an element that has attributes.
    pub(super) fn text_with(&mut self, node: &Node, attrs: &[&str]) -> Option<String> {
        self.known(node, &[], attrs);
        let text = node.text.trim();
        (!text.is_empty()).then(|| self.expanded(node, text))
    }

    fn expanded(&mut self, node: &Node, text: &str) -> String {
        let text = if self.id.is_empty() {
            text.to_owned()
        } else {
            text.replace("${id}", &self.id)
        };
        if text.contains("${") {
            self.warning(node.line, format!("'{}': only ${{id}} is replaced", excerpt(&text)));
        }
        text
    }

    /// The text of the child `name`.
    pub(super) fn text_of(&mut self, node: &Node, name: &str) -> Option<String> {
        let child = self.one(node, name)?;
        self.text(child)
    }

    /// A path; relative ones are meant from the file's folder.
    pub(super) fn path_of(&mut self, node: &Node, name: &str) -> Option<PathBuf> {
        let text = self.text_of(node, name)?;
        Some(self.absolute(&text))
    }

    pub(super) fn absolute(&self, text: &str) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("")).join(text)
    }

    /// A whole number within `range` from `text`; `what` says what it counts.
    pub(super) fn number<T>(&mut self, node: &Node, text: &str, range: RangeInclusive<T>, what: &str) -> Option<T>
    where
        T: FromStr + PartialOrd + Display,
    {
        match text.trim().parse::<T>() {
            Ok(number) if range.contains(&number) => return Some(number),
            _ => {}
        }
        let (low, high, name) = (range.start(), range.end(), &node.name);
        self.error(
            node.line,
            format!("<{name}>: found '{}'; right is {what}, {low} to {high}", excerpt(text)),
        );
        None
    }

    /// The number in the child `name`, or `default`.
    pub(super) fn number_of<T>(
        &mut self,
        node: &Node,
        name: &str,
        range: RangeInclusive<T>,
        what: &str,
        default: T,
    ) -> T
    where
        T: FromStr + PartialOrd + Display,
    {
        let Some(child) = self.one(node, name) else {
            return default;
        };
        let Some(text) = self.text(child) else { return default };
        self.number(child, &text, range, what).unwrap_or(default)
    }

    /// `<ip>` (repeatable) and `<port>`.
    pub(super) fn addresses(&mut self, node: &Node, ip: &str, port: u16) -> Vec<SocketAddr> {
        let port = self.number_of(node, "port", 1..=u16::MAX, "a TCP port", port);
        let mut all: Vec<SocketAddr> = Vec::new();
        for child in node.all("ip") {
            let Some(text) = self.text(child) else { continue };
            let Some(ip) = self.ip(child, &text) else { continue };
            let addr = SocketAddr::from((ip, port));
            if all.contains(&addr) {
                self.warning(child.line, format!("<ip>: {ip} is here twice"));
            } else {
                all.push(addr);
            }
        }
        if all.is_empty() {
            all.extend(ip.parse::<IpAddr>().map(|ip| SocketAddr::from((ip, port))));
        }
        all
    }

    /// An IP address.
    pub(super) fn ip(&mut self, node: &Node, text: &str) -> Option<IpAddr> {
        let ip = text.parse();
        if ip.is_err() {
            let text = excerpt(text);
            let name = &node.name;
            self.error(
                node.line,
                format!("<{name}>: found '{text}'; right is an IP address, for example 127.0.0.1 or ::1"),
            );
        }
        ip.ok()
    }

    /// One of the words in `choices`.
    pub(super) fn choice<T: Copy>(&mut self, node: &Node, text: &str, choices: &[(&str, T)]) -> Option<T> {
        let text = text.trim();
        let found = choices.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
            let text = excerpt(text);
            self.error(
                node.line,
                format!("<{}>: found '{text}'; right is one of: {}", node.name, words.join(", ")),
            );
        }
        found
    }

    /// A domain or component name, prepared.
    pub(super) fn domain(&mut self, node: &Node, text: &str) -> Option<String> {
        let jid = crate::jid::JidRef::parse(text).filter(|jid| jid.node.is_none() && jid.resource.is_none());
        let key = jid.and_then(|jid| crate::jid::prepared_domain(jid.domain));
        if key.is_none() {
            let text = excerpt(text);
            self.error(
                node.line,
                format!(
                    "<{}>: found '{text}'; right is a name, for example example.net",
                    node.name
                ),
            );
        }
        key.map(|key| key.into_owned())
    }
}

/// What of a wrong value is shown.
pub(super) fn excerpt(text: &str) -> String {
    const SHOWN: usize = 60;
    let line: String = text
        .chars()
        .take(SHOWN)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if text.chars().nth(SHOWN).is_some() {
        format!("{line}...")
    } else {
        line
    }
}
