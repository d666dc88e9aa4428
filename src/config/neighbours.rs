//! What the files of jabberd2's components beside this one say, where it does not fit: warnings only, and none about a
//! file that is not there or cannot be read.

use super::components::{Component, Neighbour, first};
use super::model::{Config, Uplink};
use super::read::Cx;
use super::tree::Node;
use super::{Acl, Problem};

/// Looks at them all.
pub(super) fn check(cx: &mut Cx<'_>, config: &Config) {
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
    if let Some(uplink) = &config.uplink {
        let stock = Neighbour::beside(cx.path, cx.read, "router.xml", "router");
        let acl = stock.as_ref().map(|stock| acl_of(&stock.root));
        if let (Some(stock), Some(acl)) = (&stock, &acl) {
            problems.extend(uplink_rights(stock, acl, uplink));
            for component in components.iter().filter(|component| component.what != "sm") {
                problems.extend(rights(acl, "router.xml's", component));
            }
        }
        problems.extend(
            components
                .iter()
                .filter_map(|component| port(config, uplink, component)),
        );
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
fn rights(acl: &Acl, whose: &str, component: &Component) -> Vec<Problem> {
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

/// May the uplink's user bind there what it has to?
fn uplink_rights(router: &Neighbour, acl: &Acl, uplink: &Uplink) -> Option<Problem> {
    let user = &uplink.user;
    if acl.all.contains(user) || acl.bind.contains(user) {
        return None;
    }
    let line = first(&router.root, "aci").map_or(router.root.line, |aci| aci.line);
    let text = format!(
        "user '{user}' of <uplink> may bind no names at this router; add <acl type='bind'><user>{user}</user></acl> to <aci>"
    );
    Some(Problem::warning(&router.path, line, text))
}

/// The rights that a router's file gives.
fn acl_of(router: &Node) -> Acl {
    let rights = router.all("aci").flat_map(|aci| aci.all("acl"));
    let mut acl = Acl::default();
    for right in rights {
        let users = right.all("user").map(|user| user.text.trim().to_owned());
        match right.attr("type") {
            Some("all") => acl.all.extend(users),
            Some("bind") => acl.bind.extend(users),
            Some("default-route") => acl.default_route.extend(users),
            _ => {}
        }
    }
    acl
}

/// sm connects to jidmesh, c2s and s2s to the stock router.
fn port(config: &Config, uplink: &Uplink, component: &Component) -> Option<Problem> {
    let own: Vec<u16> = config.local.iter().map(|addr| addr.port()).collect();
    let theirs = uplink.addr.port();
    let to_us = component.what == "sm";
    let right = *own.first().filter(|_| to_us).unwrap_or(&theirs);
    let fits = match to_us {
        true => own.iter().any(|port| component.connects_to(*port)),
        false => component.connects_to(theirs),
    };
    let (name, found) = (component.what, &component.port);
    let whose = if to_us { "jidmesh" } else { "the stock router" };
    let text = format!(
        "<router>: {name} connects to port {}; in attached mode right is {right}, {whose}'s",
        found.text
    );
    (!fits).then(|| component.warning(found.line, text))
}
