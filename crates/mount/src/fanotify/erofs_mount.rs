//! Mounting the kernel's EROFS on files, without a loop device (which would ask nobody).

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::mount::fsconfig_set_string;

use super::blobs::Device;
use crate::Error;
use crate::erofs::{self, Options, Superblock, VALUE_BYTES_MAX};

/// Mounts `metadata` with its `devices`, in the order of the device table, on `target`.
///
/// The kernel opens the devices here; the tokens prove that they were marked before. On an error nothing is mounted.
pub(super) fn mount(
    metadata: &File,
    devices: &[Device],
    target: &Path,
    options: &Options,
) -> Result<Superblock, Error> {
    erofs::mount(target, options, |context| configure(context, metadata, devices))
}

fn configure(context: &OwnedFd, metadata: &File, devices: &[Device]) -> io::Result<()> {
    fsconfig_set_string(context, "source", source_of(metadata))?;
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
