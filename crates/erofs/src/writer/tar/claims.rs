//! [`Claims`]: what sparse files say of bytes that the archive does not have.

use super::entries::Entry;
use crate::Error;
use crate::error::path_of;

/// Entries that tables may have for holes, in all files of an archive together: 64 GiB of them in blocks of 4 KiB.
///
/// Data have been read when their entries are made. Holes cost the archive nothing, so they alone need a limit.
pub(super) const HOLE_ENTRIES_MAX: u64 = 1 << 24;

/// Counts what the holes of an archive need.
#[derive(Debug, Default)]
pub(super) struct Claims {
    entries: u64,
}

impl Claims {
    /// Takes in a sparse file of `size` bytes, of which the archive has those in `map`; its table has an entry for each
    /// `unit` bytes.
    ///
    /// # Errors
    ///
    /// [`Error::SparseClaims`] when holes need more than [`HOLE_ENTRIES_MAX`] entries.
    pub fn take(&mut self, entry: &Entry, size: u64, map: &[(u64, u64)], unit: u64) -> Result<(), Error> {
        let stored: u64 = map.iter().map(|&(_, len)| len).sum();
        let holes = size.div_ceil(unit).saturating_sub(stored.div_ceil(unit));
        self.entries = self.entries.saturating_add(holes);
        if self.entries > HOLE_ENTRIES_MAX {
            let (entries, entries_max) = (self.entries, HOLE_ENTRIES_MAX);
            return Err(Error::SparseClaims { path: path_of(&entry.path), entries, entries_max });
        }
        Ok(())
    }
}
