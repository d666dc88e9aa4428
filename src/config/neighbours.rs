//! What the files of jabberd2's components beside this one say, where it does not fit: warnings only, and none about a
//! file that is not there or cannot be read.

use super::attached;
use super::components::{Component, first};
use super::model::Config;
use super::read::Cx;
use super::tree::Node;
use super::{Acl, Problem};

/// Looks at them all.
pub(super) fn check(cx: &mut Cx<'_>, root: &Node, config: &Config) {
    let components = Component::beside(cx.path, cx.read);
    let mut problems = Vec::new();
    if config.mesh.is_some() {
        problems.extend(components.iter().filter_map(dialback_secret));
    }
    problems.extend(ids(&components));
    for component in components.iter().filter(|c| config.uplink.is_none() || c.what == "sm") {
        problems.extend(login(config, component));
        problems.extend(rights(&config.acl, "this file's", component));
    }
    if let (Some(uplink), Some(node)) = (&config.uplink, first(root, "uplink")) {
        problems.extend(attached::check(cx, node, config, uplink, &components));
    }
    cx.problems.extend(problems);
}

/// Another machine's s2s may be asked to verify what this one's has said.
fn dialback_secret(component: &Component) -> Option<Problem> {
    let text = "<local> without <secret>: s2s makes one up at each start, but all s2s of a mesh must have the same";
    let line = component.secret.as_ref().err().filter(|_| component.what == "s2s")?;
    Some(component.warning(*line, text.to_owned()))
}

/// The router knows components by their ids, and gives each name to one.
fn ids(components: &[Component]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (at, component) in components.iter().enumerate() {
        let id = &component.id;
        let alike = components[..at]
            .iter()
            .find(|other| other.names().any(|name| name.text == id.text));
        if let Some(other) = alike {
            let text = format!(
                "<id>: '{}' is a name of {} too; the router refuses the second who binds it",
                id.text, other.what
            );
            problems.push(component.warning(id.line, text));
        }
    }
    problems
}

/// Does the router know this component's user?
fn login(config: &Config, component: &Component) -> Option<Problem> {
    if !config.local.iter().any(|addr| component.connects_to(addr.port())) {
        return None;
    }
    let (what, user) = (component.what, &component.user);
    match config.users.get(&user.text) {
        Some(secret) if *secret == component.pass.text => None,
        Some(_) => {
            let text = format!("<router>: the password of '{}' is another in the users file", user.text);
            Some(component.warning(component.pass.line, text))
        }
        None => {
            let text = format!(
                "<router>: {what} logs in as '{}', who is not in the users file",
                user.text
            );
            Some(component.warning(user.line, text))
        }
    }
}

/// May it bind what it binds? On a refusal of its id it ends; of a domain, it says nothing.
pub(super) fn rights(acl: &Acl, whose: &str, component: &Component) -> Vec<Problem> {
    let user = &component.user.text;
    let refused = component.names().filter(|name| !acl.may_bind(user, &name.text));
    let mut problems: Vec<Problem> = refused
        .map(|name| {
            let text = format!(
                "{} may not bind '{}': {whose} <aci> needs <acl type='bind'><user>{user}</user></acl>",
                component.what, name.text
            );
            component.warning(name.line, text)
        })
        .collect();
    if component.default_route && !acl.may_default(user) {
        let text = format!(
            "s2s may not be the default route: {whose} <aci> needs <acl type='default-route'><user>{user}</user></acl>"
        );
        problems.push(component.warning(component.id.line, text));
    }
    problems
}
