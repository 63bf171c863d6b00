//! [`Dictionary`]: the chunks of another image, to be referred to instead of stored again.

use std::collections::HashSet;
use std::fmt;

use super::dedup::{ChunkKey, ChunkTable};
use super::runs::BlockRef;
use crate::{
    BlockSize, DeviceId, DeviceTag, Error, ExtentKind, FileType, Image, Inode, LogicalAddr, PhysicalAddr,
    ReadDevice,
};

/// A device of another image.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DictionaryDevice {
    /// What that image calls it, usually the digest of the blob in hex.
    pub tag: DeviceTag,
    /// Length in blocks.
    pub blocks: u64,
}

/// Content that lies on the devices of another image, by SHA-256.
///
/// Deduplication finds a chunk only if both images cut at the same places: files are cut from their
/// beginning, so the unit of deduplication must be the same.
pub struct Dictionary {
    block: BlockSize,
    devices: Vec<DictionaryDevice>,
    chunks: ChunkTable,
}

impl Dictionary {
    /// An empty dictionary over `devices`, whose places are counted in blocks of `block`.
    pub fn new(block: BlockSize, devices: Vec<DictionaryDevice>) -> Self {
        Self { block, devices, chunks: ChunkTable::default() }
    }

    /// Reads all file data of `image`, cut into chunks of `2^chunk_bits` bytes.
    ///
    /// `read_device` fills a buffer from one of the image's devices. What lies on the primary device or in
    /// several pieces is left out. Each place is read once.
    ///
    /// # Errors
    ///
    /// When the image is damaged or a device cannot be read.
    pub fn from_image(
        image: &Image,
        chunk_bits: u8,
        read_device: &mut ReadDevice<'_>,
    ) -> Result<Self, Error> {
        let block = image.superblock().block_size;
        if !(block.bits()..=24).contains(&chunk_bits) {
            return Err(Error::ChunkSize { chunk_bits, block_bits: block.bits() });
        }
        let slots = image.devices().iter();
        let devices = slots.map(|slot| DictionaryDevice { tag: slot.tag, blocks: slot.blocks }).collect();
        let mut filling = Filling {
            dictionary: Self::new(block, devices),
            buffer: vec![0; 1 << chunk_bits],
            seen: HashSet::new(),
        };
        for entry in image.walk() {
            let inode = entry?.inode;
            if inode.kind == FileType::Regular && inode.size > 0 {
                filling.add_file(image, &inode, read_device)?;
            }
        }
        Ok(filling.dictionary)
    }

    /// Adds the chunk with this SHA-256, which begins at block `block` of `device` (1 is the first).
    ///
    /// Returns whether it was taken: not when the device is unknown. A content that is known keeps its place.
    pub fn insert(&mut self, digest: &[u8; 32], device: DeviceId, block: u64) -> bool {
        let Some(slot) = device.slot().filter(|&slot| slot < self.devices.len()) else { return false };
        let Some(at) = u16::try_from(slot).ok().and_then(|slot| BlockRef::new(slot, block)) else {
            return false;
        };
        self.chunks.remember(ChunkKey::from_digest(digest), at);
        true
    }

    /// The devices in the order of their ids.
    pub fn devices(&self) -> &[DictionaryDevice] {
        &self.devices
    }

    /// Number of chunks.
    pub fn len(&self) -> usize {
        self.chunks.len()
    }

    /// Whether there are no chunks.
    pub fn is_empty(&self) -> bool {
        self.chunks.len() == 0
    }

    pub(super) fn block(&self) -> BlockSize {
        self.block
    }

    /// Where a content lies; its device counts from 0 among this dictionary's devices.
    pub(super) fn find(&self, key: &ChunkKey) -> Option<BlockRef> {
        self.chunks.find(key)
    }
}

impl fmt::Debug for Dictionary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { block, devices, chunks } = self;
        f.debug_struct("Dictionary")
            .field("block", block)
            .field("devices", devices)
            .field("chunks", &chunks.len())
            .finish()
    }
}

struct Filling {
    dictionary: Dictionary,
    buffer: Vec<u8>,
    /// Places read already: hard links and shared chunks come again.
    seen: HashSet<(DeviceId, u64, usize)>,
}

impl Filling {
    fn add_file(
        &mut self,
        image: &Image,
        inode: &Inode,
        read_device: &mut ReadDevice<'_>,
    ) -> Result<(), Error> {
        let chunk_bytes = self.buffer.len() as u64;
        let mut at = LogicalAddr::new(0);
        while at.get() < inode.size {
            let extent = image.map(inode, at)?;
            let chunk = chunk_bytes.min(inode.size - at.get());
            let whole = extent.len >= chunk;
            // Holes may be endless: pass over as many chunks as the extent covers.
            let step = if whole && extent.kind == ExtentKind::Hole {
                extent
                    .len
                    .next_multiple_of(chunk_bytes)
                    .min(extent.len / chunk_bytes * chunk_bytes)
                    .max(chunk)
            } else {
                chunk
            };
            if let (ExtentKind::Device { device, pa }, true) = (extent.kind, whole) {
                self.add_chunk(device, pa, chunk, read_device)?;
            }
            let Some(next) = at.checked_add(step) else { break };
            at = next;
        }
        Ok(())
    }

    fn add_chunk(
        &mut self,
        device: DeviceId,
        pa: PhysicalAddr,
        len: u64,
        read_device: &mut ReadDevice<'_>,
    ) -> Result<(), Error> {
        let block = self.dictionary.block;
        let len = usize::try_from(len).unwrap_or(self.buffer.len()).min(self.buffer.len());
        if block.offset(pa.get()) != 0 || !self.seen.insert((device, pa.get(), len)) {
            return Ok(());
        }
        let chunk = &mut self.buffer[..len];
        read_device(device, pa, chunk).map_err(|error| error.of_device(device, pa, len))?;
        let digest = ChunkKey::of(chunk);
        if let Some(slot) = device.slot().and_then(|slot| u16::try_from(slot).ok())
            && let Some(at) = BlockRef::new(slot, pa.get() >> block.bits())
        {
            self.dictionary.chunks.remember(digest, at);
        }
        Ok(())
    }
}
