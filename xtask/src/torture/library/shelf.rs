//! [`Shelf`]: a keeper without a process, so that a cache can be opened again as a new worker would.

use std::collections::HashMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use larder_cachefiles::DescriptorHolder;

/// Keeps descriptors until it is emptied.
#[derive(Default)]
pub struct Shelf(Mutex<HashMap<String, OwnedFd>>);

impl Shelf {
    /// Lets everything go, as the end of the machine does.
    pub fn empty(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, OwnedFd>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DescriptorHolder for Shelf {
    fn keep(&self, name: &str, fd: BorrowedFd<'_>) -> io::Result<()> {
        let copy = fd.try_clone_to_owned()?;
        self.lock().insert(name.to_owned(), copy);
        Ok(())
    }

    fn take(&self, name: &str) -> io::Result<Option<OwnedFd>> {
        self.lock().get(name).map(OwnedFd::try_clone).transpose()
    }

    fn release(&self, name: &str) {
        self.lock().remove(name);
    }

    fn names(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }
}
