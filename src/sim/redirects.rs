//! Components that follow redirects now and then: one frame by the redirect, the next by the domain, so that all mixtures of
//! the two are played.

use super::text::{self, DOMAIN, Seen};
use super::world::World;

/// How often a redirect is followed, percent.
const FOLLOWED: u64 = 70;

impl World {
    /// A bind, as whoever wants redirects writes it.
    pub(super) fn asks_for_redirects(&self, bind: String) -> String {
        match self.plan.redirects {
            true => bind.replacen("</bind>", "<redirect></redirect></bind>", 1),
            false => bind,
        }
    }

    pub(super) fn redirect_told(&mut self, part: usize, jid: String, to: Option<String>) {
        let known = &mut self.parts[part].redirects;
        match to {
            Some(to) => known.insert(jid, to),
            None => known.remove(&jid),
        };
    }

    /// A frame as it is written by a component that knows these redirects.
    pub(super) fn redirected(&mut self, part: usize, frame: String) -> String {
        if self.parts[part].redirects.is_empty() {
            return frame;
        }
        let Seen::Route(routed) = text::see(frame.as_bytes()) else {
            return frame;
        };
        let between_users = routed.to == DOMAIN && routed.c2s.is_none() && !routed.error;
        let jid = routed.stanza_to.filter(|_| between_users).unwrap_or_default();
        match self.parts[part].redirects.get(&jid).cloned() {
            Some(sm) if self.rng.chance(FOLLOWED) => {
                self.summary.redirected += 1;
                frame.replacen(&format!(" to='{DOMAIN}'"), &format!(" to='{sm}'"), 1)
            }
            _ => frame,
        }
    }
}
