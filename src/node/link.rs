//! A link's life: its place, its output, its way to another shard, its end.

use super::api::{Action, CloseCause, Level, LinkId, Micros};
use super::cluster::Dialling;
use super::counters::Counter;
use super::express::Courses;
use super::{Shard, cause_text};
use crate::mesh::conn::Conn;
use crate::mesh::hello::Address;
use crate::mesh::peer::Reach;
use crate::table::{PeerId, SeatId};
use crate::wire::accept::{Accept, PeerKind};
use crate::wire::connect::Connect;
use crate::wire::scan::Scanner;
use crate::wire::stream;
use crate::wire::validate::Prefixes;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// Where a link stands.
#[derive(Debug)]
pub(super) enum Stage {
    /// The slot is free.
    Free,
    /// Not authenticated yet.
    Negotiating(Box<Accept>),
    /// Authenticated, without a name: on shard 0.
    Unseated,
    /// Its first bind waits until the seat's former link is proved dead or alive: on shard 0.
    Contending {
        /// The seat.
        seat: SeatId,
        /// The bind, empty for a XEP-0114 component.
        bind: Box<[u8]>,
    },
    /// Adopted, but the message about its seat has not come yet.
    Arriving,
    /// Serves a seat.
    Seated {
        /// The seat.
        seat: SeatId,
        /// A bind or unbind of it is being judged: its further frames wait.
        asking: bool,
    },
    /// To another node, which is not known yet; dialled as the probe of this index.
    Stranger(Box<Conn>, Option<usize>),
    /// A connection to another node is being opened.
    Dialling(Dialling),
    /// Serves a peer.
    Peer(PeerId),
    /// The uplink's line of this index, as long as it is not logged in with its login.
    Uplink(usize, Option<Box<Connect>>),
    /// Handed to another shard as soon as the frames in hand are done.
    Leaving,
    /// Asked the shell to close it; nothing more is read. What it does not take any more is its seat's again.
    Closing {
        /// The seat that it served.
        seat: Option<SeatId>,
    },
}

/// One TCP connection of a component.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) generation: u32,
    pub(super) remote: SocketAddr,
    pub(super) stage: Stage,
    pub(super) peer: Option<Who>,
    pub(super) tls: bool,
    pub(super) out: Vec<u8>,
    pub(super) in_flight: usize,
    /// Routes that came before the component was authenticated: handled behind its first bind.
    pub(super) early: Vec<u8>,
    pub(super) scanner: Option<Scanner>,
    pub(super) carry: Vec<u8>,
    pub(super) courses: Courses,
    pub(super) opened_at: Micros,
    pub(super) progress_at: Micros,
    pub(super) paused: bool,
    /// Why jidmesh ends it, once it does.
    pub(super) ending: Option<super::closed::Ending>,
}

/// Who authenticated over a link.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Who {
    pub(super) kind: PeerKind,
    pub(super) prefixes: Prefixes,
    /// Its frames may lean on what its stream header declares, beyond what jabberd2's own components declare there.
    pub(super) leans: bool,
}

impl Who {
    pub(super) fn new(kind: PeerKind, prefixes: Prefixes) -> Who {
        let leans = matches!(kind, PeerKind::Native { .. })
            && prefixes
                .iter()
                .any(|(prefix, _)| !matches!(prefix, "stream" | "ack" | "xml" | ""));
        Who { kind, prefixes, leans }
    }
}

impl Link {
    /// When the last bytes were written.
    pub(super) fn idle_since(&self) -> Micros {
        self.progress_at
    }

    /// Its frames are not in hand at present.
    pub(super) fn has_scanner(&self) -> bool {
        self.scanner.is_some()
    }
}

impl Who {
    pub(super) fn user(&self) -> &str {
        match &self.kind {
            PeerKind::Native { user } => user,
            PeerKind::Foreign { .. } => "",
        }
    }
}

/// A link's state on its way to another shard.
#[derive(Debug)]
pub struct Cargo(Kind);

#[derive(Debug)]
enum Kind {
    Component(Box<Luggage>),
    Peer(SocketAddr, PeerCargo),
}

/// A link to another node, on its way to that node's home.
#[derive(Debug)]
pub(super) struct PeerCargo {
    pub(super) peer: PeerId,
    pub(super) conn: Box<Conn>,
    /// Where it was reached.
    pub(super) address: Option<Address>,
}

impl Cargo {
    pub(super) fn of_peer(remote: SocketAddr, cargo: PeerCargo) -> Cargo {
        Cargo(Kind::Peer(remote, cargo))
    }
}

/// A component's link on its way.
#[derive(Debug)]
pub(super) struct Luggage {
    pub(super) seat: SeatId,
    pub(super) back: bool,
    pub(super) bind: Box<[u8]>,
    remote: SocketAddr,
    who: Who,
    tls: bool,
    out: Vec<u8>,
    early: Vec<u8>,
    pub(super) scanner: Option<Scanner>,
    carry: Vec<u8>,
}

impl Shard {
    /// The link's socket is gone. `unsent` is the chunk whose write was in flight (empty if none) and `written` how
    /// many of its bytes the kernel took.
    pub fn closed(&mut self, now: Micros, id: LinkId, cause: CloseCause, unsent: Vec<u8>, written: usize) {
        let Some(link) = self.link_mut(id) else { return };
        let (remote, opened_at) = (link.remote, link.opened_at);
        let stage = std::mem::replace(&mut link.stage, Stage::Free);
        let ending = link.ending.take();
        let pending = std::mem::take(&mut link.out);
        link.generation += 1;
        link.scanner = None;
        link.carry = Vec::new();
        link.courses = Courses::default();
        self.free_links.push(id.slot);
        let of_component = !matches!(
            stage,
            Stage::Peer(_) | Stage::Stranger(..) | Stage::Uplink(..) | Stage::Dialling(_)
        );
        self.counters.add(Counter::LinksClosed, u64::from(of_component));
        self.note_closed(now, ending, &stage, &cause, (remote, opened_at));
        match stage {
            Stage::Seated { seat, .. } => self.link_lost(now, seat, id, &cause, (unsent, written), pending),
            Stage::Closing { seat } => {
                self.log(Level::Info, Some(remote), "closed".into());
                if let Some(seat) = seat {
                    self.left_over(now, seat, (unsent, written), &pending);
                }
            }
            Stage::Uplink(at, _) | Stage::Dialling(Dialling::Uplink(at)) => {
                self.uplink_lost(now, at, &cause, (unsent, written), &pending);
            }
            Stage::Peer(_) | Stage::Dialling(_) | Stage::Stranger(..) => self.peer_link_closed(now, stage, id, &cause),
            _ => self.log(
                Level::Info,
                Some(remote),
                format!("disconnect: {}", cause_text(&cause, "component")),
            ),
        }
    }

    /// A link handed over by another shard ([`Action::Move`]).
    #[allow(clippy::boxed_local)] // It comes as the shell carries it.
    pub fn adopt(&mut self, now: Micros, cargo: Box<Cargo>) -> LinkId {
        let mut cargo = match cargo.0 {
            Kind::Component(luggage) => luggage,
            Kind::Peer(remote, PeerCargo { peer, conn, address }) => {
                self.note_time(now);
                let id = self.insert_link(now, remote, Stage::Peer(peer));
                self.attach_peer(now, id, peer, Reach::Direct, *conn, address);
                return id;
            }
        };
        let id = self.insert_link(now, cargo.remote, Stage::Arriving);
        if let Some(link) = self.link_mut(id) {
            link.peer = Some(cargo.who.clone());
            link.tls = cargo.tls;
            link.out = std::mem::take(&mut cargo.out);
            link.early = std::mem::take(&mut cargo.early);
            link.scanner = cargo.scanner.take();
            link.carry = std::mem::take(&mut cargo.carry);
        }
        if self.names.seat(cargo.seat).is_some() {
            self.take_seat(now, id, &cargo);
        } else {
            self.early.push((id, cargo));
        }
        id
    }

    /// The bytes to write next: `into` must be empty, its capacity is kept for later output. Called only when the
    /// chunk taken before was written to its end.
    pub fn take_output(&mut self, now: Micros, id: LinkId, into: &mut Vec<u8>) {
        debug_assert!(into.is_empty());
        match self.link_mut(id).map(|link| &mut link.stage) {
            Some(Stage::Stranger(conn, _)) => return conn.take_output(into),
            Some(Stage::Peer(peer)) => {
                let peer = *peer;
                return self.peer_output(peer, id, into);
            }
            _ => {}
        }
        let Some(link) = self.link_mut(id) else { return };
        std::mem::swap(&mut link.out, into);
        link.in_flight = into.len();
        if link.out.capacity() > OUT_KEEP_BYTES {
            link.out = Vec::new();
        }
        if !into.is_empty() {
            // However long it had nothing to write: its time begins now.
            link.progress_at = now;
            self.wake_by(now + STALL_US);
        }
    }

    /// The kernel took `bytes` more of the chunk in flight.
    pub fn written(&mut self, now: Micros, id: LinkId, bytes: usize) {
        self.counters.add(Counter::BytesOut, bytes as u64);
        self.trace_written(now, id, bytes);
        if let Some(link) = self.link_mut(id) {
            link.in_flight = link.in_flight.saturating_sub(bytes);
            link.progress_at = now;
        }
    }

    /// The process ends (SIGTERM): every link is closed with `</stream:stream>`.
    pub fn shutdown(&mut self, now: Micros) {
        self.stopping = true;
        self.leave_peers(now);
        for slot in 0..self.links.len() {
            let id = LinkId {
                slot: u32::try_from(slot).unwrap_or(0),
                generation: self.links[slot].generation,
            };
            if matches!(self.links[slot].stage, Stage::Stranger(..) | Stage::Dialling(_)) {
                self.actions.push(Action::Close(id));
            } else if !matches!(
                self.links[slot].stage,
                Stage::Free | Stage::Closing { .. } | Stage::Peer(_)
            ) {
                stream::close(&mut self.links[slot].out);
                self.close_link(now, id, "jidmesh ended");
            }
        }
    }

    pub(super) fn link_mut(&mut self, id: LinkId) -> Option<&mut Link> {
        self.links
            .get_mut(id.slot as usize)
            .filter(|link| link.generation == id.generation && !matches!(link.stage, Stage::Free))
    }

    pub(super) fn link(&self, id: LinkId) -> Option<&Link> {
        self.links
            .get(id.slot as usize)
            .filter(|link| link.generation == id.generation && !matches!(link.stage, Stage::Free))
    }

    /// Appends to a link's output and tells the shell when it had none.
    pub(super) fn send(&mut self, id: LinkId, write: impl FnOnce(&mut Vec<u8>)) {
        let Some(link) = self.link_mut(id) else { return };
        let was_empty = link.out.is_empty();
        write(&mut link.out);
        if was_empty && !link.out.is_empty() {
            self.actions.push(Action::Output(id));
        }
    }

    /// Closes a link for the reason given, with a stream error.
    pub(super) fn refuse(&mut self, now: Micros, id: LinkId, condition: &str, text: &str) {
        let Some(link) = self.link(id) else { return };
        let remote = link.remote;
        // Before any header was exchanged, the error needs one around it (RFC 6120 4.9.1.1).
        let unopened = matches!(&link.stage, Stage::Negotiating(accept) if !accept.is_open());
        let why = format!("closed with stream error {condition}: {text}");
        self.log(Level::Warning, Some(remote), why.clone());
        self.send(id, |out| match unopened {
            true => stream::error_unopened(out, condition, Some(text)),
            false => stream::error(out, condition, Some(text)),
        });
        self.close_link(now, id, &why);
    }

    /// Asks the shell to close a link once its output is written. The seat, if any, has lost its link from now on.
    pub(super) fn close_link(&mut self, now: Micros, id: LinkId, why: &str) {
        self.end_link(now, id, Vec::new(), why);
    }

    /// Closes a link that takes nothing any more: what waits for it is its seat's at once.
    pub(super) fn give_up_link(&mut self, now: Micros, id: LinkId, why: &str) {
        let pending = self.link_mut(id).map(|link| std::mem::take(&mut link.out));
        self.end_link(now, id, pending.unwrap_or_default(), why);
    }

    fn end_link(&mut self, now: Micros, id: LinkId, pending: Vec<u8>, why: &str) {
        self.note_ending(id, why);
        let Some(link) = self.link_mut(id) else { return };
        let seat = match link.stage {
            Stage::Seated { seat, .. } => Some(seat),
            Stage::Closing { seat } => seat,
            _ => None,
        };
        let stage = std::mem::replace(&mut link.stage, Stage::Closing { seat });
        link.scanner = None;
        link.carry = Vec::new();
        self.actions.push(Action::Close(id));
        if let Stage::Seated { seat, .. } = stage {
            self.link_lost(now, seat, id, &CloseCause::Local, (Vec::new(), 0), pending);
        } else if let Stage::Uplink(at, _) = stage {
            self.uplink_lost(now, at, &CloseCause::Local, (Vec::new(), 0), &pending);
        }
    }

    pub(super) fn pause(&mut self, id: LinkId, on: bool) {
        let Some(link) = self.link_mut(id) else { return };
        if link.paused != on {
            link.paused = on;
            self.actions
                .push(if on { Action::Pause(id) } else { Action::Resume(id) });
        }
    }

    /// Gives the link to the home of its seat.
    pub(super) fn send_home(&mut self, now: Micros, id: LinkId, seat: SeatId, back: bool, bind: Box<[u8]>) {
        let here = self.id;
        let home = self.names.seat(seat).map_or(here, |view| view.home);
        let Some(link) = self.link_mut(id) else { return };
        let Some(who) = link.peer.clone() else { return };
        let remote = link.remote;
        let mut cargo = Box::new(Luggage {
            seat,
            back,
            bind,
            remote,
            who,
            tls: link.tls,
            out: Vec::new(),
            early: Vec::new(),
            scanner: None,
            carry: Vec::new(),
        });
        if home == here {
            return self.take_seat(now, id, &cargo);
        }
        link.stage = Stage::Leaving;
        // While frames are being handled, scanner and rest of the input are in the hands of `frames`'s caller.
        if let Some(scanner) = link.scanner.take() {
            cargo.scanner = Some(scanner);
            self.depart(id, cargo, home);
        } else {
            self.leaving = Some((id, cargo, home));
        }
    }

    pub(super) fn depart(&mut self, id: LinkId, mut cargo: Box<Luggage>, home: super::ShardId) {
        let Some(link) = self.link_mut(id) else { return };
        cargo.out = std::mem::take(&mut link.out);
        cargo.early = std::mem::take(&mut link.early);
        cargo.carry = std::mem::take(&mut link.carry);
        self.free_link(id);
        self.actions.push(Action::Move {
            link: id,
            to: home,
            cargo: Box::new(Cargo(Kind::Component(cargo))),
        });
    }

    /// The link is another shard's.
    pub(super) fn free_link(&mut self, id: LinkId) {
        let Some(link) = self.link_mut(id) else { return };
        link.stage = Stage::Free;
        link.generation += 1;
        self.free_links.push(id.slot);
    }

    pub(super) fn links_negotiating(&self) -> u64 {
        self.links
            .iter()
            .filter(|link| matches!(link.stage, Stage::Negotiating(_) | Stage::Unseated))
            .count() as u64
    }

    /// Closes links that take too long to authenticate or to take what is sent. True when some are left to watch.
    pub(super) fn tick_links(&mut self, now: Micros) -> bool {
        let (auth_us, stall_us) = (self.config.auth_ms * 1_000, STALL_US);
        let mut watch = false;
        let mut late = Vec::new();
        let mut stalled = Vec::new();
        let mut contested = Vec::new();
        for (slot, link) in self.links.iter().enumerate() {
            let id = LinkId {
                slot: u32::try_from(slot).unwrap_or(0),
                generation: link.generation,
            };
            match link.stage {
                Stage::Negotiating(_) | Stage::Unseated | Stage::Uplink(_, Some(_)) => {
                    watch = true;
                    if now >= link.opened_at + auth_us {
                        late.push(id);
                    }
                }
                Stage::Seated { .. } | Stage::Uplink(..) if link.in_flight > 0 => {
                    watch = true;
                    if now >= link.progress_at + stall_us {
                        stalled.push(id);
                    }
                }
                Stage::Contending { seat, .. } => {
                    watch = true;
                    if now >= link.opened_at + auth_us {
                        late.push(id);
                    } else if !contested.contains(&seat) {
                        contested.push(seat);
                    }
                }
                Stage::Arriving => watch = true,
                _ => {}
            }
        }
        for id in late {
            self.count(Counter::AuthFailed);
            self.refuse(now, id, "connection-timeout", "no authentication, or no bind, in time");
        }
        for seat in contested {
            // Asked again: the first time its link may not have arrived at its home yet.
            let home = self.names.seat(seat).map(|view| view.home);
            match home {
                Some(home) => self.tell(now, home, super::lane::Message::Contest { seat }),
                None => self.contest_answered(now, seat, false),
            }
        }
        for id in stalled {
            let Some(link) = self.link(id) else { continue };
            let (remote, bytes) = (link.remote, link.out.len() + link.in_flight);
            self.count(Counter::LinksStalled);
            let text = format!(
                "closed: took nothing of {bytes} waiting bytes for {} s",
                stall_us / 1_000_000
            );
            self.log(Level::Error, Some(remote), text.clone());
            self.give_up_link(now, id, &text);
        }
        watch
    }

    pub(super) fn insert_link(&mut self, now: Micros, remote: SocketAddr, stage: Stage) -> LinkId {
        let slot = match self.free_links.pop() {
            Some(slot) => slot,
            None => {
                self.links.push(Link {
                    generation: 0,
                    remote,
                    stage: Stage::Free,
                    peer: None,
                    tls: false,
                    out: Vec::new(),
                    in_flight: 0,
                    early: Vec::new(),
                    scanner: None,
                    carry: Vec::new(),
                    courses: Courses::default(),
                    opened_at: now,
                    progress_at: now,
                    paused: false,
                    ending: None,
                });
                u32::try_from(self.links.len() - 1).unwrap_or(u32::MAX)
            }
        };
        let link = &mut self.links[slot as usize];
        link.remote = remote;
        link.stage = stage;
        link.peer = None;
        link.tls = false;
        link.out.clear();
        link.early.clear();
        link.in_flight = 0;
        link.opened_at = now;
        link.progress_at = now;
        link.paused = false;
        link.ending = None;
        LinkId {
            slot,
            generation: link.generation,
        }
    }
}

/// A buffer that grew beyond this is not kept for the next turn.
const OUT_KEEP_BYTES: usize = 1 << 20;

/// A component that takes nothing for so long, though bytes wait, is given up.
const STALL_US: Micros = 60_000_000;
