//! Numbers and texts on the wire: LEB128 varints, big-endian words, texts with their length.

use super::error::MeshError;

/// Longest varint, bytes: 64 bits at 7 a byte.
pub(super) const VARINT_BYTES_MAX: usize = 10;

/// Appends `value` as a varint: seven bits a byte, the lowest first, the top bit set on all but the last.
pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// How many bytes [`put_varint`] appends.
pub(super) const fn varint_bytes(value: u64) -> usize {
    let bits = 64 - (value | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// Appends a text with its length.
pub(super) fn put_text(out: &mut Vec<u8>, text: &str) {
    put_varint(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

/// The varint at the front of `bytes` and its length. `Ok(None)`: more bytes are needed.
pub(super) fn peek_varint(bytes: &[u8]) -> Result<Option<(u64, usize)>, MeshError> {
    let mut value = 0u64;
    for (index, &byte) in bytes.iter().take(VARINT_BYTES_MAX).enumerate() {
        let part = u64::from(byte & 0x7f);
        if index == VARINT_BYTES_MAX - 1 && byte > 1 {
            return Err(MeshError::Malformed("a number beyond 64 bits"));
        }
        value |= part << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((value, index + 1)));
        }
    }
    Ok(None)
}

/// Reads fields off the front of a body; what it does not read is skipped.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    place: &'static str,
}

impl<'a> Reader<'a> {
    /// `place` names the body in errors.
    pub(super) fn new(rest: &'a [u8], place: &'static str) -> Reader<'a> {
        Reader { rest, place }
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(super) fn bytes(&mut self, count: usize) -> Result<&'a [u8], MeshError> {
        let (head, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or(MeshError::Malformed(self.place))?;
        self.rest = rest;
        Ok(head)
    }

    pub(super) fn byte(&mut self) -> Result<u8, MeshError> {
        Ok(self.bytes(1)?[0])
    }

    pub(super) fn varint(&mut self) -> Result<u64, MeshError> {
        let (value, len) = peek_varint(self.rest)?.ok_or(MeshError::Malformed(self.place))?;
        self.rest = &self.rest[len..];
        Ok(value)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], MeshError> {
        let bytes = self.bytes(N)?;
        bytes.try_into().map_err(|_| MeshError::Malformed(self.place))
    }

    pub(super) fn text(&mut self, bytes_max: usize) -> Result<&'a str, MeshError> {
        let len = usize::try_from(self.varint()?).unwrap_or(usize::MAX);
        if len > bytes_max {
            return Err(MeshError::Oversized(len, bytes_max));
        }
        std::str::from_utf8(self.bytes(len)?).map_err(|_| MeshError::Malformed(self.place))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_return(value in any::<u64>(), shift in 0..64u32) {
            let value = value >> shift;
            let mut out = Vec::new();
            put_varint(&mut out, value);
            prop_assert_eq!(out.len(), varint_bytes(value));
            prop_assert_eq!(peek_varint(&out), Ok(Some((value, out.len()))));
            prop_assert_eq!(peek_varint(&out[..out.len() - 1]), Ok(None));
        }

        #[test]
        fn no_bytes_crash_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut reader = Reader::new(&bytes, "test");
            while reader.varint().is_ok() && reader.text(8).is_ok() && reader.array::<3>().is_ok() {}
            prop_assert!(reader.rest().len() <= bytes.len());
        }
    }

    #[test]
    fn numbers_beyond_64_bits_are_refused() {
        assert!(peek_varint(&[0xff; 10]).is_err());
        let most = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
        assert_eq!(peek_varint(&most).unwrap(), Some((u64::MAX, 10)));
    }
}
