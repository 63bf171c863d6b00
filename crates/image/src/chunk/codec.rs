//! [`ChunkIndex`]: the bytes of a chunk index, checked; and [`IndexBuilder`], which makes them.

use bytes::{BufMut, Bytes, BytesMut};
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::fault::OffsetColumn::{Decoded, Stored};
use super::{CHUNK_BYTES_MAX, ChunkHash, Encoding, INDEX_BYTES_MAX, IndexFault};

/// First bytes of a chunk index.
const MAGIC: [u8; 4] = [0xCD, 0xE4, 0xEC, 0x67];

/// Bytes of the header of a zstd skippable frame: magic and length.
pub const SKIPPABLE_HEADER_BYTES: u64 = 8;

/// Bytes of an entry before its digest.
const OFFSETS_BYTES: usize = 16;

/// The header of a chunk index, §3.4.2.
#[derive(Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct Header {
    magic: [u8; 4],
    version: u8,
    compression_type: u8,
    flags: U16,
    uncompressed_size: U64,
    num_chunks: U32,
    hash_algo: u8,
    hash_size: u8,
    reserved: [u8; 10],
}

const HEADER_BYTES: usize = size_of::<Header>();

/// A chunk index whose every field has been checked, apart from what only the layer can tell (see
/// [`ChunkTable::bind`](super::ChunkTable::bind)).
///
/// It keeps the bytes as they came and nothing else for each chunk: 48 bytes a chunk with SHA-256.
#[derive(Clone, Debug)]
pub struct ChunkIndex {
    payload: Bytes,
    encoding: Encoding,
    hash: ChunkHash,
    decoded_size: u64,
    count: u32,
}

impl ChunkIndex {
    /// Reads the payload of an index: header and entries, without a skippable frame's header.
    ///
    /// # Errors
    ///
    /// The [`IndexFault`] met first.
    pub fn parse(payload: Bytes) -> Result<Self, IndexFault> {
        let found = payload.len() as u64;
        if found > INDEX_BYTES_MAX {
            return Err(IndexFault::TooLong { found });
        }
        let Ok((header, _)) = Header::ref_from_prefix(&payload) else {
            return Err(IndexFault::HeaderLength { found });
        };
        let (encoding, hash) = check_header(header)?;
        let (decoded_size, count) = (header.uncompressed_size.get(), header.num_chunks.get());
        let expected = HEADER_BYTES as u64 + u64::from(count) * (OFFSETS_BYTES + hash.bytes()) as u64;
        if found != expected {
            return Err(IndexFault::Length { expected, found });
        }
        if (count == 0) != (decoded_size == 0) {
            return Err(IndexFault::Empty { decoded: decoded_size, chunks: count });
        }
        let index = Self { payload, encoding, hash, decoded_size, count };
        index.check_entries()?;
        Ok(index)
    }

    /// Checks that both offsets grow from 0, that a raw layer's are equal, and that no chunk is too large.
    fn check_entries(&self) -> Result<(), IndexFault> {
        for chunk in 0..self.count {
            let (stored, decoded) = (self.stored_offset(chunk), self.decoded_offset(chunk));
            if self.encoding == Encoding::Raw && stored != decoded {
                return Err(IndexFault::RawOffset { chunk, stored, decoded });
            }
            if chunk == 0 && decoded != 0 {
                return Err(IndexFault::FirstOffset { column: Decoded, found: decoded });
            }
            if chunk > 0 && stored <= self.stored_offset(chunk - 1) {
                return Err(IndexFault::Order { chunk, column: Stored, found: stored });
            }
            // With chunk 0 at 0, each end beyond its start makes the whole column grow.
            let end = self.decoded_end(chunk);
            if end <= decoded {
                let (chunk, found) = if chunk + 1 < self.count { (chunk + 1, end) } else { (chunk, decoded) };
                return Err(IndexFault::Order { chunk, column: Decoded, found });
            }
            if end - decoded > CHUNK_BYTES_MAX {
                return Err(IndexFault::DecodedLength { chunk, found: end - decoded });
            }
        }
        Ok(())
    }

    /// The bytes of the index as they came.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// How chunks are stored.
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// How chunks are digested.
    pub fn hash(&self) -> ChunkHash {
        self.hash
    }

    /// Bytes of the decoded data.
    pub fn decoded_size(&self) -> u64 {
        self.decoded_size
    }

    /// Number of chunks.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Where chunk `n` is stored in the blob.
    ///
    /// # Panics
    ///
    /// When there is no chunk `n`; so do the other functions that take a number.
    pub fn stored_offset(&self, n: u32) -> u64 {
        self.u64_at(self.entry(n))
    }

    /// Where chunk `n` begins in the decoded data.
    pub fn decoded_offset(&self, n: u32) -> u64 {
        self.u64_at(self.entry(n) + 8)
    }

    /// Where chunk `n` ends in the decoded data.
    pub fn decoded_end(&self, n: u32) -> u64 {
        if n + 1 < self.count { self.decoded_offset(n + 1) } else { self.decoded_size }
    }

    /// Digest of chunk `n` as stored.
    pub fn checksum(&self, n: u32) -> &[u8] {
        let at = self.entry(n) + OFFSETS_BYTES;
        &self.payload[at..at + self.hash.bytes()]
    }

    fn entry(&self, n: u32) -> usize {
        assert!(n < self.count, "chunk {n} of {}", self.count);
        HEADER_BYTES + n as usize * (OFFSETS_BYTES + self.hash.bytes())
    }

    fn u64_at(&self, at: usize) -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.payload[at..at + 8]);
        u64::from_le_bytes(bytes)
    }
}

fn check_header(header: &Header) -> Result<(Encoding, ChunkHash), IndexFault> {
    if header.magic != MAGIC {
        return Err(IndexFault::Magic { found: header.magic });
    }
    if header.version != 1 {
        return Err(IndexFault::Version { found: header.version });
    }
    let encoding = match header.compression_type {
        0 => Encoding::Raw,
        1 => Encoding::Zstd,
        found => return Err(IndexFault::Compression { found }),
    };
    if header.flags.get() != 0 {
        return Err(IndexFault::Flags { found: header.flags.get() });
    }
    if let Some(at) = header.reserved.iter().position(|&byte| byte != 0) {
        return Err(IndexFault::Reserved { at: HEADER_BYTES - header.reserved.len() + at });
    }
    let hash = ChunkHash::of_header(header.hash_algo, header.hash_size)?;
    Ok((encoding, hash))
}

/// Makes the payload of an index, chunk after chunk.
#[derive(Debug)]
pub struct IndexBuilder {
    encoding: Encoding,
    hash: ChunkHash,
    entries: BytesMut,
    count: u32,
}

impl IndexBuilder {
    /// Begins an index for chunks stored as `encoding` and digested by SHA-256.
    pub fn new(encoding: Encoding) -> Self {
        Self::with_hash(encoding, ChunkHash::default())
    }

    /// Begins an index for chunks stored as `encoding` and digested by `hash`.
    pub fn with_hash(encoding: Encoding, hash: ChunkHash) -> Self {
        Self { encoding, hash, entries: BytesMut::new(), count: 0 }
    }

    /// Adds the next chunk: where it is stored, where it begins in the decoded data, the digest of its stored bytes.
    ///
    /// # Panics
    ///
    /// When the digest has not the length of those of this index.
    pub fn push(&mut self, stored_offset: u64, decoded_offset: u64, checksum: &[u8]) {
        assert_eq!(checksum.len(), self.hash.bytes(), "a digest of another kind");
        self.entries.put_u64_le(stored_offset);
        self.entries.put_u64_le(decoded_offset);
        self.entries.put_slice(checksum);
        self.count += 1;
    }

    /// Number of chunks so far.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Returns the index of `decoded_size` bytes of data.
    ///
    /// # Errors
    ///
    /// The [`IndexFault`] that a reader would meet, for instance an index over the size limit.
    pub fn finish(self, decoded_size: u64) -> Result<ChunkIndex, IndexFault> {
        let header = Header {
            magic: MAGIC,
            version: 1,
            compression_type: match self.encoding {
                Encoding::Raw => 0,
                Encoding::Zstd => 1,
            },
            flags: U16::ZERO,
            uncompressed_size: decoded_size.into(),
            num_chunks: self.count.into(),
            hash_algo: self.hash.algorithm(),
            hash_size: self.hash.size(),
            reserved: [0; 10],
        };
        let mut payload = BytesMut::with_capacity(HEADER_BYTES + self.entries.len());
        payload.put_slice(header.as_bytes());
        payload.put_slice(&self.entries);
        ChunkIndex::parse(payload.freeze())
    }
}

/// Returns the header of the zstd skippable frame that holds `payload_len` bytes of index, or `None` above 2^32.
pub fn skippable_frame(payload_len: u64) -> Option<[u8; 8]> {
    let len = u32::try_from(payload_len).ok()?;
    let mut header = [0; 8];
    header[..4].copy_from_slice(&0x184D_2A50_u32.to_le_bytes());
    header[4..].copy_from_slice(&len.to_le_bytes());
    Some(header)
}

/// Takes the header of a skippable frame off `bytes` and returns payload and rest, or `None` when none begins here.
pub(crate) fn split_skippable(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (magic, rest) = bytes.split_first_chunk::<4>()?;
    let (len, rest) = rest.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*magic) & 0xFFFF_FFF0 != 0x184D_2A50 {
        return None;
    }
    rest.split_at_checked(u32::from_le_bytes(*len) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::OffsetColumn;
    use crate::digest::{hex, sha256_raw};

    /// V1 of the reference: a raw layer of three chunks.
    fn v1() -> ChunkIndex {
        let mut builder = IndexBuilder::new(Encoding::Raw);
        for (at, byte, len) in [(0, 0x00, 4096), (4096, 0x11, 4096), (8192, 0x22, 1000)] {
            builder.push(at, at, &sha256_raw(&vec![byte; len]));
        }
        builder.finish(9192).expect("V1 is well formed")
    }

    /// V2 of the reference: a zstd layer of two chunks.
    fn v2() -> ChunkIndex {
        let mut builder = IndexBuilder::new(Encoding::Zstd);
        builder.push(0, 0, &sha256_raw(FRAME_0));
        builder.push(27, 18, &sha256_raw(FRAME_1));
        builder.finish(35).expect("V2 is well formed")
    }

    const FRAME_0: &[u8] = b"\x28\xb5\x2f\xfd\x20\x12\x91\x00\x00larder chunk zero\n";
    const FRAME_1: &[u8] = b"\x28\xb5\x2f\xfd\x20\x11\x89\x00\x00larder chunk one\n";

    #[test]
    fn vector_1_is_written_byte_for_byte() {
        let index = v1();
        assert_eq!(index.payload().len(), 176);
        assert_eq!(
            hex(&sha256_raw(index.payload())),
            "cfb1f56c4c498184d374871fb84af8eaae43712c19e38238239888a467ecf856"
        );
        assert_eq!(
            hex(index.checksum(2)),
            "d2dbc1fd087bfbba84452c44e6d8fd4760cd9c96a724c66f7385ce94f2c49f82"
        );
        let mut blob = [vec![0; 4096], vec![0x11; 4096], vec![0x22; 1000]].concat();
        blob.extend_from_slice(index.payload());
        assert_eq!(
            hex(&sha256_raw(&blob)),
            "70a0243aab8c40e477cbddd093456d2b166bc15fe8972dd3501eb4a70f681ba6"
        );
    }

    #[test]
    fn vector_2_is_written_byte_for_byte() {
        let index = v2();
        assert_eq!(
            hex(&sha256_raw(index.payload())),
            "b5e1fb885707d4f9cc87a6c7400c61a5dd4dc3457b508be95a328f47c49c3ac2"
        );
        let frame = skippable_frame(index.payload().len() as u64).expect("128 bytes fit");
        assert_eq!(hex(&frame), "502a4d1880000000");
        let blob = [FRAME_0, FRAME_1, &frame, index.payload()].concat();
        assert_eq!(blob.len(), 189);
        assert_eq!(
            hex(&sha256_raw(&blob)),
            "bf09aa1f82af7ea3bfb25674eaac9b653adcb1aac3b524c16e6dcb7810a8ae4b"
        );
        let decoded = zstd::stream::decode_all(&blob[..]).expect("a plain decoder passes over the index");
        assert_eq!(
            hex(&sha256_raw(&decoded)),
            "deeb0446dd98a770d5ed972f6c65be4e4ad6face2f61c2f82cbaae49eb18ab4c"
        );
    }

    #[test]
    fn an_index_of_nothing_has_no_chunks() {
        let index = IndexBuilder::new(Encoding::Zstd).finish(0).expect("an empty layer is legal");
        assert_eq!((index.count(), index.decoded_size(), index.payload().len()), (0, 0, 32));
    }

    #[test]
    fn every_damage_has_its_name() {
        use IndexFault as F;
        type Damage = fn(&mut Vec<u8>);
        let cases: [(&str, Damage, IndexFault); 18] = [
            ("short header", |p| p.truncate(31), F::HeaderLength { found: 31 }),
            ("magic", |p| p[0] = 0, F::Magic { found: [0, 0xE4, 0xEC, 0x67] }),
            ("version", |p| p[4] = 2, F::Version { found: 2 }),
            ("compression", |p| p[5] = 2, F::Compression { found: 2 }),
            ("flags", |p| p[7] = 1, F::Flags { found: 0x100 }),
            ("reserved", |p| p[31] = 1, F::Reserved { at: 31 }),
            ("no hash", |p| (p[20], p[21]) = (0, 0), F::Unhashed),
            ("hash", |p| p[21] = 48, F::Hash { algorithm: 1, size: 48 }),
            ("short", |p| p.truncate(175), F::Length { expected: 176, found: 175 }),
            ("long", |p| p.push(0), F::Length { expected: 176, found: 177 }),
            ("count", |p| p[16..20].fill(255), F::Length { expected: 32 + 48 * 0xFFFF_FFFF, found: 176 }),
            ("no size", |p| p[8..16].fill(0), F::Empty { decoded: 0, chunks: 3 }),
            ("raw offset", |p| p[80] = 1, F::RawOffset { chunk: 1, stored: 4097, decoded: 4096 }),
            (
                "first",
                |p| (p[32], p[40]) = (1, 1),
                F::FirstOffset { column: OffsetColumn::Decoded, found: 1 },
            ),
            (
                "order",
                |p| (p[129], p[137]) = (0x10, 0x10),
                F::Order { chunk: 2, column: OffsetColumn::Decoded, found: 4096 },
            ),
            (
                "end before the last chunk",
                |p| p[8..10].copy_from_slice(&8192_u16.to_le_bytes()),
                F::Order { chunk: 2, column: OffsetColumn::Decoded, found: 8192 },
            ),
            ("huge", |p| p[12] = 1, F::DecodedLength { chunk: 2, found: (1 << 32) + 1000 }),
            (
                "stored order",
                |p| {
                    p[5] = 1;
                    p[80..88].fill(0);
                },
                F::Order { chunk: 1, column: OffsetColumn::Stored, found: 0 },
            ),
        ];
        for (name, damage, expected) in cases {
            let mut payload = v1().payload().to_vec();
            damage(&mut payload);
            let fault = ChunkIndex::parse(payload.into()).err();
            assert_eq!(fault, Some(expected), "{name}");
        }
    }

    #[test]
    fn skippable_frames_are_taken_off() {
        let frame = [&skippable_frame(3).expect("3 bytes fit")[..], b"abc", b"rest"].concat();
        assert_eq!(split_skippable(&frame), Some((&b"abc"[..], &b"rest"[..])));
        assert_eq!(split_skippable(&frame[..10]), None, "a frame that is cut off is no frame");
        assert_eq!(split_skippable(FRAME_0), None, "a data frame is not skippable");
        assert_eq!(skippable_frame(1 << 32), None);
    }
}
