//! [`Cachefiles`]: a directory as an fscache backend.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use larder_fscache::{Backend, CacheObject, CookieKey, Error as CacheError, ObjectSpec, Table, VolumeKey};

use crate::layout::{CACHE, Place, is_map, map_of};
use crate::lock::Lock;
use crate::object::{self, CacheFile, Name};
use crate::storage::{Disk, Kind};
use crate::store::Store;
use crate::{BootId, DescriptorHolder, Error, durable, fitness};

/// What a cache is opened with.
pub struct Config {
    /// The directory; made when it is not there, readable for its owner only.
    pub root: PathBuf,
    /// The boot that live maps must belong to.
    pub boot_id: BootId,
    /// Who keeps descriptors when this process dies.
    pub holder: Arc<dyn DescriptorHolder>,
}

/// A cache in a directory. One process owns it at a time.
pub struct Cachefiles {
    store: Arc<Store>,
    objects: Table<Name, CacheFile>,
    /// None only in tests, whose storage is not on disk.
    _lock: Option<Lock>,
}

/// An object as it lies on the disk.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ObjectInfo {
    /// The volume it belongs to.
    pub volume: VolumeKey,
    /// Its name within the volume.
    pub cookie: CookieKey,
    /// Size in bytes, holes included.
    pub size: u64,
    /// Bytes that data and map take on the disk.
    pub stored_bytes: u64,
    /// Whether its durable map says that everything is there.
    pub complete: bool,
}

/// What a cache takes on the disk.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Usage {
    /// Number of objects.
    pub objects: u64,
    /// Bytes that their data and maps take.
    pub stored_bytes: u64,
}

impl Cachefiles {
    /// Opens the cache at `config.root`, or makes it. Blocks for I/O.
    ///
    /// # Errors
    ///
    /// [`Error::Locked`] while another process owns it; [`Error::Unfit`] when the file system cannot serve;
    /// [`Error::Root`], [`Error::Lock`].
    pub fn open(config: Config) -> Result<Self, Error> {
        let failed = |source| Error::Root { root: config.root.clone(), source };
        make_root(&config.root).map_err(failed)?;
        let root = std::path::absolute(&config.root).map_err(failed)?;
        let disk = Disk::open(&root).map_err(failed)?;
        let lock = Lock::take(&root, &*config.holder)?;
        let store = Store::new(Arc::new(disk), root, config.boot_id, config.holder);
        Self::over(store, Some(lock))
    }

    /// Opens a cache over any storage.
    pub(crate) fn over(store: Store, lock: Option<Lock>) -> Result<Self, Error> {
        let unfit = |step, source| Error::Unfit { root: store.root.clone(), step, source };
        fitness::try_out(&*store.storage).map_err(|unfit_for| unfit(unfit_for.step, unfit_for.source))?;
        store.clear_tmp().map_err(|source| unfit("removing a file", source))?;
        Ok(Self { store: Arc::new(store), objects: Table::new(), _lock: lock })
    }

    /// The absolute path of the directory.
    pub fn root(&self) -> &Path {
        &self.store.root
    }

    /// Returns every object on the disk, in no order. Blocks for I/O: it looks at each file.
    ///
    /// # Errors
    ///
    /// [`Error::Walk`].
    pub fn objects(&self) -> Result<Vec<ObjectInfo>, Error> {
        let mut found = Vec::new();
        self.walk(|volume, cookie, data| {
            let Some(stat) = self.store.storage.stat(data)?.filter(|stat| stat.kind == Kind::File) else {
                return Ok(());
            };
            let map = map_of(data);
            let map_stored = self.store.storage.stat(&map)?.map_or(0, |stat| stat.stored);
            let complete = durable::claims_complete(&*self.store.storage, &map);
            let stored_bytes = stat.stored.saturating_add(map_stored);
            found.push(ObjectInfo { volume, cookie, size: stat.len, stored_bytes, complete });
            Ok(())
        })?;
        Ok(found)
    }

    /// Adds up what the objects take on the disk. Blocks for I/O: one `stat` a file, no file is opened.
    ///
    /// # Errors
    ///
    /// [`Error::Walk`].
    pub fn usage(&self) -> Result<Usage, Error> {
        let mut usage = Usage::default();
        self.walk(|_volume, _cookie, data| {
            for path in [data, &map_of(data)] {
                let stored = self.store.storage.stat(path)?.map_or(0, |stat| stat.stored);
                usage.stored_bytes = usage.stored_bytes.saturating_add(stored);
            }
            usage.objects += 1;
            Ok(())
        })?;
        Ok(usage)
    }

    /// Calls `visit` with the keys and the path of every data file. What has no valid name is not ours.
    fn walk(&self, mut visit: impl FnMut(VolumeKey, CookieKey, &str) -> io::Result<()>) -> Result<(), Error> {
        let list = |dir: &str| self.store.storage.list(dir).map_err(|source| self.walk_failed(dir, source));
        for volume in list(CACHE)? {
            let Ok(volume_key) = VolumeKey::new(&volume) else { continue };
            for folder in list(&format!("{CACHE}/{volume}"))? {
                let dir = format!("{CACHE}/{volume}/{folder}");
                for name in list(&dir)?.into_iter().filter(|name| !is_map(name)) {
                    let Ok(cookie) = CookieKey::new(&name) else { continue };
                    let data = format!("{dir}/{name}");
                    visit(volume_key.clone(), cookie, &data)
                        .map_err(|source| self.walk_failed(&data, source))?;
                }
            }
        }
        Ok(())
    }

    fn walk_failed(&self, place: &str, source: io::Error) -> Error {
        Error::Walk { root: self.store.root.clone(), place: place.to_owned(), source }
    }

    /// Runs `work` on an object that is not alive.
    fn on_idle(
        &self,
        volume: &VolumeKey,
        cookie: &CookieKey,
        work: impl FnOnce(&Place) -> io::Result<()>,
    ) -> Result<(), CacheError> {
        let place = Place::new(volume, cookie);
        let done = self.objects.while_idle(&(volume.clone(), cookie.clone()), || {
            self.store.holder.release(&place.live);
            self.store.holder.release(&place.fill);
            work(&place)
        });
        match done {
            None => Err(CacheError::Busy { cookie: cookie.clone() }),
            Some(result) => result.map_err(|source| CacheError::io(cookie, "removing", source)),
        }
    }
}

impl Backend for Cachefiles {
    fn acquire(
        &self,
        volume: &VolumeKey,
        cookie: &CookieKey,
        spec: &ObjectSpec,
    ) -> Result<Arc<dyn CacheObject>, CacheError> {
        let size = spec.size;
        let name = (volume.clone(), cookie.clone());
        let object = self
            .objects
            .get_or_open(&name, |lease| object::open(&self.store, Place::new(volume, cookie), size, lease))?;
        if object.size() != size {
            return Err(CacheError::Size { cookie: cookie.clone(), expected: size, found: object.size() });
        }
        Ok(object)
    }

    fn relinquish(&self, volume: &VolumeKey, cookie: &CookieKey) -> Result<(), CacheError> {
        self.on_idle(volume, cookie, |_place| Ok(()))
    }

    fn remove(&self, volume: &VolumeKey, cookie: &CookieKey) -> Result<(), CacheError> {
        self.on_idle(volume, cookie, |place| {
            // The map goes first, and for good: data without a map is nothing, a map without data is a trap.
            if self.store.storage.unlink(&place.map)? {
                self.store.storage.fsync_dir(&place.dir)?;
            }
            if self.store.storage.unlink(&place.data)? {
                self.store.storage.fsync_dir(&place.dir)?;
            }
            Ok(())
        })
    }
}

/// Makes the directory and its parents. An existing one keeps its mode.
fn make_root(root: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(root)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NoHolder;

    fn open(root: &Path) -> Result<Cachefiles, Error> {
        let boot_id = BootId::from_bytes([1; 16]);
        Cachefiles::open(Config { root: root.to_owned(), boot_id, holder: Arc::new(NoHolder) })
    }

    fn key(text: &str) -> CookieKey {
        CookieKey::new(text).expect("valid")
    }

    #[test]
    fn objects_and_what_they_take_are_listed() {
        let root = tempfile::tempdir().expect("a directory");
        let cache = open(root.path()).expect("fit");
        let volume = VolumeKey::new("v").expect("valid");
        let whole = cache.acquire(&volume, &key("whole"), &ObjectSpec::of_size(8192)).expect("space");
        whole.write(0, &[1; 8192]).expect("space");
        whole.commit().expect("a healthy disk");
        cache.acquire(&volume, &key("holes"), &ObjectSpec::of_size(1 << 30)).expect("sparse");
        let mut objects = cache.objects().expect("readable");
        objects.sort_by(|a, b| a.cookie.cmp(&b.cookie));
        let seen: Vec<_> = objects.iter().map(|o| (o.cookie.as_str(), o.size, o.complete)).collect();
        assert_eq!(seen, [("holes", 1 << 30, false), ("whole", 8192, true)]);
        let usage = cache.usage().expect("readable");
        assert_eq!(usage.objects, 2);
        assert_eq!(usage.stored_bytes, objects.iter().map(|object| object.stored_bytes).sum());
        assert!((8192..1 << 20).contains(&usage.stored_bytes), "{usage:?}");
    }

    #[test]
    fn what_is_not_ours_in_the_directory_does_no_harm() {
        let root = tempfile::tempdir().expect("a directory");
        std::fs::create_dir_all(root.path().join("cache/v w")).expect("a directory");
        std::fs::create_dir_all(root.path().join("cache/v/00/sub")).expect("a directory");
        std::fs::write(root.path().join("cache/README"), "?").expect("a file");
        std::fs::write(root.path().join("cache/v/README"), "?").expect("a file");
        let cache = open(root.path()).expect("fit");
        assert!(cache.objects().expect("readable").is_empty());
    }

    #[test]
    fn an_object_in_use_is_not_removed_and_an_idle_one_leaves_nothing() {
        let root = tempfile::tempdir().expect("a directory");
        let cache = open(root.path()).expect("fit");
        let volume = VolumeKey::new("v").expect("valid");
        let object = cache.acquire(&volume, &key("c"), &ObjectSpec::of_size(4096)).expect("space");
        object.write(0, &[1; 4096]).expect("space");
        object.commit().expect("a healthy disk");
        assert!(matches!(cache.remove(&volume, &key("c")), Err(CacheError::Busy { .. })));
        assert!(matches!(cache.relinquish(&volume, &key("c")), Err(CacheError::Busy { .. })));
        drop(object);
        cache.remove(&volume, &key("c")).expect("idle");
        cache.remove(&volume, &key("c")).expect("already gone");
        assert_eq!(cache.usage().expect("readable"), Usage::default());
        let folder = Place::new(&volume, &key("c")).dir;
        assert_eq!(std::fs::read_dir(root.path().join(folder)).expect("kept").count(), 0);
        assert_eq!(
            cache.acquire(&volume, &key("c"), &ObjectSpec::of_size(4096)).expect("space").present_bytes(),
            0
        );
    }

    #[test]
    fn an_object_in_use_is_the_same_to_everybody_and_has_one_size() {
        let root = tempfile::tempdir().expect("a directory");
        let cache = open(root.path()).expect("fit");
        let volume = VolumeKey::new("v").expect("valid");
        let object = cache.acquire(&volume, &key("c"), &ObjectSpec::of_size(4096)).expect("space");
        assert!(Arc::ptr_eq(
            &object,
            &cache.acquire(&volume, &key("c"), &ObjectSpec::of_size(4096)).expect("the same")
        ));
        let other = cache.acquire(&volume, &key("c"), &ObjectSpec::of_size(4097)).map(|_| ());
        assert!(matches!(other, Err(CacheError::Size { expected: 4097, found: 4096, .. })), "{other:?}");
        let giant = cache.acquire(&volume, &key("g"), &ObjectSpec::of_size(u64::MAX)).map(|_| ());
        assert!(matches!(giant, Err(CacheError::TooLarge { .. })), "{giant:?}");
    }

    #[test]
    fn a_root_that_cannot_serve_is_refused_with_a_hint() {
        let root = tempfile::tempdir().expect("a directory");
        let file = root.path().join("file");
        std::fs::write(&file, "").expect("a file");
        for (bad, step) in [(file.join("below"), "ENOTDIR"), (PathBuf::from("/proc/larder"), "no such place")]
        {
            let error = open(&bad).map(|_| ()).expect_err(step);
            assert!(error.hint().is_some() && error.to_string().contains(&*bad.to_string_lossy()), "{error}");
        }
    }

    #[test]
    fn leftovers_of_a_crash_are_removed_at_the_start() {
        let root = tempfile::tempdir().expect("a directory");
        drop(open(root.path()).expect("fit"));
        let left = root.path().join("tmp/17");
        std::fs::write(&left, "half").expect("a file");
        drop(open(root.path()).expect("fit"));
        assert!(!left.exists());
    }
}
