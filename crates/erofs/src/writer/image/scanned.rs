//! [`Scanned`]: the files of a directory of the host, given out while it is being scanned.

use std::collections::VecDeque;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::super::image_options::{Hint, ImageOptions};
use super::super::node::{Content, NodeId};
use super::super::reader::HostNode;
use super::super::scan::{Scan, ScanEntry, ScanOptions};
use super::super::tar::MapAttributes;
use super::super::text::index;
use super::super::tree::Tree;
use super::feed::Files;
use super::piece::Method;
use crate::{BlockSize, Error};

/// How to take in a directory that becomes an image.
#[derive(Clone, Copy, Default)]
pub struct DirectoryOptions<'a> {
    /// What to take.
    pub scan: ScanOptions,
    /// Asked as by [`Tree::add_root_from`]; without one everything is taken.
    pub filter: Option<&'a ScanFilter<'a>>,
    /// What becomes of the attributes of every object, the root included. A file must have the times of the host until it has
    /// been read, whatever times it gets.
    pub attributes: Option<&'a MapAttributes<'a>>,
}

/// Says whether an entry is taken.
pub type ScanFilter<'a> = dyn Fn(&ScanEntry<'_>) -> bool + Sync + 'a;

impl fmt::Debug for DirectoryOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirectoryOptions").field("scan", &self.scan).finish_non_exhaustive()
    }
}

/// Scans a directory as far as somebody asks for its files.
///
/// Whoever encodes them need not wait until all of it has been looked at. A scan meets the files in the order in which their
/// data lie, so that the image is the same.
pub(super) struct Scanned<'a> {
    tree: Tree,
    scan: Scan,
    from: &'a DirectoryOptions<'a>,
    options: &'a ImageOptions<'a>,
    block: BlockSize,
    /// Files that are still to be given out.
    found: VecDeque<(NodeId, Method)>,
    /// Those that have been.
    files: Vec<NodeId>,
    /// The directory of the last of them: its number on the host and its path, which may be long and is the same for all in it.
    dir: Option<(u32, Arc<[u8]>)>,
}

impl<'a> Scanned<'a> {
    /// Begins with the directory itself.
    pub(super) fn begin(
        dir: &Path,
        from: &'a DirectoryOptions<'a>,
        options: &'a ImageOptions<'a>,
        block: BlockSize,
    ) -> Result<Self, Error> {
        let mut tree = Tree::new();
        let scan = Scan::begin(&mut tree, dir, b"", &from.scan)?;
        Ok(Self { tree, scan, from, options, block, found: VecDeque::new(), files: Vec::new(), dir: None })
    }

    /// The tree, once all files have been given out, and these in order.
    pub(super) fn finish(self) -> (Tree, Vec<NodeId>) {
        let Self { mut tree, files, from, .. } = self;
        if let Some(change) = from.attributes {
            tree.map_attributes(&mut |attributes| change(attributes));
        }
        (tree, files)
    }
}

impl Files for Scanned<'_> {
    fn tree(&self) -> &Tree {
        &self.tree
    }

    fn next(&mut self) -> Result<Option<(NodeId, Method)>, Error> {
        let Self { tree, scan, from, options, block, found, files, .. } = self;
        let mut filter = |entry: &ScanEntry<'_>| from.filter.is_none_or(|filter| filter(entry));
        while found.is_empty() {
            let more = scan.step(tree, &mut filter, &mut |node, path| {
                let hint = options.hints.map_or_else(Hint::default, |hints| hints(path));
                let method = options.method(hint, *block).map_err(|fault| Error::Options { fault })?;
                found.push_back((node, method));
                Ok(())
            })?;
            if !more {
                return Ok(None);
            }
        }
        let next = found.pop_front();
        files.extend(next.map(|(node, _)| node));
        Ok(next)
    }

    fn apart(&mut self, node: NodeId) -> Option<HostNode> {
        let Self { tree, dir, .. } = self;
        let node = &tree.nodes[index(node)];
        let Content::Host(host) = node.content else { return None };
        let path = match dir {
            Some((dir, path)) if *dir == host.dir => path,
            _ => &mut dir.insert((host.dir, tree.host.below_root(&tree.text, host.dir))).1,
        };
        Some(HostNode::new(node, host, tree.host_file_in(host, Arc::clone(path))))
    }
}
