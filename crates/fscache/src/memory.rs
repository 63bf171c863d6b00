//! [`Memory`]: a backend without a disk, for the tests of whoever uses cookies.
//!
//! Objects are memory files, so that [`CacheObject::file`] is a real descriptor, and they stay until the
//! backend is dropped or the object removed. A test can make the next writes fail.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{MemfdFlags, memfd_create};

use crate::{Backend, BlockSize, CacheObject, CookieKey, Error, ObjectRange, Presence, Run, VolumeKey};

/// A backend in memory.
#[derive(Default)]
pub struct Memory {
    objects: Mutex<HashMap<(VolumeKey, CookieKey), Arc<MemoryObject>>>,
    write_errno: Arc<AtomicI32>,
}

impl Memory {
    /// Returns an empty backend.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes every write fail with `errno` from now on; 0 ends it.
    pub fn fail_writes(&self, errno: i32) {
        self.write_errno.store(errno, Ordering::Relaxed);
    }

    fn remove_if_idle(&self, volume: &VolumeKey, cookie: &CookieKey, remove: bool) -> Result<(), Error> {
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        let name = (volume.clone(), cookie.clone());
        match objects.get(&name) {
            Some(object) if Arc::strong_count(object) > 1 => Err(Error::Busy { cookie: cookie.clone() }),
            _ if !remove => Ok(()),
            _ => {
                objects.remove(&name);
                Ok(())
            }
        }
    }
}

impl Backend for Memory {
    fn acquire(
        &self,
        volume: &VolumeKey,
        cookie: &CookieKey,
        size: u64,
    ) -> Result<Arc<dyn CacheObject>, Error> {
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        let name = (volume.clone(), cookie.clone());
        let object = match objects.get(&name) {
            Some(object) if object.size == size => Arc::clone(object),
            Some(object) if Arc::strong_count(object) > 1 => {
                return Err(Error::Size { cookie: cookie.clone(), expected: size, found: object.size });
            }
            _ => {
                let fresh = Arc::new(MemoryObject::new(cookie, size, Arc::clone(&self.write_errno))?);
                objects.insert(name, Arc::clone(&fresh));
                fresh
            }
        };
        Ok(object)
    }

    fn relinquish(&self, volume: &VolumeKey, cookie: &CookieKey) -> Result<(), Error> {
        self.remove_if_idle(volume, cookie, false)
    }

    fn remove(&self, volume: &VolumeKey, cookie: &CookieKey) -> Result<(), Error> {
        self.remove_if_idle(volume, cookie, true)
    }
}

/// An object of [`Memory`].
struct MemoryObject {
    cookie: CookieKey,
    size: u64,
    file: File,
    words: Vec<AtomicU64>,
    write_errno: Arc<AtomicI32>,
}

impl MemoryObject {
    const BLOCK: BlockSize = BlockSize::FOUR_KIB;

    fn new(cookie: &CookieKey, size: u64, write_errno: Arc<AtomicI32>) -> Result<Self, Error> {
        let failed = |source: io::Error| Error::io(cookie, "creating the object", source);
        let file =
            memfd_create("larder-object", MemfdFlags::CLOEXEC).map_err(|errno| failed(errno.into()))?;
        let file = File::from(file);
        file.set_len(size).map_err(failed)?;
        let words = (0..Presence::words_for(size, Self::BLOCK)).map(|_| AtomicU64::new(0)).collect();
        Ok(Self { cookie: cookie.clone(), size, file, words, write_errno })
    }

    fn presence(&self) -> Presence<'_> {
        Presence::new(&self.words, self.size, Self::BLOCK).expect("made with as many words as the size needs")
    }
}

impl CacheObject for MemoryObject {
    fn size(&self) -> u64 {
        self.size
    }

    fn block_size(&self) -> BlockSize {
        Self::BLOCK
    }

    fn probe_within(&self, want: ObjectRange) -> Run {
        self.presence().probe(want)
    }

    fn read_at(&self, at: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(buf, at)
    }

    fn write(&self, at: u64, data: &[u8]) -> Result<(), Error> {
        let range = ObjectRange::at(at, data.len() as u64);
        if range.end() > self.size || range.len() != data.len() as u64 {
            return Err(Error::OutOfBounds { cookie: self.cookie.clone(), range, size: self.size });
        }
        let written = match self.write_errno.load(Ordering::Relaxed) {
            0 => self.file.write_all_at(data, at),
            errno => Err(io::Error::from_raw_os_error(errno)),
        };
        written.map_err(|error| Error::io(&self.cookie, "writing", error))?;
        self.presence().set(range);
        Ok(())
    }

    fn present_bytes(&self) -> u64 {
        self.presence().present_bytes()
    }

    fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    fn commit(&self) -> Result<(), Error> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_marks_nothing() {
        let memory = Memory::new();
        let (volume, cookie) = (VolumeKey::new("v").expect("valid"), CookieKey::new("c").expect("valid"));
        let object = memory.acquire(&volume, &cookie, 4096).expect("memory");
        memory.fail_writes(rustix::io::Errno::NOSPC.raw_os_error());
        let failed = object.write(0, &[1; 4096]);
        assert!(matches!(failed, Err(Error::NoSpace { .. })), "{failed:?}");
        assert_eq!((object.present_bytes(), object.probe(0)), (0, Run::Hole { until: 4096 }));
        memory.fail_writes(0);
        object.write(0, &[1; 4096]).expect("the fault is over");
        assert!(object.is_complete());
    }
}
