//! One type per address space, so that no two of them can be mixed up.

use std::fmt;

use crate::Error;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub struct $name(u64);

        impl $name {
            /// Wraps a number read from disk or given by a caller.
            pub const fn new(value: u64) -> Self {
                Self(value)
            }

            /// Returns the bare number.
            pub const fn get(self) -> u64 {
                self.0
            }

            /// Returns the address `len` further on, or `None` beyond 2^64.
            pub const fn checked_add(self, len: u64) -> Option<Self> {
                match self.0.checked_add(len) {
                    Some(sum) => Some(Self(sum)),
                    None => None,
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

address! {
    /// A byte address in the logical space of one file: `m_la` in fs/erofs/internal.h.
    LogicalAddr
}

address! {
    /// A byte address on one device: `m_pa` in fs/erofs/internal.h.
    PhysicalAddr
}

address! {
    /// A node number: 32-byte slots from the start of the inode space. Bit 63 means the metabox.
    Nid
}

impl Nid {
    /// Bit 63: the inode lies in the metabox (v7.3, since 6.17).
    const METABOX: u64 = 1 << 63;

    /// The number of slot `slot` of the metabox.
    pub(crate) const fn new_in_metabox(slot: u64) -> Self {
        Self(slot | Self::METABOX)
    }

    /// Whether the inode lies in the metabox.
    pub const fn in_metabox(self) -> bool {
        self.0 & Self::METABOX != 0
    }

    /// The slot in its space: the number without bit 63.
    pub(crate) const fn slot(self) -> u64 {
        self.0 & !Self::METABOX
    }
}

/// A byte address among the metadata, which live in two spaces.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum MetaAddr {
    /// On the primary device.
    Primary(u64),
    /// In the decoded contents of the metabox inode (Linux 6.17).
    Metabox(u64),
}

impl MetaAddr {
    /// The bare number.
    pub const fn get(self) -> u64 {
        match self {
            Self::Primary(at) | Self::Metabox(at) => at,
        }
    }

    /// The address `at` of the same space.
    pub const fn with(self, at: u64) -> Self {
        match self {
            Self::Primary(_) => Self::Primary(at),
            Self::Metabox(_) => Self::Metabox(at),
        }
    }

    /// The address `len` further on, or `None` beyond 2^64.
    pub fn checked_add(self, len: u64) -> Option<Self> {
        self.get().checked_add(len).map(|at| self.with(at))
    }

    /// Rounds up to a multiple of `align`, or `None` beyond 2^64.
    pub fn align_up(self, align: u64) -> Option<Self> {
        self.get().checked_next_multiple_of(align).map(|at| self.with(at))
    }
}

/// A device: 0 is the image itself, `n` the n-th slot of the device table.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct DeviceId(u16);

impl DeviceId {
    /// The device that holds the metadata.
    pub const PRIMARY: Self = Self(0);

    /// Wraps an id.
    pub const fn new(id: u16) -> Self {
        Self(id)
    }

    /// Returns the bare number.
    pub const fn get(self) -> u16 {
        self.0
    }

    /// Returns the index into the device table, or `None` for the primary device.
    pub fn slot(self) -> Option<usize> {
        usize::from(self.0).checked_sub(1)
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A block size: a power of two from 512 bytes to 64 KiB.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct BlockSize {
    bits: u8,
}

impl BlockSize {
    /// 4096 bytes, the page size of most machines and the default of every writer.
    pub const B4096: Self = Self { bits: 12 };

    /// Reads the on-disk exponent of the block size: 12 stands for 4096 bytes.
    ///
    /// Source of truth: `blkszbits` in `erofs_read_superblock()`, fs/erofs/super.c (v7.3).
    ///
    /// # Errors
    ///
    /// [`Error::BlockSize`] when `bits` lies outside `9..=16`, that is 512 B to 64 KiB.
    ///
    /// # Examples
    ///
    /// ```
    /// # use larder_erofs::{BlockSize, Error};
    /// assert_eq!(BlockSize::from_bits(12)?.bytes(), 4096);
    /// assert!(matches!(BlockSize::from_bits(8), Err(Error::BlockSize { bits: 8 })));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn from_bits(bits: u8) -> Result<Self, Error> {
        match bits {
            9..=16 => Ok(Self { bits }),
            _ => Err(Error::BlockSize { bits }),
        }
    }

    /// Base-2 logarithm of the size.
    pub const fn bits(self) -> u8 {
        self.bits
    }

    /// The size in bytes.
    pub const fn bytes(self) -> u64 {
        1 << self.bits
    }

    /// The size in bytes, as a buffer length.
    pub const fn buffer_len(self) -> usize {
        1 << self.bits
    }

    /// How many blocks `len` bytes take.
    pub const fn blocks(self, len: u64) -> u64 {
        len.div_ceil(self.bytes())
    }

    /// Position of `at` within its block.
    pub const fn offset(self, at: u64) -> u64 {
        at & (self.bytes() - 1)
    }

    /// Rounds up to a block boundary, or `None` beyond 2^64.
    pub const fn align_up(self, at: u64) -> Option<u64> {
        at.checked_next_multiple_of(self.bytes())
    }

    /// Byte address of block `block`, or `None` beyond 2^64.
    pub fn address(self, block: u64) -> Option<PhysicalAddr> {
        block.checked_mul(self.bytes()).map(PhysicalAddr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_do_not_wrap() {
        assert_eq!(LogicalAddr::new(u64::MAX).checked_add(1), None);
        assert_eq!(BlockSize::B4096.address(1 << 52), None);
        assert_eq!(BlockSize::B4096.align_up(u64::MAX), None);
    }

    #[test]
    fn blocks_count_the_last_one_too() {
        assert_eq!(BlockSize::B4096.blocks(0), 0);
        assert_eq!(BlockSize::B4096.blocks(4096), 1);
        assert_eq!(BlockSize::B4096.blocks(4097), 2);
    }
}
