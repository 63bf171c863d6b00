//! Mounting the kernel's EROFS on files, without a loop device (which would ask nobody).

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::mount::fsconfig_set_string;

use super::blobs::Device;
use crate::Error;
use crate::erofs::{self, Creator, Kept, Options, Superblock, by_descriptor, source_of};

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

    fn path(&self) -> Option<&Path> {
        match self {
            Self::Complete(_) => None,
            Self::Watched(device) => device.path(),
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
    kept: &Kept<'_>,
) -> Result<Superblock, Error> {
    erofs::mount(target, options, Creator::Here, kept, |context| configure(context, metadata, devices))
}

fn configure(context: &OwnedFd, metadata: Primary<'_>, devices: &[Device]) -> io::Result<()> {
    fsconfig_set_string(context, "source", source_of(metadata.file(), metadata.path()))?;
    for device in devices {
        fsconfig_set_string(context, "device", by_descriptor(device.file()))?;
    }
    Ok(())
}
