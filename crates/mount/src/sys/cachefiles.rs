//! The ioctl of /dev/cachefiles' object descriptors, and a thread with a working directory of its own.
//!
//! Values: include/uapi/linux/cachefiles.h (v6.12).
#![expect(unsafe_code, reason = "neither std nor rustix wraps these")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::thread::{UnshareFlags, unshare_unsafe};

/// `CACHEFILES_IOC_READ_COMPLETE`: `_IOW(0x98, 1, int)`, but the argument is the number itself, not a pointer to it.
const READ_COMPLETE: libc::Ioctl = 0x4004_9801;

/// Ends the READ `message`, which was about the object behind `object`.
pub(crate) fn read_complete(object: BorrowedFd<'_>, message: u32) -> io::Result<()> {
    let message = libc::c_ulong::from(message);
    // SAFETY: the argument is a number; no memory of ours is touched.
    let result = unsafe { libc::ioctl(object.as_raw_fd(), READ_COMPLETE, message) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Gives the calling thread a working directory of its own. Only for threads that end soon.
pub(crate) fn own_working_directory() -> io::Result<()> {
    // SAFETY: what is no longer shared is root, working directory and umask; no memory and no descriptor is.
    unsafe { unshare_unsafe(UnshareFlags::FS) }?;
    Ok(())
}
