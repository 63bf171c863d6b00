//! The kernel's caches, which are the whole machine's: some tests drop them, others insist on what they hold.

use std::fs;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

/// Held alone by who drops them.
static CACHES: RwLock<()> = RwLock::new(());

/// Makes the kernel forget what it has of files and names; only root may.
pub fn drop_caches() {
    let _alone = CACHES.write().unwrap_or_else(PoisonError::into_inner);
    let _ = fs::write("/proc/sys/vm/drop_caches", "3");
}

/// No other test drops them as long as this lives.
pub fn keep_caches() -> RwLockReadGuard<'static, ()> {
    CACHES.read().unwrap_or_else(PoisonError::into_inner)
}
