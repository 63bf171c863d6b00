//! Full indexes: eight bytes for each lcluster.

use super::{BLOCK_COUNT, Entry, Head, HeadKind};

/// Size of an entry.
pub(crate) const ENTRY_BYTES: u64 = 8;
/// Bit 14 of the entry's advice: the extent is a hole (Linux 7.2).
pub(crate) const HOLE: u16 = 1 << 14;
/// Bit 15: the pcluster holds more than the extent (Linux 6.1).
pub(crate) const PARTIAL: u16 = 1 << 15;

/// Decodes one entry: `struct z_erofs_lcluster_index`, fs/erofs/erofs_fs.h (v7.3).
pub(crate) fn full_entry(bytes: [u8; 8]) -> Entry {
    let [a, b, c, d, e, f, g, h] = bytes;
    let advise = u16::from_le_bytes([a, b]);
    match HeadKind::from_bits(advise.into()) {
        Some(kind) => Entry::Head(Head {
            kind,
            offset: u16::from_le_bytes([c, d]).into(),
            block: u32::from_le_bytes([e, f, g, h]).into(),
            hole: advise & HOLE != 0,
            partial: advise & PARTIAL != 0,
        }),
        None => {
            let back = u32::from(u16::from_le_bytes([e, f]));
            let ahead = Some(u16::from_le_bytes([g, h]).into());
            if back & BLOCK_COUNT != 0 {
                Entry::Next { back: 1, ahead, blocks: Some(back & !BLOCK_COUNT) }
            } else {
                Entry::Next { back, ahead, blocks: None }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_type_is_told_apart() {
        let head = |kind, hole, partial| {
            Entry::Head(Head { kind, offset: 0x201, block: 0x0605_0403, hole, partial })
        };
        assert_eq!(full_entry([0, 0, 1, 2, 3, 4, 5, 6]), head(HeadKind::Plain, false, false));
        assert_eq!(full_entry([1, 0x40, 1, 2, 3, 4, 5, 6]), head(HeadKind::Head1, true, false));
        assert_eq!(full_entry([3, 0x80, 1, 2, 3, 4, 5, 6]), head(HeadKind::Head2, false, true));
        let next = Entry::Next { back: 3, ahead: Some(5), blocks: None };
        assert_eq!(full_entry([2, 0, 0, 0, 3, 0, 5, 0]), next);
        let first = Entry::Next { back: 1, ahead: Some(5), blocks: Some(16) };
        assert_eq!(full_entry([2, 0, 0, 0, 16, 8, 5, 0]), first);
    }
}
