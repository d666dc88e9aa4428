//! What the files of jabberd2's components beside this one say, where it does not fit: warnings only, and none about a
//! file that is not there or cannot be read.

use std::path::{Path, PathBuf};

use super::Problem;
use super::model::{Config, PORT_DEFAULT, Uplink};
use super::read::Cx;
use super::tree::{self, Node};

/// A file beside the configuration.
struct Neighbour {
    path: PathBuf,
    root: Node,
}

impl Neighbour {
    fn beside(cx: &Cx<'_>, name: &str, root: &str) -> Option<Neighbour> {
        let path = cx.path.parent().unwrap_or(Path::new("")).join(name);
        if path == cx.path {
            return None;
        }
        let bytes = (cx.read)(&path).ok()?;
        let root = tree::parse(&bytes).ok().filter(|tree| tree.name == root)?;
        Some(Neighbour { path, root })
    }

    fn child(&self, name: &str) -> Option<&Node> {
        self.root.children.iter().find(|child| child.name == name)
    }

    fn warning(&self, line: u32, text: String) -> Problem {
        Problem::warning(&self.path, line, text)
    }

    /// The router's port that a component of this file connects to, and the line that says so.
    fn router_port(&self) -> Option<(u16, u32)> {
        let router = self.child("router")?;
        match router.all("port").next() {
            Some(port) => Some((port.text.trim().parse().ok()?, port.line)),
            None => Some((PORT_DEFAULT, router.line)),
        }
    }
}

/// Looks at them all.
pub(super) fn check(cx: &mut Cx<'_>, config: &Config) {
    let mut problems = Vec::new();
    if config.mesh.is_some() {
        problems.extend(dialback_secret(cx));
    }
    if let Some(uplink) = &config.uplink {
        problems.extend(rights(cx, uplink));
        problems.extend(ports(cx, config, uplink));
    }
    cx.problems.extend(problems);
}

/// Another machine's s2s may be asked to verify what this one's has said.
fn dialback_secret(cx: &Cx<'_>) -> Option<Problem> {
    let s2s = Neighbour::beside(cx, "s2s.xml", "s2s")?;
    let local = s2s.child("local")?;
    let text = "<local> without <secret>: s2s makes one up at each start, but all s2s of a mesh must have the same";
    local
        .all("secret")
        .next()
        .is_none()
        .then(|| s2s.warning(local.line, text.to_owned()))
}

/// May the uplink's user bind there what it has to?
fn rights(cx: &Cx<'_>, uplink: &Uplink) -> Option<Problem> {
    let router = Neighbour::beside(cx, "router.xml", "router")?;
    let aci = router.child("aci");
    let rights = aci.into_iter().flat_map(|aci| aci.all("acl"));
    let mut binding = rights.filter(|acl| matches!(acl.attr("type"), Some("all" | "bind")));
    let user = &uplink.user;
    if binding.any(|acl| acl.all("user").any(|name| name.text.trim() == user)) {
        return None;
    }
    let line = aci.map_or(router.root.line, |aci| aci.line);
    let text = format!(
        "user '{user}' of <uplink> may bind no names at this router; add <acl type='bind'><user>{user}</user></acl> to <aci>"
    );
    Some(router.warning(line, text))
}

/// sm connects to jidmesh, c2s and s2s to the stock router.
fn ports(cx: &Cx<'_>, config: &Config, uplink: &Uplink) -> Vec<Problem> {
    let own: Vec<u16> = config.local.iter().map(|addr| addr.port()).collect();
    let theirs = uplink.addr.port();
    let wrong = |name: &str, file: &str, to_us: bool| {
        let component = Neighbour::beside(cx, file, name)?;
        let (port, line) = component.router_port()?;
        let right = *own.first().filter(|_| to_us).unwrap_or(&theirs);
        let fits = if to_us { own.contains(&port) } else { port == theirs };
        let whose = if to_us { "jidmesh" } else { "the stock router" };
        let text = format!("<router>: {name} connects to port {port}; in attached mode right is {right}, {whose}'s");
        (!fits).then(|| component.warning(line, text))
    };
    let all = [("sm", true), ("c2s", false), ("s2s", false)];
    all.into_iter()
        .filter_map(|(name, to_us)| wrong(name, &format!("{name}.xml"), to_us))
        .collect()
}
