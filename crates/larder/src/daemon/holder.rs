//! [`Kept`]: the keeper as the cache sees it.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use larder_cachefiles::DescriptorHolder;
use larder_mount::keeper::Holder;

use super::front_ends::FrontEnds;

/// The keeper as the cache sees it: it holds live maps and fill descriptors beyond the life of a worker.
pub struct Kept {
    /// The keeper.
    pub holder: Arc<dyn Holder>,
    /// Told of a file before the last descriptor goes by which it can be written unasked.
    pub front_ends: Arc<FrontEnds>,
}

impl DescriptorHolder for Kept {
    fn keep(&self, name: &str, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.holder.keep(name, fd)
    }

    fn take(&self, name: &str) -> io::Result<Option<OwnedFd>> {
        self.holder.take(name)
    }

    fn release(&self, name: &str) {
        self.holder.release(name);
    }

    fn release_last(&self, name: &str, file: BorrowedFd<'_>) {
        self.front_ends.let_go(file);
        self.holder.release(name);
    }

    fn names(&self) -> Vec<String> {
        self.holder.names()
    }
}
