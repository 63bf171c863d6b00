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

use crate::erofs::Superblock;
use crate::fuse::device;
use crate::identity::unique_id;
use crate::{Error, FrontEndKind, Identity, walk};

/// Mounts of the same file system that are taken away one after the other: somebody may have bound one to its own place.
const LAYERS_MAX: usize = 16;

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
    walk::check(target)?;
    match fs::metadata(target) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => refuse(Errno::NOTDIR.into(), "the mount point is no directory"),
        Err(error) => refuse(error, "the mount point cannot be used"),
    }
}

/// One line of the kernel's table of mounts.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MountPoint {
    /// The mount's number in the kernel.
    pub id: u64,
    /// The number of the mount that it is mounted on.
    pub parent: u64,
    /// Where it is mounted.
    pub path: PathBuf,
    /// The type of the file system, as `erofs` or `fuse.larder`.
    pub kind: String,
    /// Its device number, as `MAJOR:MINOR`.
    pub device: String,
    /// What it shows as its source.
    pub source: String,
}

/// A mount of ours, to be told from what others mount on top of it or in its place.
#[derive(Clone, Debug)]
pub(crate) struct Spot {
    target: PathBuf,
    what: What,
    /// Not known when the kernel's table could not be read.
    device: Option<String>,
    /// What it shows as its source. A device number is given again.
    source: Option<String>,
    /// Not known before Linux 6.8.
    mount_id: Option<u64>,
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
    /// The mount of the kind `what` on `target`, an absolute path without links; the lowest: Larder mounts on nothing but free
    /// directories, and what lies over its mount is somebody else's.
    pub(crate) fn of(target: &Path, what: What) -> Self {
        let points = mount_points().unwrap_or_default();
        let found = lowest(&points, target, |point| point.what() == what);
        let device = found.map(|point| point.device.clone());
        let source = found.map(|point| point.source.clone());
        let mount_id = found.and_then(|point| unique_id(point, None));
        Self { target: target.to_owned(), what, device, source, mount_id }
    }

    /// The mount `identity` where it lies on `target`, be it under another one; where nothing is known of it, the mount
    /// [`of`](Self::of) its kind. `lives` says that its superblock does, for certain.
    ///
    /// # Errors
    ///
    /// [`Error::MountTable`].
    pub(crate) fn find(
        target: &Path,
        what: What,
        identity: &Identity,
        lives: bool,
    ) -> Result<Option<Self>, Error> {
        let is_ours = |point: &MountPoint| match identity.is_known() {
            true => identity.is_of(point, lives),
            // There are FUSE mounts of many kinds.
            false => what != What::Fuse || point.may_be_ours(),
        };
        Self::find_by(target, what, identity.mount_id, is_ours)
    }

    /// `mount_id` is the unique number that it has by its record.
    fn find_by(
        target: &Path,
        what: What,
        mount_id: Option<u64>,
        is_ours: impl Fn(&MountPoint) -> bool,
    ) -> Result<Option<Self>, Error> {
        let points = points(target)?;
        let found = lowest(&points, target, |point| point.what() == what && is_ours(point));
        Ok(found.map(|found| Self {
            target: target.to_owned(),
            what,
            device: Some(found.device.clone()),
            source: Some(found.source.clone()),
            mount_id: unique_id(found, mount_id),
        }))
    }

    /// What tells it from other mounts; `superblock` is an EROFS's.
    pub(crate) fn identity(&self, superblock: Option<&Superblock>) -> Identity {
        let backing = superblock.map(|superblock| superblock.names().to_vec()).unwrap_or_default();
        Identity { mount_id: self.mount_id, device: self.device.clone(), backing }
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
    ///
    /// What the system says is not taken for the truth: umount(2) takes a mount of the same file system that was bound over
    /// ours, too, and what is mounted on a directory of that name elsewhere.
    pub(crate) fn take_away(&self, unmount: impl Fn() -> Result<(), Error>) -> Result<(), Error> {
        for _ in 0..LAYERS_MAX {
            match self.lies()? {
                Lies::Nowhere => return Ok(()),
                Lies::Covered => break,
                Lies::OnTop => {}
            }
            walk::check(&self.target)?;
            // Somebody may have been faster, and what was wanted is so.
            unmount().or_else(|error| if self.lies()? == Lies::Nowhere { Ok(()) } else { Err(error) })?;
        }
        match self.lies()? {
            Lies::Nowhere => Ok(()),
            Lies::Covered | Lies::OnTop => Err(Error::Covered { target: self.target.clone() }),
        }
    }

    fn lies(&self) -> Result<Lies, Error> {
        Ok(self.lies_in(&points(&self.target)?))
    }

    fn lies_in(&self, points: &[MountPoint]) -> Lies {
        let is_ours = |point: &MountPoint| {
            point.is_on(&self.target, self.what)
                && self.device.as_ref().is_none_or(|device| *device == point.device)
                && self.source.as_ref().is_none_or(|source| *source == point.source)
        };
        if on_top(points, &self.target).is_some_and(is_ours) {
            return Lies::OnTop;
        }
        if points.iter().any(is_ours) { Lies::Covered } else { Lies::Nowhere }
    }
}

/// All mounts of this process's namespace. Touches none of them.
///
/// # Errors
///
/// When the kernel's table cannot be read.
pub fn mount_points() -> io::Result<Vec<MountPoint>> {
    Ok(points_of(&fs::read("/proc/self/mountinfo")?))
}

/// The mount that an absolute path lies in, which need not exist; `None` where this process sees no root. Touches no mount, and so
/// follows no links.
///
/// # Errors
///
/// When the kernel's table cannot be read.
pub fn mount_of(path: &Path) -> io::Result<Option<MountPoint>> {
    Ok(look_up(&mount_points()?, path).cloned())
}

fn points_of(table: &[u8]) -> Vec<MountPoint> {
    table.split(|&byte| byte == b'\n').filter_map(parse).collect()
}

/// What is mounted on `target`. A table that cannot be read does not say that nothing is.
fn stack(target: &Path) -> Result<Vec<What>, Error> {
    Ok(points(target)?.iter().filter(|point| point.path == target).map(MountPoint::what).collect())
}

/// All mounts; `target` is for the error.
fn points(target: &Path) -> Result<Vec<MountPoint>, Error> {
    mount_points().map_err(|source| Error::MountTable { target: target.to_owned(), source })
}

/// The device number of what is mounted on `target`, as `MAJOR:MINOR`.
pub(crate) fn device(target: &Path) -> Option<String> {
    let device = on_top(&mount_points().ok()?, target)?.device.clone();
    Some(device).filter(|device| !device.contains('/'))
}

/// The mount that a look-up of `target` ends in, if it is mounted there.
fn on_top<'a>(points: &'a [MountPoint], target: &Path) -> Option<&'a MountPoint> {
    look_up(points, target).filter(|point| point.path == target)
}

/// The mount that a look-up of `path` ends in: what is mounted over one of its parents hides those below.
///
/// The order of the table tells nothing: a mount may have been moved. The root of a process is where it is, whatever is
/// mounted over it: `set_root()` in fs/namei.c (v6.18).
fn look_up<'a>(points: &'a [MountPoint], path: &Path) -> Option<&'a MountPoint> {
    let mut prefixes: Vec<&Path> = path.ancestors().collect();
    let root = prefixes.pop()?;
    let mut at = points.iter().find(|point| point.path == root && point.is_lowest(points));
    for prefix in prefixes.into_iter().rev() {
        let over = |at: Option<&MountPoint>| {
            points.iter().find(|point| point.path == prefix && point.is_mounted_on(at, points))
        };
        while let Some(point) = over(at) {
            at = Some(point);
        }
    }
    at
}

/// The lowest of the mounts on `target` for which `is_wanted` holds, the oldest of several.
fn lowest<'a>(
    points: &'a [MountPoint],
    target: &Path,
    is_wanted: impl Fn(&MountPoint) -> bool,
) -> Option<&'a MountPoint> {
    let wanted = points.iter().filter(|point| point.path == target && is_wanted(point));
    wanted.min_by_key(|point| point.depth(points))
}

impl MountPoint {
    /// The mount that it is mounted on; none for the root, and where a process sees only a part of the tree.
    fn below<'a>(&self, points: &'a [MountPoint]) -> Option<&'a MountPoint> {
        points.iter().find(|point| point.id == self.parent && point.id != self.id)
    }

    fn is_mounted_on(&self, at: Option<&MountPoint>, points: &[MountPoint]) -> bool {
        self.below(points).map(|below| below.id) == at.map(|at| at.id)
    }

    /// Whether it lies on no other mount with its path.
    fn is_lowest(&self, points: &[MountPoint]) -> bool {
        self.below(points).is_none_or(|below| below.path != self.path)
    }

    /// How many mounts with its path it lies on; in a table that was read while it changed, no more than there are.
    fn depth(&self, points: &[MountPoint]) -> usize {
        let below = |point: &&MountPoint| point.below(points).filter(|below| below.path == self.path);
        std::iter::successors(below(&self), below).take(points.len()).count()
    }

    fn is_on(&self, target: &Path, what: What) -> bool {
        self.path == target && self.what() == what
    }

    /// Whether its type is one that Larder mounts.
    fn may_be_ours(&self) -> bool {
        matches!(&*self.kind, "erofs" | "fuse.larder")
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
    let mut number = || std::str::from_utf8(fields.next()?).ok()?.parse().ok();
    let (id, parent) = (number()?, number()?);
    let device = fields.next()?;
    let path = PathBuf::from(OsString::from_vec(unescape(fields.nth(1)?)));
    let mut fields = fields.skip_while(|field| *field != b"-");
    let (kind, source) = (fields.nth(1)?, fields.next().unwrap_or_default());
    let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
    let source = text(&unescape(source));
    Some(MountPoint { id, parent, path, kind: text(kind), device: text(device), source })
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

/// What became of a mount that was to be detached.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Detached {
    /// It is detached.
    Ours,
    /// It is not there any more; what is mounted in its place, of the same kind, stays.
    NotOurs,
    /// What is mounted there, of the same kind, stays, and may be it: nothing tells.
    Unknown,
    /// Nothing of its kind is mounted there.
    Nothing,
}

/// Detaches the mount that the front end `kind` once made on `target`, an absolute path without links. What others have
/// mounted over it or in its place stays: `identity` says which one it is; where it says nothing, `is_ours` has to hold.
///
/// # Errors
///
/// [`Error::Covered`] when something lies over it: it is still there, and to be detached later. What else the system says.
pub fn detach_mount_of(
    kind: FrontEndKind,
    target: &Path,
    identity: &Identity,
    is_ours: impl Fn(&MountPoint) -> bool,
) -> Result<Detached, Error> {
    let what = match kind {
        FrontEndKind::Fuse => What::Fuse,
        FrontEndKind::Fanotify | FrontEndKind::FuseBlob | FrontEndKind::Cachefiles => What::Erofs,
    };
    let is_ours = |point: &MountPoint| match identity.is_known() {
        true => identity.is_of(point, false),
        false => is_ours(point),
    };
    let Some(spot) = Spot::find_by(target, what, identity.mount_id, is_ours)? else {
        let points = points(target)?;
        let others: Vec<&MountPoint> = points.iter().filter(|point| point.is_on(target, what)).collect();
        let may_be_ours = !identity.is_known() && others.iter().any(|other| other.may_be_ours());
        return Ok(match others.is_empty() {
            true => Detached::Nothing,
            false if may_be_ours => Detached::Unknown,
            false => Detached::NotOurs,
        });
    };
    match what {
        What::Fuse => device::unmount(&spot, true)?,
        What::Erofs | What::Other => spot.unmount(true)?,
    }
    Ok(Detached::Ours)
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

    fn is_on_top(path: &str) -> Option<MountPoint> {
        on_top(&points_of(TABLE), Path::new(path)).cloned()
    }

    #[test]
    fn the_top_mount_of_a_path_is_found_by_its_own_name() {
        for (path, expected) in [
            ("/", Some(What::Other)),
            ("/mnt/a b", Some(What::Erofs)),
            ("/mnt/f", Some(What::Fuse)),
            ("/mnt/over", Some(What::Other)),
            ("/mnt", None),
        ] {
            assert_eq!(is_on_top(path).map(|point| point.what()), expected, "{path}");
        }
    }

    #[test]
    fn what_a_path_lies_in_is_the_nearest_mount_above_it() {
        let points = points_of(TABLE);
        for (path, device) in [
            ("/", "254:0"),
            ("/mnt/file", "254:0"),
            ("/mnt/a b", "0:35"),
            ("/mnt/a b/file", "0:35"),
            ("/mnt/a bc", "254:0"),
            ("/mnt/over/file", "0:38"),
        ] {
            assert_eq!(look_up(&points, Path::new(path)).map(|point| &*point.device), Some(device), "{path}");
        }
        assert_eq!(look_up(&points, Path::new("mnt/f")), None);
    }

    #[test]
    fn the_device_of_a_mount_is_that_of_the_top_one() {
        assert_eq!(is_on_top("/mnt/over").map(|point| point.device).as_deref(), Some("0:38"));
    }

    #[test]
    fn a_mount_is_on_top_by_what_it_lies_on_and_not_by_its_line() {
        let table: &[u8] = b"43 42 0:38 / /mnt/over rw - tmpfs none rw\n\
            42 22 0:37 / /mnt/over rw - erofs x ro\n\
            22 1 254:0 / / rw - ext4 /dev/vda rw\n";
        let found = on_top(&points_of(table), Path::new("/mnt/over")).map(|point| point.id);
        assert_eq!(found, Some(43));
    }

    #[test]
    fn p1_a_mount_whose_parent_directory_is_mounted_over_is_covered() {
        let table = |lines: &str| {
            points_of([&b"22 1 254:0 / / rw - ext4 /dev/vda rw\n"[..], lines.as_bytes()].concat().as_slice())
        };
        let ours = "50 22 0:37 / /mnt/a/b rw - erofs x ro\n";
        let cover = "51 22 0:40 / /mnt/a rw - tmpfs none rw\n";
        let theirs = "52 51 0:41 / /mnt/a/b rw - erofs y ro\n";
        let spot = Spot {
            target: "/mnt/a/b".into(),
            what: What::Erofs,
            device: Some("0:37".to_owned()),
            source: None,
            mount_id: None,
        };
        assert_eq!(spot.lies_in(&table(ours)), Lies::OnTop);
        assert_eq!(spot.lies_in(&table(&[ours, cover].concat())), Lies::Covered);
        assert_eq!(spot.lies_in(&table(&[ours, cover, theirs].concat())), Lies::Covered);
        assert_eq!(spot.lies_in(&table(&[cover, theirs].concat())), Lies::Nowhere);
    }

    #[test]
    fn a_process_sees_its_mounts_without_the_mount_of_its_root() {
        let table: &[u8] =
            b"42 22 0:37 / /mnt/over rw - erofs x ro\n43 42 0:38 / /mnt/over rw - tmpfs none rw\n";
        let found = on_top(&points_of(table), Path::new("/mnt/over")).map(|point| point.id);
        assert_eq!(found, Some(43));
    }

    #[test]
    fn the_lowest_of_several_mounts_is_ours() {
        let table: &[u8] =
            b"44 42 0:39 / /mnt/x rw - erofs theirs ro\n42 22 0:37 / /mnt/x rw - erofs ours ro\n";
        let found = lowest(&points_of(table), Path::new("/mnt/x"), |point| point.what() == What::Erofs)
            .map(|point| point.id);
        assert_eq!(found, Some(42));
    }

    #[test]
    fn a_mount_of_ours_is_told_from_what_lies_over_it_and_from_its_successor() {
        let over = || points_of(TABLE).into_iter().filter(|point| point.path == Path::new("/mnt/over"));
        let spot = |device: Option<&str>, source: Option<&str>| Spot {
            target: "/mnt/over".into(),
            what: What::Erofs,
            device: device.map(str::to_owned),
            source: source.map(str::to_owned),
            mount_id: None,
        };
        for (device, source, covered, alone) in [
            (Some("0:37"), Some("x"), Lies::Covered, Lies::OnTop),
            (None, None, Lies::Covered, Lies::OnTop),
            (Some("0:99"), Some("x"), Lies::Nowhere, Lies::Nowhere),
            (Some("0:37"), Some("y"), Lies::Nowhere, Lies::Nowhere),
        ] {
            let (both, one): (Vec<_>, Vec<_>) = (over().collect(), over().take(1).collect());
            assert_eq!(spot(device, source).lies_in(&both), covered, "{device:?}");
            assert_eq!(spot(device, source).lies_in(&one), alone, "{device:?}");
            assert_eq!(spot(device, source).lies_in(&[]), Lies::Nowhere, "{device:?}");
        }
    }

    /// Mounts what needs root; `None` without it.
    fn tmpfs_on(target: &Path) -> Option<()> {
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("none", target, "tmpfs", flags, None).ok()
    }

    fn bind(from: &Path, to: &Path) {
        rustix::mount::mount_bind(from, to).expect("it is a directory");
    }

    fn spot_of(target: &Path) -> Spot {
        Spot::of(target, What::Other)
    }

    #[test]
    fn p1_a_mount_that_was_bound_over_itself_is_taken_away_with_what_was_bound() {
        let dir = tempfile::tempdir().unwrap();
        let Some(()) = tmpfs_on(dir.path()) else { return skip("mounting needs root") };
        let spot = spot_of(dir.path());
        bind(dir.path(), dir.path());
        let result = spot.unmount(true);
        let left = stack(dir.path()).unwrap();
        while unmount(dir.path(), true).is_ok() && !stack(dir.path()).unwrap().is_empty() {}
        result.expect("nothing of somebody else's lies over it");
        assert_eq!(left, []);
    }

    /// Nobody answers the cover, as a file system on the network whose server is dead: whoever looks up what is below hangs.
    #[test]
    fn p4_a_mount_whose_path_cannot_be_walked_is_found() {
        if !rustix::process::geteuid().is_root() {
            return skip("mounting needs root");
        }
        let dir = tempfile::tempdir().unwrap();
        let (parent, target) = (dir.path().join("a"), dir.path().join("a/b"));
        fs::create_dir_all(&target).unwrap();
        let Some(()) = tmpfs_on(&target) else { return skip("mounting is not allowed") };
        let made = spot_of(&target).identity(None);
        let cover = device::mount(&parent, device::Style::daemon("nobody answers"));
        let (told, found) = std::sync::mpsc::channel();
        let spots = [made.clone(), Identity::default()].map(|identity| {
            let (told, target) = (told.clone(), target.clone());
            move || told.send(Spot::find(&target, What::Other, &identity, true).map(|spot| spot?.mount_id))
        });
        spots.into_iter().for_each(|find| drop(std::thread::spawn(find)));
        let both = [0; 2].map(|_| found.recv_timeout(std::time::Duration::from_secs(60)));
        let is_covered = cover.is_ok();
        // Whoever hangs gets ENOTCONN.
        drop(cover);
        while unmount(&parent, true).is_ok() && !stack(&parent).unwrap().is_empty() {}
        unmount(&target, true).unwrap();
        if !is_covered {
            return skip("FUSE cannot be mounted here");
        }
        for found in both {
            assert_eq!(found.expect("nobody hangs").unwrap(), made.mount_id);
        }
    }

    #[test]
    fn p1_a_mount_under_a_cover_of_its_parent_is_not_said_to_be_gone() {
        let dir = tempfile::tempdir().unwrap();
        let (parent, target) = (dir.path().join("a"), dir.path().join("a/b"));
        fs::create_dir_all(&target).unwrap();
        let Some(()) = tmpfs_on(&target) else { return skip("mounting needs root") };
        let spot = spot_of(&target);
        tmpfs_on(&parent).expect("this is root");
        fs::create_dir(&target).unwrap();
        let covered = spot.unmount(true);
        unmount(&parent, true).unwrap();
        let free = spot.unmount(true);
        assert!(matches!(covered, Err(Error::Covered { .. })), "{covered:?}");
        free.expect("nothing lies over it any more");
        assert_eq!(stack(&target).unwrap(), []);
    }

    fn skip(why: &str) {
        println!("skipped: {why}");
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
