//! [`Compared`]: whether a file is all of a device.

use std::os::fd::OwnedFd;

/// Longest tail of a file of so many bytes that is compared with that of its device. Those of the builder are shorter: than a chunk
/// (4 MiB at most), or a thousandth of the file, up to 16 MiB.
pub(crate) fn tail_bytes_max(size: u64) -> u64 {
    (size >> 10).clamp(4 << 20, 16 << 20)
}

/// What came of comparing a file with its device.
#[derive(Debug)]
pub enum Compared {
    /// They have the same bytes: the local file.
    Same(OwnedFd),
    /// Something is missing yet.
    Missing,
    /// They are different, or too much would have to be compared: for good.
    Different,
}
