//! [`ChunkTable`]: a chunk index bound to its layer.

use std::ops::Range;

use larder_fscache::{BlockSize, CookieKey, ObjectRange};
use larder_remote::BlobRange;
use oci_spec::image::Digest;

use super::{ChunkHash, ChunkIndex, Encoding, IndexFault, STORED_BYTES_MAX};
use crate::digest::{hex, sha256_raw};

/// Which stored bytes of one layer hold which decoded bytes.
///
/// It keeps the index as it came, 48 bytes a chunk, and finds chunks in it by binary search; nothing is allocated
/// for a chunk.
#[derive(Clone, Debug)]
pub struct ChunkTable {
    index: ChunkIndex,
    blob: Digest,
    data_end: u64,
    identity: CookieKey,
}

/// What only the manifest knows about the layer of an index.
#[derive(Clone, Copy, Debug)]
pub struct LayerFacts<'a> {
    /// Digest of the blob, for messages.
    pub blob: &'a Digest,
    /// Encoding that the media type states.
    pub encoding: Encoding,
    /// First stored byte after the chunks: where the index begins, or the end of the blob when it lies elsewhere.
    pub data_end: u64,
}

impl ChunkTable {
    /// Binds an index to its layer.
    ///
    /// # Errors
    ///
    /// [`IndexFault`] when the index describes another encoding, or chunks that do not fit into the blob.
    pub fn bind(index: ChunkIndex, layer: LayerFacts<'_>) -> Result<Self, IndexFault> {
        if index.encoding() != layer.encoding {
            return Err(IndexFault::Encoding);
        }
        let described = match (index.encoding(), index.count()) {
            (Encoding::Raw, _) => index.decoded_size(),
            // The last frame needs at least one byte; its end is the end of the data.
            (Encoding::Zstd, count @ 1..) => index.stored_offset(count - 1).saturating_add(1),
            (Encoding::Zstd, 0) => 0,
        };
        let fits = match index.encoding() {
            Encoding::Raw => described == layer.data_end,
            Encoding::Zstd => described <= layer.data_end,
        };
        if !fits {
            return Err(IndexFault::DataLength { described, found: layer.data_end });
        }
        let identity = CookieKey::new(&format!("sha256-{}", hex(&sha256_raw(index.payload()))));
        let identity = identity.expect("71 letters, digits and '-' are a key");
        let table = Self { index, blob: layer.blob.clone(), data_end: layer.data_end, identity };
        let too_long = table.chunks().find(|chunk| chunk.stored.len() > STORED_BYTES_MAX);
        match too_long {
            Some(chunk) => Err(IndexFault::StoredLength { chunk: chunk.number, found: chunk.stored.len() }),
            None => Ok(table),
        }
    }

    /// Bytes of the decoded data.
    pub fn decoded_size(&self) -> u64 {
        self.index.decoded_size()
    }

    /// Number of chunks.
    pub fn len(&self) -> u32 {
        self.index.count()
    }

    /// Whether there are no chunks, that is no data.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Digest of the blob that the chunks are part of.
    pub fn blob(&self) -> &Digest {
        &self.blob
    }

    /// The index as it came.
    pub fn index(&self) -> &ChunkIndex {
        &self.index
    }

    /// Name of the cache object that holds the decoded data: `sha256-` and the SHA-256 of the chunk index.
    ///
    /// Not the DiffID, although that names the decoded data too: nothing checks a DiffID while a layer is loaded chunk
    /// by chunk, so that a manifest with a false one could fill the object of another image with its own bytes. The
    /// index holds the digest of every chunk, and every chunk is checked: who has the same index has the same bytes.
    pub fn identity(&self) -> &CookieKey {
        &self.identity
    }

    /// Whether every chunk begins at a multiple of `block`, so that whole chunks are whole blocks of a cache object.
    pub fn is_aligned_to(&self, block: BlockSize) -> bool {
        (0..self.len()).all(|n| self.index.decoded_offset(n).is_multiple_of(block.bytes()))
    }

    /// Returns the numbers of the chunks that hold `want`; what lies beyond the data has none.
    pub fn covering(&self, want: ObjectRange) -> Range<u32> {
        let want = want.clamp_to(self.decoded_size());
        if want.is_empty() {
            return 0..0;
        }
        let first = self.first_where(|n| self.index.decoded_end(n) > want.start());
        let end = self.first_where(|n| self.index.decoded_offset(n) >= want.end());
        first..end
    }

    /// Returns chunk `n`.
    ///
    /// # Panics
    ///
    /// When there is no chunk `n`.
    pub fn chunk(&self, n: u32) -> Chunk<'_> {
        let decoded = ObjectRange::new(self.index.decoded_offset(n), self.index.decoded_end(n));
        let decoded = decoded.expect("the offsets of a checked index grow");
        let start = self.index.stored_offset(n);
        let end = match self.index.encoding() {
            Encoding::Raw => start + decoded.len(),
            Encoding::Zstd if n + 1 < self.len() => self.index.stored_offset(n + 1),
            Encoding::Zstd => self.data_end,
        };
        let stored = BlobRange::new(start, end).expect("the offsets of a checked index grow");
        Chunk {
            number: n,
            stored,
            decoded,
            encoding: self.index.encoding(),
            hash: self.index.hash(),
            checksum: self.index.checksum(n),
            blob: &self.blob,
        }
    }

    /// All chunks in order.
    pub fn chunks(&self) -> impl Iterator<Item = Chunk<'_>> {
        (0..self.len()).map(|n| self.chunk(n))
    }

    /// Binary search for the first chunk that `is_reached` holds for; it must hold for all chunks after that one.
    fn first_where(&self, is_reached: impl Fn(u32) -> bool) -> u32 {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if is_reached(middle) { high = middle } else { low = middle + 1 }
        }
        low
    }
}

/// One chunk of a layer; see [`verify`](Self::verify) and [`decode`](Self::decode) for what to do with its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Chunk<'a> {
    /// Its number, from 0.
    pub number: u32,
    /// Where it lies in the blob.
    pub stored: BlobRange,
    /// Where its data lies in the decoded layer.
    pub decoded: ObjectRange,
    /// How it is stored.
    pub encoding: Encoding,
    pub(super) hash: ChunkHash,
    pub(super) checksum: &'a [u8],
    pub(super) blob: &'a Digest,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::IndexBuilder;
    use super::*;
    use crate::digest::sha256;

    fn facts(blob: &Digest, encoding: Encoding, data_end: u64) -> LayerFacts<'_> {
        LayerFacts { blob, encoding, data_end }
    }

    fn raw(lengths: &[u64]) -> ChunkTable {
        let mut builder = IndexBuilder::new(Encoding::Raw);
        let mut at = 0;
        for &len in lengths {
            builder.push(at, at, &[7; 32]);
            at += len;
        }
        let index = builder.finish(at).expect("growing offsets");
        ChunkTable::bind(index, facts(&sha256(b"blob"), Encoding::Raw, at)).expect("it fits")
    }

    fn zstd(stored: &[u64]) -> ChunkIndex {
        let mut builder = IndexBuilder::new(Encoding::Zstd);
        for (n, &at) in (0..).zip(stored) {
            builder.push(at, n * 100, &[7; 32]);
        }
        builder.finish(stored.len() as u64 * 100).expect("growing offsets")
    }

    #[test]
    fn a_range_has_the_chunks_that_touch_it() {
        let table = raw(&[100, 50, 1]);
        for (start, end, expected) in [
            (0, 1, 0..1),
            (0, 100, 0..1),
            (0, 101, 0..2),
            (99, 151, 0..3),
            (100, 150, 1..2),
            (150, 151, 2..3),
            (150, 900, 2..3),
            (151, 900, 0..0),
            (5, 5, 0..0),
        ] {
            let want = ObjectRange::new(start, end).expect("forwards");
            assert_eq!(table.covering(want), expected, "{want}");
        }
        assert_eq!(raw(&[]).covering(ObjectRange::at(0, 10)), 0..0);
    }

    #[test]
    fn the_last_frame_ends_where_the_index_begins() {
        let blob = sha256(b"blob");
        let table = ChunkTable::bind(zstd(&[0, 27]), facts(&blob, Encoding::Zstd, 53)).expect("it fits");
        assert_eq!(BlobRange::new(0, 27), Some(table.chunk(0).stored));
        assert_eq!(BlobRange::new(27, 53), Some(table.chunk(1).stored));
        let fault = ChunkTable::bind(zstd(&[0, 27]), facts(&blob, Encoding::Zstd, 27)).err();
        assert_eq!(fault, Some(IndexFault::DataLength { described: 28, found: 27 }));
    }

    #[test]
    fn an_index_for_another_layer_is_refused() {
        let blob = sha256(b"blob");
        let bind = |index, encoding, end| ChunkTable::bind(index, facts(&blob, encoding, end)).err();
        assert_eq!(bind(zstd(&[0]), Encoding::Raw, 100), Some(IndexFault::Encoding));
        let index = || raw(&[10]).index().clone();
        assert_eq!(bind(index(), Encoding::Raw, 9), Some(IndexFault::DataLength { described: 10, found: 9 }));
        assert_eq!(
            bind(index(), Encoding::Raw, 11),
            Some(IndexFault::DataLength { described: 10, found: 11 })
        );
        let far = 1 << 40;
        assert_eq!(
            bind(zstd(&[0, far]), Encoding::Zstd, far + 1),
            Some(IndexFault::StoredLength { chunk: 0, found: far })
        );
        assert_eq!(
            bind(zstd(&[u64::MAX]), Encoding::Zstd, u64::MAX - 1),
            Some(IndexFault::DataLength { described: u64::MAX, found: u64::MAX - 1 })
        );
    }

    #[test]
    fn the_same_index_is_the_same_object_in_whatever_blob() {
        let (here, there) = (sha256(b"here"), sha256(b"there"));
        let here = ChunkTable::bind(zstd(&[0]), facts(&here, Encoding::Zstd, 30)).expect("it fits");
        let there = ChunkTable::bind(zstd(&[0]), facts(&there, Encoding::Zstd, 30)).expect("it fits");
        assert_eq!(here.identity(), there.identity());
        assert_eq!(here.identity().as_str().len(), "sha256-".len() + 64);
    }

    #[test]
    fn alignment_is_that_of_the_first_bytes() {
        assert!(raw(&[4096, 8192, 100]).is_aligned_to(BlockSize::FOUR_KIB));
        assert!(!raw(&[4096, 100, 4096]).is_aligned_to(BlockSize::FOUR_KIB));
        assert!(raw(&[]).is_aligned_to(BlockSize::FOUR_KIB));
    }

    proptest! {
        #[test]
        fn covering_agrees_with_a_linear_search(
            lengths in prop::collection::vec(1_u64..50, 0..40),
            start in 0_u64..2000,
            len in 0_u64..500,
        ) {
            let table = raw(&lengths);
            let want = ObjectRange::at(start, len);
            let touches = |chunk: &Chunk<'_>| {
                !want.is_empty() && chunk.decoded.start() < want.end() && want.start() < chunk.decoded.end()
            };
            let expected: Vec<u32> =
                table.chunks().filter(touches).map(|chunk| chunk.number).collect();
            prop_assert_eq!(table.covering(want).collect::<Vec<_>>(), expected);
        }

        #[test]
        fn an_index_survives_a_round_trip(
            lengths in prop::collection::vec((1_u64..1 << 20, 1_u64..1 << 20), 1..60),
        ) {
            let mut builder = IndexBuilder::new(Encoding::Zstd);
            let (mut stored, mut decoded) = (0, 0);
            for (n, (stored_len, decoded_len)) in (0_u64..).zip(&lengths) {
                let mut checksum = [0; 32];
                checksum[..8].copy_from_slice(&n.to_le_bytes());
                builder.push(stored, decoded, &checksum);
                stored += stored_len;
                decoded += decoded_len;
            }
            let index = builder.finish(decoded).expect("growing offsets");
            let read = ChunkIndex::parse(index.payload().clone()).expect("what is written can be read");
            let table = ChunkTable::bind(read, facts(&sha256(b""), Encoding::Zstd, stored)).expect("it fits");
            for (n, chunk) in (0_u64..).zip(table.chunks()) {
                let (stored_len, decoded_len) = lengths[chunk.number as usize];
                prop_assert_eq!(chunk.stored.len(), stored_len);
                prop_assert_eq!(chunk.decoded.len(), decoded_len);
                prop_assert_eq!(&chunk.checksum[..8], &n.to_le_bytes()[..]);
            }
        }

        #[test]
        fn no_bytes_make_the_parser_fail_in_another_way_than_by_an_error(
            mut bytes in prop::collection::vec(any::<u8>(), 0..200),
            keep_magic in any::<bool>(),
            data_end in any::<u64>(),
        ) {
            if keep_magic && bytes.len() >= 32 {
                let kind = bytes[5] & 1;
                bytes[..8].copy_from_slice(&[0xCD, 0xE4, 0xEC, 0x67, 1, kind, 0, 0]);
                let count = u8::try_from((bytes.len() - 32) / 48).unwrap_or(0);
                bytes[16..32].fill(0);
                (bytes[16], bytes[20], bytes[21]) = (count, 1, 32);
                bytes.truncate(32 + 48 * usize::from(count));
            }
            if let Ok(index) = ChunkIndex::parse(bytes.into()) {
                let encoding = index.encoding();
                if let Ok(table) = ChunkTable::bind(index, facts(&sha256(b""), encoding, data_end)) {
                    let sum: u64 = table.chunks().map(|chunk| chunk.decoded.len()).sum();
                    prop_assert_eq!(sum, table.decoded_size());
                }
            }
        }
    }
}
