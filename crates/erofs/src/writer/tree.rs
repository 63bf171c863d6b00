//! [`Tree`]: what to write, held compactly: about 120 bytes for each object and its name.

use std::collections::HashMap;
use std::sync::Arc;

use super::host::{Host, HostSource};
use super::merge::Layer;
use super::node::{Content, Dir, Entry, HostFile, Node, NodeId};
use super::options::Attributes;
use super::text::{Span, Text, index};
use super::xattr_table::XattrTable;
use crate::dirent::NAME_BYTES_MAX;
use crate::error::path_of;
use crate::{Error, FileType, Nid, Rdev, Xattr};

/// A tree of files to be written as an image.
///
/// Paths are those inside the image, as bytes: components separated by `/`, without `.` and `..`, empty for
/// the root. Parents that are missing are made, with default [`Attributes`].
#[derive(Debug)]
pub struct Tree {
    pub(super) nodes: Vec<Node>,
    pub(super) dirs: Vec<Dir>,
    pub(super) text: Text,
    pub(super) xattrs: XattrTable,
    pub(super) host: Host,
    pub(super) literals: Vec<Vec<u8>>,
    /// Images whose files are among the nodes.
    pub(super) layers: Vec<Layer>,
    /// Files of layers that together are one file, with where each begins, in order.
    pub(super) joined: Vec<(u64, u32, Nid)>,
    /// Objects of the host with several links, by device and inode number.
    pub(super) links: HashMap<(u64, u64), NodeId>,
    total_bytes: u64,
}

impl Default for Tree {
    fn default() -> Self {
        Self::new()
    }
}

impl Tree {
    pub(super) const ROOT: NodeId = 0;

    /// A tree of an empty root directory.
    pub fn new() -> Self {
        let root = Node {
            content: Content::Dir(0),
            ..Node::new(FileType::Directory, &Attributes::default(), Content::Nothing)
        };
        Self {
            nodes: vec![root],
            dirs: vec![Dir::default()],
            text: Text::default(),
            xattrs: XattrTable::default(),
            host: Host::default(),
            literals: Vec::new(),
            layers: Vec::new(),
            joined: Vec::new(),
            links: HashMap::new(),
            total_bytes: 0,
        }
    }

    /// Number of inodes, the root included.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is nothing but the root.
    pub fn is_empty(&self) -> bool {
        self.nodes.len() == 1
    }

    /// Bytes of file contents that will be read, about: holes and further links count as nothing.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// Gives every object, the root included, the attributes that `change` makes of its own.
    pub fn map_attributes(&mut self, change: &mut dyn FnMut(Attributes) -> Attributes) {
        for node in &mut self.nodes {
            let changed = change(node.attributes());
            node.set_attributes(&changed);
        }
    }

    /// Adds a directory, or sets the attributes of one that is there.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`] when something else has that name, [`Error::BadPath`] for a path of no image.
    pub fn add_dir(&mut self, path: &[u8], attributes: &Attributes) -> Result<(), Error> {
        let node = self.make_dirs(path)?;
        self.nodes[index(node)].set_attributes(attributes);
        Ok(())
    }

    /// Adds a symbolic link.
    ///
    /// # Errors
    ///
    /// As [`add_dir`](Self::add_dir), and [`Error::Unrepresentable`] for an impossible target.
    pub fn add_symlink(&mut self, path: &[u8], target: &[u8], attributes: &Attributes) -> Result<(), Error> {
        let content = self.link_content(path, target)?;
        let node = Node { size: target.len() as u64, ..Node::new(FileType::Symlink, attributes, content) };
        self.add_leaf(path, node)
    }

    /// Adds a regular file with contents held in memory.
    ///
    /// # Errors
    ///
    /// As [`add_dir`](Self::add_dir).
    pub fn add_file(&mut self, path: &[u8], contents: Vec<u8>, attributes: &Attributes) -> Result<(), Error> {
        let literal = self.literals.len();
        let literal = u32::try_from(literal).map_err(|_| Error::TooLarge { what: "more than 2^32 files" })?;
        let size = contents.len() as u64;
        let content = Content::Literal(literal);
        self.add_leaf(path, Node { size, ..Node::new(FileType::Regular, attributes, content) })?;
        self.literals.push(contents);
        self.total_bytes += size;
        Ok(())
    }

    /// Adds a device node, FIFO or socket; `rdev` counts for devices only.
    ///
    /// # Errors
    ///
    /// As [`add_dir`](Self::add_dir), and [`Error::Unrepresentable`] for any other kind.
    pub fn add_special(
        &mut self,
        path: &[u8],
        kind: FileType,
        rdev: Rdev,
        attributes: &Attributes,
    ) -> Result<(), Error> {
        if kind.has_data() {
            let reason = "only devices, FIFOs and sockets are special files";
            return Err(Error::Unrepresentable { path: path_of(path), reason });
        }
        let content = if kind.is_device() { Content::Rdev(rdev) } else { Content::Nothing };
        self.add_leaf(path, Node::new(kind, attributes, content))
    }

    /// Adds a second name for what stands at `target`.
    ///
    /// # Errors
    ///
    /// As [`add_dir`](Self::add_dir); [`Error::Missing`] when there is nothing at `target`, and
    /// [`Error::Unrepresentable`] when it is a directory.
    pub fn add_link(&mut self, path: &[u8], target: &[u8]) -> Result<(), Error> {
        let node = self.find(target)?.ok_or_else(|| Error::Missing { path: path_of(target) })?;
        if self.nodes[index(node)].kind == FileType::Directory {
            let reason = "directories have one name";
            return Err(Error::Unrepresentable { path: path_of(target), reason });
        }
        let (parent, name) = self.make_parent(path)?;
        let name = self.text.add(name)?;
        self.insert(parent, name, node)?;
        self.nodes[index(node)].nlink += 1;
        Ok(())
    }

    /// Sets the extended attributes of what stands at `path`, in place of those it had.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`], and [`Error::Unrepresentable`] when EROFS cannot store one of them.
    pub fn set_xattrs(&mut self, path: &[u8], xattrs: &[Xattr]) -> Result<(), Error> {
        let node = self.find(path)?.ok_or_else(|| Error::Missing { path: path_of(path) })?;
        let set = self.xattrs.add_set(xattrs);
        let set = set.map_err(|reason| Error::Unrepresentable { path: path_of(path), reason })?;
        self.nodes[index(node)].xattrs = set;
        Ok(())
    }

    /// Returns the directory at `path`, making what is missing.
    pub(super) fn make_dirs(&mut self, path: &[u8]) -> Result<NodeId, Error> {
        let mut node = Self::ROOT;
        for name in components(path)? {
            node = match self.child(node, name) {
                Some(child) => child,
                None => self.add_child_dir(node, name, &Attributes::default())?,
            };
            if self.nodes[index(node)].kind != FileType::Directory {
                return Err(Error::Exists { path: path_of(path) });
            }
        }
        Ok(node)
    }

    /// Adds a directory called `name` to the directory `parent`.
    pub(super) fn add_child_dir(
        &mut self,
        parent: NodeId,
        name: &[u8],
        attributes: &Attributes,
    ) -> Result<NodeId, Error> {
        let dir =
            u32::try_from(self.dirs.len()).map_err(|_| Error::TooLarge { what: "more than 2^32 files" })?;
        let node = Node::new(FileType::Directory, attributes, Content::Dir(dir));
        let name = self.text.add(name)?;
        let id = self.add_child(parent, name, node)?;
        self.dirs.push(Dir { entries: Vec::new(), parent });
        Ok(id)
    }

    /// Adds a file without a name, which the image itself needs.
    pub(super) fn add_unnamed(&mut self, content: Content, size: u64) -> Result<NodeId, Error> {
        let id =
            u32::try_from(self.nodes.len()).map_err(|_| Error::TooLarge { what: "more than 2^32 files" })?;
        let mtime = self.nodes[index(Self::ROOT)].mtime();
        let attributes = Attributes { mode: 0, mtime, ..Attributes::default() };
        self.nodes.push(Node { size, ..Node::new(FileType::Regular, &attributes, content) });
        Ok(id)
    }

    /// Adds `node` under `name` to the directory `parent`.
    pub(super) fn add_child(&mut self, parent: NodeId, name: Span, node: Node) -> Result<NodeId, Error> {
        let id =
            u32::try_from(self.nodes.len()).map_err(|_| Error::TooLarge { what: "more than 2^32 files" })?;
        self.insert(parent, name, id)?;
        self.nodes.push(node);
        Ok(id)
    }

    /// Gives `node` a name in `parent`.
    pub(super) fn insert(&mut self, parent: NodeId, name: Span, node: NodeId) -> Result<(), Error> {
        let dir = self.dir_index(parent);
        let entries = &self.dirs[dir].entries;
        let bytes = self.text.get(name);
        // Names mostly come in order: look at the end first.
        let after = entries.last().is_none_or(|last| self.text.get(last.name) < bytes);
        let place = if after {
            entries.len()
        } else {
            match entries.binary_search_by(|entry| self.text.get(entry.name).cmp(bytes)) {
                Ok(_) => return Err(Error::Exists { path: path_of(bytes) }),
                Err(place) => place,
            }
        };
        self.dirs[dir].entries.insert(place, Entry { name, node });
        Ok(())
    }

    /// Returns what is called `name` in the directory `parent`.
    pub(super) fn child(&self, parent: NodeId, name: &[u8]) -> Option<NodeId> {
        let entries = &self.dirs[self.dir_index(parent)].entries;
        let place = entries.binary_search_by(|entry| self.text.get(entry.name).cmp(name)).ok()?;
        Some(entries[place].node)
    }

    /// Checks a target and stores it.
    pub(super) fn link_content(&mut self, path: &[u8], target: &[u8]) -> Result<Content, Error> {
        if target.is_empty() || target.len() > 4095 || target.contains(&0) {
            let reason = "symbolic link with an impossible target";
            return Err(Error::Unrepresentable { path: path_of(path), reason });
        }
        Ok(Content::Link(self.text.add(target)?))
    }

    pub(super) fn count_bytes(&mut self, bytes: u64) {
        self.total_bytes = self.total_bytes.saturating_add(bytes);
    }

    /// A file of the host that a node was made of.
    pub(super) fn host_file(&self, host: HostFile) -> HostSource {
        self.host_file_in(host, self.host.below_root(&self.text, host.dir))
    }

    /// The same, where the path of its directory is known.
    pub(super) fn host_file_in(&self, HostFile { dir, name, .. }: HostFile, path: Arc<[u8]>) -> HostSource {
        self.host.file(dir, path, self.text.get(name))
    }

    /// The index into [`Tree::dirs`] of a node known to be a directory.
    pub(super) fn dir_index(&self, node: NodeId) -> usize {
        match self.nodes[index(node)].content {
            Content::Dir(dir) => index(dir),
            _ => unreachable!("callers pass directories only"),
        }
    }

    /// Returns what stands at `path`.
    pub(super) fn find(&self, path: &[u8]) -> Result<Option<NodeId>, Error> {
        let mut node = Self::ROOT;
        for name in components(path)? {
            if self.nodes[index(node)].kind != FileType::Directory {
                return Ok(None);
            }
            let Some(child) = self.child(node, name) else { return Ok(None) };
            node = child;
        }
        Ok(Some(node))
    }

    /// The path of a directory, for messages.
    pub(super) fn path_of(&self, dir: NodeId) -> Vec<u8> {
        let (mut names, mut node) = (Vec::new(), dir);
        while node != Self::ROOT {
            let parent = self.dirs[self.dir_index(node)].parent;
            let entries = &self.dirs[self.dir_index(parent)].entries;
            let entry = entries.iter().find(|entry| entry.node == node);
            names.push(entry.map_or(&b"?"[..], |entry| self.text.get(entry.name)));
            node = parent;
        }
        names.reverse();
        names.join(&b'/')
    }

    fn add_leaf(&mut self, path: &[u8], node: Node) -> Result<(), Error> {
        self.add_leaf_node(path, node).map(drop)
    }

    /// Adds what is no directory.
    pub(super) fn add_leaf_node(&mut self, path: &[u8], node: Node) -> Result<NodeId, Error> {
        let (parent, name) = self.make_parent(path)?;
        let name = self.text.add(name)?;
        self.add_child(parent, name, node)
    }

    /// Takes away the name `path` and, if it is a directory's, all below.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`] when nothing has that name, [`Error::BadPath`] for a path of no image or the root.
    pub fn remove(&mut self, path: &[u8]) -> Result<(), Error> {
        let path = path.strip_suffix(b"/").unwrap_or(path);
        let slash = path.iter().rposition(|&byte| byte == b'/');
        let (dirs, name) = slash.map_or((&path[..0], path), |slash| (&path[..slash], &path[slash + 1..]));
        if name.is_empty() {
            return Err(Error::BadPath { path: path_of(path) });
        }
        let missing = || Error::Missing { path: path_of(path) };
        let parent = self.find(dirs)?.ok_or_else(missing)?;
        if self.nodes[index(parent)].kind != FileType::Directory {
            return Err(missing());
        }
        let dir = self.dir_index(parent);
        let place = self.dirs[dir].entries.binary_search_by(|entry| self.text.get(entry.name).cmp(name));
        let entry = self.dirs[dir].entries.remove(place.map_err(|_| missing())?);
        self.unlink(entry.node);
        Ok(())
    }

    /// Counts one name less of a node; of a directory, of all that is below it.
    fn unlink(&mut self, node: NodeId) {
        let mut stack = vec![node];
        while let Some(node) = stack.pop() {
            if self.nodes[index(node)].kind == FileType::Directory {
                let dir = self.dir_index(node);
                stack.extend(self.dirs[dir].entries.drain(..).map(|entry| entry.node));
            } else {
                self.nodes[index(node)].nlink -= 1;
            }
        }
    }

    /// The extended attributes of what stands at `path`.
    pub(super) fn xattrs_of(&self, path: &[u8]) -> Result<Vec<Xattr>, Error> {
        let node = self.find(path)?.ok_or_else(|| Error::Missing { path: path_of(path) })?;
        Ok(self.xattrs.set(self.nodes[index(node)].xattrs))
    }

    fn make_parent<'p>(&mut self, path: &'p [u8]) -> Result<(NodeId, &'p [u8]), Error> {
        let path = path.strip_suffix(b"/").unwrap_or(path);
        let (dirs, name) = match path.iter().rposition(|&byte| byte == b'/') {
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (&path[..0], path),
        };
        if name.is_empty() {
            return Err(Error::Exists { path: path_of(b"/") });
        }
        components(name).map(drop)?;
        Ok((self.make_dirs(dirs)?, name))
    }
}

/// Splits a path of the image, checking every component.
fn components(path: &[u8]) -> Result<impl Iterator<Item = &[u8]>, Error> {
    let split = || path.split(|&byte| byte == b'/').filter(|name| !name.is_empty());
    let good =
        |name: &[u8]| name.len() <= NAME_BYTES_MAX && !name.contains(&0) && name != b"." && name != b"..";
    if split().all(good) { Ok(split()) } else { Err(Error::BadPath { path: path_of(path) }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_given_once() {
        let mut tree = Tree::new();
        let attributes = Attributes::default();
        tree.add_file(b"a/b", vec![1], &attributes).expect("new");
        tree.add_dir(b"a", &attributes).expect("a directory may be named again");
        assert!(matches!(tree.add_file(b"a/b", vec![2], &attributes), Err(Error::Exists { .. })));
        assert!(matches!(tree.add_dir(b"a/b", &attributes), Err(Error::Exists { .. })));
        assert!(matches!(tree.add_dir(b"a/b/c", &attributes), Err(Error::Exists { .. })));
        assert_eq!((tree.len(), tree.total_bytes()), (3, 1));
    }

    #[test]
    fn paths_of_no_image_are_refused() {
        let mut tree = Tree::new();
        for path in [b"..".as_slice(), b"a/../b", b".", b"a\0b", &[b'x'; 256]] {
            let error = tree.add_file(path, Vec::new(), &Attributes::default()).expect_err("bad path");
            assert!(matches!(error, Error::BadPath { .. }), "{error}");
        }
        assert!(tree.is_empty());
    }

    #[test]
    fn links_go_to_files_that_exist() {
        let mut tree = Tree::new();
        let attributes = Attributes::default();
        tree.add_file(b"one", vec![1], &attributes).expect("new");
        tree.add_link(b"two", b"one").expect("linked");
        assert_eq!(tree.nodes[1].nlink, 2);
        assert!(matches!(tree.add_link(b"three", b"nothing"), Err(Error::Missing { .. })));
        assert!(matches!(tree.add_link(b"three", b""), Err(Error::Unrepresentable { .. })));
    }
}
