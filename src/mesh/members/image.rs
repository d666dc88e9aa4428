//! Membership in a node's image: what another process of the same life knows of the others.
//!
//! Timers begin anew, and so does this node's count of refutations: whoever suspects it of a higher one is refuted with
//! a higher one still.

use super::identity::Id;
use super::{Address, Known, Members, Micros, foca_of};
use foca::{Member, State};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// All that is known.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MembersImage {
    /// This node's own.
    generation: u64,
    members: Vec<MemberImage>,
    reached: Vec<(Box<str>, u64)>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct MemberImage {
    node: String,
    incarnation: u64,
    generation: u64,
    addresses: Vec<Address>,
    swim: Swim,
    refutations: u16,
    lost_until: Option<Micros>,
    heard_until: Option<Micros>,
    left: bool,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Swim {
    Alive,
    Suspect,
    Down,
}

impl MemberImage {
    fn id(&self) -> Id {
        Id {
            node: self.node.as_str().into(),
            incarnation: self.incarnation,
            generation: self.generation,
            addresses: self.addresses.clone().into(),
        }
    }
}

impl Members {
    /// What another process of this node needs to go on with it.
    pub fn image(&self) -> MembersImage {
        let member = |member: &Member<Id>| {
            let id = member.id();
            let known = self.known.get(&id.node);
            MemberImage {
                node: id.node.to_string(),
                incarnation: id.incarnation,
                generation: id.generation,
                addresses: id.addresses.to_vec(),
                swim: match member.state() {
                    State::Alive => Swim::Alive,
                    State::Suspect => Swim::Suspect,
                    State::Down => Swim::Down,
                },
                refutations: member.incarnation(),
                lost_until: known.and_then(|known| known.lost_until),
                heard_until: known.and_then(|known| known.heard_until),
                left: known.is_some_and(|known| known.left),
            }
        };
        MembersImage {
            generation: self.foca.identity().generation,
            members: self.foca.iter_membership_state().map(member).collect(),
            reached: self.reached.iter().map(|(node, life)| (node.clone(), *life)).collect(),
        }
    }

    /// Goes on with what a former process of the same life knew; this one knows nobody yet. The node is told of all
    /// members. `seed`: as for [`Members::new`].
    pub fn restore(&mut self, now: Micros, image: &MembersImage, seed: u64) {
        self.world.now = now;
        let own = Id {
            generation: image.generation,
            ..self.foca.identity().clone()
        };
        self.foca = foca_of(own, seed);
        for member in &image.members {
            let id = member.id();
            let known = Known {
                lost_until: member.lost_until,
                heard_until: member.heard_until,
                left: member.left,
                ..Known::new(&id)
            };
            self.known.insert(Arc::clone(&id.node), known);
            let state = match member.swim {
                Swim::Alive => State::Alive,
                Swim::Suspect => State::Suspect,
                Swim::Down => State::Down,
            };
            let update = Member::new(id, member.refutations, state);
            self.attempt(|foca, world| foca.apply_many([update].into_iter(), true, world));
        }
        self.reached = image.reached.iter().cloned().collect();
        self.settle();
        self.greet_all();
    }
}
