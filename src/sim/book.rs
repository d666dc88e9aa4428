//! The book of everything that must not be lost: numbered messages, starts, presence; and what was inside a broken
//! connection or a dead process, and so may be.

use super::part::Body;
use super::text::{DOMAIN, bare};
use super::world::World;
use crate::node::api::Micros;
use std::collections::{BTreeMap, BTreeSet};

/// A session, as sm tells one from another: c2s (by its name everywhere), number, sm-side id.
pub(super) type Said = (String, u32, String);

/// A numbered message.
#[derive(Debug, Default)]
pub(super) struct Message {
    pub(super) from: String,
    pub(super) to: String,
    pub(super) delivered: Vec<String>,
    pub(super) stored: bool,
    /// It is in the store now.
    is_kept: bool,
    /// Its sender, or the sender's sm, got an error.
    pub(super) bounced: bool,
    /// Inside a broken connection or a dead process.
    pub(super) lost: bool,
    /// Thrown away by a c2s whose client had just left, or said by a client whose session was over already.
    pub(super) missed: bool,
    /// The client that said it, until his sm has it.
    said_by: Option<usize>,
    /// The session it was said in.
    said_in: Said,
    /// How often an sm worked on it for its receiver: more than once when it was given to him again.
    worked_on: u32,
    /// When something last became of it.
    touched: Micros,
    /// An sm was silent for longer than a fence is waited for: it may be overtaken.
    unordered: bool,
    /// A router died that may have passed it on without a word: it may come again, and late.
    pub(super) doubtful: bool,
}

/// The book.
#[derive(Debug, Default)]
pub(super) struct Book {
    pub(super) messages: Vec<Message>,
    /// The last message from somebody to an address that a receiver got.
    last: BTreeMap<(String, String, String), usize>,
    lost_starts: BTreeSet<String>,
    /// When presence about one user, meant for another, was lost.
    lost_presence: BTreeMap<(String, String), Micros>,
    /// Sessions that are over.
    over: BTreeSet<Said>,
    /// Presence of a client was lost on its way to his sm.
    pub(super) lost_change: bool,
    /// Users for whom a node went on without the answer of an sm that was too slow.
    pub(super) impatient: BTreeSet<String>,
    /// An s2s was given up: what waited for it came back to its senders.
    pub(super) exit_lost: bool,
    /// Sessions that c2s left behind.
    pub(super) ghosts: u64,
    /// When presence about one user was last sent to another.
    presence_sent: BTreeMap<(String, String), Micros>,
    pub(super) now: Micros,
    /// An sm is silent until then, for longer than a fence is waited for.
    silent_until: Micros,
    /// What goes by a node that has just died finds another way only when that is known.
    detour_until: Micros,
    /// What is under way until then may come twice: nodes may believe each other dead that are not.
    doubt_until: Micros,
}

/// An sm that was silent has done all it was given before, this long after.
const LATE_US: Micros = 5_000_000;

/// An address of a domain that is nowhere.
pub(super) const NOBODY: &str = "nobody@nowhere.test";

/// What a router did so shortly before its death may be unknown to the others.
const UNCERTAIN_US: Micros = 3_000_000;

impl Book {
    /// A new message; its number.
    pub(super) fn message(&mut self, from: &str, to: &str) -> usize {
        self.messages.push(Message {
            from: from.into(),
            to: to.into(),
            doubtful: self.now < self.doubt_until,
            unordered: self.now < self.silent_until.max(self.detour_until),
            ..Message::default()
        });
        self.messages.len() - 1
    }

    /// A message reached somebody. `several`: it may reach several of his resources.
    pub(super) fn delivered(&mut self, number: usize, to: &str, several: bool) -> Result<(), String> {
        let message = &mut self.messages[number];
        message.touched = self.now;
        let again = several && message.worked_on > 1 || message.doubtful;
        let anew = |other: &String| (other == to || !several) && !again;
        if message.delivered.iter().any(anew) {
            let before = &message.delivered;
            return Err(format!(
                "P2: message {number} from {} to {} reached {to} after {before:?}",
                message.from, message.to
            ));
        }
        message.delivered.push(to.into());
        // sm hands what names a session to it before its first presence; what was stored for want of one comes later.
        let key = (message.from.clone(), message.to.clone(), to.into());
        let last = self.last.entry(key).or_insert(number);
        let overtaken = message.stored && message.to.contains('/') || message.worked_on > 1;
        if *last > number && !message.lost && !message.doubtful && !message.unordered && !overtaken {
            return Err(format!(
                "P3: {to} got message {number} of {} after {last}",
                message.from
            ));
        }
        *last = number.max(*last);
        Ok(())
    }

    pub(super) fn stored(&mut self, number: usize) {
        self.messages[number].stored = true;
        self.messages[number].is_kept = true;
        self.messages[number].touched = self.now;
    }

    /// An sm took a message out of the store. One that it had not read was stored by another sm meanwhile, which only nodes
    /// that hold each other for dead allow.
    pub(super) fn taken_out(&mut self, number: usize, read: bool) {
        let message = &mut self.messages[number];
        message.is_kept = false;
        message.touched = self.now;
        message.missed |= !read && message.doubtful;
    }

    pub(super) fn bounced(&mut self, number: usize) {
        self.messages[number].bounced = true;
    }

    /// A client says a message in a session.
    pub(super) fn said_by(&mut self, number: usize, client: usize, session: Said) {
        self.messages[number].said_by = Some(client);
        self.messages[number].said_in = session;
    }

    /// An sm starts a session. Within a second one may have the same name again.
    pub(super) fn session_begins(&mut self, session: &Said) {
        if self.over.contains(session) {
            for number in 0..self.messages.len() {
                let message = &self.messages[number];
                let unheard = message.said_in == *session && self.is_nobodys(message);
                self.messages[number].missed |= unheard;
            }
            self.over.remove(session);
        }
    }

    pub(super) fn session_ends(&mut self, session: Said) {
        self.over.insert(session);
    }

    pub(super) fn is_over(&self, session: &Said) -> bool {
        self.over.contains(session)
    }

    /// A message of a sender whose session is over, that never reached his sm, or that nobody can get: there is none left
    /// to be told.
    pub(super) fn is_nobodys(&self, message: &Message) -> bool {
        let comes_back = message.to == NOBODY || self.exit_lost && message.to.contains("@ext");
        (message.said_by.is_some() || comes_back) && self.over.contains(&message.said_in)
    }

    /// Nobody is there who could store, deliver or return what `which` says of under-way messages.
    pub(super) fn nobody_there(&mut self, which: impl Fn(&Message) -> bool) {
        let under_way = |message: &&mut Message| message.delivered.is_empty() && which(message);
        self.messages
            .iter_mut()
            .filter(under_way)
            .for_each(|message| message.missed = true);
    }

    /// Nodes may believe each other dead until then though they are not. What one had sent and not seen acknowledged goes
    /// another way, and the first way may still have an end.
    pub(super) fn doubt(&mut self, until: Micros) {
        self.doubt_until = self.doubt_until.max(until);
        let since = self.now.saturating_sub(UNCERTAIN_US);
        for message in &mut self.messages {
            message.doubtful |= message.touched >= since || message.delivered.is_empty() && !message.is_kept;
        }
    }

    /// An sm says nothing until then, for longer than a fence is waited for: what it has of a user may come behind what
    /// another sm was given for him since.
    pub(super) fn silence(&mut self, until: Micros) {
        self.silent_until = self.silent_until.max(until);
        for message in &mut self.messages {
            message.unordered |= message.delivered.is_empty();
        }
    }

    /// A node is dead, which the others know by then. What is under way there goes another way, behind what a sender who
    /// has moved meanwhile sends from elsewhere.
    pub(super) fn detour(&mut self, until: Micros) {
        self.detour_until = self.detour_until.max(until);
    }

    /// A node goes on with a user without the answer that would have kept the order: what is under way to him may come
    /// behind what is newer.
    pub(super) fn goes_on(&mut self, user: &str) {
        let under_way = |message: &&mut Message| message.delivered.is_empty() && bare(&message.to) == user;
        let under_way = self.messages.iter_mut().filter(under_way);
        under_way.for_each(|message| message.unordered = true);
    }

    /// An sm was silent for too long, and may still have what it was given before.
    pub(super) fn is_late(&self) -> bool {
        self.silent_until > 0 && self.now < self.silent_until + LATE_US
    }

    /// A router died: what it had in hand, nobody knows.
    pub(super) fn uncertain(&mut self) {
        let since = self.now.saturating_sub(UNCERTAIN_US);
        for message in &mut self.messages {
            let under_way = message.delivered.is_empty() && !message.is_kept;
            message.lost |= under_way;
            message.doubtful |= under_way || message.touched >= since;
        }
        let recent = self.presence_sent.iter().filter(|(_, at)| **at >= since);
        let recent = recent.map(|(pair, _)| (pair.clone(), self.now));
        self.lost_presence.extend(recent);
        self.lost_change = true;
    }

    pub(super) fn excuse_start(&mut self, id: &str) {
        self.lost_starts.insert(id.to_owned());
    }

    /// His sm has it.
    pub(super) fn heard(&mut self, number: usize) {
        self.messages[number].said_by = None;
    }

    /// A client was thrown out: what he said and his sm has not got may go nowhere.
    pub(super) fn speechless(&mut self, client: usize) {
        let unheard = self
            .messages
            .iter_mut()
            .filter(|message| message.said_by == Some(client));
        unheard.for_each(|message| message.missed = true);
    }

    /// The receiver's sm works on a message.
    pub(super) fn worked_on(&mut self, number: usize) {
        self.messages[number].worked_on += 1;
    }

    pub(super) fn missed(&mut self, number: usize) {
        self.messages[number].missed = true;
    }

    pub(super) fn is_excused_start(&self, id: &str) -> bool {
        self.lost_starts.contains(id)
    }

    /// What `viewer` has been told about `about` so far may be wrong, and nobody will tell him.
    pub(super) fn blinded(&mut self, viewer: &str, about: &str) {
        self.lost_presence
            .insert((viewer.to_owned(), about.to_owned()), self.now);
    }

    /// Presence about `about` for `viewer` was lost after this time.
    pub(super) fn is_blind(&self, viewer: &str, about: &str, since: Micros) -> bool {
        self.lost_presence
            .get(&(viewer.to_owned(), about.to_owned()))
            .is_some_and(|at| *at >= since)
    }
}

impl World {
    /// These bytes were inside a broken connection.
    pub(super) fn lost(&mut self, conn: usize, bytes: &str) {
        if let Some(part) = self.conns[conn].part() {
            self.lost_by(part, bytes);
        }
    }

    /// These frames were inside the broken connection of this component, or died with it.
    pub(super) fn lost_by(&mut self, part: usize, bytes: &str) {
        let of_c2s = matches!(self.parts[part].body, Body::C2s(_));
        for frame in bytes.split("<route ").skip(1) {
            self.note(|| format!("lost with part {part}: {frame}"));
            let payload = frame.split_once('>').map_or("", |(_, rest)| rest);
            let (id, to, from) = (
                attribute(payload, "id"),
                attribute(payload, "to"),
                attribute(payload, "from"),
            );
            if payload.starts_with("<message")
                && let Some(number) = id.and_then(|id| id.strip_prefix('m')?.parse::<usize>().ok())
            {
                self.book.messages[number].lost = true;
                self.summary.excused += 1;
            }
            if payload.contains("action='start") && of_c2s {
                self.book.lost_starts.extend(id.map(str::to_owned));
            }
            if payload.starts_with("<presence") {
                self.lost_presence(payload, to, from);
            }
        }
    }

    fn lost_presence(&mut self, payload: &str, to: Option<&str>, from: Option<&str>) {
        let Some(pair) = self.viewer_of(payload, to, from) else {
            self.book.lost_change |= to.is_none();
            return;
        };
        self.book.lost_presence.insert(pair, self.now);
    }

    /// Presence is on its way.
    pub(super) fn presence_sent(&mut self, frame: &str) {
        let payload = frame.split_once('>').map_or("", |(_, rest)| rest);
        if payload.starts_with("<presence")
            && let Some(pair) = self.viewer_of(payload, attribute(payload, "to"), attribute(payload, "from"))
        {
            self.book.presence_sent.insert(pair, self.now);
        }
    }

    /// Who should hear about whom of this presence.
    fn viewer_of(&self, payload: &str, to: Option<&str>, from: Option<&str>) -> Option<(String, String)> {
        let to = to.map(bare)?;
        let users: Vec<String> = (0..self.plan.users).map(super::sm::user_jid).collect();
        let viewer = |one: &str, other: &str| (one.to_owned(), other.to_owned());
        let about = from.map_or(DOMAIN, bare);
        // A lost probe blinds the asker; a lost answer or broadcast him who should have read it.
        let pair = if payload.contains("type='probe'") {
            viewer(about, to)
        } else {
            viewer(to, about)
        };
        users.contains(&pair.0).then_some(pair)
    }
}

fn attribute<'a>(tag: &'a str, name: &str) -> Option<&'a str> {
    let tag = tag.split_once('>').map_or(tag, |(tag, _)| tag);
    let at = tag.find(&format!(" {name}='"))? + name.len() + 3;
    tag[at..].split('\'').next()
}
