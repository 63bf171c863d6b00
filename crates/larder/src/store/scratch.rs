//! [`Scratch`]: a store in a temporary directory, for commands that read an image without mounting it.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use larder_cachefiles::{BootId, Cachefiles, Config, NoHolder};
use larder_image::Reference;
use larder_imagefs::ImageFs;
use larder_ondemand::{Engine, EngineConfig};
use larder_remote::{HttpClient, Policy};

use super::{Store, connect};
use crate::signals::clear_when_ended;

/// Tries to remove the directory.
const REMOVALS_MAX: usize = 20;

/// An image opened for reading, with a cache of its own that goes when this goes.
///
/// The daemon's cache has one owner at a time; a command that took it would keep a daemon from starting.
pub struct Scratch {
    /// The image as a file system.
    pub fs: Arc<ImageFs>,
    _dir: tempfile::TempDir,
}

impl Scratch {
    /// Opens the image that `reference` names.
    ///
    /// # Errors
    ///
    /// When it cannot be had, or is not what it says it is.
    pub async fn open(reference: &Reference, insecure: bool) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("larder-").tempdir().context("a temporary directory")?;
        let path = dir.path().to_owned();
        clear_when_ended(move || remove(&path))?;
        let holder = Arc::new(NoHolder);
        let cachefiles =
            Cachefiles::open(Config::new(dir.path().to_owned(), BootId::of_this_machine()?, holder))?;
        let engine = Engine::new(tokio::runtime::Handle::current(), EngineConfig::default());
        let store = Store::new(cachefiles, Arc::clone(&engine))?;
        let http = HttpClient::new(Policy::default())?;
        let place = connect(reference, insecure, &http)?;
        let open = store.open(&*place.repository, &place.version).await?;
        Ok(Self { fs: Arc::new(ImageFs::new(open.erofs, open.devices, engine)?), _dir: dir })
    }
}

/// Takes the directory away while others may still write there.
fn remove(dir: &Path) {
    for _ in 0..REMOVALS_MAX {
        if std::fs::remove_dir_all(dir).is_ok() {
            return;
        }
    }
}
