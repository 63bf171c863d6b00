//! [`Layer`]: an image to be merged, with the devices that its data are on.

use std::fmt;
use std::sync::Arc;

use crate::{DeviceId, DeviceMode, DeviceTag, Error, ExtentKind, Image, Inode, LogicalAddr, MetaSource, Nid};

/// Bytes that are found to be data in one go, about.
const DATA_BYTES: u64 = 16 << 20;

/// An image to be merged with others, and where its data are.
#[derive(Clone)]
pub struct Layer {
    pub(in crate::writer) image: Image,
    devices: Vec<Arc<dyn MetaSource>>,
    tag: DeviceTag,
}

impl fmt::Debug for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { image, devices, tag } = self;
        f.debug_struct("Layer")
            .field("image", image)
            .field("devices", &devices.len())
            .field("tag", tag)
            .finish()
    }
}

impl Layer {
    /// A layer in one piece, or with all its devices behind it in the same source ([`DeviceMode::Flat`]).
    ///
    /// # Errors
    ///
    /// [`Error::LayerDevices`] when the image has devices that are sources of their own.
    pub fn new(image: Image) -> Result<Self, Error> {
        Self::with_devices(image, Vec::new())
    }

    /// A layer with its extra devices, in the order of its device table.
    ///
    /// # Errors
    ///
    /// [`Error::LayerDevices`] when there are more or fewer than the image wants.
    pub fn with_devices(image: Image, devices: Vec<Arc<dyn MetaSource>>) -> Result<Self, Error> {
        let expected = if image.mode() == DeviceMode::Flat { 0 } else { image.devices().len() };
        if devices.len() != expected {
            return Err(Error::LayerDevices { found: devices.len(), expected });
        }
        Ok(Self { image, devices, tag: DeviceTag::EMPTY })
    }

    /// Gives the layer's own file a text in the device table of what refers to it, such as its digest.
    #[must_use]
    pub fn tagged(self, tag: DeviceTag) -> Self {
        Self { tag, ..self }
    }

    /// Its devices: the image itself, then those of its own.
    pub(in crate::writer) fn device_count(&self) -> usize {
        1 + self.devices.len()
    }

    /// Length of a device in bytes.
    pub(in crate::writer) fn device_bytes(&self, device: DeviceId) -> Option<u64> {
        match device.slot() {
            None => Some(self.image.source_len()),
            Some(slot) => Some(self.devices.get(slot)?.len()),
        }
    }

    /// The text of a device.
    pub(in crate::writer) fn device_tag(&self, device: DeviceId) -> DeviceTag {
        let slot = device.slot().and_then(|slot| self.image.devices().get(slot));
        slot.map_or(self.tag, |slot| slot.tag)
    }

    /// Fills `buf` with contents from `at`.
    pub(in crate::writer) fn read(&self, inode: &Inode, at: u64, buf: &mut [u8]) -> Result<(), Error> {
        self.image.read_exact_at(inode, LogicalAddr::new(at), buf, &mut |device, at, buf| {
            let source = device.slot().and_then(|slot| self.devices.get(slot));
            source.ok_or(std::io::ErrorKind::NotFound)?.read_exact_at(at, buf)
        })
    }

    /// Whether the index of inode `nid` has nothing for these bytes.
    pub(in crate::writer) fn is_hole(&self, nid: Nid, start: u64, end: u64) -> Result<bool, Error> {
        let extent = self.image.map(&self.image.inode(nid)?, LogicalAddr::new(start))?;
        Ok(extent.kind == ExtentKind::Hole && extent.len >= end - start)
    }

    /// Where the index of inode `nid` next has something, from `at` on, and where that ends; `None` when nothing comes.
    pub(in crate::writer) fn next_data(&self, nid: Nid, at: u64) -> Result<Option<(u64, u64)>, Error> {
        let inode = self.image.inode(nid)?;
        let mut found = None;
        for extent in self.image.extents(&inode, LogicalAddr::new(at)) {
            let extent = extent?;
            let (start, end) = (extent.start.get(), extent.start.get() + extent.len);
            found = match (found, extent.kind) {
                (None, ExtentKind::Hole) => None,
                (Some(found), ExtentKind::Hole) => return Ok(Some(found)),
                (None, _) => Some((start, end)),
                // Far enough: who reads on asks again.
                (Some((start, _)), _) if end - start > DATA_BYTES => return Ok(Some((start, end))),
                (Some((start, _)), _) => Some((start, end)),
            };
        }
        Ok(found)
    }

    /// Fills `buf` with contents of inode `nid` from `at`.
    pub(in crate::writer) fn read_nid(&self, nid: Nid, at: u64, buf: &mut [u8]) -> Result<(), Error> {
        self.read(&self.image.inode(nid)?, at, buf)
    }
}
