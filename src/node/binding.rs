//! Names: binds and unbinds, what the registrar decides, what every shard learns, adverts.

use super::Shard;
use super::api::{Level, LinkId, Micros};
use super::input::Flow;
use super::lane::Message;
use super::link::{Luggage, Stage};
use super::seat::Seat;
use crate::config::Config;
use crate::table::names::Multi;
use crate::table::registrar::{AliasChange, Ask, First, Refusal, Rights};
use crate::table::{SeatId, SeatKind, ShardId};
use crate::wire::accept::PeerKind;
use crate::wire::edit;
use crate::wire::header::{self, Bind, Frame};

impl Rights for Config {
    fn bind(&self, user: &str, name: &str) -> bool {
        self.acl.may_bind(user, name)
    }
    fn default_route(&self, user: &str) -> bool {
        self.acl.may_default(user)
    }
    fn log(&self, user: &str) -> bool {
        self.acl.may_log(user)
    }
}

impl Shard {
    /// A `<bind/>` from a link.
    pub(super) fn bind(
        &mut self,
        now: Micros,
        id: LinkId,
        seat: Option<SeatId>,
        frame: &[u8],
        bind: &Bind<'_>,
    ) -> Flow {
        match seat {
            None => {
                self.judge_first_bind(now, id, frame, false);
                self.flow(id)
            }
            Some(seat) if bind.error.is_some() => {
                // An answer, not a question: nobody asked this component.
                let _ = seat;
                Flow::Go
            }
            Some(seat) => {
                self.claim(seat, bind);
                let frame = frame.into();
                self.ask(now, id, seat, Message::AskBind { seat, frame })
            }
        }
    }

    /// A component that came back wants this name again.
    fn claim(&mut self, seat: SeatId, bind: &Bind<'_>) {
        let Some((_, names)) = self.seats.get_mut(seat).and_then(|state| state.unclaimed.as_mut()) else {
            return;
        };
        if let Some(name) = bind.name.and_then(|name| name.unescape())
            && let Some(key) = crate::jid::domain_key(&name)
        {
            names.retain(|other| **other != *key);
        }
    }

    /// An `<unbind/>` from a link.
    pub(super) fn unbind(&mut self, now: Micros, id: LinkId, seat: Option<SeatId>, frame: &[u8]) -> Flow {
        match seat {
            None => {
                self.send(id, |out| edit::unbind_answer(out, Some("404")));
                Flow::Go
            }
            Some(seat) => self.ask(
                now,
                id,
                seat,
                Message::AskUnbind {
                    seat,
                    frame: frame.into(),
                },
            ),
        }
    }

    fn ask(&mut self, now: Micros, id: LinkId, seat: SeatId, question: Message) -> Flow {
        if let Some(link) = self.link_mut(id) {
            link.stage = Stage::Seated { seat, asking: true };
        }
        self.tell(now, 0, question);
        let flow = self.flow(id);
        if flow == Flow::Stop {
            self.pause(id, true);
        }
        flow
    }

    pub(super) fn flow(&self, id: LinkId) -> Flow {
        match self.link(id).map(|link| &link.stage) {
            Some(Stage::Unseated | Stage::Seated { asking: false, .. } | Stage::Uplink(_, None)) => Flow::Go,
            _ => Flow::Stop,
        }
    }

    /// Shard 0: the first bind of a link. `bind` is the frame, empty for a XEP-0114 component.
    pub(super) fn judge_first_bind(&mut self, now: Micros, id: LinkId, bind: &[u8], proved_alive: bool) {
        let Some(link) = self.link(id) else { return };
        let (remote, Some(who)) = (link.remote, link.peer.clone()) else {
            return;
        };
        let kind = match who.kind {
            PeerKind::Foreign { .. } => SeatKind::Xep0114,
            PeerKind::Native { .. } => SeatKind::Native,
        };
        let Some(ask) = first_ask(bind, &who.kind) else { return };
        self.make_way_for(now, &ask);
        let Some(mut registrar) = self.registrar.take() else {
            return;
        };
        let verdict = registrar.first(
            &self.names,
            &*self.config,
            who.user(),
            &ask.borrow(),
            kind,
            proved_alive,
        );
        self.registrar = Some(registrar);
        match verdict {
            Ok(First::New(seat, granted)) => {
                let home = self.registrar.as_mut().map_or(0, |registrar| registrar.choose_home());
                let key: Box<str> = granted.key.into();
                let kind = kind_shown(kind, granted.multi, ask.default);
                self.tell_all(
                    now,
                    &Message::SeatNew {
                        seat,
                        home,
                        kind,
                        id: key.clone(),
                        abroad: None,
                    },
                );
                self.asks_for_redirects(now, seat, &ask);
                // The newcomer is seated before the others learn its name: its own answer comes first.
                self.send_home(now, id, seat, false, bind.into());
                self.bound(now, seat, key, granted.multi, &ask, Some(remote));
            }
            Ok(First::Back(seat)) => {
                self.tell_all(now, &Message::SeatLive { seat, live: true });
                self.asks_for_redirects(now, seat, &ask);
                if let Some(name) = self.names.seat(seat).map(|view| view.id.clone())
                    && self.names.marks(&name, seat) != (ask.default, ask.log)
                {
                    self.bound(now, seat, name, Multi::No, &ask, Some(remote));
                }
                self.send_home(now, id, seat, true, bind.into());
            }
            Ok(First::Contested(seat)) => {
                if let Some(link) = self.link_mut(id) {
                    link.stage = Stage::Contending {
                        seat,
                        bind: bind.into(),
                    };
                }
                self.pause(id, true);
                self.wake_by(now + super::TICK_US);
                let home = self.names.seat(seat).map_or(0, |view| view.home);
                self.tell(now, home, Message::Contest { seat });
            }
            Err(refusal) => self.refuse_bind(now, id, bind, &ask.name, refusal),
        }
    }

    fn asks_for_redirects(&mut self, now: Micros, component: SeatId, ask: &OwnedAsk) {
        if ask.redirect {
            self.tell_all(now, &Message::Redirects { component });
        }
    }

    fn refuse_bind(&mut self, now: Micros, id: LinkId, frame: &[u8], name: &str, refusal: Refusal) {
        let remote = self.link(id).map(|link| link.remote);
        self.log(
            Level::Warning,
            remote,
            format!("bind of '{name}' refused: {}", refusal_text(refusal)),
        );
        if let Ok(Frame::Bind(bind)) = header::read(frame) {
            self.send(id, |out| edit::bind_answer(out, frame, &bind, Some(refusal.code())));
        } else {
            self.refuse(now, id, "conflict", refusal_text(refusal));
        }
    }

    /// Shard 0: a further bind of a seat.
    pub(super) fn judge_further_bind(&mut self, now: Micros, home: ShardId, seat: SeatId, frame: &[u8]) {
        let Ok(Frame::Bind(bind)) = header::read(frame) else {
            return;
        };
        let ask = owned_ask(&bind);
        self.make_way_for(now, &ask);
        let Some(mut registrar) = self.registrar.take() else {
            return;
        };
        let verdict = registrar.further(&self.names, &*self.config, seat, &ask.borrow());
        self.registrar = Some(registrar);
        let (mut answer, mut refused) = (Vec::new(), None);
        match verdict {
            Ok(granted) => {
                self.asks_for_redirects(now, seat, &ask);
                if let Some(granted) = granted {
                    let remote = None;
                    self.bound(now, seat, granted.key.into(), granted.multi, &ask, remote);
                }
                edit::bind_answer(&mut answer, frame, &bind, None);
            }
            Err(refusal) => {
                refused = Some(format!("bind of '{}' refused: {}", ask.name, refusal_text(refusal)).into());
                edit::bind_answer(&mut answer, frame, &bind, Some(refusal.code()));
            }
        }
        self.tell(
            now,
            home,
            Message::BindAnswer {
                seat,
                answer: answer.into(),
                refused,
            },
        );
    }

    fn bound(
        &mut self,
        now: Micros,
        seat: SeatId,
        name: Box<str>,
        multi: Multi,
        ask: &OwnedAsk,
        remote: Option<std::net::SocketAddr>,
    ) {
        let what = match (ask.default, ask.log) {
            (true, _) => " as default route",
            (_, true) => " as log sink",
            _ => "",
        };
        self.log(Level::Notice, remote, format!("[{name}] online{what}"));
        let kind = kind_shown(SeatKind::Native, multi, ask.default);
        if kind != SeatKind::Native && self.names.seat(seat).is_some_and(|view| view.kind == SeatKind::Native) {
            self.tell_all(now, &Message::Kind { seat, kind });
        }
        let bound_at = self.stamp_bind(now);
        self.tell_all(
            now,
            &Message::Bound {
                seat,
                name,
                multi,
                default: ask.default,
                log: ask.log,
                bound_at,
            },
        );
        self.align_aliases(now);
    }

    /// Shard 0: aliases are further names of whoever holds their targets. After a change of names or of the configuration.
    pub(super) fn align_aliases(&mut self, now: Micros) {
        let Some(registrar) = &mut self.registrar else { return };
        for AliasChange { seat, key, multi } in registrar.align_aliases(&self.names) {
            let target = self.names.alias_target(&key).unwrap_or_default();
            let text = match multi {
                Some(_) => format!("[{key}] online: alias of '{target}'"),
                None => format!("[{key}] offline: an alias no longer"),
            };
            self.log(Level::Notice, None, text);
            let message = match multi {
                Some(multi) => Message::Bound {
                    seat,
                    name: key,
                    multi,
                    default: false,
                    log: false,
                    bound_at: self.stamp_bind(now),
                },
                None => Message::Unbound { seat, name: key },
            };
            self.tell_all(now, &message);
        }
    }

    /// What the stock router's component of that name leaves behind is not in the way.
    fn make_way_for(&mut self, now: Micros, ask: &OwnedAsk) {
        if self.uplink.is_some()
            && let Some(key) = crate::jid::domain_key(&ask.name)
        {
            self.make_way(now, &key);
        }
    }

    /// Orders the holders of a service among nodes.
    pub(super) fn stamp_bind(&mut self, now: Micros) -> u64 {
        match &mut self.cluster {
            Some(cluster) => cluster.stamp(now).0,
            None => now,
        }
    }

    /// Shard 0: an unbind of a seat.
    pub(super) fn judge_unbind(&mut self, now: Micros, home: ShardId, seat: SeatId, frame: &[u8]) {
        let key = match header::read(frame) {
            Ok(Frame::Unbind { name: Some(name) }) => name
                .unescape()
                .and_then(|text| crate::jid::domain_key(&text).map(|key| key.into_owned())),
            _ => None,
        };
        let held = key.as_deref().is_some_and(|key| {
            self.registrar
                .as_mut()
                .is_some_and(|registrar| registrar.unbind(seat, key))
        });
        let mut answer = Vec::new();
        edit::unbind_answer(&mut answer, if held { None } else { Some("404") });
        self.tell(
            now,
            home,
            Message::BindAnswer {
                seat,
                answer: answer.into(),
                refused: None,
            },
        );
        if let Some(name) = key.filter(|_| held) {
            self.log(Level::Notice, None, format!("[{name}] offline: unbound"));
            self.tell_all(
                now,
                &Message::Unbound {
                    seat,
                    name: name.into(),
                },
            );
            self.align_aliases(now);
        }
    }

    /// Shard 0: a component came back without a name it had.
    pub(super) fn drop_name(&mut self, now: Micros, seat: SeatId, name: Box<str>) {
        if self
            .registrar
            .as_mut()
            .is_some_and(|registrar| registrar.unbind(seat, &name))
        {
            self.log(
                Level::Notice,
                None,
                format!("[{name}] offline: its component came back without it"),
            );
            self.tell_all(now, &Message::Unbound { seat, name });
            self.align_aliases(now);
        }
    }

    /// A seat's home: the registrar's answer to a further bind or an unbind.
    pub(super) fn answer_bind(&mut self, now: Micros, seat: SeatId, answer: &[u8], refused: Option<Box<str>>) {
        let Some(id) = self.seats.get(seat).and_then(|seat| seat.link) else {
            return;
        };
        let Some(link) = self.link_mut(id) else { return };
        let remote = link.remote;
        let was_paused = matches!(link.stage, Stage::Seated { asking: true, .. });
        link.stage = Stage::Seated { seat, asking: false };
        self.send(id, |out| out.extend_from_slice(answer));
        if let Some(refused) = refused {
            self.log(Level::Warning, Some(remote), refused.into());
        }
        if was_paused {
            self.pause(id, false);
        }
        // On shard 0 the question is answered while the link's frames are in hand: its caller goes on.
        if self.link(id).is_some_and(|link| link.has_scanner()) {
            self.go_on(now, id);
        }
    }

    /// A link takes its seat: at once on shard 0, or when it was adopted.
    pub(super) fn take_seat(&mut self, now: Micros, id: LinkId, cargo: &Luggage) {
        let Some(view) = self.names.seat(cargo.seat) else {
            return;
        };
        let (kind, name) = (view.kind, view.id.clone());
        let Some(link) = self.link_mut(id) else { return };
        let Some(who) = link.peer.clone() else { return };
        let remote = link.remote;
        link.stage = Stage::Seated {
            seat: cargo.seat,
            asking: false,
        };
        let held = self.names.iter().filter(|(_, name)| name.holders.contains(&cargo.seat));
        // Its aliases may have been told before its link came.
        let held: Vec<Box<str>> = held.map(|(key, _)| key.into()).filter(|key| *key != name).collect();
        let seat = self.seats.get_or_insert_with(cargo.seat, || {
            let mut seat = Seat::new(kind, &name, who.clone(), remote, now);
            seat.names.extend(held);
            seat
        });
        seat.link = Some(id);
        seat.remote = remote;
        seat.who = who;
        seat.since = now;
        seat.throttled = false;
        if let Ok(Frame::Bind(bind)) = header::read(&cargo.bind) {
            self.send(id, |out| edit::bind_answer(out, &cargo.bind, &bind, None));
        }
        if cargo.back {
            // Before the question: who has left meanwhile must not be asked about.
            self.handle_early(now, id);
            if self.seats.get(cargo.seat).is_none_or(|seat| seat.link != Some(id)) {
                return;
            }
            self.came_back(now, cargo.seat);
        }
        self.greet(cargo.seat, !cargo.back);
        self.pause(id, false);
        self.handle_early(now, id);
        if self.link(id).is_some_and(|link| link.has_scanner()) {
            self.go_on(now, id);
        }
    }
}

fn refusal_text(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::BadRequest => "no name, or not a valid one (400)",
        Refusal::Forbidden => "not allowed to this user by <aci> (403)",
        Refusal::Conflict => "already bound by another component (409)",
    }
}

fn kind_shown(kind: SeatKind, multi: Multi, default: bool) -> SeatKind {
    match kind {
        SeatKind::Native if multi == Multi::To => SeatKind::Sm,
        SeatKind::Native if default => SeatKind::S2s,
        other => other,
    }
}

/// What a bind asks for, unescaped.
pub(super) struct OwnedAsk {
    name: String,
    multi: Option<String>,
    default: bool,
    log: bool,
    redirect: bool,
}

impl OwnedAsk {
    fn borrow(&self) -> Ask<'_> {
        Ask {
            name: &self.name,
            multi: self.multi.as_deref(),
            default: self.default,
            log: self.log,
        }
    }
}

fn owned_ask(bind: &Bind<'_>) -> OwnedAsk {
    OwnedAsk {
        name: bind
            .name
            .and_then(|name| name.unescape())
            .unwrap_or_default()
            .into_owned(),
        multi: bind
            .multi
            .and_then(|multi| multi.unescape())
            .map(|multi| multi.into_owned()),
        default: bind.default,
        log: bind.log,
        redirect: bind.redirect,
    }
}

fn first_ask(frame: &[u8], kind: &PeerKind) -> Option<OwnedAsk> {
    match kind {
        PeerKind::Foreign { name, .. } => Some(OwnedAsk {
            name: name.clone(),
            multi: None,
            default: false,
            log: false,
            redirect: false,
        }),
        PeerKind::Native { .. } => match header::read(frame) {
            Ok(Frame::Bind(bind)) => Some(owned_ask(&bind)),
            _ => None,
        },
    }
}
