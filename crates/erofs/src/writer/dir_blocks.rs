//! [`Listing`]: the contents of a directory, block by block.

use zerocopy::IntoBytes;

use super::node::NodeId;
use super::text::index;
use super::tree::Tree;
use crate::dirent::{DIRENT_BYTES, RawDirent};
use crate::{BlockSize, Nid};

/// The names of a directory, `.` and `..` among them, in the order of their bytes.
pub(super) struct Listing<'a> {
    tree: &'a Tree,
    entries: Vec<(&'a [u8], NodeId)>,
}

impl<'a> Listing<'a> {
    pub(super) fn new(tree: &'a Tree, node: NodeId) -> Self {
        let dir = &tree.dirs[tree.dir_index(node)];
        let mut entries = Vec::with_capacity(dir.entries.len() + 2);
        entries.extend(dir.entries.iter().map(|entry| (tree.text.get(entry.name), entry.node)));
        for (name, node) in [(b".".as_slice(), node), (b"..", dir.parent)] {
            let place = entries.partition_point(|&(other, _)| other < name);
            entries.insert(place, (name, node));
        }
        Self { tree, entries }
    }

    /// Length of the contents: whole blocks, and what is used of the last.
    pub(super) fn size(&self, block: BlockSize) -> u64 {
        let (mut full, mut used) = (0, 0);
        for piece in self.blocks(block) {
            full += 1;
            used = piece.iter().map(|(name, _)| DIRENT_BYTES + name.len()).sum();
        }
        (full - 1) * block.bytes() + used as u64
    }

    /// The entries of each block, filled greedily. There is at least one.
    pub(super) fn blocks(&self, block: BlockSize) -> impl Iterator<Item = &[(&'a [u8], NodeId)]> {
        let mut rest = self.entries.as_slice();
        std::iter::from_fn(move || {
            let mut used = 0;
            let fits = rest.iter().take_while(|(name, _)| {
                used += DIRENT_BYTES + name.len();
                used <= block.buffer_len()
            });
            let count = fits.count();
            let (piece, after) = rest.split_at_checked(count).filter(|_| count > 0)?;
            rest = after;
            Some(piece)
        })
    }

    /// Appends one block without padding.
    pub(super) fn write_block(
        &self,
        piece: &[(&[u8], NodeId)],
        nid_of: &dyn Fn(NodeId) -> Nid,
        out: &mut Vec<u8>,
    ) {
        let mut nameoff = piece.len() * DIRENT_BYTES;
        for &(name, node) in piece {
            let raw = RawDirent {
                nid: nid_of(node).get().into(),
                // A block has at most 64 KiB, so the last name begins below.
                nameoff: u16::try_from(nameoff).expect("names lie within a block").into(),
                file_type: self.tree.nodes[index(node)].kind.dirent_number(),
                reserved: 0,
            };
            out.extend_from_slice(raw.as_bytes());
            nameoff += name.len();
        }
        for (name, _) in piece {
            out.extend_from_slice(name);
        }
    }
}
