//! Rules of `router-filter.xml`, as data. Matching is [`crate::route::filter`]'s.

use std::path::PathBuf;

/// The rules, in their order: the first match decides.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Filter {
    /// The rules.
    pub rules: Vec<Rule>,
}

impl Filter {
    /// Whether there is nothing to match.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }
}

/// One `<rule/>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Pattern for the payload's bare `from`; `None` matches only its absence.
    pub from: Option<String>,
    /// Pattern for the payload's bare `to`; `None` matches only its absence.
    pub to: Option<String>,
    /// What the payload must hold.
    pub what: Option<String>,
    /// The packet goes to this JID instead.
    pub redirect: Option<String>,
    /// The packet is refused with this stanza error condition.
    pub error: Option<String>,
    /// What is put into the route's `error` attribute then.
    pub error_code: Option<&'static str>,
    /// The match is logged.
    pub log: bool,
    /// The packet is appended to this file.
    pub dump: Option<PathBuf>,
    /// The rule's line in its file.
    pub line: u32,
}
