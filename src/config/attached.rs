//! In attached mode: where this file, that of the stock router beside it and those of the components don't fit together.

use super::components::{Component, Neighbour, first};
use super::model::{Config, PORT_DEFAULT, Uplink};
use super::neighbours::rights;
use super::read::Cx;
use super::tree::{self, Node};
use super::{Acl, Problem};
use std::path::Path;

/// Looks at them all; `node` is this file's `<uplink>`.
pub(super) fn check(
    cx: &Cx<'_>,
    node: &Node,
    config: &Config,
    uplink: &Uplink,
    components: &[Component],
) -> Vec<Problem> {
    let mut problems = Vec::new();
    if let Some(stock) = Neighbour::beside(cx.path, cx.read, "router.xml", "router") {
        let acl = acl_of(&stock.root);
        problems.extend(uplink_rights(&stock, &acl, uplink));
        problems.extend(connection(cx, node, &stock, uplink));
        for component in components.iter().filter(|component| component.what != "sm") {
            problems.extend(rights(&acl, "router.xml's", component));
        }
    }
    problems.extend(
        components
            .iter()
            .filter_map(|component| port(config, uplink, component)),
    );
    problems
}

/// Does the stock router listen there, know this user, and offer what is asked of it?
fn connection(cx: &Cx<'_>, node: &Node, stock: &Neighbour, uplink: &Uplink) -> Option<Problem> {
    let local = first(&stock.root, "local");
    let of_local = |name| local.and_then(|local| first(local, name)).map(|node| node.text.trim());
    let line_of = |name| first(node, name).map_or(node.line, |node| node.line);
    let warning = |name, text| Some(Problem::warning(cx.path, line_of(name), text));
    let listens = of_local("port").unwrap_or_default().parse().unwrap_or(PORT_DEFAULT);
    if listens != uplink.addr.port() {
        let text = format!(
            "<uplink>: the router of router.xml listens on port {listens}, not {}",
            uplink.addr.port()
        );
        return warning("port", text);
    }
    if uplink.certificate.is_some() && of_local("pemfile").is_none() {
        let text = "<uplink>: with a <certificate> only TLS will do, and router.xml has no <local><pemfile>";
        return warning("certificate", text.to_owned());
    }
    let users = of_local("users").map_or_else(|| stock.path.with_file_name("router-users.xml"), Into::into);
    let user = &uplink.user;
    match secret_of(cx, &users, user)? {
        Some(secret) if secret == uplink.pass.0 => None,
        Some(_) => warning(
            "pass",
            format!("<uplink>: the password of '{user}' is another in {}", users.display()),
        ),
        None => warning("user", format!("<uplink>: '{user}' is not in {}", users.display())),
    }
}

/// The secret of a user of this file; `None` if the file says nothing, since it can't be read.
fn secret_of(cx: &Cx<'_>, file: &Path, name: &str) -> Option<Option<String>> {
    let root = tree::parse(&(cx.read)(file).ok()?).ok()?;
    let text = |user: &Node, what| first(user, what).map(|node| node.text.trim().to_owned());
    let users = root
        .all("user")
        .filter(|user| text(user, "name").as_deref() == Some(name));
    // As in jabberd2, the last one counts.
    Some(users.last().and_then(|user| text(user, "secret")))
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
