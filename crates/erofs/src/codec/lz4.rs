//! LZ4 blocks, decoded as far as is wanted and no further, without unsafe code.
//!
//! The format: <https://github.com/lz4/lz4/blob/dev/doc/lz4_Block_format.md>.

use super::CodecFault;

/// The shortest match; its token holds what goes beyond.
const MATCH_BYTES_MIN: usize = 4;
/// The value of half a token that says: more bytes of the length follow.
const MORE: usize = 15;

/// What is copied at once where there is room for it, needed or not: most literals and matches are shorter.
const WIDE: usize = 16;

/// Fills `out` from the block in `input`; what the block holds beyond that is ignored.
pub(super) fn decode(input: &[u8], out: &mut [u8]) -> Result<(), CodecFault> {
    let wanted = out.len();
    let mut input = Input { bytes: input, at: 0 };
    let mut at = 0;
    while at < wanted {
        let short = CodecFault::Short { found: at, wanted };
        let token = usize::from(input.byte().ok_or(short)?);
        let half = token >> 4;
        if half < MORE && input.copy_wide(out, at) {
            input.at += half;
            at += half;
        } else {
            let literals = input.length(half).ok_or(CodecFault::Damaged)?.min(wanted - at);
            out[at..at + literals].copy_from_slice(input.take(literals).ok_or(CodecFault::Damaged)?);
            at += literals;
            if at == wanted {
                return Ok(());
            }
        }
        let short = CodecFault::Short { found: at, wanted };
        let distance =
            usize::from(u16::from_le_bytes(input.take(2).ok_or(short)?.try_into().map_err(|_| short)?));
        if distance == 0 || distance > at {
            return Err(CodecFault::Damaged);
        }
        let len = input.length(token & MORE).ok_or(CodecFault::Damaged)?;
        let len = len.saturating_add(MATCH_BYTES_MIN).min(wanted - at);
        repeat(out, at, distance, len);
        at += len;
    }
    Ok(())
}

/// Copies `len` bytes from `distance` before `at` to `at`; the two may overlap, which repeats a pattern. Bytes behind
/// them may change too: they are still to be filled.
fn repeat(out: &mut [u8], at: usize, distance: usize, len: usize) {
    let start = at - distance;
    if distance >= WIDE && len <= 2 * WIDE && out.len() - at >= 2 * WIDE {
        copy_within_wide(out, start, at);
        if len > WIDE {
            copy_within_wide(out, start + WIDE, at + WIDE);
        }
        return;
    }
    let mut done = 0;
    while done < len {
        // What was copied is a pattern of `distance` bytes too: each step can take all of it.
        let step = (distance + done).min(len - done);
        out.copy_within(start..start + step, at + done);
        done += step;
    }
}

/// Copies [`WIDE`] bytes that do not overlap; a copy of a known length is a load and a store.
fn copy_within_wide(out: &mut [u8], from: usize, to: usize) {
    let (before, after) = out.split_at_mut(to);
    if let (Some(from), Some(to)) = (before.get(from..from + WIDE), after.first_chunk_mut::<WIDE>()) {
        to.copy_from_slice(from);
    }
}

/// The encoded bytes and how far they are read.
struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Input<'a> {
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    /// Copies the next [`WIDE`] bytes to `at` without taking them; `false` where either side has fewer.
    fn copy_wide(&self, out: &mut [u8], at: usize) -> bool {
        let from = self.bytes.get(self.at..).and_then(<[u8]>::first_chunk::<WIDE>);
        let to = out.get_mut(at..).and_then(<[u8]>::first_chunk_mut::<WIDE>);
        match (from, to) {
            (Some(from), Some(to)) => {
                *to = *from;
                true
            }
            _ => false,
        }
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let bytes = self.bytes.get(self.at..self.at.checked_add(len)?)?;
        self.at += len;
        Some(bytes)
    }

    /// Reads the rest of a length whose first part is half a token.
    fn length(&mut self, half: usize) -> Option<usize> {
        let mut len = half;
        if half == MORE {
            loop {
                let byte = self.byte()?;
                len = len.checked_add(byte.into())?;
                if byte != u8::MAX {
                    break;
                }
            }
        }
        Some(len)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn half(len: usize) -> u8 {
        u8::try_from(len.min(MORE)).expect("four bits")
    }

    fn put_length(out: &mut Vec<u8>, len: usize) {
        let mut rest = len.checked_sub(MORE);
        while let Some(more) = rest {
            out.push(u8::try_from(more.min(255)).expect("at most 255"));
            rest = more.checked_sub(255);
        }
    }

    /// Encodes `literals`, then a match.
    fn put_sequence(out: &mut Vec<u8>, literals: &[u8], distance: u16, len: usize) {
        out.push(half(literals.len()) << 4 | half(len - MATCH_BYTES_MIN));
        put_length(out, literals.len());
        out.extend(literals);
        out.extend(distance.to_le_bytes());
        put_length(out, len - MATCH_BYTES_MIN);
    }

    /// Encodes the last literals.
    fn put_tail(out: &mut Vec<u8>, tail: &[u8]) {
        out.push(half(tail.len()) << 4);
        put_length(out, tail.len());
        out.extend(tail);
    }

    /// Encodes `literals`, then a match, then `tail` as the last literals.
    fn block(literals: &[u8], distance: u16, len: usize, tail: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        put_sequence(&mut out, literals, distance, len);
        put_tail(&mut out, tail);
        out
    }

    fn model(literals: &[u8], distance: usize, len: usize, tail: &[u8]) -> Vec<u8> {
        let mut out = literals.to_vec();
        model_match(&mut out, distance, len);
        out.extend(tail);
        out
    }

    fn model_match(out: &mut Vec<u8>, distance: usize, len: usize) {
        for _ in 0..len {
            out.push(out[out.len() - distance]);
        }
    }

    proptest! {
        #[test]
        fn sequences_of_any_lengths_follow_each_other(
            first in prop::collection::vec(any::<u8>(), 1..40),
            sequences in prop::collection::vec(
                (prop::collection::vec(any::<u8>(), 0..18), any::<prop::sample::Index>(), 4_usize..24), 1..60),
            near in any::<bool>(),
            cut in any::<prop::sample::Index>(),
        ) {
            let (mut encoded, mut expected) = (Vec::new(), Vec::new());
            for (n, (literals, distance, len)) in sequences.iter().enumerate() {
                let literals = if n == 0 { &first } else { literals };
                expected.extend(literals);
                let farthest = if near { expected.len().min(40) } else { expected.len() };
                let distance = distance.index(farthest) + 1;
                put_sequence(&mut encoded, literals, u16::try_from(distance).expect("small"), *len);
                model_match(&mut expected, distance, *len);
            }
            put_tail(&mut encoded, &first);
            expected.extend(&first);
            let mut out = vec![0; expected.len()];
            decode(&encoded, &mut out).expect("well formed");
            prop_assert_eq!(&out, &expected);
            let mut out = vec![0; cut.index(expected.len() + 1)];
            decode(&encoded, &mut out).expect("well formed");
            prop_assert_eq!(&out[..], &expected[..out.len()]);
        }

        #[test]
        fn every_prefix_of_a_block_decodes_to_the_prefix_of_its_bytes(
            literals in prop::collection::vec(any::<u8>(), 1..600),
            distance in any::<prop::sample::Index>(),
            len in 4_usize..900,
            tail in prop::collection::vec(any::<u8>(), 0..40),
            cut in any::<prop::sample::Index>(),
        ) {
            let distance = distance.index(literals.len()) + 1;
            let encoded = block(&literals, u16::try_from(distance).expect("small"), len, &tail);
            let expected = model(&literals, distance, len, &tail);
            let mut out = vec![0; cut.index(expected.len() + 1)];
            decode(&encoded, &mut out).expect("well formed");
            prop_assert_eq!(&out[..], &expected[..out.len()]);
            let mut longer = vec![0; expected.len() + 1];
            prop_assert!(decode(&encoded, &mut longer).is_err(), "there is no byte more");
        }

        #[test]
        fn any_bytes_end_in_a_result(bytes in prop::collection::vec(any::<u8>(), 0..300), len in 0_usize..5000) {
            let _ = decode(&bytes, &mut vec![0; len]);
        }
    }

    /// The reference library takes such a block, and makes zeros of the match.
    #[test]
    fn a_match_at_no_distance_is_damage_wherever_it_stands() {
        let block = block(b"ABCDEFGH", 0, 10, &[7; 80]);
        assert_eq!(decode(&block, &mut [0; 98]), Err(CodecFault::Damaged));
    }

    #[test]
    fn a_match_from_before_the_beginning_is_damage() {
        for distance in [0, 3, u16::MAX] {
            let mut out = [0; 10];
            assert_eq!(
                decode(&block(b"ab", distance, 8, b""), &mut out),
                Err(CodecFault::Damaged),
                "{distance}"
            );
        }
        let mut out = [0; 10];
        decode(&block(b"ab", 2, 8, b""), &mut out).expect("within");
        assert_eq!(&out, b"ababababab");
    }
}
