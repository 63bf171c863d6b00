//! The kernel's EROFS: whether it is there, may be mounted, and knows extra devices.

use std::fs;

use rustix::io::Errno;
use rustix::mount::{FsOpenFlags, fsopen};

use super::{BE_ROOT, Unavailable, unavailable};

/// Asks for an EROFS with devices; `newer` says which kernel has it.
pub(super) fn probe_erofs(newer: &str) -> Result<(), Unavailable> {
    match fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC) {
        Ok(_) => {}
        Err(Errno::NODEV) => {
            return Err(unavailable(
                "the kernel has no EROFS",
                "load it (modprobe erofs), or use another kernel",
            ));
        }
        Err(Errno::PERM) => return Err(unavailable("mounting EROFS needs CAP_SYS_ADMIN", BE_ROOT)),
        Err(error) => {
            return Err(unavailable(format!("EROFS cannot be used: {error}"), "see the kernel's log"));
        }
    }
    let devices = fs::read_to_string("/sys/fs/erofs/features/device_table").unwrap_or_default();
    if devices.trim() == "supported" {
        return Ok(());
    }
    Err(unavailable("the kernel's EROFS knows no extra devices", newer))
}
