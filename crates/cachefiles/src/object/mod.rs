//! [`CacheFile`]: one object, a backing file with its presence map.

mod commit;
mod open;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use larder_fscache::{BlockSize, CacheObject, CookieKey, Error, Lease, ObjectRange, Run, VolumeKey};

use crate::layout::Place;
use crate::live::LiveMap;
use crate::storage::{StorageFile, write_all};
use crate::store::Store;

pub(crate) use open::open;

/// What the table of objects is keyed by.
pub(crate) type Name = (VolumeKey, CookieKey);

/// The granule of presence of every object.
pub(crate) const BLOCK: BlockSize = BlockSize::FOUR_KIB;

/// The largest object, 1 TiB. Its live map takes 32 MiB; sizes come from images, so there is a bound.
pub(crate) const OBJECT_BYTES_MAX: u64 = 1 << 40;

/// One object. Either sealed (everything is there for good) or with a live map.
pub(crate) struct CacheFile {
    store: Arc<Store>,
    place: Place,
    path: PathBuf,
    size: u64,
    /// Device and inode of the backing file.
    identity: (u64, u64),
    file: Box<dyn StorageFile>,
    /// Raised before bytes are taken away.
    generation: AtomicU64,
    /// Set when the object was taken away under its users, never cleared.
    withdrawn: AtomicBool,
    /// Set once everything is durable, never cleared.
    sealed: AtomicBool,
    /// None when the object was sealed already when it was opened.
    live: Option<LiveMap>,
    /// Sum of the live map, in bytes.
    present: AtomicU64,
    /// Shared by writers from the first byte to the bit; exclusive for who takes bits back, so that none
    /// comes back for a write that a failed sync has lost.
    writing: RwLock<()>,
    /// What the durable map is known to name. Held through a commit: one at a time.
    durable: Mutex<Vec<u64>>,
    /// Last, so that the key is free only when the rest is gone.
    _lease: Lease<Name, CacheFile>,
}

impl CacheFile {
    fn is_sealed(&self) -> bool {
        self.sealed.load(Ordering::Acquire)
    }

    /// The live map, while it is what counts.
    fn live(&self) -> Option<&LiveMap> {
        if self.is_sealed() { None } else { self.live.as_ref() }
    }

    fn is_withdrawn(&self) -> bool {
        self.withdrawn.load(Ordering::Acquire)
    }

    fn failed(&self, doing: &'static str, source: io::Error) -> Error {
        Error::io(&self.place.cookie, doing, source)
    }
}

impl CacheObject for CacheFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn block_size(&self) -> BlockSize {
        BLOCK
    }

    fn probe_within(&self, want: ObjectRange) -> Run {
        if self.is_withdrawn() {
            return Run::Hole { until: u64::MAX };
        }
        match self.live() {
            Some(live) => live.presence().probe(want),
            None if want.start() < self.size => Run::Present { until: self.size },
            None => Run::Hole { until: u64::MAX },
        }
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    fn withdraw(&self) {
        let _no_writers = self.writing.write().unwrap_or_else(PoisonError::into_inner);
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.withdrawn.store(true, Ordering::Release);
    }

    fn read_at(&self, at: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.file.pread(buf, at)
    }

    fn write(&self, at: u64, data: &[u8]) -> Result<(), Error> {
        let range = ObjectRange::at(at, data.len() as u64);
        if range.end() > self.size || range.len() != data.len() as u64 {
            return Err(Error::OutOfBounds { cookie: self.place.cookie.clone(), range, size: self.size });
        }
        // The same content is there already: the key is its digest.
        let Some(live) = self.live() else { return Ok(()) };
        let _writing = self.writing.read().unwrap_or_else(PoisonError::into_inner);
        if self.is_withdrawn() {
            return Err(Error::Withdrawn { cookie: self.place.cookie.clone() });
        }
        write_all(&*self.file, data, at).map_err(|source| self.failed("writing", source))?;
        let fresh = live.presence().set(range);
        self.present.fetch_add(fresh, Ordering::AcqRel);
        tracing::trace!(
            volume = %self.place.volume, cookie = %self.place.cookie, start = at, len = range.len(), "cachefiles_write"
        );
        Ok(())
    }

    fn present_bytes(&self) -> u64 {
        if self.is_withdrawn() {
            return 0;
        }
        match self.live() {
            // Adding and taking back are not one step with the bits: for an instant the sum may be below 0.
            Some(_) => {
                Some(self.present.load(Ordering::Acquire)).filter(|sum| *sum <= self.size).unwrap_or(0)
            }
            None => self.size,
        }
    }

    fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    fn path(&self) -> Option<&Path> {
        Some(&self.path)
    }

    fn commit(&self) -> Result<(), Error> {
        self.commit_now()
    }
}
