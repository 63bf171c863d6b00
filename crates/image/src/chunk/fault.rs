//! What can be wrong with a chunk index or a chunk.

use std::fmt;

use crate::chunk::{CHUNK_BYTES_MAX, INDEX_BYTES_MAX, STORED_BYTES_MAX};

/// What is wrong with a chunk index.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum IndexFault {
    /// Shorter than its header.
    #[error("ends inside its header, after {found} bytes")]
    HeaderLength {
        /// Bytes there are.
        found: u64,
    },
    /// Larger than anything sensible.
    #[error("is {found} bytes long, over the limit of {INDEX_BYTES_MAX}")]
    TooLong {
        /// Bytes there are, or are said to be.
        found: u64,
    },
    /// Another file.
    #[error("begins with {found:02x?}, which is no chunk index")]
    Magic {
        /// The first four bytes.
        found: [u8; 4],
    },
    /// A later version.
    #[error("has version {found}, and 1 is known")]
    Version {
        /// The version.
        found: u8,
    },
    /// A later kind of compression.
    #[error("has compression type {found}, and 0 and 1 are known")]
    Compression {
        /// The type.
        found: u8,
    },
    /// Flags that are not defined.
    #[error("has flags {found:#06x}, and none is known")]
    Flags {
        /// The flags.
        found: u16,
    },
    /// No digests: nothing ties the chunks to the manifest.
    #[error("has no chunk digests, so nothing vouches for a chunk")]
    Unhashed,
    /// A digest that is not known.
    #[error("has hash algorithm {algorithm} of {size} bytes, which is unknown")]
    Hash {
        /// `HashAlgo`.
        algorithm: u8,
        /// `HashSize`.
        size: u8,
    },
    /// Reserved bytes are used.
    #[error("has a reserved byte that is not zero at {at}")]
    Reserved {
        /// Offset in the index.
        at: usize,
    },
    /// Header and length do not agree.
    #[error("is {found} bytes long instead of {expected}")]
    Length {
        /// What the number of chunks asks for.
        expected: u64,
        /// Bytes there are.
        found: u64,
    },
    /// The first chunk begins somewhere else than the data.
    #[error("chunk 0: {column} is {found} instead of 0")]
    FirstOffset {
        /// Which offset.
        column: OffsetColumn,
        /// What it is.
        found: u64,
    },
    /// Offsets that do not grow.
    #[error("chunk {chunk}: {column} {found} does not lie after the chunk before it")]
    Order {
        /// Number of the chunk.
        chunk: u32,
        /// Which offset.
        column: OffsetColumn,
        /// What it is.
        found: u64,
    },
    /// A raw layer whose data does not lie where it is decoded to.
    #[error("chunk {chunk}: stored at {stored} and decoded at {decoded}, which a raw layer cannot be")]
    RawOffset {
        /// Number of the chunk.
        chunk: u32,
        /// `BlockOffset`.
        stored: u64,
        /// `UncompressedOffset`.
        decoded: u64,
    },
    /// A chunk that is too large.
    #[error("chunk {chunk}: {found} decoded bytes are over the limit of {CHUNK_BYTES_MAX}")]
    DecodedLength {
        /// Number of the chunk.
        chunk: u32,
        /// Its decoded length.
        found: u64,
    },
    /// A chunk that is too large as stored.
    #[error("chunk {chunk}: {found} stored bytes are over the limit of {STORED_BYTES_MAX}")]
    StoredLength {
        /// Number of the chunk.
        chunk: u32,
        /// Its stored length.
        found: u64,
    },
    /// No chunks, yet bytes; or the reverse.
    #[error("says {decoded} decoded bytes in {chunks} chunks")]
    Empty {
        /// `UncompressedSize`.
        decoded: u64,
        /// `NumChunks`.
        chunks: u32,
    },
    /// The index describes another encoding than the layer's media type.
    #[error("describes chunks of another encoding than the media type of the layer")]
    Encoding,
    /// The index describes more or less than the blob holds.
    #[error("describes {described} bytes of data, and the blob holds {found}")]
    DataLength {
        /// What the index describes.
        described: u64,
        /// What the blob has before its index.
        found: u64,
    },
    /// No skippable frame where the annotation says that one begins.
    #[error("does not lie in a zstd skippable frame of the length given")]
    Frame,
}

/// One of the two offsets of an entry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OffsetColumn {
    /// `BlockOffset`: where the chunk is stored.
    Stored,
    /// `UncompressedOffset`: where it is decoded to.
    Decoded,
}

impl fmt::Display for OffsetColumn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stored => "stored offset",
            Self::Decoded => "decoded offset",
        })
    }
}

/// What is wrong with the bytes of one chunk.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ChunkFault {
    /// Fewer or more bytes than the chunk has.
    #[error("{found} stored bytes came instead of {expected}")]
    StoredLength {
        /// Bytes the index gives the chunk.
        expected: u64,
        /// Bytes that came.
        found: u64,
    },
    /// Other bytes than the ones the index vouches for.
    #[error("its bytes do not match their digest")]
    Digest,
    /// What follows the frame is something else than padding.
    #[error("more than one zstd frame")]
    SeveralFrames,
    /// The frame needs a dictionary.
    #[error("its zstd frame asks for dictionary {id}")]
    Dictionary {
        /// Number of the dictionary.
        id: u32,
    },
    /// The frame cannot be decoded into the length the index gives the chunk.
    #[error("it does not decode: {reason}")]
    Decode {
        /// What zstd says.
        reason: &'static str,
    },
    /// The frame decodes to less than the index says.
    #[error("it decodes to {found} bytes instead of {expected}")]
    DecodedLength {
        /// Bytes the index gives the chunk.
        expected: u64,
        /// Bytes it has.
        found: u64,
    },
}
