//! A shard's share is taken.

use super::{Former, LinkRow, PackedClients, Share, counter_key, pack_user};
use crate::node::counters::Counter;
use crate::node::grace::unwritten;
use crate::node::link::{Link, Stage};
use crate::node::seat::{Life, Seat};
use crate::node::{SELF, Shard};
use crate::table::SeatId;
use crate::table::link::{LinkId, Micros};
use crate::table::users::User;
use crate::wire::scan::Scanner;
use std::collections::HashMap;

/// About what a user takes, packed.
const USER_BYTES: usize = 128;

/// Seats without their clients, and these.
type SeatsAndClients = (Vec<(SeatId, Seat)>, Vec<PackedClients>);

impl Shard {
    /// What another process can't take over yet, and what is soon over: links whose other side has yet to say who it is,
    /// what is left of lost components.
    pub fn unsettled(&self) -> usize {
        let unseated = |link: &&Link| {
            matches!(
                link.stage,
                Stage::Negotiating(_)
                    | Stage::Unseated
                    | Stage::Contending { .. }
                    | Stage::Arriving
                    | Stage::Leaving
                    | Stage::Stranger(..)
            )
        };
        self.links.iter().filter(unseated).count() + self.winding_up()
    }

    fn winding_up(&self) -> usize {
        let recalls = self.seats.iter().filter(|(_, seat)| !seat.recalls.is_empty());
        self.remains.len() + recalls.count()
    }

    /// This shard's share of the node's image. Between shards nothing may be under way. `taken`: the chunk whose writing
    /// is not done, and how much of it is.
    ///
    /// # Errors
    /// The shard is not at rest.
    pub fn share<'t>(&mut self, now: Micros, taken: impl Fn(LinkId) -> (&'t [u8], usize)) -> Result<Share, String> {
        let under_way = self.control.iter().any(|messages| !messages.is_empty())
            || self.data.iter().any(|batch| !batch.is_empty())
            || !self.early.is_empty()
            || self.leaving.is_some()
            || self.departing.is_some();
        if under_way {
            return Err("something is under way between its shards".into());
        }
        if self.winding_up() > 0 {
            return Err("what waited for a lost component is on its way back: try again".into());
        }
        let cluster = self.cluster_share()?;
        let (mut seats, clients) = self.seats_and_clients()?;
        let mut links = Vec::new();
        for (id, seat) in seats.iter_mut().filter(|(_, seat)| !seat.behind) {
            let Some((link, state)) = seat.link.and_then(|link| Some((link, self.link(link)?))) else {
                continue;
            };
            let scanner = state
                .scanner
                .as_ref()
                .filter(|scanner| scanner.can_be_left() && !state.tls);
            match scanner {
                Some(_) if !matches!(state.stage, Stage::Seated { asking: false, .. }) => {
                    return Err("a bind is being judged".into());
                }
                Some(scanner) => links.push(self.link_row(*id, link, state, scanner)),
                None => self.cut_off(now, seat, state, taken(link)),
            }
        }
        let uplink = self.uplink_to_hand_over(now)?.map(|(uplink, lines)| {
            let states = lines
                .into_iter()
                .filter_map(|(at, link)| Some((at, link, self.link(link)?)));
            links.extend(states.filter_map(|(at, link, state)| {
                let row = self.link_row(SELF, link, state, state.scanner.as_ref()?);
                Some(LinkRow { line: Some(at), ..row })
            }));
            uplink
        });
        let (surrogates, untold) = self.surrogates_to_hand_over();
        Ok(Share {
            shard: self.id,
            names: self.registrar.is_some().then(|| self.names.clone()),
            registrar: self.registrar.clone(),
            seats,
            links,
            clients,
            users: self.users_with(&untold)?,
            sessions: self.users.sessions(),
            fences: self.fences.values().map(|fences| fences.last()).max().unwrap_or(0),
            questions: self.questions,
            surrogates,
            orphans: self.all_orphans(),
            parted: self.parted.clone(),
            held_at_loss: self.held_at_loss.iter().map(|(sm, held)| (*sm, held.clone())).collect(),
            farewells: (self.id == 0).then(|| self.farewells.clone()),
            returned: (self.id == 0).then(|| self.returned.clone()),
            counters: Counter::ALL
                .iter()
                .map(|counter| (counter_key(*counter), self.counters.get(*counter)))
                .filter(|(_, value)| *value > 0)
                .collect(),
            closed: self.closed_links.share(),
            cluster,
            uplink,
        })
    }

    fn link_row(&self, seat: SeatId, link: LinkId, state: &Link, scanner: &Scanner) -> LinkRow {
        LinkRow {
            former: Former::new(self.id, link),
            seat,
            line: None,
            remote: state.remote,
            root: scanner.root().to_vec(),
            carry: state.carry.clone(),
            early: state.early.clone(),
            out: state.out.clone(),
            in_flight: state.in_flight,
            opened_at: state.opened_at,
            progress_at: state.progress_at,
        }
    }

    /// A link that can't be handed over: its seat has lost it.
    fn cut_off(&self, now: Micros, seat: &mut Seat, state: &Link, (chunk, written): (&[u8], usize)) {
        let mut queue = unwritten(self.limits, chunk, written, &state.out);
        queue.append(&mut seat.queue);
        seat.queue = queue;
        seat.life = Life::Lost {
            until: now + self.config.grace_ms * 1_000,
        };
    }

    /// All seats, and their clients.
    fn seats_and_clients(&mut self) -> Result<SeatsAndClients, String> {
        let (mut seats, mut packed) = (Vec::new(), Vec::new());
        for (id, seat) in self.seats.iter_mut() {
            // There are too many of them for a copy.
            let clients = std::mem::take(&mut seat.clients);
            seats.push((id, seat.clone()));
            seat.clients = clients;
            if !seat.clients.is_empty() {
                packed.push(PackedClients::of(id, &seat.clients)?);
            }
        }
        Ok((seats, packed))
    }

    /// All users, with those sessions whose contacts are to be told anew.
    fn users_with(&self, untold: &[(&str, &str)]) -> Result<Vec<u8>, String> {
        let mut of_user: HashMap<&str, Vec<Box<str>>> = HashMap::new();
        for (bare, resource) in untold {
            of_user.entry(bare).or_default().push((*resource).into());
        }
        let mut users = Vec::with_capacity(self.users.len() * USER_BYTES);
        for (bare, user) in self.users.iter() {
            match of_user.remove(bare) {
                None => pack_user(&mut users, bare, user)?,
                Some(untold) => {
                    let mut user = user.clone();
                    user.flux().untold.extend(untold);
                    pack_user(&mut users, bare, &user)?;
                }
            }
        }
        for (bare, untold) in of_user {
            let mut user = User::default();
            user.flux().untold = untold;
            pack_user(&mut users, bare, &user)?;
        }
        Ok(users)
    }
}
