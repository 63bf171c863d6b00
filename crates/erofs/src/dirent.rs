//! A directory block: 12-byte entries, then the names they point at.

use zerocopy::little_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{DirFault, FileType, Nid};

/// Size of an entry on disk, its name aside.
pub(crate) const DIRENT_BYTES: usize = size_of::<RawDirent>();
/// The longest name.
pub(crate) const NAME_BYTES_MAX: usize = 255;

/// A directory entry as it stands on disk.
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawDirent {
    pub nid: U64,
    pub nameoff: U16,
    pub file_type: u8,
    pub reserved: u8,
}

/// One checked block of a directory.
#[derive(Clone, Copy)]
pub(crate) struct DirBlock<'a> {
    bytes: &'a [u8],
    count: usize,
}

/// One entry of a block.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Dirent<'a> {
    pub nid: Nid,
    pub kind: Option<FileType>,
    pub name: &'a [u8],
    /// Where in the block the name begins.
    pub name_at: usize,
}

impl<'a> DirBlock<'a> {
    /// Checks the first entry, which also tells how many there are.
    ///
    /// `bytes` is the block as far as the directory's size reaches.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, DirFault> {
        let first = bytes.get(8..10).ok_or(DirFault::Short { len: bytes.len() })?;
        let nameoff = usize::from(u16::from_le_bytes([first[0], first[1]]));
        if nameoff == 0 || nameoff % DIRENT_BYTES != 0 || nameoff >= bytes.len() {
            return Err(DirFault::FirstName { nameoff });
        }
        Ok(Self { bytes, count: nameoff / DIRENT_BYTES })
    }

    /// Number of entries, at least one.
    pub(crate) fn count(self) -> usize {
        self.count
    }

    /// Returns entry `index` with its name.
    pub(crate) fn entry(self, index: usize) -> Result<Dirent<'a>, DirFault> {
        let raw = self.raw(index)?;
        let start = usize::from(raw.nameoff.get());
        let lies = DirFault::Name { index };
        if start < self.count * DIRENT_BYTES {
            return Err(lies);
        }
        let name = if index + 1 < self.count {
            let end = usize::from(self.raw(index + 1)?.nameoff.get());
            self.bytes.get(start..end).ok_or(lies)?
        } else {
            let rest = self.bytes.get(start..).ok_or(lies)?;
            &rest[..rest.iter().position(|&byte| byte == 0).unwrap_or(rest.len())]
        };
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return Err(lies);
        }
        let kind = FileType::from_dirent(raw.file_type);
        Ok(Dirent { nid: Nid::new(raw.nid.get()), kind, name, name_at: start })
    }

    /// Finds `name` by binary search, as `find_target_dirent()` in fs/erofs/namei.c (v7.3) does.
    pub(crate) fn find(self, name: &[u8]) -> Result<Option<(usize, Dirent<'a>)>, DirFault> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            let entry = self.entry(middle)?;
            match entry.name.cmp(name) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Ok(Some((middle, entry))),
            }
        }
        Ok(None)
    }

    fn raw(self, index: usize) -> Result<RawDirent, DirFault> {
        let bytes = self.bytes.get(index * DIRENT_BYTES..(index + 1) * DIRENT_BYTES);
        bytes.and_then(|bytes| RawDirent::read_from_bytes(bytes).ok()).ok_or(DirFault::Name { index })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A block with these names, padded to `len`.
    fn block(names: &[&[u8]], len: usize) -> Vec<u8> {
        let mut nameoff = names.len() * DIRENT_BYTES;
        let mut bytes = Vec::new();
        for (index, name) in names.iter().enumerate() {
            let offset = u16::try_from(nameoff).expect("small");
            let raw =
                RawDirent { nid: (index as u64).into(), nameoff: offset.into(), file_type: 1, reserved: 0 };
            bytes.extend(raw.as_bytes());
            nameoff += name.len();
        }
        bytes.extend(names.concat());
        bytes.resize(len.max(bytes.len()), 0);
        bytes
    }

    #[test]
    fn names_are_found_and_absent_ones_are_not() {
        for len in [0, 512] {
            let bytes = block(&[b".", b"..", b"a", b"ab", b"\xff"], len);
            let parsed = DirBlock::parse(&bytes).expect("well formed");
            assert_eq!(parsed.count(), 5);
            for (index, name) in [b".".as_slice(), b"..", b"a", b"ab", b"\xff"].iter().enumerate() {
                let (found, entry) = parsed.find(name).expect("sound").expect("present");
                assert_eq!((found, entry.name), (index, *name));
            }
            for name in [b"".as_slice(), b"!", b"aa", b"b", b"\xff\xff"] {
                assert_eq!(parsed.find(name).expect("sound"), None);
            }
        }
    }

    #[test]
    fn lying_offsets_are_faults() {
        for nameoff in [0_u16, 1, 13, 512, 516, u16::MAX] {
            let mut bytes = block(&[b"a", b"b"], 512);
            bytes[8..10].copy_from_slice(&nameoff.to_le_bytes());
            assert!(DirBlock::parse(&bytes).is_err(), "first name at {nameoff}");
        }
        for nameoff in [0_u16, 23, 24, 512, u16::MAX] {
            let mut bytes = block(&[b"a", b"b"], 512);
            bytes[20..22].copy_from_slice(&nameoff.to_le_bytes());
            let parsed = DirBlock::parse(&bytes).expect("the first entry is sound");
            assert!(parsed.entry(0).is_err() || parsed.entry(1).is_err(), "second name at {nameoff}");
        }
        assert!(DirBlock::parse(&[0; 9]).is_err());
    }
}
