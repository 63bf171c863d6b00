//! Copying what digests vouch for into the kernel's object, in whole pages.
//!
//! The object's descriptor is write-only and writes directly. Linux 6.1 rounds an odd offset down *without moving the
//! data*, 6.12 refuses it: so offset, length and buffer are always whole pages, and the last page of an object is
//! filled up with zeros.

use std::io;
use std::os::fd::BorrowedFd;

use larder_fscache::ObjectRange;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::content::Content;

/// Bytes of a page, the unit of every write.
pub(super) const PAGE: u64 = 4096;
/// Bytes copied at once.
const PIECE_PAGES: usize = 64;

/// Memory that a direct write may start at.
#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(4096))]
struct Page([u8; 4096]);

/// Copies `want` of `content` to `object`; `want` is rounded out to pages and cut at the object's last page.
///
/// Every byte comes from a complete file or from present, hence verified, blocks of the cache.
///
/// # Errors
///
/// When a byte is not there, or the kernel does not take it. What was copied before stays: it is right.
pub(super) fn copy(content: &Content, want: ObjectRange, object: BorrowedFd<'_>) -> io::Result<()> {
    let pages = whole_pages(want, content.size());
    let mut buffer = vec![Page([0; 4096]); PIECE_PAGES];
    let mut at = pages.start();
    while at < pages.end() {
        let left = usize::try_from(pages.end() - at).unwrap_or(usize::MAX);
        let piece = buffer.as_mut_slice().as_mut_bytes();
        let len = left.min(piece.len());
        let piece = &mut piece[..len];
        read(content, at, piece)?;
        write(piece, at, object)?;
        at += u64::try_from(len).map_err(io::Error::other)?;
    }
    Ok(())
}

/// The pages that `want` touches, up to the page in which an object of `size` bytes ends.
pub(super) fn whole_pages(want: ObjectRange, size: u64) -> ObjectRange {
    let want = want.clamp_to(size);
    let start = want.start() / PAGE * PAGE;
    let end = want.end().checked_next_multiple_of(PAGE).unwrap_or(want.end() / PAGE * PAGE);
    if want.is_empty() { ObjectRange::at(start, 0) } else { ObjectRange::at(start, end - start) }
}

/// Reads whole pages; what lies beyond the object's end is zero.
fn read(content: &Content, at: u64, pages: &mut [u8]) -> io::Result<()> {
    let there = usize::try_from(content.size() - at).unwrap_or(usize::MAX).min(pages.len());
    let (inside, beyond) = pages.split_at_mut(there);
    beyond.fill(0);
    match content.read_present(at, inside)? {
        true => Ok(()),
        false => Err(io::Error::other("a byte of it is not here")),
    }
}

/// Writes whole pages. A short write goes on at the page in which it ended.
fn write(pages: &[u8], at: u64, object: BorrowedFd<'_>) -> io::Result<()> {
    let mut done = 0;
    while done < pages.len() {
        let offset = at + u64::try_from(done).map_err(io::Error::other)?;
        let written = rustix::io::retry_on_intr(|| rustix::io::pwrite(object, &pages[done..], offset))?;
        let whole = written / size_of::<Page>() * size_of::<Page>();
        if whole == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        done += whole.min(pages.len() - done);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn pages_are_whole_and_end_with_the_object() {
        let pages = |start, len, size| {
            let pages = whole_pages(ObjectRange::at(start, len), size);
            (pages.start(), pages.len())
        };
        for (want, size, expected) in [
            ((0, 4096), 8192, (0, 4096)),
            ((1, 1), 8192, (0, 4096)),
            ((4095, 2), 8192, (0, 8192)),
            ((0, 8192), 5000, (0, 8192)),
            ((4096, 1 << 40), 5000, (4096, 4096)),
            ((8192, 4096), 5000, (0, 0)),
            ((0, 0), 8192, (0, 0)),
            ((u64::MAX - 1, 1), u64::MAX, (u64::MAX - 4095, 0)),
        ] {
            let (start, len) = pages(want.0, want.1, size);
            assert_eq!(len, expected.1, "{want:?} of {size}");
            assert!(len == 0 || start == expected.0, "{want:?} of {size}");
        }
    }

    #[test]
    fn an_object_gets_the_files_bytes_at_their_place_and_zeros_behind_them() {
        let truth: Vec<u8> = (0..(PIECE_PAGES * 4096 + 700)).map(|n| (n % 251).to_le_bytes()[0]).collect();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("truth"), &truth).unwrap();
        let content = Content::of_file(File::open(dir.path().join("truth")).unwrap()).unwrap();
        let object = File::create_new(dir.path().join("object")).unwrap();
        copy(&content, ObjectRange::at(4096, u64::MAX / 2), object.as_fd()).unwrap();
        let found = std::fs::read(dir.path().join("object")).unwrap();
        assert_eq!(found.len(), truth.len().next_multiple_of(4096));
        assert!(found[..4096].iter().all(|byte| *byte == 0), "not asked for");
        assert_eq!(found[4096..truth.len()], truth[4096..]);
        assert!(found[truth.len()..].iter().all(|byte| *byte == 0));
    }
}
