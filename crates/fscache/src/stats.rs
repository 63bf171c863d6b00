//! [`Stats`]: what happened to a cache, in the groups of `/proc/fs/fscache/stats`.
//!
//! A decision about present bytes costs less than a counter that two processors fight for. So there are
//! several sets of counters, each on cache lines of its own, and every thread keeps to one.

use std::cell::Cell;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Sets of counters. More threads than that share.
const SETS: usize = 16;

macro_rules! stats {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// One set of counters. 128 bytes: processors fetch cache lines in pairs.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub(crate) struct Set {
            $(pub(crate) $name: AtomicU64,)*
        }

        /// A copy of the counters. Each is right, no two are of the same instant.
        #[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
        pub struct Counts {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Stats {
            /// Adds up the counters of all threads.
            pub fn counts(&self) -> Counts {
                let mut sum = Counts::default();
                for set in &self.sets {
                    $(sum.$name = sum.$name.wrapping_add(set.$name.load(Ordering::Relaxed));)*
                }
                sum
            }
        }
    };
}

stats! {
    /// Volumes acquired (Acquire: v).
    volumes,
    /// Cookies acquired (Acquire: n).
    acquires,
    /// Cookies acquired that somebody had already (Acquire: dup).
    acquires_shared,
    /// Uses begun (Use: n).
    uses,
    /// Objects looked up or made (Lookups: n).
    lookups,
    /// Look-ups that found bytes (Lookups: pos).
    lookups_found,
    /// Look-ups that found an empty object or none (Lookups: neg).
    lookups_empty,
    /// Look-ups that failed (Lookups: err).
    lookups_failed,
    /// Invalidations (Invals: n).
    invalidations,
    /// Changes of size (Updates: rsz).
    resizes,
    /// Relinquished cookies (Relinqs: n).
    relinquishes,
    /// Relinquished cookies whose object was removed as well (Relinqs: rtr).
    retires,
    /// Objects withdrawn while in use (Relinqs: wdr).
    withdrawals,
    /// Idle objects closed (LRU: exp).
    idle_closed,
    /// Operations begun (Ops: n).
    operations,
    /// Decisions taken (Decisions: n).
    decisions,
    /// Decisions that found the first bytes present (Decisions: hit).
    hits,
    /// Decisions that found a hole (Decisions: hole).
    holes,
    /// Decisions past the end, or without an answer (Decisions: inv).
    invalid,
    /// Holes that were brought for a waiting client (Decisions: brg).
    brought,
    /// Reads from the backing file (IO: rd).
    reads,
    /// Bytes read from the backing file (IO: rdb).
    read_bytes,
    /// Reads that failed (IO: rde).
    read_errors,
    /// Writes to the backing file (IO: wr).
    writes,
    /// Bytes written to the backing file (IO: wrb).
    write_bytes,
    /// Writes that failed for want of space (NoSpace: nwr).
    no_space,
    /// Writes that failed otherwise (IO: wre).
    write_errors,
}

/// Counters of one cache.
#[derive(Debug, Default)]
pub struct Stats {
    sets: [Set; SETS],
}

impl Stats {
    /// The counters that this thread keeps to.
    #[inline]
    pub(crate) fn mine(&self) -> &Set {
        &self.sets[number_of_thread() % SETS]
    }
}

/// Numbers threads in the order in which they first count.
#[inline]
fn number_of_thread() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static NUMBER: Cell<usize> = const { Cell::new(usize::MAX) };
    }
    NUMBER.with(|number| {
        if number.get() == usize::MAX {
            number.set(NEXT.fetch_add(1, Ordering::Relaxed));
        }
        number.get()
    })
}

/// Adds `n` to a counter.
#[inline]
pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let c = self;
        writeln!(f, "Acquire   : v={} n={} dup={}", c.volumes, c.acquires, c.acquires_shared)?;
        writeln!(f, "Use       : n={}", c.uses)?;
        writeln!(
            f,
            "Lookups   : n={} neg={} pos={} err={}",
            c.lookups, c.lookups_empty, c.lookups_found, c.lookups_failed
        )?;
        writeln!(f, "Invals    : n={}", c.invalidations)?;
        writeln!(f, "Updates   : rsz={}", c.resizes)?;
        writeln!(f, "Relinqs   : n={} rtr={} wdr={}", c.relinquishes, c.retires, c.withdrawals)?;
        writeln!(f, "LRU       : exp={}", c.idle_closed)?;
        writeln!(f, "Ops       : n={}", c.operations)?;
        writeln!(
            f,
            "Decisions : n={} hit={} hole={} inv={} brg={}",
            c.decisions, c.hits, c.holes, c.invalid, c.brought
        )?;
        writeln!(f, "NoSpace   : nwr={}", c.no_space)?;
        write!(
            f,
            "IO        : rd={} rdb={} rde={} wr={} wrb={} wre={}",
            c.reads, c.read_bytes, c.read_errors, c.writes, c.write_bytes, c.write_errors
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn what_many_threads_count_adds_up() {
        let stats = Stats::default();
        thread::scope(|scope| {
            for _ in 0..SETS * 2 {
                scope.spawn(|| (0..1000).for_each(|_| add(&stats.mine().hits, 1)));
            }
        });
        assert_eq!(stats.counts(), Counts { hits: 32_000, ..Counts::default() });
    }

    #[test]
    fn the_groups_are_those_of_the_kernel() {
        let text = Counts { reads: 3, read_bytes: 4096, ..Counts::default() }.to_string();
        let groups: Vec<_> = text.lines().map(|line| line.split(':').next().unwrap_or("").trim()).collect();
        for group in ["Acquire", "Lookups", "Invals", "Updates", "Relinqs", "NoSpace", "IO"] {
            assert!(groups.contains(&group), "{group}: {text}");
        }
        assert!(text.ends_with("IO        : rd=3 rdb=4096 rde=0 wr=0 wrb=0 wre=0"), "{text}");
    }
}
