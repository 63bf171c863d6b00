//! [`Backend`] and [`CacheObject`]: what a place to keep the bytes must offer.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;

use crate::{AuxData, BlockSize, CookieKey, Error, ObjectRange, ObjectSpec, Run, VolumeKey};

/// A place that keeps objects: the counterpart of a cache in fscache.
pub trait Backend: Send + Sync + 'static {
    /// Readies a volume. Objects that an earlier run left in it under other coherency data are dropped. Blocks for I/O.
    ///
    /// # Errors
    ///
    /// [`Error::NoSpace`], [`Error::VolumeIo`].
    fn acquire_volume(&self, _volume: &VolumeKey, _coherency: &AuxData) -> Result<(), Error> {
        Ok(())
    }

    /// Opens the object of `cookie` in `volume`, or creates it as `spec` says, all holes.
    ///
    /// What an earlier run left is taken up only as far as it is known to be right: an object of another size or
    /// with other coherency data is dropped. While an object is alive the same key gives the same object. Blocks
    /// for I/O.
    ///
    /// # Errors
    ///
    /// [`Error::Size`] when the object is in use with another size, [`Error::Coherency`] when with other coherency
    /// data, [`Error::TooLarge`], [`Error::NoSpace`], [`Error::Io`].
    fn acquire(
        &self,
        volume: &VolumeKey,
        cookie: &CookieKey,
        spec: &ObjectSpec,
    ) -> Result<Arc<dyn CacheObject>, Error>;

    /// Puts a new object, all holes, in the place of the one that the key has. One that is alive is withdrawn: its
    /// users find nothing in it from now on. Blocks for I/O.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire); the key has no object then. [`Error::Busy`] from a backend that cannot do this
    /// while the old object is alive.
    fn replace(
        &self,
        volume: &VolumeKey,
        cookie: &CookieKey,
        spec: &ObjectSpec,
    ) -> Result<Arc<dyn CacheObject>, Error> {
        self.remove(volume, cookie)?;
        self.acquire(volume, cookie, spec)
    }

    /// Gives the object of `cookie` another size. What both sizes have in whole blocks stays present. One that is
    /// alive is withdrawn; the new one is returned. Blocks for I/O.
    ///
    /// # Errors
    ///
    /// As [`replace`](Self::replace).
    fn resize(
        &self,
        volume: &VolumeKey,
        cookie: &CookieKey,
        spec: &ObjectSpec,
    ) -> Result<Arc<dyn CacheObject>, Error> {
        // Nothing kept is not wrong, only slow.
        self.replace(volume, cookie, spec)
    }

    /// Says that nobody needs the object in use any more, so that what is held for it can be let go.
    ///
    /// Its bytes stay in the cache. Dropping an object does not do this, since a worker that stops to be
    /// replaced drops its objects too.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] while the object is alive.
    fn relinquish(&self, volume: &VolumeKey, cookie: &CookieKey) -> Result<(), Error>;

    /// Removes an idle object and its bytes; one that is not there is no error. Blocks for I/O.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] while the object is alive, [`Error::Io`].
    fn remove(&self, volume: &VolumeKey, cookie: &CookieKey) -> Result<(), Error>;
}

/// One object: a file of fixed size with a presence map.
pub trait CacheObject: Send + Sync + 'static {
    /// Size in bytes; never changes.
    fn size(&self) -> u64;

    /// The granule of presence.
    fn block_size(&self) -> BlockSize;

    /// Says what the presence map knows from `want.start()` on, looking no further than `want.end()`.
    ///
    /// Lock-free, no allocation, no I/O. Past the end of the object everything is a hole.
    fn probe_within(&self, want: ObjectRange) -> Run;

    /// Says what the presence map knows from `at` on, looking to the end of the object.
    fn probe(&self, at: u64) -> Run {
        self.probe_within(ObjectRange::at(at, u64::MAX))
    }

    /// A number that is raised before any byte that was present is taken away: by a punch, a failed sync, a
    /// withdrawal. Who has copied bytes and then finds the number unchanged, and the bytes still present, has
    /// copied what was there.
    fn generation(&self) -> u64;

    /// Withdraws the object under its users: from now on everything is a hole, and a write fails with
    /// [`Error::Withdrawn`].
    fn withdraw(&self);

    /// Reads from the backing file, holes as zeros. Returns the number of bytes read, 0 at the end.
    ///
    /// # Errors
    ///
    /// What the system says.
    fn read_at(&self, at: u64, buf: &mut [u8]) -> io::Result<usize>;

    /// Writes all of `data`, then marks the blocks that it covers whole (the object's end is a boundary).
    ///
    /// On return the bytes are readable by everybody and present; they are durable only after [`commit`].
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`], [`Error::NoSpace`], [`Error::Withdrawn`], [`Error::Io`]; nothing was marked then.
    ///
    /// [`commit`]: CacheObject::commit
    fn write(&self, at: u64, data: &[u8]) -> Result<(), Error>;

    /// Whether every byte is present.
    fn is_complete(&self) -> bool {
        self.present_bytes() == self.size()
    }

    /// Number of bytes present.
    fn present_bytes(&self) -> u64;

    /// Whether no byte is present.
    fn is_empty(&self) -> bool {
        self.present_bytes() == 0
    }

    /// The backing file, opened before any front end puts a mark on it (the fill descriptor).
    fn file(&self) -> BorrowedFd<'_>;

    /// The backing file, once everything is there for good: nothing that could be read of it changes any more, and it may
    /// be read without asking for as long as the object is in use. `None` while anything can still change, and where a
    /// backend has no such files.
    fn sealed_file(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// The path of the backing file, where it has one.
    fn path(&self) -> Option<&Path> {
        None
    }

    /// Makes what is present now durable: data first, then the map that vouches for it. Blocks for I/O.
    ///
    /// # Errors
    ///
    /// [`Error::NoSpace`] or [`Error::Io`]. When the data could not be synced, everything that was not
    /// durable before is a hole again.
    fn commit(&self) -> Result<(), Error>;
}
