//! [`ReadCache`]: a file as a source of metadata, which are read 32 bytes here and 512 there.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

use larder_erofs::{MetaSource, PhysicalAddr, SourceError};

/// What is read from the file at once.
const PAGE_BYTES: usize = 32 << 10;
/// Pages kept: 8 MiB in all. A page has one place, so that finding it takes no search.
const PAGES: usize = 256;
/// Longer reads go to the file directly.
const CACHED_BYTES_MAX: usize = 8 << 10;

/// A file, or its part from an offset on, with the last read pages kept.
pub struct ReadCache {
    file: File,
    offset: u64,
    len: u64,
    pages: Vec<Mutex<Page>>,
}

#[derive(Default)]
struct Page {
    /// Which page this is; `None` before the first read.
    number: Option<u64>,
    /// Shorter than a page only at the end.
    bytes: Vec<u8>,
}

impl ReadCache {
    /// The `len` bytes of `file` from `offset` on.
    pub fn new(file: File, offset: u64, len: u64) -> Self {
        Self { file, offset, len, pages: (0..PAGES).map(|_| Mutex::default()).collect() }
    }

    fn read_file(&self, at: u64, buf: &mut [u8]) -> io::Result<()> {
        let at = at.checked_add(self.offset).ok_or(io::ErrorKind::UnexpectedEof)?;
        FileExt::read_exact_at(&self.file, buf, at)
    }

    /// Copies what lies in page `number` from `start` on; `buf` does not pass its end.
    fn copy(&self, number: u64, start: usize, buf: &mut [u8]) -> io::Result<()> {
        let place = usize::try_from(number).unwrap_or(0) % PAGES;
        let mut page = self.pages[place].lock().unwrap_or_else(PoisonError::into_inner);
        if page.number != Some(number) {
            page.number = None;
            let first = number * PAGE_BYTES as u64;
            let len = usize::try_from(self.len - first).map_or(PAGE_BYTES, |left| left.min(PAGE_BYTES));
            page.bytes.resize(len, 0);
            self.read_file(first, &mut page.bytes)?;
            page.number = Some(number);
        }
        buf.copy_from_slice(&page.bytes[start..start + buf.len()]);
        Ok(())
    }
}

impl MetaSource for ReadCache {
    fn read_exact_at(&self, at: PhysicalAddr, buf: &mut [u8]) -> Result<(), SourceError> {
        let end = at.checked_add(buf.len() as u64).ok_or(io::ErrorKind::UnexpectedEof)?;
        if end.get() > self.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if buf.len() > CACHED_BYTES_MAX {
            return Ok(self.read_file(at.get(), buf)?);
        }
        let (mut at, mut rest) = (at.get(), buf);
        while !rest.is_empty() {
            let start = usize::try_from(at % PAGE_BYTES as u64).unwrap_or(0);
            let len = rest.len().min(PAGE_BYTES - start);
            let (piece, after) = rest.split_at_mut(len);
            self.copy(at / PAGE_BYTES as u64, start, piece)?;
            at += len as u64;
            rest = after;
        }
        Ok(())
    }

    fn len(&self) -> u64 {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn reads_are_those_of_the_file_whatever_their_place_and_length() {
        let mut file = tempfile::tempfile().expect("can make");
        let bytes: Vec<u8> = (0..300_000_u32).flat_map(|n| (n / 3).to_le_bytes()).collect();
        file.write_all(&bytes).expect("can write");
        let offset = 77;
        let cache = ReadCache::new(file, offset as u64, (bytes.len() - offset) as u64);
        let ends = [0, 1, PAGE_BYTES - 1, PAGE_BYTES, 3 * PAGE_BYTES - 5, bytes.len() - offset - 9000];
        for start in ends {
            for len in [0, 1, 4096, CACHED_BYTES_MAX, CACHED_BYTES_MAX + 1] {
                let mut buf = vec![0; len];
                cache.read_exact_at(PhysicalAddr::new(start as u64), &mut buf).expect("inside");
                assert_eq!(buf, bytes[offset + start..offset + start + len], "{start} {len}");
            }
        }
        let end = (bytes.len() - offset) as u64;
        for at in [end, end - 1, u64::MAX] {
            let past = cache.read_exact_at(PhysicalAddr::new(at), &mut [0; 2]);
            assert!(
                matches!(past, Err(SourceError::Io(error)) if error.kind() == io::ErrorKind::UnexpectedEof)
            );
        }
    }
}
