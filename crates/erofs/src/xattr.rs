//! Extended attributes: name prefixes, the name filter, and entries on disk.

/// The prefixes that have a number, longest first where one begins another.
const PREFIXES: [(u8, &[u8]); 6] = [
    (1, b"user."),
    (2, b"system.posix_acl_access"),
    (3, b"system.posix_acl_default"),
    (4, b"trusted."),
    (5, b"lustre."),
    (6, b"security."),
];

/// Numbers from here on name a long prefix of the image.
pub(crate) const LONG_PREFIX: u8 = 0x80;
/// Never shown by the kernel, so not shown here.
pub(crate) const LUSTRE: u8 = 5;
/// Size of an entry before its name: two lengths and an index.
pub(crate) const ENTRY_HEADER_BYTES: usize = 4;

const FILTER_SEED: u32 = 0x25BB_E08F;

/// One attribute of an inode.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Xattr {
    /// The full name, prefix included, e.g. `user.comment`.
    pub name: Vec<u8>,
    /// The value, byte for byte.
    pub value: Vec<u8>,
}

/// Splits a full name into the number of its prefix and the rest; `None` when EROFS cannot store it.
pub(crate) fn split(name: &[u8]) -> Option<(u8, &[u8])> {
    PREFIXES.iter().find_map(|&(index, prefix)| {
        let rest = name.strip_prefix(prefix)?;
        // The ACL names are whole, the others need something behind the dot.
        (rest.is_empty() == matches!(index, 2 | 3)).then_some((index, rest))
    })
}

/// The text of prefix `index`.
pub(crate) fn prefix(index: u8) -> Option<&'static [u8]> {
    PREFIXES.iter().find(|row| row.0 == index).map(|row| row.1)
}

/// The bit of the name filter that is cleared when an inode has this name.
///
/// Source of truth: `xattr_iter_..` name filter, fs/erofs/xattr.c (v6.6 and later); `name` follows the
/// base prefix, the infix of a long prefix included.
pub(crate) fn filter_bit(base_index: u8, name: &[u8]) -> u32 {
    1 << (xxhash_rust::xxh32::xxh32(name, FILTER_SEED.wrapping_add(base_index.into())) & 31)
}

/// Header of an entry: lengths and index.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct EntryHeader {
    pub name_len: u8,
    pub name_index: u8,
    pub value_size: u16,
}

impl EntryHeader {
    pub(crate) fn decode(bytes: [u8; ENTRY_HEADER_BYTES]) -> Self {
        let [name_len, name_index, low, high] = bytes;
        Self { name_len, name_index, value_size: u16::from_le_bytes([low, high]) }
    }

    pub(crate) fn encode(self) -> [u8; ENTRY_HEADER_BYTES] {
        let [low, high] = self.value_size.to_le_bytes();
        [self.name_len, self.name_index, low, high]
    }

    /// Length of name and value together, without padding.
    pub(crate) fn payload(self) -> usize {
        usize::from(self.name_len) + usize::from(self.value_size)
    }

    /// Length of the whole entry, padded to four bytes.
    pub(crate) fn padded(self) -> usize {
        (ENTRY_HEADER_BYTES + self.payload()).next_multiple_of(4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_split_at_their_prefix() {
        assert_eq!(split(b"user.a"), Some((1, b"a".as_slice())));
        assert_eq!(split(b"system.posix_acl_access"), Some((2, b"".as_slice())));
        assert_eq!(split(b"system.posix_acl_default"), Some((3, b"".as_slice())));
        assert_eq!(split(b"security.capability"), Some((6, b"capability".as_slice())));
        for unknown in [b"user.".as_slice(), b"system.nfs4_acl", b"btrfs.compression", b"", b"userx"] {
            assert_eq!(split(unknown), None);
        }
    }

    #[test]
    fn the_acl_bits_of_the_filter_are_the_published_ones() {
        assert_eq!(filter_bit(2, b""), 1 << 30);
        assert_eq!(filter_bit(3, b""), 1 << 21);
    }

    #[test]
    fn an_entry_is_padded_to_four_bytes() {
        let header = EntryHeader { name_len: 3, name_index: 1, value_size: 0x1234 };
        assert_eq!(EntryHeader::decode(header.encode()), header);
        assert_eq!(EntryHeader { name_len: 1, name_index: 1, value_size: 0 }.padded(), 8);
        assert_eq!(EntryHeader { name_len: 2, name_index: 1, value_size: 2 }.padded(), 8);
    }
}
