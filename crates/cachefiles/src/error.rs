//! [`Error`]: why a directory could not be opened as a cache, or looked through.

use std::io;
use std::path::PathBuf;

use rustix::io::Errno;

/// Why a directory could not be opened as a cache, or looked through.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The directory is not there and cannot be made, or cannot be entered.
    #[error("cache {}: cannot be opened", root.display())]
    Root {
        /// The directory.
        root: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Another daemon owns the cache.
    #[error("cache {}: in use by another daemon (process {})", root.display(), owner.as_deref().unwrap_or("unknown"))]
    Locked {
        /// The directory.
        root: PathBuf,
        /// The process id that the lock file names.
        owner: Option<String>,
    },
    /// The lock file cannot be used.
    #[error("cache {}: the lock file cannot be used", root.display())]
    Lock {
        /// The directory.
        root: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file system cannot do what a cache needs.
    #[error("cache {}: its file system cannot serve: {step} failed", root.display())]
    Unfit {
        /// The directory.
        root: PathBuf,
        /// What was tried.
        step: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The limits contradict each other.
    #[error("limits for {kind}: stop {stop} % < cull {cull} % < run {run} % < 100 % does not hold")]
    Limits {
        /// Blocks or files.
        kind: &'static str,
        /// Culling ends here.
        run: u8,
        /// Culling begins below this.
        cull: u8,
        /// Below this nothing is written.
        stop: u8,
    },
    /// A cache without any room.
    #[error("a quota of 0 bytes leaves no room for a cache")]
    Quota,
    /// The directory is another cache than the configuration means.
    #[error("cache {}: its tag is {found:?}, expected {expected:?}", root.display())]
    Tag {
        /// The directory.
        root: PathBuf,
        /// The tag it has.
        found: String,
        /// The tag asked for.
        expected: String,
    },
    /// The index of the cache cannot be made.
    #[error("cache {}: the index cannot be made", root.display())]
    Index {
        /// The directory.
        root: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The cache could not be looked through.
    #[error("cache {}: {place}: cannot be read", root.display())]
    Walk {
        /// The directory.
        root: PathBuf,
        /// The place below it.
        place: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Whether an error says that there is no room on the file system, or that a quota is used up.
pub(crate) fn is_full(error: &std::io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOSPC | Errno::DQUOT))
}

impl Error {
    /// What the operator can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Locked { .. } => Some("stop that daemon, or give this one a cache directory of its own"),
            Self::Limits { .. } => Some("the defaults are run 7, cull 5, stop 1"),
            Self::Quota => Some("leave the quota out to have none"),
            Self::Tag { .. } => Some(
                "write tag = \"...\" under [cache] in config.toml (docs/operations.md says where it lies), or name another directory",
            ),
            Self::Root { source, .. }
            | Self::Lock { source, .. }
            | Self::Unfit { source, .. }
            | Self::Index { source, .. } => match Errno::from_io_error(source) {
                Some(Errno::ACCESS | Errno::PERM) => {
                    Some("run as the owner of the directory, or choose another")
                }
                Some(Errno::ROFS) => Some("the file system is mounted read-only: choose another directory"),
                Some(Errno::NOSPC | Errno::DQUOT) => Some("make room on the file system, or choose another"),
                Some(Errno::NOTDIR) => Some("a part of the path is no directory"),
                _ => Some("put the cache on ext4, xfs or btrfs"),
            },
            Self::Walk { .. } => Some("check the health of the cache's file system (dmesg)"),
        }
    }
}
