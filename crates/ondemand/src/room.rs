//! [`DecodingRoom`]: memory for large chunks while they are decoded.

use std::{ops::Range, sync::Arc};

use larder_image::ChunkTable;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Decoded bytes that large chunks may have in memory at once, those of one chunk at least. An image chooses how large its
/// chunks are, and a few bytes may decode to the largest.
const ROOM_BYTES: u64 = 64 << 20;

/// Chunks up to this need no room: each thread has one or two of them, and there are few threads.
const SMALL_BYTES_MAX: u64 = 1 << 20;

/// What a permit stands for.
const UNIT_BYTES: u64 = 1 << 20;

/// Memory for large chunks.
#[derive(Debug)]
pub(crate) struct DecodingRoom(Arc<Semaphore>);

impl DecodingRoom {
    /// All of it is free.
    pub fn new() -> Self {
        Self(Arc::new(Semaphore::new(units(ROOM_BYTES) as usize)))
    }

    /// Waits until the largest of `chunks` has room, if it needs any.
    pub async fn take(&self, table: &ChunkTable, chunks: Range<u32>) -> Option<OwnedSemaphorePermit> {
        let largest = chunks.map(|number| table.chunk(number).decoded.len()).max()?;
        if largest <= SMALL_BYTES_MAX {
            return None;
        }
        // Never closed, so that the error cannot happen.
        Arc::clone(&self.0).acquire_many_owned(units(largest)).await.ok()
    }
}

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.min(ROOM_BYTES).div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use larder_image::chunk::{Encoding, IndexBuilder, LayerFacts};

    use super::*;

    /// One chunk that decodes to so many bytes.
    fn table(decoded: u64) -> ChunkTable {
        let mut index = IndexBuilder::new(Encoding::Zstd);
        index.push(0, 0, &[0; 32]);
        let blob = format!("sha256:{}", "00".repeat(32)).parse().expect("a digest");
        let facts = LayerFacts { blob: &blob, encoding: Encoding::Zstd, data_end: 100 };
        ChunkTable::bind(index.finish(decoded).expect("one chunk"), facts).expect("it fits")
    }

    #[test]
    fn large_chunks_share_the_room_and_small_ones_need_none() {
        let room = DecodingRoom::new();
        let take = |decoded: u64| room.take(&table(decoded), 0..1).now_or_never();
        let half = take(32 << 20).expect("it is free");
        let other = take((31 << 20) + 1).expect("as large");
        assert!(half.is_some() && other.is_some());
        assert!(take(2 << 20).is_none(), "it waits");
        assert!(take(1 << 20).expect("it need not wait").is_none());
        drop((half, other));
        assert!(take(64 << 20).expect("the largest there is fits").is_some());
    }
}
