//! [`Error`]: why the cache could not do what it was asked.

use std::io;

use rustix::io::Errno;

use crate::{CookieKey, ObjectRange, VolumeKey};

/// Why the cache could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A name from outside is no volume or cookie key.
    #[error("key {text:?}: {reason}")]
    Key {
        /// The name as it came, cut off at 200 characters.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The cookie is in use with another size: the name does not say what the content is.
    #[error("cookie {cookie}: in use with a size of {found} bytes, asked for with {expected}")]
    Size {
        /// The cookie.
        cookie: CookieKey,
        /// The size asked for, in bytes.
        expected: u64,
        /// The size it has, in bytes.
        found: u64,
    },
    /// The object would be larger than the backend keeps.
    #[error("cookie {cookie}: {size} bytes are more than the {max} that an object may have")]
    TooLarge {
        /// The cookie.
        cookie: CookieKey,
        /// The size asked for, in bytes.
        size: u64,
        /// The most that the backend keeps, in bytes.
        max: u64,
    },
    /// The range does not lie inside the object.
    #[error("cookie {cookie}: {range} lies outside the object of {size} bytes")]
    OutOfBounds {
        /// The cookie.
        cookie: CookieKey,
        /// The range asked for.
        range: ObjectRange,
        /// The object's size in bytes.
        size: u64,
    },
    /// A read that must not meet a hole met one.
    #[error("cookie {cookie}: byte {at} is not in the cache")]
    Hole {
        /// The cookie.
        cookie: CookieKey,
        /// The first missing byte.
        at: u64,
    },
    /// The cookie or volume is in use for another version of its content.
    #[error("{name}: in use with other coherency data")]
    Coherency {
        /// The cookie or the volume.
        name: String,
    },
    /// Coherency data is longer than a backend keeps.
    #[error("{len} bytes of coherency data are more than the {max} that an object may have")]
    AuxTooLong {
        /// Its length in bytes.
        len: usize,
        /// The most that is kept, in bytes.
        max: usize,
    },
    /// The object was taken away under its users: invalidated, resized, or the whole cache is gone.
    #[error("cookie {cookie}: its object was withdrawn from the cache")]
    Withdrawn {
        /// The cookie.
        cookie: CookieKey,
    },
    /// The cookie was given back; who still has it cannot use it any more.
    #[error("cookie {cookie}: relinquished")]
    Relinquished {
        /// The cookie.
        cookie: CookieKey,
    },
    /// The bytes of a hole could not be brought.
    #[error("cookie {cookie}: {range} could not be brought")]
    Bring {
        /// The cookie.
        cookie: CookieKey,
        /// What was asked for.
        range: ObjectRange,
        /// The error number for whoever reads.
        errno: i32,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The object is in use and cannot be taken away.
    #[error("cookie {cookie}: in use")]
    Busy {
        /// The cookie.
        cookie: CookieKey,
    },
    /// The cache's file system is full, or the quota is used up. Nothing was marked present.
    #[error("cookie {cookie}: {doing}: no space left in the cache")]
    NoSpace {
        /// The cookie.
        cookie: CookieKey,
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The storage below failed for a whole volume.
    #[error("volume {volume}: {doing} failed")]
    VolumeIo {
        /// The volume.
        volume: VolumeKey,
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The storage below failed.
    #[error("cookie {cookie}: {doing} failed")]
    Io {
        /// The cookie.
        cookie: CookieKey,
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// Wraps what the system said while `doing` something to `cookie`; a full disk becomes [`Error::NoSpace`].
    pub fn io(cookie: &CookieKey, doing: &'static str, source: io::Error) -> Self {
        let cookie = cookie.clone();
        match Errno::from_io_error(&source) {
            Some(Errno::NOSPC | Errno::DQUOT) => Self::NoSpace { cookie, doing, source },
            _ => Self::Io { cookie, doing, source },
        }
    }

    /// The error number that a kernel front end answers with.
    pub fn errno(&self) -> i32 {
        let errno = match self {
            Self::Bring { errno, .. } => return *errno,
            Self::Key { .. } | Self::OutOfBounds { .. } | Self::AuxTooLong { .. } => Errno::INVAL,
            Self::Withdrawn { .. } | Self::Relinquished { .. } | Self::Coherency { .. } => Errno::STALE,
            Self::Size { .. } => Errno::STALE,
            Self::TooLarge { .. } => Errno::FBIG,
            Self::Hole { .. } => Errno::NODATA,
            Self::Busy { .. } => Errno::BUSY,
            Self::NoSpace { .. } => Errno::NOSPC,
            Self::Io { source, .. } | Self::VolumeIo { source, .. } => {
                Errno::from_io_error(source).unwrap_or(Errno::IO)
            }
        };
        errno.raw_os_error()
    }

    /// What the operator can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Busy { .. } => Some("unmount what uses it first"),
            Self::NoSpace { .. } => {
                Some("make room on the cache's file system, or move the cache to a larger one")
            }
            Self::Io { .. } | Self::VolumeIo { .. } => {
                Some("check the health of the cache's file system (dmesg)")
            }
            Self::Size { .. } => {
                Some("two images claim the same content with different sizes: one of them is damaged")
            }
            Self::Withdrawn { .. } | Self::Coherency { .. } => {
                Some("open it again: the content changed, or the cache was taken away")
            }
            Self::Key { .. }
            | Self::TooLarge { .. }
            | Self::AuxTooLong { .. }
            | Self::OutOfBounds { .. }
            | Self::Hole { .. }
            | Self::Relinquished { .. }
            | Self::Bring { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_and_a_used_up_quota_are_both_no_space() {
        let cookie = CookieKey::new("c").expect("valid");
        for errno in [Errno::NOSPC, Errno::DQUOT] {
            let error = Error::io(&cookie, "writing", errno.into());
            assert!(matches!(error, Error::NoSpace { .. }), "{error:?}");
            assert_eq!(error.errno(), Errno::NOSPC.raw_os_error());
        }
    }

    #[test]
    fn an_error_keeps_its_number_and_one_without_a_number_is_eio() {
        let cookie = CookieKey::new("c").expect("valid");
        let with = Error::io(&cookie, "writing", Errno::ROFS.into());
        let without = Error::io(&cookie, "reading", io::ErrorKind::UnexpectedEof.into());
        assert_eq!([with.errno(), without.errno()], [Errno::ROFS.raw_os_error(), Errno::IO.raw_os_error()]);
    }
}
