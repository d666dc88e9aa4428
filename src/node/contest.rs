//! A component over a second link: is the first one alive?

use super::Shard;
use super::api::{Level, LinkId, Micros};
use super::lane::Message;
use super::link::Stage;
use super::seat::Life;
use crate::table::SeatId;

/// How long a contested link has to show that it is closed, microseconds.
pub(super) const CONTEST_US: Micros = 1_000_000;

impl Shard {
    /// Shard 0: the seat whose link was contested answers.
    pub(super) fn contest_answered(&mut self, now: Micros, seat: SeatId, alive: bool) {
        let contenders: Vec<(LinkId, Box<[u8]>)> = self
            .links
            .iter()
            .enumerate()
            .filter_map(|(slot, link)| match &link.stage {
                Stage::Contending { seat: wanted, bind } if *wanted == seat => Some((
                    LinkId {
                        slot: u32::try_from(slot).ok()?,
                        generation: link.generation,
                    },
                    bind.clone(),
                )),
                _ => None,
            })
            .collect();
        for (id, bind) in contenders {
            if let Some(link) = self.link_mut(id) {
                link.stage = Stage::Unseated;
            }
            self.judge_first_bind(now, id, &bind, alive);
            if self.link(id).is_some_and(|link| matches!(link.stage, Stage::Unseated)) {
                self.pause(id, false);
                self.go_on(now, id);
            }
        }
    }

    /// The seat's home: another link claims the seat. Its own link is probed: bytes that the peer's kernel acknowledges
    /// prove it alive; a link whose component closed or reset it will tell so by itself before that.
    pub(super) fn contest(&mut self, now: Micros, seat: SeatId) {
        let Some(state) = self.seats.get_mut(seat) else { return };
        if matches!(state.life, Life::Lost { .. }) {
            return self.tell(now, 0, Message::ContestAnswer { seat, alive: false });
        }
        if state.contested.is_some() {
            return;
        }
        state.contested = Some(now + CONTEST_US);
        if let Some(link) = state.link {
            // Space between frames: every component ignores it.
            self.send(link, |out| out.push(b' '));
        }
        self.wake_by(now + CONTEST_US);
    }

    /// Answer to [`Action::Probe`](super::api::Action::Probe).
    pub fn probed(&mut self, now: Micros, id: LinkId, alive: bool) {
        let Some(Stage::Seated { seat, .. }) = self.link(id).map(|link| &link.stage) else {
            return;
        };
        let seat = *seat;
        if !alive {
            let remote = self.link(id).map(|link| link.remote);
            let why = "no sign of life on this link, and its component came back over another";
            self.log(Level::Warning, remote, why.into());
            self.give_up_link(now, id, why);
        }
        self.tell(now, 0, Message::ContestAnswer { seat, alive });
    }
}
