//! Files with blobs of their own: which these are, and what is known of the blobs.
//!
//! A kernel that reads a local file in place of a node (FUSE passthrough) knows no offset: the file has to be the whole
//! blob. So has a blob that several images are to share whatever else is in them.
//!
//! The kernel's EROFS, and erofs-utils, read a device in whole blocks, and fail at a device that ends within one (EIO with
//! Linux 6.18.44). So a file whose last block is not full has its [tail](tail_at) in the blob of all files, too, and is read
//! there.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::num::NonZero;

use sha2::{Digest as _, Sha256};

use super::Dictionary;
use super::dedup::ChunkKey;
use super::node::{Content, NodeId};
use super::options::Geometry;
use super::plan::next_data;
use super::runs::{FileRuns, Target};
use super::text::index;
use super::tree::Tree;
use crate::Error;

/// Most files of one image that get blobs of their own: each blob is a device of every mount, and an index to be fetched
/// before it.
pub const OWN_BLOBS_MAX: usize = 256;

/// The longest tail, but for that of a smaller chunk: who is to pass a file through compares it first.
const TAIL_BYTES_MAX: u64 = 16 << 20;
/// Into how many chunks a file is cut before its tail, at most, unless its tail would be too long.
const CHUNKS_MAX: u64 = 1 << 10;

/// Returns where the tail of a file of `size` bytes begins, a multiple of a power of two so that its chunks are large; beyond all
/// files for one whose last block is full, which has none.
pub(super) fn tail_at(size: u64, geometry: Geometry) -> u64 {
    if geometry.block.offset(size) == 0 {
        return u64::MAX;
    }
    let chunk = (size / CHUNKS_MAX).min(TAIL_BYTES_MAX).checked_ilog2().map_or(0, |bits| 1 << bits);
    let chunk = geometry.chunk_bytes().max(chunk);
    size / chunk * chunk
}

/// Returns the numbers of the files of a tree that get blobs of their own: the largest, of equal ones those that come first
/// in `files`. Sparse files get none, since a blob has no holes.
///
/// # Errors
///
/// [`Error::Scan`] when a file cannot be asked for its holes.
pub(super) fn of_tree(
    tree: &Tree,
    files: &[NodeId],
    at_least: Option<NonZero<u64>>,
    geometry: Geometry,
) -> Result<BTreeSet<usize>, Error> {
    let Some(at_least) = at_least else { return Ok(BTreeSet::new()) };
    // A shorter one would be nothing but its tail.
    let at_least = at_least.get().max(geometry.chunk_bytes());
    let size = |file: usize| tree.nodes[index(files[file])].size;
    let mut large: Vec<usize> = (0..files.len()).filter(|&file| size(file) >= at_least).collect();
    large.sort_by_key(|&file| Reverse(size(file)));
    let mut own = BTreeSet::new();
    for file in large {
        if own.len() == OWN_BLOBS_MAX {
            break;
        }
        if !is_sparse(tree, files[file])? {
            own.insert(file);
        }
    }
    Ok(own)
}

fn is_sparse(tree: &Tree, node: NodeId) -> Result<bool, Error> {
    let node = &tree.nodes[index(node)];
    let data = match node.content {
        // Fewer blocks than bytes: compressed by its file system, or with holes.
        Content::Host(host) if host.sparse => {
            let source = tree.host_file(host);
            let found = next_data(&source.open()?, 0, node.size);
            found.map_err(|errno| source.failed(errno.into()))?
        }
        Content::Layer { layer, nid } => tree.layers[index(layer)].next_data(nid, 0)?,
        _ => return Ok(false),
    };
    Ok(data != Some((0, node.size)))
}

/// Says which files of an archive get blobs of their own. Its sizes are known only as they come: the first ones.
#[derive(Clone, Copy, Debug)]
pub(super) struct ArchiveOwn {
    at_least: Option<u64>,
    left: usize,
}

impl ArchiveOwn {
    pub(super) fn new(at_least: Option<NonZero<u64>>, geometry: Geometry) -> Self {
        let at_least = at_least.map(|least| least.get().max(geometry.chunk_bytes()));
        Self { at_least, left: OWN_BLOBS_MAX }
    }

    /// Whether the next file gets one.
    pub(super) fn takes(&mut self, size: u64, is_sparse: bool) -> bool {
        let takes = self.left > 0 && !is_sparse && self.at_least.is_some_and(|least| size >= least);
        self.left -= usize::from(takes);
        takes
    }
}

/// What one such blob holds.
#[derive(Debug, Default)]
pub(super) struct OwnContents {
    /// Over the keys of its chunks.
    keys: Sha256,
    /// Its length so far.
    pub bytes: u64,
}

impl OwnContents {
    /// Adds a chunk of so many bytes.
    pub(super) fn add(&mut self, key: ChunkKey, bytes: u64) {
        self.keys.update(key.bytes());
        self.bytes += bytes;
    }
}

/// Such blobs as they are written.
#[derive(Debug, Default)]
pub(super) struct OwnBlobs {
    /// That of the file at hand.
    pub at_hand: Option<OwnContents>,
    /// Numbers of those that were kept, by contents.
    known: HashMap<[u8; 32], usize>,
    /// Their lengths.
    pub bytes: Vec<u64>,
}

impl OwnBlobs {
    /// Gives a blob that has ended the next number, or that of one before with the same bytes; and says which.
    pub(super) fn number(&mut self, OwnContents { mut keys, bytes }: OwnContents) -> (usize, bool) {
        keys.update(bytes.to_le_bytes());
        let next = self.bytes.len();
        let number = *self.known.entry(keys.finalize().into()).or_insert(next);
        if number == next {
            self.bytes.push(bytes);
        }
        (number, number == next)
    }
}

/// The number of the first such blob among the writer's devices.
pub(super) fn first_device(dictionaries: &[Dictionary]) -> usize {
    dictionaries.iter().fold(1, |first, dictionary| first + dictionary.devices().len())
}

/// Such a blob as a device.
#[derive(Clone, Copy, Debug)]
pub(super) struct OwnDevice {
    /// Its length.
    pub bytes: u64,
    /// Whether the image refers to it: one of an archive may be of a file that a later entry has replaced.
    pub is_used: bool,
}

/// Says which of the blobs, whose lengths are `bytes`, the image refers to.
pub(super) fn devices(
    tree: &Tree,
    order: &[NodeId],
    (files, runs): (&[NodeId], &FileRuns),
    first_device: usize,
    bytes: &[u64],
) -> Vec<OwnDevice> {
    let mut devices: Vec<_> = bytes.iter().map(|&bytes| OwnDevice { bytes, is_used: false }).collect();
    if devices.is_empty() {
        return devices;
    }
    let mut has_name = vec![false; tree.nodes.len()];
    for &node in order {
        has_name[index(node)] = true;
    }
    let named = files.iter().enumerate().filter(|&(_, &node)| has_name[index(node)]);
    for run in named.flat_map(|(file, _)| runs.of(file)) {
        if let Target::Data(at) = run.target
            && let Some(number) = at.device().checked_sub(first_device)
        {
            devices[number].is_used = true;
        }
    }
    devices
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BlockSize;
    use crate::writer::Attributes;

    const SMALL: Geometry = Geometry { block: BlockSize::B4096, chunk_bits: 12 };

    #[test]
    fn a_tail_begins_at_a_chunk_and_is_short_and_a_full_last_block_needs_none() {
        let geometry = Geometry { chunk_bits: 16, ..SMALL };
        let (mib, gib, tib) = (1 << 20, 1 << 30, 1 << 40);
        for (size, expected) in [
            (65_536, u64::MAX),
            (65_537, 65_536),
            (3 * mib + 777, 3 * mib),
            (100 * mib + 1, 100 * mib),
            (100 * mib + 4096, u64::MAX),
            (10 * gib - 1, 10 * gib - 8 * mib),
            (3 * tib + 17 * mib + 1, 3 * tib + 16 * mib),
        ] {
            assert_eq!(tail_at(size, geometry), expected, "{size}");
        }
    }

    #[test]
    fn the_largest_files_get_blobs_of_their_own_and_of_equal_ones_the_first() {
        let mut tree = Tree::new();
        let files: Vec<NodeId> = (0..=OWN_BLOBS_MAX)
            .map(|n| {
                let name = format!("f{n:04}");
                let len = if n == 7 {
                    6000
                } else if n == 9 {
                    4500
                } else {
                    5000
                };
                tree.add_file(name.as_bytes(), vec![1; len], &Attributes::default()).expect("new");
                tree.find(name.as_bytes()).expect("sound").expect("there")
            })
            .collect();
        let own = |at_least| of_tree(&tree, &files, NonZero::new(at_least), SMALL).expect("in memory");
        assert_eq!(own(0), BTreeSet::new(), "not asked for");
        assert_eq!(own(5001), BTreeSet::from([7]));
        let all_but_9: BTreeSet<_> = (0..=OWN_BLOBS_MAX).filter(|&n| n != 9).collect();
        assert_eq!(own(5000), all_but_9);
        assert_eq!(own(1), all_but_9, "the smallest has to stand back");
    }

    #[test]
    fn an_archive_has_them_for_its_first_files() {
        let mut own = ArchiveOwn::new(NonZero::new(5000), SMALL);
        assert!(!own.takes(4999, false) && !own.takes(5000, true));
        assert_eq!((0..300).filter(|_| own.takes(5000, false)).count(), OWN_BLOBS_MAX);
        assert!(!ArchiveOwn::new(NonZero::new(1), SMALL).takes(4095, false), "less than a chunk");
        assert!(!ArchiveOwn::new(None, SMALL).takes(u64::MAX, false));
    }
}
