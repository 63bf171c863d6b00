//! Mounting the kernel's EROFS on files, without a loop device (which would ask nobody).

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rustix::fs::{CWD, StatVfsMountFlags, fstatfs, fstatvfs};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, move_mount,
};

use super::Options;
use super::blobs::Device;
use super::retire::{Superblock, erofs_devices};
use crate::Error;

/// `EROFS_SUPER_MAGIC_V1`, as statfs(2) gives it.
const EROFS_MAGIC: i64 = 0xe0f5_e1e2;
/// The longest string that fsconfig takes, without its NUL: fs/fsopen.c.
const VALUE_BYTES_MAX: usize = 255;

/// One mount at a time, so that a new backing device can be told from another mount's.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Mounts `metadata` with its `devices`, in the order of the device table, on `target`.
///
/// The kernel opens the devices here; the tokens prove that they were marked before. On an error nothing is mounted.
pub(super) fn mount(
    metadata: &File,
    devices: &[Device],
    target: &Path,
    options: &Options,
) -> Result<Superblock, Error> {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let before: BTreeSet<String> = erofs_devices();
    let context =
        fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC).map_err(|error| refusal(target, None, error.into()))?;
    let said = |error: io::Error| refusal(target, Some(&context), error);
    configure(&context, metadata, devices).map_err(said)?;
    let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, options.attributes())
        .map_err(|error| said(error.into()))?;
    if !is_read_only_erofs(mount.as_fd()) {
        return Err(Error::NotErofs { target: target.to_owned() });
    }
    let superblock = Superblock::since(&before);
    if let Some(kb) = options.read_ahead_kb {
        superblock.set_read_ahead_kb(kb);
    }
    move_mount(&mount, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(|error| refusal(target, None, error.into()))?;
    Ok(superblock)
}

fn configure(context: &OwnedFd, metadata: &File, devices: &[Device]) -> io::Result<()> {
    fsconfig_set_string(context, "source", source_of(metadata))?;
    for device in devices {
        fsconfig_set_string(context, "device", by_descriptor(device.file()))?;
    }
    fsconfig_set_flag(context, "ro")?;
    fsconfig_create(context)?;
    Ok(())
}

/// A path of a descriptor of ours: short whatever the file is called, and not to be exchanged under way.
fn by_descriptor(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// The metadata's own path, for the mount table, where it fits and still leads to this file.
fn source_of(metadata: &File) -> Vec<u8> {
    let short = by_descriptor(metadata.as_fd());
    let own = || {
        let path = std::fs::read_link(&short).ok()?;
        let (here, there) = (rustix::fs::fstat(metadata).ok()?, rustix::fs::stat(&path).ok()?);
        let same = (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino);
        let bytes = path.as_os_str().as_bytes();
        (same && bytes.len() <= VALUE_BYTES_MAX).then(|| bytes.to_vec())
    };
    own().unwrap_or_else(|| short.clone().into_bytes())
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

fn is_read_only_erofs(mount: BorrowedFd<'_>) -> bool {
    let magic = fstatfs(mount).is_ok_and(|found| found.f_type & 0xffff_ffff == EROFS_MAGIC);
    let read_only = fstatvfs(mount).is_ok_and(|found| found.f_flag.contains(StatVfsMountFlags::RDONLY));
    magic && read_only
}

/// The error with the kernel's own words, which wait in the context.
fn refusal(target: &Path, context: Option<&OwnedFd>, source: io::Error) -> Error {
    let mut words = Vec::new();
    let mut buf = [0; 512];
    while let Some(Ok(length)) = context.map(|context| rustix::io::read(context, &mut buf)) {
        let line = String::from_utf8_lossy(buf.get(..length).unwrap_or(&[]));
        words.push(line.trim().trim_start_matches("e ").to_owned());
        if length == 0 || words.len() > 8 {
            break;
        }
    }
    Error::Mount { target: target.to_owned(), detail: words.join("; "), source }
}
