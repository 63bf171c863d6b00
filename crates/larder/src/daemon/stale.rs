//! Mounts of ours that nobody answers for, and mounts that others took away: found in the mount table, without
//! touching them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context as _;
use larder_mount::MountPoint;
use rustix::mount::{UnmountFlags, unmount};

/// Detaches `target` when an EROFS or a FUSE file system is mounted there; tells whether it was.
///
/// # Errors
///
/// When the kernel refuses, and so does fusermount.
pub fn detach(target: &Path) -> anyhow::Result<bool> {
    let on_top = mounted()?.into_iter().rfind(|point| point.path == target);
    let Some(point) = on_top.filter(|point| point.kind == "erofs" || point.kind.starts_with("fuse")) else {
        return Ok(false);
    };
    tracing::debug!(target = %target.display(), kind = point.kind, "detach");
    match unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(true),
        Err(error) if fusermount(target) => {
            tracing::debug!(%error, "detached by fusermount");
            Ok(true)
        }
        Err(error) => Err(error).with_context(|| format!("{}: cannot be detached", target.display())),
    }
}

/// Those of `targets` on which nothing is mounted any more.
///
/// # Errors
///
/// When the mount table cannot be read.
pub fn vanished(targets: Vec<PathBuf>) -> anyhow::Result<Vec<PathBuf>> {
    let points: BTreeSet<PathBuf> = mounted()?.into_iter().map(|point| point.path).collect();
    Ok(targets.into_iter().filter(|target| !points.contains(target)).collect())
}

fn mounted() -> anyhow::Result<Vec<MountPoint>> {
    larder_mount::mount_points().context("/proc/self/mountinfo")
}

fn fusermount(target: &Path) -> bool {
    let mut command = Command::new("fusermount3");
    command
        .args(["-u", "-z", "-q", "--"])
        .arg(target)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_on_which_nothing_is_mounted_is_left_alone() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        assert!(!detach(temp.path()).expect("proc is mounted"));
    }
}
