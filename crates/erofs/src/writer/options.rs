//! [`Options`]: what shapes the image, and [`Attributes`] of what is added by hand.

use std::fmt;
use std::num::NonZero;

use super::Dictionary;
use crate::{BlockSize, Error, Timestamp};

/// What shapes an image.
pub struct Options<'a> {
    /// Base-2 logarithm of the block size, 9 to 16. Kernels take no block larger than their page.
    pub block_bits: u8,
    /// Base-2 logarithm of the unit of deduplication, from a block to 16 MiB.
    pub chunk_bits: u8,
    /// Modification times later than this are set to it: `SOURCE_DATE_EPOCH`.
    pub timestamp: Option<i64>,
    /// How many threads read and hash. The result does not depend on it.
    pub jobs: NonZero<usize>,
    /// Other images whose data may be referred to, best first.
    pub dictionaries: Vec<Dictionary>,
    /// Files of at least so many bytes, and of a unit of deduplication, get blobs of their own, where the [sink](super::BlobSink) has any; see
    /// [`OWN_BLOBS_MAX`](super::OWN_BLOBS_MAX).
    pub own_blob_bytes: Option<NonZero<u64>>,
    /// Told how many bytes of file contents have been dealt with so far, holes included.
    pub progress: Option<&'a dyn Fn(u64)>,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self {
            block_bits: 12,
            chunk_bits: 16,
            timestamp: None,
            jobs: NonZero::<usize>::MIN,
            dictionaries: Vec::new(),
            own_blob_bytes: None,
            progress: None,
        }
    }
}

impl fmt::Debug for Options<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { block_bits, chunk_bits, timestamp, jobs, dictionaries, own_blob_bytes, progress: _ } =
            self;
        f.debug_struct("Options")
            .field("block_bits", block_bits)
            .field("chunk_bits", chunk_bits)
            .field("timestamp", timestamp)
            .field("jobs", jobs)
            .field("dictionaries", &dictionaries.len())
            .field("own_blob_bytes", own_blob_bytes)
            .finish_non_exhaustive()
    }
}

/// The largest unit of deduplication: a reader thread holds a few of them.
const CHUNK_BITS_MAX: u8 = 24;

/// Options that were found to go together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    pub block: BlockSize,
    pub chunk_bits: u8,
}

impl Geometry {
    pub(super) fn new(options: &Options<'_>) -> Result<Self, Error> {
        let block = BlockSize::from_bits(options.block_bits)?;
        let chunk_bits = options.chunk_bits;
        if !(block.bits()..=CHUNK_BITS_MAX).contains(&chunk_bits) {
            return Err(Error::ChunkSize { chunk_bits, block_bits: block.bits() });
        }
        Ok(Self { block, chunk_bits })
    }

    /// Unit of deduplication in bytes.
    pub(super) fn chunk_bytes(self) -> u64 {
        1 << self.chunk_bits
    }

    /// Unit of deduplication in blocks.
    pub(super) fn chunk_blocks(self) -> u64 {
        1 << (self.chunk_bits - self.block.bits())
    }
}

/// Permissions, owner and time of something added by hand.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Attributes {
    /// Permission bits, with setuid, setgid and sticky.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time.
    pub mtime: Timestamp,
}

impl Default for Attributes {
    /// `rwxr-xr-x root root`, at the beginning of 1970.
    fn default() -> Self {
        Self { mode: 0o755, uid: 0, gid: 0, mtime: Timestamp::default() }
    }
}
