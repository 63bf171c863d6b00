//! [`Store`]: what all objects of one cache share.

use std::collections::HashSet;
use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use larder_fscache::Table;

use crate::commits::Commits;
use crate::cull::Victims;
use crate::index::{Index, Sums};
use crate::layout::{CACHE, Place, TMP, folder_of};
use crate::ledger::Ledger;
use crate::lock::Lock;
use crate::object::Name;
use crate::sealing::Sealing;
use crate::seat::Seat;
use crate::storage::{Access, Kind, Storage, StorageFile, read_exact, write_all};
use crate::unused::Unused;
use crate::walk::Progress;
use crate::{BootId, DescriptorHolder};

/// The storage, who the cache belongs to, and what is in it.
pub(crate) struct Store {
    pub storage: Arc<dyn Storage>,
    /// Absolute path of the root, for those who need one.
    pub root: PathBuf,
    pub boot_id: BootId,
    pub holder: Arc<dyn DescriptorHolder>,
    pub index: Index,
    pub ledger: Ledger,
    /// Who is alive.
    pub objects: Table<Name, Seat>,
    pub victims: Mutex<Victims>,
    /// How far the walk is that rebuilds the index.
    pub walk: Progress,
    pub unused: Unused,
    pub sealing: Arc<Sealing>,
    pub commits: Commits,
    /// Held while the reserve is raised or lowered: one at a time.
    pub raising: Mutex<()>,
    /// Held while something goes into the graveyard, or out of it, and the ledger is told.
    pub graves: Mutex<()>,
    /// Folders whose name is known to be durable and, with a slash at the end, those whose contents are that an
    /// earlier process left. At most 514 a volume.
    durable_dirs: Mutex<HashSet<String>>,
    next_tmp: AtomicU64,
    /// None only in tests, whose storage is not on disk.
    _lock: Option<Lock>,
}

/// What a store is made of.
pub(crate) struct Parts {
    pub storage: Arc<dyn Storage>,
    pub root: PathBuf,
    pub boot_id: BootId,
    pub holder: Arc<dyn DescriptorHolder>,
    pub index: Index,
    pub ledger: Ledger,
    pub walk: Progress,
    pub lock: Option<Lock>,
}

#[cfg(test)]
impl Parts {
    /// Those of a store without an index on the disk, without a quota and a lock.
    pub fn over(storage: Arc<dyn Storage>, boot_id: BootId, holder: Arc<dyn DescriptorHolder>) -> Self {
        Self {
            storage,
            root: PathBuf::from("/sim"),
            boot_id,
            holder,
            index: Index::in_memory().expect("memory does not fail"),
            ledger: Ledger::new(crate::Limits::default(), 0, 0, 0, 0),
            walk: Progress::done(),
            lock: None,
        }
    }
}

impl Store {
    pub fn new(parts: Parts) -> Self {
        let Parts { storage, root, boot_id, holder, index, ledger, walk, lock } = parts;
        Self {
            storage,
            root,
            boot_id,
            holder,
            index,
            ledger,
            objects: Table::new(),
            victims: Mutex::default(),
            walk,
            unused: Unused::default(),
            sealing: Arc::default(),
            commits: Commits::default(),
            raising: Mutex::new(()),
            graves: Mutex::new(()),
            durable_dirs: Mutex::default(),
            next_tmp: AtomicU64::new(0),
            _lock: lock,
        }
    }

    /// A store without an index on the disk, without a quota and a lock.
    #[cfg(test)]
    pub fn over(storage: Arc<dyn Storage>, boot_id: BootId, holder: Arc<dyn DescriptorHolder>) -> Arc<Self> {
        Arc::new(Self::new(Parts::over(storage, boot_id, holder)))
    }

    /// Now, in milliseconds since 1970.
    pub fn now_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether the keeper still has a descriptor of the object, be it one that this process cannot have: some mount may
    /// use it, whoever served that.
    pub fn is_held(&self, place: &Place) -> bool {
        !matches!(self.holder.take(&place.fill), Ok(None))
    }

    /// A name below `tmp/` that nobody else uses.
    pub fn tmp_name(&self) -> String {
        format!("{TMP}/{}", self.next_tmp.fetch_add(1, Ordering::Relaxed))
    }

    /// Makes a file whole and durable, or not at all: `fill` it under a temporary name, then rename it.
    ///
    /// What had the name is replaced in one step. The folder must exist.
    pub fn put(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.through_tmp(|tmp| {
            let file = self.storage.create(tmp)?;
            write_all(&*file, bytes, 0)?;
            file.fsync()?;
            self.storage.rename(tmp, path)?;
            self.make_durable(folder_of(path))?;
            self.storage.fsync_dir(folder_of(path))
        })
    }

    /// Runs `make` with a temporary name, and removes what is left under it when that fails.
    pub fn through_tmp<R>(&self, make: impl FnOnce(&str) -> io::Result<R>) -> io::Result<R> {
        let tmp = self.tmp_name();
        let result = make(&tmp);
        if result.is_err() {
            // Nothing more can be done about a leftover here; the next start removes it.
            let _ = remove(&*self.storage, &tmp);
        }
        result
    }

    /// Makes the name of a folder durable, and those of the folders that it lies in, once for each.
    pub fn make_durable(&self, dir: &str) -> io::Result<()> {
        let known = |dir: &str| dir.is_empty() || dir == CACHE || self.known_durable().contains(dir);
        if known(dir) {
            return Ok(());
        }
        self.make_durable(folder_of(dir))?;
        self.storage.fsync_dir(folder_of(dir))?;
        self.known_durable().insert(dir.to_owned());
        Ok(())
    }

    /// Makes the names durable that were in a folder before this process began, once for each folder.
    pub fn make_names_durable(&self, dir: &str) -> io::Result<()> {
        let inside = format!("{dir}/");
        if self.known_durable().contains(&inside) {
            return Ok(());
        }
        self.make_durable(dir)?;
        self.storage.fsync_dir(dir)?;
        self.known_durable().insert(inside);
        Ok(())
    }

    /// Forgets that the folders of a volume were durable: it has moved away.
    pub fn forget_durable(&self, volume_dir: &str) {
        self.known_durable().retain(|dir| {
            !dir.strip_prefix(volume_dir).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        });
    }

    /// Closes the index while objects may still be alive. Sealed is one that is whole, and whose rows say all that is
    /// charged; what somebody still writes makes the next start walk.
    pub fn close_index(&self) {
        if !self.walk.is_whole() || self.index.is_closed() {
            return;
        }
        self.settle_the_living();
        let mut charged = 0u64;
        self.index.visit(|_, row| {
            charged = charged.saturating_add(row.charge());
            ControlFlow::Continue(())
        });
        let (_, graves) = self.ledger.sums();
        self.index.close(Sums { charged, graves });
        // Whoever was at work meanwhile has told the ledger already, or finds the seal, and breaks it.
        if self.ledger.sums() != (charged, graves)
            && let Err(error) = self.index.break_seal()
        {
            tracing::error!(%error, what = "the seal of the index stays, though that is not whole", "cachefiles_io_error");
        }
    }

    fn known_durable(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.durable_dirs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads a file of at most `len_max` bytes; `None` when there is none.
    pub fn get_bytes(&self, path: &str, len_max: u64) -> io::Result<Option<Vec<u8>>> {
        get_bytes(&*self.storage, path, len_max)
    }
}

/// Reads a file of at most `len_max` bytes; `None` when there is none.
pub(crate) fn get_bytes(storage: &dyn Storage, path: &str, len_max: u64) -> io::Result<Option<Vec<u8>>> {
    let file: Box<dyn StorageFile> = match storage.open(path, Access::Read) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let len = file.stat()?.len;
    let bounded = usize::try_from(len).ok().filter(|_| len <= len_max);
    let Some(len) = bounded else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the file is too long"));
    };
    let mut bytes = vec![0; len];
    read_exact(&*file, &mut bytes, 0)?;
    Ok(Some(bytes))
}

/// Removes what earlier runs did not finish.
pub(crate) fn clear_tmp(storage: &dyn Storage) -> io::Result<()> {
    for name in storage.list(TMP)? {
        remove(storage, &format!("{TMP}/{name}"))?;
    }
    Ok(())
}

/// Removes a file, or the folder of a volume that never got its name.
fn remove(storage: &dyn Storage, path: &str) -> io::Result<bool> {
    match storage.stat(path)? {
        Some(stat) if stat.kind == Kind::Dir => storage.rmdir(path),
        _ => storage.unlink(path),
    }
}

impl Drop for Store {
    /// The last holder is gone, and nothing changes any more: the index is whole, if it ever was.
    fn drop(&mut self) {
        if self.walk.is_whole() {
            let (charged, graves) = self.ledger.sums();
            self.index.close(Sums { charged, graves });
        }
    }
}
