//! [`Walk`]: goes through the directories of the image, makes them, and has everything else made.

use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd as _;
use std::sync::Arc;

use larder_erofs::{FileType, Inode, Nid, ReadDir};
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::Shared;
use super::copy::Buffer;
use super::dir::Dir;
use super::file::OpenFile;
use super::jobs::{Job, Queue};
use super::large::PIECE_BYTES;
use super::node;

/// Levels of directories, at most: each keeps a descriptor open. No path of a system call has as many.
const DEPTH_MAX: usize = 2048;
/// Objects of one directory that are handed over together: threads that make files in one directory wait for each
/// other.
const BATCH: usize = 32;
/// Bytes of files that are handed over together.
const BATCH_BYTES: u64 = 4 << 20;

/// Objects of one directory that wait to be handed over.
#[derive(Default)]
struct Batch {
    objects: Vec<(Vec<u8>, Inode)>,
    bytes: u64,
}

/// A walk under way.
pub(super) struct Walk<'a, 'b> {
    shared: &'a Shared<'a>,
    queue: Queue<'a>,
    buffer: &'b mut Buffer,
    /// Where the first name of an inode with several was made.
    links: HashMap<Nid, Vec<u8>>,
    /// Directories entered: a second way to one would be a circle, or a doubling without end.
    entered: HashSet<Nid>,
    top: Option<Arc<Dir<'a>>>,
}

/// A directory that is being gone through.
struct Level<'a> {
    dir: Arc<Dir<'a>>,
    listing: ReadDir<'a>,
    batch: Batch,
}

impl<'a, 'b> Walk<'a, 'b> {
    pub fn new(shared: &'a Shared<'a>, queue: Queue<'a>, buffer: &'b mut Buffer) -> Self {
        Self { shared, queue, buffer, links: HashMap::new(), entered: HashSet::new(), top: None }
    }

    /// Extracts `from` into `top`: its entries, or itself as `name`. Consumes the walk, so that the threads end.
    pub fn run(mut self, top: Arc<Dir<'a>>, from: &Inode, name: Option<&[u8]>) {
        self.top = Some(Arc::clone(&top));
        match name {
            None => {
                self.shared.count();
                self.directories(top, from);
            }
            Some(name) => {
                let mut batch = Batch::default();
                self.other(&top, &mut batch, name.to_vec(), *from);
                self.flush(&top, &mut batch);
            }
        }
    }

    /// Goes through a directory and all below it.
    fn directories(&mut self, top: Arc<Dir<'a>>, from: &Inode) {
        let mut stack: Vec<Level<'a>> = Vec::new();
        self.enter(&mut stack, top, from, b"");
        loop {
            let depth = stack.len();
            let Some(Level { dir, listing, batch }) = stack.last_mut() else { return };
            let entry = match listing.next() {
                None => {
                    self.flush(dir, batch);
                    stack.pop();
                    continue;
                }
                Some(Err(error)) => {
                    dir.failed(b"", error);
                    continue;
                }
                Some(Ok(entry)) if entry.name == b"." || entry.name == b".." => continue,
                Some(Ok(entry)) => entry,
            };
            let inode = match self.shared.image.image().inode(entry.nid) {
                Ok(inode) => inode,
                Err(error) => {
                    dir.failed(&entry.name, error);
                    continue;
                }
            };
            if inode.kind != FileType::Directory {
                self.other(dir, batch, entry.name, inode);
            } else if depth >= DEPTH_MAX {
                dir.failed(&entry.name, "the directory lies too deep");
            } else if self.entered.contains(&inode.nid) {
                dir.failed(&entry.name, "the directory is reached twice");
            } else {
                match Dir::make(dir, &entry.name, &inode) {
                    Ok(made) => {
                        self.shared.count();
                        self.enter(&mut stack, Arc::new(made), &inode, &entry.name);
                    }
                    Err(errno) => dir.failed(&entry.name, format_args!("cannot be made: {errno}")),
                }
            }
        }
    }

    fn enter(&mut self, stack: &mut Vec<Level<'a>>, dir: Arc<Dir<'a>>, inode: &Inode, name: &[u8]) {
        self.entered.insert(inode.nid);
        match self.shared.image.image().read_dir(inode) {
            Ok(listing) => stack.push(Level { dir, listing, batch: Batch::default() }),
            Err(error) => dir.failed(name, error),
        }
    }

    /// Has something made that is no directory.
    fn other(&mut self, dir: &Arc<Dir<'a>>, batch: &mut Batch, name: Vec<u8>, inode: Inode) {
        if inode.nlink > 1 && self.linked(dir, &name, &inode) {
            return;
        }
        let many = inode.nlink > 1;
        match inode.kind {
            FileType::Regular if many || inode.size > PIECE_BYTES => {
                match OpenFile::make(Arc::clone(dir), name, inode) {
                    Ok(file) => self.queue.put_file(file, inode.size, self.buffer),
                    Err((dir, name, errno)) => dir.failed(&name, format_args!("cannot be made: {errno}")),
                }
            }
            // Its other names need it to be there.
            kind if many && kind != FileType::Regular => node::make(dir, &name, &inode),
            _ => {
                batch.bytes += inode.size.min(PIECE_BYTES);
                batch.objects.push((name, inode));
                if batch.objects.len() >= BATCH || batch.bytes >= BATCH_BYTES {
                    self.flush(dir, batch);
                }
            }
        }
    }

    fn flush(&mut self, dir: &Arc<Dir<'a>>, batch: &mut Batch) {
        let Batch { objects, .. } = std::mem::take(batch);
        if !objects.is_empty() {
            self.queue.put(Job::Objects(Arc::clone(dir), objects), self.buffer);
        }
    }

    /// Makes a further name of an inode that has one; `false` when this is its first.
    fn linked(&mut self, dir: &Arc<Dir<'a>>, name: &[u8], inode: &Inode) -> bool {
        let Some(first) = self.links.get(&inode.nid) else {
            self.links.insert(inode.nid, dir.path(name));
            return false;
        };
        if let Err(errno) = self.link(first, dir, name) {
            let first = String::from_utf8_lossy(first);
            dir.failed(name, format_args!("cannot be linked to {first}: {errno}"));
        }
        true
    }

    /// Links `first`, a path from the target on, into `dir`. The way to it may not leave the target or use a link.
    fn link(&self, first: &[u8], dir: &Dir<'_>, name: &[u8]) -> Result<(), Errno> {
        let Some(top) = &self.top else { return Err(Errno::BADF) };
        let (above, last) = match first.iter().rposition(|&byte| byte == b'/') {
            Some(slash) => (&first[..slash], &first[slash + 1..]),
            None => (b".".as_slice(), first),
        };
        let above = rustix::fs::openat2(
            top.as_fd(),
            above,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
        )?;
        dir.make_anew(name, |at| rustix::fs::linkat(&above, last, at, name, AtFlags::empty()))
    }
}
