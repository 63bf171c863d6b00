//! [`Packer`]: a decoded stream becomes a layer blob: chunks, their frames and digests, the index at the end.
//!
//! The stream is cut at fixed boundaries, so that what each worker makes of its part depends on nothing else: the blob
//! is the same for any number of workers. A batch of chunks goes to the workers and, in order, to the threads that need
//! the whole stream: one writes the blob and digests it as stored, one digests it as decoded.

use std::fs::File;
use std::io::{self, Write as _};
use std::num::NonZero;
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use larder_erofs::writer::BlobSink;
use larder_remote::BlobRange;
use oci_spec::image::Digest;

use super::Compression;
use super::worker::{Job, Packed, Worker};
use crate::chunk::{ChunkHash, ChunkIndex, Encoding, IndexBuilder, skippable_frame};
use crate::digest::Hasher;

/// Decoded bytes that go to a worker at a time, as many whole chunks as fit: fewer hand-overs, and still plenty of
/// batches for every worker.
const BATCH_BYTES: usize = 1 << 20;

/// Decoded bytes between the first thread and the last: bounds the memory of a build.
const UNDER_WAY_BYTES: usize = 12 << 20;

/// How a stream is packed.
#[derive(Clone, Copy, Debug)]
pub(super) struct PackOptions {
    /// Decoded bytes of a chunk; the last one may be shorter.
    pub chunk_bytes: NonZero<usize>,
    /// How each is stored.
    pub compression: Compression,
    /// How each is digested.
    pub chunk_hash: ChunkHash,
    /// Threads that compress.
    pub jobs: NonZero<usize>,
}

impl PackOptions {
    fn batch_bytes(self) -> usize {
        let chunk = self.chunk_bytes.get();
        (BATCH_BYTES / chunk).max(1) * chunk
    }
}

/// A finished layer blob.
#[derive(Debug)]
pub(super) struct PackedBlob {
    /// SHA-256 of the whole file, index included.
    pub digest: Digest,
    /// Its length.
    pub size: u64,
    /// SHA-256 of the decoded stream; of a raw layer that of the file.
    pub diff_id: Digest,
    /// How its chunks are stored.
    pub encoding: Encoding,
    /// The index.
    pub index: ChunkIndex,
    /// Where the index lies, with the header of its frame.
    pub index_range: BlobRange,
}

/// Takes a stream in order and packs it into a file.
pub(super) struct Packer {
    options: PackOptions,
    batch: Vec<u8>,
    decoded: u64,
    channels: Option<Channels>,
    workers: Vec<JoinHandle<()>>,
    writer: Option<JoinHandle<io::Result<Stored>>>,
    decoded_hasher: Option<JoinHandle<Digest>>,
}

/// Where batches go.
struct Channels {
    work: Sender<Job>,
    in_order: Sender<Receiver<io::Result<Packed>>>,
    /// Absent for a raw layer, whose stored digest is all there is.
    decoded: Option<Sender<Bytes>>,
}

/// What the writer leaves: the file without its index.
struct Stored {
    file: File,
    hasher: Hasher,
    len: u64,
    decoded: u64,
    index: IndexBuilder,
}

impl Packer {
    /// Starts the threads; the blob goes to `file` from where it stands.
    ///
    /// # Errors
    ///
    /// When a thread cannot be started, or the level of compression does not exist.
    pub fn new(file: File, options: PackOptions) -> io::Result<Self> {
        let encoding = options.compression.encoding();
        let (work, jobs) = unbounded::<Job>();
        let batches_max = (UNDER_WAY_BYTES / options.batch_bytes()).max(options.jobs.get() + 1);
        let (in_order, packed) = bounded(batches_max);
        let mut packer = Self {
            options,
            batch: Vec::new(),
            decoded: 0,
            channels: None,
            workers: Vec::new(),
            writer: None,
            decoded_hasher: None,
        };
        let stored = Stored {
            file,
            hasher: Hasher::default(),
            len: 0,
            decoded: 0,
            index: IndexBuilder::with_hash(encoding, options.chunk_hash),
        };
        packer.writer = Some(spawn("larder-blob", move || stored.write_all(&packed))?);
        let mut decoded = None;
        if encoding == Encoding::Zstd {
            let (sender, stream) = bounded::<Bytes>(batches_max);
            packer.decoded_hasher = Some(spawn("larder-diff-id", move || hash_all(&stream))?);
            decoded = Some(sender);
        }
        for _ in 0..options.jobs.get() {
            let worker = Worker::new(options)?;
            let jobs = jobs.clone();
            packer.workers.push(spawn("larder-pack", move || worker.run(&jobs))?);
        }
        packer.channels = Some(Channels { work, in_order, decoded });
        Ok(packer)
    }

    /// Hands a batch to everyone who needs it; waits while too many are under way.
    fn send(&mut self, data: Bytes) -> io::Result<()> {
        let Some(channels) = &self.channels else { return Err(stopped()) };
        let (reply, packed) = bounded(1);
        let sent = channels.in_order.send(packed).is_ok()
            && channels.work.send(Job { data: data.clone(), reply }).is_ok()
            && channels.decoded.as_ref().is_none_or(|decoded| decoded.send(data).is_ok());
        if sent { Ok(()) } else { Err(self.failure()) }
    }

    /// Why the writer stopped before the end of the stream.
    fn failure(&mut self) -> io::Error {
        self.channels = None;
        let writer = self.writer.take().map(JoinHandle::join);
        match writer {
            Some(Ok(Err(error))) => error,
            _ => stopped(),
        }
    }

    /// Packs what is left, writes the index and returns what was made.
    ///
    /// # Errors
    ///
    /// When the file cannot be written, or so much was written that its index is over the limit.
    pub fn finish(mut self) -> io::Result<PackedBlob> {
        if !self.batch.is_empty() {
            let rest = std::mem::take(&mut self.batch);
            self.send(rest.into())?;
        }
        self.channels = None;
        let writer = self.writer.take().ok_or_else(stopped)?;
        let mut stored = writer.join().map_err(|_| stopped())??;
        let encoding = self.options.compression.encoding();
        let index = stored.index.finish(self.decoded).map_err(io::Error::other)?;
        let start = stored.len;
        let payload = index.payload();
        if encoding == Encoding::Zstd {
            let too_long = || io::Error::other("the chunk index is too long for a zstd frame");
            put(
                &mut stored.file,
                &mut stored.hasher,
                &skippable_frame(payload.len() as u64).ok_or_else(too_long)?,
            )?;
            stored.len += crate::chunk::SKIPPABLE_HEADER_BYTES;
        }
        put(&mut stored.file, &mut stored.hasher, payload)?;
        let size = stored.len + payload.len() as u64;
        let digest = stored.hasher.finish();
        let diff_id = match self.decoded_hasher.take() {
            Some(hasher) => hasher.join().map_err(|_| stopped())?,
            None => digest.clone(),
        };
        let index_range = BlobRange::new(start, size).ok_or_else(stopped)?;
        Ok(PackedBlob { digest, size, diff_id, encoding, index, index_range })
    }
}

impl BlobSink for Packer {
    fn write(&mut self, mut data: &[u8]) -> io::Result<()> {
        let batch_bytes = self.options.batch_bytes();
        while !data.is_empty() {
            if self.batch.capacity() == 0 {
                self.batch.reserve_exact(batch_bytes);
            }
            let (now, later) = data.split_at(data.len().min(batch_bytes - self.batch.len()));
            self.batch.extend_from_slice(now);
            self.decoded += now.len() as u64;
            if self.batch.len() == batch_bytes {
                let full = std::mem::take(&mut self.batch);
                self.send(full.into())?;
            }
            data = later;
        }
        Ok(())
    }
}

impl Drop for Packer {
    /// Ends the threads: a build that failed leaves none behind.
    fn drop(&mut self) {
        self.channels = None;
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
        if let Some(hasher) = self.decoded_hasher.take() {
            let _ = hasher.join();
        }
    }
}

impl Stored {
    /// Writes the batches as they come, in the order of the stream.
    fn write_all(mut self, packed: &Receiver<Receiver<io::Result<Packed>>>) -> io::Result<Self> {
        for batch in packed {
            let Packed { stored, chunks } = batch.recv().map_err(|_| stopped())??;
            for chunk in chunks {
                self.index.push(self.len, self.decoded, chunk.checksum.as_ref());
                self.len += chunk.stored as u64;
                self.decoded += chunk.decoded as u64;
            }
            put(&mut self.file, &mut self.hasher, &stored)?;
        }
        Ok(self)
    }
}

fn put(file: &mut File, hasher: &mut Hasher, bytes: &[u8]) -> io::Result<()> {
    file.write_all(bytes)?;
    hasher.update(bytes);
    Ok(())
}

fn hash_all(stream: &Receiver<Bytes>) -> Digest {
    let mut hasher = Hasher::default();
    stream.iter().for_each(|bytes| hasher.update(&bytes));
    hasher.finish()
}

fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    thread::Builder::new().name(name.to_owned()).spawn(work)
}

fn stopped() -> io::Error {
    io::Error::other("a thread of the build stopped")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::{ChunkTable, LayerFacts};
    use crate::digest::sha256;

    fn options(chunk_bytes: usize, compression: Compression, jobs: usize) -> PackOptions {
        let not_0 = |number| NonZero::new(number).expect("not 0");
        let (chunk_bytes, jobs) = (not_0(chunk_bytes), not_0(jobs));
        PackOptions { chunk_bytes, compression, chunk_hash: ChunkHash::default(), jobs }
    }

    /// Compressible and not, in turns of 100,000 bytes.
    fn data(len: usize) -> Vec<u8> {
        let mut state = 1_u32;
        let byte = |at: usize| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if (at / 100_000).is_multiple_of(2) { b'x' } else { state.to_be_bytes()[0] }
        };
        (0..len).map(byte).collect()
    }

    fn pack(data: &[u8], piece: usize, options: PackOptions) -> (PackedBlob, Vec<u8>) {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let mut packer = Packer::new(file.reopen().expect("it is there"), options).expect("threads start");
        data.chunks(piece).for_each(|piece| packer.write(piece).expect("there is room"));
        let blob = packer.finish().expect("there is room");
        (blob, std::fs::read(file.path()).expect("it is there"))
    }

    #[test]
    fn a_blob_is_what_its_index_and_digests_say() {
        let data = data(3_333_333);
        for compression in [Compression::None, Compression::Zstd(1)] {
            let hashes = [ChunkHash::Blake3, ChunkHash::Sha256, ChunkHash::Sha512, ChunkHash::Sha256];
            let shapes = [(4096, 3), (65_536, 2), (2 << 20, 2), (16 << 20, 1)];
            for ((chunk_bytes, jobs), chunk_hash) in shapes.into_iter().zip(hashes) {
                let options = PackOptions { chunk_hash, ..options(chunk_bytes, compression, jobs) };
                let (blob, bytes) = pack(&data, 77_777, options);
                assert_eq!(blob.index.hash(), chunk_hash);
                assert_eq!((blob.size, &blob.digest), (bytes.len() as u64, &sha256(&bytes)));
                let facts = LayerFacts {
                    blob: &blob.digest,
                    encoding: blob.encoding,
                    data_end: blob.index_range.start(),
                };
                let table = ChunkTable::bind(blob.index.clone(), facts).expect("it fits");
                let mut decoded = Vec::new();
                for chunk in table.chunks() {
                    let at = |at| usize::try_from(at).expect("a small blob");
                    let stored = bytes[at(chunk.stored.start())..at(chunk.stored.end())].to_vec();
                    let verified = chunk.verify(stored.into()).expect("its digest");
                    decoded.extend_from_slice(&chunk.decode(verified).expect("one frame"));
                }
                assert!(decoded == data, "{compression:?} {chunk_bytes}");
                let whole = if compression == Compression::None { &bytes } else { &data };
                assert_eq!(blob.diff_id, sha256(whole));
            }
        }
    }

    #[test]
    fn p6_neither_threads_nor_the_size_of_writes_show_in_the_blob() {
        let data = data(5_000_000);
        let blob = |piece, jobs| pack(&data, piece, options(65_536, Compression::Zstd(3), jobs)).0.digest;
        let expected = blob(5_000_000, 1);
        for (piece, jobs) in [(5_000_000, 2), (4096, 1), (1_000_003, 5)] {
            assert_eq!(blob(piece, jobs), expected, "pieces of {piece}, {jobs} jobs");
        }
    }

    #[test]
    fn a_stream_of_nothing_has_an_index_of_nothing() {
        let (blob, bytes) = pack(&[], 1, options(4096, Compression::Zstd(3), 1));
        assert_eq!((blob.index.count(), bytes.len()), (0, 40));
        assert_eq!(blob.diff_id, sha256(b""));
    }

    #[test]
    fn a_full_disk_is_reported_as_such() {
        let full = || File::options().write(true).open("/dev/full").expect("every Linux has it");
        for compression in [Compression::None, Compression::Zstd(1)] {
            let mut packer = Packer::new(full(), options(4096, compression, 2)).expect("threads start");
            let noise: Vec<u8> = data(200_000).split_off(100_000);
            // Far more than what may be under way, so that the failure reaches the one who writes.
            let outcome = (0..1000).try_for_each(|_| packer.write(&noise));
            let error = outcome.expect_err("nothing fits on a full disk");
            assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{error}");
        }
        let mut packer = Packer::new(full(), options(4096, Compression::None, 1)).expect("threads start");
        packer.write(b"too few bytes to be sent before the end").expect("kept in memory");
        let error = packer.finish().expect_err("nothing fits on a full disk");
        assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{error}");
    }

    #[test]
    fn a_packer_that_is_dropped_ends_its_threads() {
        let file = tempfile::tempfile().expect("a temporary file");
        let mut packer = Packer::new(file, options(4096, Compression::Zstd(1), 4)).expect("threads start");
        packer.write(&data(9_000_000)).expect("there is room");
        drop(packer);
    }
}
