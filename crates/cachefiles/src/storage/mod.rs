//! [`Storage`]: the few things that the cache asks of a file system, so that a test can crash it anywhere.
//!
//! Paths are relative to the root of the cache. What lasts through a power loss: data after `fdatasync`
//! or `fsync` on the file, attributes of a file after `fsync`, names and attributes of a folder after
//! `fsync_dir` on it. Nothing else does.

mod disk;
mod handle;
#[cfg(test)]
pub(crate) mod sim;
mod writers;

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use crate::layout::folder_of;

pub(crate) use disk::Disk;
pub(crate) use handle::{FileHandle, Sighting};

/// A directory tree.
pub(crate) trait Storage: Send + Sync + 'static {
    /// Makes a folder; returns whether it is new.
    fn mkdir(&self, path: &str) -> io::Result<bool>;

    /// Makes a file that must not exist, for reading and writing.
    fn create(&self, path: &str) -> io::Result<Box<dyn StorageFile>>;

    /// Opens a regular file; a symbolic link is refused.
    fn open(&self, path: &str, access: Access) -> io::Result<Box<dyn StorageFile>>;

    /// The handle of the file or folder that has a name now, on the mount of the root: what is mounted below has none. `None`
    /// when nothing has the name, and where files cannot be opened by their handles.
    fn handle_at(&self, path: &str) -> io::Result<Option<FileHandle>>;

    /// Opens the file with a handle, whatever name it has now, be it none. ESTALE when it is gone.
    fn open_by_handle(&self, handle: &FileHandle, access: Access) -> io::Result<Box<dyn StorageFile>>;

    /// Takes over a descriptor that an earlier process had opened.
    fn adopt(&self, fd: OwnedFd) -> io::Result<Box<dyn StorageFile>>;

    /// Renames a file over whatever has the new name, or a folder to a name that nothing has.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file; returns whether there was one.
    fn unlink(&self, path: &str) -> io::Result<bool>;

    /// Removes an empty folder; returns whether there was one.
    fn rmdir(&self, path: &str) -> io::Result<bool>;

    /// The attribute `name` of a folder, cut at [`ATTR_BYTES_MAX`]; `None` when folder or attribute is missing.
    fn dir_attr(&self, path: &str, name: AttrName) -> io::Result<Option<Vec<u8>>>;

    /// Sets the attribute `name` of a folder.
    fn set_dir_attr(&self, path: &str, name: AttrName, value: &[u8]) -> io::Result<()>;

    /// Seals a file that is open for reading with fs-verity; returns whether its file system has that. Blocks: the
    /// kernel reads all of it. ETXTBSY while anybody has it open for writing.
    fn enable_verity(&self, fd: BorrowedFd<'_>) -> io::Result<bool>;

    /// Whether a file is open anywhere else than through `fd` and its copies: by a mount, say.
    fn is_open_elsewhere(&self, fd: BorrowedFd<'_>) -> io::Result<bool>;

    /// What the file system has, and what is left of it.
    fn statfs(&self) -> io::Result<Space>;

    /// Makes the names in a folder durable, and its attributes.
    fn fsync_dir(&self, path: &str) -> io::Result<()>;

    /// The names in a folder, in no order; none when it is no folder.
    fn list(&self, path: &str) -> io::Result<Vec<String>>;

    /// Looks at a name without following it; `None` when nothing has it.
    fn stat(&self, path: &str) -> io::Result<Option<Stat>>;
}

/// An open file.
pub(crate) trait StorageFile: Send + Sync {
    /// Reads up to `buf.len()` bytes; 0 at the end.
    fn pread(&self, buf: &mut [u8], at: u64) -> io::Result<usize>;

    /// Writes up to `data.len()` bytes.
    fn pwrite(&self, data: &[u8], at: u64) -> io::Result<usize>;

    /// Sets the length. Only ever before any front end can have a mark on the file: later it would ask
    /// for permission, and nobody would be left to give it.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Makes the data durable, and the length.
    fn fdatasync(&self) -> io::Result<()>;

    /// Makes data and attributes durable.
    fn fsync(&self) -> io::Result<()>;

    /// Sets the permission bits.
    fn set_mode(&self, mode: u32) -> io::Result<()>;

    /// The attribute `name`, cut at [`ATTR_BYTES_MAX`]; `None` when it is missing.
    fn attr(&self, name: AttrName) -> io::Result<Option<Vec<u8>>>;

    /// Sets the attribute `name`.
    fn set_attr(&self, name: AttrName, value: &[u8]) -> io::Result<()>;

    /// Gives the blocks of a range back; it reads as zeros then. The length stays.
    fn punch(&self, at: u64, len: u64) -> io::Result<()>;

    /// Sets the time of the last access to now.
    fn touch(&self) -> io::Result<()>;

    /// Looks at the file.
    fn stat(&self) -> io::Result<Stat>;

    /// The descriptor.
    fn as_fd(&self) -> BorrowedFd<'_>;
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Access {
    Read,
    ReadWrite,
}

/// What is known about a file without reading it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Stat {
    pub kind: Kind,
    pub dev: u64,
    pub ino: u64,
    /// Whether it has one name, no other and no fewer.
    pub has_one_name: bool,
    /// Length in bytes.
    pub len: u64,
    /// Bytes that it takes on the disk.
    pub stored: u64,
    /// When it was used last, in milliseconds since 1970.
    pub used_ms: u64,
    /// When anything about it was changed last, its names included, in nanoseconds since 1970.
    pub changed_ns: u64,
}

/// Name of an extended attribute.
pub(crate) type AttrName = &'static str;

/// No attribute of ours is longer.
pub(crate) const ATTR_BYTES_MAX: usize = 256;

/// What a file system has, and what of it an ordinary user can still have.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Space {
    pub bytes: u64,
    pub bytes_free: u64,
    /// 0 where files are not counted (btrfs).
    pub files: u64,
    pub files_free: u64,
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    File,
    Dir,
    Other,
}

/// Reads until `buf` is full.
pub(crate) fn read_exact(file: &dyn StorageFile, mut buf: &mut [u8], mut at: u64) -> io::Result<()> {
    while !buf.is_empty() {
        match file.pread(buf, at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(len) => {
                buf = &mut buf[len..];
                at += len as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes until nothing of `data` is left.
pub(crate) fn write_all(file: &dyn StorageFile, mut data: &[u8], mut at: u64) -> io::Result<()> {
    while !data.is_empty() {
        match file.pwrite(data, at) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(len) => {
                data = &data[len..];
                at += len as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Makes a folder whose parent exists, durably.
pub(crate) fn mkdir_durably(storage: &dyn Storage, path: &str) -> io::Result<()> {
    if storage.mkdir(path)? {
        storage.fsync_dir(folder_of(path))?;
    }
    Ok(())
}
