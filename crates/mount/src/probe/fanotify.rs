//! The front end `fanotify`: pre-content events on the cache's file system, and an EROFS with devices.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use super::erofs::probe_erofs;
use super::{BE_ROOT, TOO_OLD, Unavailable, unavailable};
use crate::sys::fanotify;

pub(super) fn probe(cache_dir: &Path) -> Result<(), Unavailable> {
    let group = fanotify::init().map_err(|error| match error.raw_os_error() {
        Some(libc::EPERM) => unavailable("fanotify needs CAP_SYS_ADMIN", BE_ROOT),
        Some(libc::ENOSYS) => unavailable("the kernel has no fanotify", TOO_OLD),
        Some(libc::EINVAL) => unavailable("the kernel has no pre-content events", TOO_OLD),
        Some(libc::EMFILE) => {
            unavailable("too many fanotify groups", "raise the sysctl fs.fanotify.max_user_groups")
        }
        _ => unavailable(format!("fanotify cannot be used: {error}"), "see the kernel's log"),
    })?;
    let scratch = scratch_file(cache_dir).map_err(|error| {
        let reason = format!("no file can be made in {}: {error}", cache_dir.display());
        unavailable(reason, "choose a cache directory that can be written")
    })?;
    fanotify::mark(group.as_fd(), scratch.as_fd()).map_err(|error| match error.raw_os_error() {
        Some(libc::EINVAL) => unavailable("the kernel has no pre-content events", TOO_OLD),
        Some(libc::EOPNOTSUPP) => unavailable(
            format!("the file system of {} has no pre-content events", cache_dir.display()),
            "put the cache on ext4, xfs or btrfs",
        ),
        _ => unavailable(format!("a file cannot be marked: {error}"), "see the kernel's log"),
    })?;
    probe_erofs(TOO_OLD)
}

/// A file without a name, which is gone when it is closed; with one for a moment where that is not possible.
pub(crate) fn scratch_file(dir: &Path) -> io::Result<fs::File> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    if let Ok(file) = rustix::fs::open(dir, flags | OFlags::TMPFILE, Mode::RUSR | Mode::WUSR) {
        return Ok(file.into());
    }
    let path = dir.join(format!(".larder-probe-{}", std::process::id()));
    let file = rustix::fs::open(&path, flags | OFlags::CREATE | OFlags::EXCL, Mode::RUSR | Mode::WUSR)?;
    fs::remove_file(&path)?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_that_cannot_be_marked_is_told_why() {
        if fanotify::init().is_err() || !Path::new("/dev/shm").is_dir() {
            println!("skipped: needs root and a tmpfs on /dev/shm");
            return;
        }
        let Err(why) = probe(Path::new("/dev/shm")) else { panic!("tmpfs cannot be marked") };
        assert!(why.reason.contains("/dev/shm") || why.reason.contains("pre-content"), "{why:?}");
    }

    #[test]
    fn a_cache_that_is_not_there_is_told() {
        let Err(why) = probe(Path::new("/no/such/dir")) else { panic!("there is no such directory") };
        assert!(!why.reason.is_empty() && !why.hint.is_empty());
    }
}
