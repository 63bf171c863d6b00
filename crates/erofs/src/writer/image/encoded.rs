//! [`EncodedFile`]: where the extents of a compressed file went, and which form its index has.

use super::index;
use super::piece::Kind;
use crate::zmap::{Advise, ENTRY_BYTES, HEADER_BYTES, Record, RecordForm};
use crate::{BlockSize, Codec, Layout};

/// An extent with its place.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::writer) struct StoredExtent {
    /// Decoded bytes.
    pub len: u32,
    /// First block of its pcluster, on its device.
    pub block: u64,
    /// The device in the writer's numbering: 0 is the image itself.
    pub device: u16,
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
    /// Plain extents are rotated so that their bytes lie as in the file.
    pub interlaced: bool,
    pub extents: Vec<StoredExtent>,
    pub tail: StoredTail,
}

/// What is true of all compressed files of an image.
#[derive(Clone, Copy, Debug)]
pub(in crate::writer) struct IndexRules {
    pub block: BlockSize,
    /// Never compact indexes.
    pub legacy: bool,
    pub records: Records,
}

/// Whether extent records take the place of an index (Linux 6.15).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(in crate::writer) enum Records {
    #[default]
    Never,
    /// Where they take no more room than a full index.
    Shorter,
    /// Everywhere: some addresses have more than 32 bits.
    Always,
}

/// The forms of what tells where extents lie.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum IndexForm {
    Compact,
    Full,
    Records(RecordForm),
}

/// Compact entries have 14 bits for a place in an lcluster.
const COMPACT_BITS_MAX: u8 = 14;

impl EncodedFile {
    /// The layout of the inode, whose contents have `size` bytes.
    pub(in crate::writer) fn layout(&self, size: u64, rules: &IndexRules) -> Layout {
        match self.form(size, rules) {
            IndexForm::Compact => Layout::CompressedCompact,
            IndexForm::Full | IndexForm::Records(_) => Layout::CompressedFull,
        }
    }

    fn form(&self, size: u64, rules: &IndexRules) -> IndexForm {
        let record = if size >> 32 == 0 { RecordForm::Position } else { RecordForm::WidePosition };
        let shorter = || record.bytes() * self.record_count() <= ENTRY_BYTES * rules.block.blocks(size);
        let records = match rules.records {
            // There is no record for a tail that stands behind them.
            _ if self.is_fragment() || !self.inline().is_empty() => false,
            Records::Never => false,
            Records::Shorter => shorter(),
            Records::Always => true,
        };
        if records {
            return IndexForm::Records(record);
        }
        // A file that is a fragment has no index; its offset needs no more than the header.
        let wide_offset = matches!(self.tail, StoredTail::Fragment { offset, .. } if offset >> 32 != 0)
            && !self.extents.is_empty();
        let compact =
            !rules.legacy && rules.block.bits() <= COMPACT_BITS_MAX && !wide_offset && self.is_consecutive();
        if compact { IndexForm::Compact } else { IndexForm::Full }
    }

    /// Whether the pclusters follow each other, so that a compact index can tell where they are.
    fn is_consecutive(&self) -> bool {
        let plain = self.extents.iter().all(|extent| extent.kind != Kind::Zeros && !extent.partial);
        let follow = |pair: &[StoredExtent]| {
            pair[0].block.checked_add(pair[0].blocks.into()) == Some(pair[1].block)
                && pair[0].device == pair[1].device
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
    pub(in crate::writer) fn as_flat(&self, block: BlockSize) -> Option<u64> {
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
        let table = match self.form(size, rules) {
            _ if self.is_fragment() => HEADER_BYTES,
            IndexForm::Records(form) => {
                let table = (at + HEADER_BYTES).next_multiple_of(form.bytes());
                table - at + form.bytes() * self.record_count()
            }
            IndexForm::Full => 2 * HEADER_BYTES + ENTRY_BYTES * entries,
            IndexForm::Compact => {
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

    /// Appends padding, header and index, and what stands behind; `out` holds the inode so far. `bases` are where
    /// the devices begin in the unified address space.
    pub(in crate::writer) fn write(&self, size: u64, rules: &IndexRules, bases: &[u64], out: &mut Vec<u8>) {
        out.resize(out.len().next_multiple_of(8), 0);
        if let (true, StoredTail::Fragment { offset, .. }) = (self.is_fragment(), &self.tail) {
            out.extend((offset | 1 << 63).to_le_bytes());
            return;
        }
        let form = self.form(size, rules);
        if let IndexForm::Records(form) = form {
            return self.write_records(form, rules.block, bases, out);
        }
        let big = self.has_big_pclusters();
        let compact = form == IndexForm::Compact;
        let narrow = compact && index::has_narrow_packs(rules.block);
        let mut advise = Advise::empty();
        advise.set(Advise::COMPACTED_2B_OR_EXTENTS, narrow);
        advise.set(Advise::BIG_PCLUSTER_1 | Advise::BIG_PCLUSTER_2, big);
        advise.set(Advise::INTERLACED_PCLUSTER, self.interlaced);
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
        let entries = index::entries(self, size, rules.block, big, bases);
        if compact {
            index::write_compact(&entries, rules.block, big, narrow, out);
        } else {
            out.extend([0; 8]);
            index::write_full(&entries, out);
        }
        out.extend_from_slice(self.inline());
    }

    /// How many records the file has: zeros in a row are one hole.
    fn record_count(&self) -> u64 {
        let follow = |pair: &&[StoredExtent]| pair.iter().all(|extent| extent.kind == Kind::Zeros);
        let joined = self.extents.windows(2).filter(follow).count();
        let tail = usize::from(matches!(self.tail, StoredTail::Fragment { .. }));
        (self.extents.len() - joined + tail) as u64
    }

    /// Appends header and records; `out` has what is before, from a multiple of 32 on.
    fn write_records(&self, form: RecordForm, block: BlockSize, bases: &[u64], out: &mut Vec<u8>) {
        let mut advise = Advise::COMPACTED_2B_OR_EXTENTS;
        advise |= Advise::from_bits_retain(u16::from(form.bits() - 2) << 1);
        advise.set(Advise::INTERLACED_PCLUSTER, self.interlaced);
        advise.set(Advise::FRAGMENT_PCLUSTER, matches!(self.tail, StoredTail::Fragment { .. }));
        let count = self.record_count();
        let [low @ .., high_low, high_high, 0, 0] = count.to_le_bytes() else {
            unreachable!("records are held in memory")
        };
        out.extend(low);
        out.extend(advise.bits().to_le_bytes());
        out.extend([high_low, high_high]);
        let align = usize::try_from(form.bytes()).expect("at most 32");
        out.resize(out.len().next_multiple_of(align), 0);
        let (mut position, mut in_hole) = (0, false);
        for extent in &self.extents {
            let hole = extent.kind == Kind::Zeros;
            if !(hole && in_hole) {
                self.record(extent, block, bases, position).encode(form, out);
            }
            in_hole = hole;
            position += u64::from(extent.len);
        }
        if let StoredTail::Fragment { offset, .. } = self.tail {
            Record::fragment(offset, position).encode(form, out);
        }
    }

    fn record(&self, extent: &StoredExtent, block: BlockSize, bases: &[u64], position: u64) -> Record {
        let (codec, partial) = match extent.kind {
            Kind::Zeros => return Record::new(0, None, false, 0, position).expect("no length at all"),
            Kind::Plain => (None, extent.partial),
            Kind::Encoded => (Some(self.codec), extent.partial),
        };
        let len = u32::from(extent.blocks) << block.bits();
        let place = (bases[usize::from(extent.device)] + extent.block) << block.bits();
        Record::new(len, codec, partial, place, position).expect("a pcluster has at most 1 MiB")
    }
}
