//! [`State`]: counters in a file, shared by every process that counts there.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;

use crate::counts::{WORDS, Words};
use crate::sys::Mapping;
use crate::{Counts, Error};

const BYTES: usize = WORDS * size_of::<AtomicU64>();

/// Counters in a file. They outlive the processes that count there, and can be read and armed from outside.
pub struct State {
    path: PathBuf,
    mapping: Mapping,
}

impl State {
    /// Makes the file with counters of zero, armed; one that exists is emptied first.
    ///
    /// # Errors
    ///
    /// [`Error::State`].
    pub fn create(path: &Path) -> Result<Self, Error> {
        let make = || -> io::Result<File> {
            let mut file =
                OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
            // Written and not only made long: a page that a full disk cannot give would kill the process later.
            file.write_all(&[0; BYTES])?;
            Ok(file)
        };
        let state = Self::over(path, make())?;
        state.words().begin();
        Ok(state)
    }

    /// Opens the file that [`create`](Self::create) made.
    ///
    /// # Errors
    ///
    /// [`Error::State`], or [`Error::ForeignState`] when a build with other sites made it.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let open = || -> io::Result<Option<File>> {
            let file = OpenOptions::new().read(true).write(true).open(path)?;
            let len = file.metadata()?.len();
            Ok((len == BYTES as u64).then_some(file))
        };
        let foreign = || Error::ForeignState { path: path.to_owned() };
        let file = open().map_err(|source| Error::State { path: path.to_owned(), source })?;
        let state = Self::over(path, file.ok_or_else(foreign).map(Ok)?)?;
        if state.words().are_ours() { Ok(state) } else { Err(foreign()) }
    }

    fn over(path: &Path, file: io::Result<File>) -> Result<Self, Error> {
        let mapping = file.and_then(|file| Mapping::new(file.as_fd(), WORDS));
        let mapping = mapping.map_err(|source| Error::State { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), mapping })
    }

    /// Lets faults strike, or holds them back; what is held back is not counted as a visit either.
    pub fn arm(&self, armed: bool) {
        self.words().arm(armed);
    }

    /// What has happened so far.
    pub fn counts(&self) -> Counts {
        self.words().read()
    }

    pub(crate) fn words(&self) -> Words<'_> {
        Words::new(self.mapping.words())
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("path", &self.path).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Kind, Site};

    #[test]
    fn two_openings_of_a_file_count_together() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("state");
        let one = State::create(&path).expect("space");
        let two = State::open(&path).expect("just made");
        one.words().count(Site::CachefilesOpen, Kind::Eio);
        two.words().count(Site::CachefilesOpen, Kind::Eio);
        assert_eq!(one.counts().faults(Site::CachefilesOpen, Kind::Eio), 2);
        assert!(two.words().are_armed());
        one.arm(false);
        assert!(!two.words().are_armed());
    }

    #[test]
    fn a_file_of_another_build_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("state");
        for bytes in [vec![], vec![0; 7], vec![0; BYTES], vec![1; BYTES], vec![0; BYTES + 8]] {
            std::fs::write(&path, &bytes).expect("space");
            let refused = State::open(&path).expect_err("not ours");
            assert!(matches!(refused, Error::ForeignState { .. }), "{} bytes: {refused:?}", bytes.len());
        }
        let missing = State::open(&dir.path().join("none")).expect_err("missing");
        assert!(matches!(missing, Error::State { .. }), "{missing:?}");
    }
}
