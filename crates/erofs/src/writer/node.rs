//! [`Node`]: one inode to be, and the directories that name it.

use super::options::Attributes;
use super::text::Span;
use crate::{FileType, Rdev, Timestamp};

/// Index into [`Tree::nodes`](super::Tree::nodes).
pub(super) type NodeId = u32;

/// One inode to be.
#[derive(Debug)]
pub(super) struct Node {
    pub kind: FileType,
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Timestamp,
    pub size: u64,
    /// Number of names, for what is no directory.
    pub nlink: u32,
    /// Index into the table of xattr sets; 0 is the empty set.
    pub xattrs: u32,
    pub content: Content,
}

/// Where the contents of a node come from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Content {
    Nothing,
    Rdev(Rdev),
    /// Index into [`Tree::dirs`](super::Tree::dirs).
    Dir(u32),
    Link(Span),
    Host(HostFile),
    /// Index into [`Tree::literals`](super::Tree::literals).
    Literal(u32),
}

/// A regular file of the host, and what it must still be when it is read.
#[derive(Clone, Copy, Debug)]
pub(super) struct HostFile {
    /// Index into the directories of [`Host`](super::host::Host).
    pub dir: u32,
    pub name: Span,
    pub ino: u64,
    /// Fewer blocks than its size needs: worth asking where the holes are.
    pub sparse: bool,
}

/// The names in a directory, in ascending order of their bytes.
#[derive(Debug, Default)]
pub(super) struct Dir {
    pub entries: Vec<Entry>,
    pub parent: NodeId,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub name: Span,
    pub node: NodeId,
}

impl Node {
    pub(super) fn new(kind: FileType, attributes: &Attributes, content: Content) -> Self {
        let Attributes { mode, uid, gid, mtime } = *attributes;
        let mode = mode & 0o7777;
        Self { kind, mode, uid, gid, mtime, size: 0, nlink: 1, xattrs: 0, content }
    }

    pub(super) fn set_attributes(&mut self, attributes: &Attributes) {
        self.mode = attributes.mode & 0o7777;
        self.uid = attributes.uid;
        self.gid = attributes.gid;
        self.mtime = attributes.mtime;
    }
}
