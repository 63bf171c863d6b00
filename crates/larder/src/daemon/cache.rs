//! What the daemon does with its cache when it is asked to.

use std::ops::ControlFlow;
use std::sync::Arc;

use larder_fscache::{CacheResources, CookieKey, VolumeKey};

use super::Daemon;
use crate::api::cache_types::{CacheStats, VerifyLine, VerifyRequest};
use crate::inventory::{Catalogue, Inventory, KnownImage, Verifier};
use crate::store::{OpenImage, VOLUME};

impl Daemon {
    /// Runs `work` on the inventory. Blocks as it does.
    pub fn with_inventory<R>(&self, work: impl FnOnce(Inventory<'_>) -> R) -> R {
        let catalogue = self.catalogue();
        work(Inventory { cachefiles: self.store.cache().backend(), catalogue: &catalogue })
    }

    pub(super) fn catalogue(&self) -> Catalogue {
        Catalogue::new(self.paths.images())
    }

    /// What happened to the cache and the trees since the worker started, and how full it is. Blocks for a look at the file system.
    ///
    /// # Errors
    ///
    /// When the file system cannot be looked at.
    pub fn cache_stats(&self) -> anyhow::Result<CacheStats> {
        let (cache, trees) = (self.store.cache().counts(), self.trees.files().netfs().stats().counts());
        self.with_inventory(|inventory| inventory.stats(&cache, &trees))
    }

    /// Reads what is present again. Blocks: for I/O, and for what has to be fetched. Not on the runtime's threads.
    ///
    /// # Errors
    ///
    /// See [`Inventory::verify`].
    pub fn verify(
        &self,
        request: &VerifyRequest,
        tell: &mut dyn FnMut(VerifyLine) -> ControlFlow<()>,
    ) -> anyhow::Result<()> {
        let verifier = Verifier {
            handle: self.store.engine().handle().clone(),
            http: self.http.clone(),
            in_use: &|volume, cookie| self.operation(volume, cookie),
        };
        self.with_inventory(|inventory| inventory.verify(request, &verifier, tell))
    }

    /// An operation on a cookie that somebody uses.
    fn operation(&self, volume: &VolumeKey, key: &CookieKey) -> Option<CacheResources> {
        let cookies = self.store.cache().cookies();
        let cookie =
            cookies.into_iter().find(|cookie| cookie.key() == key && cookie.volume().key() == volume)?;
        Arc::clone(&cookie).use_cookie().ok()?.begin_write_operation().ok()
    }

    /// Takes note of an image that is about to be mounted. Blocks on the file system.
    pub(super) fn note_image(&self, open: &OpenImage, reference: &str, insecure: bool) -> anyhow::Result<()> {
        self.catalogue().note(KnownImage::new(&open.image, reference, insecure, VOLUME))
    }
}
