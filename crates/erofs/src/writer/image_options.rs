//! [`ImageOptions`]: what shapes an image of one piece.

use std::fmt;
use std::num::NonZero;

use super::compressor::{Compressor, CompressorFault};
use super::image::Method;
use crate::codec::PCLUSTER_BYTES_MAX;
use crate::{BlockSize, Error};

/// What shapes an image of one piece.
///
/// The default is what `mkfs.erofs` writes without options: blocks of 4 KiB, nothing compressed, tails behind
/// their inodes.
///
/// ```
/// use larder_erofs::writer::{Compressor, ImageOptions};
///
/// let options = ImageOptions {
///     compressors: vec!["zstd,level=9".parse()?],
///     pcluster_bytes: 65536,
///     tail_packing: true,
///     ..ImageOptions::default()
/// };
/// # Ok::<(), larder_erofs::writer::CompressorFault>(())
/// ```
#[derive(Clone)]
pub struct ImageOptions<'a> {
    /// Base-2 logarithm of the block size, 9 to 16. Kernels take no block larger than their page.
    pub block_bits: u8,
    /// Files are compressed with the first, unless [`hints`](Self::hints) says otherwise. Empty: none is.
    pub compressors: Vec<Compressor>,
    /// Encoded bytes of a pcluster, at most: a multiple of the block size up to 256 blocks and
    /// 1 MiB. 0 is one block.
    pub pcluster_bytes: u32,
    /// Decoded bytes of an extent, at most: what a reader decodes for one byte. 0 is 1 MiB.
    pub extent_bytes_max: u32,
    /// Encoded bytes of the pclusters that [`hints`](Self::hints) ask for, at most. 0 is
    /// [`pcluster_bytes`](Self::pcluster_bytes).
    pub pcluster_bytes_max: u32,
    /// Chooses by path for each file.
    pub hints: Option<&'a Hints<'a>>,
    /// Full indexes for all compressed files, never compact ones: for Linux before 5.3.
    pub legacy_indexes: bool,
    /// Whether the last piece of an uncompressed file, directory or link may stand behind its inode.
    pub inline_data: bool,
    /// Whether the last pcluster of a compressed file may stand behind its inode (Linux 5.17).
    pub tail_packing: bool,
    /// What goes into the packed inode (Linux 6.1).
    pub fragments: Fragments,
    /// Store equal extents once, in any file (Linux 6.1).
    pub dedupe: bool,
    /// The 48-bit layout (Linux 6.15): block addresses of 48 bits, and extent records in place of indexes that would be
    /// longer. Taken without being asked for when the devices of an image have more than 2^32 blocks.
    pub wide: bool,
    /// Put inodes, with attributes, indexes and tails, into the metabox (Linux 6.17), stored as this says; brings the
    /// 48-bit layout. For images of one piece only.
    pub metabox: Option<Hint>,
    /// Store files as chunks of 2^this bytes, each content once, not compressed (Linux 5.15). 0: do not.
    pub chunk_bits: u8,
    /// Which form inodes have.
    pub inode_form: InodeForm,
    /// An attribute of more inodes than this is stored once for all.
    pub shared_xattr_uses: u32,
    /// What becomes of modification times.
    pub times: Times,
    /// Time of the build, in seconds since 1970. `None`: the time of the newest inode.
    pub build_time: Option<i64>,
    /// Identity of the image. `None`: made from all it says.
    pub uuid: Option<[u8; 16]>,
    /// Label.
    pub volume_name: [u8; 16],
    /// Whether the superblock has a checksum (Linux 5.5 looks at it).
    pub checksum: bool,
    /// How many threads read and compress. The result does not depend on it.
    pub jobs: NonZero<usize>,
    /// Told how many bytes of file contents have been dealt with so far.
    pub progress: Option<&'a (dyn Fn(u64) + Sync)>,
}

/// Says how the file at a path of the image is to be stored.
pub type Hints<'a> = dyn Fn(&[u8]) -> Hint + Sync + 'a;

/// How one file is to be stored.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Hint {
    /// Index into [`ImageOptions::compressors`]; `None` leaves the file as it is.
    pub compressor: Option<usize>,
    /// Encoded bytes of its pclusters, at most; 0 is [`ImageOptions::pcluster_bytes`].
    pub pcluster_bytes: u32,
}

impl Default for Hint {
    /// As without hints.
    fn default() -> Self {
        Self { compressor: Some(0), pcluster_bytes: 0 }
    }
}

/// What goes into the packed inode, where the tails of many files are compressed together.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Fragments {
    /// Nothing.
    #[default]
    None,
    /// The tail of every compressed file.
    Tails,
    /// Whole files.
    All,
}

/// Which form inodes have.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum InodeForm {
    /// 32 bytes where all that the inode says fits, else 64.
    #[default]
    Auto,
    /// 64 bytes.
    Extended,
    /// 32 bytes wherever size and owner fit. Times lose their fractions of a second, and Linux before 6.15 shows
    /// the earliest of them for all.
    Compact,
}

/// What becomes of modification times.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Times {
    /// They stay.
    #[default]
    Keep,
    /// Later ones become this: `SOURCE_DATE_EPOCH`.
    Latest(i64),
    /// All become this.
    All(i64),
}

impl Default for ImageOptions<'_> {
    fn default() -> Self {
        Self {
            block_bits: 12,
            compressors: Vec::new(),
            pcluster_bytes: 0,
            pcluster_bytes_max: 0,
            extent_bytes_max: 0,
            hints: None,
            legacy_indexes: false,
            inline_data: true,
            tail_packing: false,
            fragments: Fragments::None,
            dedupe: false,
            wide: false,
            metabox: None,
            chunk_bits: 0,
            inode_form: InodeForm::Auto,
            shared_xattr_uses: 2,
            times: Times::Keep,
            build_time: None,
            uuid: None,
            volume_name: [0; 16],
            checksum: true,
            jobs: NonZero::<usize>::MIN,
            progress: None,
        }
    }
}

impl fmt::Debug for ImageOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageOptions")
            .field("block_bits", &self.block_bits)
            .field("compressors", &self.compressors)
            .field("pcluster_bytes", &self.pcluster_bytes)
            .field("fragments", &self.fragments)
            .field("dedupe", &self.dedupe)
            .field("wide", &self.wide)
            .field("metabox", &self.metabox)
            .field("chunk_bits", &self.chunk_bits)
            .field("jobs", &self.jobs)
            .finish_non_exhaustive()
    }
}

impl ImageOptions<'_> {
    /// Checks all but the hints.
    pub(super) fn check(&self) -> Result<BlockSize, Error> {
        let block = BlockSize::from_bits(self.block_bits)?;
        self.check_faults(block).map_err(|fault| Error::Options { fault })?;
        Ok(block)
    }

    fn check_faults(&self, block: BlockSize) -> Result<(), OptionsFault> {
        check_pcluster(self.pcluster_bytes(block), block)?;
        check_pcluster(self.pcluster_bytes_max(block), block)?;
        let extent = self.extent_bytes_max;
        if extent != 0 && (u64::from(extent) < block.bytes() || extent > EXTENT_BYTES_MAX) {
            return Err(OptionsFault::Extent { bytes: extent, block: block.bytes() });
        }
        for compressor in &self.compressors {
            compressor.check()?;
        }
        let needs = [(self.tail_packing, "tail packing"), (self.fragments != Fragments::None, "fragments")];
        if let Some((_, what)) = needs.iter().find(|(on, _)| *on && self.compressors.is_empty()) {
            return Err(OptionsFault::NeedsCompressor { what });
        }
        if let Some(hint) = self.metabox {
            self.method(hint, block)?;
        }
        if self.chunk_bits != 0 {
            if !self.compressors.is_empty() {
                return Err(OptionsFault::Conflict { one: "chunks", other: "compression" });
            }
            if !(block.bits()..=CHUNK_BITS_MAX).contains(&self.chunk_bits) {
                return Err(OptionsFault::Chunk { bits: self.chunk_bits, block: block.bytes() });
            }
        }
        Ok(())
    }

    /// Encoded bytes of a pcluster, at most.
    pub(super) fn pcluster_bytes(&self, block: BlockSize) -> u32 {
        match self.pcluster_bytes {
            // 64 KiB is the largest block.
            0 => u32::try_from(block.bytes()).unwrap_or(1 << 16),
            bytes => bytes,
        }
    }

    /// Encoded bytes of any pcluster, at most.
    pub(super) fn pcluster_bytes_max(&self, block: BlockSize) -> u32 {
        let metabox = self.metabox.map_or(0, |hint| hint.pcluster_bytes);
        self.pcluster_bytes(block).max(self.pcluster_bytes_max).max(metabox)
    }

    /// Decoded bytes of an extent, at most.
    pub(super) fn extent_bytes_max(&self) -> u32 {
        if self.extent_bytes_max == 0 { EXTENT_BYTES_USUAL } else { self.extent_bytes_max }
    }

    /// How a file with this hint is stored.
    pub(super) fn method(&self, hint: Hint, block: BlockSize) -> Result<Method, OptionsFault> {
        let count = self.compressors.len();
        let usual = self.pcluster_bytes(block);
        let Some(index) = hint.compressor.filter(|_| count > 0) else {
            return Ok(Method { compressor: None, pcluster_bytes: usual });
        };
        let compressor = u8::try_from(index).ok().filter(|_| index < count);
        let compressor = Some(compressor.ok_or(OptionsFault::Hint { index, count })?);
        let pcluster_bytes = if hint.pcluster_bytes == 0 { usual } else { hint.pcluster_bytes };
        check_pcluster(pcluster_bytes, block)?;
        if pcluster_bytes > self.pcluster_bytes_max(block) {
            return Err(OptionsFault::Pcluster { bytes: pcluster_bytes, block: block.bytes() });
        }
        Ok(Method { compressor, pcluster_bytes })
    }
}

/// Decoded bytes of an extent where nothing was said: more would make reading one byte slow.
const EXTENT_BYTES_USUAL: u32 = 1 << 20;
/// Decoded bytes of an extent, at most: what is encoded in one go.
const EXTENT_BYTES_MAX: u32 = 4 << 20;

/// Base-2 logarithm of the largest chunk: a piece of a file that is read in one go.
const CHUNK_BITS_MAX: u8 = 22;
/// Blocks of a pcluster, at most.
const PCLUSTER_BLOCKS_MAX: u64 = 256;

fn check_pcluster(bytes: u32, block: BlockSize) -> Result<(), OptionsFault> {
    let good = bytes > 0 && u64::from(bytes) <= PCLUSTER_BYTES_MAX && block.offset(bytes.into()) == 0;
    // Linux 6.18 refuses LZ4 pclusters of more than 256 blocks, of whatever size: `z_erofs_gbuf_growsize()` takes the
    // number of blocks for one of pages.
    let good = good && u64::from(bytes) >> block.bits() <= PCLUSTER_BLOCKS_MAX;
    if good { Ok(()) } else { Err(OptionsFault::Pcluster { bytes, block: block.bytes() }) }
}

/// Why options cannot be followed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[expect(missing_docs, reason = "each message is the documentation of its variant and fields")]
pub enum OptionsFault {
    #[error(transparent)]
    Compressor(#[from] CompressorFault),
    #[error("this build cannot encode {name}")]
    NotBuilt { name: &'static str },
    #[error("pclusters of {bytes} bytes do not go with blocks of {block}")]
    Pcluster { bytes: u32, block: u64 },
    #[error("extents of {bytes} bytes do not go with blocks of {block}")]
    Extent { bytes: u32, block: u64 },
    #[error("chunks of 2^{bits} bytes do not go with blocks of {block}")]
    Chunk { bits: u8, block: u64 },
    #[error("a hint names compressor {index} of {count}")]
    Hint { index: usize, count: usize },
    #[error("{what} needs a compressor")]
    NeedsCompressor { what: &'static str },
    #[error("{one} does not go with {other}")]
    Conflict { one: &'static str, other: &'static str },
}
