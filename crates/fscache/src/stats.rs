//! [`Stats`]: what happened to a cookie, in the groups of `/proc/fs/fscache/stats`.

use std::ops::AddAssign;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! stats {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters of one cookie. Relaxed: each is right, no two are of the same instant.
        #[derive(Debug, Default)]
        pub struct Stats {
            $($(#[$doc])* pub(crate) $name: AtomicU64,)*
        }

        /// A copy of the counters, or the sum of several.
        #[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
        pub struct Counts {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Stats {
            /// Copies the counters.
            pub fn counts(&self) -> Counts {
                Counts { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }

        impl AddAssign for Counts {
            fn add_assign(&mut self, other: Self) {
                $(self.$name = self.$name.wrapping_add(other.$name);)*
            }
        }
    };
}

stats! {
    /// Acquisitions of the cookie (Acquire: n).
    acquires,
    /// Decisions taken (Lookups: n).
    lookups,
    /// Decisions that found the first bytes present (Lookups: pos).
    hits,
    /// Decisions that found a hole (Lookups: neg).
    holes,
    /// Decisions past the end of the object, or without an answer.
    invalid,
    /// Reads from the backing file (IO: rd).
    reads,
    /// Bytes read from the backing file.
    read_bytes,
    /// Reads that failed.
    read_errors,
    /// Writes to the backing file (IO: wr).
    writes,
    /// Bytes written to the backing file.
    write_bytes,
    /// Writes that failed for want of space (NoSpace: nwr).
    no_space,
    /// Writes that failed otherwise.
    write_errors,
}

/// Adds `n` to a counter.
pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}
