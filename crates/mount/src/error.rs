//! [`Error`]: why something could not be mounted, taken up or unmounted.

use std::io;
use std::path::PathBuf;

use crate::FrontEndKind;

/// Why something could not be mounted, taken up again, or unmounted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The mount id cannot name kept descriptors.
    #[error("mount id {id:?}: 1 to 64 bytes of letters, digits, '.', '_' and '-' are allowed")]
    MountId {
        /// What was given.
        id: String,
    },
    /// The metadata image could not be opened.
    #[error("metadata image {}", path.display())]
    Metadata {
        /// Where it was expected.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A blob is not in the cache, or the cache cannot vouch for it.
    #[error("blob {blob}: {doing}")]
    Blob {
        /// The blob's name.
        blob: String,
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Something else has the name under which the kernel would ask for it.
    #[error("{name:?} is mounted already")]
    NameInUse {
        /// The name in the kernel.
        name: String,
    },
    /// The kernel does not give what the front end rests on.
    #[error("{kind}: {doing}")]
    Kernel {
        /// The front end.
        kind: FrontEndKind,
        /// What was asked of the kernel.
        doing: &'static str,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// The kernel did not mount.
    #[error("{}: the kernel does not mount it{}", target.display(), said(detail))]
    Mount {
        /// The mount point.
        target: PathBuf,
        /// The kernel's own words, where it has any.
        detail: String,
        /// Its error number.
        #[source]
        source: io::Error,
    },
    /// The kernel's table of mounts could not be read.
    #[error("{}: what is mounted there cannot be told", target.display())]
    MountTable {
        /// The mount point.
        target: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// What is mounted after the mount is not what was asked for.
    #[error("{}: what is mounted there is not a read-only EROFS", target.display())]
    NotErofs {
        /// The mount point.
        target: PathBuf,
    },
    /// Nothing of ours is mounted there any more.
    #[error("{}: nothing is mounted there any more", target.display())]
    Gone {
        /// The mount point.
        target: PathBuf,
    },
    /// For a while nobody answered for the mount: what its page cache holds may be wrong.
    #[error("{}: nobody answered for this mount for a while; it was detached", target.display())]
    Poisoned {
        /// The mount point.
        target: PathBuf,
    },
    /// Something else is mounted over the mount, and would be taken away in its place.
    #[error("{}: something else is mounted over it", target.display())]
    Covered {
        /// The mount point.
        target: PathBuf,
    },
    /// A file system that the mount point's path leads through does not answer.
    #[error("{}: a file system on the way to it does not answer", target.display())]
    NoAnswer {
        /// The mount point.
        target: PathBuf,
    },
    /// The mount is in use.
    #[error("{}: the mount is in use", target.display())]
    Busy {
        /// The mount point.
        target: PathBuf,
    },
    /// The mount could not be taken away.
    #[error("{}: cannot be unmounted", target.display())]
    Unmount {
        /// The mount point.
        target: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// No helper that mounts FUSE for unprivileged users.
    #[error("{}: neither fusermount3 nor fusermount can be started", target.display())]
    NoFusermount {
        /// The mount point.
        target: PathBuf,
    },
    /// The helper that mounts FUSE for unprivileged users refused.
    #[error("{}: fusermount: {said}", target.display())]
    Fusermount {
        /// The mount point.
        target: PathBuf,
        /// What it wrote.
        said: String,
    },
    /// The FUSE connection does not follow the protocol.
    #[error("{}: fuse: {finding}", target.display())]
    Fuse {
        /// The mount point.
        target: PathBuf,
        /// What was found.
        finding: &'static str,
    },
    /// A descriptor that the keeper has could not be had.
    #[error("{name:?} cannot be had from the keeper")]
    Take {
        /// Name of the descriptor.
        name: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A descriptor could not be given to the keeper.
    #[error("the keeper does not take {name:?}")]
    Keep {
        /// Name of the descriptor.
        name: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

fn said(detail: &str) -> String {
    if detail.is_empty() { String::new() } else { format!(" ({detail})") }
}

impl Error {
    /// What the operator can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::MountId { .. } => Some("use the id that Larder gave to the mount"),
            Self::Metadata { .. } => {
                Some("fetch the image again: its metadata must be complete in the cache")
            }
            Self::Blob { .. } => {
                Some("check the cache's file system, and that nobody else works in the cache")
            }
            Self::NameInUse { .. } => Some("unmount what has the name, or mount it under another id"),
            Self::Kernel { .. } => Some("`larder doctor` tells what this front end needs"),
            Self::Mount { source, .. } => mount_hint(source),
            Self::MountTable { .. } => Some("see to it that /proc is mounted and that descriptors are left"),
            Self::NotErofs { .. } | Self::Covered { .. } => Some("unmount what lies over it first"),
            Self::Gone { .. } => Some("mount the image again"),
            Self::Poisoned { .. } => Some("mount the image again, and restart what used it"),
            Self::NoAnswer { .. } => Some(
                "bring back what that file system lies on (a server, say), or take it away with `umount --lazy`",
            ),
            Self::Busy { .. } => Some("end what uses it (`fuser -vm` lists it), or unmount with --lazy"),
            Self::Unmount { .. } => None,
            Self::NoFusermount { .. } => Some("install fuse3, or run the daemon as root"),
            Self::Fusermount { .. } => {
                Some("check that the mount point is yours and that /dev/fuse can be opened")
            }
            Self::Fuse { .. } => Some("unmount and mount again"),
            Self::Keep { .. } | Self::Take { .. } => Some("raise the limit of open files"),
        }
    }
}

fn mount_hint(source: &io::Error) -> Option<&'static str> {
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => Some("mounting needs root; as a user choose --frontend fuse"),
        Some(libc::ENOENT | libc::ENOTDIR) => Some("the mount point must be an existing directory"),
        Some(libc::EBUSY) => Some("the mount point is in use"),
        Some(libc::ENOTBLK | libc::ENODEV) => {
            Some("the kernel's EROFS cannot mount files: choose --frontend fuse")
        }
        _ => Some("the kernel's log may say more (dmesg)"),
    }
}
