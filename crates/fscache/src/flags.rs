//! [`ReadFlags`]: what is known about a slice of a read beside its range.

use std::fmt;

use bitflags::bitflags;

bitflags! {
    /// Flags of one slice of a read. Positions are those of `NETFS_SREQ_*` (include/linux/netfs.h, v6.1), so
    /// that a trace reads beside the kernel's.
    #[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
    pub struct ReadFlags: u16 {
        /// Write what was downloaded to the cache.
        const COPY_TO_CACHE = 1 << 0;
        /// Fill the rest of a short slice with zeros: it crosses the end of the file.
        const CLEAR_TAIL = 1 << 1;
        /// Skip holes at the front: the client wants data, not zeros.
        const SEEK_DATA_READ = 1 << 3;
        /// The last try brought nothing.
        const NO_PROGRESS = 1 << 4;
        /// Have holes brought instead of leaving the download to the client.
        const ONDEMAND = 1 << 5;
    }
}

impl fmt::Display for ReadFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}", self.bits())
    }
}
