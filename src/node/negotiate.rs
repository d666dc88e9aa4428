//! A link's beginning: who is it, and may it come in.

use super::Shard;
use super::api::{Action, Level, LinkId, Micros};
use super::counters::Counter;
use super::link::{Link, Stage, Who};
use crate::wire::accept::{Accept, Failure, FailureKind, Peer, PeerKind, Step};
use std::net::SocketAddr;

impl Shard {
    /// A connection was accepted.
    pub fn opened(&mut self, now: Micros, remote: SocketAddr) -> LinkId {
        self.count(Counter::LinksOpened);
        let config = if self.refuses_default_secret(remote) {
            self.accept_remote.clone()
        } else {
            self.accept.clone()
        };
        let accept = Accept::new(config, &mut self.rng);
        self.wake_by(now + super::TICK_US);
        let id = self.insert_link(now, remote, Stage::Negotiating(Box::new(accept)));
        self.wait_for_dawn(id);
        id
    }

    /// The TLS handshake that [`Action::StartTls`] asked for is done.
    pub fn tls_started(&mut self, _now: Micros, id: LinkId) {
        if let Some(link) = self.link_mut(id) {
            link.tls = true;
            match &mut link.stage {
                Stage::Negotiating(accept) => accept.tls_started(),
                Stage::Uplink(_, Some(login)) => {
                    let mut out = Vec::new();
                    login.tls_started(&mut out);
                    self.send(id, |pending| pending.extend_from_slice(&out));
                }
                _ => {}
            }
        }
    }

    /// An authenticated native link, for tests of what comes after.
    #[cfg(test)]
    pub(super) fn opened_as(&mut self, now: Micros, user: &str) -> LinkId {
        use crate::wire::scan::{Item, Scanner};
        let id = self.insert_link(now, SocketAddr::from(([127, 0, 0, 1], 1)), Stage::Unseated);
        let mut scanner = Scanner::new(self.limits);
        let header = b"<stream:stream xmlns:stream='http://etherx.jabber.org/streams'>";
        assert!(matches!(scanner.next(header), Ok(Some(Item::Open { .. }))));
        scanner.consume(header.len());
        let link = &mut self.links[id.slot as usize];
        link.peer = Some(Who::new(
            PeerKind::Native { user: user.into() },
            crate::wire::validate::Prefixes::default(),
        ));
        link.scanner = Some(scanner);
        id
    }

    /// An authenticated XEP-0114 link, for tests of what comes after.
    #[cfg(test)]
    pub(super) fn opened_foreign_as(&mut self, now: Micros, name: &str) -> LinkId {
        let id = self.opened_as(now, "");
        let kind = PeerKind::Foreign {
            name: name.into(),
            prefixes: crate::wire::validate::Prefixes::default(),
        };
        self.links[id.slot as usize].peer = Some(Who::new(kind, crate::wire::validate::Prefixes::default()));
        self.judge_first_bind(now, id, &[], false);
        id
    }

    pub(super) fn negotiate(&mut self, now: Micros, id: LinkId) {
        let Some(link) = self.link_mut(id) else { return };
        let (remote, mut input, mut out) = (link.remote, std::mem::take(&mut link.carry), Vec::new());
        let Stage::Negotiating(mut accept) = std::mem::replace(&mut link.stage, Stage::Unseated) else {
            return;
        };
        let config = self.config.clone();
        let (refuses, withheld) = (self.refuses_default_secret(remote), std::cell::Cell::new(false));
        let secret_of = |user: &str| {
            let withhold = refuses && config.is_default_secret(Some(user));
            withheld.set(withheld.get() || withhold);
            config.users.get(user).filter(|_| !withhold).cloned()
        };
        let tries = accept.failures();
        let step = accept.feed(&mut input, &mut out, &secret_of, &mut self.rng);
        for _ in tries..accept.failures() {
            self.count(Counter::AuthFailed);
            let hint = if withheld.get() { DEFAULT_SECRET_HINT } else { "" };
            self.log(Level::Warning, Some(remote), format!("authentication failed{hint}"));
        }
        self.send(id, |pending| pending.extend_from_slice(&out));
        let Some(link) = self.link_mut(id) else { return };
        link.carry = input;
        match step {
            Step::Need => {
                let keeps = accept.kept_bytes() > 0 || !link.carry.is_empty();
                link.stage = Stage::Negotiating(accept);
                if keeps && self.strangers_bytes() > STRANGERS_BYTES_MAX {
                    self.count(Counter::BadInput);
                    self.refuse(
                        now,
                        id,
                        "resource-constraint",
                        "too much was sent before authentication",
                    );
                }
            }
            Step::StartTls => {
                link.stage = Stage::Negotiating(accept);
                self.actions.push(Action::StartTls(id));
            }
            Step::Done(peer) => self.authenticated(now, id, peer),
            Step::Failed(failure) => self.negotiation_failed(now, id, &failure),
        }
    }

    /// What is kept of all links that are not authenticated yet.
    pub(super) fn strangers_bytes(&self) -> usize {
        let of_link = |link: &Link| match &link.stage {
            Stage::Negotiating(accept) => accept.kept_bytes() + link.carry.len(),
            _ => 0,
        };
        self.links.iter().map(of_link).sum()
    }

    pub(super) fn authenticated(&mut self, now: Micros, id: LinkId, peer: Peer) {
        let Some(link) = self.link_mut(id) else { return };
        let remote = link.remote;
        let foreign = matches!(peer.kind, PeerKind::Foreign { .. });
        let text = match &peer.kind {
            PeerKind::Native { user } => format!("authenticated as {user}"),
            PeerKind::Foreign { name, .. } => format!("authenticated as external component {name}"),
        };
        link.peer = Some(Who::new(peer.kind, peer.prefixes));
        link.scanner = Some(peer.scanner);
        link.early = peer.early;
        self.log(Level::Info, Some(remote), text);
        if foreign {
            self.judge_first_bind(now, id, &[], false);
        }
        self.go_on(now, id);
    }

    pub(super) fn negotiation_failed(&mut self, now: Micros, id: LinkId, failure: &Failure) {
        let Some(remote) = self.link(id).map(|link| link.remote) else {
            return;
        };
        match failure.kind {
            FailureKind::Auth => self.count(Counter::AuthFailed),
            FailureKind::Closed => {}
            _ => self.count(Counter::BadInput),
        }
        let level = if failure.kind == FailureKind::Closed {
            Level::Info
        } else {
            Level::Warning
        };
        // Away from loopback there are no XEP-0114 components at all while their secret is the well-known one.
        let withheld = failure.kind == FailureKind::Unsupported
            && failure.reason.contains("legacy components")
            && self.config.is_default_secret(None)
            && self.refuses_default_secret(remote);
        let hint = if withheld { DEFAULT_XEP0114_SECRET_HINT } else { "" };
        self.log(level, Some(remote), format!("{}{hint}", failure.reason));
        self.close_link(now, id, &failure.reason);
    }

    /// Debian's well-known secret opens the router on loopback only, unless the configuration insists.
    pub(super) fn refuses_default_secret(&self, remote: SocketAddr) -> bool {
        !self.config.default_secret_allowed && !remote.ip().to_canonical().is_loopback()
    }
}

/// Most bytes kept of all links together that are not authenticated yet.
const STRANGERS_BYTES_MAX: usize = 64 << 20;

const DEFAULT_SECRET_HINT: &str = " (the well-known default secret is good from loopback addresses only: set another \
    <secret> in the users file and <pass> in the component's configuration, or let it connect to 127.0.0.1)";

const DEFAULT_XEP0114_SECRET_HINT: &str = " (from this address, as <local><secret> is the well-known default secret, \
    which is good from loopback addresses only: set another one there and in the component's configuration)";
