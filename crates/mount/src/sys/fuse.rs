//! The two ioctls of /dev/fuse that register local files which the kernel reads in place of nodes.
//!
//! Values: include/uapi/linux/fuse.h (v6.18), `FUSE_DEV_IOC_BACKING_OPEN` and `_CLOSE`; both write to the kernel only.
#![expect(unsafe_code, reason = "neither std nor rustix wraps these ioctls")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `_IOW(229, 1, struct fuse_backing_map)`.
const BACKING_OPEN: libc::Ioctl = 0x4010_e501;
/// `_IOW(229, 2, uint32_t)`.
const BACKING_CLOSE: libc::Ioctl = 0x4004_e502;

/// `struct fuse_backing_map`.
#[repr(C)]
struct BackingMap {
    fd: i32,
    flags: u32,
    padding: u64,
}

/// Registers `file` with the connection `device`; returns its number there.
pub(crate) fn backing_open(device: BorrowedFd<'_>, file: BorrowedFd<'_>) -> io::Result<u32> {
    let map = BackingMap { fd: file.as_raw_fd(), flags: 0, padding: 0 };
    // SAFETY: the kernel reads one `fuse_backing_map`, which lives until the call returns.
    let id = unsafe { libc::ioctl(device.as_raw_fd(), BACKING_OPEN, &raw const map) };
    u32::try_from(id).ok().filter(|id| *id > 0).ok_or_else(io::Error::last_os_error)
}

/// Takes the registration `id` back.
pub(crate) fn backing_close(device: BorrowedFd<'_>, id: u32) -> io::Result<()> {
    // SAFETY: the kernel reads one `u32`, which lives until the call returns.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), BACKING_CLOSE, &raw const id) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
