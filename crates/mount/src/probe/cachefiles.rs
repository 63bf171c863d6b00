//! The front end `cachefiles`: a device that can be bound on-demand, and an EROFS that knows `fsid` and `domain_id`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{FsOpenFlags, fsconfig_set_string, fsopen};

use super::{BE_ROOT, Unavailable, unavailable};
use crate::cachefiles::Device;
use crate::erofs::words_of;

const BUILD_ONE: &str =
    "use a kernel from 6.1 to 7.1 with CONFIG_CACHEFILES_ONDEMAND and CONFIG_EROFS_FS_ONDEMAND";

pub(super) fn probe(cache_dir: &Path) -> Result<(), Unavailable> {
    let device = Device::open().map_err(|error| match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => {
            unavailable("the kernel has no /dev/cachefiles", BUILD_ONE)
        }
        Some(libc::EPERM | libc::EACCES) => unavailable("/dev/cachefiles needs CAP_SYS_ADMIN", BE_ROOT),
        Some(libc::EBUSY) => unavailable(
            "a daemon has /dev/cachefiles open, and only one can",
            "if that is Larder's own daemon, all is well; else end the other one (cachefilesd?)",
        ),
        _ => unavailable(format!("/dev/cachefiles cannot be opened: {error}"), "see the kernel's log"),
    })?;
    probe_erofs()?;
    let scratch = Scratch::new(cache_dir).map_err(|error| {
        let reason = format!("no directory can be made in {}: {error}", cache_dir.display());
        unavailable(reason, "choose a cache directory that can be written")
    })?;
    let bound = device.bind(&scratch.0);
    // Closed first: the kernel lets go of the directory then.
    drop(device);
    bound.map_err(|error| match error.raw_os_error() {
        Some(libc::EINVAL) => unavailable("the kernel's cachefiles has no on-demand mode", BUILD_ONE),
        Some(libc::EOPNOTSUPP) => unavailable(
            format!("the kernel's cachefiles cannot use the file system of {}", cache_dir.display()),
            "put the cache on ext4, xfs or btrfs",
        ),
        _ => unavailable(
            format!("cachefiles cannot be bound to {}: {error}", cache_dir.display()),
            "see the kernel's log",
        ),
    })
}

/// Whether a mount by name would go to fscache. Where it is not built in, some versions take the option and only say so.
fn probe_erofs() -> Result<(), Unavailable> {
    let context = fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC).map_err(|error| match error {
        Errno::NODEV => unavailable("the kernel has no EROFS", "load it (modprobe erofs)"),
        Errno::PERM => unavailable("mounting EROFS needs CAP_SYS_ADMIN", BE_ROOT),
        error => unavailable(format!("EROFS cannot be used: {error}"), "see the kernel's log"),
    })?;
    for option in ["fsid", "domain_id"] {
        let taken = fsconfig_set_string(&context, option, "larder-probe").is_ok();
        if !taken || words_of(&context).iter().any(|words| words.contains("not supported")) {
            return Err(unavailable(format!("the kernel's EROFS knows no {option}"), BUILD_ONE));
        }
    }
    Ok(())
}

/// A directory that is gone when it is dropped, with what the kernel has made in it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(cache_dir: &Path) -> io::Result<Self> {
        let path = cache_dir.join(format!(".larder-probe-{}", std::process::id()));
        fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "the probe's directory stays");
        }
    }
}
