//! [`Seen`]: which pclusters have been decoded.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::{Codec, Encoded, Place};

/// Most pclusters remembered; then it begins anew, which costs time and nothing else.
const ENTRIES_MAX: usize = 1 << 20;
const SHARDS: usize = 16;

type Key = (Place, u32, Codec);

/// How much of each pcluster was found to be decodable. Shared by all threads.
#[derive(Default)]
pub(super) struct Seen {
    shards: [Mutex<HashMap<Key, u32>>; SHARDS],
}

impl Seen {
    /// Whether as many bytes of the pcluster were decoded before; if not, they count as decoded from now on.
    ///
    /// Damage is so reported where it is met first, which is enough to find it.
    pub fn decoded_before(&self, encoded: &Encoded) -> bool {
        let at = match encoded.place {
            Place::Device { pa, .. } => pa.get(),
            Place::Metabox { at } => at,
        };
        let shard = usize::try_from(at >> 9).unwrap_or(0) % SHARDS;
        let mut known = self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= ENTRIES_MAX / SHARDS {
            known.clear();
        }
        let longest = known.entry((encoded.place, encoded.len, encoded.codec)).or_default();
        if *longest >= encoded.decoded {
            return true;
        }
        *longest = encoded.decoded;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_longer_prefix_of_a_pcluster_is_decoded_again() {
        let seen = Seen::default();
        let encoded = |at, decoded| Encoded {
            place: Place::Metabox { at },
            len: 10,
            codec: Codec::Lz4,
            skip: 3,
            decoded,
        };
        assert!(!seen.decoded_before(&encoded(0, 100)));
        assert!(seen.decoded_before(&encoded(0, 100)));
        assert!(seen.decoded_before(&encoded(0, 99)));
        assert!(!seen.decoded_before(&encoded(0, 101)));
        assert!(!seen.decoded_before(&encoded(512, 100)));
    }
}
