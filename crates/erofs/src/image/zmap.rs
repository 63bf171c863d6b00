//! [`ZMap`]: from a place in a compressed file to the pcluster that holds it.

use super::Image;
use super::stored::{StoredEnd, StoredExtent, StoredFile};
use crate::addr::MetaAddr;
use crate::zmap::{
    Advise, CompactTable, ENTRY_BYTES, Entry, HEADER_BYTES, Head, HeadKind, Map, MapFault, MapHeader, Record,
    RecordForm, full_entry,
};
use crate::{Codec, Error, Incompat, Inode, Layout};

/// Index bytes read at once; a power of two that no entry, pack or record straddles.
const WINDOW_BYTES: usize = 512;
/// Most index entries looked at to find one extent: what the longest one spans in the smallest lclusters, twice.
const STEPS_MAX: u32 = 49_152;

/// An extent of a compressed file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct ZExtent {
    /// First byte in the file.
    pub start: u64,
    /// End in the file, at most its size.
    pub end: u64,
    pub kind: ZKind,
}

/// How an extent is stored.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum ZKind {
    Hole,
    /// At this offset of the packed inode.
    Fragment(u64),
    /// As it is, in a pcluster of `len` bytes; `rotated` by its place in the block.
    Plain {
        place: ZPlace,
        len: u64,
        rotated: bool,
    },
    /// Encoded, in a pcluster of `len` bytes.
    Encoded {
        place: ZPlace,
        len: u64,
        codec: Codec,
    },
}

/// Where a pcluster stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum ZPlace {
    /// At a byte address of the unified space.
    Unified(u64),
    /// Among the metadata: the inline pcluster of a tail.
    Inline(MetaAddr),
}

/// The index of one compressed file, with the part of it that was read last.
pub(super) struct ZMap<'a> {
    image: &'a Image,
    inode: &'a Inode,
    header: MapHeader,
    /// First byte behind the header.
    index: MetaAddr,
    window: [u8; WINDOW_BYTES],
    /// Address and length of what `window` holds.
    window_at: u64,
    window_len: usize,
    /// A record whose address was found by adding up lengths, and that address.
    summed: Option<(u64, u64)>,
}

impl<'a> ZMap<'a> {
    /// Reads the map header of `inode`, which is compressed.
    pub fn open(image: &'a Image, inode: &'a Inode) -> Result<Self, Error> {
        let fault = |fault| Error::Map { nid: inode.nid, fault };
        let at =
            inode.body_end().and_then(|end| end.align_up(HEADER_BYTES)).ok_or(fault(MapFault::Overflow))?;
        let index = at.checked_add(HEADER_BYTES).ok_or(fault(MapFault::Overflow))?;
        let mut bytes = [0; 8];
        image.read_meta(at, &mut bytes)?;
        let superblock = image.superblock();
        let header = MapHeader::decode(
            bytes,
            inode.layout,
            superblock.block_size.bits(),
            superblock.incompat.contains(Incompat::COMPR_CFGS),
            superblock.incompat.contains(Incompat::BITS_48),
        );
        let header = header.map_err(fault)?;
        Ok(Self {
            image,
            inode,
            header,
            index,
            window: [0; WINDOW_BYTES],
            window_at: 0,
            window_len: 0,
            summed: None,
        })
    }

    /// Finds the extent that holds byte `at` of the file, which is below its size.
    pub fn extent(&mut self, at: u64) -> Result<ZExtent, Error> {
        let map = match self.header {
            MapHeader::Fragment { offset } => {
                return Ok(ZExtent { start: 0, end: self.inode.size, kind: ZKind::Fragment(offset) });
            }
            MapHeader::Map(map) => map,
        };
        if map.extents { self.recorded(&map, at) } else { self.indexed(&map, at) }
    }

    /// Finds an extent through the lcluster indexes.
    ///
    /// Source of truth: `z_erofs_map_blocks_fo()`, fs/erofs/zmap.c (v7.3).
    fn indexed(&mut self, map: &Map, at: u64) -> Result<ZExtent, Error> {
        let size = self.inode.size;
        let (head_lcn, head) = self.head(map, at)?;
        let end = self.next_head(map, head_lcn)?;
        if end <= at {
            return Err(self.fault(MapFault::Distances { lcn: at >> map.lcluster_bits }));
        }
        let start = (head_lcn << map.lcluster_bits) + u64::from(head.offset);
        if end == size && map.advise.contains(Advise::FRAGMENT_PCLUSTER) {
            // A tail that begins in the first lcluster is the whole file.
            let start = if head_lcn == 0 { 0 } else { start };
            let high = if self.inode.layout == Layout::CompressedFull { head.block << 32 } else { 0 };
            return Ok(ZExtent { start, end, kind: ZKind::Fragment(high | u64::from(map.fragment_offset)) });
        }
        if end == size && map.advise.contains(Advise::INLINE_PCLUSTER) {
            let place = ZPlace::Inline(self.inline_place(map)?);
            let kind = self.stored(map, head.kind, place, map.inline_bytes.into(), false)?;
            return Ok(ZExtent { start, end, kind });
        }
        let blocks = self.blocks(map, head_lcn, head.kind)?;
        if head.hole || blocks == 0 {
            return Ok(ZExtent { start, end, kind: ZKind::Hole });
        }
        let block_size = self.image.superblock().block_size;
        let place = block_size.address(head.block).ok_or_else(|| self.fault(MapFault::Overflow))?;
        let rotated = map.advise.contains(Advise::INTERLACED_PCLUSTER);
        let len = u64::from(blocks) * block_size.bytes();
        let kind = self.stored(map, head.kind, ZPlace::Unified(place.get()), len, rotated)?;
        Ok(ZExtent { start, end, kind })
    }

    /// Reads all of the index, as [`Image::stored_file`] says.
    pub fn whole(&mut self) -> Result<Option<StoredFile>, Error> {
        let size = self.inode.size;
        let map = match self.header {
            MapHeader::Fragment { offset } => {
                let end = StoredEnd::Fragment { len: size, offset };
                return Ok(Some(StoredFile { codec: None, interlaced: false, extents: Vec::new(), end }));
            }
            MapHeader::Map(map) => map,
        };
        if map.extents || map.lcluster_bits != self.image.superblock().block_size.bits() {
            return Ok(None);
        }
        let codec = self.listed(map.codec(0).map_err(|fault| self.fault(fault))?)?;
        let interlaced = map.advise.contains(Advise::INTERLACED_PCLUSTER);
        let mut file =
            StoredFile { codec: Some(codec), interlaced, extents: Vec::new(), end: StoredEnd::None };
        let mut at = 0;
        while at < size {
            let (head_lcn, head) = self.head(&map, at)?;
            let end = self.next_head(&map, head_lcn)?;
            // A tail in the packed inode that begins in the first lcluster is the whole file, wherever it says it begins.
            let whole = end == size && head_lcn == 0 && map.advise.contains(Advise::FRAGMENT_PCLUSTER);
            if (head_lcn << map.lcluster_bits) + u64::from(head.offset) != at && !whole || end <= at {
                return Err(self.fault(MapFault::Distances { lcn: head_lcn }));
            }
            let (len, plain) = (end - at, head.kind == HeadKind::Plain);
            let last = self.indexed(&map, at)?;
            match last.kind {
                _ if head.kind == HeadKind::Head2 => return Ok(None),
                ZKind::Fragment(offset) => file.end = StoredEnd::Fragment { len, offset },
                ZKind::Plain { place: ZPlace::Inline(place), len: bytes, .. }
                | ZKind::Encoded { place: ZPlace::Inline(place), len: bytes, .. } => {
                    // The length has 16 bits.
                    let mut inline = vec![0; usize::try_from(bytes).unwrap_or(0)];
                    self.image.read_meta(place, &mut inline)?;
                    file.end = StoredEnd::Inline { len, plain, bytes: inline };
                }
                _ => {
                    let blocks = self.blocks(&map, head_lcn, head.kind)?;
                    if blocks == 0 {
                        return Ok(None);
                    }
                    let Head { block, hole, partial, .. } = head;
                    file.extents.push(StoredExtent { len, block, blocks, plain, hole, partial });
                }
            }
            at = end;
        }
        Ok(Some(file))
    }

    /// Goes back from `at` to where its extent begins.
    fn head(&mut self, map: &Map, at: u64) -> Result<(u64, Head), Error> {
        let mut lcn = at >> map.lcluster_bits;
        for _ in 0..STEPS_MAX {
            let back = match self.entry(map, lcn)? {
                Entry::Head(head) if (lcn << map.lcluster_bits) + u64::from(head.offset) <= at => {
                    return Ok((lcn, head));
                }
                Entry::Head(_) => 1,
                Entry::Next { back, .. } => u64::from(back),
            };
            match lcn.checked_sub(back) {
                Some(before) if back > 0 => lcn = before,
                _ => return Err(self.fault(MapFault::NoHead { lcn })),
            }
        }
        Err(self.fault(MapFault::TooFar { lcn }))
    }

    /// Goes forward to where the extent that begins in `head_lcn` ends.
    fn next_head(&mut self, map: &Map, head_lcn: u64) -> Result<u64, Error> {
        let size = self.inode.size;
        // Sizes are below 2^63: an lcluster number plus 16 bits does not overflow.
        let mut lcn = head_lcn + 1;
        for _ in 0..STEPS_MAX {
            if lcn > (size - 1) >> map.lcluster_bits {
                return Ok(size);
            }
            match self.entry(map, lcn)? {
                Entry::Head(head) => {
                    return Ok(size.min((lcn << map.lcluster_bits) + u64::from(head.offset)));
                }
                Entry::Next { ahead, .. } => lcn += u64::from(ahead.unwrap_or(1).max(1)),
            }
        }
        Err(self.fault(MapFault::TooFar { lcn: head_lcn }))
    }

    /// Size of a pcluster in blocks: it stands in the entry after its head, if that holds one.
    fn blocks(&mut self, map: &Map, head_lcn: u64, kind: HeadKind) -> Result<u32, Error> {
        let flag = match kind {
            HeadKind::Head1 => Advise::BIG_PCLUSTER_1,
            HeadKind::Head2 | HeadKind::Plain => Advise::BIG_PCLUSTER_2,
        };
        if !map.advise.contains(flag) || head_lcn + 1 > (self.inode.size - 1) >> map.lcluster_bits {
            return Ok(1);
        }
        match self.entry(map, head_lcn + 1)? {
            Entry::Next { blocks: Some(blocks), .. } => Ok(blocks),
            _ => Ok(1),
        }
    }

    /// Where the inline pcluster stands: behind the entry or pack of the last lcluster.
    fn inline_place(&mut self, map: &Map) -> Result<MetaAddr, Error> {
        let overflow = self.fault(MapFault::Overflow);
        let last = (self.inode.size - 1) >> map.lcluster_bits;
        let end = if self.inode.layout == Layout::CompressedFull {
            let place =
                self.full_table().and_then(|table| table.checked_add((last + 1).checked_mul(ENTRY_BYTES)?));
            place.ok_or(overflow)?
        } else {
            let pack = self.compact_table(map)?.pack(last);
            pack.and_then(|pack| pack.at.checked_add(pack.bytes)).ok_or(overflow)?
        };
        let block_size = self.image.superblock().block_size;
        if block_size.offset(end) + u64::from(map.inline_bytes) > block_size.bytes() {
            return Err(self.fault(MapFault::InlineCrossesBlock));
        }
        Ok(self.index.with(end))
    }

    /// Reads the index entry of an lcluster.
    fn entry(&mut self, map: &Map, lcn: u64) -> Result<Entry, Error> {
        let overflow = self.fault(MapFault::Overflow);
        let big = map.has_big_pclusters();
        let entry = if self.inode.layout == Layout::CompressedFull {
            let at = self.full_table().and_then(|table| table.checked_add(lcn.checked_mul(ENTRY_BYTES)?));
            let bytes = self.bytes(at.ok_or(overflow)?, ENTRY_BYTES)?;
            let entry = bytes.try_into().map(full_entry).map_err(|_| overflow_of(self.inode))?;
            match entry {
                Entry::Next { blocks: Some(_), .. } if !big => {
                    return Err(self.fault(MapFault::BlockCount { lcn }));
                }
                entry => entry,
            }
        } else {
            let table = self.compact_table(map)?;
            let pack = table.pack(lcn).ok_or(overflow)?;
            let nid = self.inode.nid;
            let bytes = self.bytes(pack.at, pack.bytes)?;
            table.entry(lcn, pack, bytes, big).map_err(|fault| Error::Map { nid, fault })?
        };
        match entry {
            Entry::Head(head) if u64::from(head.offset) >> map.lcluster_bits != 0 => {
                Err(self.fault(MapFault::ClusterOffset { lcn, offset: head.offset }))
            }
            entry => Ok(entry),
        }
    }

    /// Full indexes leave eight bytes free behind the header.
    fn full_table(&self) -> Option<u64> {
        self.index.get().checked_add(ENTRY_BYTES)
    }

    fn compact_table(&self, map: &Map) -> Result<CompactTable, Error> {
        // The kernel counts blocks here, not lclusters; writers make both the same.
        let entries = self.image.superblock().block_size.blocks(self.inode.size);
        let narrow = map.advise.contains(Advise::COMPACTED_2B_OR_EXTENTS);
        CompactTable::new(self.index.get(), entries, map.lcluster_bits, narrow)
            .map_err(|fault| self.fault(fault))
    }

    /// Finds an extent through extent records.
    ///
    /// Source of truth: `z_erofs_map_blocks_ext()`, fs/erofs/zmap.c (v7.3).
    fn recorded(&mut self, map: &Map, at: u64) -> Result<ZExtent, Error> {
        let form = RecordForm::from_bits(map.record_bits());
        let (record, start, end, last) = if form.is_uniform() {
            self.uniform_record(map, form, at)?
        } else {
            self.positioned_record(map, form, at)?
        };
        if last && map.advise.contains(Advise::FRAGMENT_PCLUSTER) {
            return Ok(ZExtent { start, end, kind: ZKind::Fragment(record.fragment_offset()) });
        }
        if record.len() == 0 {
            return Ok(ZExtent { start, end, kind: ZKind::Hole });
        }
        let place = ZPlace::Unified(record.place);
        let kind = match record.codec().map_err(|fault| self.fault(fault))? {
            Some(codec) => ZKind::Encoded { place, len: record.len(), codec: self.listed(codec)? },
            None => {
                let block_size = self.image.superblock().block_size;
                let aligned = block_size.offset(record.place | record.len()) == 0;
                let rotated = aligned && map.advise.contains(Advise::INTERLACED_PCLUSTER);
                ZKind::Plain { place, len: record.len(), rotated }
            }
        };
        Ok(ZExtent { start, end, kind })
    }

    /// Reads a record by its number; in the shortest form its address is the sum of what is before.
    fn uniform_record(
        &mut self,
        map: &Map,
        form: RecordForm,
        at: u64,
    ) -> Result<(Record, u64, u64, bool), Error> {
        let (number, last) = (at >> map.lcluster_bits, (self.inode.size - 1) >> map.lcluster_bits);
        let overflow = || Error::Map { nid: self.inode.nid, fault: MapFault::Overflow };
        let table = self.index.align_up(form.bytes()).ok_or_else(overflow)?.get();
        let record = if form == RecordForm::Length {
            let first = table.checked_add(8).ok_or_else(overflow)?;
            let start = self.bytes(table, 8)?.try_into().map_or(0, u64::from_le_bytes);
            self.chained_record(first, start, number)?
        } else {
            self.record(table, form, number)?
        };
        let start = number << map.lcluster_bits;
        let end = if number == last { self.inode.size } else { start + (1 << map.lcluster_bits) };
        Ok((record, start, end, number == last))
    }

    /// Adds up the lengths before record `number`, whose table begins at `first`.
    fn chained_record(&mut self, first: u64, start: u64, number: u64) -> Result<Record, Error> {
        let form = RecordForm::Length;
        let (known, mut place) = match self.summed {
            Some((known, place)) if known <= number => (known, place),
            _ => (0, start),
        };
        for before in known..number {
            let len = self.record(first, form, before)?.len();
            place = place.checked_add(len).ok_or_else(|| self.fault(MapFault::Overflow))?;
        }
        self.summed = Some((number, place));
        let mut record = self.record(first, form, number)?;
        record.place = place;
        Ok(record)
    }

    /// Finds the last record whose position is not past `at`, by binary search.
    fn positioned_record(
        &mut self,
        map: &Map,
        form: RecordForm,
        at: u64,
    ) -> Result<(Record, u64, u64, bool), Error> {
        let overflow = || Error::Map { nid: self.inode.nid, fault: MapFault::Overflow };
        let table = self.index.align_up(form.bytes()).ok_or_else(overflow)?.get();
        let (mut low, mut high) = (0, map.records);
        let mut end = self.inode.size;
        let mut found: Option<Record> = None;
        while low < high {
            let middle = low + (high - low) / 2;
            let record = self.record(table, form, middle)?;
            let floor = found.map_or(0, |record| record.position);
            if record.position > end || record.position < floor {
                return Err(self.fault(MapFault::RecordOrder { index: middle }));
            }
            if record.position > at {
                (high, end) = (middle, record.position);
            } else {
                (low, found) = (middle + 1, Some(record));
            }
        }
        let record = found.ok_or_else(|| self.fault(MapFault::NoHead { lcn: 0 }))?;
        Ok((record, record.position, end, low == map.records))
    }

    fn record(&mut self, table: u64, form: RecordForm, number: u64) -> Result<Record, Error> {
        let at = number.checked_mul(form.bytes()).and_then(|offset| table.checked_add(offset));
        let at = at.ok_or_else(|| self.fault(MapFault::Overflow))?;
        let record = Record::decode(self.bytes(at, form.bytes())?);
        record.ok_or_else(|| self.fault(MapFault::Overflow))
    }

    /// The kind of an extent with this head.
    fn stored(
        &self,
        map: &Map,
        kind: HeadKind,
        place: ZPlace,
        len: u64,
        rotated: bool,
    ) -> Result<ZKind, Error> {
        let head = match kind {
            HeadKind::Plain => return Ok(ZKind::Plain { place, len, rotated }),
            HeadKind::Head1 => 0,
            HeadKind::Head2 => 1,
        };
        let codec = map.codec(head).map_err(|fault| self.fault(fault))?;
        Ok(ZKind::Encoded { place, len, codec: self.listed(codec)? })
    }

    /// Checks that the superblock lists `codec`.
    fn listed(&self, codec: Codec) -> Result<Codec, Error> {
        if self.image.superblock().codecs.has(codec) {
            Ok(codec)
        } else {
            Err(self.fault(MapFault::UnlistedCodec { codec }))
        }
    }

    /// Bytes of the index, through the window. `len` is a power of two, and `at` a multiple of it or of eight.
    fn bytes(&mut self, at: u64, len: u64) -> Result<&[u8], Error> {
        let end = at.checked_add(len).ok_or_else(|| self.fault(MapFault::Overflow))?;
        if at < self.window_at || end > self.window_at + self.window_len as u64 {
            self.fill_window(at, end)?;
        }
        let start = usize::try_from(at - self.window_at).unwrap_or(usize::MAX);
        let bytes = usize::try_from(len).ok().and_then(|len| self.window.get(start..start.checked_add(len)?));
        bytes.ok_or_else(|| overflow_of(self.inode))
    }

    /// Reads the aligned piece around `at`, as far as it lies within index and source.
    fn fill_window(&mut self, at: u64, end: u64) -> Result<(), Error> {
        let piece = at & !(WINDOW_BYTES as u64 - 1);
        let start = piece.max(self.index.get()).min(at);
        let piece_end = piece.saturating_add(WINDOW_BYTES as u64);
        let end = end.max(piece_end.min(self.image.meta_len(self.index)));
        let len = usize::try_from(end - start).map_or(WINDOW_BYTES, |len| len.min(WINDOW_BYTES));
        self.window_len = 0;
        self.image.read_meta(self.index.with(start), &mut self.window[..len])?;
        (self.window_at, self.window_len) = (start, len);
        Ok(())
    }

    fn fault(&self, fault: MapFault) -> Error {
        Error::Map { nid: self.inode.nid, fault }
    }
}

fn overflow_of(inode: &Inode) -> Error {
    Error::Map { nid: inode.nid, fault: MapFault::Overflow }
}
