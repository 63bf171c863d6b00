//! [`Limits`]: how much of the disk the cache may have, as cachefiles has them, plus a quota.
//!
//! Percentages are of what the file system has in all. Below `stop` nothing new is written; below `cull`
//! objects that nobody uses are removed, and that goes on until `run` is reached (fs/cachefiles/cache.c, v6.12).
//! The quota is treated as a file system of that many bytes, of which nobody else uses anything, except that
//! all of it may be used: its stop limit is 0.

use crate::Error;
use crate::storage::Space;

/// Three percentages of what must stay free: `stop < cull < run < 100`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Percentages {
    /// Culling ends here.
    pub run: u8,
    /// Culling begins below this.
    pub cull: u8,
    /// Below this nothing is written.
    pub stop: u8,
}

impl Default for Percentages {
    fn default() -> Self {
        Self { run: 7, cull: 5, stop: 1 }
    }
}

/// How much of the disk the cache may have.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Limits {
    /// Of the file system's bytes: `brun`, `bcull`, `bstop`.
    pub blocks: Percentages,
    /// Of the file system's files: `frun`, `fcull`, `fstop`.
    pub files: Percentages,
    /// Most bytes that objects may take, their maps included; none means that only the percentages count.
    pub quota: Option<u64>,
}

/// What must be freed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Goal {
    pub bytes: u64,
    pub files: u64,
}

impl Goal {
    pub fn is_reached(self) -> bool {
        self == Self::default()
    }

    fn max(self, other: Self) -> Self {
        Self { bytes: self.bytes.max(other.bytes), files: self.files.max(other.files) }
    }

    /// What is left after so much was freed.
    pub fn less(self, bytes: u64, files: u64) -> Self {
        Self { bytes: self.bytes.saturating_sub(bytes), files: self.files.saturating_sub(files) }
    }
}

impl Limits {
    /// # Errors
    ///
    /// [`Error::Limits`] unless `stop < cull < run < 100` for both, and the quota is not 0.
    pub fn check(&self) -> Result<(), Error> {
        for (kind, limits) in [("blocks", self.blocks), ("files", self.files)] {
            let Percentages { run, cull, stop } = limits;
            if !(stop < cull && cull < run && run < 100) {
                return Err(Error::Limits { kind, run, cull, stop });
            }
        }
        if self.quota == Some(0) { Err(Error::Quota) } else { Ok(()) }
    }

    /// Bytes and files that the cache may still take from the file system: what is free above the stop limit.
    pub(crate) fn headroom(&self, space: &Space) -> Goal {
        let files = match space.files {
            0 => u64::MAX,
            all => space.files_free.saturating_sub(part(all, self.files.stop)),
        };
        Goal { bytes: space.bytes_free.saturating_sub(part(space.bytes, self.blocks.stop)), files }
    }

    /// What to cull, with `used` bytes used. Culling that has begun goes on up to the run limits.
    pub(crate) fn goal(&self, used: u64, space: &Space, culling: bool) -> Goal {
        let missing = |all: u64, free: u64, limits: Percentages| {
            let begun = culling || free < part(all, limits.cull);
            if begun { part(all, limits.run).saturating_sub(free) } else { 0 }
        };
        let disk = Goal {
            bytes: missing(space.bytes, space.bytes_free, self.blocks),
            files: missing(space.files, space.files_free, self.files),
        };
        let quota = self.quota.map_or(0, |quota| {
            missing(quota, quota.saturating_sub(used), self.blocks).saturating_add(used.saturating_sub(quota))
        });
        disk.max(Goal { bytes: quota, files: 0 })
    }
}

fn part(all: u64, percent: u8) -> u64 {
    // Wide, since a file system may have more than 2^64 / 100 bytes.
    u64::try_from(u128::from(all) * u128::from(percent) / 100).expect("a part is less than the whole")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(free: u64) -> Space {
        Space { bytes: 1000, bytes_free: free, files: 1000, files_free: 1000 }
    }

    #[test]
    fn the_defaults_are_those_of_cachefiles() {
        let Percentages { run, cull, stop } = Limits::default().blocks;
        assert_eq!((run, cull, stop), (7, 5, 1));
        Limits::default().check().expect("in order");
    }

    #[test]
    fn limits_out_of_order_are_refused() {
        for (run, cull, stop) in [(7, 5, 5), (5, 5, 1), (100, 5, 1), (1, 5, 7), (0, 0, 0)] {
            let wrong = Percentages { run, cull, stop };
            let limits =
                [Limits { blocks: wrong, ..Limits::default() }, Limits { files: wrong, ..Limits::default() }];
            assert!(limits.iter().all(|limits| limits.check().is_err()), "{wrong:?}");
        }
        assert!(Limits { quota: Some(0), ..Limits::default() }.check().is_err());
    }

    #[test]
    fn culling_begins_below_cull_and_ends_at_run() {
        for (free, culling, bytes) in
            [(50, false, 0), (49, false, 21), (60, false, 0), (60, true, 10), (70, true, 0)]
        {
            let goal = Limits::default().goal(0, &space(free), culling);
            assert_eq!(goal, Goal { bytes, files: 0 }, "{free} free, culling {culling}");
        }
    }

    #[test]
    fn a_quota_has_the_same_limits_and_is_never_above_itself() {
        let limits = Limits { quota: Some(100), ..Limits::default() };
        for (used, culling, bytes) in
            [(95, false, 0), (96, false, 3), (93, true, 0), (94, true, 1), (150, true, 57)]
        {
            assert_eq!(
                limits.goal(used, &space(900), culling).bytes,
                bytes,
                "{used} used, culling {culling}"
            );
        }
    }

    #[test]
    fn headroom_ends_at_the_stop_limit() {
        assert_eq!(Limits::default().headroom(&space(15)), Goal { bytes: 5, files: 990 });
        assert_eq!(Limits::default().headroom(&space(10)).bytes, 0);
        let uncounted = Space { files: 0, files_free: 0, ..space(15) };
        assert_eq!(Limits::default().headroom(&uncounted).files, u64::MAX);
        assert_eq!(Limits::default().goal(0, &uncounted, true).files, 0);
    }

    #[test]
    fn the_largest_file_systems_do_not_overflow() {
        let space = Space { bytes: u64::MAX, bytes_free: 0, files: u64::MAX, files_free: 0 };
        assert!(Limits::default().goal(u64::MAX, &space, true).bytes > 1 << 60);
    }
}
