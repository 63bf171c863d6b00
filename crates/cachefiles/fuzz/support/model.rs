//! A cache with one object: how it is made, where its files lie, and what may be read from it.

use std::path::Path;
use std::sync::{Arc, LazyLock};

use larder_cachefiles::{BootId, Cachefiles, Config, NoHolder};
use larder_fscache::{Backend, CacheObject, CookieKey, Error, ObjectSpec, Run, VolumeKey};
use tempfile::TempDir;

/// Blocks and a part of one.
pub const SIZE: usize = 5 * BLOCK + 123;
pub const BLOCK: usize = 4096;

/// The object's contents.
pub static TRUTH: LazyLock<Vec<u8>> = LazyLock::new(|| (1..=250).cycle().take(SIZE).collect());

/// A cache of one object, in a folder that goes away.
pub struct Kept(TempDir);

impl Kept {
    /// A new and empty folder.
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    /// The cache's folder.
    pub fn root(&self) -> &Path {
        self.0.path()
    }

    /// Opens the cache as any program would.
    pub fn open(&self) -> Result<Cachefiles, larder_cachefiles::Error> {
        let boot_id = BootId::of_this_machine().expect("/proc is mounted");
        Cachefiles::open(Config::new(self.root().to_owned(), boot_id, Arc::new(NoHolder)))
    }

    /// Opens the object.
    pub fn acquire(cache: &Cachefiles) -> Result<Arc<dyn CacheObject>, Error> {
        let volume = VolumeKey::new("volume").expect("valid");
        let key = CookieKey::new("key").expect("valid");
        cache.acquire(&volume, &key, &ObjectSpec::of_size(SIZE as u64)).map(|object| object as _)
    }

    /// Fills the object's first blocks, or all of it, and makes that durable.
    pub fn fill(&self, bytes: usize) {
        let cache = self.open().expect("new");
        let object = Self::acquire(&cache).expect("new");
        object.write(0, &TRUTH[..bytes]).expect("space");
        object.commit().expect("space");
    }
}

/// Reads what is there, and compares where `is_exact`.
pub fn check(object: &dyn CacheObject, is_exact: bool) {
    let mut at = 0;
    while at < SIZE as u64 {
        let until = match object.probe(at) {
            Run::Hole { until } => until.min(SIZE as u64),
            Run::Present { until } => {
                assert!(until <= SIZE as u64);
                let (start, end) =
                    (usize::try_from(at).expect("small"), usize::try_from(until).expect("small"));
                let mut bytes = vec![0; end - start];
                let len = object.read_at(at, &mut bytes).expect("readable");
                assert!(!is_exact || bytes[..len] == TRUTH[start..end], "wrong bytes at {at}");
                until
            }
        };
        assert!(until > at, "no progress at {at}");
        at = until;
    }
}

/// Fills what is missing, after which everything is right where it was `is_exact` before.
pub fn complete(object: &dyn CacheObject, is_exact: bool) {
    object.write(0, &TRUTH).expect("space");
    assert!(object.is_complete());
    check(object, is_exact);
    object.commit().expect("space");
}
