//! [`ClusterCache`]: decoded pclusters, shared by all readers of an image and bounded in bytes.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Encoded, Place};
use crate::Codec;

/// What tells one pcluster from another: two files may use prefixes of different length of one.
type Key = (Place, u32, Codec);

/// The last used decoded pclusters.
pub(super) struct ClusterCache {
    bytes_max: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    clusters: HashMap<Key, Cluster>,
    /// Keys by the time of their last use.
    order: BTreeMap<u64, Key>,
    now: u64,
    bytes: usize,
}

struct Cluster {
    bytes: Arc<Vec<u8>>,
    used: u64,
}

impl ClusterCache {
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes_max, state: Mutex::default() }
    }

    /// Returns the decoded bytes if at least as many are held as `encoded` decodes to.
    pub fn get(&self, encoded: &Encoded) -> Option<Arc<Vec<u8>>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let key = key(encoded);
        let state = &mut *state;
        let cluster = state.clusters.get_mut(&key)?;
        if cluster.bytes.len() < usize::try_from(encoded.decoded).ok()? {
            return None;
        }
        state.order.remove(&cluster.used);
        state.now += 1;
        cluster.used = state.now;
        state.order.insert(state.now, key);
        Some(Arc::clone(&cluster.bytes))
    }

    /// Keeps `bytes` and lets go of what was not used for longest. What is larger than the cache is not kept.
    pub fn put(&self, encoded: &Encoded, bytes: Arc<Vec<u8>>) {
        if bytes.len() > self.bytes_max {
            return;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let key = key(encoded);
        state.remove(&key);
        while state.bytes + bytes.len() > self.bytes_max {
            let Some(oldest) = state.order.first_key_value().map(|(_, key)| *key) else { break };
            state.remove(&oldest);
        }
        state.now += 1;
        let used = state.now;
        state.bytes += bytes.len();
        state.order.insert(used, key);
        state.clusters.insert(key, Cluster { bytes, used });
    }
}

impl State {
    fn remove(&mut self, key: &Key) {
        if let Some(cluster) = self.clusters.remove(key) {
            self.order.remove(&cluster.used);
            self.bytes -= cluster.bytes.len();
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
    use super::*;

    fn encoded(at: u64, decoded: u32) -> Encoded {
        Encoded { place: Place::Metabox { at }, len: 10, codec: Codec::Lz4, skip: 0, decoded }
    }

    fn put(cache: &ClusterCache, at: u64, decoded: u32) {
        cache.put(&encoded(at, decoded), Arc::new(vec![0; decoded.try_into().expect("small")]));
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
        assert_eq!(cache.state.lock().expect("whole").bytes, 60);
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
}
