//! [`Superblock`]: 128 bytes at byte 1024, and the checks a mount begins with.

use zerocopy::little_endian::{I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::codec::CodecConfigs;
use crate::source::read_primary;
use crate::{BlockSize, Codec, Compat, Error, Incompat, MetaSource, Nid, PhysicalAddr, Timestamp};

/// Where the superblock lies, whatever the block size.
pub(crate) const SUPERBLOCK_AT: usize = 1024;
/// Size of the part every image has.
pub(crate) const SUPERBLOCK_BYTES: usize = size_of::<RawSuperblock>();
const MAGIC: u32 = 0xE0F5_E1E2;
/// The superblock must end within the first page.
const PAGE_BYTES: u64 = 4096;
/// Size of an extension slot behind the superblock.
pub(crate) const EXTENSION_BYTES: usize = 16;

/// The superblock as it stands on disk.
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawSuperblock {
    pub magic: U32,
    pub checksum: U32,
    pub feature_compat: U32,
    pub blkszbits: u8,
    pub sb_extslots: u8,
    pub rootnid_2b: U16,
    pub inos: U64,
    pub epoch: I64,
    pub fixed_nsec: U32,
    pub blocks_lo: U32,
    pub meta_blkaddr: U32,
    pub xattr_blkaddr: U32,
    pub uuid: [u8; 16],
    pub volume_name: [u8; 16],
    pub feature_incompat: U32,
    pub available_compr_algs: U16,
    pub extra_devices: U16,
    pub devt_slotoff: U16,
    pub dirblkbits: u8,
    pub xattr_prefix_count: u8,
    pub xattr_prefix_start: U32,
    pub packed_nid: U64,
    pub xattr_filter_reserved: u8,
    pub ishare_xattr_prefix_id: u8,
    pub reserved: [u8; 2],
    pub build_time: U32,
    pub rootnid_8b: U64,
    pub reserved2: [u8; 8],
}

impl RawSuperblock {
    /// A superblock of zeros but for the magic number.
    pub(crate) fn blank() -> Self {
        let zeros = [0_u8; SUPERBLOCK_BYTES];
        let mut raw: Self = zerocopy::transmute!(zeros);
        raw.magic = MAGIC.into();
        raw
    }
}

/// How many bytes from the superblock's start the checksum covers.
pub(crate) fn checksum_bytes(block: BlockSize) -> usize {
    let len = block.buffer_len();
    if len > SUPERBLOCK_AT { len - SUPERBLOCK_AT } else { len }
}

/// CRC-32C over `bytes` (which start at the superblock) with the checksum field taken as zero.
///
/// The kernel's `crc32c(~0, ..)` has no final inversion, the crate's has: undo it.
/// Source of truth: `erofs_superblock_csum_verify()`, fs/erofs/super.c (v7.3).
pub(crate) fn checksum(bytes: &[u8]) -> u32 {
    let (head, rest) = bytes.split_at(bytes.len().min(4));
    let crc = crc32c::crc32c_append(crc32c::crc32c(head), &[0; 4]);
    !crc32c::crc32c_append(crc, rest.get(4..).unwrap_or_default())
}

/// What the superblock says.
#[derive(Clone, Debug)]
pub struct Superblock {
    /// Size of a block, and of a directory block.
    pub block_size: BlockSize,
    /// Features that may be ignored.
    pub compat: Compat,
    /// Features that must be known; all of them are.
    pub incompat: Incompat,
    /// The root directory.
    pub root: Nid,
    /// Number of inodes, for statfs.
    pub inodes: u64,
    /// Base time of compact inodes.
    pub epoch: Timestamp,
    /// When the image was built, as seconds since 1970.
    pub build_time: i64,
    /// Blocks of the primary device.
    pub blocks: u64,
    /// Identity of the image.
    pub uuid: [u8; 16],
    /// Label; not necessarily NUL terminated.
    pub volume_name: [u8; 16],
    /// Number of entries of the device table.
    pub extra_devices: u16,
    /// Where the device table begins; means something when there are extra devices.
    pub device_table: PhysicalAddr,
    /// First byte of the inode space.
    pub inode_space: u64,
    /// First byte of the shared extended attributes.
    pub xattr_space: u64,
    /// Number of long xattr name prefixes.
    pub prefix_count: u8,
    pub(crate) prefix_start: u64,
    /// The packed inode, which holds fragments of other files.
    pub packed: Option<Nid>,
    pub(crate) filter_valid: bool,
    /// The inode that holds other inodes.
    pub metabox: Option<Nid>,
    /// Length of the superblock itself in bytes, extensions included.
    pub bytes: u64,
    /// How far back LZ4 data may refer, in bytes, in an image without codec configurations; 0 for 64 KiB.
    pub lz4_distance_max: u16,
    /// The codecs that the image lists; LZ4 alone in one without a list.
    pub listed_codecs: Vec<Codec>,
    pub(crate) codecs: CodecConfigs,
}

impl Superblock {
    /// Reads and checks the superblock in the kernel's order: `erofs_read_superblock()` (v7.3).
    ///
    /// A wrong checksum comes back beside it, for who wants to know what else is wrong; whatever would fail after it is
    /// then the checksum's error.
    pub(crate) fn read(source: &dyn MetaSource) -> Result<(Self, Option<Error>), Error> {
        let mut bytes = [0; SUPERBLOCK_BYTES];
        read_primary(source, SUPERBLOCK_AT as u64, &mut bytes)?;
        let raw: RawSuperblock = zerocopy::transmute!(bytes);
        if raw.magic.get() != MAGIC {
            return Err(Error::Magic { found: raw.magic.get() });
        }
        let block_size = BlockSize::from_bits(raw.blkszbits)?;
        if raw.dirblkbits != 0 {
            return Err(Error::DirBlockBits { found: raw.dirblkbits });
        }
        let compat = Compat::from_bits_retain(raw.feature_compat.get());
        let checksum = if compat.contains(Compat::SB_CHKSUM) {
            verify_checksum(source, block_size, raw.checksum.get())?
        } else {
            None
        };
        match Self::read_rest(source, &raw, block_size, compat) {
            Ok(superblock) => Ok((superblock, checksum)),
            Err(error) => Err(checksum.unwrap_or(error)),
        }
    }

    /// What the kernel checks after the checksum.
    fn read_rest(
        source: &dyn MetaSource,
        raw: &RawSuperblock,
        block_size: BlockSize,
        compat: Compat,
    ) -> Result<Self, Error> {
        let incompat = Incompat::from_bits_retain(raw.feature_incompat.get());
        if !(incompat - Incompat::all()).is_empty() {
            return Err(Error::UnknownFeatures { bits: (incompat - Incompat::all()).bits() });
        }
        let mut superblock = Self::decode(raw, block_size, compat, incompat)?;
        let end =
            (SUPERBLOCK_AT + SUPERBLOCK_BYTES) as u64 + EXTENSION_BYTES as u64 * u64::from(raw.sb_extslots);
        if end > PAGE_BYTES {
            return Err(Error::SuperblockSize { bytes: end - SUPERBLOCK_AT as u64 });
        }
        superblock.check_sharing(raw)?;
        superblock.metabox = superblock.read_metabox_nid(raw, source)?;
        if incompat.contains(Incompat::COMPR_CFGS) {
            superblock.codecs = CodecConfigs::read(source, end, raw.available_compr_algs.get(), block_size)?;
        }
        superblock.listed_codecs =
            Codec::ALL.into_iter().filter(|&codec| superblock.codecs.has(codec)).collect();
        superblock.check_packed()?;
        Ok(superblock)
    }

    fn decode(
        raw: &RawSuperblock,
        block_size: BlockSize,
        compat: Compat,
        incompat: Incompat,
    ) -> Result<Self, Error> {
        let space = |block: U32| u64::from(block.get()) << block_size.bits();
        let wide_root = incompat.contains(Incompat::BITS_48) && raw.rootnid_8b.get() != 0;
        let (root, blocks_hi) = if wide_root {
            (raw.rootnid_8b.get(), u64::from(raw.rootnid_2b.get()))
        } else {
            (u64::from(raw.rootnid_2b.get()), 0)
        };
        let has_packed = incompat.contains(Incompat::FRAGMENTS) && raw.packed_nid.get() != 0;
        let has_devices = incompat.contains(Incompat::DEVICE_TABLE);
        Ok(Self {
            block_size,
            compat,
            incompat,
            root: Nid::new(root),
            inodes: raw.inos.get(),
            epoch: Timestamp::new(raw.epoch.get(), raw.fixed_nsec.get()),
            build_time: raw.epoch.get().wrapping_add(i64::from(raw.build_time.get())),
            blocks: blocks_hi << 32 | u64::from(raw.blocks_lo.get()),
            uuid: raw.uuid,
            volume_name: raw.volume_name,
            extra_devices: if has_devices { raw.extra_devices.get() } else { 0 },
            device_table: PhysicalAddr::new(128 * u64::from(raw.devt_slotoff.get())),
            inode_space: space(raw.meta_blkaddr),
            xattr_space: space(raw.xattr_blkaddr),
            prefix_count: raw.xattr_prefix_count,
            prefix_start: 4 * u64::from(raw.xattr_prefix_start.get()),
            packed: has_packed.then(|| Nid::new(raw.packed_nid.get())),
            filter_valid: compat.contains(Compat::XATTR_FILTER) && raw.xattr_filter_reserved == 0,
            metabox: None,
            bytes: SUPERBLOCK_BYTES as u64 + EXTENSION_BYTES as u64 * u64::from(raw.sb_extslots),
            lz4_distance_max: if incompat.contains(Incompat::COMPR_CFGS) {
                0
            } else {
                raw.available_compr_algs.get()
            },
            listed_codecs: Vec::new(),
            codecs: CodecConfigs::legacy(raw.available_compr_algs.get()),
        })
    }

    fn check_sharing(&self, raw: &RawSuperblock) -> Result<(), Error> {
        let sharing = self.compat.contains(Compat::ISHARE_XATTRS);
        if sharing && raw.ishare_xattr_prefix_id >= raw.xattr_prefix_count {
            let (index, count) = (raw.ishare_xattr_prefix_id, raw.xattr_prefix_count);
            return Err(Error::IsharePrefix { index, count });
        }
        Ok(())
    }

    /// Reads which inode is the metabox, from the first extension slot.
    fn read_metabox_nid(&self, raw: &RawSuperblock, source: &dyn MetaSource) -> Result<Option<Nid>, Error> {
        if !self.incompat.contains(Incompat::METABOX) {
            return Ok(None);
        }
        let mut nid = [0; 8];
        if raw.sb_extslots > 0 {
            read_primary(source, (SUPERBLOCK_AT + SUPERBLOCK_BYTES) as u64, &mut nid)?;
        }
        let nid = Nid::new(u64::from_le_bytes(nid));
        if raw.sb_extslots == 0 || nid.in_metabox() {
            return Err(Error::MetaboxNid { nid });
        }
        Ok(Some(nid))
    }

    /// The packed inode must stand on its own: fragments of inodes in the metabox refer to it.
    fn check_packed(&self) -> Result<(), Error> {
        match self.packed {
            Some(nid) if nid.in_metabox() => Err(Error::PackedNid { nid }),
            _ => Ok(()),
        }
    }
}

/// Compares the checksum; `None` when it is right.
fn verify_checksum(source: &dyn MetaSource, block: BlockSize, stored: u32) -> Result<Option<Error>, Error> {
    let mut bytes = vec![0; checksum_bytes(block)];
    read_primary(source, SUPERBLOCK_AT as u64, &mut bytes)?;
    let computed = checksum(&bytes);
    Ok((computed != stored).then_some(Error::Checksum { stored, computed }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An image of one block whose superblock passes.
    fn image(change: impl FnOnce(&mut RawSuperblock)) -> Vec<u8> {
        let mut raw = RawSuperblock::blank();
        raw.blkszbits = 12;
        change(&mut raw);
        let mut bytes = vec![0; 4096];
        bytes[SUPERBLOCK_AT..SUPERBLOCK_AT + SUPERBLOCK_BYTES].copy_from_slice(raw.as_bytes());
        bytes
    }

    fn verdict(change: impl FnOnce(&mut RawSuperblock)) -> Error {
        match Superblock::read(&image(change)) {
            Err(error) | Ok((_, Some(error))) => error,
            Ok((_, None)) => panic!("this superblock is wrong"),
        }
    }

    #[test]
    fn the_layout_is_128_bytes_and_the_fields_lie_where_the_format_says() {
        assert_eq!(SUPERBLOCK_BYTES, 128);
        assert_eq!(std::mem::offset_of!(RawSuperblock, feature_incompat), 80);
        assert_eq!(std::mem::offset_of!(RawSuperblock, packed_nid), 96);
        assert_eq!(std::mem::offset_of!(RawSuperblock, rootnid_8b), 112);
    }

    #[test]
    fn each_fault_is_named_in_the_kernels_order() {
        // Every case keeps the faults that come later, so the order shows too.
        let late = |raw: &mut RawSuperblock| raw.feature_incompat = 0x8000_0000.into();
        assert!(matches!(
            verdict(|raw| {
                late(raw);
                raw.magic = 1.into();
                raw.blkszbits = 0;
            }),
            Error::Magic { found: 1 }
        ));
        assert!(matches!(
            verdict(|raw| {
                late(raw);
                raw.blkszbits = 17;
                raw.dirblkbits = 1;
            }),
            Error::BlockSize { bits: 17 }
        ));
        assert!(matches!(
            verdict(|raw| {
                late(raw);
                raw.dirblkbits = 1;
                raw.feature_compat = 1.into();
            }),
            Error::DirBlockBits { found: 1 }
        ));
        assert!(matches!(
            verdict(|raw| {
                late(raw);
                raw.feature_compat = 1.into();
            }),
            Error::Checksum { stored: 0, .. }
        ));
        assert!(matches!(
            verdict(|raw| {
                late(raw);
                raw.sb_extslots = 255;
            }),
            Error::UnknownFeatures { bits: 0x8000_0000 }
        ));
        assert!(matches!(verdict(|raw| raw.sb_extslots = 255), Error::SuperblockSize { .. }));
        assert!(matches!(verdict(|raw| raw.feature_compat = 0x20.into()), Error::IsharePrefix { .. }));
        assert!(matches!(verdict(|raw| raw.feature_incompat = 0x100.into()), Error::MetaboxNid { .. }));
        assert!(matches!(
            verdict(|raw| {
                raw.feature_incompat = 0x20.into();
                raw.packed_nid = (1 << 63).into();
            }),
            Error::PackedNid { .. }
        ));
    }

    #[test]
    fn unknown_compatible_bits_are_accepted() {
        let bytes = image(|raw| raw.feature_compat = 0x4000_0000.into());
        let (superblock, _) = Superblock::read(&bytes).expect("compatible bits never refuse");
        assert_eq!(superblock.compat.bits(), 0x4000_0000);
    }

    #[test]
    fn the_checksum_counts_its_own_field_as_zero() {
        let mut bytes = image(|raw| raw.feature_compat = 1.into());
        let sum = checksum(&bytes[SUPERBLOCK_AT..]);
        bytes[SUPERBLOCK_AT + 4..SUPERBLOCK_AT + 8].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(checksum(&bytes[SUPERBLOCK_AT..]), sum);
        assert!(matches!(Superblock::read(&bytes), Ok((_, None))), "the sum is right");
        bytes[4095] ^= 1;
        let (_, wrong) = Superblock::read(&bytes).expect("the rest is right");
        assert!(matches!(wrong, Some(Error::Checksum { .. })), "the whole block counts");
    }

    #[test]
    fn the_checksum_starts_from_the_published_value_of_magic_and_zero() {
        // 0x5045B54A is the CRC of the magic and a zero field: what older readers start from.
        let mut head = MAGIC.to_le_bytes().to_vec();
        head.extend([0xaa; 4]);
        assert_eq!(checksum(&head), 0x5045_B54A);
    }
}
