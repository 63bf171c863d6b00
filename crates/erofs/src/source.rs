//! [`MetaSource`]: where the bytes of a metadata image come from.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::{DeviceId, PhysicalAddr};

/// The primary device of an image: random access by byte address.
///
/// Calls may block on the storage below, and come from many threads at once.
pub trait MetaSource: Send + Sync {
    /// Fills `buf` from address `at`.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::UnexpectedEof`] when the range passes the end, and whatever the storage reports.
    fn read_exact_at(&self, at: PhysicalAddr, buf: &mut [u8]) -> io::Result<()>;

    /// Length in bytes.
    fn len(&self) -> u64;

    /// Whether there are no bytes at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Reads one of an image's extra devices: fills a buffer from a byte address of that device.
///
/// For tools and tests that have all devices at hand.
pub type ReadDevice<'a> = dyn FnMut(DeviceId, PhysicalAddr, &mut [u8]) -> io::Result<()> + 'a;

impl MetaSource for [u8] {
    fn read_exact_at(&self, at: PhysicalAddr, buf: &mut [u8]) -> io::Result<()> {
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
    fn read_exact_at(&self, at: PhysicalAddr, buf: &mut [u8]) -> io::Result<()> {
        MetaSource::read_exact_at(self.as_slice(), at, buf)
    }

    fn len(&self) -> u64 {
        MetaSource::len(self.as_slice())
    }
}

impl MetaSource for File {
    fn read_exact_at(&self, at: PhysicalAddr, buf: &mut [u8]) -> io::Result<()> {
        FileExt::read_exact_at(self, buf, at.get())
    }

    fn len(&self) -> u64 {
        self.metadata().map_or(0, |metadata| metadata.len())
    }
}

impl<T: MetaSource + ?Sized> MetaSource for Arc<T> {
    fn read_exact_at(&self, at: PhysicalAddr, buf: &mut [u8]) -> io::Result<()> {
        (**self).read_exact_at(at, buf)
    }

    fn len(&self) -> u64 {
        (**self).len()
    }
}

impl<T: MetaSource + ?Sized> MetaSource for &'static T {
    fn read_exact_at(&self, at: PhysicalAddr, buf: &mut [u8]) -> io::Result<()> {
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
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "at {at}");
        }
    }
}
