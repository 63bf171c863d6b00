//! Valid inputs: the golden images, and pieces of them.

use larder_erofs::{ExtentKind, FileType, Image, Inode, Layout, LogicalAddr, Place};

use crate::golden;

const DEVICELESS: &str = "golden images have no devices";
/// Bytes of an index that are taken, at most.
const INDEX_BYTES_MAX: usize = 512;

/// The golden images.
pub fn images() -> Vec<Vec<u8>> {
    golden::RECIPES.iter().map(|(name, _)| golden::image(name)).collect()
}

/// Their beginnings: superblock and codec configurations.
pub fn superblocks() -> Vec<Vec<u8>> {
    images().into_iter().map(|image| image[..2048].to_vec()).collect()
}

/// The pclusters of some of their files, as the target for codecs takes them.
pub fn streams() -> Vec<Vec<u8>> {
    of_inodes(|image, bytes, inode| {
        let extent = image.map(inode, LogicalAddr::new(0)).ok()?;
        let ExtentKind::Encoded(encoded) = extent.kind else { return None };
        let Place::Device { pa, .. } = encoded.place else { return None };
        let at = usize::try_from(pa.get()).ok()?;
        let stream = bytes.get(at..at + usize::try_from(encoded.len).ok()?)?;
        let start = stream.iter().position(|&byte| byte != 0)?;
        larder_erofs::fuzzing::codec_input(encoded.codec, encoded.decoded.into(), &stream[start..])
    })
}

/// The map headers of their files, with what follows.
pub fn indexes() -> Vec<Vec<u8>> {
    of_inodes(|_, bytes, inode| {
        let encoded = matches!(inode.layout, Layout::CompressedFull | Layout::CompressedCompact);
        let head = if inode.extended { 64 } else { 32 };
        // mkfs.erofs puts inode space at the image's start; those in the metabox lie far beyond the bytes.
        let end =
            inode.nid.get().checked_mul(32)?.checked_add(head)?.checked_add(inode.xattr_bytes.into())?;
        let at = usize::try_from(end.checked_next_multiple_of(8)?).ok().filter(|_| encoded)?;
        Some(bytes.get(at..at.checked_add(INDEX_BYTES_MAX)?)?.to_vec())
    })
}

/// The first blocks of their directories.
pub fn directories() -> Vec<Vec<u8>> {
    of_inodes(|image, _, inode| {
        let len = inode.size.min(image.superblock().block_size.bytes());
        let mut block = vec![0; usize::try_from(len).ok().filter(|_| inode.kind == FileType::Directory)?];
        image
            .read_exact_at(inode, LogicalAddr::new(0), &mut block, &mut |_, _, _| {
                unreachable!("{DEVICELESS}")
            })
            .ok()?;
        Some(block)
    })
}

/// What `take` makes of every inode of every golden image.
fn of_inodes(take: impl Fn(&Image, &[u8], &Inode) -> Option<Vec<u8>>) -> Vec<Vec<u8>> {
    let mut taken = Vec::new();
    for bytes in images() {
        let image = Image::open(bytes.clone()).expect("a golden image");
        let inodes = image.walk().map(|entry| entry.expect("a golden image").inode);
        taken.extend(inodes.filter_map(|inode| take(&image, &bytes, &inode)));
    }
    taken.sort();
    taken.dedup();
    taken
}
