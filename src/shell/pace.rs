//! When a shard waits a little before it reads, so that more frames share the price of one turn.
//!
//! Components write one frame at a time, and a turn that moves one frame costs ten times what the frame costs. While
//! turns follow one another without a gap and each brings little, a short pause lets frames gather. A pause that has
//! gathered nothing is not repeated: with one frame on its way (its sender waits for the answer) no turn follows the
//! one before it at once, so nobody who waits is made to wait longer.

use std::time::Duration;

/// A turn that had to wait no longer than this for its first byte came right behind the one before.
const GAP: Duration = Duration::from_micros(12);
/// So many turns in a row must have come so before a pause is tried.
const DENSE_TURNS: u32 = 16;
/// A turn that brings more than this many bytes needs no pause to be worth its price.
const LITTLE_BYTES: u64 = 16 * 1024;
/// With more than this even a pause is not needed any more.
const MUCH_BYTES: u64 = 128 * 1024;
/// A pause has gathered enough when its turn brings so many times what one without a pause brings.
const GAIN: u64 = 2;
/// Turns without a pause after one that gathered nothing.
const REST_TURNS: u32 = 256;

/// What the last turns were like.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// How long a pause is; zero: there is none.
    length: Duration,
    /// Dense turns in a row.
    dense: u32,
    /// Bytes of those turns, without a pause, on average.
    usual_bytes: u64,
    /// The turn at hand begins with a pause.
    paused: bool,
    /// Turns to go before another pause may be tried.
    rest: u32,
}

impl Pace {
    /// A pause is so long; zero: never any.
    pub(crate) fn new(length: Duration) -> Pace {
        Pace {
            length,
            ..Pace::default()
        }
    }

    /// How long to pause before the next turn.
    pub(crate) fn pause(&mut self) -> Option<Duration> {
        self.paused = self.dense >= DENSE_TURNS && self.rest == 0 && !self.length.is_zero();
        self.paused.then_some(self.length)
    }

    /// A turn came after `waited`, and brought so many bytes.
    pub(crate) fn turn(&mut self, waited: Duration, bytes: u64) {
        self.rest = self.rest.saturating_sub(1);
        let dense = waited <= GAP && (1..=LITTLE_BYTES).contains(&bytes);
        if self.paused {
            if waited <= GAP && (GAIN * self.usual_bytes..=MUCH_BYTES).contains(&bytes) {
                return;
            }
            self.rest = REST_TURNS;
        }
        if !dense {
            (self.dense, self.usual_bytes) = (0, 0);
            return;
        }
        self.usual_bytes = match self.dense {
            0 => bytes,
            _ => (7 * self.usual_bytes + bytes) / 8,
        };
        self.dense = self.dense.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_micros(60);
    const SOON: Duration = Duration::from_micros(2);
    const LATE: Duration = Duration::from_micros(30);

    fn dense(pace: &mut Pace, turns: u32) {
        for _ in 0..turns {
            assert_eq!(pace.pause(), None);
            pace.turn(SOON, 300);
        }
    }

    #[test]
    fn frames_one_by_one_are_gathered_while_that_pays() {
        let mut pace = Pace::new(PAUSE);
        dense(&mut pace, DENSE_TURNS);
        for _ in 0..1000 {
            assert_eq!(pace.pause(), Some(PAUSE));
            pace.turn(Duration::ZERO, 3000);
        }
        assert_eq!(pace.pause(), Some(PAUSE));
        pace.turn(Duration::ZERO, 300);
        dense(&mut pace, REST_TURNS);
        assert_eq!(pace.pause(), Some(PAUSE), "tried again after a while");
    }

    #[test]
    fn who_waits_for_an_answer_is_not_kept_waiting() {
        let mut pace = Pace::new(PAUSE);
        for _ in 0..10_000 {
            assert_eq!(pace.pause(), None);
            pace.turn(LATE, 300);
        }
    }

    #[test]
    fn turns_that_bring_much_need_no_pause() {
        let mut pace = Pace::new(PAUSE);
        for _ in 0..1000 {
            assert_eq!(pace.pause(), None);
            pace.turn(Duration::ZERO, LITTLE_BYTES + 1);
        }
    }

    #[test]
    fn without_a_length_there_is_no_pause() {
        dense(&mut Pace::new(Duration::ZERO), 10 * DENSE_TURNS);
    }

    #[test]
    fn nothing_for_a_moment_ends_it() {
        let mut pace = Pace::new(PAUSE);
        dense(&mut pace, DENSE_TURNS);
        assert!(pace.pause().is_some());
        pace.turn(Duration::from_millis(1), 0);
        dense(&mut pace, REST_TURNS);
    }
}
