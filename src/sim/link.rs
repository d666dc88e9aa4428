//! Connections: bytes cut anywhere, late, bounded; and the account of what was inside when one breaks.

use super::wire::UNHEARD_OF_MAX;
use super::world::{Event, World};
use crate::node::Cargo;
use crate::node::api::{CLOSE_FLUSH_MS, CloseCause, LinkId, Micros};
use crate::table::ShardId;
use crate::wire::scan::{Item, Limits, Scanner};
use std::collections::VecDeque;
use std::net::SocketAddr;

/// What becomes of the router's end.
#[derive(Debug)]
pub(super) enum Fate {
    /// It was asked for, and nobody has answered.
    Dialing,
    Serving,
    Closing,
    Moving {
        to: ShardId,
        cargo: Box<Cargo>,
        broken: Option<CloseCause>,
    },
    /// In a lane.
    Flying,
    Gone,
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Far {
    Part(usize),
    /// Another node: its end is a connection of its own.
    Node(usize),
    /// Nobody answered yet.
    Nobody,
}

/// One connection, as one router sees it.
#[derive(Debug)]
pub(super) struct Conn {
    /// Whose router it is a link of.
    pub(super) node: usize,
    pub(super) far: Far,
    pub(super) place: Option<(ShardId, LinkId)>,
    pub(super) fate: Fate,
    pub(super) paused: bool,
    /// Broken in between: neither end's bytes reach the other any more.
    pub(super) cut: bool,
    /// The component's end is open.
    pub(super) open: bool,
    pub(super) up: VecDeque<u8>,
    up_sent: u64,
    up_read: u64,
    /// Frames the component wrote, with their ends in the stream.
    up_frames: VecDeque<(u64, String)>,
    pub(super) chunk: Vec<u8>,
    pub(super) written: usize,
    pub(super) writing: bool,
    pub(super) moved_written: usize,
    pub(super) down: VecDeque<u8>,
    /// Bytes for the component that never reach it.
    void: Vec<u8>,
    reading_soon: bool,
    writing_soon: bool,
    pub(super) hearing_soon: bool,
    /// Nothing crosses it in this direction before this time.
    pub(super) clogged_until: Micros,
    /// Bytes that may still cross it though no acknowledgement comes back.
    pub(super) unheard_of: usize,
    /// The router died, and told nobody.
    pub(super) lost_its_router: bool,
}

impl Conn {
    pub(super) fn new(node: usize, far: Far, place: Option<(ShardId, LinkId)>) -> Conn {
        Conn {
            node,
            far,
            place,
            fate: Fate::Serving,
            paused: false,
            cut: false,
            open: true,
            up: VecDeque::new(),
            up_sent: 0,
            up_read: 0,
            up_frames: VecDeque::new(),
            chunk: Vec::new(),
            written: 0,
            writing: false,
            moved_written: 0,
            down: VecDeque::new(),
            void: Vec::new(),
            reading_soon: false,
            writing_soon: false,
            hearing_soon: false,
            clogged_until: 0,
            unheard_of: UNHEARD_OF_MAX,
            lost_its_router: false,
        }
    }

    /// The component at the other end.
    pub(super) fn part(&self) -> Option<usize> {
        match self.far {
            Far::Part(part) => Some(part),
            _ => None,
        }
    }
}

impl World {
    /// A component opens a connection.
    pub(super) fn connect(&mut self, part: usize) -> usize {
        let (conn, node) = (self.conns.len(), self.parts[part].node);
        let remote = SocketAddr::from(([127, 0, 0, 1], 1_024 + (conn % 60_000) as u16));
        let (brain, now) = self.brain(node, 0);
        let link = brain.opened(now, remote);
        self.conns.push(Conn::new(node, Far::Part(part), Some((0, link))));
        self.machines[node].links.insert((0, link.slot, link.generation), conn);
        self.act(node, 0);
        conn
    }

    /// The component writes a frame.
    pub(super) fn send(&mut self, conn: usize, frame: String) {
        let it = &mut self.conns[conn];
        if it.cut || !it.open || matches!(it.fate, Fate::Gone) {
            return self.lost(conn, &frame);
        }
        it.up.extend(frame.as_bytes());
        it.up_sent += frame.len() as u64;
        it.up_frames.push_back((it.up_sent, frame));
        self.read_soon(conn);
    }

    pub(super) fn read_soon(&mut self, conn: usize) {
        let delay = self.rng.delay(self.plan.delay_us, self.plan.delay_us * 20);
        let it = &mut self.conns[conn];
        if !it.reading_soon {
            it.reading_soon = true;
            self.after(delay, Event::Read(conn));
        }
    }

    pub(super) fn write_soon(&mut self, conn: usize) {
        let delay = self.rng.delay(self.plan.delay_us, self.plan.delay_us * 10);
        let it = &mut self.conns[conn];
        if !it.writing_soon {
            it.writing_soon = true;
            self.after(delay, Event::Write(conn));
        }
    }

    pub(super) fn hear_soon(&mut self, conn: usize) {
        let usual = match self.conns[conn].part() {
            Some(_) => self.plan.delay_us,
            None => self.plan.mesh.usual_us,
        };
        let delay = self.rng.delay(usual, usual * 20);
        let it = &mut self.conns[conn];
        if !it.hearing_soon {
            it.hearing_soon = true;
            self.after(delay, Event::Hear(conn));
        }
    }

    pub(super) fn router_reads(&mut self, conn: usize) {
        self.conns[conn].reading_soon = false;
        let it = &self.conns[conn];
        let (Some((shard, link)), Fate::Serving, false) = (it.place, &it.fate, it.paused) else {
            return;
        };
        let node = it.node;
        if let Some(later) = self.machines[node].reads_from(shard, self.now) {
            self.conns[conn].reading_soon = true;
            return self.at(later, Event::Read(conn));
        }
        if !it.up.is_empty() {
            let all = it.up.len();
            let count = match self.rng.below(10) {
                0 => 1,
                1..6 => 1 + self.rng.index(all.min(700)),
                _ => all,
            };
            let it = &mut self.conns[conn];
            let bytes: Vec<u8> = it.up.drain(..count).collect();
            it.up_read += count as u64;
            while it.up_frames.front().is_some_and(|(end, _)| *end <= it.up_read) {
                it.up_frames.pop_front();
            }
            let (brain, now) = self.brain(node, shard);
            brain.received(now, link, &bytes);
            self.act(node, shard);
        }
        let it = &self.conns[conn];
        if !it.up.is_empty() {
            self.read_soon(conn);
        } else if !it.open && !it.cut {
            self.after(1, Event::RouterEnd(conn, CloseCause::Eof));
        }
        if let Far::Node(other) = self.conns[conn].far {
            self.hear_soon(other);
        }
    }

    pub(super) fn router_writes(&mut self, conn: usize) {
        self.conns[conn].writing_soon = false;
        let it = &self.conns[conn];
        let Some((shard, link)) = it.place else { return };
        let node = it.node;
        if self.machines[node].frozen_until[usize::from(shard)] > self.now {
            let later = self.machines[node].frozen_until[usize::from(shard)];
            self.conns[conn].writing_soon = true;
            return self.at(later, Event::Write(conn));
        }
        if !it.writing && !self.next_chunk(conn, shard, link) {
            return;
        }
        let it = &mut self.conns[conn];
        let deaf = it.cut || !it.open;
        let room = if deaf {
            usize::MAX
        } else {
            let window = if it.part().is_some() {
                self.plan.window
            } else {
                self.plan.mesh.window
            };
            window.saturating_sub(it.down.len())
        };
        let rest = it.chunk.len() - it.written;
        if room == 0 {
            // Woken again when the component has read.
            return;
        }
        let count = if self.rng.chance(70) {
            rest
        } else {
            1 + self.rng.index(rest)
        }
        .min(room);
        let it = &mut self.conns[conn];
        let bytes = &it.chunk[it.written..it.written + count];
        if deaf && it.part().is_none() {
            // Whatever it is, the mesh sends it once more.
        } else if deaf {
            it.void.extend_from_slice(bytes);
        } else {
            it.down.extend(bytes);
        }
        it.written += count;
        let done = it.written == it.chunk.len();
        if done {
            it.writing = false;
            it.chunk.clear();
        }
        if matches!(it.fate, Fate::Moving { .. }) {
            it.moved_written += count;
        } else {
            let (brain, now) = self.brain(node, shard);
            brain.written(now, link, count);
            self.act(node, shard);
        }
        self.hear_soon(conn);
        self.write_soon(conn);
    }

    /// Takes the next chunk; false when there is nothing to write (any more).
    fn next_chunk(&mut self, conn: usize, shard: ShardId, link: LinkId) -> bool {
        match self.conns[conn].fate {
            Fate::Moving { .. } => {
                self.hand_over(conn);
                return false;
            }
            Fate::Gone | Fate::Flying | Fate::Dialing => return false,
            Fate::Serving | Fate::Closing => {}
        }
        let node = self.conns[conn].node;
        let mut chunk = Vec::new();
        self.machines[node].shards[usize::from(shard)].take_output(self.now, link, &mut chunk);
        let it = &mut self.conns[conn];
        it.written = 0;
        it.writing = !chunk.is_empty();
        it.chunk = chunk;
        if !it.writing && matches!(it.fate, Fate::Closing) {
            self.router_gone(conn, CloseCause::Local);
            return false;
        }
        self.conns[conn].writing
    }

    pub(super) fn begin_close(&mut self, conn: usize) {
        let it = &mut self.conns[conn];
        if matches!(it.fate, Fate::Dialing) {
            self.after(1, Event::RouterEnd(conn, CloseCause::Local));
        } else if matches!(it.fate, Fate::Serving) {
            it.fate = Fate::Closing;
            self.write_soon(conn);
            self.after(CLOSE_FLUSH_MS * 1_000, Event::Flushed(conn));
        }
    }

    pub(super) fn flushed(&mut self, conn: usize) {
        if matches!(self.conns[conn].fate, Fate::Closing) {
            self.router_gone(conn, CloseCause::Local);
        }
    }

    /// The router's socket tells that it is over.
    pub(super) fn router_end(&mut self, conn: usize, cause: CloseCause) {
        let node = self.conns[conn].node;
        let it = &mut self.conns[conn];
        let frozen = it
            .place
            .map_or(0, |(shard, _)| self.machines[node].frozen_until[usize::from(shard)]);
        match &mut it.fate {
            Fate::Gone => {}
            _ if frozen > self.now => self.at(frozen, Event::RouterEnd(conn, cause)),
            Fate::Flying => self.after(1_000, Event::RouterEnd(conn, cause)),
            Fate::Moving { broken, .. } => {
                *broken = Some(cause);
                self.hand_over(conn);
            }
            Fate::Closing => self.router_gone(conn, CloseCause::Local),
            Fate::Serving | Fate::Dialing => self.router_gone(conn, cause),
        }
    }

    /// The router's end is closed: the brain is told, and what was inside is put to account.
    pub(super) fn router_gone(&mut self, conn: usize, cause: CloseCause) {
        let it = &mut self.conns[conn];
        it.fate = Fate::Gone;
        let Some((shard, link)) = it.place.take() else { return };
        let node = it.node;
        let chunk = if it.writing {
            std::mem::take(&mut it.chunk)
        } else {
            Vec::new()
        };
        let written = if chunk.is_empty() { 0 } else { it.written };
        let mut void = std::mem::take(&mut it.void);
        let whole = void.len();
        let deaf = (it.cut || !it.open) && it.part().is_some();
        it.up.clear();
        let unread = std::mem::take(&mut it.up_frames);
        it.writing = false;
        self.machines[node].links.remove(&(shard, link.slot, link.generation));
        if deaf {
            void.extend_from_slice(&chunk[written..]);
            for frame in frames_begun(&void, whole) {
                self.lost(conn, &frame);
            }
        } else if cause != CloseCause::Local && it.part().is_some() {
            self.note(|| format!("conn {conn}: over, though it is not broken"));
        }
        for (_, frame) in unread {
            self.lost(conn, &frame);
        }
        self.note(|| format!("router: conn {conn} over: {cause:?}"));
        let (brain, now) = self.brain(node, shard);
        brain.closed(now, link, cause, chunk, written);
        self.act(node, shard);
        self.hear_soon(conn);
    }

    /// The connection breaks in between; each end learns of it in its own time.
    pub(super) fn cut(&mut self, conn: usize) {
        let it = &mut self.conns[conn];
        if it.cut {
            return;
        }
        it.cut = true;
        if let Far::Node(other) = it.far {
            return self.cut_between(conn, other);
        }
        if let Far::Part(part) = self.conns[conn].far {
            self.parts[part].down_since.get_or_insert(self.now);
        }
        self.swallow(conn);
        let (router, part) = (self.rng.delay(50_000, 3_000_000), self.rng.delay(50_000, 1_000_000));
        self.after(router, Event::RouterEnd(conn, CloseCause::Reset));
        self.after(part, Event::PartEnd(conn));
        self.write_soon(conn);
    }

    /// The component closes its end. In order: what it wrote arrives; else it does not.
    pub(super) fn part_closes(&mut self, conn: usize, in_order: bool) {
        if !self.conns[conn].open {
            return;
        }
        self.conns[conn].open = false;
        if in_order && !self.conns[conn].cut {
            self.swallow_down(conn);
            self.read_soon(conn);
        } else if !self.conns[conn].cut {
            self.conns[conn].cut = true;
            self.swallow(conn);
            let router = self.rng.delay(50_000, 1_000_000);
            self.after(router, Event::RouterEnd(conn, CloseCause::Reset));
        }
        self.write_soon(conn);
    }

    fn swallow(&mut self, conn: usize) {
        self.swallow_down(conn);
        let it = &mut self.conns[conn];
        it.up.clear();
        for (_, frame) in std::mem::take(&mut it.up_frames) {
            self.lost(conn, &frame);
        }
    }

    fn swallow_down(&mut self, conn: usize) {
        let it = &mut self.conns[conn];
        let down: Vec<u8> = it.down.drain(..).collect();
        let Far::Part(part) = it.far else { return };
        let begun = std::mem::take(&mut self.parts[part].buf);
        it.void.extend_from_slice(&begun);
        it.void.extend_from_slice(&down);
        if matches!(it.fate, Fate::Gone) {
            let void = std::mem::take(&mut it.void);
            for frame in frames_begun(&void, void.len()) {
                self.lost(conn, &frame);
            }
        }
    }

    /// The other end reads.
    pub(super) fn part_hears(&mut self, conn: usize) {
        self.conns[conn].hearing_soon = false;
        let (far, cut, open) = (self.conns[conn].far, self.conns[conn].cut, self.conns[conn].open);
        let Far::Part(part) = far else {
            return self.crosses(conn);
        };
        if cut || !open {
            return;
        }
        if let Some(later) = self.part_is_busy(part) {
            self.conns[conn].hearing_soon = true;
            return self.at(later, Event::Hear(conn));
        }
        if self.sm_has_work(part) {
            // It reads again when it is done.
            return;
        }
        let it = &mut self.conns[conn];
        if it.down.is_empty() {
            if matches!(it.fate, Fate::Gone) {
                self.part_end(conn);
            }
            return;
        }
        let most = it.down.len().min(1_024);
        let count = if self.rng.chance(60) {
            most
        } else {
            1 + self.rng.index(most)
        };
        let it = &mut self.conns[conn];
        let bytes: Vec<u8> = it.down.drain(..count).collect();
        let router_waits = it.writing;
        self.part_feed(part, &bytes);
        let it = &self.conns[conn];
        if !it.down.is_empty() || matches!(it.fate, Fate::Gone) {
            self.hear_soon(conn);
        }
        if router_waits {
            self.write_soon(conn);
        }
    }
}

/// The frames of a piece of output that begin before `until`, the last one as far as it goes.
fn frames_begun(bytes: &[u8], until: usize) -> Vec<String> {
    const ROOT: &[u8] = b"<s>";
    let limits = Limits {
        frame_bytes_max: 1 << 20,
        open_bytes_max: 1 << 14,
        depth_max: 100,
    };
    let mut whole = ROOT.to_vec();
    whole.extend_from_slice(bytes);
    let (mut scanner, mut found, mut rest) = (Scanner::new(limits), Vec::new(), ROOT.len());
    // What is left of a handshake is no frame, and ends the search.
    while let Ok(Some(item)) = scanner.next(&whole) {
        if let Item::Frame { start, end } = item {
            rest = end;
            if start - ROOT.len() < until {
                found.push(String::from_utf8_lossy(&whole[start..end]).into_owned());
            }
        }
    }
    if rest - ROOT.len() < until {
        found.push(String::from_utf8_lossy(&whole[rest..]).into_owned());
    }
    found
}
