//! A router gives way to another process, which may have more shards or fewer.

use super::link::{Conn, Far, Fate};
use super::world::{Event, World};
use crate::node::api::{CloseCause, LinkId, Micros};
use crate::node::image::{Former, Image, Restored, Share};
use crate::table::{ShardId, image};
use std::collections::HashMap;

/// So long may links that are being authenticated put it off; then nothing is taken over.
pub(super) const PATIENCE_US: Micros = 2_000_000;

impl World {
    pub(super) fn take_over(&mut self, node: usize, until: Micros) {
        let it = &self.machines[node];
        if !it.running || self.now > until {
            return;
        }
        let frozen = it.frozen_until.iter().any(|until| *until > self.now);
        let moves = |conn: &Conn| conn.node == node && matches!(conn.fate, Fate::Moving { .. });
        if frozen || self.conns.iter().any(moves) || it.shards.iter().any(|shard| shard.unsettled() > 0) {
            return self.after(20_000, Event::TakeOver(node, until));
        }
        self.end_what_ends(node);
        self.bring_to_rest(node);
        let former = self.links_of(node);
        let Some(shares) = self.shares(node) else {
            return self.after(20_000, Event::TakeOver(node, until));
        };
        self.note(|| format!("node {node}: another process takes over"));
        self.summary.take_overs += 1;
        self.plan.shards = self.rng.between(1, 4) as ShardId;
        let machine = self.machines[node].successor(&self.plan, node, self.now, &mut self.rng);
        self.machines[node] = machine;
        let image = match Image::new(shares, self.plan.shards) {
            Ok(image) => image,
            Err(why) => return self.fail(format!("no image of node {node}: {why}")),
        };
        self.begin_anew(node, &image, former);
    }

    /// Links that are being closed have had their time.
    fn end_what_ends(&mut self, node: usize) {
        for conn in 0..self.conns.len() {
            if matches!(self.conns[conn].fate, Fate::Closing) && self.conns[conn].node == node {
                self.router_gone(conn, CloseCause::Local);
            }
        }
    }

    fn links_of(&self, node: usize) -> HashMap<Former, usize> {
        let links = self.machines[node].links.iter();
        let former = |(shard, slot, generation): (ShardId, u32, u32)| Former::new(shard, LinkId { slot, generation });
        links.map(|(key, conn)| (former(*key), *conn)).collect()
    }

    /// The image as it arrives at the other process.
    fn shares(&mut self, node: usize) -> Option<Vec<Share>> {
        let now = self.clock(node);
        let shares = self.machines[node]
            .shards
            .iter_mut()
            .map(|shard| shard.share(now, |_| (&[], 0)));
        let images: Result<Vec<Vec<u8>>, _> = shares
            .map(|share| share.map(|share| image::write(&share).expect("an image is written")))
            .collect();
        let read = |bytes: &Vec<u8>| image::read(bytes).expect("an image is read");
        match images {
            Ok(images) => Some(images.iter().map(read).collect()),
            Err(why) => {
                // Its old process goes on.
                self.note(|| format!("node {node}: no image: {why}"));
                let shards = self.machines[node].shards.len();
                (0..shards).for_each(|shard| self.act(node, shard as ShardId));
                None
            }
        }
    }

    fn begin_anew(&mut self, node: usize, image: &Image, mut former: HashMap<Former, usize>) {
        for shard in 0..self.plan.shards {
            let (brain, now) = self.brain(node, shard);
            for Restored { former: was, link, .. } in brain.restore(now, image).expect("an image is restored") {
                let Some(conn) = former.remove(&was) else {
                    return self.fail(format!("{was:?} is no link"));
                };
                self.conns[conn].place = Some((shard, link));
                self.conns[conn].paused = false;
                self.machines[node]
                    .links
                    .insert((shard, link.slot, link.generation), conn);
            }
        }
        let mut left: Vec<usize> = former.into_values().collect();
        left.sort_unstable();
        for conn in left {
            // Its router knows nothing of it.
            if self.conns[conn].far != Far::Nobody {
                self.cut(conn);
            }
            let it = &mut self.conns[conn];
            (it.fate, it.place, it.lost_its_router) = (Fate::Gone, None, true);
            it.up.clear();
        }
        for shard in 0..self.plan.shards {
            let (brain, now) = self.brain(node, shard);
            brain.resume(now);
            self.act(node, shard);
        }
        let conns: Vec<usize> = self.machines[node].links.values().copied().collect();
        for conn in conns {
            self.read_soon(conn);
            self.write_soon(conn);
        }
    }
}
