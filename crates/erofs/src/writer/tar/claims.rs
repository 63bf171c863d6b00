//! [`Claims`]: what sparse files say of bytes that the archive does not have.

use super::entries::Entry;
use crate::Error;
use crate::error::path_of;

/// Entries that tables may have for holes in any archive, in all its files together: 16 GiB of holes in blocks of 4 KiB.
const HOLE_ENTRIES_FREE: u64 = 1 << 22;
/// Bytes of an archive that allow one more. An entry takes 8 bytes in an image, and 24 in memory at most.
const BYTES_AN_ENTRY: u64 = 32;

/// Counts what the holes of an archive need.
///
/// Data have been read when their entries are made. Holes cost the archive nothing, so they alone need a limit.
#[derive(Debug, Default)]
pub(super) struct Claims {
    entries: u64,
}

impl Claims {
    /// Takes in a sparse file of `size` bytes, of which the archive has those in `map`; its table has an entry for each
    /// `unit` bytes. So far `read` bytes of the archive have been read.
    ///
    /// # Errors
    ///
    /// [`Error::SparseClaims`] when holes need more entries than an archive of that length may have.
    pub fn take(
        &mut self,
        entry: &Entry,
        size: u64,
        map: &[(u64, u64)],
        unit: u64,
        read: u64,
    ) -> Result<(), Error> {
        let stored: u64 = map.iter().map(|&(_, len)| len).sum();
        let holes = size.div_ceil(unit).saturating_sub(stored.div_ceil(unit));
        self.entries = self.entries.saturating_add(holes);
        let entries_max = HOLE_ENTRIES_FREE + read / BYTES_AN_ENTRY;
        if self.entries > entries_max {
            return Err(Error::SparseClaims {
                path: path_of(&entry.path),
                entries: self.entries,
                entries_max,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::EntryKind;
    use super::*;
    use crate::Timestamp;

    #[test]
    fn a_long_archive_may_have_more_holes_than_a_short_one() {
        let kind = EntryKind::Directory;
        let (path, mtime, xattrs) = (b"sparse".to_vec(), Timestamp::new(0, 0), Vec::new());
        let entry = Entry { path, kind, mode: 0, uid: 0, gid: 0, mtime, xattrs };
        let verdict = |blocks: u64, read| {
            Claims::default().take(&entry, (blocks + 1) << 12, &[(0, 100)], 1 << 12, read).is_ok()
        };
        assert!(verdict(HOLE_ENTRIES_FREE, 0) && !verdict(HOLE_ENTRIES_FREE + 1, 31));
        assert!(verdict(HOLE_ENTRIES_FREE + 1, 32) && !verdict(HOLE_ENTRIES_FREE + 2, 63));
        let mut claims = Claims::default();
        claims.take(&entry, HOLE_ENTRIES_FREE << 12, &[], 1 << 12, 0).expect("the limit");
        claims.take(&entry, 100, &[(0, 100)], 1 << 12, 0).expect("no hole");
        claims.take(&entry, 100, &[], 1 << 12, 0).expect_err("one more");
    }
}
