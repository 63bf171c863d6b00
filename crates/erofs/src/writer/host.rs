//! [`Host`]: the directories of this machine that are read, and [`HostSource`], a file in them.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, Statx, StatxFlags, openat, statx};
use rustix::io::{Errno, Result};

use super::text::{Span, Text, index};
use crate::Error;
use crate::error::path_of;

/// Sources on the host: their roots, and the directories below.
#[derive(Debug, Default)]
pub(super) struct Host {
    roots: Vec<Arc<Root>>,
    dirs: Vec<HostDir>,
}

#[derive(Debug)]
struct Root {
    path: PathBuf,
    dir: OwnedFd,
}

/// A directory on the host; the chain of parents gives its path.
#[derive(Clone, Copy, Debug)]
struct HostDir {
    root: u32,
    /// Parent and name; `None` for the root itself.
    below: Option<(u32, Span)>,
}

/// `PATH_MAX` with room for a name.
const PATH_BYTES_MAX: usize = 3800;

impl Host {
    /// Opens a source directory; its number is that of its first directory.
    pub(super) fn add_root(&mut self, path: &Path) -> Result<u32> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = openat(CWD, path, flags, Mode::empty())?;
        let root = u32::try_from(self.roots.len()).map_err(|_| Errno::OVERFLOW)?;
        self.roots.push(Arc::new(Root { path: path.to_path_buf(), dir }));
        self.add(HostDir { root, below: None })
    }

    /// Adds the directory called `name` in directory `parent`.
    pub(super) fn add_dir(&mut self, parent: u32, name: Span) -> Result<u32> {
        let root = self.dirs[index(parent)].root;
        self.add(HostDir { root, below: Some((parent, name)) })
    }

    /// The path of `name` in `dir`, for messages and for calls that take nothing else.
    pub(super) fn path(&self, text: &Text, dir: u32, name: &[u8]) -> PathBuf {
        let mut path = self.roots[index(self.dirs[index(dir)].root)].path.clone();
        for part in [&self.path_below_root(text, dir), name] {
            if !part.is_empty() {
                path.push(path_of(part));
            }
        }
        path
    }

    /// Opens directory `dir` for listing.
    pub(super) fn open_dir(&self, text: &Text, dir: u32) -> Result<OwnedFd> {
        let path = self.path_below_root(text, dir);
        let path = if path.is_empty() { b".".as_slice() } else { &path };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        open_below(self.root(dir), path, flags)
    }

    /// The path of `dir` below its root, to be shared by its files.
    pub(super) fn below_root(&self, text: &Text, dir: u32) -> Arc<[u8]> {
        self.path_below_root(text, dir).into()
    }

    /// The file `name` in `dir`, which lies at `path` below its root.
    pub(super) fn file(&self, dir: u32, path: Arc<[u8]>, name: &[u8]) -> HostSource {
        HostSource {
            root: Arc::clone(&self.roots[index(self.dirs[index(dir)].root)]),
            dir: path,
            name: name.into(),
        }
    }

    fn root(&self, dir: u32) -> BorrowedFd<'_> {
        self.roots[index(self.dirs[index(dir)].root)].dir.as_fd()
    }

    fn add(&mut self, dir: HostDir) -> Result<u32> {
        let id = u32::try_from(self.dirs.len()).map_err(|_| Errno::OVERFLOW)?;
        self.dirs.push(dir);
        Ok(id)
    }

    fn path_below_root(&self, text: &Text, dir: u32) -> Vec<u8> {
        let mut names = Vec::new();
        let mut at = dir;
        while let Some((parent, name)) = self.dirs[index(at)].below {
            names.push(text.get(name));
            at = parent;
        }
        names.reverse();
        names.join(&b'/')
    }
}

/// A file of the host, apart from the tree that it was found for: that may grow meanwhile.
#[derive(Debug)]
pub(super) struct HostSource {
    root: Arc<Root>,
    /// Its directory, below the root.
    dir: Arc<[u8]>,
    name: Box<[u8]>,
}

impl HostSource {
    /// Opens it. Never waits, should it have become a FIFO.
    ///
    /// # Errors
    ///
    /// [`Error::Scan`].
    pub(super) fn open(&self) -> std::result::Result<File, Error> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let opened = open_below(self.root.dir.as_fd(), &self.below_root(), flags);
        opened.map(File::from).map_err(|errno| self.failed(errno.into()))
    }

    /// What to say when it cannot be read.
    pub(super) fn failed(&self, source: io::Error) -> Error {
        Error::Scan { path: self.path(), source }
    }

    /// Where it lies, for messages.
    pub(super) fn path(&self) -> PathBuf {
        self.root.path.join(path_of(&self.below_root()))
    }

    fn below_root(&self) -> Vec<u8> {
        let between: &[u8] = if self.dir.is_empty() { b"" } else { b"/" };
        [&self.dir, between, &self.name].concat()
    }
}

/// Opens `path` below `root`, however long it is: the kernel takes 4096 bytes at a time.
fn open_below(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd> {
    let mut rest = path;
    let mut base: Option<OwnedFd> = None;
    while rest.len() > PATH_BYTES_MAX {
        let cut = rest[..PATH_BYTES_MAX].iter().rposition(|&byte| byte == b'/').ok_or(Errno::NAMETOOLONG)?;
        let at = base.as_ref().map_or(root, |base| base.as_fd());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        base = Some(openat(at, &rest[..cut], flags, Mode::empty())?);
        rest = &rest[cut + 1..];
    }
    openat(base.as_ref().map_or(root, |base| base.as_fd()), rest, flags, Mode::empty())
}

/// What the writer wants to know of a file.
const WANTED: StatxFlags = StatxFlags::BASIC_STATS;

/// Looks at `name` in `dir`, not following a link.
pub(super) fn stat_at(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Statx> {
    statx(dir, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT, WANTED)
}

/// Looks at an open file.
pub(super) fn stat_fd(file: BorrowedFd<'_>) -> Result<Statx> {
    statx(file, c"", AtFlags::EMPTY_PATH, WANTED)
}

/// Whether a path is short enough for the kernel as it is.
pub(super) fn is_short(path: &Path) -> bool {
    path.as_os_str().as_bytes().len() < 4096
}
