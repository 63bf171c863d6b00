//! [`CacheFile`]: one object, a backing file with its presence map.

mod commit;
mod idle;
mod open;
mod replace;
mod seen;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};

use larder_faults::{Site, point};
use larder_fscache::{BlockSize, CacheObject, CookieKey, Error, ObjectRange, Run, VolumeKey};
use rustix::io::Errno;

use crate::coherency::Coherency;
use crate::durable::Owner;
use crate::layout::Place;
use crate::limits::Goal;
use crate::live::LiveMap;
use crate::seat::Seat;
use crate::storage::{StorageFile, write_all};
use crate::store::Store;

pub use idle::IdleObject;
use open::Backing;
pub(crate) use open::open;
pub(crate) use replace::{replace, resize};

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
    /// What the file says about itself; its state may have gone on since.
    coherency: Coherency,
    /// Device and inode of the backing file.
    identity: (u64, u64),
    file: Arc<dyn StorageFile>,
    /// Set once everything is durable, never cleared.
    sealed: AtomicBool,
    /// Set once the object no longer has its name, never cleared.
    withdrawn: AtomicBool,
    /// Raised before anything present is taken away.
    generation: AtomicU64,
    /// None when the object was sealed already when it was opened.
    live: Option<LiveMap>,
    /// Sum of the live map, in bytes.
    present: AtomicU64,
    /// Whether the index may know less of the object than there is.
    unsettled: AtomicBool,
    /// Shared by writers from the first byte to the bit; exclusive for who takes bits back, so that none
    /// comes back for a write that a failed sync has lost.
    writing: RwLock<()>,
    /// What is known to be on the disk. Held through a commit: one at a time.
    durable: Mutex<Durable>,
    /// After the file: what is charged must not be less than what is taken.
    orphaned: Orphaned,
    /// Last, so that the key is free only when the rest is gone.
    seat: Arc<Seat>,
}

/// What is known to be on the disk.
#[derive(Debug)]
struct Durable {
    /// What the durable map names.
    words: Vec<u64>,
    /// Whether the file's attribute is.
    attribute: bool,
    /// An earlier process wrote it, and may have died before it synced the last step.
    inherited: bool,
}

/// What the ledger charges for a file since it lost its name. Given back when the file is closed.
struct Orphaned {
    store: Arc<Store>,
    charge: AtomicU64,
}

impl Orphaned {
    fn new(store: &Arc<Store>) -> Self {
        Self { store: Arc::clone(store), charge: AtomicU64::new(0) }
    }
}

impl Drop for Orphaned {
    fn drop(&mut self) {
        self.store.ledger.settle(*self.charge.get_mut(), 0);
    }
}

impl Durable {
    fn nothing(owner: &Owner) -> Self {
        Self { words: owner.holes(), attribute: false, inherited: false }
    }
}

impl CacheFile {
    /// Volume and key.
    pub fn name(&self) -> Name {
        (self.place.volume.clone(), self.place.cookie.clone())
    }

    /// What the client says the content is.
    pub fn aux(&self) -> &[u8] {
        &self.coherency.aux
    }

    fn owner(&self) -> Owner {
        Owner { instance: self.coherency.instance, size: self.coherency.size, block: BLOCK }
    }

    fn is_sealed(&self) -> bool {
        self.sealed.load(Ordering::Acquire)
    }

    pub fn is_withdrawn(&self) -> bool {
        self.withdrawn.load(Ordering::Acquire)
    }

    /// The live map, while it is what counts.
    fn live(&self) -> Option<&LiveMap> {
        if self.is_sealed() { None } else { self.live.as_ref() }
    }

    /// Sees to it that the live map outlives this worker. To be called as a writer of an object that is not withdrawn:
    /// the map takes the place of any other that the holder has under the name.
    fn share(&self, live: &LiveMap) -> io::Result<()> {
        live.share(|memfd| open::keep(&self.store, &self.place.live, Some(memfd)))
    }

    fn failed(&self, doing: &'static str, source: io::Error) -> Error {
        Error::io(&self.place.cookie, doing, source)
    }

    /// Bytes that a write of `range` may take on the disk: its blocks that are not present, and what the file
    /// system needs to find them.
    fn cost(&self, live: &LiveMap, range: ObjectRange) -> u64 {
        let end = BLOCK.round_up(range.end()).unwrap_or(u64::MAX);
        let (mut at, mut bytes) = (BLOCK.round_down(range.start()), 0);
        while at < end.min(self.coherency.size) {
            let (Run::Hole { until } | Run::Present { until }) =
                live.presence().probe(ObjectRange::new(at, end).unwrap_or(range));
            let next = until.min(end);
            if matches!(live.presence().probe(ObjectRange::at(at, 1)), Run::Hole { .. }) {
                bytes += next.next_multiple_of(BLOCK.bytes()) - at;
            }
            at = next;
        }
        bytes + bytes.div_ceil(256)
    }

    /// From now on everything is a hole. On return no writer and no commit is left that did not know it.
    fn withdraw_now(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.withdrawn.store(true, Ordering::Release);
        drop(self.durable.lock().unwrap_or_else(PoisonError::into_inner));
        drop(self.writing.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// The file is about to lose its name: what it is charged with stays with the object to its end. Returns it.
    fn orphan(&self) -> u64 {
        let row = self.store.index.get(&self.name());
        let charged = row.map_or(0, |row| row.charge()).saturating_add(self.seat.take_extra());
        self.orphaned.charge.store(charged, Ordering::Release);
        charged
    }

    /// The object's volume is buried, and the file is charged there from now on.
    pub fn bury(&self) {
        self.withdraw_now();
        // The grave is charged by the row, which must have all that was written.
        self.settle();
        // Charged twice until it is closed: in the graveyard, and as a file that is open.
        let charged = self.orphan();
        self.store.ledger.settle(0, charged);
        *self.seat.lock() = Weak::new();
    }
}

impl Drop for CacheFile {
    fn drop(&mut self) {
        tracing::trace!(volume = %self.place.volume, cookie = %self.place.cookie, "cachefiles_mark_inactive");
        if self.is_withdrawn() {
            return;
        }
        let current = self.seat.lock();
        // Somebody may have opened the file again already, and answers for it now.
        if std::ptr::eq(current.as_ptr(), self) {
            self.leave();
        }
    }
}

impl CacheObject for CacheFile {
    fn size(&self) -> u64 {
        self.coherency.size
    }

    fn block_size(&self) -> BlockSize {
        BLOCK
    }

    fn probe_within(&self, want: ObjectRange) -> Run {
        let size = self.coherency.size;
        if self.is_withdrawn() {
            return Run::Hole { until: if want.start() < size { size } else { u64::MAX } };
        }
        match self.live() {
            Some(live) => live.presence().probe(want),
            None if want.start() < size => Run::Present { until: size },
            None => Run::Hole { until: u64::MAX },
        }
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    fn withdraw(&self) {
        let mut current = self.seat.lock();
        let sits_here = std::ptr::eq(current.as_ptr(), self);
        self.withdraw_now();
        if sits_here {
            self.settle();
            *current = Weak::new();
        }
    }

    fn read_at(&self, at: u64, buf: &mut [u8]) -> io::Result<usize> {
        if self.is_withdrawn() {
            return Err(Errno::STALE.into());
        }
        tracing::trace!(volume = %self.place.volume, cookie = %self.place.cookie, start = at, len = buf.len(), "cachefiles_read");
        self.file.pread(buf, at)
    }

    fn write(&self, at: u64, data: &[u8]) -> Result<(), Error> {
        let range = ObjectRange::at(at, data.len() as u64);
        let size = self.coherency.size;
        if range.end() > size || range.len() != data.len() as u64 {
            return Err(Error::OutOfBounds { cookie: self.place.cookie.clone(), range, size });
        }
        let withdrawn = || Error::Withdrawn { cookie: self.place.cookie.clone() };
        if self.is_withdrawn() {
            return Err(withdrawn());
        }
        // The same content is there already: the key is its digest.
        let Some(live) = self.live() else { return Ok(()) };
        // Making room may take long, and a commit waits for writers: so before this is one. Blocks that a failed
        // sync makes holes in the meantime are charged already.
        let bytes = self.cost(live, range);
        let drawn =
            self.store.draw(Goal { bytes, files: 0 }).map_err(|source| self.failed("writing", source))?;
        let _writing = self.writing.read().unwrap_or_else(PoisonError::into_inner);
        if self.is_withdrawn() || self.is_sealed() {
            self.store.ledger.settle(bytes, 0);
            return if self.is_withdrawn() { Err(withdrawn()) } else { Ok(()) };
        }
        if let Err(source) = self.share(live) {
            self.store.ledger.settle(bytes, 0);
            return Err(self.failed("making the live map", source));
        }
        self.seat.charge(bytes);
        self.unsettled.store(true, Ordering::Release);
        write_all(&*self.file, data, at).map_err(|source| self.failed("writing", source))?;
        drop(drawn);
        point(Site::CachefilesWritten);
        let fresh = live.presence().set(range);
        self.present.fetch_add(fresh, Ordering::AcqRel);
        point(Site::CachefilesMarked);
        tracing::trace!(
            volume = %self.place.volume, cookie = %self.place.cookie, start = at, len = range.len(), "cachefiles_write"
        );
        Ok(())
    }

    fn present_bytes(&self) -> u64 {
        let size = self.coherency.size;
        if self.is_withdrawn() {
            return 0;
        }
        match self.live() {
            // Adding and taking back are not one step with the bits: for an instant the sum may be below 0.
            Some(_) => Some(self.present.load(Ordering::Acquire)).filter(|sum| *sum <= size).unwrap_or(0),
            None => size,
        }
    }

    fn file(&self) -> BorrowedFd<'_> {
        // Who asks may mount it. A successor goes on with a file that has lost its name only where it finds a live map.
        if let Some(live) = self.live().filter(|live| live.memfd().is_none()) {
            let _writing = self.writing.read().unwrap_or_else(PoisonError::into_inner);
            if !self.is_withdrawn()
                && let Err(error) = self.share(live)
            {
                tracing::warn!(cookie = %self.place.cookie, %error, "the live map cannot be shared");
            }
        }
        self.file.as_fd()
    }

    fn sealed_file(&self) -> Option<BorrowedFd<'_>> {
        (self.is_sealed() && !self.is_withdrawn()).then(|| self.file.as_fd())
    }

    fn path(&self) -> Option<&Path> {
        Some(&self.path)
    }

    fn commit(&self) -> Result<(), Error> {
        self.commit_now()
    }
}
