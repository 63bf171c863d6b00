//! A directory for what the demo writes: on a disk, with room, and of a file system that the front ends accept.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rustix::fs::{statfs, statvfs};

use crate::errors::{Kind, told};
use crate::output::size::Size;

/// `f_type` of the file systems that send pre-content events: ext4, XFS, Btrfs (statfs(2)).
const FITTING: &[u64] = &[0xEF53, 0x5846_5342, 0x9123_683E];

/// Makes a new directory under the first fitting one of `$TMPDIR`, `/var/tmp` and `/tmp`; under the first that can be
/// written when none fits.
///
/// # Errors
///
/// When none can be written, or `room_bytes` are not free there.
pub fn choose(room_bytes: u64) -> anyhow::Result<PathBuf> {
    let named = env::var_os("TMPDIR").map(PathBuf::from).filter(|path| path.is_absolute());
    let candidates: Vec<PathBuf> = named.into_iter().chain(["/var/tmp".into(), "/tmp".into()]).collect();
    let fitting =
        candidates.iter().filter(|path| fits(path)).chain(candidates.iter().filter(|path| !fits(path)));
    let make = |parent: &PathBuf| tempfile::Builder::new().prefix("larder-demo-").tempdir_in(parent).ok();
    let made = fitting.into_iter().find_map(make).with_context(|| {
        let list: Vec<_> = candidates.iter().map(|path| path.display().to_string()).collect();
        told(
            Kind::Failed,
            format!("{}: no directory can be made in any of them", list.join(", ")),
            "name another place with TMPDIR=DIR",
        )
    })?;
    check_room(made.path(), room_bytes)?;
    Ok(made.keep())
}

fn fits(path: &Path) -> bool {
    // The type's sign and width differ between architectures; the magic numbers are 32 bits.
    statfs(path)
        .is_ok_and(|found| FITTING.contains(&(u64::try_from(found.f_type).unwrap_or(0) & 0xFFFF_FFFF)))
}

fn check_room(path: &Path, room_bytes: u64) -> anyhow::Result<()> {
    let found = statvfs(path).with_context(|| format!("{}: cannot be asked for its room", path.display()))?;
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    if free >= room_bytes {
        return Ok(());
    }
    Err(told(
        Kind::Failed,
        format!("{}: {} are free, {} are needed", path.display(), Size(free), Size(room_bytes)),
        "make the image smaller with --max-size, or name another place with TMPDIR=DIR",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_made_where_there_is_room_and_refused_where_there_is_none() {
        let made = choose(1).expect("one byte is free");
        assert!(made.is_dir());
        std::fs::remove_dir(&made).expect("it is empty");
        let error = choose(u64::MAX).expect_err("no disk is so large");
        assert!(format!("{error:#}").contains("are needed"), "{error:#}");
    }
}
