//! [`Troubled`]: a cache in memory that fails when told to.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use larder_fscache::memory::Memory;
use larder_fscache::{
    Backend, BlockSize, CacheObject, CookieKey, Error, ObjectRange, ObjectSpec, Run, VolumeKey,
};

/// What a cache is told to do wrong.
#[derive(Debug, Default)]
pub struct Troubles {
    /// Writes find no space.
    pub is_full: AtomicBool,
    /// A write does not return as long as it is set.
    pub is_stuck: AtomicBool,
    /// Reads fail.
    pub cannot_read: AtomicBool,
}

/// A cache in memory that does wrong what it is told to.
pub struct Troubled {
    memory: Memory,
    troubles: Arc<Troubles>,
}

impl Troubled {
    /// An empty cache that does what `troubles` says at any time.
    pub fn new(troubles: Arc<Troubles>) -> Self {
        Self { memory: Memory::new(), troubles }
    }
}

struct Object {
    below: Arc<dyn CacheObject>,
    troubles: Arc<Troubles>,
    cookie: CookieKey,
}

impl Backend for Troubled {
    fn acquire(
        &self,
        volume: &VolumeKey,
        cookie: &CookieKey,
        spec: &ObjectSpec,
    ) -> Result<Arc<dyn CacheObject>, Error> {
        let below = self.memory.acquire(volume, cookie, spec)?;
        Ok(Arc::new(Object { below, troubles: Arc::clone(&self.troubles), cookie: cookie.clone() }))
    }

    fn relinquish(&self, volume: &VolumeKey, cookie: &CookieKey) -> Result<(), Error> {
        self.memory.relinquish(volume, cookie)
    }

    fn remove(&self, volume: &VolumeKey, cookie: &CookieKey) -> Result<(), Error> {
        self.memory.remove(volume, cookie)
    }
}

impl CacheObject for Object {
    fn size(&self) -> u64 {
        self.below.size()
    }

    fn block_size(&self) -> BlockSize {
        self.below.block_size()
    }

    fn probe_within(&self, want: ObjectRange) -> Run {
        self.below.probe_within(want)
    }

    fn read_at(&self, at: u64, buf: &mut [u8]) -> io::Result<usize> {
        if self.troubles.cannot_read.load(Ordering::Relaxed) {
            return Err(io::Error::other("the disk fails"));
        }
        self.below.read_at(at, buf)
    }

    fn write(&self, at: u64, data: &[u8]) -> Result<(), Error> {
        while self.troubles.is_stuck.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(1));
        }
        if self.troubles.is_full.load(Ordering::Relaxed) {
            let source = io::Error::from(io::ErrorKind::StorageFull);
            return Err(Error::NoSpace { cookie: self.cookie.clone(), doing: "writing", source });
        }
        self.below.write(at, data)
    }

    fn generation(&self) -> u64 {
        self.below.generation()
    }

    fn withdraw(&self) {
        self.below.withdraw();
    }

    fn present_bytes(&self) -> u64 {
        self.below.present_bytes()
    }

    fn is_complete(&self) -> bool {
        self.below.is_complete()
    }

    fn file(&self) -> BorrowedFd<'_> {
        self.below.file()
    }

    fn commit(&self) -> Result<(), Error> {
        self.below.commit()
    }
}
