//! [`Stats`]: what happened, grouped as /proc/fs/netfs/stats groups it.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! stats {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters; every method is one atomic operation.
        #[derive(Debug, Default)]
        pub struct Stats {
            $(pub(crate) $name: AtomicU64,)*
        }

        /// What [`Stats`] showed at one moment.
        #[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
        pub struct Counts {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Stats {
            /// What was counted so far. The fields are read one after the other, not as one.
            pub fn counts(&self) -> Counts {
                Counts { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }

        impl Counts {
            /// Name and value of each counter, in the kernel's order.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }
    };
}

stats! {
    /// Windows begun before a reader asked for them (`RA`).
    readahead,
    /// Reads that had to wait (`RP`).
    read_waits,
    /// Reads answered at once (no counterpart: the kernel's page cache answers those).
    read_hits,
    /// Requests begun (`rr`).
    requests,
    /// Slices begun (`sr`).
    subrequests,
    /// Slices filled with zeros (`ZR`).
    zero_filled,
    /// Attempts that were short (`SH`).
    short_reads,
    /// Downloads begun (`DL`).
    downloads,
    /// Downloads that brought every byte (`ds`).
    download_successes,
    /// Downloads that failed (`df`).
    download_failures,
    /// Downloads that a failing cache made necessary (`di`).
    download_instead,
    /// Bytes downloaded.
    download_bytes,
    /// Reads from the cache begun (`RD`).
    cache_reads,
    /// Reads from the cache that gave every byte (`rs`).
    cache_read_successes,
    /// Reads from the cache that failed (`rf`).
    cache_read_failures,
    /// Copies to the cache begun (`WR`).
    cache_writes,
    /// Copies to the cache that succeeded (`ws`).
    cache_write_successes,
    /// Copies to the cache that failed (`wf`).
    cache_write_failures,
    /// Copies to the cache left out because too many waited.
    cache_writes_skipped,
    /// Reads that failed.
    read_failures,
    /// Reads that failed because the file had changed.
    stale,
}

/// Adds to a counter.
pub(crate) fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}
