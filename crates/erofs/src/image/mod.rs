//! [`Image`]: an opened image, the reader's front door.

mod clusters;
mod dir;
mod encoded;
mod extent;
mod prefix;
mod read;
mod stored;
mod walk;
mod xattrs;
mod zmap;

use std::fmt;
use std::sync::Arc;

use zerocopy::FromBytes;

use crate::addr::MetaAddr;
use crate::device::{RawDeviceSlot, SLOT_BYTES};
use crate::source::read_primary;
use crate::{DeviceSlot, Error, FileType, Inode, LogicalAddr, MetaSource, Nid, Superblock};
use clusters::ClusterCache;

pub use dir::{DirEntry, DirEntryRef, ReadDir};
pub use extent::{Encoded, Extent, ExtentKind, Extents, Place};
pub(crate) use stored::{StoredEnd, StoredExtent, StoredFile};
pub use walk::{Walk, WalkEntry};

/// Where the extra devices of an image are.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum DeviceMode {
    /// Each slot is a source of its own, as with the mount option `device=`.
    #[default]
    Separate,
    /// All slots follow the image in the same source, at their unified addresses (Linux 6.4).
    Flat,
}

/// An EROFS image: its metadata, and where its data lies.
///
/// Every method takes `&self` and may run on many threads. Between calls only decoded pclusters are kept, in a
/// bounded cache that clones share, and up to 1 MiB of buffers for the next ones. Cloning is cheap.
#[derive(Clone)]
pub struct Image {
    source: Arc<dyn MetaSource>,
    /// Length of the source, which may cost a system call to ask for.
    source_len: u64,
    superblock: Arc<Superblock>,
    devices: Arc<[DeviceSlot]>,
    prefixes: Arc<[prefix::LongPrefix]>,
    mode: DeviceMode,
    /// Holds fragments: the tails of many files in one inode without a name.
    packed: Option<Inode>,
    /// Holds the metadata of other inodes.
    metabox: Option<Inode>,
    clusters: Arc<ClusterCache>,
}

impl Image {
    /// What the cache of decoded pclusters may hold unless [`with_cluster_cache`](Self::with_cluster_cache) says
    /// otherwise: 32 MiB.
    pub const CLUSTER_CACHE_BYTES: usize = 32 << 20;

    /// Opens an image whose devices, if any, are sources of their own.
    ///
    /// The checks come in the kernel's order, so that both give the same verdict on a bad image. The
    /// superblock's checksum is verified; nothing else in the format has one.
    ///
    /// # Errors
    ///
    /// [`Error`] names the first check that failed. [`Error::NotHere`] when the source has to bring something first:
    /// opening again goes further.
    pub fn open(source: impl MetaSource + 'static) -> Result<Self, Error> {
        Self::open_with(source, DeviceMode::Separate)
    }

    /// Opens an image and says where its devices are.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_with(source: impl MetaSource + 'static, mode: DeviceMode) -> Result<Self, Error> {
        let (image, checksum) = Self::open_unverified(source, mode)?;
        checksum.map_or(Ok(image), Err)
    }

    /// Opens an image whose checksum may be wrong, as a checker must; returns what is wrong with it beside the image.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open), for all other checks.
    pub fn open_unverified(
        source: impl MetaSource + 'static,
        mode: DeviceMode,
    ) -> Result<(Self, Option<Error>), Error> {
        let source: Arc<dyn MetaSource> = Arc::new(source);
        let (superblock, checksum) = Superblock::read(&source)?;
        match Self::open_rest(source, superblock, mode) {
            Ok(image) => Ok((image, checksum)),
            Err(error) => Err(checksum.unwrap_or(error)),
        }
    }

    /// What follows once the superblock is known.
    fn open_rest(
        source: Arc<dyn MetaSource>,
        superblock: Superblock,
        mode: DeviceMode,
    ) -> Result<Self, Error> {
        let source_len = source.len();
        let superblock = Arc::new(superblock);
        let devices = read_devices(&source, &superblock)?.into();
        let mut image = Self {
            source,
            source_len,
            superblock,
            devices,
            prefixes: Arc::new([]),
            mode,
            packed: None,
            metabox: None,
            clusters: Arc::new(ClusterCache::new(Self::CLUSTER_CACHE_BYTES)),
        };
        image.packed = image.superblock.packed.map(|nid| image.inode(nid)).transpose()?;
        image.metabox = image.superblock.metabox.map(|nid| image.inode(nid)).transpose()?;
        let root = image.inode(image.root())?;
        if root.kind != FileType::Directory {
            return Err(Error::RootNotDirectory { nid: root.nid });
        }
        image.prefixes = prefix::read(&image)?.into();
        Ok(image)
    }

    /// Gives the image a cache of its own that holds up to `bytes` of decoded pclusters; 0 keeps none.
    #[must_use]
    pub fn with_cluster_cache(mut self, bytes: usize) -> Self {
        self.clusters = Arc::new(ClusterCache::new(bytes));
        self
    }

    /// What the superblock says.
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// Where its devices are.
    pub(crate) fn mode(&self) -> DeviceMode {
        self.mode
    }

    /// The device table; slot `i` describes device `i + 1`.
    pub fn devices(&self) -> &[DeviceSlot] {
        &self.devices
    }

    /// The root directory.
    pub fn root(&self) -> Nid {
        self.superblock.root
    }

    /// Reads inode `nid`.
    ///
    /// # Errors
    ///
    /// When the number is out of range or the inode holds what the kernel would refuse.
    pub fn inode(&self, nid: Nid) -> Result<Inode, Error> {
        let at = Inode::address(nid, &self.superblock)?;
        let mut bytes = [0; 64];
        // A compact inode may be the last thing on the device: read the second half only if it is there.
        let rest = self.meta_len(at).saturating_sub(at.get());
        let len = if rest < 64 { 32 } else { 64 };
        self.read_meta(at, &mut bytes[..len])?;
        if len < 64 && bytes[0] & 1 != 0 {
            self.read_meta(at, &mut bytes)?;
        }
        Inode::decode(nid, at, &bytes, &self.superblock)
    }

    /// Finds the inode at `path`, whose components are separated by `/`; symbolic links are not followed.
    ///
    /// Empty components and `.` count as nothing; `..` goes where the directory says. `None` when a
    /// component is absent or is not in a directory.
    ///
    /// # Errors
    ///
    /// When a directory on the way is damaged.
    pub fn resolve(&self, path: &[u8]) -> Result<Option<Nid>, Error> {
        let mut nid = self.root();
        for name in path.split(|&byte| byte == b'/').filter(|name| !matches!(name, [] | [b'.'])) {
            let dir = self.inode(nid)?;
            if dir.kind != FileType::Directory {
                return Ok(None);
            }
            let Some(entry) = self.lookup(&dir, name)? else { return Ok(None) };
            nid = entry.nid;
        }
        Ok(Some(nid))
    }

    /// The inodes without a name: the packed one and the metabox.
    pub fn unnamed_inodes(&self) -> impl Iterator<Item = &Inode> {
        self.packed.iter().chain(&self.metabox)
    }

    /// Length of the source in bytes.
    pub fn source_len(&self) -> u64 {
        self.source_len
    }

    /// Reads metadata, from the primary device or from the contents of the metabox.
    fn read_meta(&self, at: MetaAddr, buf: &mut [u8]) -> Result<(), Error> {
        match (at, &self.metabox) {
            (MetaAddr::Primary(at), _) => read_primary(&self.source, at, buf),
            (MetaAddr::Metabox(at), Some(metabox)) => self.read_contents(metabox, LogicalAddr::new(at), buf),
            // No address in a metabox is made without one.
            (MetaAddr::Metabox(at), None) => Err(Error::InMetabox { nid: Nid::new(at) }),
        }
    }

    /// Length of the space that `at` lies in.
    fn meta_len(&self, at: MetaAddr) -> u64 {
        match at {
            MetaAddr::Primary(_) => self.source_len,
            MetaAddr::Metabox(_) => self.metabox.map_or(0, |metabox| metabox.size),
        }
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { superblock, devices, mode, .. } = self;
        f.debug_struct("Image")
            .field("superblock", superblock)
            .field("devices", devices)
            .field("mode", mode)
            .finish_non_exhaustive()
    }
}

fn read_devices(source: &dyn MetaSource, superblock: &Superblock) -> Result<Vec<DeviceSlot>, Error> {
    let len = usize::from(superblock.extra_devices) * SLOT_BYTES;
    let at = superblock.device_table;
    // Ask before allocating: the count comes from the image.
    let end = at.get().checked_add(len as u64);
    if end.is_none_or(|end| end > source.len()) {
        return Err(Error::DeviceTable { at, count: superblock.extra_devices });
    }
    let mut bytes = vec![0; len];
    read_primary(source, at.get(), &mut bytes)?;
    let slots = bytes.chunks_exact(SLOT_BYTES).filter_map(|slot| RawDeviceSlot::read_from_bytes(slot).ok());
    Ok(slots.map(|raw| DeviceSlot::decode(&raw, superblock.incompat)).collect())
}
