//! An attribute's value as it stands on the wire: raw, still escaped.

/// A raw attribute value, without its quotes; entities are not resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value<'a>(pub &'a [u8]);
