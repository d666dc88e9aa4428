//! What the log was told of refused connections: the same of the same machine, or of the same node by way of another,
//! once a minute.

use crate::node::api::Micros;
use std::collections::VecDeque;

/// For so long the same is not said again, microseconds.
const SILENCE_US: Micros = 60_000_000;
/// Most refusals that are remembered: of more, some are said again.
const REMEMBERED_MAX: usize = 64;

/// Who (an IP address or a node's name), reason, and when it was said.
#[derive(Debug, Default)]
pub(super) struct Refusals(VecDeque<(Box<str>, Box<str>, Micros)>);

impl Refusals {
    /// Whether to say that a connection of `from` was refused for `why`; it counts as said then.
    pub(super) fn is_news(&mut self, now: Micros, from: &str, why: &str) -> bool {
        self.0.retain(|(_, _, at)| now < at + SILENCE_US);
        if self.0.iter().any(|(said, text, _)| **said == *from && **text == *why) {
            return false;
        }
        if self.0.len() == REMEMBERED_MAX {
            self.0.pop_front();
        }
        self.0.push_back((from.into(), why.into(), now));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_of_the_same_machine_is_news_once_a_minute() {
        let (mut refusals, one, other) = (Refusals::default(), "10.0.0.1", "b.example.net");
        assert!(refusals.is_news(0, one, "why"));
        assert!(!refusals.is_news(SILENCE_US - 1, one, "why"));
        assert!(refusals.is_news(1, other, "why") && refusals.is_news(1, one, "another reason"));
        assert!(refusals.is_news(SILENCE_US, one, "why"));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut refusals = Refusals::default();
        for number in 0..10 * REMEMBERED_MAX {
            assert!(refusals.is_news(0, "10.0.0.1", &number.to_string()));
        }
        assert_eq!(refusals.0.len(), REMEMBERED_MAX);
    }
}
