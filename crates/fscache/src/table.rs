//! [`Table`]: at most one living value a key, opened by whoever comes first.
//!
//! The lock is never held while a value is opened. Who asks for a key that is being opened, or whose
//! last value is still being dropped, waits: two values of one key never overlap.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

/// A table of weakly held values, each opened once. Clones share the entries.
pub struct Table<K: Eq + Hash, T> {
    shared: Arc<Shared<K, T>>,
}

struct Shared<K, T> {
    slots: Mutex<HashMap<K, Slot<T>>>,
    changed: Condvar,
}

enum Slot<T> {
    /// Somebody is opening the value, or works on the key while it has none.
    Taken,
    /// The value is alive, or its drop has not yet returned its [`Lease`].
    Live(Weak<T>),
}

/// The right to be the value of a key. The value keeps it as its *last* field: the key is free again when
/// the lease is dropped.
pub struct Lease<K: Eq + Hash, T> {
    shared: Arc<Shared<K, T>>,
    key: K,
}

impl<K: Eq + Hash + Clone, T> Table<K, T> {
    /// Returns an empty table.
    pub fn new() -> Self {
        Self { shared: Arc::new(Shared { slots: Mutex::new(HashMap::new()), changed: Condvar::new() }) }
    }

    /// Returns the value of `key`, opening it with `open` when nobody has it.
    ///
    /// Blocks while another thread opens it. When that fails, the next in line tries.
    ///
    /// # Errors
    ///
    /// What `open` says.
    pub fn get_or_open<E>(
        &self,
        key: &K,
        open: impl FnOnce(Lease<K, T>) -> Result<T, E>,
    ) -> Result<Arc<T>, E> {
        match self.shared.enter(key) {
            Entered::Live(value) => Ok(value),
            Entered::Leased(lease) => {
                let value = Arc::new(open(lease)?);
                self.shared.lock().insert(key.clone(), Slot::Live(Arc::downgrade(&value)));
                self.shared.changed.notify_all();
                Ok(value)
            }
        }
    }

    /// Runs `work` while `key` has no value and can get none; returns `None` when it has one.
    pub fn while_idle<R>(&self, key: &K, work: impl FnOnce() -> R) -> Option<R> {
        match self.shared.enter(key) {
            Entered::Live(_) => None,
            Entered::Leased(_lease) => Some(work()),
        }
    }

    /// Returns the living values, in no order.
    pub fn values(&self) -> Vec<Arc<T>> {
        let slots = self.shared.lock();
        let live = slots.values().filter_map(|slot| match slot {
            Slot::Live(value) => value.upgrade(),
            Slot::Taken => None,
        });
        live.collect()
    }
}

impl<K: Eq + Hash + Clone, T> Default for Table<K, T> {
    fn default() -> Self {
        Self::new()
    }
}

enum Entered<K: Eq + Hash, T> {
    Live(Arc<T>),
    Leased(Lease<K, T>),
}

impl<K: Eq + Hash, T> Shared<K, T> {
    fn lock(&self) -> MutexGuard<'_, HashMap<K, Slot<T>>> {
        // A panic elsewhere cannot leave the map half changed: each change is one insert or remove.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(self: &Arc<Self>, key: &K) -> Entered<K, T>
    where
        K: Clone,
    {
        let mut slots = self.lock();
        loop {
            match slots.get(key) {
                None => break,
                Some(Slot::Taken) => {}
                Some(Slot::Live(value)) => {
                    if let Some(value) = value.upgrade() {
                        return Entered::Live(value);
                    }
                }
            }
            slots = self.changed.wait(slots).unwrap_or_else(PoisonError::into_inner);
        }
        slots.insert(key.clone(), Slot::Taken);
        Entered::Leased(Lease { shared: Arc::clone(self), key: key.clone() })
    }
}

impl<K: Eq + Hash, T> Drop for Lease<K, T> {
    fn drop(&mut self) {
        self.shared.lock().remove(&self.key);
        self.shared.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::thread;
    use std::time::Duration;

    struct Value {
        _lease: Lease<u32, Value>,
    }

    fn open(table: &Table<u32, Value>, key: u32) -> Arc<Value> {
        let opened: Result<_, ()> = table.get_or_open(&key, |lease| Ok(Value { _lease: lease }));
        opened.expect("opening cannot fail")
    }

    #[test]
    fn the_same_key_gives_the_same_value_until_the_last_holder_is_gone() {
        let table = Table::new();
        let first = open(&table, 1);
        assert!(Arc::ptr_eq(&first, &open(&table, 1)));
        assert!(!Arc::ptr_eq(&first, &open(&table, 2)));
        assert_eq!(table.values().len(), 1, "the value of key 2 is gone again");
        drop(first);
        assert!(table.values().is_empty());
        assert!(table.shared.lock().is_empty(), "dead entries do not stay behind");
    }

    #[test]
    fn many_threads_that_want_one_key_open_it_once() {
        let table = Table::new();
        let opened = AtomicU32::new(0);
        thread::scope(|scope| {
            let workers: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        let value: Result<_, ()> = table.get_or_open(&7, |lease| {
                            opened.fetch_add(1, Ordering::Relaxed);
                            thread::sleep(Duration::from_millis(20));
                            Ok(Value { _lease: lease })
                        });
                        value.expect("opening cannot fail")
                    })
                })
                .collect();
            let values: Vec<_> = workers.into_iter().map(|w| w.join().expect("no panic")).collect();
            assert!(values.iter().all(|value| Arc::ptr_eq(value, &values[0])));
        });
        assert_eq!(opened.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_failed_opening_leaves_the_key_free() {
        let table: Table<u32, Value> = Table::new();
        assert_eq!(table.get_or_open(&1, |_lease| Err("no")).err(), Some("no"));
        open(&table, 1);
    }

    #[test]
    fn work_on_an_idle_key_is_refused_while_the_key_has_a_value() {
        let table = Table::new();
        let value = open(&table, 1);
        assert_eq!(table.while_idle(&1, || 5), None);
        drop(value);
        assert_eq!(table.while_idle(&1, || 5), Some(5));
        open(&table, 1);
    }
}
