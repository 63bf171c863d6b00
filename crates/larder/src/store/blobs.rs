//! [`Blobs`]: the blobs in use, one a cookie.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use larder_cachefiles::Cachefiles;
use larder_fscache::{Backend as _, Cache, CacheResources, CookieKey, ObjectSpec, Volume};
use larder_image::Layer;
use larder_ondemand::{Blob, SourceLease};

/// The blobs in use, one a cookie.
pub struct Blobs {
    cache: Arc<Cache<Cachefiles>>,
    volume: Arc<Volume>,
    open: Mutex<BTreeMap<CookieKey, Shared>>,
}

/// A blob as an image has it.
pub struct Opened {
    /// The blob.
    pub blob: Arc<Blob>,
    /// Its place in the image's repository, as long as the image is in use.
    pub source: SourceLease,
}

/// A blob that images share.
#[derive(Default)]
struct Shared {
    blob: Weak<Blob>,
    /// How many have opened it and not left it. Some of them may have let the blob go already, and one that was opened
    /// since is counted with theirs: it must not be withdrawn when they leave.
    users: usize,
}

impl Blobs {
    /// No blobs yet.
    pub fn new(cache: Arc<Cache<Cachefiles>>, volume: Arc<Volume>) -> Self {
        Self { cache, volume, open: Mutex::default() }
    }

    /// An operation on the cookie for what `layer` decodes to. Blocks for I/O.
    ///
    /// # Errors
    ///
    /// What the cache says.
    pub fn resources(&self, layer: &Layer) -> anyhow::Result<CacheResources> {
        let spec = ObjectSpec::of_size(layer.table.decoded_size());
        Ok(self.volume.open(layer.table.identity(), &spec)?)
    }

    /// The blob for `layer`: the one in use, or a new one; it is brought from this layer's place, too. Blocks for I/O.
    ///
    /// # Errors
    ///
    /// What the cache says.
    pub fn open(&self, layer: &Layer) -> anyhow::Result<Opened> {
        let key = layer.table.identity();
        let join = || {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            let shared = open.get_mut(key)?;
            let blob = shared.blob.upgrade()?;
            shared.users += 1;
            let source = blob.add_source(Arc::clone(&layer.source));
            Some(Opened { blob, source })
        };
        if let Some(opened) = join() {
            return Ok(opened);
        }
        // Not under the lock: a slow disk would hold up whoever opens or closes anything.
        let resources = self.resources(layer)?;
        let blob = Blob::new(key.as_str(), resources, Arc::clone(&layer.table), Arc::clone(&layer.source));
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = open.entry(key.clone()).or_default();
        shared.users += 1;
        if let Some(other) = shared.blob.upgrade() {
            // Another was quicker.
            let source = other.add_source(Arc::clone(&layer.source));
            return Ok(Opened { blob: other, source });
        }
        shared.blob = Arc::downgrade(&blob);
        let source = blob.lease_first_source();
        Ok(Opened { blob, source })
    }

    /// The blobs for `layers`, in their order: all, or none. Blocks for I/O.
    ///
    /// # Errors
    ///
    /// What the cache says.
    pub fn open_all(&self, layers: &[Layer]) -> anyhow::Result<Vec<Opened>> {
        let mut opened = Vec::with_capacity(layers.len());
        for layer in layers {
            match self.open(layer) {
                Ok(one) => opened.push(one),
                Err(error) => {
                    self.leave(opened.iter().map(|opened: &Opened| opened.blob.cookie().key()));
                    return Err(error);
                }
            }
        }
        Ok(opened)
    }

    /// One user of each of `keys` has gone. Returns the blobs that nobody uses any more and that still live: whoever
    /// opens one from now on gets another, so that these can be withdrawn.
    pub fn leave<'a>(&self, keys: impl IntoIterator<Item = &'a CookieKey>) -> Vec<Arc<Blob>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mut unused = Vec::new();
        for key in keys {
            let Some(shared) = open.get_mut(key) else { continue };
            shared.users = shared.users.saturating_sub(1);
            if shared.users == 0 {
                unused.extend(open.remove(key).and_then(|shared| shared.blob.upgrade()));
            }
        }
        unused
    }

    /// Lets go what the cache holds for `keys`, as far as nobody uses it: another mount may have it, or somebody still
    /// reads from one that was detached. What stays, [`relinquish_unused`](Self::relinquish_unused) lets go. Blocks for I/O.
    pub fn relinquish(&self, keys: &[CookieKey]) {
        for key in keys {
            let let_go = self.cache.backend().relinquish(self.volume.key(), key);
            tracing::debug!(cookie = %key, ?let_go, "fscache_relinquish");
        }
    }

    /// Lets go what the cache holds and nobody uses. Blocks for I/O.
    pub fn relinquish_unused(&self) {
        self.cache.backend().relinquish_unused();
    }
}
