//! The compression function of SHA-256 for two messages side by side, by the processor's instructions for it.
//!
//! One message is bound by latency: every `SHA256RNDS2` waits for the one before it. Two that take turns keep the unit
//! busy; on Zen 4 they get 1.7 times the bytes of one.
//!
//! Source of truth: FIPS 180-4, 6.2.2; Intel's "SHA Extensions" for what the instructions do.

/// Blocks of a message, 64 bytes each.
pub(crate) type Blocks<'a> = &'a [[u8; 64]];

/// Compresses the blocks that both messages have into their states, and returns how many those are; `None`, with nothing
/// done, where the processor cannot.
#[cfg(target_arch = "x86_64")]
pub(crate) fn compress_two(states: &mut [[u32; 8]; 2], blocks: [Blocks<'_>; 2]) -> Option<usize> {
    let can = is_x86_feature_detected!("sha")
        && is_x86_feature_detected!("ssse3")
        && is_x86_feature_detected!("sse4.1");
    let count = blocks[0].len().min(blocks[1].len());
    can.then(|| {
        // SAFETY: the processor has the features that the function is compiled for. Nothing else about it is unsafe.
        unsafe { x86::compress_two(states, blocks[0].iter().zip(blocks[1])) };
        count
    })
}

/// The same where no such instructions are known.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn compress_two(_states: &mut [[u32; 8]; 2], _blocks: [Blocks<'_>; 2]) -> Option<usize> {
    None
}

/// Four words for each group of four rounds: FIPS 180-4, 4.2.2.
#[cfg(target_arch = "x86_64")]
pub(super) const ROUND_WORDS: [[u32; 4]; 16] = [
    [0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5],
    [0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5],
    [0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3],
    [0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174],
    [0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc],
    [0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da],
    [0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7],
    [0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967],
    [0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13],
    [0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85],
    [0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3],
    [0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070],
    [0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5],
    [0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3],
    [0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208],
    [0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2],
];

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m128i, _mm_add_epi32, _mm_alignr_epi8, _mm_extract_epi32, _mm_set_epi64x, _mm_sha256msg1_epu32,
        _mm_sha256msg2_epu32, _mm_sha256rnds2_epu32, _mm_shuffle_epi8, _mm_shuffle_epi32,
    };

    use super::ROUND_WORDS;

    /// The state as the instructions want it: words a, b, e, f and c, d, g, h, the first in the highest place.
    #[derive(Clone, Copy)]
    struct State {
        abef: __m128i,
        cdgh: __m128i,
    }

    #[target_feature(enable = "sha,ssse3,sse4.1")]
    pub(super) fn compress_two<'a>(
        words: &mut [[u32; 8]; 2],
        blocks: impl Iterator<Item = (&'a [u8; 64], &'a [u8; 64])>,
    ) {
        let mut states = [pack(words[0]), pack(words[1])];
        for (one, other) in blocks {
            let before = states;
            let mut schedules = [first_words(one), first_words(other)];
            for quarter in 0..4 {
                for group in 0..4 {
                    let round = vector(ROUND_WORDS[quarter * 4 + group]);
                    for (state, schedule) in states.iter_mut().zip(&schedules) {
                        four_rounds(state, _mm_add_epi32(schedule[group], round));
                    }
                    if quarter < 3 {
                        for schedule in &mut schedules {
                            next_words(schedule, group);
                        }
                    }
                }
            }
            for (state, before) in states.iter_mut().zip(before) {
                state.abef = _mm_add_epi32(state.abef, before.abef);
                state.cdgh = _mm_add_epi32(state.cdgh, before.cdgh);
            }
        }
        *words = [unpack(states[0]), unpack(states[1])];
    }

    #[inline]
    #[target_feature(enable = "sha,ssse3,sse4.1")]
    fn four_rounds(state: &mut State, message: __m128i) {
        state.cdgh = _mm_sha256rnds2_epu32(state.cdgh, state.abef, message);
        state.abef = _mm_sha256rnds2_epu32(state.abef, state.cdgh, _mm_shuffle_epi32(message, 0x0e));
    }

    /// Replaces the words of `group` by those sixteen rounds later.
    #[inline]
    #[target_feature(enable = "sha,ssse3,sse4.1")]
    fn next_words(schedule: &mut [__m128i; 4], group: usize) {
        let after = |groups: usize| schedule[(group + groups) % 4];
        let seven_back = _mm_alignr_epi8(after(3), after(2), 4);
        let sum = _mm_add_epi32(_mm_sha256msg1_epu32(schedule[group], after(1)), seven_back);
        schedule[group] = _mm_sha256msg2_epu32(sum, after(3));
    }

    /// The sixteen words of a block, which are big-endian there.
    #[inline]
    #[target_feature(enable = "sha,ssse3,sse4.1")]
    fn first_words(block: &[u8; 64]) -> [__m128i; 4] {
        let swap = _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
        let (halves, _) = block.as_chunks::<8>();
        let half = |n: usize| i64::from_le_bytes(halves[n]);
        let group = |n: usize| _mm_shuffle_epi8(_mm_set_epi64x(half(2 * n + 1), half(2 * n)), swap);
        [group(0), group(1), group(2), group(3)]
    }

    #[inline]
    #[target_feature(enable = "sha,ssse3,sse4.1")]
    fn pack([a, b, c, d, e, f, g, h]: [u32; 8]) -> State {
        State { abef: vector([f, e, b, a]), cdgh: vector([h, g, d, c]) }
    }

    #[inline]
    #[target_feature(enable = "sha,ssse3,sse4.1")]
    fn unpack(State { abef, cdgh }: State) -> [u32; 8] {
        let [f, e, b, a] = elements(abef);
        let [h, g, d, c] = elements(cdgh);
        [a, b, c, d, e, f, g, h]
    }

    /// The first word in the lowest place.
    #[inline]
    #[target_feature(enable = "sha,ssse3,sse4.1")]
    fn vector([first, second, third, fourth]: [u32; 4]) -> __m128i {
        let two = |low: u32, high: u32| (u64::from(high) << 32 | u64::from(low)).cast_signed();
        _mm_set_epi64x(two(third, fourth), two(first, second))
    }

    #[inline]
    #[target_feature(enable = "sha,ssse3,sse4.1")]
    fn elements(vector: __m128i) -> [u32; 4] {
        [
            _mm_extract_epi32(vector, 0),
            _mm_extract_epi32(vector, 1),
            _mm_extract_epi32(vector, 2),
            _mm_extract_epi32(vector, 3),
        ]
        .map(i32::cast_unsigned)
    }
}
