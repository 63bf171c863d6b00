//! [`Objects`]: the openings that this process has descriptors of.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::message::OpeningId;
use super::names::Content;

/// One opening of an object of the kernel's. The last of its users closes the descriptor.
#[derive(Debug)]
pub(super) struct Opening {
    fd: OwnedFd,
    content: Content,
}

impl Opening {
    pub(super) fn new(fd: OwnedFd, content: Content) -> Arc<Self> {
        Arc::new(Self { fd, content })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(super) fn content(&self) -> &Content {
        &self.content
    }
}

/// The openings by the kernel's numbers.
#[derive(Debug, Default)]
pub(super) struct Objects {
    open: Mutex<HashMap<OpeningId, Arc<Opening>>>,
}

impl Objects {
    /// Enters an opening, before its OPEN is answered: READs may come at once. One that had the number is closed.
    pub(super) fn enter(&self, id: OpeningId, opening: Arc<Opening>) {
        self.lock().insert(id, opening);
    }

    pub(super) fn get(&self, id: OpeningId) -> Option<Arc<Opening>> {
        self.lock().get(&id).cloned()
    }

    /// Lets go of an opening: the kernel has closed it, or does not want it.
    pub(super) fn leave(&self, id: OpeningId) {
        self.lock().remove(&id);
    }

    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<OpeningId, Arc<Opening>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
