//! JIDs as they stand in frames: borrowed parts, preparation (RFC 6122) and the two hashes.

/// The parts of a JID, borrowed from the bytes it stands in. Not prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JidRef<'a> {
    /// The part before `@`.
    pub node: Option<&'a str>,
    /// The domain; never empty.
    pub domain: &'a str,
    /// The part after `/`.
    pub resource: Option<&'a str>,
}
