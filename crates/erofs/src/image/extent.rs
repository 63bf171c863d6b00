//! [`Image::map`]: from a place in a file to a place on a device.

use super::{DeviceMode, Image};
use crate::inode::Data;
use crate::{ChunkFormat, ChunkRef, DeviceId, Error, Inode, Layout, LogicalAddr, PhysicalAddr};

/// Table entries read in one go: neighbours that form one run become one extent.
const ENTRIES_AT_ONCE: usize = 32;

/// A run of bytes of a file that lies in one piece, or nowhere.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Extent {
    /// Where it begins in the file: exactly where was asked.
    pub start: LogicalAddr,
    /// Length in bytes, never past the end of the file; 0 only at or past it.
    pub len: u64,
    /// Where the bytes are.
    pub kind: ExtentKind,
}

/// Where the bytes of an [`Extent`] are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ExtentKind {
    /// Nowhere: they are zeros.
    Hole,
    /// On the primary device, among the metadata.
    Meta {
        /// Byte address on the primary device.
        pa: PhysicalAddr,
    },
    /// On an extra device.
    Device {
        /// Which one; never the primary.
        device: DeviceId,
        /// Byte address on that device.
        pa: PhysicalAddr,
    },
}

impl Image {
    /// Says where the bytes of `inode` from `at` on lie, as far as they lie in one piece.
    ///
    /// At or past the end of the file, and for what has no contents, the answer is a hole of length 0.
    /// Addresses are not compared with the length of the device: a read there tells.
    ///
    /// Source of truth: `erofs_map_blocks()` and `erofs_map_dev()`, fs/erofs/data.c (v7.3).
    ///
    /// # Errors
    ///
    /// [`Error::Compressed`] for compressed files; else when the inode or its chunk table is damaged.
    pub fn map(&self, inode: &Inode, at: LogicalAddr) -> Result<Extent, Error> {
        let left = inode.size.saturating_sub(at.get());
        if left == 0 || !inode.kind.has_data() {
            return Ok(Extent { start: at, len: 0, kind: ExtentKind::Hole });
        }
        match (inode.layout, inode.data) {
            (Layout::FlatInline, Data::Flat(block)) => self.map_inline(inode, block, at),
            (_, Data::Flat(block)) => self.map_plain(inode, block, at, left),
            (_, Data::Chunks(format)) => self.map_chunks(inode, format, at),
            (layout, Data::Opaque) => Err(Error::Compressed { nid: inode.nid, layout }),
        }
    }

    fn map_plain(
        &self,
        inode: &Inode,
        block: Option<u64>,
        at: LogicalAddr,
        len: u64,
    ) -> Result<Extent, Error> {
        let Some(block) = block else { return Ok(Extent { start: at, len, kind: ExtentKind::Hole }) };
        let start = self.superblock.block_size.address(block);
        let pa = start.and_then(|start| start.checked_add(at.get()));
        let pa = pa.ok_or(Error::AddressOverflow { nid: inode.nid, at })?;
        self.resolve_device(inode, DeviceId::PRIMARY, pa, at, len)
    }

    fn map_inline(&self, inode: &Inode, block: Option<u64>, at: LogicalAddr) -> Result<Extent, Error> {
        let block_size = self.superblock.block_size;
        let tail_at = (block_size.blocks(inode.size) - 1) * block_size.bytes();
        if at.get() < tail_at {
            return self.map_plain(inode, block, at, tail_at - at.get());
        }
        let overflow = Error::AddressOverflow { nid: inode.nid, at };
        let Some(tail) = inode.body_end() else { return Err(overflow) };
        let tail_len = inode.size - tail_at;
        if block_size.offset(tail.get()) + tail_len > block_size.bytes() {
            return Err(Error::InlineCrossesBlock { nid: inode.nid });
        }
        let Some(pa) = tail.checked_add(at.get() - tail_at) else { return Err(overflow) };
        Ok(Extent { start: at, len: inode.size - at.get(), kind: ExtentKind::Meta { pa } })
    }

    fn map_chunks(&self, inode: &Inode, format: ChunkFormat, at: LogicalAddr) -> Result<Extent, Error> {
        let block_size = self.superblock.block_size;
        let chunk_bits = format.chunk_bits(block_size);
        let first = at.get() >> chunk_bits;
        let count = ((inode.size - 1) >> chunk_bits) + 1 - first;
        let (chunk, run) = self.chunk_run(inode, format, first, count)?;

        // `first + run` is at most the number of chunks, whose end may pass 2^63 but not 2^64.
        let end = inode.size.min(first.saturating_add(run).saturating_mul(1 << chunk_bits));
        let len = end - at.get();
        match chunk {
            ChunkRef::Hole => Ok(Extent { start: at, len, kind: ExtentKind::Hole }),
            ChunkRef::Block { device, block } => {
                let start = block_size.address(block);
                let pa = start.and_then(|start| start.checked_add(at.get() - (first << chunk_bits)));
                let pa = pa.ok_or(Error::AddressOverflow { nid: inode.nid, at })?;
                self.resolve_device(inode, device, pa, at, len)
            }
        }
    }

    /// Reads table entry `first` and counts how many of the next ones continue it.
    fn chunk_run(
        &self,
        inode: &Inode,
        format: ChunkFormat,
        first: u64,
        count: u64,
    ) -> Result<(ChunkRef, u64), Error> {
        let size = format.entry_bytes();
        let overflow = || Error::AddressOverflow { nid: inode.nid, at: LogicalAddr::new(0) };
        let table = inode.body_end().and_then(|end| end.get().checked_next_multiple_of(size as u64));
        let offset = first.checked_mul(size as u64).ok_or_else(overflow)?;
        let start = table.and_then(|table| table.checked_add(offset)).ok_or_else(overflow)?;

        let mut buffer = [0; ENTRIES_AT_ONCE * 8];
        let entries = usize::try_from(count).map_or(ENTRIES_AT_ONCE, |count| count.min(ENTRIES_AT_ONCE));
        let bytes = &mut buffer[..entries * size];
        self.read_meta(PhysicalAddr::new(start), bytes)?;

        let step = 1 << (format.chunk_bits(self.superblock.block_size) - self.superblock.block_size.bits());
        let mut chunks = bytes.chunks_exact(size).map_while(|entry| format.entry(entry));
        let head = chunks.next().ok_or_else(overflow)?;
        let mut expected = head.advance(step);
        let mut run = 1;
        for chunk in chunks {
            if Some(chunk) != expected {
                break;
            }
            expected = chunk.advance(step);
            run += 1;
        }
        Ok((head, run))
    }

    /// Resolves a device id as stored; cuts `len` where a device of the unified space ends.
    fn resolve_device(
        &self,
        inode: &Inode,
        id: DeviceId,
        pa: PhysicalAddr,
        at: LogicalAddr,
        len: u64,
    ) -> Result<Extent, Error> {
        let overflow = Error::AddressOverflow { nid: inode.nid, at };
        if pa.checked_add(len).is_none() {
            return Err(overflow);
        }
        // Upper bits of the id may carry other data: `device_id_mask` in fs/erofs/super.c.
        let mask = (self.devices.len() + 1).next_power_of_two() - 1;
        let id = DeviceId::new(id.get() & u16::try_from(mask).unwrap_or(u16::MAX));
        let block = self.superblock.block_size;
        let Some(slot) = id.slot() else {
            return Ok(self.resolve_unified(pa, at, len));
        };
        let Some(device) = self.devices.get(slot) else {
            return Err(Error::UnknownDevice { nid: inode.nid, device: id });
        };
        let kind = match self.mode {
            DeviceMode::Separate => ExtentKind::Device { device: id, pa },
            DeviceMode::Flat => {
                let base = block.address(device.uniaddr);
                let Some(pa) = base.and_then(|base| base.checked_add(pa.get())) else { return Err(overflow) };
                ExtentKind::Meta { pa }
            }
        };
        Ok(Extent { start: at, len, kind })
    }

    /// Resolves an address without a device id: it may lie in the range that a slot claims.
    fn resolve_unified(&self, pa: PhysicalAddr, at: LogicalAddr, len: u64) -> Extent {
        let block = self.superblock.block_size;
        if self.mode == DeviceMode::Separate {
            for (slot, device) in (1..).zip(self.devices.iter()).filter(|(_, device)| device.uniaddr != 0) {
                let Some(start) = block.address(device.uniaddr) else { continue };
                let end = start.get().saturating_add(device.bytes(block).unwrap_or(0));
                if (start.get()..end).contains(&pa.get()) {
                    let kind = ExtentKind::Device {
                        device: DeviceId::new(slot),
                        pa: PhysicalAddr::new(pa.get() - start.get()),
                    };
                    return Extent { start: at, len: len.min(end - pa.get()), kind };
                }
            }
        }
        Extent { start: at, len, kind: ExtentKind::Meta { pa } }
    }
}
