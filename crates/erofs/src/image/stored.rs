//! [`Image::stored_file`]: a compressed file as its index has it, for who writes another index for the same pclusters.

use super::Image;
use super::zmap::ZMap;
use crate::{Codec, Error, Inode, LogicalAddr};

/// A compressed file, as it is stored.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct StoredFile {
    /// How its encoded extents are encoded; `None` when nothing but a fragment is said of it.
    pub codec: Option<Codec>,
    /// Plain extents are rotated by their place in the block.
    pub interlaced: bool,
    pub extents: Vec<StoredExtent>,
    pub end: StoredEnd,
}

/// An extent with a pcluster of whole blocks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct StoredExtent {
    /// Decoded bytes.
    pub len: u64,
    /// First block of its pcluster, in the unified address space.
    pub block: u64,
    /// Blocks of its pcluster.
    pub blocks: u32,
    pub plain: bool,
    /// It is zeros, and the pcluster for readers that do not know so.
    pub hole: bool,
    /// The pcluster holds more than it.
    pub partial: bool,
}

/// How the last extent is stored, where that is apart.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum StoredEnd {
    /// As the others.
    None,
    /// Behind the index.
    Inline { len: u64, plain: bool, bytes: Vec<u8> },
    /// In the packed inode.
    Fragment { len: u64, offset: u64 },
}

impl Image {
    /// Reads the whole index of a compressed file; `None` when it has a form that cannot be told this way: extent
    /// records, two codecs, lclusters that are no blocks, or holes without a pcluster.
    pub(crate) fn stored_file(&self, inode: &Inode) -> Result<Option<StoredFile>, Error> {
        ZMap::open(self, inode)?.whole()
    }

    /// The device and the byte address there of `len` bytes at an address of the unified space; `None` when they are
    /// not all on one.
    pub(crate) fn unified_place(
        &self,
        inode: &Inode,
        at: u64,
        len: u64,
    ) -> Option<(crate::DeviceId, crate::PhysicalAddr)> {
        use super::ExtentKind;
        let at = crate::PhysicalAddr::new(at);
        let extent =
            self.resolve_device(inode, crate::DeviceId::PRIMARY, at, LogicalAddr::new(0), len).ok()?;
        match extent.kind {
            _ if extent.len < len => None,
            ExtentKind::Meta { pa } => Some((crate::DeviceId::PRIMARY, pa)),
            ExtentKind::Device { device, pa } => Some((device, pa)),
            ExtentKind::Hole | ExtentKind::Encoded(_) => None,
        }
    }
}
