//! [`Memory`]: a backend without a disk, for small caches and for the tests of whoever uses cookies.
//!
//! Objects are memory files, so that [`CacheObject::file`] is a real descriptor. They stay until the backend is
//! dropped, the object is removed, or, in a backend with a capacity, an idle one has to make room.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;

use crate::{
    Backend, BlockSize, CacheObject, CookieKey, Error, ObjectRange, ObjectSpec, Presence, Run, VolumeKey,
};

const BLOCK: BlockSize = BlockSize::FOUR_KIB;

type Name = (VolumeKey, CookieKey);

/// A backend in memory.
#[derive(Default)]
pub struct Memory {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    objects: Mutex<Objects>,
    /// Bytes present in all objects, and the most there may be; 0 for any number.
    used: AtomicU64,
    capacity: u64,
    write_errno: AtomicI32,
}

#[derive(Default)]
struct Objects {
    by_name: HashMap<Name, Entry>,
    acquisitions: u64,
}

struct Entry {
    object: Arc<MemoryObject>,
    /// Number of its last acquisition: the least one is the least recently used.
    acquired: u64,
}

impl Memory {
    /// Returns an empty backend.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns an empty backend that keeps at most `capacity` bytes: least recently used idle objects make room.
    pub fn with_capacity(capacity: u64) -> Self {
        Self { shared: Arc::new(Shared { capacity: capacity.max(1), ..Shared::default() }) }
    }

    /// Bytes present in all objects.
    pub fn used_bytes(&self) -> u64 {
        self.shared.used.load(Ordering::Acquire)
    }

    /// Makes every write fail with `errno` from now on; 0 ends it.
    pub fn fail_writes(&self, errno: i32) {
        self.shared.write_errno.store(errno, Ordering::Relaxed);
    }

    /// Makes an object of `spec`, with the bytes that `keep` has.
    fn make(
        &self,
        name: &Name,
        spec: &ObjectSpec,
        keep: Option<&MemoryObject>,
    ) -> Result<Arc<MemoryObject>, Error> {
        let object = MemoryObject::new(name.1.clone(), spec.clone(), Arc::clone(&self.shared))?;
        if let Some(old) = keep {
            object.copy_from(old)?;
        }
        Ok(Arc::new(object))
    }

    fn put(&self, name: Name, object: Arc<MemoryObject>) -> Arc<MemoryObject> {
        let mut objects = self.shared.lock();
        objects.acquisitions += 1;
        let acquired = objects.acquisitions;
        let old = objects.by_name.insert(name, Entry { object: Arc::clone(&object), acquired });
        drop(objects);
        drop(old);
        object
    }

    fn displace(&self, name: &Name, spec: &ObjectSpec, keeps: bool) -> Result<Arc<dyn CacheObject>, Error> {
        let old = self.shared.lock().by_name.remove(name).map(|entry| entry.object);
        if let Some(old) = &old {
            old.retire();
        }
        let object = self.make(name, spec, old.as_deref().filter(|_| keeps))?;
        Ok(self.put(name.clone(), object))
    }

    fn on_idle(&self, volume: &VolumeKey, cookie: &CookieKey, removes: bool) -> Result<(), Error> {
        let mut objects = self.shared.lock();
        let name = (volume.clone(), cookie.clone());
        match objects.by_name.get(&name) {
            Some(entry) if Arc::strong_count(&entry.object) > 1 => {
                Err(Error::Busy { cookie: cookie.clone() })
            }
            Some(_) if removes => {
                let gone = objects.by_name.remove(&name);
                drop(objects);
                drop(gone);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes `bytes` of the capacity, from idle objects if need be; returns whether there were enough.
    fn reserve(&self, bytes: u64) -> bool {
        let most = if self.capacity == 0 { u64::MAX } else { self.capacity };
        let add = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= most);
        while self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, add).is_err() {
            if !self.evict_one() {
                return false;
            }
        }
        true
    }

    fn evict_one(&self) -> bool {
        let mut objects = self.lock();
        let idle = objects
            .by_name
            .iter()
            .filter(|(_, entry)| Arc::strong_count(&entry.object) == 1 && entry.object.present_bytes() > 0);
        let Some(name) = idle.min_by_key(|(_, entry)| entry.acquired).map(|(name, _)| name.clone()) else {
            return false;
        };
        let gone = objects.by_name.remove(&name);
        drop(objects);
        drop(gone);
        true
    }
}

impl Backend for Memory {
    fn acquire(
        &self,
        volume: &VolumeKey,
        cookie: &CookieKey,
        spec: &ObjectSpec,
    ) -> Result<Arc<dyn CacheObject>, Error> {
        let name = (volume.clone(), cookie.clone());
        let mut objects = self.shared.lock();
        objects.acquisitions += 1;
        let acquired = objects.acquisitions;
        if let Some(entry) = objects.by_name.get_mut(&name) {
            let found = &entry.object.spec;
            if found == spec {
                entry.acquired = acquired;
                return Ok(Arc::clone(&entry.object) as Arc<dyn CacheObject>);
            }
            if Arc::strong_count(&entry.object) > 1 {
                return Err(match found.aux == spec.aux {
                    true => Error::Size { cookie: cookie.clone(), expected: spec.size, found: found.size },
                    false => Error::Coherency { name: format!("cookie {cookie}") },
                });
            }
        }
        let stale = objects.by_name.remove(&name);
        drop(objects);
        drop(stale);
        let object = self.make(&name, spec, None)?;
        Ok(self.put(name, object))
    }

    fn replace(
        &self,
        volume: &VolumeKey,
        cookie: &CookieKey,
        spec: &ObjectSpec,
    ) -> Result<Arc<dyn CacheObject>, Error> {
        self.displace(&(volume.clone(), cookie.clone()), spec, false)
    }

    fn resize(
        &self,
        volume: &VolumeKey,
        cookie: &CookieKey,
        spec: &ObjectSpec,
    ) -> Result<Arc<dyn CacheObject>, Error> {
        self.displace(&(volume.clone(), cookie.clone()), spec, true)
    }

    fn relinquish(&self, volume: &VolumeKey, cookie: &CookieKey) -> Result<(), Error> {
        self.on_idle(volume, cookie, false)
    }

    fn remove(&self, volume: &VolumeKey, cookie: &CookieKey) -> Result<(), Error> {
        self.on_idle(volume, cookie, true)
    }
}

/// An object of [`Memory`].
struct MemoryObject {
    cookie: CookieKey,
    spec: ObjectSpec,
    file: File,
    words: Vec<AtomicU64>,
    shared: Arc<Shared>,
    generation: AtomicU64,
    withdrawn: AtomicBool,
    /// Shared by writers from the reservation to the bit; exclusive for who takes bits back.
    writing: RwLock<()>,
}

impl MemoryObject {
    fn new(cookie: CookieKey, spec: ObjectSpec, shared: Arc<Shared>) -> Result<Self, Error> {
        let failed = |source: io::Error| Error::io(&cookie, "creating the object", source);
        let file =
            memfd_create("larder-object", MemfdFlags::CLOEXEC).map_err(|errno| failed(errno.into()))?;
        let file = File::from(file);
        file.set_len(spec.size).map_err(failed)?;
        let words = (0..Presence::words_for(spec.size, BLOCK)).map(|_| AtomicU64::new(0)).collect();
        Ok(Self {
            cookie,
            spec,
            file,
            words,
            shared,
            generation: AtomicU64::new(0),
            withdrawn: AtomicBool::new(false),
            writing: RwLock::new(()),
        })
    }

    fn presence(&self) -> Presence<'_> {
        Presence::new(&self.words, self.spec.size, BLOCK).expect("made with as many words as the size needs")
    }

    fn is_withdrawn(&self) -> bool {
        self.withdrawn.load(Ordering::Acquire)
    }

    /// Withdraws it, but leaves the bits, for who copies them.
    fn retire(&self) {
        let _no_writers = self.writing.write().unwrap_or_else(PoisonError::into_inner);
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.withdrawn.store(true, Ordering::Release);
    }

    /// Copies what both have in whole blocks.
    fn copy_from(&self, old: &Self) -> Result<(), Error> {
        let both = old.spec.size.min(self.spec.size);
        let mut block = vec![0; usize::try_from(BLOCK.bytes()).expect("a small constant")];
        for at in (0..both).step_by(block.len()) {
            let is_whole = at + BLOCK.bytes() <= both || old.spec.size == self.spec.size;
            if !is_whole || matches!(old.presence().probe(ObjectRange::at(at, 1)), Run::Hole { .. }) {
                continue;
            }
            let len = usize::try_from(BLOCK.bytes().min(both - at)).expect("a small number");
            let failed = |source| Error::io(&self.cookie, "copying the object", source);
            old.file.read_exact_at(&mut block[..len], at).map_err(failed)?;
            self.write(at, &block[..len])?;
        }
        Ok(())
    }

    fn try_write(&self, at: u64, data: &[u8]) -> io::Result<()> {
        match self.shared.write_errno.load(Ordering::Relaxed) {
            0 => self.file.write_all_at(data, at),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

impl Drop for MemoryObject {
    fn drop(&mut self) {
        self.shared.used.fetch_sub(self.presence().present_bytes(), Ordering::AcqRel);
    }
}

impl CacheObject for MemoryObject {
    fn size(&self) -> u64 {
        self.spec.size
    }

    fn block_size(&self) -> BlockSize {
        BLOCK
    }

    fn probe_within(&self, want: ObjectRange) -> Run {
        if self.is_withdrawn() {
            return Run::Hole { until: u64::MAX };
        }
        self.presence().probe(want)
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    fn withdraw(&self) {
        self.retire();
    }

    fn read_at(&self, at: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(buf, at)
    }

    fn write(&self, at: u64, data: &[u8]) -> Result<(), Error> {
        let range = ObjectRange::at(at, data.len() as u64);
        if range.end() > self.spec.size || range.len() != data.len() as u64 {
            return Err(Error::OutOfBounds { cookie: self.cookie.clone(), range, size: self.spec.size });
        }
        let _writing = self.writing.read().unwrap_or_else(PoisonError::into_inner);
        if self.is_withdrawn() {
            return Err(Error::Withdrawn { cookie: self.cookie.clone() });
        }
        // As much as could become present; what was so before is given back.
        if !self.shared.reserve(range.len()) {
            return Err(Error::io(&self.cookie, "making room", Errno::NOSPC.into()));
        }
        let written = self.try_write(at, data);
        let fresh = if written.is_ok() { self.presence().set(range) } else { 0 };
        self.shared.used.fetch_sub(range.len() - fresh, Ordering::AcqRel);
        written.map_err(|error| Error::io(&self.cookie, "writing", error))
    }

    fn present_bytes(&self) -> u64 {
        if self.is_withdrawn() { 0 } else { self.presence().present_bytes() }
    }

    fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    fn commit(&self) -> Result<(), Error> {
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{AuxData, Cache, CacheResources, InUse};

    fn names() -> (VolumeKey, CookieKey) {
        (VolumeKey::new("v").expect("valid"), CookieKey::new("c").expect("valid"))
    }

    /// A cookie of a cache of its own, in use.
    pub(crate) fn open(spec: &ObjectSpec) -> InUse {
        let (volume, cookie) = names();
        let cache = Cache::new(Memory::new());
        let volume = cache.acquire_volume(&volume, &AuxData::default()).expect("memory");
        volume.acquire_cookie(&cookie, spec).and_then(|cookie| cookie.use_cookie()).expect("memory")
    }

    /// An operation on a cookie of `size` bytes.
    pub(crate) fn resources(size: u64) -> CacheResources {
        open(&ObjectSpec::of_size(size)).begin_read_operation().expect("memory")
    }

    fn acquire(memory: &Memory, key: &str, size: u64) -> Arc<dyn CacheObject> {
        let key = CookieKey::new(key).expect("valid");
        memory.acquire(&names().0, &key, &ObjectSpec::of_size(size)).expect("memory")
    }

    #[test]
    fn a_failed_write_marks_nothing() {
        let memory = Memory::new();
        let object = acquire(&memory, "c", 4096);
        memory.fail_writes(Errno::NOSPC.raw_os_error());
        let failed = object.write(0, &[1; 4096]);
        assert!(matches!(failed, Err(Error::NoSpace { .. })), "{failed:?}");
        assert_eq!((object.present_bytes(), object.probe(0)), (0, Run::Hole { until: 4096 }));
        assert_eq!(memory.used_bytes(), 0);
        memory.fail_writes(0);
        object.write(0, &[1; 4096]).expect("the fault is over");
        assert!(object.is_complete());
    }

    #[test]
    fn p5_a_capacity_is_never_passed_and_idle_objects_make_room_oldest_first() {
        let memory = Memory::with_capacity(3 * 4096);
        for key in ["old", "young"] {
            acquire(&memory, key, 4096).write(0, &[1; 4096]).expect("fits");
        }
        acquire(&memory, "old", 4096);
        let busy = acquire(&memory, "busy", 3 * 4096);
        busy.write(0, &[2; 2 * 4096]).expect("the least recently used makes room");
        assert_eq!(memory.used_bytes(), 3 * 4096);
        assert!(acquire(&memory, "old", 4096).is_complete());
        assert!(acquire(&memory, "young", 4096).is_empty());
        busy.write(2 * 4096, &[2; 4096]).expect("and the next one");
        let other = acquire(&memory, "other", 4096);
        assert!(matches!(other.write(0, &[1; 4096]), Err(Error::NoSpace { .. })), "what is in use stays");
        busy.write(0, &[3; 4096]).expect_err("even for bytes that are there there is no room to spare");
        assert_eq!(memory.used_bytes(), 3 * 4096);
    }

    #[test]
    fn another_size_keeps_whole_blocks_and_the_old_object_is_empty_to_its_users() {
        let memory = Memory::new();
        let (volume, cookie) = names();
        let old = acquire(&memory, "c", 3 * 4096 - 5);
        old.write(0, &[1; 3 * 4096 - 5]).expect("fits");
        let generation = old.generation();
        let new = memory.resize(&volume, &cookie, &ObjectSpec::of_size(4 * 4096)).expect("memory");
        assert_eq!(new.probe(0), Run::Present { until: 2 * 4096 });
        assert_eq!((old.probe(0), old.present_bytes()), (Run::Hole { until: u64::MAX }, 0));
        assert_ne!(old.generation(), generation);
        assert!(matches!(old.write(0, &[1]), Err(Error::Withdrawn { .. })));
        let smaller = memory.resize(&volume, &cookie, &ObjectSpec::of_size(4097)).expect("memory");
        assert_eq!(smaller.probe(0), Run::Present { until: 4096 });
        drop((old, new));
        assert_eq!(memory.used_bytes(), 4096);
    }

    #[test]
    fn a_replaced_object_is_empty() {
        let memory = Memory::new();
        let (volume, cookie) = names();
        let old = acquire(&memory, "c", 4096);
        old.write(0, &[1; 4096]).expect("fits");
        let new = memory.replace(&volume, &cookie, &ObjectSpec::of_size(4096)).expect("memory");
        assert!(new.is_empty() && old.is_empty());
        assert!(Arc::ptr_eq(&new, &acquire(&memory, "c", 4096)));
    }
}
