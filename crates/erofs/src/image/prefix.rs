//! Long xattr prefixes: a table of names that many attributes begin with.

use super::Image;
use crate::addr::MetaAddr;
use crate::{Compat, Error, LogicalAddr};

/// One record of the table.
#[derive(Debug)]
pub(super) struct LongPrefix {
    pub base_index: u8,
    pub infix: Vec<u8>,
}

/// Reads the table from wherever the feature bits say it lies.
///
/// Source of truth: `erofs_xattr_prefixes_init()`, fs/erofs/xattr.c (v7.3).
pub(super) fn read(image: &Image) -> Result<Vec<LongPrefix>, Error> {
    let superblock = image.superblock();
    let plain = superblock.compat.contains(Compat::PLAIN_XATTR_PFX);
    let holder = image.metabox.as_ref().or(image.packed.as_ref()).filter(|_| !plain);
    let mut at = superblock.prefix_start;
    let mut prefixes = Vec::new();
    for index in 0..superblock.prefix_count {
        let mut take = |buf: &mut [u8]| {
            let result = match holder {
                Some(inode) => image.read_contents(inode, LogicalAddr::new(at), buf),
                None => image.read_meta(MetaAddr::Primary(at), buf),
            };
            at += buf.len() as u64;
            result
        };
        let mut length = [0; 2];
        take(&mut length)?;
        let length = u16::from_le_bytes(length);
        if !(1..=256).contains(&length) {
            return Err(Error::XattrPrefix { index, length });
        }
        let mut record = vec![0; usize::from(length)];
        take(&mut record)?;
        at = at.next_multiple_of(4);
        prefixes.push(LongPrefix { base_index: record[0], infix: record.split_off(1) });
    }
    Ok(prefixes)
}
