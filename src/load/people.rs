//! Users: where each is connected, which sm serves him, and logging them in and out as c2s and sm do it.

use super::answer;
use super::book::Known;
use super::component::excerpt;
use super::figures;
use super::link::{Link, Out, Sink};
use super::poll::Poll;
use crate::wire::edit::{self, SessionExtra};
use crate::wire::header::{self, Frame, Payload, PayloadKind, Route};
use crate::wire::value::Value;
use crate::wire::{NS_CLIENT, NS_SESSION};
use ahash::AHashMap;
use hdrhistogram::Histogram;
use std::time::{Duration, Instant};

/// The domain of all users.
pub(super) const DOMAIN: &str = "example.net";
/// Nothing has moved for so long: something was lost, seconds.
const STALL_S: u64 = 10;
/// The longest wait for something to happen, milliseconds.
pub(super) const WAIT_MS: u64 = 50;

/// Where a user's login stands; every frame takes it exactly one step further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Out,
    /// `start` is on its way to an sm.
    Starting,
    /// `started` is on its way to the c2s.
    Answered,
    /// The first presence is on its way to the sm.
    Greeting,
    In,
    /// `end` is on its way to the sm.
    Ending,
    /// `ended` is on its way to the c2s.
    Leaving,
}

/// All users, and the components that they use.
#[derive(Debug)]
pub(super) struct People {
    /// Indices of links.
    c2s: Vec<usize>,
    ids: Vec<String>,
    by_id: AHashMap<String, usize>,
    steps: Vec<Step>,
    /// The link of the sm that serves each.
    homes: Vec<u16>,
    /// When each login or logout began, microseconds on `clock`.
    begun_us: Vec<u64>,
    clock: Instant,
    /// When anything was written or read last.
    moved: Instant,
    /// Logins and logouts that have begun and not ended.
    pub(super) in_flight: u64,
    pub(super) frames: u64,
    pub(super) bytes: u64,
    /// Latency of logins (`start` to `started`) and of logouts.
    pub(super) login: Histogram<u64>,
    pub(super) logout: Histogram<u64>,
}

impl People {
    /// `count` users at the links that are named as c2s; all other links are sm.
    pub(super) fn new(count: usize, links: &[Link], c2s: &[usize]) -> People {
        assert!(!c2s.is_empty(), "users need a c2s");
        People {
            c2s: c2s.to_vec(),
            ids: links.iter().map(|link| link.id.clone()).collect(),
            by_id: links
                .iter()
                .enumerate()
                .map(|(at, link)| (link.id.clone(), at))
                .collect(),
            steps: vec![Step::Out; count],
            homes: vec![u16::MAX; count],
            begun_us: vec![0; count],
            clock: Instant::now(),
            moved: Instant::now(),
            in_flight: 0,
            frames: 0,
            bytes: 0,
            login: figures::histogram(),
            logout: figures::histogram(),
        }
    }

    /// The link of a user's c2s.
    pub(super) fn c2s(&self, user: usize) -> usize {
        self.c2s[user % self.c2s.len()]
    }

    /// The client's number at its c2s.
    pub(super) fn number(&self, user: usize) -> String {
        (user / self.c2s.len() + 9).to_string()
    }

    /// The link of the sm that serves a user, who is logged in.
    pub(super) fn home(&self, user: usize) -> usize {
        usize::from(self.homes[user])
    }

    pub(super) fn bare(user: usize) -> String {
        format!("u{user}@{DOMAIN}")
    }

    pub(super) fn full(user: usize) -> String {
        format!("u{user}@{DOMAIN}/pda")
    }

    /// The sm-side id of a user's session.
    pub(super) fn session(user: usize) -> String {
        format!("{user:040x}")
    }

    /// How many users there are.
    pub(super) fn count(&self) -> usize {
        self.steps.len()
    }

    pub(super) fn is_out(&self, user: usize) -> bool {
        self.steps[user] == Step::Out
    }

    pub(super) fn is_in(&self, user: usize) -> bool {
        self.steps[user] == Step::In
    }

    /// Sends `start`, which was due so long ago.
    pub(super) fn log_in(&mut self, user: usize, late_us: u64, links: &mut [Link]) {
        self.begin(user, Step::Out, Step::Starting);
        self.begun_us[user] = self.begun_us[user].saturating_sub(late_us);
        let c2s = self.c2s(user);
        let (id, target, number) = (People::session(user), People::full(user), self.number(user));
        let extra = SessionExtra {
            id: Some(&id),
            target: Some(&target),
            failed: false,
        };
        let out = &mut links[c2s].out;
        edit::session(&mut out.bytes, DOMAIN, &self.ids[c2s], "start", &number, "", extra);
        out.framed();
    }

    /// Sends `end`.
    pub(super) fn log_out(&mut self, user: usize, links: &mut [Link]) {
        self.begin(user, Step::In, Step::Ending);
        let (c2s, sm) = (self.c2s(user), self.home(user));
        let (session, number) = (People::session(user), self.number(user));
        let out = &mut links[c2s].out;
        let extra = SessionExtra::default();
        edit::session(
            &mut out.bytes,
            &self.ids[sm],
            &self.ids[c2s],
            "end",
            &number,
            &session,
            extra,
        );
        out.framed();
    }

    fn begin(&mut self, user: usize, from: Step, to: Step) {
        assert_eq!(self.steps[user], from, "user {user}");
        self.steps[user] = to;
        self.begun_us[user] = self.clock.elapsed().as_micros() as u64;
        self.in_flight += 1;
    }

    /// Logs in everybody, with so many logins on their way at most.
    pub(super) fn log_in_all(&mut self, links: &mut [Link], window: u64, progress: bool) -> Result<(), String> {
        let mut poll = Poll::new()?;
        for link in links.iter() {
            poll.add(link.fd(), true)?;
        }
        let (mut next, mut told) = (0, Instant::now());
        while next < self.steps.len() || self.in_flight > 0 {
            while next < self.steps.len() && self.in_flight < window {
                self.log_in(next, 0, links);
                next += 1;
            }
            self.turn(links, &mut poll, WAIT_MS)?;
            if progress && told.elapsed() > Duration::from_secs(1) {
                told = Instant::now();
                eprintln!("logins: {next} of {}", self.steps.len());
            }
        }
        Ok(())
    }

    /// Writes what waits, reads what is there; waits so long if nothing is.
    ///
    /// # Errors
    /// A frame was lost, came twice, or to the wrong place.
    pub(super) fn turn(&mut self, links: &mut [Link], poll: &mut Poll, wait_ms: u64) -> Result<(), String> {
        let mut moved = false;
        for link in links.iter_mut().filter(|link| link.out.len() > 0) {
            moved |= link.flush()? > 0;
        }
        for (key, link) in links.iter().enumerate() {
            poll.want(link.fd(), key, true, link.out.len() > 0)?;
        }
        for at in 0..poll.wait(if moved { 0 } else { wait_ms })? {
            let link = poll.ready(at);
            let mut desk = Desk { people: self, link };
            moved |= links[link].read(usize::MAX, None, &mut desk)? > 0;
        }
        if moved || self.in_flight == 0 {
            self.moved = Instant::now();
        } else if self.moved.elapsed() > Duration::from_secs(STALL_S) {
            return Err(format!("{} logins or logouts hang: a frame was lost", self.in_flight));
        }
        Ok(())
    }

    fn step(&mut self, user: usize, from: Step, to: Step, frame: &[u8]) -> Result<(), String> {
        let step = self.steps.get_mut(user).ok_or("a user whom nobody knows")?;
        if *step != from {
            return Err(format!(
                "user {user} is {step:?}, so this came twice or too late: {}",
                excerpt(frame)
            ));
        }
        *step = to;
        Ok(())
    }
}

/// The component at one link, as far as session control goes.
struct Desk<'a> {
    people: &'a mut People,
    link: usize,
}

impl Sink for Desk<'_> {
    fn known(&mut self, _: Known, _: usize, _: &mut Out) -> Result<(), String> {
        Err("a frame of another measurement".into())
    }

    fn other(&mut self, frame: &[u8], out: &mut Out) -> Result<(), String> {
        let Ok(Frame::Route(route)) = header::read(frame) else {
            return answer::to_router(frame, out);
        };
        let Some(payload) = route.payload.as_ref().filter(|_| route.error.is_none()) else {
            return answer::to_router(frame, out);
        };
        // Sessions of the router's own.
        let whose = payload.sm.or(payload.id).filter(|_| payload.kind != PayloadKind::Iq);
        if whose.is_some() && index(whose).is_err() {
            return answer::to_router(frame, out);
        }
        let is_c2s = self.people.c2s.contains(&self.link);
        let action = payload.action.and_then(|action| action.as_str()).unwrap_or_default();
        let taken = match (payload.kind, action) {
            (PayloadKind::Session, "start") if !is_c2s => self.start(frame, &route, payload, out),
            (PayloadKind::Session, "started") if is_c2s => self.started(frame, &route, payload, out),
            (PayloadKind::Session, "end") if !is_c2s => self.end(frame, &route, payload, out),
            (PayloadKind::Session, "ended") if is_c2s => self.ended(frame, payload),
            (PayloadKind::Presence, _) if !is_c2s => {
                let user = index(payload.sm)?;
                self.people
                    .step(user, Step::Greeting, Step::In, frame)
                    .map(|()| self.people.in_flight -= 1)
            }
            (PayloadKind::Iq, _) if !is_c2s => return answer::to_router(frame, out),
            _ => Err(format!("not expected here: {}", excerpt(frame))),
        };
        self.people.frames += 1;
        self.people.bytes += frame.len() as u64;
        taken.map_err(|why| format!("at {}: {why}", self.people.ids[self.link]))
    }
}

impl Desk<'_> {
    fn start(&mut self, frame: &[u8], route: &Route<'_>, payload: &Payload<'_>, out: &mut Out) -> Result<(), String> {
        let user = index(payload.id)?;
        self.people.step(user, Step::Starting, Step::Answered, frame)?;
        self.people.homes[user] = self.link as u16;
        let [c2s, number, id, target] = [route.from, payload.c2s, payload.id, payload.target].map(text);
        if target != People::full(user) || number != self.people.number(user) {
            return Err(format!("start was altered: {}", excerpt(frame)));
        }
        let extra = SessionExtra {
            id: Some(id),
            target: Some(target),
            failed: false,
        };
        let own = &self.people.ids[self.link];
        edit::session(
            &mut out.bytes,
            c2s,
            own,
            "started",
            number,
            &People::session(user),
            extra,
        );
        out.framed();
        Ok(())
    }

    fn started(&mut self, frame: &[u8], route: &Route<'_>, payload: &Payload<'_>, out: &mut Out) -> Result<(), String> {
        let user = index(payload.id)?;
        self.people.step(user, Step::Answered, Step::Greeting, frame)?;
        let sm = text(route.from);
        let (at, wanted) = (self.people.by_id.get(sm), self.people.home(user));
        if at != Some(&wanted) || self.people.c2s(user) != self.link || index(payload.sm)? != user {
            return Err(format!("started was altered, or went astray: {}", excerpt(frame)));
        }
        self.people.record(user, false);
        let (own, number, session) = (
            &self.people.ids[self.link],
            self.people.number(user),
            People::session(user),
        );
        let presence = format!(
            "<presence xmlns:sc='{NS_SESSION}' xmlns='{NS_CLIENT}' sc:sm='{session}' sc:c2s='{number}'>\
             <priority>1</priority></presence>"
        );
        edit::route(&mut out.bytes, sm, own, presence.as_bytes());
        out.framed();
        Ok(())
    }

    fn end(&mut self, frame: &[u8], route: &Route<'_>, payload: &Payload<'_>, out: &mut Out) -> Result<(), String> {
        let user = index(payload.sm)?;
        self.people.step(user, Step::Ending, Step::Leaving, frame)?;
        if self.people.home(user) != self.link {
            return Err(format!("end went astray: {}", excerpt(frame)));
        }
        let (own, session) = (&self.people.ids[self.link], People::session(user));
        let (to, number) = (text(route.from), text(payload.c2s));
        edit::session(
            &mut out.bytes,
            to,
            own,
            "ended",
            number,
            &session,
            SessionExtra::default(),
        );
        out.framed();
        Ok(())
    }

    fn ended(&mut self, frame: &[u8], payload: &Payload<'_>) -> Result<(), String> {
        let user = index(payload.sm)?;
        self.people.step(user, Step::Leaving, Step::Out, frame)?;
        self.people.in_flight -= 1;
        self.people.record(user, true);
        Ok(())
    }
}

impl People {
    fn record(&mut self, user: usize, logout: bool) {
        let late_us = self.clock.elapsed().as_micros() as u64 - self.begun_us[user];
        let histogram = if logout { &mut self.logout } else { &mut self.login };
        histogram.saturating_record((late_us * 1000).max(1));
    }
}

/// The user whose session or request has this id.
fn index(id: Option<Value<'_>>) -> Result<usize, String> {
    usize::from_str_radix(text(id), 16).map_err(|_| format!("no id of ours: {:?}", text(id)))
}

fn text(value: Option<Value<'_>>) -> &str {
    value.and_then(|value| value.as_str()).unwrap_or_default()
}
