//! [`Hub`]: who listens, and whether anybody does.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard, Weak};

use tracing::callsite::rebuild_interest_cache;

use super::record::Record;
use super::subscriber::{ImageName, Select, Subscriber, Subscription};

/// Listeners at the same time at most: each may have some megabytes of records waiting.
pub const SUBSCRIBERS_MAX: usize = 16;

/// Who listens. The layer asks it whether an event is wanted, and hands it the record.
#[derive(Debug, Default)]
pub struct Hub {
    /// What the layer's filter goes by: read when tracing asks anew which call sites are of interest.
    is_on: AtomicBool,
    subscribers: RwLock<Vec<Arc<Subscriber>>>,
}

impl Hub {
    /// Whether anybody listens.
    pub fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Acquire)
    }

    /// How many listen.
    pub fn listeners(&self) -> usize {
        self.subscribers.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Adds a listener; `None` when there are [`SUBSCRIBERS_MAX`] already. On return its events are being recorded.
    pub fn subscribe(self: &Arc<Self>, select: Select) -> Option<Subscription> {
        let mut subscribers = self.write();
        if subscribers.len() >= SUBSCRIBERS_MAX {
            return None;
        }
        let (subscriber, subscription) = Subscriber::pair(select, self);
        subscribers.push(subscriber);
        self.switch(&subscribers);
        Some(subscription)
    }

    /// Tells every listener which cookies an image has, before anybody can read from it.
    pub fn note_image(&self, is_named: impl Fn(&ImageName) -> bool, keys: &[String]) {
        for subscriber in self.subscribers.read().unwrap_or_else(PoisonError::into_inner).iter() {
            subscriber.note_image(&is_named, keys);
        }
    }

    /// Ends every subscription: its listener gets what waits, then the end.
    pub fn close(&self) {
        let mut subscribers = self.write();
        subscribers.clear();
        self.switch(&subscribers);
    }

    pub(super) fn remove(&self, gone: &Weak<Subscriber>) {
        let mut subscribers = self.write();
        subscribers.retain(|subscriber| !std::ptr::eq(Arc::as_ptr(subscriber), gone.as_ptr()));
        self.switch(&subscribers);
    }

    /// Whether a trace point of this name is wanted by anybody.
    pub(super) fn wants_event(&self, name: &str) -> bool {
        let subscribers = self.subscribers.read().unwrap_or_else(PoisonError::into_inner);
        subscribers.iter().any(|subscriber| subscriber.wants_event(name))
    }

    pub(super) fn offer(&self, record: Record) {
        let record = Arc::new(record);
        let subscribers = self.subscribers.read().unwrap_or_else(PoisonError::into_inner);
        for subscriber in subscribers.iter() {
            subscriber.offer(&record);
        }
    }

    /// Has the call sites ask anew when the first listener has come or the last has gone. The lock is held: the order
    /// of changes is the order of answers, and answering takes no lock.
    fn switch(&self, subscribers: &[Arc<Subscriber>]) {
        let on = !subscribers.is_empty();
        if self.is_on.swap(on, Ordering::AcqRel) != on {
            rebuild_interest_cache();
        }
    }

    fn write(&self) -> RwLockWriteGuard<'_, Vec<Arc<Subscriber>>> {
        self.subscribers.write().unwrap_or_else(PoisonError::into_inner)
    }
}
