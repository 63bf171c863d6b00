//! The compression function of SHA-256 for sixteen messages side by side, one in each 32-bit lane of AVX-512.
//!
//! The instructions for SHA-256 itself take two cycles for two rounds of one message, however many take turns. Here a round
//! takes some ten instructions for sixteen messages at once: on Zen 5 that is 2.3 times the bytes of
//! [`compress_two`](super::compress_two).
//!
//! Source of truth: FIPS 180-4, 4.1.2 and 6.2.2.

use super::sha256::Blocks;

/// Messages side by side.
pub(crate) const LANES: usize = 16;

/// Compresses the blocks that all messages have into their states, and returns how many those are; `None`, with nothing
/// done, where the processor cannot.
#[cfg(target_arch = "x86_64")]
pub(crate) fn compress_lanes(states: &mut [[u32; 8]; LANES], blocks: &[Blocks<'_>; LANES]) -> Option<usize> {
    let can = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
    let count = blocks.iter().map(|blocks| blocks.len()).min()?;
    can.then(|| {
        // SAFETY: the processor has the features that the function is compiled for. Nothing else about it is unsafe.
        unsafe { x86::compress(states, &blocks.map(|blocks| &blocks[..count])) };
        count
    })
}

/// The same where no such instructions are known.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn compress_lanes(
    _states: &mut [[u32; 8]; LANES],
    _blocks: &[Blocks<'_>; LANES],
) -> Option<usize> {
    None
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::{
        asm,
        x86_64::{
            __m512i, _mm_set_epi64x, _mm512_add_epi32, _mm512_broadcast_i32x4, _mm512_loadu_si512,
            _mm512_ror_epi32, _mm512_set1_epi32, _mm512_setzero_si512, _mm512_shuffle_epi8,
            _mm512_shuffle_i32x4, _mm512_srli_epi32, _mm512_ternarylogic_epi32, _mm512_unpackhi_epi32,
            _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
        },
    };

    use super::{super::sha256::ROUND_WORDS, Blocks, LANES};

    /// One word of each message, the first in the lowest place.
    type Word = __m512i;

    /// What `_mm512_ternarylogic_epi32` is to do with three bits: their parity, the majority, and the second or the third as the
    /// first one chooses.
    const PARITY: i32 = 0x96;
    const MAJORITY: i32 = 0xe8;
    const CHOICE: i32 = 0xca;

    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn compress(states: &mut [[u32; 8]; LANES], blocks: &[Blocks<'_>; LANES]) {
        let count = blocks[0].len();
        let mut state = [_mm512_setzero_si512(); 8];
        for (number, word) in state.iter_mut().enumerate() {
            *word = word_of(states.map(|state| state[number]));
        }
        for number in 0..count {
            let before = state;
            let mut schedule = first_words(blocks, number);
            for quarter in 0..3 {
                sixteen_rounds::<true>(&mut state, &mut schedule, quarter);
            }
            sixteen_rounds::<false>(&mut state, &mut schedule, 3);
            for (word, before) in state.iter_mut().zip(&before) {
                *word = _mm512_add_epi32(*word, *before);
            }
        }
        for (number, word) in state.iter().enumerate() {
            for (state, word) in states.iter_mut().zip(words_of(word)) {
                state[number] = word;
            }
        }
    }

    /// `GOES_ON`: whether the words of the next sixteen rounds take the places of these.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn sixteen_rounds<const GOES_ON: bool>(state: &mut [Word; 8], schedule: &mut [Word; 16], quarter: usize) {
        // Each with a number of its own, so that everything stays in registers.
        macro_rules! rounds {
            ($($n:literal)*) => {
                $(
                    round::<$n>(state, schedule[$n], ROUND_WORDS[quarter * 4 + $n / 4][$n % 4]);
                    if GOES_ON {
                        schedule[$n] = word_after::<$n>(schedule);
                    }
                )*
            };
        }
        rounds!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
    }

    /// Round `N` of sixteen. The eight words of the state do not move; their names do.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn round<const N: usize>(state: &mut [Word; 8], word: Word, constant: u32) {
        let place = |name: usize| (name + 16 - N) % 8;
        let (a, b, c, d) = (state[place(0)], state[place(1)], state[place(2)], state[place(3)]);
        let (e, f, g, h) = (state[place(4)], state[place(5)], state[place(6)], state[place(7)]);
        let chosen = _mm512_ternarylogic_epi32::<CHOICE>(e, f, g);
        let majority = _mm512_ternarylogic_epi32::<MAJORITY>(a, b, c);
        let word = _mm512_add_epi32(word, _mm512_set1_epi32(constant.cast_signed()));
        // What takes longest, the sums of what was computed last, is added last.
        let early = in_this_order(_mm512_add_epi32(h, word));
        let below = in_this_order(_mm512_add_epi32(early, d));
        let below = in_this_order(_mm512_add_epi32(below, chosen));
        let above = in_this_order(_mm512_add_epi32(early, chosen));
        let of_e = parity_of_rotations::<6, 11, 25>(e);
        let above = in_this_order(_mm512_add_epi32(above, of_e));
        let above = in_this_order(_mm512_add_epi32(above, majority));
        state[place(3)] = _mm512_add_epi32(below, of_e);
        state[place(7)] = _mm512_add_epi32(above, parity_of_rotations::<2, 13, 22>(a));
    }

    /// The word sixteen rounds after word `N`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn word_after<const N: usize>(schedule: &[Word; 16]) -> Word {
        let (zero, one) = (schedule[N], schedule[(N + 1) % 16]);
        let (nine, fourteen) = (schedule[(N + 9) % 16], schedule[(N + 14) % 16]);
        let of_one = _mm512_ternarylogic_epi32::<PARITY>(
            _mm512_ror_epi32::<7>(one),
            _mm512_ror_epi32::<18>(one),
            _mm512_srli_epi32::<3>(one),
        );
        let of_fourteen = _mm512_ternarylogic_epi32::<PARITY>(
            _mm512_ror_epi32::<17>(fourteen),
            _mm512_ror_epi32::<19>(fourteen),
            _mm512_srli_epi32::<10>(fourteen),
        );
        _mm512_add_epi32(_mm512_add_epi32(zero, of_one), _mm512_add_epi32(nine, of_fourteen))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn parity_of_rotations<const X: i32, const Y: i32, const Z: i32>(word: Word) -> Word {
        _mm512_ternarylogic_epi32::<PARITY>(
            _mm512_ror_epi32::<X>(word),
            _mm512_ror_epi32::<Y>(word),
            _mm512_ror_epi32::<Z>(word),
        )
    }

    /// Keeps the compiler from adding in another order, which it takes for as good: every round would wait for four additions
    /// in place of one (4.9 GB/s in place of 7.1, on Zen 5).
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn in_this_order(mut word: Word) -> Word {
        // SAFETY: no instruction at all.
        unsafe {
            asm!("/* {0} */", inout(zmm_reg) word, options(pure, nomem, nostack, preserves_flags));
        }
        word
    }

    /// The sixteen words of block `number` of each message. They are big-endian there.
    // No closure in here or below: the functions that would call it are compiled for other processors.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn first_words(blocks: &[Blocks<'_>; LANES], number: usize) -> [Word; 16] {
        let swap = _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
        let swap = _mm512_broadcast_i32x4(swap);
        let mut words = [_mm512_setzero_si512(); 16];
        for (word, blocks) in words.iter_mut().zip(blocks) {
            *word = bytes_of(&blocks[number]);
        }
        words = transposed(words);
        for word in &mut words {
            *word = _mm512_shuffle_epi8(*word, swap);
        }
        words
    }

    /// Word `n` of row `m` becomes word `m` of row `n`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn transposed(rows: [Word; 16]) -> [Word; 16] {
        // Within each quarter of a row (128 bits) first: what was word `n` there of four rows becomes quarter `n` of four.
        let mut quarters = [[_mm512_setzero_si512(); 4]; 4];
        let (fours, _) = rows.as_chunks::<4>();
        for (quarters, &[one, two, three, last]) in quarters.iter_mut().zip(fours) {
            let (low, lower) = (_mm512_unpacklo_epi32(one, two), _mm512_unpacklo_epi32(three, last));
            let (high, higher) = (_mm512_unpackhi_epi32(one, two), _mm512_unpackhi_epi32(three, last));
            *quarters = [
                _mm512_unpacklo_epi64(low, lower),
                _mm512_unpackhi_epi64(low, lower),
                _mm512_unpacklo_epi64(high, higher),
                _mm512_unpackhi_epi64(high, higher),
            ];
        }
        // Then the quarters among the rows.
        let mut columns = rows;
        for n in 0..4 {
            let (one, two, three, last) = (quarters[0][n], quarters[1][n], quarters[2][n], quarters[3][n]);
            let (even, odd) =
                (_mm512_shuffle_i32x4::<0x88>(one, two), _mm512_shuffle_i32x4::<0xdd>(one, two));
            let evens = _mm512_shuffle_i32x4::<0x88>(three, last);
            let odds = _mm512_shuffle_i32x4::<0xdd>(three, last);
            columns[n] = _mm512_shuffle_i32x4::<0x88>(even, evens);
            columns[4 + n] = _mm512_shuffle_i32x4::<0x88>(odd, odds);
            columns[8 + n] = _mm512_shuffle_i32x4::<0xdd>(even, evens);
            columns[12 + n] = _mm512_shuffle_i32x4::<0xdd>(odd, odds);
        }
        columns
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn bytes_of(block: &[u8; 64]) -> Word {
        // SAFETY: the 64 bytes can be read; they need not be aligned.
        unsafe { _mm512_loadu_si512(block.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn word_of(words: [u32; LANES]) -> Word {
        // SAFETY: both are 64 bytes, and any bits are a value of either.
        unsafe { std::mem::transmute(words) }
    }

    #[inline]
    fn words_of(word: &Word) -> [u32; LANES] {
        // SAFETY: as above.
        unsafe { std::mem::transmute(*word) }
    }
}
