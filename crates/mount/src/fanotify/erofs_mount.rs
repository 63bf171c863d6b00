//! Mounting the kernel's EROFS on files, without a loop device (which would ask nobody).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::mount::fsconfig_set_string;

use super::blobs::Device;
use crate::Error;
use crate::erofs::{self, Options, Superblock, VALUE_BYTES_MAX};

/// The primary device: the file with the metadata.
#[derive(Clone, Copy)]
pub(super) enum Primary<'a> {
    /// Complete; nobody watches over it.
    Complete(BorrowedFd<'a>),
    /// It may have holes, and the kernel asks before it reads one.
    Watched(&'a Device),
}

impl Primary<'_> {
    fn file(&self) -> BorrowedFd<'_> {
        match self {
            Self::Complete(file) => *file,
            Self::Watched(device) => device.file(),
        }
    }
}

/// Mounts `metadata` with its `devices`, in the order of the device table, on `target`.
///
/// The kernel opens the devices here; the tokens prove that they were marked before. On an error nothing is mounted.
pub(super) fn mount(
    metadata: Primary<'_>,
    devices: &[Device],
    target: &Path,
    options: &Options,
) -> Result<Superblock, Error> {
    erofs::mount(target, options, |context| configure(context, metadata, devices))
}

fn configure(context: &OwnedFd, metadata: Primary<'_>, devices: &[Device]) -> io::Result<()> {
    fsconfig_set_string(context, "source", source_of(metadata.file()))?;
    for device in devices {
        fsconfig_set_string(context, "device", by_descriptor(device.file()))?;
    }
    Ok(())
}

/// A path of a descriptor of ours: short whatever the file is called, and not to be exchanged under way.
fn by_descriptor(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// The metadata's own path, for the mount table, where it fits and still leads to this file.
fn source_of(metadata: BorrowedFd<'_>) -> Vec<u8> {
    let short = by_descriptor(metadata);
    let own = || {
        let path = std::fs::read_link(&short).ok()?;
        let (here, there) = (rustix::fs::fstat(metadata).ok()?, rustix::fs::stat(&path).ok()?);
        let same = (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino);
        let bytes = path.as_os_str().as_bytes();
        (same && bytes.len() <= VALUE_BYTES_MAX).then(|| bytes.to_vec())
    };
    own().unwrap_or_else(|| short.clone().into_bytes())
}
