//! [`Row`]: what the index keeps of one object.

use zerocopy::byteorder::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::storage::Sighting;

const COMPLETE: u8 = 1;
const PINNED: u8 = 2;

/// What the index keeps of one object: a hint, and the ground of its charge.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Row {
    /// Bytes of the object.
    pub size: u64,
    /// Bytes that data and map took on the disk when it was last looked at.
    pub stored: u64,
    /// When it was acquired or let go last, in milliseconds since 1970.
    pub used_ms: u64,
    pub complete: bool,
    pub pinned: bool,
    /// How its file is found without a look into the folder; none when that is not known.
    pub seen: Option<Sighting>,
}

/// How a row begins; what follows is the sighting, if there is one.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Stored {
    size: U64,
    stored: U64,
    used_ms: U64,
    flags: u8,
}

impl Row {
    /// Upper bound of what the object takes on the disk as long as nothing more is written to it.
    ///
    /// Blocks of the extent tree come when the kernel writes back (one for 340 extents of ext4); a map is there
    /// twice while it is replaced; an attribute may have a block of its own.
    pub fn charge(&self) -> u64 {
        let map = if self.complete {
            0
        } else {
            (48 + self.size.div_ceil(4096).div_ceil(8) + 8).next_multiple_of(4096)
        };
        // All sizes are bounded by 2^40.
        self.stored.saturating_add(self.stored / 256).saturating_add(2 * map + 8192)
    }

    pub fn encode(&self) -> Vec<u8> {
        let flags = [(self.complete, COMPLETE), (self.pinned, PINNED)];
        let flags = flags.into_iter().fold(0, |all, (is_set, flag)| if is_set { all | flag } else { all });
        let stored = Stored {
            size: U64::new(self.size),
            stored: U64::new(self.stored),
            used_ms: U64::new(self.used_ms),
            flags,
        };
        let seen = self.seen.and_then(|seen| seen.encode()).unwrap_or_default();
        [stored.as_bytes(), &seen].concat()
    }

    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (stored, seen) = Stored::read_from_prefix(bytes).ok()?;
        Some(Self {
            size: stored.size.get(),
            stored: stored.stored.get(),
            used_ms: stored.used_ms.get(),
            complete: stored.flags & COMPLETE != 0,
            pinned: stored.flags & PINNED != 0,
            seen: Sighting::parse(seen),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::FileHandle;

    #[test]
    fn a_row_reads_back_as_it_was_written() {
        for flags in 0..4 {
            let [complete, pinned] = [1, 2].map(|bit| flags & bit != 0);
            let row = Row { size: 1, stored: 2, used_ms: u64::MAX, complete, pinned, seen: None };
            assert_eq!(row.encode().len(), 25, "as in version 2 of the index");
            assert_eq!(Row::parse(&row.encode()), Some(row));
            let handle = FileHandle::new(1, &[8; 8]).expect("short");
            let row = Row { seen: Some(Sighting { dir: handle, file: handle, changed_ns: 3 }), ..row };
            assert_eq!(row.encode().len(), 50);
            assert_eq!(Row::parse(&row.encode()), Some(row));
        }
        assert_eq!(Row::parse(&[0; 24]), None);
        let unseen = Row { seen: None, ..Row::default() };
        assert_eq!(Row::parse(&[0; 26]), Some(unseen), "what follows is no sighting");
    }

    #[test]
    fn the_charge_of_a_partial_object_has_room_for_its_map_twice() {
        let row = Row { size: 4096 * 8 * 4096, stored: 256, ..Row::default() };
        assert_eq!(row.charge(), 256 + 1 + 2 * 8192 + 8192);
        assert_eq!(Row { complete: true, ..row }.charge(), 256 + 1 + 8192);
    }
}
