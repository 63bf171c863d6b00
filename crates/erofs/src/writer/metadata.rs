//! [`WrittenData::write_metadata`]: the second phase, the image itself.

use std::io::{self, Write};

use sha2::{Digest, Sha256};
use zerocopy::IntoBytes;

use super::data::WrittenData;
use super::dir_blocks::Listing;
use super::emit::MetaWriter;
use super::image::Place;
use super::image_options::ImageOptions;
use super::layout::{DEVICE_TABLE_AT, Plan, Shape};
use super::node::{Content, NodeId};
use super::recipe::Recipe;
use super::runs::Target;
use super::text::index;
use super::tree::Tree;
use crate::inode::{RawCompact, RawExtended};
use crate::superblock::{EXTENSION_BYTES, RawSuperblock, SUPERBLOCK_AT};
use crate::{
    ChunkFormat, ChunkRef, Compat, DeviceId, DeviceSlot, DeviceTag, Error, FileType, Incompat, Layout, Nid,
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
    /// Shapes the metadata as `options` say: identity and label, times, form of inodes, attributes, inline data,
    /// checksum. What they say of data, blocks and threads comes too late and is not heeded.
    pub fn shape(&mut self, options: &ImageOptions<'_>) {
        let Recipe { meta_block, features, codec_bits, .. } = self.recipe;
        let records = std::mem::take(&mut self.recipe.codec_records);
        self.recipe = Recipe::of_image(options, meta_block, features, (codec_bits, records));
    }

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
            let blocks = device.blocks(self.geometry.block);
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
    emit_metadata(plan, &mut writer)
}

/// Writes inodes and the blocks behind them; the writer is where they begin, or before.
pub(super) fn emit_metadata(plan: &Plan<'_>, writer: &mut MetaWriter<'_>) -> Result<(), Error> {
    emit_inodes(plan, writer)?;
    writer.pad_to(plan.blocks_at).map_err(|source| Error::WriteMetadata { source })?;
    emit_blocks(plan, writer)
}

/// Writes inodes, and the attributes that they share.
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
    Ok(())
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
    let metabox = plan.data.metabox;
    compat.set(Compat::XATTR_FILTER, plan.xattrs.any() || metabox.is_some_and(|metabox| metabox.xattrs));
    let mut incompat = recipe.features;
    incompat.set(Incompat::BITS_48, plan.is_wide());
    incompat.set(Incompat::METABOX, metabox.is_some());
    let chunks = plan.data.places.iter().any(|place| matches!(place, Place::Chunks));
    incompat.set(Incompat::CHUNKED_FILE, chunks || plan.data.places.is_empty() && plan.data.runs.files() > 0);
    incompat.set(Incompat::DEVICE_TABLE, !slots.is_empty());

    let mut raw = RawSuperblock::blank();
    raw.feature_compat = compat.bits().into();
    raw.feature_incompat = incompat.bits().into();
    raw.blkszbits = block.bits();
    let root = metabox.map_or_else(|| plan.nid(Tree::ROOT), |metabox| metabox.root).get();
    if plan.is_wide() {
        // Its old place has the high half of the number of blocks, which is 0: inodes lie below 2^32 blocks.
        raw.rootnid_8b = root.into();
    } else {
        raw.rootnid_2b = u16::try_from(root).map_err(|_| TOO_LARGE)?.into();
    }
    raw.inos = (plan.inodes.len() as u64 + metabox.map_or(0, |metabox| metabox.inodes)).into();
    raw.epoch = plan.epoch.seconds.into();
    raw.fixed_nsec = plan.epoch.nanoseconds.into();
    raw.build_time = build_time(plan).into();
    let extension = metabox.map(|metabox| extension(plan.nid(metabox.node)));
    raw.sb_extslots = extension.is_some().into();
    raw.blocks_lo = u32::try_from(plan.bytes >> block.bits()).map_err(|_| TOO_LARGE)?.into();
    raw.uuid = uuid;
    raw.volume_name = recipe.volume_name;
    raw.meta_blkaddr = u32::try_from(recipe.meta_block).map_err(|_| TOO_LARGE)?.into();
    raw.xattr_blkaddr = raw.meta_blkaddr;
    raw.available_compr_algs = recipe.codec_bits.into();
    raw.packed_nid = plan.data.packed.map_or(0, |node| plan.nid(node).get()).into();
    raw.extra_devices = u16::try_from(slots.len()).map_err(|_| TOO_LARGE)?.into();
    let before = extension.map_or(0, |extension| extension.len()) + recipe.codec_records.len();
    let table_at = (DEVICE_TABLE_AT + before as u64).next_multiple_of(128);
    if !slots.is_empty() {
        raw.devt_slotoff = u16::try_from(table_at / 128).map_err(|_| TOO_LARGE)?.into();
    }
    let mut head = vec![0; SUPERBLOCK_AT];
    head.extend_from_slice(raw.as_bytes());
    head.extend(extension.into_iter().flatten());
    head.extend_from_slice(&recipe.codec_records);
    if !slots.is_empty() {
        head.resize(head.len().next_multiple_of(128), 0);
    }
    for slot in slots {
        head.extend_from_slice(slot.encode(plan.is_wide()).ok_or(TOO_LARGE)?.as_bytes());
    }
    Ok(head)
}

/// The superblock's extension: the number of the metabox's inode, and eight bytes for later.
fn extension(metabox: Nid) -> [u8; EXTENSION_BYTES] {
    let mut bytes = [0; EXTENSION_BYTES];
    bytes[..8].copy_from_slice(&metabox.get().to_le_bytes());
    bytes
}

/// Time of the build: the time all later ones are set to, else that of the newest inode.
pub(super) fn build_time_of(plan: &Plan<'_>) -> i64 {
    let newest = || plan.data.order.iter().map(|&node| plan.data.mtime(node).seconds).max();
    plan.data.recipe.build_time.or_else(newest).unwrap_or(plan.epoch.seconds)
}

/// The same, after the epoch.
fn build_time(plan: &Plan<'_>) -> u32 {
    let time = build_time_of(plan);
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
                Place::Encoded(file) => file.write(shape.size, &plan.index_rules, &plan.bases, out),
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
    let (mut u_high, first) = (0, plan.first_block(id));
    let u = match (node.content, shape.layout) {
        (Content::Rdev(rdev), _) => rdev.encoded(),
        (_, Layout::CompressedFull | Layout::CompressedCompact) => match plan.place(id) {
            Place::Encoded(file) => u32::try_from(file.blocks()).unwrap_or(u32::MAX),
            _ => 0,
        },
        (_, Layout::ChunkBased) => {
            u32::from(ChunkFormat::encode_indexes(shape.chunk_blocks_bits, plan.is_wide()))
        }
        _ => {
            u_high = u16::try_from(first >> 32).expect("addresses have 48 bits");
            u32::try_from(first & u64::from(u32::MAX)).expect("masked")
        }
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
            nb: u_high.into(),
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
        let entry = entry
            .encode(plan.is_wide())
            .ok_or(Error::TooLarge { what: "a device of more than 2^48 blocks" })?;
        out.extend_from_slice(&entry);
    }
    Ok(())
}

/// Writes what does not stand behind its inode, and fills up the last block.
pub(super) fn emit_blocks(plan: &Plan<'_>, writer: &mut MetaWriter<'_>) -> Result<(), Error> {
    let written = write_blocks(plan, writer).and_then(|()| writer.pad_to(plan.bytes));
    written.map_err(|source| Error::WriteMetadata { source })
}

fn write_blocks(plan: &Plan<'_>, writer: &mut MetaWriter<'_>) -> io::Result<()> {
    let mut buffer = Vec::new();
    let block = plan.data.geometry.block;
    for &id in &plan.data.order {
        let shape = plan.shape(id);
        if shape.blocks == 0 {
            continue;
        }
        let mut at = plan.first_block(id) << block.bits();
        match plan.data.tree.nodes[index(id)].kind {
            FileType::Directory => {
                let listing = Listing::new(&plan.data.tree, id);
                let count = usize::try_from(shape.blocks).unwrap_or(usize::MAX);
                for piece in listing.blocks(block).take(count) {
                    buffer.clear();
                    listing.write_block(piece, &|node| plan.nid(node), &mut buffer);
                    writer.pad_to(at)?;
                    writer.write(&buffer)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::writer::{Attributes, Options, write_data};
    use crate::{DeviceId, ExtentKind, Image, LogicalAddr};

    #[test]
    fn chunks_beyond_2_to_the_32_blocks_have_48_bit_addresses() {
        let mut tree = Tree::new();
        tree.add_file(b"file", vec![7; 100_000], &Attributes::default()).expect("new");
        let mut data = write_data(tree, &Options::default(), &mut Vec::new()).expect("writable");
        for (blocks, wide) in [(0, false), ((1 << 32) - 100, false), (100, true), (1 << 40, true)] {
            data.runs.shift(blocks);
            let mut out = Vec::new();
            data.write_metadata(&[DeviceTag::EMPTY], &mut out).expect("writable");
            let image = Image::open(out).expect("opens");
            assert_eq!(image.superblock().incompat.contains(Incompat::BITS_48), wide, "{blocks}");
            let nid = image.resolve(b"file").expect("readable").expect("it is there");
            let inode = image.inode(nid).expect("readable");
            let extent = image.map(&inode, LogicalAddr::new(0)).expect("mapped");
            let Target::Data(at) = data.runs.all()[0].target else { panic!("no hole") };
            let ExtentKind::Device { device, pa } = extent.kind else { panic!("{extent:?}") };
            assert_eq!((device, pa.get()), (DeviceId::new(1), at.block() << data.geometry.block.bits()));
        }
    }
}
