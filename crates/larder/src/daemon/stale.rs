//! Mounts of ours that nobody answers for, and mounts that others took away: found in the mount table, without
//! touching them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use larder_mount::{Detached, FrontEndKind, MountPoint, detach_mount_of, mount_points};

use super::record::MountRecord;

/// Detaches the mount that `record` tells of, if it is still there. What others have mounted over it or in its place stays;
/// where the record does not say which mount it is, a mount is taken for ours by what it shows as its source.
///
/// # Errors
///
/// When something lies over it, and when the kernel refuses: it is still mounted then.
pub fn detach(record: &MountRecord, cache: &Path) -> anyhow::Result<()> {
    if record.is_of_earlier_boot() {
        return Ok(());
    }
    let target = record.target.display();
    for kind in kinds(record) {
        tracing::debug!(%target, %kind, "detach");
        let shows_it = |point: &MountPoint| shows(point, record, cache);
        match detach_mount_of(kind, &record.target, &record.identity(), shows_it)? {
            Detached::Ours => tracing::warn!(%target, "detached"),
            Detached::NotOurs => {
                tracing::warn!(%target, "not detached: what is mounted there is not known to be this daemon's");
            }
            Detached::Nothing => {}
        }
    }
    Ok(())
}

/// Whether the source of `point` is one that the mount of `record` can have: a file of the cache, or the name of the image.
fn shows(point: &MountPoint, record: &MountRecord, cache: &Path) -> bool {
    // As the front ends, and helpers that mount for them, write a name.
    let plain = |text: &str| text.replace(['/', ',', '\\'], "_");
    let is_named = !record.image.is_empty() && plain(&point.source).contains(&plain(&record.image));
    is_named || Path::new(&point.source).starts_with(cache)
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

    fn record(target: &Path, image: &str, frontend: &str) -> MountRecord {
        let target = target.to_owned();
        MountRecord::new(target, image.to_owned(), false, frontend.to_owned(), String::new())
    }

    #[test]
    fn a_directory_on_which_nothing_is_mounted_is_left_alone() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        for frontend in ["fanotify", "fuse", "of a later release"] {
            detach(&record(temp.path(), "", frontend), Path::new("/cache")).expect("proc is mounted");
        }
    }

    #[test]
    fn a_mount_without_an_identity_is_known_by_its_source() {
        let cache = Path::new("/root/cache");
        for (image, source, ours) in [
            ("oci:/srv/image:v1", "oci:/srv/image:v1", true),
            ("oci:/srv/image:v1", "0000000000000001:oci:_srv_image:v1", true),
            ("https://a/b,c", "https://a/b_c", true),
            ("oci:/srv/image:v1", "/root/cache/cache/v/00/key", true),
            ("oci:/srv/image:v1", "/root/cache-of-others/key", false),
            ("oci:/srv/image:v1", "oci:/srv/image:v2", false),
            ("", "anything", false),
        ] {
            let point = MountPoint {
                id: 1,
                parent: 1,
                path: "/mnt".into(),
                kind: "erofs".into(),
                device: "0:1".into(),
                source: source.into(),
            };
            let record = record(Path::new("/mnt"), image, "fanotify");
            assert_eq!(shows(&point, &record, cache), ours, "{image} {source}");
        }
    }
}
