//! Mounts of ours that nobody answers for, and mounts that others took away: found in the mount table, without
//! touching them.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::Context as _;
use larder_mount::{FrontEndKind, detach_mount_of, mount_points};

use super::record::MountRecord;

/// Detaches the mount that `record` tells of, if it is still there; tells whether it was. What others have mounted over it
/// stays.
///
/// # Errors
///
/// When something lies over it, and when the kernel refuses: it is still mounted then.
pub fn detach(record: &MountRecord) -> anyhow::Result<bool> {
    let mut was_there = false;
    for kind in kinds(record) {
        tracing::debug!(target = %record.target.display(), %kind, "detach");
        was_there |= detach_mount_of(kind, &record.target)?;
    }
    Ok(was_there)
}

/// The front end that made the mount; where this release does not know it, one for each file system that Larder mounts.
fn kinds(record: &MountRecord) -> Vec<FrontEndKind> {
    let known = record.frontend.parse();
    known.map_or_else(|_| vec![FrontEndKind::Fanotify, FrontEndKind::Fuse], |kind| vec![kind])
}

/// Those of `targets` on which nothing is mounted any more.
///
/// # Errors
///
/// When the mount table cannot be read.
pub fn vanished(targets: Vec<PathBuf>) -> anyhow::Result<Vec<PathBuf>> {
    let points = mount_points().context("/proc/self/mountinfo")?;
    let points: BTreeSet<PathBuf> = points.into_iter().map(|point| point.path).collect();
    Ok(targets.into_iter().filter(|target| !points.contains(target)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_on_which_nothing_is_mounted_is_left_alone() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        for frontend in ["fanotify", "fuse", "of a later release"] {
            let target = temp.path().to_owned();
            let record = MountRecord::new(target, String::new(), false, frontend.to_owned(), String::new());
            assert!(!detach(&record).expect("proc is mounted"), "{frontend}");
        }
    }
}
