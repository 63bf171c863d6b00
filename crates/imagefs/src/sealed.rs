//! [`SealedPiece`]: bytes that may be read from a local file without asking.

use std::fs::File;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use larder_fscache::{Error, ObjectRange, OnHole};
use larder_ondemand::Blob;

/// A piece of a complete blob's backing file. The blob stays in use for as long as this lives, so nothing of it goes.
#[derive(Debug)]
pub struct SealedPiece {
    pub(crate) blob: Arc<Blob>,
    pub(crate) range: ObjectRange,
}

/// Opens the backing file of a complete blob anew, for reading only. `None` while anything can still change, and when it cannot
/// be opened.
pub(crate) fn open(blob: &Blob) -> Option<File> {
    let sealed = SealedPiece::file_of(blob)?;
    // By its descriptor: its name may be another file's by now.
    let file = File::open(format!("/proc/self/fd/{}", sealed.as_raw_fd())).ok()?;
    let (of, found) = (File::from(sealed.try_clone_to_owned().ok()?).metadata().ok()?, file.metadata().ok()?);
    let is_same = (of.dev(), of.ino()) == (found.dev(), found.ino()) && found.len() == blob.size();
    is_same.then_some(file)
}

impl SealedPiece {
    /// The backing file; `None` once the cache has withdrawn it.
    pub fn file(&self) -> Option<BorrowedFd<'_>> {
        Self::file_of(&self.blob)
    }

    /// Where in it the bytes lie.
    pub fn range(&self) -> ObjectRange {
        self.range
    }

    /// Reads all of it into `buf`, which is made as long.
    ///
    /// # Errors
    ///
    /// What the cache says; [`Error::Hole`] once it has withdrawn the blob.
    pub fn read(&self, buf: &mut Vec<u8>) -> Result<(), Error> {
        buf.resize(usize::try_from(self.range.len()).unwrap_or(usize::MAX), 0);
        match self.blob.resources().read(self.range.start(), buf, OnHole::Fail)? {
            len if len == buf.len() => Ok(()),
            len => {
                let at = self.range.start() + len as u64;
                Err(Error::Hole { cookie: self.blob.cookie().key().clone(), at })
            }
        }
    }

    pub(crate) fn file_of(blob: &Blob) -> Option<BorrowedFd<'_>> {
        blob.resources().object().sealed_file()
    }
}
