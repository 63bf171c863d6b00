//! The mount point: whether it is free, what is mounted there, and taking it away.
//!
//! What is mounted is looked up in the kernel's table, never by touching the mount: a FUSE mount could wait for
//! ourselves.

use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use crate::Error;

/// A file system that Larder mounts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum What {
    Erofs,
    Fuse,
    /// Something that Larder does not mount.
    Other,
}

/// Whether `target` is a directory on which nothing is mounted yet.
pub(crate) fn check_free(target: &Path) -> Result<(), Error> {
    let refuse = |source: std::io::Error, detail: &str| {
        Err(Error::Mount { target: target.to_owned(), detail: detail.to_owned(), source })
    };
    if what(target).is_some() {
        return refuse(Errno::BUSY.into(), "something is mounted there already");
    }
    match fs::metadata(target) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => refuse(Errno::NOTDIR.into(), "the mount point is no directory"),
        Err(error) => refuse(error, "the mount point cannot be used"),
    }
}

/// What is mounted on `target`, an absolute path without links; `None` when it is no mount point.
pub(crate) fn what(target: &Path) -> Option<What> {
    let table = fs::read("/proc/self/mountinfo").ok()?;
    find(&table, target)
}

/// The device number of what is mounted on `target`, as `MAJOR:MINOR`.
pub(crate) fn device(target: &Path) -> Option<String> {
    find_device(&fs::read("/proc/self/mountinfo").ok()?, target)
}

fn find_device(table: &[u8], target: &Path) -> Option<String> {
    let of_target = |line: &&[u8]| parse(line).is_some_and(|(path, _)| path == target);
    let line = table.split(|&byte| byte == b'\n').rfind(of_target)?;
    let device = line.split(|&byte| byte == b' ').nth(2)?;
    String::from_utf8(device.to_vec()).ok().filter(|device| !device.contains('/'))
}

/// The last line of `table` for `target` counts: it is on top.
fn find(table: &[u8], target: &Path) -> Option<What> {
    let lines = table.split(|&byte| byte == b'\n');
    lines.filter_map(parse).rfind(|(path, _)| path == target).map(|(_, what)| what)
}

/// One line of mountinfo: `36 35 98:0 / /mnt rw,noatime shared:1 - ext4 /dev/root rw`.
fn parse(line: &[u8]) -> Option<(PathBuf, What)> {
    let mut fields = line.split(|&byte| byte == b' ');
    let path = fields.nth(4)?;
    let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
    let what = match kind {
        b"erofs" => What::Erofs,
        b"fuse" => What::Fuse,
        kind if kind.starts_with(b"fuse.") => What::Fuse,
        _ => What::Other,
    };
    Some((PathBuf::from(std::ffi::OsString::from_vec(unescape(path))), what))
}

/// Undoes the kernel's `\040` for a space, and the like.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = octal.filter(|_| byte == b'\\').and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match escaped {
            Some(escaped) => {
                out.push(escaped);
                rest = after.get(3..).unwrap_or(&[]);
            }
            None => {
                out.push(byte);
                rest = after;
            }
        }
    }
    out
}

/// Takes the mount on `target` away; `lazy` detaches it when it is in use.
pub(crate) fn unmount(target: &Path, lazy: bool) -> Result<(), Error> {
    let flags = if lazy { UnmountFlags::DETACH } else { UnmountFlags::empty() };
    match rustix::mount::unmount(target.as_os_str().as_bytes(), flags | UnmountFlags::NOFOLLOW) {
        // EINVAL: it is no mount point. Somebody was faster, and what was wanted is so.
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        Err(Errno::BUSY) => Err(Error::Busy { target: target.to_owned() }),
        Err(errno) => Err(Error::Unmount { target: target.to_owned(), source: errno.into() }),
    }
}

/// Detaches `target` when a file system of the kind `expected` is mounted there; tells whether it was.
pub(crate) fn detach(target: &Path, expected: What) -> Result<bool, Error> {
    if what(target) != Some(expected) {
        return Ok(false);
    }
    unmount(target, true).map(|()| true)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
        40 22 0:35 / /mnt/a\\040b ro,nosuid - erofs /cache/meta ro\n\
        41 22 0:36 / /mnt/f rw master:1 propagate_from:2 - fuse.larder image rw\n\
        42 22 0:37 / /mnt/over rw - erofs x ro\n\
        43 42 0:38 / /mnt/over rw - tmpfs none rw\n\
        garbage\n";

    #[test]
    fn the_top_mount_of_a_path_is_found_by_its_own_name() {
        for (path, expected) in [
            ("/", Some(What::Other)),
            ("/mnt/a b", Some(What::Erofs)),
            ("/mnt/f", Some(What::Fuse)),
            ("/mnt/over", Some(What::Other)),
            ("/mnt", None),
        ] {
            assert_eq!(find(TABLE, Path::new(path)), expected, "{path}");
        }
    }

    #[test]
    fn the_device_of_a_mount_is_that_of_the_top_one() {
        assert_eq!(find_device(TABLE, Path::new("/mnt/over")).as_deref(), Some("0:38"));
        assert_eq!(find_device(TABLE, Path::new("/mnt")), None);
    }

    #[test]
    fn only_a_free_directory_can_be_mounted_on() {
        let dir = tempfile::tempdir().unwrap();
        assert!(check_free(dir.path()).is_ok());
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(check_free(&file).is_err());
        assert!(check_free(&dir.path().join("missing")).is_err());
        assert!(check_free(Path::new("/")).is_err());
    }
}
