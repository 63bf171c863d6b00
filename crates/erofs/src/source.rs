//! [`MetaSource`]: where the bytes of an image come from, and how a source says *not here yet*.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::{DeviceId, Error, PhysicalAddr};

/// A run of bytes of one source.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ByteRange {
    /// First byte.
    pub start: PhysicalAddr,
    /// Length in bytes.
    pub len: u64,
}

/// A run of bytes of one device of an image.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct DeviceRange {
    /// Which device; the primary one is the image itself.
    pub device: DeviceId,
    /// Which bytes of it.
    pub bytes: ByteRange,
}

/// Why a source gave no bytes.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Some are not here yet. Whoever brings these ranges may ask again.
    #[error("{} ranges are not here yet", .0.len())]
    NotHere(Vec<ByteRange>),
    /// The storage failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<io::ErrorKind> for SourceError {
    fn from(kind: io::ErrorKind) -> Self {
        Self::Io(kind.into())
    }
}

impl SourceError {
    /// Says which device it was that gave no bytes.
    pub(crate) fn of_device(self, device: DeviceId, at: PhysicalAddr, len: usize) -> Error {
        match self {
            // A source that does not say what it lacks: all of it. No ranges would mean that nothing is missing.
            Self::NotHere(ranges) if ranges.is_empty() => {
                let bytes = ByteRange { start: at, len: len as u64 };
                Error::NotHere { ranges: vec![DeviceRange { device, bytes }] }
            }
            Self::NotHere(ranges) => Error::NotHere {
                ranges: ranges.into_iter().map(|bytes| DeviceRange { device, bytes }).collect(),
            },
            Self::Io(source) if device == DeviceId::PRIMARY => Error::Read { at, len, source },
            Self::Io(source) => Error::ReadDevice { device, at, len, source },
        }
    }
}

/// Reads from the primary device.
pub(crate) fn read_primary(source: &dyn MetaSource, at: u64, buf: &mut [u8]) -> Result<(), Error> {
    let (at, len) = (PhysicalAddr::new(at), buf.len());
    source.read_exact_at(at, buf).map_err(|error| error.of_device(DeviceId::PRIMARY, at, len))
}

/// Sorts ranges and makes one of those that touch, so that they can be fetched together.
pub(crate) fn merge(mut ranges: Vec<DeviceRange>) -> Vec<DeviceRange> {
    ranges.sort_unstable();
    let mut merged: Vec<DeviceRange> = Vec::with_capacity(ranges.len());
    for range in ranges {
        let end = range.bytes.start.get().saturating_add(range.bytes.len);
        match merged.last_mut() {
            Some(last)
                if last.device == range.device
                    && range.bytes.start.get() <= last.bytes.start.get().saturating_add(last.bytes.len) =>
            {
                last.bytes.len = last.bytes.len.max(end - last.bytes.start.get());
            }
            _ => merged.push(range),
        }
    }
    merged
}

/// One device of an image, above all the primary one: random access by byte address.
///
/// A local file, a cache and a network can all be one. What is not here yet is answered with
/// [`SourceError::NotHere`], not waited for: the reader passes the ranges on as [`Error::NotHere`], and its caller
/// brings them and tries again.
///
/// Calls may block on the storage below, and come from many threads at once.
pub trait MetaSource: Send + Sync {
    /// Fills `buf` from address `at`.
    ///
    /// # Errors
    ///
    /// [`SourceError::NotHere`] when bytes of the range have still to be brought, and `buf` is then undefined;
    /// [`io::ErrorKind::UnexpectedEof`] when the range passes the end, and whatever the storage reports.
    fn read_exact_at(&self, at: PhysicalAddr, buf: &mut [u8]) -> Result<(), SourceError>;

    /// Length in bytes.
    fn len(&self) -> u64;

    /// Whether there are no bytes at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Reads one of an image's extra devices: fills a buffer from a byte address of that device.
///
/// Like a [`MetaSource`] it may answer that the bytes are [missing](SourceError::NotHere).
pub type ReadDevice<'a> = dyn FnMut(DeviceId, PhysicalAddr, &mut [u8]) -> Result<(), SourceError> + 'a;

impl MetaSource for [u8] {
    fn read_exact_at(&self, at: PhysicalAddr, buf: &mut [u8]) -> Result<(), SourceError> {
        let start = usize::try_from(at.get()).ok();
        let end = start.and_then(|start| start.checked_add(buf.len()));
        let bytes = start.zip(end).and_then(|(start, end)| self.get(start..end));
        let bytes = bytes.ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(bytes);
        Ok(())
    }

    fn len(&self) -> u64 {
        u64::try_from(<[u8]>::len(self)).unwrap_or(u64::MAX)
    }
}

impl MetaSource for Vec<u8> {
    fn read_exact_at(&self, at: PhysicalAddr, buf: &mut [u8]) -> Result<(), SourceError> {
        MetaSource::read_exact_at(self.as_slice(), at, buf)
    }

    fn len(&self) -> u64 {
        MetaSource::len(self.as_slice())
    }
}

impl MetaSource for File {
    fn read_exact_at(&self, at: PhysicalAddr, buf: &mut [u8]) -> Result<(), SourceError> {
        Ok(FileExt::read_exact_at(self, buf, at.get())?)
    }

    fn len(&self) -> u64 {
        self.metadata().map_or(0, |metadata| metadata.len())
    }
}

impl<T: MetaSource + ?Sized> MetaSource for Arc<T> {
    fn read_exact_at(&self, at: PhysicalAddr, buf: &mut [u8]) -> Result<(), SourceError> {
        (**self).read_exact_at(at, buf)
    }

    fn len(&self) -> u64 {
        (**self).len()
    }
}

impl<T: MetaSource + ?Sized> MetaSource for &'static T {
    fn read_exact_at(&self, at: PhysicalAddr, buf: &mut [u8]) -> Result<(), SourceError> {
        (**self).read_exact_at(at, buf)
    }

    fn len(&self) -> u64 {
        (**self).len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_past_the_end_is_an_error_and_never_short() {
        let bytes = vec![1_u8, 2, 3];
        let mut two = [0; 2];
        MetaSource::read_exact_at(&bytes, PhysicalAddr::new(1), &mut two).expect("within");
        assert_eq!(two, [2, 3]);
        for at in [2, 3, u64::MAX] {
            let error = MetaSource::read_exact_at(&bytes, PhysicalAddr::new(at), &mut two).expect_err("past");
            let SourceError::Io(error) = error else { panic!("{error}") };
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "at {at}");
        }
    }

    #[test]
    fn ranges_that_touch_become_one() {
        let range = |device, start, len| DeviceRange {
            device: DeviceId::new(device),
            bytes: ByteRange { start: PhysicalAddr::new(start), len },
        };
        let ranges = vec![range(1, 10, 5), range(0, 15, 1), range(1, 0, 4), range(0, 10, 5), range(1, 2, 3)];
        assert_eq!(merge(ranges), [range(0, 10, 6), range(1, 0, 5), range(1, 10, 5)]);
        assert_eq!(merge(vec![range(0, 5, u64::MAX), range(0, 6, 1)]).len(), 1);
    }
}
