//! All shards of a node and the components at their links, in one thread.

use crate::config::Config;
use crate::node::Shard;
use crate::node::api::{Action, CloseCause, LinkId, LogLine, Micros};
use crate::node::cluster::Answer;
use crate::node::counters::{Counter, Counters};
use crate::node::image::{Former, Image, Restored};
use crate::table::ShardId;
use std::collections::HashMap;
use std::sync::Arc;

/// A component's end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct End(usize);

pub(super) struct World {
    pub(super) shards: Vec<Shard>,
    config: Arc<Config>,
    pub(super) now: Micros,
    ends: Vec<Option<(ShardId, LinkId)>>,
    /// What each component has read and not taken yet.
    inboxes: Vec<String>,
    by_link: HashMap<(ShardId, LinkId), End>,
    pub(super) log: Vec<LogLine>,
    /// To what an operator asked, by ticket.
    pub(super) answers: Vec<(u64, Answer)>,
    pub(super) alive: bool,
    /// Links that move stay under way until [`World::let_move`].
    pub(super) hold_moves: bool,
    moving: Vec<(ShardId, Action)>,
    /// Probes find no link.
    pub(super) probes_lost: bool,
    /// This component reads nothing.
    pub(super) stuck: Option<End>,
    stuck_chunk: Vec<u8>,
    /// What was written down.
    pub(super) file: Vec<u8>,
    /// Connections that were asked for, at shard 0.
    pub(super) dials: Vec<LinkId>,
}

impl World {
    pub(super) fn new(shards: ShardId) -> World {
        World::with(shards, |_| {})
    }

    pub(super) fn with(shards: ShardId, change: impl FnOnce(&mut Config)) -> World {
        let mut config = Config::embedded();
        change(&mut config);
        let config = Arc::new(config);
        World {
            shards: (0..shards)
                .map(|id| Shard::new(id, shards, config.clone(), [7; 32]))
                .collect(),
            config,
            now: 1,
            ends: Vec::new(),
            inboxes: Vec::new(),
            by_link: HashMap::new(),
            log: Vec::new(),
            answers: Vec::new(),
            alive: true,
            hold_moves: false,
            moving: Vec::new(),
            probes_lost: false,
            stuck: None,
            stuck_chunk: Vec::new(),
            file: Vec::new(),
            dials: Vec::new(),
        }
    }

    /// An authenticated native link.
    pub(super) fn connect(&mut self, user: &str) -> End {
        let link = self.shards[0].opened_as(self.now, user);
        self.end_of(link)
    }

    /// An authenticated XEP-0114 link of this name.
    pub(super) fn foreign(&mut self, name: &str) -> End {
        let link = self.shards[0].opened_foreign_as(self.now, name);
        let end = self.end_of(link);
        self.settle();
        end
    }

    /// Links that were held back arrive.
    pub(super) fn let_move(&mut self) {
        self.hold_moves = false;
        for (shard, action) in std::mem::take(&mut self.moving) {
            self.act(shard, action);
        }
        self.settle();
    }

    /// The component's socket breaks while this chunk is being written.
    pub(super) fn cut_writing(&mut self, end: End, chunk: &[u8], written: usize) {
        if let Some((shard, link)) = self.ends[end.0].take() {
            self.by_link.remove(&(shard, link));
            self.shards[usize::from(shard)].closed(self.now, link, CloseCause::Reset, chunk.to_vec(), written);
        }
        self.settle();
    }

    fn end_of(&mut self, link: LinkId) -> End {
        let end = End(self.ends.len());
        self.ends.push(Some((0, link)));
        self.inboxes.push(String::new());
        self.by_link.insert((0, link), end);
        end
    }

    /// The line to the stock router that is dialled next, logged in.
    pub(super) fn uplink_line(&mut self) -> End {
        let shard = &mut self.shards[0];
        shard.tick(self.now);
        let link = shard.uplink_logged_in(self.now);
        let end = self.end_of(link);
        self.settle();
        end
    }

    /// Nobody listens where connections were asked for. Returns how long it takes until the next is.
    pub(super) fn refuse_dials(&mut self, limit: Micros) -> Option<Micros> {
        for link in std::mem::take(&mut self.dials) {
            self.shards[0].closed(self.now, link, CloseCause::Refused, Vec::new(), 0);
        }
        self.settle();
        self.until_dialled(limit)
    }

    /// How long it takes until a connection is asked for.
    pub(super) fn until_dialled(&mut self, limit: Micros) -> Option<Micros> {
        let since = self.now;
        while self.dials.is_empty() && self.step(since + limit) {}
        (!self.dials.is_empty()).then(|| self.now - since)
    }

    /// A link that is not authenticated yet, from this address.
    pub(super) fn accept(&mut self, remote: &str) -> End {
        let link = self.shards[0].opened(self.now, remote.parse().unwrap());
        self.end_of(link)
    }

    pub(super) fn send(&mut self, end: End, bytes: &str) {
        if let Some((shard, link)) = self.ends[end.0] {
            self.shards[usize::from(shard)].received(self.now, link, bytes.as_bytes());
        }
        self.settle();
    }

    /// The stuck component reads what is under way to it.
    pub(super) fn unstick(&mut self) {
        let (Some(end), chunk) = (self.stuck.take(), std::mem::take(&mut self.stuck_chunk)) else {
            return;
        };
        if let Some((shard, link)) = self.ends[end.0] {
            self.shards[usize::from(shard)].written(self.now, link, chunk.len());
            self.inboxes[end.0].push_str(std::str::from_utf8(&chunk).unwrap());
        }
        self.settle();
    }

    /// The component's bytes are handled, but nothing that follows from them has reached another shard yet.
    pub(super) fn send_unsettled(&mut self, end: End, bytes: &str) {
        if let Some((shard, link)) = self.ends[end.0] {
            self.shards[usize::from(shard)].received(self.now, link, bytes.as_bytes());
        }
    }

    pub(super) fn is_open(&self, end: End) -> bool {
        self.ends[end.0].is_some()
    }

    /// The component's socket breaks.
    pub(super) fn cut(&mut self, end: End) {
        if let Some((shard, link)) = self.ends[end.0].take() {
            self.by_link.remove(&(shard, link));
            self.shards[usize::from(shard)].closed(self.now, link, CloseCause::Reset, Vec::new(), 0);
        }
        self.settle();
    }

    /// What the component has read since.
    pub(super) fn take(&mut self, end: End) -> String {
        std::mem::take(&mut self.inboxes[end.0])
    }

    /// Lets time pass.
    pub(super) fn pass(&mut self, micros: Micros) {
        let until = self.now + micros;
        while self.step(until) {}
        self.now = until;
    }

    /// One turn of every shard that has something to do until then. False when none has.
    pub(super) fn step(&mut self, until: Micros) -> bool {
        let next = self.shards.iter().filter_map(|shard| shard.deadline()).min();
        let Some(at) = next.filter(|at| *at <= until) else {
            return false;
        };
        self.now = self.now.max(at);
        for shard in &mut self.shards {
            if shard.deadline().is_some_and(|at| at <= self.now) {
                shard.tick(self.now);
            }
        }
        self.settle();
        true
    }

    pub(super) fn counters(&self) -> Counters {
        let mut sum = Counters::default();
        self.shards.iter().for_each(|shard| sum.merge(&shard.report().counters));
        sum
    }

    pub(super) fn count(&self, counter: Counter) -> u64 {
        self.counters().get(counter)
    }

    pub(super) fn sessions(&self) -> u64 {
        self.shards.iter().map(|shard| shard.report().sessions).sum()
    }

    /// Binds a name and swallows the answer.
    pub(super) fn component(&mut self, names: &[&str]) -> End {
        let end = self.connect("jabberd");
        for name in names {
            self.send(end, &bind(name));
        }
        end
    }

    /// Everything is written down, from now on what changes.
    pub(super) fn write_down(&mut self, anew: bool) {
        for shard in &mut self.shards {
            let mut anew = anew;
            loop {
                let notes = shard.take_notes(anew);
                assert!(!notes.lost);
                self.file.extend(notes.records);
                anew = false;
                if !notes.more {
                    break;
                }
            }
        }
    }

    /// The process dies; another one of so many shards begins with what was written down.
    pub(super) fn crash(&mut self, shards: ShardId) {
        let until = self.now + self.config.grace_ms * 1_000;
        let image = Image::recovered(&self.file, shards, until).unwrap();
        self.by_link.clear();
        self.ends.iter_mut().for_each(|end| *end = None);
        let config = self.config.clone();
        self.shards = (0..shards)
            .map(|id| Shard::new(id, shards, config.clone(), [9; 32]))
            .collect();
        for shard in &mut self.shards {
            assert!(shard.restore(self.now, &image).is_empty());
        }
        self.shards.iter_mut().for_each(|shard| shard.resume(self.now));
        self.settle();
    }

    /// Another process of so many shards takes over.
    pub(super) fn hand_over(&mut self, shards: ShardId) {
        let share = |shard: &Shard| crate::table::image::write(&shard.share(self.now, |_| (&[], 0)).unwrap()).unwrap();
        let written: Vec<Vec<u8>> = self.shards.iter().map(share).collect();
        let shares = written
            .iter()
            .map(|bytes| crate::table::image::read(bytes).unwrap())
            .collect();
        let image = Image::new(shares, shards).unwrap();
        let former: HashMap<Former, End> = self
            .by_link
            .drain()
            .map(|((shard, link), end)| (Former::new(shard, link), end))
            .collect();
        let config = self.config.clone();
        self.shards = (0..shards)
            .map(|id| Shard::new(id, shards, config.clone(), [8; 32]))
            .collect();
        for id in 0..shards {
            for Restored { former: was, link, .. } in self.shards[usize::from(id)].restore(self.now, &image) {
                let end = former[&was];
                self.ends[end.0] = Some((id, link));
                self.by_link.insert((id, link), end);
            }
        }
        self.shards.iter_mut().for_each(|shard| shard.resume(self.now));
        self.settle();
    }

    /// All shards read a changed configuration.
    pub(super) fn reload(&mut self, change: impl FnOnce(&mut Config)) {
        let mut config = Config::embedded();
        change(&mut config);
        let config = Arc::new(config);
        for shard in &mut self.shards {
            shard.reload(self.now, config.clone());
        }
        self.settle();
    }

    /// Plays the shards until nothing more follows.
    pub(super) fn rest(&mut self) {
        self.settle();
    }

    fn settle(&mut self) {
        for _ in 0..10_000 {
            let mut quiet = true;
            for id in 0..self.shards.len() {
                let mut actions = Vec::new();
                self.shards[id].take_actions(&mut actions);
                for action in actions {
                    quiet = false;
                    self.act(ShardId::try_from(id).unwrap(), action);
                }
            }
            let count = ShardId::try_from(self.shards.len()).unwrap();
            for to in 0..count {
                let (mut control, mut data) = (Vec::new(), Vec::new());
                for from in 0..count {
                    let source = &mut self.shards[usize::from(from)];
                    if let Some(batch) = source.take_data(to) {
                        data.push((from, batch));
                    }
                }
                for from in 0..count {
                    let messages = self.shards[usize::from(from)].take_control(to);
                    if !messages.is_empty() {
                        control.push((from, messages));
                    }
                }
                if !control.is_empty() || !data.is_empty() {
                    quiet = false;
                    self.shards[usize::from(to)].lanes(self.now, &mut control, &mut data);
                }
            }
            if quiet {
                return;
            }
        }
        panic!("the shards never come to rest");
    }

    fn act(&mut self, shard: ShardId, action: Action) {
        match action {
            Action::Output(link) if self.stuck.is_some() && self.by_link.get(&(shard, link)) == self.stuck.as_ref() => {
                // Its kernel takes nothing either: the first chunk stays in flight.
                if self.stuck_chunk.is_empty() {
                    self.shards[usize::from(shard)].take_output(self.now, link, &mut self.stuck_chunk);
                }
            }
            Action::Output(link) => {
                let mut chunk = Vec::new();
                self.shards[usize::from(shard)].take_output(self.now, link, &mut chunk);
                self.shards[usize::from(shard)].written(self.now, link, chunk.len());
                if let Some(end) = self.by_link.get(&(shard, link)) {
                    self.inboxes[end.0].push_str(std::str::from_utf8(&chunk).unwrap());
                }
            }
            Action::Close(link) | Action::Abort(link) => {
                self.act(shard, Action::Output(link));
                let end = self.by_link.remove(&(shard, link));
                if let Some(end) = end {
                    self.ends[end.0] = None;
                }
                let unsent = match end.is_some() && end == self.stuck {
                    true => std::mem::take(&mut self.stuck_chunk),
                    false => Vec::new(),
                };
                self.shards[usize::from(shard)].closed(self.now, link, CloseCause::Local, unsent, 0);
            }
            action @ Action::Move { .. } if self.hold_moves => self.moving.push((shard, action)),
            Action::Move { link, to, cargo } => {
                let end = self.by_link.remove(&(shard, link)).unwrap();
                let new = self.shards[usize::from(to)].adopt(self.now, cargo);
                self.ends[end.0] = Some((to, new));
                self.by_link.insert((to, new), end);
                self.act(to, Action::Output(new));
            }
            Action::Probe(_) if self.probes_lost => {}
            Action::Probe(link) => {
                let alive = self.alive;
                self.shards[usize::from(shard)].probed(self.now, link, alive);
            }
            Action::Log(line) => self.log.push(line),
            Action::Answer { ticket, answer } => self.answers.push((ticket, answer)),
            Action::Pause(_)
            | Action::Resume(_)
            | Action::StartTls(_)
            | Action::StartTlsAsClient(_)
            | Action::Append { .. } => {}
            Action::Dial { link, .. } => self.dials.push(link),
        }
    }
}

pub(super) const COMP: &str = "http://jabberd.jabberstudio.org/ns/component/1.0";
pub(super) const SESS: &str = "http://jabberd.jabberstudio.org/ns/session/1.0";

/// A bind; a name that begins with `*` is bound with `multi`.
pub(super) fn bind(name: &str) -> String {
    match name.strip_prefix('*') {
        Some(name) => format!("<bind xmlns='{COMP}' name='{name}' multi='to'/>"),
        None => format!("<bind xmlns='{COMP}' name='{name}'/>"),
    }
}

pub(super) fn route(from: &str, to: &str, payload: &str) -> String {
    format!("<route xmlns='{COMP}' from='{from}' to='{to}'>{payload}</route>")
}

pub(super) fn message(from: &str, to: &str, body: &str) -> String {
    format!("<message xmlns='jabber:client' from='{from}' to='{to}'><body>{body}</body></message>")
}

pub(super) fn start(number: u32, target: &str, id: &str) -> String {
    format!("<sc:session xmlns:sc='{SESS}' id='{id}' target='{target}' action='start' sc:c2s='{number}'/>")
}

pub(super) fn started(number: u32, target: &str, id: &str, token: &str) -> String {
    format!(
        "<sc:session xmlns:sc='{SESS}' sc:sm='{token}' id='{id}' target='{target}' action='started' sc:c2s='{number}'/>"
    )
}

pub(super) fn control(action: &str, number: u32, token: &str) -> String {
    format!("<sc:session xmlns:sc='{SESS}' action='{action}' sc:sm='{token}' sc:c2s='{number}'/>")
}

/// A stanza of a client, as c2s hands it to sm.
pub(super) fn from_client(number: u32, token: &str, stanza: &str) -> String {
    let at = stanza.find([' ', '/', '>']).unwrap();
    format!(
        "{} xmlns:sc='{SESS}' xmlns='jabber:client' sc:sm='{token}' sc:c2s='{number}'{}",
        &stanza[..at],
        &stanza[at..]
    )
}
