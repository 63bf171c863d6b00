//! [`Store`]: images opened over one cache, ready to be mounted or read.
//!
//! The daemon has one for its whole life; `ls` and `cat` make a small one for themselves. Blobs are shared: two images
//! that have a blob in common, and two mounts of one image, fill the same [`Blob`], so that its bytes are fetched once.

mod blobs;
mod check;
mod gone;
mod place;
mod scratch;

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use larder_cachefiles::Cachefiles;
use larder_erofs as erofs;
use larder_fscache::{AuxData, Cache, CacheResources, CookieKey, VolumeKey};
use larder_image::{LoadedImage, Repository, Version};
use larder_ondemand::{Blob, Engine};
use tokio::task::spawn_blocking;

pub use blobs::Blobs;
pub use place::{Place, connect, connect_or_gone};
pub use scratch::Scratch;

/// The one volume for now: whoever may use this daemon may see all its blobs.
pub const VOLUME: &str = "default";

/// Images opened over one cache.
#[derive(Clone)]
pub struct Store {
    cache: Arc<Cache<Cachefiles>>,
    engine: Arc<Engine>,
    blobs: Arc<Blobs>,
}

/// An image whose metadata is here, complete and checked, and whose data comes on demand.
pub struct OpenImage {
    /// The manifest, its layers and their chunk tables.
    pub image: LoadedImage,
    /// The metadata image in the cache, complete.
    pub metadata: CacheResources,
    /// Stored bytes that were fetched for it now: none when the cache had it.
    pub metadata_fetched_bytes: u64,
    /// The backing file of `metadata`.
    pub metadata_path: PathBuf,
    /// The same, read as EROFS.
    pub erofs: erofs::Image,
    /// The data blobs in the order of the devices.
    pub devices: Vec<Arc<Blob>>,
}

impl Store {
    /// A store over `cachefiles`, filled by `engine`.
    ///
    /// # Errors
    ///
    /// When the cache cannot ready the volume.
    pub fn new(cachefiles: Cachefiles, engine: Arc<Engine>) -> anyhow::Result<Self> {
        let cache = Arc::new(Cache::new(cachefiles));
        let volume = cache.acquire_volume(&VolumeKey::new(VOLUME)?, &AuxData::default())?;
        let blobs = Arc::new(Blobs::new(Arc::clone(&cache), volume));
        Ok(Self { cache, engine, blobs })
    }

    /// The cache.
    pub fn cache(&self) -> &Arc<Cache<Cachefiles>> {
        &self.cache
    }

    /// Who fills the blobs.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Loads the image called `version` from `repository` and opens it.
    ///
    /// # Errors
    ///
    /// When it cannot be had, or is not what it says it is.
    pub async fn open(&self, repository: &dyn Repository, version: &Version) -> anyhow::Result<OpenImage> {
        self.open_loaded(larder_image::load(repository, version).await?).await
    }

    /// Opens an image whose manifest and chunk indexes are here.
    ///
    /// The metadata travels in one request, unless the cache has it.
    ///
    /// # Errors
    ///
    /// When its metadata cannot be had, or is not what the manifest says.
    pub async fn open_loaded(&self, image: LoadedImage) -> anyhow::Result<OpenImage> {
        let (metadata, metadata_fetched_bytes) = self.metadata(&image).await?;
        let blobs = Arc::clone(&self.blobs);
        spawn_blocking(move || {
            let metadata_path = metadata
                .object()
                .path()
                .with_context(|| format!("{}: the cache object has no file", metadata.cookie().key()))?
                .to_owned();
            let file = File::open(&metadata_path)
                .with_context(|| format!("{}: cannot be opened", metadata_path.display()))?;
            let erofs = check::open(&image, file)?;
            let devices =
                image.devices.iter().map(|layer| blobs.open(layer)).collect::<anyhow::Result<_>>()?;
            Ok(OpenImage { image, metadata, metadata_fetched_bytes, metadata_path, erofs, devices })
        })
        .await?
    }

    /// The metadata, complete and durable, and how many bytes were fetched for it.
    async fn metadata(&self, image: &LoadedImage) -> anyhow::Result<(CacheResources, u64)> {
        let layer = image.metadata.clone();
        let blobs = Arc::clone(&self.blobs);
        let resources = spawn_blocking(move || blobs.resources(&layer)).await??;
        if resources.is_complete() {
            return Ok((resources, 0));
        }
        larder_image::fetch_metadata(&image.metadata, &resources).await?;
        // Sealed before the mount: the kernel reads this file without asking anybody.
        let object = Arc::clone(resources.object());
        spawn_blocking(move || object.commit()).await??;
        Ok((resources, image.metadata.descriptor.size()))
    }

    /// Lets go what the cache holds for `keys`, and for those that were in use the last time, as far as nobody uses
    /// them now.
    pub fn relinquish(&self, keys: impl IntoIterator<Item = CookieKey>) {
        self.blobs.relinquish(keys);
    }
}

impl OpenImage {
    /// The keys of all its cookies.
    pub fn keys(&self) -> Vec<CookieKey> {
        let devices = self.devices.iter().map(|blob| blob.cookie().key().clone());
        std::iter::once(self.metadata.cookie().key().clone()).chain(devices).collect()
    }
}
