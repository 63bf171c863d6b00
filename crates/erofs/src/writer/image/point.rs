//! [`Pointer`]: where in its layer the data of a file lie, said as an index of another image can say it.

use super::super::node::{Content, Node};
use super::super::runs::{BlockRef, Target};
use super::super::text::index;
use super::super::tree::Tree;
use super::encoded::{EncodedFile, StoredExtent, StoredTail};
use super::inline_bytes_max;
use super::piece::Kind;
use crate::image::{StoredEnd, StoredFile};
use crate::zmap::{EXTENT_BYTES_MAX, PCLUSTER_BYTES_MAX};
use crate::{
    BlockSize, Codec, DeviceId, Error, ExtentKind, Incompat, Inode, Layout, LogicalAddr, PhysicalAddr,
};

/// A file whose data stay where they are.
#[derive(Debug)]
pub(super) enum Pointed {
    /// Runs of blocks, and what stands behind them among the metadata.
    Runs { runs: Vec<(u64, Target)>, tail: Box<[u8]> },
    /// Pclusters; if there is a fragment, its offset is that in the layer's packed inode.
    Encoded(EncodedFile),
}

/// Finds the data of files in their layers.
pub(super) struct Pointer<'a> {
    tree: &'a Tree,
    block: BlockSize,
    /// The number of each layer's own file among the devices, from 1.
    first: Vec<u16>,
    /// Which devices are needed, by number less one.
    pub used: Vec<bool>,
}

impl<'a> Pointer<'a> {
    pub(super) fn new(tree: &'a Tree, block: BlockSize) -> Result<Self, Error> {
        let mut next = 1_usize;
        let mut first = Vec::with_capacity(tree.layers.len());
        for layer in &tree.layers {
            first.push(u16::try_from(next).map_err(|_| TOO_MANY)?);
            next += layer.device_count();
        }
        u16::try_from(next).map_err(|_| TOO_MANY)?;
        Ok(Self { tree, block, first, used: vec![false; next - 1] })
    }

    /// The layer and device of a number, less one.
    pub(super) fn devices(&self) -> impl Iterator<Item = (usize, DeviceId)> {
        let layers = self.tree.layers.iter().enumerate();
        layers.flat_map(|(number, layer)| {
            let count = u16::try_from(layer.device_count()).expect("counted when numbers were given");
            (0..count).map(move |device| (number, DeviceId::new(device)))
        })
    }

    /// Says where the data of a file are; `None` when they must be copied.
    pub(super) fn point(&mut self, node: &Node) -> Result<Option<Pointed>, Error> {
        let Content::Layer { layer, nid } = node.content else { return Ok(None) };
        let image = &self.tree.layers[index(layer)].image;
        let found = image.inode(nid).and_then(|inode| {
            let encoded = matches!(inode.layout, Layout::CompressedFull | Layout::CompressedCompact);
            if encoded { self.encoded(layer, &inode) } else { self.runs(layer, &inode) }
        });
        found.map_err(|source| Error::Layer {
            number: layer,
            path: format!("inode {nid}").into(),
            source: Box::new(source),
        })
    }

    /// Data that stand as they are.
    fn runs(&mut self, layer: u32, inode: &Inode) -> Result<Option<Pointed>, Error> {
        let image = &self.tree.layers[index(layer)].image;
        let (mut runs, mut tail) = (Vec::new(), Box::default());
        for extent in image.extents(inode, LogicalAddr::new(0)) {
            let extent = extent?;
            let end = extent.start.get() + extent.len;
            let aligned = self.block.offset(extent.start.get()) == 0
                && (end == inode.size || self.block.offset(end) == 0);
            let behind = inode.layout == Layout::FlatInline && end == inode.size;
            let target = match extent.kind {
                _ if !aligned => None,
                ExtentKind::Hole => Some(Target::Hole),
                ExtentKind::Meta { .. } if behind && extent.len < self.block.bytes() => {
                    let mut bytes = vec![0; usize::try_from(extent.len).unwrap_or(0)];
                    self.tree.layers[index(layer)].read(inode, extent.start.get(), &mut bytes)?;
                    tail = bytes.into_boxed_slice();
                    continue;
                }
                ExtentKind::Meta { pa } => self.target(layer, DeviceId::PRIMARY, pa, extent.len),
                ExtentKind::Device { device, pa } => self.target(layer, device, pa, extent.len),
                ExtentKind::Encoded(_) => None,
            };
            let Some(target) = target else { return Ok(None) };
            runs.push((self.block.blocks(extent.len), target));
        }
        Ok(Some(Pointed::Runs { runs, tail }))
    }

    fn target(&mut self, layer: u32, device: DeviceId, pa: PhysicalAddr, len: u64) -> Option<Target> {
        let (number, block) = self.place(layer, device, pa, self.block.blocks(len))?;
        BlockRef::new(number, block).map(Target::Data)
    }

    /// The number of a device and a block there; `None` when not all of the blocks are there.
    fn place(&mut self, layer: u32, device: DeviceId, pa: PhysicalAddr, blocks: u64) -> Option<(u16, u64)> {
        let bytes = self.tree.layers[index(layer)].device_bytes(device)?;
        let block = pa.get() >> self.block.bits();
        let inside = block.checked_add(blocks).is_some_and(|end| end <= self.block.blocks(bytes));
        if self.block.offset(pa.get()) != 0 || !inside {
            return None;
        }
        let number = self.first[index(layer)].checked_add(device.get())?;
        *self.used.get_mut(usize::from(number) - 1)? = true;
        Some((number, block))
    }

    /// Data in pclusters.
    fn encoded(&mut self, layer: u32, inode: &Inode) -> Result<Option<Pointed>, Error> {
        let image = &self.tree.layers[index(layer)].image;
        let superblock = image.superblock();
        // Images from before Linux 5.3 have their data left-aligned.
        if superblock.block_size != self.block || !superblock.incompat.contains(Incompat::LZ4_0PADDING) {
            return Ok(None);
        }
        let Some(StoredFile { codec, interlaced, extents, end }) = image.stored_file(inode)? else {
            return Ok(None);
        };
        let mut placed = Vec::with_capacity(extents.len());
        for extent in &extents {
            let Some(extent) = self.extent(layer, inode, extent) else { return Ok(None) };
            placed.push(extent);
        }
        let narrow = |len: u64| u32::try_from(len).ok().filter(|&len| u64::from(len) <= EXTENT_BYTES_MAX);
        let tail = match end {
            StoredEnd::None => Some(StoredTail::None),
            StoredEnd::Inline { bytes, .. } if bytes.len() > inline_bytes_max(self.block) => None,
            StoredEnd::Inline { len, plain, .. } if plain && len > self.block.bytes() => None,
            StoredEnd::Inline { len, plain, bytes } => narrow(len).map(|len| StoredTail::Inline {
                len,
                kind: if plain { Kind::Plain } else { Kind::Encoded },
                bytes: bytes.into_boxed_slice(),
            }),
            StoredEnd::Fragment { offset, .. } if placed.is_empty() => {
                // The whole file, whose length the inode has.
                Some(StoredTail::Fragment { len: 0, offset })
            }
            StoredEnd::Fragment { len, offset } => {
                narrow(len).map(|len| StoredTail::Fragment { len, offset })
            }
        };
        let codec = codec.unwrap_or(Codec::Lz4);
        Ok(tail.map(|tail| Pointed::Encoded(EncodedFile { codec, interlaced, extents: placed, tail })))
    }

    /// An extent whose pcluster is on one device and whose lengths are what kernels take.
    fn extent(
        &mut self,
        layer: u32,
        inode: &Inode,
        extent: &crate::image::StoredExtent,
    ) -> Option<StoredExtent> {
        let crate::image::StoredExtent { len, block, blocks, plain, hole, partial } = *extent;
        let bytes = u64::from(blocks) << self.block.bits();
        let sound = len <= if plain { bytes } else { EXTENT_BYTES_MAX } && bytes <= PCLUSTER_BYTES_MAX;
        let at = self.block.address(block).filter(|_| sound)?;
        let image = &self.tree.layers[index(layer)].image;
        let (device, pa) = image.unified_place(inode, at.get(), bytes)?;
        let (device, block) = self.place(layer, device, pa, blocks.into())?;
        Some(StoredExtent {
            len: u32::try_from(len).ok()?,
            block,
            device,
            blocks: u16::try_from(blocks).ok()?,
            kind: match (hole, plain) {
                (true, _) => Kind::Zeros,
                (false, true) => Kind::Plain,
                (false, false) => Kind::Encoded,
            },
            partial,
        })
    }
}

const TOO_MANY: Error = Error::TooLarge { what: "more than 65,535 devices" };
