//! Attributes and entries as FUSE carries them.

use std::time::Duration;

use super::abi::{Attr, AttrOut, EntryOut};
use super::file_system::{Attributes, Entry, Validity};

pub(crate) fn attr(attributes: &Attributes) -> Attr {
    let (seconds, nanoseconds) = (attributes.mtime_s.cast_unsigned(), attributes.mtime_ns.min(999_999_999));
    Attr {
        ino: attributes.ino,
        size: attributes.size,
        blocks: attributes.size.div_ceil(512),
        atime: seconds,
        mtime: seconds,
        ctime: seconds,
        atimensec: nanoseconds,
        mtimensec: nanoseconds,
        ctimensec: nanoseconds,
        mode: attributes.mode,
        nlink: attributes.nlink,
        uid: attributes.uid,
        gid: attributes.gid,
        rdev: attributes.rdev,
        blksize: attributes.block_bytes,
        flags: 0,
    }
}

/// An entry; node id 0 for a name that does not exist lets the kernel remember that.
pub(crate) fn entry_out(entry: &Entry) -> EntryOut {
    let Validity(valid) = entry.valid;
    let (nodeid, attributes, attr_valid) = match &entry.node {
        Some((node, attributes)) => (node.0, *attributes, valid),
        None => (0, Attributes::default(), Duration::ZERO),
    };
    EntryOut {
        nodeid,
        generation: 0,
        entry_valid: valid.as_secs(),
        attr_valid: attr_valid.as_secs(),
        entry_valid_nsec: valid.subsec_nanos(),
        attr_valid_nsec: attr_valid.subsec_nanos(),
        attr: attr(&attributes),
    }
}

pub(crate) fn attr_out(attributes: &Attributes, Validity(valid): Validity) -> AttrOut {
    AttrOut {
        attr_valid: valid.as_secs(),
        attr_valid_nsec: valid.subsec_nanos(),
        dummy: 0,
        attr: attr(attributes),
    }
}
