//! [`Refusing`]: whoever asks gets EIO.

use super::dir::Listing;
use super::file_system::{
    Attributes, Data, Entry, Errno, FileSystem, ListAt, NodeId, Opened, OpenedDir, Outcome, ReadAt, Size,
    Validity,
};

/// A file system that nobody can read, in the place of one that nobody takes up. The kernel keeps nothing of what it is
/// told: whoever takes the file system up later finds it as it was.
pub(super) struct Refusing;

impl FileSystem for Refusing {
    /// Without state the kernel would be told once and for all that opening means nothing.
    fn has_state(&self) -> bool {
        true
    }

    fn lookup(&self, _: NodeId, _: &[u8]) -> Outcome<Entry> {
        Outcome::error(libc::EIO)
    }

    fn getattr(&self, _: NodeId) -> Outcome<(Attributes, Validity)> {
        Outcome::error(libc::EIO)
    }

    fn readlink(&self, _: NodeId) -> Outcome<Vec<u8>> {
        Outcome::error(libc::EIO)
    }

    fn open(&self, _: NodeId) -> Outcome<Opened> {
        Outcome::error(libc::EIO)
    }

    fn opendir(&self, _: NodeId) -> Outcome<OpenedDir> {
        Outcome::error(libc::EIO)
    }

    fn read(&self, _: ReadAt, _: &mut Vec<u8>) -> Outcome<Data> {
        Outcome::error(libc::EIO)
    }

    fn readdir(&self, _: ListAt, _: Listing) -> Outcome<Listing> {
        Outcome::error(libc::EIO)
    }

    /// There is no way to fail: a size of nothing.
    fn statfs(&self) -> Size {
        Size::default()
    }

    fn xattr(&self, _: NodeId, _: &[u8]) -> Result<Option<Vec<u8>>, Errno> {
        Err(libc::EIO)
    }

    fn xattrs(&self, _: NodeId) -> Result<Vec<Vec<u8>>, Errno> {
        Err(libc::EIO)
    }
}
