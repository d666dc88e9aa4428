//! A component's seat: its names, its queue, its clients.

use super::Shard;
use super::api::{LinkId, Micros};
use super::link::Who;
use super::question::{Inquiry, Question};
use super::recall::Recalls;
use super::redirect::ToldTo;
use super::report::{NameReport, SeatReport};
use super::unanswered::Unanswered;
use crate::table::clients::{Client, Clients};
use crate::table::image::bytes;
use crate::table::names::Multi;
use crate::table::{PeerId, SeatId, SeatKind, Token};
use crate::wire::accept::PeerKind;
use crate::wire::value::Value;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::net::SocketAddr;

/// How long a dismissed client is remembered, microseconds, and how many of one c2s: what it said before it was closed
/// is under way no longer than this.
const DISMISSED_US: Micros = 60_000_000;
const DISMISSED_MAX: usize = 4_096;

/// Whether a seat's component is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Life {
    /// Its link works.
    Live,
    /// Its link is lost; it may come back until then.
    Lost {
        /// End of the grace period.
        until: Micros,
    },
    /// It came back; whether it is the same process is being asked, and its queue waits for the answer.
    Asking(Box<Inquiry>),
}

/// A component at its home shard.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Seat {
    pub(super) kind: SeatKind,
    pub(super) id: Box<str>,
    pub(super) names: Vec<Box<str>>,
    pub(super) who: Who,
    /// It stands for a component of that node, which numbers it so: what is put here crosses to it.
    pub(super) abroad: Option<(PeerId, SeatId)>,
    /// Its component is at the stock router (attached mode): its link is the uplink's, and not its own.
    #[serde(default)]
    pub(super) behind: bool,
    #[serde(skip)]
    pub(super) link: Option<LinkId>,
    pub(super) remote: SocketAddr,
    pub(super) life: Life,
    /// Frames that wait: while the link is lost, while it is asked about, while the component throttles.
    #[serde(with = "bytes")]
    pub(super) queue: Vec<u8>,
    /// What is to be taken back from there.
    #[serde(skip)]
    pub(super) recalls: Recalls,
    #[serde(default)]
    pub(super) redirects: ToldTo,
    pub(super) throttled: bool,
    /// Its first bind is answered: adverts may follow.
    pub(super) greeted: bool,
    /// It may hold sessions of c2s that a former life of this node knew, and this one has yet to hear of.
    #[serde(skip)]
    pub(super) outlived: bool,
    /// So many sessions of its clients were known before a crash, and it has yet to say which it still has.
    #[serde(default)]
    pub(super) recovered: Option<usize>,
    /// An [image](super::image) has them packed.
    #[serde(skip)]
    pub(super) clients: Clients,
    /// Sessions whose clients have sent nothing yet: (registered at, number, sm-side id), oldest first.
    pub(super) unproven: VecDeque<(Micros, u32, Token)>,
    /// Clients that sm ended or replaced lately, and when: c2s knows, and what they said before is nobody's.
    pub(super) dismissed: VecDeque<(Micros, u32, Token)>,
    /// Sessions to ask their c2s about, as soon as there is room among those asked: (number, sm-side id).
    pub(super) doubts: VecDeque<(u32, Token)>,
    /// Questions about single sessions that a c2s has not answered, oldest first.
    pub(super) asked: VecDeque<Question>,
    /// The id of the questions that an sm was asked when it last came back.
    pub(super) question: Option<Token>,
    /// Said to an sm, and not answered.
    pub(super) unanswered: Unanswered,
    /// Names of its former life that it has not bound again, and until when it may.
    pub(super) unclaimed: Option<(Micros, Vec<Box<str>>)>,
    /// When its wrong `from` was last complained about.
    pub(super) complained_at: Option<Micros>,
    /// The component closed its stream in order.
    pub(super) leaves: bool,
    /// When its full queue was last complained about.
    pub(super) warned_at: Option<Micros>,
    pub(super) frames_in: u64,
    pub(super) frames_out: u64,
    pub(super) returns: u64,
    pub(super) since: Micros,
    /// A contest of its link is to be decided at this time.
    #[serde(skip)]
    pub(super) contested: Option<Micros>,
}

impl Seat {
    pub(super) fn new(kind: SeatKind, id: &str, who: Who, remote: SocketAddr, now: Micros) -> Seat {
        Seat {
            kind,
            id: id.into(),
            names: vec![id.into()],
            who,
            abroad: None,
            behind: false,
            link: None,
            remote,
            life: Life::Live,
            queue: Vec::new(),
            recalls: Recalls::default(),
            redirects: ToldTo::default(),
            throttled: false,
            greeted: false,
            outlived: false,
            recovered: None,
            clients: Clients::default(),
            unproven: VecDeque::new(),
            dismissed: VecDeque::new(),
            doubts: VecDeque::new(),
            asked: VecDeque::new(),
            question: None,
            unanswered: Unanswered::default(),
            unclaimed: None,
            complained_at: None,
            leaves: false,
            warned_at: None,
            frames_in: 0,
            frames_out: 0,
            returns: 0,
            since: now,
            contested: None,
        }
    }

    /// A seat that stands for a component of another node.
    pub(super) fn abroad(
        kind: SeatKind,
        id: &str,
        who: Who,
        remote: SocketAddr,
        now: Micros,
        at: (PeerId, SeatId),
    ) -> Seat {
        Seat {
            abroad: Some(at),
            names: Vec::new(),
            ..Seat::new(kind, id, who, remote, now)
        }
    }

    pub(super) fn is_foreign(&self) -> bool {
        matches!(self.who.kind, PeerKind::Foreign { .. })
    }

    /// The component holds the name that stands in a route's `from`.
    pub(super) fn owns(&self, from: Value<'_>) -> bool {
        if self.names.iter().any(|name| name.as_bytes() == from.0) {
            return true;
        }
        let Some(text) = from.unescape() else { return false };
        crate::jid::domain_key(&text).is_some_and(|key| self.names.iter().any(|name| **name == *key))
    }

    /// A client of this c2s says something in a session: it is no ghost, and its c2s has it. `None`: there is no such
    /// session.
    #[inline]
    pub(super) fn hear(&mut self, number: u32, token: &Token) -> Option<&mut Client> {
        let client = self.clients.get_mut(number, token)?;
        client.active = true;
        client.doubted = false;
        Some(client)
    }

    /// c2s is told that this client's session is over: it closes the client, whose number is free at once.
    pub(super) fn dismiss(&mut self, now: Micros, number: u32, token: Token) {
        let old = |(at, ..): &(Micros, u32, Token)| at + DISMISSED_US <= now;
        while self.dismissed.front().is_some_and(old) || self.dismissed.len() >= DISMISSED_MAX {
            self.dismissed.pop_front();
        }
        self.dismissed.push_back((now, number, token));
    }

    /// c2s was told, or is being told, that this client's session is over.
    pub(super) fn is_dismissed(&self, now: Micros, number: u32, token: &Token) -> bool {
        self.dismissed
            .iter()
            .any(|(at, other, of)| now < at + DISMISSED_US && *other == number && of == token)
    }

    /// Frames go to the queue, not to the link.
    pub(super) fn waits(&self) -> bool {
        self.throttled || self.life != Life::Live
    }
}

impl Shard {
    pub(super) fn report_seat(&self, seat: &Seat) -> SeatReport {
        let link = seat.link.and_then(|id| self.link(id));
        SeatReport {
            id: seat.id.to_string(),
            kind: seat.kind.word(),
            state: if matches!(seat.life, Life::Lost { .. }) {
                "lost"
            } else {
                "connected"
            },
            remote: seat.remote.to_string(),
            user: seat.who.user().to_owned(),
            shard: self.id,
            tls: link.is_some_and(|link| link.tls),
            // The uplink's own bytes are everybody's who is behind it.
            queue_bytes: match seat.behind {
                true => seat.queue.len() as u64,
                false => (seat.queue.len() + link.map_or(0, |link| link.out.len() + link.in_flight)) as u64,
            },
            frames_in: seat.frames_in,
            frames_out: seat.frames_out,
            sessions: seat.clients.len() as u64,
            returns: seat.returns,
            since_us: seat.since,
        }
    }

    pub(super) fn report_names(&self) -> Vec<NameReport> {
        let id_of = |seat: &SeatId| {
            self.names
                .seat(*seat)
                .map_or_else(String::new, |view| view.id.to_string())
        };
        let bound = self.names.iter().map(|(key, name)| NameReport {
            name: key.to_owned(),
            holders: name.holders.iter().map(id_of).collect(),
            clustered: name.multi == Multi::To,
            default_route: name.holders.iter().any(|seat| self.names.marks(key, *seat).0),
            log_sink: name.holders.iter().any(|seat| self.names.marks(key, *seat).1),
            alias_of: self.names.alias_target(key).map(str::to_owned),
        });
        let idle = self.names.aliases().filter(|(name, _)| self.names.get(name).is_none());
        let aliases = idle.map(|(name, target)| NameReport {
            name: name.to_owned(),
            holders: Vec::new(),
            clustered: false,
            default_route: false,
            log_sink: false,
            alias_of: Some(target.to_owned()),
        });
        bound.chain(aliases).collect()
    }
}
