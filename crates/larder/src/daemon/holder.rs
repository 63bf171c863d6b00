//! [`Kept`]: the keeper as the cache sees it.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use larder_cachefiles::DescriptorHolder;
use larder_mount::keeper::Holder;

/// The keeper as the cache sees it: it holds live maps and fill descriptors beyond the life of a worker.
pub struct Kept(pub Arc<dyn Holder>);

impl DescriptorHolder for Kept {
    fn keep(&self, name: &str, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.0.keep(name, fd)
    }

    fn take(&self, name: &str) -> io::Result<Option<OwnedFd>> {
        self.0.take(name)
    }

    fn release(&self, name: &str) {
        self.0.release(name);
    }

    fn names(&self) -> Vec<String> {
        self.0.names()
    }
}
