//! [`Meter`]: what a source cost so far.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counts what passes over the wire. Shared by `Arc`; every method is one atomic operation.
#[derive(Debug, Default)]
pub struct Meter {
    requests: AtomicU64,
    bytes: AtomicU64,
    errors: AtomicU64,
    retries: AtomicU64,
}

/// What a [`Meter`] showed at one moment.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Reading {
    /// Requests sent, redirects and token requests included.
    pub requests: u64,
    /// Bytes of bodies received, those of failed requests included.
    pub bytes: u64,
    /// Attempts that failed.
    pub errors: u64,
    /// Attempts made again after a failure.
    pub retries: u64,
}

impl Meter {
    /// Returns what was counted so far. The fields are read one after the other, not as one.
    pub fn read(&self) -> Reading {
        Reading {
            requests: self.requests.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            errors: self.errors.load(Relaxed),
            retries: self.retries.load(Relaxed),
        }
    }

    pub(crate) fn count_request(&self) {
        self.requests.fetch_add(1, Relaxed);
    }

    pub(crate) fn count_bytes(&self, bytes: usize) {
        self.bytes.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Relaxed);
    }

    pub(crate) fn count_error(&self) {
        self.errors.fetch_add(1, Relaxed);
    }

    pub(crate) fn count_retry(&self) {
        self.retries.fetch_add(1, Relaxed);
    }
}
