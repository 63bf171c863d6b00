//! The map header: eight bytes that say which form of index follows and how to read it.

use super::MapFault;
use crate::{Codec, Layout};

/// Size of the header, and its alignment.
pub(crate) const HEADER_BYTES: u64 = 8;
/// Bit 7 of the last byte: the whole file is a fragment.
const FRAGMENT_FILE: u8 = 0x80;

bitflags::bitflags! {
    /// `h_advise`: `Z_EROFS_ADVISE_*`, fs/erofs/erofs_fs.h (v7.3). Bit 0 means two things, by layout.
    #[derive(Clone, Copy, Debug, Eq, PartialEq)]
    pub(crate) struct Advise: u16 {
        /// Layout 3: packs of two bytes an entry are used. Layout 1: extent records instead of indexes.
        const COMPACTED_2B_OR_EXTENTS = 0x01;
        const BIG_PCLUSTER_1 = 0x02;
        const BIG_PCLUSTER_2 = 0x04;
        const INLINE_PCLUSTER = 0x08;
        const INTERLACED_PCLUSTER = 0x10;
        const FRAGMENT_PCLUSTER = 0x20;
    }
}

/// What a map header says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum MapHeader {
    /// The whole file is a fragment at this offset of the packed inode.
    Fragment { offset: u64 },
    /// An index follows.
    Map(Map),
}

/// How to read the index that follows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Map {
    pub advise: Advise,
    /// Extent records, not lcluster indexes.
    pub extents: bool,
    /// Log2 of the size of an lcluster in bytes, or of a record's extent where all have one size.
    pub lcluster_bits: u8,
    /// Low 32 bits of the tail's place in the packed inode.
    pub fragment_offset: u32,
    /// Length of the inline pcluster.
    pub inline_bytes: u16,
    /// Number of extent records, where the header has it.
    pub records: u64,
    algorithms: u8,
}

impl Map {
    /// The codec of HEAD1 extents (0) or of HEAD2 extents (1).
    pub fn codec(&self, head: u8) -> Result<Codec, MapFault> {
        let number = self.algorithms >> (4 * head) & 15;
        Codec::from_number(number).ok_or(MapFault::UnknownCodec { number })
    }

    /// Whether pclusters may have more than one block.
    pub fn has_big_pclusters(&self) -> bool {
        self.advise.intersects(Advise::BIG_PCLUSTER_1 | Advise::BIG_PCLUSTER_2)
    }

    /// log2 of the size of an extent record in bytes: 2 to 5.
    pub fn record_bits(&self) -> u8 {
        // Two bits: at most 3.
        2 + u8::try_from(self.advise.bits() >> 1 & 3).unwrap_or(3)
    }
}

impl MapHeader {
    /// Decodes a header.
    ///
    /// Source of truth: `z_erofs_fill_inode()`, fs/erofs/zmap.c (v7.3). `big` tells whether the superblock
    /// allows pclusters of several blocks, `wide` whether it allows extent records.
    pub fn decode(
        bytes: [u8; 8],
        layout: Layout,
        block_bits: u8,
        big: bool,
        wide: bool,
    ) -> Result<Self, MapFault> {
        let [a, b, c, d, e, f, algorithms, cluster_bits] = bytes;
        if cluster_bits & FRAGMENT_FILE != 0 {
            return Ok(Self::Fragment { offset: u64::from_le_bytes(bytes) & (u64::MAX >> 1) });
        }
        let advise = u16::from_le_bytes([e, f]);
        let flags = Advise::from_bits_retain(advise);
        let first = flags.contains(Advise::COMPACTED_2B_OR_EXTENTS);
        let extents = layout == Layout::CompressedFull && first && wide;
        let map = Map {
            advise: flags,
            extents,
            lcluster_bits: block_bits + (cluster_bits & 15),
            fragment_offset: u32::from_le_bytes([a, b, c, d]),
            inline_bytes: u16::from_le_bytes([c, d]),
            records: u64::from(u32::from_le_bytes([a, b, c, d]))
                | u64::from(u16::from_le_bytes([algorithms, cluster_bits])) << 32,
            algorithms,
        };
        if extents {
            return Ok(Self::Map(map));
        }
        let [one, two] = [Advise::BIG_PCLUSTER_1, Advise::BIG_PCLUSTER_2].map(|bit| flags.contains(bit));
        if layout == Layout::CompressedCompact && one != two || map.has_big_pclusters() && !big {
            return Err(MapFault::Advise { advise });
        }
        Ok(Self::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(bytes: [u8; 8], layout: Layout) -> Result<MapHeader, MapFault> {
        MapHeader::decode(bytes, layout, 12, true, true)
    }

    fn map(bytes: [u8; 8], layout: Layout) -> Map {
        match decode(bytes, layout).expect("sound") {
            MapHeader::Map(map) => map,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_fragment_file_has_63_bits_of_offset_and_nothing_else() {
        let bytes = [1, 2, 3, 4, 5, 6, 7, 0xff];
        let expected = MapHeader::Fragment { offset: 0x7f07_0605_0403_0201 };
        assert_eq!(decode(bytes, Layout::CompressedFull), Ok(expected));
    }

    #[test]
    fn bit_zero_of_the_advice_depends_on_the_layout_and_the_superblock() {
        let bytes = [0, 0, 0, 0, 1, 0, 0, 0];
        assert!(!map(bytes, Layout::CompressedCompact).extents);
        assert!(map(bytes, Layout::CompressedFull).extents);
        let narrow = MapHeader::decode(bytes, Layout::CompressedFull, 12, true, false);
        assert!(matches!(narrow, Ok(MapHeader::Map(Map { extents: false, .. }))));
        let records = map([4, 3, 2, 1, 0b101, 0, 6, 5], Layout::CompressedFull);
        assert_eq!((records.records, records.record_bits()), (0x0506_0102_0304, 4));
    }

    #[test]
    fn compact_files_have_both_big_pcluster_bits_or_none() {
        for (advise, good) in [(0, true), (2, false), (4, false), (6, true)] {
            let got = decode([0, 0, 0, 0, advise, 0, 0, 0], Layout::CompressedCompact);
            assert_eq!(got.is_ok(), good, "{advise}");
        }
        decode([0, 0, 0, 0, 2, 0, 0, 0], Layout::CompressedFull).expect("full indexes may have one");
        let small = MapHeader::decode([0, 0, 0, 0, 2, 0, 0, 0], Layout::CompressedFull, 12, false, false);
        assert_eq!(small, Err(MapFault::Advise { advise: 2 }), "the superblock must allow them");
    }

    #[test]
    fn codecs_stand_in_the_halves_of_a_byte() {
        let map = map([0, 0, 0, 0, 0, 0, 0x31, 0], Layout::CompressedFull);
        assert_eq!((map.codec(0), map.codec(1)), (Ok(Codec::Lzma), Ok(Codec::Zstd)));
    }
}
