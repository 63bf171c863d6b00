//! [`Request`]: one read, cut into slices. The counterpart of `struct erofs_fscache_rq` (fs/erofs/fscache.c, v6.12).

use std::ops::Range;

use larder_erofs::{DeviceId, Extent, ExtentKind, Image, Inode, LogicalAddr};
use larder_fscache::ObjectRange;

use crate::Error;

/// A run of bytes of one read that lies in one piece.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Slice {
    /// Which bytes of the read's buffer.
    pub buffer: Range<usize>,
    /// Where they come from.
    pub from: From,
}

/// Where a slice comes from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum From {
    /// Nowhere: zeros.
    Hole,
    /// The metadata, at this place of the file.
    Metadata(LogicalAddr),
    /// A device.
    Device(DeviceId, ObjectRange),
}

/// The slices of one read, in order and without a gap.
pub(crate) struct Request<'a> {
    image: &'a Image,
    inode: &'a Inode,
    at: u64,
    len: usize,
    done: usize,
}

impl<'a> Request<'a> {
    /// A read of up to `len` bytes from `at`: what lies past the end of the file is not part of it.
    pub fn new(image: &'a Image, inode: &'a Inode, at: u64, len: usize) -> Self {
        let left = usize::try_from(inode.size.saturating_sub(at)).unwrap_or(usize::MAX);
        Self { image, inode, at, len: len.min(left), done: 0 }
    }

    /// Bytes that the read will give.
    pub fn len(&self) -> usize {
        self.len
    }

    fn slice(&self, at: LogicalAddr, extent: Extent) -> Slice {
        let len = usize::try_from(extent.len).unwrap_or(usize::MAX).min(self.len - self.done);
        let from = match extent.kind {
            ExtentKind::Hole => From::Hole,
            // Compressed data is read through the metadata, where it has to lie too: Larder's own images have none.
            ExtentKind::Meta { .. } | ExtentKind::Encoded(_) => From::Metadata(at),
            ExtentKind::Device { device, pa } => From::Device(device, ObjectRange::at(pa.get(), len as u64)),
        };
        Slice { buffer: self.done..self.done + len, from }
    }
}

impl Iterator for Request<'_> {
    type Item = Result<Slice, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done >= self.len {
            return None;
        }
        // `at` plus `len` is at most the file's size.
        let at = LogicalAddr::new(self.at + self.done as u64);
        let mapped = self.image.map(self.inode, at);
        let slice = mapped
            .map(|extent| self.slice(at, extent))
            .map_err(|source| Error::Metadata { nid: self.inode.nid, source });
        match &slice {
            // What has no contents has no slices either.
            Ok(slice) if slice.buffer.is_empty() => return None,
            Ok(slice) => self.done = slice.buffer.end,
            Err(_) => self.done = self.len,
        }
        Some(slice)
    }
}

/// Sorts what is missing and makes neighbours one, so that they become one range request.
pub(crate) fn merge(mut missing: Vec<(DeviceId, ObjectRange)>) -> Vec<(DeviceId, ObjectRange)> {
    missing.sort_unstable();
    let mut merged: Vec<(DeviceId, ObjectRange)> = Vec::with_capacity(missing.len());
    for (device, range) in missing {
        match merged.last_mut() {
            Some((last_device, last)) if *last_device == device && range.start() <= last.end() => {
                let end = last.end().max(range.end());
                *last = ObjectRange::at(last.start(), end - last.start());
            }
            _ => merged.push((device, range)),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_on_one_device_become_one() {
        let (one, two) = (DeviceId::new(1), DeviceId::new(2));
        let at = ObjectRange::at;
        let got =
            merge(vec![(two, at(8, 4)), (one, at(4, 4)), (one, at(0, 4)), (two, at(0, 4)), (one, at(2, 3))]);
        assert_eq!(got, [(one, at(0, 8)), (two, at(0, 4)), (two, at(8, 4))]);
    }

    #[test]
    fn nothing_missing_stays_nothing() {
        assert_eq!(merge(Vec::new()), []);
    }
}
