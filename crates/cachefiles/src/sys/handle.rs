//! Files by their handles: name_to_handle_at(2) and open_by_handle_at(2), which rustix does not wrap.
#![expect(
    unsafe_code,
    reason = "calls that read and write a structure of a length of its own have no safe form"
)]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::storage::FileHandle;

/// `struct file_handle` of include/linux/fs.h (v6.18), with room for the handles that are kept.
#[repr(C)]
struct Raw {
    bytes: libc::c_uint,
    kind: libc::c_int,
    handle: [u8; FileHandle::BYTES_MAX],
}

impl Raw {
    fn new(kind: libc::c_int, bytes: &[u8]) -> io::Result<Self> {
        let mut handle = [0; FileHandle::BYTES_MAX];
        handle.get_mut(..bytes.len()).ok_or(Errno::INVAL)?.copy_from_slice(bytes);
        let bytes = libc::c_uint::try_from(bytes.len()).map_err(|_| Errno::INVAL)?;
        Ok(Self { bytes, kind, handle })
    }
}

/// Which of the mounts something lies on, as long as that is mounted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct MountId(libc::c_int);

/// The handle of what has the name `path` in the folder `dir`, or of `dir` itself when the name is empty, and the mount it
/// lies on. A symbolic link at the end is not followed. `None` when the file system has no handles, or long ones.
///
/// # Errors
///
/// ENOENT when nothing has the name, and what else the system says.
pub(crate) fn handle_at(dir: BorrowedFd<'_>, path: &CStr) -> io::Result<Option<(FileHandle, MountId)>> {
    let mut raw = Raw::new(0, &[0; FileHandle::BYTES_MAX])?;
    let mut mount = 0;
    let flags = if path.is_empty() { libc::AT_EMPTY_PATH } else { 0 };
    // SAFETY: `raw` begins as a `file_handle` does and has behind it as many bytes as it says; the path ends with a NUL; all of
    // it, and the descriptor, is borrowed for the call, which keeps none of it.
    let result = unsafe {
        libc::name_to_handle_at(dir.as_raw_fd(), path.as_ptr(), (&raw mut raw).cast(), &raw mut mount, flags)
    };
    if result == 0 {
        let handle = raw.handle.get(..raw.bytes as usize).and_then(|bytes| FileHandle::new(raw.kind, bytes));
        return Ok(handle.map(|handle| (handle, MountId(mount))));
    }
    let error = io::Error::last_os_error();
    match Errno::from_io_error(&error) {
        Some(Errno::OVERFLOW | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(None),
        _ => Err(error),
    }
}

/// Opens the file with this handle on the file system that `mount` lies on.
///
/// # Errors
///
/// ESTALE when there is no such file any more; EPERM without CAP_DAC_READ_SEARCH; what open(2) says.
pub(crate) fn open_by_handle(
    mount: BorrowedFd<'_>,
    handle: &FileHandle,
    flags: OFlags,
) -> io::Result<OwnedFd> {
    let mut raw = Raw::new(libc::c_int::from(handle.kind()), handle.bytes())?;
    let flags = libc::c_int::try_from(flags.bits()).map_err(|_| Errno::INVAL)?;
    // SAFETY: `raw` begins as a `file_handle` does and has behind it as many bytes as it says; it is borrowed for the call.
    let fd = unsafe { libc::open_by_handle_at(mount.as_raw_fd(), (&raw mut raw).cast(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has made this descriptor for us, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;

    /// Whether files can be opened so here; if not, that is said.
    fn opens(dir: &File) -> bool {
        let handle = handle_at(dir.as_fd(), c"").expect("open").map(|(handle, _)| handle);
        let opened = handle.map(|handle| open_by_handle(dir.as_fd(), &handle, OFlags::RDONLY));
        let opens = opened.is_some_and(|opened| opened.is_ok());
        if !opens {
            eprintln!("skipped: files cannot be opened by their handles here; run as root, on ext4");
        }
        opens
    }

    #[test]
    fn a_file_is_opened_under_whatever_name_it_has_and_not_when_it_is_gone() {
        let temp = tempfile::tempdir().expect("a directory");
        let dir = File::open(temp.path()).expect("there");
        if !opens(&dir) {
            return;
        }
        let at = |name| temp.path().join(name);
        fs::write(at("a"), "a").expect("space");
        fs::write(at("b"), "b").expect("space");
        let handle = |name| handle_at(dir.as_fd(), name).expect("there").expect("as its folder has");
        let ((a, on), (b, _)) = (handle(c"a"), handle(c"b"));
        assert_ne!(a, b);
        assert_eq!(on, handle(c"").1, "one mount");
        fs::rename(at("a"), at("c")).expect("there");
        assert_eq!(handle(c"c").0, a);
        let opened =
            File::from(open_by_handle(dir.as_fd(), &a, OFlags::RDWR | OFlags::CLOEXEC).expect("there"));
        assert_eq!(opened.metadata().expect("open").ino(), fs::metadata(at("c")).expect("there").ino());
        fs::remove_file(at("c")).expect("there");
        drop(opened);
        let gone = open_by_handle(dir.as_fd(), &a, OFlags::RDONLY).expect_err("gone");
        assert_eq!(Errno::from_io_error(&gone), Some(Errno::STALE));
        let none = handle_at(dir.as_fd(), c"c").expect_err("gone");
        assert_eq!(none.kind(), io::ErrorKind::NotFound);
    }
}
