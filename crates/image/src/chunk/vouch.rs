//! Whether decoded bytes are the ones that a chunk's digest vouches for, without the stored ones.

use super::{Chunk, Encoding};

/// Levels that are tried: the default of builders, Larder's among them.
const LEVELS: [i32; 1] = [3];

impl Chunk<'_> {
    /// Whether `decoded` are the bytes of this chunk; `None` when that cannot be told from them alone.
    ///
    /// The digest covers the stored bytes. Those of a raw chunk are the decoded ones. A zstd frame is made anew: if that has
    /// the digest, it is the frame that the digest vouches for, and it decodes to `decoded`. If it has not, another
    /// compressor may have made the stored frame: fetch it, [`verify`](Self::verify) it, decode it and compare.
    pub fn vouches_for(&self, decoded: &[u8]) -> Option<bool> {
        if decoded.len() as u64 != self.decoded.len() {
            return Some(false);
        }
        match self.encoding {
            Encoding::Raw => Some(self.matches(decoded)),
            Encoding::Zstd => {
                let is_it = |frame: Vec<u8>| frame.len() as u64 <= self.stored.len() && self.matches(&frame);
                LEVELS
                    .iter()
                    .any(|&level| zstd::bulk::compress(decoded, level).is_ok_and(is_it))
                    .then_some(true)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use larder_fscache::ObjectRange;
    use larder_remote::BlobRange;

    use super::super::ChunkHash;
    use super::*;
    use crate::digest::{sha256, sha256_raw};

    fn told(stored: &[u8], decoded: &[u8], encoding: Encoding, asked: &[u8]) -> Option<bool> {
        let (blob, checksum) = (sha256(b"blob"), sha256_raw(stored));
        let chunk = Chunk {
            number: 0,
            stored: BlobRange::new(0, stored.len() as u64).expect("in order"),
            decoded: ObjectRange::at(0, decoded.len() as u64),
            encoding,
            hash: ChunkHash::Sha256,
            checksum: &checksum,
            blob: &blob,
        };
        chunk.vouches_for(asked)
    }

    #[test]
    fn raw_bytes_are_right_or_wrong() {
        assert_eq!(told(b"bytes", b"bytes", Encoding::Raw, b"bytes"), Some(true));
        assert_eq!(told(b"bytes", b"bytes", Encoding::Raw, b"bytez"), Some(false));
        assert_eq!(told(b"bytes", b"bytes", Encoding::Raw, b"byte"), Some(false));
    }

    #[test]
    fn a_frame_of_the_default_level_is_recognised_and_no_other_is_called_wrong() {
        let decoded: Vec<u8> = (0..20_000_u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        let frame = |level| zstd::bulk::compress(&decoded, level).expect("memory");
        assert_ne!(frame(3), frame(19));
        assert_eq!(told(&frame(3), &decoded, Encoding::Zstd, &decoded), Some(true));
        assert_eq!(told(&frame(19), &decoded, Encoding::Zstd, &decoded), None);
        let mut other = decoded.clone();
        other[5000] ^= 1;
        assert_eq!(told(&frame(3), &decoded, Encoding::Zstd, &other), None);
    }
}
