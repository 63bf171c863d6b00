//! Directories: lookup by binary search, listing from any place.

use std::ops::Range;

use super::Image;
use crate::dirent::{DIRENT_BYTES, DirBlock, Dirent};
use crate::{DirFault, Error, FileType, Inode, LogicalAddr, Nid};

/// One entry of a directory.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DirEntry {
    /// The inode it names.
    pub nid: Nid,
    /// The kind it claims; `None` when the entry does not say.
    pub kind: Option<FileType>,
    /// The name: 1 to 255 bytes of any encoding, without `/` and NUL.
    pub name: Vec<u8>,
    /// Where a listing goes on after this entry; stable for the life of the image and never 0.
    pub next: u64,
}

/// One entry of a directory, for as long as the listing stands at it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DirEntryRef<'a> {
    /// The inode it names.
    pub nid: Nid,
    /// The kind it claims; `None` when the entry does not say.
    pub kind: Option<FileType>,
    /// The name: 1 to 255 bytes of any encoding, without `/` and NUL.
    pub name: &'a [u8],
    /// Where a listing goes on after this entry; stable for the life of the image and never 0.
    pub next: u64,
}

impl DirEntryRef<'_> {
    /// The same with a name of its own.
    pub fn to_entry(&self) -> DirEntry {
        DirEntry { nid: self.nid, kind: self.kind, name: self.name.to_vec(), next: self.next }
    }
}

/// A listing under way; see [`Image::read_dir_from`]. As an iterator it allocates each name,
/// [`next_entry`](Self::next_entry) does not.
#[derive(Debug)]
pub struct ReadDir<'a> {
    image: &'a Image,
    dir: Inode,
    /// The block at hand and its number.
    block: Vec<u8>,
    number: Option<u64>,
    /// Place of the next entry: block * B + 12 * index, the kernel's `ctx->pos`.
    at: u64,
    /// The last name given: order is what lookup relies on, and what makes every listing end.
    last: LastName,
}

/// A name that was given.
#[derive(Debug)]
enum LastName {
    /// In a block that is not at hand any more; empty before the first.
    Kept(Vec<u8>),
    /// In the block at hand.
    InBlock(Range<usize>),
}

impl Image {
    /// Finds `name` in `dir`; `.` and `..` are found too.
    ///
    /// Reads about log2 of the number of blocks, and one buffer of a block is all it allocates.
    ///
    /// # Errors
    ///
    /// [`Error::NotDirectory`], and [`Error::Directory`] when a block on the way is damaged.
    pub fn lookup(&self, dir: &Inode, name: &[u8]) -> Result<Option<DirEntry>, Error> {
        let blocks = self.dir_blocks(dir)?;
        if dir.dot_omitted && name == b"." {
            return Ok(Some(self.omitted_dot(dir).to_entry()));
        }
        // Find the last block whose first name is not above `name`: as `erofs_find_target_block()` does.
        let (mut low, mut high) = (0, blocks);
        let mut probe = Vec::new();
        let mut candidate: Option<(u64, Vec<u8>)> = None;
        while low < high {
            let middle = low + (high - low) / 2;
            self.read_dir_block(dir, middle, &mut probe)?;
            let fault = |fault| Error::Directory { nid: dir.nid, block: middle, fault };
            let block = DirBlock::parse(&probe).map_err(fault)?;
            if block.entry(0).map_err(fault)?.name > name {
                high = middle;
            } else {
                low = middle + 1;
                let spare = candidate.take().map(|(_, buffer)| buffer).unwrap_or_default();
                candidate = Some((middle, std::mem::replace(&mut probe, spare)));
            }
        }
        let Some((number, bytes)) = candidate else { return Ok(None) };
        let fault = |fault| Error::Directory { nid: dir.nid, block: number, fault };
        let block = DirBlock::parse(&bytes).map_err(fault)?;
        let found = block.find(name).map_err(fault)?;
        Ok(found.map(|(index, entry)| self.dir_entry(entry, number, index, block.count()).to_entry()))
    }

    /// Lists `dir` from its beginning, in the order of the names' bytes.
    ///
    /// # Errors
    ///
    /// [`Error::NotDirectory`]. Damage is reported by the iterator, which ends after its first error.
    pub fn read_dir(&self, dir: &Inode) -> Result<ReadDir<'_>, Error> {
        self.read_dir_from(dir, 0)
    }

    /// Lists `dir` from `cookie` on: 0, or [`DirEntry::next`] of an entry of the same directory.
    ///
    /// # Errors
    ///
    /// As [`read_dir`](Self::read_dir).
    pub fn read_dir_from(&self, dir: &Inode, cookie: u64) -> Result<ReadDir<'_>, Error> {
        self.read_dir_after(dir, cookie, Vec::new())
    }

    /// Lists from `cookie` on, where `last` is the name before it.
    pub(super) fn read_dir_after(
        &self,
        dir: &Inode,
        cookie: u64,
        last: Vec<u8>,
    ) -> Result<ReadDir<'_>, Error> {
        self.dir_blocks(dir)?;
        let last = LastName::Kept(last);
        Ok(ReadDir { image: self, dir: *dir, block: Vec::new(), number: None, at: cookie, last })
    }

    /// Number of blocks of a directory.
    pub(crate) fn dir_blocks(&self, dir: &Inode) -> Result<u64, Error> {
        if dir.kind == FileType::Directory {
            Ok(self.superblock.block_size.blocks(dir.size))
        } else {
            Err(Error::NotDirectory { nid: dir.nid })
        }
    }

    /// Reads block `number` of a directory into `buffer`, as far as the directory's size reaches.
    pub(crate) fn read_dir_block(&self, dir: &Inode, number: u64, buffer: &mut Vec<u8>) -> Result<(), Error> {
        let block_size = self.superblock.block_size;
        let start = number * block_size.bytes();
        let len = (dir.size - start).min(block_size.bytes());
        buffer.resize(usize::try_from(len).unwrap_or(block_size.buffer_len()), 0);
        self.read_contents(dir, LogicalAddr::new(start), buffer)
    }

    fn dir_entry<'e>(&self, entry: Dirent<'e>, block: u64, index: usize, count: usize) -> DirEntryRef<'e> {
        let start = block * self.superblock.block_size.bytes();
        let next = if index + 1 < count {
            start + ((index + 1) * DIRENT_BYTES) as u64
        } else {
            start + self.superblock.block_size.bytes()
        };
        DirEntryRef { nid: entry.nid, kind: entry.kind, name: entry.name, next }
    }

    /// The `.` that newer images leave out; the kernel emits it after all others.
    fn omitted_dot(&self, dir: &Inode) -> DirEntryRef<'static> {
        let next = self.omitted_dot_at(dir) + 1;
        DirEntryRef { nid: dir.nid, kind: Some(FileType::Directory), name: b".", next }
    }

    fn omitted_dot_at(&self, dir: &Inode) -> u64 {
        // The size is below 2^63, so rounding it up cannot overflow.
        dir.size.next_multiple_of(self.superblock.block_size.bytes())
    }
}

impl ReadDir<'_> {
    /// The next entry, or `None` at the end.
    ///
    /// # Errors
    ///
    /// [`Error::Directory`] for damage, and what reading fails with; nothing follows an error.
    pub fn next_entry(&mut self) -> Result<Option<DirEntryRef<'_>>, Error> {
        let image = self.image;
        match self.step() {
            Ok(None) => Ok(None),
            Ok(Some(Step::Dot)) => Ok(Some(image.omitted_dot(&self.dir))),
            Ok(Some(Step::Entry { nid, kind, name, next })) => {
                Ok(Some(DirEntryRef { nid, kind, name: &self.block[name], next }))
            }
            Err(error) => {
                self.at = u64::MAX;
                Err(error)
            }
        }
    }

    fn step(&mut self) -> Result<Option<Step>, Error> {
        let block_size = self.image.superblock.block_size;
        if self.at >= self.dir.size {
            let dot_at = self.image.omitted_dot_at(&self.dir);
            if !self.dir.dot_omitted || self.at > dot_at {
                return Ok(None);
            }
            self.at = dot_at + 1;
            return Ok(Some(Step::Dot));
        }
        let number = self.at / block_size.bytes();
        if self.number != Some(number) {
            self.read_block(number)?;
        }
        let fault = |fault| Error::Directory { nid: self.dir.nid, block: number, fault };
        let block = DirBlock::parse(&self.block).map_err(fault)?;
        let index = usize::try_from(block_size.offset(self.at)).unwrap_or(usize::MAX) / DIRENT_BYTES;
        if index >= block.count() {
            // A cookie of another directory, or none at all.
            return Err(fault(DirFault::Name { index }));
        }
        let entry = block.entry(index).map_err(fault)?;
        // Without a way out in the middle this is a few instructions for a name.
        if entry.name.iter().fold(false, |found, &byte| found | (byte == b'/') | (byte == 0)) {
            return Err(fault(DirFault::NameByte { index }));
        }
        let last = match &self.last {
            LastName::Kept(name) => name.as_slice(),
            LastName::InBlock(name) => &self.block[name.clone()],
        };
        if entry.name <= last {
            return Err(fault(DirFault::Order { index }));
        }
        let DirEntryRef { nid, kind, next, .. } = self.image.dir_entry(entry, number, index, block.count());
        let name = entry.name_at..entry.name_at + entry.name.len();
        self.last = LastName::InBlock(name.clone());
        self.at = next;
        Ok(Some(Step::Entry { nid, kind, name, next }))
    }

    fn read_block(&mut self, number: u64) -> Result<(), Error> {
        if let LastName::InBlock(name) = &self.last {
            self.last = LastName::Kept(self.block[name.clone()].to_vec());
        }
        self.number = None;
        self.image.read_dir_block(&self.dir, number, &mut self.block)?;
        self.number = Some(number);
        Ok(())
    }
}

/// What a listing has come to.
enum Step {
    /// The `.` that is not written down.
    Dot,
    /// An entry of the block at hand.
    Entry { nid: Nid, kind: Option<FileType>, name: Range<usize>, next: u64 },
}

impl Iterator for ReadDir<'_> {
    type Item = Result<DirEntry, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_entry().map(|entry| entry.map(|entry| entry.to_entry())).transpose()
    }
}

impl std::iter::FusedIterator for ReadDir<'_> {}
