//! [`Listing`]: the entries of a directory of the host, with all that a scan wants to know of them.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{Dir, FileType, Statx, readlinkat};
use rustix::io::Errno;

use super::host::{open_dir_below, stat_at, stat_fd};
use super::host_xattrs::{Found, XattrError, XattrReader};
use crate::error::path_of;

/// What is held of a directory before its turn, at most: of a larger one nothing is.
const HELD_NAMES_MAX: usize = 4096;
const HELD_BYTES_MAX: usize = 2 << 20;

/// Where a directory is, so that any thread can open it.
#[derive(Debug)]
pub(super) struct Directory {
    pub root: Arc<OwnedFd>,
    /// Its path below the root.
    pub below: Vec<u8>,
    /// Its path from wherever the root's begins, for calls that take nothing else.
    pub path: PathBuf,
}

/// How directories are listed.
#[derive(Clone, Copy, Debug)]
pub(super) struct How {
    /// List nothing of what lies on another file system than this.
    pub only: Option<(u32, u32)>,
    pub xattrs: bool,
}

/// What is known of an entry.
#[derive(Debug)]
pub(super) struct Seen {
    pub stat: Statx,
    /// Of a symbolic link.
    pub target: Option<Result<CString, Errno>>,
    /// If they were asked for.
    pub xattrs: Option<Result<Found, XattrError>>,
}

/// An entry: its name and what is known of it.
pub(super) type Entry = (Vec<u8>, Result<Seen, Errno>);

/// The entries of a directory, each to be looked at when it is its turn.
pub(super) struct Listing<'a> {
    fd: OwnedFd,
    directory: &'a Directory,
    how: &'a How,
    /// In the order of their bytes, whatever order the host has them in.
    names: Vec<Vec<u8>>,
}

impl<'a> Listing<'a> {
    pub fn of(directory: &'a Directory, how: &'a How) -> Result<Self, Errno> {
        Ok(Self::with_names(directory, how, usize::MAX)?.expect("there is no limit"))
    }

    /// `None` where there are more names.
    fn with_names(directory: &'a Directory, how: &'a How, most: usize) -> Result<Option<Self>, Errno> {
        let fd = open_dir_below(directory.root.as_fd(), &directory.below)?;
        let is_elsewhere = match how.only {
            Some(only) => device(&stat_fd(fd.as_fd())?) != only,
            None => false,
        };
        let names = if is_elsewhere { Some(Vec::new()) } else { names(fd.as_fd(), most)? };
        Ok(names.map(|names| Self { fd, directory, how, names }))
    }

    /// Goes through the entries in order; the first error ends it.
    pub fn each<E>(
        &self,
        reader: &mut XattrReader,
        mut add: impl FnMut(&[u8], Result<Seen, Errno>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.names.iter().try_for_each(|name| add(name, self.look(name, reader)))
    }

    fn look(&self, name: &[u8], reader: &mut XattrReader) -> Result<Seen, Errno> {
        let stat = stat_at(self.fd.as_fd(), name)?;
        let is_link = FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Symlink;
        let target = is_link.then(|| readlinkat(&self.fd, name, Vec::new()));
        let path = || self.directory.path.join(path_of(name));
        let xattrs = self.how.xattrs.then(|| reader.read(path(), self.fd.as_fd(), name));
        Ok(Seen { stat, target, xattrs })
    }
}

/// The entries of a directory that were looked at before its turn. Holds no descriptor.
#[derive(Debug)]
pub(super) struct Held {
    pub entries: Vec<Entry>,
    /// What they take, about.
    pub bytes: usize,
}

impl Held {
    /// `None` where there is too much of it to be held.
    pub fn of(directory: &Directory, how: &How, reader: &mut XattrReader) -> Result<Option<Self>, Errno> {
        let Some(listing) = Listing::with_names(directory, how, HELD_NAMES_MAX)? else { return Ok(None) };
        let mut held = Self { entries: Vec::with_capacity(listing.names.len()), bytes: 0 };
        let looked = listing.each(reader, |name, seen| {
            held.bytes += bytes(name, &seen);
            held.entries.push((name.to_vec(), seen));
            if held.bytes > HELD_BYTES_MAX { Err(()) } else { Ok(()) }
        });
        Ok(looked.is_ok().then_some(held))
    }
}

/// What an entry takes in memory, about.
fn bytes(name: &[u8], seen: &Result<Seen, Errno>) -> usize {
    let found = seen.as_ref().ok().and_then(|seen| seen.xattrs.as_ref()?.as_ref().ok());
    let xattrs = found.iter().flat_map(|found| &found.xattrs);
    size_of::<Entry>() + name.len() + xattrs.map(|xattr| xattr.name.len() + xattr.value.len()).sum::<usize>()
}

/// The file system that something lies on.
pub(super) fn device(stat: &Statx) -> (u32, u32) {
    (stat.stx_dev_major, stat.stx_dev_minor)
}

/// The names in a directory, in order; `None` where there are more than `most`.
fn names(fd: BorrowedFd<'_>, most: usize) -> Result<Option<Vec<Vec<u8>>>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(fd)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            if names.len() == most {
                return Ok(None);
            }
            names.push(name.to_vec());
        }
    }
    names.sort_unstable();
    Ok(Some(names))
}

impl Directory {
    /// The path of what it has under this name; its own without one.
    pub fn path_of(&self, name: &[u8]) -> PathBuf {
        if name.is_empty() { self.path.clone() } else { self.path.join(path_of(name)) }
    }
}
