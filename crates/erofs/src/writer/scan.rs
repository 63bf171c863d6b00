//! [`Tree::add_root_from`]: takes in a directory of the host with all it holds.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
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
    /// that it turns down. Files are read later, by [`write_data`](super::write_data) or [`write_image`](super::write_image), which
    /// fail if they have changed.
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
        let mut scan = Scan::begin(self, dir, at, options)?;
        while scan.step(self, filter, &mut |_, _| Ok(()))? {}
        Ok(scan.report)
    }
}

/// A directory still to be listed.
struct Pending {
    host_dir: u32,
    node: NodeId,
    path: Vec<u8>,
}

impl Pending {
    /// What to say when `name` in it, or the directory itself, cannot be looked at.
    fn failed(&self, tree: &Tree, name: &[u8], errno: Errno) -> Error {
        Error::Scan { path: tree.host.path(&tree.text, self.host_dir, name), source: errno.into() }
    }
}

/// A directory that is being taken in.
struct Listing {
    pending: Pending,
    fd: OwnedFd,
    /// What is left of its names.
    names: std::vec::IntoIter<Vec<u8>>,
    /// Where its subdirectories begin in the stack.
    first_below: usize,
}

/// Is told of each file with data, in the order in which they will lie: node and path inside the image.
pub(super) type Found<'a> = &'a mut dyn FnMut(NodeId, &[u8]) -> Result<(), Error>;

/// Entries that are taken in at a time: whoever encodes the first files of a large directory need not wait for the last.
const STEP_ENTRIES: usize = 32;

/// A scan under way.
pub(super) struct Scan {
    options: ScanOptions,
    /// The file system of the source directory.
    device: (u32, u32),
    xattr_reader: XattrReader,
    /// What is still to be listed; the last is the next.
    stack: Vec<Pending>,
    listing: Option<Listing>,
    report: ScanReport,
}

impl Scan {
    /// Opens the directory `dir` of the host, which is to stand at `at`.
    pub fn begin(tree: &mut Tree, dir: &Path, at: &[u8], options: &ScanOptions) -> Result<Self, Error> {
        let failed = |errno: Errno| Error::Scan { path: dir.to_path_buf(), source: errno.into() };
        let host_dir = tree.host.add_root(dir).map_err(failed)?;
        let node = tree.make_dirs(at)?;
        let fd = tree.host.open_dir(&tree.text, host_dir).map_err(failed)?;
        let stat = stat_fd(fd.as_fd()).map_err(failed)?;
        let path = at.split(|&byte| byte == b'/').filter(|name| !name.is_empty()).collect::<Vec<_>>();
        let mut scan = Self {
            options: *options,
            device: device(&stat),
            xattr_reader: XattrReader::new(),
            stack: vec![Pending { host_dir, node, path: path.join(&b'/') }],
            listing: None,
            report: ScanReport::default(),
        };
        tree.nodes[index(node)].set_attributes(&attributes(&stat));
        scan.read_xattrs(tree, node, dir.to_path_buf(), fd.as_fd(), b".")?;
        Ok(scan)
    }

    /// Takes in the next entries; `false` when there are none, or after an error.
    pub fn step(
        &mut self,
        tree: &mut Tree,
        filter: &mut dyn FnMut(&ScanEntry<'_>) -> bool,
        found: Found<'_>,
    ) -> Result<bool, Error> {
        let taken = self.take_next(tree, filter, found);
        if taken.is_err() {
            self.stack.clear();
        }
        taken
    }

    fn take_next(
        &mut self,
        tree: &mut Tree,
        filter: &mut dyn FnMut(&ScanEntry<'_>) -> bool,
        found: Found<'_>,
    ) -> Result<bool, Error> {
        let mut listing = match self.listing.take() {
            Some(listing) => listing,
            None => match self.stack.pop() {
                Some(pending) => self.list(tree, pending)?,
                None => return Ok(false),
            },
        };
        let Listing { pending, fd, names, first_below } = &mut listing;
        let pending = &*pending;
        let mut path = pending.path.clone();
        for name in names.by_ref().take(STEP_ENTRIES) {
            path.truncate(pending.path.len());
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            let stat = stat_at(fd.as_fd(), &name).map_err(|errno| pending.failed(tree, &name, errno))?;
            let place = Place { pending, fd: fd.as_fd(), name: &name, path: &path };
            self.add(tree, &place, &stat, filter, found)?;
        }
        if names.len() > 0 {
            self.listing = Some(listing);
        } else {
            // The first subdirectory is to be the next.
            self.stack[*first_below..].reverse();
        }
        Ok(true)
    }

    /// Lists a directory.
    fn list(&self, tree: &Tree, pending: Pending) -> Result<Listing, Error> {
        let failed = |errno: Errno| pending.failed(tree, b"", errno);
        let fd = tree.host.open_dir(&tree.text, pending.host_dir).map_err(failed)?;
        let is_elsewhere = self.options.one_file_system
            && stat_fd(fd.as_fd()).map(|stat| device(&stat)).map_err(failed)? != self.device;
        let names = if is_elsewhere { Vec::new() } else { list(fd.as_fd()).map_err(failed)? };
        Ok(Listing { pending, fd, names: names.into_iter(), first_below: self.stack.len() })
    }

    /// Adds one entry; a directory is to be listed later.
    fn add(
        &mut self,
        tree: &mut Tree,
        place: &Place<'_>,
        stat: &Statx,
        filter: &mut dyn FnMut(&ScanEntry<'_>) -> bool,
        found: Found<'_>,
    ) -> Result<(), Error> {
        let kind = FileType::from_mode(stat.stx_mode).ok_or_else(|| Error::Unrepresentable {
            path: source_path(tree, place),
            reason: "is of an unknown type",
        })?;
        let linked = kind != FileType::Directory && stat.stx_nlink > 1;
        let identity = (rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor), stat.stx_ino);
        let known = if linked { tree.links.get(&identity).copied() } else { None };
        let has_bytes = kind == FileType::Regular && known.is_none();
        let data_bytes = if has_bytes { stat.stx_size.min(stored_bytes(stat)) } else { 0 };
        if !filter(&ScanEntry { path: place.path, kind, size: stat.stx_size, data_bytes }) {
            self.report.filtered += 1;
            return Ok(());
        }
        self.report.entries += 1;
        if let Some(node) = known {
            insert(tree, place, node)?;
            tree.nodes[index(node)].nlink += 1;
            return Ok(());
        }
        if kind == FileType::Directory {
            let below = self.add_directory(tree, place, stat)?;
            self.stack.push(below);
            return Ok(());
        }
        let name = tree.text.add(place.name)?;
        let content = content(tree, place, stat, kind, name)?;
        let size = if kind.has_data() { stat.stx_size } else { 0 };
        let size = if let Content::Link(span) = content { tree.text.get(span).len() as u64 } else { size };
        let node = Node { size, ..Node::new(kind, &attributes(stat), content) };
        if tree.child(place.pending.node, place.name).is_some() {
            return Err(Error::Exists { path: path_of(place.path) });
        }
        let node = tree.add_child(place.pending.node, name, node)?;
        tree.count_bytes(data_bytes);
        if linked {
            tree.links.insert(identity, node);
        }
        self.read_xattrs(tree, node, source_path(tree, place), place.fd, place.name)?;
        if kind == FileType::Regular && size > 0 {
            found(node, place.path)?;
        }
        Ok(())
    }

    fn add_directory(&mut self, tree: &mut Tree, place: &Place<'_>, stat: &Statx) -> Result<Pending, Error> {
        let parent = place.pending.node;
        let node = match tree.child(parent, place.name) {
            None => tree.add_child_dir(parent, place.name, &attributes(stat))?,
            Some(node) if tree.nodes[index(node)].kind == FileType::Directory => {
                tree.nodes[index(node)].set_attributes(&attributes(stat));
                node
            }
            Some(_) => return Err(Error::Exists { path: path_of(place.path) }),
        };
        self.read_xattrs(tree, node, source_path(tree, place), place.fd, place.name)?;
        let name = tree.text.add(place.name)?;
        let host_dir = tree.host.add_dir(place.pending.host_dir, name);
        let host_dir = host_dir.map_err(|_| Error::TooLarge { what: "more than 2^32 directories" })?;
        Ok(Pending { host_dir, node, path: place.path.to_vec() })
    }

    fn read_xattrs(
        &mut self,
        tree: &mut Tree,
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
        let set = tree.xattrs.add_set(&found.xattrs);
        let set = set.map_err(|reason| Error::Unrepresentable { path, reason })?;
        tree.nodes[index(node)].xattrs = set;
        Ok(())
    }
}

/// The entry at hand: where it is on the host and where it goes.
struct Place<'a> {
    pending: &'a Pending,
    fd: BorrowedFd<'a>,
    name: &'a [u8],
    path: &'a [u8],
}

fn content(
    tree: &mut Tree,
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
                .map_err(|errno| Error::Scan { path: source_path(tree, place), source: errno.into() })?;
            tree.link_content(place.path, target.as_bytes())?
        }
        FileType::CharDevice | FileType::BlockDevice => {
            let rdev = Rdev::new(stat.stx_rdev_major, stat.stx_rdev_minor);
            Content::Rdev(rdev.ok_or_else(|| Error::Unrepresentable {
                path: source_path(tree, place),
                reason: "has a device number above 12 bits of major and 20 of minor",
            })?)
        }
        FileType::Directory | FileType::Fifo | FileType::Socket => Content::Nothing,
    })
}

fn insert(tree: &mut Tree, place: &Place<'_>, node: NodeId) -> Result<(), Error> {
    if tree.child(place.pending.node, place.name).is_some() {
        return Err(Error::Exists { path: path_of(place.path) });
    }
    let name = tree.text.add(place.name)?;
    tree.insert(place.pending.node, name, node)
}

fn source_path(tree: &Tree, place: &Place<'_>) -> PathBuf {
    tree.host.path(&tree.text, place.pending.host_dir, place.name)
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
