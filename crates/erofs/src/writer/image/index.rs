//! The index of a compressed file: an entry for each lcluster, which is a block, in full or compact form.

use super::encoded::{EncodedFile, StoredTail};
use super::piece::Kind;
use crate::BlockSize;
use crate::zmap::{BLOCK_COUNT, FULL_HOLE, FULL_PARTIAL};

/// Distances are written up to this; a reader walks on from there.
const DISTANCE_MAX: u32 = BLOCK_COUNT - 1;
/// Type bits of an entry without a head.
const NONHEAD: u16 = 2;

/// What the index says of one lcluster.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Entry {
    Head {
        kind: Kind,
        offset: u32,
        block: u32,
        blocks: u16,
        partial: bool,
    },
    /// Lclusters back to the head and ahead to the next; the pcluster's blocks where the entry has them.
    Next {
        back: u32,
        ahead: u32,
        blocks: Option<u16>,
    },
}

/// The entries of a file of `size` bytes; `bases` are where the devices begin in the unified address space.
pub(super) fn entries(
    file: &EncodedFile,
    size: u64,
    block: BlockSize,
    big: bool,
    bases: &[u64],
) -> Vec<Entry> {
    let count = usize::try_from(block.blocks(size)).expect("the index is held in memory");
    let unit = block.bytes();
    let mut entries = Vec::with_capacity(count);
    let mut at = 0_u64;
    let mut put = |len: u32, kind, block_number, blocks, partial| {
        let head = at / unit;
        let end = at + u64::from(len);
        // The extent before may have reached into this lcluster.
        if entries.len() as u64 > head {
            assert!(matches!(entries.pop(), Some(Entry::Next { .. })), "one extent begins in an lcluster");
        }
        let offset = narrow(at % unit);
        entries.push(Entry::Head { kind, offset, block: block_number, blocks, partial });
        let ahead = end / unit;
        for lcn in head + 1..end.div_ceil(unit) {
            let blocks = (big && lcn == head + 1).then_some(blocks);
            entries.push(Entry::Next {
                back: narrow(lcn - head),
                ahead: narrow(ahead.max(lcn) - lcn),
                blocks,
            });
        }
        at = end;
    };
    for extent in &file.extents {
        let block = narrow(bases[usize::from(extent.device)] + extent.block);
        put(extent.len, extent.kind, block, extent.blocks, extent.partial);
    }
    match &file.tail {
        StoredTail::None => {}
        StoredTail::Inline { len, kind, .. } => put(*len, *kind, 0, 1, false),
        StoredTail::Fragment { len, offset } => {
            // Readers check that plain extents fit into their pclusters, and this one has none.
            put(*len, Kind::Encoded, narrow(offset >> 32), 1, false);
        }
    }
    assert!(at == size, "extents tile the file");
    // The last lcluster tells where the file ends, unless an extent begins in it or ends with it.
    if !size.is_multiple_of(unit)
        && let Some(last @ Entry::Next { .. }) = entries.last_mut()
    {
        *last = Entry::Head {
            kind: Kind::Plain,
            offset: narrow(size % unit),
            block: 0,
            blocks: 1,
            partial: false,
        };
    }
    entries
}

/// Appends full entries.
pub(super) fn write_full(entries: &[Entry], out: &mut Vec<u8>) {
    for entry in entries {
        match *entry {
            Entry::Head { kind, offset, block, partial, .. } => {
                let mut advise = kind_bits(kind);
                if kind == Kind::Zeros {
                    advise |= FULL_HOLE;
                }
                if partial {
                    advise |= FULL_PARTIAL;
                }
                out.extend(advise.to_le_bytes());
                // An lcluster has at most 64 KiB, so places in it have 16 bits.
                out.extend(u16::try_from(offset).unwrap_or(u16::MAX).to_le_bytes());
                out.extend(block.to_le_bytes());
            }
            Entry::Next { back, ahead, blocks } => {
                let back = blocks.map_or(back.min(DISTANCE_MAX), |blocks| BLOCK_COUNT | u32::from(blocks));
                let ahead = u16::try_from(ahead.min(DISTANCE_MAX)).unwrap_or(u16::MAX);
                out.extend(NONHEAD.to_le_bytes());
                out.extend([0; 2]);
                out.extend((back | u32::from(ahead) << 16).to_le_bytes());
            }
        }
    }
}

/// Whether packs of sixteen entries may be used: their places have 12 bits.
pub(super) fn has_narrow_packs(block: BlockSize) -> bool {
    block.bits() <= 12
}

/// The numbers of entries in packs of eight bytes, of 32 bytes, and of eight bytes again.
fn packs(at: u64, entries: u64, narrow: bool) -> (u64, u64, u64) {
    if !narrow {
        return (entries, 0, 0);
    }
    // To the next boundary of 32 bytes: 8 bytes are two entries.
    let first = (((32 - at % 32) / 4) & 7).min(entries);
    let middle = (entries - first) / 16 * 16;
    (first, middle, entries - first - middle)
}

/// Bytes of a compact index that begins at `at`, which counts from a multiple of 32.
pub(super) fn compact_bytes(at: u64, entries: u64, narrow: bool) -> u64 {
    let (first, middle, last) = packs(at, entries, narrow);
    8 * first.div_ceil(2) + 2 * middle + 8 * last.div_ceil(2)
}

/// Appends compact entries; `out` has the length so far of what begins at a multiple of 32.
pub(super) fn write_compact(entries: &[Entry], block: BlockSize, big: bool, narrow: bool, out: &mut Vec<u8>) {
    let (first, middle, last) = packs(out.len() as u64, entries.len() as u64, narrow);
    let low_bits = u32::from(block.bits().max(12));
    let start = entries.first().and_then(|entry| match entry {
        Entry::Head { block, .. } => Some(*block),
        Entry::Next { .. } => None,
    });
    let mut packer = Packer { entries, low_bits, big, next: 0, next_block: start.unwrap_or(0), out };
    (0..first.div_ceil(2)).for_each(|_| packer.pack(2, 16));
    (0..middle / 16).for_each(|_| packer.pack(16, 14));
    (0..last.div_ceil(2)).for_each(|_| packer.pack(2, 16));
}

/// Writes one pack after the other.
struct Packer<'a> {
    entries: &'a [Entry],
    low_bits: u32,
    big: bool,
    /// The entry that comes next.
    next: usize,
    /// First block of the pcluster that the next pack tells of first.
    next_block: u32,
    out: &'a mut Vec<u8>,
}

impl Packer<'_> {
    /// Writes a pack of `count` entries, of `width` bits each.
    fn pack(&mut self, count: usize, width: u32) {
        // With big pclusters the first one told of here, else the one before it.
        let base = self.next_block.wrapping_sub(u32::from(!self.big));
        let (mut window, mut have) = (0_u64, 0);
        for place in 0..count {
            let entry = self.entries.get(self.next);
            let field = entry.map_or(0, |entry| self.field(entry, place + 1 == count));
            window |= u64::from(field) << have;
            have += width;
            while have >= 8 {
                self.out.push(window.to_le_bytes()[0]);
                window >>= 8;
                have -= 8;
            }
            self.next_block = self.next_block.wrapping_add(u32::from(self.told(self.next)));
            self.next += 1;
        }
        self.out.extend(base.to_le_bytes());
    }

    /// Blocks of the pcluster that an entry tells of.
    ///
    /// That is the entry with their number, or the head when the number stands nowhere.
    fn told(&self, index: usize) -> u16 {
        match (self.entries.get(index), self.entries.get(index + 1)) {
            (Some(Entry::Next { blocks, .. }), _) => blocks.unwrap_or(0),
            (Some(Entry::Head { .. }), Some(Entry::Next { .. })) if self.big => 0,
            (Some(Entry::Head { blocks, .. }), _) => *blocks,
            (None, _) => 0,
        }
    }

    /// The bits of an entry.
    fn field(&self, entry: &Entry, last: bool) -> u32 {
        let (low, kind) = match *entry {
            Entry::Head { kind, offset, .. } => (offset, kind_bits(kind)),
            Entry::Next { blocks: Some(blocks), .. } => (BLOCK_COUNT | u32::from(blocks), NONHEAD),
            Entry::Next { ahead, .. } if last => (ahead.min(DISTANCE_MAX), NONHEAD),
            Entry::Next { back, .. } => (back.min(DISTANCE_MAX), NONHEAD),
        };
        low | u32::from(kind) << self.low_bits
    }
}

/// Type bits of a head.
fn kind_bits(kind: Kind) -> u16 {
    match kind {
        Kind::Plain => 0,
        Kind::Encoded | Kind::Zeros => 1,
    }
}

fn narrow(number: u64) -> u32 {
    u32::try_from(number)
        .expect("an extent has at most 12 MiB, a fragment's place 64 bits of which these are half; far blocks have records")
}
