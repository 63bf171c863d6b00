//! [`EncodedFile`]: where the extents of a compressed file went, and which form its index has.

use super::index;
use super::piece::Kind;
use crate::zmap::{Advise, ENTRY_BYTES, HEADER_BYTES};
use crate::{BlockSize, Codec, Layout};

/// An extent with its place.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::writer) struct StoredExtent {
    /// Decoded bytes.
    pub len: u32,
    /// First block of its pcluster.
    pub block: u32,
    /// Blocks of its pcluster.
    pub blocks: u16,
    pub kind: Kind,
    /// Its pcluster holds more than it.
    pub partial: bool,
}

/// How the end of a compressed file is stored.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(in crate::writer) enum StoredTail {
    /// As all the rest.
    #[default]
    None,
    /// Behind the index.
    Inline { len: u32, kind: Kind, bytes: Box<[u8]> },
    /// In the packed inode.
    Fragment { len: u32, offset: u64 },
}

/// A compressed file.
#[derive(Clone, Debug)]
pub(in crate::writer) struct EncodedFile {
    pub codec: Codec,
    pub extents: Vec<StoredExtent>,
    pub tail: StoredTail,
}

/// What is true of all compressed files of an image.
#[derive(Clone, Copy, Debug)]
pub(in crate::writer) struct IndexRules {
    pub block: BlockSize,
    /// Never compact indexes.
    pub legacy: bool,
    pub interlaced: bool,
}

/// Compact entries have 14 bits for a place in an lcluster.
const COMPACT_BITS_MAX: u8 = 14;

impl EncodedFile {
    /// The layout of the inode.
    pub(in crate::writer) fn layout(&self, rules: &IndexRules) -> Layout {
        // A file that is a fragment has no index; its offset needs no more than the header.
        let wide_offset = matches!(self.tail, StoredTail::Fragment { offset, .. } if offset >> 32 != 0)
            && !self.extents.is_empty();
        let compact =
            !rules.legacy && rules.block.bits() <= COMPACT_BITS_MAX && !wide_offset && self.is_consecutive();
        if compact { Layout::CompressedCompact } else { Layout::CompressedFull }
    }

    /// Whether the pclusters follow each other, so that a compact index can tell where they are.
    fn is_consecutive(&self) -> bool {
        let plain = self.extents.iter().all(|extent| extent.kind != Kind::Zeros && !extent.partial);
        let follow = |pair: &[StoredExtent]| {
            pair[0].block.checked_add(u32::from(pair[0].blocks)) == Some(pair[1].block)
        };
        plain && self.extents.windows(2).all(follow)
    }

    /// Blocks of all its pclusters.
    pub(in crate::writer) fn blocks(&self) -> u64 {
        let stored = self.extents.iter().filter(|extent| extent.kind != Kind::Zeros);
        stored.map(|extent| u64::from(extent.blocks)).sum()
    }

    /// Whether all of the file is a fragment.
    fn is_fragment(&self) -> bool {
        self.extents.is_empty() && matches!(self.tail, StoredTail::Fragment { .. })
    }

    /// Whether any pcluster has several blocks.
    pub(in crate::writer) fn has_big_pclusters(&self) -> bool {
        self.extents.iter().any(|extent| extent.blocks > 1)
    }

    /// The extents as they lie, or `None` when the file must be compressed: as one run of plain blocks.
    pub(in crate::writer) fn as_flat(&self, block: BlockSize) -> Option<u32> {
        let (_, rest) = self.extents.split_last()?;
        let full = |extent: &StoredExtent| u64::from(extent.len) == block.bytes();
        let flat = self.tail == StoredTail::None
            && self.is_consecutive()
            && rest.iter().all(full)
            && self.extents.iter().all(|extent| extent.kind == Kind::Plain && extent.blocks == 1);
        flat.then_some(self.extents[0].block)
    }

    /// Bytes of header and index of a file of `size` bytes, whose inode and attributes take `head` bytes.
    ///
    /// The tail, if there is one, comes right behind.
    pub(in crate::writer) fn index_bytes(&self, size: u64, head: u64, rules: &IndexRules) -> u64 {
        let at = head.next_multiple_of(HEADER_BYTES);
        let entries = rules.block.blocks(size);
        let table = match self.layout(rules) {
            _ if self.is_fragment() => HEADER_BYTES,
            Layout::CompressedFull => 2 * HEADER_BYTES + ENTRY_BYTES * entries,
            _ => {
                let narrow = index::has_narrow_packs(rules.block);
                HEADER_BYTES + index::compact_bytes(at + HEADER_BYTES, entries, narrow)
            }
        };
        at - head + table
    }

    /// The bytes behind the index.
    pub(in crate::writer) fn inline(&self) -> &[u8] {
        match &self.tail {
            StoredTail::Inline { bytes, .. } => bytes,
            _ => &[],
        }
    }

    /// Appends padding, header and index, and what stands behind; `out` holds `head` bytes of the inode so far.
    pub(in crate::writer) fn write(&self, size: u64, rules: &IndexRules, out: &mut Vec<u8>) {
        out.resize(out.len().next_multiple_of(8), 0);
        if let (true, StoredTail::Fragment { offset, .. }) = (self.is_fragment(), &self.tail) {
            out.extend((offset | 1 << 63).to_le_bytes());
            return;
        }
        let layout = self.layout(rules);
        let big = self.has_big_pclusters();
        let compact = layout == Layout::CompressedCompact;
        let narrow = compact && index::has_narrow_packs(rules.block);
        let mut advise = Advise::empty();
        advise.set(Advise::COMPACTED_2B_OR_EXTENTS, narrow);
        advise.set(Advise::BIG_PCLUSTER_1 | Advise::BIG_PCLUSTER_2, big);
        advise.set(Advise::INTERLACED_PCLUSTER, rules.interlaced);
        let mut first = [0; 4];
        match &self.tail {
            StoredTail::None => {}
            StoredTail::Inline { bytes, .. } => {
                advise |= Advise::INLINE_PCLUSTER;
                let len = u16::try_from(bytes.len()).expect("an inline tail is shorter than a block");
                first[2..].copy_from_slice(&len.to_le_bytes());
            }
            StoredTail::Fragment { offset, .. } => {
                advise |= Advise::FRAGMENT_PCLUSTER;
                first.copy_from_slice(&offset.to_le_bytes()[..4]);
            }
        }
        out.extend(first);
        out.extend(advise.bits().to_le_bytes());
        out.push(self.codec.number());
        out.push(0);
        let entries = index::entries(self, size, rules.block, big);
        if compact {
            index::write_compact(&entries, rules.block, big, narrow, out);
        } else {
            out.extend([0; 8]);
            index::write_full(&entries, out);
        }
        out.extend_from_slice(self.inline());
    }
}
