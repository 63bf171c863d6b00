//! The chunk index of a layer, `chunk-index.v1`: which bytes of the blob hold which bytes of the image, and the
//! digest of each.
//!
//! Source of truth: erofs-image-spec `spec.md`, §3.3 and §3.4 (draft). Where that text leaves a choice, the strict
//! reading is taken: offsets start at 0 and grow, a raw layer's offsets are equal, no chunk is over 64 MiB.

mod codec;
mod decode;
mod fault;
mod hash;
mod table;
mod vouch;

pub(crate) use codec::split_skippable;
pub use codec::{ChunkIndex, IndexBuilder, SKIPPABLE_HEADER_BYTES, skippable_frame};
pub use decode::Verified;
pub use fault::{ChunkFault, IndexFault, OffsetColumn};
pub use hash::{ChunkDigest, ChunkHash};
pub use table::{Chunk, ChunkTable, LayerFacts};

/// Largest decoded chunk that is accepted; it bounds the memory that one chunk can ask for.
pub const CHUNK_BYTES_MAX: u64 = 64 << 20;

/// Largest stored chunk that is accepted: what does not shrink grows by less than this.
pub const STORED_BYTES_MAX: u64 = CHUNK_BYTES_MAX + (1 << 20);

/// Largest chunk index that is accepted, in bytes: 1.4 million chunks.
pub const INDEX_BYTES_MAX: u64 = 64 << 20;

/// How the chunks of a blob are stored: `CompressionType` of the chunk index, and the suffix of the media type.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Encoding {
    /// As they are.
    Raw,
    /// One zstd frame each.
    Zstd,
}
