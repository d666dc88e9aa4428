//! Copying frames.

/// How much is copied at a time. For more the C library uses the CPU's own string copy, which on some (Zen 3, Zen 4) is
/// twenty times as slow where the target lies up to 31 bytes behind the source, modulo a page.
const PIECE_BYTES: usize = 2 * 1024;

/// Appends bytes, however many.
#[inline]
pub fn append(out: &mut Vec<u8>, bytes: &[u8]) {
    if bytes.len() <= PIECE_BYTES {
        return out.extend_from_slice(bytes);
    }
    out.reserve(bytes.len());
    for piece in bytes.chunks(PIECE_BYTES) {
        out.extend_from_slice(piece);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_it_in_order() {
        let bytes: Vec<u8> = (0u32..20_000).map(|n| (n % 251) as u8).collect();
        for length in [
            0,
            1,
            PIECE_BYTES - 1,
            PIECE_BYTES,
            PIECE_BYTES + 1,
            3 * PIECE_BYTES,
            20_000,
        ] {
            let mut out = b"before".to_vec();
            append(&mut out, &bytes[..length]);
            assert_eq!(out, [b"before", &bytes[..length]].concat());
        }
    }
}
