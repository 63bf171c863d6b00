//! [`Walk`]: every entry of an image, depth first, whatever the image claims.

use std::collections::HashSet;

use super::{DirEntry, Image};
use crate::{Error, FileType, Inode, Nid};

/// Deeper than any path that a system call can name, and still bounded.
const DEPTH_MAX: usize = 1 << 16;

/// One object met on the way.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct WalkEntry {
    /// Path from the root, without a leading `/`; empty for the root itself.
    pub path: Vec<u8>,
    /// The object. One with several links comes once for each.
    pub inode: Inode,
}

/// A walk under way; a directory comes before what it contains. Ends after its first error.
///
/// Each directory is entered once: a second way to one is an error, which rules out cycles and the
/// doublings that would make a small image endless.
#[derive(Debug)]
pub struct Walk<'a> {
    image: &'a Image,
    stack: Vec<Frame>,
    path: Vec<u8>,
    seen: HashSet<Nid>,
    started: bool,
}

/// A directory and where its listing stands.
#[derive(Debug)]
struct Frame {
    dir: Inode,
    cookie: u64,
    path_len: usize,
    /// The last name read: the order must hold across the pieces of a listing.
    last: Vec<u8>,
    /// Entries read and not yet given, in reverse; dropped on the way down, so that depth costs little.
    ahead: Vec<DirEntry>,
}

impl Image {
    /// Walks the tree from the root.
    pub fn walk(&self) -> Walk<'_> {
        Walk { image: self, stack: Vec::new(), path: Vec::new(), seen: HashSet::new(), started: false }
    }
}

impl Walk<'_> {
    fn step(&mut self) -> Result<Option<WalkEntry>, Error> {
        if !self.started {
            self.started = true;
            let root = self.image.inode(self.image.root())?;
            return self.visit(root).map(Some);
        }
        while let Some(frame) = self.stack.last_mut() {
            self.path.truncate(frame.path_len);
            let Some(entry) = frame.next(self.image)? else {
                self.stack.pop();
                continue;
            };
            if entry.name == b"." || entry.name == b".." {
                continue;
            }
            if !self.path.is_empty() {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(&entry.name);
            let inode = self.image.inode(entry.nid)?;
            return self.visit(inode).map(Some);
        }
        Ok(None)
    }

    fn visit(&mut self, inode: Inode) -> Result<WalkEntry, Error> {
        if inode.kind == FileType::Directory {
            if !self.seen.insert(inode.nid) {
                return Err(Error::DirectoryLinkedTwice { nid: inode.nid });
            }
            if self.stack.len() >= DEPTH_MAX {
                return Err(Error::TooDeep { nid: inode.nid });
            }
            if let Some(parent) = self.stack.last_mut() {
                parent.ahead = Vec::new();
            }
            self.stack.push(Frame::new(inode, self.path.len()));
        }
        Ok(WalkEntry { path: self.path.clone(), inode })
    }
}

impl Frame {
    /// How many entries are read ahead: bounds the memory of a level.
    const AHEAD: usize = 64;

    fn new(dir: Inode, path_len: usize) -> Self {
        Self { dir, cookie: 0, path_len, last: Vec::new(), ahead: Vec::new() }
    }

    fn next(&mut self, image: &Image) -> Result<Option<DirEntry>, Error> {
        if self.ahead.is_empty() {
            let listing = image.read_dir_after(&self.dir, self.cookie, std::mem::take(&mut self.last))?;
            for entry in listing.take(Self::AHEAD) {
                self.ahead.push(entry?);
            }
            self.ahead.reverse();
        }
        let entry = self.ahead.pop();
        if let Some(entry) = &entry {
            self.cookie = entry.next;
            self.last.clone_from(&entry.name);
        }
        Ok(entry)
    }
}

impl Iterator for Walk<'_> {
    type Item = Result<WalkEntry, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.step();
        if step.is_err() {
            self.stack.clear();
        }
        step.transpose()
    }
}

impl std::iter::FusedIterator for Walk<'_> {}
