//! What the files of jabberd2's components beside a configuration say, as far as it concerns the router. A file that is not
//! there, or that cannot be read, says nothing.

use std::path::{Path, PathBuf};

use super::Problem;
use super::model::{DEFAULT_SECRET, PORT_DEFAULT};
use super::read::ReadFile;
use super::tree::{self, Node};

/// A text, and the line where it stands (or should).
#[derive(Clone, Debug)]
pub(super) struct Said {
    pub(super) text: String,
    pub(super) line: u32,
}

/// A file beside the configuration.
#[derive(Debug)]
pub(super) struct Neighbour {
    pub(super) path: PathBuf,
    pub(super) root: Node,
}

/// The file of an sm, a c2s or an s2s.
#[derive(Debug)]
pub(super) struct Component {
    pub(super) path: PathBuf,
    /// `sm`, `c2s` or `s2s`.
    pub(super) what: &'static str,
    pub(super) id: Said,
    /// What an sm binds beside its id.
    pub(super) domains: Vec<Said>,
    /// Its login at the router.
    pub(super) user: Said,
    pub(super) pass: Said,
    /// The router's port.
    pub(super) port: Said,
    /// An s2s that takes what nobody else does.
    pub(super) default_route: bool,
    /// `<local><secret>`; without it the line of `<local>`.
    pub(super) secret: Result<Said, u32>,
}

impl Neighbour {
    pub(super) fn beside(config: &Path, read: ReadFile<'_>, name: &str, root: &str) -> Option<Neighbour> {
        let path = config.parent().unwrap_or(Path::new("")).join(name);
        if path == config {
            return None;
        }
        let bytes = read(&path).ok()?;
        let root = tree::parse(&bytes).ok().filter(|tree| tree.name == root)?;
        Some(Neighbour { path, root })
    }
}

impl Component {
    /// Those beside a configuration.
    pub(super) fn beside(config: &Path, read: ReadFile<'_>) -> Vec<Component> {
        let one = |what| {
            Some(Component::of(
                what,
                Neighbour::beside(config, read, &format!("{what}.xml"), what)?,
            ))
        };
        ["sm", "c2s", "s2s"].into_iter().filter_map(one).collect()
    }

    fn of(what: &'static str, Neighbour { path, root }: Neighbour) -> Component {
        let (router, local) = (first(&root, "router"), first(&root, "local"));
        let at_router = |name, default: &str| said(router.unwrap_or(&root), name, default);
        let domains = local
            .filter(|_| what == "sm")
            .into_iter()
            .flat_map(|local| local.all("id"));
        let secret = local.and_then(|local| local.all("secret").next());
        Component {
            id: said(&root, "id", what),
            domains: domains.map(of_node).collect(),
            user: at_router("user", "jabberd"),
            pass: at_router("pass", DEFAULT_SECRET),
            port: at_router("port", &PORT_DEFAULT.to_string()),
            default_route: what == "s2s" && router.is_none_or(|router| first(router, "non-default").is_none()),
            secret: secret.map(of_node).ok_or(local.map_or(root.line, |local| local.line)),
            what,
            path,
        }
    }

    /// What it binds: names, and whether as the default route.
    pub(super) fn names(&self) -> impl Iterator<Item = &Said> {
        std::iter::once(&self.id).chain(&self.domains)
    }

    pub(super) fn connects_to(&self, port: u16) -> bool {
        self.port.text.parse() == Ok(port)
    }

    pub(super) fn warning(&self, line: u32, text: String) -> Problem {
        Problem::warning(&self.path, line, text)
    }
}

pub(super) fn first<'a>(node: &'a Node, name: &str) -> Option<&'a Node> {
    node.children.iter().find(|child| child.name == name)
}

fn of_node(node: &Node) -> Said {
    Said {
        text: node.text.trim().to_owned(),
        line: node.line,
    }
}

/// The text of a child, or what jabberd2 takes where there is none.
fn said(node: &Node, name: &str, default: &str) -> Said {
    let default = || Said {
        text: default.to_owned(),
        line: node.line,
    };
    first(node, name).map_or_else(default, of_node)
}
