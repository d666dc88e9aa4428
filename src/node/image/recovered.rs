//! An image is made of what a process wrote down before it died: all its links are lost.

use super::{Image, PackedClients, Share, pack_user};
use crate::node::grace::session_end;
use crate::node::link::Who;
use crate::node::recovery::Kept;
use crate::node::seat::{Life, Seat};
use crate::table::clients::Client;
use crate::table::link::Micros;
use crate::table::names::{Names, SeatView};
use crate::table::registrar::Registrar;
use crate::table::users::{Stage, User};
use crate::table::{SeatId, SeatKind, ShardId, image};
use crate::wire::accept::PeerKind;
use crate::wire::validate::Prefixes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Names and seats as they are written down.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::node) struct House {
    names: Names,
    registrar: Registrar,
}

impl House {
    pub(in crate::node) fn new(names: &Names, registrar: &Registrar) -> House {
        House {
            names: names.clone(),
            registrar: registrar.clone(),
        }
    }
}

impl Image {
    /// What a file holds behind its first line, for so many shards. Its components are waited for until `until`.
    ///
    /// # Errors
    /// It is no such file, or a part of it can't be read; in an operator's words.
    pub fn recovered(file: &[u8], shards: ShardId, until: Micros) -> Result<Image, String> {
        let mut last: BTreeMap<&str, &[u8]> = BTreeMap::new();
        for (_, key, content) in image::records(file) {
            last.insert(key, content);
        }
        let house: House = image::read(last.remove("").ok_or("it names no component")?)?;
        let mut seats: BTreeMap<SeatId, Seat> = BTreeMap::new();
        for (id, view) in house.names.seats().filter(|(_, view)| view.peer.is_none()) {
            seats.insert(id, lost_seat(&house, id, view, until));
        }
        let (mut users, mut sessions) = (Vec::new(), 0);
        for (bare, content) in last.into_iter().filter(|(_, content)| !content.is_empty()) {
            let Kept { user } = image::read(content)?;
            if let Some(user) = user_of_these(&mut seats, bare, user) {
                sessions += user.sessions.len();
                pack_user(&mut users, bare, &user)?;
            }
        }
        let mut clients = Vec::new();
        for (id, seat) in &mut seats {
            seat.recovered = Some(seat.clients.len());
            clients.push(PackedClients::of(*id, &std::mem::take(&mut seat.clients))?);
        }
        let share = Share {
            shard: 0,
            names: Some(house.names),
            registrar: Some(house.registrar),
            seats: seats.into_iter().collect(),
            links: Vec::new(),
            clients,
            users,
            sessions,
            fences: 0,
            questions: 0,
            surrogates: 0,
            farewells: None,
            returned: None,
            orphans: Vec::new(),
            parted: Default::default(),
            held_at_loss: Vec::new(),
            counters: Vec::new(),
            closed: Vec::new(),
            cluster: None,
            uplink: None,
        };
        Image::new(vec![share], shards).map_err(str::to_owned)
    }
}

fn lost_seat(house: &House, id: SeatId, view: &SeatView, until: Micros) -> Seat {
    let kind = match view.kind {
        SeatKind::Xep0114 => PeerKind::Foreign {
            name: view.id.to_string(),
            prefixes: Prefixes::default(),
        },
        _ => PeerKind::Native {
            user: house.registrar.user_of(id).unwrap_or_default().to_owned(),
        },
    };
    // Where it was connected is told when it is back.
    let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
    let mut seat = Seat::new(view.kind, &view.id, Who::new(kind, Prefixes::default()), nowhere, 0);
    let held = house.names.iter().filter(|(_, name)| name.holders.contains(&id));
    seat.names
        .extend(held.map(|(key, _)| Box::from(key)).filter(|key| *key != view.id));
    seat.life = Life::Lost { until };
    seat
}

/// A user as far as his components are known: his sessions become clients of their c2s, and what his sm had not answered
/// is said to it again.
fn user_of_these(seats: &mut BTreeMap<SeatId, Seat>, bare: &str, mut user: User) -> Option<User> {
    let sm = user.sm.filter(|sm| seats.contains_key(sm));
    user.sessions
        .retain(|session| sm.is_some() && seats.contains_key(&session.c2s));
    for session in &user.sessions {
        let (Some(sm), Some(c2s)) = (sm, seats.get_mut(&session.c2s)) else {
            continue;
        };
        let client = Client {
            token: session.token,
            sm,
            bare: bare.into(),
            active: session.shown,
            doubted: false,
            recovered: true,
            ending: session.ending,
        };
        c2s.clients.insert(session.number, client);
        if !session.shown {
            c2s.unproven.push_back((0, session.number, session.token));
        }
        let c2s = c2s.id.clone();
        if let Some(state) = seats.get_mut(&sm).filter(|_| session.ending) {
            let end = session_end(&state.id, &c2s, session.number, &session.token);
            state.unanswered.keep_frame(&end);
        }
    }
    if let Some(flux) = &mut user.flux {
        flux.starts.retain(|start| seats.contains_key(&start.c2s));
        for start in &mut flux.starts {
            match (start.stage, sm.and_then(|sm| seats.get_mut(&sm))) {
                (Stage::Sent, Some(state)) => state.unanswered.keep_frame(&start.frame),
                _ => start.stage = Stage::Waiting,
            }
        }
    }
    user.sm = sm;
    user.is_worth_recovering().then_some(user)
}
