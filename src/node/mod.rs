//! One shard's whole brain, sans-IO: bytes, closings, lane batches and time come in; bytes, actions and lane batches
//! go out.
//!
//! # Who owns what
//!
//! * A *link* belongs to one shard. Shard 0 takes every new link and negotiates; the component's first bind decides its
//!   *seat* and the seat's home, and the link moves there before the bind is answered.
//! * Names: shard 0's registrar decides, every shard holds a copy ([`Names`]), changed by its messages only.
//! * Users: each shard owns the slice of the bare JIDs whose hash is its own ([`Users`]).
//! * Clients of a c2s: at the home of its seat, since session control names no JID but (number, sm-side id).
//!
//! # Why nothing overtakes
//!
//! Everything from one sm link to one c2s link goes from the sm's shard to the c2s's shard, in one lane, and so does the
//! opposite direction: `started`, deliveries, `replaced` and `ended` keep their order. A frame for a user goes through
//! the owner of his bare JID and on to his sm's shard: two lanes, each in order, the same two for every frame of one
//! sender to one user. What a frame teaches (a session, an availability, a name) travels in the control lane, which is
//! sent before the data of the same turn and handled before any data that was sent after it, so whatever follows from a
//! `started` finds it registered. A control message may overtake data sent *before* it; each is harmless then, as its
//! handler says.
//!
//! Must never be added: sockets, clocks, random sources, threads, the runtime.

pub mod api;
pub mod counters;
pub mod lane;
pub mod report;

mod adverts;
mod binding;
mod closed;
pub mod cluster;
mod contest;
mod delivery;
mod express;
mod farewell;
mod fencing;
mod forward;
mod grace;
pub mod image;
mod input;
mod link;
mod message_log;
mod negotiate;
mod observe;
mod orphans;
mod placement;
mod question;
mod recall;
pub mod recovery;
mod redirect;
mod registration;
mod remains;
mod returned;
mod seat;
mod surrogate;
#[cfg(test)]
mod tests;
pub mod trace;
mod unanswered;
mod uplink;

pub use closed::CLOSED_MAX;
pub use link::Cargo;

use crate::config::Config;
use crate::jid::{self, TableMap};
use crate::table::fence::Fences;
use crate::table::names::Names;
use crate::table::registrar::Registrar;
use crate::table::seat_map::SeatMap;
use crate::table::users::Users;
use crate::table::{SeatId, ShardId};
use crate::wire::accept::AcceptConfig;
use crate::wire::scan::Limits;
use api::{Action, CloseCause, DataBatch, Level, LinkId, LogLine, Micros};
use counters::{Counter, Counters};
use lane::{Control, Message, SessionKey, Verb};
use link::Link;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use report::ShardReport;
use seat::Seat;
use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;

/// Deepest nesting of a frame. expat has no limit; a thousand levels is no stanza.
const DEPTH_MAX: u16 = 1_000;

/// Longest stream header, bytes.
const OPEN_BYTES_MAX: usize = 16 * 1024;

/// How often a shard with anything to look after looks after it, microseconds.
const TICK_US: Micros = 200_000;

/// The seat that stands for jidmesh itself as the sender of a frame; the registrar counts from 1.
const SELF: SeatId = SeatId::new(0, 0);

/// One shard's brain.
pub struct Shard {
    id: ShardId,
    shards: ShardId,
    config: Arc<Config>,
    accept: Arc<AcceptConfig>,
    /// The same for links from other machines, to which a default secret opens nothing.
    accept_remote: Arc<AcceptConfig>,
    limits: Limits,
    rng: ChaCha20Rng,
    counters: Counters,
    actions: Vec<Action>,
    control: Vec<Vec<Control>>,
    data: Vec<DataBatch>,
    links: Vec<Link>,
    free_links: Vec<u32>,
    closed_links: closed::ClosedLinks,
    names: Names,
    /// On shard 0 only.
    registrar: Option<Registrar>,
    seats: SeatMap<Seat>,
    /// Links that came before the message about their seat.
    early: Vec<(LinkId, Box<link::Luggage>)>,
    users: Users,
    /// On shard 0: names and seats are to be written down.
    house_changed: bool,
    fences: TableMap<SeatId, Fences>,
    /// Users who wait for a fence of this sm, or for what waited for this component.
    fenced: TableMap<SeatId, Vec<Box<str>>>,
    /// Lost components whose waiting frames are on their way back, and until when they are expected.
    returning: Vec<(Micros, SeatId)>,
    /// What is left of lost components of this shard.
    remains: std::collections::VecDeque<remains::Remains>,
    /// Users who wait, by when at the latest.
    waiting: std::collections::VecDeque<(Micros, Box<str>)>,
    held_bytes: usize,
    /// On shard 0 with `<uplink>`.
    uplink: Option<Box<uplink::Uplink>>,
    /// With `<mesh>` only.
    cluster: Option<Box<cluster::Cluster>>,
    surrogates: surrogate::Surrogates,
    farewells: farewell::Farewells,
    orphans: orphans::Orphans,
    /// Sessions that an sm held for sure when it lost its link.
    held_at_loss: TableMap<SeatId, Vec<SessionKey>>,
    inquiries: cluster::Inquiries,
    /// Questions asked so far: makes their ids.
    questions: u64,
    /// Which components were told of the users of this slice.
    redirected: redirect::ToldOf,
    returned: returned::Returned,
    /// Users of an image whose affairs go on with [`Shard::resume`].
    resuming: Vec<Box<str>>,
    /// Ids of c2s that were given up, the latest last.
    parted: std::collections::VecDeque<Box<str>>,
    resuming_orphans: Vec<(SeatId, orphans::Orphan)>,
    /// The link whose frames are in hand goes to another shard.
    leaving: Option<(LinkId, Box<link::Luggage>, ShardId)>,
    departing: Option<(Box<link::Luggage>, ShardId)>,
    next_tick: Option<Micros>,
    /// Rises with everything but frames that may change where frames go: see [`express`].
    epoch: u64,
    stopping: bool,
    /// While an operator follows stanzas.
    tracing: Option<Box<trace::Tracing>>,
}

impl std::fmt::Debug for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shard").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Shard {
    /// The brain of shard `id` of `shards`. Only shard 0 is given new links ([`Shard::opened`]): it negotiates with
    /// them and hands each to its home shard when the component binds its first name.
    pub fn new(id: ShardId, shards: ShardId, config: Arc<Config>, seed: [u8; 32]) -> Shard {
        let limits = Limits {
            frame_bytes_max: config.frame_bytes_max,
            open_bytes_max: OPEN_BYTES_MAX,
            depth_max: DEPTH_MAX,
        };
        let count = usize::from(shards);
        let own = jid::domain_key(&format!("jidmesh.{}", config.id)).map_or("jidmesh.router".into(), Cow::into_owned);
        let mut shard = Shard {
            id,
            shards,
            accept: Arc::new(accept_config(&config, limits, false)),
            accept_remote: Arc::new(accept_config(&config, limits, true)),
            limits,
            rng: ChaCha20Rng::from_seed(seed),
            counters: Counters::default(),
            actions: Vec::new(),
            control: (0..count).map(|_| Vec::new()).collect(),
            data: (0..count).map(|_| DataBatch::default()).collect(),
            links: Vec::new(),
            free_links: Vec::new(),
            closed_links: closed::ClosedLinks::default(),
            names: Names::new(&own, &config.aliases),
            registrar: (id == 0).then(|| Registrar::new(shards)),
            seats: SeatMap::default(),
            early: Vec::new(),
            users: Users::default(),
            house_changed: false,
            fences: TableMap::default(),
            fenced: TableMap::default(),
            returning: Vec::new(),
            remains: Default::default(),
            waiting: std::collections::VecDeque::new(),
            held_bytes: 0,
            uplink: None,
            cluster: config
                .mesh
                .as_ref()
                .map(|mesh| Box::new(cluster::Cluster::new(mesh, 0))),
            surrogates: surrogate::Surrogates::default(),
            farewells: farewell::Farewells::default(),
            orphans: orphans::Orphans::default(),
            held_at_loss: TableMap::default(),
            inquiries: cluster::Inquiries::default(),
            questions: 0,
            redirected: redirect::ToldOf::default(),
            returned: returned::Returned::default(),
            resuming: Vec::new(),
            parted: Default::default(),
            resuming_orphans: Vec::new(),
            leaving: None,
            departing: None,
            next_tick: None,
            epoch: 1,
            stopping: false,
            tracing: None,
            config,
        };
        shard.begin_uplink();
        shard
    }

    /// What the brain asks for; to be called after every other call, until nothing more comes.
    pub fn take_actions(&mut self, into: &mut Vec<Action>) {
        self.hear_peers();
        into.append(&mut self.actions);
    }

    /// Control messages for shard `to`: to be sent (to all shards) before any data of the same turn; never dropped,
    /// never blocked.
    pub fn take_control(&mut self, to: ShardId) -> Vec<Control> {
        std::mem::take(&mut self.control[usize::from(to)])
    }

    /// Frames for shard `to`. When its lane is full, the shell keeps the batch, stops reading links until it fits, and
    /// asks for no further batch for that shard meanwhile.
    pub fn take_data(&mut self, to: ShardId) -> Option<DataBatch> {
        let batch = &mut self.data[usize::from(to)];
        (!batch.is_empty()).then(|| batch.take())
    }

    /// Whether [`Shard::take_data`] would give something.
    pub fn has_batch(&self, to: ShardId) -> bool {
        !self.data[usize::from(to)].is_empty()
    }

    /// Batches from other shards. The shell takes the data lanes *first*, then the control lanes, and gives both here:
    /// so every control message that was sent before a data batch is handled before it.
    pub fn lanes(
        &mut self,
        now: Micros,
        control: &mut Vec<(ShardId, Vec<Control>)>,
        data: &mut Vec<(ShardId, DataBatch)>,
    ) {
        self.note_time(now);
        self.trace_nothing();
        for (from, messages) in control.drain(..) {
            for Control(message) in messages {
                self.handle(now, from, message);
            }
        }
        for (_, batch) in data.drain(..) {
            for (at, (frame, bytes)) in batch.iter().enumerate() {
                if self.tracing.is_some() {
                    self.trace(now, trace::Step::Arrived, frame.source, bytes, None);
                    self.sample_from_shard(&batch, at);
                }
                match frame.verb {
                    Verb::Seat(seat, restarts) => {
                        if !self.is_kept_elsewhere(seat, restarts, bytes) {
                            self.deliver(now, seat, frame.source, bytes, None);
                        }
                    }
                    Verb::Stanza(seat) => self.deliver_stanza(now, seat, frame.source, bytes),
                    Verb::User(path) => self.for_user(now, frame.source, bytes, path),
                    Verb::Said(said) => self.for_user_said(now, frame.source, bytes, said),
                    Verb::Returned(of) => self.queue_returned(now, of),
                    Verb::Recalled(c2s) => self.recalled(now, c2s, bytes),
                    Verb::Passage(peer, lane) => self.post_passage(now, peer, lane, bytes),
                    Verb::Tunnel(peer, lane) => self.passage_here(now, peer, lane, bytes),
                    Verb::Flush(at) => self.flush_token(now, at),
                    Verb::MarkerDone(serial) => self.marker_done(now, serial),
                    verb @ (Verb::Abroad(..)
                    | Verb::Astray(..)
                    | Verb::Marker(..)
                    | Verb::Outside
                    | Verb::Post(_)
                    | Verb::Inquiry(_)) => self.lane_abroad(now, verb, frame.source, bytes),
                    Verb::Bounce(seat, code) => self.bounce(now, seat, bytes, code),
                    Verb::Broadcast => self.broadcast_here(now, frame.source, bytes),
                }
            }
        }
    }

    /// Time has passed: to be called when [`Shard::deadline`] is reached.
    pub fn tick(&mut self, now: Micros) {
        self.next_tick = None;
        self.tick_remains(now);
        let links = self.tick_links(now);
        let seats = self.tick_seats(now);
        let waiting = self.tick_waiting(now);
        let surrogates = self.tick_surrogates(now) | self.tick_returned(now);
        let turning = self.tick_turns(now) | self.tick_flush(now);
        let asked = self.tick_asked(now);
        let exits = self.tick_exits(now) | self.tick_healing(now);
        let inquiries = self.tick_inquiries(now) | self.tick_drain(now) | self.tick_tracing(now);
        let peers = self.tick_peers(now);
        self.tick_uplink(now);
        if inquiries || exits || peers || links || seats || waiting || surrogates || turning || asked {
            self.wake_by(now + TICK_US);
        }
    }

    /// When `tick` wants to be called; `None`: not before something else happens.
    pub fn deadline(&self) -> Option<Micros> {
        [self.next_tick, self.peers_deadline()].into_iter().flatten().min()
    }

    /// New users, filter rules, ACLs, limits (SIGHUP).
    pub fn reload(&mut self, now: Micros, config: Arc<Config>) {
        self.epoch += 1;
        self.names.set_aliases(&config.aliases);
        self.limits.frame_bytes_max = config.frame_bytes_max;
        self.accept = Arc::new(accept_config(&config, self.limits, false));
        self.accept_remote = Arc::new(accept_config(&config, self.limits, true));
        self.config = config;
        self.wake_by(now);
        self.reload_probes(now);
        self.align_aliases(now);
    }

    /// What this shard knows and counted.
    pub fn report(&self) -> ShardReport {
        ShardReport {
            shard: self.id,
            counters: self.counters.clone(),
            seats: self
                .seats
                .iter()
                .filter(|(_, seat)| seat.abroad.is_none())
                .map(|(_, seat)| self.report_seat(seat))
                .collect(),
            names: self.report_names(),
            links_negotiating: self.links_negotiating(),
            syncing: self.waits_for_others(),
            users: self.users.len() as u64,
            sessions: self.users.sessions() as u64,
            sessions_available: self.users.available() as u64,
            starts_pending: self.waiting.len() as u64,
            held_bytes: self.held_bytes as u64,
            mesh: self.report_mesh(),
            drain: self.report_drain(),
            uplink: self.report_uplink(),
            traces: self.traces(),
        }
    }

    /// Sends a message to a shard; to this one by handling it at once.
    fn tell(&mut self, now: Micros, to: ShardId, message: Message) {
        if to == self.id {
            self.handle(now, to, message);
        } else {
            self.control[usize::from(to)].push(Control(message));
        }
    }

    /// Sends a message to all shards, this one last: what follows from it here is known elsewhere before.
    fn tell_all(&mut self, now: Micros, message: &Message) {
        for to in 0..self.shards {
            if to != self.id {
                self.control[usize::from(to)].push(Control(message.clone()));
            }
        }
        self.handle(now, self.id, message.clone());
    }

    /// The shard that owns a user.
    fn owner(&self, bare: &str) -> ShardId {
        if self.shards == 1 {
            return 0;
        }
        // The high half: the low bits choose the bucket in the owner's own table.
        ShardId::try_from((jid::table_hash(bare) >> 32) % u64::from(self.shards)).unwrap_or(0)
    }

    fn wake_by(&mut self, at: Micros) {
        self.next_tick = Some(self.next_tick.map_or(at, |already| already.min(at)));
    }

    fn count(&mut self, counter: Counter) {
        self.counters.add(counter, 1);
        self.trace_count(counter);
    }

    fn log(&mut self, level: Level, remote: Option<SocketAddr>, text: String) {
        self.actions.push(Action::Log(LogLine { level, remote, text }));
    }

    fn handle(&mut self, now: Micros, from: ShardId, message: Message) {
        self.epoch += 1;
        self.tell_peers(&message);
        let concerned = self.concerned_names(&message);
        match message {
            Message::SeatNew { .. }
            | Message::SeatLive { .. }
            | Message::SeatGone { .. }
            | Message::Kind { .. }
            | Message::Bound { .. }
            | Message::Unbound { .. } => {
                self.house_changed |= self.registrar.is_some();
                self.learn_names(now, message);
            }
            Message::AskBind { seat, frame } => self.judge_further_bind(now, from, seat, &frame),
            Message::AskUnbind { seat, frame } => self.judge_unbind(now, from, seat, &frame),
            Message::BindAnswer { seat, answer, refused } => self.answer_bind(now, seat, &answer, refused),
            Message::Lost { seat } => self.seat_lost(now, seat),
            Message::Unclaimed { seat, name } => self.drop_name(now, seat, name),
            Message::Expired { seat } => self.seat_expired(now, from, seat),
            Message::Contest { seat } => self.contest(now, seat),
            Message::ContestAnswer { seat, alive } => self.contest_answered(now, seat, alive),
            Message::Restarted { seat } => self.component_restarted(now, seat),
            Message::Sample { sm, home } => self.sample(now, sm, home),
            Message::SampleAnswer { sm, samples } => self.sampled(now, sm, samples),
            Message::OrphansUnknown { sm } => self.orphans_unknown(now, sm),
            Message::Register {
                bare,
                sm,
                request,
                session,
            } => self.register(now, &bare, sm, request, *session),
            Message::Unregister { bare, key, why } => self.unregister(now, &bare, key, why),
            Message::Ending { bare, key } => self.session_ending(now, &bare, key),
            Message::Presence { bare, key, priority } => self.presence(now, &bare, key, priority),
            Message::StartDone { bare, c2s, request } => self.start_done(now, &bare, c2s, request),
            Message::EndClient { key } => self.end_client(now, key),
            Message::Recall { bare, key } => self.recall(now, from, bare, key),
            Message::Redirects { component } => self.names.change_seat(component, |view| view.redirects = true),
            Message::Redirect { component, full, to } => self.learn_redirect(now, component, &full, to.as_deref()),
            Message::RedirectOver { component, full } => self.redirect_over(component, &full),
            Message::FenceDone { sm, number } => self.fence_done(now, sm, number),
            Message::SurrogateStarted {
                sm,
                bare,
                number,
                token,
            } => self.surrogate_started(now, sm, &bare, number, token),
            Message::SurrogateEnded { number } => self.surrogate_ended(now, number),
            Message::PeerKnown { peer, name } => self.learn_peer(peer, name),
            Message::PeerState { peer, state } => self.learn_peer_state(now, peer, state),
            Message::RowOut { bare, clock, sessions } => self.row_out(&bare, clock, sessions),
            Message::RowIn {
                peer,
                bare,
                clock,
                sessions,
            } => self.row_in(now, peer, &bare, clock, sessions),
            Message::WantRows { peer, reborn } => self.tell_rows(now, peer, reborn),
            Message::RowsDone {
                peer,
                rows,
                exits,
                told_away,
            } => self.rows_done(peer, rows, exits, &told_away),
            Message::ExitOut { domain, clock, taken } => self.exit_out(&domain, clock, taken),
            Message::ExitIn {
                peer,
                domain,
                clock,
                taken,
            } => self.exit_in(now, peer, &domain, clock, taken),
            Message::ExitAskAbroad { peer, domain } => self.post_exit_ask(peer, &domain),
            Message::ExitAsked { peer, domain } => self.exit_asked(now, peer, &domain),
            Message::ExitIsAbroad { peer, domain, site } => self.post_exit_is(peer, &domain, site),
            Message::ExitTold { domain, site } => self.exit_told(now, &domain, site),
            Message::Drain { order } => self.learn_drain(now, order),
            Message::DrainShare { left } => self.drain_shared(from, left),
            Message::PeerDrains { peer, on, to } => self.peer_drains(now, peer, on, to),
            Message::FlushWanted { shard, ticket } => self.flush_wanted(now, shard, ticket),
            Message::FlushBegins { round } => self.flush_begins(now, round),
            Message::FlushHome => self.flush_home(now),
            Message::FlushDone { ticket } => self.flush_done(now, ticket),
            Message::FlushSeen { peer, round } => self.flush_seen(peer, round),
            Message::Untold { bare, resource, hops } => self.learn_untold(now, &bare, resource, hops),
            Message::UntoldAbroad {
                peer,
                bare,
                resource,
                hops,
            } => self.post_untold(peer, &bare, &resource, hops),
            Message::Member { peer, news } => self.member_news(now, peer, news),
            Message::Telling { full } => self.telling(now, full),
            Message::Moved { full } => self.moved(now, full),
            Message::Absent { absent, pair } => self.note_absent(&absent, pair),
            Message::Returned { key, anew } => self.was_returned(now, key, anew),
            Message::SessionsTaken { sm, sessions } => self.sessions_taken(&sm, &sessions),
        }
        self.align_uplink(now, concerned);
    }
}

fn accept_config(config: &Config, limits: Limits, remote: bool) -> AcceptConfig {
    AcceptConfig {
        realm: "jabberd-router".into(),
        secret: config
            .secret
            .clone()
            .filter(|_| !(remote && config.is_default_secret(None))),
        starttls: config.pemfile.is_some(),
        limits,
        tries_max: 3,
    }
}

/// Why a socket whose other end is `by` was closed, in the words of the log.
fn cause_text(cause: &CloseCause, by: &str) -> String {
    match cause {
        CloseCause::Eof => format!("closed by the {by}"),
        CloseCause::Reset => format!("reset by the {by}"),
        CloseCause::Refused => "refused: nobody listens there".into(),
        CloseCause::Error(text) => text.clone(),
        CloseCause::Local => "closed by jidmesh".into(),
    }
}
