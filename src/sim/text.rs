//! Frames as the models write them, and what they see in those they read.

use crate::wire::header::{self, Frame, PayloadKind};
use crate::wire::value::Value;

pub(super) const COMP: &str = "http://jabberd.jabberstudio.org/ns/component/1.0";
pub(super) const SESS: &str = "http://jabberd.jabberstudio.org/ns/session/1.0";

/// The domain that the sm serve.
pub(super) const DOMAIN: &str = "example.net";

/// A node's name.
pub(super) fn node_name(node: usize) -> String {
    format!("n{node}.sim")
}

/// The node of a name.
pub(super) fn node_named(name: &str) -> Option<usize> {
    name.strip_prefix('n')?.strip_suffix(".sim")?.parse().ok()
}

/// A component of this node, by the one name that all nodes could use for it.
pub(super) fn name_everywhere(node: usize, name: &str) -> String {
    match name.ends_with(".sim") {
        true => name.to_owned(),
        false => format!("{name}.{}", node_name(node)),
    }
}

/// The router's own name.
pub(super) const ROUTER: &str = "jidmesh.router";

/// A frame that a component read.
#[derive(Clone, Debug)]
pub(super) enum Seen {
    Route(Box<Routed>),
    BindAnswer { error: Option<String> },
    Advert { name: String, unavailable: bool },
    Redirect { jid: String, to: Option<String> },
    Other,
}

/// A route, with its payload's start tag.
#[derive(Clone, Debug)]
pub(super) struct Routed {
    pub(super) raw: String,
    pub(super) from: String,
    pub(super) to: String,
    pub(super) error: bool,
    pub(super) payload: PayloadKind,
    pub(super) kind: Option<String>,
    pub(super) stanza_from: Option<String>,
    pub(super) stanza_to: Option<String>,
    pub(super) id: Option<String>,
    pub(super) action: Option<String>,
    pub(super) target: Option<String>,
    pub(super) sm: Option<String>,
    pub(super) c2s: Option<u32>,
    pub(super) failed: bool,
    pub(super) failed_prefixed: bool,
    pub(super) occasion: Option<u32>,
}

impl Routed {
    pub(super) fn action(&self) -> &str {
        self.action.as_deref().unwrap_or_default()
    }

    pub(super) fn kind(&self) -> &str {
        self.kind.as_deref().unwrap_or_default()
    }

    /// The number of a numbered message.
    pub(super) fn message(&self) -> Option<usize> {
        self.id.as_deref()?.strip_prefix('m')?.parse().ok()
    }
}

pub(super) fn see(frame: &[u8]) -> Seen {
    match header::read(frame) {
        Ok(Frame::Bind(bind)) => Seen::BindAnswer {
            error: text(bind.error),
        },
        Ok(Frame::Advert { from, unavailable }) => Seen::Advert {
            name: text(from).unwrap_or_default(),
            unavailable,
        },
        Ok(Frame::Redirect { jid, to }) => Seen::Redirect {
            jid: text(jid).unwrap_or_default(),
            to: text(to),
        },
        Ok(Frame::Route(route)) => {
            let Some(payload) = &route.payload else {
                return Seen::Other;
            };
            Seen::Route(Box::new(Routed {
                raw: String::from_utf8_lossy(frame).into_owned(),
                from: text(route.from).unwrap_or_default(),
                to: text(route.to).unwrap_or_default(),
                error: route.error.is_some(),
                payload: payload.kind,
                kind: text(payload.kind_attr),
                stanza_from: text(payload.from),
                stanza_to: text(payload.to),
                id: text(payload.id),
                action: text(payload.action),
                target: text(payload.target),
                sm: text(payload.sm),
                c2s: text(payload.c2s).and_then(|number| number.parse().ok()),
                failed: payload.failed,
                failed_prefixed: payload.failed_prefixed,
                occasion: occasion_of(frame),
            }))
        }
        _ => Seen::Other,
    }
}

/// A stanza that carries on which occasion of its client's becoming available it was said.
pub(super) fn on_occasion(occasion: u32, stanza: &str) -> String {
    let at = stanza.find(' ').unwrap_or(stanza.len());
    format!("{} occasion='{occasion}'{}", &stanza[..at], &stanza[at..])
}

fn occasion_of(frame: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(frame).ok()?;
    text.split_once(" occasion='")?.1.split('\'').next()?.parse().ok()
}

fn text(value: Option<Value<'_>>) -> Option<String> {
    Some(value?.unescape()?.into_owned())
}

pub(super) fn bare(jid: &str) -> &str {
    jid.split('/').next().unwrap_or(jid)
}

pub(super) fn resource(jid: &str) -> &str {
    jid.split_once('/').map_or("", |(_, resource)| resource)
}

/// A bind; a name that begins with `*` is bound with `multi`, one with `+` as the default route.
pub(super) fn bind(name: &str) -> String {
    match (name.strip_prefix('*'), name.strip_prefix('+')) {
        (Some(name), _) => format!("<bind xmlns='{COMP}' name='{name}' multi='to'></bind>"),
        (_, Some(name)) => format!("<bind xmlns='{COMP}' name='{name}'><default></default></bind>"),
        _ => format!("<bind xmlns='{COMP}' name='{name}'></bind>"),
    }
}

pub(super) fn route(from: &str, to: &str, payload: &str) -> String {
    format!("<route xmlns='{COMP}' from='{from}' to='{to}'>{payload}</route>")
}

pub(super) fn start(number: u32, target: &str, id: &str) -> String {
    format!("<sc:session xmlns:sc='{SESS}' id='{id}' target='{target}' action='start' sc:c2s='{number}'></sc:session>")
}

pub(super) fn started(number: u32, target: &str, id: &str, token: &str) -> String {
    format!(
        "<sc:session xmlns:sc='{SESS}' sc:sm='{token}' id='{id}' target='{target}' action='started' sc:c2s='{number}'></sc:session>"
    )
}

pub(super) fn control(action: &str, number: u32, token: &str, failed: bool) -> String {
    let failed = if failed { " sc:failed='1'" } else { "" };
    format!("<sc:session xmlns:sc='{SESS}'{failed} action='{action}' sc:sm='{token}' sc:c2s='{number}'></sc:session>")
}

/// A stanza in a session, between c2s and sm. `stanza` starts with `<name xmlns='jabber:client'`.
pub(super) fn in_session(prefix: &str, number: u32, token: &str, stanza: &str) -> String {
    let at = stanza.find(' ').unwrap_or(stanza.len());
    format!(
        "{} xmlns:{prefix}='{SESS}' {prefix}:sm='{token}' {prefix}:c2s='{number}'{}",
        &stanza[..at],
        &stanza[at..]
    )
}

pub(super) fn message(from: Option<&str>, to: &str, number: usize, kind: &str) -> String {
    let from = from.map(|from| format!(" from='{from}'")).unwrap_or_default();
    format!("<message xmlns='jabber:client'{from} to='{to}' id='m{number}' type='{kind}'><body>text</body></message>")
}

pub(super) fn presence(from: Option<&str>, to: Option<&str>, kind: &str, priority: Option<i8>) -> String {
    let mut out = String::from("<presence xmlns='jabber:client'");
    for (name, value) in [
        ("from", from),
        ("to", to),
        ("type", Some(kind).filter(|kind| !kind.is_empty())),
    ] {
        if let Some(value) = value {
            out += &format!(" {name}='{value}'");
        }
    }
    match priority {
        Some(priority) => out + &format!("><priority>{priority}</priority></presence>"),
        None => out + "></presence>",
    }
}

pub(super) fn ping(id: &str) -> String {
    format!("<iq xmlns='jabber:client' type='get' id='{id}'><ping xmlns='urn:xmpp:ping'></ping></iq>")
}
