//! [`Adder`]: puts the entries of an archive into a tree.

use std::collections::BTreeSet;

use super::super::node::{Content, Node, NodeId};
use super::super::options::Attributes;
use super::super::text::index;
use super::super::tree::Tree;
use super::entries::{Entry, EntryKind, clean};
use crate::error::path_of;
use crate::{Error, FileType, Rdev, Xattr};

/// How to take in an archive.
#[derive(Clone, Copy, Debug, Default)]
pub struct TarOptions {
    /// Turn the whiteouts of AUFS and OCI layers (`.wh.NAME`, `.wh..wh..opq`) into those of overlayfs.
    pub aufs: bool,
    /// Leave out what makes an image a layer: device nodes 0:0, and attributes that begin with `trusted.overlay.`.
    pub strip_overlay: bool,
}

/// Marks names of whiteouts.
const WHITEOUT: &[u8] = b".wh.";
/// Names of AUFS's own: of these only the next means anything.
const WHITEOUT_META: &[u8] = b".wh..wh.";
/// Hides what layers below have in the directory.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// How overlayfs marks such a directory.
const OPAQUE_XATTR: &[u8] = b"trusted.overlay.opaque";
const OVERLAY_XATTRS: &[u8] = b"trusted.overlay.";

/// Puts entries into a tree: what comes later counts.
#[derive(Debug)]
pub(in crate::writer) struct Adder {
    pub tree: Tree,
    options: TarOptions,
    opaque: BTreeSet<Vec<u8>>,
}

impl Adder {
    pub(in crate::writer) fn new(tree: Tree, options: TarOptions) -> Self {
        Self { tree, options, opaque: BTreeSet::new() }
    }

    /// Adds an entry; returns the node whose contents come next.
    pub(in crate::writer) fn add(&mut self, entry: &Entry) -> Result<Option<NodeId>, Error> {
        let path = entry.image_path()?;
        if self.options.aufs && self.whiteout(&path)? {
            return Ok(None);
        }
        let Entry { mode, uid, gid, mtime, .. } = *entry;
        let attributes = Attributes { mode, uid, gid, mtime };
        match &entry.kind {
            EntryKind::Directory => {
                self.clear(&path, true)?;
                self.tree.add_dir(&path, &attributes)?;
            }
            EntryKind::HardLink(target) => {
                let target = clean(target)?;
                if target != path {
                    self.clear(&path, false)?;
                    self.tree.add_link(&path, &target)?;
                }
                return Ok(None);
            }
            EntryKind::Symlink(target) => {
                self.clear(&path, false)?;
                self.tree.add_symlink(&path, target, &attributes)?;
            }
            EntryKind::Special(FileType::CharDevice, rdev)
                if *rdev == Rdev::default() && self.options.strip_overlay =>
            {
                return Ok(None);
            }
            EntryKind::Special(kind, rdev) => {
                self.clear(&path, false)?;
                self.tree.add_special(&path, *kind, *rdev, &attributes)?;
            }
            EntryKind::File { size, .. } => {
                self.clear(&path, false)?;
                let node =
                    Node { size: *size, ..Node::new(FileType::Regular, &attributes, Content::Nothing) };
                let id = self.tree.add_leaf_node(&path, node)?;
                self.set_xattrs(&path, &entry.xattrs)?;
                return Ok((*size > 0).then_some(id));
            }
        }
        self.set_xattrs(&path, &entry.xattrs)?;
        Ok(None)
    }

    /// Marks the opaque directories and gives the tree back.
    pub(in crate::writer) fn finish(mut self) -> Result<Tree, Error> {
        if !self.options.strip_overlay {
            for path in &self.opaque {
                let mut xattrs = self.tree.xattrs_of(path)?;
                xattrs.retain(|xattr| xattr.name != OPAQUE_XATTR);
                xattrs.push(Xattr { name: OPAQUE_XATTR.to_vec(), value: b"y".to_vec() });
                self.tree.set_xattrs(path, &xattrs)?;
            }
        }
        Ok(self.tree)
    }

    /// Takes in a whiteout; whether it was one.
    fn whiteout(&mut self, path: &[u8]) -> Result<bool, Error> {
        let slash = path.iter().rposition(|&byte| byte == b'/');
        let (parent, name) = slash.map_or((&path[..0], path), |slash| (&path[..slash], &path[slash + 1..]));
        if name == OPAQUE {
            self.tree.make_dirs(parent)?;
            self.opaque.insert(parent.to_vec());
            return Ok(true);
        }
        let Some(hidden) = name.strip_prefix(WHITEOUT) else { return Ok(false) };
        if name.starts_with(WHITEOUT_META) || self.options.strip_overlay {
            return Ok(true);
        }
        let path = [&path[..slash.map_or(0, |slash| slash + 1)], hidden].concat();
        if self.tree.find(&path)?.is_some() {
            // The layer itself puts something there: that counts, in whatever order they stand.
            return Ok(true);
        }
        let attributes = Attributes { mode: 0, ..Attributes::default() };
        self.tree.add_special(&path, FileType::CharDevice, Rdev::default(), &attributes)?;
        Ok(true)
    }

    /// Removes what has this name, unless it is a directory and a directory is to come.
    fn clear(&mut self, path: &[u8], for_dir: bool) -> Result<(), Error> {
        if path.is_empty() {
            return if for_dir { Ok(()) } else { Err(Error::Exists { path: path_of(b"/") }) };
        }
        let Some(node) = self.tree.find(path)? else { return Ok(()) };
        if for_dir && self.tree.nodes[index(node)].kind == FileType::Directory {
            return Ok(());
        }
        self.tree.remove(path)
    }

    /// Sets attributes, but for those that EROFS has no prefix for.
    fn set_xattrs(&mut self, path: &[u8], xattrs: &[Xattr]) -> Result<(), Error> {
        let stays = |xattr: &&Xattr| {
            crate::xattr::split(&xattr.name).is_some()
                && !(self.options.strip_overlay && xattr.name.starts_with(OVERLAY_XATTRS))
        };
        let xattrs: Vec<Xattr> = xattrs.iter().filter(stays).cloned().collect();
        self.tree.set_xattrs(path, &xattrs)
    }
}
