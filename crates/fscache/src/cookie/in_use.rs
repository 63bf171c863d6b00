//! [`InUse`]: one use of a cookie.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Instant;

use super::{Cookie, Event, State};
use crate::stats::add;
use crate::{CacheResources, Error};

/// One use of a cookie: an open file, a mount. Dropping it ends the use.
pub struct InUse {
    cookie: Arc<Cookie>,
}

impl InUse {
    /// The use that the caller has just counted.
    pub(super) fn of(cookie: Arc<Cookie>) -> Self {
        Self { cookie }
    }

    /// The cookie.
    pub fn cookie(&self) -> &Arc<Cookie> {
        &self.cookie
    }

    /// Begins an operation: waits for a look-up or invalidation under way, and looks again after a failed one.
    ///
    /// The counterpart of fscache_begin_read_operation() (fs/fscache/io.c, v6.12). Dropping what it returns ends the
    /// operation.
    ///
    /// # Errors
    ///
    /// As [`Cookie::use_cookie`].
    pub fn begin_read_operation(&self) -> Result<CacheResources, Error> {
        self.begin()
    }

    /// The same for an operation that writes: the cache makes no difference between them, their authors do.
    ///
    /// # Errors
    ///
    /// As [`Cookie::use_cookie`].
    pub fn begin_write_operation(&self) -> Result<CacheResources, Error> {
        self.begin()
    }

    fn begin(&self) -> Result<CacheResources, Error> {
        loop {
            let mut inner = self.cookie.enter(Event::Use)?;
            if inner.state == State::LookingUp {
                let spec = inner.spec.clone();
                drop(inner);
                self.cookie.look_up(&spec)?;
                continue;
            }
            let object = inner.object.clone().expect("an active cookie has an object");
            inner.n_accesses += 1;
            let epoch = self.cookie.epoch();
            drop(inner);
            add(&self.cookie.volume().stats().mine().operations, 1);
            return Ok(CacheResources::new(self.clone(), object, epoch));
        }
    }

    pub(crate) fn count_access(&self) {
        self.cookie.lock().n_accesses += 1;
    }

    pub(crate) fn end_access(&self) {
        self.cookie.lock().n_accesses -= 1;
    }
}

impl Clone for InUse {
    fn clone(&self) -> Self {
        self.cookie.lock().n_active += 1;
        Self { cookie: Arc::clone(&self.cookie) }
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        let mut inner = self.cookie.lock();
        inner.n_active -= 1;
        if inner.n_active == 0 {
            inner.idle_since = Instant::now();
            drop(inner);
            self.cookie.changed.notify_all();
        }
    }
}

impl Deref for InUse {
    type Target = Cookie;

    fn deref(&self) -> &Cookie {
        &self.cookie
    }
}
