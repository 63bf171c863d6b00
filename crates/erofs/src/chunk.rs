//! Chunk-based files: the format word in the inode and the entries of the table behind it.

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{BlockSize, DeviceId};

/// Bits 0 to 4: log2 of the chunk size in blocks.
const SIZE_BITS: u16 = 0x1f;
/// Bit 5: entries are 8-byte indexes.
const INDEXES: u16 = 0x20;
/// Bit 6: start blocks have 48 bits.
const WIDE: u16 = 0x40;

/// How the chunk table of a file is to be read: `EROFS_CHUNK_FORMAT_*`, fs/erofs/erofs_fs.h (v7.3).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ChunkFormat {
    blocks_bits: u8,
    indexes: bool,
    wide: bool,
}

impl ChunkFormat {
    /// The largest chunk the format can express: 2^31 blocks.
    pub(crate) const BLOCKS_BITS_MAX: u8 = 31;

    /// Reads the format word; `None` when it has bits this crate does not know.
    pub(crate) fn decode(word: u16) -> Option<Self> {
        if word & !(SIZE_BITS | INDEXES | WIDE) != 0 {
            return None;
        }
        let blocks_bits = u8::try_from(word & SIZE_BITS).ok()?;
        Some(Self { blocks_bits, indexes: word & INDEXES != 0, wide: word & WIDE != 0 })
    }

    /// The format word of 8-byte indexes with chunks of `2^blocks_bits` blocks, whose addresses have 48 bits if `wide`.
    pub(crate) fn encode_indexes(blocks_bits: u8, wide: bool) -> u16 {
        debug_assert!(blocks_bits <= Self::BLOCKS_BITS_MAX, "five bits on disk");
        u16::from(blocks_bits) | INDEXES | if wide { WIDE } else { 0 }
    }

    /// Base-2 logarithm of the chunk size in bytes; at most 47.
    pub fn chunk_bits(self, block: BlockSize) -> u8 {
        block.bits() + self.blocks_bits
    }

    /// Size of a table entry in bytes, which is also its alignment.
    pub(crate) fn entry_bytes(self) -> usize {
        if self.indexes { 8 } else { 4 }
    }

    /// Reads one entry of [`entry_bytes`](Self::entry_bytes) bytes.
    pub(crate) fn entry(self, bytes: &[u8]) -> Option<ChunkRef> {
        if !self.indexes {
            let block = U32::read_from_bytes(bytes).ok()?.get();
            let at = (block != u32::MAX).then_some((DeviceId::PRIMARY, u64::from(block)));
            return Some(at.map_or(ChunkRef::Hole, |(device, block)| ChunkRef::Block { device, block }));
        }
        let raw = RawChunkIndex::read_from_bytes(bytes).ok()?;
        let low = u64::from(raw.startblk_lo.get());
        let (block, hole) = if self.wide {
            (u64::from(raw.startblk_hi.get()) << 32 | low, (1 << 48) - 1)
        } else {
            (low, u64::from(u32::MAX))
        };
        let device = DeviceId::new(raw.device_id.get());
        Some(if block == hole { ChunkRef::Hole } else { ChunkRef::Block { device, block } })
    }
}

/// An 8-byte chunk index as it stands on disk.
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
struct RawChunkIndex {
    startblk_hi: U16,
    device_id: U16,
    startblk_lo: U32,
}

/// Where a chunk begins; a chunk is contiguous on its device.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ChunkRef {
    /// Zeros that are stored nowhere.
    Hole,
    /// Data.
    Block {
        /// Device id as stored, not masked yet.
        device: DeviceId,
        /// Block number on that device.
        block: u64,
    },
}

impl ChunkRef {
    /// Returns what a chunk `blocks` further on holds if both are one run.
    pub(crate) fn advance(self, blocks: u64) -> Option<Self> {
        match self {
            Self::Hole => Some(Self::Hole),
            Self::Block { device, block } => Some(Self::Block { device, block: block.checked_add(blocks)? }),
        }
    }

    /// Encodes an 8-byte index; `None` when the block needs more than 32 bits, or 48 if `wide`.
    pub(crate) fn encode(self, wide: bool) -> Option<[u8; 8]> {
        let hole = if wide { (1 << 48) - 1 } else { u64::from(u32::MAX) };
        let (device, block) = match self {
            Self::Hole => (0, hole),
            Self::Block { device, block } => (device.get(), Some(block).filter(|&block| block < hole)?),
        };
        let [a, b, c, d, e, f, _, _] = block.to_le_bytes();
        let high = if wide { [e, f] } else { [0, 0] };
        let raw = RawChunkIndex {
            startblk_hi: high.into(),
            device_id: device.into(),
            startblk_lo: [a, b, c, d].into(),
        };
        Some(zerocopy::transmute!(raw))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_format_bits_are_refused() {
        assert!(ChunkFormat::decode(0x7f).is_some());
        assert_eq!(ChunkFormat::decode(0x80), None);
        assert_eq!(ChunkFormat::decode(0x8000), None);
    }

    #[test]
    fn a_hole_has_all_address_bits_set_and_only_those() {
        let narrow = ChunkFormat::decode(INDEXES).expect("known");
        let wide = ChunkFormat::decode(INDEXES | WIDE).expect("known");
        let map = ChunkFormat::decode(0).expect("known");
        let device = DeviceId::new(1);
        let bytes = [0, 0, 1, 0, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(narrow.entry(&bytes), Some(ChunkRef::Hole));
        let block = u64::from(u32::MAX);
        assert_eq!(wide.entry(&bytes), Some(ChunkRef::Block { device, block }));
        assert_eq!(wide.entry(&[0xff; 8]), Some(ChunkRef::Hole));
        assert_eq!(map.entry(&[0xff; 4]), Some(ChunkRef::Hole));
        assert_eq!(map.entry(&bytes), None, "a map entry has four bytes");
    }

    #[test]
    fn an_index_survives_the_disk() {
        let device = DeviceId::new(3);
        for (wide, hole) in [(false, 0xffff_ffff), (true, 0xffff_ffff_ffff)] {
            let format = ChunkFormat::decode(ChunkFormat::encode_indexes(4, wide)).expect("known");
            assert_eq!(format.chunk_bits(BlockSize::B4096), 16);
            for chunk in [ChunkRef::Hole, ChunkRef::Block { device, block: hole - 1 }] {
                assert_eq!(format.entry(&chunk.encode(wide).expect("fits")), Some(chunk));
            }
            assert_eq!(ChunkRef::Block { device, block: hole }.encode(wide), None);
        }
    }
}
