//! Sixty-four bytes at once: which of them are equal to, or not greater than, a byte; as a mask of 64 bits.
//!
//! Bit i of every mask speaks of byte i.

/// A way to look at 64 bytes at once.
///
/// # Safety
///
/// All functions may be called only where the CPU has the features that the implementation names.
pub(super) trait Lanes {
    /// The 64 bytes.
    type V: Copy;

    /// The 64 bytes from `from` on.
    ///
    /// # Safety
    /// 64 bytes must be readable at `from`.
    unsafe fn load(from: *const u8) -> Self::V;

    /// Bytes equal to `byte`.
    ///
    /// # Safety
    /// As for the trait.
    unsafe fn eq(v: Self::V, byte: u8) -> u64;

    /// Bytes not greater than `byte`.
    ///
    /// # Safety
    /// As for the trait.
    unsafe fn le(v: Self::V, byte: u8) -> u64;

    /// Bytes of 0x80 and above.
    ///
    /// # Safety
    /// As for the trait.
    unsafe fn high(v: Self::V) -> u64;

    /// Control characters and bytes of 0x80 and above.
    ///
    /// # Safety
    /// As for the trait.
    #[inline(always)]
    unsafe fn odd(v: Self::V) -> u64 {
        // SAFETY: granted by the caller.
        unsafe { Self::le(v, 0x1f) | Self::high(v) }
    }

    /// Bytes of 0x40 and above: what names begin with, and not `!`, `/` and `?`.
    ///
    /// # Safety
    /// As for the trait.
    #[inline(always)]
    unsafe fn letters(v: Self::V) -> u64 {
        // SAFETY: granted by the caller.
        unsafe { !Self::le(v, 0x3f) }
    }

    /// Holds the block neither `<` nor `>` nor [odd](Lanes::odd) bytes?
    ///
    /// # Safety
    /// As for the trait.
    #[inline(always)]
    unsafe fn is_text(v: Self::V) -> bool {
        // SAFETY: granted by the caller.
        unsafe { Self::eq(v, b'<') | Self::eq(v, b'>') | Self::odd(v) == 0 }
    }

    /// `<` and `>`.
    ///
    /// # Safety
    /// As for the trait.
    #[inline(always)]
    unsafe fn angles(v: Self::V) -> u64 {
        // SAFETY: granted by the caller.
        unsafe { Self::eq(v, b'<') | Self::eq(v, b'>') }
    }

    /// The `<` of `</r`, `<r`, `<!` and `<?`; `second` and `third` are the bytes one and two further on.
    ///
    /// # Safety
    /// As for the trait.
    #[inline(always)]
    unsafe fn marks(v: Self::V, second: Self::V, third: Self::V) -> u64 {
        // SAFETY: granted by the caller.
        unsafe {
            let end = Self::eq(second, b'/') & Self::eq(third, b'r');
            let rest = Self::eq(second, b'r') | Self::eq(second, b'!') | Self::eq(second, b'?');
            Self::eq(v, b'<') & (end | rest)
        }
    }

    /// The `k`-th lowest bit of a mask alone, counted from 1; zero if there are fewer.
    ///
    /// # Safety
    /// As for the trait.
    #[inline(always)]
    unsafe fn nth(mask: u64, k: u32) -> u64 {
        let mut rest = mask;
        for _ in 1..k {
            rest &= rest.wrapping_sub(1);
            if rest == 0 {
                break;
            }
        }
        rest & rest.wrapping_neg()
    }

    /// Bit i of the result is the parity of bits 0 to i.
    ///
    /// # Safety
    /// As for the trait.
    #[inline(always)]
    unsafe fn parity(mask: u64) -> u64 {
        let mut m = mask;
        m ^= m << 1;
        m ^= m << 2;
        m ^= m << 4;
        m ^= m << 8;
        m ^= m << 16;
        m ^ (m << 32)
    }

    /// At most 64 bytes, followed by zeros.
    ///
    /// # Safety
    /// As for the trait.
    #[inline(always)]
    unsafe fn load_part(bytes: &[u8]) -> Self::V {
        let mut block = [0u8; 64];
        let n = bytes.len().min(64);
        block[..n].copy_from_slice(&bytes[..n]);
        // SAFETY: the block has 64 bytes.
        unsafe { Self::load(block.as_ptr()) }
    }
}

/// Eight 64-bit words; any CPU.
pub(super) struct Words;

const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
const HIGH: u64 = 0x8080_8080_8080_8080;
const ONES: u64 = 0x0101_0101_0101_0101;

/// Gathers the top bits of eight words' bytes.
#[inline(always)]
fn gather(v: [u64; 8], top_bits: impl Fn(u64) -> u64) -> u64 {
    let mut mask = 0;
    for (i, w) in v.into_iter().enumerate() {
        // The product brings bit 8k (after the shift) to bit 56 + k; no two of its terms meet in one bit.
        let byte = ((top_bits(w) & HIGH) >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56;
        mask |= byte << (8 * i);
    }
    mask
}

impl Lanes for Words {
    type V = [u64; 8];

    #[inline(always)]
    unsafe fn load(from: *const u8) -> [u64; 8] {
        // SAFETY: the caller grants 64 readable bytes; an array of bytes needs no alignment.
        let bytes = unsafe { from.cast::<[[u8; 8]; 8]>().read() };
        bytes.map(u64::from_le_bytes)
    }

    #[inline(always)]
    unsafe fn eq(v: [u64; 8], byte: u8) -> u64 {
        gather(v, |w| {
            let x = w ^ (ONES * u64::from(byte));
            !(((x & LOW) + LOW) | x)
        })
    }

    #[inline(always)]
    unsafe fn le(v: [u64; 8], byte: u8) -> u64 {
        let room = ONES * u64::from(0x7f - (byte & 0x7f));
        if byte < 0x80 {
            gather(v, |w| !(((w & LOW) + room) | w))
        } else {
            gather(v, |w| !(((w & LOW) + room) & w))
        }
    }

    #[inline(always)]
    unsafe fn high(v: [u64; 8]) -> u64 {
        gather(v, |w| w)
    }

    #[inline(always)]
    unsafe fn is_text(v: [u64; 8]) -> bool {
        // A borrow sets top bits only above a byte that is counted itself, so what is asked here is exact: is there any?
        let special = |w: u64| {
            let angles = (w | (ONES * 0x02)) ^ (ONES * 0x3e);
            (angles.wrapping_sub(ONES) & !angles) | w.wrapping_sub(ONES * 0x20) | w
        };
        v.into_iter().fold(0, |any, w| any | special(w)) & HIGH == 0
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) mod x86 {
    //! SSE2 (every x86-64), AVX2, AVX-512.

    use super::Lanes;
    use std::arch::x86_64::*;

    /// 16 bytes at a time; part of x86-64 itself.
    pub(in super::super) struct Sse2;

    impl Lanes for Sse2 {
        type V = [__m128i; 4];

        #[inline(always)]
        unsafe fn load(from: *const u8) -> Self::V {
            // SAFETY: the caller grants 64 readable bytes; the loads are unaligned ones.
            unsafe {
                let p = from.cast::<__m128i>();
                [
                    _mm_loadu_si128(p),
                    _mm_loadu_si128(p.add(1)),
                    _mm_loadu_si128(p.add(2)),
                    _mm_loadu_si128(p.add(3)),
                ]
            }
        }

        #[inline(always)]
        unsafe fn eq(v: Self::V, byte: u8) -> u64 {
            // SAFETY: SSE2 is part of x86-64.
            unsafe {
                let with = _mm_set1_epi8(byte.cast_signed());
                mask4(v.map(|x| _mm_cmpeq_epi8(x, with)))
            }
        }

        #[inline(always)]
        unsafe fn le(v: Self::V, byte: u8) -> u64 {
            // SAFETY: as above.
            unsafe {
                let most = _mm_set1_epi8(byte.cast_signed());
                mask4(v.map(|x| _mm_cmpeq_epi8(_mm_min_epu8(x, most), x)))
            }
        }

        #[inline(always)]
        unsafe fn high(v: Self::V) -> u64 {
            // SAFETY: as above.
            unsafe { mask4(v) }
        }

        #[inline(always)]
        unsafe fn odd(v: Self::V) -> u64 {
            // Bytes of 0x80 and above are negative.
            // SAFETY: as above.
            unsafe { mask4(v.map(|x| _mm_cmplt_epi8(x, _mm_set1_epi8(0x20)))) }
        }

        #[inline(always)]
        unsafe fn is_text(v: Self::V) -> bool {
            // `<` and `>` differ in one bit.
            // SAFETY: as above.
            unsafe {
                let (bit, gt, first) = (_mm_set1_epi8(0x02), _mm_set1_epi8(0x3e), _mm_set1_epi8(0x20));
                let special =
                    v.map(|x| _mm_or_si128(_mm_cmpeq_epi8(_mm_or_si128(x, bit), gt), _mm_cmplt_epi8(x, first)));
                let any = _mm_or_si128(
                    _mm_or_si128(special[0], special[1]),
                    _mm_or_si128(special[2], special[3]),
                );
                _mm_movemask_epi8(any) == 0
            }
        }
    }

    /// # Safety
    /// None: SSE2 is part of x86-64.
    #[inline(always)]
    unsafe fn mask4(v: [__m128i; 4]) -> u64 {
        // SAFETY: SSE2 is part of x86-64.
        let m = v.map(|x| u64::from(unsafe { _mm_movemask_epi8(x) }.cast_unsigned()));
        m[0] | m[1] << 16 | m[2] << 32 | m[3] << 48
    }

    /// 32 bytes at a time; needs AVX2 and PCLMULQDQ.
    pub(in super::super) struct Avx2;

    impl Lanes for Avx2 {
        type V = [__m256i; 2];

        #[inline(always)]
        unsafe fn load(from: *const u8) -> Self::V {
            // SAFETY: the caller grants 64 readable bytes and AVX2; the loads are unaligned ones.
            unsafe {
                let p = from.cast::<__m256i>();
                [_mm256_loadu_si256(p), _mm256_loadu_si256(p.add(1))]
            }
        }

        #[inline(always)]
        unsafe fn eq(v: Self::V, byte: u8) -> u64 {
            // SAFETY: the caller grants AVX2.
            unsafe {
                let with = _mm256_set1_epi8(byte.cast_signed());
                mask2([_mm256_cmpeq_epi8(v[0], with), _mm256_cmpeq_epi8(v[1], with)])
            }
        }

        #[inline(always)]
        unsafe fn le(v: Self::V, byte: u8) -> u64 {
            // SAFETY: as above.
            unsafe {
                let most = _mm256_set1_epi8(byte.cast_signed());
                let le = |x| _mm256_cmpeq_epi8(_mm256_min_epu8(x, most), x);
                mask2([le(v[0]), le(v[1])])
            }
        }

        #[inline(always)]
        unsafe fn high(v: Self::V) -> u64 {
            // SAFETY: as above.
            unsafe { mask2(v) }
        }

        #[inline(always)]
        unsafe fn odd(v: Self::V) -> u64 {
            // Bytes of 0x80 and above are negative.
            // SAFETY: as above.
            unsafe {
                let first = _mm256_set1_epi8(0x20);
                mask2([_mm256_cmpgt_epi8(first, v[0]), _mm256_cmpgt_epi8(first, v[1])])
            }
        }

        #[inline(always)]
        unsafe fn is_text(v: Self::V) -> bool {
            // `<` and `>` differ in one bit.
            // SAFETY: as above.
            unsafe {
                let (bit, gt, first) = (_mm256_set1_epi8(0x02), _mm256_set1_epi8(0x3e), _mm256_set1_epi8(0x20));
                let special = |x| {
                    _mm256_or_si256(
                        _mm256_cmpeq_epi8(_mm256_or_si256(x, bit), gt),
                        _mm256_cmpgt_epi8(first, x),
                    )
                };
                let any = _mm256_or_si256(special(v[0]), special(v[1]));
                _mm256_testz_si256(any, any) != 0
            }
        }

        #[inline(always)]
        unsafe fn angles(v: Self::V) -> u64 {
            // `<` and `>` differ in one bit.
            // SAFETY: as above.
            unsafe {
                let (bit, gt) = (_mm256_set1_epi8(0x02), _mm256_set1_epi8(0x3e));
                mask2([
                    _mm256_cmpeq_epi8(_mm256_or_si256(v[0], bit), gt),
                    _mm256_cmpeq_epi8(_mm256_or_si256(v[1], bit), gt),
                ])
            }
        }

        #[inline(always)]
        unsafe fn marks(v: Self::V, second: Self::V, third: Self::V) -> u64 {
            // SAFETY: as above.
            unsafe { mask2([marks_of(v[0], second[0], third[0]), marks_of(v[1], second[1], third[1])]) }
        }

        #[inline(always)]
        unsafe fn parity(mask: u64) -> u64 {
            // SAFETY: the caller grants PCLMULQDQ.
            unsafe { parity_clmul(mask) }
        }

        #[inline(always)]
        unsafe fn nth(mask: u64, k: u32) -> u64 {
            // SAFETY: the caller grants BMI2.
            unsafe { nth_pdep(mask, k) }
        }
    }

    /// [`Lanes::marks`] of 32 bytes. A function: features do not reach into a closure of a closure.
    ///
    /// # Safety
    /// The CPU must have AVX2.
    #[inline(always)]
    unsafe fn marks_of(v: __m256i, second: __m256i, third: __m256i) -> __m256i {
        // SAFETY: the caller grants AVX2.
        unsafe {
            let end = _mm256_and_si256(
                _mm256_cmpeq_epi8(second, _mm256_set1_epi8(b'/'.cast_signed())),
                _mm256_cmpeq_epi8(third, _mm256_set1_epi8(b'r'.cast_signed())),
            );
            let other = _mm256_or_si256(
                _mm256_cmpeq_epi8(second, _mm256_set1_epi8(b'!'.cast_signed())),
                _mm256_cmpeq_epi8(second, _mm256_set1_epi8(b'?'.cast_signed())),
            );
            let route = _mm256_cmpeq_epi8(second, _mm256_set1_epi8(b'r'.cast_signed()));
            let open = _mm256_cmpeq_epi8(v, _mm256_set1_epi8(b'<'.cast_signed()));
            _mm256_and_si256(open, _mm256_or_si256(end, _mm256_or_si256(route, other)))
        }
    }

    /// # Safety
    /// The CPU must have AVX2.
    #[inline(always)]
    unsafe fn mask2(v: [__m256i; 2]) -> u64 {
        // SAFETY: the caller grants AVX2.
        let m = unsafe { [_mm256_movemask_epi8(v[0]), _mm256_movemask_epi8(v[1])] };
        u64::from(m[0].cast_unsigned()) | u64::from(m[1].cast_unsigned()) << 32
    }

    /// # Safety
    /// The CPU must have BMI2.
    #[inline(always)]
    unsafe fn nth_pdep(mask: u64, k: u32) -> u64 {
        // No mask has more bits than 64.
        let which = if k > 64 { 0 } else { 1 << (k - 1) };
        // SAFETY: the caller grants BMI2.
        unsafe { _pdep_u64(which, mask) }
    }

    /// # Safety
    /// The CPU must have PCLMULQDQ.
    #[inline(always)]
    unsafe fn parity_clmul(mask: u64) -> u64 {
        // SAFETY: the caller grants PCLMULQDQ. Carry-less multiplication by all ones sums the bits below each bit.
        unsafe {
            let product = _mm_clmulepi64_si128::<0>(_mm_set_epi64x(0, mask.cast_signed()), _mm_set1_epi8(-1));
            _mm_cvtsi128_si64(product).cast_unsigned()
        }
    }

    /// 64 bytes at a time; needs AVX-512 F and BW, and PCLMULQDQ.
    pub(in super::super) struct Avx512;

    impl Lanes for Avx512 {
        type V = __m512i;

        #[inline(always)]
        unsafe fn load(from: *const u8) -> Self::V {
            // SAFETY: the caller grants 64 readable bytes and AVX-512; the load is an unaligned one.
            unsafe { _mm512_loadu_si512(from.cast()) }
        }

        #[inline(always)]
        unsafe fn eq(v: Self::V, byte: u8) -> u64 {
            // SAFETY: the caller grants AVX-512 BW.
            unsafe { _mm512_cmpeq_epi8_mask(v, _mm512_set1_epi8(byte.cast_signed())) }
        }

        #[inline(always)]
        unsafe fn le(v: Self::V, byte: u8) -> u64 {
            // SAFETY: as above.
            unsafe { _mm512_cmple_epu8_mask(v, _mm512_set1_epi8(byte.cast_signed())) }
        }

        #[inline(always)]
        unsafe fn high(v: Self::V) -> u64 {
            // SAFETY: as above.
            unsafe { _mm512_movepi8_mask(v) }
        }

        #[inline(always)]
        unsafe fn odd(v: Self::V) -> u64 {
            // Bytes of 0x80 and above are negative.
            // SAFETY: as above.
            unsafe { _mm512_cmplt_epi8_mask(v, _mm512_set1_epi8(0x20)) }
        }

        #[inline(always)]
        unsafe fn letters(v: Self::V) -> u64 {
            // SAFETY: as above.
            unsafe { _mm512_test_epi8_mask(v, _mm512_set1_epi8(0xc0_u8.cast_signed())) }
        }

        #[inline(always)]
        unsafe fn is_text(v: Self::V) -> bool {
            // `<` and `>` differ in one bit.
            // SAFETY: as above.
            unsafe {
                let angles = _mm512_cmpeq_epi8_mask(_mm512_or_si512(v, _mm512_set1_epi8(0x02)), _mm512_set1_epi8(0x3e));
                _kortestz_mask64_u8(angles, _mm512_cmplt_epi8_mask(v, _mm512_set1_epi8(0x20))) != 0
            }
        }

        #[inline(always)]
        unsafe fn parity(mask: u64) -> u64 {
            // SAFETY: the caller grants PCLMULQDQ.
            unsafe { parity_clmul(mask) }
        }

        #[inline(always)]
        unsafe fn nth(mask: u64, k: u32) -> u64 {
            // SAFETY: the caller grants BMI2.
            unsafe { nth_pdep(mask, k) }
        }

        #[inline(always)]
        unsafe fn load_part(bytes: &[u8]) -> Self::V {
            let n = bytes.len().min(64) as u32;
            // n of 0 would shift by 64.
            let mask = if n == 0 { 0 } else { u64::MAX >> (64 - n) };
            // SAFETY: a masked load touches only the bytes of its mask, which the slice holds.
            unsafe { _mm512_maskz_loadu_epi8(mask, bytes.as_ptr().cast()) }
        }
    }
}
