//! What the tests of `it` and `fault_points` share: a cache that fails when told to, and bytes to be read.

use std::sync::Arc;

use larder_fscache::{AuxData, Cache, CookieKey, ObjectSpec, VolumeKey};
use larder_netfs::Cached;
use larder_testkit::{Troubled, Troubles};

/// A cookie of `size` bytes in a cache of its own.
pub fn cached(size: u64) -> (Cached, Arc<Troubles>) {
    let troubles = Arc::<Troubles>::default();
    let cache = Cache::new(Troubled::new(Arc::clone(&troubles)));
    let volume = VolumeKey::new("tree").unwrap();
    let volume = cache.acquire_volume(&volume, &AuxData::default()).unwrap();
    let spec = ObjectSpec::of_size(size);
    (Cached::new(volume.open(&CookieKey::new("file").unwrap(), &spec).unwrap()), troubles)
}

/// Bytes that differ everywhere.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..len).map(|_| next()).collect()
}
