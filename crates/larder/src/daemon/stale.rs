//! Mounts of ours that nobody answers for, and mounts that others took away: found in the mount table, without
//! touching them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use larder_mount::{Detached, FrontEndKind, MountPoint, detach_mount_of, mount_points};

use super::record::MountRecord;
use crate::errors::{Kind, told};

/// Detaches the mount that `record` tells of, if it is still there. What others have mounted over it or in its place stays;
/// where the record does not say which mount it is, a mount is taken for ours by what it shows as its source.
///
/// # Errors
///
/// When something lies over it, and when the kernel refuses: it is still mounted then. When nothing tells whether it is what is
/// mounted there: once it was forgotten, its readers would take holes for zeros (P1).
pub fn detach(record: &MountRecord, cache: &Path) -> anyhow::Result<()> {
    if record.is_of_earlier_boot() {
        return Ok(());
    }
    let target = record.target.display();
    let mut unknown = false;
    for kind in kinds(record) {
        tracing::debug!(%target, %kind, "detach");
        let shows_it = |point: &MountPoint| shows(point, record, cache);
        match detach_mount_of(kind, &record.target, &record.identity(), shows_it)? {
            Detached::Ours => tracing::warn!(%target, "detached"),
            Detached::NotOurs => {
                tracing::warn!(%target, "not detached: what is mounted there is not this daemon's");
            }
            Detached::Unknown => unknown = true,
            Detached::Nothing => {}
        }
    }
    if unknown {
        return Err(told(
            Kind::Conflict,
            format!("{target}: not detached: nothing tells whether what is mounted there is this daemon's"),
            format!("take it away with `umount --lazy {target}`, and try again"),
        ));
    }
    Ok(())
}

/// Whether the source of `point` is one that the mount of `record` can have: a file of the cache, or the name of the image.
fn shows(point: &MountPoint, record: &MountRecord, cache: &Path) -> bool {
    // As the front ends, and helpers that mount for them, write a name.
    let plain = |text: &str| text.replace(['/', ',', '\\'], "_");
    let is_named = !record.image.is_empty() && plain(&point.source).contains(&plain(&record.image));
    // As the kernel tells the path of an open file.
    let without_links =
        || cache.canonicalize().is_ok_and(|cache| Path::new(&point.source).starts_with(cache));
    is_named || Path::new(&point.source).starts_with(cache) || without_links()
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
    use larder_mount::fuse::OwnMount;

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
    fn p1_a_mount_of_which_nothing_tells_whether_it_is_ours_is_not_said_to_be_detached() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let Ok(mount) = OwnMount::new(temp.path(), "image", "larder", false) else {
            return println!("skipped: FUSE cannot be mounted here");
        };
        // As an older release writes it: it does not say which mount it is.
        let detach = |image| detach(&record(temp.path(), image, "fuse"), Path::new("/cache"));
        let is_mounted = || vanished(vec![temp.path().to_owned()]).expect("proc is mounted").is_empty();
        let (unknown, stays) = (detach("another"), is_mounted());
        let (ours, goes) = (detach("image"), !is_mounted());
        drop(mount);
        unknown.expect_err("whoever forgets it leaves it to nobody");
        ours.expect("it shows the image");
        assert!(stays && goes);
    }

    #[test]
    fn a_mount_of_another_type_is_left_alone() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let Ok(mount) = OwnMount::new(temp.path(), "host", "sshfs", false) else {
            return println!("skipped: FUSE cannot be mounted here");
        };
        let detached = detach(&record(temp.path(), "image", "fuse"), Path::new("/cache"));
        let gone = vanished(vec![temp.path().to_owned()]).expect("proc is mounted");
        detach(&record(temp.path(), "host", "fuse"), Path::new("/cache")).expect("it shows that");
        drop(mount);
        detached.expect("it is not ours");
        assert!(gone.is_empty());
    }

    #[test]
    fn a_source_in_the_cache_is_known_where_a_link_leads_to_the_cache() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let (cache, link) = (temp.path().join("cache"), temp.path().join("link"));
        std::fs::create_dir(&cache).expect("it is free");
        std::os::unix::fs::symlink(&cache, &link).expect("it is free");
        let cache = cache.canonicalize().expect("it is there");
        let shows = |source: &Path| {
            shows(&point(&source.to_string_lossy()), &record(Path::new("/mnt"), "image", "fanotify"), &link)
        };
        assert!(shows(&cache.join("meta")) && shows(&link.join("meta")));
        assert!(!shows(&temp.path().join("meta")));
    }

    fn point(source: &str) -> MountPoint {
        MountPoint {
            id: 1,
            parent: 1,
            path: "/mnt".into(),
            kind: "erofs".into(),
            device: "0:1".into(),
            source: source.into(),
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
            let record = record(Path::new("/mnt"), image, "fanotify");
            assert_eq!(shows(&point(source), &record, cache), ours, "{image} {source}");
        }
    }
}
