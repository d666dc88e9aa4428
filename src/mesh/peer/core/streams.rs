//! The lanes' streams: what goes out, what is given out, and how they start anew.

use super::{Core, Told};
use crate::mesh::frame::{DATA_HEAD_BYTES_MAX, Former, Frame, put_frame};
use crate::mesh::lane::DOUBT_US;
use crate::mesh::lane::receive::Receiver;
use crate::mesh::lane::send::{Full, Unacknowledged};
use crate::mesh::peer::event::{AnewCause, PeerEvent};
use crate::mesh::peer::line::{LineState, Phase};
use crate::mesh::seal::PLAINTEXT_BYTES_MAX;
use crate::mesh::{Lane, Micros};
use std::ops::Range;

impl Core {
    /// The lanes of both directions start anew.
    pub(super) fn anew(&mut self, now: Micros, cause: AnewCause) {
        let unacknowledged = self.restart(now);
        let incarnation = self.incarnation.unwrap_or_default();
        self.push(PeerEvent::Anew {
            cause,
            incarnation,
            unacknowledged,
        });
        if self.told == Told::Up {
            self.told = Told::Nothing;
        }
    }

    fn restart(&mut self, now: Micros) -> [Unacknowledged; Lane::ALL.len()] {
        self.datagrams.clear();
        Lane::ALL.iter().for_each(|lane| self.need_dial(now, *lane));
        for lane in &mut self.lanes {
            lane.receiver = Receiver::default();
            lane.serving = None;
            lane.stuck = false;
        }
        self.lanes.each_mut().map(|lane| lane.sender.restart())
    }

    pub(in crate::mesh::peer) fn declare_dead(&mut self, now: Micros) -> [Unacknowledged; Lane::ALL.len()] {
        self.next_epoch();
        self.told = Told::Nothing;
        self.restart(now)
    }

    /// What was received so far is all that will have been.
    fn next_epoch(&mut self) {
        if self.served_epoch == Some(self.epoch) {
            self.former = Former {
                epoch: self.epoch,
                received: self.lanes.each_ref().map(|lane| lane.receiver.credit().received),
            };
        }
        self.epoch += 1;
    }

    pub(in crate::mesh::peer) fn send(&mut self, lane: Lane, parts: &[&[u8]]) -> Result<(), Full> {
        let after = match lane {
            Lane::Control => 0,
            Lane::Data => self.lanes[Lane::Control.index()].sender.messages(),
        };
        let result = self.lanes[lane.index()].sender.send(after, parts);
        match result {
            Ok(()) => self.counters.messages_sent += 1,
            Err(Full) => self.counters.messages_refused += 1,
        }
        result
    }

    pub(in crate::mesh::peer) fn next_message(&mut self, now: Micros, lane: Lane) -> Option<Range<usize>> {
        let control_given = self.lanes[Lane::Control.index()].receiver.messages();
        let state = &mut self.lanes[lane.index()];
        match state.receiver.next(control_given) {
            Ok(found) => {
                self.counters.messages_received += u64::from(found.is_some());
                found
            }
            Err(error) => {
                // The stream itself is broken, and no connection mends it. Only a faulty peer does this.
                self.push(PeerEvent::Alarm(format!("peer {}: {error}", self.name)));
                self.next_epoch();
                self.anew(now, AnewCause::Broken);
                None
            }
        }
    }

    /// The next record's frames for a line.
    pub(in crate::mesh::peer) fn put_frames(&mut self, now: Micros, state: &mut LineState, out: &mut Vec<u8>) {
        out.append(&mut state.urgent);
        if !state.is_serving() {
            return;
        }
        let doubt_us = self.doubt_us();
        let lane = &mut self.lanes[state.lane.index()];
        if lane.receiver.has_news() {
            let (credit, arrived) = (lane.receiver.tell(), lane.receiver.arrived());
            put_frame(out, &Frame::Ack { credit, arrived });
        }
        while state.lane == Lane::Control
            && let Some(datagram) = self.datagrams.front()
            && out.len() + datagram.len() + 16 < PLAINTEXT_BYTES_MAX
        {
            put_frame(out, &Frame::Datagram(datagram));
            self.datagrams.pop_front();
        }
        let room = PLAINTEXT_BYTES_MAX - out.len();
        if lane.sender.may_send(now, doubt_us) && room > 2 * DATA_HEAD_BYTES_MAX {
            lane.sender.put_data(now, room, out);
        }
    }

    /// For so long a peer that lives may owe its answer.
    fn doubt_us(&self) -> Micros {
        DOUBT_US + 2 * self.round_trip_us.unwrap_or(0)
    }

    pub(in crate::mesh::peer) fn has_frames(&self, now: Micros, state: &LineState) -> bool {
        let lane = &self.lanes[state.lane.index()];
        let serving = state.is_serving()
            && (lane.sender.may_send(now, self.doubt_us())
                || (state.lane == Lane::Control && !self.datagrams.is_empty()));
        serving || !state.urgent.is_empty()
    }

    /// Whether the line has something to say that should not wait.
    pub(in crate::mesh::peer) fn is_pressing(&self, now: Micros, state: &LineState) -> bool {
        let news = state.is_serving() && self.lanes[state.lane.index()].receiver.has_news();
        news || (state.phase != Phase::Greeting && self.has_frames(now, state))
    }
}
