//! [`Worker`]: stores batches of chunks, each chunk for itself.

use std::io;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender};
use zstd::bulk::Compressor;

use super::Compression;
use super::pack::PackOptions;
use crate::chunk::{ChunkDigest, ChunkHash};

/// A thread that stores batches.
pub(super) struct Worker {
    chunk_bytes: usize,
    chunk_hash: ChunkHash,
    compressor: Option<Compressor<'static>>,
    /// Where a frame is made, before its length is known.
    frame: Vec<u8>,
}

impl Worker {
    /// Sets up a compressor.
    ///
    /// # Errors
    ///
    /// When there is no such level.
    pub fn new(options: PackOptions) -> io::Result<Self> {
        let chunk_bytes = options.chunk_bytes.get();
        let (compressor, bound) = match options.compression {
            Compression::None => (None, 0),
            Compression::Zstd(level) => {
                (Some(Compressor::new(level)?), zstd::zstd_safe::compress_bound(chunk_bytes))
            }
        };
        let chunk_hash = options.chunk_hash;
        Ok(Self { chunk_bytes, chunk_hash, compressor, frame: Vec::with_capacity(bound) })
    }

    /// Works until no more jobs can come.
    pub fn run(mut self, jobs: &Receiver<Job>) {
        for Job { data, reply } in jobs {
            // Whoever waited for it may have given up.
            let _ = reply.send(self.pack(data));
        }
    }

    fn pack(&mut self, data: Bytes) -> io::Result<Packed> {
        let Self { chunk_bytes, chunk_hash, compressor, frame } = self;
        let Some(compressor) = compressor else {
            let chunks = data.chunks(*chunk_bytes).map(|chunk| PackedChunk {
                stored: chunk.len(),
                decoded: chunk.len(),
                checksum: chunk_hash.digest(chunk),
            });
            let chunks = chunks.collect();
            return Ok(Packed { stored: data, chunks });
        };
        let mut stored = Vec::with_capacity(data.len() / 2);
        let mut chunks = Vec::with_capacity(data.len().div_ceil(*chunk_bytes));
        for chunk in data.chunks(*chunk_bytes) {
            // One frame with its content size and without a checksum: the index has a better one.
            frame.clear();
            compressor.compress_to_buffer(chunk, frame)?;
            stored.extend_from_slice(frame);
            chunks.push(PackedChunk {
                stored: frame.len(),
                decoded: chunk.len(),
                checksum: chunk_hash.digest(frame),
            });
        }
        Ok(Packed { stored: stored.into(), chunks })
    }
}

/// A batch to be stored, and whom to tell.
pub(super) struct Job {
    pub data: Bytes,
    pub reply: Sender<io::Result<Packed>>,
}

/// One batch as it is stored.
pub(super) struct Packed {
    pub stored: Bytes,
    pub chunks: Vec<PackedChunk>,
}

/// One chunk of a batch.
pub(super) struct PackedChunk {
    /// Bytes as stored.
    pub stored: usize,
    /// Bytes as decoded.
    pub decoded: usize,
    /// Digest of the stored bytes.
    pub checksum: ChunkDigest,
}
