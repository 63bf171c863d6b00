//! [`Content`]: what belongs in a file that a front end shows to the kernel, and what of it is here.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

use larder_fscache::{Error, IoSource, ObjectRange, OnHole, ReadFlags};
use larder_ondemand::Blob;

/// What belongs in a file.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    /// A local file that is complete and verified.
    File(Arc<LocalFile>),
    /// A blob that is filled on demand.
    Blob(Arc<Blob>),
}

/// A file, and what was found when it was opened.
#[derive(Debug)]
pub(crate) struct LocalFile {
    file: File,
    size: u64,
    identity: String,
}

impl LocalFile {
    pub(crate) fn read_exact_at(&self, buf: &mut [u8], at: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, at)
    }
}

impl Content {
    pub(crate) fn of_file(file: File) -> io::Result<Self> {
        let found = file.metadata()?;
        let (size, device, inode) = (found.len(), found.dev(), found.ino());
        let identity = format!("file {device} {inode} {size} {}.{}", found.mtime(), found.mtime_nsec());
        Ok(Self::File(Arc::new(LocalFile { file, size, identity })))
    }

    /// Its size in bytes: what the kernel is told.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::File(local) => local.size,
            Self::Blob(blob) => blob.size(),
        }
    }

    /// What tells it from any other content, now and for a next worker.
    pub(crate) fn identity(&self) -> String {
        match self {
            Self::File(local) => local.identity.clone(),
            Self::Blob(blob) => {
                let (volume, cookie) = (blob.cookie().volume().key(), blob.cookie().key());
                format!("blob {} {}", volume.as_str(), cookie.as_str())
            }
        }
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Blob(one), Self::Blob(other)) => Arc::ptr_eq(one, other),
            (Self::File(one), Self::File(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }

    /// Fills `buf` with what lies from `at` on, if all of it is here; `false` when any byte is missing (`buf` is then
    /// undefined). Blocks on local files only.
    ///
    /// # Errors
    ///
    /// When a file cannot be read, or ends before `buf` does.
    pub(crate) fn read_present(&self, at: u64, buf: &mut [u8]) -> io::Result<bool> {
        match self {
            _ if buf.is_empty() => Ok(true),
            Self::File(local) => local.read_exact_at(buf, at).map(|()| true),
            Self::Blob(blob) => read_present(blob, at, buf),
        }
    }
}

fn read_present(blob: &Blob, at: u64, buf: &mut [u8]) -> io::Result<bool> {
    let want = ObjectRange::at(at, u64::try_from(buf.len()).map_err(io::Error::other)?);
    if first_hole(blob, want).is_some() {
        return Ok(false);
    }
    match blob.resources().read(at, buf, OnHole::Fail) {
        Ok(read) if read == buf.len() => Ok(true),
        Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
        // It was here a moment ago: dropped by a failing disk. It can be brought again.
        Err(Error::Hole { .. }) => Ok(false),
        Err(error) => Err(io::Error::other(error)),
    }
}

/// What is left of `want` from its first hole on; `None` when all of it is present. The cache takes the decision.
pub(crate) fn first_hole(blob: &Blob, want: ObjectRange) -> Option<ObjectRange> {
    let mut at = want.start();
    while at < want.end() {
        let rest = ObjectRange::at(at, want.end() - at);
        let Ok(decision) = blob.resources().prepare_ondemand_read(rest, u64::MAX, ReadFlags::empty()) else {
            return Some(rest);
        };
        if decision.source != IoSource::ReadFromCache || decision.range.end() <= at {
            return Some(rest);
        }
        at = decision.range.end();
    }
    None
}

/// Whether the kernel may read the backing file of `blob` without asking, for good: every byte is there, and a lost
/// write cannot bring a hole back. Complete is not enough. Blocks on the disk when it is.
pub(crate) fn is_sealed(blob: &Blob) -> bool {
    let object = blob.resources().object();
    object.is_complete() && object.commit().is_ok() && object.is_complete()
}
