//! [`Live`]: one mount as the worker holds it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use larder_fscache::CacheResources;
use larder_mount::Mounted;
use larder_ondemand::{Blob, SourceLease};
use larder_remote::tree::TreeStore;

use super::record::{MountRecord, RecordFile};
use crate::api::types::{Mount, MountKind, MountState};
use crate::store::Keys;

/// One mount as the worker holds it.
pub struct Live {
    /// What another worker needs to take it up.
    pub record: MountRecord,
    /// Where that is written.
    pub record_file: RecordFile,
    /// Stored bytes of the whole image.
    pub image_bytes: u64,
    /// What fetching manifest, indexes and metadata cost.
    pub opening: Cost,
    /// Its metadata; a tree has none.
    pub metadata: Option<CacheResources>,
    /// The metadata as a blob, where the front end brings it.
    pub metadata_blob: Option<Arc<Blob>>,
    /// Stored size of its metadata.
    pub metadata_stored_bytes: u64,
    /// Its data.
    pub devices: Vec<Arc<Blob>>,
    /// Where its blobs are brought from, as long as these live.
    pub _sources: Vec<SourceLease>,
    /// The store of a tree.
    pub tree: Option<Arc<dyn TreeStore>>,
    /// The front end's half.
    pub mounted: Box<dyn Mounted>,
}

/// What was fetched.
#[derive(Debug, Default)]
pub struct Cost {
    /// Bytes that crossed the wire.
    pub bytes: AtomicU64,
    /// Requests that brought them.
    pub requests: AtomicU64,
}

impl Cost {
    /// A cost of so much.
    pub fn new(bytes: u64, requests: u64) -> Self {
        Self { bytes: bytes.into(), requests: requests.into() }
    }
}

impl Live {
    /// The keys of all its cookies.
    pub fn keys(&self) -> Keys {
        Keys::new(self.metadata.as_ref(), self.blobs())
    }

    /// All that the engine fills for it.
    pub fn blobs(&self) -> impl Iterator<Item = &Arc<Blob>> {
        self.metadata_blob.iter().chain(&self.devices)
    }

    /// Whether every byte of the image is here.
    pub fn is_complete(&self) -> bool {
        self.tree.is_none() && self.blobs().all(|blob| blob.is_complete())
    }

    /// Tells the front end that `blob` is complete and durable: it takes its hook off.
    pub fn on_complete(&self, blob: &Arc<Blob>) {
        if self.blobs().any(|mine| Arc::ptr_eq(mine, blob)) {
            self.mounted.on_complete(blob);
        }
    }

    /// Has the front end take its hooks off every blob that is complete: again where they are off, which is nothing to do.
    pub fn take_hooks_off(&self) {
        self.blobs().filter(|blob| blob.is_complete()).for_each(|blob| self.mounted.on_complete(blob));
    }

    /// The mount as the API shows it.
    pub fn view(&self) -> Mount {
        let stats = self.blobs().map(|blob| blob.stats());
        let (bytes, requests) =
            stats.fold((0, 0), |sum, stats| (sum.0 + stats.fetched_bytes, sum.1 + stats.requests));
        let tree = self.tree.as_ref().map(|tree| tree.meter().read()).unwrap_or_default();
        let (bytes, requests) = (bytes + tree.bytes, requests + tree.requests);
        let newest = self.blobs().filter_map(|blob| blob.last_error()).max_by_key(|error| error.at);
        let at_ms = |error: &larder_ondemand::LastError| {
            let since = error.at.duration_since(std::time::UNIX_EPOCH).ok()?;
            u64::try_from(since.as_millis()).ok()
        };
        Mount {
            id: self.record.id.clone(),
            path: self.record.target.clone(),
            kind: if self.tree.is_some() { MountKind::Tree } else { MountKind::Image },
            image: self.record.image.clone(),
            manifest: self.record.manifest.clone(),
            frontend: self.record.frontend.clone(),
            state: if self.is_complete() { MountState::Complete } else { MountState::OnDemand },
            image_bytes: self.image_bytes,
            fetched_bytes: self.opening.bytes.load(Ordering::Relaxed) + bytes,
            requests: self.opening.requests.load(Ordering::Relaxed) + requests,
            last_error_at_ms: newest.as_ref().and_then(at_ms),
            last_error: newest.map(|error| error.message),
            blobs: self.keys().into_all().iter().map(|key| key.as_str().to_owned()).collect(),
        }
    }
}
