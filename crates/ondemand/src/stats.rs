//! [`BlobStats`]: what a blob has cost so far.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::SystemTime,
};

/// What a blob has cost since its [`crate::Blob`] was made.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct BlobStats {
    /// Bytes that came from the source.
    pub fetched_bytes: u64,
    /// Range requests made.
    pub requests: u64,
    /// Readers that met a hole.
    pub faults: u64,
    /// Readers that got an error.
    pub failed_faults: u64,
    /// Chunks verified and written.
    pub chunks: u64,
    /// Times that a chunk's bytes were not what the image says.
    pub mismatches: u64,
}

/// The last thing that went wrong with a blob.
#[derive(Clone, Debug)]
pub struct LastError {
    /// When.
    pub at: SystemTime,
    /// The error and its causes.
    pub message: String,
}

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub fetched_bytes: Counter,
    pub requests: Counter,
    pub faults: Counter,
    pub failed_faults: Counter,
    pub chunks: Counter,
    pub mismatches: Counter,
}

impl Counters {
    pub fn read(&self) -> BlobStats {
        BlobStats {
            fetched_bytes: self.fetched_bytes.get(),
            requests: self.requests.get(),
            faults: self.faults.get(),
            failed_faults: self.failed_faults.get(),
            chunks: self.chunks.get(),
            mismatches: self.mismatches.get(),
        }
    }
}
