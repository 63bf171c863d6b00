//! What the tests of real mounts share: a worker without the program around it, and who keeps its descriptors.

pub mod rig;
mod worker;

use std::collections::BTreeMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex};

use larder_mount::keeper::Holder;
use larder_ondemand::EngineConfig;

pub use worker::{CHUNK, Source, Unmount, Worker, build, cannot, drop_caches, noise, scratch, table};

impl Worker {
    /// Opens the image and the cache in `dir`; the mount point is `dir/mnt`.
    pub fn open(dir: &Path, holder: Arc<dyn Holder>) -> Self {
        Self::with_engine(dir, holder, EngineConfig::default())
    }
}

/// What the keeper does, without the process.
#[derive(Default)]
pub struct MapHolder {
    kept: Mutex<BTreeMap<String, OwnedFd>>,
}

impl Holder for MapHolder {
    fn keep(&self, name: &str, fd: BorrowedFd<'_>) -> std::io::Result<()> {
        self.kept.lock().unwrap().insert(name.to_owned(), fd.try_clone_to_owned()?);
        Ok(())
    }

    fn take(&self, name: &str) -> std::io::Result<Option<OwnedFd>> {
        self.kept.lock().unwrap().get(name).map(OwnedFd::try_clone).transpose()
    }

    fn release(&self, name: &str) {
        self.kept.lock().unwrap().remove(name);
    }

    fn names(&self) -> Vec<String> {
        self.kept.lock().unwrap().keys().cloned().collect()
    }
}

/// In the place of a FUSE: it refuses a notification as Linux 7.3 does before the first request is answered.
pub fn not_begun() -> OwnedFd {
    rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC).expect("a descriptor")
}
