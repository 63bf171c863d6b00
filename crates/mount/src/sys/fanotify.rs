//! fanotify's two system calls and the constants that libc lacks.
//!
//! Values: include/uapi/linux/fanotify.h (v7.3).
#![expect(unsafe_code, reason = "neither std nor rustix wraps fanotify")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use libc::c_uint;

/// A failed event descriptor is reported as a negative errno in the event (6.13+).
const FAN_REPORT_FD_ERROR: c_uint = 0x2000;
/// The pre-content event: asked before the bytes of a range are read.
pub(crate) const FAN_PRE_ACCESS: u64 = 0x0010_0000;
/// The queue was full: an access has been allowed unasked.
pub(crate) const FAN_Q_OVERFLOW: u64 = 0x4000;
/// Response: go on and read the file as it is now.
pub(crate) const FAN_ALLOW: u32 = 1;
/// Response: fail; bits 24..32 carry the errno.
pub(crate) const FAN_DENY: u32 = 2;

/// Creates a pre-content group that no queue limit and no mark limit can make fail open.
///
/// Event descriptors are opened read-only on purpose: they only say which file is meant, so that a fill bug cannot
/// hide behind them.
pub(crate) fn init() -> io::Result<OwnedFd> {
    let flags = libc::FAN_CLASS_PRE_CONTENT
        | libc::FAN_CLOEXEC
        | libc::FAN_NONBLOCK
        | libc::FAN_UNLIMITED_QUEUE
        | libc::FAN_UNLIMITED_MARKS
        | FAN_REPORT_FD_ERROR;
    let event_flags = libc::O_RDONLY | libc::O_LARGEFILE | libc::O_CLOEXEC;
    // SAFETY: takes two integers and touches no memory of ours.
    let fd = unsafe { libc::fanotify_init(flags, event_flags.cast_unsigned()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just returned this descriptor; nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes every later read of `file`'s inode through an open after this call ask the group first.
pub(crate) fn mark(group: BorrowedFd<'_>, file: BorrowedFd<'_>) -> io::Result<()> {
    fanotify_mark(group, libc::FAN_MARK_ADD, file)
}

/// Lets every read of `file`'s inode go on unasked, at once and for open files, too.
pub(crate) fn unmark(group: BorrowedFd<'_>, file: BorrowedFd<'_>) -> io::Result<()> {
    fanotify_mark(group, libc::FAN_MARK_REMOVE, file)
}

fn fanotify_mark(group: BorrowedFd<'_>, command: c_uint, file: BorrowedFd<'_>) -> io::Result<()> {
    let (group, file) = (group.as_raw_fd(), file.as_raw_fd());
    // SAFETY: a null path means `file` itself (man fanotify_mark); both descriptors are borrowed for the call.
    let result = unsafe { libc::fanotify_mark(group, command, FAN_PRE_ACCESS, file, std::ptr::null()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Takes ownership of a descriptor that the kernel reported in an event.
///
/// Only for numbers read from a group by this process, each once: the kernel installs a new descriptor for every
/// event that it copies out.
pub(crate) fn adopt_event_fd(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: per the contract above the number is a descriptor that the kernel installed for us alone.
    (number >= 0).then(|| unsafe { OwnedFd::from_raw_fd(number) })
}
