//! [`Image`]: an opened image, the reader's front door.

mod dir;
mod extent;
mod prefix;
mod read;
mod walk;
mod xattrs;

use std::fmt;
use std::sync::Arc;

use zerocopy::FromBytes;

use crate::device::{RawDeviceSlot, SLOT_BYTES};
use crate::{DeviceSlot, Error, FileType, Inode, MetaSource, Nid, PhysicalAddr, Superblock};

pub use dir::{DirEntry, ReadDir};
pub use extent::{Extent, ExtentKind};
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
/// Every method takes `&self`, keeps nothing between calls and may run on many threads. Cloning is cheap.
#[derive(Clone)]
pub struct Image {
    source: Arc<dyn MetaSource>,
    /// Length of the source, which may cost a system call to ask for.
    source_len: u64,
    superblock: Arc<Superblock>,
    devices: Arc<[DeviceSlot]>,
    prefixes: Arc<[prefix::LongPrefix]>,
    mode: DeviceMode,
}

impl Image {
    /// Opens an image whose devices, if any, are sources of their own.
    ///
    /// The checks come in the kernel's order, so that both give the same verdict on a bad image. The
    /// superblock's checksum is verified; nothing else in the format has one.
    ///
    /// # Errors
    ///
    /// [`Error`] names the first check that failed. [`Error::Metabox`]: the image needs a feature that this
    /// crate lacks.
    pub fn open(source: impl MetaSource + 'static) -> Result<Self, Error> {
        Self::open_with(source, DeviceMode::Separate)
    }

    /// Opens an image and says where its devices are.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_with(source: impl MetaSource + 'static, mode: DeviceMode) -> Result<Self, Error> {
        let source: Arc<dyn MetaSource> = Arc::new(source);
        let source_len = source.len();
        let superblock = Arc::new(Superblock::read(&source)?);
        let devices = read_devices(&source, &superblock)?.into();
        let mut image = Self { source, source_len, superblock, devices, prefixes: Arc::new([]), mode };
        let packed = image.superblock.packed.map(|nid| image.inode(nid)).transpose()?;
        let root = image.inode(image.root())?;
        if root.kind != FileType::Directory {
            return Err(Error::RootNotDirectory { nid: root.nid });
        }
        image.prefixes = prefix::read(&image, packed.as_ref())?.into();
        Ok(image)
    }

    /// What the superblock says.
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
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
    /// An inode with compressed contents is returned too; asking where its data lies is refused.
    ///
    /// # Errors
    ///
    /// When the number is out of range or the inode holds what the kernel would refuse.
    pub fn inode(&self, nid: Nid) -> Result<Inode, Error> {
        let at = Inode::address(nid, &self.superblock)?;
        let mut bytes = [0; 64];
        // A compact inode may be the last thing on the device: read the second half only if it is there.
        let rest = self.source_len.saturating_sub(at.get());
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

    /// Reads from the primary device.
    fn read_meta(&self, at: PhysicalAddr, buf: &mut [u8]) -> Result<(), Error> {
        self.source.read_exact_at(at, buf).map_err(|source| Error::Read { at, len: buf.len(), source })
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
    source.read_exact_at(at, &mut bytes).map_err(|source| Error::Read { at, len, source })?;
    let slots = bytes.chunks_exact(SLOT_BYTES).filter_map(|slot| RawDeviceSlot::read_from_bytes(slot).ok());
    Ok(slots.map(|raw| DeviceSlot::decode(&raw, superblock.incompat)).collect())
}
