//! [`LocalImage`]: an image file with its device files.

use std::fs::File;
use std::io::{Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use larder_erofs::{
    DeviceId, DeviceMode, Error, Extent, Image, Inode, LogicalAddr, MetaSource, PhysicalAddr, SourceError,
};

use super::read_cache::ReadCache;
use crate::errors::{Kind, told};

/// Which files make up an image.
#[derive(Clone, Debug, Default)]
pub struct Parts {
    /// The image itself: a regular file or a block device.
    pub image: PathBuf,
    /// Its extra devices, in the order of the device table; none when they follow in the same file.
    pub devices: Vec<PathBuf>,
    /// Where the image begins in its file.
    pub offset: u64,
}

/// An opened image and its devices.
#[derive(Clone)]
pub struct LocalImage {
    image: Image,
    devices: Vec<Arc<dyn MetaSource>>,
}

impl LocalImage {
    /// Opens the files. A wrong checksum of the superblock is an error.
    ///
    /// # Errors
    ///
    /// When a file cannot be read, is no EROFS image, or the devices are not those that the image wants.
    pub fn open(parts: &Parts) -> anyhow::Result<Self> {
        let (image, checksum) = Self::open_unverified(parts)?;
        match checksum {
            Some(error) => Err(error).with_context(|| parts.image.display().to_string()),
            None => Ok(image),
        }
    }

    /// Opens the files and says what is wrong with the checksum instead of failing.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open), but for the checksum.
    pub fn open_unverified(parts: &Parts) -> anyhow::Result<(Self, Option<Error>)> {
        let mode = if parts.devices.is_empty() { DeviceMode::Flat } else { DeviceMode::Separate };
        let source = source(&parts.image, parts.offset)?;
        let (image, checksum) = Image::open_unverified(source, mode)
            .with_context(|| format!("{}: the image cannot be opened", parts.image.display()))?;
        let (wanted, given) = (image.devices().len(), parts.devices.len());
        if given != 0 && given != wanted {
            return Err(told(
                Kind::BadRequest,
                format!("{}: the image has {wanted} devices, {given} were given", parts.image.display()),
                "name each of them with --device, in the order of the device table (`larder erofs dump`)",
            ));
        }
        let devices = parts.devices.iter().map(|path| source_arc(path)).collect::<anyhow::Result<_>>()?;
        Ok((Self { image, devices }, checksum))
    }

    /// The image, for everything but bytes of extra devices.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// The extra devices, in the order of the device table.
    pub fn devices(&self) -> &[Arc<dyn MetaSource>] {
        &self.devices
    }

    /// Reads from an extra device.
    ///
    /// # Errors
    ///
    /// What the file says, and that it was not given.
    pub fn read_device(&self, device: DeviceId, at: PhysicalAddr, buf: &mut [u8]) -> Result<(), SourceError> {
        let source = device.slot().and_then(|slot| self.devices.get(slot));
        source.ok_or(std::io::ErrorKind::NotFound)?.read_exact_at(at, buf)
    }

    /// Fills `buf` with contents of a file from `at`.
    ///
    /// # Errors
    ///
    /// Those of [`Image::read_exact_at`].
    pub fn read(&self, inode: &Inode, at: u64, buf: &mut [u8]) -> Result<(), Error> {
        self.image.read_exact_at(inode, LogicalAddr::new(at), buf, &mut |device, at, buf| {
            self.read_device(device, at, buf)
        })
    }

    /// Fills `piece` with the first bytes of an extent.
    ///
    /// # Errors
    ///
    /// Those of [`Image::read_extent`].
    pub fn read_extent(&self, inode: &Inode, extent: &Extent, piece: &mut [u8]) -> Result<(), Error> {
        self.image
            .read_extent(inode, &extent.kind, piece, &mut |device, at, buf| self.read_device(device, at, buf))
    }
}

fn source_arc(path: &Path) -> anyhow::Result<Arc<dyn MetaSource>> {
    Ok(Arc::new(source(path, 0)?))
}

fn source(path: &Path, offset: u64) -> anyhow::Result<ReadCache> {
    let open = || -> std::io::Result<ReadCache> {
        let mut file = File::open(path)?;
        if file.metadata()?.is_dir() {
            return Err(std::io::ErrorKind::IsADirectory.into());
        }
        // A block device has no length in its metadata.
        let len = file.seek(SeekFrom::End(0))?;
        Ok(ReadCache::new(file, offset, len.saturating_sub(offset)))
    };
    open().with_context(|| format!("{}: cannot be opened", path.display()))
}
