//! [`DirectorySource`]: a blob that is a file of this machine.

use std::{
    fs::File,
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use rustix::io::Errno;

use crate::{BlobRange, Error, Meter, RangeSource, source::ReadHere};

/// A local file, read by range. Its length is taken once, when it is opened.
#[derive(Clone, Debug)]
pub struct DirectorySource {
    file: Arc<File>,
    path: PathBuf,
    len: u64,
    file_system: u64,
    meter: Arc<Meter>,
}

impl DirectorySource {
    /// Opens the regular file at `path`. Blocks on the file system.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when it cannot be opened, [`Error::Address`] when it is no regular file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let place = || path.display().to_string();
        let failed = |source| Error::Io { place: place(), source };
        // Asked before opening, because opening a fifo would wait for its writer.
        if !std::fs::metadata(path).map_err(failed)?.is_file() {
            return Err(Error::Address { place: place(), reason: "not a regular file".into() });
        }
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        Ok(Self {
            file: Arc::new(file),
            path: path.to_owned(),
            len: metadata.len(),
            file_system: metadata.dev(),
            meter: Arc::new(Meter::default()),
        })
    }

    /// Opens the regular file at `path`, which must have `len` bytes. Blocks on the file system.
    ///
    /// # Errors
    ///
    /// Those of [`DirectorySource::open`], and [`Error::Length`] when its length is another.
    pub fn open_exact(path: impl AsRef<Path>, len: u64) -> Result<Self, Error> {
        let source = Self::open(path)?;
        if source.len == len {
            Ok(source)
        } else {
            Err(source.length("the whole file".into(), len, source.len))
        }
    }

    fn check(&self, range: BlobRange) -> Result<(), Error> {
        if range.end() > self.len {
            return Err(Error::OutOfBounds { place: self.describe(), range, len: self.len });
        }
        Ok(())
    }

    fn length(&self, range: String, expected: u64, found: u64) -> Error {
        Error::Length { place: self.describe(), range, expected, found }
    }
}

#[async_trait]
impl RangeSource for DirectorySource {
    fn len(&self) -> u64 {
        self.len
    }

    fn describe(&self) -> String {
        self.path.display().to_string()
    }

    /// Its directory.
    fn origin(&self) -> String {
        self.path.parent().unwrap_or(&self.path).display().to_string()
    }

    async fn read_range(&self, range: BlobRange) -> Result<Bytes, Error> {
        if range.is_empty() {
            return self.check(range).map(|()| Bytes::new());
        }
        let here = self.clone();
        let read = tokio::task::spawn_blocking(move || here.read_here(range, Vec::new(), &|| ())).await;
        read.unwrap_or_else(|stopped| {
            Err(Error::Io { place: self.describe(), source: io::Error::other(stopped) })
        })
    }

    fn here(&self) -> Option<&dyn ReadHere> {
        Some(self)
    }

    fn meter(&self) -> Option<&Meter> {
        Some(&self.meter)
    }
}

impl ReadHere for DirectorySource {
    fn file_system(&self) -> u64 {
        self.file_system
    }

    fn read_here(&self, range: BlobRange, buffer: Vec<u8>, came: &dyn Fn()) -> Result<Bytes, Error> {
        self.check(range)?;
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        self.meter.count_request();
        let bytes = read_up_to(&self.file, range, buffer, came);
        let bytes = bytes.map_err(|source| Error::Io { place: self.describe(), source });
        let bytes = bytes.inspect_err(|_| self.meter.count_error())?;
        self.meter.count_bytes(bytes.len());
        let found = bytes.len() as u64;
        if found < range.len() {
            self.meter.count_error();
            return Err(self.length(range.to_string(), range.len(), found));
        }
        Ok(Bytes::from(bytes))
    }
}

/// Bytes that one call reads: with more, nobody would know for long whether a slow file system hangs.
const READ_BYTES: usize = 128 << 10;

/// Reads `range`, or what there is of it when the file ends before, into `bytes`.
fn read_up_to(file: &File, range: BlobRange, mut bytes: Vec<u8>, came: &dyn Fn()) -> io::Result<Vec<u8>> {
    let len = usize::try_from(range.len()).map_err(io::Error::other)?;
    // No more than that: who keeps buffers does not keep large ones.
    bytes.reserve_exact(len.saturating_sub(bytes.len()));
    // What the buffer held before need not be cleared: all of it is overwritten, or cut off.
    bytes.resize(len, 0);
    let mut filled = 0;
    while filled < len {
        let until = len.min(filled + READ_BYTES);
        match rustix::io::pread(file, &mut bytes[filled..until], range.start() + filled as u64) {
            Ok(0) => break,
            Ok(read) => {
                filled += read;
                came();
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> BlobRange {
        BlobRange::new(start, end).expect("forwards")
    }

    fn file_of(bytes: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), bytes).expect("written");
        file
    }

    #[tokio::test]
    async fn every_range_of_a_file_is_readable_and_none_beyond() {
        let file = file_of(b"0123456789");
        let source = DirectorySource::open(file.path()).expect("opens");
        assert_eq!(source.len(), 10);
        for start in 0..=10u8 {
            for end in start..=10 {
                let got = source.read_range(range(start.into(), end.into())).await.expect("inside");
                assert_eq!(got, b"0123456789"[usize::from(start)..usize::from(end)]);
            }
        }
        let beyond = source.read_range(range(5, 11)).await;
        assert!(matches!(beyond, Err(Error::OutOfBounds { len: 10, .. })));
        assert_eq!(source.meter().expect("counts").read().requests, 55, "empty ranges ask for nothing");
    }

    #[tokio::test]
    async fn a_file_cut_after_opening_is_a_length_error() {
        let file = file_of(b"0123456789");
        let source = DirectorySource::open(file.path()).expect("opens");
        file.as_file().set_len(4).expect("cut");
        let got = source.read_range(range(2, 8)).await;
        assert!(matches!(got, Err(Error::Length { expected: 6, found: 2, .. })), "{got:?}");
    }

    #[test]
    fn a_file_of_another_length_is_refused_when_it_is_opened() {
        let file = file_of(b"0123456789");
        DirectorySource::open_exact(file.path(), 10).expect("ten bytes");
        let got = DirectorySource::open_exact(file.path(), 11);
        assert!(matches!(got, Err(Error::Length { expected: 11, found: 10, .. })));
    }

    #[test]
    fn what_is_missing_or_no_file_is_refused() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        assert!(matches!(DirectorySource::open(dir.path()), Err(Error::Address { .. })));
        assert!(matches!(DirectorySource::open(dir.path().join("none")), Err(Error::Io { .. })));
    }
}
