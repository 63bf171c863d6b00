//! [`Node`]: one inode to be, and the directories that name it.

use super::options::Attributes;
use super::text::Span;
use crate::{FileType, Nid, Rdev, Timestamp};

/// Index into [`Tree::nodes`](super::Tree::nodes).
pub(super) type NodeId = u32;

/// One inode to be; kept to 64 bytes, since a tree has one for each of its files.
#[derive(Debug)]
pub(super) struct Node {
    pub kind: FileType,
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    /// Number of names, for what is no directory.
    pub nlink: u32,
    /// Index into the table of xattr sets; 0 is the empty set.
    pub xattrs: u32,
    // Apart, because a `Timestamp` would be padded.
    pub mtime_nanoseconds: u32,
    pub mtime_seconds: i64,
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
    /// A file of one of [`Tree::layers`](super::Tree::layers).
    Layer {
        layer: u32,
        nid: Nid,
    },
    /// What [`Tree::joined`](super::Tree::joined) says.
    Joined,
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
        Self {
            kind,
            mode: mode & 0o7777,
            uid,
            gid,
            size: 0,
            nlink: 1,
            xattrs: 0,
            mtime_nanoseconds: mtime.nanoseconds,
            mtime_seconds: mtime.seconds,
            content,
        }
    }

    pub(super) fn mtime(&self) -> Timestamp {
        Timestamp::new(self.mtime_seconds, self.mtime_nanoseconds)
    }

    pub(super) fn attributes(&self) -> Attributes {
        let mtime = Timestamp::new(self.mtime_seconds, self.mtime_nanoseconds);
        Attributes { mode: self.mode, uid: self.uid, gid: self.gid, mtime }
    }

    pub(super) fn set_attributes(&mut self, attributes: &Attributes) {
        let Self { kind, size, nlink, xattrs, content, .. } = *self;
        *self = Self { size, nlink, xattrs, ..Self::new(kind, attributes, content) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_files_take_64_megabytes() {
        assert_eq!(size_of::<Node>(), 64);
    }
}
