//! [`write_merged`]: an image of metadata that points into the layers it was merged from.

use std::io::{BufWriter, Seek, Write};

use super::super::data::{NO_FILE, Totals as DataTotals, WrittenData};
use super::super::image_options::{Fragments, Hint, ImageOptions, OptionsFault};
use super::super::node::{Content, NodeId};
use super::super::options::Geometry;
use super::super::order::order;
use super::super::recipe::Recipe;
use super::super::text::index as at;
use super::super::tree::Tree;
use super::codecs::Codecs;
use super::encoded::{EncodedFile, IndexRules, Records, StoredTail};
use super::piece::Kind;
use super::place::{Placer, Placing};
use super::point::{Pointed, Pointer};
use super::{ImageSummary, files, finish, head_room, inline_bytes_max, rules, run_tree};
use crate::codec::CodecConfigs;
use crate::{BlockSize, Codec, DeviceId, DeviceSlot, Error, FileType, Incompat};

/// Which devices an image refers to.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum LayerDevices {
    /// Those that it needs.
    #[default]
    Needed,
    /// All files of all layers, needed or not: who mounts it need not ask which.
    All,
}

/// A device of a merged image.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LayerDevice {
    /// Which layer; the lowest has number 0.
    pub layer: usize,
    /// Which of its devices; the primary one is the layer's own file.
    pub device: DeviceId,
}

/// What was written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MergedSummary {
    /// The image.
    pub image: ImageSummary,
    /// Its devices, in the order in which it must be given them.
    pub devices: Vec<LayerDevice>,
    /// Bytes of file contents that the image has itself, because nothing in it could say where they are.
    pub copied_bytes: u64,
}

/// Writes a tree made by [`Tree::from_layers`] as an image that has the layers as devices, to `out` from its position.
///
/// Data stay in the layers wherever an index can say so: in blocks and chunks, and in pclusters of every codec, for
/// layers with the same block size also in pclusters shared by several files. Tails that stand among the metadata are
/// taken over as they are. What remains is copied into the image as it is when decoded: extents at odd bytes (48-bit
/// layout), compressed files of layers with larger blocks, files with two codecs, and packed inodes when several layers
/// have one. Blocks are the smallest of the layers', whatever `options` say; with one block size the image can be mounted
/// by Linux 5.16, if the layers can; with more than 2^32 blocks in all it has the 48-bit layout (Linux 6.15).
///
/// # Errors
///
/// [`Error::Options`] when options ask for compression or chunks, [`Error::Layer`] for a layer that cannot be read,
/// [`Error::TooLarge`] for more than 2^48 blocks or 65,535 devices in all, [`Error::WriteImage`].
pub fn write_merged<W: Write + Seek>(
    tree: Tree,
    options: &ImageOptions<'_>,
    devices: LayerDevices,
    out: &mut W,
) -> Result<MergedSummary, Error> {
    let smallest = tree.layers.iter().map(|layer| layer.image.superblock().block_size.bits()).min();
    let options = &ImageOptions { block_bits: smallest.unwrap_or(options.block_bits), ..options.clone() };
    let block = check(options)?;
    let start = out.stream_position().map_err(|source| Error::WriteImage { source })?;
    let mut buffered = BufWriter::with_capacity(1 << 20, &mut *out);
    let (data, devices) = write_own(tree, options, block, devices, &mut buffered)?;
    let copied_bytes = data.totals.blob_bytes;
    let image = finish(&data, options, buffered, start)?;
    Ok(MergedSummary { image, devices, copied_bytes })
}

fn check(options: &ImageOptions<'_>) -> Result<BlockSize, Error> {
    let other = [
        (!options.compressors.is_empty(), "compression"),
        (options.chunk_bits != 0, "chunks"),
        (options.metabox.is_some(), "a metabox"),
    ];
    if let Some((_, other)) = other.iter().find(|(asked, _)| *asked) {
        let fault = OptionsFault::Conflict { one: "pointing into layers", other };
        return Err(Error::Options { fault });
    }
    options.check()
}

/// Says where all data are, and writes those that must be copied behind room for the head.
fn write_own(
    mut tree: Tree,
    options: &ImageOptions<'_>,
    block: BlockSize,
    which: LayerDevices,
    out: &mut dyn Write,
) -> Result<(WrittenData, Vec<LayerDevice>), Error> {
    let mut order = order(&tree);
    let mut found = Found::new(&tree, &order, block)?;
    let packed = found.add_packed(&mut tree)?;
    if let Some(node) = packed {
        order.push(node);
    }
    let mut pointer = Pointer::new(&tree, block)?;
    pointer.used = std::mem::take(&mut found.used);
    if let Some(node) = packed {
        match pointer.point(&tree.nodes[at(node)])? {
            Some(pointed) => found.pointed.push((node, pointed)),
            None => found.copied.push(node),
        }
    }
    let all = which == LayerDevices::All;
    let used: Vec<bool> = pointer.used.iter().map(|used| *used || all).collect();
    let numbered: Vec<(usize, DeviceId)> = pointer.devices().collect();
    let slots: Vec<Option<DeviceSlot>> = numbered
        .iter()
        .zip(&used)
        .map(|(&(layer, device), used)| used.then(|| slot(&tree, layer, device, block)))
        .collect();
    let devices: Vec<LayerDevice> = numbered
        .iter()
        .zip(&used)
        .filter(|(_, used)| **used)
        .map(|(&(layer, device), _)| LayerDevice { layer, device })
        .collect();

    let features = found.features(&tree, packed.is_some());
    let records = found.records(&tree, features);
    let room = head_room(block, records.1.len(), devices.len());
    out.write_all(&vec![0; room]).map_err(|source| Error::WriteImage { source })?;
    let codecs = Codecs::new(options, block).map_err(|fault| Error::Options { fault })?;
    let rules = rules(options, block);
    let placing = Placing {
        block,
        inline_bytes_max: if options.inline_data { inline_bytes_max(block) } else { 0 },
        codecs: &[],
        zeros: &[],
        zeros_len: 0,
        interlaced: false,
        progress: options.progress,
    };
    let mut placer = Placer::new(out, placing, block.blocks(room as u64));
    let method = options.method(Hint::default(), block).map_err(|fault| Error::Options { fault })?;
    let rules = super::Rules { fragments: Fragments::None, ..rules };
    let methods = vec![method; found.copied.len()];
    run_tree(&tree, &found.copied, &methods, &codecs, &rules, options.jobs, &mut placer)?;
    let mut files = std::mem::take(&mut found.copied);
    for (node, pointed) in std::mem::take(&mut found.pointed) {
        files.push(node);
        match pointed {
            Pointed::Runs { runs, tail } => placer.point(&runs, &tail)?,
            Pointed::Encoded(file) => placer.point_encoded(file),
        }
    }
    let Placer { places, runs, mut content, totals, .. } = placer;
    for layer in &tree.layers {
        sha2::Digest::update(&mut content, layer.image.superblock().uuid);
    }
    let mut file_of = vec![NO_FILE; tree.nodes.len()];
    for (file, &node) in (0..).zip(&files) {
        file_of[at(node)] = file;
    }
    let file_bytes =
        order.iter().map(|&node| &tree.nodes[at(node)]).filter(|node| node.kind == FileType::Regular);
    let file_bytes = file_bytes.fold(0_u64, |sum, node| sum.saturating_add(node.size));
    let device_ids = device_ids(&slots);
    let data = WrittenData {
        order,
        file_of,
        runs,
        places,
        index_rules: IndexRules { block, legacy: options.legacy_indexes, records: Records::default() },
        geometry: Geometry { block, chunk_bits: block.bits() },
        recipe: Recipe::of_image(options, totals.next_block, features, records),
        packed,
        metabox: None,
        devices: Vec::new(),
        layer_devices: slots,
        device_ids,
        content: sha2::Digest::finalize(content).into(),
        totals: DataTotals { file_bytes, blob_bytes: totals.file_bytes, ..DataTotals::default() },
        tree,
    };
    Ok((data, devices))
}

/// Ids in the image by the writer's numbering; the image itself, number 0, has id 0.
fn device_ids(slots: &[Option<DeviceSlot>]) -> Vec<u16> {
    let mut next = 0;
    let ids = slots.iter().map(|slot| {
        next += u16::from(slot.is_some());
        if slot.is_some() { next } else { 0 }
    });
    std::iter::once(0).chain(ids).collect()
}

fn slot(tree: &Tree, layer: usize, device: DeviceId, block: BlockSize) -> DeviceSlot {
    let layer = &tree.layers[layer];
    let bytes = layer.device_bytes(device).unwrap_or(0);
    DeviceSlot { tag: layer.device_tag(device), blocks: block.blocks(bytes), uniaddr: 0 }
}

/// What was found out about all files.
struct Found {
    pointed: Vec<(NodeId, Pointed)>,
    copied: Vec<NodeId>,
    used: Vec<bool>,
}

impl Found {
    fn new(tree: &Tree, order: &[NodeId], block: BlockSize) -> Result<Self, Error> {
        let mut pointer = Pointer::new(tree, block)?;
        let (mut pointed, mut copied) = (Vec::new(), Vec::new());
        for node in files(tree, order) {
            match pointer.point(&tree.nodes[at(node)])? {
                Some(place) => pointed.push((node, place)),
                None if tree.nodes[at(node)].size > COPIED_BYTES_MAX => return Err(TOO_LARGE_TO_COPY),
                None => copied.push(node),
            }
        }
        Ok(Self { pointed, copied, used: pointer.used })
    }

    /// The compressed files that are pointed at.
    fn encoded(&self) -> impl Iterator<Item = (NodeId, &EncodedFile)> {
        self.pointed.iter().filter_map(|(node, pointed)| match pointed {
            Pointed::Encoded(file) => Some((*node, file)),
            Pointed::Runs { .. } => None,
        })
    }

    /// Adds the inode that holds the tails of files: that of the one layer whose files have some, or one that has the
    /// contents of several, each from a block boundary.
    fn add_packed(&mut self, tree: &mut Tree) -> Result<Option<NodeId>, Error> {
        let mut bases: Vec<Option<u64>> = vec![None; tree.layers.len()];
        let layer_of = |tree: &Tree, node: NodeId| match tree.nodes[at(node)].content {
            Content::Layer { layer, .. } => at(layer),
            _ => unreachable!("only files of layers are pointed at"),
        };
        for (node, file) in self.encoded() {
            if matches!(file.tail, StoredTail::Fragment { .. }) {
                bases[layer_of(tree, node)] = Some(0);
            }
        }
        let mut size = 0_u64;
        let mut joined = Vec::new();
        for (number, (base, layer)) in (0_u32..).zip(bases.iter_mut().zip(&tree.layers)) {
            let Some(base) = base else { continue };
            let packed = layer.image.superblock().packed.map(|nid| layer.image.inode(nid)).transpose()?;
            // Without one the fragment was found to be damaged.
            let Some(packed) = packed else { continue };
            *base = size.next_multiple_of(PACKED_ALIGN);
            joined.push((*base, number, packed.nid));
            let end = base.checked_add(packed.size).filter(|end| *end < 1 << 62);
            size = end.ok_or(Error::TooLarge { what: "2^62 bytes of fragments" })?;
        }
        for (node, pointed) in &mut self.pointed {
            if let Pointed::Encoded(EncodedFile { tail: StoredTail::Fragment { offset, .. }, .. }) = pointed {
                let base = bases[layer_of(tree, *node)].unwrap_or(0);
                // Of a sound file both are below 2^62.
                *offset = offset.saturating_add(base);
            }
        }
        let content = match joined[..] {
            [] => return Ok(None),
            [(_, layer, nid)] => Content::Layer { layer, nid },
            _ => Content::Joined,
        };
        tree.joined = joined;
        tree.add_unnamed(content, size).map(Some)
    }

    /// The features that the data need.
    fn features(&self, tree: &Tree, packed: bool) -> Incompat {
        let mut features = Incompat::empty();
        for (node, file) in self.encoded() {
            features |= Incompat::LZ4_0PADDING;
            let Content::Layer { layer, .. } = tree.nodes[at(node)].content else { continue };
            let incompat = tree.layers[at(layer)].image.superblock().incompat;
            features |= incompat & Incompat::COMPR_CFGS;
            if matches!(file.tail, StoredTail::Inline { .. }) {
                features |= Incompat::ZTAILPACKING;
            }
            let shares = |extent: &super::encoded::StoredExtent| extent.partial || extent.kind == Kind::Zeros;
            if file.extents.iter().any(shares) {
                features |= Incompat::FRAGMENTS;
            }
        }
        features.set(Incompat::FRAGMENTS, packed || features.contains(Incompat::FRAGMENTS));
        features
    }

    /// The codecs that are used, as bits, and their configuration records; without any, how far LZ4 goes back.
    fn records(&self, tree: &Tree, features: Incompat) -> (u16, Vec<u8>) {
        let mut configs: Option<CodecConfigs> = None;
        let mut bits = 0;
        for (node, file) in self.encoded() {
            let Content::Layer { layer, .. } = tree.nodes[at(node)].content else { continue };
            let own = tree.layers[at(layer)].image.superblock().codecs;
            configs = Some(configs.map_or(own, |known| known.joined(own)));
            if !file.extents.is_empty() || matches!(file.tail, StoredTail::Inline { .. }) {
                bits |= file.codec.bit();
            }
        }
        let Some(configs) = configs else { return (0, Vec::new()) };
        if !features.contains(Incompat::COMPR_CFGS) {
            return (configs.lz4_distance(), Vec::new());
        }
        let used = Codec::ALL.into_iter().filter(|codec| bits & codec.bit() != 0);
        (bits, used.flat_map(|codec| configs.record(codec)).collect())
    }
}

/// Bytes of a file that is copied, at most: 16 TiB, holes included. Sizes are what an image claims.
const COPIED_BYTES_MAX: u64 = 1 << 44;
const TOO_LARGE_TO_COPY: Error = Error::TooLarge { what: "to copy a file of more than 16 TiB" };

/// Where the contents of a packed inode may begin in one that has those of several layers.
const PACKED_ALIGN: u64 = 1 << 16;
