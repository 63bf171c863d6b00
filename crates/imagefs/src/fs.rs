//! [`ImageFs`]: reads files of an image.

use std::os::unix::fs::FileExt as _;
use std::{fmt, io, sync::Arc};

use bytes::Bytes;
use futures_util::future::try_join_all;
use larder_erofs::{DeviceId, ExtentKind, Image, Inode, LogicalAddr, Nid};
use larder_fscache::{IoSource, ObjectRange, OnHole, ReadFlags};
use larder_ondemand::{Blob, Cause, Engine};

use crate::{
    Error,
    request::{From, Request, Slice, merge},
    sealed::{self, SealedPiece},
    whole::{Compared, tail_bytes_max},
};

/// Extents of a file that are looked at for whether it is all of a device: a terabyte in chunks of 16 MiB, of which each extent has a
/// few.
const EXTENTS_MAX: usize = 1 << 16;

/// The longest tail of a file that may be all of a device.
const TAIL_BYTES_MAX: u64 = 32 << 20;

/// How much of two tails is compared at a time.
const COMPARED_BYTES: usize = 256 << 10;

/// An image whose devices are blobs filled on demand. Cloning is cheap.
#[derive(Clone)]
pub struct ImageFs {
    image: Image,
    devices: Arc<[Arc<Blob>]>,
    /// Lengths of the devices, sorted: most files have none of them.
    lengths: Arc<[u64]>,
    engine: Arc<Engine>,
}

impl ImageFs {
    /// Binds an image to its devices, which stand in the order of the device table.
    ///
    /// What `image` reads its metadata from must be complete and local.
    ///
    /// # Errors
    ///
    /// [`Error::DeviceCount`] when there are more or fewer of them than the image names.
    pub fn new(image: Image, devices: Vec<Arc<Blob>>, engine: Arc<Engine>) -> Result<Self, Error> {
        let (expected, found) = (image.devices().len(), devices.len());
        if expected != found {
            return Err(Error::DeviceCount { expected, found });
        }
        let mut lengths: Vec<u64> = devices.iter().map(|blob| blob.size()).collect();
        lengths.sort_unstable();
        Ok(Self { image, devices: devices.into(), lengths: lengths.into(), engine })
    }

    /// The image: names, attributes, links and xattrs are asked of it.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// The devices, in the order of the device table.
    pub fn devices(&self) -> &[Arc<Blob>] {
        &self.devices
    }

    /// Reads at once if everything is here; `None` when any byte is missing (`buf` is then undefined).
    ///
    /// Returns the number of bytes read: fewer than `buf` holds only at the end of the file. Allocates nothing and does
    /// not cross into the async runtime; blocks only on the local files.
    ///
    /// # Errors
    ///
    /// Any [`Error`] except those of a fill.
    pub fn read_present(&self, inode: &Inode, at: u64, buf: &mut [u8]) -> Result<Option<usize>, Error> {
        let request = Request::new(&self.image, inode, at, buf.len());
        let len = request.len();
        for slice in request {
            let slice = slice?;
            if let From::Device(device, range) = slice.from
                && self.first_hole(inode.nid, device, range)?.is_some()
            {
                return Ok(None);
            }
            match self.read_slice(inode, &slice, &mut buf[slice.buffer.clone()]) {
                // It was here a moment ago: culled, or dropped by a failing disk. It can be brought again.
                Err(Error::SecondMiss { .. }) => return Ok(None),
                result => result?,
            }
            if let From::Device(device, range) = slice.from {
                self.engine.touch(self.device(inode.nid, device)?, range);
            }
        }
        Ok(Some(len))
    }

    /// Says where the bytes of a read lie, when all of them lie in one piece of a file in which nothing changes any
    /// more. `None` also when there are none.
    ///
    /// # Errors
    ///
    /// [`Error::Metadata`], [`Error::NoDevice`].
    pub fn sealed(&self, inode: &Inode, at: u64, len: usize) -> Result<Option<SealedPiece>, Error> {
        let mut request = Request::new(&self.image, inode, at, len);
        let len = request.len();
        let Some(slice) = request.next().transpose()? else { return Ok(None) };
        let From::Device(device, range) = slice.from else { return Ok(None) };
        let blob = self.device(inode.nid, device)?;
        if slice.buffer.len() < len || range.end() > blob.size() || SealedPiece::file_of(blob).is_none() {
            return Ok(None);
        }
        self.engine.touch(blob, range);
        Ok(Some(SealedPiece { blob: Arc::clone(blob), range }))
    }

    /// The device that is as long as `inode`, whose bytes stand there from the first on, except for a short tail that may lie elsewhere:
    /// whether the device has the same is told by [`whole_file`](Self::whole_file). `None` also when the metadata cannot be read.
    pub fn whole_device(&self, inode: &Inode) -> Option<DeviceId> {
        self.whole(inode).map(|(device, _)| device)
    }

    /// The same, and where the tail begins.
    fn whole(&self, inode: &Inode) -> Option<(DeviceId, u64)> {
        self.lengths.binary_search(&inode.size).ok()?;
        let mut found = None;
        let mut at = 0;
        for extent in self.image.extents(inode, LogicalAddr::new(0)).take(EXTENTS_MAX) {
            let extent = extent.ok()?;
            let ExtentKind::Device { device, pa } = extent.kind else { break };
            if pa.get() != at || *found.get_or_insert(device) != device {
                break;
            }
            at += extent.len;
        }
        let device = found?;
        let is_whole = self.device(inode.nid, device).ok()?.size() == inode.size;
        (is_whole && inode.size - at <= TAIL_BYTES_MAX).then_some((device, at))
    }

    /// Whether all of a device is here for good.
    pub fn is_sealed(&self, device: DeviceId) -> bool {
        let blob = device.slot().and_then(|slot| self.devices.get(slot));
        blob.is_some_and(|blob| SealedPiece::file_of(blob).is_some())
    }

    /// The local file with all bytes of `inode` and no others, of which nothing changes any more; opened anew for reading: as long as it
    /// is open anywhere, nothing is taken out of it. A tail that is missing will be brought.
    pub fn whole_file(&self, inode: &Inode) -> Compared {
        let Some((device, tail_at)) = self.whole(inode) else { return Compared::Missing };
        if inode.size - tail_at > tail_bytes_max(inode.size) {
            return Compared::Different;
        }
        let Some(file) = self.device(inode.nid, device).ok().and_then(|blob| sealed::open(blob)) else {
            return Compared::Missing;
        };
        let [mut of_file, mut of_device] = [Vec::new(), Vec::new()];
        let mut at = tail_at;
        while at < inode.size {
            let len =
                usize::try_from(inode.size - at).map_or(COMPARED_BYTES, |left| left.min(COMPARED_BYTES));
            of_file.resize(len, 0);
            of_device.resize(len, 0);
            match self.read_present(inode, at, &mut of_file) {
                Ok(Some(read)) if read == len => {}
                Ok(None) => {
                    if let Ok(left) = usize::try_from(inode.size - at) {
                        self.bring(inode, at, left);
                    }
                    return Compared::Missing;
                }
                Ok(Some(_)) | Err(_) => return Compared::Missing,
            }
            if file.read_exact_at(&mut of_device, at).is_err() {
                return Compared::Missing;
            }
            if of_file != of_device {
                return Compared::Different;
            }
            at += len as u64;
        }
        Compared::Same(file.into())
    }

    /// Has brought what is missing, some time.
    fn bring(&self, inode: &Inode, at: u64, len: usize) {
        for slice in Request::new(&self.image, inode, at, len).flatten() {
            if let From::Device(device, range) = slice.from
                && let Ok(blob) = self.device(inode.nid, device)
                && range.end() <= blob.size()
            {
                self.engine.spawn_fill(blob, range, Cause::Readahead, |_| {});
            }
        }
    }

    /// Reads up to `len` bytes from `at`, bringing what is missing: fewer only at the end of the file. `pid` says who
    /// reads, where that is known.
    ///
    /// # Errors
    ///
    /// Any [`Error`]; one for the whole read. The next read tries again.
    pub async fn read(&self, inode: &Inode, at: u64, len: usize, pid: Option<u32>) -> Result<Bytes, Error> {
        let request = Request::new(&self.image, inode, at, len);
        let len = request.len();
        let slices = request.collect::<Result<Vec<Slice>, Error>>()?;
        self.fill(inode.nid, &slices, pid).await?;
        let (fs, inode) = (self.clone(), *inode);
        let nid = inode.nid;
        // Off the runtime: what was brought long ago may have to come from the disk.
        let read = tokio::task::spawn_blocking(move || fs.read_slices(&inode, &slices, len));
        read.await.map_err(|_| Error::Abandoned { nid })?
    }

    /// Brings what is missing of `slices`, side by side.
    async fn fill(&self, nid: Nid, slices: &[Slice], pid: Option<u32>) -> Result<(), Error> {
        let mut missing = Vec::new();
        for slice in slices {
            let From::Device(device, range) = slice.from else { continue };
            match self.first_hole(nid, device, range)? {
                Some(hole) => missing.push((device, hole)),
                None => self.engine.touch(self.device(nid, device)?, range),
            }
        }
        let fills = merge(missing).into_iter().map(|(device, range)| async move {
            let blob = self.device(nid, device)?;
            let filled = self.engine.fill(blob, range, Cause::Demand { pid }).await;
            filled.map_err(|source| Error::Fill { nid, device, source })
        });
        try_join_all(fills).await.map(drop)
    }

    fn read_slices(&self, inode: &Inode, slices: &[Slice], len: usize) -> Result<Bytes, Error> {
        let mut buf = vec![0; len];
        for slice in slices {
            self.read_slice(inode, slice, &mut buf[slice.buffer.clone()])?;
        }
        Ok(buf.into())
    }

    /// Takes the decision for `range`: `None` when all of it is present, else what is left of it from the first hole on.
    fn first_hole(
        &self,
        nid: Nid,
        device: DeviceId,
        range: ObjectRange,
    ) -> Result<Option<ObjectRange>, Error> {
        let blob = self.device(nid, device)?;
        if range.end() > blob.size() {
            return Err(Error::OutsideDevice { nid, device, range, size: blob.size() });
        }
        let mut at = range.start();
        while at < range.end() {
            let rest = ObjectRange::at(at, range.end() - at);
            let decision = blob.resources().prepare_ondemand_read(rest, u64::MAX, ReadFlags::empty());
            let decision = decision.map_err(|source| Error::Cache { nid, device, source })?;
            match decision.source {
                IoSource::ReadFromCache if !decision.range.is_empty() => at = decision.range.end(),
                _ => return Ok(Some(rest)),
            }
        }
        Ok(None)
    }

    /// Reads one slice. The decision is taken again here, whoever took it before: a hole is never zeros.
    fn read_slice(&self, inode: &Inode, slice: &Slice, buf: &mut [u8]) -> Result<(), Error> {
        let nid = inode.nid;
        match slice.from {
            From::Hole => buf.fill(0),
            From::Metadata(at) => self
                .image
                .read_exact_at(inode, at, buf, &mut |_, _, _| Err(io::ErrorKind::Unsupported.into()))
                .map_err(|source| Error::Metadata { nid, source })?,
            From::Device(device, range) => {
                if let Some(range) = self.first_hole(nid, device, range)? {
                    return Err(Error::SecondMiss { nid, device, range });
                }
                let resources = self.device(nid, device)?.resources();
                let read = resources.read(range.start(), buf, OnHole::Fail);
                match read {
                    Ok(len) if len == buf.len() => {}
                    Ok(_) | Err(larder_fscache::Error::Hole { .. }) => {
                        return Err(Error::SecondMiss { nid, device, range });
                    }
                    Err(source) => return Err(Error::Cache { nid, device, source }),
                }
            }
        }
        Ok(())
    }

    fn device(&self, nid: Nid, device: DeviceId) -> Result<&Arc<Blob>, Error> {
        let blob = device.slot().and_then(|slot| self.devices.get(slot));
        blob.ok_or(Error::NoDevice { nid, device, count: self.devices.len() })
    }
}

impl fmt::Debug for ImageFs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageFs")
            .field("image", &self.image)
            .field("devices", &self.devices)
            .finish_non_exhaustive()
    }
}
