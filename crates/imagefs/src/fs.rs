//! [`ImageFs`]: an image together with the blobs that are its devices.

use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::try_join_all;
use larder_erofs::{DeviceId, ExtentKind, Image, Inode, LogicalAddr, PhysicalAddr};
use larder_fscache::{IoSource, ObjectRange, OnHole};
use larder_ondemand::{Blob, Cause, Engine};

use crate::Error;

/// An EROFS image whose devices are cookies.
pub struct ImageFs {
    image: Image,
    devices: Vec<Arc<Blob>>,
    engine: Arc<Engine>,
}

/// A part of a read that lies on a device, in one piece.
struct Slice {
    device: DeviceId,
    blob: Arc<Blob>,
    range: ObjectRange,
}

/// What the presence map says of a slice.
enum Found {
    Present,
    Hole,
}

impl ImageFs {
    /// Binds an image to its blobs, which stand in the order of the device table.
    ///
    /// # Errors
    ///
    /// [`Error::DeviceCount`] when there are more or fewer of them than the image names.
    pub fn new(image: Image, devices: Vec<Arc<Blob>>, engine: Arc<Engine>) -> Result<Self, Error> {
        let (expected, found) = (image.devices().len(), devices.len());
        if expected != found {
            return Err(Error::DeviceCount { expected, found });
        }
        Ok(Self { image, devices, engine })
    }

    /// The metadata: inodes, names, links, attributes.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// The blobs, in the order of the device table.
    pub fn devices(&self) -> &[Arc<Blob>] {
        &self.devices
    }

    /// Reads file contents from `at` on, or returns `None` when a byte of them is not here.
    ///
    /// Returns fewer bytes than `buf` holds only at the end of the file. Does not wait and does no network I/O.
    ///
    /// # Errors
    ///
    /// When the image is damaged or the cache cannot be read.
    pub fn read_present(&self, inode: &Inode, at: u64, buf: &mut [u8]) -> Result<Option<usize>, Error> {
        let len = readable(inode, at, buf.len());
        for slice in self.slices(inode, at, len)? {
            match self.probe(inode, &slice)? {
                Found::Present => self.engine.touch(&slice.blob, slice.range),
                Found::Hole => return Ok(None),
            }
        }
        self.copy(inode, at, &mut buf[..len])?;
        Ok(Some(len))
    }

    /// Reads file contents from `at` on; holes are filled first, all of them side by side.
    ///
    /// Returns fewer than `len` bytes only at the end of the file. `pid` is the reader, for the records. Must be polled
    /// on the engine's runtime.
    ///
    /// # Errors
    ///
    /// One error for the whole request: the first slice that cannot be had. The next read tries again.
    pub async fn read(&self, inode: &Inode, at: u64, len: usize, pid: Option<u32>) -> Result<Bytes, Error> {
        let len = readable(inode, at, len);
        let mut missing = Vec::new();
        for slice in self.slices(inode, at, len)? {
            if matches!(self.probe(inode, &slice)?, Found::Hole) {
                missing.push(slice);
            }
        }
        let fills =
            missing.iter().map(|slice| self.engine.fill(&slice.blob, slice.range, Cause::Demand { pid }));
        try_join_all(fills).await.map_err(|source| Error::Fill { nid: inode.nid, source })?;
        // The decision is taken again: a second miss fails.
        let mut bytes = vec![0; len];
        self.copy(inode, at, &mut bytes)?;
        Ok(bytes.into())
    }

    /// The parts of `at..at + len` that lie on devices.
    fn slices(&self, inode: &Inode, at: u64, len: usize) -> Result<Vec<Slice>, Error> {
        let mut slices: Vec<Slice> = Vec::new();
        let end = at.saturating_add(len as u64);
        let mut at = at;
        while at < end {
            let extent = self.image.map(inode, LogicalAddr::new(at))?;
            if extent.len == 0 {
                break;
            }
            let len = extent.len.min(end - at);
            if let ExtentKind::Device { device, pa } = extent.kind {
                let range = ObjectRange::at(pa.get(), len);
                match slices.last_mut() {
                    Some(last) if last.device == device && last.range.end() == range.start() => {
                        last.range = ObjectRange::at(last.range.start(), last.range.len() + len);
                    }
                    _ => slices.push(Slice {
                        device,
                        blob: Arc::clone(self.blob(inode, device, range)?),
                        range,
                    }),
                }
            }
            at += len;
        }
        Ok(slices)
    }

    fn blob(&self, inode: &Inode, device: DeviceId, range: ObjectRange) -> Result<&Arc<Blob>, Error> {
        let blob = device.slot().and_then(|slot| self.devices.get(slot));
        blob.ok_or(Error::OutsideBlob { nid: inode.nid, device, range })
    }

    fn probe(&self, inode: &Inode, slice: &Slice) -> Result<Found, Error> {
        let decision = slice.blob.cookie().prepare_ondemand_read(slice.range);
        match decision.source {
            IoSource::ReadFromCache if decision.range == slice.range => Ok(Found::Present),
            // A part is here: for the rest it is a hole. A slice that passes the blob's end shows when it is copied.
            IoSource::ReadFromCache | IoSource::DownloadFromServer => Ok(Found::Hole),
            IoSource::FillWithZeroes | IoSource::InvalidRead => {
                Err(Error::OutsideBlob { nid: inode.nid, device: slice.device, range: slice.range })
            }
        }
    }

    /// Copies what must be here by now; a hole of a cookie is an error.
    fn copy(&self, inode: &Inode, at: u64, buf: &mut [u8]) -> Result<(), Error> {
        let mut read_device = |device: DeviceId, pa: PhysicalAddr, piece: &mut [u8]| {
            let range = ObjectRange::at(pa.get(), piece.len() as u64);
            let blob = self.blob(inode, device, range).map_err(io::Error::other)?;
            let read = blob.cookie().read(pa.get(), piece, OnHole::Fail).map_err(io::Error::other)?;
            if read == piece.len() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
        };
        Ok(self.image.read_exact_at(inode, LogicalAddr::new(at), buf, &mut read_device)?)
    }
}

impl fmt::Debug for ImageFs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageFs").field("devices", &self.devices).finish_non_exhaustive()
    }
}

/// How many of `len` bytes from `at` on the file has.
fn readable(inode: &Inode, at: u64, len: usize) -> usize {
    let left = inode.size.saturating_sub(at);
    usize::try_from(left).map_or(len, |left| left.min(len))
}
