//! SHA-256 digests, the only kind Larder accepts.

use std::fmt::Write as _;

use oci_spec::image::{Digest, DigestAlgorithm};
use sha2::block_api::compress256;
use sha2::{Digest as _, Sha256};

use crate::{Error, sys};

/// A SHA-256 that is still being fed.
#[derive(Clone, Debug, Default)]
pub struct Hasher(Sha256);

impl Hasher {
    /// Feeds the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Returns the digest of everything fed.
    pub fn finish(self) -> Digest {
        digest_of(&self.finish_raw())
    }

    /// Returns the 32 bytes of the digest of everything fed.
    pub fn finish_raw(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

/// Returns the SHA-256 of `bytes` as a digest.
pub fn sha256(bytes: &[u8]) -> Digest {
    digest_of(&sha256_raw(bytes))
}

/// Returns the 32 bytes of the SHA-256 of `bytes`.
pub fn sha256_raw(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Returns the 32 bytes of the SHA-256 of each text, in their order; many together take less than each by itself, where the
/// processor has instructions for that.
pub fn sha256_all(texts: &[&[u8]]) -> Vec<[u8; 32]> {
    let mut digests = vec![[0; 32]; texts.len()];
    let mut begun: Vec<Begun<'_>> = Vec::with_capacity(sys::LANES);
    let mut waiting = texts.iter().enumerate().map(|(number, text)| Begun::new(number, text));
    loop {
        begun.extend(waiting.by_ref().take(sys::LANES - begun.len()));
        if begun.len() < LANES_MIN || !compress_many(&mut begun) {
            break;
        }
        for done in begun.extract_if(.., |one| one.blocks.is_empty()) {
            done.finish(&mut digests);
        }
    }
    begun.extend(waiting);
    while let Some(mut one) = begun.pop() {
        if let Some(other) = begun.last_mut() {
            compress_pair([&mut one, other]);
        }
        one.finish(&mut digests);
    }
    digests
}

/// Fewer texts than this are faster two by two.
const LANES_MIN: usize = 7;

/// A text of which some blocks are in the state already.
struct Begun<'a> {
    number: usize,
    state: [u32; 8],
    text: &'a [u8],
    /// Its whole blocks that are not.
    blocks: sys::Blocks<'a>,
}

impl<'a> Begun<'a> {
    fn new(number: usize, text: &'a [u8]) -> Self {
        Self { number, state: INITIAL, text, blocks: text.as_chunks::<64>().0 }
    }

    fn advance(&mut self, state: [u32; 8], count: usize) {
        (self.state, self.blocks) = (state, &self.blocks[count..]);
    }

    /// Adds the rest, and puts the digest into its place.
    fn finish(mut self, digests: &mut [[u8; 32]]) {
        compress256(&mut self.state, self.blocks);
        let rest = self.text.as_chunks::<64>().1;
        // One bit, zeros, and the length in bits: FIPS 180-4, 5.1.1.
        let mut padded = [[0; 64]; 2];
        let used = if rest.len() < 56 { 1 } else { 2 };
        let end = padded[..used].as_flattened_mut();
        end[..rest.len()].copy_from_slice(rest);
        end[rest.len()] = 0x80;
        let length = end.len() - 8;
        end[length..].copy_from_slice(&(self.text.len() as u64).wrapping_mul(8).to_be_bytes());
        compress256(&mut self.state, &padded[..used]);
        for (bytes, word) in digests[self.number].as_chunks_mut().0.iter_mut().zip(self.state) {
            *bytes = word.to_be_bytes();
        }
    }
}

/// Adds as many blocks as all of `begun` have; whether the processor can.
fn compress_many(begun: &mut [Begun<'_>]) -> bool {
    // A lane without a text of its own does what the first one does.
    let of_lane = |lane: usize| begun.get(lane).unwrap_or(&begun[0]);
    let mut states = std::array::from_fn(|lane| of_lane(lane).state);
    let blocks = std::array::from_fn(|lane| of_lane(lane).blocks);
    let Some(count) = sys::compress_lanes(&mut states, &blocks) else { return false };
    begun.iter_mut().zip(states).for_each(|(one, state)| one.advance(state, count));
    true
}

/// Adds as many blocks as both have, if the processor can.
fn compress_pair(pair: [&mut Begun<'_>; 2]) {
    let mut states = [pair[0].state, pair[1].state];
    if let Some(count) = sys::compress_two(&mut states, [pair[0].blocks, pair[1].blocks]) {
        pair.into_iter().zip(states).for_each(|(one, state)| one.advance(state, count));
    }
}

/// The state before the first block: FIPS 180-4, 5.3.3.
const INITIAL: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// Checks that `bytes` are what `expected` says; `place` is what they are called in the error.
///
/// # Errors
///
/// [`Error::DigestMismatch`] when they are not, [`Error::DigestKind`] when `expected` is no SHA-256.
pub fn verify(bytes: &[u8], expected: &Digest, place: &str) -> Result<(), Error> {
    require_sha256(expected, place)?;
    let found = sha256(bytes);
    if found == *expected {
        Ok(())
    } else {
        Err(Error::DigestMismatch { place: place.to_owned(), expected: expected.clone(), found })
    }
}

/// Refuses every digest that is no SHA-256.
///
/// # Errors
///
/// [`Error::DigestKind`].
pub fn require_sha256(digest: &Digest, place: &str) -> Result<(), Error> {
    match digest.algorithm() {
        DigestAlgorithm::Sha256 => Ok(()),
        _ => Err(Error::DigestKind { place: place.to_owned(), digest: digest.clone() }),
    }
}

/// Returns lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn digest_of(hash: &[u8; 32]) -> Digest {
    // 64 lower-case hexadecimal digits are what a SHA-256 digest consists of.
    format!("sha256:{}", hex(hash)).parse().expect("the text of a SHA-256 digest is well formed")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_digest_is_checked_against_the_bytes() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(sha256(b"").as_ref(), empty);
        verify(b"", &sha256(b""), "nothing").expect("the digest of nothing");
        assert!(matches!(verify(b"x", &sha256(b""), "one"), Err(Error::DigestMismatch { .. })));
    }

    fn each_by_itself(texts: &[&[u8]]) -> Vec<[u8; 32]> {
        texts.iter().map(|text| sha256_raw(text)).collect()
    }

    proptest! {
        /// Whatever the lengths and however many: all lanes are taken or few are, and texts end at different times.
        #[test]
        fn digests_of_many_are_those_of_each(
            texts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..700), 0..40),
        ) {
            let texts: Vec<&[u8]> = texts.iter().map(Vec::as_slice).collect();
            prop_assert_eq!(sha256_all(&texts), each_by_itself(&texts));
        }
    }

    #[test]
    fn digests_of_many_are_right_at_every_edge_of_the_padding() {
        let bytes: Vec<u8> = (0..=255).chain(0..=99).collect();
        for count in [1, 2, 3, LANES_MIN, sys::LANES, sys::LANES + 1, 3 * sys::LANES] {
            for len in 0..=300 {
                let texts: Vec<&[u8]> = (0..count).map(|n| &bytes[n..n + len]).collect();
                assert_eq!(sha256_all(&texts), each_by_itself(&texts), "{count} of {len} bytes");
            }
        }
    }

    #[test]
    fn another_algorithm_than_sha256_is_refused() {
        let sha512: Digest = format!("sha512:{}", "0".repeat(128)).parse().expect("well formed");
        assert!(matches!(require_sha256(&sha512, "here"), Err(Error::DigestKind { .. })));
    }
}
