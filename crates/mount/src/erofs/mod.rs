//! Mounting the kernel's EROFS, whatever its bytes come from.

mod kept;
mod scratch;
mod superblock;

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rustix::fs::{CWD, StatVfsMountFlags, fstatfs, fstatvfs};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsconfig_set_flag, fsmount,
    fsopen, move_mount,
};

use crate::Error;
use crate::sys::child::create_in_child;

pub(crate) use kept::{Kept, Origin};
pub(crate) use scratch::scratch_image;
pub(crate) use superblock::Superblock;
use superblock::erofs_devices;

/// `EROFS_SUPER_MAGIC_V1`, as statfs(2) gives it.
const EROFS_MAGIC: i64 = 0xe0f5_e1e2;
/// The longest string that fsconfig takes, without its NUL: fs/fsopen.c.
pub(crate) const VALUE_BYTES_MAX: usize = 255;

/// One mount at a time, so that a new backing device can be told from another mount's.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// How EROFS is mounted.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Read-ahead of each mount in KiB; the kernel's own (128) when not given.
    pub read_ahead_kb: Option<u32>,
    /// Whether set-user-id programs and device nodes of an image count.
    pub trusted: bool,
}

impl Options {
    fn attributes(&self) -> MountAttrFlags {
        let mut flags = MountAttrFlags::MOUNT_ATTR_RDONLY;
        if !self.trusted {
            flags |= MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
        }
        flags
    }
}

/// Who has the kernel open the files and read the superblock.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Creator<'a> {
    /// This thread.
    Here,
    /// A child whose working directory this is: for files that this process serves. Whoever waits for an answer cannot
    /// be killed, and a worker that waits for its own would keep the next one from starting.
    ChildIn(BorrowedFd<'a>),
}

impl Creator<'_> {
    fn create(self, context: &OwnedFd) -> io::Result<()> {
        match self {
            Self::Here => Ok(fsconfig_create(context)?),
            Self::ChildIn(dir) => create_in_child(context.as_fd(), dir),
        }
    }
}

/// Mounts on `target` what `configure` says by fsconfig, and has the keeper know of it as `kept`. On an error nothing is
/// mounted.
pub(crate) fn mount(
    target: &Path,
    options: &Options,
    creator: Creator<'_>,
    kept: &Kept<'_>,
    configure: impl FnOnce(&OwnedFd) -> io::Result<()>,
) -> Result<Superblock, Error> {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let before: BTreeSet<String> = erofs_devices();
    let context =
        fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC).map_err(|error| refusal(target, None, error.into()))?;
    let said = |error: io::Error| refusal(target, Some(&context), error);
    configure(&context).map_err(said)?;
    fsconfig_set_flag(&context, "ro").map_err(|error| said(error.into()))?;
    creator.create(&context).map_err(said)?;
    let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, options.attributes())
        .map_err(|error| said(error.into()))?;
    if !is_read_only_erofs(mount.as_fd()) {
        return Err(Error::NotErofs { target: target.to_owned() });
    }
    let superblock = Superblock::since(&before);
    if let Some(kb) = options.read_ahead_kb {
        superblock.set_read_ahead_kb(kb);
    }
    kept.keep(&superblock)?;
    move_mount(&mount, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).map_err(|error| {
        kept.release();
        refusal(target, None, error.into())
    })?;
    Ok(superblock)
}

/// A path of a descriptor of ours: short whatever the file is called, and not to be exchanged under way.
pub(crate) fn by_descriptor(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// The file's own path, for the mount table, where it fits and still leads to this file. The kernel knows none of a file that
/// was opened by its handle: then it is the one that is `known`.
pub(crate) fn source_of(file: BorrowedFd<'_>, known: Option<&Path>) -> Vec<u8> {
    let short = by_descriptor(file);
    let own = || {
        let path = known.map_or_else(|| std::fs::read_link(&short), |path| Ok(path.to_owned())).ok()?;
        let (here, there) = (rustix::fs::fstat(file).ok()?, rustix::fs::stat(&path).ok()?);
        let same = (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino);
        let bytes = path.as_os_str().as_bytes();
        (same && bytes.len() <= VALUE_BYTES_MAX).then(|| bytes.to_vec())
    };
    own().unwrap_or_else(|| short.clone().into_bytes())
}

fn is_read_only_erofs(mount: BorrowedFd<'_>) -> bool {
    let magic = fstatfs(mount).is_ok_and(|found| found.f_type & 0xffff_ffff == EROFS_MAGIC);
    let read_only = fstatvfs(mount).is_ok_and(|found| found.f_flag.contains(StatVfsMountFlags::RDONLY));
    magic && read_only
}

/// The error with the kernel's own words, which wait in the context.
fn refusal(target: &Path, context: Option<&OwnedFd>, source: io::Error) -> Error {
    let detail = context.map(|context| words_of(context).join("; ")).unwrap_or_default();
    Error::Mount { target: target.to_owned(), detail, source }
}

/// What the kernel has written into a mount's context so far.
pub(crate) fn words_of(context: &OwnedFd) -> Vec<String> {
    let mut words = Vec::new();
    let mut buf = [0; 512];
    while let Ok(length) = rustix::io::read(context, &mut buf) {
        let line = String::from_utf8_lossy(buf.get(..length).unwrap_or(&[]));
        words.push(line.trim().trim_start_matches("e ").to_owned());
        if length == 0 || words.len() > 8 {
            break;
        }
    }
    words
}
