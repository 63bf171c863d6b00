//! [`ChunkHash`]: how chunks are digested, and [`ChunkDigest`], what comes out.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256, Sha512};

use super::IndexFault;

/// How each chunk is digested: `HashAlgo` and `HashSize` of the chunk index.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum ChunkHash {
    /// SHA-256, 32 bytes: what every reader of the specification knows.
    #[default]
    Sha256,
    /// SHA-512, 64 bytes.
    Sha512,
    /// BLAKE3, 32 bytes: up to four times as fast as SHA-256, where the processor has wide vectors. The specification does
    /// not have it; an index with it has a media type of its own, so that other readers take the layer as one without
    /// an index, and read it from the beginning against its DiffID.
    Blake3,
}

/// `HashAlgo` of the specification: the SHA-2 of `HashSize` bytes.
const SHA2: u8 = 1;

/// `HashAlgo` of Larder's own: far from the numbers that the specification may give out next.
const BLAKE3: u8 = 0xB3;

impl ChunkHash {
    /// Bytes of one digest.
    pub const fn bytes(self) -> usize {
        self.size() as usize
    }

    /// `HashSize`.
    pub(super) const fn size(self) -> u8 {
        match self {
            Self::Sha256 | Self::Blake3 => 32,
            Self::Sha512 => 64,
        }
    }

    /// Returns the digest of `bytes`.
    pub fn digest(self, bytes: &[u8]) -> ChunkDigest {
        let mut digest = ChunkDigest { bytes: [0; 64], hash: self };
        let out = &mut digest.bytes[..self.bytes()];
        match self {
            Self::Sha256 => out.copy_from_slice(&Sha256::digest(bytes)),
            Self::Sha512 => out.copy_from_slice(&Sha512::digest(bytes)),
            Self::Blake3 => out.copy_from_slice(blake3::hash(bytes).as_bytes()),
        }
        digest
    }

    /// `HashAlgo`.
    pub(super) const fn algorithm(self) -> u8 {
        match self {
            Self::Sha256 | Self::Sha512 => SHA2,
            Self::Blake3 => BLAKE3,
        }
    }

    /// The hash of these fields.
    ///
    /// # Errors
    ///
    /// [`IndexFault::Unhashed`] or [`IndexFault::Hash`].
    pub(super) fn of_header(algorithm: u8, size: u8) -> Result<Self, IndexFault> {
        match (algorithm, size) {
            (SHA2, 32) => Ok(Self::Sha256),
            (SHA2, 64) => Ok(Self::Sha512),
            (BLAKE3, 32) => Ok(Self::Blake3),
            (0, 0) => Err(IndexFault::Unhashed),
            (algorithm, size) => Err(IndexFault::Hash { algorithm, size }),
        }
    }
}

impl fmt::Display for ChunkHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
            Self::Blake3 => "blake3",
        })
    }
}

impl FromStr for ChunkHash {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        [Self::Sha256, Self::Sha512, Self::Blake3]
            .into_iter()
            .find(|hash| hash.to_string() == name)
            .ok_or_else(|| "a chunk digest is sha256, sha512 or blake3".to_owned())
    }
}

/// The digest of a chunk: [`ChunkHash::bytes`] bytes.
#[derive(Clone, Copy)]
pub struct ChunkDigest {
    bytes: [u8; 64],
    hash: ChunkHash,
}

impl AsRef<[u8]> for ChunkDigest {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.hash.bytes()]
    }
}

impl fmt::Debug for ChunkDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.hash, crate::digest::hex(self.as_ref()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FIPS 180-4's examples for "abc", and the first vector of BLAKE3's paper.
    #[test]
    fn the_digests_are_those_of_their_specifications() {
        let shown = |hash: ChunkHash, text: &[u8]| format!("{:?}", hash.digest(text));
        assert_eq!(
            shown(ChunkHash::Sha256, b"abc"),
            "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(
            shown(ChunkHash::Sha512, b"abc"),
            "sha512:ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
             2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f"
        );
        assert_eq!(
            shown(ChunkHash::Blake3, b""),
            "blake3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
        );
    }

    #[test]
    fn another_name_is_refused_with_the_rule() {
        for name in ["", "SHA256", "blake2", "sha-256"] {
            name.parse::<ChunkHash>().expect_err(name);
        }
    }

    #[test]
    fn header_fields_lead_back_to_their_hash_and_others_are_refused() {
        for hash in [ChunkHash::Sha256, ChunkHash::Sha512, ChunkHash::Blake3] {
            assert_eq!(ChunkHash::of_header(hash.algorithm(), hash.size()), Ok(hash));
            assert_eq!(hash.to_string().parse(), Ok(hash));
        }
        assert_eq!(ChunkHash::of_header(0, 0), Err(IndexFault::Unhashed));
        for (algorithm, size) in [(0, 32), (1, 0), (1, 48), (2, 32), (BLAKE3, 64)] {
            assert_eq!(ChunkHash::of_header(algorithm, size), Err(IndexFault::Hash { algorithm, size }));
        }
    }
}
