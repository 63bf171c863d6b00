//! [`Tree::add_root_from`]: takes in a directory of the host with all it holds.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Dir, Statx, readlinkat};
use rustix::io::Errno;

use super::host::{stat_at, stat_fd};
use super::host_xattrs::XattrReader;
use super::node::{Content, HostFile, Node, NodeId};
use super::options::Attributes;
use super::text::{Span, index};
use super::tree::Tree;
use crate::error::path_of;
use crate::{Error, FileType, Rdev, Timestamp};

/// How to take in a directory.
#[derive(Clone, Copy, Debug)]
pub struct ScanOptions {
    /// Leave out what lies on another file system; the mount points themselves stay, as empty directories.
    pub one_file_system: bool,
    /// Take extended attributes, ACLs and capabilities too.
    pub xattrs: bool,
}

impl Default for ScanOptions {
    /// Everything, across mount points.
    fn default() -> Self {
        Self { one_file_system: false, xattrs: true }
    }
}

/// What a filter decides about.
#[derive(Clone, Copy, Debug)]
pub struct ScanEntry<'a> {
    /// Path inside the image.
    pub path: &'a [u8],
    /// What it is.
    pub kind: FileType,
    /// Size in bytes.
    pub size: u64,
    /// Bytes that it adds to the image's data, about: 0 for holes, further links and what has no data.
    pub data_bytes: u64,
}

/// What a scan found.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ScanReport {
    /// Names added.
    pub entries: u64,
    /// Names that the filter turned down; what lies below them is not counted.
    pub filtered: u64,
    /// Attributes left out because EROFS has no prefix for their names, e.g. `system.nfs4_acl`.
    pub xattrs_skipped: u64,
}

impl Tree {
    /// Adds the contents of the directory `dir` of the host at `at`, a path inside the image.
    ///
    /// The directory at `at` takes over the attributes of `dir`. `filter` is asked about every entry in a
    /// fixed order, a directory before its contents, and is not asked about what lies below a directory
    /// that it turns down. Files are read later, by [`write_data`](super::write_data), which fails if they have changed.
    ///
    /// # Errors
    ///
    /// [`Error::Scan`] and [`Error::ScanXattr`] name what could not be read; [`Error::Exists`] when a name
    /// is taken by something that is not a directory; [`Error::Unrepresentable`].
    pub fn add_root_from(
        &mut self,
        dir: &Path,
        at: &[u8],
        options: &ScanOptions,
        filter: &mut dyn FnMut(&ScanEntry<'_>) -> bool,
    ) -> Result<ScanReport, Error> {
        let failed = |errno: Errno| Error::Scan { path: dir.to_path_buf(), source: errno.into() };
        let host_dir = self.host.add_root(dir).map_err(failed)?;
        let node = self.make_dirs(at)?;
        let fd = self.host.open_dir(&self.text, host_dir).map_err(failed)?;
        let stat = stat_fd(fd.as_fd()).map_err(failed)?;
        let mut scan = Scan {
            tree: self,
            options: *options,
            device: device(&stat),
            xattr_reader: XattrReader::new(),
            report: ScanReport::default(),
        };
        scan.tree.nodes[index(node)].set_attributes(&attributes(&stat));
        scan.read_xattrs(node, dir.to_path_buf(), fd.as_fd(), b".")?;
        drop(fd);
        let path = at.split(|&byte| byte == b'/').filter(|name| !name.is_empty()).collect::<Vec<_>>();
        let mut stack = vec![Pending { host_dir, node, path: path.join(&b'/') }];
        while let Some(pending) = stack.pop() {
            let first_below = stack.len();
            scan.read_dir(&pending, filter, &mut stack)?;
            // The first subdirectory is to be the next.
            stack[first_below..].reverse();
        }
        Ok(scan.report)
    }
}

/// A directory still to be listed.
struct Pending {
    host_dir: u32,
    node: NodeId,
    path: Vec<u8>,
}

struct Scan<'a> {
    tree: &'a mut Tree,
    options: ScanOptions,
    /// The file system of the source directory.
    device: (u32, u32),
    xattr_reader: XattrReader,
    report: ScanReport,
}

impl Scan<'_> {
    fn read_dir(
        &mut self,
        pending: &Pending,
        filter: &mut dyn FnMut(&ScanEntry<'_>) -> bool,
        stack: &mut Vec<Pending>,
    ) -> Result<(), Error> {
        let failed = |scan: &Self, name: &[u8], errno: Errno| Error::Scan {
            path: scan.tree.host.path(&scan.tree.text, pending.host_dir, name),
            source: errno.into(),
        };
        let fd = self.tree.host.open_dir(&self.tree.text, pending.host_dir);
        let fd = fd.map_err(|errno| failed(self, b"", errno))?;
        if self.options.one_file_system {
            let stat = stat_fd(fd.as_fd()).map_err(|errno| failed(self, b"", errno))?;
            if device(&stat) != self.device {
                return Ok(());
            }
        }
        let names = list(fd.as_fd()).map_err(|errno| failed(self, b"", errno))?;
        let mut path = pending.path.clone();
        for name in names {
            path.truncate(pending.path.len());
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            let stat = stat_at(fd.as_fd(), &name).map_err(|errno| failed(self, &name, errno))?;
            let place = Place { pending, fd: fd.as_fd(), name: &name, path: &path };
            if let Some(below) = self.add(&place, &stat, filter)? {
                stack.push(below);
            }
        }
        Ok(())
    }

    /// Adds one entry; returns it when it is a directory to be listed.
    fn add(
        &mut self,
        place: &Place<'_>,
        stat: &Statx,
        filter: &mut dyn FnMut(&ScanEntry<'_>) -> bool,
    ) -> Result<Option<Pending>, Error> {
        let kind = FileType::from_mode(stat.stx_mode).ok_or_else(|| Error::Unrepresentable {
            path: self.source_path(place),
            reason: "is of an unknown type",
        })?;
        let linked = kind != FileType::Directory && stat.stx_nlink > 1;
        let identity = (rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor), stat.stx_ino);
        let known = if linked { self.tree.links.get(&identity).copied() } else { None };
        let has_bytes = kind == FileType::Regular && known.is_none();
        let data_bytes = if has_bytes { stat.stx_size.min(stored_bytes(stat)) } else { 0 };
        if !filter(&ScanEntry { path: place.path, kind, size: stat.stx_size, data_bytes }) {
            self.report.filtered += 1;
            return Ok(None);
        }
        self.report.entries += 1;
        if let Some(node) = known {
            self.insert(place, node)?;
            self.tree.nodes[index(node)].nlink += 1;
            return Ok(None);
        }
        if kind == FileType::Directory {
            return self.add_directory(place, stat).map(Some);
        }
        let name = self.tree.text.add(place.name)?;
        let content = self.content(place, stat, kind, name)?;
        let size = if kind.has_data() { stat.stx_size } else { 0 };
        let size =
            if let Content::Link(span) = content { self.tree.text.get(span).len() as u64 } else { size };
        let node = Node { size, ..Node::new(kind, &attributes(stat), content) };
        if self.tree.child(place.pending.node, place.name).is_some() {
            return Err(Error::Exists { path: path_of(place.path) });
        }
        let node = self.tree.add_child(place.pending.node, name, node)?;
        self.tree.count_bytes(data_bytes);
        if linked {
            self.tree.links.insert(identity, node);
        }
        self.read_xattrs(node, self.source_path(place), place.fd, place.name)?;
        Ok(None)
    }

    fn add_directory(&mut self, place: &Place<'_>, stat: &Statx) -> Result<Pending, Error> {
        let parent = place.pending.node;
        let node = match self.tree.child(parent, place.name) {
            None => self.tree.add_child_dir(parent, place.name, &attributes(stat))?,
            Some(node) if self.tree.nodes[index(node)].kind == FileType::Directory => {
                self.tree.nodes[index(node)].set_attributes(&attributes(stat));
                node
            }
            Some(_) => return Err(Error::Exists { path: path_of(place.path) }),
        };
        self.read_xattrs(node, self.source_path(place), place.fd, place.name)?;
        let name = self.tree.text.add(place.name)?;
        let host_dir = self.tree.host.add_dir(place.pending.host_dir, name);
        let host_dir = host_dir.map_err(|_| Error::TooLarge { what: "more than 2^32 directories" })?;
        Ok(Pending { host_dir, node, path: place.path.to_vec() })
    }

    fn content(
        &mut self,
        place: &Place<'_>,
        stat: &Statx,
        kind: FileType,
        name: Span,
    ) -> Result<Content, Error> {
        Ok(match kind {
            FileType::Regular => Content::Host(HostFile {
                dir: place.pending.host_dir,
                name,
                ino: stat.stx_ino,
                sparse: stored_bytes(stat) < stat.stx_size,
            }),
            FileType::Symlink => {
                let target = readlinkat(place.fd, place.name, Vec::new());
                let target = target
                    .map_err(|errno| Error::Scan { path: self.source_path(place), source: errno.into() })?;
                self.tree.link_content(place.path, target.as_bytes())?
            }
            FileType::CharDevice | FileType::BlockDevice => {
                let rdev = Rdev::new(stat.stx_rdev_major, stat.stx_rdev_minor);
                Content::Rdev(rdev.ok_or_else(|| Error::Unrepresentable {
                    path: self.source_path(place),
                    reason: "has a device number above 12 bits of major and 20 of minor",
                })?)
            }
            FileType::Directory | FileType::Fifo | FileType::Socket => Content::Nothing,
        })
    }

    fn insert(&mut self, place: &Place<'_>, node: NodeId) -> Result<(), Error> {
        if self.tree.child(place.pending.node, place.name).is_some() {
            return Err(Error::Exists { path: path_of(place.path) });
        }
        let name = self.tree.text.add(place.name)?;
        self.tree.insert(place.pending.node, name, node)
    }

    fn read_xattrs(
        &mut self,
        node: NodeId,
        path: PathBuf,
        dir: BorrowedFd<'_>,
        name: &[u8],
    ) -> Result<(), Error> {
        if !self.options.xattrs {
            return Ok(());
        }
        let found = match self.xattr_reader.read(path.clone(), dir, name) {
            Ok(found) => found,
            Err(error) => {
                let source = error.source;
                return Err(match error.name {
                    Some(name) => Error::ScanXattr { path, name, source },
                    None => Error::Scan { path, source },
                });
            }
        };
        self.report.xattrs_skipped += found.skipped;
        let set = self.tree.xattrs.add_set(&found.xattrs);
        let set = set.map_err(|reason| Error::Unrepresentable { path, reason })?;
        self.tree.nodes[index(node)].xattrs = set;
        Ok(())
    }

    fn source_path(&self, place: &Place<'_>) -> PathBuf {
        self.tree.host.path(&self.tree.text, place.pending.host_dir, place.name)
    }
}

/// The entry at hand: where it is on the host and where it goes.
struct Place<'a> {
    pending: &'a Pending,
    fd: BorrowedFd<'a>,
    name: &'a [u8],
    path: &'a [u8],
}

/// The names in a directory in the order of their bytes, whatever order the host has them in.
fn list(fd: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>, Errno> {
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

fn attributes(stat: &Statx) -> Attributes {
    let mtime = Timestamp::new(stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec);
    Attributes { mode: stat.stx_mode & 0o7777, uid: stat.stx_uid, gid: stat.stx_gid, mtime }
}

fn stored_bytes(stat: &Statx) -> u64 {
    stat.stx_blocks.saturating_mul(512)
}

fn device(stat: &Statx) -> (u32, u32) {
    (stat.stx_dev_major, stat.stx_dev_minor)
}
