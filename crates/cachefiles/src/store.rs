//! [`Store`]: what all objects of one cache share.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::layout::{TMP, folder_of};
use crate::storage::{Access, Storage, StorageFile, read_exact, write_all};
use crate::{BootId, DescriptorHolder};

/// The storage, and who the cache belongs to.
pub(crate) struct Store {
    pub storage: Arc<dyn Storage>,
    /// Absolute path of the root, for those who need one.
    pub root: PathBuf,
    pub boot_id: BootId,
    pub holder: Arc<dyn DescriptorHolder>,
    next_tmp: AtomicU64,
}

impl Store {
    pub fn new(
        storage: Arc<dyn Storage>,
        root: PathBuf,
        boot_id: BootId,
        holder: Arc<dyn DescriptorHolder>,
    ) -> Self {
        Self { storage, root, boot_id, holder, next_tmp: AtomicU64::new(0) }
    }

    /// Makes a file whole and durable, or not at all: `fill` it under a temporary name, then rename it.
    ///
    /// What had the name is replaced in one step. The folder must exist.
    pub fn put(
        &self,
        path: &str,
        fill: impl FnOnce(&dyn StorageFile) -> io::Result<()>,
    ) -> io::Result<Box<dyn StorageFile>> {
        let tmp = format!("{TMP}/{}", self.next_tmp.fetch_add(1, Ordering::Relaxed));
        let result = self.put_through(&tmp, path, fill);
        if result.is_err() {
            // Nothing more can be done about a leftover here; the next start removes it.
            let _ = self.storage.unlink(&tmp);
        }
        result
    }

    fn put_through(
        &self,
        tmp: &str,
        path: &str,
        fill: impl FnOnce(&dyn StorageFile) -> io::Result<()>,
    ) -> io::Result<Box<dyn StorageFile>> {
        let file = self.storage.create(tmp)?;
        fill(&*file)?;
        file.fsync()?;
        self.storage.rename(tmp, path)?;
        self.storage.fsync_dir(folder_of(path))?;
        Ok(file)
    }

    /// Makes a small file of `bytes`, as [`put`](Self::put) does.
    pub fn put_bytes(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.put(path, |file| write_all(file, bytes, 0)).map(drop)
    }

    /// Reads a file of at most `len_max` bytes; `None` when there is none.
    pub fn get_bytes(&self, path: &str, len_max: u64) -> io::Result<Option<Vec<u8>>> {
        let file = match self.storage.open(path, Access::Read) {
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
    pub fn clear_tmp(&self) -> io::Result<()> {
        for name in self.storage.list(TMP)? {
            self.storage.unlink(&format!("{TMP}/{name}"))?;
        }
        Ok(())
    }
}
