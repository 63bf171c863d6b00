//! A child that makes a system call in place of this process, because the call may wait for this process, or for ever.
#![expect(unsafe_code, reason = "forks, and closes descriptors by number")]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
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
    let create = || fchdir(dir).and_then(|()| fsconfig_create(context));
    status(fork([context.as_raw_fd(), dir.as_raw_fd()], create)?)
}

/// Has a child of this process look up the directory `parent` and `name` in it, and end. It follows no links, and does not
/// touch what is mounted on `name`.
///
/// The child waits for whoever answers; nobody waits for the child.
///
/// # Errors
///
/// Why there is no child.
pub(crate) fn look_up_in_child(parent: &CStr, name: &CStr) -> io::Result<Pid> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let look_up = || {
        let parent =
            openat2(CWD, parent, flags | OFlags::DIRECTORY, Mode::empty(), ResolveFlags::NO_SYMLINKS)?;
        let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        openat2(&parent, name, flags, Mode::empty(), resolve).map(drop)
    };
    fork([], look_up)
}

/// The same for `path` as a whole, with links followed. What is mounted there is found, and not asked anything.
///
/// # Errors
///
/// Why there is no child.
pub(crate) fn follow_in_child(path: &CStr) -> io::Result<Pid> {
    fork([], || {
        openat2(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::empty()).map(drop)
    })
}

/// Has a child make the system calls of `call`, with the descriptors `kept` alone; it tells an error by its exit status.
fn fork<const KEPT: usize>(kept: [RawFd; KEPT], call: impl FnOnce() -> Result<(), Errno>) -> io::Result<Pid> {
    // SAFETY: the child has a copy of the one thread that calls this, and makes system calls only: no allocation, no
    // lock, nothing that another thread may have held when it was forked. It never returns from `child`.
    match unsafe { libc::fork() } {
        0 => child(kept, call),
        pid @ 1.. => Pid::from_raw(pid).ok_or_else(|| io::ErrorKind::InvalidData.into()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn child<const KEPT: usize>(kept: [RawFd; KEPT], call: impl FnOnce() -> Result<(), Errno>) -> ! {
    close_all_but(kept);
    let code = call().map_or_else(|error| error.raw_os_error().min(OTHER_ERROR), |()| 0);
    // SAFETY: ends the process without running anything of the parent's.
    unsafe { libc::_exit(code) }
}

/// Closes every other descriptor: a stray copy of a fanotify group or of /dev/fuse would keep readers waiting when
/// everybody who could answer is gone.
fn close_all_but<const KEPT: usize>(mut kept: [RawFd; KEPT]) {
    kept.sort_unstable();
    let mut first = 0;
    for last in kept.into_iter().map(|kept| kept - 1).chain([RawFd::MAX]) {
        if first <= last {
            // SAFETY: closes descriptors of the child alone, which uses none of them.
            unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        }
        first = last.saturating_add(2);
    }
}

fn status(pid: Pid) -> io::Result<()> {
    let ended = rustix::io::retry_on_intr(|| waitpid(Some(pid), WaitOptions::empty()))?;
    match ended.and_then(|(_, status): (Pid, WaitStatus)| status.exit_status()) {
        Some(0) => Ok(()),
        Some(OTHER_ERROR) | None => Err(io::Error::other("the child that mounts was ended")),
        Some(errno) => Err(io::Error::from_raw_os_error(errno)),
    }
}
