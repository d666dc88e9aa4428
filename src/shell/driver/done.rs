//! What happened while no events could be reported.

use super::{Events, Released};
use crate::node::api::{CloseCause, LinkId};
use std::collections::VecDeque;

/// One thing to report.
pub(super) enum Done {
    Took(LinkId, usize),
    Complete(LinkId, Vec<u8>),
    Broken(LinkId, CloseCause),
    Released(LinkId, Released),
}

/// Reports all of it, in order.
pub(super) fn report(done: &mut VecDeque<Done>, events: &mut impl Events) {
    while let Some(one) = done.pop_front() {
        match one {
            Done::Took(link, bytes) => events.written(link, bytes),
            Done::Complete(link, chunk) => events.write_done(link, chunk),
            Done::Broken(link, cause) => events.broken(link, cause),
            Done::Released(link, released) => events.released(link, released),
        }
    }
}
