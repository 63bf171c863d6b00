//! [`Plan`]: the shape and the place of every inode.

use std::collections::HashMap;

use super::data::{NO_FILE, WrittenData};
use super::dir_blocks::Listing;
use super::node::{Content, NodeId};
use super::runs::{Run, merged_bits};
use super::share::XattrPlan;
use super::text::index;
use crate::device::SLOT_BYTES as DEVICE_SLOT_BYTES;
use crate::inode::SLOT_BYTES;
use crate::superblock::{SUPERBLOCK_AT, SUPERBLOCK_BYTES};
use crate::{BlockSize, Error, FileType, Layout, Nid, Timestamp};

/// Where the device table begins; the superblock counts in slots.
pub(super) const DEVICE_TABLE_AT: u64 = (SUPERBLOCK_AT + SUPERBLOCK_BYTES) as u64;
/// The superblock has 16 bits for the root's number.
const ROOT_NID_MAX: u64 = u16::MAX as u64;

/// Where everything of a metadata image goes.
///
/// Superblock, device table, root, shared xattrs, the other inodes, then the blocks of what does not fit
/// behind its inode. The inode space begins at byte 0.
pub(super) struct Plan<'a> {
    pub data: &'a WrittenData,
    pub xattrs: XattrPlan,
    /// Time of compact inodes: the one that most inodes have.
    pub epoch: Timestamp,
    /// Start of the shared xattrs, in units of 4 bytes.
    pub area_unit: u32,
    /// The nodes in the order of their addresses.
    pub inodes: Vec<NodeId>,
    /// Where the blocks behind the inodes begin.
    pub blocks_at: u64,
    /// Length of the image.
    pub bytes: u64,
    /// Contents length of every directory.
    dir_sizes: Vec<u64>,
    /// Number by node; `u32::MAX` for what has no name.
    nids: Vec<u32>,
    /// First block of the nodes whose contents have any.
    first_block: HashMap<NodeId, u32>,
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
            self.head() + self.tail
        }
    }
}

impl<'a> Plan<'a> {
    pub(super) fn new(data: &'a WrittenData) -> Result<Self, Error> {
        let xattrs = XattrPlan::new(&data.tree, &data.order)?;
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
            area_unit: 0,
            inodes: Vec::with_capacity(data.order.len()),
            blocks_at: 0,
            bytes: 0,
            dir_sizes,
            nids: vec![u32::MAX; data.tree.nodes.len()],
            first_block: HashMap::new(),
        };
        plan.place_inodes()?;
        plan.place_blocks()?;
        Ok(plan)
    }

    pub(super) fn nid(&self, node: NodeId) -> Nid {
        Nid::new(self.nids[index(node)].into())
    }

    /// Byte address of a node's inode: the inode space begins at byte 0.
    pub(super) fn address(&self, node: NodeId) -> u64 {
        u64::from(self.nids[index(node)]) * SLOT_BYTES
    }

    pub(super) fn first_block(&self, node: NodeId) -> u32 {
        self.first_block.get(&node).copied().unwrap_or(0)
    }

    /// The runs of a node's data.
    pub(super) fn runs(&self, node: NodeId) -> &[Run] {
        match self.data.file_of[index(node)] {
            NO_FILE => &[],
            file => self.data.runs.of(index(file)),
        }
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
        let compact = self.data.mtime(id) == self.epoch
            && node.uid <= u32::from(u16::MAX)
            && node.gid <= u32::from(u16::MAX)
            && size <= u64::from(u32::MAX)
            && self.nlink(id) <= u32::from(u16::MAX);
        let shape = Shape {
            extended: !compact,
            layout: Layout::FlatPlain,
            size,
            xattr_bytes: self.xattrs.body_bytes(node.xattrs),
            chunk_blocks_bits: 0,
            chunks: 0,
            tail: 0,
            blocks: 0,
        };
        match node.kind {
            FileType::Regular if size > 0 => self.chunked(id, shape),
            FileType::Directory | FileType::Symlink => flat(shape, self.data.geometry.block),
            _ => shape,
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
        let mut space = Space { at: DEVICE_TABLE_AT + table, gap: 0..0, block };
        for &node in &self.data.order {
            let shape = self.shape(node);
            let at = space.take(&shape).ok_or(TOO_MANY_INODES)?;
            self.nids[index(node)] = u32::try_from(at / SLOT_BYTES).map_err(|_| TOO_MANY_INODES)?;
            self.inodes.push(node);
            if self.inodes.len() == 1 {
                if at / SLOT_BYTES > ROOT_NID_MAX {
                    return Err(Error::TooLarge { what: "more than about 16,000 devices" });
                }
                // Nothing but the device table stands before the root.
                space.gap = 0..0;
                space.at = space.at.next_multiple_of(4);
                let unit = u32::try_from(space.at / 4);
                self.area_unit = unit.map_err(|_| Error::TooLarge { what: "more devices than fit" })?;
                space.at += self.xattrs.area_bytes();
                // Ids of shared xattrs count units of 4 bytes in 32 bits.
                u32::try_from(space.at / 4)
                    .map_err(|_| Error::TooLarge { what: "16 GiB of extended attributes" })?;
            }
        }
        let nids = &self.nids;
        self.inodes.sort_unstable_by_key(|&node| nids[index(node)]);
        self.blocks_at = block.align_up(space.at).ok_or(TOO_MANY_INODES)?;
        Ok(())
    }

    fn place_blocks(&mut self) -> Result<(), Error> {
        let block = self.data.geometry.block;
        let mut next = self.blocks_at >> block.bits();
        for &node in &self.data.order {
            let shape = self.shape(node);
            if shape.blocks > 0 {
                let first = u32::try_from(next).map_err(|_| TOO_MANY_BLOCKS)?;
                self.first_block.insert(node, first);
                next += shape.blocks;
            }
        }
        u32::try_from(next).map_err(|_| TOO_MANY_BLOCKS)?;
        self.bytes = next << block.bits();
        Ok(())
    }
}

const TOO_MANY_INODES: Error = Error::TooLarge { what: "more than 128 GiB of inodes" };
const TOO_MANY_BLOCKS: Error = Error::TooLarge { what: "more than 2^32 blocks of metadata" };

/// Where the next inode goes.
struct Space {
    at: u64,
    /// Left free when a tail did not fit into its block: filled by what comes later.
    gap: std::ops::Range<u64>,
    block: BlockSize,
}

impl Space {
    fn take(&mut self, shape: &Shape) -> Option<u64> {
        let bytes = shape.bytes();
        // The gap ends where a block ends, so a tail in it does not cross.
        if self.gap.end - self.gap.start >= bytes {
            let at = self.gap.start;
            self.gap.start = (at + bytes).next_multiple_of(SLOT_BYTES).min(self.gap.end);
            return Some(at);
        }
        let mut at = self.at.checked_next_multiple_of(SLOT_BYTES)?;
        if shape.tail > 0 && self.block.offset(at + shape.head()) + shape.tail > self.block.bytes() {
            let next = self.block.align_up(at)?;
            if next - at > self.gap.end - self.gap.start {
                self.gap = at..next;
            }
            at = next;
        }
        self.at = at.checked_add(bytes)?;
        Some(at)
    }
}

/// Puts the last block of flat contents behind the inode if it fits into one block with it.
fn flat(shape: Shape, block: BlockSize) -> Shape {
    let blocks = block.blocks(shape.size);
    let tail = shape.size - (blocks - 1) * block.bytes();
    if shape.head() + tail <= block.bytes() {
        Shape { layout: Layout::FlatInline, tail, blocks: blocks - 1, ..shape }
    } else {
        Shape { layout: Layout::FlatPlain, blocks, ..shape }
    }
}

/// The most frequent time: its inodes are compact. The earliest of those that are equally frequent.
fn epoch(data: &WrittenData) -> Timestamp {
    let mut times: Vec<_> = data.order.iter().map(|&node| data.mtime(node)).collect();
    times.sort_unstable();
    let runs = times.chunk_by(|one, other| one == other);
    let best = runs.max_by_key(|run| (run.len(), std::cmp::Reverse(run.first())));
    best.and_then(|run| run.first()).copied().unwrap_or_default()
}

impl WrittenData {
    /// The time that a node gets: its own, or the one that all later ones are set to.
    pub(super) fn mtime(&self, node: NodeId) -> Timestamp {
        let own = self.tree.nodes[index(node)].mtime();
        self.timestamp.map_or(own, |latest| own.min(Timestamp::new(latest, 0)))
    }
}
