//! [`Access`]: the cache through the daemon that owns it, or by itself when there is none.

use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use larder_cachefiles::{BootId, Cachefiles, Config as CacheConfig, NoHolder};
use larder_remote::{HttpClient, Policy};
use tokio::runtime::Handle;
use tokio::task::block_in_place;

use crate::api::cache_types::{
    DiskUse, ListRequest, Object, PinRequest, Pinned, PruneRequest, Pruned, VerifyLine, VerifyRequest,
};
use crate::api::client::Client;
use crate::config::Config;
use crate::errors::{Kind, tell, told};
use crate::inventory::{Catalogue, Inventory, Verifier};
use crate::output::progress::Progress;
use crate::paths::Paths;

/// Between two looks at whether the index is complete.
const PAUSE: Duration = Duration::from_millis(20);

/// The cache through the daemon that owns it, or by itself when there is none.
pub enum Access {
    /// A daemon owns the cache.
    Daemon(Client),
    /// Nobody does: it is ours until the command ends.
    Direct(Box<Direct>),
}

/// A cache that no daemon owns.
pub struct Direct {
    cachefiles: Cachefiles,
    catalogue: Catalogue,
}

impl Access {
    /// Finds the daemon, or opens the cache.
    ///
    /// # Errors
    ///
    /// When there is no cache, or somebody else owns it who does not answer.
    pub async fn open(paths: &Paths) -> anyhow::Result<Self> {
        let client = Client::new(paths);
        if client.is_running().await {
            return Ok(Self::Daemon(client));
        }
        check_exists(&paths.cache())?;
        let options = Config::read(&paths.config())?.cache;
        let config = CacheConfig::new(paths.cache(), BootId::of_this_machine()?, Arc::new(NoHolder));
        let config = CacheConfig { limits: options.limits(), tag: options.tag(), ..config };
        let cachefiles = block_in_place(|| Cachefiles::open(config))?;
        let direct = Direct { cachefiles, catalogue: Catalogue::new(paths.images()) };
        direct.wait_for_index().await;
        Ok(Self::Direct(Box::new(direct)))
    }

    /// Hands over every object that was asked for, sorted by volume and key, until `each` has enough.
    ///
    /// # Errors
    ///
    /// What keeps the objects from being listed, and what `each` says.
    pub async fn objects(
        &self,
        request: &ListRequest,
        each: &mut dyn FnMut(Object) -> anyhow::Result<ControlFlow<()>>,
    ) -> anyhow::Result<()> {
        match self {
            Self::Daemon(client) => {
                let mut lines = client.cache_objects(request).await?;
                while let Some(object) = lines.value().await? {
                    if each(object)?.is_break() {
                        break;
                    }
                }
                Ok(())
            }
            Self::Direct(direct) => block_in_place(|| {
                let mut failed = None;
                direct.inventory().list(request, |object| {
                    each(object).unwrap_or_else(|error| {
                        failed = Some(error);
                        ControlFlow::Break(())
                    })
                })?;
                failed.map_or(Ok(()), Err)
            }),
        }
    }

    /// What the cache takes.
    ///
    /// # Errors
    ///
    /// What keeps it from being looked at.
    pub async fn disk_use(&self) -> anyhow::Result<DiskUse> {
        match self {
            Self::Daemon(client) => client.cache_usage().await,
            Self::Direct(direct) => block_in_place(|| direct.inventory().disk_use()),
        }
    }

    /// Removes what nobody uses.
    ///
    /// # Errors
    ///
    /// What keeps it from being removed.
    pub async fn prune(&self, request: &PruneRequest) -> anyhow::Result<Pruned> {
        match self {
            Self::Daemon(client) => client.cache_prune(request).await,
            Self::Direct(direct) => block_in_place(|| direct.inventory().prune(request)),
        }
    }

    /// Keeps something from being culled, or no longer.
    ///
    /// # Errors
    ///
    /// When the cache has nothing of a name.
    pub async fn pin(&self, request: &PinRequest) -> anyhow::Result<Pinned> {
        match self {
            Self::Daemon(client) => client.cache_pin(request).await,
            Self::Direct(direct) => block_in_place(|| direct.inventory().pin(request)),
        }
    }

    /// Reads what is present again, and tells of each step.
    ///
    /// # Errors
    ///
    /// What keeps it from being read, and what `each` says.
    pub async fn verify(
        &self,
        request: &VerifyRequest,
        each: &mut dyn FnMut(VerifyLine) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        match self {
            Self::Daemon(client) => {
                let mut lines = client.cache_verify(request).await?;
                while let Some(line) = lines.value().await? {
                    each(line)?;
                }
                Ok(())
            }
            Self::Direct(direct) => block_in_place(|| direct.verify(request, each)),
        }
    }
}

/// A cache that may not be looked at is not one that is not there.
fn check_exists(cache: &Path) -> anyhow::Result<()> {
    match cache.try_exists() {
        Ok(true) => Ok(()),
        Ok(false) => Err(told(
            Kind::NotFound,
            format!("{}: there is no cache", cache.display()),
            "`larder mount` makes one; a cache with another --root lies elsewhere",
        )),
        Err(error) => {
            let hint = match error.kind() {
                io::ErrorKind::PermissionDenied => "the cache belongs to another user: run this as its owner",
                _ => "",
            };
            let message = format!("{}: cannot be looked at", cache.display());
            Err(anyhow::Error::new(error).context(tell(Kind::Failed, message, hint)))
        }
    }
}

impl Direct {
    fn inventory(&self) -> Inventory<'_> {
        Inventory { cachefiles: &self.cachefiles, catalogue: &self.catalogue }
    }

    /// After an unclean end the index is rebuilt first: figures of half a cache would be wrong. What the walk could not read
    /// is not waited for: the figures say that something is missing.
    async fn wait_for_index(&self) {
        let progress = Progress::bytes("rebuilding the index", None);
        while self.cachefiles.is_walking() {
            progress.set(self.cachefiles.usage().stored_bytes);
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn verify(
        &self,
        request: &VerifyRequest,
        each: &mut dyn FnMut(VerifyLine) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let verifier = Verifier {
            handle: Handle::current(),
            http: HttpClient::new(Policy::default())?,
            // The cache is ours alone.
            in_use: &|_, _| None,
        };
        let mut failed = None;
        self.inventory().verify(request, &verifier, &mut |line| match each(line) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        })?;
        failed.map_or(Ok(()), Err)
    }
}
