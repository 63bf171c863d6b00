//! Symbolic links and special files, which have no descriptor to work on.

use std::fmt::Display;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use larder_erofs::{FileType, Inode};
use rustix::fs::{AtFlags, FileType as HostType, Gid, Mode, OFlags, Uid, XattrFlags};
use rustix::io::Errno;

use super::attributes::{owner_differs, remove_acls, set_xattrs, times};
use super::dir::Dir;

/// Makes a symbolic link, device, FIFO or socket called `name`, with its attributes.
pub(super) fn make(dir: &Dir<'_>, name: &[u8], inode: &Inode) {
    let made = match inode.kind {
        FileType::Symlink => symlink(dir, name, inode),
        kind => special(dir, name, inode, kind).map_err(|errno| format!("cannot be made: {errno}")),
    };
    match made {
        Ok(()) => {
            dir.shared().count();
            attributes(dir, name, inode);
        }
        Err(error) => dir.failed(name, error),
    }
}

fn symlink(dir: &Dir<'_>, name: &[u8], inode: &Inode) -> Result<(), String> {
    let target = dir.shared().image.image().read_link(inode).map_err(|error| error.to_string())?;
    dir.make_anew(name, |at| rustix::fs::symlinkat(target.as_slice(), at, name))
        .map_err(|errno| format!("cannot be made: {errno}"))
}

fn special(dir: &Dir<'_>, name: &[u8], inode: &Inode, kind: FileType) -> Result<(), Errno> {
    let host = match kind {
        FileType::CharDevice => HostType::CharacterDevice,
        FileType::BlockDevice => HostType::BlockDevice,
        FileType::Socket => HostType::Socket,
        _ => HostType::Fifo,
    };
    let device = rustix::fs::makedev(inode.rdev.major(), inode.rdev.minor());
    // With a umask of 0 this is the mode; without, the umask is to apply.
    let mode = Mode::from_raw_mode(u32::from(inode.mode) & 0o777);
    dir.make_anew(name, |at| rustix::fs::mknodat(at, name, host, mode, device))
}

/// Sets the mode of what is called `name`, and never that of something that a link there leads to.
fn set_mode(dir: &Dir<'_>, name: &[u8], inode: &Inode) -> Result<(), Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(dir, name, flags, Mode::empty())?;
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    rustix::fs::chmod(path, Mode::from_raw_mode(u32::from(inode.mode) & 0o777))
}

fn attributes(dir: &Dir<'_>, name: &[u8], inode: &Inode) {
    let shared = dir.shared();
    let failed = |error: &dyn Display| dir.failed(name, error);
    let plain = dir.is_plain();
    if owner_differs(shared, inode, plain) {
        let (uid, gid) = (Uid::from_raw(inode.uid), Gid::from_raw(inode.gid));
        if let Err(errno) = rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW) {
            failed(&format_args!("owner: {errno}"));
        }
    }
    // There is no call that takes a directory and a name; the last name is not followed here.
    let path = PathBuf::from(format!("/proc/self/fd/{}", dir.as_fd().as_raw_fd()));
    let path = path.join(std::ffi::OsStr::from_bytes(name));
    if shared.plan.permissions && !plain && inode.kind != FileType::Symlink {
        let removed = remove_acls(|name| rustix::fs::lremovexattr(&path, name));
        if let Err(errno) = removed.and_then(|()| set_mode(dir, name, inode)) {
            failed(&format_args!("mode: {errno}"));
        }
    }
    if shared.plan.xattrs {
        set_xattrs(shared, inode, &failed, &mut |xattr| {
            rustix::fs::lsetxattr(&path, xattr.name.as_slice(), &xattr.value, XattrFlags::empty())
        });
    }
    if let Err(errno) = rustix::fs::utimensat(dir, name, &times(inode), AtFlags::SYMLINK_NOFOLLOW) {
        failed(&format_args!("times: {errno}"));
    }
}
