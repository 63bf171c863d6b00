//! Owner, mode, extended attributes and times, in the order in which none undoes another.

use std::fmt::Display;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;

use larder_erofs::{Image, Inode, Xattr};
use rustix::fs::{Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::Shared;

/// What a descriptor is of, and how much of that it has from the beginning.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Made {
    pub kind: Kind,
    /// Owner and mode are those it was made with: it is new, and nothing was passed on to it.
    pub plain: bool,
}

/// What was made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    /// A directory, made with a mode of its own.
    Directory,
    /// A regular file that was made with its permissions.
    File,
}

/// Gives an open file or directory what its inode says. Chown takes capabilities and set-id bits away, so it comes
/// first; the times come last.
pub(super) fn restore(
    shared: &Shared<'_>,
    fd: BorrowedFd<'_>,
    inode: &Inode,
    made: Made,
    failed: &dyn Fn(&dyn Display),
) {
    if owner_differs(shared, inode, made.plain)
        && let Err(errno) =
            rustix::fs::fchown(fd, Some(Uid::from_raw(inode.uid)), Some(Gid::from_raw(inode.gid)))
    {
        failed(&format_args!("owner: {errno}"));
    }
    if shared.plan.permissions
        && !made.plain
        && let Err(errno) = remove_acls(|name| rustix::fs::fremovexattr(fd, name))
    {
        failed(&format_args!("ACL of the directory it was made in: {errno}"));
    }
    if shared.plan.xattrs {
        set_xattrs(shared, inode, failed, &mut |xattr| {
            rustix::fs::fsetxattr(fd, xattr.name.as_slice(), &xattr.value, XattrFlags::empty())
        });
    }
    let made_right = made.kind == Kind::File && is_made_right(shared, inode, made.plain);
    if shared.plan.permissions
        && !made_right
        && let Err(errno) = rustix::fs::fchmod(fd, Mode::from_raw_mode(inode.mode.into()))
    {
        failed(&format_args!("mode: {errno}"));
    }
    if let Err(errno) = rustix::fs::futimens(fd, &times(inode)) {
        failed(&format_args!("times: {errno}"));
    }
}

/// The permissions that a new regular file is made with. Until it has its owner nobody else may open it.
pub(super) fn mode_at_birth(shared: &Shared<'_>, inode: &Inode, plain: bool) -> Mode {
    match shared.plan.permissions {
        true if !is_made_right(shared, inode, plain) => Mode::from_raw_mode(0o600),
        _ => Mode::from_raw_mode(u32::from(inode.mode) & 0o777),
    }
}

/// Whether a new regular file has the right mode from the beginning: the umask is 0 then, see `extract()`.
fn is_made_right(shared: &Shared<'_>, inode: &Inode, plain: bool) -> bool {
    plain && !owner_differs(shared, inode, plain) && inode.mode & !0o777 == 0 && inode.xattr_bytes == 0
}

/// Whether the owner must be set.
pub(super) fn owner_differs(shared: &Shared<'_>, inode: &Inode, plain: bool) -> bool {
    let same = (inode.uid, inode.gid) == (shared.uid, shared.gid);
    shared.plan.owners && !(same && plain)
}

/// ACLs: of an object itself, and of what is made in a directory.
const ACLS: [&str; 2] = ["system.posix_acl_access", "system.posix_acl_default"];

/// Whether nothing of this directory passes to what is made in it: no group, no ACL.
pub(super) fn is_plain(dir: impl AsFd) -> bool {
    let no_set_gid = rustix::fs::fstat(&dir).is_ok_and(|stat| stat.st_mode & 0o2000 == 0);
    let acl = rustix::fs::fgetxattr(&dir, ACLS[1], &mut [0_u8; 0][..]);
    no_set_gid && matches!(acl, Err(Errno::NODATA | Errno::OPNOTSUPP))
}

/// Takes from a directory that is to get its own attributes what it would pass on until then, and no more: whoever uses it
/// goes on. Returns whether it passes nothing on any more.
pub(super) fn make_plain(dir: impl AsFd) -> bool {
    if is_plain(&dir) {
        return true;
    }
    // What cannot be taken away is looked at next.
    let _ = rustix::fs::fremovexattr(&dir, ACLS[1]);
    if let Ok(stat) = rustix::fs::fstat(&dir) {
        let _ = rustix::fs::fchmod(&dir, Mode::from_raw_mode(stat.st_mode & 0o5777));
    }
    is_plain(dir)
}

/// Removes ACLs that an object has from the directory it was made in.
pub(super) fn remove_acls(remove: impl Fn(&str) -> Result<(), Errno>) -> Result<(), Errno> {
    ACLS.into_iter().try_for_each(|name| match remove(name) {
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
        removed => removed,
    })
}

/// Sets extended attributes by `set`; what this user may not have is counted, not reported.
pub(super) fn set_xattrs(
    shared: &Shared<'_>,
    inode: &Inode,
    failed: &dyn Fn(&dyn Display),
    set: &mut dyn FnMut(&Xattr) -> Result<(), Errno>,
) {
    if inode.xattr_bytes == 0 {
        return;
    }
    let image: &Image = shared.image.image();
    let xattrs = match image.xattrs(inode) {
        Ok(xattrs) => xattrs,
        Err(error) => return failed(&error),
    };
    for xattr in &xattrs {
        match set(xattr) {
            Ok(()) => {}
            // Not of this user, or not of this file system.
            Err(Errno::PERM | Errno::ACCESS) if shared.uid != 0 => skip(shared),
            Err(Errno::OPNOTSUPP) => skip(shared),
            Err(errno) => failed(&format_args!("attribute {}: {errno}", xattr.name.escape_ascii())),
        }
    }
}

fn skip(shared: &Shared<'_>) {
    shared.xattrs_skipped.fetch_add(1, Ordering::Relaxed);
}

/// The times of an inode; EROFS has one only.
pub(super) fn times(inode: &Inode) -> Timestamps {
    let nanoseconds = i64::from(inode.mtime.nanoseconds.min(999_999_999));
    let time = Timespec { tv_sec: inode.mtime.seconds, tv_nsec: nanoseconds };
    Timestamps { last_access: time, last_modification: time }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use super::*;

    #[test]
    fn a_directory_that_is_made_plain_stays_open_to_those_who_use_it() {
        let temp = tempfile::tempdir().expect("can make");
        fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o3775)).expect("ours");
        let dir = File::open(temp.path()).expect("there");
        assert!(!is_plain(&dir), "the bit is set");
        assert!(make_plain(&dir));
        assert_eq!(fs::metadata(temp.path()).expect("there").mode() & 0o7777, 0o1775);
        let (owner, user) = (u32::MAX, 1234_u32);
        // The owner, a user, the group, the mask, others: all may read.
        let entries = [(1_u16, 7_u16, owner), (2, 7, user), (4, 5, owner), (16, 7, owner), (32, 5, owner)];
        let entry = |(tag, bits, id): (u16, u16, u32)| {
            [&tag.to_le_bytes()[..], &bits.to_le_bytes(), &id.to_le_bytes()].concat()
        };
        let acl = [2_u32.to_le_bytes().to_vec(), entries.into_iter().flat_map(entry).collect()].concat();
        for name in ACLS {
            if let Err(errno) = rustix::fs::fsetxattr(&dir, name, &acl, XattrFlags::empty()) {
                eprintln!("SKIPPED: no ACLs here: {errno}");
                return;
            }
        }
        assert!(!is_plain(&dir), "it has a default ACL");
        assert!(make_plain(&dir));
        let mut kept = vec![0; acl.len()];
        let len = rustix::fs::fgetxattr(&dir, ACLS[0], &mut kept[..]).expect("its own ACL stays");
        assert_eq!(kept[..len], acl);
    }
}
