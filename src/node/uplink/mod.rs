//! Attached mode: the machine keeps its stock `jabberd2-router`, and this node is a component of it.
//!
//! Shard 0 keeps two connections ("lines") to the stock router. What other nodes and this node's own components serve is
//! bound there, and what the stock router's components serve has a seat here, which no link of its own has: what is put
//! into it goes down a line, and what comes up from its name comes as from it. So sessions of a c2s that stays at the
//! stock router are learnt, moved and ended as all others are.
//!
//! # Why two lines, and which name where
//!
//! The stock router withdraws a name at once when the connection that holds it is lost, and c2s then closes all clients
//! of a withdrawn domain. So domains, and services, are bound over both lines (`multi='to'`): the stock router chooses
//! between them by the hash of the user who is addressed, which keeps the order of what is for him. What c2s sends for a
//! client that is logged in is addressed to the *id* of his sm and mostly to no user at all: between two holders the
//! stock router would choose by chance, frame by frame. So ids of sm are bound over one line only, the *speaker*, which
//! carries all that goes down as well. So is the name to which c2s answers questions: the answers keep their order
//! ([`Shard::answers_to`]). When it is lost the other one speaks at once; the withdrawal of an sm's id means
//! nothing to c2s.
//!
//! # Invariants
//!
//! * No name is bound twice over one line: the stock router would keep a stale pointer, and die with it.
//! * What another component of the stock router has bound is left alone, until it lets go.
//! * A frame that came up never goes down as it is: the stock router would have delivered it itself, and it would come
//!   up again.
//! * The stock router drops every route with `error`. A bounce for one of its components goes down as what that
//!   component would have been told otherwise ([`frames`]).
//!
//! Must never be added: knowledge of how the stock router is configured, beyond what it answers.

mod frames;
mod image;
mod lines;
mod seats;

use super::Shard;
use super::api::{LinkId, Micros};
use super::lane::Message;
use super::report::UplinkReport;
use crate::jid::TableMap;
use crate::table::image::bytes;
use crate::table::names::Multi;
use crate::table::{SeatId, SeatKind};
use crate::wire::edit;
use serde::{Deserialize, Serialize};
use std::collections::{HashSet, VecDeque};

/// How many connections there are to the stock router.
const LINES: usize = 2;

/// Shard 0's connections to the stock router.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Uplink {
    lines: [Line; LINES],
    /// The line that all goes down.
    speaker: Option<usize>,
    /// How often a line has joined.
    joins: u64,
}

/// One connection to the stock router.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Line {
    state: State,
    #[serde(skip)]
    link: Option<LinkId>,
    /// Dials in a row that came to nothing.
    failures: u32,
    /// What was asked and is not answered, in order: the stock router answers in order.
    asked: VecDeque<Asked>,
    /// Names that were asked for over it.
    names: TableMap<Box<str>, Claim>,
    /// Names of the stock router's other components, as its adverts say.
    heard: HashSet<Box<str>>,
    /// Frames that came up before it was certain that nothing older waits in the other line.
    #[serde(with = "bytes")]
    held: Vec<u8>,
    /// Which joining it is in.
    join: u64,
    /// When it knew all names of the stock router.
    #[serde(default)]
    greeted_at: Micros,
}

/// How far a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum State {
    /// To be dialled then.
    Resting(Micros),
    /// On its way, or logging in.
    Coming,
    /// Its first bind, and the adverts that follow it, are awaited.
    Greeting,
    /// It shares names from now on; what was on its way over the other line is awaited.
    Joining,
    /// It serves.
    Up,
}

impl Default for State {
    fn default() -> State {
        State::Resting(0)
    }
}

/// A question to the stock router.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Asked {
    /// A bind of this name.
    Bind(Box<str>),
    /// An unbind.
    Unbind,
    /// A bind without a name, which is refused: all that went before it is done.
    Mark(Mark),
}

/// What an answered mark says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Mark {
    /// The adverts behind the first bind are all here.
    Greeted,
    /// The names that a joining line shares are bound over it.
    Shares,
    /// Over the speaker: what was sent to it before the line of this joining shared its names has come.
    Drained(u64),
}

/// A name over one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Claim {
    /// Asked for, or bound.
    Held,
    /// Refused as long as this connection lasts.
    Refused,
}

/// Over which lines a name is to be bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Want {
    Both,
    Speaker,
}

impl Line {
    /// Frames may go over it.
    fn serves(&self) -> bool {
        matches!(self.state, State::Up | State::Joining)
    }

    fn holds(&self, key: &str) -> bool {
        self.names.get(key) == Some(&Claim::Held)
    }
}

impl Uplink {
    fn is_ours(&self, key: &str) -> bool {
        self.lines.iter().any(|line| line.holds(key))
    }
}

impl Shard {
    /// Shard 0, after a message about names: what is bound at the stock router follows.
    pub(super) fn align_uplink(&mut self, now: Micros, concerned: Vec<Box<str>>) {
        for key in concerned {
            self.make_way_for_domain(now, &key);
            self.align_name(&key);
        }
    }

    /// The names that a message may change at the stock router; before it is handled.
    pub(super) fn concerned_names(&self, message: &Message) -> Vec<Box<str>> {
        match message {
            _ if self.uplink.is_none() => Vec::new(),
            Message::Bound { name, .. } | Message::Unbound { name, .. } => vec![name.clone()],
            Message::Kind { seat, .. } => {
                let held = self.names.iter().filter(|(_, name)| name.holders.contains(seat));
                held.map(|(key, _)| key.into()).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Whether this node is to hold a name at the stock router.
    fn want(&self, key: &str) -> Option<Want> {
        if *key == *self.names.own() || self.is_machine_name(key) {
            return Some(Want::Both);
        }
        if *key == *self.answers_name() {
            return Some(Want::Speaker);
        }
        let (_, name) = self.names.get(key)?;
        let mut want = None;
        for seat in name.holders.iter().filter(|seat| !self.is_behind(**seat)) {
            match (name.multi, self.names.seat(*seat)?.kind) {
                (Multi::To | Multi::From, _) => return Some(Want::Both),
                (Multi::No, SeatKind::Sm) => want = Some(Want::Speaker),
                (Multi::No, SeatKind::C2s | SeatKind::S2s) => {}
                // Without a dot it may be the id of anything; one of another node is nobody's to address here.
                (Multi::No, _) if key.contains('.') && !self.is_id_abroad(key, *seat) => return Some(Want::Both),
                (Multi::No, _) => {}
            }
        }
        want
    }

    /// The JID to whose domain a c2s says that it does not know a client who is asked about. The user's own domain would do,
    /// but is bound over both lines: the stock router would choose between them by chance, and what the last of several
    /// answers proves, it proves only behind the others.
    pub(in crate::node) fn answers_to(&self, c2s: SeatId, bare: &str) -> String {
        match self.is_behind(c2s) {
            true => format!("jidmesh@{}", self.answers_name()),
            false => bare.into(),
        }
    }

    fn answers_name(&self) -> String {
        format!("answers.{}", self.names.own())
    }

    /// The machine's DNS name, under which its router reaches this node, unless it is a domain of users.
    fn is_machine_name(&self, key: &str) -> bool {
        let Some(mesh) = &self.config.mesh else { return false };
        *mesh.node == *key && !mesh.domains.iter().any(|(domain, _)| *domain == *key)
    }

    /// Binds or unbinds a name over each line that serves.
    fn align_name(&mut self, key: &str) {
        let want = self.want(key);
        let Some(uplink) = &self.uplink else { return };
        let speaker = uplink.speaker;
        for at in 0..LINES {
            let Some(line) = self.uplink.as_ref().map(|uplink| &uplink.lines[at]) else {
                return;
            };
            if !matches!(line.state, State::Up | State::Joining) {
                continue;
            }
            let wanted = match want {
                Some(Want::Both) => true,
                Some(Want::Speaker) => speaker == Some(at),
                None => false,
            };
            match (wanted && !line.heard.contains(key), line.names.get(key)) {
                (true, None) => self.ask_bind(at, key),
                (false, Some(Claim::Held)) => self.ask_unbind(at, key),
                _ => {}
            }
        }
    }

    /// All names that are to be bound.
    fn wanted_names(&self) -> Vec<Box<str>> {
        let machine = self.config.mesh.as_ref().map(|mesh| mesh.node.as_str().into());
        let known = self.names.iter().map(|(key, _)| Box::from(key));
        let answers = std::iter::once(self.answers_name().into());
        let mut names: Vec<Box<str>> = known.chain(machine).chain(answers).collect();
        names.retain(|key| self.want(key).is_some());
        names
    }

    /// For `status` and the metrics.
    pub(super) fn report_uplink(&self) -> Option<UplinkReport> {
        let (uplink, to) = (self.uplink.as_ref()?, self.config.uplink.as_ref()?);
        let links = uplink.lines.iter().filter_map(|line| self.link(line.link?));
        let held = |line: &Line| line.names.values().filter(|claim| **claim == Claim::Held).count();
        let mut refused: Vec<String> = Vec::new();
        for line in uplink.lines.iter().filter(|line| line.state == State::Up) {
            let claimed = line.names.iter().filter(|(_, claim)| **claim == Claim::Refused);
            refused.extend(claimed.map(|(name, _)| name.to_string()));
            refused.extend(
                line.heard
                    .iter()
                    .filter(|name| self.want(name).is_some())
                    .map(|name| name.to_string()),
            );
        }
        refused.sort();
        refused.dedup();
        Some(UplinkReport {
            router: to.addr.to_string(),
            lines: LINES as u64,
            lines_up: uplink.lines.iter().filter(|line| line.state == State::Up).count() as u64,
            queue_bytes: links.map(|link| (link.out.len() + link.in_flight) as u64).sum(),
            names: uplink.lines.iter().map(held).max().unwrap_or(0) as u64,
            refused,
        })
    }

    fn ask_bind(&mut self, at: usize, key: &str) {
        self.ask_router(at, Asked::Bind(key.into()), |out| edit::bind(out, Some(key)));
        if let Some(uplink) = &mut self.uplink {
            uplink.lines[at].names.insert(key.into(), Claim::Held);
        }
    }

    fn ask_unbind(&mut self, at: usize, key: &str) {
        self.ask_router(at, Asked::Unbind, |out| edit::unbind(out, key));
        if let Some(uplink) = &mut self.uplink {
            uplink.lines[at].names.remove(key);
        }
    }

    fn ask_mark(&mut self, at: usize, mark: Mark) {
        self.ask_router(at, Asked::Mark(mark), |out| edit::bind(out, None));
    }

    fn ask_router(&mut self, at: usize, asked: Asked, write: impl FnOnce(&mut Vec<u8>)) {
        let Some(line) = self.uplink.as_mut().map(|uplink| &mut uplink.lines[at]) else {
            return;
        };
        line.asked.push_back(asked);
        if let Some(link) = line.link {
            self.send(link, write);
        }
    }
}
