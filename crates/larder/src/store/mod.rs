//! [`Store`]: images opened over one cache, ready to be mounted or read.
//!
//! The daemon has one for its whole life; `ls` and `cat` make a small one for themselves. Blobs are shared: two images
//! that have a blob in common, and two mounts of one image, fill the same [`Blob`], so that its bytes are fetched once.

mod blobs;
mod check;
mod lazy;
mod looking;
mod patient;
mod place;
mod scratch;
#[cfg(test)]
pub mod testing;
#[cfg(test)]
mod tests;
mod turns;

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use larder_cachefiles::{Cachefiles, held_names};
use larder_erofs as erofs;
use larder_fscache::{AuxData, Cache, CacheResources, CookieKey, VolumeKey};
use larder_image::{Layer, LoadedImage, Repository, Version};
use larder_mount::FrontEnd;
use larder_ondemand::{Blob, Engine, SourceLease};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::errors::{Kind, told};

pub use blobs::{Blobs, Opened};
use lazy::Waiting;
pub use looking::LOOKING_MAX;
pub use place::{Place, connect, connect_in_time, connect_patiently};
pub use scratch::Scratch;
use turns::{Turn, Turns};

/// Stored metadata larger than this is brought on demand, where the front end can: smaller metadata comes with one request
/// sooner than with several.
const LAZY_METADATA_BYTES_MIN: u64 = 1 << 20;

/// How long a mount waits for another one that fetches the same metadata and gets nothing.
const TURN_MAX: Duration = Duration::from_secs(3);

/// How often metadata is fetched that the cache loses again before it is durable.
const METADATA_TRIES: usize = 3;

/// The one volume for now: whoever may use this daemon may see all its blobs.
pub const VOLUME: &str = "default";

/// Images opened over one cache.
#[derive(Clone)]
pub struct Store {
    cache: Arc<Cache<Cachefiles>>,
    engine: Arc<Engine>,
    blobs: Arc<Blobs>,
    metadata_turns: Arc<Turns>,
}

/// An image whose data comes on demand, and whose metadata is here, complete and checked, or comes on demand, too.
pub struct OpenImage {
    /// The manifest, its layers and their chunk tables.
    pub image: LoadedImage,
    /// The metadata image in the cache; complete, unless `metadata_blob` brings it.
    pub metadata: CacheResources,
    /// The metadata as a blob, for front ends that bring it.
    pub metadata_blob: Option<Arc<Blob>>,
    /// Stored bytes that were fetched for it now: none when the cache had it.
    pub metadata_fetched_bytes: u64,
    /// The backing file of `metadata`.
    pub metadata_path: PathBuf,
    /// The same, read as EROFS.
    pub erofs: erofs::Image,
    /// The data blobs in the order of the devices.
    pub devices: Vec<Arc<Blob>>,
    /// Where its blobs are brought from, as long as these live.
    pub sources: Vec<SourceLease>,
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
        Ok(Self { cache, engine, blobs, metadata_turns: Arc::default() })
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
        let (metadata, metadata_fetched_bytes) = self.metadata(&image.metadata).await?;
        let blobs = Arc::clone(&self.blobs);
        spawn_blocking(move || {
            let metadata_path = path_of(&metadata)?;
            let file = File::open(&metadata_path)
                .with_context(|| format!("{}: cannot be opened", metadata_path.display()))?;
            let erofs = check::open(&image, file)?;
            let (devices, sources) = split(blobs.open_all(&image.devices)?);
            let metadata_blob = None;
            Ok(OpenImage {
                image,
                metadata,
                metadata_blob,
                metadata_fetched_bytes,
                metadata_path,
                erofs,
                devices,
                sources,
            })
        })
        .await?
    }

    /// Opens an image for a front end that brings metadata: only what the checks read has to be here.
    ///
    /// # Errors
    ///
    /// When that cannot be had, or is not what the manifest says.
    pub async fn open_for(
        &self,
        front_end: &Arc<dyn FrontEnd>,
        image: LoadedImage,
    ) -> anyhow::Result<OpenImage> {
        let asked = Arc::clone(front_end);
        if !spawn_blocking(move || asked.brings_metadata()).await? {
            return self.open_loaded(image).await;
        }
        let mut fetched_bytes = 0;
        if image.metadata.descriptor.size() < LAZY_METADATA_BYTES_MIN {
            fetched_bytes = self.metadata(&image.metadata).await?.1;
        }
        let (blobs, of_layer) = (Arc::clone(&self.blobs), image.metadata.clone());
        let opened = spawn_blocking(move || blobs.open(&of_layer)).await??;
        let keys = Keys::new(None, [&opened.blob]);
        match self.open_over(image, opened).await {
            Ok(open) => Ok(OpenImage { metadata_fetched_bytes: fetched_bytes, ..open }),
            Err(error) => {
                // Somebody may still work for it.
                self.close(keys).await;
                Err(error)
            }
        }
    }

    /// Opens an image over its metadata, which is brought as far as the checks read it.
    async fn open_over(&self, image: LoadedImage, metadata: Opened) -> anyhow::Result<OpenImage> {
        let (blobs, engine) = (Arc::clone(&self.blobs), Arc::clone(&self.engine));
        spawn_blocking(move || {
            let Opened { blob, source } = metadata;
            let metadata = blob.resources().clone();
            let metadata_path = path_of(&metadata)?;
            let erofs = check::open(&image, Waiting::new(Arc::clone(&blob), &engine))?;
            let (devices, mut sources) = split(blobs.open_all(&image.devices)?);
            sources.push(source);
            Ok(OpenImage {
                metadata_blob: Some(blob),
                metadata_fetched_bytes: 0,
                image,
                metadata,
                metadata_path,
                erofs,
                devices,
                sources,
            })
        })
        .await?
    }

    /// The metadata, complete and durable, and how many bytes were fetched for it.
    async fn metadata(&self, layer: &Layer) -> anyhow::Result<(CacheResources, u64)> {
        let (blobs, of_layer) = (Arc::clone(&self.blobs), layer.clone());
        let resources = spawn_blocking(move || blobs.resources(&of_layer)).await??;
        let _turn = self.metadata_turn(&resources).await;
        let fetched_bytes = if resources.is_complete() { 0 } else { layer.descriptor.size() };
        for _ in 0..METADATA_TRIES {
            larder_image::fetch_metadata(layer, &resources).await?;
            // Sealed before the mount, whoever has completed it: the kernel reads this file without asking anybody, and what
            // is not durable yet can still be taken back.
            let object = Arc::clone(resources.object());
            if spawn_blocking(move || object.commit().map(|()| object.sealed_file().is_some())).await?? {
                return Ok((resources, fetched_bytes));
            }
        }
        Err(told(
            Kind::Failed,
            format!("metadata {}: the cache does not keep it", layer.table.identity()),
            "see the daemon's log for errors of the cache's disk",
        ))
    }

    /// Mounts of one image at the same time fetch its metadata once. `None` when whoever is before gets no further: its place may be
    /// one that does not answer.
    async fn metadata_turn(&self, resources: &CacheResources) -> Option<Turn> {
        let mut turn = pin!(self.metadata_turns.take(resources.cookie().key()));
        let mut present = resources.present_bytes();
        loop {
            if let Ok(turn) = timeout(TURN_MAX, &mut turn).await {
                return Some(turn);
            }
            let now = resources.present_bytes();
            if now == present {
                return None;
            }
            present = now;
        }
    }

    /// One image with the cookies `keys` is closed, and nobody can ask for its bytes through it any more. The blobs that
    /// no other image uses are withdrawn: work for them stops, and this returns when nobody does any.
    pub async fn close(&self, keys: Keys) {
        for blob in self.blobs.leave(&keys.blobs) {
            self.engine.withdraw(&blob).await;
        }
        let blobs = Arc::clone(&self.blobs);
        let all = keys.into_all();
        if let Err(error) = spawn_blocking(move || blobs.relinquish(&all)).await {
            tracing::error!(%error, "relinquish");
        }
    }

    /// Lets go what the cache holds and nobody uses. Blocks for I/O. Not before every mount has been taken up.
    pub fn relinquish_unused(&self) {
        self.blobs.relinquish_unused();
    }
}

fn split(opened: Vec<Opened>) -> (Vec<Arc<Blob>>, Vec<SourceLease>) {
    opened.into_iter().map(|Opened { blob, source }| (blob, source)).unzip()
}

/// Where the backing file of `metadata` lies.
fn path_of(metadata: &CacheResources) -> anyhow::Result<PathBuf> {
    let path = metadata.object().path().map(Path::to_owned);
    path.with_context(|| format!("{}: the cache object has no file", metadata.cookie().key()))
}

impl OpenImage {
    /// The keys of all its cookies.
    pub fn keys(&self) -> Keys {
        Keys::new(Some(&self.metadata), self.metadata_blob.iter().chain(&self.devices))
    }

    /// The names under which the keeper has, or is to have, what belongs to its objects.
    pub fn held_names(&self) -> BTreeSet<String> {
        let blobs = self.metadata_blob.iter().chain(&self.devices).map(|blob| blob.cookie());
        let cookies = blobs.chain([self.metadata.cookie()]);
        cookies.flat_map(|cookie| held_names(cookie.volume().key(), cookie.key())).collect()
    }
}

/// The keys of the cookies of one image.
#[derive(Clone, Debug)]
pub struct Keys {
    /// The metadata's, where it was brought whole: the image counts as no user of a blob then, though another may.
    metadata: Option<CookieKey>,
    /// Of those that it uses as blobs.
    blobs: Vec<CookieKey>,
}

impl Keys {
    /// The keys of `blobs`, and of `metadata` where that is none of them.
    pub fn new<'a>(
        metadata: Option<&CacheResources>,
        blobs: impl IntoIterator<Item = &'a Arc<Blob>>,
    ) -> Self {
        let blobs: Vec<_> = blobs.into_iter().map(|blob| blob.cookie().key().clone()).collect();
        let metadata = metadata.map(|metadata| metadata.cookie().key().clone());
        Self { metadata: metadata.filter(|key| !blobs.contains(key)), blobs }
    }

    /// All of them, the metadata's first.
    pub fn into_all(self) -> Vec<CookieKey> {
        self.metadata.into_iter().chain(self.blobs).collect()
    }
}
