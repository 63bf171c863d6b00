//! How full the cache is, and the counters of what happened to it: `larder status --cache`.

use anyhow::Context as _;
use larder_cachefiles::Percentages;

use super::Inventory;
use crate::api::cache_types::{CacheStats, Counter, Disk, Group, Limits, SpaceState};

impl Inventory<'_> {
    /// Puts the counters of the cache and of the trees (see [`groups`]) beside what the cache takes and what the file system
    /// has.
    ///
    /// # Errors
    ///
    /// When the file system cannot be looked at.
    pub fn stats(
        &self,
        cache: &larder_fscache::Counts,
        trees: &larder_netfs::Counts,
    ) -> anyhow::Result<CacheStats> {
        let root = self.cachefiles.root();
        let found = rustix::fs::statvfs(root).with_context(|| format!("{}: statvfs", root.display()))?;
        let disk = Disk {
            bytes: found.f_blocks.saturating_mul(found.f_frsize),
            free_bytes: found.f_bavail.saturating_mul(found.f_frsize),
            files: found.f_files,
            free_files: found.f_favail,
        };
        let usage = self.cachefiles.usage();
        let limits = usage.limits;
        let of_quota = limits.quota.map_or(SpaceState::Run, |quota| {
            // The quota counts as a file system of that size, all of which may be used.
            let free = quota.saturating_sub(usage.charged_bytes);
            state(quota, free, Percentages { stop: 0, ..limits.blocks })
        });
        let of_disk = state(disk.bytes, disk.free_bytes, limits.blocks);
        let of_files = state(disk.files, disk.free_files, limits.files);
        Ok(CacheStats {
            objects: usage.objects,
            stored_bytes: usage.stored_bytes,
            charged_bytes: usage.charged_bytes,
            rebuilding: usage.rebuilding,
            state: of_quota.max(of_disk).max(of_files),
            limits: Limits::of(&limits),
            disk,
            groups: groups(&cache.to_string()),
            netfs: groups(&trees.to_string()),
        })
    }
}

fn state(all: u64, free: u64, limits: Percentages) -> SpaceState {
    let part = |percent: u8| u128::from(all) * u128::from(percent) / 100;
    match u128::from(free) {
        free if free < part(limits.stop) => SpaceState::Stop,
        free if free < part(limits.cull) => SpaceState::Cull,
        free if free < part(limits.run) => SpaceState::Low,
        _ => SpaceState::Run,
    }
}

/// Reads counters as `/proc/fs/fscache/stats` has them: a line `Group : name=value name=value` each.
fn groups(text: &str) -> Vec<Group> {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    let group = |(name, counters): (&str, &str)| Group {
        name: name.trim().to_owned(),
        counters: counters
            .split_whitespace()
            .filter_map(|counter| {
                let (name, value) = counter.split_once('=')?;
                Some(Counter { name: name.to_owned(), value: value.parse().ok()? })
            })
            .collect(),
    };
    lines.map(group).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_limit_says_where_a_cache_stands() {
        let limits = Percentages { run: 7, cull: 5, stop: 1 };
        for (free, expected) in [
            (1000, SpaceState::Run),
            (70, SpaceState::Run),
            (69, SpaceState::Low),
            (50, SpaceState::Low),
            (49, SpaceState::Cull),
            (10, SpaceState::Cull),
            (9, SpaceState::Stop),
            (0, SpaceState::Stop),
        ] {
            assert_eq!(state(1000, free, limits), expected, "{free}");
        }
        assert_eq!(state(0, 0, limits), SpaceState::Run, "a file system without a bound");
    }

    #[test]
    fn no_counter_is_lost_on_the_way() {
        let (cache, trees) =
            (larder_fscache::Counts::default().to_string(), larder_netfs::Counts::default().to_string());
        for text in [&cache, &trees] {
            let counters = groups(text).iter().map(|group| group.counters.len()).sum::<usize>();
            assert_eq!(counters, text.matches('=').count(), "{text}");
        }
        let groups = groups(&cache);
        assert!(
            groups.iter().any(|group| group.name == "Lookups" && group.counters[0].name == "n"),
            "{groups:?}"
        );
    }
}
