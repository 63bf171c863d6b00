//! The front end `fuse`: a /dev/fuse that may be opened, and a way to mount.

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::{Unavailable, unavailable};

pub(super) fn probe() -> Result<(), Unavailable> {
    match rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        Ok(_) => {}
        Err(Errno::NOENT | Errno::NODEV | Errno::NXIO) => {
            return Err(unavailable(
                "there is no /dev/fuse",
                "load the module (modprobe fuse), or give the device to the container",
            ));
        }
        Err(Errno::ACCESS | Errno::PERM) => {
            return Err(unavailable("/dev/fuse may not be opened", "run as root, or chmod 666 /dev/fuse"));
        }
        Err(error) => {
            return Err(unavailable(format!("/dev/fuse cannot be opened: {error}"), "see the kernel's log"));
        }
    }
    if rustix::process::geteuid().is_root() || crate::fuse::fusermount().is_some() {
        return Ok(());
    }
    Err(unavailable(
        "neither fusermount3 nor fusermount is installed",
        "install fuse3, or run the daemon as root",
    ))
}
