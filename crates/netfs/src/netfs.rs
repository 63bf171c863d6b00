//! [`Netfs`]: what all files share.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use larder_fscache::ObjectRange;
use tokio::runtime::Handle;

use crate::budget::{Budget, Share};
use crate::buffers::Buffers;
use crate::copier::Copier;
use crate::{Cached, File, Source, Stats, Version};

/// The largest block that a cache may have.
const BLOCK_BYTES_MAX: u64 = 64 << 10;

/// Limits of everything that is under way.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest download, in bytes: the kernel's `rsize`.
    pub download_bytes_max: u64,
    /// Downloads of one request side by side.
    pub downloads_max: usize,
    /// What a random read is rounded to, in bytes.
    pub granule_bytes: u64,
    /// First and longest window of a sequential reader, in bytes.
    pub window_bytes: (u64, u64),
    /// Memory for windows of all files together, in bytes; what readers wait for comes on top.
    pub memory_bytes_max: u64,
    /// Memory for what waits to be copied to the cache, in bytes.
    pub copy_bytes_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            download_bytes_max: 4 << 20,
            downloads_max: 4,
            granule_bytes: 64 << 10,
            window_bytes: (1 << 20, 16 << 20),
            memory_bytes_max: 128 << 20,
            copy_bytes_max: 64 << 20,
        }
    }
}

/// What all files share: the runtime, limits, memory, the copier, statistics.
#[derive(Debug)]
pub struct Netfs {
    pub(crate) runtime: Handle,
    pub(crate) limits: Limits,
    pub(crate) stats: Arc<Stats>,
    pub(crate) copier: Copier,
    pub(crate) buffers: Arc<Buffers>,
    budget: Arc<Budget>,
    files: Mutex<Vec<Weak<File>>>,
}

impl Netfs {
    /// Downloads happen on `runtime`; copies to the cache on a thread of their own.
    ///
    /// # Errors
    ///
    /// When that thread cannot be started.
    pub fn new(runtime: Handle, mut limits: Limits) -> std::io::Result<Arc<Self>> {
        // Downloads that end within a block would leave that block a hole in the cache.
        limits.granule_bytes = limits.granule_bytes.max(1).next_multiple_of(BLOCK_BYTES_MAX);
        limits.download_bytes_max = limits.download_bytes_max.max(1).next_multiple_of(BLOCK_BYTES_MAX);
        let stats = Arc::<Stats>::default();
        let copier = Copier::start(limits.copy_bytes_max, Arc::clone(&stats))?;
        let budget = Budget::new(limits.memory_bytes_max);
        let (buffers, files) = (Buffers::new(), Mutex::default());
        Ok(Arc::new(Self { runtime, limits, stats, copier, buffers, budget, files }))
    }

    /// Opens one version of a file. Makes no request.
    pub fn open(self: &Arc<Self>, source: Arc<dyn Source>, version: &Version, cached: Cached) -> Arc<File> {
        let file = Arc::new(File::new(Arc::clone(self), source, version.size, cached));
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.retain(|file| file.strong_count() > 0);
        files.push(Arc::downgrade(&file));
        file
    }

    /// A file was closed: with the last one goes the memory that was kept for the next part.
    pub(crate) fn closed(&self) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.retain(|file| file.strong_count() > 0);
        if files.is_empty() {
            self.buffers.let_go();
        }
    }

    /// Statistics over all files.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Waits until what was downloaded so far has been copied to the cache, or was left out. Blocks.
    pub fn flush(&self) {
        self.copier.flush();
    }

    /// Memory for a window that nobody waits for yet.
    pub(crate) fn share_for_readahead(&self, range: ObjectRange) -> Option<Share> {
        self.budget.try_take(range.len()).or_else(|| {
            self.reclaim();
            self.budget.try_take(range.len())
        })
    }

    /// Memory for what a reader waits for: never refused.
    pub(crate) fn share_for_reader(&self, range: ObjectRange) -> Share {
        self.budget.take(range.len())
    }

    /// Drops what was brought ahead and not read, in all files.
    fn reclaim(&self) {
        let files: Vec<Arc<File>> = {
            let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
            files.iter().filter_map(Weak::upgrade).collect()
        };
        for file in files {
            file.drop_finished();
        }
    }
}
