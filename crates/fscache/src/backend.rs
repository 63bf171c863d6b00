//! [`Backend`] and [`CacheObject`]: what a place to keep the bytes must offer.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;

use crate::{BlockSize, CookieKey, Error, ObjectRange, Run, VolumeKey};

/// A place that keeps objects: the counterpart of a cache in fscache.
pub trait Backend: Send + Sync + 'static {
    /// Opens the object of `cookie` in `volume`, or creates it with `size` bytes, all holes.
    ///
    /// What an earlier run left is taken up only as far as it is known to be right. While an object is
    /// alive the same key gives the same object. Blocks for I/O.
    ///
    /// # Errors
    ///
    /// [`Error::Size`] when the object is in use with another size, [`Error::TooLarge`],
    /// [`Error::NoSpace`], [`Error::Io`].
    fn acquire(
        &self,
        volume: &VolumeKey,
        cookie: &CookieKey,
        size: u64,
    ) -> Result<Arc<dyn CacheObject>, Error>;

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
    /// [`Error::OutOfBounds`], [`Error::NoSpace`], [`Error::Io`]; nothing was marked then.
    ///
    /// [`commit`]: CacheObject::commit
    fn write(&self, at: u64, data: &[u8]) -> Result<(), Error>;

    /// Whether every byte is present.
    fn is_complete(&self) -> bool {
        self.present_bytes() == self.size()
    }

    /// Number of bytes present.
    fn present_bytes(&self) -> u64;

    /// The backing file, opened before any front end puts a mark on it (the fill descriptor).
    fn file(&self) -> BorrowedFd<'_>;

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
