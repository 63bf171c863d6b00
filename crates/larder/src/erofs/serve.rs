//! [`ImageFiles`]: an image file as a FUSE file system, without a cache or a daemon.

use larder_erofs::{DirEntry, Error, FileType, Inode, Nid};
use larder_mount::fuse::{
    Attributes, Data, Entry, Errno, FileSystem, ListAt, Listing, Name, NodeId, Outcome, ReadAt, Size,
    Validity,
};

use super::open::LocalImage;

/// Ids start behind 0 (no node) and 1 (the root).
const FIRST_ID: u64 = 2;
/// The kernel's own way to number inodes of the metabox: bit 63 would not be left after adding.
const METABOX: u64 = 1 << 62;

/// Serves one image.
pub struct ImageFiles {
    image: LocalImage,
}

impl ImageFiles {
    /// Serves `image`.
    pub fn new(image: LocalImage) -> Self {
        Self { image }
    }

    fn root(&self) -> Nid {
        self.image.image().root()
    }

    fn inode(&self, node: NodeId) -> Result<Inode, Errno> {
        let nid = nid_of(node, self.root()).ok_or(libc::ESTALE)?;
        self.image.image().inode(nid).map_err(|error| failed(&error))
    }

    fn attributes(&self, inode: &Inode) -> Attributes {
        let block = self.image.image().superblock().block_size.bytes();
        Attributes {
            ino: inode.nid.get(),
            size: inode.size,
            mtime_s: inode.mtime.seconds,
            mtime_ns: inode.mtime.nanoseconds,
            mode: inode.st_mode(),
            nlink: inode.nlink,
            uid: inode.uid,
            gid: inode.gid,
            rdev: inode.rdev.encoded(),
            block_bytes: u32::try_from(block).unwrap_or(4096),
        }
    }

    fn entry(&self, found: Option<DirEntry>) -> Result<Entry, Errno> {
        let node = match found {
            None => None,
            Some(entry) => {
                let inode = self.image.image().inode(entry.nid).map_err(|error| failed(&error))?;
                Some((id_of(entry.nid, self.root()), self.attributes(&inode)))
            }
        };
        Ok(Entry { node, valid: Validity::FOREVER })
    }

    fn list(&self, at: ListAt, mut listing: Listing) -> Result<Listing, Errno> {
        let dir = self.inode(at.node)?;
        let entries = self.image.image().read_dir_from(&dir, at.offset).map_err(|error| failed(&error))?;
        for entry in entries {
            let entry = entry.map_err(|error| failed(&error))?;
            if !listing.has_room(entry.name.len()) {
                break;
            }
            // `.` and `..` come without attributes: they are no lookups.
            let dots = entry.name == b"." || entry.name == b"..";
            let (name, nid, next) = (entry.name.clone(), entry.nid, entry.next);
            let type_bits = entry.kind.map_or(0, |kind| u32::from(kind.mode_bits()));
            let attributes =
                if listing.wants_attributes() && !dots { Some(self.entry(Some(entry))?) } else { None };
            listing.push(Name { name: &name, ino: nid.get(), next, type_bits }, attributes);
        }
        Ok(listing)
    }
}

impl FileSystem for ImageFiles {
    fn lookup(&self, parent: NodeId, name: &[u8]) -> Outcome<Entry> {
        Outcome::Now(self.inode(parent).and_then(|dir| {
            let found = self.image.image().lookup(&dir, name).map_err(|error| failed(&error))?;
            self.entry(found)
        }))
    }

    fn getattr(&self, node: NodeId) -> Outcome<(Attributes, Validity)> {
        Outcome::Now(self.inode(node).map(|inode| (self.attributes(&inode), Validity::FOREVER)))
    }

    fn readlink(&self, node: NodeId) -> Outcome<Vec<u8>> {
        Outcome::Now(
            self.inode(node)
                .and_then(|inode| self.image.image().read_link(&inode).map_err(|error| failed(&error))),
        )
    }

    fn read(&self, at: ReadAt, buf: &mut Vec<u8>) -> Outcome<Data> {
        let inode = match self.inode(at.node) {
            Ok(inode) if inode.kind == FileType::Regular => inode,
            Ok(_) => return Outcome::error(libc::EINVAL),
            Err(errno) => return Outcome::error(errno),
        };
        let left = inode.size.saturating_sub(at.offset);
        let len = usize::try_from(left).map_or(at.len, |left| left.min(at.len));
        // A larger buffer of an earlier read stays filled: zeros are written only once.
        if buf.len() < len {
            buf.resize(len, 0);
        }
        buf.truncate(len);
        match self.image.read(&inode, at.offset, buf) {
            Ok(()) => Outcome::Now(Ok(Data::InBuffer)),
            Err(error) => Outcome::error(failed(&error)),
        }
    }

    fn readdir(&self, at: ListAt, listing: Listing) -> Outcome<Listing> {
        Outcome::Now(self.list(at, listing))
    }

    fn statfs(&self) -> Size {
        let superblock = self.image.image().superblock();
        let devices: u64 = self.image.image().devices().iter().map(|device| device.blocks).sum();
        Size {
            blocks: superblock.blocks.saturating_add(devices),
            files: superblock.inodes,
            block_bytes: u32::try_from(superblock.block_size.bytes()).unwrap_or(4096),
        }
    }

    fn xattr(&self, node: NodeId, name: &[u8]) -> Result<Option<Vec<u8>>, Errno> {
        let inode = self.inode(node)?;
        self.image.image().xattr(&inode, name).map_err(|error| failed(&error))
    }

    fn xattrs(&self, node: NodeId) -> Result<Vec<Vec<u8>>, Errno> {
        let inode = self.inode(node)?;
        let xattrs = self.image.image().xattrs(&inode).map_err(|error| failed(&error))?;
        Ok(xattrs.into_iter().map(|xattr| xattr.name).collect())
    }
}

fn id_of(nid: Nid, root: Nid) -> NodeId {
    match nid {
        nid if nid == root => NodeId::ROOT,
        // A slot of the metabox is below 2^58, as every other, since it is the address of 32 bytes.
        nid if nid.in_metabox() => NodeId((nid.get() & (METABOX - 1) | METABOX) + FIRST_ID),
        nid => NodeId((nid.get() & (METABOX - 1)) + FIRST_ID),
    }
}

fn nid_of(id: NodeId, root: Nid) -> Option<Nid> {
    if id == NodeId::ROOT {
        return Some(root);
    }
    let number = id.0.checked_sub(FIRST_ID)?;
    let slot = number & (METABOX - 1);
    Some(Nid::new(if number & METABOX != 0 { slot | 1 << 63 } else { slot }))
}

/// The error number for the reader; the rest of the story goes to the log.
fn failed(error: &Error) -> Errno {
    tracing::warn!(%error, "the image cannot be read");
    error.errno()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_nids_are_one_to_one_in_both_spaces() {
        let root = Nid::new(36);
        for nid in [0, 1, 35, 36, 37, 1 << 58, 1 << 63, (1 << 63) + 36].map(Nid::new) {
            let id = id_of(nid, root);
            assert_eq!(id == NodeId::ROOT, nid == root);
            assert!(id.0 > 1 || id == NodeId::ROOT);
            assert_eq!(nid_of(id, root), Some(nid));
        }
        assert_eq!(nid_of(NodeId(0), root), None);
    }
}
