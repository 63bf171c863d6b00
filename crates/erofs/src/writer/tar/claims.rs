//! [`Claims`]: what sparse files say of bytes that the archive does not have.

use crate::Error;
use crate::error::path_of;

/// Entries that may be there for holes in any archive, in all its files together: 16 GiB of holes in blocks of 4 KiB.
const HOLE_ENTRIES_FREE: u64 = 1 << 22;
/// Bytes of an archive that allow one more. An entry takes 8 bytes in an image, and 24 in memory at most.
const BYTES_AN_ENTRY: u64 = 32;

/// How many bytes of holes an entry stands for.
#[derive(Clone, Copy, Debug)]
pub(super) struct HoleUnits {
    /// While the file is read; not less than what follows.
    pub read: u64,
    /// In the table that the image has of the file.
    pub table: u64,
}

/// Counts what the holes of an archive need.
///
/// Data have been read when their entries are made. Holes cost the archive nothing, so they alone need a limit. It grows
/// with the data, and nobody knows how much of a file lies behind its holes: so holes are counted as they are passed, in
/// the form in which they are held, and once more when the file's data have come, in the form of its table.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// Of the files that are through.
    entries: u64,
}

/// A sparse file that is being read.
#[derive(Debug)]
pub(super) struct Claimant {
    path: Vec<u8>,
    units: HoleUnits,
    /// Bytes of holes so far.
    passed: u64,
}

impl Claims {
    /// Begins a file of `size` bytes, of which the archive has `stored`; `read` bytes of the archive have been read.
    ///
    /// # Errors
    ///
    /// [`Error::SparseClaims`] when its holes need too many entries even if all that it promises comes.
    pub fn begin(
        &self,
        path: &[u8],
        size: u64,
        stored: u64,
        units: HoleUnits,
        read: u64,
    ) -> Result<Claimant, Error> {
        let claimant = Claimant { path: path.to_vec(), units, passed: 0 };
        let holes = size.saturating_sub(stored);
        self.check(&claimant, holes / units.table, read.saturating_add(stored)).map(|_| claimant)
    }

    /// Goes past a hole of `bytes`; so far `read` bytes of the archive have been read.
    ///
    /// # Errors
    ///
    /// [`Error::SparseClaims`] when more is held than an archive of that length may need.
    pub fn pass(&self, claimant: &mut Claimant, bytes: u64, read: u64) -> Result<(), Error> {
        claimant.passed = claimant.passed.saturating_add(bytes);
        self.check(claimant, claimant.passed / claimant.units.read, read).map(drop)
    }

    /// Ends a file, whose data have been read with the `read` bytes of the archive so far.
    ///
    /// # Errors
    ///
    /// [`Error::SparseClaims`] when tables have more entries than those of an archive of that length may have.
    pub fn end(&mut self, claimant: &Claimant, read: u64) -> Result<(), Error> {
        self.entries = self.check(claimant, claimant.passed / claimant.units.table, read)?;
        Ok(())
    }

    /// The entries with `more` of this file.
    fn check(&self, claimant: &Claimant, more: u64, read: u64) -> Result<u64, Error> {
        let entries = self.entries.saturating_add(more);
        let entries_max = HOLE_ENTRIES_FREE + read / BYTES_AN_ENTRY;
        if entries > entries_max {
            return Err(Error::SparseClaims { path: path_of(&claimant.path), entries, entries_max });
        }
        Ok(entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNITS: HoleUnits = HoleUnits { read: 32 << 12, table: 1 << 12 };

    #[test]
    fn a_long_archive_may_have_more_holes_than_a_short_one() {
        let verdict = |blocks: u64, read| {
            let mut claims = Claims::default();
            let mut file = claims.begin(b"sparse", (blocks + 1) << 12, 1 << 12, UNITS, read)?;
            claims.pass(&mut file, blocks << 12, read)?;
            claims.end(&file, read)
        };
        let free = HOLE_ENTRIES_FREE;
        for (blocks, read, good) in
            [(free, 0, true), (free + 1, 31, false), (free + 1, 32, true), (free + 2, 63, false)]
        {
            assert_eq!(verdict(blocks, read).is_ok(), good, "{blocks} blocks after {read} bytes");
        }
    }

    #[test]
    fn the_files_of_an_archive_count_together() {
        let mut claims = Claims::default();
        let mut file = claims.begin(b"all", HOLE_ENTRIES_FREE << 12, 0, UNITS, 0).expect("the limit");
        claims.pass(&mut file, HOLE_ENTRIES_FREE << 12, 0).expect("the limit");
        claims.end(&file, 0).expect("the limit");
        claims.begin(b"data", 100, 100, UNITS, 0).expect("no hole");
        claims.begin(b"more", 1 << 12, 0, UNITS, 0).expect_err("one more");
    }

    #[test]
    fn data_that_were_promised_and_have_not_come_allow_nothing() {
        let (stored, size) = (1 << 40, 1 << 46);
        let mut claims = Claims::default();
        let mut file = claims.begin(b"liar", size, stored, UNITS, 0);
        let file = file.as_mut().expect("it promises enough");
        claims.pass(file, HOLE_ENTRIES_FREE * UNITS.read, 0).expect("the limit of what is held");
        claims.pass(file, UNITS.read, 0).expect_err("one more");
        claims.end(file, 0).expect_err("nothing has come");
    }
}
