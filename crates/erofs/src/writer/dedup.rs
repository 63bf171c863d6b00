//! [`ChunkTable`]: which content has been written, and where.

use std::collections::HashMap;

use sha2::{Digest, Sha256};

use super::runs::BlockRef;

/// The first 192 bits of the SHA-256 of a chunk.
///
/// Two contents with one key would give a reader the wrong bytes, so this must hold against someone who
/// makes up files to be packed. A collision of 192 bits takes about 2^96 hashes; 128 bits would leave it at
/// 2^64, which is within reach. The other 64 bits would cost a fifth of the table's memory for nothing.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct ChunkKey([u8; 24]);

impl ChunkKey {
    pub(super) fn of(chunk: &[u8]) -> Self {
        Self::from_digest(&Sha256::digest(chunk).into())
    }

    pub(super) fn from_digest(digest: &[u8; 32]) -> Self {
        let mut key = [0; 24];
        key.copy_from_slice(&digest[..24]);
        Self(key)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The most chunks that are remembered: the table then takes 35 MB, and 56 GiB of data in chunks of
/// 64 KiB are known. Chunks beyond are stored without being looked for again.
const ENTRIES_MAX: usize = (1 << 20) / 8 * 7;

/// Content by key.
#[derive(Debug, Default)]
pub(super) struct ChunkTable {
    // Keyed by the hash of a hash; the standard hasher costs less than a percent of making the key.
    chunks: HashMap<ChunkKey, BlockRef>,
}

impl ChunkTable {
    pub(super) fn find(&self, key: &ChunkKey) -> Option<BlockRef> {
        self.chunks.get(key).copied()
    }

    /// Remembers a chunk, unless it is known or the table is full.
    pub(super) fn remember(&mut self, key: ChunkKey, at: BlockRef) {
        if self.chunks.len() < ENTRIES_MAX {
            self.chunks.entry(key).or_insert(at);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.chunks.len()
    }
}

/// Whether a chunk is all zeros, and so need not be stored.
pub(super) fn is_zero(chunk: &[u8]) -> bool {
    // Most chunks differ at once; the rest goes by in pieces that the compiler turns into wide compares.
    let mut pieces = chunk.chunks_exact(64);
    pieces.all(|piece| piece.iter().fold(0, |or, &byte| or | byte) == 0)
        && pieces.remainder().iter().all(|&byte| byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_byte_anywhere_makes_a_chunk_worth_storing() {
        let mut chunk = vec![0; 200];
        assert!(is_zero(&chunk) && is_zero(&[]));
        for at in 0..chunk.len() {
            chunk[at] = 1;
            assert!(!is_zero(&chunk), "byte {at}");
            chunk[at] = 0;
        }
    }

    #[test]
    fn the_first_place_of_a_content_stays() {
        let mut table = ChunkTable::default();
        let key = ChunkKey::of(b"content");
        let at = |block| BlockRef::new(0, block).expect("small");
        table.remember(key, at(1));
        table.remember(key, at(2));
        assert_eq!(table.find(&key), Some(at(1)));
        assert_eq!(table.find(&ChunkKey::of(b"other")), None);
    }
}
