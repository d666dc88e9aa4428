//! Full validation of one frame, for the links of foreign components.

/// The namespace bindings of a stream's open tag.
#[derive(Clone, Debug, Default)]
pub struct Prefixes {}

/// What a parser would refuse in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invalid(
    /// What is wrong, in words for the peer's log.
    pub &'static str,
);

#[allow(unused_variables)]
impl Prefixes {
    /// The bindings of an open tag (with or without the declaration before it), as the scanner delimited it.
    pub fn of_open_tag(open: &[u8]) -> Result<Prefixes, Invalid> {
        Ok(Prefixes::default())
    }

    /// The default namespace.
    pub fn default_namespace(&self) -> Option<&str> {
        None
    }

    /// The URI bound to a prefix.
    pub fn uri(&self, prefix: &str) -> Option<&str> {
        None
    }

    /// All bindings (prefix, URI) but the default one, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        std::iter::empty()
    }
}

/// Refuses what a namespace-aware parser would refuse in this frame, standing in a stream with these bindings.
#[allow(unused_variables)]
pub fn check(frame: &[u8], inherited: &Prefixes) -> Result<(), Invalid> {
    Ok(())
}
