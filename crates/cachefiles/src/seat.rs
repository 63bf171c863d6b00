//! [`Seat`]: the place of a key among the living, and who sits on it.
//!
//! An object can be replaced while the old one is still held by somebody: invalidated, or resized. So what is
//! unique is not the object but its seat. A key is idle when no object, not even a withdrawn one, is left.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak};

use larder_fscache::Lease;

use crate::object::{CacheFile, Name};

/// The seat of one key.
pub(crate) struct Seat {
    /// Who sits there. Held while an object is opened, replaced, or takes leave: one at a time.
    current: Mutex<Weak<CacheFile>>,
    /// What the ledger charges for the file that has the name, beyond what its row in the index says. Objects that
    /// follow each other on the same file share it.
    extra: AtomicU64,
    _lease: Lease<Name, Seat>,
}

impl Seat {
    pub fn new(lease: Lease<Name, Self>) -> Self {
        Self { current: Mutex::default(), extra: AtomicU64::new(0), _lease: lease }
    }

    /// Takes the seat's lock. Never let go of an object under it: its last holder takes it again.
    pub fn lock(&self) -> MutexGuard<'_, Weak<CacheFile>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The object that sits here, if any.
    pub fn current(&self) -> Option<Arc<CacheFile>> {
        self.lock().upgrade()
    }

    /// The object that sits here, unless somebody is changing that: who asks may be the one.
    pub fn current_unless_locked(&self) -> Option<Arc<CacheFile>> {
        match self.current.try_lock() {
            Ok(current) => current.upgrade(),
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner().upgrade(),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Charges more.
    pub fn charge(&self, bytes: u64) {
        self.extra.fetch_add(bytes, Ordering::AcqRel);
    }

    /// Takes what is charged beyond the row, for who answers for it from now on.
    pub fn take_extra(&self) -> u64 {
        self.extra.swap(0, Ordering::AcqRel)
    }
}
