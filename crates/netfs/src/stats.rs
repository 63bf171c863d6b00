//! [`Stats`]: what happened, grouped as /proc/fs/netfs/stats groups it.

use std::fmt;
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
    };
}

stats! {
    /// Windows begun before a reader asked for them (Reads: RA).
    readahead,
    /// Reads that had to wait (Reads: RP).
    read_waits,
    /// Reads answered at once (Reads: hit; no counterpart: the kernel's page cache answers those).
    read_hits,
    /// Requests begun (Objs: rr).
    requests,
    /// Slices begun (Objs: sr).
    subrequests,
    /// Slices filled with zeros (ZeroOps: ZR).
    zero_filled,
    /// Attempts that were short and went on (ZeroOps: sh).
    short_reads,
    /// Downloads begun (DownOps: DL).
    downloads,
    /// Downloads that brought every byte (DownOps: ds).
    download_successes,
    /// Downloads that failed (DownOps: df).
    download_failures,
    /// Downloads that a failing cache made necessary (DownOps: di).
    download_instead,
    /// Bytes downloaded (DownOps: dlb).
    download_bytes,
    /// Reads from the cache begun (CaRdOps: RD).
    cache_reads,
    /// Reads from the cache that gave every byte (CaRdOps: rs).
    cache_read_successes,
    /// Reads from the cache that failed (CaRdOps: rf).
    cache_read_failures,
    /// Copies to the cache begun (CaWrOps: WR).
    cache_writes,
    /// Copies to the cache that succeeded (CaWrOps: ws).
    cache_write_successes,
    /// Copies to the cache that failed (CaWrOps: wf).
    cache_write_failures,
    /// Copies to the cache left out because too many waited (CaWrOps: skp).
    cache_writes_skipped,
    /// Reads that failed (Reads: err).
    read_failures,
    /// Reads that failed because the file had changed (Reads: stale).
    stale,
}

impl fmt::Display for Counts {
    /// A line for each group: those of `netfs_stats_show()` in fs/netfs/stats.c (v6.12) that a reader has, and their names.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let c = self;
        writeln!(
            f,
            "Reads     : RA={} RP={} hit={} err={} stale={}",
            c.readahead, c.read_waits, c.read_hits, c.read_failures, c.stale
        )?;
        writeln!(f, "ZeroOps   : ZR={} sh={}", c.zero_filled, c.short_reads)?;
        writeln!(
            f,
            "DownOps   : DL={} ds={} df={} di={} dlb={}",
            c.downloads, c.download_successes, c.download_failures, c.download_instead, c.download_bytes
        )?;
        writeln!(
            f,
            "CaRdOps   : RD={} rs={} rf={}",
            c.cache_reads, c.cache_read_successes, c.cache_read_failures
        )?;
        writeln!(
            f,
            "CaWrOps   : WR={} ws={} wf={} skp={}",
            c.cache_writes, c.cache_write_successes, c.cache_write_failures, c.cache_writes_skipped
        )?;
        write!(f, "Objs      : rr={} sr={}", c.requests, c.subrequests)
    }
}

/// Adds to a counter.
pub(crate) fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_is_shown_once_in_the_groups_of_the_kernel() {
        let stats = Stats::default();
        add(&stats.download_bytes, 4096);
        add(&stats.stale, 7);
        let text = stats.counts().to_string();
        assert_eq!(text.matches('=').count(), size_of::<Counts>() / size_of::<u64>(), "{text}");
        let groups: Vec<_> = text.lines().filter_map(|line| line.split(" :").next()).map(str::trim).collect();
        assert_eq!(groups, ["Reads", "ZeroOps", "DownOps", "CaRdOps", "CaWrOps", "Objs"]);
        assert!(text.contains("dlb=4096\n") && text.contains("stale=7\n"), "{text}");
    }
}
