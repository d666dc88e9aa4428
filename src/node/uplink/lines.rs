//! A line's life: dialled, logged in, greeted; speaking or joining the one that speaks; lost.

use super::{Asked, Claim, LINES, Line, Mark, State};
use crate::config::Secret;
use crate::node::Shard;
use crate::node::api::{Action, CloseCause, Level, LinkId, Micros};
use crate::node::cluster::Dialling;
use crate::node::grace::unwritten;
use crate::node::link::Stage;
use crate::node::{TICK_US, cause_text};
use crate::wire::connect::{Connect, ConnectStep, Connecting};
use crate::wire::header::Bind;
use std::net::SocketAddr;

/// First and longest pause between two dials, microseconds; each failure doubles it.
const PAUSE_US: Micros = 100_000;
const PAUSE_MAX_US: Micros = 2_000_000;
/// A line that has served for so long is dialled without a pause while the other one serves, microseconds: until it is
/// back, the loss of that one closes every client.
const SERVED_US: Micros = 1_000_000;

/// The same after a refusal that only an operator can mend.
const PAUSE_LASTING_US: Micros = 10_000_000;

impl Shard {
    /// Shard 0 of a node with `<uplink>`.
    pub(in crate::node) fn begin_uplink(&mut self) {
        if self.id == 0 && self.config.uplink.is_some() {
            self.uplink = Some(Box::default());
            self.next_tick = Some(0);
        }
    }

    /// Dials the lines that are due.
    pub(in crate::node) fn tick_uplink(&mut self, now: Micros) {
        let (Some(uplink), Some(to)) = (&self.uplink, &self.config.uplink) else {
            return;
        };
        let (addr, mut due, mut next) = (to.addr, Vec::new(), None::<Micros>);
        for (at, line) in uplink.lines.iter().enumerate() {
            match line.state {
                State::Resting(when) if when <= now => due.push(at),
                State::Resting(when) => next = Some(next.map_or(when, |next| next.min(when))),
                _ => {}
            }
        }
        if self.stopping {
            return;
        }
        for at in due {
            let link = self.insert_link(now, addr, Stage::Dialling(Dialling::Uplink(at)));
            if let Some(line) = self.line(at) {
                (line.state, line.link) = (State::Coming, Some(link));
            }
            self.actions.push(Action::Dial {
                link,
                host: addr.ip().to_string().into(),
                port: addr.port(),
            });
        }
        if let Some(next) = next {
            self.wake_by(next);
        }
    }

    pub(super) fn line(&mut self, at: usize) -> Option<&mut Line> {
        self.uplink.as_mut().map(|uplink| &mut uplink.lines[at])
    }

    /// The connection stands: logs in.
    pub(in crate::node) fn uplink_dialed(&mut self, now: Micros, at: usize, id: LinkId) {
        let Some(uplink) = &self.config.uplink else { return };
        let Secret(pass) = &uplink.pass;
        let hostname = self.config.mesh.as_ref().map_or("localhost", |mesh| &mesh.node);
        let mut connect = Connect::with_limits(
            Connecting::Native {
                user: uplink.user.clone(),
                pass: pass.clone(),
                starttls: uplink.certificate.is_some(),
                hostname: hostname.to_owned(),
            },
            self.limits,
        );
        let mut out = Vec::new();
        connect.start(&mut out);
        if let Some(link) = self.link_mut(id) {
            link.stage = Stage::Uplink(at, Some(Box::new(connect)));
            link.opened_at = now;
        }
        self.send(id, |pending| pending.extend_from_slice(&out));
        self.wake_by(now + TICK_US);
    }

    /// Input of a line that is logging in.
    pub(in crate::node) fn uplink_login(&mut self, now: Micros, id: LinkId) {
        let Some(link) = self.link_mut(id) else { return };
        let Stage::Uplink(at, login) = &mut link.stage else {
            return;
        };
        let (at, Some(mut connect)) = (*at, login.take()) else {
            return;
        };
        let (mut input, mut out) = (std::mem::take(&mut link.carry), Vec::new());
        let step = connect.feed(&mut input, &mut out, &mut self.rng);
        self.send(id, |pending| pending.extend_from_slice(&out));
        let Some(link) = self.link_mut(id) else { return };
        link.carry = input;
        let remote = link.remote;
        match step {
            ConnectStep::Need => link.stage = Stage::Uplink(at, Some(connect)),
            ConnectStep::StartTls => {
                link.stage = Stage::Uplink(at, Some(connect));
                self.actions.push(Action::StartTlsAsClient(id));
            }
            ConnectStep::Done(scanner) => {
                link.scanner = Some(scanner);
                link.stage = Stage::Uplink(at, None);
                self.greet_router(at);
                self.go_on(now, id);
            }
            ConnectStep::Failed(why) => {
                link.stage = Stage::Uplink(at, None);
                self.log(
                    Level::Error,
                    Some(remote),
                    format!("uplink: no login at the stock router: {why}"),
                );
                self.close_link(now, id, &why);
                self.rest_line(now, at, PAUSE_LASTING_US);
            }
        }
    }

    /// The first line that is being dialled, logged in, for tests of what comes after.
    #[cfg(test)]
    pub(in crate::node) fn uplink_logged_in(&mut self, now: Micros) -> LinkId {
        use crate::wire::scan::{Item, Scanner};
        let dialled = |link: &crate::node::link::Link| matches!(link.stage, Stage::Dialling(Dialling::Uplink(_)));
        let slot = self.links.iter().position(dialled).expect("a line is dialled");
        let Stage::Dialling(Dialling::Uplink(at)) = self.links[slot].stage else {
            unreachable!("it was found as such");
        };
        let mut scanner = Scanner::new(self.limits);
        let header = b"<stream:stream xmlns:stream='http://etherx.jabber.org/streams'>";
        assert!(matches!(scanner.next(header), Ok(Some(Item::Open { .. }))));
        scanner.consume(header.len());
        let link = &mut self.links[slot];
        link.opened_at = now;
        link.scanner = Some(scanner);
        link.stage = Stage::Uplink(at, None);
        let slot = u32::try_from(slot).unwrap_or(0);
        let generation = link.generation;
        self.greet_router(at);
        LinkId { slot, generation }
    }

    /// The first bind: a name that nobody else has. The stock router answers with it, and then with all names there are.
    fn greet_router(&mut self, at: usize) {
        if let Some(line) = self.line(at) {
            line.state = State::Greeting;
        }
        let own = self.names.own().to_owned();
        self.ask_bind(at, &own);
        self.ask_mark(at, Mark::Greeted);
    }

    /// The stock router answers the oldest question.
    pub(super) fn router_answered(&mut self, now: Micros, at: usize, id: LinkId, answer: Option<&Bind<'_>>) {
        let Some(asked) = self.line(at).and_then(|line| line.asked.pop_front()) else {
            return;
        };
        let error = answer.and_then(|bind| bind.error).and_then(|error| error.unescape());
        match (asked, error.as_deref()) {
            (Asked::Bind(name), Some(code)) => self.bind_refused(now, at, id, &name, code),
            (Asked::Bind(_) | Asked::Unbind, _) => {}
            (Asked::Mark(Mark::Greeted), _) => self.line_greeted(now, at),
            (Asked::Mark(Mark::Shares), _) => {
                let shared = self.uplink.as_ref();
                if let Some((speaker, join)) = shared.and_then(|uplink| Some((uplink.speaker?, uplink.lines[at].join)))
                {
                    self.ask_mark(speaker, Mark::Drained(join));
                }
            }
            (Asked::Mark(Mark::Drained(join)), _) => {
                let joining = |line: &Line| line.state == State::Joining && line.join == join;
                let other = self
                    .uplink
                    .as_ref()
                    .and_then(|uplink| uplink.lines.iter().position(joining));
                if let Some(other) = other {
                    self.line_serves(now, other);
                }
            }
        }
    }

    fn bind_refused(&mut self, now: Micros, at: usize, id: LinkId, name: &str, code: &str) {
        let Some(line) = self.line(at) else { return };
        line.names.insert(name.into(), Claim::Refused);
        let Some(user) = self.config.uplink.as_ref().map(|uplink| uplink.user.clone()) else {
            return;
        };
        let remote = self.link(id).map(|link| link.remote);
        if code != "403" {
            let text = format!(
                "uplink: the stock router refuses the name '{name}' ({code}): an alias, or held by another component"
            );
            return self.log(Level::Error, remote, text);
        }
        let text = format!(
            "uplink: the stock router does not let user '{user}' bind '{name}' (403): its router.xml lacks \
             <acl type='bind'><user>{user}</user></acl> in <aci>; add it there and restart it"
        );
        self.log(Level::Error, remote, text);
        self.close_link(now, id, "its first bind was refused");
        self.rest_line(now, at, PAUSE_LASTING_US);
    }

    /// A line knows all names of the stock router: it speaks, or joins the one that does.
    fn line_greeted(&mut self, now: Micros, at: usize) {
        let Some(uplink) = &mut self.uplink else { return };
        uplink.joins += 1;
        let speaker = uplink.speaker;
        let line = &mut uplink.lines[at];
        (line.failures, line.join, line.greeted_at) = (0, uplink.joins, now);
        line.state = if speaker.is_some() { State::Joining } else { State::Up };
        let remote = line.link.and_then(|id| self.link(id)).map(|link| link.remote);
        let count = at + 1;
        self.log(
            Level::Notice,
            remote,
            format!("uplink: line {count} of {LINES} to the stock router is up"),
        );
        if speaker.is_none() {
            return self.speak(now, at);
        }
        for name in self.wanted_names() {
            self.align_name(&name);
        }
        self.ask_mark(at, Mark::Shares);
    }

    /// What came up over a joining line goes on: nothing older waits in the other.
    fn line_serves(&mut self, now: Micros, at: usize) {
        let Some(line) = self.line(at) else { return };
        line.state = State::Up;
        let held = std::mem::take(&mut line.held);
        for (_, frame) in crate::node::grace::frames_of(self.limits, &held) {
            self.route_up(now, frame);
        }
    }

    /// From now on everything goes down this line. Its binds go before anything that is sent under the names.
    fn speak(&mut self, now: Micros, at: usize) {
        let Some(uplink) = &mut self.uplink else { return };
        uplink.speaker = Some(at);
        self.epoch += 1;
        for name in self.wanted_names() {
            self.align_name(&name);
        }
        self.line_serves(now, at);
        self.meet_components(now, at);
    }

    /// A line's connection is gone, or never came.
    pub(in crate::node) fn uplink_lost(
        &mut self,
        now: Micros,
        at: usize,
        cause: &CloseCause,
        (unsent, written): (Vec<u8>, usize),
        pending: &[u8],
    ) {
        let limits = self.limits;
        let Some(uplink) = &mut self.uplink else { return };
        let spoke = uplink.speaker == Some(at);
        let line = &mut uplink.lines[at];
        let held = std::mem::take(&mut line.held);
        let (was, failures) = (line.state, line.failures + 1);
        let served = line.serves() && now.saturating_sub(line.greeted_at) >= SERVED_US;
        let remote = self.config.uplink.as_ref().map(|uplink| uplink.addr);
        *line = Line {
            failures,
            ..Line::default()
        };
        let other = uplink.lines.iter().position(Line::serves);
        let pause = match other {
            Some(_) if served => 0,
            _ => (PAUSE_US << failures.min(8).saturating_sub(1)).min(PAUSE_MAX_US),
        };
        uplink.lines[at].state = State::Resting(now + pause);
        self.wake_by(now + pause);
        if self.stopping {
            return;
        }
        self.log_loss(remote, at, was, failures, cause);
        // Came up before the end, and the other line has nothing older that is not here by now.
        for (_, frame) in crate::node::grace::frames_of(limits, &held) {
            self.route_up(now, frame);
        }
        if !spoke {
            return;
        }
        let left = unwritten(limits, &unsent, written, pending);
        if let Some(uplink) = &mut self.uplink {
            uplink.speaker = None;
        }
        match other {
            Some(other) => {
                self.speak(now, other);
                if let Some(link) = self.line(other).and_then(|line| line.link) {
                    self.send(link, |out| out.extend_from_slice(&left));
                }
            }
            None => {
                self.router_lost(now, &left);
                self.greet_anew(now);
            }
        }
    }

    /// A line that is being greeted may be told of this node's own names: the stock router has not noticed yet that the
    /// lines that held them are lost.
    fn greet_anew(&mut self, now: Micros) {
        for at in 0..LINES {
            let Some(id) = self.line(at).and_then(|line| line.link) else {
                continue;
            };
            if self
                .link(id)
                .is_some_and(|link| matches!(link.stage, Stage::Uplink(..)))
            {
                self.close_link(now, id, "the other line was lost while it was greeted");
            }
        }
    }

    fn log_loss(&mut self, remote: Option<SocketAddr>, at: usize, was: State, failures: u32, cause: &CloseCause) {
        let text = match cause {
            CloseCause::Refused => "nobody listens there".to_owned(),
            other => cause_text(other, "stock router"),
        };
        let count = at + 1;
        // The first of a row of failures is news.
        if matches!(was, State::Up | State::Joining) || failures == 1 {
            let text = format!("uplink: line {count} of {LINES} to the stock router is down: {text}");
            self.log(Level::Warning, remote, text);
        }
    }

    /// A line is not dialled again before that.
    fn rest_line(&mut self, now: Micros, at: usize, pause_us: Micros) {
        if let Some(line) = self.line(at) {
            line.state = State::Resting(now + pause_us);
            self.wake_by(now + pause_us);
        }
    }
}
