//! [`CacheResources`]: an operation under way on a cookie, through which everything is asked, read and written.

mod prepare;
mod transfer;

use std::fmt;
use std::sync::Arc;

use crate::{BlockSize, CacheObject, Cookie, InUse};

pub use transfer::OnHole;

/// An operation under way: `struct netfs_cache_resources` (include/linux/netfs.h, v6.12).
///
/// It holds the object that the cookie had when it began, and counts as an access and as a use. Clones are operations
/// of their own; dropping one ends it. When the cookie's object is replaced or taken away, what is asked here finds
/// nothing any more and [`expired`](Self::expired) says so: begin again.
pub struct CacheResources {
    in_use: InUse,
    object: Arc<dyn CacheObject>,
    epoch: u64,
}

impl CacheResources {
    /// An operation whose access the caller has just counted.
    pub(crate) fn new(in_use: InUse, object: Arc<dyn CacheObject>, epoch: u64) -> Self {
        Self { in_use, object, epoch }
    }

    /// The cookie.
    pub fn cookie(&self) -> &Arc<Cookie> {
        self.in_use.cookie()
    }

    /// The object below, for what only a front end needs (its file, its path, commit).
    pub fn object(&self) -> &Arc<dyn CacheObject> {
        &self.object
    }

    /// Size of the object in bytes.
    pub fn size(&self) -> u64 {
        self.object.size()
    }

    /// The granule of presence.
    pub fn block_size(&self) -> BlockSize {
        self.object.block_size()
    }

    /// Whether every byte is present.
    pub fn is_complete(&self) -> bool {
        self.object.is_complete()
    }

    /// Number of bytes present.
    pub fn present_bytes(&self) -> u64 {
        self.object.present_bytes()
    }

    /// Whether the cookie's object was replaced or taken away since the operation began.
    pub fn expired(&self) -> bool {
        self.cookie().epoch() != self.epoch
    }
}

impl Clone for CacheResources {
    fn clone(&self) -> Self {
        let in_use = self.in_use.clone();
        in_use.count_access();
        Self { in_use, object: Arc::clone(&self.object), epoch: self.epoch }
    }
}

impl Drop for CacheResources {
    fn drop(&mut self) {
        self.in_use.end_access();
    }
}

impl fmt::Debug for CacheResources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CacheResources").field(self.cookie()).finish()
    }
}
