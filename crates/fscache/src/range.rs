//! [`ObjectRange`] and [`BlockSize`]: the address space of a cache object.

use std::fmt;

/// A half-open range of bytes of a cache object, that is of a blob's *decoded* data.
///
/// The stored side has a type of its own (`larder_remote::BlobRange`), so that the two cannot be mixed.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ObjectRange {
    start: u64,
    end: u64,
}

impl ObjectRange {
    /// Returns the range `start..end`, or `None` when it runs backwards.
    pub const fn new(start: u64, end: u64) -> Option<Self> {
        if start <= end { Some(Self { start, end }) } else { None }
    }

    /// Returns the range of `len` bytes from `start`, cut off at 2^64 - 1.
    pub const fn at(start: u64, len: u64) -> Self {
        Self { start, end: start.saturating_add(len) }
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

    /// Returns what lies below `size` (possibly nothing).
    pub const fn clamp_to(self, size: u64) -> Self {
        let start = if self.start < size { self.start } else { size };
        let end = if self.end < size { self.end } else { size };
        Self { start, end }
    }
}

impl fmt::Display for ObjectRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}

/// The granule of presence: a power of two from 512 bytes to 64 KiB.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BlockSize {
    bits: u8,
}

impl BlockSize {
    /// 4 KiB, what Larder's own backends use.
    pub const FOUR_KIB: Self = Self { bits: 12 };

    /// Returns the block size of 2^`bits` bytes, or `None` when `bits` lies outside `9..=16`.
    pub const fn from_bits(bits: u8) -> Option<Self> {
        if bits >= 9 && bits <= 16 { Some(Self { bits }) } else { None }
    }

    /// The exponent: 12 stands for 4096 bytes.
    pub const fn bits(self) -> u8 {
        self.bits
    }

    /// Bytes in a block.
    pub const fn bytes(self) -> u64 {
        1 << self.bits
    }

    /// Rounds `at` down to a block boundary.
    pub const fn round_down(self, at: u64) -> u64 {
        at & !(self.bytes() - 1)
    }

    /// Rounds `at` up to a block boundary, or returns `None` beyond 2^64.
    pub const fn round_up(self, at: u64) -> Option<u64> {
        match at.checked_add(self.bytes() - 1) {
            Some(sum) => Some(self.round_down(sum)),
            None => None,
        }
    }

    /// Number of blocks that `len` bytes occupy.
    pub const fn count(self, len: u64) -> u64 {
        len.div_ceil(self.bytes())
    }
}
