//! Asking whether anybody else has a file open: F_SETLEASE, which rustix does not wrap.
#![expect(unsafe_code, reason = "fcntl with this command has no safe form")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

/// Says which signal tells of a lease: include/uapi/asm-generic/fcntl.h, which libc leaves out.
const F_SETSIG: libc::c_int = 10;

/// Whether the file at `fd` is open anywhere else: through another open file description, or by a file system that is
/// mounted from it. Copies of `fd` do not count.
///
/// A write lease is granted only to whoever has the file alone (fcntl(2)); it is given back at once. A file system
/// without leases counts as one that nobody else has files open on.
pub(crate) fn is_open_elsewhere(fd: BorrowedFd<'_>) -> io::Result<bool> {
    // Whoever opens the file while the lease is held causes a signal, and SIGIO ends a process that does not expect it.
    set(fd, F_SETSIG, libc::SIGURG)?;
    match set(fd, libc::F_SETLEASE, libc::F_WRLCK) {
        Ok(()) => set(fd, libc::F_SETLEASE, libc::F_UNLCK).map(|()| false),
        Err(error) if error.raw_os_error() == Some(Errno::AGAIN.raw_os_error()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => Ok(false),
        Err(error) => Err(error),
    }
}

fn set(fd: BorrowedFd<'_>, command: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: both commands take an int and no memory; the descriptor is open for the length of the call.
    match unsafe { libc::fcntl(fd.as_raw_fd(), command, value) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_file_is_open_elsewhere_as_long_as_another_description_of_it_is() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        let file = std::fs::File::create(&path).expect("space");
        let copy = file.try_clone().expect("descriptors are left");
        assert!(!is_open_elsewhere(file.as_fd()).expect("ours"), "a copy is the same");
        for options in [std::fs::File::options().read(true), std::fs::File::options().write(true)] {
            let other = options.open(&path).expect("there");
            assert!(is_open_elsewhere(file.as_fd()).expect("ours"));
            drop(other);
            assert!(!is_open_elsewhere(file.as_fd()).expect("ours"));
        }
        drop(copy);
    }
}
