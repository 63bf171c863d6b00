//! Compact indexes: packs of bit fields that share one block address.

use super::{BLOCK_COUNT, Entry, Head, HeadKind, MapFault};

/// Bits of an entry in a pack of two entries.
const WIDE_BITS: u32 = 16;
/// Bits of an entry in a pack of sixteen.
const NARROW_BITS: u32 = 14;
/// Block address at the end of a pack.
const BASE_BYTES: usize = 4;

/// Where the packs of a file lie.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct CompactTable {
    /// Address of the first pack.
    base: u64,
    /// Entries in packs of eight bytes that come first, to reach a boundary of 32 bytes.
    first: u64,
    /// Entries in packs of 32 bytes after those.
    narrow: u64,
    lcluster_bits: u8,
}

/// One pack: eight bytes with two entries, or 32 with sixteen.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Pack {
    /// Address of its first byte.
    pub at: u64,
    /// Size in bytes.
    pub bytes: u64,
    /// Which of its entries.
    index: usize,
}

impl CompactTable {
    /// Lays out the packs for `entries` entries, the first of them at address `base`.
    ///
    /// Source of truth: `z_erofs_load_compact_lcluster()`, fs/erofs/zmap.c (v7.3).
    pub fn new(base: u64, entries: u64, lcluster_bits: u8, narrow: bool) -> Result<Self, MapFault> {
        if lcluster_bits > 14 || narrow && lcluster_bits > 12 {
            return Err(MapFault::LclusterBits { bits: lcluster_bits });
        }
        let first = ((32 - base % 32) / 4) & 7;
        let narrow = if narrow { entries.saturating_sub(first) / 16 * 16 } else { 0 };
        Ok(Self { base, first, narrow, lcluster_bits })
    }

    /// Finds the pack of an entry; `None` beyond 2^64.
    pub fn pack(&self, entry: u64) -> Option<Pack> {
        let (before, rest, narrow) = match entry.checked_sub(self.first) {
            None => (0, entry, false),
            Some(rest) if rest < self.narrow => (self.first * 4, rest, true),
            Some(rest) => (self.first * 4 + self.narrow * 2, rest - self.narrow, false),
        };
        let (per_pack, bytes) = if narrow { (16, 32) } else { (2, 8) };
        let at = self.base.checked_add(before)?.checked_add((rest / per_pack).checked_mul(bytes)?)?;
        Some(Pack { at, bytes, index: usize::try_from(rest % per_pack).ok()? })
    }

    /// Decodes the entry for lcluster `lcn`, which is the one `pack` was found for, from its bytes.
    pub fn entry(&self, lcn: u64, pack: Pack, bytes: &[u8], big: bool) -> Result<Entry, MapFault> {
        let fields = Fields::new(bytes, self.lcluster_bits.max(12).into()).ok_or(MapFault::Overflow)?;
        let (low, kind) = fields.get(pack.index);
        if let Some(kind) = kind {
            let block = u64::from(fields.base) + fields.blocks_before(pack.index, big);
            return Ok(Entry::Head(Head { kind, offset: low, block, hole: false, partial: false }));
        }
        if low & BLOCK_COUNT != 0 {
            let blocks = Some(low & !BLOCK_COUNT);
            return if big {
                Ok(Entry::Next { back: 1, ahead: None, blocks })
            } else {
                Err(MapFault::BlockCount { lcn })
            };
        }
        if pack.index + 1 != fields.count {
            return Ok(Entry::Next { back: low, ahead: None, blocks: None });
        }
        // The last entry holds the way ahead; the way back follows from the entry before it.
        let back = match fields.get(pack.index - 1) {
            (_, Some(_)) => 1,
            (low, None) if low & BLOCK_COUNT != 0 => 2,
            (low, None) => low + 1,
        };
        Ok(Entry::Next { back, ahead: Some(low), blocks: None })
    }
}

/// A pack taken apart: two to sixteen fields and the block address.
struct Fields {
    values: [u32; 16],
    count: usize,
    low_bits: u32,
    base: u32,
}

impl Fields {
    /// `None` when `bytes` is no pack.
    fn new(bytes: &[u8], low_bits: u32) -> Option<Self> {
        let (count, width) = match bytes.len() {
            8 => (2, WIDE_BITS),
            32 => (16, NARROW_BITS),
            _ => return None,
        };
        let (fields, base) = bytes.split_at(bytes.len() - BASE_BYTES);
        let mut values = [0; 16];
        let (mut window, mut have, mut next) = (0_u64, 0, fields.iter());
        for value in &mut values[..count] {
            while have < width {
                window |= u64::from(*next.next()?) << have;
                have += 8;
            }
            *value = u32::try_from(window & ((1 << width) - 1)).ok()?;
            window >>= width;
            have -= width;
        }
        Some(Self { values, count, low_bits, base: u32::from_le_bytes(base.try_into().ok()?) })
    }

    /// The low part of a field and its type; `None` stands for `NONHEAD`.
    fn get(&self, index: usize) -> (u32, Option<HeadKind>) {
        let value = self.values[index];
        (value & ((1 << self.low_bits) - 1), HeadKind::from_bits(value >> self.low_bits))
    }

    /// How many blocks lie between the pack's block address and the pcluster of head `index`.
    ///
    /// Without big pclusters the address is that of the pcluster before the pack's first. With them it is the
    /// first pcluster whose size the pack tells: a size in entry 0 belongs to a head of the pack before.
    fn blocks_before(&self, index: usize, big: bool) -> u64 {
        let size = |entry| match self.get(entry) {
            (_, Some(_)) if !big => 1,
            // Its size stands in the next entry, if that holds one.
            (_, Some(_)) => match self.get(entry + 1) {
                (low, None) if low & BLOCK_COUNT != 0 => 0,
                _ => 1,
            },
            (low, None) if big && low & BLOCK_COUNT != 0 => u64::from(low & !BLOCK_COUNT),
            _ => 0,
        };
        u64::from(!big) + (0..index).map(size).sum::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD1: u32 = 1;
    const NEXT: u32 = 2;

    /// Packs fields as a writer would.
    fn pack(fields: &[(u32, u32)], base: u32) -> Vec<u8> {
        let width = if fields.len() == 2 { WIDE_BITS } else { NARROW_BITS };
        let mut bits = vec![false; fields.len() * usize::try_from(width).expect("small")];
        for (field, bits) in fields.iter().zip(bits.chunks_mut(usize::try_from(width).expect("small"))) {
            let value = field.0 | field.1 << 12;
            bits.iter_mut().enumerate().for_each(|(bit, set)| *set = value >> bit & 1 != 0);
        }
        let byte = |bits: &[bool]| bits.iter().rev().fold(0, |byte, &bit| byte << 1 | u8::from(bit));
        let mut bytes: Vec<u8> = bits.chunks(8).map(byte).collect();
        bytes.extend(base.to_le_bytes());
        bytes
    }

    fn entries(bytes: &[u8], big: bool) -> Vec<Entry> {
        let count = if bytes.len() == 8 { 2 } else { 16 };
        let table = CompactTable::new(0, count, 12, count == 16).expect("sound");
        (0..count)
            .map(|lcn| table.entry(lcn, table.pack(lcn).expect("near"), bytes, big).expect("sound"))
            .collect()
    }

    fn head(offset: u32, block: u64) -> Entry {
        Entry::Head(Head { kind: HeadKind::Head1, offset, block, hole: false, partial: false })
    }

    fn next(back: u32, ahead: Option<u32>, blocks: Option<u32>) -> Entry {
        Entry::Next { back, ahead, blocks }
    }

    #[test]
    fn packs_lie_where_the_format_says() {
        // Eight bytes past a boundary: three packs of two entries reach the next one.
        let table = CompactTable::new(40, 6 + 32 + 3, 12, true).expect("sound");
        let at = |entry| table.pack(entry).map(|pack| (pack.at, pack.bytes, pack.index));
        assert_eq!([at(0), at(1), at(5)], [Some((40, 8, 0)), Some((40, 8, 1)), Some((56, 8, 1))]);
        assert_eq!([at(6), at(21), at(22)], [Some((64, 32, 0)), Some((64, 32, 15)), Some((96, 32, 0))]);
        assert_eq!([at(38), at(40)], [Some((128, 8, 0)), Some((136, 8, 0))]);
        assert_eq!(at(u64::MAX), None);
        let few = CompactTable::new(40, 5, 12, true).expect("sound");
        assert_eq!(few.pack(4).map(|pack| pack.at), Some(56), "no pack of sixteen");
        assert!(CompactTable::new(0, 1, 13, true).is_err() && CompactTable::new(0, 1, 15, false).is_err());
    }

    #[test]
    fn heads_without_big_pclusters_count_from_one() {
        let got = entries(&pack(&[(7, HEAD1), (9, HEAD1)], 100), false);
        assert_eq!(got, [head(7, 101), head(9, 102)]);
        let got = entries(&pack(&[(1, NEXT), (9, HEAD1)], 100), false);
        assert_eq!(got, [next(1, None, None), head(9, 101)]);
    }

    #[test]
    fn the_last_entry_of_a_pack_holds_the_way_ahead() {
        let got = entries(&pack(&[(3, HEAD1), (5, NEXT)], 0), false);
        assert_eq!(got[1], next(1, Some(5), None));
        let got = entries(&pack(&[(3, NEXT), (5, NEXT)], 0), false);
        assert_eq!(got[1], next(4, Some(5), None));
        let got = entries(&pack(&[(BLOCK_COUNT | 4, NEXT), (5, NEXT)], 0), true);
        assert_eq!(got, [next(1, None, Some(4)), next(2, Some(5), None)]);
    }

    #[test]
    fn big_pclusters_advance_the_address_by_their_size() {
        let mut fields = vec![(BLOCK_COUNT | 4, NEXT), (2, NEXT), (10, HEAD1), (20, HEAD1)];
        fields.extend([(BLOCK_COUNT | 3, NEXT), (2, NEXT), (30, HEAD1), (BLOCK_COUNT | 2, NEXT)]);
        fields.extend((2..10).map(|back| (back, NEXT)));
        let got = entries(&pack(&fields, 50), true);
        let heads: Vec<_> = got.into_iter().filter(|entry| matches!(entry, Entry::Head(_))).collect();
        assert_eq!(heads, [head(10, 54), head(20, 55), head(30, 58)]);
    }

    #[test]
    fn a_size_in_blocks_needs_big_pclusters() {
        let bytes = pack(&[(BLOCK_COUNT | 4, NEXT), (0, HEAD1)], 0);
        let table = CompactTable::new(0, 2, 12, false).expect("sound");
        let pack = table.pack(0).expect("near");
        assert_eq!(table.entry(0, pack, &bytes, false), Err(MapFault::BlockCount { lcn: 0 }));
    }
}
