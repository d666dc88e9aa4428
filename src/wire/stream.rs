//! Stream headers, features, stream errors and the close tag, in the byte forms of a stock router.
#![allow(unused_variables)]

/// Appends the close tag.
pub fn close(out: &mut Vec<u8>) {}

/// Appends a stream error (RFC 6120 4.9) and the close tag.
pub fn error(out: &mut Vec<u8>, condition: &str, text: Option<&str>) {}
