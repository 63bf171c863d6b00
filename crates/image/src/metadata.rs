//! [`fetch_metadata`]: the whole metadata layer into its cookie, in one request.

use std::sync::{Arc, mpsc};

use bytes::{Buf as _, Bytes, BytesMut};
use larder_fscache::{BlockSize, CacheResources, ObjectRange};
use larder_remote::BlobRange;

use crate::{ChunkTable, Error, Layer};

/// Most stored bytes of one request, so that memory stays bounded; few images have so much metadata.
const REQUEST_BYTES_MAX: u64 = 32 << 20;

/// Fills the object of `resources` with the whole of `layer`: one request up to 32 MiB of stored bytes, decoded while it arrives.
///
/// Every byte that is written was vouched for by the digest of its chunk. An object that is complete already costs no
/// request. An error leaves what was written before it, and the next call goes on from there.
///
/// # Errors
///
/// [`Error::Remote`], [`Error::Chunk`], [`Error::Cache`].
///
/// # Panics
///
/// When the object has another size than the decoded layer.
pub async fn fetch_metadata(layer: &Layer, resources: &CacheResources) -> Result<(), Error> {
    assert_eq!(resources.size(), layer.table.decoded_size(), "a cookie for another layer");
    if resources.is_complete() {
        return Ok(());
    }
    let place = format!("metadata layer {}", layer.descriptor.digest());
    let mut filler = Filler::new(Arc::clone(&layer.table), resources.clone());
    let len = layer.source.len();
    let mut start = 0;
    while !filler.is_done() {
        start = filler.next_from(start);
        if start >= len {
            break;
        }
        let end = len.min(start + REQUEST_BYTES_MAX);
        let range = BlobRange::new(start, end).expect("the end lies behind the start");
        filler = fill(layer, range, filler, &place).await?;
        start = end;
    }
    filler.finish(&place)
}

/// Streams one range into the filler, which works on a thread of its own.
async fn fill(layer: &Layer, range: BlobRange, mut filler: Filler, place: &str) -> Result<Filler, Error> {
    let (sender, receiver) = mpsc::channel::<Bytes>();
    let worker = tokio::task::spawn_blocking(move || {
        receiver.into_iter().try_for_each(|bytes| filler.take(bytes)).map(|()| filler)
    });
    let mut sink = |bytes| {
        // The worker is gone only when it failed; its error is the one to report.
        let _ = sender.send(bytes);
    };
    let streamed = layer.source.read_stream(range, &mut sink).await;
    drop(sender);
    let worked =
        worker.await.map_err(|stopped| Error::Stopped { place: place.to_owned(), source: stopped })?;
    let filler = worked?;
    streamed.map_err(|source| Error::remote(place, source))?;
    Ok(filler)
}

/// Takes the stored bytes of a layer in order and writes the decoded ones to its cookie.
struct Filler {
    table: Arc<ChunkTable>,
    resources: CacheResources,
    /// Stored bytes not used yet, and where in the blob they begin.
    stored: BytesMut,
    stored_at: u64,
    /// The chunk to be decoded next.
    next: u32,
    /// Decoded bytes that are not a whole block yet, and where they end.
    tail: BytesMut,
    decoded_end: u64,
    /// Where the first block begins that was missing at the start: what lies before it is there.
    hole: u64,
}

impl Filler {
    /// Begins with the chunk that holds the first byte that is missing.
    fn new(table: Arc<ChunkTable>, resources: CacheResources) -> Self {
        let (stored, tail) = (BytesMut::new(), BytesMut::new());
        let hole = first_hole(&resources);
        let next = table.covering(ObjectRange::at(hole, 1)).start;
        let decoded_end = if next < table.len() { table.chunk(next).decoded.start() } else { 0 };
        Self { table, resources, stored, stored_at: 0, next, tail, decoded_end, hole }
    }

    /// Where the next request begins, when everything up to `at` has been asked for.
    fn next_from(&mut self, at: u64) -> u64 {
        if self.stored.is_empty() {
            self.stored_at = at.max(self.table.chunk(self.next).stored.start());
        }
        at.max(self.stored_at + self.stored.len() as u64)
    }

    fn is_done(&self) -> bool {
        self.next == self.table.len()
    }

    fn take(&mut self, bytes: Bytes) -> Result<(), Error> {
        self.stored.extend_from_slice(&bytes);
        while !self.is_done() {
            let Some(bytes) = self.next_stored() else { return Ok(()) };
            let chunk = self.table.chunk(self.next);
            let decoded = chunk.decode(chunk.verify(bytes)?)?;
            self.next += 1;
            self.write(decoded)?;
        }
        self.stored.clear();
        Ok(())
    }

    /// Takes the stored bytes of the next chunk, once they are all there.
    fn next_stored(&mut self) -> Option<Bytes> {
        let range = self.table.chunk(self.next).stored;
        // Producers may leave room between chunks, as much as they like.
        let unused = usize::try_from(range.start() - self.stored_at).unwrap_or(usize::MAX);
        let unused = unused.min(self.stored.len());
        self.stored.advance(unused);
        self.stored_at += unused as u64;
        let len = usize::try_from(range.len()).ok()?;
        if self.stored_at < range.start() || self.stored.len() < len {
            return None;
        }
        self.stored_at = range.end();
        Some(self.stored.split_to(len).freeze())
    }

    /// Writes whole blocks, since the cache knows no others, and keeps the rest for the next chunk.
    fn write(&mut self, mut decoded: Bytes) -> Result<(), Error> {
        let present = usize::try_from(self.hole.saturating_sub(self.decoded_end)).unwrap_or(usize::MAX);
        let present = present.min(decoded.len());
        decoded.advance(present);
        self.decoded_end += present as u64;
        let start = self.decoded_end - self.tail.len() as u64;
        self.decoded_end += decoded.len() as u64;
        let end = match self.decoded_end {
            end if end == self.table.decoded_size() => end,
            end => BlockSize::FOUR_KIB.round_down(end),
        };
        let bytes = if self.tail.is_empty() {
            decoded
        } else {
            self.tail.extend_from_slice(&decoded);
            self.tail.split().freeze()
        };
        let whole = usize::try_from(end.saturating_sub(start)).unwrap_or(usize::MAX).min(bytes.len());
        if whole > 0 {
            let written = self.resources.write(start, &bytes[..whole]);
            written.map_err(|source| Error::Cache(Box::new(source)))?;
        }
        self.tail.extend_from_slice(&bytes[whole..]);
        Ok(())
    }

    fn finish(self, place: &str) -> Result<(), Error> {
        if self.is_done() {
            return Ok(());
        }
        // Cannot happen with a source that gives what it was asked for: the table was bound to the blob's size.
        let expected = self.table.chunk(self.next).stored.end();
        let found = self.stored_at + self.stored.len() as u64;
        Err(Error::Length { place: place.to_owned(), expected, found })
    }
}

/// Where the first block begins that is missing; the end, when none is.
fn first_hole(resources: &CacheResources) -> u64 {
    let whole = ObjectRange::at(0, resources.size());
    let present = resources.query_occupancy(whole);
    present.filter(|present| present.start() == 0).map_or(0, |present| present.end())
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use async_trait::async_trait;
    use larder_fscache::{AuxData, Cache, ObjectSpec, OnHole, VolumeKey, memory::Memory};
    use larder_remote::RangeSource;
    use oci_spec::image::{Descriptor, MediaType};

    use super::*;
    use crate::chunk::{Encoding, IndexBuilder, LayerFacts};
    use crate::digest::{sha256, sha256_raw};

    /// A blob in memory that arrives in pieces of a given size.
    struct Pieces {
        blob: Bytes,
        piece: usize,
        /// Where the first one that was asked for begins.
        first: OnceLock<u64>,
    }

    #[async_trait]
    impl RangeSource for Pieces {
        fn len(&self) -> u64 {
            self.blob.len() as u64
        }

        fn describe(&self) -> String {
            "memory".to_owned()
        }

        async fn read_range(&self, range: BlobRange) -> Result<Bytes, larder_remote::Error> {
            self.first.get_or_init(|| range.start());
            let at = |at| usize::try_from(at).expect("a small blob");
            Ok(self.blob.slice(at(range.start())..at(range.end())))
        }

        async fn read_stream(
            &self,
            range: BlobRange,
            sink: &mut (dyn FnMut(Bytes) + Send),
        ) -> Result<(), larder_remote::Error> {
            let bytes = self.read_range(range).await?;
            bytes.chunks(self.piece).for_each(|piece| sink(Bytes::copy_from_slice(piece)));
            Ok(())
        }
    }

    /// A zstd layer of `data` in chunks of `chunk_bytes`, with `room` before the first one and some between the others.
    fn layer(data: &[u8], chunk_bytes: usize, piece: usize, room: usize) -> (Layer, Arc<Pieces>) {
        let mut blob = vec![0; room];
        let mut index = IndexBuilder::new(Encoding::Zstd);
        for (n, chunk) in data.chunks(chunk_bytes).enumerate() {
            let mut stored = zstd::bulk::compress(chunk, 1).expect("memory is enough");
            let padding = crate::chunk::skippable_frame(4).expect("4 bytes fit");
            stored.extend_from_slice(&[&padding[..], &[0; 4]].concat());
            index.push(blob.len() as u64, (n * chunk_bytes) as u64, &sha256_raw(&stored));
            blob.extend_from_slice(&stored);
        }
        let digest = sha256(&blob);
        let facts = LayerFacts { blob: &digest, encoding: Encoding::Zstd, data_end: blob.len() as u64 };
        let index = index.finish(data.len() as u64).expect("growing offsets");
        let table = Arc::new(ChunkTable::bind(index, facts).expect("it fits"));
        blob.extend_from_slice(b"what follows the chunks");
        let descriptor = Descriptor::new(MediaType::ImageLayer, blob.len() as u64, digest);
        let source = Arc::new(Pieces { blob: blob.into(), piece, first: OnceLock::new() });
        (Layer { descriptor, table, source: Arc::clone(&source) as _ }, source)
    }

    #[tokio::test]
    async fn chunks_of_any_length_fill_whole_blocks() {
        let data: Vec<u8> = (0..50_001_u32).flat_map(u32::to_le_bytes).collect();
        let cases = [(5000, 777, 3), (100, 1 << 20, 0), (4096, 1, 100_000), (300_000, 4096, 1)];
        for (chunk_bytes, piece, room) in cases {
            let (layer, source) = layer(&data, chunk_bytes, piece, room);
            let resources = open(&layer);
            fetch_metadata(&layer, &resources).await.expect("it is all there");
            assert!(resources.is_complete(), "chunks of {chunk_bytes}, pieces of {piece}");
            let mut read = vec![0; data.len()];
            resources.read(0, &mut read, OnHole::Fail).expect("complete");
            assert!(read == data, "chunks of {chunk_bytes}, pieces of {piece}");
            assert_eq!(source.first.get(), Some(&(room as u64)), "nobody asked for what is no chunk");
        }
    }

    #[tokio::test]
    async fn what_an_earlier_try_has_left_is_not_fetched_again() {
        let data: Vec<u8> = (0..50_001_u32).flat_map(u32::to_le_bytes).collect();
        for (chunk_bytes, left) in
            [(5000, 4096), (5000, 98_304), (4096, 4096), (300_000, 8192), (100, 12_288)]
        {
            let (layer, source) = layer(&data, chunk_bytes, 777, 3);
            let resources = open(&layer);
            resources.write(0, &data[..left]).expect("memory");
            fetch_metadata(&layer, &resources).await.expect("it is all there");
            let mut read = vec![0; data.len()];
            resources.read(0, &mut read, OnHole::Fail).expect("complete");
            assert!(read == data, "chunks of {chunk_bytes}, {left} left");
            let first = layer.table.chunk(u32::try_from(left / chunk_bytes).expect("few chunks"));
            assert_eq!(
                source.first.get(),
                Some(&first.stored.start()),
                "chunks of {chunk_bytes}, {left} left"
            );
        }
    }

    fn open(layer: &Layer) -> CacheResources {
        let volume = VolumeKey::new("test").expect("a key");
        let size = layer.table.decoded_size();
        let volume = Cache::new(Memory::new()).acquire_volume(&volume, &AuxData::default()).expect("memory");
        volume.open(layer.table.identity(), &ObjectSpec::of_size(size)).expect("memory")
    }
}
