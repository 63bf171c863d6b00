//! [`Compat`] and [`Incompat`]: the feature bits of the superblock.

bitflags::bitflags! {
    /// Features that a reader may ignore; unknown bits are accepted.
    #[derive(Clone, Copy, Debug, Eq, PartialEq)]
    pub struct Compat: u32 {
        /// The superblock checksum is valid.
        const SB_CHKSUM = 0x01;
        /// Recorded times are modification times. Informational.
        const MTIME = 0x02;
        /// The name filter in xattr bodies is valid.
        const XATTR_FILTER = 0x04;
        /// Shared xattrs lie in the metabox.
        const SHARED_EA_IN_METABOX = 0x08;
        /// Long xattr prefixes lie on the primary device.
        const PLAIN_XATTR_PFX = 0x10;
        /// Inodes may carry a fingerprint xattr for sharing the page cache.
        const ISHARE_XATTRS = 0x20;
    }

    /// Features that a reader must know; an unknown bit refuses the image.
    ///
    /// Source of truth: `EROFS_FEATURE_INCOMPAT_*`, fs/erofs/erofs_fs.h (v7.3). Three bits mean two things
    /// each: the field beside them decides which.
    #[derive(Clone, Copy, Debug, Eq, PartialEq)]
    pub struct Incompat: u32 {
        /// Compressed data is right-aligned in its pcluster.
        const LZ4_0PADDING = 0x001;
        /// Codec configuration records exist, and pclusters may be larger than a block.
        const COMPR_CFGS = 0x002;
        /// Chunk-based files may occur.
        const CHUNKED_FILE = 0x004;
        /// A device table, when there are extra devices; a second codec in an inode.
        const DEVICE_TABLE = 0x008;
        /// The tail pcluster may be inline.
        const ZTAILPACKING = 0x010;
        /// A packed inode, when its number is set; partial references.
        const FRAGMENTS = 0x020;
        /// Long xattr name prefixes.
        const XATTR_PREFIXES = 0x040;
        /// Block addresses of 48 bits.
        const BITS_48 = 0x080;
        /// Metadata inside a special inode.
        const METABOX = 0x100;
    }
}
