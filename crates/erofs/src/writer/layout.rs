//! [`Plan`]: the shape and the place of every inode.

use std::collections::HashMap;
use std::ops::Range;

use super::data::{NO_FILE, WrittenData};
use super::dir_blocks::Listing;
use super::image::{EncodedFile, IndexRules, Place, Records};
use super::image_options::InodeForm;
use super::node::{Content, NodeId};
use super::runs::{Run, Target, merged_bits};
use super::share::XattrPlan;
use super::text::index;
use crate::device::SLOT_BYTES as DEVICE_SLOT_BYTES;
use crate::inode::SLOT_BYTES;
use crate::superblock::{SUPERBLOCK_AT, SUPERBLOCK_BYTES};
use crate::{BlockSize, DeviceSlot, Error, FileType, Layout, Nid, Timestamp};

/// Where the device table begins; the superblock counts in slots.
pub(super) const DEVICE_TABLE_AT: u64 = (SUPERBLOCK_AT + SUPERBLOCK_BYTES) as u64;
/// The superblock has 16 bits for the root's number.
const ROOT_NID_MAX: u64 = u16::MAX as u64;

/// Where everything of a metadata image goes.
///
/// Superblock, device table, root, shared xattrs, the other inodes, then the blocks of what does not fit
/// behind its inode. Data, if the image holds them, come before the root. The inode space begins at byte 0, or
/// behind the data.
pub(super) struct Plan<'a> {
    pub data: &'a WrittenData,
    pub xattrs: XattrPlan,
    /// Time of compact inodes: the one that most inodes have.
    pub epoch: Timestamp,
    /// Whether the inodes are in the metabox.
    metabox: bool,
    /// Start of the inode space, and of that of shared xattrs.
    pub meta_at: u64,
    /// Start of the shared xattrs, in units of 4 bytes.
    pub area_unit: u32,
    /// The nodes in the order of their addresses.
    pub inodes: Vec<NodeId>,
    /// Where the blocks behind the inodes begin.
    pub blocks_at: u64,
    /// Length of the image.
    pub bytes: u64,
    /// Where each device begins in the unified address space, in blocks, by the writer's numbering; the image itself,
    /// number 0, at 0. Others only where data are reached through that space.
    pub bases: Vec<u64>,
    /// How compressed files tell where they lie.
    pub index_rules: IndexRules,
    /// How many bits addresses have.
    pub addresses: Addresses,
    /// Contents length of every directory.
    dir_sizes: Vec<u64>,
    /// Number by node; `u32::MAX` for what has no name.
    nids: Vec<u32>,
    /// First block of the nodes whose contents have any.
    first_block: HashMap<NodeId, u64>,
}

/// How many bits block addresses have.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Addresses {
    Narrow,
    /// 48, because it was asked for: 32 would do.
    Wide,
    /// 48, because some need them.
    Far,
}

/// What an inode takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub extended: bool,
    pub layout: Layout,
    /// Length of the contents.
    pub size: u64,
    pub xattr_bytes: u32,
    /// Chunk size, as log2 of blocks, and number of chunks; (0, 0) for other layouts.
    pub chunk_blocks_bits: u8,
    pub chunks: u64,
    /// Bytes of the index of a compressed file.
    pub index: u64,
    /// Bytes behind the inode.
    pub tail: u64,
    /// Blocks elsewhere.
    pub blocks: u64,
}

impl Shape {
    /// Length of inode and xattr body.
    pub(super) fn head(&self) -> u64 {
        (if self.extended { 64 } else { 32 }) + u64::from(self.xattr_bytes)
    }

    /// Length of all that stands together.
    fn bytes(&self) -> u64 {
        if self.chunks > 0 {
            self.head().next_multiple_of(8) + 8 * self.chunks
        } else {
            self.before_tail() + self.tail
        }
    }

    /// Length of what stands before the tail.
    fn before_tail(&self) -> u64 {
        self.head() + self.index
    }
}

impl<'a> Plan<'a> {
    pub(super) fn new(data: &'a WrittenData) -> Result<Self, Error> {
        Self::of(data, false)
    }

    /// A plan of what goes into the metabox: inodes have their places there, their blocks lie outside, from the first on
    /// that data have left.
    pub(super) fn in_metabox(data: &'a WrittenData) -> Result<Self, Error> {
        Self::of(data, true)
    }

    fn of(data: &'a WrittenData, metabox: bool) -> Result<Self, Error> {
        let near = if data.recipe.wide { Addresses::Wide } else { Addresses::Narrow };
        let plan = Self::with(data, if has_far_blocks(data) { Addresses::Far } else { near }, metabox)?;
        let far = plan.addresses == Addresses::Far;
        let plan = if far || plan.end() <= u64::from(u32::MAX) {
            plan
        } else {
            Self::with(data, Addresses::Far, metabox)?
        };
        plan.check_tails()?;
        Ok(plan)
    }

    fn with(data: &'a WrittenData, addresses: Addresses, metabox: bool) -> Result<Self, Error> {
        let xattrs = XattrPlan::new(&data.tree, &data.order, data.recipe.shared_xattr_uses)?;
        let block = data.geometry.block;
        let mut dir_sizes = vec![0; data.tree.dirs.len()];
        for &node in &data.order {
            if let Content::Dir(dir) = data.tree.nodes[index(node)].content {
                dir_sizes[index(dir)] = Listing::new(&data.tree, node).size(block);
            }
        }
        let mut plan = Self {
            data,
            xattrs,
            epoch: epoch(data),
            metabox,
            meta_at: if metabox { 0 } else { data.recipe.meta_block << block.bits() },
            area_unit: 0,
            inodes: Vec::with_capacity(data.order.len()),
            blocks_at: 0,
            bytes: 0,
            bases: vec![0],
            index_rules: IndexRules {
                records: match addresses {
                    Addresses::Narrow => Records::Never,
                    Addresses::Wide => Records::Shorter,
                    Addresses::Far => Records::Always,
                },
                ..data.index_rules
            },
            addresses,
            dir_sizes,
            nids: vec![u32::MAX; data.tree.nodes.len()],
            first_block: HashMap::new(),
        };
        plan.place_inodes()?;
        plan.place_blocks()?;
        plan.place_devices()?;
        Ok(plan)
    }

    /// Whether addresses have 48 bits.
    pub(super) fn is_wide(&self) -> bool {
        self.addresses != Addresses::Narrow
    }

    /// The first block behind image and devices, in the unified address space.
    fn end(&self) -> u64 {
        let device = |slot: &Option<DeviceSlot>| slot.map_or(0, |slot| slot.blocks);
        let layers = self.data.layer_devices.iter().map(device);
        let devices = self.data.devices.iter().map(|device| device.blocks(self.data.geometry.block));
        let image = self.bytes >> self.data.geometry.block.bits();
        layers.chain(devices).fold(image, u64::saturating_add)
    }

    /// A tail among the metadata goes with an index, whose addresses have 32 bits.
    fn check_tails(&self) -> Result<(), Error> {
        let is_far = |file: &EncodedFile| {
            let ends =
                file.extents.iter().map(|extent| self.bases[usize::from(extent.device)] + extent.block);
            !file.inline().is_empty() && ends.max().is_some_and(|end| end > u64::from(u32::MAX))
        };
        if self.addresses == Addresses::Far && self.data.places.iter().filter_map(Place::encoded).any(is_far)
        {
            return Err(Error::TooLarge {
                what: "more than 2^32 blocks of layers with tails among their metadata",
            });
        }
        Ok(())
    }

    pub(super) fn nid(&self, node: NodeId) -> Nid {
        let number = u64::from(self.nids[index(node)]);
        if self.metabox { Nid::new_in_metabox(number) } else { Nid::new(number) }
    }

    /// Byte address of a node's inode.
    pub(super) fn address(&self, node: NodeId) -> u64 {
        self.meta_at + u64::from(self.nids[index(node)]) * SLOT_BYTES
    }

    /// Where the contents of a node with data went.
    pub(super) fn place(&self, node: NodeId) -> &Place {
        let file = self.data.file_of[index(node)];
        if file == NO_FILE {
            &Place::Chunks
        } else {
            self.data.places.get(index(file)).unwrap_or(&Place::Chunks)
        }
    }

    /// First block of flat contents.
    pub(super) fn first_block(&self, node: NodeId) -> u64 {
        match self.place(node) {
            Place::Flat { first, device, .. } => {
                first.map_or(0, |first| self.bases[usize::from(*device)] + first)
            }
            _ => self.first_block.get(&node).copied().unwrap_or(0),
        }
    }

    /// The runs of a node's data.
    pub(super) fn runs(&self, node: NodeId) -> &[Run] {
        match self.data.file_of[index(node)] {
            NO_FILE => &[],
            file => self.data.runs.of(index(file)),
        }
    }

    /// Whole seconds from the epoch to the time of a node, if a compact inode can hold them.
    pub(super) fn since_epoch(&self, node: NodeId) -> Option<u32> {
        u32::try_from(self.data.mtime(node).seconds.checked_sub(self.epoch.seconds)?).ok()
    }

    /// Number of links of a node.
    pub(super) fn nlink(&self, node: NodeId) -> u32 {
        let tree = &self.data.tree;
        let Content::Dir(dir) = tree.nodes[index(node)].content else { return tree.nodes[index(node)].nlink };
        let entries = tree.dirs[index(dir)].entries.iter();
        let below = entries.filter(|entry| tree.nodes[index(entry.node)].kind == FileType::Directory).count();
        u32::try_from(below + 2).unwrap_or(u32::MAX)
    }

    pub(super) fn shape(&self, id: NodeId) -> Shape {
        let node = &self.data.tree.nodes[index(id)];
        let size = match node.content {
            Content::Dir(dir) => self.dir_sizes[index(dir)],
            _ => node.size,
        };
        let form = self.data.recipe.inode_form;
        let compact = form != InodeForm::Extended
            && (form == InodeForm::Compact && self.since_epoch(id).is_some()
                || self.data.mtime(id) == self.epoch)
            && node.uid <= u32::from(u16::MAX)
            && node.gid <= u32::from(u16::MAX)
            && size <= u64::from(u32::MAX)
            && self.nlink(id) <= u32::from(u16::MAX)
            && !self.may_be_far(id);
        let shape = Shape {
            extended: !compact,
            layout: Layout::FlatPlain,
            size,
            xattr_bytes: self.xattrs.body_bytes(node.xattrs),
            chunk_blocks_bits: 0,
            chunks: 0,
            index: 0,
            tail: 0,
            blocks: 0,
        };
        match node.kind {
            FileType::Regular if size > 0 => match self.place(id) {
                Place::Chunks => self.chunked(id, shape),
                Place::Encoded(file) => self.encoded(file, shape),
                Place::Flat { tail, .. } if tail.is_empty() => shape,
                Place::Flat { tail, .. } => {
                    Shape { layout: Layout::FlatInline, tail: tail.len() as u64, ..shape }
                }
            },
            FileType::Directory | FileType::Symlink => {
                flat(shape, self.data.geometry.block, self.data.recipe.inline_data)
            }
            _ => shape,
        }
    }

    /// Whether a node may begin at a block that only an extended inode can say.
    fn may_be_far(&self, node: NodeId) -> bool {
        self.addresses == Addresses::Far && matches!(self.place(node), Place::Flat { device: 1.., .. })
    }

    fn encoded(&self, file: &EncodedFile, shape: Shape) -> Shape {
        let rules = &self.index_rules;
        Shape {
            layout: file.layout(shape.size, rules),
            index: file.index_bytes(shape.size, shape.head(), rules),
            tail: file.inline().len() as u64,
            ..shape
        }
    }

    fn chunked(&self, node: NodeId, shape: Shape) -> Shape {
        let geometry = self.data.geometry;
        let merged = merged_bits(self.runs(node), geometry.block, geometry.chunk_bits);
        let chunk_bits = geometry.chunk_bits + merged;
        Shape {
            layout: Layout::ChunkBased,
            chunk_blocks_bits: chunk_bits - geometry.block.bits(),
            chunks: ((shape.size - 1) >> chunk_bits) + 1,
            ..shape
        }
    }

    fn place_inodes(&mut self) -> Result<(), Error> {
        let block = self.data.geometry.block;
        let table = (DEVICE_SLOT_BYTES * self.data.devices.len()) as u64;
        // Behind the data, number 0 stays free: it means "none" in places.
        let at = if self.meta_at > 0 || self.metabox {
            self.meta_at + SLOT_BYTES
        } else {
            DEVICE_TABLE_AT + table
        };
        let mut space = Space { at, gaps: Vec::new(), block };
        for &node in &self.data.order {
            let shape = self.shape(node);
            let at = space.take(&shape).ok_or(TOO_MANY_INODES)?;
            let nid = (at - self.meta_at) / SLOT_BYTES;
            self.nids[index(node)] = u32::try_from(nid).map_err(|_| TOO_MANY_INODES)?;
            self.inodes.push(node);
            if self.inodes.len() == 1 {
                if nid > ROOT_NID_MAX {
                    return Err(Error::TooLarge { what: "more than about 16,000 devices" });
                }
                // Nothing but the device table stands before the root.
                space.gaps.clear();
                space.at = space.at.next_multiple_of(4);
                let unit = u32::try_from((space.at - self.meta_at) / 4);
                self.area_unit = unit.map_err(|_| Error::TooLarge { what: "more devices than fit" })?;
                space.at += self.xattrs.area_bytes();
                // Ids of shared xattrs count units of 4 bytes in 32 bits.
                u32::try_from((space.at - self.meta_at) / 4)
                    .map_err(|_| Error::TooLarge { what: "16 GiB of extended attributes" })?;
            }
        }
        let nids = &self.nids;
        self.inodes.sort_unstable_by_key(|&node| nids[index(node)]);
        self.blocks_at = if self.metabox {
            self.data.recipe.meta_block << block.bits()
        } else {
            block.align_up(space.at).ok_or(TOO_MANY_INODES)?
        };
        Ok(())
    }

    fn place_blocks(&mut self) -> Result<(), Error> {
        let block = self.data.geometry.block;
        let mut next = self.blocks_at >> block.bits();
        for &node in &self.data.order {
            let shape = self.shape(node);
            if shape.blocks > 0 {
                self.first_block.insert(node, next);
                next += shape.blocks;
            }
        }
        u32::try_from(next).map_err(|_| TOO_MANY_BLOCKS)?;
        self.bytes = next << block.bits();
        Ok(())
    }

    /// Layers follow the image in the unified address space, each beginning where the one before ends.
    fn place_devices(&mut self) -> Result<(), Error> {
        const TOO_LARGE: Error = Error::TooLarge { what: "more than 2^48 blocks of layers" };
        let mut next = self.bytes >> self.data.geometry.block.bits();
        self.bases.resize(1 + self.data.layer_devices.len(), 0);
        for (device, slot) in self.data.layer_devices.iter().enumerate() {
            let Some(slot) = slot else { continue };
            self.bases[device + 1] = next;
            next = next.checked_add(slot.blocks).filter(|end| end >> 48 == 0).ok_or(TOO_LARGE)?;
        }
        Ok(())
    }

    /// The device table of what refers to layers.
    pub(super) fn layer_slots(&self) -> Vec<DeviceSlot> {
        let slots = self.data.layer_devices.iter().zip(&self.bases[1..]);
        slots.filter_map(|(slot, &base)| slot.map(|slot| DeviceSlot { uniaddr: base, ..slot })).collect()
    }
}

const TOO_MANY_INODES: Error = Error::TooLarge { what: "more than 128 GiB of inodes" };
const TOO_MANY_BLOCKS: Error = Error::TooLarge { what: "more than 2^32 blocks of metadata" };

/// Gaps are filled as long as they lie within so many blocks: farther back, inodes would lie far from their neighbours for
/// hardly any room.
const NEAR_BLOCKS: u64 = 16;

/// Where the next inode goes.
struct Space {
    at: u64,
    /// Left free where a tail did not fit into its block: filled by what comes later. In the order of their addresses.
    gaps: Vec<Range<u64>>,
    block: BlockSize,
}

impl Space {
    fn take(&mut self, shape: &Shape) -> Option<u64> {
        let bytes = shape.bytes();
        if let Some(at) = self.fill_gap(shape, bytes) {
            return Some(at);
        }
        let mut at = self.at.checked_next_multiple_of(SLOT_BYTES)?;
        if self.crosses(at, shape) {
            let next = self.next_fit(at, shape)?;
            self.gaps.push(at..next);
            at = next;
        }
        self.at = at.checked_add(bytes)?;
        let near = self.at.saturating_sub(NEAR_BLOCKS << self.block.bits());
        self.gaps.retain(|gap| gap.start >= near);
        Some(at)
    }

    /// Takes the tightest gap that has room, if there is one.
    fn fill_gap(&mut self, shape: &Shape, bytes: u64) -> Option<u64> {
        let fits = |gap: &Range<u64>| len(gap) >= bytes && !self.crosses(gap.start, shape);
        let all = self.gaps.iter().enumerate();
        let (tightest, _) = all.filter(|(_, gap)| fits(gap)).min_by_key(|(_, gap)| len(gap))?;
        let gap = &mut self.gaps[tightest];
        let at = gap.start;
        gap.start = (at + bytes).next_multiple_of(SLOT_BYTES).min(gap.end);
        if gap.is_empty() {
            self.gaps.remove(tightest);
        }
        Some(at)
    }

    /// Whether the tail of an inode at `at` would cross a block boundary, or else could not be read.
    fn crosses(&self, at: u64, shape: &Shape) -> bool {
        let place = self.block.offset(at + shape.before_tail());
        shape.tail > 0 && (place + shape.tail > self.block.bytes() || place == 0 && self.is_unlucky(shape))
    }

    /// Whether an encoded tail must not begin with a block.
    ///
    /// Where blocks are smaller than pages, Linux 6.18 looks for its padding in none of its bytes if it begins one block
    /// after a page, and then calls it corrupted: `z_erofs_fixup_insize()`, fs/erofs/decompressor.c.
    fn is_unlucky(&self, shape: &Shape) -> bool {
        shape.index > 0 && self.block.bits() < BlockSize::B4096.bits()
    }

    /// The next place for an inode whose tail would cross at `at`: with the next block, or so that the tail begins
    /// with a block, give or take a slot.
    fn next_fit(&self, at: u64, shape: &Shape) -> Option<u64> {
        let before = shape.before_tail();
        if before + shape.tail <= self.block.bytes() {
            return self.block.align_up(at);
        }
        let next = (self.block.align_up(at + before)? - before).checked_next_multiple_of(SLOT_BYTES)?;
        // Index and tail are aligned alike, so that a tail begins with a block or some slots behind.
        let with_block = self.block.offset(next + before) == 0 && self.is_unlucky(shape);
        Some(if with_block { next + SLOT_BYTES } else { next })
    }
}

/// Bytes of a gap.
fn len(gap: &Range<u64>) -> u64 {
    gap.end - gap.start
}

/// Puts the last block of flat contents behind the inode if it fits into one block with it.
fn flat(shape: Shape, block: BlockSize, inline: bool) -> Shape {
    let blocks = block.blocks(shape.size);
    let tail = shape.size - (blocks - 1) * block.bytes();
    if inline && shape.head() + tail <= block.bytes() {
        Shape { layout: Layout::FlatInline, tail, blocks: blocks - 1, ..shape }
    } else {
        Shape { layout: Layout::FlatPlain, blocks, ..shape }
    }
}

/// Whether any file has a chunk at a block that takes more than 32 bits.
fn has_far_blocks(data: &WrittenData) -> bool {
    data.runs.all().iter().any(|run| match run.target {
        Target::Hole => false,
        Target::Data(at) => at.block() + run.chunks * data.geometry.chunk_blocks() > u64::from(u32::MAX),
    })
}

/// The most frequent time: its inodes are compact. The earliest of those that are equally frequent.
///
/// Where all are to be compact, the earliest of all: they count from there.
fn epoch(data: &WrittenData) -> Timestamp {
    if let Some(metabox) = &data.metabox {
        return metabox.epoch;
    }
    if data.recipe.inode_form == InodeForm::Compact {
        let earliest = data.order.iter().map(|&node| data.mtime(node).seconds).min();
        return Timestamp::new(earliest.unwrap_or_default(), 0);
    }
    let mut times: Vec<_> = data.order.iter().map(|&node| data.mtime(node)).collect();
    times.sort_unstable();
    let runs = times.chunk_by(|one, other| one == other);
    let best = runs.max_by_key(|run| (run.len(), std::cmp::Reverse(run.first())));
    best.and_then(|run| run.first()).copied().unwrap_or_default()
}

impl WrittenData {
    /// The time that a node gets: its own, or the one that all later ones are set to.
    pub(super) fn mtime(&self, node: NodeId) -> Timestamp {
        self.recipe.mtime(self.tree.nodes[index(node)].mtime())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shape(head: u64, index: u64, tail: u64) -> Shape {
        Shape {
            extended: head >= 64,
            layout: Layout::FlatInline,
            size: tail,
            xattr_bytes: u32::try_from(head % 32).expect("small"),
            chunk_blocks_bits: 0,
            chunks: 0,
            index,
            tail,
            blocks: 0,
        }
    }

    fn place(shapes: &[Shape], block: BlockSize) -> Vec<Range<u64>> {
        let mut space = Space { at: SLOT_BYTES, gaps: Vec::new(), block };
        let take = |shape: &Shape| {
            let at = space.take(shape).expect("room");
            at..at + shape.bytes()
        };
        shapes.iter().map(take).collect()
    }

    proptest! {
        #[test]
        fn inodes_lie_apart_with_their_tails_in_one_block(
            shapes in prop::collection::vec((32_u64..200, 0_u64..9000, any::<u64>()), 1..300),
            encoded in any::<bool>(),
            bits in prop::sample::select(vec![9_u8, 12, 16]),
        ) {
            let block = BlockSize::from_bits(bits).expect("a block size");
            let room = block.bytes() - SLOT_BYTES;
            let shapes: Vec<_> = shapes
                .iter()
                .map(|&(head, index, tail)| match encoded {
                    true => shape(head, 8 + index / 8 * 8, tail % room),
                    // Flat contents stand behind an inode only where both fit into one block.
                    false => shape(head, 0, tail % (block.bytes() - head)),
                })
                .collect();
            let mut places = place(&shapes, block);
            for (place, shape) in places.iter().zip(&shapes).filter(|(_, shape)| shape.tail > 0) {
                let tail = place.end - shape.tail;
                prop_assert!(place.start.is_multiple_of(SLOT_BYTES));
                prop_assert_eq!(tail >> bits, (place.end - 1) >> bits, "{:?}", place);
                prop_assert!(!(encoded && bits < 12 && block.offset(tail) == 0), "{:?}", place);
            }
            places.sort_unstable_by_key(|place| place.start);
            prop_assert!(places.windows(2).all(|pair| pair[0].end <= pair[1].start), "{places:?}");
        }
    }

    #[test]
    fn gaps_are_filled_with_what_comes_soon() {
        let tails = (0..5000_u64).map(|number| number * 7919 % 3900);
        let shapes: Vec<_> = tails.map(|tail| shape(64, 0, tail)).collect();
        let places = place(&shapes, BlockSize::B4096);
        let end = places.iter().map(|place| place.end).max().expect("some");
        let bytes: u64 = shapes.iter().map(Shape::bytes).sum();
        // With one gap at a time it is a quarter more than the inodes take.
        assert!(end * 100 < bytes * 108, "{end} for {bytes}");
        let mut front = 0;
        for place in &places {
            assert!(place.start + (NEAR_BLOCKS + 2) * 4096 >= front, "{place:?} behind {front}");
            front = front.max(place.end);
        }
    }
}
