//! [`Cache`]: hands out volumes, and ends everything at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::stats::add;
use crate::volume::{Shared, Volume};
use crate::{AuxData, Backend, Cookie, Counts, Error, Stats, Table, VolumeKey};

/// A backend with the volumes and cookies that are in use.
pub struct Cache<B> {
    backend: Arc<B>,
    shared: Arc<Shared>,
}

impl<B: Backend> Cache<B> {
    /// Returns a cache over `backend`.
    pub fn new(backend: B) -> Self {
        let backend = Arc::new(backend);
        let shared = Shared {
            backend: Arc::clone(&backend) as Arc<dyn Backend>,
            volumes: Table::new(),
            cookies: Table::new(),
            stats: Stats::default(),
            is_withdrawn: AtomicBool::new(false),
        };
        Self { backend, shared: Arc::new(shared) }
    }

    /// The backend, for what only it can tell.
    pub fn backend(&self) -> &Arc<B> {
        &self.backend
    }

    /// Returns the volume `key`: the same one to everybody. What an earlier run left in it under other coherency data
    /// is dropped. Blocks for I/O.
    ///
    /// # Errors
    ///
    /// [`Error::Coherency`] when it is in use with other coherency data; what [`Backend::acquire_volume`] says.
    pub fn acquire_volume(&self, key: &VolumeKey, coherency: &AuxData) -> Result<Arc<Volume>, Error> {
        let volume = self.shared.volumes.get_or_open(key, |lease| {
            self.backend.acquire_volume(key, coherency)?;
            Ok(Volume::new(key.clone(), coherency.clone(), Arc::clone(&self.shared), lease))
        })?;
        if volume.coherency() != coherency {
            return Err(Error::Coherency { name: format!("volume {key}") });
        }
        add(&self.shared.stats.mine().volumes, 1);
        tracing::debug!(volume = %key, "fscache_acquire_volume");
        Ok(volume)
    }

    /// Returns the cookies in use, in no order.
    pub fn cookies(&self) -> Vec<Arc<Cookie>> {
        self.shared.cookies.values()
    }

    /// Returns what happened in this cache.
    pub fn counts(&self) -> Counts {
        self.shared.stats.counts()
    }

    /// Closes the objects of cookies that nobody has used since `before`, so that they can be culled; returns how
    /// many. Their bytes stay.
    pub fn discard_idle(&self, before: Instant) -> usize {
        self.cookies().iter().filter(|cookie| cookie.discard_idle(before)).count()
    }

    /// Withdraws the cache under its users: no object is opened any more, and what was open is empty to all who have
    /// it. Returns when that is so.
    pub fn withdraw(&self) {
        self.shared.is_withdrawn.store(true, Ordering::Release);
        for cookie in self.cookies() {
            cookie.withdraw();
        }
    }
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
