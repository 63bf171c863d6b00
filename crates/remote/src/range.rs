//! [`BlobRange`]: a range of bytes of a blob as it is stored on the far side.

use std::fmt;

/// A half-open range of bytes in a blob *as stored*: the address space of the wire.
///
/// The decoded side has a type of its own (`larder_fscache::ObjectRange`), so that the two cannot be mixed.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct BlobRange {
    start: u64,
    end: u64,
}

impl BlobRange {
    /// Returns the range `start..end`, or `None` when it runs backwards.
    pub const fn new(start: u64, end: u64) -> Option<Self> {
        if start <= end { Some(Self { start, end }) } else { None }
    }

    /// Returns the range of `len` bytes from `start`, or `None` beyond 2^64.
    pub const fn at(start: u64, len: u64) -> Option<Self> {
        match start.checked_add(len) {
            Some(end) => Some(Self { start, end }),
            None => None,
        }
    }

    /// First byte.
    pub const fn start(self) -> u64 {
        self.start
    }

    /// First byte after the range.
    pub const fn end(self) -> u64 {
        self.end
    }

    /// Length in bytes.
    pub const fn len(self) -> u64 {
        self.end - self.start
    }

    /// Whether the range has no bytes.
    pub const fn is_empty(self) -> bool {
        self.start == self.end
    }
}

impl fmt::Display for BlobRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bytes {}..{}", self.start, self.end)
    }
}
