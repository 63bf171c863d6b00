//! [`Nodes`]: what the kernel knows, by number and by path. No I/O but the journal.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use larder_mount::fuse::{BackingId, NodeId};
use larder_netfs::File;
use larder_remote::tree::{TreeNode, TreePath};
use rustix::time::{ClockId, clock_gettime};

use super::journal::{Journal, Known};

/// What the kernel knows.
pub struct Nodes {
    nodes: BTreeMap<NodeId, Node>,
    /// The newest node of each path.
    by_path: HashMap<TreePath, NodeId>,
    next: u64,
    journal: Journal,
}

/// One version of one path.
pub struct Node {
    /// Path and version.
    pub known: Known,
    /// When the server last said that this is the current version.
    pub confirmed: Option<Instant>,
    /// From an earlier worker: how its open files are read is not known here.
    pub is_inherited: bool,
    /// How often the kernel was told of it by this worker.
    lookups: u64,
    /// Open files of this worker.
    pub opens: u64,
    /// The bytes, while it is open.
    pub file: Option<Arc<File>>,
    /// How its open files are read: known with the answer to the first open, forgotten with the last release.
    pub way: Option<Way>,
}

/// How the kernel reads the open files of a node. All of them the same way: `fuse_file_io_open()` in fs/fuse/iomode.c
/// (v6.18) fails an open that does not agree with the others.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Way {
    /// It asks the worker.
    Asks,
    /// It reads the cache's file itself.
    Itself(BackingId),
}

impl Nodes {
    /// The nodes in the journal at `path`, with the root.
    ///
    /// # Errors
    ///
    /// What the file system says.
    pub fn open(path: &Path) -> io::Result<Self> {
        let (journal, known) = Journal::open(path)?;
        let next =
            known.keys().next_back().copied().unwrap_or(NodeId::ROOT.0).saturating_add(1).max(uptime_us());
        let root = Known { path: TreePath::root(), node: TreeNode::Directory };
        let mut nodes = BTreeMap::from([(NodeId::ROOT, Node::new(root, false))]);
        // A directory is the one it was: with another node the kernel would take working directories and mounts away from
        // whoever has them there. How the open files of a file are read is not known, so that it gets a new one.
        let directories = known.iter().filter(|(_, known)| known.node == TreeNode::Directory);
        let by_path = directories.map(|(id, known)| (known.path.clone(), NodeId(*id))).collect();
        nodes.extend(known.into_iter().map(|(id, known)| (NodeId(id), Node::new(known, true))));
        Ok(Self { nodes, by_path, next, journal })
    }

    /// The node `id`.
    pub fn get(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(&id)
    }

    /// The node `id`, to be changed.
    pub fn get_mut(&mut self, id: NodeId) -> Option<&mut Node> {
        self.nodes.get_mut(&id)
    }

    /// The newest node of `path`.
    pub fn newest(&self, path: &TreePath) -> Option<(NodeId, &Node)> {
        let id = *self.by_path.get(path)?;
        Some((id, self.nodes.get(&id)?))
    }

    /// The node for what was found at `path`: the one there is, or a new one. The kernel is told of it.
    pub fn learn(&mut self, path: &TreePath, found: &TreeNode) -> NodeId {
        if path.is_root() {
            return NodeId::ROOT;
        }
        let same =
            self.newest(path).filter(|(_, node)| node.known.node.is_confirmed_by(found)).map(|(id, _)| id);
        let id = same.unwrap_or_else(|| self.add(Known { path: path.clone(), node: found.clone() }));
        if let Some(node) = self.nodes.get_mut(&id) {
            node.lookups += 1;
        }
        id
    }

    fn add(&mut self, known: Known) -> NodeId {
        let id = NodeId(self.next);
        self.next += 1;
        self.journal.learn(id.0, &known);
        self.by_path.insert(known.path.clone(), id);
        self.nodes.insert(id, Node::new(known, false));
        id
    }

    /// Says that `id` is not the current version of its path any more.
    pub fn outdate(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.confirmed = None;
        if self.by_path.get(&node.known.path) == Some(&id) {
            self.by_path.remove(&node.known.path);
        }
    }

    /// The kernel has forgotten a node that it was told of so often; returns it when that was all.
    pub fn forget(&mut self, id: NodeId, lookups: u64) -> Option<Node> {
        let node = self.nodes.get_mut(&id).filter(|_| id != NodeId::ROOT)?;
        // Of an inherited one the kernel was told before, how often is not known: as long as it forgets no more than it was
        // told here, it knows the node still.
        let is_known = if node.is_inherited { lookups <= node.lookups } else { lookups < node.lookups };
        node.lookups = node.lookups.saturating_sub(lookups);
        if is_known {
            return None;
        }
        let node = self.nodes.remove(&id)?;
        if self.by_path.get(&node.known.path) == Some(&id) {
            self.by_path.remove(&node.known.path);
        }
        self.journal.forget(id.0);
        if self.journal.is_long(self.nodes.len()) {
            let known = self.nodes.iter().filter(|(id, _)| **id != NodeId::ROOT);
            if let Err(error) = self.journal.rewrite(known.map(|(id, node)| (id.0, &node.known))) {
                tracing::warn!(%error, "node journal");
            }
        }
        Some(node)
    }
}

/// Microseconds since the machine was started. An earlier worker has given out less than one number in each, beginning
/// with the time of its own start: so what it could not write to the journal has no number from here on either. For the
/// kernel a number would go on being the node that it had.
fn uptime_us() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    let us = time.tv_sec.saturating_mul(1_000_000).saturating_add(time.tv_nsec / 1000);
    us.try_into().unwrap_or(0)
}

impl Node {
    fn new(known: Known, is_inherited: bool) -> Self {
        Self { known, confirmed: None, is_inherited, lookups: 0, opens: 0, file: None, way: None }
    }
}

#[cfg(test)]
mod tests {
    use larder_remote::tree::FileVersion;

    use super::*;

    fn file(size: u64) -> TreeNode {
        TreeNode::File(FileVersion { size, etag: None, modified: None, is_settled: false })
    }

    #[test]
    fn a_version_has_one_node_and_another_version_another() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let path = TreePath::parse("a").expect("sound");
        let mut nodes = Nodes::open(&temp.path().join("n")).expect("new");
        let first = nodes.learn(&path, &file(1));
        assert_eq!(nodes.learn(&path, &file(1)), first);
        let second = nodes.learn(&path, &file(2));
        assert!(second != first && nodes.get(first).is_some(), "who has the old one open goes on");
        assert_ne!(nodes.learn(&path, &file(1)), first, "a number never stands for the same version twice");
        assert!(nodes.forget(first, 1).is_none() && nodes.forget(first, 1).is_some());
        assert!(nodes.get(first).is_none());
        assert!(nodes.forget(NodeId::ROOT, 1000).is_none(), "the root stays");
    }

    #[test]
    fn a_successor_knows_what_its_predecessor_handed_out_and_uses_no_number_again() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let path = TreePath::parse("a/b").expect("sound");
        let mut nodes = Nodes::open(&temp.path().join("n")).expect("new");
        let old = nodes.learn(&path, &file(1));
        drop(nodes);
        let mut nodes = Nodes::open(&temp.path().join("n")).expect("there");
        assert!(nodes.get(old).is_some_and(|node| node.is_inherited && node.known.node == file(1)));
        let new = nodes.learn(&path, &file(1));
        assert!(new > old && !nodes.get(new).expect("known").is_inherited);
        assert!(nodes.forget(old, 5).is_some());
    }

    #[test]
    fn a_version_that_has_settled_stays_so_whatever_a_cache_answers() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let path = TreePath::parse("a").expect("sound");
        let settled = |is_settled| {
            TreeNode::File(FileVersion { size: 1, etag: Some("\"1\"".into()), modified: None, is_settled })
        };
        let mut nodes = Nodes::open(&temp.path().join("n")).expect("new");
        let young = nodes.learn(&path, &settled(false));
        let old = nodes.learn(&path, &settled(true));
        assert_ne!(old, young, "what was read before may be of another content");
        assert_eq!(nodes.learn(&path, &settled(false)), old);
    }

    #[test]
    fn p4_a_directory_has_the_same_node_with_every_worker() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let path = TreePath::parse("a").expect("sound");
        let open = || Nodes::open(&temp.path().join("n")).expect("there");
        let old = open().learn(&path, &TreeNode::Directory);
        let mut nodes = open();
        assert_eq!(nodes.learn(&path, &TreeNode::Directory), old);
        assert!(nodes.forget(old, 1).is_none(), "the earlier worker has told of it, too");
        assert_eq!(nodes.learn(&path, &TreeNode::Directory), old);
        assert!(nodes.forget(old, 2).is_some(), "more than this one has told");
        assert_ne!(nodes.learn(&path, &TreeNode::Directory), old);
    }

    #[test]
    fn p1_a_successor_uses_no_number_again_that_is_not_in_the_journal() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let path = temp.path().join("n");
        let mut nodes = Nodes::open(&path).expect("new");
        let lost = nodes.learn(&TreePath::parse("a").expect("sound"), &file(1));
        drop(nodes);
        // As a full disk leaves it.
        std::fs::write(&path, "{\"id\":").expect("writable");
        let mut nodes = Nodes::open(&path).expect("there");
        assert!(nodes.get(lost).is_none());
        assert!(nodes.learn(&TreePath::parse("b").expect("sound"), &file(1)) > lost);
    }
}
