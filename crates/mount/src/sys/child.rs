//! A child that makes one system call in place of this process, because the call may wait for this process.
#![expect(unsafe_code, reason = "forks, and closes descriptors by number")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use rustix::mount::fsconfig_create;
use rustix::process::{Pid, WaitOptions, WaitStatus, fchdir, waitpid};

/// What the child's exit status says when its error number does not fit in.
const OTHER_ERROR: i32 = 255;

/// Has a child of this process create the superblock that `context` describes; relative paths in it start at `dir`.
///
/// The child waits for the files to be read, and can be left waiting: a signal that kills this process ends it at once,
/// and the child goes on until somebody answers, then ends, and what it created ends with it.
///
/// # Errors
///
/// Why the kernel refuses, or why there is no child.
pub(crate) fn create_in_child(context: BorrowedFd<'_>, dir: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the child has a copy of the one thread that calls this, and makes system calls only: no allocation, no
    // lock, nothing that another thread may have held when it was forked. It never returns from `child`.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => child(context, dir),
        pid => status(pid),
    }
}

fn child(context: BorrowedFd<'_>, dir: BorrowedFd<'_>) -> ! {
    close_all_but(context.as_raw_fd(), dir.as_raw_fd());
    let created = fchdir(dir).and_then(|()| fsconfig_create(context));
    let code = created.map_or_else(|error| error.raw_os_error().min(OTHER_ERROR), |()| 0);
    // SAFETY: ends the process without running anything of the parent's.
    unsafe { libc::_exit(code) }
}

/// Closes every other descriptor: a stray copy of a fanotify group or of /dev/fuse would keep readers waiting when
/// everybody who could answer is gone.
fn close_all_but(one: RawFd, other: RawFd) {
    let (low, high) = (one.min(other), one.max(other));
    for (first, last) in [(0, low - 1), (low + 1, high - 1), (high + 1, RawFd::MAX)] {
        if first <= last {
            // SAFETY: closes descriptors of the child alone, which uses none of them.
            unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        }
    }
}

fn status(pid: libc::pid_t) -> io::Result<()> {
    let ended = rustix::io::retry_on_intr(|| waitpid(Pid::from_raw(pid), WaitOptions::empty()))?;
    match ended.and_then(|(_, status): (Pid, WaitStatus)| status.exit_status()) {
        Some(0) => Ok(()),
        Some(OTHER_ERROR) | None => Err(io::Error::other("the child that mounts was ended")),
        Some(errno) => Err(io::Error::from_raw_os_error(errno)),
    }
}
