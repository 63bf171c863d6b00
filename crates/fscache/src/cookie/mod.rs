//! [`Cookie`]: one file's or blob's data in the cache, from its acquisition to its end.
//!
//! A cookie is a name and a promise, no more: its object is looked up at the first use, closed when nobody has
//! used it for a while, replaced when the content changes. Whatever blocks happens outside of the lock; the state
//! ([`State`]) says what is under way, and who comes meanwhile waits for it.

mod in_use;
mod state;
mod step;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::stats::add;
use crate::volume::Volume;
use crate::{AuxData, Bring, CacheObject, CookieKey, Error, Lease, ObjectSpec, VolumeKey};

pub use in_use::InUse;
pub use state::State;
pub(crate) use state::{Event, Next};

/// What the table of cookies is keyed by.
pub(crate) type Name = (VolumeKey, CookieKey);

/// The next debug id; ids are never used twice in a process's life.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// One file's or blob's data in the cache. Shared: the same key gives the same cookie while it is alive.
pub struct Cookie {
    volume: Arc<Volume>,
    key: CookieKey,
    /// The number by which traces call it.
    id: u64,
    /// Raised whenever the object goes or is replaced: operations from before have expired.
    epoch: AtomicU64,
    inner: Mutex<Inner>,
    changed: Condvar,
    /// Last, so that the key is free only when the rest is gone.
    lease: Lease<Name, Cookie>,
}

struct Inner {
    state: State,
    spec: ObjectSpec,
    object: Option<Arc<dyn CacheObject>>,
    /// Uses: files that are open, mounts.
    n_active: usize,
    /// Operations under way.
    n_accesses: usize,
    idle_since: Instant,
    bring: Option<Arc<dyn Bring>>,
}

impl Cookie {
    pub(crate) fn new(
        volume: Arc<Volume>,
        key: CookieKey,
        spec: ObjectSpec,
        lease: Lease<Name, Self>,
    ) -> Self {
        let inner = Inner {
            state: State::Quiescent,
            spec,
            object: None,
            n_active: 0,
            n_accesses: 0,
            idle_since: Instant::now(),
            bring: None,
        };
        Self {
            volume,
            key,
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            epoch: AtomicU64::new(0),
            inner: Mutex::new(inner),
            changed: Condvar::new(),
            lease,
        }
    }

    /// The volume it belongs to.
    pub fn volume(&self) -> &Arc<Volume> {
        &self.volume
    }

    /// Its name within the volume.
    pub fn key(&self) -> &CookieKey {
        &self.key
    }

    /// The number by which traces call it; never used twice in a process's life.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.lock().spec.size
    }

    /// The version of its content.
    pub fn aux(&self) -> AuxData {
        self.lock().spec.aux.clone()
    }

    /// Size and version.
    pub fn spec(&self) -> ObjectSpec {
        self.lock().spec.clone()
    }

    /// Its object, while it is open.
    pub fn object(&self) -> Option<Arc<dyn CacheObject>> {
        self.lock().object.clone()
    }

    /// Where it stands.
    pub fn state(&self) -> State {
        self.lock().state
    }

    /// Operations under way.
    pub fn accesses(&self) -> usize {
        self.lock().n_accesses
    }

    /// Says who brings the bytes of its holes to [`CacheResources::prepare_ondemand_read`]; there is at most one.
    ///
    /// [`CacheResources::prepare_ondemand_read`]: crate::CacheResources::prepare_ondemand_read
    pub fn set_bring(&self, bring: Option<Arc<dyn Bring>>) {
        // The old one is dropped outside of the lock.
        let _old = std::mem::replace(&mut self.lock().bring, bring);
    }

    pub(crate) fn bring(&self) -> Option<Arc<dyn Bring>> {
        self.lock().bring.clone()
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Begins a use: looks the object up, or makes it, when it is not open. Waits for whatever is under way.
    ///
    /// Blocks for I/O. While uses are alive the object is neither closed nor culled.
    ///
    /// # Errors
    ///
    /// [`Error::Relinquished`], [`Error::Withdrawn`] once the cache is withdrawn; what [`Backend::acquire`] says. None
    /// of them lasts longer than its cause.
    ///
    /// [`Backend::acquire`]: crate::Backend::acquire
    pub fn use_cookie(self: &Arc<Self>) -> Result<InUse, Error> {
        let mut inner = self.enter(Event::Use)?;
        inner.n_active += 1;
        let looking_up = inner.state == State::LookingUp;
        let spec = inner.spec.clone();
        drop(inner);
        // From here on dropping it ends the use.
        let in_use = InUse::of(Arc::clone(self));
        add(&self.volume.stats().mine().uses, 1);
        if looking_up {
            self.look_up(&spec)?;
        }
        Ok(in_use)
    }

    fn look_up(&self, spec: &ObjectSpec) -> Result<(), Error> {
        let step = step::Step::new(self);
        let stats = self.volume.stats().mine();
        add(&stats.lookups, 1);
        let found = self
            .volume
            .check_not_withdrawn(&self.key)
            .and_then(|()| self.volume.backend().acquire(self.volume.key(), &self.key, spec));
        let object = found.inspect_err(|_| add(&stats.lookups_failed, 1))?;
        add(if object.is_empty() { &stats.lookups_empty } else { &stats.lookups_found }, 1);
        tracing::trace!(
            volume = %self.volume.key(), cookie = %self.key, object = self.id, size = spec.size,
            present = object.present_bytes(), "fscache_lookup"
        );
        step.done(|inner| inner.object = Some(object));
        Ok(())
    }

    /// Replaces the content: what the cache has is dropped, open or not, and be it of the same `spec`; operations under
    /// way expire, and from now on the cookie stands for what `spec` says. Blocks for I/O.
    ///
    /// # Errors
    ///
    /// [`Error::Relinquished`], [`Error::Withdrawn`] once the cache is withdrawn; what
    /// [`Backend::replace`](crate::Backend::replace) says. The cookie stands for `spec` all the same, and the next use
    /// looks again.
    pub fn invalidate(&self, spec: ObjectSpec) -> Result<(), Error> {
        add(&self.volume.stats().mine().invalidations, 1);
        tracing::debug!(
            volume = %self.volume.key(), cookie = %self.key, object = self.id, size = spec.size, "fscache_invalidate"
        );
        self.replace(Event::Invalidate, spec, |spec| {
            self.volume.check_not_withdrawn(&self.key)?;
            self.volume.backend().replace(self.volume.key(), &self.key, spec)
        })
    }

    /// Gives the content another size; what both sizes have stays in the cache. Operations under way expire.
    ///
    /// # Errors
    ///
    /// As [`invalidate`](Self::invalidate).
    pub fn resize(&self, size: u64) -> Result<(), Error> {
        add(&self.volume.stats().mine().resizes, 1);
        tracing::debug!(
            volume = %self.volume.key(), cookie = %self.key, object = self.id, size, "fscache_resize"
        );
        let spec = ObjectSpec { size, aux: self.aux() };
        self.replace(Event::Resize, spec, |spec| {
            self.volume.backend().resize(self.volume.key(), &self.key, spec)
        })
    }

    fn replace(
        &self,
        event: Event,
        spec: ObjectSpec,
        replace: impl FnOnce(&ObjectSpec) -> Result<Arc<dyn CacheObject>, Error>,
    ) -> Result<(), Error> {
        let mut inner = self.enter(event)?;
        inner.spec = spec.clone();
        self.epoch.fetch_add(1, Ordering::AcqRel);
        if inner.state != State::Invalidating {
            // Nothing is open: the next look-up drops what lies in the cache if its size is another.
            return Ok(());
        }
        let old = inner.object.take();
        drop(inner);
        let step = step::Step::new(self);
        // Alive until then: a resize takes its blocks over, and its file stays charged while somebody reads it.
        let object = replace(&spec);
        if let Some(old) = old {
            old.withdraw();
        }
        let object = object?;
        step.done(|inner| inner.object = Some(object));
        Ok(())
    }

    /// Takes the object away under its users: what they ask from now on finds nothing.
    pub(crate) fn withdraw(&self) {
        let Ok(mut inner) = self.enter(Event::Withdraw) else { return };
        if inner.state != State::Withdrawing {
            return;
        }
        self.epoch.fetch_add(1, Ordering::AcqRel);
        let object = inner.object.take();
        drop(inner);
        let step = step::Step::new(self);
        if let Some(object) = object {
            object.withdraw();
        }
        add(&self.volume.stats().mine().withdrawals, 1);
        tracing::trace!(volume = %self.volume.key(), cookie = %self.key, object = self.id, "fscache_withdraw");
        step.done(|_| ());
    }

    /// Closes the object when nobody has used it since `before`; returns whether it did. Its bytes stay.
    pub(crate) fn discard_idle(&self, before: Instant) -> bool {
        let mut inner = self.lock();
        let is_idle = inner.n_active == 0 && inner.idle_since <= before;
        let Next::To(next) = inner.state.on(Event::Discard) else { return false };
        if !is_idle {
            return false;
        }
        inner.state = next;
        self.epoch.fetch_add(1, Ordering::AcqRel);
        let object = inner.object.take();
        drop(inner);
        let step = step::Step::new(self);
        drop(object);
        if let Err(error) = self.volume.backend().relinquish(self.volume.key(), &self.key) {
            tracing::debug!(cookie = %self.key, %error, "an idle object stays open");
        }
        add(&self.volume.stats().mine().idle_closed, 1);
        tracing::trace!(volume = %self.volume.key(), cookie = %self.key, object = self.id, "fscache_lru");
        step.done(|_| ());
        true
    }

    /// Gives the cookie back; with `retire` its bytes are removed from the cache as well. Blocks for I/O.
    ///
    /// Dropping a cookie is not this: a worker that stops to be replaced drops its cookies too.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] while it is in use, [`Error::Relinquished`] when it was given back before; what the backend
    /// says.
    pub fn relinquish(&self, retire: bool) -> Result<(), Error> {
        let mut inner = self.lock();
        loop {
            if inner.n_active > 0 {
                return Err(Error::Busy { cookie: self.key.clone() });
            }
            match inner.state.on(Event::Relinquish) {
                Next::To(next) => {
                    inner.state = next;
                    break;
                }
                Next::Stay => return Err(Error::Relinquished { cookie: self.key.clone() }),
                Next::Wait => inner = self.wait(inner),
            }
        }
        self.epoch.fetch_add(1, Ordering::AcqRel);
        let object = inner.object.take();
        drop(inner);
        let step = step::Step::new(self);
        drop(object);
        let (backend, volume) = (self.volume.backend(), self.volume.key());
        if retire {
            backend.remove(volume, &self.key)?
        } else {
            backend.relinquish(volume, &self.key)?
        }
        let stats = self.volume.stats().mine();
        add(&stats.relinquishes, 1);
        add(&stats.retires, u64::from(retire));
        tracing::debug!(%volume, cookie = %self.key, object = self.id, retire, "fscache_relinquish");
        step.done(|_| ());
        // Whoever asks for the key from now on gets a cookie that lives.
        self.lease.release();
        Ok(())
    }

    /// Waits until nobody uses the cookie, or until `deadline`; returns whether nobody does.
    pub fn wait_unused(&self, deadline: Instant) -> bool {
        let mut inner = self.lock();
        while inner.n_active > 0 {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return false };
            inner = self.changed.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Waits for whatever is under way, then takes the step that `event` asks for, if any.
    fn enter(&self, event: Event) -> Result<MutexGuard<'_, Inner>, Error> {
        let mut inner = self.lock();
        loop {
            match inner.state.on(event) {
                Next::Wait => inner = self.wait(inner),
                Next::Stay if inner.state == State::Dropped => {
                    return Err(Error::Relinquished { cookie: self.key.clone() });
                }
                Next::Stay => return Ok(inner),
                Next::To(next) => {
                    inner.state = next;
                    return Ok(inner);
                }
            }
        }
    }

    fn wait<'a>(&'a self, inner: MutexGuard<'a, Inner>) -> MutexGuard<'a, Inner> {
        self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No step under this lock can panic half way: each is a few assignments.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Cookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.lock();
        f.debug_struct("Cookie")
            .field("volume", self.volume.key())
            .field("key", &self.key)
            .field("state", &inner.state)
            .field("size", &inner.spec.size)
            .finish_non_exhaustive()
    }
}
