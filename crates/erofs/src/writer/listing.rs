//! [`Listing`]: the entries of a directory of the host, with all that a scan wants to know of them.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Dir, FileType, Statx, readlinkat};
use rustix::io::Errno;

use super::host::{open_dir_below, stat_at, stat_fd};
use super::host_xattrs::{Found, XattrError, XattrReader};
use crate::error::path_of;

/// Of a directory with more entries than this, only their names are held: the rest is looked at one by one.
const SEEN_MAX: usize = 4096;

/// Where a directory is, so that any thread can open it.
#[derive(Clone, Debug)]
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

/// The entries of a directory.
#[derive(Debug)]
pub(super) struct Listing {
    fd: OwnedFd,
    path: PathBuf,
    how: How,
    /// In the order of their bytes, whatever order the host has them in.
    names: Vec<Vec<u8>>,
    /// What is known of each; empty where there are many.
    seen: Vec<Result<Seen, Errno>>,
}

/// What is known of an entry.
#[derive(Debug)]
pub(super) struct Seen {
    pub stat: Statx,
    /// Of a symbolic link.
    pub target: Option<Result<CString, Errno>>,
    pub xattrs: Result<Found, XattrError>,
}

impl Listing {
    pub fn of(directory: &Directory, how: &How, reader: &mut XattrReader) -> Result<Self, Errno> {
        let fd = open_dir_below(directory.root.as_fd(), &directory.below)?;
        let is_elsewhere = match how.only {
            Some(only) => device(&stat_fd(fd.as_fd())?) != only,
            None => false,
        };
        let names = if is_elsewhere { Vec::new() } else { names(fd.as_fd())? };
        let path = directory.path.clone();
        let mut listing = Self { fd, path, how: *how, names, seen: Vec::new() };
        if listing.names.len() <= SEEN_MAX {
            listing.seen = listing.names.iter().map(|name| listing.look(name, reader)).collect();
        }
        Ok(listing)
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Goes through the entries in order; the first error ends it.
    pub fn each<E>(
        mut self,
        reader: &mut XattrReader,
        mut add: impl FnMut(&[u8], Result<Seen, Errno>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut seen = std::mem::take(&mut self.seen).into_iter();
        for name in &self.names {
            let seen = seen.next().unwrap_or_else(|| self.look(name, reader));
            add(name, seen)?;
        }
        Ok(())
    }

    fn look(&self, name: &[u8], reader: &mut XattrReader) -> Result<Seen, Errno> {
        let stat = stat_at(self.fd.as_fd(), name)?;
        let is_link = FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Symlink;
        let target = is_link.then(|| readlinkat(&self.fd, name, Vec::new()));
        let xattrs = if self.how.xattrs {
            reader.read(self.path.join(path_of(name)), self.fd.as_fd(), name)
        } else {
            Ok(Found::default())
        };
        Ok(Seen { stat, target, xattrs })
    }
}

/// The file system that something lies on.
pub(super) fn device(stat: &Statx) -> (u32, u32) {
    (stat.stx_dev_major, stat.stx_dev_minor)
}

fn names(fd: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(fd)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    names.sort_unstable();
    Ok(names)
}

impl Directory {
    /// The path of what it has under this name.
    pub fn path_of(&self, name: &[u8]) -> PathBuf {
        if name.is_empty() { self.path.clone() } else { Path::join(&self.path, path_of(name)) }
    }
}
