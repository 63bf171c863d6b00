//! [`Volume`]: a namespace of cookies.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::cookie::Name;
use crate::stats::add;
use crate::{
    AuxData, Backend, CacheResources, Cookie, CookieKey, Counts, Error, Lease, ObjectSpec, Stats, Table,
    VolumeKey,
};

/// What all volumes and cookies of a cache share.
pub(crate) struct Shared {
    pub backend: Arc<dyn Backend>,
    pub volumes: Table<VolumeKey, Volume>,
    pub cookies: Table<Name, Cookie>,
    pub stats: Stats,
    pub is_withdrawn: AtomicBool,
}

/// A namespace and trust domain: cookies of different volumes never share bytes.
pub struct Volume {
    key: VolumeKey,
    coherency: AuxData,
    shared: Arc<Shared>,
    /// Last, so that the key is free only when the rest is gone.
    _lease: Lease<VolumeKey, Volume>,
}

impl Volume {
    pub(crate) fn new(
        key: VolumeKey,
        coherency: AuxData,
        shared: Arc<Shared>,
        lease: Lease<VolumeKey, Self>,
    ) -> Self {
        Self { key, coherency, shared, _lease: lease }
    }

    /// Its name.
    pub fn key(&self) -> &VolumeKey {
        &self.key
    }

    /// Its coherency data.
    pub fn coherency(&self) -> &AuxData {
        &self.coherency
    }

    /// Returns the cookie `key`, an object as `spec` says: the same one to everybody. No I/O happens yet.
    ///
    /// # Errors
    ///
    /// [`Error::Size`] or [`Error::Coherency`] when it is there with another specification; who knows that the content
    /// has changed invalidates it.
    pub fn acquire_cookie(
        self: &Arc<Self>,
        key: &CookieKey,
        spec: &ObjectSpec,
    ) -> Result<Arc<Cookie>, Error> {
        let stats = self.shared.stats.mine();
        add(&stats.acquires, 1);
        let name = (self.key.clone(), key.clone());
        let mut is_new = false;
        let cookie = self.shared.cookies.get_or_open(&name, |lease| {
            is_new = true;
            Ok(Cookie::new(Arc::clone(self), key.clone(), spec.clone(), lease))
        })?;
        tracing::debug!(
            volume = %self.key, cookie = %key, object = cookie.id(), size = spec.size, "fscache_acquire"
        );
        if !is_new {
            add(&stats.acquires_shared, 1);
            check_spec(key, spec, &cookie.spec())?;
        }
        Ok(cookie)
    }

    /// Acquires the cookie `key`, uses it and begins an operation: for clients that have one for their whole life.
    /// Blocks for I/O.
    ///
    /// # Errors
    ///
    /// As [`acquire_cookie`](Self::acquire_cookie) and [`Cookie::use_cookie`].
    pub fn open(self: &Arc<Self>, key: &CookieKey, spec: &ObjectSpec) -> Result<CacheResources, Error> {
        self.acquire_cookie(key, spec)?.use_cookie()?.begin_write_operation()
    }

    /// What happened in the cache that the volume is of.
    pub fn counts(&self) -> Counts {
        self.shared.stats.counts()
    }

    pub(crate) fn backend(&self) -> &dyn Backend {
        &*self.shared.backend
    }

    pub(crate) fn stats(&self) -> &Stats {
        &self.shared.stats
    }

    pub(crate) fn check_not_withdrawn(&self, cookie: &CookieKey) -> Result<(), Error> {
        if self.shared.is_withdrawn.load(Ordering::Acquire) {
            return Err(Error::Withdrawn { cookie: cookie.clone() });
        }
        Ok(())
    }
}

/// Whether an object that is in use is what `expected` says.
fn check_spec(key: &CookieKey, expected: &ObjectSpec, found: &ObjectSpec) -> Result<(), Error> {
    if found.aux != expected.aux {
        return Err(Error::Coherency { name: format!("cookie {key}") });
    }
    if found.size != expected.size {
        return Err(Error::Size { cookie: key.clone(), expected: expected.size, found: found.size });
    }
    Ok(())
}
