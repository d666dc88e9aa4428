//! The shards of a node and components at their links, in one thread, without sockets.

use jidmesh::config::{Config, DEFAULT_SECRET};
use jidmesh::node::Shard;
use jidmesh::node::api::{Action, LinkId, ShardId};
use jidmesh::wire::connect::{Connect, ConnectStep, Connecting};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use std::sync::Arc;

/// What the shell does for the shards, as far as frames need it.
pub(crate) struct Node {
    shards: Vec<Shard>,
    actions: Vec<Action>,
    /// The memory that each link's next chunk goes into.
    spare: Vec<u8>,
    /// Where each component's link is: shard, link, and what was written to it during the set-up.
    places: Vec<(ShardId, LinkId, Vec<u8>)>,
    /// What is written is kept for its component.
    keeps: bool,
    pub(crate) bytes_out: u64,
}

/// Index of a component.
pub(crate) type Seat = usize;

impl Node {
    pub(crate) fn new(shards: ShardId) -> Node {
        let config = Arc::new(Config::embedded());
        Node {
            shards: (0..shards)
                .map(|id| Shard::new(id, shards, config.clone(), [7; 32]))
                .collect(),
            actions: Vec::new(),
            spare: Vec::new(),
            places: Vec::new(),
            keeps: true,
            bytes_out: 0,
        }
    }

    /// Logs a component in and binds its names; one that begins with `*` is shared, as an sm's domain is.
    pub(crate) fn component(&mut self, names: &[&str]) -> Seat {
        let link = self.shards[0].opened(1, ([127, 0, 0, 1], 40_000).into());
        let seat = self.places.len();
        self.places.push((0, link, Vec::new()));
        let mut login = Connect::new(Connecting::Native {
            user: "jabberd".into(),
            pass: DEFAULT_SECRET.into(),
            starttls: false,
            hostname: "localhost".into(),
        });
        let mut rng = ChaCha20Rng::from_seed([3; 32]);
        let (mut input, mut out) = (Vec::new(), Vec::new());
        login.start(&mut out);
        loop {
            self.receive(seat, &std::mem::take(&mut out));
            input.append(&mut self.places[seat].2);
            match login.feed(&mut input, &mut out, &mut rng) {
                ConnectStep::Need => {}
                ConnectStep::Done(_) => break,
                other => panic!("login: {other:?}"),
            }
        }
        self.receive(seat, &out);
        for name in names {
            let (name, multi) = name.strip_prefix('*').map_or((*name, ""), |name| (name, " multi='to'"));
            self.receive(
                seat,
                format!("<bind xmlns='http://jabberd.jabberstudio.org/ns/component/1.0' name='{name}'{multi}/>")
                    .as_bytes(),
            );
        }
        seat
    }

    /// From here on what is written is only counted.
    pub(crate) fn forget_output(&mut self) {
        self.keeps = false;
        self.bytes_out = 0;
    }

    /// Takes what was written to a component.
    pub(crate) fn take(&mut self, seat: Seat) -> Vec<u8> {
        std::mem::take(&mut self.places[seat].2)
    }

    /// A component writes, and everything that follows from it happens.
    pub(crate) fn receive(&mut self, seat: Seat, bytes: &[u8]) {
        let (shard, link, _) = self.places[seat];
        self.shards[usize::from(shard)].received(2, link, bytes);
        self.turn();
    }

    fn turn(&mut self) {
        loop {
            let mut quiet = true;
            for id in 0..self.shards.len() {
                let mut actions = std::mem::take(&mut self.actions);
                self.shards[id].take_actions(&mut actions);
                for action in actions.drain(..) {
                    quiet = false;
                    self.act(id, action);
                }
                self.actions = actions;
            }
            if self.shards.len() > 1 {
                quiet &= !self.lanes();
            }
            if quiet {
                return;
            }
        }
    }

    /// Carries what the shards have for each other; true if there was anything.
    fn lanes(&mut self) -> bool {
        let mut any = false;
        for to in 0..self.shards.len() {
            let target = ShardId::try_from(to).expect("few shards");
            let (mut control, mut data) = (Vec::new(), Vec::new());
            for (from, shard) in self.shards.iter_mut().enumerate().filter(|(from, _)| *from != to) {
                let from = ShardId::try_from(from).expect("few shards");
                data.extend(shard.take_data(target).map(|batch| (from, batch)));
                let messages = shard.take_control(target);
                if !messages.is_empty() {
                    control.push((from, messages));
                }
            }
            if !control.is_empty() || !data.is_empty() {
                any = true;
                self.shards[to].lanes(2, &mut control, &mut data);
            }
        }
        any
    }

    fn act(&mut self, shard: usize, action: Action) {
        let here = ShardId::try_from(shard).expect("few shards");
        match action {
            Action::Output(link) => {
                let mut chunk = std::mem::take(&mut self.spare);
                self.shards[shard].take_output(2, link, &mut chunk);
                self.shards[shard].written(2, link, chunk.len());
                if self.keeps
                    && let Some(place) = self.places.iter_mut().find(|place| (place.0, place.1) == (here, link))
                {
                    place.2.extend_from_slice(&chunk);
                }
                self.bytes_out += chunk.len() as u64;
                chunk.clear();
                self.spare = chunk;
            }
            Action::Move { link, to, cargo } => {
                let new = self.shards[usize::from(to)].adopt(2, cargo);
                for place in self
                    .places
                    .iter_mut()
                    .filter(|place| (place.0, place.1) == (here, link))
                {
                    (place.0, place.1) = (to, new);
                }
                self.act(usize::from(to), Action::Output(new));
            }
            Action::Close(_) => panic!("a component was closed"),
            _ => {}
        }
    }
}
