//! [`Objects`]: the openings that this process has descriptors of.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::SeekFrom;

use super::message::{Name, OpeningId};
use crate::content::Content;

/// One opening of an object of the kernel's. The last of its users closes the descriptor.
#[derive(Debug)]
pub(super) struct Opening {
    fd: OwnedFd,
    name: Name,
    /// Absent where nobody knew it when it was opened.
    content: Option<Content>,
}

impl Opening {
    pub(super) fn new(fd: OwnedFd, name: Name, content: Content) -> Arc<Self> {
        Arc::new(Self { fd, name, content: Some(content) })
    }

    /// An opening that nobody fills yet, so that its READs can be ended; also returns the size that the object has. `None` for
    /// one that has none yet: what is said then would hold for as long as the object lives.
    pub(super) fn in_vain(fd: &OwnedFd, name: &Name) -> Option<(Arc<Self>, u64)> {
        let size = rustix::fs::seek(fd, SeekFrom::End(0)).ok().filter(|size| *size > 0)?;
        let fd = fd.try_clone().ok()?;
        Some((Arc::new(Self { fd, name: name.clone(), content: None }), size))
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// What it is filled with, where that was known when it was opened, or else what `find` knows of its name by now.
    pub(super) fn content(&self, find: impl FnOnce(&Name) -> Option<Content>) -> Option<Content> {
        self.content.clone().or_else(|| find(&self.name))
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
