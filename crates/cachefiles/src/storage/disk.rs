//! [`Disk`]: the storage that is a directory.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{
    self, AtFlags, FallocateFlags, FileType, Mode, OFlags, RawDir, Timespec, Timestamps, UTIME_NOW,
    UTIME_OMIT, XattrFlags,
};
use rustix::io::Errno;

use larder_faults::{Site, check, length};

use super::writers::Writers;
use super::{ATTR_BYTES_MAX, Access, AttrName, FileHandle, Kind, Space, Stat, Storage, StorageFile};
use crate::sys::{MountId, enable_verity, handle_at, is_open_elsewhere, open_by_handle};

/// A directory of the machine. Everything goes through its descriptor: a rename of the root does no harm.
pub(crate) struct Disk {
    root: OwnedFd,
    /// The mount of the root; none where nothing can be opened by its handle.
    handles: Option<MountId>,
}

impl Disk {
    /// Opens the directory at `root`.
    pub fn open(root: &Path) -> io::Result<Self> {
        let root = fs::open(root, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { handles: mount_of_handles(&root), root })
    }

    fn open_dir(&self, path: &str) -> io::Result<OwnedFd> {
        let path = if path.is_empty() { "." } else { path };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(fs::openat(&self.root, path, flags, Mode::empty())?)
    }
}

/// The mount that `root` lies on, if what is there can be opened by its handle: that takes a file system with handles, and
/// CAP_DAC_READ_SEARCH. The root is not opened as a folder: since Linux 6.11 some may open folders who may open nothing else.
fn mount_of_handles(root: &OwnedFd) -> Option<MountId> {
    let (handle, mount) = handle_at(root.as_fd(), c"").ok().flatten()?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    open_by_handle(root.as_fd(), &handle, flags).ok().map(|_| mount)
}

/// How a file is opened that exists.
fn flags_of(access: Access) -> OFlags {
    let access = match access {
        Access::Read => OFlags::RDONLY,
        Access::ReadWrite => OFlags::RDWR,
    };
    access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC
}

/// The file is the owner's only: other people's images are nobody's business.
const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);
const DIR_MODE: Mode = Mode::RWXU;

impl Storage for Disk {
    fn mkdir(&self, path: &str) -> io::Result<bool> {
        check(Site::CachefilesMkdir)?;
        match fs::mkdirat(&self.root, path, DIR_MODE) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    fn create(&self, path: &str) -> io::Result<Box<dyn StorageFile>> {
        check(Site::CachefilesCreate)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = fs::openat(&self.root, path, flags, FILE_MODE)?;
        Ok(Box::new(DiskFile::new(file.into())))
    }

    fn open(&self, path: &str, access: Access) -> io::Result<Box<dyn StorageFile>> {
        check(Site::CachefilesOpen)?;
        let file = fs::openat(&self.root, path, flags_of(access), Mode::empty())?;
        Ok(Box::new(DiskFile::new(file.into())))
    }

    fn handle_at(&self, path: &str) -> io::Result<Option<FileHandle>> {
        let Some(ours) = self.handles else { return Ok(None) };
        check(Site::CachefilesHandle)?;
        let found = match handle_at(self.root.as_fd(), &CString::new(path)?) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            found => found?,
        };
        Ok(found.filter(|(_, mount)| *mount == ours).map(|(handle, _)| handle))
    }

    fn open_by_handle(&self, handle: &FileHandle, access: Access) -> io::Result<Box<dyn StorageFile>> {
        check(Site::CachefilesHandle)?;
        let file = open_by_handle(self.root.as_fd(), handle, flags_of(access) | OFlags::LARGEFILE)?;
        Ok(Box::new(DiskFile::new(file.into())))
    }

    fn adopt(&self, fd: OwnedFd) -> io::Result<Box<dyn StorageFile>> {
        Ok(Box::new(DiskFile::new(fd.into())))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        check(Site::CachefilesRename)?;
        Ok(fs::renameat(&self.root, from, &self.root, to)?)
    }

    fn unlink(&self, path: &str) -> io::Result<bool> {
        check(Site::CachefilesUnlink)?;
        match fs::unlinkat(&self.root, path, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    fn rmdir(&self, path: &str) -> io::Result<bool> {
        check(Site::CachefilesUnlink)?;
        match fs::unlinkat(&self.root, path, AtFlags::REMOVEDIR) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    fn dir_attr(&self, path: &str, name: AttrName) -> io::Result<Option<Vec<u8>>> {
        match self.open_dir(path) {
            Ok(dir) => attr(&dir, name),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn set_dir_attr(&self, path: &str, name: AttrName, value: &[u8]) -> io::Result<()> {
        check(Site::CachefilesSetxattr)?;
        Ok(fs::fsetxattr(self.open_dir(path)?, name, value, XattrFlags::empty())?)
    }

    fn enable_verity(&self, fd: BorrowedFd<'_>) -> io::Result<bool> {
        check(Site::CachefilesVerity)?;
        enable_verity(fd)
    }

    fn is_open_elsewhere(&self, fd: BorrowedFd<'_>) -> io::Result<bool> {
        is_open_elsewhere(fd)
    }

    fn statfs(&self) -> io::Result<Space> {
        check(Site::CachefilesStatfs)?;
        let found = fs::fstatvfs(&self.root)?;
        Ok(Space {
            bytes: found.f_blocks.saturating_mul(found.f_frsize),
            bytes_free: found.f_bavail.saturating_mul(found.f_frsize),
            files: found.f_files,
            files_free: found.f_favail,
        })
    }

    fn fsync_dir(&self, path: &str) -> io::Result<()> {
        check(Site::CachefilesFsyncDir)?;
        Ok(fs::fsync(self.open_dir(path)?)?)
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        check(Site::CachefilesList)?;
        let dir = match self.open_dir(path) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(Vec::new());
            }
            other => other?,
        };
        let mut buf = Vec::with_capacity(32 << 10);
        let mut entries = RawDir::new(dir, buf.spare_capacity_mut());
        let mut names = Vec::new();
        while let Some(entry) = entries.next() {
            let entry = entry?;
            names.extend(printable(entry.file_name()));
        }
        Ok(names)
    }

    fn stat(&self, path: &str) -> io::Result<Option<Stat>> {
        check(Site::CachefilesStat)?;
        match fs::statat(&self.root, path, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => Ok(Some(stat_of(&found))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// A name that is neither "." nor "..". What is not UTF-8 is nothing that this program made.
fn printable(name: &CStr) -> Option<String> {
    let name = name.to_str().ok()?;
    (name != "." && name != "..").then(|| name.to_owned())
}

fn stat_of(found: &fs::Stat) -> Stat {
    let kind = match FileType::from_raw_mode(found.st_mode) {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Dir,
        _ => Kind::Other,
    };
    let changed_s = u64::try_from(found.st_ctime).unwrap_or(0);
    let used_s = u64::try_from(found.st_atime).unwrap_or(0);
    Stat {
        kind,
        dev: found.st_dev,
        ino: found.st_ino,
        has_one_name: found.st_nlink == 1,
        len: u64::try_from(found.st_size).unwrap_or(0),
        stored: u64::try_from(found.st_blocks).unwrap_or(0).saturating_mul(512),
        used_ms: used_s.saturating_mul(1000).saturating_add(found.st_atime_nsec / 1_000_000),
        changed_ns: changed_s.saturating_mul(1_000_000_000).saturating_add(found.st_ctime_nsec),
    }
}

fn attr(fd: &impl AsFd, name: AttrName) -> io::Result<Option<Vec<u8>>> {
    check(Site::CachefilesGetxattr)?;
    let mut value = vec![0; ATTR_BYTES_MAX];
    match fs::fgetxattr(fd, name, value.as_mut_slice()) {
        Ok(len) => {
            value.truncate(len);
            Ok(Some(value))
        }
        Err(Errno::NODATA) => Ok(None),
        // Longer than any of ours: there, and foreign.
        Err(Errno::RANGE) => Ok(Some(Vec::new())),
        Err(errno) => Err(errno.into()),
    }
}

struct DiskFile {
    file: File,
    writers: Writers,
}

impl DiskFile {
    fn new(file: File) -> Self {
        Self { file, writers: Writers::default() }
    }
}

impl StorageFile for DiskFile {
    fn pread(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let len = length(Site::CachefilesPread, buf.len())?;
        self.file.read_at(&mut buf[..len], at)
    }

    fn pwrite(&self, data: &[u8], at: u64) -> io::Result<usize> {
        let len = length(Site::CachefilesPwrite, data.len())?;
        let _turn = self.writers.turn();
        self.file.write_at(&data[..len], at)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        check(Site::CachefilesTruncate)?;
        self.file.set_len(len)
    }

    fn fdatasync(&self) -> io::Result<()> {
        check(Site::CachefilesFdatasync)?;
        self.file.sync_data()
    }

    fn fsync(&self) -> io::Result<()> {
        check(Site::CachefilesFsync)?;
        self.file.sync_all()
    }

    fn set_mode(&self, mode: u32) -> io::Result<()> {
        check(Site::CachefilesChmod)?;
        Ok(fs::fchmod(&self.file, Mode::from_raw_mode(mode))?)
    }

    fn attr(&self, name: AttrName) -> io::Result<Option<Vec<u8>>> {
        attr(&self.file, name)
    }

    fn set_attr(&self, name: AttrName, value: &[u8]) -> io::Result<()> {
        check(Site::CachefilesSetxattr)?;
        Ok(fs::fsetxattr(&self.file, name, value, XattrFlags::empty())?)
    }

    fn punch(&self, at: u64, len: u64) -> io::Result<()> {
        check(Site::CachefilesPunch)?;
        Ok(fs::fallocate(&self.file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, at, len)?)
    }

    fn touch(&self) -> io::Result<()> {
        let (last_access, last_modification) =
            (Timespec { tv_sec: 0, tv_nsec: UTIME_NOW }, Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT });
        Ok(fs::futimens(&self.file, &Timestamps { last_access, last_modification })?)
    }

    fn stat(&self) -> io::Result<Stat> {
        check(Site::CachefilesStat)?;
        Ok(stat_of(&fs::fstat(&self.file)?))
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
