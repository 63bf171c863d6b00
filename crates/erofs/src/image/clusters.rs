//! [`ClusterCache`]: decoded pclusters, shared by all readers of an image and bounded in bytes.
//!
//! What one reader decodes for it, the others wait for: two requests that follow each other share the pcluster between them, and
//! both would decode all of it. If it fails, each of those who waited tries for itself: one after the other, the last would wait
//! as many times as there are readers for bytes that cannot be had.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::{Encoded, Place};
use crate::Codec;

/// What tells one pcluster from another: two files may use prefixes of different length of one.
type Key = (Place, u32, Codec);

/// Buffers that are used again: as many threads decode at once, mostly.
const SPARE_MAX: usize = 4;
/// Larger ones are not kept for that.
const SPARE_BYTES_MAX: usize = 256 << 10;

/// The last used decoded pclusters.
pub(super) struct ClusterCache {
    bytes_max: usize,
    state: Mutex<State>,
    /// Told when a pcluster is no longer under way.
    ended: Condvar,
}

#[derive(Default)]
struct State {
    clusters: HashMap<Key, Cluster>,
    /// What somebody decodes right now, by the number of the turn.
    under_way: HashMap<Key, u64>,
    /// Turns so far.
    turns: u64,
    /// Keys by the time of their last use.
    order: BTreeMap<u64, Key>,
    now: u64,
    /// Memory that the clusters take, which may be more than they have bytes.
    bytes: usize,
    /// Buffers of what went. A new one is memory that the kernel has to zero.
    spare: Vec<Vec<u8>>,
}

struct Cluster {
    bytes: Arc<Vec<u8>>,
    used: u64,
}

/// What there is of a pcluster.
pub(super) enum Found<'a> {
    /// Its decoded bytes.
    Here(Arc<Vec<u8>>),
    /// Somebody decodes it.
    UnderWay,
    /// Nothing: it is the caller's to decode.
    Turn(Turn<'a>),
}

/// The right to decode a pcluster, which others wait for; given up on drop.
pub(super) struct Turn<'a> {
    cache: &'a ClusterCache,
    key: Key,
}

impl ClusterCache {
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes_max, state: Mutex::default(), ended: Condvar::new() }
    }

    /// Returns the decoded bytes if at least as many are held as `encoded` decodes to.
    pub fn get(&self, encoded: &Encoded) -> Option<Arc<Vec<u8>>> {
        self.lock().get(encoded)
    }

    /// The same, or whose turn it is to decode it.
    pub fn find(&self, encoded: &Encoded) -> Found<'_> {
        let mut state = self.lock();
        let key = key(encoded);
        match state.get(encoded) {
            Some(bytes) => Found::Here(bytes),
            None if state.take_turn(key).is_ok() => Found::Turn(Turn { cache: self, key }),
            None => Found::UnderWay,
        }
    }

    /// The same, after waiting for whoever decodes it: the bytes, or else whose turn it is. Without a turn the caller decodes it for
    /// itself: whoever had the turn has given up, or its bytes are too few or were not kept.
    pub fn await_turn(&self, encoded: &Encoded) -> Result<Arc<Vec<u8>>, Option<Turn<'_>>> {
        let mut state = self.lock();
        let key = key(encoded);
        if let Some(bytes) = state.get(encoded) {
            return Ok(bytes);
        }
        let Err(theirs) = state.take_turn(key) else { return Err(Some(Turn { cache: self, key })) };
        while state.under_way.get(&key) == Some(&theirs) {
            state = self.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.get(encoded).ok_or(None)
    }

    /// A buffer of `len` bytes to decode into; what is in it does not matter. It takes no more than twice as many.
    pub fn room(&self, len: usize) -> Vec<u8> {
        let fits = |room: &Vec<u8>| (len..=len.saturating_mul(2)).contains(&room.capacity());
        let mut state = self.lock();
        let spare = state.spare.iter().position(fits).map(|place| state.spare.swap_remove(place));
        drop(state);
        match spare {
            Some(mut room) => {
                room.resize(len, 0);
                super::encoded::make_dirty(&mut room);
                room
            }
            None => vec![0; len],
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what was decoded without a turn, for who comes later.
    pub fn keep(&self, encoded: &Encoded, bytes: Arc<Vec<u8>>) {
        self.put(key(encoded), bytes);
    }

    /// Keeps `bytes`, unless as many of the pcluster are held, and lets go of what was not used for longest. What is larger than the
    /// cache is not kept.
    fn put(&self, key: Key, bytes: Arc<Vec<u8>>) {
        let taken = bytes.capacity();
        if taken > self.bytes_max {
            return;
        }
        let mut state = self.lock();
        if state.clusters.get(&key).is_some_and(|held| held.bytes.len() >= bytes.len()) {
            return;
        }
        state.remove(&key);
        while state.bytes + taken > self.bytes_max {
            let Some(oldest) = state.order.first_key_value().map(|(_, key)| *key) else { break };
            state.remove(&oldest);
        }
        state.now += 1;
        let used = state.now;
        state.bytes += taken;
        state.order.insert(used, key);
        state.clusters.insert(key, Cluster { bytes, used });
    }
}

impl Turn<'_> {
    /// Keeps the decoded bytes, for who waits and who comes later.
    pub fn put(self, bytes: Arc<Vec<u8>>) {
        self.cache.put(self.key, bytes);
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.cache.lock().under_way.remove(&self.key);
        self.cache.ended.notify_all();
    }
}

impl State {
    /// Begins a turn, or tells the number of the one under way.
    fn take_turn(&mut self, key: Key) -> Result<(), u64> {
        match self.under_way.entry(key) {
            Entry::Occupied(theirs) => Err(*theirs.get()),
            Entry::Vacant(ours) => {
                self.turns += 1;
                ours.insert(self.turns);
                Ok(())
            }
        }
    }

    fn get(&mut self, encoded: &Encoded) -> Option<Arc<Vec<u8>>> {
        let key = key(encoded);
        let cluster = self.clusters.get_mut(&key)?;
        if cluster.bytes.len() < usize::try_from(encoded.decoded).ok()? {
            return None;
        }
        self.order.remove(&cluster.used);
        self.now += 1;
        cluster.used = self.now;
        self.order.insert(self.now, key);
        Some(Arc::clone(&cluster.bytes))
    }

    fn remove(&mut self, key: &Key) {
        if let Some(cluster) = self.clusters.remove(key) {
            self.order.remove(&cluster.used);
            self.bytes -= cluster.bytes.capacity();
            // Who still reads from it drops it later.
            if let Some(bytes) = Arc::into_inner(cluster.bytes)
                && bytes.capacity() <= SPARE_BYTES_MAX
            {
                if self.spare.len() >= SPARE_MAX {
                    self.spare.remove(0);
                }
                self.spare.push(bytes);
            }
        }
    }
}

fn key(encoded: &Encoded) -> Key {
    (encoded.place, encoded.len, encoded.codec)
}

impl fmt::Debug for ClusterCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterCache").field("bytes_max", &self.bytes_max).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;
    use std::time::Duration;

    use super::*;

    fn encoded(at: u64, decoded: u32) -> Encoded {
        Encoded { place: Place::Metabox { at }, len: 10, codec: Codec::Lz4, skip: 0, decoded }
    }

    fn put(cache: &ClusterCache, at: u64, decoded: u32) {
        let Found::Turn(turn) = cache.find(&encoded(at, decoded)) else { panic!("nobody else is there") };
        turn.put(Arc::new(vec![0; decoded.try_into().expect("small")]));
    }

    #[test]
    fn buffers_that_are_used_again_stay_within_the_bound() {
        let cache = ClusterCache::new(1 << 20);
        let mut reused = 0;
        for n in 0..20_000_u64 {
            let decoded = match n % 65 {
                0 => 200_000,
                m => u32::try_from(3000 + m * 40).expect("small"),
            };
            let len = usize::try_from(decoded).expect("small");
            let Found::Turn(turn) = cache.find(&encoded(n, decoded)) else { panic!("nobody else is there") };
            let room = cache.room(len);
            assert!(room.len() == len && room.capacity() <= 2 * len, "{}", room.capacity());
            reused += usize::from(room[0] != 0);
            let mut room = room;
            room.fill(7);
            turn.put(Arc::new(room));
            let state = cache.lock();
            let taken: usize = state.clusters.values().map(|cluster| cluster.bytes.capacity()).sum();
            assert!(taken == state.bytes && taken <= 1 << 20, "{taken}");
            assert!(state.spare.len() <= SPARE_MAX);
        }
        assert!(reused > 1000, "{reused}");
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let cache = ClusterCache::new(100);
        put(&cache, 1, 40);
        put(&cache, 2, 40);
        assert!(cache.get(&encoded(1, 40)).is_some());
        put(&cache, 3, 40);
        let held = |at| cache.get(&encoded(at, 40)).is_some();
        assert_eq!((held(1), held(2), held(3)), (true, false, true));
        let state = cache.state.lock().expect("whole");
        assert_eq!((state.bytes, state.order.len(), state.clusters.len()), (80, 2, 2));
    }

    #[test]
    fn a_longer_prefix_replaces_a_shorter_one() {
        let cache = ClusterCache::new(100);
        put(&cache, 1, 40);
        assert!(cache.get(&encoded(1, 41)).is_none(), "too short");
        put(&cache, 1, 60);
        assert!(cache.get(&encoded(1, 41)).is_some());
        cache.keep(&encoded(1, 50), Arc::new(vec![0; 50]));
        assert_eq!(cache.state.lock().expect("whole").bytes, 60, "a shorter one changes nothing");
    }

    #[test]
    fn what_is_larger_than_the_cache_is_not_kept() {
        let cache = ClusterCache::new(100);
        put(&cache, 1, 100);
        put(&cache, 2, 101);
        assert!(cache.get(&encoded(1, 100)).is_some() && cache.get(&encoded(2, 101)).is_none());
        let none = ClusterCache::new(0);
        put(&none, 1, 1);
        assert!(none.get(&encoded(1, 1)).is_none());
    }

    #[test]
    fn each_pcluster_is_decoded_by_one_reader_and_all_get_it() {
        let (cache, decoded) = (ClusterCache::new(1000), AtomicUsize::new(0));
        let ready = Barrier::new(4);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    ready.wait();
                    for at in 0..10 {
                        let bytes = cache.await_turn(&encoded(at, 100)).unwrap_or_else(|turn| {
                            decoded.fetch_add(1, Ordering::Relaxed);
                            thread::yield_now();
                            let bytes = Arc::new(vec![0; 100]);
                            turn.expect("nobody fails").put(Arc::clone(&bytes));
                            bytes
                        });
                        assert_eq!(bytes.len(), 100);
                    }
                });
            }
        });
        assert_eq!(decoded.into_inner(), 10);
        assert!(cache.lock().under_way.is_empty());
    }

    #[test]
    fn who_waited_for_what_failed_tries_at_once_and_not_one_after_the_other() {
        let attempt = || {
            let cache = ClusterCache::new(1000);
            let Found::Turn(turn) = cache.find(&encoded(1, 100)) else { panic!("nobody else is there") };
            assert!(matches!(cache.find(&encoded(1, 100)), Found::UnderWay));
            let without_a_turn = thread::scope(|scope| {
                let wait = || cache.await_turn(&encoded(1, 100)).expect_err("nobody decodes it").is_none();
                let waiting = [(); 3].map(|()| scope.spawn(wait));
                thread::sleep(Duration::from_millis(20));
                drop(turn);
                waiting.map(|thread| thread.join().expect("no panic"))
            });
            assert!(matches!(cache.find(&encoded(1, 100)), Found::Turn(_)));
            without_a_turn == [true; 3]
        };
        // Whoever comes too late to wait has a turn.
        assert!((0..100).any(|_| attempt()));
    }

    #[test]
    fn what_is_not_kept_holds_nobody_up_for_good() {
        let none = ClusterCache::new(0);
        put(&none, 1, 1);
        assert!(none.await_turn(&encoded(1, 1)).is_err());
    }
}
