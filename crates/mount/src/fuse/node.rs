//! Node ids and attributes: what FUSE calls an inode, computed from the image alone.
//!
//! A successor must understand the ids that its predecessor handed out, so there is no table: an id is a function of
//! the EROFS nid. For the same reason nothing needs to be forgotten.

use larder_erofs::{FileType, Inode, Nid};

use super::abi::{Attr, AttrOut, EntryOut, ROOT_ID};

/// Seconds that the kernel may keep entries and attributes: an image cannot change.
const FOREVER_S: u64 = 1 << 30;
/// Ids start behind 0 (no node) and 1 (the root).
const FIRST_ID: u64 = 2;

/// Returns the node id of `nid` in an image with root `root`.
pub(crate) fn id_of(nid: Nid, root: Nid) -> u64 {
    // Bit 63 of a nid means the metabox, which the reader refuses, so the sum cannot wrap.
    if nid == root { ROOT_ID } else { nid.get().wrapping_add(FIRST_ID) }
}

/// Returns the nid behind a node id; the reader checks that it leads to an inode.
pub(crate) fn nid_of(id: u64, root: Nid) -> Option<Nid> {
    if id == ROOT_ID { Some(root) } else { id.checked_sub(FIRST_ID).map(Nid::new) }
}

/// `st_mode` bits of the file type, as a directory entry carries them (`DT_*`).
pub(crate) fn dirent_kind(kind: Option<FileType>) -> u32 {
    kind.map_or(0, |kind| u32::from(kind.mode_bits()) >> 12)
}

pub(crate) fn attr(inode: &Inode, block_bytes: u32) -> Attr {
    let seconds = inode.mtime.seconds.cast_unsigned();
    let nanoseconds = inode.mtime.nanoseconds.min(999_999_999);
    Attr {
        ino: inode.nid.get(),
        size: inode.size,
        blocks: inode.size.div_ceil(512),
        atime: seconds,
        mtime: seconds,
        ctime: seconds,
        atimensec: nanoseconds,
        mtimensec: nanoseconds,
        ctimensec: nanoseconds,
        mode: inode.st_mode(),
        nlink: inode.nlink,
        uid: inode.uid,
        gid: inode.gid,
        rdev: inode.rdev.encoded(),
        blksize: block_bytes,
        flags: 0,
    }
}

pub(crate) fn entry(inode: &Inode, root: Nid, block_bytes: u32) -> EntryOut {
    EntryOut {
        nodeid: id_of(inode.nid, root),
        generation: 0,
        entry_valid: FOREVER_S,
        attr_valid: FOREVER_S,
        entry_valid_nsec: 0,
        attr_valid_nsec: 0,
        attr: attr(inode, block_bytes),
    }
}

/// The entry of a name that does not exist: node id 0 lets the kernel remember that.
pub(crate) fn no_entry() -> EntryOut {
    let attr = Attr {
        ino: 0,
        size: 0,
        blocks: 0,
        atime: 0,
        mtime: 0,
        ctime: 0,
        atimensec: 0,
        mtimensec: 0,
        ctimensec: 0,
        mode: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    };
    EntryOut {
        nodeid: 0,
        generation: 0,
        entry_valid: FOREVER_S,
        attr_valid: 0,
        entry_valid_nsec: 0,
        attr_valid_nsec: 0,
        attr,
    }
}

pub(crate) fn attr_out(inode: &Inode, block_bytes: u32) -> AttrOut {
    AttrOut { attr_valid: FOREVER_S, attr_valid_nsec: 0, dummy: 0, attr: attr(inode, block_bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_nids_are_one_to_one_with_the_root_at_1() {
        let root = Nid::new(36);
        assert_eq!(id_of(root, root), 1);
        assert_eq!(nid_of(1, root), Some(root));
        assert_eq!(nid_of(0, root), None);
        for nid in [0, 1, 35, 37, u64::MAX >> 1].map(Nid::new) {
            let id = id_of(nid, root);
            assert!(id >= FIRST_ID);
            assert_eq!(nid_of(id, root), Some(nid));
        }
    }
}
