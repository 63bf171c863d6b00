//! [`BuildOptions`]: what shapes an image.

use std::fmt;
use std::num::NonZero;
use std::path::PathBuf;

use crate::chunk::{ChunkHash, Encoding};
use crate::manifest::host_architecture;
use crate::{Error, Version};

/// How chunks are stored.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Compression {
    /// As they are: the data blob can be mounted without decoding.
    None,
    /// One zstd frame each, of this level.
    Zstd(i32),
}

impl Compression {
    pub(super) fn encoding(self) -> Encoding {
        match self {
            Self::None => Encoding::Raw,
            Self::Zstd(_) => Encoding::Zstd,
        }
    }
}

impl Default for Compression {
    fn default() -> Self {
        Self::Zstd(3)
    }
}

/// Another image whose data may be referred to instead of being stored again.
#[derive(Clone, Debug)]
pub struct DedupSource {
    /// An OCI image layout directory.
    pub dir: PathBuf,
    /// Which of its images.
    pub version: Version,
}

/// What shapes an image. The bytes of the image depend on nothing else but the tree.
#[derive(Clone)]
pub struct BuildOptions<'a> {
    /// Decoded bytes of a chunk of file data, the unit of fetching: a multiple of 4096, up to 16 MiB.
    pub chunk_bytes: NonZero<u32>,
    /// How chunks are stored.
    pub compression: Compression,
    /// How chunks are digested. Other readers of the specification fetch lazily only with the first two.
    pub chunk_hash: ChunkHash,
    /// Threads that read, and threads that compress. The result does not depend on it.
    pub jobs: NonZero<usize>,
    /// Modification times later than this are set to it, and the image is dated so: `SOURCE_DATE_EPOCH`, in seconds.
    pub timestamp: Option<i64>,
    /// Architecture by its OCI name, such as `amd64`; that of this host where there is none.
    pub architecture: Option<String>,
    /// Images whose data may be referred to, best first.
    pub dedup_against: Vec<DedupSource>,
    /// Files of at least so many bytes, and of 64 KiB, get blobs of their own, exactly as long as they are: [`OWN_BLOBS_MAX`] of them,
    /// the largest, or the first of an archive; sparse files never do. Nothing is deduplicated against their parts.
    ///
    /// [`OWN_BLOBS_MAX`]: larder_erofs::writer::OWN_BLOBS_MAX
    pub own_blob_bytes: Option<NonZero<u64>>,
    /// What the image is called in its layout.
    pub tag: String,
    /// Told how many bytes of file contents have been dealt with so far, holes included.
    pub progress: Option<&'a dyn Fn(u64)>,
}

impl Default for BuildOptions<'_> {
    fn default() -> Self {
        Self {
            chunk_bytes: NonZero::<u32>::MIN.saturating_mul(CHUNK_BYTES),
            compression: Compression::default(),
            chunk_hash: ChunkHash::default(),
            jobs: NonZero::<usize>::MIN,
            timestamp: None,
            architecture: None,
            dedup_against: Vec::new(),
            own_blob_bytes: None,
            tag: "latest".to_owned(),
            progress: None,
        }
    }
}

impl fmt::Debug for BuildOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BuildOptions")
            .field("chunk_bytes", &self.chunk_bytes)
            .field("compression", &self.compression)
            .field("chunk_hash", &self.chunk_hash)
            .field("jobs", &self.jobs)
            .field("timestamp", &self.timestamp)
            .field("dedup_against", &self.dedup_against)
            .field("own_blob_bytes", &self.own_blob_bytes)
            .field("tag", &self.tag)
            .finish_non_exhaustive()
    }
}

/// Default chunk of file data. A Python program's demand grows 1.5 times with it, 1.9 times with 256 KiB, 2.7 times
/// with 1 MiB; below it, requests and index grow faster than the demand shrinks.
const CHUNK_BYTES: NonZero<u32> = NonZero::new(64 << 10).expect("64 KiB is not 0");

/// Chunk of the metadata layer, which is fetched as a whole: larger ones compress better.
pub(super) const METADATA_CHUNK_BYTES: NonZero<usize> = NonZero::new(256 << 10).expect("256 KiB is not 0");

/// A multiple of this is what caches can mark.
const CHUNK_UNIT: u32 = 4096;

/// Largest chunk that is built: each thread holds a few of them.
const BUILT_CHUNK_BYTES_MAX: u32 = 16 << 20;

impl BuildOptions<'_> {
    /// Refuses what cannot be built before anything is read.
    pub(super) fn check(&self) -> Result<(), Error> {
        let refused = |option, value: String, reason| Err(Error::Option { option, value, reason });
        let chunk = self.chunk_bytes.get();
        if !chunk.is_multiple_of(CHUNK_UNIT) || chunk > BUILT_CHUNK_BYTES_MAX {
            return refused("chunk size", chunk.to_string(), "it is a multiple of 4096 bytes, up to 16 MiB");
        }
        if let Compression::Zstd(level) = self.compression
            && (level == 0 || !zstd::compression_level_range().contains(&level))
        {
            return refused("zstd level", level.to_string(), "it is 1 to 22, or below 0 for faster ones");
        }
        Version::tag(&self.tag).map(drop)
    }

    /// Name of the architecture in the image.
    pub(super) fn architecture(&self) -> &str {
        self.architecture.as_deref().unwrap_or(host_architecture())
    }
}
