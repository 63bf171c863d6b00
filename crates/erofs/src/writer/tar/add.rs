//! [`Adder`]: puts the entries of an archive into a tree.

use std::collections::BTreeSet;
use std::fmt;

use super::super::node::{Content, Node, NodeId};
use super::super::options::Attributes;
use super::super::overlay::{
    Mark, OPAQUE_XATTR, OverlayXattr, is_whiteout, mark, may_be_xattr_whiteout, overlay_xattr,
};
use super::super::text::index;
use super::super::tree::Tree;
use super::entries::{Entry, EntryKind, clean};
use crate::error::path_of;
use crate::{Error, FileType, Rdev, Xattr};

/// How to take in an archive.
#[derive(Clone, Copy, Default)]
pub struct TarOptions<'a> {
    /// Turn the whiteouts of AUFS and OCI layers (`.wh.NAME`, `.wh..wh..opq`) into those of overlayfs.
    pub aufs: bool,
    /// Leave out what makes an image a layer: device nodes 0:0, empty files with `trusted.overlay.whiteout`, and
    /// attributes that begin with `trusted.overlay.`.
    pub strip_overlay: bool,
    /// Leave out extended attributes, but for those that whiteouts become.
    pub strip_xattrs: bool,
    /// What becomes of the attributes of every object, the root included.
    pub attributes: Option<&'a MapAttributes<'a>>,
}

/// Makes other attributes of those that an archive has.
pub type MapAttributes<'a> = dyn Fn(Attributes) -> Attributes + Sync + 'a;

impl fmt::Debug for TarOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { aufs, strip_overlay, strip_xattrs, attributes: _ } = self;
        f.debug_struct("TarOptions")
            .field("aufs", aufs)
            .field("strip_overlay", strip_overlay)
            .field("strip_xattrs", strip_xattrs)
            .finish_non_exhaustive()
    }
}

const OVERLAY_XATTRS: &[u8] = b"trusted.overlay.";

/// Whether a file is a whiteout by one of the attributes that are left out with it.
fn is_xattr_whiteout(size: u64, entry: &Entry) -> bool {
    let marks = |xattr: &Xattr| {
        xattr.name.starts_with(OVERLAY_XATTRS) && overlay_xattr(xattr) == Some(OverlayXattr::Whiteout)
    };
    may_be_xattr_whiteout(FileType::Regular, size) && entry.xattrs.iter().any(marks)
}

/// Puts entries into a tree: what comes later counts.
#[derive(Debug)]
pub(in crate::writer) struct Adder<'a> {
    pub tree: Tree,
    options: TarOptions<'a>,
    /// Directories that hide what lower layers have in them.
    opaque: BTreeSet<Vec<u8>>,
    /// Names of lower layers that are hidden; what this layer has under them is known at its end only.
    hidden: BTreeSet<Vec<u8>>,
}

impl<'a> Adder<'a> {
    pub(in crate::writer) fn new(tree: Tree, options: TarOptions<'a>) -> Self {
        Self { tree, options, opaque: BTreeSet::new(), hidden: BTreeSet::new() }
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
                if is_whiteout(FileType::CharDevice, *rdev) && self.options.strip_overlay =>
            {
                return Ok(None);
            }
            EntryKind::Special(kind, rdev) => {
                self.clear(&path, false)?;
                self.tree.add_special(&path, *kind, *rdev, &attributes)?;
            }
            EntryKind::File { size, .. } if self.options.strip_overlay && is_xattr_whiteout(*size, entry) => {
                return Ok(None);
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

    /// Puts whiteouts in, marks the opaque directories, changes attributes as asked and gives the tree back.
    pub(in crate::writer) fn finish(mut self) -> Result<Tree, Error> {
        for path in std::mem::take(&mut self.hidden) {
            self.hide(path)?;
        }
        for path in std::mem::take(&mut self.opaque) {
            if self.kind_of(&path)? != Some(FileType::Directory) {
                continue;
            }
            let mut xattrs = self.tree.xattrs_of(&path)?;
            xattrs.retain(|xattr| xattr.name != OPAQUE_XATTR);
            xattrs.push(Xattr { name: OPAQUE_XATTR.to_vec(), value: b"y".to_vec() });
            self.tree.set_xattrs(&path, &xattrs)?;
        }
        if let Some(change) = self.options.attributes {
            self.tree.map_attributes(&mut |attributes| change(attributes));
        }
        Ok(self.tree)
    }

    /// Takes in a whiteout; whether it was one.
    fn whiteout(&mut self, path: &[u8]) -> Result<bool, Error> {
        let slash = path.iter().rposition(|&byte| byte == b'/');
        let (parent, name) = slash.map_or((&path[..0], path), |slash| (&path[..slash], &path[slash + 1..]));
        match mark(name) {
            None => return Ok(false),
            Some(Mark::Opaque) => {
                self.tree.make_dirs(parent)?;
                if !self.options.strip_overlay {
                    self.opaque.insert(parent.to_vec());
                }
            }
            Some(Mark::Hides(hidden)) if !self.options.strip_overlay => {
                self.tree.make_dirs(parent)?;
                self.hidden.insert([&path[..slash.map_or(0, |slash| slash + 1)], hidden].concat());
            }
            Some(Mark::Hides(_) | Mark::Other) => {}
        }
        Ok(true)
    }

    /// Hides what lower layers have under a name, and nothing of this layer, in whatever order they stood.
    ///
    /// Source of truth: "Whiteout files MUST only apply to resources in lower/parent layers", layer.md of the OCI image
    /// specification. A directory so shows what this layer has in it and nothing else; any other object hides by itself.
    fn hide(&mut self, path: Vec<u8>) -> Result<(), Error> {
        match self.kind_of(&path)? {
            Some(FileType::Directory) => drop(self.opaque.insert(path)),
            Some(_) => {}
            None => {
                let slash = path.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
                // What holds the name may since have become something else, which hides all that was below.
                if self.kind_of(&path[..slash])? == Some(FileType::Directory) {
                    let attributes = Attributes { mode: 0, ..Attributes::default() };
                    self.tree.add_special(&path, FileType::CharDevice, Rdev::default(), &attributes)?;
                }
            }
        }
        Ok(())
    }

    fn kind_of(&self, path: &[u8]) -> Result<Option<FileType>, Error> {
        Ok(self.tree.find(path)?.map(|node| self.tree.nodes[index(node)].kind))
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
            !self.options.strip_xattrs
                && crate::xattr::split(&xattr.name).is_some()
                && !(self.options.strip_overlay && xattr.name.starts_with(OVERLAY_XATTRS))
        };
        let xattrs: Vec<Xattr> = xattrs.iter().filter(stays).cloned().collect();
        self.tree.set_xattrs(path, &xattrs)
    }
}
