//! The order of the inodes in an image: a directory, its files, then its subdirectories.

use super::node::{Entry, NodeId};
use super::text::index;
use super::tree::Tree;
use crate::FileType;

/// Every node that has a name, once, in the order of its first name.
///
/// Data follows the same order, so that what stands in one directory lies together.
pub(super) fn order(tree: &Tree) -> Vec<NodeId> {
    let mut order = vec![Tree::ROOT];
    let mut placed = vec![false; tree.nodes.len()];
    let mut stack = vec![Tree::ROOT];
    while let Some(dir) = stack.pop() {
        let entries = &tree.dirs[tree.dir_index(dir)].entries;
        if dir != Tree::ROOT {
            order.push(dir);
        }
        for entry in entries {
            let node = index(entry.node);
            if tree.nodes[node].kind != FileType::Directory && !std::mem::replace(&mut placed[node], true) {
                order.push(entry.node);
            }
        }
        let is_dir = |entry: &&Entry| tree.nodes[index(entry.node)].kind == FileType::Directory;
        stack.extend(entries.iter().rev().filter(is_dir).map(|entry| entry.node));
    }
    order
}
