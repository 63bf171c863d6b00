//! [`Tree::add_root_from`]: takes in a directory of the host with all it holds.

use std::ffi::CString;
use std::num::NonZero;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::Statx;
use rustix::io::Errno;

use super::ahead::Ahead;
use super::host::{open_dir_below, stat_fd};
use super::host_xattrs::{Found, XattrError, XattrReader};
use super::listing::{Directory, How, Listing, Seen, device};
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
    /// Threads that look at directories; what is found, and the order in which a filter is asked, is the same for any number.
    pub jobs: NonZero<usize>,
}

impl Default for ScanOptions {
    /// Everything, across mount points, with as many threads as there are cores.
    fn default() -> Self {
        let jobs = std::thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN);
        Self { one_file_system: false, xattrs: true, jobs }
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
    /// that it turns down. What it turns down was looked at, links and attributes too. Files are read later, by [`write_data`](super::write_data), which fails if they have changed.
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
        let directory = self.host.directory(&self.text, host_dir);
        let fd = open_dir_below(directory.root.as_fd(), b"").map_err(failed)?;
        let stat = stat_fd(fd.as_fd()).map_err(failed)?;
        let how = How { only: options.one_file_system.then(|| device(&stat)), xattrs: options.xattrs };
        let jobs = options.jobs.get().min(JOBS_MAX);
        let ahead = Ahead::new(how, jobs > 1);
        let mut reader = XattrReader::new();
        let mut scan = Scan { tree: self, ahead: &ahead, report: ScanReport::default() };
        scan.tree.nodes[index(node)].set_attributes(&attributes(&stat));
        if options.xattrs {
            let found = reader.read(dir.to_path_buf(), fd.as_fd(), b".");
            scan.add_xattrs(node, Some(found), || dir.to_path_buf())?;
        }
        drop(fd);
        let path = at.split(|&byte| byte == b'/').filter(|name| !name.is_empty()).collect::<Vec<_>>();
        let root = Pending { host_dir, directory, node, path: path.join(&b'/') };
        std::thread::scope(|threads| {
            let _over = ahead.until_over();
            for _ in 1..jobs {
                let thread = std::thread::Builder::new().name("scan".into());
                // Without it, this one does the work.
                drop(thread.spawn_scoped(threads, || ahead.work()));
            }
            let mut stack = vec![root];
            while let Some(pending) = stack.pop() {
                let first_below = stack.len();
                scan.read_dir(&pending, &mut reader, filter, &mut stack)?;
                // The first subdirectory is to be the next.
                stack[first_below..].reverse();
                let below = stack[first_below..].iter();
                let below = below.map(|pending| (pending.host_dir, Arc::clone(&pending.directory)));
                ahead.want(pending.host_dir, below);
            }
            Ok(scan.report)
        })
    }
}

/// Threads that look at directories, at most; each has two descriptors.
const JOBS_MAX: usize = 16;

/// A directory still to be listed.
struct Pending {
    host_dir: u32,
    directory: Arc<Directory>,
    node: NodeId,
    path: Vec<u8>,
}

struct Scan<'a> {
    tree: &'a mut Tree,
    ahead: &'a Ahead,
    report: ScanReport,
}

impl Scan<'_> {
    fn read_dir(
        &mut self,
        pending: &Pending,
        reader: &mut XattrReader,
        filter: &mut dyn FnMut(&ScanEntry<'_>) -> bool,
        stack: &mut Vec<Pending>,
    ) -> Result<(), Error> {
        let failed = |name: &[u8], errno: Errno| Error::Scan {
            path: pending.directory.path_of(name),
            source: errno.into(),
        };
        let ahead = self.ahead;
        let mut path = pending.path.clone();
        let mut add = |name: &[u8], seen: Result<Seen, Errno>| {
            path.truncate(pending.path.len());
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name);
            let seen = seen.map_err(|errno| failed(name, errno))?;
            let place = Place { pending, name, path: &path };
            stack.extend(self.add(&place, seen, filter)?);
            Ok(())
        };
        match ahead.take(pending.host_dir) {
            Some(held) => held.entries.into_iter().try_for_each(|(name, seen)| add(&name, seen)),
            None => {
                let listing = Listing::of(&pending.directory, ahead.how());
                listing.map_err(|errno| failed(b"", errno))?.each(reader, add)
            }
        }
    }

    /// Adds one entry; returns it when it is a directory to be listed.
    fn add(
        &mut self,
        place: &Place<'_>,
        seen: Seen,
        filter: &mut dyn FnMut(&ScanEntry<'_>) -> bool,
    ) -> Result<Option<Pending>, Error> {
        let Seen { stat, target, xattrs } = seen;
        let stat = &stat;
        let kind = FileType::from_mode(stat.stx_mode).ok_or_else(|| Error::Unrepresentable {
            path: place.source_path(),
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
            return self.add_directory(place, stat, xattrs).map(Some);
        }
        let name = self.tree.text.add(place.name)?;
        let content = self.content(place, stat, target, kind, name)?;
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
        self.add_xattrs(node, xattrs, || place.source_path())?;
        Ok(None)
    }

    fn add_directory(
        &mut self,
        place: &Place<'_>,
        stat: &Statx,
        xattrs: Option<Result<Found, XattrError>>,
    ) -> Result<Pending, Error> {
        let parent = place.pending.node;
        let node = match self.tree.child(parent, place.name) {
            None => self.tree.add_child_dir(parent, place.name, &attributes(stat))?,
            Some(node) if self.tree.nodes[index(node)].kind == FileType::Directory => {
                self.tree.nodes[index(node)].set_attributes(&attributes(stat));
                node
            }
            Some(_) => return Err(Error::Exists { path: path_of(place.path) }),
        };
        self.add_xattrs(node, xattrs, || place.source_path())?;
        let name = self.tree.text.add(place.name)?;
        let host_dir = self.tree.host.add_dir(place.pending.host_dir, name);
        let host_dir = host_dir.map_err(|_| Error::TooLarge { what: "more than 2^32 directories" })?;
        let directory = self.tree.host.directory(&self.tree.text, host_dir);
        Ok(Pending { host_dir, directory, node, path: place.path.to_vec() })
    }

    fn content(
        &mut self,
        place: &Place<'_>,
        stat: &Statx,
        target: Option<Result<CString, Errno>>,
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
                let target = target.unwrap_or(Err(Errno::INVAL));
                let target = target
                    .map_err(|errno| Error::Scan { path: place.source_path(), source: errno.into() })?;
                self.tree.link_content(place.path, target.as_bytes())?
            }
            FileType::CharDevice | FileType::BlockDevice => {
                let rdev = Rdev::new(stat.stx_rdev_major, stat.stx_rdev_minor);
                Content::Rdev(rdev.ok_or_else(|| Error::Unrepresentable {
                    path: place.source_path(),
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

    fn add_xattrs(
        &mut self,
        node: NodeId,
        found: Option<Result<Found, XattrError>>,
        path: impl Fn() -> PathBuf,
    ) -> Result<(), Error> {
        // Not asked for: what is there stays.
        let Some(found) = found else { return Ok(()) };
        let found = found.map_err(|XattrError { name, source }| match name {
            Some(name) => Error::ScanXattr { path: path(), name, source },
            None => Error::Scan { path: path(), source },
        })?;
        self.report.xattrs_skipped += found.skipped;
        let set = self.tree.xattrs.add_set(&found.xattrs);
        let set = set.map_err(|reason| Error::Unrepresentable { path: path(), reason })?;
        self.tree.nodes[index(node)].xattrs = set;
        Ok(())
    }
}

/// The entry at hand: where it is on the host and where it goes.
struct Place<'a> {
    pending: &'a Pending,
    name: &'a [u8],
    path: &'a [u8],
}

impl Place<'_> {
    fn source_path(&self) -> PathBuf {
        self.pending.directory.path_of(self.name)
    }
}

fn attributes(stat: &Statx) -> Attributes {
    let mtime = Timestamp::new(stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec);
    Attributes { mode: stat.stx_mode & 0o7777, uid: stat.stx_uid, gid: stat.stx_gid, mtime }
}

fn stored_bytes(stat: &Statx) -> u64 {
    stat.stx_blocks.saturating_mul(512)
}
