//! [`Tree::from_layers`]: which names are seen through a stack of layers, and what each of them is.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;

use super::super::node::{Content, Node, NodeId};
use super::super::options::Attributes;
use super::super::overlay::{
    Mark, OPAQUE_XATTR, OverlayXattr, is_whiteout, mark, may_be_xattr_whiteout, overlay_xattr,
};
use super::super::text::index;
use super::super::tree::Tree;
use super::Layer;
use crate::error::path_of;
use crate::{Error, FileType, Inode, Nid, Xattr};

/// How layers are merged.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MergeOptions {
    /// Names with the prefix `.wh.` hide what lies below, as in the archives of OCI layers. Off, they are ordinary.
    pub oci_whiteouts: bool,
    /// Leave out what only hides: whiteouts, marks of opaque directories, and overlayfs's own attributes. Kept, the
    /// result can lie above further layers.
    pub strip_overlay: bool,
}

impl Default for MergeOptions {
    /// A whole image: `.wh.` means something, and nothing of that is left.
    fn default() -> Self {
        Self { oci_whiteouts: true, strip_overlay: true }
    }
}

/// An inode of a layer, by the layer's place in the stack.
#[derive(Clone, Copy, Debug)]
struct Found {
    layer: u32,
    inode: Inode,
}

/// A name, as far as the layers seen so far have it.
#[derive(Debug)]
struct Name {
    /// The uppermost object; `None` when a mark hides the name.
    top: Option<Found>,
    /// If that is a directory: those below whose entries are seen too.
    below: Vec<Found>,
    /// Nothing further down is seen.
    closed: bool,
}

/// A directory whose entries have still to be merged.
struct Pending {
    node: NodeId,
    /// From the top down.
    dirs: Vec<Found>,
}

impl Tree {
    /// Merges `layers`, the lowest first, into the tree that overlayfs would show.
    ///
    /// A name is that of the uppermost layer that has it; directories show the entries of all layers, down to one that
    /// is opaque. Whiteouts are character devices 0:0, empty files with the attribute `trusted.overlay.whiteout` or
    /// `user.overlay.whiteout` and, if so asked, names of OCI layers; opaque are directories with the attribute `trusted.overlay.opaque` or `user.overlay.opaque`, and those that hold `.wh..wh..opq`. Hard links
    /// stay together as far as they are seen. Nothing is read but metadata, and what is hidden is not read at all.
    ///
    /// # Errors
    ///
    /// [`Error::Layer`] names the layer and the object that cannot be read; [`Error::Unrepresentable`] one that refers to
    /// something else by `overlay.redirect` or `overlay.metacopy`, which only overlayfs can follow.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io::Cursor;
    ///
    /// use larder_erofs::Image;
    /// use larder_erofs::writer::{Attributes, ImageOptions, Layer, MergeOptions, Tree, write_image};
    ///
    /// let layer = |names: &[&str]| {
    ///     let mut tree = Tree::new();
    ///     for name in names {
    ///         tree.add_file(name.as_bytes(), Vec::new(), &Attributes::default())?;
    ///     }
    ///     let mut out = Cursor::new(Vec::new());
    ///     write_image(tree, &ImageOptions::default(), &mut out)?;
    ///     Layer::new(Image::open(out.into_inner())?)
    /// };
    /// let layers = vec![layer(&["etc/motd", "etc/passwd"])?, layer(&["etc/.wh.motd"])?];
    /// let tree = Tree::from_layers(layers, &MergeOptions::default())?;
    /// let mut out = Cursor::new(Vec::new());
    /// write_image(tree, &ImageOptions::default(), &mut out)?;
    /// let image = Image::open(out.into_inner())?;
    /// assert!(image.resolve(b"etc/passwd")?.is_some());
    /// assert!(image.resolve(b"etc/motd")?.is_none());
    /// # Ok::<(), larder_erofs::Error>(())
    /// ```
    pub fn from_layers(layers: Vec<Layer>, options: &MergeOptions) -> Result<Self, Error> {
        let mut tree = Self::new();
        tree.layers = layers;
        let count = u32::try_from(tree.layers.len()).map_err(|_| Error::TooLarge { what: "2^32 layers" })?;
        let mut merger = Merger {
            tree,
            options: *options,
            links: HashMap::new(),
            seen: HashSet::new(),
            pending: Vec::new(),
        };
        let mut roots = Vec::new();
        for layer in (0..count).rev() {
            let image = &merger.tree.layers[index(layer)].image;
            let inode = image.inode(image.root());
            roots.push(Found { layer, inode: merger.read(layer, Self::ROOT, b"", inode)? });
        }
        if let Some(&top) = roots.first() {
            merger.root(top)?;
            merger.pending.push(Pending { node: Self::ROOT, dirs: roots });
        }
        while let Some(pending) = merger.pending.pop() {
            merger.directory(&pending)?;
        }
        Ok(merger.tree)
    }
}

struct Merger {
    tree: Tree,
    options: MergeOptions,
    /// Nodes of inodes with several names.
    links: HashMap<(u32, Nid), NodeId>,
    /// Directories that were entered: a second way to one is damage, and would make a small image endless.
    seen: HashSet<(u32, Nid)>,
    pending: Vec<Pending>,
}

impl Merger {
    /// Gives the root the attributes of the uppermost one.
    fn root(&mut self, top: Found) -> Result<(), Error> {
        let xattrs = self.xattrs(top, Tree::ROOT, b"")?;
        let root = &mut self.tree.nodes[index(Tree::ROOT)];
        root.set_attributes(&attributes(&top.inode));
        root.xattrs = xattrs;
        Ok(())
    }

    /// Merges the entries of a directory.
    fn directory(&mut self, pending: &Pending) -> Result<(), Error> {
        let (names, opaque) = self.names(pending)?;
        if opaque {
            self.mark_opaque(pending.node)?;
        }
        for (name, found) in names {
            let Some(top) = found.top else {
                self.hidden(pending.node, &name)?;
                continue;
            };
            if is_whiteout(top.inode.kind, top.inode.rdev) && self.options.strip_overlay {
                continue;
            }
            let node = self.add(pending.node, &name, top)?;
            if top.inode.kind == FileType::Directory {
                if found.closed {
                    self.mark_opaque(node)?;
                }
                let mut dirs = found.below;
                dirs.insert(0, top);
                self.pending.push(Pending { node, dirs });
            }
        }
        Ok(())
    }

    /// Collects the names of a directory from the top layer down, and whether a mark ended that.
    fn names(&mut self, pending: &Pending) -> Result<(BTreeMap<Vec<u8>, Name>, bool), Error> {
        let mut names: BTreeMap<Vec<u8>, Name> = BTreeMap::new();
        for dir in &pending.dirs {
            if !self.seen.insert((dir.layer, dir.inode.nid)) {
                let error = Err(Error::DirectoryLinkedTwice { nid: dir.inode.nid });
                return self.read(dir.layer, pending.node, b"", error);
            }
            let image = self.tree.layers[index(dir.layer)].image.clone();
            let mut opaque = false;
            let mut hidden = Vec::new();
            for entry in self.read(dir.layer, pending.node, b"", image.read_dir(&dir.inode))? {
                let entry = self.read(dir.layer, pending.node, b"", entry)?;
                if entry.name == b"." || entry.name == b".." {
                    continue;
                }
                match mark(&entry.name).filter(|_| self.options.oci_whiteouts) {
                    Some(Mark::Opaque) => opaque = true,
                    Some(Mark::Hides(name)) => hidden.push(name.to_vec()),
                    Some(Mark::Other) => {}
                    None => self.name(pending.node, dir.layer, entry.name, entry.nid, &mut names)?,
                }
            }
            // They hide what lies below, and nothing of their own layer.
            for name in hidden {
                let name = names.entry(name).or_insert(Name { top: None, below: Vec::new(), closed: true });
                name.closed = true;
            }
            if opaque {
                return Ok((names, true));
            }
        }
        Ok((names, false))
    }

    /// Takes in a name of one layer.
    fn name(
        &mut self,
        parent: NodeId,
        layer: u32,
        name: Vec<u8>,
        nid: Nid,
        names: &mut BTreeMap<Vec<u8>, Name>,
    ) -> Result<(), Error> {
        if names.get(&name).is_some_and(|known| known.closed) {
            return Ok(());
        }
        let inode = self.tree.layers[index(layer)].image.inode(nid);
        let found = Found { layer, inode: self.read(layer, parent, &name, inode)? };
        let is_dir = found.inode.kind == FileType::Directory;
        let Inode { kind, size, .. } = found.inode;
        if may_be_xattr_whiteout(kind, size) && self.has(OverlayXattr::Whiteout, found, parent, &name)? {
            // Kept, it becomes the device: that hides wherever it lies, and its directory needs no mark.
            names.entry(name).or_insert(Name { top: None, below: Vec::new(), closed: true }).closed = true;
            return Ok(());
        }
        let closed = !is_dir || self.has(OverlayXattr::Opaque, found, parent, &name)?;
        match names.get_mut(&name) {
            Some(known) => {
                if is_dir {
                    known.below.push(found);
                }
                known.closed = closed;
            }
            None => drop(names.insert(name, Name { top: Some(found), below: Vec::new(), closed })),
        }
        Ok(())
    }

    /// A name that only a mark has.
    fn hidden(&mut self, parent: NodeId, name: &[u8]) -> Result<(), Error> {
        if self.options.strip_overlay {
            return Ok(());
        }
        let attributes = Attributes { mode: 0, ..Attributes::default() };
        let content = Content::Rdev(crate::Rdev::default());
        let name = self.tree.text.add(name)?;
        self.tree.add_child(parent, name, Node::new(FileType::CharDevice, &attributes, content)).map(drop)
    }

    /// Adds an object of a layer under a name, or the name to what was added before.
    fn add(&mut self, parent: NodeId, name: &[u8], found: Found) -> Result<NodeId, Error> {
        let Found { layer, inode } = found;
        let several = inode.nlink > 1 && inode.kind != FileType::Directory;
        if let Some(&node) = self.links.get(&(layer, inode.nid)).filter(|_| several) {
            let name = self.tree.text.add(name)?;
            self.tree.insert(parent, name, node)?;
            self.tree.nodes[index(node)].nlink += 1;
            return Ok(node);
        }
        let xattrs = self.xattrs(found, parent, name)?;
        let attributes = attributes(&inode);
        if inode.kind == FileType::Directory {
            let node = self.tree.add_child_dir(parent, name, &attributes)?;
            self.tree.nodes[index(node)].xattrs = xattrs;
            return Ok(node);
        }
        let content = match inode.kind {
            FileType::Regular => Content::Layer { layer, nid: inode.nid },
            FileType::Symlink => {
                let target = self.tree.layers[index(layer)].image.read_link(&inode);
                let target = self.read(layer, parent, name, target)?;
                self.tree.link_content(name, &target)?
            }
            kind if kind.is_device() => Content::Rdev(inode.rdev),
            _ => Content::Nothing,
        };
        let size = if matches!(inode.kind, FileType::Regular | FileType::Symlink) { inode.size } else { 0 };
        let name = self.tree.text.add(name)?;
        let node = Node { size, xattrs, ..Node::new(inode.kind, &attributes, content) };
        let node = self.tree.add_child(parent, name, node)?;
        if inode.kind == FileType::Regular {
            self.tree.count_bytes(inode.size);
        }
        if several {
            self.links.insert((layer, inode.nid), node);
        }
        Ok(node)
    }

    /// The set of an object's attributes, without those that only overlayfs wants if they are to be left out.
    fn xattrs(&mut self, found: Found, parent: NodeId, name: &[u8]) -> Result<u32, Error> {
        let Found { layer, inode } = found;
        if inode.xattr_bytes == 0 {
            return Ok(0);
        }
        let xattrs = self.tree.layers[index(layer)].image.xattrs(&inode);
        let mut kept = Vec::new();
        for xattr in self.read(layer, parent, name, xattrs)? {
            match overlay_xattr(&xattr) {
                Some(OverlayXattr::Elsewhere) => {
                    let reason = "refers to another object of its layers, as only overlayfs can follow";
                    return Err(Error::Unrepresentable { path: self.path(parent, name), reason });
                }
                Some(OverlayXattr::Nested(family, rest)) if self.options.strip_overlay => {
                    kept.push(Xattr { name: [family, rest].concat(), value: xattr.value });
                }
                Some(_) if self.options.strip_overlay => {}
                _ => kept.push(xattr),
            }
        }
        let set = self.tree.xattrs.add_set(&kept);
        set.map_err(|reason| Error::Unrepresentable { path: self.path(parent, name), reason })
    }

    /// Marks a directory as opaque, where such marks are kept.
    fn mark_opaque(&mut self, node: NodeId) -> Result<(), Error> {
        if self.options.strip_overlay {
            return Ok(());
        }
        let mut xattrs = self.tree.xattrs.set(self.tree.nodes[index(node)].xattrs);
        xattrs.retain(|xattr| xattr.name != OPAQUE_XATTR);
        xattrs.push(Xattr { name: OPAQUE_XATTR.to_vec(), value: b"y".to_vec() });
        let set = self.tree.xattrs.add_set(&xattrs);
        let set = set.map_err(|reason| Error::Unrepresentable { path: self.path(node, b""), reason })?;
        self.tree.nodes[index(node)].xattrs = set;
        Ok(())
    }

    /// Whether an object has an attribute that is this to overlayfs.
    fn has(
        &self,
        wanted: OverlayXattr<'_>,
        found: Found,
        parent: NodeId,
        name: &[u8],
    ) -> Result<bool, Error> {
        if found.inode.xattr_bytes == 0 {
            return Ok(false);
        }
        let xattrs = self.tree.layers[index(found.layer)].image.xattrs(&found.inode);
        let xattrs = self.read(found.layer, parent, name, xattrs)?;
        Ok(xattrs.iter().any(|xattr| overlay_xattr(xattr) == Some(wanted)))
    }

    /// Says whose fault it is that something could not be read.
    fn read<T>(&self, layer: u32, parent: NodeId, name: &[u8], result: Result<T, Error>) -> Result<T, Error> {
        result.map_err(|source| Error::Layer {
            number: layer,
            path: self.path(parent, name),
            source: Box::new(source),
        })
    }

    /// The path of a name in a directory.
    fn path(&self, parent: NodeId, name: &[u8]) -> PathBuf {
        path_of(&[self.tree.path_of(parent), name.to_vec()].join(&b'/'))
    }
}

fn attributes(inode: &Inode) -> Attributes {
    let Inode { mode, uid, gid, mtime, .. } = *inode;
    Attributes { mode, uid, gid, mtime }
}
