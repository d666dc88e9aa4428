//! Numbered messages, and what became of them.

use std::fmt::Write;
use std::ops::Range;

/// Messages from one user to another.
#[derive(Debug)]
pub(super) struct Talk {
    /// Who, to whom, when: a line of the table.
    title: &'static str,
    /// Marks its messages; no other talk has it.
    mark: &'static str,
    /// Messages sent so far, numbered from 1.
    pub(super) sent: u32,
    /// Numbers in the order in which they came.
    got: Vec<u32>,
    /// The numbers that were on their way when a machine died: inside it, or between the two. Of these, and of no
    /// others, some may be lost, or, when their receipt was not confirmed any more, come twice.
    at_risk: Range<u32>,
}

/// What became of a talk's messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    sent: u32,
    /// Different ones.
    received: u32,
    duplicates: u32,
    disordered: u32,
}

impl Talk {
    pub(super) fn new(title: &'static str, mark: &'static str) -> Talk {
        Talk {
            title,
            mark,
            sent: 0,
            got: Vec::new(),
            at_risk: 0..0,
        }
    }

    /// A machine on its way dies now. `recent`: how many of its last messages may still be inside.
    pub(super) fn machine_dies(&mut self, recent: u32) {
        self.at_risk = self.sent.saturating_sub(recent) + 1..self.sent + 2;
    }

    /// The text of the next message.
    pub(super) fn next(&mut self) -> String {
        self.sent += 1;
        format!("{} {}", self.mark, self.sent)
    }

    /// Notes a message that came, if it is one of this talk.
    pub(super) fn note(&mut self, text: &str) {
        let number = text.strip_prefix(self.mark).and_then(|rest| rest.trim().parse().ok());
        self.got
            .extend(number.filter(|number| (1..=self.sent).contains(number)));
    }

    /// Any message has come.
    pub(super) fn any_came(&self) -> bool {
        !self.got.is_empty()
    }

    /// The last message that was sent has come.
    pub(super) fn last_came(&self) -> bool {
        self.sent == 0 || self.got.contains(&self.sent)
    }

    pub(super) fn tally(&self) -> Tally {
        let counts = self.counts();
        let mut highest = 0;
        let mut disordered = 0;
        for &number in &self.got {
            disordered += u32::from(number < highest && counts[number as usize] == 1);
            highest = highest.max(number);
        }
        Tally {
            sent: self.sent,
            received: counts.iter().map(|count| u32::from(*count > 0)).sum(),
            duplicates: counts.iter().map(|count| count.saturating_sub(1)).sum(),
            disordered,
        }
    }

    /// How often each number came; there is none of number 0.
    fn counts(&self) -> Vec<u32> {
        let mut counts = vec![0; self.sent as usize + 1];
        self.got.iter().for_each(|number| counts[*number as usize] += 1);
        counts
    }

    /// Everything that is promised about it came true: once, and in order.
    pub(super) fn is_good(&self) -> bool {
        self.broken().next().is_none() && self.tally().disordered == 0
    }

    /// What was promised and did not come true, in words.
    pub(super) fn complaint(&self) -> String {
        let numbers: Vec<String> = self
            .broken()
            .map(|(number, count)| format!("number {number} came {count} times"))
            .collect();
        match numbers.as_slice() {
            [] => format!("{}: out of order", self.title),
            _ => format!("{}: {}", self.title, numbers.join(", ")),
        }
    }

    /// Messages that should have come once: number, and how often it came.
    fn broken(&self) -> impl Iterator<Item = (u32, u32)> {
        (0..)
            .zip(self.counts())
            .skip(1)
            .filter(|(number, count)| *count != 1 && !self.at_risk.contains(number))
    }

    /// Some of its messages did not come once, whoever is to blame.
    pub(super) fn is_flawed(&self) -> bool {
        let Tally {
            sent,
            received,
            duplicates,
            ..
        } = self.tally();
        received < sent || duplicates > 0
    }
}

/// The table of all talks.
pub(super) fn table(talks: &[Talk]) -> String {
    let mut text = format!(
        "{:<44} {:>6} {:>9} {:>11} {:>13}\n",
        "messages", "sent", "received", "duplicates", "out of order"
    );
    for talk in talks {
        let Tally {
            sent,
            received,
            duplicates,
            disordered,
        } = talk.tally();
        let _ = writeln!(
            text,
            "{:<44} {sent:>6} {received:>9} {duplicates:>11} {disordered:>13}",
            talk.title
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn talk(sent: u32, came: &[&str]) -> Talk {
        let mut talk = Talk::new("a to b", "ab");
        talk.sent = sent;
        came.iter().for_each(|text| talk.note(text));
        talk
    }

    #[test]
    fn every_kind_of_fault_is_counted_once() {
        assert!(talk(3, &["ab 1", "ab 2", "ab 3"]).is_good());
        assert!(!talk(3, &["ab 1", "ab 2"]).is_good());
        let tally = talk(4, &["ab 1", "ab 3", "ab 2", "ab 3", "xy 4", "ab 9"]).tally();
        assert_eq!((tally.received, tally.duplicates, tally.disordered), (3, 1, 1));
    }

    #[test]
    fn only_what_was_on_its_way_into_a_dead_machine_may_be_missing_or_come_twice() {
        let mut talk = talk(2, &["ab 1"]);
        talk.machine_dies(1);
        assert!(talk.is_good() && talk.is_flawed());
        talk.sent = 5;
        assert!(!talk.is_good(), "3 was at risk, 4 and 5 were not");
        ["ab 3", "ab 3", "ab 4", "ab 5"].iter().for_each(|text| talk.note(text));
        assert!(talk.is_good());
        talk.note("ab 5");
        assert!(!talk.is_good());
    }
}
