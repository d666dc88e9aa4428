//! What comes up from the stock router, and what goes down instead of a bounce.

use super::State;
use crate::node::Shard;
use crate::node::api::{Level, LinkId, Micros};
use crate::node::counters::Counter;
use crate::node::input::Flow;
use crate::node::link::Stage;
use crate::node::observe::session_of;
use crate::table::SeatId;
use crate::wire::edit::SessionExtra;
use crate::wire::header::{self, Frame, Payload, PayloadKind, Route};
use crate::wire::value::Value;
use crate::wire::{edit, foreign};

impl Shard {
    /// A frame of the stock router.
    pub(in crate::node) fn uplink_frame(&mut self, now: Micros, id: LinkId, at: usize, frame: &[u8]) -> Flow {
        match header::read(frame) {
            Ok(Frame::Route(_)) => self.hold_or_route(now, at, frame),
            Ok(Frame::Bind(bind)) => self.router_answered(now, at, id, Some(&bind)),
            Ok(Frame::Unbind { .. }) => self.router_answered(now, at, id, None),
            Ok(Frame::Advert { from, unavailable }) => {
                let name = from.and_then(|from| from.unescape());
                if let Some(key) = name.as_deref().and_then(crate::jid::domain_key) {
                    self.advertised(now, at, &key, unavailable);
                }
            }
            Ok(Frame::StreamError) => {
                let remote = self.link(id).map(|link| link.remote);
                let why = "the stock router sent a stream error";
                self.log(Level::Error, remote, format!("uplink: {why}"));
                self.close_link(now, id, why);
            }
            // Features, and what no stock router sends.
            _ => {}
        }
        match self.link(id).map(|link| &link.stage) {
            Some(Stage::Uplink(_, None)) => Flow::Go,
            _ => Flow::Stop,
        }
    }

    /// What a joining line brings may be younger than what waits in the other.
    fn hold_or_route(&mut self, now: Micros, at: usize, frame: &[u8]) {
        let limit = self.config.queues.link_bytes;
        let Some(line) = self.line(at) else { return };
        if line.state == State::Joining && (line.held.len() + frame.len()) as u64 <= limit {
            return line.held.extend_from_slice(frame);
        }
        self.route_up(now, frame);
    }

    /// A route of one of the stock router's components, or one of this node's that came back.
    pub(super) fn route_up(&mut self, now: Micros, frame: &[u8]) {
        let Ok(Frame::Route(route)) = header::read(frame) else {
            return;
        };
        if let Some(code) = route.error.and_then(|error| error.unescape()) {
            return self.came_back_up(now, frame, &route, &code);
        }
        let from = route.from.and_then(|from| from.unescape());
        let Some(key) = from.as_deref().and_then(crate::jid::domain_key) else {
            return self.count(Counter::DropUnknownElement);
        };
        if self.seat_behind(&key).is_none() && self.uplink.as_ref().is_some_and(|uplink| !uplink.is_ours(&key)) {
            // Its advert is on its way over the other line.
            self.component_here(now, &key);
        }
        let Some(seat) = self.seat_behind(&key) else {
            // This node's own, to a name that leads nowhere but here.
            return self.came_back_up(now, frame, &route, "404");
        };
        if route.kind.is_some() {
            // A broadcast comes over both lines, and no component listens to any.
            return self.count(Counter::DropUnknownType);
        }
        if let Some(state) = self.seats.get_mut(seat) {
            state.frames_in += 1;
        }
        self.route(now, seat, frame, &route);
    }

    /// The stock router could not deliver what went down.
    fn came_back_up(&mut self, now: Micros, frame: &[u8], route: &Route<'_>, code: &str) {
        let mut plain = Vec::with_capacity(frame.len());
        edit::without_error(frame, route, &mut plain);
        let Ok(Frame::Route(route)) = header::read(&plain) else {
            return;
        };
        let sender = self.sender_of(&route);
        let known = route.to.is_some_and(|to| self.names.find(to).is_some());
        let ours = route.to.and_then(|to| to.unescape()).is_some_and(|to| {
            crate::jid::domain_key(&to)
                .is_some_and(|key| self.uplink.as_ref().is_some_and(|uplink| uplink.is_ours(&key)))
        });
        match code {
            "404" if !known && !ours => {
                self.no_exit(now);
                self.route_again(now, sender, &plain, &route);
            }
            "400" => self.bounce(now, sender, &plain, "400"),
            "401" => self.bounce(now, sender, &plain, "401"),
            "503" => self.bounce(now, sender, &plain, "503"),
            _ => self.bounce(now, sender, &plain, "404"),
        }
    }

    /// A client of this c2s is unknown to his sm.
    pub(in crate::node) fn end_behind(&mut self, c2s: SeatId, route: &Route<'_>, payload: &Payload<'_>) {
        let component = self.seats.get(c2s).map(|state| state.id.clone());
        let own = route.from.and_then(|from| from.unescape());
        if let (Some((number, token)), Some(component), Some(own)) = (session_of(payload), component, own) {
            let (number, own) = (number.to_string(), self.bound_name(&own));
            self.put(c2s, |out| {
                edit::session(
                    out,
                    &component,
                    &own,
                    "ended",
                    &number,
                    token.as_str(),
                    SessionExtra::default(),
                );
            });
        }
    }

    /// A frame that came up from this component can't be delivered. A bounce would be dropped on its way, so what goes
    /// down is what the component does on one: c2s closes the client (`ended`; one that waits for its session must have
    /// it first), everybody else gets the stanza back as an error.
    pub(in crate::node) fn answer_down(&mut self, sender: SeatId, frame: &[u8], code: &'static str) {
        let Ok(Frame::Route(route)) = header::read(frame) else {
            return;
        };
        let (Some(own), Some(payload)) = (route.to.and_then(|to| to.unescape()), &route.payload) else {
            return self.count(Counter::DropGone);
        };
        let Some(component) = self.seats.get(sender).map(|state| state.id.clone()) else {
            return;
        };
        if payload.kind == PayloadKind::Session {
            return self.refuse_session(sender, &component, &own, payload);
        }
        if session_of(payload).is_some() {
            let back = Route {
                from: route.to,
                ..route.clone()
            };
            return self.end_behind(sender, &back, payload);
        }
        let mut stanza = Vec::with_capacity(frame.len() + 128);
        let to = text_of(payload.from);
        let Some(to) = to.as_deref().and_then(crate::jid::domain_key) else {
            return self.count(Counter::DropGone);
        };
        if foreign::stanza_error(frame, payload, code, &mut stanza) {
            self.put(sender, |out| edit::route(out, &to, &own, &stanza));
        }
    }

    /// What c2s asked for a client of its own can't be had.
    fn refuse_session(&mut self, c2s: SeatId, component: &str, asked: &str, payload: &Payload<'_>) {
        let own = self.bound_name(asked);
        let (action, number) = (text_of(payload.action), text_of(payload.c2s).unwrap_or_default());
        let (id, target) = (text_of(payload.id), text_of(payload.target));
        let extra = SessionExtra {
            id: id.as_deref(),
            target: target.as_deref(),
            failed: false,
        };
        match action.as_deref() {
            Some("start") => {
                let token = "jidmesh-refused";
                self.put(c2s, |out| {
                    edit::session(out, component, &own, "started", &number, token, extra);
                    edit::session(out, component, &own, "ended", &number, token, SessionExtra::default());
                });
            }
            Some("create") => self.put(c2s, |out| {
                let extra = SessionExtra { failed: true, ..extra };
                edit::session(out, component, &own, "create", &number, "", extra);
            }),
            _ => self.count(Counter::DropGone),
        }
    }

    /// The name under which c2s is answered in place of this one: the stock router drops what comes from a name that is not
    /// bound, and a domain that lost its last sm no longer is. (c2s takes any; s2s would speak for it.)
    fn bound_name(&self, name: &str) -> Box<str> {
        let key = crate::jid::domain_key(name);
        let speaker = self
            .uplink
            .as_ref()
            .and_then(|uplink| Some(&uplink.lines[uplink.speaker?]));
        let holds = speaker.is_some_and(|line| key.is_some_and(|key| line.holds(&key)));
        if holds { name.into() } else { self.names.own().into() }
    }
}

fn text_of(value: Option<Value<'_>>) -> Option<String> {
    Some(value?.unescape()?.into_owned())
}
