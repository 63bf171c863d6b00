//! [`Objects`]: the openings that this process has descriptors of.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::SeekFrom;

use super::message::OpeningId;
use crate::content::Content;

/// One opening of an object of the kernel's. The last of its users closes the descriptor.
#[derive(Debug)]
pub(super) struct Opening {
    fd: OwnedFd,
    /// Absent where nobody fills it.
    content: Option<Content>,
}

impl Opening {
    pub(super) fn new(fd: OwnedFd, content: Content) -> Arc<Self> {
        Arc::new(Self { fd, content: Some(content) })
    }

    /// An opening that nobody fills, so that its READs can be ended; also returns the size that the object has. Gives
    /// back the descriptor of one that has none yet: what is said then would hold for as long as the object lives.
    pub(super) fn in_vain(fd: OwnedFd) -> Result<(Arc<Self>, u64), OwnedFd> {
        match rustix::fs::seek(&fd, SeekFrom::End(0)) {
            Ok(size) if size > 0 => Ok((Arc::new(Self { fd, content: None }), size)),
            _ => Err(fd),
        }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(super) fn content(&self) -> Option<&Content> {
        self.content.as_ref()
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
