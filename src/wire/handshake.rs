//! The XEP-0114 handshake, both ways: hex SHA-1 of stream id and shared secret.

use sha1::{Digest, Sha1};
use std::hint::black_box;

/// Length of a handshake, hexadecimal digits.
pub const HANDSHAKE_CHARS: usize = 40;

/// The handshake that proves knowledge of the secret on the stream with this id (XEP-0114 3).
pub fn digest(stream_id: &str, secret: &str) -> String {
    let mut sha = Sha1::new();
    sha.update(stream_id.as_bytes());
    sha.update(secret.as_bytes());
    hex(&sha.finalize())
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
        .collect()
}

/// Equality in a time that tells nothing but the length.
pub(super) fn same(left: &[u8], right: &[u8]) -> bool {
    let differing = left.iter().zip(right).fold(0, |sum, (a, b)| black_box(sum | (a ^ b)));
    left.len() == right.len() && differing == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        // The example of XEP-0114 3.
        assert_eq!(digest("3BF96D32", ""), digest("", "3BF96D32"));
        assert_eq!(digest("abc", ""), "a9993e364706816aba3e25717850c26c9cd0d89d");
        assert_eq!(digest("a", "bc").len(), HANDSHAKE_CHARS);
    }

    #[test]
    fn compares() {
        assert!(same(b"", b"") && same(b"abc", b"abc"));
        assert!(!same(b"abc", b"abd") && !same(b"abc", b"ab") && !same(b"", b"a"));
    }
}
