//! Where compressed data lies: the map header and the three forms of index behind it, as bytes.
//!
//! Pure decoding. Walking from entry to entry, with the reading that takes, is `image/zmap.rs`.

mod compact;
mod full;
mod header;
mod record;

pub(crate) use compact::CompactTable;
pub(crate) use full::{ENTRY_BYTES, HOLE as FULL_HOLE, PARTIAL as FULL_PARTIAL, full_entry};
pub(crate) use header::{Advise, HEADER_BYTES, Map, MapHeader};
pub(crate) use record::{Record, RecordForm};

use crate::Codec;

/// Longest decoded extent: `Z_EROFS_PCLUSTER_MAX_DSIZE`, fs/erofs/internal.h (v7.3).
pub(crate) const EXTENT_BYTES_MAX: u64 = 12 << 20;
pub(crate) use crate::codec::PCLUSTER_BYTES_MAX;

/// Set in the first distance of a `Next` entry: the other bits are the pcluster's size in blocks.
pub(crate) const BLOCK_COUNT: u32 = 0x800;

/// How an extent is stored, as the entry at its head says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum HeadKind {
    Plain,
    Head1,
    Head2,
}

/// What the index says of one lcluster.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Entry {
    /// An extent begins here.
    Head(Head),
    /// None does: `NONHEAD`.
    Next {
        /// Distance back towards the head, in lclusters.
        back: u32,
        /// Distance to the next head, where the entry has it; 0 counts as 1.
        ahead: Option<u32>,
        /// Size in blocks of the pcluster whose head is just before: `CBLKCNT`.
        blocks: Option<u32>,
    },
}

/// The beginning of an extent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Head {
    pub kind: HeadKind,
    /// Where in the lcluster the extent begins.
    pub offset: u32,
    /// First block of its pcluster, in the unified address space.
    pub block: u64,
    /// Zeros that are stored nowhere (Linux 7.2).
    pub hole: bool,
    /// The pcluster holds more than the extent: for a reader, who decodes no more than it wants, nothing special.
    pub partial: bool,
}

impl HeadKind {
    /// Reads the two type bits; `None` stands for `NONHEAD`.
    fn from_bits(bits: u32) -> Option<Self> {
        match bits & 3 {
            0 => Some(Self::Plain),
            1 => Some(Self::Head1),
            3 => Some(Self::Head2),
            _ => None,
        }
    }
}

/// What is wrong with the index of a compressed file.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[expect(missing_docs, reason = "each message is the documentation of its variant and fields")]
pub enum MapFault {
    #[error("advice {advise:#06x} cannot be")]
    Advise { advise: u16 },
    #[error("lclusters of 2^{bits} bytes")]
    LclusterBits { bits: u8 },
    #[error("codec {number} is unknown")]
    UnknownCodec { number: u8 },
    #[error("codec {codec} is not among those of the superblock")]
    UnlistedCodec { codec: Codec },
    #[error("lcluster {lcn}: the extent begins at {offset}, outside it")]
    ClusterOffset { lcn: u64, offset: u32 },
    #[error("lcluster {lcn}: no extent begins there or before")]
    NoHead { lcn: u64 },
    #[error("lcluster {lcn}: a size in blocks, but pclusters have one block")]
    BlockCount { lcn: u64 },
    #[error("lcluster {lcn}: the ways back and ahead do not agree")]
    Distances { lcn: u64 },
    #[error("lcluster {lcn}: the heads are too far apart")]
    TooFar { lcn: u64 },
    #[error("record {index}: out of order")]
    RecordOrder { index: u64 },
    #[error("a pcluster of {encoded} bytes for {decoded} decoded bytes")]
    Sizes { encoded: u64, decoded: u64 },
    #[error("{decoded} decoded bytes, stored plain in {encoded}")]
    PlainTooShort { encoded: u64, decoded: u64 },
    #[error("the inline pcluster crosses a block boundary")]
    InlineCrossesBlock,
    #[error("a fragment, but there is no packed inode to hold it")]
    NoPacked,
    #[error("the fragment at {offset} lies outside the packed inode")]
    FragmentOutside { offset: u64 },
    #[error("an address beyond 2^64")]
    Overflow,
}

impl MapFault {
    /// Whether a newer kernel might read it, as the older one's answer says: `EOPNOTSUPP`.
    pub(crate) fn is_unsupported(self) -> bool {
        matches!(self, Self::UnknownCodec { .. } | Self::LclusterBits { .. } | Self::Sizes { .. })
    }
}
