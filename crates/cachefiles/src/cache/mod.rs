//! [`Cachefiles`]: a directory as an fscache backend.

mod look;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod upkeep_tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use larder_fscache::{AuxData, Backend, CacheObject, CookieKey, Error as CacheError, ObjectSpec, VolumeKey};

use crate::error::is_full;
use crate::index::{Index, Sums};
use crate::layout::{INDEX, Place};
use crate::ledger::Ledger;
use crate::lock::Lock;
use crate::object::{self, CacheFile, Name};
use crate::seat::Seat;
use crate::storage::Disk;
use crate::store::{Parts, Store, clear_tmp};
use crate::walk::Progress;
use crate::{BootId, DescriptorHolder, Error, Limits, Spec, Tag, bind, fitness};

pub use look::{ObjectInfo, Prune, Usage};

/// What a cache is opened with.
pub struct Config {
    /// The directory; made when it is not there, readable for its owner only.
    pub root: PathBuf,
    /// The boot that live maps must belong to.
    pub boot_id: BootId,
    /// Who keeps descriptors when this process dies.
    pub holder: Arc<dyn DescriptorHolder>,
    /// How much of the disk the cache may have.
    pub limits: Limits,
    /// The name that the directory has, or gets when it is new.
    pub tag: Tag,
}

impl Config {
    /// A cache with the limits of cachefiles and no quota.
    pub fn new(root: PathBuf, boot_id: BootId, holder: Arc<dyn DescriptorHolder>) -> Self {
        Self { root, boot_id, holder, limits: Limits::default(), tag: Tag::default() }
    }
}

/// A cache in a directory. One process owns it at a time.
pub struct Cachefiles {
    store: Arc<Store>,
    /// Rebuilds the index, if it has to be.
    walk: Mutex<Option<JoinHandle<()>>>,
}

impl Cachefiles {
    /// Opens the cache at `config.root`, or makes it. Blocks for I/O, but not for a walk: when the index was not
    /// closed cleanly it is rebuilt in the background, and until then the cache counts as if it had as much as it
    /// ever may have had.
    ///
    /// # Errors
    ///
    /// [`Error::Locked`] while another process owns it; [`Error::Tag`] when it is another cache;
    /// [`Error::Unfit`] when the file system cannot serve; [`Error::Limits`], [`Error::Quota`], [`Error::Root`],
    /// [`Error::Lock`], [`Error::Index`].
    pub fn open(config: Config) -> Result<Self, Error> {
        config.limits.check()?;
        let failed = |source| Error::Root { root: config.root.clone(), source };
        make_root(&config.root).map_err(failed)?;
        let root = std::path::absolute(&config.root).map_err(failed)?;
        let disk = Disk::open(&root).map_err(failed)?;
        let lock = Lock::take(&root, &*config.holder)?;
        prepare(&disk, &root, &config.tag)?;
        let (index, sums) =
            Index::open(&root.join(INDEX)).map_err(|source| Error::Index { root: root.clone(), source })?;
        let reserve = match config.limits.quota {
            Some(_) => bind::read_reserve(&disk),
            None => bind::forget_reserve(&disk).map(|()| None).map_err(failed)?,
        };
        let (ledger, walk) = match sums {
            Some(Sums { charged, graves }) => {
                (Ledger::new(config.limits, charged, 0, graves, reserve.unwrap_or(0)), Progress::done())
            }
            None => {
                let unknown = reserve.or(config.limits.quota).unwrap_or(0);
                (Ledger::new(config.limits, 0, unknown, 0, reserve.unwrap_or(0)), Progress::default())
            }
        };
        let (boot_id, holder) = (config.boot_id, config.holder);
        let lock = Some(lock);
        let store =
            Store::new(Parts { storage: Arc::new(disk), root, boot_id, holder, index, ledger, walk, lock });
        let cache = Self { store: Arc::new(store), walk: Mutex::default() };
        if cache.is_walking() {
            cache.spawn_walk();
        }
        Ok(cache)
    }

    /// Walks in the background. A walk before this one has ended, and its thread is about to.
    fn spawn_walk(&self) {
        let mut walk = self.walk.lock().unwrap_or_else(PoisonError::into_inner);
        let walker = Arc::clone(&self.store);
        match thread::Builder::new().name("larder-index".to_owned()).spawn(move || walker.walk()) {
            Ok(spawned) => join(walk.replace(spawned)),
            Err(error) => {
                tracing::warn!(%error, "the index is not rebuilt yet");
                self.store.walk.give_up();
            }
        }
    }

    /// Opens a cache over a storage of a test, whose index is empty; nothing walks.
    #[cfg(test)]
    pub(crate) fn over(store: Arc<Store>) -> Result<Self, Error> {
        prepare(&*store.storage, &store.root, &Tag::default())?;
        Ok(Self { store, walk: Mutex::default() })
    }

    /// The absolute path of the directory.
    pub fn root(&self) -> &Path {
        &self.store.root
    }

    /// Relinquishes every object that the holder keeps and nobody uses: what could not be relinquished at its time, and
    /// what a worker left that died before it could. Only once everything that is to be taken up again has been: from
    /// then on a writer that finds no room does the same. Returns how many there were.
    ///
    /// Names that are too long for the holder stand for themselves no more, and stay until they are used again.
    pub fn relinquish_unused(&self) -> usize {
        self.store.unused.all_taken_up();
        self.store.relinquish_unused().let_go
    }

    /// Refuses every commit from now on, and waits for those under way: to be called before the objects are left to the next
    /// process. A live map that is left in the middle of a sync loses what is not durable. Blocks for I/O.
    pub fn end_commits(&self) {
        self.store.commits.end();
    }

    /// Whether [`end_commits`](Self::end_commits) was called.
    pub fn has_ended_commits(&self) -> bool {
        self.store.commits.are_over()
    }

    /// Closes the index, for a process that ends without dropping the cache and its objects: the last thing to be done with
    /// it, after a commit. What is written all the same is not lost, but makes the next start walk. Blocks for I/O.
    pub fn close_index(&self) {
        self.store.close_index();
    }

    /// Runs `work` on an object that is not alive.
    fn on_idle<R>(
        &self,
        volume: &VolumeKey,
        cookie: &CookieKey,
        doing: &'static str,
        work: impl FnOnce(&Name, &Place) -> io::Result<R>,
    ) -> Result<R, CacheError> {
        let place = Place::new(volume, cookie);
        let name = (volume.clone(), cookie.clone());
        match self.store.objects.while_idle(&name, || work(&name, &place)) {
            None => Err(CacheError::Busy { cookie: cookie.clone() }),
            Some(Err(busy)) if busy.kind() == io::ErrorKind::ResourceBusy => {
                Err(CacheError::Busy { cookie: cookie.clone() })
            }
            Some(result) => result.map_err(|source| CacheError::io(cookie, doing, source)),
        }
    }

    fn seat(&self, volume: &VolumeKey, cookie: &CookieKey) -> Arc<Seat> {
        let name = (volume.clone(), cookie.clone());
        let opened: Result<_, std::convert::Infallible> =
            self.store.objects.get_or_open(&name, |lease| Ok(Seat::new(lease)));
        match opened {
            Ok(seat) => seat,
            Err(never) => match never {},
        }
    }

    /// The object that sits there, or the one on the disk, or a new one.
    fn open_object(
        &self,
        volume: &VolumeKey,
        cookie: &CookieKey,
        spec: &Spec,
    ) -> Result<Arc<CacheFile>, CacheError> {
        let index_was_whole = self.store.walk.is_whole();
        let seat = self.seat(volume, cookie);
        let mut current = seat.lock();
        if let Some(object) = current.upgrade() {
            return Ok(object);
        }
        let place = Place::new(volume, cookie);
        let object = Arc::new(object::open(&self.store, &seat, place, spec, index_was_whole)?);
        *current = Arc::downgrade(&object);
        Ok(object)
    }
}

impl Drop for Cachefiles {
    fn drop(&mut self) {
        self.store.walk.stop();
        join(self.walk.get_mut().unwrap_or_else(PoisonError::into_inner).take());
    }
}

fn join(walk: Option<JoinHandle<()>>) {
    // A panic of the walk has been reported by its thread.
    let _ = walk.map(JoinHandle::join);
}

impl Backend for Cachefiles {
    fn acquire_volume(&self, volume: &VolumeKey, coherency: &AuxData) -> Result<(), CacheError> {
        self.store.acquire_volume(volume, coherency.as_bytes()).map_err(|source| {
            let (volume, doing) = (volume.clone(), "acquiring the volume");
            CacheError::VolumeIo { volume, doing, source }
        })
    }

    fn acquire(
        &self,
        volume: &VolumeKey,
        cookie: &CookieKey,
        spec: &ObjectSpec,
    ) -> Result<Arc<dyn CacheObject>, CacheError> {
        let object = self.open_object(volume, cookie, &Spec::of(spec))?;
        if object.size() != spec.size {
            let (expected, found) = (spec.size, object.size());
            return Err(CacheError::Size { cookie: cookie.clone(), expected, found });
        }
        if object.aux() != spec.aux.as_bytes() {
            return Err(CacheError::Coherency { name: format!("cookie {cookie}") });
        }
        Ok(object)
    }

    fn replace(
        &self,
        volume: &VolumeKey,
        cookie: &CookieKey,
        spec: &ObjectSpec,
    ) -> Result<Arc<dyn CacheObject>, CacheError> {
        let (seat, place) = (self.seat(volume, cookie), Place::new(volume, cookie));
        Ok(object::replace(&self.store, &seat, place, &Spec::of(spec))?)
    }

    fn resize(
        &self,
        volume: &VolumeKey,
        cookie: &CookieKey,
        spec: &ObjectSpec,
    ) -> Result<Arc<dyn CacheObject>, CacheError> {
        let (seat, place) = (self.seat(volume, cookie), Place::new(volume, cookie));
        Ok(object::resize(&self.store, &seat, place, &Spec::of(spec))?)
    }

    fn relinquish(&self, volume: &VolumeKey, cookie: &CookieKey) -> Result<(), CacheError> {
        self.on_idle(volume, cookie, "letting go", |name, place| self.store.let_go(name, place))
    }

    fn remove(&self, volume: &VolumeKey, cookie: &CookieKey) -> Result<(), CacheError> {
        self.on_idle(volume, cookie, "removing", |name, place| {
            self.store.holder.release(&place.live);
            self.store.holder.release(&place.fill);
            self.store.storage.unlink(&place.pin)?;
            self.store.drop_object(name, place, "retired").map(drop)
        })
    }
}

/// Makes the directory and its parents. An existing one keeps its mode.
fn make_root(root: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(root)
}

/// Tries the file system, and makes it a cache of this format. A full one that is a cache already has shown what it can: what
/// is in it can be read, and whoever has it mounted waits for that.
fn prepare(storage: &dyn crate::storage::Storage, root: &Path, tag: &Tag) -> Result<(), Error> {
    let unfit = |step, source| Error::Unfit { root: root.to_owned(), step, source };
    clear_tmp(storage).map_err(|source| unfit("removing a file", source))?;
    match fitness::try_out(storage) {
        Ok(()) => {}
        Err(fitness::Unfit { source, .. }) if is_full(&source) && bind::is_bound(storage, tag) => {
            tracing::warn!(root = %root.display(), "the file system of the cache is full");
            clear_tmp(storage).map_err(|source| unfit("removing a file", source))?;
        }
        Err(unfit_for) => return Err(unfit(unfit_for.step, unfit_for.source)),
    }
    bind::bind(storage, root, tag)
}
