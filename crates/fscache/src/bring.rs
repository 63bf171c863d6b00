//! [`Bring`]: who brings the bytes of a hole to a cookie.

use crate::{Error, ObjectRange};

/// Brings the bytes of holes, for clients that want to wait for them.
///
/// The counterpart of the daemon behind cachefiles' on-demand mode. A cookie has at most one; see
/// [`Cookie::set_bring`](crate::Cookie::set_bring).
pub trait Bring: Send + Sync + 'static {
    /// Brings all of `want` into the cookie's object and returns when it is there. Blocks.
    ///
    /// # Errors
    ///
    /// [`Error::Bring`] when it cannot be had. Nothing of that lasts: the next call tries again.
    fn bring(&self, want: ObjectRange) -> Result<(), Error>;
}
