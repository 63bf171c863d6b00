//! SHA-256 digests, the only kind Larder accepts.

use std::fmt::Write as _;

use oci_spec::image::{Digest, DigestAlgorithm};
use sha2::{Digest as _, Sha256};

use crate::Error;

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
    use super::*;

    #[test]
    fn a_digest_is_checked_against_the_bytes() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(sha256(b"").as_ref(), empty);
        verify(b"", &sha256(b""), "nothing").expect("the digest of nothing");
        assert!(matches!(verify(b"x", &sha256(b""), "one"), Err(Error::DigestMismatch { .. })));
    }

    #[test]
    fn another_algorithm_than_sha256_is_refused() {
        let sha512: Digest = format!("sha512:{}", "0".repeat(128)).parse().expect("well formed");
        assert!(matches!(require_sha256(&sha512, "here"), Err(Error::DigestKind { .. })));
    }
}
