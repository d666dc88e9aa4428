//! Which frames a trace follows.

use super::event::TraceAsk;
use crate::jid;
use crate::node::cluster::where_key;
use crate::wire::header::{Payload, PayloadKind};
use crate::wire::value::Value;

/// Most sm-side ids of one trace: resources of one person.
pub(super) const TOKENS_MAX: usize = 64;

/// A trace's question, prepared.
#[derive(Debug)]
pub(super) struct Filter {
    jid: Address,
    to: Option<Address>,
    tokens: Vec<String>,
}

/// A user or service, or one session.
#[derive(Debug)]
pub(super) struct Address {
    pub(super) bare: Box<str>,
    pub(super) resource: Option<String>,
}

impl Address {
    pub(super) fn of(raw: &str) -> Option<Address> {
        let (bare, resource) = where_key(raw)?;
        Some(Address { bare, resource })
    }

    fn is(&self, value: Value<'_>) -> bool {
        let Some(raw) = value.unescape() else { return false };
        match &self.resource {
            None => jid::bare_key(&raw).is_some_and(|bare| *bare == *self.bare),
            Some(resource) => jid::full_key(&raw).is_some_and(|full| {
                full.split_once('/')
                    .is_some_and(|(bare, theirs)| *bare == *self.bare && theirs == resource)
            }),
        }
    }
}

impl Filter {
    /// `None` when it names no JID.
    pub(super) fn of(ask: &TraceAsk) -> Option<Filter> {
        Some(Filter {
            jid: Address::of(&ask.jid)?,
            to: match &ask.to {
                Some(to) => Some(Address::of(to)?),
                None => None,
            },
            tokens: Vec::new(),
        })
    }

    pub(super) fn jid(&self) -> &Address {
        &self.jid
    }

    pub(super) fn know(&mut self, tokens: &[String]) {
        self.tokens.clear();
        self.tokens.extend(tokens.iter().take(TOKENS_MAX).cloned());
    }

    /// `client`: the bare JID of the client whom the frame is of, where that is known.
    pub(super) fn matches(&self, payload: &Payload<'_>, client: Option<&str>) -> bool {
        let is = |address: &Address, value: Option<Value<'_>>| value.is_some_and(|value| address.is(value));
        if payload.kind == PayloadKind::Session && self.to.is_none() && is(&self.jid, payload.target) {
            return true;
        }
        let sends = is(&self.jid, payload.from) || payload.from.is_none() && self.is_of_client(payload, client);
        match &self.to {
            Some(to) => sends && is(to, payload.to),
            None => sends || is(&self.jid, payload.to) || self.is_of_client(payload, client),
        }
    }

    /// A frame between c2s and sm that concerns a session of the user.
    fn is_of_client(&self, payload: &Payload<'_>, client: Option<&str>) -> bool {
        let known = |token: Value<'_>| self.tokens.iter().any(|known| known.as_bytes() == token.0);
        payload.sm.is_some_and(known) || self.jid.resource.is_none() && client == Some(&*self.jid.bare)
    }
}
