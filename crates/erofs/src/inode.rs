//! [`Inode`]: 32 bytes (compact) or 64 (extended) on disk.

use zerocopy::little_endian::{I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::addr::MetaAddr;
use crate::{ChunkFormat, Error, FileType, Nid, Rdev, Superblock, Timestamp};

/// Inodes stand on multiples of this.
pub(crate) const SLOT_BYTES: u64 = 32;
/// Size of an xattr body's header.
pub(crate) const XATTR_HEADER_BYTES: usize = 12;

const EXTENDED: u16 = 1;
const NLINK_1_OR_DOT_OMITTED: u16 = 1 << 4;
const KNOWN_FORMAT: u16 = 0x1f;

/// A compact inode as it stands on disk.
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawCompact {
    pub format: U16,
    pub xattr_icount: U16,
    pub mode: U16,
    pub nb: U16,
    pub size: U32,
    pub mtime: U32,
    pub u: U32,
    pub ino: U32,
    pub uid: U16,
    pub gid: U16,
    pub reserved: U32,
}

/// An extended inode as it stands on disk.
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawExtended {
    pub format: U16,
    pub xattr_icount: U16,
    pub mode: U16,
    pub nb: U16,
    pub size: U64,
    pub u: U32,
    pub ino: U32,
    pub uid: U32,
    pub gid: U32,
    pub mtime: I64,
    pub mtime_nsec: U32,
    pub nlink: U32,
    pub reserved: [u8; 16],
}

/// How the contents of an inode are stored: bits 1 to 3 of `i_format`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Layout {
    /// One run of blocks.
    FlatPlain,
    /// Compressed, with full indexes or extent records.
    CompressedFull,
    /// One run of blocks, the last one behind the inode.
    FlatInline,
    /// Compressed, with compact indexes.
    CompressedCompact,
    /// A table of chunks.
    ChunkBased,
}

impl Layout {
    fn from_number(number: u16) -> Option<Self> {
        [Self::FlatPlain, Self::CompressedFull, Self::FlatInline, Self::CompressedCompact, Self::ChunkBased]
            .get(usize::from(number))
            .copied()
    }

    /// The number on disk.
    pub fn number(self) -> u16 {
        match self {
            Self::FlatPlain => 0,
            Self::CompressedFull => 1,
            Self::FlatInline => 2,
            Self::CompressedCompact => 3,
            Self::ChunkBased => 4,
        }
    }

    /// The format word of an inode with this layout.
    pub(crate) fn format(self, extended: bool) -> u16 {
        self.number() << 1 | if extended { EXTENDED } else { 0 }
    }
}

/// Where the contents lie, decoded from `i_u` and its high half.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Data {
    /// Flat: first block, or `None` for a hole of the whole file.
    Flat(Option<u64>),
    /// Chunk table behind the xattr body.
    Chunks(ChunkFormat),
    /// Compressed: a map header and indexes behind the xattr body.
    Encoded,
    /// No contents at all.
    Nothing,
}

/// One file, directory or other object of an image.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Inode {
    /// Node number, which is what the kernel reports as inode number.
    pub nid: Nid,
    /// What it is.
    pub kind: FileType,
    /// Permission bits, with setuid, setgid and sticky.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Number of links.
    pub nlink: u32,
    /// Length of the contents in bytes; at most 2^63 - 1.
    pub size: u64,
    /// Modification time; the format has no other.
    pub mtime: Timestamp,
    /// Device number; zero for what is no device.
    pub rdev: Rdev,
    /// How the contents are stored.
    pub layout: Layout,
    /// Whether it has the long form of 64 bytes, not the short one of 32.
    pub extended: bool,
    /// Blocks that the pclusters of a compressed inode are said to take, for `st_blocks`; 0 for other layouts.
    pub encoded_blocks: u64,
    /// Length of its xattr body in bytes, shared entries not counted.
    pub xattr_bytes: u32,
    pub(crate) data: Data,
    /// Directory without a `.` entry (since 6.15).
    pub(crate) dot_omitted: bool,
    /// First byte after the inode itself: its xattr body.
    pub(crate) xattrs_at: MetaAddr,
}

impl Inode {
    /// Permission bits together with the bits of the file type: `st_mode`.
    pub fn st_mode(&self) -> u32 {
        u32::from(self.kind.mode_bits() | self.mode)
    }

    /// First byte after inode and xattr body: table or inline tail.
    pub(crate) fn body_end(&self) -> Option<MetaAddr> {
        self.xattrs_at.checked_add(u64::from(self.xattr_bytes))
    }

    /// Where inode `nid` stands.
    pub(crate) fn address(nid: Nid, superblock: &Superblock) -> Result<MetaAddr, Error> {
        let offset = nid.slot().checked_mul(SLOT_BYTES);
        let at = match (nid.in_metabox(), superblock.metabox) {
            (true, None) => return Err(Error::InMetabox { nid }),
            (true, Some(_)) => offset.map(MetaAddr::Metabox),
            (false, _) => {
                offset.and_then(|offset| superblock.inode_space.checked_add(offset)).map(MetaAddr::Primary)
            }
        };
        at.ok_or(Error::NidOverflow { nid })
    }

    /// Decodes the inode at `at`; `bytes` holds 64 bytes, of which a compact inode needs 32.
    ///
    /// Source of truth: `erofs_read_inode()`, fs/erofs/inode.c (v7.3).
    pub(crate) fn decode(
        nid: Nid,
        at: MetaAddr,
        bytes: &[u8; 64],
        superblock: &Superblock,
    ) -> Result<Self, Error> {
        let format = u16::from_le_bytes([bytes[0], bytes[1]]);
        if format & !KNOWN_FORMAT != 0 {
            return Err(Error::InodeFormat { nid, found: format });
        }
        let layout =
            Layout::from_number(format >> 1 & 7).ok_or(Error::DataLayout { nid, found: format >> 1 & 7 })?;
        let fields = if format & EXTENDED != 0 {
            Fields::extended(&zerocopy::transmute!(*bytes))
        } else {
            let [compact, _]: [[u8; 32]; 2] = zerocopy::transmute!(*bytes);
            Fields::compact(&zerocopy::transmute!(compact), superblock.epoch)
        };
        let kind = FileType::from_mode(fields.mode).ok_or(Error::Mode { nid, found: fields.mode })?;
        if fields.size > i64::MAX.unsigned_abs() {
            return Err(Error::FileSize { nid, found: fields.size });
        }
        let directory = kind == FileType::Directory;
        let flag = format & NLINK_1_OR_DOT_OMITTED != 0;
        let short = format & EXTENDED == 0 && (directory || !flag);
        let nlink = match (format & EXTENDED != 0, short) {
            (true, _) => fields.nlink,
            (false, true) => u32::from(fields.nb),
            (false, false) => 1,
        };
        let xattr_bytes = match fields.xattr_icount {
            0 => 0,
            1 => return Err(Error::XattrCount { nid }),
            count => u32::from(count) * 4 + 8,
        };
        let header = if format & EXTENDED != 0 { 64 } else { 32 };
        Ok(Self {
            nid,
            kind,
            mode: fields.mode & 0o7777,
            uid: fields.uid,
            gid: fields.gid,
            nlink,
            size: fields.size,
            mtime: fields.mtime,
            rdev: Rdev::from_encoded(if kind.is_device() { fields.u } else { 0 }),
            layout,
            extended: format & EXTENDED != 0,
            encoded_blocks: fields.encoded_blocks(layout, short),
            data: fields.data(nid, kind, layout, short)?,
            dot_omitted: directory && flag,
            xattrs_at: at.checked_add(header).ok_or(Error::NidOverflow { nid })?,
            xattr_bytes,
        })
    }
}

/// What both forms say, before it is interpreted.
struct Fields {
    xattr_icount: u16,
    mode: u16,
    nb: u16,
    size: u64,
    u: u32,
    uid: u32,
    gid: u32,
    mtime: Timestamp,
    nlink: u32,
}

impl Fields {
    /// Compact times are read relative to the epoch, as the kernel does since 6.15.
    fn compact(raw: &RawCompact, epoch: Timestamp) -> Self {
        let seconds = epoch.seconds.wrapping_add(i64::from(raw.mtime.get()));
        Self {
            xattr_icount: raw.xattr_icount.get(),
            mode: raw.mode.get(),
            nb: raw.nb.get(),
            size: raw.size.get().into(),
            u: raw.u.get(),
            uid: raw.uid.get().into(),
            gid: raw.gid.get().into(),
            mtime: Timestamp::new(seconds, epoch.nanoseconds),
            nlink: 0,
        }
    }

    fn extended(raw: &RawExtended) -> Self {
        Self {
            xattr_icount: raw.xattr_icount.get(),
            mode: raw.mode.get(),
            nb: raw.nb.get(),
            size: raw.size.get(),
            u: raw.u.get(),
            uid: raw.uid.get(),
            gid: raw.gid.get(),
            mtime: Timestamp::new(raw.mtime.get(), raw.mtime_nsec.get()),
            nlink: raw.nlink.get(),
        }
    }

    /// Reads `i_u` of a compressed inode.
    fn encoded_blocks(&self, layout: Layout, short: bool) -> u64 {
        match layout {
            Layout::CompressedFull | Layout::CompressedCompact if short => u64::from(self.u),
            Layout::CompressedFull | Layout::CompressedCompact => {
                u64::from(self.nb) << 32 | u64::from(self.u)
            }
            _ => 0,
        }
    }

    /// Reads `i_u`: `short` inodes have no high half, because it holds their link count.
    fn data(&self, nid: Nid, kind: FileType, layout: Layout, short: bool) -> Result<Data, Error> {
        if !kind.has_data() {
            return Ok(Data::Nothing);
        }
        match layout {
            Layout::CompressedFull | Layout::CompressedCompact => Ok(Data::Encoded),
            Layout::ChunkBased => {
                let word = u16::try_from(self.u & 0xffff).unwrap_or(u16::MAX);
                let format = ChunkFormat::decode(word).ok_or(Error::ChunkFormat { nid, found: word })?;
                Ok(Data::Chunks(format))
            }
            Layout::FlatPlain | Layout::FlatInline => {
                let (block, hole) = if short {
                    (u64::from(self.u), u64::from(u32::MAX))
                } else {
                    (u64::from(self.nb) << 32 | u64::from(self.u), (1 << 48) - 1)
                };
                Ok(Data::Flat((block != hole).then_some(block)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_have_their_size_on_disk() {
        assert_eq!((size_of::<RawCompact>(), size_of::<RawExtended>()), (32, 64));
        assert_eq!(std::mem::offset_of!(RawCompact, u), 16);
        assert_eq!(std::mem::offset_of!(RawExtended, u), 16);
        assert_eq!(std::mem::offset_of!(RawExtended, nlink), 44);
    }

    #[test]
    fn the_hole_mark_has_32_bits_in_short_inodes_and_48_in_the_others() {
        let fields = |nb| Fields {
            xattr_icount: 0,
            mode: 0,
            nb,
            size: 0,
            u: u32::MAX,
            uid: 0,
            gid: 0,
            mtime: Timestamp::default(),
            nlink: 1,
        };
        let data = |nb, short| {
            fields(nb).data(Nid::new(1), FileType::Regular, Layout::FlatPlain, short).expect("flat")
        };
        assert_eq!(data(1, true), Data::Flat(None));
        assert_eq!(data(0, false), Data::Flat(Some(u64::from(u32::MAX))));
        assert_eq!(data(u16::MAX, false), Data::Flat(None));
    }
}
