//! The mount point: whether it is free, what is mounted there, and taking it away.
//!
//! What is mounted is looked up in the kernel's table, never by touching the mount: a FUSE mount could wait for
//! ourselves.

use std::ffi::OsString;
use std::fs;
use std::io;
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
    if !stack(target)?.is_empty() {
        return refuse(Errno::BUSY.into(), "something is mounted there already");
    }
    match fs::metadata(target) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => refuse(Errno::NOTDIR.into(), "the mount point is no directory"),
        Err(error) => refuse(error, "the mount point cannot be used"),
    }
}

/// One line of the kernel's table of mounts.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MountPoint {
    /// Where it is mounted.
    pub path: PathBuf,
    /// The type of the file system, as `erofs` or `fuse.larder`.
    pub kind: String,
    /// Its device number, as `MAJOR:MINOR`.
    pub device: String,
}

/// A mount of ours, to be told from what others mount on top of it or in its place.
#[derive(Clone, Debug)]
pub(crate) struct Spot {
    target: PathBuf,
    what: What,
    /// Not known when the kernel's table could not be read.
    device: Option<String>,
}

/// Where a mount of ours is found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Lies {
    OnTop,
    /// Something else is mounted over it, which umount(2) would take.
    Covered,
    /// Somebody has taken it away.
    Nowhere,
}

impl Spot {
    /// The uppermost mount of the kind `what` on `target`, an absolute path without links.
    pub(crate) fn of(target: &Path, what: What) -> Self {
        let found = mount_points().ok().and_then(|points| on_top(points, |point| point.is_on(target, what)));
        Self { target: target.to_owned(), what, device: found.map(|point| point.device) }
    }

    /// The mount point.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// Takes it away; `lazy` detaches it when it is in use.
    pub(crate) fn unmount(&self, lazy: bool) -> Result<(), Error> {
        self.take_away(|| unmount(&self.target, lazy))
    }

    /// Takes it away by `unmount`, which takes what is on top. Nothing is done when it is there no more.
    pub(crate) fn take_away(&self, unmount: impl FnOnce() -> Result<(), Error>) -> Result<(), Error> {
        match self.lies()? {
            Lies::Nowhere => return Ok(()),
            Lies::Covered => return Err(Error::Covered { target: self.target.clone() }),
            Lies::OnTop => {}
        }
        // Somebody may have been faster, and what was wanted is so.
        unmount().or_else(|error| if self.lies()? == Lies::Nowhere { Ok(()) } else { Err(error) })
    }

    fn lies(&self) -> Result<Lies, Error> {
        Ok(self.lies_in(&points_on(&self.target)?))
    }

    fn lies_in(&self, stack: &[MountPoint]) -> Lies {
        let is_ours = |point: &MountPoint| {
            point.is_on(&self.target, self.what)
                && self.device.as_ref().is_none_or(|device| *device == point.device)
        };
        match stack.iter().rposition(is_ours) {
            None => Lies::Nowhere,
            Some(index) if index + 1 == stack.len() => Lies::OnTop,
            Some(_) => Lies::Covered,
        }
    }
}

/// All mounts of this process's namespace; of those on one path, the last is on top. Touches none of them.
///
/// # Errors
///
/// When the kernel's table cannot be read.
pub fn mount_points() -> io::Result<Vec<MountPoint>> {
    Ok(points_of(&fs::read("/proc/self/mountinfo")?))
}

fn points_of(table: &[u8]) -> Vec<MountPoint> {
    table.split(|&byte| byte == b'\n').filter_map(parse).collect()
}

/// Whether a file system of the kind `what` is mounted on `target`, an absolute path without links, be it under another.
pub(crate) fn has(target: &Path, what: What) -> Result<bool, Error> {
    Ok(stack(target)?.contains(&what))
}

/// What is mounted on `target`, the last on top. A table that cannot be read does not say that nothing is.
fn stack(target: &Path) -> Result<Vec<What>, Error> {
    Ok(points_on(target)?.iter().map(MountPoint::what).collect())
}

fn points_on(target: &Path) -> Result<Vec<MountPoint>, Error> {
    let points = mount_points().map_err(|source| Error::MountTable { target: target.to_owned(), source })?;
    Ok(points.into_iter().filter(|point| point.path == target).collect())
}

/// The device number of what is mounted on `target`, as `MAJOR:MINOR`.
pub(crate) fn device(target: &Path) -> Option<String> {
    let point = on_top(mount_points().ok()?, |point| point.path == target)?;
    Some(point.device).filter(|device| !device.contains('/'))
}

fn on_top(points: Vec<MountPoint>, wanted: impl Fn(&MountPoint) -> bool) -> Option<MountPoint> {
    points.into_iter().rfind(wanted)
}

impl MountPoint {
    fn is_on(&self, target: &Path, what: What) -> bool {
        self.path == target && self.what() == what
    }

    fn what(&self) -> What {
        match &*self.kind {
            "erofs" => What::Erofs,
            kind if kind == "fuse" || kind.starts_with("fuse.") => What::Fuse,
            _ => What::Other,
        }
    }
}

/// One line of mountinfo: `36 35 98:0 / /mnt rw,noatime shared:1 - ext4 /dev/root rw`; proc_pid_mountinfo(5).
fn parse(line: &[u8]) -> Option<MountPoint> {
    let mut fields = line.split(|&byte| byte == b' ');
    let device = fields.nth(2)?;
    let path = PathBuf::from(OsString::from_vec(unescape(fields.nth(1)?)));
    let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
    let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
    Some(MountPoint { path, kind: text(kind), device: text(device) })
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

/// Takes away what is on top of `target`; `lazy` detaches it when it is in use.
pub(crate) fn unmount(target: &Path, lazy: bool) -> Result<(), Error> {
    let flags = if lazy { UnmountFlags::DETACH } else { UnmountFlags::empty() };
    match rustix::mount::unmount(target.as_os_str().as_bytes(), flags | UnmountFlags::NOFOLLOW) {
        // EINVAL: it is no mount point. Somebody was faster, and what was wanted is so.
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        Err(Errno::BUSY) => Err(Error::Busy { target: target.to_owned() }),
        Err(errno) => Err(Error::Unmount { target: target.to_owned(), source: errno.into() }),
    }
}

/// Detaches the file system of the kind `expected` that is mounted on `target`; tells whether there was one.
///
/// # Errors
///
/// [`Error::Covered`] when it lies under another one: it is still there, and to be detached later.
pub(crate) fn detach(target: &Path, expected: What) -> Result<bool, Error> {
    if !has(target, expected)? {
        return Ok(false);
    }
    Spot::of(target, expected).unmount(true).map(|()| true)
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
            let found = on_top(points_of(TABLE), |point| point.path == Path::new(path));
            assert_eq!(found.map(|point| point.what()), expected, "{path}");
        }
    }

    #[test]
    fn the_device_of_a_mount_is_that_of_the_top_one() {
        let found = on_top(points_of(TABLE), |point| point.path == Path::new("/mnt/over"));
        assert_eq!(found.map(|point| point.device).as_deref(), Some("0:38"));
    }

    #[test]
    fn a_mount_of_ours_is_told_from_what_lies_over_it_and_from_its_successor() {
        let over = || points_of(TABLE).into_iter().filter(|point| point.path == Path::new("/mnt/over"));
        let spot = |device: Option<&str>| Spot {
            target: "/mnt/over".into(),
            what: What::Erofs,
            device: device.map(str::to_owned),
        };
        for (device, covered, alone) in [
            (Some("0:37"), Lies::Covered, Lies::OnTop),
            (None, Lies::Covered, Lies::OnTop),
            (Some("0:99"), Lies::Nowhere, Lies::Nowhere),
        ] {
            let (both, one): (Vec<_>, Vec<_>) = (over().collect(), over().take(1).collect());
            assert_eq!(spot(device).lies_in(&both), covered, "{device:?}");
            assert_eq!(spot(device).lies_in(&one), alone, "{device:?}");
            assert_eq!(spot(device).lies_in(&[]), Lies::Nowhere, "{device:?}");
        }
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
