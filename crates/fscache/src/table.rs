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
    slots: Mutex<Slots<K, T>>,
    changed: Condvar,
}

struct Slots<K, T> {
    by_key: HashMap<K, Slot<T>>,
    leases: u64,
}

struct Slot<T> {
    /// Number of the lease that the slot belongs to; never used twice.
    lease: u64,
    holder: Holder<T>,
}

enum Holder<T> {
    /// Somebody is opening the value, or works on the key while it has none.
    Taken,
    /// The value is alive, or its drop has not yet returned its [`Lease`].
    Live(Weak<T>),
}

/// The right to be the value of a key. The value keeps it as its *last* field: the key is free again when
/// the lease is dropped, unless another value has taken its place before.
pub struct Lease<K: Eq + Hash, T> {
    shared: Arc<Shared<K, T>>,
    key: K,
    number: u64,
}

impl<K: Eq + Hash, T> Lease<K, T> {
    /// Frees the key now: who asks for it from now on gets another value, while this one lives on.
    pub fn release(&self) {
        let mut slots = self.shared.lock();
        if slots.by_key.get(&self.key).is_some_and(|slot| slot.lease == self.number) {
            slots.by_key.remove(&self.key);
        }
        drop(slots);
        self.shared.changed.notify_all();
    }
}

impl<K: Eq + Hash + Clone, T> Table<K, T> {
    /// Returns an empty table.
    pub fn new() -> Self {
        let slots = Slots { by_key: HashMap::new(), leases: 0 };
        Self { shared: Arc::new(Shared { slots: Mutex::new(slots), changed: Condvar::new() }) }
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
            Entered::Leased(lease) => self.fill(lease, open),
        }
    }

    /// Puts a new value, opened with `open`, in the place of the one that `key` has, if any. The old one lives on
    /// for those who have it.
    ///
    /// Blocks while another thread opens the key's value. When `open` fails the key has no value.
    ///
    /// # Errors
    ///
    /// What `open` says.
    pub fn replace<E>(&self, key: &K, open: impl FnOnce(Lease<K, T>) -> Result<T, E>) -> Result<Arc<T>, E> {
        let lease = self.shared.seize(key);
        self.fill(lease, open)
    }

    fn fill<E>(
        &self,
        lease: Lease<K, T>,
        open: impl FnOnce(Lease<K, T>) -> Result<T, E>,
    ) -> Result<Arc<T>, E> {
        let (key, number) = (lease.key.clone(), lease.number);
        let value = Arc::new(open(lease)?);
        let holder = Holder::Live(Arc::downgrade(&value));
        self.shared.lock().by_key.insert(key, Slot { lease: number, holder });
        self.shared.changed.notify_all();
        Ok(value)
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
        let live = slots.by_key.values().filter_map(|slot| match &slot.holder {
            Holder::Live(value) => value.upgrade(),
            Holder::Taken => None,
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
    fn lock(&self) -> MutexGuard<'_, Slots<K, T>> {
        // A panic elsewhere cannot leave the map half changed: each change is one insert or remove.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(self: &Arc<Self>, key: &K) -> Entered<K, T>
    where
        K: Clone,
    {
        let mut slots = self.lock();
        while let Some(slot) = slots.by_key.get(key) {
            if let Holder::Live(value) = &slot.holder
                && let Some(value) = value.upgrade()
            {
                return Entered::Live(value);
            }
            slots = self.changed.wait(slots).unwrap_or_else(PoisonError::into_inner);
        }
        Entered::Leased(self.lease(&mut slots, key))
    }

    /// Takes the key from whoever has it, except from one who is just opening it.
    fn seize(self: &Arc<Self>, key: &K) -> Lease<K, T>
    where
        K: Clone,
    {
        let is_taken = |slots: &mut Slots<K, T>| {
            slots.by_key.get(key).is_some_and(|slot| matches!(slot.holder, Holder::Taken))
        };
        let slots = self.lock();
        let mut slots = self.changed.wait_while(slots, is_taken).unwrap_or_else(PoisonError::into_inner);
        self.lease(&mut slots, key)
    }

    fn lease(self: &Arc<Self>, slots: &mut Slots<K, T>, key: &K) -> Lease<K, T>
    where
        K: Clone,
    {
        slots.leases += 1;
        let number = slots.leases;
        slots.by_key.insert(key.clone(), Slot { lease: number, holder: Holder::Taken });
        Lease { shared: Arc::clone(self), key: key.clone(), number }
    }
}

impl<K: Eq + Hash, T> Drop for Lease<K, T> {
    fn drop(&mut self) {
        self.release();
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
        assert!(table.shared.lock().by_key.is_empty(), "dead entries do not stay behind");
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

    #[test]
    fn a_value_that_was_replaced_does_not_take_its_successor_with_it() {
        let table = Table::new();
        let old = open(&table, 1);
        let new: Result<_, ()> = table.replace(&1, |lease| Ok(Value { _lease: lease }));
        let new = new.expect("opening cannot fail");
        assert!(!Arc::ptr_eq(&old, &new));
        drop(old);
        assert!(Arc::ptr_eq(&new, &open(&table, 1)), "the key is the new one's");
        assert_eq!(table.while_idle(&1, || ()), None);
        drop(new);
        assert_eq!(table.while_idle(&1, || ()), Some(()));
    }

    #[test]
    fn a_released_key_gets_another_value_while_the_old_one_lives() {
        let table = Table::new();
        let old = open(&table, 1);
        old._lease.release();
        let new = open(&table, 1);
        assert!(!Arc::ptr_eq(&old, &new));
        drop(old);
        assert!(Arc::ptr_eq(&new, &open(&table, 1)));
    }
}
