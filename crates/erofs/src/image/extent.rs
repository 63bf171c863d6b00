//! [`Image::map`]: from a place in a file to a place on a device.

use std::fmt;

use super::zmap::{ZExtent, ZKind, ZMap, ZPlace};
use super::{DeviceMode, Image};
use crate::addr::MetaAddr;
use crate::inode::Data;
use crate::zmap::{EXTENT_BYTES_MAX, MapFault, PCLUSTER_BYTES_MAX};
use crate::{ChunkFormat, ChunkRef, Codec, DeviceId, Error, Inode, Layout, LogicalAddr, PhysicalAddr};

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
    /// Inside an encoded pcluster.
    Encoded(Encoded),
}

/// An encoded pcluster, and which of its decoded bytes an [`Extent`] begins with.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Encoded {
    /// Where it stands.
    pub place: Place,
    /// Encoded length in bytes, zeros in front included; at most 1 MiB.
    pub len: u32,
    /// How it is encoded.
    pub codec: Codec,
    /// Decoded bytes before the extent.
    pub skip: u32,
    /// Decoded length as far as this file uses it; at most 12 MiB.
    pub decoded: u32,
}

/// Where an encoded pcluster stands.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Place {
    /// On a device, which may be the primary one.
    Device {
        /// Which one.
        device: DeviceId,
        /// Byte address on that device.
        pa: PhysicalAddr,
    },
    /// In the decoded contents of the metabox.
    Metabox {
        /// Offset there.
        at: u64,
    },
}

/// The extents of a file in order, without gap or overlap; see [`Image::extents`].
pub struct Extents<'a> {
    mapper: Mapper<'a>,
    at: LogicalAddr,
}

impl fmt::Debug for Extents<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Extents").field("nid", &self.mapper.inode.nid).field("at", &self.at).finish()
    }
}

impl Iterator for Extents<'_> {
    type Item = Result<Extent, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let extent = self.mapper.map(self.at);
        let len = extent.as_ref().map_or(0, |extent| extent.len);
        match self.at.checked_add(len) {
            Some(next) if len > 0 => self.at = next,
            _ => self.at = LogicalAddr::new(u64::MAX),
        }
        extent.map(|extent| (extent.len > 0).then_some(extent)).transpose()
    }
}

impl std::iter::FusedIterator for Extents<'_> {}

/// Maps one file, keeping what was read of its index from call to call.
pub(super) struct Mapper<'a> {
    image: &'a Image,
    inode: &'a Inode,
    zmap: Option<ZMap<'a>>,
}

impl<'a> Mapper<'a> {
    pub fn new(image: &'a Image, inode: &'a Inode) -> Self {
        Self { image, inode, zmap: None }
    }

    /// As [`Image::map`].
    pub fn map(&mut self, at: LogicalAddr) -> Result<Extent, Error> {
        let (image, inode) = (self.image, self.inode);
        let left = inode.size.saturating_sub(at.get());
        if left == 0 {
            return Ok(Extent { start: at, len: 0, kind: ExtentKind::Hole });
        }
        match (inode.layout, inode.data) {
            (_, Data::Nothing) => Ok(Extent { start: at, len: 0, kind: ExtentKind::Hole }),
            (Layout::FlatInline, Data::Flat(block)) => image.map_inline(inode, block, at),
            (_, Data::Flat(block)) => image.map_plain(inode, block, at, left),
            (_, Data::Chunks(format)) => image.map_chunks(inode, format, at),
            (_, Data::Encoded) => {
                let zmap = match &mut self.zmap {
                    Some(zmap) => zmap,
                    None => self.zmap.insert(ZMap::open(image, inode)?),
                };
                let extent = zmap.extent(at.get())?;
                image.map_zextent(inode, extent, at)
            }
        }
    }
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
    /// When the inode, its chunk table or its compression index is damaged; [`Error::NotHere`] when parts of those
    /// have still to be brought.
    pub fn map(&self, inode: &Inode, at: LogicalAddr) -> Result<Extent, Error> {
        Mapper::new(self, inode).map(at)
    }

    /// Goes through the extents of `inode` from `at` to its end; the iterator ends after its first error.
    ///
    /// Faster than [`map`](Self::map) after `map`: what was read of the index is kept from one to the next.
    pub fn extents<'a>(&'a self, inode: &'a Inode, at: LogicalAddr) -> Extents<'a> {
        Extents { mapper: Mapper::new(self, inode), at }
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
        let Some(place) = tail.checked_add(at.get() - tail_at) else { return Err(overflow) };
        self.map_meta(inode, place, at, inode.size - at.get())
    }

    /// Maps bytes that stand among the metadata, which in the metabox means: somewhere in its contents.
    fn map_meta(&self, inode: &Inode, place: MetaAddr, at: LogicalAddr, len: u64) -> Result<Extent, Error> {
        match place {
            MetaAddr::Primary(pa) => {
                Ok(Extent { start: at, len, kind: ExtentKind::Meta { pa: PhysicalAddr::new(pa) } })
            }
            MetaAddr::Metabox(inner) => {
                let metabox = self.metabox.as_ref().ok_or(Error::InMetabox { nid: inode.nid })?;
                self.map_inner(inode, metabox, inner, at, len)
            }
        }
    }

    /// Maps a piece of `inode` that is the piece from `inner_at` of another inode's contents.
    fn map_inner(
        &self,
        inode: &Inode,
        inner: &Inode,
        inner_at: u64,
        at: LogicalAddr,
        len: u64,
    ) -> Result<Extent, Error> {
        let extent = self.map(inner, LogicalAddr::new(inner_at))?;
        if extent.len == 0 {
            return Err(Error::PastEnd { nid: inode.nid, at });
        }
        Ok(Extent { start: at, len: extent.len.min(len), kind: extent.kind })
    }

    /// Turns an extent of a compressed file into what can be read, from `at` on.
    fn map_zextent(&self, inode: &Inode, extent: ZExtent, at: LogicalAddr) -> Result<Extent, Error> {
        let fault = |fault| Error::Map { nid: inode.nid, fault };
        let ZExtent { start, end, kind } = extent;
        let (skip, len, decoded) = (at.get() - start, end - at.get(), end - start);
        match kind {
            ZKind::Hole => Ok(Extent { start: at, len, kind: ExtentKind::Hole }),
            ZKind::Fragment(offset) => {
                let packed = self.packed.as_ref().filter(|packed| packed.nid != inode.nid);
                let packed = packed.ok_or(fault(MapFault::NoPacked))?;
                let inner = offset
                    .checked_add(skip)
                    .filter(|_| offset.checked_add(decoded).is_some_and(|end| end <= packed.size));
                let inner = inner.ok_or(fault(MapFault::FragmentOutside { offset }))?;
                self.map_inner(inode, packed, inner, at, len)
            }
            ZKind::Plain { len: encoded, .. } if encoded < decoded => {
                Err(fault(MapFault::PlainTooShort { encoded, decoded }))
            }
            ZKind::Plain { place, len: encoded, rotated } => {
                let (offset, piece) =
                    if rotated { self.rotate(start, encoded, skip) } else { (skip, u64::MAX) };
                self.map_zplace(inode, place, offset, at, len.min(piece))
            }
            ZKind::Encoded { .. } if decoded > EXTENT_BYTES_MAX => {
                Err(fault(MapFault::Sizes { encoded: 0, decoded }))
            }
            ZKind::Encoded { place, len: encoded, codec } => {
                let sizes = MapFault::Sizes { encoded, decoded };
                if encoded > PCLUSTER_BYTES_MAX {
                    return Err(fault(sizes));
                }
                let narrow = |number| u32::try_from(number).map_err(|_| fault(sizes));
                let kind = ExtentKind::Encoded(Encoded {
                    place: self.encoded_place(inode, place, at, encoded)?,
                    len: narrow(encoded)?,
                    codec,
                    skip: narrow(skip)?,
                    decoded: narrow(decoded)?,
                });
                Ok(Extent { start: at, len, kind })
            }
        }
    }

    /// In a rotated pcluster every byte keeps its place in the block: the first ones stand at its end.
    ///
    /// Returns where in the pcluster decoded byte `skip` stands, and how many follow it there.
    fn rotate(&self, start: u64, encoded: u64, skip: u64) -> (u64, u64) {
        let block = self.superblock.block_size;
        let head = (block.bytes() - block.offset(start)).min(encoded);
        if skip < head { (encoded - head + skip, head - skip) } else { (skip - head, u64::MAX) }
    }

    /// Maps plain bytes of a pcluster.
    fn map_zplace(
        &self,
        inode: &Inode,
        place: ZPlace,
        offset: u64,
        at: LogicalAddr,
        len: u64,
    ) -> Result<Extent, Error> {
        let overflow = Error::AddressOverflow { nid: inode.nid, at };
        match place {
            ZPlace::Unified(pa) => {
                let pa = pa.checked_add(offset).ok_or(overflow)?;
                self.resolve_device(inode, DeviceId::PRIMARY, PhysicalAddr::new(pa), at, len)
            }
            ZPlace::Inline(place) => {
                let place = place.checked_add(offset).ok_or(overflow)?;
                self.map_meta(inode, place, at, len)
            }
        }
    }

    /// Where an encoded pcluster stands: it is never spread over two devices.
    fn encoded_place(&self, inode: &Inode, place: ZPlace, at: LogicalAddr, len: u64) -> Result<Place, Error> {
        let pa = match place {
            ZPlace::Inline(MetaAddr::Metabox(at)) => return Ok(Place::Metabox { at }),
            ZPlace::Inline(MetaAddr::Primary(pa)) => {
                return Ok(Place::Device { device: DeviceId::PRIMARY, pa: PhysicalAddr::new(pa) });
            }
            ZPlace::Unified(pa) => PhysicalAddr::new(pa),
        };
        let extent = self.resolve_device(inode, DeviceId::PRIMARY, pa, at, len)?;
        Ok(match extent.kind {
            ExtentKind::Device { device, pa } => Place::Device { device, pa },
            _ => Place::Device { device: DeviceId::PRIMARY, pa },
        })
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
        let table = inode.body_end().and_then(|end| end.align_up(size as u64));
        let offset = first.checked_mul(size as u64).ok_or_else(overflow)?;
        let start = table.and_then(|table| table.checked_add(offset)).ok_or_else(overflow)?;

        let mut buffer = [0; ENTRIES_AT_ONCE * 8];
        let entries = usize::try_from(count).map_or(ENTRIES_AT_ONCE, |count| count.min(ENTRIES_AT_ONCE));
        let bytes = &mut buffer[..entries * size];
        self.read_meta(start, bytes)?;

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
    pub(super) fn resolve_device(
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
