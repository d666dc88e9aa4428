//! The lines in a take-over: connections that stand go to the new process, and the stock router notices nothing; a line
//! that is still on its way is dialled anew.

use super::{Line, State, Uplink};
use crate::node::Shard;
use crate::node::api::{LinkId, Micros};
use crate::node::link::{Link, Stage};
use crate::node::seat::Life;

/// The lines, and the links of those that stand.
type Passed = (Uplink, Vec<(usize, LinkId)>);

impl Shard {
    /// The lines as they stand, and which links go along.
    ///
    /// # Errors
    /// The connection of a line that stands can't be passed on.
    pub(in crate::node) fn uplink_to_hand_over(&self, now: Micros) -> Result<Option<Passed>, &'static str> {
        let Some(mut uplink) = self.uplink.as_deref().cloned() else {
            return Ok(None);
        };
        let mut links = Vec::new();
        for (at, line) in uplink.lines.iter_mut().enumerate() {
            match line.state {
                State::Resting(_) => {}
                State::Coming => {
                    let failures = line.failures;
                    *line = Line {
                        state: State::Resting(now),
                        failures,
                        ..Line::default()
                    };
                }
                State::Greeting | State::Joining | State::Up => {
                    let link = line.link.filter(|id| self.link(*id).is_some_and(can_be_passed_on));
                    links.push((
                        at,
                        link.ok_or("a connection to the stock router is being closed: try again")?,
                    ));
                }
            }
        }
        Ok(Some((uplink, links)))
    }

    /// A line's connection, in the new process.
    pub(in crate::node) fn line_restored(&mut self, at: usize, id: LinkId) {
        if let Some(line) = self.line(at) {
            line.link = Some(id);
        }
    }

    /// All links are restored: what goes to the stock router's components goes down the speaker again.
    pub(in crate::node) fn components_restored(&mut self) {
        let link = self.speaking_link();
        let behind = self.seats.iter_mut().map(|(_, seat)| seat).filter(|seat| seat.behind);
        for seat in behind.filter(|seat| !matches!(seat.life, Life::Lost { .. })) {
            seat.link = link;
        }
    }
}

/// It is logged in, plain, and at a border that another scanner can go on from.
fn can_be_passed_on(link: &Link) -> bool {
    let scanner = link.scanner.as_ref().filter(|scanner| scanner.can_be_left());
    scanner.is_some() && !link.tls && matches!(link.stage, Stage::Uplink(_, None))
}
