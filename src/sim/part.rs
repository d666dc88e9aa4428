//! A component as a process: it runs, connects, logs in, binds, loses its link, comes back, dies.

use super::c2s::C2s;
use super::outside::S2s;
use super::peer::{Peer, peer_jid, peer_name};
use super::plan::Fault;
use super::sm::Sm;
use super::text::{self, DOMAIN, Seen};
use super::world::{Event, Mood, World};
use crate::node::api::Micros;
use crate::wire::connect::{Connect, ConnectStep, Connecting};
use crate::wire::scan::{Item, Scanner};
use std::collections::BTreeMap;

/// jabberd2's components sleep so long before each attempt to come back, whole process and all.
const RETRY_US: Micros = 2_000_000;

/// So long may a component take to authenticate.
const LOGIN_US: Micros = 10_000_000;

/// The router waits so long for an answer of an sm that a user leaves, less what its questions take.
const FENCE_US: Micros = 4_000_000;

/// A component that was away for so long may have been given up.
const GIVEN_UP_US: Micros = 8_000_000;

/// What a component is.
#[derive(Debug)]
pub(super) enum Body {
    Sm(Sm),
    C2s(C2s),
    Peer(Peer),
    S2s(S2s),
    /// Wants a name that is taken, and gives up when it is told so.
    Impostor,
}

#[derive(Debug)]
enum Phase {
    Down,
    LoggingIn(Box<Connect>),
    In(Box<Scanner>),
}

/// A component.
#[derive(Debug)]
pub(super) struct Part {
    /// Whose router it connects to.
    pub(super) node: usize,
    pub(super) name: String,
    binds: Vec<String>,
    pub(super) body: Body,
    pub(super) running: bool,
    /// Not started again.
    pub(super) gone: bool,
    pub(super) life: u32,
    pub(super) conn: Option<usize>,
    /// When it last connected.
    connected_at: Micros,
    phase: Phase,
    /// Its first bind is answered.
    pub(super) online: bool,
    /// Bytes of an unfinished frame.
    pub(super) buf: Vec<u8>,
    pub(super) frozen_until: Micros,
    /// When it lost its link, whether it knows it or not.
    pub(super) down_since: Option<Micros>,
    /// No connection comes about before this time.
    pub(super) cut_off_until: Micros,
    /// What it was told: full JIDs and their sm.
    pub(super) redirects: BTreeMap<String, String>,
}

impl Part {
    fn new(node: usize, name: &str, binds: &[&str], body: Body) -> Part {
        Part {
            node,
            name: name.into(),
            binds: binds.iter().map(|name| (*name).to_owned()).collect(),
            body,
            running: true,
            gone: false,
            life: 0,
            conn: None,
            connected_at: 0,
            phase: Phase::Down,
            online: false,
            buf: Vec::new(),
            frozen_until: 0,
            down_since: None,
            cut_off_until: 0,
            redirects: BTreeMap::new(),
        }
    }

    pub(super) fn sm(node: usize, name: &str) -> Part {
        Part::new(node, name, &[name, &format!("*{DOMAIN}")], Body::Sm(Sm::default()))
    }

    pub(super) fn c2s(node: usize, name: &str) -> Part {
        Part::new(node, name, &[name], Body::C2s(C2s::default()))
    }

    pub(super) fn peer(nodes: usize, node: usize) -> Part {
        let name = peer_name(nodes, node);
        Part::new(node, &name, &[&name], Body::Peer(Peer))
    }

    pub(super) fn s2s(node: usize) -> Part {
        Part::new(node, "s2s", &["+s2s"], Body::S2s(S2s))
    }

    pub(super) fn impostor(node: usize, name: &str) -> Part {
        Part::new(node, name, &[name], Body::Impostor)
    }
}

impl World {
    /// Until when the component does nothing.
    pub(super) fn part_is_busy(&self, part: usize) -> Option<Micros> {
        let until = self.parts[part].frozen_until;
        (until > self.now).then_some(until)
    }

    pub(super) fn part_connects(&mut self, part: usize, life: u32) {
        let it = &self.parts[part];
        if it.life != life || !it.running || it.conn.is_some() {
            return;
        }
        if it.cut_off_until > self.now || !self.machines[it.node].running {
            return self.retry(part);
        }
        let mut login = Box::new(Connect::new(Connecting::Native {
            user: "jabberd".into(),
            pass: "secret".into(),
            starttls: false,
            hostname: "host".into(),
        }));
        let mut out = Vec::new();
        login.start(&mut out);
        let conn = self.connect(part);
        self.note(|| format!("part {part} connects as conn {conn}"));
        if self.parts[part]
            .down_since
            .is_some_and(|since| since + GIVEN_UP_US < self.now)
        {
            self.was_given_up(part);
        }
        self.parts[part].down_since = None;
        let it = &mut self.parts[part];
        it.conn = Some(conn);
        it.connected_at = self.now;
        it.phase = Phase::LoggingIn(login);
        it.online = false;
        it.buf.clear();
        self.send(conn, String::from_utf8_lossy(&out).into_owned());
    }

    fn retry(&mut self, part: usize) {
        let it = &mut self.parts[part];
        it.frozen_until = it.frozen_until.max(self.now + RETRY_US);
        let (at, life) = (it.frozen_until, it.life);
        self.at(at, Event::Connect(part, life));
    }

    /// Its bind is answered, and its link works. One that is frozen may not have learnt yet that it does not.
    pub(super) fn is_linked(&self, part: &Part) -> bool {
        part.online && part.conn.is_some_and(|conn| !self.conns[conn].cut)
    }

    /// No other s2s is there that its node reaches.
    fn nobody_outside(&self, part: usize) -> bool {
        let node = self.parts[part].node;
        let other = |it: &Part| matches!(it.body, Body::S2s(_)) && it.online && it.node != node;
        !self.parts.iter().any(|it| other(it) && self.reaches(node, it.node))
    }

    /// It was away for so long that what was meant for it, or what it would have been told, went nowhere.
    fn was_given_up(&mut self, part: usize) {
        let node = self.parts[part].node;
        let linked = |part: &&Part| part.is_sm() && self.is_linked(part);
        let others = self.parts.iter().any(|part| linked(&part));
        let near = self.parts.iter().any(|part| part.node == node && linked(&part));
        match &self.parts[part].body {
            Body::Sm(_) if !others => self.book.nobody_there(|_| true),
            // What waited for it went to other nodes, which may have held this one for dead: a sender there is told nothing.
            Body::Sm(_) if !near => self.book.nobody_there(|message| message.doubtful),
            Body::Peer(_) => {
                let own = peer_jid(self.plan.nodes, self.parts[part].node);
                self.book
                    .nobody_there(|message| message.from == own || message.to == own);
            }
            Body::S2s(_) if !self.nobody_outside(part) => self.book.exit_lost = true,
            Body::S2s(_) => {
                // An error to somebody outside is nobody's when there is no way to him.
                let outside = |jid: &str| jid.contains("@ext");
                self.book
                    .nobody_there(|message| outside(&message.from) || outside(&message.to));
            }
            _ => {}
        }
    }

    /// The component learns that its link is over.
    pub(super) fn part_end(&mut self, conn: usize) {
        let Some(part) = self.conns[conn].part() else { return };
        if self.parts[part].conn != Some(conn) {
            return;
        }
        if let Some(later) = self.part_is_busy(part) {
            return self.at(later, Event::PartEnd(conn));
        }
        if self.sm_has_work(part) {
            // What it has read it serves first: only the next read shows it that the link is over.
            return self.after(self.plan.service_us, Event::PartEnd(conn));
        }
        self.note(|| format!("part {part} lost conn {conn}"));
        self.part_closes(conn, false);
        let it = &mut self.parts[part];
        it.conn = None;
        it.phase = Phase::Down;
        it.online = false;
        it.buf.clear();
        it.redirects.clear();
        it.down_since = it.down_since.or(Some(self.now));
        if matches!(it.body, Body::Impostor) {
            it.running = false;
            it.gone = true;
            return;
        }
        self.retry(part);
    }

    /// The process ends, and starts again after `away` (never when `None`).
    pub(super) fn kill(&mut self, part: usize, in_order: bool, away: Option<Micros>) {
        let it = &mut self.parts[part];
        if !it.running {
            return;
        }
        it.running = false;
        it.life += 1;
        it.online = false;
        it.gone = away.is_none();
        it.phase = Phase::Down;
        it.redirects.clear();
        it.frozen_until = 0;
        it.down_since = it.down_since.or(Some(self.now));
        let life = it.life;
        let conn = it.conn.take();
        match &it.body {
            Body::Sm(_) => self.sm_dies(part),
            Body::C2s(_) => self.c2s_dies(part),
            Body::Peer(_) | Body::S2s(_) | Body::Impostor => {}
        }
        if let Some(conn) = conn {
            self.part_closes(conn, in_order);
        }
        self.parts[part].buf.clear();
        self.note(|| format!("part {part} is dead"));
        if let Some(away) = away {
            self.after(away, Event::Launch(part, life));
        }
    }

    pub(super) fn launch(&mut self, part: usize, life: u32) {
        if self.parts[part].life == life && !self.parts[part].running {
            self.note(|| format!("part {part} starts"));
            self.parts[part].running = true;
            self.part_connects(part, life);
        }
    }

    /// The component read bytes.
    pub(super) fn part_feed(&mut self, part: usize, bytes: &[u8]) {
        let it = &mut self.parts[part];
        it.buf.extend_from_slice(bytes);
        if let Phase::LoggingIn(login) = &mut it.phase {
            let mut out = Vec::new();
            let step = login.feed(&mut it.buf, &mut out, &mut self.rng);
            let done = match step {
                ConnectStep::Need => false,
                ConnectStep::Done(scanner) => {
                    it.phase = Phase::In(Box::new(scanner));
                    true
                }
                ConnectStep::Failed(_) if it.connected_at + LOGIN_US <= self.now => {
                    // It was frozen meanwhile.
                    return it.conn.into_iter().for_each(|conn| self.part_end(conn));
                }
                ConnectStep::StartTls | ConnectStep::Failed(_) => {
                    return self.fail(format!("{} can't log in: {step:?}", self.parts[part].name));
                }
            };
            if !out.is_empty() {
                self.part_writes(part, String::from_utf8_lossy(&out).into_owned());
            }
            if !done {
                return;
            }
            for name in self.parts[part].binds.clone() {
                let bind = self.asks_for_redirects(text::bind(&name));
                self.part_writes(part, bind);
            }
        }
        self.part_frames(part);
    }

    fn part_frames(&mut self, part: usize) {
        let it = &mut self.parts[part];
        let Phase::In(scanner) = &mut it.phase else { return };
        let (mut frames, mut closed) = (Vec::new(), false);
        loop {
            match scanner.next(&it.buf) {
                Ok(Some(Item::Frame { start, end })) => frames.push(it.buf[start..end].to_vec()),
                Ok(Some(Item::Close { .. })) => {
                    closed = true;
                    break;
                }
                Ok(None) => break,
                other => {
                    let what = format!("{} reads nonsense: {other:?}", it.name);
                    return self.fail(what);
                }
            }
        }
        let used = scanner.unfinished_start();
        scanner.consume(used);
        it.buf.drain(..used);
        let life = self.parts[part].life;
        for frame in frames {
            if self.parts[part].life == life {
                self.part_frame(part, &frame);
            }
        }
        if closed && let Some(conn) = self.parts[part].conn {
            self.part_end(conn);
        }
    }

    fn part_frame(&mut self, part: usize, frame: &[u8]) {
        let seen = text::see(frame);
        self.note(|| format!("  > {part} {}", String::from_utf8_lossy(frame)));
        if let Seen::BindAnswer { error } = &seen {
            return self.bind_answered(part, error.as_deref());
        }
        if !self.parts[part].online {
            // Everything before the first bind answer is thrown away, adverts included.
            if matches!(seen, Seen::Advert { .. } | Seen::Route(_)) {
                self.fail(format!(
                    "{} got a frame before its bind was answered",
                    self.parts[part].name
                ));
            }
            return;
        }
        if let Seen::Redirect { jid, to } = seen {
            return self.redirect_told(part, jid, to);
        }
        match &self.parts[part].body {
            Body::Sm(_) => self.sm_gets(part, seen),
            Body::C2s(_) => self.c2s_gets(part, seen),
            Body::Peer(_) => self.peer_gets(part, seen),
            Body::S2s(_) => self.s2s_gets(part, seen),
            Body::Impostor => {}
        }
    }

    fn bind_answered(&mut self, part: usize, error: Option<&str>) {
        if self.parts[part].online {
            return;
        }
        let impostor = matches!(self.parts[part].body, Body::Impostor);
        match error {
            None if impostor => self.kill(part, true, None),
            None => self.parts[part].online = true,
            Some(_) if impostor => self.kill(part, true, None),
            Some(code) => {
                let name = self.parts[part].name.clone();
                if !self.plan.faults.contains(&Fault::Impostor) {
                    self.fail(format!("{name} is refused its own name: {code}"));
                }
                self.kill(part, true, Some(3_000_000));
            }
        }
    }

    pub(super) fn part_writes(&mut self, part: usize, frame: String) {
        self.note(|| format!("  < {part} {frame}"));
        if self.plan.nodes > 1 {
            self.presence_sent(&frame);
        }
        let frame = self.redirected(part, frame);
        match self.parts[part].conn {
            Some(conn) => self.send(conn, frame),
            None => self.lost_by(part, &frame),
        }
    }

    /// A fault strikes somebody.
    pub(super) fn fault(&mut self) {
        if self.mood != Mood::Busy {
            return;
        }
        let fault = self.plan.faults[self.rng.index(self.plan.faults.len())];
        let part = self.rng.index(self.plan.nodes * self.plan.parts());
        self.note(|| format!("FAULT {fault:?} part {part}"));
        self.summary.faults += 1;
        if fault == Fault::FreezeShard {
            let node = self.parts[part].node;
            let shard = self.rng.index(self.machines[node].shards.len());
            self.machines[node].frozen_until[shard] = self.now + self.rng.between(1_000, 900_000);
            return;
        }
        let it = &self.parts[part];
        if !it.running {
            return;
        }
        let conn = it.conn;
        match fault {
            Fault::Cut | Fault::LongCut => {
                if fault == Fault::LongCut {
                    self.parts[part].cut_off_until = self.now + self.rng.between(5_000_000, 25_000_000);
                }
                if let Some(conn) = conn {
                    self.cut(conn);
                }
            }
            Fault::Restart | Fault::LateRestart => {
                let in_order = self.rng.chance(50);
                let away = match fault {
                    Fault::Restart => self.rng.between(10_000, 6_000_000),
                    _ => self.rng.between(9_000_000, 25_000_000),
                };
                self.kill(part, in_order, Some(away));
            }
            Fault::Stop => self.stop_in_order(part),
            Fault::Freeze | Fault::LongFreeze => {
                let most = if fault == Fault::Freeze { 3_000_000 } else { 15_000_000 };
                let long = self.rng.between(1_000, most);
                self.parts[part].frozen_until = self.now + long;
                if self.parts[part].is_sm() && long > FENCE_US {
                    self.book.silence(self.now + long);
                }
            }
            Fault::Impostor => {
                let fine = it.online && conn.is_some_and(|conn| !self.conns[conn].cut);
                if fine {
                    let (node, name) = (it.node, it.name.clone());
                    self.parts.push(Part::impostor(node, &name));
                    let impostor = self.parts.len() - 1;
                    self.after(1, Event::Connect(impostor, 0));
                }
            }
            Fault::Gone => {
                let sms = self.parts.iter().filter(|part| part.is_sm() && !part.gone).count();
                if it.is_sm() && sms > 1 {
                    self.kill(part, false, None);
                }
            }
            Fault::FreezeShard => {}
        }
    }

    /// SIGTERM: sessions are ended in order before the link is closed.
    fn stop_in_order(&mut self, part: usize) {
        if self.part_is_busy(part).is_some() {
            return;
        }
        match &self.parts[part].body {
            Body::Sm(_) => self.sm_stops(part),
            Body::C2s(_) => self.c2s_stops(part),
            Body::Peer(_) | Body::S2s(_) | Body::Impostor => {}
        }
        let away = self.rng.between(500_000, 15_000_000);
        self.kill(part, true, Some(away));
    }
}

impl Part {
    pub(super) fn is_sm(&self) -> bool {
        matches!(self.body, Body::Sm(_))
    }
}
