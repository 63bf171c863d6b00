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

/// Returns the 32 bytes of the SHA-256 of either text; the two together take little more than the longer one alone,
/// where the processor has instructions for it.
pub fn sha256_two(texts: [&[u8]; 2]) -> [[u8; 32]; 2] {
    let blocks = texts.map(|text| text.as_chunks::<64>().0);
    let mut states = [INITIAL; 2];
    let Some(done) = sys::compress_two(&mut states, blocks) else { return texts.map(sha256_raw) };
    let [one, other] = states;
    [finished(one, done, texts[0]), finished(other, done, texts[1])]
}

/// The state before the first block: FIPS 180-4, 5.3.3.
const INITIAL: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// The digest of `text`, whose first `done` blocks are in the state already.
fn finished(mut state: [u32; 8], done: usize, text: &[u8]) -> [u8; 32] {
    let (blocks, rest) = text.as_chunks::<64>();
    compress256(&mut state, &blocks[done..]);
    // One bit, zeros, and the length in bits: FIPS 180-4, 5.1.1.
    let mut padded = [[0; 64]; 2];
    let used = if rest.len() < 56 { 1 } else { 2 };
    let end = padded[..used].as_flattened_mut();
    end[..rest.len()].copy_from_slice(rest);
    end[rest.len()] = 0x80;
    let length = end.len() - 8;
    end[length..].copy_from_slice(&(text.len() as u64).wrapping_mul(8).to_be_bytes());
    compress256(&mut state, &padded[..used]);
    let mut digest = [0; 32];
    for (bytes, word) in digest.as_chunks_mut().0.iter_mut().zip(state) {
        *bytes = word.to_be_bytes();
    }
    digest
}

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

    proptest! {
        /// Whatever the lengths: the padding begins a block of its own, or the two texts part long before the end.
        #[test]
        fn two_digests_at_once_are_those_of_each_text(
            one in prop::collection::vec(any::<u8>(), 0..700),
            other in prop::collection::vec(any::<u8>(), 0..700),
        ) {
            prop_assert_eq!(sha256_two([&one, &other]), [sha256_raw(&one), sha256_raw(&other)]);
        }
    }

    #[test]
    fn two_digests_at_once_are_right_at_every_edge_of_the_padding() {
        let text = [7; 300];
        for len in 0..=text.len() {
            let pair = [&text[..len], &text[..300 - len]];
            assert_eq!(sha256_two(pair), pair.map(sha256_raw), "{len}");
        }
    }

    #[test]
    fn another_algorithm_than_sha256_is_refused() {
        let sha512: Digest = format!("sha512:{}", "0".repeat(128)).parse().expect("well formed");
        assert!(matches!(require_sha256(&sha512, "here"), Err(Error::DigestKind { .. })));
    }
}
