//! A chunk index of any bytes, bound to a layer of any size: the first eight bytes are that, the next a place to look
//! for.
//!
//! Invariants: parsing ends in an index or an error and takes no memory beyond the input; the chunks of an index that
//! was taken tile the decoded data, lie in the blob in order, and none is over its limit; `covering` finds just the
//! chunks that touch a range.

#![cfg_attr(fuzzing, no_main)]

use bytes::Bytes;
use larder_fscache::ObjectRange;
use larder_image::chunk::{CHUNK_BYTES_MAX, ChunkIndex, ChunkTable, LayerFacts, STORED_BYTES_MAX};

fn seeds() -> Vec<Vec<u8>> {
    let seeds: [&[u8]; 3] = [
        include_bytes!("../seeds/chunk_index/empty"),
        include_bytes!("../seeds/chunk_index/v1"),
        include_bytes!("../seeds/chunk_index/v2"),
    ];
    seeds.map(<[u8]>::to_vec).to_vec()
}

larder_fuzz::fuzz_target!(seeds, |bytes| {
    let Some((&data_end, rest)) = bytes.split_first_chunk() else { return };
    let Some((&at, payload)) = rest.split_first_chunk() else { return };
    let (data_end, at) = (u64::from_le_bytes(data_end), u64::from_le_bytes(at));
    let Ok(index) = ChunkIndex::parse(Bytes::copy_from_slice(payload)) else { return };
    let blob = larder_image::digest::sha256(b"");
    let facts = LayerFacts { blob: &blob, encoding: index.encoding(), data_end };
    let Ok(table) = ChunkTable::bind(index, facts) else { return };
    let (mut decoded, mut stored) = (0, 0);
    for chunk in table.chunks() {
        assert_eq!(chunk.decoded.start(), decoded);
        assert!(chunk.stored.start() >= stored && chunk.stored.end() <= data_end);
        assert!(!chunk.decoded.is_empty() && chunk.decoded.len() <= CHUNK_BYTES_MAX);
        assert!(!chunk.stored.is_empty() && chunk.stored.len() <= STORED_BYTES_MAX);
        (decoded, stored) = (chunk.decoded.end(), chunk.stored.end());
    }
    assert_eq!(decoded, table.decoded_size());
    let want = ObjectRange::at(at, 1);
    let found = table.covering(want);
    assert_eq!(found.len(), usize::from(at < decoded));
    assert!(
        found.into_iter().all(|n| table.chunk(n).decoded.start() <= at && at < table.chunk(n).decoded.end())
    );
});
