//! [`Formats`]: the versions of everything that a worker leaves to the next one, and what this release understands.
//!
//! A release understands what it writes and what the release before wrote, where that is not the same, and nothing else:
//! [`Formats::check`] and [`check_state`] refuse the rest in words, before anything is touched. A worker writes nothing
//! in a new version before it serves, so that a keeper can go back to the program before.

use std::ops::RangeInclusive;

use anyhow::Context as _;
use larder_cachefiles::{FORMAT_VERSION, format_version};
use larder_mount::keeper::PROTOCOL_VERSION;
use serde::{Deserialize, Serialize};

use super::record::{MountRecord, RECORD_VERSION};
use crate::errors::{Kind, told};
use crate::paths::Paths;

/// Version of what lies with the keeper: the names of descriptors, the journal, live maps, the node ids that the kernel
/// remembers. To be raised with any of them.
const KEPT_VERSION: u32 = 2;

/// What this release understands of the mount records.
const RECORDS: RangeInclusive<u32> = RECORD_VERSION..=RECORD_VERSION;
/// Of the cache directory, under mounts: without any, one of another version is emptied.
const CACHE: RangeInclusive<u32> = FORMAT_VERSION..=FORMAT_VERSION;
/// Of what lies with the keeper.
const KEPT: RangeInclusive<u32> = KEPT_VERSION - 1..=KEPT_VERSION;
/// Of the keeper's protocol.
const KEEPER: RangeInclusive<u32> = PROTOCOL_VERSION - 1..=PROTOCOL_VERSION;

/// The versions of what a running daemon has.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Formats {
    /// Of the mount records.
    pub records: u32,
    /// Of the cache directory.
    pub cache: u32,
    /// Of what lies with the keeper.
    pub kept: u32,
    /// Of the protocol that the keeper speaks: it may be of another release than the worker.
    pub keeper: u32,
}

impl Formats {
    /// Those of this release's worker under a keeper that speaks the version `keeper`.
    pub fn under(keeper: u32) -> Self {
        Self { records: RECORD_VERSION, cache: FORMAT_VERSION, kept: KEPT_VERSION, keeper }
    }

    /// Checks that a worker of this release can follow one that has these.
    ///
    /// # Errors
    ///
    /// The first part that this release does not understand.
    pub fn check(&self) -> anyhow::Result<()> {
        for (what, found, understood) in [
            ("the keeper's protocol", self.keeper, KEEPER),
            ("what lies with the keeper", self.kept, KEPT),
            ("the mount records", self.records, RECORDS),
            ("the cache", self.cache, CACHE),
        ] {
            check(&format!("the running daemon: {what}"), found, &understood)?;
        }
        Ok(())
    }
}

/// Checks that this release understands what lies in the state directory, and under `live` mounts also the cache.
///
/// # Errors
///
/// The first file that it does not understand, or that cannot be read.
pub fn check_state(paths: &Paths, live: bool) -> anyhow::Result<()> {
    for (path, version) in MountRecord::versions(&paths.mounts())? {
        check(&path.display().to_string(), version, &RECORDS)?;
    }
    let cache = paths.cache();
    let place = || format!("{}: the format cannot be read", cache.display());
    match format_version(&cache).with_context(place)? {
        Some(version) if live => check(&cache.display().to_string(), version, &CACHE),
        _ => Ok(()),
    }
}

fn check(what: &str, found: u32, understood: &RangeInclusive<u32>) -> anyhow::Result<()> {
    if understood.contains(&found) {
        return Ok(());
    }
    let (oldest, newest) = (understood.start(), understood.end());
    let reach = if oldest == newest { oldest.to_string() } else { format!("{oldest} and {newest}") };
    let which = if found > *newest { "a newer release" } else { "a release that is too old" };
    Err(told(
        Kind::Conflict,
        format!("{what}: version {found} is of {which}; this one understands {reach}"),
        "go on with the release that is in use, or the one after it; to change to any other, end the daemon with the \
         release in use: `larder daemon --stop`, which unmounts",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p4_what_this_release_leaves_it_takes_up_also_under_the_keeper_of_the_release_before() {
        Formats::under(PROTOCOL_VERSION).check().expect("our own");
        Formats::under(PROTOCOL_VERSION - 1).check().expect("one older");
    }

    #[test]
    fn a_version_that_is_newer_or_much_older_is_refused_by_name_with_what_to_do() {
        let ours = Formats::under(PROTOCOL_VERSION);
        for (formats, what, which) in [
            (Formats { records: RECORD_VERSION + 1, ..ours }, "the mount records", "a newer release"),
            (Formats { cache: FORMAT_VERSION + 1, ..ours }, "the cache", "a newer release"),
            (Formats { kept: KEPT_VERSION + 1, ..ours }, "what lies with the keeper", "a newer release"),
            (Formats { keeper: PROTOCOL_VERSION + 1, ..ours }, "the keeper's protocol", "a newer release"),
            (Formats { cache: FORMAT_VERSION - 2, ..ours }, "the cache", "too old"),
        ] {
            let report = crate::errors::Report::of(&formats.check().expect_err(what));
            assert!(report.error.contains(what) && report.error.contains(which), "{report}");
            assert!(report.hint.expect("a hint").contains("larder daemon --stop"));
        }
    }
}
