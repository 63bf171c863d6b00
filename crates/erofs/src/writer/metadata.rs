//! [`WrittenData::write_metadata`]: the second phase, the image itself.

use std::io::{self, Write};

use sha2::{Digest, Sha256};
use zerocopy::IntoBytes;

use super::data::{DataDevice, WrittenData};
use super::dir_blocks::Listing;
use super::emit::MetaWriter;
use super::image::Place;
use super::layout::{DEVICE_TABLE_AT, Plan, Shape};
use super::node::{Content, NodeId};
use super::runs::Target;
use super::text::index;
use super::tree::Tree;
use crate::inode::{RawCompact, RawExtended};
use crate::superblock::{RawSuperblock, SUPERBLOCK_AT};
use crate::{
    ChunkFormat, ChunkRef, Compat, DeviceId, DeviceSlot, DeviceTag, Error, FileType, Incompat, Layout,
};

/// What was written.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Summary {
    /// Inodes of the image.
    pub inodes: u64,
    /// Length of the metadata image.
    pub metadata_bytes: u64,
    /// Length of the data blob.
    pub blob_bytes: u64,
    /// Bytes of file contents that were read, or known to be zeros.
    pub file_bytes: u64,
    /// Bytes not written because the same content had been.
    pub deduplicated_bytes: u64,
    /// Bytes not written because a dictionary has them.
    pub dictionary_bytes: u64,
    /// Identity of the image, made from all it says.
    pub uuid: [u8; 16],
}

impl WrittenData {
    /// Writes the metadata image to `out`, sequentially.
    ///
    /// `tags` name the [`devices`](Self::devices), in their order. Nothing is kept back: when this returns,
    /// all bytes were handed to `out`. May be called again, with other tags.
    ///
    /// # Errors
    ///
    /// [`Error::DeviceTags`] when there are more or fewer tags than devices, [`Error::WriteMetadata`] when
    /// `out` fails, [`Error::TooLarge`].
    pub fn write_metadata(&self, tags: &[DeviceTag], out: &mut dyn Write) -> Result<Summary, Error> {
        if tags.len() != self.devices.len() {
            return Err(Error::DeviceTags { found: tags.len(), expected: self.devices.len() });
        }
        let plan = Plan::new(self)?;
        let slots = self.slots(tags, plan.bytes >> self.geometry.block.bits())?;
        let uuid = match self.recipe.uuid {
            Some(uuid) => uuid,
            None => {
                // It is made from everything else, so everything is written twice: once to be hashed.
                let mut hasher = HashWriter(Sha256::new_with_prefix(self.content));
                emit(&plan, &slots, [0; 16], &mut hasher)?;
                uuid_of(hasher.0)
            }
        };
        emit(&plan, &slots, uuid, out)?;
        Ok(Summary {
            inodes: self.order.len() as u64,
            metadata_bytes: plan.bytes,
            blob_bytes: self.totals.blob_bytes,
            file_bytes: self.totals.file_bytes,
            deduplicated_bytes: self.totals.deduplicated_bytes,
            dictionary_bytes: self.totals.dictionary_bytes,
            uuid,
        })
    }

    /// The device table; devices follow the image in the unified address space.
    fn slots(&self, tags: &[DeviceTag], meta_blocks: u64) -> Result<Vec<DeviceSlot>, Error> {
        let mut uniaddr = meta_blocks;
        let mut slots = Vec::with_capacity(tags.len());
        for (device, &tag) in self.devices.iter().zip(tags) {
            let blocks = match device {
                DataDevice::Blob { bytes } => self.geometry.block.blocks(*bytes),
                DataDevice::Dictionary { slot, .. } => slot.blocks,
            };
            slots.push(DeviceSlot { tag, blocks, uniaddr });
            let too_large = Error::TooLarge { what: "2^64 blocks of devices" };
            uniaddr = uniaddr.checked_add(blocks).ok_or(too_large)?;
        }
        Ok(slots)
    }
}

/// Makes the identity of an image from all that was hashed.
pub(super) fn uuid_of(hasher: Sha256) -> [u8; 16] {
    let digest: [u8; 32] = hasher.finalize().into();
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&digest[..16]);
    // Version 8, "custom", in the variant of RFC 9562.
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}

/// Writes the whole image.
fn emit(plan: &Plan<'_>, slots: &[DeviceSlot], uuid: [u8; 16], out: &mut dyn Write) -> Result<(), Error> {
    let head = head(plan, slots, uuid)?;
    let mut writer = MetaWriter::new(out, plan.data.geometry.block, plan.data.recipe.checksum);
    writer.write(&head).map_err(|source| Error::WriteMetadata { source })?;
    emit_inodes(plan, &mut writer)
}

/// Writes inodes and the blocks behind them; the writer is where they begin, or before.
pub(super) fn emit_inodes(plan: &Plan<'_>, writer: &mut MetaWriter<'_>) -> Result<(), Error> {
    let failed = |source: io::Error| Error::WriteMetadata { source };
    let mut buffer = Vec::new();
    for (number, &node) in (0_u32..).zip(&plan.inodes) {
        if number == 1 {
            emit_shared_xattrs(plan, &mut buffer, writer).map_err(failed)?;
        }
        buffer.clear();
        inode(plan, node, number.wrapping_add(1), &mut buffer)?;
        writer.pad_to(plan.address(node)).and_then(|()| writer.write(&buffer)).map_err(failed)?;
    }
    if plan.inodes.len() == 1 {
        emit_shared_xattrs(plan, &mut buffer, writer).map_err(failed)?;
    }
    writer.pad_to(plan.blocks_at).map_err(failed)?;
    emit_blocks(plan, &mut buffer, writer).map_err(failed)?;
    writer.pad_to(plan.bytes).map_err(failed)
}

fn emit_shared_xattrs(plan: &Plan<'_>, buffer: &mut Vec<u8>, writer: &mut MetaWriter<'_>) -> io::Result<()> {
    buffer.clear();
    plan.xattrs.write_area(&plan.data.tree.xattrs, buffer);
    writer.pad_to(plan.meta_at + 4 * u64::from(plan.area_unit))?;
    writer.write(buffer)
}

/// Boot area, superblock and device table.
pub(super) fn head(plan: &Plan<'_>, slots: &[DeviceSlot], uuid: [u8; 16]) -> Result<Vec<u8>, Error> {
    const TOO_LARGE: Error = Error::TooLarge { what: "addresses of more than 32 bits" };
    let block = plan.data.geometry.block;
    let recipe = &plan.data.recipe;
    let mut compat = Compat::MTIME;
    compat.set(Compat::SB_CHKSUM, recipe.checksum);
    compat.set(Compat::XATTR_FILTER, plan.xattrs.any());
    let mut incompat = recipe.features;
    let chunks = plan.data.places.iter().any(|place| matches!(place, Place::Chunks));
    incompat.set(Incompat::CHUNKED_FILE, chunks || plan.data.places.is_empty() && plan.data.runs.files() > 0);
    incompat.set(Incompat::DEVICE_TABLE, !slots.is_empty());

    let mut raw = RawSuperblock::blank();
    raw.feature_compat = compat.bits().into();
    raw.feature_incompat = incompat.bits().into();
    raw.blkszbits = block.bits();
    raw.rootnid_2b = u16::try_from(plan.nid(Tree::ROOT).get()).map_err(|_| TOO_LARGE)?.into();
    raw.inos = (plan.inodes.len() as u64).into();
    raw.epoch = plan.epoch.seconds.into();
    raw.fixed_nsec = plan.epoch.nanoseconds.into();
    raw.build_time = build_time(plan).into();
    raw.blocks_lo = u32::try_from(plan.bytes >> block.bits()).map_err(|_| TOO_LARGE)?.into();
    raw.uuid = uuid;
    raw.volume_name = recipe.volume_name;
    raw.meta_blkaddr = u32::try_from(recipe.meta_block).map_err(|_| TOO_LARGE)?.into();
    raw.xattr_blkaddr = raw.meta_blkaddr;
    raw.available_compr_algs = recipe.codec_bits.into();
    raw.packed_nid = plan.data.packed.map_or(0, |node| plan.nid(node).get()).into();
    raw.extra_devices = u16::try_from(slots.len()).map_err(|_| TOO_LARGE)?.into();
    let table_at = (DEVICE_TABLE_AT + recipe.codec_records.len() as u64).next_multiple_of(128);
    if !slots.is_empty() {
        raw.devt_slotoff = u16::try_from(table_at / 128).map_err(|_| TOO_LARGE)?.into();
    }
    let mut head = vec![0; SUPERBLOCK_AT];
    head.extend_from_slice(raw.as_bytes());
    head.extend_from_slice(&recipe.codec_records);
    if !slots.is_empty() {
        head.resize(head.len().next_multiple_of(128), 0);
    }
    for slot in slots {
        head.extend_from_slice(slot.encode().ok_or(TOO_LARGE)?.as_bytes());
    }
    Ok(head)
}

/// Time of the build, after the epoch: the time all later ones are set to, else that of the newest inode.
fn build_time(plan: &Plan<'_>) -> u32 {
    let newest = || plan.data.order.iter().map(|&node| plan.data.mtime(node).seconds).max();
    let time = plan.data.recipe.build_time.or_else(newest).unwrap_or(plan.epoch.seconds);
    u32::try_from(time.saturating_sub(plan.epoch.seconds)).unwrap_or(0)
}

/// Appends an inode with all that stands behind it.
fn inode(plan: &Plan<'_>, id: NodeId, ino: u32, out: &mut Vec<u8>) -> Result<(), Error> {
    let shape = plan.shape(id);
    let node = &plan.data.tree.nodes[index(id)];
    inode_head(plan, id, &shape, ino, out);
    plan.xattrs.write_body(&plan.data.tree.xattrs, node.xattrs, plan.area_unit, out);
    match node.kind {
        FileType::Regular if shape.chunks > 0 => {
            out.resize(out.len().next_multiple_of(8), 0);
            chunk_table(plan, id, &shape, out)
        }
        FileType::Regular if shape.size > 0 => {
            match plan.place(id) {
                Place::Flat { tail, .. } => out.extend_from_slice(tail),
                Place::Encoded(file) => file.write(shape.size, &plan.data.index_rules, out),
                Place::Chunks => {}
            }
            Ok(())
        }
        FileType::Directory if shape.tail > 0 => {
            let listing = Listing::new(&plan.data.tree, id);
            if let Some(last) = listing.blocks(plan.data.geometry.block).last() {
                listing.write_block(last, &|node| plan.nid(node), out);
            }
            Ok(())
        }
        FileType::Symlink if shape.tail > 0 => {
            let target = target(plan, id);
            let tail = usize::try_from(shape.tail).unwrap_or(target.len());
            out.extend_from_slice(&target[target.len() - tail..]);
            Ok(())
        }
        _ => Ok(()),
    }
}

fn inode_head(plan: &Plan<'_>, id: NodeId, shape: &Shape, ino: u32, out: &mut Vec<u8>) {
    let node = &plan.data.tree.nodes[index(id)];
    let mode = node.kind.mode_bits() | node.mode;
    let u = match (node.content, shape.layout) {
        (Content::Rdev(rdev), _) => rdev.encoded(),
        (_, Layout::CompressedFull | Layout::CompressedCompact) => match plan.place(id) {
            Place::Encoded(file) => u32::try_from(file.blocks()).unwrap_or(u32::MAX),
            _ => 0,
        },
        (_, Layout::ChunkBased) => u32::from(ChunkFormat::encode_indexes(shape.chunk_blocks_bits)),
        _ => plan.first_block(id),
    };
    let icount = match shape.xattr_bytes {
        0 => 0,
        bytes => u16::try_from((bytes - 8) / 4).expect("the table takes no set above 256 KiB"),
    };
    let format = shape.layout.format(shape.extended).into();
    let narrow = |wide: u32| u16::try_from(wide).expect("checked when the form was chosen");
    if shape.extended {
        let mtime = plan.data.mtime(id);
        let raw = RawExtended {
            format,
            xattr_icount: icount.into(),
            mode: mode.into(),
            nb: 0.into(),
            size: shape.size.into(),
            u: u.into(),
            ino: ino.into(),
            uid: node.uid.into(),
            gid: node.gid.into(),
            mtime: mtime.seconds.into(),
            mtime_nsec: mtime.nanoseconds.into(),
            nlink: plan.nlink(id).into(),
            reserved: [0; 16],
        };
        out.extend_from_slice(raw.as_bytes());
    } else {
        let raw = RawCompact {
            format,
            xattr_icount: icount.into(),
            mode: mode.into(),
            nb: narrow(plan.nlink(id)).into(),
            size: u32::try_from(shape.size).expect("checked when the form was chosen").into(),
            mtime: plan.since_epoch(id).unwrap_or(0).into(),
            u: u.into(),
            ino: ino.into(),
            uid: narrow(node.uid).into(),
            gid: narrow(node.gid).into(),
            reserved: 0.into(),
        };
        out.extend_from_slice(raw.as_bytes());
    }
}

/// Appends an entry for every chunk of `2^chunk_blocks_bits` blocks.
fn chunk_table(plan: &Plan<'_>, id: NodeId, shape: &Shape, out: &mut Vec<u8>) -> Result<(), Error> {
    let geometry = plan.data.geometry;
    let units_bits = shape.chunk_blocks_bits + geometry.block.bits() - geometry.chunk_bits;
    let mut runs = plan.runs(id).iter();
    let mut run = runs.next();
    let mut run_start = 0;
    for chunk in 0..shape.chunks {
        let unit = chunk << units_bits;
        while let Some(at_hand) = run.filter(|at_hand| unit >= run_start + at_hand.chunks) {
            run_start += at_hand.chunks;
            run = runs.next();
        }
        let entry = match run.map(|run| run.target) {
            None | Some(Target::Hole) => ChunkRef::Hole,
            Some(Target::Data(at)) => ChunkRef::Block {
                device: DeviceId::new(plan.data.device_ids[at.device()]),
                block: at.block() + (unit - run_start) * geometry.chunk_blocks(),
            },
        };
        let entry = entry.encode().ok_or(Error::TooLarge { what: "a device of more than 2^32 blocks" })?;
        out.extend_from_slice(&entry);
    }
    Ok(())
}

/// Writes what does not stand behind its inode.
fn emit_blocks(plan: &Plan<'_>, buffer: &mut Vec<u8>, writer: &mut MetaWriter<'_>) -> io::Result<()> {
    let block = plan.data.geometry.block;
    for &id in &plan.data.order {
        let shape = plan.shape(id);
        if shape.blocks == 0 {
            continue;
        }
        let mut at = u64::from(plan.first_block(id)) << block.bits();
        match plan.data.tree.nodes[index(id)].kind {
            FileType::Directory => {
                let listing = Listing::new(&plan.data.tree, id);
                let count = usize::try_from(shape.blocks).unwrap_or(usize::MAX);
                for piece in listing.blocks(block).take(count) {
                    buffer.clear();
                    listing.write_block(piece, &|node| plan.nid(node), buffer);
                    writer.pad_to(at)?;
                    writer.write(buffer)?;
                    at += block.bytes();
                }
            }
            _ => {
                let target = target(plan, id);
                let len = usize::try_from(shape.blocks << block.bits()).unwrap_or(usize::MAX);
                writer.pad_to(at)?;
                writer.write(&target[..target.len().min(len)])?;
            }
        }
    }
    Ok(())
}

/// The target of a symbolic link.
fn target<'a>(plan: &'a Plan<'_>, id: NodeId) -> &'a [u8] {
    match plan.data.tree.nodes[index(id)].content {
        Content::Link(span) => plan.data.tree.text.get(span),
        _ => &[],
    }
}

/// A sink that only hashes.
pub(super) struct HashWriter(pub Sha256);

impl Write for HashWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.update(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
